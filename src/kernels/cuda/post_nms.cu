/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twin of sp_nms_run (nms_run.h): threshold, order, greedy suppression, the same indices. Every grid follows from
 * batch, n and the params alone; what the scores make of it only ends blocks early. So a graph of it serves any picture.
 *
 *   pick     scores over the threshold into tiles of keys (score, index), sorted           a block a tile
 *            (over 65,536 scores: first dense, by one addition a block; then tiles)
 *   place    each key finds its place among all tiles; the best `limit` stay               a thread a key
 *   group    class-wise: the same once more with keys (class, place), so that a class is   a block a tile,
 *            one run of neighbours, best first                                             a thread a key
 *   matrix   bit i of row q: i comes before q in q's run and would suppress it             below
 *   sweep    each run from its best to its last; the last block of a picture tells         a block a run
 *
 * The matrix, in panels of 256 rows; only what lies in a run is computed, and nothing right of the diagonal:
 *
 *     panel 0   row 0..255     [w0 w1 w2 w3]                       word w: 64 bits for candidates 64 w .. 64 w + 63
 *     panel 1   row 256..511   [w0 w1 w2 w3 | w4 w5 w6 w7]         a row has 4 * (panel + 1) words
 *     panel 2   ...            [w0 ...                    w11]     panel p begins at word 512 * p * (p + 1)
 *
 * Sweep: a row is gone when one of its bits is also a bit of `kept`. While warp 0 settles panel p (64 candidates at a time:
 * who has no undecided one before him is kept, whom a kept one meets goes, again until nobody is undecided), the other warps
 * hold the rows of panel p + 1 against all panels before p, whose words are final; then one barrier and the last four words.
 * So memory's delay lies behind the settling, and nothing waits for another block.
 *
 * Bounds on an H100, as arithmetic: 8,400 boxes of one class are 35 million pairs of about 22 instructions: 26 us on 132
 * multiprocessors at 1.75 GHz; one block then reads 4.4 MB of matrix at 64 bytes a clock: 39 us. A real picture's few dozen
 * boxes are six launches. */
#include "kernels/cuda/post.cuh"
#include "kernels/cuda/sort.cuh"
#include "kernels/cuda/post_nms.cuh"
#include "kernels/post_arith.h"

#define PANEL 256
#define PANEL_WORDS (PANEL / 64)
#define PLACE_THREADS 256
#define MATRIX_THREADS (PANEL / 2) /* two rows a thread */
#define MATRIX_WORDS 2             /* columns of one block */
#define SWEEP_THREADS 512
#define SWEEP_RUNS 128             /* blocks of a picture that take its runs in turn */
#define DIRECT_TILES 32            /* more tiles of scores than this are made dense first */

/* --- pick --- */

/* A block's 2,048 scores. DENSE: those that pass go behind those of other blocks, unsorted. */
template <bool DENSE> static __global__ void nms_pick(nms_work w, const float *score, float threshold)
{
    SP_SHARED(uint64_t, keys);
    int *held = (int *)(keys + SP_SORT_TILE); /* keys so far, then where they go */
    const float *from = score + (size_t)blockIdx.y * (size_t)w.n;
    int lane = (int)threadIdx.x & 31;
    if (threadIdx.x == 0)
        *held = 0;
    __syncthreads();
    for (int half = 0; half < 2; half++) {
        int i = (int)blockIdx.x * SP_SORT_TILE + half * SP_SORT_THREADS + (int)threadIdx.x, at = 0;
        float value = i < w.n ? from[i] : threshold;
        unsigned passed = __ballot_sync(0xffffffffu, value > threshold);
        if (lane == 0 && passed)
            at = atomicAdd(held, __popc(passed));
        at = __shfl_sync(0xffffffffu, at, 0);
        if (value > threshold)
            keys[at + __popc(passed & ((1u << lane) - 1u))] = (uint64_t)sp_order_key(value) << 32 | (uint32_t)i;
    }
    __syncthreads();
    int count = *held;
    uint64_t *to = w.keys + (size_t)blockIdx.y * (size_t)w.tiles * SP_SORT_TILE;
    if (DENSE) {
        __syncthreads();
        if (threadIdx.x == 0)
            *held = count ? atomicAdd(&w.heads[blockIdx.y].passed, count) : 0;
        __syncthreads();
        to += *held;
    } else {
        sp_sort_block(keys, count);
        to += (size_t)blockIdx.x * SP_SORT_TILE;
        if (threadIdx.x == 0) {
            w.counts[(size_t)blockIdx.y * (size_t)w.tiles + blockIdx.x] = count;
            if (blockIdx.x == 0)
                w.heads[blockIdx.y].runs = w.heads[blockIdx.y].done = 0;
        }
    }
    for (int i = (int)threadIdx.x; i < count; i += SP_SORT_THREADS)
        to[i] = keys[i];
}

