/* SPDX-License-Identifier: Apache-2.0
 * Pre-processing on a CUDA device: the bits of sp_prep_image, sp_resize_rgb8 and sp_yuv_to_rgb8_c, in any order of threads and
 * blocks, for all filters, fits and dtypes; tables that come and go; calls that fail. */
#include <stdio.h>

#include "house.h"

#include "base/limits.h"
#include "kernels/arith.h"
#include "kernels/cuda_prep.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"
#include "kernels/yuv.h"

static const sp_prep_spec imagenet = { .filter = SP_FILTER_BICUBIC, .fit = SP_FIT_SHORT_SIDE, .dtype = SP_DTYPE_F32,
                                       .resize_w = 64, .crop_w = 56, .crop_h = 56, .divisor = 255,
                                       .mean = { 0.485f, 0.456f, 0.406f }, .std = { 0.229f, 0.224f, 0.225f } };

static int repeats(int times)
{
    return getenv("SPILLWAY_FULL") ? times * 10 : SP_MAX(times / (getenv("SPILLWAY_SANITIZER") ? 4 : 1), 1);
}

/* --- pictures --- */

typedef struct picture {
    uint8_t *host, *memory; /* memory: the allocation on the device, where the picture begins `lead` bytes in and ends at its end */
    sp_cuda_picture on;
    size_t bytes;
} picture;

static picture picture_new(cuda_house *house, int w, int h, size_t padding, size_t lead)
{
    picture p = { .on = { .w = w, .h = h, .stride_bytes = (size_t)w * 3 + padding } };
    p.bytes = p.on.stride_bytes * (size_t)(h - 1) + (size_t)w * 3;
    uint8_t *all = malloc(lead + p.bytes);
    REQUIRE(all != NULL);
    for (size_t i = 0; i < lead + p.bytes; i++)
        all[i] = (uint8_t)(test_random() % 3 ? test_random() : test_random() % 2 * 255);
    p.memory = cuda_house_put(house, all, lead + p.bytes);
    p.on.rgb = p.memory + lead;
    p.host = malloc(p.bytes);
    REQUIRE(p.host != NULL);
    memcpy(p.host, all + lead, p.bytes);
    free(all);
    return p;
}

static picture random_picture(cuda_house *house, int most_w, int most_h)
{
    int w = test_random_between(1, most_w), h = test_random_between(1, most_h);
    size_t padding = test_random() % 2 ? 0 : (size_t)test_random_between(0, 40);
    return picture_new(house, w, h, padding, (size_t)test_random_between(0, 17));
}

static void picture_free(cuda_house *house, picture *p)
{
    house->api->release(house->cuda, p->memory);
    free(p->host);
}

/* --- one batch against sp_prep_image --- */

static void expect(const sp_prep_spec *spec, const picture *p, uint8_t *out)
{
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    sp_error error = { 0 };
    REQUIRE(scratch != NULL);
    CHECK_INT(sp_prep_image(spec, p->host, p->on.w, p->on.h, p->on.stride_bytes, out, scratch, &error), SP_OK);
    CHECK_TEXT(error.message, "");
}

static void say(const char *what, const sp_prep_spec *s, const picture *p, int order)
{
    test_fail(__FILE__, __LINE__, "%s, order %d: filter %d fit %d dtype %d resize %dx%d crop %dx%d of %dx%d (%zu apart, lead %zu)", what,
              order, s->filter, s->fit, s->dtype, s->resize_w, s->resize_h, s->crop_w, s->crop_h, p->on.w, p->on.h, p->on.stride_bytes,
              (size_t)(p->on.rgb - p->memory));
}

enum { GUARD = 64 };

