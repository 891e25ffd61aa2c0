/* SPDX-License-Identifier: Apache-2.0
 * Results, the loop's side and the way of a document:
 *
 *   put -> queue -> pending -> the store            (its breaker closed, the spool empty)
 *                           -> the spool -> the store, in order, when it answers again
 *
 * Pending documents of a group of works are stored by one call. What neither the store nor the spool takes stays pending,
 * bounded; what does not fit there is dropped and counted. */
#include "base/clock.h"
#include "base/metrics.h"
#include "base/plugin.h"
#include "store/directory.h"
#include "store/guarded.h"
#include "store/results_line.h"
#include "store/spool.h"
#include "store/worker.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define QUEUE_WORKS 4096
/* Documents on their way to the store thread, and those that nobody takes. */
#define QUEUE_BYTES (64u * 1024 * 1024)
#define DOCUMENT_BYTES (4u * 1024 * 1024) /* the largest that is kept; answers end at 1 MiB */
#define REPLAY_BYTES (512u * 1024)        /* of the spool, stored at once */
#define REPLAY_ROUNDS 8                   /* in one work, so that questions come in between */
#define REPLAY_MS 500                     /* between two tries */

struct sp_results {
    sp_loop *loop;
    sp_store_thread *thread;
    sp_results_config config;
    sp_timer replay_timer;
    bool replaying, closing;
    atomic_int_fast64_t spooled, pending_bytes;
    sp_metric *stored, *dropped, *spooled_gauge;
    int lock_fd;
    /* the store thread's */
    const results_table *table;
    results_store *store;
    sp_spool spool;
    sp_guarded guarded;
    results_entry *pending, **pending_tail;
};

typedef enum results_call { RESULTS_PUT, RESULTS_QUERY, RESULTS_GET, RESULTS_ERASE, RESULTS_COSTS, RESULTS_SWEEP, RESULTS_REPLAY } results_call;

typedef struct results_op {
    sp_store_work work; /* first */
    sp_results *results;
    results_call call;
    sp_results_reply_fn *reply;
    void *context;
    results_entry *entry; /* put */
    results_ask ask;
    char id[48];
    results_page page;
    bool progress; /* replay */
    sp_status refused;
    sp_error refusal;
} results_op;

static void free_entries(results_entry *entry)
{
    while (entry) {
        results_entry *next = entry->next;
        free(entry->document);
        free(entry);
        entry = next;
    }
}

/* --- storing: on the store thread -------------------------------------------------------------------------------- */

static bool is_outage(sp_status s)
{
    return s == SP_UNAVAILABLE || s == SP_TIMEOUT || s == SP_NOMEM || s == SP_BUSY || s == SP_CORRUPT || s == SP_INTERNAL || s == SP_DENIED;
}

/* One call of the store under its breaker. */
static sp_status put_under_breaker(sp_results *results, const results_entry *entries)
{
    uint32_t ticket;
    if (!sp_guarded_allow(&results->guarded, &ticket))
        return SP_UNAVAILABLE;
    sp_status s = results->table->put(results->store, entries, NULL);
    sp_guarded_record(&results->guarded, ticket, !is_outage(s));
    return s;
}

/* Stores the list. When the store dislikes one of them (too large for it), the others are stored and that one is
 * dropped: it would block the spool for ever. Any status but SP_OK is an outage. */
static sp_status store_entries(sp_results *results, results_entry *entries)
{
    int count = 0;
    for (const results_entry *e = entries; e; e = e->next)
        count++;
    sp_status s = put_under_breaker(results, entries);
    if (s && !is_outage(s)) {
        for (results_entry *e = entries, *next; e; e = next) {
            next = e->next;
            e->next = NULL;
            s = put_under_breaker(results, e);
            e->next = next;
            if (s && is_outage(s))
                return s;
            if (s) {
                sp_metric_add(results->dropped, 1);
                count--;
            }
        }
        s = SP_OK;
    }
    if (!s)
        sp_metric_add(results->stored, count);
    return s;
}

static void note_spooled(sp_results *results)
{
    atomic_store(&results->spooled, results->spool.lines);
    sp_metric_set(results->spooled_gauge, results->spool.lines);
}

