/* SPDX-License-Identifier: Apache-2.0
 * store/jobs on a real redis-server: the contract, what it promises of durability, outages, each call failing in turn, and
 * two servers that take over each other's jobs. */
#include "jobs_contract.h"
#include "jobs_model.h"
#include "jobs_bulk_contract.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static redis server;
static sp_jobs_config config = { .least = SP_DURABILITY_MEMORY, .ttl_s = 3600, .tries = 3, .concurrency = 4 };

static sp_jobs *open_as(const char *owner)
{
    sp_durability durability = SP_DURABILITY_MEMORY;
    sp_error err = { 0 };
    sp_jobs *opened = NULL;
    (void)snprintf(config.redis, sizeof(config.redis), "%s", server.url);
    if (sp_jobs_open(loop, &config, server.dir, owner, &opened, &durability, &err))
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(opened != NULL);
    return opened;
}

static void begin_with(const char *appendonly, const char *appendfsync)
{
    (void)signal(SIGPIPE, SIG_IGN);
    if (!redis_start(&server, appendonly, appendfsync))
        SKIP("there is no redis-server");
    loop_begin();
    jobs = open_as("one");
}

static void store_begin(void)
{
    begin_with("no", "everysec");
}

static void store_end(void)
{
    sp_jobs_close(jobs);
    jobs = NULL;
    loop_end();
    redis_stop(&server);
    (void)unsetenv("SPILLWAY_JOBS_RENEW_MS");
}

static const char *store_dir(void)
{
    return server.dir;
}

static void store_reopen(void)
{
    sp_jobs_close(jobs);
    jobs = open_as("another");
}

static void wait_ms(int ms)
{
    (void)nanosleep(&(struct timespec){ ms / 1000, (long)(ms % 1000) * 1000000 }, NULL);
}

/* --- what it promises -------------------------------------------------------------------------------------------- */

static sp_status try_open(const char *appendonly, const char *appendfsync, sp_durability least, sp_durability *ret_durability,
                          sp_error *reterr)
{
    sp_jobs *opened = NULL;
    *reterr = (sp_error){ 0 };
    if (!redis_start(&server, appendonly, appendfsync))
        SKIP("there is no redis-server");
    loop_begin();
    sp_jobs_config wants = config;
    wants.least = least;
    (void)snprintf(wants.redis, sizeof(wants.redis), "%s", server.url);
    sp_status s = sp_jobs_open(loop, &wants, "unused", "one", &opened, ret_durability, reterr);
    sp_jobs_close(opened);
    loop_end();
    redis_stop(&server);
    return s;
}

TEST(durability_is_read_from_the_server)
{
    sp_durability durability;
    sp_error err;
    CHECK_INT(try_open("yes", "always", SP_DURABILITY_AOF_ALWAYS, &durability, &err), SP_OK);
    CHECK_INT(durability, SP_DURABILITY_AOF_ALWAYS);
    CHECK_INT(try_open("yes", "everysec", SP_DURABILITY_MEMORY, &durability, &err), SP_OK);
    CHECK_INT(durability, SP_DURABILITY_AOF_EVERYSEC);
    CHECK_INT(try_open("no", "always", SP_DURABILITY_MEMORY, &durability, &err), SP_OK);
    CHECK_INT(durability, SP_DURABILITY_MEMORY);
    CHECK_INT(try_open("yes", "everysec", SP_DURABILITY_AOF_ALWAYS, &durability, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "not_durable");
    CHECK(strstr(err.message, "appendfsync always") && strstr(err.message, "aof-everysec"));
    CHECK_INT(try_open("yes", "no", SP_DURABILITY_AOF_EVERYSEC, &durability, &err), SP_UNAVAILABLE);
}

TEST(addresses_of_redis_are_checked)
{
    static const char *const bad[] = { "redis://", "redis://:80", "http://x", "rediss://x", "redis://h:99999", "redis://h:x",
                                       "redis://h/x", "redis://[::1", "redis://h:1/2/3" };
    loop_begin();
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        sp_jobs_config wants = config;
        sp_jobs *opened = NULL;
        sp_durability durability;
        sp_error err = { 0 };
        (void)snprintf(wants.redis, sizeof(wants.redis), "%s", bad[i]);
        CHECK_INT(sp_jobs_open(loop, &wants, "unused", "one", &opened, &durability, &err), SP_INVALID);
        CHECK(strstr(err.message, "redis://") != NULL);
    }
    loop_end();
}

