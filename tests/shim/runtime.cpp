// SPDX-License-Identifier: Apache-2.0
// The stand-in's runtime: memory, streams, events, graphs and failures of a GPU that is not there.
//
// Nothing runs when it is enqueued. A stream is a queue; when somebody waits, queues get on in random order (by seed), one
// operation at a time, each as soon as the events that it waits for have passed. So work that is ordered only by luck on a real
// device is out of order here: a missing event, a buffer that is written while an earlier copy still has to read it.
//
//   memory    malloc, filled with 0xFF (NaN) bytes; an allocation's ends are watched (by ASan, else by guard bytes at its free)
//   pageable  a copy from it takes the bytes at once, a copy to it waits; from pinned memory the bytes are read when it runs
//   capture   operations become the nodes of a graph; a launch runs them in a random order that respects their edges
//   time      fake: every operation costs a little, copies in, copies out and kernels each have an engine of their own, an event
//             has the time at which its stream would have passed it
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#define GUARD_BYTES 256u
#define GUARD_BYTE 0xa5
#define ALIGN_BYTES 256u

namespace {

// ---- what there is ----

struct capture;

// One record of an event.
struct mark {
    bool passed = false;
    double time_ns = 0;
    std::weak_ptr<capture> in; // recorded in a capture: it never passes, it is an edge
    std::set<size_t> after;
    bool captured = false;
};
using mark_ref = std::shared_ptr<mark>;

enum class engine { none, copy_in, copy_out, compute };

struct operation {
    std::string name; // of a kernel; "copy", "fill"
    std::function<cudaError_t()> run;
    mark_ref needs;
    engine on = engine::none;
    double cost_ns = 0, issued_ns = 0;
    std::set<size_t> after; // in a graph
};

struct capture {
    std::vector<operation> nodes;
    std::set<CUstream_st *> streams;
    CUstream_st *origin = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    bool broken = false;
    std::thread::id thread;
};

enum class memory_kind { device, pinned, registered };

struct allocation {
    size_t bytes;
    memory_kind kind;
    int device;
    CUmemPoolHandle_st *pool;
};

struct failure {
    std::string name;
    uint64_t first, last; // calls
    cudaError_t error;
};

} // namespace

struct CUstream_st {
    int device = 0;
    std::deque<operation> queue;
    std::shared_ptr<capture> capturing;
    std::set<size_t> tail; // the nodes that the next one comes after
    bool destroyed = false, broken_capture = false;
    double time_ns = 0;
};

struct CUevent_st {
    int device = 0;
    bool timed = false;
    mark_ref last; // NULL: never recorded
};

struct CUgraph_st {
    std::vector<operation> nodes;
};

struct CUgraphExec_st {
    std::vector<operation> nodes;
};

struct CUmemPoolHandle_st {
    int device = 0;
    uint64_t threshold = 0, used = 0, used_high = 0, reserved = 0, reserved_high = 0;
};

