/* SPDX-License-Identifier: Apache-2.0
 * Keys of remotes.<name>, and secrets. */
#include "config/keys.h"

#include <ctype.h>
#include <string.h>

/* --- secrets ----------------------------------------------------------------------------------------------------- */

static bool env_name_ok(const char *name)
{
    if (!isalpha((unsigned char)*name) && *name != '_')
        return false;
    for (; *name; name++) {
        if (!isalnum((unsigned char)*name) && *name != '_')
            return false;
    }
    return true;
}

static void secret_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const sp_secret *secret = object;

    if (*secret->env && *secret->file)
        sp_reader_complain(reader, node, "has both env and file; give exactly one place where the secret lies");
    else if (!*secret->env && !*secret->file)
        sp_reader_complain(reader, node, "needs env (a variable's name) or file (a path), where the secret lies");
    else if (*secret->env && !env_name_ok(secret->env))
        sp_reader_complain(reader, node, "env must be the name of an environment variable, not the secret itself");
}

static const sp_key secret_keys[] = {
    SP_ROW_TEXT(sp_secret, "env", env),
    SP_ROW_TEXT(sp_secret, "file", file),
};
const sp_schema sp_secret_schema = {
    .what = "a secret",
    .keys = secret_keys,
    .key_count = SP_ARRAY_LEN(secret_keys),
    .check = secret_check,
};

/* --- remotes ----------------------------------------------------------------------------------------------------- */

static void remote_key_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    secret_check(reader, node, &((sp_remote_key *)object)->secret);
}

static const sp_key remote_key_keys[] = {
    SP_ROW_TEXT(sp_remote_key, "env", secret.env),
    SP_ROW_TEXT(sp_remote_key, "file", secret.file),
    SP_ROW_NUMBER(sp_remote_key, "requests_per_minute", SP_KEY_LONG, quota.requests_per_minute, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_remote_key, "requests_per_day", SP_KEY_LONG, quota.requests_per_day, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_remote_key, "units_per_minute", SP_KEY_LONG, quota.units_per_minute, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_remote_key, "units_per_day", SP_KEY_LONG, quota.units_per_day, 0, INT64_MAX),
    SP_ROW_NUMBER(sp_remote_key, "max_cost_per_day", SP_KEY_MONEY, quota.microdollars_per_day, 0, INT64_MAX),
};
static const sp_schema remote_key_schema = {
    .what = "a key",
    .keys = remote_key_keys,
    .key_count = SP_ARRAY_LEN(remote_key_keys),
    .check = remote_key_check,
};

static const char *const remote_kinds[] = { "spillway", "kserve", NULL };
_Static_assert(SP_REMOTE_SPILLWAY == 0 && SP_REMOTE_KSERVE == 1, "the order of remote_kinds");

static const sp_key remote_keys[] = {
    { SP_ROW(sp_remote_config, "kind", SP_KEY_WORD, kind), .words = remote_kinds, .required = true },
    { SP_ROW(sp_remote_config, "url", SP_KEY_TEXT, url), .size = sizeof(((sp_remote_config *)0)->url),
      .required = true },
    SP_ROW_TEXT(sp_remote_config, "model", model),
    SP_ROW_TEXT(sp_remote_config, "input", input),
    SP_ROW_TEXT(sp_remote_config, "output", output),
    SP_ROW_NUMBER(sp_remote_config, "verify_tls", SP_KEY_BOOL, verify_tls, 0, 0),
    SP_ROW_TEXT(sp_remote_config, "ca_file", ca_file),
    SP_ROW_NUMBER(sp_remote_config, "connect_timeout", SP_KEY_NS, connect_timeout_ns, 1000000, SP_NS_OF_S(60)),
    SP_ROW_NUMBER(sp_remote_config, "response_limit", SP_KEY_BYTES, response_limit_bytes, 1024, 1ll << 30),
    { SP_ROW(sp_remote_config, "keys", SP_KEY_LIST, keys), .size = sizeof(sp_remote_key), .most = SP_LIMIT_REMOTE_KEYS,
      .count_offset = offsetof(sp_remote_config, key_count), .schema = &remote_key_schema },
};

static void remote_init(void *object)
{
    sp_remote_config *remote = object;

    remote->verify_tls = true;
    remote->connect_timeout_ns = SP_NS_OF_S(2);
    remote->response_limit_bytes = 64ull << 20;
}

static const char *url_problem(const char *url)
{
    bool tls = !strncmp(url, "https://", 8);

    if (!tls && strncmp(url, "http://", 7) != 0)
        return "must begin with http:// or https://";
    const char *host = url + (tls ? 8 : 7), *path = host + strcspn(host, "/?#");
    if (path == host)
        return "has no host";
    if (memchr(host, '@', (size_t)(path - host)))
        return "must hold no user or password; give the secret under keys";
    if (*path && strcmp(path, "/") != 0)
        return "must end after host and port; the path is added by spillway";
    if (strpbrk(url, " \"\\<>{}|^`"))
        return "holds a character that no URL may hold";
    return NULL;
}

static void remote_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    sp_remote_config *remote = object;
    const char *problem = url_problem(remote->url);
    const sp_yaml_node *url = sp_yaml_get(node, "url");

    if (problem) {
        size_t mark = sp_reader_enter(reader, "url");
        sp_reader_complain(reader, url ? url : node, "%s", problem);
        sp_reader_leave(reader, mark);
    } else if (remote->url[strlen(remote->url) - 1] == '/') {
        remote->url[strlen(remote->url) - 1] = '\0';
    }
    if (remote->kind != SP_REMOTE_KSERVE && (*remote->model || *remote->input || *remote->output))
        sp_reader_complain(reader, node, "model, input and output are for kind kserve; a spillway knows its own");
}

const sp_schema sp_remote_schema = {
    .what = "a remote",
    .keys = remote_keys,
    .key_count = SP_ARRAY_LEN(remote_keys),
    .init = remote_init,
    .check = remote_check,
};
