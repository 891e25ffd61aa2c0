/* SPDX-License-Identifier: Apache-2.0
 * One video through the house: INDEX, chunks of segments as requests of task analyze, REPORT. The gateway's jobs and
 * `spillway analyze` both drive it. Loop thread only.
 *
 *   indexing -> working (chunks out, each finished one kept in `parts`) -> reporting -> done | failed
 *
 * It never holds the only copy of a finished chunk: a run that begins again with the same file and parameters takes what
 * `parts` has. A chunk whose links all fail is cut in two and tried again; a single segment that fails for good fails the
 * run with that reason. */
#ifndef SP_JOBS_ANALYSIS_H
#define SP_JOBS_ANALYSIS_H

#include "route/house.h"
#include "task/analyze.h"

#define SP_ANALYSIS_CHUNKS 10
#define SP_LIMIT_ANALYSIS_CHUNKS 256

typedef struct sp_analysis_run sp_analysis_run;

/* Where finished segments are kept between processes. All calls on the loop; replies on the loop, never from inside. NULL members
 * = nothing is kept. */
typedef void sp_parts_loaded_fn(sp_view segments, void *context); /* whole segments one behind the other; may be empty */
typedef void sp_parts_saved_fn(sp_status status, const sp_error *err, void *context);
typedef struct sp_analysis_parts {
    void *context;
    void (*load)(void *context, sp_parts_loaded_fn *reply, void *reply_context);
    /* The segments of one chunk; they stay where they are until the reply, which has to come even when the run is cancelled
     * meanwhile. The run goes on without waiting; it ends only when all are saved or have failed to be. */
    void (*save)(void *context, uint32_t first_segment, sp_view segments, sp_parts_saved_fn *reply, void *reply_context);
    /* Optional, several servers on one video. claim: may this chunk be worked on here now? false = somebody else has it (or the
     * answer comes later by sp_analysis_run_poke). arrived: segments that others have finished since. */
    bool (*claim)(void *context, uint32_t first_segment, uint32_t segment_count);
    void (*arrived)(void *context, sp_parts_loaded_fn *reply, void *reply_context);
} sp_analysis_parts;

typedef struct sp_analysis_settings {
    sp_analyze_params params;
    int chunks;              /* 0 = SP_ANALYSIS_CHUNKS; cut to the segments there are */
    bool overlay;
    const char *only_link;   /* NULL = the chain */
    const char *tier, *tenant, *request_id; /* copied */
    bool local_only, force_cpu;
    int priority;
    int64_t chunk_timeout_ns; /* of one chunk's request, counted again when another one is finished; 0 = an hour */
    int outstanding;         /* chunks that are with the house at once, those that wait in its queues too; 0 = two a ready
                              * device worker, which is fair to others. A house with one video may have more */
    sp_video_limits limits;
    const char *(*header)(void *context, const char *name);    /* for conditions; as in sp_request_params */
    const char *(*parameter)(void *context, const char *name);
    void *facts_context;
} sp_analysis_settings;

/* What run.json says. */
typedef struct sp_analysis_link {
    char link[32], device[32];
    uint32_t chunks, segments, frames;
    int64_t busy_ns, device_ns, microdollars;
} sp_analysis_link;
typedef struct sp_analysis_summary {
    uint32_t frames_done, frames_total, /* analysed; of the index, lost ones too */
        chunks_done, chunks_total, segments_kept; /* kept: taken from `parts` */
    int64_t begun_ns, ended_ns, index_ns, analyze_ns, report_ns;
    int64_t microdollars;
    int link_count;
    sp_analysis_link links[SP_LIMIT_CHAIN_LINKS];
    int attempt_count; /* failed ones only; the last SP_LIMIT_ATTEMPTS */
    sp_attempt attempts[SP_LIMIT_ATTEMPTS];
    sp_analyze_timing timing; /* summed over workers; morphology_ns with the measures in it. With decoding: */
    int64_t decode_ns;
} sp_analysis_summary;

typedef enum sp_analysis_phase { SP_ANALYSIS_INDEXING, SP_ANALYSIS_WORKING, SP_ANALYSIS_REPORTING, SP_ANALYSIS_ENDED } sp_analysis_phase;

/* `status` SP_OK: report_fd is a tar of the report's files (report.json first), `report_bytes` long, the callee's to close. Called
 * once, on the loop, never from inside begin. The run is freed by the callee, in it or later. */
typedef void sp_analysis_done_fn(sp_analysis_run *run, sp_status status, const sp_error *err, int report_fd, uint64_t report_bytes,
                                 void *context);

/* `media_fd`: the file; duplicated. */
sp_status sp_analysis_run_begin(sp_house *house, sp_loop *loop, int media_fd, uint64_t media_bytes,
                            const sp_analysis_settings *settings, const sp_analysis_parts *parts, sp_analysis_done_fn *done,
                            void *context, sp_analysis_run **ret_run, sp_error *reterr);
sp_analysis_phase sp_analysis_run_state(const sp_analysis_run *run, sp_analysis_summary *ret_summary); /* live: frames of chunks in hand too */
const sp_video_index *sp_analysis_run_index(const sp_analysis_run *run); /* NULL before it is known */
void sp_analysis_run_poke(sp_analysis_run *run); /* ask `arrived` and `claim` again */
void sp_analysis_run_cancel(sp_analysis_run *run); /* no `done` will come; frees */
void sp_analysis_run_free(sp_analysis_run *run);   /* after done */
/* "cpu", "gpu" (any device that is no CPU), "gpu+cpu"; "kept" = nothing had to be computed. */
const char *sp_analysis_mode(const sp_analysis_summary *summary);
/* The link that did most of the frames; NULL = none did any. */
const sp_analysis_link *sp_analysis_main_link(const sp_analysis_summary *summary);
double sp_analysis_rate(const sp_analysis_run *run, const sp_analysis_link *link); /* dollars an hour, by the rates; 0 = unknown */
/* run.json: times, cost, who computed what, failed attempts. */
void sp_analysis_run_write(const sp_analysis_run *run, sp_buf *out);

#endif
