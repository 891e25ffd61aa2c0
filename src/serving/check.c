/* SPDX-License-Identifier: Apache-2.0
 * What a client asked for, held against the card of the model: names become ports, shapes and sizes are checked in the order
 * and the words of Triton (core, infer_request.cc), so that what its users have learnt to read still reads the same. Pure:
 * no house, no memory, no clock. */
#include "serving/parts.h"

#include <stdio.h>

typedef struct checking {
    const char *model;
    const sp_model_config *config;
    const sp_kserve_request *named;
    const sp_check *how;
    sp_infer_head *head;
    uint64_t seen; /* ports of inputs that were given */
    int64_t rows;  /* -1: no input has told yet */
} checking;

static void dims_text(char *dst, size_t size_bytes, bool batch, const int64_t *dims, int rank)
{
    size_t n = (size_t)snprintf(dst, size_bytes, "[%s", batch ? "-1" : "");
    for (int i = 0; i < rank && n < size_bytes; i++)
        n += (size_t)snprintf(dst + n, size_bytes - n, "%s%lld", i || batch ? "," : "", (long long)dims[i]);
    if (n < size_bytes)
        (void)snprintf(dst + n, size_bytes - n, "]");
}

static int port_find(const sp_model_port *ports, int count, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(ports[i].name, name) == 0)
            return i;
    }
    return -1;
}

/* "['a','b']" of the inputs that were given, or of those that are needed and were not. */
static void names_text(const checking *c, bool missing, char *dst, size_t size_bytes)
{
    size_t n = (size_t)snprintf(dst, size_bytes, "[");
    int written = 0;
    for (int i = 0; i < (missing ? c->config->input_count : c->named->input_count) && n < size_bytes; i++) {
        const sp_model_port *port = &c->config->inputs[i];
        if (missing && (port->optional || (c->seen >> i & 1)))
            continue;
        n += (size_t)snprintf(dst + n, size_bytes - n, "%s'%.40s'", written++ ? "," : "",
                              missing ? port->name : c->named->inputs[i].name);
    }
    if (n < size_bytes)
        (void)snprintf(dst + n, size_bytes - n, "]");
}

static sp_status names_check(checking *c, sp_error *reterr)
{
    int required = 0;
    bool lacking = false;
    for (int i = 0; i < c->named->input_count; i++) {
        int port = port_find(c->config->inputs, c->config->input_count, c->named->inputs[i].name);
        if (port < 0)
            return SP_FAIL(reterr, SP_INVALID, "unexpected inference input '%.100s' for model '%.60s'", c->named->inputs[i].name,
                           c->model);
        if (c->seen >> port & 1)
            return SP_FAIL(reterr, SP_INVALID, "input '%.100s' already exists in request", c->named->inputs[i].name);
        c->seen |= UINT64_C(1) << port;
        c->head->inputs[i].port = (uint16_t)port;
    }
    for (int i = 0; i < c->config->input_count; i++) {
        required += !c->config->inputs[i].optional;
        lacking = lacking || (!c->config->inputs[i].optional && !(c->seen >> i & 1));
    }
    if (!lacking)
        return SP_OK;
    char got[100], missing[100];
    names_text(c, false, got, sizeof(got));
    names_text(c, true, missing, sizeof(missing));
    if (required == c->config->input_count)
        return SP_FAIL(reterr, SP_INVALID,
                       "expected %d inputs but got %d inputs for model '%.40s'. Got input(s) %s, but missing required input(s) %s. "
                       "Please provide all required input(s).",
                       required, c->named->input_count, c->model, got, missing);
    return SP_FAIL(reterr, SP_INVALID,
                   "expected number of inputs between %d and %d but got %d inputs for model '%.40s'. Got input(s) %s, but missing "
                   "required input(s) %s. Please provide all required input(s).",
                   required, c->config->input_count, c->named->input_count, c->model, got, missing);
}

static sp_status shape_check(checking *c, const sp_kserve_input *in, const sp_model_port *port, sp_error *reterr)
{
    bool batch = c->config->max_batch_size > 0 && !port->is_shape_tensor;
    bool fits = port->rank + batch == in->rank;
    for (int i = 0; fits && i < port->rank; i++)
        fits = port->dims[i] < 0 || port->dims[i] == in->dims[i + batch];
    if (fits)
        return SP_OK;
    char expected[64], got[64];
    dims_text(expected, sizeof(expected), batch, port->dims, port->rank);
    dims_text(got, sizeof(got), false, in->dims, in->rank);
    return SP_FAIL(reterr, SP_INVALID, "unexpected shape for input '%.60s' for model '%.40s'. Expected %s, got %s.%s", in->name,
                   c->model, expected, got,
                   batch ? " (max_batch_size is not 0, so a batch dimension comes first)" : "");
}

