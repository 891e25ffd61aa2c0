/* SPDX-License-Identifier: Apache-2.0
 * base/event: ids without gaps, what is kept, subscribers, many threads at once. */
#include "base/event.h"
#include "base/view.h"
#include "test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static sp_loop *loop;
static int told;

static void begin(void)
{
    if (sp_loop_new(&loop, NULL) || sp_events_open(loop, NULL))
        abort();
    told = 0;
}

static void end(void)
{
    sp_events_close();
    sp_loop_free(loop);
}

static void count_news(void *context)
{
    (void)context;
    told++;
}

TEST(event_without_a_bus_nothing_happens)
{
    sp_event event;
    sp_event_emit("a", "b", "c", "{}");
    CHECK_INT(sp_event_last_id(), 0);
    CHECK(!sp_event_next(0, &event));
}

TEST(event_comes_back_as_it_was_emitted)
{
    begin();
    sp_event event;
    sp_event_emit("breaker.open", "link/cuda0", NULL, "{\"failures\":%d}", 5);
    sp_event_emit("job.done", "job/1", "acme", "{}");
    REQUIRE(sp_event_next(0, &event));
    CHECK_INT(event.id, 1);
    CHECK_TEXT(event.kind, "breaker.open");
    CHECK_TEXT(event.topic, "link/cuda0");
    CHECK_TEXT(event.tenant, "");
    CHECK_TEXT(event.data, "{\"failures\":5}");
    CHECK(event.unix_ms > 0);
    REQUIRE(sp_event_next(1, &event));
    CHECK_TEXT(event.tenant, "acme");
    CHECK(!sp_event_next(2, &event));
    CHECK(!sp_event_next(99, &event));
    end();
}

TEST(event_that_is_too_long_is_cut_to_valid_json)
{
    begin();
    sp_event event;
    char text[2000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    sp_event_emit(text, text, text, "{\"a\":\"%s\"}", text);
    REQUIRE(sp_event_next(0, &event));
    CHECK_TEXT(event.data, "{\"cut\":true}");
    CHECK_INT(strlen(event.kind), sizeof(event.kind) - 1);
    CHECK_INT(strlen(event.tenant), sizeof(event.tenant) - 1);
    end();
}

TEST(event_ring_keeps_the_newest_and_ids_tell_what_is_gone)
{
    begin();
    sp_event event;
    for (unsigned i = 0; i < SP_EVENTS_KEPT + 10; i++)
        sp_event_emit("n", "", "", "{\"i\":%u}", i + 1);
    CHECK_INT(sp_event_last_id(), SP_EVENTS_KEPT + 10);
    REQUIRE(sp_event_next(0, &event));
    CHECK_INT(event.id, 11);
    CHECK_TEXT(event.data, "{\"i\":11}");
    uint64_t id = event.id, seen = 1;
    for (; sp_event_next(id, &event); seen++)
        CHECK_INT(event.id, ++id);
    CHECK_INT(seen, SP_EVENTS_KEPT);
    end();
}

TEST(event_subscribers_are_called_once_for_all_of_a_turn)
{
    begin();
    sp_event_subscriber one = { .news = count_news }, two = { .news = count_news };
    sp_events_subscribe(&one);
    sp_events_subscribe(&two);
    CHECK(!sp_loop_turn(loop, 0, NULL));
    CHECK_INT(told, 0);
    sp_event_emit("a", "", "", "{}");
    sp_event_emit("b", "", "", "{}");
    CHECK(!sp_loop_turn(loop, 0, NULL));
    CHECK_INT(told, 2);
    CHECK(!sp_loop_turn(loop, 0, NULL));
    CHECK_INT(told, 2);
    sp_events_unsubscribe(&one);
    sp_event_emit("c", "", "", "{}");
    CHECK(!sp_loop_turn(loop, 0, NULL));
    CHECK_INT(told, 3);
    sp_events_unsubscribe(&two);
    end();
}

static sp_event_subscriber leaving[3];

static void leave_together(void *context)
{
    (void)context;
    told++;
    for (int i = 0; i < 3; i++)
        sp_events_unsubscribe(&leaving[i]);
}

TEST(event_subscribers_may_leave_inside_a_call)
{
    begin();
    for (int i = 0; i < 3; i++) {
        leaving[i] = (sp_event_subscriber){ .news = leave_together };
        sp_events_subscribe(&leaving[i]);
    }
    sp_event_emit("a", "", "", "{}");
    CHECK(!sp_loop_turn(loop, 0, NULL));
    CHECK_INT(told, 1);
    end();
}

#define THREADS 4
#define EACH 500

static void *emit_many(void *context)
{
    for (int i = 0; i < EACH; i++)
        sp_event_emit("n", "", "", "{\"thread\":%d,\"i\":%d}", *(int *)context, i);
    return NULL;
}

TEST(event_many_threads_leave_no_gap_and_keep_their_own_order)
{
    begin();
    pthread_t threads[THREADS];
    int numbers[THREADS], next[THREADS] = { 0 };
    sp_event_subscriber one = { .news = count_news };
    sp_events_subscribe(&one);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        REQUIRE(pthread_create(&threads[i], NULL, emit_many, &numbers[i]) == 0);
    }
    sp_event event;
    uint64_t id = 0;
    while (id < THREADS * EACH) {
        CHECK(!sp_loop_turn(loop, -1, NULL)); /* the bell wakes it; a lost one would hang here */
        for (; sp_event_next(id, &event); id = event.id) {
            int thread = 0, i = 0;
            CHECK_INT(event.id, id + 1);
            CHECK_INT(sscanf(event.data, "{\"thread\":%d,\"i\":%d}", &thread, &i), 2);
            CHECK_INT(i, next[thread]++);
        }
    }
    for (int i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    CHECK(told > 0);
    end();
}
