/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: from libav's frame, whatever its pixel format, to the oriented grey plane and to oriented RGB8. Integers
 * throughout. */
#ifndef SP_MEDIA_VIDEO_FRAME_H
#define SP_MEDIA_VIDEO_FRAME_H

#include "base/status.h"

#include <libavutil/frame.h>

/* Where a stored pixel goes: x and y change places, then the new row is turned round, then the new column. */
typedef struct sp_video_turn {
    bool swap, flip_x, flip_y;
} sp_video_turn;

/* rotation: 0, 90, 180 or 270 degrees clockwise, after a mirroring left to right. */
sp_video_turn sp_video_turn_of(int rotation, bool mirrored);

/* Of a container's 3x3 display matrix (int32_t[9]). false: none of the eight. */
bool sp_video_turn_read(const int32_t *matrix, int *ret_rotation, bool *ret_mirrored);

/* Can this pixel format be read? Not: surfaces of devices, floats, Bayer patterns, single bits. */
bool sp_video_format_known(int format);
/* Does its luma go from 16 to 235? */
bool sp_video_frame_limited(const AVFrame *frame);

/* `scratch`: sp_video_scratch_bytes(width, height) of the stored frame, aligned to 2. dst: the oriented plane. */
size_t sp_video_scratch_bytes(int width, int height);
void sp_video_frame_grey(const AVFrame *frame, sp_video_turn turn, uint8_t *dst, size_t stride_bytes, uint8_t *scratch);
void sp_video_frame_rgb(const AVFrame *frame, sp_video_turn turn, uint8_t *dst, uint8_t *scratch);

#endif
