/* SPDX-License-Identifier: Apache-2.0
 * Frames and labels. Nothing here is fast; a picture has a few dozen boxes. */
#include "task/draw.h"

#include "base/attr.h"

#include <stdbool.h>
#include <string.h>

#define LETTER_W 5
#define LETTER_H 7

/* Rows from above, five dots each, the leftmost the highest bit. */
static const uint8_t letters[128][LETTER_H] = {
    ['0'] = { 14, 17, 19, 21, 25, 17, 14 },
    ['1'] = { 4, 12, 4, 4, 4, 4, 14 },
    ['2'] = { 14, 17, 1, 6, 8, 16, 31 },
    ['3'] = { 31, 2, 4, 2, 1, 17, 14 },
    ['4'] = { 2, 6, 10, 18, 31, 2, 2 },
    ['5'] = { 31, 16, 30, 1, 1, 17, 14 },
    ['6'] = { 6, 8, 16, 30, 17, 17, 14 },
    ['7'] = { 31, 1, 2, 4, 8, 8, 8 },
    ['8'] = { 14, 17, 17, 14, 17, 17, 14 },
    ['9'] = { 14, 17, 17, 15, 1, 2, 12 },
    ['A'] = { 14, 17, 17, 31, 17, 17, 17 },
    ['B'] = { 30, 17, 17, 30, 17, 17, 30 },
    ['C'] = { 14, 17, 16, 16, 16, 17, 14 },
    ['D'] = { 28, 18, 17, 17, 17, 18, 28 },
    ['E'] = { 31, 16, 16, 30, 16, 16, 31 },
    ['F'] = { 31, 16, 16, 30, 16, 16, 16 },
    ['G'] = { 14, 17, 16, 23, 17, 17, 15 },
    ['H'] = { 17, 17, 17, 31, 17, 17, 17 },
    ['I'] = { 14, 4, 4, 4, 4, 4, 14 },
    ['J'] = { 7, 2, 2, 2, 2, 18, 12 },
    ['K'] = { 17, 18, 20, 24, 20, 18, 17 },
    ['L'] = { 16, 16, 16, 16, 16, 16, 31 },
    ['M'] = { 17, 27, 21, 21, 17, 17, 17 },
    ['N'] = { 17, 25, 21, 19, 17, 17, 17 },
    ['O'] = { 14, 17, 17, 17, 17, 17, 14 },
    ['P'] = { 30, 17, 17, 30, 16, 16, 16 },
    ['Q'] = { 14, 17, 17, 17, 21, 18, 13 },
    ['R'] = { 30, 17, 17, 30, 20, 18, 17 },
    ['S'] = { 15, 16, 16, 14, 1, 1, 30 },
    ['T'] = { 31, 4, 4, 4, 4, 4, 4 },
    ['U'] = { 17, 17, 17, 17, 17, 17, 14 },
    ['V'] = { 17, 17, 17, 17, 17, 10, 4 },
    ['W'] = { 17, 17, 17, 21, 21, 27, 17 },
    ['X'] = { 17, 17, 10, 4, 10, 17, 17 },
    ['Y'] = { 17, 17, 10, 4, 4, 4, 4 },
    ['Z'] = { 31, 1, 2, 4, 8, 16, 31 },
    [' '] = { 0, 0, 0, 0, 0, 0, 0 },
    ['%'] = { 25, 26, 2, 4, 8, 11, 19 },
    ['.'] = { 0, 0, 0, 0, 0, 12, 12 },
    ['-'] = { 0, 0, 0, 31, 0, 0, 0 },
    ['_'] = { 0, 0, 0, 0, 0, 0, 31 },
    ['('] = { 2, 4, 8, 8, 8, 4, 2 },
    [')'] = { 8, 4, 2, 2, 2, 4, 8 },
    ['/'] = { 1, 2, 2, 4, 8, 8, 16 },
    [','] = { 0, 0, 0, 0, 12, 4, 8 },
    ['?'] = { 14, 17, 1, 6, 4, 0, 4 },
    ['&'] = { 8, 20, 20, 8, 21, 18, 13 },
    ['\''] = { 4, 4, 8, 0, 0, 0, 0 },
    [':'] = { 0, 12, 12, 0, 12, 12, 0 },
    ['+'] = { 0, 4, 4, 31, 4, 4, 0 },
};

static void fill(const sp_canvas *c, int x0, int y0, int x1, int y1, const uint8_t colour[3])
{
    x0 = SP_CLAMP(x0, 0, c->w);
    x1 = SP_CLAMP(x1, 0, c->w);
    y0 = SP_CLAMP(y0, 0, c->h);
    y1 = SP_CLAMP(y1, 0, c->h);
    for (int y = y0; y < y1; y++) {
        for (int x = x0; x < x1; x++)
            memcpy(c->rgb + 3 * ((size_t)y * (size_t)c->w + (size_t)x), colour, 3);
    }
}

void sp_draw_box(const sp_canvas *c, int x0, int y0, int x1, int y1, int thickness, const uint8_t colour[3])
{
    fill(c, x0, y0, x1, SP_MIN(y0 + thickness, y1), colour);
    fill(c, x0, SP_MAX(y1 - thickness, y0), x1, y1, colour);
    fill(c, x0, y0, SP_MIN(x0 + thickness, x1), y1, colour);
    fill(c, SP_MAX(x1 - thickness, x0), y0, x1, y1, colour);
}

static const uint8_t *letter_of(char c)
{
    unsigned char u = (unsigned char)c;
    if (u >= 'a' && u <= 'z')
        u = (unsigned char)(u - 'a' + 'A');
    bool known = u == ' ' || (u < 128 && memcmp(letters[u], letters[' '], LETTER_H) != 0);
    return letters[known ? u : '?'];
}

void sp_draw_label(const sp_canvas *c, int x, int y, int scale, const char *text, const uint8_t colour[3])
{
    int length = (int)strlen(text), step = (LETTER_W + 1) * scale;
    int w = length * step + scale, h = (LETTER_H + 2) * scale;
    int top = y >= h ? y - h : y;
    x = SP_MAX(SP_MIN(x, c->w - w), 0);
    fill(c, x, top, x + w, top + h, colour);
    int light = (colour[0] * 299 + colour[1] * 587 + colour[2] * 114) / 1000;
    const uint8_t ink[3] = { light > 128 ? 0 : 255, light > 128 ? 0 : 255, light > 128 ? 0 : 255 };
    for (int i = 0; i < length; i++) {
        const uint8_t *letter = letter_of(text[i]);
        for (int row = 0; row < LETTER_H; row++) {
            for (int dot = 0; dot < LETTER_W; dot++) {
                int left = x + scale + i * step + dot * scale, upper = top + scale + row * scale;
                if (letter[row] >> (LETTER_W - 1 - dot) & 1)
                    fill(c, left, upper, left + scale, upper + scale, ink);
            }
        }
    }
}

void sp_draw_colour(uint32_t class_id, uint8_t ret_colour[3])
{
    static const uint8_t colours[][3] = {
        { 230, 25, 75 },  { 60, 180, 75 },  { 255, 225, 25 }, { 0, 130, 200 },   { 245, 130, 48 }, { 145, 30, 180 },
        { 70, 240, 240 }, { 240, 50, 230 }, { 210, 245, 60 }, { 250, 190, 212 }, { 0, 128, 128 },  { 170, 110, 40 },
    };
    memcpy(ret_colour, colours[class_id % SP_ARRAY_LEN(colours)], 3);
}
