/* SPDX-License-Identifier: Apache-2.0
 * base/machine: cgroup v1, v2 and none, from a directory that looks like /. */
#include "base/machine.h"
#include "base/view.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/spillway-machine-XXXXXX";
static char made[64][200];
static int made_count;

static void begin(void)
{
    static const char pattern[] = "/tmp/spillway-machine-XXXXXX";
    memcpy(root, pattern, sizeof(root));
    if (!mkdtemp(root))
        abort();
    made_count = 0;
}

/* Writes root/path, making directories on the way. */
static void put(const char *path, const char *content)
{
    char full[200];
    (void)snprintf(full, sizeof(full), "%s/%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        if (mkdir(full, 0700) == 0)
            (void)snprintf(made[made_count++], sizeof(made[0]), "%s", full);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    if (!file)
        abort();
    (void)fputs(content, file);
    (void)fclose(file);
    (void)snprintf(made[made_count++], sizeof(made[0]), "%s", full);
}

static void end(void)
{
    while (made_count > 0)
        (void)remove(made[--made_count]);
    (void)rmdir(root);
}

static sp_machine read_it(void)
{
    sp_machine machine;
    sp_machine_read_under(root, &machine);
    return machine;
}

TEST(this_machine_makes_sense)
{
    sp_machine machine;
    sp_machine_read(&machine);
    CHECK(machine.cpu_count >= 1 && machine.cpu_count <= 4096);
    CHECK(machine.memory_total_bytes > 64u << 20);
    CHECK(machine.memory_limit_bytes > 0 && machine.memory_limit_bytes <= machine.memory_total_bytes);
    CHECK(machine.cpu_quota >= 0);
    uint64_t kills = sp_machine_oom_kill_count();
    CHECK(sp_machine_oom_kill_count() >= kills);
}

TEST(no_cgroup_is_no_limit)
{
    begin();
    sp_machine machine = read_it();
    CHECK_INT(machine.cgroup_version, 0);
    CHECK_INT(machine.memory_limit_bytes, machine.memory_total_bytes);
    CHECK(machine.cpu_quota == 0);
    CHECK(machine.cpu_count >= 1);
    CHECK_INT(sp_machine_oom_kill_count_under(root), 0);
    end();
}

TEST(version_2)
{
    begin();
    put("proc/self/cgroup", "0::/system.slice/spillway.service\n");
    put("sys/fs/cgroup/system.slice/spillway.service/cpu.max", "50000 100000\n");
    put("sys/fs/cgroup/system.slice/spillway.service/memory.max", "67108864\n");
    put("sys/fs/cgroup/system.slice/spillway.service/memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\n");
    put("proc/vmstat", "nr_free_pages 1\noom_kill 5\n");
    sp_machine machine = read_it();
    CHECK_INT(machine.cgroup_version, 2);
    CHECK_INT(machine.memory_limit_bytes, 64u << 20);
    CHECK(machine.cpu_quota == 0.5);
    CHECK_INT(machine.cpu_count, 1); /* half a CPU still runs one thread */
    CHECK_INT(sp_machine_oom_kill_count_under(root), 7);
    end();
}

TEST(version_2_counts_the_groups_above)
{
    begin();
    put("proc/self/cgroup", "0::/a/b/c\n");
    put("sys/fs/cgroup/a/b/c/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/memory.max", "100663296\n");
    put("sys/fs/cgroup/a/memory.max", "134217728\n");
    put("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/a/cpu.max", "100000 100000\n");
    sp_machine machine = read_it();
    CHECK_INT(machine.memory_limit_bytes, 96u << 20);
    CHECK_INT(machine.cpu_count, 1);
    end();
}

TEST(version_2_in_a_container_sees_the_root)
{
    begin();
    put("proc/self/cgroup", "0::/docker/0123456789abcdef\n"); /* no directory of that name in here */
    put("sys/fs/cgroup/memory.max", "83886080\n");
    put("sys/fs/cgroup/cpu.max", "max 100000\n");
    sp_machine machine = read_it();
    CHECK_INT(machine.cgroup_version, 2);
    CHECK_INT(machine.memory_limit_bytes, 80u << 20);
    CHECK(machine.cpu_quota == 0);
    end();
}

TEST(version_1)
{
    begin();
    put("proc/self/cgroup", "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n");
    put("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "75497472\n");
    put("sys/fs/cgroup/memory/docker/abc/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "100000\n");
    put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n");
    sp_machine machine = read_it();
    CHECK_INT(machine.cgroup_version, 1);
    CHECK_INT(machine.memory_limit_bytes, 72u << 20);
    CHECK_INT(machine.cpu_count, 1);
    CHECK_INT(sp_machine_oom_kill_count_under(root), 4);
    end();
}

TEST(version_1_without_limits)
{
    begin();
    put("proc/self/cgroup", "12:memory:/\n4:cpu,cpuacct:/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    sp_machine machine = read_it();
    CHECK_INT(machine.memory_limit_bytes, machine.memory_total_bytes);
    CHECK(machine.cpu_quota == 0);
    end();
}

TEST(nonsense_is_no_limit)
{
    begin();
    put("proc/self/cgroup", "garbage\n::\n0::/x\n");
    put("sys/fs/cgroup/x/memory.max", "many\n");
    put("sys/fs/cgroup/x/cpu.max", "-5 0\n");
    sp_machine machine = read_it();
    CHECK_INT(machine.memory_limit_bytes, machine.memory_total_bytes);
    CHECK(machine.cpu_quota == 0 && machine.cpu_count >= 1);
    end();
}
