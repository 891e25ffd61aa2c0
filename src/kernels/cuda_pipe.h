/* SPDX-License-Identifier: Apache-2.0
 * A pipeline over one GPU: batches go round N lanes, each with a stream, pinned staging and device buffers of its own, so that
 * the copies of one batch run beside the computing of another; and the measure of how much of the copies that hides. It stands
 * on cuda.h alone. The worker has lanes of its own, with slots; this is for benches, checks and one-shot work.
 *
 *   lane 0   in 0 | compute 0 | out 0 | in 2      | compute 2 | out 2
 *   lane 1          in 1      | compute 1 | out 1 | in 3      | compute 3 ...
 *
 * One thread; nothing is allocated between _new and _free. */
#ifndef SP_KERNELS_CUDA_PIPE_H
#define SP_KERNELS_CUDA_PIPE_H

#include "kernels/cuda.h"

/* Lanes of one pipeline at most: three keep both copy engines and the kernels busy, more only hide jitter. */
#define SP_LIMIT_CUDA_LANES 16

typedef struct sp_cuda_pipe sp_cuda_pipe;

/* What is done with each batch; NULL entries are left out. fill: the host writes the batch's input into pinned memory. compute:
 * enqueues on `stream`, in and out are device memory. take: the host reads its output, batch by batch in order. */
typedef struct sp_cuda_pipe_work {
    void *context;
    void (*fill)(void *context, int batch, void *host_in);
    sp_status (*compute)(void *context, int lane, sp_cuda_stream *stream, const void *in, void *out, sp_error *reterr);
    void (*take)(void *context, int batch, const void *host_out);
} sp_cuda_pipe_work;

/* Milliseconds of the device's clock for the same batches: only copied, only computed, both at once. hidden: the part of the
 * shorter one that the longer one hid, 1 - (wall - max(copy, compute)) / min(copy, compute), at most 1. */
typedef struct sp_cuda_overlap {
    float copy_ms, compute_ms, wall_ms;
    double hidden;
} sp_cuda_overlap;

/* in_bytes, out_bytes: of one batch; 0 = no such copy. SP_NOMEM, SP_UNAVAILABLE as cuda.h; SP_INVALID: no or too many lanes. */
sp_status sp_cuda_pipe_new(const sp_cuda_api *api, sp_cuda *cuda, int lanes, size_t in_bytes, size_t out_bytes,
                           sp_cuda_pipe **ret_pipe, sp_error *reterr);
void sp_cuda_pipe_free(sp_cuda_pipe *pipe);

/* Runs `batches` of them and waits for the last. After a failure nothing of it is enqueued any more, and outputs that were not
 * taken are lost. */
sp_status sp_cuda_pipe_run(sp_cuda_pipe *pipe, const sp_cuda_pipe_work *work, int batches, sp_error *reterr);

/* Times `batches` three times, after one round to warm up; fill and take are left out, so that the host is not measured. */
sp_status sp_cuda_pipe_measure(sp_cuda_pipe *pipe, const sp_cuda_pipe_work *work, int batches, sp_cuda_overlap *ret_overlap,
                               sp_error *reterr);

/* The formula alone. 1 when there is nothing to hide. */
double sp_cuda_hidden(double copy_ms, double compute_ms, double wall_ms);

#endif
