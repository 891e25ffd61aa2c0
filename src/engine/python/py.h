/* SPDX-License-Identifier: Apache-2.0
 * Inside the Python plug-in: models that are a model.py with a class TritonPythonModel. The code of a model runs in a child
 * process of its own, one per lane, never in the worker:
 *
 *   plug-in                                          child: python3 host/spillway_python_host.py
 *     HELLO  ── what initialize() is told, as JSON ──>   initialize(args)
 *     <── READY, the ports ──────────────────────────
 *     RUN    ── where each input lies ───────────────>   execute([request, ...])
 *     <── DONE, where each output lies, or FAILED ───
 *     BYE    ────────────────────────────────────────>   finalize(), exit
 *
 * Packets go over a SOCK_SEQPACKET pair; tensors, names and long texts lie in two memfds, one written by each side, sealed
 * against shrinking, so that neither can take pages from under the other. What a child says is checked once, here; strings
 * are copied out before they are looked at. A fourth descriptor carries nothing: when the worker dies it closes, and the
 * kernel kills the child by it, whatever its code is doing. */
#ifndef SP_ENGINE_PYTHON_PY_H
#define SP_ENGINE_PYTHON_PY_H

#include "engine/plug/plug.h"

#include <pthread.h>
#include <sys/types.h>

#define PY_ORIGIN "python"
#define PY_TENSORS (2 * SP_ENGINE_MAX_PORTS)
#define PY_REQUESTS 256 /* that a batch is divided into; more are given as one */
#define PY_MEMORY_BYTES (2ull * 1024 * 1024 * 1024) /* of one direction of one lane; beyond it: TOO_LARGE */
#define PY_FINALIZE_MS 5000                         /* then the child is killed */

/* The same numbers stand in host/spillway_python_host.py. */
typedef enum py_kind { PY_HELLO = 1, PY_READY = 2, PY_RUN = 3, PY_DONE = 4, PY_FAILED = 5, PY_BYE = 6, PY_PROBE = 7 } py_kind;

typedef struct py_tensor {
    int32_t dtype, rank; /* rank SP_ENGINE_ABSENT: not given, not wanted */
    int64_t dims[SP_ENGINE_MAX_RANK];
    uint64_t offset, bytes; /* in the sender's memory; READY: of the port's name */
} py_tensor;

typedef struct py_packet {
    uint32_t kind;
    uint32_t status; /* FAILED: sp_engine_status; HELLO: the lane; RUN: requests, whose rows stand as int64 at the start of
                      * the memory; 0 = one that has them all */
    uint32_t input_count, output_count;
    uint64_t bytes;               /* HELLO: of the JSON; FAILED and a PROBE's READY: of the text, which lies in the sender's memory */
    py_tensor tensors[PY_TENSORS]; /* inputs, then outputs; so many are sent */
} py_packet;

typedef struct py_memory {
    int fd;
    uint8_t *data;
    uint64_t bytes; /* mapped */
} py_memory;

/* A child, from spawn to reap. */
typedef struct py_child {
    pid_t pid; /* 0 = none */
    int pidfd, socket, life;
    py_memory to, from; /* written by us; by it */
} py_child;

/* Starts an interpreter. UNSUPPORTED: there is none, with what to do. */
sp_engine_status py_child_start(py_child *child, sp_engine_error *reterr);
/* Room for `bytes` in what we write. */
sp_engine_status py_child_room(py_child *child, uint64_t bytes, sp_engine_error *reterr);
/* INTERNAL: it is dead. */
sp_engine_status py_child_send(py_child *child, const py_packet *packet, sp_engine_error *reterr);
/* The next packet, checked: counts, ranks, and that all that it points at is in its memory. Waits for as long as the child
 * lives. INTERNAL: it died (how is in the message), or spoke nonsense. FAILED is returned as its status and text. */
sp_engine_status py_child_receive(py_child *child, py_packet *ret_packet, sp_engine_error *reterr);
void py_child_kill(py_child *child); /* SIGKILL, reaped, all given back; none is fine */
void py_child_end(py_child *child);  /* BYE, then as kill after PY_FINALIZE_MS */
uint64_t py_child_resident(const py_child *child);

typedef enum py_state { PY_NONE, PY_STARTING, PY_IDLE } py_state;

typedef struct py_lane {
    py_child child;
    py_state state;
    pthread_mutex_t lock; /* guards the two below, and the child's pid against a kill while it changes */
    bool running, cancelled;
    uint8_t **strings; /* per output: the last run's, copied out of the child's reach */
    int64_t rows[PY_REQUESTS]; /* of the next run's requests */
    int32_t request_count;     /* 0 = it is one */
} py_lane;

struct sp_engine_model {
    char *hello; /* JSON for each child: what initialize() is told but the lane */
    int32_t input_count, output_count, lane_count;
    sp_engine_port *ports; /* inputs, then outputs; names are ours */
    py_lane *lanes;
};

/* The entries of the ABI table (model.c; run.c). */
sp_engine_status py_model_load(const sp_engine_load_options *options, sp_engine_model **ret_model, sp_engine_error *reterr);
void py_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports);
void py_model_unload(sp_engine_model *model);
sp_engine_status py_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr);
sp_engine_status py_model_run(sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs, int32_t input_count,
                              sp_engine_tensor *outputs, int32_t output_count, sp_engine_error *reterr);
void py_model_cancel(sp_engine_model *model, int32_t lane);
void py_model_divide(sp_engine_model *model, int32_t lane, const int64_t *rows, int32_t count);

/* Starts a lane's child and says hello; READY is awaited by py_lane_ready. */
sp_engine_status py_lane_start(const sp_engine_model *model, int32_t lane, sp_engine_error *reterr);
/* Waits until initialize() is through; starts the child anew if need be. `ret_ports` (NULL is fine): the READY packet. */
sp_engine_status py_lane_ready(const sp_engine_model *model, int32_t lane, py_packet *ret_ports, sp_engine_error *reterr);

#endif