static void compare_batch(cuda_house *house, sp_cuda_prep *prep, const sp_prep_spec *spec, const picture *pictures, int count, int order)
{
    size_t one = sp_prep_output_bytes(spec), bytes = one * (size_t)count;
    uint8_t *want = malloc(bytes + GUARD), *got = malloc(bytes + GUARD);
    sp_cuda_picture on[64];
    REQUIRE(want && got && count <= 64);
    memset(want, 0xa5, bytes + GUARD);
    for (int i = 0; i < count; i++) {
        expect(spec, &pictures[i], want + (size_t)i * one);
        on[i] = pictures[i].on;
    }
    sp_error error = { 0 };
    uint8_t *dst = cuda_house_put(house, NULL, bytes + GUARD);
    CHECK_INT(house->api->fill(house->stream, dst, 0xa5, bytes + GUARD, &error), SP_OK);
    CHECK_INT(house->api->prep->prep_batch(prep, house->stream, on, count, dst, &error), SP_OK);
    CHECK_TEXT(error.message, "");
    memset(on, 0xee, sizeof(on)); /* the descriptions were read before it returned */
    cuda_house_get(house, got, dst, bytes + GUARD);
    for (int i = 0; i < count; i++) {
        if (memcmp(want + (size_t)i * one, got + (size_t)i * one, one) != 0)
            say("differs", spec, &pictures[i], order);
    }
    if (memcmp(want + bytes, got + bytes, GUARD) != 0)
        say("writes behind its end", spec, &pictures[0], order);
    house->api->release(house->cuda, dst);
    free(want);
    free(got);
}

static void compare(cuda_house *house, const sp_prep_spec *spec, const picture *pictures, int count, int order)
{
    sp_cuda_prep *prep = NULL;
    sp_error error = { 0 };
    REQUIRE(house->api->prep->prep_new(house->cuda, spec, count, &prep, &error) == SP_OK);
    compare_batch(house, prep, spec, pictures, count, order);
    house->api->prep->prep_free(prep);
}

static sp_prep_spec random_spec(int most)
{
    sp_prep_spec spec = imagenet;
    spec.filter = (uint8_t)(test_random() % 3);
    if (spec.filter != SP_FILTER_PLAIN && test_random() % 2)
        spec.filter |= SP_FILTER_ACROSS_FIRST;
    spec.fit = (uint8_t)(test_random() % 4 | (test_random() % 2 ? SP_FIT_BGR : 0));
    spec.dtype = test_random() % 2 ? SP_DTYPE_F32 : SP_DTYPE_F16;
    spec.pad_value = (uint8_t)test_random();
    bool short_side = (spec.fit & ~SP_FIT_BGR) == SP_FIT_SHORT_SIDE;
    spec.resize_w = (uint16_t)test_random_between(1, most);
    spec.resize_h = short_side ? 0 : (uint16_t)test_random_between(1, most);
    spec.crop_w = (uint16_t)test_random_between(1, spec.resize_w);
    spec.crop_h = (uint16_t)test_random_between(1, short_side ? spec.resize_w : spec.resize_h);
    return spec;
}

TEST(prep_of_random_pictures)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        for (int i = 0; i < repeats(16); i++) {
            static const int most[] = { 4, 30, 120, 260 };
            int m = most[test_random() % 4];
            sp_prep_spec spec = random_spec(test_random() % 4 ? 40 : 300);
            picture p = random_picture(&house, m, m);
            compare(&house, &spec, &p, 1, order);
            picture_free(&house, &p);
        }
    }
    cuda_house_done(&house);
}

/* Every filter with every fit and dtype, small and wide tiles, in both of Pillow's orders. */
TEST(prep_of_every_kind)
{
    static const int sizes[][2] = { { 1, 1 }, { 97, 61 }, { 40, 230 } };
    static const uint8_t filters[] = { SP_FILTER_BILINEAR, SP_FILTER_BICUBIC, SP_FILTER_PLAIN, SP_FILTER_BILINEAR | SP_FILTER_ACROSS_FIRST,
                                       SP_FILTER_BICUBIC | SP_FILTER_ACROSS_FIRST };
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        picture p = picture_new(&house, sizes[i][0], sizes[i][1], i, 5 * i);
        for (int kind = 0; kind < 5 * 8 * 2; kind++) {
            sp_prep_spec spec = imagenet;
            spec.filter = filters[kind % 5];
            spec.fit = (uint8_t)(kind / 5 % 4 | (kind / 20 % 2 ? SP_FIT_BGR : 0));
            spec.dtype = kind / 40 ? SP_DTYPE_F16 : SP_DTYPE_F32;
            spec.pad_value = 114;
            spec.resize_w = spec.resize_h = 35;
            spec.crop_w = 33;
            spec.crop_h = 30;
            (void)cuda_house_order(&house, kind % (house.shim ? 6 : 1));
            compare(&house, &spec, &p, 1, kind);
        }
        picture_free(&house, &p);
    }
    cuda_house_done(&house);
}

