/* SPDX-License-Identifier: Apache-2.0
 * The life of jobs as a naive model, and random calls on the model and on a real store at once: included by jobs_sqlite.c
 * and jobs_redis.c behind the contract. They must agree on every answer, and on every job after every call. What the model
 * leaves out is time: claims that are not renewed, expiry and webhooks that wait (the contract has those).
 *
 * JOBS_MODEL_RESTARTS: store_reopen is one of the calls; all that ran goes back to the queue.
 * JOBS_MODEL_AGE: of one priority the oldest goes first also when it was claimed and released in between. */
#ifndef SP_TESTS_STORE_JOBS_MODEL_H
#define SP_TESTS_STORE_JOBS_MODEL_H

#include "support.h"

#include <stdio.h>
#include <string.h>

enum { LIFE_JOBS = 400, LIFE_LIVE = 9, LIFE_CALLS = 900, LIFE_TRIES = 3 };

typedef struct life_job {
    bool exists;
    char id[16], tenant[8], key[8], result[96];
    uint8_t request;
    int priority, tries, progress;
    bool has_webhook, webhook_pending, big;
    sp_job_state state;
    uint64_t fence; /* of the last claim; 0 = never claimed */
} life_job;

static struct {
    life_job jobs[LIFE_JOBS];
    int made, exhausted; /* jobs that used up their tries */
    const char *wrong; /* the first disagreement; ends the test */
    char about[400];
} life;

#define DISAGREE(...) (life.wrong ? (void)0 : (void)(snprintf(life.about, sizeof(life.about), __VA_ARGS__), life.wrong = life.about))
#define AGREE(expr, ...)            \
    do {                            \
        if (!(expr))                \
            DISAGREE(__VA_ARGS__);  \
    } while (0)

static int life_count(int state)
{
    int count = 0;
    for (int i = 0; i < life.made; i++)
        count += life.jobs[i].exists && (state < 0 || (int)life.jobs[i].state == state);
    return count;
}

/* Any job that there is, or now and then one that there was; NULL when there never was one. */
static life_job *life_any(void)
{
    if (!life.made)
        return NULL;
    for (int tries = 0; tries < 50; tries++) {
        life_job *job = &life.jobs[test_random_between(0, life.made - 1)];
        if (job->exists || !test_random_between(0, 40))
            return job;
    }
    return &life.jobs[life.made - 1];
}

/* The current claim's, mostly; else an older one or nobody's. */
static uint64_t life_fence(const life_job *job)
{
    int what = test_random_between(0, 9);
    return what == 0 ? job->fence + 1 : what == 1 && job->fence ? job->fence - 1 : job->fence;
}

static bool life_is_claim(const life_job *job, uint64_t fence)
{
    return job->exists && job->state == SP_JOB_RUNNING && job->fence == fence;
}

static void life_end(life_job *job, sp_job_state state, const char *result)
{
    job->state = state;
    job->webhook_pending = job->has_webhook && state != SP_JOB_CANCELLED;
    if (state == SP_JOB_DONE)
        job->progress = 100;
    (void)snprintf(job->result, sizeof(job->result), "%s", result);
}

static sp_view life_body(const life_job *job)
{
    return job->big ? big_body() : sp_view_of(job->id);
}

/* --- the calls --------------------------------------------------------------------------------------------------- */

static void life_add(void)
{
    if (life_count(-1) >= LIFE_LIVE || life.made == LIFE_JOBS)
        return;
    life_job *job = &life.jobs[life.made], *known = NULL;
    *job = (life_job){ .exists = true, .request = (uint8_t)test_random_between(1, 2), .priority = test_random_between(-1, 1) * 5,
                        .has_webhook = test_random_between(0, 1), .big = !test_random_between(0, 5) };
    (void)snprintf(job->id, sizeof(job->id), "j%04d", life.made);
    (void)snprintf(job->tenant, sizeof(job->tenant), "t%d", test_random_between(0, 1));
    if (test_random_between(0, 1))
        (void)snprintf(job->key, sizeof(job->key), "k%d", test_random_between(0, 5));
    for (int i = 0; i < life.made; i++) {
        life_job *other = &life.jobs[i];
        if (other->exists && *job->key && !strcmp(other->key, job->key) && !strcmp(other->tenant, job->tenant))
            known = other;
    }

    sp_job real = job_make(job->id);
    (void)snprintf(real.tenant, sizeof(real.tenant), "%s", job->tenant);
    (void)snprintf(real.idempotency_key, sizeof(real.idempotency_key), "%s", job->key);
    (void)snprintf(real.webhook, sizeof(real.webhook), "%s", job->has_webhook ? "https://example.org/hook" : "");
    memset(real.request_sha256, job->request, sizeof(real.request_sha256));
    real.priority = job->priority;
    real.created_unix_ms = 1000000 + life.made;
    answer *a = add(jobs, &real, life_body(job));
    if (!known) {
        AGREE(a->status == SP_OK && !a->existed, "add %s: %s", job->id, a->error.message);
        life.made++;
    } else if (known->request == job->request) {
        AGREE(a->status == SP_OK && a->existed && !strcmp(a->job.id, known->id), "add with the key of %s: status %d", known->id, a->status);
    } else {
        AGREE(a->status == SP_CONFLICT, "add with the key of another request: status %d", a->status);
    }
}

