/* SPDX-License-Identifier: Apache-2.0
 * What this machine has for a GPU, and if it cannot be used, why not: read from files only (/proc, /sys, /dev, library
 * names), so that every cause can be tested on a machine without one. SPILLWAY_PROBE_ROOT=/some/dir puts a directory in
 * front of every path that is looked at.
 * Whether an engine can use the GPU (its own CUDA libraries) is for the engine's probe to say. */
#ifndef SP_CLI_PROBE_H
#define SP_CLI_PROBE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum sp_gpu_cause {
    SP_GPU_PRESENT = 0,
    SP_GPU_NONE,            /* no NVIDIA device on the PCI bus, no /dev/dxg */
    SP_GPU_NO_DRIVER,       /* a device, but no driver for it is loaded */
    SP_GPU_NOUVEAU,         /* a device, held by the nouveau driver, which has no CUDA */
    SP_GPU_NO_NODES,        /* driver loaded, but no /dev/nvidia0 or /dev/nvidiactl (not created yet) */
    SP_GPU_NO_NODES_IN_CONTAINER, /* the same in a container: it was not given the GPU */
    SP_GPU_DENIED,          /* the nodes may not be opened by this user */
    SP_GPU_NO_LIBRARY,      /* driver and nodes, but no libcuda.so.1 */
    SP_GPU_MISMATCH,        /* libcuda is of another driver version than the loaded module */
    SP_GPU_DRIVER_TOO_OLD,  /* the CUDA runtime that is installed needs a newer driver */
    SP_GPU_WSL_NO_DXG,      /* WSL without /dev/dxg: WSL1, or GPU support is off */
    SP_GPU_WSL_NO_LIBRARY,  /* /dev/dxg, but Windows has put no libcuda.so.1 into /usr/lib/wsl/lib */
    SP_GPU_CAUSE_COUNT
} sp_gpu_cause;

typedef struct sp_gpu_facts {
    bool wsl;                  /* this kernel is Microsoft's */
    bool dxg;                  /* /dev/dxg */
    bool container;
    bool nouveau;
    bool denied;
    int pci_count;             /* NVIDIA display and 3D controllers */
    int node_count;            /* /dev/nvidia<number> */
    bool control_node;         /* /dev/nvidiactl */
    char pci_address[32];      /* of the first one */
    char driver_version[32];   /* of the loaded kernel module; "" = none, or WSL */
    char library_path[256];    /* libcuda.so.1, without the probe root; "" = not found */
    char library_version[32];  /* in the name that it links to; "" = the name says none */
    int runtime_major;         /* highest libcudart.so.<n> in the system's directories; 0 = none */
    int driver_cuda_major, driver_cuda_minor; /* newest CUDA that the driver serves, by its branch; 0 = not known */
} sp_gpu_facts;

typedef struct sp_gpu_finding {
    sp_gpu_cause cause;
    char reason[192];
    const char *remedy; /* "" when nothing need be done */
} sp_gpu_finding;

/* Reads the machine. `root` NULL or "" = the real one. Cannot fail: what cannot be read is not there. */
void sp_gpu_facts_read(const char *root, sp_gpu_facts *ret_facts);

/* The first cause that fits, in the order in which a person would have to mend them. Pure. */
void sp_gpu_judge(const sp_gpu_facts *facts, sp_gpu_finding *ret_finding);

/* "present", "no_gpu", "no_driver", ...: stable words for --json. */
const char *sp_gpu_cause_name(sp_gpu_cause cause);

/* Newest CUDA that a driver version ("535.104.05") serves; false = older or newer than what is known here. */
bool sp_gpu_driver_cuda(const char *driver_version, int *ret_major, int *ret_minor);

#endif
