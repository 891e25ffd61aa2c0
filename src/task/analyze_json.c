/* SPDX-License-Identifier: Apache-2.0
 * report.json: the analysis and nothing else, so that it is the same bytes whoever computed it. What is known only of a run (time,
 * device, cost) stands in run.json. Layout: docs/internals/analyze.md. */
#include "task/analyze_internal.h"

/* Regions of all frames stand in the report up to this many (about 40 bytes each); of a longer video only their counts do. */
#define REGIONS_TOLD 400000u
#define SECTION_SEPARATOR ",\n  "

static void put_hex(sp_buf *out, const uint8_t *bytes, size_t count)
{
    sp_buf_append(out, "\"", 1);
    for (size_t i = 0; i < count; i++)
        sp_buf_printf(out, "%02x", bytes[i]);
    sp_buf_append(out, "\"", 1);
}

static void put_text(sp_buf *out, const char *name, const char *value)
{
    sp_buf_printf(out, ", \"%s\": ", name);
    sp_buf_append_json_text(out, value);
}

static void put_time(sp_buf *out, const char *name, const sp_analysis *a, uint32_t position)
{
    int64_t us = sp_analysis_time_us(a, a->frames[position]->number);
    sp_buf_printf(out, ", \"%s\": ", name);
    if (us < 0)
        sp_buf_append_text(out, "null");
    else
        sp_put_fixed(out, us, 1000000, 6);
}

static void put_bool(sp_buf *out, const char *name, bool value)
{
    sp_buf_printf(out, ", \"%s\": %s", name, value ? "true" : "false");
}

/* value / (divisor * count) with `digits`, 0 when there is nothing to divide by. */
static void put_mean(sp_buf *out, const char *name, uint64_t sum, uint64_t count, uint32_t divisor, int digits)
{
    sp_buf_printf(out, ", \"%s\": ", name);
    sp_put_fixed(out, (int64_t)sum, count ? (int64_t)(count * divisor) : 1, digits);
}

/* --- what was read --- */

static void put_file(sp_buf *out, const sp_video_index *x)
{
    sp_buf_append_text(out, "\"file\": {\"sha256\": ");
    put_hex(out, x->sha256, sizeof(x->sha256));
    sp_buf_printf(out, ", \"bytes\": %llu", (unsigned long long)x->file_bytes);
    put_text(out, "format", x->format);
    put_text(out, "codec", x->codec);
    put_text(out, "pixel_format", x->pixel_format);
    sp_buf_printf(out, ", \"stream\": %u, \"width\": %d, \"height\": %d, \"coded_width\": %d, \"coded_height\": %d, \"rotation\": %d",
                  x->stream, x->width, x->height, x->coded_width, x->coded_height, x->rotation);
    put_bool(out, "mirrored", x->mirrored);
    put_bool(out, "limited_range", x->limited_range);
    put_bool(out, "has_times", x->has_times);
    put_bool(out, "variable_rate", x->variable_rate);
    sp_buf_printf(out, ", \"time_base\": [%d, %d], \"rate\": [%d, %d], \"duration_pts\": %lld, \"notes\": [", x->time_base_num,
                  x->time_base_den, x->rate_num, x->rate_den, (long long)x->duration_pts);
    for (uint32_t i = 0; i < x->note_count; i++) {
        sp_buf_append_text(out, i ? ", " : "");
        sp_buf_append_json_text(out, x->notes[i]);
    }
    sp_buf_append_text(out, "]}");
}

static void put_parameters(sp_buf *out, const sp_analyze_params *params)
{
    int count;
    const sp_param_rule *rules = sp_analyze_param_rules(&count);
    sp_buf_append_text(out, "\"parameters\": {");
    for (int i = 0; i < count; i++) {
        double value = sp_analyze_param_value(params, &rules[i]);
        sp_buf_printf(out, "%s\"%s\": ", i ? ", " : "", rules[i].name);
        if (rules[i].kind == SP_PARAM_DOUBLE)
            sp_buf_printf(out, "%.15g", value);
        else if (rules[i].kind == SP_PARAM_BOOL)
            sp_buf_append_text(out, value != 0 ? "true" : "false");
        else if (rules[i].kind == SP_PARAM_PIXELS)
            sp_put_fixed(out, (int64_t)value, 1024, 6);
        else
            sp_buf_printf(out, "%lld", (long long)value);
    }
    sp_buf_append_text(out, "}");
}

