/* SPDX-License-Identifier: Apache-2.0
 * Running: inputs are copied into the lane's memory, outputs are read where the child left them. A child that dies costs the
 * run that it had; the next one is started at once, and awaited by the run after. */
#include "py.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static uint64_t aligned(uint64_t offset)
{
    return (offset + 63) / 64 * 64;
}

static void replace_child(py_lane *lane, py_child fresh, py_state state)
{
    (void)pthread_mutex_lock(&lane->lock);
    py_child old = lane->child;
    lane->child = fresh;
    lane->state = state;
    (void)pthread_mutex_unlock(&lane->lock);
    py_child_kill(&old);
}

sp_engine_status py_lane_start(const sp_engine_model *model, int32_t index, sp_engine_error *reterr)
{
    py_lane *lane = &model->lanes[index];
    py_child child;
    size_t size = strlen(model->hello);
    sp_engine_status s = py_child_start(&child, reterr);
    if (s)
        return s;
    s = py_child_room(&child, size, reterr);
    if (!s) {
        memcpy(child.to.data, model->hello, size);
        s = py_child_send(&child, &(py_packet){ .kind = PY_HELLO, .status = (uint32_t)index, .bytes = size }, reterr);
    }
    if (s)
        py_child_kill(&child);
    else
        replace_child(lane, child, PY_STARTING);
    return s;
}

sp_engine_status py_lane_ready(const sp_engine_model *model, int32_t index, py_packet *ret_ports, sp_engine_error *reterr)
{
    static _Thread_local py_packet ready; /* 11 KB */
    py_lane *lane = &model->lanes[index];
    sp_engine_status s = SP_ENGINE_OK;
    if (lane->state == PY_IDLE)
        return SP_ENGINE_OK;
    if (lane->state == PY_NONE)
        s = py_lane_start(model, index, reterr);
    if (!s)
        s = py_child_receive(&lane->child, &ready, reterr);
    if (!s && ready.kind != PY_READY)
        s = plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "the model's process sent packet %u before it was ready",
                      ready.kind);
    if (s) {
        replace_child(lane, (py_child){ 0 }, PY_NONE);
        return s;
    }
    lane->state = PY_IDLE;
    if (ret_ports)
        *ret_ports = ready;
    return SP_ENGINE_OK;
}

static sp_engine_status put_inputs(sp_engine_model *model, py_lane *lane, const sp_engine_tensor *inputs,
                                   const sp_engine_tensor *outputs, py_packet *packet, sp_engine_error *reterr)
{
    uint64_t end = (uint64_t)lane->request_count * sizeof(lane->rows[0]);
    packet->kind = PY_RUN;
    packet->input_count = (uint32_t)model->input_count;
    packet->output_count = (uint32_t)model->output_count;
    packet->status = (uint32_t)lane->request_count;
    packet->bytes = 0;
    for (int32_t i = 0; i < model->input_count; i++) {
        py_tensor *t = &packet->tensors[i];
        *t = (py_tensor){ .dtype = inputs[i].dtype, .rank = inputs[i].rank, .offset = aligned(end) };
        if (t->rank == SP_ENGINE_ABSENT)
            continue;
        t->bytes = t->dtype == SP_ENGINE_STRING ? inputs[i].size_bytes
                                                : plug_count(&inputs[i]) * plug_dtype_bytes(t->dtype);
        memcpy(t->dims, inputs[i].dims, sizeof(t->dims));
        if (__builtin_add_overflow(t->offset, t->bytes, &end))
            return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_TOO_LARGE, "the inputs' sizes overflow");
    }
    for (int32_t i = 0; i < model->output_count; i++)
        packet->tensors[model->input_count + i] = (py_tensor){ .dtype = outputs[i].dtype,
                                                               .rank = outputs[i].rank == SP_ENGINE_ABSENT ? -1 : 0 };
    sp_engine_status s = py_child_room(&lane->child, end, reterr);
    if (!s && lane->request_count)
        memcpy(lane->child.to.data, lane->rows, (size_t)lane->request_count * sizeof(lane->rows[0]));
    for (int32_t i = 0; i < model->input_count && !s; i++)
        if (packet->tensors[i].bytes)
            memcpy(lane->child.to.data + packet->tensors[i].offset, inputs[i].data, (size_t)packet->tensors[i].bytes);
    return s;
}

