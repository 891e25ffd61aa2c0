/* SPDX-License-Identifier: Apache-2.0
 * The kind that touches hostile bytes: reads a picture out of a request's body into the slot's output, as oriented
 * RGB8 pixels or, when the next link is a CPU, as the model's input tensor; makes tensors of KServe requests that are
 * compressed or all JSON (worker/unpack.h); indexes videos and writes their reports (worker/codec_video.h). It holds no model and no device, and once it
 * serves, the kernel grants it nothing but memory and the descriptors that it was given (worker/sandbox.h). */
#include "worker/kinds.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/machine.h"
#include "kernels/prep_run.h"
#include "kserve/json.h"
#include "media/load.h"
#include "worker/codec_video.h"
#include "worker/sandbox.h"
#include "worker/unpack.h"

#include <stdio.h>
#include <stdlib.h>

/* Decoding takes 5 to 60 ns a pixel here; this is what a slow, busy machine may need before we call it hung. */
#define BUDGET_NS_PER_PIXEL 150

/* Inflating a bomb to its limit, 64 MiB, takes 0.3 s for as little as 64 KiB: what that may take on a slow, busy machine. */
#define UNPACK_BUDGET_NS_PER_BYTE 20000

/* More executors than this do not help: the pictures then come faster than any CPU link can classify them. */
#define EXECUTORS_MAX 4

/* What one executor keeps from picture to picture, so that a steady stream allocates nothing. */
typedef struct codec_executor {
    uint8_t *pixels; /* a picture on its way to a tensor */
    size_t pixels_bytes;
    sp_prep_scratch *scratch;
} codec_executor;

typedef struct codec {
    const sp_media_api *media;
    int executor_count;
    codec_executor executors[EXECUTORS_MAX];
} codec;

static void codec_close(void *state)
{
    codec *self = state;
    if (!self)
        return;
    for (int i = 0; i < self->executor_count; i++) {
        free(self->executors[i].pixels);
        sp_prep_scratch_free(self->executors[i].scratch);
    }
    free(self);
}

static void fill_card(const codec *self, sp_worker_card *card)
{
    (void)snprintf(card->device, sizeof(card->device), "cpu");
    (void)snprintf(card->precision, sizeof(card->precision), "none");
    (void)snprintf(card->engine, sizeof(card->engine), "codec");
    (void)snprintf(card->detail, sizeof(card->detail), "%s", self->media->versions);
    card->executors = (uint32_t)self->executor_count;
    card->max_batch = 1;
    card->window = (uint32_t)self->executor_count * 2; /* one in hand, one waiting, each */
}

static sp_status codec_open(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr)
{
    (void)config;
    sp_machine machine;
    sp_machine_read(&machine);
    codec *self = calloc(1, sizeof(*self));
    if (!self)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the codec");
    self->executor_count = SP_CLAMP(machine.cpu_count, 1, EXECUTORS_MAX);
    sp_status s = sp_media_load(&self->media, reterr);
    for (int i = 0; !s && i < self->executor_count; i++) {
        self->executors[i].scratch = sp_prep_scratch_new();
        if (!self->executors[i].scratch)
            s = SP_FAIL(reterr, SP_NOMEM, "no memory for the pre-processing tables");
    }
    if (s) {
        codec_close(self);
        return s;
    }
    fill_card(self, card);
    *ret_state = self;
    return SP_OK;
}

static sp_status codec_sandbox(void *state, sp_worker_card *card, bool require, sp_error *reterr)
{
    (void)state;
    sp_sandbox_report report;
    sp_status s = sp_sandbox_enter(&report, reterr);
    if (s)
        return s;
    if (require && report.level != SP_SANDBOX_FULL)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "sandbox", "the sandbox is only %s (%s), and --require-sandbox is set",
                            sp_sandbox_level_name(report.level), report.detail);
    (void)snprintf(card->sandbox, sizeof(card->sandbox), "%s", sp_sandbox_level_name(report.level));
    size_t used = strnlen(card->detail, sizeof(card->detail));
    (void)snprintf(card->detail + used, sizeof(card->detail) - used, "; %s", report.detail);
    return SP_OK;
}

/* Room for a picture that only the kernel behind it reads. Large ones are given back by trim_pixels. */
static sp_status need_pixels(codec_executor *executor, size_t size_bytes, sp_error *reterr)
{
    if (executor->pixels_bytes >= size_bytes)
        return SP_OK;
    free(executor->pixels);
    executor->pixels = malloc(size_bytes);
    executor->pixels_bytes = executor->pixels ? size_bytes : 0;
    if (!executor->pixels)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of pixels", size_bytes);
    return SP_OK;
}

static void trim_pixels(codec_executor *executor)
{
    if (executor->pixels_bytes <= SP_OUTPUT_KEEP_BYTES)
        return;
    free(executor->pixels);
    executor->pixels = NULL;
    executor->pixels_bytes = 0;
}

/* decode=fast must leave the model's resize at least as many pixels as it asks for. */
static int fast_short_side(const sp_work_item *item)
{
    if (!(item->request->flags & SP_SLOT_DECODE_FAST))
        return 0;
    return SP_MAX(item->request->prep.resize_w, item->request->prep.resize_h);
}

static sp_status decode_fault(const sp_work_item *item, sp_error *reterr)
{
    switch (SP_FAULT_BODY("codec.decode", item->body)) {
    case SP_FAULT_FAIL:
        return SP_FAIL(reterr, SP_INTERNAL, "fault point codec.decode");
    case SP_FAULT_NOMEM:
        return SP_FAIL(reterr, SP_NOMEM, "fault point codec.decode");
    default:
        return SP_OK;
    }
}

