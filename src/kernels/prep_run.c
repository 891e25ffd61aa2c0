/* SPDX-License-Identifier: Apache-2.0
 * The fused pre-processing pass. Source rows are resampled across, four at a time, into a ring of blocks; as soon as the
 * blocks under one output row are there, that row is resampled down and goes through the value table into the planes.
 *
 *   source rows --resize_h--> ring of blocks --resize_v--> one row u8 --norm--> R G B planes
 *
 * Plain bilinear reads two source rows per output row, so its ring is two rows of 8.8 fixed point. */
#include "kernels/prep_run.h"

#include "base/limits.h"
#include "base/view.h"
#include "kernels/arith.h"
#include "kernels/axis.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

typedef struct sp_memory {
    uint8_t *data;
    size_t capacity_bytes;
} sp_memory;

/* What to do with each finished row of bytes. */
typedef struct sp_sink {
    uint8_t *dst;         /* rgb8: row 0 */
    size_t stride_bytes;  /* rgb8 */
    const sp_prep_spec *spec; /* NULL: rgb8 */
    int x0, x1, y0, y1;   /* the part of the tensor that the picture covers */
} sp_sink;

_Static_assert(sizeof(sp_prep_spec) == 40, "specs are compared and sent as bytes: no padding");

struct sp_prep_scratch {
    sp_prep_spec spec;   /* of the tables below; valid when w > 0 */
    int w, h;
    bool down_first;
    sp_pack_h_fn *packed_by; /* the level whose order the axes are in */
    sp_sink cover;
    sp_axis across, down;
    sp_norm_table *table;
    sp_prep_spec table_spec; /* divisor, mean, std of *table; filter is 255 when there is none */
    sp_memory axes, rows;
};

sp_prep_scratch *sp_prep_scratch_new(void)
{
    sp_prep_scratch *scratch = calloc(1, sizeof(*scratch));
    if (!scratch)
        return NULL;
    scratch->table_spec.filter = UINT8_MAX;
    scratch->table = aligned_alloc(64, SP_ALIGN_UP(sizeof(*scratch->table), (size_t)64));
    if (!scratch->table) {
        free(scratch);
        return NULL;
    }
    sp_kernels_init();
    return scratch;
}

void sp_prep_scratch_free(sp_prep_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->table);
    free(scratch->axes.data);
    free(scratch->rows.data);
    free(scratch);
}

static sp_status reserve(sp_memory *memory, size_t size_bytes, sp_error *reterr)
{
    if (size_bytes <= memory->capacity_bytes)
        return SP_OK;
    if (size_bytes > SP_PREP_SCRATCH_BYTES_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "this picture squeezed to that shape needs %zu MiB of rows in flight (limit %u)",
                       size_bytes >> 20, SP_PREP_SCRATCH_BYTES_MAX >> 20);
    size_t capacity = SP_ALIGN_UP(size_bytes + size_bytes / 4, (size_t)4096);
    free(memory->data);
    memory->data = aligned_alloc(64, capacity);
    memory->capacity_bytes = memory->data ? capacity : 0;
    if (!memory->data)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of resize scratch", capacity);
    memset(memory->data, 0, capacity); /* slack is read (times zero) before it is ever written */
    return SP_OK;
}

static void make_table(sp_norm_table *table, const sp_prep_spec *spec)
{
    for (int c = 0; c < 3; c++) {
        for (int x = 0; x < 256; x++) {
            float value = sp_norm_value(x, spec->divisor, spec->mean[c], spec->std[c]);
            uint32_t bits = sp_f32_bits(value);
            uint16_t half = sp_f32_to_f16(value);
            table->f32[c][x] = value;
            table->f16[c][x] = half;
            for (int b = 0; b < 4; b++)
                table->f32_bytes[c][b][x] = (uint8_t)(bits >> (8 * b));
            for (int b = 0; b < 2; b++)
                table->f16_bytes[c][b][x] = (uint8_t)(half >> (8 * b));
        }
    }
}

