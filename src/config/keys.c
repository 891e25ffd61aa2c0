/* SPDX-License-Identifier: Apache-2.0
 * Keys of the whole file: the server's own, and the sections that are one struct each. */
#include "config/keys.h"

#include "base/limits.h"
#include "config/value.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- lists that may also be written as one comma-separated text --------------------------------------------------- */

typedef void take_item_fn(sp_reader *reader, const sp_yaml_node *node, const char *item, void *object);

/* Calls `take` for each item of ["a", "b"] or of "a,b". */
static void read_items(sp_reader *reader, const sp_yaml_node *node, take_item_fn *take, void *object)
{
    int index = 0;

    if (node->kind == SP_YAML_MAP)
        sp_reader_complain(reader, node, "must be a list");
    for (const sp_yaml_node *member = node->first; member && node->kind == SP_YAML_LIST; member = member->next) {
        size_t mark = sp_reader_enter_index(reader, index++);
        if (member->kind != SP_YAML_SCALAR || member->empty)
            sp_reader_complain(reader, member, "must be a text");
        else
            take(reader, member, member->text, object);
        sp_reader_leave(reader, mark);
    }
    if (node->kind != SP_YAML_SCALAR || node->empty)
        return;
    for (const char *p = node->text; *p;) {
        char item[512];
        size_t length = strcspn(p, ",");
        (void)snprintf(item, sizeof(item), "%.*s", (int)SP_MIN(length, sizeof(item) - 1), p);
        take(reader, node, item, object);
        p += length + (p[length] == ',');
    }
}

static void write_items(sp_writer *writer, const char *name, const char *items, size_t item_size, int count)
{
    sp_writer_key(writer, name);
    sp_buf_append_text(writer->out, "\n");
    writer->indent += 2;
    for (int i = 0; i < count; i++)
        sp_writer_item(writer, items + (size_t)i * item_size);
    writer->indent -= 2;
}

static bool worker_name_ok(const char *name)
{
    return *name >= 'a' && *name <= 'z' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name) &&
           strlen(name) <= 31;
}

static bool names_worker(const char *workers, const char *item)
{
    size_t length = strlen(item);

    for (const char *p = workers; *p; p += strcspn(p, ","), p += *p == ',') {
        if (strcspn(p, ",") == length && !memcmp(p, item, length))
            return true;
    }
    return false;
}

static void take_worker(sp_reader *reader, const sp_yaml_node *node, const char *item, void *object)
{
    sp_config *config = object;
    size_t used = strlen(config->workers);
    int count = used ? 1 : 0;

    for (const char *p = config->workers; *p; p++)
        count += *p == ',';
    _Static_assert(SP_LIMIT_WORKERS * 32 <= sizeof(config->workers), "as many names as there may be fit");
    if (!worker_name_ok(item))
        sp_reader_complain(reader, node, "'%.40s' is no worker; write a kind and a number, like cpu0", item);
    else if (names_worker(config->workers, item))
        sp_reader_complain(reader, node, "the worker %s stands twice", item);
    else if (count == SP_LIMIT_WORKERS)
        sp_reader_complain(reader, node, "more than %d workers", SP_LIMIT_WORKERS);
    else
        (void)snprintf(config->workers + used, sizeof(config->workers) - used, "%s%s", used ? "," : "", item);
}

static void workers_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    int errors = reader->complainer->error_count;
    char *workers = ((sp_config *)object)->workers;

    *workers = '\0';
    read_items(reader, node, take_worker, object);
    if (errors != reader->complainer->error_count)
        (void)snprintf(workers, sizeof(((sp_config *)object)->workers),
                       "?"); /* so that links are not held to half a list */
    else if (!*workers)
        sp_reader_complain(reader, node, "names no worker; leave the key out for codec0, cpu0");
}

static void workers_write(sp_writer *writer, const sp_key *key, const void *object)
{
    sp_writer_key(writer, key->name);
    sp_buf_printf(writer->out, " [%s]\n", ((const sp_config *)object)->workers);
}

