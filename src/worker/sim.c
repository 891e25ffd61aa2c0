/* SPDX-License-Identifier: Apache-2.0
 * The simulated device: memory as arithmetic, time as a sleep, faults by their selectors. */
#include "worker/sim.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/view.h"
#include "worker/device_fault.h"
#include "worker/sim_script.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB ((double)(1 << 20))
#define UNKNOWN_ITEM_BYTES (1u << 20) /* what an item is said to ask for when the script does not say */

typedef struct fault_state {
    bool began;              /* at= begins once */
    uint64_t until_run;      /* active up to this run */
    int64_t until_ns;        /* or up to this time */
} fault_state;

struct sp_sim {
    sp_sim_script script;
    char name[32];
    pthread_mutex_t lock; /* guards all below */
    uint64_t runs, model_bytes, held_bytes;
    int64_t loaded_ns;
    bool gone;      /* sticky: nothing works any more */
    bool throttled;
    fault_state states[SP_SIM_FAULTS];
};

/* What the active faults amount to for one run. */
typedef struct trouble {
    uint64_t taken_bytes; /* by another process; UINT64_MAX = all there is */
    double slower;
    bool sticky, hang, crash, throttled;
} trouble;

static bool is_there(const char *file)
{
    return !file[0] || access(file, F_OK) == 0;
}

static sp_status probe(const sp_sim_script *script, const char *name, sp_error *reterr)
{
    static const struct {
        const char *cause, *text;
    } words[] = { { "no_gpu", "no GPU: the simulated device is not plugged in" },
                  { "no_driver", "no driver: the simulated device is there, its driver is not" },
                  { "no_library", "library missing: the simulated device's own" },
                  { "mismatch", "driver/CUDA mismatch: of the simulated device" } };
    if (!script->probe[0] || (script->probe_file[0] && !is_there(script->probe_file)))
        return SP_OK;
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++) {
        if (strcmp(words[i].cause, script->probe) == 0)
            return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, words[i].cause, "%s: %s; %s", name, words[i].text,
                                sp_device_remedy(words[i].cause));
    }
    SP_ASSERT(!"the parser knows only causes of the table");
    return SP_INTERNAL;
}

sp_status sp_sim_new(const char *text, const char *name, sp_sim **ret_sim, sp_error *reterr)
{
    sp_sim *sim = calloc(1, sizeof(*sim));
    if (!sim)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a simulated device");
    (void)snprintf(sim->name, sizeof(sim->name), "%s", name);
    (void)pthread_mutex_init(&sim->lock, NULL); /* without attributes it cannot fail */
    sp_status s = sp_sim_script_parse(text, name, &sim->script, reterr);
    if (!s)
        s = probe(&sim->script, name, reterr);
    if (s)
        sp_sim_free(sim);
    else
        *ret_sim = sim;
    return s;
}

void sp_sim_free(sp_sim *sim)
{
    if (!sim)
        return;
    (void)pthread_mutex_destroy(&sim->lock);
    free(sim);
}

/* Whether a fault begins with this run (0 = the load, which only faults without n, every and at can meet). */
static bool begins(sp_sim *sim, const sp_sim_when *when, fault_state *state, uint64_t run, int64_t now_ns)
{
    if (!is_there(when->file))
        return false;
    if (when->nth)
        return run == when->nth;
    if (when->every)
        return run && run % when->every == 0;
    if (!when->at_ns)
        return true;
    bool now = run && !state->began && now_ns >= sim->loaded_ns + when->at_ns;
    state->began |= now;
    return now;
}

static bool is_active(sp_sim *sim, int index, uint64_t run, int64_t now_ns)
{
    const sp_sim_when *when = &sim->script.faults[index].when;
    fault_state *state = &sim->states[index];
    if (begins(sim, when, state, run, now_ns)) {
        if (when->for_ns)
            state->until_ns = now_ns + when->for_ns;
        else if (when->for_runs == SP_SIM_FOR_EVER)
            state->until_run = SP_SIM_FOR_EVER;
        else
            state->until_run = run + SP_MAX(when->for_runs, 1u) - 1;
        return true;
    }
    return (run && run <= state->until_run) || now_ns < state->until_ns;
}

static trouble find_trouble(sp_sim *sim, uint64_t run, int64_t now_ns)
{
    trouble t = { .slower = 1 };
    for (int i = 0; i < sim->script.fault_count; i++) {
        const sp_sim_fault *fault = &sim->script.faults[i];
        if (!is_active(sim, i, run, now_ns))
            continue;
        switch (fault->kind) {
        case SP_SIM_OOM:
            t.taken_bytes = fault->bytes ? t.taken_bytes + fault->bytes : UINT64_MAX;
            break;
        case SP_SIM_STICKY:
            t.sticky = true;
            break;
        case SP_SIM_HANG:
            t.hang = true;
            break;
        case SP_SIM_CRASH:
            t.crash = true;
            break;
        case SP_SIM_THROTTLE:
            t.throttled = true;
            t.slower *= fault->factor;
            break;
        case SP_SIM_SLOW:
            t.slower *= fault->factor;
            break;
        }
        if (t.taken_bytes == UINT64_MAX)
            t.taken_bytes = UINT64_MAX - (1ull << 51); /* room for another one's */
    }
    return t;
}

