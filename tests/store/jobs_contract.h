/* SPDX-License-Identifier: Apache-2.0
 * What both stores of jobs promise, as tests: included by jobs_sqlite.c and jobs_redis.c, which say how one is opened. */
#ifndef SP_TESTS_STORE_JOBS_CONTRACT_H
#define SP_TESTS_STORE_JOBS_CONTRACT_H

#include "support.h"

#include "base/clock.h"
#include "base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_jobs *jobs;
static void store_begin(void); /* an empty store, opened as `jobs` */
static void store_end(void);
static void store_reopen(void); /* as after a restart of this process */

static sp_view big_body(void)
{
    static uint8_t bytes[200 * 1024];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    return sp_view_make(bytes, sizeof(bytes));
}

TEST(a_job_goes_its_way)
{
    store_begin();
    sp_job job = job_make("j1");
    job.priority = 3;
    job.local_only = true;
    (void)snprintf(job.metadata, sizeof(job.metadata), "{\"a\":\"\xC3\xA4\"}");
    (void)snprintf(job.webhook, sizeof(job.webhook), "https://example.org/hook");
    memset(job.request_sha256, 0x5A, sizeof(job.request_sha256));
    answer *a = add(jobs, &job, sp_view_of("the body"));
    CHECK_INT(a->status, SP_OK);
    CHECK(!a->existed);
    CHECK_INT(a->job.state, SP_JOB_QUEUED);
    CHECK_INT(sp_jobs_queue_depth(jobs), 1);

    a = claim(jobs);
    REQUIRE(a->status == SP_OK && a->count == 1);
    CHECK_TEXT(a->job.id, "j1");
    CHECK_TEXT(a->job.metadata, "{\"a\":\"\xC3\xA4\"}");
    CHECK_TEXT(a->job.webhook, "https://example.org/hook");
    CHECK_TEXT(a->job.tier, "pro");
    CHECK_INT(a->job.priority, 3);
    CHECK(a->job.local_only);
    CHECK_BYTES(a->job.request_sha256, job.request_sha256, 32);
    CHECK_INT(a->job.state, SP_JOB_RUNNING);
    CHECK_INT(a->job.tries, 1);
    CHECK(a->job.started_unix_ms > 0);
    CHECK_TEXT(a->body, "the body");
    CHECK_INT(sp_jobs_queue_depth(jobs), 0);
    uint64_t fence = a->job.fence;
    CHECK(fence > 0);
    CHECK_INT(claim(jobs)->count, 0); /* it is taken */

    CHECK_INT(renew(jobs, "j1", fence, 40)->status, SP_OK);
    a = get(jobs, "acme", "j1");
    CHECK_INT(a->job.progress_percent, 40);
    CHECK(!a->result);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{\"top\":1}")->status, SP_OK);
    a = get(jobs, "acme", "j1");
    CHECK_INT(a->job.state, SP_JOB_DONE);
    CHECK_TEXT(a->result, "{\"top\":1}");
    CHECK(a->job.finished_unix_ms >= a->job.started_unix_ms && a->job.expires_unix_ms > a->job.finished_unix_ms);
    CHECK(a->job.webhook_pending);
    CHECK_INT(get(jobs, "other", "j1")->status, SP_NOT_FOUND); /* nor may it be told that there is one */
    CHECK_INT(get(jobs, NULL, "j1")->status, SP_OK);
    CHECK_INT(get(jobs, NULL, "j2")->status, SP_NOT_FOUND);
    store_end();
}

TEST(a_job_survives_a_restart)
{
    store_begin();
    sp_job first = job_make("j1"), second = job_make("j2");
    CHECK_INT(add(jobs, &first, sp_view_of("one"))->status, SP_OK);
    CHECK_INT(add(jobs, &second, big_body())->status, SP_OK);
    CHECK_INT(claim(jobs)->count, 1);
    store_reopen();
    CHECK_INT(sp_jobs_queue_depth(jobs) > 0, 1);
    answer *a = claim(jobs);
    REQUIRE(a->count == 1);
    if (strcmp(a->job.id, "j1") == 0) /* Redis: only after three missed renewals */
        a = claim(jobs);
    REQUIRE(a->count == 1);
    CHECK_TEXT(a->job.id, "j2");
    CHECK_INT(a->body_bytes, big_body().size_bytes);
    CHECK_BYTES(a->body, big_body().data, a->body_bytes);
    store_end();
}

