/* SPDX-License-Identifier: Apache-2.0
 * `spillway serve`: options, configuration file and environment become one sp_gateway_config; the gateway does the rest.
 * A value's order of precedence: option, file, environment, default. */
#include "cli/cli.h"

#include "base/buf.h"
#include "base/log.h"
#include "cli/config.h"

#include "gateway/gateway.h"
#include "task/model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPIN_US_DEFAULT 100 /* twice what waking an idle virtual CPU takes */
#define UNSET INT64_MIN

typedef struct settings {
    int64_t http_port, grpc_port, metrics_port, drain_delay_s, spin_us, link_timeout_ms;
    const char *bind, *model_repository, *model, *workers, *log_level, *config;
    bool require_sandbox;
    char workers_text[512]; /* the file's list, joined */
} settings;

static const char examples[] =
    "  spillway serve\n"
    "  spillway serve --http-port 0 --metrics-port 0 --workers codec0,cpu0,cpu1\n"
    "  spillway serve --model-repository ~/models --model resnet18 --config spillway.yaml\n"
    "  curl -F image=@cat.jpg http://127.0.0.1:8000/infer\n";

static const char notes[] =
    "The configuration file is YAML with the keys http_port, grpc_port, metrics_port, bind,\n"
    "model_repository, model, workers (a list), require_sandbox, drain_delay, log_level, spin_us,\n"
    "link_timeout_ms.\n"
    "An option on the command line wins over the file.\n"
    "SIGTERM and SIGINT drain: every accepted request is answered first. A second one stops at once.\n";

static bool parse(settings *s, int argc, char **argv, int *ret_exit)
{
    int count;
    const sp_option options[] = {
        { .name = "http-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->http_port, .most = 65535,
          .help = "HTTP API (default 8000; 0 = any free port, printed)" },
        { .name = "grpc-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->grpc_port, .most = 65535,
          .help = "reserved for the gRPC API (default 8001); accepted and checked,\nbut nothing listens on it yet" },
        { .name = "metrics-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->metrics_port, .least = -1,
          .most = 65535, .help = "Prometheus text (default 8002; 0 = any free port, -1 = none)" },
        { .name = "bind", .kind = SP_OPTION_TEXT, .value = "ADDRESS", .target = &s->bind,
          .help = "address to listen on (default 127.0.0.1); anything but loopback is\n"
                  "refused until access control is there" },
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &s->model_repository,
          .help = "where models are (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models)" },
        { .name = "model", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &s->model,
          .help = "the default model (default: the repository's only or first)" },
        { .name = "config", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &s->config, .help = "YAML, see below" },
        { .name = "workers", .kind = SP_OPTION_TEXT, .value = "LIST", .target = &s->workers,
          .help = "worker processes, comma-separated (default codec0,cpu0): the name\nwithout its number is the kind" },
        { .name = "require-sandbox", .kind = SP_OPTION_FLAG, .target = &s->require_sandbox,
          .help = "refuse to decode uploads where the kernel cannot sandbox it fully" },
        { .name = "drain-delay", .kind = SP_OPTION_INT, .value = "SECONDS", .target = &s->drain_delay_s, .most = 3600,
          .help = "how long /readyz says 503 before the listener closes\n(default: 0 on a terminal, else 5)" },
        { .name = "log-level", .kind = SP_OPTION_TEXT, .value = "LEVEL", .target = &s->log_level,
          .help = "debug, info, warn or error (default info)" },
        { .name = "spin-us", .kind = SP_OPTION_INT, .value = "MICROS", .target = &s->spin_us, .most = 1000000,
          .help = "look for work this long before sleeping, where it usually comes\nsooner and the core is free (default 100; 0 = never)" },
        { .name = "link-timeout-ms", .kind = SP_OPTION_INT, .value = "MS", .target = &s->link_timeout_ms,
          .most = SP_LIMIT_DEADLINE_MAX_MS, .help = "longest attempt on one link while another may still answer\n(default 0: the request's deadline)" },
    };
    const sp_usage usage = {
        .command = "serve", .arguments = "",
        .summary = "Answers requests over HTTP until SIGTERM or SIGINT. Prints its URL once it listens.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .examples = examples, .notes = notes,
    };

    return sp_options_parse(&usage, argc, argv, &count, ret_exit);
}

