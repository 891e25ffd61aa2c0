/* SPDX-License-Identifier: Apache-2.0
 * The load generator's loop. Per request it costs one send, one recv and a share of one epoll_wait, so that on the
 * server's own machine it takes as little as it can of what is being measured. */
#include "cli/bench_load.h"

#include "base/clock.h"
#include "cli/bench_http.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* After a refused connection, before the next try: a server that is down must not cost the client's core. */
#define RECONNECT_AFTER_NS (10 * SP_NS_PER_MS)
/* How often running requests are looked over for their timeout. */
#define SWEEP_NS (50 * SP_NS_PER_MS)
/* Open loop: how long after the end requests that were due before it may still be sent. */
#define BACKLOG_NS (10 * SP_NS_PER_S)

typedef enum conn_state { CONN_CLOSED, CONN_CONNECTING, CONN_IDLE, CONN_BUSY } conn_state;

typedef struct conn {
    int fd;
    conn_state state;
    bool loaded;           /* has a request in hand (a connecting one may) */
    bool used;             /* has brought an answer before */
    bool resent;
    bool in_idle_list;
    const sp_load_shot *shot;
    size_t sent_bytes;
    int64_t due_ns, sent_ns;
    int64_t retry_ns;      /* CONN_CLOSED: not before this */
    sp_bench_answer answer;
} conn;

typedef struct load {
    const sp_load_params *params;
    sp_load_result *result;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    int epoll_fd;
    conn *conns;
    int *idle;             /* stack of connections that wait for work */
    int idle_count;
    int busy_count;        /* with a request in hand */
    int down_count;        /* CONN_CLOSED */
    int standing_count;    /* connected */
    uint64_t shot_next;
    uint64_t random;
    int64_t start_ns, window_begin_ns, end_ns; /* end_ns INT64_MAX without a duration */
    int64_t due_ns;        /* open loop: of the next request */
    int64_t alive_ns;      /* when a connection last stood */
    bool issuing;
    uint8_t *buffer;
} load;

#define BUFFER_BYTES (256u * 1024)

const char *sp_load_error_name(sp_load_error error)
{
    static const char *const names[SP_LOAD_ERROR_COUNT] = {
        "connect", "reset", "closed", "stale", "timeout", "protocol", "unsent",
    };
    return error < SP_LOAD_ERROR_COUNT ? names[error] : "?";
}

static double random_unit(load *l) /* in (0, 1] ; xorshift64* */
{
    l->random ^= l->random >> 12;
    l->random ^= l->random << 25;
    l->random ^= l->random >> 27;
    return (double)(((l->random * UINT64_C(2685821657736338717)) >> 11) + 1) / 9007199254740992.0;
}

static void schedule_next(load *l)
{
    double gap_ns = 1e9 / l->params->rate;
    if (l->params->poisson)
        gap_ns *= -log(random_unit(l));
    l->due_ns += (int64_t)gap_ns;
}

static void idle_push(load *l, conn *c)
{
    if (c->in_idle_list)
        return;
    c->in_idle_list = true;
    l->idle[l->idle_count++] = (int)(c - l->conns);
}

static void count_error(load *l, conn *c, sp_load_error error)
{
    l->result->errors[error]++;
    if (c->loaded) {
        c->loaded = false;
        l->busy_count--;
    }
}

static void conn_close(load *l, conn *c, int64_t retry_ns)
{
    if (c->fd >= 0)
        close(c->fd); /* leaves the epoll set with it */
    c->fd = -1;
    if (c->state != CONN_CLOSED)
        l->down_count++;
    if (c->state == CONN_IDLE || c->state == CONN_BUSY)
        l->standing_count--;
    c->state = CONN_CLOSED;
    c->retry_ns = retry_ns;
}