/* --- outages ----------------------------------------------------------------------------------------------------- */

TEST(an_outage_is_told_and_got_over)
{
    begin_with("yes", "always");
    sp_job job = job_make("j1"), second = job_make("j2"), third = job_make("j3");
    CHECK_INT(add(jobs, &job, sp_view_of("one"))->status, SP_OK);
    CHECK_INT(add(jobs, &second, big_body())->status, SP_OK);
    uint64_t fence = claim(jobs)->job.fence;
    redis_kill(&server);
    for (int i = 0; i < 5; i++)
        CHECK_INT(add(jobs, &third, sp_view_of("x"))->status, SP_UNAVAILABLE);
    CHECK_TEXT(claim(jobs)->error.code, "breaker_open");
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{\"late\":1}")->status, SP_UNAVAILABLE);
    redis_restart(&server);
    answer *a = finish(jobs, "j1", fence, SP_JOB_DONE, "{\"late\":1}");
    for (int i = 0; i < 200 && a->status == SP_UNAVAILABLE; i++) {
        wait_ms(50); /* the breaker's pause */
        a = finish(jobs, "j1", fence, SP_JOB_DONE, "{\"late\":1}");
    }
    CHECK_INT(a->status, SP_OK); /* an fsynced append-only file: all is as it was */
    CHECK_TEXT(get(jobs, NULL, "j1")->result, "{\"late\":1}");
    CHECK_INT(get(jobs, NULL, "j3")->status, SP_NOT_FOUND);
    a = claim(jobs);
    REQUIRE(a->count == 1);
    CHECK_TEXT(a->job.id, "j2");
    CHECK_INT(a->body_bytes, big_body().size_bytes);
    store_end();
}

TEST(a_server_that_starts_without_redis_waits_for_it)
{
    store_begin();
    sp_jobs_close(jobs);
    redis_kill(&server);
    jobs = open_as("one");
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_UNAVAILABLE);
    redis_restart(&server);
    answer *a = add(jobs, &job, sp_view_of("x"));
    for (int i = 0; i < 200 && a->status == SP_UNAVAILABLE; i++) {
        wait_ms(50);
        a = add(jobs, &job, sp_view_of("x"));
    }
    CHECK_INT(a->status, SP_OK);
    store_end();
}

TEST(a_redis_that_hangs_holds_nobody_for_ever)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    (void)kill(server.pid, SIGSTOP);
    CHECK_INT(get(jobs, NULL, "j1")->status, SP_UNAVAILABLE); /* after its time limit */
    (void)kill(server.pid, SIGCONT);
    answer *a = get(jobs, NULL, "j1");
    for (int i = 0; i < 200 && a->status == SP_UNAVAILABLE; i++) {
        wait_ms(50);
        a = get(jobs, NULL, "j1");
    }
    CHECK_INT(a->status, SP_OK);
    CHECK_TEXT(a->job.id, "j1"); /* not a late answer to an older question */
    store_end();
}

/* --- two servers ------------------------------------------------------------------------------------------------- */

