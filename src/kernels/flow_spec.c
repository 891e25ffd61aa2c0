/* SPDX-License-Identifier: Apache-2.0
 * What a dense flow needs to know before the first pixel: sizes of the levels, weights of the pyramid, of the expansion and
 * of the window, and the memory of frames and threads. Everything is computed in double, once. */
#include "kernels/flow_run.h"
#include "kernels/kernels.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIN_SIDE 32 /* of a coarser level */
#define LARGE_PAGE ((size_t)2 << 20)

sp_flow_params sp_flow_params_default(void)
{
    return (sp_flow_params){ .pyr_scale = 0.5, .levels = 3, .winsize = 15, .iterations = 3, .poly_n = 5, .poly_sigma = 1.2 };
}

static sp_status check_int(const char *name, int value, int low, int high, sp_error *reterr)
{
    if (value < low || value > high)
        return SP_FAIL(reterr, SP_INVALID, "optical flow: %s is %d, but must be %d to %d", name, value, low, high);
    return SP_OK;
}

static sp_status check(const sp_flow_params *p, int w, int h, sp_error *reterr)
{
    if (!(p->pyr_scale > 0 && p->pyr_scale < 1))
        return SP_FAIL(reterr, SP_INVALID, "optical flow: pyr_scale is %g, but must lie between 0 and 1", p->pyr_scale);
    if (!(p->poly_sigma >= 0 && p->poly_sigma <= 1e6))
        return SP_FAIL(reterr, SP_INVALID, "optical flow: poly_sigma is %g, but must be 0 (= 0.3 * poly_n) or more",
                       p->poly_sigma);
    sp_status s = check_int("levels", p->levels, 0, SP_FLOW_LEVELS_MAX, reterr);
    s = s ? s : check_int("winsize", p->winsize, 1, 255, reterr);
    s = s ? s : check_int("iterations", p->iterations, 1, 64, reterr);
    s = s ? s : check_int("poly_n", p->poly_n, 1, SP_FLOW_POLY_MAX, reterr);
    if (s)
        return s;
    if (w < 1 || h < 1)
        return SP_FAIL(reterr, SP_INVALID, "optical flow: a frame of %d x %d", w, h);
    if (w > SP_FLOW_SIDE_MAX || h > SP_FLOW_SIDE_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "optical flow: a frame of %d x %d, but a side has at most %d pixels", w, h,
                       SP_FLOW_SIDE_MAX);
    return SP_OK;
}

/* --- tables --- */

static void *table_new(sp_flow *flow, size_t count, size_t element)
{
    void *table = aligned_alloc(64, SP_ALIGN_UP(count * element + SP_FLOW_SLACK * element, (size_t)64));
    if (table) {
        SP_ASSERT(flow->table_count < SP_FLOW_TABLES);
        memset(table, 0, count * element + SP_FLOW_SLACK * element);
        flow->tables[flow->table_count++] = table;
    }
    return table;
}

/* Weights of one output as they are collected. */
typedef struct sums {
    double *at; /* by source index; all zero between outputs */
    int source_n, low, high;
} sums;

static void sums_add(sums *s, int index, double weight)
{
    s->low = SP_MIN(s->low, index);
    s->high = SP_MAX(s->high, index);
    s->at[index] += weight;
}

typedef struct axis_plan {
    enum { AXIS_GREY, AXIS_UP, AXIS_AREA } kind;
    int source_n, n;
    double factor;       /* every weight times this */
    const double *blur;  /* AXIS_GREY: of 2 * radius + 1 taps */
    int radius;
} axis_plan;

/* Mirrored about the outermost pixel, as often as it takes. */
static int mirror(int i, int n)
{
    if (n == 1)
        return 0;
    while (i < 0 || i >= n)
        i = i < 0 ? -i : 2 * (n - 1) - i;
    return i;
}

