/* SPDX-License-Identifier: Apache-2.0
 * JPEG to RGB8 in device memory by NVIDIA's nvJPEG, for users who choose it. It is no twin of our decoder: other pixels come out,
 * so the answer names it. It reads compressed bytes in the process that owns the GPU; therefore it is only given what
 * sp_jpeg_plain_read has passed, and whatever it does not like is the ordinary decoder's.
 *
 * Loads libnvjpeg.so.13 or .12, or what SPILLWAY_NVJPEG_LIBRARY names, when first asked for, once per process; never closed. */
#ifndef SP_MEDIA_NVJPEG_H
#define SP_MEDIA_NVJPEG_H

#include "media/jpeg_plain.h"

typedef struct sp_nvjpeg sp_nvjpeg;

/* Is the library there, and which: "nvJPEG 13.0.1 (libnvjpeg.so.13)". SP_UNSUPPORTED, code "no_library": why it is not. Threads: any. */
sp_status sp_nvjpeg_find(char *ret_text, size_t size, sp_error *reterr);

/* A decoder for one stream at a time, on the device of the calling thread. What it keeps there grows with the largest picture so
 * far, and is its own. SP_UNSUPPORTED, code "no_library" or "failed". */
sp_status sp_nvjpeg_new(sp_nvjpeg **ret_nvjpeg, sp_error *reterr);
void sp_nvjpeg_free(sp_nvjpeg *nvjpeg); /* its stream has passed everything; NULL is fine */

/* Enqueues on `stream` (a cudaStream_t): plain->height packed rows of plain->width RGB8 pixels at `device`. `file` (it is as long as
 * plain->file_bytes says) and `device` stay as they are until the stream has passed it. SP_UNSUPPORTED, code:
 *   refused   it does not take this file
 *   memory    it had no memory for it
 *   failed    anything else
 * After a failure something may still be on its way: the caller waits for the stream. */
sp_status sp_nvjpeg_decode(sp_nvjpeg *nvjpeg, sp_view file, const sp_jpeg_plain *plain, void *device, void *stream,
                           sp_error *reterr);

#endif
