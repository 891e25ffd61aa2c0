/* SPDX-License-Identifier: Apache-2.0
 * The device worker's kind over a steered engine (fake/fake_engine.c): plans, bad items, runs that fail, what it allocates.
 * The worker loop is not here: its calls that the kind makes are this file's own. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/machine.h"
#include "test.h"
#include "device_stubs.h"
#include "worker/device_plan.h"
#include "worker/kinds.h"

#include <dlfcn.h>
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- allocations of our own code: the linker sends every call of this program's objects here ------------------- */

static _Atomic int allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size)
{
    allocations++;
    return __real_malloc(size);
}
void *__wrap_calloc(size_t count, size_t size)
{
    allocations++;
    return __real_calloc(count, size);
}
void *__wrap_realloc(void *old, size_t size)
{
    allocations++;
    return __real_realloc(old, size);
}
void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    allocations++;
    return __real_aligned_alloc(alignment, size);
}

/* --- a worker over the steered engine -------------------------------------------------------------------------- */

static int *runs, *run_threads;
static int wide_threads = 1;


static sp_status open_device(const char *plan)
{
    make_repository("plain", 1);
    CHECK_INT(setenv("SPILLWAY_PLUGINS", getenv("SPILLWAY_FAKE_ENGINE"), 1), 0);
    sp_error err = { 0 };
    const sp_worker_config config = { .name = "cpu0", .kind = "cpu", .model_repository = repository, .plan = plan };
    card = (sp_worker_card){ 0 };
    sp_status s = sp_worker_kind_device.open(&config, &card, &device, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s", err.message);
    return s;
}

/* Opens it with batches of `batch` under load on `lanes` lanes: the measured plan with other numbers. */
static void open_with(int lanes, int batch)
{
    if (!getenv("SPILLWAY_FAKE_ENGINE"))
        SKIP("SPILLWAY_FAKE_ENGINE (the steered engine's directory) is set by meson test only");
    sp_device_plan plan;
    REQUIRE(open_device("") == SP_OK);
    char digest[65], text[SP_DEVICE_PLAN_BYTES];
    memcpy(digest, card.digest, sizeof(digest));
    sp_machine machine;
    sp_machine_read(&machine);
    REQUIRE(sp_device_plan_read(card.plan, digest, "fake-1.0-cpu", machine.cpu_count, &plan));
    plan.lanes = lanes;
    plan.batch = batch;
    plan.wide_threads = lanes ? wide_threads : SP_MAX(plan.cpus, 1);
    plan.alone_p50_ns = plan.alone_p99_ns = 1000 * SP_NS_PER_MS;
    plan.one_p50_ns = 2000 * SP_NS_PER_MS;
    sp_device_plan_write(&plan, digest, "fake-1.0-cpu", text, sizeof(text));
    sp_worker_kind_device.close(device);
    REQUIRE(open_device(text) == SP_OK);
    CHECK_TEXT(card.plan, text);
    CHECK_INT(card.max_batch, batch);
    CHECK_INT(card.executors, lanes ? lanes : 1);
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/libspillway_engine_onnxruntime.so", getenv("SPILLWAY_FAKE_ENGINE"));
    void *plugin = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    REQUIRE(plugin != NULL);
    runs = dlsym(plugin, "fake_engine_runs");
    run_threads = dlsym(plugin, "fake_engine_threads");
    run_count = dlsym(plugin, "fake_engine_run_count");
    REQUIRE(runs && run_threads && run_count);
    least_budget_ns = 0;
}

static int choose(int waiting, int busy)
{
    int64_t wait_ns = 0;
    return sp_worker_kind_device.choose(device, waiting, busy, &wait_ns);
}

TEST(a_full_batch_is_one_run_and_each_item_gets_its_own_answer)
{
    open_with(0, 8);
    make_items(NULL);
    CHECK_INT(choose(20, 0), 8);
    sp_worker_kind_device.run(device, 0, items, 8);
    for (int i = 0; i < 8; i++) {
        check_right(i);
        CHECK_INT(items[i].done.batch_size, 8);
    }
    CHECK_INT(*run_count, 1);
    CHECK(least_budget_ns >= SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
    sp_worker_kind_device.close(device);
}

TEST(only_what_fails_alone_fails)
{
    open_with(0, 8);
    make_items((const int[]){ 0, 0, 0, 1, 0, 0, 1, 0 });
    sp_worker_kind_device.run(device, 0, items, 8);
    for (int i = 0; i < 8; i++) {
        if (i == 3 || i == 6) {
            CHECK_INT(items[i].status, SP_INTERNAL);
            CHECK_TEXT(items[i].error.message, "this item breaks its run");
        } else {
            check_right(i);
        }
    }
    CHECK_INT(choose(20, 0), 8); /* a bad item is no reason for smaller batches */
    sp_worker_kind_device.close(device);
}

TEST(no_memory_halves_the_batch_and_is_remembered)
{
    open_with(0, 8);
    make_items((const int[]){ 2, 2, 2, 2, 2, 2, 2, 2 });
    sp_worker_kind_device.run(device, 0, items, 8);
    for (int i = 0; i < 8; i++)
        check_right(i);
    CHECK_INT(choose(20, 0), 2);
    sp_worker_kind_device.close(device);
}

TEST(bad_items_drop_out_before_the_batch_forms)
{
    open_with(0, 8);
    make_items(NULL);
    cancelled[0] = true;
    submissions[1].op = SP_OP_DECODE;
    submissions[2].output_kind = SP_OUTPUT_NONE;
    items[3].input.size_bytes -= 4;
    requests[4].prep.crop_w++;
    submissions[5] =
        (sp_submission){ .op = SP_OP_CLASSIFY, .output_kind = SP_OUTPUT_RGB8, .image_w = 1 << 30, .image_h = 4 };
    sp_worker_kind_device.run(device, 0, items, 8);
    CHECK_INT(items[0].status, SP_CANCELLED);
    for (int i = 1; i < 6; i++)
        CHECK_INT(items[i].status, SP_UNSUPPORTED); /* another link may */
    check_right(6);
    check_right(7);
    CHECK_INT(*run_count, 1);
    CHECK_INT(runs[0], 2);
    sp_worker_kind_device.close(device);
}

TEST(an_answer_that_is_not_finite_is_corrupt_and_its_neighbours_are_not)
{
    open_with(0, 8);
    make_items((const int[]){ 0, 3, 0, 0, 0, 0, 0, 0 });
    sp_worker_kind_device.run(device, 0, items, 4);
    CHECK_INT(items[1].status, SP_CORRUPT);
    CHECK_TEXT(items[1].error.code, "not_finite");
    check_right(0);
    check_right(2);
    check_right(3);
    sp_worker_kind_device.close(device);
}

TEST(past_the_earliest_deadline_nothing_more_is_tried)
{
    open_with(0, 8);
    make_items((const int[]){ 0, 0, 1, 0, 0, 0, 0, 0 });
    submissions[5].attempt_deadline_ns =
        1; /* long ago; the loop would not have started it, a slow run ends like this */
    sp_worker_kind_device.run(device, 0, items, 8);
    CHECK_INT(*run_count, 1);
    for (int i = 0; i < 8; i++)
        CHECK_INT(items[i].status, SP_INTERNAL);
    sp_worker_kind_device.close(device);
}

TEST(a_lost_device_is_not_asked_again)
{
    open_with(0, 8);
    make_items((const int[]){ 5, 0, 0, 0, 0, 0, 0, 0 });
    sp_worker_kind_device.run(device, 0, items, 8);
    CHECK_INT(*run_count, 1);
    CHECK_INT(items[7].status, SP_UNAVAILABLE);
    CHECK_TEXT(items[7].error.code, "sticky");
    CHECK_TEXT(ended.code, "sticky"); /* only a new process helps */
    sp_worker_kind_device.close(device);
}

TEST(pixels_are_prepared_here)
{
    open_with(1, 1);
    make_items(NULL);
    uint8_t pixels[8 * 8 * 3] = { 0 };
    pixels[2 * 3] = 5; /* R of the third pixel: input value 2 of plane R */
    submissions[0] = (sp_submission){ .op = SP_OP_CLASSIFY, .output_kind = SP_OUTPUT_RGB8, .image_w = 8, .image_h = 8 };
    items[0].input = sp_view_make(pixels, sizeof(pixels));
    sp_worker_kind_device.run(device, 0, items, 1);
    const sp_answer_classes *answer = (const sp_answer_classes *)(const void *)answers[0];
    CHECK_INT(items[0].status, SP_OK);
    CHECK_INT(answer->classes[0].class_id, 2);
    sp_worker_kind_device.close(device);
}

TEST(flushed_denormals_do_not_outlive_a_run)
{
    open_with(1, 1);
    make_items((const int[]){ 4, 0, 0, 0, 0, 0, 0, 0 });
    sp_worker_kind_device.run(device, 0, items, 1);
    check_right(0);
    CHECK_INT(_mm_getcsr() & 0x8040u, 0);
    sp_worker_kind_device.close(device);
}

TEST(steady_state_allocates_nothing)
{
    open_with(0, 8);
    uint8_t pixels[40 * 30 * 3] = { 7 };
    for (int turn = 0; turn < 3; turn++) {
        make_items(NULL);
        for (int i = 4; i < 8; i++) {
            submissions[i] =
                (sp_submission){ .op = SP_OP_CLASSIFY, .output_kind = SP_OUTPUT_RGB8, .image_w = 40, .image_h = 30 };
            items[i].input = sp_view_make(pixels, sizeof(pixels));
        }
        if (turn == 1) {
            CHECK(allocations > 0); /* opening did, so the counter counts */
            allocations = 0;        /* and the first turn sized the scratch */
        }
        (void)choose(8, 0);
        sp_worker_kind_device.run(device, 0, items, 8);
        (void)choose(1, 0);
        sp_worker_kind_device.run(device, 0, items, 1);
        CHECK_INT(items[7].status, SP_OK);
    }
    CHECK_INT(allocations, 0);
    sp_worker_kind_device.close(device);
}

#ifdef SP_FAULTS
TEST(the_engines_fault_points_fail_a_load_and_a_run)
{
    open_with(0, 8);
    sp_error err = { 0 };
    REQUIRE(sp_fault_arm("engine.run:fail@n=1", &err) == SP_OK);
    make_items(NULL);
    sp_worker_kind_device.run(device, 0, items, 8);
    for (int i = 0; i < 8; i++) {
        check_right(i); /* the whole batch failed once, its halves did not */
        CHECK_INT(items[i].done.batch_size, 4);
    }
    REQUIRE(sp_fault_arm("engine.run:nomem@n=1", &err) == SP_OK);
    sp_worker_kind_device.run(device, 0, items, 8);
    check_right(7);
    CHECK_INT(choose(20, 0), 4);
    REQUIRE(sp_fault_arm("engine.run:fail", &err) == SP_OK);
    sp_worker_kind_device.run(device, 0, items, 2);
    CHECK_INT(items[0].status, SP_INTERNAL);
    CHECK(strstr(items[0].error.message, "engine.run") != NULL);
    sp_worker_kind_device.close(device);
    REQUIRE(sp_fault_arm("engine.load:nomem", &err) == SP_OK);
    const sp_worker_config config = { .name = "cpu0", .kind = "cpu", .model_repository = repository };
    CHECK_INT(sp_worker_kind_device.open(&config, &card, &device, &err), SP_NOMEM);
    REQUIRE(sp_fault_arm("", &err) == SP_OK);
}
#endif

/* A request that is alone gets all threads, those of a crowd one each; a burst's end is no solitude. */
TEST(alone_is_wide_and_a_crowd_is_narrow)
{
    wide_threads = 3;
    open_with(2, 1);
    wide_threads = 1;
    make_items(NULL);
    for (int i = 0; i < 64; i++) {
        CHECK_INT(choose(1, 0), 1);
        sp_worker_kind_device.run(device, 0, items, 1);
        check_right(0);
        CHECK_INT(run_threads[i], i % 32 == 31 ? 1 : 3); /* the other way is tried now and then */
    }
    *run_count = 0;
    for (int i = 0; i < 8; i++) {
        CHECK_INT(choose(8 - i, 1), 1);
        sp_worker_kind_device.run(device, 1, items, 1);
        CHECK_INT(run_threads[i], 1);
    }
    CHECK_INT(choose(1, 0), 1);
    sp_worker_kind_device.run(device, 0, items, 1);
    CHECK_INT(run_threads[8], 1);
    sp_worker_kind_device.close(device);
}

static pthread_mutex_t lead = PTHREAD_MUTEX_INITIALIZER; /* as the loop's: choose() is called under it */
static int busy;

static void *executor_main(void *argument)
{
    int executor = *(int *)argument;
    for (int turn = 0; turn < 200; turn++) {
        (void)pthread_mutex_lock(&lead);
        (void)choose(1 + turn % 2, busy++);
        (void)pthread_mutex_unlock(&lead);
        sp_worker_kind_device.run(device, executor, &items[executor], 1);
        (void)pthread_mutex_lock(&lead);
        busy--;
        (void)pthread_mutex_unlock(&lead);
        if (items[executor].status)
            break;
    }
    return NULL;
}

TEST(executors_run_at_once)
{
    wide_threads = 3;
    open_with(3, 1);
    wide_threads = 1;
    make_items(NULL);
    pthread_t threads[3];
    int numbers[3] = { 0, 1, 2 };
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&threads[i], NULL, executor_main, &numbers[i]) == 0);
    for (int i = 0; i < 3; i++)
        (void)pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++)
        check_right(i);
    sp_worker_kind_device.close(device);
}

