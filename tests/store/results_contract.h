/* SPDX-License-Identifier: Apache-2.0
 * What both stores of results promise, as tests: included by results_sqlite.c and results_mongo.c. */
#ifndef SP_TESTS_STORE_RESULTS_CONTRACT_H
#define SP_TESTS_STORE_RESULTS_CONTRACT_H

#include "support.h"

#include "base/clock.h"
#include "base/fault.h"
#include "store/results.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_results *results;
static char data_dir[256];
static sp_results_config results_config;
static bool store_begin(void); /* an empty store, opened; false = SKIP said why */
static void store_end(void);

typedef struct found {
    bool came;
    sp_status status;
    sp_error error;
    json_t *json;
    int count;
    char cursor[128], cache_key[65];
} found;
static found last;

static void take(const sp_results_reply *reply, void *context)
{
    found *f = context;
    if (f->came)
        test_fail(__FILE__, __LINE__, "a call was answered twice");
    f->came = true;
    f->status = reply->status;
    f->count = reply->count;
    if (reply->error)
        f->error = *reply->error;
    if (reply->json.size_bytes) {
        f->json = json_loadb((const char *)reply->json.data, reply->json.size_bytes, 0, NULL);
        if (!f->json)
            test_fail(__FILE__, __LINE__, "no JSON: %.*s", (int)SP_MIN(reply->json.size_bytes, (size_t)300), (const char *)reply->json.data);
    }
    (void)snprintf(f->cursor, sizeof(f->cursor), "%s", reply->cursor);
    memcpy(f->cache_key, reply->cache_key, sizeof(f->cache_key));
}

static found *begin_ask(void)
{
    json_decref(last.json);
    last = (found){ 0 };
    return &last;
}

static found *end_ask(void)
{
    REQUIRE(loop_until(&last.came));
    return &last;
}

static found *query(sp_result_filter filter)
{
    sp_results_query(results, &filter, take, begin_ask());
    return end_ask();
}

static found *get_result(const char *tenant, const char *id)
{
    sp_results_get(results, tenant, id, take, begin_ask());
    return end_ask();
}

static found *erase(const char *tenant, const char *id)
{
    sp_results_erase(results, tenant, id, take, begin_ask());
    return end_ask();
}

static found *costs(const char *tenant, int64_t from, int64_t to)
{
    sp_results_costs(results, tenant, from, to, take, begin_ask());
    return end_ask();
}

static const sp_result_filter any = { .fallback = -1, .limit = 100 };

static sp_result result_make(int i)
{
    static const char *const providers[] = { "cuda0", "cpu0", "remote" };
    sp_result r = { .unix_ms = INT64_C(1767225600000) + (int64_t)i * 3600000, .duration_ns = 5000000, .device_ns = 1000000, .microdollars = 10 + i,
                    .fallback = i % 4 == 0 };
    (void)snprintf(r.id, sizeof(r.id), "r%04d", i);
    (void)snprintf(r.tenant, sizeof(r.tenant), i % 5 ? "acme" : "other");
    (void)snprintf(r.task, sizeof(r.task), i % 2 ? "classify" : "detect");
    (void)snprintf(r.stream, sizeof(r.stream), "cam%d", i % 3);
    (void)snprintf(r.provider, sizeof(r.provider), "%s", providers[i % 3]);
    (void)snprintf(r.tier, sizeof(r.tier), i % 7 ? "free" : "pro");
    (void)snprintf(r.text, sizeof(r.text), "a Tench, number %d 100%% \xC3\xA4_x", i);
    (void)snprintf(r.cache_key, sizeof(r.cache_key), "%064d", i);
    return r;
}

static void put(int i)
{
    char text[256];
    sp_result r = result_make(i);
    (void)snprintf(text, sizeof(text), "{\"n\": %d,\n\"top\": [{\"label\": \"tench \\u00e4\", \"p\": 0.25}], \"big\": 9007199254740993, \"none\": null}", i);
    sp_results_put(results, &r, sp_view_of(text));
}

static void put_many(int count)
{
    for (int i = 0; i < count; i++)
        put(i);
}

TEST(a_result_comes_back_as_it_went)
{
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    put(3);
    found *f = get_result("acme", "r0003");
    REQUIRE(f->status == SP_OK && f->json);
    CHECK_TEXT(json_string_value(json_object_get(f->json, "id")), "r0003");
    CHECK_TEXT(json_string_value(json_object_get(f->json, "stream")), "cam0");
    CHECK_TEXT(json_string_value(json_object_get(f->json, "text")), "a Tench, number 3 100% \xC3\xA4_x");
    CHECK_INT(json_integer_value(json_object_get(f->json, "unix_ms")), result_make(3).unix_ms);
    CHECK(json_is_false(json_object_get(f->json, "fallback")));
    json_t *document = json_object_get(f->json, "document"), *wanted = json_loads("{\"n\":3,\"top\":[{\"label\":\"tench \\u00e4\",\"p\":0.25}],\"big\":9007199254740993,\"none\":null}", 0, NULL);
    CHECK(json_equal(document, wanted));
    json_decref(wanted);
    CHECK_INT(get_result("other", "r0003")->status, SP_NOT_FOUND);
    CHECK_INT(get_result(NULL, "r0003")->status, SP_OK);
    CHECK_INT(get_result(NULL, "r0004")->status, SP_NOT_FOUND);
    put(3); /* the same once more, as after a lost acknowledgement */
    CHECK_INT(query(any)->count, 1);
    store_end();
}

