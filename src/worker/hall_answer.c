/* SPDX-License-Identifier: Apache-2.0
 * Outputs in the form that was wished, behind an sp_infer_answer. The classification's text is Triton's, byte for byte:
 * std::to_string of the value, index, label. */
#include "worker/hall_internal.h"

#include "kserve/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLASS_TEXT_BYTES 512 /* "%f" of the largest double, two numbers' punctuation, a label */
#define FEW_CLASSES 16       /* found by insertion; more are sorted */

uint8_t *sp_hall_buffer_room(sp_hall_buffer *buffer, size_t bytes)
{
    if (bytes <= buffer->capacity && buffer->data)
        return buffer->data;
    size_t capacity = SP_ALIGN_UP(SP_MAX(bytes, (size_t)SP_HALL_ALIGN), (size_t)SP_HALL_ALIGN);
    free(buffer->data);
    buffer->data = aligned_alloc(SP_HALL_ALIGN, capacity);
    buffer->capacity = buffer->data ? capacity : 0;
    return buffer->data;
}

/* --- the answer's frame ------------------------------------------------------------------------------------------------ */

void sp_hall_writer_begin(sp_hall_writer *writer, sp_work_item *item, int outputs)
{
    size_t head = offsetof(sp_infer_answer, outputs) + (size_t)outputs * sizeof(sp_infer_output);
    *writer = (sp_hall_writer){ .answer = item->answer, .at = SP_ALIGN_UP(head, (size_t)SP_HALL_ALIGN), .expected = outputs };
}

static sp_status too_large(sp_error *reterr)
{
    return SP_FAIL(reterr, SP_TOO_LARGE, "an answer holds %zu MiB, the outputs are larger", SP_ANSWER_STRIDE >> 20);
}

uint8_t *sp_hall_writer_room(sp_hall_writer *writer, size_t bytes)
{
    if (bytes > SP_ANSWER_STRIDE - writer->at)
        return NULL;
    uint8_t *room = writer->answer + writer->at;
    writer->at = SP_MIN(SP_ALIGN_UP(writer->at + bytes, (size_t)SP_HALL_ALIGN), SP_ANSWER_STRIDE);
    return room;
}

void sp_hall_writer_note(sp_hall_writer *writer, const sp_infer_wish *wish, const sp_hall_tensor *tensor, size_t offset)
{
    SP_ASSERT(writer->count < writer->expected);
    sp_infer_output *output = &((sp_infer_answer *)(void *)writer->answer)->outputs[writer->count++];
    *output = (sp_infer_output){ .port = wish->port,
                                 .dtype = tensor->dtype,
                                 .rank = tensor->rank,
                                 .form = wish->form,
                                 .offset = offset,
                                 .bytes = tensor->bytes };
    memcpy(output->dims, tensor->dims, sizeof(output->dims[0]) * tensor->rank);
}

/* --- classes ----------------------------------------------------------------------------------------------------------- */

/* Any element as a number that compares exactly: 64 bits of mantissa where that is had. */
static long double value_at(int dtype, const uint8_t *data, uint64_t index)
{
#define VALUE(number, type)                                        \
    case number: {                                                 \
        type value;                                                \
        memcpy(&value, data + index * sizeof(value), sizeof(value)); \
        return (long double)value;                                 \
    }
    switch (dtype) {
        VALUE(SP_ENGINE_F32, float)
        VALUE(SP_ENGINE_F64, double)
        VALUE(SP_ENGINE_U8, uint8_t)
        VALUE(SP_ENGINE_I8, int8_t)
        VALUE(SP_ENGINE_U16, uint16_t)
        VALUE(SP_ENGINE_I16, int16_t)
        VALUE(SP_ENGINE_I32, int32_t)
        VALUE(SP_ENGINE_I64, int64_t)
        VALUE(SP_ENGINE_U32, uint32_t)
        VALUE(SP_ENGINE_U64, uint64_t)
    default:
        return 0;
    }
#undef VALUE
}

static bool can_be_ranked(int dtype)
{
    return sp_dtype_bytes(dtype) && dtype != SP_ENGINE_BOOL && dtype != SP_ENGINE_F16 && dtype != SP_ENGINE_BF16;
}

typedef struct ranking {
    int dtype;
    const uint8_t *row;
} ranking;

/* Greater first, then the lower index; what is no number comes last. */
static bool goes_before(const ranking *r, uint32_t a, uint32_t b)
{
    long double x = value_at(r->dtype, r->row, a), y = value_at(r->dtype, r->row, b);
    if (x > y || y > x)
        return x > y;
    if ((x != x) != (y != y))
        return y != y;
    return a < b;
}

static int compare_classes(const void *a, const void *b, void *context)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x == y ? 0 : goes_before(context, x, y) ? -1 : 1;
}

/* The best `wanted` of `count` into ret_best, which has room for `count`. */
static void rank(ranking *r, uint32_t count, uint32_t wanted, uint32_t *ret_best)
{
    if (wanted > FEW_CLASSES) {
        for (uint32_t i = 0; i < count; i++)
            ret_best[i] = i;
        qsort_r(ret_best, count, sizeof(*ret_best), compare_classes, r);
        return;
    }
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (found == wanted && !goes_before(r, i, ret_best[found - 1]))
            continue;
        uint32_t at = found < wanted ? found++ : found - 1;
        for (; at > 0 && goes_before(r, i, ret_best[at - 1]); at--)
            ret_best[at] = ret_best[at - 1];
        ret_best[at] = i;
    }
}

