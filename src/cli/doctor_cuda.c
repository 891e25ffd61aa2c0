/* SPDX-License-Identifier: Apache-2.0
 * Spillway's own CUDA kernels, for `spillway doctor`: is the plug-in there, does it have code for these GPUs, does its first
 * kernel give the right numbers, can slots' memory be copied from in place; and is nvJPEG there. Asked on a thread that is left behind when a driver
 * does not answer. */
#include "cli/doctor.h"

#include "kernels/cuda.h"
#include "media/nvjpeg.h"
#include "worker/cuda_slots.h"
#include "worker/device_fault.h"

#include <stdio.h>
#include <stdlib.h>

#define PATIENCE_S 20 /* a context of a machine without persistence mode takes seconds */
#define MOST_DEVICES 16

typedef struct device_finding {
    sp_cuda_info info;
    sp_status status; /* of describing and opening it */
    sp_error error;
    bool registers;
    sp_error not_registered;
} device_finding;

static sp_doctor_ask ask = SP_DOCTOR_ASK;
static struct {
    sp_error error; /* of loading and counting; status SP_OK = none */
    const sp_cuda_api *api;
    int count;
    device_finding devices[MOST_DEVICES];
    bool nvjpeg;
    char nvjpeg_text[192]; /* which it is, or why it is not */
} found;

static void try_device(const sp_cuda_api *api, int index, device_finding *finding)
{
    sp_cuda *cuda = NULL;
    finding->status = api->describe(index, &finding->info, &finding->error);
    if (!finding->status)
        finding->status = api->open(index, 0, &cuda, &finding->error);
    if (finding->status)
        return;
    finding->registers = sp_cuda_registers_slots(api, cuda, &finding->not_registered);
    api->close(cuda);
}

static void *ask_plugin(void *argument)
{
    sp_status s = sp_cuda_load(&found.api, &found.error);
    if (!s)
        s = found.api->count(&found.count, &found.error);
    found.count = s ? 0 : SP_MIN(found.count, MOST_DEVICES);
    for (int i = 0; i < found.count; i++)
        try_device(found.api, i, &found.devices[i]);
    sp_error why = { 0 };
    found.nvjpeg = sp_nvjpeg_find(found.nvjpeg_text, sizeof(found.nvjpeg_text), &why) == SP_OK;
    if (!found.nvjpeg)
        (void)snprintf(found.nvjpeg_text, sizeof(found.nvjpeg_text), "%.190s", why.message);
    sp_doctor_tell(&ask);
    return argument;
}

static json_t *device_of(const device_finding *finding)
{
    const sp_error *why = finding->status ? &finding->error : &finding->not_registered;
    char code[16];
    (void)snprintf(code, sizeof(code), "sm_%d%d", finding->info.major, finding->info.minor);
    return json_pack("{s:s, s:s, s:s, s:I, s:b, s:b, s:b, s:s, s:s, s:s}", "name", finding->info.name, "uuid", finding->info.uuid,
                     "code", finding->info.major ? code : "", "memory_bytes", (json_int_t)finding->info.memory_bytes, "usable",
                     finding->status == SP_OK, "simulated", finding->info.simulated, "registers_slots", finding->registers, "reason",
                     why->message, "reason_code", why->code, "remedy", sp_device_remedy(why->code));
}

json_t *sp_doctor_cuda(void)
{
    json_t *devices = json_array();
    bool usable = false, nvjpeg = false;
    const char *reason = "no thread to ask the plug-in", *code = "", *codes = "", *version = "", *nvjpeg_text = "";
    sp_doctor_answer answer = sp_doctor_wait(&ask, ask_plugin, PATIENCE_S);
    if (answer == SP_DOCTOR_HANGS) {
        reason = "CUDA does not answer: the driver hangs";
        code = "hang";
    } else if (answer == SP_DOCTOR_ANSWERED) {
        reason = found.error.message;
        code = found.error.code;
        version = found.api ? found.api->version : "";
        codes = found.api ? found.api->codes : "";
        nvjpeg = found.nvjpeg;
        nvjpeg_text = found.nvjpeg_text;
        for (int i = 0; i < found.count; i++) {
            usable |= found.devices[i].status == SP_OK;
            json_array_append_new(devices, device_of(&found.devices[i]));
        }
    }
    return json_pack("{s:b, s:s, s:s, s:s, s:s, s:s, s:o, s:{s:b, s:s}}", "present", usable, "reason", reason, "reason_code", code, "remedy",
                     sp_device_remedy(code), "version", version, "codes", codes, "devices", devices, "nvjpeg", "present",
                     nvjpeg, "detail", nvjpeg_text);
}
