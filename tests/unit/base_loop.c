/* SPDX-License-Identifier: Apache-2.0
 * base/loop: timers under an injected clock, descriptors, hooks, the sleep bracket. No test waits for real time. */
#include "base/loop.h"
#include "base/clock.h"
#include "base/view.h"
#include "test.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int64_t now_ns;
static sp_loop *loop;

static void begin(void)
{
    now_ns = 1000 * SP_NS_PER_S;
    sp_clock_inject(&now_ns);
    if (sp_loop_new(&loop, NULL))
        abort();
}

static void end(void)
{
    sp_loop_free(loop);
    loop = NULL;
    sp_clock_inject(NULL);
}

static void turn(void)
{
    CHECK_INT(sp_loop_turn(loop, 0, NULL), SP_OK);
}

/* ---- timers ---- */

#define TIMERS 200
static sp_timer timers[TIMERS];
static int64_t fired_at[TIMERS]; /* 0 = not */
static int fired_count;
static int64_t last_due;

static void note(sp_timer *timer, void *context)
{
    (void)context;
    fired_at[timer - timers] = now_ns;
    fired_count++;
    CHECK(timer->at_ns <= now_ns);
    CHECK(timer->at_ns >= last_due); /* in order within a turn and over turns */
    last_due = timer->at_ns;
}

static void forget(void)
{
    memset(timers, 0, sizeof(timers));
    memset(fired_at, 0, sizeof(fired_at));
    for (int i = 0; i < TIMERS; i++)
        timers[i].fire = note;
    fired_count = 0;
    last_due = 0;
}

TEST(timers_fire_once_and_in_order)
{
    begin();
    forget();
    for (int i = 0; i < TIMERS; i++)
        REQUIRE(sp_loop_timer_set(loop, &timers[i], now_ns + test_random_between(1, 50), NULL) == SP_OK);
    turn();
    CHECK_INT(fired_count, 0);
    for (int step = 0; step < 50; step++) {
        now_ns++;
        turn();
    }
    CHECK_INT(fired_count, TIMERS);
    for (int i = 0; i < TIMERS; i++) {
        CHECK_INT(fired_at[i], timers[i].at_ns); /* not one step late */
        CHECK_INT(timers[i].heap_index, 0);
    }
    now_ns += 1000;
    turn();
    CHECK_INT(fired_count, TIMERS);
    end();
}

TEST(timers_moved_and_cleared_at_random_keep_their_times)
{
    begin();
    forget();
    int64_t due[TIMERS] = { 0 };
    for (int step = 0; step < 5000; step++) {
        int i = test_random_between(0, TIMERS - 1);
        if (test_random() % 3) {
            due[i] = now_ns + test_random_between(1, 100);
            REQUIRE(sp_loop_timer_set(loop, &timers[i], due[i], NULL) == SP_OK);
        } else {
            sp_loop_timer_clear(loop, &timers[i]);
            due[i] = 0;
        }
        now_ns++;
        turn();
        for (int k = 0; k < TIMERS; k++) {
            if (due[k] && due[k] <= now_ns) {
                REQUIRE(fired_at[k] == now_ns);
                due[k] = 0;
            }
            REQUIRE((due[k] != 0) == (timers[k].heap_index != 0));
        }
    }
    for (int i = 0; i < TIMERS; i++) {
        sp_loop_timer_clear(loop, &timers[i]);
        sp_loop_timer_clear(loop, &timers[i]); /* idle ones are fine */
    }
    end();
}

static int again_count;

static void again(sp_timer *timer, void *context)
{
    (void)context;
    again_count++;
    CHECK_INT(sp_loop_timer_set(loop, timer, now_ns, NULL), SP_OK);
}

TEST(a_timer_that_sets_itself_for_now_does_not_hold_the_loop)
{
    begin();
    sp_timer timer = { .fire = again };
    again_count = 0;
    REQUIRE(sp_loop_timer_set(loop, &timer, now_ns, NULL) == SP_OK);
    for (int i = 1; i <= 10; i++) {
        CHECK_INT(sp_loop_turn(loop, -1, NULL), SP_OK); /* and the turn does not sleep: it is due again */
        CHECK_INT(again_count, i);
    }
    sp_loop_timer_clear(loop, &timer);
    end();
}

