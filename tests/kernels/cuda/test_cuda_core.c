/* SPDX-License-Identifier: Apache-2.0
 * The CUDA plug-in's core: devices, memory, streams, events, graphs; and what it answers when a call fails. On a GPU too, but
 * what needs a device that fails or is missing. */
#include <stdio.h>

#include "house.h"
#include "kernels/cuda_plane.h"
#include "kernels/cuda_post.h"

#include <pthread.h>
#include <sys/mman.h>

/* cudaError_t's values; CUDA's headers may not be there. */
enum { ERROR_MEMORY = 2, ERROR_NO_CODE = 209, ERROR_ADDRESS = 700, ERROR_NOT_SUPPORTED = 801, ERROR_MISMATCH = 803, ERROR_UNKNOWN = 999 };

#define NEEDS_STAND_IN(house)                                              \
    do {                                                                   \
        CUDA_HOUSE(house);                                                 \
        if (!(house)->shim) {                                              \
            cuda_house_done(house);                                        \
            SKIP("needs the stand-in: a real GPU does not fail to order"); \
        }                                                                  \
    } while (0)

/* ---- devices ---- */

TEST(a_device_opens_and_its_canary_sings)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_cuda_info info;
    sp_error err = { 0 };
    REQUIRE(house.api->describe(0, &info, &err) == SP_OK);
    CHECK(info.simulated == (house.shim != NULL));
    CHECK(info.memory_bytes > 0 && info.multiprocessors > 0 && info.shared_bytes >= 48 * 1024);
    CHECK(info.driver_version >= 13000 && info.runtime_version >= 13000);
    CHECK(strncmp(info.uuid, "GPU-", 4) == 0 && strlen(info.uuid) == 40);
    CHECK(strncmp(house.api->version, "CUDA runtime ", 13) == 0);
    CHECK_INT(house.api->describe(99, &info, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "no_gpu");
    cuda_house_done(&house);
}

TEST(each_reason_has_its_code)
{
    static const struct {
        int count, driver, major, fails;
        const char *code, *words;
    } rows[] = {
        { 1, 0, 9, 0, "no_driver", "no driver: " },
        { 0, 13000, 9, 0, "no_gpu", "no GPU: " },
        { 1, 12040, 9, 0, "mismatch", "driver/CUDA mismatch: the driver offers CUDA 12.4" },
        { 1, 13000, 9, ERROR_MISMATCH, "mismatch", "driver/CUDA mismatch: " },
        { 1, 13000, 5, 0, "no_code", "shim has compute capability 5.0" },
    };
    cuda_house house;
    NEEDS_STAND_IN(&house);
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_shim_device device = house.shim->device(NULL);
        device.count = rows[i].count;
        device.driver_version = rows[i].driver;
        device.major = rows[i].major;
        (void)house.shim->device(&device);
        if (rows[i].fails)
            house.shim->fail("cudaGetDeviceCount", 1, rows[i].fails, 1);
        sp_cuda *cuda = NULL;
        sp_error err = { 0 };
        CHECK_INT(house.api->open(0, 0, &cuda, &err), SP_UNSUPPORTED);
        CHECK(cuda == NULL);
        CHECK_TEXT(err.code, rows[i].code);
        CHECK(strncmp(err.message, rows[i].words, strlen(rows[i].words)) == 0);
        house.shim->reset();
    }
    cuda_house_done(&house);
}

typedef struct other_thread {
    const sp_cuda_api *api;
    sp_cuda *cuda;
    sp_cuda_stream *stream;
    void *device;
    sp_status status;
} other_thread;

static void *use_second_device(void *argument)
{
    other_thread *t = argument;
    t->status = t->api->thread_begin(t->cuda, NULL);
    if (!t->status)
        t->status = t->api->fill(t->stream, t->device, 7, 16, NULL);
    if (!t->status)
        t->status = t->api->stream_sync(t->stream, NULL);
    return NULL;
}