/* Half-pixel centres; the position is rounded to float, as OpenCV does it. */
static void collect_linear(const axis_plan *plan, int i, sums *s)
{
    double scale = 1.0 / ((double)plan->n / plan->source_n);
    float at = (float)((i + 0.5) * scale - 0.5);
    int first = (int)floorf(at);
    float right = at - (float)first;
    if (first < 0)
        first = 0, right = 0;
    if (first >= plan->source_n - 1)
        first = plan->source_n - 1, right = 0;
    for (int tap = 0; tap < 2; tap++) {
        double weight = tap ? (double)right : 1.0 - (double)right;
        if (weight == 0)
            continue;
        for (int j = -plan->radius; j <= plan->radius; j++) {
            int index = plan->kind == AXIS_GREY ? mirror(first + tap + j, plan->source_n) : first + tap;
            sums_add(s, index, plan->factor * weight * (plan->blur ? plan->blur[j + plan->radius] : 1.0));
        }
    }
}

/* The share that each source sample has in the output's stretch; shares under a thousandth are dropped, as by OpenCV. */
static void collect_area(const axis_plan *plan, int i, sums *s)
{
    double scale = 1.0 / ((double)plan->n / plan->source_n), from = i * scale, to = from + scale;
    double length = SP_MIN(scale, plan->source_n - from);
    int last = SP_MIN((int)floor(to), plan->source_n - 1), first = SP_MIN((int)ceil(from), last);
    if (first - from > 1e-3)
        sums_add(s, first - 1, plan->factor * (first - from) / length);
    for (int j = first; j < last; j++)
        sums_add(s, j, plan->factor / length);
    if (to - last > 1e-3)
        sums_add(s, last, plan->factor * SP_MIN(SP_MIN(to - last, 1.0), length) / length);
}

static void collect(const axis_plan *plan, int i, sums *s)
{
    s->low = INT_MAX;
    s->high = -1;
    if (plan->kind == AXIS_AREA)
        collect_area(plan, i, s);
    else
        collect_linear(plan, i, s);
}

/* Two walks over the outputs: the first finds the most taps of any. */
static sp_status axis_fill(sp_flow *flow, sp_flow_axis *axis, const axis_plan *plan, bool across, sp_error *reterr)
{
    sums s = { .at = calloc((size_t)plan->source_n, sizeof(double)), .source_n = plan->source_n };
    int taps = 1, stride = (int)SP_ALIGN_UP((size_t)plan->n, (size_t)16);
    for (int i = 0; s.at && i < plan->n; i++) {
        collect(plan, i, &s);
        taps = SP_MAX(taps, s.high - s.low + 1);
        memset(s.at + s.low, 0, sizeof(double) * (size_t)(s.high - s.low + 1));
    }
    int32_t *first = table_new(flow, (size_t)stride, sizeof(*first));
    float *weight = table_new(flow, (size_t)stride * (size_t)taps, sizeof(*weight));
    if (!s.at || !first || !weight) {
        free(s.at);
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for the tables of a frame of %d x %d", flow->w, flow->h);
    }
    for (int i = 0; i < stride; i++) {
        if (i >= plan->n) {
            first[i] = first[plan->n - 1];
            continue;
        }
        collect(plan, i, &s);
        first[i] = SP_MIN(s.low, plan->source_n - taps);
        for (int t = 0; t < taps; t++)
            weight[across ? (size_t)t * (size_t)stride + (size_t)i : (size_t)i * (size_t)taps + (size_t)t] =
                (float)s.at[first[i] + t];
        memset(s.at + s.low, 0, sizeof(double) * (size_t)(s.high - s.low + 1));
    }
    free(s.at);
    *axis = (sp_flow_axis){ .n = plan->n, .taps = taps, .stride = stride, .first = first, .weight = weight };
    return SP_OK;
}

/* Across and down at once. */
static sp_status axes_fill(sp_flow *flow, sp_flow_axis *across, sp_flow_axis *down, axis_plan plan, const int source[2],
                           const int size[2], double factor, sp_error *reterr)
{
    plan.factor = 1.0;
    plan.source_n = source[0];
    plan.n = size[0];
    sp_status s = axis_fill(flow, across, &plan, true, reterr);
    plan.factor = factor;
    plan.source_n = source[1];
    plan.n = size[1];
    return s ? s : axis_fill(flow, down, &plan, false, reterr);
}

