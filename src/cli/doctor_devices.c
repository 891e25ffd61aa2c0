/* SPDX-License-Identifier: Apache-2.0
 * What the GPUs say of themselves right now, for `spillway doctor`: memory in use, heat, throttling. NVML is asked on a
 * thread that is left behind when it does not answer: a driver that hangs is a finding, not a reason to hang. */
#include "cli/doctor.h"

#include "base/clock.h"
#include "worker/device_fault.h"
#include "worker/sampler.h"

#include <math.h>
#include <pthread.h>
#include <time.h>

#define PATIENCE_S 5 /* NVML's first call of a machine without persistence mode takes a second or two */

static struct {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t done_bell;
    bool done;
    sp_status status;
    sp_error error;
    int count;
    sp_device_sample samples[SP_LIMIT_DEVICE_SAMPLES];
} ask = { .lock = PTHREAD_MUTEX_INITIALIZER, .done_bell = PTHREAD_COND_INITIALIZER };

static void *ask_nvml(void *argument)
{
    void *state = NULL;
    sp_error err = { 0 };
    sp_device_sample samples[SP_LIMIT_DEVICE_SAMPLES];
    int count = 0;
    sp_status s = sp_sample_source_nvml.open(&state, &err);
    if (!s)
        s = sp_sample_source_nvml.sample(state, samples, SP_LIMIT_DEVICE_SAMPLES, &count, &err);
    if (state)
        sp_sample_source_nvml.close(state);
    (void)pthread_mutex_lock(&ask.lock);
    ask.status = s;
    ask.error = err;
    ask.count = count;
    for (int i = 0; i < count; i++)
        ask.samples[i] = samples[i];
    ask.done = true;
    (void)pthread_cond_signal(&ask.done_bell);
    (void)pthread_mutex_unlock(&ask.lock);
    return NULL;
}

static void add_number(json_t *device, const char *key, double value)
{
    if (isfinite(value))
        json_object_set_new(device, key, json_real(value));
}

static json_t *device_of(const sp_device_sample *sample)
{
    json_t *device = json_pack("{s:s, s:s}", "name", sample->name, "uuid", sample->uuid);
    add_number(device, "memory_used_bytes", sample->memory_used_bytes);
    add_number(device, "memory_total_bytes", sample->memory_total_bytes);
    add_number(device, "temperature_celsius", sample->temperature_c);
    add_number(device, "power_watts", sample->power_w);
    add_number(device, "utilization", sample->utilization);
    if (sample->throttle_thermal < 2)
        json_object_set_new(device, "throttled", json_boolean(sample->throttle_thermal == 1 || sample->throttle_power == 1));
    return device;
}

json_t *sp_doctor_devices(void)
{
    pthread_t thread;
    struct timespec until;
    json_t *devices = json_array();
    char reason[256] = "no thread to ask NVML";
    const char *remedy = "";
    if (pthread_create(&thread, NULL, ask_nvml, NULL) == 0) {
        (void)pthread_detach(thread);
        (void)clock_gettime(CLOCK_REALTIME, &until); /* what pthread_cond_timedwait counts in */
        until.tv_sec += PATIENCE_S;
        (void)pthread_mutex_lock(&ask.lock);
        int code = 0;
        while (!ask.done && code == 0)
            code = pthread_cond_timedwait(&ask.done_bell, &ask.lock, &until);
        (void)snprintf(reason, sizeof(reason), "%s", ask.done ? ask.error.message : "NVML does not answer: the driver hangs");
        remedy = ask.done ? sp_device_remedy(ask.error.code) : sp_device_remedy("hang");
        for (int i = 0; ask.done && !ask.status && i < ask.count; i++)
            json_array_append_new(devices, device_of(&ask.samples[i]));
        (void)pthread_mutex_unlock(&ask.lock);
    }
    return json_pack("{s:b, s:s, s:s, s:o}", "present", json_array_size(devices) > 0, "reason", reason, "remedy", remedy,
                     "devices", devices);
}
