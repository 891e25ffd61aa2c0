/* SPDX-License-Identifier: Apache-2.0
 * Random events on a house of scripted links: failures, delays, kills, reloads, cancels, hedges, retries, quotas. Whatever
 * happens, every request is answered once, with its own bytes, in time; and in the end nothing is left over. */
#include "route/internal.h"
#include "scripted.h"

#include "base/clock.h"
#include "test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 250
#define DEADLINE_MS 4000

typedef struct asked {
    struct storm *storm;
    sp_request *request; /* NULL once it is answered or withdrawn */
    char body[24];
    bool local_only;
    int64_t asked_ns, deadline_ns;
    int64_t ready_ns; /* ready_wait_ns() when it was asked */
    int answers;
} asked;

typedef struct storm {
    stage s;
    asked all[ROUNDS * 8];
    int count, answered, withdrawn, ok, late, wrong;
} storm;

/* How long this thread has stood in the run queue so far, able to run and without a processor: what a loaded machine takes
 * from every deadline. Sleeping too long, or waiting for something, is not among it. 0 where the kernel does not say. */
static int64_t ready_wait_ns(void)
{
    long long ran_ns = 0, waited_ns = 0;
    FILE *stat = fopen("/proc/thread-self/schedstat", "r");
    if (!stat)
        return 0;
    bool told = fscanf(stat, "%lld %lld", &ran_ns, &waited_ns) == 2;
    (void)fclose(stat);
    return told ? waited_ns : 0;
}

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    asked *one = context;
    storm *w = one->storm;
    one->answers++;
    one->request = NULL;
    w->answered++;
    w->ok += answer->status == SP_OK;
    int64_t late_ns = sp_clock_now_ns() - one->deadline_ns;
    int64_t waited_ns = late_ns > SP_NS_PER_S ? ready_wait_ns() - one->ready_ns : 0;
    if (late_ns - waited_ns > SP_NS_PER_S) {
        w->late++;
        printf("# late by %lld ms of %lld (%lld ms without a processor): %s (%s) %s\n", (long long)(late_ns / SP_NS_PER_MS),
               (long long)((one->deadline_ns - one->asked_ns) / SP_NS_PER_MS), (long long)(waited_ns / SP_NS_PER_MS),
               sp_status_name(answer->status), answer->error.code, answer->error.message);
        for (int i = 0; i < answer->attempt_count; i++)
            printf("#   %s %s from %lld to %lld ms: %s\n", answer->attempts[i].link, sp_status_name(answer->attempts[i].status),
                   (long long)((answer->attempts[i].start_ns - one->asked_ns) / SP_NS_PER_MS),
                   (long long)((answer->attempts[i].end_ns - one->asked_ns) / SP_NS_PER_MS), answer->attempts[i].reason);
    }
    if (answer->status == SP_OK && (answer->payload.size_bytes != strlen(one->body) ||
                                    memcmp(answer->payload.data, one->body, strlen(one->body)) != 0))
        w->wrong++;
    sp_request_close(request);
}

static void ask(storm *w)
{
    sp_error err = { 0 };
    int retry;
    asked *one = &w->all[w->count];
    int64_t now_ns = sp_clock_now_ns();
    *one = (asked){ .storm = w, .local_only = test_random() % 3 == 0, .asked_ns = now_ns, .ready_ns = ready_wait_ns() };
    one->deadline_ns = now_ns + (test_random() % 8 == 0 ? 30 : DEADLINE_MS) * SP_NS_PER_MS;
    (void)snprintf(one->body, sizeof(one->body), "%c%d", one->local_only ? 'L' : 'F', w->count);
    const sp_request_params params = { .task = SP_TASK_NOOP, .received_ns = now_ns, .deadline_ns = one->deadline_ns,
                                       .local_only = one->local_only, .priority = test_random_between(-10, 10),
                                       .force_cpu = test_random() % 5 == 0,
                                       .tier = test_random() % 2 ? "premium" : "free" };
    if (sp_request_open(w->s.house, &params, &one->request, &retry, &err))
        return; /* all places taken: told at once */
    REQUIRE(sp_request_append(one->request, one->body, strlen(one->body), &err) == SP_OK);
    w->count++;
    sp_request_submit(one->request, done, one);
}

static void change_a_script(storm *w)
{
    static const char *const names[] = { "cuda0", "cpu0", "noop0", "net0.0", "net0.1", "net1.0", "net1.1" };
    static const char *const texts[] = {
        "", "", "", "delay=5", "delay=40", "status=unavailable", "status=internal", "status=busy retry=30", "status=busy",
        "status=refused", "status=nomem", "delay=20 status=timeout", "delay=200", "units=5", "delay=30 deaf",
    };
    stage_script(&w->s, names[test_random() % SP_ARRAY_LEN(names)], texts[test_random() % SP_ARRAY_LEN(texts)]);
}

