/* SPDX-License-Identifier: Apache-2.0
 * Durable jobs in Redis, shared by any number of servers. What happens to a job is one run of jobs_redis.lua; here are the
 * connection's check (is it durable enough?), the arguments, and the answers. All runs on the store thread. */
#include "base/clock.h"
#include "jobs_redis_lua.h"
#include "store/bodies.h"
#include "store/jobs_redis.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CALL_NS (2000 * SP_NS_PER_MS)
#define LIST_LOOKS 2000  /* ids looked at by one list; a page may be short, with a cursor */
#define SWEEP_ROWS 200
#define CONSUMER_IDLE_MS 3600000

/* --- the arguments of one run ------------------------------------------------------------------------------------ */

void jobs_redis_arg(jobs_redis_args *args, sp_view word)
{
    SP_ASSERT(args->count < JOBS_REDIS_ARGS);
    args->words[args->count++] = word;
}

void jobs_redis_arg_text(jobs_redis_args *args, const char *text)
{
    jobs_redis_arg(args, sp_view_of(text));
}

void jobs_redis_arg_number(jobs_redis_args *args, int64_t number)
{
    char *text = args->numbers[args->count];
    (void)snprintf(text, sizeof(args->numbers[0]), "%" PRId64, number);
    jobs_redis_arg_text(args, text);
}

void jobs_redis_args_begin(jobs_redis_args *args, const char *call)
{
    args->count = 0;
    jobs_redis_arg_text(args, PREFIX);
    jobs_redis_arg_number(args, jobs_unix_ms());
    jobs_redis_arg_text(args, call);
}

void jobs_redis_arg_tenant(jobs_redis_args *args, const jobs_op *op)
{
    jobs_redis_arg_text(args, op->any_tenant ? "*" : op->job.tenant);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

const redisReply *jobs_redis_element(const redisReply *reply, size_t i)
{
    return reply->type == REDIS_REPLY_ARRAY && i < reply->elements ? reply->element[i] : NULL;
}

static void set_field(sp_job *job, sp_view name, sp_view value)
{
    for (int i = 0; i < JOBS_FIELDS; i++) {
        const jobs_field *field = &jobs_fields[i];
        if (!sp_view_equals(name, field->name))
            continue;
        if (field->kind == JOBS_TEXT)
            (void)snprintf(jobs_text(job, field), field->size_bytes, "%.*s", (int)value.size_bytes, (const char *)value.data);
        else if (field->kind == JOBS_SHA256)
            memcpy(job->request_sha256, value.data, SP_MIN(value.size_bytes, sizeof(job->request_sha256)));
        else
            jobs_set_number(job, field, strtoll((const char *)value.data, NULL, 10)); /* hiredis puts a NUL behind it */
    }
}

/* A hash as HGETALL gives it. *ret_body (160 bytes, may be NULL) = the key of its body. */
static sp_status read_job(jobs_op *op, const redisReply *hash, char *ret_body, sp_error *reterr)
{
    sp_job *job = jobs_found_add(op);
    if (!job)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a job");
    for (size_t i = 0; i + 1 < hash->elements; i += 2) {
        sp_view name = sp_redis_text(hash->element[i]), value = sp_redis_text(hash->element[i + 1]);
        set_field(job, name, value);
        if (ret_body && sp_view_equals(name, "body"))
            (void)snprintf(ret_body, 160, "%.*s", (int)value.size_bytes, (const char *)value.data);
    }
    return SP_OK;
}

/* {word, queued, job, result} into the operation. *ret_word is good until the reply is freed. */
sp_status jobs_redis_read_answer(jobs_store *store, jobs_op *op, const redisReply *reply, sp_view *ret_word, char *ret_body,
                             sp_error *reterr)
{
    const redisReply *queued = jobs_redis_element(reply, 1), *job = jobs_redis_element(reply, 2), *result = jobs_redis_element(reply, 3);
    *ret_word = sp_redis_text(jobs_redis_element(reply, 0));
    if (!queued || queued->type != REDIS_REPLY_INTEGER)
        return SP_FAIL(reterr, SP_INTERNAL, "Redis at %s answered something else than the script does", sp_redis_name(&store->redis));
    atomic_store(store->depth, (int)SP_CLAMP(queued->integer, 0, INT32_MAX));
    sp_status s = SP_OK;
    if (job && job->type == REDIS_REPLY_ARRAY)
        s = read_job(op, job, ret_body, reterr);
    if (!s && result && result->type == REDIS_REPLY_STRING)
        s = jobs_bytes_copy(&op->result_out, result->str, (size_t)result->len, reterr);
    return s;
}

sp_status jobs_redis_run_script(jobs_store *store, const jobs_redis_args *args, redisReply **ret_reply, sp_error *reterr)
{
    return sp_redis_run(&store->redis, &store->script, args->count, args->words, ret_reply, reterr);
}

/* Runs it; a job that is not there or not ours becomes its status. */
sp_status jobs_redis_run_simple(jobs_store *store, jobs_op *op, const jobs_redis_args *args, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view word;
    sp_status s = jobs_redis_run_script(store, args, &reply, reterr);
    if (!s)
        s = jobs_redis_read_answer(store, op, reply, &word, NULL, reterr);
    if (s)
        return s;
    if (sp_view_equals(word, "none"))
        return SP_FAIL(reterr, SP_NOT_FOUND, "there is no such job");
    if (sp_view_equals(word, "lost"))
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "claim_lost", "job %s is %s and no longer this claim's", op->job.id,
                            op->found_count ? sp_job_state_name(op->found[0].state) : "erased");
    return SP_OK;
}