static void conn_open(load *l, conn *c)
{
    int one = 1;
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };

    c->fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        c->retry_ns = sp_clock_now_ns() + RECONNECT_AFTER_NS;
        return;
    }
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    event.data.u32 = (uint32_t)(c - l->conns);
    int r = connect(c->fd, (const struct sockaddr *)&l->address, l->address_bytes);
    if ((r < 0 && errno != EINPROGRESS) || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0) {
        close(c->fd);
        c->fd = -1;
        c->retry_ns = sp_clock_now_ns() + RECONNECT_AFTER_NS;
        return;
    }
    l->down_count--;
    l->result->connections++;
    c->state = CONN_CONNECTING;
    c->used = false;
    c->sent_ns = sp_clock_now_ns(); /* for the connect's own timeout */
}

/* True when one more request may be sent now; takes it from the schedule. */
static bool take_turn(load *l, int64_t now_ns, int64_t *ret_due_ns)
{
    const sp_load_params *p = l->params;

    if (!l->issuing)
        return false;
    if (p->request_limit && l->result->issued >= p->request_limit) {
        l->issuing = false;
        return false;
    }
    if (p->rate <= 0) {
        if (now_ns >= l->end_ns) {
            l->issuing = false;
            return false;
        }
        *ret_due_ns = now_ns;
        return true;
    }
    if (l->due_ns >= l->end_ns) {
        l->issuing = false;
        return false;
    }
    if (l->due_ns > now_ns)
        return false;
    *ret_due_ns = l->due_ns;
    schedule_next(l);
    return true;
}

static void conn_failed(load *l, conn *c, sp_load_error error, int64_t now_ns);

static void conn_send(load *l, conn *c, int64_t now_ns)
{
    sp_view request = c->shot->request;

    while (c->sent_bytes < request.size_bytes) {
        ssize_t n = send(c->fd, request.data + c->sent_bytes, request.size_bytes - c->sent_bytes, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            /* A server that answers early and closes makes our writing fail; its answer can still be read. */
            if (errno != EAGAIN && errno != EPIPE && errno != ECONNRESET)
                conn_failed(l, c, SP_LOAD_RESET, now_ns);
            return;
        }
        c->sent_bytes += (size_t)n;
        l->result->bytes_out += (uint64_t)n;
    }
}

static void conn_begin(load *l, conn *c, int64_t now_ns)
{
    c->state = CONN_BUSY;
    c->sent_bytes = 0;
    c->sent_ns = now_ns;
    sp_bench_answer_reset(&c->answer);
    conn_send(l, c, now_ns);
}

/* Gives a free connection its next request, if one is due. */
static void conn_load(load *l, conn *c, int64_t now_ns)
{
    int64_t due_ns;

    if (!take_turn(l, now_ns, &due_ns)) {
        idle_push(l, c);
        return;
    }
    c->shot = &l->params->shots[l->shot_next++ % (uint64_t)l->params->shot_count];
    c->due_ns = due_ns;
    c->loaded = true;
    c->resent = false;
    l->busy_count++;
    l->result->issued++;
    if (l->params->rate > 0 && due_ns >= l->window_begin_ns)
        sp_hist_add(&l->result->lateness, now_ns - due_ns);
    conn_begin(l, c, now_ns);
}

static void conn_failed(load *l, conn *c, sp_load_error error, int64_t now_ns)
{
    bool refused = error == SP_LOAD_CONNECT;

    if (c->loaded && !c->resent && error == SP_LOAD_STALE && l->params->resend_stale) {
        c->resent = true; /* keeps its request and due time; goes out when the new connection stands */
    } else if (c->loaded || refused) {
        count_error(l, c, error);
    }
    conn_close(l, c, refused ? now_ns + RECONNECT_AFTER_NS : now_ns);
}

static void keep_sample(load *l, const sp_bench_answer *answer)
{
    sp_load_result *r = l->result;

    if (r->sample_count == SP_LOAD_SAMPLES)
        return;
    sp_load_sample *sample = &r->samples[r->sample_count++];
    sample->status = answer->status;
    size_t n = SP_MIN(answer->kept_bytes, sizeof sample->body - 1);
    if (n)
        memcpy(sample->body, answer->kept, n);
    sample->body[n] = 0;
}

