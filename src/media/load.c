/* SPDX-License-Identifier: Apache-2.0
 * Opens libspillway_media.so and checks its ABI. */
#include "media/load.h"

#include "base/plugin.h"

#include <pthread.h>

#define LIBRARY "libspillway_media.so"

typedef const sp_media_api *api_get_fn(void);

/* Guards loaded_api. */
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static const sp_media_api *loaded_api;

static sp_status load(sp_error *reterr)
{
    void *library, *symbol;
    sp_status s = sp_plugin_open(LIBRARY, &library, NULL, reterr);
    if (s)
        return s;
    s = sp_plugin_symbol(library, LIBRARY, "sp_media_api_get", &symbol, reterr);
    if (s)
        return s;
    const sp_media_api *api = ((api_get_fn *)symbol)();
    if (!api || api->abi != SP_MEDIA_ABI)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", LIBRARY " has ABI %u, this program needs %u: they are of "
                            "different builds", api ? api->abi : 0, SP_MEDIA_ABI);
    loaded_api = api;
    return SP_OK;
}

sp_status sp_media_load(const sp_media_api **ret_api, sp_error *reterr)
{
    (void)pthread_mutex_lock(&load_lock);
    sp_status s = loaded_api ? SP_OK : load(reterr);
    if (!s)
        *ret_api = loaded_api;
    (void)pthread_mutex_unlock(&load_lock);
    return s;
}
