/* SPDX-License-Identifier: Apache-2.0
 * The pre-processing calls for Python's ctypes (test_reference.py, bench/kernels.py). Tests only. */
#include "kernels/kernels.h"
#include "kernels/nms_run.h"
#include "kernels/prep_run.h"

#include <stdlib.h>

SP_EXPORT int kt_force(int level);
SP_EXPORT const char *kt_level(void);
SP_EXPORT sp_prep_scratch *kt_scratch_new(void);
SP_EXPORT void kt_scratch_free(sp_prep_scratch *scratch);
SP_EXPORT size_t kt_spec_size(void);
SP_EXPORT int kt_prep(const sp_prep_spec *spec, const uint8_t *rgb, int w, int h, size_t stride, void *dst,
                      sp_prep_scratch *scratch, char *message, size_t message_size);
SP_EXPORT int kt_resize(int filter, const uint8_t *src, int sw, int sh, size_t stride, uint8_t *dst, int dw, int dh,
                        sp_prep_scratch *scratch);
SP_EXPORT void kt_softmax(float *dst, const float *src, int n);
SP_EXPORT void kt_topk(int32_t *index, float *value, const float *src, int n, int k);
SP_EXPORT void *kt_nms_new(int capacity);
SP_EXPORT void kt_nms_free(void *scratch);
SP_EXPORT int kt_nms(void *scratch, const float *boxes, const float *score, const int32_t *class_id, int n, float threshold,
                     float iou, int32_t *kept);

int kt_force(int level)
{
    return sp_kernels_force((sp_kernel_level)level);
}

const char *kt_level(void)
{
    return sp_kernels_level();
}

sp_prep_scratch *kt_scratch_new(void)
{
    return sp_prep_scratch_new();
}

void kt_scratch_free(sp_prep_scratch *scratch)
{
    sp_prep_scratch_free(scratch);
}

size_t kt_spec_size(void)
{
    return sizeof(sp_prep_spec);
}

int kt_prep(const sp_prep_spec *spec, const uint8_t *rgb, int w, int h, size_t stride, void *dst, sp_prep_scratch *scratch,
            char *message, size_t message_size)
{
    sp_error error = { 0 };
    sp_status s = sp_prep_image(spec, rgb, w, h, stride, dst, scratch, &error);
    if (s && message_size) {
        size_t i = 0;
        for (; i + 1 < message_size && error.message[i]; i++)
            message[i] = error.message[i];
        message[i] = 0;
    }
    return (int)s;
}

int kt_resize(int filter, const uint8_t *src, int sw, int sh, size_t stride, uint8_t *dst, int dw, int dh,
              sp_prep_scratch *scratch)
{
    return (int)sp_resize_rgb8((sp_resize_filter)filter, src, sw, sh, stride, dst, dw, dh, (size_t)dw * 3, scratch, NULL);
}

void kt_softmax(float *dst, const float *src, int n)
{
    sp_kernels_init();
    sp_kernels.softmax_f32(dst, src, n);
}

void kt_topk(int32_t *index, float *value, const float *src, int n, int k)
{
    sp_kernels_init();
    sp_kernels.topk_f32(index, value, src, n, k);
}

void *kt_nms_new(int capacity)
{
    return sp_nms_scratch_new(capacity);
}

void kt_nms_free(void *scratch)
{
    sp_nms_scratch_free(scratch);
}

int kt_nms(void *scratch, const float *boxes, const float *score, const int32_t *class_id, int n, float threshold, float iou,
           int32_t *kept)
{
    const sp_nms_params params = { .threshold = threshold, .iou = iou };
    return sp_nms_run(scratch, boxes, score, class_id, n, &params, kept);
}

/* A flow between two frames, for Python: tables, two expansions and scratch are kept. */
typedef struct kt_flow {
    sp_flow *flow;
    sp_flow_frame *frame[2];
    sp_flow_scratch *scratch;
} kt_flow;
SP_EXPORT kt_flow *kt_flow_new(double pyr_scale, int levels, int winsize, int iterations, int poly_n, double poly_sigma,
                               int gaussian, int w, int h);
SP_EXPORT void kt_flow_free(kt_flow *f);
SP_EXPORT void kt_flow_expand(kt_flow *f, int which, const uint8_t *grey, size_t stride);
SP_EXPORT void kt_flow_pair(kt_flow *f, int swapped, const float *init, float *dx_dy);

void kt_flow_free(kt_flow *f)
{
    for (int i = 0; i < 2; i++)
        sp_flow_frame_free(f->frame[i]);
    sp_flow_scratch_free(f->scratch);
    sp_flow_free(f->flow);
    free(f);
}

kt_flow *kt_flow_new(double pyr_scale, int levels, int winsize, int iterations, int poly_n, double poly_sigma, int gaussian,
                     int w, int h)
{
    const sp_flow_params params = { .pyr_scale = pyr_scale, .levels = levels, .winsize = winsize, .iterations = iterations,
                                    .poly_n = poly_n, .poly_sigma = poly_sigma, .gaussian = gaussian };
    kt_flow *f = calloc(1, sizeof(*f));
    if (!f || sp_flow_new(&params, w, h, &f->flow, NULL) || sp_flow_frame_new(f->flow, &f->frame[0], NULL) ||
        sp_flow_frame_new(f->flow, &f->frame[1], NULL) || sp_flow_scratch_new(f->flow, &f->scratch, NULL)) {
        if (f)
            kt_flow_free(f);
        return NULL;
    }
    return f;
}

void kt_flow_expand(kt_flow *f, int which, const uint8_t *grey, size_t stride)
{
    sp_flow_expand(f->flow, f->frame[which], grey, stride, f->scratch);
}

/* init and dx_dy: a plane of dx, then one of dy. */
void kt_flow_pair(kt_flow *f, int swapped, const float *init, float *dx_dy)
{
    size_t plane = (size_t)f->flow->w * (size_t)f->flow->h;
    sp_flow_pair(f->flow, f->frame[swapped], f->frame[!swapped], init, init ? init + plane : NULL, dx_dy, dx_dy + plane,
                 (size_t)f->flow->w, f->scratch);
}
