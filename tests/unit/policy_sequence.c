/* SPDX-License-Identifier: Apache-2.0
 * policy/sequence.h: each rule by itself, then random days of it against a plain model of the same rules. */
#include "policy/sequence.h"
#include "test.h"

#include <stdio.h>
#include <string.h>

#define MS INT64_C(1000000)
#define START SP_SEQUENCE_START
#define END SP_SEQUENCE_END
#define MOST 64

typedef struct rig {
    sp_sequencer *q;
    sp_sequence_item items[MOST];
    int count;
    sp_sequence_item *running[MOST];
    int running_count;
    sp_error err;
    char said[256];
} rig;

static void rig_open(rig *r, sp_sequence_settings settings)
{
    *r = (rig){0};
    settings.model = "m";
    settings.instances = settings.instances ? settings.instances : 1;
    settings.idle_ns = settings.idle_ns ? settings.idle_ns : 1000 * MS;
    REQUIRE(sp_sequencer_new(&settings, &r->q, NULL) == SP_OK);
}

static sp_status add_item(rig *r, int64_t now_ns, sp_sequence_item item)
{
    item.base.rows = 1;
    r->items[r->count] = item;
    r->err = (sp_error){0};
    return sp_sequencer_add(r->q, &r->items[r->count++], now_ns, &r->err);
}

static void add(rig *r, int64_t now_ns, uint64_t id, uint32_t flags)
{
    CHECK_INT(add_item(r, now_ns, (sp_sequence_item){.id = id, .flags = flags}), SP_OK);
}

/* "0 - 2": the rows, "-" an empty one; "until 5"; "" */
static const char *ask_of(rig *r, uint32_t instance, int64_t now_ns)
{
    sp_sequence_item *rows[MOST];
    int64_t due_ns;
    int length = 0, count = sp_sequencer_next(r->q, instance, now_ns, rows, MOST, &due_ns);

    r->said[0] = '\0';
    for (int i = 0; i < count; i++) {
        if (rows[i]) {
            length += snprintf(r->said + length, sizeof(r->said) - (size_t)length, i ? " %d" : "%d", (int)(rows[i] - r->items));
            r->running[r->running_count++] = rows[i];
        } else {
            length += snprintf(r->said + length, sizeof(r->said) - (size_t)length, i ? " -" : "-");
        }
    }
    if (count == 0 && due_ns != INT64_MAX)
        snprintf(r->said, sizeof(r->said), "until %lld", (long long)(due_ns / MS));
    return r->said;
}

static void done(rig *r, int64_t now_ns)
{
    for (int i = 0; i < r->running_count; i++)
        sp_sequencer_done(r->q, r->running[i], now_ns);
    r->running_count = 0;
}

/* Asks, and what came out has run. */
static const char *run(rig *r, int64_t now_ns)
{
    ask_of(r, 0, now_ns);
    done(r, now_ns);
    return r->said;
}

static const char *expire(rig *r, int64_t now_ns)
{
    sp_sequence_item *rejected[MOST];
    int64_t due_ns;
    int length = 0, count = sp_sequencer_expire(r->q, now_ns, rejected, MOST, &due_ns);

    r->said[0] = '\0';
    for (int i = 0; i < count; i++)
        length += snprintf(r->said + length, sizeof(r->said) - (size_t)length, "!%d%s ", (int)(rejected[i] - r->items),
                           rejected[i]->reason == SP_SEQUENCE_TIMEOUT ? "t" : "b");
    if (due_ns != INT64_MAX)
        snprintf(r->said + length, sizeof(r->said) - (size_t)length, "until %lld", (long long)(due_ns / MS));
    return r->said;
}

static void rig_close(rig *r)
{
    CHECK_INT(sp_sequencer_waiting(r->q), 0);
    sp_sequencer_free(r->q);
}

