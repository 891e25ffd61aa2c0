/* SPDX-License-Identifier: Apache-2.0
 * rank.cu's calls, for the table that post.cu fills (cuda_post.h says what they do). C and C++. */
#ifndef SP_KERNELS_CUDA_RANK_H
#define SP_KERNELS_CUDA_RANK_H

#include "kernels/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif
sp_status sp_cuda_gather_f32(sp_cuda_stream *stream, float *dst, const float *src, const int32_t *index, int rows, int n, int k,
                             sp_error *reterr);
sp_status sp_cuda_first_bad_f32(sp_cuda_stream *stream, int32_t *ret_first, const float *src, int rows, int n, sp_error *reterr);
sp_status sp_cuda_widen_f16(sp_cuda_stream *stream, float *dst, const uint16_t *src, size_t count, sp_error *reterr);
#ifdef __cplusplus
}
#endif

#endif
