/* SPDX-License-Identifier: Apache-2.0
 * The simulated device: what SPILLWAY_SIM may say and what a run then meets, under an injected clock. */
#include "test.h"

#include "base/clock.h"
#include "base/limits.h"
#include "worker/sim.h"
#include "worker/sim_script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1ull << 20)

static sp_sim_script parse(const char *text)
{
    sp_sim_script script = { 0 };
    sp_error err = { 0 };
    if (sp_sim_script_parse(text, "sim0", &script, &err))
        test_fail(__FILE__, __LINE__, "%s: %s", text, err.message);
    return script;
}

TEST(a_script_is_read)
{
    sp_sim_script s = parse("sim0:memory=200MiB,item=8MiB,model=1024,latency=2ms+0.5ms,batch=4,"
                            "fault=oom=64KiB@n=3&for=2s;sticky@every=50;hang@at=80ms;slow=3;throttle@if=/tmp/x&for=ever");
    CHECK_INT(s.memory_bytes, 200 * MIB);
    CHECK_INT(s.item_bytes, 8 * MIB);
    CHECK_INT(s.model_bytes, 1024);
    CHECK_INT(s.fixed_ns, 2000000);
    CHECK_INT(s.item_ns, 500000);
    CHECK_INT(s.batch, 4);
    CHECK_INT(s.fault_count, 5);
    CHECK_INT(s.faults[0].kind, SP_SIM_OOM);
    CHECK_INT(s.faults[0].bytes, 65536);
    CHECK_INT(s.faults[0].when.nth, 3);
    CHECK_INT(s.faults[0].when.for_ns, 2 * SP_NS_PER_S);
    CHECK_INT(s.faults[1].when.every, 50);
    CHECK_INT(s.faults[2].when.at_ns, 80 * SP_NS_PER_MS);
    CHECK(s.faults[3].factor == 3);
    CHECK(s.faults[4].factor == 2 && s.faults[4].when.for_runs == SP_SIM_FOR_EVER);
    CHECK_TEXT(s.faults[4].when.file, "/tmp/x");
    s = parse("sim1:batch=2 batch=3 sim0:memory=1GiB");
    CHECK_INT(s.batch, 8); /* the last that fits the name is it, whole */
    CHECK_INT(s.memory_bytes, 1024 * MIB);
    CHECK_INT(parse("batch=3 sim1:batch=2").batch, 3);
    s = parse("probe=no_driver@if=/tmp/gone");
    CHECK_TEXT(s.probe, "no_driver");
    CHECK_TEXT(s.probe_file, "/tmp/gone");
    CHECK_INT(parse("").batch, 8);
    CHECK_INT(parse(NULL).memory_bytes, 0);
}

