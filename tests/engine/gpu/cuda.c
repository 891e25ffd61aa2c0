/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for libcuda.so.1 as far as a probe goes: it counts devices and tells a version. No memory, no context.
 *
 * SPILLWAY_STANDIN_GPUS: how many devices there are (1). SPILLWAY_STANDIN_DRIVER: what CUDA the driver offers (13000). Of CUDA_VISIBLE_DEVICES one number is understood. */
#include <stdlib.h>

#define CALL __attribute__((visibility("default"))) int

static int visible(void)
{
    const char *count = getenv("SPILLWAY_STANDIN_GPUS"), *one = getenv("CUDA_VISIBLE_DEVICES");
    long there = count ? strtol(count, NULL, 10) : 1;
    if (!one || !*one)
        return (int)there;
    return strtol(one, NULL, 10) >= 0 && strtol(one, NULL, 10) < there;
}

CALL cuInit(unsigned flags);
CALL cuInit(unsigned flags)
{
    return flags || !visible() ? 100 : 0; /* CUDA_ERROR_NO_DEVICE */
}

CALL cuDriverGetVersion(int *version);
CALL cuDriverGetVersion(int *version)
{
    const char *own = getenv("SPILLWAY_STANDIN_DRIVER");
    *version = own ? (int)strtol(own, NULL, 10) : 13000;
    return 0;
}

CALL cuDeviceGetCount(int *count);
CALL cuDeviceGetCount(int *count)
{
    *count = visible();
    return 0;
}
