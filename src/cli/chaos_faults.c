/* SPDX-License-Identifier: Apache-2.0
 * The faults of `spillway chaos`: signals to the workers that /healthz names, stalled clients, stand-ins' switches and
 * commands, each at its time; and the watch over how long it takes until the worker is back and until somebody answers. */
#include "base/clock.h"
#include "cli/call.h"
#include "cli/chaos.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HEALTH_BYTES (256u * 1024)
#define HEALTH_TIMEOUT_NS (5 * SP_NS_PER_S)
/* How often the workers are looked at while one is awaited, and how long the loop sleeps otherwise. */
#define WATCH_NS (5 * SP_NS_PER_MS)
#define IDLE_NS (20 * SP_NS_PER_MS)
/* A fault nobody recovers from is closed as such. */
#define GIVE_UP_NS (60 * SP_NS_PER_S)
/* A stalled client sends a byte this often. */
#define DRIP_NS (200 * SP_NS_PER_MS)
#define CHILDREN 64
#define WORKERS 32

extern char **environ;

typedef struct worker {
    char name[32];
    int pid;
    bool ready;
} worker;

typedef struct slow_client {
    int fd;
    int64_t close_ns, drip_ns;
} slow_client;

typedef struct executor {
    sp_chaos *chaos;
    sp_caller caller;
    sp_buf health_request;
    worker workers[WORKERS];
    int worker_count;
    bool allowed; /* by the server */
    uint64_t random;
    slow_client slow[SP_CHAOS_SLOW_CLIENTS];
    int slow_count;
    pid_t children[CHILDREN];
    int child_count;
} executor;

/* --- looking ------------------------------------------------------------------------------------------------------ */

static sp_status executor_init(executor *e, sp_chaos *chaos, sp_error *reterr)
{
    sp_bench_url url = chaos->url;
    *e = (executor){ .chaos = chaos, .random = chaos->seed, .caller.fd = -1 };
    (void)snprintf(url.target, sizeof(url.target), "/healthz");
    const sp_bench_request_params params = { .url = &url, .method = "GET", .keep_alive = true, .headers = chaos->headers,
                                             .header_count = chaos->header_count };
    sp_buf_init(&e->health_request, 64 * 1024);
    sp_status s = sp_bench_request_build(&params, &e->health_request, reterr);
    return s ? s : sp_caller_init(&e->caller, chaos->url.host, chaos->url.port, HEALTH_BYTES, reterr);
}

static void executor_done(executor *e)
{
    for (int i = 0; i < e->slow_count; i++)
        sp_fd_closep(&e->slow[i].fd);
    sp_caller_done(&e->caller);
    sp_buf_done(&e->health_request);
}

static sp_status health_read(executor *e, sp_error *reterr)
{
    sp_view body;
    int status = 0;
    sp_status s = sp_caller_call(&e->caller, sp_buf_view(&e->health_request), HEALTH_TIMEOUT_NS, &status, &body, reterr);
    if (s)
        return s;
    json_t *root = json_loadb((const char *)body.data, body.size_bytes, 0, NULL);
    json_t *workers = json_object_get(root, "workers");
    e->worker_count = 0;
    e->allowed = json_is_true(json_object_get(root, "chaos"));
    for (size_t i = 0; i < json_array_size(workers) && i < WORKERS; i++) {
        const json_t *one = json_array_get(workers, i);
        const char *name = json_string_value(json_object_get(one, "name")), *state = json_string_value(json_object_get(one, "state"));
        worker *w = &e->workers[e->worker_count++];
        (void)snprintf(w->name, sizeof(w->name), "%s", name ? name : "");
        w->pid = (int)json_integer_value(json_object_get(one, "pid"));
        w->ready = state && !strcmp(state, "ready");
    }
    json_decref(root);
    return e->worker_count || e->allowed ? SP_OK : SP_FAIL(reterr, SP_UNAVAILABLE, "/healthz answers %d and names no workers", status);
}

