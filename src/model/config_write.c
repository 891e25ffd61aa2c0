/* SPDX-License-Identifier: Apache-2.0
 * The struct as a document. See config_form.h. Memory that runs out on the way shows as an object that is not whole, so every
 * adding call goes through `add`, which remembers. */
#include "model/config_form.h"

#include <string.h>

typedef struct writer {
    bool failed;
} writer;

static json_t *add(writer *w, json_t *object, const char *name, json_t *value)
{
    if (!value || json_object_set_new(object, name, value))
        w->failed = true;
    return w->failed ? NULL : value;
}

static json_t *append(writer *w, json_t *list, json_t *value)
{
    if (!value || json_array_append_new(list, value))
        w->failed = true;
    return w->failed ? NULL : value;
}

static void add_text(writer *w, json_t *object, const char *name, const char *text)
{
    (void)add(w, object, name, json_string(text));
}

static void add_integer(writer *w, json_t *object, const char *name, int64_t value)
{
    (void)add(w, object, name, json_integer(value));
}

static void add_flag(writer *w, json_t *object, const char *name, bool value)
{
    (void)add(w, object, name, json_boolean(value));
}

static void add_dims(writer *w, json_t *object, const char *name, const int64_t *dims, int count)
{
    json_t *list = add(w, object, name, json_array());
    for (int i = 0; i < count; i++)
        (void)append(w, list, json_integer(dims[i]));
}

static void add_sizes(writer *w, json_t *object, const char *name, const int32_t *sizes, int count)
{
    json_t *list = add(w, object, name, json_array());
    for (int i = 0; i < count; i++)
        (void)append(w, list, json_integer(sizes[i]));
}

static void add_type(writer *w, json_t *object, int dtype)
{
    char text[32] = "TYPE_INVALID";
    const char *word = dtype == SP_DTYPE_BYTES ? "STRING" : sp_dtype_kserve(dtype);

    if (word)
        (void)snprintf(text, sizeof(text), "TYPE_%s", word);
    add_text(w, object, "data_type", text);
}

static void write_ports(writer *w, json_t *root, const char *name, const sp_model_port *ports, int count, bool inputs)
{
    json_t *list = add(w, root, name, json_array());

    for (int i = 0; i < count; i++) {
        const sp_model_port *port = &ports[i];
        json_t *to = append(w, list, json_object());
        add_text(w, to, "name", port->name);
        add_type(w, to, port->dtype);
        if (inputs)
            add_text(w, to, "format", *port->format ? port->format : "FORMAT_NONE");
        if (port->has_dims)
            add_dims(w, to, "dims", port->dims, port->rank);
        if (port->has_reshape)
            add_dims(w, add(w, to, "reshape", json_object()), "shape", port->reshape, port->reshape_rank);
        add_flag(w, to, "is_shape_tensor", port->is_shape_tensor);
        if (inputs) {
            add_flag(w, to, "allow_ragged_batch", port->allow_ragged);
            add_flag(w, to, "optional", port->optional);
        } else {
            add_text(w, to, "label_filename", port->label_filename);
        }
    }
}

static void write_queue_policy(writer *w, json_t *to, const sp_queue_policy *policy)
{
    add_text(w, to, "timeout_action", policy->timeout_action == SP_TIMEOUT_DELAY ? "DELAY" : "REJECT");
    add_integer(w, to, "default_timeout_microseconds", (int64_t)policy->default_timeout_us);
    add_flag(w, to, "allow_timeout_override", policy->allow_timeout_override);
    add_integer(w, to, "max_queue_size", policy->max_queue_size);
}

static bool policy_equals(const sp_queue_policy *a, const sp_queue_policy *b)
{
    return a->timeout_action == b->timeout_action && a->default_timeout_us == b->default_timeout_us &&
           a->allow_timeout_override == b->allow_timeout_override && a->max_queue_size == b->max_queue_size;
}