/* Filters that are too long for a tile, tiles that are as narrow as they get, and tiles as wide as a block. */
TEST(prep_of_extreme_shapes)
{
    static const int sizes[][2] = { { 1, 9000 }, { 9000, 1 }, { 3, 30000 }, { 30000, 3 }, { 700, 5 }, { 5, 700 } };
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
        picture p = picture_new(&house, sizes[i][0], sizes[i][1], 0, i);
        for (int filter = 0; filter < 4; filter++) {
            sp_prep_spec spec = imagenet;
            spec.filter = (uint8_t)(filter < 3 ? filter : SP_FILTER_BILINEAR | SP_FILTER_ACROSS_FIRST);
            spec.fit = filter % 2 ? SP_FIT_STRETCH : SP_FIT_LETTERBOX;
            (void)cuda_house_order(&house, (int)(i + (unsigned)filter) % (house.shim ? 6 : 1));
            spec.resize_w = spec.resize_h = spec.crop_w = spec.crop_h = 20;
            compare(&house, &spec, &p, 1, filter);
            spec.resize_w = 300;
            spec.crop_w = 290;
            spec.resize_h = spec.crop_h = 1;
            compare(&house, &spec, &p, 1, filter);
            spec.resize_w = spec.resize_h = spec.crop_w = spec.crop_h = 1;
            compare(&house, &spec, &p, 1, filter);
        }
        picture_free(&house, &p);
    }
    cuda_house_done(&house);
}

/* Few rows are lost, many columns won: lines are finished at any place of a stage, and the next ones begin there. */
TEST(prep_of_pictures_that_become_wide)
{
    static const int sizes[][2] = { { 20, 60 }, { 31, 97 }, { 150, 61 } };
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        for (size_t i = 0; i < SP_ARRAY_LEN(sizes); i++) {
            picture p = picture_new(&house, sizes[i][0], sizes[i][1], i, 3 * i);
            sp_prep_spec spec = imagenet;
            spec.filter = (uint8_t)(order % 2 ? SP_FILTER_BICUBIC : SP_FILTER_BILINEAR);
            spec.fit = SP_FIT_STRETCH;
            spec.resize_w = spec.crop_w = 300;
            spec.resize_h = spec.crop_h = (uint16_t)(sizes[i][1] * 5 / 6);
            compare(&house, &spec, &p, 1, order);
            picture_free(&house, &p);
        }
    }
    cuda_house_done(&house);
}

/* Pictures of all sizes and orders in one batch: one launch for what goes across first, one for the rest. */
TEST(prep_of_mixed_batches)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        picture pictures[40];
        int count = order == 0 ? 40 : 7;
        for (int i = 0; i < count; i++)
            pictures[i] = i % 3 == 2 ? random_picture(&house, 20, 150) : random_picture(&house, 150, 60);
        for (int fit = 0; fit < 4; fit++) {
            sp_prep_spec spec = imagenet;
            spec.filter = (uint8_t)(fit == 3 ? SP_FILTER_PLAIN : fit % 2);
            spec.fit = (uint8_t)fit;
            spec.dtype = fit % 2 ? SP_DTYPE_F16 : SP_DTYPE_F32;
            spec.resize_w = spec.resize_h = 24;
            spec.crop_w = spec.crop_h = 21;
            sp_shim_counters before = { 0 }, after = { 0 };
            if (house.shim)
                house.shim->counters(&before);
            compare(&house, &spec, pictures, count, order);
            if (house.shim)
                house.shim->counters(&after);
            CHECK(after.launches - before.launches <= (count > 32 ? 4u : 2u));
        }
        for (int i = 0; i < count; i++)
            picture_free(&house, &pictures[i]);
    }
    cuda_house_done(&house);
}