static sp_timer victim;

static void clear_victim(sp_timer *timer, void *context)
{
    (void)timer;
    (void)context;
    sp_loop_timer_clear(loop, &victim);
}

static void must_not_fire(sp_timer *timer, void *context)
{
    (void)timer;
    (void)context;
    test_fail(__FILE__, __LINE__, "a cleared timer fired");
}

TEST(a_timer_may_clear_another_that_is_due)
{
    begin();
    sp_timer first = { .fire = clear_victim };
    victim = (sp_timer){ .fire = must_not_fire };
    REQUIRE(sp_loop_timer_set(loop, &first, now_ns, NULL) == SP_OK);
    REQUIRE(sp_loop_timer_set(loop, &victim, now_ns + 1, NULL) == SP_OK);
    now_ns += 10;
    turn();
    CHECK_INT(victim.heap_index, 0);
    end();
}

/* ---- descriptors ---- */

typedef struct bell {
    sp_watch watch;
    int rings;
    struct bell *silences; /* unwatched by this one's callback */
} bell;

static void ring(sp_watch *watch, uint32_t events, void *context)
{
    bell *b = context;
    uint64_t count;
    CHECK(events & EPOLLIN);
    CHECK(watch == &b->watch);
    b->rings++;
    CHECK_INT(read(watch->fd, &count, sizeof(count)), sizeof(count));
    if (b->silences)
        sp_loop_unwatch(loop, &b->silences->watch);
}

static void bell_open(bell *b)
{
    *b = (bell){ .watch = { .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = ring, .context = b } };
    CHECK_INT(sp_loop_watch(loop, &b->watch, EPOLLIN, NULL), SP_OK);
}

static void bell_strike(const bell *b)
{
    uint64_t one = 1;
    CHECK_INT(write(b->watch.fd, &one, sizeof(one)), sizeof(one));
}

static void bell_close(bell *b)
{
    sp_loop_unwatch(loop, &b->watch);
    sp_loop_unwatch(loop, &b->watch); /* idle ones are fine */
    sp_fd_closep(&b->watch.fd);
}

TEST(a_watched_descriptor_is_heard)
{
    begin();
    bell b;
    bell_open(&b);
    turn();
    CHECK_INT(b.rings, 0);
    bell_strike(&b);
    turn();
    turn();
    CHECK_INT(b.rings, 1);
    CHECK_INT(sp_loop_watch(loop, &b.watch, 0, NULL), SP_OK); /* changed: deaf for now */
    bell_strike(&b);
    turn();
    CHECK_INT(b.rings, 1);
    CHECK_INT(sp_loop_watch(loop, &b.watch, EPOLLIN, NULL), SP_OK);
    turn();
    CHECK_INT(b.rings, 2);
    bell_close(&b);
    end();
}

TEST(no_callback_comes_after_unwatch_even_in_the_same_turn)
{
    begin();
    bell a, b;
    bell_open(&a);
    bell_open(&b);
    a.silences = &b;
    b.silences = &a;
    bell_strike(&a);
    bell_strike(&b);
    turn();
    turn();
    CHECK_INT(a.rings + b.rings, 1); /* whichever came first silenced the other */
    bell_close(&a);
    bell_close(&b);
    end();
}

TEST(a_bad_descriptor_is_an_error)
{
    begin();
    sp_watch watch = { .fd = -1 };
    sp_error err = { 0 };
    CHECK(sp_loop_watch(loop, &watch, EPOLLIN, &err) != SP_OK);
    CHECK_TEXT(err.origin, "kernel");
    CHECK(!watch.active);
    end();
}

/* ---- hooks, sleep, stop ---- */

static int hook_runs, prepares, wakes;
static int64_t hook_answer;
static bool work_after_all;

static int64_t hook(void *context)
{
    CHECK(context == &hook_runs);
    hook_runs++;
    return hook_answer;
}

static bool prepare(void *context)
{
    (void)context;
    prepares++;
    return work_after_all;
}

