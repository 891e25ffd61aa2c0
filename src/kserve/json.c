/* SPDX-License-Identifier: Apache-2.0
 * The inference request as JSON (json.h): its members into sp_kserve_request, its arrays into the sink. */
#include "kserve/json.h"

#include "kserve/text.h"
#include "model/config.h"

#include <stdio.h>

#define MEMBER_IS(key, name) (strcmp((key), (name)) == 0)

typedef struct reader {
    sp_kserve_request *request;
    const sp_kserve_sink *sink;
    uint64_t binary_bytes, binary_taken;
    char where[48]; /* "inputs[2].shape": for messages */
} reader;

/* One input while its object is read: data that comes before shape and type waits. */
typedef struct input_reader {
    reader *all;
    sp_kserve_input *input;
    int index;
    bool has_shape, has_dtype, has_name, has_size, has_region, has_region_bytes, has_data;
    sp_text data; /* where it begins */
} input_reader;

typedef struct output_reader {
    reader *all;
    sp_kserve_output *output;
    int index;
    bool has_region_bytes;
} output_reader;

/* Puts "inputs[2].shape: " before what was found wrong there. */
static sp_status at(const char *list, int index, const char *member, sp_status s, sp_error *reterr)
{
    if (!s || !reterr)
        return s;
    char message[sizeof(reterr->message)], code[sizeof(reterr->code)];
    (void)snprintf(message, sizeof(message), "%s", reterr->message);
    (void)snprintf(code, sizeof(code), "%s", reterr->code);
    return SP_FAIL_CODE(reterr, s, code, "%s[%d].%.40s: %.180s", list, index, member, message);
}

/* --- parameters ----------------------------------------------------------------------------------------------------------- */

static sp_status sequence_id_read(sp_text *text, sp_kserve_request *request, sp_error *reterr)
{
    if (sp_text_peek(text) == '"')
        return sp_text_string(text, request->sequence_text, sizeof(request->sequence_text), reterr);
    return sp_text_u64(text, &request->sequence_id, reterr);
}

static sp_status request_parameter(sp_text *text, const char *key, void *context, sp_error *reterr)
{
    sp_kserve_request *request = ((reader *)context)->request;
    sp_status s;
    if (MEMBER_IS(key, "sequence_id"))
        s = sequence_id_read(text, request, reterr);
    else if (MEMBER_IS(key, "sequence_start"))
        s = sp_text_bool(text, &request->start, reterr);
    else if (MEMBER_IS(key, "sequence_end"))
        s = sp_text_bool(text, &request->end, reterr);
    else if (MEMBER_IS(key, "priority"))
        s = sp_text_u64(text, &request->priority, reterr);
    else if (MEMBER_IS(key, "timeout"))
        s = sp_text_u64(text, &request->timeout_us, reterr);
    else if (MEMBER_IS(key, "binary_data_output"))
        s = sp_text_bool(text, &request->binary_output, reterr);
    else {
        request->has_custom = true;
        return sp_text_skip(text, reterr);
    }
    if (!s || !reterr)
        return s;
    char message[sizeof(reterr->message)];
    (void)snprintf(message, sizeof(message), "%s", reterr->message);
    return SP_FAIL_CODE(reterr, s, "parameters", "parameters.%.40s: %.180s", key, message);
}

static sp_status input_parameter(sp_text *text, const char *key, void *context, sp_error *reterr)
{
    input_reader *in = context;
    sp_kserve_input *input = in->input;
    uint64_t value = 0;
    if (MEMBER_IS(key, "shared_memory_region")) {
        in->has_region = true;
        return sp_text_string(text, input->region, sizeof(input->region), reterr);
    }
    bool size = MEMBER_IS(key, "binary_data_size"), offset = MEMBER_IS(key, "shared_memory_offset");
    bool region_bytes = MEMBER_IS(key, "shared_memory_byte_size");
    if (!size && !offset && !region_bytes)
        return sp_text_skip(text, reterr);
    sp_status s = sp_text_u64(text, &value, reterr);
    if (s)
        return s;
    in->has_size |= size;
    in->has_region_bytes |= region_bytes;
    *(offset ? &input->offset : &input->bytes) = value;
    return SP_OK;
}

