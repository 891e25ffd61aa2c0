/* SPDX-License-Identifier: Apache-2.0
 * Finds and opens libspillway_net.so, so that a program which serves carries no libcurl until a net worker asks. */
#ifndef SP_PROVIDER_LOAD_H
#define SP_PROVIDER_LOAD_H

#include "provider/transport.h"

/* From where base/plugin.h looks for plug-ins. SP_UNSUPPORTED, code "missing_plugin" or "bad_plugin". The library stays
 * open until the process ends. Threads: one. */
sp_status sp_net_load(const sp_net_api **ret_api, sp_error *reterr);

#endif
