/* SPDX-License-Identifier: Apache-2.0
 * Where the nodes of a model on a device are. The library tells it in the profile of its first runs only: it is written from the
 * session's making until ORT_WATCHED_RUNS runs are over, read once, and removed. Its form is one event a line:
 *
 *   {"cat" : "Node", ... "dur" :715, ... "name" :"conv_kernel_time","args" : { ... "op_name" : "Conv", ... "provider" : "CPU..."
 *   {"cat" : "Session", ... "dur" :50572, ... "name" :"model_run", ...        the run whose nodes stand above it
 *
 * A device's node lasts as long as its enqueuing does, a CPU node as long as its computing: of a run's wall time only the CPU's
 * share can be told. Nothing fails for want of a profile: then there is nothing to report. */
#include "ort.h"

#include <glob.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPERATORS_MAX 32

typedef struct run_seen {
    int nodes, host_nodes;
    long long host_us, run_us;
    int operator_count;
    struct {
        char name[40];
        int count;
    } operators[OPERATORS_MAX]; /* of the host's nodes */
} run_seen;

void ort_watch_begin(const ort_library *lib, OrtSessionOptions *so, char prefix[ORT_WATCH_PREFIX_BYTES])
{
    static atomic_int number;
    const char *directory = getenv("TMPDIR");
    if (!directory || !*directory || strlen(directory) > ORT_WATCH_PREFIX_BYTES - 64)
        directory = "/tmp";
    (void)snprintf(prefix, ORT_WATCH_PREFIX_BYTES, "%s/spillway-ort-%ld-%d", directory, (long)getpid(), atomic_fetch_add(&number, 1));
    if (ort_check(lib, lib->api->EnableProfiling(so, prefix), ORT_PHASE_LOAD, NULL)) /* without it there is no report */
        prefix[0] = 0;
}

/* The library adds the time to the name, and tells it only of a session that was made. */
void ort_watch_drop(const char *prefix)
{
    char pattern[ORT_WATCH_PREFIX_BYTES + 8];
    glob_t found;
    if (!*prefix)
        return;
    (void)snprintf(pattern, sizeof(pattern), "%s_*.json", prefix);
    if (glob(pattern, GLOB_NOSORT, NULL, &found))
        return; /* there is none */
    for (size_t i = 0; i < found.gl_pathc; i++)
        (void)unlink(found.gl_pathv[i]); /* a leftover is no failure */
    globfree(&found);
}

/* What stands behind `key` in the line, up to `end`; NULL = it is not there. */
static const char *value_of(const char *line, const char *key, char end, size_t *ret_length)
{
    const char *at = strstr(line, key);
    if (!at)
        return NULL;
    at += strlen(key);
    const char *stop = strchr(at, end);
    *ret_length = stop ? (size_t)(stop - at) : 0;
    return stop ? at : NULL;
}

static void note_operator(run_seen *seen, const char *name, size_t length)
{
    int i = 0;
    while (i < seen->operator_count && (strlen(seen->operators[i].name) != length || memcmp(seen->operators[i].name, name, length) != 0))
        i++;
    if (i == OPERATORS_MAX || length >= sizeof(seen->operators[0].name))
        return;
    memcpy(seen->operators[i].name, name, length);
    seen->operator_count += i == seen->operator_count;
    seen->operators[i].count++;
}

static void take_node(run_seen *seen, const char *line)
{
    size_t length = 0, name_length = 0;
    const char *provider = value_of(line, "\"provider\" : \"", '"', &length);
    const char *name = value_of(line, "\"op_name\" : \"", '"', &name_length), *took = strstr(line, "\"dur\" :");
    if (!provider || !name || !took || !strstr(line, "_kernel_time\""))
        return;
    seen->nodes++;
    if (length != strlen("CPUExecutionProvider") || memcmp(provider, "CPUExecutionProvider", length) != 0)
        return;
    seen->host_nodes++;
    seen->host_us += strtoll(took + strlen("\"dur\" :"), NULL, 10);
    note_operator(seen, name, name_length);
}

