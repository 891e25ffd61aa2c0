/* SPDX-License-Identifier: Apache-2.0
 * The columns of a frame: one table that JSON, CSV, NPZ and the pictures of the report read, so that they cannot disagree. */
#include "task/analyze_internal.h"

#include <stdlib.h>

enum {
    COL_NUMBER, COL_PTS, COL_TIME, COL_SCENE, COL_CUT, COL_HAS_PAIR, COL_DAMAGED, COL_KEY, COL_CHOSEN, COL_BLURRED, COL_EXPOSURE,
    COL_MEAN, COL_DEVIATION, COL_DARK, COL_BRIGHT, COL_SHARPNESS, COL_FOCUS, COL_EDGES, COL_EDGE_DENSITY, COL_DIFFERENCE, COL_HISTOGRAM,
    COL_FLOW_X, COL_FLOW_Y, COL_FLOW_MEAN, COL_FLOW_DEVIATION, COL_FLOW_MAX, COL_MOVING, COL_DIRECTION,
    COL_MASK_AREA = COL_DIRECTION + 8, COL_MOTION_REGIONS, COL_DEFECT_REGIONS, COL_COUNT
};
_Static_assert(COL_COUNT <= SP_COLUMNS_MAX, "rows have room for all columns");

static const sp_column columns[COL_COUNT] = {
    [COL_NUMBER] = { "frame", "", 1, 0 },
    [COL_PTS] = { "pts", "time base", 1, 0 },
    [COL_TIME] = { "time", "s", 1000000, 6 }, /* since the first frame; -0.000001 (-1) = unknown */
    [COL_SCENE] = { "scene", "", 1, 0 },
    [COL_CUT] = { "cut", "0/1", 1, 0 },
    [COL_HAS_PAIR] = { "has_pair", "0/1", 1, 0 },
    [COL_DAMAGED] = { "damaged", "0/1", 1, 0 },
    [COL_KEY] = { "stream_key", "0/1", 1, 0 },
    [COL_CHOSEN] = { "key_frame", "0/1", 1, 0 },
    [COL_BLURRED] = { "blurred", "0/1", 1, 0 },
    [COL_EXPOSURE] = { "exposure", "0 ok, 1 dark, 2 bright, 3 flat", 1, 0 },
    [COL_MEAN] = { "mean", "grey level", 1000, 3 },
    [COL_DEVIATION] = { "deviation", "grey level", 1000, 3 },
    [COL_DARK] = { "dark", "share", 1000, 3 },
    [COL_BRIGHT] = { "bright", "share", 1000, 3 },
    [COL_SHARPNESS] = { "sharpness", "variance of the Laplacian", 1000, 3 },
    [COL_FOCUS] = { "focus", "sharpness over variance", 1000, 3 },
    [COL_EDGES] = { "edges", "px", 1, 0 },
    [COL_EDGE_DENSITY] = { "edge_density", "share", 1000000, 6 },
    [COL_DIFFERENCE] = { "difference", "grey level", 1000, 3 },
    [COL_HISTOGRAM] = { "histogram_distance", "share", 1000, 3 },
    [COL_FLOW_X] = { "flow_x", "px", 1024, 4 },
    [COL_FLOW_Y] = { "flow_y", "px", 1024, 4 },
    [COL_FLOW_MEAN] = { "flow_mean", "px", 1024, 4 },
    [COL_FLOW_DEVIATION] = { "flow_deviation", "px", 1024, 4 },
    [COL_FLOW_MAX] = { "flow_max", "px", 1024, 4 },
    [COL_MOVING] = { "moving", "px", 1, 0 },
    [COL_DIRECTION + 0] = { "direction_e", "share", 1000, 3 },
    [COL_DIRECTION + 1] = { "direction_se", "share", 1000, 3 },
    [COL_DIRECTION + 2] = { "direction_s", "share", 1000, 3 },
    [COL_DIRECTION + 3] = { "direction_sw", "share", 1000, 3 },
    [COL_DIRECTION + 4] = { "direction_w", "share", 1000, 3 },
    [COL_DIRECTION + 5] = { "direction_nw", "share", 1000, 3 },
    [COL_DIRECTION + 6] = { "direction_n", "share", 1000, 3 },
    [COL_DIRECTION + 7] = { "direction_ne", "share", 1000, 3 },
    [COL_MASK_AREA] = { "motion_area", "px", 1, 0 },
    [COL_MOTION_REGIONS] = { "motion_regions", "", 1, 0 },
    [COL_DEFECT_REGIONS] = { "defect_regions", "", 1, 0 },
};

