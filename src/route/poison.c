/* SPDX-License-Identifier: Apache-2.0
 * Which bodies killed workers. Keyed by content, so queued copies share suspicion; the oldest entry makes room. */
#include "base/clock.h"
#include "route/internal.h"

#include <string.h>
#include <xxhash.h>

#define DEATHS_TO_POISON 2

/* A body that goes with a video begins with its order, in less than this; an index and results of up to hundreds of megabytes
 * follow, which the loop has no time to hash. */
#define VIDEO_ORDER_BYTES ((size_t)512)

static sp_poison_entry *find(sp_poison *poison, uint64_t hash)
{
    for (int i = 0; i < poison->count; i++) {
        if (poison->entries[i].hash == hash)
            return &poison->entries[i];
    }
    return NULL;
}

static void drop(sp_poison *poison, sp_poison_entry *entry)
{
    *entry = poison->entries[--poison->count];
}

static bool stale(const sp_poison_entry *entry, int64_t now_ns)
{
    int64_t end_ns = entry->refused_until_ns ? entry->refused_until_ns
                                             : entry->touched_ns + SP_LIMIT_POISON_MS * SP_NS_PER_MS;
    return now_ns >= end_ns;
}

sp_poison_verdict sp_poison_look(sp_poison *poison, uint64_t hash, int64_t now_ns)
{
    sp_poison_entry *entry = find(poison, hash);
    if (!entry)
        return SP_POISON_CLEAN;
    if (stale(entry, now_ns)) {
        drop(poison, entry);
        return SP_POISON_CLEAN;
    }
    return entry->refused_until_ns ? SP_POISON_REFUSED : SP_POISON_SUSPECT;
}

sp_poison_verdict sp_poison_death(sp_poison *poison, uint64_t hash, uint64_t death, int64_t now_ns)
{
    sp_poison_entry *entry = find(poison, hash);
    if (!entry) {
        if (poison->count == SP_LIMIT_POISON_ENTRIES) {
            sp_poison_entry *oldest = &poison->entries[0];
            for (int i = 1; i < poison->count; i++) {
                if (poison->entries[i].touched_ns < oldest->touched_ns)
                    oldest = &poison->entries[i];
            }
            drop(poison, oldest);
        }
        entry = &poison->entries[poison->count++];
        *entry = (sp_poison_entry){ .hash = hash };
    }
    entry->touched_ns = now_ns;
    if (entry->last_death == death)
        return entry->refused_until_ns ? SP_POISON_REFUSED : SP_POISON_SUSPECT;
    entry->last_death = death;
    if (++entry->deaths >= DEATHS_TO_POISON)
        entry->refused_until_ns = now_ns + SP_LIMIT_POISON_MS * SP_NS_PER_MS;
    return entry->refused_until_ns ? SP_POISON_REFUSED : SP_POISON_SUSPECT;
}

void sp_poison_clear(sp_poison *poison, uint64_t hash)
{
    sp_poison_entry *entry = find(poison, hash);
    if (entry && !entry->refused_until_ns)
        drop(poison, entry);
}

/* Content, not identity: queued copies of one crasher share their suspicion. */
uint64_t sp_poison_hash(sp_request *request)
{
    if (!request->hashed) {
        const sp_slot_request *shared = request->shared;
        size_t bytes = shared->payload_bytes;
        if (request->media_fd >= 0) /* the file is what matters; of the body the order, which says which chunk of it, and how */
            bytes = SP_MIN(bytes, VIDEO_ORDER_BYTES);
        request->body_hash = XXH3_64bits(request->body + shared->payload_offset, bytes);
        if (request->media_fd >= 0)
            request->body_hash ^= XXH3_64bits(request->media_key, sizeof(request->media_key));
        request->hashed = true;
    }
    uint64_t key = request->body_hash ^ (uint64_t)request->op * 0x9E3779B97F4A7C15u;
    if (request->op == SP_OP_INFER || request->op == SP_OP_DETECT)
        return key ^ (uint64_t)request->head->model * 0xD6E8FEB86659FD93u;
    return request->op == SP_OP_CLASSIFY ? key ^ XXH3_64bits(request->answer.model, strlen(request->answer.model)) : key;
}
