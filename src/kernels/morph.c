/* SPDX-License-Identifier: Apache-2.0
 * Morphology as a chain of stages through which rows flow: a stage takes at most one row per tick and gives at most one, so
 * a close (or any number of iterations) is one pass over the picture that holds a few rows per stage, and may work in place.
 *
 * A rectangle is separable: every row is folded across, then rows are folded down; tall ones by van Herk's blocks (M. van
 * Herk, "A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels", 1992), three folds
 * per pixel whatever the height. Its iterations are one larger rectangle. Other shapes are folded from the runs of their
 * rows, iteration by iteration. What lies outside the picture never wins. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"
#include "kernels/plane_spec.h"

#include <string.h>

enum {
    RECT_MAX = SP_MORPH_SIDE_MAX + (SP_MORPH_ITERATIONS_MAX - 1) * (SP_MORPH_SIDE_MAX - 1),
    STAGES_MAX = 2 * SP_MORPH_ITERATIONS_MAX,
    DIRECT_MAX = 8, /* as many rows are folded at once; more go by steps */
    MARGIN = 64     /* before and behind rows that runs reach out of */
};

typedef struct stage {
    sp_rows_max_fn *fold;
    uint8_t outside; /* what never wins */
    bool rect;
    int w, h;
    int left, right, above, below; /* reach of the element */
    const sp_morph_element *element;
    const sp_plane *source; /* of rows that need no copy, or NULL */
    uint8_t *line;          /* pixel 0 of the row that the stage wants next */
    uint8_t *ring, *rest, *folded, *across[2];
    size_t pitch;
    int in, out, step; /* rows taken, rows given; van Herk: rows with those above and below the picture */
} stage;

size_t sp_morph_room(int w, int h)
{
    size_t rows = (size_t)SP_MIN(RECT_MAX, 3 * h), reach = (size_t)SP_CLAMP(w, SP_MORPH_SIDE_MAX, RECT_MAX);
    size_t line = SP_PLANE_TAKEN((size_t)w + 2 * reach + MARGIN), row = SP_PLANE_TAKEN(w);
    size_t rect = 2 * (3 * line + (rows + 2) * row);
    size_t runs = STAGES_MAX * SP_PLANE_TAKEN((size_t)SP_MIN(SP_MORPH_SIDE_MAX, h) * ((size_t)w + 4 * MARGIN)) + 3 * line;
    return SP_MAX(rect, runs) + 4 * row + SP_PLANE_TAKEN(sizeof(sp_morph_element));
}

/* out[i] = the fold of row[i .. i + k - 1], i < n. Longer runs are put together from runs of 4, 16, ... */
static void fold_across(const stage *s, uint8_t *out, const uint8_t *row, int k, int n)
{
    const uint8_t *rows[DIRECT_MAX], *from = row;
    int length = 1, turn = 0;
    for (; k > DIRECT_MAX * length; length *= 4) {
        uint8_t *to = s->across[turn++ & 1];
        for (int i = 0; i < 4; i++)
            rows[i] = from + i * length;
        s->fold(to, rows, 4, n + k - 4 * length);
        from = to;
    }
    int count = 0;
    for (int at = 0; at + length < k; at += length)
        rows[count++] = from + at;
    rows[count++] = from + k - length;
    s->fold(out, rows, count, n);
}

static void take_runs(stage *s, sp_plane_room *room)
{
    int slots = SP_MIN(s->element->kh, s->h);
    s->pitch = SP_ALIGN_UP((size_t)s->w, (size_t)64) + 3 * MARGIN;
    s->ring = sp_plane_take(room, (size_t)slots * s->pitch);
    memset(s->ring, s->outside, (size_t)slots * s->pitch);
    s->line = s->ring + MARGIN;
}

/* A row with room on both sides, where what never wins stands. Returns its begin. */
static uint8_t *take_line(const stage *s, sp_plane_room *room)
{
    size_t wide = (size_t)(s->left + s->w + s->right) + MARGIN;
    uint8_t *line = sp_plane_take(room, wide);
    memset(line, s->outside, wide);
    return line;
}

static bool is_tall(const stage *s)
{
    return s->above + s->below + 1 > DIRECT_MAX;
}

static void take_rect(stage *s, sp_plane_room *room)
{
    int tall = s->above + s->below + 1;
    s->pitch = SP_PLANE_TAKEN(s->w);
    s->folded = take_line(s, room);
    s->ring = sp_plane_take(room, (size_t)tall * s->pitch);
    s->rest = sp_plane_take(room, (size_t)s->w);
    s->line = is_tall(s) ? s->folded + s->left : s->ring;
    if (is_tall(s)) { /* the rows above the picture */
        for (; s->step < s->above; s->step++)
            memset(s->ring + (size_t)s->step * s->pitch, s->outside, (size_t)s->w);
        memset(s->rest, s->outside, (size_t)s->w);
    }
}