/* The expansion's Gaussian and the entries of the inverted moment matrix. For a separable weight it has a closed form:
 * with moments 1, m2, m4 of one axis, ig11 = 1 / m2, ig55 = 1 / m2^2, ig33 = 1 / (m4 - m2^2), ig03 = -m2 * ig33. The sums
 * are taken over the rounded weights, as OpenCV takes them, so the moment of order 0 is not quite 1. */
static void fill_poly(sp_flow_poly *poly, int n, double sigma)
{
    if (sigma < FLT_EPSILON)
        sigma = n * 0.3;
    *poly = (sp_flow_poly){ .n = n };
    double sum = 0;
    for (int x = -n; x <= n; x++)
        sum += (float)exp(-x * x / (2 * sigma * sigma));
    for (int x = 0; x <= n; x++) {
        poly->g[x] = (float)((float)exp(-x * x / (2 * sigma * sigma)) * (1.0 / sum));
        poly->xg[x] = (float)x * poly->g[x];
        poly->xxg[x] = (float)(x * x) * poly->g[x];
    }
    double m00 = 0, m11 = 0, m33 = 0, m55 = 0;
    for (int y = -n; y <= n; y++) {
        for (int x = -n; x <= n; x++) {
            float both = poly->g[abs(y)] * poly->g[abs(x)], fx = (float)x, fy = (float)y;
            m00 += both;
            m11 += both * fx * fx;
            m33 += both * fx * fx * fx * fx;
            m55 += both * fx * fx * fy * fy;
        }
    }
    double together = m00 * (m33 + m55) - 2 * m11 * m11;
    double ig03 = -m11 / together, ig33 = 0.5 * (m00 / together + 1 / (m33 - m55));
    double rest = ig03 * poly->g[0];
    poly->curve[0] = (float)rest;
    for (int k = 1; k <= n; k++) {
        double curve = ig03 * poly->g[k] + ig33 * poly->xxg[k];
        poly->curve[k] = (float)curve;
        rest += 2 * curve;
    }
    poly->rest = (float)rest;
    poly->ig11 = (float)(1 / m11);
    poly->ig55 = (float)(1 / m55);
    poly->ig03 = (float)ig03;
    poly->ig03_rest = (float)(ig03 - poly->ig03);
    poly->ig33 = (float)ig33;
    poly->ig33_rest = (float)(ig33 - poly->ig33);
}

/* A box's mean divides by winsize^2 even when the side is winsize + 1: OpenCV's convention. The division is moved into the
 * one constant that has a scale of its own. */
static void fill_window(sp_flow_window *window, int winsize, bool gaussian)
{
    int m = winsize / 2;
    *window = (sp_flow_window){ .n = 2 * m + 1, .gaussian = gaussian };
    if (!gaussian) {
        window->regular = (float)(1e-3 * winsize * winsize * winsize * winsize);
        return;
    }
    window->regular = 1e-3f;
    double sigma = m * 0.3, sum = 1;
    for (int i = 1; i <= m; i++)
        sum += 2 * (float)exp(-i * i / (2 * sigma * sigma));
    for (int i = 0; i <= m; i++)
        window->weight[i] = (float)((i ? (float)exp(-i * i / (2 * sigma * sigma)) : 1.0f) * (1.0 / sum));
}

static float *border_new(sp_flow *flow, int n)
{
    static const float border[SP_FLOW_BORDER] = { 0.14f, 0.14f, 0.4472f, 0.4472f, 0.4472f };
    float *weight = table_new(flow, (size_t)n, sizeof(*weight));
    for (int i = 0; weight && i < n; i++)
        weight[i] = (i < SP_FLOW_BORDER ? border[i] : 1.0f) * (i >= n - SP_FLOW_BORDER ? border[n - 1 - i] : 1.0f);
    return weight;
}

