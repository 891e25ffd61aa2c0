/* SPDX-License-Identifier: Apache-2.0
 * Pixel formats, colour matrices and orientation. */
#include "media/video_frame.h"

#include "kernels/plane.h"
#include "kernels/yuv_arith.h"

#include <stdlib.h>
#include <string.h>

#include <libavutil/pixdesc.h>

/* --- orientation --- */

sp_video_turn sp_video_turn_of(int rotation, bool mirrored)
{
    switch (rotation) {
    case 90:
        return (sp_video_turn){ .swap = true, .flip_x = true, .flip_y = mirrored };
    case 180:
        return (sp_video_turn){ .flip_x = !mirrored, .flip_y = true };
    case 270:
        return (sp_video_turn){ .swap = true, .flip_x = false, .flip_y = !mirrored };
    default:
        return (sp_video_turn){ .flip_x = mirrored };
    }
}

/* x' = a x + c y, y' = b x + d y, with a b 0 / c d 0 the first two rows. */
bool sp_video_turn_read(const int32_t *matrix, int *ret_rotation, bool *ret_mirrored)
{
    int64_t a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
    int64_t straight = llabs(a) + llabs(d), across = llabs(b) + llabs(c);
    sp_video_turn turn;
    if (a && d && across * 64 < straight)
        turn = (sp_video_turn){ .flip_x = a < 0, .flip_y = d < 0 };
    else if (b && c && straight * 64 < across)
        turn = (sp_video_turn){ .swap = true, .flip_x = c < 0, .flip_y = b < 0 };
    else
        return false;
    for (int rotation = 0; rotation < 360; rotation += 90) {
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            sp_video_turn candidate = sp_video_turn_of(rotation, mirrored);
            if (candidate.swap == turn.swap && candidate.flip_x == turn.flip_x && candidate.flip_y == turn.flip_y)
                *ret_rotation = rotation, *ret_mirrored = mirrored;
        }
    }
    return true;
}

/* dst = src turned; `unit` bytes a pixel; src: w x h packed. Tiles, because one of the two walks down columns. */
static void turn_plane(uint8_t *dst, size_t dst_stride, const uint8_t *src, int w, int h, int unit, sp_video_turn turn)
{
    enum { TILE = 32 };
    int out_w = turn.swap ? h : w, out_h = turn.swap ? w : h;
    for (int y0 = 0; y0 < h; y0 += TILE) {
        for (int x0 = 0; x0 < w; x0 += TILE) {
            int y1 = SP_MIN(y0 + TILE, h), x1 = SP_MIN(x0 + TILE, w);
            for (int y = y0; y < y1; y++) {
                for (int x = x0; x < x1; x++) {
                    int to_x = turn.swap ? y : x, to_y = turn.swap ? x : y;
                    to_x = turn.flip_x ? out_w - 1 - to_x : to_x;
                    to_y = turn.flip_y ? out_h - 1 - to_y : to_y;
                    uint8_t *to = dst + (size_t)to_y * dst_stride + (size_t)to_x * (size_t)unit;
                    const uint8_t *from = src + ((size_t)y * (size_t)w + (size_t)x) * (size_t)unit;
                    to[0] = from[0];
                    if (unit == 3)
                        to[1] = from[1], to[2] = from[2];
                }
            }
        }
    }
}

/* --- pixel formats --- */

bool sp_video_format_known(int format)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get((enum AVPixelFormat)format);
    if (!desc || desc->nb_components < 1)
        return false;
    if (desc->flags & (AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BAYER | AV_PIX_FMT_FLAG_BITSTREAM))
        return false;
    if (desc->flags & AV_PIX_FMT_FLAG_PAL)
        return format == AV_PIX_FMT_PAL8;
    return (desc->flags & AV_PIX_FMT_FLAG_RGB && desc->nb_components >= 3) || (desc->comp[0].depth >= 8 && desc->comp[0].depth <= 16);
}

static bool is_colours(const AVPixFmtDescriptor *desc)
{
    return desc->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL);
}

static bool is_plain_grey(const AVPixFmtDescriptor *desc)
{
    return desc->nb_components <= 2 && !is_colours(desc);
}

