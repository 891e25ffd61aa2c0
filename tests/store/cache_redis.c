/* SPDX-License-Identifier: Apache-2.0
 * The shared cache and the shared counters on a real redis-server: two servers, purge, outage, a server that hangs, each
 * call failing in turn. */
#include "store/cache.h"

#include "base/clock.h"
#include "base/fault.h"
#include "support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static redis server;
static sp_cache *one, *two;

static void open_both(void)
{
    sp_cache_config config = { .memory_bytes = 1 << 20, .ttl_s = 100 };
    (void)signal(SIGPIPE, SIG_IGN);
    if (!redis_start(&server, "no", "no"))
        SKIP("there is no redis-server");
    (void)snprintf(config.redis, sizeof(config.redis), "%s", server.url);
    loop_begin();
    REQUIRE(sp_cache_open(loop, &config, &one, NULL) == SP_OK);
    REQUIRE(sp_cache_open(loop, &config, &two, NULL) == SP_OK);
}

static void end(void)
{
    sp_cache_close(one);
    sp_cache_close(two);
    loop_end();
    redis_stop(&server);
}

static sp_cache_key key_of(int n)
{
    sp_cache_key key = { { 0 } };
    memcpy(key.sha256, &n, sizeof(n));
    return key;
}

static void put(sp_cache *cache, int n, const char *class_tag, const char *value)
{
    sp_cache_key key = key_of(n);
    sp_cache_put(cache, &key, class_tag, sp_view_of(value), 1);
}

typedef struct heard {
    bool came, known;
    char text[64];
    int64_t sum;
} heard;

static void hear(sp_view value, void *context)
{
    heard *h = context;
    if (h->came)
        test_fail(__FILE__, __LINE__, "answered twice");
    h->came = true;
    (void)snprintf(h->text, sizeof(h->text), "%.*s", (int)value.size_bytes, (const char *)value.data);
}

static void hear_count(int64_t sum, bool known, void *context)
{
    heard *h = context;
    if (h->came)
        test_fail(__FILE__, __LINE__, "answered twice");
    h->came = true;
    h->sum = sum;
    h->known = known;
}

/* The answer, "" = none. */
static const char *ask(sp_cache *cache, int n)
{
    static heard h;
    sp_cache_key key = key_of(n);
    h = (heard){ 0 };
    if (sp_cache_ask(cache, &key, hear, &h))
        REQUIRE(loop_until(&h.came));
    return h.text;
}

/* An answer that is there: a question has little time, and after a failed one the breaker pauses. */
static const char *ask_soon(sp_cache *cache, int n)
{
    const char *text = ask(cache, n);
    for (int i = 0; i < 200 && !*text; i++) {
        (void)nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
        text = ask(cache, n);
    }
    return text;
}

static heard count(sp_cache *cache, const char *name, int64_t amount)
{
    static heard h;
    h = (heard){ 0 };
    REQUIRE(sp_cache_count(cache, name, 86400, amount, hear_count, &h));
    REQUIRE(loop_until(&h.came));
    return h;
}

static void wait_for_redis(sp_cache *cache)
{
    for (int i = 0; i < 200 && !count(cache, "order", 1).known; i++)
        (void)nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
}

/* Both are connected: whatever is asked has 50 ms, and a connection may take them on a busy machine. */
static void begin(void)
{
    open_both();
    wait_for_redis(one);
    wait_for_redis(two);
}

TEST(what_one_server_learnt_the_other_knows)
{
    begin();
    put(one, 1, "a", "an answer\nwith lines\n");
    (void)count(one, "order", 1); /* its thread works in order: the put has been done */
    CHECK_TEXT(ask_soon(two, 1), "an answer\nwith lines\n");
    CHECK_TEXT(ask(two, 2), "");
    put(one, 3, "b", "other class");
    sp_cache_key key = key_of(1);
    sp_cache_remove(one, &key);
    (void)count(one, "order", 1);
    CHECK_TEXT(ask(two, 1), "");
    CHECK_TEXT(ask_soon(two, 3), "other class");
    end();
}

