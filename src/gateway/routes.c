/* SPDX-License-Identifier: Apache-2.0
 * The HTTP API as a table: which method and path have which handler, where they may be asked and what scope it takes.
 * How to write a handler stands in server.h. */
#include "gateway/events.h"
#include "gateway/jobs.h"
#include "gateway/kserve.h"
#include "gateway/server.h"

#include <stdio.h>

#define ON_HTTP    (1u << GW_LISTEN_HTTP)
#define ON_METRICS (1u << GW_LISTEN_METRICS)
#define ON_ADMIN   (1u << GW_LISTEN_ADMIN)
#define ON_ALL     (ON_HTTP | ON_METRICS | ON_ADMIN)

#define INFER   SP_SCOPE_INFER
#define ADMIN   SP_SCOPE_ADMIN
#define METRICS (SP_SCOPE_METRICS | SP_SCOPE_ADMIN)
#define BODY    gw_kserve_body_begin, gw_body_append
#define ANY     (SP_SCOPE_INFER | SP_SCOPE_METRICS | SP_SCOPE_ADMIN)

/* The busiest come first: the search is linear. A path that is written out goes before one with a parameter. */
static const gw_route routes[] = {
    { "POST", "/infer", ON_HTTP, INFER, gw_infer_run, gw_infer_begin, gw_infer_append },
    { "POST", "/v2/models/{model}/infer", ON_HTTP, INFER, gw_kserve_infer_run, gw_kserve_infer_begin, gw_kserve_infer_append },
    { "POST", "/v2/models/{model}/versions/{version}/infer", ON_HTTP, INFER, gw_kserve_infer_run, gw_kserve_infer_begin,
      gw_kserve_infer_append },
    { "POST", "/v1/detect", ON_HTTP, INFER, gw_infer_run, gw_infer_begin, gw_infer_append },
    { "GET", "/healthz", ON_ALL, 0, gw_page_healthz, NULL, NULL },
    { "GET", "/readyz", ON_ALL, 0, gw_page_readyz, NULL, NULL },
    { "GET", "/metrics", ON_ALL, METRICS, gw_page_metrics, NULL, NULL },
    { "GET", "/", ON_HTTP, ANY, gw_page_landing, NULL, NULL },
    { "POST", "/v1/jobs", ON_HTTP, INFER, gw_jobs_run, gw_jobs_begin, gw_jobs_append },
    { "GET", "/v1/jobs/{id}", ON_HTTP, INFER | ADMIN, gw_jobs_get, NULL, NULL },
    { "GET", "/v1/jobs", ON_HTTP, INFER | ADMIN, gw_jobs_list, NULL, NULL },
    { "DELETE", "/v1/jobs/{id}", ON_HTTP, INFER | ADMIN, gw_jobs_delete, NULL, NULL },
    { "GET", "/v1/jobs/{id}/events", ON_HTTP, INFER | ADMIN, gw_jobs_events, NULL, NULL },
    { "POST", "/v1/videos/analyses", ON_HTTP, INFER, gw_jobs_run, gw_jobs_begin, gw_jobs_append },
    { "GET", "/v1/videos/analyses", ON_HTTP, INFER | ADMIN, gw_jobs_list, NULL, NULL },
    { "GET", "/v1/videos/analyses/{id}", ON_HTTP, INFER | ADMIN, gw_jobs_get, NULL, NULL },
    { "DELETE", "/v1/videos/analyses/{id}", ON_HTTP, INFER | ADMIN, gw_jobs_delete, NULL, NULL },
    { "GET", "/v1/videos/analyses/{id}/events", ON_HTTP, INFER | ADMIN, gw_jobs_events, NULL, NULL },
    { "GET", "/v1/videos/analyses/{id}/report.json", ON_HTTP, INFER | ADMIN, gw_videos_report, NULL, NULL },
    { "GET", "/v1/videos/analyses/{id}/files/{name}", ON_HTTP, INFER | ADMIN, gw_videos_file, NULL, NULL },
    { "GET", "/v1/videos/analyses/{id}/files/{directory}/{name}", ON_HTTP, INFER | ADMIN, gw_videos_file, NULL, NULL },
    { "GET", "/v1/results", ON_HTTP, INFER | ADMIN, gw_results_list, NULL, NULL },
    { "GET", "/v1/results/{id}", ON_HTTP, INFER | ADMIN, gw_results_get, NULL, NULL },
    { "DELETE", "/v1/results/{id}", ON_HTTP, INFER | ADMIN, gw_results_delete, NULL, NULL },
    { "GET", "/v1/devices", ON_ALL, METRICS, gw_page_devices, NULL, NULL },
    { "GET", "/v1/costs", ON_HTTP, INFER | ADMIN, gw_costs, NULL, NULL },
    { "GET", "/v1/events", ON_HTTP | ON_ADMIN, INFER | ADMIN, gw_events_run, NULL, NULL },
    { "GET", "/v1/events/ws", ON_HTTP | ON_ADMIN, INFER | ADMIN, gw_events_socket_run, NULL, NULL },
    { "GET", "/v1/links", ON_HTTP | ON_ADMIN, METRICS, gw_page_links, NULL, NULL },
    { "GET", "/favicon.ico", ON_HTTP, ANY, gw_page_icon, NULL, NULL },
    { "GET", "/v2/health/live", ON_HTTP, 0, gw_kserve_live, NULL, NULL },
    { "GET", "/v2/health/ready", ON_HTTP, 0, gw_kserve_ready, NULL, NULL },
    { "GET", "/v2", ON_HTTP, ANY, gw_kserve_server, NULL, NULL },
    { "GET", "/v2/", ON_HTTP, ANY, gw_kserve_server, NULL, NULL },
    { "GET", "/v2/models/stats", ON_HTTP, ANY, gw_kserve_stats, NULL, NULL },
    { "GET", "/v2/models/{model}", ON_HTTP, ANY, gw_kserve_model, NULL, NULL },
    { "GET", "/v2/models/{model}/versions/{version}", ON_HTTP, ANY, gw_kserve_model, NULL, NULL },
    { "GET", "/v2/models/{model}/ready", ON_HTTP, 0, gw_kserve_model_ready, NULL, NULL },
    { "GET", "/v2/models/{model}/versions/{version}/ready", ON_HTTP, 0, gw_kserve_model_ready, NULL, NULL },
    { "GET", "/v2/models/{model}/config", ON_HTTP, ANY, gw_kserve_config, NULL, NULL },
    { "GET", "/v2/models/{model}/versions/{version}/config", ON_HTTP, ANY, gw_kserve_config, NULL, NULL },
    { "GET", "/v2/models/{model}/stats", ON_HTTP, ANY, gw_kserve_stats, NULL, NULL },
    { "GET", "/v2/models/{model}/versions/{version}/stats", ON_HTTP, ANY, gw_kserve_stats, NULL, NULL },
    { "POST", "/v2/repository/index", ON_HTTP, ANY, gw_kserve_index, BODY },
    { "POST", "/v2/repository/models/{model}/load", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_load, gw_kserve_load_begin, gw_body_append },
    { "POST", "/v2/repository/models/{model}/unload", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_unload, BODY },
    { "POST", "/v2/repository/{repository}/index", ON_HTTP, ANY, gw_kserve_repository_named, NULL, NULL },
    { "POST", "/v2/repository/{repository}/models/{model}/load", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_repository_named, NULL, NULL },
    { "POST", "/v2/repository/{repository}/models/{model}/unload", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_repository_named, NULL, NULL },
    { "GET", "/v2/systemsharedmemory/status", ON_HTTP, INFER | ADMIN, gw_kserve_region_status, NULL, NULL },
    { "GET", "/v2/systemsharedmemory/region/{region}/status", ON_HTTP, INFER | ADMIN, gw_kserve_region_status, NULL, NULL },
    { "POST", "/v2/systemsharedmemory/region/{region}/register", ON_HTTP, INFER, gw_kserve_region_register, BODY },
    { "POST", "/v2/systemsharedmemory/region/{region}/unregister", ON_HTTP, INFER, gw_kserve_region_unregister, BODY },
    { "POST", "/v2/systemsharedmemory/unregister", ON_HTTP, INFER, gw_kserve_region_unregister, BODY },
    { "GET", "/v2/cudasharedmemory/status", ON_HTTP, ANY, gw_kserve_unsupported, NULL, NULL },
    { "GET", "/v2/cudasharedmemory/region/{region}/status", ON_HTTP, ANY, gw_kserve_unsupported, NULL, NULL },
    { "POST", "/v2/cudasharedmemory/region/{region}/register", ON_HTTP, ANY, gw_kserve_unsupported, NULL, NULL },
    { "POST", "/v2/cudasharedmemory/region/{region}/unregister", ON_HTTP, ANY, gw_kserve_unsupported, NULL, NULL },
    { "POST", "/v2/cudasharedmemory/unregister", ON_HTTP, ANY, gw_kserve_unsupported, NULL, NULL },
    { "GET", "/v2/trace/setting", ON_HTTP, ANY, gw_kserve_trace, NULL, NULL },
    { "POST", "/v2/trace/setting", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_trace_set, BODY },
    { "GET", "/v2/models/{model}/trace/setting", ON_HTTP, ANY, gw_kserve_trace, NULL, NULL },
    { "POST", "/v2/models/{model}/trace/setting", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_trace_set, BODY },
    { "GET", "/v2/logging", ON_HTTP, ANY, gw_kserve_logging, NULL, NULL },
    { "POST", "/v2/logging", ON_HTTP | ON_ADMIN, ADMIN, gw_kserve_logging_set, BODY },
    { "POST", "/v2/models/{model}/generate", ON_HTTP, INFER, gw_kserve_unsupported, NULL, NULL },
    { "POST", "/v2/models/{model}/generate_stream", ON_HTTP, INFER, gw_kserve_unsupported, NULL, NULL },
    { "POST", "/v2/models/{model}/versions/{version}/generate", ON_HTTP, INFER, gw_kserve_unsupported, NULL, NULL },
    { "POST", "/v2/models/{model}/versions/{version}/generate_stream", ON_HTTP, INFER, gw_kserve_unsupported, NULL, NULL },
};

