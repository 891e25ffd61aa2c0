/* SPDX-License-Identifier: Apache-2.0
 * The session options of providers: what of ours becomes what of the library's. "cuda" and "tensorrt" go through key-value options,
 * so that no struct of the library's is laid out here.
 *
 *   cuda       use_tf32=0               TF32 rounds inputs to 10 bits of mantissa: not the same answer as the CPU's
 *              cudnn_conv_algo_search   HEURISTIC: EXHAUSTIVE times every algorithm at the first run of each shape
 *              prefer_nhwc=1            for models in half precision, whose tensor cores want it; else the layout stays
 *              arena_extend_strategy    kSameAsRequested: by what is asked for, not by powers of two
 *              gpu_mem_limit            of the arena alone: context, cuDNN and cuBLAS workspaces come on top
 *              user_compute_stream      the caller's; fixed here
 *              enable_cuda_graph        (graphs.c)
 *   tensorrt   never run by us: there is no library of its to be had here. What it leaves goes to cuda, not to the CPU */
#include "ort.h"
#include "peek.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS_MAX 24
#define SHAPES_BYTES 4096

/* Key-value pairs in the making. Values that are no literals lie in `text`. */
typedef struct pairs {
    const char *keys[OPTIONS_MAX], *values[OPTIONS_MAX];
    size_t count;
    char text[OPTIONS_MAX][32];
} pairs;

static void add(pairs *to, const char *key, const char *value)
{
    if (to->count == OPTIONS_MAX)
        abort(); /* the calls below are counted: ours */
    to->keys[to->count] = key;
    to->values[to->count++] = value;
}

static void add_number(pairs *to, const char *key, unsigned long long value)
{
    char *text = to->text[to->count];
    (void)snprintf(text, sizeof(to->text[0]), "%llu", value);
    add(to, key, text);
}

static bool is_half(const sp_engine_load_options *options, const ort_peek *peek)
{
    return peek->half || strcmp(plug_option(options, "precision"), "f16") == 0;
}

static OrtStatus *append_cuda(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options,
                              const ort_peek *peek, bool graphs)
{
    OrtCUDAProviderOptionsV2 *cuda = NULL;
    pairs list = { .count = 0 };
    bool exhaustive = strcmp(plug_option(options, "conv_search"), "exhaustive") == 0;
    OrtStatus *st = lib->api->CreateCUDAProviderOptions(&cuda);
    if (st)
        return st;
    add_number(&list, "device_id", (unsigned long long)options->device_index);
    add(&list, "use_tf32", "0");
    add(&list, "cudnn_conv_algo_search", exhaustive ? "EXHAUSTIVE" : "HEURISTIC");
    if (is_half(options, peek))
        add(&list, "prefer_nhwc", "1");
    add(&list, "arena_extend_strategy", "kSameAsRequested");
    if (options->device_memory_limit_bytes)
        add_number(&list, "gpu_mem_limit", options->device_memory_limit_bytes);
    if (graphs)
        add(&list, "enable_cuda_graph", "1");
    st = lib->api->UpdateCUDAProviderOptions(cuda, list.keys, list.values, list.count);
    if (!st && options->compute_stream) /* after the others, which would set it back */
        st = lib->api->UpdateCUDAProviderOptionsWithValue(cuda, "user_compute_stream", options->compute_stream);
    if (!st)
        st = lib->api->SessionOptionsAppendExecutionProvider_CUDA_V2(so, cuda);
    lib->api->ReleaseCUDAProviderOptions(cuda);
    return st;
}

/* --- TensorRT --------------------------------------------------------------------------------------------------------- */

/* "x:4x3x224x224,mask:4x10" for a batch of `rows`; false when another dimension than the first is open, and then profiles are left
 * to the library, which makes them of the shapes that come. */
static bool shapes_for(const ort_peek *peek, int rows, char *text, size_t size)
{
    size_t length = 0;
    bool open = false;
    for (int i = 0; i < peek->input_count; i++) {
        const ort_peek_input *input = &peek->inputs[i];
        length += (size_t)snprintf(text + length, size - length, "%s%s:", i ? "," : "", input->name);
        for (int d = 0; d < input->rank && length < size; d++) {
            int64_t dim = input->dims[d];
            if (dim < 0 && d)
                return false;
            open |= dim < 0;
            length += (size_t)snprintf(text + length, size - length, "%s%lld", d ? "x" : "", dim < 0 ? (long long)rows : (long long)dim);
        }
        if (length >= size || !input->rank)
            return false;
    }
    return open;
}