/* A batch of sizes seen before copies nothing but its own launch, allocates nothing and waits for nothing. */
TEST(prep_in_steady_state_only_launches)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_prep_spec spec = imagenet;
    sp_error error = { 0 };
    sp_cuda_prep *prep = NULL;
    REQUIRE(house.api->prep->prep_new(house.cuda, &spec, 8, &prep, &error) == SP_OK);
    picture pictures[3] = { picture_new(&house, 90, 70, 0, 0), picture_new(&house, 70, 90, 3, 1), picture_new(&house, 64, 64, 0, 0) };
    compare_batch(&house, prep, &spec, pictures, 3, 0);
    if (house.shim) {
        uint8_t *dst = cuda_house_put(&house, NULL, 3 * sp_prep_output_bytes(&spec));
        sp_cuda_picture on[3] = { pictures[2].on, pictures[0].on, pictures[1].on };
        sp_shim_counters before, after;
        house.shim->counters(&before);
        CHECK_INT(house.api->prep->prep_batch(prep, house.stream, on, 3, dst, &error), SP_OK);
        house.shim->counters(&after);
        CHECK_INT(after.launches - before.launches, 1);
        CHECK_INT(after.copies, before.copies);
        CHECK_INT(after.allocations + after.host_allocations, before.allocations + before.host_allocations);
        CHECK_INT(after.syncs + after.device_syncs, before.syncs + before.device_syncs);
        CHECK_INT(house.api->stream_sync(house.stream, &error), SP_OK);
        house.api->release(house.cuda, dst);
    }
    for (int i = 0; i < 3; i++)
        picture_free(&house, &pictures[i]);
    house.api->prep->prep_free(prep);
    cuda_house_done(&house);
}

/* Batches behind one another on a stream that has not begun: more new tables than the ring holds, so that the mirror of the first
 * ones is written again while their upload still waits. */
TEST(prep_keeps_what_is_not_passed_yet)
{
    enum { SIZES = 12 };
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_prep_spec spec = imagenet;
    sp_error error = { 0 };
    sp_cuda_prep *prep = NULL;
    spec.fit = SP_FIT_STRETCH;
    spec.filter = SP_FILTER_BICUBIC | SP_FILTER_ACROSS_FIRST;
    spec.resize_w = spec.crop_w = 8;
    spec.resize_h = spec.crop_h = 2048; /* its table is about a MiB */
    size_t one = sp_prep_output_bytes(&spec);
    REQUIRE(house.api->prep->prep_new(house.cuda, &spec, SIZES, &prep, &error) == SP_OK);
    picture pictures[SIZES];
    sp_cuda_picture on[SIZES];
    uint8_t *want = malloc(one), *got = malloc(one), *dst = cuda_house_put(&house, NULL, one * SIZES);
    REQUIRE(want && got);
    for (int i = 0; i < SIZES; i++) {
        pictures[i] = picture_new(&house, 1, 60000 + i, 0, 0);
        on[i] = pictures[i].on;
    }
    int half = SIZES / 2;
    CHECK_INT(house.api->prep->prep_batch(prep, house.stream, on, half, dst, &error), SP_OK);
    CHECK_INT(house.api->prep->prep_batch(prep, house.stream, on + half, SIZES - half, dst + one * (size_t)half, &error), SP_OK);
    CHECK_TEXT(error.message, "");
    for (int i = 0; i < SIZES; i++) {
        expect(&spec, &pictures[i], want);
        cuda_house_get(&house, got, dst + one * (size_t)i, one);
        if (memcmp(want, got, one) != 0)
            say("differs after its tables were replaced", &spec, &pictures[i], i);
    }
    for (int i = 0; i < SIZES; i++)
        picture_free(&house, &pictures[i]);
    house.api->release(house.cuda, dst);
    house.api->prep->prep_free(prep);
    free(want);
    free(got);
    cuda_house_done(&house);
}

