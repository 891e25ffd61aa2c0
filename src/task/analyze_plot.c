/* SPDX-License-Identifier: Apache-2.0
 * One column over all frames as an SVG: up to PLOT_W points; where a point stands for several frames, a line for their mean and
 * a band from the least to the greatest. Integers only, so the page is the same everywhere. */
#include "task/analyze_plot.h"

#include "task/analyze_internal.h"

#include <stdlib.h>

#define PLOT_W 940
#define PLOT_H 120
#define LEFT 56
#define TOP 8
#define CUTS_SHOWN 400u
#define MICRO 1000000

typedef struct plot {
    const char *column, *title;
    bool motion; /* nothing over a cut */
} plot;
static const plot plots[] = {
    { "flow_mean", "Motion: mean flow, pixels a frame", true },
    { "motion_area", "Moving area, pixels", true },
    { "edge_density", "Edges: share of the pixels", false },
    { "sharpness", "Sharpness: variance of the Laplacian", false },
    { "mean", "Exposure: mean grey level", false },
    { "difference", "Change to the next frame: mean difference, grey levels", false },
};

typedef struct point {
    int64_t low, high, mean; /* in millionths of the unit, later in tenths of a pixel from the top */
} point;

static int find_column(const char *name)
{
    int count, i = 0;
    const sp_column *columns = sp_analysis_columns(&count);
    while (strcmp(columns[i].name, name) != 0) {
        i++;
        SP_ASSERT(i < count);
    }
    return i;
}

static uint32_t gather(const sp_analysis *a, int column, int64_t divisor, bool motion, point *points)
{
    uint32_t count = SP_MIN(a->frame_count, (uint32_t)PLOT_W);
    for (uint32_t p = 0; p < count; p++) {
        uint32_t from = (uint32_t)((uint64_t)p * a->frame_count / count), to = (uint32_t)((uint64_t)(p + 1) * a->frame_count / count);
        point *x = &points[p];
        *x = (point){ INT64_MAX, 0, 0 };
        for (uint32_t i = from; i < to; i++) {
            int64_t values[SP_COLUMNS_MAX];
            sp_analysis_row(a, i, values);
            bool counts = !motion || sp_motion_counts(a, i);
            int64_t v = counts ? (int64_t)((__int128)values[column] * MICRO / divisor) : 0;
            x->low = SP_MIN(x->low, v);
            x->high = SP_MAX(x->high, v);
            x->mean += v;
        }
        x->mean /= (int64_t)(to - from);
    }
    return count;
}

/* The next of 1, 2, 5, 10, 20 ... millionths at or above. */
static int64_t nice_top(int64_t value)
{
    for (int64_t step = 1; step < INT64_MAX / 20; step *= 10) {
        if (value <= step)
            return step;
        if (value <= 2 * step)
            return 2 * step;
        if (value <= 5 * step)
            return 5 * step;
    }
    return value;
}

static void put_tenths(sp_buf *out, int64_t tenths)
{
    sp_buf_printf(out, "%lld.%lld", (long long)(tenths / 10), (long long)(tenths % 10));
}

static int64_t x_of(uint64_t i, uint64_t count)
{
    return 10 * LEFT + (count > 1 ? (int64_t)(i * PLOT_W * 10 / (count - 1)) : PLOT_W * 5);
}

static void put_at(sp_buf *out, int64_t x, int64_t y)
{
    put_tenths(out, x);
    sp_buf_append(out, ",", 1);
    put_tenths(out, y);
    sp_buf_append(out, " ", 1);
}

