/* SPDX-License-Identifier: Apache-2.0
 * Tables by size: a ring on the device with a pinned mirror, see prep_tables.h. */
#include "kernels/cuda/prep_tables.h"

#include "kernels/cuda/device.h"

#include <stdlib.h>
#include <string.h>

#define SEGMENT_BYTES (SP_PREP_TABLES_BYTES / SP_PREP_TABLES_SEGMENTS)
#define NEVER UINT64_MAX

struct sp_prep_tables {
    sp_cuda *cuda;
    uint8_t *device, *mirror;
    size_t fixed_bytes;           /* in front of the ring */
    bool fixed_there;
    uint64_t head;                /* bytes of the ring laid out so far */
    cudaEvent_t passed[SP_PREP_TABLES_SEGMENTS]; /* the last upload of that part of the ring */
    bool pending[SP_PREP_TABLES_SEGMENTS];
    void *spare;                  /* sp_axis_fill's memory; grows */
    size_t spare_bytes;
    sp_prep_table index[SP_PREP_TABLES_INDEX]; /* by hash; a table that is pushed out of its place is made again */
};

static sp_status set_up(sp_prep_tables *tables, const void *fixed, size_t fixed_bytes, sp_error *reterr)
{
    size_t bytes = fixed_bytes + SP_PREP_TABLES_BYTES;
    sp_status s = sp_cuda_reserve(tables->cuda, bytes, (void **)&tables->device, reterr);
    if (!s)
        s = sp_cuda_pinned_new(tables->cuda, bytes, (void **)&tables->mirror, reterr);
    for (unsigned i = 0; !s && i < SP_PREP_TABLES_SEGMENTS; i++)
        s = sp_cuda_check(cudaEventCreateWithFlags(&tables->passed[i], cudaEventDisableTiming), "cudaEventCreate", reterr);
    if (s)
        return s;
    memcpy(tables->mirror, fixed, fixed_bytes);
    tables->fixed_bytes = fixed_bytes;
    for (unsigned i = 0; i < SP_PREP_TABLES_INDEX; i++)
        tables->index[i].position = NEVER;
    return SP_OK;
}

sp_status sp_prep_tables_new(sp_cuda *cuda, const void *fixed, size_t fixed_bytes, sp_prep_tables **ret_tables, sp_error *reterr)
{
    sp_prep_tables *tables = calloc(1, sizeof(*tables));
    if (!tables)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the tables of a pre-processing");
    tables->cuda = cuda;
    sp_status s = set_up(tables, fixed, fixed_bytes, reterr);
    if (s) {
        sp_prep_tables_free(tables);
        return s;
    }
    *ret_tables = tables;
    return SP_OK;
}

void sp_prep_tables_free(sp_prep_tables *tables)
{
    if (!tables)
        return;
    for (unsigned i = 0; i < SP_PREP_TABLES_SEGMENTS; i++) {
        if (tables->passed[i])
            (void)cudaEventDestroy(tables->passed[i]); /* nothing waits for it any more */
    }
    sp_cuda_release(tables->cuda, tables->device);
    sp_cuda_pinned_free(tables->cuda, tables->mirror);
    free(tables->spare);
    free(tables);
}

const uint8_t *sp_prep_tables_device(const sp_prep_tables *tables)
{
    return tables->device;
}

/* --- one table --- */

static bool same(const sp_axis_params *a, const sp_axis_params *b)
{
    return a->filter == b->filter && a->src_n == b->src_n && a->out_n == b->out_n && a->out_first == b->out_first && a->n == b->n;
}

static unsigned place_of(const sp_axis_params *params, bool down)
{
    uint64_t h = 0x9e3779b97f4a7c15u;
    const uint64_t words[] = { (uint64_t)params->filter * 2 + down, (uint64_t)params->src_n, (uint64_t)params->out_n,
                               (uint64_t)params->out_first, (uint64_t)params->n };
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++)
        h = (h ^ words[i]) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    return (unsigned)(h % SP_PREP_TABLES_INDEX);
}

