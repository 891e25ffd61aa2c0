/* SPDX-License-Identifier: Apache-2.0
 * Video files in, grey planes with exact frame numbers out. Lives in libspillway_media.so (media/load.h), used by codec workers,
 * by the decoder process of a device worker, and by one-shot commands.
 *
 *   index    what a file holds: size, time base, the timestamp of every frame, runs and segments. One flat block of memory
 *            (no pointers), so that it travels between processes and is kept; sp_video_index_check before it is believed.
 *   run      frames that are decoded from one key frame on, by a decoder that knows nothing of what came before.
 *   segment  a stretch of a run's frames: the unit of analysis and of checkpoints.
 *
 *     packets   K . . . . K . . K . . . . . . . . . . . . K . . .       K = key frame
 *     runs      |-- 0 ------------|-- 1 ------------------|-- 2 -       a new one at a key frame >= SP_VIDEO_RUN_FRAMES on
 *     segments  |-- 0 ------------|-- 1 -------|-- 2 -----|-- 3 -       SP_VIDEO_SEGMENT_FRAMES each; a rest below half of that
 *                                                                       belongs to the one before
 *
 * Runs and segments depend on the file alone. A decoder is fed a run from its key frame up to and including the next run's key
 * frame and the leading pictures behind that, and frames are told apart by their timestamps: a run owns those in
 * [its key frame, the next run's key frame). So what a segment decodes to is a function of (file, segment), in damaged files
 * too, whoever decodes it and wherever he began. Threads of the decoder do not change a frame.
 *
 * Grey = the luma plane through kernels/plane.h's sp_grey_*, rotated as the display matrix says (multiples of 90 degrees and
 * mirrors; another angle is ignored and noted). */
#ifndef SP_MEDIA_VIDEO_H
#define SP_MEDIA_VIDEO_H

#include "base/buf.h"
#include "base/status.h"
#include "base/view.h"

#define SP_VIDEO_RUN_FRAMES 48
#define SP_VIDEO_SEGMENT_FRAMES 64
#define SP_VIDEO_INDEX_ABI 1u
#define SP_LIMIT_VIDEO_NOTES 8

/* A file by descriptor: read with pread only, so several readers share one. Borrowed. */
typedef struct sp_video_source {
    int fd;
    uint64_t offset_bytes, size_bytes; /* where the file lies in it */
} sp_video_source;

typedef struct sp_video_limits {
    uint64_t max_bytes;      /* 0 = SP_LIMIT_VIDEO_BODY_BYTES */
    uint64_t max_pixels;     /* of one frame; 0 = SP_LIMIT_VIDEO_PIXELS */
    uint32_t max_frames;     /* 0 = SP_LIMIT_VIDEO_FRAMES */
    double max_duration_s;   /* 0 = SP_LIMIT_VIDEO_SECONDS */
} sp_video_limits;

typedef struct sp_video_run {
    int64_t key_pts, key_dts, key_position; /* of its key frame's packet; position: byte in the file, -1 = unknown */
    uint64_t first_packet;                  /* ordinal of that packet among the stream's */
    uint32_t first_frame, frame_count;
} sp_video_run;

typedef struct sp_video_segment {
    uint32_t run, first_frame, frame_count;
} sp_video_segment;

typedef struct sp_video_index {
    uint32_t abi, index_bytes; /* of all of it */
    uint8_t sha256[32];        /* of the file */
    uint64_t file_bytes;
    char format[32], codec[32], pixel_format[32]; /* libav's names */
    uint32_t stream;           /* number of the video stream */
    int32_t width, height;     /* of a frame as analysed: rotated */
    int32_t coded_width, coded_height;
    int32_t rotation;          /* degrees clockwise: 0, 90, 180, 270; of the frame as stored, mirrored left to right before if so */
    uint8_t mirrored, limited_range, has_times, variable_rate; /* has_times 0: timestamps cannot be used; frames are counted */
    int32_t time_base_num, time_base_den;
    int32_t rate_num, rate_den; /* frames per second on average; 0/1 = unknown */
    int64_t duration_pts;       /* from the first frame's begin to the last one's end */
    uint32_t frame_count, run_count, segment_count, note_count;
    char notes[SP_LIMIT_VIDEO_NOTES][160]; /* what was odd or lost while indexing: "truncated at byte 123456" */
    uint64_t runs_offset, segments_offset, pts_offset; /* from the index's begin: sp_video_run[], sp_video_segment[], int64_t[] */
    uint64_t packets_offset, packet_count; /* uint32_t[]: the number of the frame that each of the stream's packets shows,
                                            * UINT32_MAX = none of its own; count 0 = no table (an index that decodes nothing) */
} sp_video_index;

static inline const sp_video_run *sp_video_index_runs(const sp_video_index *index)
{
    return (const sp_video_run *)(const void *)((const uint8_t *)index + index->runs_offset);
}
static inline const sp_video_segment *sp_video_index_segments(const sp_video_index *index)
{
    return (const sp_video_segment *)(const void *)((const uint8_t *)index + index->segments_offset);
}
/* Rising; [frame_count]. Without times: 0, 1, 2 ... */
static inline const int64_t *sp_video_index_pts(const sp_video_index *index)
{
    return (const int64_t *)(const void *)((const uint8_t *)index + index->pts_offset);
}

