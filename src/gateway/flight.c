/* SPDX-License-Identifier: Apache-2.0
 * Single-flight and the answer cache. The key is a SHA-256 of tenant, task, model and its digest, the parameters that
 * change an answer, and the payload: raw bodies are hashed as they arrive, files in forms in pieces, a turn of the loop
 * each. Links that are held to the reference share one class of answers per task and model, so the link is not in the
 * key; answers of simpler links are never kept. */
#include "gateway/flight.h"

#include "gateway/flight_value.h"
#include "store/cache.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define PIECE_BYTES   65536u /* hashed in one callback: 40 us with SHA instructions */
#define AT_ONCE       4      /* answers worded in one callback */
#define BUCKETS       256
#define EVENTS_AT_ONCE 64
#define OVERDUE_MS    20     /* after its own deadline, before one who waits is answered without the others */

typedef enum flight_state { ASKING, RUNNING, DELIVERING } flight_state;

typedef struct member {
    gw_conn *conn;
    struct flight *flight; /* NULL = not (any more) in one */
    struct member *next, *prev;
    EVP_MD_CTX *hash;
    sp_cache_key key;
    char digest[65];     /* of the model when the key was made */
    uint64_t generation; /* of the cache likewise */
    bool raw, refresh;   /* refresh: do not look, do not join (Cache-Control: no-cache) */
    sp_view payload;     /* being hashed; lies in conn->request */
    size_t hashed_bytes;
    sp_timer timer;      /* the next piece; then its own deadline */
} member;

typedef struct flight {
    struct gw_flights *flights;
    struct flight *next; /* in its bucket, or among the abandoned */
    flight_state state;
    sp_cache_key key;
    char digest[65], tier[24];
    uint64_t generation;
    sp_task task;
    bool listed;         /* in its bucket: others may join */
    bool abandoned;      /* nobody waits; Redis' reply is awaited, to be thrown away */
    sp_request *request, *understudy;
    int64_t deadline_ns;
    member *first, *last, *leader;
    /* What is delivered: */
    sp_answer answer;
    sp_answer_classes *classes; /* copies that outlive the house's */
    uint8_t *payload;
    const char *word; /* "shared" or "hit" */
    sp_timer timer;
} flight;

struct gw_flights {
    gw_server *server;
    sp_cache *cache;
    bool shared; /* Redis stands behind it */
    uint64_t generation;
    uint64_t seen_event;
    sp_event_subscriber subscriber;
    sp_timer event_timer;
    flight *buckets[BUCKETS], *abandoned;
    sp_metric *hits, *misses, *shares, *promotions, *bytes;
};

static gw_flights *flights_of(const gw_conn *conn)
{
    return conn->server->flights;
}

/* --- the key ------------------------------------------------------------------------------------------------------ */

/* The digest of the model that would answer; "" = not known, or the workers disagree. */
static void digest_find(const gw_server *server, const char *model, char ret_digest[65])
{
    ret_digest[0] = 0;
    for (int i = 0; i < sp_house_worker_count(server->house); i++) {
        sp_worker_info info = { 0 };
        sp_house_worker_info(server->house, i, &info);
        if (!info.card || !*info.card->digest || (*model && strcmp(info.card->model, model) != 0))
            continue;
        if (*ret_digest && strncmp(ret_digest, info.card->digest, 64) != 0) {
            ret_digest[0] = 0;
            return;
        }
        (void)snprintf(ret_digest, 65, "%.64s", info.card->digest);
    }
}

static bool hash_begin(member *m)
{
    const gw_conn *conn = m->conn;
    const gw_options *o = &conn->options;
    char text[512];
    m->generation = flights_of(conn)->generation;
    digest_find(conn->server, o->model, m->digest);
    if (o->task != SP_TASK_NOOP && !*m->digest)
        return false;
    int n = snprintf(text, sizeof(text), "spillway answer 1\n%zu %s\n%s\n%s\n%s\ntop_k=%u decode=%d local=%d generation=%llu\n",
                     strlen(conn->access.tenant), conn->access.tenant, sp_task_name(o->task), o->model, m->digest,
                     o->top_k, (int)o->decode, o->local_only, (unsigned long long)m->generation);
    if (!m->hash)
        m->hash = EVP_MD_CTX_new();
    return n > 0 && (size_t)n < sizeof(text) && m->hash && EVP_DigestInit_ex(m->hash, EVP_sha256(), NULL) == 1 &&
           EVP_DigestUpdate(m->hash, text, (size_t)n) == 1;
}

