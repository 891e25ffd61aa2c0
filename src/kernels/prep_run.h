/* SPDX-License-Identifier: Apache-2.0
 * Runs a sp_prep_spec: RGB8 pixels in, the model's input tensor out, in one pass over the pixels that the crop needs.
 * No full intermediate image exists: a ring of resampled rows, as high as the filter, lives in the scratch.
 *
 * Exactness: bit for bit what Pillow's resize (bilinear, bicubic), or OpenCV's INTER_LINEAR_EXACT (plain), followed by
 * the crop and the f32 arithmetic of prep.h gives, on every CPU level (SPILLWAY_CPU masks levels, kernels/kernels.h). */
#ifndef SP_KERNELS_PREP_RUN_H
#define SP_KERNELS_PREP_RUN_H

#include "base/status.h"
#include "kernels/prep.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Largest resize_w, resize_h, crop_w, crop_h: 8192 is above any model's input and keeps a tensor under 1 GiB. */
#define SP_PREP_SIDE_MAX 8192

/* Most scratch one picture may need; the ring of rows is the only part that can grow (tall pictures squeezed to a few
 * very wide rows). 224x224 from the tallest picture we decode needs 4 MiB. Beyond: SP_TOO_LARGE. */
#define SP_PREP_SCRATCH_BYTES_MAX (256u * 1024 * 1024)

/* Tables and rows that one call at a time may use; grows to the largest need seen and stays, so a steady stream of
 * pictures allocates nothing. The tables of the last (spec, width, height) are kept and used again. */
typedef struct sp_prep_scratch sp_prep_scratch;
sp_prep_scratch *sp_prep_scratch_new(void); /* NULL: out of memory */
void sp_prep_scratch_free(sp_prep_scratch *scratch); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_prep_scratch, sp_prep_scratch_free)

/* Are these numbers a description that can be run? The spec crosses process boundaries, so nothing in it is trusted:
 * SP_INVALID names the field. Checks: known filter, fit and dtype; sides 1 .. SP_PREP_SIDE_MAX; crop within what the
 * resize leaves; divisor and std finite and not zero, mean finite. Threads: any. */
sp_status sp_prep_spec_check(const sp_prep_spec *spec, sp_error *reterr);

/* Bytes of the tensor [3, crop_h, crop_w]; 0 when the spec does not pass sp_prep_spec_check. */
size_t sp_prep_output_bytes(const sp_prep_spec *spec);

/* Makes the tensor of one picture. `rgb`: h rows of w RGB8 pixels, stride_bytes >= 3 * w apart; nothing outside
 * [rgb, rgb + (h - 1) * stride_bytes + 3 * w) is read. `dst`: sp_prep_output_bytes(spec), aligned to its element; must
 * not overlap the source. `scratch`: used by no other thread meanwhile.
 * SP_INVALID: spec or sizes; SP_TOO_LARGE: see SP_PREP_SCRATCH_BYTES_MAX; SP_NOMEM. On failure dst is undefined.
 * A mean, std or divisor that makes infinities (overflow) gives them as numpy would; a NaN cannot arise from a checked
 * spec except as inf - inf or inf / inf of such overflow. */
sp_status sp_prep_image(const sp_prep_spec *spec, const uint8_t *rgb, int w, int h, size_t stride_bytes, void *dst,
                        sp_prep_scratch *scratch, sp_error *reterr);

/* Would sp_prep_image take a picture of this size? The same failures; computes tables, touches no pixel. */
sp_status sp_prep_image_check(const sp_prep_spec *spec, int w, int h, sp_prep_scratch *scratch, sp_error *reterr);

/* Pillow 13's choice of the passes' order; before, it was always across first. `filter`: as in a spec. */
bool sp_prep_down_first(unsigned filter, int w, int h, int64_t scaled_w, int64_t scaled_h);

/* Resizes a whole RGB8 picture to RGB8 (the same arithmetic without crop and normalisation).
 * Sides 1 .. SP_LIMIT_IMAGE_SIDE in, 1 .. SP_PREP_SIDE_MAX out; otherwise as sp_prep_image. */
sp_status sp_resize_rgb8(sp_resize_filter filter, const uint8_t *src, int src_w, int src_h, size_t src_stride_bytes,
                         uint8_t *dst, int dst_w, int dst_h, size_t dst_stride_bytes, sp_prep_scratch *scratch,
                         sp_error *reterr);

/* Where the crop lies, for those who map positions back to the picture: the picture is scaled to `scaled_w` x
 * `scaled_h`; pixel (x, y) of the tensor is pixel (x + left, y + top) of the scaled picture, or padding when that lies
 * outside it (letterbox). Same failures as sp_prep_image's checks. */
typedef struct sp_prep_geometry {
    int64_t scaled_w, scaled_h;
    int64_t left, top; /* negative in a letterbox */
} sp_prep_geometry;
sp_status sp_prep_geometry_of(const sp_prep_spec *spec, int w, int h, sp_prep_geometry *ret_geometry, sp_error *reterr);

#endif
