/* SPDX-License-Identifier: Apache-2.0
 * Protobuf messages out of JSON (proto.h). */
#include "kserve/proto.h"

#include "kserve/wire.h"

#include <jansson.h>
#include <stdlib.h>

#define DEPTH 16 /* deeper than any of our messages is nested */

static sp_status object_write(const ProtobufCMessageDescriptor *message, json_t *object, int depth, sp_buf *out, sp_error *reterr);

static sp_status wrong(const ProtobufCFieldDescriptor *field, const char *wanted, sp_error *reterr)
{
    return SP_FAIL(reterr, SP_INVALID, "%s: %s was expected", field->name, wanted);
}

/* A whole number of either sign, as 64 bits. */
static bool whole_of(const json_t *value, uint64_t *ret_number)
{
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        char *end;
        *ret_number = *text == '-' ? (uint64_t)strtoll(text, &end, 10) : strtoull(text, &end, 10);
        return *text && !*end;
    }
    if (json_is_real(value)) {
        *ret_number = (uint64_t)(int64_t)json_real_value(value);
        return (double)(int64_t)*ret_number == json_real_value(value);
    }
    *ret_number = (uint64_t)json_integer_value(value);
    return json_is_integer(value);
}

static bool enum_of(const ProtobufCFieldDescriptor *field, const json_t *value, uint64_t *ret_number)
{
    if (!json_is_string(value))
        return whole_of(value, ret_number);
    const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value_by_name(field->descriptor, json_string_value(value));
    *ret_number = known ? (uint64_t)(int64_t)known->value : 0;
    return known != NULL;
}

/* The scalar as it lies behind its tag; `ret_wire` is the wire type. */
static sp_status scalar_read(const ProtobufCFieldDescriptor *field, const json_t *value, uint64_t *ret_number, uint32_t *ret_wire,
                             sp_error *reterr)
{
    double number = json_number_value(value);
    float single = (float)number;
    *ret_wire = 0;
    *ret_number = 0;
    switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL:
        *ret_number = json_is_true(value);
        return json_is_boolean(value) ? SP_OK : wrong(field, "a boolean", reterr);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_of(field, value, ret_number) ? SP_OK : wrong(field, "a known word", reterr);
    case PROTOBUF_C_TYPE_DOUBLE:
        *ret_wire = 1;
        memcpy(ret_number, &number, sizeof(number));
        return json_is_number(value) ? SP_OK : wrong(field, "a number", reterr);
    case PROTOBUF_C_TYPE_FLOAT:
        *ret_wire = 5;
        memcpy(ret_number, &single, sizeof(single));
        return json_is_number(value) ? SP_OK : wrong(field, "a number", reterr);
    default:
        return whole_of(value, ret_number) ? SP_OK : wrong(field, "a whole number", reterr);
    }
}

static void scalar_put(uint64_t number, uint32_t wire, sp_buf *out)
{
    if (wire == 0)
        sp_wire_put_varint(out, number);
    else
        sp_buf_append(out, &number, wire == 1 ? 8 : 4);
}

static bool is_default(const ProtobufCFieldDescriptor *field, uint64_t number)
{
    return !number && field->label != PROTOBUF_C_LABEL_REPEATED && !(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
}

static sp_status value_write(const ProtobufCFieldDescriptor *field, json_t *value, int depth, sp_buf *out, sp_error *reterr)
{
    if (field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_BYTES) {
        if (!json_is_string(value))
            return wrong(field, "a text", reterr);
        if (json_string_length(value) || !is_default(field, 0))
            sp_wire_put_bytes(out, field->id, json_string_value(value), json_string_length(value));
        return SP_OK;
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        sp_buf inner;
        sp_buf_init(&inner, out->limit_bytes);
        sp_status s = object_write(field->descriptor, value, depth + 1, &inner, reterr);
        if (!s && !sp_buf_ok(&inner))
            s = SP_FAIL(reterr, SP_NOMEM, "no memory for a message");
        if (!s)
            sp_wire_put_bytes(out, field->id, inner.data, inner.size_bytes);
        sp_buf_done(&inner);
        return s;
    }
    uint64_t number;
    uint32_t wire;
    sp_status s = scalar_read(field, value, &number, &wire, reterr);
    if (s || is_default(field, number))
        return s;
    sp_wire_put_varint(out, (uint64_t)field->id << 3 | wire);
    scalar_put(number, wire, out);
    return SP_OK;
}

/* {"a": ..., "b": ...} of a map: entries with the fields key (1) and value (2). */
static sp_status map_write(const ProtobufCFieldDescriptor *field, json_t *object, int depth, sp_buf *out, sp_error *reterr)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        json_t *entry = json_pack("{s:s, s:O}", "key", key, "value", value);
        sp_status s = entry ? value_write(field, entry, depth, out, reterr) : SP_FAIL(reterr, SP_NOMEM, "no memory for a message");
        json_decref(entry);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status member_write(const ProtobufCFieldDescriptor *field, json_t *value, int depth, sp_buf *out, sp_error *reterr)
{
    if (json_is_null(value))
        return SP_OK;
    if (field->label != PROTOBUF_C_LABEL_REPEATED)
        return value_write(field, value, depth, out, reterr);
    if (json_is_object(value) && field->type == PROTOBUF_C_TYPE_MESSAGE)
        return map_write(field, value, depth, out, reterr);
    if (!json_is_array(value))
        return wrong(field, "a list", reterr);
    size_t i;
    json_t *element;
    json_array_foreach(value, i, element) {
        sp_status s = value_write(field, element, depth, out, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status object_write(const ProtobufCMessageDescriptor *message, json_t *object, int depth, sp_buf *out, sp_error *reterr)
{
    if (!json_is_object(object) || depth > DEPTH)
        return SP_FAIL(reterr, SP_INVALID, "%s: an object was expected", message->short_name);
    for (unsigned i = 0; i < message->n_fields; i++) {
        json_t *value = json_object_get(object, message->fields[i].name);
        sp_status s = value ? member_write(&message->fields[i], value, depth, out, reterr) : SP_OK;
        if (s)
            return s;
    }
    return SP_OK;
}

sp_status sp_proto_of_json(const ProtobufCMessageDescriptor *message, sp_view json, sp_buf *out, sp_error *reterr)
{
    json_error_t at;
    json_t *root = json_loadb((const char *)json.data, json.size_bytes, JSON_ALLOW_NUL, &at);
    if (!root)
        return SP_FAIL(reterr, SP_INVALID, "%s: %s", message->short_name, at.text);
    sp_status s = object_write(message, root, 0, out, reterr);
    json_decref(root);
    return s ? s : sp_buf_ok(out) ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for a message");
}
