/* SPDX-License-Identifier: Apache-2.0
 * gateway/ws_frame: RFC 6455 frames, whole and cut anywhere; everything that section 5 forbids. */
#include "gateway/ws_frame.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

#define FIN 0x80

typedef struct taken {
    int count;
    gw_ws_opcode opcode[32];
    size_t size_bytes[32];
    uint8_t last[70000];
} taken;

static void take(void *context, gw_ws_opcode opcode, sp_view payload)
{
    taken *t = context;
    if (t->count < 32) {
        t->opcode[t->count] = opcode;
        t->size_bytes[t->count] = payload.size_bytes;
    }
    t->count++;
    if (payload.size_bytes && payload.size_bytes <= sizeof(t->last))
        memcpy(t->last, payload.data, payload.size_bytes);
}

/* A masked frame behind what is in `out`; `first` holds FIN, RSV and the opcode. */
static void frame(sp_buf *out, uint8_t first, const void *payload, size_t size_bytes)
{
    uint8_t mask[4], byte, header[10] = { first };
    size_t n = 2;
    if (size_bytes < 126) {
        header[1] = (uint8_t)(0x80 | size_bytes);
    } else {
        int bytes = size_bytes < 65536 ? 2 : 8;
        header[1] = bytes == 2 ? 0x80 | 126 : 0x80 | 127;
        for (int i = bytes - 1; i >= 0; i--)
            header[n++] = (uint8_t)((uint64_t)size_bytes >> (8 * i));
    }
    sp_buf_append(out, header, n);
    for (int i = 0; i < 4; i++)
        mask[i] = (uint8_t)test_random();
    sp_buf_append(out, mask, 4);
    for (size_t i = 0; i < size_bytes; i++) {
        byte = ((const uint8_t *)payload)[i] ^ mask[i % 4];
        sp_buf_append(out, &byte, 1);
    }
}

/* Reads `bytes` in pieces of `step` (0 = at once); the code, and what was taken. */
static int read_all(sp_view bytes, size_t step, size_t limit_bytes, taken *ret_taken)
{
    gw_ws_reader reader;
    int code = 0;
    *ret_taken = (taken){ 0 };
    gw_ws_reader_init(&reader, limit_bytes);
    for (size_t at = 0; at < bytes.size_bytes && !code;) {
        size_t n = step ? SP_MIN(step, bytes.size_bytes - at) : bytes.size_bytes;
        /* On the heap by itself, so that a sanitizer sees a byte too far. */
        uint8_t *copy = malloc(n);
        REQUIRE(copy);
        memcpy(copy, bytes.data + at, n);
        code = gw_ws_read(&reader, copy, n, take, ret_taken);
        free(copy);
        at += n;
    }
    gw_ws_reader_done(&reader);
    return code;
}

static sp_buf made;
static taken got;

static void begin(void)
{
    sp_buf_done(&made);
    sp_buf_init(&made, 1 << 20);
}

TEST(ws_the_examples_of_the_rfc)
{
    static const uint8_t hello[] = { 0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58 };
    char accept[29];
    CHECK_INT(read_all(sp_view_make(hello, sizeof(hello)), 1, 100, &got), 0);
    CHECK_INT(got.count, 1);
    CHECK_BYTES(got.last, "Hello", 5);
    REQUIRE(gw_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", accept));
    CHECK_TEXT(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    begin();
    gw_ws_write(&made, GW_WS_TEXT, sp_view_of("Hello"));
    CHECK_BYTES(made.data, "\x81\x05Hello", 7);
}

TEST(ws_keys_are_sixteen_bytes_in_base64)
{
    CHECK(gw_ws_key_good("dGhlIHNhbXBsZSBub25jZQ=="));
    CHECK(!gw_ws_key_good(""));
    CHECK(!gw_ws_key_good("dGhlIHNhbXBsZSBub25jZQ="));
    CHECK(!gw_ws_key_good("dGhlIHNhbXBsZSBub25jZQ==="));
    CHECK(!gw_ws_key_good("dGhlIHNhbXBsZSBub25jZQAA"));
    CHECK(!gw_ws_key_good("dGhl!HNhbXBsZSBub25jZQ=="));
}

TEST(ws_lengths_of_every_form_cut_anywhere)
{
    static const size_t sizes[] = { 0, 1, 125, 126, 127, 65535, 65536, 66000 };
    static uint8_t payload[66000];
    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)test_random();
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        static const size_t steps[] = { 0, 1, 2, 3, 7, 4096 };
        begin();
        frame(&made, FIN | GW_WS_BINARY, payload, sizes[i]);
        for (size_t k = 0; k < SP_ARRAY_LEN(steps); k++) {
            CHECK_INT(read_all(sp_buf_view(&made), steps[k], 66000, &got), 0);
            CHECK_INT(got.count, 1);
            CHECK_INT(got.size_bytes[0], sizes[i]);
            CHECK_BYTES(got.last, payload, sizes[i]);
        }
    }
}

