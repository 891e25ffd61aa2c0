/* SPDX-License-Identifier: Apache-2.0
 * A detector's boxes for CPUs with AVX-512 F, BW, DQ, VL. A candidate is held against sixteen kept boxes at a time; the order in which they
 * are asked does not matter, since one of them is enough. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>

static __mmask16 first_lanes(int n)
{
    return (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1 << n) - 1 : 0);
}

/* Compressed in a register and stored whole: the compressing store is slow on some CPUs. */
int sp_filter_f32_avx512(int32_t *SP_RESTRICT ret_index, const float *SP_RESTRICT score, int n, float threshold)
{
    const __m512 limit = _mm512_set1_ps(threshold);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int count = 0;
    for (int i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __mmask16 above = _mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, score + i), limit, _CMP_GT_OQ);
        if (above) {
            _mm512_storeu_si512(ret_index + count, _mm512_maskz_compress_epi32(above, index));
            count += __builtin_popcount(above);
        }
        index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
    }
    return count;
}

/* 64 columns at a time stay in registers while the rows go by. */
void sp_best_columns_f32_avx512(float *SP_RESTRICT ret_best, int32_t *SP_RESTRICT ret_which, const float *SP_RESTRICT src,
                                int n, int rows, size_t row_stride)
{
    for (int i = 0; i < n; i += 64) {
        __m512 best[4];
        __m512i which[4];
        __mmask16 lanes[4];
        for (int v = 0; v < 4; v++) {
            best[v] = _mm512_set1_ps(-INFINITY);
            which[v] = _mm512_setzero_si512();
            lanes[v] = first_lanes(n - i - 16 * v);
        }
        const float *row = src + i;
        for (int r = 0; r < rows; r++, row += row_stride) {
            __m512i number = _mm512_set1_epi32(r);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                __m512 x = _mm512_maskz_loadu_ps(lanes[v], row + 16 * v);
                __mmask16 more = _mm512_cmp_ps_mask(x, best[v], _CMP_GT_OQ);
                best[v] = _mm512_mask_mov_ps(best[v], more, x);
                which[v] = _mm512_mask_mov_epi32(which[v], more, number);
            }
        }
        for (int v = 0; v < 4; v++) {
            _mm512_mask_storeu_ps(ret_best + i + 16 * v, lanes[v], best[v]);
            _mm512_mask_storeu_epi32(ret_which + i + 16 * v, lanes[v], which[v]);
        }
    }
}

int sp_nms_f32_avx512(int32_t *SP_RESTRICT ret_kept, const sp_box_planes *boxes, int n, float iou, int most,
                      float *SP_RESTRICT spare)
{
    size_t stride = SP_NMS_SPARE(most) / 6;
    float *x0 = spare, *y0 = x0 + stride, *x1 = y0 + stride, *y1 = x1 + stride, *area = y1 + stride;
    int32_t *class_id = (int32_t *)(void *)(area + stride);
    const __m512 zero = _mm512_setzero_ps(), limit = _mm512_set1_ps(iou);
    int kept = 0;
    for (int i = 0; i < n && kept < most; i++) {
        float a = sp_box_area(boxes->x0[i], boxes->y0[i], boxes->x1[i], boxes->y1[i]);
        int32_t c = boxes->class_id ? boxes->class_id[i] : 0;
        const __m512 cx0 = _mm512_set1_ps(boxes->x0[i]), cy0 = _mm512_set1_ps(boxes->y0[i]);
        const __m512 cx1 = _mm512_set1_ps(boxes->x1[i]), cy1 = _mm512_set1_ps(boxes->y1[i]), ca = _mm512_set1_ps(a);
        const __m512i cc = _mm512_set1_epi32(c);
        __mmask16 hit = 0;
        for (int k = 0; k < kept && !hit; k += 16) {
            /* max_ps(x, y) is x > y ? x : y and min_ps x < y ? x : y, NaN included: arith.h's order of operands. */
            __m512 w = _mm512_sub_ps(_mm512_min_ps(cx1, _mm512_load_ps(x1 + k)), _mm512_max_ps(cx0, _mm512_load_ps(x0 + k)));
            __m512 h = _mm512_sub_ps(_mm512_min_ps(cy1, _mm512_load_ps(y1 + k)), _mm512_max_ps(cy0, _mm512_load_ps(y0 + k)));
            __m512 inter = _mm512_mul_ps(_mm512_max_ps(w, zero), _mm512_max_ps(h, zero));
            __m512 both = _mm512_sub_ps(_mm512_add_ps(ca, _mm512_load_ps(area + k)), inter);
            __mmask16 same = _mm512_cmpeq_epi32_mask(cc, _mm512_load_si512(class_id + k));
            hit = _mm512_mask_cmp_ps_mask(same, inter, _mm512_mul_ps(limit, both), _CMP_GT_OQ);
        }
        if (hit)
            continue;
        if (kept % 16 == 0) { /* a fresh group: boxes without area suppress nothing */
            for (int p = 0; p < 6; p++)
                _mm512_store_ps(spare + (size_t)p * stride + kept, zero);
        }
        x0[kept] = boxes->x0[i];
        y0[kept] = boxes->y0[i];
        x1[kept] = boxes->x1[i];
        y1[kept] = boxes->y1[i];
        area[kept] = a;
        class_id[kept] = c;
        ret_kept[kept++] = i;
    }
    return kept;
}
