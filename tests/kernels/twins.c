/* SPDX-License-Identifier: Apache-2.0
 * Every op of the kernel table against its scalar reference, bit for bit: odd sizes, misaligned pointers, memory that
 * ends in a forbidden page, guard bytes behind what is written. The ops come from kernels.inc, so one without a check
 * here does not compile. */
#include "boxes.h"
#include "flow.h"
#include "kernels/axis.h"
#include "kernels/kernels.h"
#include "kernels/math.h"
#include "plane_twins.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 60
#define GUARD 0xa5

/* `size_bytes` of random bytes whose end is the end of readable memory. */
typedef struct edge {
    uint8_t *map, *data;
    size_t map_bytes;
} edge;

static edge edge_new(size_t size_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size_bytes + page - 1) / page * page + page;
    edge e = { .map_bytes = whole };
    e.map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(e.map != MAP_FAILED);
    REQUIRE(mprotect(e.map + whole - page, page, PROT_NONE) == 0);
    e.data = e.map + whole - page - size_bytes;
    for (size_t i = 0; i < size_bytes; i++)
        e.data[i] = (uint8_t)test_random();
    return e;
}

static void edge_free(edge *e)
{
    (void)munmap(e->map, e->map_bytes);
}

/* A 64-byte aligned heap block of guard bytes. */
static void *guarded(size_t size_bytes)
{
    void *p = aligned_alloc(64, (size_bytes + 127) & ~(size_t)63);
    REQUIRE(p != NULL);
    memset(p, GUARD, (size_bytes + 127) & ~(size_t)63);
    return p;
}

static bool all_guard(const uint8_t *p, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        if (p[i] != GUARD)
            return false;
    }
    return true;
}

/* One random axis, twice: packed by the reference and by the twin. */
typedef struct axis_pair {
    sp_axis_params params;
    void *memory[2];
    sp_axis axis[2];
} axis_pair;

static int random_side(void)
{
    static const int most[] = { 4, 17, 70, 700, 3000 };
    return test_random_between(1, most[test_random() % 5]);
}

static axis_pair axes_new(sp_resize_filter filter)
{
    sp_kernels_init();
    axis_pair p = { .params = { .filter = filter, .src_n = random_side(), .out_n = random_side() } };
    if (test_random() % 8 == 0)
        p.params.out_n = p.params.src_n;
    p.params.out_first = test_random_between(0, (int)p.params.out_n - 1);
    p.params.n = test_random_between(1, (int)SP_MIN(p.params.out_n - p.params.out_first, 600));
    for (int i = 0; i < 2; i++) {
        p.memory[i] = aligned_alloc(64, SP_ALIGN_UP(sp_axis_bytes(&p.params), (size_t)64));
        REQUIRE(p.memory[i] != NULL);
        memset(p.memory[i], GUARD, sp_axis_bytes(&p.params));
        sp_axis_fill(&p.params, p.memory[i], &p.axis[i]);
    }
    return p;
}

static void axes_free(axis_pair *p)
{
    free(p->memory[0]);
    free(p->memory[1]);
}

static sp_resize_filter random_antialiased(void)
{
    return test_random() % 2 ? SP_FILTER_BICUBIC : SP_FILTER_BILINEAR;
}

/* The axis is made with the table in use, so both makings go through it. */
static void check_weights(const sp_kernel_table *twin)
{
    sp_kernels_init();
    sp_kernel_table used = sp_kernels;
    for (int round = 0; round < ROUNDS; round++) {
        sp_kernels.weights = sp_weights_c;
        axis_pair p = axes_new(random_antialiased());
        sp_kernels.weights = twin->weights;
        sp_axis_fill(&p.params, p.memory[1], &p.axis[1]);
        CHECK_INT(p.axis[0].stride, p.axis[1].stride);
        CHECK_BYTES(p.axis[0].weight, p.axis[1].weight, (size_t)p.params.n * (size_t)p.axis[0].stride * 4);
        axes_free(&p);
    }
    sp_kernels = used;
}

