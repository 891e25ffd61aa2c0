/* SPDX-License-Identifier: Apache-2.0
 * A configuration worked out: names become workers, remotes and links, once per snapshot and not once per request. */
#include "base/log.h"
#include "route/internal.h"

#include <stdlib.h>
#include <string.h>

/* Links of a chain that nobody wrote: another worker first, the same one a second time at last, nobody waits. */
static const sp_link_config unwritten = {
    .retry = { .retries = 1, .base_ns = 0, .most_ns = 0 },
    .breaker = { .consecutive_failures = 5, .failure_percent = 50, .minimum_calls = 20, .window_ns = 30000000000,
                 .open_ns = 5000000000, .open_max_ns = 60000000000, .probes = 3 },
};

static bool serves(const sp_worker *worker, sp_task task)
{
    switch (task) {
    case SP_TASK_NOOP:
        return worker->role == SP_ROLE_DEVICE || worker->role == SP_ROLE_NOOP;
    case SP_TASK_CLASSIFY:
    case SP_TASK_INFER:
    case SP_TASK_DETECT:
    case SP_TASK_ANALYZE:
        return worker->role == SP_ROLE_DEVICE;
    case SP_TASK_SEND:
    case SP_TASK_MODELS:
    case SP_TASK_INDEX:
    case SP_TASK_REPORT:
    case SP_TASK_FETCH:
    case SP_TASK_COUNT:
        break;
    }
    return false;
}

static bool remote_serves(const sp_remote_config *remote, sp_task task)
{
    switch (task) {
    case SP_TASK_NOOP:
        return remote->kind == SP_REMOTE_SPILLWAY;
    case SP_TASK_CLASSIFY:
        return true;
    case SP_TASK_INFER:
        return remote->kind == SP_REMOTE_KSERVE;
    case SP_TASK_DETECT:
    case SP_TASK_SEND:
    case SP_TASK_MODELS:
    case SP_TASK_INDEX:
    case SP_TASK_ANALYZE: /* a file is not sent away to be analysed: `spillway` there has its own jobs */
    case SP_TASK_REPORT:
    case SP_TASK_FETCH:
    case SP_TASK_COUNT:
        break;
    }
    return false;
}

static int worker_named(const sp_house *house, const char *name)
{
    for (int i = 0; i < house->worker_count; i++) {
        if (strcmp(house->workers[i].name, name) == 0)
            return i;
    }
    return -1;
}

static bool is_cpu(const sp_worker *worker)
{
    return strcmp(worker->kind, "cpu") == 0 || worker->role == SP_ROLE_NOOP;
}

static bool add_entry(sp_house *house, sp_snapshot *snapshot, sp_task task, const char *name, const sp_link_config *config,
                      int worker, int remote)
{
    sp_chain *chain = &snapshot->chains[task];
    if (chain->count == SP_CHAIN_ENTRIES)
        return false;
    int link = sp_link_make(house, task, name, worker);
    if (link < 0)
        return false;
    sp_chain_entry *entry = &chain->entries[chain->count];
    *entry = (sp_chain_entry){ .config = config, .link = link, .worker = worker, .remote = remote, .group = chain->count };
    if (worker >= 0)
        entry->is_cpu = is_cpu(&house->workers[worker]);
    else
        entry->spillway = snapshot->config->remotes[remote].kind == SP_REMOTE_SPILLWAY;
    if (remote >= 0)
        house->links[link].remote_state = sp_remote_state_make(house, name);
    house->links[link].worker = worker;
    house->links[link].snapshots++;
    chain->count++;
    return true;
}

/* Workers of one kind are one place in the chain and share. */
static void add_unwritten(sp_house *house, sp_snapshot *snapshot, sp_task task)
{
    sp_chain *chain = &snapshot->chains[task];
    for (int i = 0; i < house->worker_count; i++) {
        if (!serves(&house->workers[i], task) ||
            !add_entry(house, snapshot, task, house->workers[i].name, &unwritten, i, -1))
            continue;
        sp_chain_entry *entry = &chain->entries[chain->count - 1];
        for (int before = 0; before < chain->count - 1; before++) {
            if (strcmp(house->workers[chain->entries[before].worker].kind, house->workers[i].kind) == 0) {
                entry->group = chain->entries[before].group;
                break;
            }
        }
    }
}

static void add_written(sp_house *house, sp_snapshot *snapshot, sp_task task, const sp_chain_config *written)
{
    for (int i = 0; i < written->link_count; i++) {
        const sp_link_config *config = &written->links[i];
        int worker = worker_named(house, config->name), remote = sp_config_remote(snapshot->config, config->name);
        bool fits = (worker >= 0 && serves(&house->workers[worker], task)) ||
                    (worker < 0 && remote >= 0 && remote_serves(&snapshot->config->remotes[remote], task));
        if (!fits || !add_entry(house, snapshot, task, config->name, config, worker, worker >= 0 ? -1 : remote)) {
            sp_log(SP_LOG_WARN, "link left out of its chain", SP_LOG_TEXT("task", sp_task_name(task)),
                   SP_LOG_TEXT("link", config->name),
                   SP_LOG_TEXT("reason", fits ? "too many links" : "no worker or remote of that name can do it"));
        }
    }
}

static int find_reference(const sp_house *house, const sp_chain *chain, const char *name)
{
    int last_local = -1;
    for (int i = 0; i < chain->count; i++) {
        const sp_chain_entry *entry = &chain->entries[i];
        if (name[0] && strcmp(house->links[entry->link].name, name) == 0)
            return i;
        if (entry->worker >= 0 && !entry->config->simpler)
            last_local = i;
    }
    return last_local;
}

static void work_out(sp_house *house, sp_snapshot *snapshot, sp_task task)
{
    sp_chain *chain = &snapshot->chains[task];
    const sp_chain_config *written = sp_config_chain(snapshot->config, sp_task_name(task));
    chain->budget = written ? written->budget : sp_retry_budget_settings_default();
    chain->written = written != NULL;
    if (written)
        add_written(house, snapshot, task, written);
    else
        add_unwritten(house, snapshot, task);
    chain->reference = find_reference(house, chain, written ? written->reference : "");
    for (int i = 0; i < chain->count; i++)
        sp_link_apply(&house->links[chain->entries[i].link], chain->entries[i].config);
}

sp_status sp_snapshot_new(sp_house *house, sp_config *config, sp_snapshot **ret_snapshot, sp_error *reterr)
{
    sp_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a snapshot of the configuration");
    snapshot->config = sp_config_ref(config);
    snapshot->serial = config->serial;
    snapshot->references = 1;
    for (int task = 0; task < SP_TASK_COUNT; task++)
        work_out(house, snapshot, (sp_task)task);
    snapshot->next = house->snapshots;
    house->snapshots = snapshot;
    *ret_snapshot = snapshot;
    return SP_OK;
}

sp_snapshot *sp_snapshot_ref(sp_snapshot *snapshot)
{
    snapshot->references++;
    return snapshot;
}

void sp_snapshot_unref(sp_house *house, sp_snapshot *snapshot)
{
    if (!snapshot || --snapshot->references)
        return;
    for (sp_snapshot **at = &house->snapshots; *at; at = &(*at)->next) {
        if (*at == snapshot) {
            *at = snapshot->next;
            break;
        }
    }
    for (int task = 0; task < SP_TASK_COUNT; task++) {
        for (int i = 0; i < snapshot->chains[task].count; i++)
            house->links[snapshot->chains[task].entries[i].link].snapshots--;
    }
    sp_config_unref(snapshot->config);
    free(snapshot);
}
