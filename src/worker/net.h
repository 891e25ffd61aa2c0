/* SPDX-License-Identifier: Apache-2.0
 * Inside the net worker: its state and one lease in its hands. net.c is the kind, net_web.c fetches and sends,
 * net_remote.c asks remotes. */
#ifndef SP_WORKER_NET_H
#define SP_WORKER_NET_H

#include "config/config.h"
#include "provider/transport.h"
#include "worker/worker.h"

#define NET_SNAPSHOTS 4 /* requests that were opened before a reload still count in the older ones */

typedef struct net_snapshot {
    uint32_t serial; /* the gateway's; 0 = free */
    sp_config *config;
} net_snapshot;

typedef struct net {
    const sp_net_api *api;
    sp_net *transport;
    net_snapshot snapshots[NET_SNAPSHOTS]; /* newest first */
} net;

typedef struct net_job {
    net *net;
    sp_work_item *item;
    sp_net_call *call; /* NULL = none out */
    int64_t begun_ns;
    int64_t deadline_ns;
} net_job;

/* Hands the item back with what item->status says and frees the job. */
void net_job_finish(net_job *job);

/* Puts a request to the transport; fills its context, deadline, redirects of none. When it cannot, the item fails with
 * the transport's words and the job is gone. */
void net_job_ask(net_job *job, sp_http_request *request);

/* The configuration that the submission counts in. SP_UNAVAILABLE: it never came, or is too old. */
sp_status net_config(const net *self, const sp_submission *submission, const sp_config **ret_config, sp_error *reterr);

/* The ops. Each ends in net_job_finish, at once or later. */
void net_fetch(net_job *job);
void net_send(net_job *job);

#endif
