/* SPDX-License-Identifier: Apache-2.0
 * The plug-in's one exported call. */
#include "kernels/cuda/core.h"

#include <pthread.h>
#include <stdio.h>

#ifndef SP_CUDA_CODES
#define SP_CUDA_CODES "none: the kernels run on the host"
#endif

static sp_cuda_api api;
static char version[64];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_api(void)
{
    (void)snprintf(version, sizeof(version), "CUDA runtime %d.%d", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    api = sp_cuda_stream_calls;
    api.abi = SP_CUDA_ABI;
    api.struct_bytes = sizeof(api);
    api.version = version;
    api.codes = SP_CUDA_CODES;
    api.count = sp_cuda_count;
    api.describe = sp_cuda_describe;
    api.open = sp_cuda_open;
    api.close = sp_cuda_close;
    api.memory = sp_cuda_memory_get;
    api.reserve = sp_cuda_reserve;
    api.release = sp_cuda_release;
    api.pinned_new = sp_cuda_pinned_new;
    api.pinned_free = sp_cuda_pinned_free;
    api.host_register = sp_cuda_host_register;
    api.host_unregister = sp_cuda_host_unregister;
    api.shared_new = sp_cuda_shared_new;
    api.shared_free = sp_cuda_shared_free;
    api.thread_begin = sp_cuda_use;
    api.prep = &sp_cuda_prep_calls;
    api.post = &sp_cuda_post_calls;
    api.flow = &sp_cuda_flow_calls;
    api.plane = &sp_cuda_plane_calls;
}

SP_EXPORT const sp_cuda_api *sp_cuda_api_get(uint32_t host_abi);

const sp_cuda_api *sp_cuda_api_get(uint32_t host_abi)
{
    if (host_abi != SP_CUDA_ABI)
        return NULL;
    (void)pthread_once(&once, make_api);
    return &api;
}
