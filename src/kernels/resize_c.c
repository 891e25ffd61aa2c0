/* SPDX-License-Identifier: Apache-2.0
 * Resize and normalise, the scalar reference: what every twin must equal to the bit. */
#include "kernels/arith.h"
#include "kernels/kernels.h"

void sp_weights_c(int32_t *SP_RESTRICT weight, const sp_axis *axis, const sp_weight_params *params)
{
    double *k = params->spare;
    for (int i = 0; i < axis->n; i++, weight += axis->stride) {
        double centre = ((double)(params->out_first + i) + 0.5) * params->scale, sum = 0.0;
        int taps = axis->count[i], first = axis->first[i];
        if (params->cubic) {
            for (int t = 0; t < taps; t++)
                sum += k[t] = sp_filter_cubic((t + first - centre + 0.5) * params->inverse);
        } else {
            for (int t = 0; t < taps; t++)
                sum += k[t] = sp_filter_triangle((t + first - centre + 0.5) * params->inverse);
        }
        for (int t = 0; t < taps; t++)
            weight[t] = sp_resize_fixed(sum != 0.0 ? k[t] / sum : k[t]);
        for (int t = taps; t < axis->stride; t++)
            weight[t] = 0;
    }
}

void sp_pack_h_c(sp_axis *axis)
{
    axis->mode = 0; /* reads axis->weight as it is */
}

void sp_pack_v_c(sp_axis *axis)
{
    axis->mode = 0;
}

void sp_resize_h_c(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4], const sp_axis *axis)
{
    for (int r = 0; r < 4; r++) {
        uint8_t *out = dst + r;
        for (int x = 0; x < axis->n; x++) {
            const uint8_t *pixel = rows[r] + (size_t)axis->first[x] * 3;
            const int32_t *weight = axis->weight + (size_t)x * (size_t)axis->stride;
            int32_t red = SP_RESIZE_HALF, green = SP_RESIZE_HALF, blue = SP_RESIZE_HALF;
            for (int t = 0; t < axis->count[x]; t++, pixel += 3) {
                red += pixel[0] * weight[t];
                green += pixel[1] * weight[t];
                blue += pixel[2] * weight[t];
            }
            out[0] = sp_resize_clip(red);
            out[4] = sp_resize_clip(green);
            out[8] = sp_resize_clip(blue);
            out += 12;
        }
    }
}

void sp_resize_v_c(uint8_t *SP_RESTRICT dst, int cols, const uint8_t *const *blocks, const sp_axis *axis, int y)
{
    const int32_t *weight = axis->weight + (size_t)y * (size_t)axis->stride;
    int lead = (axis->first[y] - axis->src_first) & 3, count = axis->count[y];
    for (int i = 0; i < cols; i++) {
        int32_t sum = SP_RESIZE_HALF;
        for (int t = 0; t < count; t++)
            sum += blocks[(lead + t) >> 2][i * 4 + ((lead + t) & 3)] * weight[t];
        dst[i] = sp_resize_clip(sum);
    }
}

void sp_to_block_c(uint8_t *SP_RESTRICT dst, const uint8_t *const rows[4], int cols)
{
    for (int i = 0; i < cols; i++) {
        for (int r = 0; r < 4; r++)
            dst[i * 4 + r] = rows[r][i];
    }
}

void sp_from_block_c(uint8_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT block, int cols, int row)
{
    for (int i = 0; i < cols; i++)
        dst[i] = block[i * 4 + row];
}

void sp_plain_h_c(uint16_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT row, const sp_axis *axis)
{
    for (int x = 0; x < axis->n; x++) {
        const uint8_t *a = row + (size_t)axis->first[x] * 3, *b = axis->weight[x] ? a + 3 : a;
        for (int c = 0; c < 3; c++)
            *dst++ = sp_plain_h(a[c], b[c], axis->weight[x]);
    }
}

void sp_plain_v_c(uint8_t *SP_RESTRICT dst, int cols, const uint16_t *SP_RESTRICT a, const uint16_t *SP_RESTRICT b, int w1)
{
    for (int i = 0; i < cols; i++)
        dst[i] = sp_plain_v(a[i], b[i], w1);
}

void sp_norm_f32_c(float *SP_RESTRICT dst, ptrdiff_t plane, const uint8_t *SP_RESTRICT src, int n, const sp_norm_table *table)
{
    for (int x = 0; x < n; x++, src += 3) {
        dst[x] = table->f32[0][src[0]];
        dst[x + plane] = table->f32[1][src[1]];
        dst[x + 2 * plane] = table->f32[2][src[2]];
    }
}

void sp_norm_f16_c(uint16_t *SP_RESTRICT dst, ptrdiff_t plane, const uint8_t *SP_RESTRICT src, int n, const sp_norm_table *table)
{
    for (int x = 0; x < n; x++, src += 3) {
        dst[x] = table->f16[0][src[0]];
        dst[x + plane] = table->f16[1][src[1]];
        dst[x + 2 * plane] = table->f16[2][src[2]];
    }
}

void sp_canary_f32_c(float *SP_RESTRICT dst, const float *SP_RESTRICT a, const float *SP_RESTRICT b, const float *SP_RESTRICT c,
                     int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = a[i] * b[i] + c[i];
}
