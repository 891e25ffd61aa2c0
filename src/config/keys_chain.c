/* SPDX-License-Identifier: Apache-2.0
 * Keys of chains.<task> and of their links. */
#include "config/keys.h"

#include "config/value.h"

#include <string.h>

/* --- price, retry budget, breaker -------------------------------------------------------------------------------- */

static const sp_key price_keys[] = {
    SP_ROW_NUMBER(sp_price, "per_hour", SP_KEY_MONEY, per_hour, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_price, "per_minute", SP_KEY_MONEY, per_minute, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_price, "per_call", SP_KEY_MONEY, per_call, 0, INT64_MAX),
};
const sp_schema sp_price_schema = { .what = "a price", .keys = price_keys, .key_count = SP_ARRAY_LEN(price_keys) };

static const sp_key budget_keys[] = {
    SP_ROW_NUMBER(sp_retry_budget_settings, "percent", SP_KEY_INT, ratio_percent, 0, 100),
    SP_ROW_NUMBER(sp_retry_budget_settings, "per_s", SP_KEY_INT, per_s, 0, 10000),
    SP_ROW_NUMBER(sp_retry_budget_settings, "most", SP_KEY_INT, most, 0, 100000),
};
static void budget_init(void *object)
{
    *(sp_retry_budget_settings *)object = sp_retry_budget_settings_default();
}
static const sp_schema budget_schema = {
    .what = "a retry budget",
    .keys = budget_keys,
    .key_count = SP_ARRAY_LEN(budget_keys),
    .init = budget_init,
};

static const sp_key breaker_keys[] = {
    SP_ROW_NUMBER(sp_breaker_settings, "consecutive_failures", SP_KEY_INT, consecutive_failures, 0, 1000),
    SP_ROW_NUMBER(sp_breaker_settings, "failure_percent", SP_KEY_INT, failure_percent, 0, 100),
    SP_ROW_NUMBER(sp_breaker_settings, "minimum_calls", SP_KEY_INT, minimum_calls, 1, 100000),
    SP_ROW_NUMBER(sp_breaker_settings, "window", SP_KEY_NS, window_ns, SP_NS_OF_S(1), SP_NS_OF_S(3600)),
    SP_ROW_NUMBER(sp_breaker_settings, "open", SP_KEY_NS, open_ns, 1000000, SP_NS_OF_S(3600)),
    SP_ROW_NUMBER(sp_breaker_settings, "open_max", SP_KEY_NS, open_max_ns, 1000000, SP_NS_OF_S(86400)),
    SP_ROW_NUMBER(sp_breaker_settings, "probes", SP_KEY_INT, probes, 1, 100),
};
static void breaker_init(void *object)
{
    *(sp_breaker_settings *)object = sp_breaker_settings_default();
}
static void breaker_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const sp_breaker_settings *breaker = object;

    if (breaker->open_max_ns < breaker->open_ns)
        sp_reader_complain(reader, node, "open_max is less than open; it is what open grows to");
}
static const sp_schema breaker_schema = {
    .what = "a breaker",
    .keys = breaker_keys,
    .key_count = SP_ARRAY_LEN(breaker_keys),
    .init = breaker_init,
    .check = breaker_check,
};

/* --- concurrency: 8, or {least: 2, most: 32} ----------------------------------------------------------------------- */

static const sp_key limiter_keys[] = {
    SP_ROW_NUMBER(sp_limiter_settings, "least", SP_KEY_INT, least, 1, 10000),
    { SP_ROW(sp_limiter_settings, "most", SP_KEY_INT, most), .least = 1, .most = 10000, .required = true },
};
static void limiter_init(void *object)
{
    ((sp_limiter_settings *)object)->least = 1;
}
static void limiter_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_limiter_settings *limiter = object;

    if (limiter->least > limiter->most)
        sp_reader_complain(reader, node, "least is more than most");
}
static const sp_schema limiter_schema = {
    .what = "a concurrency",
    .keys = limiter_keys,
    .key_count = SP_ARRAY_LEN(limiter_keys),
    .init = limiter_init,
    .check = limiter_check,
};

