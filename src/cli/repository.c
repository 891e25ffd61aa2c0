/* SPDX-License-Identifier: Apache-2.0
 * See repository.h. */
#include "cli/repository.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool sp_model_name_ok(const char *name)
{
    size_t length = strlen(name);

    return length > 0 && length < 64 && name[0] != '.' && name[0] != '-' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == length;
}

static int count_lines(const char *path)
{
    FILE *file = fopen(path, "re");
    int c, last = '\n', lines = 0;

    if (!file)
        return -1;
    while ((c = getc(file)) != EOF) {
        lines += c == '\n';
        last = c;
    }
    fclose(file); /* it was only read */
    return lines + (last != '\n');
}

static void copy_text(char *dst, size_t dst_bytes, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    if (text)
        snprintf(dst, dst_bytes, "%s", text);
}

static void read_settings(const char *directory, sp_listed_model *model)
{
    char path[4096 + 128];
    json_error_t error;
    char labels[64] = "labels.txt";

    snprintf(path, sizeof(path), "%s/%s/spillway.json", directory, model->name);
    SP_CLEANUP(json_decrefp) json_t *settings = json_load_file(path, 0, &error);
    if (!settings) {
        if (json_error_code(&error) == json_error_cannot_open_file)
            snprintf(model->problem, sizeof(model->problem), "no spillway.json");
        else
            snprintf(model->problem, sizeof(model->problem), "spillway.json line %d: %.100s", error.line, error.text);
        return;
    }
    copy_text(model->task, sizeof(model->task), settings, "task");
    copy_text(model->precision, sizeof(model->precision), settings, "precision");
    copy_text(labels, sizeof(labels), settings, "labels");
    snprintf(path, sizeof(path), "%s/%s/%s", directory, model->name, labels);
    model->label_count = count_lines(path);
    if (model->label_count < 0) {
        model->label_count = 0;
        if (json_object_get(settings, "labels"))
            snprintf(model->problem, sizeof(model->problem), "the labels file %s is missing", labels);
    }
    if (!*model->task)
        snprintf(model->problem, sizeof(model->problem), "spillway.json names no task");
}

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void read_versions(const char *directory, sp_listed_model *model)
{
    char path[4096 + 128];
    struct dirent *entry;
    struct stat st;

    snprintf(path, sizeof(path), "%s/%s", directory, model->name);
    DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir)) != NULL && model->version_count < SP_LIMIT_LISTED_VERSIONS) {
        char *end;
        long number = strtol(entry->d_name, &end, 10);
        if (*end || number < 1 || number > 999999999)
            continue;
        snprintf(path, sizeof(path), "%s/%s/%ld/model.onnx", directory, model->name, number);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
            model->versions[model->version_count++] = (int)number;
    }
    if (dir)
        closedir(dir);
    qsort(model->versions, (size_t)model->version_count, sizeof(int), compare_ints);
    if (!model->version_count) {
        snprintf(model->problem, sizeof(model->problem), "no version has a model.onnx");
        return;
    }
    snprintf(model->path, sizeof(model->path), "%s/%s/%d/model.onnx", directory, model->name,
             model->versions[model->version_count - 1]);
    if (stat(model->path, &st) == 0)
        model->bytes = (uint64_t)st.st_size;
}

static int compare_models(const void *a, const void *b)
{
    return strcmp(((const sp_listed_model *)a)->name, ((const sp_listed_model *)b)->name);
}

sp_status sp_listing_read(const char *directory, sp_listing *ret_list, sp_error *reterr)
{
    struct dirent *entry;
    sp_listing list = { 0 };
    int room = 0;
    DIR *dir = strlen(directory) < 4096 - 128 ? opendir(directory) : NULL;

    if (!dir)
        return SP_FAIL(reterr, SP_NOT_FOUND, "cannot read the model repository %s: %s", directory, strerror(errno));
    while ((entry = readdir(dir)) != NULL && list.count < SP_LIMIT_LISTED_MODELS) {
        if (!sp_model_name_ok(entry->d_name) || entry->d_type == DT_REG)
            continue;
        if (list.count == room) {
            room = room ? room * 2 : 8;
            sp_listed_model *grown = realloc(list.models, (size_t)room * sizeof(*grown));
            if (!grown) {
                closedir(dir);
                sp_listing_done(&list);
                return SP_FAIL(reterr, SP_NOMEM, "no memory for the list of models");
            }
            list.models = grown;
        }
        sp_listed_model *model = &list.models[list.count++];
        *model = (sp_listed_model){ 0 };
        snprintf(model->name, sizeof(model->name), "%.63s", entry->d_name);
        read_settings(directory, model);
        read_versions(directory, model);
    }
    closedir(dir);
    if (list.count)
        qsort(list.models, (size_t)list.count, sizeof(*list.models), compare_models);
    *ret_list = list;
    return SP_OK;
}

void sp_listing_done(sp_listing *list)
{
    free(list->models);
    *list = (sp_listing){ 0 };
}