TEST(a_claim_that_is_not_renewed_is_taken_over)
{
    (void)setenv("SPILLWAY_JOBS_RENEW_MS", "100", 1);
    store_begin();
    sp_jobs *other = open_as("two");
    sp_job job = job_make("j1"), kept = job_make("j2");
    CHECK_INT(add(jobs, &job, sp_view_of("body"))->status, SP_OK);
    CHECK_INT(add(jobs, &kept, sp_view_of("body"))->status, SP_OK);
    uint64_t fence = claim(jobs)->job.fence, kept_fence = claim(jobs)->job.fence;
    answer *a = claim(other);
    for (int i = 0; i < 600 && !a->count; i++) { /* j2 is renewed, j1 is not */
        wait_ms(50);
        CHECK_INT(renew(jobs, "j2", kept_fence, 1)->status, SP_OK);
        a = claim(other);
    }
    REQUIRE(a->count == 1);
    CHECK_TEXT(a->job.id, "j1");
    CHECK_TEXT(a->body, "body");
    CHECK_INT(a->job.tries, 1);
    uint64_t new_fence = a->job.fence;
    CHECK(new_fence > fence);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{\"who\":1}")->status, SP_CONFLICT);
    CHECK_INT(finish(other, "j1", new_fence, SP_JOB_DONE, "{\"who\":2}")->status, SP_OK);
    CHECK_TEXT(get(jobs, NULL, "j1")->result, "{\"who\":2}");
    CHECK_INT(finish(jobs, "j2", kept_fence, SP_JOB_DONE, "{}")->status, SP_OK);
    sp_jobs_close(other);
    store_end();
}

TEST(a_job_that_ends_its_servers_is_given_up)
{
    (void)setenv("SPILLWAY_JOBS_RENEW_MS", "1", 1);
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("body"))->status, SP_OK);
    int claims = 0;
    for (int i = 0; i < 4000 && get(jobs, NULL, "j1")->job.state != SP_JOB_FAILED; i++) {
        claims += claim(jobs)->count;
        wait_ms(4);
    }
    CHECK_INT(claims, SP_LIMIT_JOB_OWNER_DEATHS);
    CHECK(strstr(get(jobs, NULL, "j1")->result, "owner_died") != NULL);
    store_end();
}

/* Claims and finishes for ever; says through shared memory how often it finished. */
static void work_for_ever(volatile int *finished)
{
    loop_begin();
    jobs = open_as("victim");
    for (;;) {
        answer *a = claim(jobs);
        if (a->count) {
            char id[SP_LIMIT_JOB_ID_BYTES];
            uint64_t fence = a->job.fence;
            memcpy(id, a->job.id, sizeof(id));
            wait_ms(2); /* most kills come while it has one in hand */
            *finished += finish(jobs, id, fence, SP_JOB_DONE, "{\"by\":\"victim\"}")->status == SP_OK;
        }
    }
}

TEST(a_server_that_is_killed_leaves_its_jobs_to_the_other)
{
    enum { JOBS = 120 };
    if (getenv("SPILLWAY_SANITIZER") && !strcmp(getenv("SPILLWAY_SANITIZER"), "tsan"))
        SKIP("ThreadSanitizer does not follow threads that start after a fork");
    (void)setenv("SPILLWAY_JOBS_RENEW_MS", "200", 1);
    store_begin();
    for (int i = 0; i < JOBS; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "j%03d", i);
        sp_job job = job_make(id);
        CHECK_INT(add(jobs, &job, sp_view_of(id))->status, SP_OK);
    }
    sp_jobs_close(jobs); /* no thread may live across the fork */
    loop_end();
    volatile int *finished = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(finished != MAP_FAILED);
    for (int round = 1; round <= 3; round++) {
        (void)fflush(stdout);
        pid_t pid = fork();
        if (pid == 0)
            work_for_ever(finished);
        for (int i = 0; i < 20000 && *finished < 10 * round; i++)
            wait_ms(1);
        (void)kill(pid, SIGKILL);
        int how;
        (void)waitpid(pid, &how, 0);
    }
    loop_begin();
    jobs = open_as("survivor");
    int mine = 0;
    for (int done = 0; done < 600;) {
        answer *a = claim(jobs);
        if (!a->count) {
            if (list(jobs, NULL, SP_JOB_DONE, NULL, NULL, 200)->count == JOBS)
                break;
            done++;
            wait_ms(50);
            continue;
        }
        char id[SP_LIMIT_JOB_ID_BYTES];
        uint64_t fence = a->job.fence;
        memcpy(id, a->job.id, sizeof(id));
        CHECK_TEXT(a->body, id);
        mine += finish(jobs, id, fence, SP_JOB_DONE, "{\"by\":\"survivor\"}")->status == SP_OK;
    }
    CHECK_INT(list(jobs, NULL, SP_JOB_DONE, NULL, NULL, 200)->count, JOBS);
    CHECK_INT(claim(jobs)->count, 0);
    /* One finish a kill may be written and not counted by the victim. */
    CHECK(mine + *finished <= JOBS && mine + *finished >= JOBS - 3);
    (void)munmap((void *)finished, sizeof(int));
    store_end();
}

