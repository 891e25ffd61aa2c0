/* SPDX-License-Identifier: Apache-2.0
 * KServe requests that are compressed or JSON become their binary form: what comes out, what is refused, bombs. */
#include "kserve/json.h"
#include "test.h"
#include "worker/unpack.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static uint8_t *output;
static size_t output_bytes, grow_fails_at;
static sp_error err;
static sp_buf header;
static uint64_t tensor_bytes;

static uint8_t *grow(void *context, size_t size_bytes, sp_error *reterr)
{
    (void)context;
    if (grow_fails_at && size_bytes >= grow_fails_at) {
        (void)SP_FAIL(reterr, SP_NOMEM, "no room");
        return NULL;
    }
    if (size_bytes > output_bytes) {
        output = realloc(output, size_bytes); /* moves, as the real one may */
        memset(output + output_bytes, 0xee, size_bytes - output_bytes);
        output_bytes = size_bytes;
    }
    return output;
}

static void clear(void)
{
    free(output);
    output = NULL;
    output_bytes = 0;
    tensor_bytes = 0;
    sp_buf_done(&header);
}

static sp_status unpack(const void *body, size_t bytes, sp_encoding encoding, uint32_t header_bytes)
{
    clear();
    memset(&err, 0, sizeof(err));
    sp_buf_init(&header, SP_LIMIT_KSERVE_HEADER_BYTES);
    uint8_t *exact = malloc(bytes + !bytes);
    memcpy(exact, body, bytes);
    sp_status s = sp_unpack(sp_view_make(exact, bytes), encoding, header_bytes, grow, NULL, &header, &tensor_bytes, &err);
    free(exact);
    return s;
}

