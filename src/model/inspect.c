/* SPDX-License-Identifier: Apache-2.0
 * Looks into one model's directory: configuration, versions, ports, labels. Runs foreign parsers, so only the process of
 * `spillway inspect` calls it. See card.h. */
#include "model/card.h"

#include "engine/engine.h"
#include "model/backend.h"
#include "model/config_form.h"
#include "model/external.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct inspection {
    sp_model_card *card;
    const char *name;
    char file[SP_LIMIT_SERVED_NAME_BYTES + 32]; /* for messages: "simple/config.pbtxt" */
    bool configured;                            /* there is a config.pbtxt, or an override */
    bool dynamic;                               /* an operator looks at the whole batch */
    sp_error *reterr;
} inspection;

/* --- files ------------------------------------------------------------------------------------------------------------------ */

static bool exists(const char *directory, const char *name)
{
    char path[2048];
    return (size_t)snprintf(path, sizeof(path), "%s/%s", directory, name) < sizeof(path) && access(path, F_OK) == 0;
}

/* The whole of a small file; caller frees. SP_NOT_FOUND, SP_TOO_LARGE. */
static sp_status read_file(const char *path, const char *shown, size_t most_bytes, char **ret_text, size_t *ret_bytes,
                           sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    size_t done = 0;

    if (fd < 0 || fstat(fd, &info))
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "%s", shown);
    if (!S_ISREG(info.st_mode))
        return SP_FAIL(reterr, SP_INVALID, "%s is no file", shown);
    if ((uint64_t)info.st_size > most_bytes)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s is larger than %zu bytes", shown, most_bytes);
    char *text = malloc((size_t)info.st_size + 1);
    if (!text)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %s", shown);
    while (done < (size_t)info.st_size) {
        ssize_t n = read(fd, text + done, (size_t)info.st_size - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    text[done] = '\0';
    *ret_text = text;
    *ret_bytes = done;
    return SP_OK;
}

static sp_status digest_file(sp_card_version *version, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(version->path, O_RDONLY | O_CLOEXEC);
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned hash_size = 0;
    struct stat info;
    int ok = 0;

    if (fd < 0 || fstat(fd, &info))
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "%s", version->path);
    if (!S_ISREG(info.st_mode) || info.st_size <= 0)
        return SP_FAIL(reterr, SP_CORRUPT, "%s is empty, or no file", version->path);
    if ((uint64_t)info.st_size > SP_LIMIT_MODEL_BYTES)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s is larger than %u bytes", version->path, SP_LIMIT_MODEL_BYTES);
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) {
        ok = EVP_Digest(bytes, (size_t)info.st_size, hash, &hash_size, EVP_sha256(), NULL);
        (void)munmap(bytes, (size_t)info.st_size);
    }
    if (!ok || hash_size != 32)
        return SP_FAIL(reterr, SP_INTERNAL, "the digest of %s cannot be made", version->path);
    for (unsigned i = 0; i < hash_size; i++)
        (void)snprintf(version->digest + 2 * i, 3, "%02x", hash[i]);
    version->bytes = (uint64_t)info.st_size;
    return SP_OK;
}

/* --- versions --------------------------------------------------------------------------------------------------------------- */

#define FOUND_MOST 4096 /* version directories looked at */

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Directories whose names are whole numbers without leading zeros, highest first. */
static int find_versions(const char *directory, int64_t numbers[FOUND_MOST])
{
    DIR *dir = opendir(directory);
    int count = 0;

    for (struct dirent *entry = dir ? readdir(dir) : NULL; entry && count < FOUND_MOST; entry = readdir(dir)) {
        const char *name = entry->d_name;
        char path[2048];
        struct stat info;
        if (name[0] < '1' || name[0] > '9' || strlen(name) > 18 || strspn(name, "0123456789") != strlen(name))
            continue;
        if ((size_t)snprintf(path, sizeof(path), "%s/%s", directory, name) >= sizeof(path) || stat(path, &info) || !S_ISDIR(info.st_mode))
            continue;
        numbers[count++] = strtoll(name, NULL, 10);
    }
    if (dir)
        (void)closedir(dir);
    qsort(numbers, (size_t)count, sizeof(numbers[0]), descending);
    return count;
}

