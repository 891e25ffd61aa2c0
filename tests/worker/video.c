/* SPDX-License-Identifier: Apache-2.0
 * A real film through a real house: a codec worker's index and report, device workers' chunks with their decoder processes; the same
 * bytes whoever is killed, hangs, or has another number of threads. The program under test is SPILLWAY_PROGRAM (meson sets it), the
 * film comes from the assets. */
#include "base/clock.h"
#include "route/house.h"
#include "task/analyze.h"
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS SP_NS_PER_MS
#define WAIT_NS (300 * SP_NS_PER_S)

typedef struct film {
    sp_loop *loop;
    sp_house *house;
    int media_fd;
    uint64_t media_bytes;
    uint8_t *index; /* the first house's */
    size_t index_bytes;
    int answered;
    sp_status status;
    sp_answer answer; /* of the last: no pointers */
    char message[256], code[32];
    uint8_t *payload;
    size_t payload_bytes;
    int report_fd;
    uint32_t overlay;
} film;

static const sp_video_index *index_of(const film *f)
{
    return (const sp_video_index *)(const void *)f->index;
}

static void open_house(film *f, const char *workers)
{
    sp_error err = { 0 };
    const char *program = getenv("SPILLWAY_PROGRAM");
    if (!program)
        SKIP("SPILLWAY_PROGRAM is not set: run by meson test");
    const sp_house_config config = { .executable = program, .workers = workers };
    REQUIRE(sp_loop_new(&f->loop, &err) == SP_OK);
    sp_status s = sp_house_new(&config, f->loop, &f->house, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "house: %s", err.message);
    REQUIRE(s == SP_OK);
    for (int64_t until_ns = sp_clock_now_ns() + WAIT_NS; sp_clock_now_ns() < until_ns;) {
        int ready = 0, all = sp_house_worker_count(f->house);
        for (int i = 0; i < all; i++) {
            sp_worker_info info;
            sp_house_worker_info(f->house, i, &info);
            ready += info.state == SP_WORKER_READY;
        }
        if (ready == all)
            return;
        (void)sp_loop_turn(f->loop, 10 * MS, NULL);
    }
    test_fail(__FILE__, __LINE__, "the house is not ready");
    test_end();
}

static void close_house(film *f)
{
    sp_house_free(f->house, 1000);
    sp_loop_free(f->loop);
    f->house = NULL;
}

static void answered(sp_request *request, const sp_answer *answer, void *context)
{
    film *f = context;
    f->answered++;
    f->status = answer->status;
    f->answer = *answer;
    (void)snprintf(f->message, sizeof(f->message), "%s", answer->error.message);
    (void)snprintf(f->code, sizeof(f->code), "%s", answer->error.code);
    free(f->payload);
    f->payload = NULL;
    f->payload_bytes = answer->payload.size_bytes;
    if (f->payload_bytes) {
        f->payload = malloc(f->payload_bytes);
        REQUIRE(f->payload != NULL);
        memcpy(f->payload, answer->payload.data, f->payload_bytes);
    }
    sp_fd_closep(&f->report_fd);
    f->report_fd = sp_request_take_output(request);
    sp_request_close(request);
}

/* A request of the film: an order for these segments, if it wants one, and what was computed. */
static sp_request *ask(film *f, sp_task task, uint32_t first, uint32_t count, sp_view segments)
{
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry = 0;
    int64_t now_ns = sp_clock_now_ns();
    const sp_request_params params = { .task = task, .received_ns = now_ns, .deadline_ns = now_ns + WAIT_NS,
                                       .body_limit_bytes = 64 << 20 };
    sp_status s = sp_request_open(f->house, &params, &request, &retry, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "open: %s", err.message);
    REQUIRE(s == SP_OK);
    if (task != SP_TASK_INDEX) {
        const sp_analyze_order order = { .abi = SP_ANALYZE_ABI, .order_bytes = sizeof(order), .params = sp_analyze_params_default(),
                                         .first_segment = first, .segment_count = count, .index_bytes = f->index_bytes,
                                         .overlay = f->overlay, .segments_bytes = segments.size_bytes };
        REQUIRE(sp_request_append(request, &order, sizeof(order), &err) == SP_OK);
        REQUIRE(sp_request_append(request, f->index, f->index_bytes, &err) == SP_OK);
        REQUIRE(sp_request_append(request, segments.data, segments.size_bytes, &err) == SP_OK);
    }
    REQUIRE(sp_request_set_media(request, f->media_fd, f->media_bytes, (const uint8_t *)"the film's key, thirty-two bytes", &err) == SP_OK);
    sp_request_submit(request, answered, f);
    return request;
}

