/* SPDX-License-Identifier: Apache-2.0
 * The bench command: reads the command line, has the load made (bench_load.c), prints what was measured as text or as
 * JSON with machine, commit and flags. Client code only: it knows nothing of the server's insides. */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/machine.h"
#include "cli/bench_links.h"
#include "cli/bench_load.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#ifndef SP_COMMIT
#define SP_COMMIT "unknown"
#endif

#define FILES 64

typedef struct options {
    const char *url_text;
    sp_bench_url url;
    const char *files[FILES], *labels[FILES];
    int file_count, label_count;
    long body_bytes; /* -1 = none: a body of that many printable bytes */
    const char *method, *content_type, *field, *expect_text, *links;
    const char *headers[SP_BENCH_HEADERS];
    int header_count;
    bool raw, json, no_keepalive, resend_stale, constant;
    long concurrency, requests;
    double duration_s, warmup_s, rate, timeout_s;
    unsigned long seed;
} options;

static volatile bool stop_asked;

static void on_signal(int signal_number)
{
    (void)signal_number;
    stop_asked = true;
}

static const char help[] =
    "usage: spillway bench URL [options]\n"
    "\n"
    "Sends requests to an HTTP/1.1 server and reports throughput, latency quantiles and errors.\n"
    "\n"
    "what is sent\n"
    "  --file FILE          body of the request; several take turns\n"
    "  --field NAME         multipart field of the file (default: image)\n"
    "  --raw                the file as the body itself, no multipart\n"
    "  --body-bytes N       a raw body of N bytes instead of a file\n"
    "  --content-type TYPE  of the file (default: by its name)\n"
    "  --method METHOD      default: POST with a body, else GET\n"
    "  --header 'NAME: V'   added to each request; may be repeated\n"
    "  --no-keepalive       a connection for each request\n"
    "how much\n"
    "  --concurrency N      connections (default 1; with --rate 64)\n"
    "  --duration S         seconds measured (default 10)\n"
    "  --requests N         stop after N requests instead\n"
    "  --warmup S           seconds before that are not counted (default 1; with --requests 0)\n"
    "  --rate R             open loop: R requests a second are due whatever the server does; latency counts from\n"
    "                       the due time. Without it: closed loop, each connection waits for its answer\n"
    "  --constant           open loop with equal gaps (default: Poisson)\n"
    "  --seed N             of the Poisson gaps (default 1)\n"
    "  --timeout S          of one request (default 30)\n"
    "what is right\n"
    "  --expect-label L     the answer's first \"label\" must be L; one for all, or one per --file in their order\n"
    "  --expect-text T      the answer must contain T\n"
    "  --resend-stale       send again, once, when a used connection was closed before any answer came\n"
    "links against each other\n"
    "  --links A,B,...      send each --file through each of these links instead (needs the admin scope), one call\n"
    "                       after the other in turns: latency, speed-up against the first, cost, and how far the\n"
    "                       probabilities differ; --requests N calls for each link (default 20 for each file)\n"
    "output\n"
    "  --json               one JSON object\n"
    "\n"
    "examples\n"
    "  spillway bench http://127.0.0.1:8000/infer --file cat.jpg --concurrency 8 --duration 10\n"
    "  spillway bench 'http://127.0.0.1:8000/infer?task=noop' --body-bytes 1024 --rate 20000\n"
    "  spillway bench http://127.0.0.1:8000/infer --links cuda0,cpu0 --file cat.jpg --file dog.jpg\n"
    "\n"
    "exit codes: 0 all answers were 2xx and as expected; 1 some were not; 2 wrong usage; 3 no connection\n";

static sp_status number_parse(const char *name, const char *text, double min, double max, double *ret, sp_error *reterr)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= min && value <= max))
        return SP_FAIL(reterr, SP_INVALID, "--%s '%s' is not a number from %g to %g", name, text, min, max);
    *ret = value;
    return SP_OK;
}

