/* SPDX-License-Identifier: Apache-2.0
 * Where each output of one axis looks, and with which weights: Pillow's and OpenCV's arithmetic in double, done once per
 * (size, size, filter). Costs microseconds; sizes change with every request, so it is part of the hot path. */
#ifndef SP_KERNELS_AXIS_H
#define SP_KERNELS_AXIS_H

#include "kernels/kernels.h"

/* The outputs [out_first, out_first + n) of resampling src_n samples to out_n. */
typedef struct sp_axis_params {
    sp_resize_filter filter;
    int src_n;
    int64_t out_n, out_first;
    int n;
} sp_axis_params;

/* Most taps an output can have; memory that sp_axis_fill wants (64-byte aligned), everything included. */
int sp_axis_taps_max(const sp_axis_params *params);
size_t sp_axis_bytes(const sp_axis_params *params);

/* Lays the axis out in `memory`, which it borrows for its life. Not packed yet. */
void sp_axis_fill(const sp_axis_params *params, void *memory, sp_axis *ret_axis);

#endif