static void check_resize_h(const sp_kernel_table *twin)
{
    for (int round = 0; round < ROUNDS; round++) {
        axis_pair p = axes_new(random_antialiased());
        size_t cols = (size_t)p.params.n * 3, block = cols * 4 + SP_COLUMN_SLACK_BYTES;
        uint8_t *out[2] = { guarded(block), guarded(block) };
        edge edges[4];
        const uint8_t *rows[4];
        for (int r = 0; r < 4; r++) {
            edges[r] = edge_new((size_t)p.params.src_n * 3 + SP_ROW_SLACK_BYTES);
            rows[r] = edges[r].data;
            if (test_random() % 4 == 0) /* extremes saturate what can saturate */
                memset(edges[r].data, test_random() % 2 ? 255 : 0, (size_t)p.params.src_n * 3);
        }
        sp_pack_h_c(&p.axis[0]);
        sp_resize_h_c(out[0], rows, &p.axis[0]);
        twin->pack_h(&p.axis[1]);
        twin->resize_h(out[1], rows, &p.axis[1]);
        CHECK_BYTES(out[0], out[1], cols * 4);
        CHECK(all_guard(out[1] + block, 64));
        for (int r = 0; r < 4; r++)
            edge_free(&edges[r]);
        free(out[0]);
        free(out[1]);
        axes_free(&p);
    }
}

static void check_resize_v(const sp_kernel_table *twin)
{
    for (int round = 0; round < ROUNDS; round++) {
        axis_pair p = axes_new(random_antialiased());
        int cols = test_random_between(1, 300), y = test_random_between(0, p.params.n - 1), most = p.axis[0].quads + 1;
        edge *edges = calloc((size_t)most, sizeof(*edges));
        const uint8_t **blocks = calloc((size_t)most, sizeof(*blocks));
        uint8_t *out[2] = { guarded((size_t)cols + SP_COLUMN_SLACK_BYTES), guarded((size_t)cols + SP_COLUMN_SLACK_BYTES) };
        REQUIRE(edges && blocks);
        for (int b = 0; b < most; b++) {
            edges[b] = edge_new((size_t)cols * 4 + SP_COLUMN_SLACK_BYTES);
            blocks[b] = edges[b].data;
        }
        sp_pack_v_c(&p.axis[0]);
        sp_resize_v_c(out[0], cols, blocks, &p.axis[0], y);
        twin->pack_v(&p.axis[1]);
        twin->resize_v(out[1], cols, blocks, &p.axis[1], y);
        CHECK_BYTES(out[0], out[1], (size_t)cols);
        CHECK(all_guard(out[1] + cols + SP_COLUMN_SLACK_BYTES, 32));
        for (int b = 0; b < most; b++)
            edge_free(&edges[b]);
        free(edges);
        free(blocks);
        free(out[0]);
        free(out[1]);
        axes_free(&p);
    }
}

/* Packing has no result of its own; it is checked by what the passes make of it. */
static void check_pack_h(const sp_kernel_table *twin)
{
    check_resize_h(twin);
}

static void check_pack_v(const sp_kernel_table *twin)
{
    check_resize_v(twin);
}

static void check_to_block(const sp_kernel_table *twin)
{
    for (int cols = 1; cols < 150; cols++) {
        edge edges[4];
        const uint8_t *rows[4];
        size_t block = (size_t)cols * 4 + SP_COLUMN_SLACK_BYTES;
        uint8_t *out[2] = { guarded(block), guarded(block) };
        for (int r = 0; r < 4; r++) {
            edges[r] = edge_new((size_t)cols + SP_ROW_SLACK_BYTES);
            rows[r] = edges[r].data;
        }
        sp_to_block_c(out[0], rows, cols);
        twin->to_block(out[1], rows, cols);
        CHECK_BYTES(out[0], out[1], (size_t)cols * 4);
        CHECK(all_guard(out[1] + block, 64));
        for (int r = 0; r < 4; r++)
            edge_free(&edges[r]);
        free(out[0]);
        free(out[1]);
    }
}