static void wake(void *context)
{
    (void)context;
    wakes++;
}

TEST(hooks_run_each_turn_and_bound_the_sleep)
{
    begin();
    hook_runs = prepares = wakes = 0;
    REQUIRE(sp_loop_hook_add(loop, hook, &hook_runs, NULL) == SP_OK);
    sp_loop_set_sleep(loop, prepare, wake, NULL);
    hook_answer = 0; /* "do not sleep": a turn without a bound returns at once, and asks nobody to ring */
    CHECK_INT(sp_loop_turn(loop, -1, NULL), SP_OK);
    CHECK_INT(hook_runs, 1);
    CHECK_INT(prepares, 0);
    hook_answer = -1;
    work_after_all = true; /* work came between the look and the sleep */
    CHECK_INT(sp_loop_turn(loop, -1, NULL), SP_OK);
    CHECK_INT(hook_runs, 2);
    CHECK_INT(prepares, 1);
    CHECK_INT(wakes, 1);
    hook_answer = 1;
    work_after_all = false;
    CHECK_INT(sp_loop_turn(loop, -1, NULL), SP_OK); /* sleeps one nanosecond */
    CHECK_INT(prepares, 2);
    CHECK_INT(wakes, 2);
    end();
}

TEST(there_is_a_bound_on_hooks)
{
    begin();
    hook_answer = -1;
    int added = 0;
    while (added < 100 && sp_loop_hook_add(loop, hook, &hook_runs, NULL) == SP_OK)
        added++;
    CHECK_INT(added, 8);
    turn();
    end();
}

static void stop(sp_timer *timer, void *context)
{
    (void)timer;
    (void)context;
    sp_loop_stop(loop);
}

TEST(run_ends_when_told_to_stop)
{
    begin();
    sp_timer timer = { .fire = stop };
    REQUIRE(sp_loop_timer_set(loop, &timer, now_ns, NULL) == SP_OK);
    CHECK_INT(sp_loop_run(loop, NULL), SP_OK);
    end();
}

TEST(now_is_the_turns_beginning)
{
    begin();
    turn();
    CHECK_INT(sp_loop_now_ns(loop), now_ns);
    int64_t then = now_ns;
    now_ns += 5;
    CHECK_INT(sp_loop_now_ns(loop), then);
    turn();
    CHECK_INT(sp_loop_now_ns(loop), now_ns);
    end();
}

static int near_ns;

static int64_t set_near_timer(void *context)
{
    CHECK_INT(sp_loop_timer_set(loop, context, sp_clock_now_ns() + near_ns, NULL), SP_OK);
    return -1;
}

static void count_fired(sp_timer *timer, void *context)
{
    (void)timer;
    ++*(int *)context;
}

static void note_guard(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)watch;
    (void)epoll_events;
    *(bool *)context = true;
}

/* With the real clock: the moment passes while the length of the sleep is worked out. A sleep below 0 would have no end;
 * the guard ends it. */
TEST(a_timer_due_within_nanoseconds_does_not_sleep_for_ever)
{
    int fired = 0;
    bool overslept = false;
    sp_timer timer = { .fire = count_fired, .context = &fired };
    sp_watch guard = { .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), .ready = note_guard, .context = &overslept };
    const struct itimerspec soon = { .it_value.tv_sec = 20 };
    REQUIRE(guard.fd >= 0);
    REQUIRE(sp_loop_new(&loop, NULL) == SP_OK);
    REQUIRE(sp_loop_watch(loop, &guard, EPOLLIN, NULL) == SP_OK);
    REQUIRE(sp_loop_hook_add(loop, set_near_timer, &timer, NULL) == SP_OK);
    REQUIRE(timerfd_settime(guard.fd, 0, &soon, NULL) == 0);
    for (int i = 0; i < 6000 && !overslept; i++) {
        near_ns = i % 600;
        CHECK_INT(sp_loop_turn(loop, -1, NULL), SP_OK);
    }
    CHECK(!overslept);
    CHECK(fired > 0);
    sp_loop_free(loop);
    loop = NULL;
    (void)close(guard.fd);
}