/* Runs of numbers that are missing in one segment, then what its decoder said. */
static void put_losses(sp_buf *out, const sp_analysis *a)
{
    uint32_t at = 0, told = 0;
    sp_buf_append_text(out, "\"losses\": [");
    for (uint32_t i = 0; i < a->index->segment_count; i++) {
        const sp_segment_head *head = a->segments[i];
        const sp_video_segment *place = &sp_video_index_segments(a->index)[i];
        uint32_t end = place->first_frame + place->frame_count, next = place->first_frame, runs = 0;
        uint32_t records = head->record_count;
        if (head->loss.lost_frames | head->loss.damaged_frames | head->loss.error_count) {
            sp_buf_printf(out, "%s\n    {\"segment\": %u, \"lost_frames\": %u, \"damaged_frames\": %u, \"decoder_errors\": %u",
                          told++ ? "," : "", i, head->loss.lost_frames, head->loss.damaged_frames, head->loss.error_count);
            put_text(out, "reason", head->loss.reason);
            sp_buf_append_text(out, ", \"lost\": [");
            for (uint32_t k = 0; k <= records; k++) { /* the end closes the last run */
                uint32_t number = k < records ? a->frames[at + k]->number : end;
                if (number > next)
                    sp_buf_printf(out, "%s[%u, %u]", runs++ ? ", " : "", next, number - 1);
                next = number + 1;
            }
            sp_buf_append_text(out, "]}");
        }
        at += records;
    }
    sp_buf_append_text(out, told ? "\n  ]" : "]");
}

/* --- what was found --- */

typedef struct totals {
    uint64_t pairs, inside, /* of them: not over a cut */ damaged, blurred, exposure[SP_EXPOSURE_COUNT], moving_frames;
    uint64_t mean, sharpness, edges, difference, flow, moving, mask_area, motion_regions, defect_regions;
} totals;

static totals sum_up(const sp_analysis *a)
{
    totals t = { 0 };
    for (uint32_t i = 0; i < a->frame_count; i++) {
        const sp_frame_record *r = a->frames[i];
        t.pairs += r->has_pair;
        t.damaged += r->damaged;
        t.blurred += a->verdicts[i].blurred;
        t.exposure[a->verdicts[i].exposure]++;
        t.mean += r->mean;
        t.sharpness += r->sharpness;
        t.edges += r->edges;
        t.difference += r->difference;
        t.defect_regions += r->defect_count;
        if (!sp_motion_counts(a, i))
            continue;
        t.inside++;
        t.moving_frames += r->motion_count > 0;
        t.flow += r->flow_mean;
        t.moving += r->moving;
        t.mask_area += r->mask_area;
        t.motion_regions += r->motion_count;
    }
    return t;
}

static void put_totals(sp_buf *out, const sp_analysis *a)
{
    totals t = sum_up(a);
    sp_buf_printf(out, "\"totals\": {\"pairs\": %llu, \"scenes\": %u, \"frames_with_motion\": %llu, \"frames_damaged\": %llu, "
                  "\"frames_blurred\": %llu", (unsigned long long)t.pairs, a->scene_count, (unsigned long long)t.moving_frames,
                  (unsigned long long)t.damaged, (unsigned long long)t.blurred);
    for (uint32_t i = 0; i < SP_EXPOSURE_COUNT; i++)
        sp_buf_printf(out, ", \"frames_exposure_%s\": %llu", sp_exposure_name(i), (unsigned long long)t.exposure[i]);
    put_mean(out, "mean", t.mean, a->frame_count, 1000, 3);
    put_mean(out, "sharpness", t.sharpness, a->frame_count, 1000, 3);
    put_mean(out, "edges", t.edges, a->frame_count, 1, 3);
    put_mean(out, "difference", t.difference, t.pairs, 1000, 3);
    put_mean(out, "flow_mean", t.flow, t.inside, 1024, 4);
    put_mean(out, "moving", t.moving, t.inside, 1, 3);
    put_mean(out, "motion_area", t.mask_area, t.inside, 1, 3);
    sp_buf_printf(out, ", \"motion_regions\": %llu, \"defect_regions\": %llu, \"motion_tracks\": %llu, \"defects\": %llu}",
                  (unsigned long long)t.motion_regions, (unsigned long long)t.defect_regions,
                  (unsigned long long)a->motion.found, (unsigned long long)a->defects.found);
}

