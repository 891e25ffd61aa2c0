/* SPDX-License-Identifier: Apache-2.0
 * One claimed job, from its body to its result. Each step ends in exactly one of: the next step, fail_for_good, try_later,
 * sp_run_lost. */
#include "jobs/run_analysis.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The k-th try that failed for a passing reason is followed by a pause of half of this to all of it, times 4^(k-1). */
#define BACKOFF_BASE_MS 2000
#define BACKOFF_MOST_MS 300000
#define SEND_BACKOFF_MS 500
/* Answers larger than a job may keep are only good for outputs. */
#define ANSWER_LIMIT_BYTES (8u * 1024 * 1024)

static void finish(sp_run *run);
static void output_send(sp_run *run);

static void timer_in(sp_run *run, int64_t ms, void (*fire)(sp_timer *timer, void *context))
{
    sp_loop *loop = run->runner->config.loop;
    run->timer.fire = fire;
    run->timer.context = run;
    if (sp_loop_timer_set(loop, &run->timer, sp_loop_now_ns(loop) + ms * SP_NS_PER_MS, NULL))
        sp_run_gone(run); /* no memory for a timer: the claim runs out and the job comes back */
}

void sp_run_free(sp_run *run)
{
    sp_fd_closep(&run->body_fd);
    free(run->read);
    free(run->outputs);
    sp_buf_done(&run->answer);
    sp_buf_done(&run->result);
    free(run);
}

/* --- the ways out ------------------------------------------------------------------------------------------------- */

static void stop_working(sp_run *run)
{
    if (run->request)
        sp_request_cancel(SP_STEAL(run->request));
    sp_run_analysis_stop(run);
    sp_send_cancel(&run->send);
}

static void released(const sp_job_reply *reply, void *context)
{
    sp_run *run = context;
    if (!sp_run_called(run))
        return;
    /* When the store is down the claim runs out by itself. */
    bool dead = !reply->status && reply->count && reply->jobs[0].state == SP_JOB_FAILED;
    if (dead) {
        run->job.state = SP_JOB_FAILED;
        sp_metric_add(run->runner->count[SP_JOB_FAILED], 1);
        sp_job_emit(&run->job, "job.failed");
        if (*run->job.webhook && !run->runner->stopped)
            sp_webhooks_wake(run->runner->webhooks);
    }
    sp_run_gone(run);
}

static void release(sp_run *run)
{
    if (run->phase == RUN_WAITING) {
        run->runner->waiting--;
        run->runner->running++;
    }
    run->phase = RUN_RELEASING;
    sp_metric_add(run->runner->count_released, 1);
    sp_run_call(run);
    sp_jobs_release(run->runner->config.jobs, run->job.id, run->job.fence, run->counts, run->why, released, run);
}

static void release_fire(sp_timer *timer, void *context)
{
    (void)timer;
    release(context);
}

/* A passing reason: back to the queue after a pause, in which the claim stays ours. `counts` = one of its tries. */
static void try_later(sp_run *run, bool counts, int retry_after_s, const sp_error *err)
{
    sp_runner *runner = run->runner;
    int64_t ms = BACKOFF_BASE_MS;
    stop_working(run);
    run->counts = counts;
    (void)snprintf(run->why, sizeof(run->why), "%s: %.170s", sp_status_name(err->status), err->message);
    for (int i = 1; counts && i < run->job.tries && ms < BACKOFF_MOST_MS; i++)
        ms *= 4;
    ms = SP_MIN(ms, (int64_t)BACKOFF_MOST_MS);
    ms = ms / 2 + (int64_t)(sp_runner_random(runner) % (uint64_t)(ms / 2));
    ms = SP_MAX(ms, retry_after_s * INT64_C(1000));
    /* After its last try it is a dead letter, for which nobody needs to wait. */
    bool last = counts && run->job.tries >= sp_runner_settings(runner)->jobs.tries;
    if (last || runner->draining || runner->waiting >= RUN_WAITING_MAX) {
        release(run);
        return;
    }
    run->phase = RUN_WAITING;
    runner->running--;
    runner->waiting++;
    timer_in(run, ms, release_fire);
}

void sp_run_give_up(sp_run *run)
{
    if (run->phase == RUN_RELEASING || run->phase == RUN_RECORDING)
        return; /* as good as through */
    if (run->phase == RUN_FINISHING) {
        if (!run->calls) /* between two tries to reach a store that is down */
            sp_run_gone(run);
        return;
    }
    stop_working(run);
    sp_loop_timer_clear(run->runner->config.loop, &run->timer);
    if (run->phase != RUN_WAITING) {
        run->counts = false;
        (void)snprintf(run->why, sizeof(run->why), "the server ended");
    }
    release(run);
}

