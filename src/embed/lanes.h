/* SPDX-License-Identifier: Apache-2.0
 * Lanes of one handle: numbers 0 .. count - 1, each lent to one caller at a time. A caller waits until one is free. */
#ifndef SP_EMBED_LANES_H
#define SP_EMBED_LANES_H

#include <pthread.h>
#include <stdbool.h>

#define SP_LIMIT_LANES 64

typedef struct sp_lanes {
    pthread_mutex_t lock; /* guards `busy` */
    pthread_cond_t freed;
    int count;
    bool busy[SP_LIMIT_LANES];
} sp_lanes;

void sp_lanes_init(sp_lanes *lanes, int count); /* 1 .. SP_LIMIT_LANES */
void sp_lanes_done(sp_lanes *lanes);
int sp_lanes_take(sp_lanes *lanes);
void sp_lanes_give_back(sp_lanes *lanes, int lane);

#endif
