/* SPDX-License-Identifier: Apache-2.0
 * See probe.h: gathering facts, then judging them. */
#include "cli/probe.h"

#include "base/attr.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NVIDIA_VENDOR "0x10de"
#define WSL_LIBRARIES "/usr/lib/wsl/lib"

static const char *const library_dirs[] = {
    WSL_LIBRARIES, "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/nvidia/lib64",
};
static const char *const runtime_dirs[] = {
    "/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64",
};

typedef struct probe {
    const char *root;
    char path[PATH_MAX];
} probe;

static const char *at(probe *p, const char *directory, const char *name)
{
    snprintf(p->path, sizeof(p->path), "%s%s%s%s", p->root, directory, *name ? "/" : "", name);
    return p->path;
}

static bool exists(probe *p, const char *directory, const char *name)
{
    return access(at(p, directory, name), F_OK) == 0;
}

static void read_text(probe *p, const char *path, char *text, size_t text_bytes)
{
    FILE *file = fopen(at(p, path, ""), "re");
    size_t n = file ? fread(text, 1, text_bytes - 1, file) : 0;

    text[n] = '\0';
    if (file)
        fclose(file); /* it was only read */
}

/* The first run of digits and dots with a dot in it, e.g. "535.104.05" in the module's description of itself. */
static void first_version(const char *text, char *version, size_t version_bytes)
{
    version[0] = '\0';
    for (const char *c = text; *c; c++) {
        size_t length = isdigit((unsigned char)*c) ? strspn(c, "0123456789.") : 0;
        if (length && memchr(c, '.', length) && length < version_bytes) {
            snprintf(version, version_bytes, "%.*s", (int)length, c);
            return;
        }
        if (length)
            c += length - 1;
    }
}

static bool line_begins(const char *text, const char *word)
{
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, word, strlen(word)) && line[strlen(word)] == ' ')
            return true;
    return false;
}

static void read_pci(probe *p, sp_gpu_facts *facts)
{
    static const char devices[] = "/sys/bus/pci/devices";
    struct dirent *entry;
    DIR *dir = opendir(at(p, devices, ""));

    while (dir && (entry = readdir(dir)) != NULL) {
        char path[PATH_MAX], vendor[16], class[16];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s/vendor", devices, entry->d_name);
        read_text(p, path, vendor, sizeof(vendor));
        snprintf(path, sizeof(path), "%s/%s/class", devices, entry->d_name);
        read_text(p, path, class, sizeof(class));
        /* Class 0x03....: display (VGA, 3D) controllers; the card's sound function is none. */
        if (strncmp(vendor, NVIDIA_VENDOR, strlen(NVIDIA_VENDOR)) != 0 || strncmp(class, "0x03", 4) != 0)
            continue;
        if (!facts->pci_count++)
            snprintf(facts->pci_address, sizeof(facts->pci_address), "%.31s", entry->d_name);
    }
    if (dir)
        closedir(dir);
}

static void read_nodes(probe *p, sp_gpu_facts *facts)
{
    struct dirent *entry;
    DIR *dir = opendir(at(p, "/dev", ""));

    while (dir && (entry = readdir(dir)) != NULL) {
        const char *number = entry->d_name + strlen("nvidia");
        if (strncmp(entry->d_name, "nvidia", 6) != 0 || !*number || number[strspn(number, "0123456789")])
            continue;
        facts->node_count++;
        facts->denied |= access(at(p, "/dev", entry->d_name), R_OK | W_OK) != 0;
    }
    if (dir)
        closedir(dir);
    facts->control_node = exists(p, "/dev", "nvidiactl");
    facts->denied |= facts->control_node && access(at(p, "/dev", "nvidiactl"), R_OK | W_OK) != 0;
    facts->dxg = exists(p, "/dev", "dxg");
}

static void read_library(probe *p, sp_gpu_facts *facts)
{
    static const char name[] = "libcuda.so.1";
    char target[PATH_MAX];

    for (size_t i = 0; i < SP_ARRAY_LEN(library_dirs) && !*facts->library_path; i++) {
        struct stat st;
        /* lstat: in a fake root an absolute link would lead out of it, and its name is all that is wanted. */
        if (lstat(at(p, library_dirs[i], name), &st) != 0)
            continue;
        snprintf(facts->library_path, sizeof(facts->library_path), "%s/%s", library_dirs[i], name);
        ssize_t n = readlink(p->path, target, sizeof(target) - 1);
        target[SP_MAX(n, 0)] = '\0';
        const char *suffix = strstr(target, "libcuda.so.");
        if (suffix)
            first_version(suffix + strlen("libcuda.so."), facts->library_version, sizeof(facts->library_version));
    }
}

