/* SPDX-License-Identifier: Apache-2.0
 * The device worker's kind "cuda" on the stand-in for a GPU (tests/shim), over the steered engine: answers are the CPU worker's to
 * the bit, slots' memory is registered or staged, each call of the CUDA runtime fails once and costs only its batch, and in
 * steady state nothing is allocated and nobody waits for the whole device. */
#include "base/machine.h"
#include "device_stubs.h"
#include "kernels/cuda.h"
#include "shim.h"
#include "worker/device_plan.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define PICTURE_BYTES ((size_t)64 * 64 * 3)

static const sp_cuda_api *api;
static const sp_shim_control *shim;
static uint8_t *pictures; /* ITEMS of them, page-aligned, as slots' outputs are */

static sp_status open_kind(const char *kind, const char *plan, void **ret_device, sp_error *reterr)
{
    char name[16];
    (void)snprintf(name, sizeof(name), "%s0", kind);
    const sp_worker_config config = { .name = name, .kind = kind, .model_repository = repository, .plan = plan };
    card = (sp_worker_card){ 0 };
    ended = (sp_error){ 0 };
    return sp_worker_kind_device.open(&config, &card, ret_device, reterr);
}

/* The stand-in, its control, and everything as at first; or the test ends. */
static void begin(void)
{
    sp_error err = { 0 };
    const char *why_not = getenv("SPILLWAY_SHIM_WHY_NOT");
    if (!getenv("SPILLWAY_FAKE_ENGINE"))
        SKIP("SPILLWAY_FAKE_ENGINE (the steered engine's directory) is set by meson test only");
    if (why_not && *why_not)
        SKIP("no stand-in for a GPU: %s", why_not);
    make_repository("plain", 1);
    CHECK_INT(setenv("SPILLWAY_PLUGINS", getenv("SPILLWAY_FAKE_ENGINE"), 1), 0);
    REQUIRE(sp_cuda_load(&api, &err) == SP_OK);
    shim = sp_shim();
    REQUIRE(shim != NULL);
    shim->reset();
    shim->foreign(false);
    if (!pictures) {
        pictures = mmap(NULL, ITEMS * PICTURE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        REQUIRE(pictures != MAP_FAILED);
    }
}

/* Batches of `batch` on two lanes, by a plan that was not measured. */
static sp_status open_cuda(int batch, sp_error *reterr)
{
    char text[SP_DEVICE_PLAN_BYTES];
    sp_machine machine;
    sp_model *model = NULL;
    sp_machine_read(&machine);
    REQUIRE(sp_model_find(repository, NULL, &model, NULL) == SP_OK);
    const sp_device_plan plan = { .cpus = machine.cpu_count, .wide_threads = 1, .lanes = SP_DEVICE_LANES, .batch = batch,
                                  .alone_p50_ns = 1000, .alone_p99_ns = 1000, .loaded_item_ns = 1000, .loaded_run_ns = 1000 };
    sp_device_plan_write(&plan, model->digest, "+fake-1.0-cuda", text, sizeof(text));
    sp_model_free(model);
    sp_status s = open_kind("cuda", text, &device, reterr);
    if (!s)
        CHECK_TEXT(card.plan, text);
    return s;
}

static void must_open(int batch)
{
    sp_error err = { 0 };
    sp_status s = open_cuda(batch, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(s == SP_OK);
}

/* Every other item is a picture of a size of its own; its pixels are none of the steered engine's tricks. */
static void make_mixed_items(bool pinned)
{
    make_items(NULL);
    for (int i = 0; i < ITEMS; i += 2) {
        uint8_t *rgb = pictures + (size_t)i * PICTURE_BYTES;
        int w = test_random_between(1, 64), h = test_random_between(1, 64);
        for (size_t k = 0; k < (size_t)w * (size_t)h * 3; k++)
            rgb[k] = (uint8_t)test_random_between(10, 255);
        submissions[i] = (sp_submission){ .op = SP_OP_CLASSIFY, .output_kind = SP_OUTPUT_RGB8, .image_w = w, .image_h = h };
        items[i].input = sp_view_make(rgb, PICTURE_BYTES);
        items[i].input_pinned = pinned;
    }
}

static void forget_answers(void)
{
    for (int i = 0; i < ITEMS; i++) {
        items[i].status = SP_OK;
        memset(answers[i], 0, sizeof(sp_answer_class) * 4);
    }
}

static uint8_t right[ITEMS][SP_LIMIT_ANSWER_BYTES]; /* the CPU worker's */

static void ask_the_cpu(void)
{
    void *cpu = NULL;
    sp_worker_card kept = card;
    REQUIRE(open_kind("cpu", "", &cpu, NULL) == SP_OK);
    forget_answers();
    for (int i = 0; i < ITEMS; i++) {
        sp_worker_kind_device.run(cpu, 0, &items[i], 1);
        REQUIRE(items[i].status == SP_OK);
        memcpy(right[i], answers[i], items[i].done.answer_bytes);
    }
    sp_worker_kind_device.close(cpu);
    card = kept;
}

static void check_item(int i)
{
    REQUIRE(items[i].status == SP_OK);
    CHECK_BYTES(answers[i], right[i], items[i].done.answer_bytes);
}

static int runs_of(int count)
{
    forget_answers();
    sp_worker_kind_device.run(device, 0, items, count);
    int good = 0;
    for (int i = 0; i < count; i++)
        good += items[i].status == SP_OK;
    return good;
}

TEST(a_batch_of_pictures_and_tensors_is_answered_as_by_the_cpu)
{
    begin();
    must_open(ITEMS);
    CHECK_TEXT(card.device, "cuda");
    CHECK(strstr(card.detail, "which is simulated") && strstr(card.detail, "slots: registered memory"));
    for (int turn = 0; turn < 6; turn++) {
        make_mixed_items(false);
        ask_the_cpu();
        for (int count = 1; count <= ITEMS; count++) {
            CHECK_INT(runs_of(count), count);
            for (int i = 0; i < count; i++)
                check_item(i);
        }
    }
    sp_worker_kind_device.close(device);
}

TEST(a_measured_plan_has_two_lanes_and_is_taken_again)
{
    char plan[SP_DEVICE_PLAN_BYTES];
    begin();
    REQUIRE(open_kind("cuda", "", &device, NULL) == SP_OK);
    CHECK_INT(card.executors, SP_DEVICE_LANES);
    memcpy(plan, card.plan, sizeof(plan));
    sp_worker_kind_device.close(device);
    REQUIRE(open_kind("cuda", plan, &device, NULL) == SP_OK);
    CHECK_TEXT(card.plan, plan);
    sp_worker_kind_device.close(device);
}

TEST(slots_memory_is_registered_and_copied_from_where_it_lies)
{
    sp_shim_counters before, after;
    begin();
    must_open(ITEMS);
    REQUIRE(sp_worker_kind_device.mapped(device, pictures, ITEMS * PICTURE_BYTES));
    make_mixed_items(true);
    ask_the_cpu();
    shim->counters(&before);
    CHECK_INT(before.registered - before.unregistered, 1);
    CHECK_INT(runs_of(ITEMS), ITEMS);
    for (int i = 0; i < ITEMS; i++)
        check_item(i);
    shim->counters(&after);
    CHECK_INT(after.pageable_copies - before.pageable_copies, 0);
    sp_worker_kind_device.unmapped(device, pictures);
    shim->counters(&after);
    CHECK_INT(after.registered, after.unregistered);
    sp_worker_kind_device.close(device);
}

TEST(where_registering_is_refused_pictures_are_staged_and_the_card_says_so)
{
    sp_shim_counters before, after;
    begin();
    shim->fail("cudaHostRegister", 1, 801, UINT64_MAX / 2); /* cudaErrorNotSupported */
    must_open(ITEMS);
    CHECK(strstr(card.detail, "registered memory refused, staging used") != NULL);
    CHECK(!sp_worker_kind_device.mapped(device, pictures, ITEMS * PICTURE_BYTES));
    make_mixed_items(false);
    ask_the_cpu();
    shim->counters(&before);
    CHECK_INT(runs_of(ITEMS), ITEMS);
    for (int i = 0; i < ITEMS; i++)
        check_item(i);
    shim->counters(&after);
    CHECK_INT(after.pageable_copies - before.pageable_copies, 0);
    sp_worker_kind_device.close(device);
}

TEST(only_what_fails_alone_fails_on_a_device_too)
{
    begin();
    must_open(ITEMS);
    make_items((const int[]){ 0, 0, 0, 1, 0, 3, 1, 0 });
    sp_worker_kind_device.run(device, 0, items, ITEMS);
    for (int i = 0; i < ITEMS; i++) {
        if (i == 3 || i == 6)
            CHECK_INT(items[i].status, SP_INTERNAL);
        else if (i == 5)
            CHECK_INT(items[i].status, SP_CORRUPT);
        else
            check_right(i);
    }
    sp_worker_kind_device.close(device);
}

/* What a batch calls, and what fails only when the device comes to it: that is for good. */
static const char *const calls[] = { "cudaMemcpyAsync", "cudaLaunchKernel", "cudaEventRecord", "cudaStreamWaitEvent",
                                     "cudaEventSynchronize", "cudaSetDevice", "run:copy", "run:gather" };
/* cudaErrorIllegalAddress, MemoryAllocation, InvalidValue. */
static const int codes[] = { 700, 2, 1 };

/* One failure: no answer is wrong, and whoever has none has a status that the route goes on from. */
static void fail_once(const char *name, int nth, int code)
{
    shim->fail(name, (uint64_t)nth, code, 1);
    (void)runs_of(ITEMS);
    for (int i = 0; i < ITEMS; i++) {
        sp_status s = items[i].status;
        if (s == SP_OK)
            check_item(i);
        else
            CHECK(s == SP_NOMEM || s == SP_UNAVAILABLE || s == SP_INTERNAL || s == SP_UNSUPPORTED);
        if (s == SP_UNAVAILABLE)
            CHECK(ended.code[0] != 0); /* this process says why and goes; another one begins */
    }
}

TEST(each_call_fails_once_and_costs_its_batch_at_most)
{
    int reached = 0;
    begin();
    must_open(ITEMS);
    make_mixed_items(false);
    ask_the_cpu();
    for (size_t n = 0; n < SP_ARRAY_LEN(calls); n++) {
        bool for_good = strncmp(calls[n], "run:", 4) == 0;
        for (size_t c = 0; c < (for_good ? 1 : SP_ARRAY_LEN(codes)); c++) {
            for (int nth = 1; nth <= 4; nth += 3) {
                fail_once(calls[n], nth, codes[c]);
                reached += shim->failed() > 0;
                bool over = ended.code[0] != 0;
                if (over)
                    sp_worker_kind_device.close(device); /* a lost device is let go of without a crash */
                shim->reset();
                if (over)
                    must_open(ITEMS);
                CHECK_INT(runs_of(ITEMS), ITEMS);
                for (int i = 0; i < ITEMS; i++)
                    check_item(i);
            }
        }
    }
    CHECK(reached >= 15);
    sp_worker_kind_device.close(device);
}

TEST(each_call_of_the_start_fails_once_and_nothing_is_left)
{
    static const char *const at_start[] = { "cudaMalloc", "cudaMallocAsync", "cudaMallocFromPoolAsync", "cudaHostAlloc",
                                            "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaMemPoolCreate",
                                            "cudaMemsetAsync", "cudaSetDevice", "cudaLaunchKernel", "cudaMemcpyAsync",
                                            "cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaHostRegister" };
    int refused = 0;
    sp_shim_counters held, left;
    begin();
    for (size_t n = 0; n < SP_ARRAY_LEN(at_start); n++) {
        for (size_t c = 0; c < SP_ARRAY_LEN(codes); c++) {
            sp_error err = { 0 };
            shim->counters(&held);
            shim->fail(at_start[n], 1 + c, codes[c], 1);
            sp_status s = open_cuda(4, &err);
            if (s) {
                refused++;
                CHECK(err.message[0] != 0);
            } else {
                sp_worker_kind_device.close(device);
            }
            shim->counters(&left);
            shim->reset();
            if (s == SP_UNAVAILABLE)
                continue; /* such a device frees nothing: the end of the process does */
            CHECK_INT(left.device_bytes, held.device_bytes);
            CHECK_INT(left.host_bytes, held.host_bytes);
            CHECK_INT(left.streams + left.events, held.streams + held.events);
        }
    }
    CHECK(refused >= 20);
}

TEST(what_cannot_run_here_says_why)
{
    sp_error err = { 0 };
    begin();
    sp_shim_device was = shim->device(NULL), now = was;
    now.major = 6;
    now.minor = 1;
    (void)shim->device(&now);
    REQUIRE(open_kind("cuda", "", &device, &err) == SP_OK); /* the engine may be built for it: then it computes alone */
    CHECK(strstr(card.detail, "prepared on the CPU") && strstr(card.detail, "6.1"));
    sp_worker_kind_device.close(device);
    now = was;
    now.driver_version = 0;
    (void)shim->device(&now);
    CHECK_INT(open_cuda(4, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "no_driver");
    now = was;
    now.count = 0;
    (void)shim->device(&now);
    CHECK_INT(open_cuda(4, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "no_gpu");
    (void)shim->device(&was);
}

/* --- a soak --------------------------------------------------------------------------------------------------------- */

#define SOAK_TURNS (getenv("SPILLWAY_SANITIZER") ? 30 : 100)

static atomic_int wrong;

static void *keep_asking(void *argument)
{
    int lane = *(int *)argument, turns = SOAK_TURNS;
    for (int turn = 0; turn < turns; turn++) {
        int first = lane * (ITEMS / 2), count = 1 + turn % (ITEMS / 2);
        for (int i = first; i < first + count; i++)
            items[i].status = SP_OK;
        sp_worker_kind_device.run(device, lane, &items[first], count);
        for (int i = first; i < first + count; i++)
            wrong += items[i].status != SP_OK || memcmp(answers[i], right[i], items[i].done.answer_bytes) != 0;
    }
    return NULL;
}

static void ask_on_both_lanes(void)
{
    pthread_t thread;
    int lanes[2] = { 0, 1 };
    REQUIRE(pthread_create(&thread, NULL, keep_asking, &lanes[1]) == 0);
    (void)keep_asking(&lanes[0]);
    (void)pthread_join(thread, NULL);
}

TEST(thousands_of_requests_allocate_nothing_and_wait_for_nobody_else)
{
    sp_shim_counters before, after;
    begin();
    must_open(ITEMS);
    REQUIRE(sp_worker_kind_device.mapped(device, pictures, ITEMS * PICTURE_BYTES));
    make_mixed_items(true);
    ask_the_cpu();
    wrong = 0;
    ask_on_both_lanes(); /* sizes are seen, staging is found */
    shim->counters(&before);
    ask_on_both_lanes();
    shim->counters(&after);
    CHECK_INT(wrong, 0);
    CHECK_INT(after.allocations, before.allocations);
    CHECK_INT(after.frees, before.frees);
    CHECK_INT(after.host_allocations, before.host_allocations);
    CHECK_INT(after.registered, before.registered);
    CHECK_INT(after.device_bytes, before.device_bytes);
    CHECK_INT(after.host_bytes, before.host_bytes);
    CHECK_INT(after.events, before.events);
    CHECK_INT(after.device_syncs, before.device_syncs);
    CHECK_INT(after.pageable_copies, before.pageable_copies);
    CHECK(page.counters.device_high_bytes > 0 && page.counters.pinned_high_bytes > 0);
    sp_worker_kind_device.unmapped(device, pictures);
    sp_worker_kind_device.close(device);
}