static sp_status spool_pending(sp_results *results)
{
    sp_buf text;
    int64_t lines = 0;
    sp_buf_init(&text, SP_LIMIT_SPOOL_BYTES);
    for (const results_entry *e = results->pending; e; e = e->next, lines++)
        results_line_write(&text, e);
    sp_status s = sp_buf_ok(&text) ? sp_spool_append(&results->spool, sp_buf_view(&text), lines, NULL) : SP_NOMEM;
    sp_buf_done(&text);
    note_spooled(results);
    return s;
}

static int64_t weight(const results_entry *entry)
{
    return (int64_t)(sizeof(*entry) + entry->document_bytes);
}

static void forget_pending(sp_results *results)
{
    for (const results_entry *e = results->pending; e; e = e->next)
        (void)atomic_fetch_sub(&results->pending_bytes, weight(e));
    free_entries(results->pending);
    results->pending = NULL;
    results->pending_tail = &results->pending;
}

/* To the store, else to the spool; behind what is spooled already, so that the order holds. */
static void flush(sp_results *results)
{
    if (!results->pending)
        return;
    if (results->spool.lines == 0 && store_entries(results, results->pending) == SP_OK)
        forget_pending(results);
    else if (spool_pending(results) == SP_OK)
        forget_pending(results);
}

/* The entries of some lines, in order. *ret_lines = how many lines that was; a line that is none is dropped. */
static sp_status entries_of_lines(sp_results *results, const sp_buf *text, results_entry **ret_entries, int64_t *ret_lines)
{
    results_entry **tail = ret_entries;
    *ret_entries = NULL;
    *ret_lines = 0;
    for (size_t at = 0; at < text->size_bytes; (*ret_lines)++) {
        const char *line = (const char *)text->data + at;
        size_t length = (size_t)((const char *)memchr(line, '\n', text->size_bytes - at) - line);
        results_entry *entry = results_line_read(line, length);
        if (!entry)
            sp_metric_add(results->dropped, 1);
        else
            tail = &(*tail = entry)->next;
        at += length + 1;
    }
    return SP_OK;
}

/* One piece of the spool to the store. SP_OK with *ret_end: it is empty. */
static sp_status replay_piece(sp_results *results, bool *ret_end)
{
    sp_buf text;
    results_entry *entries = NULL;
    int64_t lines = 0;
    *ret_end = results->spool.lines == 0;
    if (*ret_end)
        return SP_OK;
    sp_buf_init(&text, SP_LIMIT_SPOOL_BYTES);
    sp_status s = sp_spool_read(&results->spool, REPLAY_BYTES, &text, NULL);
    if (!s)
        s = entries_of_lines(results, &text, &entries, &lines);
    if (!s && entries)
        s = store_entries(results, entries);
    if (!s)
        s = sp_spool_advance(&results->spool, text.size_bytes, lines, NULL);
    free_entries(entries);
    sp_buf_done(&text);
    note_spooled(results);
    *ret_end = results->spool.lines == 0;
    return s;
}

static sp_status replay(sp_results *results, int rounds, bool *ret_progress)
{
    bool end = false;
    sp_status s = SP_OK;
    int64_t before = results->spool.lines;
    for (int i = 0; i < rounds && !s && !end; i++)
        s = replay_piece(results, &end);
    *ret_progress = results->spool.lines < before;
    if (!s && end)
        flush(results); /* what the spool could not take */
    return s;
}

/* Retention, task by task. */
static sp_status run_sweep(sp_results *results, sp_error *reterr)
{
    int64_t now_ms = sp_clock_wall_ns() / SP_NS_PER_MS;
    sp_status s = SP_OK;
    for (int i = 0; i < results->config.retention_count && !s; i++) {
        const sp_retention *keep = &results->config.retention[i];
        if (keep->seconds > 0)
            s = results->table->sweep(results->store, keep->task, now_ms - keep->seconds * 1000, reterr);
    }
    return s;
}

/* Erasing waits for the spool: a document in there would come back from the dead. */
static sp_status run_erase(sp_results *results, results_op *op, sp_error *reterr)
{
    bool progress;
    sp_status s = replay(results, 1 << 20, &progress);
    if (s || results->pending)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "results that wait for the store have to be written first; try again later");
    return results->table->erase(results->store, &op->ask, op->id, &op->page, reterr);
}