static void write_batching(writer *w, json_t *root, const sp_batching_config *b)
{
    static const sp_queue_policy none = { 0 };
    json_t *to = add(w, root, "dynamic_batching", json_object()), *levels = NULL;
    char key[16];

    add_sizes(w, to, "preferred_batch_size", b->preferred, b->preferred_count);
    add_integer(w, to, "max_queue_delay_microseconds", (int64_t)b->max_queue_delay_us);
    add_flag(w, to, "preserve_ordering", b->preserve_ordering);
    add_integer(w, to, "priority_levels", b->priority_levels);
    add_integer(w, to, "default_priority_level", b->default_priority_level);
    if (!policy_equals(&b->default_policy, &none))
        write_queue_policy(w, add(w, to, "default_queue_policy", json_object()), &b->default_policy);
    for (uint32_t i = 0; i < SP_MIN(b->priority_levels, (uint32_t)SP_LIMIT_PRIORITY_LEVELS); i++) {
        if (policy_equals(&b->priority_policy[i], &b->default_policy))
            continue;
        if (!levels)
            levels = add(w, to, "priority_queue_policy", json_object());
        (void)snprintf(key, sizeof(key), "%u", i + 1);
        write_queue_policy(w, add(w, levels, key, json_object()), &b->priority_policy[i]);
    }
}

static void write_control(writer *w, json_t *list, const sp_sequence_control *control)
{
    static const char *const kinds[] = { "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END",
                                         "CONTROL_SEQUENCE_CORRID" };
    json_t *input = append(w, list, json_object());

    add_text(w, input, "name", control->name);
    json_t *to = append(w, add(w, input, "control", json_array()), json_object());
    add_text(w, to, "kind", kinds[control->kind]);
    if (control->kind == SP_CONTROL_CORRID) {
        add_type(w, to, control->dtype);
        return;
    }
    bool is_bool = control->dtype == 9, is_float = control->dtype == 1;
    json_t *values = add(w, to, is_bool ? "bool_false_true" : is_float ? "fp32_false_true" : "int32_false_true", json_array());
    for (int i = 0; i < 2; i++) {
        double value = i ? control->yes_value : control->no_value;
        (void)append(w, values, is_bool    ? json_boolean(value != 0)
                                : is_float ? json_real(value)
                                           : json_integer((json_int_t)value));
    }
}

static void write_sequence(writer *w, json_t *root, const sp_sequence_config *s)
{
    json_t *to = add(w, root, "sequence_batching", json_object()), *list;

    if (s->strategy == SP_SEQUENCE_OLDEST) {
        json_t *oldest = add(w, to, "oldest", json_object());
        add_integer(w, oldest, "max_candidate_sequences", s->oldest_max_candidates);
        add_sizes(w, oldest, "preferred_batch_size", s->oldest_preferred, s->oldest_preferred_count);
        add_integer(w, oldest, "max_queue_delay_microseconds", (int64_t)s->oldest_max_queue_delay_us);
    } else {
        json_t *direct = add(w, to, "direct", json_object());
        add_integer(w, direct, "max_queue_delay_microseconds", (int64_t)s->direct_max_queue_delay_us);
        (void)add(w, direct, "minimum_slot_utilization", json_real(s->direct_minimum_slot_utilization));
    }
    add_integer(w, to, "max_sequence_idle_microseconds", (int64_t)s->max_idle_us);
    list = add(w, to, "control_input", json_array());
    for (int i = 0; i < s->control_count; i++)
        write_control(w, list, &s->controls[i]);
    list = add(w, to, "state", json_array());
    for (int i = 0; i < s->state_count; i++) {
        json_t *state = append(w, list, json_object());
        add_text(w, state, "input_name", s->states[i].input);
        add_text(w, state, "output_name", s->states[i].output);
        add_type(w, state, s->states[i].dtype);
        add_dims(w, state, "dims", s->states[i].dims, s->states[i].rank);
    }
}

static void write_map(writer *w, json_t *step, const char *name, const sp_ensemble_map *map, int count)
{
    json_t *to = add(w, step, name, json_object());
    for (int i = 0; i < count; i++)
        add_text(w, to, map[i].key, map[i].value);
}

static void write_ensemble(writer *w, json_t *root, const sp_model_config *config)
{
    json_t *list = add(w, add(w, root, "ensemble_scheduling", json_object()), "step", json_array());

    for (int i = 0; i < config->step_count; i++) {
        const sp_ensemble_step *step = &config->steps[i];
        json_t *to = append(w, list, json_object());
        add_text(w, to, "model_name", step->model);
        add_integer(w, to, "model_version", step->version);
        write_map(w, to, "input_map", step->inputs, step->input_count);
        write_map(w, to, "output_map", step->outputs, step->output_count);
    }
}