sp_status sp_chaos_permitted(sp_chaos *chaos, sp_error *reterr)
{
    executor e;
    sp_status s = executor_init(&e, chaos, reterr);
    if (!s)
        s = health_read(&e, reterr);
    if (!s && !e.allowed)
        s = SP_FAIL(reterr, SP_DENIED, "this server does not allow it: start it with --allow-chaos");
    for (int i = 0; !s && i < chaos->script.count; i++) {
        const char *name = chaos->script.steps[i].worker;
        bool known = !*name || !strcmp(name, "any");
        for (int k = 0; k < e.worker_count; k++)
            known |= !strcmp(e.workers[k].name, name);
        if (!known)
            s = SP_FAIL(reterr, SP_INVALID, "line %d: the server has no worker '%s'", chaos->script.steps[i].line, name);
    }
    executor_done(&e);
    return s;
}

static worker *worker_find(executor *e, const char *name)
{
    int ready[WORKERS], count = 0;
    for (int i = 0; i < e->worker_count; i++) {
        if (!strcmp(e->workers[i].name, name))
            return &e->workers[i];
        if (e->workers[i].ready && e->workers[i].pid > 0)
            ready[count++] = i;
    }
    if (strcmp(name, "any") || !count)
        return NULL;
    e->random = e->random * 6364136223846793005u + 1442695040888963407u;
    return &e->workers[ready[(e->random >> 33) % (uint64_t)count]];
}

/* The pid came from a server that may be elsewhere: only what is one of our programs on this machine gets a signal. */
static sp_status is_spillway(int pid, sp_error *reterr)
{
    char path[64], target[PATH_MAX];
    (void)snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length <= 0 && (errno == ENOENT || errno == ESRCH))
        return SP_FAIL(reterr, SP_BUSY, "pid %d has just ended", pid);
    target[SP_MAX(length, 0)] = '\0';
    const char *slash = strrchr(target, '/');
    if (!slash || strncmp(slash + 1, "spillway", 8))
        return SP_FAIL(reterr, SP_DENIED, "pid %d is no spillway process of this machine", pid);
    return SP_OK;
}

static int parent_of(int pid)
{
    char path[64], text[512];
    int parent = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    if (file)
        (void)fclose(file);
    text[length] = '\0';
    const char *behind = strrchr(text, ')'); /* the name may hold anything */
    return behind && sscanf(behind, ") %*c %d", &parent) == 1 ? parent : 0;
}

/* --- making ------------------------------------------------------------------------------------------------------- */

static sp_status slow_open(executor *e, const sp_chaos_step *step, int64_t now_ns, sp_error *reterr)
{
    const sp_chaos *chaos = e->chaos;
    struct addrinfo *list = NULL, hints = { .ai_socktype = SOCK_STREAM };
    char head[4096];
    int n = snprintf(head, sizeof(head), "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n",
                     chaos->url.target, chaos->url.host, chaos->url.port);
    for (int i = 0; i < chaos->header_count && n > 0 && (size_t)n < sizeof(head); i++)
        n += snprintf(head + n, sizeof(head) - (size_t)n, "%s\r\n", chaos->headers[i]);
    if (n > 0 && (size_t)n < sizeof(head))
        n += snprintf(head + n, sizeof(head) - (size_t)n, "\r\n");
    if (n < 0 || (size_t)n >= sizeof(head) || getaddrinfo(chaos->url.host, chaos->url.port, &hints, &list))
        return SP_FAIL(reterr, SP_UNAVAILABLE, "no slow client could be made");

    int made = 0;
    for (int i = 0; i < step->count && e->slow_count < SP_CHAOS_SLOW_CLIENTS; i++) {
        int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen) < 0 || send(fd, head, (size_t)n, MSG_NOSIGNAL) != n) {
            sp_fd_closep(&fd);
            continue;
        }
        e->slow[e->slow_count++] = (slow_client){ .fd = fd, .close_ns = now_ns + step->for_ns, .drip_ns = now_ns + DRIP_NS };
        made++;
    }
    freeaddrinfo(list);
    return made ? SP_OK : SP_FAIL(reterr, SP_UNAVAILABLE, "no slow client could be made");
}

