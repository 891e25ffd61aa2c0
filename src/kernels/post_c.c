/* SPDX-License-Identifier: Apache-2.0
 * Softmax and top-k, the scalar reference. */
#include "kernels/kernels.h"
#include "kernels/math.h"

void sp_softmax_f32_c(float *dst, const float *src, int n)
{
    float most = -INFINITY, lanes[32] = { 0 };
    for (int i = 0; i < n; i++)
        most = src[i] > most ? src[i] : most;
    for (int i = 0; i < n; i++) {
        dst[i] = sp_expf(src[i] - most);
        lanes[i & 31] += dst[i];
    }
    for (int half = 16; half; half /= 2) {
        for (int l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    }
    for (int i = 0; i < n; i++)
        dst[i] = lanes[0] == lanes[0] ? dst[i] / lanes[0] : sp_f32_from_bits(0x7fc00000u);
}

/* True when value a goes before value b whatever their indices: larger, or a number before NaN. */
static bool goes_before(float a, float b)
{
    return a > b || (b != b && a == a);
}

void sp_topk_f32_c(int32_t *SP_RESTRICT ret_index, float *SP_RESTRICT ret_value, const float *SP_RESTRICT src, int n, int k)
{
    int held = 0;
    for (int i = 0; i < n; i++) {
        if (held == k && !goes_before(src[i], ret_value[k - 1]))
            continue;
        int at = held < k ? held++ : k - 1;
        for (; at > 0 && goes_before(src[i], ret_value[at - 1]); at--) {
            ret_value[at] = ret_value[at - 1];
            ret_index[at] = ret_index[at - 1];
        }
        ret_value[at] = src[i];
        ret_index[at] = i;
    }
}
