/* SPDX-License-Identifier: Apache-2.0
 * Downloads and digests for `pull`, `models` and `doctor`. They live in libspillway_fetch.so, which those commands
 * dlopen: libcurl and libcrypto with all they bring (TLS, HTTP/2, Kerberos, LDAP) have no place in a program that
 * serves, where they would cost start-up time and memory. */
#ifndef SP_CLI_FETCH_FETCH_H
#define SP_CLI_FETCH_FETCH_H

#include "base/status.h"

#define SP_FETCH_ABI 1
#define SP_FETCH_FILE "libspillway_fetch.so"
#define SP_FETCH_SYMBOL "sp_fetch_api_get"
#define SP_SHA256_HEX_BYTES 65

typedef struct sp_download {
    const char *url;    /* http or https; redirects are followed within these two */
    const char *path;   /* the file to make; path + ".part" holds what has arrived so far */
    const char *sha256; /* 64 hex digits, lower case */
    uint64_t bytes;     /* what it should measure; 0 = unknown. More than that is never written */
    /* Called now and then from the same thread; total 0 = unknown. NULL = nobody. */
    void (*progress)(uint64_t done_bytes, uint64_t total_bytes, void *context);
    void *context;
} sp_download;

typedef struct sp_download_result {
    uint64_t bytes;        /* of the file */
    uint64_t resumed_from; /* bytes that an earlier, interrupted download had left; 0 = began at the start */
    int request_count;     /* HTTP requests it took, without redirects */
} sp_download_result;

typedef struct sp_fetch_api {
    uint32_t abi;

    /* The SHA-256 of a file. SP_NOT_FOUND; SP_INTERNAL when it cannot be read. */
    sp_status (*digest_file)(const char *path, char ret_hex[SP_SHA256_HEX_BYTES], sp_error *reterr);

    /* Downloads, going on from path + ".part" when it is there, checks length and digest, syncs, and renames: `path`
     * appears complete or not at all. A connection that breaks is taken up again as long as each try brings bytes.
     * SP_NOT_FOUND: 404 or 410. SP_DENIED: 401 or 403. SP_UNAVAILABLE: no connection, another HTTP status, or it broke;
     * the part stays and the next call goes on from it. SP_CORRUPT code "wrong_digest" or "wrong_length": not the file
     * that was meant; the part is removed. SP_TOO_LARGE: more bytes than announced; the part is removed.
     * SP_CONFLICT: another process is downloading it. SP_INTERNAL: the disk refused. */
    sp_status (*download)(const sp_download *download, sp_download_result *ret_result, sp_error *reterr);

    const char *(*versions)(void); /* "libcurl/7.88.1 ..., OpenSSL 3.0.22"; static storage */
} sp_fetch_api;

#endif
