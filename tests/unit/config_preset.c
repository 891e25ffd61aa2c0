/* SPDX-License-Identifier: Apache-2.0
 * Presets, USE_GPU_PIPELINE, the environment, the order of precedence. */
#include "config/config.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS "workers: [codec0, cpu0, cuda0, tensorrt0, net0, noop0]\n"
#define REMOTES "remotes:\n  hq: {kind: spillway, url: 'http://hq'}\n"

/* "cuda0[queue_depth > 10] cpu0": a chain in short. */
static const char *chain_text(const sp_config *config, const char *task)
{
    static char text[600];
    const sp_chain_config *chain = sp_config_chain(config, task);
    size_t used = 0;

    text[0] = '\0';
    for (int i = 0; chain && i < chain->link_count && used < sizeof(text); i++) {
        const sp_link_config *link = &chain->links[i];
        used +=
            (size_t)snprintf(text + used, sizeof(text) - used, "%s%s%s%s%s%s", i ? " " : "", link->name,
                             link->condition_count ? "[" : "", link->condition_count ? link->conditions[0].text : "",
                             link->condition_count ? "]" : "", link->hedge == SP_HEDGE_P95 ? "~" : "");
    }
    return chain ? text : "none";
}

static sp_config *parse(const char *text)
{
    sp_config *config = NULL;
    sp_error err = { 0 };

    if (sp_config_parse("f", text, strlen(text), &config, NULL, &err))
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(config);
    return config;
}

TEST(presets)
{
    static const struct {
        const char *preset, *more, *classify, *noop;
    } rows[] = {
        { "gpu-for-all", "", "tensorrt0 cuda0 cpu0 hq", "tensorrt0 cuda0 cpu0 noop0" },
        { "by-tier", "",
          "tensorrt0[tier in [premium, pro]] cuda0[tier in [premium, pro]] cpu0 hq[tier in [premium, pro]]",
          "tensorrt0[tier in [premium, pro]] cuda0[tier in [premium, pro]] cpu0 noop0" },
        { "by-load", "", "tensorrt0[queue_depth > 10] cuda0[queue_depth > 10] cpu0 hq",
          "tensorrt0[queue_depth > 10] cuda0[queue_depth > 10] cpu0 noop0" },
        { "cpu-only", "", "cpu0", "cpu0 noop0" },
        { "latency-first", "", "tensorrt0~ cuda0~ cpu0~ hq~", "tensorrt0~ cuda0~ cpu0~ noop0~" },
        /* cpu .05 an hour by the built-in table; what has no price comes last, in the order of speed */
        { "cost-first", "", "cpu0 tensorrt0 cuda0 hq", "cpu0 tensorrt0 cuda0 noop0" },
        { "cost-first", "rates: {cuda: {per_hour: 0.04}, tensorrt0: {per_hour: 0.5}, hq: {per_call: 0.000001}}\n",
          "hq cuda0 cpu0 tensorrt0", "cuda0 cpu0 tensorrt0 noop0" },
        { "cost-first", "rates: {cuda: {per_hour: 0.04}, tensorrt0: {per_hour: 0.5}, hq: {per_call: 0.0001}}\n",
          "cuda0 cpu0 tensorrt0 hq", "cuda0 cpu0 tensorrt0 noop0" },
        /* a chain that is written stays */
        { "gpu-for-all", "chains: {classify: {links: [cpu0]}}\n", "cpu0", "tensorrt0 cuda0 cpu0 noop0" },
    };

    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        char text[600];
        (void)snprintf(text, sizeof(text), WORKERS REMOTES "preset: %s\n%s", rows[i].preset, rows[i].more);
        sp_config *config = parse(text);
        CHECK_TEXT(chain_text(config, "classify"), rows[i].classify);
        CHECK_TEXT(chain_text(config, "noop"), rows[i].noop);
        sp_config_unref(config);
    }
}

TEST(served_models_run_on_devices_of_this_machine)
{
    sp_config *config = parse(WORKERS REMOTES "preset: gpu-for-all\n");
    CHECK_TEXT(chain_text(config, "infer"), "tensorrt0 cuda0 cpu0");
    CHECK_TEXT(chain_text(config, "detect"), "tensorrt0 cuda0 cpu0");
    sp_config_unref(config);
}

