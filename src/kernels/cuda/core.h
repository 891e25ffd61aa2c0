/* SPDX-License-Identifier: Apache-2.0
 * Inside the CUDA plug-in's core (device.c, memory.c, stream.c): the objects behind cuda.h. The twins see device.h only. */
#ifndef SP_KERNELS_CUDA_CORE_H
#define SP_KERNELS_CUDA_CORE_H

#include "kernels/cuda/device.h"

#include <pthread.h>

/* One piece of memory that was given out. */
typedef struct cuda_piece {
    void *memory;
    size_t bytes;
    struct cuda_piece *next;
} cuda_piece;

struct sp_cuda {
    int index;
    cudaStream_t stream;    /* what reserve, release and the canary are ordered by; non-blocking */
    cudaMemPool_t pool;     /* NULL: the device has no pools, cudaMalloc does it */
    pthread_mutex_t lock;   /* guards what follows */
    cuda_piece *device_pieces, *host_pieces;
    uint64_t device_bytes, device_high_bytes, host_bytes, host_high_bytes;
};

struct sp_cuda_event {
    cudaEvent_t event;
    sp_cuda *cuda;
};

struct sp_cuda_graph {
    cudaGraphExec_t exec;
    sp_cuda *cuda;
};

/* memory.c: the pool of `cuda`, with `reserve_bytes` taken from the driver and touched. pool_close: nothing is in use. */
sp_status sp_cuda_pool_open(sp_cuda *cuda, uint64_t reserve_bytes, sp_error *reterr);
void sp_cuda_pool_close(sp_cuda *cuda);
void sp_cuda_memory_get(sp_cuda *cuda, sp_cuda_memory *ret_memory);
sp_status sp_cuda_host_register(sp_cuda *cuda, void *host, size_t bytes, sp_error *reterr);
void sp_cuda_host_unregister(sp_cuda *cuda, void *host);
sp_status sp_cuda_shared_new(sp_cuda *cuda, size_t bytes, void **ret_device, uint8_t ret_handle[SP_CUDA_HANDLE_BYTES], sp_error *reterr);
void sp_cuda_shared_free(sp_cuda *cuda, void *device);

/* device.c */
sp_status sp_cuda_count(int *ret_count, sp_error *reterr);
sp_status sp_cuda_describe(int index, sp_cuda_info *ret_info, sp_error *reterr);
sp_status sp_cuda_open(int index, uint64_t reserve_bytes, sp_cuda **ret_cuda, sp_error *reterr);
void sp_cuda_close(sp_cuda *cuda);

/* stream.c: its calls for the table. */
extern const sp_cuda_api sp_cuda_stream_calls;

/* canary.cu: runs it on the device's own stream and waits. SP_UNSUPPORTED, code "bad_arithmetic": this library was built without
 * one of the flags that make its kernels equal to the CPU's. */
sp_status sp_cuda_canary(sp_cuda *cuda, sp_error *reterr);

#endif
