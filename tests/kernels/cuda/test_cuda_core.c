/* SPDX-License-Identifier: Apache-2.0
 * The CUDA plug-in's core: devices, memory, streams, events, graphs; and what it answers when a call fails. */
#include <stdio.h>

#include "house.h"

TEST(a_device_opens_and_its_canary_sings)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_cuda_info info;
    sp_error err = { 0 };
    REQUIRE(house.api->describe(0, &info, &err) == SP_OK);
    CHECK(info.simulated == (house.shim != NULL));
    CHECK(info.memory_bytes > 0 && info.multiprocessors > 0);
    cuda_house_done(&house);
}

TEST(bytes_go_there_and_back)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    unsigned char out[1000], back[1000];
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (unsigned char)test_random();
    CUDA_ORDERS(&house, order) {
        void *device = cuda_house_put(&house, out, sizeof(out));
        memset(back, 0, sizeof(back));
        cuda_house_get(&house, back, device, sizeof(back));
        CHECK_BYTES(out, back, sizeof(back));
        house.api->release(house.cuda, device);
    }
    cuda_house_done(&house);
}
