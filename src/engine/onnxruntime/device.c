/* SPDX-License-Identifier: Apache-2.0
 * Runs whose tensors all lie on the device. Their buffers are few and come again (one set for each lane and bucket of batches),
 * so each set that was seen is kept as a *route*: its binding, its run options, its graph.
 *
 *   run ──> route of these addresses and shapes? ──yes──> RunWithBinding(route)         nothing is bound, nothing allocated
 *                 no: the next free one is bound          a captured graph is replayed: one launch
 *
 * With SP_ENGINE_ORDERED the library does not wait for the device: the caller's stream orders what follows. With SP_ENGINE_GRAPHS
 * each route has a graph id of its own, since a captured graph repeats the addresses that it was captured with; and runs go to
 * one thread, since the library keeps captured graphs by thread.
 *
 *   id     = 1 + lane * ORT_ROUTES + route; -1 (no graph) for all other runs, as 0 is what the library takes without one
 *   full?  without graphs the oldest route makes room; with graphs a captured one cannot be dropped, so the run goes without */
#include "ort.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ort_run_is_on_device(const sp_engine_model *model, const sp_engine_tensor *inputs, const sp_engine_tensor *outputs)
{
    bool on = model->on_device;
    for (int32_t i = 0; i < model->input_count && on; i++)
        on = inputs[i].memory == SP_ENGINE_CUDA && inputs[i].rank != SP_ENGINE_ABSENT;
    bool wanted = false;
    for (int32_t i = 0; i < model->output_count && on; i++) {
        on = outputs[i].rank == SP_ENGINE_ABSENT || (outputs[i].memory == SP_ENGINE_CUDA && outputs[i].data);
        wanted |= outputs[i].rank != SP_ENGINE_ABSENT;
    }
    return on && wanted;
}

static bool same_call(const sp_engine_model *model, const ort_route *route, const sp_engine_tensor *inputs,
                      const sp_engine_tensor *outputs)
{
    bool same = true;
    for (int32_t i = 0; i < model->input_count && same; i++)
        same = ort_same_tensor(&route->tensors[i], &inputs[i]);
    for (int32_t i = 0; i < model->output_count && same; i++)
        same = (outputs[i].rank == SP_ENGINE_ABSENT && route->tensors[model->input_count + i].rank == SP_ENGINE_ABSENT) ||
               ort_same_tensor(&route->tensors[model->input_count + i], &outputs[i]);
    return same;
}

static ort_route *find_route(const sp_engine_model *model, ort_lane *lane, const sp_engine_tensor *inputs,
                             const sp_engine_tensor *outputs)
{
    int count = atomic_load_explicit(&lane->route_count, memory_order_relaxed); /* this thread's own store, if any */
    for (int i = 0; i < count; i++)
        if (same_call(model, &lane->routes[i], inputs, outputs))
            return &lane->routes[i];
    return NULL;
}

OrtStatus *ort_device_run_options(const sp_engine_model *model, int graph_id, bool ordered, OrtRunOptions **ret_options)
{
    const OrtApi *api = model->library->api;
    char id[16];
    (void)snprintf(id, sizeof(id), "%d", graph_id);
    OrtStatus *st = api->CreateRunOptions(ret_options);
    if (!st && model->graphs)
        st = api->AddRunConfigEntry(*ret_options, "gpu_graph_id", id);
    if (!st && ordered)
        st = api->AddRunConfigEntry(*ret_options, "disable_synchronize_execution_providers", "1");
    return st;
}

static void unbind(const sp_engine_model *model, ort_route *route)
{
    const OrtApi *api = model->library->api;
    if (route->binding) {
        api->ClearBoundInputs(route->binding);
        api->ClearBoundOutputs(route->binding);
    }
    for (int32_t i = 0; route->values && i < model->input_count + model->output_count; i++) {
        if (route->values[i])
            api->ReleaseValue(route->values[i]);
        route->values[i] = NULL;
    }
}

static OrtStatus *bind(const sp_engine_model *model, ort_route *route, int32_t index, const sp_engine_tensor *tensor)
{
    const OrtApi *api = model->library->api;
    const char *name = model->ports[index].name;
    route->tensors[index] = *tensor;
    if (tensor->rank == SP_ENGINE_ABSENT)
        return NULL; /* an output that nobody wants */
    OrtStatus *st = ort_wrap_tensor(model, tensor, &route->values[index]);
    if (!st)
        st = index < model->input_count ? api->BindInput(route->binding, name, route->values[index])
                                        : api->BindOutput(route->binding, name, route->values[index]);
    return st;
}

/* Its objects, once. */
static sp_engine_status make_route(const sp_engine_model *model, ort_route *route, int graph_id, sp_engine_error *reterr)
{
    size_t ports = (size_t)(model->input_count + model->output_count);
    route->tensors = calloc(ports, sizeof(*route->tensors));
    route->values = calloc(ports, sizeof(OrtValue *));
    if (!route->tensors || !route->values)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for a run's bindings");
    OrtStatus *st = model->library->api->CreateIoBinding(model->session, &route->binding);
    if (!st)
        st = ort_device_run_options(model, graph_id, model->ordered, &route->options);
    return ort_check(model->library, st, ORT_PHASE_RUN, reterr);
}

