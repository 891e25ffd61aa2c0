/* SPDX-License-Identifier: Apache-2.0
 * Whole frames of 4:2:0 to RGB8. */
#ifndef SP_KERNELS_YUV_H
#define SP_KERNELS_YUV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* dst: h rows of w RGB8 pixels. y: h rows of w samples; u, v: (h + 1) / 2 rows of (w + 1) / 2 samples; v = NULL: u holds U and V
 * side by side (NV12). Strides in bytes. Exactness: what media/video_frame.h gives for the same samples, and its CUDA twin
 * (cuda_prep.h, yuv_to_rgb8), to the bit. Cannot fail. Threads: any. */
void sp_yuv_to_rgb8_c(uint8_t *dst, size_t dst_stride_bytes, const uint8_t *y, size_t y_stride_bytes, const uint8_t *u, const uint8_t *v,
                      size_t uv_stride_bytes, int w, int h, bool bt709, bool full_range);

#endif
