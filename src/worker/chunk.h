/* SPDX-License-Identifier: Apache-2.0
 * A chunk of a video, analysed: a decoder process (worker/frames.h) fills a ring, threads take blocks of frames out of it, each
 * with an analyzer of its own, and the segments' records are written into the answer in their order.
 *
 *   decoder ──frames──> coordinator ──blocks──> threads ──records──> segments ──in order──> answer
 *                            └──── places that nobody reads any more <───┘
 *
 * A block is a run of frames that follow each other, and the one behind its last; which frames stand together, how many threads
 * there are and when they are done changes nothing in the bytes. A decoder that dies or hangs in a segment is replaced and the
 * segment is begun again, by one decoding thread; if that one dies too the whole segment is lost (SP_CHUNK_LOST), which is the
 * same whoever computes it. One that is killed from outside, or does not get a processor, says nothing of the file: it is replaced
 * a few times, then the chunk is another link's (SP_UNAVAILABLE).
 *
 * On a GPU each thread has streams and device memory of its own; two of them keep it busy while one waits for its sums. The ring is made
 * known to the device, so that frames are copied from where the decoder has put them.
 *
 * Where the same GPU decodes as well, a second ring of as many places lies on it. It is ours, and the decoder opens it: so its end
 * leaves nothing that is read and not there. A frame that the GPU has decoded is left in that one, all others in the ring of the host.
 *
 * A lane does one chunk at a time. What it keeps between chunks (analyzers of a size, a decoder of a file) lasts until the next
 * chunk that it does not fit, or sp_lane_rest. */
#ifndef SP_WORKER_CHUNK_H
#define SP_WORKER_CHUNK_H

#include "kernels/cuda.h"
#include "task/analyze.h"
#include "worker/sim.h"
#include "worker/slot.h"

#include <sys/types.h>

/* Threads that analyse; more do not help, because one decoder feeds them. */
#define SP_LIMIT_CHUNK_THREADS 64

/* The reason of a segment that was lost with its decoder. */
#define SP_CHUNK_LOST "the decoder died or hung in this segment"

typedef struct sp_lane sp_lane;

typedef struct sp_lane_settings {
    const char *executable; /* of decoders; NULL = /proc/self/exe */
    int threads;            /* that analyse; 0 = 1 */
    int decoder_threads;    /* 0 = 1 */
    uint64_t memory_bytes;  /* of analyzers: fewer threads rather than more memory. 0 = no bound */
    int64_t decoder_budget_ns; /* CPU time that a decoder may always use without a word, beside what its frames allow; 0 = 10 s */
    bool require_sandbox;
    sp_sim *sim;            /* NULL = a real device */
    const sp_cuda_api *cuda_api; /* both or none: the frames are analysed on that device (task/analyze_cuda.h) */
    sp_cuda *cuda;
    bool registers;         /* the decoder's ring can be made known to it */
    bool device_decodes;    /* and it is the device that SPILLWAY_NVDEC names: frames that it decodes need not leave it */
} sp_lane_settings;

sp_status sp_lane_new(const sp_lane_settings *settings, sp_lane **ret_lane, sp_error *reterr);
void sp_lane_free(sp_lane *lane);
SP_DEFINE_CLEANUP(sp_lane, sp_lane_free)

/* Lets go of what it keeps for the next chunk; false = there was nothing. */
bool sp_lane_rest(sp_lane *lane);
bool sp_lane_keeps(const sp_lane *lane);
pid_t sp_lane_decoder(const sp_lane *lane); /* for tests: the decoder's process now; 0 = none */

typedef struct sp_chunk {
    sp_view body;      /* order and index; anybody may have written it */
    int media_fd;
    uint64_t media_bytes;
    uint8_t *answer;
    size_t answer_capacity;
    /* Called by the thread that runs the chunk: */
    void *context;
    bool (*cancelled)(void *context);
    void (*progress)(void *context, uint32_t frames);
    void (*stage)(void *context, sp_stage stage, int64_t budget_ns); /* something has moved on; what is next may take so long */
} sp_chunk;

typedef struct sp_chunk_result {
    size_t answer_bytes;
    uint32_t frames;
    int64_t decode_ns;         /* the decoder's, summed over its frames */
    sp_analyze_timing timing;  /* summed over the threads */
    int threads;
    sp_error lost_device;      /* status not SP_OK: the device itself failed, the process should end */
} sp_chunk_result;

/* SP_INVALID (bad order or index), SP_TOO_LARGE (code "chunk_too_large": fewer segments would fit), SP_NOMEM, SP_CANCELLED,
 * SP_UNAVAILABLE; what the decoder says of a file it cannot open. */
sp_status sp_lane_run(sp_lane *lane, const sp_chunk *chunk, sp_chunk_result *ret_result, sp_error *reterr);

#endif
