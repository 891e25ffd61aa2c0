/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twins of kernels/plane.h against the scalar ones, byte by byte: planes of one pixel up to a few tiles, rows that begin
 * anywhere with guard bytes between them, every parameter, and for what is connected the pictures that make it hard: spirals,
 * checkerboards, combs, noise. In every order of threads and blocks that the stand-in for a GPU has. */
#include <stdio.h>

#include "house.h"
#include "kernels/cuda_plane.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>

#define GUARD 0xa5
#define CAPACITY 600

/* A plane on both sides: bytes at the same places of two blocks, guard bytes around and between the rows. */
typedef struct twin {
    uint8_t *host, *device;
    size_t bytes, first, stride;
    int w, h;
} twin;

typedef struct stage {
    cuda_house house;
    const sp_cuda_plane_api *plane;
    sp_cuda_plane_scratch *scratch;
    sp_plane_scratch *host_scratch;
    twin src, other, dst;
    int w, h;
    char what[160];
} stage;

static const int sizes[][2] = { { 1, 1 }, { 2, 1 }, { 1, 9 }, { 3, 2 }, { 5, 40 }, { 63, 33 }, { 64, 32 }, { 65, 31 }, { 130, 67 }, { 201, 35 } };
#define SIZES ((int)SP_ARRAY_LEN(sizes))
#define MOST_W 201
#define MOST_H 67

static twin twin_new(stage *s, int w, int h, int sample)
{
    twin t = { .w = w, .h = h, .first = (size_t)sample * (test_random() % 5), .stride = (size_t)sample * ((size_t)w + test_random() % 7) };
    if (test_random() % 3 == 0) { /* four pixels at once are possible */
        t.first = 64;
        t.stride = SP_ALIGN_UP(t.stride, (size_t)16);
    }
    t.bytes = t.first + t.stride * (size_t)h + 16;
    t.host = malloc(t.bytes);
    REQUIRE(t.host != NULL);
    memset(t.host, GUARD, t.bytes);
    t.device = cuda_house_put(&s->house, NULL, t.bytes);
    return t;
}

static void twin_free(stage *s, twin *t)
{
    free(t->host);
    s->house.api->release(s->house.cuda, t->device);
}

static void twin_send(stage *s, const twin *t)
{
    sp_error err = { 0 };
    REQUIRE(s->house.api->copy_in(s->house.stream, t->device, t->host, t->bytes, &err) == SP_OK);
    REQUIRE(s->house.api->stream_sync(s->house.stream, &err) == SP_OK);
}

static sp_plane on_host(const twin *t)
{
    return (sp_plane){ t->host + t->first, t->w, t->h, t->stride };
}

static sp_plane on_device(const twin *t)
{
    return (sp_plane){ t->device + t->first, t->w, t->h, t->stride };
}

static void same_bytes(stage *s, const void *expected, const void *device, size_t bytes)
{
    uint8_t *got = malloc(bytes);
    REQUIRE(got != NULL);
    cuda_house_get(&s->house, got, device, bytes);
    if (memcmp(expected, got, bytes) != 0) {
        size_t at = 0;
        while (((const uint8_t *)expected)[at] == got[at])
            at++;
        test_fail(__FILE__, __LINE__, "%s, %d x %d: byte %zu of %zu is %u, not %u", s->what, s->w, s->h, at, bytes, got[at],
                  ((const uint8_t *)expected)[at]);
    }
    free(got);
}

static void same(stage *s, const twin *t)
{
    same_bytes(s, t->host, t->device, t->bytes);
}

static void ok(stage *s, sp_status status, const sp_error *err)
{
    if (status)
        test_fail(__FILE__, __LINE__, "%s, %d x %d: %s", s->what, s->w, s->h, err->message);
}

#define SAY(s, ...) ((void)snprintf((s)->what, sizeof((s)->what), __VA_ARGS__))

