/* SPDX-License-Identifier: Apache-2.0
 * A detector's outputs to candidates, on the device: what task/detect_heads.c does on the host, element by element the same
 * (post_arith.h, math.h). And the chain from there to the boxes that are kept.
 *
 * The host puts candidates one behind the other; here each box keeps its own place and what is none has the score NaN, which
 * no threshold passes. So the indices differ, their order does not, and that is all that suppression asks for.
 *
 * Bound by what is read. 8,400 boxes of YOLOX with 80 classes: one sector of 32 bytes a box where few are over the threshold
 * (269 KB: 0.1 us of an H100's memory), all 2.9 MB (0.9 us) where all are; YOLOv8 always reads all. */
#include "kernels/cuda/post.cuh"
#include "kernels/cuda/post_nms.cuh"
#include "kernels/post_arith.h"

#define HEAD_THREADS 128
#define WARP_BOXES 8 /* boxes of one warp where a warp takes them one by one */
#define ALL 0xffffffffu

typedef struct candidates {
    float4 *boxes;
    float *score;
    int32_t *class_id, *bad;
} candidates;

static __device__ __forceinline__ float read(const void *tensor, bool half, size_t at)
{
    return half ? sp_f16_to_f32(((const uint16_t *)tensor)[at]) : ((const float *)tensor)[at];
}

static __device__ __forceinline__ float nothing()
{
    return sp_f32_from_bits(0x7fc00000u);
}

/* The box if it is finite; its score, else NaN. */
static __device__ __forceinline__ float put(const candidates &out, size_t place, const float *box, float score)
{
    if (!sp_head_finite(box))
        return nothing();
    out.boxes[place] = make_float4(box[0], box[1], box[2], box[3]);
    return score;
}

/* The first of the largest of `count` numbers, as top-k orders them; the same in all lanes. */
static __device__ __forceinline__ int warp_best(const void *tensor, bool half, size_t at, int count, float *ret_best)
{
    uint64_t best = ~0ull;
    for (int i = (int)threadIdx.x & 31; i < count; i += 32) {
        uint64_t key = (uint64_t)sp_order_key(read(tensor, half, at + (size_t)i)) << 32 | (uint32_t)i;
        best = key < best ? key : best;
    }
    for (int lanes = 16; lanes; lanes /= 2) {
        uint64_t other = __shfl_xor_sync(ALL, (unsigned long long)best, lanes);
        best = other < best ? other : best;
    }
    int which = (int)(uint32_t)best;
    *ret_best = read(tensor, half, at + (size_t)which);
    return which;
}

/* The level of a box, and its number within it. */
static __device__ __forceinline__ int level_of(const sp_cuda_head &h, int box, int *ret_within)
{
    int level = 0;
    for (; level + 1 < h.levels && box >= h.grid_w[level] * h.grid_h[level]; level++)
        box -= h.grid_w[level] * h.grid_h[level];
    *ret_within = box;
    return level;
}

/* YOLOX, YOLOv5: objectness first; only boxes that pass it have their classes read. */
static __global__ void decode_rows(sp_cuda_head h, candidates out)
{
    int lane = (int)threadIdx.x & 31, first = (int)(blockIdx.x * (HEAD_THREADS / 32) + threadIdx.x / 32) * WARP_BOXES;
    int columns = 5 + h.classes, mine = first + lane;
    bool here = lane < WARP_BOXES && mine < h.boxes;
    size_t base = (size_t)blockIdx.y * (size_t)h.boxes;
    float object = here ? read(h.tensors[0], h.half[0], (base + (size_t)mine) * (size_t)columns + 4) : 0.0f, score = nothing();
    bool bad = object != object;
    unsigned over = __ballot_sync(ALL, here && object > h.threshold);
    while (over) {
        int k = __ffs((int)over) - 1;
        size_t row = (base + (size_t)(first + k)) * (size_t)columns;
        float best;
        int which = warp_best(h.tensors[0], h.half[0], row + 5, h.classes, &best);
        over &= over - 1;
        if (lane == k) {
            float value = object * best, v[4], box[4];
            bad = bad || value != value;
            if (value > h.threshold) {
                for (int i = 0; i < 4; i++)
                    v[i] = read(h.tensors[0], h.half[0], row + (size_t)i);
                if (h.kind == SP_CUDA_HEAD_YOLOX) {
                    int within, level = level_of(h, mine, &within);
                    sp_head_grid(box, v, within % h.grid_w[level], within / h.grid_w[level], (float)h.strides[level]);
                } else {
                    sp_head_centre(box, v[0], v[1], v[2], v[3]);
                }
                score = put(out, base + (size_t)mine, box, value);
                out.class_id[base + (size_t)mine] = which;
            }
        }
    }
    if (here)
        out.score[base + (size_t)mine] = score;
    if (bad)
        out.bad[blockIdx.y] = 1;
}

