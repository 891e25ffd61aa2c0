/* SPDX-License-Identifier: Apache-2.0
 * What one frame says, alone and with the next one, on the CPU: the kernels in order. One thread. analyze_cuda.c does the same on a
 * GPU, analyze_sums.c makes the record of either's sums. */
#include "task/analyze_internal.h"

#include "base/clock.h"
#include "kernels/plane.h"

#include <math.h>
#include <stdlib.h>

/* A pixel's weight in a region's strength: its motion in quarters of a pixel, floor, up to 63.75 px. */
#define WEIGHT_QUANTUM 4.0f
/* Pixels that are taken at once; rows are padded to a multiple. */
#define BLOCK 16

struct sp_analyzer {
    const sp_analyze_plan *plan;
    sp_flow_frame *expanded[2];
    sp_plane_measure measures[2];
    int current;                  /* which of the two is the frame in hand; the other one is the next */
    bool has_kept;                /* the other one is kept_grey, frame kept_number, from the call before */
    uint32_t kept_number;
    const uint8_t *kept_grey;
    sp_flow_scratch *flow_scratch;
    sp_plane_scratch *plane_scratch;
    float *dx, *dy;
    uint8_t *planes;
    sp_plane mask, weights, other;
    sp_region *regions;
    sp_analyze_timing timing;
};

/* --- construction --- */

sp_status sp_analyze_plan_new(const sp_analyze_params *params, int w, int h, sp_analyze_plan **ret_plan, sp_error *reterr)
{
    SP_CLEANUP(sp_analyze_plan_freep) sp_analyze_plan *plan = NULL;
    sp_status s = sp_analyze_params_check(params, reterr);
    if (s)
        return s;
    plan = calloc(1, sizeof(*plan));
    if (!plan)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the analysis of a video");
    plan->params = *params;
    plan->w = w;
    plan->h = h;
    s = sp_flow_new(&params->flow, w, h, &plan->flow, reterr);
    if (s)
        return s;
    *ret_plan = SP_STEAL(plan);
    return SP_OK;
}

void sp_analyze_plan_free(sp_analyze_plan *plan)
{
    if (!plan)
        return;
    sp_flow_free(plan->flow);
    free(plan);
}

/* Touches its memory, so that the first frame does not pay for the pages. */
static void *reserve(size_t bytes)
{
    void *memory = aligned_alloc(64, SP_ALIGN_UP(bytes, (size_t)64));
    if (memory)
        memset(memory, 0, SP_ALIGN_UP(bytes, (size_t)64));
    return memory;
}

static bool reserve_all(sp_analyzer *a)
{
    size_t stride = SP_ALIGN_UP((size_t)a->plan->w, (size_t)64), h = (size_t)a->plan->h;
    a->dx = reserve(stride * h * sizeof(float));
    a->dy = reserve(stride * h * sizeof(float));
    a->planes = reserve(stride * h * 3);
    a->regions = reserve(SP_ANALYZE_REGIONS * sizeof(*a->regions));
    if (!a->dx || !a->dy || !a->planes || !a->regions)
        return false;
    sp_plane *planes[3] = { &a->mask, &a->weights, &a->other };
    for (size_t i = 0; i < 3; i++)
        *planes[i] = (sp_plane){ a->planes + i * stride * h, a->plan->w, a->plan->h, stride };
    return true;
}

sp_status sp_analyzer_new(const sp_analyze_plan *plan, sp_analyzer **ret_analyzer, sp_error *reterr)
{
    SP_CLEANUP(sp_analyzer_freep) sp_analyzer *a = calloc(1, sizeof(*a));
    if (!a)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the analysis of a video");
    a->plan = plan;
    sp_status s = sp_plane_scratch_new(plan->w, plan->h, &a->plane_scratch, reterr);
    for (int i = 0; i < 2 && !s; i++)
        s = sp_flow_frame_new(plan->flow, &a->expanded[i], reterr);
    if (!s)
        s = sp_flow_scratch_new(plan->flow, &a->flow_scratch, reterr);
    if (s)
        return s;
    if (!reserve_all(a))
        return SP_FAIL(reterr, SP_NOMEM, "no memory for frames of %d x %d", plan->w, plan->h);
    *ret_analyzer = SP_STEAL(a);
    return SP_OK;
}

