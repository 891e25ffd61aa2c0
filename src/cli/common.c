/* SPDX-License-Identifier: Apache-2.0
 * What several commands share: where models are, and how a failed call becomes a message and an exit code. */
#include "cli/cli.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INSTALLED_MODELS "/var/lib/spillway/models"

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

const char *sp_source_tree_find(void)
{
    static char tree[PATH_MAX];
    char path[PATH_MAX + 32];
    ssize_t length = readlink("/proc/self/exe", tree, sizeof(tree) - 1);

    if (length <= 0)
        return "";
    tree[length] = '\0';
    /* Two names off: /src/spillway/build/spillway -> /src/spillway. */
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(tree, '/');
        if (!slash)
            return "";
        *slash = '\0';
    }
    snprintf(path, sizeof(path), "%s/meson.build", tree);
    if (access(path, R_OK) != 0)
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
    snprintf(path, sizeof(path), "%s/var/models", tree);
    if (*tree && is_directory(path))
        return path;
    return INSTALLED_MODELS;
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
