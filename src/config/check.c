/* SPDX-License-Identifier: Apache-2.0
 * See preset.h: what must fit across sections. */
#include "config/preset.h"

#include "base/nearest.h"

#include <stdio.h>
#include <string.h>

#define NAMES_MAX 64

typedef struct names {
    char workers[512]; /* cut at its commas */
    const char *list[NAMES_MAX];
    int count;
} names;

/* Everything that a link may name. */
static void gather_names(const sp_config *config, names *n)
{
    (void)snprintf(n->workers, sizeof(n->workers), "%s", config->workers);
    n->count = 0;
    for (char *p = n->workers; *p;) {
        size_t length = strcspn(p, ",");
        bool more = p[length] == ',';
        p[length] = '\0';
        if (n->count < NAMES_MAX)
            n->list[n->count++] = p;
        p += length + more;
    }
    for (int i = 0; i < config->remote_count && n->count < NAMES_MAX; i++)
        n->list[n->count++] = config->remotes[i].name;
}

static bool has_name(const names *n, const char *name)
{
    for (int i = 0; i < n->count; i++) {
        if (!strcmp(n->list[i], name))
            return true;
    }
    return false;
}

static bool has_net_worker(const names *n)
{
    char kind[32];

    for (int i = 0; i < n->count; i++) {
        sp_config_kind_of(n->list[i], kind);
        if (!strcmp(kind, "net"))
            return true;
    }
    return false;
}

static void check_link(const sp_config *config, const names *n, const sp_chain_config *chain, int index,
                       sp_complainer *complainer, int line)
{
    const sp_link_config *link = &chain->links[index];
    char path[80];

    (void)snprintf(path, sizeof(path), "chains.%s.links[%d].name", chain->task, index);
    if (!*link->name) /* has been complained of */
        return;
    if (!has_name(n, link->name)) {
        const char *nearest = sp_nearest(link->name, n->list, n->count);
        sp_complain(complainer, line, path, "no worker or remote is named '%s'%s%s%s", link->name,
                    nearest ? "; did you mean " : "", nearest ? nearest : "; add it to workers or to remotes",
                    nearest ? "?" : "");
    } else if (sp_config_remote(config, link->name) < 0 && sp_link_role_of(link->name) == SP_LINK_HELPER) {
        sp_complain(complainer, line, path, "%s helps the others and answers nothing itself; name a device or a remote",
                    link->name);
    } else if (sp_config_remote(config, link->name) >= 0
                   ? !sp_config_remote_serves(&config->remotes[sp_config_remote(config, link->name)], chain->task)
                   : !sp_config_noop_serves(chain->task) && sp_link_role_of(link->name) == SP_LINK_NOOP) {
        sp_complain(complainer, line, path, "%s cannot answer %s; name a device worker%s", link->name, chain->task,
                    strcmp(chain->task, "infer") == 0 ? " or a remote of kind kserve" : "");
    }
}

static bool some_token_has(const sp_config *config, const char *tier)
{
    for (int i = 0; i < config->token_count; i++) {
        if (!strcmp(config->tokens[i].tier, tier))
            return true;
    }
    return false;
}

/* A tier that nobody has: the link is never used, or the name is misspelt. Trusted peers may bring tiers of their own. */
static void check_tiers(const sp_config *config, const sp_chain_config *chain, int index, sp_complainer *complainer,
                        int line)
{
    const sp_link_config *link = &chain->links[index];
    char path[80];

    (void)snprintf(path, sizeof(path), "chains.%s.links[%d].when", chain->task, index);
    for (int c = 0; c < link->condition_count && config->token_count && !config->trusted_peer_count; c++) {
        const sp_condition *condition = &link->conditions[c];
        for (int t = 0; condition->kind == SP_CONDITION_TIER && t < condition->tier_count; t++) {
            if (!some_token_has(config, condition->tiers[t]))
                sp_complain_warn(complainer, line, path, "no token has the tier '%s'", condition->tiers[t]);
        }
    }
}

