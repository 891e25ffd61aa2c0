/* SPDX-License-Identifier: Apache-2.0
 * Results in MongoDB: libspillway_mongo.so, opened only when results.mongodb is set (libmongoc brings TLS, SASL, ICU and
 * more; a gateway without it starts in milliseconds). One client, used by the store thread alone. The collection is
 * `results`; a document is the one of results_internal.h with an _id made of id and tenant, so the same id replaces.
 *
 *   time     (unix_ms, id)              pages over all tenants, costs
 *   tenant   (tenant, unix_ms, id)      a tenant's pages and costs
 *   task     (task, unix_ms)            retention
 *   id       (id)                       get and erase without a tenant
 * They are made by the first call that reaches the server. Fault point `store.mongo`: each call of the driver. */
#include "store/results_internal.h"

#include <inttypes.h>
#include <mongoc/mongoc.h>
#include <stdio.h>
#include <stdlib.h>

/* A server that is down is noticed within this; after two such calls the breaker spares the next ones. */
#define SELECT_MS 1000
#define SOCKET_MS 5000

struct results_store {
    const results_host *host;
    mongoc_client_t *client;
    mongoc_collection_t *collection;
    char database[64];
    bool indexed;
};

/* --- errors ------------------------------------------------------------------------------------------------------ */

static sp_status fail(const bson_error_t *e, sp_error *reterr)
{
    sp_status s = SP_UNAVAILABLE;
    if (e->domain == MONGOC_ERROR_CLIENT && e->code == MONGOC_ERROR_CLIENT_AUTHENTICATE)
        s = SP_DENIED;
    else if (e->domain == MONGOC_ERROR_BSON || (e->domain == MONGOC_ERROR_COMMAND && e->code == MONGOC_ERROR_COMMAND_INVALID_ARG))
        s = SP_INVALID;
    else if ((e->domain == MONGOC_ERROR_SERVER || e->domain == MONGOC_ERROR_COMMAND) &&
             (e->code == 10334 || e->code == 17419 || e->code == 17420)) /* BSONObjectTooLarge and its kin */
        s = SP_TOO_LARGE;
    return SP_FAIL_FROM(reterr, s, "mongoc", (int)e->code, "MongoDB: %.200s", e->message);
}

static sp_status faulted(results_store *store, sp_error *reterr)
{
    switch (store->host->fault()) {
    case SP_FAULT_FAIL:
        return SP_FAIL(reterr, SP_UNAVAILABLE, "MongoDB is not reached (fault point)");
    case SP_FAULT_NOMEM:
        return SP_FAIL(reterr, SP_NOMEM, "no memory to talk to MongoDB (fault point)");
    default:
        return SP_OK;
    }
}

/* --- open, close ------------------------------------------------------------------------------------------------- */

static void close_store(results_store *store)
{
    if (!store)
        return;
    if (store->collection)
        mongoc_collection_destroy(store->collection);
    if (store->client)
        mongoc_client_destroy(store->client);
    free(store); /* mongoc_cleanup is left out: nobody may use the library after it, and another store may come */
}

static sp_status make_client(results_store *store, const char *text, sp_error *reterr)
{
    bson_error_t e;
    mongoc_uri_t *uri = mongoc_uri_new_with_error(text, &e);
    if (!uri)
        return SP_FAIL_FROM(reterr, SP_INVALID, "mongoc", (int)e.code, "the address of MongoDB cannot be read: %.150s", e.message);
    if (!mongoc_uri_get_option_as_int32(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, 0))
        (void)mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, SELECT_MS);
    if (!mongoc_uri_get_option_as_int32(uri, MONGOC_URI_CONNECTTIMEOUTMS, 0))
        (void)mongoc_uri_set_option_as_int32(uri, MONGOC_URI_CONNECTTIMEOUTMS, SELECT_MS);
    if (!mongoc_uri_get_option_as_int32(uri, MONGOC_URI_SOCKETTIMEOUTMS, 0))
        (void)mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SOCKETTIMEOUTMS, SOCKET_MS);
    const char *database = mongoc_uri_get_database(uri);
    if (!store->database[0])
        (void)snprintf(store->database, sizeof(store->database), "%s", database && *database ? database : "spillway");
    store->client = mongoc_client_new_from_uri(uri);
    mongoc_uri_destroy(uri);
    if (!store->client)
        return SP_FAIL(reterr, SP_INVALID, "the address of MongoDB asks for what this libmongoc does not have (TLS?)");
    (void)mongoc_client_set_error_api(store->client, MONGOC_ERROR_API_VERSION_2);
    (void)mongoc_client_set_appname(store->client, "spillway"); /* a name for the server's log, no more */
    store->collection = mongoc_client_get_collection(store->client, store->database, "results");
    return store->collection ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for MongoDB's collection");
}

