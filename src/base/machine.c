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

/* This process's directory under `controller` ("" = v2's single hierarchy), as /proc/self/cgroup names it. */
static bool cgroup_path(const char *controller, char *path, size_t size)
{
    char text[8192];
    if (!read_text("/proc/self/cgroup", text, sizeof(text)))
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

/* Reads `name` in our cgroup directory, or in the hierarchy's root (where a container without its own cgroup
 * namespace path sees it). */
static bool read_cgroup(const char *root, const char *controller, const char *name, char *text, size_t size)
{
    char group[512], path[1024];
    if (!cgroup_path(controller, group, sizeof(group)))
        return false;
    (void)snprintf(path, sizeof(path), "%s%s/%s", root, group, name);
    if (read_text(path, text, size))
        return true;
    (void)snprintf(path, sizeof(path), "%s/%s", root, name);
    return read_text(path, text, size);
}

static void read_cpus(sp_machine *m)
{
    cpu_set_t set;
    m->cpu_count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    char text[128];
    double quota = 0, period = 0;
    if (read_cgroup("/sys/fs/cgroup", "", "cpu.max", text, sizeof(text))) {
        if (sscanf(text, "%lf %lf", &quota, &period) != 2)
            quota = 0; /* "max" */
    } else if (read_cgroup("/sys/fs/cgroup/cpu", "cpu", "cpu.cfs_quota_us", text, sizeof(text))) {
        quota = strtod(text, NULL);
        if (read_cgroup("/sys/fs/cgroup/cpu", "cpu", "cpu.cfs_period_us", text, sizeof(text)))
            period = strtod(text, NULL);
    }
    if (quota > 0 && period > 0) {
        m->cpu_quota = quota / period;
        m->cpu_count = SP_MIN(m->cpu_count, (int)ceil(m->cpu_quota));
    }
    m->cpu_count = SP_MAX(m->cpu_count, 1);
}

static void read_memory(sp_machine *m)
{
    m->memory_total_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    m->memory_limit_bytes = m->memory_total_bytes;
    char text[128];
    uint64_t limit = 0;
    if (read_cgroup("/sys/fs/cgroup", "", "memory.max", text, sizeof(text))) {
        m->cgroup_version = 2;
        limit = strtoull(text, NULL, 10); /* "max" reads as 0 */
    } else if (read_cgroup("/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", text, sizeof(text))) {
        m->cgroup_version = 1;
        limit = strtoull(text, NULL, 10);
    }
    if (limit)
        m->memory_limit_bytes = SP_MIN(m->memory_limit_bytes, limit);
}

void sp_machine_read(sp_machine *ret_machine)
{
    *ret_machine = (sp_machine){ 0 };
    read_cpus(ret_machine);
    read_memory(ret_machine);
}

uint64_t sp_machine_oom_kill_count(void)
{
    char group[512], path[1024];
    uint64_t count = 0, more = 0;
    if (cgroup_path("", group, sizeof(group))) {
        (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.events", group);
        if (read_keyed(path, "oom_kill", &more))
            count += more;
    }
    if (cgroup_path("memory", group, sizeof(group))) {
        (void)snprintf(path, sizeof(path), "/sys/fs/cgroup/memory%s/memory.oom_control", group);
        if (read_keyed(path, "oom_kill", &more))
            count += more;
    }
    /* The whole machine's counter moves too when the host itself runs out. */
    if (read_keyed("/proc/vmstat", "oom_kill", &more))
        count += more;
    return count;
}
