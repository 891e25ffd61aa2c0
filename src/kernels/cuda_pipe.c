/* SPDX-License-Identifier: Apache-2.0
 * The pipeline and its measure. */
#include "kernels/cuda_pipe.h"

#include <stdlib.h>

typedef struct pipe_lane {
    sp_cuda_stream *stream;
    sp_cuda_event *done;
    void *host_in, *host_out, *in, *out;
    int batch; /* that is on its way; -1 = none */
} pipe_lane;

struct sp_cuda_pipe {
    const sp_cuda_api *api;
    sp_cuda *cuda;
    size_t in_bytes, out_bytes;
    sp_cuda_event *begin, *end; /* timed */
    int lane_count;
    pipe_lane lanes[SP_LIMIT_CUDA_LANES];
};

static sp_status lane_open(sp_cuda_pipe *pipe, pipe_lane *lane, sp_error *reterr)
{
    const sp_cuda_api *api = pipe->api;
    lane->batch = -1;
    sp_status s = api->stream_new(pipe->cuda, &lane->stream, reterr);
    if (!s)
        s = api->event_new(pipe->cuda, false, &lane->done, reterr);
    if (!s)
        s = api->pinned_new(pipe->cuda, pipe->in_bytes, &lane->host_in, reterr);
    if (!s)
        s = api->pinned_new(pipe->cuda, pipe->out_bytes, &lane->host_out, reterr);
    if (!s)
        s = api->reserve(pipe->cuda, pipe->in_bytes, &lane->in, reterr);
    if (!s)
        s = api->reserve(pipe->cuda, pipe->out_bytes, &lane->out, reterr);
    return s;
}

sp_status sp_cuda_pipe_new(const sp_cuda_api *api, sp_cuda *cuda, int lanes, size_t in_bytes, size_t out_bytes,
                           sp_cuda_pipe **ret_pipe, sp_error *reterr)
{
    if (lanes < 1 || lanes > SP_LIMIT_CUDA_LANES)
        return SP_FAIL(reterr, SP_INVALID, "%d lanes; 1 to %d are possible", lanes, SP_LIMIT_CUDA_LANES);
    sp_cuda_pipe *pipe = calloc(1, sizeof(*pipe));
    if (!pipe)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a pipeline");
    pipe->api = api;
    pipe->cuda = cuda;
    pipe->in_bytes = in_bytes;
    pipe->out_bytes = out_bytes;
    sp_status s = api->event_new(cuda, true, &pipe->begin, reterr);
    if (!s)
        s = api->event_new(cuda, true, &pipe->end, reterr);
    while (!s && pipe->lane_count < lanes)
        s = lane_open(pipe, &pipe->lanes[pipe->lane_count++], reterr);
    if (s) {
        sp_cuda_pipe_free(pipe);
        return s;
    }
    *ret_pipe = pipe;
    return SP_OK;
}

void sp_cuda_pipe_free(sp_cuda_pipe *pipe)
{
    if (!pipe)
        return;
    for (int i = 0; i < pipe->lane_count; i++) {
        pipe_lane *lane = &pipe->lanes[i];
        if (lane->stream)
            (void)pipe->api->stream_sync(lane->stream, NULL); /* a device that failed uses nothing any more */
        pipe->api->release(pipe->cuda, lane->in);
        pipe->api->release(pipe->cuda, lane->out);
        pipe->api->pinned_free(pipe->cuda, lane->host_in);
        pipe->api->pinned_free(pipe->cuda, lane->host_out);
        pipe->api->event_free(lane->done);
        pipe->api->stream_free(lane->stream);
    }
    pipe->api->event_free(pipe->begin);
    pipe->api->event_free(pipe->end);
    free(pipe);
}

/* Waits for what the lane is doing, if anything, and hands it out. */
static sp_status lane_finish(sp_cuda_pipe *pipe, pipe_lane *lane, const sp_cuda_pipe_work *work, sp_error *reterr)
{
    if (lane->batch < 0)
        return SP_OK;
    int batch = lane->batch;
    lane->batch = -1;
    sp_status s = pipe->api->event_sync(lane->done, reterr);
    if (!s && work->take)
        work->take(work->context, batch, lane->host_out);
    return s;
}

