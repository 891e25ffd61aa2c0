/* SPDX-License-Identifier: Apache-2.0
 * The table of cuda_prep.h. */
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/cuda_prep.h"

extern const sp_cuda_prep_api sp_cuda_prep_calls = {};
}
