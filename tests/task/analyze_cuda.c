/* SPDX-License-Identifier: Apache-2.0
 * The analysis on a GPU (task/analyze_cuda.h) against the one on the CPU, record by record, byte by byte: on the stand-in for a GPU, in
 * its orders of threads, blocks and streams; in one piece and in several; from memory that the device reads and from memory that is
 * staged; with graphs and where none can be drawn; and when memory or a call fails. */
#include <stdio.h>

#include "house.h"
#include "kernels/plane.h"
#include "task/analyze_cuda.h"

#include <sys/mman.h>

#define FRAMES 9

typedef struct film {
    int w, h;
    size_t stride;
    uint8_t *memory;
    size_t bytes;
    const uint8_t *grey[FRAMES];
    sp_video_frame frames[FRAMES];
    sp_analyze_params params;
    sp_analyze_plan *plan;
    sp_frame_record expected[FRAMES];
    int count; /* analysed; the last one only follows */
} film;

/* A background of soft bumps, two squares that move over it (one leaves no trace in some frames), three spots that stay, noise; frame 5
 * is another picture. */
static uint8_t pixel(int x, int y, int t, uint32_t noise, bool spotted)
{
    int v = 90 + (x * 3 / 2 + y) % 40 + (int)(noise % 5);
    int sx = 6 + 5 * t, sy = 10 + 2 * t;
    if (x >= sx && x < sx + 18 && y >= sy && y < sy + 16)
        v = 150 + (x * 7 + y * 13) % 60;
    if (x / 3 == 20 && y / 3 == 15)
        v = 250;
    if (x / 2 == 8 && (y / 2 == 25 || y / 2 == 4))
        v = 5;
    if (spotted && x % 20 < (y < 80 ? 3 : 2) && y % 20 < 2) /* 32 of six pixels, 8 of four; further apart than the rectangle */
        v = 250;
    if (t == 5)
        v = 255 - v;
    return (uint8_t)v;
}

static void film_open_with(film *f, int w, int h, size_t gap, bool spotted)
{
    sp_error err = { 0 };
    memset(f, 0, sizeof(*f));
    f->w = w;
    f->h = h;
    f->stride = (size_t)w + gap;
    size_t place = SP_ALIGN_UP(f->stride * (size_t)h, (size_t)4096);
    f->bytes = place * FRAMES;
    f->memory = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(f->memory != MAP_FAILED);
    for (int t = 0; t < FRAMES; t++) {
        uint8_t *to = f->memory + place * (size_t)t;
        f->grey[t] = to;
        for (int y = 0; y < h; y++) {
            for (int x = 0; x < w; x++)
                to[(size_t)y * f->stride + (size_t)x] = pixel(x, y, t, (uint32_t)test_random(), spotted);
        }
        f->frames[t].number = (uint32_t)(t < 7 ? t + 3 : t + 4); /* frame 10 is lost */
        f->frames[t].pts = 40 * t;
        f->frames[t].key = t == 0;
        f->frames[t].damaged = t == 4;
    }
    f->frames[FRAMES - 1].lookahead = true;
    f->count = FRAMES - 1;
    f->params = sp_analyze_params_default();
    f->params.motion_min_area = 12;
    if (spotted)
        f->params.defect_max_area = 5;
    REQUIRE(sp_analyze_plan_new(&f->params, w, h, &f->plan, &err) == SP_OK);
    SP_CLEANUP(sp_analyzer_freep) sp_analyzer *cpu = NULL;
    REQUIRE(sp_analyzer_new(f->plan, &cpu, &err) == SP_OK);
    sp_analyzer_run(cpu, f->grey, f->stride, f->frames, f->count, true, f->expected);
}

static void film_open(film *f, int w, int h, size_t gap)
{
    film_open_with(f, w, h, gap, false);
}

static void film_close(film *f)
{
    sp_analyze_plan_free(f->plan);
    (void)munmap(f->memory, f->bytes);
}

static void same_records(const film *f, const sp_frame_record *got, const char *what)
{
    for (int i = 0; i < f->count; i++) {
        if (memcmp(&f->expected[i], &got[i], sizeof(got[i])) != 0) {
            size_t at = 0;
            while (((const uint8_t *)&f->expected[i])[at] == ((const uint8_t *)&got[i])[at])
                at++;
            test_fail(__FILE__, __LINE__, "%s: record %d of %d x %d differs at byte %zu", what, i, f->w, f->h, at);
            return;
        }
    }
}

