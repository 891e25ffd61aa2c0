/* SPDX-License-Identifier: Apache-2.0
 * A job of task analyze: its file is brought here (the store has it, or a net worker fetches it), analysis.h takes it through the
 * house, the archive it makes becomes the job's report, and what the job's result says is written from its table of contents. */
#include "jobs/run_analysis.h"

#include "jobs/tar.h"
#include "store/directory.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FETCH_MS 600000 /* of a video; its pieces have shorter times of their own */

/* --- parameters ----------------------------------------------------------------------------------------------------------- */

static bool is_everybodys(const char *name)
{
    static const char *const names[] = { "timeout_ms", "force_cpu", "stream", "model", "top_k", "decode", "threshold", "iou" };
    for (size_t i = 0; i < SP_ARRAY_LEN(names); i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

static sp_status chunks_read(const json_t *value, int *ret_chunks, sp_error *reterr)
{
    const char *text = json_string_value(value);
    json_int_t number = text && strspn(text, "0123456789") == strlen(text) ? strtoll(text, NULL, 10) : json_integer_value(value);
    if (number < 1 || number > SP_LIMIT_ANALYSIS_CHUNKS)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "chunks must be a whole number from 1 to %d", SP_LIMIT_ANALYSIS_CHUNKS);
    *ret_chunks = (int)number;
    return SP_OK;
}

static sp_status overlay_read(const json_t *value, bool *ret_overlay, sp_error *reterr)
{
    const char *text = json_string_value(value);
    bool yes = json_is_true(value) || (text && (!strcmp(text, "true") || !strcmp(text, "1")));
    if (!yes && !json_is_false(value) && !(text && (!strcmp(text, "false") || !strcmp(text, "0"))))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "overlay must be true or false");
    *ret_overlay = yes;
    return SP_OK;
}