/* --- failing calls ----------------------------------------------------------------------------------------------- */

#ifdef SP_FAULTS
/* Until Redis answers again; the breaker may be open after a fault. */
static void settle(void)
{
    answer *a = get(jobs, NULL, "none");
    for (int i = 0; i < 200 && a->status != SP_NOT_FOUND; i++) {
        wait_ms(50);
        a = get(jobs, NULL, "none");
    }
    CHECK_INT(a->status, SP_NOT_FOUND);
}

static bool is_clean(sp_status s)
{
    return s == SP_OK || s == SP_UNAVAILABLE || s == SP_NOMEM;
}

/* Two jobs added, one worked on, with one failure. Nothing accepted is lost, nothing is done twice. */
static bool run_day(int day, const char *rule)
{
    char ids[2][16];
    bool accepted[2], failed = false;
    REQUIRE(sp_fault_arm(rule, NULL) == SP_OK);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(ids[i], sizeof(ids[i]), "d%03d-%d", day, i);
        sp_job job = job_make(ids[i]);
        answer *a = add(jobs, &job, sp_view_of(ids[i]));
        CHECK(is_clean(a->status));
        accepted[i] = a->status == SP_OK;
        failed |= !accepted[i];
    }
    answer *a = claim(jobs);
    CHECK(is_clean(a->status));
    failed |= a->status != SP_OK;
    if (a->status == SP_OK && a->count) {
        char id[SP_LIMIT_JOB_ID_BYTES];
        uint64_t fence = a->job.fence;
        memcpy(id, a->job.id, sizeof(id));
        CHECK_TEXT(a->body, id);
        a = renew(jobs, id, fence, 50);
        failed |= a->status != SP_OK;
        for (int i = 0; i < 200; i++) { /* as a runner does: until it is said */
            a = finish(jobs, id, fence, SP_JOB_DONE, "{\"ok\":1}");
            CHECK(is_clean(a->status));
            failed |= a->status != SP_OK;
            if (a->status == SP_OK)
                break;
            wait_ms(20);
        }
        CHECK_INT(a->status, SP_OK);
    }
    REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
    settle();
    for (int i = 0; i < 2; i++)
        CHECK(!accepted[i] || get(jobs, NULL, ids[i])->status == SP_OK);
    /* Whatever was there, claimed in vain or added without being told so, comes out in the end. */
    for (int empty = 0; empty < 400;) {
        a = claim(jobs);
        if (!a->count) {
            int open = list(jobs, NULL, SP_JOB_RUNNING, NULL, NULL, 10)->count;
            open += list(jobs, NULL, SP_JOB_QUEUED, NULL, NULL, 10)->count;
            if (!open)
                break;
            empty++;
            wait_ms(5);
            continue;
        }
        char id[SP_LIMIT_JOB_ID_BYTES];
        memcpy(id, a->job.id, sizeof(id));
        CHECK_INT(finish(jobs, id, a->job.fence, SP_JOB_DONE, "{}")->status, SP_OK);
    }
    CHECK_INT(sp_jobs_queue_depth(jobs), 0);
    return failed;
}