TEST(the_first_finish_wins)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    uint64_t fence = claim(jobs)->job.fence;
    CHECK_INT(finish(jobs, "j1", fence + 1, SP_JOB_DONE, "{\"who\":\"stranger\"}")->status, SP_CONFLICT);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{\"who\":\"first\"}")->status, SP_OK);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{\"who\":\"first\"}")->status, SP_OK); /* said twice by the same */
    answer *a = finish(jobs, "j1", fence, SP_JOB_FAILED, "{\"who\":\"second\"}");
    CHECK_INT(a->status, SP_CONFLICT);
    CHECK_TEXT(a->result, "{\"who\":\"first\"}");
    CHECK_INT(renew(jobs, "j1", fence, 50)->status, SP_CONFLICT);
    CHECK_INT(release(jobs, "j1", fence, false, "")->status, SP_CONFLICT);
    a = get(jobs, NULL, "j1");
    CHECK_INT(a->job.state, SP_JOB_DONE);
    CHECK_TEXT(a->result, "{\"who\":\"first\"}");
    store_end();
}

TEST(an_old_claim_cannot_write_over_a_new_one)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    uint64_t old = claim(jobs)->job.fence;
    CHECK_INT(release(jobs, "j1", old, false, "taken from a dead worker")->status, SP_OK);
    answer *a = claim(jobs);
    REQUIRE(a->count == 1);
    CHECK_INT(a->job.tries, 1); /* the first one was not its fault */
    uint64_t fence = a->job.fence;
    CHECK(fence > old);
    CHECK_TEXT(a->body, "x");
    CHECK_INT(finish(jobs, "j1", old, SP_JOB_DONE, "{\"old\":1}")->status, SP_CONFLICT);
    CHECK_INT(renew(jobs, "j1", old, 1)->status, SP_CONFLICT);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{\"new\":1}")->status, SP_OK);
    CHECK_TEXT(get(jobs, NULL, "j1")->result, "{\"new\":1}");
    store_end();
}

TEST(after_its_tries_a_job_fails)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    for (int i = 1; i <= 3; i++) {
        answer *a = claim(jobs);
        REQUIRE(a->count == 1);
        CHECK_INT(a->job.tries, i);
        CHECK_INT(release(jobs, "j1", a->job.fence, true, "it \"broke\"")->status, SP_OK);
    }
    CHECK_INT(claim(jobs)->count, 0);
    answer *a = get(jobs, NULL, "j1");
    CHECK_INT(a->job.state, SP_JOB_FAILED);
    CHECK_TEXT(a->result, "{\"error\":\"it \\\"broke\\\"\",\"code\":\"tries_exhausted\"}");
    store_end();
}

TEST(higher_priority_goes_first_then_age)
{
    static const struct {
        const char *id;
        int priority;
    } given[] = { { "a", 0 }, { "b", -5 }, { "c", 5 }, { "d", 0 }, { "e", 5 } };
    store_begin();
    for (size_t i = 0; i < SP_ARRAY_LEN(given); i++) {
        sp_job job = job_make(given[i].id);
        job.priority = given[i].priority;
        job.created_unix_ms = 1000 + (int64_t)i;
        CHECK_INT(add(jobs, &job, (sp_view){ 0 })->status, SP_OK);
    }
    char order[16] = "";
    for (answer *a; (a = claim(jobs))->count == 1 && strlen(order) < 10;) {
        order[strlen(order)] = a->job.id[0];
        CHECK_INT(a->body_bytes, 0);
    }
    CHECK_TEXT(order, "ceadb");
    store_end();
}

