/* SPDX-License-Identifier: Apache-2.0
 * Spans on their way to a collector: written as text when a request ends, gathered, sent in batches by a net worker. What does
 * not fit the queue, or cannot be delivered in three tries, is dropped and counted. Loop thread only. */
#ifndef SP_GATEWAY_TRACING_H
#define SP_GATEWAY_TRACING_H

#include "gateway/server.h"
#include "gateway/story.h"

typedef struct gw_tracing gw_tracing;

sp_status gw_tracing_new(gw_server *server, gw_tracing **ret_tracing, sp_error *reterr);
void gw_tracing_free(gw_tracing *tracing);
void gw_tracing_add(gw_tracing *tracing, const gw_story *story); /* a sampled one's spans */
void gw_tracing_flush(gw_tracing *tracing);
bool gw_tracing_busy(const gw_tracing *tracing);

#endif