/* Sizes that come again and again beside ones that never do. */
TEST(prep_forgets_tables_and_makes_them_again)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_prep_spec spec = imagenet;
    sp_error error = { 0 };
    sp_cuda_prep *prep = NULL;
    spec.resize_w = spec.crop_w = spec.crop_h = 12;
    REQUIRE(house.api->prep->prep_new(house.cuda, &spec, 4, &prep, &error) == SP_OK);
    picture often = picture_new(&house, 50, 40, 1, 3);
    for (int i = 0; i < repeats(120); i++) {
        picture pictures[3] = { often, random_picture(&house, 90, 90), often };
        compare_batch(&house, prep, &spec, pictures, 3, i);
        picture_free(&house, &pictures[1]);
    }
    picture_free(&house, &often);
    house.api->prep->prep_free(prep);
    cuda_house_done(&house);
}

TEST(prep_in_a_graph)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_prep_spec spec = imagenet;
    sp_error error = { 0 };
    sp_cuda_prep *prep = NULL;
    sp_cuda_graph *graph = NULL;
    size_t one = sp_prep_output_bytes(&spec);
    REQUIRE(house.api->prep->prep_new(house.cuda, &spec, 2, &prep, &error) == SP_OK);
    picture p = picture_new(&house, 80, 90, 0, 0);
    uint8_t *dst = cuda_house_put(&house, NULL, one), *want = malloc(one), *got = malloc(one);
    REQUIRE(want && got);

    REQUIRE(house.api->graph_begin(house.stream, &error) == SP_OK);
    CHECK_INT(house.api->prep->prep_batch(prep, house.stream, &p.on, 1, dst, &error), SP_UNSUPPORTED);
    CHECK_TEXT(error.code, "not_warm");
    (void)house.api->graph_end(house.stream, &graph, NULL); /* empty, or none */
    house.api->graph_free(graph);
    graph = NULL;

    compare_batch(&house, prep, &spec, &p, 1, 0);
    error = (sp_error){ 0 };
    REQUIRE(house.api->graph_begin(house.stream, &error) == SP_OK);
    CHECK_INT(house.api->prep->prep_batch(prep, house.stream, &p.on, 1, dst, &error), SP_OK);
    REQUIRE(house.api->graph_end(house.stream, &graph, &error) == SP_OK);
    picture other = picture_new(&house, 33, 44, 0, 0);
    compare_batch(&house, prep, &spec, &other, 1, 0); /* the graph keeps what it was given */
    CHECK_INT(house.api->graph_launch(graph, house.stream, &error), SP_OK);
    expect(&spec, &p, want);
    cuda_house_get(&house, got, dst, one);
    CHECK_BYTES(want, got, one);

    house.api->graph_free(graph);
    house.api->release(house.cuda, dst);
    picture_free(&house, &p);
    picture_free(&house, &other);
    house.api->prep->prep_free(prep);
    free(want);
    free(got);
    cuda_house_done(&house);
}

/* --- whole pictures --- */

TEST(resize_of_whole_pictures)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    SP_CLEANUP(sp_prep_scratch_freep) sp_prep_scratch *scratch = sp_prep_scratch_new();
    REQUIRE(scratch != NULL);
    CUDA_ORDERS(&house, order) {
        for (int i = 0; i < repeats(10); i++) {
            static const uint8_t filters[] = { 0, 1, 2, SP_FILTER_ACROSS_FIRST, 1 | SP_FILTER_ACROSS_FIRST };
            sp_prep_spec spec = imagenet;
            spec.filter = filters[i % 5];
            sp_cuda_prep *prep = NULL;
            sp_error error = { 0 };
            REQUIRE(house.api->prep->prep_new(house.cuda, &spec, 1, &prep, &error) == SP_OK);
            picture p = random_picture(&house, i % 2 ? 40 : 300, 200);
            int w = test_random_between(1, 90), h = test_random_between(1, 90);
            size_t stride = (size_t)w * 3 + (size_t)test_random_between(0, 20), bytes = stride * (size_t)h + GUARD;
            uint8_t *want = malloc(bytes), *got = malloc(bytes), *dst = cuda_house_put(&house, NULL, bytes + 3);
            REQUIRE(want && got);
            memset(want, 0x5a, bytes);
            CHECK_INT(house.api->fill(house.stream, dst, 0x5a, bytes + 3, &error), SP_OK);
            CHECK_INT(sp_resize_rgb8((sp_resize_filter)spec.filter, p.host, p.on.w, p.on.h, p.on.stride_bytes, want, w, h, stride, scratch,
                                     &error), SP_OK);
            CHECK_INT(house.api->prep->resize_rgb8(prep, house.stream, &p.on, dst + i % 4, w, h, stride, &error), SP_OK);
            CHECK_TEXT(error.message, "");
            cuda_house_get(&house, got, dst + i % 4, bytes - 1);
            CHECK_BYTES(want, got, bytes - 1);
            house.api->release(house.cuda, dst);
            free(want);
            free(got);
            picture_free(&house, &p);
            house.api->prep->prep_free(prep);
        }
    }
    cuda_house_done(&house);
}

