/* SPDX-License-Identifier: Apache-2.0
 * Which GPU a worker's process sees. */
#include "worker/visible.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sp_worker_number(const char *name)
{
    size_t digits = strlen(name);
    while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9')
        digits--;
    return (int)strtol(name + digits, NULL, 10);
}

void sp_worker_show_its_gpu(const char *kind, const char *name)
{
    const char *shown = getenv("CUDA_VISIBLE_DEVICES");
    char one[96] = "-1"; /* none: the driver shows what stands before the first wrong entry */
    int number = sp_worker_number(name);
    if (strcmp(kind, "cuda") != 0 && strcmp(kind, "tensorrt") != 0)
        return;
    if (!shown || !*shown) {
        (void)snprintf(one, sizeof(one), "%d", number);
    } else {
        for (; *shown && number > 0; number--) {
            shown += strcspn(shown, ",");
            shown += *shown == ',';
        }
        size_t length = strcspn(shown, ",");
        if (length && length < sizeof(one))
            (void)snprintf(one, sizeof(one), "%.*s", (int)length, shown);
    }
    (void)setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0); /* else the fastest is first, and NVML's numbers are others */
    (void)setenv("CUDA_VISIBLE_DEVICES", one, 1);       /* fails for want of memory: then the load fails next */
}
