/* SPDX-License-Identifier: Apache-2.0
 * The CUDA plug-in, libspillway_cuda.so, as the rest of Spillway sees it: devices, memory, streams, and the CUDA twins of the
 * kernels (cuda_prep.h, cuda_post.h, cuda_flow.h, cuda_plane.h). It comes by dlopen; where it is missing, or the driver or a
 * GPU is, the links that need it are skipped with that reason. No header of CUDA's is needed to include this one.
 *
 *   sp_cuda         one GPU in this process, and what is reserved on it.
 *   sp_cuda_stream  work in order. Everything that takes one is enqueued and returns; "device" pointers are never touched by
 *                   the host, and what an enqueued call reads or writes stays as it is until the stream has passed it.
 *   sp_cuda_event   a place in a stream: other streams and the host can wait for it, two of them tell a time.
 *
 * One thread per stream at a time; different streams from different threads. A device that has failed for good (a sticky error)
 * answers SP_UNAVAILABLE, code "sticky", to everything: only a new process helps. Steady state: nothing allocates and nothing
 * waits for the whole device, but the calls that say so. */
#ifndef SP_KERNELS_CUDA_H
#define SP_KERNELS_CUDA_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_CUDA_ABI 1u
#define SP_CUDA_LIBRARY "libspillway_cuda.so"
#define SP_CUDA_SYMBOL "sp_cuda_api_get"

/* Images of one fat binary at most (sp_cuda_info.codes). */
#define SP_LIMIT_CUDA_CODES 16

/* The driver's name of device memory, for another process to open it by. */
#define SP_CUDA_HANDLE_BYTES 64

typedef struct sp_cuda sp_cuda;
typedef struct sp_cuda_stream sp_cuda_stream;
typedef struct sp_cuda_event sp_cuda_event;
typedef struct sp_cuda_graph sp_cuda_graph;

typedef struct sp_cuda_info {
    char name[96];               /* "NVIDIA H100 80GB HBM3" */
    char uuid[48];               /* "GPU-xxxxxxxx-..." */
    int index;                   /* among those that this process sees */
    int major, minor;            /* compute capability */
    int multiprocessors;
    int copy_engines;            /* 2: copies in both directions beside computing */
    int clock_khz, memory_clock_khz, memory_bus_bits; /* 0 = the driver does not say */
    uint64_t memory_bytes, l2_bytes;
    size_t shared_bytes;         /* of one block, at most (opt-in) */
    int driver_version, runtime_version; /* CUDA's numbers: 13000 = 13.0 */
    bool registers_host;         /* host memory of others can be made known to the device */
    bool simulated;              /* the tests' stand-in: no GPU computes */
} sp_cuda_info;

/* What is held on the device and in pinned host memory by this plug-in; `high` = the most so far. */
typedef struct sp_cuda_memory {
    uint64_t device_bytes, device_high_bytes, device_reserved_bytes; /* in use, the most of it, taken from the driver */
    uint64_t host_bytes, host_high_bytes;                            /* pinned, and registered */
    uint64_t free_bytes, total_bytes;                                /* of the device, as the driver says */
} sp_cuda_memory;

struct sp_cuda_prep_api;
struct sp_cuda_post_api;
struct sp_cuda_flow_api;
struct sp_cuda_plane_api;