static bool peer_ok(const char *peer)
{
    char address[64];
    unsigned char bytes[16];
    size_t length = strcspn(peer, "/");
    int64_t bits;

    if (length >= sizeof(address))
        return false;
    (void)snprintf(address, sizeof(address), "%.*s", (int)length, peer);
    int most = inet_pton(AF_INET, address, bytes) == 1 ? 32 : inet_pton(AF_INET6, address, bytes) == 1 ? 128 : -1;
    return most > 0 && (!peer[length] || (sp_value_int(peer + length + 1, &bits) && bits >= 0 && bits <= most));
}

static void take_peer(sp_reader *reader, const sp_yaml_node *node, const char *item, void *object)
{
    sp_config *config = object;

    if (!peer_ok(item))
        sp_reader_complain(reader, node, "'%.60s' is no address (10.1.2.3, fd00::1) or network (10.0.0.0/8)", item);
    else if (config->trusted_peer_count == (int)SP_ARRAY_LEN(config->trusted_peers))
        sp_reader_complain(reader, node, "more than %zu peers; write a network", SP_ARRAY_LEN(config->trusted_peers));
    else
        (void)snprintf(config->trusted_peers[config->trusted_peer_count++], sizeof(config->trusted_peers[0]), "%s",
                       item);
}

static void peers_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    ((sp_config *)object)->trusted_peer_count = 0;
    read_items(reader, node, take_peer, object);
}

static void peers_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_config *config = object;

    if (config->trusted_peer_count)
        write_items(writer, key->name, config->trusted_peers[0], sizeof(config->trusted_peers[0]),
                    config->trusted_peer_count);
}

static void take_host(sp_reader *reader, const sp_yaml_node *node, const char *item, void *context)
{
    sp_config *config = context;
    size_t n = strlen(item);

    if (!n || n >= sizeof(config->hosts[0]) ||
        strspn(item, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:") != n)
        sp_reader_complain(reader, node, "'%.60s' is no host name (inference.example.org, without scheme and port)",
                           item);
    else if (config->host_count == (int)SP_ARRAY_LEN(config->hosts))
        sp_reader_complain(reader, node, "more than %zu hosts", SP_ARRAY_LEN(config->hosts));
    else
        (void)snprintf(config->hosts[config->host_count++], sizeof(config->hosts[0]), "%s", item);
}

static void hosts_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    ((sp_config *)object)->host_count = 0;
    read_items(reader, node, take_host, object);
}

static void hosts_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_config *config = object;

    if (config->host_count)
        write_items(writer, key->name, config->hosts[0], sizeof(config->hosts[0]), config->host_count);
}

static void take_repository(sp_reader *reader, const sp_yaml_node *node, const char *item, void *context)
{
    sp_config *config = context;

    if (!*item || strlen(item) >= sizeof(config->more_repositories[0]))
        sp_reader_complain(reader, node, "'%.60s' is no directory's path", item);
    else if (config->more_repository_count == (int)SP_ARRAY_LEN(config->more_repositories))
        sp_reader_complain(reader, node, "more than %zu further repositories", SP_ARRAY_LEN(config->more_repositories));
    else
        (void)snprintf(config->more_repositories[config->more_repository_count++], sizeof(config->more_repositories[0]), "%s", item);
}

static void repositories_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    ((sp_config *)object)->more_repository_count = 0;
    read_items(reader, node, take_repository, object);
}

static void repositories_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_config *config = object;

    if (config->more_repository_count)
        write_items(writer, key->name, config->more_repositories[0], sizeof(config->more_repositories[0]),
                    config->more_repository_count);
}

static void take_load_model(sp_reader *reader, const sp_yaml_node *node, const char *item, void *context)
{
    sp_config *config = context;

    if (!*item || strlen(item) >= sizeof(config->load_models[0]) || *item == '.' || strchr(item, '/'))
        sp_reader_complain(reader, node, "'%.60s' is no model's name (* is all of them)", item);
    else if (config->load_model_count == (int)SP_ARRAY_LEN(config->load_models))
        sp_reader_complain(reader, node, "more than %zu models; write \"*\" for all", SP_ARRAY_LEN(config->load_models));
    else
        (void)snprintf(config->load_models[config->load_model_count++], sizeof(config->load_models[0]), "%s", item);
}

