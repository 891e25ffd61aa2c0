/* SPDX-License-Identifier: Apache-2.0
 * The checks of the plane ops (plane_twins.c), one for each op of plane.inc, for twins.c to run at each level. */
#ifndef SP_TESTS_KERNELS_PLANE_TWINS_H
#define SP_TESTS_KERNELS_PLANE_TWINS_H

#include "kernels/kernels.h"

#define SP_KERNEL(name, result, parameters) void check_##name(const sp_kernel_table *twin);
#include "kernels/plane.inc"
#undef SP_KERNEL

#endif
