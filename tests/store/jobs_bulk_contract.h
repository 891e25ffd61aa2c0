/* SPDX-License-Identifier: Apache-2.0
 * What both stores of jobs promise of large bodies, parts and reports, as tests. Included behind jobs_contract.h. */
#ifndef SP_TESTS_STORE_JOBS_BULK_CONTRACT_H
#define SP_TESTS_STORE_JOBS_BULK_CONTRACT_H

#include "jobs_contract.h"

#include "base/limits.h"
#include "store/upload.h"

#include <sys/mman.h>
#include <unistd.h>

static const char *store_dir(void); /* the data directory */

#define BULK_BYTES (5u * 1024 * 1024 + 12345) /* two steps, and a last piece that is not whole */

static uint8_t *bulk_bytes(void)
{
    uint8_t *bytes = malloc(BULK_BYTES);
    REQUIRE(bytes != NULL);
    for (size_t i = 0; i < BULK_BYTES; i++)
        bytes[i] = (uint8_t)(i * 31 + (i >> 12));
    return bytes;
}

typedef struct upload_state {
    bool has_room, done;
    sp_status status;
    sp_error error;
} upload_state;

static void upload_room(void *context)
{
    ((upload_state *)context)->has_room = true;
}

static void upload_done(sp_status status, const sp_error *err, void *context)
{
    upload_state *state = context;
    state->status = status;
    if (err)
        state->error = *err;
    state->done = true;
}

/* Brings all bytes as a connection does: pieces, and a pause when it is told to. */
static sp_upload *bring(sp_uploads *uploads, upload_state *state, const uint8_t *bytes, size_t size_bytes)
{
    sp_upload *upload = NULL;
    bool full = false;
    *state = (upload_state){ 0 };
    REQUIRE(!sp_upload_new(uploads, size_bytes, upload_room, state, &upload, NULL));
    for (size_t at = 0; at < size_bytes && !state->status;) {
        size_t n = SP_MIN(size_bytes - at, (size_t)32000);
        state->status = sp_upload_append(upload, bytes + at, n, &full, &state->error);
        at += n;
        if (!state->status && full) {
            REQUIRE(loop_until(&state->has_room));
            state->has_room = false;
        }
    }
    if (!state->status) {
        sp_upload_finish(upload, upload_done, state);
        REQUIRE(loop_until(&state->done));
    }
    return upload;
}

static void add_upload(const char *id, sp_uploads *uploads, const uint8_t *bytes)
{
    upload_state state;
    uint8_t sha256[32];
    sp_upload *upload = bring(uploads, &state, bytes, BULK_BYTES);
    CHECK_INT(state.status, SP_OK);
    sp_body_file file = sp_upload_file(upload, sha256);
    CHECK_INT(file.size_bytes, BULK_BYTES);
    sp_job job = job_make(id);
    memcpy(job.request_sha256, sha256, sizeof(sha256));
    CHECK_INT(add_file(jobs, &job, &file)->status, SP_OK);
    sp_upload_free(upload);
}

TEST(an_upload_becomes_a_body)
{
    store_begin();
    sp_uploads *uploads = NULL;
    uint8_t *bytes = bulk_bytes();
    REQUIRE(!sp_uploads_open(loop, store_dir(), !sp_jobs_several(jobs), &uploads, NULL));
    add_upload("j1", uploads, bytes);
    CHECK_INT(sp_uploads_bytes(uploads) <= BULK_BYTES, 1);
    answer *a = body_of(jobs, "j1");
    CHECK_INT(a->status, SP_OK);
    CHECK(a->body_was_file);
    CHECK_INT(a->body_bytes, BULK_BYTES);
    a = claim(jobs);
    REQUIRE(a->status == SP_OK && a->count == 1);
    CHECK(a->body_was_file);
    REQUIRE(a->body_bytes == BULK_BYTES);
    CHECK_BYTES(a->body, bytes, BULK_BYTES);
    uint64_t fence = a->job.fence;
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{}")->status, SP_OK);
    CHECK_INT(body_of(jobs, "j1")->body_bytes, 0); /* gone with its end */
    sp_uploads_close(uploads);
    free(bytes);
    store_end();
}

#ifdef SP_FAULTS
TEST(a_full_disk_is_told_and_leaves_nothing)
{
    store_begin();
    sp_uploads *uploads = NULL;
    uint8_t *bytes = bulk_bytes();
    upload_state state;
    REQUIRE(!sp_uploads_open(loop, store_dir(), !sp_jobs_several(jobs), &uploads, NULL));
    REQUIRE(sp_fault_arm("store.write:fail@n=3", NULL) == SP_OK);
    sp_upload *upload = bring(uploads, &state, bytes, BULK_BYTES);
    REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
    CHECK_INT(state.status, SP_UNAVAILABLE);
    CHECK_TEXT(state.error.code, "disk_full");
    sp_upload_free(upload);
    sp_uploads_close(uploads);
    CHECK_INT(claim(jobs)->count, 0);
    free(bytes);
    store_end();
}
#endif

