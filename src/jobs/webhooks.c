/* SPDX-License-Identifier: Apache-2.0
 * Webhooks: each finished job that wants one is POSTed to its URL until somebody answers 2xx. What is owed is kept in the
 * job store, so a restart forgets nothing; at least once, with the job's id as the event's id.
 *
 * The body is the job as GET /v1/jobs/ID gives it, with "event" and "event_id" in front. Headers:
 *   X-Spillway-Event-Id: ID    X-Spillway-Timestamp: unix seconds
 *   X-Spillway-Signature: sha256=HEX of HMAC-SHA256(secret, timestamp "." body); only with jobs.webhook_secret set
 *
 * A host that fails again and again is left alone for a while (policy/breaker.h), so that one dead receiver does not hold
 * the places of the others. */
#include "jobs/internal.h"

#include "base/event.h"
#include "policy/breaker.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

#define DELIVERIES 16        /* at once */
#define HOSTS 64             /* breakers kept; the one not used for longest goes first */
#define LOOK_MS 1000         /* between two looks while something is owed */
#define LOOK_IDLE_MS 5000    /* else: other servers' jobs */
#define POST_MS 15000
#define BACKOFF_FIRST_MS 1000
#define BACKOFF_MOST_MS (3600 * INT64_C(1000))
/* A receiver that is silent for this long gets it no more. */
#define GIVE_UP_MS (72 * 3600 * INT64_C(1000))

typedef struct hook_host {
    char name[256];
    sp_breaker breaker;
    int64_t used_ns;
} hook_host;

typedef struct delivery {
    sp_webhooks *webhooks;
    char id[SP_LIMIT_JOB_ID_BYTES]; /* "" = free */
    sp_job job;
    hook_host *host;
    uint32_t ticket;
    sp_send send;
    int calls; /* of the store, to come */
} delivery;

struct sp_webhooks {
    sp_runner *runner;
    delivery deliveries[DELIVERIES];
    hook_host hosts[HOSTS];
    int host_count, busy, looks_out, asked;
    bool look_again, stopped;
    int64_t retry_at_ns; /* of the first one that failed here */
    sp_timer look;
    sp_metric *delivered, *failed, *given_up;
};

static void look(sp_webhooks *webhooks);

/* In `ms`, or when the next one that failed here is due. */
static void look_in(sp_webhooks *webhooks, int64_t ms)
{
    sp_loop *loop = webhooks->runner->config.loop;
    int64_t now = sp_loop_now_ns(loop), at = now + ms * SP_NS_PER_MS;
    if (webhooks->retry_at_ns > now)
        at = SP_MIN(at, webhooks->retry_at_ns);
    if (!webhooks->stopped)
        (void)sp_loop_timer_set(loop, &webhooks->look, at, NULL);
}

static void retry_in(sp_webhooks *webhooks, int64_t ms)
{
    int64_t now = sp_loop_now_ns(webhooks->runner->config.loop);
    int64_t at = now + (ms + 20) * SP_NS_PER_MS; /* the store's clock is not ours */
    if (webhooks->retry_at_ns <= now || at < webhooks->retry_at_ns)
        webhooks->retry_at_ns = at;
    if (!webhooks->look.heap_index || webhooks->look.at_ns > webhooks->retry_at_ns)
        look_in(webhooks, LOOK_IDLE_MS);
}

static void delivery_end(delivery *d)
{
    d->id[0] = 0;
    d->webhooks->busy--;
    /* Each look is a write to the store: not for every place that becomes free. */
    if (d->webhooks->look_again && d->webhooks->busy <= DELIVERIES / 2)
        look(d->webhooks);
}

/* --- hosts -------------------------------------------------------------------------------------------------------- */