TEST(results_are_filtered)
{
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    put_many(60);
    sp_result_filter f = any;
    CHECK_INT(query(f)->count, 60);
    f.tenant = "acme";
    CHECK_INT(query(f)->count, 48);
    f.tenant = NULL;
    f.task = "classify";
    CHECK_INT(query(f)->count, 30);
    f.stream = "cam1";
    CHECK_INT(query(f)->count, 10);
    f = any;
    f.provider = "remote";
    CHECK_INT(query(f)->count, 20);
    f = any;
    f.fallback = 1;
    CHECK_INT(query(f)->count, 15);
    f.fallback = 0;
    CHECK_INT(query(f)->count, 45);
    f = any;
    f.from_unix_ms = result_make(10).unix_ms;
    f.to_unix_ms = result_make(20).unix_ms; /* exclusive */
    CHECK_INT(query(f)->count, 10);
    f = any;
    f.text = "tench, NUMBER 7 ";
    CHECK_INT(query(f)->count, 1);
    f.text = "100%";
    CHECK_INT(query(f)->count, 60);
    f.text = "100%%";
    CHECK_INT(query(f)->count, 0);
    f.text = ".*";
    CHECK_INT(query(f)->count, 0);
    f.text = "\xC3\xA4_x";
    CHECK_INT(query(f)->count, 60);
    f = any;
    f.cursor = "nonsense";
    CHECK_INT(query(f)->status, SP_INVALID);
    store_end();
}

TEST(pages_follow_each_other_newest_first)
{
    char cursor[128] = "";
    int next = 24;
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    put_many(25);
    for (int page = 0; page < 10; page++) {
        sp_result_filter f = any;
        f.limit = 7;
        f.cursor = cursor;
        found *got = query(f);
        REQUIRE(got->status == SP_OK && got->json);
        for (size_t i = 0; i < json_array_size(got->json); i++) {
            char id[16];
            (void)snprintf(id, sizeof(id), "r%04d", next--);
            CHECK_TEXT(json_string_value(json_object_get(json_array_get(got->json, i), "id")), id);
        }
        memcpy(cursor, got->cursor, sizeof(cursor));
        if (!cursor[0])
            break;
    }
    CHECK_INT(next, -1);
    store_end();
}

TEST(costs_are_summed_by_task_provider_tier_and_day)
{
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    put_many(48); /* two days */
    found *f = costs(NULL, 0, 0);
    REQUIRE(f->status == SP_OK && f->json);
    int64_t requests = 0, microdollars = 0, device_ns = 0;
    size_t i;
    json_t *row;
    json_array_foreach(f->json, i, row) {
        const char *day = json_string_value(json_object_get(row, "day"));
        CHECK(day && (!strcmp(day, "2026-01-01") || !strcmp(day, "2026-01-02")));
        requests += json_integer_value(json_object_get(row, "requests"));
        microdollars += json_integer_value(json_object_get(row, "microdollars"));
        device_ns += json_integer_value(json_object_get(row, "device_ns"));
        CHECK(json_is_string(json_object_get(row, "task")) && json_is_string(json_object_get(row, "provider")) && json_is_string(json_object_get(row, "tier")));
    }
    CHECK_INT(requests, 48);
    CHECK_INT(device_ns, 48000000);
    CHECK_INT(microdollars, 48 * 10 + 48 * 47 / 2);
    f = costs("other", result_make(0).unix_ms, result_make(24).unix_ms);
    requests = 0;
    json_array_foreach(f->json, i, row)
        requests += json_integer_value(json_object_get(row, "requests"));
    CHECK_INT(requests, 5);
    store_end();
}

TEST(erasing_tells_the_cache_key)
{
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    put_many(6);
    CHECK_INT(erase("acme", "r0005")->status, SP_NOT_FOUND); /* another's */
    found *f = erase("acme", "r0004");
    CHECK_INT(f->status, SP_OK);
    CHECK_TEXT(f->cache_key, result_make(4).cache_key);
    CHECK_INT(get_result(NULL, "r0004")->status, SP_NOT_FOUND);
    CHECK_INT(erase("acme", "r0004")->status, SP_NOT_FOUND);
    CHECK_INT(query(any)->count, 5);
    store_end();
}

TEST(a_data_directory_has_one_store_of_results)
{
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    sp_results *second = NULL;
    sp_error err = { 0 };
    CHECK_INT(sp_results_open(loop, &results_config, data_dir, &second, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "data_dir_in_use");
    store_end();
}

TEST(retention_is_kept_per_task)
{
    results_config.retention_count = 1;
    (void)snprintf(results_config.retention[0].task, sizeof(results_config.retention[0].task), "classify");
    results_config.retention[0].seconds = 3600;
    bool ready = store_begin();
    results_config.retention_count = 0;
    if (!ready)
        SKIP("%s", "there is no such server here");
    put_many(10);
    sp_result fresh = result_make(11);
    fresh.unix_ms = sp_clock_wall_ns() / SP_NS_PER_MS;
    sp_results_put(results, &fresh, sp_view_of("{}"));
    sp_results_sweep(results);
    CHECK_INT(query(any)->count, 6); /* five of detect, one that is young */
    store_end();
}

#endif