/* YOLOv8: a column a box. 32 columns a block, its warps share the classes; first of equal ones as in best_columns_f32. */
static __global__ void decode_columns(sp_cuda_head h, candidates out)
{
    SP_SHARED(float, best); /* [warps][32], and which as many */
    int32_t *which = (int32_t *)(best + HEAD_THREADS);
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x / 32, column = (int)blockIdx.x * 32 + lane;
    int each = (h.classes + HEAD_THREADS / 32 - 1) / (HEAD_THREADS / 32), end = min(h.classes, (warp + 1) * each);
    size_t boxes = (size_t)h.boxes, base = (size_t)blockIdx.y * boxes, from = base * (size_t)(4 + h.classes) + (size_t)column;
    float most = -INFINITY, score = nothing();
    int32_t at = 0;
    for (int c = warp * each; c < end && column < h.boxes; c++) {
        float value = read(h.tensors[0], h.half[0], from + (size_t)(4 + c) * boxes);
        at = value > most ? c : at;
        most = value > most ? value : most;
    }
    best[threadIdx.x] = most;
    which[threadIdx.x] = at;
    __syncthreads();
    if (warp == 0 && column < h.boxes) {
        for (int g = 1; g < HEAD_THREADS / 32; g++) {
            float value = best[g * 32 + lane];
            at = value > most ? which[g * 32 + lane] : at;
            most = value > most ? value : most;
        }
        if (most == -INFINITY)
            out.bad[blockIdx.y] = 1; /* nothing but NaN */
        if (most > h.threshold) {
            float v[4], box[4];
            for (int i = 0; i < 4; i++)
                v[i] = read(h.tensors[0], h.half[0], from + (size_t)i * boxes);
            sp_head_centre(box, v[0], v[1], v[2], v[3]);
            score = put(out, base + (size_t)column, box, most);
            out.class_id[base + (size_t)column] = at;
        }
        out.score[base + (size_t)column] = score;
    }
}

static __device__ __forceinline__ float warp_max(float most)
{
    for (int lanes = 16; lanes; lanes /= 2) {
        float other = __shfl_xor_sync(ALL, most, lanes);
        most = other > most ? other : most;
    }
    return most;
}

/* The 32-accumulator tree's halves (kernels.h, softmax_f32). */
static __device__ __forceinline__ float warp_sum(float sum)
{
    for (int half = 16; half; half /= 2)
        sum = sum + __shfl_down_sync(ALL, sum, half);
    return __shfl_sync(ALL, sum, 0);
}

/* SSD: a warp a box; each of its classes may be a candidate. */
static __global__ void decode_pairs(sp_cuda_head h, candidates out)
{
    int lane = (int)threadIdx.x & 31, box_id = (int)(blockIdx.x * (HEAD_THREADS / 32) + threadIdx.x / 32);
    bool here = box_id < h.boxes, bad = false, softmax = h.activation == SP_CUDA_SCORES_SOFTMAX;
    size_t row = (size_t)blockIdx.y * (size_t)h.boxes + (size_t)(here ? box_id : 0), at = row * (size_t)h.classes;
    float most = -INFINITY, sum = 0.0f, v[4], box[4];
    if (softmax) {
        for (int c = lane; c < h.classes; c += 32) {
            float value = read(h.tensors[1], h.half[1], at + (size_t)c);
            most = value > most ? value : most;
        }
        most = warp_max(most);
        for (int c = lane; c < h.classes; c += 32)
            sum += sp_expf(read(h.tensors[1], h.half[1], at + (size_t)c) - most);
        sum = warp_sum(sum);
    }
    for (int i = 0; i < 4; i++)
        v[i] = read(h.tensors[0], h.half[0], row * 4 + (size_t)i);
    if (h.form == SP_CUDA_BOXES_OFFSETS) {
        sp_head_offsets(box, v, h.anchors + 4 * (size_t)(here ? box_id : 0), h.variances[0], h.variances[1]);
    } else if (h.form == SP_CUDA_BOXES_CENTRE) {
        sp_head_centre(box, v[0] * h.scale_x, v[1] * h.scale_y, v[2] * h.scale_x, v[3] * h.scale_y);
    } else {
        for (int i = 0; i < 4; i++)
            box[i] = v[i] * (i & 1 ? h.scale_y : h.scale_x);
    }
    bool finite = sp_head_finite(box);
    if (here && finite && lane == 0)
        out.boxes[row] = make_float4(box[0], box[1], box[2], box[3]);
    for (int c = lane; here && c < h.classes; c += 32) {
        float score = read(h.tensors[1], h.half[1], at + (size_t)c);
        if (softmax)
            score = sum == sum ? sp_expf(score - most) / sum : nothing();
        else if (h.activation == SP_CUDA_SCORES_SIGMOID)
            score = sp_head_sigmoid(score);
        bad = bad || score != score;
        out.score[at + (size_t)c] = score > h.threshold && c != h.background && finite ? score : nothing();
    }
    if (bad)
        out.bad[blockIdx.y] = 1;
}

