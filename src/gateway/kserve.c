/* SPDX-License-Identifier: Apache-2.0
 * KServe V2: what there is (kserve.h). */
#include "gateway/kserve.h"

#include "gateway/flight.h"
#include "worker/visible.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- start, end, errors -------------------------------------------------------------------------------------------- */

/* What was asked for at the start is loaded or has failed. */
static void started(int failures, void *context)
{
    gw_server *server = context;

    if (!failures || !gw_config(server)->exit_on_error)
        return;
    (void)SP_FAIL(&server->end_error, SP_UNAVAILABLE, "%d of the models cannot be loaded (exit_on_error); the log says why", failures);
    sp_loop_stop(server->loop);
}

sp_status gw_kserve_open(gw_server *server, sp_error *reterr)
{
    gw_kserve *kserve = calloc(1, sizeof(*kserve));
    if (!kserve)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the served models");
    server->kserve = kserve;
    kserve->shared_memory_anywhere = gw_config(server)->shared_memory_anywhere;
    const sp_config *keys = gw_config(server);
    sp_serving_config config = {
        .executable = server->config->executable,
        .mode = !strcmp(keys->model_control_mode, "poll")       ? SP_CONTROL_MODE_POLL
                : !strcmp(keys->model_control_mode, "explicit") ? SP_CONTROL_MODE_EXPLICIT
                                                                : SP_CONTROL_MODE_NONE,
        .poll_s = keys->repository_poll_s,
        .load_timeout_ms = 120000,
        .strict_readiness = keys->strict_readiness,
        .started = started,
        .started_context = server,
        .shared_memory_anywhere = kserve->shared_memory_anywhere,
    };
    if (server->config->model_repository)
        config.repositories[config.repository_count++] = server->config->model_repository;
    for (int i = 0; i < keys->more_repository_count; i++)
        config.repositories[config.repository_count++] = keys->more_repositories[i];
    for (int i = 0; i < keys->load_model_count; i++)
        config.load_models[config.load_model_count++] = keys->load_models[i];
    sp_status s = sp_serving_new(&config, server->loop, server->house, &kserve->serving, reterr);
    if (!s)
        sp_serving_set_cache(kserve->serving, gw_flights_cache(server));
    return s;
}

void gw_kserve_close(gw_server *server)
{
    gw_kserve *kserve = SP_STEAL(server->kserve);
    if (!kserve)
        return;
    if (kserve->store)
        sp_store_thread_free(kserve->store);
    if (kserve->serving)
        sp_serving_free(kserve->serving);
    free(kserve);
}

bool gw_kserve_path(const char *url)
{
    return strncmp(url, "/v2", 3) == 0 && (!url[3] || url[3] == '/');
}

/* Triton's codes: what is in the way is the caller's fault, like anything else that the caller can mend. */
int gw_kserve_status(sp_status status, const sp_error *err)
{
    return status == SP_CONFLICT ? 400 : gw_http_status(status, err);
}

void gw_kserve_fail(gw_conn *conn, sp_status status, sp_error *err, int retry_after_s)
{
    err->status = status;
    gw_conn_fail(conn, gw_kserve_status(status, err), err, retry_after_s ? retry_after_s : status == SP_BUSY);
}

void gw_kserve_error_write(sp_buf *out, const sp_error *err)
{
    sp_buf_append_text(out, "{\"error\":");
    sp_buf_append_json_text(out, *err->message ? err->message : sp_status_name(err->status));
    sp_buf_append_text(out, "}");
}

static sp_serving *serving_of(const gw_conn *conn)
{
    return conn->server->kserve->serving;
}

/* The model and version that the path names. NULL: refused. */
static sp_served *served_of(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_served *served = NULL;
    sp_status s = sp_serving_find(serving_of(conn), conn->params[0], conn->params[1], &served, &err);
    if (s)
        gw_kserve_fail(conn, s, &err, 0);
    return s ? NULL : served;
}

/* --- health ---------------------------------------------------------------------------------------------------------- */

static void empty(gw_conn *conn)
{
    static char nothing[1];
    gw_reply(conn, 200, NULL, nothing, 0, GW_STATIC, NULL);
}

static void not_ready(gw_conn *conn, const char *why)
{
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_UNAVAILABLE, "not_ready", "%s", why);
    gw_conn_fail(conn, 400, &err, 0); /* Triton's code for it */
}

void gw_kserve_live(gw_conn *conn)
{
    empty(conn);
}

void gw_kserve_ready(gw_conn *conn)
{
    if (conn->server->draining)
        not_ready(conn, "the server is about to stop");
    else if (!sp_serving_ready(serving_of(conn)))
        not_ready(conn, "not all models are ready; POST /v2/repository/index says which");
    else
        empty(conn);
}

void gw_kserve_model_ready(gw_conn *conn)
{
    sp_served *served = NULL;
    sp_error err = { 0 };
    if (sp_serving_model_ready(serving_of(conn), conn->params[0], conn->params[1])) {
        empty(conn);
        return;
    }
    sp_status s = sp_serving_find(serving_of(conn), conn->params[0], conn->params[1], &served, &err);
    if (s == SP_NOT_FOUND)
        gw_kserve_fail(conn, s, &err, 0);
    else
        not_ready(conn, s ? err.message : "Model version not ready");
}