bool sp_video_frame_limited(const AVFrame *frame)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get((enum AVPixelFormat)frame->format);
    if (!desc || is_colours(desc))
        return false;
    switch (frame->format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ444P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ411P:
        return false;
    default:
        break;
    }
    if (frame->color_range == AVCOL_RANGE_JPEG)
        return false;
    /* A stream that says nothing: video is limited, plain grey is full. */
    return frame->color_range == AVCOL_RANGE_MPEG || !is_plain_grey(desc);
}

static uint8_t to_8_bits(uint16_t v, int depth)
{
    if (depth == 8)
        return (uint8_t)v;
    if (depth > 8) {
        int shifted = (v + (1 << (depth - 9))) >> (depth - 8);
        return (uint8_t)SP_MIN(shifted, 255);
    }
    int top = (1 << depth) - 1;
    return (uint8_t)((v * 255 + top / 2) / top);
}

/* A row of one component as it is stored, right-aligned. */
static void read_row(const AVFrame *frame, const AVPixFmtDescriptor *desc, int component, int y, int w, uint16_t *wide)
{
    const uint8_t *data[4];
    memcpy(data, frame->data, sizeof(data));
    av_read_image_line2(wide, data, frame->linesize, desc, 0, y, component, w, 0, 2);
}

/* The same in 8 bits, `step` bytes apart. `wide` holds w samples. */
static void component_row(const AVFrame *frame, const AVPixFmtDescriptor *desc, int component, int y, int w, uint8_t *dst,
                          int step, uint16_t *wide)
{
    read_row(frame, desc, component, y, w, wide);
    for (int x = 0; x < w; x++)
        dst[(size_t)x * (size_t)step] = to_8_bits(wide[x], desc->comp[component].depth);
}

/* Indices into 256 words of 0xAARRGGBB. */
static void palette_row(const AVFrame *frame, int y, uint8_t *rgb)
{
    const uint8_t *row = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
    for (int x = 0; x < frame->width; x++, rgb += 3) {
        uint32_t colour;
        memcpy(&colour, frame->data[1] + 4 * (size_t)row[x], sizeof(colour));
        rgb[0] = (uint8_t)(colour >> 16);
        rgb[1] = (uint8_t)(colour >> 8);
        rgb[2] = (uint8_t)colour;
    }
}

static void colour_row(const AVFrame *frame, const AVPixFmtDescriptor *desc, int y, uint8_t *rgb, uint16_t *wide)
{
    if (desc->flags & AV_PIX_FMT_FLAG_PAL) {
        palette_row(frame, y, rgb);
        return;
    }
    for (int c = 0; c < 3; c++)
        component_row(frame, desc, c, y, frame->width, rgb + c, 3, wide);
}

/* --- grey --- */

size_t sp_video_scratch_bytes(int width, int height)
{
    /* A turned plane of RGB8, a row of samples of 16 bits, and three rows of 8 bits. */
    return ((size_t)height * 3 + 5) * (size_t)width + 16;
}

typedef struct scratch_parts {
    uint16_t *wide;
    uint8_t *row, *plane;
} scratch_parts;

static scratch_parts split_scratch(uint8_t *scratch, int width)
{
    return (scratch_parts){ (uint16_t *)(void *)scratch, scratch + (size_t)width * 2, scratch + (size_t)width * 5 };
}

static void grey_row(const AVFrame *frame, const AVPixFmtDescriptor *desc, bool limited, int y, uint8_t *dst, scratch_parts *parts)
{
    const AVComponentDescriptor *luma = &desc->comp[0];
    int w = frame->width;
    if (is_colours(desc)) {
        colour_row(frame, desc, y, parts->row, parts->wide);
        sp_grey_from_rgb8(dst, parts->row, w, 3, 0, 1, 2);
    } else if (luma->depth == 8 && luma->step == 1 && luma->shift == 0) {
        sp_grey_from_y8(dst, frame->data[luma->plane] + (ptrdiff_t)y * frame->linesize[luma->plane] + luma->offset, w, limited);
    } else if (luma->depth == 8) {
        component_row(frame, desc, 0, y, w, parts->row, 1, parts->wide);
        sp_grey_from_y8(dst, parts->row, w, limited);
    } else {
        read_row(frame, desc, 0, y, w, parts->wide);
        sp_grey_from_y16(dst, parts->wide, w, luma->depth, limited);
    }
}

