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
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_BYTES 256u
#define GUARD_BYTE 0xa5
#define ALIGN_BYTES 256u
#define PAGE_BYTES 4096u
#define SHARED_BYTES ((size_t)2 << 20) // what the driver shares is a multiple of it

namespace shim {

const sp_shim_device DEVICE_AT_FIRST = { 1, 13000, 9, 0, (uint64_t)4096 << 20, 227u * 1024 };

static world *make_world();
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

static void take_environment(world *made)
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

static world *make_world()
{
    world *made = new world();
    take_environment(made);
    return made;
}

// ---- errors ----

static bool stays(cudaError_t error)
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

cudaError_t entered(const char *name, bool needs_device)
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

static bool on_device(const void *pointer, size_t bytes)
{
    const allocation *found = allocation_of(pointer, bytes);
    return found ? found->kind == memory_kind::device : w().foreign;
}

static bool pinned(const void *pointer, size_t bytes)
{
    const allocation *found = allocation_of(pointer, bytes);
    return found && found->kind != memory_kind::device;
}

static void *memory_new(size_t bytes)
{
    void *memory = nullptr;
    size_t guard = SP_SHIM_ASAN ? 0 : GUARD_BYTES;
    if (posix_memalign(&memory, ALIGN_BYTES, bytes + guard) != 0)
        return nullptr;
    memset(memory, 0xff, bytes);
    memset((char *)memory + bytes, GUARD_BYTE, guard);
    return memory;
}

static void check_guard(const void *memory, size_t bytes)
{
    for (size_t i = 0; !SP_SHIM_ASAN && i < GUARD_BYTES; i++) {
        if (((const unsigned char *)memory)[bytes + i] != GUARD_BYTE)
            sp_shim_die("something wrote %zu bytes behind an allocation of %zu bytes", i + 1, bytes);
    }
}

static void memory_free(void *memory, size_t bytes)
{
    check_guard(memory, bytes);
    memset(memory, 0xff, bytes); // what still reads it gets NaN
    free(memory);
}

// What has the size of what another process may be given is memory that it can map.
static void *shared_new(size_t bytes, int *ret_fd)
{
    size_t whole = bytes + PAGE_BYTES; // with the guard
    int fd = memfd_create("spillway-shim", MFD_CLOEXEC);
    void *memory = fd < 0 || ftruncate(fd, (off_t)whole) < 0 ? MAP_FAILED : mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        if (fd >= 0)
            (void)close(fd);
        return nullptr;
    }
    memset(memory, 0xff, bytes);
    memset((char *)memory + bytes, GUARD_BYTE, SP_SHIM_ASAN ? 0 : GUARD_BYTES);
    *ret_fd = fd;
    return memory;
}

static void shared_free(void *memory, size_t bytes, int fd)
{
    check_guard(memory, bytes);
    (void)munmap(memory, bytes + PAGE_BYTES);
    (void)close(fd);
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
    int fd = -1;
    void *memory = !pool && bytes % SHARED_BYTES == 0 ? shared_new(bytes, &fd) : memory_new(bytes);
    if (!memory)
        return cudaErrorMemoryAllocation;
    w().memory[(uintptr_t)memory] = { bytes, memory_kind::device, current_device, pool, fd };
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
    int fd = found->second.shared_fd;
    if (found->second.pool)
        found->second.pool->used -= bytes;
    w().memory.erase(found);
    w().counters.device_bytes -= bytes;
    if (fd >= 0)
        shared_free(pointer, bytes, fd);
    else
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

cudaError_t host_free(void *pointer)
{
    auto found = w().memory.find((uintptr_t)pointer);
    if (found == w().memory.end() || found->second.kind != memory_kind::pinned)
        return cudaErrorInvalidValue;
    size_t bytes = found->second.bytes;
    w().memory.erase(found);
    w().counters.host_frees++;
    w().counters.host_bytes -= bytes;
    memory_free(pointer, bytes);
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
static void run_operation(const operation &op, double ready_ns, double *ret_end_ns)
{
    double start = ready_ns, *engine_free = op.on == engine::none ? nullptr : &w().engine_ns[(int)op.on];
    if (engine_free && *engine_free > start)
        start = *engine_free;
    *ret_end_ns = start + op.cost_ns;
    if (engine_free)
        *engine_free = *ret_end_ns;
    w().counters.ran++;
    if (w().sticky != cudaSuccess && !op.always)
        return;
    cudaError_t error = op.name.empty() ? cudaSuccess : due("run:" + op.name);
    if (error == cudaSuccess)
        error = op.run ? op.run() : cudaSuccess;
    if (error != cudaSuccess)
        w().sticky = error;
}

static void run_head(CUstream_st *stream)
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

static bool can_go(CUstream_st *stream)
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

cudaError_t run_until(const std::function<bool()> &reached)
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

} // namespace shim

using namespace shim;

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