/* The driver would print on stderr what it also returns. */
static void say_nothing(mongoc_log_level_t level, const char *domain, const char *message, void *context)
{
    (void)level;
    (void)domain;
    (void)message;
    (void)context;
}

static sp_status open_store(const results_host *host, const sp_results_config *config, const char *data_dir, bool read_only,
                            results_store **ret_store, sp_error *reterr)
{
    static bool ready; /* the loop's thread opens stores, one after the other */
    (void)data_dir;
    if (!ready) {
        mongoc_log_set_handler(say_nothing, NULL);
        mongoc_init();
        ready = true;
    }
    results_store *store = calloc(1, sizeof(*store));
    if (!store)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the results' store");
    store->host = host;
    store->indexed = read_only; /* a reader makes none */
    (void)snprintf(store->database, sizeof(store->database), "%s", config->database);
    sp_status s = make_client(store, config->mongodb, reterr);
    if (s) {
        close_store(store);
        return s;
    }
    *ret_store = store;
    return SP_OK;
}

static const char indexes[] =
    "{\"createIndexes\": \"results\", \"indexes\": ["
    "{\"name\": \"time\", \"key\": {\"unix_ms\": 1, \"id\": 1}},"
    "{\"name\": \"tenant\", \"key\": {\"tenant\": 1, \"unix_ms\": 1, \"id\": 1}},"
    "{\"name\": \"task\", \"key\": {\"task\": 1, \"unix_ms\": 1}},"
    "{\"name\": \"id\", \"key\": {\"id\": 1}}]}";

/* Before each call: is it to fail, and have the indexes been made? */
static sp_status ready(results_store *store, sp_error *reterr)
{
    bson_error_t e;
    sp_status s = faulted(store, reterr);
    if (s || store->indexed)
        return s;
    bson_t *command = bson_new_from_json((const uint8_t *)indexes, -1, &e);
    bool ok = command && mongoc_client_write_command_with_opts(store->client, store->database, command, NULL, NULL, &e);
    bson_destroy(command);
    if (!ok)
        return fail(&e, reterr);
    store->indexed = true;
    return faulted(store, reterr);
}

/* --- documents --------------------------------------------------------------------------------------------------- */

static void append_text(bson_t *bson, const char *name, const char *text)
{
    (void)BSON_APPEND_UTF8(bson, name, bson_utf8_validate(text, strlen(text), false) ? text : "");
}

/* The answer as a document of its own, so that MongoDB's own tools can look into it. What JSON can say and BSON cannot
 * ("$" keys that mean something there, empty keys, an array at the top) is kept as text. */
static void append_document(bson_t *bson, const results_entry *entry)
{
    const bson_validate_flags_t demands = BSON_VALIDATE_UTF8 | BSON_VALIDATE_UTF8_ALLOW_NULL | BSON_VALIDATE_EMPTY_KEYS; /* the driver's */
    bool plain = entry->document[strspn(entry->document, " \t")] == '{' && !memmem(entry->document, entry->document_bytes, "\"$", 2);
    bson_error_t e;
    bson_t *document = plain ? bson_new_from_json((const uint8_t *)entry->document, (ssize_t)entry->document_bytes, &e) : NULL;
    if (document && bson_validate(document, demands, NULL))
        (void)BSON_APPEND_DOCUMENT(bson, "document", document);
    else
        (void)bson_append_utf8(bson, "document_text", -1, entry->document, (int)entry->document_bytes);
    bson_destroy(document);
}

/* "LENGTH:id:tenant": one text, since not every server of this protocol compares documents as keys alike. */
static void append_id(bson_t *bson, const char *id, const char *tenant)
{
    char key[128];
    (void)snprintf(key, sizeof(key), "%zu:%s:%s", strlen(id), id, tenant);
    append_text(bson, "_id", key);
}

/* Costs are summed by it; a field of its own, since not every server of this protocol computes while it groups. */
static void append_day(bson_t *bson, int64_t unix_ms)
{
    char day[32];
    struct tm date;
    time_t seconds = (time_t)(unix_ms / 1000);
    if (!gmtime_r(&seconds, &date) || !strftime(day, sizeof(day), "%Y-%m-%d", &date))
        day[0] = 0;
    append_text(bson, "day", day);
}