static void open_stage(stage *s, int w, int h)
{
    sp_error err = { 0 };
    s->w = w;
    s->h = h;
    REQUIRE(s->plane->scratch_new(s->house.cuda, w, h, CAPACITY, &s->scratch, &err) == SP_OK);
    REQUIRE(sp_plane_scratch_new(w, h, &s->host_scratch, &err) == SP_OK);
    s->src = twin_new(s, w, h, 1);
    s->other = twin_new(s, w, h, 1);
    s->dst = twin_new(s, w, h, 1);
}

static void close_stage(stage *s)
{
    twin_free(s, &s->src);
    twin_free(s, &s->other);
    twin_free(s, &s->dst);
    s->plane->scratch_free(s->scratch);
    sp_plane_scratch_free(s->host_scratch);
}

static void clear(stage *s, twin *t)
{
    memset(t->host, GUARD, t->bytes);
    twin_send(s, t);
}

/* --- pictures ------------------------------------------------------------------------------------------------------ */

enum { NOISE, FLAT, BUMPS, BLOCKS, SPARSE, DENSE, CHECKER, SPIRAL, COMB, DOTS, FULL, EMPTY, PICTURES };

static uint8_t spiral_at(int x, int y, int w, int h)
{
    int ring = SP_MIN(SP_MIN(x, y), SP_MIN(w - 1 - x, h - 1 - y));
    if (ring % 4 == 0)
        return x == ring && y == ring + 1 && ring >= 4 ? 0 : 255; /* closed but for where the way in is */
    return ring % 4 < 3 && x == ring / 4 * 4 + ring % 4 && y == ring / 4 * 4 + 2 ? 255 : 0;
}

/* Squares apart from each other, weak ones and strong ones side by side: an edge that is joined to the wrong one shows. */
static uint8_t bump_at(int x, int y)
{
    uint32_t cell = (uint32_t)(x / 7) * 2654435761u ^ (uint32_t)(y / 7) * 40503u;
    int height = (cell >> 9) % 5 == 0 ? 40 : (cell >> 9) % 5 < 4 ? 7 : 0;
    return (uint8_t)(100 + (x % 7 < 3 && y % 7 < 3 ? height : 0));
}

static uint8_t pixel_of(int kind, int x, int y, int w, int h)
{
    uint64_t r = test_random();
    switch (kind) {
    case NOISE: return (uint8_t)r;
    case FLAT: return (uint8_t)(100 + r % 4);
    case BUMPS: return bump_at(x, y);
    case BLOCKS: return (uint8_t)((x / 5 * 37 + y / 7 * 91) & 255);
    case SPARSE: return r % 12 ? 0 : (uint8_t)(1 + r % 255);
    case DENSE: return r % 5 < 2 ? 0 : 255;
    case CHECKER: return (x + y) & 1 ? 200 : 0;
    case SPIRAL: return spiral_at(x, y, w, h);
    case COMB: return y % 40 == 39 || x % 2 == 0 ? 255 : 0;
    case DOTS: return x % 2 == 0 && y % 2 == 0 ? 9 : 0;
    case FULL: return 255;
    default: return 0;
    }
}

static void paint(stage *s, twin *t, int kind)
{
    for (int y = 0; y < t->h; y++) {
        for (int x = 0; x < t->w; x++)
            t->host[t->first + (size_t)y * t->stride + (size_t)x] = pixel_of(kind, x, y, t->w, t->h);
    }
    twin_send(s, t);
}

#define STAGE(s)                                         \
    stage s = { 0 };                                     \
    CUDA_HOUSE(&s.house);                                \
    s.plane = s.house.api->plane;                        \
    sp_kernels_init();                                   \
    REQUIRE(sp_kernels_force(SP_LEVEL_SCALAR))

/* In each order: some of the sizes, so that all orders together see each of them more than once. */
#define EACH_SIZE(s, order, n) \
    for (int n = (order) % 3; n < SIZES && (open_stage(&(s), sizes[n][0], sizes[n][1]), true); close_stage(&(s)), n += 3)