/* --- values and planes alone --- */

TEST(norm_of_pictures_of_the_tensors_size)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    static sp_norm_table table;
    CUDA_ORDERS(&house, order) {
        for (int i = 0; i < repeats(6); i++) {
            sp_prep_spec spec = imagenet;
            int w = test_random_between(1, 70), h = test_random_between(1, 9), count = i == 0 && order == 0 ? 130 : i + 1;
            spec.dtype = i % 2 ? SP_DTYPE_F16 : SP_DTYPE_F32;
            spec.fit = (uint8_t)(SP_FIT_STRETCH | (i % 3 ? SP_FIT_BGR : 0));
            spec.resize_w = spec.crop_w = (uint16_t)(i == 3 ? w * 4 : w);
            spec.resize_h = spec.crop_h = (uint16_t)h;
            w = spec.crop_w;
            for (int c = 0; c < 3; c++) {
                for (int x = 0; x < 256; x++) {
                    table.f32[c][x] = sp_norm_value(x, spec.divisor, spec.mean[c], spec.std[c]);
                    table.f16[c][x] = sp_f32_to_f16(table.f32[c][x]);
                }
            }
            picture pictures[130];
            sp_cuda_picture on[130];
            sp_cuda_prep *prep = NULL;
            sp_error error = { 0 };
            size_t one = sp_prep_output_bytes(&spec), element = i % 2 ? 2 : 4;
            ptrdiff_t plane = (ptrdiff_t)w * h;
            REQUIRE(house.api->prep->prep_new(house.cuda, &spec, count, &prep, &error) == SP_OK);
            uint8_t *want = malloc(one), *got = malloc(one), *dst = cuda_house_put(&house, NULL, one * (size_t)count);
            REQUIRE(want && got);
            for (int k = 0; k < count; k++) {
                pictures[k] = picture_new(&house, w, h, (size_t)(k % 3), (size_t)(k % 5));
                on[k] = pictures[k].on;
            }
            CHECK_INT(house.api->prep->norm_batch(prep, house.stream, on, count, dst, &error), SP_OK);
            CHECK_TEXT(error.message, "");
            for (int k = 0; k < count; k++) {
                for (int y = 0; y < h; y++) {
                    const uint8_t *row = pictures[k].host + (size_t)y * on[k].stride_bytes;
                    uint8_t *to = want + (size_t)y * (size_t)w * element + (spec.fit & SP_FIT_BGR ? 2 * (size_t)plane * element : 0);
                    if (element == 4)
                        sp_norm_f32_c((float *)(void *)to, spec.fit & SP_FIT_BGR ? -plane : plane, row, w, &table);
                    else
                        sp_norm_f16_c((uint16_t *)(void *)to, spec.fit & SP_FIT_BGR ? -plane : plane, row, w, &table);
                }
                cuda_house_get(&house, got, dst + one * (size_t)k, one);
                CHECK_BYTES(want, got, one);
            }
            on[count - 1].h++;
            CHECK_INT(house.api->prep->norm_batch(prep, house.stream, on, count, dst, &error), SP_INVALID);
            for (int k = 0; k < count; k++)
                picture_free(&house, &pictures[k]);
            house.api->release(house.cuda, dst);
            house.api->prep->prep_free(prep);
            free(want);
            free(got);
        }
    }
    cuda_house_done(&house);
}

/* --- YUV --- */

