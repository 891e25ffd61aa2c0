/* SPDX-License-Identifier: Apache-2.0
 * Which frames stand for the video: sharpness x motion x spacing, one after the other, ties to the lower number. Integers only. */
#include "task/analyze_internal.h"

/* A scene's last frame has no motion of its own. */
static uint32_t motion_of(const sp_analysis *a, uint32_t position)
{
    return sp_motion_counts(a, position) ? a->frames[position]->flow_mean : 0;
}

/* Each factor is 1 .. 1000 (motion 100 .. 1000), so that none can rule a frame out and none can rule alone. */
static uint64_t merit(const sp_analysis *a, uint32_t position, uint64_t sharpest, uint64_t fastest)
{
    uint64_t sharp = 1 + 999 * sp_isqrt(a->frames[position]->sharpness) / sharpest;
    uint64_t motion = 100 + 900 * (uint64_t)motion_of(a, position) / fastest;
    return sharp * motion;
}

static void range_of(const sp_analysis *a, uint64_t *ret_sharpest, uint64_t *ret_fastest)
{
    uint64_t sharpness = 1, flow = 1;
    for (uint32_t i = 0; i < a->frame_count; i++) {
        sharpness = SP_MAX(sharpness, a->frames[i]->sharpness);
        flow = SP_MAX(flow, (uint64_t)motion_of(a, i));
    }
    *ret_sharpest = SP_MAX(sp_isqrt(sharpness), (uint64_t)1);
    *ret_fastest = flow;
}

/* The best frame that is not chosen yet; frame_count when there is none. Damaged ones come last. */
static uint32_t best(const sp_analysis *a, const uint32_t *distances, uint64_t sharpest, uint64_t fastest, uint64_t ideal)
{
    uint32_t found = a->frame_count;
    uint64_t most = 0;
    for (uint32_t i = 0; i < a->frame_count; i++) {
        if (a->verdicts[i].chosen)
            continue;
        uint64_t spacing = SP_MIN(1 + 999 * (uint64_t)distances[i] / ideal, (uint64_t)1000);
        uint64_t score = merit(a, i, sharpest, fastest) * spacing;
        if (a->frames[i]->damaged)
            score = 1;
        if (score > most) {
            most = score;
            found = i;
        }
    }
    return found;
}

void sp_analysis_choose_keys(sp_analysis *a, uint32_t *distances)
{
    uint64_t sharpest, fastest;
    uint32_t wanted = SP_MIN(a->params.key_frames, a->frame_count);
    uint64_t ideal = wanted ? SP_MAX((uint64_t)a->frame_count / wanted, (uint64_t)1) : 1;

    range_of(a, &sharpest, &fastest);
    for (uint32_t i = 0; i < a->frame_count; i++)
        distances[i] = UINT32_MAX;
    for (uint32_t n = 0; n < wanted; n++) {
        uint32_t at = best(a, distances, sharpest, fastest, ideal);
        if (at == a->frame_count)
            break;
        a->verdicts[at].chosen = 1;
        for (uint32_t i = 0; i < a->frame_count; i++)
            distances[i] = SP_MIN(distances[i], i > at ? i - at : at - i);
    }
    for (uint32_t i = 0; i < a->frame_count; i++) {
        if (a->verdicts[i].chosen)
            a->keys[a->key_count++] = i;
    }
}
