/* SPDX-License-Identifier: Apache-2.0
 * A video's run over a house that is played by this file: what it asks for, in which pieces, what it does with answers that
 * fail, lie, or never come, and what it keeps. Time is the test's own. */
#include "base/clock.h"
#include "jobs/analysis.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEGMENTS 40
#define SEGMENT_FRAMES 50
#define REQUESTS 128

/* --- a house ------------------------------------------------------------------------------------------------------- */

struct sp_request {
    bool open, submitted;
    sp_task task;
    uint8_t *body;
    size_t body_bytes;
    int64_t deadline_ns;
    uint32_t progress;
    sp_request_done_fn *done;
    void *context;
};

struct sp_house {
    sp_request requests[REQUESTS];
    int opened, open, most_open, submitted_total;
    int busy_opens; /* so many opens are refused first */
    int workers;
    size_t largest_append;
};

struct sp_answer_memory {
    int references;
};
static sp_answer_memory worker_memory;

sp_answer_memory *sp_answer_memory_ref(sp_answer_memory *memory)
{
    memory->references++;
    return memory;
}

void sp_answer_memory_unref(sp_answer_memory *memory)
{
    if (memory)
        memory->references--;
}

const char *sp_task_name(sp_task task)
{
    return task == SP_TASK_INDEX ? "index" : task == SP_TASK_REPORT ? "report" : "analyze";
}

int sp_house_worker_count(const sp_house *house)
{
    return house->workers;
}

void sp_house_worker_info(const sp_house *house, int index, sp_worker_info *ret_info)
{
    static const char *const names[] = { "codec0", "cpu0", "cpu1", "cpu2" };
    *ret_info = (sp_worker_info){ .name = names[index], .kind = "", .state = SP_WORKER_READY };
}

const sp_config *sp_house_config_now(const sp_house *house)
{
    return NULL;
}

sp_status sp_request_open(sp_house *house, const sp_request_params *params, sp_request **ret_request, int *ret_retry_after_s,
                          sp_error *reterr)
{
    if (house->busy_opens) {
        house->busy_opens--;
        *ret_retry_after_s = 2;
        return SP_FAIL_CODE(reterr, SP_BUSY, "no_slot", "all places are taken");
    }
    for (int i = 0; i < REQUESTS; i++) {
        sp_request *r = &house->requests[i];
        if (r->open)
            continue;
        *r = (sp_request){ .open = true, .task = params->task, .deadline_ns = params->deadline_ns, .body = malloc(params->body_limit_bytes) };
        house->opened++;
        house->open++;
        house->most_open = SP_MAX(house->most_open, house->open);
        *ret_request = r;
        return SP_OK;
    }
    abort();
}

sp_status sp_request_append(sp_request *r, const void *data, size_t size_bytes, sp_error *reterr)
{
    memcpy(r->body + r->body_bytes, data, size_bytes);
    r->body_bytes += size_bytes;
    return SP_OK;
}

sp_status sp_request_set_media(sp_request *r, int fd, uint64_t size_bytes, const uint8_t key[32], sp_error *reterr)
{
    return SP_OK;
}

uint32_t sp_request_progress(const sp_request *r)
{
    return r->progress;
}

void sp_request_extend_deadline(sp_request *r, int64_t deadline_ns)
{
    r->deadline_ns = SP_MAX(r->deadline_ns, deadline_ns);
}

static int report_fd;
int sp_request_take_output(sp_request *r)
{
    int fd = report_fd;
    report_fd = -1;
    return fd;
}

void sp_request_submit(sp_request *r, sp_request_done_fn *done, void *context)
{
    r->submitted = true;
    r->done = done;
    r->context = context;
}

static sp_house house;

void sp_request_close(sp_request *r)
{
    free(r->body);
    *r = (sp_request){ 0 };
    house.open--;
}

void sp_request_cancel(sp_request *r)
{
    sp_request_close(r);
}

/* --- a video and its segments, in forms of our own ------------------------------------------------------------------- */

