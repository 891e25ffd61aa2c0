/* SPDX-License-Identifier: Apache-2.0
 * Morphology, equal to kernels/morph.c: what lies outside the picture never wins.
 *
 * A block makes 128 x 32 pixels from a window of up to 63 x 63, four pixels of a word at a time, all in shared memory:
 *
 *   rectangle  across by doubling (folds of 2, 4, 8, ... pixels, then two of those that overlap), then down in the same way:
 *              2 log2(side) steps a pixel, whatever the side. Iterations are one larger rectangle, in parts of 63 at most.
 *   others     the same folds across, and each row of the element takes two of the longest that fits its run, as soon as that stands.
 *
 * The last launch of an operation also subtracts. Two buffers take turns:
 *
 *   row 0    | left + 128 + right bytes, then what never wins |      200 bytes, 94 rows, twice: 37 KB
 *   row 93   | ...                                            |
 *
 * Bound by memory for small elements: a byte read (1.5 with a 15 x 15 apron, from the cache) and one written: 4.1 MB at 1080p, 1.2 us
 * at 3.35 TB/s a launch; by shared memory from about 9 x 9 on. */
#include "kernels/cuda/plane.cuh"

#define TILE_WORDS 32 /* 128 pixels */
#define TILE_ROWS 32
#define REACH_MAX 62  /* on both sides together */
#define PITCH 50      /* words: 128 + 62 bytes, and a word that a shifted one touches */
#define ROWS_MAX (TILE_ROWS + REACH_MAX)
#define ROUNDS (TILE_ROWS / SP_PLANE_WARPS)

typedef struct morph_buffers {
    uint32_t words[2][ROWS_MAX * PITCH];
} morph_buffers;

/* What an operation's last launch does with the fold: keeps it, takes another plane from it, or it from the other plane. */
enum { KEEP, MINUS_OTHER, OTHER_MINUS };

typedef struct morph_reach {
    int left, right, above, below;
} morph_reach;

template <bool LARGEST> __device__ static inline uint32_t fold4(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    return LARGEST ? __vmaxu4(a, b) : __vminu4(a, b);
#else
    uint32_t made = 0;
    for (uint32_t byte = 255; byte; byte <<= 8)
        made |= (LARGEST == ((a & byte) > (b & byte)) ? a : b) & byte;
    return made;
#endif
}

/* Four bytes of a row of a buffer, from any byte on. */
__device__ static inline uint32_t four_at(const uint32_t *row, int byte)
{
    uint32_t low = row[byte >> 2];
    if (!(byte & 3))
        return low;
    return __byte_perm(low, row[(byte >> 2) + 1], 0x3210u + 0x1111u * (uint32_t)(byte & 3));
}

/* All rows of the block's window into the first buffer. */
__device__ static inline void load_window(uint32_t *to, sp_plane src, morph_reach r, bool words, uint32_t outside)
{
    int x0 = (int)blockIdx.x * 4 * TILE_WORDS - r.left, y0 = (int)blockIdx.y * TILE_ROWS - r.above;
    for (int row = (int)threadIdx.x / 32; row < TILE_ROWS + r.above + r.below; row += SP_PLANE_WARPS) {
        int y = y0 + row;
        bool inside = y >= 0 && y < src.h;
        const uint8_t *from = src.data + (size_t)(inside ? y : 0) * src.stride_bytes;
        for (int i = (int)threadIdx.x % 32; i < PITCH; i += 32)
            to[row * PITCH + i] = inside ? sp_load4(from, x0 + 4 * i, src.w, words, outside) : outside * 0x01010101u;
    }
    __syncthreads();
}

/* to[i] = the fold of from[i] and from[i + length], bytes: `bytes` of each row. */
template <bool LARGEST>
__device__ static inline void fold_across(uint32_t *to, const uint32_t *from, int rows, int length, int bytes)
{
    for (int row = (int)threadIdx.x / 32; row < rows; row += SP_PLANE_WARPS) {
        const uint32_t *in = from + row * PITCH;
        for (int i = (int)threadIdx.x % 32; 4 * i < bytes; i += 32)
            to[row * PITCH + i] = fold4<LARGEST>(in[i], four_at(in, 4 * i + length));
    }
    __syncthreads();
}

template <bool LARGEST> __device__ static inline void fold_down(uint32_t *to, const uint32_t *from, int rows, int length)
{
    int i = (int)threadIdx.x % 32;
    for (int row = (int)threadIdx.x / 32; row < rows; row += SP_PLANE_WARPS)
        to[row * PITCH + i] = fold4<LARGEST>(from[row * PITCH + i], from[(row + length) * PITCH + i]);
    __syncthreads();
}

__device__ static inline uint32_t less4(uint32_t a, uint32_t b) /* a - b, 0 where negative */
{
    uint32_t made = 0;
    for (int i = 0; i < 4; i++)
        made |= (uint32_t)SP_MAX(sp_byte_of(a, i) - sp_byte_of(b, i), 0) << (8 * i);
    return made;
}