TEST(the_example_of_by_load_means_what_it_says)
{
    sp_config *config = parse("workers: [codec0, cuda0, cpu0]\npreset: by-load\n");
    sp_facts facts = { .tier = "", .queue_depth = 10, .duration_s = -1 };
    const sp_chain_config *chain = sp_config_chain(config, "classify");

    REQUIRE(chain && chain->link_count == 2);
    CHECK(!sp_condition_holds(&chain->links[0].conditions[0], &facts));
    facts.queue_depth = 11;
    CHECK(sp_condition_holds(&chain->links[0].conditions[0], &facts));
    sp_config_unref(config);
}

TEST(a_preset_of_workers_alone)
{
    sp_chain_config chain;
    sp_error err = { 0 };

    CHECK(sp_config_preset("gpu-for-all", "codec0,cpu0,cuda1,cuda0", &chain, &err) == SP_OK);
    CHECK_INT(chain.link_count, 3);
    CHECK_TEXT(chain.links[0].name, "cuda1");
    CHECK_TEXT(chain.links[2].name, "cpu0");
    CHECK_INT(chain.links[0].breaker.probes, sp_breaker_settings_default().probes);
    CHECK(sp_config_preset("cpu-only", "codec0,cuda0", &chain, &err) == SP_UNAVAILABLE);
    CHECK(sp_config_preset("fast", "cpu0", &chain, &err) == SP_INVALID);
}

TEST(without_gpus)
{
    sp_config *config = parse(WORKERS REMOTES "use_gpu: no\npreset: gpu-for-all\nchains:\n"
                                              "  classify: {links: [cuda0, cpu0, hq], reference: cuda0}\n");
    CHECK_TEXT(config->workers, "codec0,cpu0,net0,noop0");
    CHECK_TEXT(chain_text(config, "classify"), "cpu0 hq");
    CHECK_TEXT(chain_text(config, "noop"), "cpu0 noop0");
    CHECK_TEXT(config->chains[0].reference, "");
    sp_config_unref(config);

    static const char text[] = "workers: [codec0, cuda0]\nuse_gpu: no\nchains:\n  classify: {links: [cuda0]}\n";
    sp_complaints complaints;
    sp_error err = { 0 };
    config = NULL;
    sp_complaints_init(&complaints);
    CHECK(sp_config_parse("f", text, strlen(text), &config, &complaints, &err) == SP_INVALID);
    CHECK_TEXT(err.message,
               "f:4: chains: without GPUs (use_gpu, USE_GPU_PIPELINE) no link of classify is left; add a CPU worker");
    sp_complaints_done(&complaints);
}

TEST(outside_goes_before_the_file)
{
    sp_config_override overrides[SP_CONFIG_OVERRIDES_MAX];
    sp_config *config = NULL;
    sp_error err = { 0 };

    CHECK(!setenv("SPILLWAY_HTTP_PORT", "81", 1) && !setenv("SPILLWAY_SPIN_US", "5", 1) &&
          !setenv("USE_GPU_PIPELINE", "0", 1));
    CHECK(!setenv("SPILLWAY_WORKERS", "codec0,cuda0,cpu0", 1) && !setenv("SPILLWAY_BIND", "", 1));
    int count = sp_config_environment(overrides);
    CHECK_INT(count, 4);
    config = parse("http_port: 80\nspin_us: 4\nmetrics_port: 82\nworkers: [cpu7]\nbind: localhost\n");
    CHECK_INT(config->http_port, 81);
    CHECK_INT(config->metrics_port, 82);
    CHECK_INT(config->spin_us, 5);
    CHECK_TEXT(config->bind, "localhost"); /* an empty variable says nothing */
    CHECK_TEXT(config->workers, "codec0,cpu0");
    CHECK(!config->use_gpu);
    sp_config_unref(config);

    /* The command line stands behind the environment in the list, and wins; what the environment says later is not seen. */
    overrides[count++] = (sp_config_override){ .key = "http_port", .value = "90", .origin = "--http-port" };
    CHECK(!setenv("SPILLWAY_SPIN_US", "6", 1));
    CHECK(sp_config_load_over(NULL, overrides, count, &config, NULL, &err) == SP_OK);
    CHECK_INT(config->http_port, 90);
    CHECK_INT(config->spin_us, 5);
    sp_config_unref(config);

    overrides[count++] = (sp_config_override){ .key = "workers", .value = "cpu0,,cpu1", .origin = "--workers" };
    CHECK(sp_config_load_over(NULL, overrides, count, &config, NULL, &err) == SP_INVALID);
    CHECK_TEXT(err.message, "--workers: '' is no worker; write a kind and a number, like cpu0");

    /* A snapshot of another process is taken as it is. */
    static const char effective[] = "http_port: 7\nchains: {classify: {links: [far0]}}\n";
    CHECK(sp_config_parse_effective(effective, strlen(effective), &config, &err) == SP_OK);
    CHECK_INT(config->http_port, 7);
    sp_config_unref(config);
    CHECK(!unsetenv("SPILLWAY_HTTP_PORT") && !unsetenv("SPILLWAY_SPIN_US") && !unsetenv("USE_GPU_PIPELINE") &&
          !unsetenv("SPILLWAY_WORKERS"));
}

