/* SPDX-License-Identifier: Apache-2.0
 * The engine's peer on a GPU: plain ONNX Runtime, nothing of Spillway's around it but memory, stream and events. One model, its
 * tensors on the device, CUDA's provider with f32 as f32 (no TF32), enqueued on one stream without waiting, as our own engine does.
 * What our server reaches with the same library and model is compared with these rows.
 *
 *   bench-gpu-ort MODEL [repeats [BATCH ...]]        one JSON row a batch (gpu.h); batches 1, 8, 32
 *
 * libonnxruntime.so.1, or the file that SPILLWAY_ONNXRUNTIME names. Floor: the model's file and the inputs, read once. That is what a
 * batch of one is near to; large batches are bound by arithmetic, and their share says little. */
#include "gpu.h"

#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <sys/stat.h>

#define PORTS_MOST 16

typedef struct peer {
    gpu *g;
    const OrtApi *api;
    OrtEnv *env;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *names;
} peer;

static void need(const peer *p, OrtStatus *status, const char *what)
{
    if (!status)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, p->api->GetErrorMessage(status));
    exit(1);
}

static const OrtApi *open_library(void)
{
    const char *path = getenv("SPILLWAY_ONNXRUNTIME");
    void *library = dlopen(path ? path : "libonnxruntime.so.1", RTLD_NOW);
    const OrtApiBase *(*base)(void) = library ? (const OrtApiBase *(*)(void))(uintptr_t)dlsym(library, "OrtGetApiBase") : NULL;
    const OrtApi *api = base ? base()->GetApi(ORT_API_VERSION) : NULL;
    if (!api) {
        const char *why = dlerror();
        (void)fprintf(stderr, "no ONNX Runtime: %s\n", why ? why : "it is older than this program's header");
        exit(77);
    }
    return api;
}

static void open_session(peer *p, const char *model)
{
    static const char *const keys[] = { "device_id", "use_tf32", "cudnn_conv_algo_search", "arena_extend_strategy" };
    static const char *const values[] = { "0", "0", "EXHAUSTIVE", "kSameAsRequested" };
    OrtSessionOptions *options = NULL;
    OrtCUDAProviderOptionsV2 *cuda = NULL;
    need(p, p->api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "peer", &p->env), "CreateEnv");
    need(p, p->api->CreateSessionOptions(&options), "CreateSessionOptions");
    need(p, p->api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL), "SetSessionGraphOptimizationLevel");
    need(p, p->api->AddSessionConfigEntry(options, "session.disable_cpu_ep_fallback", "1"), "AddSessionConfigEntry");
    need(p, p->api->CreateCUDAProviderOptions(&cuda), "CreateCUDAProviderOptions");
    need(p, p->api->UpdateCUDAProviderOptions(cuda, keys, values, sizeof(keys) / sizeof(*keys)), "UpdateCUDAProviderOptions");
    need(p, p->api->UpdateCUDAProviderOptionsWithValue(cuda, "user_compute_stream", p->g->api->stream_raw(p->g->stream)), "user_compute_stream");
    need(p, p->api->SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda), "CUDA provider");
    need(p, p->api->CreateSession(p->env, model, options, &p->session), model);
    p->api->ReleaseCUDAProviderOptions(cuda);
    p->api->ReleaseSessionOptions(options);
    need(p, p->api->CreateMemoryInfo("Cuda", OrtDeviceAllocator, 0, OrtMemTypeDefault, &p->memory), "CreateMemoryInfo");
    need(p, p->api->GetAllocatorWithDefaultOptions(&p->names), "GetAllocatorWithDefaultOptions");
}

/* Binds input i, for `batch` items, to zeros on the device; its bytes. */
static size_t bind_input(peer *p, OrtIoBinding *binding, size_t i, int64_t batch, void **ret_device, OrtValue **ret_value)
{
    sp_error error = { 0 };
    OrtTypeInfo *info = NULL;
    const OrtTensorTypeAndShapeInfo *shape = NULL;
    ONNXTensorElementDataType type;
    int64_t dims[8];
    size_t rank = 0, bytes;
    char *name = NULL;
    need(p, p->api->SessionGetInputTypeInfo(p->session, i, &info), "SessionGetInputTypeInfo");
    need(p, p->api->CastTypeInfoToTensorInfo(info, &shape), "CastTypeInfoToTensorInfo");
    need(p, shape ? p->api->GetTensorElementType(shape, &type) : p->api->CreateStatus(ORT_FAIL, "an input is no tensor"), "input");
    need(p, p->api->GetDimensionsCount(shape, &rank), "GetDimensionsCount");
    bytes = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2 : 0;
    need(p, bytes && rank <= 8 ? p->api->GetDimensions(shape, dims, rank) : p->api->CreateStatus(ORT_FAIL, "an input is not of floats"), "input");
    for (size_t d = 0; d < rank; d++) {
        dims[d] = dims[d] > 0 ? dims[d] : d == 0 ? batch : -1;
        need(p, dims[d] > 0 ? NULL : p->api->CreateStatus(ORT_FAIL, "only the first dimension of an input may be open"), "input");
        bytes *= (size_t)dims[d];
    }
    p->api->ReleaseTypeInfo(info);
    *ret_device = gpu_reserve(p->g, bytes);
    gpu_need(p->g->api->fill(p->g->stream, *ret_device, 0, bytes, &error), &error);
    need(p, p->api->CreateTensorWithDataAsOrtValue(p->memory, *ret_device, bytes, dims, rank, type, ret_value), "CreateTensorWithDataAsOrtValue");
    need(p, p->api->SessionGetInputName(p->session, i, p->names, &name), "SessionGetInputName");
    need(p, p->api->BindInput(binding, name, *ret_value), "BindInput");
    need(p, p->api->AllocatorFree(p->names, name), "AllocatorFree");
    return bytes;
}

