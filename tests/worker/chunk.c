/* SPDX-License-Identifier: Apache-2.0
 * Chunks of videos (worker/chunk.h) with real decoder processes whose frames are made up (fake_video.h): the same bytes by any
 * number of threads and however the decoders fare; nothing is left behind. */
#include "worker/chunk.h"

#include "base/clock.h"
#include "fake_video.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_BYTES ((size_t)8 << 20)

static const fake_shape small = { .w = 96, .h = 72, .frames = 70, .segment_frames = 16, .run_segments = 2 };

/* How often: a sanitizer makes all of it ten times as slow. */
static int often(int count)
{
    return getenv("SPILLWAY_SANITIZER") ? SP_MAX(count / 4, 1) : count;
}

typedef struct fixture {
    sp_lane *lane;
    sp_video_index *index;
    int media_fd;
    uint8_t *body, *answer;
    size_t body_bytes;
    char log[64];
    /* What the chunk is told, and tells: */
    atomic_bool withdrawn;
    uint32_t progress, cancel_at, kill_at;
    int kills;
    int64_t decoder_budget_ns;
    sp_chunk_result result;
    sp_error error;
} fixture;

static bool cancelled(void *context)
{
    return ((fixture *)context)->withdrawn;
}

/* From the thread that runs the chunk, after each block. */
static void progress(void *context, uint32_t frames)
{
    fixture *f = context;
    f->progress = frames;
    if (f->cancel_at && frames >= f->cancel_at)
        f->withdrawn = true;
    if (f->kills && frames >= f->kill_at && sp_lane_decoder(f->lane)) {
        f->kills--;
        (void)kill(sp_lane_decoder(f->lane), SIGKILL);
    }
}

static void stage(void *context, sp_stage now, int64_t budget_ns)
{
    (void)context;
    CHECK(now == SP_STAGE_DECODE || now == SP_STAGE_INFERENCE);
    CHECK(budget_ns >= 0);
}

static void open_lane(fixture *f, int threads, sp_sim *sim)
{
    const char *program = getenv("SPILLWAY_FAKE_FRAMES");
    if (!program)
        SKIP("SPILLWAY_FAKE_FRAMES is not set: run by meson test");
    const sp_lane_settings settings = { .executable = program, .threads = threads, .decoder_threads = 2, .sim = sim,
                                        .decoder_budget_ns = f->decoder_budget_ns };
    sp_lane_free(f->lane);
    REQUIRE(sp_lane_new(&settings, &f->lane, NULL) == SP_OK);
}

static void begin(fixture *f, const fake_shape *shape, const char *file)
{
    *f = (fixture){ .index = fake_index(shape), .media_fd = -1 };
    REQUIRE(sp_video_index_check(sp_view_make(f->index, f->index->index_bytes), &f->error) == SP_OK);
    (void)snprintf(f->log, sizeof(f->log), "/tmp/fake-frames-%d", (int)getpid());
    (void)unlink(f->log);
    (void)setenv("FAKE_FRAMES_LOG", f->log, 1);
    f->media_fd = memfd_create("film", MFD_CLOEXEC);
    REQUIRE(f->media_fd >= 0 && write(f->media_fd, file, strlen(file)) == (ssize_t)strlen(file));
    f->body_bytes = sizeof(sp_analyze_order) + f->index->index_bytes;
    f->body = calloc(1, f->body_bytes);
    f->answer = malloc(ANSWER_BYTES);
    REQUIRE(f->body && f->answer);
    const sp_analyze_order order = { .abi = SP_ANALYZE_ABI, .order_bytes = sizeof(order), .params = sp_analyze_params_default(),
                                     .segment_count = f->index->segment_count, .index_bytes = f->index->index_bytes };
    memcpy(f->body, &order, sizeof(order));
    memcpy(f->body + sizeof(order), f->index, f->index->index_bytes);
}

static void end(fixture *f)
{
    sp_lane_free(f->lane);
    sp_fd_closep(&f->media_fd);
    (void)unlink(f->log);
    free(f->index);
    free(f->body);
    free(f->answer);
    *f = (fixture){ .media_fd = -1 };
}

