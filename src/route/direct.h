/* SPDX-License-Identifier: Apache-2.0
 * decode=nvjpeg: a link that decodes JPEG files on its device is given the file as it was sent; no codec worker sees it.
 *
 * It is tried once a request. Whatever the link does not take, or fails at, goes the ordinary way, to the same link or the next:
 * that costs no try, makes no body a suspect, and is counted with its reason. A worker that dies over a file is given none any more
 * until the server starts anew: a file that kills decoders must not kill a GPU's worker again and again. */
#ifndef SP_ROUTE_DIRECT_H
#define SP_ROUTE_DIRECT_H

#include "route/internal.h"

/* May this entry of the chain have the file itself? Never a suspect's, nor one of the house's own. */
bool sp_direct_may(const sp_request *request, int entry);

/* A card has come: what a dead predecessor has shown is written into it. */
void sp_direct_judge(const sp_worker *worker, sp_worker_card *card);

/* The lease is back. `answered`: right, and the answer is told how. `failed`: why is in the answer's error, and the request goes
 * on. `ended`: the process died with the file in hand. */
void sp_direct_answered(sp_worker *worker, sp_request *request);
void sp_direct_failed(sp_worker *worker, sp_request *request, sp_status status);
void sp_direct_ended(sp_worker *worker);

#endif
