/* SPDX-License-Identifier: Apache-2.0
 * The house: construction, the place in the loop, and what it says of itself. */
#include "route/house.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/log.h"
#include "route/devices.h"
#include "route/dispatch.h"
#include "route/models.h"
#include "route/supervisor.h"
#include "worker/device_fault.h"
#include "worker/ring.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

const char *sp_task_name(sp_task task)
{
    static const char *const names[] = { [SP_TASK_NOOP] = "noop", [SP_TASK_CLASSIFY] = "classify",
                                         [SP_TASK_SEND] = "send", [SP_TASK_INFER] = "infer", [SP_TASK_DETECT] = "detect",
                                         [SP_TASK_MODELS] = "models", [SP_TASK_INDEX] = "index",
                                         [SP_TASK_ANALYZE] = "analyze", [SP_TASK_REPORT] = "report",
                                         [SP_TASK_FETCH] = "fetch" };
    return (unsigned)task < SP_ARRAY_LEN(names) ? names[task] : "unknown";
}

bool sp_task_parse(const char *text, sp_task *ret_task)
{
    static const sp_task asked_for[] = { SP_TASK_NOOP, SP_TASK_CLASSIFY, SP_TASK_DETECT }; /* by name; the others have ways of their own */
    for (size_t i = 0; i < SP_ARRAY_LEN(asked_for); i++) {
        if (strcmp(text, sp_task_name(asked_for[i])) == 0) {
            *ret_task = asked_for[i];
            return true;
        }
    }
    return false;
}

const char *sp_worker_state_name(sp_worker_state state)
{
    static const char *const names[] = { "starting", "ready", "backoff", "quarantined", "ending" };
    return (unsigned)state < SP_ARRAY_LEN(names) ? names[state] : "unknown";
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

static bool rings_have_news(const void *context)
{
    const sp_house *house = context;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *worker = &house->workers[i];
        if (worker->page && !sp_completions_empty(&worker->page->completions, worker->completion_head))
            return true;
    }
    return false;
}

static bool anything_new(const void *context)
{
    const sp_house *house = context;
    return rings_have_news(house) || sp_loop_has_events(house->loop);
}

static bool prepare_sleep(void *context)
{
    sp_house *house = context;
    house->sleep_began_ns = 0;
    if (house->answered.count || house->models.due)
        return true;
    if (house->spin.longest_ns) {
        house->sleep_began_ns = sp_clock_now_ns();
        if (sp_spin_until(&house->spin, anything_new, house))
            return true;
    }
    sp_ring_announce_sleep(&house->page->gateway_sleeping);
    return rings_have_news(house);
}

static void wake_up(void *context)
{
    sp_house *house = context;
    atomic_store_explicit(&house->page->gateway_sleeping, 0, memory_order_relaxed);
    if (house->sleep_began_ns)
        sp_spin_note(&house->spin, sp_clock_now_ns() - house->sleep_began_ns);
}

/* --- construction ------------------------------------------------------------------------------------------------ */

static sp_status role_of(const char *kind, sp_worker_role *ret_role, sp_error *reterr)
{
    static const struct {
        const char *kind;
        sp_worker_role role;
    } roles[] = {
        { "codec", SP_ROLE_CODEC },     { "cpu", SP_ROLE_DEVICE }, { "cuda", SP_ROLE_DEVICE },
        { "tensorrt", SP_ROLE_DEVICE }, { "noop", SP_ROLE_NOOP },
        { "sim", SP_ROLE_DEVICE },      { "net", SP_ROLE_NET },
        { "sampler", SP_ROLE_SAMPLER },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(roles); i++) {
        if (strcmp(kind, roles[i].kind) == 0) {
            *ret_role = roles[i].role;
            return SP_OK;
        }
    }
    return SP_FAIL(reterr, SP_INVALID,
                   "no worker kind '%s'; there are codec, cpu, cuda, tensorrt, sim, net, sampler and noop, each with a number (cpu0)", kind);
}