static sp_status output_parameter(sp_text *text, const char *key, void *context, sp_error *reterr)
{
    output_reader *out = context;
    sp_kserve_output *output = out->output;
    uint64_t value = 0;
    if (MEMBER_IS(key, "binary_data")) {
        output->has_binary = true;
        return sp_text_bool(text, &output->binary, reterr);
    }
    if (MEMBER_IS(key, "shared_memory_region")) {
        output->shared = true;
        return sp_text_string(text, output->region, sizeof(output->region), reterr);
    }
    bool classes = MEMBER_IS(key, "classification"), offset = MEMBER_IS(key, "shared_memory_offset");
    if (!classes && !offset && !MEMBER_IS(key, "shared_memory_byte_size"))
        return sp_text_skip(text, reterr);
    sp_status s = sp_text_u64(text, &value, reterr);
    if (s)
        return s;
    if (classes)
        output->classes = (uint32_t)SP_MIN(value, (uint64_t)UINT32_MAX);
    else
        *(offset ? &output->offset : &output->bytes) = value;
    out->has_region_bytes |= !classes && !offset;
    return SP_OK;
}

/* --- inputs ------------------------------------------------------------------------------------------------------------------ */

static sp_status dimension(sp_text *text, int index, void *context, sp_error *reterr)
{
    sp_kserve_input *input = context;
    uint64_t value;
    if (index == SP_INFER_RANK)
        return sp_text_fail(text, "at most 8 dimensions", reterr);
    sp_text begin = *text;
    sp_status s = sp_text_u64(text, &value, reterr);
    if (!s && value > INT64_MAX)
        s = sp_text_fail(&begin, "a dimension below 2^63", reterr);
    if (!s) {
        input->dims[index] = (int64_t)value;
        input->rank = (uint8_t)(index + 1);
    }
    return s;
}

static bool element_count(const sp_kserve_input *input, uint64_t *ret_count)
{
    uint64_t count = 1;
    for (int i = 0; i < input->rank; i++) {
        if (__builtin_mul_overflow(count, (uint64_t)input->dims[i], &count))
            return false;
    }
    *ret_count = count;
    return true;
}

/* The array that begins at in->data into the sink's memory. Its size is known from the shape, or, for strings, bounded by the
 * length of the text; a shape that promises more elements than there is text is refused before any memory is asked for. */
static sp_status data_take(input_reader *in, sp_text *text, sp_error *reterr)
{
    sp_kserve_input *input = in->input;
    const sp_kserve_sink *sink = in->all->sink;
    uint64_t count, left = (uint64_t)(text->end - text->at), need, used = 0;
    if (!sink)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "json_data", "tensors as JSON are not read here");
    if (!element_count(input, &count) || count > left)
        return SP_FAIL_CODE(reterr, SP_INVALID, "data_count", "the shape has more elements than the data");
    need = input->dtype == SP_DTYPE_BYTES ? left + 4 * count : count * sp_dtype_bytes(input->dtype);
    if (input->dtype == SP_DTYPE_BYTES) { /* the rest of the message is no good bound: measure this array */
        sp_text ahead = *text;
        sp_status s = sp_text_skip(&ahead, reterr);
        if (s)
            return s;
        need = (uint64_t)(ahead.at - text->at) + 4 * count;
    }
    void *room = sink->room(sink->context, need, reterr);
    if (!room)
        return reterr && reterr->status ? reterr->status : SP_NOMEM;
    sp_status s = sp_data_read(text, input->dtype, count, room, &used, reterr);
    if (s)
        return s;
    input->place = SP_PLACE_DATA;
    input->bytes = used;
    input->offset = sink->used(sink->context, room, used);
    return SP_OK;
}

