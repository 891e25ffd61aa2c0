/* SPDX-License-Identifier: Apache-2.0
 * Regions over frames: what moves, followed as long as it is seen; and spots that stand still, which may be defects.
 * Greedy: the best pair of a live track and a region first, ties to the older track, then to the larger region. Integers only;
 * rules in docs/internals/analyze.md. */
#include "task/analyze_internal.h"

#include <stdlib.h>

/* Frames that a track may not be seen in before it ends. */
#define GAP 5u
/* At most GAP + 1 frames of unmatched regions and this frame's are alive. */
#define LIVE_MAX ((GAP + 2) * SP_LIMIT_FRAME_REGIONS)
/* Motion: overlap of the boxes from here on (thousandths of the union); else the centres' distance against the boxes' sides. */
#define OVERLAP_MIN 100u
/* Defects: how far the centre may stray from where it was first seen, 1/256 px. */
#define STILL (2 * 256)

typedef struct tracker {
    sp_track_list *list;
    bool still;             /* defects; else motion */
    uint32_t min_seen;
    bool against;           /* half of the frame in hand moves */
    sp_track live[LIVE_MAX];
    uint32_t live_count;
} tracker;

typedef struct match {
    uint32_t score, track, region;
} match;

/* --- one pair --- */

static uint64_t box_area(const uint16_t box[4])
{
    return (uint64_t)(box[2] - box[0]) * (uint64_t)(box[3] - box[1]);
}

static uint32_t overlap(const uint16_t a[4], const uint16_t b[4])
{
    int w = SP_MIN(a[2], b[2]) - SP_MAX(a[0], b[0]), h = SP_MIN(a[3], b[3]) - SP_MAX(a[1], b[1]);
    if (w <= 0 || h <= 0)
        return 0;
    uint64_t both = (uint64_t)w * (uint64_t)h;
    return (uint32_t)(both * 1000 / (box_area(a) + box_area(b) - both));
}

static uint64_t squared_distance(uint32_t ax, uint32_t ay, uint32_t bx, uint32_t by)
{
    int64_t dx = (int64_t)ax - bx, dy = (int64_t)ay - by;
    return (uint64_t)(dx * dx + dy * dy);
}

/* 0 = no match; greater is better. 1001 .. 2000: boxes overlap; 1 .. 1000: centres are near. */
static uint32_t motion_score(const sp_track *t, const sp_frame_region *r)
{
    const uint16_t box[4] = { r->x0, r->y0, r->x1, r->y1 };
    uint32_t shared = overlap(t->last_box, box);
    if (shared >= OVERLAP_MIN)
        return 1000 + shared;
    /* Within half of the larger side of the two. */
    uint32_t side = 0;
    for (int i = 0; i < 2; i++)
        side = SP_MAX(side, (uint32_t)SP_MAX(t->last_box[2 + i] - t->last_box[i], box[2 + i] - box[i]));
    uint64_t reach = (uint64_t)side * 128, away = sp_isqrt(squared_distance(t->end_x, t->end_y, r->centre_x, r->centre_y));
    return away < reach ? (uint32_t)(1000 - away * 1000 / reach) : 0;
}

static uint32_t still_score(const sp_track *t, const sp_frame_region *r)
{
    uint64_t away = squared_distance(t->begin_x, t->begin_y, r->centre_x, r->centre_y);
    return away <= (uint64_t)STILL * STILL ? (uint32_t)((uint64_t)STILL * STILL + 1 - away) : 0;
}

/* --- a track --- */

static void track_see(sp_track *t, uint32_t position, const sp_frame_region *r)
{
    const uint16_t box[4] = { r->x0, r->y0, r->x1, r->y1 };
    if (!t->seen) {
        *t = (sp_track){ .first = position, .x0 = r->x0, .y0 = r->y0, .x1 = r->x1, .y1 = r->y1,
                         .begin_x = r->centre_x, .begin_y = r->centre_y, .end_x = r->centre_x, .end_y = r->centre_y };
        memcpy(t->first_box, box, sizeof(box));
    }
    t->path += sp_isqrt(squared_distance(t->end_x, t->end_y, r->centre_x, r->centre_y));
    t->last = position;
    t->seen++;
    t->end_x = r->centre_x;
    t->end_y = r->centre_y;
    t->x0 = SP_MIN(t->x0, r->x0);
    t->y0 = SP_MIN(t->y0, r->y0);
    t->x1 = SP_MAX(t->x1, r->x1);
    t->y1 = SP_MAX(t->y1, r->y1);
    memcpy(t->last_box, box, sizeof(box));
    t->area_sum += r->area;
    t->area_max = SP_MAX(t->area_max, r->area);
    t->strength_sum += (uint64_t)r->area * r->strength;
}

/* --- the list of those that have ended --- */

/* Heavier first; then older, then by place: two tracks do not begin with the same region, so this orders them all. */
static int by_weight(const void *left, const void *right)
{
    const sp_track *a = left, *b = right;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    if (a->begin_y != b->begin_y)
        return a->begin_y < b->begin_y ? -1 : 1;
    if (a->begin_x != b->begin_x)
        return a->begin_x < b->begin_x ? -1 : 1;
    return memcmp(a->first_box, b->first_box, sizeof(a->first_box));
}

static int by_begin(const void *left, const void *right)
{
    const sp_track *a = left, *b = right;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return by_weight(left, right);
}

