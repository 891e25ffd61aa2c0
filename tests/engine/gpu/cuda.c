/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for libcuda.so.1 as far as a probe goes: it counts devices and tells a version. No memory, no context.
 *
 * SPILLWAY_STANDIN_GPUS: how many devices there are (1). CUDA_VISIBLE_DEVICES is not looked at. */
#include <stdlib.h>

#define CALL __attribute__((visibility("default"))) int

CALL cuInit(unsigned flags);
CALL cuInit(unsigned flags)
{
    const char *count = getenv("SPILLWAY_STANDIN_GPUS");
    return flags || (count && strtol(count, NULL, 10) == 0) ? 100 : 0; /* CUDA_ERROR_NO_DEVICE */
}

CALL cuDriverGetVersion(int *version);
CALL cuDriverGetVersion(int *version)
{
    *version = 13000;
    return 0;
}

CALL cuDeviceGetCount(int *count);
CALL cuDeviceGetCount(int *count)
{
    const char *text = getenv("SPILLWAY_STANDIN_GPUS");
    *count = text ? (int)strtol(text, NULL, 10) : 1;
    return 0;
}