void sp_analyzer_free(sp_analyzer *a)
{
    if (!a)
        return;
    sp_flow_frame_free(a->expanded[0]);
    sp_flow_frame_free(a->expanded[1]);
    sp_flow_scratch_free(a->flow_scratch);
    sp_plane_scratch_free(a->plane_scratch);
    free(a->dx);
    free(a->dy);
    free(a->planes);
    free(a->regions);
    free(a);
}

void sp_analyzer_timing(const sp_analyzer *a, sp_analyze_timing *ret_timing)
{
    *ret_timing = a->timing;
}

void sp_analyzer_begin(sp_analyzer *a)
{
    a->has_kept = false;
}

/* Adds the time since *since to *sum and begins anew. */
static void lap(int64_t *since, int64_t *sum)
{
    int64_t now = sp_clock_now_ns();
    *sum += now - *since;
    *since = now;
}

/* --- one frame alone --- */

static sp_plane plane_of(const sp_analyzer *a, const uint8_t *grey, size_t stride)
{
    return (sp_plane){ (uint8_t *)(uintptr_t)grey, a->plan->w, a->plan->h, stride }; /* only read */
}

/* Into the half that is not current: what the next pair needs of it too. */
static void take_in(sp_analyzer *a, const uint8_t *grey, size_t stride)
{
    int64_t since = sp_clock_now_ns();
    int half = 1 - a->current;
    sp_flow_expand(a->plan->flow, a->expanded[half], grey, stride, a->flow_scratch);
    lap(&since, &a->timing.flow_ns);
    sp_measure_plane(plane_of(a, grey, stride), &a->measures[half]);
    lap(&since, &a->timing.measures_ns);
}

/* dst = the greater of both, byte by byte; blocks, so that the compiler takes whole registers. Rows are padded to 64. */
static void larger_of(sp_plane dst, sp_plane other)
{
    for (size_t i = 0; i < dst.stride_bytes * (size_t)dst.h; i += BLOCK) {
        for (size_t k = 0; k < BLOCK; k++) {
            uint8_t a = dst.data[i + k], b = other.data[i + k];
            dst.data[i + k] = a > b ? a : b;
        }
    }
}

/* Spots that are brighter or darker than all around them within 7 pixels. */
static sp_region_head find_defects(sp_analyzer *a, sp_plane grey)
{
    const sp_analyze_params *p = &a->plan->params;
    const int side = SP_ANALYZE_TOPHAT_SIDE;

    sp_morph(a->weights, grey, SP_MORPH_TOPHAT, SP_MORPH_RECT, side, side, 1, a->plane_scratch);
    sp_morph(a->other, grey, SP_MORPH_BLACKHAT, SP_MORPH_RECT, side, side, 1, a->plane_scratch);
    larger_of(a->weights, a->other);
    sp_threshold(a->mask, a->weights, (uint8_t)p->defect_threshold);
    int total = sp_regions_find(a->mask, a->weights, p->defect_min_area, a->regions, SP_ANALYZE_REGIONS, a->plane_scratch);
    return (sp_region_head){ (uint32_t)total, (uint32_t)SP_MIN(total, SP_ANALYZE_REGIONS) };
}

static void analyse_alone(sp_analyzer *a, const uint8_t *grey, size_t stride, sp_frame_record *r)
{
    sp_plane plane = plane_of(a, grey, stride);
    sp_frame_sums sums = { .plane = a->measures[a->current] };
    int64_t since = sp_clock_now_ns();

    sp_canny(a->other, plane, a->plan->params.canny_low, a->plan->params.canny_high, 3, false, a->plane_scratch);
    sums.edges = sp_measure_nonzero(a->other);
    lap(&since, &a->timing.edges_ns);
    sums.defects = find_defects(a, plane);
    sp_record_frame(r, a->plan, &sums, a->regions);
    lap(&since, &a->timing.morphology_ns);
}

/* --- a pair --- */

