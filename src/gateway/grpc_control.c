/* SPDX-License-Identifier: Apache-2.0
 * gRPC: every method but the inferences (grpc.h). Requests are small and read by protobuf-c; answers are what the HTTP side
 * says as JSON, put into the message of that name (kserve/proto.h). The health service is two numbers, written by hand. */
#include "gateway/grpc.h"

#include "inference.pb-c.h"
#include "kserve/proto.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define UNPACK(type, view) inference__##type##__unpack(NULL, (view).size_bytes, (view).data)
#define FREE(type, request) inference__##type##__free_unpacked((request), NULL)
#define DESCRIPTOR(type) &inference__##type##__descriptor

static sp_serving *serving_of(const gw_grpc_call *call)
{
    return call->grpc->server->kserve->serving;
}

static void fail(gw_grpc_call *call, sp_error *err)
{
    gw_grpc_fail(call, err->status ? err->status : SP_INTERNAL, err, 0);
}

/* True when there is a request; else the call has been answered. */
static bool is_read(gw_grpc_call *call, const void *request, const char *message)
{
    sp_error err = { 0 };
    if (request)
        return true;
    (void)SP_FAIL_CODE(&err, SP_INVALID, "bad_message", "the message is no %s", message);
    fail(call, &err);
    return false;
}

/* Answers with the message that the text says; the text is let go. */
static void reply_json(gw_grpc_call *call, const ProtobufCMessageDescriptor *message, sp_buf *json)
{
    sp_error err = { 0 };
    sp_buf out;
    sp_buf_init(&out, 4 * SP_LIMIT_JSON_BYTES);
    sp_status s = sp_buf_ok(json) ? sp_proto_of_json(message, sp_buf_view(json), &out, &err)
                                  : SP_FAIL(&err, SP_NOMEM, "no memory for the answer");
    if (s == SP_INVALID) /* ours, not the client's */
        s = SP_FAIL(&err, SP_INTERNAL, "the answer does not fit its message: %.200s", err.message);
    if (s)
        gw_grpc_fail(call, s, &err, 0);
    else
        gw_grpc_reply(call, &out);
    sp_buf_done(&out);
    sp_buf_done(json);
}

static void reply_empty(gw_grpc_call *call)
{
    sp_buf nothing;
    sp_buf_init(&nothing, 1);
    gw_grpc_reply(call, &nothing);
    sp_buf_done(&nothing);
}

static void reply_bool(gw_grpc_call *call, bool value)
{
    sp_buf out;
    sp_buf_init(&out, 8);
    sp_wire_put_number(&out, 1, value);
    gw_grpc_reply(call, &out);
    sp_buf_done(&out);
}

/* The named version; NULL: the call has been answered. */
static sp_served *served_of(gw_grpc_call *call, const char *name, const char *version)
{
    sp_error err = { 0 };
    sp_served *served = NULL;
    sp_status s = sp_serving_find(serving_of(call), name, version, &served, &err);
    if (s)
        gw_grpc_fail(call, s, &err, 0);
    return s ? NULL : served;
}

/* --- what there is --------------------------------------------------------------------------------------------------- */

static bool server_ready(const gw_grpc_call *call)
{
    return !call->grpc->server->draining && sp_serving_ready(serving_of(call));
}

static void server_live(gw_grpc_call *call, sp_view message)
{
    (void)message;
    reply_bool(call, true);
}

static void server_is_ready(gw_grpc_call *call, sp_view message)
{
    (void)message;
    reply_bool(call, server_ready(call));
}

static void model_ready(gw_grpc_call *call, sp_view message)
{
    Inference__ModelReadyRequest *r = UNPACK(model_ready_request, message);
    if (!is_read(call, r, "ModelReadyRequest"))
        return;
    reply_bool(call, sp_serving_model_ready(serving_of(call), r->name, r->version));
    FREE(model_ready_request, r);
}

static void server_metadata(gw_grpc_call *call, sp_view message)
{
    sp_buf json;
    (void)message;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    gw_kserve_server_write(&json);
    reply_json(call, DESCRIPTOR(server_metadata_response), &json);
}