/* Sorts tiles of keys where they lie. CLASSES: of the best by class; else of the dense ones. */
template <bool CLASSES> static __global__ void nms_sort(nms_work w)
{
    SP_SHARED(uint64_t, keys);
    const nms_head *head = &w.heads[blockIdx.y];
    size_t tile = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    uint64_t *at = (CLASSES ? w.by_class : w.keys) + tile * SP_SORT_TILE;
    int count = min(max((CLASSES ? head->count : head->passed) - (int)blockIdx.x * SP_SORT_TILE, 0), SP_SORT_TILE);
    if (threadIdx.x == 0)
        (CLASSES ? w.class_counts : w.counts)[tile] = count;
    if (count > 0) {
        for (int i = (int)threadIdx.x; i < count; i += SP_SORT_THREADS)
            keys[i] = at[i];
        sp_sort_block(keys, count);
        for (int i = (int)threadIdx.x; i < count; i += SP_SORT_THREADS)
            at[i] = keys[i];
    }
}

/* --- place and group --- */

static __device__ __forceinline__ void take_box(const nms_work &w, const float *boxes, int q, int index)
{
    const float *from = boxes + ((size_t)blockIdx.y * (size_t)(w.n / w.labels) + (size_t)(index / w.labels)) * 4;
    w.boxes[(size_t)blockIdx.y * (size_t)w.limit + (size_t)q] = make_float4(from[0], from[1], from[2], from[3]);
}

static __global__ void nms_place(nms_work w, const float *boxes, const int32_t *class_id)
{
    const uint64_t *keys = w.keys + (size_t)blockIdx.y * (size_t)w.tiles * SP_SORT_TILE;
    const int32_t *counts = w.counts + (size_t)blockIdx.y * (size_t)w.tiles;
    size_t slot = (size_t)blockIdx.x * PLACE_THREADS + threadIdx.x;
    if (slot == 0) {
        int passed = 0;
        for (int t = 0; t < w.tiles; t++)
            passed += counts[t];
        w.heads[blockIdx.y].count = min(passed, w.limit);
    }
    if ((int)(slot % SP_SORT_TILE) < counts[slot / SP_SORT_TILE]) {
        uint64_t key = keys[slot];
        int place = sp_sort_place(keys, counts, w.tiles, key), index = (int)(uint32_t)key;
        if (place < w.limit) {
            w.order[(size_t)blockIdx.y * (size_t)w.limit + (size_t)place] = index;
            if (w.classwise) {
                int32_t c = w.labels > 1 ? index % w.labels : class_id[(size_t)blockIdx.y * (size_t)w.n + (size_t)index];
                w.by_class[(size_t)blockIdx.y * (size_t)w.class_tiles * SP_SORT_TILE + (size_t)place] =
                    (uint64_t)((uint32_t)c ^ 0x80000000u) << 32 | (uint32_t)place;
            } else {
                take_box(w, boxes, place, index);
            }
        }
    }
}

static __global__ void nms_group(nms_work w, const float *boxes)
{
    const uint64_t *keys = w.by_class + (size_t)blockIdx.y * (size_t)w.class_tiles * SP_SORT_TILE;
    const int32_t *counts = w.class_counts + (size_t)blockIdx.y * (size_t)w.class_tiles;
    size_t slot = (size_t)blockIdx.x * PLACE_THREADS + threadIdx.x, base = (size_t)blockIdx.y * (size_t)w.limit;
    if ((int)(slot % SP_SORT_TILE) < counts[slot / SP_SORT_TILE]) {
        uint64_t key = keys[slot];
        int q = sp_sort_place(keys, counts, w.class_tiles, key), place = (int)(uint32_t)key;
        w.starts[base + (size_t)q] = sp_sort_place(keys, counts, w.class_tiles, key & 0xffffffff00000000ull);
        w.places[base + (size_t)q] = place;
        take_box(w, boxes, q, w.order[base + (size_t)place]);
    }
}

