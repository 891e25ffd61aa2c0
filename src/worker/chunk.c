/* SPDX-License-Identifier: Apache-2.0
 * The coordinator of a chunk (worker/chunk.h): listens to the decoder, forms blocks, takes back what the threads have done, writes
 * segments in their order, and begins a segment again when its decoder is gone. One thread. */
#include "worker/chunk_internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 50               /* how often withdrawal and hanging are looked at */
#define RING_BYTES (256u << 20)  /* of frames that wait or are being read; blocks become shorter for large frames */
#define BLOCK_NS (300 * SP_NS_PER_MS) /* a block should not take longer: a withdrawal waits for those in hand */
#define FIRST_BLOCK_FRAMES 4     /* while nothing is known of the speed */
#define OUTSIDERS 3              /* decoders of one chunk that may be killed by others */

/* What a thread needs for each pixel, from above: 61 bytes were measured at 1080p with the usual parameters. */
#define ANALYZER_BYTES_PER_PIXEL 100u

/* Budgets, from far above: scalar code under a sanitizer on a busy machine. */
#define INFERENCE_NS_PER_PIXEL 3000
#define DECODE_BASE_NS (10 * SP_NS_PER_S)
#define DECODE_FRAME_NS (5 * SP_NS_PER_MS)
#define DECODE_NS_PER_PIXEL 200
#define DECODE_DELAY_FRAMES 32   /* that a decoder may hold back before it gives out the first */
/* A starved decoder is slow, not hung: judged by the clock when it has had less than a fiftieth of a processor (it is stopped, or
 * sleeps), and in the end at any rate. */
#define WALL_PER_CPU 10
#define WALL_PER_CPU_MOST 100
#define IDLE_SHARE 50

struct sp_lane {
    sp_lane_settings settings;
    sp_chunk_threads threads;
    sp_analyze_params params; /* of the analyzers that are there */
    int width, height;
    int64_t frame_ns;         /* what one takes of a thread, an average */
    sp_frames *frames;
    bool registered;          /* their ring is known to the device */
    uint8_t *device_ring;     /* on the device, beside their ring; NULL = none */
};

typedef struct work {
    sp_lane *lane;
    const sp_chunk *chunk;
    sp_chunk_result *result;
    sp_analyze_order order;
    const sp_video_index *index;
    int64_t pixels;
    uint32_t end; /* behind the chunk's last segment */
    sp_chunk_segment *first, **last, *current; /* oldest not written; whose frames come now, NULL = all have come */
    sp_block *pending;                 /* being filled; NULL = none */
    int block_frames, block_most, places;
    uint8_t readers[SP_FRAMES_PLACES]; /* blocks that a place is part of */
    uint32_t blocks_out;
    uint32_t attempt;                  /* of the current segment */
    uint32_t reading;                  /* segments begun so far, those begun again too */
    int outsiders, decoder_threads;
    int64_t word_ns, word_cpu_ns;      /* when the decoder last moved on */
    sp_buf bytes;                      /* one segment */
    sp_status status;                  /* the chunk has failed: with this */
    sp_error error;
} work;

static const sp_video_segment *segment_of(const work *w, uint32_t number)
{
    return &sp_video_index_segments(w->index)[number];
}

static void fail(work *w, sp_status status, const sp_error *err)
{
    if (w->status)
        return;
    w->status = status;
    w->error = *err;
}

/* --- the lane ----------------------------------------------------------------------------------------------------- */

sp_status sp_lane_new(const sp_lane_settings *settings, sp_lane **ret_lane, sp_error *reterr)
{
    sp_lane *lane = calloc(1, sizeof(*lane));
    if (!lane)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a lane");
    lane->settings = *settings;
    lane->settings.threads = SP_CLAMP(settings->threads, 1, SP_LIMIT_CHUNK_THREADS);
    lane->threads.sim = settings->sim;
    lane->threads.cuda_api = settings->cuda_api;
    lane->threads.cuda = settings->cuda;
    sp_status s = sp_chunk_threads_open(&lane->threads, reterr);
    if (s)
        free(lane);
    else
        *ret_lane = lane;
    return s;
}

void sp_lane_free(sp_lane *lane)
{
    if (!lane)
        return;
    (void)sp_lane_rest(lane);
    sp_chunk_threads_close(&lane->threads);
    free(lane);
}

