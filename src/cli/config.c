/* SPDX-License-Identifier: Apache-2.0
 * `spillway config check|show`: what is wrong with a configuration file, and what holds in the end. Reads only; whether
 * the named servers and secrets are there is for `serve` to find out. */
#include "cli/cli.h"

#include "config/config.h"
#include "worker/worker.h"

#include <string.h>

static const char examples[] = "  spillway config check spillway.yaml\n"
                               "  spillway config show spillway.yaml\n"
                               "  USE_GPU_PIPELINE=false spillway config show spillway.yaml\n"
                               "  spillway config show                built-in defaults and the environment\n";

static const char notes[] =
    "check prints every complaint, one a line, and exits with 1 if one is an error; FILE is spillway.yaml\n"
    "when it is not given. show prints the configuration as YAML with defaults and presets spelt out;\n"
    "secrets are shown as the variable or file that holds them. deploy/spillway.yaml explains each key.\n";

/* The kinds are this program's, not the file format's, so they are looked at here. */
static bool kinds_check(const char *path, const sp_config *config)
{
    bool good = true;

    for (const char *p = config->workers; *p; p += strcspn(p, ","), p += *p == ',') {
        char name[32], kind[32];
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, ","), p);
        sp_config_kind_of(name, kind);
        if (sp_worker_kind_find(kind))
            continue;
        printf("%s: workers: there is no kind of worker '%s' (docs/cli.md has all)\n", path, kind);
        good = false;
    }
    return good;
}

static int check(const char *path, const sp_config *config, const sp_complaints *complaints)
{
    if (complaints->text.size_bytes)
        fwrite(complaints->text.data, 1, complaints->text.size_bytes, stdout);
    if (!config || !kinds_check(path, config))
        return SP_EXIT_FAILED;
    printf("%s: good: %d chain%s, %d remote%s, %d token%s\n", path, config->chain_count,
           config->chain_count == 1 ? "" : "s", config->remote_count, config->remote_count == 1 ? "" : "s",
           config->token_count, config->token_count == 1 ? "" : "s");
    return SP_EXIT_OK;
}

static int show(const sp_config *config, const sp_complaints *complaints)
{
    sp_buf out;
    int code = SP_EXIT_OK;

    if (complaints->text.size_bytes)
        fwrite(complaints->text.data, 1, complaints->text.size_bytes, stderr);
    if (!config)
        return SP_EXIT_FAILED;
    sp_buf_init(&out, 16u << 20);
    sp_config_write(config, &out);
    if (sp_buf_ok(&out))
        fwrite(out.data, 1, out.size_bytes, stdout);
    else
        code = sp_cli_fail(SP_EXIT_FAILED, "config", "no memory to show the configuration");
    sp_buf_done(&out);
    return code;
}

int sp_command_config(int argc, char **argv)
{
    const sp_usage usage = {
        .command = "config",
        .arguments = "check|show [FILE]",
        .summary = "Checks a configuration file, or shows what it comes to.",
        .least_arguments = 1,
        .most_arguments = 2,
        .examples = examples,
        .notes = notes,
    };
    sp_complaints complaints;
    sp_config *config = NULL;
    sp_error err = { 0 };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    bool checks = !strcmp(argv[0], "check");
    if (!checks && strcmp(argv[0], "show") != 0)
        return sp_cli_fail(SP_EXIT_USAGE, "config", "'%s' is neither check nor show (spillway config --help)", argv[0]);
    const char *path = count > 1 ? argv[1] : checks ? "spillway.yaml" : NULL;
    sp_complaints_init(&complaints);
    sp_status status = sp_config_load(path, &config, &complaints, &err);
    if (status && !complaints.count)
        code = sp_cli_fail_error("config", &err);
    else
        code = checks ? check(path, config, &complaints) : show(config, &complaints);
    sp_complaints_done(&complaints);
    sp_config_unref(config);
    return code;
}
