/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twins of the operations on grey planes (plane.h): the same bytes and the same integers. Enqueued on the stream; every
 * sp_plane here is device memory, and so is every result. Nothing is read back by the host in between and nothing is allocated
 * after scratch_new, so all of them can be part of a graph. */
#ifndef SP_KERNELS_CUDA_PLANE_H
#define SP_KERNELS_CUDA_PLANE_H

#include "kernels/cuda.h"
#include "kernels/plane.h"

typedef struct sp_cuda_plane_scratch sp_cuda_plane_scratch; /* of one stream at a time */

/* What regions_find leaves: the head, then `capacity` regions in sp_regions_find's order. */
typedef struct sp_cuda_regions {
    uint32_t total;   /* with area >= min_area */
    uint32_t written; /* min(total, capacity) */
} sp_cuda_regions;

typedef struct sp_cuda_plane_api {
    sp_status (*scratch_new)(sp_cuda *cuda, int w, int h, int regions_capacity, sp_cuda_plane_scratch **ret_scratch,
                             sp_error *reterr);
    void (*scratch_free)(sp_cuda_plane_scratch *scratch);

    /* Grey: 8-bit luma (NV12's, YUV420's) to full range; dst may be y. */
    sp_status (*grey_y8)(sp_cuda_stream *stream, sp_plane dst, const uint8_t *y, size_t stride_bytes, bool limited, sp_error *reterr);
    sp_status (*grey_y16)(sp_cuda_stream *stream, sp_plane dst, const uint16_t *y, size_t stride_bytes, int bits, bool limited,
                          sp_error *reterr);
    sp_status (*grey_rgb8)(sp_cuda_stream *stream, sp_plane dst, const uint8_t *rgb, size_t stride_bytes, int step, int r, int g, int b,
                           sp_error *reterr);

    sp_status (*blur_gaussian)(sp_cuda_stream *stream, sp_plane dst, sp_plane src, int ksize, double sigma,
                               sp_cuda_plane_scratch *scratch, sp_error *reterr);
    sp_status (*blur_box)(sp_cuda_stream *stream, sp_plane dst, sp_plane src, int ksize, sp_cuda_plane_scratch *scratch,
                          sp_error *reterr);
    sp_status (*sobel)(sp_cuda_stream *stream, int16_t *dx, int16_t *dy, size_t stride_elements, sp_plane src, int aperture,
                       bool reflect, sp_cuda_plane_scratch *scratch, sp_error *reterr);
    sp_status (*canny)(sp_cuda_stream *stream, sp_plane dst, sp_plane src, double low, double high, int aperture, bool l2,
                       sp_cuda_plane_scratch *scratch, sp_error *reterr);
    sp_status (*morph)(sp_cuda_stream *stream, sp_plane dst, sp_plane src, sp_morph_op op, sp_morph_shape shape, int kw, int kh,
                       int iterations, sp_cuda_plane_scratch *scratch, sp_error *reterr);

    /* ret_regions: device, `capacity` (at most scratch_new's) behind *ret_head. weights.data NULL = none. */
    sp_status (*regions_find)(sp_cuda_stream *stream, sp_plane mask, sp_plane weights, uint32_t min_area, sp_cuda_regions *ret_head,
                              sp_region *ret_regions, int capacity, sp_cuda_plane_scratch *scratch, sp_error *reterr);

    sp_status (*measure_plane)(sp_cuda_stream *stream, sp_plane src, sp_plane_measure *ret_measure, sp_error *reterr);
    sp_status (*measure_difference)(sp_cuda_stream *stream, sp_plane a, sp_plane b, uint64_t *ret_sum, sp_error *reterr);
    sp_status (*measure_nonzero)(sp_cuda_stream *stream, sp_plane src, uint64_t *ret_count, sp_error *reterr);
    sp_status (*threshold)(sp_cuda_stream *stream, sp_plane dst, sp_plane src, uint8_t threshold, sp_error *reterr);
    sp_status (*plane_or)(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr);
    sp_status (*plane_and)(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr);
    sp_status (*plane_max)(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr);
    sp_status (*measure_flow)(sp_cuda_stream *stream, const float *dx, const float *dy, size_t stride_floats, int w, int h,
                              uint32_t threshold_1024, sp_plane mask, sp_flow_measure *ret_measure, sp_error *reterr);
    /* The weights of moving pixels that the analysis sums (task/analyze): floor of four times the magnitude, up to 255. */
    sp_status (*weigh_flow)(sp_cuda_stream *stream, sp_plane dst, const float *dx, const float *dy, size_t stride_floats,
                            sp_error *reterr);
} sp_cuda_plane_api;

#endif
