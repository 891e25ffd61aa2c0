/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for libcuda.so.1 as far as media/nvdec.c goes: device memory is host memory. One device. */
#include "media/nvdec_api.h"

#include <string.h>

#define CALL __attribute__((visibility("default"))) nv_result

static int retained, pushed;

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

CALL cuMemcpy2D_v2(const nv_copy *copy);
CALL cuMemcpy2D_v2(const nv_copy *copy)
{
    if (!pushed || copy->src_kind != NV_MEMORY_DEVICE || copy->dst_kind != NV_MEMORY_HOST || copy->width_bytes > copy->src_pitch ||
        copy->width_bytes > copy->dst_pitch)
        return 1;
    for (size_t y = 0; y < copy->height; y++)
        memcpy((uint8_t *)copy->dst_host + y * copy->dst_pitch, (const uint8_t *)(uintptr_t)copy->src_device + y * copy->src_pitch,
               copy->width_bytes);
    return 0;
}
