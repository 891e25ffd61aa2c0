/* SPDX-License-Identifier: Apache-2.0
 * What the fields of a complete configuration say together, and what cannot be served. Source of the rules: triton core
 * src/model_config_utils.cc (ValidateModelConfig, ValidateIOShape, ValidateEnsembleSchedulingConfig). */
#include "model/config.h"

#include "base/nearest.h"
#include "model/backend.h"
#include "model/document.h"

#include <string.h>

#define WRONG(...)  SP_FAIL(reterr, SP_INVALID, __VA_ARGS__)
#define CANNOT(...) SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "config", __VA_ARGS__)

/* --- ports --------------------------------------------------------------------------------------------------------------- */

/* Elements between the open dimensions must be equal: [2,4,-1,6] is [8,-1,1,6]. */
static bool same_elements(const int64_t *a, int a_rank, const int64_t *b, int b_rank)
{
    int i = 0, k = 0;

    for (;;) {
        int64_t a_count = 1, b_count = 1;
        for (; i < a_rank && a[i] >= 0; i++) {
            if (__builtin_mul_overflow(a_count, a[i], &a_count))
                return false;
        }
        for (; k < b_rank && b[k] >= 0; k++) {
            if (__builtin_mul_overflow(b_count, b[k], &b_count))
                return false;
        }
        if (a_count != b_count || (i == a_rank) != (k == b_rank))
            return false;
        if (i == a_rank)
            return true;
        i++;
        k++;
    }
}

static sp_status check_port(const sp_model_config *config, const char *file, const char *what, const sp_model_port *port,
                            sp_error *reterr)
{
    if (!*port->name)
        return WRONG("%s: %s: must specify 'name'", file, what);
    if (!port->dtype)
        return WRONG("%s: %s '%s': must specify 'data_type'", file, what, port->name);
    if (!port->has_dims)
        return WRONG("%s: %s '%s': must specify 'dims'", file, what, port->name);
    for (int i = 0; i < port->rank; i++) {
        if (port->dims[i] < -1)
            return WRONG("%s: %s '%s': dims: must be 1 or more, or -1 for any size", file, what, port->name);
    }
    for (int i = 0; i < port->reshape_rank; i++) {
        if (port->reshape[i] < -1)
            return WRONG("%s: %s '%s': reshape: must be 1 or more, or -1 for any size", file, what, port->name);
    }
    if (port->has_reshape && !same_elements(port->dims, port->rank, port->reshape, port->reshape_rank))
        return WRONG("%s: %s '%s': dims and reshape have different sizes", file, what, port->name);
    if (port->rank + (config->max_batch_size > 0) > SP_INFER_RANK || port->reshape_rank + (config->max_batch_size > 0) > SP_INFER_RANK)
        return WRONG("%s: %s '%s': dims: more than %d dimensions with the batch's", file, what, port->name, SP_INFER_RANK);
    if (*port->format && port->rank != 3)
        return WRONG("%s: %s '%s': format: %s needs 3 dims", file, what, port->name, port->format);
    if (port->is_shape_tensor)
        return CANNOT("%s: %s '%s': is_shape_tensor: shape tensors are TensorRT's alone", file, what, port->name);
    if (port->allow_ragged)
        return CANNOT("%s: %s '%s': allow_ragged_batch is not served: pad to one shape, or set max_batch_size: 0", file, what,
                      port->name);
    return SP_OK;
}

static sp_status check_ports(const sp_model_config *config, const char *file, const char *what, const sp_model_port *ports, int count,
                             sp_error *reterr)
{
    if (!count)
        return WRONG("%s: %s: must have at least one", file, what);
    for (int i = 0; i < count; i++) {
        sp_status status = check_port(config, file, what, &ports[i], reterr);
        for (int k = 0; !status && k < i; k++) {
            if (!strcmp(ports[i].name, ports[k].name))
                status = WRONG("%s: %s '%s': given twice", file, what, ports[i].name);
        }
        if (status)
            return status;
    }
    return SP_OK;
}

/* --- back end -------------------------------------------------------------------------------------------------------------- */

