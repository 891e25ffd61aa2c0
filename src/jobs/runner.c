/* SPDX-License-Identifier: Apache-2.0
 * The runner's own half: how many jobs to claim and when, keeping claims, sweeping, draining. */
#include "jobs/run_analysis.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define CLAIMS_AT_ONCE 8
#define SWEEP_MS 10000 /* SPILLWAY_JOBS_SWEEP_MS, which tests shorten */
#define SWEEP_RESULTS_EVERY 60

const sp_config *sp_runner_settings(const sp_runner *runner)
{
    return runner->config.settings(runner->config.settings_context);
}

uint64_t sp_runner_random(sp_runner *runner)
{
    uint64_t z = (runner->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Without memory for a timer the next event of any kind sets it again. */
static void timer_in(sp_runner *runner, sp_timer *timer, int64_t ms)
{
    (void)sp_loop_timer_set(runner->config.loop, timer, sp_loop_now_ns(runner->config.loop) + ms * SP_NS_PER_MS, NULL);
}

/* --- claims ------------------------------------------------------------------------------------------------------ */

/* How many more may be claimed now. */
static int room(const sp_runner *runner)
{
    int concurrency = sp_runner_settings(runner)->jobs.concurrency;
    int free_slots = SP_LIMIT_SLOTS - RUN_SLOTS_LEFT - sp_house_open_count(runner->config.house);
    int left = SP_MIN(concurrency - runner->running, free_slots) - runner->claims_out;
    if (runner->draining || runner->stopped || runner->waiting >= RUN_WAITING_MAX)
        return 0;
    return SP_CLAMP(left, 0, CLAIMS_AT_ONCE - runner->claims_out);
}

static void claim_some(sp_runner *runner, int most);

static void store_state(sp_runner *runner, const sp_job_reply *reply)
{
    bool down = reply->status != SP_OK;
    if (down && !runner->store_down)
        sp_log_error("job store does not answer, jobs wait", "", reply->error);
    if (!down && runner->store_down)
        sp_log(SP_LOG_INFO, "job store answers again");
    runner->store_down = down;
}

static void claimed(const sp_job_reply *reply, void *context)
{
    sp_runner *runner = context;
    runner->claims_out--;
    if (runner->stopped)
        return; /* nobody will renew it: it comes back */
    sp_metric_set(runner->gauge_queued, sp_jobs_queue_depth(runner->config.jobs));
    store_state(runner, reply);
    if (!reply->status && !reply->count && room(runner) > 0)
        sp_run_analysis_help(runner);
    if (reply->status || !reply->count)
        return; /* the poll looks again */
    sp_run_begin(runner, reply);
    claim_some(runner, 1); /* where one was there may be more */
}

static void claim_some(sp_runner *runner, int most)
{
    if (sp_loop_now_ns(runner->config.loop) < runner->claim_after_ns)
        return;
    for (int i = SP_MIN(room(runner), most); i > 0; i--) {
        runner->claims_out++;
        sp_jobs_claim(runner->config.jobs, claimed, runner);
    }
}

void sp_runner_wake(sp_runner *runner)
{
    claim_some(runner, runner->claims_out ? 1 : 2);
}

static void poll_fire(sp_timer *timer, void *context)
{
    sp_runner *runner = context;
    claim_some(runner, 1);
    timer_in(runner, timer, RUN_POLL_MS);
}

/* --- claims that are ours ---------------------------------------------------------------------------------------- */

void sp_run_call(sp_run *run)
{
    run->calls++;
}

bool sp_run_called(sp_run *run)
{
    run->calls--;
    if (!run->gone)
        return true;
    if (!run->calls)
        sp_run_free(run);
    return false;
}

void sp_run_gone(sp_run *run)
{
    sp_runner *runner = run->runner;
    sp_run **at = &runner->runs;
    while (*at && *at != run)
        at = &(*at)->next;
    if (*at)
        *at = run->next;
    if (run->phase == RUN_WAITING)
        runner->waiting--;
    else
        runner->running--;
    sp_metric_set(runner->gauge_running, runner->running);
    sp_loop_timer_clear(runner->config.loop, &run->timer);
    run->gone = true;
    if (!run->calls)
        sp_run_free(run);
    claim_some(runner, 1);
}

static void renewed(const sp_job_reply *reply, void *context)
{
    sp_run *run = context;
    if (!sp_run_called(run))
        return;
    run->renewing = false;
    if (reply->status == SP_CONFLICT || reply->status == SP_NOT_FOUND)
        sp_run_lost(run);
}

static void renew_fire(sp_timer *timer, void *context)
{
    sp_runner *runner = context;
    for (sp_run *run = runner->runs, *next; run; run = next) {
        next = run->next;
        if (run->renewing || run->phase == RUN_FINISHING || run->phase == RUN_RELEASING)
            continue;
        run->renewing = true;
        sp_run_call(run);
        sp_jobs_renew(runner->config.jobs, run->job.id, run->job.fence, run->job.progress_percent, renewed, run);
    }
    timer_in(runner, timer, sp_jobs_renew_ms(runner->config.jobs));
}

static sp_run *find(const sp_runner *runner, const char *id)
{
    sp_run *run = runner->runs;
    while (run && strcmp(run->job.id, id) != 0)
        run = run->next;
    return run;
}

bool sp_runner_cancel(sp_runner *runner, const char *id)
{
    sp_run *run = find(runner, id);
    if (!run)
        return false;
    if (run->phase != RUN_FINISHING && run->phase != RUN_RELEASING) {
        run->deleted = true;
        sp_run_lost(run);
    }
    return true;
}

bool sp_runner_progress(const sp_runner *runner, const char *id, int *ret_percent)
{
    const sp_run *run = find(runner, id);
    if (run)
        *ret_percent = run->job.progress_percent;
    return run != NULL;
}

void sp_runner_analysis_write(const sp_runner *runner, const char *id, sp_buf *out)
{
    const sp_run *run = runner ? find(runner, id) : NULL;
    if (run && run->analysis)
        sp_run_analysis_write(run->analysis, out);
}

sp_status sp_runner_analysis_check(const char *parameters, sp_error *reterr)
{
    return sp_run_analysis_settings(parameters, NULL, reterr);
}

bool sp_runner_had(const sp_runner *runner, const char *id)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(runner->recent); i++) {
        if (strcmp(runner->recent[i], id) == 0)
            return true;
    }
    return false;
}

