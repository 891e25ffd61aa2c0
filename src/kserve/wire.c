/* SPDX-License-Identifier: Apache-2.0
 * ModelInferRequest off the protobuf wire (wire.h). A cursor walks over the slices; a nested message is the same cursor with a
 * nearer end. Nothing is allocated. Where protobuf lets a field come twice, the last one counts, but for contents, which come
 * once. Checks and their words follow Triton's grpc server (InferGRPCToInput). */
#include "kserve/wire.h"

#include "model/config.h"

#include <stdio.h>

typedef struct cursor {
    const sp_slices *message;
    int piece;
    size_t in_piece; /* of the piece */
    size_t at, end;  /* of the message */
} cursor;

typedef struct field {
    uint32_t number, type;
    uint64_t value; /* VARINT, FIXED64, FIXED32; LENGTH: the length */
} field;

enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };

static void settle(cursor *c)
{
    while (c->piece < c->message->count && c->in_piece >= c->message->pieces[c->piece].size_bytes) {
        c->in_piece = 0;
        c->piece++;
    }
}

static cursor cursor_at(const sp_slices *message, sp_wire_part part)
{
    cursor c = { .message = message, .in_piece = part.offset, .at = part.offset, .end = part.offset + part.bytes };
    while (c.piece < message->count && c.in_piece >= message->pieces[c.piece].size_bytes)
        c.in_piece -= message->pieces[c.piece++].size_bytes;
    return c;
}

static void skip(cursor *c, size_t bytes)
{
    c->at += bytes;
    while (bytes) {
        size_t n = SP_MIN(c->message->pieces[c->piece].size_bytes - c->in_piece, bytes);
        c->in_piece += n;
        bytes -= n;
        settle(c);
    }
}

static void copy(cursor *c, void *dst, size_t bytes)
{
    uint8_t *to = dst;
    c->at += bytes;
    while (bytes) {
        const sp_view *piece = &c->message->pieces[c->piece];
        size_t n = SP_MIN(piece->size_bytes - c->in_piece, bytes);
        memcpy(to, piece->data + c->in_piece, n);
        to += n;
        c->in_piece += n;
        bytes -= n;
        settle(c);
    }
}

static sp_status broken(const cursor *c, const char *what, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "bad_message", "the message is no ModelInferRequest: %s at byte %zu of %zu", what, c->at,
                        c->message->bytes);
}

static sp_status varint(cursor *c, uint64_t *ret_value, sp_error *reterr)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        uint8_t byte;
        if (c->at >= c->end)
            return broken(c, "a number is cut off", reterr);
        copy(c, &byte, 1);
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128)) {
            *ret_value = value;
            return SP_OK;
        }
    }
    return broken(c, "a number is longer than 64 bits", reterr);
}

/* The next field's tag and number; for LENGTH fields the cursor stands at the first of its bytes, all of which are there. */
static sp_status field_next(cursor *c, field *ret_field, sp_error *reterr)
{
    uint64_t tag;
    sp_status s = varint(c, &tag, reterr);
    if (s)
        return s;
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return broken(c, "a field's number is out of range", reterr);
    ret_field->number = (uint32_t)(tag >> 3);
    ret_field->type = tag & 7;
    ret_field->value = 0;
    switch (ret_field->type) {
    case VARINT:
        return varint(c, &ret_field->value, reterr);
    case LENGTH:
        s = varint(c, &ret_field->value, reterr);
        return s ? s : ret_field->value > c->end - c->at ? broken(c, "a field is longer than what is left", reterr) : SP_OK;
    case FIXED64:
    case FIXED32: {
        size_t bytes = ret_field->type == FIXED64 ? 8 : 4;
        if (c->end - c->at < bytes)
            return broken(c, "a number is cut off", reterr);
        copy(c, &ret_field->value, bytes); /* little endian, as we are */
        return SP_OK;
    }
    default:
        return broken(c, "a field of a kind that is not used", reterr);
    }
}

