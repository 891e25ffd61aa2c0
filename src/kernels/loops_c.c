/* SPDX-License-Identifier: Apache-2.0
 * The loops of plane_loops.inc, the scalar reference. */
#define SP_LOOP(name) sp_##name##_c
#include "kernels/plane_loops.inc"