#define ROUTES SP_ARRAY_LEN(routes)

/* Takes the segments that stand where `path` has braces. */
static bool path_fits(const char *path, const char *url, char params[GW_PARAMS][GW_PARAM_BYTES])
{
    int count = 0;
    while (*path) {
        if (*path != '{') {
            if (*path++ != *url++)
                return false;
            continue;
        }
        size_t n = strcspn(url, "/");
        if (!n || n >= GW_PARAM_BYTES || count == GW_PARAMS)
            return false;
        memcpy(params[count], url, n);
        params[count++][n] = 0;
        url += n;
        path += strcspn(path, "}") + 1;
    }
    if (*url)
        return false;
    for (; count < GW_PARAMS; count++)
        params[count][0] = 0;
    return true;
}

static bool method_fits(const gw_route *route, const char *method)
{
    return strcmp(method, route->method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(route->method, "GET") == 0);
}

void gw_route_find(gw_conn *conn, const char *url, const char *method)
{
    sp_error err = { 0 };
    const gw_route *other = NULL; /* has the path, but not the method */
    conn->route = NULL;
    for (const gw_route *route = routes; route < routes + ROUTES; route++) {
        /* With an admin port, what only admins may do is only there. */
        bool moved = route->scopes == ADMIN && conn->listener == GW_LISTEN_HTTP &&
                     conn->server->listeners[GW_LISTEN_ADMIN].port;
        if (moved || !(route->listeners & 1u << conn->listener) || !path_fits(route->path, url, conn->params))
            continue;
        if (method_fits(route, method)) {
            conn->route = route;
            return;
        }
        other = other ? other : route;
    }
    if (!other) {
        (void)SP_FAIL_CODE(&err, SP_NOT_FOUND, "no_such_path",
                           "there is nothing at %.100s; this server has POST /infer, GET /, /healthz, /readyz and "
                           "/metrics, and what docs/cli.md lists under /v1",
                           url);
        gw_conn_fail(conn, 404, &err, 0);
        return;
    }
    conn->route = other;
    sp_buf methods;
    sp_buf_init(&methods, 128);
    gw_route_allow(conn, &methods);
    (void)SP_FAIL_CODE(&err, SP_INVALID, "method", "%.100s takes %.*s, not %.20s", url, (int)methods.size_bytes,
                       (const char *)methods.data, method);
    gw_conn_fail(conn, 405, &err, 0);
    sp_buf_done(&methods);
}

