/* SPDX-License-Identifier: Apache-2.0
 * The chunks of a video's run: cut, handed to the house, their answers checked and kept, failed ones cut in two.
 *
 *   waiting -> filling -> out -> reading -> gone            elsewhere: until the other server has finished it or let go of it
 *      ^----------------- failed: as two halves ---|
 *
 * Where the cuts lie depends on the index and the number of chunks alone, not on what is there already: several servers then
 * speak of the same chunks. Each function named _step does one slice of work, a callback's worth. */
#include "base/log.h"
#include "jobs/analysis_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- cutting ------------------------------------------------------------------------------------------------------- */

static uint32_t frames_of(const sp_analysis_run *run, uint32_t first, uint32_t count)
{
    const sp_video_segment *segments = sp_video_index_segments(run->index);
    uint32_t frames = 0;
    for (uint32_t i = first; i < first + count; i++)
        frames += segments[i].frame_count;
    return frames;
}

static analysis_chunk **chunk_end(sp_analysis_run *run)
{
    analysis_chunk **at = &run->chunks;
    while (*at)
        at = &(*at)->next;
    return at;
}

static sp_status chunk_insert(sp_analysis_run *run, analysis_chunk **at, uint32_t first, uint32_t count, sp_error *reterr)
{
    analysis_chunk *chunk = calloc(1, sizeof(*chunk));
    if (!chunk)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a chunk of the video");
    *chunk = (analysis_chunk){ .next = *at, .run = run, .first = first, .count = count, .frames = frames_of(run, first, count) };
    *at = chunk;
    return SP_OK;
}

/* The missing segments of [first, first + count) as one chunk for each stretch of them. */
static sp_status insert_missing(sp_analysis_run *run, uint32_t first, uint32_t count, sp_error *reterr)
{
    sp_status s = SP_OK;
    uint32_t stretches = 0;
    for (uint32_t i = first, end = first + count; i < end && !s;) {
        uint32_t k = i;
        while (k < end && !run->places[k].bytes)
            k++;
        if (k > i)
            s = chunk_insert(run, chunk_end(run), i, k - i, reterr);
        stretches += k > i;
        i = SP_MAX(k, i + 1);
    }
    run->summary.chunks_total += SP_MAX(stretches, 1u);
    run->summary.chunks_done += !stretches;
    return s;
}

/* A cut is moved to a run's begin when one is this near, in shares of a chunk: decoding from there costs nothing extra. */
#define CUT_NEAR 3

/* Number of the segment before which the cut nearest to frame `wanted` lies, behind `least`. */
static uint32_t cut_at(const sp_analysis_run *run, uint32_t least, uint64_t wanted, uint64_t chunk_frames)
{
    const sp_video_segment *segments = sp_video_index_segments(run->index);
    uint32_t count = run->index->segment_count, best = count, best_run = count;
    uint64_t best_off = UINT64_MAX, best_run_off = UINT64_MAX;
    for (uint32_t i = least + 1; i < count; i++) {
        uint64_t frame = segments[i].first_frame, off = frame > wanted ? frame - wanted : wanted - frame;
        if (off < best_off) {
            best = i;
            best_off = off;
        }
        if (segments[i].run != segments[i - 1].run && off < best_run_off) {
            best_run = i;
            best_run_off = off;
        }
        if (frame > wanted + chunk_frames)
            break;
    }
    return best_run < count && best_run_off <= chunk_frames / CUT_NEAR ? best_run : best;
}

sp_status sp_analysis_chunks_cut(sp_analysis_run *run, sp_error *reterr)
{
    const sp_video_index *index = run->index;
    uint64_t wanted = run->settings.chunks ? (uint64_t)run->settings.chunks : SP_ANALYSIS_CHUNKS;
    wanted = SP_MAX(wanted, (index->frame_count + SP_LIMIT_CHUNK_FRAMES - 1) / SP_LIMIT_CHUNK_FRAMES);
    wanted = SP_MIN(wanted, (uint64_t)index->segment_count);
    uint64_t each = index->frame_count / SP_MAX(wanted, 1u);
    sp_status s = SP_OK;
    for (uint32_t first = 0, number = 1; first < index->segment_count && !s; number++) {
        uint32_t end = number < wanted ? cut_at(run, first, index->frame_count * (uint64_t)number / wanted, each) : index->segment_count;
        s = insert_missing(run, first, end - first, reterr);
        first = end;
    }
    return s;
}