static void table_for(sp_prep_scratch *scratch, const sp_prep_spec *spec)
{
    const sp_prep_spec *have = &scratch->table_spec;
    if (have->filter != UINT8_MAX && memcmp(&have->divisor, &spec->divisor, sizeof(spec->divisor)) == 0 &&
        memcmp(have->mean, spec->mean, sizeof(spec->mean)) == 0 && memcmp(have->std, spec->std, sizeof(spec->std)) == 0)
        return;
    make_table(scratch->table, spec);
    scratch->table_spec = *spec;
}

/* Both axes, packed for the level in use. */
static sp_status make_axes(sp_prep_scratch *scratch, const sp_axis_params *across, const sp_axis_params *down,
                           sp_error *reterr)
{
    size_t across_bytes = sp_axis_bytes(across);
    scratch->w = 0;
    sp_status s = reserve(&scratch->axes, across_bytes + sp_axis_bytes(down), reterr);
    if (s)
        return s;
    sp_axis_fill(across, scratch->axes.data, &scratch->across);
    sp_axis_fill(down, scratch->axes.data + across_bytes, &scratch->down);
    scratch->packed_by = sp_kernels.pack_h;
    sp_kernels.pack_h(&scratch->across);
    sp_kernels.pack_v(&scratch->down);
    return SP_OK;
}

/* A source row that may be read SP_ROW_SLACK_BYTES beyond its end: the picture's own, or a copy near the picture's end. */
typedef struct sp_source {
    const uint8_t *rgb;
    size_t stride_bytes;
    int w, h;
} sp_source;

static const uint8_t *row_of(const sp_source *source, int y, uint8_t *spare)
{
    const uint8_t *row = source->rgb + (size_t)y * source->stride_bytes;
    if ((size_t)(source->h - 1 - y) * source->stride_bytes >= SP_ROW_SLACK_BYTES)
        return row;
    memcpy(spare, row, (size_t)source->w * 3);
    return spare;
}

static void fill_f32(float *dst, float value, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = value;
}

static void fill_f16(uint16_t *dst, uint16_t value, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = value;
}

static void pad_row(const sp_sink *sink, const sp_norm_table *table, int y, int x0, int x1)
{
    size_t cw = sink->spec->crop_w, plane = cw * sink->spec->crop_h, at = (size_t)y * cw + (size_t)x0;
    for (int p = 0; x1 > x0 && p < 3; p++, at += plane) {
        int c = sink->spec->fit & SP_FIT_BGR ? 2 - p : p;
        if (sink->spec->dtype == SP_DTYPE_F32)
            fill_f32((float *)(void *)sink->dst + at, table->f32[c][sink->spec->pad_value], x1 - x0);
        else
            fill_f16((uint16_t *)(void *)sink->dst + at, table->f16[c][sink->spec->pad_value], x1 - x0);
    }
}

/* Row i of the covered part is ready: `row` has (x1 - x0) RGB8 pixels. */
static void put_row(const sp_sink *sink, const sp_norm_table *table, int i, const uint8_t *row)
{
    int n = sink->x1 - sink->x0, y = sink->y0 + i;
    if (!sink->spec) {
        memcpy(sink->dst + (size_t)y * sink->stride_bytes, row, (size_t)n * 3);
        return;
    }
    size_t cw = sink->spec->crop_w, at = (size_t)y * cw + (size_t)sink->x0;
    ptrdiff_t plane = (ptrdiff_t)(cw * sink->spec->crop_h);
    if (sink->spec->fit & SP_FIT_BGR) { /* from the last plane backwards */
        at += 2 * (size_t)plane;
        plane = -plane;
    }
    if (sink->spec->dtype == SP_DTYPE_F32)
        sp_kernels.norm_f32((float *)(void *)sink->dst + at, plane, row, n, table);
    else
        sp_kernels.norm_f16((uint16_t *)(void *)sink->dst + at, plane, row, n, table);
    pad_row(sink, table, y, 0, sink->x0);
    pad_row(sink, table, y, sink->x1, sink->spec->crop_w);
}

