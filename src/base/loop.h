/* SPDX-License-Identifier: Apache-2.0
 * The event loop: epoll, timers, and work put off to the end of the turn. One thread; every call is from that thread.
 * No callback may take over 100 us (measured: spillway_loop_callback_seconds). */
#ifndef SP_BASE_LOOP_H
#define SP_BASE_LOOP_H

#include "base/status.h"

typedef struct sp_loop sp_loop;

/* A descriptor being watched. Caller's storage, zero-initialised; must stay put while watched. */
typedef struct sp_watch {
    int fd;
    void (*ready)(struct sp_watch *watch, uint32_t epoll_events, void *context);
    void *context;
    bool active; /* the loop's own */
} sp_watch;

/* A timer. Caller's storage, zero-initialised; fires once, then is idle again. */
typedef struct sp_timer {
    int64_t at_ns;
    void (*fire)(struct sp_timer *timer, void *context);
    void *context;
    int heap_index; /* the loop's own: place in the heap + 1, 0 = idle */
} sp_timer;

sp_status sp_loop_new(sp_loop **ret_loop, sp_error *reterr);
void sp_loop_free(sp_loop *loop);
SP_DEFINE_CLEANUP(sp_loop, sp_loop_free)

/* Watches watch->fd for `epoll_events` (EPOLLIN, EPOLLRDHUP, EPOLLET ...); again on a watched one changes the events. */
sp_status sp_loop_watch(sp_loop *loop, sp_watch *watch, uint32_t epoll_events, sp_error *reterr);
void sp_loop_unwatch(sp_loop *loop, sp_watch *watch); /* idle ones are fine; no callback of it comes after */

/* Fires at `at_ns` (sp_clock_now_ns time); setting an armed one moves it. */
sp_status sp_loop_timer_set(sp_loop *loop, sp_timer *timer, int64_t at_ns, sp_error *reterr);
void sp_loop_timer_clear(sp_loop *loop, sp_timer *timer); /* idle ones are fine */

/* Called at the end of every turn, before the loop sleeps; returns the ns it may sleep (-1 = no bound, 0 = not at all).
 * libmicrohttpd and the rings do their work here. Up to 8 hooks. */
typedef int64_t sp_loop_hook_fn(void *context);
sp_status sp_loop_hook_add(sp_loop *loop, sp_loop_hook_fn *hook, void *context, sp_error *reterr);
void sp_loop_hook_remove(sp_loop *loop, sp_loop_hook_fn *hook, void *context); /* not from inside a hook */

/* Called around the sleep, so that a hook's owner can tell other processes to ring (asleep) or not (awake).
 * `prepare` returns true when there is work after all and the loop must not sleep. */
void sp_loop_set_sleep(sp_loop *loop, bool (*prepare)(void *context), void (*wake)(void *context), void *context);

/* True when a watched descriptor has something now: for a look before sleeping. One system call. */
bool sp_loop_has_events(const sp_loop *loop);

/* Turns until sp_loop_stop. */
sp_status sp_loop_run(sp_loop *loop, sp_error *reterr);
/* One turn that sleeps at most `max_sleep_ns` (-1 = no bound). */
sp_status sp_loop_turn(sp_loop *loop, int64_t max_sleep_ns, sp_error *reterr);
void sp_loop_stop(sp_loop *loop);

/* The time this turn began: cheap, and the same for all that happens in it. */
int64_t sp_loop_now_ns(const sp_loop *loop);

#endif
