/* SPDX-License-Identifier: Apache-2.0
 * Finding a model, its labels and its digest; holding its description against the loaded model. */
#include "task/model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 1024

/* A small file into memory, NUL-terminated; *ret_text NULL when it does not exist. */
static sp_status read_small(const char *path, size_t limit_bytes, char **ret_text, size_t *ret_size, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    *ret_text = NULL;
    if (fd < 0)
        return errno == ENOENT ? SP_OK : SP_FAIL_ERRNO(reterr, SP_INVALID, "%s", path);
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return SP_FAIL(reterr, SP_INVALID, "%s is no file", path);
    if ((uint64_t)info.st_size > limit_bytes)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s has %llu bytes, at most %zu are read", path,
                       (unsigned long long)info.st_size, limit_bytes);
    size_t size = (size_t)info.st_size, done = 0;
    char *text = malloc(size + 1);
    if (!text)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %s", path);
    while (done < size) {
        ssize_t n = read(fd, text + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(text);
            return SP_FAIL_ERRNO(reterr, SP_INVALID, "%s", path);
        }
        done += (size_t)n;
    }
    text[size] = 0;
    *ret_text = text;
    *ret_size = size;
    return SP_OK;
}

/* An ONNX NodeProto stores its operator as field 4: byte 0x22, length, text. Dynamic quantisation takes its scale from
 * the whole tensor, batch included, so an answer would depend on who else is in the batch. */
static bool has_dynamic_quantisation(const uint8_t *bytes, size_t size)
{
    static const char word[] = "DynamicQuantize";
    size_t length = sizeof(word) - 1;
    const uint8_t *end = bytes + size;
    for (const uint8_t *at = bytes; (at = memmem(at, (size_t)(end - at), word, length)) != NULL; at += length)
        if (at - bytes >= 2 && at[-2] == 0x22 && at[-1] >= length && at[-1] < 64)
            return true;
    return false;
}

/* One pass over the file: digest and a look at its operators. */
static sp_status read_model_file(sp_model *model, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(model->path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0)
        return SP_FAIL_ERRNO(reterr, SP_NOT_FOUND, "%s", model->path);
    if ((uint64_t)info.st_size > SP_LIMIT_MODEL_BYTES)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%s has %llu bytes; a model file has at most %u", model->path,
                       (unsigned long long)info.st_size, SP_LIMIT_MODEL_BYTES);
    size_t size = (size_t)info.st_size;
    if (size == 0)
        return SP_FAIL(reterr, SP_CORRUPT, "%s is empty", model->path);
    void *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (bytes == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "%s", model->path);
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned hash_size = 0;
    int ok = EVP_Digest(bytes, size, hash, &hash_size, EVP_sha256(), NULL);
    bool dynamic = has_dynamic_quantisation(bytes, size);
    (void)munmap(bytes, size); /* cannot fail on a mapping we made */
    if (!ok || hash_size != 32)
        return SP_FAIL_FROM(reterr, SP_INTERNAL, "libcrypto", ok, "SHA-256 of %s failed", model->path);
    for (unsigned i = 0; i < hash_size; i++)
        (void)snprintf(model->digest + 2 * i, 3, "%02x", hash[i]);
    model->size_bytes = size;
    if (dynamic)
        model->max_batch = 1;
    return SP_OK;
}

/* Cuts the label file's text into lines; a last line without newline counts, a trailing empty one does not. */
static sp_status cut_labels(sp_model *model, const char *path, size_t size, sp_error *reterr)
{
    uint32_t lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += model->label_text[i] == '\n';
    lines += size > 0 && model->label_text[size - 1] != '\n';
    if (lines == 0 || lines > SP_LIMIT_CLASSES)
        return SP_FAIL(reterr, SP_INVALID, "%s has %u lines; a label file has 1 to %d", path, lines, SP_LIMIT_CLASSES);
    model->labels = calloc(lines, sizeof(*model->labels));
    if (!model->labels)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the labels");
    char *at = model->label_text;
    for (uint32_t i = 0; i < lines; i++) {
        size_t length = strcspn(at, "\n");
        char *next = at + length + (at[length] == '\n');
        at[length] = 0;
        if (length && at[length - 1] == '\r')
            at[length - 1] = 0;
        if (length >= SP_LIMIT_LABEL_BYTES)
            return SP_FAIL(reterr, SP_INVALID, "%s:%u: a label has at most %d bytes", path, i + 1,
                           SP_LIMIT_LABEL_BYTES - 1);
        model->labels[i] = at;
        at = next;
    }
    model->label_count = lines;
    return SP_OK;
}

