/* SPDX-License-Identifier: Apache-2.0
 * Keys, quotas, money. What is not known before a call (its units, its cost) is reserved as the average of the last ones,
 * so that many calls at once cannot overrun a quota by more than their differences. */
#include "route/quota.h"

#include "base/clock.h"
#include "base/event.h"

#include <stdio.h>

/* A remote that says no more than "busy" while it has other keys: this one rests for so long. */
#define COOL_DEFAULT_NS SP_NS_PER_S
/* A Retry-After longer than this is not believed. */
#define COOL_LONGEST_NS (3600 * SP_NS_PER_S)

static int64_t unix_now_s(void)
{
    return sp_clock_wall_ns() / SP_NS_PER_S;
}

static void soonest(int64_t *at_ns, int64_t candidate_ns)
{
    if (!*at_ns || candidate_ns < *at_ns)
        *at_ns = candidate_ns;
}

static const sp_remote_config *remote_of(const sp_request *request, const sp_chain_entry *entry)
{
    return entry->remote >= 0 ? &request->snapshot->config->remotes[entry->remote] : NULL;
}

static bool has_quota(const sp_quota_settings *quota)
{
    return quota->requests_per_minute || quota->requests_per_day || quota->units_per_minute || quota->units_per_day ||
           quota->microdollars_per_day;
}

static sp_skip look_at_keys(sp_house *house, const sp_link *link, const sp_remote_config *remote, int64_t now_ns, int *ret_key,
                            int64_t *ret_wake_ns)
{
    if (link->remote_state < 0 || !remote->key_count)
        return SP_SKIP_NONE;
    for (int k = 0; k < remote->key_count; k++) {
        sp_key_state *key = &house->remotes[link->remote_state].keys[k];
        if (now_ns < key->cooling_until_ns) {
            soonest(ret_wake_ns, key->cooling_until_ns);
            continue;
        }
        int wait_s = 0;
        if (!has_quota(&remote->keys[k].quota) ||
            sp_quota_take(&remote->keys[k].quota, &key->use, key->units_each, link->microdollars_each, unix_now_s(), false,
                          &wait_s) == SP_QUOTA_OK) {
            *ret_key = k;
            *ret_wake_ns = 0;
            return SP_SKIP_NONE;
        }
        soonest(ret_wake_ns, now_ns + wait_s * SP_NS_PER_S);
    }
    return SP_SKIP_QUOTA;
}

sp_skip sp_quota_look(sp_house *house, const sp_request *request, const sp_chain_entry *entry, int64_t now_ns, int *ret_key,
                      int64_t *ret_wake_ns)
{
    sp_link *link = &house->links[entry->link];
    const sp_remote_config *remote = remote_of(request, entry);
    if (entry->config->microdollars_per_day) {
        const sp_quota_settings most = { .microdollars_per_day = entry->config->microdollars_per_day };
        int wait_s = 0;
        if (sp_quota_take(&most, &link->cost, 0, link->microdollars_each, unix_now_s(), false, &wait_s) != SP_QUOTA_OK) {
            *ret_wake_ns = now_ns + wait_s * SP_NS_PER_S;
            return SP_SKIP_COST;
        }
    }
    return remote ? look_at_keys(house, link, remote, now_ns, ret_key, ret_wake_ns) : SP_SKIP_NONE;
}

void sp_quota_reserve(sp_house *house, const sp_request *request, const sp_chain_entry *entry, sp_lease *lease)
{
    static const sp_quota_settings unlimited; /* whether it fits was looked at by the pick, in the same turn */
    sp_link *link = &house->links[entry->link];
    int wait_s;
    lease->reserved_microdollars = link->microdollars_each;
    if (lease->reserved_microdollars)
        (void)sp_quota_take(&unlimited, &link->cost, 0, lease->reserved_microdollars, unix_now_s(), true, &wait_s);
    if (lease->key < 0 || link->remote_state < 0)
        return;
    sp_key_state *key = &house->remotes[link->remote_state].keys[lease->key];
    lease->reserved_units = key->units_each;
    (void)sp_quota_take(&unlimited, &key->use, lease->reserved_units, lease->reserved_microdollars, unix_now_s(), true, &wait_s);
    sp_quota_share(house, link->remote_state, lease->key, &remote_of(request, entry)->keys[lease->key].quota, 1,
                   lease->reserved_units);
}