TEST(yuv_frames)
{
    static const int sizes[][2] = { { 1, 1 }, { 2, 2 }, { 3, 5 }, { 130, 18 }, { 257, 9 }, { 64, 33 } };
    cuda_house house;
    CUDA_HOUSE(&house);
    CUDA_ORDERS(&house, order) {
        for (unsigned i = 0; i < SP_ARRAY_LEN(sizes) * 8; i++) {
            int w = sizes[i / 8][0], h = sizes[i / 8][1];
            bool nv12 = i & 1, bt709 = i & 2, full = i & 4;
            size_t extra = i % 3, cw = (size_t)(w + 1) / 2, ch = (size_t)(h + 1) / 2;
            size_t y_stride = (size_t)w + extra, uv_stride = cw * (nv12 ? 2 : 1) + extra, stride = (size_t)w * 3 + (i % 5) * 4;
            size_t y_bytes = y_stride * (size_t)h, uv_bytes = uv_stride * ch, bytes = stride * (size_t)h;
            size_t all = extra + y_bytes + 2 * uv_bytes;
            uint8_t *host = malloc(all), *want = malloc(bytes), *got = malloc(bytes);
            REQUIRE(host && want && got);
            for (size_t k = 0; k < all; k++)
                host[k] = (uint8_t)test_random();
            uint8_t *device = cuda_house_put(&house, host, all), *dst = cuda_house_put(&house, NULL, bytes);
            const uint8_t *y = host + extra, *u = y + y_bytes, *v = u + uv_bytes;
            sp_cuda_yuv yuv = { .y = device + extra, .u = device + (u - host), .v = nv12 ? NULL : device + (v - host),
                                .y_stride_bytes = y_stride, .uv_stride_bytes = uv_stride, .w = w, .h = h, .bt709 = bt709, .full_range = full };
            sp_error error = { 0 };
            memset(want, 7, bytes);
            CHECK_INT(house.api->fill(house.stream, dst, 7, bytes, &error), SP_OK);
            sp_yuv_to_rgb8_c(want, stride, y, y_stride, u, nv12 ? NULL : v, uv_stride, w, h, bt709, full);
            CHECK_INT(house.api->prep->yuv_to_rgb8(house.stream, &yuv, dst, stride, &error), SP_OK);
            cuda_house_get(&house, got, dst, bytes);
            CHECK_BYTES(want, got, bytes);
            house.api->release(house.cuda, device);
            house.api->release(house.cuda, dst);
            free(host);
            free(want);
            free(got);
        }
    }
    cuda_house_done(&house);
}

/* --- refusals and failures --- */

