/* SPDX-License-Identifier: Apache-2.0
 * plane.h for Python's ctypes (test_plane.py, bench/video/planes.py): planes by pointer and sizes. Tests only. */
#include "base/attr.h"
#include "kernels/kernels.h"
#include "kernels/plane.h"

typedef struct kp_plane {
    uint8_t *data;
    int32_t w, h;
    uint64_t stride;
} kp_plane;

SP_EXPORT sp_plane_scratch *kp_scratch_new(int w, int h);
SP_EXPORT void kp_scratch_free(sp_plane_scratch *scratch);
SP_EXPORT void kp_grey_y8(uint8_t *dst, const uint8_t *y, int n, int limited);
SP_EXPORT void kp_grey_y16(uint8_t *dst, const uint16_t *y, int n, int bits, int limited);
SP_EXPORT void kp_grey_rgb8(uint8_t *dst, const uint8_t *rgb, int n, int step, int r, int g, int b);
SP_EXPORT void kp_gaussian(const kp_plane *dst, const kp_plane *src, int ksize, double sigma, sp_plane_scratch *scratch);
SP_EXPORT void kp_box(const kp_plane *dst, const kp_plane *src, int ksize, sp_plane_scratch *scratch);
SP_EXPORT void kp_sobel(int16_t *dx, int16_t *dy, const kp_plane *src, int aperture, int reflect, sp_plane_scratch *scratch);
SP_EXPORT void kp_canny(const kp_plane *dst, const kp_plane *src, double low, double high, int aperture, int l2,
                        sp_plane_scratch *scratch);
SP_EXPORT void kp_morph(const kp_plane *dst, const kp_plane *src, int op, int shape, int kw, int kh, int iterations,
                        sp_plane_scratch *scratch);
SP_EXPORT int kp_regions(const kp_plane *mask, const kp_plane *weights, uint32_t min_area, sp_region *regions, int capacity,
                         sp_plane_scratch *scratch);
SP_EXPORT void kp_measure(const kp_plane *src, sp_plane_measure *measure);
SP_EXPORT uint64_t kp_difference(const kp_plane *a, const kp_plane *b);
SP_EXPORT uint64_t kp_nonzero(const kp_plane *src);
SP_EXPORT void kp_threshold(const kp_plane *dst, const kp_plane *src, int threshold);
SP_EXPORT void kp_or(const kp_plane *dst, const kp_plane *a, const kp_plane *b);
SP_EXPORT void kp_and(const kp_plane *dst, const kp_plane *a, const kp_plane *b);
SP_EXPORT void kp_flow(const float *dx, const float *dy, size_t stride, int w, int h, uint32_t threshold, const kp_plane *mask,
                       sp_flow_measure *measure);

static sp_plane plane_of(const kp_plane *p)
{
    return p ? (sp_plane){ p->data, p->w, p->h, (size_t)p->stride } : (sp_plane){ 0 };
}

sp_plane_scratch *kp_scratch_new(int w, int h)
{
    sp_plane_scratch *scratch = NULL;
    return sp_plane_scratch_new(w, h, &scratch, NULL) ? NULL : scratch;
}

void kp_scratch_free(sp_plane_scratch *scratch)
{
    sp_plane_scratch_free(scratch);
}

void kp_grey_y8(uint8_t *dst, const uint8_t *y, int n, int limited)
{
    sp_grey_from_y8(dst, y, n, limited != 0);
}

void kp_grey_y16(uint8_t *dst, const uint16_t *y, int n, int bits, int limited)
{
    sp_grey_from_y16(dst, y, n, bits, limited != 0);
}

void kp_grey_rgb8(uint8_t *dst, const uint8_t *rgb, int n, int step, int r, int g, int b)
{
    sp_grey_from_rgb8(dst, rgb, n, step, r, g, b);
}

void kp_gaussian(const kp_plane *dst, const kp_plane *src, int ksize, double sigma, sp_plane_scratch *scratch)
{
    sp_blur_gaussian(plane_of(dst), plane_of(src), ksize, sigma, scratch);
}

void kp_box(const kp_plane *dst, const kp_plane *src, int ksize, sp_plane_scratch *scratch)
{
    sp_blur_box(plane_of(dst), plane_of(src), ksize, scratch);
}

void kp_sobel(int16_t *dx, int16_t *dy, const kp_plane *src, int aperture, int reflect, sp_plane_scratch *scratch)
{
    sp_sobel(dx, dy, (size_t)src->w, plane_of(src), aperture, reflect != 0, scratch);
}

void kp_canny(const kp_plane *dst, const kp_plane *src, double low, double high, int aperture, int l2,
              sp_plane_scratch *scratch)
{
    sp_canny(plane_of(dst), plane_of(src), low, high, aperture, l2 != 0, scratch);
}

void kp_morph(const kp_plane *dst, const kp_plane *src, int op, int shape, int kw, int kh, int iterations,
              sp_plane_scratch *scratch)
{
    sp_morph(plane_of(dst), plane_of(src), (sp_morph_op)op, (sp_morph_shape)shape, kw, kh, iterations, scratch);
}

int kp_regions(const kp_plane *mask, const kp_plane *weights, uint32_t min_area, sp_region *regions, int capacity,
               sp_plane_scratch *scratch)
{
    return sp_regions_find(plane_of(mask), plane_of(weights), min_area, regions, capacity, scratch);
}

void kp_measure(const kp_plane *src, sp_plane_measure *measure)
{
    sp_measure_plane(plane_of(src), measure);
}

uint64_t kp_difference(const kp_plane *a, const kp_plane *b)
{
    return sp_measure_difference(plane_of(a), plane_of(b));
}

uint64_t kp_nonzero(const kp_plane *src)
{
    return sp_measure_nonzero(plane_of(src));
}

void kp_threshold(const kp_plane *dst, const kp_plane *src, int threshold)
{
    sp_threshold(plane_of(dst), plane_of(src), (uint8_t)threshold);
}

void kp_or(const kp_plane *dst, const kp_plane *a, const kp_plane *b)
{
    sp_plane_or(plane_of(dst), plane_of(a), plane_of(b));
}

void kp_and(const kp_plane *dst, const kp_plane *a, const kp_plane *b)
{
    sp_plane_and(plane_of(dst), plane_of(a), plane_of(b));
}

void kp_flow(const float *dx, const float *dy, size_t stride, int w, int h, uint32_t threshold, const kp_plane *mask,
             sp_flow_measure *measure)
{
    sp_measure_flow(dx, dy, stride, w, h, threshold, plane_of(mask), measure);
}
