/* SPDX-License-Identifier: Apache-2.0
 * The loops of plane_loops.inc, for CPUs with AVX2. */
#define SP_LOOP(name) sp_##name##_avx2
#include "kernels/plane_loops.inc"
