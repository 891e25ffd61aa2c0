/* SPDX-License-Identifier: Apache-2.0
 * Chains, breakers, retries, hedges, quotas, reloads: scenarios over scripted workers. */
#include "scripted.h"

#include "base/clock.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS SP_NS_PER_MS

/* noop1 before noop0, whatever the order of the workers. */
static const char two_noops[] = "workers: noop0,noop1\n"
                                "chains:\n"
                                "  noop:\n"
                                "    links:\n"
                                "      - {name: noop1, retries: 0}\n"
                                "      - {name: noop0, retries: 0}\n";

TEST(a_chain_is_asked_in_its_order)
{
    stage s;
    stage_open(&s, "noop0,noop1", two_noops, 0);
    for (int i = 0; i < 5; i++)
        stage_one(&s, NULL, "x");
    CHECK_INT(stage_ok_of(&s, "noop1"), 5);
    stage_script(&s, "noop1", "status=internal");
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "noop0");
    CHECK_INT(s.attempt_count, 2);
    CHECK_TEXT(s.attempts[0].link, "noop1");
    CHECK_INT(s.attempts[0].status, SP_INTERNAL);
    stage_close(&s);
}

TEST(only_link_asks_that_one_or_none)
{
    stage s;
    stage_open(&s, "noop0,noop1", two_noops, 0);
    stage_one(&s, &(sp_request_params){ .only_link = "noop0" }, "x");
    CHECK_TEXT(s.link, "noop0");
    stage_script(&s, "noop0", "status=internal");
    stage_one(&s, &(sp_request_params){ .only_link = "noop0" }, "x");
    CHECK_INT(s.status, SP_INTERNAL);
    sp_request *request = NULL;
    sp_error err = { 0 };
    int retry_after_s = 0;
    const sp_request_params unknown = { .only_link = "noop7", .deadline_ns = sp_clock_now_ns() + SP_NS_PER_S };
    CHECK_INT(sp_request_open(s.house, &unknown, &request, &retry_after_s, &err), SP_NOT_FOUND);
    CHECK_TEXT(err.code, "no_such_link");
    stage_close(&s);
}

TEST(a_breaker_opens_and_the_next_link_answers_without_a_try)
{
    stage s;
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far: {kind: spillway, url: 'http://127.0.0.1:1'}\n"
               "chains:\n"
               "  noop:\n"
               "    links:\n"
               "      - {name: far, retries: 0, breaker: {consecutive_failures: 3, open: 300ms, probes: 1}}\n"
               "      - cpu0\n",
               0);
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "far/cuda0");
    CHECK_TEXT(s.attempts[0].link, "far/cuda0");
    stage_script(&s, "net0.0", "status=unavailable");
    for (int i = 0; i < 3; i++)
        stage_one(&s, NULL, "x");
    CHECK_INT(stage_link(&s, "noop", "far").breaker, SP_BREAKER_OPEN);
    int asked = stage_log_count(&s, "net0 ");
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "cpu0");
    CHECK_INT(s.attempt_count, 1); /* nobody asked the other one */
    CHECK_INT(stage_log_count(&s, "net0 "), asked);
    CHECK(stage_counter("spillway_link_skipped_total", "task=\"noop\",link=\"far\",reason=\"breaker\"") > 0);
    stage_script(&s, "net0.0", "");
    stage_turn(&s, 350);
    stage_one(&s, NULL, "x"); /* the probe */
    CHECK_TEXT(s.link, "far/cuda0");
    CHECK_INT(stage_link(&s, "noop", "far").breaker, SP_BREAKER_CLOSED);
    stage_close(&s);
}

TEST(the_last_local_link_is_never_shut_out)
{
    stage s;
    stage_open(&s, "noop0",
               "workers: noop0\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, retries: 0, breaker: {consecutive_failures: 2, open: 60s}}]}\n",
               0);
    stage_script(&s, "noop0", "status=internal");
    for (int i = 0; i < 4; i++)
        stage_one(&s, NULL, "x");
    CHECK_INT(stage_link(&s, "noop", "noop0").breaker, SP_BREAKER_OPEN);
    stage_script(&s, "noop0", "");
    stage_one(&s, NULL, "x");
    CHECK_INT(s.status, SP_OK);
    stage_close(&s);
}

