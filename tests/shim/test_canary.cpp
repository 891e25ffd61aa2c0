// SPDX-License-Identifier: Apache-2.0
// The canary dies where a flag was lost: here canary.cu is built with contraction allowed, as nvcc does without -fmad=false.
#include "kernels/cuda/canary.cu"

extern "C" {
#include "test.h"
}

TEST(a_lost_flag_is_named)
{
    if (!__builtin_cpu_supports("fma"))
        SKIP("this CPU has no fused multiply-add");
    sp_cuda cuda = {}; /* without a pool: cudaMalloc */
    (void)pthread_mutex_init(&cuda.lock, nullptr);
    sp_error err = {};
    REQUIRE(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK_INT(sp_cuda_canary(&cuda, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "bad_arithmetic");
    CHECK_TEXT(err.message, "the kernels of libspillway_cuda.so were built without -fmad=false: 33800000 instead of 00000000");
    CHECK_INT(cudaStreamDestroy(cuda.stream), cudaSuccess);
}