static sp_status rows_check(checking *c, const sp_kserve_input *in, const sp_model_port *port, sp_error *reterr)
{
    if (c->config->max_batch_size <= 0 || port->is_shape_tensor)
        return SP_OK;
    if (!in->rank)
        return SP_FAIL(reterr, SP_INVALID, "input '%.60s' has no shape but model requires batch dimension for '%.60s'", in->name,
                       c->model);
    if (c->rows >= 0 && in->dims[0] != c->rows)
        return SP_FAIL(reterr, SP_INVALID, "input '%.60s' batch size does not match other inputs for '%.60s'", in->name, c->model);
    c->rows = in->dims[0];
    if (c->rows > c->config->max_batch_size)
        return SP_FAIL(reterr, SP_INVALID, "inference request batch-size must be <= %d for '%.60s'", c->config->max_batch_size,
                       c->model);
    if (c->rows < 1)
        return SP_FAIL(reterr, SP_INVALID, "inference request batch-size must be >= 1 for '%.60s'", c->model);
    return SP_OK;
}

sp_status sp_call_check_strings(const char *name, const char *model, const uint8_t *data, uint64_t bytes, uint64_t count,
                                sp_error *reterr)
{
    uint64_t at = 0, seen = 0;
    for (; at < bytes && seen < count; seen++) {
        uint32_t n;
        if (bytes - at < sizeof(n))
            return SP_FAIL(reterr, SP_INVALID,
                           "incomplete string length indicator for inference input '%.60s' for model '%.40s', expecting 4 bytes "
                           "but only %llu bytes available",
                           name, model, (unsigned long long)(bytes - at));
        memcpy(&n, data + at, sizeof(n));
        at += sizeof(n);
        if (bytes - at < n)
            return SP_FAIL(reterr, SP_INVALID,
                           "incomplete string data for inference input '%.60s' for model '%.40s', expecting string of length %u "
                           "but only %llu bytes available",
                           name, model, n, (unsigned long long)(bytes - at));
        at += n;
    }
    if (at < bytes)
        return SP_FAIL(reterr, SP_INVALID,
                       "unexpected number of string elements %llu for inference input '%.60s' for model '%.40s', expecting %llu",
                       (unsigned long long)count + 1, name, model, (unsigned long long)count);
    if (seen != count)
        return SP_FAIL(reterr, SP_INVALID, "expected %llu string elements for inference input '%.60s' for model '%.40s', got %llu",
                       (unsigned long long)count, name, model, (unsigned long long)seen);
    return SP_OK;
}

/* Elements of the whole tensor; false = more than can be counted. */
static bool elements(const sp_kserve_input *in, uint64_t *ret_count)
{
    size_t count = 1;
    for (int i = 0; i < in->rank; i++) {
        if (in->dims[i] < 0 || !sp_size_mul(count, (size_t)in->dims[i], &count) || count > INT64_MAX)
            return false;
    }
    *ret_count = count;
    return true;
}

static sp_status size_check(checking *c, const sp_kserve_input *in, sp_infer_tensor *tensor, sp_error *reterr)
{
    uint64_t count = 0;
    size_t expected = 0;
    if (!elements(in, &count) || !sp_size_mul((size_t)count, sp_dtype_bytes(in->dtype), &expected))
        return SP_FAIL(reterr, SP_INVALID, "invalid shape for input '%.60s' for model '%.40s': it has more elements than can be counted",
                       in->name, c->model);
    if (in->dtype != SP_DTYPE_BYTES) {
        if (in->bytes != expected)
            return SP_FAIL(reterr, SP_INVALID, "input byte size mismatch for input '%.60s' for model '%.40s'. Expected %zu, got %llu",
                           in->name, c->model, expected, (unsigned long long)in->bytes);
        return SP_OK;
    }
    if (in->place == SP_PLACE_SHARED || c->how->in_output || in->bytes > SP_SERVING_HASH_INLINE_BYTES)
        return SP_OK; /* not here, or too much for the loop: the worker looks */
    return sp_call_check_strings(in->name, c->model, c->how->body.data + tensor->offset, in->bytes, count, reterr);
}

static sp_status place(const checking *c, const sp_kserve_input *in, sp_infer_tensor *tensor, sp_error *reterr)
{
    tensor->bytes = in->bytes;
    tensor->in_output = c->how->in_output && in->place != SP_PLACE_SHARED;
    switch (in->place) {
    case SP_PLACE_BINARY:
        if (__builtin_add_overflow(in->offset, c->how->in_output ? 0 : c->how->binary_base, &tensor->offset))
            tensor->offset = UINT64_MAX / 2; /* beyond any body */
        break;
    case SP_PLACE_DATA:
        tensor->offset = in->offset;
        break;
    case SP_PLACE_SHARED:
        return SP_OK;
    case SP_PLACE_NONE:
        return SP_FAIL(reterr, SP_INVALID, "input '%.60s' for model '%.40s' has no data: send \"data\", binary_data_size or shared memory",
                       in->name, c->model);
    }
    if (!tensor->in_output && (tensor->offset > c->how->body.size_bytes || in->bytes > c->how->body.size_bytes - tensor->offset))
        return SP_FAIL(reterr, SP_INVALID, "unexpected size for input '%.60s', expecting %llu additional bytes for model '%.40s'",
                       in->name,
                       (unsigned long long)(tensor->offset + in->bytes - SP_MIN(c->how->body.size_bytes, tensor->offset + in->bytes)),
                       c->model);
    return SP_OK;
}

