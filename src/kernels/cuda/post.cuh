/* SPDX-License-Identifier: Apache-2.0
 * Between the files of cuda/post*.cu. C++; not for others. */
#ifndef SP_KERNELS_CUDA_POST_CUH
#define SP_KERNELS_CUDA_POST_CUH

#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/cuda_post.h"

size_t sp_cuda_nms_space(int batch, int n, const sp_nms_params *params);
sp_status sp_cuda_nms_run(sp_cuda_stream *stream, const sp_cuda_nms *nms, void *space, sp_error *reterr);
sp_status sp_cuda_decode_boxes(sp_cuda_stream *stream, const sp_cuda_head *head, float *ret_boxes, float *ret_score,
                               int32_t *ret_class, int32_t *ret_bad, sp_error *reterr);
size_t sp_cuda_detect_space(const sp_cuda_head *head, const sp_nms_params *params);
sp_status sp_cuda_detect_run(sp_cuda_stream *stream, const sp_cuda_head *head, const sp_nms_params *params, bool classwise,
                             const sp_cuda_detections *ret, void *space, sp_error *reterr);
}

#endif
