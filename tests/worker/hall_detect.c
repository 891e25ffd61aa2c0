/* SPDX-License-Identifier: Apache-2.0
 * DETECT of a device worker's hall on the stand-in for a GPU (tests/shim), over the steered engine: boxes are those of a hall
 * without a device to the bit, and what the device cannot do (a call that fails, no memory, outputs whose sizes are open, other
 * requests in the batch) is done on the host: every request ends once, with the same boxes. */
#include "hall_harness.h"

#include "base/attr.h"
#include "kernels/cuda.h"
#include "shim.h"

#define PICTURES 8
#define SIDE 40
#define PICTURE_BYTES ((size_t)SIDE * SIDE * 3)
#define DETECTOR 5

static const sp_cuda_api *api;
static const sp_shim_control *shim;
static sp_cuda *cuda;
static _Atomic int *device_runs; /* of the steered engine */
static uint8_t *pixels;          /* of all pictures, page-aligned, as slots' outputs are */
static char repository[64];

typedef struct wish {
    int w, h;
    float threshold, iou;
    uint32_t top_k;
} wish;

static wish wishes[PICTURES];
static sp_answer_boxes right[PICTURES]; /* without a device */
static sp_status right_status[PICTURES];

/* --- a hall ---------------------------------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    REQUIRE(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* One detector `d`, whose model file says its shape to the steered engine. */
static sp_load_spec *detector_spec(const char *shape, int boxes, int classes, int max_batch)
{
    char path[128];
    sp_load_spec *spec = picture_spec(DETECTOR);
    if (!*repository) {
        (void)snprintf(repository, sizeof(repository), "/tmp/spillway-boxes-XXXXXX");
        REQUIRE(mkdtemp(repository) != NULL);
        (void)snprintf(path, sizeof(path), "%s/d", repository);
        REQUIRE(mkdir(path, 0755) == 0);
        (void)snprintf(path, sizeof(path), "%s/d/spillway.json", repository);
        write_file(path, "{\"task\":\"detect\",\"detect\":{\"head\":\"yolov8\",\"threshold\":0.3},\"preprocess\":{\"filter\":\"plain\","
                         "\"fit\":\"stretch\",\"resize\":[8,8],\"crop\":[8,8],\"divisor\":1,\"mean\":[0,0,0],\"std\":[1,1,1]}}");
    }
    (void)snprintf(spec->directory, sizeof(spec->directory), "%s/d", repository);
    (void)snprintf(spec->path, sizeof(spec->path), "%s/d/model.onnx", repository);
    write_file(spec->path, shape);
    spec->config.max_batch_size = max_batch;
    add_port(&spec->config.outputs[0], "y", SP_ENGINE_F32, 2, (const int64_t[]){ 4 + classes, boxes });
    return spec;
}

static void find_device_runs(void)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/libspillway_engine_onnxruntime.so", getenv("SPILLWAY_FAKE_ENGINE"));
    void *plugin = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    REQUIRE(plugin != NULL);
    device_runs = dlsym(plugin, "fake_engine_device_runs");
    REQUIRE(device_runs != NULL);
    *device_runs = 0;
}

/* A hall of a worker "cuda0", or of a "cpu0"; its detector is loaded. */
static sp_status open_detector_of(bool on_device, sp_load_spec *spec)
{
    sp_error err = { 0 };
    open_hall(); /* the answers' places; then the hall that is asked for */
    sp_hall_free(hall);
    sp_hall_settings settings = { .worker = on_device ? "cuda0" : "cpu0", .kind = on_device ? "cuda" : "cpu",
                                  .provider = on_device ? "cuda" : "cpu", .cpus = 2, .places = 4, .memory_bytes = 1 << 30,
                                  .counters = &page.counters, .cuda_api = on_device ? api : NULL, .cuda = on_device ? cuda : NULL };
    REQUIRE(sp_hall_new(&settings, &hall, &err) == SP_OK);
    sp_status s = load(SLOTS - 1, spec);
    find_device_runs();
    return s;
}

