/* SPDX-License-Identifier: Apache-2.0
 * A document (every field known and within its bounds) into the struct. See config_form.h. */
#include "model/config_form.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static void copy_text(char *dst, size_t bytes, const json_t *object, const char *name)
{
    (void)snprintf(dst, bytes, "%s", text_of(object, name));
}
#define COPY_TEXT(dst, object, name) copy_text((dst), sizeof(dst), (object), (name))

static int64_t integer_of(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static uint32_t count_of(const json_t *object, const char *name)
{
    int64_t value = integer_of(object, name);
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static bool flag_of(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

static int word_of(const json_t *object, const char *name, const char *const *words, int count)
{
    for (int i = 0; i < count; i++) {
        if (!strcmp(text_of(object, name), words[i]))
            return i;
    }
    return 0;
}
#define WORD_OF(object, name, ...)                                                             \
    word_of((object), (name), (const char *const[]){ __VA_ARGS__ },                            \
            (int)(sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(const char *)))

static uint8_t dtype_of(const json_t *object)
{
    return (uint8_t)sp_dtype_of_kserve(sp_view_of(text_of(object, "data_type")));
}

static uint8_t dims_of(const json_t *object, const char *name, int64_t dims[SP_INFER_RANK])
{
    const json_t *list = json_object_get(object, name);
    size_t i;
    json_t *value;

    json_array_foreach((json_t *)list, i, value)
        dims[i] = json_integer_value(value);
    return (uint8_t)json_array_size(list);
}

static int sizes_of(const json_t *object, const char *name, int32_t *sizes)
{
    const json_t *list = json_object_get(object, name);
    size_t i;
    json_t *value;

    json_array_foreach((json_t *)list, i, value)
        sizes[i] = (int32_t)json_integer_value(value);
    return (int)json_array_size(list);
}

static void fill_port(sp_model_port *port, const json_t *from)
{
    const json_t *reshape = json_object_get(from, "reshape");

    COPY_TEXT(port->name, from, "name");
    COPY_TEXT(port->format, from, "format");
    if (!strcmp(port->format, "FORMAT_NONE"))
        port->format[0] = '\0';
    COPY_TEXT(port->label_filename, from, "label_filename");
    port->dtype = dtype_of(from);
    port->has_dims = json_object_get(from, "dims") != NULL;
    port->rank = dims_of(from, "dims", port->dims);
    port->has_reshape = reshape != NULL;
    port->reshape_rank = dims_of(reshape, "shape", port->reshape);
    port->optional = flag_of(from, "optional");
    port->is_shape_tensor = flag_of(from, "is_shape_tensor");
    port->allow_ragged = flag_of(from, "allow_ragged_batch");
}

static int fill_ports(sp_model_port *ports, const json_t *list)
{
    size_t i;
    json_t *value;

    json_array_foreach((json_t *)list, i, value)
        fill_port(&ports[i], value);
    return (int)json_array_size(list);
}

static void fill_queue_policy(sp_queue_policy *policy, const json_t *from)
{
    policy->timeout_action = WORD_OF(from, "timeout_action", "REJECT", "DELAY") ? SP_TIMEOUT_DELAY : SP_TIMEOUT_REJECT;
    policy->default_timeout_us = (uint64_t)integer_of(from, "default_timeout_microseconds");
    policy->allow_timeout_override = flag_of(from, "allow_timeout_override");
    policy->max_queue_size = count_of(from, "max_queue_size");
}

static sp_status fill_batching(sp_model_config *config, const char *what, const json_t *from, sp_error *reterr)
{
    sp_batching_config *b = &config->batching;
    const char *key;
    json_t *value;

    b->on = true;
    b->preferred_count = sizes_of(from, "preferred_batch_size", b->preferred);
    b->max_queue_delay_us = (uint64_t)integer_of(from, "max_queue_delay_microseconds");
    b->preserve_ordering = flag_of(from, "preserve_ordering");
    b->priority_levels = count_of(from, "priority_levels");
    b->default_priority_level = count_of(from, "default_priority_level");
    fill_queue_policy(&b->default_policy, json_object_get(from, "default_queue_policy"));
    for (int i = 0; i < SP_LIMIT_PRIORITY_LEVELS; i++)
        b->priority_policy[i] = b->default_policy;
    json_object_foreach(json_object_get(from, "priority_queue_policy"), key, value) {
        uint64_t level = strtoull(key, NULL, 10);
        if (level < 1 || level > SP_MIN(b->priority_levels, (uint32_t)SP_LIMIT_PRIORITY_LEVELS))
            return SP_FAIL(reterr, SP_INVALID, "%s: dynamic_batching.priority_queue_policy: there is no priority level %s", what,
                           key);
        fill_queue_policy(&b->priority_policy[level - 1], value);
    }
    return SP_OK;
}

/* Exactly one of the three lists says the type of the tensor and its two values; CORRID has a type instead. */
static sp_status fill_control(sp_sequence_control *control, const char *what, const json_t *from, sp_error *reterr)
{
    static const struct {
        const char *name;
        uint8_t dtype;
    } lists[] = { { "int32_false_true", 6 }, { "fp32_false_true", 1 }, { "bool_false_true", 9 } };

    control->kind = (sp_control_tensor)WORD_OF(from, "kind", "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY",
                                               "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID");
    if (control->kind == SP_CONTROL_CORRID)
        control->dtype = dtype_of(from);
    for (size_t i = 0; i < SP_ARRAY_LEN(lists); i++) {
        const json_t *list = json_object_get(from, lists[i].name), *no = json_array_get(list, 0), *yes = json_array_get(list, 1);
        if (!json_array_size(list))
            continue;
        if (control->kind == SP_CONTROL_CORRID || control->dtype || !yes)
            return SP_FAIL(reterr, SP_INVALID, "%s: sequence_batching.control_input '%s': %s: %s", what, control->name,
                           lists[i].name,
                           control->kind == SP_CONTROL_CORRID ? "a CORRID has none"
                           : control->dtype                   ? "only one of the three lists may be given"
                                                              : "must have two values");
        control->dtype = lists[i].dtype;
        control->no_value = json_is_boolean(no) ? json_is_true(no) : json_number_value(no);
        control->yes_value = json_is_boolean(yes) ? json_is_true(yes) : json_number_value(yes);
    }
    if (!control->dtype)
        return SP_FAIL(reterr, SP_INVALID, "%s: sequence_batching.control_input '%s': %s", what, control->name,
                       control->kind == SP_CONTROL_CORRID ? "must have a data_type"
                                                          : "must have int32_false_true, fp32_false_true or bool_false_true");
    return SP_OK;
}

static sp_status fill_controls(sp_sequence_config *sequence, const char *what, const json_t *from, sp_error *reterr)
{
    size_t i, j;
    json_t *input, *control;

    json_array_foreach(json_object_get(from, "control_input"), i, input) {
        json_array_foreach(json_object_get(input, "control"), j, control) {
            if (sequence->control_count == SP_LIMIT_SEQUENCE_CONTROLS)
                return SP_FAIL(reterr, SP_INVALID, "%s: sequence_batching.control_input: more than %d controls", what,
                               SP_LIMIT_SEQUENCE_CONTROLS);
            sp_sequence_control *c = &sequence->controls[sequence->control_count++];
            COPY_TEXT(c->name, input, "name");
            sp_status status = fill_control(c, what, control, reterr);
            if (status)
                return status;
        }
    }
    return SP_OK;
}

static sp_status fill_sequence(sp_sequence_config *s, const char *what, const json_t *from, sp_error *reterr)
{
    const json_t *direct = json_object_get(from, "direct"), *oldest = json_object_get(from, "oldest");
    size_t i;
    json_t *state;

    s->strategy = oldest ? SP_SEQUENCE_OLDEST : SP_SEQUENCE_DIRECT;
    s->max_idle_us = (uint64_t)integer_of(from, "max_sequence_idle_microseconds");
    s->direct_max_queue_delay_us = (uint64_t)integer_of(direct, "max_queue_delay_microseconds");
    s->direct_minimum_slot_utilization = json_number_value(json_object_get(direct, "minimum_slot_utilization"));
    s->oldest_max_candidates = (int32_t)integer_of(oldest, "max_candidate_sequences");
    s->oldest_preferred_count = sizes_of(oldest, "preferred_batch_size", s->oldest_preferred);
    s->oldest_max_queue_delay_us = (uint64_t)integer_of(oldest, "max_queue_delay_microseconds");
    json_array_foreach(json_object_get(from, "state"), i, state) {
        sp_sequence_state *to = &s->states[s->state_count++];
        COPY_TEXT(to->input, state, "input_name");
        COPY_TEXT(to->output, state, "output_name");
        to->dtype = dtype_of(state);
        to->rank = dims_of(state, "dims", to->dims);
    }
    return fill_controls(s, what, from, reterr);
}

static bool fill_map(sp_ensemble_map **ret_map, int *ret_count, const json_t *from)
{
    const char *key;
    json_t *value;
    size_t size = json_object_size(from);

    *ret_map = calloc(size ? size : 1, sizeof(**ret_map));
    if (!*ret_map)
        return false;
    json_object_foreach((json_t *)from, key, value) {
        sp_ensemble_map *entry = &(*ret_map)[(*ret_count)++];
        (void)snprintf(entry->key, sizeof(entry->key), "%s", key);
        (void)snprintf(entry->value, sizeof(entry->value), "%s", json_string_value(value));
    }
    return true;
}

static bool fill_ensemble(sp_model_config *config, const json_t *from)
{
    size_t i;
    json_t *step;

    config->is_ensemble = true;
    json_array_foreach(json_object_get(from, "step"), i, step) {
        sp_ensemble_step *to = &config->steps[config->step_count++];
        const json_t *version = json_object_get(step, "model_version");
        COPY_TEXT(to->model, step, "model_name");
        to->version = version && json_integer_value(version) > 0 ? json_integer_value(version) : -1;
        if (!fill_map(&to->inputs, &to->input_count, json_object_get(step, "input_map")) ||
            !fill_map(&to->outputs, &to->output_count, json_object_get(step, "output_map")))
            return false;
    }
    return true;
}

static void fill_groups(sp_model_config *config, const json_t *list)
{
    size_t i, j;
    json_t *from, *resource;

    json_array_foreach((json_t *)list, i, from) {
        sp_instance_group *group = &config->groups[config->group_count++];
        const json_t *limiter = json_object_get(from, "rate_limiter");
        COPY_TEXT(group->name, from, "name");
        group->kind = (sp_instance_kind)WORD_OF(from, "kind", "KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL");
        group->count = (int32_t)integer_of(from, "count");
        group->gpu_count = sizes_of(from, "gpus", group->gpus);
        group->passive = flag_of(from, "passive");
        group->rate_priority = count_of(limiter, "priority");
        json_array_foreach(json_object_get(limiter, "resources"), j, resource) {
            __typeof__(&group->resources[0]) to = &group->resources[group->resource_count++];
            COPY_TEXT(to->name, resource, "name");
            to->global = flag_of(resource, "global");
            to->count = count_of(resource, "count");
        }
    }
}

static void fill_versions(sp_model_config *config, const json_t *from)
{
    const json_t *latest = json_object_get(from, "latest"), *specific = json_object_get(from, "specific");
    size_t i;
    json_t *value;

    config->version_policy = specific                       ? SP_VERSIONS_SPECIFIC
                             : json_object_get(from, "all") ? SP_VERSIONS_ALL
                                                            : SP_VERSIONS_LATEST;
    config->latest_count = SP_MAX(count_of(latest, "num_versions"), 1u);
    json_array_foreach(json_object_get(specific, "versions"), i, value)
        config->specific[config->specific_count++] = json_integer_value(value);
}

static void fill_warmups(sp_model_config *config, const json_t *list)
{
    const char *key;
    json_t *from, *input;
    size_t i;

    json_array_foreach((json_t *)list, i, from) {
        sp_warmup *warmup = &config->warmups[config->warmup_count++];
        COPY_TEXT(warmup->name, from, "name");
        warmup->batch_size = count_of(from, "batch_size");
        warmup->count = count_of(from, "count");
        json_object_foreach(json_object_get(from, "inputs"), key, input) {
            sp_warmup_input *to = &warmup->inputs[warmup->input_count++];
            (void)snprintf(to->name, sizeof(to->name), "%s", key);
            to->dtype = dtype_of(input);
            to->rank = dims_of(input, "dims", to->dims);
            COPY_TEXT(to->file, input, "input_data_file");
            to->source = *to->file ? SP_WARMUP_FILE : flag_of(input, "random_data") ? SP_WARMUP_RANDOM : SP_WARMUP_ZERO;
        }
    }
}

static void fill_accelerators(sp_model_config *config, const json_t *list)
{
    size_t i;
    json_t *from;

    json_array_foreach((json_t *)list, i, from) {
        const json_t *parameters = json_object_get(from, "parameters");
        if (config->accelerator_count < (int)SP_ARRAY_LEN(config->accelerators))
            COPY_TEXT(config->accelerators[config->accelerator_count++], from, "name");
        if (json_object_get(parameters, "precision_mode"))
            COPY_TEXT(config->precision, parameters, "precision_mode");
    }
}

static void fill_optimization(sp_model_config *config, const json_t *from)
{
    const json_t *graph = json_object_get(from, "graph"), *accelerators = json_object_get(from, "execution_accelerators");

    if (graph)
        config->graph_level = (int32_t)integer_of(graph, "level");
    fill_accelerators(config, json_object_get(accelerators, "gpu_execution_accelerator"));
    fill_accelerators(config, json_object_get(accelerators, "cpu_execution_accelerator"));
}

static void fill_parameters(sp_model_config *config, const json_t *from)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)from, key, value) {
        sp_model_parameter *to = &config->parameters[config->parameter_count++];
        (void)snprintf(to->key, sizeof(to->key), "%s", key);
        COPY_TEXT(to->value, value, "string_value");
    }
}

