/* SPDX-License-Identifier: Apache-2.0
 * Inference requests as JSON: what is read, what is refused and how it is said; tensors and numbers both ways. */
#include "kserve/json.h"
#include "kserve/text.h"
#include "model/config.h"
#include "test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(8) uint8_t pool[1 << 20];
static size_t pool_bytes;

static void *room(void *context, size_t bytes, sp_error *reterr)
{
    (void)context;
    if (bytes > sizeof(pool) - pool_bytes) {
        (void)SP_FAIL(reterr, SP_TOO_LARGE, "%zu bytes do not fit", bytes);
        return NULL;
    }
    return pool + pool_bytes;
}

static uint64_t used(void *context, const void *at, size_t bytes)
{
    (void)context;
    uint64_t offset = (uint64_t)((const uint8_t *)at - pool);
    pool_bytes = (size_t)SP_ALIGN_UP(offset + bytes, (uint64_t)8);
    return offset;
}

static bool read_f32(const char *text, size_t bytes, float *ret_value)
{
    sp_text at = { (const uint8_t *)text, (const uint8_t *)text, (const uint8_t *)text + bytes };
    return sp_text_take_f32(&at, ret_value) && at.at == at.end;
}

static bool read_f64(const char *text, size_t bytes, double *ret_value)
{
    sp_text at = { (const uint8_t *)text, (const uint8_t *)text, (const uint8_t *)text + bytes };
    return sp_text_take_f64(&at, ret_value) && at.at == at.end;
}

static const sp_kserve_sink sink = { .room = room, .used = used };
static sp_kserve_request request;
static sp_error err;

static sp_status parse(const char *text, uint64_t binary_bytes)
{
    pool_bytes = 0;
    memset(&err, 0, sizeof(err));
    memset(&request, 0xa5, sizeof(request)); /* nothing may be left over from before */
    char *exact = malloc(strlen(text) + 1);  /* so that a sanitizer sees a byte read too many */
    memcpy(exact, text, strlen(text));
    sp_status s = sp_kserve_request_parse(sp_view_make(exact, strlen(text)), binary_bytes, &sink, &request, &err);
    free(exact);
    return s;
}

TEST(a_request_with_everything)
{
    REQUIRE(!parse("{\"id\":\"a\\u00e9\\ud83d\\ude00\",\"parameters\":{\"sequence_id\":18446744073709551615,"
                   "\"sequence_start\":true,\"sequence_end\":false,\"priority\":2,\"timeout\":500,\"binary_data_output\":true,"
                   "\"mine\":{\"a\":[1,{}]}},\"inputs\":[{\"name\":\"x\",\"shape\":[2,2],\"datatype\":\"FP32\","
                   "\"data\":[[1,2.5],[-3e2,1e-3]]},{\"data\":[\"a\\nb\",\"\"],\"datatype\":\"BYTES\",\"shape\":[2],"
                   "\"name\":\"s\"},{\"name\":\"b\",\"shape\":[3],\"datatype\":\"UINT8\",\"parameters\":{"
                   "\"binary_data_size\":3}},{\"name\":\"m\",\"shape\":[1],\"datatype\":\"INT64\",\"parameters\":{"
                   "\"shared_memory_region\":\"r\",\"shared_memory_offset\":16,\"shared_memory_byte_size\":8}}],"
                   "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":3,\"binary_data\":false}},"
                   "{\"name\":\"z\"}],\"more\":null} ", 3));
    CHECK_TEXT(request.id, "a\xc3\xa9\xf0\x9f\x98\x80");
    CHECK(request.sequence_id == UINT64_MAX && request.start && !request.end && request.priority == 2);
    CHECK(request.timeout_us == 500 && request.binary_output && request.has_custom);
    CHECK_INT(request.input_count, 4);
    const float expected[] = { 1, 2.5f, -300, 0.001f };
    CHECK(request.inputs[0].place == SP_PLACE_DATA && request.inputs[0].rank == 2 && request.inputs[0].bytes == 16);
    CHECK_BYTES(pool + request.inputs[0].offset, expected, 16);
    CHECK_INT(request.inputs[1].bytes, 11);
    CHECK_BYTES(pool + request.inputs[1].offset, "\x03\0\0\0a\nb\0\0\0\0", 11);
    CHECK(request.inputs[2].place == SP_PLACE_BINARY && request.inputs[2].offset == 0 && request.inputs[2].bytes == 3);
    CHECK(request.inputs[3].place == SP_PLACE_SHARED && request.inputs[3].offset == 16 && request.inputs[3].bytes == 8);
    CHECK_TEXT(request.inputs[3].region, "r");
    CHECK_INT(request.output_count, 2);
    CHECK(request.outputs[0].classes == 3 && request.outputs[0].has_binary && !request.outputs[0].binary);
    CHECK(!request.outputs[1].has_binary && !request.outputs[1].classes);
}

