/* SPDX-License-Identifier: Apache-2.0
 * Why models are loaded and unloaded without anybody's call: at start, because a poll found a change, because a failure may
 * have mended itself.
 *
 *   none      what lies there at start
 *   poll      and whatever changes: looked at every poll_s; a change is acted on when two looks saw the same, so that a file
 *             that is still being copied is left alone
 *   explicit  what load_models names; then only calls */
#include "serving/registry.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define QUEUE         (2 * SP_LIMIT_REPOSITORY_MODELS + 16)
#define UNSTABLE_MS   1000  /* a change was seen: look again */
#define REFRESH_MS    500   /* the index may be this old */
#define RETRY_MS      30000 /* a load that failed for want of a worker, of memory, of time */

static void arm(sp_serving *serving, int64_t at_ns)
{
    if (serving->poll.heap_index && serving->poll.at_ns <= at_ns)
        return;
    if (sp_loop_timer_set(serving->loop, &serving->poll, at_ns, NULL))
        sp_log(SP_LOG_ERROR, "no memory for a timer: model repositories are not looked at again");
}

static void load(sp_serving *serving, served_model *model)
{
    if (!sp_op_push(serving, model, OP_LOAD, model->current ? model->current->override : NULL))
        sp_log(SP_LOG_ERROR, "no memory to load a model", SP_LOG_TEXT("model", model->name));
}

/* --- what a scan found --------------------------------------------------------------------------------------------------------- */

static void found_first(sp_serving *serving, served_model *model)
{
    bool wanted = serving->config.mode != SP_CONTROL_MODE_EXPLICIT;

    for (int i = 0; i < serving->config.load_model_count; i++)
        wanted |= !strcmp(serving->config.load_models[i], "*") || !strcmp(serving->config.load_models[i], model->name);
    if (wanted)
        load(serving, model);
}

/* True: look again soon. */
static bool found_again(sp_serving *serving, served_model *model, uint64_t stamp)
{
    bool changed = stamp != model->tried_stamp, stable = stamp == model->seen_stamp;

    model->seen_stamp = stamp;
    if (!changed || model->ops)
        return false;
    if (stable)
        load(serving, model);
    return !stable;
}

/* True: look again soon. */
static bool take_found(sp_serving *serving, const sp_found_model *found)
{
    served_model *model = sp_model_make(serving, found->name);

    if (!model)
        return false;
    model->present = true;
    if (found->twice) {
        model->failed = true;
        (void)snprintf(model->reason, sizeof(model->reason), "%s", "the name is not unique across the model repositories");
        return false;
    }
    if (!serving->scanned) {
        model->seen_stamp = found->stamp;
        found_first(serving, model);
        return false;
    }
    return serving->config.mode == SP_CONTROL_MODE_POLL && found_again(serving, model, found->stamp);
}

static void take_gone(sp_serving *serving)
{
    for (served_model *model = serving->models, *next; model; model = next) {
        next = model->next;
        if (model->present || model->ops)
            continue;
        if (model->current && serving->config.mode == SP_CONTROL_MODE_POLL) {
            op *o = sp_op_push(serving, model, OP_UNLOAD, NULL);
            if (o)
                (void)snprintf(o->reason, sizeof(o->reason), "%s", "removed from the model repository");
        } else {
            sp_model_forget(serving, model);
        }
    }
}

/* Names that were asked for and lie nowhere: their load says so. */
static void load_missing(sp_serving *serving)
{
    for (int i = 0; serving->config.mode == SP_CONTROL_MODE_EXPLICIT && i < serving->config.load_model_count; i++) {
        const char *name = serving->config.load_models[i];
        served_model *model = strcmp(name, "*") && !sp_model_of(serving, name) ? sp_model_make(serving, name) : NULL;
        if (model)
            load(serving, model);
    }
}

static void scan_run(sp_store_work *work)
{
    scan_work *w = (scan_work *)work;
    work->status = sp_repository_scan_run(&w->scan, &work->error);
}