static bool hash_end(member *m)
{
    unsigned size_bytes = 0;
    uint8_t digest[EVP_MAX_MD_SIZE];
    if (EVP_DigestFinal_ex(m->hash, digest, &size_bytes) != 1 || size_bytes != sizeof(m->key.sha256))
        return false;
    memcpy(m->key.sha256, digest, sizeof(m->key.sha256));
    return true;
}

/* --- who waits ---------------------------------------------------------------------------------------------------- */

static void flight_unlist(flight *f)
{
    if (!f->listed)
        return;
    flight **at = &f->flights->buckets[f->key.sha256[0] % BUCKETS];
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    f->listed = false;
}

static void flight_free(flight *f)
{
    flight_unlist(f);
    sp_loop_timer_clear(f->flights->server->loop, &f->timer);
    if (f->understudy)
        sp_request_close(f->understudy);
    free(f->classes);
    free(f->payload);
    free(f);
}

/* Nobody waits any more. */
static void flight_abandon(flight *f)
{
    if (f->request)
        sp_request_cancel(SP_STEAL(f->request));
    if (f->state != ASKING) {
        flight_free(f);
        return;
    }
    flight_unlist(f);
    f->abandoned = true;
    f->next = f->flights->abandoned;
    f->flights->abandoned = f;
}

static void member_add(flight *f, member *m)
{
    m->flight = f;
    m->prev = f->last;
    if (f->last)
        f->last->next = m;
    else
        f->first = m;
    f->last = m;
}

static void member_take(member *m)
{
    flight *f = m->flight;
    if (m->prev)
        m->prev->next = m->next;
    else
        f->first = m->next;
    if (m->next)
        m->next->prev = m->prev;
    else
        f->last = m->prev;
    if (f->leader == m)
        f->leader = NULL;
    m->next = m->prev = NULL;
    m->flight = NULL;
    sp_loop_timer_clear(f->flights->server->loop, &m->timer);
}

/* conn->drop: the request of this one is over, answered or not. */
static void member_drop(gw_conn *conn)
{
    member *m = SP_STEAL(conn->state);
    flight *f = m->flight;
    if (f) {
        member_take(m);
        if (!f->first)
            flight_abandon(f);
    }
    sp_loop_timer_clear(conn->server->loop, &m->timer);
    EVP_MD_CTX_free(m->hash);
    free(m);
}

/* From run the answer is sent when run returns; later it has to be said. */
static void answered(gw_conn *conn)
{
    if (conn->phase == GW_WAITING)
        gw_conn_answered(conn);
}

static void deadline_passed(sp_timer *timer, void *context)
{
    (void)timer;
    member *m = context;
    gw_conn *conn = m->conn;
    flight *f = m->flight;
    sp_error err = { 0 };
    (void)SP_FAIL_CODE(&err, SP_TIMEOUT, "deadline", "the deadline passed while the answer was being computed");
    member_take(m);
    gw_log_failure(conn, 504, &err);
    gw_reply_problem(conn, 504, &err, 0, NULL);
    gw_conn_answered(conn);
    if (!f->first)
        flight_abandon(f);
}

/* --- delivery ----------------------------------------------------------------------------------------------------- */

static void deliver_one(flight *f, member *m, bool leads)
{
    gw_conn *conn = m->conn;
    sp_answer own = f->answer;
    member_take(m);
    own.total_ns = sp_clock_now_ns() - conn->received_ns;
    own.received_ns = conn->received_ns;
    if (!leads)
        own.microdollars = 0; /* it was paid once */
    gw_infer_reply(conn, &own, own.status ? "miss" : leads ? "miss" : f->word);
    answered(conn);
}

