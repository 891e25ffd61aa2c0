/* SPDX-License-Identifier: Apache-2.0
 * Downloads by libcurl that go on where they stopped. See fetch.h for the rules.
 *
 *   NAME.part   grows; survives an interruption; locked while a process writes it
 *   NAME        appears by rename when length and digest are right
 *
 * A part may belong to another file than the one the server has now; the digest finds that out, the part goes, and the
 * next call begins at the start. So no ETag has to be kept beside it. */
#include "cli/fetch/digest.h"

#include "base/limits.h"
#include "provider/curl_rules.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_S 30L
#define STALLED_AFTER_S 60L /* less than 1 byte/s for so long counts as broken */
/* Requests of one download: a link that breaks more often than this is better left alone for a while. */
#define REQUESTS_MAX 20

typedef struct transfer {
    const sp_download *download;
    CURL *curl;
    int fd;
    uint64_t have_bytes;  /* in the part */
    uint64_t asked_from;  /* of this request */
    uint64_t total_bytes; /* as announced, 0 = unknown */
    bool checked;         /* this response's status line was looked at */
    bool unwanted;        /* its body is an error page, or it made the transfer fail below */
    bool refused_range;   /* 416 */
    bool restarted;       /* what an earlier download had left was of no use */
    sp_status failure;    /* what on_body stopped for */
    int failure_errno;
    char text[CURL_ERROR_SIZE];
} transfer;

SP_DEFINE_CLEANUP(CURL, curl_easy_cleanup)

static bool begin_at_start(transfer *t)
{
    if (ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) != 0) {
        t->failure = SP_INTERNAL;
        t->failure_errno = errno;
        return false;
    }
    t->have_bytes = 0;
    t->restarted = true;
    return true;
}

/* Before the first byte of a body: is it the file, and from where? */
static bool check_response(transfer *t)
{
    long code = 0;
    curl_off_t length = -1;

    t->checked = true;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_getinfo(t->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (code != 200 && code != 206) {
        t->unwanted = true;
        return true;
    }
    if (code == 200 && t->have_bytes && !begin_at_start(t)) /* a server without Range sends everything again */
        return false;
    if (length >= 0)
        t->total_bytes = t->have_bytes + (uint64_t)length;
    if (length >= 0 && t->download->bytes && t->total_bytes != t->download->bytes) {
        t->failure = SP_CORRUPT; /* another file: no need to fetch all of it to know */
        return false;
    }
    return true;
}

static bool write_all(transfer *t, const char *data, size_t size_bytes)
{
    while (size_bytes) {
        ssize_t n = write(t->fd, data, size_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            t->failure = SP_INTERNAL;
            t->failure_errno = n < 0 ? errno : ENOSPC;
            return false;
        }
        data += n;
        size_bytes -= (size_t)n;
        t->have_bytes += (uint64_t)n;
    }
    return true;
}

static size_t on_body(char *data, size_t one, size_t size_bytes, void *context)
{
    transfer *t = context;
    uint64_t limit = t->download->bytes ? t->download->bytes : SP_LIMIT_MODEL_BYTES;

    (void)one; /* libcurl: always 1 */
    if (!t->checked && !check_response(t))
        return 0;
    if (t->unwanted)
        return size_bytes;
    if (t->have_bytes + size_bytes > limit) {
        t->failure = SP_TOO_LARGE;
        return 0;
    }
    return write_all(t, data, size_bytes) ? size_bytes : 0;
}

static int on_progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now)
{
    transfer *t = context;

    (void)total, (void)now, (void)up_total, (void)up_now;
    if (t->download->progress && t->checked && !t->unwanted)
        t->download->progress(t->have_bytes, t->download->bytes ? t->download->bytes : t->total_bytes, t->download->context);
    return 0;
}

static void set_up(transfer *t)
{
    CURL *curl = t->curl;

    sp_curl_rules_apply(curl, "spillway/" SP_VERSION, true, NULL);
    curl_easy_setopt(curl, CURLOPT_URL, t->download->url);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L); /* to other hosts too: the digest says what may come from there */
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, STALLED_AFTER_S);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, t->text);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
}

static sp_status http_failure(const transfer *t, long code, sp_error *reterr)
{
    const char *url = t->download->url;

    if (code == 404 || code == 410)
        return SP_FAIL_FROM(reterr, SP_NOT_FOUND, "http", (int)code, "the server has no such file (%ld): %s", code, url);
    if (code == 401 || code == 403)
        return SP_FAIL_FROM(reterr, SP_DENIED, "http", (int)code, "the server refused access (%ld): %s", code, url);
    return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "http", (int)code, "the server answered %ld: %s", code, url);
}

/* One request for what is missing. SP_UNAVAILABLE: it may be worth another. */
static sp_status request_once(transfer *t, sp_error *reterr)
{
    char range[32];
    long code = 0;

    t->asked_from = t->have_bytes;
    t->checked = t->unwanted = t->refused_range = false;
    t->text[0] = '\0';
    snprintf(range, sizeof(range), "%llu-", (unsigned long long)t->have_bytes);
    curl_easy_setopt(t->curl, CURLOPT_RANGE, t->have_bytes ? range : NULL);

    CURLcode result = curl_easy_perform(t->curl);
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    if (t->failure == SP_CORRUPT)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "wrong_length", "the server's file has %llu bytes, the catalogue says %llu: %s",
                            (unsigned long long)t->total_bytes, (unsigned long long)t->download->bytes, t->download->url);
    if (t->failure == SP_TOO_LARGE)
        return SP_FAIL(reterr, SP_TOO_LARGE, "the server sends more than the %llu bytes that the catalogue says: %s",
                       (unsigned long long)t->download->bytes, t->download->url);
    if (t->failure) {
        errno = t->failure_errno;
        return SP_FAIL_ERRNO(reterr, t->failure, "cannot write %s.part", t->download->path);
    }
    t->refused_range = code == 416;
    if (result == CURLE_OK && code != 200 && code != 206)
        return http_failure(t, code, reterr);
    if (result == CURLE_OK)
        return SP_OK;
    return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "libcurl", (int)result, "%s: %s",
                        *t->text ? t->text : curl_easy_strerror(result), t->download->url);
}

