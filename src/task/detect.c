/* SPDX-License-Identifier: Apache-2.0
 * A detector with a session of its own: prepare, run, decode. */
#include "task/detect.h"

#include "base/clock.h"
#include "base/machine.h"

#include <stdlib.h>
#include <string.h>

struct sp_detector {
    sp_model *model;
    sp_session *session;
    sp_detect_decoder *decoder;
    sp_prep_scratch *scratch;
    void *input;
    size_t tensor_bytes;
    sp_engine_tensor *outputs;
    int output_count;
};

sp_detect_options sp_detect_options_default(void)
{
    sp_machine machine;
    sp_machine_read(&machine);
    return (sp_detect_options){ .provider = "cpu", .threads = machine.cpu_count };
}

/* Outputs stay in the engine's memory: their sizes may be known only after the run. */
static sp_status run_input(sp_detector *d, sp_error *reterr)
{
    const sp_engine_ports *ports = sp_session_ports(d->session);
    const sp_prep_spec *prep = &d->model->prep;
    sp_engine_tensor tensor = {
        .data = d->input,
        .size_bytes = d->tensor_bytes,
        .dtype = prep->dtype,
        .rank = 4,
        .dims = { 1, 3, prep->crop_h, prep->crop_w },
    };
    for (int i = 0; i < d->output_count; i++)
        d->outputs[i] = (sp_engine_tensor){ .dtype = ports->outputs[i].dtype };
    return sp_session_run(d->session, 0, &tensor, 1, d->outputs, d->output_count, reterr);
}

/* Finds the sizes that only a run tells, and a head that the model does not have. */
static sp_status warm_up(sp_detector *d, sp_error *reterr)
{
    const sp_detect_params params = sp_detect_params_default();
    sp_detect_box boxes[SP_LIMIT_DETECT_BOXES];
    int count;
    memset(d->input, 0, d->tensor_bytes);
    sp_status s = run_input(d, reterr);
    return s ? s : sp_detect_decode(d->decoder, d->outputs, 0, d->model->prep.crop_w, d->model->prep.crop_h, &params, boxes,
                                    &count, reterr);
}

sp_status sp_detect_open(const sp_engine *engine, sp_model *model, const sp_detect_options *options, sp_detector **ret_detector,
                         sp_error *reterr)
{
    SP_CLEANUP(sp_detect_closep) sp_detector *d = calloc(1, sizeof(*d));
    if (!d)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a detector");
    d->model = model;
    sp_session_options session = sp_session_options_default(model->path);
    session.provider = options->provider;
    session.device_index = options->device_index;
    session.threads = options->threads;
    sp_status s = sp_session_open(engine, &session, &d->session, reterr);
    if (!s)
        s = sp_detect_decoder_new(model, sp_session_ports(d->session), &d->decoder, reterr);
    if (s)
        return s;
    d->output_count = sp_session_ports(d->session)->output_count;
    d->tensor_bytes = sp_prep_output_bytes(&model->prep);
    d->input = aligned_alloc(64, SP_ALIGN_UP(d->tensor_bytes, (size_t)64));
    d->outputs = calloc((size_t)d->output_count, sizeof(*d->outputs));
    d->scratch = sp_prep_scratch_new();
    if (!d->input || !d->outputs || !d->scratch)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an input of %zu bytes", d->tensor_bytes);
    s = warm_up(d, reterr);
    if (!s)
        *ret_detector = SP_STEAL(d);
    return s;
}

void sp_detect_close(sp_detector *d)
{
    if (!d)
        return;
    sp_detect_decoder_free(d->decoder);
    sp_session_free(d->session);
    sp_prep_scratch_free(d->scratch);
    free(d->outputs);
    free(d->input);
    free(d);
}

sp_status sp_detect_run(sp_detector *d, const uint8_t *rgb, int w, int h, const sp_detect_params *params,
                        sp_detect_box *ret_boxes, int *ret_count, sp_detect_timing *ret_timing, sp_error *reterr)
{
    int64_t begun_ns = sp_clock_now_ns();
    sp_status s = sp_prep_image(&d->model->prep, rgb, w, h, (size_t)w * 3, d->input, d->scratch, reterr);
    int64_t prepared_ns = sp_clock_now_ns();
    if (!s)
        s = run_input(d, reterr);
    int64_t inferred_ns = sp_clock_now_ns();
    if (!s)
        s = sp_detect_decode(d->decoder, d->outputs, 0, w, h, params, ret_boxes, ret_count, reterr);
    if (!s && ret_timing)
        *ret_timing = (sp_detect_timing){ prepared_ns - begun_ns, inferred_ns - prepared_ns, sp_clock_now_ns() - inferred_ns };
    return s;
}