static sp_status add_worker(sp_house *house, const char *name, size_t length, sp_error *reterr)
{
    if (house->worker_count == SP_LIMIT_WORKERS)
        return SP_FAIL(reterr, SP_INVALID, "more than %d workers", SP_LIMIT_WORKERS);
    sp_worker *worker = &house->workers[house->worker_count];
    if (length == 0 || length >= sizeof(worker->kind))
        return SP_FAIL(reterr, SP_INVALID, "'%.*s' is no worker name; an example is cpu0", (int)length, name);
    worker->house = house;
    worker->index = house->worker_count;
    worker->pid_fd = worker->control_fd = worker->submit_fd = worker->complete_fd = worker->memfd = -1;
    (void)snprintf(worker->name, sizeof(worker->name), "%.*s", (int)length, name);
    size_t kind_length = length;
    while (kind_length > 0 && isdigit((unsigned char)name[kind_length - 1]))
        kind_length--;
    (void)snprintf(worker->kind, sizeof(worker->kind), "%.*s", (int)kind_length, name);
    for (int i = 0; i < house->worker_count; i++) {
        if (strcmp(house->workers[i].name, worker->name) == 0)
            return SP_FAIL(reterr, SP_INVALID, "worker %s is named twice", worker->name);
    }
    sp_status s = role_of(worker->kind, &worker->role, reterr);
    if (s)
        return s;
    char labels[64];
    (void)snprintf(labels, sizeof(labels), "worker=\"%s\"", worker->name);
    worker->deaths_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_worker_deaths_total", labels, "Worker processes that ended");
    worker->ready_metric = sp_metric_get(SP_METRIC_GAUGE, "spillway_worker_ready", labels, "1 = takes requests");
    worker->in_flight_metric = sp_metric_get(SP_METRIC_GAUGE, "spillway_worker_leases", labels, "Leases out at a worker");
    house->role_counts[worker->role]++;
    house->worker_count++;
    return SP_OK;
}

/* A GPU that is routed to is measured, whether or not anybody thought of a sampler. */
static sp_status add_sampler(sp_house *house, sp_error *reterr)
{
    bool gpu = false;
    for (int i = 0; i < house->worker_count; i++) {
        const char *kind = house->workers[i].kind;
        gpu |= strcmp(kind, "cuda") == 0 || strcmp(kind, "tensorrt") == 0;
        if (house->workers[i].role == SP_ROLE_SAMPLER)
            return SP_OK;
    }
    return gpu && house->worker_count < SP_LIMIT_WORKERS ? add_worker(house, "sampler0", strlen("sampler0"), reterr) : SP_OK;
}

static sp_status parse_workers(sp_house *house, sp_error *reterr)
{
    const char *text = house->config.workers;
    for (;;) {
        size_t length = strcspn(text, ",");
        sp_status s = add_worker(house, text, length, reterr);
        if (s)
            return s;
        if (!text[length])
            return add_sampler(house, reterr);
        text += length + 1;
    }
}

static void init_requests(sp_house *house)
{
    sp_slot_request *shared = (sp_slot_request *)(void *)(house->memory + SP_REQUEST_MEMFD_REQUESTS_OFFSET);
    for (uint32_t i = 0; i < SP_LIMIT_SLOTS; i++) {
        sp_request *request = &house->requests[i];
        *request = (sp_request){ .house = house, .slot = i, .body_fd = -1, .media_fd = -1, .fetch_fd = -1, .output_fd = -1,
                                   .answer.output_fd = -1 };
        request->shared = &shared[i];
        request->inline_body = house->memory + SP_REQUEST_MEMFD_BODIES_OFFSET + (size_t)i * SP_LIMIT_SLOT_INLINE_BYTES;
        request->head = (sp_infer_head *)(void *)(house->memory + SP_REQUEST_MEMFD_HEADS_OFFSET + (size_t)i * SP_INFER_HEAD_STRIDE);
        request->body = request->inline_body;
        request->timer = (sp_timer){ .fire = sp_dispatch_expire, .context = request };
        house->free_slots[i] = SP_LIMIT_SLOTS - 1 - i;
    }
    house->free_count = SP_LIMIT_SLOTS;
}