static sp_status ask_store(sp_results *results, results_op *op, sp_error *reterr)
{
    switch (op->call) {
    case RESULTS_QUERY:
        return results->table->query(results->store, &op->ask, &op->page, reterr);
    case RESULTS_GET:
        return results->table->get(results->store, &op->ask, op->id, &op->page, reterr);
    case RESULTS_ERASE:
        return run_erase(results, op, reterr);
    case RESULTS_COSTS:
        return results->table->costs(results->store, &op->ask, &op->page, reterr);
    default:
        return run_sweep(results, reterr);
    }
}

static sp_status ask_under_breaker(sp_results *results, results_op *op, sp_error *reterr)
{
    uint32_t ticket;
    flush(results); /* the question may be about what was put before it */
    if (!sp_guarded_allow(&results->guarded, &ticket))
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "breaker_open", "the store of results is down");
    sp_status s = ask_store(results, op, reterr);
    sp_guarded_record(&results->guarded, ticket, !is_outage(s));
    if (!s && !sp_buf_ok(&op->page.json))
        s = SP_FAIL(reterr, SP_NOMEM, "no memory for the answer");
    return s;
}

static void run_op(sp_store_work *work)
{
    results_op *op = (results_op *)work;
    sp_results *results = op->results;
    work->status = SP_OK;
    if (op->refused) {
        work->status = op->refused;
        work->error = op->refusal;
    } else if (op->call == RESULTS_PUT) {
        *results->pending_tail = op->entry;
        results->pending_tail = &op->entry->next;
        op->entry = NULL;
    } else if (op->call == RESULTS_REPLAY) {
        (void)replay(results, REPLAY_ROUNDS, &op->progress);
    } else {
        work->status = ask_under_breaker(results, op, &work->error);
    }
}

static sp_status group(void *context, sp_error *reterr)
{
    (void)reterr;
    flush(context);
    return SP_OK; /* a document that is stored later is no error of anybody */
}

/* --- the loop's side --------------------------------------------------------------------------------------------- */

static void arm_replay(sp_results *results, int64_t after_ns)
{
    if (!results->closing && !results->replaying && !results->replay_timer.heap_index)
        (void)sp_loop_timer_set(results->loop, &results->replay_timer, sp_clock_now_ns() + after_ns, NULL); /* the next put tries again */
}

static void free_op(results_op *op)
{
    free_entries(op->entry);
    sp_buf_done(&op->page.json);
    free(op);
}

static void done_op(sp_store_work *work)
{
    results_op *op = (results_op *)work;
    sp_results *results = op->results;
    if (op->call == RESULTS_PUT && op->entry) { /* refused: the queue is full */
        (void)atomic_fetch_sub(&results->pending_bytes, weight(op->entry));
        sp_metric_add(results->dropped, 1);
    }
    if (op->call == RESULTS_REPLAY)
        results->replaying = false;
    if (sp_results_spooled(results) > 0 || (op->call == RESULTS_PUT && atomic_load(&results->pending_bytes) > 0))
        arm_replay(results, op->progress ? 0 : REPLAY_MS * SP_NS_PER_MS);
    if (op->reply) {
        bool ok = work->status == SP_OK;
        sp_results_reply reply = { .status = work->status, .error = &work->error, .count = ok ? op->page.count : 0,
                                   .json = ok ? sp_buf_view(&op->page.json) : (sp_view){ 0 }, .cursor = op->page.cursor };
        if (ok)
            memcpy(reply.cache_key, op->page.cache_key, sizeof(reply.cache_key));
        op->reply(&reply, op->context);
    }
    free_op(op);
}

static results_op *new_op(sp_results *results, results_call call, sp_results_reply_fn *reply, void *context)
{
    results_op *op = calloc(1, sizeof(*op));
    if (!op) {
        sp_error err = { 0 };
        sp_results_reply no = { .status = SP_FAIL(&err, SP_NOMEM, "no memory for an operation on results"), .error = &err, .cursor = "" };
        if (reply)
            reply(&no, context);
        return NULL;
    }
    op->work.run = run_op;
    op->work.done = done_op;
    op->results = results;
    op->call = call;
    op->reply = reply;
    op->context = context;
    op->ask.fallback = -1;
    sp_buf_init(&op->page.json, RESULTS_JSON_BYTES);
    return op;
}

