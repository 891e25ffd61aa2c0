/* SPDX-License-Identifier: Apache-2.0
 * Sequences of one model (policy/sequence.h).
 *
 *   add ──> its sequence's queue ──(slot)──> next ──> runs ──> done ──> the next of the queue, or the slot is free
 *              │ no slot: backlog
 *
 * A sequence is a record of a pool: in the table while requests may join it ("open": not after its END, nor when it was
 * idle or broken), in a slot or in the backlog until its queue is empty and nothing of it runs. */
#include "policy/sequence.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEVER INT64_MAX
#define MOST_PLACES (1u << 16) /* instances x slots: more than any model has; bounds the one allocation */

_Static_assert(offsetof(sp_sequence_item, base) == 0, "a batcher's item is a sequence's");

struct sp_sequence {
    uint64_t id;
    char text[SP_SEQUENCE_TEXT_BYTES];
    bool open;   /* in the table */
    bool doomed; /* what waits comes out through expire */
    bool placed; /* has a slot; else it is in the backlog */
    sp_sequence_reason reason;
    uint32_t instance, slot;
    uint32_t running;
    sp_sequence_item *first, *last;
    int64_t last_ns;    /* something of it came or was done */
    int64_t expires_ns; /* in the backlog */
    sp_sequence *chained;               /* same bucket; or the pool's next free one */
    sp_sequence *following, *preceding; /* in the backlog */
};

struct sp_sequencer {
    sp_sequence_settings settings;
    sp_sequence *pool, *unused;
    sp_sequence **places; /* [slot * instances + instance] */
    sp_sequence **buckets;
    sp_batcher *batchers;        /* oldest: per instance */
    sp_batcher_item **candidates; /* oldest: room for what a batcher gives out */
    uint32_t place_count, pool_count, bucket_count;
    uint32_t free_places, waiting, open, doomed, backlogged;
    sp_sequence *backlog_first, *backlog_last;
    int64_t look_ns; /* no idle or backlog time-out before this */
};

/* --- making ------------------------------------------------------------------------------------------------------- */

static sp_status check(const sp_sequence_settings *settings, sp_error *reterr)
{
    if (settings->instances < 1 || settings->slots < 1)
        return SP_FAIL(reterr, SP_INVALID, "sequences need an instance and a slot");
    if (settings->instances > MOST_PLACES || settings->slots > MOST_PLACES / settings->instances ||
        settings->backlog > MOST_PLACES)
        return SP_FAIL(reterr, SP_INVALID, "%u instances with %u sequence slots each are more than %u places",
                       settings->instances, settings->slots, MOST_PLACES);
    return SP_OK;
}

sp_status sp_sequencer_new(const sp_sequence_settings *settings, sp_sequencer **ret_sequencer, sp_error *reterr)
{
    sp_status s = check(settings, reterr);
    if (s)
        return s;

    SP_CLEANUP(sp_sequencer_freep) sp_sequencer *q = calloc(1, sizeof(*q));
    if (!q)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for sequences");
    q->settings = *settings;
    q->place_count = q->free_places = settings->instances * settings->slots;
    q->pool_count = q->place_count + settings->backlog;
    for (q->bucket_count = 16; q->bucket_count < q->pool_count;)
        q->bucket_count *= 2;
    q->look_ns = NEVER;
    q->pool = calloc(q->pool_count, sizeof(*q->pool));
    q->places = calloc(q->place_count, sizeof(sp_sequence *));
    q->buckets = calloc(q->bucket_count, sizeof(sp_sequence *));
    q->batchers = calloc(settings->instances, sizeof(*q->batchers));
    q->candidates = calloc(settings->slots, sizeof(sp_batcher_item *));
    if (!q->pool || !q->places || !q->buckets || !q->batchers || !q->candidates)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %u sequences", q->pool_count);
    for (uint32_t i = q->pool_count; i-- > 0;) {
        q->pool[i].chained = q->unused;
        q->unused = &q->pool[i];
    }
    q->settings.batcher.levels = 0; /* who waits is bounded and timed here */
    q->settings.batcher.level[0] = (sp_batcher_level){0};
    for (uint32_t i = 0; i < settings->instances; i++)
        sp_batcher_init(&q->batchers[i], &q->settings.batcher);
    *ret_sequencer = SP_STEAL(q);
    return SP_OK;
}