static void model_metadata(gw_grpc_call *call, sp_view message)
{
    Inference__ModelMetadataRequest *r = UNPACK(model_metadata_request, message);
    sp_buf json;
    if (!is_read(call, r, "ModelMetadataRequest"))
        return;
    const sp_served *served = served_of(call, r->name, r->version);
    FREE(model_metadata_request, r);
    if (!served)
        return;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    gw_kserve_model_write(serving_of(call), served, &json);
    reply_json(call, DESCRIPTOR(model_metadata_response), &json);
}

static void model_config(gw_grpc_call *call, sp_view message)
{
    Inference__ModelConfigRequest *r = UNPACK(model_config_request, message);
    sp_buf json;
    if (!is_read(call, r, "ModelConfigRequest"))
        return;
    const sp_served *served = served_of(call, r->name, r->version);
    FREE(model_config_request, r);
    if (!served)
        return;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_append_text(&json, "{\"config\":");
    sp_model_config_write(&served->card->config, &json);
    sp_buf_append_text(&json, "}");
    reply_json(call, DESCRIPTOR(model_config_response), &json);
}

static void model_statistics(gw_grpc_call *call, sp_view message)
{
    Inference__ModelStatisticsRequest *r = UNPACK(model_statistics_request, message);
    sp_buf json;
    if (!is_read(call, r, "ModelStatisticsRequest"))
        return;
    if (!*r->name || served_of(call, r->name, r->version)) {
        sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
        gw_kserve_stats_write(serving_of(call), r->name, r->version, &json);
        reply_json(call, DESCRIPTOR(model_statistics_response), &json);
    }
    FREE(model_statistics_request, r);
}

/* --- the repository --------------------------------------------------------------------------------------------------- */

/* True: the only repository that there is was meant. */
static bool repository_is_ours(gw_grpc_call *call, const char *name)
{
    sp_error err = { 0 };
    if (!*name)
        return true;
    (void)SP_FAIL(&err, SP_UNSUPPORTED, "'repository_name' specification is not supported");
    fail(call, &err);
    return false;
}

static void repository_index(gw_grpc_call *call, sp_view message)
{
    Inference__RepositoryIndexRequest *r = UNPACK(repository_index_request, message);
    sp_buf json;
    if (!is_read(call, r, "RepositoryIndexRequest"))
        return;
    bool ready = r->ready, ours = repository_is_ours(call, r->repository_name);
    FREE(repository_index_request, r);
    if (!ours)
        return;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_append_text(&json, "{\"models\":");
    gw_kserve_index_write(serving_of(call), ready, &json);
    sp_buf_append_text(&json, "}");
    reply_json(call, DESCRIPTOR(repository_index_response), &json);
}

/* The load goes on whoever waits: the call's end clears `*waits`. */
static void repository_done(sp_status status, const sp_error *err, void *context)
{
    gw_grpc_call **waits = context, *call = *waits;
    free(waits);
    if (!call)
        return;
    call->state = NULL;
    if (status)
        gw_grpc_fail(call, status, err, 0);
    else
        reply_empty(call);
}

static gw_grpc_call **repository_wait(gw_grpc_call *call)
{
    sp_error err = { 0 };
    gw_grpc_call **waits = malloc(sizeof(*waits));
    if (!waits) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for a model's load");
        fail(call, &err);
        return NULL;
    }
    *waits = call;
    call->state = waits;
    return waits;
}

typedef Inference__ModelRepositoryParameter parameter;

static sp_status load_parameter(const char *key, const parameter *value, const char **ret_override, sp_error *reterr)
{
    if (strncmp(key, "file:", 5) == 0)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "load_files",
                            "'%.80s': a load request with the model's files is not supported; put them into the model repository", key);
    if (strcmp(key, "config") != 0)
        return SP_FAIL(reterr, SP_INVALID, "unknown load parameter '%.80s'; there is 'config'", key);
    if (!value || value->parameter_choice_case != INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_STRING_PARAM)
        return SP_FAIL(reterr, SP_INVALID, "'config' must be a string_param that holds the configuration as JSON");
    *ret_override = value->string_param;
    return SP_OK;
}