TEST(a_sequence_keeps_its_row)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 4});

    for (uint64_t id = 1; id <= 3; id++)
        add(&r, 0, id, START);
    CHECK_TEXT(run(&r, 0), "0 1 2");
    add(&r, 0, 3, 0);
    CHECK_TEXT(run(&r, 0), "- - 3");
    CHECK_INT(r.items[3].slot, 2);
    add(&r, 0, 2, END);
    add(&r, 0, 3, 0);
    add(&r, 0, 3, END);
    CHECK_TEXT(run(&r, 0), "- 4 5"); /* one of a sequence at a time */
    CHECK_TEXT(run(&r, 0), "- - 6");
    add(&r, 0, 9, START | END); /* the freed row */
    add(&r, 0, 1, END);
    CHECK_TEXT(run(&r, 0), "8 7");
    CHECK_TEXT(run(&r, 0), "");
    CHECK_INT(sp_sequencer_open(r.q), 0);
    rig_close(&r);
}

TEST(a_request_waits_for_the_one_before_it)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 2});

    add(&r, 0, 1, START);
    add(&r, 0, 1, END);
    CHECK_TEXT(ask_of(&r, 0, 0), "0");
    CHECK_TEXT(ask_of(&r, 0, 0), "");
    done(&r, 0);
    CHECK_TEXT(run(&r, 0), "1");
    rig_close(&r);
}

TEST(errors_speak_tritons_words)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 1});

    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 42}), SP_INVALID);
    CHECK_TEXT(r.err.message, "inference request for sequence 42 to model 'm' must specify the START flag on the first "
                              "request of the sequence");
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 7, .text = "cam", .flags = END}), SP_INVALID);
    CHECK_TEXT(r.err.message, "inference request for sequence cam to model 'm' must specify the START flag on the first "
                              "request of the sequence");
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.flags = START}), SP_INVALID);
    CHECK_TEXT(r.err.message, "inference request to model 'm' must specify a non-zero or non-empty correlation ID");
    sp_sequence_item two = {.base = {.rows = 2}, .id = 1, .flags = START};
    CHECK_INT(sp_sequencer_add(r.q, &two, 0, &r.err), SP_INVALID);
    CHECK_TEXT(r.err.message, "inference request to model 'm' must specify batch-size 1 due to requirements of sequence "
                              "batcher");
    rig_close(&r);
}

TEST(after_its_end_a_sequence_must_start_again)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 2});

    add(&r, 0, 5, START);
    add(&r, 0, 5, END); /* counts from its arrival, not from its run */
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 5}), SP_INVALID);
    add(&r, 0, 5, START); /* another sequence: another slot */
    CHECK_TEXT(run(&r, 0), "0 3");
    CHECK_TEXT(run(&r, 0), "1");
    CHECK_INT(sp_sequencer_open(r.q), 1);
    rig_close(&r);
}

TEST(a_second_start_goes_on_in_the_same_slot)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 2});

    add(&r, 0, 5, START);
    add(&r, 0, 5, 0);
    add(&r, 0, 5, START);
    add(&r, 0, 5, END);
    for (int i = 0; i < 4; i++) {
        char wanted[8];
        snprintf(wanted, sizeof(wanted), "%d", i);
        CHECK_TEXT(run(&r, 0), wanted);
        CHECK_INT(r.items[i].slot, 0);
    }
    CHECK_INT(sp_sequencer_open(r.q), 0);
    rig_close(&r);
}

TEST(numbers_and_texts_are_different_ids)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 4});

    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 5, .flags = START}), SP_OK);
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 5, .text = "a", .flags = START}), SP_OK);
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 5, .text = "b", .flags = START}), SP_OK); /* one hash, two texts */
    CHECK_TEXT(run(&r, 0), "0 1 2");
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 5, .text = "b", .flags = END}), SP_OK);
    CHECK_TEXT(run(&r, 0), "- - 3");
    rig_close(&r);
}

