/* SPDX-License-Identifier: Apache-2.0
 * `spillway pull NAME`: downloads a model of the catalogue into the repository.
 *
 *   DIR/.NAME.onnx.part   what has arrived so far (kept when the connection breaks)
 *   DIR/.NAME.onnx        complete and checked, for a moment
 *   DIR/NAME/...          settings, labels, then the model file: a server never sees a model without them, and a
 *                         download that failed leaves no half a model behind */
#include "cli/catalogue.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/repository.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LABELS_BYTES_MAX (4 * 1024 * 1024)

typedef struct pull {
    const char *name, *repository, *catalogue_path;
    bool json;
    char directory[4096];   /* repository/name */
    char model_path[4096];  /* directory/1/model.onnx */
    char staging_path[4096]; /* repository/.name.onnx */
    char digest[SP_SHA256_HEX_BYTES];
    char *labels;
    size_t labels_bytes;
    bool already_here;
    sp_download_result result;
} pull;

static sp_status make_directories(const char *path, sp_error *reterr)
{
    char partial[4096];

    for (size_t i = 1; path[i - 1]; i++) {
        if (path[i] != '/' && path[i])
            continue;
        snprintf(partial, sizeof(partial), "%.*s", (int)i, path);
        if (mkdir(partial, 0755) != 0 && errno != EEXIST)
            return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot make the directory %s", partial);
    }
    return SP_OK;
}

static sp_status write_file(const char *directory, const char *name, const char *data, size_t size_bytes, sp_error *reterr)
{
    char path[4096 + 64], temporary[4096 + 80];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    snprintf(temporary, sizeof(temporary), "%s.tmp%d", path, (int)getpid());
    FILE *file = fopen(temporary, "we");
    if (!file)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot write %s", temporary);
    bool written = fwrite(data, 1, size_bytes, file) == size_bytes && fflush(file) == 0 && fsync(fileno(file)) == 0;
    written = fclose(file) == 0 && written;
    if (!written || rename(temporary, path) != 0) {
        sp_status status = SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot write %s", path);
        (void)unlink(temporary);
        return status;
    }
    return SP_OK;
}

static sp_status write_settings(const pull *p, const json_t *entry, sp_error *reterr)
{
    char *text = json_dumps(json_object_get(entry, "settings"), JSON_INDENT(2));

    if (!text)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the settings");
    sp_status status = write_file(p->directory, "spillway.json", text, strlen(text), reterr);
    free(text);
    return status;
}

