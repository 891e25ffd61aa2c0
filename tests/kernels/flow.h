/* SPDX-License-Identifier: Apache-2.0
 * The checks of the dense flow's rows, which twins.c runs at each level. */
#ifndef SP_TESTS_KERNELS_FLOW_H
#define SP_TESTS_KERNELS_FLOW_H

#include "kernels/kernels.h"

void check_flow_smooth(const sp_kernel_table *twin);
void check_flow_mix_u8(const sp_kernel_table *twin);
void check_flow_mix_f32(const sp_kernel_table *twin);
void check_flow_across(const sp_kernel_table *twin);
void check_flow_expand(const sp_kernel_table *twin);
void check_flow_update(const sp_kernel_table *twin);
void check_flow_window(const sp_kernel_table *twin);
void check_flow_solve(const sp_kernel_table *twin);

#endif
