/* SPDX-License-Identifier: Apache-2.0
 * Names of an ensemble's configuration to numbers (model/ensemble.h). Rules and words: Triton's ValidateEnsembleConfig. That
 * steps do not wait in a circle and that every tensor is made is sp_model_config_check's. */
#include "model/ensemble.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct making {
    const sp_model_config *ensemble;
    sp_ensemble_plan *plan;
    sp_error *reterr;
    /* Who said first what a tensor looks like, for messages: */
    const char *said_by[SP_LIMIT_ENSEMBLE_TENSORS];
    const sp_model_port *port[SP_LIMIT_ENSEMBLE_TENSORS];
    bool batches[SP_LIMIT_ENSEMBLE_TENSORS];
} making;

#define WRONG(m, ...) SP_FAIL((m)->reterr, SP_INVALID, __VA_ARGS__)

static int find_tensor(making *m, const char *name)
{
    sp_ensemble_plan *plan = m->plan;

    for (int i = 0; i < plan->tensor_count; i++)
        if (strcmp(plan->tensors[i].name, name) == 0)
            return i;
    if (plan->tensor_count == SP_LIMIT_ENSEMBLE_TENSORS)
        return -1;
    plan->tensors[plan->tensor_count] = (sp_ensemble_tensor){.name = name, .producer = -1, .input = -1, .output = -1};
    return plan->tensor_count++;
}

static sp_status too_many(making *m)
{
    return WRONG(m, "ensemble '%s' has more than %d tensors", m->ensemble->name, SP_LIMIT_ENSEMBLE_TENSORS);
}

