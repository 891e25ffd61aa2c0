/* SPDX-License-Identifier: Apache-2.0
 * See analyze_cuda.h. A run of frames on three streams:
 *
 *   slot       0         1         2         3         0
 *   copies   | frame 0 | frame 1 | frame 2 | frame 3 | frame 4 ...        waits for what reads 0; an event behind each
 *   alone      | measures, edges, defects of 0 | of 1 | of 2 | ...        -> frame_made, copied out
 *   pairs      | expand 0 | expand 1, flow 0-1, motion | expand 2, ...    -> pair_made, copied out
 *
 * "alone" and "pairs" have scratch of their own and wait for nothing but the frames. What each of them does with a frame is drawn as a
 * graph, one for each slot, and launched as one call from then on: all that changes from frame to frame is where the frame lies (its
 * slot) and where the host wants to have what was found (a copy behind the graph). Expansions take turns in two places, by the slot's
 * parity. The first frame of all runs without a graph, so that every kernel is loaded before one is drawn; where a device draws none,
 * so do the others.
 *
 * The host waits once, at the end of a run, and makes the records. Then it asks for the regions of the frames that have more of them
 * than were copied out at once, which are few. */
#include "task/analyze_cuda.h"

#include "base/clock.h"
#include "kernels/cuda_flow.h"
#include "kernels/cuda_plane.h"
#include "task/analyze_internal.h"

#include <stdlib.h>
#include <string.h>

#define FRAMES_MAX 64
#define STRIDE_ALIGN ((size_t)128)

/* Frames on the device: one is worked on, the next one is its pair's other half, two arrive. Even: a frame that stays from one run to
 * the next keeps its slot and its expansion. */
#define SLOTS 4

/* Regions that are copied out with a frame. A frame with more of them costs a copy of its own. */
#define REGIONS_AT_ONCE 32

/* What is found of a frame; the regions that are listed follow it. */
typedef struct frame_out {
    sp_frame_sums sums;
    sp_region defects[];
} frame_out;

_Static_assert(sizeof(sp_region_head) == sizeof(sp_cuda_regions) && offsetof(sp_region_head, written) == offsetof(sp_cuda_regions, written),
               "the device writes these");

/* Planes, scratch and graphs of one stream. */
typedef struct lane {
    sp_cuda_stream *stream;
    sp_cuda_plane_scratch *scratch;
    sp_plane mask, weights, other;
    sp_cuda_event *left[SLOTS];   /* it has read the frame there */
    sp_cuda_graph *graphs[SLOTS]; /* what it does with the frame there; NULL = not drawn yet */
    bool warm, plain;             /* its kernels have run once; it draws no graphs any more */
} lane;