static bson_t *document_of(const results_entry *entry)
{
    bson_t *bson = bson_new();
    append_id(bson, entry->result.id, entry->result.tenant);
    for (int i = 0; i < RESULTS_FIELDS; i++) {
        const results_field *field = &results_fields[i];
        const void *at = (const char *)&entry->result + field->offset;
        if (field->kind == RESULTS_TEXT)
            append_text(bson, field->name, at);
        else if (field->kind == RESULTS_BOOL)
            (void)BSON_APPEND_BOOL(bson, field->name, *(const bool *)at);
        else
            (void)BSON_APPEND_INT64(bson, field->name, *(const int64_t *)at);
    }
    append_day(bson, entry->result.unix_ms);
    append_document(bson, entry);
    return bson;
}

static sp_status put(results_store *store, const results_entry *entries, sp_error *reterr)
{
    bson_error_t e = { 0 };
    sp_status s = ready(store, reterr);
    if (s)
        return s;
    bson_t *ordered = BCON_NEW("ordered", BCON_BOOL(true)), *upsert = BCON_NEW("upsert", BCON_BOOL(true));
    mongoc_bulk_operation_t *bulk = mongoc_collection_create_bulk_operation_with_opts(store->collection, ordered);
    bool ok = true;
    for (const results_entry *entry = entries; entry && ok; entry = entry->next) {
        bson_t *document = document_of(entry), selector = BSON_INITIALIZER;
        append_id(&selector, entry->result.id, entry->result.tenant);
        ok = mongoc_bulk_operation_replace_one_with_opts(bulk, &selector, document, upsert, &e);
        bson_destroy(document);
        bson_destroy(&selector);
    }
    if (ok) {
        bson_t reply;
        ok = mongoc_bulk_operation_execute(bulk, &reply, &e) != 0;
        bson_destroy(&reply);
    }
    mongoc_bulk_operation_destroy(bulk);
    bson_destroy(upsert);
    bson_destroy(ordered);
    return ok ? SP_OK : fail(&e, reterr);
}

/* --- asking ------------------------------------------------------------------------------------------------------ */

/* `text` as a regular expression that matches itself. */
static void append_regex(bson_t *filter, const char *text)
{
    char regex[2 * 256 + 1];
    size_t n = 0;
    for (const char *c = text; *c && n + 2 < sizeof(regex); c++) {
        if (strchr("\\^$.|?*+()[]{}", *c))
            regex[n++] = '\\';
        regex[n++] = *c;
    }
    regex[n] = 0;
    bson_t *match = BCON_NEW("text", "{", "$regex", BCON_UTF8(regex), "$options", BCON_UTF8("i"), "}");
    (void)bson_concat(filter, match);
    bson_destroy(match);
}

/* (unix_ms, id) comes after the cursor in falling order. */
static void append_cursor(bson_t *filter, const results_ask *ask)
{
    bson_t *either = BCON_NEW("$or", "[", "{", "unix_ms", "{", "$lt", BCON_INT64(ask->before_unix_ms), "}", "}", "{", "unix_ms",
                              BCON_INT64(ask->before_unix_ms), "id", "{", "$lt", BCON_UTF8(ask->before_id), "}", "}", "]");
    (void)bson_concat(filter, either);
    bson_destroy(either);
}

static bson_t *filter_of(const results_ask *ask)
{
    bson_t *filter = bson_new(), range;
    if (!ask->any_tenant)
        append_text(filter, "tenant", ask->tenant);
    if (ask->task[0])
        append_text(filter, "task", ask->task);
    if (ask->stream[0])
        append_text(filter, "stream", ask->stream);
    if (ask->provider[0])
        append_text(filter, "provider", ask->provider);
    if (ask->fallback >= 0)
        (void)BSON_APPEND_BOOL(filter, "fallback", ask->fallback != 0);
    if (ask->text[0])
        append_regex(filter, ask->text);
    if (ask->from_unix_ms > 0 || ask->to_unix_ms > 0) {
        (void)BSON_APPEND_DOCUMENT_BEGIN(filter, "unix_ms", &range);
        if (ask->from_unix_ms > 0)
            (void)BSON_APPEND_INT64(&range, "$gte", ask->from_unix_ms);
        if (ask->to_unix_ms > 0)
            (void)BSON_APPEND_INT64(&range, "$lt", ask->to_unix_ms);
        (void)bson_append_document_end(filter, &range);
    }
    if (ask->before_id[0])
        append_cursor(filter, ask);
    return filter;
}

