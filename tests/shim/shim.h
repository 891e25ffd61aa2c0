/* SPDX-License-Identifier: Apache-2.0
 * Steers the tests' stand-in for a GPU (libspillway_cuda_shim.so): in which order threads, blocks and streams run, which call
 * fails, and what was called. For tests only; C and C++. A test gets it from the library that sp_cuda_load opened:
 *
 *   const sp_shim_control *shim = sp_shim();   // NULL: a real GPU's library, or none
 *
 * A whole server that runs on the stand-in is steered by its environment instead, read when the library is loaded:
 *   SPILLWAY_SHIM_SEED=7              order of the streams, and of shuffled threads
 *   SPILLWAY_SHIM_THREADS=reverse     forward | reverse | shuffled
 *   SPILLWAY_SHIM_BLOCKS=reverse      forward | reverse
 *   SPILLWAY_SHIM_DEVICES=2           how many GPUs there are (1)
 *   SPILLWAY_SHIM_MEMORY_MB=512       memory of each (4096)
 *   SPILLWAY_SHIM_FAIL=NAME:NTH:CODE[:TIMES],...   as fail() below: "cudaHostRegister:1:801:1000"
 *   SPILLWAY_SHIM_SKIP=sort.cuh:30    the barrier on that line does nothing (barriers.py)
 *   SPILLWAY_SHIM_FOREIGN=1           copies may touch "device" memory that this library did not give (an engine's own)
 * Threads: any; one lock guards everything. */
#ifndef SP_SHIM_SHIM_H
#define SP_SHIM_SHIM_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define SP_SHIM_SYMBOL "sp_shim_control_get"

typedef enum sp_shim_order { SP_SHIM_FORWARD, SP_SHIM_REVERSE, SP_SHIM_SHUFFLED } sp_shim_order;

typedef struct sp_shim_counters {
    uint64_t launches, copies, pageable_copies, fills; /* enqueued or captured; pageable: of host memory that is not pinned */
    uint64_t copied_bytes;
    uint64_t allocations, frees;       /* of device memory, by any call */
    uint64_t host_allocations, host_frees, registered, unregistered;
    uint64_t syncs, device_syncs;      /* waits for a stream or event; waits for the whole device (cudaFree waits too) */
    uint64_t streams, events, graphs, pools;                          /* that are alive */
    uint64_t device_bytes, host_bytes;                                /* that are held */
    uint64_t graph_launches, ran;      /* ran: operations that streams have passed */
} sp_shim_counters;

typedef struct sp_shim_device {
    int count;                         /* 0: no GPU */
    int driver_version;                /* 0: no driver */
    int major, minor;
    uint64_t memory_bytes;
    size_t shared_bytes;               /* of one block, at most */
} sp_shim_device;

typedef struct sp_shim_control {
    uint32_t struct_bytes;

    /* Orders and failures as at first, counters of calls to 0; what is allocated stays. A sticky error is gone. */
    void (*reset)(void);
    /* The order of a block's threads between two barriers, and of the blocks. */
    void (*order)(sp_shim_order threads, sp_shim_order blocks, uint64_t seed);
    /* The order in which waiting streams get on. */
    void (*streams)(uint64_t seed);
    /* From now on the nth (1 = next) call of `name` and the `times - 1` after it answer `error`: "cudaMallocHost",
     * "cudaLaunchKernel" (SP_LAUNCH), or "run:KERNEL", "run:copy", "run:fill": then the enqueued operation itself fails and the
     * device has a sticky error. Several may stand. Unknown names never happen: `failed` tells how many did. */
    void (*fail)(const char *name, uint64_t nth, int error, uint64_t times);
    uint64_t (*failed)(void);
    /* Calls of `name` since reset. */
    uint64_t (*calls)(const char *name);
    void (*counters)(sp_shim_counters *ret_counters);
    sp_shim_device (*device)(const sp_shim_device *device_or_null); /* answers what was before; for all devices */
    void (*foreign)(bool allowed);
    /* Fake time: what a copied byte, a kernel's thread, and any operation cost (nanoseconds; at first .04, .001, 1000). */
    void (*costs)(double byte_ns, double thread_ns, double operation_ns);

    /* For a stand-in engine that works on one of our streams: `run` is enqueued like a kernel; sync waits. cudaError_t's values. */
    int (*enqueue)(void *stream, void (*run)(void *argument), void *argument);
    int (*sync)(void *stream);
} sp_shim_control;

typedef const sp_shim_control *sp_shim_control_get_fn(void);

/* Of the library that SPILLWAY_CUDA_LIBRARY names, when sp_cuda_load has opened it and it is a stand-in. */
static inline const sp_shim_control *sp_shim(void)
{
    const char *path = getenv("SPILLWAY_CUDA_LIBRARY");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
    sp_shim_control_get_fn *get = library ? (sp_shim_control_get_fn *)(uintptr_t)dlsym(library, SP_SHIM_SYMBOL) : NULL;
    if (library)
        (void)dlclose(library); /* sp_cuda_load's own reference stays */
    return get ? get() : NULL;
}

#endif
