/* SPDX-License-Identifier: Apache-2.0
 * What the two files of the stand-in for ONNX Runtime's GPU build share. */
#ifndef TESTS_ENGINE_GPU_STANDIN_H
#define TESTS_ENGINE_GPU_STANDIN_H

#include <onnxruntime_c_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STANDIN_PORTS 64

/* What is remembered of session options, a session, run options or a binding; each uses some of it. */
typedef struct standin_object {
    const void *key;
    struct standin_object *next;
    char providers[64]; /* "Tensorrt,CUDA": in the order of appending; "" = the CPU alone */
    void *stream;
    bool graphs, no_host;
    int64_t device_bytes;
    int graph_id; /* + 1 */
    bool no_sync;
    int64_t rows; /* of the first input that was bound */
    int ports, on_device;
    struct {
        char name[64];
        bool device, input;
        const void *data;
        const OrtValue *value; /* the caller's, while it is bound; NULL = left to the library */
    } bound[STANDIN_PORTS];
} standin_object;

extern const OrtApi *standin_real; /* the real library's table */

void standin_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
standin_object *standin_find(const void *key, bool make); /* NULL: none, or no memory */
void standin_forget(const void *key);

/* bindings.c: bindings, followed to know which buffers a run has; and the rules of captured graphs. */
void standin_bindings(OrtApi *table);
/* A binding of its own to the same buffers, whatever becomes of `bound`. */
OrtStatus *standin_binding_copy(OrtSession *session, const standin_object *bound, OrtIoBinding **ret_binding);
OrtStatus *standin_graph_check(const OrtSession *session, int graph_id, const standin_object *bound);
void standin_graph_forget(const OrtSession *session);

#endif
