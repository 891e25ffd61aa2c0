/* SPDX-License-Identifier: Apache-2.0
 * The axis tables of one sp_cuda_prep, on the device: made by kernels/axis.h on the host when a size comes for the first time,
 * uploaded from a pinned mirror, kept until the ring they lie in comes round. Oldest out first: a table that is in steady use
 * is made again once a turn (hundreds of new sizes), which costs less than keeping a list of uses would.
 *
 *   mirror (pinned)  | fixed | table | table | ......free...... | table |     the same offsets on the device
 *   positions count all bytes ever laid out; a table is there while head - position <= capacity */
#ifndef SP_KERNELS_CUDA_PREP_TABLES_H
#define SP_KERNELS_CUDA_PREP_TABLES_H

#include "kernels/axis.h"
#include "kernels/cuda/prep_job.h"

/* The longest tables (8192 outputs, or a 65500 long side) are 1.4 MB. */
#define SP_PREP_TABLES_BYTES (8u << 20)
#define SP_PREP_TABLES_SEGMENTS 8u /* of the mirror; each is written again only when its uploads have passed */
#define SP_PREP_TABLES_INDEX 1024u
#define SP_PREP_KEEP_NOTHING UINT64_MAX

typedef struct sp_prep_tables sp_prep_tables;

typedef struct sp_prep_table {
    sp_axis_params params;
    bool down;                 /* by blocks of four source rows, else by quads of taps */
    uint64_t position;
    uint32_t at, digits;       /* offsets on the device */
    int quads;                 /* most quads (blocks) that an output has */
    int src_first, src_end;
    const sp_prep_pair *pairs; /* the mirror's, while the table is there */
} sp_prep_table;

/* `fixed`: bytes that are uploaded with the first table and stay, at offset 0. SP_NOMEM. */
sp_status sp_prep_tables_new(sp_cuda *cuda, const void *fixed, size_t fixed_bytes, sp_prep_tables **ret_tables, sp_error *reterr);
void sp_prep_tables_free(sp_prep_tables *tables);
const uint8_t *sp_prep_tables_device(const sp_prep_tables *tables);

/* The fixed part, uploaded on `stream` if it is not there; failures as below. */
sp_status sp_prep_tables_warm(sp_prep_tables *tables, cudaStream_t stream, sp_error *reterr);

/* The table, uploaded on `stream` if it is new. *ret_found = false: it would overwrite what lies at position `keep` or later;
 * then nothing has changed. SP_NOMEM, SP_UNAVAILABLE; SP_UNSUPPORTED, code "not_warm": it is new and the stream is capturing.
 * May wait for uploads of a turn of the ring ago. */
sp_status sp_prep_tables_get(sp_prep_tables *tables, cudaStream_t stream, const sp_axis_params *params, bool down, uint64_t keep,
                             sp_prep_table *ret_table, bool *ret_found, sp_error *reterr);

#endif