static sp_status decode_into(const codec *self, int index, sp_work_item *item, const sp_image_options *options,
                             const sp_image_info *info, uint8_t *dst)
{
    int64_t scale = info->scale_denominator;
    int64_t pixels = (int64_t)info->width * info->height * scale * scale;
    sp_worker_stage(index, SP_STAGE_DECODE, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS + pixels * BUDGET_NS_PER_PIXEL);
    return self->media->image_decode(item->body, options, info, dst, info->rgb_bytes, &item->error);
}

static sp_status to_pixels(const codec *self, int index, sp_work_item *item, const sp_image_options *options,
                           const sp_image_info *info)
{
    uint8_t *output = sp_worker_output(item, info->rgb_bytes, &item->error);
    if (!output)
        return item->error.status;
    int64_t start_ns = sp_clock_now_ns();
    sp_status s = decode_into(self, index, item, options, info, output);
    item->done.decode_ns = sp_clock_now_ns() - start_ns;
    if (s)
        return s;
    item->done.output_kind = SP_OUTPUT_RGB8;
    item->done.output_bytes = info->rgb_bytes;
    return SP_OK;
}

static sp_status to_tensor(codec *self, int index, sp_work_item *item, const sp_image_options *options,
                           const sp_image_info *info)
{
    codec_executor *executor = &self->executors[index];
    sp_prep_spec spec = item->request->prep; /* a copy: what is checked is what is used */
    sp_status s = sp_prep_spec_check(&spec, &item->error);
    if (!s)
        s = need_pixels(executor, info->rgb_bytes, &item->error);
    if (s)
        return s;
    size_t tensor_bytes = sp_prep_output_bytes(&spec);
    uint8_t *output = sp_worker_output(item, tensor_bytes, &item->error);
    if (!output)
        return item->error.status;

    int64_t start_ns = sp_clock_now_ns();
    s = decode_into(self, index, item, options, info, executor->pixels);
    int64_t decoded_ns = sp_clock_now_ns();
    item->done.decode_ns = decoded_ns - start_ns;
    if (s)
        return s;
    if (sp_work_item_cancelled(item))
        return SP_FAIL(&item->error, SP_CANCELLED, "the request was withdrawn while it was decoded");
    sp_worker_stage(index, SP_STAGE_PREPROCESS, 0);
    s = sp_prep_image(&spec, executor->pixels, info->width, info->height, (size_t)info->width * 3, output,
                      executor->scratch, &item->error);
    item->done.preprocess_ns = sp_clock_now_ns() - decoded_ns;
    if (s)
        return s;
    item->done.output_kind = SP_OUTPUT_TENSOR;
    item->done.output_bytes = tensor_bytes;
    return SP_OK;
}

static sp_status decode(codec *self, int index, sp_work_item *item)
{
    sp_image_options options = { .fast_short_side = fast_short_side(item) };
    sp_image_info info;
    sp_worker_stage(index, SP_STAGE_DECODE, 0);
    sp_status s = decode_fault(item, &item->error);
    if (!s)
        s = self->media->image_probe(item->body, &options, &info, &item->error);
    if (s)
        return s;
    if (item->submission->output_kind == SP_OUTPUT_TENSOR)
        s = to_tensor(self, index, item, &options, &info);
    else
        s = to_pixels(self, index, item, &options, &info);
    item->done.image_w = info.width;
    item->done.image_h = info.height;
    trim_pixels(&self->executors[index]);
    return s;
}

/* --- tensors ------------------------------------------------------------------------------------------------------ */

static uint8_t *grow_output(void *context, size_t size_bytes, sp_error *reterr)
{
    return sp_worker_output(context, size_bytes, reterr);
}

static sp_status unpack(int index, sp_work_item *item)
{
    sp_buf header;
    uint64_t tensor_bytes = 0;
    sp_worker_stage(index, SP_STAGE_DECODE, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS +
                                                (int64_t)item->body.size_bytes * UNPACK_BUDGET_NS_PER_BYTE);
    sp_status s = decode_fault(item, &item->error);
    if (s)
        return s;
    int64_t start_ns = sp_clock_now_ns();
    sp_buf_init(&header, SP_LIMIT_KSERVE_HEADER_BYTES);
    s = sp_unpack(item->body, (sp_encoding)item->request->encoding, item->request->header_bytes, grow_output, item, &header,
                  &tensor_bytes, &item->error);
    if (!s) {
        memcpy(item->answer, header.data, header.size_bytes);
        item->done.answer_bytes = (uint32_t)header.size_bytes;
        item->done.output_kind = SP_OUTPUT_BYTES;
        item->done.output_bytes = tensor_bytes;
    }
    item->done.decode_ns = sp_clock_now_ns() - start_ns;
    sp_buf_done(&header);
    return s;
}

static void codec_run(void *state, int executor, sp_work_item *items, int count)
{
    codec *self = state;
    for (int i = 0; i < count; i++) {
        sp_work_item *item = &items[i];
        if (item->submission->op == SP_OP_DECODE)
            item->status = decode(self, executor, item);
        else if (item->submission->op == SP_OP_UNPACK)
            item->status = unpack(executor, item);
        else if (item->submission->op == SP_OP_INDEX)
            item->status = sp_codec_index(self->media, executor, item);
        else if (item->submission->op == SP_OP_REPORT)
            item->status = sp_codec_report(self->media, executor, item);
        else
            item->status = SP_FAIL(&item->error, SP_UNSUPPORTED, "the codec worker reads files, it cannot do operation %u",
                                   item->submission->op);
    }
}

const sp_worker_kind sp_worker_kind_codec = {
    .name = "codec",
    .open = codec_open,
    .sandbox = codec_sandbox,
    .run = codec_run,
    .close = codec_close,
};
