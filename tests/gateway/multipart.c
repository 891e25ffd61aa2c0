/* SPDX-License-Identifier: Apache-2.0
 * The form reader alone: every cut of a form is an error or the whole form, and parts lie where they should. */
#include "gateway/multipart.h"

#include "test.h"

#include <stdlib.h>
#include <string.h>

#define TYPE "multipart/form-data; boundary=xYz"

static const char form_text[] =
    "--xYz\r\nContent-Disposition: form-data; name=\"top_k\"\r\n\r\n3\r\n"
    "--xYz\r\nContent-Type: image/jpeg\r\ncontent-disposition: form-data; filename=\"a;\\\"b\"; name=image\r\n\r\n"
    "JPEG\r\n--xY\r\n--xYz--\r\n";

static sp_status read_all(const char *content_type, sp_view body, sp_multipart_part *parts, int *ret_count,
                          sp_error *reterr)
{
    sp_multipart form;
    bool more = true;
    int count = 0;
    sp_status s = sp_multipart_begin(&form, content_type, body, reterr);
    while (!s && more) {
        sp_multipart_part part;
        s = sp_multipart_next(&form, &part, &more, reterr);
        if (!s && more)
            parts[count++] = part;
    }
    *ret_count = count;
    return s;
}

TEST(multipart_finds_parts_in_place)
{
    sp_multipart_part parts[SP_LIMIT_FORM_PARTS];
    sp_error err = { 0 };
    int count = 0;
    REQUIRE(read_all(TYPE, sp_view_of(form_text), parts, &count, &err) == SP_OK);
    REQUIRE(count == 2);
    CHECK(sp_view_equals(parts[0].name, "top_k") && !parts[0].has_filename && !parts[0].content_type.size_bytes);
    CHECK(parts[0].size_bytes == 1 && form_text[parts[0].offset] == '3');
    CHECK(sp_view_equals(parts[1].name, "image") && parts[1].has_filename &&
          sp_view_equals(parts[1].content_type, "image/jpeg"));
    CHECK(parts[1].size_bytes == 10 && memcmp(form_text + parts[1].offset, "JPEG\r\n--xY", 10) == 0);
}

TEST(multipart_every_cut_is_an_error)
{
    size_t whole = strlen(form_text) - 2; /* the last line end belongs to nobody */
    for (size_t n = 0; n < whole; n++) {
        sp_multipart_part parts[SP_LIMIT_FORM_PARTS];
        sp_error err = { 0 };
        int count = 0;
        uint8_t *copy = malloc(n ? n : 1); /* of its own, so that a sanitizer sees a read past the cut */
        REQUIRE(copy != NULL);
        memcpy(copy, form_text, n);
        CHECK(read_all(TYPE, sp_view_make(copy, n), parts, &count, &err) == SP_INVALID);
        CHECK(*err.code && *err.message);
        free(copy);
    }
}

TEST(multipart_every_changed_byte_is_survived)
{
    for (int i = 0; i < 20000; i++) {
        sp_multipart_part parts[SP_LIMIT_FORM_PARTS];
        sp_error err = { 0 };
        int count = 0;
        char text[sizeof(form_text)];
        memcpy(text, form_text, sizeof(text));
        for (int n = test_random_between(1, 3); n > 0; n--)
            text[test_random_between(0, (int)sizeof(text) - 2)] = (char)test_random_between(0, 255);
        sp_status s = read_all(TYPE, sp_view_make(text, sizeof(text) - 1), parts, &count, &err);
        CHECK(s == SP_OK || (s == SP_INVALID && *err.code));
        for (int part = 0; part < count; part++)
            CHECK(parts[part].offset + parts[part].size_bytes <= sizeof(text) - 1);
    }
}

TEST(multipart_boundaries)
{
    static const struct {
        const char *type;
        sp_status status;
    } cases[] = {
        { "multipart/form-data; boundary=\"xYz\"", SP_OK },
        { "multipart/form-data;boundary=xYz", SP_OK },
        { "multipart/form-data; charset=\"a;b=c\"; BOUNDARY=xYz ", SP_OK },
        { "multipart/form-data", SP_INVALID },
        { "multipart/form-data; boundary", SP_INVALID },
        { "multipart/form-data; boundary=", SP_INVALID },
        { "multipart/form-data; boundary=\"xYz", SP_INVALID },
        { "multipart/form-data; boundary=\"xYz \"", SP_INVALID },
        { "multipart/form-data; boundary=x\x01Yz", SP_INVALID },
        { "", SP_INVALID },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        sp_multipart_part parts[SP_LIMIT_FORM_PARTS];
        sp_error err = { 0 };
        int count = 0;
        CHECK_INT(read_all(cases[i].type, sp_view_of(form_text), parts, &count, &err), cases[i].status);
    }
}
