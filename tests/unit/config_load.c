/* SPDX-License-Identifier: Apache-2.0
 * spillway.yaml as a whole: what good files mean, what is said of bad ones. */
#include "config/config.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

static sp_config *parse(const char *text, sp_complaints *complaints)
{
    sp_config *config = NULL;
    sp_error err = { 0 };

    sp_complaints_init(complaints);
    sp_status status = sp_config_parse("f.yaml", text, strlen(text), &config, complaints, &err);
    CHECK((status == SP_OK) == (config != NULL));
    CHECK((status == SP_OK) == (complaints->count == 0));
    sp_buf_append(&complaints->text, "", 1);
    return config;
}

static sp_config *parse_good(const char *text)
{
    sp_complaints complaints;
    sp_config *config = parse(text, &complaints);

    CHECK_TEXT((const char *)complaints.text.data, "");
    sp_complaints_done(&complaints);
    return config;
}

TEST(nothing_written_is_the_defaults)
{
    sp_config *config = NULL;

    REQUIRE(sp_config_new_default(&config, NULL) == SP_OK);
    CHECK_TEXT(config->bind, "127.0.0.1");
    CHECK_INT(config->http_port, 8000);
    CHECK_INT(config->metrics_port, 8002);
    CHECK_INT(config->admin_port, -1);
    CHECK_TEXT(config->workers, "codec0,cpu0");
    CHECK_TEXT(config->data_dir, "var/data");
    CHECK_INT(config->drain_delay_s, -1);
    CHECK_INT(config->jobs.least, SP_DURABILITY_DISK);
    CHECK_INT(config->guard.per_mille, 1);
    CHECK_INT(config->chain_count, 0);
    CHECK(sp_config_chain(config, "classify") == NULL);
    REQUIRE(sp_config_rate(config, "l4"));
    CHECK_INT(sp_config_rate(config, "l4")->per_hour, 200000);
    CHECK_INT(sp_config_rate(config, "whisper-api")->per_minute, 6000);
    CHECK(sp_config_rate(config, "NVIDIA L4") == sp_config_rate(config, "l4"));
    CHECK(sp_config_rate(config, "NVIDIA A100-SXM4-80GB") == sp_config_rate(config, "a100"));
    CHECK(sp_config_rate(config, "NVIDIA L40S") == NULL);
    CHECK(sp_config_rate(config, "cuda0") == NULL);
    sp_config_unref(config);
}