static sp_status read_labels(sp_model *model, const char *directory, const char *file, bool asked, sp_error *reterr)
{
    char path[PATH_BYTES];
    size_t size = 0;
    (void)snprintf(path, sizeof(path), "%s/%s", directory, file);
    sp_status s = read_small(path, SP_LIMIT_LABEL_FILE_BYTES, &model->label_text, &size, reterr);
    if (s)
        return s;
    if (!model->label_text)
        return asked ? SP_FAIL(reterr, SP_INVALID, "%s: labels: there is no %s", model->settings_path, path) : SP_OK;
    if (strlen(model->label_text) != size)
        return SP_FAIL(reterr, SP_INVALID, "%s is no text: it has a zero byte", path);
    return cut_labels(model, path, size, reterr);
}

/* The highest whole-numbered directory of `directory` that has a model.onnx. */
static bool find_version(const char *directory, char *version, size_t size)
{
    DIR *dir = opendir(directory);
    unsigned long best = 0;
    bool found = false;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char *end = NULL, path[PATH_BYTES];
        unsigned long number =
            entry->d_name[0] >= '0' && entry->d_name[0] <= '9' ? strtoul(entry->d_name, &end, 10) : 0;
        if (!end || *end || strlen(entry->d_name) >= size || (found && number <= best))
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s/model.onnx", directory, entry->d_name);
        if (access(path, R_OK) != 0)
            continue;
        best = number;
        found = true;
        (void)snprintf(version, size, "%s", entry->d_name);
    }
    if (dir)
        (void)closedir(dir);
    return found;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

sp_status sp_model_list(const char *repository, sp_model_names *ret_names, sp_error *reterr)
{
    DIR *dir = opendir(repository);
    if (!dir)
        return SP_FAIL_ERRNO(reterr, SP_NOT_FOUND, "model repository %s", repository);
    ret_names->count = 0;
    for (struct dirent *entry; (entry = readdir(dir)) && ret_names->count < SP_LIMIT_MODELS;) {
        char path[PATH_BYTES], version[16];
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= SP_LIMIT_MODEL_NAME_BYTES)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", repository, entry->d_name);
        if (find_version(path, version, sizeof(version)))
            (void)snprintf(ret_names->names[ret_names->count++], SP_LIMIT_MODEL_NAME_BYTES, "%s", entry->d_name);
    }
    (void)closedir(dir);
    qsort(ret_names->names, (size_t)ret_names->count, sizeof(ret_names->names[0]), compare_names);
    return SP_OK;
}

static sp_status choose_name(const char *repository, const char *asked, char *name, sp_error *reterr)
{
    if (asked) {
        /* A model's name comes from requests too: it must not walk out of the repository. */
        if (!*asked || strchr(asked, '/') || asked[0] == '.' || strlen(asked) >= SP_LIMIT_MODEL_NAME_BYTES)
            return SP_FAIL(reterr, SP_NOT_FOUND, "no model can be called '%.80s'", asked);
        (void)snprintf(name, SP_LIMIT_MODEL_NAME_BYTES, "%s", asked);
        return SP_OK;
    }
    sp_model_names *names = malloc(sizeof(*names));
    if (!names)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to list %s", repository);
    sp_status s = sp_model_list(repository, names, reterr);
    if (!s && names->count == 0)
        s = SP_FAIL(reterr, SP_NOT_FOUND, "%s has no <model>/<version>/model.onnx", repository);
    if (!s)
        (void)snprintf(name, SP_LIMIT_MODEL_NAME_BYTES, "%s", names->names[0]);
    free(names);
    return s;
}

static char *format_path(const char *directory, const char *rest)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", directory, rest) < 0 ? NULL : path;
}

static sp_status read_description(sp_model *model, const char *directory, sp_error *reterr)
{
    char labels[SP_LIMIT_LABEL_BYTES] = "";
    char *text = NULL;
    size_t size = 0;
    sp_status s = read_small(model->settings_path, SP_LIMIT_MODEL_SETTINGS_BYTES, &text, &size, reterr);
    if (!s && text)
        s = sp_model_parse_settings(model, text, size, labels, sizeof(labels), reterr);
    free(text);
    if (s)
        return s;
    return read_labels(model, directory, labels[0] ? labels : "labels.txt", labels[0] != 0, reterr);
}