static sp_status take_number(int64_t *setting, const int64_t *from_file, const char *key, int64_t low, int64_t high,
                             const char *path, sp_error *reterr)
{
    if (!from_file)
        return SP_OK;
    if (*from_file < low || *from_file > high)
        return SP_FAIL(reterr, SP_INVALID, "%s: %s must be from %lld to %lld, not %lld", path, key, (long long)low,
                       (long long)high, (long long)*from_file);
    if (*setting == UNSET)
        *setting = *from_file;
    return SP_OK;
}

static sp_status take_workers(settings *s, const sp_config_file *file, sp_error *reterr)
{
    size_t used = 0;

    if (s->workers)
        return SP_OK;
    for (uint32_t i = 0; i < file->workers_count; i++) {
        int n = snprintf(s->workers_text + used, sizeof(s->workers_text) - used, "%s%s", i ? "," : "", file->workers[i]);
        used += (size_t)n;
        if (used >= sizeof(s->workers_text))
            return SP_FAIL(reterr, SP_INVALID, "%s: the list of workers is longer than %zu bytes", s->config,
                           sizeof(s->workers_text) - 1);
    }
    if (used)
        s->workers = s->workers_text;
    return SP_OK;
}

/* Puts the file's values where the command line gave none. Texts are borrowed from `file`. */
static sp_status take_file(settings *s, const sp_config_file *file, sp_error *reterr)
{
    const struct {
        int64_t *setting;
        const int64_t *from_file;
        const char *key;
        int64_t low, high;
    } numbers[] = {
        { &s->http_port, file->http_port, "http_port", 0, 65535 },
        { &s->grpc_port, file->grpc_port, "grpc_port", 0, 65535 },
        { &s->metrics_port, file->metrics_port, "metrics_port", -1, 65535 },
        { &s->drain_delay_s, file->drain_delay, "drain_delay", 0, 3600 },
        { &s->spin_us, file->spin_us, "spin_us", 0, 1000000 },
        { &s->link_timeout_ms, file->link_timeout_ms, "link_timeout_ms", 0, SP_LIMIT_DEADLINE_MAX_MS },
    };

    for (size_t i = 0; i < SP_ARRAY_LEN(numbers); i++) {
        sp_status status = take_number(numbers[i].setting, numbers[i].from_file, numbers[i].key, numbers[i].low,
                                       numbers[i].high, s->config, reterr);
        if (status)
            return status;
    }
    s->bind = s->bind ? s->bind : file->bind;
    s->model_repository = s->model_repository ? s->model_repository : file->model_repository;
    s->model = s->model ? s->model : file->model;
    s->log_level = s->log_level ? s->log_level : file->log_level;
    if (file->require_sandbox && *file->require_sandbox)
        s->require_sandbox = true;
    return take_workers(s, file, reterr);
}

static int number_or(int64_t setting, int otherwise)
{
    return setting == UNSET ? otherwise : (int)setting;
}

static void print_where(const sp_gateway_ports *ports, void *context)
{
    bool v6 = strchr(ports->address, ':') != NULL;
    char host[80];

    (void)context;
    snprintf(host, sizeof(host), v6 ? "[%s]" : "%s", ports->address);
    printf("spillway %s listens on http://%s:%d\n", SP_VERSION, host, ports->http_port);
    if (ports->metrics_port > 0)
        printf("metrics on http://%s:%d/metrics\n", host, ports->metrics_port);
    /* `make run` puts a photograph there, so that the line works as it stands. */
    const char *picture = access("var/demo/cat.png", R_OK) == 0 ? "var/demo/cat.png" : "cat.jpg";
    printf("try: curl -F image=@%s http://%s:%d/infer\n", picture, host, ports->http_port);
    fflush(stdout);
}