TEST(an_idempotency_key_is_one_job)
{
    store_begin();
    sp_job job = job_make("j1"), again = job_make("j2"), other = job_make("j3"), elsewhere = job_make("j4");
    for (sp_job *j[] = { &job, &again, &other, &elsewhere }, **at = j; at < j + 4; at++)
        (void)snprintf((*at)->idempotency_key, sizeof((*at)->idempotency_key), "key-1");
    memset(other.request_sha256, 9, 32);
    (void)snprintf(elsewhere.tenant, sizeof(elsewhere.tenant), "other");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    answer *a = add(jobs, &again, sp_view_of("x"));
    CHECK_INT(a->status, SP_OK);
    CHECK(a->existed);
    CHECK_TEXT(a->job.id, "j1");
    a = add(jobs, &other, sp_view_of("y"));
    CHECK_INT(a->status, SP_CONFLICT);
    CHECK_TEXT(a->error.code, "idempotency_key_reused");
    CHECK_INT(add(jobs, &elsewhere, sp_view_of("x"))->existed, false);
    CHECK_INT(get(jobs, NULL, "j2")->status, SP_NOT_FOUND);
    CHECK_INT(get(jobs, NULL, "j3")->status, SP_NOT_FOUND);
    CHECK_INT(sp_jobs_queue_depth(jobs), 2);
    a = add(jobs, &(sp_job){ .id = "j1", .tenant = "acme" }, sp_view_of("z"));
    CHECK_INT(a->status, SP_CONFLICT); /* the id is taken */
    a = claim(jobs);
    CHECK_TEXT(a->body, "x");
    CHECK_INT(finish(jobs, "j1", a->job.fence, SP_JOB_DONE, "{\"r\":1}")->status, SP_OK);
    a = add(jobs, &again, sp_view_of("x"));
    CHECK(a->existed && a->job.state == SP_JOB_DONE);
    CHECK_TEXT(a->result, "{\"r\":1}");
    store_end();
}

TEST(deleting_cancels_then_erases)
{
    store_begin();
    sp_job job = job_make("j1"), two = job_make("j2");
    CHECK_INT(add(jobs, &job, big_body())->status, SP_OK);
    CHECK_INT(add(jobs, &two, big_body())->status, SP_OK);
    CHECK_INT(delete(jobs, "other", "j1")->status, SP_NOT_FOUND);
    answer *a = delete(jobs, "acme", "j1"); /* queued */
    CHECK_INT(a->status, SP_OK);
    CHECK_INT(a->job.state, SP_JOB_CANCELLED);
    CHECK_INT(sp_jobs_queue_depth(jobs), 1);
    a = claim(jobs);
    REQUIRE(a->count == 1);
    CHECK_TEXT(a->job.id, "j2");
    uint64_t fence = a->job.fence;
    CHECK_INT(delete(jobs, NULL, "j2")->job.state, SP_JOB_CANCELLED); /* running */
    CHECK_INT(renew(jobs, "j2", fence, 10)->status, SP_CONFLICT);
    CHECK_INT(finish(jobs, "j2", fence, SP_JOB_DONE, "{}")->status, SP_CONFLICT);
    CHECK_INT(claim(jobs)->count, 0);
    CHECK_INT(get(jobs, "acme", "j2")->job.state, SP_JOB_CANCELLED);
    CHECK_INT(delete(jobs, "acme", "j2")->status, SP_OK);
    CHECK_INT(get(jobs, "acme", "j2")->status, SP_NOT_FOUND);
    CHECK_INT(delete(jobs, "acme", "j2")->status, SP_NOT_FOUND);
    store_end();
}