static bool selected(const sp_model_config *config, int64_t number, int taken)
{
    if (config->version_policy == SP_VERSIONS_ALL)
        return true;
    if (config->version_policy == SP_VERSIONS_LATEST)
        return (uint32_t)taken < config->latest_count;
    for (int i = 0; i < config->specific_count; i++) {
        if (config->specific[i] == number)
            return true;
    }
    return false;
}

static sp_status select_versions(inspection *in)
{
    static int64_t numbers[FOUND_MOST];
    sp_model_card *card = in->card;
    int count = find_versions(card->directory, numbers);
    bool fileless = card->config.is_ensemble || !strcmp(card->config.backend, "identity");

    if (!count && fileless)
        numbers[count++] = 1; /* Triton wants an empty directory for it */
    for (int i = 0; i < count; i++) {
        if (!selected(&card->config, numbers[i], card->version_count))
            continue;
        if (card->version_count == SP_LIMIT_SERVED_VERSIONS)
            return SP_FAIL(in->reterr, SP_TOO_LARGE, "%s: version_policy: selects more than %d versions", in->file,
                           SP_LIMIT_SERVED_VERSIONS);
        card->versions[card->version_count++].number = numbers[i];
    }
    if (!card->version_count)
        return SP_FAIL(in->reterr, SP_NOT_FOUND, "%s: at least one version must be available under the version policy of model '%s'%s",
                       in->file, in->name, count ? "" : " (there is no directory named 1, 2, ...)");
    return SP_OK;
}

/* --- configuration ------------------------------------------------------------------------------------------------------------ */

/* Without a configuration: what spillway.json says of the labels and of batching. Wrong ones are not reported here; the
 * classify task does. */
static void read_settings(inspection *in, char *ret_labels, size_t labels_bytes)
{
    char path[2048], *text = NULL;
    size_t bytes = 0;

    (void)snprintf(path, sizeof(path), "%s/spillway.json", in->card->directory);
    if (read_file(path, path, SP_LIMIT_MODEL_SETTINGS_BYTES, &text, &bytes, NULL))
        return;
    SP_CLEANUP(sp_json_unrefp) json_t *settings = json_loadb(text, bytes, 0, NULL);
    free(text);
    const json_t *most = json_object_get(settings, "max_batch");
    if (json_is_integer(most) && json_integer_value(most) <= 1)
        in->card->config.max_batch_size = 0;
    else if (json_is_integer(most) && json_integer_value(most) <= SP_LIMIT_BATCH)
        in->card->config.max_batch_size = (int32_t)json_integer_value(most);
    const char *labels = json_string_value(json_object_get(settings, "labels"));
    (void)snprintf(ret_labels, labels_bytes, "%s", labels ? labels : "labels.txt");
}

static sp_status read_config(inspection *in, const char *override)
{
    sp_model_config *config = &in->card->config;
    char path[2048], *text = NULL;
    size_t bytes = 0;
    sp_status status;

    sp_model_config_init(config);
    if (*override) {
        in->configured = true;
        (void)snprintf(in->file, sizeof(in->file), "%s: config", in->name);
        return sp_model_config_read(in->file, sp_view_of(override), config, in->reterr);
    }
    (void)snprintf(in->file, sizeof(in->file), "%s/config.pbtxt", in->name);
    (void)snprintf(path, sizeof(path), "%s/config.pbtxt", in->card->directory);
    if (access(path, F_OK) != 0) {
        (void)snprintf(in->file, sizeof(in->file), "%s (no config.pbtxt)", in->name);
        return SP_OK;
    }
    in->configured = true;
    status = read_file(path, in->file, SP_LIMIT_MODEL_CONFIG_BYTES, &text, &bytes, in->reterr);
    if (!status)
        status = sp_model_config_parse(in->file, sp_view_make(text, bytes), config, in->reterr);
    free(text);
    return status;
}

