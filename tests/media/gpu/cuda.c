/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for libcuda.so.1 as far as media/nvdec.c goes: device memory is host memory. One device. A copy on the device is
 * put off until somebody waits, or copies to the host. Memory of another process is what a handle of tests/shim's names.
 *
 * SPILLWAY_FAKE_CUDA: "closed": no memory of another process can be opened; "copy@N": copy N (from 0) to such memory fails.
 * SPILLWAY_FAKE_CUDA_LOG: a file that gets a byte for each copy to such memory. */
#include "media/nvdec_api.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CALL __attribute__((visibility("default"))) nv_result

#define LATER 64

static int retained, pushed, shared_copies;
static uint64_t shared;
static size_t shared_bytes;
static nv_copy later[LATER];
static int later_count;

CALL cuInit(unsigned flags);
CALL cuInit(unsigned flags)
{
    return (int)flags;
}

CALL cuDeviceGet(int *device, int ordinal);
CALL cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal ? 101 : 0; /* CUDA_ERROR_INVALID_DEVICE */
}

CALL cuDevicePrimaryCtxRetain(nv_context *context, int device);
CALL cuDevicePrimaryCtxRetain(nv_context *context, int device)
{
    *context = (nv_context)(void *)&retained;
    retained++;
    return device;
}

CALL cuDevicePrimaryCtxRelease(int device);
CALL cuDevicePrimaryCtxRelease(int device)
{
    return device || --retained < 0;
}

CALL cuCtxPushCurrent_v2(nv_context context);
CALL cuCtxPushCurrent_v2(nv_context context)
{
    pushed++;
    return context != (nv_context)(void *)&retained || !retained;
}

CALL cuCtxPopCurrent_v2(nv_context *context);
CALL cuCtxPopCurrent_v2(nv_context *context)
{
    *context = (nv_context)(void *)&retained;
    return --pushed < 0;
}

static void run(const nv_copy *copy)
{
    uint8_t *to = copy->dst_kind == NV_MEMORY_HOST ? copy->dst_host : (uint8_t *)(uintptr_t)copy->dst_device;
    for (size_t y = 0; y < copy->height; y++)
        memcpy(to + y * copy->dst_pitch, (const uint8_t *)(uintptr_t)copy->src_device + y * copy->src_pitch, copy->width_bytes);
}

static void run_later(void)
{
    for (int i = 0; i < later_count; i++)
        run(&later[i]);
    later_count = 0;
}

/* 0: it may be copied there. */
static int note_shared(const nv_copy *copy)
{
    const char *word = getenv("SPILLWAY_FAKE_CUDA"), *path = getenv("SPILLWAY_FAKE_CUDA_LOG");
    size_t last = copy->dst_device - shared + copy->dst_pitch * (copy->height - 1) + copy->width_bytes;
    if (!shared || copy->dst_device < shared || copy->dst_device >= shared + shared_bytes)
        return 0;
    if (last > shared_bytes || (word && strncmp(word, "copy@", 5) == 0 && shared_copies == (int)strtol(word + 5, NULL, 10)))
        return 700; /* CUDA_ERROR_ILLEGAL_ADDRESS */
    shared_copies++;
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        (void)!write(fd, ".", 1);
        (void)close(fd);
    }
    return 0;
}

CALL cuMemcpy2D_v2(const nv_copy *copy);
CALL cuMemcpy2D_v2(const nv_copy *copy)
{
    if (!pushed || copy->src_kind != NV_MEMORY_DEVICE || copy->width_bytes > copy->src_pitch || copy->width_bytes > copy->dst_pitch)
        return 1;
    if (copy->dst_kind == NV_MEMORY_HOST) {
        run_later();
        run(copy);
        return 0;
    }
    if (copy->dst_kind != NV_MEMORY_DEVICE || later_count == LATER)
        return 1;
    later[later_count++] = *copy;
    return note_shared(copy);
}

CALL cuCtxSynchronize(void);
CALL cuCtxSynchronize(void)
{
    run_later();
    return !pushed;
}

CALL cuMemAlloc_v2(uint64_t *device, size_t bytes);
CALL cuMemAlloc_v2(uint64_t *device, size_t bytes)
{
    *device = pushed ? (uint64_t)(uintptr_t)malloc(bytes) : 0;
    return *device ? 0 : 2;
}

CALL cuMemFree_v2(uint64_t device);
CALL cuMemFree_v2(uint64_t device)
{
    free((void *)(uintptr_t)device);
    return !pushed;
}

CALL cuIpcOpenMemHandle_v2(uint64_t *device, nv_handle handle, unsigned flags);
CALL cuIpcOpenMemHandle_v2(uint64_t *device, nv_handle handle, unsigned flags)
{
    const char *word = getenv("SPILLWAY_FAKE_CUDA");
    char path[64];
    handle.bytes[sizeof(handle.bytes) - 1] = 0;
    if (!pushed || shared || flags != NV_HANDLE_ENABLE_PEERS || (word && strcmp(word, "closed") == 0) ||
        sscanf(handle.bytes, "%63s %zu", path, &shared_bytes) != 2)
        return 1;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    if (memory == MAP_FAILED)
        return 201; /* CUDA_ERROR_INVALID_CONTEXT: what the driver says of memory that it cannot find */
    *device = shared = (uint64_t)(uintptr_t)memory;
    return 0;
}

CALL cuIpcCloseMemHandle(uint64_t device);
CALL cuIpcCloseMemHandle(uint64_t device)
{
    if (!pushed || device != shared)
        return 1;
    (void)munmap((void *)(uintptr_t)device, shared_bytes);
    shared = 0;
    return 0;
}