static size_t class_text(int dtype, const uint8_t *row, uint32_t index, const char *label, char *text)
{
    long double value = value_at(dtype, row, index);
    int n;
    if (dtype == SP_ENGINE_F32 || dtype == SP_ENGINE_F64)
        n = snprintf(text, CLASS_TEXT_BYTES, "%f:%u", (double)value, index);
    else
        n = snprintf(text, CLASS_TEXT_BYTES, "%.0Lf:%u", value, index);
    if (*label)
        n += snprintf(text + n, (size_t)(CLASS_TEXT_BYTES - n), ":%.*s", SP_LIMIT_LABEL_BYTES, label);
    return (size_t)SP_MIN(n, CLASS_TEXT_BYTES - 1);
}

/* `tensor` as BYTES of its best classes, per row. */
static sp_status classify(const sp_hall_model *model, sp_hall_buffer *scratch, const sp_infer_wish *wish,
                          const sp_hall_tensor *tensor, sp_hall_tensor *ret_classes, sp_error *reterr)
{
    uint64_t elements;
    uint64_t rows = model->batches && tensor->rank ? (uint64_t)tensor->dims[0] : 1;
    if (!can_be_ranked(tensor->dtype))
        return SP_FAIL(reterr, SP_INVALID, "class result not available for output due to unsupported type '%s'",
                       sp_dtype_kserve(tensor->dtype));
    if (!sp_hall_elements(tensor->dims, tensor->rank, &elements) || !rows || !elements || elements / rows > UINT32_MAX)
        return SP_FAIL(reterr, SP_INVALID, "output '%s' has no classes", model->config->outputs[wish->port].name);
    uint32_t count = (uint32_t)(elements / rows), wanted = SP_MIN(wish->classes, count);
    size_t index_bytes = (size_t)count * sizeof(uint32_t), text_bytes = 0, at = 0;
    if (!sp_size_mul((size_t)rows * wanted, CLASS_TEXT_BYTES + 4, &text_bytes) || text_bytes > 4 * SP_ANSWER_STRIDE)
        return too_large(reterr);
    uint8_t *room = sp_hall_buffer_room(scratch, index_bytes + text_bytes);
    if (!room)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %u classes", wanted);
    uint32_t *best = (uint32_t *)(void *)room; /* aligned to SP_HALL_ALIGN */
    uint8_t *text = room + index_bytes;
    for (uint64_t row = 0; row < rows; row++) {
        ranking r = { tensor->dtype, tensor->data + row * count * sp_dtype_bytes(tensor->dtype) };
        rank(&r, count, wanted, best);
        for (uint32_t i = 0; i < wanted; i++) {
            const char *label = sp_hall_label(model, wish->port, best[i]);
            uint32_t length = (uint32_t)class_text(r.dtype, r.row, best[i], label, (char *)text + at + 4);
            memcpy(text + at, &length, sizeof(length));
            at += sizeof(length) + length;
        }
    }
    *ret_classes = (sp_hall_tensor){ .data = text, .bytes = at, .given = true, .dtype = SP_DTYPE_BYTES, .rank = 1 };
    ret_classes->dims[0] = wanted;
    if (model->batches) {
        ret_classes->rank = 2;
        ret_classes->dims[0] = (int64_t)rows;
        ret_classes->dims[1] = wanted;
    }
    return SP_OK;
}

/* --- one output -------------------------------------------------------------------------------------------------------- */

static sp_status put_raw(sp_hall_writer *writer, const sp_infer_wish *wish, const sp_hall_tensor *tensor, sp_error *reterr)
{
    uint8_t *room = sp_hall_writer_room(writer, tensor->bytes);
    if (!room)
        return too_large(reterr);
    if (tensor->bytes)
        memcpy(room, tensor->data, tensor->bytes);
    sp_hall_writer_note(writer, wish, tensor, (size_t)(room - writer->answer));
    return SP_OK;
}

static sp_status put_json(sp_hall_writer *writer, const sp_infer_wish *wish, const sp_hall_tensor *tensor, sp_error *reterr)
{
    sp_hall_tensor text = *tensor;
    size_t left = SP_ANSWER_STRIDE - writer->at;
    text.bytes = sp_kserve_data_write(tensor->dtype, tensor->data, tensor->bytes, (char *)writer->answer + writer->at, left);
    if (text.bytes > left)
        return too_large(reterr);
    uint8_t *room = sp_hall_writer_room(writer, text.bytes);
    sp_hall_writer_note(writer, wish, &text, (size_t)(room - writer->answer));
    return SP_OK;
}

sp_status sp_hall_writer_put(sp_hall_writer *writer, const sp_hall_model *model, sp_hall_buffer *scratch,
                             const sp_infer_wish *wish, const sp_hall_tensor *tensor, sp_error *reterr)
{
    sp_hall_tensor classes;
    if (wish->classes) {
        sp_status s = classify(model, scratch, wish, tensor, &classes, reterr);
        if (s)
            return s;
        tensor = &classes;
    }
    if (wish->limit_bytes && tensor->bytes > wish->limit_bytes)
        return SP_FAIL(reterr, SP_INVALID,
                       "shared memory size specified with the request for output '%s' (%llu bytes) should be at least %llu bytes "
                       "to hold the results",
                       model->config->outputs[wish->port].name, (unsigned long long)wish->limit_bytes,
                       (unsigned long long)tensor->bytes);
    return wish->form == SP_FORM_JSON ? put_json(writer, wish, tensor, reterr) : put_raw(writer, wish, tensor, reterr);
}
