/* SPDX-License-Identifier: Apache-2.0
 * Every row op of plane.inc against its scalar reference: all short lengths and some long ones, misaligned rows, sources that
 * end in a forbidden page where the contract allows no slack, guard bytes behind what is written. */
#include "plane_twins.h"

#include "kernels/plane_arith.h"
#include "kernels/plane_rows.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD 0xa5
#define MOST 3000 /* elements of a row */
#define ROUNDS 160

/* A buffer whose end is the end of readable memory; made once, elements are taken from its end. */
typedef struct fence {
    uint8_t *map, *end;
    size_t map_bytes;
} fence;

static fence fence_new(size_t size_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size_bytes + page - 1) / page * page + page;
    fence f = { .map_bytes = whole };
    f.map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(f.map != MAP_FAILED);
    REQUIRE(mprotect(f.map + whole - page, page, PROT_NONE) == 0);
    f.end = f.map + whole - page;
    for (uint8_t *p = f.map; p < f.end; p += 8) {
        uint64_t v = test_random();
        memcpy(p, &v, 8);
    }
    return f;
}

static void fence_free(fence *f)
{
    (void)munmap(f->map, f->map_bytes);
}

/* 1, 2, 3, ... and then lengths of any size. */
static int length_of(int round)
{
    return round < 100 ? round + 1 : test_random_between(1, MOST);
}

/* Pixels as pictures have them (plateaus, steps, extremes), so that ties and saturation happen. */
static void fill_pixels(uint8_t *p, size_t n)
{
    int kind = (int)(test_random() % 4);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = test_random();
        if (kind == 0)
            p[i] = (uint8_t)r;
        else if (kind == 1)
            p[i] = r % 8 ? (i ? p[i - 1] : 0) : (uint8_t)(r >> 8);
        else if (kind == 2)
            p[i] = r % 16 ? 0 : 255;
        else
            p[i] = (uint8_t)(100 + (r & 3));
    }
}

/* Room for `size_bytes`, SP_PLANE_SLACK beyond, and a margin of 64 before; filled with GUARD. */
static uint8_t *own_new(size_t size_bytes)
{
    size_t all = SP_ALIGN_UP(size_bytes + 128 + SP_PLANE_SLACK, (size_t)64);
    uint8_t *p = aligned_alloc(64, all);
    REQUIRE(p != NULL);
    memset(p, GUARD, all);
    return p + 64;
}

static void own_free(void *p)
{
    free((uint8_t *)p - 64);
}

static bool all_guard(const uint8_t *p, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        if (p[i] != GUARD)
            return false;
    }
    return true;
}

/* dst and 64 guard bytes behind it hold what the reference wrote. */
#define CHECK_EXACT(expected, got, size_bytes)                                    \
    do {                                                                          \
        CHECK_BYTES(expected, got, size_bytes);                                   \
        CHECK(all_guard((const uint8_t *)(got) + (size_bytes), 64));              \
        CHECK(all_guard((const uint8_t *)(got) - 16, 16));                        \
    } while (0)

typedef struct pair {
    uint8_t *a, *b; /* what the reference and the twin write */
} pair;

static pair pair_new(size_t size_bytes)
{
    return (pair){ own_new(size_bytes + 64), own_new(size_bytes + 64) };
}

static void pair_free(pair p)
{
    own_free(p.a);
    own_free(p.b);
}

typedef void one_in_fn(const sp_kernel_table *t, uint8_t *dst, const uint8_t *src, int n, int extra);
typedef void two_in_fn(const sp_kernel_table *t, uint8_t *dst, const uint8_t *a, const uint8_t *b, int n);

static sp_kernel_table reference(void)
{
    sp_kernel_table table;
    REQUIRE(sp_kernels_at(SP_LEVEL_SCALAR, &table));
    return table;
}