static void free_device_ring(sp_lane *lane)
{
    if (lane->device_ring)
        lane->settings.cuda_api->shared_free(lane->settings.cuda, lane->device_ring);
    lane->device_ring = NULL;
}

/* Copies from a ring that the device does not know are staged, and without one on the device frames come over the host: no reason to
 * fail. */
static sp_status start_decoder(sp_lane *lane, sp_frames_settings *settings, sp_error *reterr)
{
    uint8_t handle[SP_CUDA_HANDLE_BYTES];
    _Static_assert(SP_CUDA_HANDLE_BYTES == SP_FRAMES_HANDLE_BYTES, "passed on as it is");
    void *on_device = NULL;
    size_t ring_bytes = sp_frames_place_bytes(settings->index) * (size_t)settings->places;
    if (lane->settings.device_decodes && lane->settings.cuda_api->shared_new(lane->settings.cuda, ring_bytes, &on_device, handle, NULL) == SP_OK) {
        lane->device_ring = on_device;
        settings->device_ring = handle;
    }
    sp_status s = sp_frames_start(settings, &lane->frames, reterr);
    if (s)
        free_device_ring(lane);
    if (!s && lane->settings.registers) {
        size_t bytes;
        void *ring = sp_frames_ring(lane->frames, &bytes);
        lane->registered = lane->settings.cuda_api->host_register(lane->settings.cuda, ring, bytes, NULL) == SP_OK;
    }
    return s;
}

/* Nothing reads its ring any more. */
static void end_decoder(sp_lane *lane, int *ret_signal)
{
    if (lane->frames && lane->registered) {
        size_t bytes;
        lane->settings.cuda_api->host_unregister(lane->settings.cuda, sp_frames_ring(lane->frames, &bytes));
    }
    lane->registered = false;
    sp_frames_end(SP_STEAL(lane->frames), ret_signal);
    free_device_ring(lane); /* it has nobody who writes to it any more */
}

bool sp_lane_keeps(const sp_lane *lane)
{
    return lane->frames || lane->threads.count;
}

bool sp_lane_rest(sp_lane *lane)
{
    bool kept = sp_lane_keeps(lane);
    end_decoder(lane, NULL);
    sp_chunk_threads_strip(&lane->threads);
    return kept;
}

pid_t sp_lane_decoder(const sp_lane *lane)
{
    return lane->frames ? sp_frames_pid(lane->frames) : 0;
}

static sp_status equip(work *w, sp_error *reterr)
{
    sp_lane *lane = w->lane;
    int count = lane->settings.threads;
    if (lane->settings.memory_bytes && !lane->settings.cuda)
        count = (int)SP_CLAMP(lane->settings.memory_bytes / ((uint64_t)w->pixels * ANALYZER_BYTES_PER_PIXEL), 1u, (uint64_t)count);
    bool same = lane->threads.count && lane->width == w->index->width && lane->height == w->index->height &&
                memcmp(&lane->params, &w->order.params, sizeof(lane->params)) == 0;
    if (same)
        return SP_OK;
    lane->params = w->order.params;
    lane->width = w->index->width;
    lane->height = w->index->height;
    lane->frame_ns = 0;
    return sp_chunk_threads_equip(&lane->threads, &lane->params, lane->width, lane->height, count, reterr);
}

/* Every thread has a block in hand while another one is filled. */
static void choose_sizes(work *w)
{
    int shares = w->lane->threads.count + 1;
    size_t place_bytes = sp_frames_place_bytes(w->index);
    int by_memory = (int)SP_MIN(RING_BYTES / place_bytes / (size_t)shares, (size_t)SP_BLOCK_FRAMES);
    w->block_most = SP_CLAMP(SP_MIN(by_memory, (SP_FRAMES_PLACES - 2) / shares), 1, SP_BLOCK_FRAMES);
    w->places = SP_MIN(shares * w->block_most + 2, SP_FRAMES_PLACES);
}

static void choose_block(work *w)
{
    int64_t frame_ns = w->lane->frame_ns;
    int fits = frame_ns ? (int)SP_MIN(BLOCK_NS / frame_ns, (int64_t)SP_BLOCK_FRAMES) : FIRST_BLOCK_FRAMES;
    w->block_frames = SP_CLAMP(fits, 1, w->block_most);
}