static OrtStatus *append_tensorrt(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options,
                                  const ort_peek *peek)
{
    static const char *const keys[] = { "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes" };
    static const int rows[] = { 1, 4, ORT_TENSORRT_ROWS };
    const char *directory = plug_option(options, "cache_directory"), *workspace = plug_option(options, "workspace_bytes");
    OrtTensorRTProviderOptionsV2 *trt = NULL;
    pairs list = { .count = 0 };
    char (*shapes)[SHAPES_BYTES] = malloc(3 * sizeof(*shapes));
    if (!shapes)
        return lib->api->CreateStatus(ORT_FAIL, "out of memory for a provider's options");
    add_number(&list, "device_id", (unsigned long long)options->device_index);
    if (is_half(options, peek))
        add(&list, "trt_fp16_enable", "1");
    if (strcmp(plug_option(options, "precision"), "i8") == 0)
        add(&list, "trt_int8_enable", "1"); /* scales are the model's own (QDQ): there is no calibration table */
    if (*workspace)
        add(&list, "trt_max_workspace_size", workspace);
    if (*directory) {
        add(&list, "trt_engine_cache_enable", "1");
        add(&list, "trt_engine_cache_path", directory);
        add(&list, "trt_timing_cache_enable", "1");
        add(&list, "trt_timing_cache_path", directory);
    }
    bool known = true;
    for (int i = 0; i < 3 && known; i++)
        known = shapes_for(peek, rows[i], shapes[i], sizeof(shapes[i]));
    for (int i = 0; i < 3 && known; i++)
        add(&list, keys[i], shapes[i]);
    OrtStatus *st = lib->api->CreateTensorRTProviderOptions(&trt);
    if (!st)
        st = lib->api->UpdateTensorRTProviderOptions(trt, list.keys, list.values, list.count);
    if (!st && options->compute_stream)
        st = lib->api->UpdateTensorRTProviderOptionsWithValue(trt, "user_compute_stream", options->compute_stream);
    if (!st)
        st = lib->api->SessionOptionsAppendExecutionProvider_TensorRT_V2(so, trt);
    if (trt)
        lib->api->ReleaseTensorRTProviderOptions(trt);
    free(shapes);
    return st;
}

sp_engine_status ort_provider_append(const ort_library *lib, OrtSessionOptions *so, const sp_engine_load_options *options,
                                     bool graphs, sp_engine_error *reterr)
{
    const char *name = options->provider ? options->provider : "cpu";
    bool tensorrt = strcmp(name, "tensorrt") == 0;
    if (strcmp(name, "cpu") == 0)
        return SP_ENGINE_OK;
    if (!tensorrt && strcmp(name, "cuda") != 0)
        return ort_fail(reterr, SP_ENGINE_INVALID, "unknown provider '%s' (cpu, cuda, tensorrt)", name);
    ort_peek *peek = malloc(sizeof(*peek));
    if (!peek)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for a provider's options");
    if (options->path)
        ort_peek_file(options->path, peek);
    else
        ort_peek_bytes(options->bytes, (size_t)options->byte_count, peek);
    OrtStatus *st = tensorrt ? append_tensorrt(lib, so, options, peek) : NULL;
    if (!st)
        st = append_cuda(lib, so, options, peek, graphs);
    free(peek);
    sp_engine_status s = ort_check(lib, st, ORT_PHASE_LOAD, reterr);
    if (s && s != SP_ENGINE_NOMEM)
        return SP_ENGINE_UNSUPPORTED; /* not present, whatever its code */
    if (!s && strcmp(plug_option(options, "host_nodes"), "refuse") == 0)
        s = ort_check(lib, lib->api->AddSessionConfigEntry(so, "session.disable_cpu_ep_fallback", "1"), ORT_PHASE_LOAD, reterr);
    return s;
}
