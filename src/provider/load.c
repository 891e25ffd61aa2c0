/* SPDX-License-Identifier: Apache-2.0
 * Opens libspillway_net.so and checks its ABI. */
#include "provider/load.h"

#include "base/plugin.h"

typedef const sp_net_api *api_get_fn(void);

sp_status sp_net_load(const sp_net_api **ret_api, sp_error *reterr)
{
    void *library, *symbol;
    sp_status s = sp_plugin_open(SP_NET_FILE, &library, NULL, reterr);
    if (!s)
        s = sp_plugin_symbol(library, SP_NET_FILE, SP_NET_SYMBOL, &symbol, reterr);
    if (s)
        return s;
    const sp_net_api *api = ((api_get_fn *)symbol)();
    if (!api || api->abi != SP_NET_ABI)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", SP_NET_FILE " has ABI %u, this program needs %u: they are "
                            "of different builds", api ? api->abi : 0, SP_NET_ABI);
    *ret_api = api;
    return SP_OK;
}
