/* SPDX-License-Identifier: Apache-2.0
 * What the GPUs say of themselves right now, for `spillway doctor`: memory in use, heat, throttling. NVML is asked on a
 * thread that is left behind when it does not answer: a driver that hangs is a finding, not a reason to hang. */
#include "cli/doctor.h"

#include "base/clock.h"
#include "worker/device_fault.h"
#include "worker/sampler.h"

#include <math.h>

#define PATIENCE_S 5 /* NVML's first call of a machine without persistence mode takes a second or two */

static sp_doctor_ask ask = SP_DOCTOR_ASK;
static struct {
    sp_status status;
    sp_error error;
    int count;
    sp_device_sample samples[SP_LIMIT_DEVICE_SAMPLES];
} found;

static void *ask_nvml(void *argument)
{
    void *state = NULL;
    found.status = sp_sample_source_nvml.open(&state, &found.error);
    if (!found.status)
        found.status = sp_sample_source_nvml.sample(state, found.samples, SP_LIMIT_DEVICE_SAMPLES, &found.count, &found.error);
    if (state)
        sp_sample_source_nvml.close(state);
    sp_doctor_tell(&ask);
    return argument;
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
    json_t *devices = json_array();
    const char *reason = "no thread to ask NVML", *remedy = "";
    sp_doctor_answer answer = sp_doctor_wait(&ask, ask_nvml, PATIENCE_S);
    if (answer == SP_DOCTOR_HANGS) {
        reason = "NVML does not answer: the driver hangs";
        remedy = sp_device_remedy("hang");
    } else if (answer == SP_DOCTOR_ANSWERED) {
        reason = found.error.message;
        remedy = sp_device_remedy(found.error.code);
        for (int i = 0; !found.status && i < found.count; i++)
            json_array_append_new(devices, device_of(&found.samples[i]));
    }
    return json_pack("{s:b, s:s, s:s, s:o}", "present", json_array_size(devices) > 0, "reason", reason, "remedy", remedy,
                     "devices", devices);
}