TEST(a_demoted_local_link_comes_after_a_sound_one)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, retries: 0, breaker: {consecutive_failures: 2, open: 60s}}, noop1]}\n",
               0);
    stage_script(&s, "noop0", "status=internal");
    stage_one(&s, NULL, "x");
    stage_one(&s, NULL, "x");
    stage_script(&s, "noop0", "");
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "noop1");
    CHECK_INT(s.attempt_count, 1);
    stage_close(&s);
}

TEST(a_transient_failure_is_retried_on_the_same_link)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, retries: 2, backoff: 1ms, backoff_max: 5ms}, noop1]}\n",
               0);
    stage_script(&s, "noop0", "status=unavailable");
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "noop1");
    CHECK_INT(s.attempt_count, 4); /* three times the first, then the next */
    CHECK_TEXT(s.attempts[2].link, "noop0");
    CHECK_INT(stage_counter("spillway_link_retries_total", "task=\"noop\",link=\"noop0\""), 2);
    stage_script(&s, "noop0", "status=refused");
    stage_one(&s, NULL, "x");
    CHECK_INT(s.attempt_count, 2); /* a refusal does not change */
    CHECK_INT(stage_link(&s, "noop", "noop0").breaker, SP_BREAKER_CLOSED);
    stage_close(&s);
}

TEST(an_outage_is_not_multiplied)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop:\n"
               "    retry_budget: {percent: 10, per_s: 0, most: 10}\n"
               "    links:\n"
               "      - {name: noop0, retries: 3, backoff: 1ms, backoff_max: 2ms, breaker: {consecutive_failures: 0, failure_percent: 0}}\n"
               "      - noop1\n",
               0);
    stage_script(&s, "noop0", "status=unavailable");
    for (int i = 0; i < 100; i++)
        stage_one(&s, NULL, "x");
    CHECK_INT(s.ok, 100);
    int asked = stage_log_count(&s, "noop0 ");
    CHECK(asked >= 105 && asked <= 115); /* 100 first tries and a tenth of that again */
    stage_close(&s);
}

TEST(bytes_of_local_only_requests_never_reach_a_net_worker)
{
    stage s;
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far: {kind: spillway, url: 'http://127.0.0.1:1'}\n"
               "chains:\n"
               "  noop: {links: [far, cpu0]}\n",
               0);
    for (int i = 0; i < 20; i++)
        stage_one(&s, &(sp_request_params){ .local_only = true }, "secret");
    CHECK_INT(stage_ok_of(&s, "cpu0"), 20);
    stage_script(&s, "cpu0", "status=internal");
    stage_one(&s, &(sp_request_params){ .local_only = true }, "secret");
    CHECK_INT(s.status, SP_INTERNAL);
    CHECK_INT(stage_log_count(&s, "net0 "), 0);
    sp_request *request = NULL;
    sp_error err = { 0 };
    int retry;
    sp_request_params fetch = { .task = SP_TASK_NOOP, .local_only = true, .url = "http://a/b", .deadline_ns = INT64_MAX };
    CHECK_INT(sp_request_open(s.house, &fetch, &request, &retry, &err), SP_DENIED);
    CHECK_TEXT(err.code, "local_only");
    stage_close(&s);
}

TEST(conditions_choose_the_link)
{
    stage s;
    stage_open(&s, "noop0,noop1,cuda0",
               "workers: noop0,noop1,cuda0\n"
               "chains:\n"
               "  noop:\n"
               "    links:\n"
               "      - {name: cuda0, when: 'tier in [premium]'}\n"
               "      - {name: noop1, when: 'payload_bytes > 10'}\n"
               "      - noop0\n",
               0);
    stage_one(&s, NULL, "small");
    CHECK_TEXT(s.link, "noop0");
    stage_one(&s, NULL, "a larger payload");
    CHECK_TEXT(s.link, "noop1");
    stage_one(&s, &(sp_request_params){ .tier = "premium" }, "small");
    CHECK_TEXT(s.link, "cuda0");
    stage_one(&s, &(sp_request_params){ .tier = "premium", .force_cpu = true }, "small");
    CHECK_TEXT(s.link, "noop0");
    stage_close(&s);
}