static void concurrency_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_limiter_settings *limiter = &((sp_link_config *)object)->concurrency;
    int64_t fixed;

    if (node->kind != SP_YAML_SCALAR) {
        sp_schema_read(reader, &limiter_schema, node, limiter);
        return;
    }
    if (!sp_value_int(node->text, &fixed) || fixed < 1 || fixed > 10000)
        sp_reader_complain(reader, node, "must be a number from 1 to 10000, or {least: N, most: N}, not '%.60s'",
                           node->text);
    else
        limiter->least = limiter->most = (int)fixed;
}

static void concurrency_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_limiter_settings *limiter = &((const sp_link_config *)object)->concurrency;

    if (!limiter->most)
        return;
    sp_writer_key(writer, key->name);
    if (limiter->least == limiter->most)
        sp_buf_printf(writer->out, " %d\n", limiter->most);
    else
        sp_buf_printf(writer->out, " {least: %d, most: %d}\n", limiter->least, limiter->most);
}

/* --- hedge: never, p95 or a duration ------------------------------------------------------------------------------ */

static void hedge_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_link_config *link = object;

    if (node->kind == SP_YAML_SCALAR && !strcmp(node->text, "never"))
        link->hedge = SP_HEDGE_NEVER;
    else if (node->kind == SP_YAML_SCALAR && !strcmp(node->text, "p95"))
        link->hedge = SP_HEDGE_P95;
    else if (node->kind == SP_YAML_SCALAR && sp_value_duration(node->text, 0, &link->hedge_ns) && link->hedge_ns > 0)
        link->hedge = SP_HEDGE_FIXED;
    else
        sp_reader_complain(reader, node, "must be never, p95 or a duration (200ms), not '%.60s'", node->text);
}

static void hedge_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_link_config *link = object;
    char text[SP_VALUE_TEXT_BYTES];

    if (link->hedge == SP_HEDGE_NEVER)
        return;
    sp_value_duration_text(link->hedge_ns, text);
    sp_writer_key(writer, key->name);
    sp_writer_scalar(writer, link->hedge == SP_HEDGE_P95 ? "p95" : text);
}

/* --- when: one condition, or a list of which all must hold --------------------------------------------------------- */

static void condition_read(sp_reader *reader, const sp_yaml_node *node, sp_link_config *link)
{
    sp_error err = { 0 };

    if (link->condition_count == SP_LIMIT_LINK_CONDITIONS)
        sp_reader_complain(reader, node, "more than %d conditions of one link", SP_LIMIT_LINK_CONDITIONS);
    else if (node->kind != SP_YAML_SCALAR || node->empty)
        sp_reader_complain(reader, node, "must be a condition as text, like 'tier in [premium, pro]' (in quotes)");
    else if (sp_condition_parse(node->text, &link->conditions[link->condition_count], &err))
        sp_reader_complain(reader, node, "%s", err.message);
    else
        link->condition_count++;
}

static void when_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_link_config *link = object;
    int index = 0;

    if (node->kind != SP_YAML_LIST) {
        condition_read(reader, node, link);
        return;
    }
    for (const sp_yaml_node *member = node->first; member; member = member->next) {
        size_t mark = sp_reader_enter_index(reader, index++);
        condition_read(reader, member, link);
        sp_reader_leave(reader, mark);
    }
}

static void when_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_link_config *link = object;

    if (!link->condition_count)
        return;
    sp_writer_key(writer, key->name);
    sp_buf_append_text(writer->out, "\n");
    writer->indent += 2;
    for (int i = 0; i < link->condition_count; i++)
        sp_writer_item(writer, link->conditions[i].text);
    writer->indent -= 2;
}

/* --- link, chain ------------------------------------------------------------------------------------------------- */

