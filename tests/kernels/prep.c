/* SPDX-License-Identifier: Apache-2.0
 * The fused pass: every level gives the scalar level's tensor, reads nothing outside the picture, writes nothing outside
 * the tensor, and refuses hostile descriptions. That the scalar tensor is Pillow's and OpenCV's is test_reference.py's. */
#include "base/limits.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"
#include "test.h"

#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const sp_prep_spec imagenet = { .filter = SP_FILTER_BICUBIC, .fit = SP_FIT_SHORT_SIDE, .dtype = SP_DTYPE_F32,
                                       .resize_w = 256, .crop_w = 224, .crop_h = 224, .divisor = 255,
                                       .mean = { 0.485f, 0.456f, 0.406f }, .std = { 0.229f, 0.224f, 0.225f } };

/* A picture whose last byte is the last readable one. */
typedef struct picture {
    uint8_t *map, *rgb;
    size_t map_bytes, stride;
    int w, h;
} picture;

static picture picture_new(int w, int h, size_t padding)
{
    picture p = { .w = w, .h = h, .stride = (size_t)w * 3 + padding };
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = p.stride * (size_t)(h - 1) + (size_t)w * 3;
    p.map_bytes = (bytes + page - 1) / page * page + 2 * page;
    p.map = mmap(NULL, p.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p.map != MAP_FAILED);
    REQUIRE(mprotect(p.map, page, PROT_NONE) == 0 && mprotect(p.map + p.map_bytes - page, page, PROT_NONE) == 0);
    p.rgb = p.map + p.map_bytes - page - bytes;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t r = test_random();
        memcpy(p.rgb + i, &r, 8);
    }
    return p;
}

static void picture_free(picture *p)
{
    (void)munmap(p->map, p->map_bytes);
}

static sp_prep_spec random_spec(void)
{
    sp_prep_spec spec = imagenet;
    spec.filter = (uint8_t)(test_random() % 3);
    if (spec.filter != SP_FILTER_PLAIN && test_random() % 2)
        spec.filter |= SP_FILTER_ACROSS_FIRST;
    spec.fit = (uint8_t)(test_random() % 4);
    spec.dtype = test_random() % 2 ? SP_DTYPE_F32 : SP_DTYPE_F16;
    spec.pad_value = (uint8_t)test_random();
    spec.resize_w = (uint16_t)test_random_between(1, test_random() % 2 ? 40 : 260);
    spec.resize_h = spec.fit == SP_FIT_SHORT_SIDE ? 0 : (uint16_t)test_random_between(1, 260);
    spec.crop_w = (uint16_t)test_random_between(1, spec.resize_w);
    spec.crop_h = (uint16_t)test_random_between(1, spec.fit == SP_FIT_SHORT_SIDE ? spec.resize_w : spec.resize_h);
    return spec;
}

/* Runs at every level, compares with the scalar one. */
static void compare(const sp_prep_spec *spec, const picture *p, sp_prep_scratch *scratch)
{
    size_t bytes = sp_prep_output_bytes(spec), room = SP_ALIGN_UP(bytes + 64, (size_t)64);
    uint8_t *expected = aligned_alloc(64, room), *got = aligned_alloc(64, room);
    REQUIRE(expected && got);
    for (int level = SP_LEVEL_SCALAR; level < SP_LEVEL_COUNT; level++) {
        sp_error error = { 0 };
        uint8_t *out = level == SP_LEVEL_SCALAR ? expected : got;
        if (!sp_kernels_force((sp_kernel_level)level))
            continue;
        memset(out, 0xa5, room);
        sp_status s = sp_prep_image(spec, p->rgb, p->w, p->h, p->stride, out, scratch, &error);
        CHECK_TEXT(error.message, "");
        CHECK_INT(s, SP_OK);
        for (size_t i = bytes; i < room; i++)
            CHECK(out[i] == 0xa5);
        if (level != SP_LEVEL_SCALAR && memcmp(expected, got, bytes) != 0)
            test_fail(__FILE__, __LINE__, "level %d: filter %d fit %d dtype %d resize %dx%d crop %dx%d of %dx%d", level,
                      spec->filter, spec->fit, spec->dtype, spec->resize_w, spec->resize_h, spec->crop_w, spec->crop_h,
                      p->w, p->h);
    }
    free(expected);
    free(got);
}

TEST(prep_levels_agree_on_random_pictures)
{
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    REQUIRE(scratch != NULL);
    for (int i = 0; i < 150; i++) {
        static const int most[] = { 3, 30, 300, 900 };
        int m = most[test_random() % 4];
        sp_prep_spec spec = random_spec();
        picture p = picture_new(test_random_between(1, m), test_random_between(1, m), (size_t)test_random_between(0, 70));
        compare(&spec, &p, scratch);
        picture_free(&p);
    }
    (void)sp_kernels_force(SP_LEVEL_AVX512);
}

