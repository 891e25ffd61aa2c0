/* SPDX-License-Identifier: Apache-2.0
 * A model file of any content on its way to the check of external data. What must hold: damaged, too deep, or each location lies
 * within the file. */
#include "model/external.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static sp_status found(sp_view location, void *context, sp_error *reterr)
{
    const sp_view *all = context;

    (void)reterr;
    if (location.size_bytes &&
        (location.data < all->data || location.data + location.size_bytes > all->data + all->size_bytes))
        abort();
    return SP_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_view all = sp_view_make(data, size);
    sp_error err = { 0 };
    bool dynamic;
    sp_status status = sp_external_each(all, found, &all, &dynamic, &err);

    if (status && status != SP_CORRUPT && status != SP_TOO_LARGE)
        abort();
    return 0;
}