static const sp_key link_keys[] = {
    { SP_ROW(sp_link_config, "name", SP_KEY_TEXT, name), .size = sizeof(((sp_link_config *)0)->name),
      .required = true },
    { SP_ROW(sp_link_config, "when", SP_KEY_CUSTOM, conditions), .read = when_read, .write = when_write },
    SP_ROW_NUMBER(sp_link_config, "timeout", SP_KEY_NS, timeout_ns, 0, SP_NS_OF_S(600)),
    SP_ROW_NUMBER(sp_link_config, "retries", SP_KEY_INT, retry.retries, 0, 10),
    SP_ROW_NUMBER(sp_link_config, "backoff", SP_KEY_NS, retry.base_ns, 0, SP_NS_OF_S(60)),
    SP_ROW_NUMBER(sp_link_config, "backoff_max", SP_KEY_NS, retry.most_ns, 0, SP_NS_OF_S(600)),
    { SP_ROW(sp_link_config, "concurrency", SP_KEY_CUSTOM, concurrency), .read = concurrency_read,
      .write = concurrency_write },
    SP_ROW_MAP(sp_link_config, "breaker", breaker, &breaker_schema),
    SP_ROW_MAP(sp_link_config, "price", price, &sp_price_schema),
    SP_ROW_NUMBER(sp_link_config, "max_cost_per_day", SP_KEY_MONEY, microdollars_per_day, 0, INT64_MAX),
    { SP_ROW(sp_link_config, "hedge", SP_KEY_CUSTOM, hedge), .read = hedge_read, .write = hedge_write },
    SP_ROW_NUMBER(sp_link_config, "simpler", SP_KEY_BOOL, simpler, 0, 0),
    SP_ROW_NUMBER(sp_link_config, "tolerance", SP_KEY_DOUBLE, tolerance, 0, 1),
};

static void link_init(void *object)
{
    sp_link_config *link = object;

    link->retry = sp_retry_settings_default();
    link->breaker = sp_breaker_settings_default();
}

static void link_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_link_config *link = object;

    link->line = node->line;
    if (link->retry.most_ns < link->retry.base_ns)
        sp_reader_complain(reader, node, "backoff_max is less than backoff; it is what backoff grows to");
}

static const sp_schema link_schema = {
    .what = "a link",
    .keys = link_keys,
    .key_count = SP_ARRAY_LEN(link_keys),
    .shorthand = "name",
    .init = link_init,
    .check = link_check,
};

static const sp_key chain_keys[] = {
    { SP_ROW(sp_chain_config, "links", SP_KEY_LIST, links), .size = sizeof(sp_link_config),
      .most = SP_LIMIT_CHAIN_LINKS, .required = true, .count_offset = offsetof(sp_chain_config, link_count),
      .schema = &link_schema },
    SP_ROW_TEXT(sp_chain_config, "reference", reference),
    SP_ROW_MAP(sp_chain_config, "retry_budget", budget, &budget_schema),
};

static void chain_init(void *object)
{
    ((sp_chain_config *)object)->budget = sp_retry_budget_settings_default();
}

static bool has_link(const sp_chain_config *chain, const char *name, int before)
{
    for (int i = 0; i < before; i++) {
        if (!strcmp(chain->links[i].name, name))
            return true;
    }
    return false;
}

static void chain_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const sp_chain_config *chain = object;

    if (!chain->link_count)
        sp_reader_complain(reader, node, "links is empty; name at least one worker or remote");
    for (int i = 1; i < chain->link_count; i++) {
        if (has_link(chain, chain->links[i].name, i))
            sp_complain(reader->complainer, chain->links[i].line, reader->path, "%s stands twice in this chain",
                        chain->links[i].name);
    }
    if (*chain->reference && chain->link_count && !has_link(chain, chain->reference, chain->link_count))
        sp_reader_complain(reader, sp_yaml_get(node, "reference"), "reference must name a link of this chain, not '%s'",
                           chain->reference);
}

const sp_schema sp_chain_schema = {
    .what = "a chain",
    .keys = chain_keys,
    .key_count = SP_ARRAY_LEN(chain_keys),
    .init = chain_init,
    .check = chain_check,
};
