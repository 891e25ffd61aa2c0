/* SPDX-License-Identifier: Apache-2.0
 * An answer as the cache keeps it: bytes that another server of the same version can read. Pure. */
#ifndef SP_GATEWAY_FLIGHT_VALUE_H
#define SP_GATEWAY_FLIGHT_VALUE_H

#include "base/buf.h"
#include "route/house.h"

/* Largest answer that is kept or shared. */
#define GW_VALUE_BYTES (SP_LIMIT_ANSWER_BYTES + 1024u)

void gw_value_write(sp_buf *out, const sp_answer *answer, sp_task task);

/* *ret_answer gets who answered and, in *classes or its payload (which points into `value`), what; times and attempts are
 * zero. False: not bytes that this version wrote. */
bool gw_value_read(sp_view value, sp_task task, sp_answer *ret_answer, sp_answer_classes *ret_classes);

#endif
