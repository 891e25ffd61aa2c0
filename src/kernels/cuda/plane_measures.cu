/* SPDX-License-Identifier: Apache-2.0
 * Measures: sums of whole numbers over a plane or a flow. Each thread adds up to 64 pixels in registers, a warp its lanes, a block its
 * warps (histogram: one per warp in shared memory), then atomics; the order cannot be seen. One launch each, after a fill of the
 * result with zeros; the histogram, the sums and the Laplacian are one pass.
 *
 * Bound by memory: one byte a pixel (two for a difference; eight read and one written for flow): 2, 4 and 19 MB at 1080p: 0.6, 1.2 and
 * 5.6 us at 3.35 TB/s. A plane of one grey level makes the histogram's atomics wait for each other. */
#include "kernels/cuda/plane.cuh"

#define ROWS 16 /* that a thread goes down */

typedef unsigned long long wide;

/* Adds a number of each thread to *to, by way of `room`: SP_PLANE_WARPS of them. All threads. */
__device__ static inline void add_of_block(wide *to, wide v, wide *room)
{
    v = sp_warp_sum64(v);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        wide sum = 0;
        for (int i = 0; i < SP_PLANE_WARPS; i++)
            sum += room[i];
        if (sum)
            atomicAdd(to, sum);
    }
    __syncthreads();
}

/* --- a plane --- */

typedef struct plane_room {
    uint32_t histogram[SP_PLANE_WARPS][256];
    wide sums[SP_PLANE_WARPS];
} plane_room;

/* Pixel x of three rows; x may lie one outside. */
typedef struct three_rows {
    const uint8_t *above, *here, *below;
} three_rows;

__device__ static inline three_rows rows_at(sp_plane p, int y)
{
    three_rows rows = { p.data + (size_t)sp_reflect(y - 1, p.h) * p.stride_bytes, p.data + (size_t)y * p.stride_bytes,
                        p.data + (size_t)sp_reflect(y + 1, p.h) * p.stride_bytes };
    return rows;
}

__global__ void plane_measure_kernel(sp_plane src, sp_plane_measure *measure, bool words)
{
    SP_SHARED(plane_room, room);
    int x = 4 * (int)(blockIdx.x * 32 + threadIdx.x % 32), warp = (int)threadIdx.x / 32, count = SP_MIN(4, src.w - x);
    uint32_t sum = 0, squares = 0;
    int laplace = 0;
    wide laplace_squares = 0;
    for (int i = (int)threadIdx.x; i < SP_PLANE_WARPS * 256; i += SP_PLANE_THREADS)
        room->histogram[i / 256][i % 256] = 0;
    __syncthreads();
    int y0 = (int)(blockIdx.y * SP_PLANE_WARPS + threadIdx.x / 32) * ROWS;
    for (int y = y0; y < src.h && y < y0 + ROWS && count > 0; y++) {
        three_rows r = rows_at(src, y);
        uint32_t above = sp_load4(r.above, x, src.w, words, 0), here = sp_load4(r.here, x, src.w, words, 0);
        uint32_t below = sp_load4(r.below, x, src.w, words, 0);
        int left = r.here[sp_reflect(x - 1, src.w)], last = r.here[sp_reflect(x + count, src.w)];
        for (int i = 0; i < count; i++) {
            int v = sp_byte_of(here, i), right = i + 1 < count ? sp_byte_of(here, (i + 1) & 3) : last;
            int curve = sp_byte_of(above, i) + sp_byte_of(below, i) + left + right - 4 * v;
            atomicAdd(&room->histogram[warp][v], 1u);
            sum += (uint32_t)v;
            squares += (uint32_t)(v * v);
            laplace += curve;
            laplace_squares += (uint32_t)(curve * curve);
            left = v;
        }
    }
    add_of_block(reinterpret_cast<wide *>(&measure->sum), sum, room->sums); /* its barriers also end the histograms */
    add_of_block(reinterpret_cast<wide *>(&measure->sum_squares), squares, room->sums);
    add_of_block(reinterpret_cast<wide *>(&measure->laplace_sum), (wide)(long long)laplace, room->sums);
    add_of_block(reinterpret_cast<wide *>(&measure->laplace_squares), laplace_squares, room->sums);
    for (int v = (int)threadIdx.x; v < 256; v += SP_PLANE_THREADS) {
        uint32_t all = 0;
        for (int i = 0; i < SP_PLANE_WARPS; i++)
            all += room->histogram[i][v];
        if (all)
            atomicAdd(&measure->histogram[v], all);
    }
}

static dim3 grid_of(int w, int h)
{
    return dim3(sp_blocks(w, 128), sp_blocks(h, SP_PLANE_WARPS * ROWS));
}

sp_status sp_cuda_measure_plane(sp_cuda_stream *stream, sp_plane src, sp_plane_measure *ret_measure, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    SP_PLANE_TRY(cudaMemsetAsync(ret_measure, 0, sizeof(*ret_measure), stream->stream), "measure of a plane");
    SP_PLANE_TRY(SP_LAUNCH(plane_measure_kernel, grid_of(src.w, src.h), SP_PLANE_THREADS, sizeof(plane_room), stream->stream, src,
                           ret_measure, sp_plane_words_ok(src)),
                 "plane_measure");
    return SP_OK;
}

/* --- two planes, and one --- */

