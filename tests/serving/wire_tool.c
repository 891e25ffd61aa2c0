/* SPDX-License-Identifier: Apache-2.0
 * ModelInferRequests from stdin to JSON on stdout, for a test that holds kserve/wire.c to protobuf's own encoder. Each request
 * is two 32-bit numbers (its bytes; how many pieces to cut it into) and the bytes; each answer a line. A request that could be
 * read is also written as a response, in hex, which the test reads with protobuf's own parser. */
#include "kserve/wire.h"
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>

#define MESSAGE_BYTES (4u << 20)

static uint8_t sunk[8 * MESSAGE_BYTES];
static size_t sunk_bytes;

static void *room(void *context, size_t bytes, sp_error *reterr)
{
    (void)context;
    if (bytes > sizeof(sunk) - sunk_bytes) {
        (void)SP_FAIL(reterr, SP_TOO_LARGE, "the tool's sink is full");
        return NULL;
    }
    return sunk + sunk_bytes;
}

static uint64_t used(void *context, const void *at, size_t bytes)
{
    (void)context;
    (void)at;
    size_t offset = sunk_bytes;
    sunk_bytes += SP_ALIGN_UP(bytes, (size_t)8);
    return offset;
}

static void hex(sp_buf *out, const uint8_t *data, size_t bytes)
{
    sp_buf_append_text(out, "\"");
    for (size_t i = 0; i < bytes; i++)
        sp_buf_printf(out, "%02x", data[i]);
    sp_buf_append_text(out, "\"");
}

static void input_write(sp_buf *out, const sp_slices *message, const sp_wire_request *r, const sp_kserve_input *in)
{
    static uint8_t bytes[MESSAGE_BYTES];
    sp_buf_append_text(out, "{\"name\":");
    sp_buf_append_json_text(out, in->name);
    sp_buf_printf(out, ",\"datatype\":\"%s\",\"place\":%d,\"shape\":[", sp_dtype_kserve(in->dtype), (int)in->place);
    for (int i = 0; i < in->rank; i++)
        sp_buf_printf(out, "%s%lld", i ? "," : "", (long long)in->dims[i]);
    sp_buf_append_text(out, "],\"region\":");
    sp_buf_append_json_text(out, in->place == SP_PLACE_SHARED ? in->region : "");
    sp_buf_printf(out, ",\"offset\":%llu,\"bytes\":%llu,\"data\":", (unsigned long long)in->offset, (unsigned long long)in->bytes);
    if (in->place == SP_PLACE_BINARY) {
        uint64_t at = 0;
        for (int i = 0; i < r->raw_count; at += r->raw[i++].bytes) {
            if (at == in->offset && r->raw[i].bytes == in->bytes) {
                sp_slices_copy(message, r->raw[i].offset, r->raw[i].bytes, bytes);
                break;
            }
        }
        hex(out, bytes, in->bytes);
    } else {
        hex(out, sunk + in->offset, in->place == SP_PLACE_DATA ? in->bytes : 0);
    }
    sp_buf_append_text(out, "}");
}

static void request_write(sp_buf *out, const sp_slices *message, const sp_wire_request *r)
{
    const sp_kserve_request *q = &r->request;
    sp_buf_append_text(out, "{\"model\":");
    sp_buf_append_json_text(out, r->model);
    sp_buf_append_text(out, ",\"version\":");
    sp_buf_append_json_text(out, r->version);
    sp_buf_append_text(out, ",\"id\":");
    sp_buf_append_json_text(out, q->id);
    sp_buf_append_text(out, ",\"sequence_text\":");
    sp_buf_append_json_text(out, q->sequence_text);
    sp_buf_printf(out, ",\"sequence_id\":%llu,\"start\":%s,\"end\":%s,\"priority\":%llu,\"timeout\":%llu,\"final\":%s,\"inputs\":[",
                  (unsigned long long)q->sequence_id, q->start ? "true" : "false", q->end ? "true" : "false",
                  (unsigned long long)q->priority, (unsigned long long)q->timeout_us, r->empty_final ? "true" : "false");
    for (int i = 0; i < q->input_count; i++) {
        sp_buf_append_text(out, i ? "," : "");
        input_write(out, message, r, &q->inputs[i]);
    }
    sp_buf_append_text(out, "],\"outputs\":[");
    for (int i = 0; i < q->output_count; i++) {
        const sp_kserve_output *o = &q->outputs[i];
        sp_buf_append_text(out, i ? ",{\"name\":" : "{\"name\":");
        sp_buf_append_json_text(out, o->name);
        sp_buf_printf(out, ",\"classes\":%u,\"offset\":%llu,\"bytes\":%llu,\"region\":", o->classes, (unsigned long long)o->offset,
                      (unsigned long long)o->bytes);
        sp_buf_append_json_text(out, o->shared ? o->region : "");
        sp_buf_append_text(out, "}");
    }
    sp_buf_append_text(out, "],\"response\":");
}

