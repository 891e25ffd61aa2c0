/* SPDX-License-Identifier: Apache-2.0
 * See support.h. */
#include "support.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS (60 * SP_NS_PER_S)

sp_loop *loop;

void loop_begin(void)
{
    if (sp_loop_new(&loop, NULL))
        abort();
}

void loop_end(void)
{
    sp_loop_free(loop);
    loop = NULL;
}

bool loop_until(const bool *flag)
{
    for (int64_t end = sp_clock_now_ns() + PATIENCE_NS; !*flag && sp_clock_now_ns() < end;) {
        if (sp_loop_turn(loop, 100 * SP_NS_PER_MS, NULL))
            break;
    }
    return *flag;
}

const char *dir_make(void)
{
    static char path[256];
    const char *tmp = getenv("TMPDIR");
    struct statvfs room;
    /* In memory where there is room: these tests fsync some thousand times, and a killed process loses nothing there. */
    bool shared = statvfs("/dev/shm", &room) == 0 && room.f_bavail * room.f_bsize > (1ull << 30) && access("/dev/shm", W_OK) == 0;
    (void)snprintf(path, sizeof(path), "%s/spillway-store-XXXXXX", tmp && *tmp ? tmp : shared ? "/dev/shm" : "/tmp");
    if (!mkdtemp(path))
        abort();
    return path;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

void dir_remove(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- calls ------------------------------------------------------------------------------------------------------- */

static char *copy_of(sp_view view)
{
    if (!view.data)
        return NULL;
    char *copy = malloc(view.size_bytes + 1);
    if (!copy)
        abort();
    memcpy(copy, view.data, view.size_bytes);
    copy[view.size_bytes] = 0;
    return copy;
}

static void read_body_file(answer *a, int fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        abort();
    a->body_was_file = true;
    a->body_bytes = (size_t)info.st_size;
    a->body = malloc(a->body_bytes + 1);
    if (!a->body || read(fd, a->body, a->body_bytes) != info.st_size)
        abort();
    a->body[a->body_bytes] = 0;
    (void)close(fd);
}

void answer_take(const sp_job_reply *reply, void *context)
{
    answer *a = context;
    if (a->came)
        test_fail(__FILE__, __LINE__, "a call was answered twice");
    answer_done(a);
    *a = (answer){ .came = true, .status = reply->status, .count = reply->count, .existed = reply->existed, .next = reply->next };
    if (reply->error)
        a->error = *reply->error;
    if (reply->count > 0)
        a->job = reply->jobs[0];
    for (int i = 0; i < reply->count && i < SP_LIMIT_JOBS_LISTED; i++)
        memcpy(a->ids[i], reply->jobs[i].id, sizeof(a->ids[i]));
    if (reply->body_fd >= 0) {
        read_body_file(a, reply->body_fd);
    } else {
        a->body = copy_of(reply->body);
        a->body_bytes = reply->body.size_bytes;
    }
    a->result = copy_of(reply->result);
    if (reply->cursor)
        (void)snprintf(a->cursor, sizeof(a->cursor), "%s", reply->cursor);
}

void answer_wait(answer *a)
{
    REQUIRE(loop_until(&a->came));
}

void answer_done(answer *a)
{
    free(a->body);
    free(a->result);
    *a = (answer){ 0 };
}

static answer last;

static answer *begin(void)
{
    answer_done(&last);
    return &last;
}

static answer *end(void)
{
    answer_wait(&last);
    if (last.status != last.error.status)
        test_fail(__FILE__, __LINE__, "status %d, but its error says %d (%s)", last.status, last.error.status, last.error.message);
    return &last;
}

sp_job job_make(const char *id)
{
    sp_job job = { .created_unix_ms = 1000 };
    (void)snprintf(job.id, sizeof(job.id), "%s", id);
    (void)snprintf(job.tenant, sizeof(job.tenant), "acme");
    (void)snprintf(job.tier, sizeof(job.tier), "pro");
    (void)snprintf(job.task, sizeof(job.task), "classify");
    (void)snprintf(job.parameters, sizeof(job.parameters), "{\"top_k\":5}");
    return job;
}

answer *add(sp_jobs *jobs, const sp_job *job, sp_view body)
{
    sp_jobs_add(jobs, job, body, answer_take, begin());
    return end();
}

answer *get(sp_jobs *jobs, const char *tenant, const char *id)
{
    sp_jobs_get(jobs, tenant, id, answer_take, begin());
    return end();
}

answer *list(sp_jobs *jobs, const char *tenant, int state, const char *task, const char *cursor, int limit)
{
    sp_jobs_list(jobs, tenant, state, task, cursor, limit, answer_take, begin());
    return end();
}

answer *claim(sp_jobs *jobs)
{
    sp_jobs_claim(jobs, answer_take, begin());
    return end();
}

answer *renew(sp_jobs *jobs, const char *id, uint64_t fence, int percent)
{
    sp_jobs_renew(jobs, id, fence, percent, answer_take, begin());
    return end();
}

answer *finish(sp_jobs *jobs, const char *id, uint64_t fence, sp_job_state state, const char *result)
{
    sp_jobs_finish(jobs, id, fence, state, sp_view_of(result), answer_take, begin());
    return end();
}

answer *release(sp_jobs *jobs, const char *id, uint64_t fence, bool counts, const char *why)
{
    sp_jobs_release(jobs, id, fence, counts, why, answer_take, begin());
    return end();
}

answer *delete(sp_jobs *jobs, const char *tenant, const char *id)
{
    sp_jobs_delete(jobs, tenant, id, answer_take, begin());
    return end();
}

answer *webhooks_due(sp_jobs *jobs, int limit)
{
    sp_jobs_webhooks_due(jobs, limit, answer_take, begin());
    return end();
}

answer *webhook_done(sp_jobs *jobs, const char *id, bool delivered, int64_t next_unix_ms)
{
    sp_jobs_webhook_done(jobs, id, delivered, next_unix_ms, answer_take, begin());
    return end();
}

answer *sweep(sp_jobs *jobs)
{
    sp_jobs_sweep(jobs, answer_take, begin());
    return end();
}

answer *add_file(sp_jobs *jobs, const sp_job *job, const sp_body_file *file)
{
    sp_jobs_add_file(jobs, job, file, answer_take, begin());
    return end();
}

answer *body_of(sp_jobs *jobs, const char *id)
{
    sp_jobs_body(jobs, id, answer_take, begin());
    return end();
}

answer *part_put(sp_jobs *jobs, const char *id, uint64_t fence, sp_view bytes)
{
    sp_jobs_part_put(jobs, id, fence, bytes, answer_take, begin());
    return end();
}

answer *parts_get(sp_jobs *jobs, const char *id, uint64_t from)
{
    sp_jobs_parts_get(jobs, id, from, answer_take, begin());
    return end();
}

answer *report_put(sp_jobs *jobs, const char *id, uint64_t fence, int fd, uint64_t size_bytes)
{
    sp_jobs_report_put(jobs, id, fence, fd, size_bytes, answer_take, begin());
    return end();
}

answer *report_read(sp_jobs *jobs, const char *tenant, const char *id, uint64_t offset)
{
    sp_jobs_report_read(jobs, tenant, id, offset, answer_take, begin());
    return end();
}

answer *share(sp_jobs *jobs, const char *id, uint64_t fence)
{
    sp_jobs_share(jobs, id, fence, answer_take, begin());
    return end();
}

answer *shared_list(sp_jobs *jobs, int limit)
{
    sp_jobs_shared(jobs, limit, answer_take, begin());
    return end();
}

answer *chunk_claim(sp_jobs *jobs, const char *id, uint32_t chunk)
{
    sp_jobs_chunk_claim(jobs, id, chunk, answer_take, begin());
    return end();
}

/* --- redis-server ------------------------------------------------------------------------------------------------ */

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

/* One that is free now. Somebody may take it before the server does: then that does not start, and we try another. */
static int free_port(void)
{
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || getsockname(fd, (struct sockaddr *)&address, &length))
        abort();
    (void)close(fd);
    return ntohs(address.sin_port);
}

static bool answers(int port)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char reply[64] = "";
    bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && write(fd, "PING\r\n", 6) == 6 &&
              read(fd, reply, sizeof(reply) - 1) > 0 && strncmp(reply, "+PONG", 5) == 0; /* -LOADING comes before it */
    if (fd >= 0)
        (void)close(fd);
    return ok;
}

