/* SPDX-License-Identifier: Apache-2.0
 * What chunk.c (the coordinator) and chunk_threads.c (who computes) share. For these two alone. */
#ifndef SP_WORKER_CHUNK_INTERNAL_H
#define SP_WORKER_CHUNK_INTERNAL_H

#include "base/metrics.h"
#include "task/analyze_cuda.h"
#include "worker/chunk.h"
#include "worker/frames.h"

#include <pthread.h>
#include <stdatomic.h>

/* Frames of a block at most. Each block costs one frame's expansion more than its frames do. */
#define SP_BLOCK_FRAMES 16

/* One segment while it is being worked on. */
typedef struct sp_chunk_segment {
    uint32_t number;
    uint32_t record_count, record_capacity;
    uint32_t blocks_out;
    bool ended;
    sp_video_loss loss;
    sp_frame_record *records;
    struct sp_chunk_segment *next;
} sp_chunk_segment;

typedef struct sp_block {
    sp_chunk_segment *segment;
    uint32_t reading; /* which reading of which segment its frames are of: an analyzer takes nothing over from another one */
    int count;
    bool has_next;
    bool pinned;      /* the device reads these frames on its own */
    uint32_t places[SP_BLOCK_FRAMES + 1]; /* [count]: of the frame behind, if has_next */
    const uint8_t *grey[SP_BLOCK_FRAMES + 1]; /* on the device where the frame says so */
    sp_video_frame frames[SP_BLOCK_FRAMES + 1];
    sp_frame_record *records;
    /* The thread's: */
    sp_status status;
    sp_error error;
    int64_t took_ns;
    struct sp_block *next;
} sp_block;

/* The threads, and the analyzers of one size that they use. */
typedef struct sp_chunk_threads {
    sp_sim *sim;
    sp_metric *mxcsr_repaired;
    int count;
    size_t width;
    sp_analyze_plan *plan;
    sp_analyzer *analyzers[SP_LIMIT_CHUNK_THREADS];
    const sp_cuda_api *cuda_api; /* NULL: the analyzers; else these, on that device */
    sp_cuda *cuda;
    sp_analyze_cuda *devices[SP_LIMIT_CHUNK_THREADS];
    pthread_t threads[SP_LIMIT_CHUNK_THREADS];
    int running;          /* threads that were started */
    int bell_fd;          /* eventfd: a block is done */
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    sp_block *todo, **todo_end, *done, **done_end;
    int busy;
    bool closing;
} sp_chunk_threads;

sp_status sp_chunk_threads_open(sp_chunk_threads *threads, sp_error *reterr);  /* lock, condition, bell */
void sp_chunk_threads_close(sp_chunk_threads *threads);
/* Analyzers of that size and those parameters, `count` of them. SP_NOMEM. */
sp_status sp_chunk_threads_equip(sp_chunk_threads *threads, const sp_analyze_params *params, int w, int h, int count, sp_error *reterr);
void sp_chunk_threads_strip(sp_chunk_threads *threads); /* frees them */
sp_status sp_chunk_threads_start(sp_chunk_threads *threads, sp_error *reterr);
/* Blocks that nobody has begun are dropped; those in hand are waited for. All are in `done` then. */
void sp_chunk_threads_stop(sp_chunk_threads *threads);
void sp_chunk_threads_give(sp_chunk_threads *threads, sp_block *block);
sp_block *sp_chunk_threads_take_done(sp_chunk_threads *threads); /* all that are done, oldest first */
void sp_chunk_threads_timing(const sp_chunk_threads *threads, sp_analyze_timing *ret_timing); /* while none runs */

#endif
