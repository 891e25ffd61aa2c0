/* SPDX-License-Identifier: Apache-2.0
 * Samples by NVML, the driver's own library. Function names, argument order, struct layouts and codes are those of its
 * stable C ABI; whatever a card does not tell (NOT_SUPPORTED and any other refusal of one value) stays blank. */
#include "worker/sampler.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { NVML_OK = 0, NVML_GPU_IS_LOST = 15, NVML_CLOCK_SM = 1, NVML_TEMPERATURE_GPU = 0 };

typedef void *nvml_device;
typedef struct nvml_utilization {
    unsigned gpu, memory; /* percent of the last period */
} nvml_utilization;
typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;

typedef struct nvml {
    void *library;
    int (*init)(void), (*shutdown)(void);
    int (*count)(unsigned *);
    int (*handle)(unsigned, nvml_device *);
    int (*name)(nvml_device, char *, unsigned);
    int (*uuid)(nvml_device, char *, unsigned);
    int (*utilization)(nvml_device, nvml_utilization *);
    int (*memory)(nvml_device, nvml_memory *);
    int (*temperature)(nvml_device, int, unsigned *);
    int (*power)(nvml_device, unsigned *);       /* mW */
    int (*power_limit)(nvml_device, unsigned *); /* mW */
    int (*clock)(nvml_device, int, unsigned *);  /* MHz */
    int (*reasons)(nvml_device, unsigned long long *);
    int (*energy)(nvml_device, unsigned long long *); /* mJ since the driver was loaded */
    bool started;
} nvml;

static void nvml_close(void *state)
{
    nvml *n = state;
    if (n->started)
        (void)n->shutdown();
    if (n->library)
        (void)dlclose(n->library);
    free(n);
}

static sp_status nvml_open(void **ret_state, sp_error *reterr)
{
    nvml *n = calloc(1, sizeof(*n));
    if (!n)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for NVML");
    const sp_symbol symbols[] = {
        { "nvmlInit_v2", (void **)&n->init, false },
        { "nvmlShutdown", (void **)&n->shutdown, false },
        { "nvmlDeviceGetCount_v2", (void **)&n->count, false },
        { "nvmlDeviceGetHandleByIndex_v2", (void **)&n->handle, false },
        { "nvmlDeviceGetName", (void **)&n->name, true },
        { "nvmlDeviceGetUUID", (void **)&n->uuid, true },
        { "nvmlDeviceGetUtilizationRates", (void **)&n->utilization, true },
        { "nvmlDeviceGetMemoryInfo", (void **)&n->memory, true },
        { "nvmlDeviceGetTemperature", (void **)&n->temperature, true },
        { "nvmlDeviceGetPowerUsage", (void **)&n->power, true },
        { "nvmlDeviceGetEnforcedPowerLimit", (void **)&n->power_limit, true },
        { "nvmlDeviceGetClockInfo", (void **)&n->clock, true },
        { "nvmlDeviceGetCurrentClocksThrottleReasons", (void **)&n->reasons, true },
        { "nvmlDeviceGetTotalEnergyConsumption", (void **)&n->energy, true },
    };
    static const char *const names[] = { "libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1", NULL };
    sp_status s = sp_sample_library_open(names, symbols, SP_ARRAY_LEN(symbols), &n->library, reterr);
    int code = s ? 0 : n->init();
    if (code)
        s = SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "nvml", code, "NVML does not start (code %d%s)", code,
                         code == 9 ? ": no driver is loaded" : code == 18 ? ": it is of another version than the driver" : "");
    if (s) {
        nvml_close(n);
        return s;
    }
    n->started = true;
    *ret_state = n;
    return SP_OK;
}

/* Only what answers NVML_OK is taken over. */
static void read_values(const nvml *n, nvml_device device, sp_device_sample *sample)
{
    nvml_utilization utilization;
    nvml_memory memory;
    unsigned value;
    unsigned long long large;
    if (n->name && n->name(device, sample->name, sizeof(sample->name)) != NVML_OK)
        sample->name[0] = 0;
    if (n->uuid && n->uuid(device, sample->uuid, sizeof(sample->uuid)) != NVML_OK)
        sample->uuid[0] = 0;
    if (n->utilization && n->utilization(device, &utilization) == NVML_OK && utilization.gpu <= 100)
        sample->utilization = utilization.gpu / 100.0;
    if (n->memory && n->memory(device, &memory) == NVML_OK) {
        sample->memory_total_bytes = (double)memory.total;
        sample->memory_used_bytes = (double)memory.used;
    }
    if (n->temperature && n->temperature(device, NVML_TEMPERATURE_GPU, &value) == NVML_OK)
        sample->temperature_c = value;
    if (n->power && n->power(device, &value) == NVML_OK)
        sample->power_w = value / 1000.0;
    if (n->power_limit && n->power_limit(device, &value) == NVML_OK)
        sample->power_limit_w = value / 1000.0;
    if (n->clock && n->clock(device, NVML_CLOCK_SM, &value) == NVML_OK)
        sample->sm_clock_mhz = value;
    if (n->reasons && n->reasons(device, &large) == NVML_OK)
        sp_device_sample_reasons(sample, large);
    if (n->energy && n->energy(device, &large) == NVML_OK)
        sample->energy_j = (double)large / 1000.0;
}

static sp_status nvml_sample(void *state, sp_device_sample *ret_samples, int capacity, int *ret_count, sp_error *reterr)
{
    const nvml *n = state;
    unsigned count = 0;
    int lost = 0;
    int code = n->count(&count);
    if (code)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "nvml", code, "NVML counts no devices (code %d)", code);
    count = SP_MIN(count, (unsigned)capacity);
    for (unsigned i = 0; i < count; i++) {
        nvml_device device = NULL;
        sp_device_sample_blank(&ret_samples[i], "nvml"); /* a lost one keeps its place: cuda1 stays the second */
        code = n->handle(i, &device);
        if (code == NVML_OK)
            read_values(n, device, &ret_samples[i]);
        else
            lost++;
        if (code == NVML_GPU_IS_LOST)
            (void)snprintf(ret_samples[i].name, sizeof(ret_samples[i].name), "lost (fell off the bus)");
    }
    if (count && lost == (int)count)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "nvml", code, "NVML has lost every device (code %d)", code);
    *ret_count = (int)count;
    return SP_OK;
}

const sp_sample_source sp_sample_source_nvml = { "nvml", nvml_open, nvml_sample, nvml_close };
