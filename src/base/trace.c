/* SPDX-License-Identifier: Apache-2.0
 * Trace context: read, begun, written. */
#include "base/trace.h"

#include <stdio.h>
#include <string.h>

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; /* capitals are not allowed */
}

/* False: not n bytes of hexadecimal. */
static bool read_hex(const char *text, uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int high = digit(text[2 * i]), low = high < 0 ? -1 : digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool is_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

static bool read_parent(const char *text, sp_trace *trace)
{
    uint8_t version;
    size_t length = strnlen(text, 4096);
    if (length < 55 || !read_hex(text, &version, 1) || version == 0xff || text[2] != '-' || text[35] != '-' ||
        text[52] != '-')
        return false;
    /* Version 00 ends here; later ones may go on behind another dash. */
    if (version == 0 ? length != 55 : length > 55 && text[55] != '-')
        return false;
    return read_hex(text + 3, trace->trace_id, 16) && read_hex(text + 36, trace->parent_id, 8) &&
           read_hex(text + 53, &trace->flags, 1) && !is_zero(trace->trace_id, 16) && !is_zero(trace->parent_id, 8);
}

/* Printable and short enough, or nothing: it goes into a header again. */
static void take_state(sp_trace *trace, const char *text)
{
    size_t length = text ? strnlen(text, SP_TRACESTATE_BYTES) : 0;
    if (!length || length >= SP_TRACESTATE_BYTES)
        return;
    for (size_t i = 0; i < length; i++)
        if (text[i] < ' ' || text[i] > '~')
            return;
    memcpy(trace->state, text, length + 1);
}

void sp_trace_begin(sp_trace *trace, const char *traceparent, const char *tracestate, double rate, const uint8_t random[24])
{
    *trace = (sp_trace){ 0 };
    if (traceparent && read_parent(traceparent, trace)) {
        trace->flags &= SP_TRACE_SAMPLED;
        take_state(trace, tracestate);
    } else {
        uint64_t draw = 0;
        *trace = (sp_trace){ 0 };
        memcpy(trace->trace_id, random, 16);
        trace->trace_id[15] |= (uint8_t)is_zero(trace->trace_id, 16);
        /* By the id itself, so that whoever else samples at the same rate takes the same traces. */
        for (int i = 9; i < 16; i++)
            draw = draw << 8 | trace->trace_id[i];
        if ((double)draw < rate * 0x1p56)
            trace->flags = SP_TRACE_SAMPLED;
    }
    memcpy(trace->span_id, random + 16, 8);
    trace->span_id[7] |= (uint8_t)is_zero(trace->span_id, 8);
}

/* splitmix64's finisher: every bit of the number reaches every bit of the id. */
void sp_trace_child(const sp_trace *trace, uint64_t number, uint8_t ret_span_id[8])
{
    uint64_t x;
    memcpy(&x, trace->span_id, 8);
    x += number * UINT64_C(0x9e3779b97f4a7c15) + 1;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    x += !x;
    memcpy(ret_span_id, &x, 8);
}

void sp_trace_hex(const uint8_t *bytes, size_t n, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * n] = 0;
}

void sp_trace_write(const uint8_t trace_id[16], const uint8_t span_id[8], uint8_t flags, char ret_text[SP_TRACEPARENT_BYTES])
{
    char trace[33], span[17];
    sp_trace_hex(trace_id, 16, trace);
    sp_trace_hex(span_id, 8, span);
    (void)snprintf(ret_text, SP_TRACEPARENT_BYTES, "00-%s-%s-%02x", trace, span, flags);
}
