/* SPDX-License-Identifier: Apache-2.0
 * The table of device faults. */
#include "worker/device_fault.h"

#include "base/attr.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *code, *reason_prefix, *remedy;
} rows[] = {
    { "no_gpu", "no GPU", "pass a GPU to this machine or container, or leave the worker out of --workers" },
    { "no_driver", "no driver", "install NVIDIA's driver, or pass the GPU into this container" },
    { "no_library", "library missing", "install the library that is named, or the GPU build of ONNX Runtime" },
    { "mismatch", "driver/CUDA mismatch", "reboot or reload the nvidia module; else update the driver" },
    { "no_code", NULL, "build Spillway's CUDA plug-in for this GPU (meson -Dgpu_archs), or leave the worker out of --workers" },
    { "bad_arithmetic", NULL, "build the CUDA plug-in anew with this source's own flags (meson setup -Dcuda=enabled)" },
    { "missing_plugin", NULL, "build with nvcc on the path (meson -Dcuda=enabled), or set SPILLWAY_PLUGINS to where it is" },
    { "bad_plugin", NULL, "install the CUDA plug-in of this very build" },
    { "not_registered", NULL, "nothing need be done: one copy more for each picture" },
    { "oom", NULL, "end what else uses the device, or load a smaller model" },
    { "sticky", NULL, "the worker restarts by itself; if it recurs, see the kernel's log for Xid lines" },
    { "hang", NULL, "the worker restarts by itself; if it recurs, see the kernel's log for Xid lines" },
};

const char *sp_device_remedy(const char *code)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        if (strcmp(code, rows[i].code) == 0)
            return rows[i].remedy;
    }
    return "";
}

const char *sp_device_code_of(const char *reason)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        if (rows[i].reason_prefix && strncmp(reason, rows[i].reason_prefix, strlen(rows[i].reason_prefix)) == 0)
            return rows[i].code;
    }
    return "no_device";
}