/* --- points and filters -------------------------------------------------------------------------------------------- */

static void check_grey(stage *s, bool limited)
{
    sp_error err = { 0 };
    int bits = test_random_between(9, 16), w = s->w, h = s->h;
    twin deep = twin_new(s, w, h, 2), rgb = twin_new(s, w * 4, h, 1);
    SAY(s, "grey_y8, limited %d", limited);
    clear(s, &s->dst);
    ok(s, s->plane->grey_y8(s->house.stream, on_device(&s->dst), s->src.device + s->src.first, s->src.stride, limited, &err), &err);
    for (int y = 0; y < h; y++)
        sp_grey_from_y8(s->dst.host + s->dst.first + (size_t)y * s->dst.stride, s->src.host + s->src.first + (size_t)y * s->src.stride, w, limited);
    same(s, &s->dst);
    SAY(s, "grey_y16 of %d bits, limited %d", bits, limited);
    for (size_t i = 0; i + 2 <= deep.bytes; i += 2) {
        uint16_t v = (uint16_t)(test_random() & ((1u << bits) - 1));
        memcpy(deep.host + i, &v, 2);
    }
    twin_send(s, &deep);
    clear(s, &s->dst);
    ok(s, s->plane->grey_y16(s->house.stream, on_device(&s->dst), (const uint16_t *)(const void *)(deep.device + deep.first), deep.stride,
                             bits, limited, &err), &err);
    for (int y = 0; y < h; y++)
        sp_grey_from_y16(s->dst.host + s->dst.first + (size_t)y * s->dst.stride,
                         (const uint16_t *)(const void *)(deep.host + deep.first + (size_t)y * deep.stride), w, bits, limited);
    same(s, &s->dst);
    SAY(s, "grey_rgb8");
    paint(s, &rgb, NOISE);
    int step = test_random_between(3, 4);
    clear(s, &s->dst);
    ok(s, s->plane->grey_rgb8(s->house.stream, on_device(&s->dst), rgb.device + rgb.first, rgb.stride, step, 2, 1, 0, &err), &err);
    for (int y = 0; y < h; y++)
        sp_grey_from_rgb8(s->dst.host + s->dst.first + (size_t)y * s->dst.stride, rgb.host + rgb.first + (size_t)y * rgb.stride, w, step, 2, 1, 0);
    same(s, &s->dst);
    twin_free(s, &deep);
    twin_free(s, &rgb);
}

static void check_joins(stage *s)
{
    sp_error err = { 0 };
    sp_plane a = on_host(&s->src), b = on_host(&s->other), out = on_host(&s->dst);
    sp_plane da = on_device(&s->src), db = on_device(&s->other), dout = on_device(&s->dst);
    uint8_t threshold = (uint8_t)test_random();
    SAY(s, "threshold %u", threshold);
    clear(s, &s->dst);
    ok(s, s->plane->threshold(s->house.stream, dout, da, threshold, &err), &err);
    sp_threshold(out, a, threshold);
    same(s, &s->dst);
    SAY(s, "or");
    ok(s, s->plane->plane_or(s->house.stream, dout, da, db, &err), &err);
    sp_plane_or(out, a, b);
    same(s, &s->dst);
    SAY(s, "and");
    ok(s, s->plane->plane_and(s->house.stream, dout, da, db, &err), &err);
    sp_plane_and(out, a, b);
    same(s, &s->dst);
    SAY(s, "max");
    ok(s, s->plane->plane_max(s->house.stream, dout, da, db, &err), &err);
    for (int y = 0; y < s->h; y++) {
        for (int x = 0; x < s->w; x++) {
            uint8_t one = a.data[(size_t)y * a.stride_bytes + (size_t)x], two = b.data[(size_t)y * b.stride_bytes + (size_t)x];
            out.data[(size_t)y * out.stride_bytes + (size_t)x] = SP_MAX(one, two);
        }
    }
    same(s, &s->dst);
}