TEST(uploads_are_bounded_together)
{
    store_begin();
    sp_uploads *uploads = NULL;
    sp_upload *all[5] = { NULL };
    sp_error err = { 0 };
    REQUIRE(!sp_uploads_open(loop, store_dir(), !sp_jobs_several(jobs), &uploads, NULL));
    for (int i = 0; i < 4; i++)
        CHECK_INT(sp_upload_new(uploads, SP_LIMIT_VIDEO_BODY_BYTES, upload_room, NULL, &all[i], NULL), SP_OK);
    CHECK_INT(sp_upload_new(uploads, 1, upload_room, NULL, &all[4], &err), SP_BUSY);
    CHECK_TEXT(err.code, "uploads");
    for (int i = 0; i < 4; i++)
        sp_upload_free(all[i]);
    sp_uploads_close(uploads);
    store_end();
}

TEST(parts_stay_until_the_end)
{
    store_begin();
    sp_job job = job_make("j1"), other = job_make("j2");
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(add(jobs, &other, sp_view_of("y"))->status, SP_OK);
    CHECK_INT(part_put(jobs, "j1", 1, sp_view_of("early"))->status, SP_CONFLICT);
    answer *a = claim(jobs);
    REQUIRE(a->count == 1);
    char id[8];
    (void)snprintf(id, sizeof(id), "%.7s", a->job.id);
    uint64_t fence = a->job.fence;
    CHECK_INT(parts_get(jobs, id, 0)->body_bytes, 0);
    CHECK_INT(part_put(jobs, id, fence, sp_view_of("one"))->status, SP_OK);
    CHECK_INT(part_put(jobs, id, fence + 7, sp_view_of("stranger"))->status, SP_CONFLICT);
    CHECK_INT(part_put(jobs, id, fence, sp_view_make("t\0o", 3))->status, SP_OK);
    a = parts_get(jobs, id, 0);
    REQUIRE(a->body_bytes == 6);
    CHECK_BYTES(a->body, "onet\0o", 6);
    CHECK_INT(a->next, 2);
    CHECK_INT(part_put(jobs, id, fence, big_body())->status, SP_OK);
    a = parts_get(jobs, id, 2);
    CHECK_INT(a->body_bytes, big_body().size_bytes);
    CHECK_INT(a->next, 3);
    /* The next claim finds them. */
    CHECK_INT(release(jobs, id, fence, false, "again")->status, SP_OK);
    CHECK_INT(part_put(jobs, id, fence, sp_view_of("late"))->status, SP_CONFLICT);
    a = claim(jobs);
    if (a->count && strcmp(a->job.id, id) != 0)
        a = claim(jobs);
    REQUIRE(a->count == 1);
    fence = a->job.fence;
    CHECK_INT(parts_get(jobs, id, 0)->next, 3);
    CHECK_INT(finish(jobs, id, fence, SP_JOB_DONE, "{}")->status, SP_OK);
    CHECK_INT(parts_get(jobs, id, 0)->next, 0);
    store_end();
}

static int report_make(const uint8_t *bytes, size_t size_bytes)
{
    int fd = memfd_create("report", MFD_CLOEXEC);
    REQUIRE(fd >= 0 && write(fd, bytes, size_bytes) == (ssize_t)size_bytes);
    return fd;
}

/* Read as it is served, from an odd place on. */
static void check_report(const char *id, const uint8_t *bytes, uint64_t from)
{
    while (from < BULK_BYTES) {
        answer *a = report_read(jobs, "acme", id, from);
        REQUIRE(a->status == SP_OK && a->body_bytes > 0 && a->body_bytes <= SP_JOBS_PIECE_BYTES);
        CHECK_BYTES(a->body, bytes + from, a->body_bytes);
        from += a->body_bytes;
    }
    CHECK_INT(from, BULK_BYTES);
    CHECK_INT(report_read(jobs, "acme", id, BULK_BYTES)->body_bytes, 0);
}

TEST(a_report_stays_until_the_job_is_erased)
{
    store_begin();
    sp_job job = job_make("j1");
    uint8_t *bytes = bulk_bytes();
    int fd = report_make(bytes, BULK_BYTES), small = report_make(bytes, 100);
    CHECK_INT(add(jobs, &job, sp_view_of("x"))->status, SP_OK);
    CHECK_INT(report_put(jobs, "j1", 1, fd, BULK_BYTES)->status, SP_CONFLICT);
    uint64_t fence = claim(jobs)->job.fence;
    CHECK_INT(report_read(jobs, "acme", "j1", 0)->status, SP_NOT_FOUND);
    CHECK_INT(report_put(jobs, "j1", fence, small, 100)->status, SP_OK);
    CHECK_INT(report_put(jobs, "j1", fence, fd, BULK_BYTES)->status, SP_OK);
    CHECK_INT(report_put(jobs, "j1", fence + 1, small, 100)->status, SP_CONFLICT);
    CHECK_INT(finish(jobs, "j1", fence, SP_JOB_DONE, "{}")->status, SP_OK);
    check_report("j1", bytes, 0);
    check_report("j1", bytes, 300001);
    CHECK_INT(report_read(jobs, "other", "j1", 0)->status, SP_NOT_FOUND);
    store_reopen();
    check_report("j1", bytes, 4000000);
    CHECK_INT(delete(jobs, "acme", "j1")->status, SP_OK);
    CHECK_INT(report_read(jobs, NULL, "j1", 0)->status, SP_NOT_FOUND);
    (void)close(fd);
    (void)close(small);
    free(bytes);
    store_end();
}

#endif