static void check_from_block(const sp_kernel_table *twin)
{
    for (int cols = 1; cols < 150; cols++) {
        edge block = edge_new((size_t)cols * 4 + SP_COLUMN_SLACK_BYTES);
        size_t room = (size_t)cols + SP_COLUMN_SLACK_BYTES;
        uint8_t *out[2] = { guarded(room), guarded(room) };
        for (int r = 0; r < 4; r++) {
            sp_from_block_c(out[0], block.data, cols, r);
            twin->from_block(out[1], block.data, cols, r);
            CHECK_BYTES(out[0], out[1], (size_t)cols);
        }
        CHECK(all_guard(out[1] + room, 32));
        edge_free(&block);
        free(out[0]);
        free(out[1]);
    }
}

static void check_plain_h(const sp_kernel_table *twin)
{
    for (int round = 0; round < ROUNDS; round++) {
        axis_pair p = axes_new(SP_FILTER_PLAIN);
        size_t cols = (size_t)p.params.n * 3, room = cols * 2 + SP_COLUMN_SLACK_BYTES;
        uint16_t *out[2] = { guarded(room), guarded(room) };
        edge row = edge_new((size_t)p.params.src_n * 3 + SP_ROW_SLACK_BYTES);
        sp_pack_h_c(&p.axis[0]);
        sp_plain_h_c(out[0], row.data, &p.axis[0]);
        twin->pack_h(&p.axis[1]);
        twin->plain_h(out[1], row.data, &p.axis[1]);
        CHECK_BYTES(out[0], out[1], cols * 2);
        CHECK(all_guard((uint8_t *)out[1] + room, 32));
        edge_free(&row);
        free(out[0]);
        free(out[1]);
        axes_free(&p);
    }
}

static void check_plain_v(const sp_kernel_table *twin)
{
    for (int cols = 1; cols < 200; cols++) {
        edge a = edge_new(((size_t)cols * 2 + SP_COLUMN_SLACK_BYTES)), b = edge_new((size_t)cols * 2 + SP_COLUMN_SLACK_BYTES);
        size_t room = (size_t)cols + SP_COLUMN_SLACK_BYTES;
        uint8_t *out[2] = { guarded(room), guarded(room) };
        uint16_t *values[2] = { (uint16_t *)(void *)a.data, (uint16_t *)(void *)b.data };
        int w1 = cols < 3 ? cols * 128 : test_random_between(0, 256);
        for (int i = 0; i < cols; i++) { /* what plain_h makes is at most 255 * 256 */
            values[0][i] = (uint16_t)(values[0][i] % 65281);
            values[1][i] = (uint16_t)(i % 7 ? values[1][i] % 65281 : 65280);
        }
        sp_plain_v_c(out[0], cols, values[0], values[1], w1);
        twin->plain_v(out[1], cols, values[0], values[1], w1);
        CHECK_BYTES(out[0], out[1], (size_t)cols);
        CHECK(all_guard(out[1] + room, 32));
        edge_free(&a);
        edge_free(&b);
        free(out[0]);
        free(out[1]);
    }
}

static sp_norm_table *random_table(void)
{
    sp_norm_table *t = guarded(sizeof(*t));
    for (int c = 0; c < 3; c++) {
        for (int x = 0; x < 256; x++) {
            uint32_t bits = (uint32_t)test_random(); /* any bits at all: a table is a table */
            uint16_t half = (uint16_t)test_random();
            memcpy(&t->f32[c][x], &bits, 4);
            t->f16[c][x] = half;
            for (int b = 0; b < 4; b++)
                t->f32_bytes[c][b][x] = (uint8_t)(bits >> (8 * b));
            for (int b = 0; b < 2; b++)
                t->f16_bytes[c][b][x] = (uint8_t)(half >> (8 * b));
        }
    }
    return t;
}