static int64_t number_at(const bson_t *bson, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, bson, name) ? bson_iter_as_int64(&iter) : 0;
}

static const char *text_at(const bson_t *bson, const char *name)
{
    bson_iter_t iter;
    return bson_iter_init_find(&iter, bson, name) && BSON_ITER_HOLDS_UTF8(&iter) ? bson_iter_utf8(&iter, NULL) : "";
}

static void read_result(const bson_t *bson, sp_result *ret_result)
{
    bson_iter_t iter;
    for (int i = 0; i < RESULTS_FIELDS; i++) {
        const results_field *field = &results_fields[i];
        char *at = (char *)ret_result + field->offset;
        if (field->kind == RESULTS_TEXT)
            (void)snprintf(at, field->size_bytes, "%s", text_at(bson, field->name));
        else if (field->kind == RESULTS_BOOL)
            *(bool *)at = bson_iter_init_find(&iter, bson, field->name) && bson_iter_as_bool(&iter);
        else
            *(int64_t *)at = number_at(bson, field->name);
    }
}

static void write_document(const bson_t *bson, sp_buf *json, sp_result *ret_result)
{
    bson_iter_t iter;
    bson_t document;
    const uint8_t *data;
    uint32_t length;
    char *text = NULL;
    read_result(bson, ret_result);
    if (bson_iter_init_find(&iter, bson, "document") && BSON_ITER_HOLDS_DOCUMENT(&iter)) {
        bson_iter_document(&iter, &length, &data);
        if (bson_init_static(&document, data, length))
            text = bson_as_relaxed_extended_json(&document, NULL);
    }
    results_write_json(json, ret_result, sp_view_of(text ? text : text_at(bson, "document_text")));
    bson_free(text);
}

static sp_status query(results_store *store, const results_ask *ask, results_page *page, sp_error *reterr)
{
    const bson_t *found;
    bson_error_t e;
    sp_result last = { 0 };
    sp_status s = ready(store, reterr);
    if (s)
        return s;
    bson_t *filter = filter_of(ask);
    bson_t *options = BCON_NEW("sort", "{", "unix_ms", BCON_INT32(-1), "id", BCON_INT32(-1), "}", "limit",
                               BCON_INT64(ask->limit + 1));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(store->collection, filter, options, NULL);
    sp_buf_append_text(&page->json, "[");
    while (mongoc_cursor_next(cursor, &found)) {
        if (page->count == ask->limit || (page->count && page->json.size_bytes > RESULTS_PAGE_BYTES)) {
            results_write_cursor(page->cursor, last.unix_ms, last.id);
            break;
        }
        if (page->count++)
            sp_buf_append_text(&page->json, ",");
        write_document(found, &page->json, &last);
    }
    sp_buf_append_text(&page->json, "]");
    if (mongoc_cursor_error(cursor, &e))
        s = fail(&e, reterr);
    mongoc_cursor_destroy(cursor);
    bson_destroy(options);
    bson_destroy(filter);
    return s;
}

/* The newest document of that id, copied. SP_NOT_FOUND: none. */
static sp_status find(results_store *store, const results_ask *ask, const char *id, bson_t **ret_bson, sp_error *reterr)
{
    const bson_t *found;
    bson_error_t e;
    sp_status s = ready(store, reterr);
    if (s)
        return s;
    bson_t filter = BSON_INITIALIZER;
    append_text(&filter, "id", id);
    if (!ask->any_tenant)
        append_text(&filter, "tenant", ask->tenant);
    bson_t *options = BCON_NEW("sort", "{", "unix_ms", BCON_INT32(-1), "}", "limit", BCON_INT64(1));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(store->collection, &filter, options, NULL);
    if (mongoc_cursor_next(cursor, &found))
        *ret_bson = bson_copy(found);
    else if (mongoc_cursor_error(cursor, &e))
        s = fail(&e, reterr);
    else
        s = SP_FAIL(reterr, SP_NOT_FOUND, "there is no such result");
    mongoc_cursor_destroy(cursor);
    bson_destroy(options);
    bson_destroy(&filter);
    return s;
}