/* An op of one source, read and written to the element; also in place where that is allowed. */
static void check_one_in(const sp_kernel_table *twin, one_in_fn *run, int element_bytes, bool in_place)
{
    sp_kernel_table c = reference();
    fence f = fence_new(MOST * 2);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), extra = (int)(test_random() & 255), shift = (int)(test_random() % 3);
        uint8_t *src = f.end - (size_t)n * (size_t)element_bytes;
        pair p = pair_new((size_t)n + 8);
        if (element_bytes == 1)
            fill_pixels(src, (size_t)n);
        run(&c, p.a + shift, src, n, extra);
        run(twin, p.b + shift, src, n, extra);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        if (in_place) {
            memcpy(p.b + shift, src, (size_t)n);
            run(twin, p.b + shift, p.b + shift, n, extra);
            CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        }
        pair_free(p);
    }
    fence_free(&f);
}

static void check_two_in(const sp_kernel_table *twin, two_in_fn *run)
{
    sp_kernel_table c = reference();
    fence f = fence_new(MOST), g = fence_new(MOST);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), shift = (int)(test_random() % 3);
        uint8_t *a = f.end - n, *b = g.end - n;
        pair p = pair_new((size_t)n + 8);
        fill_pixels(a, (size_t)n);
        fill_pixels(b, (size_t)n);
        run(&c, p.a + shift, a, b, n);
        run(twin, p.b + shift, a, b, n);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        memcpy(p.b + shift, a, (size_t)n);
        run(twin, p.b + shift, p.b + shift, b, n);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        memcpy(p.b + shift, b, (size_t)n);
        run(twin, p.b + shift, a, p.b + shift, n);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        pair_free(p);
    }
    fence_free(&f);
    fence_free(&g);
}

static void run_grey_y8(const sp_kernel_table *t, uint8_t *dst, const uint8_t *src, int n, int extra)
{
    (void)extra;
    t->grey_y8(dst, src, n);
}

void check_grey_y8(const sp_kernel_table *twin)
{
    check_one_in(twin, run_grey_y8, 1, true);
    uint8_t all[256], expected[256];
    for (int i = 0; i < 256; i++) {
        all[i] = (uint8_t)i;
        expected[i] = sp_grey_expand(i);
    }
    twin->grey_y8(all, all, 256);
    CHECK_BYTES(all, expected, 256);
}

static void run_grey_y16(const sp_kernel_table *t, uint8_t *dst, const uint8_t *src, int n, int extra)
{
    t->grey_y16(dst, (const uint16_t *)(const void *)src, n, 9 + extra % 8, extra & 128);
}

void check_grey_y16(const sp_kernel_table *twin)
{
    check_one_in(twin, run_grey_y16, 2, false);
}

void check_grey_rgb8(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    fence f = fence_new(MOST * 4);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), step = round & 1 ? 3 : 4, r = round & 2 ? 0 : 2;
        const uint8_t *src = f.end - n * step;
        pair p = pair_new((size_t)n);
        c.grey_rgb8(p.a, src, n, step, r, 1, 2 - r);
        twin->grey_rgb8(p.b, src, n, step, r, 1, 2 - r);
        CHECK_EXACT(p.a, p.b, (size_t)n);
        pair_free(p);
    }
    fence_free(&f);
}

/* Weights of 1/256 that add up to 256. */
static int random_weights(uint16_t *weight)
{
    int taps = 2 * test_random_between(0, 15) + 1, left = 256;
    for (int i = 0; i < taps / 2; i++) {
        int v = test_random_between(0, left / 2 < 20 ? left / 2 : 20);
        weight[i] = weight[taps - 1 - i] = (uint16_t)v;
        left -= 2 * v;
    }
    weight[taps / 2] = (uint16_t)left;
    return taps;
}

void check_blur_across(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    for (int round = 0; round < ROUNDS; round++) {
        uint16_t weight[31];
        int n = length_of(round), taps = random_weights(weight), shift = (int)(test_random() % 64);
        uint8_t *src = own_new((size_t)n + 128);
        pair p = pair_new((size_t)n * 2);
        fill_pixels(src, (size_t)n + 128);
        c.blur_across((uint16_t *)(void *)p.a, src + shift, weight, taps, n);
        twin->blur_across((uint16_t *)(void *)p.b, src + shift, weight, taps, n);
        CHECK_BYTES(p.a, p.b, (size_t)n * 2);
        own_free(src);
        pair_free(p);
    }
}

