/* SPDX-License-Identifier: Apache-2.0
 * `spillway inspect`: one model's directory as a document on stdout (model/card.h). The gateway starts it for each model it is to
 * serve, because it opens foreign files with foreign libraries; by hand it tells why a model would not load. */
#include "cli/cli.h"

#include "model/card.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* What a file may make the parsers of this process do: minutes, and what the largest model (2 GiB) may take several times
 * over. */
#define CPU_SECONDS  300
#define MEMORY_BYTES (UINT64_C(64) * 1024 * 1024 * 1024)

static void limit(int resource, uint64_t most)
{
    struct rlimit value = { most, most }, now;

    if (getrlimit(resource, &now) == 0 && now.rlim_max < most)
        return;
    (void)setrlimit(resource, &value); /* a bound more; without it the caller's time-out remains */
}

static int say(FILE *out, sp_buf *text, int code)
{
    if (!sp_buf_ok(text) || fwrite(text->data, 1, text->size_bytes, out) != text->size_bytes || fputc('\n', out) == EOF ||
        fflush(out))
        code = SP_EXIT_FAILED;
    sp_buf_done(text);
    return code;
}

static int say_error(FILE *out, const sp_error *err)
{
    sp_buf text;

    sp_buf_init(&text, 64 * 1024);
    sp_buf_append_text(&text, "{\"error\":");
    sp_buf_append_json_text(&text, err->message);
    sp_buf_printf(&text, ",\"status\":%d,\"code\":", (int)err->status);
    sp_buf_append_json_text(&text, err->code);
    sp_buf_append_text(&text, "}");
    return say(out, &text, SP_EXIT_FAILED);
}

int sp_command_inspect(int argc, char **argv)
{
    const char *repository = NULL, *name = NULL, *override = "";
    const sp_option options[] = {
        { .name = "repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &repository,
          .help = "the model repository (default: as `spillway serve`)" },
        { .name = "model", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &name, .help = "which model of it" },
        { .name = "config", .kind = SP_OPTION_TEXT, .value = "JSON", .target = &override,
          .help = "a configuration in Triton's JSON form instead of config.pbtxt" },
    };
    const sp_usage usage = {
        .command = "inspect", .arguments = "",
        .summary = "Looks into one model of a Triton repository: prints its complete configuration, versions and\n"
                   "digests as JSON, or {\"error\": ...} with why it cannot be served.",
        .options = options, .option_count = SP_ARRAY_LEN(options),
        .examples = "  spillway inspect --repository ~/models --model resnet18\n",
    };
    SP_CLEANUP(sp_model_card_freep) sp_model_card *card = NULL;
    sp_error err = { 0 };
    sp_buf text;
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    if (!name)
        return sp_cli_fail(SP_EXIT_USAGE, "inspect", "--model is needed");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* whoever asked is gone */
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, CPU_SECONDS);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they map terabytes */
    limit(RLIMIT_AS, MEMORY_BYTES);
#endif
    /* Libraries that write to stdout (some do, about deprecated operators) must not write into the document. */
    int own = dup(STDOUT_FILENO);
    FILE *out = own >= 0 ? fdopen(own, "w") : NULL;
    if (!out || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return sp_cli_fail(SP_EXIT_FAILED, "inspect", "no output");
    if (sp_model_inspect(sp_model_repository_find(repository), name, override, &card, &err)) {
        code = say_error(out, &err);
    } else {
        sp_buf_init(&text, 8 * SP_LIMIT_MODEL_CONFIG_BYTES);
        sp_model_card_write(card, &text);
        code = say(out, &text, SP_EXIT_OK);
    }
    (void)fclose(out);
    return code;
}
