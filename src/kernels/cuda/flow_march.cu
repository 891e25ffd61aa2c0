/* SPDX-License-Identifier: Apache-2.0
 * One iteration of the dense flow on one level, in one kernel: matrices, their sums over the window, the flow they ask for.
 * The twin of update_row, flow_window and flow_solve of flow_run.c. Neither a matrix nor a sum reaches device memory.
 *
 *     block = a strip of columns and a band of rows; it marches down, eight rows at a time
 *
 *        |<- apron ->|<-- outputs -->|<- apron ->|
 *     A  matrices of 8 rows, 2 * threads a row          -> shared, [5][8][columns]
 *     B  each summed across                              -> shared, a ring of n - 1 + 8 rows of sums
 *     C  8 rows of the ring's columns summed down, solved -> device, 8 rows of flow (4 for each half of the threads)
 *
 * A box of 15 takes the sums of four neighbours at once, so that they share their branches (11 additions each instead of 14, and
 * five 16-byte loads instead of 60); other windows go value by value.
 *
 * Bytes an iteration moves at the least: both expansions 20 B a pixel each (the second's four neighbours are the first's
 * neighbours' too, so they come from L1 and L2), the flow 8 in and 8 out = 56 B. Levels 1, 1/4, 1/16, 1/64 of 1920 x 1080 with
 * three iterations: 2.75 Mpx * 56 B * 3 = 463 MB, 0.14 ms at 3.35 TB/s. A block's apron makes each matrix about 1.4 times
 * (113 + 14 columns, 50 + 14 rows), most of it from L2. Instructions: about 330 a pixel, 0.1 ms if every scheduler issued in
 * every cycle; so latency and issue bound it as much as memory does: blocks of 8 warps, three on a multiprocessor. */
#include "kernels/cuda/flow_pixel.cuh"

#define ROWS SP_CUDA_FLOW_ROWS
#define BOX 15

/* Rows that one half of the threads makes, and solves. */
#define HALF (ROWS / 2)

template <int COLUMNS>
static __device__ __forceinline__ void make_matrices(float *matrix, const sp_cuda_flow_step &step, int x, int y, float weight_x, int rows,
                                                     bool wanted)
{
    const int column = (int)threadIdx.x % COLUMNS, half = (int)threadIdx.x / COLUMNS;
    float dx[HALF], dy[HALF];
#pragma unroll
    for (int i = 0; i < HALF; i++) { /* all on their way before the first is needed */
        int at = min(max(y + half + 2 * i, 0), step.h - 1);
        flow_before(step, x, at, &dx[i], &dy[i]);
    }
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        int row = half + 2 * i;
        if (!wanted || row >= rows)
            continue;
        float m[SP_FLOW_CHANNELS];
        flow_matrix_at(step, x, min(max(y + row, 0), step.h - 1), dx[i], dy[i], weight_x, m);
#pragma unroll
        for (int c = 0; c < SP_FLOW_CHANNELS; c++)
            matrix[(c * ROWS + row) * COLUMNS + column] = m[c];
    }
}

/* Fours of outputs: a quarter of the columns' threads for each of the rows of each channel. The last four may reach beyond the
 * strip: what is read and written there is used by nobody. */