static void deliver(sp_timer *timer, void *context)
{
    (void)timer;
    flight *f = context;
    for (int i = 0; i < AT_ONCE && f->first; i++)
        deliver_one(f, f->first, f->first == f->leader);
    if (!f->first)
        flight_free(f);
    else if (sp_loop_timer_set(f->flights->server->loop, &f->timer, sp_loop_now_ns(f->flights->server->loop), NULL))
        deliver(&f->timer, f); /* no memory for a timer: all at once, then */
}

/* Copies what the house lends, so that the answer can be delivered over several turns. */
static void answer_keep(flight *f, const sp_answer *answer)
{
    f->answer = *answer;
    f->answer.classes = NULL;
    f->answer.payload = (sp_view){ 0 };
    if (answer->classes) {
        size_t n = offsetof(sp_answer_classes, classes) + answer->classes->count * sizeof(answer->classes->classes[0]);
        f->classes = malloc(n);
        if (f->classes)
            memcpy(f->classes, answer->classes, n);
        f->answer.classes = f->classes;
    }
    if (answer->payload.size_bytes) {
        f->payload = malloc(answer->payload.size_bytes);
        if (f->payload)
            memcpy(f->payload, answer->payload.data, answer->payload.size_bytes);
        f->answer.payload = sp_view_make(f->payload, f->payload ? answer->payload.size_bytes : 0);
    }
    if ((answer->classes && !f->classes) || (answer->payload.size_bytes && !f->payload))
        f->answer.status = SP_FAIL(&f->answer.error, SP_NOMEM, "no memory for the answer");
}

static void deliver_begin(flight *f, const char *word)
{
    f->state = DELIVERING;
    f->word = word;
    flight_unlist(f);
    deliver(&f->timer, f);
}

/* --- the house ---------------------------------------------------------------------------------------------------- */

static void keep_in_cache(flight *f, const sp_answer *answer)
{
    gw_flights *flights = f->flights;
    char digest[65];
    digest_find(flights->server, f->task == SP_TASK_NOOP ? "" : answer->model, digest);
    /* A class that was purged meanwhile, or another model than the key says: shared, but not kept. */
    if (answer->simpler || f->generation != flights->generation ||
        (f->task != SP_TASK_NOOP && strcmp(digest, f->digest) != 0))
        return;
    sp_buf value;
    sp_buf_init(&value, GW_VALUE_BYTES);
    gw_value_write(&value, answer, f->task);
    if (sp_buf_ok(&value))
        sp_cache_put(flights->cache, &f->key, sp_task_name(f->task), sp_buf_view(&value), sp_clock_now_ns());
    sp_buf_done(&value);
    sp_metric_set(flights->bytes, (int64_t)sp_cache_bytes(flights->cache));
}

/* May another try end otherwise? */
static bool passes(const sp_answer *answer)
{
    return answer->status == SP_NOMEM || answer->status == SP_BUSY || answer->status == SP_TIMEOUT ||
           answer->status == SP_UNAVAILABLE || answer->status == SP_INTERNAL;
}

static void done(sp_request *request, const sp_answer *answer, void *context);

static void submit(flight *f)
{
    f->state = RUNNING;
    sp_request_extend_deadline(f->request, f->deadline_ns);
    sp_request_submit(f->request, done, f);
}

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    flight *f = context;
    if (answer->status && passes(answer) && f->understudy) {
        sp_request_close(request);
        f->request = SP_STEAL(f->understudy);
        sp_metric_add(f->flights->promotions, 1);
        submit(f);
        return;
    }
    if (!answer->status)
        keep_in_cache(f, answer);
    answer_keep(f, answer);
    f->request = NULL;
    sp_request_close(request);
    deliver_begin(f, "shared");
}

/* --- questions ---------------------------------------------------------------------------------------------------- */