namespace {

const sp_shim_device DEVICE_AT_FIRST = { 1, 13000, 9, 0, (uint64_t)4096 << 20, 227u * 1024 };

struct world {
    std::recursive_mutex lock; // guards everything here, and whoever runs kernels
    sp_shim_device device = DEVICE_AT_FIRST;
    sp_shim_orders orders;
    uint64_t random = 1;
    bool foreign = false;
    double byte_ns = 0.04, thread_ns = 0.001, operation_ns = 1000;
    double now_ns = 0; // of the host: what it has waited for
    double engine_ns[4] = { 0, 0, 0, 0 };
    cudaError_t sticky = cudaSuccess;
    std::vector<failure> failures;
    uint64_t failed = 0;
    std::map<std::string, uint64_t> calls;
    sp_shim_counters counters = {};
    std::map<uintptr_t, allocation> memory;
    std::vector<CUstream_st *> streams; // also destroyed ones that still have work
    CUstream_st null_stream;
};

world *make_world();
world &w()
{
    static world *made = make_world();
    return *made;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

void fail_later(const std::string &name, uint64_t nth, cudaError_t error, uint64_t times)
{
    uint64_t before = w().calls[name];
    w().failures.push_back({ name, before + nth, before + nth + times - 1, error });
}

void take_environment(world *made)
{
    const char *text = getenv("SPILLWAY_SHIM_SEED");
    if (text)
        made->random = made->orders.seed = strtoull(text, nullptr, 10);
    text = getenv("SPILLWAY_SHIM_THREADS");
    if (text)
        made->orders.threads = text[0] == 'r' ? SP_SHIM_REVERSE : text[0] == 's' ? SP_SHIM_SHUFFLED : SP_SHIM_FORWARD;
    text = getenv("SPILLWAY_SHIM_BLOCKS");
    if (text)
        made->orders.blocks = text[0] == 'r' ? SP_SHIM_REVERSE : SP_SHIM_FORWARD;
    text = getenv("SPILLWAY_SHIM_DEVICES");
    if (text)
        made->device.count = (int)strtol(text, nullptr, 10);
    text = getenv("SPILLWAY_SHIM_MEMORY_MB");
    if (text)
        made->device.memory_bytes = strtoull(text, nullptr, 10) << 20;
    made->foreign = getenv("SPILLWAY_SHIM_FOREIGN") != nullptr;
    // NAME:NTH:CODE[:TIMES],...; a name may hold one colon ("run:copy:1:719").
    std::string rest = getenv("SPILLWAY_SHIM_FAIL") ? getenv("SPILLWAY_SHIM_FAIL") : "";
    while (!rest.empty()) {
        std::string one = rest.substr(0, rest.find(','));
        rest = one.size() < rest.size() ? rest.substr(one.size() + 1) : "";
        size_t name_end = one.find(':', one.compare(0, 4, "run:") == 0 ? 4 : 0);
        unsigned long long nth = 0, times = 1;
        int code = 0;
        if (name_end == std::string::npos || sscanf(one.c_str() + name_end, ":%llu:%d:%llu", &nth, &code, &times) < 2)
            sp_shim_die("SPILLWAY_SHIM_FAIL: %s is no NAME:NTH:CODE", one.c_str());
        made->failures.push_back({ one.substr(0, name_end), nth, nth + times - 1, (cudaError_t)code });
    }
}

world *make_world()
{
    world *made = new world();
    take_environment(made);
    return made;
}

// ---- errors ----

bool stays(cudaError_t error)
{
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorContained:
        return true;
    default:
        return false;
    }
}

cudaError_t done(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

// Counts a call; the failure that is due for it, if any.
cudaError_t due(const std::string &name)
{
    uint64_t call = ++w().calls[name];
    for (const failure &f : w().failures) {
        if (f.name == name && call >= f.first && call <= f.last) {
            w().failed++;
            if (stays(f.error))
                w().sticky = f.error;
            return f.error;
        }
    }
    return cudaSuccess;
}

cudaError_t entered(const char *name, bool needs_device = true)
{
    cudaError_t error = due(name);
    if (error == cudaSuccess && needs_device) {
        if (!w().device.driver_version || w().device.driver_version < CUDART_VERSION)
            error = cudaErrorInsufficientDriver;
        else if (!w().device.count)
            error = cudaErrorNoDevice;
        else if (w().sticky != cudaSuccess)
            error = w().sticky;
    }
    return done(error);
}

#define ENTER_AS(needs_device)                                 \
    std::lock_guard<std::recursive_mutex> guard_(w().lock);    \
    {                                                          \
        cudaError_t entered_ = entered(__func__, needs_device); \
        if (entered_ != cudaSuccess)                           \
            return entered_;                                   \
    }
#define ENTER() ENTER_AS(true)

// ---- memory ----

const allocation *allocation_of(const void *pointer, size_t bytes)
{
    auto above = w().memory.upper_bound((uintptr_t)pointer);
    if (above == w().memory.begin())
        return nullptr;
    --above;
    uintptr_t offset = (uintptr_t)pointer - above->first;
    if (offset >= above->second.bytes && !(offset == 0 && bytes == 0))
        return nullptr;
    if (bytes > above->second.bytes - offset)
        return nullptr;
    return &above->second;
}

bool on_device(const void *pointer, size_t bytes)
{
    const allocation *found = allocation_of(pointer, bytes);
    return found ? found->kind == memory_kind::device : w().foreign;
}

bool pinned(const void *pointer, size_t bytes)
{
    const allocation *found = allocation_of(pointer, bytes);
    return found && found->kind != memory_kind::device;
}

void *memory_new(size_t bytes)
{
    void *memory = nullptr;
    size_t guard = SP_SHIM_ASAN ? 0 : GUARD_BYTES;
    if (posix_memalign(&memory, ALIGN_BYTES, bytes + guard) != 0)
        return nullptr;
    memset(memory, 0xff, bytes);
    memset((char *)memory + bytes, GUARD_BYTE, guard);
    return memory;
}

void check_guard(const void *memory, size_t bytes)
{
    for (size_t i = 0; !SP_SHIM_ASAN && i < GUARD_BYTES; i++) {
        if (((const unsigned char *)memory)[bytes + i] != GUARD_BYTE)
            sp_shim_die("something wrote %zu bytes behind an allocation of %zu bytes", i + 1, bytes);
    }
}

void memory_free(void *memory, size_t bytes)
{
    check_guard(memory, bytes);
    memset(memory, 0xff, bytes); // what still reads it gets NaN
    free(memory);
}

cudaError_t device_new(void **pointer, size_t bytes, CUmemPoolHandle_st *pool)
{
    if (!pointer)
        return cudaErrorInvalidValue;
    *pointer = nullptr;
    if (!bytes)
        return cudaSuccess;
    if (bytes > w().device.memory_bytes || w().counters.device_bytes > w().device.memory_bytes - bytes)
        return cudaErrorMemoryAllocation;
    void *memory = memory_new(bytes);
    if (!memory)
        return cudaErrorMemoryAllocation;
    w().memory[(uintptr_t)memory] = { bytes, memory_kind::device, current_device, pool };
    w().counters.allocations++;
    w().counters.device_bytes += bytes;
    if (pool) {
        pool->used += bytes;
        pool->used_high = pool->used > pool->used_high ? pool->used : pool->used_high;
        pool->reserved = pool->used > pool->reserved ? pool->used : pool->reserved;
        pool->reserved_high = pool->reserved > pool->reserved_high ? pool->reserved : pool->reserved_high;
    }
    *pointer = memory;
    return cudaSuccess;
}

cudaError_t device_free(void *pointer)
{
    auto found = w().memory.find((uintptr_t)pointer);
    if (found == w().memory.end() || found->second.kind != memory_kind::device)
        return cudaErrorInvalidValue;
    size_t bytes = found->second.bytes;
    if (found->second.pool)
        found->second.pool->used -= bytes;
    w().memory.erase(found);
    w().counters.device_bytes -= bytes;
    memory_free(pointer, bytes);
    return cudaSuccess;
}

cudaError_t host_new(void **pointer, size_t bytes)
{
    if (!pointer)
        return cudaErrorInvalidValue;
    *pointer = nullptr;
    if (!bytes)
        return cudaSuccess;
    *pointer = memory_new(bytes);
    if (!*pointer)
        return cudaErrorMemoryAllocation;
    w().memory[(uintptr_t)*pointer] = { bytes, memory_kind::pinned, current_device, nullptr };
    w().counters.host_allocations++;
    w().counters.host_bytes += bytes;
    return cudaSuccess;
}

// ---- streams ----

CUstream_st *stream_of(cudaStream_t stream)
{
    return stream && stream != cudaStreamLegacy ? stream : &w().null_stream;
}

bool known(CUstream_st *stream)
{
    if (stream == &w().null_stream)
        return true;
    for (CUstream_st *each : w().streams) {
        if (each == stream)
            return !stream->destroyed;
    }
    return false;
}

// The error of work that failed on its own stays with the device.
void run_operation(const operation &op, double ready_ns, double *ret_end_ns)
{
    double start = ready_ns, *engine_free = op.on == engine::none ? nullptr : &w().engine_ns[(int)op.on];
    if (engine_free && *engine_free > start)
        start = *engine_free;
    *ret_end_ns = start + op.cost_ns;
    if (engine_free)
        *engine_free = *ret_end_ns;
    w().counters.ran++;
    if (w().sticky != cudaSuccess)
        return;
    cudaError_t error = op.name.empty() ? cudaSuccess : due("run:" + op.name);
    if (error == cudaSuccess)
        error = op.run ? op.run() : cudaSuccess;
    if (error != cudaSuccess)
        w().sticky = error;
}

void run_head(CUstream_st *stream)
{
    operation op = std::move(stream->queue.front());
    stream->queue.pop_front();
    double ready = stream->time_ns > op.issued_ns ? stream->time_ns : op.issued_ns;
    if (op.needs && op.needs->time_ns > ready)
        ready = op.needs->time_ns;
    stream->time_ns = ready; // what an event's record reads, and where a graph begins
    double end = ready;
    run_operation(op, ready, &end);
    stream->time_ns = end > stream->time_ns ? end : stream->time_ns;
}

bool can_go(CUstream_st *stream)
{
    return !stream->queue.empty() && (!stream->queue.front().needs || stream->queue.front().needs->passed);
}

void forget_ended_streams()
{
    auto &all = w().streams;
    for (size_t i = 0; i < all.size();) {
        if (all[i]->destroyed && all[i]->queue.empty()) {
            delete all[i];
            all[i] = all.back();
            all.pop_back();
        } else {
            i++;
        }
    }
}

// One operation of any stream; false when none can go on.
bool run_any()
{
    std::vector<CUstream_st *> ready;
    if (can_go(&w().null_stream))
        ready.push_back(&w().null_stream);
    for (CUstream_st *stream : w().streams) {
        if (can_go(stream))
            ready.push_back(stream);
    }
    if (ready.empty())
        return false;
    run_head(ready[sp_shim_random(&w().random) % ready.size()]);
    return true;
}

template <typename Reached> cudaError_t run_until(Reached reached)
{
    while (!reached()) {
        if (!run_any())
            sp_shim_die("a wait that never ends: every stream waits for an event that nobody passes");
    }
    forget_ended_streams();
    return w().sticky;
}

void run_everything()
{
    while (run_any()) {
    }
    forget_ended_streams();
}

// What would wait or allocate may not be done while this thread captures; it breaks the capture.
bool breaks_capture()
{
    bool broke = false;
    for (CUstream_st *stream : w().streams) {
        capture *c = stream->capturing.get();
        if (c && (c->mode == cudaStreamCaptureModeGlobal ||
                  (c->mode == cudaStreamCaptureModeThreadLocal && c->thread == std::this_thread::get_id())))
            broke = c->broken = true;
    }
    return broke;
}

void waited_until(double time_ns)
{
    w().now_ns = time_ns > w().now_ns ? time_ns : w().now_ns;
}

cudaError_t enqueue(CUstream_st *stream, operation op)
{
    if (!known(stream))
        return cudaErrorInvalidResourceHandle;
    op.issued_ns = w().now_ns;
    if (!stream->capturing) {
        stream->queue.push_back(std::move(op));
        return cudaSuccess;
    }
    if (stream->capturing->broken)
        return cudaErrorStreamCaptureInvalidated;
    op.after = stream->tail;
    stream->capturing->nodes.push_back(std::move(op));
    stream->tail = { stream->capturing->nodes.size() - 1 };
    return cudaSuccess;
}

cudaError_t copy_rows(CUstream_st *stream, void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t rows,
                      cudaMemcpyKind kind)
{
    if (!width || !rows)
        return cudaSuccess;
    if (rows > 1 && (width > dst_pitch || width > src_pitch))
        return cudaErrorInvalidValue;
    size_t dst_bytes = dst_pitch * (rows - 1) + width, src_bytes = src_pitch * (rows - 1) + width;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) {
        const allocation *from = allocation_of(src, src_bytes), *to = allocation_of(dst, dst_bytes);
        from_device = from && from->kind == memory_kind::device;
        to_device = to && to->kind == memory_kind::device;
    }
    if ((from_device && !on_device(src, src_bytes)) || (to_device && !on_device(dst, dst_bytes)))
        return cudaErrorInvalidValue;
    bool pageable_from = !from_device && !pinned(src, src_bytes), pageable_to = !to_device && !pinned(dst, dst_bytes);
    w().counters.copies++;
    w().counters.copied_bytes += width * rows;
    w().counters.pageable_copies += pageable_from || pageable_to;
    if ((pageable_from || pageable_to) && stream->capturing) {
        stream->capturing->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    std::shared_ptr<std::vector<unsigned char>> taken;
    if (pageable_from)
        taken = std::make_shared<std::vector<unsigned char>>((const unsigned char *)src, (const unsigned char *)src + src_bytes);
    operation op;
    op.name = "copy";
    op.on = to_device && !from_device ? engine::copy_in : from_device && !to_device ? engine::copy_out : engine::compute;
    op.cost_ns = w().operation_ns + w().byte_ns * (double)(width * rows);
    op.run = [=]() {
        const unsigned char *from = taken ? taken->data() : (const unsigned char *)src;
        for (size_t y = 0; y < rows; y++)
            memmove((unsigned char *)dst + y * dst_pitch, from + y * src_pitch, width);
        return cudaSuccess;
    };
    cudaError_t error = enqueue(stream, std::move(op));
    if (error == cudaSuccess && pageable_to)
        error = run_until([&]() { return stream->queue.empty(); });
    return error;
}

cudaError_t fill_rows(CUstream_st *stream, void *pointer, size_t pitch, int byte, size_t width, size_t rows)
{
    if (!width || !rows)
        return cudaSuccess;
    if ((rows > 1 && width > pitch) || !on_device(pointer, pitch * (rows - 1) + width))
        return cudaErrorInvalidValue;
    w().counters.fills++;
    operation op;
    op.name = "fill";
    op.on = engine::compute;
    op.cost_ns = w().operation_ns + w().byte_ns * 0.02 * (double)(width * rows);
    op.run = [=]() {
        for (size_t y = 0; y < rows; y++)
            memset((unsigned char *)pointer + y * pitch, byte, width);
        return cudaSuccess;
    };
    return enqueue(stream, std::move(op));
}

// Runs a graph's nodes in a random order that respects their edges. Its own timeline: from `ready` on.
void run_nodes(const std::vector<operation> &nodes, double ready_ns, double *ret_end_ns)
{
    std::vector<double> ends(nodes.size(), -1);
    *ret_end_ns = ready_ns;
    for (size_t ran = 0; ran < nodes.size(); ran++) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < nodes.size(); i++) {
            bool free = ends[i] < 0;
            for (size_t before : nodes[i].after)
                free = free && ends[before] >= 0;
            if (free)
                ready.push_back(i);
        }
        size_t pick = ready[sp_shim_random(&w().random) % ready.size()];
        double start = ready_ns;
        for (size_t before : nodes[pick].after)
            start = ends[before] > start ? ends[before] : start;
        run_operation(nodes[pick], start, &ends[pick]);
        *ret_end_ns = ends[pick] > *ret_end_ns ? ends[pick] : *ret_end_ns;
    }
}

} // namespace