static void chunk_free(analysis_chunk *chunk)
{
    analysis_chunk **at = &chunk->run->chunks;
    while (*at != chunk)
        at = &(*at)->next;
    *at = chunk->next;
    if (chunk->request)
        sp_request_cancel(chunk->request);
    sp_analysis_intake_done(&chunk->intake);
    free(chunk->places);
    free(chunk);
}

void sp_analysis_chunks_drop(sp_analysis_run *run)
{
    while (run->chunks)
        chunk_free(run->chunks);
}

/* --- finished segments --------------------------------------------------------------------------------------------- */

/* The run keeps `bytes` (malloc) from now on. */
static sp_status block_keep(sp_analysis_run *run, uint8_t *bytes, sp_error *reterr)
{
    analysis_block *block = malloc(sizeof(*block));
    if (!block)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a chunk's result");
    *block = (analysis_block){ run->blocks, bytes };
    run->blocks = block;
    return SP_OK;
}

static sp_segment_head head_of(const uint8_t *bytes)
{
    sp_segment_head head;
    memcpy(&head, bytes, sizeof(head));
    return head;
}

/* A checked segment is there from now on. False: it was already (two servers did the same chunk); the bytes are the same. */
static bool place(sp_analysis_run *run, const uint8_t *bytes)
{
    sp_segment_head head = head_of(bytes);
    if (run->places[head.segment].bytes)
        return false;
    run->places[head.segment] = (segment_place){ bytes, (uint32_t)head.bytes };
    run->segments_done++;
    run->summary.frames_done += head.record_count;
    return true;
}

uint32_t sp_analysis_take_kept(sp_analysis_run *run, sp_view segments)
{
    uint32_t taken = 0;
    uint8_t *bytes = segments.size_bytes ? malloc(segments.size_bytes) : NULL;
    if (!bytes || block_keep(run, bytes, NULL)) {
        free(bytes); /* without memory they are computed again */
        return 0;
    }
    memcpy(bytes, segments.data, segments.size_bytes);
    for (uint64_t at = 0, size = 0; at < segments.size_bytes; at += size) {
        sp_view rest = sp_view_make(bytes + at, segments.size_bytes - at);
        sp_error err = { 0 };
        if (sp_segment_check(rest, run->index, &run->settings.params, &size, &err)) {
            sp_log(SP_LOG_WARN, "kept segments of a video cannot be used; they are computed again", SP_LOG_TEXT("reason", err.message));
            break;
        }
        taken += place(run, rest.data);
    }
    return taken;
}

static void saved(sp_status status, const sp_error *err, void *context)
{
    sp_analysis_run *run = context;
    run->owed--;
    if (status && !run->save_failed)
        sp_log(SP_LOG_WARN, "a chunk's result could not be kept; if this process ends it is computed again",
               SP_LOG_TEXT("run", run->request_id), SP_LOG_TEXT("reason", err ? err->message : sp_status_name(status)));
    run->save_failed |= status != SP_OK;
    sp_analysis_wake(run, 0);
}

static sp_analysis_link *link_of(sp_analysis_summary *summary, const sp_analysis_link *answered)
{
    for (int i = 0; i < summary->link_count; i++) {
        if (!strcmp(summary->links[i].link, answered->link))
            return &summary->links[i];
    }
    if (summary->link_count == (int)SP_ARRAY_LEN(summary->links))
        return &summary->links[summary->link_count - 1];
    sp_analysis_link *added = &summary->links[summary->link_count++];
    *added = (sp_analysis_link){ 0 };
    memcpy(added->link, answered->link, sizeof(added->link));
    memcpy(added->device, answered->device, sizeof(added->device));
    return added;
}

static void count_answer(sp_analysis_run *run, const analysis_chunk *chunk)
{
    sp_analysis_summary *summary = &run->summary;
    const sp_analysis_link *answered = &chunk->answered;
    sp_analysis_link *link = link_of(summary, answered);
    link->chunks++;
    link->segments += chunk->count;
    link->frames += answered->frames;
    link->busy_ns += answered->busy_ns;
    link->device_ns += answered->device_ns;
    link->microdollars += answered->microdollars;
    summary->decode_ns += chunk->decode_ns;
    summary->timing.flow_ns += chunk->timing.flow_ns;
    summary->timing.edges_ns += chunk->timing.edges_ns;
    summary->timing.morphology_ns += chunk->timing.morphology_ns;
    summary->timing.measures_ns += chunk->timing.measures_ns;
    summary->chunks_done++;
}