const sp_column *sp_analysis_columns(int *ret_count)
{
    *ret_count = COL_COUNT;
    return columns;
}

void sp_analysis_row(const sp_analysis *a, uint32_t position, int64_t v[SP_COLUMNS_MAX])
{
    const sp_frame_record *r = a->frames[position];
    const sp_frame_verdict *verdict = &a->verdicts[position];
    int64_t pixels = (int64_t)a->index->width * a->index->height;

    v[COL_NUMBER] = r->number;
    v[COL_PTS] = r->pts;
    v[COL_TIME] = sp_analysis_time_us(a, r->number);
    v[COL_SCENE] = verdict->scene;
    v[COL_CUT] = verdict->cut;
    v[COL_HAS_PAIR] = r->has_pair;
    v[COL_DAMAGED] = r->damaged;
    v[COL_KEY] = r->key;
    v[COL_CHOSEN] = verdict->chosen;
    v[COL_BLURRED] = verdict->blurred;
    v[COL_EXPOSURE] = verdict->exposure;
    v[COL_MEAN] = r->mean;
    v[COL_DEVIATION] = r->deviation;
    v[COL_DARK] = r->dark;
    v[COL_BRIGHT] = r->bright;
    v[COL_SHARPNESS] = (int64_t)r->sharpness;
    v[COL_FOCUS] = sp_record_focus(r);
    v[COL_EDGES] = r->edges;
    v[COL_EDGE_DENSITY] = (int64_t)r->edges * 1000000 / pixels;
    v[COL_DIFFERENCE] = r->difference;
    v[COL_HISTOGRAM] = r->histogram_distance;
    v[COL_FLOW_X] = r->flow_x;
    v[COL_FLOW_Y] = r->flow_y;
    v[COL_FLOW_MEAN] = r->flow_mean;
    v[COL_FLOW_DEVIATION] = r->flow_deviation;
    v[COL_FLOW_MAX] = r->flow_max;
    v[COL_MOVING] = r->moving;
    for (int i = 0; i < 8; i++)
        v[COL_DIRECTION + i] = r->direction[i];
    v[COL_MASK_AREA] = r->mask_area;
    v[COL_MOTION_REGIONS] = r->motion_count;
    v[COL_DEFECT_REGIONS] = r->defect_count;
}

const char *sp_exposure_name(uint32_t exposure)
{
    static const char *const names[SP_EXPOSURE_COUNT] = { "ok", "dark", "bright", "flat" };
    return names[exposure];
}

void sp_put_fixed(sp_buf *out, int64_t value, int64_t divisor, int digits)
{
    int64_t scale = 1;
    for (int i = 0; i < digits; i++)
        scale *= 10;
    __int128 magnitude = value < 0 ? -(__int128)value : value;
    uint64_t scaled = (uint64_t)((magnitude * scale + divisor / 2) / divisor);
    const char *sign = value < 0 && scaled ? "-" : "";
    if (digits == 0)
        sp_buf_printf(out, "%s%llu", sign, (unsigned long long)scaled);
    else
        sp_buf_printf(out, "%s%llu.%0*llu", sign, (unsigned long long)(scaled / (uint64_t)scale), digits,
                      (unsigned long long)(scaled % (uint64_t)scale));
}

/* A header line, then a line a frame, in the units of the columns (docs/internals/analyze.md). */
void sp_analysis_write_csv(const sp_analysis *a, sp_buf *out)
{
    int64_t values[SP_COLUMNS_MAX];
    for (int c = 0; c < COL_COUNT; c++)
        sp_buf_printf(out, "%s%s", c ? "," : "", columns[c].name);
    sp_buf_append(out, "\n", 1);
    for (uint32_t i = 0; i < a->frame_count; i++) {
        sp_analysis_row(a, i, values);
        for (int c = 0; c < COL_COUNT; c++) {
            if (c)
                sp_buf_append(out, ",", 1);
            if (c != COL_TIME || values[c] >= 0) /* an unknown time is an empty field */
                sp_put_fixed(out, values[c], columns[c].divisor, columns[c].digits);
        }
        sp_buf_append(out, "\n", 1);
    }
}
