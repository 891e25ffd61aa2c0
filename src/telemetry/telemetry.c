/* SPDX-License-Identifier: Apache-2.0
 * The metrics page. */
#include "telemetry/telemetry.h"

#include "base/log.h"
#include "base/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void gauge(const char *name, const char *help, int64_t value)
{
    sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, name, "", help), value);
}

static int64_t resident_bytes(void)
{
    long long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return -1;
    int n = fscanf(file, "%lld %lld", &size, &resident);
    (void)fclose(file);
    return n == 2 ? resident * sysconf(_SC_PAGESIZE) : -1;
}

static int open_descriptors(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return -1;
    while (readdir(dir))
        count++;
    (void)closedir(dir);
    return count - 3; /* ".", ".." and the directory's own */
}

void sp_telemetry_write(sp_buf *out)
{
    int64_t resident = resident_bytes();
    int descriptors = open_descriptors();
    if (resident >= 0)
        gauge("process_resident_memory_bytes", "Resident memory of the gateway process", resident);
    if (descriptors >= 0)
        gauge("process_open_fds", "Open descriptors of the gateway process", descriptors);
    gauge("spillway_log_dropped_lines", "Log lines dropped because the reader of stderr was too slow",
          (int64_t)sp_log_dropped_count());
    sp_metrics_write(out);

    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        sp_buf_printf(out,
                      "# HELP process_cpu_seconds_total CPU time of the gateway process\n# TYPE "
                      "process_cpu_seconds_total counter\n"
                      "process_cpu_seconds_total %.6f\n",
                      (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                          (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    sp_buf_printf(out,
                  "# HELP spillway_build_info The version that runs\n# TYPE spillway_build_info gauge\n"
                  "spillway_build_info{version=\"%s\"} 1\n",
                  SP_VERSION);
}