TEST(prep_refuses_before_it_enqueues)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    const sp_cuda_prep_api *api = house.api->prep;
    sp_prep_spec spec = imagenet;
    sp_error error = { 0 };
    sp_cuda_prep *prep = NULL;
    spec.crop_w = 65;
    CHECK_INT(api->prep_new(house.cuda, &spec, 1, &prep, &error), SP_INVALID);
    spec = imagenet;
    CHECK_INT(api->prep_new(house.cuda, &spec, 0, &prep, &error), SP_INVALID);
    spec.filter |= SP_FILTER_ACROSS_FIRST;
    spec.fit = SP_FIT_STRETCH;
    spec.resize_w = spec.crop_w = 8192;
    spec.resize_h = spec.crop_h = 1;
    REQUIRE(api->prep_new(house.cuda, &spec, 2, &prep, &error) == SP_OK);
    picture p = picture_new(&house, 4, 4, 0, 0);
    uint8_t *dst = cuda_house_put(&house, NULL, 2 * sp_prep_output_bytes(&spec));
    sp_shim_counters before = { 0 }, after = { 0 };
    if (house.shim)
        house.shim->counters(&before);
    sp_cuda_picture two[2] = { p.on, p.on };
    CHECK_INT(api->prep_batch(prep, house.stream, two, 3, dst, &error), SP_INVALID);
    CHECK_INT(api->prep_batch(prep, house.stream, two, 0, dst, &error), SP_INVALID);
    two[1].w = 0;
    CHECK_INT(api->prep_batch(prep, house.stream, two, 2, dst, &error), SP_INVALID);
    two[1] = p.on;
    two[1].stride_bytes = 11;
    CHECK_INT(api->prep_batch(prep, house.stream, two, 2, dst, &error), SP_INVALID);
    two[1] = p.on;
    two[1].rgb = NULL;
    CHECK_INT(api->prep_batch(prep, house.stream, two, 2, dst, &error), SP_INVALID);
    two[1] = p.on;
    two[1].w = 1000; /* not read: too many rows in flight for the CPU's form of it, so for this one */
    two[1].h = 65500;
    two[1].stride_bytes = 3000;
    CHECK_INT(api->prep_batch(prep, house.stream, two, 2, dst, &error), SP_TOO_LARGE);
    CHECK_INT(api->resize_rgb8(prep, house.stream, &p.on, dst, 0, 1, 3, &error), SP_INVALID);
    CHECK_INT(api->resize_rgb8(prep, house.stream, &p.on, dst, 8193, 1, 30000, &error), SP_INVALID);
    CHECK_INT(api->resize_rgb8(prep, house.stream, &p.on, dst, 2, 1, 5, &error), SP_INVALID);
    sp_cuda_yuv yuv = { .y = dst, .u = dst, .y_stride_bytes = 3, .uv_stride_bytes = 4, .w = 4, .h = 4 };
    CHECK_INT(api->yuv_to_rgb8(house.stream, &yuv, dst, 12, &error), SP_INVALID);
    if (house.shim)
        house.shim->counters(&after);
    CHECK_INT(after.launches + after.copies, before.launches + before.copies);
    house.api->release(house.cuda, dst);
    picture_free(&house, &p);
    api->prep_free(prep);
    cuda_house_done(&house);
}

/* Each call of CUDA's fails once; afterwards the same prep answers as if nothing had been. */
TEST(prep_survives_calls_that_fail)
{
    static const char *const names[] = { "cudaMallocFromPoolAsync", "cudaHostAlloc", "cudaMallocHost", "cudaEventCreateWithFlags",
                                         "cudaMemcpyAsync", "cudaEventRecord", "cudaLaunchKernel", "cudaStreamIsCapturing",
                                         "cudaDeviceGetAttribute", "cudaGetDevice" };
    cuda_house house;
    CUDA_HOUSE(&house);
    if (!house.shim) {
        cuda_house_done(&house);
        SKIP("calls fail on the stand-in only");
    }
    sp_prep_spec spec = imagenet;
    spec.resize_w = spec.crop_w = spec.crop_h = 16;
    spec.resize_h = 16;
    spec.fit = SP_FIT_STRETCH;
    picture pictures[2] = { picture_new(&house, 40, 30, 0, 0), picture_new(&house, 10, 200, 0, 0) };
    sp_cuda_picture on[2] = { pictures[0].on, pictures[1].on };
    uint8_t *dst = cuda_house_put(&house, NULL, 2 * sp_prep_output_bytes(&spec));
    int failures = 0;
    for (size_t i = 0; i < SP_ARRAY_LEN(names); i++) {
        for (unsigned nth = 1; nth <= 9; nth++) {
            sp_error error = { 0 };
            sp_cuda_prep *prep = NULL;
            house.shim->reset();
            house.shim->fail(names[i], nth, 2, 1);
            sp_status s = house.api->prep->prep_new(house.cuda, &spec, 2, &prep, &error);
            bool made = !s;
            if (made)
                s = house.api->prep->prep_batch(prep, house.stream, on, 2, dst, &error);
            failures += s != SP_OK;
            CHECK((s != SP_OK) == (house.shim->failed() != 0));
            if (s != SP_OK)
                CHECK_INT(s, SP_NOMEM);
            house.shim->reset();
            CHECK_INT(house.api->stream_sync(house.stream, &error), SP_OK);
            if (made)
                compare_batch(&house, prep, &spec, pictures, 2, 0);
            house.api->prep->prep_free(prep);
        }
    }
    CHECK(failures >= 15);
    house.api->release(house.cuda, dst);
    picture_free(&house, &pictures[0]);
    picture_free(&house, &pictures[1]);
    cuda_house_done(&house);
}