void ort_route_done(const sp_engine_model *model, ort_route *route)
{
    const OrtApi *api = model->library->api;
    unbind(model, route);
    if (route->binding)
        api->ReleaseIoBinding(route->binding);
    if (route->options)
        api->ReleaseRunOptions(route->options);
    free(route->tensors);
    free(route->values);
    *route = (ort_route){ 0 };
}

/* A route that is not counted yet, or, without graphs, the one that was bound longest ago. NULL: all are captured. */
static ort_route *free_route(const sp_engine_model *model, ort_lane *lane, sp_engine_status *ret_status, sp_engine_error *reterr)
{
    int count = atomic_load_explicit(&lane->route_count, memory_order_relaxed);
    *ret_status = SP_ENGINE_OK;
    if (count == ORT_ROUTES)
        return model->graphs ? NULL : &lane->routes[lane->next_route++ % ORT_ROUTES];
    ort_route *route = &lane->routes[count];
    if (!route->options)
        *ret_status = make_route(model, route, 1 + (int)(lane - model->lanes) * ORT_ROUTES + count, reterr);
    if (*ret_status)
        ort_route_done(model, route);
    return route;
}

static sp_engine_status new_route(sp_engine_model *model, ort_lane *lane, const sp_engine_tensor *inputs,
                                  const sp_engine_tensor *outputs, ort_route **ret_route, sp_engine_error *reterr)
{
    sp_engine_status s;
    ort_route *route = free_route(model, lane, &s, reterr);
    *ret_route = route;
    if (s || !route)
        return s;
    OrtStatus *st = NULL;
    unbind(model, route);
    for (int32_t i = 0; i < model->input_count && !st; i++)
        st = bind(model, route, i, &inputs[i]);
    for (int32_t i = 0; i < model->output_count && !st; i++)
        st = bind(model, route, model->input_count + i, &outputs[i]);
    int place = (int)(route - lane->routes);
    if (st) { /* half bound: it must not be found */
        unbind(model, route);
        memset(route->tensors, 0, (size_t)(model->input_count + model->output_count) * sizeof(*route->tensors));
    } else if (place == atomic_load_explicit(&lane->route_count, memory_order_relaxed)) {
        atomic_store_explicit(&lane->route_count, place + 1, memory_order_release); /* cancel() may look at it from now on */
    }
    return ort_check(model->library, st, ORT_PHASE_RUN, reterr);
}

sp_engine_status ort_device_run(sp_engine_model *model, ort_lane *lane, const sp_engine_tensor *inputs,
                                const sp_engine_tensor *outputs, bool *ret_done, sp_engine_error *reterr)
{
    const OrtApi *api = model->library->api;
    ort_route *route = find_route(model, lane, inputs, outputs);
    sp_engine_status s = route ? SP_ENGINE_OK : new_route(model, lane, inputs, outputs, &route, reterr);
    *ret_done = s || route;
    if (s || !route)
        return s;
    s = ort_check(model->library, api->RunOptionsUnsetTerminate(route->options), ORT_PHASE_RUN, reterr);
    if (!s)
        s = ort_check(model->library, api->RunWithBinding(model->session, route->options, route->binding), ORT_PHASE_RUN, reterr);
    return s;
}

/* --- the thread of a model with graphs -------------------------------------------------------------------------------- */

struct ort_thread {
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    ort_call *call; /* in hand, or waiting to be; NULL = none */
    bool over, ending;
};

static void *work(void *argument)
{
    ort_thread *t = argument;
    (void)pthread_mutex_lock(&t->lock);
    while (!t->ending) {
        if (t->call && !t->over) {
            (void)pthread_mutex_unlock(&t->lock);
            t->call->status = ort_run_here(t->call);
            (void)pthread_mutex_lock(&t->lock);
            t->over = true;
            (void)pthread_cond_broadcast(&t->changed);
        } else {
            (void)pthread_cond_wait(&t->changed, &t->lock);
        }
    }
    (void)pthread_mutex_unlock(&t->lock);
    return NULL;
}

sp_engine_status ort_thread_new(ort_thread **ret_thread, sp_engine_error *reterr)
{
    ort_thread *t = calloc(1, sizeof(*t));
    if (!t)
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no memory for a thread");
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_cond_init(&t->changed, NULL);
    if (pthread_create(&t->thread, NULL, work, t)) {
        free(t);
        return ort_fail(reterr, SP_ENGINE_NOMEM, "no thread for a model with graphs");
    }
    *ret_thread = t;
    return SP_ENGINE_OK;
}

void ort_thread_free(ort_thread *t)
{
    if (!t)
        return;
    (void)pthread_mutex_lock(&t->lock);
    t->ending = true;
    (void)pthread_cond_broadcast(&t->changed);
    (void)pthread_mutex_unlock(&t->lock);
    (void)pthread_join(t->thread, NULL);
    (void)pthread_cond_destroy(&t->changed);
    (void)pthread_mutex_destroy(&t->lock);
    free(t);
}

/* One caller at a time: the model's turn is theirs. */
sp_engine_status ort_thread_run(ort_thread *t, ort_call *call)
{
    (void)pthread_mutex_lock(&t->lock);
    t->call = call;
    t->over = false;
    (void)pthread_cond_broadcast(&t->changed);
    while (!t->over)
        (void)pthread_cond_wait(&t->changed, &t->lock);
    t->call = NULL;
    (void)pthread_mutex_unlock(&t->lock);
    return call->status;
}