/* NanoDet's mean of a distribution over 0 .. bins - 1 (64 at most), given as logits. */
static __device__ __forceinline__ float warp_mean(const void *tensor, bool half, size_t at, int bins)
{
    int lane = (int)threadIdx.x & 31;
    float low = lane < bins ? read(tensor, half, at + (size_t)lane) : -INFINITY, mean = 0.0f;
    float high = lane + 32 < bins ? read(tensor, half, at + (size_t)lane + 32) : -INFINITY;
    float most = warp_max(high > low ? high : (low == low ? low : -INFINITY)), sum = 0.0f;
    if (lane < bins) {
        low = sp_expf(low - most);
        sum += low;
    }
    if (lane + 32 < bins) {
        high = sp_expf(high - most);
        sum += high;
    }
    sum = warp_sum(sum);
    for (int b = 1; b < bins; b++) {
        float power = b < 32 ? __shfl_sync(ALL, low, b) : __shfl_sync(ALL, high, b - 32);
        mean += (sum == sum ? power / sum : nothing()) * (float)b;
    }
    return mean;
}

static __global__ void decode_sides(sp_cuda_head h, candidates out)
{
    int lane = (int)threadIdx.x & 31, first = (int)(blockIdx.x * (HEAD_THREADS / 32) + threadIdx.x / 32) * WARP_BOXES;
    for (int box_id = first; box_id < min(first + WARP_BOXES, h.boxes); box_id++) {
        int within, level = level_of(h, box_id, &within), bins = h.bins[level], sides = h.levels + level;
        size_t row = (size_t)blockIdx.y * (size_t)(h.grid_w[level] * h.grid_h[level]) + (size_t)within;
        size_t place = (size_t)blockIdx.y * (size_t)h.boxes + (size_t)box_id;
        float best, side[4], box[4] = { 0.0f, 0.0f, 0.0f, 0.0f }, score = nothing();
        int which = warp_best(h.tensors[level], h.half[level], row * (size_t)h.classes, h.classes, &best);
        if (best > h.threshold) {
            for (int s = 0; s < 4; s++)
                side[s] = warp_mean(h.tensors[sides], h.half[sides], row * (size_t)(4 * bins) + (size_t)(s * bins), bins) *
                          (float)h.strides[level];
            sp_head_sides(box, side, within % h.grid_w[level], within / h.grid_w[level], (float)h.strides[level]);
            score = best;
        }
        if (lane == 0) {
            if (best != best)
                out.bad[blockIdx.y] = 1;
            if (score == score) {
                score = put(out, place, box, best);
                out.class_id[place] = which;
            }
            out.score[place] = score;
        }
    }
}

/* --- the host's part --- */

static bool fits(const sp_cuda_head *h)
{
    long cells = 0;
    if (h->batch < 1 || h->batch > SP_LIMIT_CUDA_ROWS || h->boxes < 1 || h->classes < 1 || h->levels > SP_LIMIT_CUDA_LEVELS)
        return false;
    if (h->kind != SP_CUDA_HEAD_YOLOX && h->kind != SP_CUDA_HEAD_NANODET)
        return (long)h->boxes * (4 + h->classes) <= INT32_MAX && (h->form != SP_CUDA_BOXES_OFFSETS || h->anchors ||
                                                                  h->kind != SP_CUDA_HEAD_SSD);
    for (int i = 0; i < h->levels; i++) {
        cells += (long)h->grid_w[i] * h->grid_h[i];
        if (h->kind == SP_CUDA_HEAD_NANODET && (h->bins[i] < 2 || h->bins[i] > 64))
            return false;
    }
    return cells == h->boxes;
}

