/* SPDX-License-Identifier: Apache-2.0
 * worker/ring: order, wrap-around, full, a peer that lies about its index, and random events against a plain queue. */
#include "worker/ring.h"
#include "test.h"

#include <pthread.h>
#include <stdlib.h>

static sp_ring_submissions *ring;

static void fresh(void)
{
    free(ring);
    ring = aligned_alloc(64, SP_ALIGN_UP(sizeof(*ring), (size_t)64));
    REQUIRE(ring != NULL);
    *ring = (sp_ring_submissions){ 0 };
}

TEST(entries_come_out_in_order_across_the_wrap)
{
    fresh();
    uint32_t tail = 0, head = 0;
    sp_submission out;
    for (uint32_t i = 0; i < 3 * SP_RING_ENTRIES; i++) {
        REQUIRE(sp_submissions_push(ring, &tail, &(sp_submission){ .lease = i }));
        REQUIRE(sp_submissions_pop(ring, &head, &out));
        CHECK_INT(out.lease, i);
    }
    CHECK(sp_submissions_empty(ring, head));
    CHECK(!sp_submissions_pop(ring, &head, &out));
}

TEST(indices_wrap_at_32_bits)
{
    fresh();
    uint32_t tail = UINT32_MAX - 2, head = UINT32_MAX - 2;
    atomic_store(&ring->tail, tail);
    atomic_store(&ring->head, head);
    sp_submission out;
    for (uint32_t i = 0; i < 8; i++)
        REQUIRE(sp_submissions_push(ring, &tail, &(sp_submission){ .lease = i }));
    for (uint32_t i = 0; i < 8; i++) {
        REQUIRE(sp_submissions_pop(ring, &head, &out));
        CHECK_INT(out.lease, i);
    }
}

TEST(a_full_ring_says_so)
{
    fresh();
    uint32_t tail = 0, head = 0;
    sp_submission out;
    for (uint32_t i = 0; i < SP_RING_ENTRIES; i++)
        REQUIRE(sp_submissions_push(ring, &tail, &(sp_submission){ .lease = i }));
    CHECK(!sp_submissions_push(ring, &tail, &(sp_submission){ .lease = 99 }));
    CHECK(sp_submissions_pop(ring, &head, &out));
    CHECK(sp_submissions_push(ring, &tail, &(sp_submission){ .lease = 99 }));
}

TEST(an_index_that_cannot_be_is_read_as_empty)
{
    fresh();
    uint32_t tail = 0, head = 0;
    sp_submission out;
    REQUIRE(sp_submissions_push(ring, &tail, &(sp_submission){ .lease = 1 }));
    atomic_store(&ring->tail, SP_RING_ENTRIES + 7);
    CHECK(!sp_submissions_pop(ring, &head, &out));
    CHECK_INT(head, 0);
}

enum { MANY = 200000 };

static void *produce(void *argument)
{
    uint32_t tail = 0;
    for (uint32_t i = 1; i <= MANY;) {
        if (sp_submissions_push(ring, &tail, &(sp_submission){ .lease = i, .slot = ~i }))
            i++;
    }
    return argument;
}

TEST(two_threads_lose_and_tear_nothing)
{
    fresh();
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, produce, NULL) == 0);
    uint32_t head = 0, wrong = 0;
    sp_submission out;
    for (uint32_t i = 1; i <= MANY;) {
        if (!sp_submissions_pop(ring, &head, &out))
            continue;
        wrong += out.lease != i || out.slot != ~i;
        i++;
    }
    (void)pthread_join(thread, NULL);
    CHECK_INT(wrong, 0);
}

/* --- random events against a plain queue ---------------------------------------------------------------------------- */

/* Both rings of a page and the consumer's sleep, as one producer and one consumer use them, one event at a time, in random
 * order; the model is an array that only grows and a bell. */
enum { EVENTS = 20000 };

static struct {
    sp_submission queue[EVENTS];
    int pushed, popped;
    bool asleep, bell;
} model;

static const char *model_push(uint32_t *tail, _Atomic uint32_t *sleeping)
{
    sp_submission entry = { .lease = (uint32_t)test_random(), .slot = (uint32_t)test_random() };
    bool fits = model.pushed - model.popped < (int)SP_RING_ENTRIES;
    if (sp_submissions_push(ring, tail, &entry) != fits)
        return fits ? "push refused, but there is room" : "push went into a full ring";
    if (!fits)
        return NULL;
    model.queue[model.pushed++] = entry;
    bool must_wake = sp_ring_must_wake(sleeping);
    if (must_wake != (model.asleep && !model.bell))
        return must_wake ? "rang for one who is awake" : "did not ring for one who sleeps";
    model.bell |= must_wake;
    return NULL;
}

static const char *model_pop(uint32_t *head)
{
    sp_submission entry = { 0 };
    bool any = model.popped < model.pushed;
    if (sp_submissions_empty(ring, *head) == any)
        return "empty says otherwise";
    if (sp_submissions_pop(ring, head, &entry) != any)
        return any ? "pop found nothing" : "pop found what nobody pushed";
    if (!any)
        return NULL;
    const sp_submission *wanted = &model.queue[model.popped++];
    return entry.lease == wanted->lease && entry.slot == wanted->slot ? NULL : "pop got another entry than the oldest";
}

static const char *model_sleep_or_wake(uint32_t head, _Atomic uint32_t *sleeping)
{
    if (model.asleep) { /* only the bell wakes it */
        if (model.popped < model.pushed && !model.bell)
            return "sleeps beside a full ring, and nobody rang";
        model.asleep = !model.bell;
        return NULL;
    }
    sp_ring_announce_sleep(sleeping);
    if (!sp_submissions_empty(ring, head)) { /* looked once more: stays up */
        atomic_store(sleeping, 0);
        return NULL;
    }
    model.asleep = true;
    model.bell = false;
    return NULL;
}

TEST(ring_does_what_a_plain_queue_does)
{
    for (int round = 0; round < 30; round++) {
        fresh();
        _Atomic uint32_t sleeping = 0;
        uint32_t tail = test_random_between(0, 1) ? (uint32_t)test_random() : UINT32_MAX - (uint32_t)test_random_between(0, 600);
        uint32_t head = tail;
        atomic_store(&ring->tail, tail);
        atomic_store(&ring->head, head);
        model.pushed = model.popped = 0;
        model.asleep = model.bell = false;
        int push_percent = 50;
        for (int i = 0; i < EVENTS; i++) {
            if (i % 1500 == 0)
                push_percent = test_random_between(0, 2) * 45 + 5; /* fill it, drain it, or neither */
            int what = test_random_between(0, 99);
            const char *wrong;
            if (what >= 95)
                wrong = model_sleep_or_wake(head, &sleeping);
            else if (what < push_percent || model.asleep)
                wrong = model_push(&tail, &sleeping);
            else
                wrong = model_pop(&head);
            if (wrong) {
                test_fail(__FILE__, __LINE__, "round %d, event %d: %s", round, i, wrong);
                return;
            }
        }
    }
}