static sp_status list_add(const char *name, const char *value, const char **list, int *count, int limit, sp_error *reterr)
{
    if (*count == limit)
        return SP_FAIL(reterr, SP_INVALID, "more than %d times --%s", limit, name);
    list[(*count)++] = value;
    return SP_OK;
}

enum option_id {
    OPT_FILE = 256, OPT_FIELD, OPT_RAW, OPT_BODY_BYTES, OPT_TYPE, OPT_METHOD, OPT_HEADER, OPT_NO_KEEPALIVE,
    OPT_CONCURRENCY, OPT_DURATION, OPT_REQUESTS, OPT_WARMUP, OPT_RATE, OPT_CONSTANT, OPT_SEED, OPT_TIMEOUT,
    OPT_LABEL, OPT_TEXT, OPT_LINKS, OPT_RESEND, OPT_JSON, OPT_HELP
};

static const struct option long_options[] = {
    { "file", required_argument, NULL, OPT_FILE },
    { "field", required_argument, NULL, OPT_FIELD },
    { "raw", no_argument, NULL, OPT_RAW },
    { "body-bytes", required_argument, NULL, OPT_BODY_BYTES },
    { "content-type", required_argument, NULL, OPT_TYPE },
    { "method", required_argument, NULL, OPT_METHOD },
    { "header", required_argument, NULL, OPT_HEADER },
    { "no-keepalive", no_argument, NULL, OPT_NO_KEEPALIVE },
    { "concurrency", required_argument, NULL, OPT_CONCURRENCY },
    { "duration", required_argument, NULL, OPT_DURATION },
    { "requests", required_argument, NULL, OPT_REQUESTS },
    { "warmup", required_argument, NULL, OPT_WARMUP },
    { "rate", required_argument, NULL, OPT_RATE },
    { "constant", no_argument, NULL, OPT_CONSTANT },
    { "seed", required_argument, NULL, OPT_SEED },
    { "timeout", required_argument, NULL, OPT_TIMEOUT },
    { "expect-label", required_argument, NULL, OPT_LABEL },
    { "expect-text", required_argument, NULL, OPT_TEXT },
    { "links", required_argument, NULL, OPT_LINKS },
    { "resend-stale", no_argument, NULL, OPT_RESEND },
    { "json", no_argument, NULL, OPT_JSON },
    { "help", no_argument, NULL, OPT_HELP },
    { 0 },
};

static sp_status option_take(options *o, int id, const char *name, sp_error *reterr)
{
    double value = 0;
    sp_status s = SP_OK;

    switch (id) {
    case OPT_FILE: return list_add(name, optarg, o->files, &o->file_count, FILES, reterr);
    case OPT_LABEL: return list_add(name, optarg, o->labels, &o->label_count, FILES, reterr);
    case OPT_HEADER: return list_add(name, optarg, o->headers, &o->header_count, SP_BENCH_HEADERS, reterr);
    case OPT_FIELD: o->field = optarg; return SP_OK;
    case OPT_TYPE: o->content_type = optarg; return SP_OK;
    case OPT_METHOD: o->method = optarg; return SP_OK;
    case OPT_TEXT: o->expect_text = optarg; return SP_OK;
    case OPT_LINKS: o->links = optarg; return SP_OK;
    case OPT_RAW: o->raw = true; return SP_OK;
    case OPT_NO_KEEPALIVE: o->no_keepalive = true; return SP_OK;
    case OPT_CONSTANT: o->constant = true; return SP_OK;
    case OPT_RESEND: o->resend_stale = true; return SP_OK;
    case OPT_JSON: o->json = true; return SP_OK;
    case OPT_BODY_BYTES:
        s = number_parse(name, optarg, 0, SP_BENCH_BODY_BYTES, &value, reterr);
        o->body_bytes = (long)value;
        return s;
    case OPT_CONCURRENCY:
        s = number_parse(name, optarg, 1, SP_LOAD_CONNECTIONS, &value, reterr);
        o->concurrency = (long)value;
        return s;
    case OPT_REQUESTS:
        s = number_parse(name, optarg, 1, 1e12, &value, reterr);
        o->requests = (long)value;
        return s;
    case OPT_SEED:
        s = number_parse(name, optarg, 0, 1e15, &value, reterr);
        o->seed = (unsigned long)value;
        return s;
    case OPT_DURATION: return number_parse(name, optarg, 0.01, 864000, &o->duration_s, reterr);
    case OPT_WARMUP: return number_parse(name, optarg, 0, 3600, &o->warmup_s, reterr);
    case OPT_RATE: return number_parse(name, optarg, 0.001, 1e7, &o->rate, reterr);
    case OPT_TIMEOUT: return number_parse(name, optarg, 0.001, 3600, &o->timeout_s, reterr);
    default: return SP_FAIL(reterr, SP_INVALID, "unknown option; --help lists them");
    }
}

