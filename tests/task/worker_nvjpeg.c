/* SPDX-License-Identifier: Apache-2.0
 * The device worker's kind "cuda" that is given JPEG files, on the stand-ins for a GPU (tests/shim) and for nvJPEG
 * (tests/media/gpu), over the steered engine: answers are to the bit those of a CPU worker that is given what that library decodes, in
 * whatever order streams run; a file that is not taken costs nobody else of its batch anything. */
#include "base/machine.h"
#include "device_stubs.h"
#include "kernels/cuda.h"
#include "media/image.h"
#include "shim.h"
#include "worker/device_plan.h"

#define BRIGHTER 6 /* as the stand-in's */
#define SIDE 48

static const sp_shim_control *shim;
static uint8_t *files[ITEMS];
static uint8_t pixels[ITEMS][SIDE * SIDE * 3]; /* as the library decodes the file */
static size_t file_bytes[ITEMS];
static sp_submission as_pixels[ITEMS], as_file[ITEMS];
static uint8_t right[ITEMS][SP_LIMIT_ANSWER_BYTES];

static sp_status open_kind(const char *kind, const char *plan, bool nvjpeg, void **ret_device)
{
    const sp_worker_config config = { .name = "x0", .kind = kind, .model_repository = repository, .plan = plan, .nvjpeg = nvjpeg };
    card = (sp_worker_card){ 0 };
    ended = (sp_error){ 0 };
    return sp_worker_kind_device.open(&config, &card, ret_device, NULL);
}

static void open_cuda(bool nvjpeg)
{
    char text[SP_DEVICE_PLAN_BYTES];
    sp_machine machine;
    sp_model *model = NULL;
    sp_machine_read(&machine);
    REQUIRE(sp_model_find(repository, NULL, &model, NULL) == SP_OK);
    const sp_device_plan plan = { .cpus = machine.cpu_count, .wide_threads = 1, .lanes = SP_DEVICE_LANES, .batch = ITEMS,
                                  .alone_p50_ns = 1000, .alone_p99_ns = 1000, .loaded_item_ns = 1000, .loaded_run_ns = 1000 };
    sp_device_plan_write(&plan, model->digest, "+fake-1.0-cuda", text, sizeof(text));
    sp_model_free(model);
    REQUIRE(open_kind("cuda", text, nvjpeg, &device) == SP_OK);
}

static void make_file(int i)
{
    uint8_t rgb[SIDE * SIDE * 3];
    int w = test_random_between(8, SIDE), h = test_random_between(8, SIDE);
    sp_image_info info;
    for (size_t k = 0; k < sizeof(rgb); k++) /* none of the steered engine's tricks, whatever becomes of it */
        rgb[k] = (uint8_t)(60 + test_random_between(0, 40) + i * 10);
    free(files[i]);
    REQUIRE(sp_image_encode_jpeg(rgb, w, h, 95, &files[i], &file_bytes[i], NULL) == SP_OK);
    sp_view file = sp_view_make(files[i], file_bytes[i]);
    const sp_image_options options = { 0 };
    REQUIRE(sp_image_probe(file, &options, &info, NULL) == SP_OK);
    REQUIRE(sp_image_decode(file, &options, &info, pixels[i], sizeof(pixels[i]), NULL) == SP_OK);
    for (size_t k = 0; k < info.rgb_bytes; k++)
        pixels[i][k] = (uint8_t)SP_MIN(pixels[i][k] + BRIGHTER, 255);
    as_pixels[i] = (sp_submission){ .op = SP_OP_CLASSIFY, .output_kind = SP_OUTPUT_RGB8, .image_w = w, .image_h = h };
    as_file[i] = (sp_submission){ .op = SP_OP_CLASSIFY };
}

/* Each third is pixels for the device as well, the rest files. `right` is the CPU's, from pixels. */
static void make_all(void)
{
    void *cpu = NULL;
    sp_worker_card kept = card;
    make_items(NULL);
    REQUIRE(open_kind("cpu", "", false, &cpu) == SP_OK);
    for (int i = 0; i < ITEMS; i++) {
        make_file(i);
        requests[i].flags = SP_SLOT_DECODE_NVJPEG;
        items[i].submission = &as_pixels[i];
        items[i].input = sp_view_make(pixels[i], sizeof(pixels[i]));
        sp_worker_kind_device.run(cpu, 0, &items[i], 1);
        REQUIRE(items[i].status == SP_OK);
        memcpy(right[i], answers[i], items[i].done.answer_bytes);
        if (i % 3 == 2)
            continue;
        items[i].submission = &as_file[i];
        items[i].input = (sp_view){ 0 };
        items[i].body = sp_view_make(files[i], file_bytes[i]);
    }
    sp_worker_kind_device.close(cpu);
    card = kept;
}

static int run_all(void)
{
    int good = 0;
    for (int i = 0; i < ITEMS; i++) {
        items[i].status = SP_OK;
        memset(answers[i], 0, sizeof(sp_answer_class) * 4);
    }
    sp_worker_kind_device.run(device, 0, items, ITEMS);
    for (int i = 0; i < ITEMS; i++) {
        good += items[i].status == SP_OK;
        if (items[i].status == SP_OK)
            CHECK_BYTES(answers[i], right[i], items[i].done.answer_bytes);
        else
            CHECK(items[i].error.message[0] != 0);
    }
    return good;
}

