/* SPDX-License-Identifier: Apache-2.0
 * POSIX.1-1988 ustar headers: 512 bytes, numbers in octal, content padded to 512. */
#include "jobs/tar.h"

#include <string.h>
#include <unistd.h>

#define BLOCK 512u

static bool name_good(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
    size_t n = strlen(name);
    if (!n || strspn(name, plain) != n || name[0] == '/' || name[n - 1] == '/' || strstr(name, "//"))
        return false;
    for (const char *at = name; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (*at == '.')
            return false;
    }
    return true;
}

/* Octal digits up to a NUL or blank. */
static bool octal_read(const uint8_t *field, size_t size_bytes, uint64_t *ret_value)
{
    size_t i = 0;
    *ret_value = 0;
    for (; i < size_bytes && field[i] >= '0' && field[i] <= '7'; i++)
        *ret_value = *ret_value * 8 + (uint64_t)(field[i] - '0');
    return i > 0 && (i == size_bytes || field[i] == 0 || field[i] == ' ');
}

static bool sum_good(const uint8_t *block)
{
    uint64_t told = 0, sum = 0;
    for (size_t i = 0; i < BLOCK; i++)
        sum += i >= 148 && i < 156 ? ' ' : block[i];
    return octal_read(block + 148, 8, &told) && told == sum;
}

sp_status sp_tar_next(int fd, uint64_t size_bytes, uint64_t *at, sp_tar_entry *ret_entry, bool *ret_more, sp_error *reterr)
{
    uint8_t block[BLOCK];
    *ret_more = false;
    if (*at + BLOCK > size_bytes)
        return SP_OK;
    if (pread(fd, block, BLOCK, (off_t)*at) != (ssize_t)BLOCK)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "cannot read the report's archive");
    if (!block[0])
        return SP_OK; /* the blocks of zeroes at the end */
    bool good = sum_good(block) && (block[156] == '0' || block[156] == 0);
    memcpy(ret_entry->name, block, 100);
    ret_entry->name[100] = 0;
    ret_entry->offset_bytes = *at + BLOCK;
    good = good && name_good(ret_entry->name) && octal_read(block + 124, 12, &ret_entry->size_bytes) &&
           ret_entry->size_bytes <= size_bytes - ret_entry->offset_bytes;
    if (!good)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "bad_report", "the report's archive has a bad header at byte %llu",
                            (unsigned long long)*at);
    *at = ret_entry->offset_bytes + (ret_entry->size_bytes + BLOCK - 1) / BLOCK * BLOCK;
    *ret_more = true;
    return SP_OK;
}
