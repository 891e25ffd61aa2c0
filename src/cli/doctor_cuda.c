/* SPDX-License-Identifier: Apache-2.0
 * Spillway's own CUDA kernels, for `spillway doctor`: is the plug-in there, does it have code for these GPUs, does its first
 * kernel give the right numbers, can slots' memory be copied from in place. Asked on a thread that is left behind when a driver
 * does not answer. */
#include "cli/doctor.h"

#include "kernels/cuda.h"
#include "worker/cuda_slots.h"
#include "worker/device_fault.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define PATIENCE_S 20 /* a context of a machine without persistence mode takes seconds */
#define MOST_DEVICES 16

typedef struct device_finding {
    sp_cuda_info info;
    sp_status status; /* of describing and opening it */
    sp_error error;
    bool registers;
    sp_error not_registered;
} device_finding;

static struct {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t done_bell;
    bool done;
    sp_status status;
    sp_error error;
    const sp_cuda_api *api;
    int count;
    device_finding devices[MOST_DEVICES];
} ask = { .lock = PTHREAD_MUTEX_INITIALIZER, .done_bell = PTHREAD_COND_INITIALIZER };

static void try_device(const sp_cuda_api *api, int index, device_finding *found)
{
    sp_cuda *cuda = NULL;
    found->status = api->describe(index, &found->info, &found->error);
    if (!found->status)
        found->status = api->open(index, 0, &cuda, &found->error);
    if (found->status)
        return;
    found->registers = sp_cuda_registers_slots(api, cuda, &found->not_registered);
    api->close(cuda);
}

static void *ask_plugin(void *argument)
{
    const sp_cuda_api *api = NULL;
    sp_error err = { 0 };
    int count = 0;
    device_finding *devices = calloc(MOST_DEVICES, sizeof(*devices));
    sp_status s = devices ? sp_cuda_load(&api, &err) : SP_FAIL(&err, SP_NOMEM, "no memory for the findings");
    if (!s)
        s = api->count(&count, &err);
    count = SP_MIN(count, MOST_DEVICES);
    for (int i = 0; i < count; i++)
        try_device(api, i, &devices[i]);
    (void)pthread_mutex_lock(&ask.lock);
    ask.status = s;
    ask.error = err;
    ask.api = api;
    ask.count = count;
    for (int i = 0; i < count; i++)
        ask.devices[i] = devices[i];
    ask.done = true;
    (void)pthread_cond_signal(&ask.done_bell);
    (void)pthread_mutex_unlock(&ask.lock);
    free(devices);
    return argument;
}

static json_t *device_of(const device_finding *found)
{
    const sp_error *why = found->status ? &found->error : &found->not_registered;
    char code[16];
    (void)snprintf(code, sizeof(code), "sm_%d%d", found->info.major, found->info.minor);
    return json_pack("{s:s, s:s, s:s, s:I, s:b, s:b, s:b, s:s, s:s, s:s}", "name", found->info.name, "uuid", found->info.uuid,
                     "code", found->info.major ? code : "", "memory_bytes", (json_int_t)found->info.memory_bytes, "usable",
                     found->status == SP_OK, "simulated", found->info.simulated, "registers_slots", found->registers, "reason",
                     why->message, "reason_code", why->code, "remedy", sp_device_remedy(why->code));
}

json_t *sp_doctor_cuda(void)
{
    pthread_t thread;
    struct timespec until;
    json_t *devices = json_array();
    bool usable = false;
    char reason[256] = "no thread to ask the plug-in", code[32] = "", text[160] = "", version[64] = "";
    if (pthread_create(&thread, NULL, ask_plugin, NULL) == 0) {
        (void)pthread_detach(thread);
        (void)clock_gettime(CLOCK_REALTIME, &until); /* what pthread_cond_timedwait counts in */
        until.tv_sec += PATIENCE_S;
        (void)pthread_mutex_lock(&ask.lock);
        int waited = 0;
        while (!ask.done && waited == 0)
            waited = pthread_cond_timedwait(&ask.done_bell, &ask.lock, &until);
        (void)snprintf(reason, sizeof(reason), "%s", ask.done ? ask.error.message : "CUDA does not answer: the driver hangs");
        (void)snprintf(code, sizeof(code), "%s", ask.done ? ask.error.code : "hang");
        for (int i = 0; ask.done && i < ask.count; i++) {
            usable |= ask.devices[i].status == SP_OK;
            json_array_append_new(devices, device_of(&ask.devices[i]));
        }
        (void)snprintf(version, sizeof(version), "%s", ask.done && ask.api ? ask.api->version : "");
        (void)snprintf(text, sizeof(text), "%s", ask.done && ask.api ? ask.api->codes : "");
        (void)pthread_mutex_unlock(&ask.lock);
    }
    return json_pack("{s:b, s:s, s:s, s:s, s:s, s:s, s:o}", "present", usable, "reason", reason, "reason_code", code, "remedy",
                     sp_device_remedy(code), "version", version, "codes", text, "devices", devices);
}
