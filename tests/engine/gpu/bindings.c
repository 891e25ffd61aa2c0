/* SPDX-License-Identifier: Apache-2.0
 * What is bound, followed; and what a captured CUDA graph demands: the same buffers and the same thread at each replay. The real
 * library would read and write the old buffers in silence, the stand-in refuses. */
#include "standin.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the captures */

static OrtStatus *(ORT_API_CALL *memory_info)(const char *, enum OrtAllocatorType, int, enum OrtMemType, OrtMemoryInfo **);

/* An own mark on the objects that stand for device memory: a record whose `on_device` is 1. */
static OrtStatus *ORT_API_CALL marked_memory_info(const char *name, enum OrtAllocatorType type, int id, enum OrtMemType kind,
                                                  OrtMemoryInfo **out)
{
    OrtStatus *st = memory_info(name, type, id, kind, out);
    standin_object *mark = !st && strcmp(name, "Cuda") == 0 ? standin_find(*out, true) : NULL;
    if (mark)
        mark->on_device = 1;
    return st;
}

static void ORT_API_CALL release_memory_info(OrtMemoryInfo *info)
{
    standin_forget(info);
    standin_real->ReleaseMemoryInfo(info);
}

static OrtStatus *ORT_API_CALL tensor_over(const OrtMemoryInfo *info, void *data, size_t size, const int64_t *shape, size_t rank,
                                           ONNXTensorElementDataType type, OrtValue **out)
{
    OrtStatus *st = standin_real->CreateTensorWithDataAsOrtValue(info, data, size, shape, rank, type, out);
    standin_object *mark = !st && standin_find(info, false) ? standin_find(*out, true) : NULL;
    if (mark)
        mark->on_device = 1;
    return st;
}

static void ORT_API_CALL release_value(OrtValue *value)
{
    standin_forget(value);
    standin_real->ReleaseValue(value);
}

/* The first dimension; 1 for a scalar. */
static int64_t rows_of(const OrtValue *value)
{
    OrtTensorTypeAndShapeInfo *shape = NULL;
    int64_t dims[16] = { 1 };
    size_t rank = 0;
    if (standin_real->GetTensorTypeAndShape(value, &shape))
        return 1;
    OrtStatus *st = standin_real->GetDimensionsCount(shape, &rank);
    if (!st && rank <= 16)
        st = standin_real->GetDimensions(shape, dims, rank);
    if (st)
        standin_real->ReleaseStatus(st);
    standin_real->ReleaseTensorTypeAndShapeInfo(shape);
    return rank ? dims[0] : 1;
}

static void note_port(OrtIoBinding *binding, const char *name, const OrtValue *value, bool input)
{
    standin_object *object = standin_find(binding, true);
    int at = 0;
    if (!object)
        return;
    while (at < object->ports && strcmp(object->bound[at].name, name) != 0)
        at++;
    if (at == STANDIN_PORTS)
        return;
    object->ports += at == object->ports;
    (void)snprintf(object->bound[at].name, sizeof(object->bound[at].name), "%s", name);
    void *data = NULL;
    OrtStatus *st = value ? standin_real->GetTensorMutableData((OrtValue *)(uintptr_t)value, &data) : NULL;
    if (st)
        standin_real->ReleaseStatus(st);
    object->bound[at].data = data;
    object->bound[at].value = value;
    object->bound[at].input = input;
    object->bound[at].device = value && standin_find(value, false) != NULL;
    if (input && at == 0)
        object->rows = rows_of(value);
    object->on_device = 0;
    for (int i = 0; i < object->ports; i++)
        object->on_device += object->bound[i].device;
}

static OrtStatus *ORT_API_CALL bind_input(OrtIoBinding *binding, const char *name, const OrtValue *value)
{
    OrtStatus *st = standin_real->BindInput(binding, name, value);
    if (!st)
        note_port(binding, name, value, true);
    return st;
}

static OrtStatus *ORT_API_CALL bind_output(OrtIoBinding *binding, const char *name, const OrtValue *value)
{
    OrtStatus *st = standin_real->BindOutput(binding, name, value);
    if (!st)
        note_port(binding, name, value, false);
    return st;
}

static OrtStatus *ORT_API_CALL bind_output_device(OrtIoBinding *binding, const char *name, const OrtMemoryInfo *info)
{
    OrtStatus *st = standin_real->BindOutputToDevice(binding, name, info);
    if (!st)
        note_port(binding, name, NULL, false);
    return st;
}

static void forget_ports(OrtIoBinding *binding, bool inputs)
{
    standin_object *object = standin_find(binding, false);
    int kept = 0;
    for (int i = 0; object && i < object->ports; i++)
        if (object->bound[i].input != inputs)
            object->bound[kept++] = object->bound[i];
    if (!object)
        return;
    object->ports = kept;
    object->on_device = 0;
    for (int i = 0; i < kept; i++)
        object->on_device += object->bound[i].device;
}

static void ORT_API_CALL clear_inputs(OrtIoBinding *binding)
{
    forget_ports(binding, true);
    standin_real->ClearBoundInputs(binding);
}

