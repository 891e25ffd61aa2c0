/* SPDX-License-Identifier: Apache-2.0
 * One batch of one model: its requests' inputs become the engine's, the outputs become answers. A lone request is run where
 * it lies: inputs in the slot's memory, outputs of known size straight into the answer.
 *
 * When a run fails, its halves are run, down to singles: only what fails alone fails. When memory is short, other models are
 * put aside first. */
#include "worker/hall_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "worker/mxcsr.h"

#include <stdio.h>
#include <string.h>

typedef struct batch_run {
    sp_hall *hall;
    sp_hall_model *model;
    sp_hall_lane *lane;
    int lane_index, executor;
    sp_hall_request **requests;
    int64_t deadline_ns; /* the earliest */
    bool no_room;        /* not even one request fitted: nothing more is tried */
    sp_error no_room_error;
    /* Of the run in hand: */
    int count;
    int64_t rows, run_rows;   /* run_rows: what the engine sees, with rows that fill a bucket up */
    bool bound;               /* some output was given a place beforehand */
    sp_hall_writer writer;    /* of a lone request */
    sp_engine_tensor inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
    size_t direct[SP_INFER_PORTS]; /* by the engine's output: where it lies in the answer; 0 = elsewhere */
} batch_run;

/* --- gather ----------------------------------------------------------------------------------------------------------- */

static const sp_infer_wish *wish_of(const sp_hall_request *request, int port)
{
    for (int i = 0; i < request->wish_count; i++)
        if (request->wishes[i].port == port)
            return &request->wishes[i];
    return NULL;
}

/* The library reads elements where they lie only when they are aligned as C wants them. */
static bool is_aligned(const sp_hall_tensor *tensor)
{
    size_t element = sp_dtype_bytes(tensor->dtype);
    return !element || (uintptr_t)tensor->data % element == 0;
}

/* A row that no sequence has now: zeros, or empty strings. Where it ends. */
static uint8_t *put_empty_row(uint8_t *at, size_t row_bytes)
{
    memset(at, 0, row_bytes);
    return at + row_bytes;
}

/* The rows of sequences, each at its own place. The buffer has room for the parts and for `empty_bytes` in each empty row. */
static size_t gather_rows(const batch_run *run, int port, uint8_t *room, size_t empty_bytes)
{
    uint8_t *at = room;
    int next = 0;
    for (int row = 0; row < run->rows; row++) {
        if (next == run->count || sp_hall_sequence_row(run->model, run->requests[next], next) != row) {
            at = put_empty_row(at, empty_bytes);
            continue;
        }
        const sp_hall_tensor *part = &run->requests[next++]->inputs[port];
        memcpy(at, part->data, part->bytes);
        at += part->bytes;
    }
    return (size_t)(at - room);
}

static bool has_empty_rows(const batch_run *run)
{
    return run->model->sequences && run->rows != run->count;
}

/* Rows that fill a bucket up: each as long as the others, zeros. */
static bool add_filling(const batch_run *run, size_t bytes, size_t *ret_bytes)
{
    size_t filling = 0;
    if (run->run_rows == run->rows)
        *ret_bytes = bytes;
    else if (!sp_size_mul(bytes / (size_t)run->rows, (size_t)(run->run_rows - run->rows), &filling) ||
             !sp_size_add(bytes, filling, ret_bytes))
        return false;
    return true;
}

