/* SPDX-License-Identifier: Apache-2.0
 * A CUDA device that is none, for tests of who uses one: its memory is the host's, what is enqueued happens at once, the twins
 * are the host's kernels. It counts, refuses on demand, and aborts where a rule of kernels/cuda.h is broken that can be seen
 * here: memory that is not its own, a copy from memory that is gone, something left over at the end. What the shim shows (order
 * of streams, unset memory, the kernels themselves) it does not. */
#ifndef SP_TESTS_TASK_FAKE_CUDA_H
#define SP_TESTS_TASK_FAKE_CUDA_H

#include "kernels/cuda.h"

extern const sp_cuda_api fake_cuda_api;

extern struct fake_cuda {
    int calls;         /* of anything that can fail, since the last reset */
    int allocations;   /* of them those that allocate */
    int fail_at;       /* the call of this number fails, 0 = none */
    sp_status status;  /* like so */
    bool for_good;     /* and all behind it */
    bool refuses_host; /* host_register says no */
    int prepared;      /* pictures */
    int registered;    /* host memory that is */
} fake_cuda;

void fake_cuda_reset(void); /* counts and orders, not what is held */
int fake_cuda_held(void);   /* objects that were made and not freed */

#endif