TEST(the_backlog_waits_for_slots_in_turn)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 1, .backlog = 2});

    add(&r, 0, 1, START);
    add(&r, 0, 2, START);
    add(&r, 0, 3, START | END);
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 4, .flags = START}), SP_BUSY);
    add(&r, 0, 2, 0); /* joins its sequence in the backlog */
    CHECK_TEXT(run(&r, 0), "0");
    CHECK_TEXT(run(&r, 0), "");
    add(&r, 0, 1, END);
    CHECK_TEXT(run(&r, 0), "5");
    CHECK_TEXT(run(&r, 0), "1");
    CHECK_TEXT(run(&r, 0), "4");
    add(&r, 0, 2, END);
    CHECK_TEXT(run(&r, 0), "6");
    CHECK_TEXT(run(&r, 0), "2");
    CHECK_INT(sp_sequencer_open(r.q), 0);
    rig_close(&r);
}

TEST(sequences_spread_over_the_instances)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 2, .instances = 2});

    for (uint64_t id = 1; id <= 3; id++)
        add(&r, 0, id, START);
    CHECK_TEXT(ask_of(&r, 0, 0), "0 2");
    CHECK_TEXT(ask_of(&r, 1, 0), "1");
    done(&r, 0);
    add(&r, 0, 2, 0);
    CHECK_TEXT(ask_of(&r, 0, 0), "");
    CHECK_TEXT(ask_of(&r, 1, 0), "3");
    CHECK_INT(r.items[3].instance, 1);
    done(&r, 0);
    rig_close(&r);
}

TEST(direct_waits_until_enough_slots_are_used)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 4, .delay_ns = 10 * MS, .utilization = 0.5});

    add(&r, 0, 1, START);
    CHECK_TEXT(run(&r, 0), "until 10");
    add(&r, 4 * MS, 2, START);
    CHECK_TEXT(run(&r, 4 * MS), "0 1");
    add(&r, 5 * MS, 2, 0);
    CHECK_TEXT(run(&r, 5 * MS), "until 15");
    CHECK_TEXT(run(&r, 15 * MS), "- 2");
    rig_close(&r);
    rig_open(&r, (sp_sequence_settings){.slots = 4, .delay_ns = 10 * MS}); /* no utilization: at once */
    add(&r, 0, 1, START);
    CHECK_TEXT(run(&r, 0), "0");
    rig_close(&r);
}

TEST(direct_batches_have_one_shape_and_suspects_are_alone)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 4});

    for (uint64_t id = 1; id <= 4; id++)
        CHECK_INT(add_item(&r, 0, (sp_sequence_item){.base = {.shape = id == 2, .alone = id == 3}, .id = id, .flags = START}), 0);
    CHECK_TEXT(run(&r, 0), "- - 2");
    CHECK_TEXT(run(&r, 0), "0 - - 3");
    CHECK_TEXT(run(&r, 0), "- 1");
    rig_close(&r);
}

TEST(an_idle_sequence_ends)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 1, .backlog = 1, .idle_ns = 10 * MS});

    add(&r, 0, 1, START);
    CHECK_TEXT(expire(&r, 20 * MS), ""); /* what waits is not idle */
    CHECK_TEXT(ask_of(&r, 0, 20 * MS), "0");
    CHECK_TEXT(expire(&r, 40 * MS), ""); /* nor what runs */
    done(&r, 40 * MS);
    add(&r, 45 * MS, 2, START);
    CHECK_TEXT(expire(&r, 49 * MS), "until 50");
    CHECK_TEXT(run(&r, 49 * MS), "");
    CHECK_TEXT(expire(&r, 50 * MS), "until 60");
    CHECK_TEXT(run(&r, 50 * MS), "1"); /* from the backlog */
    CHECK_INT(add_item(&r, 50 * MS, (sp_sequence_item){.id = 1}), SP_INVALID);
    rig_close(&r);
}

