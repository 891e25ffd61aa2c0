/* SPDX-License-Identifier: Apache-2.0
 * Triton's back ends by name and platform: which are served here, and what to do about the others. Internal to this room. */
#ifndef SP_MODEL_BACKEND_H
#define SP_MODEL_BACKEND_H

#include <stdbool.h>

typedef struct sp_backend {
    const char *name;     /* "onnxruntime" */
    const char *platform; /* "onnxruntime_onnx"; NULL = any */
    const char *file;     /* default_model_filename; NULL = it has none */
    bool described;       /* an engine opens the file and knows its ports */
    const char *instead;  /* NULL = served; else what to do */
} sp_backend;

const sp_backend *sp_backend_named(const char *name);       /* NULL: unknown */
const sp_backend *sp_backend_of_platform(const char *platform);
const sp_backend *sp_backend_of_file(const char *file);      /* by its extension; NULL: unknown */
const sp_backend *sp_backend_at(int index);                  /* NULL past the end */

#endif
