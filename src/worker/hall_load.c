/* SPDX-License-Identifier: Apache-2.0
 * A specification becomes a model: which engine, how many instances, which of the engine's ports is which of the
 * configuration's. The configuration was completed and checked by whoever wrote the specification; what does not fit this
 * worker or this file is said by name. */
#include "worker/hall_ensemble.h"
#include "worker/visible.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- labels ----------------------------------------------------------------------------------------------------------- */

/* The file as one NUL-terminated text; a name that leaves the model's directory is refused. */
static sp_status read_text(const char *directory, const char *name, size_t limit_bytes, char **ret_text, size_t *ret_bytes,
                           sp_error *reterr)
{
    char path[1024 + SP_LIMIT_SERVED_NAME_BYTES + 2];
    struct stat info;
    if (strstr(name, "..") || name[0] == '/')
        return SP_FAIL(reterr, SP_INVALID, "'%s' leaves the model's directory", name);
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "%s", path);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || (uint64_t)info.st_size > limit_bytes) {
        sp_fd_closep(&fd);
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s is no file of at most %zu bytes", path, limit_bytes);
    }
    size_t size = (size_t)info.st_size, done = 0;
    char *text = malloc(size + 1);
    while (text && done < size) {
        ssize_t n = read(fd, text + done, size - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    sp_fd_closep(&fd);
    if (!text)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %s", path);
    text[done] = 0;
    *ret_text = text;
    *ret_bytes = done;
    return SP_OK;
}

static sp_status read_labels(sp_hall_model *model, int output, sp_error *reterr)
{
    size_t size = 0;
    sp_status s = read_text(model->spec->directory, model->config->outputs[output].label_filename, SP_LIMIT_LABEL_FILE_BYTES,
                            &model->label_text[output], &size, reterr);
    if (s)
        return s;
    char *text = model->label_text[output];
    int count = 0;
    for (size_t i = 0; i < size; i++)
        count += text[i] == '\n' || i + 1 == size;
    model->labels[output] = calloc((size_t)SP_MAX(count, 1), sizeof(char *));
    if (!model->labels[output])
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d labels", count);
    for (char *line = text, *end = text + size; line < end;) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        char *next = stop ? stop + 1 : end;
        if (!stop)
            stop = end;
        if (stop > line && stop[-1] == '\r')
            stop[-1] = 0;
        *stop = 0;
        model->labels[output][model->label_counts[output]++] = line;
        line = next;
    }
    return SP_OK;
}

const char *sp_hall_label(const sp_hall_model *model, int output, uint64_t index)
{
    return index < (uint64_t)model->label_counts[output] ? model->labels[output][index] : "";
}

/* --- what the configuration asks of this worker ---------------------------------------------------------------------- */

/* A device is one worker, and its number is the worker's: gpus [0, 2] are cuda0 and cuda2. */
static bool here(const sp_hall *hall, const sp_instance_group *group)
{
    bool host = strcmp(hall->settings.kind, "cpu") == 0;
    int number = sp_worker_number(hall->settings.worker);
    for (int i = 0; i < group->gpu_count; i++)
        if (!host && group->gpus[i] == number)
            return true;
    return !group->gpu_count &&
           (group->kind == SP_INSTANCE_AUTO || group->kind == SP_INSTANCE_MODEL || (group->kind == SP_INSTANCE_CPU) == host);
}

/* One per device unless the configuration says otherwise; several groups of this worker's kind add up. */
static sp_status count_instances(const sp_hall *hall, sp_hall_model *model, sp_error *reterr)
{
    const sp_model_config *config = model->config;
    int count = 0;
    bool passive = false;
    for (int i = 0; i < config->group_count; i++) {
        if (!here(hall, &config->groups[i]))
            continue;
        passive |= config->groups[i].passive;
        if (!config->groups[i].passive)
            count += SP_CLAMP(config->groups[i].count, 1, SP_HALL_INSTANCES);
        model->weight = SP_MAX(model->weight, config->groups[i].rate_priority);
    }
    if (config->group_count && !count)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "instance_kind",
                            passive ? "instance_group of '%s' has passive instances only"
                                    : "instance_group of '%s' asks for other devices than worker %s has",
                            config->name, hall->settings.worker);
    model->weight = SP_MAX(model->weight, 1u);
    model->instances = SP_CLAMP(count ? count : 1, 1, SP_MIN(SP_HALL_INSTANCES, hall->settings.places));
    return SP_OK;
}

