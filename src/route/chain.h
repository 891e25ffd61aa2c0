/* SPDX-License-Identifier: Apache-2.0
 * Choosing, as the other files of the route see it. */
#ifndef SP_ROUTE_CHAIN_H
#define SP_ROUTE_CHAIN_H

#include "route/internal.h"

#define SP_TRIES_PER_WORKER 2 /* one transient failure of the only link must not cost the request */

/* It may answer this request, now or when it is up again. */
bool sp_chain_may_answer(const sp_worker *worker, const sp_request *request);

/* The worker that should have it now, NULL when none can take it; *ret_possible = false when none ever will. `alone`:
 * only one that has nothing else in hand. */
sp_worker *sp_chain_pick(sp_house *house, const sp_request *request, bool alone, bool *ret_possible);

/* Until when `chosen` may try. */
int64_t sp_chain_attempt_deadline(const sp_house *house, const sp_worker *chosen, const sp_request *request, int64_t now_ns);

/* What a DECODE should leave (sp_output_kind). */
uint32_t sp_chain_wanted_output(const sp_house *house);

/* The card of the model that the request asks for, or of the default one; NULL while no worker has said. */
const sp_worker_card *sp_chain_card(const sp_house *house, const sp_request *request);
bool sp_chain_model_may_come(const sp_house *house); /* a device worker that has not said yet may still */

#endif