/* Exact ends: nothing beyond n is read or written, and dst need only be aligned to its element. */
static void check_norm(const sp_kernel_table *twin, size_t element)
{
    sp_norm_table *table = random_table();
    for (int n = 1; n < 300; n += n < 70 ? 1 : 13) {
        ptrdiff_t plane = n + test_random_between(0, 9);
        size_t bytes = (2 * (size_t)plane + (size_t)n) * element;
        edge src = edge_new((size_t)n * 3);
        uint8_t *out[2] = { guarded(bytes + 64), guarded(bytes + 64) };
        size_t skew = element * (size_t)test_random_between(0, 7);
        if (element == 4) {
            sp_norm_f32_c((float *)(void *)(out[0] + skew), plane, src.data, n, table);
            twin->norm_f32((float *)(void *)(out[1] + skew), plane, src.data, n, table);
        } else {
            sp_norm_f16_c((uint16_t *)(void *)(out[0] + skew), plane, src.data, n, table);
            twin->norm_f16((uint16_t *)(void *)(out[1] + skew), plane, src.data, n, table);
        }
        CHECK_BYTES(out[0], out[1], bytes + 64); /* the gaps between planes are guard bytes in both */
        edge_free(&src);
        free(out[0]);
        free(out[1]);
    }
    free(table);
}

static void check_norm_f32(const sp_kernel_table *twin)
{
    check_norm(twin, 4);
}

static void check_norm_f16(const sp_kernel_table *twin)
{
    check_norm(twin, 2);
}

static float random_score(int kind)
{
    float x = (float)((double)(test_random() >> 11) / 9007199254740992.0);
    switch (kind) {
    case 0:
        return (x - 0.5f) * 20;
    case 1:
        return (x - 0.5f) * 300; /* exp underflows, through the subnormals */
    case 2:
        return (float)test_random_between(-2, 2); /* many equal */
    default: {
        static const float odd[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-42f, 3e38f, -3e38f };
        return test_random() % 3 ? (x - 0.5f) * 20 : odd[test_random() % 8];
    }
    }
}

static edge scores_new(int n, int kind)
{
    edge e = edge_new((size_t)n * 4);
    for (int i = 0; i < n; i++) {
        float x = random_score(kind);
        memcpy(e.data + 4 * i, &x, 4);
    }
    return e;
}

static void check_softmax_f32(const sp_kernel_table *twin)
{
    for (int n = 1; n < 1100; n += n < 140 ? 1 : 61) {
        for (int kind = 0; kind < 4; kind++) {
            edge src = scores_new(n, kind), in_place = edge_new((size_t)n * 4);
            float *out[2] = { guarded((size_t)n * 4 + 64), guarded((size_t)n * 4 + 64) };
            const float *scores = (const float *)(const void *)src.data;
            sp_softmax_f32_c(out[0], scores, n);
            twin->softmax_f32(out[1], scores, n);
            CHECK_BYTES(out[0], out[1], (size_t)n * 4 + 64);
            memcpy(in_place.data, src.data, (size_t)n * 4);
            twin->softmax_f32((float *)(void *)in_place.data, (float *)(void *)in_place.data, n);
            CHECK_BYTES(out[0], in_place.data, (size_t)n * 4);
            edge_free(&src);
            edge_free(&in_place);
            free(out[0]);
            free(out[1]);
        }
    }
}

static void check_topk_f32(const sp_kernel_table *twin)
{
    for (int n = 1; n < 1100; n += n < 80 ? 1 : 61) {
        for (int kind = 0; kind < 4; kind++) {
            edge src = scores_new(n, kind);
            int k = test_random() % 2 ? SP_MIN(n, 5) : test_random_between(1, n);
            int32_t *index[2] = { guarded((size_t)k * 4 + 64), guarded((size_t)k * 4 + 64) };
            float *value[2] = { guarded((size_t)k * 4 + 64), guarded((size_t)k * 4 + 64) };
            sp_topk_f32_c(index[0], value[0], (const float *)(const void *)src.data, n, k);
            twin->topk_f32(index[1], value[1], (const float *)(const void *)src.data, n, k);
            CHECK_BYTES(index[0], index[1], (size_t)k * 4 + 64);
            CHECK_BYTES(value[0], value[1], (size_t)k * 4 + 64);
            edge_free(&src);
            for (int i = 0; i < 2; i++) {
                free(index[i]);
                free(value[i]);
            }
        }
    }
}

