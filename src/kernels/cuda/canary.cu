/* SPDX-License-Identifier: Apache-2.0
 * The canary: a kernel whose results differ when the build lost one of the flags of "one arithmetic": -fmad=false (a*b+c is
 * rounded twice), -ftz=false (denormals stay), -prec-div and -prec-sqrt (both correctly rounded). It runs when a device is opened,
 * on numbers that the compiler cannot see, and is compared with what IEEE 754 says. */
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/arith.h"
#include "kernels/cuda/core.h"
}

#define CANARIES 6

/* in: 2 numbers for each lane; the lane says which operation. */
static __global__ void canary(uint32_t *out, const float *in)
{
    unsigned lane = threadIdx.x;
    float a = in[2 * (lane % CANARIES)], b = in[2 * (lane % CANARIES) + 1], r;
    switch (lane % CANARIES) {
    case 0: r = a * a + b; break;        /* 1 + 2^-11 + 2^-24 - (1 + 2^-11): 0 when rounded twice */
    case 1: r = a * b; break;            /* a denormal result */
    case 2: r = a + b; break;            /* denormal operands */
    case 3: r = a / b; break;
    case 4: r = sqrtf(a); break;
    default: r = sp_fma(a, a, b); break; /* and here fused is what is asked for */
    }
    if (lane < CANARIES)
        out[lane] = sp_f32_bits(r);
}

extern "C" sp_status sp_cuda_canary(sp_cuda *cuda, sp_error *reterr)
{
    static const float in[2 * CANARIES] = {
        0x1.001p+0f, -0x1.002p+0f, 0x1p-100f, 0x1.8p-40f, 0x1p-140f, 0x1p-141f, 1.0f, 3.0f, 2.0f, 0.0f, 0x1.001p+0f, -0x1.002p+0f,
    };
    static const uint32_t expected[CANARIES] = {
        0x00000000u, 0x00000300u, 0x00000300u, 0x3eaaaaabu, 0x3fb504f3u, 0x33800000u,
    };
    static const char *const flags[CANARIES] = { "-fmad=false", "-ftz=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true",
                                                 "fmaf" };
    uint32_t got[CANARIES] = { 0 };
    void *memory = NULL;
    sp_status s = sp_cuda_reserve(cuda, 512, &memory, reterr);
    if (s)
        return s;
    float *numbers = static_cast<float *>(memory);
    uint32_t *results = static_cast<uint32_t *>(memory) + 64;
    cudaError_t error = cudaMemcpyAsync(numbers, in, sizeof(in), cudaMemcpyHostToDevice, cuda->stream);
    if (error == cudaSuccess)
        error = SP_LAUNCH(canary, 1, 32, 0, cuda->stream, results, numbers);
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(got, results, sizeof(got), cudaMemcpyDeviceToHost, cuda->stream);
    cudaError_t waited = cudaStreamSynchronize(cuda->stream);
    sp_cuda_release(cuda, memory);
    error = error != cudaSuccess ? error : waited;
    if (error != cudaSuccess)
        return sp_cuda_check(error, "the canary kernel", reterr);
    for (int i = 0; i < CANARIES; i++) {
        if (got[i] != expected[i])
            return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_arithmetic",
                                "the kernels of " SP_CUDA_LIBRARY " were built without %s: %08x instead of %08x", flags[i], got[i],
                                expected[i]);
    }
    return SP_OK;
}
