/* SPDX-License-Identifier: Apache-2.0
 * The order of the work of a dense flow: which row of which level is made when, from what. All arithmetic is in the
 * kernel table's rows (flow_c.c and its twins).
 *
 * One level of a pair, three iterations: each takes eight rows further than it was, then the next one follows as far as the
 * window lets it. Rows of the two expansions are so read while they are near, and a matrix lives only until its row has
 * been summed across.
 *
 *     rows of the picture   |<- solved by 3 ->|<- by 2 ->|<- by 1 ->|
 *                           0 ................................................ h
 *     iteration 1:  update row y -> sum across -> ring of sums --(n rows)--> sum down, solve row y - n / 2 */
#include "kernels/kernels.h"

#include <string.h>

/* --- expansion --- */

/* Row y of a level's picture. */
static void image_row(const sp_flow *flow, int k, int y, float *dst, const uint8_t *grey, size_t stride_bytes,
                      sp_flow_scratch *scratch)
{
    const sp_flow_level *level = &flow->level[k];
    if (k == 0) {
        int above = y > 0 ? y - 1 : flow->h > 1 ? 1 : 0, below = y < flow->h - 1 ? y + 1 : flow->h > 1 ? flow->h - 2 : 0;
        const uint8_t *rows[3] = { grey + (size_t)above * stride_bytes, grey + (size_t)y * stride_bytes,
                                   grey + (size_t)below * stride_bytes };
        sp_kernels.flow_smooth(dst, rows, flow->w);
        return;
    }
    int taps = level->down.taps;
    for (int t = 0; t < taps; t++)
        scratch->bytes[t] = grey + (size_t)(level->down.first[y] + t) * stride_bytes;
    sp_kernels.flow_mix_u8(scratch->wide, scratch->bytes, level->down.weight + (size_t)y * (size_t)taps, taps, flow->w);
    sp_kernels.flow_across(dst, scratch->wide, &level->across);
}

void sp_flow_expand(const sp_flow *flow, sp_flow_frame *ret_frame, const uint8_t *grey, size_t stride_bytes,
                    sp_flow_scratch *scratch)
{
    int n = flow->poly.n, ring = 2 * n + 1;
    for (int k = flow->levels; k >= 0; k--) {
        const sp_flow_level *level = &flow->level[k];
        float *dst = ret_frame->data + level->offset;
        int made = 0;
        for (int y = 0; y < level->h; y++, dst += SP_FLOW_CHANNELS * level->stride) {
            for (; made < level->h && made <= y + n; made++)
                image_row(flow, k, made, scratch->image + (size_t)(made % ring) * scratch->image_stride, grey, stride_bytes,
                          scratch);
            for (int i = 0; i < ring; i++) {
                int row = SP_CLAMP(y + i - n, 0, level->h - 1);
                scratch->rows[i] = scratch->image + (size_t)(row % ring) * scratch->image_stride;
            }
            sp_kernels.flow_expand(dst, level->stride, scratch->rows, &flow->poly, scratch->spare, level->w);
        }
    }
}

/* --- pair --- */

typedef struct field { /* a flow on one level */
    float *dx, *dy;
    size_t stride;
} field;

typedef struct pass { /* one iteration's way down a level */
    float *ring;
    int updated, solved; /* rows */
} pass;

typedef struct level_work {
    const sp_flow *flow;
    const sp_flow_level *level;
    const float *a, *b; /* expansions */
    field to;
    const float *from_dx, *from_dy; /* what the level begins with: a coarser level's flow, or the caller's; NULL = zeros */
    size_t from_stride;
    int from_w;
    const sp_flow_axis *across, *down;
    int begun; /* rows of `to` that hold what it begins with */
    sp_flow_scratch *scratch;
} level_work;

static void begin_row(level_work *work, int y)
{
    const sp_flow_axis *down = work->down;
    sp_flow_scratch *scratch = work->scratch;
    for (int c = 0; c < 2; c++) {
        float *dst = (c ? work->to.dy : work->to.dx) + (size_t)y * work->to.stride;
        const float *src = c ? work->from_dy : work->from_dx;
        if (!src) {
            memset(dst, 0, sizeof(float) * (size_t)work->level->w);
            continue;
        }
        for (int t = 0; t < down->taps; t++)
            scratch->rows[t] = src + (size_t)(down->first[y] + t) * work->from_stride;
        sp_kernels.flow_mix_f32(scratch->wide, scratch->rows, down->weight + (size_t)y * (size_t)down->taps, down->taps,
                                work->from_w);
        sp_kernels.flow_across(dst, scratch->wide, work->across);
    }
}