/* --- segments ----------------------------------------------------------------------------------------------------- */

static bool begin_segment(work *w, uint32_t number)
{
    uint32_t frames = number < w->end ? segment_of(w, number)->frame_count : 0;
    w->current = NULL;
    w->attempt = 0;
    w->reading++;
    if (number >= w->end)
        return true;
    sp_chunk_segment *segment = calloc(1, sizeof(*segment));
    if (segment)
        segment->records = calloc(SP_MAX(frames, 1u), sizeof(*segment->records));
    if (!segment || !segment->records) {
        free(segment);
        (void)SP_FAIL(&w->error, w->status = SP_NOMEM, "no memory for the records of %u frames", frames);
        return false;
    }
    segment->number = number;
    segment->record_capacity = frames;
    *w->last = segment;
    w->last = &segment->next;
    w->current = segment;
    return true;
}

static void free_segment(sp_chunk_segment *segment)
{
    free(segment->records);
    free(segment);
}

/* What the decoder said of it; lost and damaged frames are counted where it is written. */
static sp_video_loss loss_of(const sp_chunk_segment *segment)
{
    sp_video_loss loss = { .error_count = SP_MIN(segment->loss.error_count, 1u << 30) };
    size_t length = strnlen(segment->loss.reason, sizeof(loss.reason) - 1);
    memcpy(loss.reason, segment->loss.reason, length); /* behind it are zeros: the bytes are compared */
    return loss;
}

static void write_segments(work *w)
{
    while (w->first && w->first->ended && !w->first->blocks_out && !w->status) {
        sp_chunk_segment *segment = w->first;
        const sp_video_loss loss = loss_of(segment);
        sp_buf_clear(&w->bytes);
        sp_segment_write(&w->bytes, w->index, &w->order.params, segment->number, segment->records, segment->record_count, &loss);
        size_t left = w->chunk->answer_capacity - w->result->answer_bytes;
        if (!sp_buf_ok(&w->bytes) || w->bytes.size_bytes > left) {
            w->status = SP_FAIL(&w->error, SP_NOMEM, "no room for the result of segment %u", segment->number);
            return;
        }
        memcpy(w->chunk->answer + w->result->answer_bytes, w->bytes.data, w->bytes.size_bytes);
        w->result->answer_bytes += w->bytes.size_bytes;
        w->first = segment->next;
        if (!w->first)
            w->last = &w->first;
        free_segment(segment);
    }
}

/* --- blocks ------------------------------------------------------------------------------------------------------- */

static void release_places(work *w, const sp_block *block)
{
    for (int i = 0; i < block->count + block->has_next; i++) {
        uint32_t place = block->places[i];
        if (--w->readers[place] == 0 && w->lane->frames)
            sp_frames_free_place(w->lane->frames, place);
    }
}

static void put(work *w, sp_block *block, const sp_video_frame *frame, uint32_t place)
{
    int at = block->count;
    block->places[at] = place;
    block->frames[at] = *frame;
    block->grey[at] = frame->on_device ? w->lane->device_ring + place * sp_frames_place_bytes(w->index)
                                       : sp_frames_place(w->lane->frames, place);
    w->readers[place]++;
}

static void dispatch(work *w)
{
    sp_block *block = w->pending;
    sp_chunk_segment *segment = w->current;
    if (!block)
        return;
    w->pending = NULL;
    SP_ASSERT(segment->record_count + (uint32_t)block->count <= segment->record_capacity);
    block->segment = segment;
    block->reading = w->reading;
    block->records = segment->records + segment->record_count;
    segment->record_count += (uint32_t)block->count;
    segment->blocks_out++;
    w->blocks_out++;
    w->chunk->stage(w->chunk->context, SP_STAGE_INFERENCE,
                    SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS + (block->count + 1) * w->pixels * INFERENCE_NS_PER_PIXEL);
    sp_chunk_threads_give(&w->lane->threads, block);
}

static void begin_block(work *w, const sp_video_frame *frame, uint32_t place)
{
    sp_block *block = calloc(1, sizeof(*block));
    if (!block) {
        (void)SP_FAIL(&w->error, w->status = SP_NOMEM, "no memory for a block");
        return;
    }
    put(w, block, frame, place);
    block->pinned = w->lane->registered;
    block->count++;
    w->pending = block;
}