template <bool DIFFERENCE> __global__ void plane_sum_kernel(sp_plane a, sp_plane b, wide *ret_sum, bool words)
{
    SP_SHARED(wide, room);
    int x = 4 * (int)(blockIdx.x * 32 + threadIdx.x % 32), y0 = (int)(blockIdx.y * SP_PLANE_WARPS + threadIdx.x / 32) * ROWS;
    uint32_t sum = 0;
    for (int y = y0; y < a.h && y < y0 + ROWS && x < a.w; y++) {
        uint32_t one = sp_load4(a.data + (size_t)y * a.stride_bytes, x, a.w, words, 0), two = 0;
        if (DIFFERENCE)
            two = sp_load4(b.data + (size_t)y * b.stride_bytes, x, a.w, words, 0);
        for (int i = 0; i < 4; i++) {
            int v = sp_byte_of(one, i) - sp_byte_of(two, i);
            sum += DIFFERENCE ? (uint32_t)(v < 0 ? -v : v) : v != 0;
        }
    }
    add_of_block(ret_sum, sum, room);
}

template <bool DIFFERENCE> static sp_status sum_of(sp_cuda_stream *stream, sp_plane a, sp_plane b, uint64_t *ret_sum, sp_error *reterr)
{
    bool words = sp_plane_words_ok(a) && sp_plane_words_ok(b);
    SP_PLANE_TRY(cudaMemsetAsync(ret_sum, 0, sizeof(*ret_sum), stream->stream), "sum of a plane");
    SP_PLANE_TRY(SP_LAUNCH((plane_sum_kernel<DIFFERENCE>), grid_of(a.w, a.h), SP_PLANE_THREADS, SP_PLANE_WARPS * sizeof(wide),
                           stream->stream, a, b, reinterpret_cast<wide *>(ret_sum), words),
                 "plane_sum");
    return SP_OK;
}

sp_status sp_cuda_measure_difference(sp_cuda_stream *stream, sp_plane a, sp_plane b, uint64_t *ret_sum, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return sum_of<true>(stream, a, b, ret_sum, reterr);
}

sp_status sp_cuda_measure_nonzero(sp_cuda_stream *stream, sp_plane src, uint64_t *ret_count, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return sum_of<false>(stream, src, src, ret_count, reterr);
}

/* --- a flow --- */

typedef struct flow_sums {
    int dx, dy;                        /* 64 vectors of 2^24 at most */
    uint32_t magnitude, most, moving;
    wide squares;
    uint32_t direction[8];
} flow_sums;

__device__ static inline bool add_vector(flow_sums *s, float dx, float dy, uint32_t threshold)
{
    uint32_t m = (uint32_t)sp_flow_quantise(sp_flow_magnitude(dx, dy));
    wide coarse = m >> 4;
    s->dx += sp_flow_quantise(dx);
    s->dy += sp_flow_quantise(dy);
    s->magnitude += m;
    s->squares += coarse * coarse;
    s->most = m > s->most ? m : s->most;
    if (m <= threshold)
        return false;
    int octant = sp_flow_octant(dx, dy);
    s->moving++;
    for (int i = 0; i < 8; i++) /* registers have no index */
        s->direction[i] += i == octant ? m : 0;
    return true;
}

__global__ void plane_flow_kernel(const float *dx, const float *dy, size_t stride, int w, int h, uint32_t threshold, sp_plane mask,
                                  sp_flow_measure *measure)
{
    SP_SHARED(wide, room);
    flow_sums s = { 0, 0, 0, 0, 0, 0, { 0, 0, 0, 0, 0, 0, 0, 0 } };
    int x0 = (int)blockIdx.x * 128 + (int)threadIdx.x % 32, y0 = (int)(blockIdx.y * SP_PLANE_WARPS + threadIdx.x / 32) * ROWS;
    for (int y = y0; y < h && y < y0 + ROWS; y++) {
        for (int x = x0; x < w && x < x0 + 128; x += 32) {
            size_t at = (size_t)y * stride + (size_t)x;
            bool moves = add_vector(&s, dx[at], dy[at], threshold);
            if (mask.data)
                mask.data[(size_t)y * mask.stride_bytes + x] = moves ? 255 : 0;
        }
    }
    add_of_block(reinterpret_cast<wide *>(&measure->sum_dx), (wide)(long long)s.dx, room);
    add_of_block(reinterpret_cast<wide *>(&measure->sum_dy), (wide)(long long)s.dy, room);
    add_of_block(reinterpret_cast<wide *>(&measure->sum_magnitude), s.magnitude, room);
    add_of_block(reinterpret_cast<wide *>(&measure->sum_squares), s.squares, room);
    for (int i = 0; i < 8; i++)
        add_of_block(reinterpret_cast<wide *>(&measure->direction[i]), s.direction[i], room);
    uint32_t moving = sp_warp_sum(s.moving), most = sp_warp_max(s.most);
    if (threadIdx.x % 32 == 0) {
        if (moving)
            atomicAdd(&measure->moving, moving);
        if (most)
            atomicMax(&measure->max_magnitude, most);
    }
}

sp_status sp_cuda_measure_flow(sp_cuda_stream *stream, const float *dx, const float *dy, size_t stride_floats, int w, int h,
                               uint32_t threshold_1024, sp_plane mask, sp_flow_measure *ret_measure, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    SP_PLANE_TRY(cudaMemsetAsync(ret_measure, 0, sizeof(*ret_measure), stream->stream), "measure of a flow");
    SP_PLANE_TRY(SP_LAUNCH(plane_flow_kernel, grid_of(w, h), SP_PLANE_THREADS, SP_PLANE_WARPS * sizeof(wide), stream->stream, dx, dy,
                           stride_floats, w, h, threshold_1024, mask, ret_measure),
                 "plane_flow");
    return SP_OK;
}