TEST(a_full_file_is_read)
{
    sp_config *config = parse_good(
        "http_port: 0\n"
        "workers: [codec0, cuda0, cpu0, net0]\n"
        "trusted_peers: [10.0.0.0/8, '::1']\n"
        "chains:\n"
        "  classify:\n"
        "    reference: cpu0\n"
        "    retry_budget: {percent: 10, per_s: 1}\n"
        "    links:\n"
        "      - name: cuda0\n"
        "        when: [\"tier in [premium, pro]\", queue_depth > 10]\n"
        "        timeout: 500ms\n"
        "        retries: 2\n"
        "        backoff: 20ms\n"
        "        concurrency: {least: 2, most: 32}\n"
        "        breaker: {consecutive_failures: 3, open: 1s}\n"
        "        price: {per_hour: 0.20}\n"
        "        max_cost_per_day: $12.345678\n"
        "        hedge: p95\n"
        "        tolerance: 1e-3\n"
        "      - cpu0\n"
        "      - {name: hq, hedge: 250ms, simpler: yes, concurrency: 4}\n"
        "remotes:\n"
        "  hq:\n"
        "    kind: spillway\n"
        "    url: https://hq.example:8000/\n"
        "    keys:\n"
        "      - {env: HQ_TOKEN, requests_per_minute: 60, max_cost_per_day: 1.5}\n"
        "      - {file: /run/secrets/hq}\n"
        "tokens:\n"
        "  - name: web\n"
        "    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n"
        "    scopes: [infer, metrics]\n"
        "    tier: premium\n"
        "    rate_per_s: 5\n"
        "    expires: 2027-01-31\n"
        "  - {name: b, sha256: aa86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, tier: pro}\n"
        "jobs: {redis: 'redis://h:1/2', ttl: 1d}\n"
        "cache: {memory: 64MiB, ttl: 10m}\n"
        "results: {retention: {classify: 30d}}\n"
        "rates: {cuda: {per_hour: 0.5}, hq: {per_call: 0.001}}\n");
    REQUIRE(config);
    const sp_chain_config *chain = sp_config_chain(config, "classify");
    REQUIRE(chain && chain->link_count == 3);
    CHECK_TEXT(chain->reference, "cpu0");
    CHECK_INT(chain->budget.ratio_percent, 10);
    CHECK_INT(chain->budget.most, 100);
    const sp_link_config *link = &chain->links[0];
    CHECK_TEXT(link->name, "cuda0");
    CHECK_INT(link->line, 9);
    CHECK_INT(link->condition_count, 2);
    CHECK_INT(link->conditions[0].kind, SP_CONDITION_TIER);
    CHECK_INT(link->timeout_ns, 500000000);
    CHECK_INT(link->retry.retries, 2);
    CHECK_INT(link->retry.base_ns, 20000000);
    CHECK_INT(link->concurrency.least, 2);
    CHECK_INT(link->concurrency.most, 32);
    CHECK_INT(link->breaker.consecutive_failures, 3);
    CHECK_INT(link->breaker.open_ns, 1000000000);
    CHECK_INT(link->breaker.probes, 3);
    CHECK_INT(link->price.per_hour, 200000);
    CHECK_INT(link->microdollars_per_day, 12345678);
    CHECK_INT(link->hedge, SP_HEDGE_P95);
    CHECK(link->tolerance == 1e-3);
    CHECK_INT(chain->links[2].hedge, SP_HEDGE_FIXED);
    CHECK_INT(chain->links[2].hedge_ns, 250000000);
    CHECK(chain->links[2].simpler);
    CHECK_INT(chain->links[2].concurrency.least, 4);
    REQUIRE(config->remote_count == 1);
    CHECK_TEXT(config->remotes[0].url, "https://hq.example:8000");
    CHECK_INT(config->remotes[0].key_count, 2);
    CHECK_TEXT(config->remotes[0].keys[0].secret.env, "HQ_TOKEN");
    CHECK_INT(config->remotes[0].keys[0].quota.microdollars_per_day, 1500000);
    CHECK(config->remotes[0].verify_tls);
    REQUIRE(config->token_count == 2);
    CHECK_INT(config->tokens[0].scopes, SP_SCOPE_INFER | SP_SCOPE_METRICS);
    CHECK_INT(config->tokens[0].sha256[1], 0x86);
    CHECK(config->tokens[0].burst == 5);
    CHECK_INT(config->tokens[0].expires_unix_s, 1801353600);
    CHECK_INT(config->tokens[1].scopes, SP_SCOPE_INFER);
    CHECK_INT(config->jobs.least, SP_DURABILITY_AOF_ALWAYS);
    CHECK_INT(config->jobs.ttl_s, 86400);
    CHECK_INT(config->cache.memory_bytes, 64 << 20);
    CHECK_INT(config->results.retention[0].seconds, 30 * 86400);
    CHECK_INT(sp_config_rate(config, "cuda0")->per_hour, 500000);
    CHECK_INT(sp_config_rate(config, "cpu0")->per_hour, 50000);
    CHECK_INT(sp_config_rate(config, "hq")->per_call, 1000);
    CHECK_INT(config->trusted_peer_count, 2);

    /* What net workers get holds all but the tokens, and says the same. */
    sp_config *again = NULL;
    sp_error err = { 0 };
    if (sp_config_parse_effective(config->text, config->text_bytes, &again, &err))
        test_fail(__FILE__, __LINE__, "%s\n%s", err.message, config->text);
    REQUIRE(again);
    CHECK_TEXT(again->text, config->text);
    CHECK_INT(again->token_count, 0);
    CHECK_INT(again->chains[0].links[0].condition_count, 2);
    sp_config_unref(again);
    sp_config_unref(config);
}

TEST(every_mistake_of_a_file_is_told_at_once)
{
    sp_complaints complaints;
    sp_config *config = parse("http_prot: 8080\n"
                              "metrics_port: lots\n"
                              "chains:\n"
                              "  clasify:\n"
                              "    links: [cpu0]\n"
                              "  classify:\n"
                              "    links:\n"
                              "      - name: cuda0\n"
                              "        timout: 2s\n"
                              "      - name: cpu0\n"
                              "        timeout: 2\n"
                              "        when: tier is premium\n"
                              "tokens:\n"
                              "  - {name: a, sha256: 12}\n"
                              "spin_us: 100000000\n",
                              &complaints);
    CHECK(!config);
    CHECK_TEXT((const char *)complaints.text.data,
               "f.yaml:1: http_prot: unknown key; did you mean http_port?\n"
               "f.yaml:2: metrics_port: must be a whole number, not 'lots'\n"
               "f.yaml:4: chains.clasify: no such task; did you mean classify?\n"
               "f.yaml:8: chains.classify.links[0].name: no worker or remote is named 'cuda0'; add it to workers or to "
               "remotes\n"
               "f.yaml:9: chains.classify.links[0].timout: unknown key; did you mean timeout?\n"
               "f.yaml:11: chains.classify.links[1].timeout: must be a duration with its unit (500ms, 2s, 10m, 1h, "
               "7d), not '2'\n"
               "f.yaml:12: chains.classify.links[1].when: condition \"tier is premium\": \"is\" was not understood; in "
               "or not in"
               " could stand there\n"
               "f.yaml:14: tokens[0].sha256: must be the 64 hex digits of the token's SHA-256 (spillway token new "
               "prints them)\n"
               "f.yaml:15: spin_us: must be from 0 to 1000000, not 100000000\n");
    sp_complaints_done(&complaints);
}
