/* SPDX-License-Identifier: Apache-2.0
 * Fills a configuration by what the model file says of itself, as Triton's auto-complete does, and holds what was given
 * against it. Source of the rules: triton core src/model_config_utils.cc (NormalizeModelConfig), onnxruntime_backend
 * src/onnxruntime.cc (AutoCompleteConfig), triton backend common CompareDimsSupported. */
#include "model/config.h"

#include "model/backend.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AUTO_MAX_BATCH_SIZE 4             /* Triton's default-max-batch-size */
#define SEQUENCE_IDLE_DEFAULT_US 1000000u /* Triton's SEQUENCE_IDLE_DEFAULT_MICROSECONDS */

typedef struct completion {
    sp_model_config *config;
    const char *file; /* for messages */
    sp_error *reterr;
} completion;

/* "[-1,3,224,224]", cut when it is long. */
static const char *shape_text(char text[96], bool batch, const int64_t *dims, int rank)
{
    size_t used = (size_t)snprintf(text, 96, batch ? "[-1" : "[");

    for (int i = 0; i < rank && used < 70; i++)
        used += (size_t)snprintf(text + used, 96 - used, "%s%" PRId64, i || batch ? "," : "", dims[i]);
    (void)snprintf(text + used, 96 - used, "]");
    return text;
}

/* The scheduler's own tensors: the model has them, clients do not see them. */
static bool is_own_input(const sp_model_config *config, const char *name)
{
    for (int i = 0; i < config->sequence.control_count; i++) {
        if (!strcmp(config->sequence.controls[i].name, name))
            return true;
    }
    for (int i = 0; i < config->sequence.state_count; i++) {
        if (!strcmp(config->sequence.states[i].input, name))
            return true;
    }
    return false;
}

static bool is_own_output(const sp_model_config *config, const char *name)
{
    for (int i = 0; i < config->sequence.state_count; i++) {
        if (!strcmp(config->sequence.states[i].output, name))
            return true;
    }
    return false;
}

/* --- back end ------------------------------------------------------------------------------------------------------------ */

static sp_status complete_backend(completion *c)
{
    sp_model_config *config = c->config;

    if (config->is_ensemble && !*config->backend && !*config->platform)
        (void)snprintf(config->platform, sizeof(config->platform), "ensemble");
    if (config->is_ensemble || !strcmp(config->platform, "ensemble"))
        return SP_OK;
    const sp_backend *backend = *config->backend  ? sp_backend_named(config->backend)
                                : *config->platform ? sp_backend_of_platform(config->platform)
                                                    : sp_backend_of_file(config->default_model_filename);
    if (!backend && !*config->backend && *config->platform) /* newer configurations write the back end's name there */
        backend = sp_backend_named(config->platform);
    if (!backend)
        return SP_OK; /* check says so */
    (void)snprintf(config->backend, sizeof(config->backend), "%s", backend->name);
    if (!*config->platform && backend->platform && !backend->instead)
        (void)snprintf(config->platform, sizeof(config->platform), "%s", backend->platform);
    if (!*config->default_model_filename && backend->file)
        (void)snprintf(config->default_model_filename, sizeof(config->default_model_filename), "%s", backend->file);
    return SP_OK;
}

/* --- batching -------------------------------------------------------------------------------------------------------------- */

/* A port of the file that keeps the model from being batched, or NULL. */
static const sp_file_port *fixed_first(const sp_file_port *ports, int count)
{
    for (int i = 0; i < count; i++) {
        if (ports[i].rank == 0 || ports[i].dims[0] != -1)
            return &ports[i];
    }
    return NULL;
}