static sp_status input_check(checking *c, int i, sp_error *reterr)
{
    const sp_kserve_input *in = &c->named->inputs[i];
    sp_infer_tensor *tensor = &c->head->inputs[i];
    const sp_model_port *port = &c->config->inputs[tensor->port];
    sp_status s = rows_check(c, in, port, reterr);
    if (s)
        return s;
    if (in->dtype != port->dtype)
        return SP_FAIL(reterr, SP_INVALID, "inference input '%.60s' data-type is '%s', but model '%.40s' expects '%s'", in->name,
                       sp_dtype_kserve(in->dtype) ? sp_dtype_kserve(in->dtype) : "INVALID", c->model, sp_dtype_kserve(port->dtype));
    s = shape_check(c, in, port, reterr);
    if (!s)
        s = place(c, in, tensor, reterr);
    if (!s)
        s = size_check(c, in, tensor, reterr);
    if (s)
        return s;
    tensor->dtype = in->dtype;
    tensor->rank = in->rank;
    memcpy(tensor->dims, in->dims, sizeof(tensor->dims));
    return SP_OK;
}

static void wish(const checking *c, int port, bool binary, const sp_kserve_output *out)
{
    sp_infer_wish *w = &c->head->wishes[c->head->wish_count++];
    *w = (sp_infer_wish){ .port = (uint16_t)port, .form = binary || c->how->raw_only ? SP_FORM_RAW : SP_FORM_JSON };
    if (!out)
        return;
    w->classes = out->classes;
    if (out->shared) {
        w->form = SP_FORM_RAW;
        w->limit_bytes = out->bytes;
    }
}

static sp_status wishes_fill(const checking *c, int16_t ret_outputs[SP_INFER_PORTS], sp_error *reterr)
{
    const sp_kserve_request *named = c->named;
    uint64_t seen = 0;
    if (!named->output_count) {
        for (int i = 0; i < c->config->output_count; i++) {
            ret_outputs[c->head->wish_count] = -1;
            wish(c, i, named->binary_output, NULL);
        }
        return SP_OK;
    }
    for (int i = 0; i < named->output_count; i++) {
        const sp_kserve_output *out = &named->outputs[i];
        int port = port_find(c->config->outputs, c->config->output_count, out->name);
        if (port < 0)
            return SP_FAIL(reterr, SP_INVALID, "unexpected inference output '%.100s' for model '%.60s'", out->name, c->model);
        if (seen >> port & 1)
            return SP_FAIL(reterr, SP_INVALID, "output '%.100s' already exists in request", out->name);
        if (out->shared && out->classes)
            return SP_FAIL(reterr, SP_INVALID, "output '%.100s': 'classification' cannot be set with 'shared_memory_region'", out->name);
        if (out->shared && !out->bytes)
            return SP_FAIL(reterr, SP_INVALID, "output '%.100s': shared_memory_byte_size must be larger than 0", out->name);
        seen |= UINT64_C(1) << port;
        ret_outputs[c->head->wish_count] = (int16_t)i;
        wish(c, port, out->has_binary ? out->binary : named->binary_output, out);
    }
    return SP_OK;
}

static sp_status sequence_fill(const checking *c, sp_error *reterr)
{
    const sp_kserve_request *named = c->named;
    sp_infer_head *head = c->head;
    head->sequence_id = named->sequence_id;
    (void)snprintf(head->sequence_text, sizeof(head->sequence_text), "%s", named->sequence_text);
    head->flags = (named->start ? SP_INFER_SEQUENCE_START : 0) | (named->end ? SP_INFER_SEQUENCE_END : 0);
    if (*head->sequence_text) { /* FNV-1a: the worker compares the text as well */
        uint64_t hash = UINT64_C(0xcbf29ce484222325);
        for (const char *p = head->sequence_text; *p; p++)
            hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
        head->sequence_id = hash ? hash : 1;
    }
    if (c->config->sequence.strategy != SP_SEQUENCE_NONE && !head->sequence_id)
        return SP_FAIL(reterr, SP_INVALID, "inference request to model '%.100s' must specify a non-zero or non-empty correlation ID",
                       c->model);
    return SP_OK;
}

sp_status sp_call_check(const sp_served *served, const sp_kserve_request *named, const sp_check *how, sp_infer_head *head,
                        int16_t ret_outputs[SP_INFER_PORTS], sp_error *reterr)
{
    checking c = { .model = served->name, .config = &served->card->config, .named = named, .how = how, .head = head, .rows = -1 };
    head->model = served->id;
    head->priority = (uint32_t)SP_MIN(named->priority, (uint64_t)UINT32_MAX);
    head->timeout_us = named->timeout_us;
    head->wish_count = 0;
    sp_status s = wishes_fill(&c, ret_outputs, reterr);
    if (!s)
        s = names_check(&c, reterr);
    for (int i = 0; !s && i < named->input_count; i++)
        s = input_check(&c, i, reterr);
    if (!s)
        s = sequence_fill(&c, reterr);
    head->input_count = (uint16_t)(s ? 0 : named->input_count);
    return s;
}
