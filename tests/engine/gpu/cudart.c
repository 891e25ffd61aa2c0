/* SPDX-License-Identifier: Apache-2.0
 * Passes for the CUDA runtime that ONNX Runtime's provider brings into the process, as far as the plug-in asks it: what is free.
 * The stand-in library takes from it what a session would. One device of 8 GiB. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define CALL __attribute__((visibility("default")))
#define TOTAL_BYTES ((int64_t)8 << 30)

static _Atomic int64_t taken_bytes;

CALL int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
CALL int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = (size_t)(TOTAL_BYTES - atomic_load(&taken_bytes));
    *total_bytes = (size_t)TOTAL_BYTES;
    return 0;
}

/* Not CUDA's. */
CALL void spillway_standin_take(int64_t bytes);
CALL void spillway_standin_take(int64_t bytes)
{
    atomic_fetch_add(&taken_bytes, bytes);
}
