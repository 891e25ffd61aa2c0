/* SPDX-License-Identifier: Apache-2.0
 * The findings of `spillway doctor` as a table for people. Reads the same JSON that --json prints. */
#include "cli/doctor.h"

#include "cli/cli.h"

#include <string.h>

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value ? value : "";
}

static json_int_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool flag(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static void print_remedy(const char *remedy, FILE *out)
{
    if (*remedy)
        fprintf(out, "             -> %s\n", remedy);
}

static void print_machine(const json_t *machine, FILE *out)
{
    double quota = json_real_value(json_object_get(machine, "cpu_quota"));
    json_int_t limit = number(machine, "memory_limit_bytes"), total = number(machine, "memory_total_bytes");
    char quota_text[48] = "no quota", limit_text[32], total_text[32];

    if (quota > 0)
        snprintf(quota_text, sizeof(quota_text), "quota %.2f CPUs", quota);
    sp_format_bytes(limit_text, sizeof(limit_text), (uint64_t)limit);
    sp_format_bytes(total_text, sizeof(total_text), (uint64_t)total);
    fprintf(out, "system     Linux %s, %s\n", text(machine, "kernel"), text(machine, "architecture"));
    fprintf(out, "cpu        %s, %lld usable, %s\n", text(machine, "cpu"), (long long)number(machine, "cpu_count"), quota_text);
    fprintf(out, "           kernels: %s%s%s%s\n", text(machine, "cpu_level"),
            *text(machine, "cpu_level_limit") ? " (held down by SPILLWAY_CPU=" : "", text(machine, "cpu_level_limit"),
            *text(machine, "cpu_level_limit") ? ")" : "");
    if (limit < total)
        fprintf(out, "memory     %s of %s (cgroup v%lld limit)\n", limit_text, total_text,
                (long long)number(machine, "cgroup_version"));
    else
        fprintf(out, "memory     %s (no cgroup limit)\n", total_text);
}

static void print_gpu(const json_t *gpu, FILE *out)
{
    if (*text(gpu, "probe_root"))
        fprintf(out, "           (looking below %s)\n", text(gpu, "probe_root"));
    if (!flag(gpu, "present")) {
        bool none = !strcmp(text(gpu, "cause"), "no_gpu");
        fprintf(out, "gpu        %s%s\n", none ? "" : "not usable: ", text(gpu, "reason"));
    } else {
        const char *driver = text(gpu, "driver"), *cuda = text(gpu, "driver_cuda");
        fprintf(out, "gpu        %lld NVIDIA, driver %s%s%s%s\n", (long long)SP_MAX(number(gpu, "count"), 1),
                *driver ? driver : flag(gpu, "wsl_dxg") ? "by Windows" : "of unknown version", *cuda ? " (CUDA up to " : "",
                cuda, *cuda ? ")" : "");
        fprintf(out, "           %s\n", text(gpu, "library"));
    }
    print_remedy(text(gpu, "remedy"), out);
    if (flag(gpu, "wsl"))
        fprintf(out, "           WSL, /dev/dxg %s\n", flag(gpu, "wsl_dxg") ? "present" : "missing");
}

static void print_devices(const json_t *samples, const char *gpu_cause, FILE *out)
{
    size_t index;
    json_t *device;

    if (!flag(samples, "present") && strcmp(gpu_cause, "no_gpu") != 0) { /* no GPU: nobody misses its numbers */
        fprintf(out, "samples    none: %s\n", text(samples, "reason"));
        print_remedy(text(samples, "remedy"), out);
    }
    json_array_foreach(json_object_get(samples, "devices"), index, device) {
        const json_t *used = json_object_get(device, "memory_used_bytes"), *total = json_object_get(device, "memory_total_bytes");
        const json_t *heat = json_object_get(device, "temperature_celsius");
        char used_text[32], total_text[32];
        fprintf(out, "%s%zu %s", index ? "           " : "samples    ", index, text(device, "name"));
        if (used && total) {
            sp_format_bytes(used_text, sizeof(used_text), (uint64_t)json_real_value(used));
            sp_format_bytes(total_text, sizeof(total_text), (uint64_t)json_real_value(total));
            fprintf(out, ", %s of %s in use", used_text, total_text);
        }
        if (heat)
            fprintf(out, ", %.0f C", json_real_value(heat));
        fputs(flag(device, "throttled") ? ", THROTTLED by heat or power\n" : "\n", out);
    }
}

static void print_cuda_device(const json_t *device, size_t index, FILE *out)
{
    char total[32];

    sp_format_bytes(total, sizeof(total), (uint64_t)number(device, "memory_bytes"));
    if (!flag(device, "usable"))
        fprintf(out, "           %zu %s%snot usable: %s\n", index, text(device, "name"), *text(device, "name") ? ", " : "",
                text(device, "reason"));
    else
        fprintf(out, "           %zu %s, %s, %s%s; registered memory: %s\n", index, text(device, "name"), text(device, "code"), total,
                flag(device, "simulated") ? ", simulated: no GPU computes" : "",
                flag(device, "registers_slots") ? "slots are copied in place" : "refused, staging used");
    if (!flag(device, "usable"))
        print_remedy(text(device, "remedy"), out);
}

/* Our own kernels; the engines' providers are theirs. */
static void print_cuda(const json_t *cuda, FILE *out)
{
    size_t index;
    json_t *device;

    if (*text(cuda, "version"))
        fprintf(out, "cuda       %s, code for %s\n", text(cuda, "version"), text(cuda, "codes"));
    if (*text(cuda, "reason"))
        fprintf(out, "%s%s%s\n", *text(cuda, "version") ? "           " : "cuda       ",
                strcmp(text(cuda, "reason_code"), "missing_plugin") == 0 ? "plug-in missing: " : "", text(cuda, "reason"));
    json_array_foreach(json_object_get(cuda, "devices"), index, device)
        print_cuda_device(device, index, out);
    const json_t *nvjpeg = json_object_get(cuda, "nvjpeg");
    if (*text(cuda, "version")) /* without the plug-in nobody would use it */
        fprintf(out, "           JPEG files: %s%s\n", text(nvjpeg, "detail"),
                flag(nvjpeg, "present") ? ", for nvjpeg: true and decode=nvjpeg" : "");
    print_remedy(text(cuda, "remedy"), out);
}

static void print_engines(const json_t *engines, FILE *out)
{
    size_t index, at;
    json_t *engine, *provider;

    json_array_foreach(engines, index, engine) {
        fprintf(out, "engine     %s %s\n", text(engine, "name"),
                flag(engine, "present") ? text(engine, "version") : "not usable");
        if (*text(engine, "library"))
            fprintf(out, "           %s\n", text(engine, "library"));
        if (*text(engine, "reason"))
            fprintf(out, "           %s\n", text(engine, "reason"));
        json_array_foreach(json_object_get(engine, "providers"), at, provider) {
            bool present = flag(provider, "present");
            const char *note = present ? text(provider, "note") : "";
            fprintf(out, "           %-9s %s%s%s%s%s\n", text(provider, "name"), present ? "ready" : text(provider, "reason"),
                    *text(provider, "version") ? ", " : "", text(provider, "version"), *note ? "; " : "", note);
            print_remedy(text(provider, "remedy"), out);
        }
    }
}

static void print_models(const json_t *models, FILE *out)
{
    size_t index;
    json_t *model;

    fprintf(out, "models     %s\n", text(models, "repository"));
    if (*text(models, "reason"))
        fprintf(out, "           %s\n", text(models, "reason"));
    json_array_foreach(json_object_get(models, "models"), index, model) {
        char size[32];
        sp_format_bytes(size, sizeof(size), (uint64_t)number(model, "bytes"));
        fprintf(out, "           %-22s %-9s %10s  sha256 %.12s%s%s\n", text(model, "name"), text(model, "task"), size,
                text(model, "sha256"), *text(model, "problem") ? "  ! " : "", text(model, "problem"));
    }
}

/* Which library reads films stands among the decoders' versions, somewhere. */
static void print_video(const json_t *media, FILE *out)
{
    const char *found = strstr(text(media, "versions"), "libavformat");

    if (flag(media, "video") && found)
        fprintf(out, "video      read by %.*s, decoded on CPUs in sandboxed processes\n", (int)strcspn(found, ","), found);
    else
        fprintf(out, "video      not read: %s\n", flag(media, "present") ? "libspillway_media was built without" : "libspillway_media is missing");
}

void sp_doctor_print(const json_t *findings, FILE *out)
{
    const json_t *media = json_object_get(findings, "media");
    const json_t *grpc = json_object_get(findings, "grpc");
    const json_t *sandbox = json_object_get(findings, "sandbox");
    const json_t *downloads = json_object_get(findings, "downloads");
    size_t index;
    json_t *problem;

    fprintf(out, "spillway   %s\n", text(findings, "version"));
    print_machine(json_object_get(findings, "machine"), out);
    print_gpu(json_object_get(findings, "gpu"), out);
    print_devices(json_object_get(findings, "samples"), text(json_object_get(findings, "gpu"), "cause"), out);
    print_cuda(json_object_get(findings, "cuda"), out);
    print_engines(json_object_get(findings, "engines"), out);
    fprintf(out, "decoders   %s\n", flag(media, "present") ? text(media, "versions") : text(media, "reason"));
    print_video(media, out);
    fprintf(out, "gRPC       %s%s\n", flag(grpc, "present") ? "libgrpc, core " : "", flag(grpc, "present") ? text(grpc, "version") : text(grpc, "reason"));
    fprintf(out, "sandbox    %s: %s\n", text(sandbox, "level"), text(sandbox, "detail"));
    fprintf(out, "downloads  %s\n", flag(downloads, "present") ? text(downloads, "versions") : text(downloads, "reason"));
    print_models(json_object_get(findings, "models"), out);
    if (flag(findings, "ok"))
        fputs("\neverything that is needed to classify pictures is here\n", out);
    json_array_foreach(json_object_get(findings, "problems"), index, problem)
        fprintf(out, "\nmissing: %s\n      -> %s\n", text(problem, "problem"), text(problem, "remedy"));
}