static void read_runtime(probe *p, sp_gpu_facts *facts)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(runtime_dirs); i++) {
        struct dirent *entry;
        DIR *dir = opendir(at(p, runtime_dirs[i], ""));
        while (dir && (entry = readdir(dir)) != NULL) {
            static const char prefix[] = "libcudart.so.";
            long major = strncmp(entry->d_name, prefix, strlen(prefix)) ? 0 : strtol(entry->d_name + strlen(prefix), NULL, 10);
            if (major > facts->runtime_major && major < 1000)
                facts->runtime_major = (int)major;
        }
        if (dir)
            closedir(dir);
    }
}

void sp_gpu_facts_read(const char *root, sp_gpu_facts *ret_facts)
{
    probe p = { .root = root ? root : "" };
    sp_gpu_facts facts = { 0 };
    char text[8192], cgroup[4096];

    read_text(&p, "/proc/version", text, sizeof(text));
    facts.wsl = strcasestr(text, "microsoft") != NULL;
    read_text(&p, "/proc/modules", text, sizeof(text));
    facts.nouveau = line_begins(text, "nouveau");
    read_text(&p, "/proc/driver/nvidia/version", text, sizeof(text));
    first_version(text, facts.driver_version, sizeof(facts.driver_version));
    read_text(&p, "/proc/1/cgroup", cgroup, sizeof(cgroup));
    facts.container = exists(&p, "/.dockerenv", "") || exists(&p, "/run/.containerenv", "") ||
                      exists(&p, "/var/run/secrets/kubernetes.io", "") || strstr(cgroup, "docker") ||
                      strstr(cgroup, "kubepods") || strstr(cgroup, "containerd");
    read_pci(&p, &facts);
    read_nodes(&p, &facts);
    read_library(&p, &facts);
    read_runtime(&p, &facts);
    if (*facts.driver_version)
        (void)sp_gpu_driver_cuda(facts.driver_version, &facts.driver_cuda_major, &facts.driver_cuda_minor); /* 0.0: unknown */
    *ret_facts = facts;
}

bool sp_gpu_driver_cuda(const char *driver_version, int *ret_major, int *ret_minor)
{
    /* First driver branch of each CUDA release (NVIDIA's CUDA Toolkit release notes, table of driver versions). */
    static const struct {
        int branch, major, minor;
    } table[] = {
        { 580, 13, 0 }, { 575, 12, 9 }, { 570, 12, 8 }, { 560, 12, 6 }, { 555, 12, 5 }, { 550, 12, 4 },
        { 545, 12, 3 }, { 535, 12, 2 }, { 530, 12, 1 }, { 525, 12, 0 }, { 520, 11, 8 }, { 515, 11, 7 },
        { 510, 11, 6 }, { 495, 11, 5 }, { 470, 11, 4 }, { 465, 11, 3 }, { 460, 11, 2 }, { 455, 11, 1 },
        { 450, 11, 0 }, { 440, 10, 2 }, { 418, 10, 1 },
    };
    long branch = strtol(driver_version, NULL, 10);

    for (size_t i = 0; i < SP_ARRAY_LEN(table); i++) {
        if (branch < table[i].branch)
            continue;
        *ret_major = table[i].major;
        *ret_minor = table[i].minor;
        return true;
    }
    return false;
}

/* Order matters: the first that fits is the first thing to mend. */
static sp_gpu_cause cause_of(const sp_gpu_facts *f)
{
    if (f->wsl && !f->dxg)
        return SP_GPU_WSL_NO_DXG;
    if (f->dxg)
        return *f->library_path ? SP_GPU_PRESENT : SP_GPU_WSL_NO_LIBRARY;
    bool nodes = f->node_count > 0 && f->control_node;
    if (!f->pci_count && !*f->driver_version && !nodes)
        return SP_GPU_NONE;
    if (!*f->driver_version && f->nouveau)
        return SP_GPU_NOUVEAU;
    if (!*f->driver_version)
        return SP_GPU_NO_DRIVER;
    if (!nodes)
        return f->container ? SP_GPU_NO_NODES_IN_CONTAINER : SP_GPU_NO_NODES;
    if (f->denied)
        return SP_GPU_DENIED;
    if (!*f->library_path)
        return SP_GPU_NO_LIBRARY;
    if (*f->library_version && strcmp(f->library_version, f->driver_version) != 0)
        return SP_GPU_MISMATCH;
    /* Within a major version CUDA's minor versions are compatible, so only the major counts. */
    if (f->driver_cuda_major && f->runtime_major > f->driver_cuda_major)
        return SP_GPU_DRIVER_TOO_OLD;
    return SP_GPU_PRESENT;
}

