/* SPDX-License-Identifier: Apache-2.0
 * `spillway doctor`: what this machine offers and what keeps Spillway from using the rest. Gathers everything into one
 * JSON object, which --json prints as it is and people get as a table, so that the two never differ. */
#include "cli/cli.h"
#include "cli/doctor.h"
#include "cli/probe.h"
#include "cli/repository.h"

#include "base/machine.h"
#include "engine/engine.h"
#include "gateway/gateway.h"
#include "kernels/kernels.h"
#include "media/load.h"
#include "worker/sandbox.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static json_t *text_or_null(const char *text)
{
    return *text ? json_string(text) : json_null();
}

/* Something without which pictures cannot be classified here. */
static void add_problem(json_t *problems, const char *what, const char *remedy)
{
    json_array_append_new(problems, json_pack("{s:s, s:s}", "problem", what, "remedy", remedy));
}

static void cpu_model(char *text, size_t text_bytes)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");

    snprintf(text, text_bytes, "unknown");
    while (file && fgets(line, sizeof(line), file)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value)
            continue;
        value += 1 + strspn(value + 1, " ");
        value[strcspn(value, "\n")] = '\0';
        snprintf(text, text_bytes, "%s", value);
        break;
    }
    if (file)
        fclose(file); /* it was only read */
}

static json_t *examine_machine(void)
{
    char model[128];
    struct utsname name = { 0 };
    sp_machine machine = { 0 };
    const char *mask = getenv("SPILLWAY_CPU");

    cpu_model(model, sizeof(model));
    (void)uname(&name); /* fails for a bad pointer only */
    sp_machine_read(&machine);
    sp_kernels_init();
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:f, s:I, s:I, s:i, s:o}", "kernel", name.release, "architecture", name.machine,
                     "cpu", model, "cpu_level", sp_kernels_level(), "cpu_count", machine.cpu_count, "cpu_quota",
                     machine.cpu_quota, "memory_limit_bytes", (json_int_t)machine.memory_limit_bytes, "memory_total_bytes",
                     (json_int_t)machine.memory_total_bytes, "cgroup_version", machine.cgroup_version, "cpu_level_limit",
                     text_or_null(mask ? mask : ""));
}

static json_t *examine_gpu(void)
{
    sp_gpu_facts facts;
    sp_gpu_finding finding;
    char cuda[16] = "";
    const char *root = getenv("SPILLWAY_PROBE_ROOT");

    sp_gpu_facts_read(root, &facts);
    sp_gpu_judge(&facts, &finding);
    if (facts.driver_cuda_major)
        snprintf(cuda, sizeof(cuda), "%d.%d", facts.driver_cuda_major, facts.driver_cuda_minor);
    return json_pack("{s:b, s:s, s:s, s:s, s:i, s:i, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:o}", "present",
                     finding.cause == SP_GPU_PRESENT, "cause", sp_gpu_cause_name(finding.cause), "reason", finding.reason,
                     "remedy", finding.remedy, "count", SP_MAX(facts.pci_count, facts.node_count), "cuda_runtime_major",
                     facts.runtime_major, "driver", text_or_null(facts.driver_version), "driver_cuda", text_or_null(cuda),
                     "library", text_or_null(facts.library_path), "library_version", text_or_null(facts.library_version),
                     "wsl", facts.wsl, "wsl_dxg", facts.dxg, "container", facts.container, "probe_root",
                     text_or_null(root ? root : ""));
}

static json_t *examine_providers(const sp_engine_probe_result *found)
{
    json_t *providers = json_array();

    for (int i = 0; i < found->provider_count && i < SP_ENGINE_MAX_PROVIDERS; i++) {
        const sp_engine_provider *provider = &found->providers[i];
        bool unproved = strcmp(provider->name, "tensorrt") == 0 || strcmp(provider->name, "cuda") == 0;
        json_array_append_new(providers, json_pack("{s:s, s:b, s:i, s:s, s:s, s:s, s:s}", "name", provider->name, "present",
                                                   provider->present, "devices", provider->device_count, "version",
                                                   provider->version, "reason", provider->reason, "remedy",
                                                   provider->remedy, "note",
                                                   unproved ? "not verified: never run by us" : ""));
    }
    return providers;
}

/* True when at least one provider of the engine can run models. */
static bool examine_engine(const char *name, json_t *engines, sp_error *ret_error)
{
    const sp_engine *engine;
    sp_engine_probe_result found = { 0 };
    bool present = false;

    *ret_error = (sp_error){ 0 };
    if (sp_engine_open(name, &engine, ret_error) == SP_OK && sp_engine_probe(engine, &found, ret_error) == SP_OK)
        for (int i = 0; i < found.provider_count && i < SP_ENGINE_MAX_PROVIDERS; i++)
            present |= found.providers[i].present != 0;
    json_array_append_new(engines, json_pack("{s:s, s:b, s:s, s:s, s:s, s:o}", "name", name, "present", present, "version",
                                             found.version, "library", found.library, "reason", ret_error->message,
                                             "providers", examine_providers(&found)));
    return present;
}

static json_t *examine_engines(json_t *problems)
{
    json_t *engines = json_array();
    sp_error err = { 0 };
    bool any = false;
    const char *name;

    for (int i = 0; (name = sp_engine_name_at(i)) != NULL; i++)
        any |= examine_engine(name, engines, &err);
    if (!any) {
        char what[320];
        snprintf(what, sizeof(what), "no engine can run models: %s", err.message);
        add_problem(problems, what, "run `make setup`, or set SPILLWAY_PLUGINS to where libspillway_engine_*.so are");
    }
    return engines;
}

