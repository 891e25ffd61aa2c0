/* SPDX-License-Identifier: Apache-2.0
 * `spillway serve`: options, environment and configuration file become one snapshot (config/config.h); the gateway does
 * the rest. A value's order of precedence: option, environment, file, default. */
#include "cli/cli.h"

#include "base/buf.h"
#include "base/limits.h"
#include "base/log.h"

#include "config/config.h"
#include "gateway/gateway.h"
#include "task/model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNSET INT64_MIN

typedef struct settings {
    int64_t http_port, grpc_port, metrics_port, admin_port, drain_delay_s, spin_us, link_timeout_ms, http_max_input_size;
    char repositories[SP_OPTION_LIST_BYTES], load_model[SP_OPTION_LIST_BYTES];
    int64_t repository_poll_s;
    const char *model_control_mode, *strict_readiness, *exit_on_error;
    const char *bind, *model, *workers, *log_level, *access_log, *data_dir, *config;
    bool require_sandbox, allow_chaos;
    sp_config_override overrides[SP_CONFIG_OVERRIDES_MAX]; /* environment, then command line */
    int override_count;
} settings;

static const char examples[] =
    "  spillway serve\n"
    "  spillway serve --http-port 0 --metrics-port 0 --workers codec0,cpu0,cpu1\n"
    "  spillway serve --model-repository ~/models --model resnet18 --config spillway.yaml\n"
    "  curl -F image=@cat.jpg http://127.0.0.1:8000/infer\n";

static const char notes[] =
    "The configuration file is YAML: chains, remotes, tokens, stores and most of the above; every key\n"
    "stands in deploy/spillway.yaml with a remark. `spillway config check FILE` says what is wrong.\n"
    "An option wins over the environment (SPILLWAY_HTTP_PORT, ..., USE_GPU_PIPELINE), that over the file.\n"
    "SIGHUP reads the file again; requests that are under way keep what they began with.\n"
    "SIGTERM and SIGINT drain: every accepted request is answered first. A second one stops at once.\n";

static bool parse(settings *s, int argc, char **argv, int *ret_exit)
{
    int count;
    const sp_option options[] = {
        { .name = "http-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->http_port, .most = 65535,
          .help = "HTTP API (default 8000; 0 = any free port, printed)" },
        { .name = "grpc-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->grpc_port, .least = -1, .most = 65535,
          .help = "gRPC API (default 8001; 0 = any free port, printed; -1 = none)" },
        { .name = "metrics-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->metrics_port, .least = -1,
          .most = 65535, .help = "Prometheus text (default 8002; 0 = any free port, -1 = none)" },
        { .name = "admin-port", .kind = SP_OPTION_INT, .value = "PORT", .target = &s->admin_port, .least = -1, .most = 65535,
          .help = "where admin calls are answered (default -1: on the HTTP port)" },
        { .name = "bind", .kind = SP_OPTION_TEXT, .value = "ADDRESS", .target = &s->bind,
          .help = "address to listen on (default 127.0.0.1); anything but loopback is\n"
                  "refused unless the configuration has tokens" },
        { .name = "model-repository", .kind = SP_OPTION_LIST, .value = "DIR", .target = s->repositories,
          .help = "where models are (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models); given again: more\nrepositories of served models" },
        { .name = "model-store", .kind = SP_OPTION_LIST, .target = s->repositories }, /* Triton's other name for it */
        { .name = "model-control-mode", .kind = SP_OPTION_TEXT, .value = "MODE", .target = &s->model_control_mode,
          .help = "none: serve what lies there at start (default); poll: and what\nchanges; explicit: what --load-model and calls say" },
        { .name = "load-model", .kind = SP_OPTION_LIST, .value = "NAME", .target = s->load_model,
          .help = "explicit: load this one at start (may be given again; * = all)" },
        { .name = "repository-poll-secs", .kind = SP_OPTION_INT, .value = "SECONDS", .target = &s->repository_poll_s, .least = 1,
          .most = 86400, .help = "poll: how often the repositories are looked at (default 15)" },
        { .name = "strict-readiness", .kind = SP_OPTION_TEXT, .value = "BOOL", .target = &s->strict_readiness,
          .help = "/v2/health/ready only when every model is ready (default true)" },
        { .name = "exit-on-error", .kind = SP_OPTION_TEXT, .value = "BOOL", .target = &s->exit_on_error,
          .help = "end when a model cannot be loaded at start (default false)" },
        { .name = "model", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &s->model,
          .help = "the default model (default: the repository's only or first)" },
        { .name = "config", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &s->config, .help = "YAML, see below" },
        { .name = "data-dir", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &s->data_dir,
          .help = "where jobs, results and spooled files lie (default var/data)" },
        { .name = "workers", .kind = SP_OPTION_TEXT, .value = "LIST", .target = &s->workers,
          .help = "worker processes, comma-separated (default codec0,cpu0): the name\nwithout its number is the kind" },
        { .name = "require-sandbox", .kind = SP_OPTION_FLAG, .target = &s->require_sandbox,
          .help = "refuse to decode uploads where the kernel cannot sandbox it fully" },
        { .name = "drain-delay", .kind = SP_OPTION_INT, .value = "SECONDS", .target = &s->drain_delay_s, .most = 3600,
          .help = "how long /readyz says 503 before the listener closes\n(default: 0 on a terminal, else 5)" },
        { .name = "log-level", .kind = SP_OPTION_TEXT, .value = "LEVEL", .target = &s->log_level,
          .help = "debug, info, warn or error (default info)" },
        { .name = "access-log", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &s->access_log,
          .help = "one JSON line per answered request; stderr: beside the log" },
        { .name = "spin-us", .kind = SP_OPTION_INT, .value = "MICROS", .target = &s->spin_us, .most = 1000000,
          .help = "look for work this long before sleeping, where it usually comes\nsooner and the core is free (default 100; 0 = never)" },
        { .name = "http-max-input-size", .kind = SP_OPTION_INT, .value = "BYTES", .target = &s->http_max_input_size, .least = 1024,
          .most = SP_LIMIT_BODIES_BYTES, .help = "largest body of an inference over HTTP (default 64 MiB)" },
        { .name = "link-timeout-ms", .kind = SP_OPTION_INT, .value = "MS", .target = &s->link_timeout_ms,
          .most = SP_LIMIT_DEADLINE_MAX_MS, .help = "longest attempt on one link while another may still answer\n(default 0: the request's deadline)" },
        { .name = "allow-chaos", .kind = SP_OPTION_FLAG, .target = &s->allow_chaos,
          .help = "let `spillway chaos` make faults in this server (tests only)" },
    };
    const sp_usage usage = {
        .command = "serve", .arguments = "",
        .summary = "Answers requests over HTTP until SIGTERM or SIGINT. Prints its URL once it listens.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .examples = examples, .notes = notes,
    };

    return sp_options_parse(&usage, argc, argv, &count, ret_exit);
}

