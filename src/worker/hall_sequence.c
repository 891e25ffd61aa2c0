/* SPDX-License-Identifier: Apache-2.0
 * Sequences of a served model (policy/sequence.h decides; this is what the engine sees of them): the tensors that say START,
 * READY, END and CORRID, the row that each sequence keeps in the direct strategy, and state that is kept here between the
 * requests of a sequence.
 *
 * State lies by (instance, slot): a request with START finds zeros there, whatever the sequence before left. */
#include "worker/hall_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sp_hall_kept {
    sp_hall_buffer buffer;
    uint64_t bytes;
    int rank;
    int64_t dims[SP_INFER_RANK]; /* without the batch dimension */
};

static int64_t ns_of(uint64_t us)
{
    return (int64_t)SP_MIN(us, (uint64_t)INT64_MAX / 1000) * 1000;
}

/* --- making and going --------------------------------------------------------------------------------------------- */

sp_status sp_hall_sequence_new(sp_hall_model *model, sp_error *reterr)
{
    const sp_model_config *config = model->config;
    const sp_sequence_config *sequence = &config->sequence;
    bool oldest = sequence->strategy == SP_SEQUENCE_OLDEST;
    int32_t rows = SP_CLAMP(config->max_batch_size, 1, SP_LIMIT_BATCH); /* no run has more requests */
    sp_sequence_settings settings = {
        .model = config->name,
        .oldest = oldest,
        .instances = (uint32_t)model->instances,
        .slots = oldest && sequence->oldest_max_candidates > 0 ? (uint32_t)sequence->oldest_max_candidates : (uint32_t)rows,
        .idle_ns = ns_of(sequence->max_idle_us),
        .backlog = SP_LIMIT_SLOTS, /* each has a request that waits */
        .delay_ns = ns_of(sequence->direct_max_queue_delay_us),
        .utilization = sequence->direct_minimum_slot_utilization,
        .batcher = {.batches = true, .most_rows = rows, .delay_ns = ns_of(sequence->oldest_max_queue_delay_us),
                    .preferred_count = SP_MIN(sequence->oldest_preferred_count, SP_BATCHER_PREFERRED)},
    };
    memcpy(settings.batcher.preferred, sequence->oldest_preferred,
           sizeof(settings.batcher.preferred[0]) * (size_t)settings.batcher.preferred_count);
    sp_status s = sp_sequencer_new(&settings, &model->sequences, reterr);
    if (s)
        return s;
    model->slots = (int)settings.slots;
    size_t places = (size_t)model->instances * settings.slots * (size_t)SP_MAX(sequence->state_count, 1);
    model->kept = sequence->state_count ? calloc(places, sizeof(*model->kept)) : NULL;
    if (sequence->state_count && !model->kept)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the states of %zu sequences", places);
    return SP_OK;
}

void sp_hall_sequence_free(sp_hall_model *model)
{
    size_t places = (size_t)model->instances * (size_t)model->slots * (size_t)model->config->sequence.state_count;

    for (size_t i = 0; model->kept && i < places; i++)
        free(model->kept[i].buffer.data);
    free(model->kept);
    sp_sequencer_free(model->sequences);
}

/* --- queues ------------------------------------------------------------------------------------------------------- */

void sp_hall_sequence_read(sp_hall_request *request, const sp_infer_head *head)
{
    request->member.id = head->sequence_id;
    request->member.flags = head->flags & (SP_INFER_SEQUENCE_START | SP_INFER_SEQUENCE_END);
    memcpy(request->sequence_text, head->sequence_text, sizeof(request->sequence_text));
    request->sequence_text[sizeof(request->sequence_text) - 1] = 0;
    _Static_assert(SP_INFER_SEQUENCE_START == SP_SEQUENCE_START && SP_INFER_SEQUENCE_END == SP_SEQUENCE_END &&
                   sizeof(head->sequence_text) == SP_SEQUENCE_TEXT_BYTES, "the same words on both sides");
}

