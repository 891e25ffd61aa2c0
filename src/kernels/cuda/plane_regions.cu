/* SPDX-License-Identifier: Apache-2.0
 * 8-connected components of a mask with their sums, equal to kernels/regions.c, in six launches, whatever the mask:
 *
 *   tiles    64 x 32 pixels a block: components inside the tile and their sums, by runs, in shared memory
 *   borders  joins components over the borders of tiles (plane_label.cuh)
 *   fold     the sums of each part are added to its root's: whole numbers, so their order cannot be seen
 *   gather   lists the roots with enough pixels, and counts them
 *   cut      one block: if there are more than the caller has room for, finds the last one that stays, digit by digit of its key
 *   rank     each region's place is the number of those that go before it
 *
 * Two components never meet in the same 2 x 2 pixels (all of those touch), so the part of a component stands where its first pixel
 * is, in a table of (w + 1) / 2 * (h + 1) / 2 places: any mask fits. The list's order is total (area, y0, x0, first pixel), so it does
 * not matter in which order roots were listed.
 *
 * Moved: a byte of the mask, a byte of the weights under it, 1/8 of bits: 2.3 MB at 1080p for a sparse mask, under 1 us at
 * 3.35 TB/s; in fact bound by its six launches. cut passes over the list up to twelve times with one block: short lists cost
 * nothing, half a million single pixels about as much as a frame's flow. */
#include "kernels/cuda/plane_label.cuh"

/* The sums of a component of a tile, places counted in the tile. */
typedef struct tile_part {
    uint32_t area, sum_x, sum_y, weight;
    int x0, y0, x1, y1;
} tile_part;

#define TILE_PARTS (SP_TILE_W / 2 * (SP_TILE_H / 2))

typedef struct regions_tile {
    uint64_t rows[SP_TILE_H];
    int label[SP_TILE_PIXELS];
    tile_part parts[TILE_PARTS];
} regions_tile;

__device__ static inline int tile_part_of(int p)
{
    return p / SP_TILE_W / 2 * (SP_TILE_W / 2) + p % SP_TILE_W / 2;
}

/* Of the component whose first pixel has that number. */
__device__ static inline size_t part_of(uint32_t number, int w)
{
    uint32_t at = number - 1;
    return (size_t)(at / (uint32_t)w / 2) * (size_t)((w + 1) / 2) + at % (uint32_t)w / 2;
}

/* Adds the runs of half a row, of which each lane has a pixel; the lane at a run's end adds it. */
__device__ static inline void add_runs(regions_tile *t, int p, bool set, uint32_t weight)
{
    uint32_t row = reinterpret_cast<const uint32_t *>(t->rows)[p / 32], lane = (uint32_t)p % 32, sums = weight;
    for (uint32_t k = 1; k < 32; k *= 2) { /* sums of all lanes up to this one */
        uint32_t before = __shfl_up_sync(~0u, sums, k);
        sums += lane >= k ? before : 0;
    }
    int begin = set ? sp_run_begin(row, (int)lane) : 0;
    uint32_t less = __shfl_sync(~0u, sums, begin > 0 ? begin - 1 : 0);
    if (!set || (lane < 31 && (row >> (lane + 1) & 1)))
        return;
    int x1 = p % SP_TILE_W, x0 = x1 - (int)lane + begin, y = p / SP_TILE_W, n = x1 - x0 + 1;
    tile_part *part = &t->parts[tile_part_of(t->label[p])];
    atomicAdd(&part->area, (uint32_t)n);
    atomicAdd(&part->sum_x, (uint32_t)((x0 + x1) * n / 2));
    atomicAdd(&part->sum_y, (uint32_t)(y * n));
    atomicAdd(&part->weight, sums - (begin > 0 ? less : 0));
    atomicMin(&part->x0, x0);
    atomicMin(&part->y0, y);
    atomicMax(&part->x1, x1 + 1);
    atomicMax(&part->y1, y + 1);
}

