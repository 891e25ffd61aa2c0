/* SPDX-License-Identifier: Apache-2.0
 * Samples by DCGM, embedded and in manual mode: it measures when we ask it to and starts no service. Names, layouts and
 * numbers are those of its C ABI (versions 3 and 4). A value may be blank in several ways, each a number of its own:
 * none of them leaves this file. */
#include "worker/sampler.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DCGM_OK = 0, DCGM_MANUAL = 2, DCGM_DEVICES = 32 };
#define DCGM_ALL_GPUS 0x7fffffff
#define DCGM_BLANK_I64 INT64_C(0x7ffffffffffffff0) /* and above: not found, not supported, not permitted */
#define DCGM_BLANK_F64 140737488355328.0           /* and above */
#define DCGM_PERIOD_US 1000000LL
#define DCGM_KEEP_S 60.0

typedef struct dcgm_value {
    unsigned version;
    unsigned short field;
    unsigned short type; /* 'i', 'd', 's', ... */
    int status;
    int64_t time_us;
    union {
        int64_t i64;
        double f64;
        char text[256];
        char blob[4096];
    };
} dcgm_value;
_Static_assert(sizeof(dcgm_value) == 4120, "DCGM's dcgmFieldValue_v1");

/* The fields that are watched, by their numbers. */
enum { F_NAME, F_UUID, F_SM_CLOCK, F_REASONS, F_TEMPERATURE, F_POWER, F_ENERGY, F_POWER_LIMIT, F_UTILIZATION, F_TOTAL, F_USED,
       F_COUNT };
static const unsigned short field_ids[F_COUNT] = {
    [F_NAME] = 50,   [F_UUID] = 54,    [F_SM_CLOCK] = 100,    [F_REASONS] = 112,     [F_TEMPERATURE] = 150, [F_POWER] = 155,
    [F_ENERGY] = 156, [F_POWER_LIMIT] = 164, [F_UTILIZATION] = 203, [F_TOTAL] = 250, [F_USED] = 252,
};

typedef struct dcgm {
    void *library;
    int (*init)(void), (*shutdown)(void);
    int (*start)(int, uintptr_t *);
    int (*stop)(uintptr_t);
    int (*devices)(uintptr_t, unsigned *, int *);
    int (*field_group)(uintptr_t, int, unsigned short *, char *, uintptr_t *);
    int (*watch)(uintptr_t, uintptr_t, uintptr_t, long long, double, int);
    int (*update)(uintptr_t, int);
    int (*latest)(uintptr_t, int, unsigned short *, unsigned, dcgm_value *);
    bool inited, started;
    uintptr_t handle;
    dcgm_value values[F_COUNT];
} dcgm;

static void dcgm_close(void *state)
{
    dcgm *d = state;
    if (d->started)
        (void)d->stop(d->handle);
    if (d->inited)
        (void)d->shutdown();
    if (d->library)
        (void)dlclose(d->library);
    free(d);
}

/* Each step's own name in the message. */
static sp_status dcgm_start(dcgm *d, sp_error *reterr)
{
    unsigned short fields[F_COUNT];
    char group_name[] = "spillway";
    uintptr_t group = 0;
    memcpy(fields, field_ids, sizeof(fields)); /* it takes them without const */
    const char *step = "dcgmInit";
    int code = d->init();
    d->inited = !code;
    if (!code) {
        step = "dcgmStartEmbedded";
        code = d->start(DCGM_MANUAL, &d->handle);
        d->started = !code;
    }
    if (!code) {
        step = "dcgmFieldGroupCreate";
        code = d->field_group(d->handle, F_COUNT, fields, group_name, &group);
    }
    if (!code) {
        step = "dcgmWatchFields";
        code = d->watch(d->handle, DCGM_ALL_GPUS, group, DCGM_PERIOD_US, DCGM_KEEP_S, 2);
    }
    return code ? SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "dcgm", code, "DCGM does not start: %s says %d", step, code) : SP_OK;
}