TEST(who_waits_for_one_link_does_not_hold_up_who_may_use_another)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop:\n"
               "    links:\n"
               "      - {name: noop1, when: 'tier in [premium]'}\n"
               "      - {name: noop0, when: 'tier not in [premium]'}\n",
               2);
    stage_script(&s, "noop1", "delay=100");
    for (int i = 0; i < 30; i++)
        stage_ask(&s, &(sp_request_params){ .tier = "premium" }, "x");
    stage_ask(&s, NULL, "free");
    stage_wait(&s, 1, 2000);
    CHECK_TEXT(s.payload, "free");
    CHECK_TEXT(s.link, "noop0");
    stage_script(&s, "noop1", "");
    stage_wait(&s, 31, 5000);
    CHECK_INT(s.ok, 31);
    stage_close(&s);
}

static const char *header_of(void *context, const char *name)
{
    return strcmp(name, "X-Quality") == 0 ? context : NULL;
}

TEST(a_header_chooses_the_link_and_is_read_inside_open_only)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop1, when: 'header X-Quality == high'}, noop0]}\n",
               0);
    char quality[8] = "high";
    sp_request_params params = { .header = header_of, .facts_context = quality, .deadline_ns = 5 * SP_NS_PER_S };
    int before = s.answered;
    stage_ask(&s, &params, "x");
    memset(quality, 0, sizeof(quality));
    stage_wait(&s, before + 1, 5000);
    CHECK_TEXT(s.link, "noop1");
    stage_one(&s, &params, "x");
    CHECK_TEXT(s.link, "noop0");
    stage_close(&s);
}

static bool sees_variable(int pid, const char *name)
{
    char path[64], text[65536];
    (void)snprintf(path, sizeof(path), "/proc/%d/environ", pid);
    FILE *file = fopen(path, "r");
    REQUIRE(file != NULL);
    size_t size = fread(text, 1, sizeof(text), file);
    (void)fclose(file);
    bool found = false;
    for (size_t i = 0; i < size; i += strnlen(text + i, size - i) + 1)
        found |= strncmp(text + i, name, strlen(name)) == 0;
    return found;
}

TEST(secrets_are_in_the_environment_of_net_workers_only)
{
    stage s;
    (void)setenv("SPILLWAY_TEST_KEY", "a secret", 1);
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far: {kind: spillway, url: 'http://127.0.0.1:1', keys: [{env: SPILLWAY_TEST_KEY}]}\n",
               0);
    for (int i = 0; i < 2; i++) {
        sp_worker_info info = { 0 };
        sp_house_worker_info(s.house, i, &info);
        CHECK(sees_variable(info.pid, "SPILLWAY_SCRIPTS="));
        CHECK_INT(sees_variable(info.pid, "SPILLWAY_TEST_KEY="), strcmp(info.kind, "net") == 0);
    }
    stage_close(&s);
    (void)unsetenv("SPILLWAY_TEST_KEY");
}

TEST(a_link_for_load_is_used_when_many_wait_or_nobody_else_can)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop1, when: 'queue_depth > 4'}, {name: noop0, retries: 0}]}\n",
               2);
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "noop0");
    stage_script(&s, "noop0", "delay=20");
    stage_script(&s, "noop1", "delay=20");
    int before = s.answered;
    for (int i = 0; i < 12; i++)
        stage_ask(&s, NULL, "x");
    stage_wait(&s, before + 12, 5000);
    CHECK_INT(s.answered, before + 12);
    CHECK(stage_ok_of(&s, "noop1") > 0);
    stage_script(&s, "noop0", "status=internal");
    stage_one(&s, NULL, "x");
    CHECK_INT(s.status, SP_OK);
    CHECK_TEXT(s.link, "noop1");
    stage_close(&s);
}