static bool as_expected(const load *l, const conn *c)
{
    char label[256];
    sp_view body = sp_view_make(c->answer.kept, c->answer.kept_bytes);

    if (c->shot->expect_label &&
        (!sp_bench_answer_label(body, label, sizeof label) || strcmp(label, c->shot->expect_label) != 0))
        return false;
    if (l->params->expect_text &&
        !memmem(body.data, body.size_bytes, l->params->expect_text, strlen(l->params->expect_text)))
        return false;
    return true;
}

static void answer_done(load *l, conn *c, int64_t now_ns)
{
    sp_load_result *r = l->result;
    const sp_bench_answer *answer = &c->answer;
    bool counts = now_ns >= l->window_begin_ns;
    bool good = answer->status >= 200 && answer->status < 300;

    c->loaded = false;
    c->used = true;
    l->busy_count--;
    if (counts) {
        r->answered++;
        sp_hist_add(&r->latency, now_ns - c->due_ns);
        r->status_counts[SP_CLAMP(answer->status, 0, 599)]++;
        if (good && !as_expected(l, c)) {
            r->wrong++;
            good = false;
        } else if (good) {
            r->ok++;
            if (now_ns <= l->end_ns)
                r->window_ok++;
        }
    }
    if (!good)
        keep_sample(l, answer);
    /* The rest of a request that was answered early cannot follow on this connection. */
    if (answer->close || c->sent_bytes < c->shot->request.size_bytes) {
        conn_close(l, c, now_ns);
        return;
    }
    c->state = CONN_IDLE;
    conn_load(l, c, now_ns);
}

static void conn_read(load *l, conn *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, l->buffer, BUFFER_BYTES, 0);
        int64_t now_ns = sp_clock_now_ns();
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            bool begun = c->answer.head_bytes || c->answer.phase != SP_BENCH_HEAD;
            if (c->state != CONN_BUSY)
                conn_close(l, c, now_ns);
            else if (n == 0 && begun && sp_bench_answer_closed(&c->answer))
                answer_done(l, c, now_ns);
            else
                conn_failed(l, c, begun ? SP_LOAD_RESET : c->used ? SP_LOAD_STALE : SP_LOAD_CLOSED, now_ns);
            return;
        }
        l->result->bytes_in += (uint64_t)n;
        if (c->state != CONN_BUSY) { /* unasked bytes */
            conn_close(l, c, now_ns);
            return;
        }
        size_t used = sp_bench_answer_feed(&c->answer, l->buffer, (size_t)n);
        if (c->answer.phase == SP_BENCH_BAD || (c->answer.phase == SP_BENCH_DONE && used < (size_t)n)) {
            conn_failed(l, c, SP_LOAD_PROTOCOL, now_ns);
            return;
        }
        if (c->answer.phase == SP_BENCH_DONE) {
            answer_done(l, c, now_ns);
            return;
        }
        if ((size_t)n < BUFFER_BYTES)
            return; /* drained: the edge comes again with more */
    }
}

static void conn_event(load *l, conn *c, uint32_t events, int64_t now_ns)
{
    if (c->state == CONN_CLOSED)
        return;
    if (c->state == CONN_CONNECTING) {
        int error = 0;
        socklen_t error_bytes = sizeof error;
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
            return;
        (void)getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes);
        if (error) {
            conn_failed(l, c, SP_LOAD_CONNECT, now_ns);
            return;
        }
        c->state = CONN_IDLE;
        l->standing_count++;
        if (c->loaded)
            conn_begin(l, c, now_ns);
        else
            conn_load(l, c, now_ns);
        return;
    }
    if ((events & EPOLLOUT) && c->state == CONN_BUSY && c->sent_bytes < c->shot->request.size_bytes)
        conn_send(l, c, now_ns);
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && c->fd >= 0)
        conn_read(l, c);
    /* An answer and the close behind it come as one edge: look again, or the close would go unseen. */
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && c->fd >= 0 && c->state != CONN_CONNECTING)
        conn_read(l, c);
}

/* Reopens closed connections and ends requests that took too long. */
static void sweep(load *l, int64_t now_ns)
{
    for (int i = 0; i < l->params->concurrency; i++) {
        conn *c = &l->conns[i];
        if ((c->state == CONN_BUSY || c->state == CONN_CONNECTING) && now_ns - c->sent_ns > l->params->timeout_ns)
            conn_failed(l, c, c->state == CONN_BUSY ? SP_LOAD_TIMEOUT : SP_LOAD_CONNECT, now_ns);
    }
}