static void init_metrics(sp_house *house)
{
    house->stale_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_stale_completions_total", "",
                                        "Completions that were no longer the current lease: dropped");
    house->poison_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_poisoned_requests_total", "",
                                         "Requests refused because their body ended two workers");
    house->fallback_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_fallbacks_total", "",
                                           "Attempts that failed and were followed by another");
    house->requeued_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_requeued_leases_total", "",
                                           "Leases handed back to their chain because their worker died");
    house->shed_metric = sp_metric_get(SP_METRIC_COUNTER, "spillway_shed_total", "",
                                       "Requests told at once that they cannot be answered in time");
}

/* --- configuration ----------------------------------------------------------------------------------------------- */

static sp_status first_snapshot(sp_house *house, sp_error *reterr)
{
    sp_config *config = house->config.config ? sp_config_ref(house->config.config) : NULL;
    sp_status s = config ? SP_OK : sp_config_new_default(&config, reterr);
    if (!s)
        s = sp_snapshot_new(house, config, &house->snapshot, reterr);
    sp_config_unref(config);
    house->config.config = NULL; /* the snapshot has it */
    int64_t now_ns = sp_clock_now_ns();
    for (int task = 0; task < SP_TASK_COUNT && !s; task++)
        sp_retry_budget_init(&house->budgets[task], &house->snapshot->chains[task].budget, now_ns);
    return s;
}

void sp_house_reload(sp_house *house, sp_config *config)
{
    sp_error err = { 0 };
    sp_snapshot *snapshot = NULL, *old = house->snapshot;
    if (sp_snapshot_new(house, config, &snapshot, &err)) {
        sp_log_error("configuration not taken over", NULL, &err);
        return;
    }
    house->snapshot = snapshot;
    for (int task = 0; task < SP_TASK_COUNT; task++)
        house->budgets[task].settings = snapshot->chains[task].budget;
    sp_models_choose_workers(house);
    sp_snapshot_unref(house, old);
    for (int i = 0; i < house->worker_count; i++)
        sp_supervisor_send_config(&house->workers[i], snapshot);
    sp_event_emit("config.reloaded", "config", "", "{\"serial\":%u}", snapshot->serial);
    sp_dispatch_run(house); /* a link that was shut may be open under the new one */
}

const sp_config *sp_house_config_now(const sp_house *house)
{
    return house->snapshot->config;
}

sp_status sp_house_new(const sp_house_config *config, sp_loop *loop, sp_house **ret_house, sp_error *reterr)
{
    sp_house *house = calloc(1, sizeof(*house));
    if (!house)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the house");
    house->config = *config;
    house->loop = loop;
    house->spin.longest_ns = config->spin_us * SP_NS_PER_US;
    house->request_memfd = house->request_memfd_read = -1;
    house->oom_kills = sp_machine_oom_kill_count();
    sp_machine_read(&house->machine);
    if (config->memory_limit_bytes)
        house->machine.memory_limit_bytes = config->memory_limit_bytes;
    if (!config->bodies_limit_bytes)
        house->config.bodies_limit_bytes = SP_LIMIT_BODIES_BYTES;
    init_metrics(house);
    sp_guard_open(house);
    (void)!getrandom(&house->random_state, sizeof(house->random_state), GRND_NONBLOCK); /* jitter: any seed will do */
    sp_status s = parse_workers(house, reterr);
    if (!s)
        s = first_snapshot(house, reterr);
    if (!s)
        s = sp_shm_house_make(house, reterr);
    if (s) {
        sp_house_free(house, 0);
        return s;
    }
    init_requests(house);
    sp_models_open(house);
    s = sp_loop_hook_add(loop, sp_dispatch_hook, house, reterr);
    sp_loop_set_sleep(loop, prepare_sleep, wake_up, house);
    for (int i = 0; i < house->worker_count && !s; i++)
        s = sp_supervisor_spawn(&house->workers[i], reterr);
    if (s) {
        sp_house_free(house, 0);
        return s;
    }
    sp_devices_arm(house);
    *ret_house = house;
    return SP_OK;
}

