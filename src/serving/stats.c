/* SPDX-License-Identifier: Apache-2.0
 * Counts and times of each loaded version in Triton's terms, so that its dashboards read right: `success` is all of a
 * request's time here, queue and compute are what the worker's scheduler measured. What the route or an earlier link took
 * before that counts as queue. Beside Triton's sums there are histograms, which it has not. */
#include "base/clock.h"
#include "serving/parts.h"

#include <stdio.h>

void sp_served_stats_init(sp_served *served)
{
    char labels[192];
    sp_served_stats *stats = &served->stats;
    (void)snprintf(labels, sizeof(labels), "model=\"%.128s\",version=\"%s\"", served->name, served->version_text);
    stats->request_histogram = sp_metric_get(SP_METRIC_HISTOGRAM, "spillway_model_request_seconds", labels,
                                             "Inferences of a served model from submission to answer");
    stats->queue_histogram = sp_metric_get(SP_METRIC_HISTOGRAM, "spillway_model_queue_seconds", labels,
                                           "Of these, time in queues before execution");
    stats->compute_histogram = sp_metric_get(SP_METRIC_HISTOGRAM, "spillway_model_compute_seconds", labels,
                                             "Of these, time of the execution with its inputs and outputs");
}

static void add(sp_served_duration *sum, int64_t ns)
{
    sum->count++;
    sum->ns += (uint64_t)SP_MAX(ns, 0);
}

/* The entry of a batch size; the last one takes what finds no room. */
static sp_served_batch *batch_of(sp_served_stats *stats, uint32_t rows)
{
    for (int i = 0; i < stats->batch_count; i++) {
        if (stats->batches[i].rows == rows)
            return &stats->batches[i];
    }
    if (stats->batch_count < (int)SP_ARRAY_LEN(stats->batches)) {
        stats->batches[stats->batch_count].rows = rows;
        return &stats->batches[stats->batch_count++];
    }
    return &stats->batches[SP_ARRAY_LEN(stats->batches) - 1];
}

typedef struct run {
    uint32_t rows, batch_rows, leader;
    int64_t total_ns, queue_ns, input_ns, infer_ns, output_ns;
} run;

static void run_add(sp_served *served, const run *r)
{
    sp_served_stats *stats = &served->stats;
    stats->last_inference_ms = (uint64_t)(sp_clock_wall_ns() / SP_NS_PER_MS);
    stats->inference_count += r->rows;
    add(&stats->success, r->total_ns);
    add(&stats->queue, r->queue_ns);
    add(&stats->input, r->input_ns);
    add(&stats->infer, r->infer_ns);
    add(&stats->output, r->output_ns);
    if (r->leader) {
        sp_served_batch *batch = batch_of(stats, SP_MAX(r->batch_rows, 1u));
        stats->execution_count++;
        add(&batch->input, r->input_ns);
        add(&batch->infer, r->infer_ns);
        add(&batch->output, r->output_ns);
    }
    sp_metric_observe_ns(stats->request_histogram, r->total_ns);
    sp_metric_observe_ns(stats->queue_histogram, r->queue_ns);
    sp_metric_observe_ns(stats->compute_histogram, r->input_ns + r->infer_ns + r->output_ns);
}

void sp_served_stats_success(sp_serving *serving, sp_served *served, const sp_answer *answer, uint32_t rows,
                             int64_t total_ns)
{
    const sp_infer_answer *infer = answer->infer;
    int64_t compute_ns = infer->input_ns + infer->infer_ns + infer->output_ns;
    run r = {
        .rows = rows, .batch_rows = infer->batch_rows, .leader = infer->batch_leader, .total_ns = total_ns,
        .queue_ns = SP_MIN(SP_MAX(answer->queue_ns + infer->queue_ns, infer->queue_ns), SP_MAX(total_ns - compute_ns, (int64_t)0)),
        .input_ns = infer->input_ns, .infer_ns = infer->infer_ns, .output_ns = infer->output_ns,
    };
    run_add(served, &r);
    for (int i = 0; i < answer->step_count; i++) {
        const sp_infer_step *step = &answer->steps[i];
        sp_served *other = step->model ? sp_serving_by_id(serving, step->model) : NULL;
        if (!other)
            continue;
        r = (run){
            .rows = rows, .batch_rows = step->batch_rows, .leader = step->batch_leader,
            .total_ns = step->queue_ns + step->input_ns + step->infer_ns + step->output_ns,
            .queue_ns = step->queue_ns, .input_ns = step->input_ns, .infer_ns = step->infer_ns, .output_ns = step->output_ns,
        };
        if (step->status)
            sp_served_stats_failure(other, (sp_status)step->status, r.total_ns);
        else
            run_add(other, &r);
    }
}

void sp_served_stats_hit(sp_served *served, int64_t total_ns, int64_t lookup_ns)
{
    sp_served_stats *stats = &served->stats;
    stats->last_inference_ms = (uint64_t)(sp_clock_wall_ns() / SP_NS_PER_MS);
    add(&stats->success, total_ns);
    add(&stats->queue, 0);
    add(&stats->cache_hit, lookup_ns);
    sp_metric_observe_ns(stats->request_histogram, total_ns);
}

