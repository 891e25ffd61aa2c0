/* SPDX-License-Identifier: Apache-2.0
 * bench --links. One call at a time, the links in turns, so that what else the machine does meets all of them alike; what
 * is measured is the whole call as a client sees it. The first round of each link warms up and gives the answers that are
 * compared. */
#include "cli/bench_links.h"

#include "base/clock.h"
#include "cli/bench_hist.h"
#include "cli/call.h"
#include "cli/options.h"
#include "cli/seen.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_PER_FILE 20
#define ANSWER_BYTES (256u * 1024)

typedef struct link_run {
    char name[32];
    sp_buf *requests; /* of each file */
    sp_seen *answers; /* likewise, of the first round */
    sp_hist latency;
    long calls, failed, by_others, with_cost;
    double cost_usd;
    char problem[240]; /* the first one */
    double difference; /* largest, from the first link */
    int other_first;   /* files whose first class is another than the first link's */
} link_run;

typedef struct comparison {
    const sp_links_params *params;
    link_run *links;
    int link_count;
    sp_caller caller;
} comparison;

static void comparison_done(comparison *c)
{
    for (int i = 0; i < c->link_count; i++) {
        for (int k = 0; c->links[i].requests && k < c->params->file_count; k++)
            sp_buf_done(&c->links[i].requests[k]);
        free(c->links[i].requests);
        free(c->links[i].answers);
    }
    free(c->links);
    sp_caller_done(&c->caller);
}

static sp_status link_add(comparison *c, const char *name, sp_error *reterr)
{
    const sp_links_params *p = c->params;
    size_t length = strlen(name);

    if (c->link_count == SP_LINKS_MAX)
        return SP_FAIL(reterr, SP_INVALID, "--links takes at most %d links", SP_LINKS_MAX);
    if (!length || length >= sizeof(c->links->name) || strpbrk(name, "&?=# %"))
        return SP_FAIL(reterr, SP_INVALID, "--links: '%.60s' is no link's name; /healthz lists them", name);
    link_run *link = &c->links[c->link_count++];
    memcpy(link->name, name, length + 1);
    sp_hist_init(&link->latency);
    link->requests = calloc((size_t)p->file_count, sizeof(*link->requests));
    link->answers = calloc((size_t)p->file_count, sizeof(*link->answers));
    if (!link->requests || !link->answers)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d files", p->file_count);

    sp_bench_url url = *p->url;
    size_t used = strlen(url.target);
    bool asks_top_k = strstr(url.target, "top_k=") != NULL;
    int n = snprintf(url.target + used, sizeof(url.target) - used, "%clink=%s%s", strchr(url.target, '?') ? '&' : '?', name,
                     asks_top_k ? "" : "&top_k=100");
    if (n < 0 || (size_t)n >= sizeof(url.target) - used)
        return SP_FAIL(reterr, SP_INVALID, "the path is too long");
    /* A cached answer would be another link's. */
    const char *headers[SP_BENCH_HEADERS + 1] = { "Cache-Control: no-cache" };
    memcpy(headers + 1, p->headers, (size_t)p->header_count * sizeof(*headers));
    const sp_bench_request_params like = { .url = &url, .method = "POST", .multipart_field = p->field, .keep_alive = true,
                                           .content_type = p->content_type, .headers = headers,
                                           .header_count = p->header_count + 1 };
    sp_status s = SP_OK;
    for (int i = 0; i < p->file_count && !s; i++)
        s = sp_bench_file_request(&like, p->files[i], &link->requests[i], reterr);
    return s;
}

static sp_status links_read(comparison *c, sp_error *reterr)
{
    SP_CLEANUP(sp_buf_done) sp_buf list = { 0 };
    sp_status s = SP_OK;

    c->links = calloc(SP_LINKS_MAX, sizeof(*c->links));
    sp_buf_init(&list, 4096);
    sp_buf_append(&list, c->params->links, strlen(c->params->links) + 1);
    if (!c->links || !sp_buf_ok(&list))
        return SP_FAIL(reterr, SP_INVALID, "--links is too long");
    for (char *rest = (char *)list.data, *name; !s && (name = strsep(&rest, ","));)
        s = link_add(c, name, reterr);
    return s;
}

static void problem_note(link_run *link, const char *text, int status)
{
    link->failed++;
    if (*link->problem)
        return;
    if (status)
        (void)snprintf(link->problem, sizeof(link->problem), "%d: %.200s", status, text);
    else
        (void)snprintf(link->problem, sizeof(link->problem), "%.200s", text);
}

/* One call; SP_UNAVAILABLE when the server cannot be reached at all. */
static sp_status ask(comparison *c, link_run *link, int file, bool is_first, sp_error *reterr)
{
    sp_view body;
    sp_seen seen;
    int status = 0;
    int64_t begin_ns = sp_clock_now_ns();
    sp_status s = sp_caller_call(&c->caller, sp_buf_view(&link->requests[file]), c->params->timeout_ns, &status, &body, reterr);
    int64_t took_ns = sp_clock_now_ns() - begin_ns;

    link->calls++;
    if (s) {
        problem_note(link, reterr->message, 0);
        return s == SP_UNAVAILABLE ? s : SP_OK;
    }
    bool read = sp_seen_read(body, &seen);
    if (status != 200 || !read) {
        problem_note(link, read ? seen.reason : "the answer is no JSON", status);
    } else if (strcmp(seen.provider, link->name)) {
        link->by_others++;
        (void)snprintf(link->problem, sizeof(link->problem), "answered by %s instead", seen.provider);
    } else if (is_first) {
        link->answers[file] = seen;
    } else {
        sp_hist_add(&link->latency, took_ns);
        link->with_cost += seen.has_cost;
        link->cost_usd += seen.cost_usd;
    }
    return SP_OK;
}