static sp_analyze_order *order_of(fixture *f)
{
    return (sp_analyze_order *)(void *)f->body;
}

static sp_status run_chunk(fixture *f, uint32_t first, uint32_t count)
{
    order_of(f)->first_segment = first;
    order_of(f)->segment_count = count;
    const sp_chunk chunk = { .body = sp_view_make(f->body, f->body_bytes), .media_fd = f->media_fd, .media_bytes = 500,
                             .answer = f->answer, .answer_capacity = ANSWER_BYTES, .context = f, .cancelled = cancelled,
                             .progress = progress, .stage = stage };
    f->error = (sp_error){ 0 };
    return sp_lane_run(f->lane, &chunk, &f->result, &f->error);
}

static sp_status run_all(fixture *f)
{
    return run_chunk(f, 0, f->index->segment_count);
}

/* What the answer should be: everything in one go, by one thread, no process. */
static size_t expected(const fixture *f, const char *file, uint32_t lost_segment, uint8_t **ret_bytes)
{
    sp_analyze_params params = sp_analyze_params_default();
    sp_analyze_plan *plan = NULL;
    sp_analyzer *analyzer = NULL;
    sp_buf out;
    size_t plane = (size_t)f->index->width * (size_t)f->index->height;
    REQUIRE(sp_analyze_plan_new(&params, f->index->width, f->index->height, &plan, NULL) == SP_OK);
    REQUIRE(sp_analyzer_new(plan, &analyzer, NULL) == SP_OK);
    sp_buf_init(&out, ANSWER_BYTES);
    for (uint32_t s = 0; s < f->index->segment_count; s++) {
        const sp_video_segment *of = &sp_video_index_segments(f->index)[s];
        uint8_t *grey = malloc(plane * (of->frame_count + 1));
        const uint8_t *planes[200];
        sp_video_frame frames[200];
        sp_frame_record records[200];
        sp_video_loss loss = { 0 };
        uint32_t count = 0, there = 0;
        REQUIRE(grey && of->frame_count < 199);
        for (uint32_t i = 0; i <= of->frame_count && s != lost_segment; i++) {
            uint32_t number = of->first_frame + i;
            if (number >= f->index->frame_count)
                continue;
            if (fake_says(file, "lost", number)) {
                loss.error_count += i < of->frame_count;
                continue;
            }
            fake_frame(f->index, number, grey + plane * there, (size_t)f->index->width);
            planes[there] = grey + plane * there;
            frames[there] = (sp_video_frame){ .number = number, .pts = number * 40, .key = i == 0,
                                              .damaged = fake_says(file, "damaged", number) };
            there++;
            count += i < of->frame_count;
        }
        if (count)
            sp_analyzer_run(analyzer, planes, (size_t)f->index->width, frames, (int)count, there > count, records);
        if (loss.error_count)
            (void)snprintf(loss.reason, sizeof(loss.reason), "said to be lost");
        if (s == lost_segment)
            (void)snprintf(loss.reason, sizeof(loss.reason), SP_CHUNK_LOST);
        sp_segment_write(&out, f->index, &params, s, records, count, &loss);
        free(grey);
    }
    sp_analyzer_free(analyzer);
    sp_analyze_plan_free(plan);
    size_t bytes;
    *ret_bytes = (uint8_t *)sp_buf_take(&out, &bytes);
    REQUIRE(*ret_bytes != NULL);
    return bytes;
}

#define NO_SEGMENT UINT32_MAX

static void check_answer(fixture *f, const char *file, uint32_t lost_segment)
{
    uint8_t *bytes;
    size_t size = expected(f, file, lost_segment, &bytes);
    CHECK_INT(f->result.answer_bytes, size);
    if (f->result.answer_bytes == size)
        CHECK_BYTES(f->answer, bytes, size);
    for (size_t at = 0; at < f->result.answer_bytes;) {
        uint64_t one = 0;
        REQUIRE(sp_segment_check(sp_view_make(f->answer + at, f->result.answer_bytes - at), f->index, &order_of(f)->params, &one,
                                 &f->error) == SP_OK);
        at += one;
    }
    free(bytes);
}

