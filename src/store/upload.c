/* SPDX-License-Identifier: Apache-2.0
 * One upload has two buffers: one is filled by the loop while the other is written by the thread. */
#include "store/upload.h"

#include "base/fault.h"
#include "base/limits.h"
#include "store/directory.h"
#include "store/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Written pages are pushed towards the disk as they come, so that the fsync at the end has little left to wait for. */
#define PUSH_BYTES (32u * 1024 * 1024)

struct sp_uploads {
    sp_loop *loop;
    sp_store_thread *thread;
    char data_dir[512];
    bool named;
    bool closed; /* the thread is gone; what is freed later goes at once, the last one takes this struct along */
    int count;
    uint64_t bytes;
};

struct sp_upload {
    sp_store_work work; /* first */
    sp_uploads *uploads;
    void (*room)(void *context);
    void *room_context;
    sp_upload_done_fn *done;
    void *done_context;
    /* The loop's: */
    uint8_t *filling;
    size_t filled_bytes;
    uint64_t bytes, counted; /* brought; counted in uploads->bytes */
    bool writing, full, ending, freed;
    sp_status status;
    sp_error error;
    /* The thread's while `writing`: */
    uint8_t *out;
    size_t out_bytes;
    bool last;
    int fd;
    char name[64];
    uint64_t written, pushed;
    EVP_MD_CTX *digest;
    uint8_t sha256[32];
};

/* --- the thread's side ------------------------------------------------------------------------------------------- */

static sp_status fail(int e, sp_error *reterr)
{
    bool is_full = e == ENOSPC || e == EDQUOT;
    return sp_error_set(reterr, SP_UNAVAILABLE, is_full ? "disk_full" : "", "write", e, __FILE__, __LINE__,
                        "cannot write the upload to disk: %s%s", strerror(e),
                        is_full ? "; free some space under the data directory" : "");
}

