/* SPDX-License-Identifier: Apache-2.0
 * Strikes, pauses, and their words. */
#include "route/quarantine.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "worker/device_fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRIKES_OF_DEVICES 3
#define EARLY_DEATHS_OF_OTHERS 8       /* of a codec or CPU worker, for which nobody may be there to take over */
#define LIVED_NS (10 * SP_NS_PER_S)    /* a fault after this much good work is the first one again */
#define FORGIVEN_NS (60 * SP_NS_PER_S) /* good work after which the pauses begin at the shortest */
#define PAUSE_FIRST_MS 10000

static const int pause_factors[] = { 1, 3, 6, 30, 60 };

/* It stands on a driver's libraries, which may fail while its program is fine. */
static bool is_on_a_driver(const sp_worker *worker)
{
    return worker->role == SP_ROLE_SAMPLER || (worker->role == SP_ROLE_DEVICE && strcmp(worker->kind, "cpu") != 0);
}

static int64_t pause_ns(int level)
{
    const char *text = getenv("SPILLWAY_DEVICE_PAUSE_MS"); /* of the first pause; docs/cli.md */
    int64_t first_ms = text ? strtoll(text, NULL, 10) : 0;
    first_ms = first_ms > 0 ? SP_MIN(first_ms, 3600000) : PAUSE_FIRST_MS;
    return first_ms * pause_factors[SP_CLAMP(level, 0, (int)SP_ARRAY_LEN(pause_factors) - 1)] * SP_NS_PER_MS;
}

static void emit(const sp_worker *worker, const char *kind, int64_t wait_ns)
{
    char topic[48];
    sp_buf text;
    (void)snprintf(topic, sizeof(topic), "device/%s", worker->name);
    sp_buf_init(&text, 900);
    sp_buf_append_text(&text, "{\"worker\":");
    sp_buf_append_json_text(&text, worker->name);
    sp_buf_append_text(&text, ",\"code\":");
    sp_buf_append_json_text(&text, worker->code);
    sp_buf_append_text(&text, ",\"reason\":");
    sp_buf_append_json_text(&text, worker->reason);
    sp_buf_append_text(&text, ",\"remedy\":");
    sp_buf_append_json_text(&text, sp_device_remedy(worker->code));
    if (wait_ns)
        sp_buf_printf(&text, ",\"retry_in_s\":%.3f", (double)wait_ns / 1e9);
    sp_buf_append_text(&text, "}");
    if (sp_buf_ok(&text))
        sp_event_emit(kind, topic, "", "%.*s", (int)text.size_bytes, (const char *)text.data);
    sp_buf_done(&text);
}

static sp_metric *series(sp_metric_kind kind, const char *name, const sp_worker *worker, const char *code, const char *help)
{
    char labels[96];
    (void)snprintf(labels, sizeof(labels), "worker=\"%s\"%s%s%s", worker->name, code ? ",code=\"" : "", code ? code : "",
                   code ? "\"" : "");
    return sp_metric_get(kind, name, labels, help);
}

void sp_quarantine_note_death(sp_worker *worker, sp_death_cause cause, bool early, bool loading)
{
    int64_t lived_ns = worker->ready_ns >= worker->spawned_ns ? sp_clock_now_ns() - worker->ready_ns : 0;
    if (cause == SP_DEATH_WATCHDOG && is_on_a_driver(worker))
        (void)snprintf(worker->code, sizeof(worker->code), "hang");
    else if (!worker->said_why)
        worker->code[0] = 0;
    if (cause == SP_DEATH_OUTSIDER || cause == SP_DEATH_STOPPED || cause == SP_DEATH_MEMORY)
        return;
    if (lived_ns > FORGIVEN_NS)
        worker->pauses = 0;
    bool fault = worker->code[0] && is_on_a_driver(worker);
    if (fault)
        worker->strikes = lived_ns > (worker->role == SP_ROLE_SAMPLER ? FORGIVEN_NS : LIVED_NS) ? 1 : worker->strikes + 1;
    else
        worker->strikes = early ? worker->strikes + 1 : 0; /* a crash, a model that does not load */
    if (fault) {
        sp_metric_add(series(SP_METRIC_COUNTER, "spillway_device_faults_total", worker, worker->code,
                             "Ends of a device worker that the device was the cause of"), 1);
        if (!(loading && worker->again_at_ns))
            emit(worker, "device.fault", 0);
    }
}

static bool another_is_ready(const sp_worker *worker)
{
    const sp_house *house = worker->house;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *other = &house->workers[i];
        if (other != worker && other->role == worker->role && other->state == SP_WORKER_READY)
            return true;
    }
    return false;
}

static bool has_deserved_it(const sp_worker *worker, bool loading)
{
    if (!is_on_a_driver(worker))
        return loading && (worker->cannot_start || worker->early_deaths >= EARLY_DEATHS_OF_OTHERS);
    if (loading)
        return worker->cannot_start || worker->again_at_ns || worker->strikes >= STRIKES_OF_DEVICES;
    /* One that works between its faults is better than nothing. */
    return worker->strikes >= STRIKES_OF_DEVICES && (worker->role == SP_ROLE_SAMPLER || another_is_ready(worker));
}

bool sp_quarantine_begin(sp_worker *worker, bool loading, int64_t *ret_wait_ns)
{
    if (!has_deserved_it(worker, loading))
        return false;
    bool again = worker->again_at_ns != 0;
    *ret_wait_ns = pause_ns(worker->pauses++);
    worker->again_at_ns = sp_clock_now_ns() + *ret_wait_ns;
    sp_metric_add(series(SP_METRIC_COUNTER, "spillway_device_quarantines_total", worker, NULL,
                         "Times a worker was left alone for a while because it kept failing"), 1);
    sp_metric_set(series(SP_METRIC_GAUGE, "spillway_device_quarantined", worker, NULL, "1 = left alone now"), 1);
    sp_log(again ? SP_LOG_DEBUG : SP_LOG_ERROR, "worker quarantined", SP_LOG_TEXT("worker", worker->name),
           SP_LOG_TEXT("code", worker->code), SP_LOG_TEXT("reason", worker->reason),
           SP_LOG_INT("retry_in_ms", *ret_wait_ns / SP_NS_PER_MS));
    if (!again)
        emit(worker, "device.quarantined", *ret_wait_ns);
    return true;
}

void sp_quarantine_note_ready(sp_worker *worker)
{
    if (!worker->again_at_ns)
        return;
    worker->again_at_ns = 0;
    worker->strikes = 0;
    sp_metric_set(series(SP_METRIC_GAUGE, "spillway_device_quarantined", worker, NULL, "1 = left alone now"), 0);
    sp_log(SP_LOG_WARN, "worker returned from quarantine", SP_LOG_TEXT("worker", worker->name),
           SP_LOG_INT("tries", worker->pauses));
    emit(worker, "device.returned", 0);
}

bool sp_quarantine_is_repetition(const sp_worker *worker, bool loading, const char *reason)
{
    return loading && worker->again_at_ns && strcmp(worker->reason, reason) == 0;
}