static void time_runs(peer *p, OrtIoBinding *binding, int repeats, double *ret_median_us, double *ret_best_us)
{
    const sp_cuda_api *api = p->g->api;
    sp_error error = { 0 };
    OrtRunOptions *options = NULL;
    float *ms = malloc(sizeof(*ms) * (size_t)repeats);
    if (!ms)
        exit(1);
    need(p, p->api->CreateRunOptions(&options), "CreateRunOptions");
    need(p, p->api->AddRunConfigEntry(options, "disable_synchronize_execution_providers", "1"), "AddRunConfigEntry");
    for (int i = -(repeats < GPU_WARM_UP ? 1 : GPU_WARM_UP); i < repeats; i++) {
        gpu_need(api->event_record(p->g->from, p->g->stream, &error), &error);
        need(p, p->api->RunWithBinding(p->session, options, binding), "RunWithBinding");
        gpu_need(api->event_record(p->g->to, p->g->stream, &error), &error);
        gpu_need(api->stream_sync(p->g->stream, &error), &error);
        if (i >= 0)
            gpu_need(api->event_elapsed_ms(p->g->from, p->g->to, &ms[i], &error), &error);
    }
    p->api->ReleaseRunOptions(options);
    qsort(ms, (size_t)repeats, sizeof(*ms), gpu_by_size);
    *ret_median_us = 1e3 * (double)ms[repeats / 2];
    *ret_best_us = 1e3 * (double)ms[0];
    free(ms);
}

static void run(peer *p, const char *model, int repeats, int64_t batch)
{
    void *device[PORTS_MOST] = { 0 };
    OrtValue *values[PORTS_MOST] = { 0 };
    OrtIoBinding *binding = NULL;
    size_t inputs = 0, outputs = 0;
    struct stat file;
    char name[64];
    double median_us, best_us, bytes = stat(model, &file) == 0 ? (double)file.st_size : 0;
    need(p, p->api->CreateIoBinding(p->session, &binding), "CreateIoBinding");
    need(p, p->api->SessionGetInputCount(p->session, &inputs), "SessionGetInputCount");
    need(p, p->api->SessionGetOutputCount(p->session, &outputs), "SessionGetOutputCount");
    need(p, inputs <= PORTS_MOST ? NULL : p->api->CreateStatus(ORT_FAIL, "too many inputs"), "model");
    for (size_t i = 0; i < inputs; i++)
        bytes += (double)bind_input(p, binding, i, batch, &device[i], &values[i]);
    for (size_t i = 0; i < outputs; i++) {
        char *output = NULL;
        need(p, p->api->SessionGetOutputName(p->session, i, p->names, &output), "SessionGetOutputName");
        need(p, p->api->BindOutputToDevice(binding, output, p->memory), "BindOutputToDevice");
        need(p, p->api->AllocatorFree(p->names, output), "AllocatorFree");
    }
    time_runs(p, binding, repeats, &median_us, &best_us);
    (void)snprintf(name, sizeof(name), "plain ONNX Runtime, batch %lld", (long long)batch);
    gpu_row(p->g, "ort", name, repeats, bytes, median_us, best_us);
    p->api->ReleaseIoBinding(binding);
    for (size_t i = 0; i < inputs; i++) {
        p->api->ReleaseValue(values[i]);
        p->g->api->release(p->g->cuda, device[i]);
    }
}

int main(int argc, char **argv)
{
    static const long usual[] = { 1, 8, 32 };
    long repeats = argc > 2 ? strtol(argv[2], NULL, 10) : 200;
    if (argc < 2 || repeats < 1 || repeats > 1 << 20) {
        (void)fprintf(stderr, "usage: bench-gpu-ort MODEL [repeats [BATCH ...]]\n");
        return 2;
    }
    peer p = { .api = open_library() };
    gpu g = gpu_open();
    p.g = &g;
    open_session(&p, argv[1]);
    for (int i = 0; i < (argc > 3 ? argc - 3 : 3); i++) {
        long batch = argc > 3 ? strtol(argv[3 + i], NULL, 10) : usual[i];
        if (batch > 0 && batch <= 4096)
            run(&p, argv[1], (int)repeats, batch);
    }
    p.api->ReleaseMemoryInfo(p.memory);
    p.api->ReleaseSession(p.session);
    p.api->ReleaseEnv(p.env);
    gpu_close(&g);
    return 0;
}
