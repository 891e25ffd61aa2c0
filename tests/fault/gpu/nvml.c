/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for NVML with two GPUs. Words: nvml-fails, nvml-hangs, nvml-blank, nvml-lost, nvml-one-lost, hot.
 * Built once more as an old one that lacks a function (FAKE_OLD). */
#include "script.h"

typedef struct {
    unsigned gpu, memory;
} utilization;
typedef struct {
    unsigned long long total, free, used;
} memory;

FAKE_API int nvmlInit_v2(void);
int nvmlInit_v2(void)
{
    return says("nvml-fails") ? 9 : 0;
}

FAKE_API int nvmlShutdown(void);
int nvmlShutdown(void)
{
    return 0;
}

FAKE_API int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetCount_v2(unsigned *count)
{
    hang_if("nvml-hangs");
    *count = 2;
    return 0;
}

#ifndef FAKE_OLD
FAKE_API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    static char devices[2];
    if (says("nvml-lost") || (says("nvml-one-lost") && index == 0))
        return 15;
    *device = &devices[index];
    return 0;
}
#endif

FAKE_API int nvmlDeviceGetName(void *device, char *name, unsigned size);
int nvmlDeviceGetName(void *device, char *name, unsigned size)
{
    (void)device;
    (void)snprintf(name, size, "Fake \"GPU\"");
    return 0;
}

FAKE_API int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size);
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size)
{
    (void)device;
    (void)snprintf(uuid, size, "GPU-fake-nvml");
    return 0;
}

FAKE_API int nvmlDeviceGetUtilizationRates(void *device, utilization *rates);
int nvmlDeviceGetUtilizationRates(void *device, utilization *rates)
{
    (void)device;
    *rates = (utilization){ 50, 10 };
    return says("nvml-blank") ? 3 : 0;
}

FAKE_API int nvmlDeviceGetMemoryInfo(void *device, memory *info);
int nvmlDeviceGetMemoryInfo(void *device, memory *info)
{
    (void)device;
    *info = (memory){ 1000, 400, 600 };
    return says("nvml-blank") ? 3 : 0;
}

FAKE_API int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees);
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees)
{
    (void)device;
    *degrees = 61;
    return sensor != 0 || says("nvml-blank") ? 3 : 0;
}

FAKE_API int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts);
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts)
{
    (void)device;
    *milliwatts = 70500;
    return says("nvml-blank") ? 3 : 0;
}

FAKE_API int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons)
{
    (void)device;
    *reasons = says("hot") ? 0x20 : 0x4; /* heat; the power cap, which is no reason */
    return says("nvml-blank") ? 3 : 0;
}