static sp_status parameter_take(sp_analysis_settings *settings, const char *name, const json_t *value, sp_error *reterr)
{
    char number[40];
    const char *text = json_string_value(value);
    if (is_everybodys(name))
        return SP_OK;
    if (strcmp(name, "chunks") == 0)
        return chunks_read(value, &settings->chunks, reterr);
    if (strcmp(name, "overlay") == 0)
        return overlay_read(value, &settings->overlay, reterr);
    if (json_is_integer(value))
        (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        (void)snprintf(number, sizeof(number), "%.17g", json_real_value(value));
    else
        (void)snprintf(number, sizeof(number), "%s", json_is_true(value) ? "true" : "false");
    return sp_analyze_params_set(&settings->params, name, text ? text : number, reterr);
}

sp_status sp_run_analysis_settings(const char *parameters, sp_analysis_settings *ret_settings, sp_error *reterr)
{
    sp_analysis_settings settings = { .params = sp_analyze_params_default() };
    const char *name;
    json_t *value, *object = json_loads(*parameters ? parameters : "{}", 0, NULL);
    sp_status s = object ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the job's parameters");
    json_object_foreach(object, name, value)
    {
        if (!s)
            s = parameter_take(&settings, name, value, reterr);
    }
    settings.force_cpu = json_is_true(json_object_get(object, "force_cpu"));
    settings.chunk_timeout_ns = json_integer_value(json_object_get(object, "timeout_ms")) * SP_NS_PER_MS;
    json_decref(object);
    if (!s)
        s = sp_analyze_params_check(&settings.params, reterr);
    if (!s && ret_settings)
        *ret_settings = settings;
    return s;
}

/* --- life ------------------------------------------------------------------------------------------------------------------- */

static void helped_remove(sp_run_analysis *a)
{
    sp_run_analysis **at = &a->runner->helped;
    while (*at && *at != a)
        at = &(*at)->next;
    if (*at)
        *at = a->next;
}

void sp_run_analysis_end(sp_run_analysis *a)
{
    if (!a->gone) {
        a->gone = true;
        if (a->analysis)
            sp_analysis_run_cancel(SP_STEAL(a->analysis));
        if (a->fetch)
            sp_request_cancel(SP_STEAL(a->fetch));
        sp_loop_timer_clear(a->runner->config.loop, &a->look);
        if (!a->run)
            helped_remove(a);
        a->run = NULL;
    }
    if (a->calls)
        return;
    for (chunk_claim *c = a->claims, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    sp_fd_closep(&a->media_fd);
    sp_fd_closep(&a->report_fd);
    free(a);
}

void sp_run_analysis_stop(sp_run *run)
{
    if (run->analysis)
        sp_run_analysis_end(SP_STEAL(run->analysis));
}

static sp_run_analysis *analysis_new(sp_runner *runner, const sp_job *job)
{
    sp_run_analysis *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->runner = runner;
    a->job = *job;
    a->media_fd = a->report_fd = -1;
    return a;
}

static void failed(sp_run_analysis *a, const sp_error *err, const sp_attempt *attempts, int attempt_count, int retry_after_s)
{
    sp_run *run = a->run;
    sp_error told = *err; /* it may lie in what is ended now */
    if (!run) {
        sp_run_analysis_end(a);
        return;
    }
    sp_run_failed(run, &told, attempts, attempt_count, retry_after_s); /* ends us */
}

/* --- progress --------------------------------------------------------------------------------------------------------------- */

static const char *phase_name(sp_analysis_phase phase)
{
    static const char *const names[] = { "indexing", "working", "reporting", "ended" };
    return names[phase];
}

static double fps_of(const sp_run_analysis *a, const sp_analysis_summary *summary, int64_t now_ns)
{
    double s = a->first_ns ? (double)(now_ns - a->first_ns) / (double)SP_NS_PER_S : 0;
    return s > 0 && summary->frames_done > a->first_frames ? (summary->frames_done - a->first_frames) / s : 0;
}

void sp_run_analysis_write(const sp_run_analysis *a, sp_buf *out)
{
    sp_analysis_summary summary;
    int64_t now = sp_loop_now_ns(a->runner->config.loop);
    if (!a->analysis) {
        sp_buf_printf(out, ",\"analysis\":{\"phase\":\"%s\"}", a->report_bytes ? "reporting" : "fetching");
        return;
    }
    sp_analysis_phase phase = sp_analysis_run_state(a->analysis, &summary);
    double fps = fps_of(a, &summary, now);
    sp_buf_printf(out, ",\"analysis\":{\"phase\":\"%s\",\"frames_done\":%u,\"frames_total\":", phase_name(phase), summary.frames_done);
    if (phase == SP_ANALYSIS_INDEXING)
        sp_buf_append_text(out, "null");
    else
        sp_buf_printf(out, "%u", summary.frames_total);
    sp_buf_printf(out, ",\"fps\":%.2f,\"eta_s\":", fps);
    if (fps > 0 && phase == SP_ANALYSIS_WORKING)
        sp_buf_printf(out, "%.1f", (summary.frames_total - SP_MIN(summary.frames_done, summary.frames_total)) / fps);
    else
        sp_buf_append_text(out, "null");
    sp_buf_printf(out, ",\"chunks_done\":%u,\"chunks_total\":%u,\"segments_kept\":%u}", summary.chunks_done, summary.chunks_total,
                  summary.segments_kept);
}

static int percent_of(sp_analysis_phase phase, const sp_analysis_summary *summary)
{
    if (phase == SP_ANALYSIS_INDEXING)
        return 1;
    if (phase != SP_ANALYSIS_WORKING)
        return 96;
    return 2 + (int)(93ull * SP_MIN(summary->frames_done, summary->frames_total) / SP_MAX(summary->frames_total, 1u));
}

static void progress_tell(sp_run_analysis *a, sp_analysis_phase phase, const sp_analysis_summary *summary)
{
    if (!a->run || (phase == a->told_phase && summary->frames_done == a->told_frames))
        return;
    a->told_phase = phase;
    a->told_frames = summary->frames_done;
    a->run->job.progress_percent = percent_of(phase, summary);
    sp_buf more;
    sp_buf_init(&more, 512);
    sp_run_analysis_write(a, &more);
    sp_buf_append(&more, "", 1);
    sp_job_emit_more(&a->run->job, "job.progress", sp_buf_ok(&more) ? (const char *)more.data : "");
    sp_buf_done(&more);
}

static void shared(const sp_job_reply *reply, void *context)
{
    (void)reply; /* then nobody helps */
    (void)sp_run_analysis_called(context);
}

static void look_again(sp_run_analysis *a)
{
    sp_loop *loop = a->runner->config.loop;
    (void)sp_loop_timer_set(loop, &a->look, sp_loop_now_ns(loop) + ANALYSIS_LOOK_MS * SP_NS_PER_MS, NULL);
}

static void look_fire(sp_timer *timer, void *context)
{
    sp_run_analysis *a = context;
    sp_runner *runner = a->runner;
    sp_analysis_summary summary;
    int64_t now = sp_loop_now_ns(runner->config.loop);
    (void)timer;
    sp_analysis_phase phase = sp_analysis_run_state(a->analysis, &summary);
    if (phase == SP_ANALYSIS_WORKING && summary.chunks_total && !a->first_ns) {
        a->first_ns = now;
        a->first_frames = summary.frames_done;
    }
    progress_tell(a, phase, &summary);
    if (!a->run && phase > SP_ANALYSIS_WORKING) { /* the report is its owner's */
        sp_run_analysis_end(a);
        return;
    }
    if (phase == SP_ANALYSIS_WORKING && sp_jobs_several(runner->config.jobs)) {
        sp_run_analysis_claims_look(a, now);
        sp_analysis_run_poke(a->analysis);
        if (a->run && !*a->job.url && now - a->shared_ns >= sp_jobs_renew_ms(runner->config.jobs) * SP_NS_PER_MS) {
            a->shared_ns = now;
            a->calls++;
            sp_jobs_share(runner->config.jobs, a->job.id, a->job.fence, shared, a);
        }
    }
    look_again(a);
}

/* --- the report ---------------------------------------------------------------------------------------------------------------- */

/* {"frames_analyzed":..., "report":..., "files":[{"name":...,"bytes":...,"offset":...,"url":...}],"run":{...}} */
static sp_status answer_write(sp_run_analysis *a, sp_buf *out, sp_error *reterr)
{
    sp_analysis_summary summary;
    sp_tar_entry entry;
    uint64_t at = 0;
    bool more = true, first = true;
    sp_status s = SP_OK;
    (void)sp_analysis_run_state(a->analysis, &summary);
    sp_buf_printf(out, "{\"frames_analyzed\":%u,\"frames_total\":%u,\"report\":\"/v1/videos/analyses/%s/report.json\",\"files\":[",
                  summary.frames_done, summary.frames_total, a->job.id);
    while (!s && more) {
        s = sp_tar_next(a->report_fd, a->report_bytes, &at, &entry, &more, reterr);
        if (s || !more)
            break;
        sp_buf_printf(out, "%s{\"name\":\"%s\",\"bytes\":%llu,\"offset\":%llu,\"url\":\"/v1/videos/analyses/%s/files/%s\"}",
                      first ? "" : ",", entry.name, (unsigned long long)entry.size_bytes, (unsigned long long)entry.offset_bytes,
                      a->job.id, entry.name);
        first = false;
    }
    sp_buf_append_text(out, "],\"run\":");
    sp_analysis_run_write(a->analysis, out);
    sp_buf_append_text(out, "}");
    return s;
}

static void record_fill(sp_run_analysis *a, sp_result *record)
{
    sp_analysis_summary summary;
    (void)sp_analysis_run_state(a->analysis, &summary);
    const sp_analysis_link *most = sp_analysis_main_link(&summary);
    (void)snprintf(record->provider, sizeof(record->provider), "%s", most ? most->link : "");
    record->fallback = summary.attempt_count > 0;
    record->unix_ms = sp_unix_ms();
    record->duration_ns = summary.ended_ns - summary.begun_ns;
    for (int i = 0; i < summary.link_count; i++)
        record->device_ns += summary.links[i].device_ns;
    record->microdollars = summary.microdollars;
}

static void report_kept(const sp_job_reply *reply, void *context)
{
    sp_run_analysis *a = context;
    if (!sp_run_analysis_called(a))
        return;
    sp_run *run = a->run;
    if (reply->status) {
        failed(a, reply->error, NULL, 0, 1);
        return;
    }
    sp_run_analysis_stop(run);
    sp_run_answered(run);
}

static void analysed(sp_analysis_run *analysis, sp_status status, const sp_error *err, int report_fd, uint64_t report_bytes,
                     void *context)
{
    sp_run_analysis *a = context;
    sp_analysis_summary summary;
    sp_error problem = { 0 };
    sp_loop_timer_clear(a->runner->config.loop, &a->look);
    (void)sp_analysis_run_state(analysis, &summary);
    a->report_fd = report_fd;
    a->report_bytes = report_bytes;
    if (!status && a->run) {
        status = answer_write(a, &a->run->answer, &problem);
        err = &problem;
        record_fill(a, &a->run->record);
    }
    if (status && err != &problem && err)
        problem = *err;
    a->analysis = NULL;
    sp_analysis_run_free(analysis);
    if (!a->run) {
        sp_run_analysis_end(a);
    } else if (status) {
        problem.status = status;
        failed(a, &problem, summary.attempts, summary.attempt_count, 1);
    } else {
        a->calls++;
        sp_jobs_report_put(a->runner->config.jobs, a->job.id, a->job.fence, a->report_fd, a->report_bytes, report_kept, a);
    }
}

/* --- the file ------------------------------------------------------------------------------------------------------------------- */

static sp_status analyse(sp_run_analysis *a, sp_error *reterr)
{
    sp_analysis_settings settings;
    sp_analysis_parts parts;
    struct stat info;
    sp_status s = sp_run_analysis_settings(a->job.parameters, &settings, reterr);
    if (!s && fstat(a->media_fd, &info) != 0)
        s = SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot look at the job's video");
    if (s)
        return s;
    a->media_bytes = (uint64_t)info.st_size;
    settings.tier = a->job.tier;
    settings.tenant = a->job.tenant;
    settings.request_id = a->job.id;
    settings.local_only = a->job.local_only;
    settings.priority = sp_run_priority(&a->job);
    sp_run_analysis_parts(a, &parts);
    s = sp_analysis_run_begin(a->runner->config.house, a->runner->config.loop, a->media_fd, a->media_bytes, &settings, &parts, analysed,
                              a, &a->analysis, reterr);
    if (s)
        return s;
    a->told_phase = SP_ANALYSIS_ENDED;
    a->look = (sp_timer){ .fire = look_fire, .context = a };
    look_again(a);
    return SP_OK;
}

static void fetched(sp_request *request, const sp_answer *answer, void *context)
{
    sp_run_analysis *a = context;
    sp_error err = answer->error;
    sp_status s = answer->status;
    a->fetch = NULL;
    if (!s)
        s = analyse(a, &err);
    err.status = s;
    if (s)
        failed(a, &err, answer->attempts, answer->attempt_count, answer->retry_after_s);
    sp_request_close(request);
}

static sp_status fetch(sp_run_analysis *a, int *ret_retry_after_s, sp_error *reterr)
{
    int64_t now = sp_loop_now_ns(a->runner->config.loop);
    const sp_request_params params = {
        .task = SP_TASK_FETCH,
        .request_id = a->job.id,
        .received_ns = now,
        .deadline_ns = now + FETCH_MS * SP_NS_PER_MS,
        .tier = a->job.tier,
        .tenant = a->job.tenant,
        .local_only = a->job.local_only,
        .priority = sp_run_priority(&a->job),
        .url = a->job.url,
        .fetch_fd = a->media_fd,
        .fetch_limit_bytes = SP_LIMIT_VIDEO_BODY_BYTES,
    };
    sp_status s = sp_request_open(a->runner->config.house, &params, &a->fetch, ret_retry_after_s, reterr);
    if (!s)
        sp_request_submit(a->fetch, fetched, a);
    return s;
}

static void file_make(sp_store_work *work)
{
    sp_run_analysis *a = (sp_run_analysis *)(void *)((char *)work - offsetof(sp_run_analysis, work));
    work->status = sp_store_directory_file(sp_jobs_data_dir(a->runner->config.jobs), NULL, &a->media_fd, &work->error);
}

static void file_made(sp_store_work *work)
{
    sp_run_analysis *a = (sp_run_analysis *)(void *)((char *)work - offsetof(sp_run_analysis, work));
    sp_error err = work->error;
    sp_status s = work->status;
    int retry_after_s = 0;
    if (!sp_run_analysis_called(a))
        return;
    if (!s)
        s = fetch(a, &retry_after_s, &err);
    err.status = s;
    if (s)
        failed(a, &err, NULL, 0, retry_after_s);
}

static sp_status small_file(sp_view body, int *ret_fd, sp_error *reterr)
{
    int fd = memfd_create("spillway-video", MFD_CLOEXEC);
    for (size_t done = 0; fd >= 0 && done < body.size_bytes;) {
        ssize_t n = write(fd, body.data + done, body.size_bytes - done);
        if (n <= 0 && errno != EINTR)
            sp_fd_closep(&fd);
        else if (n > 0)
            done += (size_t)n;
    }
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "no memory for a small video");
    *ret_fd = fd;
    return SP_OK;
}

/* The store's reply: a file, or bytes. Takes the file. */
static sp_status media_take(sp_run_analysis *a, sp_view body, int body_fd, sp_error *reterr)
{
    a->media_fd = body_fd;
    if (body_fd < 0 && !body.size_bytes)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "body_lost", "the job's body is gone from the store");
    return body_fd < 0 ? small_file(body, &a->media_fd, reterr) : SP_OK;
}

