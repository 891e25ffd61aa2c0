/* SPDX-License-Identifier: Apache-2.0
 * What the tests of the stores share: a loop, directories of their own, calls that wait for their answer, a real
 * redis-server on a free port. */
#ifndef SP_TESTS_STORE_SUPPORT_H
#define SP_TESTS_STORE_SUPPORT_H

#include "base/loop.h"
#include "store/jobs.h"
#include "test.h"

#include <sys/types.h>

/* The loop of the test that is running. */
extern sp_loop *loop;
void loop_begin(void);
void loop_end(void);
/* Turns until *flag, at most a minute; false = it did not come. */
bool loop_until(const bool *flag);

/* A new empty directory below $TMPDIR, else /dev/shm, else /tmp; removed with all it holds. Static storage. */
const char *dir_make(void);
void dir_remove(const char *path);

/* --- one call on jobs, awaited --- */

typedef struct answer {
    bool came;
    sp_status status;
    sp_error error;
    sp_job job; /* the first */
    int count;
    char ids[SP_LIMIT_JOBS_LISTED][SP_LIMIT_JOB_ID_BYTES];
    char *body, *result; /* copies with a NUL; NULL = none */
    size_t body_bytes;
    bool body_was_file;
    bool existed;
    uint64_t next;
    char cursor[SP_LIMIT_JOB_ID_BYTES];
} answer;
void answer_take(const sp_job_reply *reply, void *context); /* an sp_job_reply_fn; context = answer */
void answer_wait(answer *a);
void answer_done(answer *a);

sp_job job_make(const char *id);
answer *add(sp_jobs *jobs, const sp_job *job, sp_view body); /* static storage, until the next call */
answer *get(sp_jobs *jobs, const char *tenant, const char *id);
answer *list(sp_jobs *jobs, const char *tenant, int state, const char *task, const char *cursor, int limit);
answer *claim(sp_jobs *jobs);
answer *renew(sp_jobs *jobs, const char *id, uint64_t fence, int percent);
answer *finish(sp_jobs *jobs, const char *id, uint64_t fence, sp_job_state state, const char *result);
answer *release(sp_jobs *jobs, const char *id, uint64_t fence, bool counts, const char *why);
answer *delete(sp_jobs *jobs, const char *tenant, const char *id);
answer *webhooks_due(sp_jobs *jobs, int limit);
answer *webhook_done(sp_jobs *jobs, const char *id, bool delivered, int64_t next_unix_ms);
answer *sweep(sp_jobs *jobs);
answer *add_file(sp_jobs *jobs, const sp_job *job, const sp_body_file *file);
answer *body_of(sp_jobs *jobs, const char *id);
answer *part_put(sp_jobs *jobs, const char *id, uint64_t fence, sp_view bytes);
answer *parts_get(sp_jobs *jobs, const char *id, uint64_t from);
answer *report_put(sp_jobs *jobs, const char *id, uint64_t fence, int fd, uint64_t size_bytes);
answer *report_read(sp_jobs *jobs, const char *tenant, const char *id, uint64_t offset);
answer *share(sp_jobs *jobs, const char *id, uint64_t fence);
answer *shared_list(sp_jobs *jobs, int limit);
answer *chunk_claim(sp_jobs *jobs, const char *id, uint32_t chunk);

/* --- redis-server --- */

typedef struct redis {
    pid_t pid;
    int port;
    char dir[256], url[64];
    const char *appendonly, *appendfsync;
} redis;
/* False (after SKIP's reason was printed by the caller): there is no redis-server. */
bool redis_start(redis *server, const char *appendonly, const char *appendfsync);
void redis_kill(redis *server);    /* SIGKILL; its files stay */
void redis_restart(redis *server); /* the same port and files */
void redis_stop(redis *server);    /* for good */

#endif
