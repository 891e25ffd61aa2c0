/* SPDX-License-Identifier: Apache-2.0
 * store/jobs on SQLite: the contract, restarts, orphans, the lock, and each call and write failing in turn. */
#include "jobs_contract.h"
#define JOBS_MODEL_RESTARTS
#define JOBS_MODEL_AGE
#include "jobs_model.h"
#include "jobs_bulk_contract.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char dir[256];
static const sp_jobs_config config = { .least = SP_DURABILITY_DISK, .ttl_s = 3600, .tries = 3, .concurrency = 4 };

static void open_jobs(void)
{
    sp_durability durability = SP_DURABILITY_MEMORY;
    sp_error err = { 0 };
    if (sp_jobs_open(loop, &config, dir, "test", &jobs, &durability, &err))
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(jobs != NULL);
    CHECK_INT(durability, SP_DURABILITY_DISK);
}

static void store_begin(void)
{
    loop_begin();
    (void)snprintf(dir, sizeof(dir), "%s", dir_make());
    open_jobs();
}

static void store_end(void)
{
    sp_jobs_close(jobs);
    jobs = NULL;
    loop_end();
    dir_remove(dir);
}

static const char *store_dir(void)
{
    return dir;
}

static void store_reopen(void)
{
    sp_jobs_close(jobs);
    jobs = NULL;
    open_jobs();
}

static bool body_file_is_there(const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/bodies/%s", dir, name);
    return access(path, F_OK) == 0;
}

static void make_body_file(const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/bodies/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    (void)close(fd);
}

TEST(what_is_kept_of_a_job_survives_a_restart_and_goes_with_it)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    uint64_t fence = claim(jobs)->job.fence;
    int fd = report_make((const uint8_t *)"report", 6);
    CHECK_INT(part_put(jobs, "j1", fence, sp_view_of("a part"))->status, SP_OK);
    CHECK_INT(report_put(jobs, "j1", fence, fd, 6)->status, SP_OK);
    make_body_file("j2_p0"); /* of jobs that are not there */
    make_body_file("j2_r");
    make_body_file(".up-abcdef");
    make_body_file(".put-j1_r");
    store_reopen();
    CHECK(body_file_is_there("j1_p0") && body_file_is_there("j1_r"));
    CHECK(!body_file_is_there("j2_p0") && !body_file_is_there("j2_r"));
    CHECK(!body_file_is_there(".up-abcdef") && !body_file_is_there(".put-j1_r"));
    CHECK_TEXT(parts_get(jobs, "j1", 0)->body, "a part");
    CHECK_INT(delete(jobs, "acme", "j1")->status, SP_OK); /* cancelled */
    CHECK(!body_file_is_there("j1_p0"));
    CHECK_INT(delete(jobs, "acme", "j1")->status, SP_OK);
    CHECK(!body_file_is_there("j1_r"));
    (void)close(fd);
    store_end();
}

TEST(large_bodies_are_files_and_go_with_their_job)
{
    store_begin();
    sp_job job = job_make("j1"), small = job_make("j2"), third = job_make("j3");
    CHECK_INT(add(jobs, &job, big_body())->status, SP_OK);
    CHECK_INT(add(jobs, &small, sp_view_make(big_body().data, SP_LIMIT_JOB_INLINE_BYTES))->status, SP_OK);
    CHECK_INT(add(jobs, &third, sp_view_make(big_body().data, SP_LIMIT_JOB_INLINE_BYTES + 1))->status, SP_OK);
    CHECK(body_file_is_there("j1"));
    CHECK(!body_file_is_there("j2"));
    CHECK(body_file_is_there("j3"));
    answer *a = claim(jobs);
    CHECK(a->body_was_file);
    CHECK_INT(finish(jobs, "j1", a->job.fence, SP_JOB_DONE, "{}")->status, SP_OK);
    CHECK(!body_file_is_there("j1"));
    a = claim(jobs);
    CHECK(!a->body_was_file);
    CHECK_INT(a->body_bytes, SP_LIMIT_JOB_INLINE_BYTES);
    CHECK_INT(delete(jobs, "acme", "j3")->status, SP_OK);
    CHECK(!body_file_is_there("j3"));
    store_end();
}

TEST(a_start_sweeps_orphans_and_takes_back_what_ran)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, big_body())->status, SP_OK);
    CHECK_INT(claim(jobs)->job.tries, 1);
    make_body_file("orphan");
    make_body_file(".new");
    store_reopen();
    CHECK(!body_file_is_there("orphan"));
    CHECK(!body_file_is_there(".new"));
    CHECK(body_file_is_there("j1"));
    CHECK_INT(sp_jobs_queue_depth(jobs), 1);
    answer *a = claim(jobs);
    REQUIRE(a->count == 1);
    CHECK_INT(a->job.tries, 1); /* the restart is not its fault */
    CHECK_INT(a->body_bytes, big_body().size_bytes);
    store_end();
}

