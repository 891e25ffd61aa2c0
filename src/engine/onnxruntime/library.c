/* SPDX-License-Identifier: Apache-2.0
 * ONNX Runtime as a library: found and opened here, its statuses translated here. Linking against it would make a
 * missing file an error of the dynamic linker; opening it makes it a reason that doctor can print. */
#include "ort.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#ifndef ORT_BUILD_LIBDIR
#define ORT_BUILD_LIBDIR ""
#endif

#define LIBRARY_FILE "libonnxruntime.so.1"

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static ort_library library;
static bool library_open;

/* The library has one code for most failures at run time, so memory, cancellation and a lost device are told by its
 * words; the list is of 1.16 to 1.31. */
static bool says_any(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcasestr(text, *words))
            return true;
    return false;
}

static sp_engine_status translate(OrtErrorCode code, const char *text, ort_phase phase)
{
    static const char *const memory[] = { "bad_alloc",
                                          "out of memory",
                                          "failed to allocate",
                                          "bad allocation",
                                          "CUDA_ERROR_OUT_OF_MEMORY",
                                          "CUDNN_STATUS_ALLOC_FAILED",
                                          NULL };
    static const char *const cancelled[] = { "terminate flag", NULL };
    /* cudaError_t numbers after which every later call of the process fails: ECC, launch timeout, context destroyed, assert,
     * hardware stack, illegal instruction, misaligned or invalid address, invalid pc, launch failure, unknown. */
    static const char *const lost[] = { "CUDA failure 214", "CUDA failure 700", "CUDA failure 702", "CUDA failure 709",
                                        "CUDA failure 710", "CUDA failure 714", "CUDA failure 715", "CUDA failure 716",
                                        "CUDA failure 717", "CUDA failure 718", "CUDA failure 719", "CUDA failure 999",
                                        "illegal memory access", "unspecified launch failure", "fallen off the bus",
                                        "illegal instruction", "misaligned address", "device-side assert", "uncorrectable ECC",
                                        "launch timed out", "context is destroyed", NULL };
    /* The model is fine; this provider is not to run it. */
    static const char *const elsewhere[] = { "fallback to CPU EP has been explicitly disabled", "use the graph capture feature", NULL };
    if (says_any(text, memory))
        return SP_ENGINE_NOMEM;
    if (says_any(text, cancelled))
        return SP_ENGINE_CANCELLED;
    if (says_any(text, lost))
        return SP_ENGINE_UNAVAILABLE;
    if (says_any(text, elsewhere))
        return SP_ENGINE_UNSUPPORTED;
    switch (code) {
    case ORT_NO_SUCHFILE:
        return SP_ENGINE_NOT_FOUND;
    case ORT_NOT_IMPLEMENTED:
    case ORT_EP_FAIL:
        return SP_ENGINE_UNSUPPORTED;
    case ORT_NO_MODEL:
    case ORT_INVALID_PROTOBUF:
    case ORT_INVALID_GRAPH:
        return SP_ENGINE_CORRUPT;
    case ORT_INVALID_ARGUMENT: /* while loading, the only arguments from outside are in the file */
        return phase == ORT_PHASE_LOAD ? SP_ENGINE_CORRUPT : SP_ENGINE_INVALID;
    case ORT_FAIL:
    case ORT_RUNTIME_EXCEPTION:
        return phase == ORT_PHASE_LOAD ? SP_ENGINE_CORRUPT : SP_ENGINE_INTERNAL;
    default:
        return SP_ENGINE_INTERNAL;
    }
}

/* The runtime that the provider brought into this process, or, before it did, the driver, if somebody else (our CUDA plug-in) has
 * made a context. The calling thread's device is the one that it has used last. */
bool ort_device_memory(uint64_t *ret_free_bytes, uint64_t *ret_total_bytes)
{
    static const struct {
        const char *file, *symbol;
    } sources[] = { { "libcudart.so.13", "cudaMemGetInfo" },
                    { "libcudart.so.12", "cudaMemGetInfo" },
                    { "libcudart.so.11.0", "cudaMemGetInfo" },
                    { "libcuda.so.1", "cuMemGetInfo_v2" } };
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        void *runtime = dlopen(sources[i].file, RTLD_LAZY | RTLD_NOLOAD);
        int (*ask)(size_t *, size_t *) = NULL;
        size_t free_bytes = 0, total_bytes = 0;
        if (!runtime)
            continue;
        *(void **)&ask = dlsym(runtime, sources[i].symbol);
        bool told = ask && ask(&free_bytes, &total_bytes) == 0;
        (void)dlclose(runtime);
        *ret_free_bytes = free_bytes;
        *ret_total_bytes = total_bytes;
        return told;
    }
    return false;
}

