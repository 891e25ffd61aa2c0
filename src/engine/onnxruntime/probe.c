/* SPDX-License-Identifier: Apache-2.0
 * Which execution providers this machine has, and of each other one why not. Opens the driver's library at most; no
 * CUDA context is made, so probing is safe in any process. */
#include "ort.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct cuda_state {
    int device_count;
    int driver_version; /* CUDA's number: 12040 = 12.4 */
    char reason[256];   /* "" = usable */
    char remedy[128];
} cuda_state;

/* /dev/nvidia0 ... on Linux proper, /dev/dxg under WSL2. */
static bool has_device_node(bool *ret_wsl)
{
    *ret_wsl = access("/dev/dxg", F_OK) == 0;
    if (*ret_wsl)
        return true;
    DIR *dir = opendir("/dev");
    bool found = false;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));)
        found = strncmp(entry->d_name, "nvidia", 6) == 0 && entry->d_name[6] >= '0' && entry->d_name[6] <= '9';
    if (dir)
        (void)closedir(dir);
    return found;
}

static void *open_driver(bool wsl)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver && wsl)
        driver = dlopen("/usr/lib/wsl/lib/libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return driver;
}

static void ask_driver(void *driver, cuda_state *state)
{
    int (*init)(unsigned) = NULL, (*version)(int *) = NULL, (*count)(int *) = NULL;
    *(void **)&init = dlsym(driver, "cuInit");
    *(void **)&version = dlsym(driver, "cuDriverGetVersion");
    *(void **)&count = dlsym(driver, "cuDeviceGetCount");
    if (!init || !version || !count) {
        (void)snprintf(state->reason, sizeof(state->reason), "libcuda.so.1 is not NVIDIA's driver library");
        return;
    }
    (void)version(&state->driver_version); /* stays 0 when it fails: then it is not shown */
    int code = init(0);
    if (code == 803 || code == 804) /* SYSTEM_DRIVER_MISMATCH, COMPAT_NOT_SUPPORTED_ON_DEVICE */
        (void)snprintf(state->reason, sizeof(state->reason),
                       "driver/CUDA mismatch: libcuda.so.1 and the kernel's driver are of different versions (code %d)",
                       code);
    else if (code == 100) /* NO_DEVICE */
        (void)snprintf(state->reason, sizeof(state->reason), "no GPU: the driver sees none (CUDA_VISIBLE_DEVICES?)");
    else if (code)
        (void)snprintf(state->reason, sizeof(state->reason), "the CUDA driver does not start (cuInit: %d)", code);
    else if (count(&state->device_count) || state->device_count == 0)
        (void)snprintf(state->reason, sizeof(state->reason), "no GPU: the driver counts none");
    if (code == 803 || code == 804)
        (void)snprintf(state->remedy, sizeof(state->remedy), "reboot, or reload the nvidia kernel module");
}

static void probe_cuda(cuda_state *state)
{
    bool wsl = false;
    bool node = has_device_node(&wsl);
    void *driver = open_driver(wsl);
    if (driver) {
        ask_driver(driver, state);
    } else if (node) {
        (void)snprintf(state->reason, sizeof(state->reason), "no driver: a GPU is there, libcuda.so.1 is missing");
        (void)snprintf(state->remedy, sizeof(state->remedy), "%s",
                       wsl ? "install the NVIDIA driver on Windows; it brings /usr/lib/wsl/lib"
                           : "install the NVIDIA driver, or pass the GPU into this container");
    } else {
        (void)snprintf(state->reason, sizeof(state->reason), "no GPU: no /dev/nvidia*, no /dev/dxg, no libcuda.so.1");
    }
    if (driver)
        (void)dlclose(driver); /* the provider opens it again; until then it is not kept */
}

/* CUDA runtimes of a newer major version than the driver's do not start on it. */
static bool runtime_fits(const cuda_state *cuda, const char *needed, char *reason, size_t reason_size)
{
    int major = 0;
    if (sscanf(needed, "libcudart.so.%d", &major) != 1 || !cuda->driver_version || cuda->driver_version / 1000 >= major)
        return true; /* linked statically: the load will tell */
    (void)snprintf(reason, reason_size, "driver/CUDA mismatch: the driver offers CUDA %d.%d, the provider needs %d",
                   cuda->driver_version / 1000, cuda->driver_version % 1000 / 10, major);
    return false;
}