/* The inputs sent back as outputs. */
static void response_write(sp_buf *out, const sp_slices *message, const sp_wire_request *r)
{
    static uint8_t bytes[MESSAGE_BYTES];
    sp_wire_output outputs[SP_INFER_PORTS];
    sp_buf response;
    sp_buf_init(&response, 16 * MESSAGE_BYTES);
    for (int i = 0; i < r->request.input_count; i++) {
        const sp_kserve_input *in = &r->request.inputs[i];
        outputs[i] = (sp_wire_output){ .name = in->name, .dtype = in->dtype, .rank = in->rank, .dims = in->dims,
                                       .shared = in->place == SP_PLACE_SHARED, .region = in->region, .offset = in->offset,
                                       .bytes = in->bytes };
    }
    sp_wire_response_head(r->model, r->version, r->request.id, outputs, r->request.input_count, &response);
    if (r->empty_final)
        sp_wire_final_mark(true, &response);
    for (int i = 0, raw = 0; i < r->request.input_count; i++) {
        const sp_kserve_input *in = &r->request.inputs[i];
        sp_wire_raw_head(outputs[i].shared ? 0 : in->bytes, &response);
        if (in->place == SP_PLACE_BINARY) {
            sp_slices_copy(message, r->raw[raw].offset, r->raw[raw].bytes, bytes);
            raw++;
        }
        if (!outputs[i].shared)
            sp_buf_append(&response, in->place == SP_PLACE_BINARY ? bytes : sunk + in->offset, in->bytes);
    }
    hex(out, response.data, response.size_bytes);
    sp_buf_append_text(out, "}\n");
    sp_buf_done(&response);
}

/* Cut at places that depend on the message, so that every field is cut somewhere in some run. */
static int cut(const uint8_t *data, size_t bytes, uint32_t wanted, sp_view *pieces)
{
    int count = 0;
    size_t at = 0;
    uint32_t state = wanted * 2654435761u + 1;
    for (uint32_t i = 1; i < wanted && at < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        size_t n = SP_MIN(bytes - at, (size_t)(state >> 8) % (2 * bytes / wanted + 2));
        pieces[count++] = sp_view_make(data + at, n);
        at += n;
    }
    pieces[count++] = sp_view_make(data + at, bytes - at);
    return count;
}

int main(void)
{
    static uint8_t data[MESSAGE_BYTES];
    static sp_view pieces[4097];
    static sp_wire_request request;
    uint32_t head[2];
    sp_buf out;
    sp_buf_init(&out, 64 * MESSAGE_BYTES);
    while (fread(head, sizeof(head), 1, stdin) == 1) {
        if (head[0] > sizeof(data) || head[1] > 4096 || fread(data, 1, head[0], stdin) != head[0])
            return 1;
        sp_error err = { 0 };
        const sp_slices message = { pieces, cut(data, head[0], head[1], pieces), head[0] };
        const sp_kserve_sink sink = { room, used, NULL };
        sunk_bytes = 0;
        sp_buf_clear(&out);
        sp_status s = sp_wire_request_read(&message, &request, &err);
        if (!s)
            s = sp_wire_request_typed(&message, &request, &sink, &err);
        if (s) {
            sp_buf_append_text(&out, "{\"error\":");
            sp_buf_append_json_text(&out, err.message);
            sp_buf_append_text(&out, "}\n");
        } else {
            request_write(&out, &message, &request);
            response_write(&out, &message, &request);
        }
        if (!sp_buf_ok(&out) || fwrite(out.data, 1, out.size_bytes, stdout) != out.size_bytes || fflush(stdout))
            return 1;
    }
    sp_buf_done(&out);
    return 0;
}
