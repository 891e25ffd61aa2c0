/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twins of picture pre-processing (prep_run.h): the same bits as sp_prep_image and sp_resize_rgb8 give. Everything is
 * enqueued on the stream; pointers named device are device memory. */
#ifndef SP_KERNELS_CUDA_PREP_H
#define SP_KERNELS_CUDA_PREP_H

#include "kernels/cuda.h"
#include "kernels/prep.h"

/* One spec's batches, up to `most` pictures each: tables by size (computed once on the host, kept on the device), staging. One
 * stream at a time. */
typedef struct sp_cuda_prep sp_cuda_prep;

typedef struct sp_cuda_picture {
    const uint8_t *rgb;  /* device: h rows of w RGB8 pixels */
    int w, h;
    size_t stride_bytes; /* >= 3 * w */
} sp_cuda_picture;

/* YUV to RGB8. */
typedef struct sp_cuda_yuv {
    const uint8_t *y, *u, *v;  /* device; v = NULL: u holds U and V side by side (NV12) */
    size_t y_stride_bytes, uv_stride_bytes;
    int w, h;                  /* chroma is (w + 1) / 2 x (h + 1) / 2 */
    bool bt709, full_range;
} sp_cuda_yuv;

typedef struct sp_cuda_prep_api {
    /* The spec has passed sp_prep_spec_check. SP_NOMEM. */
    sp_status (*prep_new)(sp_cuda *cuda, const sp_prep_spec *spec, int most, sp_cuda_prep **ret_prep, sp_error *reterr);
    void (*prep_free)(sp_cuda_prep *prep);
    /* dst: device, `count` tensors one behind the other. The descriptions are read before it returns. Sizes may all differ.
     * SP_INVALID, SP_TOO_LARGE as sp_prep_image; then nothing was enqueued. SP_UNSUPPORTED, code "not_warm": the stream is capturing
     * and a batch with pictures of this size has not run before. A graph stays right until tables of hundreds of other sizes
     * have gone through the same prep. */
    sp_status (*prep_batch)(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *pictures, int count, void *dst,
                            sp_error *reterr);
    /* Whole pictures, as sp_resize_rgb8; the spec's filter only. dst: device, dst_h rows. */
    sp_status (*resize_rgb8)(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *picture, uint8_t *dst, int dst_w,
                             int dst_h, size_t dst_stride_bytes, sp_error *reterr);
    /* dst: device, h rows of w RGB8 pixels: what media/video gives for the same samples. */
    sp_status (*yuv_to_rgb8)(sp_cuda_stream *stream, const sp_cuda_yuv *yuv, uint8_t *dst, size_t dst_stride_bytes, sp_error *reterr);
    /* prep_batch for pictures that are crop_w x crop_h already (SP_INVALID: one is not): value table and planes alone, the twin of
     * norm_f32 and norm_f16. */
    sp_status (*norm_batch)(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *pictures, int count, void *dst,
                            sp_error *reterr);
} sp_cuda_prep_api;

#endif