TEST(ws_fragments_with_control_frames_between)
{
    begin();
    frame(&made, GW_WS_TEXT, "one ", 4);
    frame(&made, FIN | GW_WS_PING, "ping", 4);
    frame(&made, GW_WS_CONTINUATION, "two ", 4);
    frame(&made, FIN | GW_WS_PONG, "", 0);
    frame(&made, FIN | GW_WS_CONTINUATION, "three", 5);
    frame(&made, FIN | GW_WS_BINARY, "next", 4);
    for (size_t step = 0; step < 9; step++) {
        CHECK_INT(read_all(sp_buf_view(&made), step, 13, &got), 0);
        REQUIRE(got.count == 4);
        CHECK_INT(got.opcode[0], GW_WS_PING);
        CHECK_INT(got.opcode[1], GW_WS_PONG);
        CHECK_INT(got.opcode[2], GW_WS_TEXT);
        CHECK_INT(got.size_bytes[2], 13);
        CHECK_INT(got.opcode[3], GW_WS_BINARY);
    }
}

TEST(ws_utf8_may_be_cut_between_fragments_but_must_be_whole)
{
    begin();
    frame(&made, GW_WS_TEXT, "\xe2\x82", 2);
    frame(&made, FIN | GW_WS_CONTINUATION, "\xac", 1);
    CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), 0);
    CHECK_INT(got.count, 1);
    begin();
    frame(&made, FIN | GW_WS_TEXT, "\xe2\x82", 2);
    CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), GW_WS_BAD_TEXT);
    begin();
    frame(&made, FIN | GW_WS_BINARY, "\xe2\x82", 2);
    CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), 0);
}

/* One frame made by hand: first byte, second byte, then 200 bytes of nothing. */
static int by_hand(uint8_t first, uint8_t second)
{
    uint8_t bytes[202] = { first, second };
    return read_all(sp_view_make(bytes, sizeof(bytes)), 0, 100, &got);
}

TEST(ws_what_section_5_forbids_is_a_protocol_error)
{
    CHECK_INT(by_hand(FIN | GW_WS_TEXT, 5), GW_WS_PROTOCOL);               /* not masked */
    for (int rsv = 0x10; rsv <= 0x40; rsv <<= 1)
        CHECK_INT(by_hand((uint8_t)(FIN | rsv | GW_WS_TEXT), 0x80), GW_WS_PROTOCOL);
    for (int opcode = 3; opcode < 16; opcode++) {
        if (opcode < 8 || opcode > 10)
            CHECK_INT(by_hand((uint8_t)(FIN | opcode), 0x80), GW_WS_PROTOCOL);
    }
    CHECK_INT(by_hand(GW_WS_PING, 0x80), GW_WS_PROTOCOL);                  /* control frames come whole ... */
    CHECK_INT(by_hand(FIN | GW_WS_PING, 0x80 | 126), GW_WS_PROTOCOL);      /* ... and short */
    CHECK_INT(by_hand(FIN | GW_WS_CONTINUATION, 0x80), GW_WS_PROTOCOL);    /* of nothing */
    begin();
    frame(&made, GW_WS_TEXT, "a", 1);
    frame(&made, FIN | GW_WS_TEXT, "b", 1); /* inside another message */
    CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), GW_WS_PROTOCOL);
    static const uint8_t long_form[] = { 0x82, 0xfe, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5 };
    CHECK_INT(read_all(sp_view_make(long_form, sizeof(long_form)), 0, 100, &got), GW_WS_PROTOCOL);
    static const uint8_t negative[] = { 0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0 };
    CHECK_INT(read_all(sp_view_make(negative, sizeof(negative)), 0, 100, &got), GW_WS_PROTOCOL);
}

