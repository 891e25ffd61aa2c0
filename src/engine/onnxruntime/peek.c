/* SPDX-License-Identifier: Apache-2.0
 * A look into an ONNX file. The numbers of fields are those of onnx.proto:
 *
 *   ModelProto      7 graph
 *   GraphProto      5 initializer (TensorProto)   11 input (ValueInfoProto)
 *   TensorProto     1 dims   2 data_type   8 name
 *   ValueInfoProto  1 name   2 type: TypeProto  1 tensor_type: 1 elem_type  2 shape: TensorShapeProto  1 dim: 1 dim_value */
#include "peek.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct span {
    const uint8_t *at, *end;
} span;

typedef struct field {
    uint32_t number;
    uint64_t value; /* of a number */
    span part;      /* of text and messages; at NULL for numbers */
} field;

static bool read_number(span *in, uint64_t *ret_value)
{
    *ret_value = 0;
    for (int shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        uint8_t byte = *in->at++;
        *ret_value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* The next field of a message; false at its end, or where it makes no sense (then *in is emptied). */
static bool next(span *in, field *ret_field)
{
    uint64_t tag, length = 0;
    *ret_field = (field){ 0 };
    if (in->at == in->end || !read_number(in, &tag))
        goto over;
    ret_field->number = (uint32_t)(tag >> 3);
    switch (tag & 7) {
    case 0:
        if (!read_number(in, &ret_field->value))
            goto over;
        return true;
    case 1:
        length = 8;
        break;
    case 2:
        if (!read_number(in, &length))
            goto over;
        break;
    case 5:
        length = 4;
        break;
    default:
        goto over;
    }
    if (length > (uint64_t)(in->end - in->at))
        goto over;
    ret_field->part = (span){ in->at, in->at + length };
    in->at += length;
    return true;
over:
    in->at = in->end;
    return false;
}

static bool take_text(span text, char *room, size_t size)
{
    size_t length = (size_t)(text.end - text.at);
    if (!text.at || length >= size || memchr(text.at, 0, length)) /* NULL: a number stands there */
        return false;
    memcpy(room, text.at, length);
    room[length] = 0;
    return true;
}

/* --- weights ---------------------------------------------------------------------------------------------------------- */

typedef struct weights {
    uint64_t half, single; /* elements */
} weights;

static void read_initializer(span tensor, weights *sum, span *ret_name)
{
    field f;
    uint64_t count = 1, type = 0, dim;
    *ret_name = (span){ 0 };
    while (next(&tensor, &f)) {
        if (f.number == 8)
            *ret_name = f.part;
        else if (f.number == 2)
            type = f.value;
        else if (f.number == 1 && !f.part.at && __builtin_mul_overflow(count, f.value, &count))
            count = 0;
        while (f.number == 1 && f.part.at < f.part.end) /* packed */
            if (!read_number(&f.part, &dim) || __builtin_mul_overflow(count, dim, &count))
                f.part.at = f.part.end, count = 0;
    }
    if (type == SP_ENGINE_F16 || type == SP_ENGINE_BF16)
        sum->half += count & UINT32_MAX;
    else if (type == SP_ENGINE_F32)
        sum->single += count & UINT32_MAX;
}

/* --- inputs ----------------------------------------------------------------------------------------------------------- */

static bool read_shape(span shape, ort_peek_input *input)
{
    field dim, value;
    while (next(&shape, &dim)) {
        if (dim.number != 1)
            continue;
        if (input->rank == SP_ENGINE_MAX_RANK)
            return false;
        int64_t size = -1;
        while (next(&dim.part, &value))
            if (value.number == 1 && value.value <= INT64_MAX)
                size = (int64_t)value.value;
        input->dims[input->rank++] = size;
    }
    return true;
}

static bool read_input(span info, ort_peek_input *input)
{
    field f, type, tensor;
    bool ok = true;
    *input = (ort_peek_input){ 0 };
    while (ok && next(&info, &f)) {
        if (f.number == 1)
            ok = take_text(f.part, input->name, sizeof(input->name));
        while (ok && f.number == 2 && next(&f.part, &type))
            while (ok && type.number == 1 && next(&type.part, &tensor))
                if (tensor.number == 2)
                    ok = read_shape(tensor.part, input);
    }
    return ok;
}

/* Models of old declare each weight among the inputs as well. */
static void drop_input(ort_peek *peek, span name)
{
    size_t length = (size_t)(name.end - name.at);
    for (int i = 0; name.at && i < peek->input_count; i++) {
        if (strlen(peek->inputs[i].name) != length || memcmp(peek->inputs[i].name, name.at, length) != 0)
            continue;
        peek->input_count--;
        memmove(&peek->inputs[i], &peek->inputs[i + 1], (size_t)(peek->input_count - i) * sizeof(peek->inputs[0]));
        return;
    }
}

static void read_graph(span graph, ort_peek *peek)
{
    weights sum = { 0 };
    span rest = graph, name;
    field f;
    while (next(&rest, &f))
        if (f.number == 11 && peek->input_count >= 0 && (peek->input_count == SP_ENGINE_MAX_PORTS ||
                                                         !read_input(f.part, &peek->inputs[peek->input_count++])))
            peek->input_count = -1;
    while (next(&graph, &f)) {
        if (f.number != 5)
            continue;
        read_initializer(f.part, &sum, &name);
        drop_input(peek, name);
    }
    peek->half = sum.half > sum.single;
}

void ort_peek_bytes(const void *bytes, size_t size, ort_peek *ret_peek)
{
    span model = { bytes, (const uint8_t *)bytes + size };
    field f;
    ret_peek->half = false;
    ret_peek->input_count = 0;
    while (next(&model, &f))
        if (f.number == 7 && f.part.at)
            read_graph(f.part, ret_peek);
}

void ort_peek_file(const char *path, ort_peek *ret_peek)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    ret_peek->half = false;
    ret_peek->input_count = 0;
    if (fd >= 0 && fstat(fd, &info) == 0 && info.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED) {
            ort_peek_bytes(bytes, (size_t)info.st_size, ret_peek);
            (void)munmap(bytes, (size_t)info.st_size); /* cannot fail on a mapping that we made */
        }
    }
    if (fd >= 0)
        (void)close(fd); /* only read */
}
