/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for libonnxruntime's GPU build: it hands out the real CPU library's API with the entries of the CUDA and
 * TensorRT providers replaced. "Device" memory is host memory, as it is in the tests' libspillway_cuda_shim.so, and models are
 * computed by the real library's CPU kernels, so answers are the CPU's to the bit.
 *
 *   OrtGetApiBase -> the real table, copied, with
 *      provider options, appending      recorded; nothing reaches the real library
 *      session config entries           recorded; the one that forbids CPU nodes is kept here, since all nodes are the CPU's
 *      CreateMemoryInfo("Cuda")         the host's
 *      run config entries               recorded (graph id, no synchronising)
 *      RunWithBinding                   what a GPU would do wrong, by script; the order of the caller's stream is kept; the rules
 *                                       of CUDA graphs are watched (bindings.c)
 *
 * Over the tests' CUDA (shim/shim.h) a run that is not waited for is computed when its stream comes to it; elsewhere, at once.
 *
 * SPILLWAY_STANDIN_ORT: words of
 *   no_cuda, no_tensorrt    this build has no such provider
 *   host=OP[+OP ...]        nodes of these operators are placed on the CPU
 *   oom@N                   run N (from 1, of the process) has no memory
 *   oom>N                   runs of more than N rows have none
 *   sticky, sticky@N        the next run, or run N, fails as after an illegal access, and so does every later one
 *   load_oom                no session can be made for want of device memory
 * SPILLWAY_STANDIN_ORT_REAL: the real library's file, instead of the one that it was built with.
 * SPILLWAY_STANDIN_ORT_LOG: a file that gets a line for each of: append, session, run, fault (see the calls of note()). */
#include "standin.h"
#include "shim/shim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))

int cuInit(unsigned flags);                                    /* cuda.c: linked, so that a probe finds it in the process */
int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);   /* cudart.c */
void spillway_standin_take(int64_t bytes);

const OrtApi *standin_real;
static OrtApi table;
static atomic_int run_count;
static atomic_bool is_sticky;

/* --- script and record ------------------------------------------------------------------------------------------------ */

static const char *script(void)
{
    const char *words = getenv("SPILLWAY_STANDIN_ORT");
    return words ? words : "";
}

/* The number behind `word`; 0 = it is not there. */
static int word_number(const char *word)
{
    const char *at = strstr(script(), word);
    return at ? (int)strtol(at + strlen(word), NULL, 10) : 0;
}

void standin_note(const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* lines stay whole */
    const char *path = getenv("SPILLWAY_STANDIN_ORT_LOG");
    FILE *file = path && *path ? fopen(path, "ae") : NULL;
    if (!file)
        return;
    va_list arguments;
    va_start(arguments, format);
    (void)pthread_mutex_lock(&lock);
    (void)vfprintf(file, format, arguments);
    (void)fputc('\n', file);
    (void)fclose(file);
    (void)pthread_mutex_unlock(&lock);
    va_end(arguments);
}

/* --- what is known of an object of the library's ---------------------------------------------------------------------- */

static standin_object *objects;
static pthread_mutex_t objects_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list; entries are their users' */

standin_object *standin_find(const void *key, bool make)
{
    (void)pthread_mutex_lock(&objects_lock);
    standin_object *object = objects;
    while (object && object->key != key)
        object = object->next;
    if (!object && make && (object = calloc(1, sizeof(*object)))) {
        object->key = key;
        object->next = objects;
        objects = object;
    }
    (void)pthread_mutex_unlock(&objects_lock);
    return object;
}

void standin_forget(const void *key)
{
    (void)pthread_mutex_lock(&objects_lock);
    for (standin_object **at = &objects; *at; at = &(*at)->next) {
        if ((*at)->key == key) {
            standin_object *gone = *at;
            *at = gone->next;
            free(gone);
            break;
        }
    }
    (void)pthread_mutex_unlock(&objects_lock);
}

/* --- provider options --------------------------------------------------------------------------------------------------- */

/* OrtCUDAProviderOptionsV2 and OrtTensorRTProviderOptionsV2 are opaque to users, so ours are these. */
typedef struct provider_options {
    char text[4096]; /* " key=value key=value", in the order given */
    void *stream;
    bool graphs;
} provider_options;