static void check_chains(const sp_config *config, const names *n, const sp_yaml_node *root, sp_complainer *complainer)
{
    const sp_yaml_node *chains = sp_yaml_get(root, "chains");
    int task_count = 0;

    while (sp_config_tasks[task_count])
        task_count++;
    for (int i = 0; i < config->chain_count; i++) {
        const sp_chain_config *chain = &config->chains[i];
        const sp_yaml_node *node = sp_yaml_get(chains, chain->task), *list = sp_yaml_get(node, "links");
        bool known = false;
        char path[48];
        for (int t = 0; t < task_count; t++)
            known |= !strcmp(sp_config_tasks[t], chain->task);
        (void)snprintf(path, sizeof(path), "chains.%s", chain->task);
        if (!known) {
            const char *nearest = sp_nearest(chain->task, sp_config_tasks, task_count);
            sp_complain(complainer, node ? node->key_line : 0, path, "no such task; %s%s%s",
                        nearest ? "did you mean " : "tasks are noop, classify, infer, detect, analyze", nearest ? nearest : "",
                        nearest ? "?" : "");
        }
        const sp_yaml_node *at = list && list->kind == SP_YAML_LIST ? list->first : NULL;
        for (int k = 0; k < chain->link_count; k++, at = at ? at->next : NULL) {
            const sp_yaml_node *name = sp_yaml_get(at, "name");
            int line = name ? name->line : at ? at->line : 0;
            if (strcmp(config->workers, "?") != 0)
                check_link(config, n, chain, k, complainer, line);
            check_tiers(config, chain, k, complainer, line);
        }
    }
}

static void check_remotes(const sp_config *config, const names *n, const sp_yaml_node *root, sp_complainer *complainer)
{
    const sp_yaml_node *remotes = sp_yaml_get(root, "remotes");
    names workers = *n;

    workers.count -= config->remote_count;
    for (int i = 0; i < config->remote_count; i++) {
        const sp_yaml_node *node = sp_yaml_get(remotes, config->remotes[i].name);
        char path[64];
        (void)snprintf(path, sizeof(path), "remotes.%s", config->remotes[i].name);
        for (int k = 0; k < workers.count; k++) {
            if (!strcmp(n->list[k], config->remotes[i].name))
                sp_complain(complainer, node ? node->key_line : 0, path,
                            "a worker has this name already; links could not tell them apart");
        }
    }
    if (config->remote_count && strcmp(config->workers, "?") != 0 && !has_net_worker(n))
        sp_complain(complainer, remotes ? remotes->key_line : 0, "remotes",
                    "need a net worker to be reached; add net0 to workers");
}

static void check_tracing(const sp_config *config, const names *n, const sp_yaml_node *root, sp_complainer *complainer)
{
    const sp_yaml_node *tracing = sp_yaml_get(root, "tracing");

    if (*config->tracing.otlp && strcmp(config->workers, "?") != 0 && !has_net_worker(n))
        sp_complain(complainer, tracing ? tracing->key_line : 0, "tracing.otlp",
                    "needs a net worker to reach the collector; add net0 to workers");
}

static void check_tokens(const sp_config *config, const sp_yaml_node *root, sp_complainer *complainer)
{
    static const uint8_t unread[32];
    const sp_yaml_node *list = sp_yaml_get(root, "tokens"), *node = list ? list->first : NULL;

    for (int i = 0; i < config->token_count; i++, node = node ? node->next : NULL) {
        const sp_token_config *token = &config->tokens[i];
        char path[32];
        (void)snprintf(path, sizeof(path), "tokens[%d]", i);
        for (int k = 0; k < i; k++) {
            const sp_token_config *other = &config->tokens[k];
            if (*token->name && !strcmp(token->name, other->name))
                sp_complain(complainer, node ? node->line : 0, path, "the name %s is taken by tokens[%d]", token->name,
                            k);
            if (!memcmp(token->sha256, other->sha256, 32) && memcmp(token->sha256, unread, 32) != 0)
                sp_complain(complainer, node ? node->line : 0, path, "the same token as tokens[%d] (%s)", k,
                            other->name);
        }
    }
}

void sp_config_check(const sp_config *config, const sp_yaml_node *root, sp_complainer *complainer)
{
    names n;

    gather_names(config, &n);
    check_chains(config, &n, root, complainer);
    check_tracing(config, &n, root, complainer);
    check_remotes(config, &n, root, complainer);
    check_tokens(config, root, complainer);
}
