/* SPDX-License-Identifier: Apache-2.0
 * One question about a CUDA device that a worker asks at its start, and `spillway doctor` too (device_cuda.c). */
#ifndef SP_WORKER_CUDA_SLOTS_H
#define SP_WORKER_CUDA_SLOTS_H

#include "kernels/cuda.h"

/* Can the device copy from pages as slots have them, shared and mapped for reading only? False: *reterr says why; pictures are
 * then staged, one copy more. */
bool sp_cuda_registers_slots(const sp_cuda_api *api, sp_cuda *cuda, sp_error *reterr);

#endif
