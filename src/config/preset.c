/* SPDX-License-Identifier: Apache-2.0
 * See preset.h: presets and USE_GPU_PIPELINE.
 *
 *   gpu-for-all    GPUs, then CPUs, then remotes
 *   by-tier        the same, but GPUs and remotes only for tiers premium and pro
 *   by-load        GPUs only while more than 10 requests wait, then CPUs, then remotes
 *   cpu-only       CPUs
 *   cost-first     by price, the cheapest first; what has none comes last
 *   latency-first  as gpu-for-all, TensorRT before CUDA, and the next link is asked as well after the p95 */
#include "config/preset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const sp_config_tasks[] = { "noop", "classify", "infer", "detect", "analyze", NULL };

bool sp_config_remote_serves(const sp_remote_config *remote, const char *task)
{
    if (!strcmp(task, "infer"))
        return remote->kind == SP_REMOTE_KSERVE;
    return strcmp(task, "detect") != 0 && strcmp(task, "analyze") != 0;
}

bool sp_config_noop_serves(const char *task)
{
    return strcmp(task, "infer") != 0 && strcmp(task, "detect") != 0 && strcmp(task, "analyze") != 0;
}

typedef struct preset {
    const char *name;
    bool cpu_only, by_price, hedged;
    const char *gpu_when, *remote_when; /* NULL = always */
} preset;

static const preset presets[] = {
    { .name = "gpu-for-all" },
    { .name = "by-tier", .gpu_when = "tier in [premium, pro]", .remote_when = "tier in [premium, pro]" },
    { .name = "by-load", .gpu_when = "queue_depth > 10" },
    { .name = "cpu-only", .cpu_only = true },
    { .name = "cost-first", .by_price = true },
    { .name = "latency-first", .hedged = true },
};

static const preset *preset_find(const char *name)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(presets); i++) {
        if (!strcmp(presets[i].name, name))
            return &presets[i];
    }
    return NULL;
}

void sp_config_kind_of(const char *worker, char ret_kind[32])
{
    size_t length = strlen(worker);

    while (length && worker[length - 1] >= '0' && worker[length - 1] <= '9')
        length--;
    (void)snprintf(ret_kind, 32, "%.*s", (int)SP_MIN(length, 31u), worker);
}

sp_link_role sp_link_role_of(const char *worker)
{
    static const char *const helpers[] = { "codec", "net", "sample", "sampler" };
    char kind[32];

    sp_config_kind_of(worker, kind);
    for (size_t i = 0; i < SP_ARRAY_LEN(helpers); i++) {
        if (!strcmp(kind, helpers[i]))
            return SP_LINK_HELPER;
    }
    return !strcmp(kind, "cpu") ? SP_LINK_CPU : !strcmp(kind, "noop") ? SP_LINK_NOOP : SP_LINK_GPU;
}

/* --- the candidates of a chain ------------------------------------------------------------------------------------ */

typedef struct candidate {
    char name[32];
    bool remote;
    int rank; /* lower first */
    sp_link_role role;
} candidate;

static const char *next_worker(const char *p, char ret_name[32])
{
    size_t length = strcspn(p, ",");

    (void)snprintf(ret_name, 32, "%.*s", (int)SP_MIN(length, 31u), p);
    return p + length + (p[length] == ',');
}

static int gather_workers(const char *workers, bool for_noop, candidate *candidates)
{
    int count = 0;

    for (const char *p = workers; *p && count < SP_LIMIT_CHAIN_LINKS;) {
        candidate *c = &candidates[count];
        char kind[32];
        p = next_worker(p, c->name);
        c->role = sp_link_role_of(c->name);
        c->remote = false;
        sp_config_kind_of(c->name, kind);
        c->rank = c->role == SP_LINK_GPU ? (!strcmp(kind, "tensorrt") ? 0 : 1) : c->role == SP_LINK_CPU ? 2 : 3;
        if (c->role != SP_LINK_HELPER && (c->role != SP_LINK_NOOP || for_noop))
            count++;
    }
    return count;
}

static int gather(const sp_config *config, const char *task, candidate *candidates)
{
    bool for_noop = !strcmp(task, "noop");
    int count = gather_workers(config->workers, for_noop, candidates);

    /* A remote no-op says nothing of this machine, which is what no-ops are for. A server of other models under the names of
     * ours is nothing to guess: whoever has one that serves the same writes it down. */
    bool local = for_noop || !sp_config_noop_serves(task);
    for (int i = 0; !local && i < config->remote_count && count < SP_LIMIT_CHAIN_LINKS; i++) {
        candidate *c = &candidates[count++];
        *c = (candidate){ .remote = true, .rank = 4 };
        (void)snprintf(c->name, sizeof(c->name), "%s", config->remotes[i].name);
    }
    return count;
}

/* Microdollars of an hour in which it is never idle, so that prices of all kinds can be compared: a call is taken to last
 * 100 ms. -1 = unknown. */
static int64_t price_of_hour(const sp_config *config, const candidate *c)
{
    const sp_price *rate = sp_config_rate(config, c->name);

    return rate ? rate->per_hour + rate->per_minute * 60 + rate->per_call * 36000 : -1;
}