TEST(idleness_is_noticed_by_the_next_request)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 1, .backlog = 4, .idle_ns = 10 * MS});

    add(&r, 0, 1, START);
    CHECK_TEXT(run(&r, 0), "0");
    CHECK_INT(add_item(&r, 10 * MS, (sp_sequence_item){.id = 1}), SP_INVALID);
    add(&r, 10 * MS, 2, START); /* its slot */
    CHECK_TEXT(run(&r, 10 * MS), "2");
    rig_close(&r);
}

TEST(the_backlog_keeps_the_requests_time_outs)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 1, .backlog = 8});

    add(&r, 0, 1, START);
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.base = {.timeout_ns = 5 * MS}, .id = 2, .flags = START}), SP_OK);
    CHECK_INT(add_item(&r, 1 * MS, (sp_sequence_item){.base = {.timeout_ns = 2 * MS}, .id = 2}), SP_OK);
    add(&r, 1 * MS, 3, START);
    CHECK_TEXT(expire(&r, 2 * MS), "until 3");
    CHECK_TEXT(expire(&r, 3 * MS), "!1t !2t ");
    CHECK_INT(add_item(&r, 3 * MS, (sp_sequence_item){.id = 2}), SP_INVALID);
    CHECK_TEXT(run(&r, 3 * MS), "0");
    add(&r, 3 * MS, 1, END);
    CHECK_TEXT(run(&r, 3 * MS), "5");
    CHECK_TEXT(run(&r, 3 * MS), "3");
    rig_close(&r);
}

TEST(what_is_withdrawn_breaks_its_sequence)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 1, .backlog = 8});

    add(&r, 0, 1, START);
    add(&r, 0, 1, 0);
    add(&r, 0, 1, 0);
    add(&r, 0, 2, START | END);
    CHECK_TEXT(ask_of(&r, 0, 0), "0");
    sp_sequencer_withdraw(r.q, &r.items[1]);
    CHECK_INT(add_item(&r, 0, (sp_sequence_item){.id = 1}), SP_INVALID);
    CHECK_TEXT(expire(&r, 1 * MS), "!2b ");
    CHECK_TEXT(ask_of(&r, 0, 1 * MS), "");
    done(&r, 1 * MS);
    CHECK_TEXT(run(&r, 1 * MS), "3");
    add(&r, 2 * MS, 3, START);
    add(&r, 2 * MS, 4, START);
    add(&r, 2 * MS, 4, 0);
    sp_sequencer_withdraw(r.q, &r.items[7]); /* the last of one in the backlog */
    CHECK_TEXT(expire(&r, 2 * MS), "!6b ");
    CHECK_TEXT(run(&r, 2 * MS), "5");
    CHECK_INT(sp_sequencer_open(r.q), 1);
    rig_close(&r);
}

TEST(oldest_gathers_the_first_of_each_candidate)
{
    rig r;
    rig_open(&r, (sp_sequence_settings){.slots = 3, .backlog = 8, .oldest = true,
                                        .batcher = {.batches = true, .most_rows = 2, .delay_ns = 10 * MS}});

    for (uint64_t id = 1; id <= 4; id++)
        add(&r, 0, id, START);
    add(&r, 0, 1, END);
    CHECK_TEXT(ask_of(&r, 0, 0), "0 1");
    CHECK_TEXT(ask_of(&r, 0, 0), "until 10"); /* 2; 3 is in the backlog, 4 waits for 0 */
    done(&r, 5 * MS);
    CHECK_TEXT(ask_of(&r, 0, 5 * MS), "2 4");
    done(&r, 6 * MS); /* the end of 1: 3 has its slot now */
    CHECK_TEXT(ask_of(&r, 0, 6 * MS), "until 16");
    CHECK_TEXT(ask_of(&r, 0, 16 * MS), "3");
    CHECK_INT(r.items[3].slot, 0);
    done(&r, 16 * MS);
    add(&r, 17 * MS, 2, 0);
    sp_sequencer_withdraw(r.q, &r.items[5]); /* out of the batcher too */
    CHECK_TEXT(ask_of(&r, 0, 40 * MS), "");
    CHECK_TEXT(expire(&r, 40 * MS), "until 1006"); /* 3, idle since then */
    CHECK_INT(sp_sequencer_open(r.q), 2);
    rig_close(&r);
}

