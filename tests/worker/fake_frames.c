/* SPDX-License-Identifier: Apache-2.0
 * `spillway frames` with a decoder that makes its frames up (fake_video.h): everything but the library is the real thing, the
 * sandbox too. Each start is noted in the file that $FAKE_FRAMES_LOG names. */
#include "base/fault.h"
#include "fake_video.h"
#include "media/load.h"
#include "worker/frames.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

struct sp_video {
    char file[512];
    const sp_video_index *index;
    uint32_t segment, at, lost;
};

static sp_status open_video(const sp_video_source *source, const sp_video_index *index, const sp_video_options *options,
                            sp_video **ret_video, sp_error *reterr)
{
    (void)options;
    sp_video *video = calloc(1, sizeof(*video));
    if (!video)
        return SP_FAIL(reterr, SP_NOMEM, "no memory");
    video->index = index;
    ssize_t n = pread(source->fd, video->file, SP_MIN(source->size_bytes, (uint64_t)sizeof(video->file) - 1), 0);
    const char *status = n > 0 ? strstr(video->file, " open=") : NULL;
    if (n < 0)
        return SP_FAIL(reterr, SP_CORRUPT, "cannot be read");
    if (status)
        return SP_FAIL_CODE(reterr, (sp_status)strtol(status + 6, NULL, 10), "fake", "it cannot be read, it says");
    *ret_video = video;
    return SP_OK;
}

static void close_video(sp_video *video)
{
    free(video);
}

static sp_status segment(sp_video *video, uint32_t number, sp_error *reterr)
{
    (void)reterr;
    video->segment = number;
    video->at = sp_video_index_segments(video->index)[number].first_frame;
    video->lost = 0;
    return SP_OK;
}

static void misbehave(const sp_video *video, uint32_t number)
{
    if (fake_says(video->file, "crash", number)) {
        (void)signal(SIGSEGV, SIG_DFL);
        (void)raise(SIGSEGV);
    }
    if (fake_says(video->file, "kill", number))
        (void)raise(SIGKILL);
    if (fake_says(video->file, "spin", number))
        for (volatile uint64_t turns = 0;; turns++) { }
    if (fake_says(video->file, "noise", number)) {
        uint64_t z = number + 1;
        for (int i = 0; i < 400; i++) { /* words that are nearly right, and some that are not */
            sp_frames_word word = { 0 };
            uint8_t *bytes = (uint8_t *)&word;
            z = z * 6364136223846793005u + 1442695040888963407u;
            word.kind = (uint32_t)(z >> 40) % 7;
            word.segment = video->segment + (uint32_t)(z >> 50) % 2;
            word.place = (uint32_t)(z >> 33) % 12;
            word.frame.number = number + (uint32_t)i % 5;
            for (int k = 0; k < 3; k++)
                bytes[(z >> (7 * k)) % sizeof(word)] = (uint8_t)(z >> (20 + k));
            (void)!write(3, &word, i % 37 == 36 ? sizeof(word) - 5 : sizeof(word));
        }
    }
    if (fake_says(video->file, "nonsense", number)) {
        const sp_frames_word word = { .kind = SP_FRAMES_FRAME, .segment = video->segment, .place = 4711 };
        (void)!write(3, &word, sizeof(word));
    }
}

static sp_status next(sp_video *video, uint8_t *dst, size_t stride_bytes, sp_video_frame *ret_frame, bool *ret_more,
                      sp_video_loss *ret_loss, sp_error *reterr)
{
    (void)reterr;
    const sp_video_segment *of = &sp_video_index_segments(video->index)[video->segment];
    uint32_t end = of->first_frame + of->frame_count;
    while (video->at <= end && video->at < video->index->frame_count && fake_says(video->file, "lost", video->at)) {
        video->lost += video->at < end;
        video->at++;
    }
    if (video->at > end || video->at >= video->index->frame_count) {
        *ret_more = false;
        *ret_loss = (sp_video_loss){ .lost_frames = video->lost, .error_count = video->lost };
        if (video->lost)
            (void)snprintf(ret_loss->reason, sizeof(ret_loss->reason), "said to be lost");
        return SP_OK;
    }
    misbehave(video, video->at);
    fake_frame(video->index, video->at, dst, stride_bytes);
    *ret_frame = (sp_video_frame){ .number = video->at, .pts = sp_video_index_pts(video->index)[video->at],
                                   .lookahead = video->at == end, .damaged = fake_says(video->file, "damaged", video->at),
                                   .key = video->at == of->first_frame };
    *ret_more = true;
    video->at++;
    return SP_OK;
}

sp_status sp_media_load(const sp_media_api **ret_api, sp_error *reterr)
{
    static const sp_video_api video = { .open = open_video, .close = close_video, .segment = segment, .next = next };
    static sp_media_api api = { .abi = SP_MEDIA_ABI, .video = &video };
    (void)reterr;
    *ret_api = &api;
    return SP_OK;
}

int main(void)
{
    const char *log = getenv("FAKE_FRAMES_LOG");
    int fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    sp_error err = { 0 };
    if (fd >= 0)
        (void)!write(fd, "start\n", 6);
    sp_fd_closep(&fd);
    if (sp_fault_arm(getenv("SPILLWAY_FAULTS"), &err))
        return 2;
    return sp_frames_main();
}