TEST(a_job_that_ends_its_server_each_time_is_given_up)
{
    store_begin();
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    for (int i = 0; i < SP_LIMIT_JOB_OWNER_DEATHS; i++) {
        REQUIRE(claim(jobs)->count == 1);
        store_reopen();
    }
    CHECK_INT(claim(jobs)->count, 0);
    answer *a = get(jobs, NULL, "j1");
    CHECK_INT(a->job.state, SP_JOB_FAILED);
    CHECK(a->result && strstr(a->result, "owner_died"));
    store_end();
}

TEST(a_body_that_was_removed_by_hand_fails_its_job)
{
    store_begin();
    sp_job job = job_make("j1"), next = job_make("j2");
    CHECK_INT(add(jobs, &job, big_body())->status, SP_OK);
    CHECK_INT(add(jobs, &next, sp_view_of("x"))->status, SP_OK);
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/bodies/j1", dir);
    CHECK_INT(unlink(path), 0);
    answer *a = claim(jobs);
    CHECK_TEXT(a->job.id, "j2");
    a = get(jobs, NULL, "j1");
    CHECK_INT(a->job.state, SP_JOB_FAILED);
    CHECK(a->result && strstr(a->result, "body_lost"));
    CHECK_INT(sp_jobs_queue_depth(jobs), 0);
    store_end();
}

TEST(a_data_directory_has_one_process)
{
    store_begin();
    sp_jobs *second = NULL;
    sp_durability durability;
    sp_error err = { 0 };
    CHECK_INT(sp_jobs_open(loop, &config, dir, "second", &second, &durability, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "data_dir_in_use");
    char pid[32];
    (void)snprintf(pid, sizeof(pid), "process %d", (int)getpid());
    CHECK(strstr(err.message, pid) != NULL);
    store_end();
}

TEST(a_file_that_is_no_database_is_said_to_be_none)
{
    loop_begin();
    (void)snprintf(dir, sizeof(dir), "%s", dir_make());
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/jobs.db", dir);
    FILE *file = fopen(path, "we");
    REQUIRE(file);
    for (int i = 0; i < 1000; i++)
        (void)fputs("this is a shopping list, not a database\n", file);
    (void)fclose(file);
    sp_durability durability;
    sp_error err = { 0 };
    CHECK_INT(sp_jobs_open(loop, &config, dir, "test", &jobs, &durability, &err), SP_CORRUPT);
    CHECK_INT(sp_jobs_open(loop, &config, "/proc/nowhere/at/all", "test", &jobs, &durability, &err), SP_UNAVAILABLE);
    loop_end();
    dir_remove(dir);
}

TEST(many_adds_share_a_commit)
{
    enum { ADDS = 200 };
    static answer answers[ADDS];
    store_begin();
    for (int i = 0; i < ADDS; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "j%03d", i);
        sp_job job = job_make(id);
        sp_jobs_add(jobs, &job, sp_view_of("body"), answer_take, &answers[i]);
    }
    for (int i = 0; i < ADDS; i++) {
        answer_wait(&answers[i]);
        CHECK_INT(answers[i].status, SP_OK);
        answer_done(&answers[i]);
    }
    CHECK_INT(sp_jobs_queue_depth(jobs), ADDS);
    store_end();
}

TEST(closing_answers_what_is_outstanding)
{
    static answer a[8];
    store_begin();
    for (int i = 0; i < 8; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "j%d", i);
        sp_job job = job_make(id);
        sp_jobs_add(jobs, &job, sp_view_of("body"), answer_take, &a[i]);
    }
    sp_jobs_close(jobs);
    for (int i = 0; i < 8; i++) {
        CHECK(a[i].came && a[i].status == SP_OK);
        answer_done(&a[i]);
    }
    open_jobs();
    CHECK_INT(sp_jobs_queue_depth(jobs), 8);
    store_end();
}