static json_t *examine_media(json_t *problems)
{
    const sp_media_api *media = NULL;
    sp_error err = { 0 };

    if (sp_media_load(&media, &err)) {
        char what[320];
        snprintf(what, sizeof(what), "pictures cannot be decoded: %s", err.message);
        add_problem(problems, what, "install the library that is named, or set SPILLWAY_PLUGINS to where libspillway_media.so is");
    }
    return json_pack("{s:b, s:b, s:s, s:s}", "present", media != NULL, "video", media && media->video, "versions", media ? media->versions : "", "reason",
                     err.message);
}

/* In a child, since nobody comes back from a sandbox. */
static json_t *examine_sandbox(void)
{
    sp_sandbox_report report = { 0 };
    sp_error err = { 0 };
    int ends[2];
    bool told = false;

    fflush(NULL); /* so that the child has nothing of ours to write */
    pid_t child = pipe(ends) == 0 ? fork() : -1;
    if (child == 0) {
        sp_status status = sp_sandbox_enter(&report, &err);
        _exit(status == SP_OK && write(ends[1], &report, sizeof(report)) == (ssize_t)sizeof(report) ? 0 : 1);
    }
    if (child > 0) {
        close(ends[1]);
        told = read(ends[0], &report, sizeof(report)) == (ssize_t)sizeof(report);
        close(ends[0]);
        (void)waitpid(child, NULL, 0); /* how it ended is of no interest */
    }
    report.detail[sizeof(report.detail) - 1] = '\0';
    return json_pack("{s:s, s:s}", "level", told ? sp_sandbox_level_name(report.level) : "none", "detail",
                     told ? report.detail : "the trial did not come back");
}

static json_t *examine_downloads(void)
{
    const sp_fetch_api *fetch = NULL;
    sp_error err = { 0 };

    (void)sp_fetch_load(&fetch, &err); /* a machine that pulls nothing needs none */
    return json_pack("{s:b, s:s, s:s}", "present", fetch != NULL, "versions", fetch ? fetch->versions() : "", "reason",
                     err.message);
}

static json_t *examine_models(const char *directory, json_t *problems)
{
    sp_listing listing = { 0 };
    sp_error err = { 0 };
    int usable = 0;

    (void)sp_listing_read(directory, &listing, &err); /* the message says it */
    for (int i = 0; i < listing.count; i++)
        usable += listing.models[i].version_count > 0;
    if (!usable) {
        char what[400];
        snprintf(what, sizeof(what), "no model: %.300s", *err.message ? err.message : directory);
        add_problem(problems, what, "run `make model` or `spillway pull NAME`");
    }
    json_t *models = json_pack("{s:s, s:s, s:o}", "repository", directory, "reason", err.message, "models",
                               sp_listing_json(&listing));
    sp_listing_done(&listing);
    return models;
}

/* Not needed to classify pictures, so what is missing is told but is no problem. */
static json_t *examine_grpc(void)
{
    const char *version = "";
    sp_error err = { 0 };

    bool present = sp_gateway_grpc_version(&version, &err) == SP_OK;
    return json_pack("{s:b, s:s, s:s}", "present", present, "version", version, "reason", err.message);
}

static json_t *examine(const char *directory)
{
    json_t *problems = json_array();
    json_t *findings = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "version", SP_VERSION, "machine",
                                 examine_machine(), "gpu", examine_gpu(), "samples", sp_doctor_devices(), "cuda", sp_doctor_cuda(), "engines", examine_engines(problems), "media",
                                 examine_media(problems), "grpc", examine_grpc(), "sandbox", examine_sandbox(), "downloads", examine_downloads(),
                                 "models", examine_models(directory, problems));

    json_object_set_new(findings, "ok", json_boolean(json_array_size(problems) == 0));
    json_object_set_new(findings, "problems", problems);
    return findings;
}

int sp_command_doctor(int argc, char **argv)
{
    const char *directory = NULL;
    bool json = false;
    const sp_option options[] = {
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &directory,
          .help = "where models are (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models)" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &json, .help = "one JSON object" },
    };
    const sp_usage usage = {
        .command = "doctor", .arguments = "",
        .summary = "Shows what this machine offers: CPU level and limits, GPU and driver, engines, decoders, sandbox,\n"
                   "models; for what is missing, why and what to do. Exits with 3 when something that is needed to\n"
                   "classify pictures is not here; a GPU is not needed.",
        .options = options, .option_count = SP_ARRAY_LEN(options),
        .examples = "  spillway doctor\n  spillway doctor --json | jq .gpu\n",
        .notes = "SPILLWAY_PROBE_ROOT=DIR makes it look for GPU and driver files below DIR (for tests).\n",
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    json_t *findings = examine(sp_model_repository_find(directory));
    if (!findings)
        return sp_cli_fail(SP_EXIT_FAILED, "doctor", "no memory for the findings");
    if (json) {
        json_dumpf(findings, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        sp_doctor_print(findings, stdout);
    }
    bool ok = json_is_true(json_object_get(findings, "ok"));
    json_decref(findings);
    return ok ? SP_EXIT_OK : SP_EXIT_UNAVAILABLE;
}
