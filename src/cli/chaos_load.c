/* SPDX-License-Identifier: Apache-2.0
 * The requests of `spillway chaos`: threads that each ask, wait, and hold the answer to the clean pass's. */
#include "base/clock.h"
#include "cli/call.h"
#include "cli/chaos.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ANSWER_BYTES (128u * 1024)
/* A client that is told to come back later does; Retry-After counts in seconds, which is long for a test. */
#define SHED_PAUSE_NS (50 * SP_NS_PER_MS)

typedef struct load_thread {
    sp_chaos *chaos;
    pthread_t id;
    bool started;
    sp_caller caller;
    sp_buf noop;     /* the request; its body's bytes are set anew each time */
    size_t noop_body; /* where they begin */
    uint64_t random;
    sp_chaos_tally tally;
} load_thread;

static uint64_t next_random(load_thread *t)
{
    uint64_t z = (t->random += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void link_count(sp_chaos_tally *tally, const char *name, uint64_t answers)
{
    int i = 0;
    while (i < tally->link_count && strcmp(tally->links[i].name, name))
        i++;
    if (i == SP_CHAOS_LINKS)
        return;
    if (i == tally->link_count) {
        (void)snprintf(tally->links[i].name, sizeof(tally->links[i].name), "%s", name);
        tally->link_count++;
    }
    tally->links[i].answers += answers;
}

static void sample(sp_chaos_tally *tally, const char *what, const char *file, int status, const char *text)
{
    if (tally->sample_count < SP_CHAOS_SAMPLES)
        (void)snprintf(tally->samples[tally->sample_count++], sizeof(tally->samples[0]), "%s: %.60s: %d %.150s", what, file,
                       status, text);
}

/* The first right answer after a fault ends its outage. */
static void answered(sp_chaos *chaos, int64_t sent_ns, int64_t now_ns)
{
    if (!atomic_load_explicit(&chaos->unanswered, memory_order_relaxed))
        return;
    (void)pthread_mutex_lock(&chaos->lock);
    int open = atomic_load(&chaos->open_count);
    for (int i = 0; i < open; i++) {
        if (!chaos->open[i].answer_ns && sent_ns >= chaos->open[i].at_ns) {
            chaos->open[i].answer_ns = now_ns;
            (void)atomic_fetch_sub(&chaos->unanswered, 1);
        }
    }
    (void)pthread_mutex_unlock(&chaos->lock);
}

static void note_sent(sp_chaos *chaos, int64_t sent_ns)
{
    int64_t last_ns = atomic_load_explicit(&chaos->last_sent_ns, memory_order_relaxed);
    while (last_ns < sent_ns && !atomic_compare_exchange_weak(&chaos->last_sent_ns, &last_ns, sent_ns))
        ;
}

/* What is wrong with it, or NULL. */
static const char *judge(const sp_chaos *chaos, const sp_chaos_shot *shot, const sp_seen *seen, char *text, size_t text_bytes)
{
    double apart = sp_seen_difference(seen, &shot->expected);
    if (!sp_seen_same_first(seen, &shot->expected))
        (void)snprintf(text, text_bytes, "%s says %.60s, the clean pass said %.60s", seen->provider, seen->label,
                       shot->expected.label);
    else if (!(apart <= chaos->tolerance))
        (void)snprintf(text, text_bytes, "%s is %.3g from the clean pass", seen->provider, apart);
    else
        return NULL;
    return text;
}

static void picture_take(load_thread *t, const sp_chaos_shot *shot, int status, sp_view body, int64_t took_ns, bool *ret_right)
{
    sp_seen seen;
    char text[256];

    if (!sp_seen_read(body, &seen)) {
        t->tally.wrong++;
        sample(&t->tally, "wrong", shot->file, status, "the answer is no JSON");
        return;
    }
    if (took_ns > t->tally.slowest_ns) {
        t->tally.slowest_ns = took_ns;
        memcpy(t->tally.slowest_way, seen.way, sizeof(seen.way));
    }
    link_count(&t->tally, *seen.provider ? seen.provider : "(unnamed)", 1);
    if (seen.simpler) { /* another model: no answer to compare with */
        t->tally.simpler++;
        *ret_right = true;
        return;
    }
    const char *wrong = judge(t->chaos, shot, &seen, text, sizeof(text));
    *ret_right = !wrong;
    if (wrong) {
        t->tally.wrong++;
        sample(&t->tally, "wrong", shot->file, status, wrong);
    }
}

static void ask(load_thread *t)
{
    sp_chaos *chaos = t->chaos;
    bool noop = (int)(next_random(t) % 100) < chaos->noop_percent;
    const sp_chaos_shot *shot = &chaos->shots[next_random(t) % (uint64_t)chaos->shot_count];
    sp_error err = { 0 };
    sp_view body;
    int status = 0;

    for (size_t i = t->noop_body; noop && i + 8 <= t->noop.size_bytes; i += 8) {
        uint64_t bytes = next_random(t);
        memcpy(t->noop.data + i, &bytes, 8);
    }
    bool in_fault = atomic_load_explicit(&chaos->open_count, memory_order_relaxed) > 0, right = false;
    int64_t sent_ns = sp_clock_now_ns();
    note_sent(chaos, sent_ns);
    sp_status s = sp_caller_call(&t->caller, sp_buf_view(noop ? &t->noop : &shot->request), chaos->timeout_ns, &status, &body, &err);
    int64_t now_ns = sp_clock_now_ns();

    t->tally.sent++;
    t->tally.noops += noop;
    if (s) {
        t->tally.lost++;
        sample(&t->tally, "lost", noop ? "noop" : shot->file, 0, err.message);
    } else if (status == 429) {
        t->tally.shed++;
        (void)nanosleep(&(struct timespec){ .tv_nsec = SHED_PAUSE_NS }, NULL);
    } else if (status != 200) {
        sp_seen seen;
        t->tally.lost++;
        sample(&t->tally, "lost", noop ? "noop" : shot->file, status, sp_seen_read(body, &seen) ? seen.reason : "");
    } else if (noop) {
        right = body.size_bytes == t->noop.size_bytes - t->noop_body && !memcmp(body.data, t->noop.data + t->noop_body, body.size_bytes);
        t->tally.wrong += !right;
        if (!right)
            sample(&t->tally, "wrong", "noop", status, "other bytes came back");
    } else {
        picture_take(t, shot, status, body, now_ns - sent_ns, &right);
    }
    if (right) {
        t->tally.right++;
        sp_hist_add(in_fault ? &t->tally.fault_latency : &t->tally.latency, now_ns - sent_ns);
        answered(chaos, sent_ns, now_ns);
    }
}

static void *thread_run(void *argument)
{
    load_thread *t = argument;
    sp_chaos *chaos = t->chaos;
    while (!atomic_load(&chaos->ending)) {
        if (chaos->request_limit && atomic_fetch_add(&chaos->issued, 1) >= chaos->request_limit)
            break;
        ask(t);
    }
    return NULL;
}

/* The same URL with task=noop, and a body that is written over before each sending. */
static sp_status noop_build(load_thread *t, sp_error *reterr)
{
    static const uint8_t zeros[SP_CHAOS_NOOP_BYTES];
    sp_bench_url url = t->chaos->url;
    size_t path = strcspn(url.target, "?");

    (void)snprintf(url.target + path, sizeof(url.target) - path, "?task=noop");
    const sp_bench_request_params params = { .url = &url, .method = "POST", .has_body = true, .keep_alive = true,
                                             .body = sp_view_make(zeros, sizeof(zeros)), .headers = t->chaos->headers,
                                             .header_count = t->chaos->header_count };
    sp_buf_init(&t->noop, 64 * 1024);
    sp_status s = sp_bench_request_build(&params, &t->noop, reterr);
    t->noop_body = t->noop.size_bytes - SP_MIN(t->noop.size_bytes, sizeof(zeros));
    return s;
}

static void tally_add(sp_chaos_tally *sum, const sp_chaos_tally *one)
{
    sum->sent += one->sent;
    sum->right += one->right;
    sum->shed += one->shed;
    sum->lost += one->lost;
    sum->wrong += one->wrong;
    sum->simpler += one->simpler;
    sum->noops += one->noops;
    for (int i = 0; i < one->link_count; i++)
        link_count(sum, one->links[i].name, one->links[i].answers);
    sp_hist_merge(&sum->latency, &one->latency);
    sp_hist_merge(&sum->fault_latency, &one->fault_latency);
    if (one->slowest_ns > sum->slowest_ns) {
        sum->slowest_ns = one->slowest_ns;
        memcpy(sum->slowest_way, one->slowest_way, sizeof(sum->slowest_way));
    }
    for (int i = 0; i < one->sample_count && sum->sample_count < SP_CHAOS_SAMPLES; i++)
        memcpy(sum->samples[sum->sample_count++], one->samples[i], sizeof(one->samples[i]));
}

static sp_status thread_start(load_thread *t, sp_chaos *chaos, int index, sp_error *reterr)
{
    t->chaos = chaos;
    t->random = chaos->seed * 1000003 + (uint64_t)index;
    t->caller.fd = -1;
    sp_hist_init(&t->tally.latency);
    sp_hist_init(&t->tally.fault_latency);
    sp_status s = sp_caller_init(&t->caller, chaos->url.host, chaos->url.port, ANSWER_BYTES, reterr);
    if (!s)
        s = noop_build(t, reterr);
    if (!s && pthread_create(&t->id, NULL, thread_run, t))
        s = SP_FAIL(reterr, SP_NOMEM, "cannot start thread %d", index + 1);
    t->started = !s;
    return s;
}

sp_status sp_chaos_load_run(sp_chaos *chaos, sp_chaos_tally *ret_sum, sp_error *reterr)
{
    load_thread *threads = calloc((size_t)chaos->concurrency, sizeof(*threads));
    sp_status s = threads ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for %d threads", chaos->concurrency);

    *ret_sum = (sp_chaos_tally){ 0 };
    sp_hist_init(&ret_sum->latency);
    sp_hist_init(&ret_sum->fault_latency);
    int count = 0;
    while (!s && count < chaos->concurrency) {
        s = thread_start(&threads[count], chaos, count, reterr);
        count++;
    }
    if (s)
        atomic_store(&chaos->ending, true);
    for (int i = 0; i < count; i++) {
        if (threads[i].started)
            (void)pthread_join(threads[i].id, NULL);
        tally_add(ret_sum, &threads[i].tally);
        sp_caller_done(&threads[i].caller);
        sp_buf_done(&threads[i].noop);
    }
    free(threads);
    atomic_store(&chaos->ending, true); /* the schedule need not go on */
    return s;
}

/* Each file, one after the other; `first`: the answers are kept, else they are held to those. */
static sp_status pass(sp_chaos *chaos, bool first, sp_error *reterr)
{
    sp_caller caller = { .fd = -1 };
    sp_status s = sp_caller_init(&caller, chaos->url.host, chaos->url.port, ANSWER_BYTES, reterr);

    for (int i = 0; i < chaos->shot_count && !s; i++) {
        sp_chaos_shot *shot = &chaos->shots[i];
        sp_seen seen = { 0 };
        sp_view body;
        int status = 0;
        char text[256];
        s = sp_caller_call(&caller, sp_buf_view(&shot->request), chaos->timeout_ns, &status, &body, reterr);
        if (s)
            break;
        if (status != 200 || !sp_seen_read(body, &seen) || !seen.count) {
            if (status == 200)
                (void)snprintf(seen.reason, sizeof(seen.reason), "no predictions");
            else
                (void)sp_seen_read(body, &seen);
            s = SP_FAIL(reterr, SP_INVALID, "%s: %d %s", shot->file, status, seen.reason);
        } else if (first && seen.simpler) {
            s = SP_FAIL(reterr, SP_UNAVAILABLE, "%s: answered by %s, which is marked simpler; wait until a better link is ready",
                        shot->file, seen.provider);
        } else if (first) {
            shot->expected = seen;
        } else if (!seen.simpler && judge(chaos, shot, &seen, text, sizeof(text))) {
            s = SP_FAIL(reterr, SP_INVALID, "%s: %.200s", shot->file, text);
        }
    }
    sp_caller_done(&caller);
    return s;
}

sp_status sp_chaos_clean_pass(sp_chaos *chaos, sp_error *reterr)
{
    return pass(chaos, true, reterr);
}

sp_status sp_chaos_check_pass(sp_chaos *chaos, sp_error *reterr)
{
    return pass(chaos, false, reterr);
}
