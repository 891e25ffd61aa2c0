/* SPDX-License-Identifier: Apache-2.0
 * Followers of the event bus, and the text/event-stream that most of them read. libmicrohttpd asks for bytes when the
 * socket takes some; when there are none the connection is suspended until the bus has news. */
#include "gateway/events.h"

#include <stdio.h>
#include <stdlib.h>

/* A word of the list that ends in '*' is a prefix. */
bool gw_word_listed(const char *list, const char *word)
{
    size_t word_bytes = strlen(word);
    if (!*list)
        return true;
    while (*list) {
        size_t n = strcspn(list, ",");
        bool prefix = n && list[n - 1] == '*';
        if (prefix ? n - 1 <= word_bytes && strncmp(list, word, n - 1) == 0
                   : n == word_bytes && strncmp(list, word, n) == 0)
            return true;
        list += n;
        list += *list == ',';
    }
    return false;
}

static bool wanted(const gw_follower *f, const sp_event *event)
{
    return (f->any_tenant || strcmp(event->tenant, f->tenant) == 0) && gw_word_listed(f->topics, event->topic) &&
           gw_word_listed(f->kinds, event->kind);
}

/* Numbers begin at 1 in each process, so an id names the process as well. */
static void id_write(const gw_follower *f, uint64_t id, char *ret_text, size_t text_bytes)
{
    (void)snprintf(ret_text, text_bytes, "%08x-%llu", f->conn->server->boot_id, (unsigned long long)id);
}

static void event_write(gw_follower *f, const sp_event *event)
{
    char id[40];
    sp_buf json;
    sp_buf_init(&json, GW_FOLLOW_EVENT_BYTES);
    id_write(f, event->id, id, sizeof(id));
    sp_buf_printf(&json, "{\"id\":\"%s\",\"unix_ms\":%lld,\"kind\":", id, (long long)event->unix_ms);
    sp_buf_append_json_text(&json, event->kind);
    sp_buf_append_text(&json, ",\"topic\":");
    sp_buf_append_json_text(&json, event->topic);
    sp_buf_append_text(&json, ",\"tenant\":");
    sp_buf_append_json_text(&json, event->tenant);
    sp_buf_append_text(&json, ",\"data\":");
    sp_buf_append_text(&json, event->data);
    sp_buf_append_text(&json, "}");
    if (sp_buf_ok(&json))
        f->frame(f, id, event->kind, sp_buf_view(&json));
    else
        f->broken = true; /* no event is left out in silence: the client comes again with its Last-Event-ID */
    sp_buf_done(&json);
    if (*f->until && gw_word_listed(f->until, event->kind))
        f->ending = true;
}

static void skipped_write(gw_follower *f, uint64_t count)
{
    char json[96];
    int n = snprintf(json, sizeof(json), "{\"kind\":\"events.skipped\",\"data\":{\"count\":%llu}}", (unsigned long long)count);
    f->frame(f, NULL, "events.skipped", sp_view_make(json, (size_t)n));
}

bool gw_follower_fill(gw_follower *f, int *budget)
{
    sp_event event;
    while (!f->ending && !f->broken && f->due && gw_follower_waiting(f) < GW_FOLLOW_BYTES && *budget > 0) {
        if (!sp_event_next(f->seen_id, &event)) {
            f->due = false;
            break;
        }
        --*budget;
        if (event.id > f->seen_id + 1) /* how many of them were for this reader is not known any more */
            skipped_write(f, event.id - f->seen_id - 1);
        f->seen_id = event.id;
        if (wanted(f, &event))
            event_write(f, &event);
    }
    if (!sp_buf_ok(&f->out))
        f->broken = true; /* no memory, likewise */
    return gw_follower_waiting(f) > 0;
}

void gw_follower_took(gw_follower *f, size_t size_bytes)
{
    f->out_sent += size_bytes;
    f->progress_ns = sp_loop_now_ns(f->conn->server->loop);
    if (f->out_sent == f->out.size_bytes) {
        sp_buf_clear(&f->out);
        f->out_sent = 0;
    }
}

/* --- the pump ---------------------------------------------------------------------------------------------------- */