/* All frames in pieces of `piece`. */
static sp_status run(sp_analyze_cuda *a, const film *f, int piece, bool pinned, sp_frame_record *ret_records, sp_error *reterr)
{
    sp_status s = SP_OK;
    memset(ret_records, 0xee, sizeof(*ret_records) * (size_t)f->count);
    sp_analyze_cuda_begin(a);
    for (int i = 0; i < f->count && !s; i += piece)
        s = sp_analyze_cuda_run(a, f->grey + i, f->stride, pinned, f->frames + i, SP_MIN(piece, f->count - i), true, ret_records + i, reterr);
    return s;
}

/* The picture has in it what the records tell of: else little would be compared. */
static void film_is_worth_it(const film *f)
{
    uint32_t motion = 0, defects = 0, edges = 0, cuts = 0;
    for (int i = 0; i < f->count; i++) {
        motion += f->expected[i].motion_count;
        defects += f->expected[i].defect_count;
        edges += f->expected[i].edges;
        cuts += f->expected[i].cut;
    }
    CHECK(motion > 3);
    CHECK(defects > 8);
    CHECK(edges > 500);
    CHECK(cuts >= 1);
    CHECK_INT(f->expected[6].has_pair, 0); /* the next one was lost */
}

TEST(records_are_those_of_the_cpu)
{
    static const int sizes[][2] = { { 96, 64 }, { 97, 67 } };
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t n = 0; n < SP_ARRAY_LEN(sizes); n++) {
        film f;
        sp_error err = { 0 };
        sp_frame_record got[FRAMES];
        film_open(&f, sizes[n][0], sizes[n][1], n * 5);
        if (n == 0)
            film_is_worth_it(&f);
        CUDA_ORDERS(&house, order) {
            if (order % 2 != (int)n % 2) /* each film in half of them */
                continue;
            sp_analyze_cuda *a = NULL;
            REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, order < 3 ? FRAMES : 3, &a, &err) == SP_OK);
            CHECK_INT(run(a, &f, order % 3 ? FRAMES : 4, false, got, &err), SP_OK);
            same_records(&f, got, "staged");
            if (order / 2 == 1 && house.api->host_register(house.cuda, f.memory, f.bytes, &err) == SP_OK) {
                CHECK_INT(run(a, &f, 3, true, got, &err), SP_OK);
                same_records(&f, got, "registered");
                house.api->host_unregister(house.cuda, f.memory);
            }
            sp_analyze_cuda_free(a);
        }
        film_close(&f);
    }
    cuda_house_done(&house);
}

TEST(a_run_allocates_nothing)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    sp_analyze_cuda *a = NULL;
    sp_shim_counters before, after;
    if (!house.shim)
        SKIP("a real GPU counts no calls");
    film_open(&f, 64, 40, 0);
    REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, FRAMES, &a, &err) == SP_OK);
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
    house.shim->counters(&before);
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
    house.shim->counters(&after);
    same_records(&f, got, "the second time");
    CHECK_INT(after.allocations - before.allocations, 0);
    CHECK_INT(after.host_allocations - before.host_allocations, 0);
    CHECK_INT(after.device_syncs - before.device_syncs, 0);
    CHECK_INT(after.pageable_copies - before.pageable_copies, 0);
    CHECK(after.launches > before.launches);
    sp_analyze_cuda_free(a);
    film_close(&f);
    cuda_house_done(&house);
}

/* Whichever reservation fails, it is told, and nothing stays; where only the frames do not fit, fewer do. */
TEST(no_memory_is_told_and_nothing_stays)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    if (!house.shim)
        SKIP("a real GPU has memory");
    film_open(&f, 64, 40, 0);
    int refused = 0, made = 0;
    static const char *const calls[] = { "cudaMalloc", "cudaMallocAsync", "cudaMallocFromPoolAsync", "cudaMallocHost", "cudaHostAlloc",
                                         "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags" };
    for (size_t c = 0; c < SP_ARRAY_LEN(calls); c++) {
        for (uint64_t nth = 1; nth < 40; nth++) {
            sp_analyze_cuda *a = NULL;
            house.shim->reset();
            house.shim->fail(calls[c], nth, 2, 1); /* cudaErrorMemoryAllocation */
            sp_status s = sp_analyze_cuda_new(house.api, house.cuda, f.plan, FRAMES, &a, &err);
            bool failed = house.shim->failed() > 0;
            house.shim->reset();
            if (s == SP_OK && failed && made++ == 0) {
                CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
                same_records(&f, got, "in little memory");
            }
            sp_analyze_cuda_free(a);
            refused += s == SP_NOMEM;
            CHECK(s == SP_OK || s == SP_NOMEM);
            if (!failed)
                break;
        }
    }
    CHECK(refused > 10);
    CHECK(made > 0);
    film_close(&f);
    cuda_house_done(&house);
}

