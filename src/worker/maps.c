/* SPDX-License-Identifier: Apache-2.0
 * Mapping of what the gateway sends. */
#include "worker/maps.h"

#include "worker/control.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HELLO_WAIT_MS 10000 /* the gateway sends it right after spawn; longer means that it is gone or stopped */

static sp_status map_whole(int fd, size_t need_bytes, int protection, uint8_t **ret_memory, size_t *ret_bytes,
                           sp_error *reterr)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "fstat of shared memory");
    /* Sealed against shrinking, so what fstat says now holds for good: no SIGBUS later. */
    if (st.st_size <= 0 || (size_t)st.st_size < need_bytes)
        return SP_FAIL(reterr, SP_INTERNAL, "shared memory has %lld bytes, %zu are needed", (long long)st.st_size, need_bytes);
    void *memory = mmap(NULL, (size_t)st.st_size, protection, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "mmap of %lld bytes", (long long)st.st_size);
    *ret_memory = memory;
    *ret_bytes = (size_t)st.st_size;
    return SP_OK;
}

static void unmap(uint8_t **memory, size_t *size_bytes)
{
    if (*memory)
        (void)munmap(*memory, *size_bytes);
    *memory = NULL;
    *size_bytes = 0;
}

static void unmap_output(const sp_maps *maps, sp_slot_map *map)
{
    if (map->output_pinned)
        maps->on_unmapped(maps->on_mapped_context, map->output);
    map->output_pinned = false;
    unmap(&map->output, &map->output_bytes);
}

static sp_status map_house(sp_maps *maps, int request_fd, int worker_fd, sp_error *reterr)
{
    uint8_t *memory = NULL;
    size_t size;
    sp_status s = map_whole(request_fd, SP_REQUEST_MEMFD_BYTES, PROT_READ, &memory, &size, reterr);
    if (s)
        return s;
    maps->house = (sp_house_page *)(void *)memory;
    maps->requests = (const sp_slot_request *)(void *)(memory + SP_REQUEST_MEMFD_REQUESTS_OFFSET);
    maps->inline_bodies = memory + SP_REQUEST_MEMFD_BODIES_OFFSET;
    maps->heads = memory + SP_REQUEST_MEMFD_HEADS_OFFSET;
    if (maps->house->abi != SP_SLOT_ABI)
        return SP_FAIL(reterr, SP_INTERNAL, "the gateway speaks slot protocol %u, this worker %u", maps->house->abi, SP_SLOT_ABI);
    s = map_whole(worker_fd, SP_WORKER_MEMFD_BYTES, PROT_READ | PROT_WRITE, &memory, &size, reterr);
    if (s)
        return s;
    maps->page = (sp_worker_page *)(void *)memory;
    maps->answers = memory + SP_WORKER_MEMFD_ANSWERS_OFFSET;
    return SP_OK;
}

sp_status sp_maps_open(sp_maps *maps, int control_fd, sp_error *reterr)
{
    maps->control_fd = control_fd;
    for (int i = 0; i < SP_LIMIT_SLOTS; i++)
        maps->slots[i] = (sp_slot_map){ .body_fd = -1, .output_fd = -1, .media_fd = -1 };
    struct pollfd ready = { .fd = control_fd, .events = POLLIN };
    if (poll(&ready, 1, HELLO_WAIT_MS) != 1)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "no word from the gateway on descriptor %d", control_fd);
    sp_control hello;
    int fds[SP_CONTROL_FDS], fd_count;
    sp_status s = sp_control_receive(control_fd, &hello, fds, &fd_count, reterr);
    if (s)
        return s;
    if (hello.kind != SP_CONTROL_HELLO || fd_count != 4)
        return SP_FAIL(reterr, SP_INTERNAL, "the gateway's first word is not a greeting");
    s = map_house(maps, fds[0], fds[1], reterr);
    sp_fd_closep(&fds[0]);
    sp_fd_closep(&fds[1]);
    maps->submit_fd = fds[2];
    maps->complete_fd = fds[3];
    return s;
}

static void take_body(sp_slot_map *map, uint32_t serial, int fd)
{
    unmap(&map->body, &map->body_bytes);
    sp_fd_closep(&map->body_fd);
    map->body_fd = fd;
    map->body_serial = serial;
}

static void take_media(sp_slot_map *map, uint32_t serial, int fd)
{
    sp_fd_closep(&map->media_fd);
    map->media_fd = fd;
    map->media_serial = serial;
}