TEST(a_slow_link_is_hedged_and_the_first_answer_wins)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, hedge: 30ms, price: {per_call: 0.01}}, {name: noop1, price: {per_call: 0.02}}]}\n",
               0);
    for (int i = 0; i < 50 && (!i || s.microdollars != 10000); i++)
        stage_one(&s, NULL, "quick"); /* but not on a machine that is so busy */
    CHECK_TEXT(s.link, "noop0");
    CHECK_INT(s.microdollars, 10000);
    stage_settle(&s);
    int64_t won = stage_counter("spillway_link_hedges_won_total", "task=\"noop\",link=\"noop1\"");
    stage_script(&s, "noop0", "delay=2000");
    stage_one(&s, NULL, "slow");
    CHECK_TEXT(s.link, "noop1");
    CHECK_TEXT(s.payload, "slow");
    CHECK_INT(s.attempt_count, 2);
    CHECK_INT(s.microdollars, 30000); /* both were asked, both are counted */
    CHECK_INT(stage_counter("spillway_link_hedges_won_total", "task=\"noop\",link=\"noop1\"") - won, 1);
    stage_settle(&s);
    CHECK_INT(sp_house_leased_count(s.house), 0); /* the loser was withdrawn and came back */
    /* The hedge loses: the younger lease is withdrawn, the elder one answers. */
    stage_script(&s, "noop0", "delay=120");
    stage_script(&s, "noop1", "delay=2000");
    stage_one(&s, NULL, "elder");
    CHECK_TEXT(s.link, "noop0");
    stage_settle(&s);
    CHECK_INT(sp_house_leased_count(s.house), 0);
    /* The first fails while the hedge is out: the hedge answers. */
    stage_script(&s, "noop0", "delay=60 status=internal");
    stage_script(&s, "noop1", "delay=100");
    stage_one(&s, NULL, "third");
    CHECK_INT(s.status, SP_OK);
    CHECK_TEXT(s.link, "noop1");
    stage_close(&s);
}

TEST(an_attempt_that_times_out_is_taken_over_while_its_hedge_goes_on)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, hedge: 20ms, timeout: 60ms, retries: 0}, noop1]}\n",
               0);
    stage_script(&s, "noop0", "delay=3000");
    stage_script(&s, "noop1", "delay=150");
    stage_one(&s, NULL, "x");
    CHECK_INT(s.status, SP_OK);
    CHECK_TEXT(s.link, "noop1");
    CHECK_INT(s.attempts[0].status, SP_TIMEOUT);
    stage_close(&s);
}

TEST(retry_after_cools_the_key_and_then_the_link)
{
    stage s;
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far: {kind: spillway, url: 'http://127.0.0.1:1', keys: [{env: KEY_A}, {env: KEY_B}]}\n"
               "chains:\n"
               "  noop: {links: [far, cpu0]}\n",
               0);
    stage_script(&s, "net0.0", "status=busy retry=400");
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "cpu0");
    CHECK_INT(stage_log_count(&s, "net0 5 0 0"), 1); /* the first key */
    CHECK_INT(stage_log_count(&s, "net0 5 0 1"), 1); /* and the second, before the next link */
    CHECK_INT(stage_link(&s, "noop", "far").breaker, SP_BREAKER_OPEN);
    stage_script(&s, "net0.0", "");
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "cpu0");
    stage_turn(&s, 450);
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "far/cuda0");
    stage_close(&s);
}

TEST(quotas_are_kept_before_sending)
{
    stage s;
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far:\n"
               "    kind: spillway\n"
               "    url: 'http://127.0.0.1:1'\n"
               "    keys: [{env: KEY_A, requests_per_day: 3}, {env: KEY_B, requests_per_day: 2}]\n"
               "chains:\n"
               "  noop: {links: [far, cpu0]}\n",
               0);
    stage_script(&s, "net0.0", "delay=20");
    for (int i = 0; i < 9; i++)
        stage_ask(&s, NULL, "x");
    stage_wait(&s, 9, 5000);
    CHECK_INT(s.ok, 9);
    CHECK_INT(stage_log_count(&s, "net0 5 0 0"), 3);
    CHECK_INT(stage_log_count(&s, "net0 5 0 1"), 2);
    CHECK_INT(stage_ok_of(&s, "cpu0"), 4);
    stage_close(&s);
}

TEST(when_all_is_spent_the_answer_says_so)
{
    stage s;
    stage_open(&s, "noop0",
               "workers: noop0\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, price: {per_call: 0.01}, max_cost_per_day: 0.02}]}\n",
               0);
    for (int i = 0; i < 3; i++)
        stage_one(&s, NULL, "x");
    CHECK_INT(s.ok, 2);
    CHECK_INT(s.status, SP_BUSY);
    CHECK_TEXT(s.code, "quota");
    CHECK(strstr(s.message, "noop0: cost") != NULL);
    CHECK(s.retry_after_s >= 1);
    stage_close(&s);
}