static void load_model_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    ((sp_config *)object)->load_model_count = 0;
    read_items(reader, node, take_load_model, object);
}

static void load_model_write(sp_writer *writer, const sp_key *key, const void *object)
{
    const sp_config *config = object;

    if (config->load_model_count)
        write_items(writer, key->name, config->load_models[0], sizeof(config->load_models[0]), config->load_model_count);
}

static void control_mode_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    static const char *const modes[] = { "none", "poll", "explicit" };
    char *mode = ((sp_config *)object)->model_control_mode;

    for (size_t i = 0; i < SP_ARRAY_LEN(modes); i++) {
        if (!strcmp(node->text, modes[i])) {
            (void)snprintf(mode, sizeof(((sp_config *)object)->model_control_mode), "%s", modes[i]);
            return;
        }
    }
    sp_reader_complain(reader, node, "must be none, poll or explicit, not '%.60s'", node->text);
}

static void control_mode_write(sp_writer *writer, const sp_key *key, const void *object)
{
    sp_writer_key(writer, key->name);
    sp_writer_scalar(writer, ((const sp_config *)object)->model_control_mode);
}

/* drain_delay: whole seconds, with or without a unit; -1 = by the place it runs in. */
static void drain_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    int64_t ns;

    if (node->kind != SP_YAML_SCALAR || !sp_value_duration(node->text, SP_NS_OF_S(1), &ns) || ns % SP_NS_OF_S(1) ||
        ns > SP_NS_OF_S(3600))
        sp_reader_complain(reader, node, "must be whole seconds from 0s to 1h, not '%.60s'", node->text);
    else
        ((sp_config *)object)->drain_delay_s = (int)(ns / SP_NS_OF_S(1));
}

static void drain_write(sp_writer *writer, const sp_key *key, const void *object)
{
    if (((const sp_config *)object)->drain_delay_s < 0)
        return;
    sp_writer_key(writer, key->name);
    sp_buf_printf(writer->out, " %ds\n", ((const sp_config *)object)->drain_delay_s);
}

static void level_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    static const char *const levels[] = { "debug", "info", "warn", "error" };
    char *level = ((sp_config *)object)->log_level;

    for (size_t i = 0; i < SP_ARRAY_LEN(levels); i++) {
        if (!strcmp(node->text, levels[i])) {
            (void)snprintf(level, sizeof(((sp_config *)object)->log_level), "%s", levels[i]);
            return;
        }
    }
    sp_reader_complain(reader, node, "must be debug, info, warn or error, not '%.60s'", node->text);
}

static void level_write(sp_writer *writer, const sp_key *key, const void *object)
{
    sp_writer_key(writer, key->name);
    sp_writer_scalar(writer, ((const sp_config *)object)->log_level);
}

static const char *const preset_names[] = { "gpu-for-all", "by-tier",    "by-load",
                                            "cpu-only",    "cost-first", "latency-first" };

static void preset_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    char *preset = ((sp_config *)object)->preset;

    for (size_t i = 0; i < SP_ARRAY_LEN(preset_names); i++) {
        if (!strcmp(node->text, preset_names[i])) {
            (void)snprintf(preset, sizeof(((sp_config *)object)->preset), "%s", preset_names[i]);
            return;
        }
    }
    sp_reader_complain(reader, node,
                       "must be gpu-for-all, by-tier, by-load, cpu-only, cost-first or latency-first, not '%.60s'",
                       node->text);
}

static void preset_write(sp_writer *writer, const sp_key *key, const void *object)
{
    if (!*((const sp_config *)object)->preset)
        return;
    sp_writer_key(writer, key->name);
    sp_writer_scalar(writer, ((const sp_config *)object)->preset);
}