/* The Gaussian in front of a level, as cv2.getGaussianKernel(2 * radius + 1, sigma). */
static double *blur_new(int radius, double sigma)
{
    double *blur = calloc((size_t)(2 * radius + 1), sizeof(*blur)), sum = 0;
    for (int i = -radius; blur && i <= radius; i++)
        sum += blur[i + radius] = exp(-(double)i * i / (2 * sigma * sigma));
    for (int i = 0; blur && i <= 2 * radius; i++)
        blur[i] = (float)(blur[i] / sum);
    return blur;
}

static sp_status level_fill(sp_flow *flow, int k, sp_error *reterr)
{
    sp_flow_level *level = &flow->level[k];
    double scale = 1;
    for (int i = 0; i < k; i++)
        scale *= flow->params.pyr_scale;
    level->w = (int)lrint(flow->w * scale);
    level->h = (int)lrint(flow->h * scale);
    level->stride = sp_flow_stride(level->w);
    level->offset = flow->frame_floats;
    flow->frame_floats += level->stride * (size_t)level->h * SP_FLOW_CHANNELS + SP_FLOW_SLACK;
    level->weight_x = border_new(flow, level->w);
    level->weight_y = border_new(flow, level->h);
    if (!level->weight_x || !level->weight_y)
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for the tables of a frame of %d x %d", flow->w, flow->h);
    const int frame[2] = { flow->w, flow->h }, size[2] = { level->w, level->h };
    if (k < flow->levels) {
        const int coarser[2] = { flow->level[k + 1].w, flow->level[k + 1].h };
        sp_status s = axes_fill(flow, &level->up_across, &level->up_down, (axis_plan){ .kind = AXIS_UP }, coarser, size,
                                1.0 / flow->params.pyr_scale, reterr);
        if (s)
            return s;
    } else {
        sp_status s = axes_fill(flow, &flow->init_across, &flow->init_down, (axis_plan){ .kind = AXIS_AREA }, frame, size,
                                scale, reterr);
        if (s)
            return s;
    }
    if (k == 0)
        return SP_OK;
    double sigma = (1 / scale - 1) * 0.5;
    axis_plan plan = { .kind = AXIS_GREY, .radius = SP_MAX((int)lrint(sigma * 5) | 1, 3) / 2 };
    double *blur = blur_new(plan.radius, sigma);
    plan.blur = blur;
    sp_status s = blur ? axes_fill(flow, &level->across, &level->down, plan, frame, size, 1.0, reterr)
                       : SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for a filter of %d taps", 2 * plan.radius + 1);
    free(blur);
    return s;
}

sp_status sp_flow_new(const sp_flow_params *params, int w, int h, sp_flow **ret_flow, sp_error *reterr)
{
    sp_status s = check(params, w, h, reterr);
    if (s)
        return s;
    sp_kernels_init();
    SP_CLEANUP(sp_flow_freep) sp_flow *flow = calloc(1, sizeof(*flow));
    if (!flow)
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for its tables");
    flow->params = *params;
    flow->w = w;
    flow->h = h;
    double scale = 1;
    for (; flow->levels < params->levels; flow->levels++) {
        scale *= params->pyr_scale;
        if (w * scale < MIN_SIDE || h * scale < MIN_SIDE)
            break;
    }
    fill_poly(&flow->poly, params->poly_n, params->poly_sigma);
    fill_window(&flow->window, params->winsize, params->gaussian);
    for (int k = flow->levels; k >= 0; k--) {
        s = level_fill(flow, k, reterr);
        if (s)
            return s;
    }
    *ret_flow = SP_STEAL(flow);
    return SP_OK;
}

void sp_flow_free(sp_flow *flow)
{
    if (!flow)
        return;
    for (int i = 0; i < flow->table_count; i++)
        free(flow->tables[i]);
    free(flow);
}

/* --- memory --- */

/* Zeroed: that touches every page, and no row's slack ever holds something that is slow to multiply. Large blocks ask for
 * large pages: a row of an expansion of 1080p alone lies on ten small ones. */
