/* SPDX-License-Identifier: Apache-2.0
 * See analysis.h: the run as a whole. One timer does the work in slices, so that no callback copies or checks more than about
 * 50 us' worth: index, kept segments, chunks (analysis_chunks.c), the body of the report, the end. */
#include "jobs/analysis_internal.h"

#include "base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#define CHUNK_TIMEOUT_NS (3600 * SP_NS_PER_S)

static void pump(sp_timer *timer, void *context);

void sp_analysis_wake(sp_analysis_run *run, int64_t at_ns)
{
    int64_t now = sp_loop_now_ns(run->loop);
    at_ns = SP_MAX(at_ns, now);
    if (run->timer.heap_index && run->timer.at_ns <= at_ns)
        return;
    /* The loop has room for the timer since begin, which armed it first. */
    (void)sp_loop_timer_set(run->loop, &run->timer, at_ns, NULL);
}

void sp_analysis_fail(sp_analysis_run *run, sp_status status, const sp_error *err)
{
    if (run->ending)
        return;
    run->ending = true;
    run->status = status;
    run->error = *err;
    run->error.status = status;
    sp_analysis_wake(run, 0);
}

/* --- what requests have in common ------------------------------------------------------------------------------------ */

void sp_analysis_request_params(const sp_analysis_run *run, sp_task task, uint64_t body_bytes, sp_request_params *ret_params,
                                char ret_id[SP_LIMIT_REQUEST_ID_BYTES], const char *suffix)
{
    const sp_analysis_settings *settings = &run->settings;
    const sp_video_index *index = run->index;
    (void)snprintf(ret_id, SP_LIMIT_REQUEST_ID_BYTES, "%s%s", run->request_id, *run->request_id ? suffix : "");
    int64_t now = sp_loop_now_ns(run->loop);
    *ret_params = (sp_request_params){
        .task = task,
        .request_id = ret_id,
        .received_ns = now,
        .deadline_ns = now + settings->chunk_timeout_ns,
        .body_bytes_hint = body_bytes,
        .body_limit_bytes = SP_MAX(body_bytes, 1u),
        .tier = run->tier,
        .tenant = run->tenant,
        .local_only = settings->local_only,
        .force_cpu = settings->force_cpu,
        .priority = settings->priority,
        .header = settings->header,
        .parameter = settings->parameter,
        .facts_context = settings->facts_context,
    };
    if (index && index->time_base_den > 0)
        ret_params->duration_s = (double)index->duration_pts * index->time_base_num / index->time_base_den;
}

void sp_analysis_note_attempts(sp_analysis_run *run, const sp_answer *answer)
{
    sp_analysis_summary *summary = &run->summary;
    for (int i = 0; i < answer->attempt_count; i++) {
        if (answer->attempts[i].status == SP_OK)
            continue;
        if (summary->attempt_count == (int)SP_ARRAY_LEN(summary->attempts))
            memmove(summary->attempts, summary->attempts + 1, sizeof(summary->attempts) - sizeof(summary->attempts[0]));
        else
            summary->attempt_count++;
        summary->attempts[summary->attempt_count - 1] = answer->attempts[i];
    }
}

sp_status sp_analysis_intake_begin(analysis_intake *intake, const sp_answer *answer, sp_error *reterr)
{
    *intake = (analysis_intake){ .from = answer->payload.data, .size_bytes = answer->payload.size_bytes };
    intake->bytes = malloc(SP_MAX(intake->size_bytes, 1u));
    if (!intake->bytes)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a worker's answer of %zu bytes", intake->size_bytes);
    if (answer->memory) {
        intake->memory = sp_answer_memory_ref(answer->memory);
    } else if (intake->size_bytes) {
        memcpy(intake->bytes, intake->from, intake->size_bytes);
        intake->copied_bytes = intake->size_bytes;
    }
    return SP_OK;
}

bool sp_analysis_intake_step(analysis_intake *intake)
{
    size_t n = SP_MIN(intake->size_bytes - intake->copied_bytes, (size_t)ANALYSIS_SLICE_BYTES);
    if (n)
        memcpy(intake->bytes + intake->copied_bytes, intake->from + intake->copied_bytes, n);
    intake->copied_bytes += n;
    if (intake->copied_bytes < intake->size_bytes)
        return false;
    if (intake->memory)
        sp_answer_memory_unref(SP_STEAL(intake->memory));
    return true;
}