int sp_hall_sequence_next(sp_hall_model *model, int64_t now_ns, sp_hall_request **ret_requests, int *ret_lane,
                          int64_t *ret_due_ns)
{
    sp_sequence_item *rows[SP_LIMIT_BATCH];
    int64_t due_ns;

    *ret_due_ns = INT64_MAX;
    for (int lane = 0; lane < model->instances; lane++) {
        if (model->lanes_busy >> lane & 1)
            continue;
        int count = 0;
        int found = sp_sequencer_next(model->sequences, (uint32_t)lane, now_ns, rows, SP_LIMIT_BATCH, &due_ns);
        for (int row = 0; row < found; row++)
            if (rows[row])
                ret_requests[count++] = (sp_hall_request *)(void *)rows[row]; /* its first member */
        *ret_lane = lane;
        if (count)
            return count;
        *ret_due_ns = SP_MIN(*ret_due_ns, due_ns);
    }
    return 0;
}

/* --- rows --------------------------------------------------------------------------------------------------------- */

int sp_hall_sequence_row(const sp_hall_model *model, const sp_hall_request *request, int index)
{
    return model->config->sequence.strategy == SP_SEQUENCE_DIRECT ? (int)request->member.slot : index;
}

int sp_hall_sequence_rows(const sp_hall_model *model, sp_hall_request *const *requests, int count)
{
    int rows = 0;

    for (int i = 0; i < count; i++)
        rows = SP_MAX(rows, sp_hall_sequence_row(model, requests[i], i) + 1);
    return rows;
}

/* --- controls ----------------------------------------------------------------------------------------------------- */

static void write_value(uint8_t *at, int dtype, double value)
{
    switch (dtype) {
    case SP_ENGINE_F32: {
        float number = (float)value;
        memcpy(at, &number, sizeof(number));
        break;
    }
    case SP_ENGINE_I32: {
        int32_t number = (int32_t)value;
        memcpy(at, &number, sizeof(number));
        break;
    }
    default:
        *at = value != 0; /* bool */
    }
}

static bool says(const sp_sequence_control *control, const sp_hall_request *request)
{
    switch (control->kind) {
    case SP_CONTROL_START:
        return request->member.flags & SP_SEQUENCE_START;
    case SP_CONTROL_END:
        return request->member.flags & SP_SEQUENCE_END;
    default:
        return true; /* READY */
    }
}

static size_t write_id(uint8_t *at, int dtype, const sp_hall_request *request)
{
    uint64_t id = request->member.id;
    size_t bytes = sp_dtype_bytes(dtype);

    memcpy(at, &id, bytes); /* little endian: the low bytes */
    return bytes;
}

/* A text id, or the digits of a number; "" for an empty row. */
static size_t write_text_id(uint8_t *at, const sp_hall_request *request)
{
    char digits[24] = "";
    const char *text = request ? request->sequence_text : "";

    if (request && !text[0]) {
        (void)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)request->member.id);
        text = digits;
    }
    uint32_t length = (uint32_t)strlen(text);
    memcpy(at, &length, sizeof(length));
    memcpy(at + sizeof(length), text, length);
    return sizeof(length) + length;
}

/* Ones behind the rows, as many dimensions as the file's port has. */
static void shape_control(const sp_hall_model *model, const sp_engine_port *port, int rows, sp_engine_tensor *tensor)
{
    tensor->rank = SP_CLAMP(port->rank, 1, SP_ENGINE_MAX_RANK);
    for (int i = 0; i < tensor->rank; i++)
        tensor->dims[i] = 1;
    if (model->batches)
        tensor->dims[0] = rows;
}

