/* SPDX-License-Identifier: Apache-2.0
 * Everything that the stand-in for a GPU holds, and what its calls (calls.cpp) are made of. C++. */
#ifndef SP_SHIM_WORLD_H
#define SP_SHIM_WORLD_H

#include "internal.h"

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace shim {

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
    bool always = false;    // also on a device that has failed
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
    int shared_fd = -1; // another process can map it
};

struct failure {
    std::string name;
    uint64_t first, last; // calls
    cudaError_t error;
};

} // namespace shim

struct CUstream_st {
    int device = 0;
    std::deque<shim::operation> queue;
    std::shared_ptr<shim::capture> capturing;
    std::set<size_t> tail; // the nodes that the next one comes after
    bool destroyed = false, broken_capture = false;
    double time_ns = 0;
};

struct CUevent_st {
    int device = 0;
    bool timed = false;
    shim::mark_ref last; // NULL: never recorded
};

struct CUgraph_st {
    std::vector<shim::operation> nodes;
};

struct CUgraphExec_st {
    std::vector<shim::operation> nodes;
};

struct CUmemPoolHandle_st {
    int device = 0;
    uint64_t threshold = 0, used = 0, used_high = 0, reserved = 0, reserved_high = 0;
};

namespace shim {

extern const sp_shim_device DEVICE_AT_FIRST;

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

/* The one there is; made from the environment at its first use. */
world &w();

/* Of the calling thread. */
extern thread_local cudaError_t last_error;
extern thread_local int current_device;

/* --- errors --- done: makes it cudaGetLastError's; answers it. entered: counts a call; what it must answer at once, if anything
 * (a failure that was asked for, no driver, a sticky error). due: a failure that was asked for only. */
cudaError_t done(cudaError_t error);
cudaError_t due(const std::string &name);
cudaError_t entered(const char *name, bool needs_device = true);
void fail_later(const std::string &name, uint64_t nth, cudaError_t error, uint64_t times);

/* --- memory --- allocation_of: the one that holds all of pointer ... pointer + bytes, or NULL. */
const allocation *allocation_of(const void *pointer, size_t bytes);
cudaError_t device_new(void **pointer, size_t bytes, CUmemPoolHandle_st *pool);
cudaError_t device_free(void *pointer);
cudaError_t host_new(void **pointer, size_t bytes);
cudaError_t host_free(void *pointer);

/* --- streams --- */
CUstream_st *stream_of(cudaStream_t stream);
bool known(CUstream_st *stream);
cudaError_t enqueue(CUstream_st *stream, operation op);
cudaError_t copy_rows(CUstream_st *stream, void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t rows,
                      cudaMemcpyKind kind);
cudaError_t fill_rows(CUstream_st *stream, void *pointer, size_t pitch, int byte, size_t width, size_t rows);
/* Runs operations, of any stream that can go on, until `reached`; then the device's sticky error, if any. */
cudaError_t run_until(const std::function<bool()> &reached);
bool run_any();          /* one operation of any stream; false when none can go on */
void run_everything();
void forget_ended_streams();
bool breaks_capture();   /* called by what may not be done in a capture: breaks those of this thread */
void waited_until(double time_ns);
/* Runs a graph's nodes in a random order that respects their edges, on a timeline from `ready_ns` on. */
void run_nodes(const std::vector<operation> &nodes, double ready_ns, double *ret_end_ns);

} // namespace shim

#endif
