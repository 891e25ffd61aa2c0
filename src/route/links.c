/* SPDX-License-Identifier: Apache-2.0
 * What is remembered of links and remotes, and what is told of them: events, counters, the list for /v1/links. */
#include "route/links.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "route/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *sp_skip_name(sp_skip skip)
{
    static const char *const names[] = { "none",      "only",    "cannot",     "tried",   "local_only", "not_cpu", "condition",
                                         "load",      "quarantine", "throttled", "breaker", "quota",   "cost",       "slow",    "down",
                                         "full",      "loading" };
    _Static_assert(SP_ARRAY_LEN(names) == SP_SKIP_COUNT, "a name for each reason");
    return (unsigned)skip < SP_SKIP_COUNT ? names[skip] : "unknown";
}

void sp_link_event(const char *kind, const sp_link *link, const char *format, ...)
{
    char topic[64], more[512];
    (void)snprintf(topic, sizeof(topic), "link/%s", link->name);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(more, sizeof(more), format, arguments);
    va_end(arguments);
    sp_event_emit(kind, topic, "", "{\"task\":\"%s\",\"link\":\"%s\"%s}", sp_task_name(link->task), link->name, more);
}

/* --- remembering ------------------------------------------------------------------------------------------------- */

int sp_link_find(sp_house *house, sp_task task, const char *name)
{
    for (int i = 0; i < house->link_count; i++) {
        if (house->links[i].name[0] && house->links[i].task == task && strcmp(house->links[i].name, name) == 0)
            return i;
    }
    return -1;
}

static sp_metric *metric_of(const sp_link *link, sp_metric_kind kind, const char *name, const char *help)
{
    char labels[96];
    (void)snprintf(labels, sizeof(labels), "task=\"%s\",link=\"%s\"", sp_task_name(link->task), link->name);
    return sp_metric_get(kind, name, labels, help);
}

/* A place for one more: a new one, or that of a link which nobody names and nobody uses any more. */
static int free_place(sp_house *house)
{
    if (house->link_count < SP_LIMIT_LINKS)
        return house->link_count++;
    for (int i = 0; i < SP_LIMIT_LINKS; i++) {
        if (!house->links[i].snapshots && !house->links[i].in_flight)
            return i;
    }
    return -1;
}

int sp_link_make(sp_house *house, sp_task task, const char *name, int worker)
{
    int found = sp_link_find(house, task, name);
    if (found >= 0)
        return found;
    int place = free_place(house);
    if (place < 0)
        return -1;
    sp_link *link = &house->links[place];
    *link = (sp_link){ .task = task, .worker = worker, .remote_state = -1 };
    (void)snprintf(link->name, sizeof(link->name), "%s", name);
    sp_breaker_settings breaker = sp_breaker_settings_default();
    sp_breaker_init(&link->breaker, &breaker);
    sp_limiter_init(&link->limiter, &(sp_limiter_settings){ 0 });
    link->seconds_metric = metric_of(link, SP_METRIC_HISTOGRAM, "spillway_link_seconds", "From lease to answer, by link");
    link->retry_metric = metric_of(link, SP_METRIC_COUNTER, "spillway_link_retries_total", "Tries again on the same link");
    link->hedge_metric = metric_of(link, SP_METRIC_COUNTER, "spillway_link_hedges_total", "Times it was asked beside a slow one");
    link->hedge_won_metric = metric_of(link, SP_METRIC_COUNTER, "spillway_link_hedges_won_total", "Hedges that answered first");
    link->breaker_metric = metric_of(link, SP_METRIC_GAUGE, "spillway_link_breaker", "0 closed, 1 open, 2 half-open");
    link->cost_metric = metric_of(link, SP_METRIC_COUNTER, "spillway_link_microdollars_total", "Estimated cost of its work");
    return place;
}

static bool remote_is_named(const sp_house *house, int remote_state)
{
    for (int i = 0; i < house->link_count; i++) {
        const sp_link *link = &house->links[i];
        if (link->remote_state == remote_state && (link->snapshots || link->in_flight))
            return true;
    }
    return false;
}

