/* SPDX-License-Identifier: Apache-2.0
 * The house with real worker processes of the noop kind: leases, deaths, deadlines, stale answers, poison. The program
 * under test is SPILLWAY_PROGRAM (meson sets it). */
#include "route/house.h"

#include "base/clock.h"
#include "base/machine.h"
#include "base/metrics.h"
#include "route/internal.h"
#include "test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fixture {
    sp_loop *loop;
    sp_house *house;
    int answered, ok;
    sp_status last_status;
    char last_code[32];
    int last_attempts;
    char last_link[32], last_reason[96];
    char payload[64];
} fixture;

static void open_house(fixture *f, const char *workers, const char *faults, int64_t link_timeout_ns)
{
    sp_error err = { 0 };
    *f = (fixture){ 0 };
    const char *program = getenv("SPILLWAY_PROGRAM");
    if (!program)
        SKIP("SPILLWAY_PROGRAM is not set: run by meson test");
    (void)setenv("SPILLWAY_FAULTS", faults, 1); /* for the workers; this process never arms its own */
    sp_house_config config = { .executable = program, .workers = workers, .link_timeout_ns = link_timeout_ns };
    REQUIRE(sp_loop_new(&f->loop, &err) == SP_OK);
    sp_status s = sp_house_new(&config, f->loop, &f->house, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "house: %s", err.message);
    REQUIRE(s == SP_OK);
}

static void close_house(fixture *f)
{
    sp_house_free(f->house, 1000);
    sp_loop_free(f->loop);
}

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    fixture *f = context;
    f->answered++;
    f->ok += answer->status == SP_OK;
    f->last_status = answer->status;
    f->last_attempts = answer->attempt_count;
    (void)snprintf(f->last_code, sizeof(f->last_code), "%s", answer->error.code);
    (void)snprintf(f->last_link, sizeof(f->last_link), "%s", answer->link);
    if (answer->attempt_count)
        (void)snprintf(f->last_reason, sizeof(f->last_reason), "%s", answer->attempts[0].reason);
    (void)snprintf(f->payload, sizeof(f->payload), "%.*s", (int)answer->payload.size_bytes,
                   answer->payload.data ? (const char *)answer->payload.data : "");
    sp_request_close(request);
}

static sp_request *ask(fixture *f, const char *body, int timeout_ms)
{
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry = 0;
    int64_t now_ns = sp_clock_now_ns();
    sp_request_params params = { .task = SP_TASK_NOOP, .received_ns = now_ns, .deadline_ns = now_ns + timeout_ms * SP_NS_PER_MS };
    sp_status s = sp_request_open(f->house, &params, &request, &retry, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "open: %s", err.message);
    REQUIRE(s == SP_OK);
    REQUIRE(sp_request_append(request, body, strlen(body), &err) == SP_OK);
    sp_request_submit(request, done, f);
    return request;
}

static void turn_until(fixture *f, int answers, int at_most_ms)
{
    int64_t until_ns = sp_clock_now_ns() + at_most_ms * SP_NS_PER_MS;
    while (f->answered < answers && sp_clock_now_ns() < until_ns)
        (void)sp_loop_turn(f->loop, 50 * SP_NS_PER_MS, NULL);
}

static int64_t stale_count(void)
{
    return sp_metric_value(sp_metric_get(SP_METRIC_COUNTER, "spillway_stale_completions_total", "", ""));
}

TEST(an_echo_comes_back)
{
    fixture f;
    open_house(&f, "noop0", "", 0);
    ask(&f, "hello", 10000);
    turn_until(&f, 1, 10000);
    CHECK_INT(f.last_status, SP_OK);
    CHECK_TEXT(f.payload, "hello");
    CHECK_TEXT(f.last_link, "noop0");
    CHECK_INT(f.last_attempts, 1);
    close_house(&f);
}

TEST(a_large_body_travels_in_a_memfd)
{
    fixture f;
    open_house(&f, "noop0", "", 0);
    static char body[SP_LIMIT_SLOT_INLINE_BYTES + 2000];
    memset(body, 'x', sizeof(body) - 1);
    ask(&f, body, 10000);
    turn_until(&f, 1, 10000);
    CHECK_INT(f.last_status, SP_OK);
    CHECK(strncmp(f.payload, body, sizeof(f.payload) - 1) == 0);
    close_house(&f);
}

