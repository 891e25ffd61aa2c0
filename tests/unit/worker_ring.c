/* SPDX-License-Identifier: Apache-2.0
 * worker/ring: order, wrap-around, full, and a peer that lies about its index. */
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