static sp_status fill_kept(sp_model_config *config, const char *what, const json_t *document, sp_error *reterr)
{
    bool ok;
    SP_CLEANUP(sp_json_unrefp) json_t *kept = sp_document_kept(&sp_schema_model_config, document, &ok);

    if (kept)
        config->kept = json_dumps(kept, JSON_COMPACT | JSON_REAL_PRECISION(17));
    return ok && (!kept || config->kept) ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "%s: out of memory", what);
}

sp_status sp_config_fill(sp_model_config *config, const char *what, const json_t *document, sp_error *reterr)
{
    const json_t *batching = json_object_get(document, "dynamic_batching"),
                 *sequence = json_object_get(document, "sequence_batching"),
                 *ensemble = json_object_get(document, "ensemble_scheduling"),
                 *max_batch_size = json_object_get(document, "max_batch_size");
    sp_status status = SP_OK;

    COPY_TEXT(config->name, document, "name");
    COPY_TEXT(config->platform, document, "platform");
    COPY_TEXT(config->backend, document, "backend");
    COPY_TEXT(config->default_model_filename, document, "default_model_filename");
    if (max_batch_size)
        config->max_batch_size = (int32_t)json_integer_value(max_batch_size);
    if (max_batch_size && config->max_batch_size < 0)
        return SP_FAIL(reterr, SP_INVALID, "%s: max_batch_size: must be 0 or more", what);
    config->input_count = fill_ports(config->inputs, json_object_get(document, "input"));
    config->output_count = fill_ports(config->outputs, json_object_get(document, "output"));
    fill_versions(config, json_object_get(document, "version_policy"));
    fill_groups(config, json_object_get(document, "instance_group"));
    fill_optimization(config, json_object_get(document, "optimization"));
    fill_parameters(config, json_object_get(document, "parameters"));
    fill_warmups(config, json_object_get(document, "model_warmup"));
    config->decoupled = flag_of(json_object_get(document, "model_transaction_policy"), "decoupled");
    config->response_cache = flag_of(json_object_get(document, "response_cache"), "enable");
    if (batching)
        status = fill_batching(config, what, batching, reterr);
    if (sequence)
        status = fill_sequence(&config->sequence, what, sequence, reterr);
    if (ensemble && !fill_ensemble(config, ensemble))
        status = SP_FAIL(reterr, SP_NOMEM, "%s: out of memory", what);
    return status ? status : fill_kept(config, what, document, reterr);
}
