/* SPDX-License-Identifier: Apache-2.0
 * The frame reader is a small state machine over bytes as they come: header (2 to 14 bytes), payload, next header. */
#include "gateway/ws_frame.h"

#include <openssl/evp.h>
#include <stdio.h>

#define FIN    0x80u
#define RSV    0x70u
#define OPCODE 0x0fu
#define MASKED 0x80u
#define LENGTH 0x7fu

void gw_ws_reader_init(gw_ws_reader *reader, size_t message_limit_bytes)
{
    *reader = (gw_ws_reader){ 0 };
    sp_buf_init(&reader->message, message_limit_bytes);
}

void gw_ws_reader_done(gw_ws_reader *reader)
{
    sp_buf_done(&reader->message);
}

/* Shortest forms only, no surrogates, nothing past U+10FFFF (RFC 3629). */
bool gw_utf8_valid(sp_view text)
{
    const uint8_t *p = text.data, *end = p + text.size_bytes;
    while (p < end) {
        uint8_t c = *p++;
        int more;
        uint32_t code, least;
        if (c < 0x80)
            continue;
        if (c >= 0xc2 && c <= 0xdf)
            more = 1, code = c & 0x1fu, least = 0x80;
        else if ((c & 0xf0) == 0xe0)
            more = 2, code = c & 0x0fu, least = 0x800;
        else if (c >= 0xf0 && c <= 0xf4)
            more = 3, code = c & 0x07u, least = 0x10000;
        else
            return false;
        if (end - p < more)
            return false;
        for (; more; more--, p++) {
            if ((*p & 0xc0) != 0x80)
                return false;
            code = code << 6 | (*p & 0x3fu);
        }
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
    }
    return true;
}

static bool is_control(gw_ws_opcode opcode)
{
    return opcode >= GW_WS_CLOSE;
}

/* Codes that may stand in a close frame (section 7.4.2). */
static bool close_code_good(unsigned code)
{
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) || (code >= 3000 && code <= 4999);
}

static size_t header_need(const gw_ws_reader *r)
{
    size_t need = 2;
    if (r->header_bytes >= 2) {
        unsigned length = r->header[1] & LENGTH;
        need += (r->header[1] & MASKED ? 4u : 0u) + (length == 127 ? 8u : length == 126 ? 2u : 0u);
    }
    return need;
}

/* What the first two bytes already tell, so that a wrong frame is refused before its length is waited for. */
static int header_check(const gw_ws_reader *r)
{
    gw_ws_opcode opcode = (gw_ws_opcode)(r->header[0] & OPCODE);
    bool fin = r->header[0] & FIN;
    unsigned length = r->header[1] & LENGTH;
    if (r->header[0] & RSV || !(r->header[1] & MASKED))
        return GW_WS_PROTOCOL;
    if (opcode > GW_WS_PONG || (opcode > GW_WS_BINARY && opcode < GW_WS_CLOSE))
        return GW_WS_PROTOCOL;
    if (is_control(opcode))
        return fin && length <= 125 ? 0 : GW_WS_PROTOCOL;
    /* A continuation needs a beginning, and a beginning an end of the one before. */
    return (opcode == GW_WS_CONTINUATION) == (r->message_opcode != 0) ? 0 : GW_WS_PROTOCOL;
}

static int header_end(gw_ws_reader *r)
{
    const uint8_t *p = r->header + 2;
    uint64_t length = r->header[1] & LENGTH;
    if (length >= 126) {
        int n = length == 126 ? 2 : 8;
        uint64_t least = length == 126 ? 126 : 65536;
        for (length = 0; n; n--)
            length = length << 8 | *p++;
        if (length < least || length >> 63) /* not the shortest form */
            return GW_WS_PROTOCOL;
    }
    memcpy(r->mask, p, sizeof(r->mask));
    r->mask_at = 0;
    r->opcode = (gw_ws_opcode)(r->header[0] & OPCODE);
    r->fin = r->header[0] & FIN;
    r->left_bytes = length;
    r->control_bytes = 0;
    r->in_payload = true;
    if (is_control(r->opcode))
        return 0;
    if (r->opcode != GW_WS_CONTINUATION)
        r->message_opcode = r->opcode;
    return length > r->message.limit_bytes - r->message.size_bytes ? GW_WS_TOO_BIG : 0;
}