static void take_frame(work *w, const sp_frames_word *word)
{
    sp_video_frame frame = word->frame;
    bool ahead = frame.lookahead;
    frame.lookahead = false;
    frame.pts = sp_video_index_pts(w->index)[frame.number];
    sp_block *block = w->pending;
    bool follows = block && block->frames[block->count - 1].number + 1 == frame.number;
    if (follows && !ahead && block->count < w->block_frames) {
        put(w, block, &frame, word->place);
        block->count++;
        return;
    }
    if (follows) {
        put(w, block, &frame, word->place);
        block->has_next = true;
    }
    dispatch(w);
    if (!ahead)
        begin_block(w, &frame, word->place);
    else if (!follows)
        sp_frames_free_place(w->lane->frames, word->place); /* the last one was lost: nothing to pair it with */
}

static void end_segment(work *w, const sp_video_loss *loss)
{
    sp_chunk_segment *segment = w->current;
    dispatch(w);
    segment->loss = *loss;
    segment->ended = true;
    (void)begin_segment(w, segment->number + 1);
}

/* What the threads have done since. */
static void collect(work *w)
{
    uint64_t rings;
    (void)!read(w->lane->threads.bell_fd, &rings, sizeof(rings));
    sp_block *next;
    for (sp_block *block = sp_chunk_threads_take_done(&w->lane->threads); block; block = next) {
        next = block->next;
        block->segment->blocks_out--;
        w->blocks_out--;
        release_places(w, block);
        if (block->status)
            fail(w, block->status, &block->error);
        if (block->status == SP_UNAVAILABLE)
            w->result->lost_device = block->error;
        if (!block->status) {
            int64_t frame_ns = SP_MAX(block->took_ns / block->count, 1);
            w->lane->frame_ns = w->lane->frame_ns ? (w->lane->frame_ns * 3 + frame_ns) / 4 : frame_ns;
            w->result->frames += (uint32_t)block->count;
            choose_block(w);
            w->chunk->progress(w->chunk->context, w->result->frames);
            w->chunk->stage(w->chunk->context, SP_STAGE_INFERENCE, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS +
                            (w->block_frames + 1) * w->pixels * INFERENCE_NS_PER_PIXEL);
        }
        free(block);
    }
}

/* --- the decoder -------------------------------------------------------------------------------------------------- */

static void moved_on(work *w)
{
    w->word_ns = sp_clock_now_ns();
    w->word_cpu_ns = w->lane->frames ? sp_frames_cpu_ns(w->lane->frames) : 0;
}

/* The decoder goes on with the current segment: the one of the chunk before, if it is of this file, or a new one. */
static sp_status run_decoder(work *w, sp_error *reterr)
{
    sp_lane *lane = w->lane;
    sp_frames_settings settings = {
        .executable = lane->settings.executable, .media_fd = w->chunk->media_fd, .media_bytes = w->chunk->media_bytes,
        .index = w->index, .places = w->places, .threads = w->decoder_threads, .require_sandbox = lane->settings.require_sandbox,
    };
    if (lane->frames && !sp_frames_fits(lane->frames, &settings))
        end_decoder(lane, NULL);
    sp_status s = SP_OK;
    if (!lane->frames)
        s = start_decoder(lane, &settings, reterr);
    if (s)
        return s;
    s = sp_frames_run(lane->frames, w->current->number, w->end - w->current->number, w->attempt, reterr);
    moved_on(w);
    return s == SP_UNAVAILABLE ? SP_OK : s; /* gone already: the next look tells how */
}

/* The blocks of what it has yielded lie in its ring: they are finished before it goes. */
static void finish_blocks(work *w)
{
    while (w->blocks_out) {
        struct pollfd bell = { .fd = w->lane->threads.bell_fd, .events = POLLIN };
        (void)poll(&bell, 1, TICK_MS);
        collect(w);
    }
}

static void drop_pending(work *w)
{
    if (w->pending) {
        release_places(w, w->pending);
        free(SP_STEAL(w->pending));
    }
}

static bool is_crash(int signal_number)
{
    static const int crashes[] = { SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGSYS, SIGXFSZ };
    for (size_t i = 0; i < SP_ARRAY_LEN(crashes); i++) {
        if (signal_number == crashes[i])
            return true;
    }
    return false;
}