static void slow_round(executor *e, int64_t now_ns)
{
    for (int i = 0; i < e->slow_count;) {
        slow_client *client = &e->slow[i];
        bool alive = now_ns < client->close_ns;
        if (alive && now_ns >= client->drip_ns) {
            client->drip_ns = now_ns + DRIP_NS;
            alive = send(client->fd, "\xff", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 || errno == EAGAIN;
        }
        if (alive) {
            i++;
        } else {
            sp_fd_closep(&client->fd);
            *client = e->slow[--e->slow_count];
        }
    }
}

static sp_status post(const sp_chaos_step *step, sp_error *reterr)
{
    SP_CLEANUP(sp_buf_done) sp_buf request = { 0 };
    sp_bench_url url;
    sp_caller caller = { .fd = -1 };
    sp_view body;
    int status = 0;

    sp_status s = sp_bench_url_parse(step->target, &url, reterr);
    if (s)
        return s;
    sp_buf_init(&request, 64 * 1024);
    const sp_bench_request_params params = { .url = &url, .method = "POST", .has_body = true };
    s = sp_bench_request_build(&params, &request, reterr);
    if (!s)
        s = sp_caller_init(&caller, url.host, url.port, 4096, reterr);
    if (!s)
        s = sp_caller_call(&caller, sp_buf_view(&request), HEALTH_TIMEOUT_NS, &status, &body, reterr);
    sp_caller_done(&caller);
    return s || status < 300 ? s : SP_FAIL(reterr, SP_UNAVAILABLE, "%.100s answers %d", step->target, status);
}

static sp_status run_command(executor *e, const sp_chaos_step *step, sp_error *reterr)
{
    char *words[] = { (char[]){ "sh" }, (char[]){ "-c" }, (char *)(uintptr_t)step->target, NULL };
    if (e->child_count == CHILDREN)
        return SP_FAIL(reterr, SP_BUSY, "%d commands are still running", CHILDREN);
    int code = posix_spawn(&e->children[e->child_count], "/bin/sh", NULL, NULL, words, environ);
    if (code)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "%.100s: %s", step->target, strerror(code));
    e->child_count++;
    return SP_OK;
}

static void children_reap(executor *e)
{
    for (int i = 0; i < e->child_count;) {
        if (waitpid(e->children[i], NULL, WNOHANG) == 0)
            i++;
        else
            e->children[i] = e->children[--e->child_count];
    }
}

static sp_status send_signal(int pid, int number, sp_error *reterr)
{
    sp_status s = is_spillway(pid, reterr);
    if (s)
        return s;
    if (kill(pid, number))
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "signal %d to pid %d", number, pid);
    return SP_OK;
}

/* SP_BUSY: there is nobody to do it to now. */
static sp_status make(executor *e, const sp_chaos_step *step, sp_chaos_event *event, sp_error *reterr)
{
    const worker *w = NULL;
    if (*step->worker || step->action == SP_CHAOS_RELOAD) {
        sp_status s = health_read(e, reterr);
        if (s)
            return s;
        w = worker_find(e, *step->worker ? step->worker : "any");
        /* One that is still loading is left alone: a crash there is the model's, which the server then stops loading. */
        if (!w || w->pid <= 0 || !w->ready)
            return SP_FAIL(reterr, SP_BUSY, "%s is not there now", step->worker);
        event->pid = w->pid;
        memcpy(event->worker, w->name, sizeof(event->worker));
    }
    event->at_ns = sp_clock_now_ns();
    switch (step->action) {
    case SP_CHAOS_SIGNAL:
        event->waits_for_worker = true;
        return send_signal(event->pid, step->signal, reterr);
    case SP_CHAOS_STOP:
        event->waits_for_worker = true;
        event->continue_ns = step->for_ns ? event->at_ns + step->for_ns : 0;
        return send_signal(event->pid, SIGSTOP, reterr);
    case SP_CHAOS_RELOAD:
        event->worker[0] = '\0';
        return send_signal(parent_of(event->pid), SIGHUP, reterr);
    case SP_CHAOS_SLOW:
        return slow_open(e, step, event->at_ns, reterr);
    case SP_CHAOS_POST:
        return post(step, reterr);
    case SP_CHAOS_RUN:
        return run_command(e, step, reterr);
    }
    return SP_OK;
}

