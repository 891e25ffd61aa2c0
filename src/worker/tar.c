/* SPDX-License-Identifier: Apache-2.0
 * tar: a header of 512 bytes for each file, its bytes, zeros up to the next 512. */
#include "worker/tar.h"

#include "base/attr.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 512u

/* POSIX.1-1988, "ustar": numbers are octal text. */
typedef struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
    char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
} header;
_Static_assert(sizeof(header) == BLOCK, "a header fills its block");

static sp_status put(sp_tar *tar, const void *bytes, size_t size_bytes, sp_error *reterr)
{
    const uint8_t *at = bytes;
    while (size_bytes) {
        ssize_t n = pwrite(tar->fd, at, size_bytes, (off_t)tar->size_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return SP_FAIL_ERRNO(reterr, SP_NOMEM, "no room for a file of the report");
        at += n;
        size_bytes -= (size_t)n;
        tar->size_bytes += (uint64_t)n;
    }
    return SP_OK;
}

sp_status sp_tar_add(sp_tar *tar, const char *name, sp_view bytes, sp_error *reterr)
{
    static const uint8_t zeros[BLOCK];
    header h = { .type = '0', .magic = "ustar", .version = { '0', '0' } };
    size_t length = strlen(name), gap = SP_ALIGN_UP(bytes.size_bytes, (size_t)BLOCK) - bytes.size_bytes;
    if (!length || length >= sizeof(h.name) || name[0] == '/')
        return SP_FAIL(reterr, SP_INVALID, "'%.100s' is no name for a file of a report", name);
    if (bytes.size_bytes > tar->limit_bytes || tar->size_bytes + 4 * BLOCK > tar->limit_bytes - bytes.size_bytes)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "report_too_large", "with %s the report has more than the %llu bytes that it may have",
                            name, (unsigned long long)tar->limit_bytes);
    memcpy(h.name, name, length);
    (void)snprintf(h.mode, sizeof(h.mode), "%07o", 0644u);
    (void)snprintf(h.uid, sizeof(h.uid), "%07o", 0u);
    (void)snprintf(h.gid, sizeof(h.gid), "%07o", 0u);
    (void)snprintf(h.size, sizeof(h.size), "%011llo", (unsigned long long)bytes.size_bytes);
    (void)snprintf(h.mtime, sizeof(h.mtime), "%011o", 0u);
    memset(h.checksum, ' ', sizeof(h.checksum)); /* as which its own field counts */
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof(h); i++)
        sum += ((const uint8_t *)&h)[i];
    (void)snprintf(h.checksum, sizeof(h.checksum), "%06o", sum);
    sp_status s = put(tar, &h, sizeof(h), reterr);
    if (!s)
        s = put(tar, bytes.data, bytes.size_bytes, reterr);
    return s ? s : put(tar, zeros, gap, reterr);
}

sp_status sp_tar_end(sp_tar *tar, sp_error *reterr)
{
    static const uint8_t zeros[2 * BLOCK];
    return put(tar, zeros, sizeof(zeros), reterr);
}
