/* SPDX-License-Identifier: Apache-2.0
 * policy/batcher.h: each rule by itself, then random days of it against a plain model of the same rules. */
#include "policy/batcher.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS INT64_C(1000000)
#define MOST 64

typedef struct rig {
    sp_batcher batcher;
    sp_batcher_item items[MOST];
    int count;
    char said[512]; /* of the last ask: "0 1 2", "! 3" rejected, "until 5" */
} rig;

static rig rig_make(sp_batcher_settings settings)
{
    rig r = {0};

    sp_batcher_init(&r.batcher, &settings);
    return r;
}

static sp_batcher_verdict add(rig *r, int64_t now_ns, sp_batcher_item item)
{
    r->items[r->count] = item;
    sp_batcher_verdict v = sp_batcher_add(&r->batcher, &r->items[r->count], now_ns);
    r->count++;
    return v;
}

static void add_rows(rig *r, int64_t now_ns, int32_t rows)
{
    CHECK_INT(add(r, now_ns, (sp_batcher_item){.rows = rows}), SP_BATCHER_QUEUED);
}

static const char *ask_some(rig *r, int64_t now_ns, int capacity)
{
    sp_batcher_item *items[MOST], *rejected[MOST];
    int rejected_count, length = 0;
    int64_t due_ns;
    int count = sp_batcher_next(&r->batcher, now_ns, items, capacity, rejected, &rejected_count, &due_ns);

    r->said[0] = '\0';
    for (int i = 0; i < count; i++)
        length += snprintf(r->said + length, sizeof(r->said) - (size_t)length, "%s%d", length ? " " : "",
                           (int)(items[i] - r->items));
    for (int i = 0; i < rejected_count; i++)
        length += snprintf(r->said + length, sizeof(r->said) - (size_t)length, "%s!%d", length ? " " : "",
                           (int)(rejected[i] - r->items));
    if (count == 0 && due_ns != INT64_MAX)
        snprintf(r->said + length, sizeof(r->said) - (size_t)length, "%suntil %lld", length ? " " : "",
                 (long long)(due_ns / MS));
    return r->said;
}

static const char *ask(rig *r, int64_t now_ns)
{
    return ask_some(r, now_ns, MOST);
}

TEST(without_dynamic_batching_each_goes_alone_and_in_turn)
{
    rig r = rig_make((sp_batcher_settings){.most_rows = 8, .delay_ns = 5 * MS});

    CHECK_TEXT(ask(&r, 0), "");
    for (int i = 0; i < 3; i++)
        add_rows(&r, 0, i + 1);
    CHECK_TEXT(ask(&r, 0), "0");
    CHECK_TEXT(ask(&r, 0), "1");
    CHECK_TEXT(ask(&r, 0), "2");
    CHECK_TEXT(ask(&r, 0), "");
    CHECK_INT(r.batcher.waiting, 0);
    CHECK_INT(r.batcher.waiting_rows, 0);
}

TEST(without_a_delay_whatever_waits_goes_at_once)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 8});

    add_rows(&r, 0, 1);
    CHECK_TEXT(ask(&r, 0), "0");
    for (int i = 0; i < 3; i++)
        add_rows(&r, 0, 3);
    CHECK_TEXT(ask(&r, 0), "1 2"); /* 9 rows are too many */
    CHECK_TEXT(ask(&r, 0), "3");
    add_rows(&r, 0, 0); /* counts as one */
    CHECK_INT(r.batcher.waiting_rows, 1);
    CHECK_INT(add(&r, 0, (sp_batcher_item){.rows = 9}), SP_BATCHER_TOO_LARGE);
    CHECK_TEXT(ask(&r, 0), "4");
}

TEST(a_delay_is_waited_for_unless_the_batch_is_full)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 4, .delay_ns = 10 * MS});

    add_rows(&r, 0, 1);
    CHECK_TEXT(ask(&r, 0), "until 10");
    add_rows(&r, 3 * MS, 1);
    CHECK_TEXT(ask(&r, 3 * MS), "until 10"); /* the oldest counts */
    CHECK_TEXT(ask(&r, 10 * MS), "0 1");
    for (int i = 0; i < 4; i++)
        add_rows(&r, 20 * MS, 1);
    CHECK_TEXT(ask(&r, 20 * MS), "2 3 4 5");
    add_rows(&r, 20 * MS, 3);
    add_rows(&r, 20 * MS, 2);
    CHECK_TEXT(ask(&r, 20 * MS), "6"); /* the next does not fit: waiting would not help */
    CHECK_TEXT(ask(&r, 29 * MS), "until 30");
    CHECK_TEXT(ask(&r, 31 * MS), "7");
}