sp_status sp_run_analysis_begin(sp_run *run, sp_view body, sp_error *reterr)
{
    sp_runner *runner = run->runner;
    sp_run_analysis *a = analysis_new(runner, &run->job);
    if (!a)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the analysis of a video");
    sp_run_analysis_help_end(runner, run->job.id); /* it is ours now */
    a->run = run;
    run->analysis = a;
    run->phase = RUN_WORKING;
    sp_status s = SP_OK;
    if (!*a->job.url) {
        int fd = run->body_fd;
        run->body_fd = -1;
        s = media_take(a, body, fd, reterr);
        return s ? s : analyse(a, reterr);
    }
    s = sp_run_reader(runner, reterr);
    a->work = (sp_store_work){ .run = file_make, .done = file_made };
    if (!s)
        s = sp_store_submit(runner->reader, &a->work, reterr);
    a->calls += !s;
    return s;
}

/* --- helping -------------------------------------------------------------------------------------------------------------------- */

static void body_came(const sp_job_reply *reply, void *context)
{
    sp_run_analysis *a = context;
    sp_error err = { 0 };
    int fd = reply->body_fd;
    if (!sp_run_analysis_called(a)) {
        if (!reply->status && fd >= 0)
            (void)close(fd);
        return;
    }
    if (reply->status || media_take(a, reply->body, fd, &err) || analyse(a, &err))
        sp_run_analysis_end(a);
}

