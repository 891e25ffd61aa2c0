/* SPDX-License-Identifier: Apache-2.0
 * The checks of a detector's kernels, which twins.c runs at each level. */
#ifndef SP_TESTS_KERNELS_BOXES_H
#define SP_TESTS_KERNELS_BOXES_H

#include "kernels/kernels.h"

void check_filter_f32(const sp_kernel_table *twin);
void check_best_columns_f32(const sp_kernel_table *twin);
void check_order_f32(const sp_kernel_table *twin);
void check_nms_f32(const sp_kernel_table *twin);

#endif