static void erased(const sp_results_reply *reply, void *context)
{
    (void)reply; /* not there, or the store is down: its retention will do it */
    (void)context;
}

void sp_run_lost(sp_run *run)
{
    sp_runner *runner = run->runner;
    bool recorded = run->phase >= RUN_RECORDING && run->phase != RUN_WAITING;
    stop_working(run);
    sp_metric_add(runner->count_lost, 1);
    if (run->deleted && recorded && runner->config.results && !runner->stopped)
        sp_results_erase(runner->config.results, run->job.tenant, run->job.id, erased, NULL);
    sp_run_gone(run);
}

static void finish_fire(sp_timer *timer, void *context)
{
    (void)timer;
    finish(context);
}

static void finished(const sp_job_reply *reply, void *context)
{
    static const char *const kinds[] = { [SP_JOB_DONE] = "job.done", [SP_JOB_FAILED] = "job.failed" };
    sp_run *run = context;
    if (!sp_run_called(run))
        return;
    sp_runner *runner = run->runner;
    if (reply->status == SP_CONFLICT || reply->status == SP_NOT_FOUND) {
        sp_run_lost(run);
        return;
    }
    if (reply->status) { /* the store is down: what we know is kept here until it is back */
        if (runner->stopped)
            sp_run_gone(run);
        else
            timer_in(run, RUN_STORE_RETRY_MS, finish_fire);
        return;
    }
    run->job.state = run->outcome;
    run->job.finished_unix_ms = sp_unix_ms();
    sp_metric_add(runner->count[run->outcome], 1);
    sp_job_emit(&run->job, kinds[run->outcome]);
    if (*run->job.webhook && !runner->stopped)
        sp_webhooks_wake(runner->webhooks);
    sp_run_gone(run);
}

static void finish(sp_run *run)
{
    run->phase = RUN_FINISHING;
    sp_run_call(run);
    sp_jobs_finish(run->runner->config.jobs, run->job.id, run->job.fence, run->outcome, sp_buf_view(&run->result), finished,
                   run);
}

static void fail_for_good(sp_run *run, const sp_error *err, const sp_attempt *attempts, int attempt_count)
{
    stop_working(run);
    sp_buf_clear(&run->result);
    sp_job_error_write(&run->result, err, attempts, attempt_count);
    run->outcome = SP_JOB_FAILED;
    finish(run);
}

static void fail_or_later(sp_run *run, const sp_error *err)
{
    if (sp_status_tries_next(err->status) && err->status != SP_REFUSED)
        try_later(run, err->status != SP_BUSY, 0, err);
    else
        fail_for_good(run, err, NULL, 0);
}

static void progress(sp_run *run, int percent)
{
    run->job.progress_percent = percent;
    sp_job_emit(&run->job, "job.progress");
}

/* --- the result, recorded and finished ---------------------------------------------------------------------------- */

/* The get behind the put answers when both are through: then the result is durable (or spooled), and a server that is
 * killed before the job is finished does it again and writes the same document. */
static void recorded(const sp_results_reply *reply, void *context)
{
    sp_run *run = context;
    (void)reply;
    if (sp_run_called(run) && run->phase == RUN_RECORDING)
        finish(run);
}

/* The answer with the job in front: {"job":{"id":...,"client_id":...,"metadata":...},"request_id":...}. */
static void document_write(sp_buf *out, const sp_run *run)
{
    sp_buf_printf(out, "{\"job\":{\"id\":\"%s\",\"client_id\":", run->job.id);
    sp_buf_append_json_text(out, run->job.client_id);
    sp_buf_append_text(out, ",\"metadata\":");
    sp_buf_append_text(out, *run->job.metadata ? run->job.metadata : "null");
    sp_buf_append_text(out, "},");
    if (run->answer.size_bytes > 1)
        sp_buf_append(out, run->answer.data + 1, run->answer.size_bytes - 1);
}

static void record(sp_run *run)
{
    sp_results *results = run->runner->config.results;
    if (!results) {
        finish(run);
        return;
    }
    sp_buf document;
    sp_buf_init(&document, ANSWER_LIMIT_BYTES + SP_LIMIT_JOB_METADATA_BYTES + 1024);
    document_write(&document, run);
    run->phase = RUN_RECORDING;
    sp_run_call(run);
    if (sp_buf_ok(&document))
        sp_results_put(results, &run->record, sp_buf_view(&document));
    sp_buf_done(&document);
    sp_results_get(results, run->job.tenant, run->job.id, recorded, run);
}

/* --- outputs ------------------------------------------------------------------------------------------------------ */

