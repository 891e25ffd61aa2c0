/* SPDX-License-Identifier: Apache-2.0
 * What the kernels of an iteration share: one pixel's matrix, and sums over a window in the order that flow_c.c gives them. */
#ifndef SP_KERNELS_CUDA_FLOW_PIXEL_CUH
#define SP_KERNELS_CUDA_FLOW_PIXEL_CUH

#include "kernels/cuda/launch.cuh"

#include "kernels/cuda/flow_parts.h"

/* The coarser level's flow between its pixels: down first, then across, as begin_row in flow_run.c. One or two taps each. */
static __device__ __forceinline__ float flow_between_down(const float *at, size_t stride, const float *weight, int taps)
{
    float mix = __ldg(weight) * __ldg(at);
    return taps > 1 ? sp_fma(__ldg(weight + 1), __ldg(at + stride), mix) : mix;
}

static __device__ __forceinline__ float flow_between(const float *from, size_t stride, const sp_cuda_flow_axis &across,
                                                     const sp_cuda_flow_axis &down, int x, int y)
{
    const float *at = from + ((size_t)__ldg(down.first + y) * stride + (size_t)__ldg(across.first + x));
    const float *weight = down.weight + y * down.taps, *share = across.weight + x;
    float sum = __ldg(share) * flow_between_down(at, stride, weight, down.taps);
    return across.taps > 1 ? sp_fma(__ldg(share + across.stride), flow_between_down(at + 1, stride, weight, down.taps), sum) : sum;
}

static __device__ __forceinline__ void flow_before(const sp_cuda_flow_step &step, int x, int y, float *dx, float *dy)
{
    if (step.kind == SP_CUDA_FLOW_FIELD) {
        size_t at = (size_t)y * step.from_stride + (size_t)x;
        *dx = __ldg(step.from_dx + at);
        *dy = __ldg(step.from_dy + at);
    } else if (step.kind == SP_CUDA_FLOW_COARSER) {
        *dx = flow_between(step.from_dx, step.from_stride, step.across, step.down, x, y);
        *dy = flow_between(step.from_dy, step.from_stride, step.across, step.down, x, y);
    } else {
        *dx = 0.0f;
        *dy = 0.0f;
    }
}

/* Where the flow points outside, the loads go to the first pixel and are not used: no branch holds up the others'. Pixels are
 * counted in 32 bits (there are 2^28 at most), so that each address is one multiplication. */
static __device__ __forceinline__ void flow_matrix_at(const sp_cuda_flow_step &step, int x, int y, float dx, float dy, float weight_x,
                                                      float m[SP_FLOW_CHANNELS])
{
    const float4 *a_heads = static_cast<const float4 *>(step.a_heads), *b_heads = static_cast<const float4 *>(step.b_heads);
    sp_flow_spot spot = sp_flow_find(x, y, dx, dy, step.w, step.h);
    const int here = y * step.pitch + x, there = spot.y * step.pitch + spot.x;
    const int right = there + (step.w > 1 ? 1 : 0), below = there + (step.h > 1 ? step.pitch : 0), last = right + below - there;
    float4 ha = __ldg(a_heads + here);
    float4 h00 = __ldg(b_heads + there), h01 = __ldg(b_heads + right), h10 = __ldg(b_heads + below), h11 = __ldg(b_heads + last);
    float m00 = __ldg(step.b_mixed + there), m01 = __ldg(step.b_mixed + right);
    float m10 = __ldg(step.b_mixed + below), m11 = __ldg(step.b_mixed + last);
    const float a[SP_FLOW_CHANNELS] = { ha.x, ha.y, ha.z, ha.w, __ldg(step.a_mixed + here) };
    float b[SP_FLOW_CHANNELS];
    b[0] = spot.inside ? sp_flow_blend(&spot, h00.x, h01.x, h10.x, h11.x) : 0.0f;
    b[1] = spot.inside ? sp_flow_blend(&spot, h00.y, h01.y, h10.y, h11.y) : 0.0f;
    b[2] = spot.inside ? sp_flow_blend(&spot, h00.z, h01.z, h10.z, h11.z) : a[2];
    b[3] = spot.inside ? sp_flow_blend(&spot, h00.w, h01.w, h10.w, h11.w) : a[3];
    b[4] = spot.inside ? sp_flow_blend(&spot, m00, m01, m10, m11) : a[4];
    sp_flow_matrix(m, a, b, dx, dy, weight_x * __ldg(step.weight_y + y));
}

