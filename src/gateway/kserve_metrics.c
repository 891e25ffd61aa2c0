/* SPDX-License-Identifier: Apache-2.0
 * Triton's part of the metrics page: nv_inference_... of the served models, nv_cpu_... of the machine. Its GPUs are written by
 * telemetry/devices.h from what the sampler measures. */
#include "gateway/kserve.h"

#include "base/machine.h"

#include <stdio.h>

/* Ticks since boot; false when the kernel does not tell. */
static bool ticks_read(uint64_t *ret_busy, uint64_t *ret_all)
{
    unsigned long long t[8] = { 0 };
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return false;
    int n = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
    (void)fclose(file);
    *ret_all = 0;
    for (int i = 0; i < 8; i++)
        *ret_all += t[i];
    *ret_busy = *ret_all - t[3] - t[4]; /* idle, waiting for a disk */
    return n >= 4;
}

static void gauge_write(sp_buf *out, const char *name, const char *help, double value)
{
    sp_buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %.6g\n", name, help, name, name, value);
}

/* Between this page and the one before; the first has none. */
static void cpu_write(gw_kserve *kserve, sp_buf *out)
{
    uint64_t busy = 0, all = 0;
    if (!ticks_read(&busy, &all))
        return;
    if (kserve->cpu_all && all > kserve->cpu_all && busy >= kserve->cpu_busy)
        gauge_write(out, "nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]",
                    (double)(busy - kserve->cpu_busy) / (double)(all - kserve->cpu_all));
    kserve->cpu_busy = busy;
    kserve->cpu_all = all;
}

static void memory_write(sp_buf *out)
{
    sp_machine machine;
    sp_machine_read(&machine);
    uint64_t used = sp_machine_memory_used_bytes(&machine);
    if (!machine.memory_limit_bytes || !used)
        return;
    sp_buf_printf(out, "# HELP nv_cpu_memory_total_bytes CPU total memory (RAM), in bytes\n# TYPE nv_cpu_memory_total_bytes gauge\n"
                       "nv_cpu_memory_total_bytes %llu\n",
                  (unsigned long long)machine.memory_limit_bytes);
    sp_buf_printf(out, "# HELP nv_cpu_memory_used_bytes CPU used memory (RAM), in bytes\n# TYPE nv_cpu_memory_used_bytes gauge\n"
                       "nv_cpu_memory_used_bytes %llu\n",
                  (unsigned long long)used);
}

void gw_kserve_metrics(gw_server *server, sp_buf *out)
{
    if (!server->kserve || !server->kserve->serving)
        return;
    sp_serving_metrics_write(server->kserve->serving, out);
    cpu_write(server->kserve, out);
    memory_write(out);
}