static void scan_done(sp_store_work *work)
{
    scan_work *w = (scan_work *)work;
    sp_serving *serving = w->serving;
    bool soon = false;

    serving->scanning = false;
    if (work->status) {
        if (!serving->stopping)
            sp_log_error("a model repository cannot be read", NULL, &work->error);
    } else {
        for (served_model *model = serving->models; model; model = model->next)
            model->present = false;
        for (int i = 0; i < w->scan.count; i++)
            soon |= take_found(serving, &w->scan.models[i]);
        if (w->scan.cut)
            sp_log(SP_LOG_WARN, "there are more models than can be served", SP_LOG_INT("most", SP_LIMIT_REPOSITORY_MODELS));
        take_gone(serving);
    }
    sp_repository_scan_done(&w->scan);
    if (!serving->scanned)
        load_missing(serving);
    serving->scanned = true;
    sp_ops_kick(serving);
    if (serving->config.mode == SP_CONTROL_MODE_POLL)
        arm(serving, sp_clock_now_ns() + (soon ? UNSTABLE_MS : serving->config.poll_s * INT64_C(1000)) * SP_NS_PER_MS);
}

static void scan_begin(sp_serving *serving)
{
    if (serving->scanning)
        return;
    serving->scanning = true;
    serving->scan = (scan_work){ .work = { .run = scan_run, .done = scan_done },
                                 .serving = serving,
                                 .scan = { .repository_count = serving->config.repository_count,
                                           .repositories = serving->config.repositories } };
    sp_store_submit_or_refuse(serving->threads[0], &serving->scan.work);
    serving->scanned_ns = sp_clock_now_ns();
}

/* --- by time -------------------------------------------------------------------------------------------------------------------- */

static void poll_fired(sp_timer *timer, void *context)
{
    sp_serving *serving = context;
    int64_t now_ns = sp_clock_now_ns(), next_ns = INT64_MAX;

    (void)timer;
    for (served_model *model = serving->models; model; model = model->next) {
        if (model->retry_ns && model->retry_ns <= now_ns && !model->ops) {
            model->retry_ns = 0;
            load(serving, model);
        }
        if (model->retry_ns)
            next_ns = SP_MIN(next_ns, model->retry_ns);
    }
    if (serving->config.mode == SP_CONTROL_MODE_POLL)
        scan_begin(serving); /* arms the timer when it is done */
    if (next_ns != INT64_MAX)
        arm(serving, next_ns);
}

static bool mends_itself(sp_status status)
{
    return status == SP_UNAVAILABLE || status == SP_TIMEOUT || status == SP_NOMEM || status == SP_BUSY;
}

void sp_watch_op_over(sp_serving *serving, served_model *model, const op *o)
{
    if (o->kind != OP_LOAD || o->done)
        return; /* whoever called was told */
    if (o->error.status && mends_itself(o->error.status) && strcmp(o->error.code, "no_link")) {
        model->retry_ns = sp_clock_now_ns() + RETRY_MS * SP_NS_PER_MS;
        arm(serving, model->retry_ns);
    }
    /* An ensemble may have waited for it in vain. */
    for (served_model *other = serving->models; !o->error.status && other; other = other->next) {
        if (serving->config.mode == SP_CONTROL_MODE_POLL && other->failed && other->present && !other->current && !other->ops &&
            strstr(other->reason, "depends on"))
            load(serving, other);
    }
}

void sp_watch_settled(sp_serving *serving)
{
    if (!serving->scanned || serving->started)
        return;
    serving->started = true;
    int loaded = 0, failed = 0;
    for (const served_model *model = serving->models; model; model = model->next) {
        loaded += model->current != NULL;
        failed += model->failed;
    }
    if (loaded || failed)
        sp_log(SP_LOG_INFO, "models are served", SP_LOG_INT("loaded", loaded), SP_LOG_INT("failed", failed));
    if (serving->config.started)
        serving->config.started(failed, serving->config.started_context);
}

void sp_watch_refresh(sp_serving *serving)
{
    if (serving->config.repository_count && serving->started && serving->config.mode != SP_CONTROL_MODE_POLL &&
        sp_clock_now_ns() - serving->scanned_ns > REFRESH_MS * SP_NS_PER_MS)
        scan_begin(serving);
}

sp_status sp_watch_begin(sp_serving *serving, sp_error *reterr)
{
    sp_status status = SP_OK;

    serving->poll = (sp_timer){ .fire = poll_fired, .context = serving };
    if (!serving->config.repository_count) {
        serving->scanned = serving->started = true;
        return SP_OK;
    }
    for (int i = 0; !status && i < SERVED_THREADS; i++)
        status = sp_store_thread_new(serving->loop, "models", QUEUE, NULL, NULL, &serving->threads[i], reterr);
    if (!status)
        scan_begin(serving);
    return status;
}

void sp_watch_end(sp_serving *serving)
{
    sp_loop_timer_clear(serving->loop, &serving->poll);
}