static size_t squeeze(const void *src, size_t bytes, int bits, uint8_t *dst, size_t capacity)
{
    z_stream z = { .next_in = (Bytef *)(uintptr_t)src, .avail_in = (uInt)bytes, .next_out = dst, .avail_out = (uInt)capacity };
    REQUIRE(deflateInit2(&z, 6, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    REQUIRE(deflate(&z, Z_FINISH) == Z_STREAM_END);
    (void)deflateEnd(&z);
    return capacity - z.avail_out;
}

static const char mixed_header[] =
    "{\"inputs\":[{\"name\":\"s\",\"shape\":[2],\"datatype\":\"BYTES\",\"data\":[\"abc\",\"\\u00e9\"]},"
    "{\"name\":\"b\",\"shape\":[3],\"datatype\":\"UINT8\",\"parameters\":{\"binary_data_size\":3}},"
    "{\"name\":\"i\",\"shape\":[2],\"datatype\":\"INT16\",\"data\":[1,-1]},"
    "{\"name\":\"c\",\"shape\":[1],\"datatype\":\"UINT8\",\"parameters\":{\"binary_data_size\":1}}]}";
static const char mixed_tensors[] = "\x03\0\0\0abc\x02\0\0\0\xc3\xa9xyz\x01\0\xff\xff" "w";

static size_t mixed_body(char *body)
{
    size_t n = sizeof(mixed_header) - 1;
    memcpy(body, mixed_header, n);
    memcpy(body + n, "xyzw", 4);
    return n + 4;
}

static void check_mixed(void)
{
    static sp_kserve_request request;
    CHECK_INT(tensor_bytes, sizeof(mixed_tensors) - 1);
    CHECK_BYTES(output, mixed_tensors, sizeof(mixed_tensors) - 1);
    REQUIRE(!sp_kserve_request_parse(sp_buf_view(&header), tensor_bytes, NULL, &request, &err));
    CHECK_INT(request.input_count, 4);
    CHECK_INT(request.inputs[1].offset, 13);
    CHECK_INT(request.inputs[2].offset, 16);
    CHECK_INT(request.inputs[3].offset, 20);
}

TEST(json_and_binary_tensors_lie_in_order)
{
    char body[1024];
    size_t n = mixed_body(body);
    REQUIRE(!unpack(body, n, SP_ENCODING_NONE, sizeof(mixed_header) - 1));
    check_mixed();
    clear();
}

TEST(every_encoding_is_undone)
{
    static const struct {
        int bits;
        sp_encoding encoding;
    } ways[] = { { 15 + 16, SP_ENCODING_GZIP }, { 15, SP_ENCODING_DEFLATE }, { -15, SP_ENCODING_DEFLATE } };
    for (size_t i = 0; i < SP_ARRAY_LEN(ways); i++) {
        char body[1024];
        uint8_t small[2048];
        size_t n = squeeze(body, mixed_body(body), ways[i].bits, small, sizeof(small));
        REQUIRE(!unpack(small, n, ways[i].encoding, sizeof(mixed_header) - 1));
        check_mixed();
        for (size_t cut = 0; cut < n; cut++)
            CHECK_INT(unpack(small, cut, ways[i].encoding, sizeof(mixed_header) - 1), SP_INVALID);
        small[n] = 0;
        CHECK_INT(unpack(small, n + 1, ways[i].encoding, sizeof(mixed_header) - 1), SP_INVALID); /* something behind it */
    }
    clear();
}

TEST(what_cannot_be_is_refused)
{
    char body[1024];
    size_t n = mixed_body(body);
    CHECK_INT(unpack(body, n, SP_ENCODING_NONE, (uint32_t)n + 1), SP_INVALID);
    CHECK(strstr(err.message, "Inference-Header-Content-Length"));
    CHECK_INT(unpack(body, n, SP_ENCODING_NONE, 0), SP_INVALID);
    CHECK_INT(unpack(body, n, (sp_encoding)7, 0), SP_INVALID);
    CHECK_INT(unpack(body, n, SP_ENCODING_GZIP, 0), SP_INVALID);
    CHECK_INT(unpack("", 0, SP_ENCODING_NONE, 0), SP_INVALID);
    grow_fails_at = 16;
    CHECK_INT(unpack(body, n, SP_ENCODING_NONE, sizeof(mixed_header) - 1), SP_NOMEM);
    grow_fails_at = 0;
    clear();
}

/* 65 MiB of blanks in 64 KiB: stopped at the limit. */
TEST(a_bomb_is_too_large)
{
    size_t large = SP_LIMIT_INFER_BODY_BYTES + 1024 * 1024, capacity = 1024 * 1024;
    uint8_t *blanks = malloc(large), *bomb = malloc(capacity);
    REQUIRE(blanks && bomb);
    memset(blanks, ' ', large);
    size_t n = squeeze(blanks, large, 15 + 16, bomb, capacity);
    CHECK_INT(unpack(bomb, n, SP_ENCODING_GZIP, 0), SP_TOO_LARGE);
    free(blanks);
    free(bomb);
    clear();
}

/* A request of one picture as numbers, which is what this exists for. */
TEST(a_large_array_comes_out_whole)
{
    enum { COUNT = 3 * 224 * 224 };
    sp_buf text;
    sp_buf_init(&text, 16 * 1024 * 1024);
    sp_buf_printf(&text, "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,3,224,224],\"data\":[");
    float *expected = malloc(COUNT * sizeof(*expected));
    for (int i = 0; i < COUNT; i++) {
        expected[i] = (float)((double)test_random() / 1e18) - 9;
        sp_buf_printf(&text, "%s%.17g", i ? ", " : "", (double)expected[i]);
    }
    sp_buf_printf(&text, "]}]}");
    REQUIRE(sp_buf_ok(&text));
    REQUIRE(!unpack(text.data, text.size_bytes, SP_ENCODING_NONE, 0));
    CHECK_INT(tensor_bytes, COUNT * sizeof(*expected));
    CHECK_BYTES(output, expected, COUNT * sizeof(*expected));
    free(expected);
    sp_buf_done(&text);
    clear();
}