TEST(points_give_the_same_bytes)
{
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        EACH_SIZE(s, order, n) {
            paint(&s, &s.src, NOISE);
            paint(&s, &s.other, NOISE);
            check_grey(&s, true);
            check_grey(&s, false);
            check_joins(&s);
        }
    }
    cuda_house_done(&s.house);
}

static void check_blurs(stage *s)
{
    static const int sides[] = { 1, 2, 3, 5, 8, 16, 17, 40, 255 };
    sp_error err = { 0 };
    for (int i = 0; i < 4; i++) {
        int ksize = 2 * test_random_between(0, 15) + 1;
        double sigma = i % 2 ? 0 : .3 + test_random_between(0, 90) / 10.;
        SAY(s, "gaussian of %d, sigma %g", ksize, sigma);
        clear(s, &s->dst);
        ok(s, s->plane->blur_gaussian(s->house.stream, on_device(&s->dst), on_device(&s->src), ksize, sigma, s->scratch, &err), &err);
        sp_blur_gaussian(on_host(&s->dst), on_host(&s->src), ksize, sigma, s->host_scratch);
        same(s, &s->dst);
    }
    for (int i = 0; i < 4; i++) {
        int ksize = sides[test_random() % SP_ARRAY_LEN(sides)];
        SAY(s, "box of %d", ksize);
        clear(s, &s->dst);
        ok(s, s->plane->blur_box(s->house.stream, on_device(&s->dst), on_device(&s->src), ksize, s->scratch, &err), &err);
        sp_blur_box(on_host(&s->dst), on_host(&s->src), ksize, s->host_scratch);
        same(s, &s->dst);
    }
}

static void check_sobel(stage *s, int aperture, bool reflect)
{
    sp_error err = { 0 };
    size_t stride = (size_t)s->w + 3, bytes = stride * (size_t)s->h * 2;
    uint8_t *dx = malloc(bytes), *dy = malloc(bytes);
    REQUIRE(dx && dy);
    memset(dx, GUARD, bytes);
    memset(dy, GUARD, bytes);
    void *device_dx = cuda_house_put(&s->house, dx, bytes), *device_dy = cuda_house_put(&s->house, dy, bytes);
    SAY(s, "sobel of %d, reflect %d", aperture, reflect);
    ok(s, s->plane->sobel(s->house.stream, device_dx, device_dy, stride, on_device(&s->src), aperture, reflect, s->scratch, &err), &err);
    sp_sobel((int16_t *)(void *)dx, (int16_t *)(void *)dy, stride, on_host(&s->src), aperture, reflect, s->host_scratch);
    same_bytes(s, dx, device_dx, bytes);
    same_bytes(s, dy, device_dy, bytes);
    s->house.api->release(s->house.cuda, device_dx);
    s->house.api->release(s->house.cuda, device_dy);
    free(dx);
    free(dy);
}

TEST(filters_give_the_same_bytes)
{
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        EACH_SIZE(s, order, n) {
            paint(&s, &s.src, order % 2 ? BLOCKS : NOISE);
            check_blurs(&s);
            for (int aperture = 3; aperture <= 7; aperture += 2)
                check_sobel(&s, aperture, (order + n) % 2);
        }
    }
    cuda_house_done(&s.house);
}

/* --- edges --------------------------------------------------------------------------------------------------------- */

static void check_canny(stage *s, double low, double high, int aperture, bool l2)
{
    sp_error err = { 0 };
    SAY(s, "canny %g %g, aperture %d, l2 %d", low, high, aperture, l2);
    clear(s, &s->dst);
    ok(s, s->plane->canny(s->house.stream, on_device(&s->dst), on_device(&s->src), low, high, aperture, l2, s->scratch, &err), &err);
    sp_canny(on_host(&s->dst), on_host(&s->src), low, high, aperture, l2, s->host_scratch);
    same(s, &s->dst);
}

