/* SPDX-License-Identifier: Apache-2.0
 * What this machine grants: cores and memory under the cgroup's limits, v1 and v2, and how often the OOM killer came. */
#ifndef SP_BASE_MACHINE_H
#define SP_BASE_MACHINE_H

#include "base/status.h"

typedef struct sp_machine {
    int cpu_count;              /* CPUs we may run on: affinity mask, then the cgroup's quota rounded up; >= 1 */
    double cpu_quota;           /* the quota in CPUs; 0 = none */
    uint64_t memory_limit_bytes; /* the least of the cgroup's limit and the RAM */
    uint64_t memory_total_bytes; /* the RAM */
    int cgroup_version;         /* of the memory controller: 1, 2; 0 = none found */
} sp_machine;

/* Reads /proc and /sys/fs/cgroup; what cannot be read counts as no limit. A limit of any group above ours counts too. */
void sp_machine_read(sp_machine *ret_machine);

/* The same from a directory that looks like / (its proc/self/cgroup and sys/fs/cgroup): for tests. */
void sp_machine_read_under(const char *root, sp_machine *ret_machine);

/* Memory in use, against memory_limit_bytes: the cgroup's charge without reclaimable file cache where a cgroup limits
 * us, else RAM that is not available. 0 when it cannot be read. */
uint64_t sp_machine_memory_used_bytes(const sp_machine *machine);

/* OOM kills so far: memory.events (v2), memory.oom_control (v1) or /proc/vmstat. A number that moved between two
 * calls means that the kernel killed somebody for memory. */
uint64_t sp_machine_oom_kill_count(void);
uint64_t sp_machine_oom_kill_count_under(const char *root);

#endif
