/* SPDX-License-Identifier: Apache-2.0
 * In front of the house: the same question, asked again, is answered from the cache; asked by many at once, it is computed
 * once for all of them (single-flight). docs/internals/gateway.md tells how. Loop thread only.
 *
 *   question ── cache? ──hit──> answer              "cache": "hit"
 *                  └─miss── flight under way? ──yes─> wait with the others   "shared"
 *                                       └─no──> Redis? ─> the house          "miss"
 *
 * The computation belongs to the group: it goes on while anybody waits, with the latest deadline of all; when it fails
 * for a reason that may pass, the request of one who waits is tried next. */
#ifndef SP_GATEWAY_FLIGHT_H
#define SP_GATEWAY_FLIGHT_H

#include "gateway/server.h"

sp_status gw_flights_open(gw_server *server, sp_error *reterr);
struct sp_cache *gw_flights_cache(gw_server *server); /* NULL = none is configured */
void gw_flights_close(gw_server *server); /* no connection is open any more */

/* After gw_options_read, before the body: shall this question go through here? Takes conn->state and conn->drop. */
void gw_flight_begin(gw_conn *conn, bool raw_body);
/* The next bytes of a raw body; nothing happens where gw_flight_begin did not take the question. */
void gw_flight_append(gw_conn *conn, const void *data, size_t size_bytes);
/* The payload is known and conn->request is ready to be submitted. False: not taken, submit it. True: conn->request is not
 * conn's any more; conn waits or has its answer. */
bool gw_flight_enter(gw_conn *conn, sp_view payload);

/* The key under which this connection's answer may be kept, in hex; "" = under none. While its answer is being written. */
void gw_flight_key(const gw_conn *conn, char ret_hex[65]);
/* Forgets that answer, here and in Redis. */
void gw_flight_erase(gw_server *server, const char *hex);

#endif
