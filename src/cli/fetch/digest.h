/* SPDX-License-Identifier: Apache-2.0
 * Inside libspillway_fetch.so only. */
#ifndef SP_CLI_FETCH_DIGEST_H
#define SP_CLI_FETCH_DIGEST_H

#include "cli/fetch/fetch.h"

/* sp_fetch_api.digest_file */
sp_status sp_fetch_digest_file(const char *path, char ret_hex[SP_SHA256_HEX_BYTES], sp_error *reterr);

#endif
