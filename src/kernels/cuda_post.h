/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twins of what comes after a model (kernels.h, nms_run.h): the same bits and the same indices. Enqueued on the stream;
 * all pointers are device memory but the params. `space`: device memory of the call's own, as large as the matching *_space says;
 * nothing is allocated, so all of them can be part of a graph. */
#ifndef SP_KERNELS_CUDA_POST_H
#define SP_KERNELS_CUDA_POST_H

#include "kernels/cuda.h"
#include "kernels/nms_run.h"

/* Where a detector's candidates lie: `batch` of them one behind the other. */
typedef struct sp_cuda_nms {
    const float *boxes;      /* [batch][n][4]: x0 y0 x1 y1 */
    const float *score;      /* [batch][n] */
    const int32_t *class_id; /* [batch][n]; NULL = agnostic */
    int batch, n;
    sp_nms_params params;
    int32_t *kept;           /* [batch][most]: indices, best score first, equal scores by lower index; most = params.most, or n */
    int32_t *kept_count;     /* [batch] */
} sp_cuda_nms;

typedef struct sp_cuda_post_api {
    /* `rows` rows of n, packed. dst may be src. */
    sp_status (*softmax_f32)(sp_cuda_stream *stream, float *dst, const float *src, int rows, int n, sp_error *reterr);
    size_t (*topk_space)(int rows, int n, int k);
    sp_status (*topk_f32)(sp_cuda_stream *stream, int32_t *ret_index, float *ret_value, const float *src, int rows, int n, int k,
                          void *space, sp_error *reterr);
    /* The largest of `rows` values of each of n columns (kernels.h, best_columns_f32), `batch` times. */
    sp_status (*best_columns_f32)(sp_cuda_stream *stream, float *ret_best, int32_t *ret_which, const float *src, int batch, int n,
                                  int rows, size_t row_stride, size_t batch_stride, sp_error *reterr);
    size_t (*nms_space)(int batch, int n, const sp_nms_params *params);
    sp_status (*nms)(sp_cuda_stream *stream, const sp_cuda_nms *nms, void *space, sp_error *reterr);
    /* What ranking needs beside softmax and topk (task/rank.h), rank.cu. NULL: rows are ranked on the host.
     * gather: dst[rows][k] = src[rows][n] at index[rows][k], whose numbers lie within 0 .. n - 1.
     * first_bad: of each row the first place that is not finite; n = all are. widen: IEEE 754 halves to floats, exact. */
    sp_status (*gather_f32)(sp_cuda_stream *stream, float *dst, const float *src, const int32_t *index, int rows, int n, int k,
                            sp_error *reterr);
    sp_status (*first_bad_f32)(sp_cuda_stream *stream, int32_t *ret_first, const float *src, int rows, int n, sp_error *reterr);
    sp_status (*widen_f16)(sp_cuda_stream *stream, float *dst, const uint16_t *src, size_t count, sp_error *reterr);
} sp_cuda_post_api;

#endif