/* --- matrix --- */

static __device__ __forceinline__ size_t row_at(int panel, int row)
{
    return (size_t)512 * (size_t)panel * (size_t)(panel + 1) + (size_t)row * (size_t)(PANEL_WORDS * (panel + 1));
}

/* 32 bits of a row: candidates `first` .. first + 31 against box q of area `area`. */
static __device__ __forceinline__ uint32_t meet(float4 box, float area, const float4 *others, const float *areas, float iou)
{
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) {
        float4 other = others[i];
        float inter = sp_box_shared(box.x, box.z, other.x, other.z) * sp_box_shared(box.y, box.w, other.y, other.w);
        bits |= (uint32_t)(sp_box_suppressed(inter, area, areas[i], iou) != 0) << i;
    }
    return bits;
}

/* The bits of word w that are candidates from..end - 1. */
static __device__ __forceinline__ uint64_t bits_between(int w, int from, int end)
{
    int low = max(from - 64 * w, 0), high = min(end - 64 * w, 64);
    return high <= low ? 0 : (high == 64 ? ~0ull : (1ull << high) - 1ull) & ~((1ull << low) - 1ull);
}

/* One panel's rows, two words of them. */
static __global__ void nms_matrix(nms_work w, float iou)
{
    SP_SHARED(float4, columns); /* [64 * MATRIX_WORDS], then their areas */
    float *areas = (float *)(columns + 64 * MATRIX_WORDS);
    nms_head *head = &w.heads[blockIdx.z];
    int panel = (int)blockIdx.x, word = MATRIX_WORDS * (int)blockIdx.y, count = head->count, first = PANEL * panel;
    const float4 *boxes = w.boxes + (size_t)blockIdx.z * (size_t)w.limit;
    const int32_t *starts = w.classwise ? w.starts + (size_t)blockIdx.z * (size_t)w.limit : NULL;
    bool mine = first < count && word < PANEL_WORDS * (panel + 1);
    if (mine && starts)
        mine = 64 * (word + MATRIX_WORDS) > starts[first]; /* runs begin later and later */
    if (mine) {
        int c = 64 * word + (int)threadIdx.x;
        float4 column = c < count ? boxes[c] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        columns[threadIdx.x] = column;
        areas[threadIdx.x] = sp_box_area(column.x, column.y, column.z, column.w);
        __syncthreads();
        for (int row = (int)threadIdx.x; row < PANEL; row += MATRIX_THREADS) {
            int q = first + row;
            if (q < count) {
                float4 box = boxes[q];
                float area = sp_box_area(box.x, box.y, box.z, box.w);
                int start = starts ? starts[q] : 0;
                ulonglong2 bits;
                bits.x = meet(box, area, columns, areas, iou) | (uint64_t)meet(box, area, columns + 32, areas + 32, iou) << 32;
                bits.y = meet(box, area, columns + 64, areas + 64, iou) | (uint64_t)meet(box, area, columns + 96, areas + 96, iou) << 32;
                bits.x &= bits_between(word, start, q);
                bits.y &= bits_between(word + 1, start, q);
                *(ulonglong2 *)(w.matrix + (size_t)blockIdx.z * w.matrix_words + row_at(panel, row) + (size_t)word) = bits;
                if (starts && word == PANEL_WORDS * panel && (q + 1 == count || starts[q + 1] != start))
                    w.runs[(size_t)blockIdx.z * (size_t)w.limit + (size_t)atomicAdd(&head->runs, 1)] = make_int2(start, q + 1);
            }
        }
    }
}

/* --- sweep --- */

/* A block's shared memory. */
typedef struct sweep {
    uint64_t *kept;       /* [words of limit] */
    uint64_t *inner;      /* [2][PANEL_WORDS][PANEL]: the words of a panel's rows in the panel itself; this one's, the next one's */
    unsigned *gone;       /* [2][PANEL / 32] */
    int *state;           /* [0] kept in this run; [1] for the whole block */
} sweep;

