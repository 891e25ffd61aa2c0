/* SPDX-License-Identifier: Apache-2.0
 * KServe V2: what changes something (kserve.h). Bodies are small JSON. */
#include "gateway/kserve.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static sp_serving *serving_of(const gw_conn *conn)
{
    return conn->server->kserve->serving;
}

static void no_content(gw_conn *conn)
{
    static char nothing[1];
    gw_reply(conn, 200, "application/json", nothing, 0, GW_STATIC, NULL);
}

/* No length is no body: Triton's clients send some of these without one. */
void gw_kserve_body_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    if (conn->headers.has_length && conn->headers.content_length > GW_JSON_BYTES) {
        (void)SP_FAIL_CODE(&err, SP_TOO_LARGE, "body_too_large", "the body has %llu bytes, the limit is %u",
                           (unsigned long long)conn->headers.content_length, GW_JSON_BYTES);
        gw_conn_fail(conn, 413, &err, 0);
        return;
    }
    sp_buf_done(&conn->body);
    sp_buf_init(&conn->body, GW_JSON_BYTES);
    gw_conn_enter(conn, GW_BODY);
}

/* A larger one brings a model's files. */
void gw_kserve_load_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    if (!conn->headers.has_length || conn->headers.content_length <= GW_JSON_BYTES) {
        gw_kserve_body_begin(conn);
        return;
    }
    (void)SP_FAIL_CODE(&err, SP_UNSUPPORTED, "load_files",
                       "a load request with the model's files is not supported (%llu bytes, the limit is %u): put the files into the "
                       "model repository and load the model by its name",
                       (unsigned long long)conn->headers.content_length, GW_JSON_BYTES);
    gw_kserve_fail(conn, SP_UNSUPPORTED, &err, 0);
}

/* The body as an object; an empty one is an empty object. NULL: refused. */
static json_t *body_read(gw_conn *conn)
{
    sp_error err = { 0 };
    json_error_t at = { 0 };
    json_t *root = conn->body.size_bytes
                       ? json_loadb((const char *)conn->body.data, conn->body.size_bytes, JSON_REJECT_DUPLICATES, &at)
                       : json_object();
    if (json_is_object(root))
        return root;
    (void)SP_FAIL(&err, SP_INVALID, "failed to parse the request JSON buffer: %.100s at %d",
                  root ? "it is no object" : *at.text ? at.text : "no memory", at.position);
    json_decref(root);
    gw_kserve_fail(conn, SP_INVALID, &err, 0);
    return NULL;
}

/* --- load, unload ---------------------------------------------------------------------------------------------------- */

/* Outlives its connection: the model is loaded whoever waits. */
typedef struct control {
    gw_conn *conn; /* NULL = gone */
} control;

static void control_drop(gw_conn *conn)
{
    ((control *)conn->state)->conn = NULL;
}

static void control_done(sp_status status, const sp_error *err, void *context)
{
    control *c = context;
    gw_conn *conn = c->conn;
    free(c);
    if (!conn)
        return;
    conn->drop = NULL;
    conn->state = NULL;
    if (status) {
        gw_log_failure(conn, gw_kserve_status(status, err), err);
        gw_reply_problem(conn, gw_kserve_status(status, err), err, status == SP_BUSY, NULL);
    } else {
        no_content(conn);
    }
    if (conn->phase == GW_WAITING)
        gw_conn_answered(conn);
}

static control *control_begin(gw_conn *conn)
{
    sp_error err = { 0 };
    control *c = calloc(1, sizeof(*c));
    if (!c) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for a model's load");
        gw_kserve_fail(conn, SP_NOMEM, &err, 1);
        return NULL;
    }
    c->conn = conn;
    conn->state = c;
    conn->drop = control_drop;
    gw_conn_wait(conn);
    return c;
}

/* "config" alone is taken; of anything else in "parameters" it is said what it would need. */
static sp_status override_read(json_t *root, const char **ret_override, sp_error *reterr)
{
    json_t *parameters = json_object_get(root, "parameters"), *value;
    const char *key;
    *ret_override = "";
    if (parameters && !json_is_object(parameters))
        return SP_FAIL(reterr, SP_INVALID, "'parameters' must be an object");
    json_object_foreach(parameters, key, value)
    {
        if (strncmp(key, "file:", 5) == 0)
            return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "load_files",
                                "'%.80s': a load request with the model's files is not supported; put them into the model repository",
                                key);
        if (strcmp(key, "config") != 0)
            return SP_FAIL(reterr, SP_INVALID, "unknown load parameter '%.80s'; there is 'config'", key);
        if (!json_is_string(value))
            return SP_FAIL(reterr, SP_INVALID, "'config' must be a string that holds the configuration as JSON");
        *ret_override = json_string_value(value);
    }
    return SP_OK;
}

void gw_kserve_load(gw_conn *conn)
{
    sp_error err = { 0 };
    const char *override = "";
    json_t *root = body_read(conn);
    if (!root)
        return;
    sp_status s = override_read(root, &override, &err);
    control *c = NULL;
    if (s)
        gw_kserve_fail(conn, s, &err, 0);
    else
        c = control_begin(conn);
    if (c)
        sp_serving_load(serving_of(conn), conn->params[0], override, control_done, c);
    json_decref(root);
}