TEST(ws_messages_are_bounded_before_they_are_read)
{
    static const uint8_t huge[] = { 0x82, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0 };
    static uint8_t payload[101];
    CHECK_INT(read_all(sp_view_make(huge, sizeof(huge)), 0, 100, &got), GW_WS_TOO_BIG);
    begin();
    frame(&made, FIN | GW_WS_BINARY, payload, 100);
    CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), 0);
    begin();
    frame(&made, GW_WS_BINARY, payload, 60);
    frame(&made, FIN | GW_WS_CONTINUATION, payload, 41);
    CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), GW_WS_TOO_BIG);
}

TEST(ws_close_frames_have_a_good_code_or_none)
{
    static const struct {
        const char *payload;
        size_t size_bytes;
        int code;
    } cases[] = {
        { "", 0, 0 },                       { "\x03\xe8", 2, 0 },                { "\x03\xe8 bye", 6, 0 },
        { "\x0f\xa0", 2, 0 },               { "\x13\x87", 2, 0 },                { "\x03", 1, GW_WS_PROTOCOL },
        { "\x03\xec", 2, GW_WS_PROTOCOL },  { "\x03\xed", 2, GW_WS_PROTOCOL },   { "\x03\xee", 2, GW_WS_PROTOCOL },
        { "\x03\xf7", 2, GW_WS_PROTOCOL },  { "\x00\x01", 2, GW_WS_PROTOCOL },   { "\x13\x88", 2, GW_WS_PROTOCOL },
        { "\x03\xe8\xff", 3, GW_WS_BAD_TEXT },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        begin();
        frame(&made, FIN | GW_WS_CLOSE, cases[i].payload, cases[i].size_bytes);
        frame(&made, FIN | GW_WS_TEXT, "after", 5); /* nothing is taken behind a close */
        CHECK_INT(read_all(sp_buf_view(&made), 0, 100, &got), cases[i].code);
        CHECK_INT(got.count, cases[i].code ? 0 : 1);
    }
}

TEST(ws_utf8_as_rfc_3629_has_it)
{
    static const char *const good[] = { "", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                                        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf" };
    static const char *const bad[] = { "\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xe2\x82", "\xed\xa0\x80",
                                       "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
                                       "\xc2" "a", "\xf0\x90\x80" };
    for (size_t i = 0; i < SP_ARRAY_LEN(good); i++)
        CHECK(gw_utf8_valid(sp_view_of(good[i])));
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++)
        CHECK(!gw_utf8_valid(sp_view_of(bad[i])));
}

TEST(ws_what_is_written_has_the_shortest_length)
{
    static uint8_t payload[65536];
    static const struct {
        size_t size_bytes, header_bytes;
        uint8_t second;
    } cases[] = { { 0, 2, 0 }, { 125, 2, 125 }, { 126, 4, 126 }, { 65535, 4, 126 }, { 65536, 10, 127 } };
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        begin();
        gw_ws_write(&made, GW_WS_BINARY, sp_view_make(payload, cases[i].size_bytes));
        CHECK_INT(made.size_bytes, cases[i].header_bytes + cases[i].size_bytes);
        CHECK_INT(made.data[0], 0x82);
        CHECK_INT(made.data[1], cases[i].second);
    }
    begin();
    gw_ws_write_close(&made, GW_WS_TOO_BIG, "x");
    CHECK_BYTES(made.data, "\x88\x03\x03\xf1x", 5);
}

TEST(ws_random_bytes_never_run_past_anything)
{
    for (int round = 0; round < 2000; round++) {
        uint8_t bytes[64];
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)test_random();
        if (round % 2)
            bytes[0] = FIN | (bytes[0] & 0x0b), bytes[1] |= 0x80;
        (void)read_all(sp_view_make(bytes, sizeof(bytes)), (size_t)test_random_between(0, 9), 50, &got);
    }
}