/* Warp 0: the 256 candidates of `panel`, of which `run` has some. */
static __device__ void settle(const sweep &s, int panel, int2 run, const uint64_t *inner, const unsigned *gone)
{
    int lane = (int)threadIdx.x & 31, total = 0;
    uint64_t kept[PANEL_WORDS];
    for (int t = 0; t < PANEL_WORDS; t++) {
        int word = PANEL_WORDS * panel + t, row = 64 * t + lane;
        uint64_t open = bits_between(word, run.x, run.y) & ~((uint64_t)gone[2 * t + 1] << 32 | gone[2 * t]), hit = 0, hit_high = 0;
        for (int u = 0; u < t; u++) {
            hit |= inner[u * PANEL + row] & kept[u];
            hit_high |= inner[u * PANEL + row + 32] & kept[u];
        }
        open &= ~((uint64_t)__ballot_sync(0xffffffffu, hit_high != 0) << 32 | __ballot_sync(0xffffffffu, hit != 0));
        uint64_t before = inner[t * PANEL + row], before_high = inner[t * PANEL + row + 32];
        kept[t] = 0;
        while (open) { /* its first one is always kept, so it gets smaller */
            bool stays = open >> lane & 1 && !(before & open), stays_high = open >> (lane + 32) & 1 && !(before_high & open);
            uint64_t now = (uint64_t)__ballot_sync(0xffffffffu, stays_high) << 32 | __ballot_sync(0xffffffffu, stays);
            uint64_t met = (uint64_t)__ballot_sync(0xffffffffu, (before_high & now) != 0) << 32 |
                           __ballot_sync(0xffffffffu, (before & now) != 0);
            kept[t] |= now;
            open &= ~(now | met);
        }
        if (lane == 0)
            s.kept[word] = kept[t];
        total += __popcll(kept[t]);
    }
    if (lane == 0)
        s.state[0] += total;
}

/* The other warps: rows of `panel` against the panels first .. before - 1. Four rows at a time. */
static __device__ void pull(const sweep &s, const uint64_t *matrix, int panel, int first, int before, unsigned *gone)
{
    int warp = (int)threadIdx.x / 32 - 1, lane = (int)threadIdx.x & 31;
    for (int group = warp; group < PANEL / 4; group += SWEEP_THREADS / 32 - 1) {
        const uint64_t *rows = matrix + row_at(panel, 4 * group);
        size_t stride = (size_t)(PANEL_WORDS * (panel + 1));
        uint64_t hit[4] = { 0, 0, 0, 0 };
        unsigned bits = 0;
        for (int word = PANEL_WORDS * first + 2 * lane; word < PANEL_WORDS * before; word += 64) {
            ulonglong2 kept = *(const ulonglong2 *)(s.kept + word);
            for (int k = 0; k < 4; k++) {
                ulonglong2 row = *(const ulonglong2 *)(rows + (size_t)k * stride + (size_t)word);
                hit[k] |= (row.x & kept.x) | (row.y & kept.y);
            }
        }
        for (int k = 0; k < 4; k++)
            bits |= (unsigned)(__any_sync(0xffffffffu, hit[k] != 0) != 0) << k;
        if (lane == 0 && bits)
            atomicOr(&gone[group / 8], bits << (4 * (group & 7)));
    }
}

/* One run: candidates run.x .. run.y - 1. Stops when `most` are kept. */
static __device__ void sweep_run(const sweep &s, const uint64_t *matrix, int2 run, int most)
{
    int thread = (int)threadIdx.x, row = thread / 2, half = thread & 1; /* two words of a panel row for each thread */
    int first = run.x / PANEL, end = (run.y + PANEL - 1) / PANEL;
    bool enough = false;
    __syncthreads();
    for (int word = PANEL_WORDS * first + thread; word < PANEL_WORDS * end; word += SWEEP_THREADS)
        s.kept[word] = 0;
    if (thread < 2 * PANEL / 32)
        s.gone[thread] = 0;
    if (thread == 0)
        s.state[0] = 0;
    if (first < end) {
        ulonglong2 own = *(const ulonglong2 *)(matrix + row_at(first, row) + (size_t)(PANEL_WORDS * first + 2 * half));
        s.inner[2 * half * PANEL + row] = own.x;
        s.inner[(2 * half + 1) * PANEL + row] = own.y;
    }
    __syncthreads();
    for (int panel = first; panel < end && !enough; panel++) {
        int now = (panel - first) & 1, next = now ^ 1;
        bool more = panel + 1 < end;
        ulonglong2 near = { 0, 0 }, own = { 0, 0 };
        if (more) {
            const uint64_t *words = matrix + row_at(panel + 1, row) + (size_t)(PANEL_WORDS * panel + 2 * half);
            near = *(const ulonglong2 *)words;
            own = *(const ulonglong2 *)(words + PANEL_WORDS);
        }
        if (thread < 32)
            settle(s, panel, run, s.inner + now * PANEL_WORDS * PANEL, s.gone + now * (PANEL / 32));
        else if (more)
            pull(s, matrix, panel + 1, first, panel, s.gone + next * (PANEL / 32));
        s.inner[(next * PANEL_WORDS + 2 * half) * PANEL + row] = own.x;
        s.inner[(next * PANEL_WORDS + 2 * half + 1) * PANEL + row] = own.y;
        __syncthreads();
        enough = s.state[0] >= most;
        const uint64_t *kept = s.kept + PANEL_WORDS * panel + 2 * half;
        unsigned pairs = __ballot_sync(0xffffffffu, more && ((near.x & kept[0]) | (near.y & kept[1])) != 0);
        if ((thread & 31) == 0 && pairs) {
            unsigned bits = 0; /* of 16 rows, two lanes each */
            for (int k = 0; k < 16; k++)
                bits |= (unsigned)((pairs >> (2 * k) & 3u) != 0) << k;
            atomicOr(&s.gone[next * (PANEL / 32) + row / 32], bits << (row & 31));
        }
        if (thread < PANEL / 32)
            s.gone[now * (PANEL / 32) + thread] = 0; /* for the panel after the next one */
        __syncthreads();
    }
}

