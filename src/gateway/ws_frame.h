/* SPDX-License-Identifier: Apache-2.0
 * WebSocket frames (RFC 6455): bytes from a client into messages, messages into bytes for it. Pure functions of their
 * arguments, no socket; the fuzz target and the unit tests link this file alone. No extensions: RSV bits are an error. */
#ifndef SP_GATEWAY_WS_FRAME_H
#define SP_GATEWAY_WS_FRAME_H

#include "base/buf.h"

typedef enum gw_ws_opcode {
    GW_WS_CONTINUATION = 0,
    GW_WS_TEXT = 1,
    GW_WS_BINARY = 2,
    GW_WS_CLOSE = 8,
    GW_WS_PING = 9,
    GW_WS_PONG = 10
} gw_ws_opcode;

/* Why a connection ends (section 7.4.1). */
enum {
    GW_WS_NORMAL = 1000,
    GW_WS_GOING_AWAY = 1001,
    GW_WS_PROTOCOL = 1002,
    GW_WS_BAD_TEXT = 1007,
    GW_WS_TOO_BIG = 1009,
    GW_WS_INTERNAL = 1011
};

typedef struct gw_ws_reader {
    sp_buf message;               /* of fragments so far; its ceiling is the size limit */
    gw_ws_opcode message_opcode;  /* 0 = between messages */
    /* The frame in hand: */
    uint8_t header[14];
    size_t header_bytes;          /* there so far; 0 = between frames */
    bool in_payload;
    gw_ws_opcode opcode;
    bool fin;
    uint64_t left_bytes;          /* of its payload */
    uint8_t mask[4];
    size_t mask_at;
    uint8_t control[125];
    size_t control_bytes;
} gw_ws_reader;

/* Text messages are whole and valid UTF-8; a close has no payload or a valid code and valid UTF-8. */
typedef void gw_ws_take_fn(void *context, gw_ws_opcode opcode, sp_view payload);

void gw_ws_reader_init(gw_ws_reader *reader, size_t message_limit_bytes);
void gw_ws_reader_done(gw_ws_reader *reader);

/* Calls `take` for each message and control frame that is complete. Returns 0, or the code that the connection must be
 * closed with; then the reader is not used again. Nothing is taken after a close frame. */
int gw_ws_read(gw_ws_reader *reader, const void *data, size_t size_bytes, gw_ws_take_fn *take, void *context);

/* One unfragmented, unmasked frame, as servers send them. */
void gw_ws_write(sp_buf *out, gw_ws_opcode opcode, sp_view payload);
void gw_ws_write_close(sp_buf *out, int code, const char *reason);

bool gw_ws_key_good(const char *key); /* a Sec-WebSocket-Key: 16 bytes in base64 */
/* The Sec-WebSocket-Accept of a good key. False: no memory. */
bool gw_ws_accept(const char *key, char ret_accept[29]);

bool gw_utf8_valid(sp_view text);

#endif