/* The stand-ins, a device, and a lane that has seen a batch of the largest pictures. */
static void begin(void)
{
    const sp_cuda_api *api;
    (void)check_right; /* is of the other tests that include it */
    const char *why_not = getenv("SPILLWAY_SHIM_WHY_NOT");
    if (!getenv("SPILLWAY_FAKE_ENGINE"))
        SKIP("SPILLWAY_FAKE_ENGINE (the steered engine's directory) is set by meson test only");
    if (why_not && *why_not)
        SKIP("no stand-in for a GPU: %s", why_not);
    make_repository("plain", 1);
    CHECK_INT(setenv("SPILLWAY_PLUGINS", getenv("SPILLWAY_FAKE_ENGINE"), 1), 0);
    REQUIRE(sp_cuda_load(&api, NULL) == SP_OK);
    shim = sp_shim();
    REQUIRE(shim != NULL);
    shim->reset();
    open_cuda(true);
    CHECK_TEXT(card.nvjpeg, "nvJPEG 13.0.0 (libnvjpeg.so.13)");
    CHECK_INT(card.takes_jpeg, 1);
    make_all();
}

static void close_all(void)
{
    sp_worker_kind_device.close(device);
    for (int i = 0; i < ITEMS; i++) {
        free(files[i]);
        files[i] = NULL;
    }
}

TEST(files_and_pixels_of_one_batch_are_answered_in_whatever_order_streams_run)
{
    begin();
    (void)run_all(); /* the lane learns how much room it needs: below */
    for (uint64_t seed = 1; seed <= 12; seed++) {
        shim->streams(seed);
        CHECK_INT(run_all(), ITEMS);
        CHECK(items[0].done.decode_ns > 0 && items[0].done.preprocess_ns >= 0);
        make_all();
        if (run_all() < ITEMS)
            CHECK_INT(run_all(), ITEMS); /* larger than all before */
    }
    close_all();
}

TEST(for_which_there_is_no_room_yet_is_the_ordinary_ways)
{
    begin();
    int good = run_all();
    CHECK(good < ITEMS); /* a lane begins as wide as its tensors */
    for (int i = 0; i < ITEMS; i++)
        if (items[i].status)
            CHECK(items[i].status == SP_UNSUPPORTED && strcmp(items[i].error.code, "no_room") == 0 && i % 3 != 2);
    CHECK_INT(run_all(), ITEMS);
    close_all();
}

TEST(what_is_not_taken_costs_the_others_nothing)
{
    begin();
    (void)run_all();
    static const char *const orders[] = { "nvjpegDecode:every:6", "nvjpegDecode:every:5", "nvjpegGetImageInfo:every:3" };
    static const char *const codes[] = { "failed", "memory", "refused" };
    for (size_t n = 0; n < SP_ARRAY_LEN(orders); n++) {
        CHECK_INT(setenv("SPILLWAY_STANDIN_NVJPEG", orders[n], 1), 0);
        CHECK_INT(run_all(), ITEMS / 3);
        for (int i = 0; i < ITEMS; i++)
            if (items[i].status)
                CHECK(items[i].status == SP_UNSUPPORTED && strcmp(items[i].error.code, codes[n]) == 0);
        CHECK_INT(unsetenv("SPILLWAY_STANDIN_NVJPEG"), 0);
        CHECK_INT(run_all(), ITEMS);
    }
    files[0][1] = 0xd9; /* no JPEG, first in its batch */
    items[3].body.size_bytes -= 40;
    requests[4].flags = 0; /* nobody asked for it */
    CHECK_INT(run_all(), ITEMS - 3);
    CHECK_TEXT(items[0].error.code, "not_jpeg");
    CHECK_TEXT(items[3].error.code, "damaged");
    CHECK_INT(items[4].status, SP_UNSUPPORTED);
    close_all();
}

TEST(a_device_that_fails_while_it_decodes_is_no_more)
{
    begin();
    (void)run_all();
    shim->fail("run:engine", 1, 700, 1); /* the library's own work on the stream */
    (void)run_all();
    for (int i = 0; i < ITEMS; i++)
        CHECK(items[i].status == SP_OK || items[i].status == SP_UNAVAILABLE);
    CHECK_TEXT(ended.code, "sticky");
    sp_worker_kind_device.close(device);
    shim->reset();
    open_cuda(true);
    (void)run_all();
    CHECK_INT(run_all(), ITEMS);
    close_all();
}

TEST(in_steady_state_nothing_of_ours_is_allocated)
{
    sp_shim_counters before, after;
    begin();
    (void)run_all();
    CHECK_INT(run_all(), ITEMS);
    shim->counters(&before);
    for (int turn = 0; turn < 10; turn++)
        CHECK_INT(run_all(), ITEMS);
    shim->counters(&after);
    CHECK_INT(after.allocations, before.allocations);
    CHECK_INT(after.host_allocations, before.host_allocations);
    CHECK_INT(after.device_syncs, before.device_syncs);
    close_all();
}

TEST(who_is_not_told_to_use_it_does_not)
{
    begin();
    sp_worker_kind_device.close(device);
    open_cuda(false);
    CHECK(!card.nvjpeg[0] && !card.takes_jpeg);
    CHECK_INT(run_all(), ITEMS / 3);
    CHECK_TEXT(items[0].error.code, "off");
    sp_worker_kind_device.close(device);
    CHECK_INT(setenv("SPILLWAY_STANDIN_NVJPEG", "nvjpegCreateSimple:every:7", 1), 0);
    open_cuda(true);
    CHECK_TEXT(card.nvjpeg, "off: nvJPEG: no decoder: code 7");
    CHECK_INT(card.takes_jpeg, 0);
    CHECK_INT(unsetenv("SPILLWAY_STANDIN_NVJPEG"), 0);
    close_all();
}