void check_blur_down(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    uint16_t *rows[31];
    for (int i = 0; i < 31; i++) {
        rows[i] = (uint16_t *)(void *)own_new(MOST * 2);
        for (int k = 0; k < MOST; k++)
            rows[i][k] = (uint16_t)(test_random() % 8 ? test_random() % 65281 : 65280);
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint16_t weight[31];
        int n = length_of(round), taps = random_weights(weight), shift = (int)(test_random() % 3);
        pair p = pair_new((size_t)n + 8);
        c.blur_down(p.a + shift, (const uint16_t *const *)rows, weight, taps, n);
        twin->blur_down(p.b + shift, (const uint16_t *const *)rows, weight, taps, n);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        pair_free(p);
    }
    for (int i = 0; i < 31; i++)
        own_free(rows[i]);
}

/* Three own rows of pixels with one readable on either side. */
static void three_new(uint8_t *rows[3])
{
    for (int i = 0; i < 3; i++) {
        rows[i] = own_new(MOST + 8);
        fill_pixels(rows[i] - 1, MOST + 8);
    }
}

static void three_free(uint8_t *rows[3])
{
    for (int i = 0; i < 3; i++)
        own_free(rows[i]);
}

void check_sobel3(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *rows[3];
        int n = length_of(round), shift = 2 * (int)(test_random() % 3);
        three_new(rows);
        pair x = pair_new((size_t)n * 2 + 8), y = pair_new((size_t)n * 2 + 8);
        c.sobel3((int16_t *)(void *)(x.a + shift), (int16_t *)(void *)(y.a + shift), (const uint8_t *const *)rows, n);
        twin->sobel3((int16_t *)(void *)(x.b + shift), (int16_t *)(void *)(y.b + shift), (const uint8_t *const *)rows, n);
        CHECK_EXACT(x.a + shift, x.b + shift, (size_t)n * 2);
        CHECK_EXACT(y.a + shift, y.b + shift, (size_t)n * 2);
        pair_free(x);
        pair_free(y);
        three_free(rows);
    }
}

void check_sobel_wide(const sp_kernel_table *twin)
{
    uint8_t *rows[7];
    int16_t *spare = (int16_t *)(void *)own_new((MOST + 8) * 4);
    for (int i = 0; i < 7; i++)
        rows[i] = own_new(MOST + 8);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), aperture = round & 1 ? 5 : 7;
        bool sixteenth = aperture == 7 && round & 2;
        for (int i = 0; i < 7; i++)
            fill_pixels(rows[i] - 3, (size_t)n + 6);
        pair x = pair_new((size_t)n * 2), y = pair_new((size_t)n * 2);
        sp_sobel_wide_c((int16_t *)(void *)x.a, (int16_t *)(void *)y.a, (const uint8_t *const *)rows, aperture, n, sixteenth, spare);
        twin->sobel_wide((int16_t *)(void *)x.b, (int16_t *)(void *)y.b, (const uint8_t *const *)rows, aperture, n, sixteenth, spare);
        CHECK_EXACT(x.a, x.b, (size_t)n * 2);
        CHECK_EXACT(y.a, y.b, (size_t)n * 2);
        pair_free(x);
        pair_free(y);
    }
    for (int i = 0; i < 7; i++)
        own_free(rows[i]);
    own_free(spare);
}

void check_box_down(const sp_kernel_table *twin)
{
    fence f = fence_new(MOST), g = fence_new(MOST);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        pair p = pair_new((size_t)n * 2);
        for (int i = 0; i < n; i++)
            ((uint16_t *)(void *)p.a)[i] = (uint16_t)test_random_between(255, 64000);
        memcpy(p.b, p.a, (size_t)n * 2);
        sp_box_down_c((uint16_t *)(void *)p.a, f.end - n, g.end - n, n);
        twin->box_down((uint16_t *)(void *)p.b, f.end - n, g.end - n, n);
        CHECK_EXACT(p.a, p.b, (size_t)n * 2);
        pair_free(p);
    }
    fence_free(&f);
    fence_free(&g);
}