static void reopen(load *l, int64_t now_ns)
{
    for (int i = 0; i < l->params->concurrency && l->down_count; i++) {
        conn *c = &l->conns[i];
        if (c->state == CONN_CLOSED && now_ns >= c->retry_ns && (l->issuing || c->loaded))
            conn_open(l, c);
    }
}

/* Hands due requests to idle connections. */
static void feed_idle(load *l, int64_t now_ns)
{
    while (l->idle_count && l->issuing) {
        if (l->params->rate > 0 && l->due_ns > now_ns && l->due_ns < l->end_ns)
            return;
        conn *c = &l->conns[l->idle[--l->idle_count]];
        c->in_idle_list = false;
        if (c->state != CONN_IDLE)
            continue; /* it was closed meanwhile */
        int before = l->idle_count;
        conn_load(l, c, now_ns);
        if (l->idle_count > before)
            return; /* nothing was due */
    }
}

static int64_t wait_ns(const load *l, int64_t now_ns, int64_t sweep_ns)
{
    int64_t until = sweep_ns;

    if (l->issuing && l->params->rate > 0 && l->idle_count)
        until = SP_MIN(until, l->due_ns);
    if (l->issuing && l->end_ns > now_ns)
        until = SP_MIN(until, l->end_ns);
    if (l->down_count)
        until = SP_MIN(until, now_ns + SP_NS_PER_MS);
    return SP_MAX(until - now_ns, 0);
}

static void run_until_done(load *l, const volatile bool *stop)
{
    struct epoll_event events[256];
    int64_t now_ns = sp_clock_now_ns(), sweep_ns = now_ns + SWEEP_NS, give_up_ns = INT64_MAX;

    while (l->issuing || l->busy_count) {
        if (*stop || now_ns >= l->end_ns) {
            /* Open loop: what was due before the end and found no connection is not sent any more once all others
             * are answered or timed out. */
            if (*stop || l->params->rate <= 0 || l->due_ns >= l->end_ns)
                l->issuing = false;
            if (give_up_ns == INT64_MAX)
                give_up_ns = now_ns + SP_MIN(l->params->timeout_ns, BACKLOG_NS);
        }
        if (l->standing_count)
            l->alive_ns = now_ns;
        /* The server is gone and stays away: a count of requests would never be reached. */
        if (now_ns >= give_up_ns || now_ns - l->alive_ns > l->params->timeout_ns)
            l->issuing = false;
        if (l->down_count)
            reopen(l, now_ns);
        feed_idle(l, now_ns);
        int64_t wait = wait_ns(l, now_ns, sweep_ns);
        struct timespec ts = { wait / SP_NS_PER_S, wait % SP_NS_PER_S };
        int n = epoll_pwait2(l->epoll_fd, events, (int)SP_ARRAY_LEN(events), &ts, NULL);
        now_ns = sp_clock_now_ns();
        for (int i = 0; i < n; i++)
            conn_event(l, &l->conns[events[i].data.u32], events[i].events, now_ns);
        if (now_ns >= sweep_ns) {
            sweep(l, now_ns);
            sweep_ns = now_ns + SWEEP_NS;
        }
    }
    for (; l->params->rate > 0 && l->due_ns < SP_MIN(l->end_ns, now_ns) && !*stop; schedule_next(l))
        l->result->errors[SP_LOAD_UNSENT]++;
    l->result->window_ns = SP_MIN(now_ns, l->end_ns) - l->window_begin_ns;
}

static sp_status resolve(load *l, sp_error *reterr)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int r = getaddrinfo(l->params->host, l->params->port, &hints, &list);

    if (r)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "%s:%s: %s", l->params->host, l->params->port, gai_strerror(r));
    /* "localhost" may mean ::1 first while the server listens on 127.0.0.1: the first that connects is taken. */
    for (struct addrinfo *at = list; at; at = at->ai_next) {
        SP_CLEANUP(sp_fd_closep) int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, at->ai_addr, at->ai_addrlen) < 0) {
            r = errno;
            continue;
        }
        memcpy(&l->address, at->ai_addr, at->ai_addrlen);
        l->address_bytes = at->ai_addrlen;
        freeaddrinfo(list);
        return SP_OK;
    }
    freeaddrinfo(list);
    errno = r;
    return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no connection to %s:%s", l->params->host, l->params->port);
}