static void repository_load(gw_grpc_call *call, sp_view message)
{
    Inference__RepositoryModelLoadRequest *r = UNPACK(repository_model_load_request, message);
    const char *override = "";
    sp_error err = { 0 };
    sp_status s = SP_OK;
    if (!is_read(call, r, "RepositoryModelLoadRequest"))
        return;
    for (size_t i = 0; i < r->n_parameters && !s; i++)
        s = load_parameter(r->parameters[i]->key, r->parameters[i]->value, &override, &err);
    if (s) {
        fail(call, &err);
    } else if (repository_is_ours(call, r->repository_name)) {
        gw_grpc_call **waits = repository_wait(call);
        if (waits)
            sp_serving_load(serving_of(call), r->model_name, override, repository_done, waits);
    }
    FREE(repository_model_load_request, r);
}

static void repository_unload(gw_grpc_call *call, sp_view message)
{
    Inference__RepositoryModelUnloadRequest *r = UNPACK(repository_model_unload_request, message);
    bool dependents = false;
    sp_error err = { 0 };
    if (!is_read(call, r, "RepositoryModelUnloadRequest"))
        return;
    for (size_t i = 0; i < r->n_parameters && !err.status; i++) {
        const parameter *value = r->parameters[i]->value;
        if (strcmp(r->parameters[i]->key, "unload_dependents") != 0)
            continue;
        if (!value || value->parameter_choice_case != INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_BOOL_PARAM)
            (void)SP_FAIL(&err, SP_INVALID, "'unload_dependents' must be a bool_param");
        else
            dependents = value->bool_param;
    }
    if (err.status) {
        fail(call, &err);
    } else if (repository_is_ours(call, r->repository_name)) {
        gw_grpc_call **waits = repository_wait(call);
        if (waits)
            sp_serving_unload(serving_of(call), r->model_name, dependents, repository_done, waits);
    }
    FREE(repository_model_unload_request, r);
}

/* --- shared memory ------------------------------------------------------------------------------------------------------ */

static void region_status(gw_grpc_call *call, sp_view message)
{
    static sp_region_info regions[256]; /* the loop's thread only */
    Inference__SystemSharedMemoryStatusRequest *r = UNPACK(system_shared_memory_status_request, message);
    sp_error err = { 0 };
    sp_buf json;
    if (!is_read(call, r, "SystemSharedMemoryStatusRequest"))
        return;
    int count = sp_serving_regions(serving_of(call), r->name, regions, (int)SP_ARRAY_LEN(regions), &err);
    FREE(system_shared_memory_status_request, r);
    if (count < 0) {
        fail(call, &err);
        return;
    }
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_buf_append_text(&json, "{\"regions\":{");
    for (int i = 0; i < count; i++) {
        sp_buf_append_text(&json, i ? "," : "");
        sp_buf_append_json_text(&json, regions[i].name);
        sp_buf_append_text(&json, ":{\"name\":");
        sp_buf_append_json_text(&json, regions[i].name);
        sp_buf_append_text(&json, ",\"key\":");
        sp_buf_append_json_text(&json, regions[i].key);
        sp_buf_printf(&json, ",\"offset\":\"%llu\",\"byte_size\":\"%llu\"}", (unsigned long long)regions[i].offset,
                      (unsigned long long)regions[i].bytes);
    }
    sp_buf_append_text(&json, "}}");
    reply_json(call, DESCRIPTOR(system_shared_memory_status_response), &json);
}