void check_box_across(const sp_kernel_table *twin)
{
    uint16_t *column = (uint16_t *)(void *)own_new((MOST + 256) * 2);
    uint32_t *spare = (uint32_t *)(void *)own_new(MOST * 4);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), k = test_random_between(1, round % 3 ? 255 : 16);
        for (int i = 0; i < n + k; i++)
            column[i] = (uint16_t)test_random_between(0, 255 * k);
        pair p = pair_new((size_t)n + 8);
        sp_box_across_c(p.a + 1, column, k, n, spare);
        twin->box_across(p.b + 1, column, k, n, spare);
        CHECK_EXACT(p.a + 1, p.b + 1, (size_t)n);
        pair_free(p);
    }
    own_free(column);
    own_free(spare);
}

void check_sizes32(const sp_kernel_table *twin)
{
    int16_t *dx = (int16_t *)(void *)own_new(MOST * 2), *dy = (int16_t *)(void *)own_new(MOST * 2);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        for (int i = 0; i < n; i++) {
            dx[i] = (int16_t)test_random_between(-12240, 12240);
            dy[i] = (int16_t)test_random_between(-12240, 12240);
        }
        pair p = pair_new((size_t)n * 4);
        sp_sizes32_c((int32_t *)(void *)p.a, dx, dy, n, round & 1);
        twin->sizes32((int32_t *)(void *)p.b, dx, dy, n, round & 1);
        CHECK_EXACT(p.a, p.b, (size_t)n * 4);
        pair_free(p);
    }
    own_free(dx);
    own_free(dy);
}

void check_gradient3(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *rows[3];
        int n = length_of(round);
        three_new(rows);
        pair s = pair_new((size_t)n * 2), x = pair_new((size_t)n * 2), y = pair_new((size_t)n * 2);
        c.gradient3((uint16_t *)(void *)s.a, (int16_t *)(void *)x.a, (int16_t *)(void *)y.a, (const uint8_t *const *)rows, n);
        twin->gradient3((uint16_t *)(void *)s.b, (int16_t *)(void *)x.b, (int16_t *)(void *)y.b, (const uint8_t *const *)rows, n);
        CHECK_BYTES(s.a, s.b, (size_t)n * 2);
        CHECK_BYTES(x.a, x.b, (size_t)n * 2);
        CHECK_BYTES(y.a, y.b, (size_t)n * 2);
        pair_free(s);
        pair_free(x);
        pair_free(y);
        three_free(rows);
    }
}

/* Derivatives of any direction, the borders between directions among them, and sizes that are often equal. */
void check_maxima3(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    uint16_t *size[3];
    int16_t *dx = (int16_t *)(void *)own_new(MOST * 2), *dy = (int16_t *)(void *)own_new(MOST * 2);
    for (int i = 0; i < 3; i++)
        size[i] = (uint16_t *)(void *)own_new(MOST * 2 + 8);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), words = (n + 63) / 64, range = 1 << test_random_between(1, 11);
        int low = test_random_between(0, range), high = low + test_random_between(0, range);
        for (int i = 0; i < 3; i++) {
            for (int k = -1; k <= n; k++)
                size[i][k] = (uint16_t)(test_random() % (unsigned)range);
        }
        for (int k = 0; k < n; k++) {
            int x = test_random_between(-1020, 1020), y = test_random_between(-1020, 1020);
            if (k % 3 == 1)
                y = (int)((double)x * 0.41421356237 + test_random_between(-1, 1));
            if (k % 3 == 2)
                x = (int)((double)y * 0.41421356237 + test_random_between(-1, 1));
            dx[k] = (int16_t)(x || y ? x : 1); /* (0, 0) has size 0, which is never above `low` */
            dy[k] = (int16_t)y;
        }
        pair weak = pair_new((size_t)words * 8), strong = pair_new((size_t)words * 8);
        c.maxima3((uint64_t *)(void *)weak.a, (uint64_t *)(void *)strong.a, (const uint16_t *const *)size, dx, dy, n, low, high);
        twin->maxima3((uint64_t *)(void *)weak.b, (uint64_t *)(void *)strong.b, (const uint16_t *const *)size, dx, dy, n, low,
                      high);
        CHECK_EXACT(weak.a, weak.b, (size_t)words * 8);
        CHECK_EXACT(strong.a, strong.b, (size_t)words * 8);
        pair_free(weak);
        pair_free(strong);
    }
    for (int i = 0; i < 3; i++)
        own_free(size[i]);
    own_free(dx);
    own_free(dy);
}