/* Requests until the part is complete, a try brings nothing, or the server says no. */
static sp_status transfer_all(transfer *t, sp_download_result *result, sp_error *reterr)
{
    sp_status status = SP_OK;

    if (t->download->bytes && t->have_bytes == t->download->bytes)
        return SP_OK; /* it was interrupted between the last byte and the rename */
    for (int i = 0; i < REQUESTS_MAX; i++) {
        result->request_count++;
        status = request_once(t, reterr);
        if (status == SP_OK && t->download->bytes && t->have_bytes < t->download->bytes)
            status = SP_FAIL(reterr, SP_UNAVAILABLE, "the server ended after %llu of %llu bytes: %s",
                             (unsigned long long)t->have_bytes, (unsigned long long)t->download->bytes, t->download->url);
        if (t->refused_range && t->asked_from) {
            if (!begin_at_start(t))
                return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot truncate %s.part", t->download->path);
        } else if (status != SP_UNAVAILABLE || t->have_bytes <= t->asked_from) {
            break;
        }
    }
    return status;
}

static sp_status check_digest(const char *part, const sp_download *download, sp_error *reterr)
{
    char hex[SP_SHA256_HEX_BYTES];
    sp_status status = sp_fetch_digest_file(part, hex, reterr);

    if (status)
        return status;
    if (strcmp(hex, download->sha256) != 0)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "wrong_digest",
                            "wrong sha256: %s, expected %s; what was downloaded has been removed", hex, download->sha256);
    return SP_OK;
}

static sp_status open_part(const char *part, transfer *t, sp_error *reterr)
{
    struct stat st, named;

    t->fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (t->fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot write %s", part);
    if (flock(t->fd, LOCK_EX | LOCK_NB) != 0)
        return SP_FAIL(reterr, SP_CONFLICT, "another process is downloading %s", part);
    if (fstat(t->fd, &st) != 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot read %s", part);
    /* Between open and lock another process may have finished: then this descriptor is its finished file. */
    if (stat(part, &named) != 0 || named.st_ino != st.st_ino)
        return SP_FAIL(reterr, SP_CONFLICT, "another process has just downloaded %s", t->download->path);
    t->have_bytes = (uint64_t)st.st_size;
    if (t->download->bytes && t->have_bytes > t->download->bytes && !begin_at_start(t))
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot truncate %s", part);
    if (lseek(t->fd, 0, SEEK_END) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot seek in %s", part);
    return SP_OK;
}

static sp_status finish(const char *part, transfer *t, sp_error *reterr)
{
    sp_status status = check_digest(part, t->download, reterr);

    if (status)
        return status;
    if (fsync(t->fd) != 0 || rename(part, t->download->path) != 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot finish %s", t->download->path);
    return SP_OK;
}

static sp_status download(const sp_download *download, sp_download_result *ret_result, sp_error *reterr)
{
    SP_CLEANUP(curl_easy_cleanupp) CURL *curl = NULL;
    transfer t = { .download = download, .fd = -1 };
    sp_download_result result = { 0 };
    char part[PATH_MAX];

    if ((size_t)snprintf(part, sizeof(part), "%s.part", download->path) >= sizeof(part))
        return SP_FAIL(reterr, SP_INVALID, "the path is too long: %s", download->path);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(curl = curl_easy_init()))
        return SP_FAIL(reterr, SP_NOMEM, "libcurl cannot start");
    t.curl = curl;
    sp_status status = open_part(part, &t, reterr);
    SP_CLEANUP(sp_fd_closep) SP_UNUSED int fd = t.fd; /* closing it also drops the lock */
    if (status)
        return status;
    result.resumed_from = t.have_bytes;
    set_up(&t);
    status = transfer_all(&t, &result, reterr);
    if (status == SP_OK)
        status = finish(part, &t, reterr);
    if (status == SP_CORRUPT || status == SP_TOO_LARGE || (status && t.have_bytes == 0))
        (void)unlink(part); /* if it stays, the next call finds it out again */
    if (status)
        return status;
    result.bytes = t.have_bytes;
    if (t.restarted)
        result.resumed_from = 0;
    *ret_result = result;
    return SP_OK;
}

static const char *versions(void)
{
    static char text[160];
    const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

    snprintf(text, sizeof(text), "libcurl %s, %s", info->version, OpenSSL_version(OPENSSL_VERSION));
    return text;
}

SP_EXPORT const sp_fetch_api *sp_fetch_api_get(void);
const sp_fetch_api *sp_fetch_api_get(void)
{
    static const sp_fetch_api api = {
        .abi = SP_FETCH_ABI, .digest_file = sp_fetch_digest_file, .download = download, .versions = versions
    };
    return &api;
}
