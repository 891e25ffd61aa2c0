/* SPDX-License-Identifier: Apache-2.0
 * cgroup and /proc readers. */
#include "base/machine.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The whole small file as text, or false. */
static bool read_text(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t n = fread(text, 1, size - 1, file);
    text[n] = 0;
    (void)fclose(file); /* only read from */
    return n > 0;
}

/* The value after `key` and a blank in a file of "key value" lines. */
static bool read_keyed(const char *path, const char *key, uint64_t *ret_value)
{
    char text[16384];
    if (!read_text(path, text, sizeof(text)))
        return false;
    size_t length = strlen(key);
    for (char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            *ret_value = strtoull(line + length + 1, NULL, 10);
            return true;
        }
    }
    return false;
}

/* This process's directory under `controller` ("" = v2's single hierarchy), as /proc/self/cgroup names it; "" = the
 * root of the hierarchy. */
static bool cgroup_path(const char *root, const char *controller, char *path, size_t size)
{
    char text[8192], file[600];
    (void)snprintf(file, sizeof(file), "%s/proc/self/cgroup", root);
    if (!read_text(file, text, sizeof(text)))
        return false;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':');
        char *where = names ? strchr(names + 1, ':') : NULL;
        if (!where)
            continue;
        *where++ = 0;
        names++;
        char *inner = NULL;
        bool found = !*controller && !*names;
        for (char *name = strtok_r(names, ",", &inner); name && !found; name = strtok_r(NULL, ",", &inner))
            found = strcmp(name, controller) == 0;
        if (found) {
            (void)snprintf(path, size, "%s", strcmp(where, "/") == 0 ? "" : where);
            return true;
        }
    }
    return false;
}

/* One group's limit: true when the file is there, *ret_limit 0 when it sets none. */
typedef bool read_limit_fn(const char *directory, double *ret_limit);

/* The least limit of our group and of all above it (a service's slice limits the service; a container that has no
 * namespace of its own finds its files only at the hierarchy's root). False when no group has such a file. */
static bool least_limit(const char *root, const char *hierarchy, const char *controller, read_limit_fn *read_limit,
                        double *ret_limit)
{
    char group[512], directory[1200];
    if (!cgroup_path(root, controller, group, sizeof(group)))
        return false;
    bool found = false;
    double least = 0;
    for (;;) {
        (void)snprintf(directory, sizeof(directory), "%s%s%s", root, hierarchy, group);
        double limit = 0;
        if (read_limit(directory, &limit)) {
            found = true;
            if (limit > 0 && (least == 0 || limit < least))
                least = limit;
        }
        char *slash = strrchr(group, '/');
        if (!slash)
            break;
        *slash = 0;
    }
    *ret_limit = least;
    return found;
}

static bool read_number(const char *directory, const char *name, char *text, size_t size)
{
    char path[1300];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    return read_text(path, text, size);
}

