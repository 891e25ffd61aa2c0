/* SPDX-License-Identifier: Apache-2.0
 * A library that passes for DCGM with one GPU. Words: dcgm-fails, dcgm-hangs, dcgm-blank, dcgm-lost, hot. */
#include "script.h"

#include <stdint.h>

typedef struct {
    unsigned version;
    unsigned short field, type;
    int status;
    int64_t time;
    union {
        int64_t i64;
        double f64;
        char text[256];
        char blob[4096];
    };
} value;

FAKE_API int dcgmInit(void);
int dcgmInit(void)
{
    return says("dcgm-fails") ? -3 : 0;
}

FAKE_API int dcgmShutdown(void);
int dcgmShutdown(void)
{
    return 0;
}

FAKE_API int dcgmStartEmbedded(int mode, uintptr_t *handle);
int dcgmStartEmbedded(int mode, uintptr_t *handle)
{
    *handle = 7;
    return mode == 2 ? 0 : -1;
}

FAKE_API int dcgmStopEmbedded(uintptr_t handle);
int dcgmStopEmbedded(uintptr_t handle)
{
    return handle == 7 ? 0 : -1;
}

FAKE_API int dcgmGetAllSupportedDevices(uintptr_t handle, unsigned *ids, int *count);
int dcgmGetAllSupportedDevices(uintptr_t handle, unsigned *ids, int *count)
{
    ids[0] = 3;
    *count = 1;
    return handle == 7 ? 0 : -1;
}

FAKE_API int dcgmFieldGroupCreate(uintptr_t handle, int count, unsigned short *fields, char *name, uintptr_t *group);
int dcgmFieldGroupCreate(uintptr_t handle, int count, unsigned short *fields, char *name, uintptr_t *group)
{
    (void)fields;
    *group = 11;
    return handle == 7 && count > 0 && *name ? 0 : -1;
}

FAKE_API int dcgmWatchFields(uintptr_t handle, uintptr_t gpus, uintptr_t group, long long period_us, double keep_s, int keep);
int dcgmWatchFields(uintptr_t handle, uintptr_t gpus, uintptr_t group, long long period_us, double keep_s, int keep)
{
    return handle == 7 && gpus == 0x7fffffff && group == 11 && period_us > 0 && keep_s > 0 && keep > 0 ? 0 : -1;
}

FAKE_API int dcgmUpdateAllFields(uintptr_t handle, int wait);
int dcgmUpdateAllFields(uintptr_t handle, int wait)
{
    hang_if("dcgm-hangs");
    return handle == 7 && wait ? 0 : -1;
}

static void fill(value *v)
{
    int blank = says("dcgm-blank");
    v->type = 'i';
    switch (v->field) {
    case 50:
        v->type = 's';
        (void)snprintf(v->text, sizeof(v->text), "%s", blank ? "<<<NOT_SUPPORTED>>>" : "Fake GPU by DCGM");
        break;
    case 54:
        v->type = 's';
        (void)snprintf(v->text, sizeof(v->text), "GPU-fake-dcgm");
        break;
    case 112:
        v->i64 = says("hot") ? 0x40 : 0;
        break;
    case 155: /* each way of being blank comes about */
        v->type = 'd';
        v->f64 = blank ? 140737488355330.0 : 80.25;
        break;
    case 156:
        v->i64 = blank ? INT64_C(0x7ffffffffffffff3) : 5000;
        break;
    case 203:
        v->i64 = blank ? INT64_C(0x7ffffffffffffff0) : 25;
        break;
    case 250:
        v->i64 = 16;
        break;
    case 252:
        v->i64 = blank ? INT64_C(0x7ffffffffffffff2) : 4;
        break;
    default:
        v->status = -12; /* no data yet */
    }
}

FAKE_API int dcgmGetLatestValuesForFields(uintptr_t handle, int gpu, unsigned short *fields, unsigned count, value *values);
int dcgmGetLatestValuesForFields(uintptr_t handle, int gpu, unsigned short *fields, unsigned count, value *values)
{
    if (handle != 7 || gpu != 3 || says("dcgm-lost"))
        return -25;
    for (unsigned i = 0; i < count; i++) {
        values[i] = (value){ .version = 1, .field = fields[i] };
        fill(&values[i]);
    }
    return 0;
}