/* Strings are copied before their lengths are looked at: the child could change them meanwhile. */
static sp_engine_status copy_strings(py_lane *lane, int32_t index, const py_tensor *found, sp_engine_tensor *made,
                                     sp_engine_error *reterr)
{
    uint8_t *copy = realloc(lane->strings[index], (size_t)found->bytes + 1);
    if (!copy)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_NOMEM, "no memory for %llu bytes of strings",
                         (unsigned long long)found->bytes);
    lane->strings[index] = copy;
    memcpy(copy, lane->child.from.data + found->offset, (size_t)found->bytes);
    made->data = copy;
    uint64_t at = 0, count = plug_count(made);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t left = found->bytes - at;
        if (left < 4 || plug_length_read(copy + at) > left - 4)
            return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "an output's strings do not add up");
        at += 4 + (uint64_t)plug_length_read(copy + at);
    }
    return at == found->bytes ? SP_ENGINE_OK
                              : plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "an output's strings do not add up");
}

static sp_engine_status take_output(sp_engine_model *model, py_lane *lane, int32_t index, const py_tensor *found,
                                    sp_engine_tensor *output, sp_engine_error *reterr)
{
    const sp_engine_port *port = &model->ports[model->input_count + index];
    sp_engine_tensor made = { .dtype = port->dtype, .rank = found->rank, .size_bytes = found->bytes };
    uint64_t bytes = plug_dtype_bytes(port->dtype);
    bool fits = found->dtype == port->dtype && found->rank >= 0;
    for (int32_t i = 0; i < found->rank && fits; i++) {
        made.dims[i] = found->dims[i];
        fits = found->dims[i] >= 0 && !__builtin_mul_overflow(bytes ? bytes : 1, (uint64_t)found->dims[i], &bytes);
    }
    if (!fits || (port->dtype != SP_ENGINE_STRING && bytes != found->bytes))
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "%s: the model's process described it wrongly", port->name);
    made.data = found->bytes ? lane->child.from.data + found->offset : NULL;
    if (port->dtype == SP_ENGINE_STRING) {
        sp_engine_status s = copy_strings(lane, index, found, &made, reterr);
        if (s)
            return s;
    }
    if (!output->data) {
        *output = made;
        return SP_ENGINE_OK;
    }
    if (made.rank != output->rank || made.size_bytes > output->size_bytes ||
        memcmp(made.dims, output->dims, (size_t)made.rank * sizeof(made.dims[0])) != 0)
        return plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INVALID, "%s: the run gave another shape than the caller's", port->name);
    if (made.size_bytes)
        memcpy(output->data, made.data, (size_t)made.size_bytes);
    return SP_ENGINE_OK;
}

static bool child_lives(const py_child *child)
{
    siginfo_t info = { 0 };
    return child->pid > 0 && waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid;
}

/* From here on a cancel finds nothing to cancel: it must not hit the child of a later run. */
static bool stop_running(py_lane *lane)
{
    (void)pthread_mutex_lock(&lane->lock);
    bool cancelled = lane->cancelled;
    lane->running = false;
    (void)pthread_mutex_unlock(&lane->lock);
    return cancelled;
}