TEST(every_request_survives_a_worker_that_is_killed)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:kill@n=50", 0);
    int sent = 0;
    while (sent < 500) {
        for (int i = 0; i < 20; i++, sent++)
            ask(&f, "again", 20000);
        turn_until(&f, sent, 20000);
    }
    CHECK_INT(f.answered, 500);
    CHECK_INT(f.ok, 500);
    sp_worker_info info;
    sp_house_worker_info(f.house, 0, &info);
    CHECK(info.restarts >= 8);
    close_house(&f);
}

TEST(a_stopped_worker_costs_nothing)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:stop@n=3", 0);
    for (int i = 0; i < 8; i++)
        ask(&f, "go on", 20000);
    turn_until(&f, 8, 20000);
    CHECK_INT(f.ok, 8);
    close_house(&f);
}

TEST(a_busy_loop_is_ended_by_the_watchdog)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:spin@n=2", 0);
    for (int i = 0; i < 4; i++)
        ask(&f, "work", 120000);
    turn_until(&f, 4, 120000); /* the watchdog counts CPU time, and a loaded machine gives little a second */
    CHECK_INT(f.ok, 4); /* the looper runs alone the second time, where it is the first pass, and answers */
    close_house(&f);
}

TEST(a_body_that_kills_twice_is_refused)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:segv@body-prefix=CRASHME", 0);
    int good = 0;
    for (int i = 0; i < 40; i++) {
        ask(&f, "CRASHME", 20000);
        ask(&f, "good", 20000);
        good++;
    }
    turn_until(&f, 80, 20000);
    CHECK_INT(f.answered, 80);
    CHECK_INT(f.ok, good);
    sp_worker_info info;
    sp_house_worker_info(f.house, 0, &info);
    CHECK_INT(info.restarts, 2);
    ask(&f, "CRASHME", 20000);
    turn_until(&f, 81, 20000);
    CHECK_TEXT(f.last_code, "crashed_model");
    CHECK_INT(f.last_status, SP_INTERNAL);
    close_house(&f);
}

TEST(hanging_up_does_not_make_a_crasher_anonymous)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:sleep=30@body-prefix=CRASHME,worker.batch:segv@body-prefix=CRASHME", 0);
    sp_worker_info info;
    for (int i = 0; i < 4; i++) {
        do {
            (void)sp_loop_turn(f.loop, 20 * SP_NS_PER_MS, NULL);
            sp_house_worker_info(f.house, 0, &info);
        } while (info.state != SP_WORKER_READY);
        sp_request *request = ask(&f, "CRASHME", 20000);
        (void)sp_loop_turn(f.loop, 10 * SP_NS_PER_MS, NULL); /* it is in hand by now */
        if (i < 2)
            sp_request_cancel(request);
        int64_t until_ns = sp_clock_now_ns() + 300 * SP_NS_PER_MS;
        while (sp_clock_now_ns() < until_ns)
            (void)sp_loop_turn(f.loop, 20 * SP_NS_PER_MS, NULL);
    }
    CHECK_INT(f.answered, 2);
    CHECK_TEXT(f.last_code, "crashed_model");
    CHECK_INT(info.restarts, 2);
    close_house(&f);
}

TEST(a_slow_worker_is_taken_over_and_its_late_answer_dropped)
{
    fixture f;
    int64_t stale = stale_count();
    open_house(&f, "noop0,noop1", "noop0/worker.batch:sleep=400", 100 * SP_NS_PER_MS);
    sp_worker_info zero, one;
    do {
        (void)sp_loop_turn(f.loop, 20 * SP_NS_PER_MS, NULL);
        sp_house_worker_info(f.house, 0, &zero);
        sp_house_worker_info(f.house, 1, &one);
    } while (zero.state != SP_WORKER_READY || one.state != SP_WORKER_READY);
    ask(&f, "who", 5000);
    turn_until(&f, 1, 5000);
    CHECK_INT(f.last_status, SP_OK);
    CHECK_TEXT(f.last_link, "noop1");
    CHECK_INT(f.last_attempts, 2);
    int64_t until_ns = sp_clock_now_ns() + SP_NS_PER_S;
    while (stale_count() == stale && sp_clock_now_ns() < until_ns)
        (void)sp_loop_turn(f.loop, 50 * SP_NS_PER_MS, NULL);
    CHECK_INT(stale_count(), stale + 1);
    CHECK_INT(f.answered, 1);
    close_house(&f);
}

