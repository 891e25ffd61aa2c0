/* SPDX-License-Identifier: Apache-2.0
 * The chaos command: reads what is asked for, has the requests and the faults made at once (chaos_load.c on threads of its
 * own, chaos_faults.c here), and reports. */
#include "cli/chaos.h"
#include "base/clock.h"
#include "cli/cli.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_BYTES (64u * 1024)
#define DURATION_DEFAULT_NS (30 * SP_NS_PER_S)
#define AFTER_LAST_NS (3 * SP_NS_PER_S) /* requests go on after the last fault that happens once */

typedef struct chaos_words {
    const char *script, *steps, *duration, *timeout, *settle, *tolerance, *token, *field;
    int64_t requests, concurrency, noop_percent, seed;
    bool json;
} chaos_words;

static volatile bool stop_asked;

static void on_signal(int number)
{
    (void)number;
    stop_asked = true;
}

/* --- what is asked for -------------------------------------------------------------------------------------------- */

static bool number_read(const char *option, const char *text, double most, double *ret_number)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !(number >= 0 && number <= most)) {
        (void)sp_cli_fail(0, "chaos", "--%s must be a number from 0 to %g, not '%s'", option, most, text);
        return false;
    }
    *ret_number = number;
    return true;
}

static sp_status script_file_read(const char *path, sp_buf *ret_text, sp_error *reterr)
{
    char block[4096];
    size_t n;
    FILE *file = fopen(path, "r");
    if (!file)
        return SP_FAIL_ERRNO(reterr, SP_NOT_FOUND, "%s", path);
    while ((n = fread(block, 1, sizeof(block), file)) > 0)
        sp_buf_append(ret_text, block, n);
    bool bad = ferror(file) != 0;
    (void)fclose(file);
    if (bad || !sp_buf_ok(ret_text))
        return SP_FAIL(reterr, SP_INVALID, "%s cannot be read, or is larger than %u KiB", path, SCRIPT_BYTES >> 10);
    return SP_OK;
}

/* --script's lines, or --do's, which ';' separates. */
static sp_status script_read(const chaos_words *words, sp_chaos *chaos, sp_error *reterr)
{
    SP_CLEANUP(sp_buf_done) sp_buf text = { 0 };
    sp_status s = SP_OK;

    sp_buf_init(&text, SCRIPT_BYTES);
    if (words->script)
        s = script_file_read(words->script, &text, reterr);
    else if (words->steps)
        sp_buf_append_text(&text, words->steps);
    sp_buf_append(&text, "", 1);
    if (s)
        return s;
    if (!sp_buf_ok(&text))
        return SP_FAIL(reterr, SP_INVALID, "the schedule is too long");
    for (char *at = (char *)text.data; !words->script && (at = strchr(at, ';'));)
        *at = '\n';
    return sp_chaos_script_parse(words->script ? words->script : "--do", (const char *)text.data, &chaos->script, reterr);
}

static sp_status shots_read(const chaos_words *words, sp_chaos *chaos, char **files, int count, sp_error *reterr)
{
    const sp_bench_request_params like = { .url = &chaos->url, .method = "POST", .multipart_field = words->field,
                                           .keep_alive = true, .headers = chaos->headers, .header_count = chaos->header_count };
    sp_status s = SP_OK;

    chaos->shots = calloc((size_t)count, sizeof(*chaos->shots));
    if (!chaos->shots)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d files", count);
    for (int i = 0; i < count && !s; i++) {
        chaos->shots[i].file = files[i];
        chaos->shot_count++;
        s = sp_bench_file_request(&like, files[i], &chaos->shots[i].request, reterr);
    }
    return s;
}