/* Few rows: those of the window that lie in the picture, folded down, then across. */
static bool rect_direct(stage *s, uint8_t *out, bool have)
{
    int tall = s->above + s->below + 1, across = s->left + s->right + 1;
    const uint8_t *rows[DIRECT_MAX];
    if (have)
        s->line = s->ring + (size_t)(++s->in % tall) * s->pitch;
    if (s->out == s->h || (s->in < s->h && s->in <= s->out + s->below))
        return false;
    int count = 0;
    for (int y = SP_MAX(s->out - s->above, 0); y <= SP_MIN(s->out + s->below, s->h - 1); y++)
        rows[count++] = s->source ? sp_plane_row(*s->source, y) : s->ring + (size_t)(y % tall) * s->pitch;
    if (across <= DIRECT_MAX && s->left == across / 2) {
        sp_kernels.fold_box(out, s->folded, rows, count, across, s->w, s->outside == 0);
    } else {
        s->fold(s->folded + s->left, rows, count, s->w);
        fold_across(s, out, s->folded, across, s->w);
    }
    s->out++;
    return true;
}

/* Rows folded down by blocks as tall as the window: `rest` is the fold of this block so far; each row of the block before has
 * become the fold of itself and all below it in that block. */
static bool rect_blocks(stage *s, uint8_t *out, bool have)
{
    int tall = s->above + s->below + 1, at = s->step % tall;
    if ((!have && s->in < s->h) || s->out == s->h)
        return false;
    uint8_t *row = s->ring + (size_t)at * s->pitch;
    if (have) {
        fold_across(s, row, s->line - s->left, s->left + s->right + 1, s->w);
        s->in++;
    } else {
        memset(row, s->outside, (size_t)s->w);
    }
    const uint8_t *both[2] = { at ? s->rest : row, row };
    s->fold(s->rest, both, 2, s->w);
    bool given = ++s->step >= tall;
    if (at == tall - 1) {
        if (given)
            memcpy(out, s->rest, (size_t)s->w);
        for (int i = tall - 2; i >= 0; i--) {
            uint8_t *to = s->ring + (size_t)i * s->pitch;
            const uint8_t *pair[2] = { to, to + s->pitch };
            s->fold(to, pair, 2, s->w);
        }
    } else if (given) {
        const uint8_t *pair[2] = { s->ring + (size_t)(at + 1) * s->pitch, s->rest };
        s->fold(out, pair, 2, s->w);
    }
    s->out += given;
    return given;
}

/* Any element: the runs of its rows, in portions of as many rows as fit the list. */
static bool runs_tick(stage *s, uint8_t *out, bool have, uint8_t *spare)
{
    enum { LIST = 64 };
    const sp_morph_element *e = s->element;
    const uint8_t *rows[LIST];
    int slots = SP_MIN(e->kh, s->h), count = 0;
    if (have)
        s->line = s->ring + (size_t)(++s->in % slots) * s->pitch + MARGIN;
    if (s->out == s->h || (s->in < s->h && s->in <= s->out + s->below))
        return false;
    for (int i = 0; i < e->kh; i++) {
        int y = s->out + i - s->above, k = e->x1[i] - e->x0[i];
        if (y < 0 || y >= s->h || k < 1)
            continue;
        const uint8_t *row = s->ring + (size_t)(y % slots) * s->pitch + MARGIN + e->x0[i] - s->left;
        if (count + SP_MIN(k, DIRECT_MAX) + 1 > LIST) {
            s->fold(spare, rows, count, s->w);
            rows[0] = spare;
            count = 1;
        }
        if (k > DIRECT_MAX) {
            /* What is gathered so far and this long run become one row. */
            uint8_t *run = s->rest;
            fold_across(s, run, row, k, s->w);
            rows[count++] = run;
            s->fold(spare, rows, count, s->w);
            rows[0] = spare;
            count = 1;
            continue;
        }
        for (int x = 0; x < k; x++)
            rows[count++] = row + x;
    }
    s->fold(out, rows, count, s->w);
    s->out++;
    return true;
}

typedef struct chain {
    stage *stages;
    int count;
    uint8_t *spare;
} chain;

/* One row in (into stages[0].line before the call) if `have`; whether a row came out at `out`. */
static bool chain_tick(chain *c, uint8_t *out, bool have)
{
    for (int i = 0; i < c->count; i++) {
        stage *s = &c->stages[i];
        uint8_t *to = i + 1 < c->count ? c->stages[i + 1].line : out;
        if (!s->rect)
            have = runs_tick(s, to, have, c->spare);
        else if (is_tall(s))
            have = rect_blocks(s, to, have);
        else
            have = rect_direct(s, to, have);
    }
    return have;
}