static sp_status complete_batching(completion *c, const sp_file_ports *ports)
{
    sp_model_config *config = c->config;
    char text[96];
    bool partly = !config->input_count || !config->output_count;
    const sp_file_port *fixed = fixed_first(ports->inputs, ports->input_count);

    if (!fixed)
        fixed = fixed_first(ports->outputs, ports->output_count);
    bool supported = !fixed && ports->input_count > 0;
    if (config->max_batch_size < 0)
        config->max_batch_size = partly && supported ? AUTO_MAX_BATCH_SIZE : 0;
    if (config->max_batch_size > 0 && !supported)
        return SP_FAIL(c->reterr, SP_INVALID,
                       "%s: max_batch_size: %d, but the model's tensor '%s' has the shape %s, whose first dimension is not "
                       "open: set max_batch_size: 0",
                       c->file, config->max_batch_size, fixed ? fixed->name : "",
                       fixed ? shape_text(text, false, fixed->dims, fixed->rank) : "[]");
    if (partly && config->max_batch_size > 1 && config->sequence.strategy == SP_SEQUENCE_NONE)
        config->batching.on = true;
    return SP_OK;
}

/* --- ports ------------------------------------------------------------------------------------------------------------------- */

static void port_of_file(sp_model_port *port, const sp_file_port *from, bool batch)
{
    int skip = batch && from->rank > 0;

    port->has_dims = true;
    port->rank = (uint8_t)(from->rank - skip);
    memcpy(port->dims, from->dims + skip, port->rank * sizeof(port->dims[0]));
    if (batch && port->rank == 0) { /* Triton shows one number a row as [1] */
        port->rank = 1;
        port->dims[0] = 1;
        port->has_reshape = true;
        port->reshape_rank = 0;
    }
}

