/* SPDX-License-Identifier: Apache-2.0
 * analyze: the frames of a video in, what is in them out: how much they move and where to, edges, sharpness, exposure, regions
 * that move, spots that look like defects, scene cuts; then tracks over frames, key frames, a report. It knows no device and
 * no process: a worker, the decoder's neighbour, a one-shot command run the same code.
 *
 *   plan      parameters and size: tables shared by threads, immutable.
 *   analyzer  one thread's buffers. Frames of one segment in, one record a frame out.
 *   segment   the records of one segment as bytes: what is sent, kept as a checkpoint, and merged.
 *   analysis  all segments of a video, merged: what goes over frames (tracks, scenes, key frames), and the writers of the report.
 *
 * A record is a function of its frame and the next one and the parameters alone. All of it is integers (flow in 1/1024 px,
 * means in thousandths), so whoever computes it, in whatever pieces, gets the same bytes. */
#ifndef SP_TASK_ANALYZE_H
#define SP_TASK_ANALYZE_H

#include "kernels/flow.h"
#include "media/video.h"

#define SP_ANALYZE_ABI 1u
/* Regions told of one frame, the largest first; the record says how many there were. */
#define SP_LIMIT_FRAME_REGIONS 12
#define SP_LIMIT_KEY_FRAMES 64

/* Everything that the result depends on. Plain data, zeroed before it is filled: it is hashed, and travels between processes. */
typedef struct sp_analyze_params {
    sp_flow_params flow;
    int32_t canny_low, canny_high;       /* 15, 60 */
    uint32_t motion_threshold;           /* a pixel moves from here on, 1/1024 px a frame: 1024 */
    uint32_t motion_min_area;            /* pixels of a region: 256 */
    uint32_t defect_threshold;           /* grey levels above or below the surroundings (top-hat, black-hat): 40 */
    uint32_t defect_min_area, defect_max_area; /* 4, 225 */
    uint32_t defect_min_frames;          /* a defect stands still for so many frames: 30 */
    uint32_t track_min_frames;           /* a track of motion lasts so long: 5 */
    uint32_t scene_threshold;            /* distance of the histograms of two frames, thousandths of 2 * pixels: 350 */
    uint32_t key_frames;                 /* how many, at most SP_LIMIT_KEY_FRAMES: 8 */
} sp_analyze_params;
sp_analyze_params sp_analyze_params_default(void);
/* SP_INVALID names the parameter and its range. */
sp_status sp_analyze_params_check(const sp_analyze_params *params, sp_error *reterr);
/* One parameter by its name in the API ("canny_low", "winsize", "levels", "iterations", "poly_n", "poly_sigma", "pyr_scale",
 * "gaussian", "motion_threshold" in pixels, ...). SP_INVALID: unknown (the message names the nearest), or no such value. */
sp_status sp_analyze_params_set(sp_analyze_params *params, const char *name, const char *value, sp_error *reterr);

/* One frame. "pair" = with the next frame; all zero when there is none (has_pair 0). */
typedef struct sp_frame_region {
    uint16_t x0, y0, x1, y1;         /* exclusive end */
    uint32_t area;
    uint32_t centre_x, centre_y;     /* 1/256 px, floor */
    uint32_t strength;               /* motion: mean magnitude, 1/1024 px; defect: mean distance from the surroundings, 1/256 */
} sp_frame_region;
typedef struct sp_frame_record {
    uint32_t number;                 /* of the index */
    uint8_t has_pair, damaged, key, cut; /* cut: pair: looks like the end of a scene (the merge decides) */
    int64_t pts;
    uint32_t mean, deviation;        /* grey, thousandths */
    uint32_t dark, bright;           /* pixels below 16, above 239: thousandths of all */
    uint64_t sharpness;              /* variance of the Laplacian, thousandths */
    uint32_t edges;                  /* Canny's pixels */
    uint32_t difference;             /* pair: mean |a - b|, thousandths */
    uint32_t histogram_distance;     /* pair: sum |ha - hb|, thousandths of 2 * pixels */
    int32_t flow_x, flow_y;          /* pair: mean, 1/1024 px */
    uint32_t flow_mean, flow_deviation, flow_max; /* magnitude, 1/1024 px */
    uint32_t moving;                 /* pair: pixels over motion_threshold */
    uint32_t direction[8];           /* pair: share of the moving pixels' magnitude by octant, thousandths */
    uint32_t mask_area;              /* pair: pixels of the motion mask after open 3x3 and close 5x5 */
    uint32_t motion_count, defect_count; /* regions there were; of them told: at most SP_LIMIT_FRAME_REGIONS */
    sp_frame_region motion[SP_LIMIT_FRAME_REGIONS], defects[SP_LIMIT_FRAME_REGIONS];
} sp_frame_record;

typedef struct sp_analyze_plan sp_analyze_plan;
typedef struct sp_analyzer sp_analyzer;
sp_status sp_analyze_plan_new(const sp_analyze_params *params, int w, int h, sp_analyze_plan **ret_plan, sp_error *reterr);
void sp_analyze_plan_free(sp_analyze_plan *plan);
sp_status sp_analyzer_new(const sp_analyze_plan *plan, sp_analyzer **ret_analyzer, sp_error *reterr);
void sp_analyzer_free(sp_analyzer *analyzer);
SP_DEFINE_CLEANUP(sp_analyze_plan, sp_analyze_plan_free)
SP_DEFINE_CLEANUP(sp_analyzer, sp_analyzer_free)

/* Where the time of an analyzer went so far, ns. */
typedef struct sp_analyze_timing {
    int64_t flow_ns, edges_ns, morphology_ns, measures_ns;
} sp_analyze_timing;
void sp_analyzer_timing(const sp_analyzer *analyzer, sp_analyze_timing *ret_timing);

