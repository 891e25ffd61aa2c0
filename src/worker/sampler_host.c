/* SPDX-License-Identifier: Apache-2.0
 * The machine itself as a device: how busy its CPUs are (/proc/stat) and how much of the memory that we may use is used. */
#include "worker/sampler.h"

#include "base/machine.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct host {
    sp_machine machine;
    unsigned long long busy, all; /* of the sample before; 0 = none yet */
} host;

static sp_status host_open(void **ret_state, sp_error *reterr)
{
    host *h = calloc(1, sizeof(*h));
    if (!h)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the host's samples");
    sp_machine_read(&h->machine);
    *ret_state = h;
    return SP_OK;
}

/* Since the call before; false the first time, or when the kernel does not tell. */
static bool read_cpu(host *h, double *ret_utilization)
{
    unsigned long long t[8] = { 0 }, all = 0;
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return false;
    int n = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
    (void)fclose(file);
    if (n < 4)
        return false;
    for (int i = 0; i < 8; i++)
        all += t[i];
    unsigned long long busy = all - t[3] - t[4]; /* idle, waiting for a disk */
    bool known = h->all && all > h->all && busy >= h->busy;
    if (known)
        *ret_utilization = (double)(busy - h->busy) / (double)(all - h->all);
    h->busy = busy;
    h->all = all;
    return known;
}

static sp_status host_sample(void *state, sp_device_sample *ret_samples, int capacity, int *ret_count, sp_error *reterr)
{
    host *h = state;
    if (capacity < 1)
        return SP_OK;
    sp_device_sample *sample = &ret_samples[0];
    sp_device_sample_blank(sample, "host");
    (void)snprintf(sample->name, sizeof(sample->name), "host (%d CPUs)", h->machine.cpu_count);
    (void)read_cpu(h, &sample->utilization); /* stays blank when it is not known */
    uint64_t used = sp_machine_memory_used_bytes(&h->machine);
    if (h->machine.memory_limit_bytes && used) {
        sample->memory_total_bytes = (double)h->machine.memory_limit_bytes;
        sample->memory_used_bytes = (double)used;
    }
    *ret_count = 1;
    return SP_OK;
}

const sp_sample_source sp_sample_source_host = { "host", host_open, host_sample, free };