/* --- failed chunks -------------------------------------------------------------------------------------------------- */

/* Would the same chunk fail again whoever has it, and its halves too? */
static bool is_final(sp_status status)
{
    return status == SP_INVALID || status == SP_TOO_LARGE || status == SP_NOT_FOUND || status == SP_CONFLICT || status == SP_DENIED ||
           status == SP_CANCELLED;
}

/* The result of so many frames does not fit an answer (worker/chunk.h); that of half of them may. */
static bool is_too_long(const analysis_chunk *chunk, sp_status status, const sp_error *err)
{
    return chunk->count > 1 && status == SP_TOO_LARGE && strcmp(err->code, "chunk_too_large") == 0;
}

static void chunk_back(analysis_chunk *chunk)
{
    if (chunk->request)
        sp_request_close(SP_STEAL(chunk->request));
    sp_analysis_intake_done(&chunk->intake);
    free(chunk->places);
    chunk->places = NULL;
    chunk->checked_bytes = chunk->body_done = 0;
    chunk->state = CHUNK_WAITING;
}

static void halve(sp_analysis_run *run, analysis_chunk *chunk)
{
    sp_error err = { 0 };
    uint32_t first = chunk->count / 2;
    if (chunk_insert(run, &chunk->next, chunk->first + first, chunk->count - first, &err)) {
        sp_analysis_fail(run, err.status, &err);
        return;
    }
    chunk->next->tries = chunk->tries;
    chunk->next->claimed = chunk->claimed;
    chunk->count = first;
    chunk->frames = frames_of(run, chunk->first, first);
    run->summary.chunks_total++;
}

/* Its links have all been tried by the house. */
static void chunk_failed(analysis_chunk *chunk, sp_status status, const sp_error *err, int retry_after_s)
{
    sp_analysis_run *run = chunk->run;
    chunk_back(chunk);
    chunk->tries++;
    run->failures++;
    bool spent = chunk->count == 1 && chunk->tries >= ANALYSIS_SEGMENT_TRIES;
    bool final = is_final(status) && !is_too_long(chunk, status, err);
    if (final || spent || run->failures >= SP_LIMIT_ANALYSIS_FAILURES) {
        sp_error told = *err;
        (void)snprintf(told.message, sizeof(told.message), "segment %u of the video: %.200s", chunk->first, err->message);
        sp_analysis_fail(run, status, final && chunk->count > 1 ? err : &told);
        return;
    }
    if (chunk->count > 1 && status != SP_BUSY)
        halve(run, chunk);
    if (chunk->count == 1)
        chunk->tries = SP_MAX(chunk->tries, 1);
    run->retry_at_ns = retry_after_s > 0 ? sp_loop_now_ns(run->loop) + retry_after_s * SP_NS_PER_S : 0;
}

/* --- one chunk's way ------------------------------------------------------------------------------------------------- */

/* A chunk that waits for its turn is no reason to give it up while others get done. */
static void extend_deadlines(sp_analysis_run *run)
{
    for (analysis_chunk *c = run->chunks; c; c = c->next) {
        if (c->state == CHUNK_OUT)
            sp_request_extend_deadline(c->request, sp_loop_now_ns(run->loop) + run->settings.chunk_timeout_ns);
    }
}

static void chunk_answered(sp_request *request, const sp_answer *answer, void *context)
{
    analysis_chunk *chunk = context;
    sp_analysis_run *run = chunk->run;
    sp_error err = { 0 };
    (void)request;
    sp_analysis_note_attempts(run, answer);
    run->summary.microdollars += answer->microdollars;
    extend_deadlines(run);
    sp_status s = answer->status;
    if (!s) {
        chunk->places = calloc(chunk->count, sizeof(*chunk->places));
        s = chunk->places ? sp_analysis_intake_begin(&chunk->intake, answer, &err) : SP_FAIL(&err, SP_NOMEM, "no memory for a chunk's result");
    }
    if (s) {
        chunk_failed(chunk, s, answer->status ? &answer->error : &err, answer->retry_after_s);
    } else {
        chunk->state = CHUNK_READING;
        chunk->answered = (sp_analysis_link){ .busy_ns = answer->batch_run_ns ? answer->batch_run_ns : answer->device_ns,
                                              .device_ns = answer->device_ns, .microdollars = answer->microdollars };
        memcpy(chunk->answered.link, answer->link, sizeof(chunk->answered.link));
        memcpy(chunk->answered.device, answer->device, sizeof(chunk->answered.device));
        /* How a device worker tells its stages. */
        chunk->decode_ns = answer->decode_ns;
        chunk->timing = (sp_analyze_timing){ .flow_ns = answer->inference_ns, .edges_ns = answer->preprocess_ns, .morphology_ns = answer->postprocess_ns };
    }
    sp_analysis_wake(run, 0);
}