sp_status sp_model_find(const char *repository, const char *asked, sp_model **ret_model, sp_error *reterr)
{
    SP_CLEANUP(sp_model_freep) sp_model *model = calloc(1, sizeof(*model));
    if (!model)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model");
    sp_status s = choose_name(repository, asked, model->name, reterr);
    if (s)
        return s;
    char directory[PATH_BYTES - 64], file[64];
    if ((size_t)snprintf(directory, sizeof(directory), "%s/%s", repository, model->name) >= sizeof(directory))
        return SP_FAIL(reterr, SP_NOT_FOUND, "the path of model repository %s is too long", repository);
    if (!find_version(directory, model->version, sizeof(model->version)))
        return SP_FAIL(reterr, SP_NOT_FOUND, "no model '%s': %s has no <version>/model.onnx", model->name, directory);
    (void)snprintf(file, sizeof(file), "%s/model.onnx", model->version);
    model->path = format_path(directory, file);
    model->settings_path = format_path(directory, "spillway.json");
    if (!model->path || !model->settings_path)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model");
    model->max_batch = SP_LIMIT_BATCH;
    s = read_description(model, directory, reterr);
    if (!s)
        s = read_model_file(model, reterr);
    if (!s)
        *ret_model = SP_STEAL(model);
    return s;
}

sp_status sp_model_describe(const char *repository, const char *asked, sp_model **ret_model, sp_error *reterr)
{
    SP_CLEANUP(sp_model_freep) sp_model *model = calloc(1, sizeof(*model));
    if (!model)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model");
    sp_status s = choose_name(repository, asked, model->name, reterr);
    if (s)
        return s;
    char directory[PATH_BYTES - 64];
    if ((size_t)snprintf(directory, sizeof(directory), "%s/%s", repository, model->name) >= sizeof(directory) ||
        access(directory, R_OK) != 0)
        return SP_FAIL(reterr, SP_NOT_FOUND, "no model '%s' in %s", model->name, repository);
    model->settings_path = format_path(directory, "spillway.json");
    if (!model->settings_path)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model");
    model->max_batch = SP_LIMIT_BATCH;
    s = read_description(model, directory, reterr);
    if (!s)
        *ret_model = SP_STEAL(model);
    return s;
}

void sp_model_free(sp_model *model)
{
    if (!model)
        return;
    free(model->path);
    free(model->settings_path);
    free(model->labels);
    free(model->label_text);
    free(model);
}

const char *sp_model_label(const sp_model *model, uint32_t class_id)
{
    return class_id < model->label_count ? model->labels[class_id] : "";
}

sp_status sp_model_misfit(const sp_model *model, sp_error *reterr, const char *key, const char *format, ...)
{
    char what[160];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return SP_FAIL_CODE(reterr, SP_INVALID, "model_settings", "%s: %s: %s", model->settings_path, key, what);
}

int sp_model_find_port(const sp_engine_port *ports, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(ports[i].name, name) == 0)
            return i;
    return -1;
}

static sp_status fit_names(sp_model *model, const sp_engine_ports *ports, sp_error *reterr)
{
    model->input_index = model->input[0] ? sp_model_find_port(ports->inputs, ports->input_count, model->input) : 0;
    model->output_index = model->output[0] ? sp_model_find_port(ports->outputs, ports->output_count, model->output) : 0;
    if (ports->input_count != 1)
        return sp_model_misfit(model, reterr, "input", "a classifier or detector has one input, this model has %d",
                      ports->input_count);
    if (model->input_index < 0)
        return sp_model_misfit(model, reterr, "input", "the model's input is called '%s'", ports->inputs[0].name);
    if (model->output_index < 0 || ports->output_count < 1)
        return sp_model_misfit(model, reterr, "output", "the model has no output '%s'", model->output);
    return SP_OK;
}

/* The input must be [N, 3, H, W], f32 or f16; what spillway.json gave must agree. */
static sp_status fit_input(sp_model *model, const sp_engine_port *port, sp_error *reterr)
{
    sp_prep_spec *prep = &model->prep;
    if (port->rank != 4 || (port->dims[1] != 3 && port->dims[1] != -1))
        return sp_model_misfit(model, reterr, "input", "'%s' is not [N, 3, H, W]", port->name);
    if (port->dtype != SP_ENGINE_F32 && port->dtype != SP_ENGINE_F16)
        return sp_model_misfit(model, reterr, "input", "'%s' is of ONNX type %d; f32 and f16 can be filled", port->name,
                      port->dtype);
    if (port->dims[0] != -1 && port->dims[0] != 1)
        return sp_model_misfit(model, reterr, "input", "'%s' has a fixed batch of %lld; make it 1 or dynamic", port->name,
                      (long long)port->dims[0]);
    if ((model->given & SP_GIVEN_DTYPE) && prep->dtype != port->dtype)
        return sp_model_misfit(model, reterr, "preprocess.dtype", "is not the type of '%s'", port->name);
    prep->dtype = (uint8_t)port->dtype;
    int64_t h = port->dims[2], w = port->dims[3];
    bool fixed = h > 0 && w > 0 && h <= UINT16_MAX && w <= UINT16_MAX;
    if (!(model->given & SP_GIVEN_CROP)) {
        bool from_resize =
            !fixed && (model->given & SP_GIVEN_RESIZE) && (prep->fit & ~SP_FIT_BGR) != SP_FIT_SHORT_SIDE;
        if (!fixed && !from_resize)
            return sp_model_misfit(model, reterr, "preprocess.crop", "is needed: the model takes pictures of any size");
        prep->crop_w = fixed ? (uint16_t)w : prep->resize_w;
        prep->crop_h = fixed ? (uint16_t)h : prep->resize_h;
    } else if ((h > 0 && h != prep->crop_h) || (w > 0 && w != prep->crop_w)) {
        return sp_model_misfit(model, reterr, "preprocess.crop", "is %dx%d, the model takes %lldx%lld", prep->crop_w,
                      prep->crop_h, (long long)w, (long long)h);
    }
    if (port->dims[0] == 1)
        model->max_batch = 1;
    return SP_OK;
}