/* --- metadata ---------------------------------------------------------------------------------------------------------- */

void gw_kserve_server_write(sp_buf *out)
{
    sp_buf_append_text(out, "{\"name\":\"spillway\",\"version\":\"" SP_VERSION "\",\"extensions\":["
                              "\"classification\",\"sequence\",\"model_repository\",\"model_repository(unload_dependents)\","
                              "\"schedule_policy\",\"model_configuration\",\"system_shared_memory\",\"binary_tensor_data\","
                              "\"parameters\",\"statistics\",\"trace\",\"logging\"]}");
}

void gw_kserve_server(gw_conn *conn)
{
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    gw_kserve_server_write(&json);
    gw_reply_json(conn, 200, &json, NULL);
}

static void ports_write(sp_buf *out, const sp_model_port *ports, int count, bool batch)
{
    for (int i = 0; i < count; i++) {
        const sp_model_port *port = &ports[i];
        const char *comma = "";
        sp_buf_append_text(out, i ? ",{\"name\":" : "{\"name\":");
        sp_buf_append_json_text(out, port->name);
        sp_buf_printf(out, ",\"datatype\":\"%s\",\"shape\":[", sp_dtype_kserve(port->dtype) ? sp_dtype_kserve(port->dtype) : "INVALID");
        if (batch && !port->is_shape_tensor) {
            sp_buf_append_text(out, "-1");
            comma = ",";
        }
        for (int d = 0; d < port->rank; d++, comma = ",")
            sp_buf_printf(out, "%s%lld", comma, (long long)port->dims[d]);
        sp_buf_append_text(out, "]}");
    }
}

typedef struct versions {
    sp_buf *out;
    const char *name;
    int count;
} versions;

static void version_write(sp_served *served, void *context)
{
    versions *v = context;
    if (strcmp(served->name, v->name) == 0)
        sp_buf_printf(v->out, "%s\"%s\"", v->count++ ? "," : "", served->version_text);
}

void gw_kserve_model_write(sp_serving *serving, const sp_served *served, sp_buf *out)
{
    const sp_model_config *config = &served->card->config;
    bool batch = config->max_batch_size > 0;
    sp_buf_append_text(out, "{\"name\":");
    sp_buf_append_json_text(out, served->name);
    sp_buf_append_text(out, ",\"versions\":[");
    versions v = { .out = out, .name = served->name };
    sp_serving_each_loaded(serving, version_write, &v);
    sp_buf_append_text(out, "],\"platform\":");
    sp_buf_append_json_text(out, *config->platform ? config->platform : config->backend);
    sp_buf_append_text(out, ",\"inputs\":[");
    ports_write(out, config->inputs, config->input_count, batch);
    sp_buf_append_text(out, "],\"outputs\":[");
    ports_write(out, config->outputs, config->output_count, batch);
    sp_buf_append_text(out, "]}");
}

void gw_kserve_model(gw_conn *conn)
{
    sp_served *served = served_of(conn);
    sp_buf json;
    if (!served)
        return;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    gw_kserve_model_write(serving_of(conn), served, &json);
    gw_reply_json(conn, 200, &json, NULL);
}

void gw_kserve_config(gw_conn *conn)
{
    sp_served *served = served_of(conn);
    sp_buf json;
    if (!served)
        return;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_model_config_write(&served->card->config, &json);
    gw_reply_json(conn, 200, &json, NULL);
}

/* --- statistics ---------------------------------------------------------------------------------------------------------- */

static void duration_write(sp_buf *out, const char *key, const sp_served_duration *d, const char *before)
{
    sp_buf_printf(out, "%s\"%s\":{\"count\":%llu,\"ns\":%llu}", before, key, (unsigned long long)d->count, (unsigned long long)d->ns);
}

typedef struct stats_page {
    const sp_serving *serving;
    sp_buf *out;
    const char *name, *version; /* "" = all */
    int count;
} stats_page;

/* What each worker that has it said of it: the CPU's, or a GPU's by the number in the worker's name. */
static void memory_write(const sp_serving *serving, const sp_served *served, sp_buf *out)
{
    sp_loaded_info infos[SP_LIMIT_WORKERS];
    int count = sp_serving_places(serving, served, infos, SP_LIMIT_WORKERS), written = 0;
    for (int i = 0; i < count; i++) {
        const sp_answer_loaded *loaded = &infos[i].loaded;
        uint64_t bytes = loaded->device_bytes ? loaded->device_bytes : loaded->host_bytes;
        if (infos[i].state != SP_LOADED_READY || !bytes)
            continue;
        sp_buf_printf(out, "%s{\"type\":\"%s\",\"id\":%d,\"byte_size\":%llu}", written++ ? "," : "",
                      loaded->device_bytes ? "GPU" : "CPU", sp_worker_number(infos[i].worker), (unsigned long long)bytes);
    }
}