static sp_status wrong_kind(const cursor *c, const char *name, sp_error *reterr)
{
    char text[96];
    (void)snprintf(text, sizeof(text), "%s has the wrong wire type", name);
    return broken(c, text, reterr);
}

static sp_status text_take(cursor *c, const field *f, const char *name, char *dst, size_t capacity, sp_error *reterr)
{
    if (f->type != LENGTH)
        return wrong_kind(c, name, reterr);
    if (f->value >= capacity)
        return SP_FAIL(reterr, SP_INVALID, "%s has %llu bytes; at most %zu can be", name, (unsigned long long)f->value, capacity - 1);
    copy(c, dst, f->value);
    dst[f->value] = 0;
    if (memchr(dst, 0, f->value))
        return SP_FAIL(reterr, SP_INVALID, "%s has a NUL in it", name);
    return SP_OK;
}

/* Steps over what is not known; numbers have been taken already. */
static void field_skip(cursor *c, const field *f)
{
    if (f->type == LENGTH)
        skip(c, f->value);
}

/* A nested message: `inner` walks it, `c` goes on behind it. */
static cursor enter(cursor *c, const field *f)
{
    cursor inner = *c;
    inner.end = c->at + f->value;
    skip(c, f->value);
    return inner;
}

/* --- parameters ---------------------------------------------------------------------------------------------------- */

typedef struct parameter {
    char key[64];
    enum { NOTHING, BOOL, INT, TEXT, DOUBLE } kind;
    bool is_unsigned;
    uint64_t number;
    char text[SP_LIMIT_KSERVE_NAME_BYTES];
} parameter;

static sp_status parameter_value(cursor c, parameter *p, sp_error *reterr)
{
    field f;
    while (c.at < c.end) {
        sp_status s = field_next(&c, &f, reterr);
        if (s)
            return s;
        if (f.number < 1 || f.number > 5) {
            field_skip(&c, &f);
            continue;
        }
        if (f.number == 3) {
            s = text_take(&c, &f, "a parameter's text", p->text, sizeof(p->text), reterr);
            p->kind = TEXT;
        } else {
            s = f.type == (f.number == 4 ? FIXED64 : VARINT) ? SP_OK : wrong_kind(&c, "a parameter", reterr);
            p->kind = f.number == 1 ? BOOL : f.number == 4 ? DOUBLE : INT;
            p->is_unsigned = f.number == 5;
            p->number = f.value;
        }
        if (s)
            return s;
    }
    return SP_OK;
}