/* False: there is no room in the house now. */
static bool chunk_open(analysis_chunk *chunk)
{
    sp_analysis_run *run = chunk->run;
    sp_request_params params;
    char id[SP_LIMIT_REQUEST_ID_BYTES], suffix[16];
    sp_error err = { 0 };
    int retry_after_s = 0;
    (void)snprintf(suffix, sizeof(suffix), "-%u", chunk->first);
    sp_analysis_request_params(run, SP_TASK_ANALYZE, sizeof(sp_analyze_order) + run->index->index_bytes, &params, id, suffix);
    params.only_link = *run->only_link ? run->only_link : NULL;
    sp_status s = sp_request_open(run->house, &params, &chunk->request, &retry_after_s, &err);
    if (!s)
        s = sp_request_set_media(chunk->request, run->media_fd, run->media_bytes, run->index->sha256, &err);
    if (!s)
        s = sp_analysis_append_order(run, chunk->request, chunk->first, chunk->count, 0, &err);
    if (!s) {
        chunk->body_done = sizeof(sp_analyze_order);
        chunk->state = CHUNK_FILLING;
        return true;
    }
    chunk_back(chunk);
    if (s == SP_BUSY || s == SP_NOMEM)
        run->retry_at_ns = sp_loop_now_ns(run->loop) + SP_MAX(retry_after_s, 1) * SP_NS_PER_S;
    else
        sp_analysis_fail(run, s, &err);
    return false;
}

static void chunk_fill(analysis_chunk *chunk)
{
    sp_analysis_run *run = chunk->run;
    sp_error err = { 0 };
    bool whole = false;
    if (sp_analysis_append_index(run, chunk->request, &chunk->body_done, &whole, &err)) {
        chunk_back(chunk); /* others' bodies fill the house; later */
        run->retry_at_ns = sp_loop_now_ns(run->loop) + SP_NS_PER_S;
    } else if (whole) {
        chunk->state = CHUNK_OUT;
        sp_request_submit(chunk->request, chunk_answered, chunk);
    }
}

static void chunk_done(analysis_chunk *chunk)
{
    sp_analysis_run *run = chunk->run;
    sp_error err = { 0 };
    uint8_t *bytes = chunk->intake.bytes;
    sp_view all = sp_view_make(bytes, chunk->intake.size_bytes);
    if (block_keep(run, bytes, &err)) {
        sp_analysis_fail(run, err.status, &err);
        return;
    }
    chunk->intake.bytes = NULL;
    for (uint32_t i = 0; i < chunk->count; i++) {
        const uint8_t *at = bytes + chunk->places[i] - 1;
        chunk->answered.frames += head_of(at).record_count;
        (void)place(run, at); /* there already: another server was faster */
    }
    count_answer(run, chunk);
    uint32_t first = chunk->first;
    sp_request_close(SP_STEAL(chunk->request));
    chunk_free(chunk);
    if (run->parts.save) {
        run->owed++;
        run->parts.save(run->parts.context, first, all, saved, run);
    }
}

/* Checks segments of the copied answer, a slice of them. */
static void chunk_check(analysis_chunk *chunk)
{
    sp_analysis_run *run = chunk->run;
    sp_error err = { 0 };
    uint64_t until = chunk->checked_bytes + ANALYSIS_SLICE_BYTES / 2;
    while (chunk->checked_bytes < chunk->intake.size_bytes && chunk->checked_bytes < until) {
        sp_view rest = sp_view_make(chunk->intake.bytes + chunk->checked_bytes, chunk->intake.size_bytes - chunk->checked_bytes);
        uint64_t size = 0;
        sp_status s = sp_segment_check(rest, run->index, &run->settings.params, &size, &err);
        uint32_t number = s ? 0 : head_of(rest.data).segment;
        if (!s && (number < chunk->first || number - chunk->first >= chunk->count || chunk->places[number - chunk->first]))
            s = SP_FAIL(&err, SP_CORRUPT, "a worker answered segment %u, which was not asked or twice", number);
        if (s) {
            chunk_failed(chunk, SP_CORRUPT, &err, 0);
            return;
        }
        chunk->places[number - chunk->first] = chunk->checked_bytes + 1;
        chunk->checked_bytes += size;
    }
    if (chunk->checked_bytes < chunk->intake.size_bytes)
        return;
    for (uint32_t i = 0; i < chunk->count; i++) {
        if (!chunk->places[i]) {
            (void)SP_FAIL(&err, SP_CORRUPT, "a worker left segment %u out", chunk->first + i);
            chunk_failed(chunk, SP_CORRUPT, &err, 0);
            return;
        }
    }
    chunk_done(chunk);
}