static void wait_for(film *f, int answers)
{
    for (int64_t until_ns = sp_clock_now_ns() + WAIT_NS; f->answered < answers && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(f->loop, 20 * MS, NULL);
    REQUIRE(f->answered >= answers);
}

static void one(film *f, sp_task task, uint32_t first, uint32_t count, sp_view segments)
{
    int before = f->answered;
    (void)ask(f, task, first, count, segments);
    wait_for(f, before + 1);
}

static void begin(film *f, const char *workers, const char *sim)
{
    const char *path = test_asset("media/video/big_buck_bunny_small.mp4");
    if (!path)
        SKIP("SPILLWAY_ASSETS has no media/video/big_buck_bunny_small.mp4");
    *f = (film){ .report_fd = -1 };
    f->media_fd = open(path, O_RDONLY | O_CLOEXEC);
    f->media_bytes = (uint64_t)lseek(f->media_fd, 0, SEEK_END);
    (void)setenv("SPILLWAY_SIM", sim, 1);
    open_house(f, workers);
    one(f, SP_TASK_INDEX, 0, 0, (sp_view){ 0 });
    CHECK_TEXT(f->message, "");
    REQUIRE(f->status == SP_OK && sp_video_index_check(sp_view_make(f->payload, f->payload_bytes), NULL) == SP_OK);
    f->index = SP_STEAL(f->payload);
    f->index_bytes = f->payload_bytes;
    f->payload_bytes = 0;
}

static void end(film *f)
{
    if (f->house)
        close_house(f);
    sp_fd_closep(&f->media_fd);
    sp_fd_closep(&f->report_fd);
    free(f->index);
    free(f->payload);
}

/* --- processes ---------------------------------------------------------------------------------------------------- */

/* The first process with that name under `parent`; 0 = none. */
static int child_named(int parent, const char *name)
{
    DIR *folder = opendir("/proc");
    int found = 0;
    for (const struct dirent *entry; folder && !found && (entry = readdir(folder));) {
        char path[300], text[256] = "", comm[32] = "";
        int pid = 0, of = 0;
        (void)snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
        FILE *file = entry->d_name[0] > '0' && entry->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (!file)
            continue;
        if (fgets(text, sizeof(text), file) && sscanf(text, "%d (%31[^)]) %*c %d", &pid, comm, &of) == 3 && of == parent &&
            strcmp(comm, name) == 0)
            found = pid;
        (void)fclose(file);
    }
    if (folder)
        (void)closedir(folder);
    return found;
}

/* A zombie that nobody reaps does nothing any more. */
static bool is_running(int pid)
{
    char path[64], text[256] = "", state = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    bool there = file && fgets(text, sizeof(text), file) && sscanf(text, "%*d (%*[^)]) %c", &state) == 1 && state != 'Z' && state != 'X';
    if (file)
        (void)fclose(file);
    return there;
}

static int pid_of(const film *f, const char *worker)
{
    for (int i = 0; i < sp_house_worker_count(f->house); i++) {
        sp_worker_info info;
        sp_house_worker_info(f->house, i, &info);
        if (strcmp(info.name, worker) == 0)
            return info.pid;
    }
    return 0;
}

/* Until the request has analysed that many frames, or is answered. */
static bool wait_for_frames(film *f, const sp_request *request, uint32_t frames)
{
    for (int before = f->answered; f->answered == before;) {
        if (sp_request_progress(request) >= frames)
            return true;
        (void)sp_loop_turn(f->loop, 1 * MS, NULL);
    }
    return false;
}

static bool wait_until_no_decoder(film *f, const char *worker)
{
    for (int64_t until_ns = sp_clock_now_ns() + WAIT_NS; sp_clock_now_ns() < until_ns;) {
        if (!child_named(pid_of(f, worker), "frames"))
            return true;
        (void)sp_loop_turn(f->loop, 20 * MS, NULL);
    }
    return false;
}

/* --- the bytes ------------------------------------------------------------------------------------------------------ */

static uint8_t *reference;
static size_t reference_bytes;

/* Everything in one chunk by cpu0 with one thread; computed once. */
static void need_reference(void)
{
    film f;
    if (reference)
        return;
    (void)setenv("SPILLWAY_ANALYZE_THREADS", "1", 1);
    begin(&f, "codec0,cpu0", "");
    one(&f, SP_TASK_ANALYZE, 0, index_of(&f)->segment_count, (sp_view){ 0 });
    (void)unsetenv("SPILLWAY_ANALYZE_THREADS");
    CHECK_TEXT(f.message, "");
    REQUIRE(f.status == SP_OK);
    reference = SP_STEAL(f.payload);
    reference_bytes = f.payload_bytes;
    CHECK(f.answer.decode_ns > 0 && f.answer.inference_ns > 0 && f.answer.device_ns > 0);
    uint32_t frames = 0, segments = 0;
    for (size_t at = 0; at < reference_bytes; segments++) {
        uint64_t bytes = 0;
        const sp_analyze_params params = sp_analyze_params_default();
        REQUIRE(sp_segment_check(sp_view_make(reference + at, reference_bytes - at), index_of(&f), &params, &bytes, NULL) == SP_OK);
        frames += ((const sp_segment_head *)(const void *)(reference + at))->record_count;
        at += bytes;
    }
    CHECK_INT(segments, index_of(&f)->segment_count);
    CHECK_INT(frames, index_of(&f)->frame_count);
    CHECK_INT(frames, 132); /* what ffprobe -count_frames says */
    end(&f);
}

/* How much of the film most tests do: all of it, or under a sanitizer its first segment. */
static uint32_t much(const film *f)
{
    return getenv("SPILLWAY_SANITIZER") ? 1 : index_of(f)->segment_count;
}

static void check_bytes(film *f, size_t size_bytes)
{
    CHECK_TEXT(f->message, "");
    CHECK_INT(f->status, SP_OK);
    CHECK_INT(f->payload_bytes, size_bytes);
    if (f->payload_bytes == size_bytes)
        CHECK_BYTES(f->payload, reference, size_bytes);
}

static void check_much(film *f)
{
    size_t bytes = 0;
    for (uint32_t s = 0; s < much(f); s++)
        bytes += ((const sp_segment_head *)(const void *)(reference + bytes))->bytes;
    check_bytes(f, bytes);
}

static void check_first_segment(film *f)
{
    check_bytes(f, ((const sp_segment_head *)(const void *)reference)->bytes);
}

TEST(a_report_of_a_film)
{
    film f;
    need_reference();
    begin(&f, "codec0,cpu0", "");
    one(&f, SP_TASK_REPORT, 0, index_of(&f)->segment_count, sp_view_make(reference, reference_bytes));
    CHECK_TEXT(f.message, "");
    REQUIRE(f.status == SP_OK && f.report_fd >= 0);
    char names[4096] = " ";
    uint64_t at = 0;
    for (;;) {
        char header[512] = "";
        REQUIRE(pread(f.report_fd, header, sizeof(header), (off_t)at) == sizeof(header));
        if (!header[0])
            break;
        CHECK(memcmp(header + 257, "ustar", 5) == 0);
        (void)snprintf(names + strlen(names), sizeof(names) - strlen(names), "%.99s ", header);
        at += 512 + SP_ALIGN_UP((uint64_t)strtoull(header + 124, NULL, 8), (uint64_t)512);
    }
    CHECK_INT(at + 1024, f.answer.output_bytes);
    CHECK(strncmp(names, " report.json ", 13) == 0);
    CHECK(strstr(names, " frames.csv ") && strstr(names, " frames.npz ") && strstr(names, " report.html ") && strstr(names, " key/"));
    uint64_t without_film = f.answer.output_bytes;
    f.overlay = 1;
    one(&f, SP_TASK_REPORT, 0, index_of(&f)->segment_count, sp_view_make(reference, reference_bytes));
    CHECK_TEXT(f.message, ""); /* the encoder, in the sandbox */
    CHECK(f.answer.output_bytes > without_film);
    one(&f, SP_TASK_REPORT, 0, index_of(&f)->segment_count, sp_view_make(reference, reference_bytes - 8));
    CHECK_INT(f.status, SP_INVALID);
    one(&f, SP_TASK_ANALYZE, 0, index_of(&f)->segment_count + 1, (sp_view){ 0 });
    CHECK_INT(f.status, SP_INVALID);
    end(&f);
}

TEST(threads_and_chunks_change_no_byte)
{
    film f;
    need_reference();
    (void)setenv("SPILLWAY_ANALYZE_THREADS", "2", 1);
    begin(&f, "codec0,cpu0", "");
    (void)unsetenv("SPILLWAY_ANALYZE_THREADS");
    one(&f, SP_TASK_ANALYZE, 0, much(&f), (sp_view){ 0 });
    check_much(&f);
    size_t at = 0;
    for (uint32_t s = 0; s < much(&f); s++) {
        one(&f, SP_TASK_ANALYZE, s, 1, (sp_view){ 0 });
        REQUIRE(f.status == SP_OK && f.payload_bytes <= reference_bytes - at);
        CHECK_BYTES(f.payload, reference + at, f.payload_bytes);
        at += f.payload_bytes;
    }
    CHECK(at == reference_bytes || much(&f) < index_of(&f)->segment_count);
    CHECK(wait_until_no_decoder(&f, "cpu0")); /* it is kept for the next chunk, and not for ever */
    end(&f);
}

TEST(a_decoder_is_killed_in_the_middle)
{
    film f;
    need_reference();
    begin(&f, "codec0,cpu0", "");
    sp_request *request = ask(&f, SP_TASK_ANALYZE, 0, much(&f), (sp_view){ 0 });
    int before = f.answered;
    if (wait_for_frames(&f, request, 1)) {
        int decoder = child_named(pid_of(&f, "cpu0"), "frames");
        CHECK(decoder > 0 && kill(decoder, SIGKILL) == 0);
    }
    wait_for(&f, before + 1);
    check_much(&f);
    end(&f);
}

TEST(a_worker_is_killed_in_the_middle)
{
    film f;
    need_reference();
    begin(&f, "codec0,cpu0,cpu1", "");
    sp_request *request = ask(&f, SP_TASK_ANALYZE, 0, much(&f), (sp_view){ 0 });
    int before = f.answered;
    if (wait_for_frames(&f, request, 20)) {
        const char *worker = child_named(pid_of(&f, "cpu0"), "frames") ? "cpu0" : "cpu1";
        int pid = pid_of(&f, worker), decoder = child_named(pid, "frames");
        CHECK(pid > 0 && kill(pid, SIGKILL) == 0);
        wait_for(&f, before + 1);
        CHECK_INT(f.answer.attempt_count, 2);
        CHECK(decoder == 0 || !is_running(decoder)); /* it went with its worker */
    }
    wait_for(&f, before + 1);
    check_much(&f);
    end(&f);
}

TEST(a_client_leaves_in_the_middle)
{
    film f;
    need_reference();
    begin(&f, "codec0,cpu0", "");
    sp_request *request = ask(&f, SP_TASK_ANALYZE, 0, much(&f), (sp_view){ 0 });
    CHECK(wait_for_frames(&f, request, 1));
    sp_request_cancel(request);
    CHECK(wait_until_no_decoder(&f, "cpu0"));
    for (int64_t until_ns = sp_clock_now_ns() + WAIT_NS; sp_house_leased_count(f.house) && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(f.loop, 20 * MS, NULL);
    CHECK_INT(sp_house_leased_count(f.house), 0);
    one(&f, SP_TASK_ANALYZE, 0, much(&f), (sp_view){ 0 }); /* by the same process */
    check_much(&f);
    CHECK_INT(f.answer.attempt_count, 1);
    end(&f);
}

TEST(a_device_that_fails_in_the_middle_is_followed_by_the_cpu)
{
    static const char *const faults[] = { "fault=sticky@n=4", "memory=20MiB,item=1MiB,fault=oom@n=4&for=ever", "fault=crash@n=4&for=ever",
                                          "fault=hang@n=4" };
    need_reference();
    for (size_t i = 0; i < SP_ARRAY_LEN(faults); i++) {
        film f;
        begin(&f, "codec0,sim0,cpu0", faults[i]);
        one(&f, SP_TASK_ANALYZE, 0, 1, (sp_view){ 0 });
        check_first_segment(&f);
        CHECK_TEXT(f.answer.device, "cpu");
        CHECK(f.answer.attempt_count >= 2);
        CHECK_TEXT(f.answer.attempts[0].link, "sim0");
        end(&f);
    }
}

TEST(a_healthy_device_says_the_same)
{
    film f;
    need_reference();
    begin(&f, "codec0,sim0,cpu0", "latency=1ms");
    for (int tries = 0; tries < 5; tries++) { /* a machine with no time for it looks like a hanging device */
        one(&f, SP_TASK_ANALYZE, 0, 1, (sp_view){ 0 });
        check_first_segment(&f);
        if (!strcmp(f.answer.device, "sim"))
            break;
    }
    CHECK_TEXT(f.answer.device, "sim");
    end(&f);
}

TEST(other_work_goes_on_beside_a_chunk)
{
    film f;
    sp_error err = { 0 };
    need_reference();
    begin(&f, "codec0,sim0", "latency=2s"); /* each block */
    sp_request *chunk = ask(&f, SP_TASK_ANALYZE, 0, 1, (sp_view){ 0 });
    for (int i = 0; i < 20; i++) {
        sp_request *request = NULL;
        int retry = 0, before = f.answered;
        int64_t now_ns = sp_clock_now_ns();
        const sp_request_params params = { .task = SP_TASK_NOOP, .received_ns = now_ns, .deadline_ns = now_ns + WAIT_NS };
        REQUIRE(sp_request_open(f.house, &params, &request, &retry, &err) == SP_OK);
        REQUIRE(sp_request_append(request, "echo", 4, &err) == SP_OK);
        sp_request_submit(request, answered, &f);
        wait_for(&f, before + 1);
        CHECK_INT(f.answered, before + 1);
        CHECK_INT(f.payload_bytes, 4);
    }
    sp_request_cancel(chunk);
    end(&f);
}
