/* SPDX-License-Identifier: Apache-2.0
 * The one event bus: what happened, for people and dashboards (SSE, WebSocket), kept for a while so that a client that
 * was away can catch up. Any thread may emit; subscribers are called on the loop's thread, once for all events of a turn. */
#ifndef SP_BASE_EVENT_H
#define SP_BASE_EVENT_H

#include "base/loop.h"

#define SP_EVENTS_KEPT 4096u

typedef struct sp_event {
    uint64_t id; /* from 1, without gaps; 0 = none */
    int64_t unix_ms;
    char kind[32];   /* "breaker.open", "link.quarantined", "job.done", "job.progress" */
    char topic[80];  /* "link/cuda0", "job/ID": what it is about */
    char tenant[48]; /* "" = the operator's */
    char data[1024]; /* a JSON object */
} sp_event;

/* `format` makes the JSON object; what is longer than fits is replaced by {"cut":true}. Strings inside must have been
 * escaped (sp_buf_append_json_text). NULL topic or tenant = "". Threads: any. Never blocks for long, never fails: without
 * a bus nothing happens. */
void sp_event_emit(const char *kind, const char *topic, const char *tenant, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* One bus a process; the loop's thread opens and closes it. */
sp_status sp_events_open(sp_loop *loop, sp_error *reterr);
void sp_events_close(void);

/* The event after `id`, copied; false when there is none yet. *ret_event->id may be more than id + 1: older ones are
 * gone by then. */
bool sp_event_next(uint64_t id, sp_event *ret_event);
uint64_t sp_event_last_id(void);

typedef struct sp_event_subscriber {
    void (*news)(void *context); /* something was emitted since the last call; read with sp_event_next */
    void *context;
    struct sp_event_subscriber *next;
} sp_event_subscriber;
void sp_events_subscribe(sp_event_subscriber *subscriber);
void sp_events_unsubscribe(sp_event_subscriber *subscriber);

#endif