void sp_analysis_intake_done(analysis_intake *intake)
{
    sp_answer_memory_unref(intake->memory);
    free(intake->bytes);
    *intake = (analysis_intake){ 0 };
}

sp_status sp_analysis_append_order(sp_analysis_run *run, sp_request *request, uint32_t first, uint32_t count, uint64_t segments_bytes,
                                   sp_error *reterr)
{
    sp_analyze_order order;
    memset(&order, 0, sizeof(order));
    order.abi = SP_ANALYZE_ABI;
    order.order_bytes = sizeof(order);
    order.params = run->settings.params;
    order.first_segment = first;
    order.segment_count = count;
    order.overlay = run->settings.overlay;
    order.index_bytes = run->index->index_bytes;
    order.segments_bytes = segments_bytes;
    return sp_request_append(request, &order, sizeof(order), reterr);
}

sp_status sp_analysis_append_index(sp_analysis_run *run, sp_request *request, size_t *body_done, bool *ret_whole, sp_error *reterr)
{
    size_t at = *body_done - sizeof(sp_analyze_order), n = SP_MIN(run->index->index_bytes - at, ANALYSIS_SLICE_BYTES);
    sp_status s = sp_request_append(request, (const uint8_t *)run->index + at, n, reterr);
    if (s)
        return s;
    *body_done += n;
    *ret_whole = at + n == run->index->index_bytes;
    return SP_OK;
}

/* INDEX or REPORT failed at every worker that could do it; a passing reason is waited for. */
static void step_failed(sp_analysis_run *run, const char *what, sp_status status, const sp_error *err, int retry_after_s)
{
    if (run->request)
        sp_request_close(SP_STEAL(run->request));
    sp_analysis_intake_done(&run->intake);
    run->answered = false;
    run->request_body_done = 0;
    run->report_segment = 0;
    bool passing = sp_status_tries_next(status) && status != SP_UNSUPPORTED && status != SP_REFUSED;
    if (!passing || ++run->step_tries >= ANALYSIS_STEP_TRIES) {
        sp_analysis_fail(run, status, err);
        return;
    }
    if (status != SP_BUSY)
        sp_log(SP_LOG_WARN, "a step of a video's analysis failed and is tried again", SP_LOG_TEXT("step", what),
               SP_LOG_TEXT("run", run->request_id), SP_LOG_TEXT("reason", err->message));
    run->retry_at_ns = sp_loop_now_ns(run->loop) + SP_MAX(retry_after_s, 1) * SP_NS_PER_S;
    sp_analysis_wake(run, run->retry_at_ns);
}

/* Opens INDEX or REPORT. False: not now, or never. */
static bool step_open(sp_analysis_run *run, sp_task task, uint64_t body_bytes, const char *suffix)
{
    sp_request_params params;
    char id[SP_LIMIT_REQUEST_ID_BYTES];
    sp_error err = { 0 };
    int retry_after_s = 0;
    if (sp_loop_now_ns(run->loop) < run->retry_at_ns) {
        sp_analysis_wake(run, run->retry_at_ns);
        return false;
    }
    sp_analysis_request_params(run, task, body_bytes, &params, id, suffix);
    sp_status s = sp_request_open(run->house, &params, &run->request, &retry_after_s, &err);
    if (!s)
        s = sp_request_set_media(run->request, run->media_fd, run->media_bytes, run->index ? run->index->sha256 : run->media_key, &err);
    if (!s)
        return true;
    if (s == SP_BUSY) /* a full house is no failure of the step */
        run->step_tries--;
    step_failed(run, sp_task_name(task), s, &err, retry_after_s);
    return false;
}

/* --- index ----------------------------------------------------------------------------------------------------------- */

static void index_answered(sp_request *request, const sp_answer *answer, void *context)
{
    sp_analysis_run *run = context;
    sp_error err = { 0 };
    (void)request;
    sp_analysis_note_attempts(run, answer);
    run->summary.microdollars += answer->microdollars;
    sp_status s = answer->status ? answer->status : sp_analysis_intake_begin(&run->intake, answer, &err);
    if (s)
        step_failed(run, "index", s, answer->status ? &answer->error : &err, answer->retry_after_s);
    else
        run->answered = true;
    sp_analysis_wake(run, 0);
}