/* Matrices of row y, summed across, into the pass's ring. */
static void update_row(const level_work *work, pass *p, int y)
{
    const sp_flow_level *level = work->level;
    sp_flow_scratch *scratch = work->scratch;
    size_t row_floats = SP_FLOW_CHANNELS * level->stride;
    const sp_flow_row row = { .a = work->a + (size_t)y * row_floats, .b = work->b, .stride = level->stride,
                              .dx = work->to.dx + (size_t)y * work->to.stride,
                              .dy = work->to.dy + (size_t)y * work->to.stride, .weight = level->weight_x,
                              .weight_y = level->weight_y[y], .y = y, .w = level->w, .h = level->h };
    float *matrix = scratch->matrix + SP_FLOW_MARGIN;
    sp_kernels.flow_update(matrix, scratch->margin_stride, &row);
    sp_kernels.flow_window(p->ring + (size_t)(y % scratch->ring_rows) * row_floats, level->stride, matrix,
                           scratch->margin_stride, &work->flow->window, scratch->spare, level->w);
}

static void solve_rows(const level_work *work, pass *p, int rows)
{
    const sp_flow_window *window = &work->flow->window;
    const sp_flow_level *level = work->level;
    sp_flow_scratch *scratch = work->scratch;
    for (int i = 0; i < window->n - 1 + rows; i++) {
        int row = SP_CLAMP(p->solved + i - window->n / 2, 0, level->h - 1);
        scratch->rows[i] = p->ring + (size_t)(row % scratch->ring_rows) * SP_FLOW_CHANNELS * level->stride;
    }
    size_t at = (size_t)p->solved * work->to.stride;
    sp_kernels.flow_solve(work->to.dx + at, work->to.dy + at, work->to.stride, scratch->rows, level->stride, window, rows,
                          level->w);
    p->solved += rows;
}

/* Up to a band of rows further, no further than `ready`; whatever can be solved then is. */
static void advance(const level_work *work, pass *p, int ready)
{
    int h = work->level->h, end = SP_MIN(ready, p->updated + SP_FLOW_BAND);
    for (; p->updated < end; p->updated++)
        update_row(work, p, p->updated);
    int solvable = p->updated == h ? h : SP_MAX(p->updated - work->flow->window.n / 2, 0);
    while (p->solved < solvable)
        solve_rows(work, p, SP_MIN(solvable - p->solved, SP_FLOW_BAND));
}

static void run_level(level_work *work)
{
    const sp_flow *flow = work->flow;
    int h = work->level->h;
    size_t ring_floats = (size_t)work->scratch->ring_rows * SP_FLOW_CHANNELS * flow->level[0].stride;
    for (int left = flow->params.iterations; left > 0; left -= SP_FLOW_FUSED) {
        int fused = SP_MIN(left, SP_FLOW_FUSED);
        pass passes[SP_FLOW_FUSED] = { 0 };
        for (int i = 0; i < fused; i++)
            passes[i].ring = work->scratch->sums + (size_t)i * ring_floats;
        while (passes[fused - 1].solved < h) {
            for (int end = SP_MIN(h, passes[0].updated + SP_FLOW_BAND); work->begun < end; work->begun++)
                begin_row(work, work->begun);
            for (int i = 0; i < fused; i++)
                advance(work, &passes[i], i ? passes[i - 1].solved : h);
        }
    }
}

void sp_flow_pair(const sp_flow *flow, const sp_flow_frame *a, const sp_flow_frame *b, const float *init_dx,
                  const float *init_dy, float *dx, float *dy, size_t stride_floats, sp_flow_scratch *scratch)
{
    level_work work = { .flow = flow, .from_dx = init_dx, .from_dy = init_dy, .from_stride = stride_floats, .from_w = flow->w,
                        .across = &flow->init_across, .down = &flow->init_down, .scratch = scratch };
    for (int k = flow->levels; k >= 0; k--) {
        const sp_flow_level *level = &flow->level[k];
        float *own = scratch->field[k & 1];
        work.level = level;
        work.a = a->data + level->offset;
        work.b = b->data + level->offset;
        work.to = k ? (field){ own, own + level->stride * (size_t)level->h, level->stride } : (field){ dx, dy, stride_floats };
        work.begun = 0;
        run_level(&work);
        work.from_dx = work.to.dx;
        work.from_dy = work.to.dy;
        work.from_stride = work.to.stride;
        work.from_w = level->w;
        if (k) {
            work.across = &level[-1].up_across;
            work.down = &level[-1].up_down;
        }
    }
}
