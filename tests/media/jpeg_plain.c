/* SPDX-License-Identifier: Apache-2.0
 * What passes for a plain JPEG, and what of it does not when a byte of it is another, or missing. */
#include "media/image.h"
#include "media/jpeg_plain.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct file {
    uint8_t *data;
    size_t bytes;
} file;

/* 40 x 24, 4:2:0, JFIF; two by three blocks of colours (MCUs: three by two). */
static file make(void)
{
    static uint8_t rgb[40 * 24 * 3];
    file f = { 0 };
    for (size_t i = 0; i < sizeof(rgb); i++)
        rgb[i] = (uint8_t)(i * 7 % 251);
    REQUIRE(sp_image_encode_jpeg(rgb, 40, 24, 90, &f.data, &f.bytes, NULL) == SP_OK);
    return f;
}

/* In a block of exactly its size, so that a sanitizer sees a byte beyond. Consumes nothing. */
static const char *judge(const uint8_t *data, size_t bytes, sp_jpeg_plain *plain)
{
    static char code[32];
    sp_error err = { 0 };
    uint8_t *copy = malloc(bytes ? bytes : 1);
    REQUIRE(copy != NULL);
    if (bytes)
        memcpy(copy, data, bytes);
    sp_status s = sp_jpeg_plain_read(sp_view_make(copy, bytes), plain, &err);
    free(copy);
    if (!s)
        return "";
    CHECK_INT(s, SP_UNSUPPORTED);
    CHECK(err.code[0] && err.message[0]);
    (void)snprintf(code, sizeof(code), "%s", err.code);
    return code;
}

/* Where a marker's segment begins. */
static size_t find(const file *f, int marker)
{
    size_t at = 2;
    while (f->data[at + 1] != marker)
        at += 2 + (size_t)(f->data[at + 2] << 8 | f->data[at + 3]);
    return at;
}

/* The file with `bytes` of `what` put in at `at`. */
static const char *judge_with(const file *f, size_t at, const void *what, size_t bytes)
{
    sp_jpeg_plain plain;
    uint8_t *all = malloc(f->bytes + bytes);
    REQUIRE(all != NULL);
    memcpy(all, f->data, at);
    memcpy(all + at, what, bytes);
    memcpy(all + at + bytes, f->data + at, f->bytes - at);
    const char *code = judge(all, f->bytes + bytes, &plain);
    free(all);
    return code;
}

static const char *judge_changed(const file *f, size_t at, int value)
{
    sp_jpeg_plain plain;
    uint8_t before = f->data[at];
    f->data[at] = (uint8_t)value;
    const char *code = judge(f->data, f->bytes, &plain);
    f->data[at] = before;
    return code;
}

TEST(an_ordinary_file_passes_and_what_is_behind_it_is_left_out)
{
    file f = make();
    sp_jpeg_plain plain = { 0 };
    CHECK_TEXT(judge(f.data, f.bytes, &plain), "");
    CHECK(plain.width == 40 && plain.height == 24 && plain.file_bytes == f.bytes);
    uint8_t *longer = calloc(1, f.bytes + 100);
    REQUIRE(longer != NULL);
    memcpy(longer, f.data, f.bytes);
    CHECK_TEXT(judge(longer, f.bytes + 100, &plain), "");
    CHECK_INT((long long)plain.file_bytes, (long long)f.bytes);
    free(longer);
    free(f.data);
}

TEST(what_others_must_decode_says_why)
{
    file f = make();
    size_t sof = find(&f, 0xc0), sos = find(&f, 0xda);
    static const char turned[] = "\xff\xe1\x00\x22" "Exif\0\0" "II*\0\x08\0\0\0" "\x01\0" "\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" "\0\0\0\0";
    static const char upright[] = "\xff\xe1\x00\x22" "Exif\0\0" "II*\0\x08\0\0\0" "\x01\0" "\x12\x01\x03\0\x01\0\0\0\x01\0\0\0" "\0\0\0\0";
    static const char adobe_rgb[] = "\xff\xee\x00\x0e" "Adobe\0\x64\0\0\0\0\0";
    CHECK_TEXT(judge_with(&f, 2, turned, sizeof(turned) - 1), "turned");
    CHECK_TEXT(judge_with(&f, 2, upright, sizeof(upright) - 1), "");
    CHECK_TEXT(judge_with(&f, 2, adobe_rgb, sizeof(adobe_rgb) - 1), "colours");
    CHECK_TEXT(judge_with(&f, 2, "x", 1), "unusual");
    CHECK_TEXT(judge_with(&f, 2, "\xff", 1), "unusual");
    CHECK_TEXT(judge_with(&f, sos, "\xff\xdd\x00\x04\x00\x01", 6), "damaged"); /* restarts are promised, none comes */
    CHECK_TEXT(judge_with(&f, f.bytes - 2, "\xff\xd0", 2), "damaged");         /* one comes, none is promised */
    CHECK_TEXT(judge_with(&f, f.bytes - 2, "\xff\xda", 2), "unusual");         /* another scan */
    CHECK_TEXT(judge_changed(&f, sof + 1, 0xc2), "progressive");
    CHECK_TEXT(judge_changed(&f, sof + 1, 0xc9), "progressive");
    CHECK_TEXT(judge_changed(&f, sof + 4, 12), "progressive");
    CHECK_TEXT(judge_changed(&f, sof + 6, 0), "unusual"); /* a height of 0: it comes later */
    CHECK_TEXT(judge_changed(&f, sof + 5, 0xff), "damaged"); /* 65,304 rows of 40 in so few bytes */
    CHECK_TEXT(judge_changed(&f, sof + 11, 0x33), "colours");
    CHECK_TEXT(judge_changed(&f, sof + 12, 9), "damaged");
    CHECK_TEXT(judge_changed(&f, sos + 4, 1), "unusual");
    CHECK_TEXT(judge_changed(&f, 1, 0xd9), "not_jpeg");
    f.data[sof + 5] = f.data[sof + 7] = 0xff; /* beyond what any picture may have */
    CHECK_TEXT(judge_changed(&f, sof + 6, 0xff), "too_large");
    free(f.data);
}

TEST(a_file_that_ends_early_never_passes)
{
    file f = make();
    sp_jpeg_plain plain;
    for (size_t bytes = 0; bytes < f.bytes; bytes++)
        CHECK(*judge(f.data, bytes, &plain));
    free(f.data);
}

/* Some of these pass, since a colour or a coefficient is only another; none may say more than the limits, or read beyond. */
TEST(any_byte_may_be_another)
{
    file f = make();
    for (size_t at = 0; at < f.bytes; at++) {
        uint8_t before = f.data[at];
        for (int turn = 0; turn < 40; turn++) {
            sp_jpeg_plain plain = { 0 };
            f.data[at] = (uint8_t)(turn < 8 ? before ^ 1 << turn : test_random_between(0, 255));
            if (!*judge(f.data, f.bytes, &plain))
                CHECK(plain.width > 0 && plain.height > 0 && plain.file_bytes <= f.bytes);
        }
        f.data[at] = before;
    }
    free(f.data);
}