static void hit(member *m, sp_view value, sp_answer *answer)
{
    gw_conn *conn = m->conn;
    (void)value;
    sp_request_close(SP_STEAL(conn->request));
    answer->received_ns = conn->received_ns;
    answer->total_ns = sp_clock_now_ns() - conn->received_ns;
    sp_metric_add(flights_of(conn)->hits, 1);
    gw_infer_reply(conn, answer, "hit");
    answered(conn);
}

static bool look(member *m)
{
    static sp_answer_classes classes; /* 72 KiB; the loop's thread only, read before this returns */
    sp_answer answer;
    sp_view value;
    gw_flights *flights = flights_of(m->conn);
    if (m->refresh || !sp_cache_look(flights->cache, &m->key, sp_clock_now_ns(), &value) ||
        !gw_value_read(value, m->conn->options.task, &answer, &classes))
        return false;
    hit(m, value, &answer);
    return true;
}

static bool join(member *m)
{
    gw_conn *conn = m->conn;
    gw_flights *flights = flights_of(conn);
    flight *f = m->refresh ? NULL : flights->buckets[m->key.sha256[0] % BUCKETS];
    while (f && (memcmp(&f->key, &m->key, sizeof(m->key)) != 0 || strcmp(f->tier, conn->access.tier) != 0))
        f = f->next;
    if (!f)
        return false;
    int64_t deadline_ns = gw_deadline_ns(conn);
    if (f->understudy)
        sp_request_close(SP_STEAL(conn->request));
    else
        f->understudy = SP_STEAL(conn->request);
    if (deadline_ns > f->deadline_ns) {
        f->deadline_ns = deadline_ns;
        if (f->state == RUNNING)
            sp_request_extend_deadline(f->request, deadline_ns);
    }
    member_add(f, m);
    sp_metric_add(flights->shares, 1);
    return true;
}

static void redis_replied(sp_view value, void *context)
{
    static sp_answer_classes classes; /* as in look */
    flight *f = context;
    sp_answer answer;
    if (f->abandoned) {
        flight **at = &f->flights->abandoned;
        while (*at != f)
            at = &(*at)->next;
        *at = f->next;
        f->state = DELIVERING;
        flight_free(f);
        return;
    }
    if (!value.size_bytes || !gw_value_read(value, f->task, &answer, &classes)) {
        sp_metric_add(f->flights->misses, 1);
        submit(f);
        return;
    }
    sp_metric_add(f->flights->hits, 1);
    answer_keep(f, &answer);
    sp_request_close(SP_STEAL(f->request));
    f->leader = NULL; /* it was nobody's computation */
    deliver_begin(f, "hit");
}

/* False: no memory; conn->request is still conn's. */
static bool launch(member *m)
{
    gw_conn *conn = m->conn;
    gw_flights *flights = flights_of(conn);
    flight *f = calloc(1, sizeof(*f));
    if (!f)
        return false;
    f->flights = flights;
    f->key = m->key;
    f->generation = m->generation;
    f->task = conn->options.task;
    f->deadline_ns = gw_deadline_ns(conn);
    f->timer = (sp_timer){ .fire = deliver, .context = f };
    memcpy(f->digest, m->digest, sizeof(f->digest));
    memcpy(f->tier, conn->access.tier, sizeof(f->tier));
    f->request = SP_STEAL(conn->request);
    f->leader = m;
    member_add(f, m);
    if (!m->refresh) {
        flight **bucket = &flights->buckets[f->key.sha256[0] % BUCKETS];
        f->next = *bucket;
        *bucket = f;
        f->listed = true;
    }
    f->state = ASKING;
    if (!m->refresh && sp_cache_ask(flights->cache, &f->key, redis_replied, f))
        return true;
    sp_metric_add(flights->misses, 1);
    submit(f);
    return true;
}