static sp_status gather_input(batch_run *run, int index, sp_error *reterr)
{
    sp_hall_model *model = run->model;
    int port = model->inputs[index].config;
    sp_engine_tensor *tensor = &run->inputs[index];
    *tensor = (sp_engine_tensor){ .dtype = model->inputs[index].dtype, .rank = SP_ENGINE_ABSENT };
    if (port < 0 && model->inputs[index].sequence >= 0)
        return sp_hall_sequence_input(model, index, &run->lane->inputs[index], run->requests, run->count, (int)run->rows, tensor,
                                      reterr);
    if (port < 0 || !run->requests[0]->inputs[port].given)
        return SP_OK;
    const sp_hall_tensor *first = &run->requests[0]->inputs[port];
    int64_t dims[SP_INFER_RANK];
    int rank;
    memcpy(dims, first->dims, sizeof(dims));
    if (model->batches)
        dims[0] = run->run_rows;
    if (!sp_hall_shape_in(&model->config->inputs[port], model->batches, dims, first->rank, tensor->dims, &rank))
        return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s' cannot be reshaped as its configuration says",
                       model->config->inputs[port].name, model->config->name);
    tensor->rank = rank;
    if (run->count == 1 && is_aligned(first) && !has_empty_rows(run) && run->run_rows == run->rows) {
        tensor->data = (void *)(uintptr_t)first->data; /* only read */
        tensor->size_bytes = first->bytes;
        return SP_OK;
    }
    size_t bytes = 0, given_bytes;
    for (int i = 0; i < run->count; i++)
        if (!sp_size_add(bytes, run->requests[i]->inputs[port].bytes, &bytes))
            return SP_FAIL(reterr, SP_TOO_LARGE, "the inputs of a batch overflow");
    uint64_t elements = 0;
    size_t empty_bytes = 0;
    if (has_empty_rows(run)) {
        if (!sp_hall_elements(first->dims, first->rank, &elements) ||
            !sp_size_mul((size_t)elements, SP_MAX(sp_dtype_bytes(first->dtype), sizeof(uint32_t)), &empty_bytes) ||
            !sp_size_mul(empty_bytes, (size_t)run->rows, &empty_bytes) || !sp_size_add(bytes, empty_bytes, &bytes))
            return SP_FAIL(reterr, SP_TOO_LARGE, "the inputs of a batch overflow");
        empty_bytes = elements * (sp_dtype_bytes(first->dtype) ? sp_dtype_bytes(first->dtype) : sizeof(uint32_t));
    }
    given_bytes = bytes;
    if (!add_filling(run, given_bytes, &bytes))
        return SP_FAIL(reterr, SP_TOO_LARGE, "the inputs of a batch overflow");
    uint8_t *room = sp_hall_buffer_room(&run->lane->inputs[index], bytes);
    if (!room)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a batch of %zu bytes", bytes);
    tensor->data = room;
    tensor->size_bytes = bytes;
    memset(room + given_bytes, 0, bytes - given_bytes);
    if (has_empty_rows(run)) {
        tensor->size_bytes = gather_rows(run, port, room, empty_bytes);
        return SP_OK;
    }
    for (int i = 0; i < run->count; i++) {
        const sp_hall_tensor *part = &run->requests[i]->inputs[port];
        memcpy(room, part->data, part->bytes);
        room += part->bytes;
    }
    return SP_OK;
}

/* --- places for outputs ----------------------------------------------------------------------------------------------- */

static bool somebody_wishes(const batch_run *run, int port)
{
    for (int i = 0; i < run->count; i++)
        if (wish_of(run->requests[i], port))
            return true;
    return false;
}

