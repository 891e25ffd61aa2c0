/* SPDX-License-Identifier: Apache-2.0
 * worker/control and worker/maps: descriptors arrive, odd packets do not harm, forged numbers are refused. */
#include "test.h"
#include "worker/control.h"
#include "worker/maps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int ends[2];

static void pair_open(void)
{
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
}

static void pair_close(void)
{
    sp_fd_closep(&ends[0]);
    sp_fd_closep(&ends[1]);
}

TEST(descriptors_travel_with_their_word)
{
    pair_open();
    int pipe_ends[2], fds[SP_CONTROL_FDS], count;
    REQUIRE(pipe(pipe_ends) == 0);
    sp_control out = { .kind = SP_CONTROL_BODY, .slot = 7, .serial = 9 }, in;
    CHECK_INT(sp_control_send(ends[0], &out, pipe_ends, 2, NULL), SP_OK);
    CHECK_INT(sp_control_receive(ends[1], &in, fds, &count, NULL), SP_OK);
    CHECK_INT(in.slot, 7);
    CHECK_INT(in.serial, 9);
    REQUIRE(count == 2);
    char byte = 'x', got = 0;
    CHECK_INT(write(fds[1], &byte, 1), 1); /* it is the pipe itself */
    CHECK_INT(read(pipe_ends[0], &got, 1), 1);
    CHECK_INT(got, 'x');
    for (int i = 0; i < 2; i++) {
        (void)close(fds[i]);
        (void)close(pipe_ends[i]);
    }
    pair_close();
}

TEST(silence_and_an_ended_peer_are_told_apart)
{
    pair_open();
    sp_control in;
    sp_error err = { 0 };
    int fds[SP_CONTROL_FDS], count;
    CHECK_INT(sp_control_receive(ends[1], &in, fds, &count, &err), SP_BUSY);
    sp_fd_closep(&ends[0]);
    CHECK_INT(sp_control_receive(ends[1], &in, fds, &count, &err), SP_UNAVAILABLE);
    CHECK_INT(sp_control_send(ends[1], &in, NULL, 0, &err), SP_UNAVAILABLE);
    pair_close();
}

TEST(a_packet_of_another_size_is_corrupt)
{
    pair_open();
    sp_control in;
    int fds[SP_CONTROL_FDS], count;
    CHECK_INT(send(ends[0], "short", 5, 0), 5);
    CHECK_INT(sp_control_receive(ends[1], &in, fds, &count, NULL), SP_CORRUPT);
    static char large[sizeof(sp_control) + 100];
    CHECK_INT(send(ends[0], large, sizeof(large), 0), sizeof(large));
    CHECK_INT(sp_control_receive(ends[1], &in, fds, &count, NULL), SP_CORRUPT);
    pair_close();
}

TEST(a_full_socket_says_busy_and_keeps_the_descriptor)
{
    pair_open();
    sp_control out = { .kind = SP_CONTROL_BODY };
    sp_status s = SP_OK;
    int sent = 0;
    while (s == SP_OK && sent < 100000) {
        s = sp_control_send(ends[0], &out, NULL, 0, NULL);
        sent++;
    }
    CHECK_INT(s, SP_BUSY);
    pair_close();
}

