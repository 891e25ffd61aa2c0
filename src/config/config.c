/* SPDX-License-Identifier: Apache-2.0
 * See config.h: from a file, the environment and the command line to one snapshot. */
#include "config/config.h"

#include "base/limits.h"
#include "config/keys.h"
#include "config/preset.h"
#include "rates_yaml.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What net workers get: all keys of all remotes, chains and rates are under 200 KiB. */
#define TEXT_LIMIT_BYTES (4u * SP_LIMIT_CONFIG_BYTES)

/* --- life -------------------------------------------------------------------------------------------------------- */

sp_config *sp_config_ref(sp_config *config)
{
    __atomic_add_fetch(&config->references, 1, __ATOMIC_RELAXED);
    return config;
}

void sp_config_unref(sp_config *config)
{
    if (!config || __atomic_sub_fetch(&config->references, 1, __ATOMIC_ACQ_REL))
        return;
    free(config->chains);
    free(config->remotes);
    free(config->tokens);
    free(config->rates);
    free(config->text);
    free(config);
}
SP_DEFINE_CLEANUP(sp_config, sp_config_unref)

static sp_config *config_new(void)
{
    static uint32_t last_serial;
    sp_config *config = calloc(1, sizeof(*config));

    if (!config)
        return NULL;
    config->references = 1;
    config->serial = __atomic_add_fetch(&last_serial, 1, __ATOMIC_RELAXED);
    sp_config_schema.init(config);
    return config;
}

/* --- questions --------------------------------------------------------------------------------------------------- */

const sp_chain_config *sp_config_chain(const sp_config *config, const char *task)
{
    for (int i = 0; i < config->chain_count; i++) {
        if (!strcmp(config->chains[i].task, task))
            return &config->chains[i];
    }
    return NULL;
}

int sp_config_remote(const sp_config *config, const char *name)
{
    for (int i = 0; i < config->remote_count; i++) {
        if (!strcmp(config->remotes[i].name, name))
            return i;
    }
    return -1;
}

/* "l4" is a word of "NVIDIA L4" but none of "NVIDIA L40S". */
static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);

    for (const char *p = text; (p = strcasestr(p, word)); p++) {
        if ((p == text || !isalnum((unsigned char)p[-1])) && !isalnum((unsigned char)p[length]))
            return true;
    }
    return false;
}

static const sp_price *rate_named(const sp_config *config, const char *name)
{
    for (int i = 0; i < config->rate_count; i++) {
        if (!strcmp(config->rates[i].name, name))
            return &config->rates[i].price;
    }
    return NULL;
}

const sp_price *sp_config_rate(const sp_config *config, const char *name)
{
    const sp_price *rate = rate_named(config, name);
    char kind[32];

    if (rate || sp_config_remote(config, name) >= 0)
        return rate;
    sp_config_kind_of(name, kind);
    if ((rate = rate_named(config, kind)))
        return rate;
    for (int i = 0; i < config->rate_count; i++) {
        if (has_word(name, config->rates[i].name))
            return &config->rates[i].price;
    }
    return NULL;
}

/* --- files ------------------------------------------------------------------------------------------------------- */