// ---- launches ----

static std::string plain_name(const char *name)
{
    std::string plain = name;
    while (plain.size() > 2 && plain.front() == '(' && plain.back() == ')')
        plain = plain.substr(1, plain.size() - 2);
    return plain;
}

static void check_shape(const std::string &name, dim3 grid, dim3 block, size_t shared_bytes)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64)
        sp_shim_die("kernel %s: a block of %u x %u x %u threads; 1 to 1024 are allowed", name.c_str(), block.x, block.y, block.z);
    if (threads % 32)
        sp_shim_die("kernel %s: a block of %llu threads is no multiple of 32", name.c_str(), (unsigned long long)threads);
    if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
        sp_shim_die("kernel %s: a grid of %u x %u x %u blocks; 1 to 2147483647 x 65535 x 65535 are allowed", name.c_str(), grid.x,
                    grid.y, grid.z);
    if (shared_bytes > w().device.shared_bytes)
        sp_shim_die("kernel %s: %zu bytes of shared memory; the device has %zu for a block", name.c_str(), shared_bytes,
                    w().device.shared_bytes);
}

cudaError_t sp_shim_launch_closure(const char *name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                                   std::function<void()> thread)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    std::string kernel = plain_name(name);
    cudaError_t error = last_error; // a launch answers what cudaGetLastError says, also of calls before it
    last_error = cudaSuccess;
    if (error == cudaSuccess)
        error = entered("cudaLaunchKernel");
    last_error = cudaSuccess;
    if (error != cudaSuccess)
        return error;
    check_shape(kernel, grid, block, shared_bytes);
    CUstream_st *to = stream_of(stream);
    if (!known(to) || to->device != current_device)
        return cudaErrorInvalidResourceHandle;
    w().counters.launches++;
    operation op;
    op.name = kernel;
    op.on = engine::compute;
    op.cost_ns = w().operation_ns + w().thread_ns * (double)grid.x * grid.y * grid.z * block.x * block.y * block.z;
    op.run = [=]() {
        sp_shim_run_kernel(kernel.c_str(), grid, block, shared_bytes, thread, w().orders);
        return cudaSuccess;
    };
    return enqueue(to, std::move(op));
}