/* Adds the stages of one erosion or dilation. */
static void chain_add(chain *c, sp_plane_room *room, const stage *form, bool dilate, int count, uint8_t *const across[2],
                      uint8_t *rest)
{
    for (int i = 0; i < count; i++) {
        stage *s = &c->stages[c->count++];
        *s = *form;
        s->fold = dilate ? sp_kernels.rows_max : sp_kernels.rows_min;
        s->outside = dilate ? 0 : 255;
        s->across[0] = across[0];
        s->across[1] = across[1];
        s->rest = rest;
        if (s->rect)
            take_rect(s, room);
        else
            take_runs(s, room);
    }
}

/* The row y of dst from what came out of the chains. */
static void last_step(sp_plane dst, sp_plane src, sp_morph_op op, const uint8_t *a, const uint8_t *b, int y)
{
    uint8_t *out = sp_plane_row_out(dst, y);
    if (op == SP_MORPH_GRADIENT)
        sp_kernels.subtract_u8(out, a, b, src.w);
    else if (op == SP_MORPH_TOPHAT)
        sp_kernels.subtract_u8(out, sp_plane_row(src, y), a, src.w);
    else if (op == SP_MORPH_BLACKHAT)
        sp_kernels.subtract_u8(out, a, sp_plane_row(src, y), src.w);
}

static void run_chains(sp_plane dst, sp_plane src, sp_morph_op op, chain *one, chain *two, uint8_t *a, uint8_t *b)
{
    bool last = op >= SP_MORPH_GRADIENT;
    stage *const first[2] = { &one->stages[0], two->count ? &two->stages[0] : NULL };
    for (int i = 0; i < 2 && first[i]; i++) {
        if (first[i]->rect && !is_tall(first[i]) && dst.data != src.data)
            first[i]->source = &src;
    }
    for (int t = 0, y = 0; y < src.h; t++) {
        bool have = t < src.h;
        for (int i = 0; i < 2 && have && first[i]; i++) {
            if (!first[i]->source)
                memcpy(first[i]->line, sp_plane_row(src, t), (size_t)src.w);
        }
        bool given = chain_tick(one, last ? a : sp_plane_row_out(dst, y), have);
        if (two->count)
            (void)chain_tick(two, b, have); /* the same element: it gives when the first one does */
        if (!given)
            continue;
        if (last)
            last_step(dst, src, op, a, b, y);
        y++;
    }
}

void sp_morph(sp_plane dst, sp_plane src, sp_morph_op op, sp_morph_shape shape, int kw, int kh, int iterations,
              sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, src.w, src.h);
    int w = src.w, h = src.h, count = iterations;
    sp_morph_element *e = sp_plane_take(&room, sizeof(sp_morph_element));
    sp_morph_element_fill(e, kw == 1 && kh == 1 ? SP_MORPH_RECT : shape, kw, kh);
    stage form = { .w = w, .h = h, .element = e, .rect = sp_morph_element_is_rect(e) };
    form.left = kw / 2;
    form.right = kw - 1 - form.left;
    form.above = kh / 2;
    form.below = kh - 1 - form.above;
    if (form.rect) {
        form.left = SP_MIN(form.left * count, w - 1);
        form.right = SP_MIN(form.right * count, w - 1);
        form.above = SP_MIN(form.above * count, h - 1);
        form.below = SP_MIN(form.below * count, h - 1);
        count = 1;
    }
    stage stages[STAGES_MAX];
    uint8_t *a = sp_plane_take(&room, (size_t)w), *b = sp_plane_take(&room, (size_t)w);
    size_t line = (size_t)(form.left + w + form.right) + MARGIN;
    uint8_t *const across[2] = { sp_plane_take(&room, line), sp_plane_take(&room, line) };
    uint8_t *rest = form.rect ? NULL : sp_plane_take(&room, (size_t)w);
    chain one = { .stages = stages, .spare = a }, two = { .stages = stages, .spare = b };
    one.spare = two.spare = sp_plane_take(&room, (size_t)w);
    bool dilates_first = op == SP_MORPH_DILATE || op == SP_MORPH_CLOSE || op == SP_MORPH_BLACKHAT || op == SP_MORPH_GRADIENT;
    chain_add(&one, &room, &form, dilates_first, count, across, rest);
    if (op == SP_MORPH_GRADIENT) {
        two.stages += one.count;
        chain_add(&two, &room, &form, false, count, across, rest);
    } else if (op != SP_MORPH_ERODE && op != SP_MORPH_DILATE) {
        chain_add(&one, &room, &form, !dilates_first, count, across, rest);
    }
    run_chains(dst, src, op, &one, &two, a, b);
}
