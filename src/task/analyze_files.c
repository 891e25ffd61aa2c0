/* SPDX-License-Identifier: Apache-2.0
 * The report as files, and what is drawn onto pictures. Pictures are for people: one that cannot be made is left out. */
#include "task/analyze_overlay.h"

#include "task/analyze_internal.h"
#include "task/draw.h"

#include "media/image.h"

#include <stdio.h>
#include <stdlib.h>

/* Ceiling of one file in memory: the longest video's columns (SP_LIMIT_VIDEO_FRAMES) need about 600 MB. */
#define FILE_BYTES_MAX ((size_t)1 << 30)

/* --- drawing --- */

static const uint8_t green[3] = { 60, 200, 90 }, red[3] = { 235, 40, 60 }, dark[3] = { 20, 22, 26 };

/* Its position, frame_count = it was lost. */
static uint32_t find_frame(const sp_analysis *a, uint32_t number)
{
    uint32_t low = 0, high = a->frame_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (a->frames[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < a->frame_count && a->frames[low]->number == number ? low : a->frame_count;
}

/* "2.4 PX": tenths of a pixel. */
static void draw_motion(const sp_canvas *canvas, const sp_frame_region *r, int thickness)
{
    char label[32];
    uint32_t tenths = (r->strength * 10 + 512) / 1024;
    sp_draw_box(canvas, r->x0, r->y0, r->x1, r->y1, thickness, green);
    (void)snprintf(label, sizeof(label), "%u.%u px", tenths / 10, tenths % 10);
    sp_draw_label(canvas, r->x0, r->y0, thickness, label, green);
}

/* A little larger than the spot, so that it can still be seen. */
static void draw_defect(const sp_canvas *canvas, const sp_frame_region *r, int thickness)
{
    int room = 2 + thickness;
    sp_draw_box(canvas, r->x0 - room, r->y0 - room, r->x1 + room, r->y1 + room, thickness, red);
}

/* Is it part of a spot that stood still long enough to be told? */
static bool is_told_defect(const sp_analysis *a, uint32_t number, const sp_frame_region *r)
{
    for (uint32_t i = 0; i < a->defects.count; i++) {
        const sp_track *t = &a->defects.tracks[i];
        if (a->frames[t->first]->number <= number && a->frames[t->last]->number >= number && r->x0 >= t->x0 && r->y0 >= t->y0 &&
            r->x1 <= t->x1 && r->y1 <= t->y1)
            return true;
    }
    return false;
}

void sp_analysis_draw(const sp_analysis *a, uint32_t number, uint8_t *rgb)
{
    uint32_t position = find_frame(a, number);
    const sp_canvas canvas = { rgb, a->index->width, a->index->height };
    int thickness = SP_CLAMP(canvas.w / 480, 1, 6);
    char label[64];

    if (position == a->frame_count)
        return;
    const sp_frame_record *r = a->frames[position];
    uint32_t motion_count = sp_motion_counts(a, position) ? sp_regions_told(r->motion_count) : 0;
    for (uint32_t i = 0; i < sp_regions_told(r->defect_count); i++) {
        if (is_told_defect(a, number, &sp_record_defects(r)[i]))
            draw_defect(&canvas, &sp_record_defects(r)[i], thickness);
    }
    for (uint32_t i = motion_count; i > 0; i--) /* the largest on top */
        draw_motion(&canvas, &sp_record_motion(r)[i - 1], thickness);
    int64_t us = sp_analysis_time_us(a, number);
    if (us < 0)
        (void)snprintf(label, sizeof(label), "frame %u", number);
    else
        (void)snprintf(label, sizeof(label), "frame %u  %lld:%02lld.%02lld", number, (long long)(us / 60000000),
                       (long long)(us / 1000000 % 60), (long long)(us / 10000 % 100));
    sp_draw_label(&canvas, 0, 0, thickness, label, dark);
}

/* --- files --- */

typedef struct report {
    const sp_analysis *analysis;
    const sp_video_api *api;
    const sp_video_source *source;
    sp_report_put_fn *put;
    void *context;
    sp_error *reterr;
} report;

static sp_status put_text_file(const report *r, const char *name, void (*write)(const sp_analysis *analysis, sp_buf *out))
{
    sp_buf out;
    sp_buf_init(&out, FILE_BYTES_MAX);
    write(r->analysis, &out);
    sp_status s = sp_buf_ok(&out) ? r->put(r->context, name, sp_buf_view(&out), r->reterr)
                                  : SP_FAIL(r->reterr, SP_NOMEM, "no memory for %s", name);
    sp_buf_done(&out);
    return s;
}

/* What ends a report; all else only leaves a picture out. */
static sp_status serious(sp_status s)
{
    return s == SP_CANCELLED || s == SP_NOMEM ? s : SP_OK;
}

/* One key frame with what was found in it. SP_OK too when it cannot be made. */
static sp_status put_picture(const report *r, sp_video *video, uint32_t number, uint8_t *rgb)
{
    char name[32];
    uint8_t *file = NULL;
    size_t bytes = 0;
    const sp_video_index *x = r->analysis->index;

    sp_status s = r->api->picture(video, number, rgb, r->reterr);
    if (s)
        return serious(s);
    sp_analysis_draw(r->analysis, number, rgb);
    s = r->api->encode_png(rgb, x->width, x->height, 0, &file, &bytes, r->reterr);
    if (s)
        return serious(s);
    (void)snprintf(name, sizeof(name), "key/%06u.png", number);
    s = r->put(r->context, name, sp_view_make(file, bytes), r->reterr);
    free(file);
    return s;
}

static sp_status put_pictures(const report *r)
{
    sp_video *video = NULL;
    sp_status s = SP_OK;
    uint32_t numbers[SP_LIMIT_KEY_FRAMES];
    uint32_t count = sp_analysis_key_frames(r->analysis, numbers);
    const sp_video_options options = { .threads = 1 };
    uint8_t *rgb = malloc(3 * (size_t)r->analysis->index->width * (size_t)r->analysis->index->height);

    if (!rgb)
        return SP_FAIL(r->reterr, SP_NOMEM, "no memory for a picture of the report");
    s = serious(r->api->open(r->source, r->analysis->index, &options, &video, r->reterr));
    for (uint32_t i = 0; i < count && video && !s; i++)
        s = put_picture(r, video, numbers[i], rgb);
    r->api->close(video);
    free(rgb);
    return s;
}

sp_status sp_analysis_write_all(const sp_analysis *analysis, const sp_media_api *media, const sp_video_source *source, bool overlay,
                                sp_report_put_fn *put, void *context, sp_error *reterr)
{
    const report r = { analysis, media ? media->video : NULL, source, put, context, reterr };
    sp_status s = put_text_file(&r, "report.json", sp_analysis_write_json);
    if (!s)
        s = put_text_file(&r, "frames.csv", sp_analysis_write_csv);
    if (!s)
        s = put_text_file(&r, "frames.npz", sp_analysis_write_npz);
    if (!s && r.api)
        s = put_pictures(&r);
    if (!s)
        s = put_text_file(&r, "report.html", sp_analysis_write_html);
    if (!s && r.api && overlay)
        s = sp_overlay_put(analysis, r.api, source, put, context, reterr);
    return s;
}