static sp_status place_output(batch_run *run, int index, sp_error *reterr)
{
    sp_hall_model *model = run->model;
    int port = model->outputs[index].config, rank;
    sp_engine_tensor *tensor = &run->outputs[index];
    *tensor = (sp_engine_tensor){ .dtype = model->outputs[index].dtype, .rank = SP_ENGINE_ABSENT };
    run->direct[index] = 0;
    if (model->outputs[index].sequence >= 0)
        tensor->rank = 0; /* a state: wanted, and left to the engine */
    if (port < 0 || !somebody_wishes(run, port))
        return SP_OK;
    tensor->rank = 0; /* left to the engine */
    uint64_t elements;
    if (model->unbound || !sp_hall_shape_known(&sp_session_ports(model->session)->outputs[index], model->batches, run->run_rows,
                                               tensor->dims, &rank) ||
        !sp_hall_elements(tensor->dims, rank, &elements) || !elements)
        return SP_OK;
    size_t bytes = (size_t)elements * sp_dtype_bytes(tensor->dtype);
    const sp_infer_wish *wish = run->count == 1 ? wish_of(run->requests[0], port) : NULL;
    if (wish && run->run_rows == run->rows && wish->form == SP_FORM_RAW && !wish->classes && (!wish->limit_bytes || bytes <= wish->limit_bytes)) {
        tensor->data = sp_hall_writer_room(&run->writer, bytes);
        run->direct[index] = tensor->data ? (size_t)((uint8_t *)tensor->data - run->writer.answer) : 0;
    }
    if (!tensor->data)
        tensor->data = sp_hall_buffer_room(&run->lane->outputs[index], bytes);
    if (!tensor->data)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an output of %zu bytes", bytes);
    tensor->rank = rank;
    tensor->size_bytes = bytes;
    run->bound = true;
    return SP_OK;
}

static sp_status prepare(batch_run *run, sp_error *reterr)
{
    run->rows = 0;
    run->bound = false;
    for (int i = 0; i < run->count; i++)
        run->rows += run->requests[i]->rows;
    if (run->model->sequences)
        run->rows = sp_hall_sequence_rows(run->model, run->requests, run->count);
    run->run_rows = run->model->bucket_most ? sp_bucket_of(run->rows, SP_MAX(run->rows, run->model->bucket_most)) : run->rows;
    if (run->count == 1)
        sp_hall_writer_begin(&run->writer, run->requests[0]->item, run->requests[0]->wish_count);
    for (int i = 0; i < run->model->input_count; i++) {
        sp_status s = gather_input(run, i, reterr);
        if (s)
            return s;
    }
    bool any = false;
    for (int i = 0; i < run->model->output_count; i++) {
        sp_status s = place_output(run, i, reterr);
        if (s)
            return s;
        any |= run->outputs[i].rank != SP_ENGINE_ABSENT;
    }
    if (!any && run->model->output_count)
        run->outputs[0].rank = 0; /* nobody wishes anything: it is run all the same */
    return SP_OK;
}

/* --- scatter ---------------------------------------------------------------------------------------------------------- */

/* Bytes that `elements` strings take from `at` on; the engine's own, so they add up. */
static uint64_t string_bytes(const uint8_t *at, const uint8_t *end, uint64_t elements)
{
    const uint8_t *begin = at;
    for (uint64_t i = 0; i < elements && (size_t)(end - at) >= 4; i++) {
        uint32_t length;
        memcpy(&length, at, sizeof(length));
        at += sizeof(length) + SP_MIN((size_t)length, (size_t)(end - at) - sizeof(length));
    }
    return (uint64_t)(at - begin);
}

