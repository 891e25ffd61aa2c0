/* SPDX-License-Identifier: Apache-2.0
 * See cuda_places.h. */
#include "kernels/cuda_places.h"

sp_status sp_cuda_places_renew(const sp_cuda_api *api, sp_cuda *cuda, sp_cuda_places *places, size_t bytes, sp_error *reterr)
{
    void *device = NULL, *staging = NULL;
    sp_status s = api->reserve(cuda, bytes, &device, reterr);
    if (!s)
        s = api->pinned_new(cuda, bytes, &staging, reterr);
    if (s) {
        api->release(cuda, device);
        return s;
    }
    sp_cuda_places_done(api, cuda, places);
    *places = (sp_cuda_places){ .device = device, .staging = staging, .bytes = bytes };
    return SP_OK;
}

void sp_cuda_places_done(const sp_cuda_api *api, sp_cuda *cuda, sp_cuda_places *places)
{
    api->release(cuda, places->device);
    api->pinned_free(cuda, places->staging);
    *places = (sp_cuda_places){ 0 };
}