static bool there(const sp_prep_tables *tables, const sp_prep_table *table)
{
    return table->position != NEVER && tables->head - table->position <= SP_PREP_TABLES_BYTES;
}

/* Puts weight `w` at place `tap` (0..3) of its word. */
static void put_digits(sp_prep_digits *digits, int tap, int32_t w)
{
    int32_t d0 = (int8_t)(w & 255), rest = (w - d0) / 256, d1 = (int8_t)(rest & 255), d2 = (rest - d1) / 256;
    SP_ASSERT(d2 >= -128 && d2 <= 127); /* a normalised coefficient is below 2 */
    digits->x |= (uint32_t)(uint8_t)d0 << (8 * tap);
    digits->y |= (uint32_t)(uint8_t)d1 << (8 * tap);
    digits->z |= (uint32_t)(uint8_t)d2 << (8 * tap);
}

/* The place of output i's first tap within its first word. */
static int lead_of(const sp_axis *axis, bool down, int i)
{
    return down ? (axis->first[i] - axis->src_first) & 3 : 0;
}

static int words_of(const sp_axis *axis, bool plain, bool down)
{
    int most = 0;
    for (int i = 0; !plain && i < axis->n; i++)
        most = SP_MAX(most, (lead_of(axis, down, i) + axis->count[i] + 3) / 4);
    return most;
}

/* `to`: pairs, then digits [quads][n], or [n][blocks]. */
static void lay_out(const sp_axis *axis, bool plain, bool down, int words, sp_prep_pair *pairs, sp_prep_digits *digits)
{
    memset(digits, 0, (size_t)axis->n * (size_t)words * sizeof(*digits));
    for (int i = 0; i < axis->n; i++) {
        pairs[i] = (sp_prep_pair){ axis->first[i], plain ? axis->weight[i] : axis->count[i] };
        const int32_t *weight = axis->weight + (size_t)i * (size_t)axis->stride;
        for (int tap = 0, lead = lead_of(axis, down, i); !plain && tap < axis->count[i]; tap++) {
            size_t word = (size_t)(lead + tap) / 4;
            size_t at = down ? (size_t)i * (size_t)words + word : word * (size_t)axis->n + (size_t)i;
            put_digits(digits + at, (lead + tap) & 3, weight[tap]);
        }
    }
}

static sp_status spare_for(sp_prep_tables *tables, size_t bytes, sp_error *reterr)
{
    if (bytes <= tables->spare_bytes)
        return SP_OK;
    free(tables->spare);
    bytes = SP_ALIGN_UP(bytes + bytes / 2, (size_t)4096);
    tables->spare = aligned_alloc(64, bytes);
    tables->spare_bytes = tables->spare ? bytes : 0;
    return tables->spare ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of resampling tables", bytes);
}

/* --- the ring --- */

/* The next `bytes` of the ring in one piece; *ret_head is the head then. */
static uint64_t piece_of(const sp_prep_tables *tables, size_t bytes, uint64_t *ret_head)
{
    uint64_t position = tables->head, at = position % SP_PREP_TABLES_BYTES;
    if (at + bytes > SP_PREP_TABLES_BYTES)
        position += SP_PREP_TABLES_BYTES - at;
    *ret_head = position + bytes;
    return position;
}

static sp_status wait_for_mirror(sp_prep_tables *tables, size_t at, size_t bytes, sp_error *reterr)
{
    for (size_t i = at / SEGMENT_BYTES; i <= (at + bytes - 1) / SEGMENT_BYTES; i++) {
        if (!tables->pending[i])
            continue;
        sp_status s = sp_cuda_check(cudaEventSynchronize(tables->passed[i]), "cudaEventSynchronize", reterr);
        if (s)
            return s;
        tables->pending[i] = false;
    }
    return SP_OK;
}

