/* SPDX-License-Identifier: Apache-2.0
 * See analyze_cuda.h. A run of frames on three streams:
 *
 *   copies   | frame 0 | frame 1 | frame 2 | ...                          copied in, an event behind each
 *   alone      | measures, edges, defects of 0 | of 1 | of 2 | ...        -> frame_out[i]
 *   pairs      | expand 0 | expand 1, flow 0-1, motion | expand 2, ...    -> pair_out[i]
 *
 * "alone" and "pairs" have scratch of their own and wait for nothing but the frames. Each leaves what it found of a frame in one piece
 * of device memory, which is copied out behind it; the host waits once, at the end, and makes the records. Frames that are expanded
 * take turns in two places, as on the CPU, also from one run to the next. */
#include "task/analyze_cuda.h"

#include "base/clock.h"
#include "kernels/cuda_flow.h"
#include "kernels/cuda_plane.h"
#include "task/analyze_internal.h"

#include <stdlib.h>
#include <string.h>

#define FRAMES_MAX 64
#define STRIDE_ALIGN ((size_t)128)

/* What is copied out of a frame; the regions that are listed follow it. */
typedef struct frame_out {
    sp_frame_sums sums;
    sp_region defects[];
} frame_out;

_Static_assert(sizeof(sp_region_head) == sizeof(sp_cuda_regions) && offsetof(sp_region_head, written) == offsetof(sp_cuda_regions, written),
               "the device writes these");

/* Planes and scratch of one stream. */
typedef struct lane {
    sp_cuda_stream *stream;
    sp_cuda_plane_scratch *scratch;
    sp_plane mask, weights, other;
} lane;

struct sp_analyze_cuda {
    const sp_cuda_api *api;
    sp_cuda *cuda;
    const sp_analyze_plan *plan;
    int places;                  /* frames in device memory */
    int defects_most;            /* that are listed */
    size_t stride, frame_bytes, out_bytes;
    sp_cuda_stream *copies;
    lane alone, pairs;
    sp_cuda_event *arrived[FRAMES_MAX];
    sp_cuda_flow *flow;
    sp_cuda_flow_frame *expanded[2];
    sp_cuda_flow_scratch *flow_scratch;
    uint8_t *device;             /* one block: all below but the staging and the two that the host reads */
    uint8_t *grey;               /* places x frame_bytes; rows without gaps */
    float *dx, *dy;
    uint8_t *frames_out;         /* places x out_bytes */
    sp_pair_sums *pairs_out;     /* places */
    uint8_t *staging, *frames_in; /* pinned: frames that the device cannot read; frames_out as it came */
    sp_pair_sums *pairs_in;
    int current;                 /* as sp_analyzer's */
    bool has_kept;
    uint32_t kept_number;
    const uint8_t *kept_grey;
    sp_analyze_timing timing;
};

/* --- construction --- */

sp_status sp_analyze_cuda_check(const sp_cuda_api *api, sp_error *reterr)
{
    const sp_cuda_flow_api *flow = api->flow;
    const sp_cuda_plane_api *plane = api->plane;
    if (flow && flow->flow_new && flow->pair && plane && plane->scratch_new && plane->canny && plane->morph && plane->regions_find &&
        plane->measure_flow)
        return SP_OK;
    return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "missing_plugin", "the CUDA plug-in analyses no videos");
}

/* Places of everything in the block, from `base` on; returns its size. */
static size_t lay_out(sp_analyze_cuda *a, uint8_t *base)
{
    size_t h = (size_t)a->plan->h, plane_bytes = a->stride * h, at = 0;
    uint8_t **planes[6] = { &a->alone.mask.data, &a->alone.weights.data, &a->alone.other.data, &a->pairs.mask.data,
                            &a->pairs.weights.data, &a->pairs.other.data };
#define TAKE(bytes) (at += SP_ALIGN_UP((size_t)(bytes), (size_t)256), base ? base + at - SP_ALIGN_UP((size_t)(bytes), (size_t)256) : NULL)
    for (size_t i = 0; i < SP_ARRAY_LEN(planes); i++)
        *planes[i] = TAKE(plane_bytes);
    a->grey = TAKE(a->frame_bytes * (size_t)a->places);
    a->dx = (float *)(void *)TAKE(plane_bytes * sizeof(float));
    a->dy = (float *)(void *)TAKE(plane_bytes * sizeof(float));
    a->frames_out = TAKE(a->out_bytes * (size_t)a->places);
    a->pairs_out = (sp_pair_sums *)(void *)TAKE(sizeof(sp_pair_sums) * (size_t)a->places);
#undef TAKE
    return at;
}