static sp_status dtype_read(sp_text *text, sp_kserve_input *input, sp_error *reterr)
{
    char name[16];
    (void)sp_text_peek(text);
    sp_text begin = *text;
    sp_status s = sp_text_string(text, name, sizeof(name), reterr);
    if (s)
        return s;
    input->dtype = (uint8_t)sp_dtype_of_kserve(sp_view_of(name));
    if (!input->dtype || sp_view_starts_with(sp_view_of(name), "TYPE_", 5))
        return sp_text_fail(&begin, "a datatype (BOOL, UINT8 .. UINT64, INT8 .. INT64, FP16, BF16, FP32, FP64, BYTES)", reterr);
    return SP_OK;
}

static sp_status input_member(sp_text *text, const char *key, void *context, sp_error *reterr)
{
    input_reader *in = context;
    sp_status s;
    if (MEMBER_IS(key, "name")) {
        s = sp_text_string(text, in->input->name, sizeof(in->input->name), reterr);
        in->has_name = !s && *in->input->name;
    } else if (MEMBER_IS(key, "shape")) {
        in->input->rank = 0;
        s = sp_text_array(text, dimension, in->input, reterr);
        in->has_shape = !s;
    } else if (MEMBER_IS(key, "datatype")) {
        s = dtype_read(text, in->input, reterr);
        in->has_dtype = !s;
    } else if (MEMBER_IS(key, "parameters")) {
        s = sp_text_object(text, input_parameter, in, reterr);
    } else if (MEMBER_IS(key, "data")) {
        if (in->has_data)
            return at("inputs", in->index, key, sp_text_fail(text, "one \"data\" for each input", reterr), reterr);
        in->has_data = true;
        in->data = *text;
        if (in->has_shape && in->has_dtype && !in->has_size && !in->has_region)
            s = data_take(in, text, reterr);
        else
            s = sp_text_skip(text, reterr);
    } else {
        s = sp_text_skip(text, reterr);
    }
    return at("inputs", in->index, key, s, reterr);
}

static sp_status input_complete(input_reader *in, sp_error *reterr)
{
    sp_kserve_input *input = in->input;
    const char *missing = !in->has_name ? "name" : !in->has_shape ? "shape" : !in->has_dtype ? "datatype" : NULL;
    if (missing)
        return SP_FAIL_CODE(reterr, SP_INVALID, "member", "inputs[%d] has no \"%s\"", in->index, missing);
    if (in->has_region) {
        if (in->has_data || in->has_size)
            return SP_FAIL_CODE(reterr, SP_INVALID, "member", "inputs[%d] \"%s\" has data and lies in shared memory: one of them",
                                in->index, input->name);
        if (!in->has_region_bytes)
            return SP_FAIL_CODE(reterr, SP_INVALID, "member", "inputs[%d].parameters has no \"shared_memory_byte_size\"", in->index);
        input->place = SP_PLACE_SHARED;
        return SP_OK;
    }
    if (in->has_size) {
        if (in->has_data)
            return SP_FAIL_CODE(reterr, SP_INVALID, "member", "inputs[%d] \"%s\" has \"data\" and binary_data_size: one of them",
                                in->index, input->name);
        if (input->bytes > in->all->binary_bytes - in->all->binary_taken)
            return SP_FAIL_CODE(reterr, SP_INVALID, "binary_size",
                                "inputs[%d] \"%s\" says binary_data_size %llu, but only %llu bytes are left behind the header",
                                in->index, input->name, (unsigned long long)input->bytes,
                                (unsigned long long)(in->all->binary_bytes - in->all->binary_taken));
        input->place = SP_PLACE_BINARY;
        input->offset = in->all->binary_taken;
        in->all->binary_taken += input->bytes;
        return SP_OK;
    }
    if (!in->has_data)
        return SP_FAIL_CODE(reterr, SP_INVALID, "member", "inputs[%d] \"%s\" has no data: send \"data\", or binary_data_size, or "
                            "shared_memory_region in its parameters", in->index, input->name);
    if (input->place == SP_PLACE_DATA)
        return SP_OK;
    return at("inputs", in->index, "data", data_take(in, &in->data, reterr), reterr);
}

