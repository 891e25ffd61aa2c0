/* SPDX-License-Identifier: Apache-2.0
 * store/cache in memory: bound by bytes, order of use, time to live, purge of a class, and a random walk. */
#include "store/cache.h"

#include "base/clock.h"
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_cache *cache;
static int64_t now = 1000;

static void begin(uint64_t memory_bytes, int64_t ttl_s)
{
    sp_cache_config config = { .memory_bytes = memory_bytes, .ttl_s = ttl_s };
    loop_begin();
    REQUIRE(sp_cache_open(loop, &config, &cache, NULL) == SP_OK);
}

static void finish_cache(void)
{
    sp_cache_close(cache);
    cache = NULL;
    loop_end();
}

static sp_cache_key key_of(int n)
{
    sp_cache_key key = { { 0 } };
    memcpy(key.sha256, &n, sizeof(n));
    return key;
}

static void put(int n, const char *class_tag, const char *value)
{
    sp_cache_key key = key_of(n);
    sp_cache_put(cache, &key, class_tag, sp_view_of(value), now);
}

/* The value, or "". */
static const char *look(int n)
{
    static char text[256];
    sp_cache_key key = key_of(n);
    sp_view value = { 0 };
    if (!sp_cache_look(cache, &key, now, &value))
        return "";
    (void)snprintf(text, sizeof(text), "%.*s", (int)value.size_bytes, (const char *)value.data);
    return text;
}

TEST(what_was_put_is_found)
{
    begin(1 << 20, 0);
    CHECK_TEXT(look(1), "");
    put(1, "a", "one");
    put(2, "a", "");
    CHECK_TEXT(look(1), "one");
    sp_view value = { .size_bytes = 9 };
    sp_cache_key key = key_of(2);
    CHECK(sp_cache_look(cache, &key, now, &value) && value.size_bytes == 0);
    put(1, "a", "another");
    CHECK_TEXT(look(1), "another");
    key = key_of(1);
    sp_cache_remove(cache, &key);
    CHECK_TEXT(look(1), "");
    sp_cache_remove(cache, &key);
    CHECK(!sp_cache_ask(cache, &key, NULL, NULL)); /* no Redis */
    CHECK(!sp_cache_count(cache, "x", 60, 1, NULL, NULL));
    finish_cache();
}

TEST(the_least_recently_used_leaves)
{
    begin(4096, 0);
    for (int i = 0; i < 10; i++)
        put(i, "a", "a value of some bytes");
    CHECK_TEXT(look(0), "a value of some bytes"); /* now the newest */
    uint64_t each = sp_cache_bytes(cache) / 10;
    for (uint64_t i = 10; i <= 4096 / each; i++) /* one more than fits */
        put((int)i, "a", "a value of some bytes");
    CHECK(sp_cache_bytes(cache) <= 4096);
    CHECK_TEXT(look(1), "");
    CHECK_TEXT(look(2), "a value of some bytes");
    CHECK_TEXT(look(0), "a value of some bytes");
    finish_cache();
}

TEST(one_answer_may_not_push_out_all_others)
{
    char large[1000];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = 0;
    begin(4096, 0);
    put(1, "a", "small");
    put(2, "a", large);
    CHECK_TEXT(look(2), "");
    CHECK_TEXT(look(1), "small");
    finish_cache();
    begin(0, 0); /* off */
    put(1, "a", "small");
    CHECK_TEXT(look(1), "");
    finish_cache();
}

TEST(answers_grow_old)
{
    now = 1000;
    begin(1 << 20, 10);
    put(1, "a", "one");
    now += 10 * SP_NS_PER_S - 1;
    CHECK_TEXT(look(1), "one");
    now += 1;
    CHECK_TEXT(look(1), "");
    CHECK_INT(sp_cache_bytes(cache), 0);
    finish_cache();
}

TEST(a_class_is_purged_alone)
{
    begin(1 << 20, 0);
    put(1, "classify/fp32", "one");
    put(2, "classify/int8", "two");
    sp_cache_purge(cache, "classify/int8");
    sp_cache_purge(cache, "never/seen");
    CHECK_TEXT(look(1), "one");
    CHECK_TEXT(look(2), "");
    put(2, "classify/int8", "new");
    CHECK_TEXT(look(2), "new");
    for (int i = 0; i < 200; i++) { /* more classes than are told apart */
        char tag[100];
        (void)snprintf(tag, sizeof(tag), "class/%0*d", 3 + i % 90, i);
        put(100 + i, tag, "x");
        sp_cache_purge(cache, tag);
        CHECK_TEXT(look(100 + i), "");
    }
    CHECK_TEXT(look(1), "one");
    finish_cache();
}

TEST(a_value_may_be_put_from_its_own_view)
{
    begin(2048, 0);
    put(1, "a", "itself");
    sp_cache_key key = key_of(1);
    sp_view value = { 0 };
    REQUIRE(sp_cache_look(cache, &key, now, &value));
    sp_cache_put(cache, &key, "a", value, now);
    CHECK_TEXT(look(1), "itself");
    finish_cache();
}

#define KEYS 300
TEST(random_calls_never_tell_something_old)
{
    static int version[KEYS]; /* of the value that may be there */
    static bool gone[KEYS];
    memset(version, 0, sizeof(version));
    memset(gone, 1, sizeof(gone));
    begin(20000, 0);
    for (int i = 0; i < 20000; i++) {
        int n = test_random_between(0, KEYS - 1);
        char text[64];
        sp_cache_key key = key_of(n);
        switch (test_random_between(0, 40)) {
        case 0:
            sp_cache_remove(cache, &key);
            gone[n] = true;
            break;
        case 1:
            sp_cache_purge(cache, n % 2 ? "odd" : "even");
            for (int k = n % 2; k < KEYS; k += 2)
                gone[k] = true;
            break;
        case 2 ... 15:
            version[n]++;
            gone[n] = false;
            (void)snprintf(text, sizeof(text), "%d.%d%*s", n, version[n], test_random_between(0, 30), "");
            put(n, n % 2 ? "odd" : "even", text);
            break;
        default: {
            int key_read = -1, version_read = -1;
            const char *found = look(n);
            CHECK(!*found || (sscanf(found, "%d.%d", &key_read, &version_read) == 2 && key_read == n && version_read == version[n] && !gone[n]));
        }
        }
        CHECK(sp_cache_bytes(cache) <= 20000);
    }
    finish_cache();
}