static void shape_lane(const sp_analyze_cuda *a, lane *l)
{
    sp_plane *planes[3] = { &l->mask, &l->weights, &l->other };
    for (int i = 0; i < 3; i++) {
        planes[i]->w = a->plan->w;
        planes[i]->h = a->plan->h;
        planes[i]->stride_bytes = a->stride;
    }
}

/* Memory for so many frames; nothing of it stays if it fails. */
static sp_status reserve_frames(sp_analyze_cuda *a, int places, sp_error *reterr)
{
    a->places = places;
    sp_status s = a->api->reserve(a->cuda, lay_out(a, NULL), (void **)&a->device, reterr);
    if (!s)
        s = a->api->pinned_new(a->cuda, a->frame_bytes * (size_t)places, (void **)&a->staging, reterr);
    if (!s)
        s = a->api->pinned_new(a->cuda, a->out_bytes * (size_t)places, (void **)&a->frames_in, reterr);
    if (!s)
        s = a->api->pinned_new(a->cuda, sizeof(sp_pair_sums) * (size_t)places, (void **)&a->pairs_in, reterr);
    if (!s) {
        (void)lay_out(a, a->device);
        return SP_OK;
    }
    a->api->release(a->cuda, SP_STEAL(a->device));
    a->api->pinned_free(a->cuda, SP_STEAL(a->staging));
    a->api->pinned_free(a->cuda, SP_STEAL(a->frames_in));
    return s;
}

static sp_status open_lane(sp_analyze_cuda *a, lane *l, int regions, sp_error *reterr)
{
    shape_lane(a, l);
    sp_status s = a->api->stream_new(a->cuda, &l->stream, reterr);
    if (!s)
        s = a->api->plane->scratch_new(a->cuda, a->plan->w, a->plan->h, regions, &l->scratch, reterr);
    return s;
}

static sp_status open_flow(sp_analyze_cuda *a, sp_error *reterr)
{
    const sp_cuda_flow_api *flow = a->api->flow;
    sp_status s = flow->flow_new(a->cuda, a->plan->flow, &a->flow, reterr);
    for (int i = 0; i < 2 && !s; i++)
        s = flow->frame_new(a->flow, &a->expanded[i], reterr);
    if (!s)
        s = flow->scratch_new(a->flow, &a->flow_scratch, reterr);
    return s;
}

static sp_status open_all(sp_analyze_cuda *a, int frames, sp_error *reterr)
{
    size_t w = (size_t)a->plan->w, h = (size_t)a->plan->h;
    a->stride = SP_ALIGN_UP(w, STRIDE_ALIGN);
    a->frame_bytes = SP_ALIGN_UP(w * h, (size_t)256);
    a->defects_most = (int)SP_MIN((w + 1) / 2 * ((h + 1) / 2), (size_t)SP_ANALYZE_REGIONS); /* no more can be in a frame */
    a->out_bytes = SP_ALIGN_UP(sizeof(frame_out) + (size_t)a->defects_most * sizeof(sp_region), (size_t)256);
    sp_status s = sp_analyze_cuda_check(a->api, reterr);
    if (!s)
        s = a->api->thread_begin(a->cuda, reterr);
    if (!s)
        s = a->api->stream_new(a->cuda, &a->copies, reterr);
    if (!s)
        s = open_lane(a, &a->alone, a->defects_most, reterr);
    if (!s)
        s = open_lane(a, &a->pairs, SP_LIMIT_FRAME_REGIONS, reterr);
    if (!s)
        s = open_flow(a, reterr);
    if (s)
        return s;
    frames = SP_CLAMP(frames, 2, FRAMES_MAX);
    s = reserve_frames(a, frames, reterr);
    while (s == SP_NOMEM && frames > 2) {
        frames = SP_MAX(frames / 2, 2);
        s = reserve_frames(a, frames, reterr);
    }
    for (int i = 0; i < frames && !s; i++)
        s = a->api->event_new(a->cuda, false, &a->arrived[i], reterr);
    return s;
}

