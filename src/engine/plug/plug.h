/* SPDX-License-Identifier: Apache-2.0
 * What our engine plug-ins share: the checks of a call that need only the ABI, before a library is asked to do anything.
 * Like the plug-ins, it includes nothing of Spillway but the ABI. */
#ifndef SP_ENGINE_PLUG_PLUG_H
#define SP_ENGINE_PLUG_PLUG_H

#include "spillway_engine.h"

#include <stdbool.h>
#include <stddef.h>

/* Fills *reterr (NULL is fine) and returns `status`. */
sp_engine_status plug_fail(sp_engine_error *reterr, const char *origin, sp_engine_status status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* dlopen of the library behind a plug-in: the file that the environment's `variable` names and no other, else `file` beside the
 * plug-in, in `build_dir` ("" = none), where the system looks. NULL: `why` is the linker's last word. */
void *plug_library_open(const char *variable, const char *file, const char *build_dir, char *why, size_t why_size);

/* Bytes of one element; 0 = strings, or a type that does not cross the ABI. */
size_t plug_dtype_bytes(int32_t dtype);

/* Strings are packed as length, bytes, length, bytes ... */
uint32_t plug_length_read(const uint8_t *at);
void plug_length_write(uint8_t *at, uint32_t length);

/* The host's options, whatever its version. INVALID: neither path nor bytes, or both; threads or lanes out of range. */
sp_engine_status plug_options_copy(const sp_engine_load_options *given, const char *origin,
                                   sp_engine_load_options *ret_options, sp_engine_error *reterr);
/* The value of an option; "" when it is not given. */
const char *plug_option(const sp_engine_load_options *options, const char *key);

/* One run, as the host asked for it. */
typedef struct plug_call {
    const sp_engine_ports *ports;
    const char *origin;
    int32_t lane, lane_count;
    const sp_engine_tensor *inputs, *outputs;
    int32_t input_count, output_count;
    bool absent_inputs; /* inputs may be absent */
} plug_call;

/* OK, or INVALID or UNSUPPORTED as run() says, and then nothing may run. A port of rank 0 takes any rank. */
sp_engine_status plug_call_check(const plug_call *call, sp_engine_error *reterr);

/* Elements of a tensor that was checked. */
uint64_t plug_count(const sp_engine_tensor *tensor);

#endif