/* --- all of them ------------------------------------------------------------------------------------------------------ */

static int outstanding_wanted(const sp_analysis_run *run)
{
    if (run->settings.outstanding)
        return SP_MIN(run->settings.outstanding, ANALYSIS_OUTSTANDING_MAX);
    int ready = 0;
    for (int i = 0; i < sp_house_worker_count(run->house); i++) {
        char kind[32];
        sp_worker_info info;
        sp_house_worker_info(run->house, i, &info);
        sp_config_kind_of(info.name, kind);
        bool helper = !strcmp(kind, "codec") || !strcmp(kind, "net") || !strcmp(kind, "noop") || !strncmp(kind, "sample", 6);
        ready += info.state == SP_WORKER_READY && !helper;
    }
    return SP_CLAMP(2 * ready, 2, ANALYSIS_OUTSTANDING_MAX);
}

/* May it be worked on here? Asked once; a claim that was got stays ours. */
static bool claim(analysis_chunk *chunk)
{
    sp_analysis_run *run = chunk->run;
    if (chunk->claimed || !run->parts.claim)
        return true;
    chunk->claimed = run->parts.claim(run->parts.context, chunk->first, chunk->count);
    if (!chunk->claimed)
        chunk->state = CHUNK_ELSEWHERE;
    return chunk->claimed;
}

static analysis_chunk *chunk_in(const sp_analysis_run *run, chunk_state state)
{
    for (analysis_chunk *c = run->chunks; c; c = c->next) {
        if (c->state == state)
            return c;
    }
    return NULL;
}

static bool start_one(sp_analysis_run *run)
{
    int out = 0;
    uint64_t body_bytes = sizeof(sp_analyze_order) + run->index->index_bytes;
    for (const analysis_chunk *c = run->chunks; c; c = c->next)
        out += c->state == CHUNK_FILLING || c->state == CHUNK_OUT;
    if (out && (out >= outstanding_wanted(run) || (uint64_t)(out + 1) * body_bytes > ANALYSIS_BODIES_BYTES))
        return false;
    int64_t now = sp_loop_now_ns(run->loop);
    analysis_chunk *chunk = chunk_in(run, CHUNK_WAITING);
    if (!chunk)
        return false;
    if (now < run->retry_at_ns) {
        sp_analysis_wake(run, run->retry_at_ns);
        return false;
    }
    return !claim(chunk) || chunk_open(chunk);
}

bool sp_analysis_chunks_step(sp_analysis_run *run)
{
    analysis_chunk *chunk = chunk_in(run, CHUNK_READING);
    if (chunk) {
        if (sp_analysis_intake_step(&chunk->intake))
            chunk_check(chunk);
        return true;
    }
    chunk = chunk_in(run, CHUNK_FILLING);
    if (chunk) {
        chunk_fill(chunk);
        return true;
    }
    return start_one(run);
}

void sp_analysis_chunks_arrived(sp_analysis_run *run)
{
    for (analysis_chunk *c = run->chunks, *next; c; c = next) {
        next = c->next;
        uint32_t missing = 0;
        for (uint32_t i = c->first; i < c->first + c->count; i++)
            missing += !run->places[i].bytes;
        if (!missing && (c->state == CHUNK_ELSEWHERE || c->state == CHUNK_WAITING)) {
            chunk_free(c);
            run->summary.chunks_done++;
        } else if (c->state == CHUNK_ELSEWHERE) {
            c->state = CHUNK_WAITING; /* and is asked for again */
        }
    }
}

uint32_t sp_analysis_chunk_progress(const sp_analysis_run *run)
{
    uint32_t frames = 0;
    for (const analysis_chunk *c = run->chunks; c; c = c->next) {
        if (c->state == CHUNK_OUT) {
            uint32_t done = sp_request_progress(c->request); /* the worker's, and goes on */
            frames += SP_MIN(done, c->frames);
        } else if (c->state == CHUNK_READING) {
            frames += c->frames;
        }
    }
    return frames;
}