TEST(a_deadline_is_kept_whatever_the_worker_does)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:sleep=3000@n=1", 0);
    sp_worker_info info;
    do {
        (void)sp_loop_turn(f.loop, 20 * SP_NS_PER_MS, NULL);
        sp_house_worker_info(f.house, 0, &info);
    } while (info.state != SP_WORKER_READY);
    ask(&f, "late", 200);
    ask(&f, "behind it", 300);
    turn_until(&f, 2, 2000);
    CHECK_INT(f.answered, 2);
    CHECK_INT(f.ok, 0);
    CHECK_INT(f.last_status, SP_BUSY); /* the second one never had its turn */
    CHECK_TEXT(f.last_code, "deadline");
    close_house(&f);
}

TEST(a_withdrawn_request_calls_nobody_back)
{
    fixture f;
    open_house(&f, "noop0", "worker.batch:sleep=100", 0);
    sp_request *request = ask(&f, "never mind", 5000);
    ask(&f, "but this", 5000);
    sp_request_cancel(request);
    turn_until(&f, 1, 5000);
    CHECK_INT(f.answered, 1);
    CHECK_TEXT(f.payload, "but this");
    close_house(&f);
}

TEST(when_every_slot_is_taken_the_next_is_told_when_to_return)
{
    fixture f;
    open_house(&f, "noop0", "", 0);
    sp_request *all[SP_LIMIT_SLOTS];
    sp_error err = { 0 };
    int retry = 0;
    sp_request_params params = { .task = SP_TASK_NOOP, .deadline_ns = INT64_MAX };
    for (int i = 0; i < SP_LIMIT_SLOTS; i++)
        REQUIRE(sp_request_open(f.house, &params, &all[i], &retry, &err) == SP_OK);
    sp_request *more = NULL;
    CHECK_INT(sp_request_open(f.house, &params, &more, &retry, &err), SP_BUSY);
    CHECK(retry >= 1);
    for (int i = 0; i < SP_LIMIT_SLOTS; i++)
        sp_request_close(all[i]);
    CHECK_INT(sp_request_open(f.house, &params, &more, &retry, &err), SP_OK);
    sp_request_close(more);
    close_house(&f);
}

TEST(bodies_are_admitted_by_their_bytes)
{
    fixture f = { 0 };
    sp_error err = { 0 };
    int retry;
    const char *program = getenv("SPILLWAY_PROGRAM");
    if (!program)
        SKIP("SPILLWAY_PROGRAM is not set: run by meson test");
    (void)setenv("SPILLWAY_FAULTS", "", 1);
    sp_house_config config = { .executable = program, .workers = "noop0", .bodies_limit_bytes = 300000 };
    REQUIRE(sp_loop_new(&f.loop, &err) == SP_OK);
    REQUIRE(sp_house_new(&config, f.loop, &f.house, &err) == SP_OK);
    static const uint8_t bytes[200000];
    sp_request_params params = { .task = SP_TASK_NOOP, .deadline_ns = INT64_MAX };
    sp_request *first = NULL, *second = NULL;
    REQUIRE(sp_request_open(f.house, &params, &first, &retry, &err) == SP_OK);
    REQUIRE(sp_request_open(f.house, &params, &second, &retry, &err) == SP_OK);
    CHECK_INT(sp_request_append(first, bytes, sizeof(bytes), &err), SP_OK);
    CHECK_INT(sp_request_append(second, bytes, sizeof(bytes), &err), SP_BUSY);
    CHECK_TEXT(err.code, "bodies");
    sp_request_close(first); /* gives its bytes back */
    CHECK_INT(sp_request_append(second, bytes, sizeof(bytes), &err), SP_OK);
    sp_request_close(second);
    close_house(&f);
}

TEST(a_worker_that_cannot_start_is_given_up_and_says_why)
{
    fixture f;
    open_house(&f, "noop0", "worker.load:fail", 0);
    ask(&f, "anyone?", 30000);
    turn_until(&f, 1, 30000);
    CHECK_INT(f.last_status, SP_UNAVAILABLE);
    CHECK_TEXT(f.last_code, "no_link");
    sp_worker_info info;
    sp_house_worker_info(f.house, 0, &info);
    CHECK_INT(info.state, SP_WORKER_QUARANTINED);
    CHECK(strstr(info.reason, "worker.load") != NULL);
    close_house(&f);
}