/* --- sweep, drain, life ------------------------------------------------------------------------------------------ */

static void swept(const sp_job_reply *reply, void *context)
{
    (void)reply; /* what was not swept is swept next time */
    (void)context;
}

static int64_t sweep_ms(void)
{
    const char *text = getenv("SPILLWAY_JOBS_SWEEP_MS");
    long ms = text ? strtol(text, NULL, 10) : 0;
    return ms >= 10 && ms <= 3600000 ? ms : SWEEP_MS;
}

static void sweep_fire(sp_timer *timer, void *context)
{
    static int rounds; /* one runner a process */
    sp_runner *runner = context;
    sp_jobs_sweep(runner->config.jobs, swept, runner);
    if (runner->config.results && rounds++ % SWEEP_RESULTS_EVERY == 0)
        sp_results_sweep(runner->config.results);
    timer_in(runner, timer, sweep_ms());
}

static void give_all_up(sp_runner *runner)
{
    for (sp_run *run = runner->runs, *next; run; run = next) {
        next = run->next;
        sp_run_give_up(run);
    }
}

static void drain_fire(sp_timer *timer, void *context)
{
    (void)timer;
    give_all_up(context);
}

void sp_runner_drain(sp_runner *runner, int64_t grace_ns)
{
    if (runner->draining)
        return;
    runner->draining = true;
    sp_run_analysis_help_end(runner, NULL);
    for (sp_run *run = runner->runs, *next; run; run = next) {
        next = run->next;
        if (run->phase == RUN_WAITING)
            sp_run_give_up(run); /* its back-off may last longer than we do */
    }
    if (sp_loop_timer_set(runner->config.loop, &runner->drain, sp_loop_now_ns(runner->config.loop) + grace_ns, NULL))
        give_all_up(runner);
}