/* *ret_help: --help was asked for. */
static sp_status options_parse(int argc, char **argv, options *o, bool *ret_help, sp_error *reterr)
{
    *o = (options){ .body_bytes = -1, .field = "image", .timeout_s = 30, .warmup_s = -1, .seed = 1 };
    *ret_help = false;
    optind = 1;
    opterr = 0;
    for (;;) {
        int index = 0, id = getopt_long(argc, argv, ":", long_options, &index);
        if (id == -1)
            break;
        if (id == OPT_HELP) {
            *ret_help = true;
            return SP_OK;
        }
        if (id == ':' || id == '?')
            return SP_FAIL(reterr, SP_INVALID, "%s: %s; --help lists the options", argv[optind - 1],
                           id == ':' ? "needs a value" : "unknown option");
        sp_status s = option_take(o, id, long_options[index].name, reterr);
        if (s)
            return s;
    }
    if (argc - optind != 1)
        return SP_FAIL(reterr, SP_INVALID, "one URL is needed, as in: spillway bench http://127.0.0.1:8000/healthz");
    o->url_text = argv[optind];
    if (o->file_count && o->body_bytes >= 0)
        return SP_FAIL(reterr, SP_INVALID, "--file and --body-bytes exclude each other");
    if (o->label_count > 1 && o->label_count != o->file_count)
        return SP_FAIL(reterr, SP_INVALID, "%d times --expect-label for %d files: one for all, or one for each",
                       o->label_count, o->file_count);
    if (o->links && (!o->file_count || o->rate > 0 || o->concurrency || o->duration_s > 0))
        return SP_FAIL(reterr, SP_INVALID, "--links takes one --file or more, and --requests instead of --rate, --concurrency "
                       "and --duration");
    if (!o->concurrency)
        o->concurrency = o->rate > 0 ? 64 : 1;
    if (!o->requests && o->duration_s <= 0 && !o->links)
        o->duration_s = 10;
    if (o->warmup_s < 0)
        o->warmup_s = o->requests ? 0 : 1;
    if (!o->method)
        o->method = o->file_count || o->body_bytes >= 0 ? "POST" : "GET";
    return sp_bench_url_parse(o->url_text, &o->url, reterr);
}

static sp_status shot_build(const options *o, int index, sp_buf *ret_request, sp_error *reterr)
{
    SP_CLEANUP(sp_buf_done) sp_buf body = { 0 };
    sp_bench_request_params params = { .url = &o->url, .method = o->method, .headers = o->headers,
                                       .header_count = o->header_count, .keep_alive = !o->no_keepalive,
                                       .content_type = o->content_type };

    if (index < o->file_count) {
        params.multipart_field = o->raw ? NULL : o->field;
        return sp_bench_file_request(&params, o->files[index], ret_request, reterr);
    }
    sp_buf_init(&body, SP_BENCH_BODY_BYTES);
    for (long i = 0; i < o->body_bytes; i++)
        sp_buf_append(&body, &"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/"[i & 63], 1);
    params.has_body = o->body_bytes >= 0;
    params.body = sp_buf_view(&body);
    sp_buf_init(ret_request, SP_BENCH_BODY_BYTES + 65536);
    return sp_bench_request_build(&params, ret_request, reterr);
}