/* A house and a worker page as the gateway would make them. */
static sp_slot_request *house_open(sp_maps *maps)
{
    pair_open();
    int fds[4] = { memfd_create("requests", MFD_CLOEXEC), memfd_create("worker", MFD_CLOEXEC), eventfd(0, EFD_CLOEXEC),
                   eventfd(0, EFD_CLOEXEC) };
    REQUIRE(ftruncate(fds[0], SP_REQUEST_MEMFD_BYTES) == 0 && ftruncate(fds[1], SP_WORKER_MEMFD_BYTES) == 0);
    uint8_t *memory = mmap(NULL, SP_REQUEST_MEMFD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    REQUIRE(memory != MAP_FAILED);
    ((sp_house_page *)(void *)memory)->abi = SP_SLOT_ABI;
    sp_control hello = { .kind = SP_CONTROL_HELLO };
    sp_error err = { 0 };
    REQUIRE(sp_control_send(ends[0], &hello, fds, 4, &err) == SP_OK);
    REQUIRE(sp_maps_open(maps, ends[1], &err) == SP_OK);
    for (int i = 0; i < 4; i++)
        (void)close(fds[i]);
    return (sp_slot_request *)(void *)(memory + SP_REQUEST_MEMFD_REQUESTS_OFFSET);
}

TEST(a_payload_outside_its_body_is_refused)
{
    static sp_maps maps;
    sp_slot_request *requests = house_open(&maps);
    sp_view view;
    sp_error err = { 0 };
    requests[3] = (sp_slot_request){ .body_bytes = 100, .payload_offset = 10, .payload_bytes = 90 };
    CHECK_INT(sp_maps_payload(&maps, 3, &view, &err), SP_OK);
    CHECK_INT(view.size_bytes, 90);
    requests[3].payload_bytes = 91;
    CHECK_INT(sp_maps_payload(&maps, 3, &view, &err), SP_INTERNAL);
    requests[3] = (sp_slot_request){ .body_bytes = 100, .payload_offset = UINT64_MAX, .payload_bytes = 2 };
    CHECK_INT(sp_maps_payload(&maps, 3, &view, &err), SP_INTERNAL);
    requests[3] = (sp_slot_request){ .body_bytes = SP_LIMIT_SLOT_INLINE_BYTES + 1, .payload_bytes = 1 };
    CHECK_INT(sp_maps_payload(&maps, 3, &view, &err), SP_INTERNAL);
    requests[3] = (sp_slot_request){ .body_bytes = 1, .payload_bytes = 1, .body_in_memfd = 1, .body_memfd_serial = 5 };
    CHECK_INT(sp_maps_payload(&maps, 3, &view, &err), SP_INTERNAL); /* its descriptor never came */
    pair_close();
}

TEST(a_body_shorter_than_it_says_is_refused_not_read)
{
    static sp_maps maps;
    sp_slot_request *requests = house_open(&maps);
    int fd = memfd_create("body", MFD_CLOEXEC);
    REQUIRE(fd >= 0 && ftruncate(fd, 4096) == 0);
    sp_control word = { .kind = SP_CONTROL_BODY, .slot = 1, .serial = 5 };
    sp_error err = { 0 };
    sp_view view;
    REQUIRE(sp_control_send(ends[0], &word, &fd, 1, &err) == SP_OK);
    CHECK_INT(sp_maps_receive(&maps, &err), SP_OK);
    requests[1] = (sp_slot_request){ .body_bytes = 5000, .payload_bytes = 5000, .body_in_memfd = 1, .body_memfd_serial = 5 };
    CHECK_INT(sp_maps_payload(&maps, 1, &view, &err), SP_INTERNAL);
    requests[1].body_bytes = requests[1].payload_bytes = 4096;
    CHECK_INT(sp_maps_payload(&maps, 1, &view, &err), SP_OK);
    sp_maps_release(&maps, 1);
    CHECK(maps.slots[1].body == NULL);
    (void)close(fd);
    pair_close();
}

TEST(an_output_is_kept_while_small_and_dropped_when_large)
{
    static sp_maps maps;
    (void)house_open(&maps);
    int fd = memfd_create("output", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(fd >= 0);
    sp_control word = { .kind = SP_CONTROL_OUTPUT, .slot = 2, .serial = 8 };
    sp_error err = { 0 };
    uint8_t *output = NULL, *again = NULL;
    REQUIRE(sp_control_send(ends[0], &word, &fd, 1, &err) == SP_OK);
    CHECK_INT(sp_maps_output(&maps, 2, 10, &output, &err), SP_INTERNAL); /* not there yet */
    CHECK_INT(sp_maps_receive(&maps, &err), SP_OK);
    REQUIRE(sp_maps_output(&maps, 2, 1000, &output, &err) == SP_OK);
    output[999] = 1;
    sp_maps_release(&maps, 2);
    CHECK_INT(sp_maps_output(&maps, 2, 500, &again, &err), SP_OK);
    CHECK(again == output);
    REQUIRE(sp_maps_output(&maps, 2, SP_OUTPUT_KEEP_BYTES + 1, &output, &err) == SP_OK);
    CHECK_INT(output[999], 1); /* growing keeps what is there */
    sp_maps_release(&maps, 2);
    CHECK(maps.slots[2].output == NULL);
    CHECK_INT(sp_maps_output(&maps, 2, 10, &output, &err), SP_INTERNAL);
    (void)close(fd);
    pair_close();
}
