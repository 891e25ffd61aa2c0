/* SPDX-License-Identifier: Apache-2.0
 * Scenes, blur and exposure: what a frame is among those around it. Rules and numbers: docs/internals/analyze.md. */
#include "task/analyze_internal.h"

#include <stdlib.h>

/* --- cuts --- */

static uint32_t distance(uint32_t a, uint32_t b)
{
    return a > b ? a - b : b - a;
}

/* Does the picture before the first cut look like the one behind the second? Then a flash went by. */
static bool is_flash(const sp_analysis *a, uint32_t first, uint32_t second)
{
    const sp_frame_record *before = a->frames[first];
    if (second + 1 >= a->frame_count)
        return false;
    const sp_frame_record *after = a->frames[second + 1];
    return distance(before->mean, after->mean) < 6000 && distance(before->deviation, after->deviation) < 4000;
}

/* Cuts that stand: candidates of the records, less flashes and less what follows another one too closely. */
static void decide_cuts(sp_analysis *a)
{
    uint32_t last = UINT32_MAX;
    for (uint32_t i = 0; i + 1 < a->frame_count; i++) {
        if (!a->frames[i]->cut)
            continue;
        if (last == UINT32_MAX || i - last >= SP_SCENE_MIN_FRAMES) {
            a->verdicts[i].cut = 1;
            last = i;
        } else if (a->verdicts[last].cut && is_flash(a, last, i)) {
            a->verdicts[last].cut = 0;
        }
    }
}

/* --- scenes --- */

static int by_size(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void measure_scene(const sp_analysis *a, sp_scene *scene, uint64_t *scratch)
{
    uint32_t count = scene->last - scene->first + 1;
    for (uint32_t i = 0; i < count; i++) {
        const sp_frame_record *r = a->frames[scene->first + i];
        scratch[i] = r->sharpness;
        if (sp_motion_counts(a, scene->first + i)) {
            scene->flow_sum += r->flow_mean;
            scene->pairs++;
        }
    }
    qsort(scratch, count, sizeof(*scratch), by_size);
    scene->median_sharpness = scratch[(count - 1) / 2];
}

static sp_exposure exposure_of(const sp_frame_record *r)
{
    if (r->mean < SP_DARK_MEAN || r->dark > SP_DARK_SHARE)
        return SP_EXPOSURE_DARK;
    if (r->mean > SP_BRIGHT_MEAN || r->bright > SP_BRIGHT_SHARE)
        return SP_EXPOSURE_BRIGHT;
    return r->deviation < SP_FLAT_DEVIATION ? SP_EXPOSURE_FLAT : SP_EXPOSURE_OK;
}

uint32_t sp_record_focus(const sp_frame_record *r)
{
    uint64_t variance = (uint64_t)r->deviation * r->deviation; /* millionths */
    uint64_t focus = variance ? r->sharpness * 1000000 / variance : 1000000;
    return (uint32_t)SP_MIN(focus, (uint64_t)1000000);
}

static bool is_blurred(const sp_frame_record *r, const sp_scene *scene)
{
    uint32_t focus = sp_record_focus(r);
    return focus < SP_BLUR_FOCUS || (focus < SP_BLUR_FOCUS_IN_SCENE && r->sharpness < scene->median_sharpness / SP_BLUR_SHARE);
}

static void judge_frames(sp_analysis *a, uint32_t number, sp_scene *scene)
{
    for (uint32_t i = scene->first; i <= scene->last; i++) {
        const sp_frame_record *r = a->frames[i];
        sp_frame_verdict *v = &a->verdicts[i];
        v->scene = number;
        v->blurred = is_blurred(r, scene);
        v->exposure = (uint8_t)exposure_of(r);
        scene->blurred += v->blurred;
    }
}

sp_status sp_analysis_find_scenes(sp_analysis *a, sp_error *reterr)
{
    uint32_t count = a->frame_count ? 1 : 0;

    decide_cuts(a);
    for (uint32_t i = 0; i < a->frame_count; i++)
        count += a->verdicts[i].cut;
    a->scenes = calloc((size_t)count + 1, sizeof(*a->scenes));
    uint64_t *scratch = calloc((size_t)a->frame_count + 1, sizeof(*scratch));
    if (!a->scenes || !scratch) {
        free(scratch);
        return SP_FAIL(reterr, SP_NOMEM, "no memory to merge the analysis of a video");
    }
    for (uint32_t first = 0, i = 0; i < a->frame_count; i++) {
        if (!a->verdicts[i].cut && i + 1 < a->frame_count)
            continue;
        sp_scene *scene = &a->scenes[a->scene_count];
        *scene = (sp_scene){ .first = first, .last = i };
        measure_scene(a, scene, scratch);
        judge_frames(a, a->scene_count++, scene);
        first = i + 1;
    }
    free(scratch);
    return SP_OK;
}