__global__ void plane_regions_kernel(sp_plane mask, sp_plane weights, uint32_t *bits, int *labels, sp_region *parts, uint32_t *roots,
                                     sp_plane_counts *counts)
{
    SP_SHARED(regions_tile, t);
    int x0 = (int)blockIdx.x * SP_TILE_W, y0 = (int)blockIdx.y * SP_TILE_H, w = mask.w, words = sp_bit_words(w);
    for (int i = (int)threadIdx.x; i < TILE_PARTS; i += SP_PLANE_THREADS) {
        tile_part none = { 0, 0, 0, 0, SP_TILE_W, SP_TILE_H, 0, 0 };
        t->parts[i] = none;
    }
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        int x = x0 + p % SP_TILE_W, y = y0 + p / SP_TILE_W;
        sp_tile_bits(t->rows, p, x < w && y < mask.h && mask.data[(size_t)y * mask.stride_bytes + x] != 0);
    }
    __syncthreads();
    sp_label_tile(t->rows, t->label);
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        int x = x0 + p % SP_TILE_W, y = y0 + p / SP_TILE_W;
        bool set = t->rows[p / SP_TILE_W] >> (p % SP_TILE_W) & 1;
        add_runs(t, p, set, set && weights.data ? weights.data[(size_t)y * weights.stride_bytes + x] : 0);
    }
    __syncthreads();
    for (int p = (int)threadIdx.x; p < SP_TILE_PIXELS; p += SP_PLANE_THREADS) {
        int tx = p % SP_TILE_W, ty = p / SP_TILE_W, x = x0 + tx, y = y0 + ty;
        if (p % 32 == 0 && x < w && y < mask.h)
            bits[(size_t)y * words + x / 32] = reinterpret_cast<const uint32_t *>(t->rows)[p / 32];
        if (!(t->rows[ty] >> tx & 1))
            continue;
        int root = t->label[p], number = y * w + x + 1;
        if (root == p || tx == 0 || ty == 0 || tx == SP_TILE_W - 1 || ty == SP_TILE_H - 1) /* nobody asks for others */
            labels[number] = (y0 + root / SP_TILE_W) * w + x0 + root % SP_TILE_W + 1;
        if (root != p)
            continue;
        tile_part a = t->parts[tile_part_of(p)];
        sp_region part;
        part.x0 = x0 + a.x0;
        part.y0 = y0 + a.y0;
        part.x1 = x0 + a.x1;
        part.y1 = y0 + a.y1;
        part.area = a.area;
        part.sum_x = a.sum_x + (uint64_t)a.area * (uint32_t)x0;
        part.sum_y = a.sum_y + (uint64_t)a.area * (uint32_t)y0;
        part.weight = a.weight;
        parts[part_of((uint32_t)number, w)] = part;
        roots[atomicAdd(&counts->roots, 1u)] = (uint32_t)number;
    }
}

__device__ static inline void add64(uint64_t *to, uint64_t v)
{
    atomicAdd(reinterpret_cast<unsigned long long *>(to), (unsigned long long)v);
}

/* The parts that are no root any more, into their roots. */
__global__ void plane_fold_kernel(const int *labels, sp_region *parts, const uint32_t *roots, const sp_plane_counts *counts, int w)
{
    for (uint32_t i = blockIdx.x * SP_PLANE_THREADS + threadIdx.x; i < counts->roots; i += gridDim.x * SP_PLANE_THREADS) {
        uint32_t number = roots[i];
        int root = sp_label_root(labels, (int)number);
        if (root == (int)number)
            continue;
        const sp_region *from = &parts[part_of(number, w)];
        sp_region *to = &parts[part_of((uint32_t)root, w)];
        atomicMin(&to->x0, from->x0);
        atomicMin(&to->y0, from->y0);
        atomicMax(&to->x1, from->x1);
        atomicMax(&to->y1, from->y1);
        atomicAdd(&to->area, from->area);
        add64(&to->sum_x, from->sum_x);
        add64(&to->sum_y, from->sum_y);
        add64(&to->weight, from->weight);
    }
}