/* --- rates: inline, or the path of a file that holds the same ------------------------------------------------------ */

static _Thread_local const char *base_path;

void sp_keys_set_base(const char *config_path)
{
    base_path = config_path;
}

static const sp_key rate_keys[] = {
    SP_ROW_NUMBER(sp_rate_row, "per_hour", SP_KEY_MONEY, price.per_hour, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_rate_row, "per_minute", SP_KEY_MONEY, price.per_minute, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_rate_row, "per_call", SP_KEY_MONEY, price.per_call, 0, INT64_MAX),
    SP_ROW_TEXT(sp_rate_row, "as_of", as_of),
    SP_ROW_TEXT(sp_rate_row, "source", source),
};
static void rate_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const sp_rate_row *rate = object;
    int64_t date;

    if (!rate->price.per_hour && !rate->price.per_minute && !rate->price.per_call)
        sp_reader_complain(reader, node, "has no price; give per_hour, per_minute or per_call in dollars");
    if (*rate->as_of && !sp_value_date(rate->as_of, &date))
        sp_reader_complain(reader, node, "as_of must be a date (2026-11-01), not '%.20s'", rate->as_of);
}
static const sp_schema rate_schema = {
    .what = "a rate",
    .keys = rate_keys,
    .key_count = SP_ARRAY_LEN(rate_keys),
    .check = rate_check,
};
static const sp_key rates_keys[] = {
    { SP_ROW(sp_config, "rates", SP_KEY_NAMED, rates), .size = sizeof(sp_rate_row), .most = SP_LIMIT_RATES,
      .heap = true, .count_offset = offsetof(sp_config, rate_count), .name_bytes = sizeof(((sp_rate_row *)0)->name),
      .schema = &rate_schema },
};
const sp_schema sp_rates_schema = { .what = "rates", .keys = rates_keys, .key_count = 1 };

/* Each complaint of the other file becomes one of this file's, at the line of `rates`. */
static void pass_on(sp_reader *reader, const sp_yaml_node *node, sp_complaints *of_file)
{
    sp_buf_append(&of_file->text, "", 1);
    for (char *line = (char *)of_file->text.data, *end; line && (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        sp_reader_complain(reader, node, "%s", line);
    }
}

static void rates_file_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    char path[1024];
    const char *slash = base_path && *node->text != '/' ? strrchr(base_path, '/') : NULL;
    sp_error err = { 0 };
    size_t text_bytes;
    sp_yaml_node *root = NULL;
    sp_complaints complaints;

    (void)snprintf(path, sizeof(path), "%.*s%s", slash ? (int)(slash + 1 - base_path) : 0, slash ? base_path : "",
                   node->text);
    char *text = sp_config_read_file(path, &text_bytes, &err);
    if (!text) {
        sp_reader_complain(reader, node, "%s", err.message);
        return;
    }
    sp_arena *arena = sp_arena_new(SP_CONFIG_ARENA_BYTES);
    sp_complainer complainer = { .file = path };
    sp_reader inner = { .complainer = &complainer };
    if (!arena || sp_yaml_parse(text, text_bytes, arena, &complainer, &root, &err) == SP_NOMEM)
        reader->failed = true;
    if (root)
        sp_key_read(&inner, &rates_keys[0], root, object);
    reader->failed |= inner.failed;
    sp_complaints_init(&complaints);
    sp_complainer_write(&complainer, &complaints);
    pass_on(reader, node, &complaints);
    sp_complaints_done(&complaints);
    sp_complainer_done(&complainer);
    sp_arena_free(arena);
    free(text);
}

static void rates_read(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    if (node->kind == SP_YAML_SCALAR && !node->empty)
        rates_file_read(reader, node, object);
    else
        sp_key_read(reader, &rates_keys[0], node, object);
}

static void rates_write(sp_writer *writer, const sp_key *key, const void *object)
{
    sp_schema_write(writer, &sp_rates_schema, object);
}

