/* SPDX-License-Identifier: Apache-2.0
 * Who may do what: bearer tokens with scopes, rates and quotas; the rule for servers off loopback; the guard against
 * pages of other sites for servers on it. docs/access.md tells it to people. Loop thread only. */
#ifndef SP_GATEWAY_AUTH_H
#define SP_GATEWAY_AUTH_H

#include "gateway/server.h"

/* Spillways that a request may have come through. Two that forward to each other would pass it on for ever. Beyond: 508. */
#define GW_HOPS_MAX 4

/* Who asks, by whatever protocol. Texts are good while gw_auth_ask runs. */
typedef struct gw_asker {
    gw_server *server;
    unsigned scopes;  /* any of them will do; 0 = open to everybody */
    bool reads;       /* it makes no work: no quota of the day */
    bool token_given; /* there was something where a token stands */
    bool token_readable;
    sp_view token;
    const uint8_t *address;  /* 16 bytes; NULL = not known: a trusted peer it is not */
    const char *hops;        /* NULL = none */
    const char *(*header)(void *context, const char *name); /* asked for lower-case names */
    void *context;
    gw_access *access;
    /* When it is refused: */
    int http_status; /* 401, 403, 429, 503, 508 */
    int retry_after_s;
    const char *challenge; /* WWW-Authenticate; NULL = none */
    sp_error error;
} gw_asker;

/* Fills asker->access, or says why not: false. Pages of other sites are not its business. */
bool gw_auth_ask(gw_asker *asker);

/* Fills conn->access, or refuses conn (401, 403, 429, 508). Headers are read and the route is known. */
void gw_auth_check(gw_conn *conn);
void gw_auth_free(gw_server *server);

/* May the server listen on this address? SP_INVALID: off loopback without tokens. */
sp_status gw_auth_may_bind(const gw_server *server, bool loopback, const char *address, sp_error *reterr);

/* Sees everything about the server: an admin or monitoring token, or anybody on loopback where there are no tokens. */
bool gw_auth_sees_all(const gw_conn *conn);

#endif
