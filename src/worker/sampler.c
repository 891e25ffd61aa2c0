/* SPDX-License-Identifier: Apache-2.0
 * The kind that takes no leases: once a second it measures the devices and writes what it found into its page. A thread
 * of its own does it, so that the worker is ready at once and a library that hangs in its first call is seen by the
 * missing samples (route/devices.c), which end this process; the next one begins afresh.
 *
 * The best source that works is used; a better one is tried again every 60 rounds, because drivers come and go. The host's
 * own sample always comes last. */
#include "worker/sampler.h"

#include "base/clock.h"
#include "base/log.h"
#include "worker/kinds.h"
#include "worker/sample.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RETRY_ROUNDS 60 /* until a better source is tried again */
#define IDLE_ROUNDS 10  /* with nothing to do on any device: then every fifth round is enough */
#define IDLE_FACTOR 5

static const sp_sample_source *const sources[] = { &sp_sample_source_dcgm, &sp_sample_source_nvml };

typedef struct sampler {
    pthread_t thread;
    int64_t period_ns;
    int current; /* index in sources; SP_ARRAY_LEN(sources) = the host alone */
    void *state, *host;
    int rounds_to_retry, idle_rounds;
    int places; /* written last time */
    char said[SP_ARRAY_LEN(sources)][256]; /* why a source did not work, last time: said once */
} sampler;

void sp_device_sample_blank(sp_device_sample *sample, const char *source)
{
    *sample = (sp_device_sample){ .throttle_thermal = 2, .throttle_power = 2 };
    (void)snprintf(sample->source, sizeof(sample->source), "%s", source);
    sample->sampled_ns = sp_clock_now_ns();
    sample->utilization = sample->memory_used_bytes = sample->memory_total_bytes = sample->temperature_c = NAN;
    sample->power_w = sample->power_limit_w = sample->sm_clock_mhz = sample->energy_j = NAN;
}

void sp_device_sample_reasons(sp_device_sample *sample, uint64_t reasons)
{
    enum { HW_SLOWDOWN = 0x8, SW_THERMAL = 0x20, HW_THERMAL = 0x40, POWER_BRAKE = 0x80 };
    sample->throttle_power = (reasons & POWER_BRAKE) != 0;
    /* The general hardware slowdown stands for either; with the brake beside it, it is the brake's. */
    sample->throttle_thermal =
        (reasons & (SW_THERMAL | HW_THERMAL)) != 0 || ((reasons & HW_SLOWDOWN) && !(reasons & POWER_BRAKE));
}

sp_status sp_sample_library_open(const char *const *names, const sp_symbol *symbols, int count, void **ret_library,
                                 sp_error *reterr)
{
    void *library = NULL;
    const char *first = names[0];
    for (; *names && !library; names++)
        library = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_library", "library missing: %s", first);
    for (int i = 0; i < count; i++) {
        *symbols[i].target = dlsym(library, symbols[i].name);
        if (!*symbols[i].target && !symbols[i].optional) {
            (void)dlclose(library);
            return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_library", "%s has no %s", first, symbols[i].name);
        }
    }
    *ret_library = library;
    return SP_OK;
}

/* --- which source -------------------------------------------------------------------------------------------------- */

static void say_once(sampler *s, int index, const sp_error *err)
{
    if (strncmp(s->said[index], err->message, sizeof(s->said[index]) - 1) == 0)
        return;
    (void)snprintf(s->said[index], sizeof(s->said[index]), "%s", err->message);
    sp_log(err->status == SP_UNSUPPORTED ? SP_LOG_DEBUG : SP_LOG_WARN, "samples: source not used",
           SP_LOG_TEXT("source", sources[index]->name), SP_LOG_TEXT("reason", err->message));
}