/* Numbers and texts into *chaos; says itself what is wrong. */
static bool words_take(const chaos_words *words, sp_chaos *chaos)
{
    double duration_s = 0, timeout_s, settle_s;
    if ((words->duration && !number_read("duration", words->duration, 864000, &duration_s)) ||
        !number_read("timeout", words->timeout, 3600, &timeout_s) || !number_read("settle", words->settle, 3600, &settle_s) ||
        !number_read("tolerance", words->tolerance, 1, &chaos->tolerance))
        return false;
    int64_t script_ns = sp_chaos_script_end_ns(&chaos->script);
    chaos->duration_ns = words->duration   ? (int64_t)(duration_s * 1e9)
                         : words->requests ? INT64_MAX
                         : script_ns       ? script_ns + AFTER_LAST_NS
                                           : DURATION_DEFAULT_NS;
    chaos->timeout_ns = (int64_t)(timeout_s * 1e9);
    chaos->settle_ns = (int64_t)(settle_s * 1e9);
    chaos->request_limit = (uint64_t)words->requests;
    chaos->concurrency = (int)words->concurrency;
    chaos->noop_percent = (int)words->noop_percent;
    chaos->seed = (uint64_t)words->seed;
    return true;
}

/* --- the run ------------------------------------------------------------------------------------------------------ */

typedef struct load_job {
    sp_chaos *chaos;
    sp_chaos_tally *sum;
    sp_status status;
    sp_error error;
} load_job;

static void *load_job_run(void *argument)
{
    load_job *job = argument;
    job->status = sp_chaos_load_run(job->chaos, job->sum, &job->error);
    return NULL;
}

/* SP_OK: it ran; *ret_after says whether the house was whole again afterwards. */
static sp_status run(sp_chaos *chaos, sp_chaos_tally *ret_sum, sp_error *ret_after, sp_error *reterr)
{
    load_job job = { .chaos = chaos, .sum = ret_sum };
    pthread_t thread;

    sp_status s = sp_chaos_permitted(chaos, reterr);
    if (!s)
        s = sp_chaos_clean_pass(chaos, reterr);
    if (s)
        return s;
    chaos->start_ns = sp_clock_now_ns();
    if (pthread_create(&thread, NULL, load_job_run, &job))
        return SP_FAIL(reterr, SP_NOMEM, "cannot start a thread");
    (void)sp_chaos_faults_run(chaos, ret_after);
    (void)pthread_join(thread, NULL);
    if (job.status) {
        *reterr = job.error;
        return job.status;
    }
    if (!ret_after->status)
        (void)sp_chaos_check_pass(chaos, ret_after);
    return SP_OK;
}

/* --- the report --------------------------------------------------------------------------------------------------- */

/* What one line of the schedule did. */
typedef struct step_result {
    int made, unanswered, not_ready;
    double answer_p50_ms, answer_max_ms, ready_p50_ms, ready_max_ms; /* -1 = nothing to say */
} step_result;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void spread(double *values, int count, double *ret_p50, double *ret_max)
{
    qsort(values, (size_t)count, sizeof(*values), by_value);
    *ret_p50 = count ? values[(count - 1) / 2] : -1;
    *ret_max = count ? values[count - 1] : -1;
}

static step_result step_result_of(const sp_chaos *chaos, const sp_chaos_step *step)
{
    step_result r = { .answer_p50_ms = -1, .answer_max_ms = -1, .ready_p50_ms = -1, .ready_max_ms = -1 };
    double *answers = calloc((size_t)chaos->event_count + 1, sizeof(double)), *ready = calloc((size_t)chaos->event_count + 1, sizeof(double));
    int answer_count = 0, ready_count = 0;

    for (int i = 0; answers && ready && i < chaos->event_count; i++) {
        const sp_chaos_event *event = &chaos->events[i];
        if (event->step != step)
            continue;
        r.made++;
        if (event->answer_ns)
            answers[answer_count++] = (double)(event->answer_ns - event->at_ns) / 1e6;
        else
            r.unanswered += !event->unasked;
        if (event->ready_ns)
            ready[ready_count++] = (double)(event->ready_ns - event->at_ns) / 1e6;
        else
            r.not_ready += event->waits_for_worker;
    }
    if (answers && ready) {
        spread(answers, answer_count, &r.answer_p50_ms, &r.answer_max_ms);
        spread(ready, ready_count, &r.ready_p50_ms, &r.ready_max_ms);
    }
    free(answers);
    free(ready);
    return r;
}

static double quantile_ms(const sp_hist *hist, double quantile)
{
    return (double)sp_hist_quantile(hist, quantile) / 1e6;
}