TEST(edges_give_the_same_bytes)
{
    static const double odd[] = { -5, 0, 1e9, NAN, INFINITY };
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        EACH_SIZE(s, order, n) {
            paint(&s, &s.src, BUMPS);
            check_canny(&s, 15, 60, 3, false);
            check_canny(&s, 200, 900, 5, true);
            for (int kind = 0; kind < PICTURES; kind += 1 + (int)(test_random() % 3)) {
                int aperture = 3 + 2 * (int)(test_random() % 3);
                double scale = aperture == 3 ? 1 : aperture == 5 ? 12 : 160;
                paint(&s, &s.src, kind);
                check_canny(&s, 15, 60, 3, false);
                check_canny(&s, scale * test_random_between(0, 300), scale * test_random_between(0, 900), aperture, test_random() % 2);
            }
            check_canny(&s, odd[test_random() % SP_ARRAY_LEN(odd)], odd[test_random() % SP_ARRAY_LEN(odd)], 3, order % 2);
        }
    }
    cuda_house_done(&s.house);
}

/* A line of weak pixels through many tiles, back and forth, with one strong place at its end. */
TEST(a_weak_line_is_followed_to_its_end)
{
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        open_stage(&s, MOST_W, MOST_H);
        paint(&s, &s.src, EMPTY);
        for (int strong = 0; strong < 2; strong++) {
            for (int y = 0; y < s.h; y++) {
                for (int x = 0; x < s.w; x++) {
                    bool rung = y % 8 < 4 && x > 3 && x < s.w - 4, side = (y / 8 % 2 ? x <= 8 : x >= s.w - 9) && x > 3 && x < s.w - 4;
                    uint8_t v = rung || side ? 20 : 0;
                    s.src.host[s.src.first + (size_t)y * s.src.stride + (size_t)x] = strong && v && y < 4 && x < 40 ? 220 : v;
                }
            }
            twin_send(&s, &s.src);
            check_canny(&s, 30, 300, 3, false);
            uint64_t edges = sp_measure_nonzero(on_host(&s.dst));
            CHECK(strong ? edges > 1000 : edges == 0);
        }
        close_stage(&s);
    }
    cuda_house_done(&s.house);
}

/* --- morphology ---------------------------------------------------------------------------------------------------- */

static void check_morph(stage *s, sp_morph_op op, sp_morph_shape shape, int kw, int kh, int iterations, bool in_place)
{
    sp_error err = { 0 };
    SAY(s, "morph %d, shape %d, %d x %d, %d times, in place %d", op, shape, kw, kh, iterations, in_place);
    clear(s, &s->dst);
    twin *src = in_place ? &s->dst : &s->src;
    if (in_place)
        paint(s, &s->dst, NOISE);
    ok(s, s->plane->morph(s->house.stream, on_device(&s->dst), on_device(src), op, shape, kw, kh, iterations, s->scratch, &err), &err);
    sp_morph(on_host(&s->dst), on_host(src), op, shape, kw, kh, iterations, s->host_scratch);
    same(s, &s->dst);
}

static int some_side(void)
{
    static const int sides[] = { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 62, 63 };
    return sides[test_random() % SP_ARRAY_LEN(sides)];
}

TEST(morphology_gives_the_same_bytes)
{
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        EACH_SIZE(s, order, n) {
            paint(&s, &s.src, (int)(test_random() % 3));
            for (int op = SP_MORPH_ERODE; op <= SP_MORPH_BLACKHAT; op++) {
                check_morph(&s, (sp_morph_op)op, SP_MORPH_RECT, some_side(), some_side(), 1, op % 2 == order % 2);
                check_morph(&s, (sp_morph_op)op, (sp_morph_shape)(test_random() % 3), some_side(), some_side(), test_random_between(1, 3),
                            op % 2 != order % 2);
            }
        }
        open_stage(&s, 70, 40);
        paint(&s, &s.src, DENSE);
        check_morph(&s, SP_MORPH_CLOSE, SP_MORPH_RECT, 5, 5, 1, false);
        check_morph(&s, SP_MORPH_DILATE, SP_MORPH_RECT, 9, 4, 32, order % 2);
        check_morph(&s, SP_MORPH_GRADIENT, SP_MORPH_CROSS, 3, 3, 5, order % 2);
        check_morph(&s, SP_MORPH_TOPHAT, SP_MORPH_ELLIPSE, 63, 63, 1, order % 2);
        close_stage(&s);
    }
    cuda_house_done(&s.house);
}

