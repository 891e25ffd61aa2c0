// SPDX-License-Identifier: Apache-2.0
// The calls of CUDA's runtime, as cuda_runtime_api.h declares them, on the stand-in's world. What a call does with its operation
// stands in runtime.cpp.
#include "world.h"

#include <stdio.h>
#include <unistd.h>

using namespace shim;

#define ENTER_AS(needs_device)                                 \
    std::lock_guard<std::recursive_mutex> guard_(w().lock);    \
    {                                                          \
        cudaError_t entered_ = entered(__func__, needs_device); \
        if (entered_ != cudaSuccess)                           \
            return entered_;                                   \
    }
#define ENTER() ENTER_AS(true)

// For calls that end something: they do it even when they answer an error, so that what leaks is the caller's fault.
#define ENTER_TO_END()                                      \
    std::lock_guard<std::recursive_mutex> guard_(w().lock); \
    const cudaError_t entered_ = entered(__func__)
#define ENDED(error) ended(entered_, (error))

static cudaError_t ended(cudaError_t at_first, cudaError_t error)
{
    return done(at_first != cudaSuccess ? at_first : error);
}

#define UNSAFE_IN_CAPTURE()                                       \
    do {                                                          \
        if (breaks_capture())                                     \
            return done(cudaErrorStreamCaptureUnsupported);       \
    } while (0)