static void region_register(gw_grpc_call *call, sp_view message)
{
    Inference__SystemSharedMemoryRegisterRequest *r = UNPACK(system_shared_memory_register_request, message);
    sp_error err = { 0 };
    if (!is_read(call, r, "SystemSharedMemoryRegisterRequest"))
        return;
    sp_status s = call->local || call->grpc->server->kserve->shared_memory_anywhere
                      ? sp_serving_region_add(serving_of(call), r->name, r->key, r->offset, r->byte_size, &err)
                      : SP_FAIL(&err, SP_UNSUPPORTED, "shared memory is for clients on this machine");
    FREE(system_shared_memory_register_request, r);
    if (s)
        gw_grpc_fail(call, s, &err, 0);
    else
        reply_empty(call);
}

static void region_unregister(gw_grpc_call *call, sp_view message)
{
    Inference__SystemSharedMemoryUnregisterRequest *r = UNPACK(system_shared_memory_unregister_request, message);
    sp_error err = { 0 };
    if (!is_read(call, r, "SystemSharedMemoryUnregisterRequest"))
        return;
    sp_status s = sp_serving_region_remove(serving_of(call), r->name, &err);
    FREE(system_shared_memory_unregister_request, r);
    if (s)
        gw_grpc_fail(call, s, &err, 0);
    else
        reply_empty(call);
}

static void cuda_region(gw_grpc_call *call, sp_view message)
{
    sp_error err = { 0 };
    (void)message;
    (void)SP_FAIL(&err, SP_UNSUPPORTED, "CUDA shared memory is not supported by this server; use system shared memory, or send the tensors");
    fail(call, &err);
}

/* --- settings ------------------------------------------------------------------------------------------------------------- */