int sp_remote_state_make(sp_house *house, const char *name)
{
    int place = -1;
    for (int i = 0; i < SP_LIMIT_REMOTES; i++) {
        if (strcmp(house->remotes[i].name, name) == 0)
            return i;
        bool better = !house->remotes[i].name[0] || (place < 0 && !remote_is_named(house, i));
        if (better && (place < 0 || house->remotes[place].name[0]))
            place = i;
    }
    if (place >= 0) {
        house->remotes[place] = (sp_remote_state){ 0 };
        (void)snprintf(house->remotes[place].name, sizeof(house->remotes[place].name), "%s", name);
    }
    return place;
}

void sp_link_apply(sp_link *link, const sp_link_config *config)
{
    sp_breaker fresh;
    sp_breaker_init(&fresh, &config->breaker);
    link->breaker.settings = fresh.settings;
    sp_limiter limiter;
    sp_limiter_init(&limiter, &config->concurrency);
    if (limiter.settings.least != link->limiter.settings.least || limiter.settings.most != link->limiter.settings.most) {
        limiter.out = link->limiter.out;
        link->limiter = limiter;
    }
}

/* --- telling ----------------------------------------------------------------------------------------------------- */

void sp_link_note_breaker(sp_link *link, int64_t now_ns)
{
    sp_breaker_state state = link->breaker.state;
    if (state == link->told)
        return;
    static const char *const kinds[] = { [SP_BREAKER_CLOSED] = "breaker.closed", [SP_BREAKER_OPEN] = "breaker.open",
                                         [SP_BREAKER_HALF_OPEN] = "breaker.half_open" };
    link->told = state;
    sp_metric_set(link->breaker_metric, state);
    int64_t wait_ns = sp_breaker_retry_at(&link->breaker, now_ns) - now_ns;
    sp_link_event(kinds[state], link, ",\"retry_in_ms\":%lld", (long long)(wait_ns / SP_NS_PER_MS));
    sp_log(SP_LOG_WARN, "breaker", SP_LOG_TEXT("task", sp_task_name(link->task)), SP_LOG_TEXT("link", link->name),
           SP_LOG_TEXT("state", sp_breaker_state_name(state)));
}

void sp_link_note_skip(sp_link *link, sp_skip skip)
{
    if (!link->skip_metrics[skip]) {
        char labels[96];
        (void)snprintf(labels, sizeof(labels), "task=\"%s\",link=\"%s\",reason=\"%s\"", sp_task_name(link->task), link->name,
                       sp_skip_name(skip));
        link->skip_metrics[skip] = sp_metric_get(SP_METRIC_COUNTER, "spillway_link_skipped_total", labels,
                                                 "Times a later link of the chain was taken instead, and why");
    }
    sp_metric_add(link->skip_metrics[skip], 1);
    bool of_the_link = skip >= SP_SKIP_QUARANTINE && skip <= SP_SKIP_DOWN && skip != SP_SKIP_SLOW;
    if (of_the_link && skip != link->last_skip)
        sp_link_event("link.skipped", link, ",\"reason\":\"%s\"", sp_skip_name(skip));
    if (of_the_link)
        link->last_skip = skip;
}

void sp_link_quarantine(sp_house *house, sp_link *link, bool out, const char *reason)
{
    if (link->quarantined == out)
        return;
    link->quarantined = out;
    (void)snprintf(link->reason, sizeof(link->reason), "%s", out ? reason : "");
    char text[256];
    sp_buf json = { 0 };
    sp_buf_init(&json, sizeof(text) - 8);
    sp_buf_append_json_text(&json, reason);
    (void)snprintf(text, sizeof(text), "%.*s", (int)json.size_bytes, json.data ? (const char *)json.data : "");
    sp_buf_done(&json);
    sp_link_event(out ? "link.quarantined" : "link.released", link, ",\"reason\":%s", text[0] ? text : "\"\"");
    sp_metric_set(metric_of(link, SP_METRIC_GAUGE, "spillway_link_quarantined", "1 = taken out by the guard or an operator"), out);
    sp_log(SP_LOG_WARN, out ? "link quarantined" : "link back", SP_LOG_TEXT("task", sp_task_name(link->task)),
           SP_LOG_TEXT("link", link->name), SP_LOG_TEXT("reason", reason));
    if (!out)
        house->guard.golden_pending = link->golden_due = true; /* back in: it is looked at again */
    if (out && house->on_quarantine)
        house->on_quarantine(house->on_quarantine_context, sp_task_name(link->task), link->name);
}

