/* SPDX-License-Identifier: Apache-2.0
 * The event bus: a ring of the last SP_EVENTS_KEPT events behind one mutex, and an eventfd that wakes the loop, which
 * then calls the subscribers. However many events come in one turn, the loop is woken once. */
#include "base/event.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct event_bus {
    sp_event *ring; /* event `id` lies at (id - 1) % SP_EVENTS_KEPT */
    uint64_t last_id;
    bool rung;      /* the eventfd has been written since the subscribers were last called */
    int fd;
} event_bus;

/* Guards `bus`. Held for one copy of an event, never across a system call but the eventfd's. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static event_bus bus = { .fd = -1 };

/* The loop's thread only: */
static sp_loop *bus_loop;
static sp_watch bus_watch = { .fd = -1 };
static sp_event_subscriber *subscribers, *next_told; /* next_told: who comes after the one that is being called */

static void copy_text(char *dst, size_t dst_bytes, const char *src)
{
    (void)snprintf(dst, dst_bytes, "%s", src ? src : "");
}

void sp_event_emit(const char *kind, const char *topic, const char *tenant, const char *format, ...)
{
    sp_event event = { .unix_ms = sp_clock_wall_ns() / SP_NS_PER_MS };
    copy_text(event.kind, sizeof(event.kind), kind);
    copy_text(event.topic, sizeof(event.topic), topic);
    copy_text(event.tenant, sizeof(event.tenant), tenant);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(event.data, sizeof(event.data), format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= sizeof(event.data))
        copy_text(event.data, sizeof(event.data), "{\"cut\":true}");

    (void)pthread_mutex_lock(&lock);
    if (bus.ring) {
        event.id = ++bus.last_id;
        bus.ring[(event.id - 1) % SP_EVENTS_KEPT] = event;
        const uint64_t one = 1;
        if (!bus.rung) /* a full counter is a bell that rings already; nothing else can fail here */
            bus.rung = write(bus.fd, &one, sizeof(one)) == (ssize_t)sizeof(one) || errno == EAGAIN;
    }
    (void)pthread_mutex_unlock(&lock);
}

bool sp_event_next(uint64_t id, sp_event *ret_event)
{
    (void)pthread_mutex_lock(&lock);
    bool found = bus.ring && id < bus.last_id;
    if (found) {
        uint64_t oldest = bus.last_id > SP_EVENTS_KEPT ? bus.last_id - SP_EVENTS_KEPT + 1 : 1;
        uint64_t wanted = SP_MAX(id + 1, oldest);
        *ret_event = bus.ring[(wanted - 1) % SP_EVENTS_KEPT];
    }
    (void)pthread_mutex_unlock(&lock);
    return found;
}

uint64_t sp_event_last_id(void)
{
    (void)pthread_mutex_lock(&lock);
    uint64_t id = bus.last_id;
    (void)pthread_mutex_unlock(&lock);
    return id;
}

static void bell_ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)epoll_events;
    (void)context;
    uint64_t count;
    /* Read before `rung` falls: an event between the two is seen by the subscribers that are called now. */
    (void)pthread_mutex_lock(&lock);
    (void)!read(watch->fd, &count, sizeof(count));
    bus.rung = false;
    (void)pthread_mutex_unlock(&lock);
    for (sp_event_subscriber *s = subscribers; s; s = next_told) {
        next_told = s->next;
        s->news(s->context);
    }
    next_told = NULL;
}

sp_status sp_events_open(sp_loop *loop, sp_error *reterr)
{
    SP_ASSERT(!bus_loop);
    sp_event *ring = calloc(SP_EVENTS_KEPT, sizeof(*ring)); /* 5 MB, touched as it fills */
    if (!ring)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the events");
    SP_CLEANUP(sp_fd_closep) int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sp_status s = SP_OK;
    if (fd < 0)
        s = SP_FAIL_ERRNO(reterr, SP_NOMEM, "eventfd");
    bus_watch = (sp_watch){ .fd = fd, .ready = bell_ready };
    if (!s)
        s = sp_loop_watch(loop, &bus_watch, EPOLLIN, reterr);
    if (s) {
        free(ring);
        return s;
    }
    bus_loop = loop;
    (void)pthread_mutex_lock(&lock);
    bus = (event_bus){ .ring = ring, .fd = fd };
    (void)pthread_mutex_unlock(&lock);
    fd = -1;
    return SP_OK;
}

void sp_events_close(void)
{
    if (!bus_loop)
        return;
    sp_loop_unwatch(bus_loop, &bus_watch);
    bus_loop = NULL;
    subscribers = next_told = NULL;
    (void)pthread_mutex_lock(&lock);
    sp_event *ring = bus.ring;
    sp_fd_closep(&bus.fd);
    bus = (event_bus){ .fd = -1 };
    (void)pthread_mutex_unlock(&lock);
    free(ring);
}

void sp_events_subscribe(sp_event_subscriber *subscriber)
{
    subscriber->next = subscribers;
    subscribers = subscriber;
}

void sp_events_unsubscribe(sp_event_subscriber *subscriber)
{
    if (next_told == subscriber)
        next_told = subscriber->next;
    for (sp_event_subscriber **at = &subscribers; *at; at = &(*at)->next) {
        if (*at == subscriber) {
            *at = subscriber->next;
            return;
        }
    }
}
