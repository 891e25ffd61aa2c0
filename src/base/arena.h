/* SPDX-License-Identifier: Apache-2.0
 * Arena: memory that dies together. One per lifetime (process, worker, request, stage); a child arena gives its
 * blocks back to nobody but the heap, so "memory per stage" is sp_arena_used() of that stage's arena. */
#ifndef SP_BASE_ARENA_H
#define SP_BASE_ARENA_H

#include "base/status.h"

typedef struct sp_arena sp_arena;

/* A new arena that will never hold more than `limit_bytes`; its first block is taken on first use.
 * NULL when the heap is out of memory. */
sp_arena *sp_arena_new(size_t limit_bytes);
void sp_arena_free(sp_arena *arena); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_arena, sp_arena_free)

/* `size_bytes` aligned to 64, uninitialised; NULL when the limit or the heap is reached. Size 0 gives a valid pointer.
 * Valid until the next reset or free. */
void *sp_arena_get(sp_arena *arena, size_t size_bytes);
void *sp_arena_get_zero(sp_arena *arena, size_t size_bytes);
char *sp_arena_copy_text(sp_arena *arena, const char *text); /* NULL as above */

/* Forgets everything handed out; keeps the first block, so a steady-state request allocates nothing. */
void sp_arena_reset(sp_arena *arena);

size_t sp_arena_used_bytes(const sp_arena *arena); /* handed out since the last reset, padding included */
size_t sp_arena_peak_bytes(const sp_arena *arena); /* the highest that has been */

#endif