/* (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 when fused and 0 with two roundings; so are its neighbours. */
static void check_canary_f32(const sp_kernel_table *twin)
{
    for (int n = 1; n < 70; n++) {
        float a[80], b[80], c[80], out[80];
        for (int i = 0; i < n; i++) {
            a[i] = b[i] = (1.0f + 0x1p-12f) * (float)(1 << i % 8);
            c[i] = -(1.0f + 0x1p-11f) * (float)(1 << i % 8) * (float)(1 << i % 8);
        }
        twin->canary_f32(out, a, b, c, n);
        for (int i = 0; i < n; i++)
            CHECK(out[i] == 0.0f);
    }
}

static void at_each_level(void (*check)(const sp_kernel_table *twin))
{
    int run = 0;
    for (int level = SP_LEVEL_SCALAR; level < SP_LEVEL_COUNT; level++) {
        sp_kernel_table table;
        if (!sp_kernels_at((sp_kernel_level)level, &table))
            continue;
        run++;
        check(&table);
    }
    if (run < SP_LEVEL_COUNT)
        SKIP("this CPU has %d of the %d levels; those agree", run, SP_LEVEL_COUNT);
}

#define SP_KERNEL(name, result, parameters)     \
    TEST(kernels_twin_##name)                   \
    {                                           \
        at_each_level(check_##name);            \
    }
#include "kernels/kernels.inc"
#undef SP_KERNEL

TEST(kernels_topk_breaks_ties_by_index_and_puts_nan_last)
{
    const float x[] = { 1, NAN, 3, -INFINITY, 3, 0.0f, -0.0f, NAN, 3 };
    const int32_t expected[] = { 2, 4, 8, 0, 5, 6, 3, 1, 7 };
    int32_t index[9];
    float value[9];
    sp_topk_f32_c(index, value, x, 9, 9);
    for (int i = 0; i < 9; i++)
        CHECK_INT(index[i], expected[i]);
}

TEST(kernels_softmax_sums_to_one_or_is_nan)
{
    float x[100], y[100], sum = 0;
    for (int i = 0; i < 100; i++)
        x[i] = random_score(0);
    sp_softmax_f32_c(y, x, 100);
    for (int i = 0; i < 100; i++)
        sum += y[i];
    CHECK(fabsf(sum - 1) < 1e-5f);
    x[50] = INFINITY;
    sp_softmax_f32_c(y, x, 100);
    CHECK(isnan(y[0]) && isnan(y[99]));
    x[50] = NAN;
    sp_softmax_f32_c(y, x, 100);
    CHECK(isnan(y[0]) && isnan(y[99]));
}

TEST(kernels_exp_is_within_one_ulp)
{
    double worst = 0;
    for (int i = 0; i < 400000; i++) {
        float x = -87.3f + (float)(test_random() % 1000003) / 1000003.0f * 176.0f, y = sp_expf(x);
        double exact = exp((double)x), ulp = ldexp(1.0, ilogb(exact) - 23);
        if (exact < 3.4e38)
            worst = fmax(worst, fabs((double)y - exact) / ulp);
    }
    printf("# worst error of sp_expf: %.3f ulp\n", worst);
    CHECK(worst < 1.0);
    CHECK(sp_expf(0.0f) == 1.0f && sp_expf(-INFINITY) == 0.0f && sp_expf(INFINITY) == INFINITY && isnan(sp_expf(NAN)));
    CHECK(sp_expf(-103.0f) > 0.0f); /* a subnormal */
}

TEST(kernels_f16_rounds_to_nearest_even)
{
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
    for (int i = 0; i < 2000000; i++) {
        uint32_t bits = (uint32_t)test_random();
        float x = sp_f32_from_bits(i % 2 ? bits : (bits & 0x8fffffffu) | 0x30000000u | (bits & 0x1fu) << 23);
        _Float16 expected = (_Float16)x;
        uint16_t half;
        memcpy(&half, &expected, 2);
        if (x == x ? sp_f32_to_f16(x) != half : (sp_f32_to_f16(x) & 0x7fffu) <= 0x7c00u)
            test_fail(__FILE__, __LINE__, "%a became 0x%04x, not 0x%04x", (double)x, sp_f32_to_f16(x), half);
    }
#else
    SKIP("the compiler has no _Float16 here");
#endif
}
