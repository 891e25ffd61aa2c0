/* SPDX-License-Identifier: Apache-2.0
 * A decoder in a process of its own: `spillway frames`, started by a device worker for a chunk of a video, sandboxed like the codec
 * worker. It reads the file by descriptor and writes grey frames into a ring of places in a memfd.
 *
 *   worker                                        decoder
 *     RUN first, count, attempt        ------>      decodes segment after segment
 *     FRAME place, number, ...         <------      has written a frame there, and leaves the place alone (there: in the ring, or in
 *                                                   the ring that lies beside it on a GPU)
 *     FREE place                       ------>      may write there again
 *     END segment, loss                <------      the segment is over
 *     FAILED status, code, text        <------      cannot go on; it ends
 *
 * Words are packets on a socket. The ring cannot shrink (sealed), the worker maps it read-only and believes nothing that it is
 * told: places and numbers are checked here. What the decoder could still do is to change a frame while it is read; then the
 * result is wrong for this file alone. The decoder dies with its worker (EOF, and the kernel's parent-death signal). */
#ifndef SP_WORKER_FRAMES_H
#define SP_WORKER_FRAMES_H

#include "media/video.h"

#include <sys/types.h>

/* Places of a ring at most: words in both directions then fit the socket's buffers, so neither side ever waits to write. */
#define SP_FRAMES_PLACES 96

typedef enum sp_frames_kind {
    SP_FRAMES_RUN = 1,
    SP_FRAMES_FREE,
    SP_FRAMES_FRAME,
    SP_FRAMES_END,
    SP_FRAMES_FAILED,
} sp_frames_kind;

typedef struct sp_frames_word {
    uint32_t kind;
    uint32_t segment, count; /* RUN: first and number of them; FRAME, END: which */
    uint32_t attempt;        /* RUN: 0 = the first; told to fault points alone */
    uint32_t place;
    uint32_t status;         /* FAILED: sp_status */
    sp_video_frame frame;
    sp_video_loss loss;      /* END */
    int64_t decode_ns;       /* FRAME, END: what decoding took since the last word. A claim */
    char code[32], text[160]; /* FAILED */
} sp_frames_word;

typedef struct sp_frames sp_frames;

typedef struct sp_frames_settings {
    const char *executable; /* NULL = /proc/self/exe */
    int media_fd;           /* borrowed until start returns */
    uint64_t media_bytes;
    const sp_video_index *index; /* checked; copied */
    int places;             /* 2 .. SP_FRAMES_PLACES */
    int threads;            /* of the decoder */
    bool require_sandbox;
    const uint8_t *device_ring; /* NULL, or the 64 bytes by which a decoder on a GPU opens a ring of as many places there */
} sp_frames_settings;

/* Starts one. SP_NOMEM, SP_UNAVAILABLE. That it lacks libspillway_media, or cannot read the file, is told by its first word. */
sp_status sp_frames_start(const sp_frames_settings *settings, sp_frames **ret_frames, sp_error *reterr);

/* It has been through its segments, and could be given others of the same file: the same index, the same inode. */
bool sp_frames_fits(const sp_frames *frames, const sp_frames_settings *settings);

/* Ends it if it has not ended (SIGKILL), reaps it, frees. The place of a signal in *ret_signal if it ended by one that nobody here
 * sent, else 0. NULL is fine. */
void sp_frames_end(sp_frames *frames, int *ret_signal);

/* The segments that it is to decode next, once it has ended the last ones. SP_UNAVAILABLE: it is gone. */
sp_status sp_frames_run(sp_frames *frames, uint32_t first_segment, uint32_t count, uint32_t attempt, sp_error *reterr);

int sp_frames_fd(const sp_frames *frames); /* readable when there is a word, or it has ended */

typedef enum sp_frames_news { SP_FRAMES_NOTHING, SP_FRAMES_WORD, SP_FRAMES_GONE, SP_FRAMES_NONSENSE } sp_frames_news;
/* Never blocks. WORD: FRAME (its place is the caller's until it is freed; segment and number are what can come next), END or
 * FAILED, all texts terminated. NONSENSE: it says what cannot be; it is to be ended. */
sp_frames_news sp_frames_next(sp_frames *frames, sp_frames_word *ret_word);

const uint8_t *sp_frames_place(const sp_frames *frames, uint32_t place); /* index->height rows of index->width */
void *sp_frames_ring(const sp_frames *frames, size_t *ret_bytes);        /* all places: whole pages, for reading only */
void sp_frames_free_place(sp_frames *frames, uint32_t place);

bool sp_frames_owes(const sp_frames *frames);      /* it has a place to write to and segments left */
int64_t sp_frames_cpu_ns(const sp_frames *frames); /* CPU time that it has used; 0 = cannot be known */
pid_t sp_frames_pid(const sp_frames *frames);

/* The decoder's own main: descriptor 3 is the socket. Returns the exit code. */
int sp_frames_main(void);

/* What both sides share: the greeting's descriptors (media, index, ring), and the size of a place. */
enum { SP_FRAMES_FD_MEDIA, SP_FRAMES_FD_INDEX, SP_FRAMES_FD_RING, SP_FRAMES_FDS };
#define SP_FRAMES_HANDLE_BYTES 64
static inline size_t sp_frames_place_bytes(const sp_video_index *index)
{
    return SP_ALIGN_UP((size_t)index->width * (size_t)index->height, (size_t)4096);
}

#endif
