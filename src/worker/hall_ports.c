/* SPDX-License-Identifier: Apache-2.0
 * Shapes between the client, the configuration and the engine. Pure. */
#include "worker/hall_internal.h"

#include <string.h>

bool sp_hall_elements(const int64_t *dims, int rank, uint64_t *ret_count)
{
    uint64_t count = 1;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 0 || __builtin_mul_overflow(count, (uint64_t)dims[i], &count))
            return false;
    }
    *ret_count = count;
    return count <= INT64_MAX / 8;
}

/* `from` is the pattern that dims have, `to` the one that is wanted. */
static bool translate(const int64_t *from, int from_rank, const int64_t *to, int to_rank, bool batches, const int64_t *dims,
                      int rank, int64_t *ret_dims, int *ret_rank)
{
    int64_t open[SP_INFER_RANK];
    int first = batches ? 1 : 0, open_count = 0, used = 0;
    if (rank != from_rank + first || to_rank + first > SP_INFER_RANK)
        return false;
    for (int i = 0; i < from_rank; i++)
        if (from[i] < 0)
            open[open_count++] = dims[first + i];
    if (batches)
        ret_dims[0] = dims[0];
    for (int i = 0; i < to_rank; i++) {
        if (to[i] < 0 && used == open_count)
            return false;
        ret_dims[first + i] = to[i] < 0 ? open[used++] : to[i];
    }
    *ret_rank = to_rank + first;
    uint64_t before, after;
    return sp_hall_elements(dims, rank, &before) && sp_hall_elements(ret_dims, *ret_rank, &after) && before == after;
}

static bool copy(const int64_t *dims, int rank, int64_t *ret_dims, int *ret_rank)
{
    memcpy(ret_dims, dims, (size_t)rank * sizeof(*dims));
    *ret_rank = rank;
    return true;
}

bool sp_hall_shape_in(const sp_model_port *port, bool batches, const int64_t *dims, int rank, int64_t *ret_dims, int *ret_rank)
{
    if (!port->has_reshape)
        return copy(dims, rank, ret_dims, ret_rank);
    return translate(port->dims, port->rank, port->reshape, port->reshape_rank, batches, dims, rank, ret_dims, ret_rank);
}

bool sp_hall_shape_out(const sp_model_port *port, bool batches, const int64_t *dims, int rank, int64_t *ret_dims, int *ret_rank)
{
    if (!port->has_reshape)
        return copy(dims, rank, ret_dims, ret_rank);
    return translate(port->reshape, port->reshape_rank, port->dims, port->rank, batches, dims, rank, ret_dims, ret_rank);
}

bool sp_hall_shape_known(const sp_engine_port *port, bool batches, int64_t rows, int64_t *ret_dims, int *ret_rank)
{
    if (port->rank < (batches ? 1 : 0) || port->rank > SP_INFER_RANK || !sp_engine_dtype_bytes(port->dtype))
        return false;
    if (!port->rank)
        return false; /* a scalar, or a rank that the model does not say */
    for (int i = 0; i < port->rank; i++) {
        ret_dims[i] = batches && i == 0 && port->dims[i] < 0 ? rows : port->dims[i];
        if (ret_dims[i] < 0)
            return false;
    }
    *ret_rank = port->rank;
    return !batches || ret_dims[0] == rows;
}