TEST(a_link_costs_no_more_than_its_day)
{
    stage s;
    stage_open(&s, "noop0,noop1",
               "workers: noop0,noop1\n"
               "chains:\n"
               "  noop: {links: [{name: noop0, price: {per_call: 0.01}, max_cost_per_day: 0.05}, noop1]}\n",
               0);
    for (int i = 0; i < 10; i++)
        stage_one(&s, NULL, "x");
    CHECK_INT(stage_ok_of(&s, "noop0"), 5);
    CHECK_INT(stage_link(&s, "noop", "noop0").microdollars_today, 50000);
    stage_close(&s);
}

TEST(what_cannot_be_in_time_is_told_at_once)
{
    stage s;
    stage_open(&s, "noop0", NULL, 4);
    stage_script(&s, "noop0", "delay=100");
    for (int i = 0; i < 3; i++)
        stage_one(&s, NULL, "x"); /* it is known now how long one takes */
    int64_t shed = stage_counter("spillway_shed_total", "");
    int before = s.answered, ok = s.ok;
    for (int i = 0; i < 20; i++)
        stage_ask(&s, &(sp_request_params){ .deadline_ns = 5 * SP_NS_PER_S }, "x");
    int64_t begin_ns = sp_clock_now_ns();
    stage_ask(&s, &(sp_request_params){ .deadline_ns = 300 * MS }, "x");
    stage_wait(&s, before + 1, 1000);
    CHECK_TEXT(s.code, "deadline_shed");
    CHECK_INT(s.status, SP_BUSY);
    CHECK(s.retry_after_s >= 1);
    CHECK(sp_clock_now_ns() - begin_ns < 250 * MS);
    CHECK_INT(stage_counter("spillway_shed_total", ""), shed + 1);
    stage_wait(&s, before + 21, 10000);
    CHECK_INT(s.ok, ok + 20);
    stage_close(&s);
}

TEST(higher_priorities_go_first_and_equals_keep_their_order)
{
    stage s;
    stage_open(&s, "noop0", NULL, 1);
    stage_script(&s, "noop0", "delay=10");
    stage_ask(&s, NULL, "zero"); /* is being done while the others queue up */
    static const struct { int priority; const char *body; } asks[] = {
        { 0, "c1" }, { -5, "d1" }, { 5, "b1" }, { 0, "c2" }, { 10, "a1" }, { 5, "b2" }, { -5, "d2" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++)
        stage_ask(&s, &(sp_request_params){ .priority = asks[i].priority }, asks[i].body);
    static const char *const order[] = { "zero", "a1", "b1", "b2", "c1", "c2", "d1", "d2" };
    for (int i = 0; i < (int)SP_ARRAY_LEN(order); i++) {
        stage_wait(&s, i + 1, 2000);
        CHECK_TEXT(s.payload, order[i]);
    }
    stage_close(&s);
}

TEST(a_reload_changes_who_is_asked_and_running_requests_keep_theirs)
{
    stage s;
    stage_open(&s, "noop0,noop1", two_noops, 0);
    stage_script(&s, "noop1", "delay=150 status=internal");
    stage_ask(&s, NULL, "old"); /* its chain: noop1, then noop0 */
    stage_turn(&s, 20);
    sp_config *only_one = stage_config("workers: noop0,noop1\nchains:\n  noop: {links: [{name: noop1, retries: 0}]}\n");
    sp_house_reload(s.house, only_one);
    sp_config_unref(only_one);
    CHECK_INT(sp_house_link_count(s.house) > 0, true);
    stage_wait(&s, 1, 3000);
    CHECK_INT(s.status, SP_OK);
    CHECK_TEXT(s.link, "noop0"); /* the new chain has none after noop1 */
    stage_one(&s, NULL, "new");
    CHECK_INT(s.status, SP_INTERNAL);
    stage_close(&s);
}

TEST(a_breaker_is_remembered_across_a_reload)
{
    stage s;
    const char *yaml = "workers: noop0,noop1\n"
                       "chains:\n"
                       "  noop: {links: [{name: noop0, retries: 0, breaker: {consecutive_failures: 2, open: 60s}}, noop1]}\n";
    stage_open(&s, "noop0,noop1", yaml, 0);
    stage_script(&s, "noop0", "status=internal");
    stage_one(&s, NULL, "x");
    stage_one(&s, NULL, "x");
    CHECK_INT(stage_link(&s, "noop", "noop0").breaker, SP_BREAKER_OPEN);
    for (int i = 0; i < 50; i++) {
        sp_config *again = stage_config(yaml);
        sp_house_reload(s.house, again);
        sp_config_unref(again);
    }
    CHECK_INT(stage_link(&s, "noop", "noop0").breaker, SP_BREAKER_OPEN);
    stage_close(&s);
}

TEST(an_operator_takes_a_link_out_and_back_in)
{
    stage s;
    sp_error err = { 0 };
    stage_open(&s, "noop0,noop1", two_noops, 0);
    CHECK_INT(sp_house_link_quarantine(s.house, "noop", "noop1", true, "maintenance", &err), SP_OK);
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "noop0");
    CHECK_TEXT(stage_link(&s, "noop", "noop1").reason, "maintenance");
    CHECK_INT(sp_house_link_quarantine(s.house, "noop", "noop1", false, "", &err), SP_OK);
    stage_one(&s, NULL, "x");
    CHECK_TEXT(s.link, "noop1");
    CHECK_INT(sp_house_link_quarantine(s.house, "noop", "noop9", true, "", &err), SP_NOT_FOUND);
    stage_close(&s);
}

