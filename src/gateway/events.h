/* SPDX-License-Identifier: Apache-2.0
 * Following the event bus over HTTP: who wants which events, how far it has read, what waits to be written. Two writers
 * stand on it, text/event-stream (events.c) and WebSocket (ws.c); the bus's ring is the only queue, so a reader that is
 * slower than the events loses the oldest and is told how many. Loop thread only. */
#ifndef SP_GATEWAY_EVENTS_H
#define SP_GATEWAY_EVENTS_H

#include "base/event.h"
#include "gateway/server.h"

/* Bytes that wait for one reader before it is given no more events; the next ones wait in the ring. */
#define GW_FOLLOW_BYTES (32u * 1024)
/* One event as JSON: 1 KiB of data and its frame. */
#define GW_FOLLOW_EVENT_BYTES 4096u
/* Streams and sockets at once; beyond: 429. Each costs a buffer and a look at each event. */
#define GW_FOLLOWERS 256
/* Something is written at least this often, so that both sides notice the other's end. */
#define GW_HEARTBEAT_MS 15000
/* Events looked at in one callback of the loop, for all followers together (under 1 us each). */
#define GW_FOLLOW_BUDGET 64

typedef struct gw_follower {
    gw_conn *conn;
    struct gw_follower *next, *prev; /* of server->followers */
    char topics[256], kinds[256], until[160];
    char tenant[48];
    bool any_tenant;
    uint64_t seen_id;  /* the last event that was looked at */
    bool due;          /* there may be newer ones */
    bool ending;       /* closed when everything is written */
    bool broken;       /* closed now */
    sp_buf out;        /* written from out_sent on */
    size_t out_sent;
    int64_t progress_ns; /* bytes were last taken, or there were none to take */
    int64_t wrote_ns;    /* something was last put into out */
    void (*frame)(struct gw_follower *follower, const char *id, const char *kind, sp_view json);
    void (*beat)(struct gw_follower *follower); /* a heartbeat into out */
    void (*flush)(struct gw_follower *follower); /* out has bytes, or `ending` is set */
} gw_follower;

/* What to follow. Lists are comma-separated words; one that ends in '*' is a prefix; NULL or "" = everything. */
typedef struct gw_follow {
    const char *topics, *kinds;
    const char *until;                   /* kinds after which the stream ends */
    const char *first_kind, *first_data; /* sent before all others, without an id */
    bool granted; /* the caller has checked that who asks may see these topics; else events are filtered by tenant */
    bool ended;   /* first_data is all there is */
} gw_follow;

/* From a handler's run: answers with a stream of events (text/event-stream). Takes conn->state and conn->drop.
 * Last-Event-ID, or the query's last_event_id, says where to go on; without it only new events come. */
void gw_events_follow(gw_conn *conn, const gw_follow *what);

/* Shared by the two writers. */
gw_follower *gw_follower_new(gw_conn *conn, const gw_follow *what); /* NULL: conn has been refused */
void gw_follower_free(gw_follower *follower);
bool gw_follower_fill(gw_follower *follower, int *budget); /* from the bus into out; true when out has bytes */
static inline size_t gw_follower_waiting(const gw_follower *follower)
{
    return follower->out.size_bytes - follower->out_sent;
}
void gw_follower_kick(gw_follower *follower); /* it may have room for more: the pump shall look */
void gw_follower_took(gw_follower *follower, size_t size_bytes); /* that many bytes of out are written */
bool gw_word_listed(const char *list, const char *word);          /* the lists of gw_follow */

void gw_events_start(gw_server *server);
void gw_events_stop(gw_server *server); /* every follower is told to end */
void gw_events_half_closed(gw_conn *conn); /* the client has ended its sending side, or is gone */
void gw_events_sweep(gw_conn *conn, int64_t now_ns);

/* GET /v1/events, GET /v1/events/ws */
void gw_events_run(gw_conn *conn);
void gw_events_socket_run(gw_conn *conn);
void gw_socket_sweep(gw_conn *conn, int64_t now_ns);
void gw_socket_cut(gw_conn *conn); /* at once */

/* What who asked may see, and the query's topic= and kind=. False: conn has been refused. */
bool gw_events_wanted(gw_conn *conn, gw_follow *ret_what);

#endif
