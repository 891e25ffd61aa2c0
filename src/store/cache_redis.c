/* SPDX-License-Identifier: Apache-2.0
 * The answer cache behind memory, and the counters that servers share, in Redis. A question is worth 50 ms in all, also
 * when Redis hangs: a timer on the loop answers it then, and what comes later is thrown away.
 *
 *   spillway:cache:HEX          "CLASS\nGENERATION\n" and the answer; its time to live is the cache's
 *   spillway:cache:class:CLASS  the class's generation: a purge counts it up, entries of an older one are misses
 *   spillway:count:NAME:WINDOW  a counter of one window, gone two windows later
 * Fault points are the connection's (store/redis.h). */
#include "store/cache_internal.h"

#include "base/clock.h"
#include "store/redis.h"
#include "store/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PREFIX "spillway:cache:"
#define QUEUE_WORKS 1024
#define CLASS_BYTES 64
#define VALUE_BYTES (256u * 1024) /* an answer has at most 72 KiB */

typedef enum cache_call { CACHE_GET, CACHE_PUT, CACHE_REMOVE, CACHE_PURGE, CACHE_COUNT } cache_call;

typedef struct cache_op {
    sp_store_work work; /* first */
    cache_redis *redis;
    cache_call call;
    char name[160]; /* the key */
    char class_tag[CLASS_BYTES];
    int64_t amount, window_s;
    int64_t deadline_ns;
    sp_cache_reply_fn *reply; /* NULL = answered already, or nobody waits */
    sp_cache_count_fn *count;
    void *context;
    bool waits; /* in the list below */
    struct cache_op *earlier, *later;
    uint8_t *value; /* put: asked; get: answered */
    size_t value_bytes;
    int64_t sum;
} cache_op;

struct cache_redis {
    sp_loop *loop;
    sp_store_thread *thread;
    sp_timer timer;
    cache_op *first, *last; /* questions that wait, by deadline */
    int64_t ttl_s;
    sp_redis connection; /* the thread's, as are the scripts */
    sp_redis_script get, put, count;
};

static const char get_text[] =
    "local v = redis.call('GET', ARGV[1])\n"
    "if not v then return false end\n"
    "local class, generation, at = string.match(v, '^([^\\n]*)\\n(%d+)\\n()')\n"
    "if not class or (redis.call('GET', ARGV[2] .. class) or '0') ~= generation then return false end\n"
    "return string.sub(v, at)";
static const char put_text[] =
    "local generation = redis.call('GET', ARGV[2] .. ARGV[3]) or '0'\n"
    "redis.call('SET', ARGV[1], ARGV[3] .. '\\n' .. generation .. '\\n' .. ARGV[4], 'EX', ARGV[5])\n"
    "return 1";
static const char count_text[] =
    "local sum = redis.call('INCRBY', ARGV[1], ARGV[2])\n"
    "redis.call('EXPIRE', ARGV[1], ARGV[3])\n"
    "return sum";

/* --- on the thread ----------------------------------------------------------------------------------------------- */

static sp_status run_get(cache_redis *redis, cache_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    sp_view words[] = { sp_view_of(op->name), sp_view_of(PREFIX "class:") };
    sp_status s = sp_redis_run(&redis->connection, &redis->get, SP_ARRAY_LEN(words), words, &reply, reterr);
    if (s || reply->type != REDIS_REPLY_STRING)
        return s;
    op->value = malloc((size_t)reply->len + 1);
    if (!op->value)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a cached answer");
    memcpy(op->value, reply->str, (size_t)reply->len);
    op->value_bytes = (size_t)reply->len;
    return SP_OK;
}

static sp_status run_put(cache_redis *redis, cache_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char ttl[24];
    (void)snprintf(ttl, sizeof(ttl), "%" PRId64, redis->ttl_s);
    sp_view words[] = { sp_view_of(op->name), sp_view_of(PREFIX "class:"), sp_view_of(op->class_tag),
                        sp_view_make(op->value, op->value_bytes), sp_view_of(ttl) };
    return sp_redis_run(&redis->connection, &redis->put, SP_ARRAY_LEN(words), words, &reply, reterr);
}