/* One entry of a map<string, InferParameter>. A key that is longer than any we know is cut, and known by nobody. */
static sp_status parameter_read(cursor *outer, const field *entry, parameter *ret_p, sp_error *reterr)
{
    if (entry->type != LENGTH)
        return wrong_kind(outer, "parameters", reterr);
    cursor c = enter(outer, entry);
    field f;
    ret_p->key[0] = 0;
    ret_p->kind = NOTHING;
    ret_p->is_unsigned = false;
    while (c.at < c.end) {
        sp_status s = field_next(&c, &f, reterr);
        if (s)
            return s;
        if (f.number == 1 && f.type == LENGTH) {
            size_t n = SP_MIN(f.value, sizeof(ret_p->key) - 1);
            copy(&c, ret_p->key, n);
            ret_p->key[n] = 0;
            skip(&c, f.value - n);
        } else if (f.number == 2 && f.type == LENGTH) {
            s = parameter_value(enter(&c, &f), ret_p, reterr);
        } else if (f.number <= 2) {
            s = wrong_kind(&c, "a parameter", reterr);
        } else {
            field_skip(&c, &f);
        }
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status bad_parameter(const parameter *p, const char *wanted, sp_error *reterr)
{
    return SP_FAIL(reterr, SP_INVALID, "parameter '%s' must be %s", p->key, wanted);
}

static sp_status bool_parameter(const parameter *p, bool *ret_value, sp_error *reterr)
{
    if (p->kind != BOOL)
        return bad_parameter(p, "a bool_param", reterr);
    *ret_value = p->number != 0;
    return SP_OK;
}

static sp_status size_parameter(const parameter *p, uint64_t *ret_value, sp_error *reterr)
{
    if (p->kind != INT || (!p->is_unsigned && p->number > INT64_MAX))
        return bad_parameter(p, "an int64_param that is not negative", reterr);
    *ret_value = p->number;
    return SP_OK;
}

static sp_status request_parameter(const parameter *p, sp_wire_request *r, sp_error *reterr)
{
    sp_kserve_request *request = &r->request;
    if (strcmp(p->key, "sequence_id") == 0) {
        request->sequence_id = 0;
        request->sequence_text[0] = 0;
        if (p->kind == TEXT)
            memcpy(request->sequence_text, p->text, sizeof(p->text));
        else if (p->kind == INT)
            request->sequence_id = p->number;
        else
            return bad_parameter(p, "an int64_param or a string_param", reterr);
        return SP_OK;
    }
    if (strcmp(p->key, "sequence_start") == 0)
        return bool_parameter(p, &request->start, reterr);
    if (strcmp(p->key, "sequence_end") == 0)
        return bool_parameter(p, &request->end, reterr);
    if (strcmp(p->key, "priority") == 0)
        return size_parameter(p, &request->priority, reterr);
    if (strcmp(p->key, "timeout") == 0)
        return size_parameter(p, &request->timeout_us, reterr);
    if (strcmp(p->key, "triton_enable_empty_final_response") == 0)
        return bool_parameter(p, &r->empty_final, reterr);
    if (strcmp(p->key, "binary_data_output") == 0)
        return SP_OK; /* always so here */
    if (strncmp(p->key, "triton_", 7) == 0)
        return SP_FAIL(reterr, SP_INVALID, "parameter keys starting with 'triton_' are reserved for Triton usage; '%s' is not known",
                       p->key);
    request->has_custom = true;
    return SP_OK;
}

/* Of an input or an output: true when the key was one of shared memory's. */
static bool region_parameter(const parameter *p, char *region, bool *shared, uint64_t *offset, uint64_t *bytes, sp_status *ret_status,
                             sp_error *reterr)
{
    *ret_status = SP_OK;
    if (strcmp(p->key, "shared_memory_region") == 0) {
        *shared = true;
        if (p->kind == TEXT)
            memcpy(region, p->text, sizeof(p->text));
        else
            *ret_status = bad_parameter(p, "a string_param", reterr);
    } else if (strcmp(p->key, "shared_memory_offset") == 0) {
        *ret_status = size_parameter(p, offset, reterr);
    } else if (strcmp(p->key, "shared_memory_byte_size") == 0) {
        *ret_status = size_parameter(p, bytes, reterr);
    } else {
        return false;
    }
    return true;
}

/* --- tensors ------------------------------------------------------------------------------------------------------- */

static sp_status shape_take(cursor *c, const field *f, sp_kserve_input *in, sp_error *reterr)
{
    uint64_t value = f->value;
    cursor packed;
    if (f->type != LENGTH && f->type != VARINT)
        return wrong_kind(c, "shape", reterr);
    if (f->type == LENGTH)
        packed = enter(c, f);
    while (f->type == VARINT || packed.at < packed.end) {
        sp_status s = f->type == LENGTH ? varint(&packed, &value, reterr) : SP_OK;
        if (s)
            return s;
        if (in->rank == SP_INFER_RANK)
            return SP_FAIL(reterr, SP_INVALID, "input '%s' has more than %d dimensions", in->name, SP_INFER_RANK);
        if (value > INT64_MAX)
            return SP_FAIL(reterr, SP_INVALID, "input '%s': a dimension of its shape is negative", in->name);
        in->dims[in->rank++] = (int64_t)value;
        if (f->type == VARINT)
            break;
    }
    return SP_OK;
}

static sp_status dtype_take(cursor *c, const field *f, sp_kserve_input *in, sp_error *reterr)
{
    char name[16];
    sp_status s = text_take(c, f, "datatype", name, sizeof(name), reterr);
    if (s)
        return s;
    int dtype = sp_dtype_of_kserve(sp_view_of(name));
    if (!dtype || strncmp(name, "TYPE_", 5) == 0)
        return SP_FAIL(reterr, SP_INVALID, "input '%s' has the datatype '%s', which is none; an example is FP32", in->name, name);
    in->dtype = (uint8_t)dtype;
    return SP_OK;
}

static sp_status input_field(cursor *c, const field *f, sp_kserve_input *in, sp_wire_part *typed, bool *shared, sp_error *reterr)
{
    parameter p;
    sp_status s;
    switch (f->number) {
    case 1:
        return text_take(c, f, "an input's name", in->name, sizeof(in->name), reterr);
    case 2:
        return dtype_take(c, f, in, reterr);
    case 3:
        return shape_take(c, f, in, reterr);
    case 4:
        s = parameter_read(c, f, &p, reterr);
        if (!s)
            (void)region_parameter(&p, in->region, shared, &in->offset, &in->bytes, &s, reterr);
        return s;
    case 5:
        if (f->type != LENGTH)
            return wrong_kind(c, "contents", reterr);
        if (typed->offset)
            return SP_FAIL(reterr, SP_INVALID, "input '%s' has contents twice", in->name);
        *typed = (sp_wire_part){ c->at, f->value };
        skip(c, f->value);
        return SP_OK;
    default:
        field_skip(c, f);
        return SP_OK;
    }
}

static sp_status input_read(cursor *outer, const field *f, sp_wire_request *r, sp_error *reterr)
{
    sp_kserve_request *request = &r->request;
    if (f->type != LENGTH)
        return wrong_kind(outer, "inputs", reterr);
    if (request->input_count == SP_INFER_PORTS)
        return SP_FAIL(reterr, SP_INVALID, "a request has at most %d inputs", SP_INFER_PORTS);
    sp_kserve_input *in = &request->inputs[request->input_count];
    sp_wire_part *typed = &r->typed[request->input_count++];
    memset(in, 0, sizeof(*in));
    *typed = (sp_wire_part){ 0 };
    bool shared = false;
    cursor c = enter(outer, f);
    while (c.at < c.end) {
        field inner;
        sp_status s = field_next(&c, &inner, reterr);
        if (!s)
            s = input_field(&c, &inner, in, typed, &shared, reterr);
        if (s)
            return s;
    }
    if (!in->dtype)
        return SP_FAIL(reterr, SP_INVALID, "input '%s' has no datatype", in->name);
    in->place = shared ? SP_PLACE_SHARED : typed->offset ? SP_PLACE_DATA : SP_PLACE_NONE;
    r->has_typed = r->has_typed || in->place == SP_PLACE_DATA;
    if (!shared)
        in->offset = in->bytes = 0;
    return SP_OK;
}

static sp_status output_parameter(cursor *c, const field *f, sp_kserve_output *out, sp_error *reterr)
{
    parameter p;
    uint64_t classes = 0;
    sp_status s = parameter_read(c, f, &p, reterr);
    if (s || region_parameter(&p, out->region, &out->shared, &out->offset, &out->bytes, &s, reterr) ||
        strcmp(p.key, "classification") != 0)
        return s;
    s = size_parameter(&p, &classes, reterr);
    if (!s && classes > UINT32_MAX)
        s = bad_parameter(&p, "a number of classes", reterr);
    out->classes = (uint32_t)classes;
    return s;
}

static sp_status output_read(cursor *outer, const field *f, sp_kserve_request *request, sp_error *reterr)
{
    if (f->type != LENGTH)
        return wrong_kind(outer, "outputs", reterr);
    if (request->output_count == SP_INFER_PORTS)
        return SP_FAIL(reterr, SP_INVALID, "a request has at most %d outputs", SP_INFER_PORTS);
    sp_kserve_output *out = &request->outputs[request->output_count++];
    memset(out, 0, sizeof(*out));
    out->binary = out->has_binary = true;
    cursor c = enter(outer, f);
    while (c.at < c.end) {
        field inner;
        sp_status s = field_next(&c, &inner, reterr);
        if (!s && inner.number == 1)
            s = text_take(&c, &inner, "an output's name", out->name, sizeof(out->name), reterr);
        else if (!s && inner.number == 2)
            s = output_parameter(&c, &inner, out, reterr);
        else if (!s)
            field_skip(&c, &inner);
        if (s)
            return s;
    }
    return SP_OK;
}

/* --- the request --------------------------------------------------------------------------------------------------- */

static sp_status raw_take(cursor *c, const field *f, sp_wire_request *r, sp_error *reterr)
{
    if (f->type != LENGTH)
        return wrong_kind(c, "raw_input_contents", reterr);
    if (r->raw_count == SP_INFER_PORTS)
        return SP_FAIL(reterr, SP_INVALID, "a request has at most %d raw_input_contents", SP_INFER_PORTS);
    r->raw[r->raw_count++] = (sp_wire_part){ c->at, f->value };
    skip(c, f->value);
    return SP_OK;
}

static sp_status request_field(cursor *c, const field *f, sp_wire_request *r, sp_error *reterr)
{
    parameter p;
    sp_status s;
    switch (f->number) {
    case 1:
        return text_take(c, f, "model_name", r->model, sizeof(r->model), reterr);
    case 2:
        return text_take(c, f, "model_version", r->version, sizeof(r->version), reterr);
    case 3:
        return text_take(c, f, "id", r->request.id, sizeof(r->request.id), reterr);
    case 4:
        s = parameter_read(c, f, &p, reterr);
        return s ? s : request_parameter(&p, r, reterr);
    case 5:
        return input_read(c, f, r, reterr);
    case 6:
        return output_read(c, f, &r->request, reterr);
    case 7:
        return raw_take(c, f, r, reterr);
    default:
        field_skip(c, f);
        return SP_OK;
    }
}

/* Gives each input that is neither typed nor shared the next raw contents. */
static sp_status raw_deal(sp_wire_request *r, sp_error *reterr)
{
    uint64_t offset = 0;
    int next = 0;
    for (int i = 0; i < r->request.input_count; i++) {
        sp_kserve_input *in = &r->request.inputs[i];
        if (in->place == SP_PLACE_SHARED)
            continue;
        if (in->place == SP_PLACE_DATA && r->raw_count)
            return SP_FAIL(reterr, SP_INVALID,
                           "contents field must not be specified when using raw_input_contents for '%s' for model '%s'", in->name,
                           r->model);
        if (in->place == SP_PLACE_DATA)
            continue;
        if (next == r->raw_count)
            return SP_FAIL(reterr, SP_INVALID, "unable to find data for input tensor '%s' for model '%s' in request.", in->name,
                           r->model);
        in->place = SP_PLACE_BINARY;
        in->offset = offset;
        in->bytes = r->raw[next].bytes;
        offset += r->raw[next++].bytes;
    }
    if (next < r->raw_count)
        return SP_FAIL(reterr, SP_INVALID, "%d raw_input_contents came with %d inputs that want any, for model '%s'", r->raw_count,
                       next, r->model);
    return SP_OK;
}

sp_status sp_wire_request_read(const sp_slices *message, sp_wire_request *ret_request, sp_error *reterr)
{
    sp_wire_request *r = ret_request;
    r->model[0] = r->version[0] = 0;
    r->empty_final = r->has_typed = false;
    r->raw_count = 0;
    memset(&r->request, 0, offsetof(sp_kserve_request, inputs)); /* the ports are cleared one by one as they come */
    r->request.binary_output = true;
    cursor c = cursor_at(message, (sp_wire_part){ 0, message->bytes });
    while (c.at < c.end) {
        field f;
        sp_status s = field_next(&c, &f, reterr);
        if (!s)
            s = request_field(&c, &f, r, reterr);
        if (s)
            return s;
    }
    return raw_deal(r, reterr);
}

/* --- typed contents ------------------------------------------------------------------------------------------------ */

/* Which field of InferTensorContents a type's values come in; 0 = in none. */
static uint32_t contents_field(int dtype)
{
    static const uint8_t fields[] = { [9] = 1, [3] = 2, [5] = 2, [6] = 2, [7] = 3, [2] = 4, [4] = 4, [12] = 4, [13] = 5, [1] = 6,
                                      [11] = 7, [SP_DTYPE_BYTES] = 8 };
    return (size_t)dtype < sizeof(fields) ? fields[dtype] : 0;
}

/* How one element stands on the wire. */
static uint32_t element_type(uint32_t number)
{
    return number == 6 ? FIXED32 : number == 7 ? FIXED64 : number == 8 ? LENGTH : VARINT;
}

static bool element_fits(int dtype, uint64_t value)
{
    int64_t number = (int64_t)value;
    switch (dtype) {
    case 2: return value <= UINT8_MAX;
    case 3: return number >= INT8_MIN && number <= INT8_MAX;
    case 4: return value <= UINT16_MAX;
    case 5: return number >= INT16_MIN && number <= INT16_MAX;
    case 6: return number >= INT32_MIN && number <= INT32_MAX;
    case 9: return value <= 1;
    case 12: return value <= UINT32_MAX;
    default: return true;
    }
}

typedef struct filling {
    const sp_kserve_input *in;
    uint8_t *dst;
    size_t element_bytes; /* 0 = BYTES */
    size_t capacity, used;
    uint64_t count;
} filling;

static sp_status element_put(filling *to, cursor *c, uint64_t value, sp_error *reterr)
{
    size_t bytes = to->element_bytes ? to->element_bytes : sizeof(uint32_t) + value;
    if (to->capacity - to->used < bytes)
        return SP_FAIL(reterr, SP_INVALID, "input '%s' has more contents than its shape says", to->in->name);
    if (!element_fits(to->in->dtype, value))
        return SP_FAIL(reterr, SP_INVALID, "input '%s': element %llu of its contents does not fit the type %s", to->in->name,
                       (unsigned long long)to->count, sp_dtype_kserve(to->in->dtype));
    if (to->element_bytes) {
        memcpy(to->dst + to->used, &value, to->element_bytes);
    } else {
        uint32_t length = (uint32_t)value;
        memcpy(to->dst + to->used, &length, sizeof(length));
        copy(c, to->dst + to->used + sizeof(length), value);
    }
    to->used += bytes;
    to->count++;
    return SP_OK;
}

static sp_status packed_put(filling *to, cursor c, uint32_t type, sp_error *reterr)
{
    size_t width = type == FIXED32 ? 4 : 8;
    size_t left = c.end - c.at;
    if (type != VARINT) { /* FP32, FP64: as they lie */
        if (left % width)
            return broken(&c, "a list of numbers is cut off", reterr);
        if (to->capacity - to->used < left)
            return SP_FAIL(reterr, SP_INVALID, "input '%s' has more contents than its shape says", to->in->name);
        copy(&c, to->dst + to->used, left);
        to->used += left;
        to->count += left / width;
        return SP_OK;
    }
    while (c.at < c.end) {
        uint64_t value;
        sp_status s = varint(&c, &value, reterr);
        if (!s)
            s = element_put(to, &c, value, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status typed_fill(const sp_slices *message, sp_wire_part part, filling *to, sp_error *reterr)
{
    const uint32_t wanted = contents_field(to->in->dtype), type = element_type(wanted);
    cursor c = cursor_at(message, part);
    while (c.at < c.end) {
        field f;
        sp_status s = field_next(&c, &f, reterr);
        if (s)
            return s;
        if (f.number > 8 || (f.number != wanted && f.type == LENGTH && f.number != 8 && !f.value)) {
            field_skip(&c, &f); /* unknown, or a list without elements */
            continue;
        }
        if (f.number != wanted)
            return SP_FAIL(reterr, SP_INVALID, "unexpected explicit tensor data for input tensor '%s': its datatype is %s", to->in->name,
                           sp_dtype_kserve(to->in->dtype));
        if (f.type == LENGTH && type != LENGTH)
            s = packed_put(to, enter(&c, &f), type, reterr);
        else if (f.type == type)
            s = element_put(to, &c, f.value, reterr);
        else
            s = wrong_kind(&c, "contents", reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status elements_of(const sp_kserve_input *in, uint64_t *ret_count, sp_error *reterr)
{
    size_t count = 1;
    for (int i = 0; i < in->rank; i++) {
        if (!sp_size_mul(count, (size_t)in->dims[i], &count))
            return SP_FAIL(reterr, SP_INVALID, "input '%s': its shape has more elements than can be counted", in->name);
    }
    *ret_count = count;
    return SP_OK;
}

static sp_status typed_read(const sp_slices *message, sp_wire_part part, sp_kserve_input *in, const sp_kserve_sink *sink,
                            sp_error *reterr)
{
    uint64_t count = 0;
    filling to = { .in = in, .element_bytes = sp_dtype_bytes(in->dtype) };
    if (!contents_field(in->dtype))
        return SP_FAIL(reterr, SP_INVALID, "input '%s' of type %s must come in raw_input_contents", in->name,
                       sp_dtype_kserve(in->dtype));
    sp_status s = elements_of(in, &count, reterr);
    if (s)
        return s;
    /* A list takes at least a byte of the message for each element, strings four more in memory: so the message's own size
     * bounds what is asked for. */
    if (count > part.bytes)
        return SP_FAIL(reterr, SP_INVALID, "input '%s' has fewer contents than the %llu elements of its shape", in->name,
                       (unsigned long long)count);
    to.capacity = to.element_bytes ? count * to.element_bytes : count * sizeof(uint32_t) + part.bytes;
    to.dst = sink->room(sink->context, to.capacity, reterr);
    if (!to.dst)
        return reterr && reterr->status ? reterr->status : SP_NOMEM;
    s = typed_fill(message, part, &to, reterr);
    if (s)
        return s;
    if (to.count != count)
        return SP_FAIL(reterr, SP_INVALID, "input '%s' has %llu elements of contents, its shape says %llu", in->name,
                       (unsigned long long)to.count, (unsigned long long)count);
    in->offset = sink->used(sink->context, to.dst, to.used);
    in->bytes = to.used;
    return SP_OK;
}

sp_status sp_wire_request_typed(const sp_slices *message, sp_wire_request *request, const sp_kserve_sink *sink, sp_error *reterr)
{
    for (int i = 0; i < request->request.input_count; i++) {
        sp_kserve_input *in = &request->request.inputs[i];
        sp_status s = in->place == SP_PLACE_DATA ? typed_read(message, request->typed[i], in, sink, reterr) : SP_OK;
        if (s)
            return s;
    }
    return SP_OK;
}

/* --- parts of a message -------------------------------------------------------------------------------------------- */

void sp_slices_copy(const sp_slices *message, size_t offset, size_t bytes, void *dst)
{
    cursor c = cursor_at(message, (sp_wire_part){ offset, bytes });
    copy(&c, dst, bytes);
}

sp_status sp_slices_walk(const sp_slices *message, sp_wire_part part, sp_slices_take_fn *take, void *context, sp_error *reterr)
{
    cursor c = cursor_at(message, part);
    while (c.at < c.end) {
        const sp_view *piece = &message->pieces[c.piece];
        size_t n = SP_MIN(piece->size_bytes - c.in_piece, c.end - c.at);
        sp_status s = take(context, piece->data + c.in_piece, n, reterr);
        if (s)
            return s;
        skip(&c, n);
    }
    return SP_OK;
}