static int starts(const fixture *f)
{
    size_t bytes = 0;
    char *text = test_read_file(f->log, &bytes);
    free(text);
    return (int)(bytes / strlen("start\n"));
}

static int descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    while (folder && readdir(folder))
        count++;
    if (folder)
        (void)closedir(folder);
    return count;
}

static bool has_children(void)
{
    return waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD;
}

TEST(threads_change_no_byte)
{
    static const char *const files[] = { "", " lost=3 lost=16 lost=31 lost=32 lost=48 damaged=20 ", " lost=69 lost=0 " };
    for (size_t i = 0; i < SP_ARRAY_LEN(files); i++) {
        fixture f;
        begin(&f, &small, files[i]);
        for (int threads = 1; threads <= (i ? 2 : 3); threads++) {
            open_lane(&f, threads, NULL);
            CHECK_INT(run_all(&f), SP_OK);
            CHECK_TEXT(f.error.message, "");
            check_answer(&f, files[i], NO_SEGMENT);
            CHECK(f.result.decode_ns > 0 && f.result.timing.flow_ns > 0);
            CHECK_INT(f.progress, f.result.frames);
        }
        end(&f);
    }
    CHECK(!has_children());
}

TEST(chunks_put_together_are_the_whole)
{
    fixture f;
    uint8_t *bytes;
    begin(&f, &small, " lost=33 ");
    open_lane(&f, 2, NULL);
    size_t size = expected(&f, " lost=33 ", NO_SEGMENT, &bytes), at = 0;
    for (uint32_t s = f.index->segment_count; s-- > 0;) { /* backwards: no chunk knows another */
        CHECK_INT(run_chunk(&f, s, 1), SP_OK);
        at += f.result.answer_bytes;
        REQUIRE(at <= size);
        CHECK_BYTES(f.answer, bytes + size - at, f.result.answer_bytes);
    }
    CHECK_INT(at, size);
    CHECK_INT(starts(&f), 1); /* one decoder went from chunk to chunk */
    free(bytes);
    end(&f);
}

/* Analyzers stay with the lane. One that has looked ahead at frame 16 of a film must not take it for frame 16 of the next. */
TEST(a_film_leaves_nothing_for_the_next)
{
    const fake_shape shape = { .w = 96, .h = 72, .frames = 40, .segment_frames = 64, .run_segments = 1 };
    fixture films[2];
    begin(&films[0], &shape, "");
    begin(&films[1], &shape, "");
    films[1].index->sha256[0] = 31;
    memcpy(films[1].body + sizeof(sp_analyze_order), films[1].index, films[1].index->index_bytes);
    open_lane(&films[0], 2, NULL);
    for (int i = 0; i < often(48); i++) {
        fixture *f = &films[i % 2];
        f->lane = films[0].lane;
        CHECK_INT(run_all(f), SP_OK);
        check_answer(f, "", NO_SEGMENT);
    }
    films[1].lane = NULL;
    end(&films[1]);
    end(&films[0]);
}

TEST(a_killed_decoder_is_replaced)
{
    fixture f;
    begin(&f, &small, " damaged=40 ");
    open_lane(&f, 2, NULL);
    for (uint32_t at = 1; at < 70; at += 23) {
        f.kills = 2;
        f.kill_at = at;
        (void)sp_lane_rest(f.lane);
        CHECK_INT(run_all(&f), SP_OK);
        check_answer(&f, " damaged=40 ", NO_SEGMENT);
    }
    CHECK(starts(&f) > 3);
    end(&f);
    begin(&f, &small, " kill=20 "); /* somebody is after it: another link may have more luck */
    open_lane(&f, 2, NULL);
    CHECK_INT(run_all(&f), SP_UNAVAILABLE);
    CHECK(strstr(f.error.message, "outside") != NULL);
    CHECK_INT(starts(&f), 4);
    end(&f);
    CHECK(!has_children());
}

