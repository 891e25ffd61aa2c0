/* SPDX-License-Identifier: Apache-2.0
 * What is large in Redis: bodies and reports in pieces of 256 KiB (a string of Redis ends at 512 MB, and one long command would
 * keep all others waiting), parts as a list, and the agreement of several servers on one job. */
#include "store/jobs_redis.h"

#include "base/clock.h"
#include "store/directory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECES_PER_STEP (JOBS_STEP_BYTES / SP_JOBS_PIECE_BYTES)

/* --- pieces ------------------------------------------------------------------------------------------------------ */

static sp_status put_piece(jobs_store *store, const char *key, uint64_t number, sp_view bytes, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char field[24];
    (void)snprintf(field, sizeof(field), "%" PRIu64, number);
    sp_view words[] = { sp_view_of("HSET"), sp_view_of(key), sp_view_of(field), bytes };
    return sp_redis_call(&store->redis, SP_ARRAY_LEN(words), words, &reply, reterr);
}

static sp_status put_count(jobs_store *store, const char *key, uint64_t count, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char text[24];
    (void)snprintf(text, sizeof(text), "%" PRIu64, count);
    return sp_redis_say(&store->redis, &reply, reterr, "HSET", key, "n", text, NULL);
}

static sp_status let_expire(jobs_store *store, const char *key, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    return sp_redis_say(&store->redis, &reply, reterr, "EXPIRE", key, BODY_ORPHAN_S, NULL);
}

sp_status jobs_redis_copy_out(jobs_store *store, jobs_op *op, const char *kind, sp_error *reterr)
{
    uint64_t count = (op->file.size_bytes + SP_JOBS_PIECE_BYTES - 1) / SP_JOBS_PIECE_BYTES;
    uint8_t *piece = malloc(SP_JOBS_PIECE_BYTES);
    sp_status s = piece ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for a piece of a job's file");
    if (!op->key[0])
        (void)snprintf(op->key, sizeof(op->key), PREFIX "%s:%s:%016" PRIx64, kind, op->job.id, ++store->nonce);
    uint64_t from = op->step * PIECES_PER_STEP, to = SP_MIN(from + PIECES_PER_STEP, count);
    for (uint64_t i = from; !s && i < to; i++) {
        uint64_t at = i * SP_JOBS_PIECE_BYTES;
        size_t size = (size_t)SP_MIN(op->file.size_bytes - at, (uint64_t)SP_JOBS_PIECE_BYTES);
        s = jobs_read_at(op->file.fd, at, piece, size, reterr);
        if (!s)
            s = put_piece(store, op->key, i, sp_view_make(piece, size), reterr);
        if (!s && i == 0)
            s = let_expire(store, op->key, reterr);
    }
    free(piece);
    if (!s && to == count)
        s = put_count(store, op->key, count, reterr);
    op->again = !s && to < count;
    return s;
}

static sp_status get_field(jobs_store *store, const char *key, const char *field, redisReply **ret_reply, sp_error *reterr)
{
    sp_status s = sp_redis_say(&store->redis, ret_reply, reterr, "HGET", key, field, NULL);
    if (!s && (*ret_reply)->type != REDIS_REPLY_STRING)
        s = SP_FAIL(reterr, SP_NOT_FOUND, "the body of a job is gone");
    return s;
}

static sp_status get_piece(jobs_store *store, jobs_op *op, uint64_t number, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char field[24];
    (void)snprintf(field, sizeof(field), "%" PRIu64, number);
    sp_status s = get_field(store, op->key, field, &reply, reterr);
    if (s)
        return s;
    const char *at = reply->str;
    for (size_t left = (size_t)reply->len; left;) {
        ssize_t n = write(op->body_fd, at, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot copy a job's body to disk");
        at += n;
        left -= (size_t)n;
    }
    return SP_OK;
}

sp_status jobs_redis_copy_in(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_status s = get_field(store, op->key, "n", &reply, reterr);
    uint64_t count = s ? 0 : strtoull(reply->str, NULL, 10);
    if (!s && op->body_fd < 0)
        s = sp_store_directory_file(store->data_dir, NULL, &op->body_fd, reterr);
    uint64_t to = SP_MIN(op->from + PIECES_PER_STEP, count);
    for (; !s && op->from < to; op->from++)
        s = get_piece(store, op, op->from, reterr);
    op->again = !s && op->from < count;
    if (!s && !op->again && lseek(op->body_fd, 0, SEEK_SET) < 0)
        s = SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot read a job's body");
    return s;
}

/* --- calls ------------------------------------------------------------------------------------------------------- */

/* Runs it; *ret_word is good until *ret_reply is freed. A job that is none or lost is a status. */
static sp_status run_worded(jobs_store *store, jobs_op *op, const jobs_redis_args *args, redisReply **ret_reply, sp_view *ret_word,
                            sp_error *reterr)
{
    sp_status s = jobs_redis_run_script(store, args, ret_reply, reterr);
    *ret_word = s ? sp_view_of("") : sp_redis_text(jobs_redis_element(*ret_reply, 0));
    if (!s && sp_view_equals(*ret_word, "none"))
        s = SP_FAIL(reterr, SP_NOT_FOUND, "there is no such job");
    if (!s && sp_view_equals(*ret_word, "lost"))
        s = SP_FAIL_CODE(reterr, SP_CONFLICT, "claim_lost", "job %s is no longer this claim's, or not running", op->job.id);
    return s;
}

static sp_status body(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char key[160] = "";
    sp_view word;
    jobs_redis_args args;
    if (op->key[0])
        return jobs_redis_copy_in(store, op, reterr);
    jobs_redis_args_begin(&args, "body");
    jobs_redis_arg_text(&args, op->job.id);
    sp_status s = run_worded(store, op, &args, &reply, &word, reterr);
    if (!s)
        s = jobs_redis_read_answer(store, op, reply, &word, key, reterr);
    return s || !key[0] ? s : jobs_redis_read_body(store, op, key, reterr);
}

static sp_status part_put(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view word;
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "part_put");
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_number(&args, (int64_t)op->job.fence);
    jobs_redis_arg(&args, op->body);
    jobs_redis_arg_number(&args, SP_LIMIT_JOB_PARTS);
    sp_status s = run_worded(store, op, &args, &reply, &word, reterr);
    if (!s && sp_view_equals(word, "full"))
        s = SP_FAIL_CODE(reterr, SP_TOO_LARGE, "too_many_parts", "job %s has %u parts already", op->job.id, SP_LIMIT_JOB_PARTS);
    return s;
}