static void on_replay_timer(sp_timer *timer, void *context)
{
    sp_results *results = context;
    (void)timer;
    results_op *op = results->replaying ? NULL : new_op(results, RESULTS_REPLAY, NULL, NULL);
    if (!op)
        return;
    results->replaying = true;
    sp_store_submit_or_refuse(results->thread, &op->work);
}

static results_entry *make_entry(const sp_result *result, sp_view document)
{
    results_entry *entry = calloc(1, sizeof(*entry));
    char *text = malloc(document.size_bytes + 1);
    if (!entry || !text) {
        free(entry);
        free(text);
        return NULL;
    }
    /* One line: in JSON a raw line break can only be white space. */
    for (size_t i = 0; i < document.size_bytes; i++)
        text[i] = document.data[i] == '\n' || document.data[i] == '\r' ? ' ' : (char)document.data[i];
    text[document.size_bytes] = 0;
    entry->result = *result;
    entry->document = text;
    entry->document_bytes = document.size_bytes;
    return entry;
}

void sp_results_put(sp_results *results, const sp_result *result, sp_view document)
{
    bool fits = document.size_bytes <= DOCUMENT_BYTES && atomic_load(&results->pending_bytes) <= QUEUE_BYTES;
    results_entry *entry = fits ? make_entry(result, document) : NULL;
    results_op *op = entry ? new_op(results, RESULTS_PUT, NULL, NULL) : NULL;
    if (!op) {
        free_entries(entry);
        sp_metric_add(results->dropped, 1);
        return;
    }
    op->entry = entry;
    (void)atomic_fetch_add(&results->pending_bytes, weight(entry));
    sp_store_submit_or_refuse(results->thread, &op->work);
}

void sp_results_query(sp_results *results, const sp_result_filter *filter, sp_results_reply_fn *reply, void *context)
{
    results_op *op = new_op(results, RESULTS_QUERY, reply, context);
    if (!op)
        return;
    op->refused = results_ask_of(filter, &op->ask, &op->refusal);
    sp_store_submit_or_refuse(results->thread, &op->work);
}

static void submit_one(sp_results *results, results_call call, const char *tenant, const char *id, int64_t from_unix_ms,
                       int64_t to_unix_ms, sp_results_reply_fn *reply, void *context)
{
    results_op *op = new_op(results, call, reply, context);
    if (!op)
        return;
    sp_result_filter filter = { .tenant = tenant, .fallback = -1, .from_unix_ms = from_unix_ms, .to_unix_ms = to_unix_ms, .limit = 1 };
    op->refused = results_ask_of(&filter, &op->ask, &op->refusal);
    (void)snprintf(op->id, sizeof(op->id), "%s", id);
    sp_store_submit_or_refuse(results->thread, &op->work);
}

void sp_results_get(sp_results *results, const char *tenant, const char *id, sp_results_reply_fn *reply, void *context)
{
    submit_one(results, RESULTS_GET, tenant, id, 0, 0, reply, context);
}

void sp_results_erase(sp_results *results, const char *tenant, const char *id, sp_results_reply_fn *reply, void *context)
{
    submit_one(results, RESULTS_ERASE, tenant, id, 0, 0, reply, context);
}

void sp_results_costs(sp_results *results, const char *tenant, int64_t from_unix_ms, int64_t to_unix_ms,
                      sp_results_reply_fn *reply, void *context)
{
    submit_one(results, RESULTS_COSTS, tenant, "", from_unix_ms, to_unix_ms, reply, context);
}

void sp_results_sweep(sp_results *results)
{
    submit_one(results, RESULTS_SWEEP, NULL, "", 0, 0, NULL, NULL);
}

int64_t sp_results_spooled(const sp_results *results)
{
    return (int64_t)atomic_load((atomic_int_fast64_t *)&results->spooled);
}

/* --- open, close ------------------------------------------------------------------------------------------------- */

static sp_fault_action mongo_fault(void)
{
    return SP_FAULT("store.mongo");
}

