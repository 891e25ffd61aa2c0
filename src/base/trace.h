/* SPDX-License-Identifier: Apache-2.0
 * W3C Trace Context (level 1): who asked for a request, and under which ids what is done for it is told. Pure.
 *
 *   traceparent: 00-<32 hex: trace>-<16 hex: the caller's span>-<2 hex: flags>
 *
 * Each hop has a span of its own: what it sends on names that span as the parent, never the one it was given. */
#ifndef SP_BASE_TRACE_H
#define SP_BASE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_TRACE_SAMPLED 1u
#define SP_TRACEPARENT_BYTES 56 /* with its NUL */
/* What is passed on of somebody else's state: the specification asks for at least this much; longer ones are dropped. */
#define SP_TRACESTATE_BYTES 513

typedef struct sp_trace {
    uint8_t trace_id[16]; /* all zero = there is no trace */
    uint8_t span_id[8];   /* of this hop's own request */
    uint8_t parent_id[8]; /* all zero = it begins here */
    uint8_t flags;        /* SP_TRACE_SAMPLED */
    char state[SP_TRACESTATE_BYTES]; /* passed on as it came; "" = none */
} sp_trace;

/* Begins this hop's part of a trace. `traceparent`, `tracestate`: the headers' values, or gRPC's metadata of these names; NULL
 * = not there. A traceparent that is none is as if it were not there, and its state goes with it. With one its flag says
 * whether the trace is sampled; else `rate` (0 .. 1) of the traces that begin here are. `random`: 24 bytes of it. */
void sp_trace_begin(sp_trace *ret_trace, const char *traceparent, const char *tracestate, double rate,
                    const uint8_t random[24]);

static inline bool sp_trace_exists(const sp_trace *trace)
{
    for (int i = 0; i < 16; i++)
        if (trace->trace_id[i])
            return true;
    return false;
}

/* The span of one piece of the request: the same number gives the same id, so that two processes which know the number agree. */
void sp_trace_child(const sp_trace *trace, uint64_t number, uint8_t ret_span_id[8]);

/* The header that makes `span_id` the parent of what it is sent to. */
void sp_trace_write(const uint8_t trace_id[16], const uint8_t span_id[8], uint8_t flags, char ret_text[SP_TRACEPARENT_BYTES]);

/* Lower-case hexadecimal; `text` gets 2 * n characters and a NUL. */
void sp_trace_hex(const uint8_t *bytes, size_t n, char *text);

#endif