TEST(a_purge_reaches_what_others_put)
{
    begin();
    put(one, 1, "classify/int8", "wrong");
    put(one, 2, "classify/fp32", "right");
    (void)count(one, "order", 1);
    sp_cache_purge(two, "classify/int8");
    (void)count(two, "order", 1);
    CHECK_TEXT(ask(one, 1), "");
    CHECK_TEXT(ask_soon(one, 2), "right");
    put(two, 1, "classify/int8", "new");
    (void)count(two, "order", 1);
    CHECK_TEXT(ask_soon(one, 1), "new");
    end();
}

TEST(counters_are_shared)
{
    begin();
    CHECK_INT(count(one, "token/a", 1).sum, 1);
    CHECK_INT(count(two, "token/a", 5).sum, 6);
    CHECK_INT(count(one, "token/b", 2).sum, 2);
    heard h = count(one, "token/a", 0);
    CHECK(h.known && h.sum == 6);
    char name[400];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    CHECK(!sp_cache_count(one, name, 60, 1, hear_count, &h));
    CHECK(!sp_cache_count(one, "x", 0, 1, hear_count, &h));
    end();
}

TEST(without_redis_everything_is_a_miss_and_comes_back)
{
    begin();
    put(one, 1, "a", "before");
    (void)count(one, "order", 1);
    redis_kill(&server);
    for (int i = 0; i < 20; i++)
        CHECK_TEXT(ask(one, 1), "");
    CHECK(!count(one, "token/a", 1).known);
    redis_restart(&server);
    wait_for_redis(one);
    put(one, 2, "a", "after");
    CHECK_TEXT(ask_soon(one, 2), "after");
    end();
}

TEST(a_redis_that_hangs_costs_a_bounded_wait)
{
    static heard h[64];
    begin();
    put(one, 1, "a", "x");
    (void)count(one, "order", 1);
    (void)kill(server.pid, SIGSTOP);
    int asked = 0;
    for (int i = 0; i < 64; i++) {
        sp_cache_key key = key_of(1);
        h[i] = (heard){ 0 };
        asked += sp_cache_ask(one, &key, hear, &h[i]);
    }
    CHECK_INT(asked, 64);
    for (int i = 0; i < 64; i++) {
        REQUIRE(loop_until(&h[i].came));
        CHECK_TEXT(h[i].text, "");
    }
    (void)kill(server.pid, SIGCONT);
    CHECK_TEXT(ask_soon(one, 1), "x");
    end();
}

TEST(closing_answers_what_is_outstanding)
{
    static heard h[8];
    begin();
    for (int i = 0; i < 8; i++) {
        sp_cache_key key = key_of(i);
        h[i] = (heard){ 0 };
        CHECK(sp_cache_ask(one, &key, hear, &h[i]));
    }
    sp_cache_close(one);
    one = NULL;
    for (int i = 0; i < 8; i++)
        CHECK(h[i].came);
    end();
}

#ifdef SP_FAULTS
TEST(each_call_of_the_shared_cache_may_fail)
{
    static const char *const points[] = { "store.redis:fail", "store.redis:nomem", "store.redis.reply:fail" };
    begin();
    for (size_t p = 0; p < SP_ARRAY_LEN(points); p++) {
        for (int n = 1; n <= 6; n++) {
            char rule[64];
            (void)snprintf(rule, sizeof(rule), "%s@n=%d", points[p], n);
            REQUIRE(sp_fault_arm(rule, NULL) == SP_OK);
            put(one, 1, "a", "value");
            const char *got = ask(one, 1);
            CHECK(!*got || !strcmp(got, "value"));
            heard h = count(one, "n", 1);
            CHECK(!h.known || h.sum > 0);
            sp_cache_purge(one, "other");
            (void)count(one, "n", 1);
            REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
            wait_for_redis(one);
            put(one, 1, "a", "value");
            CHECK_TEXT(ask_soon(one, 1), "value");
        }
    }
    end();
}
#endif
