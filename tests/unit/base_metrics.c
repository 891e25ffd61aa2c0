/* SPDX-License-Identifier: Apache-2.0
 * base/metrics: the series table, quantiles, the text that Prometheus reads. */
#include "base/metrics.h"
#include "base/limits.h"
#include "test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *page(void)
{
    sp_buf buf;
    sp_buf_init(&buf, SP_LIMIT_JSON_BYTES);
    sp_metrics_write(&buf);
    char *text = sp_buf_take(&buf, NULL);
    if (!text)
        abort();
    return text;
}

static void check_page_has(const char *piece)
{
    char *text = page();
    if (!strstr(text, piece))
        test_fail(__FILE__, __LINE__, "the page has no \"%s\"", piece);
    free(text);
}

TEST(the_same_name_and_labels_are_the_same_series)
{
    sp_metric *a = sp_metric_get(SP_METRIC_COUNTER, "t_same_total", "link=\"cpu0\"", "Help");
    CHECK(a == sp_metric_get(SP_METRIC_COUNTER, "t_same_total", "link=\"cpu0\"", "Help"));
    CHECK(a != sp_metric_get(SP_METRIC_COUNTER, "t_same_total", "link=\"cpu1\"", "Help"));
    sp_metric_add(a, 2);
    sp_metric_add(a, 3);
    CHECK_INT(sp_metric_value(a), 5);
    check_page_has("# HELP t_same_total Help\n# TYPE t_same_total counter\nt_same_total{link=\"cpu0\"} 5\n"
                   "t_same_total{link=\"cpu1\"} 0\n");
}

TEST(series_of_one_name_stand_together)
{
    (void)sp_metric_get(SP_METRIC_GAUGE, "t_apart", "n=\"1\"", "Help");
    (void)sp_metric_get(SP_METRIC_GAUGE, "t_between", "", "Help");
    sp_metric_set(sp_metric_get(SP_METRIC_GAUGE, "t_apart", "n=\"2\"", "Help"), -7);
    check_page_has("t_apart{n=\"1\"} 0\nt_apart{n=\"2\"} -7\n");
    check_page_has("# TYPE t_between gauge\nt_between 0\n");
}

TEST(histograms_are_cumulative_and_in_seconds)
{
    sp_metric *m = sp_metric_get(SP_METRIC_HISTOGRAM, "t_seconds", "stage=\"run\"", "Help");
    sp_metric_observe_ns(m, 5000);        /* a bound belongs to its bucket */
    sp_metric_observe_ns(m, 5001);
    sp_metric_observe_ns(m, 1500000);     /* 1.5 ms */
    sp_metric_observe_ns(m, 100000000000); /* 100 s: beyond the last bound */
    CHECK_INT(sp_metric_value(m), 4);
    check_page_has("t_seconds_bucket{stage=\"run\",le=\"5e-06\"} 1\nt_seconds_bucket{stage=\"run\",le=\"1e-05\"} 2\n");
    check_page_has("t_seconds_bucket{stage=\"run\",le=\"0.001\"} 2\nt_seconds_bucket{stage=\"run\",le=\"0.002\"} 3\n");
    check_page_has("t_seconds_bucket{stage=\"run\",le=\"60\"} 3\nt_seconds_bucket{stage=\"run\",le=\"+Inf\"} 4\n"
                   "t_seconds_sum{stage=\"run\"} 100.001510001\nt_seconds_count{stage=\"run\"} 4\n");
}

TEST(a_histogram_without_labels)
{
    sp_metric_observe_ns(sp_metric_get(SP_METRIC_HISTOGRAM, "t_bare_seconds", "", "Help"), 1);
    check_page_has("t_bare_seconds_bucket{le=\"5e-06\"} 1\n");
    check_page_has("t_bare_seconds_sum 0.000000001\nt_bare_seconds_count 1\n");
}

TEST(quantiles_interpolate)
{
    sp_metric *m = sp_metric_get(SP_METRIC_HISTOGRAM, "t_quantile_seconds", "", "Help");
    CHECK_INT(sp_metric_quantile_ns(m, 0.5), 0);
    for (int i = 0; i < 100; i++)
        sp_metric_observe_ns(m, i < 50 ? 15000 : 150000); /* buckets 10-20 us and 100-200 us */
    CHECK_INT(sp_metric_quantile_ns(m, 0.25), 15000);
    CHECK_INT(sp_metric_quantile_ns(m, 0.5), 20000);
    CHECK_INT(sp_metric_quantile_ns(m, 0.75), 150000);
    CHECK_INT(sp_metric_quantile_ns(m, 1.0), 200000);
    int64_t last = 0;
    for (int i = 0; i <= 100; i++) {
        int64_t at = sp_metric_quantile_ns(m, i / 100.0);
        CHECK(at >= last);
        last = at;
    }
}

static void *add_many(void *context)
{
    sp_metric *m = sp_metric_get(SP_METRIC_COUNTER, "t_threads_total", "", "Help");
    for (int i = 0; i < 20000; i++)
        sp_metric_add(m, 1);
    return context;
}

TEST(threads_lose_nothing)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, add_many, NULL) == 0);
    for (int i = 0; i < 4; i++)
        (void)pthread_join(threads[i], NULL);
    CHECK_INT(sp_metric_value(sp_metric_get(SP_METRIC_COUNTER, "t_threads_total", "", "Help")), 80000);
}

/* Last in this file: it fills the table. */
TEST(too_many_series_share_one)
{
    sp_metric *last = NULL;
    char labels[64];
    for (int i = 0; i < SP_LIMIT_METRICS + 50; i++) {
        (void)snprintf(labels, sizeof(labels), "i=\"%d\"", i);
        last = sp_metric_get(SP_METRIC_COUNTER, "t_many_total", labels, "Help");
        REQUIRE(last != NULL);
        sp_metric_add(last, 1);
    }
    CHECK(last == sp_metric_get(SP_METRIC_COUNTER, "t_another_total", "", "Help"));
    CHECK(sp_metric_value(last) > 1);
    free(page());
}