void gw_kserve_unload(gw_conn *conn)
{
    sp_error err = { 0 };
    json_t *root = body_read(conn);
    if (!root)
        return;
    const json_t *dependents = json_object_get(json_object_get(root, "parameters"), "unload_dependents");
    bool with = json_is_true(dependents), bad = dependents && !json_is_boolean(dependents);
    json_decref(root);
    if (bad) {
        (void)SP_FAIL(&err, SP_INVALID, "Unable to parse 'unload_dependents': it must be true or false");
        gw_kserve_fail(conn, SP_INVALID, &err, 0);
        return;
    }
    control *c = control_begin(conn);
    if (c)
        sp_serving_unload(serving_of(conn), conn->params[0], with, control_done, c);
}

void gw_kserve_repository_named(gw_conn *conn)
{
    sp_error err = { 0 };
    (void)SP_FAIL(&err, SP_UNSUPPORTED, "'repository_name' specification is not supported");
    gw_kserve_fail(conn, SP_UNSUPPORTED, &err, 0);
}

void gw_kserve_unsupported(gw_conn *conn)
{
    sp_error err = { 0 };
    bool cuda = strncmp(conn->route->path, "/v2/cudasharedmemory", 20) == 0;
    (void)SP_FAIL(&err, SP_UNSUPPORTED, "%s",
                  cuda ? "CUDA shared memory is not supported by this server; use system shared memory, or send the tensors"
                       : "generate is not supported by this server; use /v2/models/MODEL/infer");
    gw_kserve_fail(conn, SP_UNSUPPORTED, &err, 0);
}

/* --- shared memory ------------------------------------------------------------------------------------------------------- */

void gw_kserve_region_status(gw_conn *conn)
{
    static sp_region_info regions[256];
    sp_error err = { 0 };
    sp_buf json;
    int count = sp_serving_regions(serving_of(conn), conn->params[0], regions, (int)SP_ARRAY_LEN(regions), &err);
    if (count < 0) {
        gw_kserve_fail(conn, err.status, &err, 0);
        return;
    }
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_append_text(&json, "[");
    for (int i = 0; i < count; i++) {
        sp_buf_append_text(&json, i ? ",{\"name\":" : "{\"name\":");
        sp_buf_append_json_text(&json, regions[i].name);
        sp_buf_append_text(&json, ",\"key\":");
        sp_buf_append_json_text(&json, regions[i].key);
        sp_buf_printf(&json, ",\"offset\":%llu,\"byte_size\":%llu}", (unsigned long long)regions[i].offset,
                      (unsigned long long)regions[i].bytes);
    }
    sp_buf_append_text(&json, "]");
    gw_reply_json(conn, 200, &json, NULL);
}

static sp_status whole(const json_t *value, const char *key, uint64_t *ret_number, sp_error *reterr)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return SP_FAIL(reterr, SP_INVALID, "Unable to parse '%s': it must be a whole number from 0", key);
    *ret_number = (uint64_t)json_integer_value(value);
    return SP_OK;
}

static sp_status region_register(gw_conn *conn, const json_t *root, sp_error *reterr)
{
    const json_t *key = json_object_get(root, "key"), *bytes = json_object_get(root, "byte_size"),
                 *offset = json_object_get(root, "offset");
    uint64_t size = 0, at = 0;
    sp_status s = SP_OK;
    if (!gw_conn_is_local(conn) && !conn->server->kserve->shared_memory_anywhere)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "shared memory is for clients on this machine");
    if (!key)
        return SP_FAIL(reterr, SP_INVALID, "Shared memory register request has no 'key' field");
    if (!json_is_string(key))
        return SP_FAIL(reterr, SP_INVALID, "Unable to parse 'key': it must be a string");
    if (!bytes)
        return SP_FAIL(reterr, SP_INVALID, "Shared memory register request has no 'byte_size' field");
    s = whole(bytes, "byte_size", &size, reterr);
    if (!s && offset)
        s = whole(offset, "offset", &at, reterr);
    return s ? s : sp_serving_region_add(serving_of(conn), conn->params[0], json_string_value(key), at, size, reterr);
}

void gw_kserve_region_register(gw_conn *conn)
{
    sp_error err = { 0 };
    json_t *root = body_read(conn);
    if (!root)
        return;
    sp_status s = region_register(conn, root, &err);
    json_decref(root);
    if (s)
        gw_kserve_fail(conn, s, &err, 0);
    else
        no_content(conn);
}

void gw_kserve_region_unregister(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_status s = sp_serving_region_remove(serving_of(conn), conn->params[0], &err);
    if (s)
        gw_kserve_fail(conn, s, &err, 0);
    else
        no_content(conn);
}

/* --- settings --------------------------------------------------------------------------------------------------------------- */

void gw_kserve_trace(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_served *served = NULL;
    sp_buf json;
    sp_status s = *conn->params[0] ? sp_serving_find(serving_of(conn), conn->params[0], "", &served, &err) : SP_OK;
    if (s) {
        gw_kserve_fail(conn, s, &err, 0);
        return;
    }
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_serving_trace_write(serving_of(conn), conn->params[0], &json);
    gw_reply_json(conn, 200, &json, NULL);
}

void gw_kserve_trace_set(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_status s = sp_serving_trace_update(serving_of(conn), conn->params[0], sp_buf_view(&conn->body), &err);
    if (s)
        gw_kserve_fail(conn, s, &err, 0);
    else
        gw_kserve_trace(conn);
}

void gw_kserve_logging(gw_conn *conn)
{
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_serving_log_write(serving_of(conn), &json);
    gw_reply_json(conn, 200, &json, NULL);
}

void gw_kserve_logging_set(gw_conn *conn)
{
    sp_error err = { 0 };
    sp_status s = sp_serving_log_update(serving_of(conn), sp_buf_view(&conn->body), &err);
    if (s)
        gw_kserve_fail(conn, s, &err, 0);
    else
        gw_kserve_logging(conn);
}
