/* SPDX-License-Identifier: Apache-2.0
 * What analysis.c, analysis_chunks.c and analysis_write.c share. Private to this room. */
#ifndef SP_JOBS_ANALYSIS_INTERNAL_H
#define SP_JOBS_ANALYSIS_INTERNAL_H

#include "base/clock.h"
#include "jobs/analysis.h"

/* What one callback copies: about 50 us, page faults of fresh memory included. */
#define ANALYSIS_SLICE_BYTES (128u * 1024)
/* Frames of one chunk at most: a frame's record has less than 800 bytes, so that an answer stays under 7 MB (it may have 64 MiB),
 * and a chunk that is lost with its worker costs minutes, not hours. */
#define SP_LIMIT_CHUNK_FRAMES 8192u
/* Chunks that failed at every link, in one run, before it is given up: more than a few are no accident. */
#define SP_LIMIT_ANALYSIS_FAILURES 48
/* A single segment is tried so often by the whole chain. */
#define ANALYSIS_SEGMENT_TRIES 3
/* INDEX and REPORT likewise. */
#define ANALYSIS_STEP_TRIES 3
/* Bytes of requests' bodies that one run has out: each chunk carries the index. */
#define ANALYSIS_BODIES_BYTES (64u * 1024 * 1024)
#define ANALYSIS_OUTSTANDING_MAX 64

/* An answer on its way out of a worker's memory: copied in slices, then checked, as a worker may write while we read. */
typedef struct analysis_intake {
    sp_answer_memory *memory; /* NULL: all of it is copied already */
    const uint8_t *from;
    uint8_t *bytes;           /* malloc: 16-byte aligned */
    size_t size_bytes, copied_bytes;
} analysis_intake;

/* Bytes of finished segments; they live as long as the run. */
typedef struct analysis_block {
    struct analysis_block *next;
    uint8_t *bytes;
} analysis_block;

typedef enum chunk_state {
    CHUNK_WAITING,   /* in the queue */
    CHUNK_ELSEWHERE, /* another server has claimed it */
    CHUNK_FILLING,   /* a request is open, its body being written */
    CHUNK_OUT,
    CHUNK_READING,   /* answered; being copied and checked */
} chunk_state;

typedef struct analysis_chunk {
    struct analysis_chunk *next;
    sp_analysis_run *run;
    uint32_t first, count; /* segments */
    uint32_t frames;
    chunk_state state;
    int tries;
    bool claimed;
    sp_request *request;
    size_t body_done;
    analysis_intake intake;
    uint64_t checked_bytes;
    uint64_t *places; /* [count]: where the segment lies in the answer, + 1; 0 = not seen */
    sp_analysis_link answered; /* of this answer alone; added up when it was found good */
    int64_t decode_ns;
    sp_analyze_timing timing;
} analysis_chunk;

typedef struct segment_place {
    const uint8_t *bytes; /* NULL = missing */
    uint32_t size_bytes;
} segment_place;

struct sp_analysis_run {
    sp_house *house;
    sp_loop *loop;
    int media_fd;
    uint64_t media_bytes;
    uint8_t media_key[32]; /* before the index tells the real one */
    sp_analysis_settings settings; /* its texts point into the next three */
    char only_link[64], tier[32], tenant[64], request_id[48];
    sp_analysis_parts parts;
    sp_analysis_done_fn *done;
    void *context;

    sp_analysis_phase phase;
    bool ending;    /* the outcome stands; what is still owed (saves) is waited for */
    bool cancelled;
    int owed;       /* replies of `parts` that will still come */
    bool loaded, poked, arriving;
    sp_status status;
    sp_error error;
    int report_fd;
    uint64_t report_bytes;

    sp_timer timer; /* the next slice of work */
    int64_t retry_at_ns; /* the house was full: not before */
    sp_request *request; /* INDEX or REPORT */
    size_t request_body_done;
    uint32_t report_segment; /* next one to be appended */
    int step_tries;
    analysis_intake intake;
    bool answered;

    const sp_video_index *index;
    segment_place *places; /* [index->segment_count] */
    uint32_t segments_done;
    analysis_chunk *chunks; /* all that are not done; those that wait in the order in which they are to be taken */
    int failures;
    analysis_block *blocks;
    bool save_failed;

    sp_analysis_summary summary;
};

/* analysis.c */
void sp_analysis_wake(sp_analysis_run *run, int64_t at_ns); /* pump then, or sooner */
void sp_analysis_fail(sp_analysis_run *run, sp_status status, const sp_error *err);
void sp_analysis_request_params(const sp_analysis_run *run, sp_task task, uint64_t body_bytes, sp_request_params *ret_params,
                                char ret_id[SP_LIMIT_REQUEST_ID_BYTES], const char *suffix);
void sp_analysis_note_attempts(sp_analysis_run *run, const sp_answer *answer);
sp_status sp_analysis_intake_begin(analysis_intake *intake, const sp_answer *answer, sp_error *reterr);
bool sp_analysis_intake_step(analysis_intake *intake); /* true: all is copied */
void sp_analysis_intake_done(analysis_intake *intake);
sp_status sp_analysis_append_order(sp_analysis_run *run, sp_request *request, uint32_t first, uint32_t count, uint64_t segments_bytes,
                                   sp_error *reterr);
/* Appends the next slice of the index; *body_done counts from the body's begin. */
sp_status sp_analysis_append_index(sp_analysis_run *run, sp_request *request, size_t *body_done, bool *ret_whole, sp_error *reterr);

/* analysis_chunks.c */
sp_status sp_analysis_chunks_cut(sp_analysis_run *run, sp_error *reterr); /* index and kept segments -> run->chunks */
bool sp_analysis_chunks_step(sp_analysis_run *run); /* one slice of work; true: there is more to do at once */
void sp_analysis_chunks_drop(sp_analysis_run *run); /* cancels and frees all */
void sp_analysis_chunks_arrived(sp_analysis_run *run); /* after others' segments were taken in */
/* Takes in what `parts` had: good segments are copied and count; bad ones are left to be computed again. Returns how many. */
uint32_t sp_analysis_take_kept(sp_analysis_run *run, sp_view segments);
uint32_t sp_analysis_chunk_progress(const sp_analysis_run *run); /* frames of chunks that are out */

#endif