static int first_block(const sp_axis *down, int y)
{
    return (down->first[y] - down->src_first) / 4;
}

static int end_block(const sp_axis *down, int y)
{
    return (down->first[y] - down->src_first + down->count[y] + 3) / 4;
}

/* What a run needs in scratch->rows, besides what it takes at fixed places. */
typedef struct sp_rows {
    int slots;                      /* blocks of the ring */
    size_t block_bytes, ring_bytes, list_bytes;
    size_t line_bytes, out_bytes;   /* a source row with its slack (plain: a resampled one too); rows on their way out */
    size_t total_bytes;
} sp_rows;

static int columns_of(const sp_prep_scratch *scratch)
{
    const sp_axis *across = &scratch->across;
    return (scratch->down_first ? across->src_end - across->src_first : across->n) * 3; /* only those that the crop needs */
}

/* A ring of blocks under the filter, or SP_TOO_LARGE. */
static sp_status rows_of(const sp_prep_scratch *scratch, int w, int h, sp_rows *ret_rows, sp_error *reterr)
{
    const sp_axis *down = &scratch->down;
    sp_rows rows = { .line_bytes = SP_ALIGN_UP((size_t)w * 3 + SP_ROW_SLACK_BYTES, (size_t)64) };
    for (int y = 0; y < down->n; y++)
        rows.slots = SP_MAX(rows.slots, end_block(down, y) - first_block(down, y));
    rows.block_bytes = SP_ALIGN_UP((size_t)columns_of(scratch) * 4 + SP_COLUMN_SLACK_BYTES, (size_t)64);
    if (!sp_size_mul(rows.block_bytes, (size_t)rows.slots, &rows.ring_bytes) || rows.ring_bytes > SP_PREP_SCRATCH_BYTES_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "a %dx%d picture squeezed to that shape needs more than %u MiB of rows in flight", w, h,
                       SP_PREP_SCRATCH_BYTES_MAX >> 20);
    size_t out_cols = (size_t)scratch->across.n * 3;
    rows.list_bytes = SP_ALIGN_UP((size_t)rows.slots * sizeof(uint8_t *), (size_t)64);
    rows.out_bytes = scratch->down_first ? SP_ALIGN_UP(out_cols * 5 + 2 * SP_COLUMN_SLACK_BYTES, (size_t)64)
                                         : SP_ALIGN_UP(out_cols + SP_COLUMN_SLACK_BYTES, (size_t)64);
    rows.total_bytes = (scratch->down_first ? 8 : 4) * rows.line_bytes + rows.out_bytes + rows.list_bytes + rows.ring_bytes;
    if (rows.total_bytes > SP_PREP_SCRATCH_BYTES_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "this picture squeezed to that shape needs %zu MiB of rows in flight (limit %u)",
                       rows.total_bytes >> 20, SP_PREP_SCRATCH_BYTES_MAX >> 20);
    *ret_rows = rows;
    return SP_OK;
}

/* The four source rows of block b; a last block may be short: its missing rows have no weight. */
static void block_rows(const sp_source *source, const sp_axis *down, int b, uint8_t *spare, size_t spare_bytes,
                       const uint8_t *ret_rows[4])
{
    for (int r = 0; r < 4; r++)
        ret_rows[r] = row_of(source, SP_MIN(down->src_first + 4 * b + r, down->src_end - 1), spare + (size_t)r * spare_bytes);
}