static void kept_loaded(sp_view segments, void *context)
{
    sp_analysis_run *run = context;
    run->owed--;
    run->loaded = true;
    if (!run->cancelled && !run->ending)
        run->summary.segments_kept += sp_analysis_take_kept(run, segments);
    sp_analysis_wake(run, 0);
}

static void index_take(sp_analysis_run *run)
{
    sp_error err = { 0 };
    sp_view block = sp_view_make(run->intake.bytes, run->intake.size_bytes);
    sp_status s = sp_video_index_check(block, &err);
    if (s) {
        step_failed(run, "index", SP_CORRUPT, &err, 0);
        return;
    }
    run->index = (const sp_video_index *)(const void *)block.data;
    run->intake.bytes = NULL; /* the run's from now on */
    sp_request_close(SP_STEAL(run->request));
    sp_analysis_intake_done(&run->intake);
    run->answered = false;
    run->step_tries = 0;
    run->summary.frames_total = run->index->frame_count;
    run->summary.index_ns = sp_loop_now_ns(run->loop) - run->summary.begun_ns;
    run->places = calloc(SP_MAX(run->index->segment_count, 1u), sizeof(*run->places));
    if (!run->places) {
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the table of a video's segments");
        sp_analysis_fail(run, err.status, &err);
        return;
    }
    run->phase = SP_ANALYSIS_WORKING;
    run->loaded = run->parts.load == NULL;
    if (run->loaded)
        return;
    run->owed++;
    run->parts.load(run->parts.context, kept_loaded, run);
}

static bool index_step(sp_analysis_run *run)
{
    sp_error err = { 0 };
    if (run->answered) {
        if (sp_analysis_intake_step(&run->intake))
            index_take(run);
        return true;
    }
    if (run->request)
        return false;
    if (!step_open(run, SP_TASK_INDEX, sizeof(sp_video_limits), "-index"))
        return false;
    sp_status s = sp_request_append(run->request, &run->settings.limits, sizeof(run->settings.limits), &err);
    if (s)
        step_failed(run, "index", s, &err, 0);
    else
        sp_request_submit(run->request, index_answered, run);
    return false;
}

/* --- work -------------------------------------------------------------------------------------------------------------- */

static void others_arrived(sp_view segments, void *context)
{
    sp_analysis_run *run = context;
    run->owed--;
    run->arriving = false;
    if (!run->cancelled && !run->ending && run->phase == SP_ANALYSIS_WORKING) {
        (void)sp_analysis_take_kept(run, segments);
        sp_analysis_chunks_arrived(run);
    }
    sp_analysis_wake(run, 0);
}

static bool work_step(sp_analysis_run *run)
{
    sp_error err = { 0 };
    if (!run->loaded)
        return false;
    if (!run->summary.chunks_total) {
        if (sp_analysis_chunks_cut(run, &err)) {
            sp_analysis_fail(run, err.status, &err);
            return false;
        }
        return true;
    }
    if (run->poked && !run->arriving) {
        run->poked = false;
        if (run->parts.arrived) {
            run->arriving = true;
            run->owed++;
            run->parts.arrived(run->parts.context, others_arrived, run);
        } else {
            sp_analysis_chunks_arrived(run);
        }
        return true;
    }
    if (sp_analysis_chunks_step(run))
        return true;
    if (run->chunks || run->ending)
        return false;
    run->summary.analyze_ns = sp_loop_now_ns(run->loop) - run->summary.begun_ns - run->summary.index_ns;
    run->phase = SP_ANALYSIS_REPORTING;
    run->retry_at_ns = 0;
    return true;
}

/* --- report ------------------------------------------------------------------------------------------------------------- */

static void report_answered(sp_request *request, const sp_answer *answer, void *context)
{
    sp_analysis_run *run = context;
    sp_analysis_note_attempts(run, answer);
    run->summary.microdollars += answer->microdollars;
    if (answer->status) {
        step_failed(run, "report", answer->status, &answer->error, answer->retry_after_s);
    } else {
        run->report_bytes = answer->output_bytes;
        run->report_fd = sp_request_take_output(request);
        run->answered = true;
    }
    sp_analysis_wake(run, 0);
}