static void print_latency(const char *title, const sp_hist *hist)
{
    if (hist->count)
        printf("%s p50 %.1f ms  p95 %.1f  p99 %.1f  max %.1f  (%llu)\n", title, quantile_ms(hist, .5), quantile_ms(hist, .95),
               quantile_ms(hist, .99), (double)hist->max / 1e6, (unsigned long long)hist->count);
}

static void print_pair(double p50, double max)
{
    char text[40] = "-";
    if (p50 >= 0)
        (void)snprintf(text, sizeof(text), "%.0f / %.0f ms", p50, max);
    printf("  %18s", text);
}

static void print_text(const sp_chaos *chaos, const sp_chaos_tally *t, const sp_error *after, double seconds)
{
    printf("chaos      %.1f s, %d clients, %d files, %d faults made, %llu skipped, seed %llu\n", seconds, chaos->concurrency,
           chaos->shot_count, chaos->event_count, (unsigned long long)chaos->skipped, (unsigned long long)chaos->seed);
    printf("requests   sent %llu  right %llu  shed %llu  lost %llu  wrong %llu  (noop %llu, by simpler links %llu)\nby link   ",
           (unsigned long long)t->sent, (unsigned long long)t->right, (unsigned long long)t->shed, (unsigned long long)t->lost,
           (unsigned long long)t->wrong, (unsigned long long)t->noops, (unsigned long long)t->simpler);
    for (int i = 0; i < t->link_count; i++)
        printf("  %s: %llu", t->links[i].name, (unsigned long long)t->links[i].answers);
    putchar('\n');
    print_latency("latency    quiet       ", &t->latency);
    print_latency("           in a fault  ", &t->fault_latency);
    if (t->slowest_ns)
        printf("slowest    %.0f ms: %s\n", (double)t->slowest_ns / 1e6, t->slowest_way);
    printf("\n%-40s %6s  %18s  %18s\n", "FAULT", "MADE", "NEXT RIGHT ANSWER", "WORKER READY");
    for (int i = 0; i < chaos->script.count; i++) {
        step_result r = step_result_of(chaos, &chaos->script.steps[i]);
        printf("%-40.40s %6d", chaos->script.steps[i].text, r.made);
        print_pair(r.answer_p50_ms, r.answer_max_ms);
        print_pair(r.ready_p50_ms, r.ready_max_ms);
        printf("%s\n", r.unanswered || r.not_ready ? "  (not all recovered)" : "");
    }
    printf("%sp50 / max of each\n\n", "");
    for (int i = 0; i < t->sample_count; i++)
        printf("%s\n", t->samples[i]);
    if (*chaos->problem)
        printf("a fault could not be made: %s\n", chaos->problem);
    if (after->status)
        printf("afterwards: %s\n", after->message);
    printf("%s\n", t->lost || t->wrong || after->status ? "FAILED" : "ok: nothing lost, nothing wrong, everybody is back");
}

static json_t *json_latency(const sp_hist *hist)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f}", "count", (json_int_t)hist->count, "p50_ms", quantile_ms(hist, .5), "p95_ms",
                     quantile_ms(hist, .95), "p99_ms", quantile_ms(hist, .99), "max_ms",
                     hist->count ? (double)hist->max / 1e6 : 0.0);
}

static json_t *json_ms(double value)
{
    return value < 0 ? json_null() : json_real(value);
}