/* Rows `row` .. + request's of the engine's output, in the client's shape. *at: where the rows begin, moved on. */
static sp_status slice(const batch_run *run, int index, const sp_hall_request *request, const uint8_t **at,
                       sp_hall_tensor *ret_part, sp_error *reterr)
{
    const sp_hall_model *model = run->model;
    const sp_engine_tensor *tensor = &run->outputs[index];
    const sp_model_port *port = &model->config->outputs[model->outputs[index].config];
    int64_t dims[SP_INFER_RANK];
    int rank;
    uint64_t elements;
    if (tensor->rank < 0 || tensor->rank > SP_INFER_RANK)
        return SP_FAIL(reterr, SP_INTERNAL, "output '%s' of '%s' did not come", port->name, model->config->name);
    memcpy(dims, tensor->dims, sizeof(dims));
    if (model->batches && (tensor->rank < 1 || dims[0] != run->run_rows))
        return SP_FAIL(reterr, SP_INTERNAL, "output '%s' of '%s' has %lld rows for a batch of %lld", port->name, model->config->name,
                       tensor->rank ? (long long)dims[0] : 0, (long long)run->run_rows);
    if (model->batches)
        dims[0] = request->rows;
    if (!sp_hall_shape_out(port, model->batches, dims, tensor->rank, ret_part->dims, &rank) ||
        !sp_hall_elements(dims, tensor->rank, &elements))
        return SP_FAIL(reterr, SP_INTERNAL, "output '%s' of '%s' cannot be reshaped as its configuration says", port->name,
                       model->config->name);
    ret_part->rank = (uint8_t)rank;
    ret_part->dtype = (uint8_t)tensor->dtype;
    ret_part->given = true;
    ret_part->data = *at;
    const uint8_t *end = (const uint8_t *)tensor->data + tensor->size_bytes;
    size_t element = sp_dtype_bytes(tensor->dtype);
    ret_part->bytes = element ? elements * element : string_bytes(*at, end, elements);
    if (ret_part->bytes > (uint64_t)(end - *at))
        return SP_FAIL(reterr, SP_INTERNAL, "output '%s' of '%s' is shorter than its shape", port->name, model->config->name);
    *at += ret_part->bytes;
    return SP_OK;
}

/* Moves the cursor over rows that no request has. */
static sp_status skip_rows(const batch_run *run, int index, int64_t rows, const uint8_t **at, sp_error *reterr)
{
    const sp_hall_request empty = { .rows = (int32_t)rows };
    sp_hall_tensor part;
    return rows > 0 ? slice(run, index, &empty, at, &part, reterr) : SP_OK;
}

/* How many of those lie before the rows of request `i`. */
static int64_t empty_rows_before(const batch_run *run, int i)
{
    if (!has_empty_rows(run))
        return 0;
    int before = i > 0 ? sp_hall_sequence_row(run->model, run->requests[i - 1], i - 1) : -1;
    return sp_hall_sequence_row(run->model, run->requests[i], i) - before - 1;
}

static sp_status keep_states(batch_run *run, sp_error *reterr)
{
    sp_status s = SP_OK;
    for (int o = 0; o < run->model->output_count && run->model->kept && !s; o++)
        if (run->model->outputs[o].sequence >= 0)
            s = sp_hall_sequence_output(run->model, o, &run->outputs[o], run->requests, run->count, (int)run->rows, reterr);
    return s;
}

static int engine_output(const sp_hall_model *model, int port)
{
    for (int i = 0; i < model->output_count; i++)
        if (model->outputs[i].config == port)
            return i;
    return -1;
}

static void finish_answer(sp_hall_request *request, const sp_hall_writer *writer, int64_t rows, bool leader,
                          const int64_t times_ns[4])
{
    sp_work_item *item = request->item;
    sp_infer_answer *answer = (sp_infer_answer *)(void *)item->answer; /* page-aligned */
    answer->count = (uint32_t)writer->count;
    answer->batch_rows = (uint32_t)rows;
    answer->batch_leader = leader;
    answer->step_count = 0;
    answer->queue_ns = request->queue_ns;
    answer->input_ns = times_ns[1] - times_ns[0];
    answer->infer_ns = times_ns[2] - times_ns[1];
    answer->output_ns = times_ns[3] - times_ns[2];
    item->done.answer_bytes = (uint32_t)SP_MIN(writer->at, SP_ANSWER_STRIDE);
    item->done.preprocess_ns = answer->input_ns;
    item->done.inference_ns = item->done.batch_run_ns = answer->infer_ns;
    item->done.postprocess_ns = answer->output_ns;
    item->answer_touched = writer->at;
    item->status = SP_OK;
}