static void reload(storm *w)
{
    char yaml[1500];
    static const char *const hedges[] = { "never", "p95", "10ms" };
    (void)snprintf(yaml, sizeof(yaml),
                   "workers: cuda0,cpu0,noop0,net0,net1\n"
                   "remotes:\n"
                   "  near: {kind: spillway, url: 'http://127.0.0.1:1', keys: [{env: A, requests_per_minute: 40}, {env: B}]}\n"
                   "  far: {kind: spillway, url: 'http://127.0.0.1:2'}\n"
                   "chains:\n"
                   "  noop:\n"
                   "    retry_budget: {percent: %d}\n"
                   "    links:\n"
                   "      - {name: cuda0, hedge: %s, retries: %d, backoff: 1ms, backoff_max: 20ms, when: 'tier in [premium]'}\n"
                   "      - {name: near, hedge: %s, timeout: %dms, retries: %d, backoff: 1ms, concurrency: %d,\n"
                   "         breaker: {consecutive_failures: %d, open: 50ms, open_max: 200ms, probes: 2}}\n"
                   "      - {name: cpu0, concurrency: {least: 1, most: %d}}\n"
                   "      - {name: far, retries: 0, price: {per_call: 0.001}}\n"
                   "      - noop0\n",
                   test_random_between(0, 100), hedges[test_random() % 3], test_random_between(0, 3), hedges[test_random() % 3],
                   test_random_between(5, 100), test_random_between(0, 3), test_random_between(1, 50),
                   test_random_between(1, 10), test_random_between(1, 50));
    sp_config *config = stage_config(yaml);
    sp_house_reload(w->s.house, config);
    sp_config_unref(config);
}

static void kill_somebody(storm *w)
{
    sp_worker_info info = { 0 };
    sp_house_worker_info(w->s.house, (int)(test_random() % (uint64_t)sp_house_worker_count(w->s.house)), &info);
    if (info.pid > 0)
        (void)kill(info.pid, SIGKILL);
}

static void withdraw_one(storm *w)
{
    if (!w->count)
        return;
    asked *one = &w->all[w->count - 1 - (int)(test_random() % (uint64_t)SP_MIN(w->count, 16))];
    if (!one->request)
        return;
    sp_request_cancel(SP_STEAL(one->request));
    w->withdrawn++;
}

static void one_round(storm *w)
{
    for (int i = test_random_between(1, 7); i > 0; i--)
        ask(w);
    if (test_random() % 3 == 0)
        change_a_script(w);
    if (test_random() % 10 == 0)
        reload(w);
    if (test_random() % 40 == 0)
        kill_somebody(w);
    if (test_random() % 4 == 0)
        withdraw_one(w);
    if (test_random() % 20 == 0 && w->count && w->all[w->count - 1].request) {
        w->all[w->count - 1].deadline_ns += SP_NS_PER_S;
        sp_request_extend_deadline(w->all[w->count - 1].request, w->all[w->count - 1].deadline_ns);
    }
    stage_turn(&w->s, test_random_between(0, 12));
}

static void nothing_is_left(const sp_house *house)
{
    CHECK_INT(house->open_count, 0);
    CHECK_INT(house->leased_count, 0);
    CHECK_INT(house->free_count, SP_LIMIT_SLOTS);
    CHECK_INT(house->active[SP_TASK_NOOP], 0);
    CHECK_INT(house->body_bytes_held, 0);
    for (int i = 0; i < house->link_count; i++) {
        CHECK_INT(house->links[i].in_flight, 0);
        CHECK_INT(house->links[i].limiter.out, 0);
        CHECK(house->links[i].breaker.probes_out == 0);
    }
    CHECK(house->snapshots == house->snapshot && !house->snapshot->next); /* old ones went with their requests */
    CHECK_INT(house->snapshot->references, 1);
}

TEST(whatever_happens_each_request_is_answered_once)
{
    static storm w;
    w = (storm){ 0 };
    stage_open(&w.s, "cuda0,cpu0,noop0,net0,net1", NULL, 24);
    reload(&w);
    for (int i = 0; i < ROUNDS; i++)
        one_round(&w);
    for (int64_t until_ns = sp_clock_now_ns() + 3 * DEADLINE_MS * SP_NS_PER_MS;
         w.answered + w.withdrawn < w.count && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(w.s.loop, 20 * SP_NS_PER_MS, NULL);
    CHECK_INT(w.answered + w.withdrawn, w.count);
    CHECK_INT(w.wrong, 0);
    CHECK_INT(w.late, 0);
    for (int i = 0; i < w.count; i++)
        CHECK(w.all[i].answers <= 1);
    for (int64_t until_ns = sp_clock_now_ns() + 5 * SP_NS_PER_S;
         (w.s.house->leased_count || w.s.house->free_count < SP_LIMIT_SLOTS) && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(w.s.loop, 20 * SP_NS_PER_MS, NULL);
    nothing_is_left(w.s.house);
    char path[128], line[128];
    int at_net = 0;
    (void)snprintf(path, sizeof(path), "%s/log", w.s.folder);
    FILE *log = fopen(path, "r");
    while (log && fgets(line, sizeof(line), log)) {
        unsigned op, remote, key;
        char worker[16], body[32] = "";
        if (sscanf(line, "%15s %u %u %u %31s", worker, &op, &remote, &key, body) == 5 && strncmp(worker, "net", 3) == 0)
            at_net += body[0] == 'L';
    }
    if (log)
        (void)fclose(log);
    CHECK_INT(at_net, 0);
    printf("# %d asked, %d right, %d withdrawn\n", w.count, w.ok, w.withdrawn);
    CHECK(w.ok > w.count / 3);
    stage_close(&w.s);
}
