/* SPDX-License-Identifier: Apache-2.0
 * The table of an archive that a worker made: plain names in their order, and nothing that could point elsewhere. */
#include "jobs/tar.h"

#include "test.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct archive {
    uint8_t bytes[16 * 512];
    size_t size_bytes;
} archive;

static void seal(uint8_t *block)
{
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (int i = 0; i < 512; i++)
        sum += block[i];
    (void)snprintf((char *)block + 148, 8, "%06o", sum);
}

static void add(archive *a, const char *name, size_t size_bytes, char kind)
{
    uint8_t *block = a->bytes + a->size_bytes;
    memset(block, 0, 512);
    memcpy(block, name, strlen(name));
    (void)snprintf((char *)block + 124, 12, "%011zo", size_bytes);
    block[156] = (uint8_t)kind;
    memcpy(block + 257, "ustar", 6);
    seal(block);
    a->size_bytes += 512 + (size_bytes + 511) / 512 * 512;
}

static sp_status read_all(const archive *a, size_t size_bytes, int *ret_count, sp_tar_entry *ret_last)
{
    uint64_t at = 0;
    bool more = true;
    sp_error err = { 0 };
    sp_status s = SP_OK;
    int fd = memfd_create("archive", MFD_CLOEXEC);
    REQUIRE(fd >= 0 && write(fd, a->bytes, size_bytes) == (ssize_t)size_bytes);
    *ret_count = 0;
    while (!s && more) {
        sp_tar_entry entry;
        s = sp_tar_next(fd, size_bytes, &at, &entry, &more, &err);
        if (!s && more) {
            *ret_last = entry;
            ++*ret_count;
        }
    }
    CHECK(!s || *err.code);
    (void)close(fd);
    return s;
}

TEST(files_are_found_where_they_lie)
{
    archive a = { 0 };
    sp_tar_entry last;
    int count = 0;
    add(&a, "report.json", 700, '0');
    add(&a, "empty.csv", 0, '0');
    add(&a, "key/000123.png", 512, 0);
    CHECK_INT(read_all(&a, a.size_bytes, &count, &last), SP_OK);
    CHECK_INT(count, 3);
    CHECK_TEXT(last.name, "key/000123.png");
    CHECK_INT(last.offset_bytes, 512 + 1024 + 512 + 512);
    CHECK_INT(last.size_bytes, 512);
    CHECK_INT(read_all(&a, a.size_bytes + 1024, &count, &last), SP_OK); /* zeroes at the end */
    CHECK_INT(count, 3);
    CHECK_INT(read_all(&a, a.size_bytes - 1, &count, &last), SP_CORRUPT); /* its last file is cut short */
}

TEST(names_and_kinds_that_point_elsewhere_are_refused)
{
    static const char *const bad[] = { "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a b", "a\"b", "\n" };
    sp_tar_entry last;
    int count = 0;
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        archive a = { 0 };
        add(&a, bad[i], 10, '0');
        CHECK_INT(read_all(&a, a.size_bytes, &count, &last), SP_CORRUPT);
    }
    for (const char *kind = "1256x"; *kind; kind++) {
        archive a = { 0 };
        add(&a, "link", 0, *kind);
        CHECK_INT(read_all(&a, a.size_bytes, &count, &last), SP_CORRUPT);
    }
}

TEST(each_changed_byte_of_a_header_is_noticed)
{
    sp_tar_entry last;
    int count = 0;
    for (int i = 0; i < 512; i++) {
        archive a = { 0 };
        add(&a, "report.json", 10, '0');
        a.bytes[i] ^= 0x10;
        sp_status s = read_all(&a, a.size_bytes, &count, &last);
        CHECK(s == SP_CORRUPT || (i >= 154 && i < 156)); /* what stands behind the sum's digits */
    }
}