/* The outputs of request `i` into its answer. */
static sp_status scatter(batch_run *run, int i, const uint8_t **cursors, sp_hall_writer *writer, sp_error *reterr)
{
    sp_hall_request *request = run->requests[i];
    sp_hall_tensor parts[SP_INFER_PORTS]; /* by the engine's output: cursors move on for unwished ones too */
    for (int o = 0; o < run->model->output_count; o++) {
        int port = run->model->outputs[o].config;
        if (port < 0 || run->outputs[o].rank == SP_ENGINE_ABSENT || !somebody_wishes(run, port))
            continue;
        sp_status s = skip_rows(run, o, empty_rows_before(run, i), &cursors[o], reterr);
        if (!s)
            s = slice(run, o, request, &cursors[o], &parts[o], reterr);
        if (s)
            return s;
    }
    for (int w = 0; w < request->wish_count; w++) {
        const sp_infer_wish *wish = &request->wishes[w];
        int o = engine_output(run->model, wish->port);
        sp_status s = SP_OK;
        if (run->count == 1 && run->direct[o])
            sp_hall_writer_note(writer, wish, &parts[o], run->direct[o]);
        else
            s = sp_hall_writer_put(writer, run->model, &run->lane->scratch, wish, &parts[o], reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

/* Boxes instead of tensors; the rows are passed over for those behind. */
static void answer_boxes(batch_run *run, int i, int row, const uint8_t **cursors, int64_t times_ns[4])
{
    sp_hall_request *request = run->requests[i];
    sp_work_item *item = request->item;
    item->status = sp_hall_detect_answer(run->model, run->lane_index, run->outputs, row, request, &item->error);
    for (int o = 0; o < run->model->output_count && i + 1 < run->count && !item->status; o++)
        if (run->model->outputs[o].config >= 0 && run->outputs[o].rank != SP_ENGINE_ABSENT)
            item->status = skip_rows(run, o, request->rows, &cursors[o], &item->error);
    times_ns[3] = sp_clock_now_ns();
    item->done.batch_size = (uint32_t)run->count;
    item->done.inference_ns = item->done.batch_run_ns = times_ns[2] - times_ns[1];
    item->done.postprocess_ns = times_ns[3] - times_ns[2];
    item->answer_touched = SP_MAX(run->count > 1 ? 0 : run->writer.at, (size_t)item->done.answer_bytes);
}

static void answer_all(batch_run *run, int64_t times_ns[4])
{
    int row = 0;
    const uint8_t *cursors[SP_INFER_PORTS];
    bool leader = true;
    for (int o = 0; o < run->model->output_count; o++)
        cursors[o] = run->outputs[o].data;
    for (int i = 0; i < run->count; i++) {
        sp_work_item *item = run->requests[i]->item;
        sp_hall_writer *writer = &run->writer, own;
        int first_row = run->model->batches ? row : 0;
        row += run->requests[i]->rows;
        if (run->requests[i]->detect) {
            answer_boxes(run, i, first_row, cursors, times_ns);
            continue;
        }
        if (run->count > 1) {
            sp_hall_writer_begin(&own, item, run->requests[i]->wish_count);
            writer = &own;
        }
        item->status = scatter(run, i, cursors, writer, &item->error);
        item->done.batch_size = (uint32_t)run->count;
        item->answer_touched = writer->at;
        times_ns[3] = sp_clock_now_ns();
        if (item->status)
            continue;
        finish_answer(run->requests[i], writer, run->rows, leader, times_ns);
        leader = false;
    }
}

/* --- identity --------------------------------------------------------------------------------------------------------- */

static void run_identity(sp_hall_model *model, sp_hall_lane *lane, sp_hall_request **requests, int count)
{
    int64_t rows = 0;
    bool leader = true;
    for (int i = 0; i < count; i++)
        rows += requests[i]->rows;
    for (int i = 0; i < count; i++) {
        sp_hall_request *request = requests[i];
        sp_work_item *item = request->item;
        sp_hall_writer writer;
        int64_t now_ns = sp_clock_now_ns(), times_ns[4] = { now_ns, now_ns, now_ns, 0 };
        sp_hall_writer_begin(&writer, item, request->wish_count);
        item->status = SP_OK;
        for (int w = 0; w < request->wish_count && !item->status; w++) {
            const sp_infer_wish *wish = &request->wishes[w];
            const sp_hall_tensor *input = &request->inputs[wish->port];
            item->status = input->given ? sp_hall_writer_put(&writer, model, &lane->scratch, wish, input, &item->error)
                                        : SP_FAIL(&item->error, SP_INVALID, "output '%s' needs its input",
                                                  model->config->outputs[wish->port].name);
        }
        item->done.batch_size = (uint32_t)count;
        item->answer_touched = writer.at;
        times_ns[3] = sp_clock_now_ns();
        if (!item->status) {
            finish_answer(request, &writer, rows, leader, times_ns);
            leader = false;
        }
    }
}

/* --- runs and what fails ---------------------------------------------------------------------------------------------- */

static sp_metric *repaired_metric(void)
{
    return sp_metric_get(SP_METRIC_COUNTER, "spillway_mxcsr_repaired_total", "",
                         "Times an engine left denormals flushed on the thread that called it");
}

void sp_hall_mxcsr_repair(void)
{
    sp_mxcsr_repair(repaired_metric());
}

static int64_t budget_of(sp_hall_model *model)
{
    int64_t slowest_ns = atomic_load_explicit(&model->slowest_ns, memory_order_relaxed);
    return SP_MAX(10 * slowest_ns, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
}

/* Some engines' models see requests apart (Python's). Rows of sequences have places of their own and stay one. */
static void divide(const batch_run *run)
{
    int64_t rows[SP_LIMIT_BATCH];
    if (!run->model->batches || run->model->sequences || run->count < 2)
        return;
    for (int i = 0; i < run->count; i++)
        rows[i] = run->requests[i]->rows;
    sp_session_divide(run->model->session, run->lane_index, rows, run->count);
}

static sp_status compute(batch_run *run, sp_error *reterr)
{
    sp_sim *sim = run->hall->settings.sim;
    sp_sim_run simulated;
    sp_status s = sim ? sp_sim_begin(sim, (int)run->rows, &simulated, reterr) : SP_OK;
    if (!s) {
        divide(run);
        s = sp_session_run(run->model->session, run->lane_index, run->inputs, run->model->input_count, run->outputs,
                           run->model->output_count, reterr);
    }
    if (!s && sim)
        sp_sim_end(sim, &simulated);
    sp_hall_mxcsr_repair();
    return s;
}

static void learn(sp_hall_model *model, int64_t took_ns)
{
    /* Several lanes may write; any of their values will do. */
    int64_t before = atomic_load_explicit(&model->slowest_ns, memory_order_relaxed);
    atomic_store_explicit(&model->slowest_ns, SP_MAX(took_ns, before - before / 16), memory_order_relaxed);
}

/* Requests first .. first + count - 1, once. */
static sp_status run_once(batch_run *run, sp_hall_request **requests, int count, sp_error *reterr)
{
    sp_hall_request **all = run->requests;
    int64_t times_ns[4];
    run->requests = requests;
    run->count = count;
    times_ns[0] = sp_clock_now_ns();
    sp_status s = prepare(run, reterr);
    if (!s) {
        sp_worker_stage(run->executor, SP_STAGE_INFERENCE, budget_of(run->model));
        times_ns[1] = sp_clock_now_ns();
        s = compute(run, reterr);
        times_ns[2] = sp_clock_now_ns();
    }
    if (!s)
        s = keep_states(run, reterr);
    if (!s) {
        learn(run->model, times_ns[2] - times_ns[1]);
        if (count == 1 && !run->model->sequences)
            atomic_store_explicit(&run->model->quick_shape, requests[0]->waiting.shape, memory_order_relaxed);
        sp_worker_stage(run->executor, SP_STAGE_POSTPROCESS, 0);
        answer_all(run, times_ns);
    }
    run->requests = all;
    return s;
}

/* A model whose outputs are not what it declares fails when they have a place: once more without, and so from then on. */
static sp_status run_range(batch_run *run, sp_hall_request **requests, int count, sp_error *reterr)
{
    sp_status s = run_once(run, requests, count, reterr);
    if (SP_LIKELY(!s) || count > 1 || !run->bound || (s != SP_INVALID && s != SP_INTERNAL))
        return s;
    sp_error again = { 0 };
    run->model->unbound = true;
    if (run_once(run, requests, count, &again) == SP_OK)
        return SP_OK;
    run->model->unbound = false;
    return s;
}

/* True = try the same again: other models have made room. */
static bool out_of_memory(batch_run *run, int count, sp_error *err)
{
    sp_device_counters *counters = run->hall->settings.counters;
    if (!err->code[0])
        (void)snprintf(err->code, sizeof(err->code), "oom");
    if (counters)
        atomic_fetch_add_explicit(&counters->oom_runs, 1, memory_order_relaxed);
    if (sp_hall_put_one_aside(run->hall, run->model))
        return true;
    if (count > 1) {
        if (sp_batch_limit_failed(&run->model->limit, count, sp_clock_now_ns()))
            sp_log(SP_LOG_WARN, "device memory is short: smaller batches", SP_LOG_TEXT("model", run->model->config->name),
                   SP_LOG_INT("requests", count), SP_LOG_TEXT("reason", err->message));
        return false;
    }
    if (counters)
        atomic_fetch_add_explicit(&counters->oom_alone, 1, memory_order_relaxed);
    run->no_room = true;
    run->no_room_error = *err;
    return false;
}

static void fail_range(sp_hall_request **requests, int count, sp_status status, const sp_error *err)
{
    for (int i = 0; i < count; i++) {
        requests[i]->item->status = status;
        requests[i]->item->error = *err;
    }
}

static void run_bisecting(batch_run *run, sp_hall_request **requests, int count)
{
    sp_error err = { 0 };
    if (run->no_room) {
        fail_range(requests, count, SP_NOMEM, &run->no_room_error);
        return;
    }
    sp_status s = run_range(run, requests, count, &err);
    while (s == SP_NOMEM && out_of_memory(run, count, &err)) {
        err = (sp_error){ 0 };
        s = run_range(run, requests, count, &err);
    }
    if (!s) {
        (void)sp_batch_limit_fitted(&run->model->limit, count, sp_clock_now_ns());
        return;
    }
    if (s == SP_UNAVAILABLE) {
        if (!err.code[0])
            (void)snprintf(err.code, sizeof(err.code), "sticky");
        sp_worker_end_after_batch(&err);
    }
    bool late = run->deadline_ns && sp_clock_now_ns() > run->deadline_ns;
    if (count == 1 || late || s == SP_UNAVAILABLE || s == SP_CANCELLED || run->model->sequences) { /* those run once: they are remembered */
        fail_range(requests, count, s, &err);
        return;
    }
    run_bisecting(run, requests, count / 2);
    run_bisecting(run, requests + count / 2, count - count / 2);
}

void sp_hall_run_batch(sp_hall *hall, sp_hall_model *model, int lane, int executor, sp_hall_request **requests, int count)
{
    if (model->identity) {
        run_identity(model, &model->lanes[lane], requests, count);
        return;
    }
    batch_run run = { .hall = hall, .model = model, .lane = &model->lanes[lane], .lane_index = lane, .executor = executor,
                      .requests = requests };
    for (int i = 0; i < count; i++) {
        int64_t deadline_ns = requests[i]->item->submission->attempt_deadline_ns;
        if (deadline_ns && (!run.deadline_ns || deadline_ns < run.deadline_ns))
            run.deadline_ns = deadline_ns;
    }
    sp_worker_stage(executor, SP_STAGE_PREPROCESS, 0);
    run_bisecting(&run, requests, count);
}
