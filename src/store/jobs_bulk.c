/* SPDX-License-Identifier: Apache-2.0
 * The loop's side of what is large: bodies from files, parts, reports, and one job shared by several servers. */
#include "store/jobs_internal.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

sp_status jobs_read_at(int fd, uint64_t offset, void *dst, size_t size_bytes, sp_error *reterr)
{
    for (size_t done = 0; done < size_bytes;) {
        ssize_t n = pread(fd, (uint8_t *)dst + done, size_bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot read a job's file");
        if (n == 0)
            return SP_FAIL(reterr, SP_CORRUPT, "a job's file ends at byte %llu", (unsigned long long)(offset + done));
        done += (size_t)n;
    }
    return SP_OK;
}

void sp_jobs_add_file(sp_jobs *jobs, const sp_job *job, const sp_body_file *file, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_ADD, NULL, "", 0, reply, context);
    if (!op)
        return;
    op->job = *job;
    op->file = *file;
    jobs_op_submit(op);
}

void sp_jobs_body(sp_jobs *jobs, const char *id, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_BODY, NULL, id, 0, reply, context);
    if (op)
        jobs_op_submit(op);
}

void sp_jobs_part_put(sp_jobs *jobs, const char *id, uint64_t fence, sp_view bytes, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_PART_PUT, NULL, id, fence, reply, context);
    if (!op)
        return;
    op->body = bytes;
    jobs_op_submit(op);
}

void sp_jobs_parts_get(sp_jobs *jobs, const char *id, uint64_t from, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_PARTS_GET, NULL, id, 0, reply, context);
    if (!op)
        return;
    op->from = op->next = from;
    jobs_op_submit(op);
}

void sp_jobs_report_put(sp_jobs *jobs, const char *id, uint64_t fence, int fd, uint64_t size_bytes, sp_job_reply_fn *reply,
                        void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_REPORT_PUT, NULL, id, fence, reply, context);
    if (!op)
        return;
    op->file = (sp_body_file){ .fd = fd, .name = "", .size_bytes = size_bytes };
    jobs_op_submit(op);
}

void sp_jobs_report_read(sp_jobs *jobs, const char *tenant, const char *id, uint64_t offset, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_REPORT_READ, tenant, id, 0, reply, context);
    if (!op)
        return;
    op->from = offset;
    jobs_op_submit(op);
}

void sp_jobs_share(sp_jobs *jobs, const char *id, uint64_t fence, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_SHARE, NULL, id, fence, reply, context);
    if (op)
        jobs_op_submit(op);
}

void sp_jobs_shared(sp_jobs *jobs, int limit, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_SHARED, NULL, "", 0, reply, context);
    if (!op)
        return;
    op->limit = SP_CLAMP(limit, 1, SP_LIMIT_JOBS_LISTED);
    jobs_op_submit(op);
}

void sp_jobs_chunk_claim(sp_jobs *jobs, const char *id, uint32_t chunk, sp_job_reply_fn *reply, void *context)
{
    jobs_op *op = jobs_op_new(jobs, JOBS_CHUNK_CLAIM, NULL, id, 0, reply, context);
    if (!op)
        return;
    op->from = chunk;
    jobs_op_submit(op);
}
