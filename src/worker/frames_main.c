/* SPDX-License-Identifier: Apache-2.0
 * `spillway frames`: the decoder's end of worker/frames.h. It loads the decoders, gives away all that it does not need, and only
 * then looks at the file. */
#include "worker/frames.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "media/load.h"
#include "worker/control.h"
#include "worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOCKET_FD 3
#define HELLO_WAIT_MS 10000
#define OOM_SCORE "800" /* it goes before the worker that started it: another one begins the segment again */

/* Address space: the libraries, and for each pixel of a frame the pictures that a decoder may keep (16 references, 10 bit, some
 * threads). What a file makes it ask for beyond that fails in malloc. */
#define MEMORY_BYTES (2ull << 30)
#define MEMORY_BYTES_PER_PIXEL 200ull

typedef struct decoder {
    const sp_video_api *api;
    const sp_video_index *index;
    sp_video_source source;
    sp_video *video; /* opened by the first RUN */
    sp_video_device_ring device_ring; /* bytes 0 = none */
    int threads, gpu;
    uint8_t *ring;
    size_t place_bytes;
    uint32_t place_count;
    bool is_free[SP_FRAMES_PLACES];
    int64_t since_ns; /* the last word was sent then */
} decoder;

static void say(const sp_frames_word *word)
{
    ssize_t n;
    do {
        n = write(SOCKET_FD, word, sizeof(*word));
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(*word))
        _exit(0); /* the worker is gone */
}

SP_NORETURN static void fail(const sp_error *err)
{
    sp_frames_word word = { .kind = SP_FRAMES_FAILED, .status = (uint32_t)(err->status ? err->status : SP_INTERNAL) };
    (void)snprintf(word.code, sizeof(word.code), "%s", err->code);
    (void)snprintf(word.text, sizeof(word.text), "%.159s", err->message);
    say(&word);
    _exit(1);
}

/* Waits for the next word; FREE is done here, RUN is handed out. */
static bool listen_to_worker(decoder *d, sp_frames_word *ret_run)
{
    sp_frames_word word;
    ssize_t n;
    do {
        n = read(SOCKET_FD, &word, sizeof(word));
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(word))
        _exit(0); /* the worker is done with it, or gone */
    if (word.kind == SP_FRAMES_FREE && word.place < d->place_count)
        d->is_free[word.place] = true;
    if (word.kind != SP_FRAMES_RUN)
        return false;
    *ret_run = word;
    return true;
}

/* --- decoding ----------------------------------------------------------------------------------------------------- */

static uint32_t take_place(decoder *d)
{
    sp_frames_word ignored;
    for (;;) {
        for (uint32_t i = 0; i < d->place_count; i++) {
            if (d->is_free[i]) {
                d->is_free[i] = false;
                return i;
            }
        }
        (void)listen_to_worker(d, &ignored); /* a second RUN before the first is over is not sent */
    }
}

static void fault_point(uint32_t attempt, uint32_t segment, uint32_t frame)
{
    char text[64];
    (void)snprintf(text, sizeof(text), "attempt=%u segment=%u frame=%u", attempt, segment, frame);
    if (SP_FAULT_BODY("frames.frame", sp_view_of(text)) != SP_FAULT_NONE) {
        sp_error err = { 0 };
        (void)SP_FAIL(&err, SP_INTERNAL, "fault point frames.frame");
        fail(&err);
    }
}

static void decode_segment(decoder *d, uint32_t segment, uint32_t attempt)
{
    sp_error err = { 0 };
    const sp_video_segment *of = &sp_video_index_segments(d->index)[segment];
    if (d->api->segment(d->video, segment, &err))
        fail(&err);
    for (uint32_t count = 0;; count++) {
        sp_frames_word word = { .kind = SP_FRAMES_FRAME, .segment = segment, .place = take_place(d) };
        bool more = false;
        fault_point(attempt, segment, of->first_frame + count);
        int64_t begun_ns = sp_clock_now_ns();
        if (d->api->next(d->video, d->ring + word.place * d->place_bytes, (size_t)d->index->width, &word.frame, &more, &word.loss, &err))
            fail(&err);
        word.decode_ns = sp_clock_now_ns() - begun_ns;
        if (!more) {
            d->is_free[word.place] = true;
            word.kind = SP_FRAMES_END;
            say(&word);
            return;
        }
        word.loss = (sp_video_loss){ 0 };
        say(&word);
    }
}

static void serve(decoder *d)
{
    for (;;) {
        sp_frames_word run;
        sp_error err = { 0 };
        if (!listen_to_worker(d, &run))
            continue;
        /* What a driver crashes on is not lost for that: the second try is libavcodec's. */
        const sp_video_options options = { .threads = d->threads, .gpu = run.attempt ? 0 : d->gpu,
                                            .ring = d->device_ring.bytes ? &d->device_ring : NULL };
        if (run.count > d->index->segment_count || run.segment > d->index->segment_count - run.count)
            _exit(1);
        if (!d->video && d->api->open(&d->source, d->index, &options, &d->video, &err))
            fail(&err);
        for (uint32_t i = 0; i < run.count; i++)
            decode_segment(d, run.segment + i, run.attempt);
    }
}

/* --- start -------------------------------------------------------------------------------------------------------- */