extern "C" {

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define NAME(value) case value: return #value
        NAME(cudaSuccess);
        NAME(cudaErrorInvalidValue);
        NAME(cudaErrorMemoryAllocation);
        NAME(cudaErrorInsufficientDriver);
        NAME(cudaErrorCallRequiresNewerDriver);
        NAME(cudaErrorNoDevice);
        NAME(cudaErrorInvalidDevice);
        NAME(cudaErrorNoKernelImageForDevice);
        NAME(cudaErrorECCUncorrectable);
        NAME(cudaErrorInvalidResourceHandle);
        NAME(cudaErrorNotReady);
        NAME(cudaErrorIllegalAddress);
        NAME(cudaErrorLaunchFailure);
        NAME(cudaErrorNotSupported);
        NAME(cudaErrorSystemDriverMismatch);
        NAME(cudaErrorStreamCaptureUnsupported);
        NAME(cudaErrorStreamCaptureInvalidated);
        NAME(cudaErrorStreamCaptureUnjoined);
#undef NAME
    default: return "cudaError";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess ? "no error" : cudaGetErrorName(error);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

// ---- devices ----

cudaError_t cudaDriverGetVersion(int *version)
{
    ENTER_AS(false);
    *version = w().device.driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    ENTER_AS(false);
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    ENTER();
    *count = w().device.count;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    ENTER();
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    ENTER();
    if (device < 0 || device >= w().device.count)
        return done(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    ENTER();
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    ENTER();
    if (device < 0 || device >= w().device.count)
        return done(cudaErrorInvalidDevice);
    *properties = {};
    (void)snprintf(properties->name, sizeof(properties->name), "shim");
    properties->uuid.bytes[15] = (char)device;
    properties->totalGlobalMem = w().device.memory_bytes;
    properties->major = w().device.major;
    properties->minor = w().device.minor;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    ENTER();
    if (device < 0 || device >= w().device.count)
        return done(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrClockRate: *value = 1000000; break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrMemoryClockRate: *value = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = 64; break;
    case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrAsyncEngineCount: *value = 2; break;
    case cudaDevAttrComputeCapabilityMajor: *value = w().device.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = w().device.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)w().device.shared_bytes; break;
    case cudaDevAttrHostRegisterSupported: *value = 1; break;
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    default: return done(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    w().counters.device_syncs++;
    run_everything();
    return done(w().sticky);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    ENTER();
    *total_bytes = w().device.memory_bytes;
    *free_bytes = w().device.memory_bytes - w().counters.device_bytes;
    return cudaSuccess;
}

// ---- memory ----

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    return done(device_new(pointer, bytes, nullptr));
}

cudaError_t cudaFree(void *pointer)
{
    ENTER_TO_END();
    UNSAFE_IN_CAPTURE();
    if (!pointer)
        return ENDED(cudaSuccess);
    w().counters.device_syncs++;
    w().counters.frees++;
    run_everything();
    return ENDED(device_free(pointer));
}

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    return done(device_new(pointer, bytes, nullptr));
}

cudaError_t cudaMallocFromPoolAsync(void **pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    return done(device_new(pointer, bytes, pool));
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    ENTER_TO_END();
    UNSAFE_IN_CAPTURE();
    const allocation *found = allocation_of(pointer, 0);
    if (!found || found->kind != memory_kind::device || w().memory.count((uintptr_t)pointer) == 0)
        return ENDED(cudaErrorInvalidValue);
    w().counters.frees++;
    operation op;
    op.always = true;
    op.run = [=]() { return device_free(pointer); };
    return ENDED(enqueue(stream_of(stream), std::move(op)));
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const cudaMemPoolProps *properties)
{
    ENTER();
    if (properties->location.id < 0 || properties->location.id >= w().device.count)
        return done(cudaErrorInvalidDevice);
    *pool = new CUmemPoolHandle_st();
    (*pool)->device = properties->location.id;
    w().counters.pools++;
    return cudaSuccess;
}

// What was allocated from it lives on, as with CUDA.
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
    ENTER_TO_END();
    run_everything(); // frees that stand in queues know the pool
    for (auto &each : w().memory) {
        if (each.second.pool == pool)
            each.second.pool = nullptr;
    }
    delete pool;
    w().counters.pools--;
    return ENDED(cudaSuccess);
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value)
{
    ENTER();
    if (attribute == cudaMemPoolAttrReleaseThreshold)
        pool->threshold = *(uint64_t *)value;
    else if (attribute == cudaMemPoolAttrUsedMemHigh)
        pool->used_high = pool->used;
    else
        return done(cudaErrorInvalidValue);
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value)
{
    ENTER();
    switch (attribute) {
    case cudaMemPoolAttrReleaseThreshold: *(uint64_t *)value = pool->threshold; break;
    case cudaMemPoolAttrReservedMemCurrent: *(uint64_t *)value = pool->reserved; break;
    case cudaMemPoolAttrReservedMemHigh: *(uint64_t *)value = pool->reserved_high; break;
    case cudaMemPoolAttrUsedMemCurrent: *(uint64_t *)value = pool->used; break;
    case cudaMemPoolAttrUsedMemHigh: *(uint64_t *)value = pool->used_high; break;
    default: return done(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    return done(host_new(pointer, bytes));
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    return done(host_new(pointer, bytes));
}

// Work that still stands in queues must not need it: it is gone at once.
cudaError_t cudaFreeHost(void *pointer)
{
    ENTER_TO_END();
    UNSAFE_IN_CAPTURE();
    if (!pointer)
        return ENDED(cudaSuccess);
    return ENDED(host_free(pointer));
}

// Whether the page of `pointer` may be read and not written. One that is not mapped is neither.
static bool only_read(const void *pointer)
{
    unsigned long from, to;
    char may[5];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && !found && fscanf(maps, "%lx-%lx %4s%*[^\n]", &from, &to, may) == 3)
        found = (uintptr_t)pointer >= from && (uintptr_t)pointer < to && may[0] == 'r' && may[1] == '-';
    if (maps)
        (void)fclose(maps);
    return found;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    if (!pointer || !bytes)
        return done(cudaErrorInvalidValue);
    auto next = w().memory.lower_bound((uintptr_t)pointer);
    if (allocation_of(pointer, 0) || (next != w().memory.end() && next->first < (uintptr_t)pointer + bytes))
        return done(cudaErrorHostMemoryAlreadyRegistered);
    if (!(flags & cudaHostRegisterReadOnly) && only_read(pointer)) // as CUDA says it is without one page table for both
        return done(cudaErrorInvalidValue);
    w().memory[(uintptr_t)pointer] = { bytes, memory_kind::registered, current_device, nullptr };
    w().counters.registered++;
    return cudaSuccess;
}

// The handle is a path and a size; the stand-in for libcuda (tests/media/gpu) maps it.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *pointer)
{
    ENTER();
    auto found = w().memory.find((uintptr_t)pointer);
    if (found == w().memory.end() || found->second.shared_fd < 0)
        return done(cudaErrorInvalidValue);
    (void)snprintf(handle->reserved, sizeof(handle->reserved), "/proc/%d/fd/%d %zu", (int)getpid(), found->second.shared_fd,
                   found->second.bytes);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    ENTER_TO_END();
    UNSAFE_IN_CAPTURE();
    auto found = w().memory.find((uintptr_t)pointer);
    if (found == w().memory.end() || found->second.kind != memory_kind::registered)
        return ENDED(cudaErrorHostMemoryNotRegistered);
    w().memory.erase(found);
    w().counters.unregistered++;
    return ENDED(cudaSuccess);
}

// ---- copies ----

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER();
    return done(copy_rows(stream_of(stream), dst, bytes, src, bytes, bytes, 1, kind));
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER();
    return done(copy_rows(stream_of(stream), dst, dst_pitch, src, src_pitch, width, height, kind));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    w().counters.syncs++;
    cudaError_t error = copy_rows(&w().null_stream, dst, bytes, src, bytes, bytes, 1, kind);
    return done(error != cudaSuccess ? error : run_until([]() { return w().null_stream.queue.empty(); }));
}