/* A CUDA provider that has no memory says what it asked for; what is free, the runtime knows. Without CUDA nothing is added. */
static void append_free_memory(sp_engine_error *reterr)
{
    uint64_t free_bytes, total_bytes;
    if (!ort_device_memory(&free_bytes, &total_bytes))
        return;
    size_t room = sizeof(reterr->message) - 64, length = strnlen(reterr->message, room); /* its end may go */
    (void)snprintf(reterr->message + length, sizeof(reterr->message) - length, "; free %llu MiB of %llu MiB",
                   (unsigned long long)(free_bytes >> 20), (unsigned long long)(total_bytes >> 20));
}

sp_engine_status ort_check(const ort_library *lib, OrtStatus *status, ort_phase phase, sp_engine_error *reterr)
{
    if (!status)
        return SP_ENGINE_OK;
    OrtErrorCode code = lib->api->GetErrorCode(status);
    const char *text = lib->api->GetErrorMessage(status);
    sp_engine_status result = translate(code, text, phase);
    (void)ort_fail(reterr, result, "%s", text);
    if (reterr)
        reterr->origin_code = (int32_t)code;
    if (reterr && result == SP_ENGINE_NOMEM)
        append_free_memory(reterr);
    lib->api->ReleaseStatus(status);
    return result;
}

/* Every failure comes back as a status, so the library need not write lines of its own into our log. */
static void ORT_API_CALL drop_line(void *param, OrtLoggingLevel severity, const char *category, const char *logid,
                                   const char *code_location, const char *message)
{
    (void)param, (void)severity, (void)category, (void)logid, (void)code_location, (void)message;
}

static sp_engine_status start_library(ort_library *lib, const OrtApiBase *base, sp_engine_error *reterr)
{
    (void)snprintf(lib->version, sizeof(lib->version), "%s", base->GetVersionString());
    lib->api = base->GetApi(ORT_API_VERSION);
    if (!lib->api)
        return ort_fail(reterr, SP_ENGINE_UNSUPPORTED,
                        "%s is ONNX Runtime %s; this plug-in needs API %d (1.%d) or newer", lib->path, lib->version,
                        ORT_API_VERSION, ORT_API_VERSION);
    sp_engine_status s = ort_check(
        lib, lib->api->CreateEnvWithCustomLogger(drop_line, NULL, ORT_LOGGING_LEVEL_FATAL, "spillway", &lib->env),
        ORT_PHASE_LOAD, reterr);
    if (s)
        return s;
    s = ort_check(lib, lib->api->DisableTelemetryEvents(lib->env), ORT_PHASE_LOAD, reterr);
    if (!s)
        s = ort_check(lib, lib->api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &lib->host_memory),
                      ORT_PHASE_LOAD, reterr);
    if (s) {
        lib->api->ReleaseEnv(lib->env);
        lib->env = NULL;
    }
    return s;
}

static sp_engine_status open_locked(sp_engine_error *reterr)
{
    char why[512] = LIBRARY_FILE;
    void *handle = plug_library_open("SPILLWAY_ONNXRUNTIME", LIBRARY_FILE, ORT_BUILD_LIBDIR, why, sizeof(why));
    if (!handle)
        return ort_fail(reterr, SP_ENGINE_UNSUPPORTED, "library missing: %s", why);
    const OrtApiBase *(*get_base)(void) = NULL;
    *(void **)&get_base = dlsym(handle, "OrtGetApiBase");
    if (!get_base)
        return ort_fail(reterr, SP_ENGINE_UNSUPPORTED, LIBRARY_FILE " has no OrtGetApiBase: not ONNX Runtime");
    ort_library fresh = { 0 };
    Dl_info where;
    (void)snprintf(fresh.path, sizeof(fresh.path), "%s",
                   dladdr(*(void **)&get_base, &where) && where.dli_fname ? where.dli_fname : LIBRARY_FILE);
    sp_engine_status s = start_library(&fresh, get_base(), reterr);
    if (s)
        return s;
    library = fresh;
    library_open = true;
    return SP_ENGINE_OK;
}

sp_engine_status ort_library_get(const ort_library **ret_library, sp_engine_error *reterr)
{
    (void)pthread_mutex_lock(&library_lock);
    sp_engine_status s = library_open ? SP_ENGINE_OK : open_locked(reterr);
    (void)pthread_mutex_unlock(&library_lock);
    if (!s)
        *ret_library = &library;
    return s;
}

void ort_library_close(void)
{
    (void)pthread_mutex_lock(&library_lock);
    if (library_open) {
        library.api->ReleaseMemoryInfo(library.host_memory);
        library.api->ReleaseEnv(library.env);
        library_open = false;
    }
    (void)pthread_mutex_unlock(&library_lock);
}

bool ort_library_has(const ort_library *lib, const char *provider)
{
    char **names = NULL;
    int count = 0;
    if (ort_check(lib, lib->api->GetAvailableProviders(&names, &count), ORT_PHASE_LOAD, NULL))
        return false;
    bool found = false;
    for (int i = 0; i < count; i++)
        found = found || strcmp(names[i], provider) == 0;
    (void)ort_check(lib, lib->api->ReleaseAvailableProviders(names, count), ORT_PHASE_LOAD, NULL);
    return found;
}
