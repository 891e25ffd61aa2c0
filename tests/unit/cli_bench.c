/* SPDX-License-Identifier: Apache-2.0
 * cli/bench_hist: quantiles against sorted samples. cli/bench_http: answers cut at every place read the same; URLs. */
#include "cli/bench_hist.h"
#include "cli/bench_http.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

TEST(quantiles_are_within_a_bucket_of_the_true_ones)
{
    static sp_hist hist;
    static int64_t samples[5000];
    static const double quantiles[] = { 0, .001, .1, .5, .9, .95, .99, .999, 1 };
    sp_hist_init(&hist);
    CHECK_INT(sp_hist_quantile(&hist, .5), 0);
    for (size_t i = 0; i < SP_ARRAY_LEN(samples); i++) {
        samples[i] = (int64_t)(test_random() >> (1 + test_random() % 62)); /* every magnitude */
        sp_hist_add(&hist, samples[i]);
    }
    qsort(samples, SP_ARRAY_LEN(samples), sizeof samples[0], by_value);
    CHECK_INT(hist.min, samples[0]);
    CHECK_INT(hist.max, samples[SP_ARRAY_LEN(samples) - 1]);
    for (size_t i = 0; i < SP_ARRAY_LEN(quantiles); i++) {
        size_t rank = (size_t)(quantiles[i] * (double)SP_ARRAY_LEN(samples) + .999999);
        int64_t truth = samples[rank ? rank - 1 : 0], got = sp_hist_quantile(&hist, quantiles[i]);
        CHECK(got >= truth && got - truth <= truth / 128);
    }
}

TEST(small_values_are_exact)
{
    static sp_hist hist;
    sp_hist_init(&hist);
    for (int i = 1; i <= 100; i++)
        sp_hist_add(&hist, i);
    sp_hist_add(&hist, -5); /* counts as 0 */
    CHECK_INT(sp_hist_quantile(&hist, .5), 50);
    CHECK_INT(hist.min, 0);
    CHECK_INT(sp_hist_quantile(&hist, 1), 100);
}

static void read_in_pieces(const char *wire, int status, const char *body, sp_bench_phase phase)
{
    static sp_bench_answer answer;
    static uint8_t kept[256];
    size_t size = strlen(wire);
    for (int round = 0; round < 200; round++) {
        answer.kept = kept;
        answer.keep_limit = sizeof kept;
        sp_bench_answer_reset(&answer);
        size_t at = 0;
        while (at < size && answer.phase != SP_BENCH_DONE && answer.phase != SP_BENCH_BAD) {
            size_t piece = round ? (size_t)test_random_between(1, 9) : size;
            piece = SP_MIN(piece, size - at);
            at += sp_bench_answer_feed(&answer, (const uint8_t *)wire + at, piece);
        }
        CHECK_INT(answer.phase, phase);
        if (phase != SP_BENCH_BAD) {
            CHECK_INT(answer.status, status);
            CHECK_INT(answer.kept_bytes, strlen(body));
            CHECK_BYTES(kept, body, strlen(body));
        }
        if (phase == SP_BENCH_DONE)
            CHECK_INT(at, size);
    }
}

TEST(answers_read_the_same_wherever_they_are_cut)
{
    read_in_pieces("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", SP_BENCH_DONE);
    read_in_pieces("HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", 200, "", SP_BENCH_DONE);
    read_in_pieces("HTTP/1.1 204 No Content\r\n\r\n", 204, "", SP_BENCH_DONE);
    read_in_pieces("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno", 413, "no", SP_BENCH_DONE);
    read_in_pieces("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n", 200,
                   "abc0123456789", SP_BENCH_DONE);
    read_in_pieces("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200, "", SP_BENCH_BAD);
    read_in_pieces("HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end", SP_BENCH_BODY_CLOSE);
    read_in_pieces("HTTP/2 what\r\n\r\n", 0, "", SP_BENCH_BAD);
}

TEST(the_first_label_is_found)
{
    char label[16];
    sp_view body = sp_view_of("{\"predictions\":[{\"label\" : \"a \\\"b\\\" c\",\"p\":1},{\"label\":\"d\"}]}");
    CHECK(sp_bench_answer_label(body, label, sizeof label));
    CHECK_TEXT(label, "a \"b\" c");
    CHECK(!sp_bench_answer_label(sp_view_of("{\"label\":7}"), label, sizeof label));
    CHECK(!sp_bench_answer_label(sp_view_of("{\"label\":\"cut"), label, sizeof label));
    CHECK(sp_bench_answer_label(sp_view_of("\"label\":\"0123456789abcdefXYZ\""), label, sizeof label));
    CHECK_TEXT(label, "0123456789abcde");
}

TEST(urls)
{
    sp_bench_url url;
    CHECK_INT(sp_bench_url_parse("http://127.0.0.1:8000/infer?task=noop#x", &url, NULL), SP_OK);
    CHECK_TEXT(url.host, "127.0.0.1");
    CHECK_TEXT(url.port, "8000");
    CHECK_TEXT(url.target, "/infer?task=noop");
    CHECK_INT(sp_bench_url_parse("HTTP://h?a=b", &url, NULL), SP_OK);
    CHECK_TEXT(url.target, "/?a=b");
    CHECK_TEXT(url.port, "80");
    CHECK_INT(sp_bench_url_parse("http://[::1]:9/", &url, NULL), SP_OK);
    CHECK_TEXT(url.host, "::1");
    static const char *const bad[] = { "", "https://h/", "http:///x", "http://h:/", "http://h:123456/", "http://h:8x/",
                                       "http://[::1/" };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++)
        CHECK_INT(sp_bench_url_parse(bad[i], &url, NULL), SP_INVALID);
}