/* Reads up to `limit` bytes and one more; *ret_bytes > limit means that there are more. */
static char *read_descriptor(int fd, size_t limit, size_t *ret_bytes)
{
    size_t used = 0, capacity = 0;
    char *text = NULL;

    for (;;) {
        if (used + 1 >= capacity) {
            capacity = capacity ? SP_MIN(2 * capacity, limit + 2) : 16384;
            char *grown = realloc(text, capacity);
            if (!grown)
                break;
            text = grown;
        }
        ssize_t n = read(fd, text + used, capacity - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        used += (size_t)n;
        if (!n || used > limit) {
            text[used] = '\0';
            *ret_bytes = used;
            return text;
        }
    }
    free(text);
    return NULL;
}

char *sp_config_read_file(const char *path, size_t *ret_bytes, sp_error *reterr)
{
    SP_CLEANUP(sp_fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat facts;

    if (fd < 0) {
        (void)SP_FAIL(reterr, SP_NOT_FOUND, "cannot read the configuration file '%s': %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(fd, &facts) < 0 || S_ISDIR(facts.st_mode)) {
        (void)SP_FAIL(reterr, SP_INVALID, "'%s' is a directory, not a configuration file", path);
        return NULL;
    }
    char *text = read_descriptor(fd, SP_LIMIT_CONFIG_BYTES, ret_bytes);
    if (!text)
        (void)SP_FAIL(reterr, errno == ENOMEM ? SP_NOMEM : SP_NOT_FOUND, "cannot read the configuration file '%s': %s",
                      path, strerror(errno));
    return text;
}

static void wipe(char *text, size_t size)
{
    explicit_bzero(text, size);
}

sp_status sp_secret_read(const sp_secret *secret, char *ret_text, size_t size_bytes, sp_error *reterr)
{
    if (*secret->env) {
        const char *value = getenv(secret->env);
        if (!value || !*value)
            return SP_FAIL(reterr, SP_NOT_FOUND, "the environment variable %s is not set; it should hold a secret",
                           secret->env);
        if (strlen(value) >= size_bytes)
            return SP_FAIL(reterr, SP_INVALID, "the secret in %s is longer than %zu bytes", secret->env,
                           size_bytes - 1);
        memcpy(ret_text, value, strlen(value) + 1);
        return SP_OK;
    }
    if (!*secret->file)
        return SP_FAIL(reterr, SP_NOT_FOUND, "no secret is configured");
    SP_CLEANUP(sp_fd_closep) int fd = open(secret->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t length = 0;
    char *text = fd < 0 ? NULL : read_descriptor(fd, size_bytes - 1, &length);
    if (!text)
        return SP_FAIL(reterr, SP_NOT_FOUND, "cannot read the secret file '%s': %s", secret->file, strerror(errno));
    size_t kept = length;
    while (kept && (text[kept - 1] == '\n' || text[kept - 1] == '\r'))
        kept--;
    sp_status status =
        !kept ? SP_FAIL(reterr, SP_NOT_FOUND, "the secret file '%s' is empty", secret->file)
        : kept >= size_bytes
            ? SP_FAIL(reterr, SP_INVALID, "the secret in '%s' is longer than %zu bytes", secret->file, size_bytes - 1)
        : memchr(text, '\0', kept) ? SP_FAIL(reterr, SP_INVALID, "the secret in '%s' holds a NUL byte", secret->file)
                                   : SP_OK;
    if (!status) {
        memcpy(ret_text, text, kept);
        ret_text[kept] = '\0';
    }
    wipe(text, length);
    free(text);
    return status;
}

/* --- environment and command line -------------------------------------------------------------------------------- */

static int add_override(sp_config_override *overrides, int count, const char *key, const char *variable)
{
    const char *value = getenv(variable);

    if (!value || !*value || count == SP_CONFIG_OVERRIDES_MAX)
        return count;
    sp_config_override *o = &overrides[count];
    (void)snprintf(o->key, sizeof(o->key), "%s", key);
    (void)snprintf(o->value, sizeof(o->value), "%s", value);
    (void)snprintf(o->origin, sizeof(o->origin), "%s", variable);
    return count + 1;
}

int sp_config_environment(sp_config_override ret_overrides[SP_CONFIG_OVERRIDES_MAX])
{
    int count = 0;

    for (int i = 0; i < sp_config_schema.key_count; i++) {
        char variable[48] = "SPILLWAY_";
        const char *key = sp_config_schema.keys[i].name;
        size_t used = strlen(variable);
        for (size_t k = 0; key[k] && used + 1 < sizeof(variable); k++)
            variable[used++] = (char)toupper((unsigned char)key[k]);
        if (sp_config_schema.keys[i].outside)
            count = add_override(ret_overrides, count, key, variable);
    }
    return add_override(ret_overrides, count, "use_gpu", "USE_GPU_PIPELINE");
}

static void apply_overrides(sp_reader *reader, const sp_config_override *overrides, int count, sp_config *config)
{
    for (int i = 0; i < count; i++) {
        const sp_key *key = sp_schema_find(&sp_config_schema, overrides[i].key);
        const sp_yaml_node node = { .kind = SP_YAML_SCALAR, .text = overrides[i].value };
        size_t mark = sp_reader_enter(reader, overrides[i].origin);
        SP_ASSERT(key && key->outside);
        sp_key_read(reader, key, &node, config);
        sp_reader_leave(reader, mark);
    }
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

typedef struct source {
    const char *name; /* "" = there is no file */
    const char *text;
    size_t text_bytes;
    const sp_config_override *overrides;
    int override_count;
    bool effective; /* another process has finished it already */
} source;

/* Rows of the built-in table that the file does not have. */
static sp_status add_builtin_rates(sp_config *config, sp_arena *arena, sp_error *reterr)
{
    sp_complainer complainer = { .file = "rates.yaml" };
    sp_reader reader = { .complainer = &complainer };
    sp_yaml_node *root = NULL;
    sp_config *builtin = calloc(1, sizeof(*builtin));
    sp_status status = builtin
                           ? sp_yaml_parse(sp_rates_yaml, sizeof(sp_rates_yaml) - 1, arena, &complainer, &root, reterr)
                           : SP_FAIL(reterr, SP_NOMEM, "no memory for the rates");

    if (!status && root)
        sp_key_read(&reader, &sp_rates_schema.keys[0], root, builtin);
    if (!status && !reader.failed && builtin->rate_count) {
        sp_rate_row *grown =
            realloc(config->rates, (size_t)(config->rate_count + builtin->rate_count) * sizeof(*grown));
        config->rates = grown ? grown : config->rates;
        status = grown ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the rates");
        for (int i = 0; grown && i < builtin->rate_count; i++) {
            if (!rate_named(config, builtin->rates[i].name))
                config->rates[config->rate_count++] = builtin->rates[i];
        }
    } else if (!status && reader.failed) {
        status = SP_FAIL(reterr, SP_NOMEM, "no memory for the rates");
    }
    if (builtin)
        free(builtin->rates);
    free(builtin);
    sp_complainer_done(&complainer);
    return status;
}

static sp_status finish(sp_config *config, const sp_yaml_node *root, sp_arena *arena, sp_complainer *complainer,
                        sp_error *reterr)
{
    if (!*config->workers) {
        const sp_secret *signs = &config->jobs.webhook_secret;
        bool net = *config->tracing.otlp || config->remote_count || *config->s3.endpoint || *signs->env || *signs->file;
        (void)snprintf(config->workers, sizeof(config->workers), "codec0,cpu0%s", net ? ",net0" : "");
    }
    sp_config_check(config, root, complainer);
    sp_status status = add_builtin_rates(config, arena, reterr);
    if (!status && !complainer->error_count)
        status = sp_preset_expand(config, reterr);
    if (!status && !complainer->error_count)
        sp_gpu_remove(config, root, complainer);
    return status;
}

/* The snapshot for net workers: everything but tokens, which are none of their business. */
static sp_status make_text(sp_config *config, sp_error *reterr)
{
    sp_buf out;
    sp_writer writer = { .out = &out };
    int token_count = config->token_count;

    sp_buf_init(&out, TEXT_LIMIT_BYTES);
    config->token_count = 0;
    sp_schema_write(&writer, &sp_config_schema, config);
    config->token_count = token_count;
    config->text = sp_buf_take(&out, &config->text_bytes);
    sp_buf_done(&out);
    return config->text ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration's text");
}

static sp_status read_source(const source *from, sp_config *config, sp_arena *arena, sp_complainer *complainer,
                             sp_error *reterr)
{
    sp_reader reader = { .complainer = complainer };
    sp_yaml_node *root = NULL;

    sp_status status = sp_yaml_parse(from->text, from->text_bytes, arena, complainer, &root, reterr);
    if (status == SP_INVALID)
        return SP_OK; /* the complaint has been made */
    if (status)
        return status;
    if (root)
        sp_schema_read(&reader, &sp_config_schema, root, config);
    apply_overrides(&reader, from->overrides, from->override_count, config);
    if (reader.failed)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    if ((int)config->jobs.least == SP_CONFIG_UNSET)
        config->jobs.least = *config->jobs.redis ? SP_DURABILITY_AOF_ALWAYS : SP_DURABILITY_DISK;
    return from->effective ? SP_OK : finish(config, root, arena, complainer, reterr);
}

/* Turns what was complained of into the status and a message that holds the first line. */
static sp_status judge(sp_complainer *complainer, sp_complaints *complaints, sp_error *reterr)
{
    sp_complaints own;
    sp_status status = SP_OK;

    sp_complaints_init(&own);
    sp_complainer_write(complainer, &own);
    if (complaints) {
        sp_buf_append(&complaints->text, own.text.data, own.text.size_bytes);
        complaints->count += own.count;
        complaints->warning_count += own.warning_count;
    }
    if (own.count) {
        int length =
            own.text.data ? (int)strcspn((sp_buf_append(&own.text, "", 1), (const char *)own.text.data), "\n") : 0;
        status = SP_FAIL(reterr, SP_INVALID, "%.*s%s", length, length ? (const char *)own.text.data : "",
                         own.count > 1 ? " (and more)" : "");
    }
    sp_complaints_done(&own);
    return status;
}

static sp_status load(const source *from, sp_config **ret_config, sp_complaints *complaints, sp_error *reterr)
{
    SP_CLEANUP(sp_config_unrefp) sp_config *config = config_new();
    SP_CLEANUP(sp_arena_freep) sp_arena *arena = sp_arena_new(SP_CONFIG_ARENA_BYTES);
    sp_complainer complainer = { .file = from->name };

    if (!config || !arena)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the configuration");
    (void)snprintf(config->path, sizeof(config->path), "%s", from->name);
    sp_keys_set_base(from->name);
    sp_status status = read_source(from, config, arena, &complainer, reterr);
    sp_keys_set_base(NULL);
    if (!status)
        status = judge(&complainer, complaints, reterr);
    sp_complainer_done(&complainer);
    if (!status)
        status = make_text(config, reterr);
    if (!status)
        *ret_config = SP_STEAL(config);
    return status;
}

sp_status sp_config_load_over(const char *path, const sp_config_override *overrides, int override_count,
                              sp_config **ret_config, sp_complaints *complaints, sp_error *reterr)
{
    source from = { .name = path ? path : "", .text = "", .overrides = overrides, .override_count = override_count };
    char *text = NULL;

    if (path) {
        text = sp_config_read_file(path, &from.text_bytes, reterr);
        if (!text)
            return reterr ? reterr->status : SP_NOT_FOUND;
        from.text = text;
    }
    sp_status status = load(&from, ret_config, complaints, reterr);
    free(text);
    return status;
}

sp_status sp_config_load(const char *path, sp_config **ret_config, sp_complaints *complaints, sp_error *reterr)
{
    sp_config_override overrides[SP_CONFIG_OVERRIDES_MAX];
    int count = sp_config_environment(overrides);

    return sp_config_load_over(path, overrides, count, ret_config, complaints, reterr);
}

sp_status sp_config_parse(const char *name, const char *text, size_t text_bytes, sp_config **ret_config,
                          sp_complaints *complaints, sp_error *reterr)
{
    sp_config_override overrides[SP_CONFIG_OVERRIDES_MAX];
    const source from = { .name = name,
                          .text = text,
                          .text_bytes = text_bytes,
                          .overrides = overrides,
                          .override_count = sp_config_environment(overrides) };

    return load(&from, ret_config, complaints, reterr);
}

sp_status sp_config_parse_effective(const char *text, size_t text_bytes, sp_config **ret_config, sp_error *reterr)
{
    const source from = { .name = "effective", .text = text, .text_bytes = text_bytes, .effective = true };

    return load(&from, ret_config, NULL, reterr);
}

sp_status sp_config_new_default(sp_config **ret_config, sp_error *reterr)
{
    const source from = { .name = "", .text = "" };

    return load(&from, ret_config, NULL, reterr);
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

void sp_complaints_init(sp_complaints *complaints)
{
    *complaints = (sp_complaints){ 0 };
    sp_buf_init(&complaints->text, SP_LIMIT_COMPLAINTS * 2048u);
}

void sp_complaints_done(sp_complaints *complaints)
{
    sp_buf_done(&complaints->text);
}

void sp_config_write(const sp_config *config, sp_buf *out)
{
    sp_writer writer = { .out = out, .hide = true };

    sp_schema_write(&writer, &sp_config_schema, config);
}

static bool same_retention(const sp_results_config *a, const sp_results_config *b)
{
    if (a->retention_count != b->retention_count)
        return false;
    for (int i = 0; i < a->retention_count; i++) {
        if (strcmp(a->retention[i].task, b->retention[i].task) != 0 ||
            a->retention[i].seconds != b->retention[i].seconds)
            return false;
    }
    return true;
}

void sp_config_restart_keys(const sp_config *from, const sp_config *to, char *ret_text, size_t size_bytes)
{
    const struct {
        const char *name;
        bool differs;
    } keys[] = {
        { "bind", strcmp(from->bind, to->bind) != 0 },
        { "http_port", from->http_port != to->http_port },
        { "grpc_port", from->grpc_port != to->grpc_port },
        { "metrics_port", from->metrics_port != to->metrics_port },
        { "admin_port", from->admin_port != to->admin_port },
        { "workers", strcmp(from->workers, to->workers) != 0 },
        { "model_repository", strcmp(from->model_repository, to->model_repository) != 0 },
        { "model", strcmp(from->model, to->model) != 0 },
        { "model_repositories", from->more_repository_count != to->more_repository_count ||
                                    memcmp(from->more_repositories, to->more_repositories, sizeof(from->more_repositories)) != 0 },
        { "model_control_mode", strcmp(from->model_control_mode, to->model_control_mode) != 0 },
        { "load_model", from->load_model_count != to->load_model_count ||
                            memcmp(from->load_models, to->load_models, sizeof(from->load_models)) != 0 },
        { "repository_poll_secs", from->repository_poll_s != to->repository_poll_s },
        { "strict_readiness", from->strict_readiness != to->strict_readiness },
        { "model_memory", from->model_memory_bytes != to->model_memory_bytes },
        { "data_dir", strcmp(from->data_dir, to->data_dir) != 0 },
        { "drain_delay", from->drain_delay_s != to->drain_delay_s },
        { "require_sandbox", from->require_sandbox != to->require_sandbox },
        { "refuse_cpu_nodes", from->refuse_cpu_nodes != to->refuse_cpu_nodes },
        { "nvjpeg", from->nvjpeg != to->nvjpeg },
        { "access_log", strcmp(from->access_log, to->access_log) != 0 },
        { "spin_us", from->spin_us != to->spin_us },
        { "shared_memory_anywhere", from->shared_memory_anywhere != to->shared_memory_anywhere },
        { "link_timeout_ms", from->link_timeout_ms != to->link_timeout_ms },
        { "jobs.redis", strcmp(from->jobs.redis, to->jobs.redis) != 0 },
        { "cache", strcmp(from->cache.redis, to->cache.redis) != 0 || from->cache.ttl_s != to->cache.ttl_s ||
                       from->cache.memory_bytes != to->cache.memory_bytes },
        { "results.mongodb", strcmp(from->results.mongodb, to->results.mongodb) != 0 },
        { "results.database", strcmp(from->results.database, to->results.database) != 0 },
        { "results.retention", !same_retention(&from->results, &to->results) },
    };
    size_t used = 0;

    *ret_text = '\0';
    for (size_t i = 0; i < SP_ARRAY_LEN(keys) && used < size_bytes; i++) {
        if (keys[i].differs)
            used += (size_t)snprintf(ret_text + used, size_bytes - used, "%s%s", used ? ", " : "", keys[i].name);
    }
}