TEST(preferred_sizes_go_at_once_and_others_by_age)
{
    sp_batcher_settings s = {.batches = true, .most_rows = 8, .delay_ns = 10 * MS, .preferred_count = 2, .preferred = {2, 4}};
    rig r = rig_make(s);

    add_rows(&r, 0, 1);
    CHECK_TEXT(ask(&r, 0), "until 10");
    add_rows(&r, 0, 1);
    add_rows(&r, 0, 1);
    CHECK_TEXT(ask(&r, 0), "0 1"); /* the best preferred one that can be made */
    CHECK_TEXT(ask(&r, 9 * MS), "until 10");
    for (int i = 0; i < 4; i++)
        add_rows(&r, 9 * MS, 1);
    CHECK_TEXT(ask(&r, 10 * MS), "2 3 4 5 6"); /* overdue: all that fits */

    r = rig_make(s);
    add_rows(&r, 0, 3); /* past 2, and 3 + 2 is past 4: no preferred size any more */
    CHECK_TEXT(ask(&r, 0), "until 10");
    add_rows(&r, 0, 2);
    CHECK_TEXT(ask(&r, 0), "0");
    CHECK_TEXT(ask(&r, 0), "1");
    add_rows(&r, 0, 6); /* larger than every preferred one */
    CHECK_TEXT(ask(&r, 0), "2");

    s.delay_ns = 0;
    r = rig_make(s);
    for (int i = 0; i < 7; i++)
        add_rows(&r, 0, 1);
    CHECK_TEXT(ask(&r, 0), "0 1 2 3");
    CHECK_TEXT(ask(&r, 0), "4 5");
    CHECK_TEXT(ask(&r, 0), "6"); /* without a delay nobody waits for company */
}

TEST(only_one_shape_runs_together)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 8, .delay_ns = 10 * MS});

    for (int i = 0; i < 5; i++)
        add(&r, 0, (sp_batcher_item){.rows = 1, .shape = i < 2 || i == 4 ? 7 : 9});
    CHECK_TEXT(ask(&r, 0), "0 1"); /* in turn: 4 does not overtake */
    CHECK_TEXT(ask(&r, 0), "2 3");
    CHECK_TEXT(ask(&r, 0), "until 10");
    CHECK_TEXT(ask(&r, 10 * MS), "4");
}

TEST(a_suspect_runs_alone)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 8, .delay_ns = 10 * MS});

    add(&r, 0, (sp_batcher_item){.rows = 1});
    add(&r, 0, (sp_batcher_item){.rows = 1, .alone = true});
    add(&r, 0, (sp_batcher_item){.rows = 1});
    CHECK_TEXT(ask(&r, 0), "0");
    CHECK_TEXT(ask(&r, 0), "1"); /* nobody to wait for */
    CHECK_TEXT(ask(&r, 0), "until 10");
}

TEST(higher_priorities_go_first_and_age_decides_within)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 2, .levels = 3, .default_level = 2});
    static const uint32_t priorities[] = {3, 0, 1, 2, 1, 99};

    for (int i = 0; i < 6; i++)
        add(&r, 0, (sp_batcher_item){.rows = 1, .priority = priorities[i]});
    CHECK_INT(r.items[1].level, 2);
    CHECK_INT(r.items[5].level, 2); /* no such level: the default one */
    CHECK_TEXT(ask(&r, 0), "2 4");
    CHECK_TEXT(ask(&r, 0), "1 3");
    CHECK_TEXT(ask(&r, 0), "5 0"); /* levels mix in a batch */
}

