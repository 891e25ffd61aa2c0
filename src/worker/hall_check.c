/* SPDX-License-Identifier: Apache-2.0
 * An inference's head against the model that it names. The gateway has checked all of it and told the client better; here it
 * is another process's memory, so each number is read once, bounded, and only then used. */
#include "worker/hall_internal.h"

#include <stdio.h>
#include <string.h>

#define FNV_PRIME 0x100000001b3ull
#define FNV_START 0xcbf29ce484222325ull

static void mix(uint64_t *hash, uint64_t value)
{
    *hash = (*hash ^ value) * FNV_PRIME;
    *hash ^= *hash >> 29;
}

static void shape_text(const int64_t *dims, int rank, char *text, size_t size)
{
    size_t at = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? "," : "", (long long)dims[i]);
    if (at < size)
        (void)snprintf(text + at, size - at, "]");
}

static sp_status wrong_shape(const sp_hall_model *model, const sp_model_port *port, const sp_hall_tensor *tensor,
                             sp_error *reterr)
{
    char expected[128], got[128];
    int64_t dims[SP_INFER_RANK + 1] = { -1 };
    int first = model->batches ? 1 : 0;
    for (int i = 0; i < port->rank && i < SP_INFER_RANK; i++)
        dims[first + i] = port->dims[i];
    shape_text(dims, SP_MIN(port->rank + first, SP_INFER_RANK), expected, sizeof(expected));
    shape_text(tensor->dims, tensor->rank, got, sizeof(got));
    return SP_FAIL(reterr, SP_INVALID, "unexpected shape for input '%.60s' for model '%.60s'. Expected %s, got %s", port->name,
                   model->config->name, expected, got);
}

static sp_status check_shape(const sp_hall_model *model, const sp_model_port *port, const sp_hall_tensor *tensor,
                             sp_error *reterr)
{
    int first = model->batches ? 1 : 0;
    if (tensor->rank != port->rank + first)
        return wrong_shape(model, port, tensor, reterr);
    for (int i = 0; i < port->rank; i++) {
        if (port->dims[i] >= 0 && tensor->dims[first + i] != port->dims[i])
            return wrong_shape(model, port, tensor, reterr);
    }
    return SP_OK;
}

static sp_status take_input(const sp_infer_tensor *given, const sp_hall_model *model, sp_hall_request *request,
                            sp_error *reterr)
{
    const sp_infer_tensor copy = *given;
    const sp_model_config *config = model->config;
    if (copy.port >= config->input_count || request->inputs[copy.port].given)
        return SP_FAIL(reterr, SP_INVALID, "input %u of '%s' is given twice or does not exist", copy.port, config->name);
    const sp_model_port *port = &config->inputs[copy.port];
    sp_hall_tensor *tensor = &request->inputs[copy.port];
    if (copy.dtype != port->dtype || copy.rank > SP_INFER_RANK)
        return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s' has type %u and %u dimensions", port->name, config->name, copy.dtype,
                       copy.rank);
    *tensor = (sp_hall_tensor){ .bytes = copy.bytes, .given = true, .dtype = copy.dtype, .rank = copy.rank };
    memcpy(tensor->dims, copy.dims, sizeof(copy.dims[0]) * copy.rank);
    uint64_t elements, element_bytes = sp_dtype_bytes(copy.dtype);
    bool counted = sp_hall_elements(tensor->dims, tensor->rank, &elements);
    if (!counted || (element_bytes ? copy.bytes != elements * element_bytes : copy.bytes / 4 < elements))
        return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s': %llu bytes are not what its shape needs", port->name, config->name,
                       (unsigned long long)copy.bytes);
    request->places[copy.port].offset = copy.offset;
    request->places[copy.port].in_output = copy.in_output != 0;
    return check_shape(model, port, tensor, reterr);
}

/* Rows are the same in all inputs; what lies behind the first dimension must be equal in a batch. */
static sp_status check_rows(const sp_hall_model *model, sp_hall_request *request, sp_error *reterr)
{
    const sp_model_config *config = model->config;
    int first = model->batches ? 1 : 0;
    uint64_t shape = FNV_START;
    int64_t rows = -1;
    for (int i = 0; i < config->input_count; i++) {
        const sp_hall_tensor *tensor = &request->inputs[i];
        if (!tensor->given) {
            if (!config->inputs[i].optional)
                return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s' is missing", config->inputs[i].name, config->name);
            continue;
        }
        mix(&shape, (uint64_t)i << 8 | tensor->rank);
        for (int d = first; d < tensor->rank; d++)
            mix(&shape, (uint64_t)tensor->dims[d]);
        if (!first)
            continue;
        if (rows >= 0 && tensor->dims[0] != rows)
            return SP_FAIL(reterr, SP_INVALID, "input '%s' batch size does not match other inputs for '%s'",
                           config->inputs[i].name, config->name);
        rows = tensor->dims[0];
    }
    request->rows = first && rows >= 0 ? (int32_t)SP_MIN(rows, INT32_MAX) : 1;
    request->rows_dimension = first != 0;
    if (first && (rows > config->max_batch_size || rows == 0))
        return SP_FAIL(reterr, SP_INVALID, "inference request batch-size must be %s for '%s'",
                       rows ? "<= max_batch_size" : "at least 1", config->name);
    request->waiting.rows = request->rows;
    request->waiting.shape = shape;
    return SP_OK;
}