/* --- sections ---------------------------------------------------------------------------------------------------- */

static const sp_key fetch_keys[] = {
    SP_ROW_NUMBER(sp_config, "limit", SP_KEY_BYTES, fetch_limit_bytes, 1024, 1ll << 30),
    SP_ROW_NUMBER(sp_config, "allow_private", SP_KEY_BOOL, fetch_private, 0, 0),
};
static const sp_schema fetch_schema = { .what = "fetch", .keys = fetch_keys, .key_count = SP_ARRAY_LEN(fetch_keys) };

static const char *const durabilities[] = { "memory", "aof-everysec", "aof-always", "disk", NULL };
const char *sp_durability_name(sp_durability durability)
{
    return durability >= SP_DURABILITY_MEMORY && durability <= SP_DURABILITY_DISK ? durabilities[durability]
                                                                                  : "unknown";
}

static bool redis_ok(sp_reader *reader, const sp_yaml_node *node, const char *url)
{
    const sp_yaml_node *member = sp_yaml_get(node, "redis");

    if (!*url || (!strncmp(url, "redis://", 8) && url[8]))
        return true;
    size_t mark = sp_reader_enter(reader, "redis");
    sp_reader_complain(reader, member ? member : node,
                       strncmp(url, "rediss://", 9)
                           ? "must be redis://HOST:PORT/DB"
                           : "TLS to Redis is not built in; use redis:// over a private network or a tunnel");
    sp_reader_leave(reader, mark);
    return false;
}

static void jobs_init(void *object)
{
    sp_jobs_config *jobs = object;

    jobs->least = (sp_durability)SP_CONFIG_UNSET;
    jobs->ttl_s = SP_S_OF_DAYS(7);
    jobs->concurrency = 16;
    jobs->tries = 5;
}
static void jobs_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_jobs_config *jobs = object;

    if (redis_ok(reader, node, jobs->redis) && *jobs->redis && jobs->least == SP_DURABILITY_DISK)
        sp_reader_complain(reader, node,
                           "durability disk cannot be had from Redis; write aof-always, or leave redis out");
}
static const sp_key jobs_keys[] = {
    { SP_ROW(sp_jobs_config, "redis", SP_KEY_TEXT, redis), .size = sizeof(((sp_jobs_config *)0)->redis),
      .secret = true },
    { SP_ROW(sp_jobs_config, "durability", SP_KEY_WORD, least), .words = durabilities },
    SP_ROW_NUMBER(sp_jobs_config, "ttl", SP_KEY_SECONDS, ttl_s, 1, SP_S_OF_DAYS(3650)),
    SP_ROW_NUMBER(sp_jobs_config, "concurrency", SP_KEY_INT, concurrency, 1, SP_LIMIT_SLOTS),
    SP_ROW_NUMBER(sp_jobs_config, "tries", SP_KEY_INT, tries, 1, 100),
    SP_ROW_MAP(sp_jobs_config, "webhook_secret", webhook_secret, &sp_secret_schema),
    SP_ROW_NUMBER(sp_jobs_config, "allow_private_webhooks", SP_KEY_BOOL, allow_private_webhooks, 0, 0),
};
static const sp_schema jobs_schema = {
    .what = "jobs",
    .keys = jobs_keys,
    .key_count = SP_ARRAY_LEN(jobs_keys),
    .init = jobs_init,
    .check = jobs_check,
};

static void cache_init(void *object)
{
    ((sp_cache_config *)object)->ttl_s = 3600;
}
static void cache_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    (void)redis_ok(reader, node, ((sp_cache_config *)object)->redis);
}
static const sp_key cache_keys[] = {
    SP_ROW_NUMBER(sp_cache_config, "memory", SP_KEY_BYTES, memory_bytes, 0, 1ll << 40),
    { SP_ROW(sp_cache_config, "redis", SP_KEY_TEXT, redis), .size = sizeof(((sp_cache_config *)0)->redis),
      .secret = true },
    SP_ROW_NUMBER(sp_cache_config, "ttl", SP_KEY_SECONDS, ttl_s, 1, SP_S_OF_DAYS(3650)),
};
static const sp_schema cache_schema = {
    .what = "cache",
    .keys = cache_keys,
    .key_count = SP_ARRAY_LEN(cache_keys),
    .init = cache_init,
    .check = cache_check,
};

