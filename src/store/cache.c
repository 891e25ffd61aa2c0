/* SPDX-License-Identifier: Apache-2.0
 * The answer cache in memory: a hash table with a list from the most to the least recently used. A class is purged by
 * counting it up: its entries are misses from then on and leave as they are met or grow old, so that a purge costs the
 * loop nothing. */
#include "store/cache_internal.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

/* One answer may take this share of the cache; beyond, it is not kept: one answer is not worth all others. */
#define LARGEST_SHARE 8
/* Classes told apart: tasks times tolerances. What comes after shares the last one, so it is purged too often at worst. */
#define CLASSES 64
#define CLASS_BYTES 64

typedef struct entry {
    sp_cache_key key;
    struct entry *chain;        /* of its bucket */
    struct entry *newer, *older;
    int64_t expires_ns;
    uint32_t class_index, class_generation;
    size_t size_bytes;
    uint8_t value[];
} entry;

struct sp_cache {
    uint64_t limit_bytes, bytes;
    int64_t ttl_ns;
    entry **buckets;
    size_t bucket_count; /* a power of two, fixed: growing would hold the loop for milliseconds */
    entry *newest, *oldest;
    struct {
        char tag[CLASS_BYTES];
        uint32_t generation;
    } classes[CLASSES];
    uint32_t class_count;
    cache_redis *redis;
};

sp_status sp_cache_open(sp_loop *loop, const sp_cache_config *config, sp_cache **ret_cache, sp_error *reterr)
{
    sp_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the answer cache");
    cache->limit_bytes = config->memory_bytes;
    cache->ttl_ns = config->ttl_s > 0 ? config->ttl_s * SP_NS_PER_S : INT64_MAX / 2;
    /* One for each 2 KiB, about an answer's size; untouched ones cost address space only. */
    for (cache->bucket_count = 1024; cache->bucket_count < config->memory_bytes / 2048 && cache->bucket_count < 1u << 20;)
        cache->bucket_count *= 2;
    cache->buckets = calloc(cache->bucket_count, sizeof(*cache->buckets));
    sp_status s = cache->buckets ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the answer cache");
    if (!s && config->redis[0])
        s = cache_redis_open(loop, config, &cache->redis, reterr);
    if (s) {
        sp_cache_close(cache);
        return s;
    }
    *ret_cache = cache;
    return SP_OK;
}

void sp_cache_close(sp_cache *cache)
{
    if (!cache)
        return;
    cache_redis_close(cache->redis); /* its last replies come now */
    for (entry *e = cache->newest, *older; e; e = older) {
        older = e->older;
        free(e);
    }
    free(cache->buckets);
    free(cache);
}

/* SHA-256 is spread evenly already. */
static entry **bucket_of(sp_cache *cache, const sp_cache_key *key)
{
    uint64_t bits;
    memcpy(&bits, key->sha256, sizeof(bits));
    return &cache->buckets[bits & (cache->bucket_count - 1)];
}

static entry **find(sp_cache *cache, const sp_cache_key *key)
{
    entry **at = bucket_of(cache, key);
    while (*at && memcmp(&(*at)->key, key, sizeof(*key)) != 0)
        at = &(*at)->chain;
    return at;
}

static uint64_t cost_of(size_t value_bytes)
{
    return sizeof(entry) + value_bytes + 16; /* what malloc and the bucket take */
}

static void list_remove(sp_cache *cache, entry *e)
{
    *(e->newer ? &e->newer->older : &cache->newest) = e->older;
    *(e->older ? &e->older->newer : &cache->oldest) = e->newer;
}

static void list_add_newest(sp_cache *cache, entry *e)
{
    e->newer = NULL;
    e->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = e;
    cache->newest = e;
}

static void drop(sp_cache *cache, entry **at)
{
    entry *e = *at;
    *at = e->chain;
    list_remove(cache, e);
    cache->bytes -= cost_of(e->size_bytes);
    free(e);
}

static uint32_t class_of(sp_cache *cache, const char *tag)
{
    for (uint32_t i = 0; i < cache->class_count; i++) {
        if (strcmp(cache->classes[i].tag, tag) == 0)
            return i;
    }
    if (cache->class_count == CLASSES || strlen(tag) >= CLASS_BYTES)
        return CLASSES - 1;
    memcpy(cache->classes[cache->class_count].tag, tag, strlen(tag) + 1);
    return cache->class_count++;
}

static bool is_stale(const sp_cache *cache, const entry *e, int64_t now_ns)
{
    return e->expires_ns <= now_ns || cache->classes[e->class_index].generation != e->class_generation;
}

bool sp_cache_look(sp_cache *cache, const sp_cache_key *key, int64_t now_ns, sp_view *ret_value)
{
    entry **at = find(cache, key), *e = *at;
    if (!e)
        return false;
    if (is_stale(cache, e, now_ns)) {
        drop(cache, at);
        return false;
    }
    list_remove(cache, e);
    list_add_newest(cache, e);
    *ret_value = sp_view_make(e->value, e->size_bytes);
    return true;
}

static void put_in_memory(sp_cache *cache, const sp_cache_key *key, const char *class_tag, sp_view value, int64_t now_ns)
{
    uint64_t cost = cost_of(value.size_bytes);
    if (value.size_bytes > cache->limit_bytes || cost > cache->limit_bytes / LARGEST_SHARE)
        return;
    entry *e = malloc(sizeof(*e) + value.size_bytes);
    if (!e)
        return; /* a cache may forget */
    uint32_t class_index = class_of(cache, class_tag);
    *e = (entry){ .key = *key, .expires_ns = now_ns + cache->ttl_ns, .class_index = class_index,
                  .class_generation = cache->classes[class_index].generation, .size_bytes = value.size_bytes };
    if (value.size_bytes)
        memcpy(e->value, value.data, value.size_bytes);
    entry **at = find(cache, key);
    if (*at)
        drop(cache, at);
    while (cache->bytes + cost > cache->limit_bytes && cache->oldest)
        drop(cache, find(cache, &cache->oldest->key));
    at = bucket_of(cache, key);
    e->chain = *at;
    *at = e;
    list_add_newest(cache, e);
    cache->bytes += cost;
}

void sp_cache_put(sp_cache *cache, const sp_cache_key *key, const char *class_tag, sp_view value, int64_t now_ns)
{
    if (cache->redis) /* first: the value may be a view of an entry that leaves below */
        cache_redis_put(cache->redis, key, class_tag, value);
    put_in_memory(cache, key, class_tag, value, now_ns);
}

void sp_cache_remove(sp_cache *cache, const sp_cache_key *key)
{
    entry **at = find(cache, key);
    if (*at)
        drop(cache, at);
    if (cache->redis)
        cache_redis_remove(cache->redis, key);
}

void sp_cache_purge(sp_cache *cache, const char *class_tag)
{
    cache->classes[class_of(cache, class_tag)].generation++;
    if (cache->redis)
        cache_redis_purge(cache->redis, class_tag);
}

uint64_t sp_cache_bytes(const sp_cache *cache)
{
    return cache->bytes;
}

bool sp_cache_ask(sp_cache *cache, const sp_cache_key *key, sp_cache_reply_fn *reply, void *context)
{
    return cache->redis && cache_redis_ask(cache->redis, key, reply, context);
}

bool sp_cache_count(sp_cache *cache, const char *name, int64_t window_s, int64_t amount, sp_cache_count_fn *reply, void *context)
{
    return cache->redis && cache_redis_count(cache->redis, name, window_s, amount, reply, context);
}