#ifdef SP_FAULTS
/* A day in the life of two jobs. Each answer is right or a clean error; what was accepted is there afterwards. */
static bool run_day(const char *rule)
{
    char accepted[4][8] = { "" };
    int accepted_count = 0, failures = 0;
    store_begin();
    REQUIRE(sp_fault_arm(rule, NULL) == SP_OK);
    for (int i = 0; i < 3; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "j%d", i);
        sp_job job = job_make(id);
        answer *a = add(jobs, &job, i == 1 ? big_body() : sp_view_of("body"));
        failures += a->status != SP_OK;
        if (a->status == SP_OK)
            memcpy(accepted[accepted_count++], id, sizeof(id));
        else
            CHECK(a->status == SP_UNAVAILABLE || a->status == SP_NOMEM);
    }
    answer *a = claim(jobs);
    failures += a->status != SP_OK;
    if (a->status == SP_OK && a->count) {
        char id[SP_LIMIT_JOB_ID_BYTES];
        uint64_t fence = a->job.fence;
        memcpy(id, a->job.id, sizeof(id));
        failures += renew(jobs, id, fence, 10)->status != SP_OK;
        a = finish(jobs, id, fence, SP_JOB_DONE, "{\"x\":1}");
        failures += a->status != SP_OK;
        CHECK(a->status == SP_OK || a->status == SP_UNAVAILABLE || a->status == SP_NOMEM);
        if (a->status == SP_OK) {
            REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
            CHECK_TEXT(get(jobs, NULL, id)->result, "{\"x\":1}");
        }
    }
    a = sweep(jobs);
    failures += a->status != SP_OK;
    REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
    store_reopen();
    CHECK_INT(list(jobs, NULL, -1, NULL, NULL, 10)->count, accepted_count);
    int finished = list(jobs, NULL, SP_JOB_DONE, NULL, NULL, 10)->count, claimed = 0;
    for (int i = 0; i < accepted_count; i++)
        CHECK_INT(get(jobs, NULL, accepted[i])->status, SP_OK);
    while ((a = claim(jobs))->count == 1) {
        CHECK(a->status == SP_OK && a->body);
        CHECK_INT(a->body_bytes, strcmp(a->job.id, "j1") ? 4 : big_body().size_bytes);
        claimed++;
    }
    CHECK_INT(claimed + finished, accepted_count);
    store_end();
    return failures > 0;
}

static void fail_each(const char *point, const char *action, int least)
{
    int n = 0;
    for (bool hit = true; hit && n < 500;) {
        char rule[64];
        (void)snprintf(rule, sizeof(rule), "%s:%s@n=%d", point, action, ++n);
        hit = run_day(rule);
    }
    CHECK(n >= least); /* the points are there */
    CHECK(n < 500);
}

TEST(each_sqlite_call_may_fail)
{
    fail_each("store.sqlite", "fail", 20);
}

TEST(each_sqlite_call_may_lack_memory)
{
    fail_each("store.sqlite", "nomem", 20);
}

TEST(each_write_may_find_the_disk_full)
{
    fail_each("store.write", "fail", 3);
    (void)run_day("store.write:fail");
    (void)run_day("store.sqlite:fail@every=3");
}

TEST(a_full_disk_says_so)
{
    store_begin();
    sp_job job = job_make("j1");
    REQUIRE(sp_fault_arm("store.write:fail", NULL) == SP_OK);
    answer *a = add(jobs, &job, big_body());
    CHECK_INT(a->status, SP_UNAVAILABLE);
    CHECK_TEXT(a->error.code, "disk_full");
    REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
    CHECK_INT(get(jobs, NULL, "j1")->status, SP_NOT_FOUND);
    CHECK(!body_file_is_there("j1"));
    CHECK_INT(sp_jobs_queue_depth(jobs), 0);
    CHECK_INT(add(jobs, &job, big_body())->status, SP_OK);
    store_end();
}

TEST(a_full_queue_says_busy)
{
    store_begin();
    REQUIRE(sp_fault_arm("store.queue:fail", NULL) == SP_OK);
    sp_job job = job_make("j1");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_BUSY);
    REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
    store_end();
}
#endif

/* --- kill -9 ----------------------------------------------------------------------------------------------------- */

typedef struct shared {
    volatile int accepted; /* ids j0 .. are in order, so a count says which */
} shared;

/* Adds until it is killed; says what was accepted through shared memory, which outlives it. */
static void add_for_ever(shared *says, int from)
{
    sp_durability durability;
    loop_begin();
    if (sp_jobs_open(loop, &config, dir, "victim", &jobs, &durability, NULL))
        _exit(1);
    for (int i = from;; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "j%06d", i);
        sp_job job = job_make(id);
        if (add(jobs, &job, i % 3 ? sp_view_of(id) : big_body())->status == SP_OK)
            says->accepted = i + 1;
    }
}

