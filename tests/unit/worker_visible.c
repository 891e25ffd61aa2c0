/* SPDX-License-Identifier: Apache-2.0
 * Which GPU a worker's process sees, and the sizes that batches on one are filled up to. */
#include "test.h"

#include "engine/bucket.h"
#include "worker/visible.h"

#include <stdlib.h>

static const char *shown_to(const char *kind, const char *name, const char *ours)
{
    if (ours)
        (void)setenv("CUDA_VISIBLE_DEVICES", ours, 1);
    else
        (void)unsetenv("CUDA_VISIBLE_DEVICES");
    sp_worker_show_its_gpu(kind, name);
    const char *now = getenv("CUDA_VISIBLE_DEVICES");
    return now ? now : "unset";
}

TEST(a_worker_sees_the_gpu_of_its_number)
{
    (void)unsetenv("CUDA_DEVICE_ORDER");
    CHECK_TEXT(shown_to("cpu", "cpu0", NULL), "unset");
    CHECK_TEXT(shown_to("sim", "sim1", "0,1"), "0,1");
    CHECK(getenv("CUDA_DEVICE_ORDER") == NULL);
    CHECK_TEXT(shown_to("cuda", "cuda0", NULL), "0");
    CHECK_TEXT(getenv("CUDA_DEVICE_ORDER"), "PCI_BUS_ID");
    CHECK_TEXT(shown_to("tensorrt", "tensorrt12", ""), "12");
    CHECK_TEXT(shown_to("cuda", "cuda1", "3,GPU-8f2e,5"), "GPU-8f2e");
    CHECK_TEXT(shown_to("cuda", "cuda2", "3,GPU-8f2e,5"), "5");
    CHECK_TEXT(shown_to("cuda", "cuda0", "MIG-GPU-1/2/3"), "MIG-GPU-1/2/3");
    CHECK_TEXT(shown_to("cuda", "cuda3", "3,GPU-8f2e,5"), "-1"); /* there is none */
    CHECK_TEXT(shown_to("cuda", "cuda1", "0,,2"), "-1");
}

TEST(a_workers_number_stands_at_its_names_end)
{
    CHECK_INT(sp_worker_number("cuda3"), 3);
    CHECK_INT(sp_worker_number("cuda"), 0);
    CHECK_INT(sp_worker_number("sim10"), 10);
}

TEST(buckets_are_powers_of_two_and_the_most)
{
    const int64_t rows[] = { 1, 2, 3, 5, 8, 9, 12, 13, 20, 32 }, of_32[] = { 1, 2, 4, 8, 8, 16, 16, 16, 32, 32 };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++)
        CHECK_INT(sp_bucket_of(rows[i], 32), of_32[i]);
    CHECK_INT(sp_bucket_of(9, 12), 12);
    int64_t seen[8] = { 0 }, count = 0;
    for (int64_t b = 1; b; b = sp_bucket_after(b, 12))
        seen[count++] = b;
    CHECK_INT(count, 5);
    CHECK(seen[0] == 1 && seen[1] == 2 && seen[2] == 4 && seen[3] == 8 && seen[4] == 12);
    CHECK_INT(sp_bucket_after(1, 1), 0);
    CHECK(sp_bucket_wanted("cuda") && sp_bucket_wanted("tensorrt") && !sp_bucket_wanted("cpu") && !sp_bucket_wanted(NULL));
}
