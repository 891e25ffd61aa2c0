/* SPDX-License-Identifier: Apache-2.0
 * The plug-in search path and dlopen. */
#include "base/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SP_BUILD_ROOT
#define SP_BUILD_ROOT ""
#endif
#ifndef SP_LIBDIR
#define SP_LIBDIR "lib" /* of the installation, below its prefix: "lib/x86_64-linux-gnu" on Debian */
#endif

/* Where the build leaves them, below its root. */
static const char *const build_dirs[] = { "src/media", "src/engine/onnxruntime", "src/engine/openvino", "src/engine/python",
                                         "src/cli/fetch", "src/provider", "src/store", "src/gateway/rpc", "src/kernels/cuda" };

typedef struct plugin_search {
    const char *file;
    char looked[512]; /* the directories so far, for the message */
    char path[SP_LIMIT_PLUGIN_PATH_BYTES];
} plugin_search;

/* True when `dir`/file can be read; search->path is it then. */
static bool look_in(plugin_search *search, const char *dir)
{
    size_t used = strlen(search->looked);
    (void)snprintf(search->looked + used, sizeof(search->looked) - used, "%s%s", used ? ", " : "", dir);
    int n = snprintf(search->path, sizeof(search->path), "%s/%s", dir, search->file);
    return n > 0 && (size_t)n < sizeof(search->path) && access(search->path, R_OK) == 0;
}

static bool look_in_list(plugin_search *search, const char *dirs)
{
    while (*dirs) {
        size_t length = strcspn(dirs, ":");
        char dir[SP_LIMIT_PLUGIN_PATH_BYTES];
        if (length > 0 && length < sizeof(dir)) {
            memcpy(dir, dirs, length);
            dir[length] = 0;
            if (look_in(search, dir))
                return true;
        }
        dirs += length + (dirs[length] == ':');
    }
    return false;
}

/* Looks where a program or library that stands in `dir` may have brought its plug-ins. */
static bool look_around(plugin_search *search, const char *dir)
{
    char other[SP_LIMIT_PLUGIN_PATH_BYTES];

    if (look_in(search, dir))
        return true;
    (void)snprintf(other, sizeof(other), "%.*s/../lib/spillway", (int)sizeof(other) - 64, dir);
    if (look_in(search, other))
        return true;
    (void)snprintf(other, sizeof(other), "%.*s/../" SP_LIBDIR "/spillway", (int)sizeof(other) - 128, dir);
    if (look_in(search, other))
        return true;
    (void)snprintf(other, sizeof(other), "%.*s/spillway", (int)sizeof(other) - 64, dir);
    if (look_in(search, other))
        return true;
    size_t root_length = strlen(SP_BUILD_ROOT);
    if (!root_length || strncmp(dir, SP_BUILD_ROOT, root_length) != 0 || (dir[root_length] && dir[root_length] != '/'))
        return false;
    for (size_t i = 0; i < SP_ARRAY_LEN(build_dirs); i++) {
        (void)snprintf(other, sizeof(other), "%s/%s", SP_BUILD_ROOT, build_dirs[i]);
        if (look_in(search, other))
            return true;
    }
    return false;
}

/* Cuts the last name off; false when there is none. */
static bool cut_to_directory(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    return slash != NULL;
}

static bool look_beside_executable(plugin_search *search)
{
    char dir[SP_LIMIT_PLUGIN_PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    if (n <= 0)
        return false;
    dir[n] = 0;
    return cut_to_directory(dir) && look_around(search, dir);
}

/* The same for the library that this code was linked into (libspillway.so in somebody else's program); in our own
 * program that is the executable once more. */
static bool look_beside_this_code(plugin_search *search)
{
    Dl_info info;
    if (!dladdr(build_dirs, &info) || !info.dli_fname)
        return false;
    char *dir = realpath(info.dli_fname, NULL);
    bool found = dir && cut_to_directory(dir) && look_around(search, dir);
    free(dir);
    return found;
}

sp_status sp_plugin_open(const char *file, void **ret_handle, char *ret_path, sp_error *reterr)
{
    plugin_search search = { .file = file };
    const char *dirs = getenv("SPILLWAY_PLUGINS");
    if (!(dirs && *dirs ? look_in_list(&search, dirs) : look_beside_executable(&search) || look_beside_this_code(&search)))
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "missing_plugin", "%s is in none of %s", file, search.looked);
    void *handle = dlopen(search.path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", "%s", why ? why : file);
    }
    if (ret_path)
        memcpy(ret_path, search.path, sizeof(search.path));
    *ret_handle = handle;
    return SP_OK;
}

sp_status sp_plugin_symbol(void *handle, const char *file, const char *symbol, void **ret_symbol, sp_error *reterr)
{
    void *found = dlsym(handle, symbol);
    if (!found)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", "%s has no symbol %s: not a Spillway plug-in of this kind",
                            file, symbol);
    *ret_symbol = found;
    return SP_OK;
}