// ---- the calls ----

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
    ENTER();
    UNSAFE_IN_CAPTURE();
    if (!pointer)
        return cudaSuccess;
    w().counters.device_syncs++;
    w().counters.frees++;
    run_everything();
    return done(device_free(pointer));
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
    ENTER();
    UNSAFE_IN_CAPTURE();
    const allocation *found = allocation_of(pointer, 0);
    if (!found || found->kind != memory_kind::device || w().memory.count((uintptr_t)pointer) == 0)
        return done(cudaErrorInvalidValue);
    w().counters.frees++;
    operation op;
    op.run = [=]() { return device_free(pointer); };
    return done(enqueue(stream_of(stream), std::move(op)));
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
    ENTER();
    run_everything(); // frees that stand in queues know the pool
    for (auto &each : w().memory) {
        if (each.second.pool == pool)
            each.second.pool = nullptr;
    }
    delete pool;
    w().counters.pools--;
    return cudaSuccess;
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
    ENTER();
    UNSAFE_IN_CAPTURE();
    if (!pointer)
        return cudaSuccess;
    auto found = w().memory.find((uintptr_t)pointer);
    if (found == w().memory.end() || found->second.kind != memory_kind::pinned)
        return done(cudaErrorInvalidValue);
    size_t bytes = found->second.bytes;
    w().memory.erase(found);
    w().counters.host_frees++;
    w().counters.host_bytes -= bytes;
    memory_free(pointer, bytes);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    if (!pointer || !bytes)
        return done(cudaErrorInvalidValue);
    auto next = w().memory.lower_bound((uintptr_t)pointer);
    if (allocation_of(pointer, 0) || (next != w().memory.end() && next->first < (uintptr_t)pointer + bytes))
        return done(cudaErrorHostMemoryAlreadyRegistered);
    w().memory[(uintptr_t)pointer] = { bytes, memory_kind::registered, current_device, nullptr };
    w().counters.registered++;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    ENTER();
    UNSAFE_IN_CAPTURE();
    auto found = w().memory.find((uintptr_t)pointer);
    if (found == w().memory.end() || found->second.kind != memory_kind::registered)
        return done(cudaErrorHostMemoryNotRegistered);
    w().memory.erase(found);
    w().counters.unregistered++;
    return cudaSuccess;
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
    ENTER();
    if (!known(stream) || stream == &w().null_stream)
        return done(cudaErrorInvalidResourceHandle);
    if (stream->capturing) {
        stream->capturing->broken = true;
        stream->capturing->streams.erase(stream);
        stream->capturing.reset();
    }
    stream->destroyed = true;
    w().counters.streams--;
    forget_ended_streams();
    return cudaSuccess;
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
    ENTER();
    delete event;
    w().counters.events--;
    return cudaSuccess;
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
    ENTER();
    CUstream_st *s = stream_of(stream);
    if (!known(s) || !s->capturing || s->capturing->origin != s)
        return done(cudaErrorStreamCaptureUnmatched);
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
    ENTER();
    delete exec;
    w().counters.graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    ENTER();
    delete graph;
    w().counters.graphs--;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int)
{
    ENTER();
    return cudaSuccess;
}

} // extern "C"

