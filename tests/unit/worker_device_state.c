/* SPDX-License-Identifier: Apache-2.0
 * Small things that device workers keep: how large a batch may be, samples in shared memory, words for faults. */
#include "test.h"

#include "worker/batch_limit.h"
#include "worker/device_fault.h"
#include "worker/sample.h"
#include "worker/sampler.h"

#include <math.h>
#include <pthread.h>

static bool good_runs(sp_batch_limit *limit, int count, int runs, int64_t now_ns)
{
    bool rose = false;
    for (int i = 0; i < runs; i++)
        rose |= sp_batch_limit_fitted(limit, count, now_ns);
    return rose;
}

TEST(the_limit_falls_by_half_and_rises_slowly)
{
    sp_batch_limit limit;
    sp_batch_limit_init(&limit, 8);
    int64_t now_ns = SP_NS_PER_S;
    CHECK(!good_runs(&limit, 8, 100, now_ns)); /* there is nothing above what was planned */
    CHECK(sp_batch_limit_failed(&limit, 8, now_ns));
    CHECK(sp_batch_limit_failed(&limit, 4, now_ns));
    CHECK(!sp_batch_limit_failed(&limit, 8, now_ns)); /* another executor's, begun before */
    CHECK_INT(sp_batch_limit_now(&limit), 2);
    CHECK(!good_runs(&limit, 2, 100, now_ns + 29 * SP_NS_PER_S));
    CHECK(!good_runs(&limit, 1, 100, now_ns + 31 * SP_NS_PER_S)); /* smaller ones prove nothing */
    now_ns += 31 * SP_NS_PER_S;
    CHECK(good_runs(&limit, 2, 1, now_ns));
    CHECK_INT(sp_batch_limit_now(&limit), 4);
    CHECK(!good_runs(&limit, 4, SP_BATCH_LIMIT_RUNS * 2, now_ns));
    now_ns += 31 * SP_NS_PER_S;
    CHECK(good_runs(&limit, 4, 1, now_ns));
    CHECK_INT(sp_batch_limit_now(&limit), 8);
}

TEST(a_rise_in_vain_is_tried_later_and_later)
{
    sp_batch_limit limit;
    sp_batch_limit_init(&limit, 4);
    int64_t now_ns = SP_NS_PER_S, waits[8];
    (void)sp_batch_limit_failed(&limit, 4, now_ns);
    for (size_t i = 0; i < SP_ARRAY_LEN(waits); i++) {
        int64_t fell_ns = now_ns;
        while (!good_runs(&limit, 2, SP_BATCH_LIMIT_RUNS, now_ns))
            now_ns += SP_NS_PER_S;
        waits[i] = (now_ns - fell_ns) / SP_NS_PER_S;
        CHECK(sp_batch_limit_failed(&limit, 4, now_ns));
        CHECK_INT(sp_batch_limit_now(&limit), 2);
    }
    CHECK_INT(waits[0], 30);
    CHECK_INT(waits[1], 60);
    CHECK_INT(waits[2], 120);
    CHECK_INT(waits[7], 600);
}

static sp_device_sample shared;

static void *writer(void *argument)
{
    for (int i = 1; i <= 20000; i++) {
        sp_device_sample sample = { .sampled_ns = i, .utilization = i, .power_w = i };
        sp_device_sample_write(&shared, &sample);
    }
    return NULL;
}

TEST(a_sample_is_read_whole_or_not_at_all)
{
    sp_device_sample seen = { 0 };
    CHECK(!sp_device_sample_read(&shared, &seen)); /* none yet */
#if defined(__SANITIZE_THREAD__)
    SKIP("between processes a sequence guards plain memory; a race detector of one process cannot know that");
#endif
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, writer, NULL) == 0);
    int reads = 0;
    for (int i = 0; i < 20000; i++) {
        if (!sp_device_sample_read(&shared, &seen))
            continue;
        reads++;
        if ((double)seen.sampled_ns != seen.utilization || seen.utilization != seen.power_w) {
            test_fail(__FILE__, __LINE__, "torn: %lld %f %f", (long long)seen.sampled_ns, seen.utilization, seen.power_w);
            break;
        }
    }
    (void)pthread_join(thread, NULL);
    CHECK(sp_device_sample_read(&shared, &seen));
    CHECK_INT(seen.sampled_ns, 20000);
    CHECK(reads >= 0);
    shared.sequence |= 1; /* its writer died in the middle */
    CHECK(!sp_device_sample_read(&shared, &seen));
}

TEST(clock_reasons)
{
    sp_device_sample sample;
    static const struct {
        uint64_t reasons;
        uint32_t heat, power;
    } rows[] = { { 0, 0, 0 },    { 0x1, 0, 0 },  { 0x4, 0, 0 },  { 0x8, 1, 0 },
                 { 0x20, 1, 0 }, { 0x40, 1, 0 }, { 0x80, 0, 1 }, { 0x88, 0, 1 }, { 0xe8, 1, 1 } };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_device_sample_blank(&sample, "nvml");
        CHECK_INT(sample.throttle_thermal, 2);
        sp_device_sample_reasons(&sample, rows[i].reasons);
        CHECK_INT(sample.throttle_thermal, rows[i].heat);
        CHECK_INT(sample.throttle_power, rows[i].power);
    }
    CHECK(isnan(sample.utilization) && isnan(sample.energy_j));
}

TEST(a_word_for_each_fault)
{
    CHECK_TEXT(sp_device_code_of("no GPU: the driver sees none"), "no_gpu");
    CHECK_TEXT(sp_device_code_of("no driver: libcuda.so.1 is missing"), "no_driver");
    CHECK_TEXT(sp_device_code_of("library missing: libcudnn.so.9"), "no_library");
    CHECK_TEXT(sp_device_code_of("driver/CUDA mismatch: code 803"), "mismatch");
    CHECK_TEXT(sp_device_code_of("the CUDA driver does not start (cuInit: 999)"), "no_device");
    CHECK(sp_device_remedy("oom")[0] && sp_device_remedy("sticky")[0] && sp_device_remedy("hang")[0]);
    CHECK_TEXT(sp_device_remedy("what"), "");
    CHECK_INT(sp_sample_period_ns(NULL), SP_NS_PER_S);
    CHECK_INT(sp_sample_period_ns("5"), SP_NS_PER_S);
    CHECK_INT(sp_sample_period_ns("250"), 250 * SP_NS_PER_MS);
}