static hook_host *host_of(sp_webhooks *webhooks, const char *url, int64_t now_ns)
{
    char name[256];
    hook_host *oldest = &webhooks->hosts[0];
    sp_url_host(url, name, sizeof(name));
    for (int i = 0; i < webhooks->host_count; i++) {
        hook_host *host = &webhooks->hosts[i];
        if (strcmp(host->name, name) == 0) {
            host->used_ns = now_ns;
            return host;
        }
        if (host->used_ns < oldest->used_ns)
            oldest = host;
    }
    hook_host *host = webhooks->host_count < HOSTS ? &webhooks->hosts[webhooks->host_count++] : oldest;
    sp_breaker_settings settings = sp_breaker_settings_default();
    *host = (hook_host){ .used_ns = now_ns };
    memcpy(host->name, name, sizeof(name));
    sp_breaker_init(&host->breaker, &settings);
    return host;
}

/* A table entry may have been given to another host while a POST was out: then its outcome says nothing. */
static void host_record(delivery *d, bool success, int64_t now_ns)
{
    char name[256];
    sp_url_host(d->job.webhook, name, sizeof(name));
    if (strcmp(d->host->name, name) == 0)
        sp_breaker_record(&d->host->breaker, d->ticket, success, now_ns);
}

/* --- one delivery ------------------------------------------------------------------------------------------------- */

static void marked(const sp_job_reply *reply, void *context)
{
    (void)reply; /* not marked: it is due again, and delivered twice with the same id */
    delivery *d = context;
    d->calls--;
    delivery_end(d);
}

static void mark(delivery *d, bool delivered, int64_t next_unix_ms)
{
    d->calls++;
    sp_jobs_webhook_done(d->webhooks->runner->config.jobs, d->id, delivered, next_unix_ms, marked, d);
}

/* 1 s, 2 s, 4 s ... an hour, each between half of it and all. */
static int64_t next_try_ms(const delivery *d)
{
    int64_t ms = BACKOFF_FIRST_MS;
    for (int i = 0; i < d->job.webhook_tries && ms < BACKOFF_MOST_MS; i++)
        ms *= 2;
    ms = SP_MIN(ms, BACKOFF_MOST_MS);
    return ms / 2 + (int64_t)(sp_runner_random(d->webhooks->runner) % (uint64_t)(ms / 2));
}

static void event_emit(const delivery *d, const char *kind, int http_status, const char *detail)
{
    char topic[80];
    sp_buf text;
    (void)snprintf(topic, sizeof(topic), "job/%s", d->id);
    sp_buf_init(&text, 1024);
    sp_buf_append_json_text(&text, detail);
    sp_event_emit(kind, topic, d->job.tenant, "{\"id\":\"%s\",\"http_status\":%d,\"detail\":%.*s}", d->id, http_status,
                  (int)text.size_bytes, text.data ? (const char *)text.data : "");
    sp_buf_done(&text);
}

static void failed(delivery *d, const char *detail, int http_status, int retry_after_s, bool gone)
{
    sp_webhooks *webhooks = d->webhooks;
    int64_t now = sp_unix_ms();
    gone = gone || now - d->job.finished_unix_ms > GIVE_UP_MS;
    sp_metric_add(gone ? webhooks->given_up : webhooks->failed, 1);
    event_emit(d, gone ? "webhook.given_up" : "webhook.failed", http_status, detail);
    int64_t pause_ms = SP_MAX(next_try_ms(d), retry_after_s * INT64_C(1000));
    mark(d, false, gone ? 0 : now + pause_ms); /* 0: never again */
    if (!gone)
        retry_in(webhooks, pause_ms);
}

static void sent(const sp_send_result *result, void *context)
{
    delivery *d = context;
    host_record(d, result->delivered || result->permanent, sp_clock_now_ns());
    if (!result->delivered) { /* 410: the receiver says that it wants no more of this */
        failed(d, result->detail, result->http_status, result->retry_after_s, result->http_status == 410);
        return;
    }
    sp_metric_add(d->webhooks->delivered, 1);
    event_emit(d, "webhook.delivered", result->http_status, "");
    mark(d, true, 0);
}