TEST(prep_levels_agree_at_extreme_ratios)
{
    static const int sizes[][2] = { { 1, 1 }, { 1, 9000 }, { 9000, 1 }, { 5, 20000 }, { 20000, 5 }, { 65500, 2 },
                                    { 2, 65500 }, { 1280, 720 }, { 4000, 300 } };
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    REQUIRE(scratch != NULL);
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        picture p = picture_new(sizes[i][0], sizes[i][1], 0);
        for (int filter = 0; filter < 3; filter++) {
            for (int fit = 0; fit < 3; fit++) {
                sp_prep_spec spec = imagenet;
                spec.filter = (uint8_t)filter;
                spec.fit = (uint8_t)fit;
                spec.resize_w = spec.resize_h = 64;
                spec.crop_w = spec.crop_h = 64;
                compare(&spec, &p, scratch);
                spec.resize_w = spec.resize_h = spec.crop_w = spec.crop_h = 1;
                compare(&spec, &p, scratch);
            }
        }
        picture_free(&p);
    }
    (void)sp_kernels_force(SP_LEVEL_AVX512);
}

/* The picture lies in the corner, the crop in the middle: a narrow picture leaves nothing but padding. */
TEST(prep_of_a_crop_beside_the_picture)
{
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    REQUIRE(scratch != NULL);
    (void)sp_kernels_force(SP_LEVEL_SCALAR);
    for (int i = 0; i < 4; i++) {
        sp_prep_spec spec = imagenet;
        spec.fit = i % 2 ? SP_FIT_CORNER : SP_FIT_LETTERBOX;
        spec.filter = i / 2 ? SP_FILTER_PLAIN : SP_FILTER_BICUBIC;
        spec.pad_value = 114;
        spec.resize_w = spec.resize_h = i % 2 ? 64 : 4;
        spec.crop_w = spec.crop_h = i % 2 ? 16 : 1;
        picture p = i % 2 ? picture_new(3, 90, 0) : picture_new(1, 90, 0);
        float *out = malloc(sp_prep_output_bytes(&spec));
        REQUIRE(out != NULL);
        CHECK_INT(sp_prep_image_check(&spec, p.w, p.h, scratch, NULL), SP_OK);
        CHECK_INT(sp_prep_image(&spec, p.rgb, p.w, p.h, p.stride, out, scratch, NULL), SP_OK);
        int n = spec.crop_w * spec.crop_h;
        for (int c = 0; c < 3; c++) {
            for (int k = 0; k < n; k++)
                CHECK(out[c * n + k] == (114.0f / 255.0f - spec.mean[c]) / spec.std[c]);
        }
        free(out);
        picture_free(&p);
    }
    (void)sp_kernels_force(SP_LEVEL_AVX512);
}

TEST(prep_scratch_follows_changes_of_spec_and_size)
{
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *used = sp_prep_scratch_new();
    REQUIRE(used != NULL);
    (void)sp_kernels_force(SP_LEVEL_AVX512);
    picture p = picture_new(90, 60, 0);
    sp_prep_spec spec = imagenet;
    spec.resize_w = spec.crop_w = spec.crop_h = 32;
    for (int i = 0; i < 40; i++) {
        SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *fresh = sp_prep_scratch_new();
        static float a[3 * 32 * 32], b[3 * 32 * 32];
        REQUIRE(fresh != NULL);
        spec.mean[1] = (float)(test_random() % 3);
        spec.filter = (uint8_t)(test_random() % 3);
        int w = (int)(60 + test_random() % 3), h = (int)(58 + test_random() % 3);
        CHECK_INT(sp_prep_image(&spec, p.rgb, w, h, p.stride, a, used, NULL), SP_OK);
        CHECK_INT(sp_prep_image(&spec, p.rgb, w, h, p.stride, b, fresh, NULL), SP_OK);
        CHECK_BYTES(a, b, sizeof(a));
    }
    picture_free(&p);
}

/* The heap in use is the same after the hundredth picture as after the first round of sizes. */
TEST(prep_steady_state_allocates_nothing)
{
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    static float out[3 * 224 * 224];
    picture p = picture_new(700, 500, 0);
    size_t after_first = 0;
    REQUIRE(scratch != NULL);
    for (int i = 0; i < 100; i++) {
        sp_prep_spec spec = imagenet;
        spec.filter = (uint8_t)(i % 3);
        CHECK_INT(sp_prep_image(&spec, p.rgb, 700 - i % 10, 500 - i % 7, p.stride, out, scratch, NULL), SP_OK);
        if (i == 29)
            after_first = mallinfo2().uordblks + mallinfo2().hblkhd;
    }
    CHECK_INT(mallinfo2().uordblks + mallinfo2().hblkhd, after_first);
    picture_free(&p);
}