TEST(a_segment_that_kills_its_decoder_is_lost_whole)
{
    static const char *const files[] = { " crash=36 ", " nonsense=33 " };
    for (size_t i = 0; i < SP_ARRAY_LEN(files); i++) {
        fixture f;
        begin(&f, &small, files[i]);
        for (int threads = 1; threads <= 2; threads++) {
            open_lane(&f, threads, NULL);
            CHECK_INT(run_all(&f), SP_OK);
            check_answer(&f, files[i], 2);
        }
        CHECK_INT(starts(&f), 6); /* the first, the second try, the one for the rest; twice */
        CHECK_INT(run_chunk(&f, 2, 1), SP_OK);
        CHECK_INT(f.result.frames, 0);
        end(&f);
    }
    CHECK(!has_children());
}

TEST(a_segment_that_hangs_its_decoder_is_lost_whole)
{
    fixture f;
    begin(&f, &small, " spin=36 ");
    f.decoder_budget_ns = (getenv("SPILLWAY_SANITIZER") ? 3000 : 300) * SP_NS_PER_MS; /* it has to start, too */
    open_lane(&f, 2, NULL);
    CHECK_INT(run_all(&f), SP_OK);
    check_answer(&f, " spin=36 ", 2);
    CHECK_INT(starts(&f), 3);
    end(&f);
    CHECK(!has_children());
}

TEST(a_decoder_that_raves_harms_nobody)
{
    for (uint32_t number = 0; number < 70; number += 23) {
        char file[32];
        fixture f;
        (void)snprintf(file, sizeof(file), " noise=%u ", number);
        begin(&f, &small, file);
        open_lane(&f, 2, NULL);
        sp_status s = run_all(&f);
        CHECK(s == SP_OK || f.error.message[0]);
        for (size_t at = 0; !s && at < f.result.answer_bytes;) { /* whatever it said, these are segments of the film */
            uint64_t one = 0;
            REQUIRE(sp_segment_check(sp_view_make(f.answer + at, f.result.answer_bytes - at), f.index, &order_of(&f)->params, &one,
                                     NULL) == SP_OK);
            at += one;
        }
        end(&f);
    }
    CHECK(!has_children());
}

TEST(a_crash_that_does_not_come_again_costs_nothing)
{
    fixture f;
    begin(&f, &small, "");
    (void)setenv("SPILLWAY_FAULTS", "frames.frame:segv@body-prefix=attempt=0 segment=3 frame=50", 1);
    open_lane(&f, 2, NULL);
    CHECK_INT(run_all(&f), SP_OK);
    (void)unsetenv("SPILLWAY_FAULTS");
    check_answer(&f, "", NO_SEGMENT);
#ifdef SP_FAULTS
    CHECK_INT(starts(&f), 2);
#endif
    end(&f);
}

TEST(a_file_that_cannot_be_read_is_told)
{
    char file[32];
    static const sp_status statuses[] = { SP_INVALID, SP_UNSUPPORTED, SP_CORRUPT, SP_NOMEM };
    for (size_t i = 0; i < SP_ARRAY_LEN(statuses); i++) {
        fixture f;
        (void)snprintf(file, sizeof(file), " open=%d ", statuses[i]);
        begin(&f, &small, file);
        open_lane(&f, 2, NULL);
        CHECK_INT(run_all(&f), statuses[i]);
        CHECK_TEXT(f.error.code, "fake");
        CHECK(strstr(f.error.message, "it cannot be read") != NULL);
        end(&f);
    }
    CHECK(!has_children());
}

TEST(withdrawn_in_the_middle)
{
    fixture f;
    begin(&f, &small, " spin=60 ");
    open_lane(&f, 2, NULL);
    f.cancel_at = 20;
    CHECK_INT(run_all(&f), SP_CANCELLED);
    CHECK(f.result.frames < 60);
    CHECK(!has_children());
    f.withdrawn = false;
    f.cancel_at = 0;
    CHECK_INT(run_chunk(&f, 0, 2), SP_OK); /* the lane goes on */
    end(&f);
    CHECK(!has_children());
}