static void life_claim(void)
{
    life_job *best = NULL;
    for (int i = 0; i < life.made; i++) { /* made in the order of their age */
        life_job *job = &life.jobs[i];
        if (job->exists && job->state == SP_JOB_QUEUED && (!best || job->priority > best->priority))
            best = job;
    }
    answer *a = claim(jobs);
    if (!best || a->count != 1) {
        AGREE(a->status == SP_OK && a->count == (best != NULL), "claim: %d jobs, the model has %s", a->count, best ? best->id : "none");
        return;
    }
#ifndef JOBS_MODEL_AGE
    for (int i = 0; i < life.made; i++) {
        life_job *job = &life.jobs[i];
        if (!strcmp(job->id, a->job.id) && job->state == SP_JOB_QUEUED && job->priority == best->priority)
            best = job;
    }
#endif
    AGREE(!strcmp(a->job.id, best->id), "claim gives %s, the model %s", a->job.id, best->id);
    AGREE(a->job.fence > best->fence, "%s: fence %llu after %llu", best->id, (unsigned long long)a->job.fence, (unsigned long long)best->fence);
    sp_view body = life_body(best);
    AGREE(a->body_bytes == body.size_bytes && !memcmp(a->body, body.data, body.size_bytes), "%s: another body", best->id);
    best->state = SP_JOB_RUNNING;
    best->fence = a->job.fence;
    best->tries++;
}

static void life_renew(life_job *job)
{
    uint64_t fence = life_fence(job);
    int percent = test_random_between(1, 99);
    sp_status s = renew(jobs, job->id, fence, percent)->status;
    AGREE(s == (life_is_claim(job, fence) ? SP_OK : SP_CONFLICT), "renew %s: status %d", job->id, s);
    if (life_is_claim(job, fence))
        job->progress = percent;
}

static void life_finish(life_job *job)
{
    uint64_t fence = life_fence(job);
    sp_job_state state = test_random_between(0, 3) ? SP_JOB_DONE : SP_JOB_FAILED;
    char text[64];
    (void)snprintf(text, sizeof(text), "{\"n\":%d}", test_random_between(0, 1));
    bool again = job->exists && job->state == state && job->fence == fence && !strcmp(job->result, text);
    bool is_claim = life_is_claim(job, fence);
    answer *a = finish(jobs, job->id, fence, state, text);
    AGREE(a->status == (is_claim || again ? SP_OK : SP_CONFLICT), "finish %s: status %d", job->id, a->status);
    if (is_claim)
        life_end(job, state, text);
    else if (job->exists && *job->result)
        AGREE(a->result && !strcmp(a->result, job->result), "finish %s tells result %s, not %s", job->id, a->result, job->result);
}

static void life_release(life_job *job)
{
    uint64_t fence = life_fence(job);
    bool counts = test_random_between(0, 3) != 0, is_claim = life_is_claim(job, fence);
    sp_status s = release(jobs, job->id, fence, counts, "broke")->status;
    AGREE(s == (is_claim ? SP_OK : SP_CONFLICT), "release %s: status %d", job->id, s);
    if (!is_claim)
        return;
    if (counts && job->tries >= LIFE_TRIES) {
        life.exhausted++;
        life_end(job, SP_JOB_FAILED, "{\"error\":\"broke\",\"code\":\"tries_exhausted\"}");
    } else {
        job->state = SP_JOB_QUEUED;
        job->progress = 0;
        job->tries -= !counts;
    }
}

static void life_delete(life_job *job)
{
    static const char *const strangers[] = { "t0", "t1", NULL };
    const char *tenant = strangers[test_random_between(0, 2)];
    bool seen = job->exists && (!tenant || !strcmp(tenant, job->tenant));
    bool ends = seen && (job->state == SP_JOB_QUEUED || job->state == SP_JOB_RUNNING);
    answer *a = delete(jobs, tenant, job->id);
    AGREE(a->status == (seen ? SP_OK : SP_NOT_FOUND), "delete %s: status %d", job->id, a->status);
    if (ends) {
        AGREE(a->count == 1 && a->job.state == SP_JOB_CANCELLED, "delete %s: not cancelled", job->id);
        life_end(job, SP_JOB_CANCELLED, "");
    } else if (seen) {
        job->exists = false;
    }
}