void check_maxima32(const sp_kernel_table *twin)
{
    int32_t *size[3];
    int16_t *dx = (int16_t *)(void *)own_new(MOST * 2), *dy = (int16_t *)(void *)own_new(MOST * 2);
    for (int i = 0; i < 3; i++)
        size[i] = (int32_t *)(void *)own_new(MOST * 4 + 8);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), range = 1 << test_random_between(1, 28);
        int low = test_random_between(0, range), high = low + test_random_between(0, range);
        for (int i = 0; i < 3; i++) {
            for (int k = -1; k <= n; k++)
                size[i][k] = test_random_between(0, range);
        }
        for (int k = 0; k < n; k++) {
            int x = test_random_between(-12240, 12240), y = test_random_between(-12240, 12240);
            dx[k] = (int16_t)x;
            dy[k] = (int16_t)(k % 3 ? y : (int)((double)x * 0.41421356237 + test_random_between(-1, 1)));
        }
        pair weak = pair_new((size_t)n), strong = pair_new((size_t)n);
        sp_maxima32_c(weak.a, strong.a, (const int32_t *const *)size, dx, dy, n, low, high);
        twin->maxima32(weak.b, strong.b, (const int32_t *const *)size, dx, dy, n, low, high);
        CHECK_EXACT(weak.a, weak.b, (size_t)n);
        CHECK_EXACT(strong.a, strong.b, (size_t)n);
        for (int k = 0; k < n; k++) {
            int d = sp_canny_direction(dx[k], dy[k]), m = size[1][k];
            const int32_t before[4] = { size[1][k - 1], size[0][k], size[0][k - 1], size[0][k + 1] };
            const int32_t after[4] = { size[1][k + 1], size[2][k], size[2][k + 1], size[2][k - 1] };
            CHECK_INT(weak.a[k], m > low && sp_canny_maximum(d, m, before[d], after[d]));
        }
        pair_free(weak);
        pair_free(strong);
    }
    for (int i = 0; i < 3; i++)
        own_free(size[i]);
    own_free(dx);
    own_free(dy);
}

void check_mask_of_bits(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    uint64_t bits[MOST / 64 + 1];
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), shift = (int)(test_random() % 3);
        for (int i = 0; i < MOST / 64 + 1; i++)
            bits[i] = test_random() & test_random();
        pair p = pair_new((size_t)n + 8);
        c.mask_of_bits(p.a + shift, bits, n);
        twin->mask_of_bits(p.b + shift, bits, n);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        pair_free(p);
    }
}

void check_bits_of_mask(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    fence f = fence_new(MOST);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        size_t bytes = (size_t)((n + 63) / 64) * 8;
        fill_pixels(f.end - n, (size_t)n);
        pair p = pair_new(bytes);
        c.bits_of_mask((uint64_t *)(void *)p.a, f.end - n, n);
        twin->bits_of_mask((uint64_t *)(void *)p.b, f.end - n, n);
        CHECK_EXACT(p.a, p.b, bytes);
        pair_free(p);
    }
    fence_free(&f);
}

static void check_fold(sp_rows_max_fn *expected, sp_rows_max_fn *twin)
{
    uint8_t *own[20];
    fence f = fence_new(MOST);
    for (int i = 0; i < 20; i++)
        own[i] = own_new(MOST + 64);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round), count = test_random_between(1, 40), shift = (int)(test_random() % 3);
        const uint8_t *rows[40];
        for (int i = 0; i < 20; i++)
            fill_pixels(own[i], MOST + 64);
        for (int i = 0; i < count; i++)
            rows[i] = own[test_random() % 20] + test_random() % 64;
        rows[count - 1] = f.end - n;
        pair p = pair_new((size_t)n + 8);
        expected(p.a + shift, rows, count, n);
        twin(p.b + shift, rows, count, n);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        rows[0] = own[0];
        expected(p.a + shift, rows, count, n);
        memcpy(p.b, own[0], (size_t)n);
        rows[0] = p.b;
        twin(p.b, rows, count, n);
        CHECK_BYTES(p.a + shift, p.b, (size_t)n);
        pair_free(p);
    }
    for (int i = 0; i < 20; i++)
        own_free(own[i]);
    fence_free(&f);
}