TEST(two_devices_serve_two_threads)
{
    cuda_house house;
    NEEDS_STAND_IN(&house);
    sp_shim_device device = house.shim->device(NULL);
    device.count = 2;
    (void)house.shim->device(&device);
    other_thread t = { .api = house.api };
    REQUIRE(house.api->open(1, 0, &t.cuda, NULL) == SP_OK);
    REQUIRE(house.api->stream_new(t.cuda, &t.stream, NULL) == SP_OK);
    REQUIRE(house.api->reserve(t.cuda, 16, &t.device, NULL) == SP_OK);
    CHECK_INT(house.api->fill(house.stream, t.device, 1, 16, NULL), SP_OK); /* this thread goes back to the first */
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, use_second_device, &t) == 0);
    (void)pthread_join(thread, NULL);
    CHECK_INT(t.status, SP_OK);
    CHECK_INT(house.api->stream_sync(house.stream, NULL), SP_OK);
    house.api->release(t.cuda, t.device);
    house.api->stream_free(t.stream);
    house.api->close(t.cuda);
    cuda_house_done(&house);
}

/* ---- memory ---- */

TEST(bytes_go_there_and_back)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    unsigned char out[1000], back[1000];
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (unsigned char)test_random();
    CUDA_ORDERS(&house, order) {
        void *device = cuda_house_put(&house, out, sizeof(out));
        void *second = cuda_house_put(&house, NULL, sizeof(out));
        CHECK(((uintptr_t)device & 255) == 0 && ((uintptr_t)second & 255) == 0);
        memset(back, 0, sizeof(back));
        CHECK_INT(house.api->copy_on(house.stream, second, device, sizeof(out), NULL), SP_OK);
        cuda_house_get(&house, back, second, sizeof(back));
        CHECK_BYTES(out, back, sizeof(back));
        /* 3 rows of 5 bytes: from 7 bytes apart to 16 bytes apart, on a ground of 9 */
        CHECK_INT(house.api->fill(house.stream, device, 9, 48, NULL), SP_OK);
        CHECK_INT(house.api->copy_rows_in(house.stream, device, 16, out, 7, 5, 3, NULL), SP_OK);
        cuda_house_get(&house, back, device, 48);
        for (int i = 0; i < 48; i++)
            CHECK_INT(back[i], i % 16 < 5 ? out[i / 16 * 7 + i % 16] : 9);
        house.api->release(house.cuda, device);
        house.api->release(house.cuda, second);
    }
    cuda_house_done(&house);
}

TEST(high_marks_tell_the_most_that_was_held)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    sp_cuda_memory memory;
    void *a = cuda_house_put(&house, NULL, 3 << 20), *b = cuda_house_put(&house, NULL, 1 << 20), *pinned = NULL;
    REQUIRE(house.api->pinned_new(house.cuda, 5000, &pinned, NULL) == SP_OK);
    house.api->release(house.cuda, a);
    house.api->memory(house.cuda, &memory);
    CHECK_INT(memory.device_bytes, 1 << 20);
    CHECK_INT(memory.device_high_bytes, 4 << 20);
    CHECK(memory.device_reserved_bytes >= 1 << 20);
    CHECK_INT(memory.host_bytes, 5000);
    CHECK(memory.free_bytes > 0 && memory.free_bytes < memory.total_bytes);
    house.api->release(house.cuda, b);
    house.api->pinned_free(house.cuda, pinned);
    house.api->memory(house.cuda, &memory);
    CHECK_INT(memory.host_high_bytes, 5000);
    cuda_house_done(&house);
}

TEST(too_much_memory_is_oom_and_says_how_much)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    void *device = NULL;
    sp_error err = { 0 };
    CHECK_INT(house.api->reserve(house.cuda, (size_t)1 << 46, &device, &err), SP_NOMEM);
    CHECK_TEXT(err.code, "oom");
    CHECK(strstr(err.message, "70368744177664 bytes asked") != NULL && device == NULL);
    CHECK_INT(house.api->reserve(house.cuda, 1 << 10, &device, &err), SP_OK); /* and it goes on */
    house.api->release(house.cuda, device);
    cuda_house_done(&house);
}