static struct {
    sp_video_index index;
    sp_video_segment segments[SEGMENTS];
} video;

sp_status sp_video_index_check(sp_view block, sp_error *reterr)
{
    return block.size_bytes == sizeof(video) ? SP_OK : SP_FAIL_CODE(reterr, SP_INVALID, "bad_index", "no index");
}

sp_status sp_analyze_params_check(const sp_analyze_params *params, sp_error *reterr)
{
    return params->canny_low > params->canny_high ? SP_FAIL(reterr, SP_INVALID, "canny_low") : SP_OK;
}

typedef struct fake_segment {
    sp_segment_head head;
    uint64_t records[7];
} fake_segment;

static fake_segment segment_of(uint32_t number)
{
    fake_segment s = { .head = { .magic = 1, .bytes = sizeof(s), .segment = number, .record_count = SEGMENT_FRAMES } };
    for (int i = 0; i < 7; i++)
        s.records[i] = number * 1000u + (unsigned)i;
    return s;
}

sp_status sp_segment_check(sp_view block, const sp_video_index *index, const sp_analyze_params *params, uint64_t *ret_bytes,
                           sp_error *reterr)
{
    fake_segment s;
    CHECK(((uintptr_t)block.data & 7) == 0);
    if (block.size_bytes < sizeof(s))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_segment", "it is cut");
    memcpy(&s, block.data, sizeof(s));
    if (s.head.magic != 1 || s.head.segment >= SEGMENTS)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_segment", "it is none");
    *ret_bytes = sizeof(s);
    return SP_OK;
}

static void video_make(void)
{
    memset(&video, 0, sizeof(video));
    video.index = (sp_video_index){ .index_bytes = sizeof(video), .frame_count = SEGMENTS * SEGMENT_FRAMES, .segment_count = SEGMENTS,
                                    .segments_offset = offsetof(__typeof__(video), segments), .time_base_num = 1, .time_base_den = 30 };
    for (uint32_t i = 0; i < SEGMENTS; i++)
        video.segments[i] = (sp_video_segment){ .run = i / 3, .first_frame = i * SEGMENT_FRAMES, .frame_count = SEGMENT_FRAMES };
}

/* --- a run and what is around it -------------------------------------------------------------------------------------- */

typedef struct place {
    sp_loop *loop;
    int64_t now_ns;
    int media_fd;
    sp_analysis_run *run;
    bool ended;
    sp_status status;
    char message[256];
    int fd;
    int asked[SEGMENTS];      /* how often a chunk with it was submitted */
    fake_segment seen[SEGMENTS]; /* what REPORT was given */
    uint32_t report_segments;
    /* parts: */
    fake_segment kept[SEGMENTS];
    int kept_count, saved, save_calls;
    sp_parts_saved_fn *owed;
    void *owed_context;
    bool hold_saves;
    sp_status save_status;
    bool claims[SEGMENTS]; /* false: somebody else's */
    bool use_claims;
} place;

static void loaded_now(place *p, sp_parts_loaded_fn *reply, void *context)
{
    reply(sp_view_make(p->kept, sizeof(fake_segment) * (size_t)p->kept_count), context);
}

static struct {
    sp_parts_loaded_fn *reply;
    void *context;
} loading;
static void load(void *context, sp_parts_loaded_fn *reply, void *reply_context)
{
    loading.reply = reply;
    loading.context = reply_context;
}

static void save(void *context, uint32_t first_segment, sp_view segments, sp_parts_saved_fn *reply, void *reply_context)
{
    place *p = context;
    fake_segment first;
    memcpy(&first, segments.data, sizeof(first));
    CHECK_INT(first.head.segment, first_segment);
    p->saved += (int)(segments.size_bytes / sizeof(fake_segment));
    p->save_calls++;
    REQUIRE(!p->owed);
    p->owed = reply;
    p->owed_context = reply_context;
}

static bool claim(void *context, uint32_t first_segment, uint32_t segment_count)
{
    return ((place *)context)->claims[first_segment];
}