static sp_status input_element(sp_text *text, int index, void *context, sp_error *reterr)
{
    reader *r = context;
    if (index == SP_INFER_PORTS)
        return sp_text_fail(text, "at most 64 inputs", reterr);
    input_reader in = { .all = r, .input = &r->request->inputs[index], .index = index };
    *in.input = (sp_kserve_input){ 0 };
    sp_status s = sp_text_object(text, input_member, &in, reterr);
    if (!s)
        s = input_complete(&in, reterr);
    r->request->input_count = index + 1;
    return s;
}

/* --- outputs ----------------------------------------------------------------------------------------------------------------- */

static sp_status output_member(sp_text *text, const char *key, void *context, sp_error *reterr)
{
    output_reader *out = context;
    sp_status s;
    if (MEMBER_IS(key, "name"))
        s = sp_text_string(text, out->output->name, sizeof(out->output->name), reterr);
    else if (MEMBER_IS(key, "parameters"))
        s = sp_text_object(text, output_parameter, out, reterr);
    else
        s = sp_text_skip(text, reterr);
    return at("outputs", out->index, key, s, reterr);
}

static sp_status output_element(sp_text *text, int index, void *context, sp_error *reterr)
{
    reader *r = context;
    if (index == SP_INFER_PORTS)
        return sp_text_fail(text, "at most 64 outputs", reterr);
    output_reader out = { .all = r, .output = &r->request->outputs[index], .index = index };
    *out.output = (sp_kserve_output){ 0 };
    sp_status s = sp_text_object(text, output_member, &out, reterr);
    if (!s && !*out.output->name)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "member", "outputs[%d] has no \"name\"", index);
    if (!s && out.output->shared && !out.has_region_bytes)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "member", "outputs[%d].parameters has no \"shared_memory_byte_size\"", index);
    r->request->output_count = index + 1;
    return s;
}

/* --- all ---------------------------------------------------------------------------------------------------------------------- */

static sp_status request_member(sp_text *text, const char *key, void *context, sp_error *reterr)
{
    reader *r = context;
    if (MEMBER_IS(key, "id"))
        return sp_text_string(text, r->request->id, sizeof(r->request->id), reterr);
    if (MEMBER_IS(key, "parameters"))
        return sp_text_object(text, request_parameter, r, reterr);
    if (MEMBER_IS(key, "inputs"))
        return sp_text_array(text, input_element, r, reterr);
    if (MEMBER_IS(key, "outputs"))
        return sp_text_array(text, output_element, r, reterr);
    return sp_text_skip(text, reterr);
}

sp_status sp_kserve_request_parse(sp_view json, uint64_t binary_bytes, const sp_kserve_sink *sink, sp_kserve_request *ret_request,
                                  sp_error *reterr)
{
    sp_error unread = { 0 };
    reterr = reterr ? reterr : &unread;
    reader r = { .request = ret_request, .sink = sink, .binary_bytes = binary_bytes };
    sp_text text = { .begin = json.data, .at = json.data, .end = json.data + json.size_bytes };
    sp_kserve_request *q = ret_request; /* the arrays are cleared as they are filled */
    *q->id = *q->sequence_text = 0;
    q->binary_output = q->start = q->end = q->has_custom = false;
    q->sequence_id = q->priority = q->timeout_us = 0;
    q->input_count = q->output_count = 0;
    sp_status s = sp_text_object(&text, request_member, &r, reterr);
    if (s)
        return s;
    if (sp_text_peek(&text) || text.at != text.end)
        return sp_text_fail(&text, "nothing behind the JSON", reterr);
    if (r.binary_taken != binary_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "binary_size", "%llu bytes lie behind the header, its inputs take %llu of them",
                            (unsigned long long)binary_bytes, (unsigned long long)r.binary_taken);
    return SP_OK;
}