/* The kept ones of a picture, in order: 16 flags a thread, a sum over the block before it. */
static __device__ void tell(const nms_work &w, const nms_answer &answer, int count, int *sums)
{
    const uint8_t *flags = w.kept + (size_t)blockIdx.y * w.kept_stride;
    const int32_t *order = w.order + (size_t)blockIdx.y * (size_t)w.limit;
    int thread = (int)threadIdx.x, lane = thread & 31, told = 0;
    for (int base = 0; base < count; base += 16 * SWEEP_THREADS) {
        int at = base + 16 * thread, mine = 0;
        uint32_t bits = 0;
        if (at < count) {
            uint4 v = __ldcg((const uint4 *)(flags + at));
            const uint32_t four[4] = { v.x, v.y, v.z, v.w };
            for (int k = 0; k < 16; k++)
                bits |= (uint32_t)(at + k < count && (four[k / 4] >> (8 * (k & 3)) & 1u)) << k;
        }
        mine = __popc(bits);
        int upto = mine;
        for (int step = 1; step < 32; step *= 2) {
            int other = __shfl_up_sync(0xffffffffu, upto, (unsigned)step);
            upto += lane >= step ? other : 0;
        }
        if (lane == 31)
            sums[thread / 32] = upto;
        __syncthreads();
        int place = told + upto - mine;
        for (int k = 0; k < SWEEP_THREADS / 32; k++) {
            place += k < thread / 32 ? sums[k] : 0;
            told += sums[k];
        }
        for (; bits; bits &= bits - 1, place++) {
            if (place >= answer.most)
                continue;
            int p = at + __ffs((int)bits) - 1, index = order[p];
            if (answer.kept)
                answer.kept[(size_t)blockIdx.y * (size_t)answer.most + (size_t)place] = index;
            if (answer.boxes) {
                const float *from = answer.from + ((size_t)blockIdx.y * (size_t)(w.n / w.labels) + (size_t)(index / w.labels)) * 4;
                sp_cuda_detection *to = &answer.boxes[(size_t)blockIdx.y * (size_t)answer.most + (size_t)place];
                to->x0 = from[0];
                to->y0 = from[1];
                to->x1 = from[2];
                to->y1 = from[3];
                to->score = answer.score[(size_t)blockIdx.y * (size_t)w.n + (size_t)index];
                to->class_id = w.labels > 1 || !answer.class_id ? index % w.labels
                                                                : answer.class_id[(size_t)blockIdx.y * (size_t)w.n + (size_t)index];
            }
        }
        __syncthreads();
    }
    if (thread == 0)
        answer.count[blockIdx.y] = min(told, answer.most);
}