static void output_fire(sp_timer *timer, void *context)
{
    (void)timer;
    output_send(context);
}

static void output_failed(sp_run *run, bool permanent, int http_status, int retry_after_s, const char *detail)
{
    const sp_output *item = &run->outputs->items[run->output_next];
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, permanent ? SP_INVALID : SP_UNAVAILABLE, "output_failed", "output %.*s was not taken (HTTP %d): %.100s",
                       (int)SP_MIN(item->shown_bytes, (size_t)100), item->url, http_status, detail);
    if (permanent)
        fail_for_good(run, &err, NULL, 0);
    else if (++run->output_tries >= RUN_SEND_TRIES)
        try_later(run, true, retry_after_s, &err);
    else
        timer_in(run, SP_MAX((int64_t)SEND_BACKOFF_MS << run->output_tries, retry_after_s * INT64_C(1000)), output_fire);
}

static void output_sent(const sp_send_result *sent, void *context)
{
    sp_run *run = context;
    if (!sent->delivered) {
        output_failed(run, sent->permanent, sent->http_status, sent->retry_after_s, sent->detail);
        return;
    }
    run->output_tries = 0;
    run->output_next++;
    if (run->output_next < run->outputs->count) {
        output_send(run);
        return;
    }
    sp_buf_clear(&run->result);
    sp_outputs_write(&run->result, run->outputs, run->answer.size_bytes);
    record(run);
}

static void output_send(sp_run *run)
{
    const sp_output *item = &run->outputs->items[run->output_next];
    const sp_config *settings = sp_runner_settings(run->runner);
    sp_error err = { 0 };
    const sp_send_params params = {
        .url = item->url,
        .content_type = "application/json",
        .request_id = run->job.id,
        .tenant = run->job.tenant,
        .put = true,
        .s3 = item->s3,
        .private_ok = item->s3 || settings->jobs.allow_private_webhooks,
        .timeout_ns = RUN_SEND_MS * SP_NS_PER_MS,
        .body = sp_buf_view(&run->answer),
    };
    if (sp_send_start(&run->send, run->runner->config.house, &params, output_sent, run, &err))
        output_failed(run, false, 0, 1, err.message);
}

static void outputs_begin(sp_run *run)
{
    sp_error err = { 0 };
    run->outputs = calloc(1, sizeof(*run->outputs));
    sp_status s = run->outputs ? sp_outputs_parse(run->job.output, &sp_runner_settings(run->runner)->s3, run->outputs, &err)
                               : SP_FAIL(&err, SP_NOMEM, "no memory for the outputs");
    if (s) {
        fail_or_later(run, &err);
        return;
    }
    run->phase = RUN_SENDING;
    progress(run, 90);
    output_send(run);
}

/* --- the work itself ---------------------------------------------------------------------------------------------- */

/* run->answer goes where it belongs. */
static void keep(sp_run *run, const sp_attempt *attempts, int attempt_count)
{
    sp_error err = { 0 };
    run->outcome = SP_JOB_DONE;
    if (!sp_buf_ok(&run->answer)) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the answer");
        try_later(run, false, 1, &err);
    } else if (*run->job.output) {
        outputs_begin(run);
    } else if (run->answer.size_bytes > SP_LIMIT_JOB_RESULT_BYTES) {
        (void)SP_FAIL_CODE(&err, SP_TOO_LARGE, "result_too_large",
                           "the result has %zu bytes, a job keeps up to %u; give the job an `output`", run->answer.size_bytes,
                           SP_LIMIT_JOB_RESULT_BYTES);
        fail_for_good(run, &err, attempts, attempt_count);
    } else {
        sp_buf_append(&run->result, run->answer.data, run->answer.size_bytes);
        record(run);
    }
}

static void succeeded(sp_run *run, const sp_answer *answer)
{
    run->runner->config.answer_write(&run->answer, run->task, run->job.id, answer);
    sp_result_take_answer(&run->record, answer);
    keep(run, answer->attempts, answer->attempt_count);
}

void sp_run_answered(sp_run *run)
{
    keep(run, NULL, 0);
}

void sp_run_failed(sp_run *run, const sp_error *err, const sp_attempt *attempts, int attempt_count, int retry_after_s)
{
    bool own_deadline = strstr(run->job.parameters, "\"timeout_ms\"") != NULL;
    if (sp_status_tries_next(err->status) && err->status != SP_REFUSED)
        try_later(run, err->status != SP_BUSY || own_deadline, retry_after_s, err);
    else
        fail_for_good(run, err, attempts, attempt_count);
}