/* The large ones come first in a frame's list, and are not told: what is told lies behind what is copied out with each frame. */
TEST(regions_beyond_those_copied_at_once)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    sp_analyze_cuda *a = NULL;
    film_open_with(&f, 148, 84, 3, true);
    uint32_t told = 0;
    for (int i = 0; i < f.count; i++)
        told += f.expected[i].defect_count;
    CHECK(told > 20);
    REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, 5, &a, &err) == SP_OK);
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
    same_records(&f, got, "many regions");
    if (house.shim) {
        uint64_t copies = house.shim->calls("cudaMemcpyAsync");
        CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
        copies = house.shim->calls("cudaMemcpyAsync") - copies;
        house.shim->fail("cudaMemcpyAsync", copies, 1, 1); /* the last one is of those regions */
        CHECK(run(a, &f, FRAMES, false, got, &err) != SP_OK);
        house.shim->reset();
        CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
        same_records(&f, got, "after a failure");
    }
    sp_analyze_cuda_free(a);
    film_close(&f);
    cuda_house_done(&house);
}

/* Frames that the device has decoded itself, of limited and of full range, among others that come from the host. */
TEST(frames_that_are_on_the_device)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    sp_analyze_cuda *a = NULL;
    film_open(&f, 66, 40, 0);
    size_t bytes = (size_t)f.w * (size_t)f.h;
    uint8_t *device = cuda_house_put(&house, NULL, bytes * FRAMES);
    for (int t = 0; t < FRAMES; t++) {
        uint8_t *grey = f.memory + (f.grey[t] - f.memory);
        bool limited = t % 2 != 0;
        if (t % 3 != 2) {
            REQUIRE(house.api->copy_in(house.stream, device + bytes * (size_t)t, grey, bytes, &err) == SP_OK);
            REQUIRE(house.api->stream_sync(house.stream, &err) == SP_OK);
            f.grey[t] = device + bytes * (size_t)t;
            f.frames[t].on_device = true;
            f.frames[t].limited = limited;
        }
        for (int y = 0; y < f.h && limited; y++)
            sp_grey_from_y8(grey + y * f.w, grey + y * f.w, f.w, true);
    }
    film seen = f; /* as the CPU has it */
    size_t place = f.bytes / FRAMES;
    for (int t = 0; t < FRAMES; t++)
        seen.grey[t] = f.memory + place * (size_t)t;
    SP_CLEANUP(sp_analyzer_freep) sp_analyzer *cpu = NULL;
    REQUIRE(sp_analyzer_new(f.plan, &cpu, &err) == SP_OK);
    sp_analyzer_run(cpu, seen.grey, f.stride, f.frames, f.count, true, f.expected);
    REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, 4, &a, &err) == SP_OK);
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
    same_records(&f, got, "on the device");
    sp_analyze_cuda_free(a);
    house.api->release(house.cuda, device);
    film_close(&f);
    cuda_house_done(&house);
}

/* From the second run on a frame is two launches: one for itself, one for it and the next. Beside them only what a run begins and ends
 * with: the first frame's expansion (and the one behind the gap), the last one's histogram. */
TEST(a_frame_is_two_launches)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    sp_analyze_cuda *a = NULL;
    sp_shim_counters before, after;
    if (!house.shim)
        SKIP("a real GPU counts no calls");
    film_open(&f, 64, 40, 0);
    REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, FRAMES, &a, &err) == SP_OK);
    house.shim->counters(&before);
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK); /* the slot that the gap left out */
    house.shim->counters(&after);
    uint64_t drawn = after.graphs - before.graphs;
    CHECK(drawn > 0 && drawn <= 8);
    before = after;
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
    house.shim->counters(&after);
    same_records(&f, got, "from graphs");
    CHECK_INT(after.graphs - before.graphs, 0);
    CHECK_INT(after.graph_launches - before.graph_launches, 2 * f.count - 1); /* the gap's pair is none */
    CHECK(after.launches - before.launches <= 6);
    CHECK_INT(after.syncs - before.syncs, 3);
    sp_analyze_cuda_free(a);
    house.shim->counters(&after);
    CHECK_INT(after.graphs, 0);
    film_close(&f);
    cuda_house_done(&house);
}