static int payload_take(gw_ws_reader *r, const uint8_t *data, size_t size_bytes)
{
    uint8_t plain[512];
    while (size_bytes) {
        size_t n = SP_MIN(size_bytes, sizeof(plain));
        for (size_t i = 0; i < n; i++)
            plain[i] = data[i] ^ r->mask[r->mask_at++ & 3];
        if (is_control(r->opcode)) {
            memcpy(r->control + r->control_bytes, plain, n);
            r->control_bytes += n;
        } else {
            sp_buf_append(&r->message, plain, n);
        }
        data += n;
        size_bytes -= n;
    }
    return sp_buf_ok(&r->message) ? 0 : GW_WS_INTERNAL;
}

static int control_end(gw_ws_reader *r, gw_ws_take_fn *take, void *context)
{
    sp_view payload = sp_view_make(r->control, r->control_bytes);
    if (r->opcode == GW_WS_CLOSE && payload.size_bytes) {
        if (payload.size_bytes == 1 || !close_code_good((unsigned)r->control[0] << 8 | r->control[1]))
            return GW_WS_PROTOCOL;
        if (!gw_utf8_valid(sp_view_make(r->control + 2, r->control_bytes - 2)))
            return GW_WS_BAD_TEXT;
    }
    take(context, r->opcode, payload);
    return 0;
}

/* The payload of one frame is whole. */
static int frame_end(gw_ws_reader *r, gw_ws_take_fn *take, void *context)
{
    r->header_bytes = 0;
    r->in_payload = false;
    if (is_control(r->opcode))
        return control_end(r, take, context);
    if (!r->fin)
        return 0;
    if (r->message_opcode == GW_WS_TEXT && !gw_utf8_valid(sp_buf_view(&r->message)))
        return GW_WS_BAD_TEXT;
    take(context, r->message_opcode, sp_buf_view(&r->message));
    r->message_opcode = GW_WS_CONTINUATION;
    sp_buf_clear(&r->message);
    return 0;
}

int gw_ws_read(gw_ws_reader *r, const void *data, size_t size_bytes, gw_ws_take_fn *take, void *context)
{
    const uint8_t *p = data, *end = p + size_bytes;
    int code = 0;
    for (;;) {
        if (!r->in_payload) {
            while (p < end && r->header_bytes < header_need(r)) {
                r->header[r->header_bytes++] = *p++;
                if (r->header_bytes == 2 && (code = header_check(r)))
                    return code;
            }
            if (r->header_bytes < 2 || r->header_bytes < header_need(r))
                return 0;
            if ((code = header_end(r)))
                return code;
        }
        size_t n = (size_t)SP_MIN((uint64_t)(end - p), r->left_bytes);
        if ((code = payload_take(r, p, n)))
            return code;
        p += n;
        r->left_bytes -= n;
        if (r->left_bytes)
            return 0;
        bool closes = r->opcode == GW_WS_CLOSE;
        if ((code = frame_end(r, take, context)) || closes)
            return code;
    }
}

void gw_ws_write(sp_buf *out, gw_ws_opcode opcode, sp_view payload)
{
    uint8_t header[10] = { (uint8_t)(FIN | opcode) };
    size_t n = 2;
    if (payload.size_bytes < 126) {
        header[1] = (uint8_t)payload.size_bytes;
    } else {
        int bytes = payload.size_bytes < 65536 ? 2 : 8;
        header[1] = bytes == 2 ? 126 : 127;
        for (int i = bytes - 1; i >= 0; i--)
            header[n++] = (uint8_t)((uint64_t)payload.size_bytes >> (8 * i));
    }
    sp_buf_append(out, header, n);
    sp_buf_append(out, payload.data, payload.size_bytes);
}

void gw_ws_write_close(sp_buf *out, int code, const char *reason)
{
    uint8_t payload[125] = { (uint8_t)(code >> 8), (uint8_t)code };
    size_t n = SP_MIN(strlen(reason), sizeof(payload) - 2);
    memcpy(payload + 2, reason, n);
    gw_ws_write(out, GW_WS_CLOSE, sp_view_make(payload, 2 + n));
}

bool gw_ws_key_good(const char *key)
{
    uint8_t decoded[24];
    return strlen(key) == 24 && strcmp(key + 22, "==") == 0 && EVP_DecodeBlock(decoded, (const uint8_t *)key, 24) >= 0;
}

bool gw_ws_accept(const char *key, char ret_accept[29])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* section 1.3 */
    uint8_t digest[EVP_MAX_MD_SIZE];
    char text[24 + sizeof(guid)];
    unsigned digest_bytes = 0;
    (void)snprintf(text, sizeof(text), "%s%s", key, guid);
    if (EVP_Digest(text, strlen(text), digest, &digest_bytes, EVP_sha1(), NULL) != 1)
        return false;
    (void)EVP_EncodeBlock((uint8_t *)ret_accept, digest, (int)digest_bytes);
    return true;
}
