/* SPDX-License-Identifier: Apache-2.0
 * What several commands share: where models are, the fetch plug-in, and how a failed call becomes a message and an exit code. */
#include "cli/cli.h"

#include "base/limits.h"
#include "base/plugin.h"
#include "cli/fetch/fetch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INSTALLED_MODELS "/var/lib/spillway/models"

const char *sp_program_directory(void)
{
    static char directory[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", directory, sizeof(directory) - 1);

    directory[SP_MAX(length, 0)] = '\0';
    char *slash = strrchr(directory, '/');
    if (slash)
        *slash = '\0';
    return directory;
}

const char *sp_source_tree_find(void)
{
    static char tree[PATH_MAX];
    char path[PATH_MAX + 32];

    /* One more name off: /src/spillway/build -> /src/spillway. */
    snprintf(tree, sizeof(tree), "%s", sp_program_directory());
    char *slash = strrchr(tree, '/');
    if (slash)
        *slash = '\0';
    snprintf(path, sizeof(path), "%s/src/cli/main.c", tree);
    if (!slash || access(path, R_OK) != 0)
        tree[0] = '\0';
    return tree;
}

const char *sp_model_repository_find(const char *given)
{
    static char path[PATH_MAX + 32];
    const char *from_environment = getenv("SPILLWAY_MODELS");
    const char *tree;

    if (given)
        return given;
    if (from_environment && *from_environment)
        return from_environment;
    tree = sp_source_tree_find();
    if (!*tree)
        return INSTALLED_MODELS;
    snprintf(path, sizeof(path), "%s/var/models", tree);
    return path;
}

sp_status sp_fetch_load(const sp_fetch_api **ret_api, sp_error *reterr)
{
    static const sp_fetch_api *loaded;
    void *handle, *symbol;

    if (!loaded) {
        sp_status status = sp_plugin_open(SP_FETCH_FILE, &handle, NULL, reterr);
        if (status == SP_OK)
            status = sp_plugin_symbol(handle, SP_FETCH_FILE, SP_FETCH_SYMBOL, &symbol, reterr);
        if (status)
            return status;
        const sp_fetch_api *api = ((const sp_fetch_api *(*)(void))symbol)();
        if (api->abi != SP_FETCH_ABI)
            return SP_FAIL(reterr, SP_UNSUPPORTED, "%s is of another version than this program", SP_FETCH_FILE);
        loaded = api;
    }
    *ret_api = loaded;
    return SP_OK;
}

void sp_format_bytes(char *text, size_t text_bytes, uint64_t amount_bytes)
{
    if (amount_bytes < 1000 * 1000)
        snprintf(text, text_bytes, "%.1f kB", (double)amount_bytes / 1e3);
    else if (amount_bytes < UINT64_C(1000) * 1000 * 1000)
        snprintf(text, text_bytes, "%.1f MB", (double)amount_bytes / 1e6);
    else
        snprintf(text, text_bytes, "%.2f GB", (double)amount_bytes / 1e9);
}

int sp_exit_of(sp_status status)
{
    switch (status) {
    case SP_OK:
        return SP_EXIT_OK;
    case SP_UNAVAILABLE:
    case SP_UNSUPPORTED:
    case SP_NOT_FOUND:
        return SP_EXIT_UNAVAILABLE;
    default:
        return SP_EXIT_FAILED;
    }
}

int sp_cli_fail_error(const char *command, const sp_error *err)
{
    return sp_cli_fail(sp_exit_of(err->status), command, "%s%s%s%s", err->message, *err->origin ? " [" : "", err->origin,
                       *err->origin ? "]" : "");
}

static sp_status read_stream(FILE *file, uint8_t **ret_data, size_t *ret_size_bytes, sp_error *reterr)
{
    uint8_t *data = NULL;
    size_t size_bytes = 0, room = 0, n;
    sp_status status = SP_OK;

    do {
        if (size_bytes == room) {
            room = room ? room * 2 : 256 * 1024;
            uint8_t *grown = realloc(data, room);
            if (!grown) {
                free(data);
                return SP_FAIL(reterr, SP_NOMEM, "no memory for the file");
            }
            data = grown;
        }
        n = fread(data + size_bytes, 1, room - size_bytes, file);
        size_bytes += n;
    } while (n && size_bytes <= SP_LIMIT_IMAGE_BODY_BYTES);
    if (ferror(file))
        status = SP_FAIL_CODE(reterr, SP_INVALID, "unreadable", "%s", strerror(errno));
    else if (size_bytes > SP_LIMIT_IMAGE_BODY_BYTES)
        status = SP_FAIL_CODE(reterr, SP_TOO_LARGE, "file_too_large", "the file is larger than 32 MiB");
    if (status) {
        free(data);
        return status;
    }
    *ret_data = data;
    *ret_size_bytes = size_bytes;
    return SP_OK;
}

sp_status sp_read_picture(const char *path, uint8_t **ret_data, size_t *ret_size_bytes, sp_error *reterr)
{
    if (!strcmp(path, "-"))
        return read_stream(stdin, ret_data, ret_size_bytes, reterr);
    FILE *file = fopen(path, "re");
    if (!file)
        return SP_FAIL_CODE(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_INVALID, "unreadable", "%s", strerror(errno));
    sp_status status = read_stream(file, ret_data, ret_size_bytes, reterr);
    (void)fclose(file); /* it was only read */
    return status;
}
