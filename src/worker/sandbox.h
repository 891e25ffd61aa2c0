/* SPDX-License-Identifier: Apache-2.0
 * Takes from the calling process all that decoding does not need: files, sockets, other programs, other processes.
 *
 *   no_new_privs   no setuid program may lift what follows
 *   seccomp        an allow-list of about fifty system calls; any other kills the process (SIGSYS)
 *   Landlock       no path of any file system, no TCP port (where the kernel has it)
 *   rlimits        no core files, files of at most SP_SANDBOX_FILE_BYTES, SP_SANDBOX_DESCRIPTORS descriptors
 *
 * Descriptors that are open stay open, and more may come over a socket. Threads may be started later; they inherit it.
 * What the sandbox does not do: bound CPU time, and memory but for sp_sandbox_limit_memory (the supervisor's watchdog and the
 * cgroup do). */
#ifndef SP_WORKER_SANDBOX_H
#define SP_WORKER_SANDBOX_H

#include "base/status.h"

/* The largest output that a worker may have to make: a tensor or a picture in shared memory. */
#define SP_SANDBOX_FILE_BYTES (1024u * 1024 * 1024)

/* Two for each slot, the control socket, both event descriptors, and some air. */
#define SP_SANDBOX_DESCRIPTORS 1024

typedef enum sp_sandbox_level {
    SP_SANDBOX_NONE = 0,
    SP_SANDBOX_PARTIAL, /* the kernel or the build lacks a part; detail says which */
    SP_SANDBOX_FULL,
} sp_sandbox_level;

typedef struct sp_sandbox_report {
    sp_sandbox_level level;
    char detail[192]; /* "seccomp, landlock abi 6", "seccomp; no landlock (not in this kernel)", ... */
} sp_sandbox_report;

/* Enters it for good. To be called with one thread, after everything that opens files (dlopen, time zones, /proc).
 * What the kernel does not grant lowers the level and is no error; SP_INTERNAL when a step failed half-way in a way that
 * leaves the process in no known state. */
sp_status sp_sandbox_enter(sp_sandbox_report *ret_report, sp_error *reterr);

/* Address space of this process from now on. Before sp_sandbox_enter. Does nothing under sanitizers. */
void sp_sandbox_limit_memory(uint64_t size_bytes);

const char *sp_sandbox_level_name(sp_sandbox_level level); /* "full", "partial", "none" */

#endif