static void take_output(const sp_maps *maps, sp_slot_map *map, uint32_t serial, int fd)
{
    unmap_output(maps, map);
    sp_fd_closep(&map->output_fd);
    map->output_fd = fd;
    map->output_serial = serial;
    map->output_writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

sp_status sp_maps_receive(sp_maps *maps, sp_error *reterr)
{
    for (;;) {
        sp_control message;
        int fds[SP_CONTROL_FDS], fd_count;
        sp_status s = sp_control_receive(maps->control_fd, &message, fds, &fd_count, reterr);
        if (s == SP_BUSY)
            return SP_OK;
        if (s)
            return s;
        bool used = fd_count == 1 && message.slot < SP_LIMIT_SLOTS;
        if (used && message.kind == SP_CONTROL_BODY)
            take_body(&maps->slots[message.slot], message.serial, fds[0]);
        else if (used && message.kind == SP_CONTROL_OUTPUT)
            take_output(maps, &maps->slots[message.slot], message.serial, fds[0]);
        else if (used && message.kind == SP_CONTROL_MEDIA)
            take_media(&maps->slots[message.slot], message.serial, fds[0]);
        else if (fd_count == 1 && message.kind == SP_CONTROL_CONFIG && maps->on_config)
            maps->on_config(maps->on_config_context, message.serial, fds[0]);
        else
            for (int i = 0; i < fd_count; i++)
                sp_fd_closep(&fds[i]);
    }
}

static sp_status map_body(sp_maps *maps, uint32_t slot, sp_view *ret_body, sp_error *reterr)
{
    const sp_slot_request *request = &maps->requests[slot];
    sp_slot_map *map = &maps->slots[slot];
    uint64_t all = request->body_bytes;
    if (!request->body_in_memfd) {
        if (all > SP_LIMIT_SLOT_INLINE_BYTES)
            return SP_FAIL(reterr, SP_INTERNAL, "an inline body of %llu bytes", (unsigned long long)all);
        *ret_body = sp_view_make(maps->inline_bodies + (size_t)slot * SP_LIMIT_SLOT_INLINE_BYTES, all);
        return SP_OK;
    }
    if (map->body_serial != request->body_memfd_serial || map->body_fd < 0)
        return SP_FAIL(reterr, SP_INTERNAL, "the body of slot %u never arrived", slot);
    if (!map->body) {
        sp_status s = map_whole(map->body_fd, all, PROT_READ, &map->body, &map->body_bytes, reterr);
        if (s)
            return s;
    }
    *ret_body = sp_view_make(map->body, all);
    return SP_OK;
}

sp_status sp_maps_payload(sp_maps *maps, uint32_t slot, sp_view *ret_payload, sp_error *reterr)
{
    const sp_slot_request *request = &maps->requests[slot];
    uint64_t offset = request->payload_offset, size = request->payload_bytes, all = request->body_bytes;
    if (offset > all || size > all - offset)
        return SP_FAIL(reterr, SP_INTERNAL, "payload %llu+%llu lies outside a body of %llu bytes", (unsigned long long)offset,
                       (unsigned long long)size, (unsigned long long)all);
    sp_view body;
    sp_status s = map_body(maps, slot, &body, reterr);
    if (!s)
        *ret_payload = sp_view_make(body.data + offset, size);
    return s;
}

sp_status sp_maps_body(sp_maps *maps, uint32_t slot, sp_view *ret_body, sp_error *reterr)
{
    const sp_slot_map *map = &maps->slots[slot];
    const sp_slot_request *request = &maps->requests[slot];
    bool sent = !request->body_in_memfd || (map->body_fd >= 0 && map->body_serial == request->body_memfd_serial);
    *ret_body = (sp_view){ 0 };
    return sent || map->output_fd < 0 ? map_body(maps, slot, ret_body, reterr) : SP_OK;
}

const sp_infer_head *sp_maps_infer_head(const sp_maps *maps, uint32_t slot)
{
    return (const sp_infer_head *)(const void *)(maps->heads + (size_t)slot * SP_INFER_HEAD_STRIDE);
}

uint8_t *sp_maps_answer(sp_maps *maps, uint32_t slot)
{
    uint8_t *answer = maps->answers + (size_t)slot * SP_ANSWER_STRIDE;
    size_t touched = maps->answers_touched[slot];
    if (touched > SP_ANSWER_KEEP_BYTES) {
        /* Best effort: what stays is memory that is used again. */
        (void)madvise(answer + SP_ANSWER_KEEP_BYTES, SP_ALIGN_UP(touched - SP_ANSWER_KEEP_BYTES, (size_t)4096), MADV_REMOVE);
        maps->answers_touched[slot] = SP_ANSWER_KEEP_BYTES;
    }
    return answer;
}

void sp_maps_answered(sp_maps *maps, uint32_t slot, size_t touched_bytes)
{
    maps->answers_touched[slot] = SP_MAX(maps->answers_touched[slot], SP_MIN(touched_bytes, SP_ANSWER_STRIDE));
}

sp_status sp_maps_media(const sp_maps *maps, uint32_t slot, int *ret_fd, sp_error *reterr)
{
    const sp_slot_map *map = &maps->slots[slot];
    uint32_t serial = maps->requests[slot].media_serial;
    if (map->media_fd < 0 || !serial || map->media_serial != serial)
        return SP_FAIL(reterr, SP_INTERNAL, "the media file of slot %u never arrived", slot);
    *ret_fd = map->media_fd;
    return SP_OK;
}

static sp_slot_map *output_of(sp_maps *maps, uint32_t slot, uint32_t serial)
{
    sp_slot_map *map = &maps->slots[slot];
    return map->output_fd >= 0 && map->output_serial == serial ? map : NULL;
}

sp_status sp_maps_input(sp_maps *maps, const sp_submission *submission, sp_view *ret_input, bool *ret_pinned, sp_error *reterr)
{
    *ret_input = (sp_view){ 0 };
    *ret_pinned = false;
    if (submission->output_kind == SP_OUTPUT_NONE || submission->op == SP_OP_DECODE || submission->op == SP_OP_FETCH ||
        submission->op == SP_OP_REPORT)
        return SP_OK;
    sp_slot_map *map = output_of(maps, submission->slot, submission->output_serial);
    if (!map)
        return SP_FAIL(reterr, SP_INTERNAL, "the decoded picture of slot %u never arrived", submission->slot);
    if (map->output_bytes < submission->output_bytes) {
        unmap_output(maps, map);
        sp_status s = map_whole(map->output_fd, submission->output_bytes,
                                map->output_writable ? PROT_READ | PROT_WRITE : PROT_READ, &map->output, &map->output_bytes,
                                reterr);
        if (s)
            return s;
        /* What goes with its request is not worth it: making pages known to a device costs more than copying them once. */
        if (maps->on_mapped && map->output_bytes <= SP_OUTPUT_KEEP_BYTES)
            map->output_pinned = maps->on_mapped(maps->on_mapped_context, map->output, map->output_bytes);
    }
    *ret_input = sp_view_make(map->output, submission->output_bytes);
    *ret_pinned = map->output_pinned;
    return SP_OK;
}

sp_status sp_maps_output(sp_maps *maps, uint32_t slot, size_t size_bytes, uint8_t **ret_output, sp_error *reterr)
{
    sp_slot_map *map = &maps->slots[slot];
    if (map->output_fd < 0 || !map->output_writable)
        return SP_FAIL(reterr, SP_INTERNAL, "slot %u has no output to write to", slot);
    if (map->output_bytes < size_bytes) {
        unmap_output(maps, map);
        struct stat st;
        if (fstat(map->output_fd, &st) < 0)
            return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "fstat of an output");
        size_t grown = SP_ALIGN_UP(size_bytes, (size_t)4096);
        if ((size_t)st.st_size < grown && ftruncate(map->output_fd, (off_t)grown) < 0)
            return SP_FAIL_ERRNO(reterr, SP_NOMEM, "an output of %zu bytes", size_bytes);
        sp_status s = map_whole(map->output_fd, size_bytes, PROT_READ | PROT_WRITE, &map->output, &map->output_bytes, reterr);
        if (s)
            return s;
    }
    *ret_output = map->output;
    return SP_OK;
}

sp_status sp_maps_output_fd(sp_maps *maps, const sp_submission *submission, int *ret_fd, sp_error *reterr)
{
    sp_slot_map *map = output_of(maps, submission->slot, submission->output_serial);
    if (!map || !map->output_writable)
        return SP_FAIL(reterr, SP_INTERNAL, "slot %u has no output to write to", submission->slot);
    unmap_output(maps, map);
    *ret_fd = map->output_fd;
    return SP_OK;
}

void sp_maps_drop_output(sp_maps *maps, uint32_t slot)
{
    sp_slot_map *map = &maps->slots[slot];
    unmap_output(maps, map);
    sp_fd_closep(&map->output_fd);
    map->output_serial = 0;
}

void sp_maps_release(sp_maps *maps, uint32_t slot)
{
    sp_slot_map *map = &maps->slots[slot];
    unmap(&map->body, &map->body_bytes);
    sp_fd_closep(&map->body_fd);
    map->body_serial = 0;
    sp_fd_closep(&map->media_fd);
    map->media_serial = 0;
    if (map->output_bytes > SP_OUTPUT_KEEP_BYTES)
        sp_maps_drop_output(maps, slot);
}