static void done(sp_analysis_run *run, sp_status status, const sp_error *err, int fd, uint64_t report_bytes, void *context)
{
    place *p = context;
    CHECK(!p->ended);
    p->ended = true;
    p->status = status;
    p->fd = fd;
    (void)snprintf(p->message, sizeof(p->message), "%s", err ? err->message : "");
}

static place *begin(const sp_analysis_settings *settings, bool with_parts)
{
    static place p;
    sp_error err = { 0 };
    memset(&house, 0, sizeof(house));
    house.workers = 3; /* two of them compute */
    video_make();
    p = (place){ .now_ns = 1000 * SP_NS_PER_S, .media_fd = memfd_create("video", MFD_CLOEXEC), .fd = -1 };
    loading.reply = NULL;
    report_fd = memfd_create("report", MFD_CLOEXEC);
    sp_clock_inject(&p.now_ns);
    REQUIRE(!sp_loop_new(&p.loop, &err));
    const sp_analysis_parts parts = { .context = &p, .load = load, .save = save };
    REQUIRE(!sp_analysis_run_begin(&house, p.loop, p.media_fd, 12, settings, with_parts ? &parts : NULL, done, &p, &p.run, &err));
    return &p;
}

static void finish(place *p)
{
    if (p->run)
        sp_analysis_run_free(p->run);
    CHECK_INT(house.open, 0);
    CHECK_INT(worker_memory.references, 0);
    sp_loop_free(p->loop);
    sp_clock_inject(NULL);
    close(p->media_fd);
    if (p->fd >= 0)
        close(p->fd);
    if (report_fd >= 0)
        close(report_fd);
}

static void turns(place *p, int count)
{
    sp_error err = { 0 };
    for (int i = 0; i < count; i++) {
        p->now_ns += SP_NS_PER_MS;
        REQUIRE(!sp_loop_turn(p->loop, 0, &err));
        if (loading.reply) {
            sp_parts_loaded_fn *reply = loading.reply;
            loading.reply = NULL;
            loaded_now(p, reply, loading.context);
        }
        if (p->owed && !p->hold_saves) {
            sp_parts_saved_fn *reply = p->owed;
            p->owed = NULL;
            sp_error save_err = { 0 };
            if (p->save_status)
                (void)SP_FAIL(&save_err, p->save_status, "the disk is full");
            reply(p->save_status, &save_err, p->owed_context);
        }
    }
}

static sp_request *submitted(sp_task task)
{
    for (int i = 0; i < REQUESTS; i++) {
        if (house.requests[i].submitted && house.requests[i].task == task && house.requests[i].done)
            return &house.requests[i];
    }
    return NULL;
}

static void answer(sp_request *r, const sp_answer *a)
{
    sp_request_done_fn *call = r->done;
    r->done = NULL;
    call(r, a, r->context);
}

static void answer_failure(sp_request *r, sp_status status, const char *message)
{
    sp_answer a = { .status = status, .output_fd = -1, .attempt_count = 1 };
    (void)SP_FAIL(&a.error, status, "%s", message);
    (void)snprintf(a.attempts[0].link, sizeof(a.attempts[0].link), "cpu0");
    a.attempts[0].status = status;
    answer(r, &a);
}

static void answer_index(place *p)
{
    turns(p, 3);
    sp_request *r = submitted(SP_TASK_INDEX);
    REQUIRE(r != NULL);
    CHECK_INT(r->body_bytes, sizeof(sp_video_limits));
    sp_answer a = { .payload = sp_view_make(&video, sizeof(video)), .output_fd = -1 };
    answer(r, &a);
    turns(p, 8);
}

static sp_analyze_order order_of(const sp_request *r)
{
    sp_analyze_order order;
    memcpy(&order, r->body, sizeof(order));
    return order;
}