/* Whoever is dropped has SP_LIMIT_TRACKS heavier ones before him, so when it is done does not change who stays. */
static void keep_heaviest(sp_track_list *list)
{
    if (list->count <= SP_LIMIT_TRACKS)
        return;
    qsort(list->tracks, list->count, sizeof(*list->tracks), by_weight);
    list->count = SP_LIMIT_TRACKS;
}

static void track_end(tracker *t, uint32_t i)
{
    sp_track *track = &t->live[i];
    /* A spot must have been there at least half of the time. */
    if (track->seen >= t->min_seen && (!t->still || 2 * (uint64_t)track->seen > track->last - track->first)) {
        track->weight = t->still ? (uint64_t)track->seen * 65536 + track->strength_sum / SP_MAX(track->area_sum, (uint64_t)1)
                                 : track->strength_sum;
        t->list->found++;
        if (t->list->count == t->list->capacity)
            keep_heaviest(t->list);
        t->list->tracks[t->list->count++] = *track;
    }
    memmove(track, track + 1, (--t->live_count - i) * sizeof(*track)); /* the others keep their order of age */
}

static void end_older_than(const sp_analysis *a, tracker *t, uint32_t position, uint32_t gap)
{
    for (uint32_t i = 0; i < t->live_count;) {
        if (a->frames[position]->number - a->frames[t->live[i].last]->number > gap)
            track_end(t, i);
        else
            i++;
    }
}

/* --- one frame --- */

static int by_score(const void *left, const void *right)
{
    const match *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->track != b->track)
        return a->track < b->track ? -1 : 1;
    return a->region < b->region ? -1 : a->region > b->region;
}

static void track_frame(tracker *t, uint32_t position, const sp_frame_region *regions, uint32_t count)
{
    match matches[LIVE_MAX * SP_LIMIT_FRAME_REGIONS];
    uint32_t match_count = 0, live_before = t->live_count;
    bool track_used[LIVE_MAX] = { false }, region_used[SP_LIMIT_FRAME_REGIONS] = { false };

    for (uint32_t i = 0; i < t->live_count; i++) {
        for (uint32_t k = 0; k < count; k++) {
            uint32_t score = t->still ? still_score(&t->live[i], &regions[k]) : motion_score(&t->live[i], &regions[k]);
            if (score)
                matches[match_count++] = (match){ score, i, k };
        }
    }
    qsort(matches, match_count, sizeof(*matches), by_score);
    for (uint32_t i = 0; i < match_count; i++) {
        if (track_used[matches[i].track] || region_used[matches[i].region])
            continue;
        track_used[matches[i].track] = region_used[matches[i].region] = true;
        track_see(&t->live[matches[i].track], position, &regions[matches[i].region]);
        t->live[matches[i].track].against += t->against;
    }
    for (uint32_t k = 0; k < count; k++) {
        if (region_used[k])
            continue;
        SP_ASSERT(t->live_count < LIVE_MAX && live_before <= LIVE_MAX - SP_LIMIT_FRAME_REGIONS);
        t->live[t->live_count].seen = 0;
        track_see(&t->live[t->live_count++], position, &regions[k]);
    }
}

/* --- the video --- */

bool sp_track_is_on_lens(const sp_analysis *a, const sp_track *t)
{
    return t->against >= SP_LENS_FRAMES || a->verdicts[t->first].scene != a->verdicts[t->last].scene;
}

static void track_all(const sp_analysis *a, tracker *t)
{
    for (uint32_t i = 0; i < a->frame_count; i++) {
        const sp_frame_record *r = a->frames[i];
        /* A mark on the lens outlives a scene; what moves does not. */
        bool other_scene = i > 0 && a->verdicts[i - 1].cut && !t->still;
        t->against = sp_motion_counts(a, i) && 2 * (uint64_t)r->moving >= (uint64_t)a->index->width * (uint64_t)a->index->height;
        end_older_than(a, t, i, other_scene ? 0 : GAP);
        if (t->still)
            track_frame(t, i, sp_record_defects(r), sp_regions_told(r->defect_count));
        else
            track_frame(t, i, sp_record_motion(r), sp_motion_counts(a, i) ? sp_regions_told(r->motion_count) : 0);
    }
    while (t->live_count)
        track_end(t, 0);
    keep_heaviest(t->list);
    qsort(t->list->tracks, t->list->count, sizeof(*t->list->tracks), by_begin);
}

static sp_status follow(sp_analysis *a, sp_track_list *list, bool still, uint32_t min_seen, sp_error *reterr)
{
    tracker *t = calloc(1, sizeof(*t));

    list->capacity = 2 * SP_LIMIT_TRACKS;
    list->tracks = calloc(list->capacity, sizeof(*list->tracks));
    if (!t || !list->tracks) {
        free(t);
        return SP_FAIL(reterr, SP_NOMEM, "no memory to merge the analysis of a video");
    }
    t->list = list;
    t->still = still;
    t->min_seen = min_seen;
    track_all(a, t);
    free(t);
    return SP_OK;
}

sp_status sp_analysis_find_tracks(sp_analysis *a, sp_error *reterr)
{
    sp_status s = follow(a, &a->motion, false, a->params.track_min_frames, reterr);
    return s ? s : follow(a, &a->defects, true, a->params.defect_min_frames, reterr);
}
