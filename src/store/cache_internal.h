/* SPDX-License-Identifier: Apache-2.0
 * Between cache.c (memory, the loop's side) and cache_redis.c (its own thread). */
#ifndef SP_STORE_CACHE_INTERNAL_H
#define SP_STORE_CACHE_INTERNAL_H

#include "store/cache.h"

/* From a question to its answer, all in all: what takes longer is not worth waiting for, the answer is computed. */
#define CACHE_REDIS_MS 50

typedef struct cache_redis cache_redis;
sp_status cache_redis_open(sp_loop *loop, const sp_cache_config *config, cache_redis **ret_redis, sp_error *reterr);
void cache_redis_close(cache_redis *redis);
bool cache_redis_ask(cache_redis *redis, const sp_cache_key *key, sp_cache_reply_fn *reply, void *context);
void cache_redis_put(cache_redis *redis, const sp_cache_key *key, const char *class_tag, sp_view value);
void cache_redis_remove(cache_redis *redis, const sp_cache_key *key);
void cache_redis_purge(cache_redis *redis, const char *class_tag);
bool cache_redis_count(cache_redis *redis, const char *name, int64_t window_s, int64_t amount, sp_cache_count_fn *reply,
                       void *context);

#endif