static __global__ void nms_sweep(nms_work w, nms_answer answer)
{
    SP_SHARED(uint64_t, shared);
    int words = (w.limit + PANEL - 1) / PANEL * PANEL_WORDS, runs;
    sweep s = { shared, shared + words, NULL, NULL };
    s.gone = (unsigned *)(s.inner + 2 * PANEL_WORDS * PANEL);
    s.state = (int *)(s.gone + 2 * PANEL / 32);
    nms_head *head = &w.heads[blockIdx.y];
    size_t base = (size_t)blockIdx.y * (size_t)w.limit;
    int count = head->count;
    runs = w.classwise ? head->runs : 1;
    for (int r = (int)blockIdx.x; r < runs; r += (int)gridDim.x) {
        int2 run = w.classwise ? w.runs[base + (size_t)r] : make_int2(0, count);
        sweep_run(s, w.matrix + (size_t)blockIdx.y * w.matrix_words, run, answer.most);
        for (int q = run.x + (int)threadIdx.x; q < run.y; q += SWEEP_THREADS) {
            int place = w.classwise ? w.places[base + (size_t)q] : q;
            w.kept[(size_t)blockIdx.y * w.kept_stride + (size_t)place] = (uint8_t)(s.kept[q / 64] >> (q & 63) & 1u);
        }
    }
    __threadfence();
    __syncthreads(); /* for other blocks: all of this one has written when it is counted */
    if (threadIdx.x == 0)
        s.state[1] = atomicAdd(&head->done, 1) == (int)gridDim.x - 1;
    __syncthreads();
    if (s.state[1]) {
        __threadfence();
        tell(w, answer, count, (int *)s.inner);
    }
}

/* --- the host's part --- */

/* A part of the space, 256-byte aligned; `space` NULL only counts. */
static void *part(uint8_t *space, size_t *used, size_t bytes)
{
    void *at = space ? space + *used : NULL;
    *used += (bytes + 255) & ~(size_t)255;
    return at;
}

bool sp_cuda_nms_lay(nms_work *w, int batch, int n, int labels, bool classwise, const sp_nms_params *params, void *space,
                     size_t *ret_bytes)
{
    size_t used = 0, panels, b = (size_t)batch;
    uint8_t *at = (uint8_t *)space;
    *w = nms_work();
    w->n = n;
    w->labels = labels > 1 ? labels : 1;
    w->classwise = classwise;
    w->limit = params->candidates > 0 && params->candidates < n ? params->candidates : n;
    if (batch < 1 || batch > SP_LIMIT_CUDA_ROWS || n < 1 || w->limit > SP_LIMIT_CUDA_NMS || n % w->labels)
        return false;
    w->tiles = (n - 1) / SP_SORT_TILE + 1;
    w->class_tiles = (w->limit - 1) / SP_SORT_TILE + 1;
    panels = ((size_t)w->limit + PANEL - 1) / PANEL;
    w->matrix_words = 512 * panels * (panels + 1);
    w->kept_stride = ((size_t)w->limit + 255) & ~(size_t)255;
    w->heads = (nms_head *)part(at, &used, b * sizeof(nms_head));
    w->counts = (int32_t *)part(at, &used, b * (size_t)w->tiles * sizeof(int32_t));
    w->keys = (uint64_t *)part(at, &used, b * (size_t)w->tiles * SP_SORT_TILE * sizeof(uint64_t));
    w->order = (int32_t *)part(at, &used, b * (size_t)w->limit * sizeof(int32_t));
    w->boxes = (float4 *)part(at, &used, b * (size_t)w->limit * sizeof(float4));
    w->kept = (uint8_t *)part(at, &used, b * w->kept_stride);
    w->matrix = (uint64_t *)part(at, &used, b * w->matrix_words * sizeof(uint64_t));
    if (classwise) {
        w->class_counts = (int32_t *)part(at, &used, b * (size_t)w->class_tiles * sizeof(int32_t));
        w->by_class = (uint64_t *)part(at, &used, b * (size_t)w->class_tiles * SP_SORT_TILE * sizeof(uint64_t));
        w->starts = (int32_t *)part(at, &used, b * (size_t)w->limit * sizeof(int32_t));
        w->places = (int32_t *)part(at, &used, b * (size_t)w->limit * sizeof(int32_t));
        w->runs = (int2 *)part(at, &used, b * (size_t)w->limit * sizeof(int2));
    }
    *ret_bytes = used;
    return true;
}