void sp_house_free(sp_house *house, int grace_ms)
{
    if (!house)
        return;
    sp_loop_set_sleep(house->loop, NULL, NULL, NULL);
    sp_loop_hook_remove(house->loop, sp_dispatch_hook, house);
    sp_guard_close(house);
    sp_models_free(house);
    sp_supervisor_end_all(house, grace_ms);
    sp_loop_timer_clear(house->loop, &house->watchdog);
    sp_loop_timer_clear(house->loop, &house->devices_timer);
    for (int i = 0; i < SP_LIMIT_SLOTS && house->memory; i++) {
        SP_ASSERT(house->requests[i].state == SP_REQUEST_FREE || house->requests[i].state == SP_REQUEST_CLOSED);
        sp_fd_closep(&house->requests[i].output_fd);
        sp_fd_closep(&house->requests[i].body_fd);
    }
    for (int i = 0; i < SP_LIMIT_SLOTS && house->memory; i++)
        sp_snapshot_unref(house, house->requests[i].snapshot);
    sp_snapshot_unref(house, house->snapshot);
    sp_shm_house_free(house);
    free(house);
}

/* --- what it says of itself -------------------------------------------------------------------------------------- */

int sp_house_worker_count(const sp_house *house)
{
    return house->worker_count;
}

void sp_house_worker_info(const sp_house *house, int index, sp_worker_info *ret_info)
{
    SP_ASSERT(index >= 0 && index < house->worker_count);
    sp_worker *worker = (sp_worker *)(uintptr_t)&house->workers[index]; /* its counters are added up as they are read */
    sp_devices_count(worker);
    int64_t wait_ns = worker->again_at_ns - sp_clock_now_ns();
    *ret_info = (sp_worker_info){
        .name = worker->name,
        .kind = worker->kind,
        .state = worker->state,
        .pid = worker->pid,
        .restarts = worker->restarts,
        .in_flight = worker->in_flight,
        .reason = worker->reason,
        .code = worker->code,
        .remedy = sp_device_remedy(worker->code),
        .retry_in_ns = worker->state == SP_WORKER_QUARANTINED ? SP_MAX(wait_ns, 0) : 0,
        .throttled = sp_worker_throttled(worker),
        .card = worker->has_card ? &worker->card : NULL,
    };
    sp_metric_set(worker->in_flight_metric, worker->in_flight);
}

static bool links_missing(const sp_house *house, const sp_chain *chain)
{
    bool missing = false;
    for (int e = 0; e < chain->count; e++)
        missing |= house->links[chain->entries[e].link].quarantined;
    return missing;
}

static bool has_remote(const sp_chain *chain)
{
    for (int e = 0; e < chain->count; e++) {
        if (chain->entries[e].worker < 0)
            return true;
    }
    return false;
}

bool sp_house_ready(const sp_house *house, bool *ret_degraded)
{
    int ready[SP_ROLE_COUNT] = { 0 }, all[SP_ROLE_COUNT] = { 0 };
    *ret_degraded = false;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *worker = &house->workers[i];
        if (worker->role == SP_ROLE_SAMPLER)
            continue; /* it answers nobody */
        bool up = worker->state == SP_WORKER_READY;
        all[worker->role]++;
        ready[worker->role] += up;
        *ret_degraded |= !up;
    }
    for (int task = 0; task < SP_TASK_COUNT; task++)
        *ret_degraded |= links_missing(house, &house->snapshot->chains[task]);
    for (int role = 0; role < SP_ROLE_COUNT; role++) {
        bool remotes_do = role == SP_ROLE_DEVICE && ready[SP_ROLE_NET] && has_remote(&house->snapshot->chains[SP_TASK_CLASSIFY]);
        if (all[role] && !ready[role] && role != SP_ROLE_NET && !remotes_do)
            return false;
    }
    return !house->ending;
}

int sp_house_open_count(const sp_house *house)
{
    int own = (house->guard.asked != NULL) + (house->guard.again != NULL) + house->models.open_count;
    return house->open_count - own; /* nobody waits for those */
}

int sp_house_leased_count(const sp_house *house)
{
    return house->leased_count;
}
