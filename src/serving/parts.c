/* SPDX-License-Identifier: Apache-2.0
 * What the other files of this room keep between calls: made and freed here. */
#include "serving/parts.h"

#include <stdlib.h>

sp_status sp_serving_parts_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving_parts **ret_parts,
                               sp_error *reterr)
{
    sp_serving_parts *parts = calloc(1, sizeof(*parts));
    if (!parts)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the served models");
    parts->loop = loop;
    parts->house = house;
    parts->shared_memory_anywhere = config->shared_memory_anywhere;
    sp_status s = sp_settings_new(&parts->settings, reterr);
    if (!s)
        s = sp_sequences_new(loop, &parts->sequences, reterr);
    if (s) {
        sp_serving_parts_free(parts);
        return s;
    }
    *ret_parts = parts;
    return SP_OK;
}

void sp_serving_parts_free(sp_serving_parts *parts)
{
    if (!parts)
        return;
    if (parts->store)
        sp_store_thread_free(parts->store);
    sp_regions_free(parts);
    sp_sequences_free(parts->sequences);
    sp_settings_free(parts->settings);
    free(parts->room);
    free(parts);
}

void sp_serving_set_cache(sp_serving *serving, sp_cache *cache)
{
    sp_serving_parts_of(serving)->cache = cache;
}

sp_status sp_serving_store(sp_serving_parts *parts, sp_store_work *work, sp_error *reterr)
{
    if (!parts->store) {
        sp_status s = sp_store_thread_new(parts->loop, "serving", SP_SERVING_STORE_QUEUE, NULL, NULL, &parts->store, reterr);
        if (s)
            return s;
    }
    return sp_store_submit(parts->store, work, reterr);
}
