/* SPDX-License-Identifier: Apache-2.0
 * Checks a pre-processing description and works out where its crop lies. */
#include "base/limits.h"
#include "kernels/prep_run.h"

#include <math.h>

static bool side_ok(int side)
{
    return side >= 1 && side <= SP_PREP_SIDE_MAX;
}

sp_status sp_prep_spec_check(const sp_prep_spec *spec, sp_error *reterr)
{
    if ((spec->filter & ~SP_FILTER_ACROSS_FIRST) > SP_FILTER_PLAIN || spec->filter == (SP_FILTER_PLAIN | SP_FILTER_ACROSS_FIRST))
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: filter %d is not known", spec->filter);
    if ((spec->fit & ~SP_FIT_BGR) > SP_FIT_CORNER)
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: fit %d is not known", spec->fit);
    if (spec->dtype != SP_DTYPE_F32 && spec->dtype != SP_DTYPE_F16)
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: dtype %d is neither f32 nor f16", spec->dtype);
    if (!side_ok(spec->resize_w) || ((spec->fit & ~SP_FIT_BGR) != SP_FIT_SHORT_SIDE && !side_ok(spec->resize_h)))
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: resize to %dx%d, sides are 1 to %d", spec->resize_w,
                       spec->resize_h, SP_PREP_SIDE_MAX);
    int room_h = (spec->fit & ~SP_FIT_BGR) == SP_FIT_SHORT_SIDE ? spec->resize_w : spec->resize_h;
    if (!side_ok(spec->crop_w) || !side_ok(spec->crop_h) || spec->crop_w > spec->resize_w || spec->crop_h > room_h)
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: crop %dx%d does not fit into the resized %dx%d", spec->crop_w,
                       spec->crop_h, spec->resize_w, room_h);
    if (!isfinite(spec->divisor) || spec->divisor == 0)
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: divisor must be finite and not 0");
    for (int c = 0; c < 3; c++) {
        if (!isfinite(spec->mean[c]) || !isfinite(spec->std[c]) || spec->std[c] == 0)
            return SP_FAIL(reterr, SP_INVALID, "pre-processing: mean and std must be finite, std not 0 (channel %d)", c);
    }
    return SP_OK;
}

size_t sp_prep_output_bytes(const sp_prep_spec *spec)
{
    if (sp_prep_spec_check(spec, NULL))
        return 0;
    return (size_t)3 * spec->crop_w * spec->crop_h * (spec->dtype == SP_DTYPE_F16 ? 2 : 4);
}

/* Python's int(round(d / 2.0)) for an integer d >= 0: half goes to even. */
static int64_t half_to_even(int64_t d)
{
    int64_t half = d / 2;
    return half + (d & 1 && half & 1);
}

sp_status sp_prep_geometry_of(const sp_prep_spec *spec, int w, int h, sp_prep_geometry *ret_geometry, sp_error *reterr)
{
    sp_status s = sp_prep_spec_check(spec, reterr);
    if (s)
        return s;
    if (w < 1 || h < 1 || w > SP_LIMIT_IMAGE_SIDE || h > SP_LIMIT_IMAGE_SIDE)
        return SP_FAIL(reterr, SP_INVALID, "pre-processing: a picture of %dx%d, sides are 1 to %d", w, h,
                       SP_LIMIT_IMAGE_SIDE);
    int64_t rw = spec->resize_w, rh = spec->resize_h, canvas_w, canvas_h;
    bool corner = (spec->fit & ~SP_FIT_BGR) == SP_FIT_CORNER;
    sp_prep_geometry g;
    switch ((sp_resize_fit)(spec->fit & ~SP_FIT_BGR)) {
    case SP_FIT_SHORT_SIDE:
        g.scaled_w = w <= h ? rw : rw * w / h;
        g.scaled_h = w <= h ? rw * h / w : rw;
        canvas_w = g.scaled_w;
        canvas_h = g.scaled_h;
        break;
    case SP_FIT_STRETCH:
        canvas_w = g.scaled_w = rw;
        canvas_h = g.scaled_h = rh;
        break;
    case SP_FIT_LETTERBOX:
    case SP_FIT_CORNER:
    default: /* the side that binds is exact; the other rounds half up (in the corner: down) and is at least 1 */
        canvas_w = rw;
        canvas_h = rh;
        if (w * rh >= h * rw) {
            g.scaled_w = rw;
            g.scaled_h = SP_MAX((2 * h * rw + (corner ? 0 : w)) / (2 * (int64_t)w), 1);
        } else {
            g.scaled_h = rh;
            g.scaled_w = SP_MAX((2 * w * rh + (corner ? 0 : h)) / (2 * (int64_t)h), 1);
        }
        break;
    }
    g.left = half_to_even(canvas_w - spec->crop_w) - (corner ? 0 : (canvas_w - g.scaled_w) / 2);
    g.top = half_to_even(canvas_h - spec->crop_h) - (corner ? 0 : (canvas_h - g.scaled_h) / 2);
    *ret_geometry = g;
    return SP_OK;
}
