/* SPDX-License-Identifier: Apache-2.0
 * What the files of src/serving share; private to this room. serving.c owns struct sp_serving (models, versions, loads) and
 * keeps one sp_serving_parts in it for the other files: regions, settings, sequences, calls. Loop thread only. */
#ifndef SP_SERVING_PARTS_H
#define SP_SERVING_PARTS_H

#include "serving/serving.h"

/* Regions that clients may have registered at once: each holds a descriptor. Beyond: SP_BUSY. */
#define SP_LIMIT_REGIONS 256
/* Sequences that are remembered at once; beyond, the one that was idle longest is forgotten. */
#define SP_LIMIT_SEQUENCES 16384
/* Models with trace settings of their own. */
#define SP_LIMIT_TRACE_MODELS 256
/* Copies and hashes larger than this are made on the store thread: the loop may take 100 us. */
#define SP_SERVING_INLINE_BYTES (256u * 1024)
#define SP_SERVING_HASH_INLINE_BYTES (64u * 1024)
/* Pieces of work that may wait for the store thread: every open call has at most one. */
#define SP_SERVING_STORE_QUEUE (2 * SP_LIMIT_SLOTS)

typedef struct sp_serving_parts sp_serving_parts;
typedef struct sp_region sp_region;
typedef struct sp_sequences sp_sequences;
typedef struct sp_settings sp_settings;

struct sp_serving_parts {
    sp_loop *loop;
    sp_house *house;
    sp_cache *cache;        /* NULL = none */
    sp_store_thread *store; /* made when the first large copy comes */
    bool shared_memory_anywhere;
    sp_region *regions;
    int region_count;
    sp_sequences *sequences;
    sp_settings *settings;
    int course_count, courses_at_once; /* requests in spread ensembles; those on their way */
    uint8_t *room;          /* of a tensor that is being read from JSON */
    size_t room_bytes;
};

/* serving.c calls these from sp_serving_new and sp_serving_free (no call is open then). free: NULL is fine. */
sp_status sp_serving_parts_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving_parts **ret_parts,
                               sp_error *reterr);
void sp_serving_parts_free(sp_serving_parts *parts);

/* serving.c has them: */
sp_serving_parts *sp_serving_parts_of(const sp_serving *serving);
/* The loaded version with the house's number `id`, for the steps of an ensemble's answer; NULL = it is gone. */
sp_served *sp_serving_by_id(sp_serving *serving, uint32_t id);
/* Of a spread ensemble: its plan, and the loaded version that a step runs (NULL = it is gone). */
const struct sp_ensemble_plan *sp_serving_plan(const sp_served *served);
sp_served *sp_serving_step(sp_serving *serving, const sp_served *served, int step);

/* parts.c */
sp_status sp_serving_store(sp_serving_parts *parts, sp_store_work *work, sp_error *reterr);

/* shared.c: a region in use by a call outlives its unregistration. */
sp_status sp_region_find(sp_serving_parts *parts, const char *name, uint64_t offset, uint64_t bytes, sp_region **ret_region,
                         sp_error *reterr); /* one more reference */
void sp_region_unref(sp_region *region);    /* NULL is fine */
const char *sp_region_name(const sp_region *region);
/* Any thread. SP_INVALID: the client has made it shorter meanwhile. */
sp_status sp_region_read(const sp_region *region, uint64_t offset, void *dst, size_t bytes, sp_error *reterr);
sp_status sp_region_write(const sp_region *region, uint64_t offset, const void *src, size_t bytes, sp_error *reterr);
void sp_regions_free(sp_serving_parts *parts);

/* check.c: what was asked, in Triton's terms, against the card. Fills `head` (zeroed) but for where shared inputs lie; its
 * input i is named->inputs[i], its wish i is for named->outputs[ret_outputs[i]] (-1: nothing was named, all are wanted).
 * `in_output`: the tensors lie in the output memfd from its start, else BINARY ones at binary_base of `body`. The strings of
 * BYTES tensors are looked through where they are few; the worker looks again. */
typedef struct sp_check {
    bool in_output, raw_only;
    uint64_t binary_base;
    sp_view body;
} sp_check;
sp_status sp_call_check(const sp_served *served, const sp_kserve_request *named, const sp_check *how, sp_infer_head *head,
                        int16_t ret_outputs[SP_INFER_PORTS], sp_error *reterr);
/* BYTES: `count` elements, each behind its length. */
sp_status sp_call_check_strings(const char *name, const char *model, const uint8_t *data, uint64_t bytes, uint64_t count,
                                sp_error *reterr);

/* stats.c: serving.c calls it once for a version that has just been loaded (name and version_text are set). */
void sp_served_stats_init(sp_served *served);
void sp_served_stats_success(sp_serving *serving, sp_served *served, const sp_answer *answer, uint32_t rows,
                             int64_t total_ns);
void sp_served_stats_hit(sp_served *served, int64_t total_ns, int64_t lookup_ns);
void sp_served_stats_failure(sp_served *served, sp_status status, int64_t total_ns);

/* settings.c */
sp_status sp_settings_new(sp_settings **ret_settings, sp_error *reterr);
void sp_settings_free(sp_settings *settings);

/* sequences.c: where the state of a client's sequence lives. One entry per model version and sequence id. */
typedef struct sp_sequence_key {
    uint32_t model;
    uint64_t id;
    char text[128]; /* "" = the id is a number */
} sp_sequence_key;
typedef enum sp_sequence_way {
    SP_SEQUENCE_GO,   /* *ret_pin says where; {0} = anywhere */
    SP_SEQUENCE_WAIT, /* its first request is not answered yet: sp_sequence_done will call `again` */
} sp_sequence_way;
typedef struct sp_sequence_waiter {
    void (*again)(struct sp_sequence_waiter *waiter); /* ask sp_sequence_begin again */
    struct sp_sequence_waiter *next, *previous;
    struct sp_sequence_entry *entry;
} sp_sequence_waiter;
sp_status sp_sequences_new(sp_loop *loop, sp_sequences **ret_sequences, sp_error *reterr);
void sp_sequences_free(sp_sequences *sequences);
sp_sequence_way sp_sequence_begin(sp_sequences *sequences, const sp_sequence_key *key, bool start, sp_sequence_waiter *waiter,
                                  sp_pin *ret_pin);
void sp_sequence_leave(sp_sequences *sequences, sp_sequence_waiter *waiter); /* it is not wanted any more; idle is fine */
/* A request of it is over. `lost`: its worker is gone. */
void sp_sequence_done(sp_sequences *sequences, const sp_sequence_key *key, bool start, bool end, bool ok, bool lost, sp_pin pin);

/* remember.c: answers of models with response_cache. */
sp_status sp_remember_key(const sp_served *served, const sp_infer_head *head, sp_view body, sp_cache_key *ret_key);
/* False: too large, or it cannot be kept. */
bool sp_remember_write(const sp_infer_answer *infer, const uint8_t *data, sp_buf *out);
bool sp_remember_read(sp_view value, sp_infer_answer *ret_infer, const uint8_t **ret_data);

#endif