/* What a worker would answer. `memory`: from its own, to be copied in slices. */
static void answer_chunk(place *p, sp_request *r, bool memory)
{
    static fake_segment segments[SEGMENTS];
    sp_analyze_order order = order_of(r);
    CHECK_INT(order.index_bytes, sizeof(video));
    CHECK_BYTES(r->body + sizeof(order), &video, sizeof(video));
    for (uint32_t i = 0; i < order.segment_count; i++) {
        segments[i] = segment_of(order.first_segment + i);
        p->asked[order.first_segment + i]++;
    }
    sp_answer a = { .payload = sp_view_make(segments, order.segment_count * sizeof(fake_segment)), .output_fd = -1, .link = "cpu0",
                    .device = "cpu", .microdollars = 7, .device_ns = 5, .memory = memory ? &worker_memory : NULL };
    answer(r, &a);
    turns(p, 6); /* the next one writes to the same memory */
}

static void answer_report(place *p)
{
    sp_request *r = submitted(SP_TASK_REPORT);
    REQUIRE(r != NULL);
    sp_analyze_order order = order_of(r);
    size_t at = sizeof(order) + sizeof(video);
    REQUIRE(r->body_bytes == at + order.segments_bytes);
    p->report_segments = (uint32_t)(order.segments_bytes / sizeof(fake_segment));
    REQUIRE(p->report_segments <= SEGMENTS);
    memcpy(p->seen, r->body + at, order.segments_bytes);
    sp_answer a = { .output_fd = 99, .output_bytes = 512 };
    answer(r, &a);
    turns(p, 3);
}

static void check_report(place *p)
{
    CHECK(p->ended);
    CHECK_INT(p->status, SP_OK);
    CHECK_TEXT(p->message, "");
    CHECK(p->fd >= 0);
    CHECK_INT(p->report_segments, SEGMENTS);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        fake_segment s = segment_of(i);
        CHECK_BYTES(&p->seen[i], &s, sizeof(s));
    }
}

static void answer_chunks(place *p)
{
    turns(p, 20);
    for (sp_request *r; (r = submitted(SP_TASK_ANALYZE));) {
        answer_chunk(p, r, true);
        turns(p, 6);
    }
}

/* --- tests -------------------------------------------------------------------------------------------------------------- */

TEST(every_segment_is_asked_for_once_and_reported_in_order)
{
    static const int counts[] = { 0, 1, 2, 7, 10, 39, 40, 200 };
    for (size_t i = 0; i < SP_ARRAY_LEN(counts); i++) {
        sp_analysis_summary summary;
        place *p = begin(&(sp_analysis_settings){ .chunks = counts[i] }, false);
        answer_index(p);
        answer_chunks(p);
        answer_report(p);
        check_report(p);
        for (int k = 0; k < SEGMENTS; k++)
            CHECK_INT(p->asked[k], 1);
        CHECK_INT(sp_analysis_run_state(p->run, &summary), SP_ANALYSIS_ENDED);
        int wanted = counts[i] ? SP_MIN(counts[i], SEGMENTS) : SP_ANALYSIS_CHUNKS;
        /* Cuts go to where runs begin: fine pieces may fall together. */
        CHECK((int)summary.chunks_total <= wanted && (int)summary.chunks_total >= SP_MIN(wanted, 10));
        CHECK_INT(summary.chunks_done, summary.chunks_total);
        CHECK_INT(summary.frames_done, SEGMENTS * SEGMENT_FRAMES);
        CHECK_INT(summary.link_count, 1);
        CHECK_INT(summary.links[0].frames, SEGMENTS * SEGMENT_FRAMES);
        CHECK_INT(summary.microdollars, 7 * summary.chunks_total);
        CHECK(house.most_open <= 5); /* two for each of two workers, and one that is read */
        CHECK_TEXT(sp_analysis_mode(&summary), "cpu");
        finish(p);
    }
}

TEST(a_house_with_one_video_may_have_all_chunks_at_once)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 10, .outstanding = 64 }, false);
    answer_index(p);
    turns(p, 60);
    CHECK_INT(house.open, 10);
    answer_chunks(p);
    answer_report(p);
    check_report(p);
    finish(p);
}