void sp_sequencer_free(sp_sequencer *sequencer)
{
    if (!sequencer)
        return;
    free(sequencer->pool);
    free(sequencer->places);
    free(sequencer->buckets);
    free(sequencer->batchers);
    free(sequencer->candidates);
    free(sequencer);
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

static sp_sequence **bucket_of(sp_sequencer *q, uint64_t id)
{
    uint64_t mixed = (id ^ id >> 31) * UINT64_C(0x9e3779b97f4a7c15);

    return &q->buckets[mixed >> 32 & (q->bucket_count - 1)];
}

static sp_sequence *find(sp_sequencer *q, uint64_t id, const char *text)
{
    for (sp_sequence *sequence = *bucket_of(q, id); sequence; sequence = sequence->chained)
        if (sequence->id == id && strncmp(sequence->text, text, sizeof(sequence->text) - 1) == 0)
            return sequence;
    return NULL;
}

static void close_sequence(sp_sequencer *q, sp_sequence *sequence)
{
    if (!sequence->open)
        return;
    sp_sequence **link = bucket_of(q, sequence->id);
    while (*link != sequence)
        link = &(*link)->chained;
    *link = sequence->chained;
    sequence->open = false;
}

static void doom(sp_sequencer *q, sp_sequence *sequence, sp_sequence_reason reason)
{
    close_sequence(q, sequence);
    if (!sequence->doomed) {
        sequence->doomed = true;
        sequence->reason = reason;
        q->doomed++;
    }
}

static int64_t later(int64_t now_ns, int64_t by_ns)
{
    return by_ns >= NEVER - now_ns ? NEVER : now_ns + by_ns;
}

static void look_by(sp_sequencer *q, int64_t at_ns)
{
    q->look_ns = at_ns < q->look_ns ? at_ns : q->look_ns;
}

/* --- slots and backlog -------------------------------------------------------------------------------------------- */

/* The lowest free slot of all instances, so that sequences spread over the instances and batches stay short. */
static void place(sp_sequencer *q, sp_sequence *sequence, uint32_t at)
{
    q->places[at] = sequence;
    q->free_places--;
    sequence->placed = true;
    sequence->slot = at / q->settings.instances;
    sequence->instance = at % q->settings.instances;
    sequence->expires_ns = NEVER;
}

static void backlog_append(sp_sequencer *q, sp_sequence *sequence)
{
    sequence->preceding = q->backlog_last;
    if (q->backlog_last)
        q->backlog_last->following = sequence;
    else
        q->backlog_first = sequence;
    q->backlog_last = sequence;
    q->backlogged++;
}

static void backlog_remove(sp_sequencer *q, sp_sequence *sequence)
{
    if (sequence->preceding)
        sequence->preceding->following = sequence->following;
    else
        q->backlog_first = sequence->following;
    if (sequence->following)
        sequence->following->preceding = sequence->preceding;
    else
        q->backlog_last = sequence->preceding;
    sequence->following = sequence->preceding = NULL;
    q->backlogged--;
}

/* oldest: the sequence's first request goes to the batcher, one at a time. */
static void feed(sp_sequencer *q, sp_sequence *sequence, int64_t now_ns)
{
    sp_sequence_item *item = sequence->first;

    if (!q->settings.oldest || !sequence->placed || sequence->doomed || sequence->running || !item || item->in_batcher)
        return;
    sp_batcher_verdict verdict = sp_batcher_add(&q->batchers[sequence->instance], &item->base, now_ns);
    SP_ASSERT(verdict == SP_BATCHER_QUEUED); /* one row, no bound: nothing else can be */
    item->in_batcher = true;
}

/* After anything that may have been the last of it: gives the record and its slot back. */
static void release_if_over(sp_sequencer *q, sp_sequence *sequence)
{
    if (sequence->open || sequence->running || sequence->first)
        return;
    q->open--;
    q->doomed -= sequence->doomed;
    if (sequence->placed) {
        q->places[sequence->slot * q->settings.instances + sequence->instance] = NULL;
        q->free_places++;
    } else {
        backlog_remove(q, sequence);
    }
    *sequence = (sp_sequence){.chained = q->unused};
    q->unused = sequence;
}

static void fill_from_backlog(sp_sequencer *q, int64_t now_ns)
{
    uint32_t at = 0;

    for (sp_sequence *heir = q->backlog_first, *next; heir && q->free_places; heir = next) {
        next = heir->following;
        if (heir->doomed)
            continue;
        while (q->places[at])
            at++;
        backlog_remove(q, heir);
        place(q, heir, at);
        heir->last_ns = now_ns;
        look_by(q, later(now_ns, q->settings.idle_ns));
        feed(q, heir, now_ns);
    }
}

static sp_sequence *start(sp_sequencer *q, uint64_t id, const char *text)
{
    if (!q->free_places && q->backlogged >= q->settings.backlog)
        return NULL;

    sp_sequence *sequence = q->unused;
    SP_ASSERT(sequence); /* one for each place and each of the backlog */
    q->unused = sequence->chained;
    *sequence = (sp_sequence){.id = id, .open = true, .expires_ns = NEVER};
    snprintf(sequence->text, sizeof(sequence->text), "%s", text);
    sp_sequence **bucket = bucket_of(q, id);
    sequence->chained = *bucket;
    *bucket = sequence;
    q->open++;
    if (q->free_places) {
        uint32_t at = 0;
        while (q->places[at])
            at++;
        place(q, sequence, at);
    } else {
        backlog_append(q, sequence);
    }
    return sequence;
}

/* The end of what is idle, and of what has waited for a slot for too long. */
static void look_round(sp_sequencer *q, int64_t now_ns)
{
    q->look_ns = NEVER;
    for (sp_sequence *sequence = q->backlog_first; sequence; sequence = sequence->following) {
        if (sequence->expires_ns <= now_ns)
            doom(q, sequence, SP_SEQUENCE_TIMEOUT);
        else if (!sequence->doomed)
            look_by(q, sequence->expires_ns);
    }
    for (uint32_t i = 0; i < q->place_count; i++) {
        sp_sequence *sequence = q->places[i];
        if (!sequence || !sequence->open || sequence->first || sequence->running)
            continue;
        int64_t end_ns = later(sequence->last_ns, q->settings.idle_ns);
        if (end_ns > now_ns) {
            look_by(q, end_ns);
        } else {
            close_sequence(q, sequence);
            release_if_over(q, sequence);
        }
    }
}

/* --- coming ------------------------------------------------------------------------------------------------------- */

static sp_status refuse_unstarted(const sp_sequencer *q, const sp_sequence_item *item, const char *text, sp_error *reterr)
{
    char number[24];

    snprintf(number, sizeof(number), "%" PRIu64, item->id);
    return SP_FAIL(reterr, SP_INVALID,
                   "inference request for sequence %s to model '%s' must specify the START flag on the first request of "
                   "the sequence", text[0] ? text : number, q->settings.model);
}

sp_status sp_sequencer_add(sp_sequencer *q, sp_sequence_item *item, int64_t now_ns, sp_error *reterr)
{
    const char *text = item->text ? item->text : "";

    if (item->base.rows > 1)
        return SP_FAIL(reterr, SP_INVALID,
                       "inference request to model '%s' must specify batch-size 1 due to requirements of sequence batcher",
                       q->settings.model);
    if (item->id == 0 && !text[0])
        return SP_FAIL(reterr, SP_INVALID, "inference request to model '%s' must specify a non-zero or non-empty correlation ID",
                       q->settings.model);
    if (q->look_ns <= now_ns) { /* what is idle by now has ended, also when nobody has asked since */
        look_round(q, now_ns);
        fill_from_backlog(q, now_ns);
    }
    sp_sequence *sequence = find(q, item->id, text);
    if (!sequence && !(item->flags & SP_SEQUENCE_START))
        return refuse_unstarted(q, item, text, reterr);
    if (!sequence)
        sequence = start(q, item->id, text);
    if (!sequence)
        return SP_FAIL_CODE(reterr, SP_BUSY, "queue_full",
                            "all %u sequence slots of model '%s' are taken, and %u sequences wait for one", q->place_count,
                            q->settings.model, q->settings.backlog);

    item->sequence = sequence;
    item->following = NULL;
    item->in_batcher = false;
    item->arrived_ns = item->base.queued_ns = now_ns;
    if (sequence->first)
        sequence->last->following = item;
    else
        sequence->first = item;
    sequence->last = item;
    sequence->last_ns = now_ns;
    q->waiting++;
    if (item->flags & SP_SEQUENCE_END)
        close_sequence(q, sequence);
    if (!sequence->placed && item->base.timeout_ns > 0) {
        int64_t expires_ns = later(now_ns, item->base.timeout_ns);
        sequence->expires_ns = expires_ns < sequence->expires_ns ? expires_ns : sequence->expires_ns;
        look_by(q, sequence->expires_ns);
    }
    look_by(q, later(now_ns, q->settings.idle_ns));
    feed(q, sequence, now_ns);
    return SP_OK;
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static void take(sp_sequencer *q, sp_sequence_item *item)
{
    sp_sequence *sequence = item->sequence;

    SP_DASSERT(sequence->first == item);
    sequence->first = item->following;
    if (!sequence->first)
        sequence->last = NULL;
    item->following = NULL;
    item->in_batcher = false;
    item->instance = sequence->instance;
    item->slot = sequence->slot;
    sequence->running++;
    q->waiting--;
}

static sp_sequence_item *ready_in(const sp_sequencer *q, uint32_t instance, uint32_t slot)
{
    const sp_sequence *sequence = q->places[slot * q->settings.instances + instance];

    return sequence && !sequence->running && !sequence->doomed ? sequence->first : NULL;
}

typedef struct ready_slots {
    const sp_sequence_item *head; /* whose shape the batch has */
    uint32_t count;
    int64_t oldest_ns;
} ready_slots;

/* A suspect is a batch by itself: the head, if there is one. */
static ready_slots look(const sp_sequencer *q, uint32_t instance)
{
    ready_slots r = {.oldest_ns = NEVER};

    for (uint32_t slot = 0; slot < q->settings.slots; slot++) {
        const sp_sequence_item *item = ready_in(q, instance, slot);
        if (!item)
            continue;
        if (!r.head || (item->base.alone && !r.head->base.alone))
            r.head = item;
        r.count++;
        r.oldest_ns = item->arrived_ns < r.oldest_ns ? item->arrived_ns : r.oldest_ns;
    }
    return r;
}

static bool enough(const sp_sequencer *q, const ready_slots *r, int64_t now_ns)
{
    const sp_sequence_settings *s = &q->settings;

    return s->delay_ns <= 0 || s->utilization <= 0 || r->head->base.alone || later(r->oldest_ns, s->delay_ns) <= now_ns ||
           (double)r->count / s->slots >= s->utilization;
}

static int next_direct(sp_sequencer *q, uint32_t instance, int64_t now_ns, sp_sequence_item **ret_items, int capacity,
                       int64_t *ret_due_ns)
{
    ready_slots r = look(q, instance);
    int rows = 0;

    if (!r.head)
        return 0;
    if (!enough(q, &r, now_ns)) {
        *ret_due_ns = later(r.oldest_ns, q->settings.delay_ns);
        return 0;
    }
    for (uint32_t slot = 0; slot < q->settings.slots && (int)slot < capacity; slot++) {
        sp_sequence_item *item = ready_in(q, instance, slot);
        bool fits = item && (item == r.head || (!r.head->base.alone && item->base.shape == r.head->base.shape));
        ret_items[slot] = fits ? item : NULL;
        rows = fits ? (int)slot + 1 : rows;
    }
    for (int row = 0; row < rows; row++)
        if (ret_items[row])
            take(q, ret_items[row]);
    return rows;
}

static int next_oldest(sp_sequencer *q, uint32_t instance, int64_t now_ns, sp_sequence_item **ret_items, int capacity,
                       int64_t *ret_due_ns)
{
    sp_batcher_item **batch = q->candidates, *rejected[1];
    int rejected_count;
    int most = (int)SP_MIN(q->settings.slots, (uint32_t)SP_MAX(capacity, 0));
    int count = sp_batcher_next(&q->batchers[instance], now_ns, batch, most, rejected, &rejected_count, ret_due_ns);

    SP_DASSERT(rejected_count == 0); /* no time-outs there */
    for (int i = 0; i < count; i++) {
        ret_items[i] = (sp_sequence_item *)batch[i];
        take(q, ret_items[i]);
    }
    return count;
}

int sp_sequencer_next(sp_sequencer *q, uint32_t instance, int64_t now_ns, sp_sequence_item **ret_items, int capacity,
                      int64_t *ret_due_ns)
{
    SP_ASSERT(instance < q->settings.instances);
    *ret_due_ns = NEVER;
    return q->settings.oldest ? next_oldest(q, instance, now_ns, ret_items, capacity, ret_due_ns)
                              : next_direct(q, instance, now_ns, ret_items, capacity, ret_due_ns);
}

void sp_sequencer_done(sp_sequencer *q, sp_sequence_item *item, int64_t now_ns)
{
    sp_sequence *sequence = item->sequence;

    SP_ASSERT(sequence && sequence->running > 0);
    item->sequence = NULL;
    sequence->running--;
    sequence->last_ns = now_ns;
    look_by(q, later(now_ns, q->settings.idle_ns));
    feed(q, sequence, now_ns);
    release_if_over(q, sequence);
    fill_from_backlog(q, now_ns);
}

/* --- time-outs and withdrawal ------------------------------------------------------------------------------------- */

static void drop_first(sp_sequencer *q, sp_sequence *sequence)
{
    sp_sequence_item *item = sequence->first;

    if (item->in_batcher)
        sp_batcher_remove(&q->batchers[sequence->instance], &item->base);
    item->in_batcher = false;
    sequence->first = item->following;
    if (!sequence->first)
        sequence->last = NULL;
    item->following = NULL;
    item->sequence = NULL;
    q->waiting--;
}

int sp_sequencer_expire(sp_sequencer *q, int64_t now_ns, sp_sequence_item **ret_rejected, int capacity, int64_t *ret_due_ns)
{
    int count = 0;
    bool left = false;

    if (q->look_ns <= now_ns)
        look_round(q, now_ns);
    for (uint32_t i = 0; q->doomed && i < q->pool_count; i++) {
        sp_sequence *sequence = &q->pool[i];
        while (sequence->doomed && sequence->first && count < capacity) {
            sp_sequence_item *item = sequence->first;
            item->reason = sequence->reason;
            drop_first(q, sequence);
            ret_rejected[count++] = item;
        }
        left = left || (sequence->doomed && sequence->first);
        if (sequence->doomed)
            release_if_over(q, sequence);
    }
    fill_from_backlog(q, now_ns);
    *ret_due_ns = left ? now_ns : q->look_ns;
    return count;
}

void sp_sequencer_withdraw(sp_sequencer *q, sp_sequence_item *item)
{
    sp_sequence *sequence = item->sequence;
    sp_sequence_item *before = NULL;

    SP_ASSERT(sequence);
    doom(q, sequence, SP_SEQUENCE_BROKEN);
    q->look_ns = 0; /* what is left of it is due at once */
    if (sequence->first == item) {
        drop_first(q, sequence);
        return;
    }
    for (before = sequence->first; before && before->following != item;)
        before = before->following;
    SP_ASSERT(before);
    before->following = item->following;
    if (sequence->last == item)
        sequence->last = before;
    item->following = NULL;
    item->sequence = NULL;
    q->waiting--;
}

uint32_t sp_sequencer_waiting(const sp_sequencer *q)
{
    return q->waiting;
}

uint32_t sp_sequencer_open(const sp_sequencer *q)
{
    return q->open;
}