cudaError_t cudaMemsetAsync(void *pointer, int byte, size_t bytes, cudaStream_t stream)
{
    ENTER();
    return done(fill_rows(stream_of(stream), pointer, bytes, byte, bytes, 1));
}

cudaError_t cudaMemset2DAsync(void *pointer, size_t pitch, int byte, size_t width, size_t height, cudaStream_t stream)
{
    ENTER();
    return done(fill_rows(stream_of(stream), pointer, pitch, byte, width, height));
}

cudaError_t cudaMemset(void *pointer, int byte, size_t bytes)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    cudaError_t error = fill_rows(&w().null_stream, pointer, bytes, byte, bytes, 1);
    return done(error != cudaSuccess ? error : run_until([]() { return w().null_stream.queue.empty(); }));
}

// ---- streams ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    ENTER();
    *stream = new CUstream_st();
    (*stream)->device = current_device;
    (*stream)->time_ns = w().now_ns;
    w().streams.push_back(*stream);
    w().counters.streams++;
    return cudaSuccess;
}

// Its work is done later, as with CUDA.
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER_TO_END();
    if (!known(stream) || stream == &w().null_stream)
        return ENDED(cudaErrorInvalidResourceHandle);
    if (stream->capturing) {
        stream->capturing->broken = true;
        stream->capturing->streams.erase(stream);
        stream->capturing.reset();
    }
    stream->destroyed = true;
    w().counters.streams--;
    forget_ended_streams();
    return ENDED(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    if (!known(s))
        return done(cudaErrorInvalidResourceHandle);
    if (s->capturing) {
        s->capturing->broken = true;
        return done(cudaErrorStreamCaptureUnsupported);
    }
    w().counters.syncs++;
    cudaError_t error = run_until([&]() { return s->queue.empty(); });
    waited_until(s->time_ns);
    return done(error);
}