TEST(prep_refuses_hostile_specs)
{
    sp_error error = { 0 };
    sp_prep_spec good = imagenet, bad[18];
    CHECK_INT(sp_prep_spec_check(&good, &error), SP_OK);
    CHECK_INT(sp_prep_output_bytes(&good), 3 * 224 * 224 * 4);
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++)
        bad[i] = good;
    bad[0].filter = 3;
    bad[1].fit = 3;
    bad[2].dtype = SP_DTYPE_U8;
    bad[3].resize_w = 0;
    bad[4].resize_w = SP_PREP_SIDE_MAX + 1;
    bad[5].crop_w = 257;
    bad[6].crop_h = 257;
    bad[7].crop_w = 0;
    bad[8].crop_h = 0;
    bad[9].divisor = 0;
    bad[10].divisor = NAN;
    bad[11].std[2] = 0;
    bad[12].std[0] = INFINITY;
    bad[13].mean[1] = NAN;
    bad[14].fit = SP_FIT_STRETCH; /* resize_h is 0 */
    bad[15].filter = SP_FILTER_PLAIN | SP_FILTER_ACROSS_FIRST;
    bad[16].filter = 255;
    bad[17].dtype = 0;
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        memset(&error, 0, sizeof(error));
        if (sp_prep_spec_check(&bad[i], &error) != SP_INVALID || !error.message[0])
            test_fail(__FILE__, __LINE__, "bad spec %zu passed", i);
        CHECK_INT(sp_prep_output_bytes(&bad[i]), 0);
    }
    for (int i = 0; i < 20000; i++) { /* any bytes: an answer, and if it is yes, a tensor of bounded size */
        for (size_t b = 0; b < sizeof(good); b++)
            ((uint8_t *)&good)[b] = (uint8_t)(test_random() % 4 ? ((const uint8_t *)&imagenet)[b] : test_random());
        CHECK(sp_prep_output_bytes(&good) <= (size_t)3 * SP_PREP_SIDE_MAX * SP_PREP_SIDE_MAX * 4);
    }
}

TEST(prep_refuses_what_needs_too_much_scratch)
{
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    static uint8_t row[3 * 900];
    static float out[3 * SP_PREP_SIDE_MAX];
    sp_prep_spec spec = imagenet;
    sp_error error = { 0 };
    spec.fit = SP_FIT_STRETCH;
    spec.filter |= SP_FILTER_ACROSS_FIRST;
    spec.resize_w = spec.crop_w = SP_PREP_SIDE_MAX;
    spec.resize_h = spec.crop_h = 1;
    REQUIRE(scratch != NULL);
    /* 65,500 rows of 8,192 pixels in flight; refused before the picture is looked at, so one row stands for all. */
    CHECK_INT(sp_prep_image(&spec, row, 900, SP_LIMIT_IMAGE_SIDE, sizeof(row), out, scratch, &error), SP_TOO_LARGE);
    CHECK(error.message[0] != 0);
    CHECK_INT(sp_prep_image(&spec, row, 900, 1, sizeof(row) - 1, out, scratch, &error), SP_INVALID);
    CHECK_INT(sp_prep_image(&spec, row, 0, 1, sizeof(row), out, scratch, &error), SP_INVALID);
    CHECK_INT(sp_prep_image(&spec, row, 900, SP_LIMIT_IMAGE_SIDE + 1, sizeof(row), out, scratch, &error), SP_INVALID);
    CHECK_INT(sp_prep_image(&spec, row, 900, 1, sizeof(row), out, scratch, &error), SP_OK);
}

TEST(prep_crop_rounds_half_to_even_and_letterbox_is_centred)
{
    sp_prep_geometry g;
    sp_prep_spec spec = imagenet;
    spec.resize_w = 225;
    spec.crop_w = spec.crop_h = 224; /* (225 - 224) / 2 = 0.5: to 0 */
    CHECK_INT(sp_prep_geometry_of(&spec, 500, 500, &g, NULL), SP_OK);
    CHECK_INT(g.left, 0);
    spec.crop_w = 222; /* 1.5: to 2 */
    CHECK_INT(sp_prep_geometry_of(&spec, 500, 500, &g, NULL), SP_OK);
    CHECK_INT(g.left, 2);
    CHECK_INT(sp_prep_geometry_of(&spec, 500, 375, &g, NULL), SP_OK);
    CHECK_INT(g.scaled_w, 300); /* int(225 * 500 / 375) */
    CHECK_INT(g.scaled_h, 225);
    spec.fit = SP_FIT_LETTERBOX;
    spec.resize_w = spec.resize_h = spec.crop_w = spec.crop_h = 416;
    CHECK_INT(sp_prep_geometry_of(&spec, 1280, 720, &g, NULL), SP_OK);
    CHECK_INT(g.scaled_w, 416);
    CHECK_INT(g.scaled_h, 234);
    CHECK_INT(g.top, -91);
}