static bool stands_before(const sp_config *config, const preset *p, const candidate *a, const candidate *b)
{
    if (p->by_price && config) {
        int64_t a_price = price_of_hour(config, a), b_price = price_of_hour(config, b);
        if ((a_price < 0) != (b_price < 0))
            return b_price < 0;
        if (a_price != b_price)
            return a_price < b_price;
    }
    return a->rank < b->rank;
}

static void order(const sp_config *config, const preset *p, candidate *candidates, int count)
{
    for (int i = 1; i < count; i++) { /* stable: workers of one kind stay in the order in which they are named */
        candidate moved = candidates[i];
        int k = i;
        for (; k > 0 && stands_before(config, p, &moved, &candidates[k - 1]); k--)
            candidates[k] = candidates[k - 1];
        candidates[k] = moved;
    }
}

static sp_status make_chain(const sp_config *config, const preset *p, const char *task, candidate *candidates,
                            int count, sp_chain_config *ret_chain, sp_error *reterr)
{
    *ret_chain = (sp_chain_config){ .budget = sp_retry_budget_settings_default() };
    (void)snprintf(ret_chain->task, sizeof(ret_chain->task), "%s", task);
    order(config, p, candidates, count);
    for (int i = 0; i < count; i++) {
        const candidate *c = &candidates[i];
        const char *when = c->remote ? p->remote_when : c->role == SP_LINK_GPU ? p->gpu_when : NULL;
        if (p->cpu_only && (c->remote || c->role == SP_LINK_GPU))
            continue;
        sp_link_config *link = &ret_chain->links[ret_chain->link_count++];
        (void)snprintf(link->name, sizeof(link->name), "%s", c->name);
        link->retry = sp_retry_settings_default();
        link->breaker = sp_breaker_settings_default();
        link->hedge = p->hedged ? SP_HEDGE_P95 : SP_HEDGE_NEVER;
        sp_status status = when ? sp_condition_parse(when, &link->conditions[0], reterr) : SP_OK;
        if (status)
            return status;
        link->condition_count = when ? 1 : 0;
    }
    return SP_OK;
}

sp_status sp_config_preset(const char *name, const char *workers, sp_chain_config *ret_chain, sp_error *reterr)
{
    candidate candidates[SP_LIMIT_CHAIN_LINKS];
    const preset *p = preset_find(name);

    if (!p)
        return SP_FAIL(reterr, SP_INVALID, "no preset '%s'", name);
    int count = gather_workers(workers, true, candidates);
    sp_status status = make_chain(NULL, p, "", candidates, count, ret_chain, reterr);
    if (!status && !ret_chain->link_count)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "preset %s finds no worker for its links in '%s'", name, workers);
    return status;
}

/* Room for one chain more; config->chains may move. */
static sp_chain_config *add_chain(sp_config *config)
{
    sp_chain_config *grown = realloc(config->chains, ((size_t)config->chain_count + 1) * sizeof(*grown));

    if (!grown)
        return NULL;
    config->chains = grown;
    return &grown[config->chain_count];
}

sp_status sp_preset_expand(sp_config *config, sp_error *reterr)
{
    const preset *p = preset_find(config->preset);

    for (int t = 0; p && sp_config_tasks[t]; t++) {
        candidate candidates[SP_LIMIT_CHAIN_LINKS];
        if (sp_config_chain(config, sp_config_tasks[t]))
            continue;
        sp_chain_config *chain = add_chain(config);
        if (!chain)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for the chains of preset %s", p->name);
        int count = gather(config, sp_config_tasks[t], candidates);
        sp_status status = make_chain(config, p, sp_config_tasks[t], candidates, count, chain, reterr);
        if (status)
            return status;
        if (chain->link_count)
            config->chain_count++;
    }
    return SP_OK;
}

/* --- USE_GPU_PIPELINE -------------------------------------------------------------------------------------------- */

static bool is_remote(const sp_config *config, const char *name)
{
    return sp_config_remote(config, name) >= 0;
}

void sp_gpu_remove(sp_config *config, const sp_yaml_node *root, sp_complainer *complainer)
{
    char kept[sizeof(config->workers)] = "", name[32];

    if (config->use_gpu)
        return;
    for (const char *p = config->workers; *p;) {
        p = next_worker(p, name);
        size_t used = strlen(kept);
        if (sp_link_role_of(name) != SP_LINK_GPU)
            (void)snprintf(kept + used, sizeof(kept) - used, "%s%s", used ? "," : "", name);
    }
    memcpy(config->workers, kept, sizeof(kept));
    for (int i = 0; i < config->chain_count; i++) {
        sp_chain_config *chain = &config->chains[i];
        int left = 0;
        for (int k = 0; k < chain->link_count; k++) {
            if (sp_link_role_of(chain->links[k].name) != SP_LINK_GPU || is_remote(config, chain->links[k].name))
                chain->links[left++] = chain->links[k];
            else if (!strcmp(chain->reference, chain->links[k].name))
                chain->reference[0] = '\0';
        }
        const sp_yaml_node *node = sp_yaml_get(sp_yaml_get(root, "chains"), chain->task);
        if (!left && chain->link_count)
            sp_complain(complainer, node ? node->key_line : 0, "chains",
                        "without GPUs (use_gpu, USE_GPU_PIPELINE) no link of %s is left; add a CPU worker",
                        chain->task);
        chain->link_count = left;
    }
}
