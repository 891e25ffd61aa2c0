/* SPDX-License-Identifier: Apache-2.0
 * A detector's boxes for CPUs with AVX2. A candidate is held against eight kept boxes at a time; the order in which they
 * are asked does not matter, since one of them is enough. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

#include <immintrin.h>

/* Candidates are few among a detector's scores: eight are looked at together, and mostly none of them passes. */
int sp_filter_f32_avx2(int32_t *SP_RESTRICT ret_index, const float *SP_RESTRICT score, int n, float threshold)
{
    int count = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(threshold), _CMP_GT_OQ);
        for (unsigned bits = (unsigned)_mm256_movemask_ps(above); bits; bits &= bits - 1)
            ret_index[count++] = i + __builtin_ctz(bits);
    }
    for (; i < n; i++) {
        if (score[i] > threshold)
            ret_index[count++] = i;
    }
    return count;
}

/* 32 columns at a time stay in registers while the rows go by. */
void sp_best_columns_f32_avx2(float *SP_RESTRICT ret_best, int32_t *SP_RESTRICT ret_which, const float *SP_RESTRICT src, int n,
                              int rows, size_t row_stride)
{
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256 best[4];
        __m256i which[4];
        for (int v = 0; v < 4; v++) {
            best[v] = _mm256_set1_ps(-INFINITY);
            which[v] = _mm256_setzero_si256();
        }
        const float *row = src + i;
        for (int r = 0; r < rows; r++, row += row_stride) {
            __m256i number = _mm256_set1_epi32(r);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                __m256 x = _mm256_loadu_ps(row + 8 * v), more = _mm256_cmp_ps(x, best[v], _CMP_GT_OQ);
                best[v] = _mm256_blendv_ps(best[v], x, more);
                which[v] = _mm256_blendv_epi8(which[v], number, _mm256_castps_si256(more));
            }
        }
        for (int v = 0; v < 4; v++) {
            _mm256_storeu_ps(ret_best + i + 8 * v, best[v]);
            _mm256_storeu_si256((__m256i *)(void *)(ret_which + i + 8 * v), which[v]);
        }
    }
    if (i < n)
        sp_best_columns_f32_c(ret_best + i, ret_which + i, src + i, n - i, rows, row_stride);
}

int sp_nms_f32_avx2(int32_t *SP_RESTRICT ret_kept, const sp_box_planes *boxes, int n, float iou, int most,
                    float *SP_RESTRICT spare)
{
    size_t stride = SP_NMS_SPARE(most) / 6;
    float *x0 = spare, *y0 = x0 + stride, *x1 = y0 + stride, *y1 = x1 + stride, *area = y1 + stride;
    int32_t *class_id = (int32_t *)(void *)(area + stride);
    const __m256 zero = _mm256_setzero_ps(), limit = _mm256_set1_ps(iou);
    int kept = 0;
    for (int i = 0; i < n && kept < most; i++) {
        float a = sp_box_area(boxes->x0[i], boxes->y0[i], boxes->x1[i], boxes->y1[i]);
        int32_t c = boxes->class_id ? boxes->class_id[i] : 0;
        const __m256 cx0 = _mm256_set1_ps(boxes->x0[i]), cy0 = _mm256_set1_ps(boxes->y0[i]);
        const __m256 cx1 = _mm256_set1_ps(boxes->x1[i]), cy1 = _mm256_set1_ps(boxes->y1[i]), ca = _mm256_set1_ps(a);
        const __m256i cc = _mm256_set1_epi32(c);
        int hit = 0;
        for (int k = 0; k < kept && !hit; k += 8) {
            /* max_ps(x, y) is x > y ? x : y and min_ps x < y ? x : y, NaN included: arith.h's order of operands. */
            __m256 w = _mm256_sub_ps(_mm256_min_ps(cx1, _mm256_load_ps(x1 + k)), _mm256_max_ps(cx0, _mm256_load_ps(x0 + k)));
            __m256 h = _mm256_sub_ps(_mm256_min_ps(cy1, _mm256_load_ps(y1 + k)), _mm256_max_ps(cy0, _mm256_load_ps(y0 + k)));
            __m256 inter = _mm256_mul_ps(_mm256_max_ps(w, zero), _mm256_max_ps(h, zero));
            __m256 both = _mm256_sub_ps(_mm256_add_ps(ca, _mm256_load_ps(area + k)), inter);
            __m256 over = _mm256_cmp_ps(inter, _mm256_mul_ps(limit, both), _CMP_GT_OQ);
            __m256i same = _mm256_cmpeq_epi32(cc, _mm256_load_si256((const __m256i *)(const void *)(class_id + k)));
            hit = _mm256_movemask_ps(_mm256_and_ps(over, _mm256_castsi256_ps(same)));
        }
        if (hit)
            continue;
        if (kept % 8 == 0) { /* a fresh group: boxes without area suppress nothing */
            for (int p = 0; p < 6; p++)
                _mm256_store_ps(spare + (size_t)p * stride + kept, zero);
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