/* Every follower gets a few events in turn; what is left is done in the next turn of the loop. */
static void pump(gw_server *server)
{
    int budget = GW_FOLLOW_BUDGET;
    bool more = false;
    for (gw_follower *f = server->followers, *next; f; f = next) {
        int share = SP_MIN(budget, 8);
        next = f->next;
        budget -= share;
        bool had = gw_follower_waiting(f) > 0;
        bool has = gw_follower_fill(f, &share);
        budget += share;
        more = more || (f->due && gw_follower_waiting(f) < GW_FOLLOW_BYTES && !f->ending);
        if ((has && !had) || f->ending || f->broken)
            f->flush(f);
    }
    if (more) {
        /* The one that came last begins the next time. */
        gw_follower *first = server->followers;
        if (first && first->next) {
            gw_follower *last = first;
            while (last->next)
                last = last->next;
            server->followers = first->next;
            first->next->prev = NULL;
            last->next = first;
            first->prev = last;
            first->next = NULL;
        }
        (void)sp_loop_timer_set(server->loop, &server->follow_timer, sp_loop_now_ns(server->loop), NULL);
    }
}

static void pump_fire(sp_timer *timer, void *context)
{
    (void)timer;
    pump(context);
}

static void news(void *context)
{
    gw_server *server = context;
    for (gw_follower *f = server->followers; f; f = f->next)
        f->due = true;
    pump(server);
}

void gw_events_start(gw_server *server)
{
    server->follow_timer = (sp_timer){ .fire = pump_fire, .context = server };
    server->subscriber = (sp_event_subscriber){ .news = news, .context = server };
    sp_events_subscribe(&server->subscriber);
    server->followers_metric = sp_metric_get(SP_METRIC_GAUGE, "spillway_event_followers", "", "Open event streams and sockets");
}

void gw_events_stop(gw_server *server)
{
    for (gw_follower *f = server->followers, *next; f; f = next) {
        next = f->next;
        f->ending = true;
        f->flush(f);
    }
    sp_events_unsubscribe(&server->subscriber);
    sp_loop_timer_clear(server->loop, &server->follow_timer);
}

void gw_follower_kick(gw_follower *f)
{
    gw_server *server = f->conn->server;
    if (f->due && !f->ending && gw_follower_waiting(f) < GW_FOLLOW_BYTES)
        (void)sp_loop_timer_set(server->loop, &server->follow_timer, sp_loop_now_ns(server->loop), NULL);
}

/* --- followers --------------------------------------------------------------------------------------------------- */

static bool list_take(char *dst, size_t dst_bytes, const char *src)
{
    return (size_t)snprintf(dst, dst_bytes, "%s", src ? src : "") < dst_bytes;
}

/* Where to go on: after the id that the client saw last, when it is one of this process; of another one everything that
 * is kept is new to it. Without an id only what comes from now on. */
static uint64_t begin_after(const gw_conn *conn)
{
    const char *text = gw_header(conn, "Last-Event-ID");
    unsigned boot = 0;
    unsigned long long id = 0;
    uint64_t last = sp_event_last_id();
    if (!text)
        text = gw_query(conn, "last_event_id");
    if (!text || !*text)
        return last;
    if (strlen(text) > 32 || sscanf(text, "%8x-%19llu", &boot, &id) != 2 || boot != conn->server->boot_id || id > last)
        return 0;
    return id;
}

gw_follower *gw_follower_new(gw_conn *conn, const gw_follow *what)
{
    gw_server *server = conn->server;
    sp_error err = { 0 };
    if (server->follower_count >= GW_FOLLOWERS) {
        (void)SP_FAIL_CODE(&err, SP_BUSY, "too_many_streams", "too many event streams are open (at most %d)", GW_FOLLOWERS);
        gw_conn_fail(conn, 429, &err, 5);
        return NULL;
    }
    gw_follower *f = calloc(1, sizeof(*f));
    if (!f) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the stream");
        gw_conn_fail(conn, 503, &err, 1);
        return NULL;
    }
    if (!list_take(f->topics, sizeof(f->topics), what->topics) || !list_take(f->kinds, sizeof(f->kinds), what->kinds) ||
        !list_take(f->until, sizeof(f->until), what->until)) {
        free(f);
        (void)SP_FAIL_CODE(&err, SP_INVALID, "bad_parameter", "topic and kind may have 255 bytes each");
        gw_conn_fail(conn, 400, &err, 0);
        return NULL;
    }
    f->conn = conn;
    f->any_tenant = what->granted || (conn->access.scopes & SP_SCOPE_ADMIN);
    (void)snprintf(f->tenant, sizeof(f->tenant), "%s", conn->access.tenant);
    f->seen_id = begin_after(conn);
    f->due = !what->ended;
    f->progress_ns = f->wrote_ns = sp_loop_now_ns(server->loop);
    sp_buf_init(&f->out, GW_FOLLOW_BYTES + 4 * GW_FOLLOW_EVENT_BYTES);
    f->next = server->followers;
    if (f->next)
        f->next->prev = f;
    server->followers = f;
    sp_metric_set(server->followers_metric, ++server->follower_count);
    return f;
}