/* {word, queued, cursor, job, job, ...} */
sp_status jobs_redis_run_several(jobs_store *store, jobs_op *op, const jobs_redis_args *args, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_status s = jobs_redis_run_script(store, args, &reply, reterr);
    if (s)
        return s;
    sp_view cursor = sp_redis_text(jobs_redis_element(reply, 2));
    (void)snprintf(op->next_cursor, sizeof(op->next_cursor), "%.*s", (int)cursor.size_bytes, (const char *)cursor.data);
    for (size_t i = 3; !s && jobs_redis_element(reply, i); i++)
        s = read_job(op, jobs_redis_element(reply, i), NULL, reterr);
    return s;
}

/* --- add --------------------------------------------------------------------------------------------------------- */

static void add_fields(jobs_redis_args *args, const sp_job *job)
{
    for (int i = 0; i < JOBS_FIELDS; i++) {
        const jobs_field *field = &jobs_fields[i];
        jobs_redis_arg_text(args, field->name);
        if (field->kind == JOBS_TEXT)
            jobs_redis_arg_text(args, jobs_text(job, field));
        else if (field->kind == JOBS_SHA256)
            jobs_redis_arg(args, sp_view_make(job->request_sha256, sizeof(job->request_sha256)));
        else
            jobs_redis_arg_number(args, jobs_number(job, field));
    }
}

static sp_status put_body(jobs_store *store, const char *key, sp_view body, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view words[] = { sp_view_of("SET"), sp_view_of(key), body, sp_view_of("EX"), sp_view_of(BODY_ORPHAN_S) };
    return sp_redis_call(&store->redis, SP_ARRAY_LEN(words), words, &reply, reterr);
}

static void drop_key(jobs_store *store, const char *key)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    if (key[0])
        (void)sp_redis_say(&store->redis, &reply, NULL, "DEL", key, NULL); /* it expires anyway */
}

