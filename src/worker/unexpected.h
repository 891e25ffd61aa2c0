/* SPDX-License-Identifier: Apache-2.0
 * Errors that nobody planned for. Each SP_INTERNAL that is made in this process is logged where it is made, with origin,
 * file:line and a backtrace: once per place and minute, with how often it was left out since. */
#ifndef SP_WORKER_UNEXPECTED_H
#define SP_WORKER_UNEXPECTED_H

/* From now on. Before the sandbox: the first backtrace of a process loads a library. */
void sp_unexpected_watch(void);

#endif