static void input_write(const sp_kserve_input *input, sp_buf *out)
{
    sp_buf_append_text(out, "{\"name\":");
    sp_buf_append_json_text(out, input->name);
    sp_buf_printf(out, ",\"datatype\":\"%s\",\"shape\":[", sp_dtype_kserve(input->dtype));
    for (int i = 0; i < input->rank; i++)
        sp_buf_printf(out, "%s%lld", i ? "," : "", (long long)input->dims[i]);
    sp_buf_append_text(out, "],\"parameters\":{");
    if (input->place == SP_PLACE_SHARED) {
        sp_buf_append_text(out, "\"shared_memory_region\":");
        sp_buf_append_json_text(out, input->region);
        sp_buf_printf(out, ",\"shared_memory_offset\":%llu,\"shared_memory_byte_size\":%llu", (unsigned long long)input->offset,
                      (unsigned long long)input->bytes);
    } else {
        sp_buf_printf(out, "\"binary_data_size\":%llu", (unsigned long long)input->bytes);
    }
    sp_buf_append_text(out, "}}");
}

static void output_write(const sp_kserve_output *output, sp_buf *out)
{
    const char *comma = "";
    sp_buf_append_text(out, "{\"name\":");
    sp_buf_append_json_text(out, output->name);
    sp_buf_append_text(out, ",\"parameters\":{");
    if (output->has_binary) {
        sp_buf_printf(out, "\"binary_data\":%s", output->binary ? "true" : "false");
        comma = ",";
    }
    if (output->classes) {
        sp_buf_printf(out, "%s\"classification\":%u", comma, output->classes);
        comma = ",";
    }
    if (output->shared) {
        sp_buf_printf(out, "%s\"shared_memory_region\":", comma);
        sp_buf_append_json_text(out, output->region);
        sp_buf_printf(out, ",\"shared_memory_offset\":%llu,\"shared_memory_byte_size\":%llu", (unsigned long long)output->offset,
                      (unsigned long long)output->bytes);
    }
    sp_buf_append_text(out, "}}");
}

static void parameters_write(const sp_kserve_request *request, sp_buf *out)
{
    sp_buf_printf(out, ",\"parameters\":{\"binary_data_output\":%s,\"sequence_start\":%s,\"sequence_end\":%s",
                  request->binary_output ? "true" : "false", request->start ? "true" : "false", request->end ? "true" : "false");
    if (*request->sequence_text) {
        sp_buf_append_text(out, ",\"sequence_id\":");
        sp_buf_append_json_text(out, request->sequence_text);
    } else {
        sp_buf_printf(out, ",\"sequence_id\":%llu", (unsigned long long)request->sequence_id);
    }
    sp_buf_printf(out, ",\"priority\":%llu,\"timeout\":%llu}", (unsigned long long)request->priority,
                  (unsigned long long)request->timeout_us);
}

void sp_kserve_request_write(const sp_kserve_request *request, sp_buf *out)
{
    sp_buf_append_text(out, "{\"id\":");
    sp_buf_append_json_text(out, request->id);
    parameters_write(request, out);
    sp_buf_append_text(out, ",\"inputs\":[");
    for (int i = 0; i < request->input_count; i++) {
        sp_buf_append_text(out, i ? "," : "");
        input_write(&request->inputs[i], out);
    }
    sp_buf_append_text(out, "],\"outputs\":[");
    for (int i = 0; i < request->output_count; i++) {
        sp_buf_append_text(out, i ? "," : "");
        output_write(&request->outputs[i], out);
    }
    sp_buf_append_text(out, "]}");
}