__global__ void plane_gather_kernel(const int *labels, const sp_region *parts, const uint32_t *roots, uint32_t min_area,
                                    uint32_t *candidates, sp_plane_counts *counts, int w)
{
    for (uint32_t i = blockIdx.x * SP_PLANE_THREADS + threadIdx.x; i < counts->roots; i += gridDim.x * SP_PLANE_THREADS) {
        uint32_t number = roots[i];
        if (labels[number] == (int)number && parts[part_of(number, w)].area >= min_area)
            candidates[atomicAdd(&counts->candidates, 1u)] = number;
    }
}

/* What the order goes by, the least first: area from above, y0 and x0, the first pixel's x (its y is y0). No two are equal. Last:
 * where its part stands. */
__device__ static inline uint4 key_of(const sp_region *parts, uint32_t number, int w)
{
    const sp_region *r = &parts[part_of(number, w)];
    return make_uint4(~r->area, (uint32_t)r->y0 << 16 | (uint32_t)r->x0, (number - 1) % (uint32_t)w, number);
}

__device__ static inline bool goes_before(uint4 a, uint4 b)
{
    return a.x != b.x ? a.x < b.x : a.y != b.y ? a.y < b.y : a.z < b.z;
}

/* The digit of 8 bits at that place, 0 .. 11 from above. */
__device__ static inline uint32_t digit_of(uint4 key, int place)
{
    uint32_t word = place < 4 ? key.x : place < 8 ? key.y : key.z;
    return word >> (24 - place % 4 * 8) & 255;
}

/* Whether the digits above `place` are those of `last`. */
__device__ static inline bool same_above(uint4 key, uint4 last, int place)
{
    for (int i = 0; i < place; i++) {
        if (digit_of(key, i) != digit_of(last, i))
            return false;
    }
    return true;
}

typedef struct cut_room {
    uint32_t count[256];
    uint32_t digit, wanted, written;
} cut_room;

/* Sets the digit at `place` of the key of which exactly `wanted` are not greater, among those that agree with it above. */
__device__ static inline uint4 cut_digit(cut_room *room, const sp_region *parts, const uint32_t *candidates, uint32_t total, int w,
                                         uint4 last, int place)
{
    for (int i = (int)threadIdx.x; i < 256; i += SP_PLANE_THREADS)
        room->count[i] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < total; i += SP_PLANE_THREADS) {
        uint4 key = key_of(parts, candidates[i], w);
        if (same_above(key, last, place))
            atomicAdd(&room->count[digit_of(key, place)], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t digit = 0, before = 0;
        while (before + room->count[digit] < room->wanted)
            before += room->count[digit++];
        room->digit = digit;
        room->wanted -= before;
    }
    __syncthreads();
    uint32_t found = room->digit << (24 - place % 4 * 8);
    if (place < 4)
        last.x |= found;
    else if (place < 8)
        last.y |= found;
    else
        last.z |= found;
    return last;
}

__global__ void plane_cut_kernel(const sp_region *parts, const uint32_t *candidates, const sp_plane_counts *counts, int capacity, int w,
                                 uint4 *keys, sp_cuda_regions *head)
{
    SP_SHARED(cut_room, room);
    uint32_t total = counts->candidates, written = total < (uint32_t)capacity ? total : (uint32_t)capacity;
    uint4 last = make_uint4(~0u, ~0u, ~0u, 0);
    if (threadIdx.x == 0) {
        head->total = total;
        head->written = written;
        room->wanted = written;
        room->written = 0;
    }
    __syncthreads();
    if (written && written < total) {
        last = make_uint4(0, 0, 0, 0);
        for (int place = 0; place < 12; place++)
            last = cut_digit(room, parts, candidates, total, w, last, place);
    }
    for (uint32_t i = threadIdx.x; i < total && written; i += SP_PLANE_THREADS) {
        uint4 key = key_of(parts, candidates[i], w);
        if (!goes_before(last, key))
            keys[atomicAdd(&room->written, 1u)] = key;
    }
}

