/* SPDX-License-Identifier: Apache-2.0
 * What the files of analyze share. Private to them.
 *
 *   params -> segment (records as bytes) -> merge -> scenes, tracks, keys -> json, columns, html, files
 *
 * A record in memory has room for all regions; as bytes only those that are told follow its fixed part:
 *
 *   | fixed part, 120 bytes | motion[min(count, 12)] x 24 | defects[min(count, 12)] x 24 |
 *
 * The merged analysis points at such records; what lies behind their fixed part is reached by sp_record_motion and
 * sp_record_defects only. */
#ifndef SP_TASK_ANALYZE_INTERNAL_H
#define SP_TASK_ANALYZE_INTERNAL_H

#include "kernels/plane.h"
#include "task/analyze.h"

#include <stddef.h>

/* --- parameters --- */

typedef enum sp_param_kind { SP_PARAM_INT, SP_PARAM_DOUBLE, SP_PARAM_BOOL, SP_PARAM_PIXELS /* kept in 1/1024 */ } sp_param_kind;
typedef struct sp_param_rule {
    const char *name;
    sp_param_kind kind;
    size_t offset; /* in sp_analyze_params */
    double low, high;
} sp_param_rule;
const sp_param_rule *sp_analyze_param_rules(int *ret_count);
double sp_analyze_param_value(const sp_analyze_params *params, const sp_param_rule *rule); /* as kept */
void sp_analyze_params_digest(const sp_analyze_params *params, uint8_t ret_sha256[32]);

/* --- what the kernels say of a frame (analyze_sums.c) --- */

struct sp_analyze_plan {
    sp_analyze_params params;
    int w, h;
    sp_flow *flow;
};

/* Regions that are looked at in one mask; more than fit a 1080p frame at the largest defect. */
#define SP_ANALYZE_REGIONS 4096
/* Side of the rectangle that defects stand out of. */
#define SP_ANALYZE_TOPHAT_SIDE 15

/* Regions of a mask: so many with the least area, so many of them in a list behind. As sp_cuda_regions. */
typedef struct sp_region_head {
    uint32_t total, written;
} sp_region_head;

/* A frame alone, and a frame with the next one, before anything is divided: whoever ran the kernels, they are the same. */
typedef struct sp_frame_sums {
    sp_plane_measure plane;
    uint64_t edges;               /* Canny's pixels */
    sp_region_head defects;       /* the list, up to SP_ANALYZE_REGIONS, is apart */
} sp_frame_sums;
typedef struct sp_pair_sums {
    sp_flow_measure flow;
    uint64_t difference, mask_area;
    sp_region_head motion;
    sp_region motion_list[SP_LIMIT_FRAME_REGIONS];
} sp_pair_sums;

/* What is known before: everything else is zero. */
void sp_record_begin(sp_frame_record *record, const sp_video_frame *frame);
void sp_record_frame(sp_frame_record *record, const sp_analyze_plan *plan, const sp_frame_sums *sums, const sp_region *defects);
/* `next`: of the next frame. */
void sp_record_pair(sp_frame_record *record, const sp_analyze_plan *plan, const sp_plane_measure *this, const sp_plane_measure *next,
                    const sp_pair_sums *sums);

/* --- records as bytes --- */

#define SP_SEGMENT_MAGIC 0x47535053u /* "SPSG" */
#define SP_RECORD_FIXED_BYTES offsetof(sp_frame_record, motion)
_Static_assert(SP_RECORD_FIXED_BYTES == 120 && sizeof(sp_frame_region) == 24, "the packed form has no padding");
_Static_assert(sizeof(sp_segment_head) % 8 == 0, "records behind the head are aligned");

/* Flow and magnitudes are clamped to this before they are summed (kernels/plane.h). */
#define SP_FLOW_QUANTUM_MAX (1 << 24)

static inline uint32_t sp_regions_told(uint32_t count)
{
    return SP_MIN(count, (uint32_t)SP_LIMIT_FRAME_REGIONS);
}
static inline const sp_frame_region *sp_record_motion(const sp_frame_record *packed)
{
    return (const sp_frame_region *)(const void *)((const uint8_t *)packed + SP_RECORD_FIXED_BYTES);
}
static inline const sp_frame_region *sp_record_defects(const sp_frame_record *packed)
{
    return sp_record_motion(packed) + sp_regions_told(packed->motion_count);
}
static inline size_t sp_record_bytes(const sp_frame_record *packed)
{
    return SP_RECORD_FIXED_BYTES +
           sizeof(sp_frame_region) * (sp_regions_told(packed->motion_count) + sp_regions_told(packed->defect_count));
}

/* --- rules over frames (docs/internals/analyze.md explains each number) --- */

/* A cut needs this mean change of a pixel too, thousandths of a grey level: a histogram jumps when a lamp is switched off. */
#define SP_CUT_DIFFERENCE 14000u
/* Two cuts within so many frames around which the picture looks the same are a flash; other such pairs are one cut. */
#define SP_SCENE_MIN_FRAMES 8u
/* Blurred, by focus (variance of the Laplacian over that of the grey levels, thousandths): below the first; or below the
 * second with a sharpness under a quarter of its scene's median. */
