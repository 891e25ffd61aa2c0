/* SPDX-License-Identifier: Apache-2.0
 * libFuzzer target for the video reader: the bytes are a file, or (when they begin like one) an index from another process. What
 * gets an index is decoded, all segments in order and then the last one alone. libav itself has no coverage here: what is
 * looked for is what we make of its answers. Also linked into the replay test. */
#include "base/buf.h"
#include "media/video_index.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Small enough for hundreds of runs a second. */
#define FUZZ_PIXELS (64 * 64)
#define FUZZ_FRAMES 96
#define FUZZ_BYTES (64 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static void check_index_block(const uint8_t *data, size_t size_bytes)
{
    uint8_t *copy = malloc(size_bytes); /* aligned, and no byte longer */
    sp_error err = { 0 };
    SP_ASSERT(copy);
    memcpy(copy, data, size_bytes);
    sp_status s = sp_video_index_check(sp_view_make(copy, size_bytes), &err);
    SP_ASSERT(s == SP_OK || (s == SP_INVALID && strcmp(err.code, "bad_index") == 0));
    free(copy);
}

/* Every frame of the segment is one that the index has, and what is missing adds up. */
static void read_segment(sp_video *video, const sp_video_index *index, uint32_t number, uint8_t *plane)
{
    const sp_video_segment *segment = &sp_video_index_segments(index)[number];
    int64_t last = -1;
    uint32_t frames = 0;
    sp_error err = { 0 };
    sp_status s = sp_video_stand(video, number, &err);
    for (bool more = true; !s && more;) {
        sp_video_frame frame = { 0 };
        sp_video_loss loss = { 0 };
        s = sp_video_next(video, plane, (size_t)index->width, &frame, &more, &loss, &err);
        if (!s && more) {
            SP_ASSERT((int64_t)frame.number > last && frame.number >= segment->first_frame);
            SP_ASSERT(frame.number - segment->first_frame < segment->frame_count + (frame.lookahead ? 1u : 0u));
            SP_ASSERT(frame.pts == sp_video_index_pts(index)[frame.number]);
            last = frame.number;
            frames += !frame.lookahead;
        } else if (!s) {
            SP_ASSERT(frames + loss.lost_frames == segment->frame_count && (!loss.lost_frames || loss.reason[0]));
        }
    }
    SP_ASSERT(s == SP_OK || s == SP_NOMEM);
}

static void read_video(const sp_video_source *source, const sp_video_index *index)
{
    size_t plane_bytes = (size_t)index->width * (size_t)index->height;
    uint8_t *plane = malloc(plane_bytes), *rgb = malloc(plane_bytes * 3);
    sp_video *video = NULL;
    sp_error err = { 0 };
    SP_ASSERT(plane && rgb);
    SP_ASSERT(plane_bytes <= FUZZ_PIXELS && index->frame_count <= FUZZ_FRAMES);
    sp_status s = sp_video_open(source, index, NULL, &video, &err);
    SP_ASSERT(s == SP_OK || s == SP_NOMEM);
    for (uint32_t i = 0; !s && i < index->segment_count; i++)
        read_segment(video, index, i, plane);
    if (!s) {
        read_segment(video, index, index->segment_count - 1, plane);
        s = sp_video_picture(video, index->frame_count / 2, rgb, &err);
        SP_ASSERT(s == SP_OK || s == SP_NOT_FOUND || s == SP_NOMEM);
    }
    sp_video_close(video);
    free(plane);
    free(rgb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static const uint8_t index_begin[4] = { SP_VIDEO_INDEX_ABI };
    if (size_bytes >= 8 && memcmp(data, index_begin, 4) == 0) {
        check_index_block(data, size_bytes);
        return 0;
    }
    size_bytes = SP_MIN(size_bytes, (size_t)FUZZ_BYTES);
    int fd = memfd_create("video", MFD_CLOEXEC);
    SP_ASSERT(fd >= 0 && write(fd, data, size_bytes) == (ssize_t)size_bytes);
    const sp_video_source source = { .fd = fd, .size_bytes = size_bytes };
    const sp_video_limits limits = { .max_pixels = FUZZ_PIXELS, .max_frames = FUZZ_FRAMES };
    sp_buf block;
    sp_error err = { 0 };
    sp_buf_init(&block, 1 << 20);
    sp_status s = sp_video_index_make(&source, &limits, &block, &err);
    if (s) {
        SP_ASSERT(s == SP_INVALID || s == SP_TOO_LARGE || s == SP_UNSUPPORTED || s == SP_NOMEM);
        SP_ASSERT(s == SP_NOMEM || (err.code[0] && err.message[0]));
    } else {
        SP_ASSERT(sp_video_index_check(sp_buf_view(&block), &err) == SP_OK);
        read_video(&source, (const sp_video_index *)(const void *)block.data);
    }
    sp_buf_done(&block);
    (void)close(fd);
    return 0;
}