static sp_status parts_get(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    size_t before = op->body_out.size_bytes;
    char key[160];
    sp_status s = SP_OK;
    (void)snprintf(key, sizeof(key), PREFIX "parts:%s", op->job.id);
    while (!s && !op->again) {
        SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
        char number[24];
        (void)snprintf(number, sizeof(number), "%" PRIu64, op->next);
        s = sp_redis_say(&store->redis, &reply, reterr, "LINDEX", key, number, NULL);
        if (s || reply->type != REDIS_REPLY_STRING)
            break;
        s = jobs_bytes_append(&op->body_out, reply->str, (size_t)reply->len, reterr);
        op->next++;
        op->again = op->body_out.size_bytes - before >= JOBS_STEP_BYTES;
    }
    return s;
}

static sp_status report_put(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view word;
    jobs_redis_args args;
    sp_status s = jobs_redis_copy_out(store, op, "new-report", reterr);
    if (s || op->again)
        return s;
    jobs_redis_args_begin(&args, "report");
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_number(&args, (int64_t)op->job.fence);
    jobs_redis_arg_text(&args, op->key);
    s = run_worded(store, op, &args, &reply, &word, reterr);
    if (!s && !sp_view_equals(word, "ok"))
        s = SP_FAIL(reterr, SP_UNAVAILABLE, "Redis at %s lost the report while it was written", sp_redis_name(&store->redis));
    return s;
}

static sp_status report_read(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view word;
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "report_piece");
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_tenant(&args, op);
    jobs_redis_arg_number(&args, (int64_t)(op->from / SP_JOBS_PIECE_BYTES));
    sp_status s = run_worded(store, op, &args, &reply, &word, reterr);
    if (!s && !sp_view_equals(word, "ok"))
        s = SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_report", "job %s has left no report", op->job.id);
    if (s)
        return s;
    sp_view piece = sp_redis_text(jobs_redis_element(reply, 2));
    size_t skip = (size_t)(op->from % SP_JOBS_PIECE_BYTES);
    return skip < piece.size_bytes ? jobs_bytes_copy(&op->body_out, piece.data + skip, piece.size_bytes - skip, reterr) : SP_OK;
}

static sp_status share(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view word;
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "share");
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_number(&args, (int64_t)op->job.fence);
    jobs_redis_arg_number(&args, 3 * store->renew_ns / SP_NS_PER_MS);
    return run_worded(store, op, &args, &reply, &word, reterr);
}

static sp_status chunk_claim(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view word;
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "chunk_claim");
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_number(&args, (int64_t)op->from);
    jobs_redis_arg_text(&args, store->owner);
    jobs_redis_arg_number(&args, 3 * store->renew_ns / SP_NS_PER_MS);
    sp_status s = run_worded(store, op, &args, &reply, &word, reterr);
    if (!s && sp_view_equals(word, "taken"))
        s = SP_FAIL_CODE(reterr, SP_BUSY, "chunk_taken", "another server has chunk %llu", (unsigned long long)op->from);
    return s;
}

sp_status jobs_redis_bulk(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    jobs_redis_args args;
    switch (op->call) {
    case JOBS_BODY:
        return body(store, op, reterr);
    case JOBS_PART_PUT:
        return part_put(store, op, reterr);
    case JOBS_PARTS_GET:
        return parts_get(store, op, reterr);
    case JOBS_REPORT_PUT:
        return report_put(store, op, reterr);
    case JOBS_REPORT_READ:
        return report_read(store, op, reterr);
    case JOBS_SHARE:
        return share(store, op, reterr);
    case JOBS_SHARED:
        jobs_redis_args_begin(&args, "shared");
        jobs_redis_arg_number(&args, op->limit);
        return jobs_redis_run_several(store, op, &args, reterr);
    case JOBS_CHUNK_CLAIM:
        return chunk_claim(store, op, reterr);
    default:
        return SP_FAIL(reterr, SP_INTERNAL, "unknown call %d on jobs", (int)op->call);
    }
}