sp_status sp_analyze_cuda_new(const sp_cuda_api *api, sp_cuda *cuda, const sp_analyze_plan *plan, int frames, sp_analyze_cuda **ret_analyzer,
                              sp_error *reterr)
{
    SP_CLEANUP(sp_analyze_cuda_freep) sp_analyze_cuda *a = calloc(1, sizeof(*a));
    if (!a)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the analysis of a video");
    a->api = api;
    a->cuda = cuda;
    a->plan = plan;
    sp_status s = open_all(a, frames, reterr);
    if (!s)
        *ret_analyzer = SP_STEAL(a);
    return s;
}

static void close_lane(const sp_cuda_api *api, lane *l)
{
    if (l->scratch)
        api->plane->scratch_free(l->scratch);
    if (l->stream)
        api->stream_free(l->stream);
}

void sp_analyze_cuda_free(sp_analyze_cuda *a)
{
    if (!a)
        return;
    const sp_cuda_api *api = a->api;
    for (int i = 0; i < FRAMES_MAX; i++) {
        if (a->arrived[i])
            api->event_free(a->arrived[i]);
    }
    if (a->flow_scratch)
        api->flow->scratch_free(a->flow_scratch);
    for (int i = 0; i < 2; i++) {
        if (a->expanded[i])
            api->flow->frame_free(a->expanded[i]);
    }
    if (a->flow)
        api->flow->flow_free(a->flow);
    close_lane(api, &a->alone);
    close_lane(api, &a->pairs);
    if (a->copies)
        api->stream_free(a->copies);
    api->release(a->cuda, a->device);
    api->pinned_free(a->cuda, a->staging);
    api->pinned_free(a->cuda, a->frames_in);
    api->pinned_free(a->cuda, a->pairs_in);
    free(a);
}

sp_status sp_analyze_cuda_thread(const sp_analyze_cuda *a, sp_error *reterr)
{
    return a->api->thread_begin(a->cuda, reterr);
}

void sp_analyze_cuda_timing(const sp_analyze_cuda *a, sp_analyze_timing *ret_timing)
{
    *ret_timing = a->timing;
}

void sp_analyze_cuda_begin(sp_analyze_cuda *a)
{
    a->has_kept = false;
}

/* --- what is enqueued --- */

#define TRY(call)          \
    do {                   \
        sp_status s_ = call; \
        if (s_)            \
            return s_;     \
    } while (0)

static sp_plane grey_at(const sp_analyze_cuda *a, int i)
{
    return (sp_plane){ a->grey + (size_t)i * a->frame_bytes, a->plan->w, a->plan->h, (size_t)a->plan->w };
}

/* One part of a run: `count` frames, and the one behind them if `more`. */
typedef struct part {
    const uint8_t *const *grey;
    const sp_video_frame *frames;
    int count;
    bool more, pinned;
    size_t stride;
} part;

static int frames_of(const part *p)
{
    return p->count + (p->more ? 1 : 0);
}

static bool is_pair(const part *p, int i)
{
    return (i + 1 < p->count || p->more) && p->frames[i + 1].number == p->frames[i].number + 1;
}

static sp_status copy_frames(sp_analyze_cuda *a, const part *p, sp_error *reterr)
{
    size_t w = (size_t)a->plan->w, h = (size_t)a->plan->h;
    for (int i = 0; i < frames_of(p); i++) {
        const uint8_t *from = p->grey[i];
        if (!p->pinned || p->stride != w) {
            uint8_t *to = a->staging + (size_t)i * a->frame_bytes;
            for (size_t y = 0; y < (p->stride == w ? 1 : h); y++)
                memcpy(to + y * w, from + y * p->stride, p->stride == w ? w * h : w);
            from = to;
        }
        TRY(a->api->copy_in(a->copies, grey_at(a, i).data, from, w * h, reterr));
        TRY(a->api->event_record(a->arrived[i], a->copies, reterr));
    }
    return SP_OK;
}