/* A model or repository that was asked for by name must be there, or the server would only ever say 503. Without any
 * model it starts and says so: the noop task, /healthz and /metrics work, and a model may come. */
static int check_models(const settings *s, const char *repository)
{
    static sp_model_names names; /* 16 KiB */
    sp_error err = { 0 };
    const char *pointers[SP_LIMIT_MODELS];
    sp_status status = sp_model_list(repository, &names, &err);

    if (status && s->model_repository)
        return sp_cli_fail(SP_EXIT_UNAVAILABLE, "serve", "%s", err.message);
    if (status || !names.count)
        sp_log(SP_LOG_WARN, "no model: pictures cannot be classified until `make model` or `spillway pull NAME` brings one",
               SP_LOG_TEXT("model_repository", repository));
    for (int i = 0; i < names.count; i++) {
        pointers[i] = names.names[i];
        if (s->model && !strcmp(s->model, pointers[i]))
            return SP_EXIT_OK;
    }
    if (!s->model)
        return SP_EXIT_OK;
    const char *nearest = sp_nearest(s->model, pointers, names.count);
    return sp_cli_fail(SP_EXIT_UNAVAILABLE, "serve", "no model '%s' in %s%s%s%s (spillway models lists them)", s->model, repository,
                       nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

static int run(const settings *s, sp_log_level level)
{
    sp_error err = { 0 };
    const char *repository = sp_model_repository_find(s->model_repository);
    int code;
    sp_gateway_config config = sp_gateway_config_default();

    sp_log_open("gateway", level);
    if ((code = check_models(s, repository)) != SP_EXIT_OK)
        return code;
    config.bind_address = s->bind ? s->bind : "127.0.0.1";
    config.http_port = number_or(s->http_port, 8000);
    config.metrics_port = number_or(s->metrics_port, 8002);
    config.workers = s->workers ? s->workers : "codec0,cpu0";
    config.model_repository = repository;
    config.model = s->model;
    config.require_sandbox = s->require_sandbox;
    config.spin_us = number_or(s->spin_us, SPIN_US_DEFAULT);
    config.link_timeout_ms = number_or(s->link_timeout_ms, 0);
    config.drain_delay_ms = s->drain_delay_s == UNSET ? SP_DRAIN_DELAY_AUTO : (int)s->drain_delay_s * 1000;
    config.log_level = level;
    config.quiet = true; /* print_where says it */
    config.bound = print_where;
    if (sp_gateway_run(&config, &err) == SP_OK)
        return SP_EXIT_OK;
    code = sp_cli_fail_error("serve", &err);
    return err.status == SP_INVALID ? SP_EXIT_USAGE : code;
}

int sp_command_serve(int argc, char **argv)
{
    settings s = { .http_port = UNSET, .grpc_port = UNSET, .metrics_port = UNSET, .drain_delay_s = UNSET, .spin_us = UNSET,
                   .link_timeout_ms = UNSET };
    sp_error err = { 0 };
    sp_config_file *file = NULL;
    sp_log_level level = SP_LOG_INFO;
    int code;

    if (!parse(&s, argc, argv, &code))
        return code;
    if (s.config) {
        if (sp_config_file_load(s.config, &file, &err) || (file && take_file(&s, file, &err))) {
            sp_config_file_free(file);
            return sp_cli_fail(SP_EXIT_USAGE, "serve", "%s", err.message);
        }
    }
    if (s.log_level && !sp_log_level_parse(s.log_level, &level))
        code = sp_cli_fail(SP_EXIT_USAGE, "serve", "the log level must be debug, info, warn or error, not '%s'", s.log_level);
    else {
        /* Workers are told by their environment: it is the one thing that every child inherits unasked. */
        static const char *const names[] = { "debug", "info", "warn", "error" };
        setenv("SPILLWAY_LOG_LEVEL", names[level], 1);
        code = run(&s, level);
    }
    sp_config_file_free(file);
    return code;
}