/* A provider's own .so lies beside libonnxruntime and needs libraries of its own; each is opened in turn, and dlopen names the one that
 * is missing. The provider itself is left to ONNX Runtime (needed.c says why). */
static bool provider_file_fits(const ort_library *library, const cuda_state *cuda, const char *file, char *reason, size_t reason_size)
{
    char path[512], names[ORT_NEEDED_MAX][ORT_NEEDED_NAME];
    const char *slash = strrchr(library->path, '/');
    int dir_length = slash ? (int)(slash - library->path) + 1 : 0;
    (void)snprintf(path, sizeof(path), "%.*s%s", dir_length, library->path, file);
    if (access(path, R_OK) != 0) {
        (void)snprintf(reason, reason_size, "library missing: %s is not beside %.150s", file, library->path);
        return false;
    }
    size_t count = ort_needed(path, names);
    if (!count) {
        (void)snprintf(reason, reason_size, "library missing: %.150s is no shared library", path);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!runtime_fits(cuda, names[i], reason, reason_size))
            return false;
        char beside[512 + ORT_NEEDED_NAME]; /* for files that name their own directory ($ORIGIN) */
        (void)snprintf(beside, sizeof(beside), "%.*s%s", dir_length, path, names[i]);
        void *handle = dir_length && access(beside, R_OK) == 0 ? dlopen(beside, RTLD_LAZY | RTLD_LOCAL) : NULL;
        if (!handle)
            handle = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
        if (!handle) {
            const char *why = dlerror();
            (void)snprintf(reason, reason_size, "library missing: %s (%s needs it)", why ? why : names[i], file);
            return false;
        }
        (void)dlclose(handle);
    }
    return true;
}

static void probe_gpu_provider(const ort_library *library, const cuda_state *cuda, const char *ort_name,
                               const char *file, sp_engine_provider *provider)
{
    if (cuda->reason[0]) {
        (void)snprintf(provider->reason, sizeof(provider->reason), "%s", cuda->reason);
        (void)snprintf(provider->remedy, sizeof(provider->remedy), "%s", cuda->remedy);
        return;
    }
    if (cuda->driver_version)
        (void)snprintf(provider->version, sizeof(provider->version), "driver for CUDA %d.%d",
                       cuda->driver_version / 1000, cuda->driver_version % 1000 / 10);
    if (!ort_library_has(library, ort_name)) {
        (void)snprintf(provider->reason, sizeof(provider->reason),
                       "library missing: this ONNX Runtime is built without %s (%s)", ort_name, file);
        (void)snprintf(provider->remedy, sizeof(provider->remedy),
                       "install the GPU build of ONNX Runtime; SPILLWAY_ONNXRUNTIME names its libonnxruntime.so.1");
        return;
    }
    if (!provider_file_fits(library, cuda, file, provider->reason, sizeof(provider->reason)))
        return;
    provider->present = 1;
    provider->device_count = cuda->device_count;
}

void ort_probe_providers(const ort_library *library, sp_engine_probe_result *result)
{
    static const struct {
        const char *name, *ort_name, *file;
    } gpu[] = { { "cuda", "CUDAExecutionProvider", "libonnxruntime_providers_cuda.so" },
                { "tensorrt", "TensorrtExecutionProvider", "libonnxruntime_providers_tensorrt.so" } };
    sp_engine_provider *cpu = &result->providers[result->provider_count++];
    (void)snprintf(cpu->name, sizeof(cpu->name), "cpu");
    cpu->present = 1;
    cpu->device_count = 1;
    cuda_state cuda = { 0 };
    probe_cuda(&cuda);
    for (size_t i = 0; i < sizeof(gpu) / sizeof(gpu[0]); i++) {
        sp_engine_provider *provider = &result->providers[result->provider_count++];
        (void)snprintf(provider->name, sizeof(provider->name), "%s", gpu[i].name);
        probe_gpu_provider(library, &cuda, gpu[i].ort_name, gpu[i].file, provider);
    }
}