/* Word threadIdx.x % 32 of the tile's row. */
__device__ static inline void put_word(sp_plane dst, sp_plane other, int row, int last, uint32_t v, bool words)
{
    int x = 4 * (int)(blockIdx.x * TILE_WORDS + threadIdx.x % 32), y = (int)blockIdx.y * TILE_ROWS + row;
    if (x >= dst.w || y >= dst.h)
        return;
    if (last != KEEP) {
        uint32_t with = sp_load4(other.data + (size_t)y * other.stride_bytes, x, dst.w, words, 0);
        v = last == MINUS_OTHER ? less4(v, with) : less4(with, v);
    }
    sp_store4(dst.data + (size_t)y * dst.stride_bytes, x, dst.w, words, v);
}

template <bool LARGEST>
__global__ void plane_morph_rect_kernel(sp_plane dst, sp_plane src, sp_plane other, morph_reach r, int last, bool words)
{
    SP_SHARED(morph_buffers, b);
    int turn = 0, across = r.left + r.right + 1, down = r.above + r.below + 1, rows = TILE_ROWS + down - 1, length = 1;
    load_window(b->words[0], src, r, words, LARGEST ? 0 : 255);
    for (; 2 * length < across; length *= 2, turn ^= 1)
        fold_across<LARGEST>(b->words[turn ^ 1], b->words[turn], rows, length, 4 * TILE_WORDS + across - 2 * length);
    if (across > 1) {
        fold_across<LARGEST>(b->words[turn ^ 1], b->words[turn], rows, across - length, 4 * TILE_WORDS);
        turn ^= 1;
    }
    for (length = 1; 2 * length < down; length *= 2, turn ^= 1)
        fold_down<LARGEST>(b->words[turn ^ 1], b->words[turn], TILE_ROWS + down - 2 * length, length);
    const uint32_t *from = b->words[turn];
    for (int row = (int)threadIdx.x / 32; row < TILE_ROWS; row += SP_PLANE_WARPS) {
        uint32_t v = from[row * PITCH + threadIdx.x % 32];
        if (down > 1)
            v = fold4<LARGEST>(v, from[(row + down - length) * PITCH + threadIdx.x % 32]);
        put_word(dst, other, row, last, v, words);
    }
}

template <bool LARGEST>
__global__ void plane_morph_runs_kernel(sp_plane dst, sp_plane src, sp_plane other, sp_morph_element e, int last, bool words)
{
    SP_SHARED(morph_buffers, b);
    morph_reach r = { e.kw / 2, e.kw - 1 - e.kw / 2, e.kh / 2, e.kh - 1 - e.kh / 2 };
    int lane = (int)threadIdx.x % 32, first = (int)threadIdx.x / 32, longest = 1;
    uint32_t made[ROUNDS];
    for (int i = 0; i < ROUNDS; i++)
        made[i] = LARGEST ? 0 : ~0u;
    for (int i = 0; i < e.kh; i++)
        longest = SP_MAX(longest, e.x1[i] - e.x0[i]);
    load_window(b->words[0], src, r, words, LARGEST ? 0 : 255);
    for (int length = 1, turn = 0; length <= longest; length *= 2, turn ^= 1) {
        const uint32_t *from = b->words[turn];
        for (int i = 0; i < e.kh; i++) {
            int k = e.x1[i] - e.x0[i];
            if (k < length || k >= 2 * length)
                continue;
            for (int round = 0; round < ROUNDS; round++) {
                const uint32_t *row = from + (first + round * SP_PLANE_WARPS + i) * PITCH;
                uint32_t v = fold4<LARGEST>(four_at(row, 4 * lane + e.x0[i]), four_at(row, 4 * lane + e.x1[i] - length));
                made[round] = fold4<LARGEST>(made[round], v);
            }
        }
        if (2 * length <= longest)
            fold_across<LARGEST>(b->words[turn ^ 1], from, TILE_ROWS + e.kh - 1, length, 4 * TILE_WORDS + e.kw - 2 * length);
    }
    for (int round = 0; round < ROUNDS; round++)
        put_word(dst, other, first + round * SP_PLANE_WARPS, last, made[round], words);
}

/* --- on the host --- */

/* An operation on its way: erosions and dilations one behind the other, through planes of the scratch. */
typedef struct morph_run {
    sp_cuda_stream *stream;
    sp_cuda_plane_scratch *scratch;
    const sp_morph_element *element;
    bool rect;
    int iterations;
} morph_run;

/* How an erosion or dilation ends. */
typedef struct morph_end {
    sp_plane dst, other;
    int last;
} morph_end;