static sp_status run_add(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char body[160] = "";
    sp_view word;
    jobs_redis_args args;
    if (!sp_body_name_is_safe(op->job.id))
        return SP_FAIL(reterr, SP_INVALID, "a job's id has letters, digits, - and _ only");
    op->job.state = SP_JOB_QUEUED;
    op->job.fence = 0;
    op->job.tries = 0;
    sp_status s = SP_OK;
    if (op->file.fd >= 0) {
        s = jobs_redis_copy_out(store, op, "pieces", reterr);
        (void)snprintf(body, sizeof(body), "%s", op->key);
    } else if (op->body.size_bytes) {
        (void)snprintf(body, sizeof(body), PREFIX "body:%s:%016" PRIx64, op->job.id, ++store->nonce);
        s = put_body(store, body, op->body, reterr);
    }
    if (s || op->again)
        return s;
    jobs_redis_args_begin(&args, "add");
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_text(&args, op->job.tenant);
    jobs_redis_arg_text(&args, op->job.idempotency_key);
    jobs_redis_arg(&args, sp_view_make(op->job.request_sha256, sizeof(op->job.request_sha256)));
    jobs_redis_arg_text(&args, op->job.priority > 0 ? "high" : op->job.priority < 0 ? "low" : "normal");
    jobs_redis_arg_text(&args, body);
    jobs_redis_arg_number(&args, op->job.expires_unix_ms);
    add_fields(&args, &op->job);
    s = jobs_redis_run_script(store, &args, &reply, reterr);
    if (!s)
        s = jobs_redis_read_answer(store, op, reply, &word, NULL, reterr);
    if (s || sp_view_equals(word, "ok"))
        return s;
    drop_key(store, body);
    if (sp_view_equals(word, "known")) {
        op->existed = true;
        return SP_OK;
    }
    if (sp_view_equals(word, "reused")) {
        s = SP_FAIL_CODE(reterr, SP_CONFLICT, "idempotency_key_reused",
                         "the idempotency key belongs to job %s, which was another request",
                         op->result_out.data ? (const char *)op->result_out.data : "?");
        op->result_out.size_bytes = 0; /* it was the id, no result */
        return s;
    }
    if (sp_view_equals(word, "taken"))
        return SP_FAIL(reterr, SP_CONFLICT, "there is a job %s already", op->job.id);
    return SP_FAIL(reterr, SP_UNAVAILABLE, "Redis at %s lost the body before its job was added", sp_redis_name(&store->redis));
}

/* --- claim ------------------------------------------------------------------------------------------------------- */

/* SP_NOT_FOUND: the key is gone. */
static sp_status read_body(jobs_store *store, jobs_op *op, const char *key, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_status s = sp_redis_say(&store->redis, &reply, reterr, "GET", key, NULL);
    if (s)
        return s;
    if (reply->type != REDIS_REPLY_STRING)
        return SP_FAIL(reterr, SP_NOT_FOUND, "the body of job %s is gone", op->found[0].id);
    return jobs_bytes_copy(&op->body_out, reply->str, (size_t)reply->len, reterr);
}

static void add_error(jobs_redis_args *args, const char *code, const char *why, char *text, size_t size_bytes)
{
    jobs_error_json(code, why, text, size_bytes);
    jobs_redis_arg_text(args, text);
}

static sp_status give_up_body(jobs_store *store, const sp_job *job, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char text[256];
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "body_lost");
    jobs_redis_arg_text(&args, job->id);
    jobs_redis_arg_number(&args, (int64_t)job->fence);
    add_error(&args, "body_lost", "the job's body is gone from Redis", text, sizeof(text));
    jobs_redis_arg_number(&args, store->config->ttl_s * 1000);
    return jobs_redis_run_script(store, &args, &reply, reterr);
}

static sp_status claim_one(jobs_store *store, jobs_op *op, char *ret_body, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char text[256];
    sp_view word;
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "claim");
    jobs_redis_arg_text(&args, store->owner);
    jobs_redis_arg_number(&args, 3 * store->renew_ns / SP_NS_PER_MS);
    jobs_redis_arg_number(&args, SP_LIMIT_JOB_OWNER_DEATHS);
    jobs_redis_arg_number(&args, store->config->ttl_s * 1000);
    add_error(&args, "owner_died", "the servers that worked on it died each time", text, sizeof(text));
    sp_status s = jobs_redis_run_script(store, &args, &reply, reterr);
    return s ? s : jobs_redis_read_answer(store, op, reply, &word, ret_body, reterr);
}

/* Lies at `key`, in one or in pieces. Leaves op->again when there is more to copy. */
sp_status jobs_redis_read_body(jobs_store *store, jobs_op *op, const char *key, sp_error *reterr)
{
    if (strncmp(key, PREFIX "pieces:", strlen(PREFIX "pieces:")) != 0)
        return read_body(store, op, key, reterr);
    if (key != op->key)
        (void)snprintf(op->key, sizeof(op->key), "%s", key);
    return jobs_redis_copy_in(store, op, reterr);
}

/* A copy of many pieces may take longer than a claim lasts. */
static sp_status keep_claim(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "renew");
    jobs_redis_arg_text(&args, op->found[0].id);
    jobs_redis_arg_number(&args, (int64_t)op->found[0].fence);
    jobs_redis_arg_number(&args, 0);
    jobs_redis_arg_text(&args, store->owner);
    return jobs_redis_run_script(store, &args, &reply, reterr);
}