static OrtStatus *update(provider_options *options, const char *const *keys, const char *const *values, size_t count)
{
    options->text[0] = 0; /* as in the library: what was set before by value stays, by text is replaced */
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(options->text);
        (void)snprintf(options->text + length, sizeof(options->text) - length, " %s=%s", keys[i], values[i]);
        options->graphs |= strcmp(keys[i], "enable_cuda_graph") == 0 && strcmp(values[i], "1") == 0;
    }
    return NULL;
}

static OrtStatus *update_value(provider_options *options, const char *key, void *value)
{
    if (strcmp(key, "user_compute_stream") != 0)
        return standin_real->CreateStatus(ORT_INVALID_ARGUMENT, "the stand-in knows user_compute_stream only");
    options->stream = value;
    return NULL;
}

static OrtStatus *append(OrtSessionOptions *so, const char *name, const char *missing, const provider_options *options)
{
    if (strstr(script(), missing))
        return standin_real->CreateStatus(ORT_NOT_IMPLEMENTED, "CUDA execution provider is either not enabled or not available.");
    standin_object *object = standin_find(so, true);
    if (!object)
        return standin_real->CreateStatus(ORT_FAIL, "out of memory");
    size_t length = strlen(object->providers);
    (void)snprintf(object->providers + length, sizeof(object->providers) - length, "%s%s", length ? "," : "", name);
    object->stream = options->stream;
    object->graphs |= options->graphs;
    standin_note("append %s%s%s", name, options->text, options->stream ? " user_compute_stream=given" : "");
    return NULL;
}

static OrtStatus *ORT_API_CALL create_cuda(OrtCUDAProviderOptionsV2 **out)
{
    *out = calloc(1, sizeof(provider_options));
    return *out ? NULL : standin_real->CreateStatus(ORT_FAIL, "out of memory");
}

static OrtStatus *ORT_API_CALL update_cuda(OrtCUDAProviderOptionsV2 *options, const char *const *keys, const char *const *values,
                                           size_t count)
{
    return update((provider_options *)options, keys, values, count);
}

static OrtStatus *ORT_API_CALL update_cuda_value(OrtCUDAProviderOptionsV2 *options, const char *key, void *value)
{
    return update_value((provider_options *)options, key, value);
}

static void ORT_API_CALL release_cuda(OrtCUDAProviderOptionsV2 *options)
{
    free(options);
}

static OrtStatus *ORT_API_CALL append_cuda(OrtSessionOptions *so, const OrtCUDAProviderOptionsV2 *options)
{
    return append(so, "CUDA", "no_cuda", (const provider_options *)options);
}

static OrtStatus *ORT_API_CALL create_tensorrt(OrtTensorRTProviderOptionsV2 **out)
{
    *out = calloc(1, sizeof(provider_options));
    return *out ? NULL : standin_real->CreateStatus(ORT_FAIL, "out of memory");
}

static OrtStatus *ORT_API_CALL update_tensorrt(OrtTensorRTProviderOptionsV2 *options, const char *const *keys,
                                               const char *const *values, size_t count)
{
    return update((provider_options *)options, keys, values, count);
}

static OrtStatus *ORT_API_CALL update_tensorrt_value(OrtTensorRTProviderOptionsV2 *options, const char *key, void *value)
{
    return update_value((provider_options *)options, key, value);
}

static void ORT_API_CALL release_tensorrt(OrtTensorRTProviderOptionsV2 *options)
{
    free(options);
}

static OrtStatus *ORT_API_CALL append_tensorrt(OrtSessionOptions *so, const OrtTensorRTProviderOptionsV2 *options)
{
    return append(so, "Tensorrt", "no_tensorrt", (const provider_options *)options);
}

static OrtStatus *ORT_API_CALL available(char ***out, int *count)
{
    static char cuda[] = "CUDAExecutionProvider", tensorrt[] = "TensorrtExecutionProvider", cpu[] = "CPUExecutionProvider";
    static char *names[3];
    int n = 0;
    if (!strstr(script(), "no_tensorrt"))
        names[n++] = tensorrt;
    if (!strstr(script(), "no_cuda"))
        names[n++] = cuda;
    names[n++] = cpu;
    *out = names;
    *count = n;
    return NULL;
}

static OrtStatus *ORT_API_CALL release_available(char **names, int count)
{
    (void)names, (void)count;
    return NULL;
}

/* --- sessions ----------------------------------------------------------------------------------------------------------- */