void gw_route_allow(const gw_conn *conn, sp_buf *ret_methods)
{
    for (const gw_route *route = routes; route < routes + ROUTES; route++) {
        if (strcmp(route->path, conn->route->path) != 0)
            continue;
        sp_buf_printf(ret_methods, "%s%s%s", ret_methods->size_bytes ? ", " : "", route->method,
                      strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
    }
}

/* One series per route, task and status; looked up once, kept here. */
void gw_route_count(const gw_conn *conn)
{
    static sp_metric *counters[ROUTES + 1][SP_TASK_COUNT][600];
    static sp_metric *times[ROUTES + 1][SP_TASK_COUNT];
    size_t index = conn->route ? (size_t)(conn->route - routes) : ROUTES;
    const char *path = conn->route ? conn->route->path : "other";
    bool infer = conn->route && conn->route->run == gw_infer_run;
    sp_task task = infer ? conn->options.task : 0;
    int status = conn->response_status >= 100 && conn->response_status < 600 ? conn->response_status : 599;
    sp_metric **counter = &counters[index][task][status];
    char labels[128];
    if (!*counter) {
        (void)snprintf(labels, sizeof(labels), "route=\"%s\",task=\"%s\",code=\"%d\"", path,
                       infer ? sp_task_name(task) : "", status);
        *counter = sp_metric_get(SP_METRIC_COUNTER, "spillway_requests_total", labels, "Requests answered");
    }
    sp_metric_add(*counter, 1);
    sp_metric **time = &times[index][task];
    if (!*time) {
        (void)snprintf(labels, sizeof(labels), "route=\"%s\",task=\"%s\"", path, infer ? sp_task_name(task) : "");
        *time = sp_metric_get(SP_METRIC_HISTOGRAM, "spillway_request_seconds", labels,
                              "From the request line to the answer being handed to the socket");
    }
    sp_metric_observe_ns(*time, sp_clock_now_ns() - conn->received_ns);
}
