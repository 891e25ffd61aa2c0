/* SPDX-License-Identifier: Apache-2.0
 * Names of tensor types: KServe's ("FP32"), config.pbtxt's ("TYPE_FP32") and ONNX's numbers. */
#include "model/config.h"

typedef struct dtype_row {
    int dtype;
    uint8_t bytes; /* of an element; 0 = it varies */
    const char *kserve;
} dtype_row;

static const dtype_row rows[] = {
    { 1, 4, "FP32" },  { 2, 1, "UINT8" },  { 3, 1, "INT8" },  { 4, 2, "UINT16" }, { 5, 2, "INT16" },
    { 6, 4, "INT32" }, { 7, 8, "INT64" },  { SP_DTYPE_BYTES, 0, "BYTES" },        { 9, 1, "BOOL" },
    { 10, 2, "FP16" }, { 11, 8, "FP64" },  { 12, 4, "UINT32" }, { 13, 8, "UINT64" }, { 16, 2, "BF16" },
};

int sp_dtype_of_kserve(sp_view name)
{
    static const char type[] = "TYPE_";
    bool configured = sp_view_starts_with(name, type, sizeof(type) - 1);
    if (configured)
        name = sp_view_make(name.data + sizeof(type) - 1, name.size_bytes - (sizeof(type) - 1));
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        const char *word = configured && rows[i].dtype == SP_DTYPE_BYTES ? "STRING" : rows[i].kserve;
        if (sp_view_equals(name, word))
            return rows[i].dtype;
    }
    return 0;
}

const char *sp_dtype_kserve(int dtype)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        if (rows[i].dtype == dtype)
            return rows[i].kserve;
    }
    return NULL;
}

size_t sp_dtype_bytes(int dtype)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        if (rows[i].dtype == dtype)
            return rows[i].bytes;
    }
    return 0;
}
