/* SPDX-License-Identifier: Apache-2.0
 * Tokens are known by their SHA-256 only; the text is hashed where it lies in the header and never copied, logged or
 * answered. Rate and quota state is kept by token name, so a reload of the configuration does not refill anybody. */
#include "gateway/auth.h"

#include "gateway/names.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#define PEERS ((int)SP_ARRAY_LEN(((sp_config *)0)->trusted_peers))

/* What one token has used. */
typedef struct token_use {
    char name[48];
    double per_s, burst; /* as configured */
    sp_bucket bucket;
    sp_quota_use quota;
} token_use;

typedef struct gw_auth {
    uint32_t serial; /* of the snapshot that this was made from */
    int count;
    token_use *uses; /* in the order of the snapshot's tokens */
    int peer_count;
    gw_network peers[PEERS];
} gw_auth;

static sp_metric *refused(const char *reason)
{
    char labels[48];
    (void)snprintf(labels, sizeof(labels), "reason=\"%s\"", reason);
    return sp_metric_get(SP_METRIC_COUNTER, "spillway_access_refused_total", labels, "Requests refused by access control");
}

static void refuse(gw_asker *asker, int http_status, sp_status status, const char *code, const char *challenge,
                   int retry_after_s, const char *text)
{
    (void)SP_FAIL_CODE(&asker->error, status, code, "%s", text);
    sp_metric_add(refused(code), 1);
    asker->http_status = http_status;
    asker->retry_after_s = retry_after_s;
    asker->challenge = challenge;
}

/* --- the table of tokens, made anew with each snapshot ------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const token_use *)a)->name, ((const token_use *)b)->name);
}

static void use_make(token_use *use, const sp_token_config *token, const gw_auth *old, int64_t now_ns)
{
    token_use key = { 0 };
    (void)snprintf(key.name, sizeof(key.name), "%s", token->name);
    const token_use *known = old ? bsearch(&key, old->uses, (size_t)old->count, sizeof(*old->uses), by_name) : NULL;
    *use = known ? *known : key;
    if (known && known->per_s == token->rate_per_s && known->burst == token->burst)
        return;
    double left = use->bucket.tokens;
    sp_bucket_init(&use->bucket, token->rate_per_s, token->burst, now_ns);
    if (known && known->per_s > 0)
        use->bucket.tokens = SP_MIN(left, use->bucket.tokens); /* a new rate fills nothing */
    use->per_s = token->rate_per_s;
    use->burst = token->burst;
}

/* NULL: no memory. */
static gw_auth *auth_now(gw_server *server)
{
    const sp_config *config = gw_config(server);
    gw_auth *old = server->auth;
    if (old && old->serial == config->serial)
        return old;
    gw_auth *fresh = calloc(1, sizeof(*fresh));
    if (fresh)
        fresh->uses = calloc((size_t)SP_MAX(config->token_count, 1), sizeof(*fresh->uses));
    if (!fresh || !fresh->uses) {
        free(fresh);
        return NULL;
    }
    if (old)
        qsort(old->uses, (size_t)old->count, sizeof(*old->uses), by_name);
    fresh->serial = config->serial;
    fresh->count = config->token_count;
    for (int i = 0; i < fresh->count; i++)
        use_make(&fresh->uses[i], &config->tokens[i], old, sp_loop_now_ns(server->loop));
    for (int i = 0; i < config->trusted_peer_count && i < PEERS; i++)
        fresh->peer_count += gw_network_read(config->trusted_peers[i], &fresh->peers[fresh->peer_count]);
    gw_auth_free(server);
    server->auth = fresh;
    return fresh;
}

void gw_auth_free(gw_server *server)
{
    if (server->auth)
        free(server->auth->uses);
    free(SP_STEAL(server->auth));
}

enum { NO_TOKEN = -1, NO_MEMORY = -2 };

/* Looks at every entry whatever it finds, and at every byte: how long it takes tells nothing. */
static int token_find(const sp_config *config, sp_view text)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    int found = NO_TOKEN;
    if (EVP_Digest(text.data, text.size_bytes, digest, NULL, EVP_sha256(), NULL) != 1)
        return NO_MEMORY;
    for (int i = 0; i < config->token_count; i++) {
        uint64_t difference = 0;
        for (size_t at = 0; at < sizeof(config->tokens[i].sha256); at += sizeof(uint64_t)) {
            uint64_t a, b;
            memcpy(&a, config->tokens[i].sha256 + at, sizeof(a));
            memcpy(&b, digest + at, sizeof(b));
            difference |= a ^ b;
        }
        int same = -(int)(1 & ((difference | -difference) >> 63 ^ 1)); /* all ones when there is no difference */
        found = (found & ~same) | (i & same);
    }
    return found;
}

/* --- tokens ------------------------------------------------------------------------------------------------------- */

static void access_take(gw_access *access, const sp_token_config *token)
{
    (void)snprintf(access->token, sizeof(access->token), "%s", token->name);
    (void)snprintf(access->tenant, sizeof(access->tenant), "%s", token->tenant);
    (void)snprintf(access->tier, sizeof(access->tier), "%s", token->tier);
    access->scopes = token->scopes;
    access->local_only = token->local_only;
}