static cudaError_t decode_start(cudaStream_t stream, const sp_cuda_head *h, const candidates &out)
{
    const unsigned batch = (unsigned)h->batch, warps = HEAD_THREADS / 32, boxes = (unsigned)h->boxes;
    const dim3 few((boxes + warps * WARP_BOXES - 1) / (warps * WARP_BOXES), batch), threads(HEAD_THREADS);
    cudaError_t error = cudaMemsetAsync(out.bad, 0, batch * sizeof(int32_t), stream);
    if (error != cudaSuccess)
        return error;
    switch (h->kind) {
    case SP_CUDA_HEAD_YOLOX:
    case SP_CUDA_HEAD_YOLOV5:
        return SP_LAUNCH(decode_rows, few, threads, 0, stream, *h, out);
    case SP_CUDA_HEAD_YOLOV8:
        return SP_LAUNCH(decode_columns, dim3((boxes + 31) / 32, batch), threads, HEAD_THREADS * (sizeof(float) + sizeof(int32_t)), stream,
                         *h, out);
    case SP_CUDA_HEAD_SSD:
        return SP_LAUNCH(decode_pairs, dim3((boxes + warps - 1) / warps, batch), threads, 0, stream, *h, out);
    case SP_CUDA_HEAD_NANODET:
        return SP_LAUNCH(decode_sides, few, threads, 0, stream, *h, out);
    }
    return cudaErrorInvalidValue;
}

extern "C" sp_status sp_cuda_decode_boxes(sp_cuda_stream *stream, const sp_cuda_head *head, float *ret_boxes, float *ret_score,
                                          int32_t *ret_class, int32_t *ret_bad, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    const candidates out = { (float4 *)ret_boxes, ret_score, ret_class, ret_bad };
    if (!fits(head))
        return SP_FAIL(reterr, SP_INTERNAL, "a head of %d boxes and %d classes, %d times", head->boxes, head->classes, head->batch);
    return sp_cuda_check(decode_start(stream->stream, head, out), "decode", reterr);
}

/* The chain's own arrays, then the suppression's. */
static bool lay(const sp_cuda_head *h, const sp_nms_params *params, bool classwise, uint8_t *space, candidates *ret, nms_work *ret_work,
                size_t *ret_bytes)
{
    size_t used = 0, labels = (size_t)sp_cuda_head_labels(h), boxes = (size_t)h->batch * (size_t)h->boxes, bytes;
    const size_t sizes[3] = { boxes * 16, boxes * labels * 4, labels == 1 ? boxes * 4 : 0 };
    uint8_t *at[3];
    if (!fits(h) || labels * (size_t)h->boxes > INT32_MAX)
        return false;
    for (int i = 0; i < 3; i++) {
        at[i] = space ? space + used : NULL;
        used += (sizes[i] + 255) & ~(size_t)255;
    }
    ret->boxes = (float4 *)at[0];
    ret->score = (float *)at[1];
    ret->class_id = labels == 1 ? (int32_t *)at[2] : NULL;
    if (!sp_cuda_nms_lay(ret_work, h->batch, (int)labels * h->boxes, (int)labels, classwise, params, space ? space + used : NULL, &bytes))
        return false;
    *ret_bytes = used + bytes;
    return true;
}

extern "C" size_t sp_cuda_detect_space(const sp_cuda_head *head, const sp_nms_params *params)
{
    candidates out;
    nms_work work;
    size_t bytes;
    return lay(head, params, true, NULL, &out, &work, &bytes) ? bytes : 0;
}

extern "C" sp_status sp_cuda_detect_run(sp_cuda_stream *stream, const sp_cuda_head *head, const sp_nms_params *params, bool classwise,
                                        const sp_cuda_detections *ret, void *space, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    candidates out;
    nms_work work;
    size_t bytes;
    if (params->most < 1)
        return SP_FAIL(reterr, SP_INTERNAL, "how many boxes at most is not said");
    if (!lay(head, params, classwise, (uint8_t *)space, &out, &work, &bytes))
        return SP_FAIL(reterr, SP_UNSUPPORTED, "a head of %d boxes and %d classes, %d times, is too much for a device (at most %d "
                       "candidates)", head->boxes, head->classes, head->batch, SP_LIMIT_CUDA_NMS);
    out.bad = ret->bad;
    sp_cuda_head decoded = *head;
    decoded.threshold = params->threshold;
    cudaError_t error = decode_start(stream->stream, &decoded, out);
    const nms_answer answer = { NULL, ret->count, params->most, ret->boxes, (const float *)out.boxes, out.score, out.class_id };
    if (error == cudaSuccess)
        error = sp_cuda_nms_start(stream->stream, work, head->batch, (const float *)out.boxes, out.score, out.class_id, params, answer);
    return sp_cuda_check(error, "detect", reterr);
}