static sp_status run_claim(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    for (;;) {
        char body[160] = "";
        sp_status s = SP_OK;
        if (op->key[0]) { /* claimed by an earlier step; its body is being copied */
            (void)snprintf(body, sizeof(body), "%s", op->key);
            s = keep_claim(store, op, reterr);
        } else {
            op->found_count = 0;
            s = claim_one(store, op, body, reterr);
        }
        if (s || !op->found_count || !body[0])
            return s;
        s = jobs_redis_read_body(store, op, body, reterr);
        if (s != SP_NOT_FOUND)
            return s; /* failed: the claim is not renewed, so it comes back by itself */
        s = give_up_body(store, &op->found[0], reterr);
        if (s)
            return s;
        op->key[0] = 0;
        op->from = 0;
        sp_fd_closep(&op->body_fd);
    }
}

/* --- the others -------------------------------------------------------------------------------------------------- */

static sp_status run_list(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "list");
    jobs_redis_arg_tenant(&args, op);
    jobs_redis_arg_number(&args, op->state);
    jobs_redis_arg_text(&args, op->job.task);
    jobs_redis_arg_text(&args, op->cursor);
    jobs_redis_arg_number(&args, op->limit);
    jobs_redis_arg_number(&args, LIST_LOOKS);
    return jobs_redis_run_several(store, op, &args, reterr);
}

static sp_status run_finish(jobs_store *store, jobs_op *op, jobs_redis_args *args, sp_error *reterr)
{
    jobs_redis_arg_number(args, op->job.state);
    jobs_redis_arg(args, sp_view_make(op->result_in.data, op->result_in.size_bytes));
    jobs_redis_arg_number(args, store->config->ttl_s * 1000);
    return jobs_redis_run_simple(store, op, args, reterr);
}

static sp_status run_release(jobs_store *store, jobs_op *op, jobs_redis_args *args, sp_error *reterr)
{
    char text[512];
    jobs_redis_arg_number(args, op->counts);
    jobs_redis_arg_text(args, op->why);
    add_error(args, "tries_exhausted", op->why, text, sizeof(text));
    jobs_redis_arg_number(args, store->config->tries);
    jobs_redis_arg_number(args, store->config->ttl_s * 1000);
    return jobs_redis_run_simple(store, op, args, reterr);
}

static sp_status run_sweep(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    char text[256];
    jobs_redis_args args;
    jobs_redis_args_begin(&args, "sweep");
    jobs_redis_arg_number(&args, SWEEP_ROWS);
    add_error(&args, "expired", "the job's time to live ended before it was run", text, sizeof(text));
    jobs_redis_arg_number(&args, store->config->ttl_s * 1000);
    jobs_redis_arg_number(&args, CONSUMER_IDLE_MS);
    return jobs_redis_run_simple(store, op, &args, reterr);
}

/* Calls about one claimed job begin alike: id, fence. */
static sp_status run_claimed(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    static const char *const names[] = { [JOBS_RENEW] = "renew", [JOBS_FINISH] = "finish", [JOBS_RELEASE] = "release" };
    jobs_redis_args args;
    jobs_redis_args_begin(&args, names[op->call]);
    jobs_redis_arg_text(&args, op->job.id);
    jobs_redis_arg_number(&args, (int64_t)op->job.fence);
    if (op->call == JOBS_FINISH)
        return run_finish(store, op, &args, reterr);
    if (op->call == JOBS_RELEASE)
        return run_release(store, op, &args, reterr);
    jobs_redis_arg_number(&args, op->job.progress_percent);
    jobs_redis_arg_text(&args, store->owner);
    return jobs_redis_run_simple(store, op, &args, reterr);
}