TEST(progress_counts_chunks_in_hand)
{
    sp_analysis_summary summary;
    place *p = begin(&(sp_analysis_settings){ .chunks = 2 }, false);
    CHECK_INT(sp_analysis_run_state(p->run, &summary), SP_ANALYSIS_INDEXING);
    CHECK(sp_analysis_run_index(p->run) == NULL);
    answer_index(p);
    turns(p, 10);
    CHECK_INT(sp_analysis_run_state(p->run, &summary), SP_ANALYSIS_WORKING);
    CHECK_INT(summary.frames_done, 0);
    submitted(SP_TASK_ANALYZE)->progress = 17;
    sp_analysis_run_state(p->run, &summary);
    CHECK_INT(summary.frames_done, 17);
    submitted(SP_TASK_ANALYZE)->progress = 1u << 30; /* a worker's claim */
    sp_analysis_run_state(p->run, &summary);
    CHECK(summary.frames_done <= SEGMENTS * SEGMENT_FRAMES);
    finish(p);
}

TEST(a_failed_chunk_is_cut_in_two)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 4 }, false);
    answer_index(p);
    turns(p, 20);
    sp_request *r = submitted(SP_TASK_ANALYZE);
    uint32_t first = order_of(r).first_segment, count = order_of(r).segment_count;
    answer_failure(r, SP_UNAVAILABLE, "worker died");
    turns(p, 20);
    bool halves = false;
    for (int i = 0; i < REQUESTS; i++) {
        if (house.requests[i].done && order_of(&house.requests[i]).first_segment == first)
            halves = order_of(&house.requests[i]).segment_count == count / 2;
    }
    answer_chunks(p);
    CHECK(halves);
    answer_report(p);
    check_report(p);
    sp_analysis_summary summary;
    sp_analysis_run_state(p->run, &summary);
    CHECK_INT(summary.attempt_count, 1);
    CHECK_TEXT(summary.attempts[0].link, "cpu0");
    CHECK_INT(summary.chunks_done, summary.chunks_total);
    finish(p);
}

TEST(a_chunk_too_long_for_an_answer_is_cut_in_two)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 1 }, false);
    answer_index(p);
    turns(p, 20);
    sp_answer too_long = { .status = SP_TOO_LARGE, .output_fd = -1 };
    (void)SP_FAIL_CODE(&too_long.error, SP_TOO_LARGE, "chunk_too_large", "an answer does not hold it");
    answer(submitted(SP_TASK_ANALYZE), &too_long);
    turns(p, 20);
    answer_chunks(p);
    answer_report(p);
    check_report(p);
    sp_analysis_summary summary;
    sp_analysis_run_state(p->run, &summary);
    CHECK_INT(summary.chunks_total, 2);
    finish(p);
}

TEST(a_segment_that_always_fails_ends_the_run_with_its_reason)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 4 }, false);
    answer_index(p);
    for (int i = 0; i < 100 && !p->ended; i++) {
        turns(p, 20);
        sp_request *r = submitted(SP_TASK_ANALYZE);
        if (!r)
            continue;
        sp_analyze_order order = order_of(r);
        if (order.first_segment <= 13 && 13 < order.first_segment + order.segment_count)
            answer_failure(r, SP_UNAVAILABLE, "the cosmic ray");
        else
            answer_chunk(p, r, false);
    }
    CHECK(p->ended);
    CHECK_INT(p->status, SP_UNAVAILABLE);
    CHECK(strstr(p->message, "segment 13") != NULL);
    CHECK(strstr(p->message, "the cosmic ray") != NULL);
    CHECK_INT(p->fd, -1);
    finish(p);
}

TEST(what_nobody_can_do_ends_the_run_at_once)
{
    place *p = begin(&(sp_analysis_settings){ 0 }, false);
    answer_index(p);
    turns(p, 20);
    int opened = house.opened;
    answer_failure(submitted(SP_TASK_ANALYZE), SP_DENIED, "not for you");
    turns(p, 5);
    CHECK(p->ended);
    CHECK_INT(p->status, SP_DENIED);
    CHECK_INT(house.opened, opened);
    CHECK_INT(house.open, 0); /* the others were withdrawn */
    finish(p);
}