static cudaError_t pick_start(cudaStream_t stream, const nms_work &w, unsigned batch, const float *score, float threshold)
{
    const size_t sort_bytes = SP_SORT_TILE * sizeof(uint64_t);
    dim3 tiles((unsigned)w.tiles, batch), threads(SP_SORT_THREADS);
    if (w.tiles <= DIRECT_TILES)
        return SP_LAUNCH((nms_pick<false>), tiles, threads, sort_bytes + 16, stream, w, score, threshold);
    cudaError_t error = cudaMemsetAsync(w.heads, 0, batch * sizeof(nms_head), stream);
    if (error == cudaSuccess)
        error = SP_LAUNCH((nms_pick<true>), tiles, threads, sort_bytes + 16, stream, w, score, threshold);
    if (error == cudaSuccess)
        error = SP_LAUNCH((nms_sort<false>), tiles, threads, sort_bytes, stream, w);
    return error;
}

cudaError_t sp_cuda_nms_start(cudaStream_t stream, const nms_work &w, int batch, const float *boxes, const float *score,
                              const int32_t *class_id, const sp_nms_params *params, const nms_answer &answer)
{
    const unsigned b = (unsigned)batch, each = SP_SORT_TILE / PLACE_THREADS, panels = ((unsigned)w.limit + PANEL - 1) / PANEL;
    const size_t sweep_bytes = (size_t)panels * PANEL_WORDS * sizeof(uint64_t) + 2 * PANEL_WORDS * PANEL * sizeof(uint64_t) +
                               2 * PANEL / 32 * sizeof(unsigned) + 2 * sizeof(int);
    cudaError_t error = pick_start(stream, w, b, score, params->threshold);
    if (error == cudaSuccess)
        error = SP_LAUNCH(nms_place, dim3((unsigned)w.tiles * each, b), dim3(PLACE_THREADS), 0, stream, w, boxes, class_id);
    if (error == cudaSuccess && w.classwise)
        error = SP_LAUNCH((nms_sort<true>), dim3((unsigned)w.class_tiles, b), dim3(SP_SORT_THREADS), SP_SORT_TILE * sizeof(uint64_t),
                          stream, w);
    if (error == cudaSuccess && w.classwise)
        error = SP_LAUNCH(nms_group, dim3((unsigned)w.class_tiles * each, b), dim3(PLACE_THREADS), 0, stream, w, boxes);
    if (error == cudaSuccess)
        error = SP_LAUNCH(nms_matrix, dim3(panels, panels * (PANEL_WORDS / MATRIX_WORDS), b), dim3(MATRIX_THREADS),
                          64 * MATRIX_WORDS * (sizeof(float4) + sizeof(float)), stream, w, params->iou);
    if (error == cudaSuccess)
        error = SP_LAUNCH(nms_sweep, dim3(w.classwise ? (unsigned)min(SWEEP_RUNS, w.limit) : 1u, b), dim3(SWEEP_THREADS), sweep_bytes, stream, w, answer);
    return error;
}

extern "C" size_t sp_cuda_nms_space(int batch, int n, const sp_nms_params *params)
{
    nms_work w;
    size_t bytes;
    return sp_cuda_nms_lay(&w, batch, n, 1, true, params, NULL, &bytes) ? bytes : 0;
}

extern "C" sp_status sp_cuda_nms_run(sp_cuda_stream *stream, const sp_cuda_nms *nms, void *space, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    nms_work w;
    size_t bytes;
    bool classwise = nms->labels > 1 ? !nms->agnostic : nms->class_id != NULL;
    if (nms->batch < 1)
        return SP_OK;
    if (nms->n == 0) {
        cudaError_t error = cudaMemsetAsync(nms->kept_count, 0, (size_t)nms->batch * sizeof(int32_t), stream->stream);
        return sp_cuda_check(error, "nms", reterr);
    }
    if (!sp_cuda_nms_lay(&w, nms->batch, nms->n, nms->labels, classwise, &nms->params, space, &bytes))
        return SP_FAIL(reterr, SP_UNSUPPORTED, "suppression of %d x %d boxes on a device: at most %d go into it (\"candidates\")",
                       nms->batch, nms->n, SP_LIMIT_CUDA_NMS);
    const nms_answer answer = { nms->kept, nms->kept_count, nms->params.most > 0 ? nms->params.most : nms->n, NULL, NULL, NULL, NULL };
    return sp_cuda_check(sp_cuda_nms_start(stream->stream, w, nms->batch, nms->boxes, nms->score, nms->class_id, &nms->params, answer),
                         "nms", reterr);
}