/* The key is complete. */
static void ask(member *m)
{
    gw_conn *conn = m->conn;
    if (look(m))
        return;
    if (conn->phase != GW_WAITING)
        gw_conn_wait(conn);
    conn->server->longest_deadline_ns = SP_MAX(conn->server->longest_deadline_ns, gw_deadline_ns(conn));
    m->timer.fire = deadline_passed;
    if (!join(m) && !launch(m)) {
        sp_error err = { 0 };
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the request");
        gw_reply_problem(conn, 503, &err, 1, NULL);
        gw_conn_answered(conn);
        return;
    }
    /* Without memory for the timer it waits as long as the group does. */
    (void)sp_loop_timer_set(conn->server->loop, &m->timer, gw_deadline_ns(conn) + OVERDUE_MS * SP_NS_PER_MS, NULL);
}

static void piece(sp_timer *timer, void *context)
{
    member *m = context;
    size_t n = SP_MIN(m->payload.size_bytes - m->hashed_bytes, (size_t)PIECE_BYTES);
    (void)EVP_DigestUpdate(m->hash, m->payload.data + m->hashed_bytes, n); /* a plain hash of memory cannot fail */
    m->hashed_bytes += n;
    if (m->hashed_bytes == m->payload.size_bytes && hash_end(m))
        ask(m);
    else if (sp_loop_timer_set(m->conn->server->loop, timer, sp_loop_now_ns(m->conn->server->loop), NULL))
        piece(timer, context);
}

/* One of the comma-separated words of Cache-Control. */
static bool control_has(const char *value, const char *word)
{
    size_t n = strlen(word);
    while (value && *value) {
        value += strspn(value, " \t,");
        size_t m = strcspn(value, " \t,;=");
        if (m == n && strncasecmp(value, word, n) == 0)
            return true;
        value += strcspn(value, ",");
    }
    return false;
}

void gw_flight_begin(gw_conn *conn, bool raw_body)
{
    gw_flights *flights = flights_of(conn);
    const gw_options *o = &conn->options;
    if (!flights || o->task == SP_TASK_DETECT || o->cache == GW_CACHE_OFF || *o->link || (o->task != SP_TASK_CLASSIFY && o->cache != GW_CACHE_ON) ||
        (o->local_only && flights->shared)) /* its answer must not leave this machine either */
        return;
    const char *control = conn->headers.cache_control;
    if (control_has(control, "no-store"))
        return;
    member *m = calloc(1, sizeof(*m));
    if (!m)
        return;
    m->conn = conn;
    m->raw = raw_body;
    m->refresh = control_has(control, "no-cache");
    m->timer = (sp_timer){ .fire = piece, .context = m };
    if (raw_body && !hash_begin(m)) {
        EVP_MD_CTX_free(m->hash);
        free(m);
        return;
    }
    conn->state = m;
    conn->drop = member_drop;
}

void gw_flight_append(gw_conn *conn, const void *data, size_t size_bytes)
{
    member *m = conn->state;
    if (m && m->raw)
        (void)EVP_DigestUpdate(m->hash, data, size_bytes);
}

bool gw_flight_enter(gw_conn *conn, sp_view payload)
{
    member *m = conn->state;
    /* What a form said may have changed the question. */
    if (!m || conn->options.cache == GW_CACHE_OFF || (conn->options.local_only && flights_of(conn)->shared))
        return false;
    if (m->raw) {
        if (!hash_end(m))
            return false;
        ask(m);
        return true;
    }
    if (!hash_begin(m))
        return false;
    m->payload = payload;
    gw_conn_wait(conn);
    piece(&m->timer, m);
    return true;
}

/* --- erasing ------------------------------------------------------------------------------------------------------ */

void gw_flight_key(const gw_conn *conn, char ret_hex[65])
{
    const member *m = conn->drop == member_drop ? conn->state : NULL;
    ret_hex[0] = 0;
    for (size_t i = 0; m && i < sizeof(m->key.sha256); i++)
        (void)snprintf(ret_hex + 2 * i, 3, "%02x", m->key.sha256[i]);
}

void gw_flight_erase(gw_server *server, const char *hex)
{
    sp_cache_key key;
    if (!server->flights || strlen(hex) != 2 * sizeof(key.sha256))
        return;
    for (size_t i = 0; i < sizeof(key.sha256); i++) {
        unsigned byte = 0;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            return;
        key.sha256[i] = (uint8_t)byte;
    }
    sp_cache_remove(server->flights->cache, &key);
}