/* --- regions ------------------------------------------------------------------------------------------------------- */

static void check_regions(stage *s, bool weighed, uint32_t min_area, int capacity)
{
    sp_error err = { 0 };
    sp_plane none = { 0 };
    static sp_region expected[CAPACITY], got[CAPACITY];
    sp_cuda_regions head = { 0 };
    memset(expected, 0, sizeof(expected));
    sp_cuda_regions *device_head = cuda_house_put(&s->house, NULL, sizeof(head));
    sp_region *device = cuda_house_put(&s->house, expected, sizeof(expected));
    SAY(s, "regions, weights %d, from %u pixels on, %d at most", weighed, min_area, capacity);
    ok(s, s->plane->regions_find(s->house.stream, on_device(&s->src), weighed ? on_device(&s->other) : none, min_area, device_head, device,
                                 capacity, s->scratch, &err), &err);
    int total = sp_regions_find(on_host(&s->src), weighed ? on_host(&s->other) : none, min_area, expected, capacity, s->host_scratch);
    cuda_house_get(&s->house, &head, device_head, sizeof(head));
    cuda_house_get(&s->house, got, device, sizeof(got));
    if (head.total != (uint32_t)total || head.written != (uint32_t)SP_MIN(total, capacity))
        test_fail(__FILE__, __LINE__, "%s, %d x %d: %u of %u, not %d", s->what, s->w, s->h, head.written, head.total, total);
    for (int i = 0; i < capacity; i++) {
        const sp_region *a = &expected[i], *b = &got[i];
        if (a->x0 != b->x0 || a->y0 != b->y0 || a->x1 != b->x1 || a->y1 != b->y1 || a->area != b->area || a->sum_x != b->sum_x ||
            a->sum_y != b->sum_y || a->weight != b->weight) {
            test_fail(__FILE__, __LINE__, "%s, %d x %d: region %d has area %u at %d, %d, not %u at %d, %d", s->what, s->w, s->h, i, b->area,
                      b->x0, b->y0, a->area, a->x0, a->y0);
            break;
        }
    }
    s->house.api->release(s->house.cuda, device_head);
    s->house.api->release(s->house.cuda, device);
}

TEST(regions_are_the_same)
{
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        EACH_SIZE(s, order, n) {
            paint(&s, &s.other, NOISE);
            for (int kind = SPARSE; kind < PICTURES; kind++) {
                paint(&s, &s.src, kind);
                bool few = kind == SPARSE || (kind == DOTS && order % 2); /* many dots: more than a block ranks at a time */
                check_regions(&s, kind % 2, (uint32_t)(test_random() % 4), few ? test_random_between(0, 20) : CAPACITY);
                if (kind == DOTS)
                    check_regions(&s, false, 1, few ? 0 : CAPACITY);
            }
            check_regions(&s, true, 1, 0);
        }
    }
    cuda_house_done(&s.house);
}

/* --- measures ------------------------------------------------------------------------------------------------------ */