/* The last whole run of the profile. */
static int read_profile(const char *path, run_seen *ret_seen)
{
    FILE *file = fopen(path, "re");
    run_seen now = { 0 };
    char *line = NULL;
    size_t capacity = 0;
    int runs = 0;
    while (file && getline(&line, &capacity, file) >= 0) {
        const char *took = strstr(line, "\"dur\" :");
        if (strstr(line, "\"cat\" : \"Node\"")) {
            take_node(&now, line);
        } else if (strstr(line, "\"name\" :\"model_run\"") && took) {
            now.run_us = strtoll(took + strlen("\"dur\" :"), NULL, 10);
            if (now.nodes) /* a replayed graph has none, and what was seen before still holds */
                *ret_seen = now;
            now = (run_seen){ 0 };
            runs++;
        }
    }
    free(line);
    if (file)
        (void)fclose(file); /* only read */
    return runs;
}

static void tell(const run_seen *seen, int runs, sp_engine_report *report)
{
    size_t length = 0;
    report->run_count = runs;
    report->node_count = seen->nodes;
    report->host_node_count = seen->host_nodes;
    report->host_share = seen->run_us > 0 ? (double)seen->host_us / (double)seen->run_us : 0;
    if (report->host_share > 1)
        report->host_share = 1; /* several threads' */
    report->host_nodes[0] = 0;
    for (int i = 0; i < seen->operator_count && length < sizeof(report->host_nodes); i++)
        length += (size_t)snprintf(report->host_nodes + length, sizeof(report->host_nodes) - length, "%s%s %d", i ? ", " : "",
                                   seen->operators[i].name, seen->operators[i].count);
}

/* The profile is complete and nobody else looks at it: reads it, removes it. */
static void end(sp_engine_model *model)
{
    const OrtApi *api = model->library->api;
    OrtAllocator *allocator = NULL;
    char *path = NULL;
    OrtStatus *st = api->GetAllocatorWithDefaultOptions(&allocator);
    if (!st)
        st = api->SessionEndProfiling(model->session, allocator, &path);
    if (ort_check(model->library, st, ORT_PHASE_RUN, NULL) || !path)
        return;
    run_seen seen = { 0 };
    int runs = read_profile(path, &seen);
    (void)unlink(path); /* may never have been written */
    allocator->Free(allocator, path);
    (void)pthread_mutex_lock(&model->watch_lock);
    tell(&seen, runs, &model->watched);
    (void)pthread_mutex_unlock(&model->watch_lock);
}

void ort_watch_run_over(sp_engine_model *model)
{
    if (atomic_load_explicit(&model->watch_left, memory_order_relaxed) <= 0)
        return;
    if (atomic_fetch_sub(&model->watch_left, 1) == 1)
        end(model);
}

void ort_watch_close(sp_engine_model *model)
{
    if (atomic_exchange(&model->watch_left, 0) > 0 && model->session)
        end(model);
}

sp_engine_status ort_model_report(const sp_engine_model *model, sp_engine_report *ret_report, sp_engine_error *reterr)
{
    (void)reterr; /* cannot fail */
    sp_engine_model *own = (sp_engine_model *)(uintptr_t)model; /* for its lock: nothing else is written */
    uint32_t size = ret_report->struct_bytes;
    (void)pthread_mutex_lock(&own->watch_lock);
    sp_engine_report report = model->watched;
    (void)pthread_mutex_unlock(&own->watch_lock);
    for (int32_t i = 0; i < model->lane_count && model->graphs; i++)
        report.graph_count += atomic_load_explicit(&model->lanes[i].route_count, memory_order_acquire);
    report.struct_bytes = size;
    memcpy(ret_report, &report, size < sizeof(report) ? size : sizeof(report));
    return SP_ENGINE_OK;
}