static float *floats_new(size_t count)
{
    size_t align = count * sizeof(float) < 2 * LARGE_PAGE ? 4096 : LARGE_PAGE, bytes = SP_ALIGN_UP(count * sizeof(float), align);
    float *memory = aligned_alloc(align, bytes);
    if (!memory)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (align == LARGE_PAGE)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* only faster with it */
#endif
    memset(memory, 0, bytes);
    return memory;
}

sp_status sp_flow_frame_new(const sp_flow *flow, sp_flow_frame **ret_frame, sp_error *reterr)
{
    sp_flow_frame *frame = calloc(1, sizeof(*frame));
    if (frame)
        frame->data = floats_new(flow->frame_floats);
    if (!frame || !frame->data) {
        sp_flow_frame_free(frame);
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for a frame of %d x %d", flow->w, flow->h);
    }
    *ret_frame = frame;
    return SP_OK;
}

void sp_flow_frame_free(sp_flow_frame *frame)
{
    if (!frame)
        return;
    free(frame->data);
    free(frame);
}

static int most_taps(const sp_flow *flow)
{
    int taps = SP_MAX(flow->init_down.taps, 2);
    for (int k = 1; k <= flow->levels; k++)
        taps = SP_MAX(taps, flow->level[k].down.taps);
    return taps;
}

/* With memory NULL only the size is found. */
static float *take(float *memory, size_t *used, size_t count)
{
    float *part = memory ? memory + *used : NULL;
    *used += SP_ALIGN_UP(count, (size_t)16);
    return part;
}

static size_t scratch_lay_out(const sp_flow *flow, sp_flow_scratch *scratch, float *memory)
{
    size_t used = 0;
    size_t stride = flow->level[0].stride;
    int fused = SP_MIN(flow->params.iterations, SP_FLOW_FUSED);
    scratch->image_stride = stride;
    scratch->margin_stride = sp_flow_margin_stride(flow->w);
    scratch->ring_rows = sp_flow_ring_rows(&flow->window);
    scratch->image = take(memory, &used, (size_t)(2 * flow->poly.n + 1) * stride);
    scratch->wide = take(memory, &used, stride);
    scratch->spare = take(memory, &used, 8 * scratch->margin_stride);
    scratch->matrix = take(memory, &used, SP_FLOW_CHANNELS * scratch->margin_stride);
    scratch->sums = take(memory, &used, (size_t)fused * (size_t)scratch->ring_rows * SP_FLOW_CHANNELS * stride);
    for (int k = 1; k <= 2; k++)
        scratch->field[k & 1] = take(memory, &used, k > flow->levels ? 0 : 2 * flow->level[k].stride * (size_t)flow->level[k].h);
    return used;
}

sp_status sp_flow_scratch_new(const sp_flow *flow, sp_flow_scratch **ret_scratch, sp_error *reterr)
{
    SP_CLEANUP(sp_flow_scratch_freep) sp_flow_scratch *scratch = calloc(1, sizeof(*scratch));
    size_t pointers = (size_t)SP_MAX(SP_MAX(most_taps(flow), 2 * flow->poly.n + 1), flow->window.n + SP_FLOW_BAND);
    if (scratch) {
        scratch->memory = floats_new(scratch_lay_out(flow, scratch, NULL));
        scratch->bytes = calloc(pointers, sizeof(*scratch->bytes));
        scratch->rows = calloc(pointers, sizeof(*scratch->rows));
        if (scratch->memory && scratch->bytes && scratch->rows) {
            (void)scratch_lay_out(flow, scratch, scratch->memory); /* the size is known by now */
            *ret_scratch = SP_STEAL(scratch);
            return SP_OK;
        }
    }
    return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory to work on frames of %d x %d", flow->w, flow->h);
}

void sp_flow_scratch_free(sp_flow_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->memory);
    free(scratch->bytes);
    free(scratch->rows);
    free(scratch);
}