TEST(the_delay_counts_from_the_oldest_of_any_level)
{
    rig r = rig_make((sp_batcher_settings){
        .batches = true, .most_rows = 4, .levels = 2, .default_level = 1, .delay_ns = 10 * MS});

    add(&r, 0, (sp_batcher_item){.rows = 1, .priority = 2});
    add(&r, 5 * MS, (sp_batcher_item){.rows = 1, .priority = 1});
    CHECK_TEXT(ask(&r, 5 * MS), "until 10");
    CHECK_TEXT(ask(&r, 10 * MS), "1 0");
}

TEST(queues_have_an_end_for_each_level)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 1, .levels = 2, .default_level = 1,
                                           .level = {[1] = {.most = 2}}});

    CHECK_INT(add(&r, 0, (sp_batcher_item){.rows = 1}), SP_BATCHER_QUEUED);
    CHECK_INT(add(&r, 0, (sp_batcher_item){.rows = 1}), SP_BATCHER_QUEUED);
    CHECK_INT(add(&r, 0, (sp_batcher_item){.rows = 1}), SP_BATCHER_FULL);
    CHECK_INT(add(&r, 0, (sp_batcher_item){.rows = 1, .priority = 2}), SP_BATCHER_QUEUED);
    CHECK_TEXT(ask(&r, 0), "0");
    CHECK_INT(add(&r, 0, (sp_batcher_item){.rows = 1}), SP_BATCHER_QUEUED);
    CHECK_INT(r.batcher.waiting, 3);
}

TEST(a_timeout_rejects)
{
    rig r = rig_make((sp_batcher_settings){
        .batches = true, .most_rows = 4, .delay_ns = 10 * MS, .level = {{.timeout_ns = 4 * MS, .timeout_override = true}}});

    add(&r, 0, (sp_batcher_item){.rows = 1, .timeout_ns = 2 * MS});
    add(&r, 1 * MS, (sp_batcher_item){.rows = 1, .timeout_ns = 60 * MS}); /* may only be shortened */
    CHECK_TEXT(ask(&r, 1 * MS), "until 2");
    CHECK_TEXT(ask(&r, 2 * MS), "!0 until 5");
    CHECK_TEXT(ask(&r, 5 * MS), "!1");
    CHECK_INT(r.batcher.waiting, 0);
    CHECK_INT(r.batcher.expiring, 0);

    r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 4, .level = {{.timeout_ns = 4 * MS}}});
    add(&r, 0, (sp_batcher_item){.rows = 1, .timeout_ns = MS}); /* no override is allowed */
    CHECK_INT(r.items[0].expires_ns, 4 * MS);
    r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 4, .level = {{.timeout_override = true}}});
    add(&r, 0, (sp_batcher_item){.rows = 1, .timeout_ns = MS}); /* shorter than for ever */
    CHECK_INT(r.items[0].expires_ns, MS);
}

TEST(rejections_and_a_batch_can_come_out_together)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 4, .level = {{.timeout_override = true}}});

    for (int i = 0; i < 4; i++)
        add(&r, 0, (sp_batcher_item){.rows = 1, .timeout_ns = i % 2 ? 0 : MS});
    CHECK_TEXT(ask(&r, 2 * MS), "1 3 !0 !2");
}

TEST(rejections_that_find_no_room_come_next_time)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 4, .level = {{.timeout_ns = MS}}});

    for (int i = 0; i < 3; i++)
        add_rows(&r, 0, 1);
    CHECK_TEXT(ask_some(&r, 2 * MS, 2), "!0 !1 until 2");
    CHECK_TEXT(ask_some(&r, 2 * MS, 2), "!2");
}

TEST(a_timeout_delays)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 2, .levels = 2, .default_level = 1,
                                           .level = {[1] = {.delay = true, .timeout_ns = 2 * MS, .most = 3}}});

    add_rows(&r, 0, 1);
    add_rows(&r, 0, 1);
    add_rows(&r, 1 * MS, 1);
    CHECK_INT(add(&r, MS, (sp_batcher_item){.rows = 1, .priority = 2}), SP_BATCHER_QUEUED);
    CHECK_TEXT(ask(&r, 2 * MS), "2 0"); /* 0 and 1 are late: behind 2, before level 2 */
    CHECK_INT(add(&r, 2 * MS, (sp_batcher_item){.rows = 1}), SP_BATCHER_QUEUED);
    CHECK_INT(add(&r, 2 * MS, (sp_batcher_item){.rows = 1}), SP_BATCHER_QUEUED);
    CHECK_INT(add(&r, 2 * MS, (sp_batcher_item){.rows = 1}), SP_BATCHER_FULL); /* a late one takes a place */
    CHECK_TEXT(ask(&r, 3 * MS), "4 5");
    CHECK_TEXT(ask(&r, 3 * MS), "1 3");
    CHECK_INT(r.batcher.expiring, 0);
}