/* Frame i by itself: what analyse_alone of analyze_run.c does. The last one only gives its histogram. */
static sp_status enqueue_alone(sp_analyze_cuda *a, int i, bool whole, sp_error *reterr)
{
    const sp_cuda_plane_api *k = a->api->plane;
    const sp_analyze_params *params = &a->plan->params;
    const int side = SP_ANALYZE_TOPHAT_SIDE;
    lane *l = &a->alone;
    sp_plane grey = grey_at(a, i);
    uint8_t *to = a->frames_in + (size_t)i * a->out_bytes;
    frame_out *out = (frame_out *)(void *)(a->frames_out + (size_t)i * a->out_bytes);
    TRY(a->api->event_wait(l->stream, a->arrived[i], reterr));
    TRY(k->measure_plane(l->stream, grey, &out->sums.plane, reterr));
    if (!whole)
        return a->api->copy_out(l->stream, to, out, sizeof(out->sums.plane), reterr);
    TRY(k->canny(l->stream, l->other, grey, params->canny_low, params->canny_high, 3, false, l->scratch, reterr));
    TRY(k->measure_nonzero(l->stream, l->other, &out->sums.edges, reterr));
    TRY(k->morph(l->stream, l->weights, grey, SP_MORPH_TOPHAT, SP_MORPH_RECT, side, side, 1, l->scratch, reterr));
    TRY(k->morph(l->stream, l->other, grey, SP_MORPH_BLACKHAT, SP_MORPH_RECT, side, side, 1, l->scratch, reterr));
    TRY(k->plane_max(l->stream, l->weights, l->weights, l->other, reterr));
    TRY(k->threshold(l->stream, l->mask, l->weights, (uint8_t)params->defect_threshold, reterr));
    TRY(k->regions_find(l->stream, l->mask, l->weights, params->defect_min_area, (sp_cuda_regions *)(void *)&out->sums.defects, out->defects,
                        a->defects_most, l->scratch, reterr));
    return a->api->copy_out(l->stream, to, out, sizeof(frame_out) + (size_t)a->defects_most * sizeof(sp_region), reterr);
}

/* Into the half that is not current. */
static sp_status enqueue_expansion(sp_analyze_cuda *a, int i, sp_error *reterr)
{
    sp_plane grey = grey_at(a, i);
    return a->api->flow->expand(a->flow, a->pairs.stream, a->expanded[1 - a->current], grey.data, grey.stride_bytes, a->flow_scratch,
                                reterr);
}

/* Frames i and i + 1: analyse_pair and find_motion of analyze_run.c. */
static sp_status enqueue_pair(sp_analyze_cuda *a, int i, sp_error *reterr)
{
    const sp_cuda_plane_api *k = a->api->plane;
    const sp_analyze_params *params = &a->plan->params;
    lane *l = &a->pairs;
    sp_pair_sums *out = &a->pairs_out[i];
    TRY(a->api->flow->pair(a->flow, l->stream, a->expanded[a->current], a->expanded[1 - a->current], NULL, NULL, a->dx, a->dy, a->stride,
                           a->flow_scratch, reterr));
    TRY(k->measure_flow(l->stream, a->dx, a->dy, a->stride, a->plan->w, a->plan->h, params->motion_threshold, l->mask, &out->flow, reterr));
    TRY(k->measure_difference(l->stream, grey_at(a, i), grey_at(a, i + 1), &out->difference, reterr));
    TRY(k->morph(l->stream, l->other, l->mask, SP_MORPH_OPEN, SP_MORPH_RECT, 3, 3, 1, l->scratch, reterr));
    TRY(k->morph(l->stream, l->mask, l->other, SP_MORPH_CLOSE, SP_MORPH_RECT, 5, 5, 1, l->scratch, reterr));
    TRY(k->measure_nonzero(l->stream, l->mask, &out->mask_area, reterr));
    TRY(k->weigh_flow(l->stream, l->weights, a->dx, a->dy, a->stride, reterr));
    TRY(k->regions_find(l->stream, l->mask, l->weights, params->motion_min_area, (sp_cuda_regions *)(void *)&out->motion, out->motion_list,
                        SP_LIMIT_FRAME_REGIONS, l->scratch, reterr));
    return a->api->copy_out(l->stream, &a->pairs_in[i], out, sizeof(*out), reterr);
}

