/* SPDX-License-Identifier: Apache-2.0
 * Segments and single pictures out of a file: what sp_video_api promises on top of decoded runs. */
#include "base/limits.h"
#include "media/video_frame.h"
#include "media/video_index.h"
#include "media/video_run.h"

#include <stdio.h>
#include <stdlib.h>

struct sp_video {
    const sp_video_index *index; /* the caller's */
    sp_video_options options;
    sp_video_turn turn;
    sp_video_decoding decoding;
    uint8_t *scratch;
    sp_video_device_ring ring_of; /* where the device's ring lies beside the host's */
    sp_nvdec_ring *ring;          /* NULL = none */

    AVFrame *frame;  /* came out of the run; may wait to be taken */
    uint32_t number; /* of it */
    bool waiting, damaged;
    int64_t taken;   /* the last frame of the run that nobody can have again, -1 = none */

    bool in_segment;
    uint32_t segment, delivered, damaged_count;
    bool lookahead_given;
};

void sp_video_close(sp_video *video)
{
    if (!video)
        return;
    sp_video_decoding_done(&video->decoding);
    av_frame_free(&video->frame);
    sp_nvdec_ring_close(video->ring); /* no frame is left that lies in its memory */
    free(video->scratch);
    free(video);
}
SP_DEFINE_CLEANUP(sp_video, sp_video_close)

/* Frames that are turned come to the host, and all where the driver does not open the ring. */
static void open_ring(sp_video *video)
{
    const sp_video_options *options = &video->options;
    const sp_video_turn *turn = &video->turn;
    if (!options->ring || !options->gpu || options->skip_grey || turn->swap || turn->flip_x || turn->flip_y)
        return;
    video->ring_of = *options->ring;
    if (sp_nvdec_ring_open(options->gpu - 1, video->ring_of.handle, video->ring_of.bytes, &video->ring, NULL))
        video->ring = NULL;
}

sp_status sp_video_open(const sp_video_source *source, const sp_video_index *index, const sp_video_options *options,
                        sp_video **ret_video, sp_error *reterr)
{
    if (!index->packet_count)
        return SP_FAIL(reterr, SP_CORRUPT, "the index has no table of packets: it is for no decoding");
    if (source->size_bytes != index->file_bytes)
        return SP_FAIL(reterr, SP_CORRUPT, "the index is of another file: of %llu bytes, here are %llu",
                       (unsigned long long)index->file_bytes, (unsigned long long)source->size_bytes);
    SP_CLEANUP(sp_video_closep) sp_video *video = calloc(1, sizeof(*video));
    if (!video)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a video's reader");
    video->index = index;
    video->options = options ? *options : (sp_video_options){ 0 };
    video->turn = sp_video_turn_of(index->rotation, index->mirrored);
    video->frame = av_frame_alloc();
    video->scratch = malloc(sp_video_scratch_bytes(index->coded_width, index->coded_height));
    if (!video->frame || !video->scratch)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a video's reader");
    sp_status s = sp_video_decoding_open(&video->decoding, source, index, &video->options, reterr);
    if (s)
        return s;
    open_ring(video);
    video->options.ring = NULL; /* the caller's */
    video->decoding.ring = video->ring;
    *ret_video = SP_STEAL(video);
    return SP_OK;
}

/* Is `run` being decoded, with no frame from `number` on gone yet? */
static bool can_go_on(const sp_video *video, uint32_t run, uint32_t number)
{
    return video->decoding.running && video->decoding.run == run && video->taken < (int64_t)number;
}

static sp_status stand_before(sp_video *video, uint32_t run, uint32_t number, sp_error *reterr)
{
    if (can_go_on(video, run, number))
        return SP_OK;
    av_frame_unref(video->frame);
    video->waiting = false;
    video->taken = -1;
    return sp_video_decoding_start(&video->decoding, run, reterr);
}

/* The run's next frame waits in video->frame, unless *ret_got is false. */
static sp_status look(sp_video *video, bool *ret_got, sp_error *reterr)
{
    *ret_got = true;
    if (video->waiting)
        return SP_OK;
    sp_status s = sp_video_decoding_next(&video->decoding, video->frame, &video->number, &video->damaged, ret_got, reterr);
    video->waiting = !s && *ret_got;
    return s;
}

static void take(sp_video *video)
{
    av_frame_unref(video->frame);
    video->waiting = false;
    video->taken = video->number;
}

