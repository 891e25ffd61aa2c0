/* SPDX-License-Identifier: Apache-2.0
 * Protobuf messages out of JSON, by their descriptors. The HTTP side of KServe V2 writes its answers as JSON whose members have
 * the names of the protobuf fields; so one writer serves both protocols, and what gRPC says cannot differ from it. */
#ifndef SP_KSERVE_PROTO_H
#define SP_KSERVE_PROTO_H

#include "base/buf.h"
#include "base/view.h"

#include <protobuf-c/protobuf-c.h>

/* Appends the message that `json` (an object) says, on the wire. Enumerations by name or number, 64-bit numbers also as text,
 * map<string, M> as an object, bytes as text. Members that the message has not are left out. SP_INVALID: no JSON, or a value
 * of the wrong kind; SP_NOMEM. */
sp_status sp_proto_of_json(const ProtobufCMessageDescriptor *message, sp_view json, sp_buf *out, sp_error *reterr);

#endif
