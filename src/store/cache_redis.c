/* SPDX-License-Identifier: Apache-2.0
 * The answer cache behind memory, in Redis. */
#include "store/cache_internal.h"

sp_status cache_redis_open(sp_loop *loop, const sp_cache_config *config, cache_redis **ret_redis, sp_error *reterr)
{
    return SP_FAIL(reterr, SP_UNSUPPORTED, "a cache in Redis is not built in");
}
void cache_redis_close(cache_redis *redis)
{
}
bool cache_redis_ask(cache_redis *redis, const sp_cache_key *key, sp_cache_reply_fn *reply, void *context)
{
    return false;
}
void cache_redis_put(cache_redis *redis, const sp_cache_key *key, const char *class_tag, sp_view value)
{
}
void cache_redis_remove(cache_redis *redis, const sp_cache_key *key)
{
}
void cache_redis_purge(cache_redis *redis, const char *class_tag)
{
}
bool cache_redis_count(cache_redis *redis, const char *name, int64_t window_s, int64_t amount, sp_cache_count_fn *reply,
                       void *context)
{
    return false;
}
