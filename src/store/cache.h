/* SPDX-License-Identifier: Apache-2.0
 * The answer cache: bytes by key, in memory (least recently used, bounded by bytes) and behind it, when configured, in
 * Redis (shared). What it holds and under which key is the gateway's to say. */
#ifndef SP_STORE_CACHE_H
#define SP_STORE_CACHE_H

#include "base/loop.h"
#include "base/view.h"
#include "config/config.h"

typedef struct sp_cache sp_cache;
typedef struct sp_cache_key {
    uint8_t sha256[32];
} sp_cache_key;

/* class_tag names a group that can be purged at once ("classify/fp32"). */
sp_status sp_cache_open(sp_loop *loop, const sp_cache_config *config, sp_cache **ret_cache, sp_error *reterr);
void sp_cache_close(sp_cache *cache);

/* From memory; the view is good until the next call on the cache. */
bool sp_cache_look(sp_cache *cache, const sp_cache_key *key, int64_t now_ns, sp_view *ret_value);

/* From Redis: `reply` comes on the loop's thread, empty when it is not there or Redis is down (its breaker is open, it
 * took over 50 ms). false = there is no Redis or it is not worth asking: no reply comes. */
typedef void sp_cache_reply_fn(sp_view value, void *context);
bool sp_cache_ask(sp_cache *cache, const sp_cache_key *key, sp_cache_reply_fn *reply, void *context);

void sp_cache_put(sp_cache *cache, const sp_cache_key *key, const char *class_tag, sp_view value, int64_t now_ns);
void sp_cache_remove(sp_cache *cache, const sp_cache_key *key);
void sp_cache_purge(sp_cache *cache, const char *class_tag); /* memory and Redis */
uint64_t sp_cache_bytes(const sp_cache *cache);

/* Counters that several servers share (quotas of tokens and remote keys): adds `amount` to `name`'s count of this window
 * and tells the new sum; false = no Redis, count locally. */
typedef void sp_cache_count_fn(int64_t sum, bool known, void *context);
bool sp_cache_count(sp_cache *cache, const char *name, int64_t window_s, int64_t amount, sp_cache_count_fn *reply, void *context);

#endif