static const char *engine_of(const sp_model_config *config)
{
    if (config->backend[0])
        return config->backend;
    return strncmp(config->platform, "onnxruntime", strlen("onnxruntime")) == 0 ? "onnxruntime" : config->platform;
}

static sp_status check_identity(const sp_model_config *config, sp_error *reterr)
{
    bool same = config->input_count == config->output_count;
    for (int i = 0; i < config->input_count && same; i++)
        same = config->inputs[i].dtype == config->outputs[i].dtype;
    return same ? SP_OK
                : SP_FAIL(reterr, SP_INVALID, "'%s': back end identity needs one output for each input, of the same type",
                          config->name);
}

static sp_batcher_level level_of(const sp_queue_policy *policy)
{
    return (sp_batcher_level){ .delay = policy->timeout_action == SP_TIMEOUT_DELAY,
                               .timeout_override = policy->allow_timeout_override,
                               .timeout_ns = (int64_t)SP_MIN(policy->default_timeout_us, (uint64_t)INT64_MAX / 1000) * 1000,
                               .most = policy->max_queue_size };
}

static void init_batcher(sp_hall_model *model)
{
    const sp_model_config *config = model->config;
    const sp_batching_config *batching = &config->batching;
    sp_batcher_settings settings = { .batches = batching->on && model->batches,
                                     .most_rows = model->batches ? config->max_batch_size : 1,
                                     .preferred_count = SP_MIN(batching->preferred_count, SP_BATCHER_PREFERRED),
                                     .delay_ns = (int64_t)SP_MIN(batching->max_queue_delay_us, (uint64_t)INT64_MAX / 1000) * 1000,
                                     .preserve_ordering = batching->preserve_ordering,
                                     .levels = SP_MIN(batching->priority_levels, (uint32_t)SP_BATCHER_LEVELS - 1),
                                     .default_level = batching->default_priority_level };
    memcpy(settings.preferred, batching->preferred, sizeof(settings.preferred[0]) * (size_t)settings.preferred_count);
    settings.level[0] = level_of(&batching->default_policy);
    for (uint32_t i = 1; i <= settings.levels; i++)
        settings.level[i] = level_of(&batching->priority_policy[i - 1]);
    if (!batching->on)
        settings.level[0] = (sp_batcher_level){ .timeout_override = false };
    sp_batcher_init(&model->batcher, &settings);
}

static bool wants_accelerator(const sp_model_config *config, const char *name)
{
    for (int i = 0; i < config->accelerator_count; i++)
        if (strcmp(config->accelerators[i], name) == 0)
            return true;
    return false;
}

/* The back end's engine; or, for an ONNX file whose configuration asks for it, OpenVINO in its place on the CPU or TensorRT on
 * a CUDA device. An accelerator that is not here is passed over: the model is slower without it, and no other. */
static sp_status choose_engine(const sp_hall *hall, sp_hall_model *model, sp_error *reterr)
{
    const sp_model_config *config = model->config;
    bool onnx = strcmp(engine_of(config), "onnxruntime") == 0;
    model->engine_name = engine_of(config);
    model->provider = hall->settings.provider;
    if (onnx && strcmp(model->provider, "cuda") == 0 && wants_accelerator(config, "tensorrt"))
        model->provider = "tensorrt";
    if (onnx && strcmp(model->provider, "cpu") == 0 && wants_accelerator(config, "openvino")) {
        sp_error why = { 0 };
        if (sp_engine_open("openvino", &model->engine, &why) == SP_OK) {
            model->engine_name = "openvino";
            return SP_OK;
        }
        sp_log_error("execution accelerator openvino is passed over", NULL, &why);
    }
    return sp_engine_open(model->engine_name, &model->engine, reterr);
}

/* The accelerator could not take the model: as it would be without one. */
static sp_status drop_accelerator(const sp_hall *hall, sp_hall_model *model, const sp_error *why, sp_error *reterr)
{
    sp_log_error("execution accelerator is passed over", NULL, why);
    model->engine_name = engine_of(model->config);
    model->provider = hall->settings.provider;
    return sp_engine_open(model->engine_name, &model->engine, reterr);
}

static bool is_accelerated(const sp_hall *hall, const sp_hall_model *model)
{
    return model->provider != hall->settings.provider || strcmp(model->engine_name, engine_of(model->config)) != 0;
}

