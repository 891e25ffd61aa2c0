/* SPDX-License-Identifier: Apache-2.0
 * The table of cuda_plane.h. */
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/cuda_plane.h"

extern const sp_cuda_plane_api sp_cuda_plane_calls = {};
}