static OrtStatus *ORT_API_CALL session_config(OrtSessionOptions *so, const char *key, const char *value)
{
    standin_object *object = standin_find(so, true);
    if (!object)
        return standin_real->CreateStatus(ORT_FAIL, "out of memory");
    if (strcmp(key, "session.disable_cpu_ep_fallback") == 0) {
        object->no_host = strcmp(value, "1") == 0;
        standin_note("config %s=%s", key, value);
        return NULL;
    }
    return standin_real->AddSessionConfigEntry(so, key, value);
}

static void ORT_API_CALL release_options(OrtSessionOptions *so)
{
    standin_forget(so);
    standin_real->ReleaseSessionOptions(so);
}

static OrtStatus *refuse_session(const standin_object *options)
{
    if (!options || !options->providers[0])
        return NULL;
    if (strstr(script(), "load_oom"))
        return standin_real->CreateStatus(
            ORT_FAIL, "Exception during initialization: bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested "
                      "buffer of size 26214400");
    if (options->no_host && strstr(script(), "host="))
        return standin_real->CreateStatus(
            ORT_FAIL, "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
                      "explicitly disabled by the user.");
    if (options->graphs && strstr(script(), "host="))
        return standin_real->CreateStatus(
            ORT_FAIL, "This session cannot use the graph capture feature as requested by the user  as all compute graph nodes have not "
                      "been partitioned to the CUDAExecutionProvider");
    return NULL;
}

static OrtStatus *note_session(const OrtSessionOptions *so, int64_t bytes, OrtSession *session)
{
    const standin_object *options = standin_find(so, false);
    standin_object *made = standin_find(session, true);
    if (!made)
        return standin_real->CreateStatus(ORT_FAIL, "out of memory");
    if (options) {
        memcpy(made->providers, options->providers, sizeof(made->providers));
        made->stream = options->stream;
        made->graphs = options->graphs;
    }
    if (made->providers[0]) {
        made->device_bytes = bytes;
        spillway_standin_take(bytes);
    }
    standin_note("session %s", made->providers[0] ? made->providers : "CPU");
    return NULL;
}

static OrtStatus *ORT_API_CALL create_session(const OrtEnv *env, const char *path, const OrtSessionOptions *so, OrtSession **out)
{
    OrtStatus *st = refuse_session(standin_find(so, false));
    if (!st)
        st = standin_real->CreateSession(env, path, so, out);
    FILE *file = st ? NULL : fopen(path, "re");
    long bytes = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : 0;
    if (file)
        (void)fclose(file);
    return st ? st : note_session(so, bytes, *out);
}

static OrtStatus *ORT_API_CALL create_session_array(const OrtEnv *env, const void *bytes, size_t size, const OrtSessionOptions *so,
                                                    OrtSession **out)
{
    OrtStatus *st = refuse_session(standin_find(so, false));
    if (!st)
        st = standin_real->CreateSessionFromArray(env, bytes, size, so, out);
    return st ? st : note_session(so, (int64_t)size, *out);
}

static void ORT_API_CALL release_session(OrtSession *session)
{
    const standin_object *object = standin_find(session, false);
    if (object && object->device_bytes)
        spillway_standin_take(-object->device_bytes);
    standin_forget(session);
    standin_graph_forget(session);
    standin_real->ReleaseSession(session);
}

/* The real library's profile says that every node is the CPU's: those that the script does not name are made CUDA's. */
static void rewrite_profile(const char *path)
{
    char *line = NULL, renamed[512];
    size_t capacity = 0;
    const char *host = strstr(script(), "host=");
    (void)snprintf(renamed, sizeof(renamed), "%s.new", path);
    FILE *from = fopen(path, "re"), *to = fopen(renamed, "we");
    while (from && to && getline(&line, &capacity, from) >= 0) {
        char *provider = strstr(line, "CPUExecutionProvider"), *name = strstr(line, "\"op_name\" : \"");
        char op[64] = "";
        if (name)
            (void)sscanf(name, "\"op_name\" : \"%63[^\"]", op);
        if (provider && !(host && *op && strstr(host, op)))
            (void)fprintf(to, "%.*sCUDA%s", (int)(provider - line), line, provider + 3);
        else
            (void)fputs(line, to);
    }
    free(line);
    if (from)
        (void)fclose(from);
    if (to && fclose(to) == 0)
        (void)rename(renamed, path);
}

