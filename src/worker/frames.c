/* SPDX-License-Identifier: Apache-2.0
 * The worker's end of a decoder process: starts it, keeps account of places and segments, checks each word. */
#include "worker/frames.h"

#include "base/clock.h"
#include "worker/control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SOCKET_FD_IN_CHILD 3

extern char **environ;

struct sp_frames {
    pid_t pid;
    int socket_fd;
    uint8_t *ring;
    size_t ring_bytes, place_bytes;
    uint32_t places;
    bool held[SP_FRAMES_PLACES];
    uint32_t held_count;
    uint8_t *index; /* our own copy, private */
    size_t index_bytes;
    dev_t media_device;
    ino_t media_inode;
    uint64_t media_bytes;
    uint32_t segment, end; /* the next to be ended; behind the last that was asked for */
    int64_t last_number;   /* of the segment's frames so far; -1 = none */
    bool lookahead_seen, broken;
    bool has_device_ring;
};

static const sp_video_index *index_of(const sp_frames *frames)
{
    return (const sp_video_index *)(const void *)frames->index;
}

/* --- start -------------------------------------------------------------------------------------------------------- */

static sp_status make_ring(sp_frames *frames, int *ret_fd, sp_error *reterr)
{
    int fd = memfd_create("spillway-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "memfd_create for frames");
    *ret_fd = fd;
    if (ftruncate(fd, (off_t)frames->ring_bytes) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "%zu bytes of frames", frames->ring_bytes);
    void *memory = mmap(NULL, frames->ring_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "mapping %zu bytes of frames", frames->ring_bytes);
    frames->ring = memory;
    return SP_OK;
}

static sp_status make_index(sp_frames *frames, int *ret_fd, sp_error *reterr)
{
    int fd = memfd_create("spillway-index", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "memfd_create for an index");
    *ret_fd = fd;
    for (size_t done = 0; done < frames->index_bytes;) {
        ssize_t n = write(fd, frames->index + done, frames->index_bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return SP_FAIL_ERRNO(reterr, SP_NOMEM, "an index of %zu bytes", frames->index_bytes);
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "sealing an index");
    return SP_OK;
}

static sp_status spawn(sp_frames *frames, const char *executable, int child_fd, sp_error *reterr)
{
    char program[] = "spillway", word[] = "frames";
    char *argv[] = { program, word, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    int code = posix_spawn_file_actions_init(&actions);
    if (code)
        return SP_FAIL_FROM(reterr, SP_NOMEM, "posix_spawn", code, "no memory to start a decoder");
    code = posix_spawnattr_init(&attributes);
    if (!code) {
        (void)sigemptyset(&none);
        (void)posix_spawnattr_setsigmask(&attributes, &none);
        (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        (void)posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        (void)posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
        (void)posix_spawn_file_actions_adddup2(&actions, child_fd, SOCKET_FD_IN_CHILD);
        code = posix_spawn(&frames->pid, executable, &actions, &attributes, argv, environ);
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    if (code) {
        frames->pid = 0;
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "posix_spawn", code, "cannot start a decoder from %s", executable);
    }
    return SP_OK;
}

static sp_status start(sp_frames *frames, const sp_frames_settings *settings, int fds[SP_FRAMES_FDS], sp_error *reterr)
{
    struct stat st;
    int sockets[2];
    if (fstat(settings->media_fd, &st) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "fstat of the media file");
    frames->media_device = st.st_dev;
    frames->media_inode = st.st_ino;
    frames->media_bytes = settings->media_bytes;
    fds[SP_FRAMES_FD_MEDIA] = fcntl(settings->media_fd, F_DUPFD_CLOEXEC, SOCKET_FD_IN_CHILD + 1);
    if (fds[SP_FRAMES_FD_MEDIA] < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "no descriptor for the media file");
    sp_status s = make_index(frames, &fds[SP_FRAMES_FD_INDEX], reterr);
    if (!s)
        s = make_ring(frames, &fds[SP_FRAMES_FD_RING], reterr);
    if (s)
        return s;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "socketpair for a decoder");
    frames->socket_fd = sockets[0];
    s = spawn(frames, settings->executable ? settings->executable : "/proc/self/exe", sockets[1], reterr);
    sp_fd_closep(&sockets[1]);
    if (s)
        return s;
    sp_control hello = { .kind = SP_CONTROL_HELLO, .slot = frames->places, .serial = (uint32_t)settings->threads,
                         .status = settings->require_sandbox };
    int used = snprintf(hello.text, sizeof(hello.text), "%llu ", (unsigned long long)settings->media_bytes);
    frames->has_device_ring = settings->device_ring != NULL;
    for (size_t i = 0; settings->device_ring && i < SP_FRAMES_HANDLE_BYTES; i++)
        used += snprintf(hello.text + used, sizeof(hello.text) - (size_t)used, "%02x", settings->device_ring[i]);
    return sp_control_send(frames->socket_fd, &hello, fds, SP_FRAMES_FDS, reterr);
}

sp_status sp_frames_start(const sp_frames_settings *settings, sp_frames **ret_frames, sp_error *reterr)
{
    SP_ASSERT(settings->places >= 2 && settings->places <= SP_FRAMES_PLACES);
    sp_frames *frames = calloc(1, sizeof(*frames));
    int fds[SP_FRAMES_FDS] = { -1, -1, -1 };
    if (!frames)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a decoder");
    frames->socket_fd = -1;
    frames->places = (uint32_t)settings->places;
    frames->place_bytes = sp_frames_place_bytes(settings->index);
    frames->ring_bytes = frames->place_bytes * frames->places;
    frames->index_bytes = settings->index->index_bytes;
    frames->index = malloc(frames->index_bytes);
    sp_status s = frames->index ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for an index of %zu bytes", frames->index_bytes);
    if (!s) {
        memcpy(frames->index, settings->index, frames->index_bytes);
        s = start(frames, settings, fds, reterr);
    }
    for (int i = 0; i < SP_FRAMES_FDS; i++)
        sp_fd_closep(&fds[i]);
    if (s)
        sp_frames_end(frames, NULL);
    else
        *ret_frames = frames;
    return s;
}

bool sp_frames_fits(const sp_frames *frames, const sp_frames_settings *settings)
{
    struct stat st;
    return !frames->broken && frames->segment == frames->end && !frames->held_count && fstat(settings->media_fd, &st) == 0 &&
           st.st_dev == frames->media_device && st.st_ino == frames->media_inode && settings->media_bytes == frames->media_bytes &&
           settings->index->index_bytes == frames->index_bytes && (uint32_t)settings->places == frames->places &&
           memcmp(settings->index, frames->index, frames->index_bytes) == 0;
}

void sp_frames_end(sp_frames *frames, int *ret_signal)
{
    int state = 0, killed = 0;
    if (ret_signal)
        *ret_signal = 0;
    if (!frames)
        return;
    if (frames->pid > 0) {
        if (waitpid(frames->pid, &state, WNOHANG) != frames->pid) {
            killed = 1;
            (void)kill(frames->pid, SIGKILL);
            while (waitpid(frames->pid, &state, 0) < 0 && errno == EINTR) { }
        }
        if (ret_signal && WIFSIGNALED(state) && !(killed && WTERMSIG(state) == SIGKILL))
            *ret_signal = WTERMSIG(state);
    }
    sp_fd_closep(&frames->socket_fd);
    if (frames->ring)
        (void)munmap(frames->ring, frames->ring_bytes);
    free(frames->index);
    free(frames);
}

/* --- words -------------------------------------------------------------------------------------------------------- */

static bool say(sp_frames *frames, const sp_frames_word *word)
{
    ssize_t n;
    do {
        n = send(frames->socket_fd, word, sizeof(*word), MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    frames->broken |= n != (ssize_t)sizeof(*word);
    return !frames->broken;
}

sp_status sp_frames_run(sp_frames *frames, uint32_t first_segment, uint32_t count, uint32_t attempt, sp_error *reterr)
{
    SP_ASSERT(frames->segment == frames->end && count <= index_of(frames)->segment_count &&
              first_segment <= index_of(frames)->segment_count - count);
    const sp_frames_word word = { .kind = SP_FRAMES_RUN, .segment = first_segment, .count = count, .attempt = attempt };
    frames->segment = first_segment;
    frames->end = first_segment + count;
    frames->last_number = -1;
    frames->lookahead_seen = false;
    return say(frames, &word) ? SP_OK : SP_FAIL(reterr, SP_UNAVAILABLE, "the decoder is gone");
}

int sp_frames_fd(const sp_frames *frames)
{
    return frames->socket_fd;
}

pid_t sp_frames_pid(const sp_frames *frames)
{
    return frames->pid;
}

/* A frame of the segment in hand, rising; then perhaps the one behind its last. */
static bool frame_is_sane(sp_frames *frames, const sp_frames_word *word)
{
    const sp_video_segment *segment = &sp_video_index_segments(index_of(frames))[frames->segment];
    uint32_t number = word->frame.number, end = segment->first_frame + segment->frame_count;
    if (frames->segment == frames->end || word->segment != frames->segment || word->place >= frames->places ||
        frames->held[word->place] || frames->lookahead_seen || (int64_t)number <= frames->last_number)
        return false;
    if (word->frame.on_device && !frames->has_device_ring)
        return false;
    bool inside = number >= segment->first_frame && number < end;
    bool ahead = word->frame.lookahead && number >= end && number < index_of(frames)->frame_count;
    if (word->frame.lookahead ? !ahead : !inside)
        return false;
    frames->lookahead_seen = ahead;
    frames->last_number = number;
    frames->held[word->place] = true;
    frames->held_count++;
    return true;
}

/* Another process wrote it: any byte. */
static void make_bool(bool *flag)
{
    uint8_t byte;
    memcpy(&byte, flag, 1);
    *flag = byte != 0;
}

static bool is_sane(sp_frames *frames, sp_frames_word *word)
{
    make_bool(&word->frame.lookahead);
    make_bool(&word->frame.damaged);
    make_bool(&word->frame.key);
    make_bool(&word->frame.on_device);
    make_bool(&word->frame.limited);
    word->loss.reason[sizeof(word->loss.reason) - 1] = word->code[sizeof(word->code) - 1] = word->text[sizeof(word->text) - 1] = 0;
    word->decode_ns = SP_CLAMP(word->decode_ns, (int64_t)0, 3600 * SP_NS_PER_S);
    switch (word->kind) {
    case SP_FRAMES_FRAME:
        return frame_is_sane(frames, word);
    case SP_FRAMES_END:
        if (frames->segment == frames->end || word->segment != frames->segment)
            return false;
        frames->segment++;
        frames->last_number = -1;
        frames->lookahead_seen = false;
        return true;
    case SP_FRAMES_FAILED:
        frames->broken = true;
        return word->status > SP_OK && word->status < SP_STATUS_COUNT;
    default:
        return false;
    }
}

sp_frames_news sp_frames_next(sp_frames *frames, sp_frames_word *ret_word)
{
    ssize_t n;
    /* One that died with words from us unread leaves ECONNRESET, which recv tells once and before the words that it had sent: they
     * count, or the segment that it died in would be taken for an earlier one. */
    do {
        n = recv(frames->socket_fd, ret_word, sizeof(*ret_word), MSG_DONTWAIT | MSG_TRUNC);
    } while (n < 0 && (errno == EINTR || errno == ECONNRESET));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return frames->broken ? SP_FRAMES_GONE : SP_FRAMES_NOTHING; /* it could not be told something: it waits for that for ever */
    if (n <= 0) {
        frames->broken = true;
        return SP_FRAMES_GONE;
    }
    if (n != (ssize_t)sizeof(*ret_word) || !is_sane(frames, ret_word)) {
        frames->broken = true;
        return SP_FRAMES_NONSENSE;
    }
    return SP_FRAMES_WORD;
}

const uint8_t *sp_frames_place(const sp_frames *frames, uint32_t place)
{
    SP_ASSERT(place < frames->places);
    return frames->ring + place * frames->place_bytes;
}

void *sp_frames_ring(const sp_frames *frames, size_t *ret_bytes)
{
    *ret_bytes = frames->ring_bytes;
    return frames->ring;
}

void sp_frames_free_place(sp_frames *frames, uint32_t place)
{
    SP_ASSERT(place < frames->places && frames->held[place]);
    const sp_frames_word word = { .kind = SP_FRAMES_FREE, .place = place };
    frames->held[place] = false;
    frames->held_count--;
    if (!frames->broken)
        (void)say(frames, &word); /* that it is gone is seen by the next look */
}

bool sp_frames_owes(const sp_frames *frames)
{
    return frames->segment < frames->end && frames->held_count < frames->places;
}

int64_t sp_frames_cpu_ns(const sp_frames *frames)
{
    clockid_t id;
    struct timespec ts;
    if (clock_getcpuclockid(frames->pid, &id) != 0 || clock_gettime(id, &ts) < 0)
        return 0;
    return (int64_t)ts.tv_sec * SP_NS_PER_S + ts.tv_nsec;
}
