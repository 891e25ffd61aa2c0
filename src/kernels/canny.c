/* SPDX-License-Identifier: Apache-2.0
 * Canny's edges, equal to OpenCV's. One pass over the rows makes derivatives, sizes of gradients (a ring of three rows) and
 * bits of the maxima, and begins to connect them; canny_trace.c ends that. Aperture 3 with |dx| + |dy| fits 16 bits and runs
 * on kernels of its own; everything else takes those of 32 bits. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"
#include "kernels/plane_spec.h"

#include <string.h>

typedef struct canny {
    sp_trace trace;
    sp_plane src;
    int aperture, low, high;
    bool l2, plain;
    uint8_t *pixels[7]; /* rows with their first and last pixel repeated; row y in [y % aperture] */
    int16_t *dx[3], *dy[3];
    uint16_t *size16[3]; /* element -1 and w are 0; row y in [y % 3] */
    int32_t *size32[3];
    int16_t *spare;
    uint8_t *maxima[2]; /* weak, strong, a byte per pixel */
} canny;

#define MARGIN 64 /* bytes before the first element of rows that are read at -1 */

size_t sp_canny_room(int w, int h)
{
    size_t words = ((size_t)w + 63) / 64 + 2, all = words * ((size_t)h + 2), n = (size_t)w + 2 * MARGIN;
    return 2 * SP_PLANE_TAKEN(all * 8) + SP_PLANE_TAKEN(all * 4) + SP_PLANE_TAKEN(all) + 7 * SP_PLANE_TAKEN(n) +
           6 * SP_PLANE_TAKEN((size_t)w * 2) + 3 * SP_PLANE_TAKEN(n * 4) + SP_PLANE_TAKEN(n * 4) +
           2 * SP_PLANE_TAKEN(w);
}

static void take_all(canny *c, sp_plane_room *room)
{
    sp_trace *t = &c->trace;
    size_t w = (size_t)c->src.w, all;
    t->h = c->src.h;
    t->words = (c->src.w + 63) / 64;
    t->pitch = t->words + 2;
    all = (size_t)t->pitch * ((size_t)t->h + 2);
    t->weak = sp_plane_take(room, all * 8);
    t->edge = sp_plane_take(room, all * 8);
    t->queue = sp_plane_take(room, all * 4);
    t->queued = sp_plane_take(room, all);
    memset(t->queued, 0, all);
    for (int i = 0; i < c->aperture; i++)
        c->pixels[i] = (uint8_t *)sp_plane_take(room, w + 2 * MARGIN) + MARGIN;
    for (int i = 0; i < 3; i++) {
        uint8_t *size = sp_plane_take(room, (w + 2 * MARGIN) * 4);
        memset(size, 0, (w + 2 * MARGIN) * 4);
        c->dx[i] = sp_plane_take(room, w * 2);
        c->dy[i] = sp_plane_take(room, w * 2);
        c->size16[i] = (uint16_t *)(void *)(size + MARGIN);
        c->size32[i] = (int32_t *)(void *)(size + MARGIN);
    }
    c->spare = sp_plane_take(room, (w + 8) * 4);
    for (int i = 0; i < 2; i++)
        c->maxima[i] = sp_plane_take(room, w);
}

/* The border of a bit plane: the rows above and below and the words left and right. */
static void clear_border(uint64_t *bits, const sp_trace *t)
{
    size_t row_bytes = (size_t)t->pitch * 8;
    memset(bits, 0, row_bytes);
    memset(bits + (size_t)(t->h + 1) * (size_t)t->pitch, 0, row_bytes);
    for (int y = 1; y <= t->h; y++)
        bits[y * t->pitch] = bits[y * t->pitch + t->pitch - 1] = 0;
}

static void copy_row(canny *c, int y)
{
    uint8_t *row = c->pixels[y % c->aperture];
    int w = c->src.w;
    memcpy(row, sp_plane_row(c->src, y), (size_t)w);
    memset(row - 3, row[0], 3);
    memset(row + w, row[w - 1], 3);
}

/* Derivatives and sizes of row y, whose neighbours have been copied. Row h is all zero. */
static void make_sizes(canny *c, int y)
{
    int w = c->src.w, h = c->src.h, slot = y % 3;
    const uint8_t *rows[7];
    if (y == h) {
        memset(c->size32[slot], 0, (size_t)w * (c->plain ? 4 : 2));
        return;
    }
    for (int i = 0; i < c->aperture; i++)
        rows[i] = c->pixels[SP_CLAMP(y + i - c->aperture / 2, 0, h - 1) % c->aperture];
    if (!c->plain) {
        sp_kernels.gradient3(c->size16[slot], c->dx[slot], c->dy[slot], rows, w);
        c->size16[slot][w] = 0;
        return;
    }
    if (c->aperture == 3)
        sp_kernels.sobel3(c->dx[slot], c->dy[slot], rows, w);
    else
        sp_kernels.sobel_wide(c->dx[slot], c->dy[slot], rows, c->aperture, w, c->aperture == 7, c->spare);
    sp_kernels.sizes32(c->size32[slot], c->dx[slot], c->dy[slot], w, c->l2);
}

static void find_maxima(const canny *c, int y)
{
    ptrdiff_t at = (ptrdiff_t)(y + 1) * c->trace.pitch + 1;
    uint64_t *weak = c->trace.weak + at, *strong = c->trace.edge + at;
    if (c->plain) {
        const int32_t *const size[3] = { c->size32[(y + 2) % 3], c->size32[y % 3], c->size32[(y + 1) % 3] };
        sp_kernels.maxima32(c->maxima[0], c->maxima[1], size, c->dx[y % 3], c->dy[y % 3], c->src.w, c->low, c->high);
        sp_kernels.bits_of_mask(weak, c->maxima[0], c->src.w);
        sp_kernels.bits_of_mask(strong, c->maxima[1], c->src.w);
        return;
    }
    const uint16_t *const size[3] = { c->size16[(y + 2) % 3], c->size16[y % 3], c->size16[(y + 1) % 3] };
    sp_kernels.maxima3(weak, strong, size, c->dx[y % 3], c->dy[y % 3], c->src.w, c->low, c->high);
}

void sp_canny(sp_plane dst, sp_plane src, double low, double high, int aperture, bool l2, sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, src.w, src.h);
    canny c = { .src = src, .aperture = aperture, .l2 = l2, .plain = aperture != 3 || l2 };
    sp_canny_thresholds(low, high, aperture, l2, &c.low, &c.high);
    take_all(&c, &room);
    clear_border(c.trace.weak, &c.trace);
    clear_border(c.trace.edge, &c.trace);
    int reach = aperture / 2, copied = 0;
    for (int y = 0; y <= src.h; y++) {
        for (; copied < src.h && copied <= y + reach; copied++)
            copy_row(&c, copied);
        make_sizes(&c, y);
        if (y > 0) {
            find_maxima(&c, y - 1);
            memset(c.trace.edge + (ptrdiff_t)(y + 1) * c.trace.pitch, 0, (size_t)c.trace.pitch * 8); /* not made yet */
            sp_trace_down(&c.trace, y - 1);
        }
    }
    sp_trace_finish(&c.trace);
    for (int y = 0; y < src.h; y++)
        sp_kernels.mask_of_bits(sp_plane_row_out(dst, y), c.trace.edge + (ptrdiff_t)(y + 1) * c.trace.pitch + 1, src.w);
}
