/* SPDX-License-Identifier: Apache-2.0
 * The operations of plane.h as a whole, without another program: every CPU level gives the scalar level's bytes on misaligned
 * planes with gaps between their rows, in place where that is allowed, and touches no gap; what a caller may get wrong is
 * refused; long thin planes and thresholds that are no numbers are as good as any. test_plane.py compares with OpenCV. */
#include "kernels/kernels.h"
#include "kernels/plane.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 0xa5
#define GAP 24

/* A plane inside a block of guard bytes: rows begin anywhere, GAP guard bytes at least between them. */
typedef struct guarded {
    uint8_t *block;
    size_t bytes;
    sp_plane plane;
} guarded;

static guarded guarded_new(int w, int h)
{
    size_t stride = (size_t)w + GAP + test_random() % 8, before = GAP + test_random() % 8;
    guarded g = { .bytes = stride * (size_t)h + before };
    g.block = malloc(g.bytes);
    REQUIRE(g.block != NULL);
    memset(g.block, GUARD, g.bytes);
    g.plane = (sp_plane){ g.block + before, w, h, stride };
    return g;
}

static void guarded_fill(const guarded *g)
{
    int kind = (int)(test_random() % 4);
    for (int y = 0; y < g->plane.h; y++) {
        uint8_t *row = g->plane.data + (size_t)y * g->plane.stride_bytes;
        for (int x = 0; x < g->plane.w; x++) {
            uint64_t r = test_random();
            row[x] = kind == 0 ? (uint8_t)r : kind == 1 ? (uint8_t)(r % 12 ? 0 : 255) : kind == 2 ? (uint8_t)(100 + r % 4) :
                     (uint8_t)((x / 5 * 37 + y / 7 * 91) & 255);
        }
    }
}

static void guarded_copy(const guarded *to, const guarded *from)
{
    for (int y = 0; y < to->plane.h; y++)
        memcpy(to->plane.data + (size_t)y * to->plane.stride_bytes, from->plane.data + (size_t)y * from->plane.stride_bytes,
               (size_t)to->plane.w);
}

/* The same pixels, and the guard bytes of `got` untouched. */
static bool guarded_same(const guarded *expected, const guarded *got)
{
    const sp_plane *p = &got->plane, *q = &expected->plane;
    const uint8_t *end = got->block + got->bytes;
    for (const uint8_t *b = got->block; b < p->data; b++) {
        if (*b != GUARD)
            return false;
    }
    for (int y = 0; y < p->h; y++) {
        const uint8_t *row = p->data + (size_t)y * p->stride_bytes;
        if (memcmp(row, q->data + (size_t)y * q->stride_bytes, (size_t)p->w) != 0)
            return false;
        for (const uint8_t *b = row + p->w; b < row + p->stride_bytes && b < end; b++) {
            if (*b != GUARD)
                return false;
        }
    }
    return true;
}

typedef struct job {
    int op, shape, kw, kh, iterations, ksize, aperture;
    double sigma, low, high;
    bool l2;
} job;

enum { GAUSSIAN, BOX, CANNY, MORPH, THRESHOLD, OPERATIONS };

static void run_job(int operation, const job *j, sp_plane dst, sp_plane src, sp_plane_scratch *scratch)
{
    switch (operation) {
    case GAUSSIAN:
        sp_blur_gaussian(dst, src, j->ksize, j->sigma, scratch);
        break;
    case BOX:
        sp_blur_box(dst, src, j->kw * 4, scratch);
        break;
    case CANNY:
        sp_canny(dst, src, j->low, j->high, j->aperture, j->l2, scratch);
        break;
    case MORPH:
        sp_morph(dst, src, (sp_morph_op)j->op, (sp_morph_shape)j->shape, j->kw, j->kh, j->iterations, scratch);
        break;
    default:
        sp_threshold(dst, src, (uint8_t)j->kw);
    }
}

static job random_job(void)
{
    static const double odd[] = { NAN, INFINITY, -INFINITY, -5, 1e300, 0 };
    job j = { .op = (int)(test_random() % 7), .shape = (int)(test_random() % 3), .iterations = 1, .aperture = 3 };
    int most = test_random() % 3 ? 9 : 63;
    j.kw = test_random_between(1, most);
    j.kh = test_random_between(1, most);
    if (test_random() % 4 == 0)
        j.iterations = test_random_between(1, 4);
    j.ksize = 2 * test_random_between(0, 15) + 1;
    j.sigma = test_random() % 2 ? 0 : (double)test_random_between(1, 900) / 100;
    j.low = test_random_between(0, 200);
    j.high = test_random_between(0, 400);
    if (test_random() % 8 == 0)
        j.low = odd[test_random() % SP_ARRAY_LEN(odd)];
    if (test_random() % 3 == 0) {
        j.aperture = 3 + 2 * (int)(test_random() % 3);
        j.l2 = test_random() % 2;
    }
    return j;
}

static int levels(void)
{
    int count = 0;
    sp_kernel_table table;
    for (int level = 0; level < SP_LEVEL_COUNT; level++)
        count += sp_kernels_at((sp_kernel_level)level, &table);
    return count;
}