TEST(settings_are_bounded)
{
    sp_sequencer *q;
    sp_error err = {0};
    sp_sequence_settings s = {.model = "m", .instances = 70000, .slots = 70000};

    CHECK_INT(sp_sequencer_new(&s, &q, &err), SP_INVALID);
    s.instances = 0;
    CHECK_INT(sp_sequencer_new(&s, &q, &err), SP_INVALID);
}

/* --- random days -------------------------------------------------------------------------------------------------- */

/* The plain model: sequences in a list that only grows, requests as numbers; every question is answered by looking at all. */
#define DAY 300
typedef struct plain {
    uint64_t id;
    bool open, over, broken, late;
    int place; /* -1: backlog */
    int queue[DAY], first, last, running;
    int64_t last_ns, expires_ns;
} plain;

static struct {
    plain list[DAY];
    int count;
    int instances, slots, backlog, most_rows;
    bool oldest;
    int64_t idle_ns, delay_ns;
    double utilization;
    int64_t arrived_ns[DAY];
    uint32_t flags[DAY];
    uint64_t shape[DAY];
    bool alone[DAY];
} day;

static plain *plain_find(uint64_t id)
{
    for (int i = 0; i < day.count; i++)
        if (day.list[i].open && day.list[i].id == id)
            return &day.list[i];
    return NULL;
}

static int free_place(void)
{
    for (int place = 0; place < day.instances * day.slots; place++) {
        bool taken = false;
        for (int i = 0; i < day.count; i++)
            taken |= !day.list[i].over && day.list[i].place == place;
        if (!taken)
            return place;
    }
    return -1;
}

static int plain_backlog(void)
{
    int waiting = 0;
    for (int i = 0; i < day.count; i++)
        waiting += !day.list[i].over && day.list[i].place < 0;
    return waiting;
}

static sp_status plain_add(int number, uint64_t id, uint32_t flags, int64_t timeout_ns, int64_t now_ns)
{
    plain *p = plain_find(id);
    if (!p && !(flags & START))
        return SP_INVALID;
    if (!p) {
        int place = free_place();
        if (place < 0 && plain_backlog() >= day.backlog)
            return SP_BUSY;
        p = &day.list[day.count++];
        *p = (plain){.id = id, .open = true, .place = place, .expires_ns = INT64_MAX};
    }
    p->queue[p->last++] = number;
    p->last_ns = now_ns;
    day.arrived_ns[number] = now_ns;
    day.flags[number] = flags;
    if (flags & END)
        p->open = false;
    if (p->place < 0 && timeout_ns && now_ns + timeout_ns < p->expires_ns)
        p->expires_ns = now_ns + timeout_ns;
    return SP_OK;
}

/* Ends what is over, then gives free places to the backlog, until nothing changes. */
static void settle(int64_t now_ns)
{
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < day.count; i++) {
            plain *p = &day.list[i];
            if (!p->over && !p->open && !p->running && p->first == p->last)
                p->over = again = true;
        }
        for (int i = 0; i < day.count; i++) {
            plain *p = &day.list[i];
            int place;
            if (p->over || p->broken || p->late || p->place >= 0 || (place = free_place()) < 0)
                continue;
            p->place = place;
            p->expires_ns = INT64_MAX;
            p->last_ns = now_ns;
            again = true;
        }
    }
}

