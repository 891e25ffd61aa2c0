/* SPDX-License-Identifier: Apache-2.0
 * The control socket: one sp_control a packet, up to four descriptors beside it. Used by both ends. */
#ifndef SP_WORKER_CONTROL_H
#define SP_WORKER_CONTROL_H

#include "base/status.h"
#include "worker/slot.h"

#define SP_CONTROL_FDS 4

/* Never blocks. SP_BUSY: the peer's queue is full; SP_UNAVAILABLE: the peer is gone. The descriptors stay the caller's. */
sp_status sp_control_send(int socket_fd, const sp_control *message, const int *fds, int fd_count, sp_error *reterr);

/* Never blocks. SP_BUSY: nothing there; SP_UNAVAILABLE: the peer closed. Received descriptors are CLOEXEC and the
 * caller's; entries beyond *ret_fd_count are -1. A packet of another size or with more descriptors is SP_CORRUPT. */
sp_status sp_control_receive(int socket_fd, sp_control *ret_message, int ret_fds[SP_CONTROL_FDS], int *ret_fd_count,
                             sp_error *reterr);

#endif
