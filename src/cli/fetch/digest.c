/* SPDX-License-Identifier: Apache-2.0
 * SHA-256 of a file by libcrypto. */
#include "cli/fetch/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <unistd.h>

#define CHUNK_BYTES (256 * 1024)

SP_DEFINE_CLEANUP(EVP_MD_CTX, EVP_MD_CTX_free)

static sp_status digest_fd(int fd, const char *path, EVP_MD_CTX *context, sp_error *reterr)
{
    static unsigned char chunk[CHUNK_BYTES]; /* one call at a time: these are one-shot commands */

    for (;;) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot read %s", path);
        if (n == 0)
            return SP_OK;
        if (!EVP_DigestUpdate(context, chunk, (size_t)n))
            return SP_FAIL(reterr, SP_INTERNAL, "libcrypto's SHA-256 failed");
    }
}

sp_status sp_fetch_digest_file(const char *path, char ret_hex[SP_SHA256_HEX_BYTES], sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    SP_CLEANUP(EVP_MD_CTX_freep) EVP_MD_CTX *context = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int digest_bytes = 0;

    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_INTERNAL, "cannot open %s", path);
    if (!context || !EVP_DigestInit_ex(context, EVP_sha256(), NULL))
        return SP_FAIL(reterr, SP_INTERNAL, "libcrypto has no SHA-256");
    sp_status status = digest_fd(fd, path, context, reterr);
    if (status)
        return status;
    if (!EVP_DigestFinal_ex(context, digest, &digest_bytes) || digest_bytes != 32)
        return SP_FAIL(reterr, SP_INTERNAL, "libcrypto's SHA-256 failed");
    for (unsigned int i = 0; i < digest_bytes; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
    return SP_OK;
}
