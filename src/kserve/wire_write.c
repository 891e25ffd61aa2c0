/* SPDX-License-Identifier: Apache-2.0
 * ModelInferResponse onto the protobuf wire (wire.h). */
#include "kserve/wire.h"

#include "model/config.h"

size_t sp_wire_varint_bytes(uint64_t value)
{
    size_t bytes = 1;
    for (; value > 127; value >>= 7)
        bytes++;
    return bytes;
}

void sp_wire_put_varint(sp_buf *out, uint64_t value)
{
    uint8_t bytes[10];
    size_t n = 0;
    for (; value > 127; value >>= 7)
        bytes[n++] = (uint8_t)(value | 128);
    bytes[n++] = (uint8_t)value;
    sp_buf_append(out, bytes, n);
}

static void length_head(sp_buf *out, uint32_t field, uint64_t bytes)
{
    sp_wire_put_varint(out, field << 3 | 2);
    sp_wire_put_varint(out, bytes);
}

void sp_wire_put_bytes(sp_buf *out, uint32_t field, const void *data, size_t bytes)
{
    length_head(out, field, bytes);
    sp_buf_append(out, data, bytes);
}

void sp_wire_put_text(sp_buf *out, uint32_t field, const char *text)
{
    if (*text)
        sp_wire_put_bytes(out, field, text, strlen(text));
}

void sp_wire_put_number(sp_buf *out, uint32_t field, uint64_t value)
{
    if (!value)
        return;
    sp_wire_put_varint(out, field << 3);
    sp_wire_put_varint(out, value);
}

static size_t field_bytes(size_t bytes) /* with a tag of one byte */
{
    return 1 + sp_wire_varint_bytes(bytes) + bytes;
}

/* map<string, InferParameter> is a list of entries (key 1, value 2). */
static size_t parameter_bytes(const char *key, size_t value_bytes)
{
    return field_bytes(strlen(key)) + field_bytes(value_bytes);
}

static void parameter_head(sp_buf *out, uint32_t field, const char *key, size_t value_bytes)
{
    length_head(out, field, parameter_bytes(key, value_bytes));
    sp_wire_put_bytes(out, 1, key, strlen(key));
    length_head(out, 2, value_bytes);
}

static void number_parameter(sp_buf *out, uint32_t field, const char *key, uint64_t value)
{
    parameter_head(out, field, key, 1 + sp_wire_varint_bytes(value));
    sp_wire_put_varint(out, 2 << 3); /* int64_param; there also when it is 0: it is a oneof's */
    sp_wire_put_varint(out, value);
}

static size_t number_parameter_bytes(const char *key, uint64_t value)
{
    return field_bytes(parameter_bytes(key, 1 + sp_wire_varint_bytes(value)));
}

static void output_write(const sp_wire_output *output, sp_buf *out)
{
    static const char region[] = "shared_memory_region", size[] = "shared_memory_byte_size", place[] = "shared_memory_offset";
    const char *dtype = sp_dtype_kserve(output->dtype);
    size_t shape = 0;
    dtype = dtype ? dtype : "";
    for (int i = 0; i < output->rank; i++)
        shape += sp_wire_varint_bytes((uint64_t)output->dims[i]);
    size_t bytes = field_bytes(strlen(output->name)) + field_bytes(strlen(dtype)) + (shape ? field_bytes(shape) : 0);
    if (output->shared) {
        bytes += field_bytes(parameter_bytes(region, field_bytes(strlen(output->region)))) + number_parameter_bytes(size, output->bytes);
        bytes += output->offset ? number_parameter_bytes(place, output->offset) : 0;
    }
    length_head(out, 5, bytes);
    sp_wire_put_bytes(out, 1, output->name, strlen(output->name));
    sp_wire_put_bytes(out, 2, dtype, strlen(dtype));
    if (shape)
        length_head(out, 3, shape);
    for (int i = 0; i < output->rank; i++)
        sp_wire_put_varint(out, (uint64_t)output->dims[i]);
    if (!output->shared)
        return;
    parameter_head(out, 4, region, field_bytes(strlen(output->region)));
    sp_wire_put_bytes(out, 3, output->region, strlen(output->region));
    number_parameter(out, 4, size, output->bytes);
    if (output->offset)
        number_parameter(out, 4, place, output->offset);
}

void sp_wire_response_head(const char *model, const char *version, const char *id, const sp_wire_output *outputs, int count,
                           sp_buf *out)
{
    sp_wire_put_text(out, 1, model);
    sp_wire_put_text(out, 2, version);
    sp_wire_put_text(out, 3, id);
    for (int i = 0; i < count; i++)
        output_write(&outputs[i], out);
}

void sp_wire_final_mark(bool final, sp_buf *out)
{
    static const char key[] = "triton_final_response";
    parameter_head(out, 4, key, 2);
    sp_wire_put_varint(out, 1 << 3); /* bool_param */
    sp_wire_put_varint(out, final);
}

void sp_wire_raw_head(uint64_t bytes, sp_buf *out)
{
    length_head(out, 6, bytes);
}
