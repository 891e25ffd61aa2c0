/* SPDX-License-Identifier: Apache-2.0
 * Arena: a list of blocks, bump allocation in the newest. */
#include "base/arena.h"

#include "base/view.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_ALIGN 64u             /* a cache line and a zmm register */
#define ARENA_FIRST_BLOCK 16384u    /* most requests fit, so reset + reuse never meets the heap */

typedef struct arena_block {
    struct arena_block *next;
    size_t capacity_bytes; /* of data[] */
    size_t used_bytes;
    _Alignas(ARENA_ALIGN) uint8_t data[];
} arena_block;

struct sp_arena {
    arena_block *newest;
    size_t limit_bytes;
    size_t used_bytes;
    size_t peak_bytes;
};

sp_arena *sp_arena_new(size_t limit_bytes)
{
    sp_arena *arena = calloc(1, sizeof(*arena));
    if (arena)
        arena->limit_bytes = limit_bytes;
    return arena;
}

void sp_arena_free(sp_arena *arena)
{
    if (!arena)
        return;
    for (arena_block *block = arena->newest, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(arena);
}

static arena_block *block_add(sp_arena *arena, size_t need_bytes)
{
    size_t capacity = SP_MAX(need_bytes, (size_t)ARENA_FIRST_BLOCK);
    size_t total;
    if (!sp_size_add(capacity, sizeof(arena_block) + ARENA_ALIGN, &total) || total > PTRDIFF_MAX)
        return NULL;
    arena_block *block = aligned_alloc(ARENA_ALIGN, SP_ALIGN_UP(total, (size_t)ARENA_ALIGN));
    if (!block)
        return NULL;
    block->next = arena->newest;
    block->capacity_bytes = capacity;
    block->used_bytes = 0;
    arena->newest = block;
    return block;
}

void *sp_arena_get(sp_arena *arena, size_t size_bytes)
{
    size_t padded;
    if (!sp_size_add(size_bytes, ARENA_ALIGN - 1, &padded))
        return NULL;
    padded &= ~(size_t)(ARENA_ALIGN - 1);
    if (padded > arena->limit_bytes - arena->used_bytes)
        return NULL;
    arena_block *block = arena->newest;
    if (!block || padded > block->capacity_bytes - block->used_bytes) {
        block = block_add(arena, padded);
        if (!block)
            return NULL;
    }
    void *memory = block->data + block->used_bytes;
    block->used_bytes += padded;
    arena->used_bytes += padded;
    arena->peak_bytes = SP_MAX(arena->peak_bytes, arena->used_bytes);
    return memory;
}

void *sp_arena_get_zero(sp_arena *arena, size_t size_bytes)
{
    void *memory = sp_arena_get(arena, size_bytes);
    if (memory)
        memset(memory, 0, size_bytes);
    return memory;
}

char *sp_arena_copy_text(sp_arena *arena, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = sp_arena_get(arena, size);
    if (copy)
        memcpy(copy, text, size);
    return copy;
}

void sp_arena_reset(sp_arena *arena)
{
    arena_block *block = arena->newest;
    while (block && block->next) {
        arena_block *next = block->next;
        free(block);
        block = next;
    }
    if (block)
        block->used_bytes = 0;
    arena->newest = block;
    arena->used_bytes = 0;
}

size_t sp_arena_used_bytes(const sp_arena *arena)
{
    return arena->used_bytes;
}

size_t sp_arena_peak_bytes(const sp_arena *arena)
{
    return arena->peak_bytes;
}
