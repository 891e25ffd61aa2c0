/* SPDX-License-Identifier: Apache-2.0
 * Inside of the Redis jobs: the store's struct, one run of the script, and copies in pieces. */
#ifndef SP_STORE_JOBS_REDIS_H
#define SP_STORE_JOBS_REDIS_H

#include "store/jobs_internal.h"
#include "store/redis.h"

#define PREFIX "spillway:jobs:"
/* A body that no job came to name (the server died in between) goes by itself. */
#define BODY_ORPHAN_S "3600"
#define JOBS_REDIS_ARGS 80

struct jobs_store {
    const sp_jobs_config *config;
    const char *data_dir; /* bodies that are copied out of Redis lie there, without a name */
    int64_t renew_ns;
    atomic_int *depth;
    char owner[64];
    sp_redis redis;
    sp_redis_script script;
    sp_durability durability; /* as the last greeting found it */
    uint64_t nonce;
};

typedef struct jobs_redis_args {
    sp_view words[JOBS_REDIS_ARGS];
    int count;
    char numbers[JOBS_REDIS_ARGS][24]; /* of the words that are numbers */
} jobs_redis_args;

void jobs_redis_args_begin(jobs_redis_args *args, const char *call);
void jobs_redis_arg(jobs_redis_args *args, sp_view word);
void jobs_redis_arg_text(jobs_redis_args *args, const char *text);
void jobs_redis_arg_number(jobs_redis_args *args, int64_t number);
void jobs_redis_arg_tenant(jobs_redis_args *args, const jobs_op *op);

const redisReply *jobs_redis_element(const redisReply *reply, size_t i);
sp_status jobs_redis_run_script(jobs_store *store, const jobs_redis_args *args, redisReply **ret_reply, sp_error *reterr);
sp_status jobs_redis_read_answer(jobs_store *store, jobs_op *op, const redisReply *reply, sp_view *ret_word, char *ret_body,
                                 sp_error *reterr);
/* A job that is not there or not ours becomes its status. */
sp_status jobs_redis_run_simple(jobs_store *store, jobs_op *op, const jobs_redis_args *args, sp_error *reterr);
sp_status jobs_redis_run_several(jobs_store *store, jobs_op *op, const jobs_redis_args *args, sp_error *reterr);
sp_status jobs_redis_read_body(jobs_store *store, jobs_op *op, const char *key, sp_error *reterr);

/* jobs_redis_bulk.c */
sp_status jobs_redis_bulk(jobs_store *store, jobs_op *op, sp_error *reterr);
/* One step of op->file into a hash of pieces (its key: op->key), or of the hash at op->key into op->body_fd; op->again = there
 * is more. copy_in: SP_NOT_FOUND when a piece is gone. */
sp_status jobs_redis_copy_out(jobs_store *store, jobs_op *op, const char *kind, sp_error *reterr);
sp_status jobs_redis_copy_in(jobs_store *store, jobs_op *op, sp_error *reterr);

#endif