sp_status sp_video_stand(sp_video *video, uint32_t segment, sp_error *reterr)
{
    const sp_video_index *index = video->index;
    if (segment >= index->segment_count)
        return SP_FAIL(reterr, SP_INVALID, "segment %u of %u", segment, index->segment_count);
    const sp_video_segment *wanted = &sp_video_index_segments(index)[segment];
    video->in_segment = false;
    sp_status s = stand_before(video, wanted->run, wanted->first_frame, reterr);
    if (s)
        return s;
    video->in_segment = true;
    video->segment = segment;
    video->delivered = video->damaged_count = 0;
    video->lookahead_given = false;
    return SP_OK;
}

static void end_segment(sp_video *video, sp_video_loss *ret_loss)
{
    const sp_video_segment *segment = &sp_video_index_segments(video->index)[video->segment];
    const sp_video_trouble *trouble = sp_video_decoding_trouble(&video->decoding, video->segment);
    *ret_loss = (sp_video_loss){
        .lost_frames = segment->frame_count - video->delivered,
        .damaged_frames = video->damaged_count,
        .error_count = trouble->error_count,
    };
    memcpy(ret_loss->reason, trouble->reason, sizeof(ret_loss->reason));
    if (ret_loss->lost_frames && !ret_loss->reason[0])
        (void)snprintf(ret_loss->reason, sizeof(ret_loss->reason), "the decoder gave %u of %u frames and no reason", video->delivered,
                       segment->frame_count);
    video->in_segment = false;
}

/* The frame that waits, to where the caller wants it. */
static sp_status deliver(sp_video *video, uint8_t *dst, size_t stride_bytes, sp_video_frame *frame, sp_error *reterr)
{
    if (!sp_nvdec_on_device(video->frame)) {
        sp_video_frame_grey(video->frame, video->turn, dst, stride_bytes, video->scratch);
        return SP_OK;
    }
    frame->on_device = true;
    frame->limited = sp_video_frame_limited(video->frame);
    return sp_nvdec_ring_put(video->ring, video->frame, (size_t)(dst - video->ring_of.host), stride_bytes, reterr);
}

sp_status sp_video_next(sp_video *video, uint8_t *dst, size_t stride_bytes, sp_video_frame *ret_frame, bool *ret_more,
                        sp_video_loss *ret_loss, sp_error *reterr)
{
    if (!video->in_segment)
        return SP_FAIL(reterr, SP_INTERNAL, "a frame was asked for outside of a segment");
    const sp_video_segment *segment = &sp_video_index_segments(video->index)[video->segment];
    uint32_t end = segment->first_frame + segment->frame_count;
    for (;;) {
        bool got = false;
        sp_status s = video->lookahead_given ? SP_OK : look(video, &got, reterr);
        if (s)
            return s;
        if (!got || video->number > end) {
            end_segment(video, ret_loss);
            *ret_more = false;
            return SP_OK;
        }
        if (video->number >= segment->first_frame)
            break;
        take(video); /* of a segment before, which nobody asked for */
    }
    bool lookahead = video->number == end;
    sp_video_frame frame = {
        .number = video->number,
        .pts = sp_video_index_pts(video->index)[video->number],
        .lookahead = lookahead,
        .damaged = video->damaged,
        .key = video->frame->key_frame,
    };
    sp_status s = video->options.skip_grey ? SP_OK : deliver(video, dst, stride_bytes, &frame, reterr);
    if (s)
        return s;
    *ret_frame = frame;
    *ret_more = true;
    if (lookahead) {
        video->lookahead_given = true; /* it stays: the next segment begins with it */
        return SP_OK;
    }
    video->delivered++;
    video->damaged_count += video->damaged;
    take(video);
    return SP_OK;
}

static uint32_t run_of(const sp_video_index *index, uint32_t number)
{
    const sp_video_run *runs = sp_video_index_runs(index);
    uint32_t low = 0, high = index->run_count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (runs[middle].first_frame <= number)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

sp_status sp_video_picture(sp_video *video, uint32_t number, uint8_t *ret_rgb, sp_error *reterr)
{
    if (number >= video->index->frame_count)
        return SP_FAIL(reterr, SP_NOT_FOUND, "the video has no frame %u, it has %u", number, video->index->frame_count);
    video->in_segment = false;
    sp_status s = stand_before(video, run_of(video->index, number), number, reterr);
    for (bool got = true; !s; take(video)) {
        s = look(video, &got, reterr);
        if (s)
            break;
        if (!got || video->number > number)
            return SP_FAIL(reterr, SP_NOT_FOUND, "frame %u cannot be decoded", number);
        if (video->number == number) {
            sp_video_frame_rgb(video->frame, video->turn, ret_rgb, video->scratch);
            return SP_OK; /* it waits on: the same frame may be asked for again */
        }
    }
    return s;
}