/* The best source that opens takes the place of the current one. */
static void find_source(sampler *s)
{
    s->rounds_to_retry = RETRY_ROUNDS;
    for (int i = 0; i < s->current; i++) {
        sp_error err = { 0 };
        void *state = NULL;
        if (sources[i]->open(&state, &err)) {
            say_once(s, i, &err);
            continue;
        }
        if (s->state)
            sources[s->current]->close(s->state);
        s->current = i;
        s->state = state;
        s->said[i][0] = 0;
        sp_log(SP_LOG_INFO, "samples: source", SP_LOG_TEXT("source", sources[i]->name));
        return;
    }
}

static int sample_devices(sampler *s, sp_device_sample *samples, int capacity)
{
    sp_error err = { 0 };
    int count = 0;
    if (!s->state)
        return 0;
    sp_status status = sources[s->current]->sample(s->state, samples, capacity, &count, &err);
    if (!status)
        return count;
    say_once(s, s->current, &err);
    sources[s->current]->close(s->state);
    s->state = NULL;
    s->current = SP_ARRAY_LEN(sources);
    return 0;
}

/* --- the rounds ---------------------------------------------------------------------------------------------------- */

static bool all_idle(const sp_device_sample *samples, int count)
{
    for (int i = 0; i < count; i++) {
        if (!(samples[i].utilization < 0.01) && !isnan(samples[i].utilization))
            return false;
    }
    return true;
}

static void one_round(sampler *s)
{
    sp_device_sample samples[SP_LIMIT_DEVICE_SAMPLES];
    sp_device_sample *shared = sp_worker_page_now()->samples;
    int host_count = 0;
    if (s->current > 0 && s->rounds_to_retry-- <= 0)
        find_source(s);
    int count = sample_devices(s, samples, SP_LIMIT_DEVICE_SAMPLES - 1);
    s->idle_rounds = all_idle(samples, count) ? s->idle_rounds + 1 : 0;
    if (s->host && sp_sample_source_host.sample(s->host, &samples[count], 1, &host_count, NULL) == SP_OK)
        count += host_count;
    for (int i = 0; i < count; i++)
        sp_device_sample_write(&shared[i], &samples[i]);
    sp_device_sample none = { 0 };
    for (int i = count; i < s->places; i++) /* a device that is gone leaves no last value behind */
        sp_device_sample_write(&shared[i], &none);
    s->places = count;
}

static void *sampler_main(void *argument)
{
    sampler *s = argument;
    for (;;) {
        one_round(s);
        int64_t wait_ns = s->period_ns * (s->idle_rounds >= IDLE_ROUNDS ? IDLE_FACTOR : 1);
        struct timespec nap = { wait_ns / SP_NS_PER_S, wait_ns % SP_NS_PER_S };
        (void)nanosleep(&nap, NULL); /* its own process with nothing else to do: there is no event to wait for */
    }
    return NULL;
}

static sp_status sampler_open(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr)
{
    sampler *s = calloc(1, sizeof(*s));
    if (!s)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a sampler");
    s->period_ns = sp_sample_period_ns(getenv("SPILLWAY_SAMPLE_MS"));
    s->current = SP_ARRAY_LEN(sources);
    if (sp_sample_source_host.open(&s->host, NULL))
        s->host = NULL;
    int code = pthread_create(&s->thread, NULL, sampler_main, s);
    if (code) {
        sp_sample_source_host.close(s->host);
        free(s);
        return SP_FAIL_FROM(reterr, SP_NOMEM, "pthread", code, "no thread for a sampler");
    }
    (void)snprintf(card->device, sizeof(card->device), "none");
    (void)snprintf(card->precision, sizeof(card->precision), "none");
    (void)snprintf(card->engine, sizeof(card->engine), "none");
    (void)snprintf(card->sandbox, sizeof(card->sandbox), "none");
    card->executors = card->max_batch = card->window = 1;
    *ret_state = s;
    return SP_OK;
}

static void sampler_run(void *state, int executor, sp_work_item *items, int count)
{
    for (int i = 0; i < count; i++)
        items[i].status = SP_FAIL(&items[i].error, SP_UNSUPPORTED, "a sampler takes no requests");
}

const sp_worker_kind sp_worker_kind_sampler = { .name = "sampler", .open = sampler_open, .run = sampler_run };
