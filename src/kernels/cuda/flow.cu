/* SPDX-License-Identifier: Apache-2.0
 * The table of cuda_flow.h. */
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/cuda_flow.h"

extern const sp_cuda_flow_api sp_cuda_flow_calls = {};
}
