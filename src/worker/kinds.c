/* SPDX-License-Identifier: Apache-2.0
 * The table of worker kinds. A new kind is a file of its own and one row here. */
#include "worker/kinds.h"

#include "worker/worker.h"

#include <string.h>

const sp_worker_kind *sp_worker_kind_find(const char *kind)
{
    static const struct {
        const char *name;
        const sp_worker_kind *kind;
    } rows[] = {
        { "codec", &sp_worker_kind_codec },
        { "cpu", &sp_worker_kind_device },
        { "cuda", &sp_worker_kind_device },
        { "tensorrt", &sp_worker_kind_device },
        { "sim", &sp_worker_kind_device },
        { "net", &sp_worker_kind_net },
        { "noop", &sp_worker_kind_noop },
        { "sampler", &sp_worker_kind_sampler },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        if (strcmp(rows[i].name, kind) == 0)
            return rows[i].kind;
    }
    return NULL;
}