static bool cpu_limit_v2(const char *directory, double *ret_limit)
{
    char text[128];
    double quota, period;
    if (!read_number(directory, "cpu.max", text, sizeof(text)))
        return false;
    if (sscanf(text, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0) /* else it reads "max 100000" */
        *ret_limit = quota / period;
    return true;
}

static bool cpu_limit_v1(const char *directory, double *ret_limit)
{
    char quota[64], period[64];
    if (!read_number(directory, "cpu.cfs_quota_us", quota, sizeof(quota)) ||
        !read_number(directory, "cpu.cfs_period_us", period, sizeof(period)))
        return false;
    double q = strtod(quota, NULL), p = strtod(period, NULL);
    if (q > 0 && p > 0) /* -1 = none */
        *ret_limit = q / p;
    return true;
}

static bool memory_limit_v2(const char *directory, double *ret_limit)
{
    char text[64];
    if (!read_number(directory, "memory.max", text, sizeof(text)))
        return false;
    *ret_limit = *text == 'm' ? 0 : strtod(text, NULL); /* "max" */
    return true;
}

static bool memory_limit_v1(const char *directory, double *ret_limit)
{
    char text[64];
    if (!read_number(directory, "memory.limit_in_bytes", text, sizeof(text)))
        return false;
    *ret_limit = strtod(text, NULL); /* none = a number near 2^63 */
    return true;
}

static void read_cpus(const char *root, sp_machine *m)
{
    cpu_set_t set;
    m->cpu_count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (least_limit(root, "/sys/fs/cgroup", "", cpu_limit_v2, &m->cpu_quota) ||
        least_limit(root, "/sys/fs/cgroup/cpu", "cpu", cpu_limit_v1, &m->cpu_quota)) {
        if (m->cpu_quota > 0)
            m->cpu_count = (int)SP_MIN((double)m->cpu_count, ceil(m->cpu_quota));
    }
    m->cpu_count = SP_MAX(m->cpu_count, 1);
}

static void read_memory(const char *root, sp_machine *m)
{
    m->memory_total_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    m->memory_limit_bytes = m->memory_total_bytes;
    double limit = 0;
    if (least_limit(root, "/sys/fs/cgroup", "", memory_limit_v2, &limit))
        m->cgroup_version = 2;
    else if (least_limit(root, "/sys/fs/cgroup/memory", "memory", memory_limit_v1, &limit))
        m->cgroup_version = 1;
    if (limit > 0 && limit < (double)m->memory_limit_bytes)
        m->memory_limit_bytes = (uint64_t)limit;
}

void sp_machine_read_under(const char *root, sp_machine *ret_machine)
{
    *ret_machine = (sp_machine){ 0 };
    read_cpus(root, ret_machine);
    read_memory(root, ret_machine);
}

void sp_machine_read(sp_machine *ret_machine)
{
    sp_machine_read_under("", ret_machine);
}

uint64_t sp_machine_oom_kill_count_under(const char *root)
{
    char group[512], path[1200];
    uint64_t count = 0, more = 0;
    if (cgroup_path(root, "", group, sizeof(group))) {
        (void)snprintf(path, sizeof(path), "%s/sys/fs/cgroup%s/memory.events", root, group);
        if (read_keyed(path, "oom_kill", &more))
            count += more;
    }
    if (cgroup_path(root, "memory", group, sizeof(group))) {
        (void)snprintf(path, sizeof(path), "%s/sys/fs/cgroup/memory%s/memory.oom_control", root, group);
        if (read_keyed(path, "oom_kill", &more))
            count += more;
    }
    /* The whole machine's counter moves too when the host itself runs out. */
    (void)snprintf(path, sizeof(path), "%s/proc/vmstat", root);
    if (read_keyed(path, "oom_kill", &more))
        count += more;
    return count;
}

/* Charge minus inactive file cache, which the kernel gives back before it kills anybody. Our own group's, or the
 * hierarchy's root where a container sees its files only there. */
static uint64_t cgroup_used(const char *hierarchy, const char *controller, const char *usage_name, const char *cache_key)
{
    char text[64], group[512], directory[1200], path[1300];
    uint64_t cache = 0;
    if (!cgroup_path("", controller, group, sizeof(group)))
        return 0;
    (void)snprintf(directory, sizeof(directory), "%s%s", hierarchy, group);
    if (!read_number(directory, usage_name, text, sizeof(text))) {
        (void)snprintf(directory, sizeof(directory), "%s", hierarchy);
        if (!read_number(directory, usage_name, text, sizeof(text)))
            return 0;
    }
    uint64_t used = strtoull(text, NULL, 10);
    (void)snprintf(path, sizeof(path), "%s/memory.stat", directory);
    (void)read_keyed(path, cache_key, &cache); /* unread counts as no cache: the careful side */
    return used > cache ? used - cache : 0;
}

static uint64_t host_used(const sp_machine *machine)
{
    char text[4096];
    if (!read_text("/proc/meminfo", text, sizeof(text)))
        return 0;
    const char *line = strstr(text, "MemAvailable:");
    uint64_t available = line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
    return available && available < machine->memory_total_bytes ? machine->memory_total_bytes - available : 0;
}

uint64_t sp_machine_memory_used_bytes(const sp_machine *machine)
{
    if (machine->memory_limit_bytes >= machine->memory_total_bytes)
        return host_used(machine);
    return machine->cgroup_version == 2 ? cgroup_used("/sys/fs/cgroup", "", "memory.current", "inactive_file")
                                        : cgroup_used("/sys/fs/cgroup/memory", "memory", "memory.usage_in_bytes",
                                                      "total_inactive_file");
}

uint64_t sp_machine_oom_kill_count(void)
{
    return sp_machine_oom_kill_count_under("");
}
