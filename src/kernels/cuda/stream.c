/* SPDX-License-Identifier: Apache-2.0
 * Streams, copies, events and graphs: thin over the runtime, with its errors translated. */
#include "kernels/cuda/core.h"

#include <stdlib.h>

/* Every call below makes the device the thread's own first; `what` names the call. */
#define CALL(cuda, call, what, reterr)                                       \
    ({                                                                       \
        sp_status used_ = sp_cuda_use((cuda), (reterr));                     \
        used_ ? used_ : sp_cuda_check((call), (what), (reterr));             \
    })

/* For calls that cannot fail the caller: the device has failed then, and the next call that can says so. */
static void ignore(cudaError_t error)
{
    if (error != cudaSuccess)
        (void)cudaGetLastError();
}

/* ---- streams ---- */

static sp_status stream_new(sp_cuda *cuda, sp_cuda_stream **ret_stream, sp_error *reterr)
{
    sp_cuda_stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a stream");
    stream->cuda = cuda;
    sp_status s = CALL(cuda, cudaStreamCreateWithFlags(&stream->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", reterr);
    if (s) {
        free(stream);
        return s;
    }
    *ret_stream = stream;
    return SP_OK;
}

static void stream_free(sp_cuda_stream *stream)
{
    if (!stream)
        return;
    (void)sp_cuda_use(stream->cuda, NULL);
    ignore(cudaStreamDestroy(stream->stream));
    free(stream);
}

static void *stream_raw(sp_cuda_stream *stream)
{
    return stream->stream;
}

static sp_status copy(sp_cuda_stream *stream, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, const char *what,
                      sp_error *reterr)
{
    if (!bytes)
        return SP_OK;
    return CALL(stream->cuda, cudaMemcpyAsync(to, from, bytes, kind, stream->stream), what, reterr);
}

static sp_status copy_in(sp_cuda_stream *stream, void *device, const void *host, size_t bytes, sp_error *reterr)
{
    return copy(stream, device, host, bytes, cudaMemcpyHostToDevice, "copy to the device", reterr);
}

static sp_status copy_out(sp_cuda_stream *stream, void *host, const void *device, size_t bytes, sp_error *reterr)
{
    return copy(stream, host, device, bytes, cudaMemcpyDeviceToHost, "copy from the device", reterr);
}

static sp_status copy_on(sp_cuda_stream *stream, void *device, const void *from_device, size_t bytes, sp_error *reterr)
{
    return copy(stream, device, from_device, bytes, cudaMemcpyDeviceToDevice, "copy on the device", reterr);
}

static sp_status copy_rows_in(sp_cuda_stream *stream, void *device, size_t device_stride, const void *host, size_t host_stride,
                              size_t row_bytes, size_t rows, sp_error *reterr)
{
    if (!row_bytes || !rows)
        return SP_OK;
    return CALL(stream->cuda, cudaMemcpy2DAsync(device, device_stride, host, host_stride, row_bytes, rows, cudaMemcpyHostToDevice,
                                                stream->stream), "copy of rows to the device", reterr);
}

static sp_status fill(sp_cuda_stream *stream, void *device, int byte, size_t bytes, sp_error *reterr)
{
    if (!bytes)
        return SP_OK;
    return CALL(stream->cuda, cudaMemsetAsync(device, byte, bytes, stream->stream), "cudaMemsetAsync", reterr);
}

/* Waits also where the device cannot be made the thread's, which a wait does not need: memory is given back behind it. */
static sp_status stream_sync(sp_cuda_stream *stream, sp_error *reterr)
{
    (void)sp_cuda_use(stream->cuda, NULL);
    return sp_cuda_check(cudaStreamSynchronize(stream->stream), "cudaStreamSynchronize", reterr);
}

static sp_status stream_done(sp_cuda_stream *stream, bool *ret_done, sp_error *reterr)
{
    sp_status s = sp_cuda_use(stream->cuda, reterr);
    if (s)
        return s;
    cudaError_t error = cudaStreamQuery(stream->stream);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        *ret_done = false;
        return SP_OK;
    }
    s = sp_cuda_check(error, "cudaStreamQuery", reterr);
    if (!s)
        *ret_done = true;
    return s;
}

/* ---- events ---- */

static sp_status event_new(sp_cuda *cuda, bool timed, sp_cuda_event **ret_event, sp_error *reterr)
{
    sp_cuda_event *event = calloc(1, sizeof(*event));
    if (!event)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an event");
    event->cuda = cuda;
    unsigned flags = cudaEventBlockingSync | (timed ? 0u : cudaEventDisableTiming);
    sp_status s = CALL(cuda, cudaEventCreateWithFlags(&event->event, flags), "cudaEventCreateWithFlags", reterr);
    if (s) {
        free(event);
        return s;
    }
    *ret_event = event;
    return SP_OK;
}

static void event_free(sp_cuda_event *event)
{
    if (!event)
        return;
    (void)sp_cuda_use(event->cuda, NULL);
    ignore(cudaEventDestroy(event->event));
    free(event);
}

static sp_status event_record(sp_cuda_event *event, sp_cuda_stream *stream, sp_error *reterr)
{
    return CALL(event->cuda, cudaEventRecord(event->event, stream->stream), "cudaEventRecord", reterr);
}

static sp_status event_wait(sp_cuda_stream *stream, sp_cuda_event *event, sp_error *reterr)
{
    return CALL(stream->cuda, cudaStreamWaitEvent(stream->stream, event->event, 0), "cudaStreamWaitEvent", reterr);
}

static sp_status event_sync(sp_cuda_event *event, sp_error *reterr)
{
    (void)sp_cuda_use(event->cuda, NULL); /* as stream_sync */
    return sp_cuda_check(cudaEventSynchronize(event->event), "cudaEventSynchronize", reterr);
}

static sp_status event_elapsed_ms(sp_cuda_event *from, sp_cuda_event *to, float *ret_ms, sp_error *reterr)
{
    float ms = 0;
    sp_status s = CALL(from->cuda, cudaEventElapsedTime(&ms, from->event, to->event), "cudaEventElapsedTime", reterr);
    if (!s)
        *ret_ms = ms;
    return s;
}

/* ---- graphs ---- */

/* Of this thread only: other lanes go on allocating and waiting meanwhile. */
static sp_status graph_begin(sp_cuda_stream *stream, sp_error *reterr)
{
    return CALL(stream->cuda, cudaStreamBeginCapture(stream->stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture",
                reterr);
}

static sp_status graph_end(sp_cuda_stream *stream, sp_cuda_graph **ret_graph, sp_error *reterr)
{
    cudaGraph_t drawn = NULL;
    sp_cuda_graph *graph = NULL;
    /* Whatever else is wrong, the capture must end. */
    sp_status s = sp_cuda_check(cudaStreamEndCapture(stream->stream, &drawn), "cudaStreamEndCapture", reterr);
    if (s)
        return s;
    graph = calloc(1, sizeof(*graph));
    if (!graph) {
        s = SP_FAIL(reterr, SP_NOMEM, "no memory for a graph");
    } else {
        graph->cuda = stream->cuda;
        s = sp_cuda_check(cudaGraphInstantiate(&graph->exec, drawn, 0), "cudaGraphInstantiate", reterr);
    }
    ignore(cudaGraphDestroy(drawn));
    if (s) {
        free(graph);
        return s;
    }
    *ret_graph = graph;
    return SP_OK;
}

static sp_status graph_launch(sp_cuda_graph *graph, sp_cuda_stream *stream, sp_error *reterr)
{
    return CALL(stream->cuda, cudaGraphLaunch(graph->exec, stream->stream), "cudaGraphLaunch", reterr);
}

static void graph_free(sp_cuda_graph *graph)
{
    if (!graph)
        return;
    (void)sp_cuda_use(graph->cuda, NULL);
    ignore(cudaGraphExecDestroy(graph->exec));
    free(graph);
}

const sp_cuda_api sp_cuda_stream_calls = {
    .stream_new = stream_new,
    .stream_free = stream_free,
    .stream_raw = stream_raw,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .copy_on = copy_on,
    .copy_rows_in = copy_rows_in,
    .fill = fill,
    .stream_sync = stream_sync,
    .stream_done = stream_done,
    .event_new = event_new,
    .event_free = event_free,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
    .event_elapsed_ms = event_elapsed_ms,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_launch = graph_launch,
    .graph_free = graph_free,
};