TEST(kill_9_loses_no_accepted_job)
{
    if (getenv("SPILLWAY_SANITIZER") && !strcmp(getenv("SPILLWAY_SANITIZER"), "tsan"))
        SKIP("ThreadSanitizer does not follow threads that start after a fork");
    shared *says = mmap(NULL, sizeof(*says), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(says != MAP_FAILED);
    (void)snprintf(dir, sizeof(dir), "%s", dir_make());
    for (int round = 0; round < 12; round++) {
        int from = says->accepted;
        (void)fflush(stdout);
        pid_t pid = fork();
        if (pid == 0)
            add_for_ever(says, from);
        /* Some accepted jobs later, at any moment of the next one. */
        for (int i = 0; i < 20000 && says->accepted < from + 1 + round; i++)
            (void)nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
        (void)nanosleep(&(struct timespec){ 0, test_random_between(0, 4000000) }, NULL);
        (void)kill(pid, SIGKILL);
        int how;
        (void)waitpid(pid, &how, 0);
        CHECK(WIFSIGNALED(how));
        loop_begin();
        open_jobs();
        int accepted = says->accepted, depth = sp_jobs_queue_depth(jobs);
        CHECK(accepted > from);
        /* One more may be there: committed, and killed before it could say so. */
        CHECK(depth == accepted || depth == accepted + 1);
        char id[16];
        for (int i = from; i < accepted; i++) {
            (void)snprintf(id, sizeof(id), "j%06d", i);
            CHECK_INT(get(jobs, NULL, id)->status, SP_OK);
            CHECK(i % 3 || body_file_is_there(id));
        }
        says->accepted = depth;
        sp_jobs_close(jobs);
        jobs = NULL;
        loop_end();
    }
    dir_remove(dir);
    (void)munmap(says, sizeof(*says));
}

#ifdef SP_FAULTS
typedef struct told {
    volatile bool accepted[4], finished;
} told;

/* Four jobs, one of them done, until the fault point kills us. */
static void work_until_killed(told *says, const char *rule)
{
    sp_durability durability;
    loop_begin();
    if (sp_fault_arm(rule, NULL) || sp_jobs_open(loop, &config, dir, "victim", &jobs, &durability, NULL))
        _exit(1);
    for (int i = 0; i < 4; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "j%d", i);
        sp_job job = job_make(id);
        says->accepted[i] = add(jobs, &job, i % 2 ? big_body() : sp_view_of("body"))->status == SP_OK;
    }
    answer *a = claim(jobs);
    if (a->status == SP_OK && a->count)
        says->finished = finish(jobs, "j0", a->job.fence, SP_JOB_DONE, "{\"x\":1}")->status == SP_OK;
    _exit(0);
}

/* What was said to hold, holds; what was not, is whole or not there. */
static void look_after(const told *says)
{
    int claimed = 0, there = 0;
    bool finished = says->finished;
    loop_begin();
    open_jobs();
    for (int i = 0; i < 4; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "j%d", i);
        answer *a = get(jobs, NULL, id);
        CHECK(a->status == SP_OK || (a->status == SP_NOT_FOUND && !says->accepted[i]));
        there += a->status == SP_OK;
        if (i == 0 && a->status == SP_OK && a->job.state == SP_JOB_DONE) {
            CHECK_TEXT(a->result, "{\"x\":1}");
            finished = true;
        }
    }
    for (answer *a; (a = claim(jobs))->count == 1; claimed++)
        CHECK_INT(a->body_bytes, strcmp(a->job.id, "j1") && strcmp(a->job.id, "j3") ? 4 : big_body().size_bytes);
    CHECK_INT(claimed, there - finished);
    CHECK(!says->finished || get(jobs, NULL, "j0")->job.state == SP_JOB_DONE);
    sp_jobs_close(jobs);
    jobs = NULL;
    loop_end();
}

TEST(kill_9_at_each_call_of_sqlite_and_each_write)
{
    static const char *const points[] = { "store.sqlite", "store.write" };
    if (getenv("SPILLWAY_SANITIZER") && !strcmp(getenv("SPILLWAY_SANITIZER"), "tsan"))
        SKIP("ThreadSanitizer does not follow threads that start after a fork");
    told *says = mmap(NULL, sizeof(*says), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(says != MAP_FAILED);
    for (size_t p = 0; p < SP_ARRAY_LEN(points); p++) {
        int kills = 0, how = 0;
        do {
            char rule[64];
            (void)snprintf(rule, sizeof(rule), "%s:kill@n=%d", points[p], ++kills);
            (void)snprintf(dir, sizeof(dir), "%s", dir_make());
            memset((void *)says, 0, sizeof(*says));
            (void)fflush(stdout);
            pid_t pid = fork();
            if (pid == 0)
                work_until_killed(says, rule);
            (void)waitpid(pid, &how, 0);
            look_after(says);
            dir_remove(dir);
        } while (WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL && kills < 300);
        CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 0);
        CHECK(kills > (p ? 6 : 40));
    }
    (void)munmap(says, sizeof(*says));
}
#endif
