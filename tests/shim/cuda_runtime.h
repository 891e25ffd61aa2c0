/* SPDX-License-Identifier: Apache-2.0
 * CUDA's C++ dialect for g++: what a kernel may use (src/kernels/cuda/launch.cuh lists it), each with CUDA's meaning. There is no
 * __shared__ here: a static array does not compile, SP_SHARED does. */
#ifndef SP_SHIM_CUDA_RUNTIME_H
#define SP_SHIM_CUDA_RUNTIME_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

/* --- vectors --- */

#define SP_SHIM_VECTORS(type, name, align2, align4)                                            \
    struct name##1 { type x; };                                                                \
    struct __align__(align2) name##2 { type x, y; };                                           \
    struct name##3 { type x, y, z; };                                                          \
    struct __align__(align4) name##4 { type x, y, z, w; };                                     \
    static inline name##1 make_##name##1(type x) { return name##1{ x }; }                      \
    static inline name##2 make_##name##2(type x, type y) { return name##2{ x, y }; }           \
    static inline name##3 make_##name##3(type x, type y, type z) { return name##3{ x, y, z }; } \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return name##4{ x, y, z, w }; }
SP_SHIM_VECTORS(signed char, char, 2, 4)
SP_SHIM_VECTORS(unsigned char, uchar, 2, 4)
SP_SHIM_VECTORS(short, short, 4, 8)
SP_SHIM_VECTORS(unsigned short, ushort, 4, 8)
SP_SHIM_VECTORS(int, int, 8, 16)
SP_SHIM_VECTORS(unsigned, uint, 8, 16)
SP_SHIM_VECTORS(long long, longlong, 16, 16)
SP_SHIM_VECTORS(unsigned long long, ulonglong, 16, 16)
SP_SHIM_VECTORS(float, float, 8, 16)
SP_SHIM_VECTORS(double, double, 16, 16)
#undef SP_SHIM_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* --- where a thread is --- Set before it goes on. Only one host thread at a time runs kernels. */

extern uint3 sp_shim_thread_idx, sp_shim_block_idx;
extern dim3 sp_shim_block_dim, sp_shim_grid_dim;
#define threadIdx sp_shim_thread_idx
#define blockIdx sp_shim_block_idx
#define blockDim sp_shim_block_dim
#define gridDim sp_shim_grid_dim
static const int warpSize = 32;

/* --- barriers, warps (fibres.cpp) --- */

enum sp_shim_warp_op { SP_SHIM_SYNCWARP, SP_SHIM_SHUFFLE, SP_SHIM_BALLOT };

void *sp_shim_shared();
void sp_shim_barrier();
/* Puts the lane's value down and waits for the other 31; the 32 values stand until the lane's next such call. */
const uint64_t *sp_shim_exchange(sp_shim_warp_op op, unsigned mask, uint64_t value);
int sp_shim_lane();
int sp_shim_count(bool predicate); /* barrier; of all threads */

/* SPILLWAY_SHIM_SKIP: that one is left out (barriers.py). */
extern unsigned sp_shim_skip_line; /* 0: none */
bool sp_shim_skips(const char *file);

static inline void sp_shim_barrier_at(const char *file, unsigned line)
{
    if (line != sp_shim_skip_line || !sp_shim_skips(file))
        sp_shim_barrier();
}
static inline void sp_shim_syncwarp_at(const char *file, unsigned line, unsigned mask = 0xffffffffu)
{
    if (line != sp_shim_skip_line || !sp_shim_skips(file))
        (void)sp_shim_exchange(SP_SHIM_SYNCWARP, mask, 0);
}
#define __syncthreads() sp_shim_barrier_at(__FILE__, __LINE__)
#define __syncwarp(...) sp_shim_syncwarp_at(__FILE__, __LINE__, ##__VA_ARGS__)
static inline int __syncthreads_count(int predicate) { return sp_shim_count(predicate != 0); }
static inline int __syncthreads_or(int predicate) { return sp_shim_count(predicate != 0) > 0; }
static inline int __syncthreads_and(int predicate) { return sp_shim_count(predicate == 0) == 0; }
static inline void __threadfence() { }
static inline void __threadfence_block() { }
static inline void __threadfence_system() { }

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    const uint64_t *values = sp_shim_exchange(SP_SHIM_BALLOT, mask, predicate != 0);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= (unsigned)values[i] << i;
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

template <typename T> static inline T sp_shim_shuffle(unsigned mask, T value, int from)
{
    static_assert(std::is_arithmetic<T>::value && sizeof(T) <= 8, "shuffles take numbers");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    const uint64_t *values = sp_shim_exchange(SP_SHIM_SHUFFLE, mask, bits);
    memcpy(&value, &values[from & 31], sizeof(T));
    return value;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
    return sp_shim_shuffle(mask, value, (sp_shim_lane() & ~(width - 1)) | (from & (width - 1)));
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = sp_shim_lane(), from = lane - (int)delta;
    return sp_shim_shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = sp_shim_lane(), from = lane + (int)delta;
    return sp_shim_shuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    int lane = sp_shim_lane(), from = lane ^ lanes;
    return sp_shim_shuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}

