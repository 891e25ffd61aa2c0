/* SPDX-License-Identifier: Apache-2.0
 * `spillway results export`: the stored answers as JSON lines or CSV, newest first. It reads beside a running server. */
#include "cli/cli.h"
#include "config/config.h"
#include "store/results.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE_DOCUMENTS 200

SP_DEFINE_CLEANUP(sp_config, sp_config_unref)

typedef struct words {
    const char *format, *data_dir, *config, *output, *task, *stream, *provider, *tenant, *text, *fallback, *from, *to;
    int64_t limit;
} words;

typedef struct export {
    FILE *out;
    bool csv;
    int64_t left; /* documents */
    int64_t count;
    bool bad; /* a page that is no JSON */
} export;

static const char examples[] =
    "  spillway results export > results.jsonl\n"
    "  spillway results export --format csv --task classify --from 2026-11-01 --output november.csv\n"
    "  spillway results export --config spillway.yaml --fallback yes --text tench\n";

static const char notes[] =
    "One document a line, newest first, as GET /v1/results shows them. A time is a date (2026-11-01), a date and a\n"
    "time in UTC (2026-11-01T12:00:00Z) or milliseconds since 1970. Answers that still wait in the spool for a store\n"
    "that is down are not among them.\n";

static bool parse(words *w, int argc, char **argv, int *ret_count, int *ret_exit)
{
    const sp_option options[] = {
        { .name = "format", .kind = SP_OPTION_TEXT, .value = "FORMAT", .target = &w->format, .help = "jsonl or csv (default jsonl)" },
        { .name = "data-dir", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &w->data_dir, .help = "the server's (default: the configuration's)" },
        { .name = "config", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &w->config, .help = "the server's: data_dir, results.mongodb" },
        { .name = "output", .letter = 'o', .kind = SP_OPTION_TEXT, .value = "FILE", .target = &w->output, .help = "default: standard output" },
        { .name = "task", .kind = SP_OPTION_TEXT, .value = "TASK", .target = &w->task, .help = "only this task's" },
        { .name = "stream", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &w->stream, .help = "only this stream's" },
        { .name = "provider", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &w->provider, .help = "only what this link answered" },
        { .name = "tenant", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &w->tenant, .help = "only this tenant's" },
        { .name = "text", .kind = SP_OPTION_TEXT, .value = "TEXT", .target = &w->text, .help = "only where the text holds this, in any case" },
        { .name = "fallback", .kind = SP_OPTION_TEXT, .value = "yes|no", .target = &w->fallback, .help = "only those that fell back, or did not" },
        { .name = "from", .kind = SP_OPTION_TEXT, .value = "TIME", .target = &w->from, .help = "not older than this" },
        { .name = "to", .kind = SP_OPTION_TEXT, .value = "TIME", .target = &w->to, .help = "older than this" },
        { .name = "limit", .kind = SP_OPTION_INT, .value = "N", .target = &w->limit, .least = 1, .most = INT64_MAX, .help = "at most so many (default: all)" },
    };
    const sp_usage usage = {
        .command = "results", .arguments = "export", .summary = "Writes stored answers as JSON lines or CSV.", .options = options,
        .option_count = SP_ARRAY_LEN(options), .least_arguments = 1, .most_arguments = 1, .examples = examples, .notes = notes,
    };

    return sp_options_parse(&usage, argc, argv, ret_count, ret_exit);
}

/* A date, a date and time, or milliseconds; 0 = not given. */
static bool time_read(const char *option, const char *text, int64_t *ret_unix_ms)
{
    struct tm date = { 0 };
    char *end = NULL;

    *ret_unix_ms = 0;
    if (!text)
        return true;
    errno = 0;
    int64_t number = strtoll(text, &end, 10);
    if (!errno && end != text && !*end && number >= 0) {
        *ret_unix_ms = number;
        return true;
    }
    const char *rest = strptime(text, "%Y-%m-%d", &date);
    if (rest && *rest == 'T')
        rest = strptime(rest, "T%H:%M:%S", &date);
    if (rest && *rest == 'Z')
        rest++;
    if (!rest || *rest || date.tm_year < 70) {
        (void)sp_cli_fail(0, "results", "%s must be a time like 2026-11-01, 2026-11-01T12:00:00Z or 1790812800000, not '%s'", option, text);
        return false;
    }
    *ret_unix_ms = (int64_t)timegm(&date) * 1000;
    return true;
}

/* --- CSV (RFC 4180) ---------------------------------------------------------------------------------------------- */

static const char *const columns[] = { "id", "tenant", "task", "stream", "provider", "tier", "client_id", "fallback", "unix_ms",
                                       "duration_ns", "device_ns", "microdollars", "text", "document" };