static void check_measures(stage *s)
{
    sp_error err = { 0 };
    sp_plane_measure expected;
    uint64_t sum;
    void *device = cuda_house_put(&s->house, NULL, sizeof(expected));
    SAY(s, "measure_plane");
    ok(s, s->plane->measure_plane(s->house.stream, on_device(&s->src), device, &err), &err);
    sp_measure_plane(on_host(&s->src), &expected);
    same_bytes(s, &expected, device, sizeof(expected));
    SAY(s, "measure_difference");
    ok(s, s->plane->measure_difference(s->house.stream, on_device(&s->src), on_device(&s->other), device, &err), &err);
    sum = sp_measure_difference(on_host(&s->src), on_host(&s->other));
    same_bytes(s, &sum, device, sizeof(sum));
    SAY(s, "measure_nonzero");
    ok(s, s->plane->measure_nonzero(s->house.stream, on_device(&s->src), device, &err), &err);
    sum = sp_measure_nonzero(on_host(&s->src));
    same_bytes(s, &sum, device, sizeof(sum));
    s->house.api->release(s->house.cuda, device);
}

static float some_float(void)
{
    static const float odd[] = { 0.f, -0.f, 1.f, -1.f, INFINITY, -INFINITY, 1e30f, 1e-40f, 16384.f, 63.75f, 1.f / 2048, -3.f / 2048 };
    uint64_t r = test_random();
    if (r % 5 == 0)
        return r % 11 == 0 ? (float)NAN : odd[test_random() % SP_ARRAY_LEN(odd)];
    return (float)test_random_between(-40000, 40000) / 997.f;
}

static void check_flow(stage *s, bool masked)
{
    sp_error err = { 0 };
    sp_plane none = { 0 };
    sp_flow_measure expected;
    size_t stride = (size_t)s->w + test_random() % 5, count = stride * (size_t)s->h;
    uint32_t threshold = (uint32_t)test_random_between(0, 20000);
    float *dx = malloc(count * 4), *dy = malloc(count * 4);
    REQUIRE(dx && dy);
    for (size_t i = 0; i < count; i++) {
        dx[i] = some_float();
        dy[i] = test_random() % 7 ? some_float() : dx[i];
    }
    void *device_dx = cuda_house_put(&s->house, dx, count * 4), *device_dy = cuda_house_put(&s->house, dy, count * 4);
    void *device = cuda_house_put(&s->house, NULL, sizeof(expected));
    SAY(s, "measure_flow over %u, mask %d", threshold, masked);
    clear(s, &s->dst);
    ok(s, s->plane->measure_flow(s->house.stream, device_dx, device_dy, stride, s->w, s->h, threshold, masked ? on_device(&s->dst) : none,
                                 device, &err), &err);
    sp_measure_flow(dx, dy, stride, s->w, s->h, threshold, masked ? on_host(&s->dst) : none, &expected);
    same_bytes(s, &expected, device, sizeof(expected));
    same(s, &s->dst);
    SAY(s, "weigh_flow");
    clear(s, &s->dst);
    ok(s, s->plane->weigh_flow(s->house.stream, on_device(&s->dst), device_dx, device_dy, stride, &err), &err);
    for (int y = 0; y < s->h; y++) {
        for (int x = 0; x < s->w; x++) {
            size_t at = (size_t)y * stride + (size_t)x;
            float v = sqrtf(dx[at] * dx[at] + dy[at] * dy[at]) * 4.f;
            s->dst.host[s->dst.first + (size_t)y * s->dst.stride + (size_t)x] = (uint8_t)(int32_t)(v < 255.f ? v : 255.f);
        }
    }
    same(s, &s->dst);
    s->house.api->release(s->house.cuda, device_dx);
    s->house.api->release(s->house.cuda, device_dy);
    s->house.api->release(s->house.cuda, device);
    free(dx);
    free(dy);
}

TEST(measures_are_the_same)
{
    STAGE(s);
    CUDA_ORDERS(&s.house, order) {
        EACH_SIZE(s, order, n) {
            for (int kind = NOISE; kind <= SPARSE; kind++) {
                paint(&s, &s.src, kind);
                paint(&s, &s.other, NOISE);
                check_measures(&s);
            }
            check_flow(&s, true);
            check_flow(&s, false);
        }
    }
    cuda_house_done(&s.house);
}

/* --- as a graph ---------------------------------------------------------------------------------------------------- */

