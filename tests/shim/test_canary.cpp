// SPDX-License-Identifier: Apache-2.0
// The canary dies where a flag was lost. Contraction is what g++ makes of canary.cu when it is allowed to, as nvcc is without
// -fmad=false (a program of its own); flushed denormals are the processor's; quotients and roots are modelled as what a GPU
// multiplies from an approximate reciprocal, with every one that its documented error leaves open.
#include <math.h>

static float quotient(float a, float b);
static float root(float a);
#define SP_CANARY_DIV(a, b) quotient(a, b)
#define SP_CANARY_SQRT(a) root(a)
#include "kernels/cuda/canary.cu"

#include <vector>

extern "C" {
#include "test.h"
}

static const double QUOTIENT_ERROR = exp2(-22.9), ROOT_ERROR = exp2(-22.4);

static bool approximate_quotients, approximate_roots;
static bool rare_roots; // a unit that is wrong by one bit in one of twenty
static int which; // of the open ones

// All floats that are no further from `exact` than `error` of it.
static std::vector<float> open_ones(double exact, double error)
{
    std::vector<float> found;
    float first = (float)exact;
    while (fabs((double)first / exact - 1) <= error)
        first = nextafterf(first, 0);
    for (float r = nextafterf(first, INFINITY); fabs((double)r / exact - 1) <= error; r = nextafterf(r, INFINITY))
        found.push_back(r);
    return found;
}

static float one_of(double exact, double error)
{
    std::vector<float> found = open_ones(exact, error);
    return found[(size_t)which % found.size()];
}

static float quotient(float a, float b)
{
    return approximate_quotients ? a * one_of(1 / (double)b, QUOTIENT_ERROR) : a / b;
}

static float root(float a)
{
    uint32_t right = sp_f32_bits(sqrtf(a));
    if (rare_roots)
        return sp_f32_from_bits(right + (right % 20 == 7));
    return approximate_roots ? a * one_of(1 / sqrt((double)a), ROOT_ERROR) : sqrtf(a);
}

static sp_status ask(sp_error *reterr)
{
    sp_cuda cuda = {}; /* without a pool: cudaMalloc */
    (void)pthread_mutex_init(&cuda.lock, nullptr);
    *reterr = {};
    REQUIRE(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking) == cudaSuccess);
    sp_status s = sp_cuda_canary(&cuda, reterr);
    CHECK_INT(cudaStreamDestroy(cuda.stream), cudaSuccess);
    return s;
}

static void must_name(const char *flag)
{
    sp_error err;
    CHECK_INT(ask(&err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "bad_arithmetic");
    if (!strstr(err.message, flag))
        test_fail(__FILE__, __LINE__, "\"%s\" does not name %s", err.message, flag);
}

#ifdef CONTRACTED

TEST(a_contracted_product_is_named)
{
    if (!__builtin_cpu_supports("fma"))
        SKIP("this CPU has no fused multiply-add");
    must_name("were built without -fmad=false: 33800000 instead of 00000000");
}

#else

TEST(what_is_rounded_as_it_should_passes)
{
    sp_error err;
    CHECK_INT(ask(&err), SP_OK);
}

TEST(approximate_quotients_are_named)
{
    approximate_quotients = true;
    for (which = 0; which < 4; which++)
        must_name("-prec-div=true");
    approximate_quotients = false;
    int sure = 0;
    for (const canary_row &row : rows) {
        if (strcmp(row.flag, DIVIDES) != 0)
            continue;
        CHECK_INT(sp_f32_bits(row.in.a / row.in.b), row.expected);
        for (float r : open_ones(1 / (double)row.in.b, QUOTIENT_ERROR))
            CHECK(sp_f32_bits(row.in.a * r) != row.expected);
        sure++;
    }
    CHECK_INT(sure, 6);
}

TEST(approximate_roots_are_named)
{
    approximate_roots = true;
    for (which = 0; which < 4; which++)
        must_name("-prec-sqrt=true");
    approximate_roots = false;
    int sure = 0;
    for (const canary_row &row : rows) {
        if (strcmp(row.flag, ROOTS) != 0)
            continue;
        CHECK_INT(sp_f32_bits(sqrtf(row.in.a)), row.expected);
        for (float r : open_ones(1 / sqrt((double)row.in.a), ROOT_ERROR))
            CHECK(sp_f32_bits(row.in.a * r) != row.expected);
        sure++;
    }
    CHECK_INT(sure, 6);
}

TEST(roots_that_are_nearly_always_right_are_named)
{
    rare_roots = true;
    must_name("-prec-sqrt=true");
    rare_roots = false;
}

#ifdef __SSE__
#include <xmmintrin.h>

TEST(flushed_denormals_are_named)
{
    static const unsigned modes[] = { 0x8000u, 0x0040u, 0x8040u }; /* results, operands, both */
    unsigned before = _mm_getcsr();
    for (unsigned mode : modes) {
        _mm_setcsr(before | mode);
        must_name("-ftz=false");
        _mm_setcsr(before);
    }
}
#endif

#endif