void check_rows_max(const sp_kernel_table *twin)
{
    check_fold(sp_rows_max_c, twin->rows_max);
}

void check_rows_min(const sp_kernel_table *twin)
{
    check_fold(sp_rows_min_c, twin->rows_min);
}

void check_fold_box(const sp_kernel_table *twin)
{
    uint8_t *line = own_new(MOST + 64);
    fence f[8];
    for (int i = 0; i < 8; i++)
        f[i] = fence_new(MOST);
    for (int round = 0; round < 2 * ROUNDS; round++) {
        int n = length_of(round / 2), count = test_random_between(1, 8), across = test_random_between(1, 8);
        int shift = (int)(test_random() % 3);
        bool largest = round & 1;
        const uint8_t *rows[8];
        for (int i = 0; i < 8; i++) {
            fill_pixels(f[i].end - n, (size_t)n);
            rows[i] = f[i].end - n;
        }
        pair p = pair_new((size_t)n + 8);
        memset(line, largest ? 0 : 255, (size_t)n + 16);
        sp_fold_box_c(p.a + shift, line, rows, count, across, n, largest);
        memset(line, largest ? 0 : 255, (size_t)n + 16);
        twin->fold_box(p.b + shift, line, rows, count, across, n, largest);
        CHECK_EXACT(p.a + shift, p.b + shift, (size_t)n);
        for (int i = 0; i < across / 2; i++)
            CHECK_INT(line[i], largest ? 0 : 255);
        for (int i = 0; i < across; i++)
            CHECK_INT(line[across / 2 + n + i], largest ? 0 : 255);
        pair_free(p);
    }
    own_free(line);
    for (int i = 0; i < 8; i++)
        fence_free(&f[i]);
}

static void run_subtract(const sp_kernel_table *t, uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)
{
    t->subtract_u8(dst, a, b, n);
}

void check_subtract_u8(const sp_kernel_table *twin)
{
    check_two_in(twin, run_subtract);
}

void check_histogram_u8(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    for (int round = 0; round < ROUNDS; round++) {
        int w = length_of(round), h = test_random_between(1, 4);
        size_t stride = (size_t)w + test_random() % 5, bytes = stride * (size_t)(h - 1) + (size_t)w;
        fence f = fence_new(bytes);
        uint32_t a[256], b[256];
        for (int i = 0; i < 256; i++)
            a[i] = b[i] = (uint32_t)i;
        fill_pixels(f.end - bytes, bytes);
        c.histogram_u8(a, f.end - bytes, stride, w, h);
        twin->histogram_u8(b, f.end - bytes, stride, w, h);
        CHECK_BYTES(a, b, sizeof(a));
        fence_free(&f);
    }
}

void check_laplace_u8(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    fence f[3] = { fence_new(MOST + 2), fence_new(MOST + 2), fence_new(MOST + 2) };
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        const uint8_t *const rows[3] = { f[0].end - n, f[1].end - n - 1, f[2].end - n };
        int64_t sum[2] = { 5, 5 };
        uint64_t squares[2] = { 7, 7 };
        for (int i = 0; i < 3; i++)
            fill_pixels(f[i].end - n - 2, (size_t)n + 2);
        c.laplace_u8(&sum[0], &squares[0], rows, n);
        twin->laplace_u8(&sum[1], &squares[1], rows, n);
        CHECK_INT(sum[0], sum[1]);
        CHECK_INT(squares[0], squares[1]);
    }
    for (int i = 0; i < 3; i++)
        fence_free(&f[i]);
}