template <int COLUMNS>
static __device__ __forceinline__ void sum_across_box15(float *ring, const float *matrix, int slot, int ring_rows, int pitch, int columns)
{
    const int lane = (int)threadIdx.x % (COLUMNS / 4);
    for (int unit = (int)threadIdx.x / (COLUMNS / 4); unit < ROWS * SP_FLOW_CHANNELS; unit += ROWS) {
        int channel = unit / ROWS, row = unit % ROWS, to = slot + row < ring_rows ? slot + row : slot + row - ring_rows;
        if (4 * lane >= columns)
            continue;
        const float4 *from = reinterpret_cast<const float4 *>(matrix + unit * COLUMNS) + lane;
        float v[20], sum[4];
#pragma unroll
        for (int i = 0; i < 5; i++) {
            float4 four = from[i];
            v[4 * i] = four.x;
            v[4 * i + 1] = four.y;
            v[4 * i + 2] = four.z;
            v[4 * i + 3] = four.w;
        }
        flow_box15_four(v, sum);
        reinterpret_cast<float4 *>(ring + (channel * ring_rows + to) * pitch)[lane] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
}

template <int COLUMNS>
static __device__ __forceinline__ void sum_across(float *ring, const float *matrix, int slot, int ring_rows, int pitch, int columns,
                                                  const sp_flow_window &window)
{
    const int column = (int)threadIdx.x % COLUMNS;
#pragma unroll 1
    for (int unit = (int)threadIdx.x / COLUMNS; unit < ROWS * SP_FLOW_CHANNELS; unit += 2) {
        int channel = unit / ROWS, row = unit % ROWS, to = slot + row < ring_rows ? slot + row : slot + row - ring_rows;
        if (column >= columns)
            continue;
        flow_run values = { matrix + unit * COLUMNS + column, 1 };
        ring[(channel * ring_rows + to) * pitch + column] = flow_window_sum(values, window);
    }
}

/* Four rows' sums at one column, the first one's window beginning in `slot`. */
static __device__ __forceinline__ void sum_down_box15(float sum[SP_FLOW_CHANNELS][HALF], const float *ring, int slot, int ring_rows,
                                                      int pitch, int column)
{
    int offset[BOX - 1 + HALF];
#pragma unroll
    for (int i = 0; i < BOX - 1 + HALF; i++) {
        offset[i] = slot * pitch + column;
        slot = slot + 1 < ring_rows ? slot + 1 : 0;
    }
#pragma unroll
    for (int c = 0; c < SP_FLOW_CHANNELS; c++) {
        float v[BOX - 1 + HALF];
#pragma unroll
        for (int i = 0; i < BOX - 1 + HALF; i++)
            v[i] = ring[c * ring_rows * pitch + offset[i]];
        flow_box15_four(v, sum[c]);
    }
}

static __device__ __forceinline__ void solve(const sp_cuda_flow_step &step, int x, int y, const float m[SP_FLOW_CHANNELS])
{
    float dx, dy;
    sp_flow_solve(&dx, &dy, m, step.window.regular);
    size_t at = (size_t)y * step.to_stride + (size_t)x;
    step.to_dx[at] = dx;
    step.to_dy[at] = dy;
}

/* grid: strips, bands. */
template <int COLUMNS, bool BOX15>
static __global__ void __launch_bounds__(2 * COLUMNS, COLUMNS == 128 ? 3 : 6) march(sp_cuda_flow_step step, sp_cuda_flow_cut cut)
{
    SP_SHARED(float, matrix);
    const int n = BOX15 ? BOX : step.window.n, apron = n / 2;
    const int ring_rows = BOX15 ? BOX - 1 + ROWS : n - 1 + ROWS;
    const int pitch = sp_cuda_flow_ring_pitch(n, COLUMNS);
    float *ring = matrix + (SP_FLOW_CHANNELS * ROWS * COLUMNS + 4);

    const int column = (int)threadIdx.x % COLUMNS, half = (int)threadIdx.x / COLUMNS;
    const int left = (int)blockIdx.x * cut.strip, top = (int)blockIdx.y * cut.band;
    const int columns = min(cut.strip, step.w - left), outputs = min(cut.band, step.h - top), rows = outputs + n - 1;
    const int x = min(max(left - apron + column, 0), step.w - 1);
    const float weight_x = __ldg(step.weight_x + x);
    const bool wanted = column < columns + n - 1, solves = column < columns;

    int slot = 0;
    for (int done = 0; done < rows; done += ROWS) {
        make_matrices<COLUMNS>(matrix, step, x, top - apron + done, weight_x, rows - done, wanted);
        __syncthreads();
        if constexpr (BOX15)
            sum_across_box15<COLUMNS>(ring, matrix, slot, ring_rows, pitch, columns);
        else
            sum_across<COLUMNS>(ring, matrix, slot, ring_rows, pitch, columns, step.window);
        slot = slot + ROWS < ring_rows ? slot + ROWS : slot + ROWS - ring_rows;
        __syncthreads(); /* the next matrices may come, and after the next barrier the next sums: these are used until then */

        int first = done + ROWS - (n - 1 + ROWS) + HALF * half; /* output that the ring's oldest row begins, of this half */
        if (!solves || first + HALF <= 0 || first >= outputs)
            continue;
        const int from = slot + HALF * half < ring_rows ? slot + HALF * half : slot + HALF * half - ring_rows;
        if constexpr (BOX15) {
            float sum[SP_FLOW_CHANNELS][HALF];
            sum_down_box15(sum, ring, from, ring_rows, pitch, column);
#pragma unroll
            for (int i = 0; i < HALF; i++) {
                const float m[SP_FLOW_CHANNELS] = { sum[0][i], sum[1][i], sum[2][i], sum[3][i], sum[4][i] };
                if (first + i >= 0 && first + i < outputs)
                    solve(step, left + column, top + first + i, m);
            }
        } else {
#pragma unroll 1
            for (int i = max(-first, 0); i < min(HALF, outputs - first); i++) {
                float m[SP_FLOW_CHANNELS];
#pragma unroll
                for (int c = 0; c < SP_FLOW_CHANNELS; c++) {
                    flow_ring values = { ring + (c * ring_rows * pitch + column), pitch, from + i, ring_rows };
                    m[c] = flow_window_sum(values, step.window);
                }
                solve(step, left + column, top + first + i, m);
            }
        }
    }
}

extern "C" cudaError_t sp_cuda_flow_launch_march(const sp_cuda_flow_step *step, const sp_cuda_flow_cut *cut, cudaStream_t stream)
{
    dim3 grid((unsigned)((step->w + cut->strip - 1) / cut->strip), (unsigned)((step->h + cut->band - 1) / cut->band));
    size_t shared = sp_cuda_flow_shared_bytes(&step->window, cut->columns);
    bool box15 = sp_cuda_flow_is_box15(&step->window);
    if (cut->columns == 128)
        return box15 ? SP_LAUNCH((march<128, true>), grid, dim3(256), shared, stream, *step, *cut)
                     : SP_LAUNCH((march<128, false>), grid, dim3(256), shared, stream, *step, *cut);
    return box15 ? SP_LAUNCH((march<64, true>), grid, dim3(128), shared, stream, *step, *cut)
                 : SP_LAUNCH((march<64, false>), grid, dim3(128), shared, stream, *step, *cut);
}