TEST(what_is_written_reads_back)
{
    REQUIRE(!parse("{\"id\":\"i\",\"parameters\":{\"sequence_id\":\"s\\\"q\",\"sequence_end\":true,\"priority\":1},\"inputs\":["
                   "{\"name\":\"x\",\"shape\":[2],\"datatype\":\"INT8\",\"data\":[1,-2]},{\"name\":\"m\",\"shape\":[],"
                   "\"datatype\":\"FP64\",\"parameters\":{\"shared_memory_region\":\"r\",\"shared_memory_byte_size\":8}}],"
                   "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":true,\"shared_memory_region\":\"q\","
                   "\"shared_memory_byte_size\":4}}]}", 0));
    sp_buf text;
    sp_buf_init(&text, SP_LIMIT_KSERVE_HEADER_BYTES);
    sp_kserve_request_write(&request, &text);
    REQUIRE(sp_buf_ok(&text));
    sp_kserve_request again;
    REQUIRE(!sp_kserve_request_parse(sp_buf_view(&text), 2, NULL, &again, &err));
    CHECK_TEXT(again.id, "i");
    CHECK_TEXT(again.sequence_text, "s\"q");
    CHECK(again.end && !again.start && again.priority == 1 && again.input_count == 2 && again.output_count == 1);
    CHECK(again.inputs[0].place == SP_PLACE_BINARY && again.inputs[0].bytes == 2 && again.inputs[0].dims[0] == 2);
    CHECK(again.inputs[1].place == SP_PLACE_SHARED && again.inputs[1].rank == 0);
    CHECK(again.outputs[0].binary && again.outputs[0].shared && again.outputs[0].bytes == 4);
    sp_buf_done(&text);
}

static void refused(const char *text, uint64_t binary_bytes, const char *words)
{
    sp_status s = parse(text, binary_bytes);
    if (s != SP_INVALID || !strstr(err.message, words))
        test_fail(__FILE__, __LINE__, "%s: status %s, \"%s\" lacks \"%s\"", text, sp_status_name(s), err.message, words);
}

#define INPUT(more) "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"INT32\",\"shape\":[2]" more "}]}"

