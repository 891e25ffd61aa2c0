/* SPDX-License-Identifier: Apache-2.0
 * epoll, a binary heap of timers, hooks. */
#include "base/loop.h"

#include "base/clock.h"
#include "base/metrics.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LOOP_EVENTS 64
#define LOOP_HOOKS 8

struct sp_loop {
    int epoll_fd;
    bool stopping;
    int64_t now_ns;
    sp_timer **heap;
    int heap_count, heap_capacity;
    struct {
        sp_loop_hook_fn *run;
        void *context;
    } hooks[LOOP_HOOKS];
    int hook_count;
    bool (*sleep_prepare)(void *context);
    void (*sleep_wake)(void *context);
    void *sleep_context;
    struct epoll_event events[LOOP_EVENTS]; /* of this turn; unwatch blanks its own */
    int event_count;
    sp_metric *callback_time;
};

sp_status sp_loop_new(sp_loop **ret_loop, sp_error *reterr)
{
    sp_loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the event loop");
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        free(loop);
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "epoll_create1");
    }
    loop->now_ns = sp_clock_now_ns();
    loop->callback_time = sp_metric_get(SP_METRIC_HISTOGRAM, "spillway_loop_callback_seconds", "",
                                        "Time one callback or hook held the event loop");
    *ret_loop = loop;
    return SP_OK;
}

void sp_loop_free(sp_loop *loop)
{
    if (!loop)
        return;
    sp_fd_closep(&loop->epoll_fd);
    free(loop->heap);
    free(loop);
}

sp_status sp_loop_watch(sp_loop *loop, sp_watch *watch, uint32_t epoll_events, sp_error *reterr)
{
    struct epoll_event event = { .events = epoll_events, .data.ptr = watch };
    if (epoll_ctl(loop->epoll_fd, watch->active ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, watch->fd, &event) < 0)
        return SP_FAIL_ERRNO(reterr, errno == ENOMEM || errno == ENOSPC ? SP_NOMEM : SP_INTERNAL, "epoll_ctl on descriptor %d",
                             watch->fd);
    watch->active = true;
    return SP_OK;
}

void sp_loop_unwatch(sp_loop *loop, sp_watch *watch)
{
    if (!watch->active)
        return;
    watch->active = false;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL); /* already closed = already gone */
    for (int i = 0; i < loop->event_count; i++) {
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
    }
}

static void heap_put(sp_loop *loop, int i, sp_timer *timer)
{
    loop->heap[i] = timer;
    timer->heap_index = i + 1;
}

static void heap_up(sp_loop *loop, int i, sp_timer *timer)
{
    for (int parent; i > 0 && loop->heap[parent = (i - 1) / 2]->at_ns > timer->at_ns; i = parent)
        heap_put(loop, i, loop->heap[parent]);
    heap_put(loop, i, timer);
}

static void heap_down(sp_loop *loop, int i, sp_timer *timer)
{
    for (;;) {
        int child = 2 * i + 1;
        if (child >= loop->heap_count)
            break;
        if (child + 1 < loop->heap_count && loop->heap[child + 1]->at_ns < loop->heap[child]->at_ns)
            child++;
        if (loop->heap[child]->at_ns >= timer->at_ns)
            break;
        heap_put(loop, i, loop->heap[child]);
        i = child;
    }
    heap_put(loop, i, timer);
}

void sp_loop_timer_clear(sp_loop *loop, sp_timer *timer)
{
    if (!timer->heap_index)
        return;
    int i = timer->heap_index - 1;
    timer->heap_index = 0;
    sp_timer *last = loop->heap[--loop->heap_count];
    if (last == timer)
        return;
    if (i > 0 && loop->heap[(i - 1) / 2]->at_ns > last->at_ns)
        heap_up(loop, i, last);
    else
        heap_down(loop, i, last);
}

sp_status sp_loop_timer_set(sp_loop *loop, sp_timer *timer, int64_t at_ns, sp_error *reterr)
{
    sp_loop_timer_clear(loop, timer);
    if (loop->heap_count == loop->heap_capacity) {
        int capacity = loop->heap_capacity ? loop->heap_capacity * 2 : 64;
        sp_timer **heap = realloc(loop->heap, (size_t)capacity * sizeof(*heap));
        if (!heap)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for a timer");
        loop->heap = heap;
        loop->heap_capacity = capacity;
    }
    timer->at_ns = at_ns;
    heap_up(loop, loop->heap_count++, timer);
    return SP_OK;
}

sp_status sp_loop_hook_add(sp_loop *loop, sp_loop_hook_fn *hook, void *context, sp_error *reterr)
{
    if (loop->hook_count == LOOP_HOOKS)
        return SP_FAIL(reterr, SP_INTERNAL, "more than %d loop hooks", LOOP_HOOKS);
    loop->hooks[loop->hook_count].run = hook;
    loop->hooks[loop->hook_count++].context = context;
    return SP_OK;
}

