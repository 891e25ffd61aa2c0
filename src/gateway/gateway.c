/* SPDX-License-Identifier: Apache-2.0
 * Start, signals, drain, end. */
#include "gateway/gateway.h"

#include "gateway/jobs.h"
#include "gateway/kserve.h"
#include "gateway/auth.h"
#include "gateway/flight.h"
#include "gateway/grpc.h"
#include "gateway/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define DRAIN_DELAY_CONTAINER_MS 5000
/* Past the longest deadline of an open request, before a drain gives up. */
#define HARD_STOP_EXTRA_MS 5000

sp_gateway_config sp_gateway_config_default(void)
{
    return (sp_gateway_config){
        .bind_address = "127.0.0.1",
        .http_port = 8000,
        .metrics_port = 8002,
        .grpc_port = -1,
        .workers = "codec0,cpu0",
        .drain_delay_ms = SP_DRAIN_DELAY_AUTO,
        .log_level = SP_LOG_INFO,
    };
}

static void announce(const gw_server *server)
{
    const sp_gateway_config *config = server->config;
    const char *open = strchr(server->address_text, ':') ? "[" : "", *shut = *open ? "]" : "";
    const sp_gateway_ports ports = {
        .address = server->address_text,
        .http_port = server->listeners[GW_LISTEN_HTTP].port,
        .grpc_port = gw_grpc_port(server),
        .metrics_port = server->listeners[GW_LISTEN_METRICS].port,
        .admin_port = server->listeners[GW_LISTEN_ADMIN].port,
    };
    if (!config->quiet) {
        (void)printf("Spillway is serving on http://%s%s%s:%d/", open, ports.address, shut, ports.http_port);
        if (ports.metrics_port)
            (void)printf("  (metrics on http://%s%s%s:%d/metrics)", open, ports.address, shut, ports.metrics_port);
        (void)printf("\nTry it:  curl -F image=@cat.jpg http://%s%s%s:%d/infer\n", open, ports.address, shut,
                     ports.http_port);
        (void)fflush(stdout);
    }
    if (config->bound)
        config->bound(&ports, config->bound_context);
}

/* Ends the drain when nobody is left to answer; until then looks again every few milliseconds. */
static void drain_check(sp_timer *timer, void *context)
{
    gw_server *server = context;
    int64_t now = sp_loop_now_ns(server->loop);
    if (!server->listeners_closed) {
        gw_listen_drain(server);
        gw_grpc_stop(server);
        server->listeners_closed = true;
        server->listeners_closed_ns = now;
        sp_log(SP_LOG_INFO, "listeners closed", SP_LOG_INT("connections", server->conn_count));
        int64_t last_ns = SP_MAX(server->longest_deadline_ns, now) + HARD_STOP_EXTRA_MS * SP_NS_PER_MS;
        if (sp_loop_timer_set(server->loop, &server->hard_stop, last_ns, NULL))
            sp_loop_stop(server->loop); /* no memory for a timer: then better now than never */
    } else if (gw_http_busy_count(server) == 0 && gw_jobs_busy(server) == 0 && gw_grpc_busy(server) == 0) {
        gw_stories_flush(server);
        if (!gw_stories_busy(server)) {
            sp_loop_stop(server->loop);
            return;
        }
    }
    if (sp_loop_timer_set(server->loop, timer, now + 10 * SP_NS_PER_MS, NULL))
        sp_loop_stop(server->loop);
}

static void hard_stop_fire(sp_timer *timer, void *context)
{
    (void)timer;
    gw_server *server = context;
    sp_log(SP_LOG_WARN, "drain took too long, stopping",
           SP_LOG_INT("requests_open", sp_house_open_count(server->house)));
    sp_loop_stop(server->loop);
}

static int drain_delay_ms(const sp_gateway_config *config)
{
    if (config->drain_delay_ms >= 0)
        return config->drain_delay_ms;
    return isatty(STDERR_FILENO) ? 0 : DRAIN_DELAY_CONTAINER_MS;
}

static void signal_ready(sp_watch *watch, uint32_t epoll_events, void *context)
{
    (void)epoll_events;
    gw_server *server = context;
    struct signalfd_siginfo info;
    while (read(watch->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            gw_reload_begin(server);
            continue;
        }
        if (server->drain_signals++) {
            sp_log(SP_LOG_WARN, "second signal, stopping at once", SP_LOG_INT("signal", info.ssi_signo));
            sp_loop_stop(server->loop);
            return;
        }
        int delay_ms = drain_delay_ms(server->config);
        sp_log(SP_LOG_INFO, "draining", SP_LOG_INT("signal", info.ssi_signo), SP_LOG_INT("delay_ms", delay_ms),
               SP_LOG_INT("requests_open", sp_house_open_count(server->house)));
        server->draining = true;
        gw_jobs_drain(server);
        if (sp_loop_timer_set(server->loop, &server->drain_timer,
                              sp_loop_now_ns(server->loop) + delay_ms * SP_NS_PER_MS, NULL))
            sp_loop_stop(server->loop);
    }
}

static sp_status signals_open(gw_server *server, sp_error *reterr)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot set signals up");
    server->signal_watch =
        (sp_watch){ .fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), .ready = signal_ready, .context = server };
    if (server->signal_watch.fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "signalfd");
    return sp_loop_watch(server->loop, &server->signal_watch, EPOLLIN, reterr);
}

/* The usual soft limit of 1,024 descriptors is less than our own limits need. Where the hard one forbids more, accept
 * fails when they run out, and waits. */