static void *map(int fd, size_t need_bytes, int protection, size_t *ret_bytes, sp_error *reterr)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_size <= 0 || (size_t)st.st_size < need_bytes) {
        (void)SP_FAIL(reterr, SP_INTERNAL, "shared memory is too small");
        return NULL;
    }
    void *memory = mmap(NULL, (size_t)st.st_size, protection, MAP_SHARED, fd, 0);
    *ret_bytes = (size_t)st.st_size;
    if (memory != MAP_FAILED)
        return memory;
    (void)SP_FAIL_ERRNO(reterr, SP_NOMEM, "mmap of %lld bytes", (long long)st.st_size);
    return NULL;
}

/* "BYTES HANDLE", the handle in hexadecimal, or nothing. */
static void take_device_ring(decoder *d, const char *text)
{
    const char *at = strchr(text, ' ');
    for (size_t i = 0; at && i < SP_FRAMES_HANDLE_BYTES; i++) {
        unsigned byte;
        if (sscanf(at + 1 + 2 * i, "%2x", &byte) != 1)
            return;
        d->device_ring.handle[i] = (uint8_t)byte;
    }
    if (at) {
        d->device_ring.host = d->ring;
        d->device_ring.bytes = d->place_bytes * d->place_count;
    }
}

static sp_status take_greeting(decoder *d, bool *ret_require_sandbox, sp_error *reterr)
{
    struct pollfd ready = { .fd = SOCKET_FD, .events = POLLIN };
    sp_control hello;
    int fds[SP_CONTROL_FDS], count;
    size_t index_bytes, ring_bytes;
    if (poll(&ready, 1, HELLO_WAIT_MS) != 1 || sp_control_receive(SOCKET_FD, &hello, fds, &count, reterr) ||
        hello.kind != SP_CONTROL_HELLO || count != SP_FRAMES_FDS || hello.slot < 2 || hello.slot > SP_FRAMES_PLACES)
        _exit(1);
    d->source = (sp_video_source){ .fd = fds[SP_FRAMES_FD_MEDIA], .size_bytes = strtoull(hello.text, NULL, 10) };
    d->place_count = hello.slot;
    d->threads = (int)SP_CLAMP(hello.serial, 1u, 16u);
    *ret_require_sandbox = hello.status != 0;
    const void *index = map(fds[SP_FRAMES_FD_INDEX], sizeof(sp_video_index), PROT_READ, &index_bytes, reterr);
    if (!index)
        return reterr->status;
    sp_status s = sp_video_index_check(sp_view_make(index, index_bytes), reterr);
    if (s)
        return s;
    d->index = index;
    d->place_bytes = sp_frames_place_bytes(d->index);
    d->ring = map(fds[SP_FRAMES_FD_RING], d->place_bytes * d->place_count, PROT_READ | PROT_WRITE, &ring_bytes, reterr);
    if (!d->ring)
        return reterr->status;
    take_device_ring(d, hello.text);
    for (uint32_t i = 0; i < d->place_count; i++)
        d->is_free[i] = true;
    sp_fd_closep(&fds[SP_FRAMES_FD_INDEX]);
    sp_fd_closep(&fds[SP_FRAMES_FD_RING]);
    return SP_OK;
}

static void settle_in(void)
{
    (void)prctl(PR_SET_NAME, "frames");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a decoder that hangs must not outlive its worker; one that listens sees EOF */
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)close_range(SOCKET_FD + 1, ~0u, 0); /* what libraries of the worker left open */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, OOM_SCORE, strlen(OOM_SCORE)); /* allowed to anyone: it only goes up */
    sp_fd_closep(&fd);
}

/* SPILLWAY_NVDEC: a CUDA device decodes. A driver opens devices and reserves address space as it pleases, while it decodes too: so
 * there is no sandbox then, which is why nobody gets it without asking. */
static sp_status choose_gpu(decoder *d, bool require_sandbox, sp_error *reterr)
{
    const char *text = getenv("SPILLWAY_NVDEC");
    if (!text || !*text)
        return SP_OK;
    if (require_sandbox)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "sandbox", "SPILLWAY_NVDEC and --require-sandbox do not go together");
    if (strspn(text, "0123456789") != strlen(text) || strlen(text) > 3)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "nvdec", "SPILLWAY_NVDEC is the number of a CUDA device, not '%.40s'", text);
    d->gpu = (int)strtol(text, NULL, 10) + 1;
    return SP_OK;
}

static sp_status enter_sandbox(bool require, uint64_t memory_bytes, sp_error *reterr)
{
    sp_sandbox_report report;
    sp_sandbox_limit_memory(memory_bytes);
    sp_status s = sp_sandbox_enter(&report, reterr);
    if (!s && require && report.level != SP_SANDBOX_FULL)
        s = SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "sandbox", "the decoder's sandbox is only %s (%s), and --require-sandbox is set",
                         sp_sandbox_level_name(report.level), report.detail);
    return s;
}

int sp_frames_main(void)
{
    static decoder d;
    sp_error err = { 0 };
    const sp_media_api *media = NULL;
    bool require_sandbox = false;
    settle_in();
    sp_status s = take_greeting(&d, &require_sandbox, &err);
    if (!s)
        s = sp_media_load(&media, &err);
    if (!s && !media->video)
        s = SP_FAIL_CODE(&err, SP_UNSUPPORTED, "no_video", "this build of libspillway_media reads no videos");
    if (!s)
        s = choose_gpu(&d, require_sandbox, &err);
    if (!s && !d.gpu)
        s = enter_sandbox(require_sandbox, MEMORY_BYTES + MEMORY_BYTES_PER_PIXEL * d.place_bytes + d.place_bytes * d.place_count, &err);
    if (s)
        fail(&err);
    d.api = media->video;
    serve(&d);
    return 0;
}
