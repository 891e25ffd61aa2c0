/* SPDX-License-Identifier: Apache-2.0
 * The simulated device: what a GPU would do to the runs of a device worker, on a machine that has none. It computes
 * nothing (the CPU engine does): it refuses, delays and breaks runs by a script, with a GPU's words. Worker kind "sim".
 *
 *   SPILLWAY_SIM = device { " " device }
 *   device       = [ NAME ":" ] setting { "," setting }      NAME = the worker's ("sim0"); without it: every sim worker
 *   setting      = memory=BYTES     of the device; 0 or absent = without bound
 *                | model=BYTES      what the loaded model takes of it (the size of its file)
 *                | item=BYTES       what a run takes of it for each item (0)
 *                | latency=TIME[+TIME]   a run takes at least this: fixed, and more for each item (0)
 *                | batch=N          items of one run (8)
 *                | probe=CAUSE[@if=FILE]   it is not there: no_gpu, no_driver, no_library, mismatch
 *                | fault=FAULT { ";" FAULT }
 *   FAULT        = oom[=BYTES]      another process holds so many bytes (all that the model leaves)
 *                | sticky           this run and every later one of the process fail; only a new process helps
 *                | hang             the run never ends
 *                | crash            the process dies in it, as of a driver's wild pointer (SIGSEGV)
 *                | slow[=FACTOR]    runs take so many times as long (10)
 *                | throttle[=FACTOR]   the same (2), and the device says that it is too hot
 *                followed by "@" SELECTOR { "&" SELECTOR }
 *   SELECTOR     = n=K (from the K-th run of the process) | every=K | at=TIME (after it was ready)
 *                | for=TIME | for=N (runs; 1) | for=ever | if=FILE (only while that file is there)
 *
 * A run is a batch of pictures or tensors, or a block of a video's frames.
 * Bytes: 1024, 64KiB, 200MiB, 2GiB. Times: 100us, 2ms, 0.5s. Example:
 *   SPILLWAY_SIM="sim0:memory=200MiB,item=8MiB,latency=2ms+0.5ms,fault=oom=150MiB@n=3&for=2s;sticky@n=50" */
#ifndef SP_WORKER_SIM_H
#define SP_WORKER_SIM_H

#include "base/status.h"
#include "worker/slot.h"

typedef struct sp_sim sp_sim;

/* The device of worker `name` by `text` (NULL or "" = one that never fails). SP_INVALID with the word that could not be
 * read; SP_UNSUPPORTED (code: the cause) when the script says that it is not there. Caller frees. */
sp_status sp_sim_new(const char *text, const char *name, sp_sim **ret_sim, sp_error *reterr);
void sp_sim_free(sp_sim *sim); /* NULL is fine */

/* Takes the model's memory; `file_bytes` when the script does not say how much. SP_NOMEM (code "oom"). The fault
 * selectors' clock begins here. */
sp_status sp_sim_load(sp_sim *sim, uint64_t file_bytes, sp_error *reterr);

/* Memory of served models, beside the device's own model's. SP_NOMEM (code "oom"). */
sp_status sp_sim_take(sp_sim *sim, uint64_t bytes, sp_error *reterr);
void sp_sim_drop(sp_sim *sim, uint64_t bytes);

int sp_sim_batch(const sp_sim *sim);
int64_t sp_sim_latency_ns(const sp_sim *sim, int count); /* of a run without faults; 0 = not bound */

/* One run of the device, around the computing. */
typedef struct sp_sim_run {
    int64_t begun_ns, least_ns;
    double slower; /* 1 = as always */
} sp_sim_run;

/* Before: SP_NOMEM (code "oom", bytes asked and free in the message), SP_UNAVAILABLE (code "sticky"). A hang stays in
 * here. Any thread. */
sp_status sp_sim_begin(sp_sim *sim, int count, sp_sim_run *ret_run, sp_error *reterr);
/* After: sleeps until the run has taken as long as the device would. */
void sp_sim_end(sp_sim *sim, const sp_sim_run *run);

/* How it looks from outside, as a sampler would put it (source "sim"); what it cannot know is NaN. */
void sp_sim_sample(sp_sim *sim, sp_device_sample *sample);

#endif
