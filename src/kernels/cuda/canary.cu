/* SPDX-License-Identifier: Apache-2.0
 * The canary: a kernel whose results differ when the build lost one of the flags of "one arithmetic": -fmad=false (a*b+c is
 * rounded twice), -ftz=false (denormals stay), -prec-div and -prec-sqrt (both correctly rounded). It runs when a device is opened,
 * on numbers that the compiler cannot see, and is compared with what IEEE 754 says.
 *
 * Without its flag a quotient is a * r, r about 1 / b, and a root x * r, r about 1 / sqrt(x): r is wrong by 2^-22.9 of itself at most
 * (2^-22.4 for the root's). The quotients and roots of the table are such that no r within that bound gives the right bits. How a
 * device approximates is its own affair, so 96 other quotients and roots, of which a bound of 1 ulp leaves none to luck, go with them. */
#include "kernels/cuda/launch.cuh"

extern "C" {
#include "kernels/arith.h"
#include "kernels/cuda/core.h"
}

#ifndef SP_CANARY_DIV /* tests/shim/test_canary.cpp: what a device does without the flag */
#define SP_CANARY_DIV(a, b) ((a) / (b))
#define SP_CANARY_SQRT(a) sqrtf(a)
#endif

enum canary_op { ADD_PRODUCT, SUB_NUMBER, SUB_PRODUCT, MUL, ADD, LESS, FMA, DIV, SQRT };

typedef struct canary_case {
    int op;
    float a, b, c;
} canary_case;

typedef struct canary_row {
    canary_case in;
    uint32_t expected;
    const char *flag;
} canary_row;

#define CONTRACTS "-fmad=false"
#define FLUSHES "-ftz=false"
#define DIVIDES "-prec-div=true"
#define ROOTS "-prec-sqrt=true"

static const canary_row rows[] = {
    /* (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24; rounded it is 1 + 2^-11, and 2^-24 is what a fused one leaves over. */
    { { ADD_PRODUCT, 0x1.001p+0f, 0x1.001p+0f, -0x1.002p+0f }, 0x00000000u, CONTRACTS },
    { { SUB_NUMBER, 0x1.001p+0f, 0x1.001p+0f, 0x1.002p+0f }, 0x00000000u, CONTRACTS },
    { { SUB_PRODUCT, 0x1.001p+0f, 0x1.001p+0f, 0x1.002p+0f }, 0x00000000u, CONTRACTS },
    { { DIV, 0x1.a00642p+7f, 0x1.c69356p+15f, 0 }, 0x3b6a4a1au, DIVIDES },
    { { DIV, 0x1.092258p-15f, 0x1.775948p+0f, 0 }, 0x37b4d480u, DIVIDES },
    { { DIV, 0x1.278ac2p+1f, 0x1.e15d72p-10f, 0 }, 0x449d2ce9u, DIVIDES },
    { { DIV, 0x1.9ae4f8p-3f, 0x1.ad2bd8p+5f, 0 }, 0x3b75190fu, DIVIDES },
    { { DIV, 0x1.6d9fd8p-17f, 0x1.df706cp+0f, 0 }, 0x36c33a50u, DIVIDES },
    { { DIV, 0x1.e8bffap+19f, 0x1.eef492p-14f, 0 }, 0x4ffcca5au, DIVIDES },
    { { SQRT, 0x1.cb039ap+5f, 0, 0 }, 0x40f2644fu, ROOTS },
    { { SQRT, 0x1.835434p-17f, 0, 0 }, 0x3b5ea952u, ROOTS },
    { { SQRT, 0x1.83f94cp+19f, 0, 0 }, 0x445ed8c1u, ROOTS },
    { { SQRT, 0x1.856b24p+15f, 0, 0 }, 0x435f42dfu, ROOTS },
    { { SQRT, 0x1.e0d0ecp-3f, 0, 0 }, 0x3ef814e1u, ROOTS },
    { { SQRT, 0x1.f370b0p+1f, 0, 0 }, 0x3ffcd72eu, ROOTS },
    /* Denormals: results, operands, what is compared, each instruction that has the flag. */
    { { MUL, 0x1p-100f, 0x1.8p-40f, 0 }, 0x00000300u, FLUSHES },
    { { ADD, 0x1p-140f, 0x1p-141f, 0 }, 0x00000300u, FLUSHES },
    { { ADD, 0x1.8p-126f, -0x1p-126f, 0 }, 0x00400000u, FLUSHES },
    { { MUL, 0x1p-140f, 0x1p+40f, 0 }, 0x0d800000u, FLUSHES },
    { { LESS, 0, 0x1p-140f, 0 }, 0x3f800000u, FLUSHES },
    { { FMA, 0x1p-100f, 0x1p-40f, 0x1p-141f }, 0x00000300u, FLUSHES },
    { { DIV, 0x1p-100f, 0x1p+40f, 0 }, 0x00000200u, FLUSHES },
    { { SQRT, 0x1p-140f, 0, 0 }, 0x1c800000u, FLUSHES },
    { { FMA, 0x1.001p+0f, 0x1.001p+0f, -0x1.002p+0f }, 0x33800000u, "fmaf" }, /* and here fused is what is asked for */
};