TEST(an_answer_that_lies_is_done_again)
{
    enum { LEAVES_OUT, TWICE, OTHER, CUT, GARBAGE, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        static fake_segment segments[SEGMENTS];
        place *p = begin(&(sp_analysis_settings){ .chunks = 4 }, false);
        answer_index(p);
        turns(p, 20);
        sp_request *r = submitted(SP_TASK_ANALYZE);
        sp_analyze_order order = order_of(r);
        size_t size = sizeof(fake_segment) * order.segment_count;
        for (uint32_t i = 0; i < order.segment_count; i++)
            segments[i] = segment_of(order.first_segment + i);
        if (kind == LEAVES_OUT)
            size -= sizeof(fake_segment);
        else if (kind == TWICE)
            segments[1] = segments[0];
        else if (kind == OTHER)
            segments[1].head.segment = order.first_segment + order.segment_count;
        else if (kind == CUT)
            size -= 8;
        else
            segments[0].head.magic = 4711;
        sp_answer a = { .payload = sp_view_make(segments, size), .output_fd = -1, .link = "cpu0", .memory = &worker_memory };
        answer(r, &a);
        answer_chunks(p);
        answer_report(p);
        check_report(p);
        CHECK_INT(p->asked[order.first_segment], 1);
        finish(p);
    }
}

TEST(what_is_kept_is_not_asked_for_again)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 10 }, true);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        if (i != 3 && i != 20 && i != 21)
            p->kept[p->kept_count++] = segment_of(i);
    }
    answer_index(p);
    answer_chunks(p);
    answer_report(p);
    check_report(p);
    for (int i = 0; i < SEGMENTS; i++)
        CHECK_INT(p->asked[i], i == 3 || i == 20 || i == 21);
    CHECK_INT(p->saved, 3);
    sp_analysis_summary summary;
    sp_analysis_run_state(p->run, &summary);
    CHECK_INT(summary.segments_kept, SEGMENTS - 3);
    CHECK_INT(summary.chunks_done, summary.chunks_total);
    finish(p);
}

TEST(kept_bytes_that_are_damaged_are_computed_again)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 10 }, true);
    for (uint32_t i = 0; i < 10; i++)
        p->kept[p->kept_count++] = segment_of(i);
    p->kept[5].head.magic = 0;
    answer_index(p);
    answer_chunks(p);
    answer_report(p);
    check_report(p);
    for (int i = 0; i < SEGMENTS; i++)
        CHECK_INT(p->asked[i], i >= 5);
    finish(p);
}

TEST(a_run_waits_for_its_saves_and_survives_their_failure)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 1 }, true);
    p->hold_saves = true;
    p->save_status = SP_UNAVAILABLE;
    answer_index(p);
    answer_chunks(p);
    answer_report(p);
    CHECK(!p->ended);
    p->hold_saves = false;
    turns(p, 5);
    check_report(p);
    finish(p);
}

TEST(a_cancelled_run_leaves_nothing)
{
    for (int after = 0; after < 4; after++) {
        place *p = begin(&(sp_analysis_settings){ .chunks = 3 }, true);
        p->hold_saves = true;
        if (after >= 1)
            answer_index(p);
        if (after >= 2)
            turns(p, 20);
        if (after >= 3)
            answer_chunk(p, submitted(SP_TASK_ANALYZE), true);
        turns(p, 3);
        sp_analysis_run_cancel(p->run);
        CHECK_INT(house.open, 0);
        p->run = NULL;
        p->hold_saves = false;
        turns(p, 5); /* an owed reply comes now */
        CHECK(!p->ended);
        finish(p);
    }
}