static bool has(const sp_runner *runner, const char *id, int *ret_helped)
{
    bool found = false;
    *ret_helped = 0;
    for (const sp_run_analysis *a = runner->helped; a; a = a->next) {
        found = found || strcmp(a->job.id, id) == 0;
        (*ret_helped)++;
    }
    for (const sp_run *run = runner->runs; run; run = run->next)
        found = found || strcmp(run->job.id, id) == 0;
    return found;
}

/* What is left of it then is its owner's: the report, or what failed here. */
static bool was_helped(const sp_runner *runner, uint64_t fence)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(runner->helped_fences); i++) {
        if (runner->helped_fences[i] == fence)
            return true;
    }
    return false;
}

static void shared_came(const sp_job_reply *reply, void *context)
{
    sp_runner *runner = context;
    int helped = 0;
    runner->help_asked = false;
    for (int i = 0; !reply->status && i < reply->count && !runner->draining && !runner->stopped; i++) {
        const sp_job *job = &reply->jobs[i];
        if (has(runner, job->id, &helped) || helped >= ANALYSIS_HELPED || was_helped(runner, job->fence) ||
            strcmp(job->task, "analyze") != 0 || *job->url)
            continue;
        runner->helped_fences[runner->helped_next++ % SP_ARRAY_LEN(runner->helped_fences)] = job->fence;
        sp_run_analysis *a = analysis_new(runner, job);
        if (!a)
            return;
        a->next = runner->helped;
        runner->helped = a;
        a->calls++;
        sp_jobs_body(runner->config.jobs, a->job.id, body_came, a);
    }
}

void sp_run_analysis_help(sp_runner *runner)
{
    int helped = 0;
    (void)has(runner, "", &helped);
    if (!sp_jobs_several(runner->config.jobs) || runner->help_asked || helped >= ANALYSIS_HELPED)
        return;
    runner->help_asked = true;
    sp_jobs_shared(runner->config.jobs, 2 * ANALYSIS_HELPED, shared_came, runner);
}

void sp_run_analysis_help_end(sp_runner *runner, const char *id)
{
    for (sp_run_analysis *a = runner->helped, *next; a; a = next) {
        next = a->next;
        if (!id || strcmp(a->job.id, id) == 0)
            sp_run_analysis_end(a);
    }
}