void check_difference_u8(const sp_kernel_table *twin)
{
    fence f = fence_new(MOST), g = fence_new(MOST);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        fill_pixels(f.end - n, (size_t)n);
        CHECK_INT(twin->difference_u8(f.end - n, g.end - n, n), sp_difference_u8_c(f.end - n, g.end - n, n));
    }
    fence_free(&f);
    fence_free(&g);
}

void check_nonzero_u8(const sp_kernel_table *twin)
{
    fence f = fence_new(MOST);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        fill_pixels(f.end - n, (size_t)n);
        CHECK_INT(twin->nonzero_u8(f.end - n, n), sp_nonzero_u8_c(f.end - n, n));
    }
    fence_free(&f);
}

static void run_threshold(const sp_kernel_table *t, uint8_t *dst, const uint8_t *src, int n, int extra)
{
    t->threshold_u8(dst, src, n, (uint8_t)extra);
}

void check_threshold_u8(const sp_kernel_table *twin)
{
    check_one_in(twin, run_threshold, 1, true);
    uint8_t all[256], out[256];
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    for (int t = 0; t < 256; t++) {
        twin->threshold_u8(out, all, 256, (uint8_t)t);
        for (int i = 0; i < 256; i++)
            CHECK(out[i] == (i > t ? 255 : 0));
    }
}

static void run_or(const sp_kernel_table *t, uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)
{
    t->or_u8(dst, a, b, n);
}

static void run_and(const sp_kernel_table *t, uint8_t *dst, const uint8_t *a, const uint8_t *b, int n)
{
    t->and_u8(dst, a, b, n);
}

void check_or_u8(const sp_kernel_table *twin)
{
    check_two_in(twin, run_or);
}

void check_and_u8(const sp_kernel_table *twin)
{
    check_two_in(twin, run_and);
}

/* A flow of any kind: plausible, exactly on the borders of octants, huge, infinite, NaN, subnormal, -0. */
static float random_flow(void)
{
    static const float odd[] = { 0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e30f, -1e30f, 3e38f, 1e-40f, -1e-40f, 16384.0f,
                                 -16384.0f, 16384.5f, 2097152.0f, -2097152.5f, 0.5f / 1024, 1.5f / 1024, -2.5f / 1024 };
    uint64_t r = test_random();
    if (r % 6 == 0)
        return odd[(r >> 8) % SP_ARRAY_LEN(odd)];
    if (r % 6 == 1)
        return (float)((int)(r >> 8 & 7) - 4);
    return (float)((int64_t)(r >> 16 & 0xffffff) - 0x800000) * (r & 1 ? 0x1p-18f : 0x1p-10f);
}

void check_measure_flow(const sp_kernel_table *twin)
{
    sp_kernel_table c = reference();
    fence f = fence_new(MOST * 4), g = fence_new(MOST * 4);
    for (int round = 0; round < ROUNDS; round++) {
        int n = length_of(round);
        float *dx = (float *)(void *)(f.end - n * 4), *dy = (float *)(void *)(g.end - n * 4);
        uint32_t threshold = (uint32_t)(test_random() % 4 ? test_random() % 20000 : test_random());
        sp_flow_measure a = { .sum_dx = 3, .max_magnitude = 9 }, b = a;
        bool huge = round % 7 == 3;
        for (int i = 0; i < n; i++) {
            dx[i] = huge ? 1e20f : random_flow();
            dy[i] = huge ? -1e20f : test_random() % 5 ? random_flow() : test_random() % 2 ? dx[i] : -dx[i];
        }
        pair p = pair_new((size_t)n);
        c.measure_flow(&a, p.a, dx, dy, n, threshold);
        twin->measure_flow(&b, p.b, dx, dy, n, threshold);
        CHECK_EXACT(p.a, p.b, (size_t)n);
        CHECK_BYTES(&a, &b, sizeof(a));
        twin->measure_flow(&b, NULL, dx, dy, n, threshold);
        c.measure_flow(&a, NULL, dx, dy, n, threshold);
        CHECK_BYTES(&a, &b, sizeof(a));
        pair_free(p);
    }
    fence_free(&f);
    fence_free(&g);
}