#define ROWS ((int)SP_ARRAY_LEN(rows))
#define MORE 96
#define CANARIES (ROWS + 2 * MORE)

static __global__ void canary(uint32_t *out, const canary_case *in)
{
    for (int i = (int)threadIdx.x; i < CANARIES; i += 32) {
        float a = in[i].a, b = in[i].b, c = in[i].c, r = 0;
        switch (in[i].op) {
        case ADD_PRODUCT: r = a * b + c; break;
        case SUB_NUMBER: r = a * b - c; break;
        case SUB_PRODUCT: r = c - a * b; break;
        case MUL: r = a * b; break;
        case ADD: r = a + b; break;
        case LESS: r = a < b ? 1.0f : 0.0f; break;
        case FMA: r = sp_fma(a, b, c); break;
        case DIV: r = SP_CANARY_DIV(a, b); break;
        default: r = SP_CANARY_SQRT(a); break;
        }
        out[i] = sp_f32_bits(r);
    }
}

/* A float in [2^-8, 2^8), by turns. */
static float next_number(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    uint32_t bits = (uint32_t)(*state >> 33), exponent = 119 + (bits >> 23) % 16;
    return sp_f32_from_bits(exponent << 23 | (bits & 0x7fffffu));
}

/* The table, then quotients and roots: the host's are rounded correctly, whatever it was compiled with. */
static void prepare(canary_case *in, uint32_t *expected, const char **flags)
{
    uint64_t state = 1;
    for (int i = 0; i < ROWS; i++) {
        in[i] = rows[i].in;
        expected[i] = rows[i].expected;
        flags[i] = rows[i].flag;
    }
    for (int i = ROWS; i < CANARIES; i++) {
        bool root = i >= ROWS + MORE;
        float a = next_number(&state), b = next_number(&state);
        in[i] = { root ? SQRT : DIV, a, b, 0 };
        expected[i] = sp_f32_bits(root ? sqrtf(a) : a / b);
        flags[i] = root ? ROOTS : DIVIDES;
    }
}

extern "C" sp_status sp_cuda_canary(sp_cuda *cuda, sp_error *reterr)
{
    canary_case in[CANARIES];
    uint32_t expected[CANARIES], got[CANARIES] = { 0 };
    const char *flags[CANARIES];
    void *memory = NULL;
    prepare(in, expected, flags);
    sp_status s = sp_cuda_reserve(cuda, sizeof(in) + sizeof(got), &memory, reterr);
    if (s)
        return s;
    canary_case *numbers = static_cast<canary_case *>(memory);
    uint32_t *results = reinterpret_cast<uint32_t *>(numbers + CANARIES);
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