static sp_status run_count(cache_redis *redis, cache_op *op, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char amount[24], keep[24];
    (void)snprintf(amount, sizeof(amount), "%" PRId64, op->amount);
    (void)snprintf(keep, sizeof(keep), "%" PRId64, 2 * op->window_s);
    sp_view words[] = { sp_view_of(op->name), sp_view_of(amount), sp_view_of(keep) };
    sp_status s = sp_redis_run(&redis->connection, &redis->count, SP_ARRAY_LEN(words), words, &reply, reterr);
    if (s)
        return s;
    if (reply->type != REDIS_REPLY_INTEGER)
        return SP_FAIL(reterr, SP_INTERNAL, "Redis does not count");
    op->sum = reply->integer;
    return SP_OK;
}

static void run_op(sp_store_work *work)
{
    cache_op *op = (cache_op *)work;
    cache_redis *redis = op->redis;
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    if (sp_clock_now_ns() >= op->deadline_ns && op->call != CACHE_PURGE && op->call != CACHE_REMOVE) {
        work->status = SP_FAIL(&work->error, SP_TIMEOUT, "the queue to the shared cache took too long");
        return;
    }
    /* A purge and a removal must happen, so they get their own time. */
    int64_t least_ns = sp_clock_now_ns() + 5 * SP_NS_PER_MS;
    redis->connection.deadline_ns = SP_MAX(op->deadline_ns, least_ns);
    switch (op->call) {
    case CACHE_GET:
        work->status = run_get(redis, op, &work->error);
        break;
    case CACHE_PUT:
        work->status = run_put(redis, op, &work->error);
        break;
    case CACHE_COUNT:
        work->status = run_count(redis, op, &work->error);
        break;
    case CACHE_REMOVE:
        work->status = sp_redis_say(&redis->connection, &reply, &work->error, "DEL", op->name, NULL);
        break;
    case CACHE_PURGE:
        work->status = sp_redis_say(&redis->connection, &reply, &work->error, "INCR", op->name, NULL);
        break;
    }
}

/* --- on the loop ------------------------------------------------------------------------------------------------- */

static void wait_remove(cache_redis *redis, cache_op *op)
{
    if (!op->waits)
        return;
    op->waits = false;
    *(op->earlier ? &op->earlier->later : &redis->first) = op->later;
    *(op->later ? &op->later->earlier : &redis->last) = op->earlier;
}

/* Exactly once. */
static void answer(cache_op *op, bool ok)
{
    sp_cache_reply_fn *reply = op->reply;
    sp_cache_count_fn *count = op->count;
    op->reply = NULL;
    op->count = NULL;
    wait_remove(op->redis, op);
    if (reply)
        reply(ok ? sp_view_make(op->value, op->value_bytes) : (sp_view){ 0 }, op->context);
    if (count)
        count(op->sum, ok, op->context);
}

static void arm(cache_redis *redis)
{
    if (redis->first) /* when it cannot be set, the thread's own limits still hold */
        (void)sp_loop_timer_set(redis->loop, &redis->timer, redis->first->deadline_ns, NULL);
    else
        sp_loop_timer_clear(redis->loop, &redis->timer);
}

static void on_timer(sp_timer *timer, void *context)
{
    cache_redis *redis = context;
    (void)timer;
    while (redis->first && redis->first->deadline_ns <= sp_clock_now_ns())
        answer(redis->first, false);
    arm(redis);
}

static void done_op(sp_store_work *work)
{
    cache_op *op = (cache_op *)work;
    answer(op, work->status == SP_OK);
    if (!op->redis->first)
        arm(op->redis);
    free(op->value);
    free(op);
}

static cache_op *new_op(cache_redis *redis, cache_call call)
{
    cache_op *op = calloc(1, sizeof(*op));
    if (!op)
        return NULL;
    op->work.run = run_op;
    op->work.done = done_op;
    op->redis = redis;
    op->call = call;
    op->deadline_ns = sp_clock_now_ns() + CACHE_REDIS_MS * SP_NS_PER_MS;
    return op;
}

static void name_key(cache_op *op, const sp_cache_key *key)
{
    size_t n = (size_t)snprintf(op->name, sizeof(op->name), PREFIX);
    for (size_t i = 0; i < sizeof(key->sha256); i++)
        n += (size_t)snprintf(op->name + n, sizeof(op->name) - n, "%02x", key->sha256[i]);
}

