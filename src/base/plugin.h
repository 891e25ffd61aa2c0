/* SPDX-License-Identifier: Apache-2.0
 * Where plug-ins (libspillway_media.so, libspillway_engine_*.so) are found, and how they are opened. What is inside one
 * (its entry symbol, its ABI number) is the business of the room that asks. */
#ifndef SP_BASE_PLUGIN_H
#define SP_BASE_PLUGIN_H

#include "base/status.h"

#define SP_LIMIT_PLUGIN_PATH_BYTES 1024

/* Opens `file` ("libspillway_media.so") from the first of these directories that has it:
 *   1. each one of SPILLWAY_PLUGINS (colon-separated; when it is set, nothing else is looked at)
 *   2. the directory of /proc/self/exe
 *   3. ../lib/spillway, ../LIBDIR/spillway (the installation's) and spillway, seen from that directory
 *   4. for a program that runs from its build tree: where that build puts plug-ins
 *   5. the same three for libspillway.so, when that is what this code was linked into
 * SP_UNSUPPORTED, code "missing_plugin": in none of them, the message lists where it was looked for; code "bad_plugin":
 * found, and the dynamic linker refused it (the message is its own, it names a library that is missing).
 * *ret_path (SP_LIMIT_PLUGIN_PATH_BYTES, may be NULL) is where it came from. Never closed: its code may hold threads
 * and exit handlers. Threads: any. */
sp_status sp_plugin_open(const char *file, void **ret_handle, char *ret_path, sp_error *reterr);

/* dlsym that says what was wrong: SP_UNSUPPORTED, code "bad_plugin". */
sp_status sp_plugin_symbol(void *handle, const char *file, const char *symbol, void **ret_symbol, sp_error *reterr);

#endif