static sp_status run(comparison *c, sp_error *reterr)
{
    const sp_links_params *p = c->params;
    long requests = p->requests ? p->requests : (long)REQUESTS_PER_FILE * p->file_count;
    sp_status s = SP_OK;

    for (long round = -p->file_count; round < requests && !s && !*p->stop; round++) {
        for (int i = 0; i < c->link_count && !s; i++) {
            int file = (int)((round + p->file_count) % p->file_count);
            s = ask(c, &c->links[i], file, round < 0, reterr);
        }
    }
    for (int i = 1; i < c->link_count; i++) {
        for (int k = 0; k < p->file_count; k++) {
            const sp_seen *mine = &c->links[i].answers[k], *first = &c->links[0].answers[k];
            if (!mine->count || !first->count)
                continue;
            c->links[i].difference = SP_MAX(c->links[i].difference, sp_seen_difference(mine, first));
            c->links[i].other_first += !sp_seen_same_first(mine, first);
        }
    }
    return s;
}

static double quantile_ms(const link_run *link, double quantile)
{
    return (double)sp_hist_quantile(&link->latency, quantile) / 1e6;
}

/* How many times quicker than the first link, by the medians; 0 = unknown. */
static double speed_up(const comparison *c, const link_run *link)
{
    double own = quantile_ms(link, .5), first = quantile_ms(&c->links[0], .5);
    return own > 0 && first > 0 ? first / own : 0;
}

static bool is_compared(const comparison *c, const link_run *link)
{
    for (int k = 0; k < c->params->file_count; k++)
        if (link->answers[k].count && c->links[0].answers[k].count)
            return true;
    return false;
}

static void print_text(const comparison *c)
{
    printf("%-16s %7s %9s %9s %9s %12s %13s  %s\n", "LINK", "CALLS", "P50", "P95", "SPEED-UP", "$ PER 1,000", "LARGEST DIFF",
           "FIRST CLASS");
    for (int i = 0; i < c->link_count; i++) {
        const link_run *link = &c->links[i];
        char cost[24] = "-", difference[24] = "-", first[48] = "-", up[16] = "-";
        if (link->with_cost)
            (void)snprintf(cost, sizeof(cost), "%.6f", link->cost_usd / (double)link->with_cost * 1000);
        if (speed_up(c, link) > 0)
            (void)snprintf(up, sizeof(up), "%.2fx", speed_up(c, link));
        if (i && is_compared(c, link)) {
            (void)snprintf(difference, sizeof(difference), "%.3g", link->difference);
            (void)snprintf(first, sizeof(first), link->other_first ? "differs for %d of %d" : "same", link->other_first,
                           c->params->file_count);
        }
        printf("%-16s %7llu %6.2f ms %6.2f ms %9s %12s %13s  %s\n", link->name, (unsigned long long)link->latency.count,
               quantile_ms(link, .5), quantile_ms(link, .95), up, cost, difference, first);
    }
    for (int i = 0; i < c->link_count; i++)
        if (*c->links[i].problem)
            printf("%s: %ld of %ld calls failed, %ld answered by others: %s\n", c->links[i].name, c->links[i].failed,
                   c->links[i].calls, c->links[i].by_others, c->links[i].problem);
}

static void print_json(const comparison *c)
{
    json_t *links = json_array();
    for (int i = 0; i < c->link_count; i++) {
        const link_run *link = &c->links[i];
        json_t *one = json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:s}", "link", link->name, "calls",
                                (json_int_t)link->latency.count, "failed", (json_int_t)link->failed, "by_others",
                                (json_int_t)link->by_others, "p50_ms", quantile_ms(link, .5), "p95_ms", quantile_ms(link, .95),
                                "speed_up", speed_up(c, link), "problem", link->problem);
        json_object_set_new(one, "usd_per_1000", link->with_cost ? json_real(link->cost_usd / (double)link->with_cost * 1000)
                                                                 : json_null());
        bool compared = i && is_compared(c, link);
        json_object_set_new(one, "largest_difference", compared ? json_real(link->difference) : json_null());
        json_object_set_new(one, "same_first_class", compared ? json_boolean(!link->other_first) : json_null());
        json_array_append_new(links, one);
    }
    json_t *root = json_pack("{s:i, s:o}", "files", c->params->file_count, "links", links);
    (void)json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    putchar('\n');
}

int sp_bench_links(const sp_links_params *params)
{
    comparison c = { .params = params, .caller.fd = -1 };
    sp_error err = { 0 };
    int code = SP_EXIT_OK;

    sp_status s = sp_caller_init(&c.caller, params->url->host, params->url->port, ANSWER_BYTES, &err);
    if (!s)
        s = links_read(&c, &err);
    if (s) {
        code = sp_cli_fail(SP_EXIT_USAGE, "bench", "%s", err.message);
    } else if (run(&c, &err)) {
        code = sp_cli_fail(SP_EXIT_UNAVAILABLE, "bench", "%s", err.message);
    } else {
        if (params->json)
            print_json(&c);
        else
            print_text(&c);
        for (int i = 0; i < c.link_count; i++)
            if (c.links[i].failed || c.links[i].by_others || c.links[i].other_first)
                code = SP_EXIT_FAILED;
    }
    comparison_done(&c);
    return code;
}