static void print_json(const sp_chaos *chaos, const sp_chaos_tally *t, const sp_error *after, double seconds)
{
    json_t *links = json_object(), *faults = json_array(), *samples = json_array();
    for (int i = 0; i < t->link_count; i++)
        json_object_set_new(links, t->links[i].name, json_integer((json_int_t)t->links[i].answers));
    for (int i = 0; i < chaos->script.count; i++) {
        const sp_chaos_step *step = &chaos->script.steps[i];
        step_result r = step_result_of(chaos, step);
        json_array_append_new(faults, json_pack("{s:i, s:s, s:i, s:i, s:i, s:o, s:o, s:o, s:o}", "line", step->line, "fault", step->text,
                                                "made", r.made, "unanswered", r.unanswered, "not_ready", r.not_ready,
                                                "answer_p50_ms", json_ms(r.answer_p50_ms), "answer_max_ms", json_ms(r.answer_max_ms),
                                                "ready_p50_ms", json_ms(r.ready_p50_ms), "ready_max_ms", json_ms(r.ready_max_ms)));
    }
    for (int i = 0; i < t->sample_count; i++)
        json_array_append_new(samples, json_string(t->samples[i]));
    json_t *root = json_pack("{s:f, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:s, s:s}", "seconds", seconds,
                             "clients", chaos->concurrency, "seed", (json_int_t)chaos->seed, "sent", (json_int_t)t->sent, "right",
                             (json_int_t)t->right, "shed", (json_int_t)t->shed, "lost", (json_int_t)t->lost, "wrong",
                             (json_int_t)t->wrong, "noop", (json_int_t)t->noops, "simpler", (json_int_t)t->simpler, "answered",
                             (json_int_t)(t->right + t->wrong + t->shed), "faults_made", chaos->event_count, "faults_skipped",
                             (json_int_t)chaos->skipped, "problem", chaos->problem, "afterwards", after->status ? after->message : "");
    json_object_set_new(root, "links", links);
    json_object_set_new(root, "latency", json_latency(&t->latency));
    json_object_set_new(root, "fault_latency", json_latency(&t->fault_latency));
    json_object_set_new(root, "slowest", json_pack("{s:f, s:s}", "ms", (double)t->slowest_ns / 1e6, "attempts", t->slowest_way));
    json_object_set_new(root, "faults", faults);
    json_object_set_new(root, "samples", samples);
    (void)json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    putchar('\n');
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static const char notes[] =
    "the schedule, a fault a line ('#' begins a comment):\n"
    "  at 5s kill cpu0                      SIGKILL to the worker of that name; `any`: a random one;\n"
    "                                       one that is not ready just then is waited for\n"
    "  every 3s from 1s stop codec0 for 500ms\n"
    "  every 7s until 60s signal SEGV any   also BUS, ABRT, ILL, FPE, TERM\n"
    "  at 8s slow 20 for 3s                 20 clients that stall in the middle of their request\n"
    "  at 10s post http://127.0.0.1:9000/mode/500   a stand-in's switch\n"
    "  at 12s run redis-cli shutdown        any command\n"
    "  at 15s reload                        SIGHUP to the server\n"
    "\n"
    "Each file is asked once before anything happens; later answers must have the same first class,\n"
    "and probabilities within --tolerance. Lost: no answer, or a status that is neither 200 nor 429.\n";

static int chaos_run(const chaos_words *words, sp_chaos *chaos)
{
    static sp_chaos_tally sum;
    sp_error err = { 0 }, after = { 0 };
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    sp_status s = run(chaos, &sum, &after, &err);
    if (s)
        return sp_cli_fail_error("chaos", &err);
    double seconds = (double)(sp_clock_now_ns() - chaos->start_ns) / 1e9;
    if (words->json)
        print_json(chaos, &sum, &after, seconds);
    else
        print_text(chaos, &sum, &after, seconds);
    bool idle = chaos->script.count && !chaos->event_count;
    if (idle)
        (void)sp_cli_fail(0, "chaos", "not one fault was made; nothing is proven");
    return sum.lost || sum.wrong || after.status || idle ? SP_EXIT_FAILED : SP_EXIT_OK;
}

static void chaos_done(sp_chaos *chaos)
{
    for (int i = 0; i < chaos->shot_count; i++)
        sp_buf_done(&chaos->shots[i].request);
    free(chaos->shots);
    free(chaos->events);
}

int sp_command_chaos(int argc, char **argv)
{
    chaos_words words = { .timeout = "30", .settle = "30", .tolerance = "0.001", .field = "image", .concurrency = 8, .seed = 1 };
    const sp_option options[] = {
        { .name = "script", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &words.script, .help = "the schedule, see below" },
        { .name = "do", .kind = SP_OPTION_TEXT, .value = "LINES", .target = &words.steps,
          .help = "the schedule itself, ';' between its lines" },
        { .name = "duration", .kind = SP_OPTION_TEXT, .value = "S", .target = &words.duration,
          .help = "how long (default: 3 s after the last fault that has a time,\nelse 30)" },
        { .name = "requests", .kind = SP_OPTION_INT, .value = "N", .target = &words.requests, .most = INT64_C(1000000000000),
          .help = "end after so many requests" },
        { .name = "concurrency", .letter = 'c', .kind = SP_OPTION_INT, .value = "N", .target = &words.concurrency, .least = 1,
          .most = SP_CHAOS_THREADS, .help = "clients, each with one request at a time (default 8)" },
        { .name = "noop", .kind = SP_OPTION_INT, .value = "PERCENT", .target = &words.noop_percent, .most = 100,
          .help = "this share asks task=noop with random bytes, which must come back\n(default 0)" },
        { .name = "tolerance", .kind = SP_OPTION_TEXT, .value = "X", .target = &words.tolerance,
          .help = "largest difference of a probability (default 0.001)" },
        { .name = "timeout", .kind = SP_OPTION_TEXT, .value = "S", .target = &words.timeout,
          .help = "after which a request counts as lost (default 30)" },
        { .name = "settle", .kind = SP_OPTION_TEXT, .value = "S", .target = &words.settle,
          .help = "in which every worker must be ready after the last fault (default 30)" },
        { .name = "token", .kind = SP_OPTION_TEXT, .value = "TOKEN", .target = &words.token,
          .help = "bearer token ($SPILLWAY_TOKEN); needs admin for /healthz" },
        { .name = "field", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &words.field,
          .help = "multipart field of the files (default image)" },
        { .name = "seed", .kind = SP_OPTION_INT, .value = "N", .target = &words.seed, .most = INT64_MAX,
          .help = "of what is chosen at random (default 1)" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &words.json, .help = "one JSON object" },
    };
    const sp_usage usage = {
        .command = "chaos", .arguments = "URL FILE...",
        .summary = "Makes faults in a live server on a schedule while requests with known answers run, and says\n"
                   "how many were lost or wrong (there should be none) and how long each recovery took. The\n"
                   "server must run on this machine and have been started with --allow-chaos.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .least_arguments = 2, .most_arguments = 1 + SP_CHAOS_FILES,
        .examples = "  spillway chaos http://127.0.0.1:8000/infer cat.jpg dog.jpg --do 'every 2s kill cpu0'\n"
                    "  spillway chaos http://127.0.0.1:8000/infer *.jpg --script faults.txt --requests 20000 --json\n",
        .notes = notes,
    };
    static sp_chaos chaos; /* 400 KiB of schedule: not for the stack */
    char header[1100];
    const char *headers[2] = { "Cache-Control: no-cache" }; /* a cached answer proves nothing about a link */
    sp_error err = { 0 };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    if (words.script && words.steps)
        return sp_cli_fail(SP_EXIT_USAGE, "chaos", "--script and --do exclude each other");
    if (!words.token)
        words.token = getenv("SPILLWAY_TOKEN");
    chaos = (sp_chaos){ .lock = PTHREAD_MUTEX_INITIALIZER, .stop = &stop_asked, .headers = headers, .header_count = 1 };
    if (words.token && *words.token) {
        if ((size_t)snprintf(header, sizeof(header), "Authorization: Bearer %s", words.token) >= sizeof(header))
            return sp_cli_fail(SP_EXIT_USAGE, "chaos", "the token is too long");
        headers[chaos.header_count++] = header;
    }
    sp_status s = sp_bench_url_parse(argv[0], &chaos.url, &err);
    if (!s)
        s = script_read(&words, &chaos, &err);
    if (!s)
        s = shots_read(&words, &chaos, argv + 1, count - 1, &err);
    if (s)
        code = sp_cli_fail(s == SP_NOT_FOUND ? SP_EXIT_UNAVAILABLE : SP_EXIT_USAGE, "chaos", "%s", err.message);
    else
        code = words_take(&words, &chaos) ? chaos_run(&words, &chaos) : SP_EXIT_USAGE;
    chaos_done(&chaos);
    return code;
}