TEST(time_outs_are_seen_while_every_instance_is_busy)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 4, .level = {{.timeout_override = true}}});
    sp_batcher_item *rejected[4];
    int64_t due_ns;

    add(&r, 0, (sp_batcher_item){.rows = 1, .timeout_ns = 3 * MS});
    add(&r, 0, (sp_batcher_item){.rows = 1});
    CHECK_INT(sp_batcher_expire(&r.batcher, 0, rejected, 4, &due_ns), 0);
    CHECK_INT(due_ns, 3 * MS);
    REQUIRE(sp_batcher_expire(&r.batcher, 3 * MS, rejected, 4, &due_ns) == 1);
    CHECK(rejected[0] == &r.items[0]);
    CHECK(due_ns == INT64_MAX);
}

TEST(one_that_waits_can_be_withdrawn)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 8, .delay_ns = 10 * MS,
                                           .level = {{.delay = true, .timeout_ns = 5 * MS}}});

    for (int i = 0; i < 4; i++)
        add_rows(&r, i * MS, 1);
    sp_batcher_remove(&r.batcher, &r.items[0]);
    sp_batcher_remove(&r.batcher, &r.items[2]);
    CHECK_TEXT(ask(&r, 7 * MS), "until 8"); /* 1 is late by now; 3 expires at 8 */
    sp_batcher_remove(&r.batcher, &r.items[1]);
    CHECK_TEXT(ask(&r, 8 * MS), "until 13"); /* 3's own delay */
    CHECK_TEXT(ask(&r, 13 * MS), "3");
    CHECK_INT(r.batcher.waiting, 0);
    CHECK_INT(r.batcher.waiting_rows, 0);
}

TEST(no_batch_has_more_members_than_the_caller_takes)
{
    rig r = rig_make((sp_batcher_settings){.batches = true, .most_rows = 8, .delay_ns = 10 * MS});

    for (int i = 0; i < 3; i++)
        add_rows(&r, 0, 1);
    CHECK_TEXT(ask_some(&r, 0, 2), "0 1"); /* it cannot grow: no need to wait */
    CHECK_TEXT(ask_some(&r, 0, 2), "until 10");
}

TEST(times_far_away_do_not_overflow)
{
    rig r = rig_make((sp_batcher_settings){
        .batches = true, .most_rows = 8, .delay_ns = INT64_MAX, .level = {{.timeout_ns = INT64_MAX}}});

    add_rows(&r, 5, 1);
    CHECK_TEXT(ask(&r, 1000 * MS), "");
    CHECK_INT(r.batcher.waiting, 1);
}

/* --- random days -------------------------------------------------------------------------------------------------- */

/* The plain model: one array, sorted before every question by (level, late, turn). */
typedef struct plain {
    int id;
    uint32_t level;
    bool late, alone;
    int64_t turn; /* within (level, late) */
    int32_t rows;
    uint64_t shape;
    int64_t queued_ns, expires_ns;
} plain;

typedef struct plain_queue {
    sp_batcher_settings s;
    plain waiting[512];
    int count;
    int64_t turns;
} plain_queue;

static int plain_order(const void *a, const void *b)
{
    const plain *x = a, *y = b;

    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->late != y->late)
        return x->late ? 1 : -1;
    return x->turn < y->turn ? -1 : x->turn > y->turn;
}

static void plain_drop(plain_queue *q, int at)
{
    memmove(&q->waiting[at], &q->waiting[at + 1], sizeof(plain) * (size_t)(q->count - at - 1));
    q->count--;
}