TEST(what_is_wrong_is_said)
{
    refused("", 0, "expected an object");
    refused("[]", 0, "expected an object");
    refused("{\"inputs\":[{}]}", 0, "inputs[0] has no \"name\"");
    refused("{\"inputs\":[{\"name\":\"x\"}]}", 0, "inputs[0] has no \"shape\"");
    refused("{\"inputs\":[{\"name\":\"x\",\"shape\":[1]}]}", 0, "has no \"datatype\"");
    refused(INPUT(""), 0, "has no data");
    refused(INPUT(",\"data\":[1]"), 0, "inputs[0].data: the data has 1 elements, the shape has 2");
    refused(INPUT(",\"data\":[1,2,3]"), 0, "no more elements than the shape has");
    refused(INPUT(",\"data\":[1,\"2\"]"), 0, "expected a INT32 (element 1), found \"\"2\"");
    refused(INPUT(",\"data\":[1,2147483648]"), 0, "expected a INT32");
    refused(INPUT(",\"data\":[1,0.5]"), 0, "expected a INT32");
    refused(INPUT(",\"data\":[1,2"), 0, "expected ',' or ']'");
    refused("{\"id\":\"a", 0, "ends after 8 bytes");
    refused(INPUT(",\"data\":7"), 0, "expected an array");
    refused(INPUT(",\"data\":[1,2],\"data\":[1,2]"), 0, "one \"data\"");
    refused(INPUT(",\"data\":[1,2],\"parameters\":{\"binary_data_size\":8}"), 8, "one of them");
    refused(INPUT(",\"parameters\":{\"binary_data_size\":8}"), 7, "only 7 bytes are left");
    refused(INPUT(",\"parameters\":{\"binary_data_size\":8}"), 9, "9 bytes lie behind the header");
    refused(INPUT(",\"parameters\":{\"binary_data_size\":-8}"), 0, "a whole number from 0 on");
    refused(INPUT(",\"parameters\":{\"shared_memory_region\":\"r\"}"), 0, "shared_memory_byte_size");
    refused("{\"inputs\":[{\"datatype\":\"FLOAT\"}]}", 0, "inputs[0].datatype: byte 23 of the JSON: expected a datatype");
    refused("{\"inputs\":[{\"datatype\":\"TYPE_FP32\"}]}", 0, "expected a datatype");
    refused("{\"inputs\":[{\"shape\":[1,2,3,4,5,6,7,8,9]}]}", 0, "at most 8 dimensions");
    refused("{\"inputs\":[{\"shape\":[-1]}]}", 0, "a whole number");
    refused("{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[4294967296,4294967296],\"data\":[1]}]}", 0, "more elements");
    refused("{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1000000],\"data\":[1]}]}", 0, "more elements");
    refused("{\"parameters\":{\"priority\":\"high\"}}", 0, "parameters.priority: ");
    refused("{\"outputs\":[{}]}", 0, "outputs[0] has no \"name\"");
    refused("{} x", 0, "nothing behind the JSON");
    refused("{\"id\":\"\\u0000\"}", 0, "without \\u0000");
    refused("{\"id\":\"\\x\"}", 0, "an escape");
    refused("{\"id\":01}", 0, "a string");
    refused("{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", 0, "32 brackets");
    CHECK_INT(sp_kserve_request_parse(sp_view_of(INPUT(",\"data\":[1,2]")), 0, NULL, &request, &err), SP_UNSUPPORTED);
}