static OrtStatus *ORT_API_CALL end_profiling(OrtSession *session, OrtAllocator *allocator, char **out)
{
    const standin_object *object = standin_find(session, false);
    OrtStatus *st = standin_real->SessionEndProfiling(session, allocator, out);
    if (!st && object && object->providers[0])
        rewrite_profile(*out);
    return st;
}

/* --- memory ------------------------------------------------------------------------------------------------------------- */

static OrtStatus *ORT_API_CALL memory_info(const char *name, enum OrtAllocatorType type, int id, enum OrtMemType kind,
                                           OrtMemoryInfo **out)
{
    if (strcmp(name, "Cuda") == 0)
        return standin_real->CreateCpuMemoryInfo(type, kind, out);
    return standin_real->CreateMemoryInfo(name, type, id, kind, out);
}

/* --- runs --------------------------------------------------------------------------------------------------------------- */

static OrtStatus *ORT_API_CALL run_config(OrtRunOptions *options, const char *key, const char *value)
{
    standin_object *object = standin_find(options, true);
    if (!object)
        return standin_real->CreateStatus(ORT_FAIL, "out of memory");
    if (strcmp(key, "gpu_graph_id") == 0)
        object->graph_id = (int)strtol(value, NULL, 10) + 1; /* 0 = not given */
    else if (strcmp(key, "disable_synchronize_execution_providers") == 0)
        object->no_sync = strcmp(value, "1") == 0;
    else
        return standin_real->AddRunConfigEntry(options, key, value);
    return NULL;
}

static void ORT_API_CALL release_run_options(OrtRunOptions *options)
{
    standin_forget(options);
    standin_real->ReleaseRunOptions(options);
}

/* The words are those that 1.31's CUDA provider makes. */
static OrtStatus *go_wrong(int64_t rows)
{
    int number = atomic_fetch_add(&run_count, 1) + 1, most = word_number("oom>");
    const char *sticky = strstr(script(), "sticky");
    if (sticky && (sticky[strlen("sticky")] != '@' || number == word_number("sticky@")))
        atomic_store(&is_sticky, true);
    if (atomic_load(&is_sticky)) {
        standin_note("fault sticky");
        return standin_real->CreateStatus(ORT_FAIL,
                                          "Non-zero status code returned while running Conv node. Name:'conv' Status Message: CUDA "
                                          "error cudaErrorIllegalAddress:an illegal memory access was encountered");
    }
    if (number == word_number("oom@") || (most && rows > most)) {
        standin_note("fault oom rows=%lld", (long long)rows);
        return standin_real->CreateStatus(ORT_RUNTIME_EXCEPTION,
                                          "Non-zero status code returned while running Conv node. Name:'conv' Status Message: "
                                          "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory "
                                          "for requested buffer of size 104857600");
    }
    return NULL;
}

/* A run that is to be waited for by nobody but the stream: it is computed when the stream comes to it. */
typedef struct later {
    OrtSession *session;
    OrtRunOptions *options;
    OrtIoBinding *binding;
} later;

static void run_later(void *argument)
{
    later *l = argument;
    OrtStatus *st = standin_real->RunWithBinding(l->session, l->options, l->binding);
    if (st) {
        standin_note("fault in a stream: %s", standin_real->GetErrorMessage(st));
        standin_real->ReleaseStatus(st);
    }
    standin_real->ReleaseIoBinding(l->binding);
    standin_real->ReleaseRunOptions(l->options);
    free(l);
}

static OrtStatus *enqueue(const sp_shim_control *shim, OrtSession *session, const standin_object *bound, void *stream)
{
    later *l = calloc(1, sizeof(*l));
    OrtStatus *st = l ? standin_binding_copy(session, bound, &l->binding) : standin_real->CreateStatus(ORT_FAIL, "out of memory");
    if (!st)
        st = standin_real->CreateRunOptions(&l->options);
    if (!st) {
        l->session = session;
        int code = shim->enqueue(stream, run_later, l);
        if (!code)
            return NULL;
        char text[64];
        (void)snprintf(text, sizeof(text), "CUDA failure %d: cudaLaunchKernel", code);
        st = standin_real->CreateStatus(ORT_FAIL, text);
    }
    if (l && l->binding)
        standin_real->ReleaseIoBinding(l->binding);
    if (l && l->options)
        standin_real->ReleaseRunOptions(l->options);
    free(l);
    return st;
}