static void life_webhook(life_job *job)
{
    if (!job->exists || !job->webhook_pending)
        return;
    sp_status s = webhook_done(jobs, job->id, true, 0)->status;
    AGREE(s == SP_OK, "webhook of %s: status %d", job->id, s);
    job->webhook_pending = false;
}

#ifdef JOBS_MODEL_RESTARTS
static void life_restart(void)
{
    store_reopen();
    for (int i = 0; i < life.made; i++) {
        life_job *job = &life.jobs[i];
        if (job->exists && job->state == SP_JOB_RUNNING) {
            job->state = SP_JOB_QUEUED;
            job->progress = 0;
            job->tries--; /* it was not the job's fault */
        }
    }
}
#endif

/* --- holding one to the other ------------------------------------------------------------------------------------ */

static void compare_job(const life_job *job)
{
    answer *a = get(jobs, test_random_between(0, 1) ? job->tenant : NULL, job->id);
    if (!job->exists) {
        AGREE(a->status == SP_NOT_FOUND, "get %s, which was erased: status %d", job->id, a->status);
        return;
    }
    AGREE(a->status == SP_OK && a->job.state == job->state, "%s is %s, in the model %s", job->id, sp_job_state_name(a->job.state),
          sp_job_state_name(job->state));
    AGREE(a->job.tries == job->tries && a->job.progress_percent == job->progress, "%s: tries %d of %d, progress %d of %d", job->id,
          a->job.tries, job->tries, a->job.progress_percent, job->progress);
    AGREE(a->job.webhook_pending == job->webhook_pending, "%s: webhook pending %d", job->id, a->job.webhook_pending);
    AGREE(!strcmp(a->result ? a->result : "", job->result), "%s: result %s, in the model %s", job->id, a->result, job->result);
}

/* A list by tenant and state, newest first, in pages. */
static void compare_list(void)
{
    char tenant[8], cursor[SP_LIMIT_JOB_ID_BYTES] = "";
    int state = test_random_between(-1, 4), at = life.made, page = test_random_between(1, 9);
    (void)snprintf(tenant, sizeof(tenant), "t%d", test_random_between(0, 1));
    do {
        answer *a = list(jobs, tenant, state, NULL, cursor, page);
        for (int i = 0; i < a->count && !life.wrong; i++) {
            const life_job *next;
            do
                next = at > 0 ? &life.jobs[--at] : NULL;
            while (next && (!next->exists || strcmp(next->tenant, tenant) || (state >= 0 && (int)next->state != state)));
            AGREE(next && !strcmp(next->id, a->ids[i]), "list has %s, the model %s", a->ids[i], next ? next->id : "none");
        }
        memcpy(cursor, a->cursor, sizeof(cursor));
    } while (*cursor && !life.wrong);
    while (at > 0 && !life.wrong) {
        const life_job *rest = &life.jobs[--at];
        AGREE(!rest->exists || strcmp(rest->tenant, tenant) || (state >= 0 && (int)rest->state != state), "list lacks %s", rest->id);
    }
}

static const char *life_call(void)
{
    int what = test_random_between(0, 99);
    life_job *job = life_any();
    if (what < 22 || !job)
        return life_add(), "add";
    if (what < 44)
        return life_claim(), "claim";
    if (what < 50)
        return life_renew(job), "renew";
    if (what < 59)
        return life_finish(job), "finish";
    if (what < 80)
        return life_release(job), "release";
    if (what < 88)
        return life_delete(job), "delete";
    if (what < 93)
        return life_webhook(job), "webhook_done";
    if (what < 97)
        return compare_list(), "list";
#ifdef JOBS_MODEL_RESTARTS
    if (what < 98)
        return life_restart(), "restart";
#endif
    return (void)sweep(jobs), "sweep";
}

TEST(jobs_do_what_the_model_does)
{
    memset(&life, 0, sizeof(life));
    store_begin();
    int states[5] = { 0 };
    for (int i = 0; i < LIFE_CALLS && !life.wrong; i++) {
        const char *call = life_call();
        if (life.made && !life.wrong)
            compare_job(life_any());
        AGREE(sp_jobs_queue_depth(jobs) == life_count(SP_JOB_QUEUED), "queue depth %d, in the model %d", sp_jobs_queue_depth(jobs),
              life_count(SP_JOB_QUEUED));
        for (int k = 0; k < 5; k++)
            states[k] += life_count(k);
        if (life.wrong)
            test_fail(__FILE__, __LINE__, "call %d (%s): %s", i, call, life.wrong);
    }
    for (int i = 0; i < life.made && !life.wrong; i++) {
        compare_job(&life.jobs[i]);
        if (life.wrong)
            test_fail(__FILE__, __LINE__, "at the end: %s", life.wrong);
    }
    for (int k = 0; k < 5; k++)
        CHECK(states[k] > 0); /* or the model was never put to the test */
    printf("# %d jobs, %d of them used up their tries\n", life.made, life.exhausted);
    store_end();
}

#endif