static void ORT_API_CALL clear_outputs(OrtIoBinding *binding)
{
    forget_ports(binding, false);
    standin_real->ClearBoundOutputs(binding);
}

static OrtStatus *value_over_the_same(const OrtValue *value, const void *data, OrtValue **ret_value)
{
    OrtTensorTypeAndShapeInfo *shape = NULL;
    OrtMemoryInfo *host = NULL;
    ONNXTensorElementDataType type;
    int64_t dims[16];
    size_t rank = 0, count = 0;
    OrtStatus *st = standin_real->GetTensorTypeAndShape(value, &shape);
    if (st)
        return st;
    st = standin_real->GetDimensionsCount(shape, &rank);
    if (!st && rank <= 16)
        st = standin_real->GetDimensions(shape, dims, rank);
    if (!st)
        st = standin_real->GetTensorElementType(shape, &type);
    if (!st)
        st = standin_real->GetTensorShapeElementCount(shape, &count);
    if (!st)
        st = standin_real->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &host);
    if (!st) /* 8 bytes an element are enough for any type: the bound is the caller's affair */
        st = standin_real->CreateTensorWithDataAsOrtValue(host, (void *)(uintptr_t)data, count * 8, dims, rank, type, ret_value);
    if (host)
        standin_real->ReleaseMemoryInfo(host);
    standin_real->ReleaseTensorTypeAndShapeInfo(shape);
    return st;
}

OrtStatus *standin_binding_copy(OrtSession *session, const standin_object *bound, OrtIoBinding **ret_binding)
{
    OrtIoBinding *copy = NULL;
    OrtStatus *st = standin_real->CreateIoBinding(session, &copy);
    for (int i = 0; i < bound->ports && !st; i++) {
        OrtValue *value = NULL;
        st = value_over_the_same(bound->bound[i].value, bound->bound[i].data, &value);
        if (!st)
            st = bound->bound[i].input ? standin_real->BindInput(copy, bound->bound[i].name, value)
                                       : standin_real->BindOutput(copy, bound->bound[i].name, value);
        if (value)
            standin_real->ReleaseValue(value); /* the binding has it */
    }
    if (st && copy)
        standin_real->ReleaseIoBinding(copy);
    else
        *ret_binding = copy;
    return st;
}

static void ORT_API_CALL release_binding(OrtIoBinding *binding)
{
    standin_forget(binding);
    standin_real->ReleaseIoBinding(binding);
}

void standin_bindings(OrtApi *table)
{
    memory_info = table->CreateMemoryInfo;
    table->CreateMemoryInfo = marked_memory_info;
    table->ReleaseMemoryInfo = release_memory_info;
    table->CreateTensorWithDataAsOrtValue = tensor_over;
    table->ReleaseValue = release_value;
    table->BindInput = bind_input;
    table->BindOutput = bind_output;
    table->BindOutputToDevice = bind_output_device;
    table->ReleaseIoBinding = release_binding;
    table->ClearBoundInputs = clear_inputs;
    table->ClearBoundOutputs = clear_outputs;
}

/* --- graphs ------------------------------------------------------------------------------------------------------------- */

static struct {
    const OrtSession *session;
    int graph_id;
    long thread;
    int ports;
    const void *data[STANDIN_PORTS];
} captures[256];
static int capture_count;

void standin_graph_forget(const OrtSession *session)
{
    (void)pthread_mutex_lock(&lock);
    for (int i = 0; i < capture_count; i++)
        if (captures[i].session == session)
            captures[i].graph_id = -1; /* its address may be another's */
    (void)pthread_mutex_unlock(&lock);
}

OrtStatus *standin_graph_check(const OrtSession *session, int graph_id, const standin_object *bound)
{
    const char *wrong = NULL;
    if (graph_id < 0)
        return NULL; /* -1: this run is not captured */
    (void)pthread_mutex_lock(&lock);
    int at = 0;
    while (at < capture_count && (captures[at].session != session || captures[at].graph_id != graph_id))
        at++;
    long thread = syscall(SYS_gettid);
    bool fresh = at == capture_count;
    if (fresh && at < 256) {
        captures[at].session = session;
        captures[at].graph_id = graph_id;
        captures[at].thread = thread;
        captures[at].ports = bound->ports;
        capture_count++;
    }
    if (at == 256)
        wrong = "too many captured graphs for the stand-in";
    else if (captures[at].thread != thread)
        wrong = "a captured graph is replayed by another thread";
    else if (bound->on_device != bound->ports)
        wrong = "a graph is captured over host memory";
    else if (captures[at].ports != bound->ports)
        wrong = "a captured graph is replayed with other ports";
    for (int i = 0; !wrong && i < bound->ports; i++) {
        if (fresh)
            captures[at].data[i] = bound->bound[i].data;
        else if (captures[at].data[i] != bound->bound[i].data)
            wrong = "a captured graph is replayed over other buffers";
    }
    (void)pthread_mutex_unlock(&lock);
    if (fresh && !wrong)
        standin_note("capture graph=%d", graph_id);
    if (wrong)
        standin_note("fault %s", wrong);
    return wrong ? standin_real->CreateStatus(ORT_FAIL, wrong) : NULL;
}