static const sp_key retention_keys[] = {
    { SP_ROW(sp_retention, "keep", SP_KEY_SECONDS, seconds), .least = 1, .most = SP_S_OF_DAYS(36500),
      .required = true },
};
static const sp_schema retention_schema = {
    .what = "a retention",
    .keys = retention_keys,
    .key_count = SP_ARRAY_LEN(retention_keys),
    .shorthand = "keep",
};

static void results_init(void *object)
{
    (void)snprintf(((sp_results_config *)object)->database, sizeof(((sp_results_config *)object)->database),
                   "spillway");
}
static void results_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const char *url = ((sp_results_config *)object)->mongodb;
    const sp_yaml_node *member = sp_yaml_get(node, "mongodb");

    if (*url && strncmp(url, "mongodb://", 10) != 0 && strncmp(url, "mongodb+srv://", 14) != 0)
        sp_reader_complain(reader, member ? member : node, "mongodb must be mongodb://HOST:PORT");
}
static const sp_key results_keys[] = {
    { SP_ROW(sp_results_config, "mongodb", SP_KEY_TEXT, mongodb), .size = sizeof(((sp_results_config *)0)->mongodb),
      .secret = true },
    SP_ROW_TEXT(sp_results_config, "database", database),
    SP_ROW_NUMBER(sp_results_config, "all", SP_KEY_BOOL, all, 0, 0),
    { SP_ROW(sp_results_config, "retention", SP_KEY_NAMED, retention), .size = sizeof(sp_retention), .most = 16,
      .count_offset = offsetof(sp_results_config, retention_count), .name_bytes = sizeof(((sp_retention *)0)->task),
      .schema = &retention_schema },
};
static const sp_schema results_schema = {
    .what = "results",
    .keys = results_keys,
    .key_count = SP_ARRAY_LEN(results_keys),
    .init = results_init,
    .check = results_check,
};

static void s3_init(void *object)
{
    (void)snprintf(((sp_s3_config *)object)->region, sizeof(((sp_s3_config *)object)->region), "us-east-1");
}
static void s3_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const sp_s3_config *s3 = object;
    bool access = *s3->access_key.env || *s3->access_key.file, secret = *s3->secret_key.env || *s3->secret_key.file;

    if (strncmp(s3->endpoint, "http://", 7) != 0 && strncmp(s3->endpoint, "https://", 8) != 0)
        sp_reader_complain(reader, node, "endpoint must begin with http:// or https://");
    if (!access || !secret)
        sp_reader_complain(reader, node, "%s is missing", access ? "secret_key" : "access_key");
}
static const sp_key s3_keys[] = {
    { SP_ROW(sp_s3_config, "endpoint", SP_KEY_TEXT, endpoint), .size = sizeof(((sp_s3_config *)0)->endpoint),
      .required = true },
    SP_ROW_TEXT(sp_s3_config, "region", region),
    SP_ROW_MAP(sp_s3_config, "access_key", access_key, &sp_secret_schema),
    SP_ROW_MAP(sp_s3_config, "secret_key", secret_key, &sp_secret_schema),
};
static const sp_schema s3_schema = {
    .what = "s3",
    .keys = s3_keys,
    .key_count = SP_ARRAY_LEN(s3_keys),
    .init = s3_init,
    .check = s3_check,
};

static void guard_init(void *object)
{
    *(sp_guard_config *)object = (sp_guard_config){ .per_mille = 1, .tolerance = 1e-3 };
}
static const sp_key guard_keys[] = {
    SP_ROW_NUMBER(sp_guard_config, "per_mille", SP_KEY_INT, per_mille, 0, 1000),
    SP_ROW_NUMBER(sp_guard_config, "tolerance", SP_KEY_DOUBLE, tolerance, 0, 1),
};
static const sp_schema guard_schema = {
    .what = "guard",
    .keys = guard_keys,
    .key_count = SP_ARRAY_LEN(guard_keys),
    .init = guard_init,
};

