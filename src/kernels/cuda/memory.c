/* SPDX-License-Identifier: Apache-2.0
 * Device memory from a stream-ordered pool that gives nothing back to the driver, pinned and registered host memory, and how
 * much of each is held. Allocation waits for nothing but its own stream, on which nothing long ever runs. */
#include "kernels/cuda/core.h"

#include <stdlib.h>
#include <string.h>

static sp_status remember(sp_cuda *cuda, cuda_piece **list, void *memory, size_t bytes, uint64_t *total, uint64_t *high,
                          sp_error *reterr)
{
    cuda_piece *piece = malloc(sizeof(*piece));
    if (!piece)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to remember a piece of %zu bytes", bytes);
    *piece = (cuda_piece){ .memory = memory, .bytes = bytes };
    (void)pthread_mutex_lock(&cuda->lock);
    piece->next = *list;
    *list = piece;
    *total += bytes;
    *high = SP_MAX(*high, *total);
    (void)pthread_mutex_unlock(&cuda->lock);
    return SP_OK;
}

static void forget(sp_cuda *cuda, cuda_piece **list, const void *memory, uint64_t *total)
{
    (void)pthread_mutex_lock(&cuda->lock);
    cuda_piece **at = list;
    while (*at && (*at)->memory != memory)
        at = &(*at)->next;
    cuda_piece *piece = *at;
    SP_ASSERT(piece != NULL); /* released twice, or never reserved here */
    *at = piece->next;
    *total -= piece->bytes;
    (void)pthread_mutex_unlock(&cuda->lock);
    free(piece);
}

/* ---- the device's ---- */

static sp_status take(sp_cuda *cuda, size_t bytes, void **ret_device, sp_error *reterr)
{
    void *device = NULL;
    cudaError_t error;
    if (!cuda->pool) {
        error = cudaMalloc(&device, bytes);
    } else {
        error = cudaMallocFromPoolAsync(&device, bytes, cuda->pool, cuda->stream);
        if (error == cudaSuccess)
            error = cudaStreamSynchronize(cuda->stream); /* from here on every stream may use it */
    }
    if (error != cudaSuccess && device && cuda->pool)
        (void)cudaFreeAsync(device, cuda->stream); /* it was the wait that failed */
    if (error == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total_bytes = 0;
        (void)cudaMemGetInfo(&free_bytes, &total_bytes);
        (void)cudaGetLastError();
        return sp_error_set(reterr, SP_NOMEM, "oom", "cuda", (int)error, __FILE__, __LINE__,
                            "GPU %d: %zu bytes asked, %zu of %zu free", cuda->index, bytes, free_bytes, total_bytes);
    }
    sp_status s = sp_cuda_check(error, "device memory", reterr);
    if (!s)
        *ret_device = device;
    return s;
}

static void give(sp_cuda *cuda, void *device)
{
    if ((cuda->pool ? cudaFreeAsync(device, cuda->stream) : cudaFree(device)) != cudaSuccess)
        (void)cudaGetLastError(); /* the device has failed: its process ends */
}

sp_status sp_cuda_reserve(sp_cuda *cuda, size_t bytes, void **ret_device, sp_error *reterr)
{
    void *device = NULL;
    sp_status s = sp_cuda_use(cuda, reterr);
    if (s)
        return s;
    bytes = bytes ? bytes : 1;
    s = take(cuda, bytes, &device, reterr);
    if (s)
        return s;
    s = remember(cuda, &cuda->device_pieces, device, bytes, &cuda->device_bytes, &cuda->device_high_bytes, reterr);
    if (s) {
        give(cuda, device);
        return s;
    }
    *ret_device = device;
    return SP_OK;
}

void sp_cuda_release(sp_cuda *cuda, void *device)
{
    if (!device)
        return;
    (void)sp_cuda_use(cuda, NULL);
    forget(cuda, &cuda->device_pieces, device, &cuda->device_bytes);
    give(cuda, device);
}

/* A handle opens all of what the driver has cut the piece from, 2 MiB: nothing else of ours lies there then. Of no pool, since a
 * pool's memory has no such handle. */