static sp_status run(jobs_store *store, jobs_op *op, sp_error *reterr)
{
    jobs_redis_args args;
    switch (op->call) {
    case JOBS_ADD:
        return run_add(store, op, reterr);
    case JOBS_CLAIM:
        return run_claim(store, op, reterr);
    case JOBS_LIST:
        return run_list(store, op, reterr);
    case JOBS_SWEEP:
        return run_sweep(store, op, reterr);
    case JOBS_RENEW:
    case JOBS_FINISH:
    case JOBS_RELEASE:
        return run_claimed(store, op, reterr);
    case JOBS_GET:
        jobs_redis_args_begin(&args, "get");
        jobs_redis_arg_text(&args, op->job.id);
        jobs_redis_arg_tenant(&args, op);
        return jobs_redis_run_simple(store, op, &args, reterr);
    case JOBS_DELETE:
        jobs_redis_args_begin(&args, "delete");
        jobs_redis_arg_text(&args, op->job.id);
        jobs_redis_arg_tenant(&args, op);
        jobs_redis_arg_number(&args, store->config->ttl_s * 1000);
        return jobs_redis_run_simple(store, op, &args, reterr);
    case JOBS_WEBHOOKS_DUE:
        jobs_redis_args_begin(&args, "webhooks_due");
        jobs_redis_arg_number(&args, op->limit);
        return jobs_redis_run_several(store, op, &args, reterr);
    case JOBS_WEBHOOK_DONE:
        jobs_redis_args_begin(&args, "webhook_done");
        jobs_redis_arg_text(&args, op->job.id);
        jobs_redis_arg_number(&args, op->delivered);
        jobs_redis_arg_number(&args, op->job.webhook_at_unix_ms);
        return jobs_redis_run_simple(store, op, &args, reterr);
    case JOBS_BODY:
    case JOBS_PART_PUT:
    case JOBS_PARTS_GET:
    case JOBS_REPORT_PUT:
    case JOBS_REPORT_READ:
    case JOBS_SHARE:
    case JOBS_SHARED:
    case JOBS_CHUNK_CLAIM:
        return jobs_redis_bulk(store, op, reterr);
    }
    return SP_FAIL(reterr, SP_INTERNAL, "unknown call %d on jobs", (int)op->call);
}

/* --- greeting: is this a Redis that will do? --------------------------------------------------------------------- */

/* CONFIG GET name -> its value; "" when Redis does not tell (a hosted one often does not). */
static sp_status read_setting(sp_redis *redis, const char *name, char *ret_value, size_t size_bytes, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    ret_value[0] = 0;
    sp_status s = sp_redis_say(redis, &reply, reterr, "CONFIG", "GET", name, NULL);
    if (s)
        return redis->context ? SP_OK : s; /* an error reply: not told */
    const redisReply *value = jobs_redis_element(reply, 1);
    (void)snprintf(ret_value, size_bytes, "%.*s", (int)sp_redis_text(value).size_bytes, (const char *)sp_redis_text(value).data);
    return SP_OK;
}