static sp_status lane_enqueue(sp_cuda_pipe *pipe, int index, const sp_cuda_pipe_work *work, bool copies, sp_error *reterr)
{
    const sp_cuda_api *api = pipe->api;
    pipe_lane *lane = &pipe->lanes[index];
    sp_status s = SP_OK;
    if (copies && pipe->in_bytes)
        s = api->copy_in(lane->stream, lane->in, lane->host_in, pipe->in_bytes, reterr);
    if (!s && work->compute)
        s = work->compute(work->context, index, lane->stream, lane->in, lane->out, reterr);
    if (!s && copies && pipe->out_bytes)
        s = api->copy_out(lane->stream, lane->host_out, lane->out, pipe->out_bytes, reterr);
    return s;
}

/* After a failure: nothing that was enqueued may touch the lanes' memory any more. */
static void drain(sp_cuda_pipe *pipe)
{
    for (int i = 0; i < pipe->lane_count; i++) {
        (void)pipe->api->stream_sync(pipe->lanes[i].stream, NULL);
        pipe->lanes[i].batch = -1;
    }
}

sp_status sp_cuda_pipe_run(sp_cuda_pipe *pipe, const sp_cuda_pipe_work *work, int batches, sp_error *reterr)
{
    sp_status s = SP_OK;
    for (int batch = 0; !s && batch < batches; batch++) {
        int index = batch % pipe->lane_count;
        pipe_lane *lane = &pipe->lanes[index];
        s = lane_finish(pipe, lane, work, reterr);
        if (s)
            break;
        if (work->fill)
            work->fill(work->context, batch, lane->host_in);
        s = lane_enqueue(pipe, index, work, true, reterr);
        if (!s)
            s = pipe->api->event_record(lane->done, lane->stream, reterr);
        if (!s)
            lane->batch = batch;
    }
    /* The oldest batch is on the lane that would be next. */
    for (int i = 0; !s && i < pipe->lane_count; i++)
        s = lane_finish(pipe, &pipe->lanes[(batches + i) % pipe->lane_count], work, reterr);
    if (s)
        drain(pipe);
    return s;
}

/* The device's time from the first operation on any lane to the last one. */
static sp_status time_batches(sp_cuda_pipe *pipe, const sp_cuda_pipe_work *work, bool copies, int batches, float *ret_ms,
                              sp_error *reterr)
{
    const sp_cuda_api *api = pipe->api;
    pipe_lane *first = &pipe->lanes[0];
    sp_status s = api->event_record(pipe->begin, first->stream, reterr);
    for (int i = 1; !s && i < pipe->lane_count; i++)
        s = api->event_wait(pipe->lanes[i].stream, pipe->begin, reterr);
    for (int batch = 0; !s && batch < batches; batch++)
        s = lane_enqueue(pipe, batch % pipe->lane_count, work, copies, reterr);
    for (int i = 1; !s && i < pipe->lane_count; i++) {
        s = api->event_record(pipe->lanes[i].done, pipe->lanes[i].stream, reterr);
        if (!s)
            s = api->event_wait(first->stream, pipe->lanes[i].done, reterr);
    }
    if (!s)
        s = api->event_record(pipe->end, first->stream, reterr);
    if (!s)
        s = api->event_sync(pipe->end, reterr);
    return s ? s : api->event_elapsed_ms(pipe->begin, pipe->end, ret_ms, reterr);
}

double sp_cuda_hidden(double copy_ms, double compute_ms, double wall_ms)
{
    double shorter = SP_MIN(copy_ms, compute_ms), longer = SP_MAX(copy_ms, compute_ms);
    double hidden = shorter > 0 ? 1.0 - (wall_ms - longer) / shorter : 1.0;
    return SP_MIN(hidden, 1.0);
}

sp_status sp_cuda_pipe_measure(sp_cuda_pipe *pipe, const sp_cuda_pipe_work *work, int batches, sp_cuda_overlap *ret_overlap,
                               sp_error *reterr)
{
    static const sp_cuda_pipe_work nothing = { 0 };
    sp_cuda_overlap overlap = { 0 };
    float warm_up;
    sp_status s = time_batches(pipe, work, true, pipe->lane_count, &warm_up, reterr);
    if (!s)
        s = time_batches(pipe, &nothing, true, batches, &overlap.copy_ms, reterr);
    if (!s)
        s = time_batches(pipe, work, false, batches, &overlap.compute_ms, reterr);
    if (!s)
        s = time_batches(pipe, work, true, batches, &overlap.wall_ms, reterr);
    if (s) {
        drain(pipe);
        return s;
    }
    overlap.hidden = sp_cuda_hidden(overlap.copy_ms, overlap.compute_ms, overlap.wall_ms);
    *ret_overlap = overlap;
    return SP_OK;
}