/* "model name" and numbers of the first CPU: figures of different generations are not to be compared. */
static void cpu_read(char *ret_name, size_t name_size, char *ret_numbers, size_t numbers_size)
{
    char line[512], value[128];
    int family = 0, model = 0, stepping = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");

    (void)snprintf(ret_name, name_size, "unknown");
    while (file && fgets(line, sizeof line, file) && line[0] != '\n') {
        if (sscanf(line, "model name : %127[^\n]", value) == 1)
            (void)snprintf(ret_name, name_size, "%s", value);
        (void)(sscanf(line, "cpu family : %d", &family) || sscanf(line, "stepping : %d", &stepping) ||
               sscanf(line, "model : %d", &model));
    }
    if (file)
        (void)fclose(file);
    (void)snprintf(ret_numbers, numbers_size, "family %d model %d stepping %d", family, model, stepping);
}

static double cpu_seconds(void)
{
    struct rusage use;
    (void)getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static uint64_t error_sum(const sp_load_result *r)
{
    uint64_t sum = 0;
    for (int i = 0; i < SP_LOAD_ERROR_COUNT; i++)
        sum += r->errors[i];
    return sum;
}

static double throughput(const sp_load_result *r)
{
    return r->window_ns > 0 ? (double)r->window_ok * 1e9 / (double)r->window_ns : 0;
}

static void json_hist(sp_buf *out, const char *name, const sp_hist *hist)
{
    static const struct { const char *name; double quantile; } points[] = {
        { "p50", .5 }, { "p90", .9 }, { "p95", .95 }, { "p99", .99 }, { "p99_9", .999 },
    };
    sp_buf_printf(out, "\"%s\":{\"count\":%llu,\"min\":%.1f,\"mean\":%.1f", name, (unsigned long long)hist->count,
                  hist->count ? (double)hist->min / 1e3 : 0, sp_hist_mean(hist) / 1e3);
    for (size_t i = 0; i < SP_ARRAY_LEN(points); i++)
        sp_buf_printf(out, ",\"%s\":%.1f", points[i].name, (double)sp_hist_quantile(hist, points[i].quantile) / 1e3);
    sp_buf_printf(out, ",\"max\":%.1f}", (double)hist->max / 1e3);
}

static void json_setup(sp_buf *out, const options *o, int argc, char **argv)
{
    char cpu[128], numbers[64];
    struct utsname os;
    sp_machine machine;
    const char *commit = getenv("SPILLWAY_COMMIT");

    sp_machine_read(&machine);
    (void)uname(&os);
    cpu_read(cpu, sizeof cpu, numbers, sizeof numbers);
    sp_buf_append_text(out, "{\"url\":");
    sp_buf_append_json_text(out, o->url_text);
    sp_buf_append_text(out, ",\"command\":[");
    for (int i = 0; i < argc; i++) {
        sp_buf_append_text(out, i ? "," : "");
        sp_buf_append_json_text(out, argv[i]);
    }
    sp_buf_append_text(out, "],\"commit\":");
    sp_buf_append_json_text(out, commit ? commit : SP_COMMIT);
    sp_buf_append_text(out, ",\"machine\":{\"cpu\":");
    sp_buf_append_json_text(out, cpu);
    sp_buf_printf(out, ",\"cpu_numbers\":\"%s\",\"cpus\":%d,\"kernel\":", numbers, machine.cpu_count);
    sp_buf_append_json_text(out, os.release);
    sp_buf_append_text(out, "},\"flags\":");
    sp_buf_append_json_text(out, __VERSION__
#ifdef __OPTIMIZE__
                            " optimised"
#else
                            " not optimised"
#endif
    );
    sp_buf_printf(out, ",\"mode\":\"%s\",\"rate\":%g,\"arrival\":\"%s\",\"concurrency\":%ld,\"warmup_s\":%g",
                  o->rate > 0 ? "open" : "closed", o->rate, o->rate <= 0 ? "closed" : o->constant ? "constant" : "poisson",
                  o->concurrency, o->warmup_s);
}

static void report_json(const options *o, int argc, char **argv, const sp_load_result *r, double cpu_s)
{
    SP_CLEANUP(sp_buf_done) sp_buf out = { 0 };
    const char *comma = "";

    sp_buf_init(&out, 1u << 20);
    json_setup(&out, o, argc, argv);
    sp_buf_printf(&out, ",\"window_s\":%.6f,\"issued\":%llu,\"answered\":%llu,\"ok\":%llu,\"wrong\":%llu,"
                  "\"throughput_rps\":%.2f,\"status\":{", (double)r->window_ns / 1e9, (unsigned long long)r->issued,
                  (unsigned long long)r->answered, (unsigned long long)r->ok, (unsigned long long)r->wrong,
                  throughput(r));
    for (int i = 0; i < (int)SP_ARRAY_LEN(r->status_counts); i++)
        if (r->status_counts[i]) {
            sp_buf_printf(&out, "%s\"%d\":%llu", comma, i, (unsigned long long)r->status_counts[i]);
            comma = ",";
        }
    sp_buf_printf(&out, "},\"errors\":{\"all\":%llu", (unsigned long long)error_sum(r));
    for (int i = 0; i < SP_LOAD_ERROR_COUNT; i++)
        sp_buf_printf(&out, ",\"%s\":%llu", sp_load_error_name(i), (unsigned long long)r->errors[i]);
    sp_buf_append_text(&out, "},");
    json_hist(&out, "latency_us", &r->latency);
    sp_buf_append_text(&out, ",");
    json_hist(&out, "lateness_us", &r->lateness);
    sp_buf_printf(&out, ",\"connections\":%llu,\"bytes_in\":%llu,\"bytes_out\":%llu,\"client_cpu_s\":%.3f,\"samples\":[",
                  (unsigned long long)r->connections, (unsigned long long)r->bytes_in,
                  (unsigned long long)r->bytes_out, cpu_s);
    for (int i = 0; i < r->sample_count; i++) {
        sp_buf_printf(&out, "%s{\"status\":%d,\"body\":", i ? "," : "", r->samples[i].status);
        sp_buf_append_json_text(&out, r->samples[i].body);
        sp_buf_append_text(&out, "}");
    }
    sp_buf_append_text(&out, "]}\n");
    (void)fwrite(out.data, 1, out.size_bytes, stdout);
}

static void print_us(const char *name, int64_t ns)
{
    double us = (double)ns / 1e3;
    if (us < 1000)
        printf("  %s %.0f us", name, us);
    else
        printf("  %s %.2f ms", name, us / 1e3);
}

static void report_text(const options *o, const sp_load_result *r, double cpu_s)
{
    printf("%s  %s loop, %ld connection%s", o->url_text, o->rate > 0 ? "open" : "closed", o->concurrency,
           o->concurrency == 1 ? "" : "s");
    if (o->rate > 0)
        printf(", %g/s %s", o->rate, o->constant ? "constant" : "Poisson");
    printf(", %.2f s measured\n", (double)r->window_ns / 1e9);
    printf("throughput  %.1f right answers/s\nlatency   ", throughput(r));
    print_us("p50", sp_hist_quantile(&r->latency, .5));
    print_us("p95", sp_hist_quantile(&r->latency, .95));
    print_us("p99", sp_hist_quantile(&r->latency, .99));
    print_us("p99.9", sp_hist_quantile(&r->latency, .999));
    print_us("max", r->latency.max);
    printf("\nanswers   ");
    for (int i = 0; i < (int)SP_ARRAY_LEN(r->status_counts); i++)
        if (r->status_counts[i])
            printf("  %d: %llu", i, (unsigned long long)r->status_counts[i]);
    printf("  wrong: %llu\nerrors      %llu", (unsigned long long)r->wrong, (unsigned long long)error_sum(r));
    for (int i = 0; i < SP_LOAD_ERROR_COUNT; i++)
        if (r->errors[i])
            printf("  %s: %llu", sp_load_error_name(i), (unsigned long long)r->errors[i]);
    printf("\nclient      %.2f s CPU, %llu connections\n", cpu_s, (unsigned long long)r->connections);
    for (int i = 0; i < r->sample_count; i++)
        printf("unexpected  %d %s\n", r->samples[i].status, r->samples[i].body);
}

static sp_status bench_run(const options *o, sp_load_result *result, sp_error *reterr)
{
    int count = o->file_count ? o->file_count : 1;
    sp_buf requests[FILES] = { 0 };
    sp_load_shot shots[FILES];
    sp_status s = SP_OK;

    for (int i = 0; i < count && !s; i++) {
        s = shot_build(o, i, &requests[i], reterr);
        shots[i] = (sp_load_shot){ sp_buf_view(&requests[i]),
                                   !o->label_count ? NULL : o->labels[o->label_count == 1 ? 0 : i] };
    }
    sp_load_params params = {
        .host = o->url.host, .port = o->url.port, .shots = shots, .shot_count = count,
        .concurrency = (int)o->concurrency, .rate = o->rate, .poisson = !o->constant, .seed = o->seed,
        .warmup_ns = (int64_t)(o->warmup_s * 1e9), .duration_ns = (int64_t)(o->duration_s * 1e9),
        .request_limit = (uint64_t)o->requests, .timeout_ns = (int64_t)(o->timeout_s * 1e9),
        .head_request = strcmp(o->method, "HEAD") == 0, .expect_text = o->expect_text,
        .resend_stale = o->resend_stale,
    };
    if (!s)
        s = sp_load_run(&params, &stop_asked, result, reterr);
    for (int i = 0; i < count; i++)
        sp_buf_done(&requests[i]);
    return s;
}

static int run_links(const options *o)
{
    const sp_links_params params = {
        .url = &o->url, .links = o->links, .files = o->files, .file_count = o->file_count, .requests = o->requests,
        .headers = o->headers, .header_count = o->header_count, .field = o->raw ? NULL : o->field,
        .content_type = o->content_type, .timeout_ns = (int64_t)(o->timeout_s * 1e9), .json = o->json, .stop = &stop_asked,
    };
    return sp_bench_links(&params);
}

int sp_command_bench(int argc, char **argv)
{
    static sp_load_result result; /* 120 KiB: not for the stack */
    options o;
    sp_error error = { 0 };
    bool wants_help;

    sp_status s = options_parse(argc, argv, &o, &wants_help, &error);
    if (!s && wants_help) {
        (void)fputs(help, stdout);
        return 0;
    }
    if (!s) {
        struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };
        (void)sigaction(SIGINT, &action, NULL);
        (void)sigaction(SIGTERM, &action, NULL);
        if (o.links)
            return run_links(&o);
        s = bench_run(&o, &result, &error);
    }
    if (s) {
        (void)fprintf(stderr, "spillway bench: %s\n", error.message);
        return s == SP_UNAVAILABLE ? 3 : 2;
    }
    if (o.json)
        report_json(&o, argc, argv, &result, cpu_seconds());
    else
        report_text(&o, &result, cpu_seconds());
    return result.answered == result.ok && error_sum(&result) == 0 ? 0 : 1;
}
