/* SPDX-License-Identifier: Apache-2.0
 * See lanes.h. */
#include "embed/lanes.h"

#include "base/status.h"

void sp_lanes_init(sp_lanes *lanes, int count)
{
    SP_ASSERT(count >= 1 && count <= SP_LIMIT_LANES);
    *lanes = (sp_lanes){ .lock = PTHREAD_MUTEX_INITIALIZER, .freed = PTHREAD_COND_INITIALIZER, .count = count };
}

void sp_lanes_done(sp_lanes *lanes)
{
    pthread_cond_destroy(&lanes->freed);
    pthread_mutex_destroy(&lanes->lock);
}

static int find_free(sp_lanes *lanes)
{
    for (int i = 0; i < lanes->count; i++)
        if (!lanes->busy[i])
            return i;
    return -1;
}

int sp_lanes_take(sp_lanes *lanes)
{
    int lane;

    pthread_mutex_lock(&lanes->lock);
    while ((lane = find_free(lanes)) < 0)
        pthread_cond_wait(&lanes->freed, &lanes->lock);
    lanes->busy[lane] = true;
    pthread_mutex_unlock(&lanes->lock);
    return lane;
}

void sp_lanes_give_back(sp_lanes *lanes, int lane)
{
    pthread_mutex_lock(&lanes->lock);
    lanes->busy[lane] = false;
    pthread_cond_signal(&lanes->freed);
    pthread_mutex_unlock(&lanes->lock);
}
