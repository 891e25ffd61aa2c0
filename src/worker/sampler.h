/* SPDX-License-Identifier: Apache-2.0
 * Where samples of devices come from: DCGM, else NVML, else only the host. A source is a library found by dlopen with our
 * own declarations of it, so nothing of NVIDIA's is needed to build. Sources are used by one thread of the sampler worker
 * (worker/sampler.c); what a library does there (crash, hang) costs that process, nobody else. */
#ifndef SP_WORKER_SAMPLER_H
#define SP_WORKER_SAMPLER_H

#include "base/status.h"
#include "worker/slot.h"

typedef struct sp_sample_source {
    const char *name; /* "dcgm", "nvml", "host" */
    /* SP_UNSUPPORTED: no such library here, or a symbol is missing; SP_UNAVAILABLE: it does not start. */
    sp_status (*open)(void **ret_state, sp_error *reterr);
    /* Up to `capacity` devices; values that the device does not tell are NaN (flags: 2). SP_UNAVAILABLE: the source is of
     * no use any more (driver gone, every device lost): close it. */
    sp_status (*sample)(void *state, sp_device_sample *ret_samples, int capacity, int *ret_count, sp_error *reterr);
    void (*close)(void *state);
} sp_sample_source;

extern const sp_sample_source sp_sample_source_dcgm, sp_sample_source_nvml, sp_sample_source_host;

/* All values unknown. */
void sp_device_sample_blank(sp_device_sample *sample, const char *source);

/* Clock reasons as NVML and DCGM number them -> the sample's two flags. Lowered clocks at the power limit that was set
 * (software power cap) are everyday life of a busy card and no reason to avoid it; heat and the power brake are. */
void sp_device_sample_reasons(sp_device_sample *sample, uint64_t reasons);

/* dlopen of the first name that is there, then every symbol of the table. SP_UNSUPPORTED names what is missing. */
typedef struct sp_symbol {
    const char *name;
    void **target;
    bool optional;
} sp_symbol;
sp_status sp_sample_library_open(const char *const *names, const sp_symbol *symbols, int count, void **ret_library,
                                 sp_error *reterr);

#endif
