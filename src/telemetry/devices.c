/* SPDX-License-Identifier: Apache-2.0
 * One table of values, written twice. */
#include "telemetry/devices.h"

#include "base/clock.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct value_row {
    size_t offset;
    const char *key;                  /* JSON, and spillway_device_<key> */
    const char *triton, *triton_help; /* NULL = Triton has none */
    const char *kind;                 /* Prometheus */
    const char *help;
} value_row;

static const value_row rows[] = {
    { offsetof(sp_device_sample, utilization), "utilization", "nv_gpu_utilization", "How busy a GPU is, 0 to 1", "gauge",
      "How busy a device is, 0 to 1" },
    { offsetof(sp_device_sample, memory_total_bytes), "memory_total_bytes", "nv_gpu_memory_total_bytes",
      "Memory of a GPU", "gauge", "Memory of a device" },
    { offsetof(sp_device_sample, memory_used_bytes), "memory_used_bytes", "nv_gpu_memory_used_bytes",
      "Memory of a GPU that is in use", "gauge", "Memory of a device that is in use" },
    { offsetof(sp_device_sample, power_w), "power_watts", "nv_gpu_power_usage", "Watts that a GPU draws", "gauge",
      "Power that a device draws" },
    { offsetof(sp_device_sample, power_limit_w), "power_limit_watts", "nv_gpu_power_limit", "Watts that a GPU may draw",
      "gauge", "Power that a device may draw" },
    { offsetof(sp_device_sample, energy_j), "energy_joules", "nv_energy_consumption",
      "Joules that a GPU has used since its driver was loaded", "counter",
      "Energy that a device has used since its driver was loaded" },
    { offsetof(sp_device_sample, temperature_c), "temperature_celsius", NULL, NULL, "gauge", "Temperature of a device" },
    { offsetof(sp_device_sample, sm_clock_mhz), "sm_clock_mhz", NULL, NULL, "gauge", "Clock of a device's processors" },
};

static double value_of(const sp_device_sample *sample, const value_row *row)
{
    double value;
    memcpy(&value, (const char *)sample + row->offset, sizeof(value));
    return value;
}

static bool is_gpu(const sp_device_sample *sample)
{
    return strcmp(sample->source, "host") != 0;
}

static void write_labels(sp_buf *out, const sp_device_info *info)
{
    const sp_device_sample *sample = &info->sample;
    sp_buf_printf(out, "{worker=\"%s\",device=\"%d\",source=\"%s\"", info->worker, info->number, sample->source);
    if (sample->uuid[0]) {
        sp_buf_append_text(out, ",uuid="); /* JSON's escapes are a superset of Prometheus's for what a library may say */
        sp_buf_append_json_text(out, sample->uuid);
    }
    sp_buf_append_text(out, "}");
}

static void write_series(sp_buf *out, const sp_device_info *devices, int count, const value_row *row, bool triton)
{
    bool headed = false;
    char name[64];
    (void)snprintf(name, sizeof(name), "%s%s", triton ? "" : "spillway_device_", triton ? row->triton : row->key);
    for (int i = 0; i < count; i++) {
        double value = value_of(&devices[i].sample, row);
        if (!devices[i].fresh || !isfinite(value) || (triton && !is_gpu(&devices[i].sample)))
            continue;
        if (!headed)
            sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, triton ? row->triton_help : row->help, name, row->kind);
        headed = true;
        sp_buf_append_text(out, name);
        if (triton) {
            sp_buf_append_text(out, "{gpu_uuid=");
            sp_buf_append_json_text(out, devices[i].sample.uuid);
            sp_buf_append_text(out, "}");
        } else {
            write_labels(out, &devices[i]);
        }
        sp_buf_printf(out, " %.15g\n", value);
    }
}

static void write_throttled(sp_buf *out, const sp_device_info *devices, int count)
{
    bool headed = false;
    for (int i = 0; i < count; i++) {
        const sp_device_sample *sample = &devices[i].sample;
        if (!devices[i].fresh || (sample->throttle_thermal > 1 && sample->throttle_power > 1))
            continue;
        if (!headed)
            sp_buf_append_text(out, "# HELP spillway_device_throttled 1 = lowers its clocks because of heat or power\n"
                                    "# TYPE spillway_device_throttled gauge\n");
        headed = true;
        sp_buf_append_text(out, "spillway_device_throttled");
        write_labels(out, &devices[i]);
        sp_buf_printf(out, " %d\n", sample->throttle_thermal == 1 || sample->throttle_power == 1);
    }
}

void sp_telemetry_write_devices(sp_buf *out, const sp_device_info *devices, int count)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        if (rows[i].triton)
            write_series(out, devices, count, &rows[i], true);
        write_series(out, devices, count, &rows[i], false);
    }
    write_throttled(out, devices, count);
}

static void flag(sp_buf *out, const char *key, uint32_t value)
{
    if (value <= 1)
        sp_buf_printf(out, ",\"%s\":%s", key, value ? "true" : "false");
}

void sp_telemetry_devices_json(sp_buf *out, const sp_device_info *devices, int count)
{
    sp_buf_append_text(out, "{\"devices\":[");
    for (int i = 0; i < count; i++) {
        const sp_device_sample *sample = &devices[i].sample;
        sp_buf_printf(out, "%s{\"worker\":\"%s\",\"device\":%d,\"source\":\"%s\",\"name\":", i ? "," : "", devices[i].worker,
                      devices[i].number, sample->source);
        sp_buf_append_json_text(out, sample->name);
        if (sample->uuid[0]) {
            sp_buf_append_text(out, ",\"uuid\":");
            sp_buf_append_json_text(out, sample->uuid);
        }
        sp_buf_printf(out, ",\"age_s\":%.3f,\"fresh\":%s", (double)(sp_clock_now_ns() - sample->sampled_ns) / 1e9,
                      devices[i].fresh ? "true" : "false");
        for (size_t r = 0; r < SP_ARRAY_LEN(rows); r++) {
            double value = value_of(sample, &rows[r]);
            if (isfinite(value))
                sp_buf_printf(out, ",\"%s\":%.15g", rows[r].key, value);
        }
        flag(out, "throttled_by_heat", sample->throttle_thermal);
        flag(out, "throttled_by_power", sample->throttle_power);
        sp_buf_append_text(out, "}");
    }
    sp_buf_append_text(out, "]}\n");
}