#define SP_BLUR_FOCUS 6u
#define SP_BLUR_FOCUS_IN_SCENE 20u
#define SP_BLUR_SHARE 4u
/* Exposure, thousandths. */
#define SP_DARK_MEAN 40000u
#define SP_DARK_SHARE 700u
#define SP_BRIGHT_MEAN 215000u
#define SP_BRIGHT_SHARE 400u
#define SP_FLAT_DEVIATION 8000u
/* Tracks that are told; the heaviest stay. */
#define SP_LIMIT_TRACKS 2048u

typedef enum sp_exposure { SP_EXPOSURE_OK, SP_EXPOSURE_DARK, SP_EXPOSURE_BRIGHT, SP_EXPOSURE_FLAT, SP_EXPOSURE_COUNT } sp_exposure;

typedef struct sp_frame_verdict {
    uint32_t scene;
    uint8_t cut, blurred, exposure, chosen; /* cut: the scene ends here; chosen: a key frame of the report */
} sp_frame_verdict;

typedef struct sp_scene {
    uint32_t first, last;         /* positions in frames[] */
    uint64_t median_sharpness;
    uint64_t flow_sum;            /* of flow_mean over the pairs inside */
    uint32_t pairs, blurred;
} sp_scene;

typedef struct sp_track {
    uint32_t first, last, seen;   /* positions in frames[]; frames it was found in */
    uint16_t x0, y0, x1, y1;      /* around all of it */
    uint16_t first_box[4], last_box[4];
    uint32_t begin_x, begin_y, end_x, end_y; /* centres, 1/256 px */
    uint64_t path;                /* length of the way of the centre, 1/256 px */
    uint64_t area_sum, strength_sum; /* strength weighted by area */
    uint32_t area_max;
    uint64_t weight;              /* what is told first when there are too many */
    uint32_t against;             /* still: frames it was seen in while half of the picture moved */
} sp_track;
typedef struct sp_track_list {
    sp_track *tracks;
    uint32_t count, capacity;
    uint64_t found;               /* that lasted long enough, told or not */
} sp_track_list;

struct sp_analysis {
    const sp_video_index *index;
    sp_analyze_params params;
    uint8_t *bytes;               /* our copy of all segments, by number */
    const sp_segment_head **segments;
    const sp_frame_record **frames; /* packed, rising number */
    sp_frame_verdict *verdicts;
    uint32_t frame_count;
    sp_scene *scenes;
    uint32_t scene_count;
    sp_track_list motion, defects;
    uint32_t key_count, keys[SP_LIMIT_KEY_FRAMES]; /* positions, rising */
};

/* Steps of the merge, in this order; each reads what those before it have filled. */
sp_status sp_analysis_find_scenes(sp_analysis *analysis, sp_error *reterr);
sp_status sp_analysis_find_tracks(sp_analysis *analysis, sp_error *reterr);
void sp_analysis_choose_keys(sp_analysis *analysis, uint32_t *distances); /* distances: frame_count of scratch */

/* A spot that stands still over a cut, or so many frames long while half of the picture moves, is on the lens, not in the scene. */
#define SP_LENS_FRAMES 3u
bool sp_track_is_on_lens(const sp_analysis *analysis, const sp_track *track);
/* Variance of the Laplacian over the variance of the grey levels, thousandths; 1,000,000 for a picture without any contrast. */
uint32_t sp_record_focus(const sp_frame_record *record);

/* Does the frame's flow say how things move? Over a cut it is noise: no motion is read from it. */
static inline bool sp_motion_counts(const sp_analysis *analysis, uint32_t position)
{
    return analysis->frames[position]->has_pair && !analysis->verdicts[position].cut;
}

uint64_t sp_isqrt(uint64_t x); /* floor */
/* value / divisor with `digits` (0 .. 6) behind the point, rounded half away from zero, by integers alone. */
void sp_put_fixed(sp_buf *out, int64_t value, int64_t divisor, int digits);
/* The time of frame `number` in microseconds since the first frame; -1 without times. */
int64_t sp_analysis_time_us(const sp_analysis *analysis, uint32_t number);

/* --- columns: what is told of each frame, in every format --- */

typedef struct sp_column {
    const char *name, *unit;
    int32_t divisor; /* of the integer, to be in `unit`; 1 = it is whole */
    int8_t digits;   /* behind the point where it is written in `unit` */
} sp_column;
#define SP_COLUMNS_MAX 48
const sp_column *sp_analysis_columns(int *ret_count);
/* All columns of the frame at `position`. */
void sp_analysis_row(const sp_analysis *analysis, uint32_t position, int64_t ret_values[SP_COLUMNS_MAX]);
const char *sp_exposure_name(uint32_t exposure);

#endif
