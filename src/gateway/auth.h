/* SPDX-License-Identifier: Apache-2.0
 * Who may do what: bearer tokens with scopes, rates and quotas; the rule for servers off loopback; the guard against
 * pages of other sites for servers on it. docs/access.md tells it to people. Loop thread only. */
#ifndef SP_GATEWAY_AUTH_H
#define SP_GATEWAY_AUTH_H

#include "gateway/server.h"

/* Spillways that a request may have come through. Two that forward to each other would pass it on for ever. Beyond: 508. */
#define GW_HOPS_MAX 4

/* Fills conn->access, or refuses conn (401, 403, 429, 508). Headers are read and the route is known. */
void gw_auth_check(gw_conn *conn);
void gw_auth_free(gw_server *server);

/* May the server listen on this address? SP_INVALID: off loopback without tokens. */
sp_status gw_auth_may_bind(const gw_server *server, bool loopback, const char *address, sp_error *reterr);

/* Sees everything about the server: an admin or monitoring token, or anybody on loopback where there are no tokens. */
bool gw_auth_sees_all(const gw_conn *conn);

#endif