/* Analyses `count` frames that follow each other: grey[i] is h rows, stride_bytes apart; grey[count] too when has_next (the
 * frame behind the last one), and frames[count] with it. frames[i] has number, pts, damaged, key. Where a number does not follow
 * the one before (the frame between was lost), there is no pair. Fills ret_records. Allocates nothing. Each frame is expanded
 * once, also when a segment is given in pieces: a call whose first frame is the one behind the last call's, and that was no
 * lookahead (sp_video_frame), does not expand it again. sp_analyzer_begin forgets it: called before each segment. */
void sp_analyzer_begin(sp_analyzer *analyzer);
void sp_analyzer_run(sp_analyzer *analyzer, const uint8_t *const *grey, size_t stride_bytes, const sp_video_frame *frames,
                     int count, bool has_next, sp_frame_record *ret_records);

/* --- a segment as bytes --- */

/* What every segment begins with; records follow, packed (only the regions that are told). */
typedef struct sp_segment_head {
    uint32_t magic, abi; /* "SPSG" */
    uint64_t bytes;      /* of all of it, a multiple of 8 */
    uint8_t file_sha256[32], params_sha256[32];
    uint32_t segment, record_count;
    sp_video_loss loss;
    uint64_t check;      /* xxh64 of everything behind the head, seeded with that of everything before this */
} sp_segment_head;
/* Appends one segment. Records in rising number, at most those of the segment; `loss` (NULL = none) gives error_count and
 * reason, lost and damaged frames are counted here. Fails as sp_buf does. */
void sp_segment_write(sp_buf *out, const sp_video_index *index, const sp_analyze_params *params, uint32_t segment,
                      const sp_frame_record *records, uint32_t record_count, const sp_video_loss *loss);
/* Is this (8-byte aligned) a segment of that video under those parameters, whole and in order? *ret_bytes: how long it is;
 * others may follow. SP_INVALID, code "bad_segment". It crossed a process or lay on a disk: nothing in it is trusted. */
sp_status sp_segment_check(sp_view block, const sp_video_index *index, const sp_analyze_params *params, uint64_t *ret_bytes,
                           sp_error *reterr);

/* --- what travels in a slot's body: an order, then the index, then (REPORT) all segments one behind the other --- */
typedef struct sp_analyze_order {
    uint32_t abi, order_bytes;       /* SP_ANALYZE_ABI, sizeof */
    sp_analyze_params params;
    uint32_t first_segment, segment_count; /* ANALYZE: the chunk */
    uint32_t overlay;                /* REPORT: also a film with flow and edges */
    uint32_t reserved;
    uint64_t index_bytes, segments_bytes;
} sp_analyze_order;
/* Checks order, parameters and index of a body (and that the chunk lies in it). *ret_segments: what lies behind the index. */
sp_status sp_analyze_order_check(sp_view body, sp_analyze_order *ret_order, const sp_video_index **ret_index,
                                 sp_view *ret_segments, sp_error *reterr);

/* --- the whole video --- */
struct sp_media_api; /* media/image.h */

typedef struct sp_analysis sp_analysis;
/* `segments`: all of them, in any order, one behind the other. SP_INVALID: one is missing, twice or not of this video; SP_NOMEM.
 * index stays borrowed. */
sp_status sp_analysis_merge(const sp_video_index *index, const sp_analyze_params *params, sp_view segments,
                            sp_analysis **ret_analysis, sp_error *reterr);
void sp_analysis_free(sp_analysis *analysis);
SP_DEFINE_CLEANUP(sp_analysis, sp_analysis_free)
uint32_t sp_analysis_frames(const sp_analysis *analysis); /* analysed */
/* Their numbers, rising. Rule (docs/internals/analyze.md): sharpness x motion x spacing, ties by number. */
uint32_t sp_analysis_key_frames(const sp_analysis *analysis, uint32_t ret_numbers[SP_LIMIT_KEY_FRAMES]);
/* Draws what was found in frame `number` onto its RGB8 picture. */
void sp_analysis_draw(const sp_analysis *analysis, uint32_t number, uint8_t *rgb);

void sp_analysis_write_json(const sp_analysis *analysis, sp_buf *out);    /* report.json */
void sp_analysis_write_csv(const sp_analysis *analysis, sp_buf *out);     /* frames.csv: a row a frame */
void sp_analysis_write_npz(const sp_analysis *analysis, sp_buf *out);     /* frames.npz: the same columns, numpy's format */
void sp_analysis_write_html(const sp_analysis *analysis, sp_buf *out);    /* report.html: plots (inline SVG), key frames by file name */

/* The whole report as files: calls `put` for report.json, frames.csv, frames.npz, key/000123.png ..., report.html and (overlay)
 * overlay.mp4. `media`, `source`: for the pictures; a picture that cannot be decoded is left out of the report's files (the
 * report itself does not depend on it). What `put` returns if not SP_OK ends it. */
typedef sp_status sp_report_put_fn(void *context, const char *name, sp_view bytes, sp_error *reterr);
sp_status sp_analysis_write_all(const sp_analysis *analysis, const struct sp_media_api *media, const sp_video_source *source,
                                bool overlay, sp_report_put_fn *put, void *context, sp_error *reterr);

/* The first difference of two report.json texts as a sentence ("frames[17].flow_mean: 1043 and 1044"); false = they are equal.
 * SP_INVALID: one of them is no report. */
sp_status sp_analysis_compare(sp_view a, sp_view b, bool *ret_differ, sp_buf *ret_text, sp_error *reterr);

#endif
