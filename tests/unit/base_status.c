/* SPDX-License-Identifier: Apache-2.0
 * base/status: the numbers, the router's tables, the rank of a chain's attempts, errors with their origin. */
#include "base/status.h"
#include "base/view.h"
#include "test.h"

#include <errno.h>

TEST(numbers_are_stable)
{
    CHECK_INT(SP_OK, 0);
    CHECK_INT(SP_INVALID, 1);
    CHECK_INT(SP_BUSY, 8);
    CHECK_INT(SP_CANCELLED, 12);
    CHECK_INT(SP_INTERNAL, 14);
    CHECK_INT(SP_STATUS_COUNT, 15);
}

TEST(names_differ)
{
    for (int a = 0; a < SP_STATUS_COUNT; a++) {
        for (int b = 0; b < a; b++)
            CHECK(strcmp(sp_status_name((sp_status)a), sp_status_name((sp_status)b)) != 0);
    }
    CHECK_TEXT(sp_status_name(SP_OK), "ok");
    CHECK_TEXT(sp_status_name(SP_TOO_LARGE), "too_large");
}

TEST(exhausted_chains_report_in_the_promised_order)
{
    static const sp_status order[] = { SP_DENIED, SP_INVALID, SP_TOO_LARGE, SP_NOT_FOUND, SP_CONFLICT,    SP_REFUSED, SP_BUSY,
                                       SP_NOMEM,  SP_TIMEOUT, SP_UNAVAILABLE, SP_UNSUPPORTED, SP_CORRUPT, SP_INTERNAL };
    for (size_t i = 1; i < SP_ARRAY_LEN(order); i++)
        CHECK(sp_status_rank(order[i - 1]) > sp_status_rank(order[i]));
    CHECK(sp_status_rank(SP_OK) < sp_status_rank(SP_INTERNAL));
}

TEST(only_what_another_link_may_cure_goes_on)
{
    for (int s = 0; s < SP_STATUS_COUNT; s++) {
        bool expected = s >= SP_UNSUPPORTED && s != SP_CANCELLED;
        CHECK_INT(sp_status_tries_next((sp_status)s), expected);
    }
}

TEST(breakers_hear_of_links_not_of_callers)
{
    static const sp_status feeding[] = { SP_NOMEM, SP_TIMEOUT, SP_UNAVAILABLE, SP_CORRUPT, SP_INTERNAL };
    for (int s = 0; s < SP_STATUS_COUNT; s++) {
        bool expected = false;
        for (size_t i = 0; i < SP_ARRAY_LEN(feeding); i++)
            expected = expected || feeding[i] == (sp_status)s;
        CHECK_INT(sp_status_feeds_breaker((sp_status)s), expected);
    }
}

TEST(http_codes)
{
    static const int codes[SP_STATUS_COUNT] = { 200, 400, 413, 404, 409, 403, 501, 503, 429, 422, 504, 503, 499, 500, 500 };
    for (int s = 0; s < SP_STATUS_COUNT; s++)
        CHECK_INT(sp_status_http((sp_status)s), codes[s]);
}

TEST(numbers_from_elsewhere_read_as_our_bug)
{
    CHECK_TEXT(sp_status_name((sp_status)-1), "internal");
    CHECK_TEXT(sp_status_name((sp_status)SP_STATUS_COUNT), "internal");
    CHECK_INT(sp_status_http((sp_status)1000000), 500);
}

TEST(errors_carry_origin_and_place)
{
    sp_error err = { 0 };
    CHECK_INT(SP_FAIL_FROM(&err, SP_NOMEM, "cudnn", 3, "no %s of %d bytes", "workspace", 7), SP_NOMEM);
    CHECK_INT(err.status, SP_NOMEM);
    CHECK_TEXT(err.origin, "cudnn");
    CHECK_INT(err.origin_code, 3);
    CHECK_TEXT(err.message, "no workspace of 7 bytes");
    CHECK_TEXT(err.code, "");
    CHECK(err.line > 0);
    CHECK(strstr(err.file, "base_status.c") != NULL);

    CHECK_INT(SP_FAIL_CODE(&err, SP_REFUSED, "crashed_decoder", "this body"), SP_REFUSED);
    CHECK_TEXT(err.code, "crashed_decoder");
    CHECK_TEXT(err.origin, ""); /* nothing of the earlier one is left */
    CHECK_INT(err.origin_code, 0);
}

TEST(errors_without_a_reader_are_fine)
{
    CHECK_INT(SP_FAIL(NULL, SP_BUSY, "%s", "x"), SP_BUSY);
    errno = ENOENT;
    CHECK_INT(SP_FAIL_ERRNO(NULL, SP_UNAVAILABLE, "open"), SP_UNAVAILABLE);
}

TEST(errno_is_explained_and_kept)
{
    sp_error err = { 0 };
    errno = ENOENT;
    CHECK_INT(SP_FAIL_ERRNO(&err, SP_NOT_FOUND, "open %s", "x.onnx"), SP_NOT_FOUND);
    CHECK_INT(errno, ENOENT);
    CHECK_TEXT(err.origin, "kernel");
    CHECK_INT(err.origin_code, ENOENT);
    CHECK_TEXT(err.message, "open x.onnx: No such file or directory");
}

TEST(long_texts_are_cut_at_their_field)
{
    char text[1000];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    sp_error err = { 0 };
    (void)sp_error_set(&err, SP_INVALID, text, text, 1, text, 2, "%s", text);
    CHECK_INT(strlen(err.message), sizeof(err.message) - 1);
    CHECK_INT(strlen(err.code), sizeof(err.code) - 1);
    CHECK_INT(strlen(err.origin), sizeof(err.origin) - 1);
    CHECK_INT(strlen(err.file), sizeof(err.file) - 1);
    errno = EIO;
    (void)SP_FAIL_ERRNO(&err, SP_INVALID, "%s", text);
    CHECK_INT(strlen(err.message), sizeof(err.message) - 1);
}

TEST(sizes_are_checked_before_they_are_used)
{
    size_t size = 7;
    CHECK(!sp_size_mul(SIZE_MAX / 2, 3, &size));
    CHECK(!sp_size_add(SIZE_MAX, 1, &size));
    CHECK_INT(size, 7);
    CHECK(sp_size_mul(640, 480, &size) && size == 307200);
    CHECK(sp_size_add(SIZE_MAX - 1, 1, &size) && size == SIZE_MAX);
}
