/* SPDX-License-Identifier: Apache-2.0
 * Opens libspillway_cuda.so, or what SPILLWAY_CUDA_LIBRARY names, and checks its ABI. */
#include "kernels/cuda.h"

#include "base/plugin.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

/* Guards loaded_api. */
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static const sp_cuda_api *loaded_api;

static sp_status open_library(void **ret_library, sp_error *reterr)
{
    const char *path = getenv("SPILLWAY_CUDA_LIBRARY");
    if (!path || !*path)
        return sp_plugin_open(SP_CUDA_LIBRARY, ret_library, NULL, reterr);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", "SPILLWAY_CUDA_LIBRARY: %s", why ? why : path);
    }
    *ret_library = library;
    return SP_OK;
}

static sp_status load(sp_error *reterr)
{
    void *library, *symbol;
    sp_status s = open_library(&library, reterr);
    if (s)
        return s;
    s = sp_plugin_symbol(library, SP_CUDA_LIBRARY, SP_CUDA_SYMBOL, &symbol, reterr);
    if (s)
        return s;
    const sp_cuda_api *api = ((sp_cuda_api_get_fn *)symbol)(SP_CUDA_ABI);
    if (!api || api->abi != SP_CUDA_ABI || api->struct_bytes != sizeof(*api))
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", SP_CUDA_LIBRARY " has another ABI than %u, which this program "
                            "needs: they are of different builds", SP_CUDA_ABI);
    loaded_api = api;
    return SP_OK;
}

sp_status sp_cuda_load(const sp_cuda_api **ret_api, sp_error *reterr)
{
    (void)pthread_mutex_lock(&load_lock);
    sp_status s = loaded_api ? SP_OK : load(reterr);
    if (!s)
        *ret_api = loaded_api;
    (void)pthread_mutex_unlock(&load_lock);
    return s;
}
