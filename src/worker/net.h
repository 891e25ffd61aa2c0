/* SPDX-License-Identifier: Apache-2.0
 * Inside the net worker: its state and one lease in its hands. net.c is the kind, net_web.c fetches and sends,
 * net_remote.c asks remotes, net_kserve.c and net_infer.c those that are KServe servers. */
#ifndef SP_WORKER_NET_H
#define SP_WORKER_NET_H

#include "config/config.h"
#include "provider/answer.h"
#include "provider/kserve.h"
#include "provider/transport.h"
#include "task/model.h"
#include "worker/worker.h"

#define NET_SNAPSHOTS 4 /* requests that were opened before a reload still count in the older ones */

typedef struct net_snapshot {
    uint32_t serial; /* the gateway's; 0 = free */
    sp_config *config;
} net_snapshot;

/* What models mean (labels, logits or probabilities), from the local repository; read when first asked for. */
#define NET_MODELS 16
typedef struct net_model {
    char name[SP_LIMIT_MODEL_NAME_BYTES]; /* "" = free */
    sp_model *model;                      /* NULL = the repository knows nothing of it */
} net_model;

/* What KServe servers said of their models. */
#define NET_KSERVE_MODELS 32
typedef struct net_kserve_model {
    char url[640]; /* of the model; "" = free */
    sp_kserve_model model;
} net_kserve_model;

typedef struct net_served net_served; /* the names of a served model's tensors; net_infer.c */

typedef struct net {
    const sp_net_api *api;
    sp_net *transport;
    net_snapshot snapshots[NET_SNAPSHOTS]; /* newest first */
    const char *repository, *default_model; /* NULL = none */
    net_model models[NET_MODELS];
    int next_model;
    net_kserve_model kserve_models[NET_KSERVE_MODELS];
    int next_kserve_model;
    net_served **served;
    int served_count, served_capacity;
} net;

typedef struct net_job {
    net *net;
    sp_work_item *item;
    sp_net_call *call; /* NULL = none out */
    int64_t begun_ns;
    int64_t deadline_ns;
    /* REMOTE: */
    sp_config *config;             /* a reference */
    const sp_remote_config *remote; /* in it */
    char key[512];                 /* secret; "" = none */
    char model[SP_LIMIT_MODEL_NAME_BYTES]; /* that is asked for; "" = the remote's default */
    sp_buf head;                   /* kserve: in front of the tensor */
    char model_url[640];           /* kserve */
    sp_kserve_model kserve_model;  /* kserve */
    /* ... of tensors: */
    const net_served *served;      /* until the question is out */
    uint8_t *tensors;              /* behind `head` */
    sp_infer_wish *wishes;
    char (*wish_names)[SP_LIMIT_KSERVE_NAME_BYTES];
    int wish_count;
    uint32_t batched;
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
void net_remote(net_job *job);

void net_load(net_job *job); /* LOAD and UNLOAD: the names of a model's tensors */
void net_infer_close(net *self);

/* Parts of REMOTE. */
void net_kserve(net_job *job);
void net_infer(net_job *job);
/* Fills in what a request to job->remote has of it: TLS, time-outs, limits, key. */
void net_remote_fill(const net_job *job, sp_http_request *request);
/* Values of the headers traceparent and tracestate that name this attempt as the parent; "" = none. */
void net_trace_headers(const net_job *job, char ret_parent[SP_TRACEPARENT_BYTES], char ret_state[SP_TRACESTATE_BYTES]);
/* All headers of a KServe question: the length of its JSON, and the trace. */
#define NET_KSERVE_HEADERS_BYTES (128 + SP_TRACEPARENT_BYTES + SP_TRACESTATE_BYTES)
void net_kserve_headers(const net_job *job, char ret_headers[NET_KSERVE_HEADERS_BYTES]);
/* The answer into the slot. */
void net_remote_put(net_job *job, const sp_provider_answer *answer);
/* What the transport could not do, said of the remote: never the caller's fault, so never the end of the chain. */
sp_status net_remote_transport_failed(const net_job *job, const sp_http_result *result, sp_error *reterr);
/* The item fails with the status that item->error has, and the job is gone. */
void net_job_fail(net_job *job, sp_status status);
/* The local description of a model; NULL = none. Until close. */
const sp_model *net_model_find(net *self, const char *name);

#endif