static bool run_server(redis *server)
{
    char port[16];
    (void)snprintf(port, sizeof(port), "%d", server->port);
    const char *words[] = { "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", server->dir, "--save", "",
                            "--appendonly", server->appendonly, "--appendfsync", server->appendfsync, "--logfile", "log", NULL };
    pid_t parent = getpid();
    server->pid = fork();
    if (server->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* an aborted test leaves no server behind */
        if (getppid() != parent)
            _exit(1);
        (void)execvp(words[0], (char **)words);
        _exit(127);
    }
    for (int64_t end_ns = sp_clock_now_ns() + PATIENCE_NS; sp_clock_now_ns() < end_ns;) {
        if (answers(server->port))
            return true;
        int how;
        if (waitpid(server->pid, &how, WNOHANG) == server->pid) {
            server->pid = 0;
            return false;
        }
        (void)nanosleep(&(struct timespec){ 0, 20000000 }, NULL); /* until it listens; no test depends on how long */
    }
    return false;
}

bool redis_start(redis *server, const char *appendonly, const char *appendfsync)
{
    *server = (redis){ .appendonly = appendonly, .appendfsync = appendfsync };
    (void)snprintf(server->dir, sizeof(server->dir), "%s", dir_make());
    for (int tries = 0; tries < 5; tries++) {
        server->port = free_port();
        (void)snprintf(server->url, sizeof(server->url), "redis://127.0.0.1:%d/0", server->port);
        if (run_server(server))
            return true;
    }
    dir_remove(server->dir);
    return false;
}

void redis_kill(redis *server)
{
    int how;
    if (server->pid > 0) {
        (void)kill(server->pid, SIGKILL);
        (void)waitpid(server->pid, &how, 0);
    }
    server->pid = 0;
}

void redis_restart(redis *server)
{
    if (!run_server(server))
        test_fail(__FILE__, __LINE__, "redis-server did not start again on port %d", server->port);
}

void redis_stop(redis *server)
{
    redis_kill(server);
    dir_remove(server->dir);
}