sp_status sp_hall_check_inputs(const sp_hall_model *model, sp_hall_request *request, sp_error *reterr)
{
    for (int i = 0; i < model->config->input_count; i++) {
        const sp_model_port *port = &model->config->inputs[i];
        const sp_hall_tensor *tensor = &request->inputs[i];
        if (!tensor->given)
            continue;
        if (tensor->dtype != port->dtype)
            return SP_FAIL(reterr, SP_INVALID, "inference input '%s' data-type is '%s', but model '%s' expects '%s'", port->name,
                           sp_dtype_kserve(tensor->dtype), model->config->name, sp_dtype_kserve(port->dtype));
        sp_status s = check_shape(model, port, tensor, reterr);
        if (s)
            return s;
    }
    return check_rows(model, request, reterr);
}

static sp_status take_wishes(const sp_infer_head *head, const sp_hall_model *model, sp_hall_request *request, sp_error *reterr)
{
    uint64_t seen = 0; /* bits: SP_INFER_PORTS of them */
    for (int i = 0; i < request->wish_count; i++) {
        sp_infer_wish wish = head->wishes[i];
        if (wish.port >= model->config->output_count || (seen & 1ull << wish.port) || wish.form > SP_FORM_JSON)
            return SP_FAIL(reterr, SP_INVALID, "output %u of '%s' is wished twice or does not exist", wish.port,
                           model->config->name);
        seen |= 1ull << wish.port;
        request->wishes[i] = wish;
    }
    return SP_OK;
}

sp_status sp_hall_check(const sp_infer_head *head, const sp_hall_model *model, sp_hall_request *request, sp_error *reterr)
{
    _Static_assert(SP_INFER_PORTS <= 64, "wishes seen are bits");
    request->input_count = head->input_count;
    request->wish_count = head->wish_count;
    if (request->input_count > SP_INFER_PORTS || request->wish_count > SP_INFER_PORTS)
        return SP_FAIL(reterr, SP_INVALID, "%d inputs and %d outputs: at most %d each", request->input_count,
                       request->wish_count, SP_INFER_PORTS);
    for (int i = 0; i < model->config->input_count; i++)
        request->inputs[i].given = false;
    for (int i = 0; i < request->input_count; i++) {
        sp_status s = take_input(&head->inputs[i], model, request, reterr);
        if (s)
            return s;
    }
    sp_status s = check_rows(model, request, reterr);
    if (!s)
        s = take_wishes(head, model, request, reterr);
    request->waiting.priority = head->priority;
    uint64_t timeout_us = head->timeout_us;
    request->waiting.timeout_ns = (int64_t)SP_MIN(timeout_us, (uint64_t)INT64_MAX / 1000) * 1000;
    return s;
}

/* Do the lengths of a string tensor add up to its bytes, and are there as many as its shape says? */
static bool strings_fit(const sp_hall_tensor *tensor)
{
    uint64_t elements, at = 0;
    if (!sp_hall_elements(tensor->dims, tensor->rank, &elements))
        return false;
    for (uint64_t i = 0; i < elements; i++) {
        uint32_t length;
        if (tensor->bytes - at < sizeof(length))
            return false;
        memcpy(&length, tensor->data + at, sizeof(length));
        at += sizeof(length);
        if (tensor->bytes - at < length)
            return false;
        at += length;
    }
    return at == tensor->bytes;
}

sp_status sp_hall_locate(sp_hall_request *request, sp_error *reterr)
{
    const sp_model_config *config = request->model->config;
    for (int i = 0; i < config->input_count; i++) {
        sp_hall_tensor *tensor = &request->inputs[i];
        if (!tensor->given)
            continue;
        sp_view all = request->places[i].in_output ? request->item->input : request->item->body;
        uint64_t offset = request->places[i].offset;
        if (offset > all.size_bytes || tensor->bytes > all.size_bytes - offset)
            return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s' lies outside its request (%llu bytes at %llu of %zu)",
                           config->inputs[i].name, config->name, (unsigned long long)tensor->bytes, (unsigned long long)offset,
                           all.size_bytes);
        tensor->data = all.data ? all.data + offset : (const uint8_t *)"";
        if (tensor->dtype == SP_DTYPE_BYTES && !strings_fit(tensor))
            return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s': the lengths of its strings do not add up", config->inputs[i].name,
                           config->name);
    }
    return SP_OK;
}