sp_status sp_hall_model_new(const sp_hall *hall, sp_load_spec *spec, sp_hall_model **ret_model, sp_error *reterr)
{
    sp_hall_model *model = calloc(1, sizeof(*model));
    if (!model) {
        sp_load_spec_free(spec);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model");
    }
    model->spec = spec;
    model->id = spec->id;
    model->config = &spec->config;
    model->batches = spec->config.max_batch_size > 0;
    model->state = SP_HALL_ASIDE;
    model->identity = !spec->config.is_ensemble && strcmp(engine_of(model->config), "identity") == 0;
    sp_status s = SP_OK;
    if (!model->id || spec->config.input_count > SP_INFER_PORTS || spec->config.output_count > SP_INFER_PORTS)
        s = SP_FAIL(reterr, SP_INTERNAL, "the specification of '%s' has no number or too many ports", spec->config.name);
    if (!s)
        s = count_instances(hall, model, reterr);
    if (!s && model->identity)
        s = check_identity(model->config, reterr);
    if (!s && spec->config.is_ensemble && !(model->ensemble = calloc(1, sizeof(*model->ensemble))))
        s = SP_FAIL(reterr, SP_NOMEM, "no memory for an ensemble");
    if (!s && !model->identity && !model->ensemble)
        s = choose_engine(hall, model, reterr);
    for (int i = 0; i < spec->config.output_count && !s; i++)
        if (spec->config.outputs[i].label_filename[0])
            s = read_labels(model, i, reterr);
    if (!s && spec->config.sequence.strategy != SP_SEQUENCE_NONE && !model->ensemble)
        s = sp_hall_sequence_new(model, reterr);
    if (s) {
        sp_hall_model_free(model);
        return s;
    }
    init_batcher(model);
    sp_batch_limit_init(&model->limit, SP_LIMIT_BATCH);
    *ret_model = model;
    return SP_OK;
}

void sp_hall_model_free(sp_hall_model *model)
{
    if (!model)
        return;
    sp_hall_model_close(model);
    for (int i = 0; i < SP_INFER_PORTS; i++) {
        free(model->labels[i]);
        free(model->label_text[i]);
    }
    sp_hall_detector_free(model);
    sp_hall_sequence_free(model);
    sp_hall_ensemble_free(model);
    sp_load_spec_free(model->spec);
    free(model);
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */

static int config_port(const sp_model_port *ports, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(ports[i].name, name) == 0)
            return i;
    return -1;
}

static sp_status check_type(const sp_hall_model *model, const sp_model_port *port, const sp_engine_port *found, sp_error *reterr)
{
    if (found->dtype == port->dtype || !found->dtype)
        return SP_OK;
    const char *configured = sp_dtype_kserve(port->dtype), *of_file = sp_dtype_kserve(found->dtype);
    return SP_FAIL(reterr, SP_INVALID, "'%.80s': tensor '%.80s' is %s in the configuration and %s in the model file",
                   model->config->name, port->name, configured ? configured : "?", of_file ? of_file : "?");
}

static sp_status map_ports(sp_hall_model *model, sp_error *reterr)
{
    const sp_engine_ports *ports = sp_session_ports(model->session);
    const sp_model_config *config = model->config;
    int found_inputs = 0, found_outputs = 0;
    if (ports->input_count > SP_INFER_PORTS || ports->output_count > SP_INFER_PORTS)
        return SP_FAIL(reterr, SP_TOO_LARGE, "'%s' has more than %d inputs or outputs", config->name, SP_INFER_PORTS);
    model->input_count = ports->input_count;
    model->output_count = ports->output_count;
    model->unbound = model->sequences != NULL; /* no second try: what keeps state would see the request twice */
    for (int i = 0; i < ports->input_count; i++) {
        int port = config_port(config->inputs, config->input_count, ports->inputs[i].name);
        int own = port < 0 ? sp_hall_sequence_port(config, ports->inputs[i].name) : -1;
        if (port < 0 && own < 0)
            return SP_FAIL(reterr, SP_INVALID, "'%s': input '%s' of the model file is not in the configuration", config->name,
                           ports->inputs[i].name);
        sp_status s = port < 0 ? SP_OK : check_type(model, &config->inputs[port], &ports->inputs[i], reterr);
        if (s)
            return s;
        model->inputs[i] = (sp_hall_port){ .config = port, .sequence = own,
                                           .dtype = (uint8_t)(port < 0 ? ports->inputs[i].dtype : config->inputs[port].dtype) };
        found_inputs += port >= 0;
    }
    for (int i = 0; i < ports->output_count; i++) {
        int port = config_port(config->outputs, config->output_count, ports->outputs[i].name);
        sp_status s = port < 0 ? SP_OK : check_type(model, &config->outputs[port], &ports->outputs[i], reterr);
        if (s)
            return s;
        model->outputs[i] = (sp_hall_port){ .config = port, .sequence = sp_hall_sequence_state(config, ports->outputs[i].name),
                                            .dtype = (uint8_t)(port < 0 ? ports->outputs[i].dtype : config->outputs[port].dtype) };
        found_outputs += port >= 0;
    }
    if (found_inputs < config->input_count || found_outputs < config->output_count)
        return SP_FAIL(reterr, SP_INVALID, "'%s': the configuration names %s that the model file does not have", config->name,
                       found_inputs < config->input_count ? "an input" : "an output");
    return SP_OK;
}