TEST(a_list_has_pages_and_filters)
{
    store_begin();
    for (int i = 0; i < 25; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "j%02d", i);
        sp_job job = job_make(id);
        if (i % 2)
            (void)snprintf(job.task, sizeof(job.task), "detect");
        if (i % 5 == 0)
            (void)snprintf(job.tenant, sizeof(job.tenant), "other");
        CHECK_INT(add(jobs, &job, (sp_view){ 0 })->status, SP_OK);
    }
    char cursor[SP_LIMIT_JOB_ID_BYTES] = "", before[SP_LIMIT_JOB_ID_BYTES] = "j99";
    int seen = 0;
    for (int pages = 0; pages < 10; pages++) {
        answer *a = list(jobs, "acme", -1, NULL, cursor, 7);
        REQUIRE(a->status == SP_OK);
        for (int i = 0; i < a->count; i++) {
            CHECK(strcmp(a->ids[i], before) < 0);
            memcpy(before, a->ids[i], sizeof(before));
        }
        seen += a->count;
        memcpy(cursor, a->cursor, sizeof(cursor));
        if (!cursor[0])
            break;
    }
    CHECK_INT(seen, 20);
    CHECK_INT(list(jobs, NULL, -1, "detect", NULL, 100)->count, 12);
    CHECK_INT(list(jobs, "other", -1, "detect", "", 100)->count, 2);
    CHECK_INT(list(jobs, "nobody", -1, NULL, NULL, 100)->count, 0);
    (void)claim(jobs);
    CHECK_INT(list(jobs, NULL, SP_JOB_RUNNING, NULL, NULL, 100)->count, 1);
    CHECK_INT(list(jobs, NULL, SP_JOB_QUEUED, NULL, NULL, 100)->count, 24);
    CHECK_INT(list(jobs, NULL, SP_JOB_QUEUED, NULL, NULL, 0)->count, 1); /* a limit is at least one */
    store_end();
}

TEST(webhooks_come_due_until_they_are_delivered)
{
    store_begin();
    sp_job job = job_make("j1"), plain = job_make("j2");
    (void)snprintf(job.webhook, sizeof(job.webhook), "https://example.org/");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(add(jobs, &plain, sp_view_of("x"))->status, SP_OK);
    for (int i = 0; i < 2; i++) {
        answer *a = claim(jobs);
        uint64_t fence = a->job.fence;
        char id[SP_LIMIT_JOB_ID_BYTES];
        memcpy(id, a->job.id, sizeof(id));
        CHECK_INT(finish(jobs, id, fence, SP_JOB_DONE, "{}")->status, SP_OK);
    }
    answer *a = webhooks_due(jobs, 10);
    REQUIRE(a->status == SP_OK && a->count == 1);
    CHECK_TEXT(a->job.id, "j1");
    CHECK_INT(webhooks_due(jobs, 10)->count, 0); /* it has been handed out */
    CHECK_INT(webhook_done(jobs, "j1", false, 1)->status, SP_OK); /* try again at 1970 */
    a = webhooks_due(jobs, 10);
    REQUIRE(a->count == 1);
    CHECK_INT(a->job.webhook_tries, 1);
    CHECK_INT(webhook_done(jobs, "j1", true, 0)->status, SP_OK);
    CHECK_INT(webhooks_due(jobs, 10)->count, 0);
    CHECK(!get(jobs, NULL, "j1")->job.webhook_pending);
    CHECK_INT(webhook_done(jobs, "j9", true, 0)->status, SP_NOT_FOUND);
    store_end();
}

