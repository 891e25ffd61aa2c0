/* SPDX-License-Identifier: Apache-2.0
 * The series table: append-only, so a pointer once given stays good. */
#include "base/metrics.h"

#include "base/limits.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Upper bounds in microseconds: 1-2-5 steps from 5 us to 60 s, then infinity. */
static const int64_t bucket_us[] = { 5,      10,     20,     50,     100,     200,     500,     1000,    2000,     5000,    10000,
                                     20000, 50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000, 30000000, 60000000 };
#define BUCKETS (SP_ARRAY_LEN(bucket_us) + 1)

struct sp_metric {
    sp_metric_kind kind;
    const char *name;
    const char *help;
    char labels[192]; /* a served model's name may take most of it */
    atomic_int_fast64_t value; /* histogram: count */
    atomic_int_fast64_t sum_ns;
    atomic_int_fast64_t buckets[BUCKETS]; /* not cumulative */
};

static sp_metric series[SP_LIMIT_METRICS + 1]; /* the last one takes the overflow */
static atomic_size_t series_count;
static pthread_mutex_t series_lock = PTHREAD_MUTEX_INITIALIZER; /* guards appending to `series` */

static sp_metric *find(const char *name, const char *labels, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(series[i].name, name) == 0 && strcmp(series[i].labels, labels) == 0)
            return &series[i];
    }
    return NULL;
}

sp_metric *sp_metric_get(sp_metric_kind kind, const char *name, const char *labels, const char *help)
{
    pthread_mutex_lock(&series_lock);
    size_t count = atomic_load(&series_count);
    sp_metric *metric = find(name, labels, count);
    if (!metric && count < SP_LIMIT_METRICS && strlen(labels) < sizeof(series[0].labels)) {
        metric = &series[count];
        metric->kind = kind;
        metric->name = name;
        metric->help = help;
        (void)snprintf(metric->labels, sizeof(metric->labels), "%s", labels);
        atomic_store(&series_count, count + 1);
    } else if (!metric) {
        metric = &series[SP_LIMIT_METRICS];
    }
    pthread_mutex_unlock(&series_lock);
    return metric;
}

void sp_metric_add(sp_metric *metric, int64_t amount)
{
    atomic_fetch_add_explicit(&metric->value, amount, memory_order_relaxed);
}

void sp_metric_set(sp_metric *metric, int64_t value)
{
    atomic_store_explicit(&metric->value, value, memory_order_relaxed);
}

void sp_metric_observe_ns(sp_metric *metric, int64_t ns)
{
    size_t i = 0;
    while (i < SP_ARRAY_LEN(bucket_us) && ns > bucket_us[i] * 1000)
        i++;
    atomic_fetch_add_explicit(&metric->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->sum_ns, ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->value, 1, memory_order_relaxed);
}

int64_t sp_metric_value(const sp_metric *metric)
{
    return atomic_load_explicit(&metric->value, memory_order_relaxed);
}

int64_t sp_metric_quantile_ns(const sp_metric *metric, double q)
{
    int64_t total = 0, counts[BUCKETS];
    for (size_t i = 0; i < BUCKETS; i++) {
        counts[i] = atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        total += counts[i];
    }
    double rank = q * (double)total;
    double seen = 0;
    for (size_t i = 0; i < BUCKETS && total; i++) {
        if (counts[i] && seen + (double)counts[i] >= rank) {
            double low = i ? (double)bucket_us[i - 1] : 0;
            double high = i < SP_ARRAY_LEN(bucket_us) ? (double)bucket_us[i] : low;
            return (int64_t)((low + (high - low) * (rank - seen) / (double)counts[i]) * 1000);
        }
        seen += (double)counts[i];
    }
    return 0;
}

static void write_series(sp_buf *out, const sp_metric *m)
{
    if (m->kind != SP_METRIC_HISTOGRAM) {
        sp_buf_printf(out, "%s%s%s%s %lld\n", m->name, *m->labels ? "{" : "", m->labels, *m->labels ? "}" : "",
                      (long long)sp_metric_value(m));
        return;
    }
    const char *comma = *m->labels ? "," : "";
    long long cumulative = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        cumulative += (long long)atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        if (i < SP_ARRAY_LEN(bucket_us))
            sp_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %lld\n", m->name, m->labels, comma, (double)bucket_us[i] / 1e6,
                          cumulative);
        else
            sp_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %lld\n", m->name, m->labels, comma, cumulative);
    }
    const char *open = *m->labels ? "{" : "", *shut = *m->labels ? "}" : "";
    sp_buf_printf(out, "%s_sum%s%s%s %.9f\n", m->name, open, m->labels, shut,
                  (double)atomic_load_explicit(&m->sum_ns, memory_order_relaxed) / 1e9);
    sp_buf_printf(out, "%s_count%s%s%s %lld\n", m->name, open, m->labels, shut, cumulative);
}

void sp_metrics_write(sp_buf *out)
{
    static const char *const kinds[] = { "counter", "gauge", "histogram" };
    size_t count = atomic_load(&series_count);
    bool done[SP_LIMIT_METRICS] = { false };
    for (size_t i = 0; i < count; i++) {
        if (done[i])
            continue;
        /* The format wants all series of one name together under one header. */
        sp_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", series[i].name, series[i].help, series[i].name,
                      kinds[series[i].kind]);
        for (size_t j = i; j < count; j++) {
            if (!done[j] && strcmp(series[j].name, series[i].name) == 0) {
                done[j] = true;
                write_series(out, &series[j]);
            }
        }
    }
}