static const char *show_dims(const sp_model_port *port, bool batches, char *text, size_t size)
{
    size_t at = (size_t)snprintf(text, size, batches ? "[-1" : "[");

    for (int i = 0; i < port->rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i || batches ? "," : "", (long long)port->dims[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
    return text;
}

static bool same_shape(const sp_model_port *a, bool a_batches, const sp_model_port *b, bool b_batches)
{
    if (!a->has_dims || !b->has_dims)
        return true;
    int a_rank = a->rank + a_batches, b_rank = b->rank + b_batches;
    if (a_rank != b_rank)
        return false;
    for (int i = 0; i < a_rank; i++) {
        int64_t x = a_batches ? (i ? a->dims[i - 1] : -1) : a->dims[i];
        int64_t y = b_batches ? (i ? b->dims[i - 1] : -1) : b->dims[i];
        if (x != y && x >= 0 && y >= 0)
            return false;
    }
    return true;
}

/* One more port says what the tensor looks like: all must agree. */
static sp_status describe(making *m, int tensor, const sp_model_port *port, const sp_model_config *owner)
{
    char here[160], there[160];
    const sp_model_port *first = m->port[tensor];
    bool batches = owner->max_batch_size > 0;
    sp_ensemble_tensor *t = &m->plan->tensors[tensor];

    if (!first) {
        m->port[tensor] = port;
        m->said_by[tensor] = owner->name;
        m->batches[tensor] = batches;
        t->dtype = port->dtype;
        return SP_OK;
    }
    if (first->dtype && port->dtype && first->dtype != port->dtype)
        return WRONG(m, "in ensemble '%s', ensemble tensor '%s': inconsistent data type: %s is inferred from model '%s' while "
                        "%s is inferred from model '%s'", m->ensemble->name, t->name, sp_dtype_kserve(port->dtype), owner->name,
                     sp_dtype_kserve(first->dtype), m->said_by[tensor]);
    if (!same_shape(port, batches, first, m->batches[tensor]))
        return WRONG(m, "in ensemble '%s', ensemble tensor '%s': inconsistent shape: %s is inferred from model '%s' while %s is "
                        "inferred from model '%s'", m->ensemble->name, t->name, show_dims(port, batches, here, sizeof(here)),
                     owner->name, show_dims(first, m->batches[tensor], there, sizeof(there)), m->said_by[tensor]);
    return SP_OK;
}

static sp_status enter_ports(making *m)
{
    const sp_model_config *config = m->ensemble;

    for (int i = 0; i < config->input_count; i++) {
        int tensor = find_tensor(m, config->inputs[i].name);
        if (tensor < 0)
            return too_many(m);
        m->plan->tensors[tensor].input = i;
        m->plan->tensors[tensor].optional = config->inputs[i].optional;
        sp_status s = describe(m, tensor, &config->inputs[i], config);
        if (s)
            return s;
    }
    for (int i = 0; i < config->output_count; i++) {
        int tensor = find_tensor(m, config->outputs[i].name);
        if (tensor < 0)
            return too_many(m);
        m->plan->tensors[tensor].output = i;
        sp_status s = describe(m, tensor, &config->outputs[i], config);
        if (s)
            return s;
    }
    return SP_OK;
}

static int find_port(const sp_model_port *ports, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(ports[i].name, name) == 0)
            return i;
    return -1;
}

static sp_status link_input(making *m, int step, const sp_model_config *model, int map, uint64_t *mapped)
{
    const sp_ensemble_step *config = &m->ensemble->steps[step];
    const char *key = config->inputs[map].key, *value = config->inputs[map].value;
    sp_ensemble_planned *planned = &m->plan->steps[step];
    int port = model ? find_port(model->inputs, model->input_count, key) : map;
    int tensor = find_tensor(m, value);

    if (port < 0)
        return WRONG(m, "in ensemble '%s', ensemble tensor %s is mapping to non-existing input %s in model '%s'",
                     m->ensemble->name, value, key, config->model);
    if (tensor < 0 || planned->input_count == SP_INFER_PORTS)
        return too_many(m);
    if (*mapped >> port & 1)
        return WRONG(m, "in ensemble '%s', input %s in model '%s' is mapped to multiple ensemble tensors", m->ensemble->name, key,
                     config->model);
    *mapped |= UINT64_C(1) << port;
    planned->inputs[planned->input_count++] = (sp_ensemble_link){(uint16_t)port, (uint16_t)tensor};
    m->plan->tensors[tensor].consumers++;
    return model ? describe(m, tensor, &model->inputs[port], model) : SP_OK;
}

static sp_status link_output(making *m, int step, const sp_model_config *model, int map)
{
    const sp_ensemble_step *config = &m->ensemble->steps[step];
    const char *key = config->outputs[map].key, *value = config->outputs[map].value;
    sp_ensemble_planned *planned = &m->plan->steps[step];
    int port = model ? find_port(model->outputs, model->output_count, key) : map;
    int tensor = find_tensor(m, value);

    if (port < 0)
        return WRONG(m, "in ensemble '%s', ensemble tensor %s is mapped from non-existing output %s in model '%s'",
                     m->ensemble->name, value, key, config->model);
    if (tensor < 0 || planned->output_count == SP_INFER_PORTS)
        return too_many(m);
    if (m->plan->tensors[tensor].producer >= 0 || m->plan->tensors[tensor].input >= 0)
        return WRONG(m, "in ensemble '%s', multiple outputs in model '%s' are mapped to the same ensemble tensor %s",
                     m->ensemble->name, config->model, value);
    m->plan->tensors[tensor].producer = step;
    planned->outputs[planned->output_count++] = (sp_ensemble_link){(uint16_t)port, (uint16_t)tensor};
    return model ? describe(m, tensor, &model->outputs[port], model) : SP_OK;
}

static sp_status all_mapped(making *m, const sp_model_config *model, uint64_t mapped)
{
    for (int i = 0; i < model->input_count; i++)
        if (!(mapped >> i & 1) && !model->inputs[i].optional)
            return WRONG(m, "in ensemble '%s', input %s in model '%s' is not mapped to any ensemble tensors", m->ensemble->name,
                         model->inputs[i].name, model->name);
    return SP_OK;
}

static sp_status enter_step(making *m, int step, const sp_model_config *model)
{
    const sp_ensemble_step *config = &m->ensemble->steps[step];
    uint64_t mapped = 0;
    sp_status s = SP_OK;

    m->plan->steps[step].kind = model ? SP_STEP_MODEL
                                : strcmp(config->model, "spillway/preprocess") == 0 ? SP_STEP_PREPROCESS
                                                                                    : SP_STEP_POSTPROCESS;
    if (model && model->max_batch_size < m->ensemble->max_batch_size)
        return WRONG(m, "ensemble '%s' allows maximum batch size %d, but it contains model '%s' which only allows maximum batch "
                        "size to be %d", m->ensemble->name, m->ensemble->max_batch_size, config->model, model->max_batch_size);
    for (int i = 0; !s && i < config->input_count; i++)
        s = link_input(m, step, model, i, &mapped);
    if (!s && model)
        s = all_mapped(m, model, mapped);
    for (int i = 0; !s && i < config->output_count; i++)
        s = link_output(m, step, model, i);
    return s;
}

sp_status sp_ensemble_plan_new(const sp_model_config *ensemble, const sp_model_config *const *models,
                               sp_ensemble_plan **ret_plan, sp_error *reterr)
{
    SP_CLEANUP(sp_ensemble_plan_freep) sp_ensemble_plan *plan = calloc(1, sizeof(*plan));
    if (!plan)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the plan of an ensemble");
    making m = {.ensemble = ensemble, .plan = plan, .reterr = reterr};
    plan->step_count = ensemble->step_count;
    sp_status s = enter_ports(&m);
    for (int i = 0; !s && i < plan->step_count; i++)
        s = enter_step(&m, i, models[i]);
    if (s)
        return s;
    for (int i = 0; i < plan->tensor_count; i++)
        if (plan->tensors[i].input < 0 && plan->tensors[i].producer < 0)
            return SP_FAIL(reterr, SP_INVALID, "in ensemble '%s', nothing makes ensemble tensor %s", ensemble->name,
                           plan->tensors[i].name);
    *ret_plan = SP_STEAL(plan);
    return SP_OK;
}

void sp_ensemble_plan_free(sp_ensemble_plan *plan)
{
    free(plan);
}

int sp_ensemble_consumer(const sp_ensemble_plan *plan, int tensor)
{
    for (int i = 0; i < plan->step_count; i++)
        for (int k = 0; k < plan->steps[i].input_count; k++)
            if (plan->steps[i].inputs[k].tensor == tensor)
                return i;
    return -1;
}