static uint64_t segments_bytes(const sp_analysis_run *run)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < run->index->segment_count; i++)
        bytes += run->places[i].size_bytes;
    return bytes;
}

/* Whole segments, in their order, until the slice is full. */
static sp_status append_segments(sp_analysis_run *run, sp_error *reterr)
{
    sp_status s = SP_OK;
    for (size_t n = 0; n < ANALYSIS_SLICE_BYTES && run->report_segment < run->index->segment_count && !s;) {
        const segment_place *place = &run->places[run->report_segment];
        s = sp_request_append(run->request, place->bytes, place->size_bytes, reterr);
        n += place->size_bytes;
        run->report_segment += s == SP_OK;
    }
    return s;
}

static bool report_step(sp_analysis_run *run)
{
    sp_error err = { 0 };
    sp_status s = SP_OK;
    bool whole = false;
    if (run->answered) {
        if (run->report_fd < 0) {
            (void)SP_FAIL(&err, SP_INTERNAL, "the report came without its file");
            sp_analysis_fail(run, err.status, &err);
            return false;
        }
        sp_request_close(SP_STEAL(run->request));
        run->ending = true;
        return true;
    }
    if (!run->request) {
        uint64_t bytes = segments_bytes(run);
        if (!step_open(run, SP_TASK_REPORT, sizeof(sp_analyze_order) + run->index->index_bytes + bytes, "-report"))
            return false;
        s = sp_analysis_append_order(run, run->request, 0, run->index->segment_count, bytes, &err);
        run->request_body_done = sizeof(sp_analyze_order);
    } else if (run->request_body_done < sizeof(sp_analyze_order) + run->index->index_bytes) {
        s = sp_analysis_append_index(run, run->request, &run->request_body_done, &whole, &err);
    } else if (run->report_segment < run->index->segment_count) {
        s = append_segments(run, &err);
        if (!s && run->report_segment == run->index->segment_count)
            sp_request_submit(run->request, report_answered, run);
    } else {
        return false; /* it is out */
    }
    if (s)
        step_failed(run, "report", s, &err, 1);
    return !s;
}

/* --- the end ------------------------------------------------------------------------------------------------------------- */

static void let_go(sp_analysis_run *run)
{
    sp_analysis_chunks_drop(run);
    if (run->request)
        sp_request_cancel(SP_STEAL(run->request));
    sp_analysis_intake_done(&run->intake);
}

static void destroy(sp_analysis_run *run)
{
    let_go(run);
    sp_loop_timer_clear(run->loop, &run->timer);
    for (analysis_block *b = run->blocks, *next; b; b = next) {
        next = b->next;
        free(b->bytes);
        free(b);
    }
    free(run->places);
    free((void *)(uintptr_t)run->index);
    sp_fd_closep(&run->report_fd);
    sp_fd_closep(&run->media_fd);
    free(run);
}

static void end(sp_analysis_run *run)
{
    let_go(run);
    if (run->owed)
        return; /* saved() comes back here */
    int64_t now = sp_loop_now_ns(run->loop);
    if (run->phase == SP_ANALYSIS_REPORTING)
        run->summary.report_ns = now - run->summary.begun_ns - run->summary.index_ns - run->summary.analyze_ns;
    run->summary.ended_ns = now;
    run->phase = SP_ANALYSIS_ENDED;
    int fd = run->report_fd;
    run->report_fd = -1;
    run->done(run, run->status, run->status ? &run->error : NULL, fd, run->report_bytes, run->context);
}

static void pump(sp_timer *timer, void *context)
{
    sp_analysis_run *run = context;
    bool more = false;
    (void)timer;
    if (run->cancelled) {
        if (!run->owed)
            destroy(run);
        return;
    }
    if (!run->ending) {
        if (run->phase == SP_ANALYSIS_INDEXING)
            more = index_step(run);
        else if (run->phase == SP_ANALYSIS_WORKING)
            more = work_step(run);
        else if (run->phase == SP_ANALYSIS_REPORTING)
            more = report_step(run);
    }
    if (run->ending && run->phase != SP_ANALYSIS_ENDED)
        end(run); /* the run may be gone */
    else if (more)
        sp_analysis_wake(run, 0);
}