void gw_follower_free(gw_follower *f)
{
    gw_server *server = f->conn->server;
    if (f->prev)
        f->prev->next = f->next;
    else
        server->followers = f->next;
    if (f->next)
        f->next->prev = f->prev;
    sp_metric_set(server->followers_metric, --server->follower_count);
    sp_buf_done(&f->out);
    free(f);
}

void gw_events_half_closed(gw_conn *conn)
{
    gw_follower *f = conn->state;
    if (f && !gw_follower_waiting(f)) {
        f->beat(f); /* whoever is gone answers it with a reset */
        f->flush(f);
    }
}

void gw_events_sweep(gw_conn *conn, int64_t now_ns)
{
    gw_follower *f = conn->state;
    if (!f)
        return;
    if (gw_follower_waiting(f) && now_ns - f->progress_ns > GW_SEND_MS * SP_NS_PER_MS) {
        gw_conn_cut(conn);
        f->broken = true;
        f->flush(f);
    } else if (conn->server->draining && conn->server->listeners_closed && !f->ending) {
        f->ending = true;
        f->flush(f);
    } else if (!gw_follower_waiting(f) && now_ns - f->wrote_ns > GW_HEARTBEAT_MS * SP_NS_PER_MS) {
        f->beat(f);
        f->flush(f);
    }
}

/* --- text/event-stream ------------------------------------------------------------------------------------------- */

static void sse_frame(gw_follower *f, const char *id, const char *kind, sp_view json)
{
    if (id)
        sp_buf_printf(&f->out, "id: %s\n", id);
    sp_buf_printf(&f->out, "event: %s\ndata: ", kind);
    sp_buf_append(&f->out, json.data, json.size_bytes);
    sp_buf_append_text(&f->out, "\n\n");
    f->wrote_ns = sp_loop_now_ns(f->conn->server->loop);
}

static void sse_beat(gw_follower *f)
{
    sp_buf_append_text(&f->out, ": still here\n\n");
    f->wrote_ns = f->progress_ns = sp_loop_now_ns(f->conn->server->loop);
}

static void sse_flush(gw_follower *f)
{
    if (f->conn->suspended)
        gw_conn_resume(f->conn);
}

/* libmicrohttpd wants more of the answer. */
static ssize_t sse_read(void *context, uint64_t position, char *buffer, size_t size_bytes)
{
    (void)position;
    gw_follower *f = ((gw_conn *)context)->state;
    int budget = 8;
    if (!f || f->broken)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (!gw_follower_waiting(f))
        (void)gw_follower_fill(f, &budget);
    if (f->broken)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = SP_MIN(gw_follower_waiting(f), size_bytes);
    if (n) {
        memcpy(buffer, f->out.data + f->out_sent, n);
        gw_follower_took(f, n);
        return (ssize_t)n;
    }
    if (f->ending)
        return MHD_CONTENT_READER_END_OF_STREAM;
    gw_follower_kick(f); /* the budget may be spent; then the pump goes on */
    gw_conn_suspend(f->conn);
    return 0;
}

static void sse_drop(gw_conn *conn)
{
    gw_follower_free(SP_STEAL(conn->state));
}

void gw_events_follow(gw_conn *conn, const gw_follow *what)
{
    gw_follower *f = gw_follower_new(conn, what);
    if (!f)
        return;
    f->frame = sse_frame;
    f->beat = sse_beat;
    f->flush = sse_flush;
    f->ending = what->ended;
    conn->state = f;
    conn->drop = sse_drop;
    /* Browsers wait this long before they come again. */
    sp_buf_append_text(&f->out, "retry: 2000\n\n");
    if (what->first_data)
        sse_frame(f, NULL, what->first_kind, sp_view_of(what->first_data));
    gw_reply_stream(conn, 200, "text/event-stream", sse_read);
    gw_reply_header(conn, "Cache-Control", "no-store");
    gw_reply_header(conn, "X-Accel-Buffering", "no"); /* a proxy that collects answers would hold them back */
    if (!conn->head)
        conn->streaming = true;
}

bool gw_events_wanted(gw_conn *conn, gw_follow *ret_what)
{
    *ret_what = (gw_follow){ .topics = gw_query(conn, "topic"), .kinds = gw_query(conn, "kind") };
    if ((conn->access.scopes & SP_SCOPE_ADMIN) || *conn->access.tenant)
        return true;
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_DENIED, "no_tenant",
                       "events are shown by tenant, and this token has none; give it a tenant or the scope admin");
    gw_conn_fail(conn, 403, &err, 0);
    return false;
}

void gw_events_run(gw_conn *conn)
{
    gw_follow what;
    if (gw_events_wanted(conn, &what))
        gw_events_follow(conn, &what);
}
