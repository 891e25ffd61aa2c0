/* SPDX-License-Identifier: Apache-2.0
 * See external.h. A small reader of the protobuf wire format that knows only the way to TensorProto.external_data.
 * Field numbers: onnx.proto3 (ONNX 1.17). */
#include "model/external.h"

#include "base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MOST 64 /* subgraphs in subgraphs; each takes three messages */

/* Which fields of which message lead further. */
typedef enum message_kind { MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, ENTRY, SPARSE, FUNCTION, TRAINING, KINDS } message_kind;
typedef struct way {
    uint8_t field, to;
} way;
static const way ways[KINDS][8] = {
    [MODEL] = { { 7, GRAPH }, { 20, TRAINING }, { 25, FUNCTION } },
    [GRAPH] = { { 1, NODE }, { 5, TENSOR }, { 15, SPARSE } },
    [NODE] = { { 5, ATTRIBUTE } },
    [ATTRIBUTE] = { { 5, TENSOR }, { 6, GRAPH }, { 10, TENSOR }, { 11, GRAPH }, { 22, SPARSE }, { 23, SPARSE } },
    [TENSOR] = { { 13, ENTRY } },
    [SPARSE] = { { 1, TENSOR }, { 2, TENSOR } },
    [FUNCTION] = { { 7, NODE }, { 11, ATTRIBUTE } },
    [TRAINING] = { { 1, GRAPH }, { 2, GRAPH } },
};

typedef struct walk {
    sp_external_fn *found;
    void *context;
    bool dynamic;
    sp_error *reterr;
} walk;

static bool read_varint(sp_view *at, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64 && at->size_bytes; shift += 7) {
        uint8_t byte = *at->data++;
        at->size_bytes--;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

static bool skip(sp_view *at, uint64_t bytes)
{
    if (bytes > at->size_bytes)
        return false;
    at->data += bytes;
    at->size_bytes -= (size_t)bytes;
    return true;
}

/* The next field: its number, and its bytes when it has some. False: damaged. */
static bool next_field(sp_view *at, uint64_t *ret_field, bool *ret_bytes, sp_view *ret_value)
{
    uint64_t tag, value;

    if (!read_varint(at, &tag) || !(tag >> 3))
        return false;
    *ret_field = tag >> 3;
    *ret_bytes = (tag & 7) == 2;
    switch (tag & 7) {
    case 0:
        return read_varint(at, &value);
    case 1:
        return skip(at, 8);
    case 5:
        return skip(at, 4);
    case 2:
        if (!read_varint(at, &value) || value > at->size_bytes)
            return false;
        *ret_value = sp_view_make(at->data, (size_t)value);
        return skip(at, value);
    default:
        return false; /* groups: protobuf 3 has none */
    }
}

static sp_status damaged(walk *w)
{
    return SP_FAIL(w->reterr, SP_CORRUPT, "the model file is damaged: it is no ONNX (protobuf) file");
}

/* StringStringEntryProto; the last of equal fields counts. */
static sp_status walk_entry(walk *w, sp_view at)
{
    sp_view key = { 0 }, value = { 0 }, bytes;
    uint64_t field;
    bool has_bytes;

    while (at.size_bytes) {
        if (!next_field(&at, &field, &has_bytes, &bytes))
            return damaged(w);
        if (has_bytes && field == 1)
            key = bytes;
        if (has_bytes && field == 2)
            value = bytes;
    }
    return sp_view_equals(key, "location") ? w->found(value, w->context, w->reterr) : SP_OK;
}

static sp_status walk_message(walk *w, message_kind kind, sp_view at, int depth)
{
    sp_view bytes;
    uint64_t field;
    bool has_bytes;
    sp_status status = SP_OK;

    if (kind == ENTRY)
        return walk_entry(w, at);
    if (depth > 3 * DEPTH_MOST)
        return SP_FAIL(w->reterr, SP_TOO_LARGE, "the model's graphs are nested more than %d deep", DEPTH_MOST);
    while (!status && at.size_bytes) {
        if (!next_field(&at, &field, &has_bytes, &bytes))
            return damaged(w);
        if (kind == NODE && has_bytes && field == 4) /* op_type */
            w->dynamic |= sp_view_starts_with(bytes, "DynamicQuantize", 15);
        for (int i = 0; has_bytes && !status && i < (int)SP_ARRAY_LEN(ways[kind]) && ways[kind][i].field; i++) {
            if (ways[kind][i].field == field)
                status = walk_message(w, (message_kind)ways[kind][i].to, bytes, depth + 1);
        }
    }
    return status;
}

sp_status sp_external_each(sp_view model, sp_external_fn *found, void *context, bool *ret_dynamic, sp_error *reterr)
{
    walk w = { .found = found, .context = context, .reterr = reterr };
    sp_status status = walk_message(&w, MODEL, model, 0);

    *ret_dynamic = w.dynamic;
    return status;
}

/* --- against the file system ------------------------------------------------------------------------------------------------ */

typedef struct place {
    const char *base;         /* the model file's directory */
    char inside[PATH_MAX];    /* the model's directory, resolved */
} place;

static sp_status check_location(sp_view location, void *context, sp_error *reterr)
{
    const place *p = context;
    char text[1024], path[PATH_MAX], resolved[PATH_MAX];
    size_t length = strlen(p->inside);

    if (!location.size_bytes || location.size_bytes >= sizeof(text) || memchr(location.data, 0, location.size_bytes))
        return SP_FAIL_CODE(reterr, SP_INVALID, "external_data", "external data: a location is empty, too long or has a NUL byte");
    memcpy(text, location.data, location.size_bytes);
    text[location.size_bytes] = '\0';
    bool upward = !strcmp(text, "..") || !strncmp(text, "../", 3) || strstr(text, "/../") ||
                  (location.size_bytes >= 3 && !strcmp(text + location.size_bytes - 3, "/.."));
    if (text[0] == '/' || upward || strchr(text, '\\'))
        return SP_FAIL_CODE(reterr, SP_INVALID, "external_data", "external data '%.120s' lies outside the model's directory", text);
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", p->base, text) >= sizeof(path) || !realpath(path, resolved))
        return SP_FAIL_CODE(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_INVALID, "external_data",
                            "external data '%.120s' is not beside the model", text);
    if (strncmp(resolved, p->inside, length) || resolved[length] != '/')
        return SP_FAIL_CODE(reterr, SP_INVALID, "external_data", "external data '%.120s' leads out of the model's directory", text);
    return SP_OK;
}

sp_status sp_external_check(const char *path, const char *directory, bool *ret_dynamic, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    char base[PATH_MAX];
    place p = { .base = base };
    struct stat info;

    if (fd < 0 || fstat(fd, &info) || !realpath(directory, p.inside))
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "%s", path);
    (void)snprintf(base, sizeof(base), "%s", path);
    *strrchr(base, '/') = '\0'; /* the caller put one there */
    if (info.st_size <= 0 || (uint64_t)info.st_size > SP_LIMIT_MODEL_BYTES)
        return info.st_size <= 0 ? SP_FAIL(reterr, SP_CORRUPT, "%s is empty", path)
                                 : SP_FAIL(reterr, SP_TOO_LARGE, "%s is larger than %u bytes", path, SP_LIMIT_MODEL_BYTES);
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "%s", path);
    sp_status status = sp_external_each(sp_view_make(bytes, (size_t)info.st_size), check_location, &p, ret_dynamic,
                                        reterr);
    (void)munmap(bytes, (size_t)info.st_size);
    return status;
}