TEST(what_only_a_restart_can_follow)
{
    sp_config *a = parse("http_port: 1\nworkers: [codec0, cpu0]\n"),
              *b = parse("http_port: 2\nworkers: [codec0]\npreset: cpu-only\n");
    char keys[100], few[8];

    sp_config_restart_keys(a, b, keys, sizeof(keys));
    CHECK_TEXT(keys, "http_port, workers");
    sp_config_restart_keys(a, b, few, sizeof(few));
    CHECK_TEXT(few, "http_po");
    sp_config *c = parse(
        "http_port: 1\nworkers: [codec0, cpu0]\ncache: {ttl: 2h}\nresults: {retention: {classify: 1d}, all: yes}\n"
        "jobs: {redis: 'redis://h', tries: 9}\n");
    sp_config_restart_keys(a, c, keys, sizeof(keys));
    CHECK_TEXT(keys, "jobs.redis, cache, results.retention");
    sp_config_restart_keys(c, c, keys, sizeof(keys));
    CHECK_TEXT(keys, "");
    sp_config_unref(c);
    sp_config_restart_keys(a, a, keys, sizeof(keys));
    CHECK_TEXT(keys, "");
    CHECK(b->serial > a->serial);
    sp_config_unref(a);
    sp_config_unref(b);
}

TEST(secrets_are_read_when_they_are_needed)
{
    char text[16], path[] = "/tmp/spillway-secret-XXXXXX";
    sp_error err = { 0 };
    sp_secret secret = { .env = "SP_TEST_SECRET" };

    CHECK(sp_secret_read(&secret, text, sizeof(text), &err) == SP_NOT_FOUND && strstr(err.message, "SP_TEST_SECRET"));
    CHECK(!setenv("SP_TEST_SECRET", "hunter2", 1));
    CHECK(sp_secret_read(&secret, text, sizeof(text), &err) == SP_OK);
    CHECK_TEXT(text, "hunter2");
    CHECK(!setenv("SP_TEST_SECRET", "hunter2hunter2hunter2", 1));
    CHECK(sp_secret_read(&secret, text, sizeof(text), &err) == SP_INVALID && !strstr(err.message, "hunter2"));

    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    FILE *file = fdopen(fd, "w");
    REQUIRE(file);
    fputs("hunter3\r\n", file);
    fclose(file);
    secret = (sp_secret){ 0 };
    (void)snprintf(secret.file, sizeof(secret.file), "%s", path);
    CHECK(sp_secret_read(&secret, text, sizeof(text), &err) == SP_OK);
    CHECK_TEXT(text, "hunter3");
    CHECK(!remove(path));
    CHECK(sp_secret_read(&secret, text, sizeof(text), &err) == SP_NOT_FOUND && strstr(err.message, path));
    CHECK(sp_secret_read(&(sp_secret){ 0 }, text, sizeof(text), &err) == SP_NOT_FOUND);
}