/* Batches are filled up where a device runs them, nothing but the number of rows is open, and rows are all alike. */
static int64_t bucket_most(const sp_hall *hall, const sp_hall_model *model)
{
    const sp_engine_ports *ports = sp_session_ports(model->session);
    bool fits = model->batches && !model->sequences && sp_bucket_wanted(model->provider) && !hall->settings.sim;
    for (int i = 0; i < ports->input_count && fits; i++)
        fits = ports->inputs[i].rank > 0 && ports->inputs[i].dims[0] < 0 && sp_engine_dtype_bytes(ports->inputs[i].dtype);
    for (int i = 0; i < ports->output_count && fits; i++)
        fits = ports->outputs[i].rank > 0 && ports->outputs[i].dims[0] < 0 && sp_engine_dtype_bytes(ports->outputs[i].dtype);
    return fits ? SP_MIN(model->config->max_batch_size, SP_LIMIT_BATCH) : 0;
}

static int parameter(const sp_model_config *config, const char *key, int otherwise)
{
    for (int i = 0; i < config->parameter_count; i++) {
        if (strcmp(config->parameters[i].key, key) == 0)
            return SP_CLAMP((int)strtol(config->parameters[i].value, NULL, 10), 1, 256);
    }
    return otherwise;
}

/* optimization.graph.level as Triton's ONNX Runtime back end reads it, in the engine's numbers. */
static int optimisation_of(const sp_model_config *config)
{
    switch (config->graph_level) {
    case -1:
        return 1;
    case 1:
        return 2;
    case 2:
        return 0;
    default:
        return 3;
    }
}

static const char *precision_of(const sp_model_config *config)
{
    static const struct {
        const char *triton, *engine;
    } words[] = { { "FP16", "f16" }, { "BF16", "bf16" }, { "FP32", "f32" }, { "INT8", "i8" } };
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++)
        if (strcmp(config->precision, words[i].triton) == 0)
            return words[i].engine;
    return "";
}

/* As Triton's ONNX Runtime back end names it: 0 = EXHAUSTIVE, 1 = HEURISTIC. */
static const char *conv_search_of(const sp_model_config *config)
{
    for (int i = 0; i < config->parameter_count; i++)
        if (strcmp(config->parameters[i].key, "cudnn_conv_algo_search") == 0 &&
            (strcmp(config->parameters[i].value, "0") == 0 || strcasecmp(config->parameters[i].value, "EXHAUSTIVE") == 0))
            return "exhaustive";
    return "";
}

/* A model that was put aside is opened again under its old number: a file that was replaced meanwhile is another model. */
static sp_status check_unchanged(sp_hall_model *model, sp_error *reterr)
{
    struct stat info;
    if (stat(model->spec->path, &info) != 0)
        return model->file_known ? SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "model_changed",
                                                "the file of '%.100s' is gone since it was loaded; load it again", model->config->name)
                                 : SP_OK; /* the engine says it better */
    bool same = info.st_ino == model->file.st_ino && info.st_size == model->file.st_size &&
                info.st_mtim.tv_sec == model->file.st_mtim.tv_sec && info.st_mtim.tv_nsec == model->file.st_mtim.tv_nsec;
    if (model->file_known && !same)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "model_changed",
                            "the file of '%.100s' was replaced since it was loaded; load it again", model->config->name);
    model->file = info;
    model->file_known = true;
    return SP_OK;
}