int sp_runner_busy(const sp_runner *runner)
{
    return runner->running + runner->waiting + runner->claims_out + sp_webhooks_busy(runner->webhooks);
}

sp_status sp_runner_new(const sp_runner_config *config, sp_runner **ret_runner, sp_error *reterr)
{
    static const char *const help = "Jobs that this server has finished";
    sp_runner *runner = calloc(1, sizeof(*runner));
    if (!runner)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the job runner");
    runner->config = *config;
    if (getrandom(&runner->random, sizeof(runner->random), 0) != (ssize_t)sizeof(runner->random))
        runner->random = (uint64_t)sp_clock_wall_ns();
    runner->poll = (sp_timer){ .fire = poll_fire, .context = runner };
    runner->renew = (sp_timer){ .fire = renew_fire, .context = runner };
    runner->sweep = (sp_timer){ .fire = sweep_fire, .context = runner };
    runner->drain = (sp_timer){ .fire = drain_fire, .context = runner };
    runner->gauge_running = sp_metric_get(SP_METRIC_GAUGE, "spillway_jobs_running", "", "Jobs that run in this server");
    runner->gauge_queued = sp_metric_get(SP_METRIC_GAUGE, "spillway_jobs_queued", "", "Jobs that wait, as last known");
    runner->count[SP_JOB_DONE] = sp_metric_get(SP_METRIC_COUNTER, "spillway_jobs_total", "status=\"done\"", help);
    runner->count[SP_JOB_FAILED] = sp_metric_get(SP_METRIC_COUNTER, "spillway_jobs_total", "status=\"failed\"", help);
    runner->count_released = sp_metric_get(SP_METRIC_COUNTER, "spillway_jobs_released_total", "",
                                           "Claims given back: to be tried again, or because the server ended");
    runner->count_lost = sp_metric_get(SP_METRIC_COUNTER, "spillway_jobs_lost_claims_total", "",
                                       "Claims that were somebody else's by then, or of deleted jobs");
    sp_status s = sp_webhooks_new(runner, &runner->webhooks, reterr);
    if (s) {
        free(runner);
        return s;
    }
    timer_in(runner, &runner->poll, 0);
    timer_in(runner, &runner->renew, sp_jobs_renew_ms(runner->config.jobs));
    timer_in(runner, &runner->sweep, sweep_ms());
    *ret_runner = runner;
    return SP_OK;
}

void sp_runner_stop(sp_runner *runner)
{
    if (!runner)
        return;
    runner->draining = runner->stopped = true;
    sp_loop_timer_clear(runner->config.loop, &runner->poll);
    sp_loop_timer_clear(runner->config.loop, &runner->renew);
    sp_loop_timer_clear(runner->config.loop, &runner->sweep);
    sp_loop_timer_clear(runner->config.loop, &runner->drain);
    sp_webhooks_stop(runner->webhooks);
    sp_run_analysis_help_end(runner, NULL);
    give_all_up(runner);
    sp_store_thread_free(SP_STEAL(runner->reader)); /* the reads' callbacks find their runs gone */
}

void sp_runner_free(sp_runner *runner)
{
    if (!runner)
        return;
    while (runner->runs) { /* the store did not answer them even at its end */
        sp_run *run = runner->runs;
        runner->runs = run->next;
        sp_loop_timer_clear(runner->config.loop, &run->timer);
        sp_run_free(run);
    }
    sp_webhooks_free(runner->webhooks);
    free(runner);
}
