/* SPDX-License-Identifier: Apache-2.0
 * base/arena: alignment, the limit, reset, what "used" and "peak" say. */
#include "base/arena.h"
#include "test.h"

#include <string.h>

TEST(memory_is_aligned_and_apart)
{
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(1 << 20);
    REQUIRE(arena != NULL);
    uint8_t *got[200];
    size_t sizes[200];
    for (int i = 0; i < 200; i++) {
        sizes[i] = (size_t)test_random_between(0, 3000);
        got[i] = sp_arena_get(arena, sizes[i]);
        REQUIRE(got[i] != NULL);
        CHECK_INT((uintptr_t)got[i] % 64, 0);
        memset(got[i], i, sizes[i]);
    }
    for (int i = 0; i < 200; i++) {
        for (size_t k = 0; k < sizes[i]; k++)
            REQUIRE(got[i][k] == (uint8_t)i);
    }
}

TEST(the_limit_holds_to_the_byte)
{
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(128);
    REQUIRE(arena != NULL);
    CHECK(sp_arena_get(arena, 129) == NULL);
    CHECK(sp_arena_get(arena, 65) != NULL); /* 128 with its padding */
    CHECK_INT(sp_arena_used_bytes(arena), 128);
    CHECK(sp_arena_get(arena, 1) == NULL);
    CHECK(sp_arena_get(arena, 0) != NULL); /* nothing always fits */
    CHECK_INT(sp_arena_used_bytes(arena), 128);
}

TEST(sizes_that_overflow_are_refused)
{
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(SIZE_MAX);
    REQUIRE(arena != NULL);
    for (size_t back = 0; back < 200; back++)
        CHECK(sp_arena_get(arena, SIZE_MAX - back) == NULL);
    CHECK_INT(sp_arena_used_bytes(arena), 0);
    CHECK(sp_arena_get(arena, 10) != NULL);
}

TEST(reset_gives_the_same_memory_again)
{
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(1 << 24);
    REQUIRE(arena != NULL);
    void *first = sp_arena_get(arena, 1000);
    for (int i = 0; i < 100; i++)
        REQUIRE(sp_arena_get(arena, 100000) != NULL); /* many blocks */
    size_t peak = sp_arena_peak_bytes(arena);
    CHECK_INT(peak, sp_arena_used_bytes(arena));
    sp_arena_reset(arena);
    CHECK_INT(sp_arena_used_bytes(arena), 0);
    CHECK_INT(sp_arena_peak_bytes(arena), peak);
    CHECK(sp_arena_get(arena, 1000) == first);
    sp_arena_reset(arena);
    sp_arena_reset(arena); /* twice is fine, as on an arena never used */
    CHECK(sp_arena_get(arena, 1000) == first);
}

TEST(a_whole_limit_can_be_had_after_reset)
{
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(1 << 20);
    REQUIRE(arena != NULL);
    for (int round = 0; round < 5; round++) {
        CHECK(sp_arena_get(arena, 1 << 20) != NULL);
        CHECK(sp_arena_get(arena, 1) == NULL);
        sp_arena_reset(arena);
    }
}

TEST(zeroed_and_copied)
{
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(4096);
    REQUIRE(arena != NULL);
    memset(sp_arena_get(arena, 512), 0xAA, 512);
    sp_arena_reset(arena);
    const uint8_t *zero = sp_arena_get_zero(arena, 512);
    REQUIRE(zero != NULL);
    for (int i = 0; i < 512; i++)
        CHECK_INT(zero[i], 0);
    CHECK_TEXT(sp_arena_copy_text(arena, "tench"), "tench");
    CHECK_TEXT(sp_arena_copy_text(arena, ""), "");
    char long_text[4097];
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = 0;
    CHECK(sp_arena_copy_text(arena, long_text) == NULL);
}

TEST(an_arena_never_used_can_be_reset_and_freed)
{
    sp_arena *arena = sp_arena_new(100);
    REQUIRE(arena != NULL);
    sp_arena_reset(arena);
    CHECK_INT(sp_arena_peak_bytes(arena), 0);
    sp_arena_free(arena);
    sp_arena_free(NULL);
}
