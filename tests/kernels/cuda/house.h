/* SPDX-License-Identifier: Apache-2.0
 * For tests of the CUDA plug-in: a device to work on, and all orders of threads and blocks. Included once, by a test's file.
 *
 *   TEST(softmax_on_the_device)
 *   {
 *       cuda_house house;
 *       CUDA_HOUSE(&house);                       // skips with the reason when there is no device
 *       CUDA_ORDERS(&house, order) {              // on a GPU once, on the stand-in 3 orders of threads x 2 of blocks
 *           ...enqueue on house.stream, house.api->stream_sync, compare...
 *       }
 *       cuda_house_done(&house);                  // checks that nothing is left
 *   } */
#ifndef SP_TESTS_KERNELS_CUDA_HOUSE_H
#define SP_TESTS_KERNELS_CUDA_HOUSE_H

#include "kernels/cuda.h"
#include "shim.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

typedef struct cuda_house {
    const sp_cuda_api *api;
    const sp_shim_control *shim; /* NULL on a real GPU */
    sp_cuda *cuda;
    sp_cuda_stream *stream;
} cuda_house;

static inline bool cuda_house_open(cuda_house *house, char *why, size_t why_bytes)
{
    const char *no_shim = getenv("SPILLWAY_SHIM_WHY_NOT");
    sp_error err = { 0 };
    memset(house, 0, sizeof(*house));
    if (no_shim && *no_shim) {
        (void)snprintf(why, why_bytes, "no stand-in for a GPU: %s", no_shim);
        return false;
    }
    sp_status s = sp_cuda_load(&house->api, &err);
    if (s == SP_OK) {
        house->shim = sp_shim();
        if (house->shim)
            house->shim->reset();
        s = house->api->open(0, 0, &house->cuda, &err);
    }
    if (s == SP_OK)
        s = house->api->stream_new(house->cuda, &house->stream, &err);
    if (s != SP_OK) {
        (void)snprintf(why, why_bytes, "%s", err.message);
        if (house->cuda)
            house->api->close(house->cuda);
    }
    return s == SP_OK;
}

#define CUDA_HOUSE(house)                                     \
    do {                                                      \
        char why_[320];                                       \
        if (!cuda_house_open((house), why_, sizeof(why_)))    \
            SKIP("%s", why_);                                 \
    } while (0)

static inline void cuda_house_done(cuda_house *house)
{
    sp_cuda_memory memory;
    house->api->memory(house->cuda, &memory);
    CHECK_INT(memory.device_bytes, 0);
    CHECK_INT(memory.host_bytes, 0);
    house->api->stream_free(house->stream);
    house->api->close(house->cuda);
}

/* The order-th order; false when there are no more. */
static inline bool cuda_house_order(cuda_house *house, int order)
{
    static const sp_shim_order threads[] = { SP_SHIM_FORWARD, SP_SHIM_REVERSE, SP_SHIM_SHUFFLED };
    if (order >= (house->shim ? 6 : 1))
        return false;
    if (house->shim) {
        house->shim->order(threads[order % 3], order < 3 ? SP_SHIM_FORWARD : SP_SHIM_REVERSE, test_seed() + (unsigned)order);
        house->shim->streams(test_seed() ^ (unsigned)order);
    }
    return true;
}

#define CUDA_ORDERS(house, order) for (int order = 0; cuda_house_order((house), order); order++)

/* Device memory with a copy of `bytes` of `from` (NULL: undefined bytes), or the test ends. */
static inline void *cuda_house_put(cuda_house *house, const void *from, size_t bytes)
{
    void *device = NULL;
    sp_error err = { 0 };
    REQUIRE(house->api->reserve(house->cuda, bytes, &device, &err) == SP_OK);
    if (from) {
        REQUIRE(house->api->copy_in(house->stream, device, from, bytes, &err) == SP_OK);
        REQUIRE(house->api->stream_sync(house->stream, &err) == SP_OK);
    }
    return device;
}

/* Waits for the stream and brings `bytes` back. */
static inline void cuda_house_get(cuda_house *house, void *to, const void *device, size_t bytes)
{
    sp_error err = { 0 };
    REQUIRE(house->api->copy_out(house->stream, to, device, bytes, &err) == SP_OK);
    REQUIRE(house->api->stream_sync(house->stream, &err) == SP_OK);
}

#endif