TEST(a_deadline_can_be_extended_while_it_waits)
{
    stage s;
    stage_open(&s, "noop0", NULL, 1);
    stage_script(&s, "noop0", "delay=200");
    stage_ask(&s, NULL, "first");
    sp_request *second = stage_ask(&s, &(sp_request_params){ .deadline_ns = 100 * MS }, "second");
    sp_request_extend_deadline(second, sp_clock_now_ns() + 5 * SP_NS_PER_S);
    stage_wait(&s, 2, 3000);
    CHECK_INT(s.ok, 2);
    stage_close(&s);
}

/* --- classify: what needs pixels and what does not ---------------------------------------------------------------- */

static const char near_and_far[] = "workers: codec0,cpu0,net0\n"
                                   "remotes:\n"
                                   "  far: {kind: spillway, url: 'http://127.0.0.1:1'}\n"
                                   "  triton: {kind: kserve, url: 'http://127.0.0.1:2'}\n"
                                   "chains:\n";

static void open_classify(stage *s, const char *links)
{
    char yaml[1024];
    (void)snprintf(yaml, sizeof(yaml), "%s  classify: {links: [%s]}\n", near_and_far, links);
    stage_open(s, "codec0,cpu0,net0", yaml, 0);
}

TEST(a_house_far_away_gets_the_body_and_nothing_is_decoded)
{
    stage s;
    open_classify(&s, "far, cpu0");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "far/cuda0");
    CHECK_INT(stage_log_count(&s, "codec0 2 0 0 pict"), 0);
    CHECK_INT(stage_log_count(&s, "net0 5 0 0 picture"), 1);
    stage_script(&s, "net0.0", "status=refused");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "cpu0"); /* the fall to it decodes then */
    CHECK_INT(stage_log_count(&s, "codec0 2 0 0 pict"), 1);
    CHECK_INT(s.attempt_count, 3);
    stage_close(&s);
}

TEST(a_fall_from_a_device_to_a_remote_needs_nothing)
{
    stage s;
    open_classify(&s, "{name: cpu0, retries: 0}, far");
    stage_script(&s, "cpu0", "status=nomem");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "far/cuda0");
    CHECK_INT(stage_log_count(&s, "codec0 2 0 0 pict"), 1);
    stage_close(&s);
}

TEST(a_tensor_remote_gets_what_was_decoded)
{
    stage s;
    open_classify(&s, "triton, cpu0");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "triton/cuda0");
    CHECK_INT(stage_log_count(&s, "codec0 2 0 0 pict"), 1);
    stage_close(&s);
}

TEST(what_no_codec_reads_may_still_be_read_far_away)
{
    stage s;
    open_classify(&s, "cpu0, far");
    stage_script(&s, "codec0", "status=unsupported");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "far/cuda0");
    stage_close(&s);
}

TEST(a_slow_remote_is_hedged_by_a_device_that_needs_pixels)
{
    stage s;
    open_classify(&s, "{name: far, hedge: 20ms}, cpu0");
    stage_script(&s, "net0.0", "delay=2000");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "cpu0");
    CHECK_INT(stage_log_count(&s, "codec0 2 0 0 pict"), 1);
    stage_settle(&s);
    CHECK_INT(sp_house_leased_count(s.house), 0);
    stage_close(&s);
}

