/* SPDX-License-Identifier: Apache-2.0
 * What the gRPC port speaks, as descriptors of protobuf: made from the .proto files of this room when the server is built
 * (describe.py), constant, read by gateway/grpc_reflect.c. */
#ifndef SP_KSERVE_DESCRIBED_H
#define SP_KSERVE_DESCRIBED_H

#include "base/view.h"

#include <stdbool.h>

#define SP_DESCRIBED_NEEDS 4

typedef struct sp_described_file {
    const char *name; /* "grpc_service.proto" */
    int count;
    sp_view descriptors[SP_DESCRIBED_NEEDS]; /* FileDescriptorProtos: its own, then of all that it imports */
} sp_described_file;

typedef struct sp_described_symbol {
    const char *name; /* "inference.ModelInferRequest": messages, enumerations, services and their methods */
    bool is_message;
    const sp_described_file *file;
} sp_described_symbol;

const sp_described_file *sp_described_file_find(const char *name);     /* NULL = there is none */
const sp_described_symbol *sp_described_symbol_find(const char *name); /* NULL = there is none */
const char *const *sp_described_services(void);                        /* full names; NULL ends them */

#endif
