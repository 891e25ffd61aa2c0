/* SPDX-License-Identifier: Apache-2.0
 * What ranking needs beside softmax and top-k, on the device: numbers gathered by index, the first one that is not finite, halves
 * widened; against what they are by definition. */
#include <math.h>
#include <stdio.h>

#include "house.h"
#include "kernels/cuda_post.h"
#include "kernels/post_arith.h"

static const int sizes[][3] = { /* rows, n, k */
    { 1, 1, 1 }, { 1, 1000, 5 }, { 3, 31, 31 }, { 9, 33, 2 }, { 32, 1000, 100 }, { 17, 257, 7 }, { 300, 10, 3 },
};

TEST(gathered_numbers_are_those_that_the_indices_name)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t at = 0; at < SP_ARRAY_LEN(sizes); at++) {
        int rows = sizes[at][0], n = sizes[at][1], k = sizes[at][2];
        size_t all = (size_t)rows * (size_t)n, picked = (size_t)rows * (size_t)k;
        uint32_t *src = malloc(all * 4), *want = malloc(picked * 4), *got = malloc(picked * 4); /* bits: NaN and all */
        int32_t *index = malloc(picked * 4);
        REQUIRE(src && want && got && index);
        for (size_t i = 0; i < all; i++)
            src[i] = (uint32_t)test_random();
        for (size_t i = 0; i < picked; i++) {
            index[i] = test_random_between(0, n - 1);
            want[i] = src[i / (size_t)k * (size_t)n + (size_t)index[i]];
        }
        float *from = cuda_house_put(&house, src, all * 4), *to = cuda_house_put(&house, NULL, picked * 4);
        int32_t *indices = cuda_house_put(&house, index, picked * 4);
        CUDA_ORDERS(&house, order) {
            sp_error err = { 0 };
            REQUIRE(house.api->fill(house.stream, to, 0xff, picked * 4, &err) == SP_OK);
            REQUIRE(house.api->post->gather_f32(house.stream, to, from, indices, rows, n, k, &err) == SP_OK);
            cuda_house_get(&house, got, to, picked * 4);
            CHECK_BYTES(got, want, picked * 4);
        }
        house.api->release(house.cuda, from);
        house.api->release(house.cuda, to);
        house.api->release(house.cuda, indices);
        free(src);
        free(want);
        free(got);
        free(index);
    }
    cuda_house_done(&house);
}

TEST(the_first_number_that_is_none_is_found)
{
    static const uint32_t bad[] = { 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffffffffu, 0x7f800001u };
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t at = 0; at < SP_ARRAY_LEN(sizes); at++) {
        int rows = sizes[at][0], n = sizes[at][1];
        size_t all = (size_t)rows * (size_t)n;
        uint32_t *src = malloc(all * 4);
        int32_t *want = malloc((size_t)rows * 4), *got = malloc((size_t)rows * 4);
        REQUIRE(src && want && got);
        for (int row = 0; row < rows; row++) {
            uint32_t *numbers = src + (size_t)row * (size_t)n;
            for (int i = 0; i < n; i++)
                numbers[i] = (uint32_t)test_random() & 0xbf7fffffu; /* finite: the exponent's top bit is off */
            for (int i = test_random_between(0, 2); i > 0; i--)
                numbers[test_random_between(0, n - 1)] = bad[test_random() % SP_ARRAY_LEN(bad)];
            for (want[row] = 0; want[row] < n && isfinite(sp_f32_from_bits(numbers[want[row]])); want[row]++) { }
        }
        float *from = cuda_house_put(&house, src, all * 4);
        int32_t *to = cuda_house_put(&house, NULL, (size_t)rows * 4);
        CUDA_ORDERS(&house, order) {
            sp_error err = { 0 };
            REQUIRE(house.api->post->first_bad_f32(house.stream, to, from, rows, n, &err) == SP_OK);
            cuda_house_get(&house, got, to, (size_t)rows * 4);
            CHECK_BYTES(got, want, (size_t)rows * 4);
        }
        house.api->release(house.cuda, from);
        house.api->release(house.cuda, to);
        free(src);
        free(want);
        free(got);
    }
    cuda_house_done(&house);
}

TEST(all_halves_are_widened_exactly)
{
    enum { ALL = 65536 };
    static uint16_t halves[ALL];
    static float want[ALL], got[ALL];
    cuda_house house;
    CUDA_HOUSE(&house);
    for (int i = 0; i < ALL; i++) {
        halves[i] = (uint16_t)i;
        want[i] = sp_f16_to_f32((uint16_t)i);
    }
    uint16_t *from = cuda_house_put(&house, halves, sizeof(halves));
    float *to = cuda_house_put(&house, NULL, sizeof(want));
    CUDA_ORDERS(&house, order) {
        sp_error err = { 0 };
        size_t count = order == 0 ? ALL : 1000u + (size_t)order;
        REQUIRE(house.api->fill(house.stream, to, 0, sizeof(want), &err) == SP_OK);
        REQUIRE(house.api->post->widen_f16(house.stream, to, from, count, &err) == SP_OK);
        cuda_house_get(&house, got, to, sizeof(got));
        CHECK_BYTES(got, want, count * sizeof(float));
        for (size_t i = count; i < ALL; i++)
            REQUIRE(got[i] == 0);
    }
    house.api->release(house.cuda, from);
    house.api->release(house.cuda, to);
    cuda_house_done(&house);
}