TEST(a_url_is_fetched_first)
{
    stage s;
    open_classify(&s, "cpu0");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY, .url = "http://pictures/1" }, "");
    CHECK_INT(s.status, SP_OK);
    CHECK_INT(stage_log_count(&s, "net0 4"), 1);
    CHECK_INT(stage_log_count(&s, "codec0 2 0 0 http://pictures/1"), 1); /* what was fetched is the body */
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_NOOP, .url = "http://pictures/2" }, "");
    CHECK_TEXT(s.payload, "http://pictures/2");
    stage_close(&s);
}

TEST(something_is_sent)
{
    stage s;
    open_classify(&s, "cpu0");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_SEND, .url = "http://hook/1" }, "news");
    CHECK_INT(s.status, SP_OK);
    CHECK_INT(s.sent_status, 204);
    CHECK_INT(stage_log_count(&s, "net0 6 0 0 news"), 1);
    stage_script(&s, "net0", "status=unavailable");
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_SEND, .url = "http://hook/1" }, "news");
    CHECK_INT(s.status, SP_UNAVAILABLE);
    CHECK_INT(stage_log_count(&s, "net0 6"), 2); /* not sent twice: whoever sends decides when to do so again */
    stage_close(&s);
}

TEST(a_remote_waits_for_its_breaker_when_nobody_else_can)
{
    stage s;
    stage_open(&s, "net0",
               "workers: net0\n"
               "remotes:\n"
               "  far: {kind: spillway, url: 'http://127.0.0.1:1'}\n"
               "chains:\n"
               "  noop: {links: [{name: far, retries: 0, breaker: {consecutive_failures: 1, open: 200ms, probes: 1}}]}\n",
               0);
    stage_script(&s, "net0.0", "status=unavailable");
    stage_one(&s, NULL, "x");
    CHECK_INT(s.status, SP_UNAVAILABLE);
    stage_script(&s, "net0.0", "");
    stage_one(&s, NULL, "x"); /* it opens again inside the deadline */
    CHECK_INT(s.status, SP_OK);
    stage_close(&s);
}

TEST(a_killed_net_worker_costs_no_request)
{
    stage s;
    stage_open(&s, "cpu0,net0",
               "workers: cpu0,net0\n"
               "remotes:\n"
               "  far: {kind: spillway, url: 'http://127.0.0.1:1'}\n"
               "chains:\n"
               "  noop: {links: [far, cpu0]}\n",
               0);
    stage_script(&s, "net0.0", "die");
    for (int i = 0; i < 10; i++)
        stage_ask(&s, NULL, "x");
    stage_wait(&s, 10, 5000);
    CHECK_INT(s.ok, 10);
    CHECK_INT(stage_ok_of(&s, "cpu0"), 10);
    stage_close(&s);
}

/* --- the guard ---------------------------------------------------------------------------------------------------- */

static const char guarded[] = "workers: codec0,cuda0,cpu0\n"
                              "chains:\n"
                              "  classify: {links: [cuda0, cpu0]}\n";

static int purged;

static void purge(void *context, const char *task, const char *link)
{
    (void)context;
    CHECK_TEXT(task, "classify");
    CHECK_TEXT(link, "cuda0");
    purged++;
}

static void turn_until_quarantined(stage *s, int at_most_ms)
{
    int64_t until_ns = sp_clock_now_ns() + at_most_ms * MS;
    while (!stage_link(s, "classify", "cuda0").quarantined && sp_clock_now_ns() < until_ns)
        stage_turn(s, 5);
}

/* Each link's answers to the golden inputs have been compared. */
static void wait_checks(stage *s, int64_t before)
{
    for (int64_t until_ns = sp_clock_now_ns() + 10000 * MS;
         stage_counter("spillway_guard_checks_total", "") < before + 3 && sp_clock_now_ns() < until_ns;)
        stage_turn(s, 5);
    stage_settle(s);
}

