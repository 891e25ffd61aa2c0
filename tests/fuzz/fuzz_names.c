/* SPDX-License-Identifier: Apache-2.0
 * Authorization, Host, Origin and networks: names point into their text, and what is read is made of allowed bytes only. */
#include "gateway/names.h"

#include <ctype.h>
#include <stdlib.h>

static void inside(sp_view view, const char *text)
{
    const char *begin = (const char *)view.data;
    if (begin < text || begin + view.size_bytes > text + strlen(text) || !view.size_bytes)
        abort();
    for (size_t i = 0; i < view.size_bytes; i++) {
        if (!isgraph(view.data[i]))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    gw_network network;
    sp_view view;
    char *text = malloc(size_bytes + 1);
    if (!text)
        return 0;
    memcpy(text, data, size_bytes);
    text[size_bytes] = 0;
    if (gw_bearer_read(text, &view)) {
        inside(view, text);
        if (view.size_bytes > GW_TOKEN_BYTES)
            abort();
    }
    if (gw_host_read(text, &view)) {
        inside(view, text);
        (void)gw_name_is_loopback(view);
        (void)gw_name_equals(view, "localhost");
    }
    if (gw_origin_read(text, &view))
        inside(view, text);
    if (gw_network_read(text, &network) && !gw_network_has(&network, network.address))
        abort(); /* every network has its own address */
    free(text);
    return 0;
}