static void compare_levels(int w, int h)
{
    sp_kernel_table used = sp_kernels;
    sp_plane_scratch *scratch = NULL;
    REQUIRE(sp_plane_scratch_new(w, h, &scratch, NULL) == SP_OK);
    guarded src = guarded_new(w, h), expected = guarded_new(w, h), got = guarded_new(w, h);
    guarded_fill(&src);
    for (int operation = 0; operation < OPERATIONS; operation++) {
        job j = random_job();
        REQUIRE(sp_kernels_force(SP_LEVEL_SCALAR));
        run_job(operation, &j, expected.plane, src.plane, scratch);
        CHECK(guarded_same(&expected, &expected));
        for (int level = SP_LEVEL_SCALAR; level < SP_LEVEL_COUNT; level++) {
            if (!sp_kernels_force((sp_kernel_level)level))
                continue;
            run_job(operation, &j, got.plane, src.plane, scratch);
            CHECK(guarded_same(&expected, &got));
            if (operation == MORPH || operation == THRESHOLD) {
                guarded_copy(&got, &src);
                run_job(operation, &j, got.plane, got.plane, scratch);
                CHECK(guarded_same(&expected, &got));
            }
        }
    }
    free(src.block);
    free(expected.block);
    free(got.block);
    sp_plane_scratch_free(scratch);
    sp_kernels = used;
}

TEST(plane_operations_are_the_same_at_each_level)
{
    sp_kernels_init();
    for (int round = 0; round < (getenv("SPILLWAY_SANITIZER") ? 40 : 200); round++) {
        static const int most[] = { 5, 20, 80, 200 };
        compare_levels(test_random_between(1, most[test_random() % 4]), test_random_between(1, most[test_random() % 4]));
    }
    if (levels() < SP_LEVEL_COUNT)
        SKIP("this CPU has %d of the %d levels; those agree", levels(), SP_LEVEL_COUNT);
}

TEST(plane_long_and_thin_ones_are_like_any_other)
{
    sp_kernels_init();
    compare_levels(SP_PLANE_SIDE_MAX, 1);
    compare_levels(1, SP_PLANE_SIDE_MAX);
    compare_levels(2, 5000);
    compare_levels(SP_PLANE_SIDE_MAX, 3);
}

TEST(plane_scratch_refuses_sizes_that_are_none)
{
    static const struct { int w, h; sp_status status; } cases[] = {
        { 0, 5, SP_INVALID }, { 5, 0, SP_INVALID }, { -1, 5, SP_INVALID }, { SP_PLANE_SIDE_MAX + 1, 5, SP_TOO_LARGE },
        { 5, SP_PLANE_SIDE_MAX + 1, SP_TOO_LARGE },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        sp_plane_scratch *scratch = NULL;
        sp_error error = { 0 };
        CHECK_INT(sp_plane_scratch_new(cases[i].w, cases[i].h, &scratch, &error), cases[i].status);
        CHECK(scratch == NULL && error.message[0]);
    }
    sp_plane_scratch_free(NULL);
}

/* A checkerboard of lone pixels has as many regions as a plane can: the list keeps the best of them whatever its size. */
TEST(plane_regions_keep_the_first_of_very_many)
{
    enum { SIDE = 301 };
    sp_plane_scratch *scratch = NULL;
    REQUIRE(sp_plane_scratch_new(SIDE, SIDE, &scratch, NULL) == SP_OK);
    guarded mask = guarded_new(SIDE, SIDE);
    sp_region list[7];
    int lone = 0;
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            bool set = !(x & 1) && !(y & 1);
            mask.plane.data[(size_t)y * mask.plane.stride_bytes + (size_t)x] = set ? 255 : 0;
            lone += set;
        }
    }
    CHECK_INT(sp_regions_find(mask.plane, (sp_plane){ 0 }, 1, list, 7, scratch), lone);
    for (int i = 0; i < 7; i++) {
        CHECK_INT(list[i].x0, 2 * i);
        CHECK_INT(list[i].x1, 2 * i + 1);
        CHECK_INT(list[i].y0, 0);
        CHECK_INT(list[i].area, 1);
        CHECK_INT(list[i].weight, 0);
    }
    CHECK_INT(sp_regions_find(mask.plane, (sp_plane){ 0 }, 2, list, 7, scratch), 0);
    CHECK_INT(sp_regions_find(mask.plane, (sp_plane){ 0 }, 0, NULL, 0, scratch), lone);
    memset(mask.block, 9, mask.bytes);
    CHECK_INT(sp_regions_find(mask.plane, mask.plane, 1, list, 7, scratch), 1);
    CHECK_INT(list[0].area, SIDE * SIDE);
    CHECK_INT(list[0].weight, 9 * SIDE * SIDE);
    CHECK_INT(list[0].sum_x, (uint64_t)SIDE * SIDE * (SIDE - 1) / 2);
    free(mask.block);
    sp_plane_scratch_free(scratch);
}
