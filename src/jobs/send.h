/* SPDX-License-Identifier: Apache-2.0
 * One try to send bytes to a URL by a net worker: webhooks and outputs. Retrying is the caller's. Loop thread only. */
#ifndef SP_JOBS_SEND_H
#define SP_JOBS_SEND_H

#include "route/house.h"

typedef struct sp_send_params {
    const char *url;
    const char *headers;      /* "Name: value\n" each, or NULL */
    const char *content_type;
    const char *request_id, *tenant;
    bool put;                 /* PUT, else POST */
    bool s3;                  /* signed with the configuration's s3 keys */
    bool private_ok;          /* hosts in private address ranges may be reached */
    int64_t timeout_ns;
    sp_view body;             /* copied */
} sp_send_params;

typedef struct sp_send_result {
    bool delivered;     /* the other side answered 2xx */
    bool permanent;     /* sending it again would not change the answer */
    bool reached;       /* somebody answered, whatever it was */
    int http_status;    /* 0 = nobody answered */
    int retry_after_s;  /* 0 = not told */
    char detail[256];   /* why it was not delivered */
} sp_send_result;

typedef void sp_send_done_fn(const sp_send_result *result, void *context);

/* The caller's storage; zero-initialised = idle. */
typedef struct sp_send {
    sp_request *request;
    sp_send_done_fn *done;
    void *context;
} sp_send;

/* `done` comes exactly once, later; not at all when this fails (SP_BUSY, SP_UNAVAILABLE: no net worker, ...). */
sp_status sp_send_start(sp_send *send, sp_house *house, const sp_send_params *params, sp_send_done_fn *done, void *context,
                        sp_error *reterr);
void sp_send_cancel(sp_send *send); /* idle ones are fine; no `done` comes after */

/* A worker of kind "net" is configured, so that there is somebody to send. */
bool sp_send_possible(const sp_house *house);

#endif