static void put_scenes(sp_buf *out, const sp_analysis *a)
{
    sp_buf_append_text(out, "\"scenes\": [");
    for (uint32_t i = 0; i < a->scene_count; i++) {
        const sp_scene *scene = &a->scenes[i];
        sp_buf_printf(out, "%s\n    {\"scene\": %u, \"first_frame\": %u, \"last_frame\": %u", i ? "," : "", i,
                      a->frames[scene->first]->number, a->frames[scene->last]->number);
        put_time(out, "begin_s", a, scene->first);
        put_time(out, "last_s", a, scene->last);
        put_mean(out, "median_sharpness", scene->median_sharpness, 1, 1000, 3);
        put_mean(out, "flow_mean", scene->flow_sum, scene->pairs, 1024, 4);
        sp_buf_printf(out, ", \"blurred_frames\": %u}", scene->blurred);
    }
    sp_buf_append_text(out, "\n  ]");
}

static void put_box(sp_buf *out, const char *name, uint32_t x0, uint32_t y0, uint32_t x1, uint32_t y1)
{
    sp_buf_printf(out, ", \"%s\": [%u, %u, %u, %u]", name, x0, y0, x1, y1);
}

static void put_point(sp_buf *out, const char *name, uint32_t x, uint32_t y)
{
    sp_buf_printf(out, ", \"%s\": [", name);
    sp_put_fixed(out, x, 256, 2);
    sp_buf_append_text(out, ", ");
    sp_put_fixed(out, y, 256, 2);
    sp_buf_append_text(out, "]");
}

static void put_tracks(sp_buf *out, const sp_analysis *a, const char *name, const sp_track_list *list, bool still)
{
    sp_buf_printf(out, "\"%s\": [", name);
    for (uint32_t i = 0; i < list->count; i++) {
        const sp_track *t = &list->tracks[i];
        sp_buf_printf(out, "%s\n    {\"id\": %u, \"first_frame\": %u, \"last_frame\": %u, \"frames_seen\": %u", i ? "," : "", i,
                      a->frames[t->first]->number, a->frames[t->last]->number, t->seen);
        put_time(out, "begin_s", a, t->first);
        put_time(out, "last_s", a, t->last);
        put_box(out, "box", t->x0, t->y0, t->x1, t->y1);
        put_mean(out, "mean_area", t->area_sum, t->seen, 1, 1);
        sp_buf_printf(out, ", \"max_area\": %u", t->area_max);
        if (still) {
            put_point(out, "centre", t->begin_x, t->begin_y);
            put_text(out, "place", sp_track_is_on_lens(a, t) ? "lens" : "scene");
            put_mean(out, "strength", t->strength_sum, t->area_sum, 256, 2);
        } else {
            put_box(out, "first_box", t->first_box[0], t->first_box[1], t->first_box[2], t->first_box[3]);
            put_box(out, "last_box", t->last_box[0], t->last_box[1], t->last_box[2], t->last_box[3]);
            put_point(out, "begin", t->begin_x, t->begin_y);
            put_point(out, "end", t->end_x, t->end_y);
            put_mean(out, "path", t->path, 1, 256, 2);
            put_mean(out, "flow_mean", t->strength_sum, t->area_sum, 1024, 3);
        }
        sp_buf_append_text(out, "}");
    }
    sp_buf_append_text(out, list->count ? "\n  ]" : "]");
}

static void put_keys(sp_buf *out, const sp_analysis *a)
{
    sp_buf_append_text(out, "\"key_frames\": [");
    for (uint32_t i = 0; i < a->key_count; i++) {
        const sp_frame_record *r = a->frames[a->keys[i]];
        sp_buf_printf(out, "%s\n    {\"frame\": %u", i ? "," : "", r->number);
        put_time(out, "time_s", a, a->keys[i]);
        put_mean(out, "sharpness", r->sharpness, 1, 1000, 3);
        put_mean(out, "flow_mean", r->flow_mean, 1, 1024, 4);
        sp_buf_printf(out, ", \"picture\": \"key/%06u.png\"}", r->number);
    }
    sp_buf_append_text(out, a->key_count ? "\n  ]" : "]");
}