static void work_done(sp_request *request, const sp_answer *answer, void *context)
{
    sp_run *run = context;
    run->request = NULL;
    if (!answer->status) {
        succeeded(run, answer);
    } else {
        sp_error err = answer->error;
        err.status = answer->status;
        sp_run_failed(run, &err, answer->attempts, answer->attempt_count, answer->retry_after_s);
    }
    sp_request_close(request);
}

static void submit(sp_run *run)
{
    run->phase = RUN_WORKING;
    progress(run, 10);
    sp_request_submit(run->request, work_done, run);
}

/* A body in a file is read on a thread of its own and copied piece by piece. */
static void read_run(sp_store_work *work)
{
    struct run_read *read = (struct run_read *)(void *)work;
    read->got = pread(read->run->body_fd, read->bytes, sizeof(read->bytes), read->offset);
    if (read->got < 0)
        work->status = SP_FAIL_ERRNO(&work->error, SP_UNAVAILABLE, "cannot read the job's body");
}

static void read_done(sp_store_work *work)
{
    struct run_read *read = (struct run_read *)(void *)work;
    sp_run *run = read->run;
    sp_error err = work->error;
    sp_status s = work->status;
    if (!sp_run_called(run))
        return;
    if (!run->request)
        return; /* it was given up meanwhile */
    if (!s && read->got > 0) {
        read->offset += read->got;
        s = sp_request_append(run->request, read->bytes, (size_t)read->got, &err);
    }
    if (!s && read->got == (ssize_t)sizeof(read->bytes)) {
        sp_run_call(run);
        s = sp_store_submit(run->runner->reader, work, &err);
        if (!s)
            return;
        run->calls--;
    }
    if (s) {
        err.status = s;
        fail_or_later(run, &err);
    } else {
        submit(run);
    }
}

sp_status sp_run_reader(sp_runner *runner, sp_error *reterr)
{
    if (runner->reader)
        return SP_OK;
    return sp_store_thread_new(runner->config.loop, "jobs-read", 4 * RUN_WAITING_MAX, NULL, NULL, &runner->reader, reterr);
}

static sp_status reader_start(sp_run *run, sp_error *reterr)
{
    sp_runner *runner = run->runner;
    sp_status s = sp_run_reader(runner, reterr);
    if (s)
        return s;
    run->read = calloc(1, sizeof(*run->read));
    if (!run->read)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to read the job's body");
    run->read->run = run;
    run->read->work = (sp_store_work){ .run = read_run, .done = read_done };
    sp_run_call(run);
    s = sp_store_submit(runner->reader, &run->read->work, reterr);
    if (s)
        run->calls--;
    return s;
}

/* -10 .. -1: behind the interactive ones, in their own order. */
int sp_run_priority(const sp_job *job)
{
    return -10 + (job->priority + 10) * 9 / 20;
}