/* Nothing asks the host in between: all of it can be captured, and repeated on other pixels. */
TEST(operations_can_be_part_of_a_graph)
{
    STAGE(s);
    sp_error err = { 0 };
    sp_plane_measure expected;
    static sp_region regions[CAPACITY];
    sp_cuda_graph *graph = NULL;
    const sp_cuda_api *api = s.house.api;
    open_stage(&s, 130, 67);
    sp_plane src = on_device(&s.src), other = on_device(&s.other), dst = on_device(&s.dst);
    sp_cuda_regions head, *device_head = cuda_house_put(&s.house, NULL, sizeof(head));
    sp_region *device_regions = cuda_house_put(&s.house, NULL, sizeof(regions));
    void *device_measure = cuda_house_put(&s.house, NULL, sizeof(expected));
    clear(&s, &s.dst);
    clear(&s, &s.other);
    REQUIRE(api->graph_begin(s.house.stream, &err) == SP_OK);
    ok(&s, s.plane->morph(s.house.stream, src, src, SP_MORPH_DILATE, SP_MORPH_RECT, 3, 3, 1, s.scratch, &err), &err);
    ok(&s, s.plane->canny(s.house.stream, dst, src, 15, 60, 3, false, s.scratch, &err), &err);
    ok(&s, s.plane->blur_box(s.house.stream, other, dst, 5, s.scratch, &err), &err);
    ok(&s, s.plane->regions_find(s.house.stream, other, src, 2, device_head, device_regions, CAPACITY, s.scratch, &err), &err);
    ok(&s, s.plane->measure_plane(s.house.stream, other, device_measure, &err), &err);
    REQUIRE(api->graph_end(s.house.stream, &graph, &err) == SP_OK);
    for (int turn = 0; turn < 3; turn++) {
        SAY(&s, "graph, turn %d", turn);
        paint(&s, &s.src, turn);
        REQUIRE(api->graph_launch(graph, s.house.stream, &err) == SP_OK);
        sp_morph(on_host(&s.src), on_host(&s.src), SP_MORPH_DILATE, SP_MORPH_RECT, 3, 3, 1, s.host_scratch);
        sp_canny(on_host(&s.dst), on_host(&s.src), 15, 60, 3, false, s.host_scratch);
        sp_blur_box(on_host(&s.other), on_host(&s.dst), 5, s.host_scratch);
        int total = sp_regions_find(on_host(&s.other), on_host(&s.src), 2, regions, CAPACITY, s.host_scratch);
        sp_measure_plane(on_host(&s.other), &expected);
        same(&s, &s.dst);
        same(&s, &s.other);
        same_bytes(&s, &expected, device_measure, sizeof(expected));
        cuda_house_get(&s.house, &head, device_head, sizeof(head));
        CHECK_INT(head.total, total);
    }
    api->graph_free(graph);
    api->release(s.house.cuda, device_head);
    api->release(s.house.cuda, device_regions);
    api->release(s.house.cuda, device_measure);
    close_stage(&s);
    cuda_house_done(&s.house);
}

/* --- what is refused ----------------------------------------------------------------------------------------------- */

TEST(scratch_says_what_it_cannot_hold)
{
    STAGE(s);
    sp_error err = { 0 };
    CHECK_INT(s.plane->scratch_new(s.house.cuda, 0, 4, 1, &s.scratch, &err), SP_INVALID);
    CHECK_INT(s.plane->scratch_new(s.house.cuda, 4, SP_PLANE_SIDE_MAX + 1, 1, &s.scratch, &err), SP_TOO_LARGE);
    CHECK_INT(s.plane->scratch_new(s.house.cuda, 4, 4, 1 << 20, &s.scratch, &err), SP_TOO_LARGE);
    open_stage(&s, 8, 8);
    sp_plane large = { s.src.device, 9, 1, 9 };
    CHECK_INT(s.plane->canny(s.house.stream, large, large, 1, 2, 3, false, s.scratch, &err), SP_INTERNAL);
    close_stage(&s);
    cuda_house_done(&s.house);
}
