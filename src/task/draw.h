/* SPDX-License-Identifier: Apache-2.0
 * Boxes and labels into RGB8 pixels, for pictures that people look at: plain lines and a small font of our own. */
#ifndef SP_TASK_DRAW_H
#define SP_TASK_DRAW_H

#include <stdint.h>

typedef struct sp_canvas {
    uint8_t *rgb; /* packed rows */
    int w, h;
} sp_canvas;

/* A frame of `thickness` pixels inside the corners [x0, x1) x [y0, y1), cut to the picture. */
void sp_draw_box(const sp_canvas *canvas, int x0, int y0, int x1, int y1, int thickness, const uint8_t colour[3]);

/* `text` (ASCII; small letters look like capitals, what is unknown like '?') on a bar of `colour` above (x, y), or below it
 * where there is no room. `scale` pixels a dot; a letter is 5 x 7 dots. */
void sp_draw_label(const sp_canvas *canvas, int x, int y, int scale, const char *text, const uint8_t colour[3]);

/* A colour for a class: neighbours differ, the same class always has the same. */
void sp_draw_colour(uint32_t class_id, uint8_t ret_colour[3]);

#endif
