/* SPDX-License-Identifier: Apache-2.0
 * The table of cuda_post.h. */
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/cuda_post.h"

extern const sp_cuda_post_api sp_cuda_post_calls = {};
}