TEST(a_device_that_is_not_here_is_not_tried_again)
{
    fixture f;
    open_house(&f, "cuda0,noop0", "", 0);
    sp_worker_info info;
    int64_t until_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S;
    do {
        (void)sp_loop_turn(f.loop, 20 * SP_NS_PER_MS, NULL);
        sp_house_worker_info(f.house, 0, &info);
    } while ((info.state == SP_WORKER_STARTING || info.state == SP_WORKER_BACKOFF) && sp_clock_now_ns() < until_ns);
    if (info.state == SP_WORKER_READY)
        SKIP("this machine has a CUDA device");
    CHECK_INT(info.state, SP_WORKER_QUARANTINED);
    CHECK_INT(info.restarts, 1); /* once: it said that it cannot */
    CHECK(*info.reason);
    ask(&f, "still here", 10000); /* the next link answers */
    turn_until(&f, 1, 10000);
    CHECK_INT(f.last_status, SP_OK);
    CHECK_TEXT(f.last_link, "noop0");
    close_house(&f);
}

TEST(a_worker_that_scribbles_over_its_page_harms_nobody_else)
{
    fixture f;
    open_house(&f, "noop0,noop1", "", 0);
    int sent = 0;
    for (int round = 0; round < 200; round++) {
        /* What the bad one sits on waits for its deadline: leave it places enough. */
        for (int64_t until_ns = sp_clock_now_ns() + 10 * SP_NS_PER_S;
             sp_house_open_count(f.house) > SP_LIMIT_SLOTS - 8 && sp_clock_now_ns() < until_ns;)
            (void)sp_loop_turn(f.loop, 50 * SP_NS_PER_MS, NULL);
        for (int i = 0; i < 4; i++, sent++)
            ask(&f, "steady", 1000);
        sp_worker *bad = &f.house->workers[0];
        if (bad->page) { /* everything a broken worker could write, at any time */
            uint8_t *memory = (uint8_t *)bad->page;
            for (int i = 0; i < 64; i++)
                memory[test_random() % sizeof(sp_worker_page)] = (uint8_t)test_random();
            if (round % 8 == 0)
                atomic_store(&bad->page->completions.tail, (uint32_t)test_random());
        }
        turn_until(&f, sent, 20);
    }
    turn_until(&f, sent, 20000);
    CHECK_INT(f.answered, sent); /* each got its answer, an error at worst (what the bad one answered is anyone's guess) */
    close_house(&f);
}

TEST(short_memory_sheds_new_requests_and_says_so)
{
    sp_error err = { 0 };
    fixture f = { 0 };
    int retry = 0;
    const char *program = getenv("SPILLWAY_PROGRAM");
    if (!program)
        SKIP("SPILLWAY_PROGRAM is not set: run by meson test");
    sp_machine machine;
    sp_machine_read(&machine);
    if (machine.cgroup_version == 0)
        SKIP("no memory controller is mounted here, so nobody knows how much of a limit is used");
    (void)setenv("SPILLWAY_FAULTS", "", 1);
    sp_house_config config = { .executable = program, .workers = "noop0", .memory_limit_bytes = 1 << 20 };
    REQUIRE(sp_loop_new(&f.loop, &err) == SP_OK);
    REQUIRE(sp_house_new(&config, f.loop, &f.house, &err) == SP_OK);
    sp_request_params params = { .task = SP_TASK_NOOP, .deadline_ns = INT64_MAX };
    sp_request *request = NULL;
    sp_status s = SP_OK;
    for (int64_t until_ns = sp_clock_now_ns() + 5 * SP_NS_PER_S; s == SP_OK && sp_clock_now_ns() < until_ns;) {
        (void)sp_loop_turn(f.loop, 50 * SP_NS_PER_MS, NULL);
        s = sp_request_open(f.house, &params, &request, &retry, &err);
        if (s == SP_OK)
            sp_request_close(request);
    }
    CHECK_INT(s, SP_BUSY);
    CHECK_TEXT(err.code, "memory");
    CHECK_INT(retry, 1);
    close_house(&f);
}

TEST(an_unknown_worker_kind_is_refused)
{
    sp_error err = { 0 };
    sp_loop *loop = NULL;
    sp_house *house = NULL;
    REQUIRE(sp_loop_new(&loop, &err) == SP_OK);
    sp_house_config config = { .executable = "/proc/self/exe", .workers = "codec0,gpu7" };
    CHECK_INT(sp_house_new(&config, loop, &house, &err), SP_INVALID);
    CHECK(strstr(err.message, "gpu") != NULL);
    sp_loop_free(loop);
}
