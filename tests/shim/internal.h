/* SPDX-License-Identifier: Apache-2.0
 * Between the stand-in's two halves: runtime.cpp (memory, streams, graphs) and fibres.cpp (the threads of one launch). */
#ifndef SP_SHIM_INTERNAL_H
#define SP_SHIM_INTERNAL_H

#include "cuda_runtime.h"
#include "shim.h"

#if defined(__SANITIZE_ADDRESS__)
#define SP_SHIM_ASAN 1
#else
#define SP_SHIM_ASAN 0
#endif

struct sp_shim_orders {
    sp_shim_order threads = SP_SHIM_FORWARD, blocks = SP_SHIM_FORWARD;
    uint64_t seed = 1;
};

/* The next number of a splitmix64. */
static inline uint64_t sp_shim_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Says what the code under test did wrong, and aborts. */
void sp_shim_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Runs every thread of every block; the caller holds the lock. Dies when the kernel breaks a rule. */
void sp_shim_run_kernel(const char *name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &thread,
                        const sp_shim_orders &orders);

#endif