/* Its own price, or the rate of its device; looked for once per snapshot. */
static const sp_price *price_of(sp_house *house, const sp_request *request, const sp_chain_entry *entry)
{
    const sp_price *own = &entry->config->price;
    if (own->per_hour || own->per_minute || own->per_call)
        return own;
    sp_link *link = &house->links[entry->link];
    const sp_snapshot *snapshot = request->snapshot;
    if (link->rate_serial != snapshot->serial || !snapshot->serial) {
        link->rate = sp_config_rate(snapshot->config, link->name);
        if (!link->rate && entry->worker >= 0)
            link->rate = sp_config_rate(snapshot->config, house->workers[entry->worker].card.device);
        link->rate_serial = snapshot->serial;
    }
    return link->rate;
}

int64_t sp_quota_price(sp_house *house, const sp_request *request, const sp_chain_entry *entry, int64_t device_ns)
{
    const sp_price *price = price_of(house, request, entry);
    return price ? sp_price_of(price, device_ns, (int64_t)(request->duration_s * 1e9)) : 0;
}

/* A picture costs a fraction of a microdollar: what is left over is carried to the link's next answer, so that sums are
 * right although each answer is rounded down. */
static int64_t charge(sp_house *house, const sp_request *request, const sp_chain_entry *entry, int64_t device_ns)
{
    sp_link *link = &house->links[entry->link];
    const sp_price *price = price_of(house, request, entry);
    if (!price)
        return 0;
    return sp_price_next(price, device_ns, (int64_t)(request->duration_s * 1e9), &link->cost_carry);
}

int64_t sp_quota_settle(sp_house *house, const sp_request *request, const sp_lease *lease, int64_t units, int64_t device_ns)
{
    const sp_chain_entry *entry = &request->chain->entries[lease->entry];
    sp_link *link = &house->links[lease->link];
    int64_t cost = device_ns < 0 ? 0 : charge(house, request, entry, device_ns);
    if (cost || lease->reserved_microdollars) {
        sp_quota_correct(&link->cost, 0, cost - lease->reserved_microdollars, unix_now_s());
        if (device_ns >= 0)
            link->microdollars_each = link->microdollars_each ? (link->microdollars_each * 7 + cost) / 8 : cost;
        sp_metric_add(link->cost_metric, cost);
    }
    if (lease->key >= 0 && link->remote_state >= 0) {
        sp_key_state *key = &house->remotes[link->remote_state].keys[lease->key];
        int64_t used = units > 0 ? units : lease->reserved_units;
        sp_quota_correct(&key->use, used - lease->reserved_units, cost - lease->reserved_microdollars, unix_now_s());
        sp_quota_share(house, link->remote_state, lease->key, &remote_of(request, entry)->keys[lease->key].quota, 0,
                       used - lease->reserved_units);
        if (units > 0)
            key->units_each = key->units_each ? (key->units_each * 7 + units) / 8 : units;
    }
    return cost;
}

void sp_quota_cool(sp_house *house, const sp_request *request, const sp_lease *lease, int64_t pause_ns, int64_t now_ns)
{
    const sp_chain_entry *entry = &request->chain->entries[lease->entry];
    const sp_remote_config *remote = remote_of(request, entry);
    sp_link *link = &house->links[lease->link];
    if (!remote || pause_ns < 0)
        return;
    bool told = pause_ns > 0;
    pause_ns = told ? SP_MIN(pause_ns, COOL_LONGEST_NS) : COOL_DEFAULT_NS;
    bool warm = false;
    for (int k = 0; k < remote->key_count && link->remote_state >= 0; k++) {
        sp_key_state *key = &house->remotes[link->remote_state].keys[k];
        if (k == lease->key && (told || remote->key_count > 1))
            key->cooling_until_ns = SP_MAX(key->cooling_until_ns, now_ns + pause_ns);
        warm |= now_ns >= key->cooling_until_ns;
    }
    sp_link_event("link.cooling", link, ",\"key\":%d,\"pause_ms\":%lld", lease->key, (long long)(pause_ns / SP_NS_PER_MS));
    if (told && !warm) {
        sp_breaker_trip(&link->breaker, now_ns, pause_ns);
        sp_link_note_breaker(link, now_ns);
    }
}