/* The decoder is gone, or is to go: of the current segment nothing counts. `hung`: it was the file that did it. */
static void decoder_lost(work *w, bool hung)
{
    int signal_number = 0;
    sp_error err = { 0 };
    drop_pending(w);
    finish_blocks(w);
    end_decoder(w->lane, &signal_number);
    memset(w->readers, 0, sizeof(w->readers));
    bool fault = hung || is_crash(signal_number);
    sp_log(SP_LOG_WARN, "decoder lost", SP_LOG_INT("segment", w->current->number), SP_LOG_INT("signal", signal_number),
           SP_LOG_TEXT("why", hung ? "hung, or said nonsense" : fault ? "crashed" : "ended from outside"),
           SP_LOG_INT("attempt", w->attempt));
    if (w->status)
        return;
    w->result->frames -= w->current->record_count;
    w->current->record_count = 0;
    w->reading++;
    memset(w->current->records, 0, w->current->record_capacity * sizeof(*w->current->records));
    if (!fault && ++w->outsiders > OUTSIDERS) {
        fail(w, SP_FAIL(&err, SP_UNAVAILABLE, "%d decoders were ended from outside (the last by signal %d)", w->outsiders, signal_number), &err);
        return;
    }
    if (fault && w->attempt) {
        sp_video_loss loss = { .reason = SP_CHUNK_LOST };
        end_segment(w, &loss);
    } else if (fault) {
        w->attempt = 1;
        w->decoder_threads = 1; /* more of them read ahead: the segment that dies would depend on their number */
    }
    sp_status s = w->current && !w->status ? run_decoder(w, &err) : SP_OK;
    if (s)
        fail(w, s, &err);
}

static void take_word(work *w, const sp_frames_word *word)
{
    sp_error err = { 0 };
    moved_on(w);
    w->result->decode_ns += word->decode_ns;
    if (word->kind == SP_FRAMES_FRAME)
        take_frame(w, word);
    else if (word->kind == SP_FRAMES_END)
        end_segment(w, &word->loss);
    else
        fail(w, SP_FAIL_CODE(&err, (sp_status)word->status, word->code, "decoder: %s", word->text), &err);
}

static void listen_to_decoder(work *w)
{
    sp_frames_word word;
    while (w->current && !w->status) {
        switch (sp_frames_next(w->lane->frames, &word)) {
        case SP_FRAMES_NOTHING:
            return;
        case SP_FRAMES_WORD:
            take_word(w, &word);
            break;
        case SP_FRAMES_GONE:
            decoder_lost(w, false);
            break;
        case SP_FRAMES_NONSENSE:
            decoder_lost(w, true);
            break;
        }
    }
}

/* How long it may be silent: it decodes from its run's key frame on, and only then gives out frames of the segment. */
static int64_t decode_budget(const work *w)
{
    const sp_video_segment *segment = segment_of(w, w->current->number);
    const sp_video_run *run = &sp_video_index_runs(w->index)[segment->run];
    int64_t before = w->current->record_count || w->pending ? 0 : (int64_t)segment->first_frame - run->first_frame;
    int64_t base_ns = w->lane->settings.decoder_budget_ns ? w->lane->settings.decoder_budget_ns : DECODE_BASE_NS;
    return base_ns + (SP_MAX(before, (int64_t)0) + DECODE_DELAY_FRAMES) * (DECODE_FRAME_NS + w->pixels * DECODE_NS_PER_PIXEL);
}

static void look_for_hang(work *w)
{
    if (!w->current || w->status)
        return;
    if (!sp_frames_owes(w->lane->frames)) {
        moved_on(w);
        return;
    }
    int64_t budget_ns = decode_budget(w), silent_ns = sp_clock_now_ns() - w->word_ns;
    if (!w->blocks_out) /* nobody computes: it is the decoder that is waited for, and judged here */
        w->chunk->stage(w->chunk->context, SP_STAGE_DECODE, 0);
    int64_t used_ns = sp_frames_cpu_ns(w->lane->frames) - w->word_cpu_ns;
    bool idle = used_ns * IDLE_SHARE < silent_ns;
    if (used_ns > budget_ns)
        decoder_lost(w, true);
    else if (silent_ns > (idle ? WALL_PER_CPU : WALL_PER_CPU_MOST) * budget_ns)
        decoder_lost(w, false); /* says nothing of the file */
}

