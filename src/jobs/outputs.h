/* SPDX-License-Identifier: Apache-2.0
 * Where a job's result goes besides the job itself: `output` of a submission, {"put_urls": ["https://...", ...]} or
 * {"s3": {"bucket": "...", "key": "..."}}. Pure. */
#ifndef SP_JOBS_OUTPUTS_H
#define SP_JOBS_OUTPUTS_H

#include "base/buf.h"
#include "config/config.h"

/* Each takes a copy of the whole result. SP_INVALID beyond. */
#define SP_LIMIT_JOB_OUTPUTS 8

typedef struct sp_output {
    char url[2048];   /* where to PUT */
    size_t shown_bytes; /* of url, without the query: a presigned URL's query is a secret */
    bool s3;          /* signed with the configuration's keys */
} sp_output;

typedef struct sp_outputs {
    int count;
    sp_output items[SP_LIMIT_JOB_OUTPUTS];
} sp_outputs;

/* SP_INVALID: says what is wrong with `json` (a job's `output`). SP_UNSUPPORTED: s3 without an endpoint configured. */
sp_status sp_outputs_parse(const char *json, const sp_s3_config *s3, sp_outputs *ret_outputs, sp_error *reterr);

/* {"output":[{"url":"...","bytes":123}], ...}: the result of a job whose answer of `size_bytes` lies there. */
void sp_outputs_write(sp_buf *out, const sp_outputs *outputs, size_t size_bytes);

/* http:// or https:// with a host, no blanks or control characters, no user:password@. `what` names it in the message. */
sp_status sp_url_check(const char *url, size_t limit_bytes, const char *what, sp_error *reterr);
/* "host:port" of a checked URL, lower case. */
void sp_url_host(const char *url, char *ret_host, size_t size_bytes);

#endif
