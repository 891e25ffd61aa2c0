/* SPDX-License-Identifier: Apache-2.0
 * What an ONNX file says of itself before the library has it: some options of a session depend on it and are asked for first.
 * Reads a ModelProto's bytes field by field, skips what it does not know, and believes nothing: a file that makes no sense is the
 * library's to refuse. Data kept outside of the file are not looked at. */
#ifndef SP_ENGINE_ONNXRUNTIME_PEEK_H
#define SP_ENGINE_ONNXRUNTIME_PEEK_H

#include "spillway_engine.h"

#include <stdbool.h>
#include <stddef.h>

#define ORT_PEEK_NAME_BYTES 128

typedef struct ort_peek_input {
    char name[ORT_PEEK_NAME_BYTES];
    int32_t rank;                     /* 0: it does not say */
    int64_t dims[SP_ENGINE_MAX_RANK]; /* -1: open */
} ort_peek_input;

typedef struct ort_peek {
    bool half;       /* most of its weights are f16 or bf16 */
    int input_count; /* without those that have an initializer; -1 = too many, too long a name, or no sense */
    ort_peek_input inputs[SP_ENGINE_MAX_PORTS];
} ort_peek;

/* Never fails: what cannot be told is left out. */
void ort_peek_bytes(const void *bytes, size_t size, ort_peek *ret_peek);
void ort_peek_file(const char *path, ort_peek *ret_peek);

#endif
