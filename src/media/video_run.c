/* SPDX-License-Identifier: Apache-2.0
 * A run is decoded by a decoder of its own, from packets that the index names: so it decodes to the same frames in every process,
 * from wherever the reader came.
 *
 *   feed --(packets, named by ordinal)--> decoder --(frames, named by their packet)--> number by the index */
#include "media/video_run.h"

#include "base/limits.h"
#include "media/video_frame.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* A decoder that gives nothing but errors is at its end. */
#define MAX_ERRORS_IN_A_ROW 64

/* Of a packet: the decoder complained about it; the container calls it a key frame, which decoders do not always agree with. */
enum { PACKET_DAMAGED = 1, PACKET_KEY = 2 };

sp_status sp_video_decoding_open(sp_video_decoding *decoding, const sp_video_source *source, const sp_video_index *index,
                                 const sp_video_options *options, sp_error *reterr)
{
    *decoding = (sp_video_decoding){ .index = index, .threads = SP_MAX(options->threads, 1), .device = options->gpu - 1 };
    if (index->has_times)
        decoding->reorder = sp_video_reorder(sp_video_index_packets(index), index->packet_count);
    decoding->packet = av_packet_alloc();
    if (!decoding->packet)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a video's packets");
    return sp_video_feed_open(&decoding->feed, source, index, reterr);
}

static void stop(sp_video_decoding *decoding)
{
    if (decoding->running)
        sp_video_decoder_done(&decoding->decoder);
    decoding->running = false;
    free(decoding->packets);
    free(decoding->troubles);
    decoding->packets = NULL;
    decoding->troubles = NULL;
}

void sp_video_decoding_done(sp_video_decoding *decoding)
{
    stop(decoding);
    sp_video_feed_done(&decoding->feed);
    av_packet_free(&decoding->packet);
}

/* Behind the last packet to feed: the next run's key frame, its leading pictures, and what shows nothing right behind those
 * (a second field). */
static uint64_t feed_end_of(const sp_video_index *index, uint32_t run)
{
    if (run + 1 == index->run_count)
        return index->packet_count;
    const sp_video_run *next = &sp_video_index_runs(index)[run + 1];
    const uint32_t *numbers = sp_video_index_packets(index);
    uint64_t end = next->first_packet + 1, limit = SP_MIN(end + SP_VIDEO_MAX_LEADING, index->packet_count);
    for (uint64_t i = end; i < limit; i++) {
        if (numbers[i] < next->first_frame)
            end = i + 1;
    }
    while (end < limit && numbers[end] == SP_VIDEO_HIDDEN)
        end++;
    return end;
}

static void find_segments(sp_video_decoding *decoding, uint32_t run)
{
    const sp_video_index *index = decoding->index;
    const sp_video_segment *segments = sp_video_index_segments(index);
    uint32_t low = 0, high = index->segment_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (segments[middle].run < run)
            low = middle + 1;
        else
            high = middle;
    }
    decoding->first_segment = low;
    while (low < index->segment_count && segments[low].run == run)
        low++;
    decoding->segment_count = low - decoding->first_segment;
}

/* A GPU's decoder if it is wanted and takes the stream, and nothing has been wrong with the file so far; else libavcodec's. */
static sp_status open_decoder(sp_video_decoding *decoding, sp_error *reterr)
{
    const sp_video_feed *feed = &decoding->feed;
    sp_view extradata = sp_view_make(feed->extradata, feed->extradata_bytes);
    sp_status s = SP_UNSUPPORTED;
    if (decoding->device >= 0 && !decoding->alone && decoding->index->has_times)
        s = sp_video_decoder_open_gpu(&decoding->decoder, &feed->input, extradata, decoding->device, decoding->ring,
                                      decoding->index->limited_range, NULL);
    if (s == SP_UNSUPPORTED)
        s = sp_video_decoder_open(&decoding->decoder, &feed->input, extradata, decoding->reorder, decoding->alone ? 1 : decoding->threads,
                                  SP_LIMIT_VIDEO_PIXELS, reterr);
    else if (s)
        (void)SP_FAIL(reterr, s, "out of memory for a decoder");
    return s;
}

