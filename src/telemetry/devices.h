/* SPDX-License-Identifier: Apache-2.0
 * Samples of devices for people and for Prometheus. A value that nobody knows is not shown: no line, no key. */
#ifndef SP_TELEMETRY_DEVICES_H
#define SP_TELEMETRY_DEVICES_H

#include "base/buf.h"
#include "route/house.h"

/* Prometheus text: GPUs under Triton's names (nv_gpu_utilization, nv_gpu_memory_used_bytes, ... with gpu_uuid), every
 * device under spillway_device_*. Samples that are not fresh are left out. */
void sp_telemetry_write_devices(sp_buf *out, const sp_device_info *devices, int count);

/* {"devices":[...]} for GET /v1/devices: name, uuid, source, age, values, throttling. */
void sp_telemetry_devices_json(sp_buf *out, const sp_device_info *devices, int count);

#endif