/* --- the file ---------------------------------------------------------------------------------------------------- */

#define FLAT .outside = true
static const sp_key keys[] = {
    { SP_ROW(sp_config, "bind", SP_KEY_TEXT, bind), FLAT, .size = sizeof(((sp_config *)0)->bind) },
    { SP_ROW(sp_config, "http_port", SP_KEY_INT, http_port), FLAT, .least = 0, .most = 65535 },
    { SP_ROW(sp_config, "grpc_port", SP_KEY_INT, grpc_port), FLAT, .least = -1, .most = 65535 },
    { SP_ROW(sp_config, "metrics_port", SP_KEY_INT, metrics_port), FLAT, .least = -1, .most = 65535 },
    { SP_ROW(sp_config, "admin_port", SP_KEY_INT, admin_port), FLAT, .least = -1, .most = 65535 },
    { SP_ROW(sp_config, "model_repository", SP_KEY_TEXT, model_repository), FLAT,
      .size = sizeof(((sp_config *)0)->model_repository) },
    { SP_ROW(sp_config, "model", SP_KEY_TEXT, model), FLAT, .size = sizeof(((sp_config *)0)->model) },
    { SP_ROW(sp_config, "model_repositories", SP_KEY_CUSTOM, more_repositories), FLAT, .read = repositories_read,
      .write = repositories_write },
    { SP_ROW(sp_config, "model_control_mode", SP_KEY_CUSTOM, model_control_mode), FLAT, .read = control_mode_read,
      .write = control_mode_write },
    { SP_ROW(sp_config, "load_model", SP_KEY_CUSTOM, load_models), FLAT, .read = load_model_read, .write = load_model_write },
    { SP_ROW(sp_config, "repository_poll_secs", SP_KEY_INT, repository_poll_s), FLAT, .least = 1, .most = 86400 },
    { SP_ROW(sp_config, "strict_readiness", SP_KEY_BOOL, strict_readiness), FLAT },
    { SP_ROW(sp_config, "exit_on_error", SP_KEY_BOOL, exit_on_error), FLAT },
    { SP_ROW(sp_config, "model_memory", SP_KEY_BYTES, model_memory_bytes), FLAT, .least = 0, .most = 1ll << 46 },
    { SP_ROW(sp_config, "workers", SP_KEY_CUSTOM, workers), FLAT, .read = workers_read, .write = workers_write },
    { SP_ROW(sp_config, "data_dir", SP_KEY_TEXT, data_dir), FLAT, .size = sizeof(((sp_config *)0)->data_dir) },
    { SP_ROW(sp_config, "require_sandbox", SP_KEY_BOOL, require_sandbox), FLAT },
    { SP_ROW(sp_config, "refuse_cpu_nodes", SP_KEY_BOOL, refuse_cpu_nodes), FLAT },
    { SP_ROW(sp_config, "nvjpeg", SP_KEY_BOOL, nvjpeg), FLAT },
    { SP_ROW(sp_config, "drain_delay", SP_KEY_CUSTOM, drain_delay_s), FLAT, .read = drain_read, .write = drain_write },
    { SP_ROW(sp_config, "log_level", SP_KEY_CUSTOM, log_level), FLAT, .read = level_read, .write = level_write },
    { SP_ROW(sp_config, "access_log", SP_KEY_TEXT, access_log), FLAT, .size = sizeof(((sp_config *)0)->access_log) },
    { SP_ROW(sp_config, "spin_us", SP_KEY_INT, spin_us), FLAT, .least = 0, .most = 1000000 },
    { SP_ROW(sp_config, "link_timeout_ms", SP_KEY_INT, link_timeout_ms), FLAT, .least = 0,
      .most = SP_LIMIT_DEADLINE_MAX_MS },
    { SP_ROW(sp_config, "http_max_input_size", SP_KEY_BYTES, http_max_input_bytes), FLAT, .least = 1024, .most = SP_LIMIT_BODIES_BYTES },
    { SP_ROW(sp_config, "shared_memory_anywhere", SP_KEY_BOOL, shared_memory_anywhere), FLAT },
    { SP_ROW(sp_config, "use_gpu", SP_KEY_BOOL, use_gpu), FLAT },
    { SP_ROW(sp_config, "preset", SP_KEY_CUSTOM, preset), FLAT, .read = preset_read, .write = preset_write },
    { SP_ROW(sp_config, "trusted_peers", SP_KEY_CUSTOM, trusted_peers), FLAT, .read = peers_read,
      .write = peers_write },
    { SP_ROW(sp_config, "hosts", SP_KEY_CUSTOM, hosts), FLAT, .read = hosts_read, .write = hosts_write },
    { .name = "fetch", .kind = SP_KEY_MAP, .size = sizeof(sp_config), .schema = &fetch_schema },
    { SP_ROW(sp_config, "chains", SP_KEY_NAMED, chains), .size = sizeof(sp_chain_config), .most = SP_LIMIT_CHAINS,
      .heap = true, .count_offset = offsetof(sp_config, chain_count),
      .name_bytes = sizeof(((sp_chain_config *)0)->task), .schema = &sp_chain_schema },
    { SP_ROW(sp_config, "remotes", SP_KEY_NAMED, remotes), .size = sizeof(sp_remote_config), .most = SP_LIMIT_REMOTES,
      .heap = true, .count_offset = offsetof(sp_config, remote_count),
      .name_bytes = sizeof(((sp_remote_config *)0)->name), .schema = &sp_remote_schema },
    { SP_ROW(sp_config, "tokens", SP_KEY_LIST, tokens), .size = sizeof(sp_token_config), .most = SP_LIMIT_TOKENS,
      .heap = true, .count_offset = offsetof(sp_config, token_count), .schema = &sp_token_schema },
    { SP_ROW(sp_config, "rates", SP_KEY_CUSTOM, rates), .read = rates_read, .write = rates_write },
    SP_ROW_MAP(sp_config, "jobs", jobs, &jobs_schema),
    SP_ROW_MAP(sp_config, "cache", cache, &cache_schema),
    SP_ROW_MAP(sp_config, "results", results, &results_schema),
    SP_ROW_MAP(sp_config, "s3", s3, &s3_schema),
    SP_ROW_MAP(sp_config, "guard", guard, &guard_schema),
    SP_ROW_MAP(sp_config, "tracing", tracing, &sp_tracing_schema),
};

static void config_init(void *object)
{
    sp_config *config = object;

    (void)snprintf(config->bind, sizeof(config->bind), "127.0.0.1");
    config->http_port = 8000;
    config->grpc_port = 8001;
    config->metrics_port = 8002;
    config->admin_port = -1;
    (void)snprintf(config->data_dir, sizeof(config->data_dir), "var/data");
    config->drain_delay_s = -1;
    (void)snprintf(config->log_level, sizeof(config->log_level), "info");
    config->spin_us = 100;
    (void)snprintf(config->model_control_mode, sizeof(config->model_control_mode), "none");
    config->repository_poll_s = 15;
    config->strict_readiness = true;
    config->http_max_input_bytes = SP_LIMIT_INFER_BODY_BYTES;
    config->use_gpu = true;
    config->fetch_limit_bytes = SP_LIMIT_IMAGE_BODY_BYTES;
    jobs_init(&config->jobs);
    cache_init(&config->cache);
    results_init(&config->results);
    guard_init(&config->guard);
    sp_tracing_schema.init(&config->tracing);
}

const sp_schema sp_config_schema = {
    .what = "the configuration",
    .keys = keys,
    .key_count = SP_ARRAY_LEN(keys),
    .init = config_init,
};
