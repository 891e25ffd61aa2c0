/* SPDX-License-Identifier: Apache-2.0
 * See repository.h. */
#include "serving/repository.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PATH_BYTES 2048

static void mix(uint64_t *hash, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < bytes; i++)
        *hash = (*hash ^ at[i]) * UINT64_C(0x100000001b3);
}

/* Adds up the entries' own hashes: the order in which a directory lists them does not matter. */
static uint64_t stamp_of(const char *directory, int depth, int *files_left)
{
    uint64_t sum = 0;
    DIR *dir = depth < SP_LIMIT_MODEL_DEPTH ? opendir(directory) : NULL;

    for (struct dirent *entry = dir ? readdir(dir) : NULL; entry && *files_left > 0; entry = readdir(dir)) {
        char path[PATH_BYTES];
        struct stat info;
        uint64_t hash = UINT64_C(0xcbf29ce484222325);
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        (*files_left)--;
        if ((size_t)snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name) >= sizeof(path) || stat(path, &info))
            continue;
        mix(&hash, entry->d_name, strlen(entry->d_name));
        if (S_ISDIR(info.st_mode)) {
            uint64_t below = stamp_of(path, depth + 1, files_left);
            mix(&hash, &below, sizeof(below));
        } else {
            mix(&hash, &info.st_size, sizeof(info.st_size));
            mix(&hash, &info.st_mtim, sizeof(info.st_mtim));
            mix(&hash, &info.st_ino, sizeof(info.st_ino));
        }
        sum += hash;
    }
    if (dir)
        (void)closedir(dir);
    return sum;
}

/* A configuration, or a directory whose name is a number. */
static bool is_model(const char *directory)
{
    char path[PATH_BYTES];
    struct stat info;
    bool found = false;

    if ((size_t)snprintf(path, sizeof(path), "%s/config.pbtxt", directory) >= sizeof(path))
        return false;
    if (stat(path, &info) == 0)
        return true;
    DIR *dir = opendir(directory);
    for (struct dirent *entry = dir ? readdir(dir) : NULL; entry && !found; entry = readdir(dir))
        found = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && strspn(entry->d_name, "0123456789") == strlen(entry->d_name);
    if (dir)
        (void)closedir(dir);
    return found;
}

static bool look(const char *repository, const char *name, sp_found_model *ret_model)
{
    char path[PATH_BYTES];
    struct stat info;
    int files = SP_LIMIT_MODEL_FILES;

    if (name[0] == '.' || !*name || strchr(name, '/') || strlen(name) >= sizeof(ret_model->name) ||
        (size_t)snprintf(path, sizeof(path), "%s/%s", repository, name) >= sizeof(path) || stat(path, &info) || !S_ISDIR(info.st_mode) ||
        !is_model(path))
        return false;
    *ret_model = (sp_found_model){ .stamp = stamp_of(path, 0, &files) };
    (void)snprintf(ret_model->name, sizeof(ret_model->name), "%s", name);
    return true;
}

static int by_name(const void *a, const void *b)
{
    const sp_found_model *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->repository - y->repository;
}

/* Equal names are neighbours now: the first repository's stays. */
static void merge(sp_repository_scan *scan)
{
    int kept = 0;

    qsort(scan->models, (size_t)scan->count, sizeof(*scan->models), by_name);
    for (int i = 0; i < scan->count; i++) {
        if (kept && !strcmp(scan->models[kept - 1].name, scan->models[i].name))
            scan->models[kept - 1].twice = true;
        else
            scan->models[kept++] = scan->models[i];
    }
    scan->count = kept;
}

sp_status sp_repository_scan_run(sp_repository_scan *scan, sp_error *reterr)
{
    scan->count = 0;
    scan->models = calloc(SP_LIMIT_REPOSITORY_MODELS, sizeof(*scan->models));
    if (!scan->models)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the list of models");
    for (int r = 0; r < scan->repository_count; r++) {
        DIR *dir = opendir(scan->repositories[r]);
        if (!dir)
            return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "model repository %.150s", scan->repositories[r]);
        for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
            scan->cut |= scan->count == SP_LIMIT_REPOSITORY_MODELS;
            if (scan->cut)
                break;
            if (look(scan->repositories[r], entry->d_name, &scan->models[scan->count]))
                scan->models[scan->count++].repository = r;
        }
        (void)closedir(dir);
    }
    merge(scan);
    return SP_OK;
}

void sp_repository_scan_done(sp_repository_scan *scan)
{
    free(scan->models);
    scan->models = NULL;
    scan->count = 0;
}

sp_status sp_repository_locate(int repository_count, const char *const *repositories, const char *name, sp_found_model *ret_model,
                               sp_error *reterr)
{
    sp_found_model found;
    bool any = false;

    for (int r = 0; r < repository_count; r++) {
        if (!look(repositories[r], name, &found))
            continue;
        if (any)
            return SP_FAIL(reterr, SP_INVALID, "model '%.60s' is not unique across the model repositories", name);
        found.repository = r;
        *ret_model = found;
        any = true;
    }
    return any ? SP_OK
               : SP_FAIL(reterr, SP_NOT_FOUND, "failed to load '%.60s', failed to poll from model repository: it has no such directory", name);
}
