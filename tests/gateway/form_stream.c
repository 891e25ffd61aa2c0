/* SPDX-License-Identifier: Apache-2.0
 * A form read as it comes: however it is cut, the file's bytes arrive whole and in order, and what is kept is the same form
 * without them. Random forms and random cuts are held to the reader of whole forms. */
#include "gateway/form_stream.h"

#include "test.h"

#include <stdlib.h>
#include <string.h>

#define TYPE "multipart/form-data; boundary=xYz"

static sp_status into_buf(void *context, const void *data, size_t size_bytes, sp_error *reterr)
{
    (void)reterr;
    sp_buf_append(context, data, size_bytes);
    return SP_OK;
}

static sp_status refuse(void *context, const void *data, size_t size_bytes, sp_error *reterr)
{
    (void)context;
    (void)data;
    (void)size_bytes;
    return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "disk_full", "full");
}

/* Fed in pieces of 1 to `most` bytes. */
static sp_status feed(sp_form_stream *form, sp_view text, size_t most, sp_buf *file, sp_error *reterr)
{
    sp_buf_init(file, 1u << 20);
    sp_status s = sp_form_stream_init(form, TYPE, into_buf, file, reterr);
    for (size_t at = 0; !s && at < text.size_bytes;) {
        size_t n = (size_t)test_random_between(1, (int64_t)most);
        n = SP_MIN(n, text.size_bytes - at);
        s = sp_form_stream_feed(form, text.data + at, n, reterr);
        at += n;
    }
    return s;
}

/* Bytes in which delimiters nearly begin all the time. */
static void add_content(sp_buf *out, int pieces)
{
    static const char *const bits[] = { "\r\n--xY", "\r", "\n", "--xYz", "\r\n", "-", "abc", "\r\n--", "\r\n-", "xYz" };
    for (int i = 0; i < pieces; i++)
        sp_buf_append_text(out, bits[test_random_between(0, (int64_t)SP_ARRAY_LEN(bits) - 1)]);
}

static void add_part(sp_buf *form, const char *name, const sp_buf *content)
{
    sp_buf_printf(form, "--xYz\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n", name);
    sp_buf_append(form, content->data, content->size_bytes);
    sp_buf_append_text(form, "\r\n");
}

static bool holds_delimiter(const sp_buf *content)
{
    return content->size_bytes &&
           (memmem(content->data, content->size_bytes, "\r\n--xYz", 7) || (content->size_bytes >= 5 && !memcmp(content->data, "--xYz", 5)));
}

TEST(a_form_is_the_same_however_it_is_cut)
{
    for (int round = 0; round < 2000; round++) {
        sp_buf text, content, before, file;
        sp_form_stream form;
        sp_error err = { 0 };
        sp_buf_init(&text, 1u << 20);
        sp_buf_init(&content, 1u << 20);
        sp_buf_init(&before, 1u << 20);
        add_content(&content, (int)test_random_between(0, 40));
        add_content(&before, (int)test_random_between(0, 5));
        bool odd = holds_delimiter(&content) || holds_delimiter(&before);
        if (!odd) {
            add_part(&text, "client_id", &before);
            add_part(&text, "video", &content);
            add_part(&text, "metadata", &before);
            sp_buf_append_text(&text, "--xYz--\r\n");
            REQUIRE(feed(&form, sp_buf_view(&text), (size_t)test_random_between(1, 60), &file, &err) == SP_OK);
            CHECK_INT(file.size_bytes, content.size_bytes);
            CHECK(!content.size_bytes || !memcmp(file.data, content.data, SP_MIN(file.size_bytes, content.size_bytes)));
            sp_multipart whole;
            sp_multipart_part part;
            bool more = false;
            REQUIRE(sp_multipart_begin(&whole, TYPE, sp_buf_view(&form.kept), &err) == SP_OK);
            static const char *const names[] = { "client_id", "video", "metadata" };
            for (int i = 0; i < 3; i++) {
                REQUIRE(sp_multipart_next(&whole, &part, &more, &err) == SP_OK && more);
                CHECK(sp_view_equals(part.name, names[i]));
                CHECK_INT(part.size_bytes, i == 1 ? 0 : before.size_bytes);
            }
            REQUIRE(sp_multipart_next(&whole, &part, &more, &err) == SP_OK && !more);
            sp_form_stream_done(&form);
            sp_buf_done(&file);
        }
        sp_buf_done(&text);
        sp_buf_done(&content);
        sp_buf_done(&before);
    }
}

TEST(an_empty_file_ends_at_its_header)
{
    static const char text[] = "--xYz\r\nContent-Disposition: form-data; name=file\r\n\r\n--xYz--e\r\n\r\n--xYz--";
    for (size_t most = 1; most <= sizeof(text); most++) {
        sp_form_stream form;
        sp_buf file;
        sp_error err = { 0 };
        REQUIRE(feed(&form, sp_view_make(text, sizeof(text) - 1), most, &file, &err) == SP_OK);
        CHECK_INT(file.size_bytes, 0); /* though another delimiter comes behind its own */
        sp_form_stream_done(&form);
        sp_buf_done(&file);
    }
}

TEST(a_form_cut_short_is_told)
{
    static const char text[] = "--xYz\r\nContent-Disposition: form-data; name=\"file\"; filename=a\r\n\r\nbytes\r\n--xYz--";
    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        sp_form_stream form;
        sp_buf file;
        sp_error err = { 0 };
        sp_multipart whole;
        sp_multipart_part part;
        bool more = true;
        sp_status s = feed(&form, sp_view_make(text, n), 9, &file, &err);
        if (!s)
            s = sp_multipart_begin(&whole, TYPE, sp_buf_view(&form.kept), &err);
        while (!s && more)
            s = sp_multipart_next(&whole, &part, &more, &err);
        CHECK_INT(s, SP_INVALID);
        sp_form_stream_done(&form);
        sp_buf_done(&file);
    }
}

TEST(a_second_file_a_long_form_and_a_full_disk_are_refused)
{
    sp_form_stream form;
    sp_buf text, file, content;
    sp_error err = { 0 };
    sp_buf_init(&text, 1u << 20);
    sp_buf_init(&content, 1u << 20);
    sp_buf_append_text(&content, "x");
    add_part(&text, "file", &content);
    add_part(&text, "video", &content);
    CHECK_INT(feed(&form, sp_buf_view(&text), 50, &file, &err), SP_INVALID);
    CHECK_TEXT(err.code, "second_file");
    sp_form_stream_done(&form);
    sp_buf_done(&file);

    CHECK_INT(sp_form_stream_init(&form, TYPE, refuse, NULL, &err), SP_OK);
    sp_buf_append(&text, "0123456789abcdef", 16);
    CHECK_INT(sp_form_stream_feed(&form, text.data, text.size_bytes, &err), SP_UNAVAILABLE);
    sp_form_stream_done(&form);

    sp_buf_clear(&text);
    sp_buf_append_text(&text, "--xYz\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n");
    for (int i = 0; i < 20000; i++)
        sp_buf_append_text(&text, "0123456789");
    CHECK_INT(feed(&form, sp_buf_view(&text), 20000, &file, &err), SP_TOO_LARGE);
    CHECK_TEXT(err.code, "form_too_large");
    sp_form_stream_done(&form);
    sp_buf_done(&file);
    sp_buf_done(&text);
    sp_buf_done(&content);
}