sp_status sp_house_link_quarantine(sp_house *house, const char *task, const char *link, bool out, const char *reason,
                                   sp_error *reterr)
{
    int found = -1;
    for (int t = 0; t < SP_TASK_COUNT && found < 0; t++) {
        if (strcmp(task, sp_task_name((sp_task)t)) == 0)
            found = sp_link_find(house, (sp_task)t, link);
    }
    if (found < 0)
        return SP_FAIL(reterr, SP_NOT_FOUND, "no link '%.40s' of task '%.20s'; /v1/links lists them", link, task);
    sp_link_quarantine(house, &house->links[found], out, reason ? reason : "");
    return SP_OK;
}

void sp_house_on_quarantine(sp_house *house, void (*call)(void *context, const char *task, const char *link), void *context)
{
    house->on_quarantine = call;
    house->on_quarantine_context = context;
}

/* The entries of the chains in force, task by task. */
static const sp_chain_entry *entry_at(const sp_house *house, int index, const sp_chain **ret_chain)
{
    for (int task = 0; task < SP_TASK_COUNT; task++) {
        const sp_chain *chain = &house->snapshot->chains[task];
        if (index < chain->count) {
            *ret_chain = chain;
            return &chain->entries[index];
        }
        index -= chain->count;
    }
    return NULL;
}

int sp_house_link_count(const sp_house *house)
{
    int count = 0;
    for (int task = 0; task < SP_TASK_COUNT; task++)
        count += house->snapshot->chains[task].count;
    return count;
}

static const char *why_not(const sp_house *house, const sp_chain_entry *entry, const sp_link *link, int64_t now_ns)
{
    if (link->quarantined)
        return link->reason;
    if (link->breaker.state == SP_BREAKER_OPEN && now_ns < link->breaker.open_until_ns)
        return "its breaker is open";
    if (entry->worker >= 0) {
        const sp_worker *worker = &house->workers[entry->worker];
        if (worker->state != SP_WORKER_READY)
            return worker->reason[0] ? worker->reason : sp_worker_state_name(worker->state);
    } else if (!house->role_counts[SP_ROLE_NET]) {
        return "no net worker runs here (--workers net0)";
    }
    return "";
}

void sp_house_link_info(const sp_house *house, int index, sp_link_info *ret_info)
{
    const sp_chain *chain = NULL;
    const sp_chain_entry *entry = entry_at(house, index, &chain);
    SP_ASSERT(entry);
    const sp_link *link = &house->links[entry->link];
    int64_t now_ns = sp_clock_now_ns(), today = sp_clock_wall_ns() / SP_NS_PER_S / 86400;
    *ret_info = (sp_link_info){
        .task = sp_task_name(link->task),
        .name = link->name,
        .worker = entry->worker >= 0 ? house->workers[entry->worker].name : "net",
        .remote = entry->worker < 0,
        .breaker = link->breaker.state,
        .retry_in_ns = sp_breaker_retry_at(&link->breaker, now_ns) - now_ns,
        .quarantined = link->quarantined,
        .reason = why_not(house, entry, link, now_ns),
        .in_flight = link->in_flight,
        .limit = link->limiter.limit < 1e9 ? (int)link->limiter.limit : 0,
        .p50_ns = link->latency.p50_ns,
        .p95_ns = link->latency.p95_ns,
        .p99_ns = link->latency.p99_ns,
        .microdollars_today = link->cost.day == today ? link->cost.microdollars_day : 0,
    };
}