static const char *parameter_get(void *context, const char *name)
{
    static char number[32]; /* read at once, by the condition that asked */
    const json_t *value = json_object_get(context, name);
    if (!json_is_integer(value))
        return json_string_value(value);
    (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
    return number;
}

/* -1 = not given; it was looked at when the job was accepted. */
static float share_of(const json_t *parameters, const char *name)
{
    const json_t *value = json_object_get(parameters, name);
    return json_is_number(value) ? (float)json_number_value(value) : -1;
}

static sp_status request_open(sp_run *run, const json_t *parameters, int *ret_retry_after_s, sp_error *reterr)
{
    const sp_job *job = &run->job;
    int64_t now = sp_clock_now_ns();
    int64_t ms = json_integer_value(json_object_get(parameters, "timeout_ms"));
    const char *decode_text = json_string_value(json_object_get(parameters, "decode"));
    sp_decode decode = SP_DECODE_EXACT;
    const char *model = json_string_value(json_object_get(parameters, "model"));
    const sp_runner_config *config = &run->runner->config;
    bool detect = run->task == SP_TASK_DETECT;
    sp_served_model served = { 0 };
    sp_status s = SP_OK;
    if (decode_text && !detect)
        (void)sp_decode_parse(sp_view_of(decode_text), &decode); /* it was looked at when the job was accepted */
    if (detect && !config->find_model)
        s = SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_model", "this server serves no models");
    else if (detect)
        s = config->find_model(config->settings_context, model ? model : "", &served, reterr);
    if (s)
        return s;
    const sp_request_params params = {
        .task = run->task,
        .model_id = served.id,
        .model_version = served.version,
        .model = detect ? served.name : model,
        .request_id = job->id,
        .received_ns = now,
        .deadline_ns = now + SP_CLAMP(ms > 0 ? ms : RUN_TRY_MS, 1, SP_LIMIT_DEADLINE_MAX_MS) * SP_NS_PER_MS,
        .top_k = (uint32_t)json_integer_value(json_object_get(parameters, "top_k")),
        .decode = decode,
        .body_limit_bytes = SP_LIMIT_IMAGE_BODY_BYTES,
        .tier = job->tier,
        .tenant = job->tenant,
        .local_only = job->local_only,
        .force_cpu = json_is_true(json_object_get(parameters, "force_cpu")),
        .priority = sp_run_priority(job),
        .url = *job->url ? job->url : NULL,
        .parameter = parameter_get,
        .facts_context = (void *)(uintptr_t)parameters,
    };
    s = sp_request_open(config->house, &params, &run->request, ret_retry_after_s, reterr);
    if (!s && detect)
        sp_request_set_detect(run->request, share_of(parameters, "threshold"), share_of(parameters, "iou"));
    return s;
}

/* SP_OK: submitted, or being read. */
static sp_status start(sp_run *run, sp_view body, int *ret_retry_after_s, sp_error *reterr)
{
    sp_status s = SP_OK;
    if (!sp_job_task_parse(run->job.task, &run->task))
        return SP_FAIL_CODE(reterr, SP_NOT_FOUND, "unknown_task", "this server knows no task \"%s\"", run->job.task);
    if (run->task == SP_TASK_ANALYZE)
        return sp_run_analysis_begin(run, body, reterr);
    json_t *parameters = json_loads(*run->job.parameters ? run->job.parameters : "{}", 0, NULL);
    const char *stream = json_string_value(json_object_get(parameters, "stream"));
    if (!parameters)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the job's parameters"); /* they were JSON when it was accepted */
    (void)snprintf(run->record.stream, sizeof(run->record.stream), "%s", stream ? stream : "");
    s = request_open(run, parameters, ret_retry_after_s, reterr);
    json_decref(parameters);
    if (s)
        return s;
    if (run->body_fd >= 0)
        return reader_start(run, reterr);
    if (!body.size_bytes && !*run->job.url)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "body_lost", "the job's body is gone from the store");
    if (body.size_bytes)
        s = sp_request_append(run->request, body.data, body.size_bytes, reterr);
    if (!s)
        submit(run);
    return s;
}

static sp_run *run_new(sp_runner *runner, const sp_job_reply *claimed)
{
    sp_run *run = calloc(1, sizeof(*run));
    if (!run)
        return NULL;
    run->runner = runner;
    run->job = claimed->jobs[0];
    run->job.state = SP_JOB_RUNNING;
    run->body_fd = claimed->body_fd;
    sp_buf_init(&run->answer, ANSWER_LIMIT_BYTES);
    sp_buf_init(&run->result, SP_LIMIT_JOB_RESULT_BYTES);
    (void)snprintf(run->record.id, sizeof(run->record.id), "%s", run->job.id);
    memcpy(run->record.tenant, run->job.tenant, sizeof(run->record.tenant));
    memcpy(run->record.task, run->job.task, sizeof(run->record.task));
    memcpy(run->record.tier, run->job.tier, sizeof(run->record.tier));
    memcpy(run->record.client_id, run->job.client_id, sizeof(run->record.client_id));
    run->next = runner->runs;
    runner->runs = run;
    runner->running++;
    sp_metric_set(runner->gauge_running, runner->running);
    return run;
}

void sp_run_begin(sp_runner *runner, const sp_job_reply *claimed)
{
    sp_error err = { 0 };
    int retry_after_s = 0;
    sp_run *run = run_new(runner, claimed);
    if (!run) { /* the claim runs out by itself */
        if (claimed->body_fd >= 0)
            (void)close(claimed->body_fd);
        return;
    }
    memcpy(runner->recent[runner->recent_next++ % SP_ARRAY_LEN(runner->recent)], run->job.id, sizeof(run->job.id));
    sp_job_emit(&run->job, "job.running");
    if (runner->draining) {
        sp_run_give_up(run);
        return;
    }
    sp_status s = start(run, claimed->body, &retry_after_s, &err);
    if (!s)
        return;
    err.status = s;
    if (s == SP_BUSY || s == SP_NOMEM) { /* the house is full: that is not the job's fault, nor would the next one fit */
        int64_t pause_ns = SP_MAX(retry_after_s, 1) * SP_NS_PER_S;
        runner->claim_after_ns = sp_loop_now_ns(runner->config.loop) + pause_ns;
        stop_working(run);
        run->counts = false;
        (void)snprintf(run->why, sizeof(run->why), "%.190s", err.message);
        release(run);
        return;
    }
    fail_or_later(run, &err);
}