static sp_status check_version(sp_redis *redis, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    int major = 0, minor = 0;
    sp_status s = sp_redis_say(redis, &reply, reterr, "INFO", "server", NULL);
    if (s)
        return s;
    const char *at = reply->type == REDIS_REPLY_STRING ? strstr(reply->str, "redis_version:") : NULL;
    if (at && sscanf(at, "redis_version:%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 2)))
        return SP_OK;
    return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "redis_too_old", "Redis at %s is version %d.%d; jobs need 6.2 (XAUTOCLAIM)",
                        sp_redis_name(redis), major, minor);
}

static sp_status read_durability(sp_redis *redis, sp_durability *ret_durability, char *ret_why, size_t why_bytes, sp_error *reterr)
{
    char only[16], sync[16], rewrite[16], policy[32], memory[32];
    sp_status s = read_setting(redis, "appendonly", only, sizeof(only), reterr);
    if (!s)
        s = read_setting(redis, "appendfsync", sync, sizeof(sync), reterr);
    if (!s)
        s = read_setting(redis, "no-appendfsync-on-rewrite", rewrite, sizeof(rewrite), reterr);
    if (!s)
        s = read_setting(redis, "maxmemory-policy", policy, sizeof(policy), reterr);
    if (!s)
        s = read_setting(redis, "maxmemory", memory, sizeof(memory), reterr);
    if (s)
        return s;
    bool evicts = strcmp(memory, "0") != 0 && strncmp(policy, "allkeys", 7) == 0;
    bool pauses = strcmp(rewrite, "no") != 0;
    *ret_durability = SP_DURABILITY_MEMORY;
    if (strcmp(only, "yes") == 0 && !evicts && !pauses && strcmp(sync, "always") == 0)
        *ret_durability = SP_DURABILITY_AOF_ALWAYS;
    else if (strcmp(only, "yes") == 0 && !evicts && !pauses && strcmp(sync, "everysec") == 0)
        *ret_durability = SP_DURABILITY_AOF_EVERYSEC;
    (void)snprintf(ret_why, why_bytes, "appendonly %s, appendfsync %s%s%s", only[0] ? only : "unknown", sync[0] ? sync : "unknown",
                   pauses ? ", no-appendfsync-on-rewrite not no" : "", evicts ? ", maxmemory-policy evicts" : "");
    return SP_OK;
}

static sp_status make_groups(sp_redis *redis, sp_error *reterr)
{
    static const char *const streams[] = { PREFIX "queue:high", PREFIX "queue:normal", PREFIX "queue:low" };
    for (size_t i = 0; i < SP_ARRAY_LEN(streams); i++) {
        SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
        sp_error err = { 0 };
        sp_status s = sp_redis_say(redis, &reply, &err, "XGROUP", "CREATE", streams[i], "workers", "0", "MKSTREAM", NULL);
        if (s && !strstr(err.message, "BUSYGROUP")) {
            if (reterr)
                *reterr = err;
            return s;
        }
    }
    return SP_OK;
}

static sp_status greet(sp_redis *redis, void *context, sp_error *reterr)
{
    jobs_store *store = context;
    char why[160];
    sp_durability durability = SP_DURABILITY_MEMORY;
    sp_status s = check_version(redis, reterr);
    if (!s)
        s = read_durability(redis, &durability, why, sizeof(why), reterr);
    if (s)
        return s;
    store->durability = durability;
    if (durability < store->config->least)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "not_durable",
                            "Redis at %.60s keeps jobs only '%s' (%s); wanted: '%s'. Set appendonly yes and appendfsync always there,"
                            " or jobs.durability here", sp_redis_name(redis), sp_durability_name(durability), why,
                            sp_durability_name(store->config->least));
    return make_groups(redis, reterr);
}

/* --- open, close ------------------------------------------------------------------------------------------------- */

static void close_store(jobs_store *store)
{
    if (!store)
        return;
    sp_redis_done(&store->redis);
    free(store);
}

/* Reached and not good enough is an error that ends the start; not reached may pass by the time it is needed: until
 * then each call says SP_UNAVAILABLE, and what a 202 may promise is what is demanded at least. */
static sp_status first_look(jobs_store *store, sp_durability *ret_durability, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_error err = { 0 };
    sp_status s = sp_redis_say(&store->redis, &reply, &err, "GET", PREFIX "queued", NULL);
    *ret_durability = s ? store->config->least : store->durability;
    if (!s)
        atomic_store(store->depth, (int)SP_CLAMP(strtoll((const char *)sp_redis_text(reply).data, NULL, 10), 0, INT32_MAX));
    if (s && (strcmp(err.code, "not_durable") == 0 || strcmp(err.code, "redis_too_old") == 0)) {
        if (reterr)
            *reterr = err;
        return s;
    }
    return SP_OK;
}

sp_status jobs_redis_open(const jobs_settings *settings, jobs_store **ret_store, sp_durability *ret_durability, sp_error *reterr)
{
    jobs_store *store = calloc(1, sizeof(*store));
    if (!store)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the jobs' store");
    store->config = settings->config;
    store->renew_ns = settings->renew_ns;
    store->depth = settings->depth;
    store->data_dir = settings->data_dir;
    store->script.text = (const char *)sp_jobs_lua;
    store->nonce = (uint64_t)sp_clock_wall_ns() ^ (uint64_t)getpid() << 48; /* body keys of two servers never meet */
    (void)snprintf(store->owner, sizeof(store->owner), "%s", settings->owner);
    sp_status s = sp_redis_init(&store->redis, "jobs", settings->config->redis, CALL_NS, reterr);
    store->redis.greet = greet;
    store->redis.greet_context = store;
    if (!s)
        s = first_look(store, ret_durability, reterr);
    if (s) {
        close_store(store);
        return s;
    }
    *ret_store = store;
    return SP_OK;
}

const jobs_store_table jobs_redis_table = { .run = run, .close = close_store };
