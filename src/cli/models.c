/* SPDX-License-Identifier: Apache-2.0
 * `spillway models`: what is in the repository, or with --catalogue what can be pulled into it. */
#include "cli/catalogue.h"
#include "cli/cli.h"
#include "cli/repository.h"

#include <string.h>
#include <unistd.h>

/* "" when there is no file, or the library that computes digests is missing: a listing is worth having without. */
static void digest_of(const sp_listed_model *model, char ret_hex[SP_SHA256_HEX_BYTES])
{
    const sp_fetch_api *fetch;

    ret_hex[0] = '\0';
    if (*model->path && sp_fetch_load(&fetch, NULL) == SP_OK && fetch->digest_file(model->path, ret_hex, NULL))
        ret_hex[0] = '\0';
}

json_t *sp_listing_json(const sp_listing *list)
{
    json_t *models = json_array();

    for (int i = 0; i < list->count; i++) {
        const sp_listed_model *model = &list->models[i];
        char hex[SP_SHA256_HEX_BYTES];
        json_t *versions = json_array();

        digest_of(model, hex);
        for (int v = 0; v < model->version_count; v++)
            json_array_append_new(versions, json_integer(model->versions[v]));
        json_array_append_new(models, json_pack("{s:s, s:o, s:s, s:s, s:I, s:s, s:i, s:s, s:s}", "name", model->name,
                                                "versions", versions, "task", model->task, "precision", model->precision,
                                                "bytes", (json_int_t)model->bytes, "sha256", hex, "labels",
                                                model->label_count, "path", model->path, "problem", model->problem));
    }
    return models;
}

static void print_versions(const sp_listed_model *model, char *text, size_t text_bytes)
{
    size_t used = 0;

    snprintf(text, text_bytes, "-");
    for (int v = 0; v < model->version_count && used < text_bytes; v++)
        used += (size_t)snprintf(text + used, text_bytes - used, "%s%d", v ? "," : "", model->versions[v]);
}

void sp_listing_print(const sp_listing *list, FILE *out)
{
    fprintf(out, "%-22s %-9s %-10s %-9s %10s %7s  %s\n", "NAME", "VERSIONS", "TASK", "PRECISION", "SIZE", "LABELS", "SHA256");
    for (int i = 0; i < list->count; i++) {
        const sp_listed_model *model = &list->models[i];
        char hex[SP_SHA256_HEX_BYTES], size[32], versions[64];

        digest_of(model, hex);
        sp_format_bytes(size, sizeof(size), model->bytes);
        print_versions(model, versions, sizeof(versions));
        fprintf(out, "%-22s %-9s %-10s %-9s %10s %7d  %.12s%s%s\n", model->name, versions, *model->task ? model->task : "-",
                *model->precision ? model->precision : "-", size, model->label_count, *hex ? hex : "-",
                *model->problem ? "  ! " : "", model->problem);
    }
}

static int print_json(json_t *root)
{
    int failed = !root || json_dumpf(root, stdout, JSON_COMPACT) != 0;

    json_decref(root);
    putchar('\n');
    return failed ? sp_cli_fail(SP_EXIT_FAILED, "models", "cannot write the JSON") : SP_EXIT_OK;
}

static int list_repository(const char *directory, bool json)
{
    sp_listing list = { 0 };
    sp_error err = { 0 };

    if (sp_listing_read(directory, &list, &err)) {
        int code = sp_cli_fail_error("models", &err);
        fputs("  `make model` or `spillway pull NAME` makes it; --model-repository names another\n", stderr);
        return code;
    }
    int code = SP_EXIT_OK;
    if (json) {
        code = print_json(json_pack("{s:s, s:o}", "repository", directory, "models", sp_listing_json(&list)));
    } else if (list.count) {
        printf("models in %s\n", directory);
        sp_listing_print(&list, stdout);
    } else {
        printf("no models in %s (spillway pull NAME brings one; spillway models --catalogue lists them)\n", directory);
    }
    sp_listing_done(&list);
    return code;
}

static bool is_here(const char *directory, const char *name)
{
    char path[4096 + 96];

    snprintf(path, sizeof(path), "%s/%s/1/model.onnx", directory, name);
    return access(path, R_OK) == 0;
}

static int list_catalogue(const char *directory, bool json)
{
    sp_catalogue catalogue = { 0 };
    sp_error err = { 0 };
    size_t index;
    json_t *entry;

    if (sp_catalogue_read(NULL, &catalogue, &err))
        return sp_cli_fail_error("models", &err);
    json_t *models = json_array();
    if (!json)
        printf("models of %s\n%-20s %-10s %10s %-11s %-5s %s\n", catalogue.path, "NAME", "TASK", "SIZE", "LICENCE", "HERE",
               "TITLE");
    json_array_foreach(catalogue.models, index, entry) {
        const char *name = sp_catalogue_text(entry, "name");
        bool here = sp_model_name_ok(name) && is_here(directory, name);
        json_int_t bytes = json_integer_value(json_object_get(entry, "bytes"));
        const char *task = sp_catalogue_text(json_object_get(entry, "settings"), "task");
        char size[32];

        sp_format_bytes(size, sizeof(size), (uint64_t)bytes);
        if (json)
            json_array_append_new(models, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:b}", "name", name, "title",
                                                    sp_catalogue_text(entry, "title"), "task", task, "licence",
                                                    sp_catalogue_text(entry, "licence"), "url",
                                                    sp_catalogue_text(entry, "url"), "sha256",
                                                    sp_catalogue_text(entry, "sha256"), "bytes", bytes, "here", here));
        else
            printf("%-20s %-10s %10s %-11s %-5s %s\n", name, task, size, sp_catalogue_text(entry, "licence"),
                   here ? "yes" : "no", sp_catalogue_text(entry, "title"));
    }
    int code = json ? print_json(json_pack("{s:s, s:O}", "catalogue", catalogue.path, "models", models)) : SP_EXIT_OK;
    json_decref(models);
    sp_catalogue_done(&catalogue);
    return code;
}

int sp_command_models(int argc, char **argv)
{
    const char *directory = NULL;
    bool json = false, from_catalogue = false;
    const sp_option options[] = {
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &directory,
          .help = "where models are (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models)" },
        { .name = "catalogue", .kind = SP_OPTION_FLAG, .target = &from_catalogue,
          .help = "list what `spillway pull` can bring instead ($SPILLWAY_CATALOGUE\nnames another catalogue file)" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &json, .help = "one JSON object" },
    };
    const sp_usage usage = {
        .command = "models", .arguments = "",
        .summary = "Lists the models of the repository: versions, task, size, digest, labels, and what is wrong\n"
                   "with one.",
        .options = options, .option_count = SP_ARRAY_LEN(options),
        .examples = "  spillway models\n  spillway models --catalogue\n  spillway models --json | jq '.models[].name'\n",
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    directory = sp_model_repository_find(directory);
    return from_catalogue ? list_catalogue(directory, json) : list_repository(directory, json);
}