static sp_status run_across_first(sp_prep_scratch *scratch, const sp_source *source, const sp_sink *sink, sp_error *reterr)
{
    const sp_axis *across = &scratch->across, *down = &scratch->down;
    int cols = columns_of(scratch), made = 0;
    sp_rows need;
    sp_status s = rows_of(scratch, source->w, source->h, &need, reterr);
    if (!s)
        s = reserve(&scratch->rows, need.total_bytes, reterr);
    if (s)
        return s;
    int slots = need.slots;
    size_t spare_bytes = need.line_bytes, out_bytes = need.out_bytes, list_bytes = need.list_bytes, block_bytes = need.block_bytes;
    uint8_t *spare = scratch->rows.data, *out = spare + 4 * spare_bytes, *ring = out + out_bytes + list_bytes;
    const uint8_t **blocks = (const uint8_t **)(void *)(out + out_bytes), *rows[4];

    for (int y = 0; y < down->n; y++) {
        int begin = first_block(down, y), end = end_block(down, y);
        for (made = SP_MAX(made, begin); made < end; made++) {
            block_rows(source, down, made, spare, spare_bytes, rows);
            sp_kernels.resize_h(ring + (size_t)(made % slots) * block_bytes, rows, across);
        }
        for (int b = begin; b < end; b++)
            blocks[b - begin] = ring + (size_t)(b % slots) * block_bytes;
        sp_kernels.resize_v(out, cols, blocks, down, y);
        put_row(sink, scratch->table, y, out);
    }
    return SP_OK;
}

/* The other order: blocks of source rows go down into full-width rows, and four of those go across at a time. */
static sp_status run_down_first(sp_prep_scratch *scratch, const sp_source *source, const sp_sink *sink, sp_error *reterr)
{
    const sp_axis *across = &scratch->across, *down = &scratch->down;
    size_t left = (size_t)across->src_first * 3;
    int cols = columns_of(scratch), out_cols = across->n * 3, made = 0;
    sp_rows need;
    sp_status s = rows_of(scratch, source->w, source->h, &need, reterr);
    if (!s)
        s = reserve(&scratch->rows, need.total_bytes, reterr);
    if (s)
        return s;
    int slots = need.slots;
    size_t line_bytes = need.line_bytes, out_bytes = need.out_bytes, list_bytes = need.list_bytes, block_bytes = need.block_bytes;
    uint8_t *spare = scratch->rows.data, *lines = spare + 4 * line_bytes, *out = lines + 4 * line_bytes;
    uint8_t *out_block = out + out_cols + SP_COLUMN_SLACK_BYTES, *ring = out + out_bytes + list_bytes;
    const uint8_t **blocks = (const uint8_t **)(void *)(out + out_bytes), *rows[4];

    for (int y = 0; y < down->n; y++) {
        int begin = first_block(down, y), end = end_block(down, y);
        for (made = SP_MAX(made, begin); made < end; made++) {
            block_rows(source, down, made, spare, line_bytes, rows);
            for (int r = 0; r < 4; r++)
                rows[r] += left;
            sp_kernels.to_block(ring + (size_t)(made % slots) * block_bytes, rows, cols);
        }
        for (int b = begin; b < end; b++)
            blocks[b - begin] = ring + (size_t)(b % slots) * block_bytes;
        sp_kernels.resize_v(lines + (size_t)(y & 3) * line_bytes + left, cols, blocks, down, y);
        if ((y & 3) != 3 && y + 1 < down->n)
            continue;
        for (int r = 0; r < 4; r++)
            rows[r] = lines + (size_t)r * line_bytes;
        sp_kernels.resize_h(out_block, rows, across);
        for (int r = 0; r <= (y & 3); r++) {
            sp_kernels.from_block(out, out_block, out_cols, r);
            put_row(sink, scratch->table, (y & ~3) + r, out);
        }
    }
    return SP_OK;
}