static void begin(void)
{
    const char *why_not = getenv("SPILLWAY_SHIM_WHY_NOT");
    if (!getenv("SPILLWAY_FAKE_ENGINE"))
        SKIP("SPILLWAY_FAKE_ENGINE (the steered engine's directory) is set by meson test only");
    if (why_not && *why_not)
        SKIP("no stand-in for a GPU: %s", why_not);
    REQUIRE(sp_cuda_load(&api, NULL) == SP_OK);
    shim = sp_shim();
    REQUIRE(shim != NULL);
    shim->reset();
    shim->foreign(false);
    REQUIRE(api->open(0, 0, &cuda, NULL) == SP_OK);
    if (!pixels)
        pixels = mmap(NULL, PICTURES * SP_ALIGN_UP(PICTURE_BYTES, 4096), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(pixels != MAP_FAILED);
}

/* Nothing of it is left on the device, however it went. */
static void end(void)
{
    sp_shim_counters counters;
    shim->counters(&counters);
    CHECK_INT(counters.streams, 1); /* the device's own */
    sp_cuda_memory memory;
    api->memory(cuda, &memory);
    CHECK_INT(memory.device_bytes, 0);
    CHECK_INT(memory.host_bytes, 0);
    api->close(cuda);
    cuda = NULL;
}

/* --- pictures -------------------------------------------------------------------------------------------------------- */

static uint8_t *pixels_of(int i)
{
    return pixels + (size_t)i * SP_ALIGN_UP(PICTURE_BYTES, 4096);
}

/* Sizes, wishes and pixels that are none of the steered engine's tricks (from 10 on). */
static void make_wishes(void)
{
    static const float thresholds[] = { -1, 0.2f, 0.6f }, ious[] = { -1, 0.7f };
    for (int i = 0; i < PICTURES; i++) {
        wishes[i] = (wish){ .w = test_random_between(1, SIDE), .h = test_random_between(1, SIDE),
                            .threshold = thresholds[test_random_between(0, 2)], .iou = ious[test_random_between(0, 1)],
                            .top_k = (uint32_t)test_random_between(0, 20) };
        for (size_t k = 0; k < PICTURE_BYTES; k++)
            pixels_of(i)[k] = (uint8_t)test_random_between(10, 255);
    }
}

/* An 8 x 8 picture is the tensor: its fifth red pixel is a trick. */
static void trick(int i, int number)
{
    wishes[i].w = wishes[i].h = 8;
    pixels_of(i)[4 * 3] = (uint8_t)number;
}

static sp_work_item *ask_boxes(int i, bool pinned)
{
    place *at = &places[i];
    at->head = (sp_infer_head){ .model = DETECTOR };
    at->request = (sp_slot_request){ .threshold = wishes[i].threshold, .iou = wishes[i].iou, .top_k = wishes[i].top_k };
    at->submission = (sp_submission){ .op = SP_OP_DETECT, .slot = (uint32_t)i, .output_kind = SP_OUTPUT_RGB8,
                                      .image_w = wishes[i].w, .image_h = wishes[i].h };
    at->finished = false;
    at->item = (sp_work_item){ .request = &at->request, .submission = &at->submission,
                               .answer = answers + (size_t)i * SP_ANSWER_STRIDE,
                               .input = sp_view_make(pixels_of(i), PICTURE_BYTES), .input_pinned = pinned };
    memset(at->item.answer, 0, sizeof(sp_answer_boxes));
    sp_hall_add(hall, &at->item, sp_clock_now_ns());
    return &at->item;
}

static void ask_all(int count, bool pinned)
{
    for (int i = 0; i < count; i++)
        (void)ask_boxes(i, pinned && i % 2 == 0);
    turn_all();
    for (int i = 0; i < count; i++)
        CHECK(places[i].finished);
}

/* What a CPU worker says; at least one of the pictures has some box. */
static void ask_the_cpu(sp_load_spec *spec, int count)
{
    uint32_t boxes = 0;
    sp_cuda *kept = cuda;
    REQUIRE(open_detector_of(false, spec) == SP_OK);
    ask_all(count, false);
    for (int i = 0; i < count; i++) {
        right_status[i] = places[i].item.status;
        memcpy(&right[i], places[i].item.answer, sizeof(right[i]));
        boxes += right[i].count;
    }
    if (right_status[0] == SP_OK && boxes < (uint32_t)count)
        test_fail(__FILE__, __LINE__, "%u boxes in all, so hardly anything is compared", boxes);
    CHECK_INT(*device_runs, 0);
    close_hall();
    cuda = kept;
}

static bool same(int i)
{
    const sp_answer_boxes *told = (const sp_answer_boxes *)(const void *)places[i].item.answer;
    if (places[i].item.status != right_status[i])
        return false;
    return right_status[i] || (told->count == right[i].count &&
                               memcmp(told->boxes, right[i].boxes, told->count * sizeof(told->boxes[0])) == 0);
}

static void check_all(int count, const char *after)
{
    for (int i = 0; i < count; i++)
        if (!same(i))
            test_fail(__FILE__, __LINE__, "%s: picture %d: %s, or other boxes than on the host", after, i,
                      places[i].item.status ? places[i].item.error.message : "answered");
}

/* --- tests ----------------------------------------------------------------------------------------------------------- */

static sp_load_spec *usual(void)
{
    return detector_spec("detector 90 3", 90, 3, PICTURES);
}

TEST(boxes_of_a_batch_are_the_cpu_workers)
{
    begin();
    sp_error err = { 0 };
    sp_status registered = api->host_register(cuda, pixels, PICTURES * SP_ALIGN_UP(PICTURE_BYTES, 4096), &err);
    REQUIRE(registered == SP_OK);
    for (int turn_index = 0; turn_index < 4; turn_index++) {
        shim->order((sp_shim_order)(turn_index % 3), turn_index % 2 ? SP_SHIM_REVERSE : SP_SHIM_FORWARD, test_seed());
        make_wishes();
        ask_the_cpu(usual(), PICTURES);
        REQUIRE(open_detector_of(true, usual()) == SP_OK);
        for (int count = 1; count <= PICTURES; count += turn_index + 1) {
            *device_runs = 0;
            ask_all(count, turn_index % 2);
            check_all(count, "in a batch");
            CHECK_INT(*device_runs, 1);
        }
        close_hall();
    }
    api->host_unregister(cuda, pixels);
    end();
}

TEST(a_picture_whose_scores_are_no_numbers_fails_alone_on_both)
{
    begin();
    make_wishes();
    trick(2, 3);
    ask_the_cpu(usual(), PICTURES);
    CHECK_INT(right_status[2], SP_CORRUPT);
    REQUIRE(open_detector_of(true, usual()) == SP_OK);
    ask_all(PICTURES, false);
    check_all(PICTURES, "one of no numbers");
    CHECK_TEXT(places[2].item.error.code, "not_finite");
    CHECK_INT(*device_runs, 1);
    close_hall();
    end();
}

/* What a batch calls, and CUDA's answer; `first`: only the first batch of a detector does, which reserves what it needs. */
static const struct {
    const char *name;
    int error;
    bool first;
} failures[] = {
    { "cudaSetDevice", 1, false },    { "cudaMemcpyAsync", 1, false },       { "cudaLaunchKernel", 98, false },
    { "cudaLaunchKernel", 701, false } /* too many resources */,             { "cudaStreamSynchronize", 1, false },
    { "cudaSetDevice", 1, true },     { "cudaMallocFromPoolAsync", 2, true }, { "cudaHostAlloc", 2, true },
    { "cudaFreeAsync", 1, true },     { "cudaStreamSynchronize", 1, true },
};

TEST(each_call_of_a_batch_fails_once_and_no_request_is_lost)
{
    const int count = 2; /* the stand-in sorts 5 ms a picture */
    int failed = 0, on_host = 0;
    begin();
    make_wishes();
    ask_the_cpu(usual(), PICTURES);
    REQUIRE(open_detector_of(true, usual()) == SP_OK);
    for (size_t f = 0; f < SP_ARRAY_LEN(failures); f++) {
        for (uint64_t nth = 1;; nth += 1 + nth / 8) { /* the first ones all, then fewer: before each call there is a cudaSetDevice */
            REQUIRE(nth < 200);
            if (failures[f].first) {
                close_hall();
                REQUIRE(open_detector_of(true, usual()) == SP_OK);
            }
            *device_runs = 0;
            uint64_t before = shim->failed();
            shim->fail(failures[f].name, nth, failures[f].error, 1);
            ask_all(count, false);
            bool did = shim->failed() > before;
            shim->reset();
            check_all(count, failures[f].name);
            on_host += *device_runs == 0 || did;
            *device_runs = 0;
            ask_all(1, false); /* and the device goes on */
            check_all(1, "behind a failure");
            CHECK_INT(*device_runs, 1);
            if (!did)
                break;
            failed++;
        }
    }
    CHECK(failed > 30 && on_host >= failed);
    CHECK_INT(ended.status, SP_OK);
    close_hall();
    end();
}

TEST(each_call_of_a_load_fails_once_and_the_host_finds_the_boxes)
{
    int failed = 0, without = 0;
    begin();
    make_wishes();
    ask_the_cpu(usual(), PICTURES);
    static const char *const names[] = { "cudaStreamCreateWithFlags", "cudaMallocFromPoolAsync", "cudaHostAlloc", "cudaMemsetAsync",
                                         "cudaEventCreateWithFlags", "cudaStreamSynchronize", "cudaSetDevice" };
    for (size_t f = 0; f < SP_ARRAY_LEN(names); f++) {
        for (uint64_t nth = 1;; nth++) {
            REQUIRE(nth < 200);
            uint64_t before = shim->failed();
            shim->fail(names[f], nth, 2, 1);
            REQUIRE(open_detector_of(true, usual()) == SP_OK);
            bool did = shim->failed() > before;
            shim->reset();
            ask_all(2, false);
            check_all(2, names[f]);
            without += *device_runs == 0;
            close_hall();
            if (!did)
                break;
            failed++;
        }
    }
    CHECK(failed > 10 && without > 10);
    end();
}

TEST(a_device_that_has_failed_for_good_ends_the_worker_with_every_request_answered)
{
    begin();
    make_wishes();
    ask_the_cpu(usual(), PICTURES);
    REQUIRE(open_detector_of(true, usual()) == SP_OK);
    shim->fail("run:copy", 3, 700, 1);
    ask_all(PICTURES, false); /* each once: CHECKed where they end */
    for (int i = 0; i < PICTURES; i++) {
        CHECK_INT(places[i].item.status, SP_UNAVAILABLE);
        CHECK_TEXT(places[i].item.error.code, "sticky");
    }
    CHECK_INT(ended.status, SP_UNAVAILABLE);
    close_hall();
    shim->reset();
    end();
}

TEST(outputs_of_open_sizes_are_decoded_on_the_host)
{
    begin();
    make_wishes();
    ask_the_cpu(usual(), PICTURES);
    REQUIRE(open_detector_of(true, detector_spec("detector 90 3 open", -1, 3, PICTURES)) == SP_OK);
    ask_all(PICTURES, false);
    check_all(PICTURES, "open sizes");
    CHECK_INT(*device_runs, 0);
    close_hall();
    end();
}

TEST(too_many_candidates_are_refused_alike)
{
    enum { MANY = (1 << 19) + 3 };
    char shape[64];
    (void)snprintf(shape, sizeof(shape), "detector %d 1", MANY);
    begin();
    make_wishes();
    for (int i = 0; i < 2; i++) {
        REQUIRE(open_detector_of(i == 1, detector_spec(shape, MANY, 1, 1)) == SP_OK);
        ask_all(1, false);
        CHECK_INT(places[0].item.status, SP_UNSUPPORTED);
        CHECK(strstr(places[0].item.error.message, "at most 524288 are looked at") != NULL);
        CHECK_INT(*device_runs, i);
        close_hall();
    }
    end();
}

/* 20,000 boxes of two classes fill the matrix of suppression: 25 MB a picture. What is not there is done by the host. */
TEST(no_memory_for_suppression_is_the_hosts)
{
    begin();
    make_wishes();
    for (int i = 0; i < PICTURES; i++)
        wishes[i].threshold = 0.85f; /* few are candidates: the host is quick, the device's room is the same */
    ask_the_cpu(detector_spec("detector 20000 2", 20000, 2, 2), 2);
    sp_shim_device device = shim->device(NULL), small = device;
    small.memory_bytes = 64 << 20;
    REQUIRE(open_detector_of(true, detector_spec("detector 20000 2", 20000, 2, 2)) == SP_OK);
    (void)shim->device(&small);
    ask_all(2, false);
    check_all(2, "no memory");
    CHECK_INT(ended.status, SP_OK);
    close_hall();
    (void)shim->device(&device);
    end();
}

TEST(a_batch_with_inferences_among_it_is_the_hosts)
{
    begin();
    make_wishes();
    ask_the_cpu(usual(), PICTURES);
    REQUIRE(open_detector_of(true, usual()) == SP_OK);
    (void)ask_boxes(0, false);
    make_pictures(1, DETECTOR, 1, 0);
    (void)submit(1, SP_OP_INFER);
    (void)ask_boxes(2, false);
    turn_all();
    CHECK_INT(*device_runs, 0);
    CHECK(same(0) && same(2));
    CHECK(places[1].finished);
    CHECK_INT(places[1].item.status, SP_OK);
    ask_all(PICTURES, false);
    check_all(PICTURES, "behind it");
    CHECK_INT(*device_runs, 1);
    close_hall();
    end();
}