TEST(a_link_that_becomes_ready_is_held_to_golden_inputs)
{
    stage s;
    purged = 0;
    int64_t checks = stage_counter("spillway_guard_checks_total", "");
    stage_open(&s, "codec0,cuda0,cpu0", guarded, 0);
    wait_checks(&s, checks);
    CHECK_INT(stage_counter("spillway_guard_checks_total", "") - checks, 3);
    CHECK(!stage_link(&s, "classify", "cuda0").quarantined);
    CHECK_INT(sp_house_open_count(s.house), 0);
    /* The next incarnation is wrong by 1 %. */
    sp_house_on_quarantine(s.house, purge, NULL);
    stage_script(&s, "cuda0", "die");
    stage_ask(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    int64_t until_ns = sp_clock_now_ns() + 10000 * MS;
    while (!stage_log_count(&s, "cuda0 3 0 0 pict") && sp_clock_now_ns() < until_ns)
        stage_turn(&s, 1); /* until it has read that it is to die; the next one is not to */
    stage_script(&s, "cuda0", "p=0.7575");
    turn_until_quarantined(&s, 10000);
    CHECK(stage_link(&s, "classify", "cuda0").quarantined);
    CHECK_INT(purged, 1);
    stage_wait(&s, 1, 2000);
    CHECK_INT(s.ok, 1);
    stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_TEXT(s.link, "cpu0");
    stage_close(&s);
}

TEST(a_link_made_wrong_by_one_percent_is_caught_within_2000_requests)
{
    stage s;
    int64_t checks = stage_counter("spillway_guard_checks_total", "");
    stage_open(&s, "codec0,cuda0,cpu0", guarded, 0); /* guard.per_mille: 1, the default */
    wait_checks(&s, checks);
    CHECK(!stage_link(&s, "classify", "cuda0").quarantined);
    stage_script(&s, "cuda0", "p=0.7575");
    int asked = 0;
    while (asked < 2000 && !stage_link(&s, "classify", "cuda0").quarantined) {
        for (int i = 0; i < 4; i++, asked++)
            stage_ask(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
        stage_wait(&s, asked, 5000);
    }
    turn_until_quarantined(&s, 10000); /* the last one may still lie with the reference */
    CHECK(stage_link(&s, "classify", "cuda0").quarantined);
    CHECK(strstr(stage_link(&s, "classify", "cuda0").reason, "a live answer") != NULL);
    CHECK_INT(s.ok, asked);
    stage_close(&s);
}

TEST(a_simpler_link_is_held_to_nothing)
{
    stage s;
    stage_open(&s, "codec0,cuda0,cpu0",
               "workers: codec0,cuda0,cpu0\n"
               "guard: {per_mille: 1000}\n"
               "chains:\n"
               "  classify: {links: [{name: cuda0, simpler: true}, cpu0]}\n",
               0);
    stage_script(&s, "cuda0", "p=0.2");
    for (int i = 0; i < 20; i++)
        stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK(s.simpler);
    CHECK_TEXT(s.link, "cuda0");
    stage_turn(&s, 100);
    CHECK(!stage_link(&s, "classify", "cuda0").quarantined);
    stage_close(&s);
}

TEST(samples_never_take_the_last_places)
{
    stage s;
    stage_open(&s, "codec0,cuda0,cpu0",
               "workers: codec0,cuda0,cpu0\n"
               "guard: {per_mille: 1000}\n"
               "chains:\n"
               "  classify: {links: [cuda0, cpu0]}\n",
               0);
    stage_script(&s, "cpu0", "delay=30"); /* the reference cannot keep up: most samples are dropped */
    for (int i = 0; i < 100; i++)
        stage_one(&s, &(sp_request_params){ .task = SP_TASK_CLASSIFY }, "picture");
    CHECK_INT(s.ok, 100);
    sp_request *all[SP_LIMIT_SLOTS];
    sp_error err = { 0 };
    int retry = 0, opened = 0;
    sp_request_params params = { .task = SP_TASK_NOOP, .deadline_ns = INT64_MAX };
    int most = 0;
    for (int64_t until_ns = sp_clock_now_ns() + 10000 * MS; most < SP_LIMIT_SLOTS - 1 && sp_clock_now_ns() < until_ns;) {
        stage_turn(&s, 100); /* those at the reference, and the house's own checks, come back */
        while (opened < SP_LIMIT_SLOTS && sp_request_open(s.house, &params, &all[opened], &retry, &err) == SP_OK)
            opened++;
        most = SP_MAX(most, opened);
        while (opened)
            sp_request_close(all[--opened]);
    }
    CHECK(most >= SP_LIMIT_SLOTS - 1); /* one may be at the reference */
    stage_close(&s);
}
