/* SPDX-License-Identifier: Apache-2.0
 * Finds and opens libspillway_media.so, so that a program which serves carries no decoder until it asks for one. */
#ifndef SP_MEDIA_LOAD_H
#define SP_MEDIA_LOAD_H

#include "media/image.h"

/* The decoders, from where base/plugin.h looks for plug-ins.
 * SP_UNSUPPORTED, code "missing_plugin" or "bad_plugin": not found (the message lists where it was looked for), cannot
 * be loaded, or of another ABI. The library stays open until the process ends; the pointer is valid as long. Call it
 * before the sandbox closes. Threads: any; a second call returns the same pointer. */
sp_status sp_media_load(const sp_media_api **ret_api, sp_error *reterr);

#endif
