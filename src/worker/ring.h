/* SPDX-License-Identifier: Apache-2.0
 * The two rings of the slot protocol: one producer process, one consumer process, entries by value.
 *
 * Each side passes its own index from private memory (`own`), because the one in shared memory can be overwritten by a
 * broken peer; the peer's index is read once and bounds-checked. A ring cannot fill: it has more entries than the house
 * has slots, and a worker holds a slot at most once. */
#ifndef SP_WORKER_RING_H
#define SP_WORKER_RING_H

#include "worker/slot.h"

#include <stdbool.h>
#include <unistd.h>

#define SP_RING_DEFINE(name, ring_type, entry_type)                                                      \
    static inline bool name##_push(ring_type *ring, uint32_t *own_tail, const entry_type *entry)         \
    {                                                                                                    \
        uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);                         \
        if (*own_tail - head >= SP_RING_ENTRIES)                                                         \
            return false;                                                                                \
        ring->entries[*own_tail % SP_RING_ENTRIES] = *entry;                                             \
        atomic_store_explicit(&ring->tail, ++*own_tail, memory_order_release);                           \
        return true;                                                                                     \
    }                                                                                                    \
    static inline bool name##_empty(const ring_type *ring, uint32_t own_head)                            \
    {                                                                                                    \
        return atomic_load_explicit(&((ring_type *)(uintptr_t)ring)->tail, memory_order_acquire) == own_head; \
    }                                                                                                    \
    static inline bool name##_pop(ring_type *ring, uint32_t *own_head, entry_type *ret_entry)            \
    {                                                                                                    \
        uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);                         \
        if (tail == *own_head || tail - *own_head > SP_RING_ENTRIES)                                     \
            return false;                                                                                \
        *ret_entry = ring->entries[*own_head % SP_RING_ENTRIES];                                         \
        atomic_store_explicit(&ring->head, ++*own_head, memory_order_release);                           \
        return true;                                                                                     \
    }

SP_RING_DEFINE(sp_submissions, sp_ring_submissions, sp_submission)
SP_RING_DEFINE(sp_completions, sp_ring_completions, sp_completion)

/* After a push: must the other side be rung? Before a sleep: the flag is set, then the ring is looked at once more. The
 * two fences make one of the two sides see the other (Dekker). */
static inline bool sp_ring_must_wake(_Atomic uint32_t *peer_sleeping)
{
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(peer_sleeping, memory_order_relaxed) &&
           atomic_exchange_explicit(peer_sleeping, 0, memory_order_relaxed);
}

static inline void sp_ring_announce_sleep(_Atomic uint32_t *own_sleeping)
{
    atomic_store_explicit(own_sleeping, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

/* Wakes whoever sleeps on the eventfd. A full counter (EAGAIN) means that it is ringing already. */
static inline void sp_ring_bell(int event_fd)
{
    uint64_t one = 1;
    (void)!write(event_fd, &one, sizeof(one));
}

#endif
