/* SPDX-License-Identifier: Apache-2.0
 * How a device worker uses its cores, measured at load: one wide session (all threads on one run) for a request that is
 * alone, and what gives the most throughput when several wait: narrow sessions side by side, or batches on the wide one.
 * The outcome is a line of text that the route keeps and hands to the next incarnation, which then need not measure. */
#ifndef SP_WORKER_DEVICE_PLAN_H
#define SP_WORKER_DEVICE_PLAN_H

#include "task/classify.h"

#include <stdint.h>

typedef struct sp_device_plan {
    int cpus;         /* granted when it was measured */
    int wide_threads; /* of a run that is alone; 1 with lanes = there is no wide session */
    int wide_spin;    /* its threads spin within a run */
    int lanes;        /* narrow runs side by side under load, one thread each; 0 = the wide session, batched */
    int batch;        /* items of one run under load */
    int64_t alone_p50_ns, alone_p99_ns; /* of one item on the wide session, alone */
    int64_t one_p50_ns;     /* the same on one thread; 0 = not measured. A small model, or a machine with busy
                                         * neighbours, gains nothing from threads: the worker keeps comparing the two */
    int64_t loaded_item_ns; /* time per item under load: its inverse is the throughput */
    int64_t loaded_run_ns;  /* time of one run under load */
    int64_t measured_ns;    /* what measuring took */
} sp_device_plan;

#define SP_DEVICE_PLAN_BYTES 256

/* One line: "2 cpus=2 model=<16 hex> engine=<text> alone=2s lanes=2 batch=1 p50=... p99=... one=...
 * item=... run=... took=...".
 * The first number is the format's. */
void sp_device_plan_write(const sp_device_plan *plan, const char *digest, const char *engine, char *text, size_t size);

/* False when it is of another format, machine size, model file or engine, or makes no sense: then measure. */
bool sp_device_plan_read(const char *text, const char *digest, const char *engine, int cpus, sp_device_plan *ret_plan);

/* Whose sessions they are. `cuda_api`, `cuda`: both or none; with them a classifier's lanes lie on the device. */
typedef struct sp_device_target {
    const sp_engine *engine;
    const char *provider;
    int index; /* of the device */
    const sp_cuda_api *cuda_api;
    sp_cuda *cuda;
    bool nvjpeg;    /* lanes take JPEG files too */
    int most_batch; /* of a stand-in for a device, and taken unmeasured; 0 = a device */
    bool refuse_cpu_nodes;
} sp_device_target;

/* Batches of a device at once: one is copied in while the other one computes. More wait in vain: computing is one stream. */
#define SP_DEVICE_LANES 2

/* The sessions a plan asks for. */
typedef struct sp_device_sessions {
    sp_classifier *wide;   /* one lane; NULL when wide_threads is 1 and lanes > 0 */
    sp_classifier *narrow; /* plan.lanes lanes; NULL when lanes is 0 */
} sp_device_sessions;
void sp_device_sessions_close(sp_device_sessions *sessions);

sp_status sp_device_sessions_open(const sp_device_target *target, sp_model *model, const sp_device_plan *plan,
                                  sp_device_sessions *ret_sessions, sp_error *reterr);

/* Measures in about a second. Stops early when the model is slow; whatever was not tried by then is not chosen. Sets
 * model->max_batch to 1 when an item's answer turns out to depend on its neighbours. */
sp_status sp_device_plan_measure(const sp_device_target *target, sp_model *model, int cpus, sp_device_plan *ret_plan,
                                 sp_error *reterr);

/* The plan of a simulated device: one session over all cores, batches of `batch`; times are measured on one and on
 * `batch` items. Otherwise as sp_device_plan_measure. */
sp_status sp_device_plan_simulated(const sp_device_target *target, sp_model *model, int cpus, int batch, sp_device_plan *ret_plan,
                                   sp_error *reterr);

#endif