static sp_engine_status run_once(sp_engine_model *model, int32_t index, const sp_engine_tensor *inputs,
                                 sp_engine_tensor *outputs, sp_engine_error *reterr)
{
    static _Thread_local py_packet packet; /* 11 KB */
    py_lane *lane = &model->lanes[index];
    if (lane->state == PY_IDLE && !child_lives(&lane->child)) /* killed from outside between two runs: nobody's fault */
        replace_child(lane, (py_child){ 0 }, PY_NONE);
    sp_engine_status s = py_lane_ready(model, index, NULL, reterr);
    if (s)
        return s;
    s = put_inputs(model, lane, inputs, outputs, &packet, reterr);
    if (s)
        return s;
    s = py_child_send(&lane->child, &packet, reterr);
    if (!s)
        s = py_child_receive(&lane->child, &packet, reterr);
    if (!s && (packet.kind != PY_DONE || packet.input_count || packet.output_count != (uint32_t)model->output_count))
        s = plug_fail(reterr, PY_ORIGIN, SP_ENGINE_INTERNAL, "the model's process answered with packet %u", packet.kind);
    else if (s && packet.kind == PY_FAILED && child_lives(&lane->child))
        return s; /* an error of the model's own: the child goes on */
    for (int32_t i = 0; i < model->output_count && !s; i++)
        if (outputs[i].rank != SP_ENGINE_ABSENT)
            s = take_output(model, lane, i, &packet.tensors[i], &outputs[i], reterr);
    if (s) {
        (void)stop_running(lane);
        replace_child(lane, (py_child){ 0 }, PY_NONE);
        (void)py_lane_start(model, index, NULL); /* a failure is the next run's, which tries again */
    }
    return s;
}

void py_model_divide(sp_engine_model *model, int32_t index, const int64_t *rows, int32_t count)
{
    if (index < 0 || index >= model->lane_count)
        return;
    py_lane *lane = &model->lanes[index];
    lane->request_count = count > 1 && count <= PY_REQUESTS ? count : 0;
    memcpy(lane->rows, rows, (size_t)lane->request_count * sizeof(rows[0]));
}

/* True when the rows that divide() named are those of every input. */
static bool divides(const py_lane *lane, const sp_engine_model *model, const sp_engine_tensor *inputs)
{
    int64_t sum = 0;
    bool fits = lane->request_count > 0;
    for (int32_t i = 0; i < lane->request_count && fits; i++)
        fits = lane->rows[i] > 0 && !__builtin_add_overflow(sum, lane->rows[i], &sum);
    for (int32_t i = 0; i < model->input_count && fits; i++)
        fits = inputs[i].rank == SP_ENGINE_ABSENT || (inputs[i].rank > 0 && inputs[i].dims[0] == sum);
    return fits;
}

sp_engine_status py_model_run(sp_engine_model *model, int32_t lane_index, const sp_engine_tensor *inputs,
                              int32_t input_count, sp_engine_tensor *outputs, int32_t output_count,
                              sp_engine_error *reterr)
{
    sp_engine_ports ports;
    py_model_describe(model, &ports);
    sp_engine_status s = plug_call_check(
        &(plug_call){ .ports = &ports,
                      .origin = PY_ORIGIN,
                      .lane = lane_index,
                      .lane_count = model->lane_count,
                      .inputs = inputs,
                      .outputs = outputs,
                      .input_count = input_count,
                      .output_count = output_count,
                      .absent_inputs = true },
        reterr);
    if (s)
        return s;
    py_lane *lane = &model->lanes[lane_index];
    (void)pthread_mutex_lock(&lane->lock);
    lane->running = true;
    lane->cancelled = false;
    (void)pthread_mutex_unlock(&lane->lock);
    if (!divides(lane, model, inputs))
        lane->request_count = 0;
    s = run_once(model, lane_index, inputs, outputs, reterr);
    lane->request_count = 0;
    return stop_running(lane) && s ? plug_fail(reterr, PY_ORIGIN, SP_ENGINE_CANCELLED, "cancelled: the model's process was killed")
                          : s;
}

void py_model_cancel(sp_engine_model *model, int32_t index)
{
    if (index < 0 || index >= model->lane_count)
        return;
    py_lane *lane = &model->lanes[index];
    (void)pthread_mutex_lock(&lane->lock);
    if (lane->running && !lane->cancelled && lane->child.pid > 0) {
        lane->cancelled = true;
        (void)kill(lane->child.pid, SIGKILL); /* it is not reaped while the lock is held, so the number is its own */
    }
    (void)pthread_mutex_unlock(&lane->lock);
}