static sp_status ask_memory(sp_sim *sim, uint64_t wanted_bytes, uint64_t held_bytes, uint64_t taken_bytes, sp_error *reterr)
{
    uint64_t all = sim->script.memory_bytes ? sim->script.memory_bytes : 1ull << 50;
    uint64_t left = all > held_bytes ? all - held_bytes : 0;
    left = left > taken_bytes ? left - taken_bytes : 0;
    if (wanted_bytes <= left)
        return SP_OK;
    return SP_FAIL_CODE(reterr, SP_NOMEM, "oom", "%s: out of device memory: asked %.1f MiB, free %.1f MiB of %.1f MiB",
                        sim->name, (double)wanted_bytes / MIB, (double)left / MIB, (double)sim->script.memory_bytes / MIB);
}

sp_status sp_sim_load(sp_sim *sim, uint64_t file_bytes, sp_error *reterr)
{
    sim->loaded_ns = sp_clock_now_ns();
    uint64_t bytes = sim->script.model_bytes ? sim->script.model_bytes : file_bytes;
    trouble t = find_trouble(sim, 0, sim->loaded_ns);
    sp_status s = ask_memory(sim, bytes, 0, t.taken_bytes, reterr);
    if (!s)
        sim->model_bytes = bytes;
    return s;
}

sp_status sp_sim_take(sp_sim *sim, uint64_t bytes, sp_error *reterr)
{
    (void)pthread_mutex_lock(&sim->lock);
    sp_status s = ask_memory(sim, bytes, sim->model_bytes, 0, reterr);
    if (!s)
        sim->model_bytes += bytes;
    (void)pthread_mutex_unlock(&sim->lock);
    return s;
}

void sp_sim_drop(sp_sim *sim, uint64_t bytes)
{
    (void)pthread_mutex_lock(&sim->lock);
    sim->model_bytes -= SP_MIN(bytes, sim->model_bytes);
    (void)pthread_mutex_unlock(&sim->lock);
}

int sp_sim_batch(const sp_sim *sim)
{
    return sim->script.batch;
}

int64_t sp_sim_latency_ns(const sp_sim *sim, int count)
{
    return sim->script.fixed_ns + sim->script.item_ns * count;
}

static sp_status sticky(const sp_sim *sim, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "sticky", "%s: an earlier access of the device failed and every later one "
                        "does (sticky error)", sim->name);
}

static void hang(void)
{
    for (;;)
        (void)pause(); /* the watchdog ends it */
}

static void crash(void)
{
    (void)signal(SIGSEGV, SIG_DFL); /* no sanitizer is to soften it */
    (void)raise(SIGSEGV);
}

sp_status sp_sim_begin(sp_sim *sim, int count, sp_sim_run *ret_run, sp_error *reterr)
{
    int64_t now_ns = sp_clock_now_ns();
    uint64_t wanted_bytes = (uint64_t)count * (sim->script.item_bytes ? sim->script.item_bytes : UNKNOWN_ITEM_BYTES);
    sp_status s = SP_OK;
    (void)pthread_mutex_lock(&sim->lock);
    trouble t = find_trouble(sim, ++sim->runs, now_ns);
    sim->gone |= t.sticky;
    sim->throttled = t.throttled;
    if (sim->gone)
        s = sticky(sim, reterr);
    else if (sim->script.item_bytes || t.taken_bytes)
        s = ask_memory(sim, wanted_bytes, sim->model_bytes, t.taken_bytes, reterr);
    sim->held_bytes = s ? 0 : wanted_bytes;
    (void)pthread_mutex_unlock(&sim->lock);
    if (t.hang && !s)
        hang();
    if (t.crash && !s)
        crash();
    *ret_run = (sp_sim_run){ now_ns, sp_sim_latency_ns(sim, count), t.slower };
    return s;
}

void sp_sim_end(sp_sim *sim, const sp_sim_run *run)
{
    int64_t took_ns = sp_clock_now_ns() - run->begun_ns;
    int64_t until_ns = run->begun_ns + (int64_t)((double)SP_MAX(took_ns, run->least_ns) * run->slower);
    struct timespec until = { until_ns / SP_NS_PER_S, until_ns % SP_NS_PER_S };
    if (run->least_ns || run->slower > 1)
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) { } /* EINTR */
    (void)pthread_mutex_lock(&sim->lock);
    sim->held_bytes = 0;
    (void)pthread_mutex_unlock(&sim->lock);
}

void sp_sim_sample(sp_sim *sim, sp_device_sample *sample)
{
    (void)pthread_mutex_lock(&sim->lock);
    uint64_t used = sim->model_bytes + sim->held_bytes;
    bool throttled = sim->throttled;
    (void)pthread_mutex_unlock(&sim->lock);
    (void)snprintf(sample->name, sizeof(sample->name), "simulated device %s", sim->name);
    (void)snprintf(sample->uuid, sizeof(sample->uuid), "SIM-%s", sim->name);
    (void)snprintf(sample->source, sizeof(sample->source), "sim");
    sample->sampled_ns = sp_clock_now_ns();
    sample->memory_used_bytes = (double)used;
    sample->memory_total_bytes = sim->script.memory_bytes ? (double)sim->script.memory_bytes : NAN;
    sample->utilization = sample->temperature_c = sample->power_w = sample->power_limit_w = NAN;
    sample->sm_clock_mhz = sample->energy_j = NAN;
    sample->throttle_thermal = throttled;
    sample->throttle_power = 2;
}