struct sp_analyze_cuda {
    const sp_cuda_api *api;
    sp_cuda *cuda;
    const sp_analyze_plan *plan;
    int places;                  /* frames of a part of a run */
    int defects_most, defects_at_once; /* that are listed; that are copied out with each frame */
    size_t stride, frame_bytes, out_bytes, rest_bytes;
    sp_cuda_stream *copies;
    lane alone, pairs;
    sp_cuda_event *arrived[SLOTS];
    sp_cuda_flow *flow;
    sp_cuda_flow_frame *expanded[2];
    sp_cuda_flow_scratch *flow_scratch;
    uint8_t *device;             /* one block: all below but the staging and the two that the host reads */
    uint8_t *grey;               /* SLOTS x frame_bytes; rows without gaps */
    float *dx, *dy;
    frame_out *frame_made;       /* of the frame that was last */
    sp_pair_sums *pair_made;
    uint8_t *rests;              /* places x rest_bytes: regions beyond those copied out at once */
    uint8_t *staging, *frames_in; /* pinned: frames that the device cannot read; places x out_bytes, frame_made as it came */
    sp_pair_sums *pairs_in;      /* places */
    int first;                   /* slot of a part's first frame */
    bool has_kept;               /* it is there, and expanded: */
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
        plane->measure_flow && plane->grey_y8)
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
    a->grey = TAKE(a->frame_bytes * SLOTS);
    a->dx = (float *)(void *)TAKE(plane_bytes * sizeof(float));
    a->dy = (float *)(void *)TAKE(plane_bytes * sizeof(float));
    a->frame_made = (frame_out *)(void *)TAKE(a->out_bytes);
    a->pair_made = (sp_pair_sums *)(void *)TAKE(sizeof(sp_pair_sums));
    a->rests = TAKE(a->rest_bytes * (size_t)a->places);
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
    for (int i = 0; i < SLOTS && !s; i++)
        s = a->api->event_new(a->cuda, false, &l->left[i], reterr);
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
    a->defects_at_once = SP_MIN(a->defects_most, REGIONS_AT_ONCE);
    a->out_bytes = SP_ALIGN_UP(sizeof(frame_out) + (size_t)a->defects_most * sizeof(sp_region), (size_t)256);
    a->rest_bytes = (size_t)(a->defects_most - a->defects_at_once) * sizeof(sp_region);
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
    for (int i = 0; i < SLOTS && !s; i++)
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
    for (int i = 0; i < SLOTS; i++) {
        if (l->graphs[i])
            api->graph_free(l->graphs[i]);
        if (l->left[i])
            api->event_free(l->left[i]);
    }
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
    for (int i = 0; i < SLOTS; i++) {
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

static sp_plane grey_at(const sp_analyze_cuda *a, int slot)
{
    return (sp_plane){ a->grey + (size_t)slot * a->frame_bytes, a->plan->w, a->plan->h, (size_t)a->plan->w };
}

/* Everything of a frame alone: what analyse_alone of analyze_run.c does. */
static sp_status enqueue_alone(sp_analyze_cuda *a, int slot, sp_error *reterr)
{
    const sp_cuda_plane_api *k = a->api->plane;
    const sp_analyze_params *params = &a->plan->params;
    const int side = SP_ANALYZE_TOPHAT_SIDE;
    lane *l = &a->alone;
    sp_plane grey = grey_at(a, slot);
    frame_out *out = a->frame_made;
    TRY(k->measure_plane(l->stream, grey, &out->sums.plane, reterr));
    TRY(k->canny(l->stream, l->other, grey, params->canny_low, params->canny_high, 3, false, l->scratch, reterr));
    TRY(k->measure_nonzero(l->stream, l->other, &out->sums.edges, reterr));
    TRY(k->morph(l->stream, l->weights, grey, SP_MORPH_TOPHAT, SP_MORPH_RECT, side, side, 1, l->scratch, reterr));
    TRY(k->morph(l->stream, l->other, grey, SP_MORPH_BLACKHAT, SP_MORPH_RECT, side, side, 1, l->scratch, reterr));
    TRY(k->plane_max(l->stream, l->weights, l->weights, l->other, reterr));
    TRY(k->threshold(l->stream, l->mask, l->weights, (uint8_t)params->defect_threshold, reterr));
    return k->regions_find(l->stream, l->mask, l->weights, params->defect_min_area, (sp_cuda_regions *)(void *)&out->sums.defects,
                           out->defects, a->defects_most, l->scratch, reterr);
}

static sp_status enqueue_expansion(sp_analyze_cuda *a, int slot, sp_error *reterr)
{
    sp_plane grey = grey_at(a, slot);
    return a->api->flow->expand(a->flow, a->pairs.stream, a->expanded[slot % 2], grey.data, grey.stride_bytes, a->flow_scratch, reterr);
}

/* The next frame's expansion, and both frames: analyse_pair and find_motion of analyze_run.c. */
static sp_status enqueue_pair(sp_analyze_cuda *a, int slot, sp_error *reterr)
{
    const sp_cuda_plane_api *k = a->api->plane;
    const sp_analyze_params *params = &a->plan->params;
    const int next = (slot + 1) % SLOTS;
    lane *l = &a->pairs;
    sp_pair_sums *out = a->pair_made;
    TRY(enqueue_expansion(a, next, reterr));
    TRY(a->api->flow->pair(a->flow, l->stream, a->expanded[slot % 2], a->expanded[next % 2], NULL, NULL, a->dx, a->dy, a->stride,
                           a->flow_scratch, reterr));
    TRY(k->measure_flow(l->stream, a->dx, a->dy, a->stride, a->plan->w, a->plan->h, params->motion_threshold, l->mask, &out->flow, reterr));
    TRY(k->measure_difference(l->stream, grey_at(a, slot), grey_at(a, next), &out->difference, reterr));
    TRY(k->morph(l->stream, l->other, l->mask, SP_MORPH_OPEN, SP_MORPH_RECT, 3, 3, 1, l->scratch, reterr));
    TRY(k->morph(l->stream, l->mask, l->other, SP_MORPH_CLOSE, SP_MORPH_RECT, 5, 5, 1, l->scratch, reterr));
    TRY(k->measure_nonzero(l->stream, l->mask, &out->mask_area, reterr));
    TRY(k->weigh_flow(l->stream, l->weights, a->dx, a->dy, a->stride, reterr));
    return k->regions_find(l->stream, l->mask, l->weights, params->motion_min_area, (sp_cuda_regions *)(void *)&out->motion,
                           out->motion_list, SP_LIMIT_FRAME_REGIONS, l->scratch, reterr);
}

/* --- as graphs --- */

typedef sp_status enqueue_fn(sp_analyze_cuda *a, int slot, sp_error *reterr);

/* NULL: it cannot be drawn. */
static sp_cuda_graph *draw(sp_analyze_cuda *a, lane *l, int slot, enqueue_fn *enqueue)
{
    sp_cuda_graph *graph = NULL;
    if (a->api->graph_begin(l->stream, NULL))
        return NULL;
    sp_status s = enqueue(a, slot, NULL);
    sp_status ended = a->api->graph_end(l->stream, &graph, NULL); /* in any case: the stream would go on drawing */
    if (s && !ended)
        a->api->graph_free(SP_STEAL(graph));
    return graph;
}

/* What `enqueue` does, in one launch where that can be. That no graph can be drawn is no failure: if it is the device's, the plain
 * launches say so. */
static sp_status replay(sp_analyze_cuda *a, lane *l, int slot, enqueue_fn *enqueue, sp_error *reterr)
{
    if (l->warm && !l->plain && !l->graphs[slot]) {
        l->graphs[slot] = draw(a, l, slot, enqueue);
        l->plain = !l->graphs[slot];
    }
    if (l->graphs[slot])
        return a->api->graph_launch(l->graphs[slot], l->stream, reterr);
    TRY(enqueue(a, slot, reterr));
    l->warm = true;
    return SP_OK;
}

/* --- a part of a run --- */

/* `count` frames, and the one behind them if `more`. */
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

static int slot_of(const sp_analyze_cuda *a, int i)
{
    return (a->first + i) % SLOTS;
}

/* Into its slot, when nothing reads the frame any more that was there. */
static sp_status copy_frame(sp_analyze_cuda *a, const part *p, int i, sp_error *reterr)
{
    size_t w = (size_t)a->plan->w, h = (size_t)a->plan->h;
    const sp_video_frame *frame = &p->frames[i];
    const uint8_t *from = p->grey[i];
    int slot = slot_of(a, i);
    if (!frame->on_device && (!p->pinned || p->stride != w)) {
        uint8_t *to = a->staging + (size_t)i * a->frame_bytes;
        for (size_t y = 0; y < (p->stride == w ? 1 : h); y++)
            memcpy(to + y * w, from + y * p->stride, p->stride == w ? w * h : w);
        from = to;
    }
    if (i >= SLOTS) {
        TRY(a->api->event_wait(a->copies, a->alone.left[slot], reterr));
        TRY(a->api->event_wait(a->copies, a->pairs.left[slot], reterr));
    }
    if (frame->on_device)
        TRY(a->api->plane->grey_y8(a->copies, grey_at(a, slot), from, w, frame->limited, reterr));
    else
        TRY(a->api->copy_in(a->copies, grey_at(a, slot).data, from, w * h, reterr));
    return a->api->event_record(a->arrived[slot], a->copies, reterr);
}

static frame_out *frame_in(const sp_analyze_cuda *a, int i)
{
    return (frame_out *)(void *)(a->frames_in + (size_t)i * a->out_bytes);
}

static sp_status run_alone(sp_analyze_cuda *a, int i, sp_error *reterr)
{
    lane *l = &a->alone;
    int slot = slot_of(a, i);
    TRY(a->api->event_wait(l->stream, a->arrived[slot], reterr));
    TRY(replay(a, l, slot, enqueue_alone, reterr));
    TRY(a->api->event_record(l->left[slot], l->stream, reterr));
    TRY(a->api->copy_out(l->stream, frame_in(a, i), a->frame_made, sizeof(frame_out) + (size_t)a->defects_at_once * sizeof(sp_region), reterr));
    if (!a->rest_bytes)
        return SP_OK;
    return a->api->copy_on(l->stream, a->rests + (size_t)i * a->rest_bytes, a->frame_made->defects + a->defects_at_once, a->rest_bytes, reterr);
}

/* The frame behind the last one: only its histogram is compared with. */
static sp_status run_histogram(sp_analyze_cuda *a, int i, sp_error *reterr)
{
    lane *l = &a->alone;
    sp_plane_measure *out = &a->frame_made->sums.plane;
    TRY(a->api->event_wait(l->stream, a->arrived[slot_of(a, i)], reterr));
    TRY(a->api->plane->measure_plane(l->stream, grey_at(a, slot_of(a, i)), out, reterr));
    return a->api->copy_out(l->stream, &frame_in(a, i)->sums.plane, out, sizeof(*out), reterr);
}

/* Frames i and i + 1; where one is missing between them, only the latter's expansion. */
static sp_status run_pair(sp_analyze_cuda *a, const part *p, int i, sp_error *reterr)
{
    lane *l = &a->pairs;
    int slot = slot_of(a, i), next = slot_of(a, i + 1);
    TRY(a->api->event_wait(l->stream, a->arrived[next], reterr));
    if (is_pair(p, i)) {
        TRY(replay(a, l, slot, enqueue_pair, reterr));
        TRY(a->api->copy_out(l->stream, &a->pairs_in[i], a->pair_made, sizeof(*a->pair_made), reterr));
    } else {
        TRY(enqueue_expansion(a, next, reterr));
    }
    return a->api->event_record(l->left[slot], l->stream, reterr);
}

static sp_status enqueue_part(sp_analyze_cuda *a, const part *p, sp_error *reterr)
{
    bool there = a->has_kept && a->kept_number == p->frames[0].number && a->kept_grey == p->grey[0];
    int copied = there ? 1 : 0;
    a->has_kept = false;
    if (!there) {
        TRY(copy_frame(a, p, copied++, reterr));
        TRY(a->api->event_wait(a->pairs.stream, a->arrived[slot_of(a, 0)], reterr));
        TRY(enqueue_expansion(a, slot_of(a, 0), reterr));
    }
    for (int i = 0; i < p->count; i++) {
        /* As far ahead as slots are known to be left: whoever reads the frame before this one has been enqueued. */
        for (int ahead = SP_MIN(i + SLOTS, frames_of(p)); copied < ahead; copied++)
            TRY(copy_frame(a, p, copied, reterr));
        TRY(run_alone(a, i, reterr));
        if (i + 1 < frames_of(p))
            TRY(run_pair(a, p, i, reterr));
    }
    return p->more ? run_histogram(a, p->count, reterr) : SP_OK;
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

/* The regions that were not copied out with their frame. */
static sp_status fetch_rests(sp_analyze_cuda *a, int count, sp_error *reterr)
{
    sp_cuda_stream *stream = a->alone.stream;
    sp_status s = SP_OK;
    bool any = false;
    for (int i = 0; i < count && !s; i++) {
        frame_out *out = frame_in(a, i);
        int more = (int)SP_MIN(out->sums.defects.written, (uint32_t)a->defects_most) - a->defects_at_once;
        if (more <= 0)
            continue;
        any = true;
        s = a->api->copy_out(stream, out->defects + a->defects_at_once, a->rests + (size_t)i * a->rest_bytes,
                             (size_t)more * sizeof(sp_region), reterr);
    }
    sp_status ended = any ? a->api->stream_sync(stream, s ? NULL : reterr) : SP_OK;
    return s ? s : ended;
}

static sp_status run_part(sp_analyze_cuda *a, const part *p, sp_frame_record *ret_records, sp_error *reterr)
{
    sp_error later;
    sp_status s = enqueue_part(a, p, reterr);
    sp_status ended = wait_all(a, s ? &later : reterr);
    if (s || ended)
        return s ? s : ended;
    s = fetch_rests(a, p->count, reterr);
    if (s)
        return s;
    for (int i = 0; i < p->count; i++) {
        const frame_out *out = frame_in(a, i);
        sp_record_begin(&ret_records[i], &p->frames[i]);
        sp_record_frame(&ret_records[i], a->plan, &out->sums, out->defects);
        if (is_pair(p, i))
            sp_record_pair(&ret_records[i], a->plan, &out->sums.plane, &frame_in(a, i + 1)->sums.plane, &a->pairs_in[i]);
    }
    if (p->more && !p->frames[p->count].lookahead) {
        a->has_kept = true;
        a->first = slot_of(a, p->count);
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