/* Which rows may run now on `instance`, direct: numbers by slot, -1 = none. Returns rows. */
static int plain_direct(int instance, int64_t now_ns, int *ret_rows)
{
    int ready = 0, rows = 0, head = -1;
    int64_t oldest_ns = INT64_MAX;

    for (int slot = 0; slot < day.slots; slot++) {
        ret_rows[slot] = -1;
        for (int i = 0; i < day.count; i++) {
            const plain *p = &day.list[i];
            if (p->over || p->broken || p->late || p->place != slot * day.instances + instance || p->running || p->first == p->last)
                continue;
            ret_rows[slot] = p->queue[p->first];
            ready++;
            oldest_ns = SP_MIN(oldest_ns, day.arrived_ns[ret_rows[slot]]);
            if (head < 0 || (day.alone[ret_rows[slot]] && !day.alone[head]))
                head = ret_rows[slot];
        }
    }
    if (!ready)
        return 0;
    if (day.delay_ns && day.utilization > 0 && !day.alone[head] && now_ns < oldest_ns + day.delay_ns &&
        (double)ready / day.slots < day.utilization)
        return 0;
    for (int slot = 0; slot < day.slots; slot++) {
        int n = ret_rows[slot];
        if (n < 0)
            continue;
        if (n != head && (day.alone[head] || day.shape[n] != day.shape[head]))
            ret_rows[slot] = -1;
        else
            rows = slot + 1;
    }
    return rows;
}

static plain *plain_owner(int number)
{
    for (int i = 0; i < day.count; i++)
        for (int k = day.list[i].first; k < day.list[i].last; k++)
            if (day.list[i].queue[k] == number)
                return &day.list[i];
    return NULL;
}

static plain *running_owner[DAY];

static void plain_take(int number)
{
    plain *p = plain_owner(number);
    REQUIRE(p && p->queue[p->first] == number && !p->running);
    p->first++;
    p->running = 1;
    running_owner[number] = p;
}

static void plain_end_idle(int64_t now_ns)
{
    for (int i = 0; i < day.count; i++) {
        plain *p = &day.list[i];
        if (p->open && p->place >= 0 && !p->running && p->first == p->last && p->last_ns + day.idle_ns <= now_ns)
            p->open = false;
    }
    for (int i = 0; i < day.count; i++) {
        plain *p = &day.list[i];
        if (!p->over && p->place < 0 && !p->broken && p->expires_ns <= now_ns) {
            p->late = true;
            p->open = false;
        }
    }
}