/* The JSON that settings.c reads of a client's change, as text. NULL: no memory. */
static char *text_of(json_t *root)
{
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

/* A list that is empty takes the setting back. */
static char *trace_text(const Inference__TraceSettingRequest *r)
{
    json_t *root = json_object();
    for (size_t i = 0; i < r->n_settings; i++) {
        const Inference__TraceSettingRequest__SettingValue *value = r->settings[i]->value;
        size_t n = value ? value->n_value : 0;
        json_t *member = n ? strcmp(r->settings[i]->key, "trace_level") == 0 || n > 1 ? json_array() : json_string(value->value[0])
                           : json_null();
        for (size_t v = 0; v < n && json_is_array(member); v++)
            (void)json_array_append_new(member, json_string(value->value[v]));
        (void)json_object_set_new(root, r->settings[i]->key, member);
    }
    return text_of(root);
}

/* {"trace_level": ["OFF"], "trace_rate": "1000"} as {"settings": {"trace_level": {"value": ["OFF"]}, ...}}. */
static void trace_reply(gw_grpc_call *call, const char *model)
{
    sp_buf json;
    json_error_t at;
    const char *key;
    json_t *value, *settings = json_object();
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_serving_trace_write(serving_of(call), model, &json);
    json_t *root = json_loadb((const char *)json.data, json.size_bytes, 0, &at);
    json_object_foreach(root, key, value) {
        json_t *list = json_is_array(value) ? json_incref(value) : json_pack("[O]", value);
        (void)json_object_set_new(settings, key, json_pack("{s:o}", "value", list));
    }
    json_decref(root);
    sp_buf_clear(&json);
    char *text = text_of(json_pack("{s:o}", "settings", settings));
    sp_buf_append_text(&json, text ? text : "{}");
    free(text);
    reply_json(call, DESCRIPTOR(trace_setting_response), &json);
}

/* Changing something is an administrator's, also here, where one method does both. */
static bool may_change(gw_grpc_call *call, size_t settings)
{
    sp_error err = { 0 };
    if (!settings)
        return true;
    if (call->access.scopes & SP_SCOPE_ADMIN && gw_grpc_admin_here(call, &err))
        return true;
    if (!err.status)
        (void)SP_FAIL_CODE(&err, SP_DENIED, "scope", "the token \"%s\" may not do this: it lacks the scope admin", call->access.token);
    fail(call, &err);
    return false;
}

static void trace_setting(gw_grpc_call *call, sp_view message)
{
    Inference__TraceSettingRequest *r = UNPACK(trace_setting_request, message);
    sp_error err = { 0 };
    if (!is_read(call, r, "TraceSettingRequest"))
        return;
    if (may_change(call, r->n_settings) && (!*r->model_name || served_of(call, r->model_name, ""))) {
        char *text = r->n_settings ? trace_text(r) : NULL;
        sp_status s = SP_OK;
        if (r->n_settings)
            s = text ? sp_serving_trace_update(serving_of(call), r->model_name, sp_view_of(text), &err)
                     : SP_FAIL(&err, SP_INVALID, "a setting's text is no UTF-8");
        free(text);
        if (s)
            gw_grpc_fail(call, s, &err, 0);
        else
            trace_reply(call, r->model_name);
    }
    FREE(trace_setting_request, r);
}

static char *log_text(const Inference__LogSettingsRequest *r)
{
    json_t *root = json_object();
    for (size_t i = 0; i < r->n_settings; i++) {
        const Inference__LogSettingsRequest__SettingValue *value = r->settings[i]->value;
        json_t *member;
        switch (value ? value->parameter_choice_case : INFERENCE__LOG_SETTINGS_REQUEST__SETTING_VALUE__PARAMETER_CHOICE__NOT_SET) {
        case INFERENCE__LOG_SETTINGS_REQUEST__SETTING_VALUE__PARAMETER_CHOICE_BOOL_PARAM:
            member = json_boolean(value->bool_param);
            break;
        case INFERENCE__LOG_SETTINGS_REQUEST__SETTING_VALUE__PARAMETER_CHOICE_UINT32_PARAM:
            member = json_integer(value->uint32_param);
            break;
        case INFERENCE__LOG_SETTINGS_REQUEST__SETTING_VALUE__PARAMETER_CHOICE_STRING_PARAM:
            member = json_string(value->string_param);
            break;
        default:
            member = json_null();
            break;
        }
        (void)json_object_set_new(root, r->settings[i]->key, member);
    }
    return text_of(root);
}

static void log_reply(gw_grpc_call *call)
{
    sp_buf json;
    json_error_t at;
    const char *key;
    json_t *value, *settings = json_object();
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_serving_log_write(serving_of(call), &json);
    json_t *root = json_loadb((const char *)json.data, json.size_bytes, 0, &at);
    json_object_foreach(root, key, value) {
        const char *kind = json_is_boolean(value) ? "bool_param" : json_is_integer(value) ? "uint32_param" : "string_param";
        (void)json_object_set_new(settings, key, json_pack("{s:O}", kind, value));
    }
    json_decref(root);
    sp_buf_clear(&json);
    char *text = text_of(json_pack("{s:o}", "settings", settings));
    sp_buf_append_text(&json, text ? text : "{}");
    free(text);
    reply_json(call, DESCRIPTOR(log_settings_response), &json);
}

static void log_settings(gw_grpc_call *call, sp_view message)
{
    Inference__LogSettingsRequest *r = UNPACK(log_settings_request, message);
    sp_error err = { 0 };
    if (!is_read(call, r, "LogSettingsRequest"))
        return;
    if (may_change(call, r->n_settings)) {
        char *text = r->n_settings ? log_text(r) : NULL;
        sp_status s = SP_OK;
        if (r->n_settings)
            s = text ? sp_serving_log_update(serving_of(call), sp_view_of(text), &err)
                     : SP_FAIL(&err, SP_INVALID, "a setting's text is no UTF-8");
        free(text);
        if (s)
            gw_grpc_fail(call, s, &err, 0);
        else
            log_reply(call);
    }
    FREE(log_settings_request, r);
}

/* --- grpc.health.v1 --------------------------------------------------------------------------------------------------------- */

enum { UNKNOWN = 0, SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };

/* HealthCheckRequest{service = 1}: a text field of at most two bytes of head; anything else is skipped as unknown. */
static int health_of(const gw_grpc_call *call, sp_view message)
{
    static const char service[] = "inference.GRPCInferenceService";
    bool named = message.size_bytes > 2 && message.data[0] == 0x0a && message.data[1];
    bool known = named && message.data[1] == sizeof(service) - 1 && message.size_bytes == 2 + sizeof(service) - 1 &&
                 memcmp(message.data + 2, service, sizeof(service) - 1) == 0;
    if (named && !known)
        return SERVICE_UNKNOWN;
    return server_ready(call) ? SERVING : NOT_SERVING;
}

static void health_check(gw_grpc_call *call, sp_view message)
{
    sp_error err = { 0 };
    sp_buf out;
    int status = health_of(call, message);
    if (status == SERVICE_UNKNOWN) {
        (void)SP_FAIL(&err, SP_NOT_FOUND, "unknown service");
        fail(call, &err);
        return;
    }
    sp_buf_init(&out, 8);
    sp_wire_put_number(&out, 1, (uint64_t)status);
    gw_grpc_reply(call, &out);
    sp_buf_done(&out);
}

void gw_grpc_watch_tell(gw_grpc_call *call)
{
    int status = call->told == SERVICE_UNKNOWN ? SERVICE_UNKNOWN : server_ready(call) ? SERVING : NOT_SERVING;
    const uint8_t message[2] = { 1 << 3, (uint8_t)status };
    const sp_view piece = sp_view_make(message, sizeof(message));
    if (status == call->told || call->telling)
        return;
    call->told = status;
    call->telling = true;
    call->grpc->api->send(call->rpc, &piece, 1, false);
}

static void health_watch(gw_grpc_call *call, sp_view message)
{
    gw_grpc *grpc = call->grpc;
    int status = health_of(call, message);
    const uint8_t first[2] = { 1 << 3, (uint8_t)status };
    const sp_view piece = sp_view_make(first, sizeof(first));
    call->kind = GW_GRPC_WATCH;
    call->told = status;
    call->telling = true;
    grpc->watchers++;
    grpc->api->send(call->rpc, &piece, 1, false);
    if (!grpc->watch_timer.heap_index)
        (void)sp_loop_timer_set(grpc->server->loop, &grpc->watch_timer, sp_loop_now_ns(grpc->server->loop), NULL);
}

/* --- the tables -------------------------------------------------------------------------------------------------------------- */

#define ANY (SP_SCOPE_INFER | SP_SCOPE_ADMIN | SP_SCOPE_METRICS)
const gw_grpc_method gw_grpc_inference[] = {
    { "ModelInfer", SP_SCOPE_INFER, false, NULL },
    { "ModelStreamInfer", SP_SCOPE_INFER, false, NULL },
    { "ServerLive", 0, true, server_live },
    { "ServerReady", 0, true, server_is_ready },
    { "ModelReady", 0, true, model_ready },
    { "ServerMetadata", ANY, true, server_metadata },
    { "ModelMetadata", ANY, true, model_metadata },
    { "ModelConfig", ANY, true, model_config },
    { "ModelStatistics", ANY, true, model_statistics },
    { "RepositoryIndex", ANY, false, repository_index },
    { "RepositoryModelLoad", SP_SCOPE_ADMIN, false, repository_load },
    { "RepositoryModelUnload", SP_SCOPE_ADMIN, false, repository_unload },
    { "SystemSharedMemoryStatus", SP_SCOPE_INFER | SP_SCOPE_ADMIN, true, region_status },
    { "SystemSharedMemoryRegister", SP_SCOPE_INFER, false, region_register },
    { "SystemSharedMemoryUnregister", SP_SCOPE_INFER, false, region_unregister },
    { "CudaSharedMemoryStatus", ANY, true, cuda_region },
    { "CudaSharedMemoryRegister", ANY, false, cuda_region },
    { "CudaSharedMemoryUnregister", ANY, false, cuda_region },
    { "TraceSetting", ANY, false, trace_setting },
    { "LogSettings", ANY, false, log_settings },
    { NULL, 0, false, NULL },
};
const gw_grpc_method gw_grpc_health[] = {
    { "Check", 0, true, health_check },
    { "Watch", 0, true, health_watch },
    { NULL, 0, false, NULL },
};