/* One element of each type, both ways. */
TEST(every_type_goes_in_and_comes_out)
{
    static const struct {
        const char *type, *in, *out;
    } rows[] = {
        { "BOOL", "[true,0,1,false]", "[true,false,true,false]" },
        { "UINT8", "[0,255,1e2,7.0]", "[0,255,100,7]" },
        { "INT8", "[-128,127,0,-1]", "[-128,127,0,-1]" },
        { "UINT16", "[65535,0,1,2]", "[65535,0,1,2]" },
        { "INT16", "[-32768,32767,0,1]", "[-32768,32767,0,1]" },
        { "UINT32", "[4294967295,0,1,2]", "[4294967295,0,1,2]" },
        { "INT32", "[-2147483648,2147483647,0,1]", "[-2147483648,2147483647,0,1]" },
        { "UINT64", "[18446744073709551615,0,1,10000000000000000000]", "[18446744073709551615,0,1,10000000000000000000]" },
        { "INT64", "[-9223372036854775808,9223372036854775807,0,1]", "[-9223372036854775808,9223372036854775807,0,1]" },
        { "FP16", "[0.1,65504,-2,NaN]", "[0.1,65500.0,-2.0,NaN]" },
        { "BF16", "[0.1,1,-2.5,Infinity]", "[0.1,1.0,-2.5,Infinity]" },
        { "FP32", "[0.1,16777216,-0.0,-Infinity]", "[0.1,16777216.0,-0.0,-Infinity]" },
        { "FP64", "[0.1,1e300,-0.30000000000000004,5e-324]", "[0.1,1.0000000000000001e+300,-0.30000000000000004,4.9406564584124654e-324]" },
        { "BYTES", "[\"a\",\"\\u00e9\\\"\\\\\",\"\",\"\\t\"]", "[\"a\",\"\xc3\xa9\\\"\\\\\",\"\",\"\\u0009\"]" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        char text[256], out[256];
        (void)snprintf(text, sizeof(text), "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"%s\",\"shape\":[2,2],\"data\":%s}]}",
                       rows[i].type, rows[i].in);
        if (parse(text, 0)) {
            test_fail(__FILE__, __LINE__, "%s: %s", text, err.message);
            continue;
        }
        const sp_kserve_input *x = &request.inputs[0];
        size_t n = sp_kserve_data_write(x->dtype, pool + x->offset, x->bytes, out, sizeof(out) - 1);
        REQUIRE(n < sizeof(out));
        out[n] = 0;
        CHECK_TEXT(out, rows[i].out);
        for (size_t room_bytes = 0; room_bytes < n; room_bytes++) { /* too small: the same length, no byte behind the end */
            memset(out, 'x', sizeof(out));
            CHECK_INT(sp_kserve_data_write(x->dtype, pool + x->offset, x->bytes, out, room_bytes), n);
            CHECK(out[room_bytes] == 'x');
        }
    }
    static const char *const beyond[] = { "\"UINT8\",\"shape\":[1],\"data\":[256]", "\"INT8\",\"shape\":[1],\"data\":[-129]",
                                          "\"UINT64\",\"shape\":[1],\"data\":[18446744073709551616]",
                                          "\"INT64\",\"shape\":[1],\"data\":[9223372036854775808]",
                                          "\"FP32\",\"shape\":[1],\"data\":[1e39]", "\"FP16\",\"shape\":[1],\"data\":[65520]",
                                          "\"FP64\",\"shape\":[1],\"data\":[1e400]" };
    for (size_t i = 0; i < SP_ARRAY_LEN(beyond); i++) {
        char text[256];
        (void)snprintf(text, sizeof(text), "{\"inputs\":[{\"name\":\"x\",\"datatype\":%s}]}", beyond[i]);
        CHECK_INT(parse(text, 0), SP_INVALID);
    }
}

/* Random bits: what is written reads back to the same bits, and no shorter text would; what is read equals strtod. */
TEST(floats_keep_their_bits)
{
    for (int i = 0; i < 100000; i++) {
        char text[SP_NUMBER_TEXT_BYTES + 1], longer[64];
        uint32_t bits = (uint32_t)test_random();
        float f, back;
        memcpy(&f, &bits, sizeof(f));
        if (isfinite(f)) {
            size_t n = sp_number_write_f32(f, text);
            REQUIRE(n <= SP_NUMBER_TEXT_BYTES);
            text[n] = 0;
            if (!read_f32(text, n, &back) || memcmp(&back, &f, sizeof(f)) != 0 || strtof(text, NULL) != f)
                test_fail(__FILE__, __LINE__, "%.9g became %s", (double)f, text);
            int most = snprintf(longer, sizeof(longer), "%.17g", (double)f); /* as numpy's tolist() gives it */
            REQUIRE(read_f32(longer, (size_t)most, &back) && back == f);
        }
        uint64_t wide = test_random();
        double d, again;
        memcpy(&d, &wide, sizeof(d));
        if (i & 1)
            d = ldexp((double)(wide >> 11), test_random_between(-100, 40)); /* and what tensors have */
        if (isfinite(d)) {
            size_t n = sp_number_write_f64(d, text);
            REQUIRE(n <= SP_NUMBER_TEXT_BYTES);
            text[n] = 0;
            if (!read_f64(text, n, &again) || memcmp(&again, &d, sizeof(d)) != 0)
                test_fail(__FILE__, __LINE__, "%.17g became %s", d, text);
        }
        (void)snprintf(longer, sizeof(longer), "%s%llu.%llue%d", i & 2 ? "-" : "", (unsigned long long)(test_random() >> (i % 60)),
                       (unsigned long long)(test_random() >> (i % 50)), test_random_between(-330, 300));
        double right = strtod(longer, NULL);
        bool fits = read_f64(longer, strlen(longer), &d);
        if (fits != isfinite(right) || (fits && memcmp(&d, &right, sizeof(d)) != 0))
            test_fail(__FILE__, __LINE__, "%s read as %.17g", longer, d);
        float narrow = strtof(longer, NULL);
        fits = read_f32(longer, strlen(longer), &f);
        if (fits != isfinite(narrow) || (fits && memcmp(&f, &narrow, sizeof(f)) != 0))
            test_fail(__FILE__, __LINE__, "%s read as %.9g", longer, (double)f);
    }
}

TEST(bytes_that_are_no_text_are_written_as_text)
{
    char out[64];
    static const uint8_t bytes[] = "\x06\0\0\0a\xff\xc3\x28\xe2\x82";
    size_t n = sp_kserve_data_write(SP_DTYPE_BYTES, bytes, 10, out, sizeof(out) - 1);
    out[n] = 0;
    CHECK_TEXT(out, "[\"a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\"]");
    n = sp_kserve_data_write(SP_DTYPE_BYTES, "\xff\xff\xff\xff" "ab", 6, out, sizeof(out)); /* a length that lies */
    CHECK_BYTES(out, "[\"ab\"]", n);
}

/* Bytes of a right request changed, cut and repeated: an error or a request whose tensors lie inside the pool. */
TEST(mutations_are_refused_or_right)
{
    static const char right[] =
        "{\"id\":\"1\",\"parameters\":{\"sequence_id\":7},\"inputs\":[{\"name\":\"x\",\"shape\":[1,3],\"datatype\":\"FP32\","
        "\"data\":[1.5,-2,3e1]},{\"name\":\"s\",\"shape\":[2],\"datatype\":\"BYTES\",\"data\":[\"ab\",\"c\\n\"]}],"
        "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":true}}]}";
    for (int i = 0; i < 20000; i++) {
        char text[2 * sizeof(right)];
        size_t n = sizeof(right) - 1;
        memcpy(text, right, n);
        for (int change = test_random_between(1, 4); change > 0; change--) {
            size_t place = (size_t)test_random_between(0, (int)n - 1), length = (size_t)test_random_between(1, 20);
            length = SP_MIN(length, n - place);
            switch (test_random_between(0, 3)) {
            case 0:
                text[place] = (char)test_random();
                break;
            case 1:
                text[place] = "{}[],:\"\\0123456789eE+-.tfn"[test_random_between(0, 26)];
                break;
            case 2:
                memmove(text + place, text + place + length, n - place - length);
                n -= length;
                break;
            default:
                if (n + length < sizeof(text)) {
                    memmove(text + place + length, text + place, n - place);
                    n += length;
                }
            }
            if (!n)
                break;
        }
        text[n] = 0;
        if (memchr(text, 0, n) || parse(text, 0))
            continue;
        for (int t = 0; t < request.input_count; t++) {
            const sp_kserve_input *input = &request.inputs[t];
            CHECK(input->place != SP_PLACE_DATA || input->offset + input->bytes <= pool_bytes);
            CHECK(input->place != SP_PLACE_BINARY || input->bytes == 0);
        }
    }
}
