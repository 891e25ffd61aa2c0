/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twin of the dense flow (flow.h): the same bits as sp_flow_expand and sp_flow_pair give. Enqueued on the stream;
 * allocates nothing after the _new calls, so an expansion or a pair can be part of a graph. */
#ifndef SP_KERNELS_CUDA_FLOW_H
#define SP_KERNELS_CUDA_FLOW_H

#include "kernels/cuda.h"
#include "kernels/flow.h"

typedef struct sp_cuda_flow sp_cuda_flow;                 /* tables on the device; shared by streams */
typedef struct sp_cuda_flow_frame sp_cuda_flow_frame;     /* one frame's expansion on every level */
typedef struct sp_cuda_flow_scratch sp_cuda_flow_scratch; /* of one stream at a time */

typedef struct sp_cuda_flow_api {
    /* `flow` is needed only until it returns. SP_NOMEM; SP_UNSUPPORTED: parameters that this twin does not have. */
    sp_status (*flow_new)(sp_cuda *cuda, const sp_flow *flow, sp_cuda_flow **ret_flow, sp_error *reterr);
    void (*flow_free)(sp_cuda_flow *flow);
    sp_status (*frame_new)(sp_cuda_flow *flow, sp_cuda_flow_frame **ret_frame, sp_error *reterr);
    void (*frame_free)(sp_cuda_flow_frame *frame);
    sp_status (*scratch_new)(sp_cuda_flow *flow, sp_cuda_flow_scratch **ret_scratch, sp_error *reterr);
    void (*scratch_free)(sp_cuda_flow_scratch *scratch);
    /* grey: device, h rows of w bytes. */
    sp_status (*expand)(const sp_cuda_flow *flow, sp_cuda_stream *stream, sp_cuda_flow_frame *ret_frame, const uint8_t *grey,
                        size_t stride_bytes, sp_cuda_flow_scratch *scratch, sp_error *reterr);
    /* dx, dy, init_dx, init_dy: device, as sp_flow_pair. */
    sp_status (*pair)(const sp_cuda_flow *flow, sp_cuda_stream *stream, const sp_cuda_flow_frame *a, const sp_cuda_flow_frame *b,
                      const float *init_dx, const float *init_dy, float *dx, float *dy, size_t stride_floats,
                      sp_cuda_flow_scratch *scratch, sp_error *reterr);
} sp_cuda_flow_api;

#endif