__global__ void plane_rank_kernel(const sp_region *parts, const uint4 *keys, const sp_cuda_regions *head, int w, sp_region *regions)
{
    SP_SHARED(uint4, some);
    uint32_t count = head->written, i = blockIdx.x * SP_PLANE_THREADS + threadIdx.x, place = 0;
    uint4 mine = i < count ? keys[i] : make_uint4(0, 0, 0, 1);
    for (uint32_t from = 0; from < count && blockIdx.x * SP_PLANE_THREADS < count; from += SP_PLANE_THREADS) {
        uint32_t many = count - from < SP_PLANE_THREADS ? count - from : SP_PLANE_THREADS;
        if (threadIdx.x < many)
            some[threadIdx.x] = keys[from + threadIdx.x];
        __syncthreads();
        for (uint32_t k = 0; k < many; k++)
            place += goes_before(some[k], mine);
        __syncthreads();
    }
    if (i < count)
        regions[place] = parts[part_of(mine.w, w)];
}

sp_status sp_cuda_regions_find(sp_cuda_stream *stream, sp_plane mask, sp_plane weights, uint32_t min_area, sp_cuda_regions *ret_head,
                               sp_region *ret_regions, int capacity, sp_cuda_plane_scratch *scratch, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    sp_status status = sp_plane_fits(scratch, mask, reterr);
    if (status)
        return status;
    if (capacity < 0 || capacity > scratch->capacity)
        return SP_FAIL(reterr, SP_INTERNAL, "%d regions in a scratch for %d", capacity, scratch->capacity);
    sp_cuda_plane_scratch *s = scratch;
    int w = mask.w, h = mask.h;
    unsigned few = SP_MIN(sp_blocks((long long)w * h, 64 * SP_PLANE_THREADS), 1024u);
    SP_PLANE_TRY(cudaMemsetAsync(s->counts, 0, sizeof(*s->counts), stream->stream), "counts");
    SP_PLANE_TRY(SP_LAUNCH(plane_regions_kernel, sp_tile_grid(w, h), SP_PLANE_THREADS, sizeof(regions_tile), stream->stream, mask, weights,
                           s->bits, s->labels, s->parts, s->roots, s->counts),
                 "plane_regions");
    SP_PLANE_TRY(sp_label_borders(stream, s, w, h), "plane_borders");
    SP_PLANE_TRY(SP_LAUNCH(plane_fold_kernel, few, SP_PLANE_THREADS, 0, stream->stream, s->labels, s->parts, s->roots, s->counts, w),
                 "plane_fold");
    SP_PLANE_TRY(SP_LAUNCH(plane_gather_kernel, few, SP_PLANE_THREADS, 0, stream->stream, s->labels, s->parts, s->roots, min_area,
                           s->candidates, s->counts, w),
                 "plane_gather");
    SP_PLANE_TRY(SP_LAUNCH(plane_cut_kernel, 1, SP_PLANE_THREADS, sizeof(cut_room), stream->stream, s->parts, s->candidates, s->counts,
                           capacity, w, s->keys, ret_head),
                 "plane_cut");
    if (capacity == 0)
        return SP_OK;
    SP_PLANE_TRY(SP_LAUNCH(plane_rank_kernel, sp_blocks(capacity, SP_PLANE_THREADS), SP_PLANE_THREADS, SP_PLANE_THREADS * sizeof(uint4),
                           stream->stream, s->parts, s->keys, ret_head, w, ret_regions),
                 "plane_rank");
    return SP_OK;
}