static sp_status get(results_store *store, const results_ask *ask, const char *id, results_page *page, sp_error *reterr)
{
    bson_t *found = NULL;
    sp_result result;
    sp_status s = find(store, ask, id, &found, reterr);
    if (s)
        return s;
    write_document(found, &page->json, &result);
    page->count = 1;
    bson_destroy(found);
    return SP_OK;
}

static sp_status erase(results_store *store, const results_ask *ask, const char *id, results_page *page, sp_error *reterr)
{
    bson_t *found = NULL, selector = BSON_INITIALIZER;
    bson_error_t e;
    sp_status s = find(store, ask, id, &found, reterr);
    if (s)
        return s;
    s = faulted(store, reterr);
    append_id(&selector, id, text_at(found, "tenant"));
    if (!s && !mongoc_collection_delete_one(store->collection, &selector, NULL, NULL, &e))
        s = fail(&e, reterr);
    if (!s) {
        (void)snprintf(page->cache_key, sizeof(page->cache_key), "%s", text_at(found, "cache_key"));
        page->count = 1;
    }
    bson_destroy(&selector);
    bson_destroy(found);
    return s;
}

/* The group's name is one text of lines, because not every server of this protocol groups by several fields; a day first,
 * so that its order is the rows'. */
static bson_t *costs_pipeline(const results_ask *ask)
{
    bson_t *filter = filter_of(ask);
    bson_t *pipeline = BCON_NEW(
        "pipeline", "[",
        "{", "$match", BCON_DOCUMENT(filter), "}",
        "{", "$group", "{",
            "_id", "{", "$concat", "[", BCON_UTF8("$day"), BCON_UTF8("\n"), BCON_UTF8("$task"), BCON_UTF8("\n"),
                BCON_UTF8("$provider"), BCON_UTF8("\n"), BCON_UTF8("$tier"), "]", "}",
            "requests", "{", "$sum", BCON_INT64(1), "}",
            "device_ns", "{", "$sum", BCON_UTF8("$device_ns"), "}",
            "microdollars", "{", "$sum", BCON_UTF8("$microdollars"), "}", "}", "}",
        "{", "$sort", "{", "_id", BCON_INT32(1), "}", "}",
        "{", "$limit", BCON_INT64(RESULTS_COST_ROWS), "}", "]");
    bson_destroy(filter);
    return pipeline;
}

static void write_cost(const bson_t *row, results_page *page)
{
    char parts[4][64] = { "" }; /* day, task, provider, tier */
    const char *at = text_at(row, "_id");
    for (int i = 0; i < 4; i++) {
        size_t length = strcspn(at, "\n");
        (void)snprintf(parts[i], sizeof(parts[i]), "%.*s", (int)length, at);
        at += length + (at[length] == '\n');
    }
    results_write_cost(&page->json, page->count++ == 0, parts[1], parts[2], parts[3], parts[0], number_at(row, "requests"),
                       number_at(row, "device_ns"), number_at(row, "microdollars"));
}

static sp_status costs(results_store *store, const results_ask *ask, results_page *page, sp_error *reterr)
{
    const bson_t *row;
    bson_error_t e;
    sp_status s = ready(store, reterr);
    if (s)
        return s;
    bson_t *pipeline = costs_pipeline(ask);
    mongoc_cursor_t *cursor = mongoc_collection_aggregate(store->collection, MONGOC_QUERY_NONE, pipeline, NULL, NULL);
    sp_buf_append_text(&page->json, "[");
    while (mongoc_cursor_next(cursor, &row))
        write_cost(row, page);
    sp_buf_append_text(&page->json, "]");
    if (mongoc_cursor_error(cursor, &e))
        s = fail(&e, reterr);
    mongoc_cursor_destroy(cursor);
    bson_destroy(pipeline);
    return s;
}

static sp_status sweep(results_store *store, const char *task, int64_t before_unix_ms, sp_error *reterr)
{
    bson_error_t e;
    sp_status s = ready(store, reterr);
    if (s)
        return s;
    bson_t *selector = BCON_NEW("task", BCON_UTF8(task), "unix_ms", "{", "$lt", BCON_INT64(before_unix_ms), "}");
    if (!mongoc_collection_delete_many(store->collection, selector, NULL, NULL, &e))
        s = fail(&e, reterr);
    bson_destroy(selector);
    return s;
}

SP_EXPORT const results_table sp_results_mongo_table; /* found by its name */
const results_table sp_results_mongo_table = { .abi = RESULTS_ABI, .open = open_store, .close = close_store, .put = put, .query = query,
                                               .get = get, .erase = erase, .costs = costs, .sweep = sweep };
