/* SPDX-License-Identifier: Apache-2.0
 * `spillway classify FILE...`: the task in this process, through libspillway's calls. Nothing falls back here; a file that
 * cannot be read is reported and the next one is taken. */
#include "cli/cli.h"
#include "cli/progress.h"
#include "spillway.h"

#include "base/limits.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOP_K_MAX 100
#define BAR_COLUMNS 20

typedef struct classify {
    spillway *model;
    spillway_model_info info;
    int64_t top_k, threads;
    const char *repository, *name, *provider;
    bool json, fast;
    spillway_class classes[TOP_K_MAX];
    int32_t class_count;
    spillway_timing timing;
} classify;

static void set_error(spillway_error *error, const sp_error *err)
{
    *error = (spillway_error){ .status = (spillway_status)err->status };
    snprintf(error->code, sizeof(error->code), "%s", err->code);
    snprintf(error->message, sizeof(error->message), "%s", err->message);
}

static spillway_status classify_file(classify *c, const char *path, spillway_error *ret_error)
{
    const spillway_classify_options options = { .struct_bytes = sizeof(options), .decode_fast = c->fast };
    sp_error err = { 0 };
    size_t size_bytes = 0;
    uint8_t *data = NULL;

    if (sp_read_picture(path, &data, &size_bytes, &err)) {
        set_error(ret_error, &err);
        return ret_error->status;
    }
    spillway_status status = spillway_classify(c->model, data, size_bytes, &options, c->classes, (int32_t)c->top_k,
                                               &c->class_count, &c->timing, ret_error);
    free(data);
    return status;
}

static double ms(int64_t ns)
{
    return (double)ns / 1e6;
}

static void print_table(const classify *c, const char *path)
{
    printf("%s\n", path);
    for (int32_t i = 0; i < c->class_count; i++) {
        const spillway_class *class = &c->classes[i];
        double percent = 100.0 * (double)class->probability;
        printf("  %5.1f %%  %-*.*s  %s (%u)\n", percent, BAR_COLUMNS, (int)(percent / 100.0 * BAR_COLUMNS + 0.5),
               "####################", *class->label ? class->label : "class", class->class_id);
    }
    printf("  %.1f ms on %s: decode %.1f, preprocess %.1f, inference %.1f, postprocess %.1f\n", ms(c->timing.total_ns),
           c->info.provider, ms(c->timing.decode_ns), ms(c->timing.preprocess_ns), ms(c->timing.inference_ns),
           ms(c->timing.postprocess_ns));
}

static void print_json(json_t *root)
{
    json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(root);
}

/* The keys are those of the server's answer. */
static void print_answer_json(const classify *c, const char *path)
{
    json_t *predictions = json_array();

    for (int32_t i = 0; i < c->class_count; i++)
        json_array_append_new(predictions, json_pack("{s:i, s:s, s:f}", "class_id", (int)c->classes[i].class_id, "label",
                                                     c->classes[i].label, "probability", (double)c->classes[i].probability));
    print_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:{s:f, s:f, s:f, s:f, s:f}}", "file", path, "model", c->info.name,
                         "version", c->info.version, "provider", c->info.provider, "precision", c->info.precision,
                         "predictions", predictions, "latency_ms", "decode", ms(c->timing.decode_ns), "preprocess",
                         ms(c->timing.preprocess_ns), "inference", ms(c->timing.inference_ns), "postprocess",
                         ms(c->timing.postprocess_ns), "total", ms(c->timing.total_ns)));
}

static void print_error_json(const char *path, const spillway_error *error)
{
    print_json(json_pack("{s:s, s:s, s:s, s:s}", "file", path, "status", spillway_status_name(error->status), "code",
                         error->code, "error", error->message));
}

static int classify_files(classify *c, char **paths, int path_count)
{
    sp_progress progress;
    int code = SP_EXIT_OK;

    sp_progress_begin(&progress, "classify", SP_PROGRESS_FILES);
    for (int i = 0; i < path_count; i++) {
        spillway_error error = { 0 };
        if (path_count > 1)
            sp_progress_update(&progress, (uint64_t)i, (uint64_t)path_count);
        spillway_status status = classify_file(c, paths[i], &error);
        if (isatty(STDOUT_FILENO) == 1 || status)
            sp_progress_end(&progress); /* the same screen: the line makes room for what comes */
        if (status)
            code = sp_cli_fail(SP_EXIT_FAILED, "classify", "%s: %s", paths[i], error.message);
        if (c->json && status)
            print_error_json(paths[i], &error);
        else if (c->json)
            print_answer_json(c, paths[i]);
        else if (!status)
            print_table(c, paths[i]);
        if (ferror(stdout)) {
            code = sp_cli_fail(SP_EXIT_FAILED, "classify", "cannot write the answers: %s", strerror(errno));
            break;
        }
    }
    sp_progress_end(&progress);
    return code;
}

static int open_model(classify *c)
{
    spillway_options options = spillway_options_default();
    spillway_error error = { 0 };

    options.model_repository = sp_model_repository_find(c->repository);
    options.model = c->name;
    options.provider = c->provider;
    options.threads = (int32_t)c->threads;
    if (spillway_open(&options, &c->model, &error))
        return sp_cli_fail(sp_exit_of((sp_status)error.status), "classify", "%s%s%s%s (spillway doctor shows what is missing)",
                           error.message, *error.origin ? " [" : "", error.origin, *error.origin ? "]" : "");
    spillway_describe(c->model, &c->info);
    return SP_EXIT_OK;
}

int sp_command_classify(int argc, char **argv)
{
    classify c = { .top_k = 5 };
    const sp_option options[] = {
        { .name = "top-k", .letter = 'k', .kind = SP_OPTION_INT, .value = "N", .target = &c.top_k, .least = 1,
          .most = TOP_K_MAX, .help = "how many classes to tell (default 5)" },
        { .name = "model", .letter = 'm', .kind = SP_OPTION_TEXT, .value = "NAME", .target = &c.name,
          .help = "which model (default: the repository's only or first)" },
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &c.repository,
          .help = "where models are (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models)" },
        { .name = "provider", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &c.provider,
          .help = "cpu, cuda or tensorrt (default cpu);\n`spillway doctor` says which are here" },
        { .name = "threads", .kind = SP_OPTION_INT, .value = "N", .target = &c.threads, .most = 1024,
          .help = "that compute one picture (default 0: all that this machine grants)" },
        { .name = "fast", .kind = SP_OPTION_FLAG, .target = &c.fast,
          .help = "decode JPEGs at reduced size: quicker, slightly other probabilities" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &c.json, .help = "one JSON object per file, one per line" },
    };
    const sp_usage usage = {
        .command = "classify", .arguments = "FILE...",
        .summary = "Says what pictures show, in this process, without a server. FILE - is standard input.\n"
                   "A file that cannot be read is reported, the others are still done, and the exit code is 1.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .least_arguments = 1, .most_arguments = -1,
        .examples = "  spillway classify cat.jpg\n  spillway classify --top-k 1 --json *.jpg | jq -r '.predictions[0].label'\n"
                    "  curl -s http://127.0.0.1/cat.jpg | spillway classify -\n",
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    code = open_model(&c);
    if (code == SP_EXIT_OK)
        code = classify_files(&c, argv, count);
    spillway_close(c.model);
    return code;
}
