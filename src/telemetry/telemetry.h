/* SPDX-License-Identifier: Apache-2.0
 * Telemetry: exports what base/metrics.h declares, and what the kernel knows about this process. */
#ifndef SP_TELEMETRY_TELEMETRY_H
#define SP_TELEMETRY_TELEMETRY_H

#include "base/buf.h"

/* Appends the metrics page, Prometheus text format 0.0.4: every declared series, then resident memory, CPU time, open
 * descriptors, start time and the build. What /proc does not tell is left out. Failure shows in sp_buf_ok(out). */
void sp_telemetry_write(sp_buf *out);

#endif
