/* SPDX-License-Identifier: Apache-2.0
 * ONNX Runtime may leave FTZ and DAZ on; our kernels promise the same bits on every thread, so each run is followed by this. */
#ifndef SP_WORKER_MXCSR_H
#define SP_WORKER_MXCSR_H

#include "base/attr.h"
#include "base/metrics.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define SP_MXCSR_FLUSH 0x8040u /* flush to zero, denormals are zero */
#endif

static inline void sp_mxcsr_repair(sp_metric *repaired)
{
#if defined(__x86_64__)
    unsigned state = _mm_getcsr();
    if (SP_UNLIKELY(state & SP_MXCSR_FLUSH)) {
        _mm_setcsr(state & ~SP_MXCSR_FLUSH);
        sp_metric_add(repaired, 1);
    }
#else
    (void)repaired;
#endif
}

#endif
