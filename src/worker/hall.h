/* SPDX-License-Identifier: Apache-2.0
 * The hall: the models that a device worker serves beside its own task, each with a queue, instances and a life of its own.
 *
 *   hall.c         the models by number, leases that come and go, loads and unloads
 *   hall_next.c    which batch is next
 *   hall_check.c   an inference's head against the model: nothing in it is trusted
 *   hall_detect.c  pixels in, boxes out, of a model that is described as a detector
 *   hall_load.c    a specification becomes a session; warm-up; what does not fit the configuration is said by name
 *   hall_ports.c   shapes: configuration, reshape, what the engine is given
 *   hall_run.c     one batch: gather, run, scatter; halves of what failed
 *   hall_answer.c  outputs in the form that was wished: packed, JSON text, classes
 *   hall_memory.c  the budget: who is put aside for whom
 *   hall_warm.c    model_warmup
 *   hall_sequence.c, hall_ensemble.c, hall_builtin.c   sequences; ensembles and their built-in steps
 *
 * Knows no ring and no process: device_queue.c hands leases in and takes batches out. */
#ifndef SP_WORKER_HALL_H
#define SP_WORKER_HALL_H

#include "kernels/cuda.h"
#include "worker/sim.h"
#include "worker/worker.h"

typedef struct sp_hall sp_hall;

typedef struct sp_hall_settings {
    const char *worker;   /* its name, for messages */
    const char *kind;     /* "cpu", "cuda", "tensorrt", "sim" */
    const char *provider; /* of its engines: "cpu", "cuda", "tensorrt" */
    int device_index;
    int cpus;              /* that a run may use */
    int places;            /* batches at once; bounds instances */
    uint64_t memory_bytes; /* of all loaded models together */
    bool refuse_cpu_nodes;    /* of a device's models */
    char cache_directory[600]; /* of what is built for a device; "" = none */
    const sp_cuda_api *cuda_api; /* borrowed, both or none: the device of `provider` */
    sp_cuda *cuda;
    sp_sim *sim;           /* borrowed; NULL = a real device */
    sp_device_counters *counters; /* borrowed; NULL = nobody reads them */
} sp_hall_settings;

sp_status sp_hall_new(const sp_hall_settings *settings, sp_hall **ret_hall, sp_error *reterr);
void sp_hall_free(sp_hall *hall); /* nothing runs; NULL is fine */

/* The calls of sp_worker_queue, for LOAD, UNLOAD and INFER. */
void sp_hall_add(sp_hall *hall, sp_work_item *item, int64_t now_ns);
void sp_hall_remove(sp_hall *hall, sp_work_item *item);
void sp_hall_next(sp_hall *hall, int64_t now_ns, sp_worker_batch *batch);
void sp_hall_run(sp_hall *hall, int executor, sp_worker_batch *batch);
void sp_hall_over(sp_hall *hall, sp_worker_batch *batch, int64_t now_ns);
void sp_hall_withdrawn(sp_hall *hall); /* cancels the runs that nobody waits for any more, where the engine can */

/* Frees the session of the longest unused model but one that does not run; it is opened again by the next request for it.
 * False = there is none. No lock of the loop's is held. */
typedef struct sp_hall_model sp_hall_model;
bool sp_hall_put_one_aside(sp_hall *hall, const sp_hall_model *but);

/* Refuses what its queue policies say has waited for too long; for when nobody is free to ask for the next batch. */
void sp_hall_expire(sp_hall *hall, int64_t now_ns);

int sp_hall_waiting(const sp_hall *hall); /* requests that wait in its queues */

#endif