TEST(what_has_expired_is_swept)
{
    store_begin();
    sp_job late = job_make("j1"), waits = job_make("j2"), later = job_make("j3");
    late.expires_unix_ms = 5; /* 1970: it was not run in time */
    later.expires_unix_ms = sp_clock_wall_ns() / SP_NS_PER_MS + 3600000;
    CHECK_INT(add(jobs, &late, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(add(jobs, &waits, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(add(jobs, &later, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(sweep(jobs)->status, SP_OK);
    answer *a = get(jobs, NULL, "j1");
    CHECK_INT(a->job.state, SP_JOB_FAILED);
    CHECK(a->result && strstr(a->result, "\"expired\""));
    CHECK_INT(sp_jobs_queue_depth(jobs), 2);
    CHECK_INT(get(jobs, NULL, "j2")->job.state, SP_JOB_QUEUED);
    CHECK_INT(get(jobs, NULL, "j3")->job.state, SP_JOB_QUEUED);
    store_end();
}

TEST(bad_calls_are_told_so)
{
    store_begin();
    CHECK_INT(add(jobs, &(sp_job){ .id = "../../etc/passwd", .tenant = "a" }, sp_view_of("x"))->status, SP_INVALID);
    CHECK_INT(add(jobs, &(sp_job){ .id = "", .tenant = "a" }, sp_view_of("x"))->status, SP_INVALID);
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    uint64_t fence = claim(jobs)->job.fence;
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_QUEUED, "{}")->status, SP_INVALID);
    char *long_result = calloc(1, SP_LIMIT_JOB_RESULT_BYTES + 2);
    REQUIRE(long_result);
    memset(long_result, ' ', SP_LIMIT_JOB_RESULT_BYTES + 1);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, long_result)->status, SP_TOO_LARGE);
    free(long_result);
    CHECK_INT(finish(jobs, "j7", fence, SP_JOB_DONE, "{}")->status, SP_CONFLICT);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{}")->status, SP_OK);
    store_end();
}

/* --- random calls against a model that fits in a page ------------------------------------------------------------ */

#define MODEL_JOBS 12
typedef struct model_job {
    bool there;
    sp_job_state state;
    int tries;
    uint64_t fence; /* of the last claim */
} model_job;

static void model_step(model_job *model)
{
    int i = test_random_between(0, MODEL_JOBS - 1);
    char id[16];
    (void)snprintf(id, sizeof(id), "m%02d", i);
    model_job *m = &model[i];
    bool stale = test_random_between(0, 3) == 0;
    uint64_t fence = stale && m->fence ? m->fence - 1 : m->fence;
    bool ours = m->there && m->state == SP_JOB_RUNNING && fence == m->fence;
    sp_job job = job_make(id);
    answer *a;
    switch (test_random_between(0, 6)) {
    case 0:
        a = add(jobs, &job, sp_view_of(id));
        CHECK_INT(a->status, m->there ? SP_CONFLICT : SP_OK);
        if (!m->there)
            *m = (model_job){ .there = true, .state = SP_JOB_QUEUED };
        break;
    case 1:
    case 2:
        a = claim(jobs);
        if (a->count) {
            m = &model[strtol(a->job.id + 1, NULL, 10)];
            CHECK(m->there && m->state == SP_JOB_QUEUED && a->job.fence > m->fence && a->job.tries == m->tries + 1);
            CHECK_TEXT(a->body, a->job.id);
            *m = (model_job){ true, SP_JOB_RUNNING, a->job.tries, a->job.fence };
        } else {
            for (int k = 0; k < MODEL_JOBS; k++)
                CHECK(!model[k].there || model[k].state != SP_JOB_QUEUED);
        }
        break;
    case 3:
        CHECK_INT(finish(jobs, id, fence, SP_JOB_DONE, stale ? "{\"stale\":1}" : "{}")->status, ours ? SP_OK : m->there && m->state == SP_JOB_DONE && fence == m->fence && !stale ? SP_OK : SP_CONFLICT);
        if (ours)
            m->state = SP_JOB_DONE;
        break;
    case 4: {
        bool counts = test_random_between(0, 1);
        CHECK_INT(release(jobs, id, fence, counts, "why")->status, ours ? SP_OK : SP_CONFLICT);
        if (ours && counts && m->tries >= 3)
            m->state = SP_JOB_FAILED;
        else if (ours) {
            m->state = SP_JOB_QUEUED;
            m->tries -= !counts;
        }
        break;
    }
    case 5:
        CHECK_INT(renew(jobs, id, fence, 5)->status, ours ? SP_OK : SP_CONFLICT);
        break;
    default:
        CHECK_INT(delete(jobs, NULL, id)->status, m->there ? SP_OK : SP_NOT_FOUND);
        if (m->there && (m->state == SP_JOB_QUEUED || m->state == SP_JOB_RUNNING))
            m->state = SP_JOB_CANCELLED;
        else
            m->there = false;
    }
    int queued = 0;
    for (int k = 0; k < MODEL_JOBS; k++)
        queued += model[k].there && model[k].state == SP_JOB_QUEUED;
    CHECK_INT(sp_jobs_queue_depth(jobs), queued);
    a = get(jobs, NULL, id);
    m = &model[i];
    CHECK_INT(a->status, m->there ? SP_OK : SP_NOT_FOUND);
    if (m->there && a->status == SP_OK)
        CHECK_INT(a->job.state, m->state);
}

TEST(random_calls_agree_with_the_model)
{
    model_job model[MODEL_JOBS] = { 0 };
    store_begin();
    for (int i = 0; i < 600; i++)
        model_step(model);
    store_end();
}

#endif