typedef struct sp_cuda_api {
    uint32_t abi, struct_bytes;
    const char *version;         /* "CUDA runtime 13.0" */
    const char *codes;           /* "sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120 compute_120" */

    /* --- devices ---
     * count: SP_UNSUPPORTED with a code of base/status' kind: "no_driver" (libcuda.so.1 is missing), "no_gpu", "mismatch" (the
     * driver is older than this runtime needs). Makes no context: any process may ask.
     * describe: one of them; SP_UNSUPPORTED, code "no_code": nothing in this library runs on it.
     * open: makes the context and a stream-ordered pool of `reserve_bytes` (touched; 0 = none), runs the canary kernel.
     * close: everything of it is freed before. NULL is fine. */
    sp_status (*count)(int *ret_count, sp_error *reterr);
    sp_status (*describe)(int index, sp_cuda_info *ret_info, sp_error *reterr);
    sp_status (*open)(int index, uint64_t reserve_bytes, sp_cuda **ret_cuda, sp_error *reterr);
    void (*close)(sp_cuda *cuda);
    void (*memory)(sp_cuda *cuda, sp_cuda_memory *ret_memory);

    /* --- memory --- (of load and of growth; not of steady state)
     * reserve: device memory, 256-byte aligned; its contents are undefined. SP_NOMEM, code "oom". release: nothing enqueued uses
     * it any more (waits for nothing). NULL is fine.
     * pinned_new, pinned_free: host memory that copies run from and to on their own.
     * host_register: makes memory that is mapped in this process (whole pages) such memory. What is mapped for reading only is
     * registered so, where the device can: copies from it, none to it. SP_UNSUPPORTED, code "not_registered": the driver
     * refuses it; then copies from it go through pinned memory of one's own.
     * shared_new: device memory that a process of ours writes to as well; it opens *ret_handle with the driver's cuIpcOpenMemHandle,
     * on the same device, and is told nothing else of it. SP_UNSUPPORTED or SP_INTERNAL where the driver shares none; SP_NOMEM.
     * shared_free: nobody has it open any more. Both wait for the whole device. */
    sp_status (*reserve)(sp_cuda *cuda, size_t bytes, void **ret_device, sp_error *reterr);
    void (*release)(sp_cuda *cuda, void *device);
    sp_status (*pinned_new)(sp_cuda *cuda, size_t bytes, void **ret_host, sp_error *reterr);
    void (*pinned_free)(sp_cuda *cuda, void *host);
    sp_status (*host_register)(sp_cuda *cuda, void *host, size_t bytes, sp_error *reterr);
    void (*host_unregister)(sp_cuda *cuda, void *host);
    sp_status (*shared_new)(sp_cuda *cuda, size_t bytes, void **ret_device, uint8_t ret_handle[SP_CUDA_HANDLE_BYTES], sp_error *reterr);
    void (*shared_free)(sp_cuda *cuda, void *device);

    /* --- streams ---
     * stream_raw: the cudaStream_t, for libraries that want one (ONNX Runtime's user_compute_stream).
     * copy_in, copy_out, copy_on, fill: enqueued. Host memory is pinned or registered; pageable memory is copied too, but the
     * call may then wait.
     * stream_sync: waits until the stream has passed everything; SP_UNAVAILABLE: something in it failed.
     * stream_done: asks without waiting. */
    sp_status (*stream_new)(sp_cuda *cuda, sp_cuda_stream **ret_stream, sp_error *reterr);
    void (*stream_free)(sp_cuda_stream *stream);
    void *(*stream_raw)(sp_cuda_stream *stream);
    sp_status (*copy_in)(sp_cuda_stream *stream, void *device, const void *host, size_t bytes, sp_error *reterr);
    sp_status (*copy_out)(sp_cuda_stream *stream, void *host, const void *device, size_t bytes, sp_error *reterr);
    sp_status (*copy_on)(sp_cuda_stream *stream, void *device, const void *from_device, size_t bytes, sp_error *reterr);
    sp_status (*copy_rows_in)(sp_cuda_stream *stream, void *device, size_t device_stride, const void *host, size_t host_stride,
                              size_t row_bytes, size_t rows, sp_error *reterr);
    sp_status (*fill)(sp_cuda_stream *stream, void *device, int byte, size_t bytes, sp_error *reterr);
    sp_status (*stream_sync)(sp_cuda_stream *stream, sp_error *reterr);
    sp_status (*stream_done)(sp_cuda_stream *stream, bool *ret_done, sp_error *reterr);

    /* --- events --- elapsed_ms: between two that were made with `timed` and have passed. event_sync sleeps, it does not spin. */
    sp_status (*event_new)(sp_cuda *cuda, bool timed, sp_cuda_event **ret_event, sp_error *reterr);
    void (*event_free)(sp_cuda_event *event);
    sp_status (*event_record)(sp_cuda_event *event, sp_cuda_stream *stream, sp_error *reterr);
    sp_status (*event_wait)(sp_cuda_stream *stream, sp_cuda_event *event, sp_error *reterr); /* the stream waits */
    sp_status (*event_sync)(sp_cuda_event *event, sp_error *reterr);                         /* the caller does */
    sp_status (*event_elapsed_ms)(sp_cuda_event *from, sp_cuda_event *to, float *ret_ms, sp_error *reterr);

    /* --- graphs --- What is enqueued on `stream` (and on streams that wait for its events) between begin and end becomes one
     * graph instead of being run. It repeats the same calls on the same addresses. */
    sp_status (*graph_begin)(sp_cuda_stream *stream, sp_error *reterr);
    sp_status (*graph_end)(sp_cuda_stream *stream, sp_cuda_graph **ret_graph, sp_error *reterr);
    sp_status (*graph_launch)(sp_cuda_graph *graph, sp_cuda_stream *stream, sp_error *reterr);
    void (*graph_free)(sp_cuda_graph *graph);

    /* Makes the device the calling thread's own, for libraries that go by that. All calls here, and those of the twins, make the
     * device of their stream or object the thread's by themselves, and leave it so. */
    sp_status (*thread_begin)(sp_cuda *cuda, sp_error *reterr);

    /* The twins. */
    const struct sp_cuda_prep_api *prep;
    const struct sp_cuda_post_api *post;
    const struct sp_cuda_flow_api *flow;
    const struct sp_cuda_plane_api *plane;
} sp_cuda_api;

typedef const sp_cuda_api *sp_cuda_api_get_fn(uint32_t host_abi); /* NULL: the host is too old or too new for it */

/* Opens the plug-in from where base/plugin.h looks; SPILLWAY_CUDA_LIBRARY (a file) is taken instead when it is set (the tests'
 * stand-in is such a file). SP_UNSUPPORTED, code "missing_plugin" or "bad_plugin". Never closed. Threads: any. */
sp_status sp_cuda_load(const sp_cuda_api **ret_api, sp_error *reterr);

#endif