static void signature(char ret_hex[65], const char *secret, const char *timestamp, sp_view body)
{
    unsigned char digest[EVP_MAX_MD_SIZE] = { 0 };
    size_t digest_bytes = 0;
    sp_buf text;
    sp_buf_init(&text, body.size_bytes + 64);
    sp_buf_printf(&text, "%s.", timestamp);
    sp_buf_append(&text, body.data, body.size_bytes);
    unsigned n = 0;
    if (sp_buf_ok(&text) &&
        HMAC(EVP_sha256(), secret, (int)strlen(secret), text.data, text.size_bytes, digest, &n))
        digest_bytes = SP_MIN((size_t)n, (size_t)32);
    sp_buf_done(&text);
    ret_hex[0] = 0;
    for (size_t i = 0; i < digest_bytes; i++)
        (void)snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

/* SP_NOT_FOUND: the secret is configured but cannot be read. Without it nothing is sent: the receiver would refuse it. */
static sp_status headers_write(sp_buf *out, const delivery *d, sp_view body, sp_error *reterr)
{
    const sp_secret *secret = &sp_runner_settings(d->webhooks->runner)->jobs.webhook_secret;
    char timestamp[32], hex[65], key[256];
    (void)snprintf(timestamp, sizeof(timestamp), "%lld", (long long)(sp_unix_ms() / 1000));
    sp_buf_printf(out, "X-Spillway-Event-Id: %s\nX-Spillway-Timestamp: %s\n", d->id, timestamp);
    if (!*secret->env && !*secret->file)
        return SP_OK;
    sp_status s = sp_secret_read(secret, key, sizeof(key), reterr);
    if (s)
        return s;
    signature(hex, key, timestamp, body);
    OPENSSL_cleanse(key, sizeof(key));
    if (!*hex)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the signature");
    sp_buf_printf(out, "X-Spillway-Signature: sha256=%s\n", hex);
    return SP_OK;
}

static void post(delivery *d, sp_view result)
{
    static const char *const events[] = { [SP_JOB_DONE] = "job.done", [SP_JOB_FAILED] = "job.failed", [SP_JOB_CANCELLED] = "job.cancelled" };
    sp_runner *runner = d->webhooks->runner;
    sp_error err = { 0 };
    sp_buf body, headers;
    sp_buf_init(&body, SP_LIMIT_JOB_RESULT_BYTES + 32768);
    sp_buf_init(&headers, SP_LIMIT_SEND_HEADERS_BYTES - 1);
    sp_job_write(&body, &d->job, &result, d->job.state >= SP_JOB_DONE ? events[d->job.state] : "job.done");
    sp_status s = headers_write(&headers, d, sp_buf_view(&body), &err);
    char *text = s ? NULL : sp_buf_take(&headers, NULL);
    if (!s && (!text || !sp_buf_ok(&body)))
        s = SP_FAIL(&err, SP_NOMEM, "no memory for the webhook");
    if (!s) {
        const sp_send_params params = {
            .url = d->job.webhook,
            .headers = text,
            .content_type = "application/json",
            .request_id = d->id,
            .tenant = d->job.tenant,
            .private_ok = sp_runner_settings(runner)->jobs.allow_private_webhooks,
            .timeout_ns = POST_MS * SP_NS_PER_MS,
            .body = sp_buf_view(&body),
        };
        s = sp_send_start(&d->send, runner->config.house, &params, sent, d, &err);
    }
    if (s) { /* our own trouble: it says nothing of the host */
        sp_breaker_release(&d->host->breaker, d->ticket);
        failed(d, err.message, 0, 1, false);
    }
    free(text);
    sp_buf_done(&headers);
    sp_buf_done(&body);
}

static void got(const sp_job_reply *reply, void *context)
{
    delivery *d = context;
    d->calls--;
    if (d->webhooks->stopped || reply->status || !reply->count) {
        delivery_end(d);
        return;
    }
    int64_t now = sp_clock_now_ns();
    d->job = reply->jobs[0];
    d->host = host_of(d->webhooks, d->job.webhook, now);
    if (!sp_breaker_allow(&d->host->breaker, now, &d->ticket)) {
        int64_t wait_ms = (sp_breaker_retry_at(&d->host->breaker, now) - now) / SP_NS_PER_MS;
        mark(d, false, sp_unix_ms() + SP_MAX(wait_ms, INT64_C(500)) + (int64_t)(sp_runner_random(d->webhooks->runner) % 1000));
        return;
    }
    post(d, reply->result);
}

/* --- what is owed ------------------------------------------------------------------------------------------------- */

static bool in_hand(const sp_webhooks *webhooks, const char *id)
{
    for (int i = 0; i < DELIVERIES; i++) {
        if (strcmp(webhooks->deliveries[i].id, id) == 0)
            return true;
    }
    return false;
}

static void begin(sp_webhooks *webhooks, const sp_job *job)
{
    delivery *d = webhooks->deliveries;
    while (d < webhooks->deliveries + DELIVERIES && *d->id)
        d++;
    if (d == webhooks->deliveries + DELIVERIES)
        return; /* more than were asked for; they come again */
    d->webhooks = webhooks;
    memcpy(d->id, job->id, sizeof(d->id));
    webhooks->busy++;
    d->calls++;
    sp_jobs_get(webhooks->runner->config.jobs, NULL, d->id, got, d);
}

static void due(const sp_job_reply *reply, void *context)
{
    sp_webhooks *webhooks = context;
    webhooks->looks_out--;
    if (webhooks->stopped)
        return;
    for (int i = 0; !reply->status && i < reply->count; i++) {
        if (!in_hand(webhooks, reply->jobs[i].id))
            begin(webhooks, &reply->jobs[i]);
    }
    /* All that were asked for came, so there may be more; or somebody woke us while we looked. */
    bool again = !reply->status && (webhooks->look_again || reply->count >= webhooks->asked);
    webhooks->look_again = again;
    look_in(webhooks, reply->status || reply->count ? LOOK_MS : LOOK_IDLE_MS);
    if (again && webhooks->busy <= DELIVERIES / 2)
        look(webhooks);
}

static void look(sp_webhooks *webhooks)
{
    webhooks->look_again = true;
    if (webhooks->stopped || webhooks->looks_out || webhooks->busy == DELIVERIES)
        return;
    webhooks->look_again = false;
    webhooks->looks_out++;
    /* What is handed out is not handed out again for a while: no more than there are places for. */
    webhooks->asked = DELIVERIES - webhooks->busy;
    sp_jobs_webhooks_due(webhooks->runner->config.jobs, webhooks->asked, due, webhooks);
}

static void look_fire(sp_timer *timer, void *context)
{
    (void)timer;
    sp_webhooks *webhooks = context;
    if (sp_send_possible(webhooks->runner->config.house))
        look(webhooks);
    if (!webhooks->looks_out)
        look_in(webhooks, LOOK_IDLE_MS);
}

void sp_webhooks_wake(sp_webhooks *webhooks)
{
    if (!webhooks->stopped && sp_send_possible(webhooks->runner->config.house))
        look(webhooks);
}

int sp_webhooks_busy(const sp_webhooks *webhooks)
{
    return webhooks->busy;
}

sp_status sp_webhooks_new(sp_runner *runner, sp_webhooks **ret_webhooks, sp_error *reterr)
{
    static const char *const help = "Webhook POSTs";
    sp_webhooks *webhooks = calloc(1, sizeof(*webhooks));
    if (!webhooks)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the webhooks");
    webhooks->runner = runner;
    webhooks->look = (sp_timer){ .fire = look_fire, .context = webhooks };
    webhooks->delivered = sp_metric_get(SP_METRIC_COUNTER, "spillway_webhooks_total", "outcome=\"delivered\"", help);
    webhooks->failed = sp_metric_get(SP_METRIC_COUNTER, "spillway_webhooks_total", "outcome=\"failed\"", help);
    webhooks->given_up = sp_metric_get(SP_METRIC_COUNTER, "spillway_webhooks_total", "outcome=\"given_up\"", help);
    look_in(webhooks, LOOK_MS);
    *ret_webhooks = webhooks;
    return SP_OK;
}

void sp_webhooks_stop(sp_webhooks *webhooks)
{
    webhooks->stopped = true;
    sp_loop_timer_clear(webhooks->runner->config.loop, &webhooks->look);
    for (int i = 0; i < DELIVERIES; i++)
        sp_send_cancel(&webhooks->deliveries[i].send);
}

void sp_webhooks_free(sp_webhooks *webhooks)
{
    free(webhooks);
}