/* False: nobody was there to do it to. */
static bool fire(executor *e, const sp_chaos_step *step)
{
    sp_chaos *chaos = e->chaos;
    sp_chaos_event event = { .step = step };
    sp_error err = { 0 };

    sp_status s = atomic_load(&chaos->open_count) < SP_CHAOS_OPEN ? make(e, step, &event, &err) : SP_BUSY;
    if (s) {
        chaos->skipped += s != SP_BUSY || step->every_ns;
        if (s != SP_BUSY && !*chaos->problem)
            (void)snprintf(chaos->problem, sizeof(chaos->problem), "line %d: %.200s", step->line, err.message);
        return s != SP_BUSY;
    }
    (void)pthread_mutex_lock(&chaos->lock);
    chaos->open[atomic_load(&chaos->open_count)] = event;
    (void)atomic_fetch_add(&chaos->open_count, 1);
    (void)atomic_fetch_add(&chaos->unanswered, 1);
    (void)pthread_mutex_unlock(&chaos->lock);
    return true;
}

/* --- watching ------------------------------------------------------------------------------------------------------ */

static void event_close(sp_chaos *chaos, int index)
{
    sp_chaos_event *event = &chaos->open[index];
    event->unasked = !event->answer_ns && event->at_ns > atomic_load(&chaos->last_sent_ns);
    if (chaos->event_count == chaos->event_capacity) {
        int capacity = chaos->event_capacity ? 2 * chaos->event_capacity : 256;
        sp_chaos_event *more = realloc(chaos->events, (size_t)capacity * sizeof(*more));
        if (more) {
            chaos->events = more;
            chaos->event_capacity = capacity;
        }
    }
    if (chaos->event_count < chaos->event_capacity)
        chaos->events[chaos->event_count++] = chaos->open[index];
    if (!chaos->open[index].answer_ns)
        (void)atomic_fetch_sub(&chaos->unanswered, 1);
    chaos->open[index] = chaos->open[atomic_fetch_sub(&chaos->open_count, 1) - 1];
}

/* Lets go on what was stopped, sees who is ready again, closes what has been recovered from. */
static void watch(executor *e, int64_t now_ns, bool may_ask)
{
    sp_chaos *chaos = e->chaos;
    bool awaited = false;

    for (int i = 0; i < atomic_load(&chaos->open_count); i++) { /* only this thread adds and removes */
        sp_chaos_event *event = &chaos->open[i];
        if (event->continue_ns && now_ns >= event->continue_ns) {
            (void)kill(event->pid, SIGCONT); /* it may have been ended for standing still */
            event->continue_ns = 0;
        }
        awaited |= event->waits_for_worker && !event->ready_ns && !event->continue_ns;
    }
    bool looked = awaited && may_ask && health_read(e, NULL) == SP_OK;
    now_ns = sp_clock_now_ns();
    (void)pthread_mutex_lock(&chaos->lock);
    for (int i = 0; i < atomic_load(&chaos->open_count);) {
        sp_chaos_event *event = &chaos->open[i];
        const worker *w = looked && event->waits_for_worker ? worker_find(e, event->worker) : NULL;
        bool goes_on = event->step->action == SP_CHAOS_STOP && event->step->for_ns > 0; /* with the same pid */
        if (w && !event->ready_ns && !event->continue_ns && w->ready && (w->pid != event->pid || goes_on))
            event->ready_ns = now_ns;
        if ((event->answer_ns && (!event->waits_for_worker || event->ready_ns)) || now_ns - event->at_ns > GIVE_UP_NS)
            event_close(chaos, i);
        else
            i++;
    }
    (void)pthread_mutex_unlock(&chaos->lock);
}

static void steps_round(executor *e, int64_t now_ns)
{
    sp_chaos *chaos = e->chaos;
    for (int i = 0; i < chaos->script.count; i++) {
        sp_chaos_step *step = &chaos->script.steps[i];
        if (now_ns < step->next_ns || now_ns - chaos->start_ns > step->until_ns)
            continue;
        bool made = fire(e, step);
        if (step->every_ns) /* one that is late is made once, not caught up with */
            step->next_ns = SP_MAX(step->next_ns + step->every_ns, now_ns);
        else
            step->next_ns = made ? INT64_MAX : now_ns + IDLE_NS; /* as soon as its worker is there */
    }
}