static void one_day(void)
{
    static sp_sequence_item items[DAY], *running[DAY], *out[DAY];
    sp_sequencer *q;
    int made = 0, running_count = 0;
    int64_t now_ns = 0, due_ns;

    memset(&day, 0, sizeof(day));
    day.instances = test_random_between(1, 3);
    day.slots = test_random_between(1, 4);
    day.backlog = test_random_between(0, 5);
    day.oldest = test_random_between(0, 1);
    day.most_rows = test_random_between(1, 4);
    day.idle_ns = test_random_between(3, 40);
    day.delay_ns = test_random_between(0, 6);
    day.utilization = test_random_between(0, 4) / 4.0;
    REQUIRE(sp_sequencer_new(&(sp_sequence_settings){.model = "m", .oldest = day.oldest, .instances = (uint32_t)day.instances,
                                                     .slots = (uint32_t)day.slots, .idle_ns = day.idle_ns,
                                                     .backlog = (uint32_t)day.backlog, .delay_ns = day.delay_ns,
                                                     .utilization = day.utilization,
                                                     .batcher = {.batches = true, .most_rows = day.most_rows}},
                             &q, NULL) == SP_OK);
    bool evening = false;
    for (int round = 0; round < 4000 && !(evening && sp_sequencer_open(q) == 0); round++) {
        int what = test_random_between(0, 9);
        now_ns += test_random_between(0, 2) ? 0 : test_random_between(0, 5);
        evening = made == DAY;
        int count = sp_sequencer_expire(q, now_ns, out, DAY, &due_ns);
        plain_end_idle(now_ns);
        for (int i = 0; i < count; i++) {
            plain *p = plain_owner((int)(out[i] - items));
            REQUIRE(p && (p->late || p->broken) && out[i]->reason == (p->late ? SP_SEQUENCE_TIMEOUT : SP_SEQUENCE_BROKEN));
            REQUIRE(p->queue[p->first] == (int)(out[i] - items));
            p->first++;
        }
        for (int i = 0; i < day.count; i++)
            REQUIRE(!(day.list[i].late || day.list[i].broken) || day.list[i].first == day.list[i].last);
        settle(now_ns);
        if (what < 4 && !evening) {
            uint64_t id = (uint64_t)test_random_between(1, 9);
            uint32_t flags = (test_random_between(0, 2) ? 0 : START) | (test_random_between(0, 4) ? 0 : END);
            int64_t timeout_ns = test_random_between(0, 3) ? 0 : test_random_between(1, 20);
            items[made] = (sp_sequence_item){.base = {.rows = 1, .shape = (uint64_t)test_random_between(0, 5) / 5,
                                                      .alone = test_random_between(0, 9) == 0, .timeout_ns = timeout_ns},
                                             .id = id, .flags = flags};
            day.shape[made] = items[made].base.shape;
            day.alone[made] = items[made].base.alone;
            REQUIRE(plain_add(made, id, flags, timeout_ns, now_ns) == sp_sequencer_add(q, &items[made], now_ns, NULL));
            made++;
        } else if (what < 5 && made) {
            int number = test_random_between(0, made - 1);
            plain *p = plain_owner(number);
            if (!p)
                continue;
            sp_sequencer_withdraw(q, &items[number]);
            int at = p->first;
            while (p->queue[at] != number)
                at++;
            memmove(&p->queue[at], &p->queue[at + 1], sizeof(int) * (size_t)(p->last - at - 1));
            p->last--;
            p->broken = true;
            p->open = false;
        } else if (what < 7) {
            int instance = test_random_between(0, day.instances - 1), rows[8];
            bool busy = false;
            for (int i = 0; i < running_count; i++)
                busy |= running[i]->instance == (uint32_t)instance;
            if (busy && !day.oldest)
                continue;
            count = sp_sequencer_next(q, (uint32_t)instance, now_ns, out, DAY, &due_ns);
            if (!day.oldest)
                REQUIRE(count == plain_direct(instance, now_ns, rows));
            REQUIRE(count <= (day.oldest ? day.most_rows : day.slots));
            for (int i = 0; i < count; i++) {
                if (!day.oldest)
                    REQUIRE((out[i] ? (int)(out[i] - items) : -1) == rows[i]);
                if (!out[i])
                    continue;
                plain_take((int)(out[i] - items));
                plain *p = running_owner[out[i] - items];
                REQUIRE(p->place == (int)(out[i]->slot * (uint32_t)day.instances + out[i]->instance));
                REQUIRE((int)out[i]->instance == instance);
                running[running_count++] = out[i];
            }
        } else if (running_count) {
            uint32_t instance = running[test_random_between(0, running_count - 1)]->instance;
            int kept = 0;
            for (int i = 0; i < running_count; i++) {
                if (running[i]->instance != instance) {
                    running[kept++] = running[i];
                    continue;
                }
                plain *p = running_owner[running[i] - items];
                sp_sequencer_done(q, running[i], now_ns);
                p->running = 0;
                p->last_ns = now_ns;
                settle(now_ns);
            }
            running_count = kept;
        }
        int waiting = 0, open = 0;
        for (int i = 0; i < day.count; i++) {
            waiting += day.list[i].last - day.list[i].first;
            open += !day.list[i].over;
        }
        REQUIRE(sp_sequencer_waiting(q) == (uint32_t)waiting);
        if (what >= 7)
            REQUIRE(sp_sequencer_open(q) == (uint32_t)open);
    }
    CHECK_INT(sp_sequencer_open(q), 0); /* everything came to its end */
    sp_sequencer_free(q);
}

TEST(random_days_are_as_the_plain_model_says)
{
    for (int i = 0; i < 1000; i++)
        one_day();
}