static void put_axes(sp_buf *out, const sp_analysis *a, int64_t top)
{
    int digits = top >= 10 * MICRO ? 0 : top >= MICRO ? 1 : top >= MICRO / 100 ? 3 : 6;
    for (int i = 0; i <= 2; i++) {
        int y = TOP + PLOT_H * (2 - i) / 2;
        sp_buf_printf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/><text x=\"%d\" y=\"%d\" text-anchor=\"end\">",
                      LEFT, LEFT + PLOT_W, y, y, LEFT - 6, y + 4);
        sp_put_fixed(out, top * i / 2, MICRO, digits);
        sp_buf_append_text(out, "</text>");
    }
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t position = (uint32_t)((uint64_t)(a->frame_count - 1) * i / 5);
        sp_buf_append_text(out, "<text x=\"");
        put_tenths(out, x_of(position, a->frame_count));
        sp_buf_printf(out, "\" y=\"%d\" text-anchor=\"%s\">", TOP + PLOT_H + 15, i == 0 ? "start" : i == 5 ? "end" : "middle");
        sp_put_when(out, a, position);
        sp_buf_append_text(out, "</text>");
    }
}

/* Scene cuts as dashed lines (of a video of very many the first ones), key frames as dots with a link. */
static void put_marks(sp_buf *out, const sp_analysis *a)
{
    for (uint32_t i = 1; i < SP_MIN(a->scene_count, CUTS_SHOWN); i++) {
        int64_t x = x_of(a->scenes[i].first, a->frame_count);
        sp_buf_append_text(out, "<line class=\"cut\" x1=\"");
        put_tenths(out, x);
        sp_buf_append_text(out, "\" x2=\"");
        put_tenths(out, x);
        sp_buf_printf(out, "\" y1=\"%d\" y2=\"%d\"/>", TOP, TOP + PLOT_H);
    }
    for (uint32_t i = 0; i < a->key_count; i++) {
        uint32_t number = a->frames[a->keys[i]]->number;
        sp_buf_printf(out, "<a href=\"key/%06u.png\"><circle class=\"key\" r=\"3.5\" cy=\"%d\" cx=\"", number, TOP);
        put_tenths(out, x_of(a->keys[i], a->frame_count));
        sp_buf_printf(out, "\"><title>key frame %u</title></circle></a>", number);
    }
}

static void put_curve(sp_buf *out, const point *points, uint32_t count, bool band)
{
    if (band) {
        sp_buf_append_text(out, "<polygon class=\"band\" points=\"");
        for (uint32_t i = 0; i < count; i++)
            put_at(out, x_of(i, count), points[i].high);
        for (uint32_t i = count; i > 0; i--)
            put_at(out, x_of(i - 1, count), points[i - 1].low);
        sp_buf_append_text(out, "\"/>");
    }
    sp_buf_append_text(out, "<polyline class=\"line\" points=\"");
    for (uint32_t i = 0; i < count; i++)
        put_at(out, x_of(i, count), points[i].mean);
    sp_buf_append_text(out, "\"/>");
}

static void put_plot(sp_buf *out, const sp_analysis *a, const plot *what, point *points)
{
    int columns_count, column = find_column(what->column);
    uint32_t count = gather(a, column, sp_analysis_columns(&columns_count)[column].divisor, what->motion, points);
    int64_t top = 1;

    for (uint32_t i = 0; i < count; i++)
        top = SP_MAX(top, points[i].high);
    top = nice_top(top);
    for (uint32_t i = 0; i < count; i++) {
        int64_t *y[3] = { &points[i].low, &points[i].high, &points[i].mean };
        for (int k = 0; k < 3; k++)
            *y[k] = 10 * (TOP + PLOT_H) - (int64_t)((__int128)*y[k] * PLOT_H * 10 / top);
    }
    sp_buf_printf(out, "<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">", what->title,
                  LEFT + PLOT_W + 8, TOP + PLOT_H + 20, what->title);
    put_axes(out, a, top);
    put_curve(out, points, count, count < a->frame_count);
    put_marks(out, a);
    sp_buf_append_text(out, "</svg></figure>\n");
}

void sp_put_plots(sp_buf *out, const sp_analysis *a)
{
    if (a->frame_count == 0)
        return;
    point *points = calloc(PLOT_W, sizeof(*points));
    if (!points) {
        out->failed = true;
        return;
    }
    sp_buf_append_text(out, "<h2>Over the frames</h2>\n<p class=\"dim\">Dashed: a scene ends. Dots: key frames.</p>\n");
    for (size_t i = 0; i < SP_ARRAY_LEN(plots); i++)
        put_plot(out, a, &plots[i], points);
    free(points);
}