// ---- control ----

namespace {

void control_reset()
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    run_everything();
    w().sticky = cudaSuccess;
    last_error = cudaSuccess;
    w().failures.clear();
    w().failed = 0;
    w().calls.clear();
    w().orders = sp_shim_orders();
    w().random = 1;
    w().device = DEVICE_AT_FIRST;
    w().foreign = false;
    w().byte_ns = 0.04;
    w().thread_ns = 0.001;
    w().operation_ns = 1000;
    sp_shim_counters old = w().counters, fresh = {};
    fresh.streams = old.streams;
    fresh.events = old.events;
    fresh.graphs = old.graphs;
    fresh.pools = old.pools;
    fresh.device_bytes = old.device_bytes;
    fresh.host_bytes = old.host_bytes;
    w().counters = fresh;
}

void control_order(sp_shim_order threads, sp_shim_order blocks, uint64_t seed)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().orders.threads = threads;
    w().orders.blocks = blocks;
    w().orders.seed = seed;
}

void control_streams(uint64_t seed)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().random = seed;
}

void control_fail(const char *name, uint64_t nth, int error, uint64_t times)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    fail_later(name, nth, (cudaError_t)error, times);
}

uint64_t control_failed()
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    return w().failed;
}

uint64_t control_calls(const char *name)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    return w().calls[name];
}