static void descriptors_raise(void)
{
    struct rlimit limit;
    const rlim_t wanted = 2 * SP_LIMIT_CONNECTIONS + 4 * SP_LIMIT_SLOTS;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = SP_MIN(limit.rlim_max, wanted);
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* Listens before the workers are ready: a request that arrives meanwhile waits in its chain's queue. */
static sp_status start(gw_server *server, sp_error *reterr)
{
    const sp_gateway_config *config = server->config;
    sp_status s = SP_OK;
    if (config->config)
        server->snapshot = sp_config_ref(config->config);
    else
        s = sp_config_new_default(&server->snapshot, reterr);
    if (!s)
        s = sp_loop_new(&server->loop, reterr);
    if (!s)
        s = sp_events_open(server->loop, reterr);
    if (!s)
        s = gw_reload_open(server, reterr);
    if (!s)
        s = signals_open(server, reterr);
    if (!s)
        s = gw_listen_open(server, GW_LISTEN_HTTP, config->http_port, reterr);
    if (!s && config->metrics_port >= 0)
        s = gw_listen_open(server, GW_LISTEN_METRICS, config->metrics_port, reterr);
    if (!s && server->snapshot->admin_port >= 0)
        s = gw_listen_open(server, GW_LISTEN_ADMIN, server->snapshot->admin_port, reterr);
    if (s)
        return s;
    const sp_house_config house = {
        .executable = config->executable ? config->executable : "/proc/self/exe",
        .workers = config->workers,
        .model_repository = config->model_repository,
        .model = config->model,
        .model_memory_bytes = server->snapshot->model_memory_bytes,
        .require_sandbox = config->require_sandbox,
        .refuse_cpu_nodes = server->snapshot->refuse_cpu_nodes,
        .nvjpeg = server->snapshot->nvjpeg,
        .data_dir = server->snapshot->data_dir,
        .spin_us = config->spin_us,
        .link_timeout_ns = config->link_timeout_ms * SP_NS_PER_MS,
        .config = server->snapshot,
    };
    s = sp_house_new(&house, server->loop, &server->house, reterr);
    if (!s)
        s = gw_flights_open(server, reterr);
    if (!s)
        s = gw_kserve_open(server, reterr);
    if (!s)
        s = gw_jobs_open(server, reterr);
    if (!s)
        s = gw_stories_open(server, reterr);
    /* After the house, whose hooks then run first: an answer found in a turn is sent in the same turn. */
    if (!s)
        s = gw_grpc_open(server, reterr);
    return s ? s : gw_http_start(server, reterr);
}

static void end(gw_server *server)
{
    if (!server->loop)
        return;
    gw_listen_close(server);
    gw_http_stop(server);
    gw_grpc_close(server);
    gw_kserve_close(server);
    gw_flights_close(server);
    gw_auth_free(server);
    gw_jobs_close(server);
    gw_stories_close(server);
    if (server->house)
        sp_house_free(server->house, GW_WORKER_GRACE_MS);
    gw_reload_close(server);
    sp_loop_unwatch(server->loop, &server->signal_watch);
    sp_fd_closep(&server->signal_watch.fd);
    sp_loop_timer_clear(server->loop, &server->drain_timer);
    sp_loop_timer_clear(server->loop, &server->hard_stop);
    sp_events_close();
    sp_loop_free(server->loop);
}

static void server_init(gw_server *server, const sp_gateway_config *config)
{
    server->config = config;
    server->started_ns = sp_clock_now_ns();
    server->signal_watch.fd = -1;
    for (int i = 0; i < GW_LISTEN_COUNT; i++)
        server->listeners[i] = (gw_listener){ .server = server, .kind = (gw_listener_kind)i, .watch.fd = -1 };
    server->drain_timer = (sp_timer){ .fire = drain_check, .context = server };
    server->hard_stop = (sp_timer){ .fire = hard_stop_fire, .context = server };
    if (getrandom(server->id_state, sizeof(server->id_state), 0) != (ssize_t)sizeof(server->id_state))
        server->id_state[0] =
            (uint64_t)sp_clock_wall_ns(); /* cannot happen after boot; ids stay unique in this process */
    server->id_state[1] |= 1;
    server->boot_id = (uint32_t)(server->id_state[0] >> 16);
    server->connections = sp_metric_get(SP_METRIC_GAUGE, "spillway_http_connections", "", "Open HTTP connections");
    server->refused =
        sp_metric_get(SP_METRIC_COUNTER, "spillway_http_connections_refused_total", "", "Connections over a limit");
    server->hangups = sp_metric_get(SP_METRIC_COUNTER, "spillway_http_hangups_total", "",
                                    "Clients that went away before their answer; their requests were cancelled");
    server->received_bytes =
        sp_metric_get(SP_METRIC_COUNTER, "spillway_http_body_bytes_total", "", "Body bytes received");
}

sp_status sp_gateway_run(const sp_gateway_config *config, sp_error *reterr)
{
    gw_server *server = calloc(1, sizeof(*server));
    if (!server)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the gateway");
    sp_log_open("gateway", config->log_level);
    server_init(server, config);
    descriptors_raise();
    sp_status s = start(server, reterr);
    if (!s) {
        announce(server);
        sp_log(SP_LOG_INFO, "serving", SP_LOG_TEXT("address", server->address_text),
               SP_LOG_INT("http_port", server->listeners[GW_LISTEN_HTTP].port),
               SP_LOG_INT("grpc_port", gw_grpc_port(server)),
               SP_LOG_INT("metrics_port", server->listeners[GW_LISTEN_METRICS].port),
               SP_LOG_TEXT("workers", config->workers));
        s = sp_loop_run(server->loop, reterr);
        if (!s && server->end_error.status) {
            s = server->end_error.status;
            if (reterr)
                *reterr = server->end_error;
        }
    }
    end(server);
    sp_config_unref(server->snapshot);
    if (!s)
        sp_log(SP_LOG_INFO, "stopped");
    free(server);
    return s;
}