/* Neither backend nor platform is given: the files of a version tell. */
static void guess_backend(inspection *in)
{
    sp_model_config *config = &in->card->config;
    static int64_t numbers[FOUND_MOST];
    char directory[2048];

    if (*config->backend || *config->platform || config->is_ensemble)
        return;
    const sp_backend *named = sp_backend_of_file(config->default_model_filename);
    if (named)
        (void)snprintf(config->backend, sizeof(config->backend), "%s", named->name);
    if (named || !find_versions(in->card->directory, numbers))
        return;
    (void)snprintf(directory, sizeof(directory), "%s/%" PRId64, in->card->directory, numbers[0]);
    for (int i = 0; sp_backend_at(i); i++) {
        if (sp_backend_at(i)->file && exists(directory, sp_backend_at(i)->file)) {
            (void)snprintf(config->backend, sizeof(config->backend), "%s", sp_backend_at(i)->name);
            return;
        }
    }
}

/* --- model files -------------------------------------------------------------------------------------------------------------- */

/* Will the engine read it as ONNX, whatever it is called? ONNX Runtime takes any file for it that is not named .ort; OpenVINO
 * looks at the content, and its own form is XML. */
static bool is_onnx(const sp_backend *backend, const char *path)
{
    const char *dot = strrchr(path, '.');

    if (strcmp(backend->name, "openvino"))
        return !dot || strcmp(dot, ".ort");
    FILE *file = fopen(path, "re");
    int c = file ? getc(file) : EOF;
    while (c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == 0xEF || c == 0xBB || c == 0xBF)
        c = getc(file);
    if (file)
        (void)fclose(file); /* it was only read */
    return c != '<';
}

static sp_status locate_files(inspection *in)
{
    sp_model_card *card = in->card;
    sp_model_config *config = &card->config;
    const sp_backend *backend = sp_backend_named(config->backend);
    const char *name = config->default_model_filename;

    if (config->is_ensemble || !backend || !backend->file)
        return SP_OK;
    if (name[0] == '/' || strstr(name, ".."))
        return SP_FAIL(in->reterr, SP_INVALID, "%s: default_model_filename: must lie in the version's directory", in->file);
    for (int i = 0; i < card->version_count; i++) {
        sp_card_version *version = &card->versions[i];
        char directory[1024 + 32];
        (void)snprintf(directory, sizeof(directory), "%s/%" PRId64, card->directory, version->number);
        /* OpenVINO reads ONNX as well. */
        if (!strcmp(backend->name, "openvino") && !strcmp(name, "model.xml") && !exists(directory, name) && exists(directory, "model.onnx"))
            (void)snprintf(config->default_model_filename, sizeof(config->default_model_filename), "model.onnx");
        if ((size_t)snprintf(version->path, sizeof(version->path), "%s/%s", directory, name) >= sizeof(version->path))
            return SP_FAIL(in->reterr, SP_TOO_LARGE, "the path of model '%s' is too long", in->name);
        if (access(version->path, R_OK) != 0)
            return SP_FAIL(in->reterr, SP_NOT_FOUND, "%s: version %" PRId64 " has no file '%s' (default_model_filename)", in->file,
                           version->number, name);
        sp_status status = digest_file(version, in->reterr);
        bool dynamic = false;
        if (!status && backend->described && is_onnx(backend, version->path))
            status = sp_external_check(version->path, card->directory, &dynamic, in->reterr);
        if (status)
            return status;
        in->dynamic |= dynamic;
    }
    return SP_OK;
}

