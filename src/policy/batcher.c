/* SPDX-License-Identifier: Apache-2.0
 * One model's queue (policy/batcher.h). The walk below is the whole policy: waiting requests in the order in which they
 * should run, gathered until the next one does not fit. How many wait is bounded by the server's slots, so walks are cheap
 * and nothing is remembered from one to the next. */
#include "policy/batcher.h"

#include <stddef.h>

#define NEVER INT64_MAX

typedef struct walk {
    const sp_batcher *batcher;
    uint32_t level;
    bool late;
    sp_batcher_item *next;
} walk;

void sp_batcher_init(sp_batcher *batcher, const sp_batcher_settings *settings)
{
    *batcher = (sp_batcher){.settings = *settings};
    if (batcher->settings.most_rows < 1)
        batcher->settings.most_rows = 1;
    if (batcher->settings.levels >= SP_BATCHER_LEVELS)
        batcher->settings.levels = SP_BATCHER_LEVELS - 1;
    if (batcher->settings.default_level < 1 || batcher->settings.default_level > batcher->settings.levels)
        batcher->settings.default_level = batcher->settings.levels ? 1 : 0;
}

static int32_t rows_of(const sp_batcher_item *item)
{
    return item->rows > 0 ? item->rows : 1;
}

static int64_t later(int64_t now_ns, int64_t by_ns)
{
    return by_ns >= NEVER - now_ns ? NEVER : now_ns + by_ns;
}

/* --- lists -------------------------------------------------------------------------------------------------------- */

static void append(sp_batcher_item **first, sp_batcher_item **last, sp_batcher_item *item)
{
    item->next = NULL;
    item->previous = *last;
    if (*last)
        (*last)->next = item;
    else
        *first = item;
    *last = item;
}

static void unlink_item(sp_batcher_item **first, sp_batcher_item **last, sp_batcher_item *item)
{
    if (item->previous)
        item->previous->next = item->next;
    else
        *first = item->next;
    if (item->next)
        item->next->previous = item->previous;
    else
        *last = item->previous;
    item->next = item->previous = NULL;
}

/* --- coming and going --------------------------------------------------------------------------------------------- */

/* Triton gives what names no level the default one. */
static uint32_t level_of(const sp_batcher *batcher, const sp_batcher_item *item)
{
    const sp_batcher_settings *s = &batcher->settings;

    return item->priority >= 1 && item->priority <= s->levels ? item->priority : s->default_level;
}

/* The request's own time-out may only shorten the level's. */
static int64_t timeout_of(const sp_batcher_level *level, const sp_batcher_item *item)
{
    if (level->timeout_override && item->timeout_ns > 0 &&
        (level->timeout_ns <= 0 || item->timeout_ns < level->timeout_ns))
        return item->timeout_ns;
    return level->timeout_ns;
}

sp_batcher_verdict sp_batcher_add(sp_batcher *batcher, sp_batcher_item *item, int64_t now_ns)
{
    uint32_t number = level_of(batcher, item);
    const sp_batcher_level *level = &batcher->settings.level[number];

    if (rows_of(item) > batcher->settings.most_rows)
        return SP_BATCHER_TOO_LARGE;
    if (level->most && batcher->levels[number].count >= level->most)
        return SP_BATCHER_FULL;

    int64_t timeout_ns = timeout_of(level, item);
    item->level = number;
    item->late = false;
    item->queued_ns = now_ns;
    item->expires_ns = timeout_ns > 0 ? later(now_ns, timeout_ns) : NEVER;
    item->number = batcher->arrivals++;
    append(&batcher->levels[number].first, &batcher->levels[number].last, item);
    batcher->levels[number].count++;
    batcher->waiting++;
    batcher->waiting_rows += rows_of(item);
    batcher->expiring += item->expires_ns != NEVER;
    return SP_BATCHER_QUEUED;
}

void sp_batcher_remove(sp_batcher *batcher, sp_batcher_item *item)
{
    uint32_t number = item->level;

    if (item->late)
        unlink_item(&batcher->levels[number].late_first, &batcher->levels[number].late_last, item);
    else
        unlink_item(&batcher->levels[number].first, &batcher->levels[number].last, item);
    batcher->levels[number].count--;
    batcher->waiting--;
    batcher->waiting_rows -= rows_of(item);
    batcher->expiring -= item->expires_ns != NEVER;
}

/* --- time-outs ---------------------------------------------------------------------------------------------------- */

/* A late one has no time-out any more: it runs when nobody of its level or of one above it waits. */
static void make_late(sp_batcher *batcher, sp_batcher_item *item)
{
    unlink_item(&batcher->levels[item->level].first, &batcher->levels[item->level].last, item);
    append(&batcher->levels[item->level].late_first, &batcher->levels[item->level].late_last, item);
    item->late = true;
    item->expires_ns = NEVER;
    batcher->expiring--;
}