static sp_status check_backend(const sp_model_config *config, const char *file, sp_error *reterr)
{
    bool ensemble = !strcmp(config->platform, "ensemble");
    const char *names[32];
    int count = 0;

    if (ensemble != config->is_ensemble)
        return ensemble ? WRONG("%s: ensemble_scheduling: must be set for platform \"ensemble\"", file)
                        : WRONG("%s: platform: must be \"ensemble\" where ensemble_scheduling is set", file);
    if (ensemble)
        return *config->backend ? WRONG("%s: backend: an ensemble has none", file) : SP_OK;
    const char *given = *config->backend ? config->backend : config->platform;
    const sp_backend *backend = *config->backend ? sp_backend_named(given) : sp_backend_of_platform(given);
    if (backend && backend->instead)
        return CANNOT("%s: %s: \"%s\" is not served here: %s", file, *config->platform ? "platform" : "backend",
                      *config->platform ? config->platform : given, backend->instead);
    if (backend) {
        const sp_backend *other = *config->platform ? sp_backend_of_platform(config->platform) : NULL;
        if (other && strcmp(other->name, backend->name))
            return WRONG("%s: platform: \"%s\" is not one of backend \"%s\"", file, config->platform, backend->name);
        return SP_OK;
    }
    if (!*given)
        return WRONG("%s: must specify 'platform' or 'backend' (there is no model.onnx, model.xml or model.py to tell by)", file);
    for (int i = 0; sp_backend_at(i) && count < 32; i++)
        names[count++] = sp_backend_at(i)->instead ? "" : sp_backend_at(i)->name;
    const char *nearest = sp_nearest(given, names, count);
    return CANNOT("%s: backend: \"%s\" is not served here; onnxruntime, openvino, python, identity and ensembles are%s%s%s", file,
                  given, nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
}

/* Kept fields that change what a model answers cannot be passed over in silence. */
static sp_status check_kept(const sp_model_config *config, const char *file, sp_error *reterr)
{
    static const struct {
        const char *path[2], *instead;
    } refused[] = {
        { { "batch_input" }, "ragged batches are not served: pad to one shape" },
        { { "batch_output" }, "ragged batches are not served: pad to one shape" },
        { { "model_operations", "op_library_filename" }, "libraries of custom operators are not loaded" },
        { { "model_repository_agents", "agents" }, "repository agents are not run; check the files before they are put here" },
        { { "sequence_batching", "iterative_sequence" }, "iterative sequences are not served" },
    };
    SP_CLEANUP(sp_json_unrefp) json_t *kept = config->kept ? json_loads(config->kept, 0, NULL) : NULL;

    for (size_t i = 0; kept && i < SP_ARRAY_LEN(refused); i++) {
        const json_t *value = json_object_get(kept, refused[i].path[0]);
        if (refused[i].path[1])
            value = json_object_get(value, refused[i].path[1]);
        if (json_array_size(value) || json_is_true(value))
            return CANNOT("%s: %s%s%s: %s", file, refused[i].path[0], refused[i].path[1] ? "." : "",
                          refused[i].path[1] ? refused[i].path[1] : "", refused[i].instead);
    }
    return SP_OK;
}

/* --- scheduling -------------------------------------------------------------------------------------------------------------- */

static sp_status check_preferred(const sp_model_config *config, const char *file, const char *section, const int32_t *sizes, int count,
                                 sp_error *reterr)
{
    for (int i = 0; i < count; i++) {
        if (sizes[i] <= 0 || sizes[i] > config->max_batch_size)
            return WRONG("%s: %s.preferred_batch_size: %d must be from 1 to max_batch_size (%d)", file, section, sizes[i],
                         config->max_batch_size);
    }
    return SP_OK;
}

static sp_status check_batching(const sp_model_config *config, const char *file, sp_error *reterr)
{
    const sp_batching_config *b = &config->batching;

    if (b->priority_levels > SP_LIMIT_PRIORITY_LEVELS)
        return WRONG("%s: dynamic_batching.priority_levels: at most %d", file, SP_LIMIT_PRIORITY_LEVELS);
    if (b->priority_levels && (b->default_priority_level < 1 || b->default_priority_level > b->priority_levels))
        return WRONG("%s: dynamic_batching.default_priority_level: must be from 1 to %u", file, b->priority_levels);
    if (b->preserve_ordering && b->priority_levels > 1)
        return WRONG("%s: dynamic_batching.preserve_ordering: only one priority level is allowed with it", file);
    for (uint32_t i = 0; b->preserve_ordering && i <= b->priority_levels; i++) {
        const sp_queue_policy *policy = i ? &b->priority_policy[i - 1] : &b->default_policy;
        if (policy->default_timeout_us && policy->timeout_action == SP_TIMEOUT_DELAY)
            return WRONG("%s: dynamic_batching: timeout_action DELAY cannot be had with preserve_ordering", file);
    }
    return check_preferred(config, file, "dynamic_batching", b->preferred, b->preferred_count, reterr);
}

static sp_status check_controls(const sp_model_config *config, const char *file, sp_error *reterr)
{
    const sp_sequence_config *s = &config->sequence;
    unsigned seen = 0;

    for (int i = 0; i < s->control_count; i++) {
        const sp_sequence_control *control = &s->controls[i];
        if (!*control->name)
            return WRONG("%s: sequence_batching.control_input: must specify 'name'", file);
        if (seen & 1u << control->kind)
            return WRONG("%s: sequence_batching.control_input '%s': its kind is given twice", file, control->name);
        seen |= 1u << control->kind;
        for (int k = 0; k < i; k++) {
            if (!strcmp(s->controls[k].name, control->name))
                return WRONG("%s: sequence_batching.control_input '%s': one tensor cannot carry two controls", file, control->name);
        }
        for (int k = 0; k < config->input_count; k++) {
            if (!strcmp(config->inputs[k].name, control->name))
                return WRONG("%s: sequence_batching.control_input '%s': is an input as well", file, control->name);
        }
        static const uint8_t ids[] = { 13, 7, 12, 6, SP_DTYPE_BYTES };
        if (control->kind == SP_CONTROL_CORRID && !memchr(ids, control->dtype, sizeof(ids)))
            return WRONG("%s: sequence_batching.control_input '%s': data_type: must be TYPE_UINT64, TYPE_INT64, TYPE_UINT32, "
                         "TYPE_INT32 or TYPE_STRING", file, control->name);
    }
    return SP_OK;
}

static sp_status check_sequence(const sp_model_config *config, const char *file, sp_error *reterr)
{
    const sp_sequence_config *s = &config->sequence;
    sp_status status = check_controls(config, file, reterr);

    if (status)
        return status;
    if (config->response_cache)
        return WRONG("%s: response_cache: a model with sequences cannot be cached", file);
    if (s->direct_minimum_slot_utilization < 0 || s->direct_minimum_slot_utilization > 1)
        return WRONG("%s: sequence_batching.direct.minimum_slot_utilization: must be from 0 to 1", file);
    if (s->oldest_max_candidates < 0)
        return WRONG("%s: sequence_batching.oldest.max_candidate_sequences: must not be negative", file);
    for (int i = 0; i < s->state_count; i++) {
        if (!*s->states[i].input || !*s->states[i].output || !s->states[i].dtype)
            return WRONG("%s: sequence_batching.state: must have input_name, output_name and data_type", file);
    }
    return check_preferred(config, file, "sequence_batching.oldest", s->oldest_preferred, s->oldest_preferred_count, reterr);
}

static sp_status check_groups(const sp_model_config *config, const char *file, sp_error *reterr)
{
    for (int i = 0; i < config->group_count; i++) {
        const sp_instance_group *group = &config->groups[i];
        if (group->gpu_count && (group->kind == SP_INSTANCE_CPU || group->kind == SP_INSTANCE_MODEL))
            return WRONG("%s: instance_group '%s': gpus: cannot be given with kind %s", file, group->name,
                         group->kind == SP_INSTANCE_CPU ? "KIND_CPU" : "KIND_MODEL");
    }
    return SP_OK;
}

static sp_status check_warmups(const sp_model_config *config, const char *file, sp_error *reterr)
{
    for (int i = 0; i < config->warmup_count; i++) {
        const sp_warmup *warmup = &config->warmups[i];
        if (warmup->batch_size > (uint32_t)SP_MAX(config->max_batch_size, 1))
            return WRONG("%s: model_warmup '%s': batch_size: must be at most %d", file, warmup->name, SP_MAX(config->max_batch_size, 1));
        for (int k = 0; k < warmup->input_count; k++) {
            const sp_warmup_input *input = &warmup->inputs[k];
            if (strstr(input->file, "..") || input->file[0] == '/')
                return WRONG("%s: model_warmup '%s': input_data_file: must lie in the model's warmup directory", file, warmup->name);
            for (int n = 0; n < input->rank; n++) {
                if (input->dims[n] < 0)
                    return WRONG("%s: model_warmup '%s': input '%s': dims: every size must be given", file, warmup->name, input->name);
            }
        }
    }
    return SP_OK;
}

/* --- ensembles ---------------------------------------------------------------------------------------------------------------- */

/* The step that makes the tensor, -1 = the ensemble's own input, -2 = nobody. */
static int maker_of(const sp_model_config *config, const char *tensor)
{
    for (int i = 0; i < config->input_count; i++) {
        if (!strcmp(config->inputs[i].name, tensor))
            return -1;
    }
    for (int i = 0; i < config->step_count; i++) {
        for (int k = 0; k < config->steps[i].output_count; k++) {
            if (!strcmp(config->steps[i].outputs[k].value, tensor))
                return i;
        }
    }
    return -2;
}

static sp_status check_step(const sp_model_config *config, const char *file, int index, sp_error *reterr)
{
    const sp_ensemble_step *step = &config->steps[index];

    if (!*step->model)
        return WRONG("%s: ensemble_scheduling.step[%d]: must specify 'model_name'", file, index);
    if (!strcmp(step->model, config->name))
        return WRONG("%s: ensemble_scheduling.step[%d]: model_name: an ensemble cannot be a step of itself", file, index);
    if (!strncmp(step->model, "spillway/", 9) && strcmp(step->model, "spillway/preprocess") && strcmp(step->model, "spillway/postprocess"))
        return WRONG("%s: ensemble_scheduling.step[%d]: model_name: built-in steps are spillway/preprocess and spillway/postprocess",
                     file, index);
    if (!step->input_count || !step->output_count)
        return WRONG("%s: ensemble_scheduling.step[%d] '%s': must specify 'input_map' and 'output_map'", file, index, step->model);
    for (int k = 0; k < step->input_count; k++) {
        if (!*step->inputs[k].key || !*step->inputs[k].value)
            return WRONG("%s: ensemble_scheduling.step[%d] '%s': input_map: has an empty name", file, index, step->model);
        if (maker_of(config, step->inputs[k].value) == -2)
            return WRONG("%s: ensemble_scheduling.step[%d] '%s': input_map: '%s' is neither an input of the ensemble nor what a step "
                         "makes", file, index, step->model, step->inputs[k].value);
    }
    for (int k = 0; k < step->output_count; k++) {
        const char *tensor = step->outputs[k].value;
        if (!*step->outputs[k].key || !*tensor)
            return WRONG("%s: ensemble_scheduling.step[%d] '%s': output_map: has an empty name", file, index, step->model);
        int maker = maker_of(config, tensor);
        for (int n = 0; n < k; n++) {
            if (!strcmp(step->outputs[n].value, tensor))
                maker = -1;
        }
        if (maker != index)
            return WRONG("%s: ensemble_scheduling.step[%d] '%s': output_map: '%s' is made twice", file, index, step->model, tensor);
    }
    return SP_OK;
}

/* Takes steps whose inputs are all there until none is left; what is left waits for itself. */
static sp_status check_order(const sp_model_config *config, const char *file, sp_error *reterr)
{
    bool done[SP_LIMIT_ENSEMBLE_STEPS] = { false };

    for (int round = 0; round < config->step_count; round++) {
        int taken = -1;
        for (int i = 0; i < config->step_count && taken < 0; i++) {
            bool ready = !done[i];
            for (int k = 0; ready && k < config->steps[i].input_count; k++) {
                int maker = maker_of(config, config->steps[i].inputs[k].value);
                ready = maker == -1 || done[maker];
            }
            taken = ready ? i : -1;
        }
        if (taken < 0)
            return WRONG("%s: ensemble_scheduling: its steps wait for each other in a circle", file);
        done[taken] = true;
    }
    return SP_OK;
}

static sp_status check_ensemble(const sp_model_config *config, const char *file, sp_error *reterr)
{
    sp_status status = SP_OK;

    if (!config->step_count)
        return WRONG("%s: ensemble_scheduling: must have at least one step", file);
    for (int i = 0; !status && i < config->step_count; i++)
        status = check_step(config, file, i, reterr);
    if (!status)
        status = check_order(config, file, reterr);
    for (int i = 0; !status && i < config->output_count; i++) {
        if (maker_of(config, config->outputs[i].name) < 0)
            status = WRONG("%s: output '%s': no step of the ensemble makes it", file, config->outputs[i].name);
    }
    return status;
}

sp_status sp_model_config_check(const sp_model_config *config, const char *file, sp_error *reterr)
{
    sp_status status = SP_OK;

    if (!*config->name)
        return WRONG("%s: must specify 'name'", file);
    status = check_backend(config, file, reterr);
    if (!status && config->decoupled)
        status = CANNOT("%s: model_transaction_policy.decoupled: a request has one answer here; leave it out if the model gives one",
                        file);
    if (!status)
        status = check_kept(config, file, reterr);
    if (!status)
        status = check_ports(config, file, "input", config->inputs, config->input_count, reterr);
    if (!status)
        status = check_ports(config, file, "output", config->outputs, config->output_count, reterr);
    if (!status && config->batching.on)
        status = check_batching(config, file, reterr);
    if (!status && config->sequence.strategy != SP_SEQUENCE_NONE)
        status = check_sequence(config, file, reterr);
    if (!status)
        status = check_groups(config, file, reterr);
    if (!status)
        status = check_warmups(config, file, reterr);
    if (!status && config->is_ensemble)
        status = check_ensemble(config, file, reterr);
    return status;
}