/* Scripts in browsers cannot set a header on an EventSource or a WebSocket, so those may carry it in the query
 * (RFC 6750, 2.3); no URL is logged here. */
static bool token_read(const gw_conn *conn, bool *ret_given, sp_view *ret_text)
{
    const char *header = conn->headers.authorization;
    if (!header && strncmp(conn->route->path, "/v1/events", 10) == 0) {
        const char *text = gw_query(conn, "access_token");
        *ret_given = text && *text;
        *ret_text = sp_view_of(text ? text : "");
        return ret_text->size_bytes <= GW_TOKEN_BYTES;
    }
    *ret_given = header != NULL;
    return header && gw_bearer_read(header, ret_text);
}

/* The token's index, or NO_TOKEN: refused, or an open route that needs none. */
static int token_check(gw_asker *asker)
{
    static const char plain[] = "Bearer realm=\"spillway\"";
    static const char invalid[] = "Bearer realm=\"spillway\", error=\"invalid_token\"";
    const sp_config *config = gw_config(asker->server);
    int index = asker->token_given && asker->token_readable ? token_find(config, asker->token) : NO_TOKEN;
    int64_t now_s = sp_clock_wall_ns() / SP_NS_PER_S;
    bool expired = index >= 0 && config->tokens[index].expires_unix_s && config->tokens[index].expires_unix_s <= now_s;
    if (index >= 0 && !expired)
        return index;
    if (!asker->scopes)
        return NO_TOKEN;
    if (index == NO_MEMORY)
        refuse(asker, 503, SP_NOMEM, "no_memory", NULL, 1, "no memory to look at the token");
    else if (!asker->token_given)
        refuse(asker, 401, SP_DENIED, "no_token", plain, 0, "this server asks for a token: send Authorization: Bearer TOKEN");
    else if (expired)
        refuse(asker, 401, SP_DENIED, "token_expired", invalid, 0, "the token has expired; ask the operator for a new one");
    else
        refuse(asker, 401, SP_DENIED, "bad_token", invalid, 0,
               asker->token_readable ? "the token is not known here" : "Authorization must be \"Bearer TOKEN\"");
    return NO_TOKEN;
}

static const char *scopes_text(unsigned scopes)
{
    return scopes & SP_SCOPE_INFER ? "infer" : scopes & SP_SCOPE_METRICS ? "metrics" : "admin";
}

static bool scope_check(gw_asker *asker)
{
    char text[160];
    if (!asker->scopes || asker->access->scopes & asker->scopes)
        return true;
    (void)snprintf(text, sizeof(text), "the token \"%s\" may not do this: it lacks the scope %s", asker->access->token,
                   scopes_text(asker->scopes));
    refuse(asker, 403, SP_DENIED, "scope", "Bearer realm=\"spillway\", error=\"insufficient_scope\"", 0, text);
    return false;
}

/* Rate: every request that a token is needed for. Quota of the day: those that make work, so not GET. */
static void rate_check(gw_asker *asker, token_use *use, const sp_token_config *token)
{
    int64_t now_ns = sp_loop_now_ns(asker->server->loop), wait_ns = 0;
    char text[160];
    int wait_s = 0;
    if (!sp_bucket_take(&use->bucket, 1, now_ns, &wait_ns)) {
        (void)snprintf(text, sizeof(text), "the token \"%s\" may ask %g times a second", token->name, token->rate_per_s);
        wait_s = (int)SP_CLAMP((wait_ns + SP_NS_PER_S - 1) / SP_NS_PER_S, (int64_t)1, (int64_t)86400);
        refuse(asker, 429, SP_BUSY, "rate", NULL, wait_s, text);
        return;
    }
    if (!token->requests_per_day || asker->reads)
        return;
    const sp_quota_settings settings = { .requests_per_day = token->requests_per_day };
    if (sp_quota_take(&settings, &use->quota, 0, 0, sp_clock_wall_ns() / SP_NS_PER_S, true, &wait_s)) {
        (void)snprintf(text, sizeof(text), "the token \"%s\" has used its %lld requests of today (UTC)", token->name,
                       (long long)token->requests_per_day);
        refuse(asker, 429, SP_BUSY, "quota", NULL, SP_MAX(wait_s, 1), text);
    }
}

/* --- pages of other sites ----------------------------------------------------------------------------------------- */

static bool name_known(const gw_conn *conn, sp_view name)
{
    const sp_config *config = gw_config(conn->server);
    if (gw_name_is_loopback(name))
        return true;
    for (int i = 0; i < config->host_count; i++) {
        if (gw_name_equals(name, config->hosts[i]))
            return true;
    }
    return false;
}

/* Without tokens the address is the only credential, and a browser on this machine has it too. So the request must mean
 * this machine by its Host (a name of somebody's own that resolves to 127.0.0.1 is DNS rebinding), and a page may only
 * write, or open a WebSocket, when it comes from here. */