/* --- calls ----------------------------------------------------------------------------------------------------------------- */

static const char *text_take(char *ret_text, size_t size_bytes, const char *text)
{
    (void)snprintf(ret_text, size_bytes, "%s", text ? text : "");
    return ret_text;
}

/* Names the file before its digest is known, cheaply: its size, its begin and its end. */
static void media_key(sp_analysis_run *run)
{
    uint8_t bytes[16 * 1024];
    uint64_t parts[4] = { run->media_bytes };
    ssize_t n = pread(run->media_fd, bytes, sizeof(bytes), 0);
    parts[1] = XXH64(bytes, (size_t)SP_MAX(n, 0), 0);
    uint64_t tail = run->media_bytes > sizeof(bytes) ? run->media_bytes - sizeof(bytes) : 0;
    n = pread(run->media_fd, bytes, sizeof(bytes), (off_t)tail);
    parts[2] = XXH64(bytes, (size_t)SP_MAX(n, 0), 1);
    memcpy(run->media_key, parts, sizeof(run->media_key));
}

sp_status sp_analysis_run_begin(sp_house *house, sp_loop *loop, int media_fd, uint64_t media_bytes,
                                const sp_analysis_settings *settings, const sp_analysis_parts *parts, sp_analysis_done_fn *done,
                                void *context, sp_analysis_run **ret_run, sp_error *reterr)
{
    if (settings->chunks < 0 || settings->chunks > SP_LIMIT_ANALYSIS_CHUNKS)
        return SP_FAIL(reterr, SP_INVALID, "a video is cut into 1 to %d chunks, not %d", SP_LIMIT_ANALYSIS_CHUNKS, settings->chunks);
    sp_status s = sp_analyze_params_check(&settings->params, reterr);
    if (s)
        return s;
    sp_analysis_run *run = calloc(1, sizeof(*run));
    if (!run)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the analysis of a video");
    *run = (sp_analysis_run){ .house = house, .loop = loop, .media_bytes = media_bytes, .settings = *settings, .done = done,
                              .context = context, .report_fd = -1, .media_fd = fcntl(media_fd, F_DUPFD_CLOEXEC, 3) };
    if (parts)
        run->parts = *parts;
    run->settings.only_link = settings->only_link ? text_take(run->only_link, sizeof(run->only_link), settings->only_link) : NULL;
    run->settings.tier = text_take(run->tier, sizeof(run->tier), settings->tier);
    run->settings.tenant = text_take(run->tenant, sizeof(run->tenant), settings->tenant);
    run->settings.request_id = text_take(run->request_id, sizeof(run->request_id), settings->request_id);
    if (!run->settings.chunk_timeout_ns)
        run->settings.chunk_timeout_ns = CHUNK_TIMEOUT_NS;
    run->summary.begun_ns = sp_loop_now_ns(loop);
    run->timer = (sp_timer){ .fire = pump, .context = run };
    if (run->media_fd < 0)
        s = SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "one more descriptor of the video");
    if (!s)
        s = sp_loop_timer_set(loop, &run->timer, run->summary.begun_ns, reterr);
    if (s) {
        destroy(run);
        return s;
    }
    media_key(run);
    *ret_run = run;
    return SP_OK;
}

sp_analysis_phase sp_analysis_run_state(const sp_analysis_run *run, sp_analysis_summary *ret_summary)
{
    if (ret_summary) {
        *ret_summary = run->summary;
        ret_summary->frames_done += sp_analysis_chunk_progress(run);
    }
    return run->phase;
}

const sp_video_index *sp_analysis_run_index(const sp_analysis_run *run)
{
    return run->index;
}

void sp_analysis_run_poke(sp_analysis_run *run)
{
    run->poked = true;
    sp_analysis_wake(run, 0);
}

void sp_analysis_run_cancel(sp_analysis_run *run)
{
    let_go(run);
    sp_loop_timer_clear(run->loop, &run->timer);
    run->cancelled = true;
    if (!run->owed)
        destroy(run); /* else the last reply of `parts` does it */
}

void sp_analysis_run_free(sp_analysis_run *run)
{
    if (run)
        destroy(run);
}