/* --- each frame --- */

static void put_regions(sp_buf *out, const sp_frame_region *regions, uint32_t count)
{
    sp_buf_append_text(out, ", [");
    for (uint32_t i = 0; i < count; i++) {
        const sp_frame_region *r = &regions[i];
        sp_buf_printf(out, "%s[%u,%u,%u,%u,%u,%u,%u,%u]", i ? "," : "", r->x0, r->y0, r->x1, r->y1, r->area, r->centre_x,
                      r->centre_y, r->strength);
    }
    sp_buf_append_text(out, "]");
}

static bool regions_are_told(const sp_analysis *a)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < a->frame_count; i++)
        count += sp_regions_told(a->frames[i]->motion_count) + sp_regions_told(a->frames[i]->defect_count);
    return count <= REGIONS_TOLD;
}

static void put_frames(sp_buf *out, const sp_analysis *a)
{
    int count;
    int64_t values[SP_COLUMNS_MAX];
    bool regions = regions_are_told(a);
    const sp_column *columns = sp_analysis_columns(&count);

    sp_buf_append_text(out, "\"frames\": {\n    \"columns\": [");
    for (int c = 0; c < count; c++)
        sp_buf_printf(out, "%s\"%s\"", c ? ", " : "", columns[c].name);
    sp_buf_append_text(out, regions ? ", \"motion\", \"defects\"],\n    \"units\": [" : "],\n    \"units\": [");
    for (int c = 0; c < count; c++) {
        if (columns[c].divisor > 1)
            sp_buf_printf(out, "%s\"1/%d %s\"", c ? ", " : "", columns[c].divisor, columns[c].unit);
        else
            sp_buf_printf(out, "%s\"%s\"", c ? ", " : "", columns[c].unit);
    }
    sp_buf_append_text(out, regions ? ", \"regions\", \"regions\"],\n" : "],\n");
    sp_buf_append_text(out, "    \"region\": [\"x0\", \"y0\", \"x1\", \"y1\", \"area\", \"centre_x (1/256 px)\", \"centre_y (1/256 px)\", "
                       "\"strength (motion: 1/1024 px; defect: 1/256 grey level)\"],\n    \"rows\": [");
    for (uint32_t i = 0; i < a->frame_count; i++) {
        const sp_frame_record *r = a->frames[i];
        sp_analysis_row(a, i, values);
        sp_buf_append_text(out, i ? ",\n      [" : "\n      [");
        for (int c = 0; c < count; c++)
            sp_buf_printf(out, "%s%lld", c ? "," : "", (long long)values[c]);
        if (regions) {
            put_regions(out, sp_record_motion(r), sp_regions_told(r->motion_count));
            put_regions(out, sp_record_defects(r), sp_regions_told(r->defect_count));
        }
        sp_buf_append_text(out, "]");
    }
    sp_buf_append_text(out, a->frame_count ? "\n    ]\n  }" : "]\n  }");
}

void sp_analysis_write_json(const sp_analysis *a, sp_buf *out)
{
    sp_buf_append_text(out, "{\n  \"spillway_report\": 1" SECTION_SEPARATOR);
    put_file(out, a->index);
    sp_buf_printf(out, SECTION_SEPARATOR "\"frame_count\": %u, \"frames_analyzed\": %u, \"frames_lost\": %u, \"segments\": %u"
                  SECTION_SEPARATOR, a->index->frame_count, a->frame_count, a->index->frame_count - a->frame_count,
                  a->index->segment_count);
    put_parameters(out, &a->params);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_losses(out, a);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_totals(out, a);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_scenes(out, a);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_tracks(out, a, "tracks", &a->motion, false);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_tracks(out, a, "defects", &a->defects, true);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_keys(out, a);
    sp_buf_append_text(out, SECTION_SEPARATOR);
    put_frames(out, a);
    sp_buf_append_text(out, "\n}\n");
}