TEST(what_cannot_be_read_is_named)
{
    static const struct {
        const char *text, *named;
    } rows[] = {
        { "memory=200MB", "'200MB'" }, { "memory=", "''" }, { "memory", "'memory'" }, { "memory=-1", "'-1'" },
        { "memory=1e300", "'1e300'" }, { "memory=nan", "'nan'" }, { "speed=3", "'speed'" }, { "latency=2", "'2'" },
        { "latency=2ms+", "''" }, { "latency=2h", "'2h'" }, { "batch=0", "'0'" }, { "batch=33", "'33'" },
        { "batch=1.5", "'1.5'" }, { "fault=melt", "'melt'" }, { "fault=", "''" }, { "fault=sticky=3", "'sticky=3'" },
        { "fault=oom@x=1", "'x=1'" }, { "fault=oom@n=0", "'0'" }, { "fault=oom@n=3&for=soon", "'soon'" },
        { "fault=slow=0.5", "'0.5'" }, { "fault=oom@if=", "''" }, { "probe=maybe", "'maybe'" },
        { "probe=no_gpu@n=3", "if=FILE" }, { "sim1:speed=3", "'speed'" }, { "sim0:", "''" },
        { "fault=oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom;oom", "more than 16" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_sim_script script;
        sp_error err = { 0 };
        CHECK_INT(sp_sim_script_parse(rows[i].text, "sim0", &script, &err), SP_INVALID);
        if (!strstr(err.message, rows[i].named) || !strstr(err.message, "SPILLWAY_SIM"))
            test_fail(__FILE__, __LINE__, "'%s': %s", rows[i].text, err.message);
    }
}

static int64_t now_ns;
static sp_sim *sim;

static void open_sim(const char *text)
{
    sp_error err = { 0 };
    now_ns = 1000 * SP_NS_PER_S;
    sp_clock_inject(&now_ns);
    REQUIRE(sp_sim_new(text, "sim0", &sim, &err) == SP_OK);
    REQUIRE(sp_sim_load(sim, 20 * MIB, &err) == SP_OK);
}

static void close_sim(void)
{
    sp_sim_free(sim);
    sim = NULL;
    sp_clock_inject(NULL);
}

static sp_error last;
static sp_status run(int count)
{
    sp_sim_run one;
    last = (sp_error){ 0 };
    sp_status s = sp_sim_begin(sim, count, &one, &last);
    if (!s)
        sp_sim_end(sim, &one);
    return s;
}

TEST(memory_is_a_budget)
{
    open_sim("memory=60MiB,item=10MiB");
    CHECK_INT(run(4), SP_OK);
    CHECK_INT(run(5), SP_NOMEM);
    CHECK_TEXT(last.code, "oom");
    CHECK_TEXT(last.message, "sim0: out of device memory: asked 50.0 MiB, free 40.0 MiB of 60.0 MiB");
    CHECK_INT(run(4), SP_OK); /* a run gives back what it took */
    sp_error err = { 0 };
    CHECK_INT(sp_sim_load(sim, 61 * MIB, &err), SP_NOMEM);
    close_sim();
}

TEST(another_process_takes_memory_for_a_while)
{
    open_sim("memory=60MiB,item=10MiB,fault=oom=35MiB@n=2&for=2;oom@n=5&for=3s");
    CHECK_INT(run(1), SP_OK);
    CHECK_INT(run(1), SP_NOMEM); /* 2, 3 */
    CHECK_INT(run(1), SP_NOMEM);
    CHECK_INT(run(1), SP_OK);
    CHECK_INT(run(1), SP_NOMEM); /* 5, for three seconds */
    now_ns += 2 * SP_NS_PER_S;
    CHECK_INT(run(1), SP_NOMEM);
    CHECK(strstr(last.message, "free 0.0 MiB") != NULL);
    now_ns += 2 * SP_NS_PER_S;
    CHECK_INT(run(4), SP_OK);
    close_sim();
}

TEST(without_a_budget_an_oom_still_is_one)
{
    open_sim("fault=oom@every=2");
    CHECK_INT(run(8), SP_OK);
    CHECK_INT(run(8), SP_NOMEM);
    CHECK_INT(run(8), SP_OK);
    CHECK_INT(run(8), SP_NOMEM);
    close_sim();
}

TEST(a_sticky_error_stays)
{
    open_sim("fault=sticky@n=2");
    CHECK_INT(run(1), SP_OK);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(run(1), SP_UNAVAILABLE);
        CHECK_TEXT(last.code, "sticky");
    }
    close_sim();
}

TEST(faults_by_time_and_by_file)
{
    char file[] = "/tmp/spillway-sim-XXXXXX", text[128];
    int fd = mkstemp(file);
    REQUIRE(fd >= 0);
    CHECK_INT(close(fd), 0);
    (void)snprintf(text, sizeof(text), "item=1MiB,fault=oom@at=5s;oom@if=%s", file);
    sp_error err = { 0 };
    now_ns = 1;
    sp_clock_inject(&now_ns);
    REQUIRE(sp_sim_new(text, "sim0", &sim, &err) == SP_OK);
    CHECK_INT(sp_sim_load(sim, 1, &err), SP_NOMEM); /* the file is there already */
    CHECK_INT(unlink(file), 0);
    CHECK_INT(sp_sim_load(sim, 1, &err), SP_OK);
    CHECK_INT(run(1), SP_OK);
    now_ns += 6 * SP_NS_PER_S;
    CHECK_INT(run(1), SP_NOMEM); /* at= comes once */
    CHECK_INT(run(1), SP_OK);
    close_sim();
}

TEST(a_device_that_is_not_there)
{
    static const char *const causes[] = { "no_gpu", "no_driver", "no_library", "mismatch" };
    for (size_t i = 0; i < SP_ARRAY_LEN(causes); i++) {
        char text[64];
        sp_error err = { 0 };
        (void)snprintf(text, sizeof(text), "probe=%s", causes[i]);
        CHECK_INT(sp_sim_new(text, "sim0", &sim, &err), SP_UNSUPPORTED);
        CHECK_TEXT(err.code, causes[i]);
        CHECK(strstr(err.message, "; ") != NULL); /* the remedy */
    }
    sp_error err = { 0 };
    CHECK_INT(sp_sim_new("probe=no_gpu@if=/nowhere/at/all", "sim0", &sim, &err), SP_OK);
    close_sim();
}

TEST(what_a_sampler_would_see)
{
    sp_device_sample sample = { 0 };
    open_sim("memory=60MiB,item=10MiB,fault=throttle=1@n=1");
    sp_sim_run one;
    REQUIRE(sp_sim_begin(sim, 2, &one, &last) == SP_OK);
    sp_sim_sample(sim, &sample);
    CHECK(sample.memory_used_bytes == 40.0 * MIB && sample.memory_total_bytes == 60.0 * MIB);
    CHECK_INT(sample.throttle_thermal, 1);
    CHECK(isnan(sample.temperature_c) && isnan(sample.power_w));
    close_sim();
}