// Asking takes time: something gets on.
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    if (!known(s))
        return done(cudaErrorInvalidResourceHandle);
    if (s->capturing) {
        s->capturing->broken = true;
        return done(cudaErrorStreamCaptureUnsupported);
    }
    (void)run_any();
    forget_ended_streams();
    return done(w().sticky != cudaSuccess ? w().sticky : s->queue.empty() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    if (!known(s))
        return done(cudaErrorInvalidResourceHandle);
    mark_ref last = event->last;
    if (!last)
        return cudaSuccess;
    if (last->captured) {
        std::shared_ptr<capture> in = last->in.lock();
        if (!in || (s->capturing && s->capturing != in))
            return done(cudaErrorStreamCaptureIsolation);
        s->capturing = in;
        in->streams.insert(s);
        s->tail.insert(last->after.begin(), last->after.end());
        return cudaSuccess;
    }
    if (s->capturing) {
        s->capturing->broken = true;
        return done(cudaErrorStreamCaptureIsolation);
    }
    operation op;
    op.needs = last;
    return done(enqueue(s, std::move(op)));
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    ENTER();
    *event = new CUevent_st();
    (*event)->device = current_device;
    (*event)->timed = !(flags & cudaEventDisableTiming);
    w().counters.events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER_TO_END();
    delete event;
    w().counters.events--;
    return ENDED(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    if (!known(s) || s->device != event->device)
        return done(cudaErrorInvalidResourceHandle);
    mark_ref made = std::make_shared<mark>();
    event->last = made;
    if (s->capturing) {
        made->captured = true;
        made->in = s->capturing;
        made->after = s->tail;
        return cudaSuccess;
    }
    operation op;
    op.always = true;
    op.run = [made, s]() {
        made->passed = true;
        made->time_ns = s->time_ns;
        return cudaSuccess;
    };
    return done(enqueue(s, std::move(op)));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    mark_ref last = event->last;
    if (!last)
        return cudaSuccess;
    if (last->captured)
        return done(cudaErrorCapturedEvent);
    w().counters.syncs++;
    cudaError_t error = run_until([&]() { return last->passed || w().sticky != cudaSuccess; });
    waited_until(last->time_ns);
    return done(error);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    mark_ref last = event->last;
    if (!last)
        return cudaSuccess;
    if (last->captured)
        return done(cudaErrorCapturedEvent);
    (void)run_any();
    forget_ended_streams();
    if (last->passed)
        waited_until(last->time_ns);
    return done(w().sticky != cudaSuccess ? w().sticky : last->passed ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    ENTER();
    if (!from->timed || !to->timed || !from->last || !to->last)
        return done(cudaErrorInvalidResourceHandle);
    if (!from->last->passed || !to->last->passed)
        return done(cudaErrorNotReady);
    *ms = (float)((to->last->time_ns - from->last->time_ns) * 1e-6);
    return cudaSuccess;
}

// ---- graphs ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    if (!known(s) || s->capturing || s == &w().null_stream)
        return done(s == &w().null_stream ? cudaErrorStreamCaptureUnsupported : cudaErrorInvalidValue);
    s->capturing = std::make_shared<capture>();
    s->capturing->origin = s;
    s->capturing->mode = mode;
    s->capturing->thread = std::this_thread::get_id();
    s->capturing->streams.insert(s);
    s->tail.clear();
    return cudaSuccess;
}

// Ends it whatever happened to it.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = nullptr;
    ENTER_TO_END();
    CUstream_st *s = stream_of(stream);
    if (!known(s) || !s->capturing || s->capturing->origin != s)
        return ENDED(cudaErrorStreamCaptureUnmatched);
    std::shared_ptr<capture> c = s->capturing;
    if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
        return done(cudaErrorStreamCaptureWrongThread);
    std::set<size_t> joined = s->tail;
    for (size_t i = c->nodes.size(); i-- > 0;) { // edges only lead back
        if (joined.count(i))
            joined.insert(c->nodes[i].after.begin(), c->nodes[i].after.end());
    }
    bool all_joined = true;
    for (CUstream_st *each : c->streams) {
        for (size_t node : each->tail)
            all_joined = all_joined && joined.count(node);
        each->capturing.reset();
        each->tail.clear();
    }
    if (entered_ != cudaSuccess)
        return done(entered_);
    if (c->broken)
        return done(cudaErrorStreamCaptureInvalidated);
    if (!all_joined)
        return done(cudaErrorStreamCaptureUnjoined);
    *graph = new CUgraph_st{ c->nodes };
    w().counters.graphs++;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    *status = !s->capturing         ? cudaStreamCaptureStatusNone
              : s->capturing->broken ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = nullptr;
    ENTER();
    UNSAFE_IN_CAPTURE();
    *exec = new CUgraphExec_st{ graph->nodes };
    w().counters.graphs++;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    ENTER();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    ENTER();
    CUstream_st *s = stream_of(stream);
    w().counters.graph_launches++;
    auto nodes = std::make_shared<std::vector<operation>>(exec->nodes); // it may be destroyed while this is enqueued
    operation op;
    op.run = [nodes, s]() {
        double end = s->time_ns;
        run_nodes(*nodes, s->time_ns, &end);
        s->time_ns = end;
        return cudaSuccess;
    };
    return done(enqueue(s, std::move(op)));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    ENTER_TO_END();
    delete exec;
    w().counters.graphs--;
    return ENDED(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    ENTER_TO_END();
    delete graph;
    w().counters.graphs--;
    return ENDED(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int)
{
    ENTER();
    return cudaSuccess;
}

} // extern "C"