TEST(a_full_house_is_waited_for)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 3 }, false);
    house.busy_opens = 2;
    turns(p, 10);
    CHECK(!submitted(SP_TASK_INDEX));
    turns(p, 5000);
    answer_index(p);
    answer_chunk(p, submitted(SP_TASK_ANALYZE), true);
    house.busy_opens = 3;
    answer_chunks(p);
    CHECK(!submitted(SP_TASK_REPORT));
    turns(p, 8000);
    answer_report(p);
    check_report(p);
    finish(p);
}

TEST(a_file_that_is_no_video_says_so)
{
    place *p = begin(&(sp_analysis_settings){ 0 }, false);
    turns(p, 3);
    answer_failure(submitted(SP_TASK_INDEX), SP_INVALID, "no container that is known");
    turns(p, 3);
    CHECK(p->ended);
    CHECK_INT(p->status, SP_INVALID);
    CHECK_TEXT(p->message, "no container that is known");
    finish(p);
}

TEST(a_worker_lost_over_the_index_or_the_report_is_asked_again)
{
    place *p = begin(&(sp_analysis_settings){ .chunks = 2 }, false);
    turns(p, 3);
    answer_failure(submitted(SP_TASK_INDEX), SP_UNAVAILABLE, "worker died");
    turns(p, 1500);
    answer_index(p);
    answer_chunks(p);
    answer_failure(submitted(SP_TASK_REPORT), SP_UNAVAILABLE, "worker died");
    turns(p, 1500);
    answer_report(p);
    check_report(p);
    finish(p);
}

static fake_segment others[SEGMENTS];
static size_t others_bytes;
static struct {
    sp_parts_loaded_fn *reply;
    void *context;
} arriving;
static void arrived(void *context, sp_parts_loaded_fn *reply, void *reply_context)
{
    arriving.reply = reply;
    arriving.context = reply_context;
}

TEST(two_servers_share_the_chunks)
{
    sp_error err = { 0 };
    place *p = begin(&(sp_analysis_settings){ .chunks = 4 }, false);
    sp_analysis_run_cancel(p->run);
    const sp_analysis_parts parts = { .context = p, .claim = claim, .arrived = arrived };
    REQUIRE(!sp_analysis_run_begin(&house, p->loop, p->media_fd, 12, &(sp_analysis_settings){ .chunks = 4 }, &parts, done, p, &p->run, &err));
    for (int i = 0; i < SEGMENTS / 2; i++)
        p->claims[i] = true;
    answer_index(p);
    answer_chunks(p);
    CHECK(!submitted(SP_TASK_REPORT));
    /* Half of what the other one has finished, then it lets go of the rest. */
    int mine = 0;
    for (int i = 0; i < SEGMENTS; i++)
        mine += p->asked[i];
    CHECK(mine > 0 && mine < SEGMENTS);
    others_bytes = 0;
    int last = mine + (SEGMENTS - mine) / 2;
    for (int i = mine; i < last; i++)
        others[i - mine] = segment_of((uint32_t)i);
    others_bytes = sizeof(fake_segment) * (size_t)(last - mine);
    sp_analysis_run_poke(p->run);
    turns(p, 4);
    REQUIRE(arriving.reply != NULL);
    for (int i = 0; i < SEGMENTS; i++)
        p->claims[i] = true;
    arriving.reply(sp_view_make(others, others_bytes), arriving.context);
    answer_chunks(p);
    answer_report(p);
    check_report(p);
    finish(p);
}

TEST(bad_settings_are_refused)
{
    sp_error err = { 0 };
    place *p = begin(&(sp_analysis_settings){ 0 }, false);
    sp_analysis_run *run = NULL;
    CHECK_INT(sp_analysis_run_begin(&house, p->loop, p->media_fd, 12, &(sp_analysis_settings){ .chunks = -1 }, NULL, done, p, &run, &err), SP_INVALID);
    CHECK_INT(sp_analysis_run_begin(&house, p->loop, p->media_fd, 12, &(sp_analysis_settings){ .params.canny_low = 9 }, NULL, done, p, &run, &err),
              SP_INVALID);
    finish(p);
}
