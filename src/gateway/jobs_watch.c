/* SPDX-License-Identifier: Apache-2.0
 * Followed jobs that do not run here: another server emits their events on its own bus, and one whose time is up is ended
 * by the store. So the store is asked once a second, as long as anybody follows, and what changed is emitted on our bus. */
#include "gateway/jobs.h"

#include <stdlib.h>

#define WATCHES 64 /* beyond: a stream of one more job shows its end only when it is opened again */
#define LOOK_MS 1000

typedef struct gw_watch {
    gw_jobs *jobs;
    struct gw_watch *next;
    char id[SP_LIMIT_JOB_ID_BYTES];
    sp_job_state state;
    int progress_percent;
    bool asked; /* a reply is to come */
} gw_watch;

static void watch_remove(gw_watch *watch)
{
    gw_watch **at = &watch->jobs->watches;
    while (*at != watch)
        at = &(*at)->next;
    *at = watch->next;
    watch->jobs->watch_count--;
    free(watch);
}

static void looked(const sp_job_reply *reply, void *context)
{
    static const char *const kinds[] = { "job.queued", "job.running", "job.done", "job.failed", "job.cancelled" };
    gw_watch *watch = context;
    watch->asked = false;
    if (reply->status == SP_NOT_FOUND || sp_runner_had(watch->jobs->runner, watch->id)) {
        watch_remove(watch); /* erased, or it runs here and tells by itself */
        return;
    }
    if (reply->status || !reply->count)
        return;
    const sp_job *job = &reply->jobs[0];
    if (job->state != watch->state)
        sp_job_emit(job, kinds[job->state]);
    else if (job->progress_percent != watch->progress_percent)
        sp_job_emit(job, "job.progress");
    watch->state = job->state;
    watch->progress_percent = job->progress_percent;
    if (job->state >= SP_JOB_DONE)
        watch_remove(watch);
}

static void look_fire(sp_timer *timer, void *context)
{
    gw_jobs *jobs = context;
    for (gw_watch *watch = jobs->watches, *next; watch; watch = next) {
        next = watch->next;
        if (watch->asked)
            continue;
        if (!jobs->server->follower_count) {
            watch_remove(watch);
            continue;
        }
        watch->asked = true;
        sp_jobs_get(jobs->store, NULL, watch->id, looked, watch);
    }
    if (jobs->watches)
        (void)sp_loop_timer_set(jobs->server->loop, timer, sp_loop_now_ns(jobs->server->loop) + LOOK_MS * SP_NS_PER_MS, NULL);
}

void gw_jobs_watch(gw_jobs *jobs, const sp_job *job)
{
    gw_watch *watch = jobs->watches;
    if (job->state >= SP_JOB_DONE || sp_runner_had(jobs->runner, job->id))
        return;
    while (watch && strcmp(watch->id, job->id) != 0)
        watch = watch->next;
    if (watch || jobs->watch_count >= WATCHES)
        return;
    watch = calloc(1, sizeof(*watch));
    if (!watch)
        return;
    *watch = (gw_watch){ .jobs = jobs, .next = jobs->watches, .state = job->state, .progress_percent = job->progress_percent };
    memcpy(watch->id, job->id, sizeof(watch->id));
    jobs->watches = watch;
    jobs->watch_count++;
    jobs->watch_timer.fire = look_fire;
    jobs->watch_timer.context = jobs;
    if (!jobs->watch_timer.heap_index)
        look_fire(&jobs->watch_timer, jobs);
}

void gw_jobs_watch_told(gw_jobs *jobs, const sp_job *job)
{
    for (gw_watch *watch = jobs->watches; watch; watch = watch->next) {
        if (strcmp(watch->id, job->id) == 0)
            watch->state = job->state;
    }
}

void gw_jobs_watch_end(gw_jobs *jobs)
{
    sp_loop_timer_clear(jobs->server->loop, &jobs->watch_timer);
    while (jobs->watches)
        watch_remove(jobs->watches);
}
