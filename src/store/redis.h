/* SPDX-License-Identifier: Apache-2.0
 * One connection to a Redis of one store thread: made when it is needed, each call bounded in time, under a breaker whose
 * growing pauses are the back-off of reconnecting. Error replies become statuses here. Knows no key.
 *
 * Fault points: `store.redis` before each call (the connection breaks), `store.redis.reply` after it (what was asked has
 * been done, the answer is lost). */
#ifndef SP_STORE_REDIS_H
#define SP_STORE_REDIS_H

#include "base/status.h"
#include "base/view.h"
#include "store/guarded.h"

#include <hiredis/hiredis.h>

typedef struct sp_redis {
    char host[160], user[64], password[160];
    int port, db;
    int64_t timeout_ns;  /* of one call */
    int64_t deadline_ns; /* of the calls that follow, if it is sooner; 0 = none */
    redisContext *context; /* NULL = not connected */
    sp_guarded guarded;
    bool greeting;
    /* After each connect, when set: looks whether this is a Redis that will do. */
    sp_status (*greet)(struct sp_redis *redis, void *context, sp_error *reterr);
    void *greet_context;
} sp_redis;

/* "redis://[user][:password@]host[:port][/db]"; `name` (a literal) is the breaker's. SP_INVALID says what is wrong with it; nothing is connected yet. */
sp_status sp_redis_init(sp_redis *redis, const char *name, const char *url, int64_t timeout_ns, sp_error *reterr);
void sp_redis_done(sp_redis *redis);
/* "host:port", for messages. Static storage of the thread. */
const char *sp_redis_name(const sp_redis *redis);

/* The reply is the caller's (freeReplyObject). SP_UNAVAILABLE: not reached, not in time, or Redis will not now (loading,
 * full, read-only); code "breaker_open" when it was not even tried. SP_INTERNAL: Redis says that we said something wrong. */
sp_status sp_redis_call(sp_redis *redis, int word_count, const sp_view *words, redisReply **ret_reply, sp_error *reterr);
/* The same with words that are text. Ends with NULL. */
sp_status sp_redis_say(sp_redis *redis, redisReply **ret_reply, sp_error *reterr, ...) __attribute__((sentinel));

/* A Lua script, known to Redis by its hash from its first call on. `words` are its ARGV. */
typedef struct sp_redis_script {
    const char *text;
    char sha1[41]; /* filled by the first call */
} sp_redis_script;
sp_status sp_redis_run(sp_redis *redis, sp_redis_script *script, int word_count, const sp_view *words, redisReply **ret_reply,
                       sp_error *reterr);

static inline void sp_redis_reply_freep(redisReply **reply)
{
    if (*reply)
        freeReplyObject(*reply);
    *reply = NULL;
}
static inline sp_view sp_redis_text(const redisReply *reply) /* of a string; else empty */
{
    bool text = reply && (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS);
    return text ? sp_view_make(reply->str, (size_t)reply->len) : sp_view_make("", 0);
}

#endif