static int64_t pause_ns(const sp_chaos *chaos, int64_t now_ns)
{
    int64_t until_ns = now_ns + (atomic_load(&chaos->open_count) ? WATCH_NS : IDLE_NS);
    for (int i = 0; i < chaos->script.count; i++)
        until_ns = SP_MIN(until_ns, chaos->script.steps[i].next_ns);
    return SP_MAX(until_ns - now_ns, SP_NS_PER_MS);
}

static bool all_ready(executor *e)
{
    bool ready = health_read(e, NULL) == SP_OK;
    for (int i = 0; i < e->worker_count; i++)
        ready = ready && e->workers[i].ready;
    return ready;
}

/* A worker that was hit a moment ago may still be called ready, under its old pid. */
static bool anyone_awaited(const sp_chaos *chaos)
{
    for (int i = 0; i < atomic_load(&chaos->open_count); i++) { /* only this thread adds and removes */
        if (chaos->open[i].waits_for_worker && !chaos->open[i].ready_ns)
            return true;
    }
    return false;
}

/* No new faults; everything that was stopped goes on; until the house is whole again and every fault has its answer (the
 * load goes on, unless it has all it wanted), or settle_ns is over. */
static sp_status settle(executor *e, sp_error *reterr)
{
    sp_chaos *chaos = e->chaos;
    int64_t end_ns = sp_clock_now_ns() + chaos->settle_ns;

    for (int i = 0; i < atomic_load(&chaos->open_count); i++)
        if (chaos->open[i].continue_ns)
            chaos->open[i].continue_ns = 1;
    for (int i = 0; i < e->slow_count; i++)
        e->slow[i].close_ns = 0;
    watch(e, sp_clock_now_ns(), false); /* also when somebody pressed Ctrl-C: nothing stays stopped */
    bool ready = false;
    while (sp_clock_now_ns() < end_ns && !*chaos->stop) {
        int64_t now_ns = sp_clock_now_ns();
        slow_round(e, now_ns);
        watch(e, now_ns, true);
        children_reap(e);
        ready = all_ready(e);
        if (ready && !e->child_count && !anyone_awaited(chaos) && (atomic_load(&chaos->ending) || !atomic_load(&chaos->unanswered)))
            break;
        (void)nanosleep(&(struct timespec){ .tv_nsec = WATCH_NS }, NULL);
    }
    (void)pthread_mutex_lock(&chaos->lock);
    while (atomic_load(&chaos->open_count))
        event_close(chaos, 0);
    (void)pthread_mutex_unlock(&chaos->lock);
    if (ready)
        return SP_OK;
    for (int i = 0; i < e->worker_count; i++)
        if (!e->workers[i].ready)
            return SP_FAIL(reterr, SP_UNAVAILABLE, "%s was not ready again %.0f s after the last fault", e->workers[i].name,
                           (double)chaos->settle_ns / 1e9);
    return SP_FAIL(reterr, SP_UNAVAILABLE, "the server does not answer /healthz after the last fault");
}

sp_status sp_chaos_faults_run(sp_chaos *chaos, sp_error *reterr)
{
    executor e;
    sp_status s = executor_init(&e, chaos, reterr);

    for (int i = 0; i < chaos->script.count; i++)
        chaos->script.steps[i].next_ns = chaos->start_ns + chaos->script.steps[i].at_ns;
    while (!s && !atomic_load(&chaos->ending) && !*chaos->stop) {
        int64_t now_ns = sp_clock_now_ns();
        if (now_ns - chaos->start_ns >= chaos->duration_ns)
            break;
        steps_round(&e, now_ns);
        slow_round(&e, now_ns);
        watch(&e, now_ns, true);
        children_reap(&e);
        int64_t rest_ns = pause_ns(chaos, sp_clock_now_ns());
        (void)nanosleep(&(struct timespec){ .tv_nsec = rest_ns }, NULL);
    }
    if (!s)
        s = settle(&e, reterr);
    atomic_store(&chaos->ending, true);
    executor_done(&e);
    return s;
}