TEST(a_device_that_is_not_here_is_refused_by_name)
{
    open_with(1, 1);
    sp_worker_kind_device.close(device);
    sp_error err = { 0 };
    const sp_worker_config config = { .name = "cuda0", .kind = "cuda", .model_repository = repository };
    CHECK_INT(sp_worker_kind_device.open(&config, &card, &device, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "no_device");
}

TEST(a_plan_survives_its_text_and_no_other_machine_takes_it)
{
    const sp_device_plan plan = { .cpus = 4,
                                  .wide_threads = 4,
                                  .wide_spin = 1,
                                  .lanes = 2,
                                  .batch = 8,
                                  .alone_p50_ns = 5,
                                  .alone_p99_ns = 6,
                                  .one_p50_ns = 3,
                                  .loaded_item_ns = 7,
                                  .loaded_run_ns = 8,
                                  .measured_ns = 9 };
    const char *digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    char text[SP_DEVICE_PLAN_BYTES];
    sp_device_plan read = { 0 };
    sp_device_plan_write(&plan, digest, "onnxruntime-1.31.1-cpu", text, sizeof(text));
    REQUIRE(sp_device_plan_read(text, digest, "onnxruntime-1.31.1-cpu", 4, &read));
    char again[SP_DEVICE_PLAN_BYTES];
    sp_device_plan_write(&read, digest, "onnxruntime-1.31.1-cpu", again, sizeof(again));
    CHECK_TEXT(again, text);
    CHECK_INT(read.lanes, 2);
    CHECK_INT(read.loaded_run_ns, 8);
    CHECK(!sp_device_plan_read(text, digest, "onnxruntime-1.31.1-cpu", 2, &read));
    CHECK(!sp_device_plan_read(text, digest, "onnxruntime-1.32.0-cpu", 4, &read));
    CHECK(!sp_device_plan_read(text, digest + 1, "onnxruntime-1.31.1-cpu", 4, &read));
    CHECK(!sp_device_plan_read("", digest, "onnxruntime-1.31.1-cpu", 4, &read));
    CHECK(!sp_device_plan_read(NULL, digest, "onnxruntime-1.31.1-cpu", 4, &read));
    for (size_t cut = 0; cut < strlen(text); cut++) { /* a line that was cut is none */
        char part[SP_DEVICE_PLAN_BYTES];
        memcpy(part, text, cut);
        part[cut] = 0;
        CHECK(!sp_device_plan_read(part, digest, "onnxruntime-1.31.1-cpu", 4, &read));
    }
    text[0] = '1';
    CHECK(!sp_device_plan_read(text, digest, "onnxruntime-1.31.1-cpu", 4, &read));
}