/* --- the chunk ---------------------------------------------------------------------------------------------------- */

static sp_status look_at_order(work *w, sp_error *reterr)
{
    sp_view rest;
    if ((uintptr_t)w->chunk->body.data % 8)
        return SP_FAIL(reterr, SP_INTERNAL, "the body of a chunk is not aligned");
    sp_status s = sp_analyze_order_check(w->chunk->body, &w->order, &w->index, &rest, reterr);
    if (s)
        return s;
    if (!w->order.segment_count || w->order.first_segment >= w->index->segment_count ||
        w->order.segment_count > w->index->segment_count - w->order.first_segment)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_chunk", "segments %u + %u of %u", w->order.first_segment, w->order.segment_count,
                            w->index->segment_count);
    w->end = w->order.first_segment + w->order.segment_count;
    w->pixels = (int64_t)w->index->width * w->index->height;
    uint64_t most = 0;
    for (uint32_t i = w->order.first_segment; i < w->end; i++)
        most += sizeof(sp_segment_head) + 8 + (uint64_t)segment_of(w, i)->frame_count * sizeof(sp_frame_record);
    if (most > w->chunk->answer_capacity)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "chunk_too_large", "the results of %u segments may take %llu MiB, an answer holds %zu; "
                            "cut the video into more chunks", w->order.segment_count, (unsigned long long)(most >> 20),
                            w->chunk->answer_capacity >> 20);
    return SP_OK;
}

static void turn(work *w)
{
    struct pollfd watched[2] = { { .fd = w->lane->threads.bell_fd, .events = POLLIN },
                                 { .fd = w->current ? sp_frames_fd(w->lane->frames) : -1, .events = POLLIN } };
    (void)poll(watched, 2, TICK_MS);
    if (w->chunk->cancelled(w->chunk->context)) {
        w->status = SP_FAIL(&w->error, SP_CANCELLED, "the request was withdrawn while it ran");
        return;
    }
    collect(w);
    listen_to_decoder(w);
    write_segments(w);
    look_for_hang(w);
}

static void clean_up(work *w)
{
    sp_block *next;
    sp_chunk_threads_stop(&w->lane->threads);
    for (sp_block *block = sp_chunk_threads_take_done(&w->lane->threads); block; block = next) {
        next = block->next;
        free(block);
    }
    free(SP_STEAL(w->pending));
    for (sp_chunk_segment *segment = w->first; segment;) {
        sp_chunk_segment *after = segment->next;
        free_segment(segment);
        segment = after;
    }
    if (w->status) /* in whatever state it is */
        end_decoder(w->lane, NULL);
    sp_buf_done(&w->bytes);
}

static void subtract(sp_analyze_timing *from, const sp_analyze_timing *what)
{
    from->flow_ns -= what->flow_ns;
    from->edges_ns -= what->edges_ns;
    from->morphology_ns -= what->morphology_ns;
    from->measures_ns -= what->measures_ns;
}

sp_status sp_lane_run(sp_lane *lane, const sp_chunk *chunk, sp_chunk_result *ret_result, sp_error *reterr)
{
    work w = { .lane = lane, .chunk = chunk, .result = ret_result, .decoder_threads = SP_MAX(lane->settings.decoder_threads, 1) };
    sp_analyze_timing before;
    *ret_result = (sp_chunk_result){ 0 };
    w.last = &w.first;
    sp_status s = look_at_order(&w, reterr);
    if (!s)
        s = equip(&w, reterr);
    if (!s)
        s = sp_chunk_threads_start(&lane->threads, reterr);
    if (s)
        return s;
    sp_chunk_threads_timing(&lane->threads, &before);
    sp_buf_init(&w.bytes, chunk->answer_capacity);
    choose_sizes(&w);
    choose_block(&w);
    chunk->progress(chunk->context, 0);
    if (begin_segment(&w, w.order.first_segment)) {
        s = run_decoder(&w, &w.error);
        if (s)
            w.status = s;
    }
    while (!w.status && (w.current || w.first))
        turn(&w);
    ret_result->threads = lane->threads.running;
    clean_up(&w);
    sp_chunk_threads_timing(&lane->threads, &ret_result->timing);
    subtract(&ret_result->timing, &before);
    if (w.status && reterr)
        *reterr = w.error;
    return w.status;
}
