/* SPDX-License-Identifier: Apache-2.0
 * Running: inputs are used where the caller has them and stay set while address and shape are the same; outputs are made in
 * the library's memory, and copied where the caller has a buffer (a tensor of the caller's cannot be taken off a request
 * again, and one of a shape that only the run knows cannot be given). */
#include "ov.h"

#include <stdlib.h>
#include <string.h>

sp_engine_status ovp_lane_init(const sp_engine_model *model, ovp_lane *lane, sp_engine_error *reterr)
{
    lane->bound = calloc((size_t)model->input_count + 1, sizeof(*lane->bound));
    lane->left = calloc((size_t)model->output_count + 1, sizeof(ov_tensor_t *));
    if (!lane->bound || !lane->left)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_NOMEM, "no memory for a lane");
    return ovp_check(model->library, model->library->ov_compiled_model_create_infer_request(model->compiled, &lane->request),
                     OVP_LOAD, reterr);
}

static void release_left(const sp_engine_model *model, ovp_lane *lane)
{
    for (int32_t i = 0; lane->left && i < model->output_count; i++) {
        if (lane->left[i])
            model->library->ov_tensor_free(lane->left[i]);
        lane->left[i] = NULL;
    }
}

void ovp_lane_done(const sp_engine_model *model, ovp_lane *lane)
{
    release_left(model, lane);
    if (lane->request)
        model->library->ov_infer_request_free(lane->request);
    free(lane->bound);
    free(lane->left);
}

static bool same_tensor(const sp_engine_tensor *a, const sp_engine_tensor *b)
{
    return a->data && a->data == b->data && a->rank == b->rank &&
           memcmp(a->dims, b->dims, (size_t)a->rank * sizeof(a->dims[0])) == 0;
}

static sp_engine_status set_input(sp_engine_model *model, ovp_lane *lane, int32_t index, const sp_engine_tensor *tensor,
                                  sp_engine_error *reterr)
{
    static uint64_t nothing; /* an address for tensors without elements */
    const ov_library *lib = model->library;
    int64_t dims[SP_ENGINE_MAX_RANK];
    if (same_tensor(&lane->bound[index], tensor))
        return SP_ENGINE_OK;
    if (tensor->memory != SP_ENGINE_HOST)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_INVALID, "%s: not in host memory", model->ports[index].name);
    memcpy(dims, tensor->dims, sizeof(dims));
    ov_tensor_t *wrapped = NULL;
    lane->bound[index].data = NULL;
    ov_status_e st = lib->ov_tensor_create_from_host_ptr(ovp_type(tensor->dtype),
                                                         (ov_shape_t){ .rank = tensor->rank, .dims = dims },
                                                         tensor->data ? tensor->data : &nothing, &wrapped);
    if (st == OK)
        st = lib->ov_infer_request_set_input_tensor_by_index(lane->request, (size_t)index, wrapped);
    if (wrapped)
        lib->ov_tensor_free(wrapped); /* the request has a reference */
    if (st == OK)
        lane->bound[index] = *tensor;
    return ovp_check(lib, st, OVP_RUN, reterr);
}

static sp_engine_status describe(const ov_library *lib, const ov_tensor_t *theirs, sp_engine_tensor *ret_tensor,
                                 sp_engine_error *reterr)
{
    ov_shape_t shape = { 0 };
    size_t bytes = 0;
    ov_status_e st = lib->ov_tensor_get_shape(theirs, &shape);
    if (st == OK || st == INVALID_C_PARAM) /* the C interface cannot make a shape of rank 0 */
        st = lib->ov_tensor_get_byte_size(theirs, &bytes);
    if (st == OK && bytes)
        st = lib->ov_tensor_data(theirs, &ret_tensor->data);
    sp_engine_status s = ovp_check(lib, st, OVP_RUN, reterr);
    if (!s && shape.rank > SP_ENGINE_MAX_RANK)
        s = plug_fail(reterr, OV_ORIGIN, SP_ENGINE_UNSUPPORTED, "an output has more than %d dimensions",
                      SP_ENGINE_MAX_RANK);
    if (!s && shape.rank)
        memcpy(ret_tensor->dims, shape.dims, (size_t)shape.rank * sizeof(ret_tensor->dims[0]));
    ret_tensor->rank = s ? 0 : (int32_t)shape.rank;
    ret_tensor->size_bytes = bytes;
    ret_tensor->memory = SP_ENGINE_HOST;
    if (shape.dims)
        (void)lib->ov_shape_free(&shape); /* its only failure is a NULL */
    return s;
}

static sp_engine_status take_output(sp_engine_model *model, ovp_lane *lane, int32_t index, sp_engine_tensor *output,
                                    sp_engine_error *reterr)
{
    const ov_library *lib = model->library;
    if (output->rank == SP_ENGINE_ABSENT)
        return SP_ENGINE_OK;
    sp_engine_tensor made = { .dtype = output->dtype };
    sp_engine_status s = ovp_check(
        lib, lib->ov_infer_request_get_output_tensor_by_index(lane->request, (size_t)index, &lane->left[index]), OVP_RUN,
        reterr);
    if (!s)
        s = describe(lib, lane->left[index], &made, reterr);
    if (s)
        return s;
    if (!output->data) {
        *output = made;
        return SP_ENGINE_OK;
    }
    if (made.size_bytes > output->size_bytes || made.rank != output->rank ||
        memcmp(made.dims, output->dims, (size_t)made.rank * sizeof(made.dims[0])) != 0)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_INVALID, "%s: the run gave another shape than the caller's",
                         model->ports[model->input_count + index].name);
    if (made.size_bytes)
        memcpy(output->data, made.data, (size_t)made.size_bytes);
    return SP_ENGINE_OK;
}

sp_engine_status ovp_model_run(sp_engine_model *model, int32_t lane_index, const sp_engine_tensor *inputs,
                               int32_t input_count, sp_engine_tensor *outputs, int32_t output_count,
                               sp_engine_error *reterr)
{
    sp_engine_ports ports;
    ovp_model_describe(model, &ports);
    sp_engine_status s = plug_call_check(
        &(plug_call){ .ports = &ports,
                      .origin = OV_ORIGIN,
                      .lane = lane_index,
                      .lane_count = model->lane_count,
                      .inputs = inputs,
                      .outputs = outputs,
                      .input_count = input_count,
                      .output_count = output_count },
        reterr);
    if (s)
        return s;
    ovp_lane *lane = &model->lanes[lane_index];
    release_left(model, lane);
    for (int32_t i = 0; i < input_count && !s; i++)
        s = set_input(model, lane, i, &inputs[i], reterr);
    if (!s)
        s = ovp_check(model->library, model->library->ov_infer_request_infer(lane->request), OVP_RUN, reterr);
    for (int32_t i = 0; i < output_count && !s; i++)
        s = take_output(model, lane, i, &outputs[i], reterr);
    return s;
}

void ovp_model_cancel(sp_engine_model *model, int32_t lane)
{
    if (lane >= 0 && lane < model->lane_count) /* idle requests are not touched by it; a failure lets the run go on */
        (void)model->library->ov_infer_request_cancel(model->lanes[lane].request);
}
