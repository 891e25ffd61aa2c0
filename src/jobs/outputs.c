/* SPDX-License-Identifier: Apache-2.0
 * Where a job's result goes besides the job itself. */
#include "jobs/outputs.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static size_t scheme_bytes(const char *url)
{
    if (strncmp(url, "https://", 8) == 0)
        return 8;
    return strncmp(url, "http://", 7) == 0 ? 7 : 0;
}

sp_status sp_url_check(const char *url, size_t limit_bytes, const char *what, sp_error *reterr)
{
    size_t scheme = scheme_bytes(url), n = strlen(url);
    if (!scheme)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "%s must begin with http:// or https://, not \"%.40s\"", what, url);
    if (n >= limit_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "%s has %zu characters, the limit is %zu", what, n, limit_bytes - 1);
    size_t host = strcspn(url + scheme, "/?#");
    if (!host || url[scheme] == ':')
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "%s \"%.60s\" names no host", what, url);
    if (memchr(url + scheme, '@', host))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "%s must not carry a user name or password before the host", what);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)url[i] <= ' ' || (unsigned char)url[i] >= 127)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_url",
                                "%s has a blank, control or non-ASCII character at byte %zu; percent-encode it", what, i);
    }
    return SP_OK;
}

void sp_url_host(const char *url, char *ret_host, size_t size_bytes)
{
    const char *host = url + scheme_bytes(url);
    size_t n = SP_MIN(strcspn(host, "/?#"), size_bytes - 1);
    for (size_t i = 0; i < n; i++)
        ret_host[i] = (char)tolower((unsigned char)host[i]);
    ret_host[n] = 0;
}

static sp_status put_urls_take(const json_t *list, sp_outputs *outputs, sp_error *reterr)
{
    if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > SP_LIMIT_JOB_OUTPUTS)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_output", "output.put_urls must be a list of 1 to %d URLs",
                            SP_LIMIT_JOB_OUTPUTS);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *url = json_string_value(json_array_get(list, i));
        sp_output *item = &outputs->items[outputs->count];
        char what[48];
        (void)snprintf(what, sizeof(what), "output.put_urls[%zu]", i);
        if (!url)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_output", "%s must be a string", what);
        sp_status s = sp_url_check(url, sizeof(item->url), what, reterr);
        if (s)
            return s;
        (void)snprintf(item->url, sizeof(item->url), "%s", url);
        item->shown_bytes = strcspn(url, "?#");
        outputs->count++;
    }
    return SP_OK;
}

/* Everything but RFC 3986's unreserved characters (and '/', which separates) is percent-encoded. */
static sp_status key_append(char *dst, size_t dst_bytes, size_t n, const char *key, sp_error *reterr)
{
    for (; *key; key++) {
        unsigned char c = (unsigned char)*key;
        bool plain = isalnum(c) || strchr("-_.~/", c);
        if (n + 4 > dst_bytes)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_output", "output.s3: bucket and key are too long");
        n += (size_t)snprintf(dst + n, dst_bytes - n, plain ? "%c" : "%%%02X", c);
    }
    return SP_OK;
}

static sp_status s3_take(const json_t *object, const sp_s3_config *s3, sp_outputs *outputs, sp_error *reterr)
{
    const char *bucket = json_string_value(json_object_get(object, "bucket"));
    const char *key = json_string_value(json_object_get(object, "key"));
    sp_output *item = &outputs->items[0];
    if (!bucket || !*bucket || !key || !*key || json_object_size(object) != 2)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_output", "output.s3 must be {\"bucket\": \"...\", \"key\": \"...\"}");
    if (strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789.-") != strlen(bucket) || strlen(bucket) > 63)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_output",
                            "output.s3.bucket must be 1 to 63 of a-z, 0-9, '.' and '-', not \"%.63s\"", bucket);
    if (!*s3->endpoint)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_s3",
                            "output.s3 needs s3.endpoint and its keys in the server's configuration; use put_urls instead");
    size_t end = strlen(s3->endpoint);
    while (end && s3->endpoint[end - 1] == '/')
        end--;
    int n = snprintf(item->url, sizeof(item->url), "%.*s/%s/", (int)end, s3->endpoint, bucket);
    while (*key == '/')
        key++;
    sp_status s = key_append(item->url, sizeof(item->url), (size_t)n, key, reterr);
    item->shown_bytes = strlen(item->url);
    item->s3 = true;
    outputs->count = 1;
    return s;
}

sp_status sp_outputs_parse(const char *json, const sp_s3_config *s3, sp_outputs *ret_outputs, sp_error *reterr)
{
    json_error_t at;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &at);
    const json_t *urls = json_object_get(root, "put_urls"), *bucket = json_object_get(root, "s3");
    sp_status s = SP_OK;
    ret_outputs->count = 0;
    if (!root)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_output", "output is no JSON: %s at line %d, column %d", at.text, at.line,
                         at.column);
    else if (json_object_size(root) != 1 || (!urls && !bucket))
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_output",
                         "output must be {\"put_urls\": [\"https://...\"]} or {\"s3\": {\"bucket\": \"...\", \"key\": \"...\"}}");
    else
        s = urls ? put_urls_take(urls, ret_outputs, reterr) : s3_take(bucket, s3, ret_outputs, reterr);
    json_decref(root);
    return s;
}

void sp_outputs_write(sp_buf *out, const sp_outputs *outputs, size_t size_bytes)
{
    sp_buf_append_text(out, "{\"output\":[");
    for (int i = 0; i < outputs->count; i++) {
        const sp_output *item = &outputs->items[i];
        char shown[sizeof(item->url)];
        (void)snprintf(shown, sizeof(shown), "%.*s", (int)item->shown_bytes, item->url);
        sp_buf_append_text(out, i ? ",{\"url\":" : "{\"url\":");
        sp_buf_append_json_text(out, shown);
        sp_buf_printf(out, ",\"bytes\":%zu}", size_bytes);
    }
    sp_buf_append_text(out, "]}");
}