/* Ids of the batch into ret_ids; those that were rejected, each as -1 - id, behind them. */
static int plain_next(plain_queue *q, int64_t now_ns, int *ret_ids, int *ret_rejected)
{
    int rejected = 0, fits = 0, best = 0, rows = 0, aim = 0;
    int64_t oldest_ns = INT64_MAX;
    bool shut = false;

    qsort(q->waiting, (size_t)q->count, sizeof(plain), plain_order);
    for (int i = 0; i < q->count;) {
        plain *p = &q->waiting[i];
        bool out = !p->late && p->expires_ns && p->expires_ns <= now_ns;
        if (out && !q->s.level[p->level].delay) {
            ret_rejected[rejected++] = p->id;
            plain_drop(q, i);
            continue;
        }
        if (out) {
            p->late = true;
            p->turn = ++q->turns;
        }
        i++;
    }
    *ret_ids = 0;
    qsort(q->waiting, (size_t)q->count, sizeof(plain), plain_order);

    for (int i = 0; i < q->s.preferred_count; i++)
        aim = q->s.preferred[i] > aim ? q->s.preferred[i] : aim;
    aim = aim ? aim : q->s.most_rows;
    for (int i = 0; i < q->count && !shut; i++) {
        plain *p = &q->waiting[i];
        if (i > 0 && rows + p->rows > aim && best == 0)
            best = i;
        shut = i > 0 && (!q->s.batches || p->shape != q->waiting[0].shape || p->alone || q->waiting[0].alone ||
                         rows + p->rows > q->s.most_rows);
        if (shut)
            break;
        fits = i + 1;
        rows += p->rows;
        oldest_ns = p->queued_ns < oldest_ns ? p->queued_ns : oldest_ns;
        for (int k = 0; k < q->s.preferred_count; k++)
            best = q->s.preferred[k] == rows ? fits : best;
        best = q->s.preferred_count == 0 && rows == q->s.most_rows ? fits : best;
    }
    if (fits && (!q->s.batches || q->waiting[0].alone))
        shut = true;
    int give = 0;
    bool waited = !q->s.batches || oldest_ns + q->s.delay_ns <= now_ns;
    if (fits)
        give = best && !(q->s.delay_ns && oldest_ns + q->s.delay_ns <= now_ns) ? best
               : shut || rows >= aim || waited                                 ? fits
                                                                               : 0;
    for (int i = 0; i < give; i++)
        ret_ids[i] = q->waiting[i].id;
    for (int i = 0; i < give; i++)
        plain_drop(q, 0);

    return give | rejected << 16;
}

static sp_batcher_settings random_settings(void)
{
    sp_batcher_settings s = {.batches = test_random_between(0, 5) > 0, .most_rows = test_random_between(1, 12)};

    s.delay_ns = test_random_between(0, 2) ? test_random_between(0, 8) : 0;
    s.preferred_count = test_random_between(0, 3);
    for (int i = 0, least = 1; i < s.preferred_count; i++) {
        if (least > s.most_rows) {
            s.preferred_count = i;
            break;
        }
        s.preferred[i] = test_random_between(least, s.most_rows);
        least = s.preferred[i] + 1;
    }
    s.levels = (uint32_t)(test_random_between(0, 1) ? test_random_between(1, 16) : 0);
    s.default_level = s.levels ? (uint32_t)test_random_between(1, (int)s.levels) : 0;
    for (uint32_t l = 0; l <= s.levels; l++)
        s.level[l] = (sp_batcher_level){.delay = test_random_between(0, 1),
                                        .timeout_override = test_random_between(0, 1),
                                        .timeout_ns = test_random_between(0, 1) ? test_random_between(1, 20) : 0,
                                        .most = test_random_between(0, 2) ? 0 : (uint32_t)test_random_between(1, 10)};
    return s;
}