/* Every option that was given, as a text above the file. The texts are made of what the option parser has accepted. */
static void gather_overrides(settings *s)
{
    /* The first repository is also that of the classify task. */
    char *comma = strchr(s->repositories, ',');
    const char *first = *s->repositories ? s->repositories : NULL, *more = comma ? comma + 1 : NULL;

    if (comma)
        *comma = '\0';
    const struct {
        const char *key, *text;
        int64_t number;
    } given[] = {
        { "http_port", NULL, s->http_port },       { "grpc_port", NULL, s->grpc_port },
        { "metrics_port", NULL, s->metrics_port }, { "admin_port", NULL, s->admin_port },
        { "drain_delay", NULL, s->drain_delay_s }, { "spin_us", NULL, s->spin_us },
        { "link_timeout_ms", NULL, s->link_timeout_ms }, { "http_max_input_size", NULL, s->http_max_input_size },
        { "bind", s->bind, UNSET },                { "model_repository", first, UNSET },
        { "model_repositories", more, UNSET },     { "model_control_mode", s->model_control_mode, UNSET },
        { "load_model", *s->load_model ? s->load_model : NULL, UNSET },
        { "repository_poll_secs", NULL, s->repository_poll_s },
        { "strict_readiness", s->strict_readiness, UNSET },
        { "exit_on_error", s->exit_on_error, UNSET },
        { "model", s->model, UNSET },              { "workers", s->workers, UNSET },
        { "data_dir", s->data_dir, UNSET },        { "log_level", s->log_level, UNSET },
        { "access_log", s->access_log, UNSET },
        { "require_sandbox", s->require_sandbox ? "true" : NULL, UNSET },
    };

    s->override_count = sp_config_environment(s->overrides);
    for (size_t i = 0; i < SP_ARRAY_LEN(given) && s->override_count < SP_CONFIG_OVERRIDES_MAX; i++) {
        sp_config_override *o = &s->overrides[s->override_count];
        if (!given[i].text && given[i].number == UNSET)
            continue;
        s->override_count++;
        snprintf(o->key, sizeof(o->key), "%s", given[i].key);
        snprintf(o->origin, sizeof(o->origin), "--%s", given[i].key);
        for (char *p = o->origin + 2; *p; p++)
            *p = *p == '_' ? '-' : *p;
        if (given[i].text)
            snprintf(o->value, sizeof(o->value), "%s", given[i].text);
        else
            snprintf(o->value, sizeof(o->value), "%lld", (long long)given[i].number);
    }
}

static void print_where(const sp_gateway_ports *ports, void *context)
{
    bool v6 = strchr(ports->address, ':') != NULL;
    char host[80];

    (void)context;
    snprintf(host, sizeof(host), v6 ? "[%s]" : "%s", ports->address);
    printf("spillway %s listens on http://%s:%d\n", SP_VERSION, host, ports->http_port);
    if (ports->grpc_port > 0)
        printf("gRPC on %s:%d\n", host, ports->grpc_port);
    if (ports->metrics_port > 0)
        printf("metrics on http://%s:%d/metrics\n", host, ports->metrics_port);
    /* `make run` puts a photograph there, so that the line works as it stands. */
    const char *picture = access("var/demo/cat.png", R_OK) == 0 ? "var/demo/cat.png" : "cat.jpg";
    printf("try: curl -F image=@%s http://%s:%d/infer\n", picture, host, ports->http_port);
    fflush(stdout);
}