TEST(host_memory_is_registered_or_refused)
{
    cuda_house house;
    NEEDS_STAND_IN(&house);
    void *pages = NULL;
    sp_error err = { 0 };
    sp_shim_counters before, counters;
    house.shim->counters(&before);
    REQUIRE(posix_memalign(&pages, 4096, 8192) == 0);
    memset(pages, 5, 8192);
    CHECK_INT(house.api->host_register(house.cuda, pages, 8192, &err), SP_OK);
    void *device = cuda_house_put(&house, NULL, 4096);
    CHECK_INT(house.api->copy_in(house.stream, device, (char *)pages + 4096, 4096, &err), SP_OK);
    CHECK_INT(house.api->stream_sync(house.stream, &err), SP_OK);
    house.shim->counters(&counters);
    CHECK_INT(counters.pageable_copies, before.pageable_copies);
    house.api->host_unregister(house.cuda, pages);
    house.shim->fail("cudaHostRegister", 1, ERROR_NOT_SUPPORTED, 2); /* both ways */
    CHECK_INT(house.api->host_register(house.cuda, pages, 8192, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "not_registered");
    house.api->release(house.cuda, device);
    free(pages);
    cuda_house_done(&house);
}

TEST(memory_that_is_mapped_for_reading_is_registered_for_reading)
{
    cuda_house house;
    NEEDS_STAND_IN(&house);
    sp_error err = { 0 };
    sp_shim_counters before, counters;
    uint8_t back[4096];
    house.shim->counters(&before);
    uint8_t *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(pages != MAP_FAILED);
    memset(pages, 7, 8192);
    REQUIRE(mprotect(pages, 8192, PROT_READ) == 0);
    CHECK_INT(house.api->host_register(house.cuda, pages, 8192, &err), SP_OK);
    CHECK_INT(house.shim->calls("cudaHostRegister"), 2);
    void *device = cuda_house_put(&house, NULL, 4096);
    CHECK_INT(house.api->copy_in(house.stream, device, pages + 4096, 4096, &err), SP_OK);
    house.shim->counters(&counters);
    CHECK_INT(counters.pageable_copies, before.pageable_copies);
    cuda_house_get(&house, back, device, sizeof(back));
    CHECK_INT(back[0] + back[4095], 14);
    house.api->host_unregister(house.cuda, pages);
    house.shim->fail("cudaHostRegister", 2, ERROR_NOT_SUPPORTED, 1); /* a device that cannot */
    CHECK_INT(house.api->host_register(house.cuda, pages, 8192, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "not_registered");
    house.api->release(house.cuda, device);
    CHECK_INT(munmap(pages, 8192), 0);
    cuda_house_done(&house);
}

/* A thread on which another device was used last, by an engine for instance. */
TEST(calls_go_to_the_device_of_their_stream)
{
    static const float values[64] = { 1, 2, 3 };
    static const uint16_t halves[64] = { 0x3c00, 0x4000 };
    cuda_house house;
    NEEDS_STAND_IN(&house);
    const sp_cuda_api *api = house.api;
    sp_error err = { 0 };
    sp_cuda *other = NULL;
    sp_shim_device two = house.shim->device(NULL), one = two;
    two.count = 2;
    (void)house.shim->device(&two);
    float *src = cuda_house_put(&house, values, sizeof(values)), *dst = cuda_house_put(&house, NULL, 2 * sizeof(values));
    uint16_t *half = cuda_house_put(&house, halves, sizeof(halves));
    uint64_t *count = cuda_house_put(&house, NULL, sizeof(*count));
    const sp_plane plane = { (uint8_t *)half, 16, 8, 16 };
    REQUIRE(api->open(1, 0, &other, &err) == SP_OK);
    for (int call = 0; call < 5; call++) {
        REQUIRE(api->thread_begin(other, &err) == SP_OK);
        sp_status s = call == 0   ? api->post->softmax_f32(house.stream, dst, src, 1, 64, &err)
                      : call == 1 ? api->post->widen_f16(house.stream, dst, half, 64, &err)
                      : call == 2 ? api->post->first_bad_f32(house.stream, (int32_t *)dst, src, 1, 64, &err)
                      : call == 3 ? api->plane->measure_nonzero(house.stream, plane, count, &err)
                                  : api->plane->threshold(house.stream, plane, plane, 3, &err);
        if (s)
            test_fail(__FILE__, __LINE__, "call %d: %s", call, err.message);
        REQUIRE(api->thread_begin(other, &err) == SP_OK);
        CHECK_INT(api->stream_sync(house.stream, &err), SP_OK);
    }
    api->close(other);
    api->release(house.cuda, src);
    api->release(house.cuda, dst);
    api->release(house.cuda, half);
    api->release(house.cuda, count);
    (void)house.shim->device(&one);
    cuda_house_done(&house);
}

TEST(shared_memory_is_what_its_handle_says)
{
    cuda_house house;
    NEEDS_STAND_IN(&house);
    sp_error err = { 0 };
    void *shared = NULL;
    uint8_t handle[SP_CUDA_HANDLE_BYTES], byte = 7;
    sp_cuda_memory before, held;
    house.api->memory(house.cuda, &before);
    REQUIRE(house.api->shared_new(house.cuda, 5000, &shared, handle, &err) == SP_OK);
    house.api->memory(house.cuda, &held);
    CHECK_INT(held.device_bytes - before.device_bytes, 2 << 20); /* nothing else is behind it */
    /* The stand-in's handle is a path: what another process writes there is seen here. */
    char path[SP_CUDA_HANDLE_BYTES];
    REQUIRE(sscanf((const char *)handle, "%63s", path) == 1);
    FILE *other = fopen(path, "r+b");
    REQUIRE(other != NULL && fseek(other, 4999, SEEK_SET) == 0);
    CHECK_INT(fwrite(&byte, 1, 1, other), 1);
    CHECK_INT(fclose(other), 0);
    byte = 0;
    CHECK_INT(house.api->copy_out(house.stream, &byte, (char *)shared + 4999, 1, &err), SP_OK);
    CHECK_INT(house.api->stream_sync(house.stream, &err), SP_OK);
    CHECK_INT(byte, 7);
    house.api->shared_free(house.cuda, shared);
    house.shim->fail("cudaIpcGetMemHandle", 1, ERROR_NOT_SUPPORTED, 1);
    CHECK_INT(house.api->shared_new(house.cuda, 5000, &shared, handle, &err), SP_UNSUPPORTED);
    house.api->memory(house.cuda, &held);
    CHECK_INT(held.device_bytes, before.device_bytes);
    cuda_house_done(&house);
}

/* ---- everything once, and every call of it failing once ---- */

typedef struct work {
    sp_cuda *cuda;
    sp_cuda_stream *a, *b;
    sp_cuda_event *copied, *begin, *end;
    sp_cuda_graph *graph;
    void *device, *pinned, *registered, *shared;
    float ms;
    bool done;
} work;

#define TRY(call)        \
    do {                 \
        sp_status s_ = (call); \
        if (s_)          \
            return s_;   \
    } while (0)

static sp_status make(const sp_cuda_api *api, work *w, void *pages, sp_error *err)
{
    int count = 0;
    TRY(api->count(&count, err));
    TRY(api->open(0, 1 << 20, &w->cuda, err));
    TRY(api->stream_new(w->cuda, &w->a, err));
    TRY(api->stream_new(w->cuda, &w->b, err));
    TRY(api->event_new(w->cuda, false, &w->copied, err));
    TRY(api->event_new(w->cuda, true, &w->begin, err));
    TRY(api->event_new(w->cuda, true, &w->end, err));
    TRY(api->reserve(w->cuda, 4096, &w->device, err));
    TRY(api->pinned_new(w->cuda, 4096, &w->pinned, err));
    TRY(api->host_register(w->cuda, pages, 4096, err));
    w->registered = pages;
    uint8_t handle[SP_CUDA_HANDLE_BYTES];
    TRY(api->shared_new(w->cuda, 4096, &w->shared, handle, err));
    memset(w->pinned, 3, 4096);
    return SP_OK;
}

static sp_status capture(const sp_cuda_api *api, work *w, sp_error *err)
{
    TRY(api->graph_begin(w->a, err));
    sp_status s = api->fill(w->a, (char *)w->device + 64, 4, 64, err);
    sp_status ended = api->graph_end(w->a, &w->graph, s ? NULL : err);
    return s ? s : ended;
}

static sp_status use(const sp_cuda_api *api, work *w, sp_error *err)
{
    TRY(api->event_record(w->begin, w->a, err));
    TRY(api->copy_in(w->a, w->device, w->pinned, 64, err));
    TRY(api->event_record(w->copied, w->a, err));
    TRY(api->event_wait(w->b, w->copied, err));
    TRY(api->fill(w->b, (char *)w->device + 64, 0, 64, err));
    TRY(api->stream_sync(w->b, err));
    TRY(capture(api, w, err));
    TRY(api->graph_launch(w->graph, w->a, err));
    TRY(api->copy_rows_in(w->a, (char *)w->device + 128, 32, w->registered, 16, 16, 2, err));
    TRY(api->copy_out(w->a, w->pinned, w->device, 128, err));
    TRY(api->event_record(w->end, w->a, err));
    TRY(api->event_sync(w->end, err));
    TRY(api->stream_done(w->a, &w->done, err));
    return api->event_elapsed_ms(w->begin, w->end, &w->ms, err);
}

static void end(const sp_cuda_api *api, work *w)
{
    api->graph_free(w->graph);
    api->event_free(w->copied);
    api->event_free(w->begin);
    api->event_free(w->end);
    if (w->cuda) {
        if (w->a)
            (void)api->stream_sync(w->a, NULL);
        if (w->b)
            (void)api->stream_sync(w->b, NULL);
        api->release(w->cuda, w->device);
        api->pinned_free(w->cuda, w->pinned);
        api->host_unregister(w->cuda, w->registered);
        api->shared_free(w->cuda, w->shared);
    }
    api->stream_free(w->a);
    api->stream_free(w->b);
    api->close(w->cuda);
}

static sp_status do_everything(const sp_cuda_api *api, void *pages, sp_error *err)
{
    work w = { 0 };
    sp_status s = make(api, &w, pages, err);
    if (!s)
        s = use(api, &w, err);
    if (!s) {
        for (int i = 0; i < 128; i++)
            CHECK_INT(((unsigned char *)w.pinned)[i], i < 64 ? 3 : 4);
        CHECK(w.done && w.ms > 0);
    }
    end(api, &w);
    return s;
}

static const char *const calls[] = {
    "cudaDriverGetVersion", "cudaRuntimeGetVersion", "cudaGetDeviceCount", "cudaSetDevice", "cudaSetDeviceFlags",
    "cudaGetDeviceProperties", "cudaDeviceGetAttribute", "cudaMallocFromPoolAsync", "cudaFreeAsync",
    "cudaMemPoolCreate", "cudaMemPoolDestroy", "cudaMemPoolSetAttribute", "cudaHostAlloc", "cudaFreeHost", "cudaHostRegister",
    "cudaHostUnregister", "cudaMemcpyAsync", "cudaMemcpy2DAsync", "cudaMemsetAsync", "cudaStreamCreateWithFlags",
    "cudaStreamDestroy", "cudaStreamSynchronize", "cudaStreamQuery", "cudaStreamWaitEvent", "cudaEventCreateWithFlags",
    "cudaEventDestroy", "cudaEventRecord", "cudaEventSynchronize", "cudaEventElapsedTime", "cudaStreamBeginCapture",
    "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaGraphExecDestroy", "cudaGraphDestroy",
    "cudaMalloc", "cudaFree", "cudaIpcGetMemHandle", "cudaLaunchKernel", "run:canary", "run:copy", "run:fill",
};

/* What a failed call may become. */
static void check_answer(const char *name, uint64_t nth, int error, sp_status s, const sp_error *err)
{
    if (s == SP_OK) /* nobody needed it, or it came after the answer */
        return;
    if (error == ERROR_MEMORY && s == SP_NOMEM && strcmp(err->code, "oom") == 0)
        return;
    if (error == ERROR_NO_CODE && s == SP_UNSUPPORTED && strcmp(err->code, "no_code") == 0)
        return;
    if (error == ERROR_ADDRESS && s == SP_UNAVAILABLE && strcmp(err->code, "sticky") == 0)
        return;
    if (error == ERROR_UNKNOWN && s == SP_UNAVAILABLE && !err->code[0] && strcmp(err->origin, "cuda") == 0)
        return;
    if (s == SP_UNSUPPORTED && (strcmp(err->code, "not_registered") == 0 || strcmp(err->code, "no_driver") == 0 ||
                                strcmp(err->code, "no_code") == 0)) /* what the failed call was there to find out */
        return;
    test_fail(__FILE__, __LINE__, "%s, call %llu, error %d: status %d, code \"%s\": %s", name, (unsigned long long)nth, error, (int)s,
              err->code, err->message);
}

static void check_nothing_is_left(const cuda_house *house, const sp_shim_counters *before, const char *name, uint64_t nth, int error)
{
    sp_shim_counters after;
    house->shim->reset(); /* queues run to their ends; a sticky error is gone */
    house->shim->counters(&after);
    if (after.streams != before->streams || after.events != before->events || after.graphs != before->graphs ||
        after.pools != before->pools || after.device_bytes != before->device_bytes || after.host_bytes != before->host_bytes)
        test_fail(__FILE__, __LINE__, "%s, call %llu, error %d: %llu streams, %llu events, %llu graphs, %llu pools, %llu + %llu bytes left",
                  name, (unsigned long long)nth, error, (unsigned long long)after.streams, (unsigned long long)after.events,
                  (unsigned long long)after.graphs, (unsigned long long)after.pools, (unsigned long long)after.device_bytes,
                  (unsigned long long)after.host_bytes);
}

TEST(every_call_may_fail_once_and_nothing_leaks)
{
    static const int errors[] = { ERROR_MEMORY, ERROR_NO_CODE, ERROR_ADDRESS, ERROR_UNKNOWN };
    cuda_house house;
    NEEDS_STAND_IN(&house);
    void *pages = NULL;
    sp_error err = { 0 };
    sp_shim_counters before;
    uint64_t times[SP_ARRAY_LEN(calls)], failures = 0;
    REQUIRE(posix_memalign(&pages, 4096, 4096) == 0);
    memset(pages, 0, 4096);
    house.shim->reset();
    house.shim->counters(&before);
    REQUIRE(do_everything(house.api, pages, &err) == SP_OK);
    for (size_t i = 0; i < SP_ARRAY_LEN(calls); i++) {
        times[i] = house.shim->calls(calls[i]);
        if (!times[i])
            test_fail(__FILE__, __LINE__, "%s is never called: the list is not true", calls[i]);
    }
    for (size_t i = 0; i < SP_ARRAY_LEN(calls); i++) {
        for (uint64_t nth = 1; nth <= times[i]; nth++) {
            for (size_t e = 0; e < SP_ARRAY_LEN(errors); e++) {
                house.shim->counters(&before);
                house.shim->fail(calls[i], nth, errors[e], 1);
                err = (sp_error){ 0 };
                check_answer(calls[i], nth, errors[e], do_everything(house.api, pages, &err), &err);
                failures += house.shim->failed();
                check_nothing_is_left(&house, &before, calls[i], nth, errors[e]);
            }
        }
    }
    CHECK(failures > 200);
    CHECK_INT(do_everything(house.api, pages, &err), SP_OK);
    free(pages);
    cuda_house_done(&house);
}

/* A device that failed says so to everything, until the process ends. */
TEST(a_sticky_error_answers_everything)
{
    cuda_house house;
    NEEDS_STAND_IN(&house);
    sp_error err = { 0 };
    void *device = cuda_house_put(&house, NULL, 64), *more = NULL;
    house.shim->fail("run:fill", 1, ERROR_ADDRESS, 1);
    CHECK_INT(house.api->fill(house.stream, device, 0, 64, &err), SP_OK);
    CHECK_INT(house.api->stream_sync(house.stream, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "sticky");
    CHECK_INT(house.api->fill(house.stream, device, 0, 64, &err), SP_UNAVAILABLE);
    CHECK_INT(house.api->reserve(house.cuda, 64, &more, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "sticky");
    house.shim->reset();
    house.api->release(house.cuda, device);
    cuda_house_done(&house);
}

/* In steady state nothing allocates and nothing waits for the whole device. */
TEST(a_graph_replays_without_an_allocation)
{
    cuda_house house;
    NEEDS_STAND_IN(&house);
    work w = { .cuda = house.cuda, .a = house.stream };
    sp_error err = { 0 };
    sp_shim_counters before, after;
    w.device = cuda_house_put(&house, NULL, 4096);
    REQUIRE(capture(house.api, &w, &err) == SP_OK);
    house.shim->counters(&before);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(house.api->graph_launch(w.graph, house.stream, &err), SP_OK);
        CHECK_INT(house.api->stream_sync(house.stream, &err), SP_OK);
    }
    house.shim->counters(&after);
    CHECK_INT(after.allocations, before.allocations);
    CHECK_INT(after.host_allocations, before.host_allocations);
    CHECK_INT(after.device_syncs, before.device_syncs);
    CHECK_INT(after.graph_launches, before.graph_launches + 5);
    house.api->graph_free(w.graph);
    house.api->release(house.cuda, w.device);
    cuda_house_done(&house);
}
