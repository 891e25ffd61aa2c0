/* SPDX-License-Identifier: Apache-2.0
 * System shared memory of clients. A region is a descriptor, never a mapping: a client may cut its region short at any
 * moment, and then a pread is short where a mapping would be SIGBUS. Its size is looked at before every use, so a
 * write never makes a region that was cut grow again. */
#include "serving/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct sp_region {
    sp_region *next;
    char name[SP_LIMIT_KSERVE_NAME_BYTES], key[256];
    uint64_t offset, bytes;
    int fd;
    int references; /* the loop's alone */
};

static sp_region **region_at(sp_serving_parts *parts, const char *name)
{
    sp_region **at = &parts->regions;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    return at;
}

void sp_region_unref(sp_region *region)
{
    if (!region || --region->references)
        return;
    (void)close(region->fd);
    free(region);
}

const char *sp_region_name(const sp_region *region)
{
    return region->name;
}

/* POSIX names are "/name"; clients write them with and without. Nothing else may be in them that leads elsewhere. */
static sp_status key_check(const char *name, const char *key, const char **ret_plain, sp_error *reterr)
{
    const char *plain = *key == '/' ? key + 1 : key;
    if (!*plain || strchr(plain, '/') || strlen(plain) >= sizeof(((sp_region *)0)->key) - 1 || strcmp(plain, ".") == 0 ||
        strcmp(plain, "..") == 0)
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_key",
                            "failed to register shared memory region '%s': key '%.60s' must be the name of an object in "
                            "/dev/shm, without another '/'",
                            name, key);
    *ret_plain = plain;
    return SP_OK;
}

static sp_status region_open(const char *name, const char *plain, uint64_t offset, uint64_t bytes, int *ret_fd, sp_error *reterr)
{
    char path[260];
    struct stat st;
    uint64_t end;
    (void)snprintf(path, sizeof(path), "/%s", plain);
    SP_CLEANUP(sp_fd_closep) int fd = shm_open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW, 0);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_INVALID, "failed to register shared memory region '%s': unable to open '%.60s'", name,
                             plain);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_key",
                            "failed to register shared memory region '%s': '%.60s' is no shared-memory object", name, plain);
    if (!bytes || __builtin_add_overflow(offset, bytes, &end) || end > (uint64_t)st.st_size)
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_bounds",
                            "failed to register shared memory region '%s': invalid args: offset %llu and byte_size %llu "
                            "in an object of %llu bytes",
                            name, (unsigned long long)offset, (unsigned long long)bytes, (unsigned long long)st.st_size);
    *ret_fd = fd;
    fd = -1; /* the region's now */
    return SP_OK;
}

sp_status sp_serving_region_add(sp_serving *serving, const char *name, const char *key, uint64_t offset, uint64_t bytes,
                                sp_error *reterr)
{
    sp_serving_parts *parts = sp_serving_parts_of(serving);
    const char *plain = NULL;
    int fd = -1;
    size_t name_bytes = strlen(name);
    if (!name_bytes || name_bytes >= sizeof(parts->regions->name) || strchr(name, '/'))
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_name",
                            "a shared memory region's name has 1 to %zu bytes and no '/'", sizeof(parts->regions->name) - 1);
    if (*region_at(parts, name))
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "shared_memory_taken", "shared memory region '%s' already in manager", name);
    if (parts->region_count >= SP_LIMIT_REGIONS)
        return SP_FAIL_CODE(reterr, SP_BUSY, "shared_memory_regions",
                            "%d shared memory regions are registered already; unregister some", SP_LIMIT_REGIONS);
    sp_status s = key_check(name, key, &plain, reterr);
    if (!s)
        s = region_open(name, plain, offset, bytes, &fd, reterr);
    if (s)
        return s;
    sp_region *region = calloc(1, sizeof(*region));
    if (!region) {
        (void)close(fd);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a shared memory region");
    }
    memcpy(region->name, name, name_bytes);
    (void)snprintf(region->key, sizeof(region->key), "%s", key);
    region->offset = offset;
    region->bytes = bytes;
    region->fd = fd;
    region->references = 1;
    region->next = parts->regions;
    parts->regions = region;
    parts->region_count++;
    return SP_OK;
}