void control_counters(sp_shim_counters *ret_counters)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    *ret_counters = w().counters;
}

sp_shim_device control_device(const sp_shim_device *device)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    sp_shim_device old = w().device;
    if (device)
        w().device = *device;
    return old;
}

void control_foreign(bool allowed)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().foreign = allowed;
}

void control_costs(double byte_ns, double thread_ns, double operation_ns)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    w().byte_ns = byte_ns;
    w().thread_ns = thread_ns;
    w().operation_ns = operation_ns;
}

int control_enqueue(void *stream, void (*run)(void *argument), void *argument)
{
    std::lock_guard<std::recursive_mutex> guard(w().lock);
    operation op;
    op.name = "engine";
    op.on = engine::compute;
    op.cost_ns = w().operation_ns;
    op.run = [=]() {
        run(argument);
        return cudaSuccess;
    };
    return enqueue(stream_of((cudaStream_t)stream), std::move(op));
}

int control_sync(void *stream)
{
    return cudaStreamSynchronize((cudaStream_t)stream);
}

const sp_shim_control control = {
    sizeof(sp_shim_control), control_reset,  control_order,  control_streams, control_fail,  control_failed, control_calls,
    control_counters,        control_device, control_foreign, control_costs,  control_enqueue, control_sync,
};

} // namespace

extern "C" __attribute__((visibility("default"))) const sp_shim_control *sp_shim_control_get(void)
{
    return &control;
}
