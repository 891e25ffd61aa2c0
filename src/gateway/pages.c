/* SPDX-License-Identifier: Apache-2.0
 * What the gateway answers by itself: health, readiness, metrics, and the page on which a person drops a picture. */
#include "gateway/auth.h"
#include "gateway/index_html.h"
#include "gateway/kserve.h"
#include "gateway/server.h"
#include "telemetry/telemetry.h"

#include <stdio.h>

/* SP_LIMIT_METRICS series, most of them histograms of 25 lines, would fit. */
#define METRICS_PAGE_BYTES (8u * 1024 * 1024)

static const char icon[] =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><rect width=\"32\" height=\"32\" rx=\"7\" "
    "fill=\"#0b6e99\"/>"
    "<path d=\"M5 10h9l4 6h9M5 16h6l4 6h12\" fill=\"none\" stroke=\"#fff\" stroke-width=\"3\" stroke-linecap=\"round\" "
    "stroke-linejoin=\"round\"/></svg>";

void gw_page_landing(gw_conn *conn)
{
    gw_reply(conn, 200, "text/html; charset=utf-8", (void *)(uintptr_t)sp_index_html, sizeof(sp_index_html) - 1,
             GW_STATIC, NULL);
    gw_reply_header(conn, "Cache-Control", "no-cache");
    gw_reply_header(
        conn, "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    gw_reply_header(conn, "X-Content-Type-Options", "nosniff");
}

void gw_page_icon(gw_conn *conn)
{
    gw_reply(conn, 200, "image/svg+xml", (void *)(uintptr_t)icon, sizeof(icon) - 1, GW_STATIC, NULL);
    gw_reply_header(conn, "Cache-Control", "max-age=86400");
}

static void text_field(sp_buf *out, const char *key, const char *text)
{
    sp_buf_printf(out, ",\"%s\":", key);
    sp_buf_append_json_text(out, text);
}

static void worker_write(sp_buf *out, const sp_worker_info *w)
{
    sp_buf_append_text(out, "{\"name\":");
    sp_buf_append_json_text(out, w->name);
    text_field(out, "kind", w->kind);
    text_field(out, "state", sp_worker_state_name(w->state));
    text_field(out, "reason", w->reason ? w->reason : "");
    if (w->code && w->code[0]) {
        text_field(out, "code", w->code);
        text_field(out, "remedy", w->remedy);
    }
    if (w->retry_in_ns)
        sp_buf_printf(out, ",\"retry_in_s\":%.1f", (double)w->retry_in_ns / 1e9);
    if (w->throttled)
        sp_buf_append_text(out, ",\"throttled\":true");
    sp_buf_printf(out, ",\"pid\":%d,\"restarts\":%d,\"in_flight\":%d", w->pid, w->restarts, w->in_flight);
    if (w->card) {
        text_field(out, "device", w->card->device);
        text_field(out, "model", w->card->model);
        text_field(out, "version", w->card->version);
        text_field(out, "digest", w->card->digest);
        text_field(out, "precision", w->card->precision);
        text_field(out, "engine", w->card->engine);
        text_field(out, "sandbox", w->card->sandbox);
        text_field(out, "detail", w->card->detail);
        if (w->card->nvjpeg[0])
            text_field(out, "nvjpeg", w->card->nvjpeg);
        sp_buf_printf(out, ",\"classes\":%u,\"max_batch\":%u,\"executors\":%u,\"p50_ms\":%.3f,\"p99_ms\":%.3f",
                      w->card->class_count, w->card->max_batch, w->card->executors, (double)w->card->p50_ns / 1e6,
                      (double)w->card->p99_ns / 1e6);
    }
    sp_buf_append_text(out, "}");
}

static void workers_write(sp_buf *out, const gw_server *server)
{
    sp_buf_append_text(out, ",\"workers\":[");
    for (int i = 0; i < sp_house_worker_count(server->house); i++) {
        sp_worker_info info = { 0 };
        sp_house_worker_info(server->house, i, &info);
        if (i)
            sp_buf_append_text(out, ",");
        worker_write(out, &info);
    }
    sp_buf_append_text(out, "]");
}

static void link_write(sp_buf *out, const sp_link_info *l)
{
    sp_buf_append_text(out, "{\"task\":");
    sp_buf_append_json_text(out, l->task ? l->task : "");
    text_field(out, "name", l->name ? l->name : "");
    text_field(out, "worker", l->worker ? l->worker : "");
    text_field(out, "breaker", sp_breaker_state_name(l->breaker));
    text_field(out, "reason", l->reason ? l->reason : "");
    sp_buf_printf(out,
                  ",\"remote\":%s,\"quarantined\":%s,\"retry_in_ms\":%.3f,\"in_flight\":%d,\"limit\":%d,"
                  "\"p50_ms\":%.3f,\"p95_ms\":%.3f,\"p99_ms\":%.3f,\"dollars_today\":%.6f}",
                  l->remote ? "true" : "false", l->quarantined ? "true" : "false", (double)l->retry_in_ns / 1e6,
                  l->in_flight, l->limit, (double)l->p50_ns / 1e6, (double)l->p95_ns / 1e6, (double)l->p99_ns / 1e6,
                  (double)l->microdollars_today / 1e6);
}

static void links_write(sp_buf *out, const gw_server *server)
{
    sp_buf_append_text(out, "\"links\":[");
    for (int i = 0; i < sp_house_link_count(server->house); i++) {
        sp_link_info info = { 0 };
        sp_house_link_info(server->house, i, &info);
        if (i)
            sp_buf_append_text(out, ",");
        link_write(out, &info);
    }
    sp_buf_append_text(out, "]");
}

/* Why /readyz would say no; "" when it would not. */
static const char *not_ready_reason(const gw_server *server, bool *ret_degraded)
{
    bool ready = sp_house_ready(server->house, ret_degraded);
    if (server->draining)
        return "draining: the server is about to stop";
    return ready ? "" : "no ready worker for some task yet";
}

static void tail_write(sp_buf *out, const char *reason)
{
    const gw_who who = { .link = "gateway", .device = "cpu", .precision = "none", .reason = reason };
    sp_buf_append_text(out, ",");
    gw_who_write(out, &who);
    sp_buf_append_text(out, "}\n");
}

/* For whoever may not see everything: alive, ready, no names. */
static void healthz_short(gw_conn *conn)
{
    bool degraded = false, draining = conn->server->draining;
    bool ready = sp_house_ready(conn->server->house, &degraded) && !draining;
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_printf(&json, "{\"status\":\"live\",\"ready\":%s,\"degraded\":%s,\"draining\":%s", ready ? "true" : "false",
                  degraded ? "true" : "false", draining ? "true" : "false");
    tail_write(&json, "");
    gw_reply_json(conn, 200, &json, NULL);
}

void gw_page_healthz(gw_conn *conn)
{
    const gw_server *server = conn->server;
    bool degraded = false;
    if (!gw_auth_sees_all(conn)) {
        healthz_short(conn);
        return;
    }
    const char *reason = not_ready_reason(server, &degraded);
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_printf(
        &json,
        "{\"status\":\"live\",\"version\":\"%s\",\"uptime_s\":%.3f,\"ready\":%s,\"degraded\":%s,\"draining\":%s,"
        "\"chaos\":%s,\"requests_open\":%d,\"leases_out\":%d,\"connections\":%d",
        SP_VERSION, (double)(sp_clock_now_ns() - server->started_ns) / 1e9, *reason ? "false" : "true",
        degraded ? "true" : "false", server->draining ? "true" : "false",
        server->config->allow_chaos ? "true" : "false", sp_house_open_count(server->house),
        sp_house_leased_count(server->house), server->conn_count);
    workers_write(&json, server);
    sp_buf_append_text(&json, ",");
    links_write(&json, server);
    tail_write(&json, reason);
    gw_reply_json(conn, 200, &json, NULL);
}

void gw_page_links(gw_conn *conn)
{
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_append_text(&json, "{");
    links_write(&json, conn->server);
    sp_buf_append_text(&json, "}\n");
    gw_reply_json(conn, 200, &json, NULL);
}

void gw_page_readyz(gw_conn *conn)
{
    bool degraded = false;
    const char *reason = not_ready_reason(conn->server, &degraded);
    if (*reason) {
        sp_error err = { 0 };
        (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, conn->server->draining ? "draining" : "not_ready", "%s", reason);
        gw_reply_problem(conn, 503, &err, 1, NULL);
        return;
    }
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_printf(&json, "{\"status\":\"ready\",\"ready\":true,\"degraded\":%s", degraded ? "true" : "false");
    tail_write(&json, "");
    gw_reply_json(conn, 200, &json, NULL);
}

static void worker_gauges(const gw_server *server)
{
    sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "spillway_requests_open", "", "Requests in the house"),
                  sp_house_open_count(server->house));
    sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "spillway_leases_out", "", "Slots leased to workers"),
                  sp_house_leased_count(server->house));
    for (int i = 0; i < sp_house_worker_count(server->house); i++) {
        sp_worker_info info = { 0 };
        char labels[64];
        sp_house_worker_info(server->house, i, &info);
        (void)snprintf(labels, sizeof(labels), "worker=\"%s\"", info.name);
        sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "spillway_worker_ready", labels, "1 when the worker takes work"),
                      info.state == SP_WORKER_READY);
        sp_metric_set(
            sp_metric_get(SP_METRIC_GAUGE, "spillway_worker_restarts", labels, "Times the worker was started again"),
            info.restarts);
        sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "spillway_worker_in_flight", labels, "Leases the worker holds"),
                      info.in_flight);
    }
}

void gw_page_metrics(gw_conn *conn)
{
    sp_buf text;
    size_t size_bytes = 0;
    sp_buf_init(&text, METRICS_PAGE_BYTES);
    worker_gauges(conn->server);
    sp_telemetry_write(&text);
    gw_devices_metrics(conn->server, &text);
    gw_kserve_metrics(conn->server, &text);
    char *page = sp_buf_take(&text, &size_bytes);
    if (page) {
        gw_reply(conn, 200, "text/plain; version=0.0.4; charset=utf-8", page, size_bytes, GW_TAKE, NULL);
    } else {
        sp_error err = { 0 };
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the metrics page");
        gw_reply_problem(conn, 503, &err, 1, NULL);
    }
    sp_buf_done(&text);
}
