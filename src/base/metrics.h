/* SPDX-License-Identifier: Apache-2.0
 * Counters, gauges and histograms: declared here, exported by telemetry in Prometheus text. A room declares its
 * series once and keeps the pointer; adding is one relaxed atomic. */
#ifndef SP_BASE_METRICS_H
#define SP_BASE_METRICS_H

#include "base/buf.h"

#include <stdatomic.h>

typedef struct sp_metric sp_metric;

typedef enum sp_metric_kind { SP_METRIC_COUNTER, SP_METRIC_GAUGE, SP_METRIC_HISTOGRAM } sp_metric_kind;

/* Finds or makes the series `name{labels}`. `labels` is Prometheus text without braces ("link=\"cpu0\"") or "".
 * Never NULL: beyond SP_LIMIT_METRICS series everything lands in one overflow series. Call it at start or on a rare
 * path, not per request. `name` and `help` must be literals. Threads: any. */
sp_metric *sp_metric_get(sp_metric_kind kind, const char *name, const char *labels, const char *help);

void sp_metric_add(sp_metric *metric, int64_t amount);   /* counter, gauge */
void sp_metric_set(sp_metric *metric, int64_t value);    /* gauge */
void sp_metric_observe_ns(sp_metric *metric, int64_t ns); /* histogram, exported in seconds */
int64_t sp_metric_value(const sp_metric *metric);        /* counter, gauge; a histogram's count */

/* The q-quantile (0..1) of a histogram in ns, by linear interpolation inside its bucket; 0 when empty. */
int64_t sp_metric_quantile_ns(const sp_metric *metric, double q);

/* All series as Prometheus text format 0.0.4. */
void sp_metrics_write(sp_buf *out);

#endif
