/* SPDX-License-Identifier: Apache-2.0
 * WebSocket frames: the first byte says how the rest is cut. What is taken must keep its promises whatever comes, and the
 * same bytes cut in another way must be read the same. */
#include "gateway/ws_frame.h"

#include <stdlib.h>

typedef struct sum {
    uint64_t hash;
    int count;
} sum;

static void take(void *context, gw_ws_opcode opcode, sp_view payload)
{
    sum *s = context;
    if (opcode == GW_WS_TEXT && !gw_utf8_valid(payload))
        abort();
    if (opcode >= GW_WS_CLOSE && payload.size_bytes > 125)
        abort();
    s->hash = s->hash * 31 + opcode;
    for (size_t i = 0; i < payload.size_bytes; i++)
        s->hash = s->hash * 1099511628211u + payload.data[i];
    s->count++;
}

static int run(const uint8_t *data, size_t size_bytes, size_t step, sum *ret_sum)
{
    gw_ws_reader reader;
    int code = 0;
    *ret_sum = (sum){ 0 };
    gw_ws_reader_init(&reader, 4096);
    for (size_t at = 0; at < size_bytes && !code; at += step) {
        size_t n = SP_MIN(step, size_bytes - at);
        bool closes = false;
        code = gw_ws_read(&reader, data + at, n, take, ret_sum);
        closes = reader.opcode == GW_WS_CLOSE && !reader.in_payload && !reader.header_bytes;
        if (closes)
            break;
    }
    gw_ws_reader_done(&reader);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    sum whole, cut;
    if (size_bytes < 2)
        return 0;
    int a = run(data + 1, size_bytes - 1, size_bytes, &whole);
    int b = run(data + 1, size_bytes - 1, 1 + data[0] % 16, &cut);
    if (a != b || whole.hash != cut.hash || whole.count != cut.count)
        abort();
    return 0;
}