/* A model or repository that was asked for by name must be there, or the server would only ever say 503. Without any
 * model it starts and says so: the noop task, /healthz and /metrics work, and a model may come. */
static int check_models(const sp_config *config, const char *repository)
{
    static sp_model_names names; /* 16 KiB */
    sp_error err = { 0 };
    const char *pointers[SP_LIMIT_MODELS], *model = config->model;
    sp_status status = sp_model_list(repository, &names, &err);

    if (status && *config->model_repository)
        return sp_cli_fail(SP_EXIT_UNAVAILABLE, "serve", "%s", err.message);
    if (status || !names.count)
        sp_log(SP_LOG_WARN, "no model: pictures cannot be classified until `make model` or `spillway pull NAME` brings one",
               SP_LOG_TEXT("model_repository", repository));
    for (int i = 0; i < names.count; i++) {
        pointers[i] = names.names[i];
        if (!strcmp(model, pointers[i]))
            return SP_EXIT_OK;
    }
    if (!*model)
        return SP_EXIT_OK;
    const char *nearest = sp_nearest(model, pointers, names.count);
    return sp_cli_fail(SP_EXIT_UNAVAILABLE, "serve", "no model '%s' in %s%s%s%s (spillway models lists them)", model, repository,
                       nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

static int run(const settings *s, sp_config *snapshot, sp_log_level level)
{
    sp_error err = { 0 };
    const char *repository = sp_model_repository_find(*snapshot->model_repository ? snapshot->model_repository : NULL);
    int code;
    sp_gateway_config config = sp_gateway_config_default();

    sp_log_open("gateway", level);
    if ((code = check_models(snapshot, repository)) != SP_EXIT_OK)
        return code;
    config.bind_address = snapshot->bind;
    config.http_port = snapshot->http_port;
    config.metrics_port = snapshot->metrics_port;
    config.grpc_port = snapshot->grpc_port;
    config.workers = snapshot->workers;
    config.model_repository = repository;
    config.model = *snapshot->model ? snapshot->model : NULL;
    config.require_sandbox = snapshot->require_sandbox;
    config.spin_us = snapshot->spin_us;
    config.link_timeout_ms = snapshot->link_timeout_ms;
    config.drain_delay_ms = snapshot->drain_delay_s < 0 ? SP_DRAIN_DELAY_AUTO : snapshot->drain_delay_s * 1000;
    config.log_level = level;
    config.config = snapshot;
    config.config_path = s->config;
    config.overrides = s->overrides;
    config.override_count = s->override_count;
    config.allow_chaos = s->allow_chaos;
    config.quiet = true; /* print_where says it */
    config.bound = print_where;
    if (sp_gateway_run(&config, &err) == SP_OK)
        return SP_EXIT_OK;
    code = sp_cli_fail_error("serve", &err);
    return err.status == SP_INVALID ? SP_EXIT_USAGE : code;
}

/* Says on stderr all that is wrong, or only worth a warning. */
static int load(const settings *s, sp_config **ret_config)
{
    sp_error err = { 0 };
    sp_complaints complaints;

    sp_complaints_init(&complaints);
    sp_status status = sp_config_load_over(s->config, s->overrides, s->override_count, ret_config, &complaints, &err);
    int count = complaints.count;
    if ((count != 1 || complaints.warning_count) && complaints.text.size_bytes)
        fwrite(complaints.text.data, 1, complaints.text.size_bytes, stderr);
    sp_complaints_done(&complaints);
    if (!status)
        return SP_EXIT_OK;
    if (count > 1)
        return sp_cli_fail(SP_EXIT_USAGE, "serve", "%d errors in the configuration; nothing was started", count);
    return sp_cli_fail(SP_EXIT_USAGE, "serve", "%s", err.message);
}

int sp_command_serve(int argc, char **argv)
{
    static settings s = { .http_port = UNSET, .grpc_port = UNSET, .metrics_port = UNSET, .admin_port = UNSET,
                          .drain_delay_s = UNSET, .spin_us = UNSET, .link_timeout_ms = UNSET, .http_max_input_size = UNSET,
                          .repository_poll_s = UNSET }; /* 38 KiB */
    sp_config *config = NULL;
    sp_log_level level = SP_LOG_INFO;
    int code;

    if (!parse(&s, argc, argv, &code))
        return code;
    gather_overrides(&s);
    if ((code = load(&s, &config)) != SP_EXIT_OK)
        return code;
    (void)sp_log_level_parse(config->log_level, &level); /* the snapshot holds valid ones only */
    /* Workers are told by their environment: it is the one thing that every child inherits unasked. */
    setenv("SPILLWAY_LOG_LEVEL", config->log_level, 1);
    code = run(&s, config, level);
    sp_config_unref(config);
    return code;
}