/* What is not given is what most ImageNet classifiers were trained with: short side to 256 for a crop of 224, antialiased
 * bilinear, divided by 255, ImageNet's mean and deviation. */
static void fill_prep(sp_model *model)
{
    static const float imagenet_mean[3] = { 0.485f, 0.456f, 0.406f }, imagenet_std[3] = { 0.229f, 0.224f, 0.225f };
    sp_prep_spec *prep = &model->prep;
    if (!(model->given & SP_GIVEN_RESIZE)) {
        bool whole = (prep->fit & ~SP_FIT_BGR) != SP_FIT_SHORT_SIDE;
        int side = SP_MIN(prep->crop_w, prep->crop_h) * 256 / 224;
        prep->resize_w =
            whole ? prep->crop_w : (uint16_t)SP_MIN(SP_MAX(side, SP_MAX(prep->crop_w, prep->crop_h)), UINT16_MAX);
        prep->resize_h = whole ? prep->crop_h : prep->resize_w;
    }
    if (!(model->given & SP_GIVEN_SCALE)) {
        prep->divisor = 255;
        memcpy(prep->mean, imagenet_mean, sizeof(imagenet_mean));
        memcpy(prep->std, imagenet_std, sizeof(imagenet_std));
    }
    if (prep->divisor == 0)
        prep->divisor = 1; /* mean and std were given alone: they are of bytes */
    for (int c = 0; c < 3; c++)
        if (prep->std[c] == 0)
            prep->std[c] = 1;
    if (!model->precision[0])
        (void)snprintf(model->precision, sizeof(model->precision), "%s", prep->dtype == SP_DTYPE_F16 ? "fp16" : "fp32");
}

static sp_status fit_output(sp_model *model, const sp_engine_port *port, sp_error *reterr)
{
    if (port->dtype != SP_ENGINE_F32 && port->dtype != SP_ENGINE_F16)
        return sp_model_misfit(model, reterr, "output", "'%s' is of ONNX type %d; f32 and f16 can be read", port->name,
                      port->dtype);
    int64_t classes = port->rank >= 2 ? port->dims[1] : -1;
    for (int i = 2; i < port->rank; i++)
        if (port->dims[i] != 1)
            classes = -1;
    if (classes == -1 && port->rank >= 2 && port->dims[1] == -1 && model->label_count > 0)
        classes = model->label_count; /* an export that lost its shape; the run will tell whether it is true */
    if (classes < 2 || classes > SP_LIMIT_CLASSES)
        return sp_model_misfit(model, reterr, "output", "'%s' is not [N, classes]", port->name);
    if (model->label_count && model->label_count != (uint64_t)classes)
        return sp_model_misfit(model, reterr, "labels", "%u labels, '%s' has %lld classes", model->label_count, port->name,
                      (long long)classes);
    if (port->dims[0] == 1)
        model->max_batch = 1;
    model->class_count = (uint32_t)classes;
    return SP_OK;
}

sp_status sp_model_fit(sp_model *model, const sp_engine_ports *ports, sp_error *reterr)
{
    if (model->task == SP_MODEL_DETECT)
        sp_detect_defaults(model);
    sp_status s = fit_names(model, ports, reterr);
    if (!s)
        s = fit_input(model, &ports->inputs[model->input_index], reterr);
    if (!s && model->task == SP_MODEL_CLASSIFY)
        s = fit_output(model, &ports->outputs[model->output_index], reterr);
    if (!s)
        fill_prep(model);
    return s;
}