static bool must_look(const sp_load_params *params)
{
    bool look = params->expect_text != NULL;
    for (int i = 0; i < params->shot_count; i++)
        look = look || params->shots[i].expect_label;
    return look;
}

/* Connects all before the clock starts, so that making connections is not measured. */
static void connect_all(load *l)
{
    struct epoll_event events[256];
    int64_t end_ns = sp_clock_now_ns() + 5 * SP_NS_PER_S;
    int count = l->params->concurrency;

    l->issuing = false;
    for (int i = 0; i < count; i++)
        conn_open(l, &l->conns[i]);
    while (l->idle_count < count && sp_clock_now_ns() < end_ns) {
        int n = epoll_wait(l->epoll_fd, events, (int)SP_ARRAY_LEN(events), 100);
        int64_t now_ns = sp_clock_now_ns();
        for (int i = 0; i < n; i++)
            conn_event(l, &l->conns[events[i].data.u32], events[i].events, now_ns);
        for (int i = 0; l->down_count && i < count; i++)
            if (l->conns[i].state == CONN_CLOSED && now_ns >= l->conns[i].retry_ns)
                conn_open(l, &l->conns[i]);
    }
}

static void begin_clock(load *l)
{
    const sp_load_params *p = l->params;

    l->issuing = true;
    l->start_ns = sp_clock_now_ns();
    l->window_begin_ns = l->start_ns + p->warmup_ns;
    l->end_ns = p->duration_ns ? l->window_begin_ns + p->duration_ns : INT64_MAX;
    l->due_ns = l->start_ns;
    l->alive_ns = l->start_ns;
}

static void load_done(load *l)
{
    for (int i = 0; l->conns && i < l->params->concurrency; i++) {
        if (l->conns[i].fd >= 0)
            close(l->conns[i].fd);
        free(l->conns[i].answer.kept);
    }
    free(l->conns);
    free(l->idle);
    free(l->buffer);
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
}

static sp_status load_init(load *l, const sp_load_params *params, sp_load_result *result, sp_error *reterr)
{
    size_t count = (size_t)params->concurrency;
    size_t keep_limit = must_look(params) ? SP_BENCH_KEPT_BYTES : sizeof result->samples[0].body;

    *l = (load){ .params = params, .result = result, .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
    l->random = params->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    l->conns = calloc(count, sizeof *l->conns);
    l->idle = calloc(count, sizeof *l->idle);
    l->buffer = malloc(BUFFER_BYTES);
    if (l->epoll_fd < 0 || !l->conns || !l->idle || !l->buffer)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu connections", count);
    for (size_t i = 0; i < count; i++)
        l->conns[i].fd = -1;
    l->down_count = params->concurrency;
    for (size_t i = 0; i < count; i++) {
        conn *c = &l->conns[i];
        c->answer.no_body = params->head_request;
        c->answer.keep_limit = keep_limit;
        c->answer.kept = malloc(keep_limit);
        if (!c->answer.kept)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu connections", count);
    }
    return resolve(l, reterr);
}

sp_status sp_load_run(const sp_load_params *params, const volatile bool *stop, sp_load_result *ret_result,
                      sp_error *reterr)
{
    load l;

    memset(ret_result, 0, sizeof *ret_result);
    sp_hist_init(&ret_result->latency);
    sp_hist_init(&ret_result->lateness);
    sp_status s = load_init(&l, params, ret_result, reterr);
    if (!s) {
        (void)prctl(PR_SET_TIMERSLACK, 1000UL); /* due times are kept to the microsecond, not to 50 */
        connect_all(&l);
        begin_clock(&l);
        run_until_done(&l, stop);
    }
    load_done(&l);
    return s;
}