void sp_loop_hook_remove(sp_loop *loop, sp_loop_hook_fn *hook, void *context)
{
    int kept = 0;
    for (int i = 0; i < loop->hook_count; i++) {
        if (loop->hooks[i].run != hook || loop->hooks[i].context != context)
            loop->hooks[kept++] = loop->hooks[i];
    }
    loop->hook_count = kept;
}

void sp_loop_set_sleep(sp_loop *loop, bool (*prepare)(void *), void (*wake)(void *), void *context)
{
    loop->sleep_prepare = prepare;
    loop->sleep_wake = wake;
    loop->sleep_context = context;
}

bool sp_loop_has_events(const sp_loop *loop)
{
    struct pollfd ready = { .fd = loop->epoll_fd, .events = POLLIN };
    return poll(&ready, 1, 0) == 1;
}

static int64_t fire_timers(sp_loop *loop, int64_t sleep_ns)
{
    /* No more than were armed when the turn began: one that arms itself for "now" must not keep descriptors waiting. */
    for (int left = loop->heap_count; left > 0 && loop->heap_count && loop->heap[0]->at_ns <= loop->now_ns; left--) {
        sp_timer *timer = loop->heap[0];
        sp_loop_timer_clear(loop, timer);
        int64_t start = sp_clock_now_ns();
        timer->fire(timer, timer->context);
        sp_metric_observe_ns(loop->callback_time, sp_clock_now_ns() - start);
    }
    if (!loop->heap_count)
        return sleep_ns;
    int64_t until = SP_MAX(loop->heap[0]->at_ns - loop->now_ns, (int64_t)0);
    return sleep_ns < 0 ? until : SP_MIN(sleep_ns, until);
}

static int64_t run_hooks(sp_loop *loop, int64_t sleep_ns)
{
    for (int i = 0; i < loop->hook_count; i++) {
        int64_t start = sp_clock_now_ns();
        int64_t bound = loop->hooks[i].run(loop->hooks[i].context);
        sp_metric_observe_ns(loop->callback_time, sp_clock_now_ns() - start);
        if (bound >= 0)
            sleep_ns = sleep_ns < 0 ? bound : SP_MIN(sleep_ns, bound);
    }
    return sleep_ns;
}

sp_status sp_loop_turn(sp_loop *loop, int64_t max_sleep_ns, sp_error *reterr)
{
    loop->now_ns = sp_clock_now_ns();
    int64_t sleep_ns = fire_timers(loop, max_sleep_ns);
    sleep_ns = run_hooks(loop, sleep_ns);
    /* A hook may have set a nearer timer. The clock is read once: two readings may lie on either side of it, and a sleep
     * below 0 has no end. */
    if (loop->heap_count) {
        int64_t now_ns = sp_clock_now_ns(), until = SP_MAX(loop->heap[0]->at_ns - now_ns, (int64_t)0);
        sleep_ns = sleep_ns < 0 ? until : SP_MIN(sleep_ns, until);
    }
    if (loop->stopping)
        sleep_ns = 0;
    bool asleep = sleep_ns != 0 && loop->sleep_prepare;
    if (asleep && loop->sleep_prepare(loop->sleep_context))
        sleep_ns = 0;

    struct timespec timeout = { sleep_ns / SP_NS_PER_S, sleep_ns % SP_NS_PER_S };
    int n = epoll_pwait2(loop->epoll_fd, loop->events, LOOP_EVENTS, sleep_ns < 0 ? NULL : &timeout, NULL);
    int saved = errno;
    if (asleep)
        loop->sleep_wake(loop->sleep_context);
    if (n < 0) {
        errno = saved;
        return saved == EINTR ? SP_OK : SP_FAIL_ERRNO(reterr, SP_INTERNAL, "epoll_pwait2");
    }
    loop->now_ns = sp_clock_now_ns();
    loop->event_count = n;
    for (int i = 0; i < n; i++) {
        sp_watch *watch = loop->events[i].data.ptr;
        if (!watch)
            continue;
        int64_t start = sp_clock_now_ns();
        watch->ready(watch, loop->events[i].events, watch->context);
        sp_metric_observe_ns(loop->callback_time, sp_clock_now_ns() - start);
    }
    loop->event_count = 0;
    return SP_OK;
}

sp_status sp_loop_run(sp_loop *loop, sp_error *reterr)
{
    sp_status s = SP_OK;
    while (!loop->stopping && !s)
        s = sp_loop_turn(loop, -1, reterr);
    return s;
}

void sp_loop_stop(sp_loop *loop)
{
    loop->stopping = true;
}

int64_t sp_loop_now_ns(const sp_loop *loop)
{
    return loop->now_ns;
}