static sp_status run_plain(sp_prep_scratch *scratch, const sp_source *source, const sp_sink *sink, sp_error *reterr)
{
    const sp_axis *across = &scratch->across, *down = &scratch->down;
    int cols = across->n * 3, held[2] = { -1, -1 };
    size_t spare_bytes = SP_ALIGN_UP((size_t)source->w * 3 + SP_ROW_SLACK_BYTES, (size_t)64);
    size_t out_bytes = SP_ALIGN_UP((size_t)cols + SP_COLUMN_SLACK_BYTES, (size_t)64);
    size_t line_bytes = SP_ALIGN_UP((size_t)cols * 2 + SP_COLUMN_SLACK_BYTES, (size_t)64);
    sp_status s = reserve(&scratch->rows, spare_bytes + out_bytes + 2 * line_bytes, reterr);
    if (s)
        return s;
    uint8_t *spare = scratch->rows.data, *out = spare + spare_bytes;
    uint16_t *line[2] = { (uint16_t *)(void *)(out + out_bytes), (uint16_t *)(void *)(out + out_bytes + line_bytes) };

    for (int y = 0; y < down->n; y++) {
        int top = down->first[y], bottom = down->weight[y] ? top + 1 : top;
        if (held[1] == top) { /* going up in size, the lower row of before is the upper one of now */
            uint16_t *line0 = line[0];
            line[0] = line[1];
            line[1] = line0;
            held[1] = held[0];
            held[0] = top;
        }
        if (held[0] != top)
            sp_kernels.plain_h(line[0], row_of(source, top, spare), across);
        held[0] = top;
        if (bottom != top && held[1] != bottom) {
            sp_kernels.plain_h(line[1], row_of(source, bottom, spare), across);
            held[1] = bottom;
        }
        sp_kernels.plain_v(out, cols, line[0], bottom != top ? line[1] : line[0], down->weight[y]);
        put_row(sink, scratch->table, y, out);
    }
    return SP_OK;
}

bool sp_prep_down_first(unsigned filter, int w, int h, int64_t scaled_w, int64_t scaled_h)
{
    return filter != SP_FILTER_PLAIN && !(filter & SP_FILTER_ACROSS_FIRST) && scaled_h < h &&
           h - scaled_h > 2 * (w - scaled_w);
}

static sp_status run(sp_prep_scratch *scratch, unsigned filter, const sp_source *source, const sp_sink *sink, sp_error *reterr)
{
    if (filter == SP_FILTER_PLAIN)
        return run_plain(scratch, source, sink, reterr);
    return (scratch->down_first ? run_down_first : run_across_first)(scratch, source, sink, reterr);
}

static sp_status check_source(const uint8_t *rgb, int w, int h, size_t stride_bytes, sp_error *reterr)
{
    if (!rgb || w < 1 || h < 1 || w > SP_LIMIT_IMAGE_SIDE || h > SP_LIMIT_IMAGE_SIDE)
        return SP_FAIL(reterr, SP_INVALID, "a picture of %dx%d, sides are 1 to %d", w, h, SP_LIMIT_IMAGE_SIDE);
    if (stride_bytes < (size_t)w * 3)
        return SP_FAIL(reterr, SP_INVALID, "rows of %d RGB pixels, %zu bytes apart", w, stride_bytes);
    return SP_OK;
}