/* --- events that purge -------------------------------------------------------------------------------------------- */

static void purge_all(gw_flights *flights)
{
    flights->generation++;
    for (int task = 0; task < SP_TASK_COUNT; task++)
        sp_cache_purge(flights->cache, sp_task_name((sp_task)task));
}

/* A link that gave wrong answers has been taken out: what it may have put into the cache goes. */
static void events_look(gw_flights *flights)
{
    sp_event event;
    for (int i = 0; i < EVENTS_AT_ONCE; i++) {
        if (!sp_event_next(flights->seen_event, &event))
            return;
        bool missed = event.id > flights->seen_event + 1;
        flights->seen_event = event.id;
        if (missed || strcmp(event.kind, "link.quarantined") == 0)
            purge_all(flights);
    }
    (void)sp_loop_timer_set(flights->server->loop, &flights->event_timer, sp_loop_now_ns(flights->server->loop), NULL);
}

static void event_timer_fire(sp_timer *timer, void *context)
{
    (void)timer;
    events_look(context);
}

static void news(void *context)
{
    events_look(context);
}

/* --- start and end ------------------------------------------------------------------------------------------------ */

/* The cache's Redis counts for all servers that use it. */
static bool share_count(void *context, const char *name, int64_t window_s, int64_t amount, sp_share_sum_fn *reply,
                        void *reply_context)
{
    return sp_cache_count(context, name, window_s, amount, reply, reply_context);
}

sp_status gw_flights_open(gw_server *server, sp_error *reterr)
{
    const sp_cache_config *config = &gw_config(server)->cache;
    if (!config->memory_bytes && !*config->redis)
        return SP_OK;
    gw_flights *flights = calloc(1, sizeof(*flights));
    if (!flights)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the answer cache");
    sp_status s = sp_cache_open(server->loop, config, &flights->cache, reterr);
    if (s) {
        free(flights);
        return s;
    }
    static const char help[] = "Questions by what the answer cache did for them";
    flights->server = server;
    flights->shared = *config->redis != 0;
    flights->seen_event = sp_event_last_id();
    flights->subscriber = (sp_event_subscriber){ .news = news, .context = flights };
    flights->event_timer = (sp_timer){ .fire = event_timer_fire, .context = flights };
    flights->hits = sp_metric_get(SP_METRIC_COUNTER, "spillway_cache_total", "result=\"hit\"", help);
    flights->misses = sp_metric_get(SP_METRIC_COUNTER, "spillway_cache_total", "result=\"miss\"", help);
    flights->shares = sp_metric_get(SP_METRIC_COUNTER, "spillway_cache_total", "result=\"shared\"", help);
    flights->promotions = sp_metric_get(SP_METRIC_COUNTER, "spillway_flight_promotions_total", "",
                                        "Computations that failed and were begun again for those who waited");
    flights->bytes = sp_metric_get(SP_METRIC_GAUGE, "spillway_cache_bytes", "", "Bytes of answers kept in memory");
    sp_events_subscribe(&flights->subscriber);
    server->flights = flights;
    if (flights->shared)
        sp_house_set_share(server->house, share_count, flights->cache);
    return SP_OK;
}

sp_cache *gw_flights_cache(gw_server *server)
{
    return server->flights ? server->flights->cache : NULL;
}

void gw_flights_close(gw_server *server)
{
    gw_flights *flights = SP_STEAL(server->flights);
    if (server->house)
        sp_house_set_share(server->house, NULL, NULL);
    if (!flights)
        return;
    sp_events_unsubscribe(&flights->subscriber);
    sp_loop_timer_clear(server->loop, &flights->event_timer);
    sp_cache_close(flights->cache);
    for (flight *f = flights->abandoned, *next; f; f = next) {
        next = f->next;
        flight_free(f);
    }
    free(flights);
}