void sp_regions_free(sp_serving_parts *parts)
{
    while (parts->regions) {
        sp_region *region = parts->regions;
        parts->regions = region->next;
        sp_region_unref(region);
    }
    parts->region_count = 0;
}

/* One that is not there is fine, as it is for Triton: its clients clean up before they begin. */
sp_status sp_serving_region_remove(sp_serving *serving, const char *name, sp_error *reterr)
{
    sp_serving_parts *parts = sp_serving_parts_of(serving);
    (void)reterr;
    if (!*name) {
        sp_regions_free(parts);
        return SP_OK;
    }
    sp_region **at = region_at(parts, name), *region = *at;
    if (region) {
        *at = region->next;
        parts->region_count--;
        sp_region_unref(region);
    }
    return SP_OK;
}

static sp_region_info info_of(const sp_region *region)
{
    return (sp_region_info){ .name = region->name, .key = region->key, .offset = region->offset, .bytes = region->bytes };
}

int sp_serving_regions(const sp_serving *serving, const char *name, sp_region_info *ret_regions, int capacity, sp_error *reterr)
{
    sp_serving_parts *parts = sp_serving_parts_of(serving);
    int count = 0;
    if (*name) {
        const sp_region *region = *region_at(parts, name);
        if (!region) {
            (void)SP_FAIL(reterr, SP_NOT_FOUND, "Unable to find system shared memory region: '%.100s'", name);
            return -1;
        }
        if (capacity > 0)
            ret_regions[0] = info_of(region);
        return 1;
    }
    for (const sp_region *region = parts->regions; region && count < capacity; region = region->next)
        ret_regions[count++] = info_of(region);
    return count;
}

sp_status sp_region_find(sp_serving_parts *parts, const char *name, uint64_t offset, uint64_t bytes, sp_region **ret_region,
                         sp_error *reterr)
{
    sp_region *region = *region_at(parts, name);
    uint64_t end;
    if (!region)
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_unknown", "Unable to find shared memory region: '%.100s'", name);
    if (offset > region->bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_bounds", "Invalid offset for shared memory region: '%.100s'", name);
    if (__builtin_add_overflow(offset, bytes, &end) || end > region->bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_bounds",
                            "Invalid offset + byte size for shared memory region: '%.100s'", name);
    region->references++;
    *ret_region = region;
    return SP_OK;
}

static sp_status cut(const sp_region *region, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "shared_memory_cut",
                        "shared memory region '%.100s' is shorter now than it was when it was registered", region->name);
}

sp_status sp_region_read(const sp_region *region, uint64_t offset, void *dst, size_t bytes, sp_error *reterr)
{
    uint8_t *at = dst;
    while (bytes) {
        ssize_t n = pread(region->fd, at, bytes, (off_t)(region->offset + offset));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SP_FAIL_ERRNO(reterr, SP_INVALID, "reading shared memory region '%.100s'", region->name);
        if (!n)
            return cut(region, reterr);
        at += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return SP_OK;
}

sp_status sp_region_write(const sp_region *region, uint64_t offset, const void *src, size_t bytes, sp_error *reterr)
{
    const uint8_t *at = src;
    struct stat st;
    if (fstat(region->fd, &st) < 0 || (uint64_t)st.st_size < region->offset + offset + bytes)
        return cut(region, reterr);
    while (bytes) {
        ssize_t n = pwrite(region->fd, at, bytes, (off_t)(region->offset + offset));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return SP_FAIL_ERRNO(reterr, SP_INVALID, "writing shared memory region '%.100s'", region->name);
        at += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return SP_OK;
}
