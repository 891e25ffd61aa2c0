/* SPDX-License-Identifier: Apache-2.0
 * What the device worker's files share: device.c (opening; the worker's own task, classify), device_cuda.c (its CUDA device, which
 * all of them may use: target.cuda_api, target.cuda), device_analyze.c (chunks of videos)
 * and device_queue.c (who is next: that task, a chunk or a served model). For these alone. */
#ifndef SP_WORKER_DEVICE_H
#define SP_WORKER_DEVICE_H

#include "base/metrics.h"
#include "task/classify.h"
#include "worker/batch_limit.h"
#include "worker/chunk.h"
#include "worker/device_plan.h"
#include "worker/hall.h"
#include "worker/sim.h"
#include "worker/worker.h"

#include <stdatomic.h>

/* Leases of the own task that wait; the loop's queue lock guards it. */
typedef struct sp_device_queue {
    sp_work_item *waiting[SP_LIMIT_SLOTS];
    int waiting_count;
    int64_t wait_until_ns; /* a batch that is to fill is waited for until then; 0 = it is not */
    uint32_t lanes_busy;   /* bits: lanes of the narrow session, or [0] the wide one */
    int lane_of_batch[SP_LIMIT_EXECUTORS]; /* what a batch of the own task has for its own: a pointer in here */
    int busy;              /* batches of any kind in hand */
    bool hall_turn;        /* a served model is asked first */
} sp_device_queue;

/* Chunks of videos (device_analyze.c); the loop's queue lock guards it. */
typedef struct sp_device_analyze {
    sp_lane *lane;         /* NULL: this device analyses no videos (why_not) */
    char why_not[256];
    sp_work_item *waiting[SP_LIMIT_SLOTS];
    int waiting_count;
    bool busy;
    int64_t rest_at_ns; /* what the lane keeps is let go of then; 0 = it keeps nothing */
} sp_device_analyze;

typedef struct sp_device {
    const sp_engine *engine;
    char no_engine[256];     /* why no engine runs on the device, which analyses videos only; "" = one does */
    sp_model *model; /* NULL: no task of its own */
    sp_device_target target; /* its cuda_api and cuda: NULL where there is no CUDA device, or no plug-in for it */
    sp_cuda_info cuda_info;
    bool registers;          /* slots' memory can be made known to the device */
    char cuda_note[320];     /* for the card; "" = of a kind without CUDA */
    char nvjpeg[192];        /* likewise; "" = it is not to be used. target.nvjpeg says whether it is there */
    _Atomic int64_t cuda_publish_ns;
    sp_device_plan plan;
    sp_device_sessions sessions;
    sp_sim *sim; /* NULL = a real device */
    sp_metric *mxcsr_repaired;
    atomic_bool wide_busy;
    _Atomic int64_t alone_ns[2]; /* averages of runs that were alone: [1] on the wide session, [0] on one thread */
    atomic_uint alone_turns;
    sp_batch_limit batch_limit;
    sp_device_counters *counters;
    int load_x8;            /* in-flight requests seen by choose(), an average; the loop's lead guards it */
    int places;             /* batches at once, of all kinds */
    sp_device_queue queue;
    sp_device_analyze analyze;
    sp_hall *hall;
} sp_device;

/* device.c: as sp_worker_kind's choose and run; `lane` of the narrow session. */
int sp_device_choose(sp_device *dev, int waiting, int busy, int64_t *ret_wait_ns);
void sp_device_classify(sp_device *dev, int executor, int lane, sp_work_item **items, int count);
void sp_device_publish_simulated(sp_device *dev);

/* device_cuda.c. Opens what `kind` wants; SP_OK without a device where none is wanted, or the plug-in is missing. */
sp_status sp_device_cuda_open(sp_device *dev, const char *kind, int index, sp_error *reterr);
void sp_device_cuda_open_nvjpeg(sp_device *dev); /* after it, if it is wanted: it is there, or the log and the card say why not */
void sp_device_cuda_close(sp_device *dev); /* after all that uses it */
bool sp_device_cuda_mapped(sp_device *dev, void *memory, size_t bytes);
void sp_device_cuda_unmapped(sp_device *dev, void *memory);
void sp_device_cuda_publish(sp_device *dev); /* what it holds, to the gateway; any thread, as often as one likes */

/* device_analyze.c. `next` forms a batch of one chunk, or a chore, which `owns` knows again. */
sp_status sp_device_analyze_open(sp_device *dev, const sp_worker_config *config, int cpus, uint64_t memory_bytes, sp_error *reterr);
void sp_device_analyze_close(sp_device *dev);
void sp_device_analyze_add(sp_device *dev, sp_work_item *item);
void sp_device_analyze_remove(sp_device *dev, const sp_work_item *item);
bool sp_device_analyze_next(sp_device *dev, int64_t now_ns, sp_worker_batch *batch);
bool sp_device_analyze_owns(const sp_device *dev, const sp_worker_batch *batch);
void sp_device_analyze_run(sp_device *dev, int executor, const sp_worker_batch *batch);
void sp_device_analyze_over(sp_device *dev, const sp_worker_batch *batch, int64_t now_ns);

extern const sp_worker_queue sp_device_queue_calls; /* device_queue.c */

#endif