static void plain_add(plain_queue *q, const sp_batcher_item *item, int id, int64_t now_ns, bool *ret_full)
{
    uint32_t level = item->priority >= 1 && item->priority <= q->s.levels ? item->priority : q->s.default_level;
    const sp_batcher_level *l = &q->s.level[level];
    int64_t timeout_ns = l->timeout_ns;
    uint32_t waiting = 0;

    if (l->timeout_override && item->timeout_ns && (!timeout_ns || item->timeout_ns < timeout_ns))
        timeout_ns = item->timeout_ns;
    for (int i = 0; i < q->count; i++)
        waiting += q->waiting[i].level == level;
    *ret_full = l->most && waiting >= l->most;
    if (!*ret_full)
        q->waiting[q->count++] = (plain){.id = id, .level = level, .alone = item->alone, .turn = ++q->turns,
                                         .rows = item->rows, .shape = item->shape, .queued_ns = now_ns,
                                         .expires_ns = timeout_ns ? now_ns + timeout_ns : 0};
}

/* One question to both; false when they differ. Also: what is told to be due later is not due before, if nobody comes. */
static bool same_answer(sp_batcher *batcher, plain_queue *q, sp_batcher_item *items, bool *waits, int64_t now_ns,
                        int64_t *ret_due_ns)
{
    sp_batcher_item *got[512], *rejected[512];
    int ids[512], out[512], rejected_count;
    int count = sp_batcher_next(batcher, now_ns, got, 512, rejected, &rejected_count, ret_due_ns);
    int wanted = plain_next(q, now_ns, ids, out);

    if (count != (wanted & 0xffff) || rejected_count != wanted >> 16)
        return false;
    for (int i = 0; i < count; i++) {
        if (got[i] - items != ids[i])
            return false;
        waits[ids[i]] = false;
    }
    for (int i = 0; i < rejected_count; i++) {
        if (rejected[i] - items != out[i])
            return false;
        waits[out[i]] = false;
    }
    return batcher->waiting == (uint32_t)q->count;
}

static void one_day(void)
{
    static sp_batcher_item items[512];
    static plain_queue q;
    static bool waits[512];
    sp_batcher batcher;
    int made = 0;
    int64_t now_ns = test_random_between(0, 1000), due_ns = INT64_MAX;
    sp_batcher_settings s = random_settings();

    sp_batcher_init(&batcher, &s);
    q = (plain_queue){.s = s};
    memset(waits, 0, sizeof(waits));
    while (made < 200) {
        int what = test_random_between(0, 9);
        now_ns += test_random_between(0, 2) ? 0 : test_random_between(0, 4);
        if (what < 6) {
            bool full;
            items[made] = (sp_batcher_item){.rows = test_random_between(1, s.most_rows),
                                            .shape = (uint64_t)test_random_between(0, 12) / 10,
                                            .alone = test_random_between(0, 15) == 0,
                                            .priority = (uint32_t)test_random_between(0, 17),
                                            .timeout_ns = test_random_between(0, 1) ? test_random_between(1, 12) : 0};
            plain_add(&q, &items[made], made, now_ns, &full);
            REQUIRE(sp_batcher_add(&batcher, &items[made], now_ns) == (full ? SP_BATCHER_FULL : SP_BATCHER_QUEUED));
            waits[made++] = !full;
            due_ns = 0;
        } else if (what < 7 && q.count > 0) {
            int at = test_random_between(0, q.count - 1), id = q.waiting[at].id;
            REQUIRE(waits[id]);
            waits[id] = false;
            sp_batcher_remove(&batcher, &items[id]);
            plain_drop(&q, at);
            due_ns = 0;
        } else {
            uint32_t waiting = batcher.waiting;
            bool early = now_ns < due_ns;
            REQUIRE(same_answer(&batcher, &q, items, waits, now_ns, &due_ns));
            REQUIRE(!early || batcher.waiting == waiting); /* it had said that nothing would be due yet */
        }
    }
    /* The evening: everybody gets out, in bounded time. */
    for (int rounds = 0; q.count > 0; rounds++) {
        REQUIRE(rounds < 1000);
        REQUIRE(same_answer(&batcher, &q, items, waits, now_ns, &due_ns));
        REQUIRE(q.count == 0 || due_ns != INT64_MAX);
        now_ns = due_ns > now_ns && due_ns != INT64_MAX ? due_ns : now_ns;
    }
    CHECK_INT(batcher.waiting, 0);
    CHECK_INT(batcher.waiting_rows, 0);
    CHECK_INT(batcher.expiring, 0);
}

TEST(random_days_are_as_the_plain_model_says)
{
    for (int day = 0; day < 2000; day++)
        one_day();
}