int sp_batcher_expire(sp_batcher *batcher, int64_t now_ns, sp_batcher_item **ret_rejected, int capacity,
                      int64_t *ret_due_ns)
{
    int count = 0;
    int64_t due_ns = NEVER;

    for (uint32_t l = 0; batcher->expiring && l <= batcher->settings.levels; l++) {
        for (sp_batcher_item *item = batcher->levels[l].first, *next; item; item = next) {
            next = item->next;
            if (item->expires_ns > now_ns) {
                due_ns = item->expires_ns < due_ns ? item->expires_ns : due_ns;
            } else if (batcher->settings.level[l].delay) {
                make_late(batcher, item);
            } else if (count < capacity) {
                sp_batcher_remove(batcher, item);
                ret_rejected[count++] = item;
            } else {
                due_ns = now_ns; /* no room to hand it out: at once again */
            }
        }
    }
    *ret_due_ns = due_ns;
    return count;
}

/* --- the walk ----------------------------------------------------------------------------------------------------- */

static sp_batcher_item *walk_next(walk *w)
{
    sp_batcher_item *item = w->next;

    while (!item) {
        if (!w->late) {
            w->late = true;
        } else {
            w->late = false;
            w->level++;
        }
        if (w->level > w->batcher->settings.levels)
            return NULL;
        item = w->late ? w->batcher->levels[w->level].late_first : w->batcher->levels[w->level].first;
    }
    w->next = item->next;
    return item;
}

static bool preferred(const sp_batcher_settings *s, int32_t rows)
{
    for (int i = 0; i < s->preferred_count; i++)
        if (s->preferred[i] == rows)
            return true;
    return s->preferred_count == 0 && rows == s->most_rows;
}

static int32_t largest_preferred(const sp_batcher_settings *s)
{
    int32_t largest = 0;

    for (int i = 0; i < s->preferred_count; i++)
        largest = s->preferred[i] > largest ? s->preferred[i] : largest;
    return s->preferred_count ? largest : s->most_rows;
}

/* What the walk found: `count` items that can go together, of which the first `best` make a preferred size. */
typedef struct gathered {
    int count, best;
    int32_t rows;
    int64_t oldest_ns;
    bool shut; /* the next one does not fit: it will not grow by waiting */
} gathered;

static gathered gather(const sp_batcher *batcher, sp_batcher_item **ret_items, int capacity)
{
    const sp_batcher_settings *s = &batcher->settings;
    int32_t aim = largest_preferred(s);
    walk w = {.batcher = batcher, .next = batcher->levels[0].first};
    gathered g = {.oldest_ns = NEVER};

    for (sp_batcher_item *item; (item = walk_next(&w));) {
        if (g.count > 0) {
            const sp_batcher_item *head = ret_items[0];

            if (g.rows + rows_of(item) > aim && !g.best)
                g.best = g.count; /* no preferred size can be met any more */
            if (g.count == capacity || !s->batches || head->alone || item->alone || item->shape != head->shape ||
                g.rows + rows_of(item) > s->most_rows) {
                g.shut = true;
                break;
            }
        }
        ret_items[g.count++] = item;
        g.rows += rows_of(item);
        g.oldest_ns = item->queued_ns < g.oldest_ns ? item->queued_ns : g.oldest_ns;
        if (preferred(s, g.rows))
            g.best = g.count;
    }
    if (g.count > 0 && (!s->batches || ret_items[0]->alone || g.count == capacity))
        g.shut = true;
    return g;
}

int sp_batcher_next(sp_batcher *batcher, int64_t now_ns, sp_batcher_item **ret_items, int capacity,
                    sp_batcher_item **ret_rejected, int *ret_rejected_count, int64_t *ret_due_ns)
{
    const sp_batcher_settings *s = &batcher->settings;
    int64_t due_ns;

    *ret_rejected_count = sp_batcher_expire(batcher, now_ns, ret_rejected, capacity, &due_ns);
    *ret_due_ns = due_ns;
    if (due_ns <= now_ns || capacity < 1)
        return 0;

    gathered g = gather(batcher, ret_items, capacity);
    if (g.count == 0)
        return 0;

    int64_t until_ns = s->batches ? later(g.oldest_ns, s->delay_ns) : g.oldest_ns;
    bool overdue = s->delay_ns > 0 && until_ns <= now_ns;
    int count = g.count;
    if (g.best && !overdue)
        count = g.best;
    else if (!g.shut && g.rows < largest_preferred(s) && until_ns > now_ns) {
        *ret_due_ns = until_ns < due_ns ? until_ns : due_ns;
        return 0;
    }

    for (int i = 0; i < count; i++)
        sp_batcher_remove(batcher, ret_items[i]);
    *ret_due_ns = now_ns;
    return count;
}