static int write_all(int fd, const uint8_t *data, size_t size_bytes)
{
    if (SP_FAULT("store.write") != SP_FAULT_NONE)
        return ENOSPC;
    while (size_bytes) {
        ssize_t n = write(fd, data, size_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        data += n;
        size_bytes -= (size_t)n;
    }
    return 0;
}

static sp_status end_file(sp_upload *upload, sp_error *reterr)
{
    int e = SP_FAULT("store.write") != SP_FAULT_NONE ? ENOSPC : fsync(upload->fd) == 0 ? 0 : errno;
    if (e)
        return fail(e, reterr);
    if (!EVP_DigestFinal_ex(upload->digest, upload->sha256, NULL))
        return SP_FAIL_FROM(reterr, SP_NOMEM, "libcrypto", 0, "cannot hash the upload");
    return SP_OK;
}

static void write_run(sp_store_work *work)
{
    sp_upload *upload = (sp_upload *)(void *)work;
    sp_uploads *uploads = upload->uploads;
    sp_status s = SP_OK;
    if (upload->fd < 0)
        s = sp_store_directory_file(uploads->data_dir, uploads->named ? upload->name : NULL, &upload->fd, &work->error);
    int e = s ? 0 : write_all(upload->fd, upload->out, upload->out_bytes);
    if (e)
        s = fail(e, &work->error);
    if (!s && !EVP_DigestUpdate(upload->digest, upload->out, upload->out_bytes))
        s = SP_FAIL_FROM(&work->error, SP_NOMEM, "libcrypto", 0, "cannot hash the upload");
    upload->written += upload->out_bytes;
    if (!s && upload->written - upload->pushed >= PUSH_BYTES) {
        (void)sync_file_range(upload->fd, (off_t)upload->pushed, (off_t)(upload->written - upload->pushed), SYNC_FILE_RANGE_WRITE);
        upload->pushed = upload->written;
    }
    if (!s && upload->last)
        s = end_file(upload, &work->error);
    work->status = s;
}

/* The file and its name go here, because closing a large file that nobody has takes its time. */
static void close_run(sp_store_work *work)
{
    sp_upload *upload = (sp_upload *)(void *)work;
    char path[1024];
    if (upload->name[0]) {
        (void)snprintf(path, sizeof(path), "%.900s/bodies/%s", upload->uploads->data_dir, upload->name);
        (void)unlink(path); /* mostly it has become a body and is no longer there */
    }
    sp_fd_closep(&upload->fd);
}

/* --- the loop's side --------------------------------------------------------------------------------------------- */

static void destroy(sp_upload *upload)
{
    sp_uploads *uploads = upload->uploads;
    uploads->bytes -= upload->counted;
    uploads->count--;
    EVP_MD_CTX_free(upload->digest);
    free(upload->filling);
    free(upload->out);
    free(upload);
    if (uploads->closed && !uploads->count)
        free(uploads);
}

static void close_done(sp_store_work *work)
{
    if (work->status == SP_BUSY || work->status == SP_UNAVAILABLE)
        close_run(work); /* the thread did not take it */
    destroy((sp_upload *)(void *)work);
}

static void close_begin(sp_upload *upload)
{
    if (upload->uploads->closed) {
        close_run(&upload->work);
        destroy(upload);
        return;
    }
    upload->work.run = close_run;
    upload->work.done = close_done;
    sp_store_submit_or_refuse(upload->uploads->thread, &upload->work);
}

static void write_begin(sp_upload *upload);

static void write_done(sp_store_work *work)
{
    sp_upload *upload = (sp_upload *)(void *)work;
    upload->writing = false;
    if (work->status && !upload->status) {
        upload->status = work->status;
        upload->error = work->error;
    }
    if (upload->freed) {
        close_begin(upload);
        return;
    }
    bool was_last = upload->last;
    if (!was_last && !upload->status && upload->ending)
        write_begin(upload);
    else if (upload->ending)
        upload->done(upload->status, &upload->error, upload->done_context);
    else if (upload->full) {
        upload->full = false;
        if (!upload->status)
            write_begin(upload);
        upload->room(upload->room_context);
    }
}

/* What was filled goes to the thread. */
static void write_begin(sp_upload *upload)
{
    uint8_t *empty = upload->out;
    upload->out = upload->filling;
    upload->out_bytes = upload->filled_bytes;
    upload->filling = empty;
    upload->filled_bytes = 0;
    upload->last = upload->ending;
    upload->writing = true;
    upload->work.run = write_run;
    upload->work.done = write_done;
    sp_store_submit_or_refuse(upload->uploads->thread, &upload->work);
}

sp_status sp_upload_new(sp_uploads *uploads, uint64_t size_bytes, void (*room)(void *context), void *context,
                        sp_upload **ret_upload, sp_error *reterr)
{
    if (uploads->count >= SP_LIMIT_UPLOADS || uploads->bytes + size_bytes > SP_LIMIT_UPLOADS_BYTES)
        return SP_FAIL_CODE(reterr, SP_BUSY, "uploads", "%d uploads of %llu MiB are on their way already", uploads->count,
                            (unsigned long long)(uploads->bytes >> 20));
    sp_upload *upload = calloc(1, sizeof(*upload));
    if (upload) {
        upload->filling = malloc(SP_UPLOAD_BUFFER_BYTES);
        upload->out = malloc(SP_UPLOAD_BUFFER_BYTES);
        upload->digest = EVP_MD_CTX_new();
    }
    if (!upload || !upload->filling || !upload->out || !upload->digest ||
        !EVP_DigestInit_ex(upload->digest, EVP_sha256(), NULL)) {
        if (upload) {
            EVP_MD_CTX_free(upload->digest);
            free(upload->filling);
            free(upload->out);
        }
        free(upload);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an upload");
    }
    upload->uploads = uploads;
    upload->room = room;
    upload->room_context = context;
    upload->fd = -1;
    upload->counted = size_bytes;
    uploads->bytes += size_bytes;
    uploads->count++;
    *ret_upload = upload;
    return SP_OK;
}

static sp_status count(sp_upload *upload, size_t size_bytes, sp_error *reterr)
{
    sp_uploads *uploads = upload->uploads;
    upload->bytes += size_bytes;
    if (upload->bytes > SP_LIMIT_VIDEO_BODY_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the video is larger than %llu bytes",
                            (unsigned long long)SP_LIMIT_VIDEO_BODY_BYTES);
    if (upload->bytes <= upload->counted)
        return SP_OK;
    uint64_t more = upload->bytes - upload->counted;
    if (uploads->bytes + more > SP_LIMIT_UPLOADS_BYTES)
        return SP_FAIL_CODE(reterr, SP_BUSY, "uploads", "uploads of %llu MiB are on their way already",
                            (unsigned long long)(uploads->bytes >> 20));
    uploads->bytes += more;
    upload->counted += more;
    return SP_OK;
}

sp_status sp_upload_append(sp_upload *upload, const void *data, size_t size_bytes, bool *ret_full, sp_error *reterr)
{
    *ret_full = false;
    sp_status s = upload->status;
    if (s) {
        if (reterr)
            *reterr = upload->error;
        return s;
    }
    SP_ASSERT(size_bytes <= SP_UPLOAD_BUFFER_BYTES - upload->filled_bytes);
    s = count(upload, size_bytes, reterr);
    if (s)
        return s;
    memcpy(upload->filling + upload->filled_bytes, data, size_bytes);
    upload->filled_bytes += size_bytes;
    if (upload->filled_bytes <= SP_UPLOAD_BUFFER_BYTES - SP_UPLOAD_PIECE_BYTES)
        return SP_OK;
    if (upload->writing)
        *ret_full = upload->full = true;
    else
        write_begin(upload);
    return SP_OK;
}

uint64_t sp_upload_bytes(const sp_upload *upload)
{
    return upload->bytes;
}

void sp_upload_finish(sp_upload *upload, sp_upload_done_fn *done, void *context)
{
    upload->done = done;
    upload->done_context = context;
    upload->ending = true;
    if (!upload->writing)
        write_begin(upload);
}

sp_body_file sp_upload_file(const sp_upload *upload, uint8_t ret_sha256[32])
{
    memcpy(ret_sha256, upload->sha256, sizeof(upload->sha256));
    return (sp_body_file){ .fd = upload->fd, .name = upload->name, .size_bytes = upload->bytes };
}

void sp_upload_free(sp_upload *upload)
{
    if (!upload)
        return;
    upload->freed = true;
    if (!upload->writing)
        close_begin(upload);
}

uint64_t sp_uploads_bytes(const sp_uploads *uploads)
{
    return uploads->bytes;
}

sp_status sp_uploads_open(sp_loop *loop, const char *data_dir, bool named, sp_uploads **ret_uploads, sp_error *reterr)
{
    sp_uploads *uploads = calloc(1, sizeof(*uploads));
    if (!uploads)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for uploads");
    uploads->loop = loop;
    uploads->named = named;
    (void)snprintf(uploads->data_dir, sizeof(uploads->data_dir), "%s", data_dir);
    /* Two works an upload at most: a write, then its close. */
    sp_status s = sp_store_thread_new(loop, "uploads", 4 * SP_LIMIT_UPLOADS, NULL, NULL, &uploads->thread, reterr);
    if (s) {
        free(uploads);
        return s;
    }
    *ret_uploads = uploads;
    return SP_OK;
}

void sp_uploads_close(sp_uploads *uploads)
{
    if (!uploads)
        return;
    sp_store_thread_free(SP_STEAL(uploads->thread));
    uploads->closed = true;
    if (!uploads->count)
        free(uploads);
}