TEST(bad_orders_are_refused)
{
    fixture f;
    begin(&f, &small, "");
    open_lane(&f, 1, NULL);
    CHECK_INT(run_chunk(&f, 0, 6), SP_INVALID);
    CHECK_INT(run_chunk(&f, 5, 1), SP_INVALID);
    CHECK_INT(run_chunk(&f, 4, UINT32_MAX), SP_INVALID);
    CHECK_INT(run_chunk(&f, 0, 0), SP_INVALID);
    for (int i = 0; i < often(300); i++) { /* no crash, whatever is turned over; most is noticed */
        size_t at = (size_t)test_random_between(0, (int)f.body_bytes - 1);
        uint8_t was = f.body[at];
        f.body[at] ^= (uint8_t)(1 << test_random_between(0, 7));
        f.cancel_at = 1;
        f.withdrawn = true; /* one that is taken is left at once */
        sp_status s = run_all(&f);
        CHECK(s != SP_OK && s != SP_INTERNAL);
        f.body[at] = was;
    }
    f.withdrawn = false;
    f.cancel_at = 0;
    f.body_bytes -= 8;
    CHECK_INT(run_all(&f), SP_INVALID);
    f.body_bytes = 10;
    CHECK_INT(run_all(&f), SP_INVALID);
    CHECK(!has_children());
    end(&f);
}

TEST(a_chunk_that_no_answer_can_hold_is_refused_at_once)
{
    const fake_shape long_one = { .w = 16, .h = 16, .frames = 20000, .segment_frames = 64, .run_segments = 1 };
    fixture f;
    begin(&f, &long_one, "");
    open_lane(&f, 1, NULL);
    CHECK_INT(run_all(&f), SP_TOO_LARGE);
    CHECK_TEXT(f.error.code, "chunk_too_large");
    CHECK_INT(starts(&f), 0);
    end(&f);
}

TEST(a_device_that_fails_in_the_middle)
{
    static const struct {
        const char *script;
        sp_status status;
        const char *code;
    } rows[] = { { "fault=sticky@n=3", SP_UNAVAILABLE, "sticky" }, { "memory=8MiB,item=1MiB,fault=oom@n=3&for=ever", SP_NOMEM, "oom" },
                 { "memory=8MiB,item=3MiB", SP_OK, "" } };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        fixture f;
        sp_sim *sim = NULL;
        begin(&f, &small, "");
        REQUIRE(sp_sim_new(rows[i].script, "sim0", &sim, NULL) == SP_OK);
        open_lane(&f, 2, sim);
        CHECK_INT(run_all(&f), rows[i].status);
        CHECK_TEXT(f.error.code, rows[i].code);
        CHECK_INT(f.result.lost_device.status, rows[i].status == SP_UNAVAILABLE ? SP_UNAVAILABLE : SP_OK);
        if (!rows[i].status) /* too small for blocks: one frame at a time, the same bytes */
            check_answer(&f, "", NO_SEGMENT);
        end(&f);
        sp_sim_free(sim);
    }
    CHECK(!has_children());
}

static long resident_pages(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    long size = 0, resident = 0;
    text[n > 0 ? n : 0] = 0;
    sp_fd_closep(&fd);
    return sscanf(text, "%ld %ld", &size, &resident) == 2 ? resident : 0;
}

TEST(nothing_is_left_behind)
{
    fixture f;
    begin(&f, &small, "");
    open_lane(&f, 2, NULL);
    CHECK_INT(run_chunk(&f, 0, 1), SP_OK);
    (void)sp_lane_rest(f.lane);
    int before = descriptors();
    long pages = 0;
    for (int i = 0; i < often(40); i++) {
        f.withdrawn = i % 5 == 4;
        CHECK_INT(run_chunk(&f, (uint32_t)i % 4, 1), f.withdrawn ? SP_CANCELLED : SP_OK);
        if (i % 3 == 0)
            (void)sp_lane_rest(f.lane);
        if (i == often(40) / 2)
            pages = resident_pages();
    }
    (void)sp_lane_rest(f.lane);
    CHECK(!sp_lane_keeps(f.lane) && !has_children());
    CHECK_INT(descriptors(), before);
    CHECK(getenv("SPILLWAY_SANITIZER") || resident_pages() < pages + 1024); /* 4 MiB; a sanitizer keeps what is freed */
    end(&f);
}