static void write_reason(const sp_gpu_facts *f, sp_gpu_cause cause, char *text, size_t text_bytes)
{
    switch (cause) {
    case SP_GPU_PRESENT:
        snprintf(text, text_bytes, "%s", "");
        break;
    case SP_GPU_NONE:
        snprintf(text, text_bytes, "no NVIDIA GPU: none on the PCI bus, no /dev/dxg");
        break;
    case SP_GPU_NO_DRIVER:
        snprintf(text, text_bytes, "%s%s, but no NVIDIA driver is loaded", *f->pci_address ? "a GPU is at " : "/dev/nvidia* are there",
                 f->pci_address);
        break;
    case SP_GPU_NOUVEAU:
        snprintf(text, text_bytes, "the GPU at %s is driven by nouveau, which has no CUDA", f->pci_address);
        break;
    case SP_GPU_NO_NODES:
    case SP_GPU_NO_NODES_IN_CONTAINER:
        snprintf(text, text_bytes, "driver %s is loaded, but %s is missing%s", f->driver_version,
                 f->node_count ? "/dev/nvidiactl" : "/dev/nvidia0",
                 cause == SP_GPU_NO_NODES_IN_CONTAINER ? " in this container" : "");
        break;
    case SP_GPU_DENIED:
        snprintf(text, text_bytes, "this user may not open /dev/nvidia*");
        break;
    case SP_GPU_NO_LIBRARY:
        snprintf(text, text_bytes, "driver %s is loaded, but libcuda.so.1 is missing", f->driver_version);
        break;
    case SP_GPU_MISMATCH:
        snprintf(text, text_bytes, "the loaded driver is %s, libcuda.so.1 is of %s", f->driver_version, f->library_version);
        break;
    case SP_GPU_DRIVER_TOO_OLD:
        snprintf(text, text_bytes, "driver %s serves CUDA up to %d.%d, the installed runtime is CUDA %d", f->driver_version,
                 f->driver_cuda_major, f->driver_cuda_minor, f->runtime_major);
        break;
    case SP_GPU_WSL_NO_DXG:
        snprintf(text, text_bytes, "this is WSL, but there is no /dev/dxg");
        break;
    case SP_GPU_WSL_NO_LIBRARY:
        snprintf(text, text_bytes, "/dev/dxg is there, but %s/libcuda.so.1 is missing", WSL_LIBRARIES);
        break;
    case SP_GPU_CAUSE_COUNT:
        break;
    }
}

static const struct {
    const char *name, *remedy;
} causes[] = {
    [SP_GPU_PRESENT] = { "present", "" },
    [SP_GPU_NONE] = { "no_gpu", "" },
    [SP_GPU_NO_DRIVER] = { "no_driver", "install NVIDIA's driver (Debian: apt install nvidia-driver) and reboot" },
    [SP_GPU_NOUVEAU] = { "nouveau", "install NVIDIA's driver, which replaces nouveau (Debian: apt install nvidia-driver), and reboot" },
    [SP_GPU_NO_NODES] = { "no_device_nodes", "run `nvidia-modprobe -c 0 -u` as root, or nvidia-smi once" },
    [SP_GPU_NO_NODES_IN_CONTAINER] = { "not_given_to_container",
                                       "start the container with its GPUs (docker run --gpus all, NVIDIA Container Toolkit)" },
    [SP_GPU_DENIED] = { "denied", "add the user to the group that owns /dev/nvidia* (often video), then log in again" },
    [SP_GPU_NO_LIBRARY] = { "no_driver_library",
                            "install libcuda1 of the same version; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility" },
    [SP_GPU_MISMATCH] = { "driver_library_mismatch", "the driver was updated while it ran: reboot, or reload the nvidia module" },
    [SP_GPU_DRIVER_TOO_OLD] = { "driver_too_old", "update the driver, or install a CUDA runtime that it serves" },
    [SP_GPU_WSL_NO_DXG] = { "wsl_no_gpu", "GPUs need WSL 2: `wsl --update`, `wsl --set-version DISTRIBUTION 2`" },
    [SP_GPU_WSL_NO_LIBRARY] = { "wsl_no_driver",
                                "install NVIDIA's driver in Windows (not in WSL), then `wsl --shutdown` and start again" },
};
_Static_assert(SP_ARRAY_LEN(causes) == SP_GPU_CAUSE_COUNT, "each cause has a name and a remedy");

void sp_gpu_judge(const sp_gpu_facts *facts, sp_gpu_finding *ret_finding)
{
    sp_gpu_finding finding = { .cause = cause_of(facts) };

    write_reason(facts, finding.cause, finding.reason, sizeof(finding.reason));
    finding.remedy = causes[finding.cause].remedy;
    *ret_finding = finding;
}

const char *sp_gpu_cause_name(sp_gpu_cause cause)
{
    return causes[cause].name;
}
