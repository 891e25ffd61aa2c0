/* SPDX-License-Identifier: Apache-2.0
 * Where an ONNX file's external tensors lie: all of them must be inside the model's directory; and whether its answers depend
 * on what else is in the batch. Internal to this room. */
#ifndef SP_MODEL_EXTERNAL_H
#define SP_MODEL_EXTERNAL_H

#include "base/status.h"
#include "base/view.h"

/* Calls `found` with each `location` of the model's tensors, also in subgraphs, attributes and functions; stops when it
 * does not return SP_OK. *ret_dynamic: an operator scales by the range of the whole batch (dynamic quantisation). SP_CORRUPT: no protobuf. Pure; recursion is bounded. */
typedef sp_status sp_external_fn(sp_view location, void *context, sp_error *reterr);
sp_status sp_external_each(sp_view model, sp_external_fn *found, void *context, bool *ret_dynamic, sp_error *reterr);

/* All locations of the file at `path` resolve (as the file system does it, links followed) to files below `directory`.
 * SP_INVALID names the location that does not; SP_NOT_FOUND: one that is not there. */
sp_status sp_external_check(const char *path, const char *directory, bool *ret_dynamic, sp_error *reterr);

#endif