static sp_status open_session(const sp_hall *hall, sp_hall_model *model, sp_error *reterr)
{
    const sp_model_config *config = model->config;
    char version[24];
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES * 4);
    sp_model_config_write(config, &json);
    sp_buf_append(&json, "", 1);
    if (!sp_buf_ok(&json)) {
        sp_buf_done(&json);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration of '%s'", config->name);
    }
    (void)snprintf(version, sizeof(version), "%lld", (long long)model->spec->version);
    const char *precision = precision_of(config);
    if (strcmp(precision, "i8") == 0 && strcmp(model->engine_name, "onnxruntime") != 0)
        precision = ""; /* such a model says so itself; it is TensorRT that must be told */
    const sp_engine_option extra[] = { { "precision", precision },
                                       { "model_config", (const char *)json.data },
                                       { "model_name", config->name },
                                       { "model_version", version },
                                       { "model_repository", model->spec->directory },
                                       { "instance_name", config->name },
                                       { "host_nodes", hall->settings.refuse_cpu_nodes ? "refuse" : "" },
                                       { "conv_search", conv_search_of(config) },
                                       { "cache_directory", hall->settings.cache_directory } };
    sp_session_options options = sp_session_options_default(model->spec->path);
    options.provider = model->provider;
    options.device_index = hall->settings.device_index;
    options.lanes = model->instances;
    options.threads = parameter(config, "intra_op_thread_count", SP_MAX(hall->settings.cpus / model->instances, 1));
    options.optimisation = optimisation_of(config);
    options.options = extra;
    options.option_count = (int)SP_ARRAY_LEN(extra);
    sp_status s = sp_session_open(model->engine, &options, &model->session, reterr);
    sp_buf_done(&json);
    return s;
}

sp_status sp_hall_model_open(const sp_hall *hall, sp_hall_model *model, uint64_t *ret_bytes, sp_error *reterr)
{
    sp_engine_memory memory = { 0 };
    *ret_bytes = 0;
    if (SP_FAULT("hall.load") == SP_FAULT_FAIL)
        return SP_FAIL(reterr, SP_INTERNAL, "fault point hall.load");
    model->lanes = calloc((size_t)model->instances, sizeof(*model->lanes));
    sp_status s = model->lanes ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for %d instances", model->instances);
    if (!s && !model->identity && !model->ensemble) {
        sp_error err = { 0 };
        s = check_unchanged(model, &err);
        if (!s)
            s = open_session(hall, model, &err);
        if (s && s != SP_NOMEM && !err.code[0] && is_accelerated(hall, model)) {
            sp_error why = err;
            s = drop_accelerator(hall, model, &why, &err);
            if (!s)
                s = open_session(hall, model, &err);
        }
        if (s && reterr)
            *reterr = err;
        if (!s)
            s = map_ports(model, reterr);
        if (!s) {
            model->bucket_most = bucket_most(hall, model);
            s = sp_hall_model_warm_buckets(model, reterr);
        }
        if (!s && sp_session_memory(model->session, &memory, NULL) == SP_OK)
            *ret_bytes = SP_MAX(memory.host_bytes, memory.device_bytes);
    }
    if (s) {
        sp_hall_model_close(model);
        return s;
    }
    if (!*ret_bytes)
        *ret_bytes = sp_hall_model_estimate(model);
    return SP_OK;
}

void sp_hall_model_close(sp_hall_model *model)
{
    sp_session_free(model->session);
    model->session = NULL;
    for (int i = 0; model->lanes && i < model->instances; i++) {
        for (int p = 0; p < SP_INFER_PORTS; p++) {
            free(model->lanes[i].inputs[p].data);
            free(model->lanes[i].outputs[p].data);
        }
        free(model->lanes[i].scratch.data);
    }
    free(model->lanes);
    model->lanes = NULL;
}

uint64_t sp_hall_model_estimate(const sp_hall_model *model)
{
    struct stat info;
    if (model->measured)
        return model->measured;
    return model->identity || model->ensemble || stat(model->spec->path, &info) != 0 ? 0 : (uint64_t)info.st_size;
}

void sp_hall_describe(const sp_hall *hall, const sp_hall_model *model, sp_answer_loaded *loaded)
{
    bool host = strcmp(hall->settings.provider, "cpu") == 0 && !hall->settings.sim;
    loaded->host_bytes = host ? model->measured : 0;
    loaded->device_bytes = host ? 0 : model->measured;
    sp_engine_report report;
    if (model->session && sp_session_report(model->session, &report, NULL) == SP_OK && report.run_count) {
        loaded->node_count = (uint32_t)SP_MAX(report.node_count, 0);
        loaded->cpu_node_count = (uint32_t)SP_MAX(report.host_node_count, 0);
        loaded->cpu_share = report.host_share;
        (void)snprintf(loaded->cpu_nodes, sizeof(loaded->cpu_nodes), "%s", report.host_nodes);
    }
    (void)snprintf(loaded->engine, sizeof(loaded->engine), "%.31s", model->engine_name ? model->engine_name : engine_of(model->config));
    (void)snprintf(loaded->device, sizeof(loaded->device), "%.31s", hall->settings.worker);
}