sp_status sp_cuda_shared_new(sp_cuda *cuda, size_t bytes, void **ret_device, uint8_t ret_handle[SP_CUDA_HANDLE_BYTES], sp_error *reterr)
{
    void *device = NULL;
    cudaIpcMemHandle_t handle;
    _Static_assert(sizeof(handle) == SP_CUDA_HANDLE_BYTES, "the driver's size");
    bytes = SP_ALIGN_UP(SP_MAX(bytes, (size_t)1), (size_t)2 << 20);
    sp_status s = sp_cuda_use(cuda, reterr);
    if (!s)
        s = sp_cuda_check(cudaMalloc(&device, bytes), "shared device memory", reterr);
    if (s)
        return s;
    s = sp_cuda_check(cudaIpcGetMemHandle(&handle, device), "cudaIpcGetMemHandle", reterr);
    if (!s)
        s = remember(cuda, &cuda->device_pieces, device, bytes, &cuda->device_bytes, &cuda->device_high_bytes, reterr);
    if (s) {
        if (cudaFree(device) != cudaSuccess)
            (void)cudaGetLastError();
        return s;
    }
    memcpy(ret_handle, &handle, sizeof(handle));
    *ret_device = device;
    return SP_OK;
}

void sp_cuda_shared_free(sp_cuda *cuda, void *device)
{
    if (!device)
        return;
    (void)sp_cuda_use(cuda, NULL);
    forget(cuda, &cuda->device_pieces, device, &cuda->device_bytes);
    if (cudaFree(device) != cudaSuccess)
        (void)cudaGetLastError();
}

/* Takes the bytes from the driver and writes them once, so that no request pays for it. */
static sp_status fill_pool(sp_cuda *cuda, uint64_t reserve_bytes, sp_error *reterr)
{
    void *device;
    sp_status s = take(cuda, (size_t)reserve_bytes, &device, reterr);
    if (s)
        return s;
    s = sp_cuda_check(cudaMemsetAsync(device, 0, (size_t)reserve_bytes, cuda->stream), "cudaMemsetAsync", reterr);
    give(cuda, device);
    sp_status waited = sp_cuda_check(cudaStreamSynchronize(cuda->stream), "cudaStreamSynchronize", s ? NULL : reterr);
    return s ? s : waited;
}

sp_status sp_cuda_pool_open(sp_cuda *cuda, uint64_t reserve_bytes, sp_error *reterr)
{
    int has_pools = 0;
    if (cudaDeviceGetAttribute(&has_pools, cudaDevAttrMemoryPoolsSupported, cuda->index) != cudaSuccess)
        (void)cudaGetLastError();
    if (!has_pools) /* some virtual GPUs: nothing to reserve from */
        return SP_OK;
    struct cudaMemPoolProps properties = {
        .allocType = cudaMemAllocationTypePinned,
        .location = { .type = cudaMemLocationTypeDevice, .id = cuda->index },
    };
    sp_status s = sp_cuda_check(cudaMemPoolCreate(&cuda->pool, &properties), "cudaMemPoolCreate", reterr);
    if (s) {
        cuda->pool = NULL;
        return s;
    }
    uint64_t all = UINT64_MAX;
    s = sp_cuda_check(cudaMemPoolSetAttribute(cuda->pool, cudaMemPoolAttrReleaseThreshold, &all), "cudaMemPoolSetAttribute", reterr);
    if (!s && reserve_bytes)
        s = fill_pool(cuda, reserve_bytes, reterr);
    return s;
}

void sp_cuda_pool_close(sp_cuda *cuda)
{
    SP_ASSERT(!cuda->device_pieces && !cuda->host_pieces); /* everything of it is freed before (cuda.h) */
    if (cuda->pool && cudaMemPoolDestroy(cuda->pool) != cudaSuccess)
        (void)cudaGetLastError();
    cuda->pool = NULL;
}