static void fail_each(const char *point, const char *action)
{
    int n = 0;
    (void)setenv("SPILLWAY_JOBS_RENEW_MS", "20", 1);
    store_begin();
    for (bool hit = true; hit && n < 60;) {
        char rule[64];
        (void)snprintf(rule, sizeof(rule), "%s:%s@n=%d", point, action, ++n);
        hit = run_day(n, rule);
    }
    CHECK(n > 6 && n < 60);
    store_end();
}

TEST(each_call_of_redis_may_fail)
{
    fail_each("store.redis", "fail");
}

TEST(each_answer_of_redis_may_get_lost)
{
    fail_each("store.redis.reply", "fail");
}

TEST(each_call_of_redis_may_lack_memory)
{
    fail_each("store.redis", "nomem");
}
#endif

TEST(a_full_redis_refuses_whole_jobs)
{
    store_begin();
    char command[160];
    (void)snprintf(command, sizeof(command), "redis-cli -p %d config set maxmemory 1 > /dev/null", server.port);
    FILE *out = popen(command, "r"); /* allowed: a test's own words */
    REQUIRE(out && pclose(out) == 0);
    sp_job job = job_make("j1");
    answer *a = add(jobs, &job, sp_view_of("x"));
    CHECK_INT(a->status, SP_UNAVAILABLE);
    CHECK_TEXT(a->error.code, "redis_full");
    store_end();
}

/* --- several servers on one job ---------------------------------------------------------------------------------- */

TEST(servers_agree_on_chunks)
{
    store_begin();
    sp_jobs *second = open_as("two");
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(chunk_claim(jobs, "j1", 0)->status, SP_CONFLICT); /* it does not run */
    uint64_t fence = claim(jobs)->job.fence;
    CHECK_INT(shared_list(second, 10)->count, 0);
    CHECK_INT(share(second, "j1", fence + 1)->status, SP_CONFLICT);
    CHECK_INT(share(jobs, "j1", fence)->status, SP_OK);
    answer *a = shared_list(second, 10);
    REQUIRE(a->count == 1);
    CHECK_TEXT(a->ids[0], "j1");
    CHECK_TEXT(body_of(second, "j1")->body, "x");
    CHECK_INT(chunk_claim(jobs, "j1", 0)->status, SP_OK);
    CHECK_INT(chunk_claim(jobs, "j1", 0)->status, SP_OK); /* renewed */
    CHECK_INT(chunk_claim(second, "j1", 0)->status, SP_BUSY);
    CHECK_INT(chunk_claim(second, "j1", 7)->status, SP_OK);
    CHECK_INT(chunk_claim(jobs, "j1", 7)->status, SP_BUSY);
    CHECK_INT(part_put(second, "j1", 0, sp_view_of("of two"))->status, SP_OK);
    CHECK_TEXT(parts_get(jobs, "j1", 0)->body, "of two");
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{}")->status, SP_OK);
    CHECK_INT(part_put(second, "j1", 0, sp_view_of("late"))->status, SP_CONFLICT);
    CHECK_INT(chunk_claim(second, "j1", 7)->status, SP_CONFLICT);
    CHECK_INT(shared_list(second, 10)->count, 0);
    CHECK_INT(body_of(second, "j1")->status, SP_NOT_FOUND);
    sp_jobs_close(second);
    store_end();
}

TEST(a_chunk_of_a_server_that_died_is_free_again)
{
    (void)setenv("SPILLWAY_JOBS_RENEW_MS", "20", 1);
    store_begin();
    sp_jobs *second = open_as("two");
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    uint64_t fence = claim(jobs)->job.fence;
    CHECK_INT(share(jobs, "j1", fence)->status, SP_OK);
    CHECK_INT(chunk_claim(jobs, "j1", 3)->status, SP_OK);
    wait_ms(100); /* three renewals missed */
    CHECK_INT(chunk_claim(second, "j1", 3)->status, SP_OK);
    CHECK_INT(shared_list(second, 10)->count, 0);
    sp_jobs_close(second);
    store_end();
}