static void write_groups(writer *w, json_t *root, const sp_model_config *config)
{
    static const char *const kinds[] = { "KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL" };
    json_t *list = add(w, root, "instance_group", json_array());

    for (int i = 0; i < config->group_count; i++) {
        const sp_instance_group *group = &config->groups[i];
        json_t *to = append(w, list, json_object());
        add_text(w, to, "name", group->name);
        add_text(w, to, "kind", kinds[group->kind]);
        add_integer(w, to, "count", group->count);
        add_sizes(w, to, "gpus", group->gpus, group->gpu_count);
        add_flag(w, to, "passive", group->passive);
        if (!group->resource_count && !group->rate_priority)
            continue;
        json_t *limiter = add(w, to, "rate_limiter", json_object()), *resources = add(w, limiter, "resources", json_array());
        add_integer(w, limiter, "priority", group->rate_priority);
        for (int k = 0; k < group->resource_count; k++) {
            json_t *resource = append(w, resources, json_object());
            add_text(w, resource, "name", group->resources[k].name);
            add_flag(w, resource, "global", group->resources[k].global);
            add_integer(w, resource, "count", group->resources[k].count);
        }
    }
}

static void write_versions(writer *w, json_t *root, const sp_model_config *config)
{
    json_t *to = add(w, root, "version_policy", json_object());

    if (config->version_policy == SP_VERSIONS_ALL)
        (void)add(w, to, "all", json_object());
    else if (config->version_policy == SP_VERSIONS_SPECIFIC)
        add_dims(w, add(w, to, "specific", json_object()), "versions", config->specific, config->specific_count);
    else
        add_integer(w, add(w, to, "latest", json_object()), "num_versions", config->latest_count);
}

static void write_warmups(writer *w, json_t *root, const sp_model_config *config)
{
    json_t *list = add(w, root, "model_warmup", json_array());

    for (int i = 0; i < config->warmup_count; i++) {
        const sp_warmup *warmup = &config->warmups[i];
        json_t *to = append(w, list, json_object()), *inputs = add(w, to, "inputs", json_object());
        add_text(w, to, "name", warmup->name);
        add_integer(w, to, "batch_size", warmup->batch_size);
        add_integer(w, to, "count", warmup->count);
        for (int k = 0; k < warmup->input_count; k++) {
            const sp_warmup_input *from = &warmup->inputs[k];
            json_t *input = add(w, inputs, from->name, json_object());
            add_type(w, input, from->dtype);
            add_dims(w, input, "dims", from->dims, from->rank);
            if (from->source == SP_WARMUP_FILE)
                add_text(w, input, "input_data_file", from->file);
            else
                add_flag(w, input, from->source == SP_WARMUP_RANDOM ? "random_data" : "zero_data", true);
        }
    }
}

static void write_parameters(writer *w, json_t *root, const sp_model_config *config)
{
    json_t *to = add(w, root, "parameters", json_object());
    for (int i = 0; i < config->parameter_count; i++)
        add_text(w, add(w, to, config->parameters[i].key, json_object()), "string_value", config->parameters[i].value);
}

json_t *sp_config_document(const sp_model_config *config)
{
    writer w = { 0 };
    SP_CLEANUP(sp_json_unrefp) json_t *root = json_object();

    if (!root)
        return NULL;
    add_text(&w, root, "name", config->name);
    add_text(&w, root, "platform", config->platform);
    add_text(&w, root, "backend", config->backend);
    add_text(&w, root, "default_model_filename", config->default_model_filename);
    if (config->max_batch_size >= 0)
        add_integer(&w, root, "max_batch_size", config->max_batch_size);
    write_versions(&w, root, config);
    write_ports(&w, root, "input", config->inputs, config->input_count, true);
    write_ports(&w, root, "output", config->outputs, config->output_count, false);
    if (config->batching.on)
        write_batching(&w, root, &config->batching);
    if (config->sequence.strategy != SP_SEQUENCE_NONE)
        write_sequence(&w, root, &config->sequence);
    if (config->is_ensemble)
        write_ensemble(&w, root, config);
    write_groups(&w, root, config);
    if (config->graph_level != 99)
        add_integer(&w, add(&w, add(&w, root, "optimization", json_object()), "graph", json_object()), "level",
                    config->graph_level);
    write_parameters(&w, root, config);
    write_warmups(&w, root, config);
    if (config->decoupled)
        add_flag(&w, add(&w, root, "model_transaction_policy", json_object()), "decoupled", true);
    if (config->response_cache)
        add_flag(&w, add(&w, root, "response_cache", json_object()), "enable", true);
    return w.failed ? NULL : SP_STEAL(root);
}