static void site_check(gw_conn *conn, const char *method, gw_asker *asker)
{
    const char *host = conn->headers.host, *origin = conn->headers.origin, *site = conn->headers.fetch_site;
    bool reads = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    sp_view name;
    if (host && (!gw_host_read(host, &name) || !name_known(conn, name))) {
        refuse(asker, 403, SP_DENIED, "host_not_allowed", NULL, 0,
               "the Host header names neither this machine's loopback nor one of the configured hosts");
        return;
    }
    if (reads && !conn->headers.socket_key)
        return;
    if (origin ? !gw_origin_read(origin, &name) || !name_known(conn, name) : site && strcmp(site, "cross-site") == 0)
        refuse(asker, 403, SP_DENIED, "cross_site", NULL, 0, "a page of another site may not use this server");
}

/* --- peers -------------------------------------------------------------------------------------------------------- */

static bool peer_trusted(const gw_asker *asker, const gw_auth *auth)
{
    for (int i = 0; asker->address && i < auth->peer_count; i++) {
        if (gw_network_has(&auth->peers[i], asker->address))
            return true;
    }
    return false;
}

static void word_take(char *dst, size_t dst_bytes, const char *text)
{
    if (text && *text && strlen(text) < dst_bytes)
        (void)snprintf(dst, dst_bytes, "%s", text);
}

/* Tier and tenant are believed from trusted peers only. Hops and local-only are believed from everybody, because they can
 * only take something away from who sends them. */
static void headers_take(gw_asker *asker, const gw_auth *auth)
{
    const char *hops = asker->hops;
    gw_access *access = asker->access;
    if (auth->peer_count && peer_trusted(asker, auth)) {
        word_take(access->tier, sizeof(access->tier), asker->header(asker->context, "x-spillway-tier"));
        word_take(access->tenant, sizeof(access->tenant), asker->header(asker->context, "x-spillway-tenant"));
    }
    if (!hops)
        return;
    size_t n = strspn(hops, "0123456789");
    access->hops = !n || hops[n] || n > 3 ? GW_HOPS_MAX + 1 : (int)strtol(hops, NULL, 10);
    if (access->hops > GW_HOPS_MAX)
        refuse(asker, 508, SP_REFUSED, "too_many_hops", NULL, 0,
               "this request has come through more Spillways than it should (X-Spillway-Hops): they may be forwarding to "
               "each other in a circle");
}

/* ------------------------------------------------------------------------------------------------------------------ */

bool gw_auth_ask(gw_asker *asker)
{
    const sp_config *config = gw_config(asker->server);
    gw_auth *auth = auth_now(asker->server);
    *asker->access = (gw_access){ 0 };
    if (!auth) {
        refuse(asker, 503, SP_NOMEM, "no_memory", NULL, 1, "no memory for the table of tokens");
        return false;
    }
    if (config->token_count || !asker->server->loopback) { /* a reload that took the last token away opens nothing */
        int index = token_check(asker);
        if (asker->http_status)
            return false;
        if (index >= 0)
            access_take(asker->access, &config->tokens[index]);
        if (!scope_check(asker))
            return false;
        if (index >= 0 && asker->scopes)
            rate_check(asker, &auth->uses[index], &config->tokens[index]);
    } else {
        asker->access->scopes = SP_SCOPE_INFER | SP_SCOPE_ADMIN | SP_SCOPE_METRICS;
    }
    if (!asker->http_status)
        headers_take(asker, auth);
    return !asker->http_status;
}

static const char *conn_header(void *context, const char *name)
{
    return gw_header(context, name);
}

void gw_auth_check(gw_conn *conn)
{
    gw_server *server = conn->server;
    gw_asker asker = {
        .server = server,
        .scopes = conn->route->scopes,
        .reads = strcmp(conn->route->method, "GET") == 0,
        .address = conn->address,
        .hops = conn->headers.hops,
        .header = conn_header,
        .context = conn,
        .access = &conn->access,
    };
    conn->access = (gw_access){ 0 };
    asker.token_readable = token_read(conn, &asker.token_given, &asker.token);
    if (!gw_config(server)->token_count && server->loopback)
        site_check(conn, conn->method, &asker);
    if (!asker.http_status && gw_auth_ask(&asker))
        return;
    gw_conn_fail(conn, asker.http_status, &asker.error, asker.retry_after_s);
    conn->challenge = asker.challenge;
}

bool gw_auth_sees_all(const gw_conn *conn)
{
    return conn->access.scopes & (SP_SCOPE_ADMIN | SP_SCOPE_METRICS);
}

sp_status gw_auth_may_bind(const gw_server *server, bool loopback, const char *address, sp_error *reterr)
{
    if (loopback || gw_config(server)->token_count)
        return SP_OK;
    return SP_FAIL_CODE(reterr, SP_INVALID, "not_loopback",
                        "refusing to listen on %.60s without access control: anybody who reaches that address could use "
                        "this server; configure tokens (spillway token new), or listen on 127.0.0.1 or ::1",
                        address);
}
