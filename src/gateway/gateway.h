/* SPDX-License-Identifier: Apache-2.0
 * The gateway: one event loop that speaks HTTP/1.1 to clients and hands their requests to the house (route/house.h).
 * It holds no decoder, no model and no engine, so it is up in milliseconds and nothing that a file or a model does can
 * take it down. This is the whole of what the command line calls. */
#ifndef SP_GATEWAY_GATEWAY_H
#define SP_GATEWAY_GATEWAY_H

#include "base/log.h"
#include "base/status.h"
#include "config/config.h"

/* Drain delay that fits the place: 0 when stderr is a terminal (a person pressed Ctrl-C), 5 s when it is not (a
 * container's orchestrator needs that long to take us out of its list). */
#define SP_DRAIN_DELAY_AUTO (-1)
#define SP_GRPC_PORT_DEFAULT 8001 /* Triton's */

/* Where the gateway listens, once it does. */
typedef struct sp_gateway_ports {
    const char *address; /* as bound: "127.0.0.1" or "::1" */
    int http_port;
    int grpc_port;    /* 0 = none */
    int metrics_port; /* 0 = off */
    int admin_port;   /* 0 = admin routes are on http_port */
} sp_gateway_ports;

typedef struct sp_gateway_config {
    const char *bind_address;     /* "127.0.0.1" (also "localhost"), "::1"; others only with tokens in `config` */
    int http_port;                /* 0 = any free one */
    int metrics_port;             /* 0 = any free one; -1 = none */
    int grpc_port;                /* likewise. SP_GRPC_PORT_DEFAULT: none when it is taken; others: then nothing starts */
    const char *executable;       /* what workers are spawned from; NULL = /proc/self/exe */
    const char *workers;          /* "codec0,cpu0" */
    const char *model_repository; /* NULL = none */
    const char *model;            /* NULL = the repository's only or first */
    bool require_sandbox;
    int spin_us;
    int link_timeout_ms; /* longest attempt on one link while another may still answer; 0 = the deadline */
    int drain_delay_ms;  /* SP_DRAIN_DELAY_AUTO or >= 0 */
    sp_log_level log_level;
    bool allow_chaos; /* /healthz tells `spillway chaos` that it may make faults here */
    bool quiet; /* no URL and curl line on stdout */
    /* Chains, tokens, stores, ...: the first snapshot, of which the gateway takes a reference; NULL = built-in defaults. */
    sp_config *config;
    /* What SIGHUP reads anew: the file (NULL = SIGHUP changes nothing) and what stands above it. Borrowed. */
    const char *config_path;
    const sp_config_override *overrides;
    int override_count;
    /* Called once when both ports are bound, before the first request; NULL = nobody. */
    void (*bound)(const sp_gateway_ports *ports, void *context);
    void *bound_context;
} sp_gateway_config;

/* 127.0.0.1, ports 8000 and 8002, no gRPC, workers "codec0,cpu0", no repository, drain delay auto, log level info. */
sp_gateway_config sp_gateway_config_default(void);

/* Serves until SIGTERM or SIGINT has drained it: /readyz turns 503, the drain delay passes, the backlog is accepted,
 * the listeners close, every accepted request is answered, the workers end. A second signal stops at once.
 * SP_OK after a drain. SP_INVALID: an address off loopback without tokens, a port or a worker list that cannot be.
 * SP_UNAVAILABLE: a port is taken. Strings are borrowed until it returns. SIGHUP reads the configuration again.
 * Blocks SIGTERM, SIGINT and SIGHUP and ignores SIGPIPE in the calling thread, which becomes the loop's. Call it once, before
 * other threads start. */
sp_status sp_gateway_run(const sp_gateway_config *config, sp_error *reterr);

/* What `doctor` tells of gRPC: the library's version, or why there is none (SP_UNSUPPORTED). Loads the plug-in. */
sp_status sp_gateway_grpc_version(const char **ret_version, sp_error *reterr);

#endif