static cudaError_t launch(const morph_run *run, bool largest, sp_plane dst, sp_plane src, const morph_reach *reach, const morph_end *end)
{
    dim3 grid(sp_blocks(dst.w, 4 * TILE_WORDS), sp_blocks(dst.h, TILE_ROWS));
    sp_plane other = end ? end->other : dst;
    int last = end ? end->last : KEEP;
    bool words = sp_plane_words_ok(dst) && sp_plane_words_ok(src) && sp_plane_words_ok(other);
    cudaStream_t stream = run->stream->stream;
    if (run->rect && largest)
        return SP_LAUNCH((plane_morph_rect_kernel<true>), grid, SP_PLANE_THREADS, sizeof(morph_buffers), stream, dst, src, other, *reach,
                         last, words);
    if (run->rect)
        return SP_LAUNCH((plane_morph_rect_kernel<false>), grid, SP_PLANE_THREADS, sizeof(morph_buffers), stream, dst, src, other, *reach,
                         last, words);
    if (largest)
        return SP_LAUNCH((plane_morph_runs_kernel<true>), grid, SP_PLANE_THREADS, sizeof(morph_buffers), stream, dst, src, other,
                         *run->element, last, words);
    return SP_LAUNCH((plane_morph_runs_kernel<false>), grid, SP_PLANE_THREADS, sizeof(morph_buffers), stream, dst, src, other,
                     *run->element, last, words);
}

/* The next part of a rectangle, taken from what is left of it. */
static morph_reach next_part(morph_reach *left)
{
    const int half = REACH_MAX / 2;
    morph_reach part = { SP_MIN(left->left, half), SP_MIN(left->right, half), SP_MIN(left->above, half), SP_MIN(left->below, half) };
    left->left -= part.left;
    left->right -= part.right;
    left->above -= part.above;
    left->below -= part.below;
    return part;
}

static bool is_nothing(const morph_reach *r)
{
    return !r->left && !r->right && !r->above && !r->below;
}

/* All iterations of one erosion or dilation of src. Planes `free[0]` and `free[1]` of the scratch are used; src may be one of them or
 * end->dst. */
static cudaError_t run_fold(const morph_run *run, bool largest, sp_plane src, const int free[2], const morph_end *end)
{
    const sp_morph_element *e = run->element;
    int n = run->iterations, turn = 0;
    morph_reach left = { SP_MIN(e->kw / 2 * n, src.w - 1), SP_MIN((e->kw - 1 - e->kw / 2) * n, src.w - 1),
                         SP_MIN(e->kh / 2 * n, src.h - 1), SP_MIN((e->kh - 1 - e->kh / 2) * n, src.h - 1) };
    for (int i = 0;; i++) {
        morph_reach part = next_part(&left);
        bool over = run->rect ? is_nothing(&left) : i == n - 1;
        sp_plane to = over ? end->dst : sp_scratch_plane(run->scratch, free[turn], src.w, src.h);
        if (to.data == src.data) { /* its neighbours would be read after it was written */
            sp_plane copy = sp_scratch_plane(run->scratch, free[turn], src.w, src.h);
            cudaError_t error = sp_plane_copy(run->stream, copy, src);
            if (error != cudaSuccess)
                return error;
            src = copy;
        }
        cudaError_t error = launch(run, largest, to, src, &part, over ? end : NULL);
        if (error != cudaSuccess || over)
            return error;
        src = to;
        turn ^= 1;
    }
}

static cudaError_t run_op(const morph_run *run, sp_plane dst, sp_plane src, sp_morph_op op)
{
    const int pair[2] = { 0, 1 };
    sp_plane middle = sp_scratch_plane(run->scratch, 2, src.w, src.h);
    morph_end whole = { dst, src, KEEP }, first = { middle, src, KEEP };
    bool dilates_first = op == SP_MORPH_DILATE || op == SP_MORPH_CLOSE || op == SP_MORPH_BLACKHAT;
    if (op == SP_MORPH_ERODE || op == SP_MORPH_DILATE)
        return run_fold(run, dilates_first, src, pair, &whole);
    cudaError_t error = run_fold(run, dilates_first, src, pair, &first);
    if (error != cudaSuccess)
        return error;
    if (op == SP_MORPH_GRADIENT) { /* `middle` is the erosion */
        whole.other = middle;
        whole.last = MINUS_OTHER;
        return run_fold(run, true, src, pair, &whole);
    }
    if (op == SP_MORPH_TOPHAT || op == SP_MORPH_BLACKHAT)
        whole.last = op == SP_MORPH_TOPHAT ? OTHER_MINUS : MINUS_OTHER;
    return run_fold(run, !dilates_first, middle, pair, &whole);
}

sp_status sp_cuda_morph(sp_cuda_stream *stream, sp_plane dst, sp_plane src, sp_morph_op op, sp_morph_shape shape, int kw, int kh,
                        int iterations, sp_cuda_plane_scratch *scratch, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    sp_status s = sp_plane_fits(scratch, src, reterr);
    if (s)
        return s;
    sp_morph_element element;
    sp_morph_element_fill(&element, kw == 1 && kh == 1 ? SP_MORPH_RECT : shape, kw, kh);
    morph_run run = { stream, scratch, &element, sp_morph_element_is_rect(&element), iterations };
    return sp_cuda_check(run_op(&run, dst, src, op), "plane_morph", reterr);
}