static sp_status unknown_port(completion *c, const char *what, const char *name, const sp_file_port *ports, int count)
{
    char list[120] = "";
    size_t used = 0;

    for (int i = 0; i < count && used + strlen(ports[i].name) + 3 < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", ports[i].name);
    return SP_FAIL(c->reterr, SP_INVALID, "%s: %s '%s': the model has no such %s; it has %s", c->file, what, name, what, list);
}

static sp_status fit_shape(completion *c, const char *what, sp_model_port *port, const sp_file_port *from)
{
    bool batch = c->config->max_batch_size > 0;
    const int64_t *dims = port->has_reshape ? port->reshape : port->dims;
    int rank = port->has_reshape ? port->reshape_rank : port->rank;
    char given[96], own[96];

    if (from->rank == 0 && !batch) { /* a scalar, or a shape that the file leaves open */
        if (*what == 'i' && rank == 1 && dims[0] == 1 && !port->has_reshape)
            port->has_reshape = true; /* to [] */
        return SP_OK;
    }
    bool fits = rank + batch == from->rank;
    for (int i = 0; fits && i < rank; i++)
        fits = from->dims[i + batch] == -1 || from->dims[i + batch] == dims[i];
    if (fits)
        return SP_OK;
    return SP_FAIL(c->reterr, SP_INVALID, "%s: %s '%s': the model's shape is %s, the configuration's %s%s", c->file, what,
                   port->name, shape_text(own, false, from->dims, from->rank), shape_text(given, batch, dims, rank),
                   batch ? " (max_batch_size adds the first dimension; dims must not have it)" : "");
}

static sp_status fit_port(completion *c, const char *what, sp_model_port *port, const sp_file_port *from)
{
    if (!port->dtype)
        port->dtype = from->dtype;
    if (from->dtype && port->dtype != from->dtype) {
        const char *own = sp_dtype_kserve(from->dtype), *given = sp_dtype_kserve(port->dtype);
        return SP_FAIL(c->reterr, SP_INVALID, "%s: %s '%s': data_type: the model's is %s, the configuration's %s", c->file, what,
                       port->name, own ? own : "none that is known", given ? given : "none that is known");
    }
    if (!port->has_dims) {
        port_of_file(port, from, c->config->max_batch_size > 0);
        return SP_OK;
    }
    return fit_shape(c, what, port, from);
}

static sp_status fit_ports(completion *c, const char *what, sp_model_port *ports, int *count, const sp_file_port *from,
                           int from_count, bool (*own)(const sp_model_config *, const char *))
{
    bool given = *count > 0, inputs = *what == 'i';

    for (int i = 0; i < from_count; i++) {
        bool found = false;
        for (int k = 0; k < *count && !found; k++)
            found = !strcmp(ports[k].name, from[i].name);
        if (found || own(c->config, from[i].name) || (given && !inputs))
            continue; /* outputs that are not named are left out */
        if (given)
            return SP_FAIL(c->reterr, SP_INVALID, "%s: input: the model's input '%s' is missing; give all of them, or none", c->file,
                           from[i].name);
        sp_model_port *port = &ports[(*count)++];
        memset(port, 0, sizeof(*port));
        (void)snprintf(port->name, sizeof(port->name), "%s", from[i].name);
    }
    for (int k = 0; k < *count; k++) {
        const sp_file_port *match = NULL;
        for (int i = 0; i < from_count && !match; i++)
            match = !strcmp(ports[k].name, from[i].name) ? &from[i] : NULL;
        sp_status status = match ? fit_port(c, what, &ports[k], match) : unknown_port(c, what, ports[k].name, from, from_count);
        if (status)
            return status;
    }
    return SP_OK;
}

static sp_status complete_ports(completion *c, const sp_file_ports *ports)
{
    sp_model_config *config = c->config;
    sp_status status = complete_batching(c, ports);

    if (!status)
        status = fit_ports(c, "input", config->inputs, &config->input_count, ports->inputs, ports->input_count, is_own_input);
    if (!status)
        status = fit_ports(c, "output", config->outputs, &config->output_count, ports->outputs, ports->output_count, is_own_output);
    return status;
}

/* --- defaults ------------------------------------------------------------------------------------------------------------------ */

static void complete_groups(sp_model_config *config)
{
    if (config->is_ensemble)
        return;
    if (!config->group_count) {
        memset(&config->groups[0], 0, sizeof(config->groups[0]));
        (void)snprintf(config->groups[0].name, sizeof(config->groups[0].name), "%.63s", config->name);
        config->group_count = 1;
    }
    for (int i = 0; i < config->group_count; i++) {
        sp_instance_group *group = &config->groups[i];
        if (!*group->name)
            (void)snprintf(group->name, sizeof(group->name), "%.50s_%d", config->name, i);
        if (group->count < 1)
            group->count = 1;
    }
}

static void complete_defaults(sp_model_config *config)
{
    sp_batching_config *batching = &config->batching;
    sp_sequence_config *sequence = &config->sequence;

    if (config->max_batch_size < 0)
        config->max_batch_size = 0;
    if (batching->on && !batching->preferred_count && config->max_batch_size > 0)
        batching->preferred[batching->preferred_count++] = config->max_batch_size;
    if (sequence->strategy != SP_SEQUENCE_NONE && !sequence->max_idle_us)
        sequence->max_idle_us = SEQUENCE_IDLE_DEFAULT_US;
    if (sequence->strategy == SP_SEQUENCE_OLDEST && !sequence->oldest_preferred_count && config->max_batch_size > 0)
        sequence->oldest_preferred[sequence->oldest_preferred_count++] = config->max_batch_size;
    for (int i = 0; i < config->warmup_count; i++)
        config->warmups[i].count = SP_MAX(config->warmups[i].count, 1u);
    complete_groups(config);
}

/* A 0 that was written is a mistake (somebody meant -1); one that the file has is an empty tensor. */
static sp_status refuse_zeros(completion *c, const char *what, const sp_model_port *ports, int count)
{
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < ports[i].rank; k++) {
            if (ports[i].dims[k] == 0)
                return SP_FAIL(c->reterr, SP_INVALID, "%s: %s '%s': dims: must be 1 or more, or -1 for any size", c->file, what,
                               ports[i].name);
        }
    }
    return SP_OK;
}

sp_status sp_model_config_complete(sp_model_config *config, const char *file, const sp_file_ports *ports, sp_error *reterr)
{
    completion c = { config, file, reterr };
    sp_status status = refuse_zeros(&c, "input", config->inputs, config->input_count);

    if (!status)
        status = refuse_zeros(&c, "output", config->outputs, config->output_count);
    if (!status)
        status = complete_backend(&c);
    if (!status && ports)
        status = complete_ports(&c, ports);
    if (!status)
        complete_defaults(config);
    return status;
}