void sp_video_frame_grey(const AVFrame *frame, sp_video_turn turn, uint8_t *dst, size_t stride_bytes, uint8_t *scratch)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get((enum AVPixelFormat)frame->format);
    bool limited = sp_video_frame_limited(frame);
    bool straight = !turn.swap && !turn.flip_x;
    scratch_parts parts = split_scratch(scratch, frame->width);
    for (int y = 0; y < frame->height; y++) {
        int to_y = turn.flip_y ? frame->height - 1 - y : y;
        uint8_t *row = straight ? dst + (size_t)to_y * stride_bytes : parts.plane + (size_t)y * (size_t)frame->width;
        grey_row(frame, desc, limited, y, row, &parts);
    }
    if (!straight)
        turn_plane(dst, stride_bytes, parts.plane, frame->width, frame->height, 1, turn);
}

/* --- RGB --- */

static sp_yuv_matrix matrix_of(const AVFrame *frame)
{
    bool wide_gamut = frame->colorspace == AVCOL_SPC_BT2020_NCL || frame->colorspace == AVCOL_SPC_BT2020_CL;
    bool bt709 = frame->colorspace == AVCOL_SPC_BT709 || wide_gamut || (frame->colorspace == AVCOL_SPC_UNSPECIFIED && frame->height > 576);
    return sp_yuv_matrix_of(bt709, sp_video_frame_limited(frame));
}

/* rows: w luma samples, then the chroma samples of this row; each chroma sample serves all its pixels. */
static void yuv_row(uint8_t *rgb, const uint8_t *luma, const uint8_t *u, const uint8_t *v, int w, int chroma_shift, const sp_yuv_matrix *m)
{
    for (int x = 0; x < w; x++, rgb += 3)
        sp_yuv_pixel(rgb, m, luma[x], u[x >> chroma_shift], v[x >> chroma_shift]);
}

static void rgb_row(const AVFrame *frame, const AVPixFmtDescriptor *desc, const sp_yuv_matrix *m, int y, uint8_t *rgb, scratch_parts *parts)
{
    int w = frame->width;
    if (is_colours(desc)) {
        colour_row(frame, desc, y, rgb, parts->wide);
        return;
    }
    uint8_t *luma = parts->row, *u = luma + w, *v = u + w;
    if (is_plain_grey(desc)) {
        grey_row(frame, desc, sp_video_frame_limited(frame), y, luma, parts);
        for (int x = 0; x < w; x++)
            rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = luma[x];
        return;
    }
    int chroma_w = AV_CEIL_RSHIFT(w, desc->log2_chroma_w), chroma_y = y >> desc->log2_chroma_h;
    component_row(frame, desc, 0, y, w, luma, 1, parts->wide);
    component_row(frame, desc, 1, chroma_y, chroma_w, u, 1, parts->wide);
    component_row(frame, desc, 2, chroma_y, chroma_w, v, 1, parts->wide);
    yuv_row(rgb, luma, u, v, w, desc->log2_chroma_w, m);
}

void sp_video_frame_rgb(const AVFrame *frame, sp_video_turn turn, uint8_t *dst, uint8_t *scratch)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get((enum AVPixelFormat)frame->format);
    sp_yuv_matrix m = matrix_of(frame);
    bool straight = !turn.swap && !turn.flip_x && !turn.flip_y;
    scratch_parts parts = split_scratch(scratch, frame->width);
    size_t row_bytes = (size_t)frame->width * 3;
    for (int y = 0; y < frame->height; y++)
        rgb_row(frame, desc, &m, y, (straight ? dst : parts.plane) + (size_t)y * row_bytes, &parts);
    if (!straight)
        turn_plane(dst, (size_t)(turn.swap ? frame->height : frame->width) * 3, parts.plane, frame->width, frame->height, 3, turn);
}