static sp_status fill_control(sp_hall_model *model, const sp_sequence_control *control, const sp_engine_port *port,
                              sp_hall_buffer *buffer, sp_hall_request *const *requests, int count, int rows,
                              sp_engine_tensor *tensor, sp_error *reterr)
{
    sp_hall_request *of_row[SP_LIMIT_BATCH] = {NULL};
    int dtype = port->dtype ? port->dtype : control->dtype;
    size_t most = dtype == SP_DTYPE_BYTES ? sizeof(uint32_t) + SP_SEQUENCE_TEXT_BYTES : SP_MAX(sp_dtype_bytes(dtype), (size_t)1);
    uint8_t *data = sp_hall_buffer_room(buffer, most * (size_t)rows);
    size_t at = 0;

    if (!data)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a control tensor");
    for (int i = 0; i < count; i++)
        of_row[sp_hall_sequence_row(model, requests[i], i)] = requests[i];
    memset(data, 0, most * (size_t)rows);
    for (int row = 0; row < rows; row++) {
        const sp_hall_request *request = of_row[row];
        if (control->kind == SP_CONTROL_CORRID && dtype == SP_DTYPE_BYTES) {
            at += write_text_id(data + at, request);
            continue;
        }
        if (control->kind != SP_CONTROL_CORRID)
            write_value(data + at, dtype, request && says(control, request) ? control->yes_value : control->no_value);
        else if (request)
            (void)write_id(data + at, dtype, request);
        at += most;
    }
    *tensor = (sp_engine_tensor){.data = data, .size_bytes = at, .dtype = dtype};
    shape_control(model, port, rows, tensor);
    return SP_OK;
}

/* --- state -------------------------------------------------------------------------------------------------------- */

static sp_hall_kept *kept_of(sp_hall_model *model, const sp_hall_request *request, int state)
{
    size_t place = (size_t)request->member.instance * (size_t)model->slots + request->member.slot;

    return &model->kept[place * (size_t)model->config->sequence.state_count + (size_t)state];
}

/* Zeros of the configured shape; what is open there is 1, as in Triton. */
static void begin_state(const sp_sequence_state *state, sp_hall_kept *kept)
{
    kept->rank = state->rank;
    kept->bytes = sp_dtype_bytes(state->dtype);
    for (int i = 0; i < state->rank; i++) {
        kept->dims[i] = state->dims[i] < 0 ? 1 : state->dims[i];
        kept->bytes *= (uint64_t)kept->dims[i];
    }
    uint8_t *data = sp_hall_buffer_room(&kept->buffer, kept->bytes);
    if (data)
        memset(data, 0, kept->bytes);
}

static bool same_dims(const sp_hall_kept *a, const sp_hall_kept *b)
{
    return a->rank == b->rank && memcmp(a->dims, b->dims, sizeof(a->dims[0]) * (size_t)a->rank) == 0;
}

static sp_status fill_state(sp_hall_model *model, int state, sp_hall_buffer *buffer, sp_hall_request *const *requests, int count,
                            int rows, sp_engine_tensor *tensor, sp_error *reterr)
{
    const sp_sequence_state *config = &model->config->sequence.states[state];
    const sp_hall_kept *first = NULL;

    for (int i = 0; i < count; i++) {
        sp_hall_kept *kept = kept_of(model, requests[i], state);
        if ((requests[i]->member.flags & SP_SEQUENCE_START) || !kept->buffer.data)
            begin_state(config, kept);
        if (!kept->buffer.data)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for state '%s'", config->input);
        first = first ? first : kept;
        if (!same_dims(first, kept))
            return SP_FAIL(reterr, SP_UNSUPPORTED,
                           "'%s': state '%s' has another shape in each sequence; only equal ones can be batched "
                           "(max_batch_size: 0 would serve them)", model->config->name, config->input);
    }
    uint8_t *data = sp_hall_buffer_room(buffer, first->bytes * (uint64_t)rows);
    if (!data)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for state '%s'", config->input);
    if (rows != count)
        memset(data, 0, first->bytes * (uint64_t)rows);
    for (int i = 0; i < count; i++)
        memcpy(data + (uint64_t)sp_hall_sequence_row(model, requests[i], i) * first->bytes,
               kept_of(model, requests[i], state)->buffer.data, first->bytes);
    int at = model->batches ? 1 : 0;
    *tensor = (sp_engine_tensor){.data = data, .size_bytes = first->bytes * (uint64_t)rows, .dtype = config->dtype,
                                 .rank = first->rank + at};
    tensor->dims[0] = rows;
    memcpy(&tensor->dims[at], first->dims, sizeof(first->dims[0]) * (size_t)first->rank);
    return SP_OK;
}