static sp_status refuse_while_capturing(cudaStream_t stream, sp_error *reterr)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    sp_status s = sp_cuda_check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing", reterr);
    if (!s && status != cudaStreamCaptureStatusNone)
        s = SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "not_warm", "pictures of this size were not pre-processed before the capture");
    return s;
}

/* Nobody writes the mirror's fixed part again. */
sp_status sp_prep_tables_warm(sp_prep_tables *tables, cudaStream_t stream, sp_error *reterr)
{
    if (tables->fixed_there)
        return SP_OK;
    sp_status s = refuse_while_capturing(stream, reterr);
    if (!s)
        s = sp_cuda_check(cudaMemcpyAsync(tables->device, tables->mirror, tables->fixed_bytes, cudaMemcpyHostToDevice, stream),
                          "cudaMemcpyAsync", reterr);
    tables->fixed_there = s == SP_OK;
    return s;
}

static sp_status upload(sp_prep_tables *tables, cudaStream_t stream, size_t at, size_t bytes, sp_error *reterr)
{
    uint8_t *to = tables->device + tables->fixed_bytes + at, *from = tables->mirror + tables->fixed_bytes + at;
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream);
    if (error)
        return sp_cuda_check(error, "cudaMemcpyAsync", reterr);
    for (size_t i = at / SEGMENT_BYTES; !error && i <= (at + bytes - 1) / SEGMENT_BYTES; i++) {
        error = cudaEventRecord(tables->passed[i], stream);
        tables->pending[i] = true;
    }
    return sp_cuda_check(error, "cudaEventRecord", reterr);
}

sp_status sp_prep_tables_get(sp_prep_tables *tables, cudaStream_t stream, const sp_axis_params *params, bool down, uint64_t keep,
                             sp_prep_table *ret_table, bool *ret_found, sp_error *reterr)
{
    sp_prep_table *slot = &tables->index[place_of(params, down)];
    *ret_found = true;
    if (there(tables, slot) && slot->down == down && same(&slot->params, params)) {
        *ret_table = *slot;
        return SP_OK;
    }
    sp_status s = refuse_while_capturing(stream, reterr);
    if (!s)
        s = sp_prep_tables_warm(tables, stream, reterr);
    if (!s)
        s = spare_for(tables, sp_axis_bytes(params), reterr);
    if (s)
        return s;
    sp_axis axis;
    bool plain = params->filter == SP_FILTER_PLAIN;
    sp_axis_fill(params, tables->spare, &axis);
    int words = words_of(&axis, plain, down);
    size_t pair_bytes = SP_ALIGN_UP((size_t)axis.n * sizeof(sp_prep_pair), (size_t)16);
    size_t bytes = SP_ALIGN_UP(pair_bytes + (size_t)axis.n * (size_t)words * sizeof(sp_prep_digits), (size_t)256);
    uint64_t head, position = piece_of(tables, bytes, &head);
    if (keep != SP_PREP_KEEP_NOTHING && head - keep > SP_PREP_TABLES_BYTES) {
        *ret_found = false;
        return SP_OK;
    }
    size_t at = (size_t)(position % SP_PREP_TABLES_BYTES);
    s = wait_for_mirror(tables, at, bytes, reterr);
    if (s)
        return s;
    tables->head = head; /* what lay there is gone from now on, whatever happens */
    uint8_t *mirror = tables->mirror + tables->fixed_bytes + at;
    sp_prep_pair *pairs = (sp_prep_pair *)(void *)mirror;
    lay_out(&axis, plain, down, words, pairs, (sp_prep_digits *)(void *)(mirror + pair_bytes));
    s = upload(tables, stream, at, bytes, reterr);
    if (s)
        return s;
    uint32_t offset = (uint32_t)(tables->fixed_bytes + at);
    *slot = (sp_prep_table){ .params = *params, .down = down, .position = position, .at = offset, .digits = offset + (uint32_t)pair_bytes,
                             .quads = words, .src_first = axis.src_first, .src_end = axis.src_end, .pairs = pairs };
    *ret_table = *slot;
    return SP_OK;
}