static int copy_ports(sp_file_port *ports, const sp_engine_port *from, int count, bool *ret_fits)
{
    for (int i = 0; i < count; i++) {
        ports[i].dtype = (uint8_t)from[i].dtype;
        ports[i].rank = (uint8_t)from[i].rank;
        memcpy(ports[i].dims, from[i].dims, sizeof(ports[i].dims));
        if ((size_t)snprintf(ports[i].name, sizeof(ports[i].name), "%s", from[i].name) >= sizeof(ports[i].name))
            *ret_fits = false;
    }
    return count;
}

/* Opens the highest version with its engine; the others are held against the same configuration when they are loaded. */
static sp_status read_ports(inspection *in, sp_file_ports *ret_ports)
{
    const sp_engine *engine;
    const sp_card_version *version = &in->card->versions[0];
    SP_CLEANUP(sp_session_freep) sp_session *session = NULL;
    bool fits = true;
    sp_status status = sp_engine_open(in->card->config.backend, &engine, in->reterr);

    if (!status) {
        sp_session_options options = sp_session_options_default(version->path);
        options.optimisation = 0;
        status = sp_session_open(engine, &options, &session, in->reterr);
    }
    if (status)
        return status;
    const sp_engine_ports *ports = sp_session_ports(session);
    ret_ports->input_count = copy_ports(ret_ports->inputs, ports->inputs, ports->input_count, &fits);
    ret_ports->output_count = copy_ports(ret_ports->outputs, ports->outputs, ports->output_count, &fits);
    if (!fits)
        return SP_FAIL(in->reterr, SP_TOO_LARGE, "%s: a tensor's name has more than %d bytes", in->file, SP_LIMIT_SERVED_NAME_BYTES - 1);
    return SP_OK;
}

/* --- labels --------------------------------------------------------------------------------------------------------------------- */

static sp_status count_labels(inspection *in, int output, const char *name)
{
    char path[2048], shown[SP_LIMIT_SERVED_NAME_BYTES * 2 + 2], *text = NULL;
    size_t bytes = 0;
    int32_t count = 0;

    if (name[0] == '/' || strstr(name, ".."))
        return SP_FAIL(in->reterr, SP_INVALID, "%s: output '%s': label_filename: must lie in the model's directory", in->file,
                       in->card->config.outputs[output].name);
    (void)snprintf(path, sizeof(path), "%s/%s", in->card->directory, name);
    (void)snprintf(shown, sizeof(shown), "%s/%s", in->name, name);
    sp_status status = read_file(path, shown, SP_LIMIT_LABEL_FILE_BYTES, &text, &bytes, in->reterr);
    if (status)
        return status;
    for (size_t i = 0; i < bytes; i++)
        count += text[i] == '\n' || i + 1 == bytes;
    free(text);
    in->card->label_counts[output] = count;
    return SP_OK;
}

static sp_status read_labels(inspection *in, const char *settled)
{
    sp_model_config *config = &in->card->config;
    sp_status status = SP_OK;

    /* A model of the classify task: its labels belong to its one output. */
    if (*settled && config->output_count == 1 && exists(in->card->directory, settled))
        (void)snprintf(config->outputs[0].label_filename, sizeof(config->outputs[0].label_filename), "%s", settled);
    for (int i = 0; !status && i < config->output_count; i++) {
        if (*config->outputs[i].label_filename)
            status = count_labels(in, i, config->outputs[i].label_filename);
    }
    return status;
}

/* --- all of it ------------------------------------------------------------------------------------------------------------------- */

