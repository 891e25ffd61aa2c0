/* SPDX-License-Identifier: Apache-2.0
 * Which GPUs there are, what they are, and opening one. Reasons begin with the words that worker/device_fault.h knows. */
#include "kernels/cuda/core.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SP_CUDA_ARCHS
#define SP_CUDA_ARCHS 90 /* the architectures that this library has machine code for, the last one also as PTX */
#endif

static const int archs[] = { SP_CUDA_ARCHS };

/* Machine code runs on its own major version from its minor version on; PTX on everything newer. */
static bool has_code(int major, int minor)
{
    int device = major * 10 + minor;
    for (size_t i = 0; i < SP_ARRAY_LEN(archs); i++) {
        if (archs[i] / 10 == major && archs[i] <= device)
            return true;
    }
    return device >= archs[SP_ARRAY_LEN(archs) - 1];
}

static sp_status check_driver(sp_error *reterr)
{
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver); /* stays 0 when there is none */
    (void)cudaRuntimeGetVersion(&runtime);
    (void)cudaGetLastError();
    if (!driver)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_driver", "no driver: libcuda.so.1 is missing or does not start");
    if (driver / 1000 < runtime / 1000)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "mismatch", "driver/CUDA mismatch: the driver offers CUDA %d.%d, this build needs %d",
                            driver / 1000, driver % 1000 / 10, runtime / 1000);
    return SP_OK;
}

sp_status sp_cuda_count(int *ret_count, sp_error *reterr)
{
    int count = 0;
    sp_status s = check_driver(reterr);
    if (s)
        return s;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        (void)cudaGetLastError();
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_gpu", "no GPU: the driver sees none (CUDA_VISIBLE_DEVICES?)");
    }
    if (error == cudaErrorInsufficientDriver || error == cudaErrorSystemDriverMismatch ||
        error == cudaErrorCompatNotSupportedOnDevice) {
        (void)cudaGetLastError();
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "mismatch",
                            "driver/CUDA mismatch: libcuda.so.1 and the kernel's driver do not fit this build (%s, %d)",
                            cudaGetErrorName(error), (int)error);
    }
    s = sp_cuda_check(error, "cudaGetDeviceCount", reterr);
    if (!s)
        *ret_count = count;
    return s;
}

/* 0 when the driver does not say. */
static int attribute(enum cudaDeviceAttr which, int index)
{
    int value = 0;
    if (cudaDeviceGetAttribute(&value, which, index) != cudaSuccess) {
        (void)cudaGetLastError();
        value = 0;
    }
    return value;
}

static void write_uuid(char *text, size_t size, const cudaUUID_t *uuid)
{
    const unsigned char *b = (const unsigned char *)uuid->bytes;
    (void)snprintf(text, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4],
                   b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

sp_status sp_cuda_describe(int index, sp_cuda_info *ret_info, sp_error *reterr)
{
    struct cudaDeviceProp properties;
    sp_cuda_info info = { .index = index };
    int count;
    sp_status s = sp_cuda_count(&count, reterr);
    if (s)
        return s;
    if (index < 0 || index >= count)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_gpu", "no GPU %d: the driver sees %d", index, count);
    s = sp_cuda_check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", reterr);
    if (s)
        return s;
    (void)snprintf(info.name, sizeof(info.name), "%.*s", (int)sizeof(info.name) - 1, properties.name);
    write_uuid(info.uuid, sizeof(info.uuid), &properties.uuid);
    info.memory_bytes = properties.totalGlobalMem;
    info.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
    info.minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
    info.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
    info.copy_engines = attribute(cudaDevAttrAsyncEngineCount, index);
    info.clock_khz = attribute(cudaDevAttrClockRate, index);
    info.memory_clock_khz = attribute(cudaDevAttrMemoryClockRate, index);
    info.memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth, index);
    info.l2_bytes = (uint64_t)attribute(cudaDevAttrL2CacheSize, index);
    info.shared_bytes = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    info.registers_host = attribute(cudaDevAttrHostRegisterSupported, index) != 0;
    (void)cudaDriverGetVersion(&info.driver_version);
    (void)cudaRuntimeGetVersion(&info.runtime_version);
#ifdef SP_CUDA_SIMULATED
    info.simulated = true;
#endif
    if (!has_code(info.major, info.minor))
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_code", "%s has compute capability %d.%d, this build has no code for it",
                            info.name, info.major, info.minor);
    *ret_info = info;
    return SP_OK;
}

/* Not remembered: an engine may have chosen another device on this thread since. The runtime compares first. */
sp_status sp_cuda_use(sp_cuda *cuda, sp_error *reterr)
{
    return sp_cuda_check(cudaSetDevice(cuda->index), "cudaSetDevice", reterr);
}

static sp_status open_parts(sp_cuda *cuda, uint64_t reserve_bytes, sp_error *reterr)
{
    sp_status s = sp_cuda_use(cuda, reterr);
    if (s)
        return s;
    /* Whoever waits for it sleeps. Refused when somebody else has made the context with other flags: then they spin. */
    if (cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync) != cudaSuccess)
        (void)cudaGetLastError();
    s = sp_cuda_check(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", reterr);
    if (!s)
        s = sp_cuda_pool_open(cuda, reserve_bytes, reterr);
    if (!s)
        s = sp_cuda_canary(cuda, reterr);
    return s;
}

sp_status sp_cuda_open(int index, uint64_t reserve_bytes, sp_cuda **ret_cuda, sp_error *reterr)
{
    sp_cuda_info info;
    sp_status s = sp_cuda_describe(index, &info, reterr);
    if (s)
        return s;
    sp_cuda *cuda = calloc(1, sizeof(*cuda));
    if (!cuda)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a GPU's state");
    cuda->index = index;
    (void)pthread_mutex_init(&cuda->lock, NULL);
    s = open_parts(cuda, reserve_bytes, reterr);
    if (s) {
        sp_cuda_close(cuda);
        return s;
    }
    *ret_cuda = cuda;
    return SP_OK;
}

void sp_cuda_close(sp_cuda *cuda)
{
    if (!cuda)
        return;
    (void)sp_cuda_use(cuda, NULL);
    if (cuda->stream) {
        (void)cudaStreamSynchronize(cuda->stream);
        sp_cuda_pool_close(cuda);
        (void)cudaStreamDestroy(cuda->stream);
    }
    (void)cudaGetLastError();
    (void)pthread_mutex_destroy(&cuda->lock);
    free(cuda);
}
