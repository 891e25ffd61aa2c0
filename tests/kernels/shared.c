/* SPDX-License-Identifier: Apache-2.0
 * The pre-processing calls for Python's ctypes (test_reference.py, bench/kernels.py). Tests only. */
#include "kernels/kernels.h"
#include "kernels/nms_run.h"
#include "kernels/prep_run.h"

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
