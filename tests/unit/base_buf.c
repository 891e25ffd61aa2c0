/* SPDX-License-Identifier: Apache-2.0
 * base/buf: the ceiling, what is left after a failure, JSON text out of any bytes. */
#include "base/buf.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TEST(a_buffer_stops_at_its_ceiling)
{
    sp_buf buf;
    sp_buf_init(&buf, 10);
    sp_buf_append_text(&buf, "123456");
    CHECK(sp_buf_ok(&buf));
    sp_buf_append_text(&buf, "78901"); /* eleven: not even a part of it */
    CHECK(!sp_buf_ok(&buf));
    sp_buf_append_text(&buf, "7"); /* would fit, but it has failed */
    CHECK_INT(buf.size_bytes, 6);
    CHECK_TEXT((char *)buf.data, "123456");
    CHECK(sp_buf_take(&buf, NULL) == NULL);
    sp_buf_clear(&buf);
    CHECK_TEXT((char *)buf.data, "");
    sp_buf_append_text(&buf, "1234567890");
    CHECK(sp_buf_ok(&buf));
    CHECK_TEXT((char *)buf.data, "1234567890");
    sp_buf_append(&buf, NULL, 0);
    CHECK(sp_buf_ok(&buf));
    sp_buf_done(&buf);
    CHECK_INT(buf.limit_bytes, 10);
}

TEST(memory_stays_at_the_ceiling)
{
    sp_buf buf;
    sp_buf_init(&buf, 1000);
    for (int i = 0; i < 1000; i++)
        sp_buf_append(&buf, "x", 1);
    CHECK(sp_buf_ok(&buf));
    CHECK(buf.capacity_bytes <= 1001);
    sp_buf_done(&buf);
}

TEST(any_pieces_make_the_same_content)
{
    uint8_t source[4000];
    for (size_t i = 0; i < sizeof(source); i++)
        source[i] = (uint8_t)test_random();
    sp_buf buf;
    sp_buf_init(&buf, sizeof(source));
    for (size_t at = 0; at < sizeof(source);) {
        size_t n = (size_t)test_random_between(0, 300);
        n = SP_MIN(n, sizeof(source) - at);
        sp_buf_append(&buf, source + at, n);
        at += n;
    }
    REQUIRE(sp_buf_ok(&buf) && sp_buf_view(&buf).size_bytes == sizeof(source));
    CHECK_BYTES(buf.data, source, sizeof(source));
    sp_buf_done(&buf);
}

TEST(sizes_near_the_end_of_memory_fail)
{
    sp_buf buf;
    sp_buf_init(&buf, SIZE_MAX);
    sp_buf_append_text(&buf, "abc");
    sp_buf_append(&buf, "", SIZE_MAX - 3);
    CHECK(!sp_buf_ok(&buf));
    CHECK_TEXT((char *)buf.data, "abc");
    sp_buf_done(&buf);
}

TEST(printf_is_whole_or_not_there)
{
    sp_buf buf;
    sp_buf_init(&buf, 8);
    sp_buf_printf(&buf, "%d-%s", 42, "abc");
    CHECK_TEXT((char *)buf.data, "42-abc");
    sp_buf_printf(&buf, "%d", 123);
    CHECK(!sp_buf_ok(&buf));
    CHECK_TEXT((char *)buf.data, "42-abc");
    sp_buf_done(&buf);
}

TEST(take_hands_the_bytes_over)
{
    sp_buf buf;
    sp_buf_init(&buf, 100);
    size_t size = 1;
    char *empty = sp_buf_take(&buf, &size);
    REQUIRE(empty != NULL);
    CHECK_TEXT(empty, "");
    CHECK_INT(size, 0);
    free(empty);
    sp_buf_append_text(&buf, "moved");
    char *taken = sp_buf_take(&buf, &size);
    CHECK_TEXT(taken, "moved");
    CHECK_INT(size, 5);
    CHECK(buf.data == NULL && buf.size_bytes == 0);
    free(taken);
}

static void check_json(const char *text, const char *expected)
{
    sp_buf buf;
    sp_buf_init(&buf, 1000);
    sp_buf_append_json_text(&buf, text);
    CHECK_TEXT((char *)buf.data, expected);
    sp_buf_done(&buf);
}

TEST(json_text_is_escaped)
{
    check_json("", "\"\"");
    check_json("plain", "\"plain\"");
    check_json("a\"b\\c", "\"a\\\"b\\\\c\"");
    check_json("\n\t\x01\x7f", "\"\\u000a\\u0009\\u0001\\u007f\"");
    check_json("gr\xC3\xBC\xC3\x9F \xE6\x97\xA5 \xF0\x9F\x90\x9F", "\"gr\xC3\xBC\xC3\x9F \xE6\x97\xA5 \xF0\x9F\x90\x9F\"");
}

#define FFFD "\xEF\xBF\xBD"

TEST(bytes_that_are_no_utf8_become_one_replacement_each)
{
    check_json("a\xFF" "b", "\"a" FFFD "b\"");
    check_json("\x80", "\"" FFFD "\"");
    check_json("\xC0\xAF", "\"" FFFD FFFD "\"");             /* overlong slash */
    check_json("\xE0\x80\x80", "\"" FFFD FFFD FFFD "\"");     /* overlong */
    check_json("\xED\xA0\x80", "\"" FFFD FFFD FFFD "\"");     /* surrogate */
    check_json("\xF4\x90\x80\x80", "\"" FFFD FFFD FFFD FFFD "\""); /* beyond U+10FFFF */
    check_json("\xC3", "\"" FFFD "\"");                       /* cut at the end */
    check_json("\xE6\x97", "\"" FFFD FFFD "\"");
    check_json("\xF0\x9F\x90", "\"" FFFD FFFD FFFD "\"");
    check_json("\xC3\"", "\"" FFFD "\\\"\"");                 /* the quote behind it is still escaped */
}

/* A small reader of its own: what is between the quotes is valid UTF-8 without bare controls or quotes. */
static bool json_text_is_sound(const uint8_t *s, size_t n)
{
    if (n < 2 || s[0] != '"' || s[n - 1] != '"')
        return false;
    for (size_t i = 1; i < n - 1;) {
        uint8_t c = s[i];
        size_t more = c < 0x80 ? 0 : c < 0xC2 ? 9 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : c < 0xF5 ? 3 : 9;
        if (c < 0x20 || c == '"' || more == 9)
            return false;
        if (c == '\\')
            i += s[i + 1] == 'u' ? 6 : 2;
        else
            i++;
        for (; more; more--, i++) {
            if ((s[i] & 0xC0) != 0x80)
                return false;
        }
    }
    return true;
}

TEST(random_bytes_always_make_sound_json)
{
    for (int round = 0; round < 20000; round++) {
        char text[24] = { 0 };
        int n = test_random_between(0, 23);
        for (int i = 0; i < n; i++)
            text[i] = (char)(test_random() % 3 ? 0x80 | test_random() : test_random());
        sp_buf buf;
        sp_buf_init(&buf, 1000);
        sp_buf_append_json_text(&buf, text);
        REQUIRE(json_text_is_sound(buf.data, buf.size_bytes));
        sp_buf_done(&buf);
    }
}