/* With the tests' CUDA in the process the caller's stream is one of its: a run is behind what is enqueued there. */
static OrtStatus *run_on(OrtSession *session, const OrtRunOptions *options, const OrtIoBinding *binding, void *stream, bool wait,
                         const standin_object *bound)
{
    const sp_shim_control *shim = stream ? sp_shim() : NULL;
    if (shim && !wait && bound->ports && bound->on_device == bound->ports)
        return enqueue(shim, session, bound, stream);
    int code = shim ? shim->sync(stream) : 0;
    if (code)
        return standin_real->CreateStatus(ORT_FAIL, "CUDA failure 719: unspecified launch failure");
    return standin_real->RunWithBinding(session, options, binding);
}

static OrtStatus *ORT_API_CALL run(OrtSession *session, const OrtRunOptions *options, const OrtIoBinding *binding)
{
    const standin_object *about = standin_find(session, false);
    if (!about || !about->providers[0])
        return standin_real->RunWithBinding(session, options, binding);
    standin_object none = { 0 }, *asked = standin_find(options, false), *bound = standin_find(binding, false);
    asked = asked ? asked : &none;
    bound = bound ? bound : &none;
    standin_note("run rows=%lld graph=%d sync=%d device=%d/%d", (long long)bound->rows, asked->graph_id - 1, !asked->no_sync,
                 bound->on_device, bound->ports);
    OrtStatus *st = go_wrong(bound->rows);
    if (!st && about->graphs)
        st = standin_graph_check(session, asked->graph_id - 1, bound);
    return st ? st : run_on(session, options, binding, about->stream, !asked->no_sync, bound);
}

/* --- the way in --------------------------------------------------------------------------------------------------------- */

static const OrtApiBase *real_base;

static void open_real(void)
{
    const char *path = getenv("SPILLWAY_STANDIN_ORT_REAL");
    void *handle = dlopen(path && *path ? path : STANDIN_REAL_FILE, RTLD_NOW | RTLD_LOCAL);
    const OrtApiBase *(*get)(void) = NULL;
    if (handle)
        *(void **)&get = dlsym(handle, "OrtGetApiBase");
    if (!get || !(standin_real = get()->GetApi(ORT_API_VERSION)))
        return;
    real_base = get();
    table = *standin_real;
    table.CreateCUDAProviderOptions = create_cuda;
    table.UpdateCUDAProviderOptions = update_cuda;
    table.UpdateCUDAProviderOptionsWithValue = update_cuda_value;
    table.ReleaseCUDAProviderOptions = release_cuda;
    table.SessionOptionsAppendExecutionProvider_CUDA_V2 = append_cuda;
    table.CreateTensorRTProviderOptions = create_tensorrt;
    table.UpdateTensorRTProviderOptions = update_tensorrt;
    table.UpdateTensorRTProviderOptionsWithValue = update_tensorrt_value;
    table.ReleaseTensorRTProviderOptions = release_tensorrt;
    table.SessionOptionsAppendExecutionProvider_TensorRT_V2 = append_tensorrt;
    table.GetAvailableProviders = available;
    table.ReleaseAvailableProviders = release_available;
    table.AddSessionConfigEntry = session_config;
    table.ReleaseSessionOptions = release_options;
    table.CreateSession = create_session;
    table.CreateSessionFromArray = create_session_array;
    table.ReleaseSession = release_session;
    table.SessionEndProfiling = end_profiling;
    table.CreateMemoryInfo = memory_info;
    table.AddRunConfigEntry = run_config;
    table.ReleaseRunOptions = release_run_options;
    table.RunWithBinding = run;
    standin_bindings(&table);
    (void)cuInit(0);
    size_t unused[2];
    (void)cudaMemGetInfo(&unused[0], &unused[1]);
}

static const OrtApi *ORT_API_CALL get_api(uint32_t version)
{
    return version == ORT_API_VERSION && standin_real ? &table : NULL;
}

static const char *ORT_API_CALL get_version(void)
{
    return real_base ? real_base->GetVersionString() : "0";
}

VISIBLE const OrtApiBase *ORT_API_CALL OrtGetApiBase(void)
{
    static const OrtApiBase base = { get_api, get_version };
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, open_real);
    return &base;
}