static sp_status load_mongo(const results_table **ret_table, sp_error *reterr)
{
    void *handle = NULL, *symbol = NULL;
    sp_status s = sp_plugin_open(RESULTS_MONGO_FILE, &handle, NULL, reterr);
    if (!s)
        s = sp_plugin_symbol(handle, RESULTS_MONGO_FILE, RESULTS_MONGO_SYMBOL, &symbol, reterr);
    if (s)
        return s;
    const results_table *table = symbol;
    if (table->abi != RESULTS_ABI)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "bad_plugin", RESULTS_MONGO_FILE " has ABI %u, wanted %u", table->abi, RESULTS_ABI);
    *ret_table = table;
    return SP_OK;
}

sp_status results_store_open(const sp_results_config *config, const char *data_dir, bool read_only,
                             const results_table **ret_table, results_store **ret_store, sp_error *reterr)
{
    static const results_host host = { .fault = mongo_fault };
    const results_table *table = &results_sqlite_table;
    sp_status s = config->mongodb[0] ? load_mongo(&table, reterr) : SP_OK;
    if (!s)
        s = table->open(&host, config, data_dir, read_only, ret_store, reterr);
    if (!s)
        *ret_table = table;
    return s;
}

sp_status sp_results_open(sp_loop *loop, const sp_results_config *config, const char *data_dir, sp_results **ret_results,
                          sp_error *reterr)
{
    char path[1024];
    sp_results *results = calloc(1, sizeof(*results));
    if (!results)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the results' store");
    /* Quick to open and quick to look again: while it is open, documents go to the spool at the disk's speed. */
    sp_breaker_settings settings = { .consecutive_failures = 2, .window_ns = 30 * SP_NS_PER_S, .open_ns = SP_NS_PER_S,
                                     .open_max_ns = 30 * SP_NS_PER_S, .minimum_calls = 20, .probes = 1 };
    sp_guarded_init(&results->guarded, "results", &settings);
    results->loop = loop;
    results->config = *config;
    results->pending_tail = &results->pending;
    results->spool.fd = results->lock_fd = -1;
    results->replay_timer = (sp_timer){ .fire = on_replay_timer, .context = results };
    results->stored = sp_metric_get(SP_METRIC_COUNTER, "spillway_results_stored_total", "", "Answers written to the result store");
    results->dropped = sp_metric_get(SP_METRIC_COUNTER, "spillway_results_dropped_total", "",
                                     "Answers that neither the result store nor the spool could take");
    results->spooled_gauge = sp_metric_get(SP_METRIC_GAUGE, "spillway_results_spooled", "", "Answers on disk that wait for the result store");
    (void)snprintf(path, sizeof(path), "%.*s/results-spool", (int)sizeof(path) - 64, data_dir);
    /* The directory is held for MongoDB too: the spool is one process's. */
    sp_status s = sp_store_directory_make(data_dir, reterr);
    if (!s)
        s = sp_store_directory_lock(data_dir, "results.lock", &results->lock_fd, reterr);
    if (!s)
        s = results_store_open(config, data_dir, false, &results->table, &results->store, reterr);
    if (!s)
        s = sp_spool_open(&results->spool, path, reterr);
    if (!s && sp_store_directory_sync(data_dir) != 0)
        s = SP_FAIL(reterr, SP_UNAVAILABLE, "cannot sync the data directory %.200s", data_dir);
    if (!s)
        s = sp_store_thread_new(loop, "results", QUEUE_WORKS, group, results, &results->thread, reterr);
    if (s) {
        sp_results_close(results);
        return s;
    }
    note_spooled(results);
    if (results->spool.lines)
        arm_replay(results, 0);
    *ret_results = results;
    return SP_OK;
}

void sp_results_close(sp_results *results)
{
    if (!results)
        return;
    results->closing = true;
    sp_loop_timer_clear(results->loop, &results->replay_timer);
    sp_store_thread_free(results->thread);
    flush(results); /* once more, if nobody took them before */
    free_entries(results->pending);
    if (results->store)
        results->table->close(results->store);
    sp_spool_close(&results->spool);
    sp_fd_closep(&results->lock_fd);
    free(results);
}
