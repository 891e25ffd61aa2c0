/* SPDX-License-Identifier: Apache-2.0
 * POST /infer with JSON instead of a picture: {"url": "https://...", "top_k": 3}. A net worker fetches it, behind its
 * guard for private addresses; a request that must stay on this machine is refused by the house. */
#include "gateway/server.h"
#include "jobs/outputs.h"

#include <jansson.h>
#include <stdio.h>

/* One member besides the URL, as the text that the query would have had. */
static sp_status member_take(gw_options *options, const char *key, const json_t *value, sp_error *reterr)
{
    char text[32];
    if (json_is_string(value))
        return gw_option_set(options, key, sp_view_make(json_string_value(value), json_string_length(value)), "member",
                             reterr);
    if (json_is_integer(value))
        (void)snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        (void)snprintf(text, sizeof(text), "%.9g", json_real_value(value));
    else if (json_is_boolean(value))
        (void)snprintf(text, sizeof(text), "%d", json_is_true(value));
    else
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "\"%.40s\" must be a string, a number, true or false",
                            key);
    return gw_option_set(options, key, sp_view_of(text), "member", reterr);
}

static bool known(const char *key)
{
    for (size_t i = 0; gw_form_options[i]; i++) {
        if (strcmp(key, gw_form_options[i]) == 0)
            return true;
    }
    return false;
}

static sp_status members_take(gw_options *options, json_t *root, sp_error *reterr)
{
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        sp_status s = SP_OK;
        if (strcmp(key, "url") == 0)
            continue;
        if (!known(key))
            return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_member",
                                "unknown member \"%.40s\"; there are url, timeout_ms, top_k, decode, model, force_cpu, "
                                "local_only, priority, cache, threshold and iou",
                                key);
        s = member_take(options, key, value, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

sp_status gw_infer_url_read(gw_conn *conn, char *ret_url, size_t url_bytes, sp_error *reterr)
{
    json_error_t at;
    json_t *root = json_loadb((const char *)conn->body.data, conn->body.size_bytes, JSON_REJECT_DUPLICATES, &at);
    const char *url = json_string_value(json_object_get(root, "url"));
    sp_status s = SP_OK;
    if (!url)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_json",
                         "the body must be a JSON object like {\"url\": \"https://example.org/cat.jpg\"}, or a picture");
    if (!s)
        s = sp_url_check(url, url_bytes, "url", reterr);
    if (!s)
        s = members_take(&conn->options, root, reterr);
    if (!s)
        (void)snprintf(ret_url, url_bytes, "%s", url);
    json_decref(root);
    return s;
}