static void weigh_block(uint8_t *SP_RESTRICT weights, const float *SP_RESTRICT dx, const float *SP_RESTRICT dy)
{
    for (int k = 0; k < BLOCK; k++) {
        float v = sqrtf(dx[k] * dx[k] + dy[k] * dy[k]) * WEIGHT_QUANTUM;
        weights[k] = (uint8_t)(int32_t)(v < 255.0f ? v : 255.0f);
    }
}

/* Only where something moves, which is a small part of most frames; nobody reads the other weights. */
static void weigh_motion(sp_analyzer *a, size_t stride)
{
    for (size_t i = 0; i < stride * (size_t)a->plan->h; i += BLOCK) {
        uint64_t any[2];
        memcpy(any, a->mask.data + i, sizeof(any));
        if (any[0] | any[1])
            weigh_block(a->weights.data + i, a->dx + i, a->dy + i);
    }
}

/* The mask of measure_flow, without its grains and holes, in regions. */
static void find_motion(sp_analyzer *a, size_t stride_floats, sp_pair_sums *sums)
{
    sp_morph(a->mask, a->mask, SP_MORPH_OPEN, SP_MORPH_RECT, 3, 3, 1, a->plane_scratch);
    sp_morph(a->mask, a->mask, SP_MORPH_CLOSE, SP_MORPH_RECT, 5, 5, 1, a->plane_scratch);
    sums->mask_area = sp_measure_nonzero(a->mask);
    if (sums->mask_area == 0)
        return;
    weigh_motion(a, stride_floats);
    int total = sp_regions_find(a->mask, a->weights, a->plan->params.motion_min_area, sums->motion_list, SP_LIMIT_FRAME_REGIONS,
                                a->plane_scratch);
    sums->motion = (sp_region_head){ (uint32_t)total, sp_regions_told((uint32_t)total) };
}

static void analyse_pair(sp_analyzer *a, const uint8_t *grey, const uint8_t *next, size_t stride, sp_frame_record *r)
{
    sp_pair_sums sums = { 0 };
    size_t stride_floats = a->mask.stride_bytes;
    int64_t since = sp_clock_now_ns();

    sp_flow_pair(a->plan->flow, a->expanded[a->current], a->expanded[1 - a->current], NULL, NULL, a->dx, a->dy, stride_floats,
                 a->flow_scratch);
    lap(&since, &a->timing.flow_ns);
    sp_measure_flow(a->dx, a->dy, stride_floats, a->plan->w, a->plan->h, a->plan->params.motion_threshold, a->mask, &sums.flow);
    sums.difference = sp_measure_difference(plane_of(a, grey, stride), plane_of(a, next, stride));
    lap(&since, &a->timing.measures_ns);
    find_motion(a, stride_floats, &sums);
    sp_record_pair(r, a->plan, &a->measures[a->current], &a->measures[1 - a->current], &sums);
    lap(&since, &a->timing.morphology_ns);
}

/* --- a run --- */

/* The first frame into the current half, unless the call before has left it in the other one. */
static void begin_run(sp_analyzer *a, const uint8_t *grey, size_t stride, const sp_video_frame *first)
{
    bool there = a->has_kept && a->kept_number == first->number && a->kept_grey == grey;
    if (!there)
        take_in(a, grey, stride);
    a->current = 1 - a->current;
    a->has_kept = false;
}

void sp_analyzer_run(sp_analyzer *a, const uint8_t *const *grey, size_t stride_bytes, const sp_video_frame *frames, int count,
                     bool has_next, sp_frame_record *ret_records)
{
    if (count <= 0)
        return;
    begin_run(a, grey[0], stride_bytes, &frames[0]);
    for (int i = 0; i < count; i++) {
        sp_frame_record *r = &ret_records[i];
        bool more = i + 1 < count || has_next;
        sp_record_begin(r, &frames[i]);
        if (more)
            take_in(a, grey[i + 1], stride_bytes);
        analyse_alone(a, grey[i], stride_bytes, r);
        if (more && frames[i + 1].number == frames[i].number + 1)
            analyse_pair(a, grey[i], grey[i + 1], stride_bytes, r);
        if (i + 1 < count)
            a->current = 1 - a->current;
    }
    if (has_next && !frames[count].lookahead) {
        a->has_kept = true;
        a->kept_number = frames[count].number;
        a->kept_grey = grey[count];
    }
}