/* A cache may forget: what does not fit into the queue is not done. */
static void submit_silently(cache_op *op)
{
    if (sp_store_submit(op->redis->thread, &op->work, NULL)) {
        free(op->value);
        free(op);
    }
}

/* One that somebody waits for. False: not taken, no answer comes. */
static bool submit_waiting(cache_op *op)
{
    cache_redis *redis = op->redis;
    if (sp_store_submit(redis->thread, &op->work, NULL)) {
        free(op);
        return false;
    }
    op->waits = true;
    op->earlier = redis->last;
    *(redis->last ? &redis->last->later : &redis->first) = op;
    redis->last = op;
    if (redis->first == op)
        arm(redis);
    return true;
}

bool cache_redis_ask(cache_redis *redis, const sp_cache_key *key, sp_cache_reply_fn *reply, void *context)
{
    cache_op *op = new_op(redis, CACHE_GET);
    if (!op)
        return false;
    name_key(op, key);
    op->reply = reply;
    op->context = context;
    return submit_waiting(op);
}

bool cache_redis_count(cache_redis *redis, const char *name, int64_t window_s, int64_t amount, sp_cache_count_fn *reply,
                       void *context)
{
    cache_op *op = window_s > 0 ? new_op(redis, CACHE_COUNT) : NULL;
    if (!op)
        return false;
    int64_t window = sp_clock_wall_ns() / SP_NS_PER_S / window_s;
    int n = snprintf(op->name, sizeof(op->name), "spillway:count:%s:%" PRId64, name, window);
    if (n < 0 || (size_t)n >= sizeof(op->name)) {
        free(op);
        return false;
    }
    op->window_s = window_s;
    op->amount = amount;
    op->count = reply;
    op->context = context;
    return submit_waiting(op);
}

void cache_redis_put(cache_redis *redis, const sp_cache_key *key, const char *class_tag, sp_view value)
{
    cache_op *op = value.size_bytes <= VALUE_BYTES && strlen(class_tag) < CLASS_BYTES && !strchr(class_tag, '\n') ?
                       new_op(redis, CACHE_PUT) : NULL;
    uint8_t *copy = op ? malloc(value.size_bytes + 1) : NULL;
    if (!copy) {
        free(op);
        return;
    }
    if (value.size_bytes)
        memcpy(copy, value.data, value.size_bytes);
    op->value = copy;
    op->value_bytes = value.size_bytes;
    name_key(op, key);
    (void)snprintf(op->class_tag, sizeof(op->class_tag), "%s", class_tag);
    submit_silently(op);
}

void cache_redis_remove(cache_redis *redis, const sp_cache_key *key)
{
    cache_op *op = new_op(redis, CACHE_REMOVE);
    if (!op)
        return;
    name_key(op, key);
    submit_silently(op);
}

void cache_redis_purge(cache_redis *redis, const char *class_tag)
{
    cache_op *op = new_op(redis, CACHE_PURGE);
    if (!op)
        return;
    (void)snprintf(op->name, sizeof(op->name), PREFIX "class:%.*s", CLASS_BYTES - 1, class_tag);
    submit_silently(op);
}

sp_status cache_redis_open(sp_loop *loop, const sp_cache_config *config, cache_redis **ret_redis, sp_error *reterr)
{
    cache_redis *redis = calloc(1, sizeof(*redis));
    if (!redis)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the shared cache");
    redis->loop = loop;
    redis->ttl_s = config->ttl_s > 0 ? config->ttl_s : 86400;
    redis->timer = (sp_timer){ .fire = on_timer, .context = redis };
    redis->get.text = get_text;
    redis->put.text = put_text;
    redis->count.text = count_text;
    sp_status s = sp_redis_init(&redis->connection, "cache", config->redis, CACHE_REDIS_MS * SP_NS_PER_MS, reterr);
    if (!s)
        s = sp_store_thread_new(loop, "cache", QUEUE_WORKS, NULL, NULL, &redis->thread, reterr);
    if (s) {
        cache_redis_close(redis);
        return s;
    }
    *ret_redis = redis;
    return SP_OK;
}

void cache_redis_close(cache_redis *redis)
{
    if (!redis)
        return;
    sp_store_thread_free(redis->thread);
    sp_loop_timer_clear(redis->loop, &redis->timer);
    sp_redis_done(&redis->connection);
    free(redis);
}
