/* SPDX-License-Identifier: Apache-2.0
 * Resampling weights. The order of the double operations is the reference's: their rounding decides the last bit of a
 * coefficient, and a coefficient's last bit decides pixels. */
#include "kernels/axis.h"

#include "kernels/arith.h"

#include <math.h>

static double support_of(const sp_axis_params *p, double *ret_scale)
{
    double scale = (double)p->src_n / (double)p->out_n;
    *ret_scale = scale;
    return (p->filter == SP_FILTER_BICUBIC ? 2.0 : 1.0) * (scale < 1.0 ? 1.0 : scale);
}

int sp_axis_taps_max(const sp_axis_params *params)
{
    if (params->filter == SP_FILTER_PLAIN)
        return 1;
    double scale, reach = ceil(support_of(params, &scale)) * 2 + 1;
    return reach < params->src_n ? (int)reach : params->src_n;
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* Memory: first, count [n + 16]; weight [n][stride]; packed; one output's doubles. */
static size_t layout(const sp_axis_params *p, size_t at[5])
{
    size_t n = (size_t)p->n, quads = ((size_t)sp_axis_taps_max(p) + 3) / 4;
    at[0] = aligned((n + 16) * 4);
    at[1] = at[0] + aligned((n + 16) * 4);
    at[2] = at[1] + aligned((n + 16) * quads * 16);
    at[3] = at[2] + aligned((n + 16) * ((quads + 4) * 16 > 128 ? (quads + 4) * 16 : 128));
    at[4] = at[3] + aligned((quads * 4 + 8) * sizeof(double));
    return at[4];
}

size_t sp_axis_bytes(const sp_axis_params *params)
{
    size_t at[5];
    return layout(params, at);
}

/* OpenCV, INTER_LINEAR_EXACT: the scale is the reciprocal of the rounded inverse scale; 8 fractional bits, to even. */
static void fill_plain(const sp_axis_params *p, int32_t *first, int32_t *count, int32_t *weight)
{
    double scale = 1.0 / ((double)p->out_n / (double)p->src_n);
    for (int i = 0; i < p->n; i++) {
        double at = scale * ((double)(p->out_first + i) + 0.5) - 0.5, base = floor(at);
        int32_t w1 = 0;
        if (base < 0) {
            base = 0;
        } else if (base >= p->src_n - 1) {
            base = p->src_n - 1;
        } else {
            w1 = (int32_t)rint((at - base) * 256.0);
        }
        first[i] = (int32_t)base;
        count[i] = w1 ? 2 : 1;
        weight[i] = w1;
    }
}

static void fill_filtered(const sp_axis_params *p, int32_t *first, int32_t *count, sp_axis *axis)
{
    double scale, support = support_of(p, &scale);
    int most = 1;
    for (int i = 0; i < p->n; i++) {
        double centre = ((double)(p->out_first + i) + 0.5) * scale;
        int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
        low = low < 0 ? 0 : low;
        high = high > p->src_n ? p->src_n : high;
        first[i] = low;
        count[i] = high - low;
        most = count[i] > most ? count[i] : most;
    }
    axis->quads = (most + 3) / 4;
    axis->stride = axis->quads * 4;
}

void sp_axis_fill(const sp_axis_params *params, void *memory, sp_axis *ret_axis)
{
    size_t at[5];
    layout(params, at);
    char *base = memory;
    int32_t *first = memory, *count = (int32_t *)(void *)(base + at[0]), *weight = (int32_t *)(void *)(base + at[1]);
    int n = params->n;
    sp_axis axis = { .n = n, .quads = 1, .stride = 1, .first = first, .count = count, .weight = weight,
                     .packed = base + at[2] };

    if (params->filter == SP_FILTER_PLAIN) {
        fill_plain(params, first, count, weight);
    } else {
        sp_weight_params w = { .cubic = params->filter == SP_FILTER_BICUBIC, .out_first = params->out_first,
                               .spare = (double *)(void *)(base + at[3]) };
        (void)support_of(params, &w.scale);
        w.inverse = 1.0 / (w.scale < 1.0 ? 1.0 : w.scale);
        fill_filtered(params, first, count, &axis);
        sp_kernels.weights(weight, &axis, &w);
    }

    axis.src_first = first[0];
    for (int i = 0; i < n; i++)
        axis.src_end = first[i] + count[i] > axis.src_end ? first[i] + count[i] : axis.src_end;
    for (int i = n; i < n + 16; i++) {
        first[i] = first[n - 1];
        count[i] = count[n - 1];
    }
    *ret_axis = axis;
}