sp_status sp_video_decoding_start(sp_video_decoding *decoding, uint32_t number, sp_error *reterr)
{
    stop(decoding);
    sp_status s = sp_video_feed_stand(&decoding->feed, number, reterr);
    if (s)
        return s;
    decoding->run = number;
    decoding->first_packet = decoding->last_shown = sp_video_index_runs(decoding->index)[number].first_packet;
    decoding->feed_end = feed_end_of(decoding->index, number);
    decoding->draining = decoding->ended = false;
    decoding->counted = 0;
    decoding->last_number = decoding->given = -1;
    decoding->errors_in_a_row = 0;
    find_segments(decoding, number);
    decoding->packets = calloc(SP_MAX(decoding->feed_end - decoding->first_packet, 1u), 1);
    decoding->troubles = calloc(decoding->segment_count, sizeof(*decoding->troubles));
    if (!decoding->packets || !decoding->troubles)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a run of frames");
    s = open_decoder(decoding, reterr);
    if (s)
        sp_video_decoder_done(&decoding->decoder);
    decoding->running = !s;
    return s;
}

/* The segment of this run that a frame is in; NULL: in none. */
static sp_video_trouble *trouble_of(sp_video_decoding *decoding, uint32_t number)
{
    const sp_video_segment *segments = sp_video_index_segments(decoding->index) + decoding->first_segment;
    for (uint32_t low = 0, high = decoding->segment_count; low < high;) {
        uint32_t middle = low + (high - low) / 2;
        if (number < segments[middle].first_frame)
            high = middle;
        else if (number - segments[middle].first_frame >= segments[middle].frame_count)
            low = middle + 1;
        else
            return &decoding->troubles[middle];
    }
    return NULL;
}

const sp_video_trouble *sp_video_decoding_trouble(const sp_video_decoding *decoding, uint32_t segment)
{
    static const sp_video_trouble none;
    bool ours = decoding->troubles && segment - decoding->first_segment < decoding->segment_count;
    return ours ? &decoding->troubles[segment - decoding->first_segment] : &none;
}

static void remember(sp_video_trouble *trouble, const char *format, ...) SP_PRINTF(2, 3);
static void remember(sp_video_trouble *trouble, const char *format, ...)
{
    if (!trouble || trouble->reason[0])
        return;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(trouble->reason, sizeof(trouble->reason), format, arguments);
    va_end(arguments);
}

/* After each step of the decoder: what it said is put down to the last packet that shows a frame. */
static void note_trouble(sp_video_decoding *decoding, int code)
{
    bool complained = sp_video_decoder_complained(&decoding->decoder);
    if (!complained && !code)
        return;
    decoding->packets[decoding->last_shown - decoding->first_packet] |= PACKET_DAMAGED;
    uint32_t number = sp_video_index_packets(decoding->index)[decoding->last_shown];
    sp_video_trouble *trouble = code ? trouble_of(decoding, number) : NULL;
    if (trouble) {
        char text[AV_ERROR_MAX_STRING_SIZE] = "";
        (void)av_strerror(code, text, sizeof(text));
        trouble->error_count++;
        remember(trouble, "frame %u cannot be decoded: %s", number, text);
    }
}

static sp_status feed_one(sp_video_decoding *decoding, sp_error *reterr)
{
    sp_video_feed *feed = &decoding->feed;
    uint64_t ordinal = decoding->feed_end;
    bool more = true;
    int code = 0;
    sp_status s = sp_video_feed_take(feed, decoding->packet, &ordinal, &more, reterr);
    if (!s && more && ordinal >= decoding->feed_end) {
        s = sp_video_feed_untake(feed, decoding->packet, ordinal, reterr);
        more = false;
    }
    if (!s && !more) {
        decoding->draining = true;
        return sp_video_decoder_send(&decoding->decoder, NULL, 0, &code, reterr);
    }
    bool of_next = decoding->run + 1 < decoding->index->run_count &&
                   ordinal >= sp_video_index_runs(decoding->index)[decoding->run + 1].first_packet;
    if (!s && of_next)
        s = sp_video_feed_keep(feed, decoding->packet, ordinal, reterr);
    if (!s) {
        if (sp_video_index_packets(decoding->index)[ordinal] != SP_VIDEO_HIDDEN)
            decoding->last_shown = ordinal;
        if (decoding->packet->flags & AV_PKT_FLAG_KEY)
            decoding->packets[ordinal - decoding->first_packet] |= PACKET_KEY;
        s = sp_video_decoder_send(&decoding->decoder, decoding->packet, ordinal, &code, reterr);
        if (!s)
            note_trouble(decoding, code);
    }
    av_packet_unref(decoding->packet);
    return s;
}