/* --- bits --- */

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (x >> i & 1u) << (31 - i);
    return r;
}
static inline unsigned long long __brevll(unsigned long long x)
{
    return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = selector >> (4 * i) & 15u, byte = (unsigned)(both >> (8 * (pick & 7u))) & 255u;
        if (pick & 8u) /* the byte's sign, eight times */
            byte = byte & 128u ? 255u : 0u;
        r |= byte << (8 * i);
    }
    return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31u) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31u));
}
static inline unsigned __vmaxu4(unsigned a, unsigned b)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i += 8)
        r |= ((a >> i & 255u) > (b >> i & 255u) ? a >> i & 255u : b >> i & 255u) << i;
    return r;
}
static inline unsigned __vminu4(unsigned a, unsigned b) { return ~__vmaxu4(~a, ~b); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
template <typename To, typename From> static inline To sp_shim_bits(From from)
{
    To to;
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    memcpy(&to, &from, sizeof(to));
    return to;
}
static inline int __float_as_int(float x) { return sp_shim_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return sp_shim_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return sp_shim_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return sp_shim_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return sp_shim_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return sp_shim_bits<double>(x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long min(long a, long b) { return a < b ? a : b; }
static inline long max(long a, long b) { return a > b ? a : b; }
static inline unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
static inline unsigned long max(unsigned long a, unsigned long b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
static inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

/* --- memory --- */

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldca(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldcv(const T *p) { return *(const volatile T *)p; }
template <typename T> static inline void __stcg(T *p, T value) { *p = value; }
template <typename T> static inline void __stcs(T *p, T value) { *p = value; }
template <typename T> static inline void __stwb(T *p, T value) { *p = value; }
template <typename T> static inline void __stwt(T *p, T value) { *p = value; }

/* Only integers: a float's sum would depend on the order. */
#define SP_SHIM_ATOMIC(name, type, expression)                  \
    static inline type name(type *p, type value)                \
    {                                                           \
        type old = *p;                                          \
        *p = (expression);                                      \
        return old;                                             \
    }
#define SP_SHIM_ATOMICS(type)                                      \
    SP_SHIM_ATOMIC(atomicExch, type, value)                        \
    SP_SHIM_ATOMIC(atomicMin, type, value < old ? value : old)     \
    SP_SHIM_ATOMIC(atomicMax, type, value > old ? value : old)     \
    SP_SHIM_ATOMIC(atomicAnd, type, old & value)                   \
    SP_SHIM_ATOMIC(atomicOr, type, old | value)                    \
    SP_SHIM_ATOMIC(atomicXor, type, old ^ value)                   \
    static inline type atomicCAS(type *p, type compare, type value) \
    {                                                              \
        type old = *p;                                             \
        if (old == compare)                                        \
            *p = value;                                            \
        return old;                                                \
    }
SP_SHIM_ATOMICS(int)
SP_SHIM_ATOMICS(unsigned)
SP_SHIM_ATOMICS(unsigned long long)
SP_SHIM_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
SP_SHIM_ATOMIC(atomicAdd, unsigned, old + value)
SP_SHIM_ATOMIC(atomicAdd, unsigned long long, old + value)
SP_SHIM_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
SP_SHIM_ATOMIC(atomicSub, unsigned, old - value)
SP_SHIM_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
SP_SHIM_ATOMIC(atomicDec, unsigned, old == 0u || old > value ? value : old - 1u)
static inline long long atomicMin(long long *p, long long value)
{
    long long old = *p;
    *p = value < old ? value : old;
    return old;
}
static inline long long atomicMax(long long *p, long long value)
{
    long long old = *p;
    *p = value > old ? value : old;
    return old;
}
float atomicAdd(float *p, float value) = delete;
double atomicAdd(double *p, double value) = delete;
#undef SP_SHIM_ATOMICS
#undef SP_SHIM_ATOMIC

/* --- launches (runtime.cpp) --- */

cudaError_t sp_shim_launch_closure(const char *name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                                   std::function<void()> thread);

/* Arguments are converted to the parameters' types and copied now, as a real launch does. */
template <typename... Parameters, typename... Arguments>
static inline cudaError_t sp_shim_launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                                         cudaStream_t stream, Arguments &&...arguments)
{
    static_assert(sizeof...(Parameters) == sizeof...(Arguments), "as many arguments as the kernel has parameters");
    std::tuple<typename std::decay<Parameters>::type...> values{ static_cast<Parameters>(arguments)... };
    return sp_shim_launch_closure(name, grid, block, shared_bytes, stream,
                                  [kernel, values]() { std::apply(kernel, values); });
}

#endif