/* --- windows --- A box's sum is a tree by the binary digits of its side: 15 = ((S8 + S4) + S2) + x. */

/* Four neighbouring boxes of 15 share their branches. */
static __device__ __forceinline__ void flow_box15_four(const float v[18], float sum[4])
{
    float two[16], four[12];
#pragma unroll
    for (int i = 0; i < 16; i++)
        two[i] = v[i] + v[i + 1];
#pragma unroll
    for (int i = 0; i < 12; i++)
        four[i] = two[i] + two[i + 2];
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum[i] = (((four[i] + four[i + 4]) + four[i + 8]) + two[i + 12]) + v[i + 14];
}

/* Values in a row of memory, or in a ring of such rows that begins anywhere. */
struct flow_run {
    const float *at;
    size_t step;
    __device__ __forceinline__ float operator()(int i) const { return at[(size_t)i * step]; }
};

struct flow_ring {
    const float *at;
    int step, first, rows;
    __device__ __forceinline__ float operator()(int i) const
    {
        int row = first + i; /* below 2 * rows */
        return at[(row < rows ? row : row - rows) * step];
    }
};

/* Rows of a plane; beyond its ends the last ones are repeated. */
struct flow_column {
    const float *at;
    size_t step;
    int first, h;
    __device__ __forceinline__ float operator()(int i) const { return __ldg(at + (size_t)min(max(first + i, 0), h - 1) * step); }
};

/* The sum of k = 2^i values as pairs of pairs. Eights are spelled out; of more, half-done sums wait in one place for each
 * power of two, as in a binary counter. */
template <typename Values> static __device__ __forceinline__ float flow_sum_pairs(const Values &v, int first, int k)
{
    if (k == 1)
        return v(first);
    if (k == 2)
        return v(first) + v(first + 1);
    if (k == 4)
        return (v(first) + v(first + 1)) + (v(first + 2) + v(first + 3));
    float waiting[4] = { 0.0f, 0.0f, 0.0f, 0.0f }, sum = 0.0f;
#pragma unroll 1
    for (int eights = 0; eights < k / 8; eights++) {
        int i = first + 8 * eights;
        sum = ((v(i) + v(i + 1)) + (v(i + 2) + v(i + 3))) + ((v(i + 4) + v(i + 5)) + (v(i + 6) + v(i + 7)));
        bool carry = true;
#pragma unroll
        for (int p = 0; p < 4; p++) {
            bool both = carry && (eights >> p & 1) != 0;
            if (carry && !both)
                waiting[p] = sum;
            if (both)
                sum = waiting[p] + sum;
            carry = both;
        }
    }
    return sum;
}

template <typename Values> static __device__ __forceinline__ float flow_window_sum(const Values &v, const sp_flow_window &window)
{
    int n = window.n, middle = n / 2;
    if (window.gaussian) {
        float sum = window.weight[0] * v(middle);
        for (int i = 1; i <= middle; i++)
            sum = sp_fma(window.weight[i], v(middle - i) + v(middle + i), sum);
        return sum;
    }
    int k = 1;
    while (2 * k <= n)
        k *= 2;
    float sum = flow_sum_pairs(v, 0, k);
#pragma unroll 1
    for (int done = k; done < n; done += k) {
        while (done + k > n)
            k /= 2;
        sum = sum + flow_sum_pairs(v, done, k);
    }
    return sum;
}

#endif