/* Does the frame belong to what this run gives? */
static bool accept(sp_video_decoding *decoding, AVFrame *frame, uint32_t *ret_number, bool *ret_damaged)
{
    const sp_video_index *index = decoding->index;
    const sp_video_run *run = &sp_video_index_runs(index)[decoding->run];
    uint64_t ordinal = (uint64_t)frame->pts;
    bool named = frame->pts != AV_NOPTS_VALUE && ordinal >= decoding->first_packet && ordinal < decoding->feed_end;
    uint32_t number = index->has_times ? named ? sp_video_index_packets(index)[ordinal] : SP_VIDEO_HIDDEN : decoding->counted++;
    if (number < run->first_frame || number > run->first_frame + run->frame_count || number >= index->frame_count)
        return false; /* a leading picture of the run before, or nothing the index knows of */
    sp_video_trouble *trouble = trouble_of(decoding, number);
    if ((int64_t)number <= decoding->last_number) {
        remember(trouble, "frame %u came out of order", number);
        return false;
    }
    decoding->last_number = number;
    if (frame->width != index->coded_width || frame->height != index->coded_height) {
        remember(trouble, "frame %u has %d x %d pixels, the video began with %d x %d", number, frame->width, frame->height,
                 index->coded_width, index->coded_height);
        return false;
    }
    if (!sp_nvdec_on_device(frame) && !sp_video_format_known(frame->format)) {
        remember(trouble, "frame %u has a pixel format that is not read", number);
        return false;
    }
    *ret_damaged = frame->decode_error_flags || frame->flags & AV_FRAME_FLAG_CORRUPT ||
                   (named && (decoding->packets[ordinal - decoding->first_packet] & PACKET_DAMAGED));
    if (named)
        frame->key_frame = (decoding->packets[ordinal - decoding->first_packet] & PACKET_KEY) != 0;
    if (*ret_damaged)
        remember(trouble, "frame %u is damaged: the decoder filled in what was missing", number);
    *ret_number = number;
    return true;
}

/* A GPU's decoder passes over what it cannot decode, and says nothing of it: is `frame` not the one that comes next, or (NULL)
 * are there some that did not come? */
static bool lacks_frames(const sp_video_decoding *decoding, const AVFrame *frame)
{
    const sp_video_index *index = decoding->index;
    const sp_video_run *run = &sp_video_index_runs(index)[decoding->run];
    uint32_t next = decoding->last_number < 0 ? run->first_frame : (uint32_t)decoding->last_number + 1;
    if (!decoding->decoder.nvdec)
        return false;
    if (!frame)
        return next < run->first_frame + run->frame_count + (decoding->run + 1 < index->run_count);
    uint64_t ordinal = (uint64_t)frame->pts;
    return ordinal < decoding->first_packet || ordinal >= decoding->feed_end || sp_video_index_packets(index)[ordinal] > next;
}

/* The decoder's next frame. *ret_got false: the run is over. */
static sp_status pull(sp_video_decoding *decoding, AVFrame *frame, bool *ret_got, sp_error *reterr)
{
    for (;;) {
        int code;
        sp_status s = sp_video_decoder_receive(&decoding->decoder, frame, ret_got, &code, reterr);
        if (s)
            return s;
        note_trouble(decoding, code);
        decoding->errors_in_a_row = code ? decoding->errors_in_a_row + 1 : 0;
        if (*ret_got)
            return SP_OK;
        if (code && decoding->errors_in_a_row < MAX_ERRORS_IN_A_ROW)
            continue;
        if (decoding->draining)
            return SP_OK;
        s = feed_one(decoding, reterr);
        if (s)
            return s;
    }
}

/* Once more with one thread, up to where it was: what came until now was whole, so it is the same. */
static sp_status again_alone(sp_video_decoding *decoding, sp_error *reterr)
{
    int64_t given = SP_MAX(decoding->last_number, decoding->given);
    decoding->alone = true;
    sp_status s = sp_video_decoding_start(decoding, decoding->run, reterr);
    decoding->given = given;
    return s;
}

sp_status sp_video_decoding_next(sp_video_decoding *decoding, AVFrame *frame, uint32_t *ret_number, bool *ret_damaged, bool *ret_got,
                                 sp_error *reterr)
{
    *ret_got = false;
    while (!decoding->ended) {
        bool got;
        sp_status s = pull(decoding, frame, &got, reterr);
        if (!s && (sp_video_decoder_dirty(&decoding->decoder) || lacks_frames(decoding, got ? frame : NULL))) {
            av_frame_unref(frame);
            s = again_alone(decoding, reterr);
            if (!s)
                continue;
        }
        if (s)
            return s;
        if (!got) {
            decoding->ended = true;
        } else if (accept(decoding, frame, ret_number, ret_damaged) && *ret_number > decoding->given) {
            *ret_got = true;
            return SP_OK;
        } else {
            av_frame_unref(frame);
        }
    }
    return SP_OK;
}