static sp_status find_directory(inspection *in, const char *repository)
{
    struct stat info;
    char path[PATH_MAX + SP_LIMIT_SERVED_NAME_BYTES], absolute[PATH_MAX];

    if (!*in->name || strlen(in->name) >= SP_LIMIT_SERVED_NAME_BYTES || in->name[0] == '.' || strchr(in->name, '/'))
        return SP_FAIL(in->reterr, SP_INVALID, "'%.40s' is no name of a model", in->name);
    if (!realpath(repository, absolute))
        return SP_FAIL_ERRNO(in->reterr, SP_NOT_FOUND, "model repository %.100s", repository);
    (void)snprintf(path, sizeof(path), "%s/%s", absolute, in->name);
    if (stat(path, &info) || !S_ISDIR(info.st_mode))
        return SP_FAIL(in->reterr, SP_NOT_FOUND, "there is no directory '%s' in the model repository", in->name);
    if ((size_t)snprintf(in->card->directory, sizeof(in->card->directory), "%s", path) >= sizeof(in->card->directory))
        return SP_FAIL(in->reterr, SP_TOO_LARGE, "the path of model '%s' is too long", in->name);
    return SP_OK;
}

/* The engine's own words get the model's name before them. */
static sp_status named(inspection *in, sp_status status)
{
    sp_error err;

    if (!status || !in->reterr || strstr(in->reterr->message, in->name))
        return status;
    err = *in->reterr;
    (void)snprintf(in->reterr->message, sizeof(in->reterr->message), "%.80s: %.170s", in->name, err.message);
    return status;
}

static sp_status inspect_card(inspection *in, const char *repository, const char *override)
{
    static sp_file_ports ports; /* 30 KiB */
    sp_model_config *config = &in->card->config;
    char labels[SP_LIMIT_SERVED_NAME_BYTES] = "";
    sp_status status = find_directory(in, repository);

    if (!status)
        status = read_config(in, override);
    if (status)
        return status;
    if (!*config->name)
        (void)snprintf(config->name, sizeof(config->name), "%s", in->name);
    if (strcmp(config->name, in->name))
        return SP_FAIL(in->reterr, SP_INVALID, "%s: name: is '%s', but the directory's name is '%s'; they must be equal", in->file,
                       config->name, in->name);
    if (!in->configured)
        read_settings(in, labels, sizeof(labels));
    guess_backend(in);
    /* Once for the back end and its file's name, so that what cannot be served is said before its files are opened. */
    const sp_backend *backend = NULL;
    bool described = !config->is_ensemble && strcmp(config->platform, "ensemble");
    if (described) {
        backend = *config->backend ? sp_backend_named(config->backend) : sp_backend_of_platform(config->platform);
        described = !backend || (!backend->instead && backend->described);
        if (backend && backend->instead)
            return sp_model_config_check(config, in->file, in->reterr);
        if (backend && !*config->backend)
            (void)snprintf(config->backend, sizeof(config->backend), "%s", backend->name);
        if (backend && backend->file && !*config->default_model_filename)
            (void)snprintf(config->default_model_filename, sizeof(config->default_model_filename), "%s", backend->file);
    }
    status = select_versions(in);
    if (!status)
        status = locate_files(in);
    if (!status && in->dynamic && config->max_batch_size < 0)
        config->max_batch_size = 0; /* its answer would depend on its neighbours */
    if (!status && backend && described)
        status = read_ports(in, &ports);
    if (!status)
        status = sp_model_config_complete(config, in->file, backend && described ? &ports : NULL, in->reterr);
    if (!status)
        status = read_labels(in, labels);
    return status ? status : sp_model_config_check(config, in->file, in->reterr);
}

sp_status sp_model_inspect(const char *repository, const char *name, const char *override, sp_model_card **ret_card, sp_error *reterr)
{
    sp_error own = { 0 };
    inspection in = { .name = name, .reterr = reterr ? reterr : &own };
    SP_CLEANUP(sp_model_card_freep) sp_model_card *card = calloc(1, sizeof(*card));

    if (!card)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model's card");
    in.card = card;
    sp_model_config_init(&card->config);
    sp_status status = named(&in, inspect_card(&in, repository, override));
    if (!status)
        *ret_card = SP_STEAL(card);
    return status;
}