/* Before the download, so that a catalogue without its labels costs nobody 500 MB. p->labels stays NULL without any. */
static sp_status read_labels(pull *p, const sp_catalogue *catalogue, const json_t *entry, sp_error *reterr)
{
    char path[4096 + 256];
    const char *name = sp_catalogue_text(entry, "labels");

    if (!*name)
        return SP_OK;
    if (strchr(name, '/') || strlen(name) > 200)
        return SP_FAIL(reterr, SP_INVALID, "the catalogue's labels file '%s' must stand beside it", name);
    snprintf(path, sizeof(path), "%s/%s", catalogue->directory, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return SP_FAIL_ERRNO(reterr, SP_NOT_FOUND, "cannot read the labels %s", path);
    p->labels = malloc(LABELS_BYTES_MAX + 1);
    if (p->labels)
        p->labels_bytes = fread(p->labels, 1, LABELS_BYTES_MAX + 1, file);
    fclose(file); /* it was only read */
    if (!p->labels)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the labels");
    if (p->labels_bytes > LABELS_BYTES_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "the labels %s are longer than %d bytes", path, LABELS_BYTES_MAX);
    return SP_OK;
}

static sp_status check_entry(const pull *p, const json_t *entry, sp_error *reterr)
{
    const char *digest = sp_catalogue_text(entry, "sha256");

    if (!sp_model_name_ok(p->name))
        return SP_FAIL(reterr, SP_INVALID, "'%s' is no name for a model", p->name);
    if (!*sp_catalogue_text(entry, "url") && *sp_catalogue_text(entry, "package"))
        return SP_FAIL(reterr, SP_UNSUPPORTED, "'%s' is not downloaded but made from the package %s by %s: `make model` does it",
                       p->name, sp_catalogue_text(entry, "package"), sp_catalogue_text(entry, "converter"));
    if (!*sp_catalogue_text(entry, "url"))
        return SP_FAIL(reterr, SP_INVALID, "the catalogue's entry '%s' has no url", p->name);
    if (strlen(digest) != 64 || strspn(digest, "0123456789abcdef") != 64)
        return SP_FAIL(reterr, SP_INVALID, "the catalogue's entry '%s' has no sha256 of 64 hex digits in lower case", p->name);
    if (!json_is_object(json_object_get(entry, "settings")))
        return SP_FAIL(reterr, SP_INVALID, "the catalogue's entry '%s' has no settings", p->name);
    if (strlen(p->repository) > 3900)
        return SP_FAIL(reterr, SP_INVALID, "the repository's path is too long");
    return SP_OK;
}

static void on_progress(uint64_t done, uint64_t total, void *context)
{
    sp_progress_update(context, done, total);
}

static sp_status download_model(pull *p, const sp_fetch_api *fetch, const json_t *entry, sp_error *reterr)
{
    sp_progress progress;
    const sp_download download = {
        .url = sp_catalogue_text(entry, "url"),
        .path = p->staging_path,
        .sha256 = sp_catalogue_text(entry, "sha256"),
        .bytes = (uint64_t)json_integer_value(json_object_get(entry, "bytes")),
        .progress = on_progress,
        .context = &progress,
    };

    sp_progress_begin(&progress, p->name, SP_PROGRESS_BYTES);
    sp_status status = fetch->download(&download, &p->result, reterr);
    sp_progress_end(&progress);
    return status;
}

static sp_status install(const pull *p, const json_t *entry, sp_error *reterr)
{
    char version_directory[4096 + 8];

    snprintf(version_directory, sizeof(version_directory), "%s/1", p->directory);
    sp_status status = make_directories(version_directory, reterr);
    if (status == SP_OK)
        status = write_settings(p, entry, reterr);
    if (status == SP_OK && p->labels)
        status = write_file(p->directory, "labels.txt", p->labels, p->labels_bytes, reterr);
    if (status == SP_OK && !p->already_here && rename(p->staging_path, p->model_path) != 0)
        status = SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot move the model to %s", p->model_path);
    return status;
}

static sp_status pull_entry(pull *p, const sp_fetch_api *fetch, const sp_catalogue *catalogue, const json_t *entry,
                            sp_error *reterr)
{
    char hex[SP_SHA256_HEX_BYTES];
    sp_status status = check_entry(p, entry, reterr);

    if (status == SP_OK)
        status = read_labels(p, catalogue, entry, reterr);
    if (status)
        return status;
    snprintf(p->directory, sizeof(p->directory), "%s/%s", p->repository, p->name);
    snprintf(p->model_path, sizeof(p->model_path), "%.4000s/1/model.onnx", p->directory);
    snprintf(p->staging_path, sizeof(p->staging_path), "%s/.%s.onnx", p->repository, p->name);
    snprintf(p->digest, sizeof(p->digest), "%s", sp_catalogue_text(entry, "sha256"));

    p->already_here = fetch->digest_file(p->model_path, hex, NULL) == SP_OK && !strcmp(hex, p->digest);
    status = make_directories(p->repository, reterr);
    if (status == SP_OK && !p->already_here)
        status = download_model(p, fetch, entry, reterr);
    return status ? status : install(p, entry, reterr);
}

static void report(const pull *p)
{
    char size[32], resumed[32];

    if (p->json) {
        json_t *root = json_pack("{s:s, s:s, s:s, s:b, s:I, s:I, s:i}", "name", p->name, "path", p->model_path, "sha256",
                                 p->digest, "already_here", p->already_here, "bytes", (json_int_t)p->result.bytes,
                                 "resumed_from", (json_int_t)p->result.resumed_from, "requests", p->result.request_count);
        json_dumpf(root, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(root);
        return;
    }
    if (p->already_here) {
        printf("%s is already here: %s\n", p->name, p->model_path);
        return;
    }
    sp_format_bytes(size, sizeof(size), p->result.bytes);
    sp_format_bytes(resumed, sizeof(resumed), p->result.resumed_from);
    printf("%s: %s, sha256 checked%s%s\n  %s\n", p->name, size, p->result.resumed_from ? ", went on after " : "",
           p->result.resumed_from ? resumed : "", p->model_path);
}

/* Everything that can go wrong has one exit code here: what is not there to begin with is 3, a failed download is 1. */
static int run(pull *p)
{
    const sp_fetch_api *fetch;
    sp_catalogue catalogue = { 0 };
    sp_error err = { 0 };
    json_t *entry;

    if (sp_fetch_load(&fetch, &err) || sp_catalogue_read(p->catalogue_path, &catalogue, &err))
        return sp_cli_fail_error("pull", &err);
    sp_status status = sp_catalogue_find(&catalogue, p->name, &entry, &err);
    int code = status ? sp_cli_fail_error("pull", &err) : SP_EXIT_OK;
    if (status == SP_OK) {
        status = pull_entry(p, fetch, &catalogue, entry, &err);
        if (status == SP_OK)
            report(p);
        else
            code = sp_cli_fail(status == SP_UNSUPPORTED ? SP_EXIT_UNAVAILABLE : SP_EXIT_FAILED, "pull", "%s%s", err.message,
                               status == SP_UNAVAILABLE ? " (run it again to go on from there)" : "");
    }
    free(p->labels);
    sp_catalogue_done(&catalogue);
    return code;
}

int sp_command_pull(int argc, char **argv)
{
    pull p = { 0 };
    const sp_option options[] = {
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &p.repository,
          .help = "where to put it (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models)" },
        { .name = "catalogue", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &p.catalogue_path,
          .help = "another catalogue (default: $SPILLWAY_CATALOGUE, else\nmodels/catalogue.json)" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &p.json, .help = "report as one JSON object" },
    };
    const sp_usage usage = {
        .command = "pull", .arguments = "NAME",
        .summary = "Downloads a model of the catalogue into the repository. An interrupted download goes on\n"
                   "where it stopped; the file appears only when its sha256 is right.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .least_arguments = 1, .most_arguments = 1,
        .examples = "  spillway models --catalogue\n  spillway pull resnet18\n"
                    "  spillway pull resnet18 --model-repository ~/models --json\n",
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    p.name = argv[0];
    p.repository = sp_model_repository_find(p.repository);
    return run(&p);
}