void sp_cuda_memory_get(sp_cuda *cuda, sp_cuda_memory *ret_memory)
{
    sp_cuda_memory memory = { 0 };
    size_t free_bytes = 0, total_bytes = 0;
    (void)pthread_mutex_lock(&cuda->lock);
    memory.device_bytes = cuda->device_bytes;
    memory.device_high_bytes = cuda->device_high_bytes;
    memory.host_bytes = cuda->host_bytes;
    memory.host_high_bytes = cuda->host_high_bytes;
    (void)pthread_mutex_unlock(&cuda->lock);
    memory.device_reserved_bytes = memory.device_bytes;
    if (sp_cuda_use(cuda, NULL) == SP_OK) {
        uint64_t reserved = 0;
        if (cuda->pool && cudaMemPoolGetAttribute(cuda->pool, cudaMemPoolAttrReservedMemCurrent, &reserved) == cudaSuccess)
            memory.device_reserved_bytes = reserved;
        (void)cudaMemGetInfo(&free_bytes, &total_bytes); /* stay 0 when it fails */
        (void)cudaGetLastError();
    }
    memory.free_bytes = free_bytes;
    memory.total_bytes = total_bytes;
    *ret_memory = memory;
}

/* ---- the host's ---- */

sp_status sp_cuda_pinned_new(sp_cuda *cuda, size_t bytes, void **ret_host, sp_error *reterr)
{
    void *host = NULL;
    sp_status s = sp_cuda_use(cuda, reterr);
    if (s)
        return s;
    bytes = bytes ? bytes : 1;
    s = sp_cuda_check(cudaHostAlloc(&host, bytes, cudaHostAllocPortable), "cudaHostAlloc", reterr);
    if (s)
        return s;
    s = remember(cuda, &cuda->host_pieces, host, bytes, &cuda->host_bytes, &cuda->host_high_bytes, reterr);
    if (s) {
        (void)cudaFreeHost(host);
        return s;
    }
    *ret_host = host;
    return SP_OK;
}

void sp_cuda_pinned_free(sp_cuda *cuda, void *host)
{
    if (!host)
        return;
    (void)sp_cuda_use(cuda, NULL);
    forget(cuda, &cuda->host_pieces, host, &cuda->host_bytes);
    if (cudaFreeHost(host) != cudaSuccess)
        (void)cudaGetLastError();
}

/* Once more as memory that is only read, which CUDA asks for where it is mapped so, and which not all devices can. */
static sp_status register_pages(void *host, size_t bytes, sp_error *reterr)
{
    sp_error first = { 0 };
    sp_status s = sp_cuda_check(cudaHostRegister(host, bytes, cudaHostRegisterPortable), "cudaHostRegister", &first);
    if (s == SP_OK || s == SP_UNAVAILABLE) {
        if (s && reterr)
            *reterr = first;
        return s;
    }
    return sp_cuda_check(cudaHostRegister(host, bytes, cudaHostRegisterPortable | cudaHostRegisterReadOnly), "cudaHostRegister", reterr);
}

sp_status sp_cuda_host_register(sp_cuda *cuda, void *host, size_t bytes, sp_error *reterr)
{
    sp_status s = sp_cuda_use(cuda, reterr);
    if (s)
        return s;
    sp_error why = { 0 };
    s = register_pages(host, bytes, &why);
    if (s == SP_UNAVAILABLE && why.code[0]) { /* sticky */
        if (reterr)
            *reterr = why;
        return s;
    }
    if (s)
        return sp_error_set(reterr, SP_UNSUPPORTED, "not_registered", "cuda", why.origin_code, __FILE__, __LINE__, "%s", why.message);
    s = remember(cuda, &cuda->host_pieces, host, bytes, &cuda->host_bytes, &cuda->host_high_bytes, reterr);
    if (s)
        (void)cudaHostUnregister(host);
    return s;
}

void sp_cuda_host_unregister(sp_cuda *cuda, void *host)
{
    if (!host)
        return;
    (void)sp_cuda_use(cuda, NULL);
    forget(cuda, &cuda->host_pieces, host, &cuda->host_bytes);
    if (cudaHostUnregister(host) != cudaSuccess)
        (void)cudaGetLastError();
}
