/* SPDX-License-Identifier: Apache-2.0
 * Contracts of the row ops in plane.inc, and the memory that the operations of plane.h share.
 *
 * "Own" rows are rows of the scratch: SP_PLANE_SLACK bytes behind their last element may be read and written. Everything
 * else is read and written to the element. n >= 1.
 *
 * grey_y8: limited range to full range. dst may be y. grey_y16, grey_rgb8: as in plane.h.
 * blur_across: dst[i] = sum over t of weight[t] * src[i + t]; the weights' sum is 256, so it fits, and they read the
 *   same from both ends; taps is odd. Own rows.
 * blur_down: dst[i] = (sum of weight[t] * rows[t][i] + 32768) >> 16. Own rows, but for dst.
 * sobel3: 3x3 derivatives; rows[0..2] are the row above, the row, the row below; their pixels -1 .. n can be read (own rows).
 * sobel_wide: aperture 5 or 7, saturated; rows[0 .. aperture-1], whose pixels -3 .. n + 2 can be read. `sixteenth`: divided by
 *   16 and rounded to nearest even, as OpenCV's Canny scales aperture 7. spare: 2 * (n + 8) elements.
 * box_down: column += comes - goes. box_across: the mean of k columns, column[i .. i + k - 1] for dst[i], over k rows, as
 *   OpenCV rounds it; n + k columns can be read. spare: n elements. k is 1 .. 255.
 * gradient3: sobel3 and |dx| + |dy|; all own rows.
 * maxima3: bit i of `weak` where size[1][i] > low is a maximum across its edge (plane_arith.h), of `strong` where it is also
 *   > high. Elements -1 .. n of the size rows can be read; n / 64 + 1 words are not more than the caller has: ceil(n / 64)
 *   are written, bits from n on are 0. Sizes, low <= high are 0 .. 32767; (0, 0) has size 0. All
 *   own rows.
 * sizes32, maxima32: the same without the bounds: |dx| + |dy| or (l2) dx * dx + dy * dy, and a byte, 1 or 0, per pixel.
 * mask_of_bits: 255 where the bit is set, else 0. bits_of_mask: a bit where src is not 0, ceil(n / 64) words, 0 from n on.
 * rows_max, rows_min: dst[i] = the largest (smallest) of rows[0 .. count-1][i]; dst may be rows[0]. count >= 1.
 * fold_box: the same for a rectangle: first down, as rows_max, into line[across / 2 ..], then dst[i] = the largest (smallest)
 *   of line[i .. i + across - 1]. The caller has filled line[0 .. across / 2 - 1] and the across elements behind the n that
 *   are written; they stay as they are. An own row. count, across 1 .. 8.
 * subtract_u8: a - b, 0 where negative; dst may be a or b. threshold_u8, or_u8, and_u8 likewise.
 * histogram_u8: adds to histogram[256]. laplace_u8: adds the sums over n pixels; the middle row can be read at -1 and n.
 * measure_flow: adds n vectors; mask may be NULL. */
#ifndef SP_KERNELS_PLANE_ROWS_H
#define SP_KERNELS_PLANE_ROWS_H

#include "kernels/plane.h"
#include "kernels/plane_arith.h"

#define SP_PLANE_SLACK 128

/* The scratch is one block, reserved (not touched) when it is made; an operation takes what it needs from its start. */
typedef struct sp_plane_room {
    uint8_t *at;
    size_t left_bytes;
} sp_plane_room;

sp_plane_room sp_plane_room_of(sp_plane_scratch *scratch, int w, int h);

/* `size_bytes` at a multiple of 64, with SP_PLANE_SLACK behind them; never NULL (the bounds below hold). */
void *sp_plane_take(sp_plane_room *room, size_t size_bytes);
#define SP_PLANE_TAKEN(size_bytes) (SP_ALIGN_UP((size_t)(size_bytes), (size_t)64) + SP_PLANE_SLACK)

/* What each operation takes at most for a plane of w x h. */
size_t sp_blur_room(int w, int h);
size_t sp_sobel_room(int w, int h);
size_t sp_canny_room(int w, int h);
size_t sp_morph_room(int w, int h);
size_t sp_regions_room(int w, int h);

static inline const uint8_t *sp_plane_row(sp_plane p, int y)
{
    return p.data + (size_t)y * p.stride_bytes;
}

static inline uint8_t *sp_plane_row_out(sp_plane p, int y)
{
    return p.data + (size_t)y * p.stride_bytes;
}

/* The Canny edges' second half (canny_trace.c): bit planes with a border of one zero word and one zero row on each side. */
typedef struct sp_trace {
    uint64_t *weak, *edge; /* (h + 2) rows of pitch words; edge begins as the strong pixels, a subset of weak */
    uint32_t *queue;       /* h * pitch */
    uint8_t *queued;       /* (h + 2) * pitch, zero */
    int h, words;          /* words of a row without its borders */
    ptrdiff_t pitch;       /* words + 2 */
} sp_trace;
/* Down: for each y in order, once its rows of weak and edge stand. Then finish, once: edge holds all weak pixels that are
 * connected to a strong one. */
void sp_trace_down(const sp_trace *trace, int y);
void sp_trace_finish(const sp_trace *trace);

#endif