static void csv_text(FILE *out, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void csv_value(FILE *out, const json_t *value)
{
    if (json_is_string(value)) {
        csv_text(out, json_string_value(value));
    } else if (json_is_integer(value)) {
        fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_boolean(value)) {
        fputs(json_is_true(value) ? "true" : "false", out);
    } else if (value && !json_is_null(value)) {
        char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        csv_text(out, text ? text : "");
        free(text);
    }
}

static void csv_row(FILE *out, const json_t *document)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(columns); i++) {
        if (i)
            fputc(',', out);
        csv_value(out, json_object_get(document, columns[i]));
    }
    fputs("\r\n", out);
}

static void csv_header(FILE *out)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(columns); i++)
        fprintf(out, "%s%s", i ? "," : "", columns[i]);
    fputs("\r\n", out);
}

/* --- pages ------------------------------------------------------------------------------------------------------- */

static void write_document(export *e, const json_t *document)
{
    if (e->csv) {
        csv_row(e->out, document);
    } else {
        (void)json_dumpf(document, e->out, JSON_COMPACT); /* a full disk shows in ferror, at the end */
        fputc('\n', e->out);
    }
    e->count++;
    e->left--;
}

static bool take(sp_view json, void *context)
{
    export *e = context;
    json_t *page = json_loadb((const char *)json.data, json.size_bytes, 0, NULL), *document;
    size_t i;

    e->bad = !page;
    json_array_foreach(page, i, document) {
        if (e->left <= 0)
            break;
        write_document(e, document);
    }
    json_decref(page);
    return !e->bad && e->left > 0 && !ferror(e->out);
}

static int run(const words *w, const sp_config *config, const sp_result_filter *filter)
{
    const char *data_dir = w->data_dir ? w->data_dir : config->data_dir;
    export e = { .out = stdout, .csv = w->format && !strcmp(w->format, "csv"), .left = w->limit ? w->limit : INT64_MAX };
    sp_error err = { 0 };

    if (w->output && !(e.out = fopen(w->output, "we")))
        return sp_cli_fail(SP_EXIT_FAILED, "results", "cannot write %s: %s", w->output, strerror(errno));
    if (e.csv)
        csv_header(e.out);
    sp_status s = sp_results_read(&config->results, data_dir, filter, take, &e, &err);
    bool written = !ferror(e.out) && (e.out == stdout ? fflush(stdout) : fclose(e.out)) == 0;
    if (s)
        return sp_cli_fail_error("results", &err);
    if (e.bad)
        return sp_cli_fail(SP_EXIT_FAILED, "results", "the store holds a document that is no JSON, after %" PRId64 " good ones", e.count);
    if (!written)
        return sp_cli_fail(SP_EXIT_FAILED, "results", "cannot write %s: %s", w->output ? w->output : "standard output", strerror(errno));
    return SP_EXIT_OK;
}

static int config_open(const words *w, sp_config **ret_config)
{
    sp_complaints complaints;
    sp_error err = { 0 };

    sp_complaints_init(&complaints);
    sp_status s = w->config ? sp_config_load(w->config, ret_config, &complaints, &err) : sp_config_new_default(ret_config, &err);
    if (s && complaints.count)
        fprintf(stderr, "%.*s", (int)complaints.text.size_bytes, (const char *)complaints.text.data);
    else if (s)
        (void)sp_cli_fail(0, "results", "%s", err.message);
    sp_complaints_done(&complaints);
    return !s ? SP_EXIT_OK : s == SP_NOT_FOUND ? SP_EXIT_UNAVAILABLE : SP_EXIT_USAGE;
}

int sp_command_results(int argc, char **argv)
{
    SP_CLEANUP(sp_config_unrefp) sp_config *config = NULL;
    words w = { 0 };
    int count, code;

    if (!parse(&w, argc, argv, &count, &code))
        return code;
    if (strcmp(argv[0], "export") != 0)
        return sp_cli_fail(SP_EXIT_USAGE, "results", "'%s' is not export (spillway results --help)", argv[0]);
    if (w.format && strcmp(w.format, "csv") != 0 && strcmp(w.format, "jsonl") != 0)
        return sp_cli_fail(SP_EXIT_USAGE, "results", "--format must be jsonl or csv, not '%s'", w.format);
    if (w.fallback && strcmp(w.fallback, "yes") != 0 && strcmp(w.fallback, "no") != 0)
        return sp_cli_fail(SP_EXIT_USAGE, "results", "--fallback must be yes or no, not '%s'", w.fallback);
    sp_result_filter filter = { .tenant = w.tenant, .task = w.task, .stream = w.stream, .provider = w.provider, .text = w.text,
                                .fallback = w.fallback ? !strcmp(w.fallback, "yes") : -1, .limit = PAGE_DOCUMENTS };
    if (!time_read("--from", w.from, &filter.from_unix_ms) || !time_read("--to", w.to, &filter.to_unix_ms))
        return SP_EXIT_USAGE;
    code = config_open(&w, &config);
    return code ? code : run(&w, config, &filter);
}