static inline const uint32_t *sp_video_index_packets(const sp_video_index *index)
{
    return (const uint32_t *)(const void *)((const uint8_t *)index + index->packets_offset);
}

/* Is this block (8-byte aligned) a whole index whose numbers agree with each other? It crossed a process: nothing in it is
 * trusted. SP_INVALID, code "bad_index". Pure; in the media_load library, so that a gateway may use it. */
sp_status sp_video_index_check(sp_view block, sp_error *reterr);

typedef struct sp_video sp_video;

typedef struct sp_video_options {
    int threads;   /* of the decoder; 0 = 1 */
    int skip_grey; /* 1: sp_video_next's dst is NULL (counting) */
    int gpu;       /* n: CUDA device n - 1 decodes what it can (nvdec.h), to the same frames; 0 = none */
    const struct sp_video_device_ring *ring; /* NULL = none: frames of that device may stay on it; read by open only */
} sp_video_options;

/* Memory on the device that decodes, of another process, beside memory of the host: what `next` is given as dst lies in the latter. A
 * frame that was decoded on the device is left at the same place of the former, if that can be. */
typedef struct sp_video_device_ring {
    const uint8_t *host;
    size_t bytes;
    uint8_t handle[64]; /* the driver's, to open it by */
} sp_video_device_ring;

typedef struct sp_video_frame {
    uint32_t number;   /* of the index: rank of its timestamp */
    int64_t pts;
    bool lookahead;    /* the frame behind the segment's last: for the last pair; the next segment yields it again */
    bool damaged;      /* the decoder had errors in it and concealed them */
    bool key;
    bool on_device;    /* it is in the device's ring, and dst was not written: luma as it was decoded; */
    bool limited;      /* of limited range, still to be made grey (kernels/plane.h) */
} sp_video_frame;

typedef struct sp_video_loss {
    uint32_t lost_frames;    /* of this segment's frames in the index those that never came */
    uint32_t damaged_frames;
    uint32_t error_count;    /* packets that the decoder refused */
    char reason[160];        /* the first; "" = none */
} sp_video_loss;

/* Encoders of the report's pictures and films. */
typedef struct sp_video_writer sp_video_writer;

/* What sp_media_api (image.h) gives of video:
 *
 * index: reads all packets, decodes at most a few frames (to know the pixel format). ret_block gets the index (its ceiling is the
 *   caller's). SP_INVALID code "unknown_format" (no container that is allowed: mov/mp4, matroska/webm, avi, mpegts, mpegps, flv,
 *   ogg, ivf, raw h264/hevc/mpeg4/m1v/m2v/y4m, gif, mjpeg), "no_video", "corrupt" (no frame at all); SP_TOO_LARGE past a limit;
 *   SP_UNSUPPORTED no decoder; SP_NOMEM. Playlists, concat scripts, external references, network protocols: never opened.
 * open: a reader. `index` must have passed the check and stays borrowed. As index fails.
 * segment: the next frames are those of `segment`; cheap when it follows the last one of the same run.
 * next: the next frame of the segment, oriented, into dst (index->height rows of index->width). *ret_more false: there was none,
 *   the segment is over, and *ret_loss says what it lacks. Only SP_NOMEM, SP_INTERNAL (and SP_CORRUPT: index and file do not fit)
 *   are failures; damage is a loss.
 * picture: frame `number` as packed oriented RGB8 (YUV by integer BT.601 or BT.709 as the stream says; 709 above 576 rows when it
 *   does not say). SP_NOT_FOUND: it cannot be decoded.
 * encode_png: RGB8 (or, grey 1, one byte a pixel) packed rows. free() it.
 * writer_*: an MP4 of RGB8 frames through libav's best encoder here (H.264 else MPEG-4), written to a descriptor with pwrite
 *   from its begin; SP_UNSUPPORTED when there is no encoder. Not bit-exact between machines; never part of a report's identity. */
typedef struct sp_video_api { /* sp_media_api.video (media/image.h) */
    sp_status (*index)(const sp_video_source *source, const sp_video_limits *limits, sp_buf *ret_block, sp_error *reterr);
    sp_status (*open)(const sp_video_source *source, const sp_video_index *index, const sp_video_options *options,
                      sp_video **ret_video, sp_error *reterr);
    void (*close)(sp_video *video); /* NULL is fine */
    sp_status (*segment)(sp_video *video, uint32_t segment, sp_error *reterr);
    sp_status (*next)(sp_video *video, uint8_t *dst, size_t stride_bytes, sp_video_frame *ret_frame, bool *ret_more,
                      sp_video_loss *ret_loss, sp_error *reterr);
    sp_status (*picture)(sp_video *video, uint32_t number, uint8_t *ret_rgb, sp_error *reterr);
    sp_status (*encode_png)(const uint8_t *pixels, int width, int height, int grey, uint8_t **ret_file, size_t *ret_file_bytes,
                            sp_error *reterr);
    sp_status (*writer_open)(int fd, int width, int height, int rate_num, int rate_den, sp_video_writer **ret_writer,
                             sp_error *reterr);
    sp_status (*writer_add)(sp_video_writer *writer, const uint8_t *rgb, sp_error *reterr);
    sp_status (*writer_close)(sp_video_writer *writer, sp_error *reterr); /* also frees it; NULL: SP_OK */
} sp_video_api;

#endif