static sp_status enqueue_part(sp_analyze_cuda *a, const part *p, sp_error *reterr)
{
    bool there = a->has_kept && a->kept_number == p->frames[0].number && a->kept_grey == p->grey[0];
    a->has_kept = false;
    TRY(copy_frames(a, p, reterr));
    TRY(a->api->event_wait(a->pairs.stream, a->arrived[0], reterr));
    if (!there)
        TRY(enqueue_expansion(a, 0, reterr));
    a->current = 1 - a->current;
    for (int i = 0; i < p->count; i++) {
        bool more = i + 1 < p->count || p->more;
        TRY(enqueue_alone(a, i, true, reterr));
        if (more) {
            TRY(a->api->event_wait(a->pairs.stream, a->arrived[i + 1], reterr));
            TRY(enqueue_expansion(a, i + 1, reterr));
        }
        if (is_pair(p, i))
            TRY(enqueue_pair(a, i, reterr));
        if (i + 1 < p->count)
            a->current = 1 - a->current;
    }
    if (p->more)
        TRY(enqueue_alone(a, p->count, false, reterr));
    return SP_OK;
}

/* --- a run --- */

/* Waits for all three. The first that failed tells how. */
static sp_status wait_all(sp_analyze_cuda *a, sp_error *reterr)
{
    sp_cuda_stream *const streams[3] = { a->copies, a->alone.stream, a->pairs.stream };
    sp_status first = SP_OK;
    for (int i = 0; i < 3; i++) {
        sp_status s = a->api->stream_sync(streams[i], first ? NULL : reterr);
        first = first ? first : s;
    }
    return first;
}

static const frame_out *out_of(const sp_analyze_cuda *a, int i)
{
    return (const frame_out *)(const void *)(a->frames_in + (size_t)i * a->out_bytes);
}

static sp_status run_part(sp_analyze_cuda *a, const part *p, sp_frame_record *ret_records, sp_error *reterr)
{
    sp_error later;
    sp_status s = enqueue_part(a, p, reterr);
    sp_status ended = wait_all(a, s ? &later : reterr);
    if (s || ended)
        return s ? s : ended;
    for (int i = 0; i < p->count; i++) {
        const frame_out *out = out_of(a, i);
        sp_record_begin(&ret_records[i], &p->frames[i]);
        sp_record_frame(&ret_records[i], a->plan, &out->sums, out->defects);
        if (is_pair(p, i))
            sp_record_pair(&ret_records[i], a->plan, &out->sums.plane, &out_of(a, i + 1)->sums.plane, &a->pairs_in[i]);
    }
    if (p->more && !p->frames[p->count].lookahead) {
        a->has_kept = true;
        a->kept_number = p->frames[p->count].number;
        a->kept_grey = p->grey[p->count];
    }
    return SP_OK;
}

sp_status sp_analyze_cuda_run(sp_analyze_cuda *a, const uint8_t *const *grey, size_t stride_bytes, bool pinned,
                              const sp_video_frame *frames, int count, bool has_next, sp_frame_record *ret_records, sp_error *reterr)
{
    int64_t since = sp_clock_now_ns();
    sp_status s = SP_OK;
    for (int done = 0; done < count && !s;) {
        int some = SP_MIN(count - done, a->places - 1);
        const part p = { grey + done, frames + done, some, done + some < count || has_next, pinned, stride_bytes };
        s = run_part(a, &p, ret_records + done, reterr);
        done += some;
    }
    if (s)
        a->has_kept = false;
    a->timing.flow_ns += sp_clock_now_ns() - since;
    return s;
}
