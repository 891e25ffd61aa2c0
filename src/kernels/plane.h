/* SPDX-License-Identifier: Apache-2.0
 * Operations on 8-bit grey planes: what a video frame is once it has been decoded. Each equals its reference to the byte on
 * every CPU level, borders included; the reference is OpenCV 5 where it has the operation, else the scalar twin.
 *
 * A plane is h rows of w bytes, stride_bytes >= w apart; sides 1 .. SP_PLANE_SIDE_MAX (checked by sp_plane_scratch_new, which
 * reserves all memory: nothing here allocates afterwards but where it says so). Destination and source do not overlap
 * unless it says so. Threads: any, one scratch each. */
#ifndef SP_KERNELS_PLANE_H
#define SP_KERNELS_PLANE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_PLANE_SIDE_MAX 16384

typedef struct sp_plane { /* borrowed */
    uint8_t *data;
    int w, h;
    size_t stride_bytes;
} sp_plane;

typedef struct sp_plane_scratch sp_plane_scratch;
/* For planes up to w x h. SP_INVALID, SP_TOO_LARGE, SP_NOMEM. */
sp_status sp_plane_scratch_new(int w, int h, sp_plane_scratch **ret_scratch, sp_error *reterr);
void sp_plane_scratch_free(sp_plane_scratch *scratch); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_plane_scratch, sp_plane_scratch_free)

/* --- grey (media/video uses these; one integer arithmetic on every path) --- */

/* dst = clamp(round((y - 16) * 255 / 219)) when `limited`, else y: one row of n luma samples of 8 bits. */
void sp_grey_from_y8(uint8_t *dst, const uint8_t *y, int n, bool limited);
/* Samples of `bits` 9 .. 16 in native-endian uint16_t: first to 8 bits, (y + half) >> (bits - 8) clamped to 255, then as above. */
void sp_grey_from_y16(uint8_t *dst, const uint16_t *y, int n, int bits, bool limited);
/* Full-range BT.601: (9798 R + 19235 G + 3735 B + 16384) >> 15, as cv2's RGB to grey. `step`: bytes from pixel to pixel (3, 4);
 * r, g, b: the offsets of the channels in a pixel. */
void sp_grey_from_rgb8(uint8_t *dst, const uint8_t *rgb, int n, int step, int r, int g, int b);

/* --- filters --- */

/* cv2.GaussianBlur on CV_8U with BORDER_REFLECT_101; ksize odd 1 .. 31; sigma <= 0: as OpenCV derives it from ksize. */
void sp_blur_gaussian(sp_plane dst, sp_plane src, int ksize, double sigma, sp_plane_scratch *scratch);
/* cv2.blur on CV_8U with BORDER_REFLECT_101; ksize 1 .. 255. */
void sp_blur_box(sp_plane dst, sp_plane src, int ksize, sp_plane_scratch *scratch);
/* cv2.Sobel to CV_16S with BORDER_REPLICATE or (reflect) BORDER_REFLECT_101, order (1,0) into dx and (0,1) into dy;
 * aperture 3, 5, 7. dx, dy: rows of w int16_t, stride_elements apart. */
void sp_sobel(int16_t *dx, int16_t *dy, size_t stride_elements, sp_plane src, int aperture, bool reflect,
              sp_plane_scratch *scratch);
/* cv2.Canny: 255 on edges, 0 elsewhere. aperture 3, 5, 7; l2: L2gradient. */
void sp_canny(sp_plane dst, sp_plane src, double low, double high, int aperture, bool l2, sp_plane_scratch *scratch);

/* --- morphology: cv2.morphologyEx with the default border and a centred anchor --- */
typedef enum sp_morph_op {
    SP_MORPH_ERODE, SP_MORPH_DILATE, SP_MORPH_OPEN, SP_MORPH_CLOSE, SP_MORPH_GRADIENT, SP_MORPH_TOPHAT, SP_MORPH_BLACKHAT
} sp_morph_op;
typedef enum sp_morph_shape { SP_MORPH_RECT, SP_MORPH_CROSS, SP_MORPH_ELLIPSE } sp_morph_shape; /* as getStructuringElement */
/* kw, kh: 1 .. 63; iterations 1 .. 32 (each half of an open or close so often, as OpenCV). dst may be src. */
void sp_morph(sp_plane dst, sp_plane src, sp_morph_op op, sp_morph_shape shape, int kw, int kh, int iterations,
              sp_plane_scratch *scratch);

/* --- regions --- */

/* One 8-connected component of the non-zero pixels. Sums are exact, so centroids are too: sum / area. */
typedef struct sp_region {
    int32_t x0, y0, x1, y1; /* box, x1 and y1 exclusive */
    uint32_t area;
    uint64_t sum_x, sum_y;
    uint64_t weight; /* sum of `weights` over it, or 0 */
} sp_region;
/* Components with area >= min_area, largest first, equal areas by y0, then x0, then first pixel in reading order; at most
 * `capacity` are written. Returns how many there are in all. `weights` (same size; data NULL = none) is summed. */
int sp_regions_find(sp_plane mask, sp_plane weights, uint32_t min_area, sp_region *ret_regions, int capacity,
                    sp_plane_scratch *scratch);

/* --- measures; all integers, exact --- */
typedef struct sp_plane_measure {
    uint32_t histogram[256];
    uint64_t sum, sum_squares;        /* of the samples */
    int64_t laplace_sum;              /* of the 3x3 Laplacian (0 1 0, 1 -4 1, 0 1 0), BORDER_REFLECT_101 */
    uint64_t laplace_squares;         /* variance of the Laplacian = sharpness */
} sp_plane_measure;
void sp_measure_plane(sp_plane src, sp_plane_measure *ret_measure);
/* Sum of |a - b| over all samples. */
uint64_t sp_measure_difference(sp_plane a, sp_plane b);
uint64_t sp_measure_nonzero(sp_plane src);

/* dst = 255 where src > threshold, else 0; dst may be src. And dst = a | b, a & b. */
void sp_threshold(sp_plane dst, sp_plane src, uint8_t threshold);
void sp_plane_or(sp_plane dst, sp_plane a, sp_plane b);
void sp_plane_and(sp_plane dst, sp_plane a, sp_plane b);

/* What a flow field says, quantised before it is summed: q = sp_f32_to_i32(rintf(v * 1024)), clamped to +-2^24 (16,384 px).
 * magnitude q of sqrtf(dx * dx + dy * dy) likewise. */
typedef struct sp_flow_measure {
    int64_t sum_dx, sum_dy, sum_magnitude; /* 1/1024 px */
    int64_t sum_squares;                   /* of magnitude >> 4: exact for fewer than 2^23 pixels, and for any number
                                            * whose magnitudes stay below 2,896 px; modulo 2^64 beyond */
    uint32_t max_magnitude;                /* 1/1024 px */
    uint32_t moving;                       /* pixels with magnitude > threshold */
    int64_t direction[8];                  /* sum of magnitude by octant: 0 = east .. 45 degrees, then by 45 degrees towards +y;
                                            * moving pixels only. An octant holds its first border, not its second. */
} sp_flow_measure;
/* dx, dy: h rows of w floats, stride_floats apart. mask (data NULL = none): 255 where magnitude > threshold_1024, else 0. */
void sp_measure_flow(const float *dx, const float *dy, size_t stride_floats, int w, int h, uint32_t threshold_1024,
                     sp_plane mask, sp_flow_measure *ret_measure);

#endif