void sp_served_stats_failure(sp_served *served, sp_status status, int64_t total_ns)
{
    sp_failure_reason reason = SP_FAILURE_OTHER;
    switch (status) {
    case SP_BUSY:
        reason = SP_FAILURE_REJECTED;
        break;
    case SP_CANCELLED:
        reason = SP_FAILURE_CANCELED;
        break;
    case SP_INTERNAL:
    case SP_CORRUPT:
    case SP_NOMEM:
    case SP_TIMEOUT:
    case SP_UNAVAILABLE:
        reason = SP_FAILURE_BACKEND;
        break;
    default:
        break;
    }
    served->stats.failures[reason]++;
    add(&served->stats.fail, total_ns);
}

/* --- the metrics page ----------------------------------------------------------------------------------------------- */

typedef enum series {
    SUCCESS, FAILURE, COUNT, EXEC_COUNT, REQUEST_US, QUEUE_US, INPUT_US, INFER_US, OUTPUT_US, PENDING, HITS, HIT_US, MISSES, MISS_US,
    SERIES_COUNT
} series;

static const struct {
    const char *name, *kind, *help;
} names[SERIES_COUNT] = {
    [SUCCESS] = { "nv_inference_request_success", "counter", "Number of successful inference requests, all batch sizes" },
    [FAILURE] = { "nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes" },
    [COUNT] = { "nv_inference_count", "counter", "Number of inferences performed (does not include cached requests)" },
    [EXEC_COUNT] = { "nv_inference_exec_count", "counter", "Number of model executions performed (does not include cached requests)" },
    [REQUEST_US] = { "nv_inference_request_duration_us", "counter",
                     "Cumulative inference request duration in microseconds (includes cached requests)" },
    [QUEUE_US] = { "nv_inference_queue_duration_us", "counter",
                   "Cumulative inference queuing duration in microseconds (includes cached requests)" },
    [INPUT_US] = { "nv_inference_compute_input_duration_us", "counter",
                   "Cumulative compute input duration in microseconds (does not include cached requests)" },
    [INFER_US] = { "nv_inference_compute_infer_duration_us", "counter",
                   "Cumulative compute inference duration in microseconds (does not include cached requests)" },
    [OUTPUT_US] = { "nv_inference_compute_output_duration_us", "counter",
                    "Cumulative inference compute output duration in microseconds (does not include cached requests)" },
    [PENDING] = { "nv_inference_pending_request_count", "gauge", "Requests that are submitted and not answered yet, per model" },
    [HITS] = { "nv_cache_num_hits_per_model", "counter", "Number of cache hits per model" },
    [HIT_US] = { "nv_cache_hit_duration_per_model", "counter", "Total cache hit duration per model, in microseconds" },
    [MISSES] = { "nv_cache_num_misses_per_model", "counter", "Number of cache misses per model" },
    [MISS_US] = { "nv_cache_miss_duration_per_model", "counter",
                  "Total cache miss (insert+lookup) duration per model, in microseconds" },
};

static int64_t value_of(const sp_served_stats *stats, series which)
{
    switch (which) {
    case SUCCESS:
        return (int64_t)stats->success.count;
    case COUNT:
        return (int64_t)stats->inference_count;
    case EXEC_COUNT:
        return (int64_t)stats->execution_count;
    case REQUEST_US:
        return (int64_t)stats->success.ns / 1000;
    case QUEUE_US:
        return (int64_t)stats->queue.ns / 1000;
    case INPUT_US:
        return (int64_t)stats->input.ns / 1000;
    case INFER_US:
        return (int64_t)stats->infer.ns / 1000;
    case OUTPUT_US:
        return (int64_t)stats->output.ns / 1000;
    case PENDING:
        return stats->pending;
    case HITS:
        return (int64_t)stats->cache_hit.count;
    case HIT_US:
        return (int64_t)stats->cache_hit.ns / 1000;
    case MISSES:
        return (int64_t)stats->cache_miss.count;
    case MISS_US:
        return (int64_t)stats->cache_miss.ns / 1000;
    case FAILURE:
    case SERIES_COUNT:
        break;
    }
    return 0;
}

typedef struct page {
    sp_buf *out;
    series which;
} page;

static void line_write(sp_served *served, void *context)
{
    static const char *const reasons[SP_FAILURE_COUNT] = { "REJECTED", "CANCELED", "BACKEND", "OTHER" };
    page *p = context;
    if ((p->which >= HITS && !served->card->config.response_cache))
        return;
    if (p->which != FAILURE) {
        sp_buf_printf(p->out, "%s{model=\"%s\",version=\"%s\"} %lld\n", names[p->which].name, served->name, served->version_text,
                      (long long)value_of(&served->stats, p->which));
        return;
    }
    for (int reason = 0; reason < SP_FAILURE_COUNT; reason++)
        sp_buf_printf(p->out, "%s{model=\"%s\",reason=\"%s\",version=\"%s\"} %llu\n", names[FAILURE].name, served->name,
                      reasons[reason], served->version_text, (unsigned long long)served->stats.failures[reason]);
}

void sp_serving_metrics_write(sp_serving *serving, sp_buf *out)
{
    for (series which = 0; which < SERIES_COUNT; which++) {
        page p = { .out = out, .which = which };
        sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", names[which].name, names[which].help, names[which].name, names[which].kind);
        sp_serving_each_loaded(serving, line_write, &p);
    }
}