static void stats_write(sp_served *served, void *context)
{
    stats_page *page = context;
    const sp_served_stats *stats = &served->stats;
    sp_buf *out = page->out;
    if ((*page->name && strcmp(served->name, page->name) != 0) || (*page->version && strcmp(served->version_text, page->version) != 0))
        return;
    sp_buf_append_text(out, page->count++ ? ",{\"name\":" : "{\"name\":");
    sp_buf_append_json_text(out, served->name);
    sp_buf_printf(out, ",\"version\":\"%s\",\"last_inference\":%llu,\"inference_count\":%llu,\"execution_count\":%llu,\"inference_stats\":{",
                  served->version_text, (unsigned long long)stats->last_inference_ms, (unsigned long long)stats->inference_count,
                  (unsigned long long)stats->execution_count);
    duration_write(out, "success", &stats->success, "");
    duration_write(out, "fail", &stats->fail, ",");
    duration_write(out, "queue", &stats->queue, ",");
    duration_write(out, "compute_input", &stats->input, ",");
    duration_write(out, "compute_infer", &stats->infer, ",");
    duration_write(out, "compute_output", &stats->output, ",");
    duration_write(out, "cache_hit", &stats->cache_hit, ",");
    duration_write(out, "cache_miss", &stats->cache_miss, ",");
    sp_buf_append_text(out, "},\"response_stats\":{},\"batch_stats\":[");
    for (int i = 0; i < stats->batch_count; i++) {
        const sp_served_batch *batch = &stats->batches[i];
        sp_buf_printf(out, "%s{\"batch_size\":%u", i ? "," : "", batch->rows);
        duration_write(out, "compute_input", &batch->input, ",");
        duration_write(out, "compute_infer", &batch->infer, ",");
        duration_write(out, "compute_output", &batch->output, ",");
        sp_buf_append_text(out, "}");
    }
    sp_buf_append_text(out, "],\"memory_usage\":[");
    memory_write(page->serving, served, out);
    sp_buf_append_text(out, "]}");
}

void gw_kserve_stats_write(sp_serving *serving, const char *name, const char *version, sp_buf *out)
{
    stats_page page = { .serving = serving, .out = out, .name = name, .version = version };
    sp_buf_append_text(out, "{\"model_stats\":[");
    sp_serving_each_loaded(serving, stats_write, &page);
    sp_buf_append_text(out, "]}");
}

void gw_kserve_stats(gw_conn *conn)
{
    sp_buf json;
    if (*conn->params[0] && !served_of(conn))
        return;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    gw_kserve_stats_write(serving_of(conn), conn->params[0], conn->params[1], &json);
    gw_reply_json(conn, 200, &json, NULL);
}

/* --- repository index ------------------------------------------------------------------------------------------------------ */

typedef struct index_page {
    sp_buf *out;
    bool ready_only;
    int count;
} index_page;

static void entry_write(const sp_served_entry *entry, void *context)
{
    index_page *page = context;
    if (page->ready_only && entry->state != SP_MODEL_READY)
        return;
    sp_buf_append_text(page->out, page->count++ ? ",{\"name\":" : "{\"name\":");
    sp_buf_append_json_text(page->out, entry->name);
    if (*entry->version)
        sp_buf_printf(page->out, ",\"version\":\"%s\"", entry->version);
    if (entry->state != SP_MODEL_UNKNOWN)
        sp_buf_printf(page->out, ",\"state\":\"%s\"", sp_model_state_name(entry->state));
    if (entry->reason && *entry->reason) {
        sp_buf_append_text(page->out, ",\"reason\":");
        sp_buf_append_json_text(page->out, entry->reason);
    }
    sp_buf_append_text(page->out, "}");
}

void gw_kserve_index_write(sp_serving *serving, bool ready_only, sp_buf *out)
{
    index_page page = { .out = out, .ready_only = ready_only };
    sp_buf_append_text(out, "[");
    sp_serving_each(serving, entry_write, &page);
    sp_buf_append_text(out, "]");
}

void gw_kserve_index(gw_conn *conn)
{
    bool ready_only;
    sp_error err = { 0 };
    sp_buf json;
    json_error_t at;
    json_t *root = conn->body.size_bytes ? json_loadb((const char *)conn->body.data, conn->body.size_bytes, 0, &at) : json_object();
    const json_t *ready = json_object_get(root, "ready");
    sp_status s = SP_OK;
    if (!json_is_object(root))
        s = SP_FAIL(&err, SP_INVALID, "the request must be a JSON object");
    else if (ready && !json_is_boolean(ready))
        s = SP_FAIL(&err, SP_INVALID, "Invalid value for 'ready': expected a boolean");
    ready_only = json_is_true(ready);
    json_decref(root);
    if (s) {
        gw_kserve_fail(conn, s, &err, 0);
        return;
    }
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    gw_kserve_index_write(serving_of(conn), ready_only, &json);
    gw_reply_json(conn, 200, &json, NULL);
}