static sp_status keep_state(sp_hall_model *model, int state, const sp_engine_tensor *output, sp_hall_request *const *requests,
                            int count, int rows, sp_error *reterr)
{
    const sp_sequence_state *config = &model->config->sequence.states[state];
    int first = model->batches ? 1 : 0, rank = output->rank - first;
    uint64_t elements;

    if (rank < 0 || rank > SP_INFER_RANK || (first && output->dims[0] != rows) || output->dtype != config->dtype ||
        !sp_hall_elements(output->dims, output->rank, &elements))
        return SP_FAIL(reterr, SP_CORRUPT, "'%s': state '%s' has no shape that can be kept", model->config->name, config->output);
    uint64_t bytes = elements * sp_dtype_bytes(config->dtype) / (uint64_t)(first ? rows : 1);
    for (int i = 0; i < count; i++) {
        sp_hall_kept *kept = kept_of(model, requests[i], state);
        uint8_t *data = sp_hall_buffer_room(&kept->buffer, bytes);
        if (!data)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for state '%s'", config->output);
        uint64_t row = first ? (uint64_t)sp_hall_sequence_row(model, requests[i], i) : 0;
        memcpy(data, (const uint8_t *)output->data + row * bytes, bytes);
        kept->bytes = bytes;
        kept->rank = rank;
        memcpy(kept->dims, &output->dims[first], sizeof(kept->dims[0]) * (size_t)rank);
    }
    return SP_OK;
}

/* --- what a run asks for ------------------------------------------------------------------------------------------ */

int sp_hall_sequence_port(const sp_model_config *config, const char *name)
{
    for (int i = 0; i < config->sequence.control_count; i++)
        if (strcmp(config->sequence.controls[i].name, name) == 0)
            return i;
    for (int i = 0; i < config->sequence.state_count; i++)
        if (strcmp(config->sequence.states[i].input, name) == 0)
            return SP_LIMIT_SEQUENCE_CONTROLS + i;
    return -1;
}

int sp_hall_sequence_state(const sp_model_config *config, const char *name)
{
    for (int i = 0; i < config->sequence.state_count; i++)
        if (strcmp(config->sequence.states[i].output, name) == 0)
            return i;
    return -1;
}

sp_status sp_hall_sequence_input(sp_hall_model *model, int port, sp_hall_buffer *buffer, sp_hall_request *const *requests,
                                 int count, int rows, sp_engine_tensor *ret_tensor, sp_error *reterr)
{
    const sp_engine_port *engine = &sp_session_ports(model->session)->inputs[port];
    int own = model->inputs[port].sequence;

    if (own < SP_LIMIT_SEQUENCE_CONTROLS)
        return fill_control(model, &model->config->sequence.controls[own], engine, buffer, requests, count, rows, ret_tensor,
                            reterr);
    return fill_state(model, own - SP_LIMIT_SEQUENCE_CONTROLS, buffer, requests, count, rows, ret_tensor, reterr);
}

sp_status sp_hall_sequence_output(sp_hall_model *model, int port, const sp_engine_tensor *output, sp_hall_request *const *requests,
                                  int count, int rows, sp_error *reterr)
{
    return keep_state(model, model->outputs[port].sequence, output, requests, count, rows, reterr);
}
