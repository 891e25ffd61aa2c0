/* SPDX-License-Identifier: Apache-2.0
 * The dense flow's less used ways: windows whose ring of sums does not fit into a block's shared memory, and a flow to begin with.
 * Not written for speed: the wide path stores a row's sums (20 B a pixel out, then in again by as many rows as the window has,
 * from L1 and L2), where flow_march.cu stores none. */
#include "kernels/cuda/flow_pixel.cuh"

#define THREADS 256

/* grid: strips of SP_CUDA_FLOW_WIDE columns less the window's apron, rows. */
static __global__ void __launch_bounds__(THREADS, 4) sum_rows(sp_cuda_flow_step step, float *sums)
{
    SP_SHARED(float, matrix); /* [channel][SP_CUDA_FLOW_WIDE] */
    const int apron = step.window.n / 2, strip = SP_CUDA_FLOW_WIDE - 2 * apron, left = (int)blockIdx.x * strip, y = (int)blockIdx.y;
    const int columns = min(strip, step.w - left);
    for (int i = (int)threadIdx.x; i < columns + 2 * apron; i += THREADS) {
        float dx, dy, m[SP_FLOW_CHANNELS];
        int x = min(max(left - apron + i, 0), step.w - 1);
        flow_before(step, x, y, &dx, &dy);
        flow_matrix_at(step, x, y, dx, dy, __ldg(step.weight_x + x), m);
#pragma unroll
        for (int c = 0; c < SP_FLOW_CHANNELS; c++)
            matrix[c * SP_CUDA_FLOW_WIDE + i] = m[c];
    }
    __syncthreads();
    for (int c = 0; c < SP_FLOW_CHANNELS; c++) {
        for (int i = (int)threadIdx.x; i < columns; i += THREADS) {
            flow_run values = { matrix + c * SP_CUDA_FLOW_WIDE + i, 1 };
            sums[((size_t)c * (size_t)step.h + (size_t)y) * (size_t)step.pitch + (size_t)(left + i)] =
                flow_window_sum(values, step.window);
        }
    }
}

/* grid: columns by THREADS, rows. */
static __global__ void __launch_bounds__(THREADS, 4) solve_columns(sp_cuda_flow_step step, const float *sums)
{
    const int x = (int)(blockIdx.x * THREADS + threadIdx.x), y = (int)blockIdx.y;
    if (x >= step.w)
        return;
    float m[SP_FLOW_CHANNELS];
    for (int c = 0; c < SP_FLOW_CHANNELS; c++) {
        flow_column values = { sums + ((size_t)c * (size_t)step.h * (size_t)step.pitch + (size_t)x), (size_t)step.pitch,
                               y - step.window.n / 2, step.h };
        m[c] = flow_window_sum(values, step.window);
    }
    size_t at = (size_t)y * step.to_stride + (size_t)x;
    sp_flow_solve(&step.to_dx[at], &step.to_dy[at], m, step.window.regular);
}

extern "C" cudaError_t sp_cuda_flow_launch_wide(const sp_cuda_flow_step *step, float *sums, cudaStream_t stream)
{
    int strip = SP_CUDA_FLOW_WIDE - step->window.n + 1;
    dim3 strips((unsigned)((step->w + strip - 1) / strip), (unsigned)step->h);
    dim3 columns((unsigned)((step->w + THREADS - 1) / THREADS), (unsigned)step->h);
    size_t shared = sizeof(float) * SP_FLOW_CHANNELS * SP_CUDA_FLOW_WIDE;
    cudaError_t error = SP_LAUNCH(sum_rows, strips, dim3(THREADS), shared, stream, *step, sums);
    return error != cudaSuccess ? error : SP_LAUNCH(solve_columns, columns, dim3(THREADS), 0, stream, *step, sums);
}

/* flow_between for axes of any number of taps: shares of the caller's pixels in one of the coarsest level. */
static __device__ __forceinline__ float share_of(const float *init, size_t stride, const sp_cuda_flow_axis &across,
                                                 const sp_cuda_flow_axis &down, int x, int y)
{
    const float *at = init + ((size_t)__ldg(down.first + y) * stride + (size_t)__ldg(across.first + x));
    const float *weight = down.weight + (size_t)y * (size_t)down.taps;
    float sum = 0.0f;
    for (int i = 0; i < across.taps; i++) {
        float mix = __ldg(weight) * __ldg(at + i);
        for (int t = 1; t < down.taps; t++)
            mix = sp_fma(__ldg(weight + t), __ldg(at + ((size_t)t * stride + (size_t)i)), mix);
        float share = __ldg(across.weight + ((size_t)i * (size_t)across.stride + (size_t)x));
        sum = i ? sp_fma(share, mix, sum) : share * mix;
    }
    return sum;
}

/* grid: columns by THREADS, rows. */
static __global__ void __launch_bounds__(THREADS, 2) begin(float *dx, float *dy, size_t stride, int w, const float *init_dx,
                                                        const float *init_dy, size_t init_stride, sp_cuda_flow_axis across,
                                                        sp_cuda_flow_axis down)
{
    const int x = (int)(blockIdx.x * THREADS + threadIdx.x), y = (int)blockIdx.y;
    if (x >= w)
        return;
    dx[(size_t)y * stride + (size_t)x] = share_of(init_dx, init_stride, across, down, x, y);
    dy[(size_t)y * stride + (size_t)x] = share_of(init_dy, init_stride, across, down, x, y);
}

extern "C" cudaError_t sp_cuda_flow_launch_begin(float *dx, float *dy, size_t stride, int w, int h, const float *init_dx,
                                                 const float *init_dy, size_t init_stride, const sp_cuda_flow_axis *across,
                                                 const sp_cuda_flow_axis *down, cudaStream_t stream)
{
    dim3 grid((unsigned)((w + THREADS - 1) / THREADS), (unsigned)h);
    return SP_LAUNCH(begin, grid, dim3(THREADS), 0, stream, dx, dy, stride, w, init_dx, init_dy, init_stride, *across, *down);
}
