/* SPDX-License-Identifier: Apache-2.0
 * sendmsg and recvmsg with SCM_RIGHTS. */
#include "worker/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

typedef union control_space {
    char bytes[CMSG_SPACE(SP_CONTROL_FDS * sizeof(int))];
    struct cmsghdr align;
} control_space;

sp_status sp_control_send(int socket_fd, const sp_control *message, const int *fds, int fd_count, sp_error *reterr)
{
    SP_ASSERT(fd_count <= SP_CONTROL_FDS);
    struct iovec part = { .iov_base = (void *)(uintptr_t)message, .iov_len = sizeof(*message) };
    struct msghdr packet = { .msg_iov = &part, .msg_iovlen = 1 };
    control_space space;
    if (fd_count) {
        size_t size = (size_t)fd_count * sizeof(int);
        memset(&space, 0, sizeof(space));
        packet.msg_control = space.bytes;
        packet.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(header), fds, size);
    }
    ssize_t n;
    do {
        n = sendmsg(socket_fd, &packet, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof(*message))
        return SP_OK;
    if (n < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS))
        return SP_FAIL_ERRNO(reterr, SP_BUSY, "control socket");
    return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "control socket");
}

sp_status sp_control_receive(int socket_fd, sp_control *ret_message, int ret_fds[SP_CONTROL_FDS], int *ret_fd_count,
                             sp_error *reterr)
{
    struct iovec part = { .iov_base = ret_message, .iov_len = sizeof(*ret_message) };
    control_space space;
    struct msghdr packet = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = space.bytes, .msg_controllen = sizeof(space.bytes)
    };
    ssize_t n;
    do {
        n = recvmsg(socket_fd, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    *ret_fd_count = 0;
    for (int i = 0; i < SP_CONTROL_FDS; i++)
        ret_fds[i] = -1;
    if (n < 0 && errno == EAGAIN)
        return SP_BUSY;
    if (n <= 0)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "the other end of the control socket is gone");
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&packet); header; header = CMSG_NXTHDR(&packet, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        int count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < count && *ret_fd_count < SP_CONTROL_FDS; i++)
            memcpy(&ret_fds[(*ret_fd_count)++], CMSG_DATA(header) + (size_t)i * sizeof(int), sizeof(int));
    }
    if (n != (ssize_t)sizeof(*ret_message) || (packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        for (int i = 0; i < SP_CONTROL_FDS; i++)
            sp_fd_closep(&ret_fds[i]);
        *ret_fd_count = 0;
        return SP_FAIL(reterr, SP_CORRUPT, "a control packet of %zd bytes instead of %zu", n, sizeof(*ret_message));
    }
    ret_message->text[sizeof(ret_message->text) - 1] = 0;
    return SP_OK;
}
