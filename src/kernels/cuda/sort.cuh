/* SPDX-License-Identifier: Apache-2.0
 * Sorting 64-bit keys that are all different, in two launches and without counting anything on the host: tiles of 2,048 keys
 * are sorted by one block each (bitonic, in shared memory); then each key looks for its place in all tiles at once.
 *
 *     tile 0: [a a a a a . . .]  tile 1: [b b b . . . . .]      place of a key = its place in tile 0
 *             counts[0] = 5              counts[1] = 3                         + smaller keys in tile 1 + ...
 *
 * A key is (order of the value) << 32 | index, so any sort gives the one order of kernels.h; how the keys came into their tiles
 * does not matter. Private to cuda/. */
#ifndef SP_KERNELS_CUDA_SORT_CUH
#define SP_KERNELS_CUDA_SORT_CUH

#include "kernels/cuda/launch.cuh"

#define SP_SORT_TILE 2048
#define SP_SORT_THREADS (SP_SORT_TILE / 2)
#define SP_SORT_LAST 0xffffffffffffffffull

/* Sorts keys[0 .. count), rising; up to the next power of two (64 at least) SP_SORT_LAST stands behind them. `count` is the
 * same in all SP_SORT_THREADS threads of the block and SP_SORT_TILE at most. What the block wrote before is seen, and places from
 * `count` on are nobody's; a barrier ends it. */
static __device__ __forceinline__ void sp_sort_block(uint64_t *keys, int count)
{
    int size = 64, at = (int)threadIdx.x;
    while (size < count)
        size *= 2;
    for (int i = count + at; i < size; i += SP_SORT_THREADS)
        keys[i] = SP_SORT_LAST;
    __syncthreads();
    for (int run = 2; run <= size; run *= 2) {
        for (int stride = run / 2; stride > 0; stride /= 2) {
            if (at < size / 2) {
                int low = 2 * at - (at & (stride - 1)), high = low + stride;
                uint64_t a = keys[low], b = keys[high];
                if ((a > b) == ((low & run) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            /* Up to 32 apart, a warp's 32 pairs lie in 64 keys of its own, in this round and in the next. */
            if (stride > 32 || (stride == 1 && run > 32))
                __syncthreads();
            else
                __syncwarp();
        }
    } /* a size of 64 and more: the last stride was 1, and its barrier the block's */
}

/* How many of the tiles' keys are smaller than `key`. Four searches at a time, since each waits for memory. */
static __device__ __forceinline__ int sp_sort_place(const uint64_t *keys, const int32_t *counts, int tiles, uint64_t key)
{
    int place = 0;
    for (int t = 0; t < tiles; t += 4) {
        const uint64_t *tile = keys + (size_t)t * SP_SORT_TILE;
        int low[4] = { 0, 0, 0, 0 }, count[4];
        for (int k = 0; k < 4; k++)
            count[k] = t + k < tiles ? counts[t + k] : 0;
        for (int step = SP_SORT_TILE; step > 0; step /= 2) {
            for (int k = 0; k < 4; k++) {
                int next = low[k] + step;
                if (next <= count[k] && tile[k * SP_SORT_TILE + next - 1] < key)
                    low[k] = next;
            }
        }
        place += low[0] + low[1] + low[2] + low[3];
    }
    return place;
}

#endif