/* A device that draws no graphs, or loses one while it is drawn, gives the same records by plain launches. */
TEST(without_graphs_it_is_launched_plainly)
{
    static const struct {
        const char *call;
        uint64_t nth, times;
        int code;
    } refusals[] = {
        { "cudaStreamBeginCapture", 1, 1000, 801 }, /* cudaErrorNotSupported */
        { "cudaStreamEndCapture", 1, 1000, 901 },   /* cudaErrorStreamCaptureInvalidated */
        { "cudaGraphInstantiate", 1, 1, 2 },        /* cudaErrorMemoryAllocation */
        { "cudaLaunchKernel", 6, 1, 900 },          /* cudaErrorStreamCaptureUnsupported: two are the first frame's expansion */
    };
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    sp_shim_counters before, after;
    if (!house.shim)
        SKIP("a real GPU does not fail when asked to");
    film_open(&f, 64, 40, 0);
    for (size_t i = 0; i < SP_ARRAY_LEN(refusals); i += getenv("SPILLWAY_SANITIZER") ? 3 : 1) {
        sp_analyze_cuda *a = NULL;
        house.shim->reset();
        house.shim->counters(&before);
        REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, FRAMES, &a, &err) == SP_OK);
        /* Both lanes are warm behind this: the next frames are drawn. */
        CHECK_INT(sp_analyze_cuda_run(a, f.grey, f.stride, false, f.frames, 1, true, got, &err), SP_OK);
        house.shim->fail(refusals[i].call, refusals[i].nth, refusals[i].code, refusals[i].times);
        CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
        CHECK(house.shim->failed() > 0);
        same_records(&f, got, refusals[i].call);
        house.shim->reset();
        CHECK_INT(run(a, &f, 4, false, got, &err), SP_OK);
        same_records(&f, got, "afterwards");
        sp_analyze_cuda_free(a);
        house.shim->counters(&after);
        CHECK_INT(after.graphs, before.graphs);
    }
    film_close(&f);
    cuda_house_done(&house);
}

/* Each of some calls of `name` of a run fails: the run says so, and the next one is as good as ever. */
static void check_failures(const cuda_house *house, sp_analyze_cuda *a, const film *f, const char *name, uint64_t tries)
{
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    house->shim->reset();
    CHECK_INT(run(a, f, FRAMES, false, got, &err), SP_OK);
    uint64_t calls = house->shim->calls(name);
    CHECK(calls > 0);
    for (uint64_t i = 1; i <= tries; i++) {
        house->shim->reset();
        house->shim->fail(name, SP_MAX(calls * i / (tries + 1), 1u), 701, 1); /* cudaErrorLaunchOutOfResources */
        sp_status s = run(a, f, FRAMES, false, got, &err);
        CHECK_INT(house->shim->failed(), 1);
        CHECK(s != SP_OK);
        house->shim->reset();
        CHECK_INT(run(a, f, FRAMES, false, got, &err), SP_OK);
        same_records(f, got, name);
    }
}

TEST(a_call_that_fails_is_told)
{
    static const char *const calls[] = { "cudaGraphLaunch", "cudaLaunchKernel", "cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent" };
    cuda_house house;
    CUDA_HOUSE(&house);
    film f;
    sp_error err = { 0 };
    sp_frame_record got[FRAMES];
    sp_analyze_cuda *a = NULL;
    if (!house.shim)
        SKIP("a real GPU does not fail when asked to");
    film_open(&f, 64, 40, 0);
    /* A launch of the first frame's, of which there is no graph yet. */
    REQUIRE(sp_analyze_cuda_new(house.api, house.cuda, f.plan, FRAMES, &a, &err) == SP_OK);
    house.shim->reset();
    house.shim->fail("cudaLaunchKernel", 9, 701, 1);
    CHECK(run(a, &f, FRAMES, false, got, &err) != SP_OK);
    house.shim->reset();
    for (int i = 0; i < 2; i++) { /* now all are drawn */
        CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_OK);
        same_records(&f, got, "after the first failure");
    }
    size_t count = getenv("SPILLWAY_SANITIZER") ? 2 : SP_ARRAY_LEN(calls); /* which frees what the others do */
    for (size_t i = 0; i < count; i++)
        check_failures(&house, a, &f, calls[i], i ? 1 : 2);
    house.shim->fail("run:copy", 12, 700, 1); /* cudaErrorIllegalAddress: sticky */
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "sticky");
    CHECK_INT(run(a, &f, FRAMES, false, got, &err), SP_UNAVAILABLE);
    house.shim->reset();
    sp_analyze_cuda_free(a);
    film_close(&f);
    cuda_house_done(&house);
}