/* Tables for (spec, w, h), unless they are those of the call before. */
static sp_status make_plan(const sp_prep_spec *spec, int w, int h, sp_prep_scratch *scratch, sp_error *reterr)
{
    if (scratch->w == w && scratch->h == h && scratch->packed_by == sp_kernels.pack_h &&
        memcmp(&scratch->spec, spec, sizeof(*spec)) == 0)
        return SP_OK;
    sp_prep_geometry g;
    sp_status s = sp_prep_geometry_of(spec, w, h, &g, reterr);
    if (s)
        return s;
    int x0 = (int)SP_MAX(-g.left, 0), x1 = (int)SP_MIN(g.scaled_w - g.left, spec->crop_w);
    int y0 = (int)SP_MAX(-g.top, 0), y1 = (int)SP_MIN(g.scaled_h - g.top, spec->crop_h);
    scratch->cover = (sp_sink){ .x0 = x0, .x1 = x1, .y0 = y0, .y1 = y1 };
    if (x1 <= x0 || y1 <= y0) { /* the crop lies beside the picture: nothing but padding */
        scratch->cover = (sp_sink){ .x0 = 0 };
        table_for(scratch, spec);
        scratch->spec = *spec;
        scratch->w = 0; /* no axes */
        return SP_OK;
    }
    sp_resize_filter filter = (sp_resize_filter)(spec->filter & ~SP_FILTER_ACROSS_FIRST);
    sp_axis_params across = { filter, w, g.scaled_w, x0 + g.left, x1 - x0 };
    sp_axis_params down = { filter, h, g.scaled_h, y0 + g.top, y1 - y0 };
    s = make_axes(scratch, &across, &down, reterr);
    if (s)
        return s;
    scratch->down_first = sp_prep_down_first(spec->filter, w, h, g.scaled_w, g.scaled_h);
    table_for(scratch, spec);
    scratch->spec = *spec;
    scratch->w = w;
    scratch->h = h;
    return SP_OK;
}

sp_status sp_prep_image(const sp_prep_spec *spec, const uint8_t *rgb, int w, int h, size_t stride_bytes, void *dst,
                        sp_prep_scratch *scratch, sp_error *reterr)
{
    sp_status s = check_source(rgb, w, h, stride_bytes, reterr);
    if (!s)
        s = make_plan(spec, w, h, scratch, reterr);
    if (s)
        return s;
    sp_source source = { rgb, stride_bytes, w, h };
    sp_sink sink = scratch->cover;
    sink.dst = dst;
    sink.spec = &scratch->spec;
    if (sink.x1)
        s = run(scratch, spec->filter, &source, &sink, reterr);
    for (int y = 0; !s && y < spec->crop_h; y++) {
        if (y < sink.y0 || y >= sink.y1)
            pad_row(&sink, scratch->table, y, 0, spec->crop_w);
    }
    return s;
}

sp_status sp_prep_image_check(const sp_prep_spec *spec, int w, int h, sp_prep_scratch *scratch, sp_error *reterr)
{
    sp_rows need;
    sp_status s = make_plan(spec, w, h, scratch, reterr);
    if (s || !scratch->cover.x1 || spec->filter == SP_FILTER_PLAIN)
        return s;
    return rows_of(scratch, w, h, &need, reterr);
}

sp_status sp_resize_rgb8(sp_resize_filter filter, const uint8_t *src, int src_w, int src_h, size_t src_stride_bytes,
                         uint8_t *dst, int dst_w, int dst_h, size_t dst_stride_bytes, sp_prep_scratch *scratch,
                         sp_error *reterr)
{
    sp_status s = check_source(src, src_w, src_h, src_stride_bytes, reterr);
    if (s)
        return s;
    sp_resize_filter kind = (sp_resize_filter)(filter & ~SP_FILTER_ACROSS_FIRST);
    if (kind > SP_FILTER_PLAIN || (kind == SP_FILTER_PLAIN && filter != kind) || dst_w < 1 || dst_h < 1 || dst_w > SP_PREP_SIDE_MAX || dst_h > SP_PREP_SIDE_MAX ||
        dst_stride_bytes < (size_t)dst_w * 3)
        return SP_FAIL(reterr, SP_INVALID, "resize to %dx%d by filter %d", dst_w, dst_h, (int)filter);
    sp_axis_params across = { kind, src_w, dst_w, 0, dst_w }, down = { kind, src_h, dst_h, 0, dst_h };
    s = make_axes(scratch, &across, &down, reterr);
    if (s)
        return s;
    scratch->down_first = sp_prep_down_first(filter, src_w, src_h, dst_w, dst_h);
    sp_source source = { src, src_stride_bytes, src_w, src_h };
    sp_sink sink = { .dst = dst, .stride_bytes = dst_stride_bytes, .x1 = dst_w, .y1 = dst_h };
    return run(scratch, filter, &source, &sink, reterr);
}
