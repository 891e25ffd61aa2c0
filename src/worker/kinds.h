/* SPDX-License-Identifier: Apache-2.0
 * The worker kinds that exist, for the table in kinds.c alone. */
#ifndef SP_WORKER_KINDS_H
#define SP_WORKER_KINDS_H

#include "worker/worker.h"

extern const sp_worker_kind sp_worker_kind_codec; /* decodes pictures, sandboxed; worker/codec.c */
extern const sp_worker_kind sp_worker_kind_device; /* "cpu", "cuda", "tensorrt", "sim"; worker/device.c */
extern const sp_worker_kind sp_worker_kind_net; /* remotes, fetches, sends; worker/net.c */
extern const sp_worker_kind sp_worker_kind_sampler; /* measures devices, takes no leases; worker/sampler.c */
extern const sp_worker_kind sp_worker_kind_noop; /* answers no-ops only: for measuring the hop */

#endif