static sp_status dcgm_open(void **ret_state, sp_error *reterr)
{
    dcgm *d = calloc(1, sizeof(*d));
    if (!d)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for DCGM");
    const sp_symbol symbols[] = {
        { "dcgmInit", (void **)&d->init, false },
        { "dcgmShutdown", (void **)&d->shutdown, false },
        { "dcgmStartEmbedded", (void **)&d->start, false },
        { "dcgmStopEmbedded", (void **)&d->stop, false },
        { "dcgmGetAllSupportedDevices", (void **)&d->devices, false },
        { "dcgmFieldGroupCreate", (void **)&d->field_group, false },
        { "dcgmWatchFields", (void **)&d->watch, false },
        { "dcgmUpdateAllFields", (void **)&d->update, false },
        { "dcgmGetLatestValuesForFields", (void **)&d->latest, false },
    };
    static const char *const names[] = { "libdcgm.so.4", "libdcgm.so.3", NULL };
    sp_status s = sp_sample_library_open(names, symbols, SP_ARRAY_LEN(symbols), &d->library, reterr);
    if (!s)
        s = dcgm_start(d, reterr);
    if (s)
        dcgm_close(d);
    else
        *ret_state = d;
    return s;
}

/* A number, whichever type the field has; false when it is blank. */
static bool number(const dcgm_value *value, double scale, double *ret_number)
{
    if (value->status != DCGM_OK)
        return false;
    if (value->type == 'i' || value->type == 't') {
        if (value->i64 >= DCGM_BLANK_I64 || value->i64 < 0)
            return false;
        *ret_number = (double)value->i64 * scale;
        return true;
    }
    if (value->type != 'd' || !(value->f64 >= 0 && value->f64 < DCGM_BLANK_F64))
        return false;
    *ret_number = value->f64 * scale;
    return true;
}

/* Blank texts read "<<<NULL>>>" and the like. */
static void text(const dcgm_value *value, char *target, size_t size)
{
    if (value->status == DCGM_OK && value->type == 's' && strncmp(value->text, "<<<", 3) != 0)
        (void)snprintf(target, size, "%.*s", (int)SP_MIN(size - 1, sizeof(value->text) - 1), value->text);
}

static void read_values(const dcgm_value *values, sp_device_sample *sample)
{
    double reasons;
    text(&values[F_NAME], sample->name, sizeof(sample->name));
    text(&values[F_UUID], sample->uuid, sizeof(sample->uuid));
    (void)number(&values[F_SM_CLOCK], 1, &sample->sm_clock_mhz); /* each stays NaN when it is blank */
    (void)number(&values[F_TEMPERATURE], 1, &sample->temperature_c);
    (void)number(&values[F_POWER], 1, &sample->power_w);
    (void)number(&values[F_POWER_LIMIT], 1, &sample->power_limit_w);
    (void)number(&values[F_ENERGY], 1e-3, &sample->energy_j);
    (void)number(&values[F_UTILIZATION], 0.01, &sample->utilization);
    (void)number(&values[F_TOTAL], 1048576, &sample->memory_total_bytes);
    (void)number(&values[F_USED], 1048576, &sample->memory_used_bytes);
    if (number(&values[F_REASONS], 1, &reasons))
        sp_device_sample_reasons(sample, (uint64_t)reasons);
}

static sp_status dcgm_sample(void *state, sp_device_sample *ret_samples, int capacity, int *ret_count, sp_error *reterr)
{
    dcgm *d = state;
    unsigned ids[DCGM_DEVICES];
    int count = 0, lost = 0;
    int code = d->update(d->handle, 1);
    if (!code)
        code = d->devices(d->handle, ids, &count);
    if (code)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "dcgm", code, "DCGM measures no more (code %d)", code);
    count = SP_CLAMP(count, 0, SP_MIN(capacity, (int)DCGM_DEVICES));
    for (int i = 0; i < count; i++) {
        unsigned short fields[F_COUNT];
        memcpy(fields, field_ids, sizeof(fields));
        memset(d->values, 0, sizeof(d->values));
        sp_device_sample_blank(&ret_samples[i], "dcgm");
        code = d->latest(d->handle, (int)ids[i], fields, F_COUNT, d->values);
        if (code == DCGM_OK)
            read_values(d->values, &ret_samples[i]);
        else
            lost++;
    }
    if (count && lost == count)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "dcgm", code, "DCGM has lost every device (code %d)", code);
    *ret_count = count;
    return SP_OK;
}

const sp_sample_source sp_sample_source_dcgm = { "dcgm", dcgm_open, dcgm_sample, dcgm_close };
