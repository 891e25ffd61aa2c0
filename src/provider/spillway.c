/* SPDX-License-Identifier: Apache-2.0
 * Asking another Spillway, and reading what it says. */
#include "provider/spillway.h"

#include "base/clock.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- the question ------------------------------------------------------------------------------------------------- */

static void append_escaped(sp_buf *out, const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (isalnum(*at) || strchr("-_.~", *at))
            sp_buf_append(out, at, 1);
        else
            sp_buf_printf(out, "%%%02X", *at);
    }
}

/* Texts of the client go into header values; what could end one early does not. */
static void append_header(sp_buf *out, const char *name, const char *value)
{
    if (!*value)
        return;
    sp_buf_printf(out, "%s: ", name);
    for (const char *at = value; *at; at++) {
        if (*at >= ' ' && *at <= '~')
            sp_buf_append(out, at, 1);
    }
    sp_buf_append_text(out, "\n");
}

sp_status sp_spillway_ask(const sp_spillway_question *question, sp_buf *url, sp_buf *headers, sp_error *reterr)
{
    size_t n = strlen(question->base_url);
    if (question->hops >= SP_LIMIT_HOPS)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "too_many_hops", "the request has come through %u houses already; is there "
                            "a circle of remotes?", question->hops);
    while (n && question->base_url[n - 1] == '/')
        n--;
    sp_buf_append(url, question->base_url, n);
    sp_buf_append_text(url, "/infer?task=");
    append_escaped(url, question->task);
    if (question->top_k)
        sp_buf_printf(url, "&top_k=%u", question->top_k);
    if (question->decode_fast)
        sp_buf_append_text(url, "&decode=fast");
    if (*question->model) {
        sp_buf_append_text(url, "&model=");
        append_escaped(url, question->model);
    }
    sp_buf_append(url, "", 1);
    append_header(headers, "Content-Type", *question->content_type ? question->content_type : "application/octet-stream");
    append_header(headers, "X-Request-Id", question->request_id);
    append_header(headers, "traceparent", question->traceparent ? question->traceparent : "");
    append_header(headers, "tracestate", question->tracestate ? question->tracestate : "");
    sp_buf_printf(headers, "X-Spillway-Timeout-Ms: %lld\nX-Spillway-Hops: %u\n",
                  (long long)SP_MAX(question->timeout_ms, 1), question->hops + 1);
    sp_buf_append(headers, "", 1);
    if (!sp_buf_ok(url) || !sp_buf_ok(headers))
        return SP_FAIL(reterr, SP_INTERNAL, "a question for a remote does not fit");
    return SP_OK;
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

static void copy_text(char *dst, size_t dst_bytes, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    (void)snprintf(dst, dst_bytes, "%s", text ? text : "");
}

static int64_t ns_of(const json_t *object, const char *key)
{
    double ms = json_number_value(json_object_get(object, key));
    return ms > 0 && ms < 1e12 ? (int64_t)(ms * (double)SP_NS_PER_MS) : 0;
}

static sp_status status_named(const char *name)
{
    for (int s = 0; s < SP_STATUS_COUNT; s++) {
        if (strcmp(sp_status_name((sp_status)s), name) == 0)
            return (sp_status)s;
    }
    return SP_INTERNAL;
}

static void read_who(const json_t *root, sp_provider_answer *answer)
{
    copy_text(answer->link, sizeof(answer->link), root, "provider");
    copy_text(answer->device, sizeof(answer->device), root, "device");
    copy_text(answer->precision, sizeof(answer->precision), root, "precision");
    copy_text(answer->model, sizeof(answer->model), root, "model");
    copy_text(answer->version, sizeof(answer->version), root, "model_version");
    copy_text(answer->engine, sizeof(answer->engine), root, "engine");
    const json_t *attempts = json_object_get(root, "attempts"), *times = json_object_get(root, "latency_ms");
    size_t count = SP_MIN(json_array_size(attempts), (size_t)SP_LIMIT_ATTEMPTS);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(attempts, i);
        sp_provider_attempt *attempt = &answer->attempts[answer->attempt_count++];
        const char *status = json_string_value(json_object_get(one, "status"));
        copy_text(attempt->link, sizeof(attempt->link), one, "link");
        copy_text(attempt->reason, sizeof(attempt->reason), one, "reason");
        attempt->status = status_named(status ? status : "");
        attempt->duration_ns = ns_of(one, "ms");
    }
    answer->decode_ns = ns_of(times, "decode");
    answer->preprocess_ns = ns_of(times, "preprocess");
    answer->inference_ns = ns_of(times, "inference");
    answer->postprocess_ns = ns_of(times, "postprocess");
    json_int_t batch = json_integer_value(json_object_get(root, "batch_size"));
    answer->batch_size = batch > 0 && batch <= SP_LIMIT_BATCH ? (uint32_t)batch : 0;
}

static bool read_class(const json_t *one, sp_provider_class *ret_class)
{
    const json_t *id = json_object_get(one, "class_id"), *probability = json_object_get(one, "probability");
    double p = json_number_value(probability);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= SP_LIMIT_CLASSES ||
        !json_is_number(probability) || !(p >= 0 && p <= 1.001))
        return false;
    ret_class->class_id = (uint32_t)json_integer_value(id);
    ret_class->probability = (float)p;
    copy_text(ret_class->label, sizeof(ret_class->label), one, "label");
    return true;
}

static sp_status bad_answer(sp_error *reterr, const char *why)
{
    return SP_FAIL_CODE(reterr, SP_CORRUPT, "bad_answer", "the remote's answer %s", why);
}

sp_status sp_spillway_read_answer(sp_view body, sp_provider_answer *ret_answer, sp_error *reterr)
{
    json_error_t why;
    json_t *root = json_loadb((const char *)body.data, body.size_bytes, 0, &why);
    sp_status s = SP_OK;
    memset(ret_answer, 0, sizeof(*ret_answer));
    const json_t *predictions = json_object_get(root, "predictions");
    size_t count = json_array_size(predictions);
    if (!root)
        s = bad_answer(reterr, "is no JSON");
    else if (!json_is_array(predictions) || count < 1 || count > SP_LIMIT_TOP_K)
        s = bad_answer(reterr, "has no predictions");
    else
        read_who(root, ret_answer);
    for (size_t i = 0; !s && i < count; i++) {
        if (!read_class(json_array_get(predictions, i), &ret_answer->classes[i]))
            s = bad_answer(reterr, "has a prediction without class_id or probability");
        ret_answer->class_count = (int)i + 1;
    }
    json_decref(root);
    return s;
}

/* "codec0=ok, cpu0=unavailable" */
static void read_attempts_header(const char *text, sp_provider_answer *answer)
{
    while (*text && answer->attempt_count < SP_LIMIT_ATTEMPTS) {
        size_t link = strcspn(text, "=,"), n = strcspn(text, ",");
        char status[24];
        if (text[link] == '=') {
            sp_provider_attempt *attempt = &answer->attempts[answer->attempt_count++];
            (void)snprintf(attempt->link, sizeof(attempt->link), "%.*s", (int)SP_MIN(link, (size_t)31), text);
            (void)snprintf(status, sizeof(status), "%.*s", (int)SP_MIN(n - link - 1, sizeof(status) - 1), text + link + 1);
            attempt->status = status_named(status);
        }
        text += n;
        text += strspn(text, ", ");
    }
}

void sp_spillway_read_headers(const char *const values[4], sp_provider_answer *ret_answer)
{
    memset(ret_answer, 0, sizeof(*ret_answer));
    (void)snprintf(ret_answer->link, sizeof(ret_answer->link), "%s", values[0]);
    (void)snprintf(ret_answer->device, sizeof(ret_answer->device), "%s", values[1]);
    (void)snprintf(ret_answer->precision, sizeof(ret_answer->precision), "%s", values[2]);
    read_attempts_header(values[3], ret_answer);
}

/* --- problems ----------------------------------------------------------------------------------------------------- */

/* What src/media says of bytes; the same there as here. */
static bool is_of_the_bytes(const char *code)
{
    static const char *const codes[] = { "unknown_format", "bad_header", "corrupt", "truncated", "unsupported_variant", "empty",
                                         "image_side", "image_pixels", "image_block", "image_scans", "image_text" };
    for (size_t i = 0; i < SP_ARRAY_LEN(codes); i++) {
        if (strcmp(codes[i], code) == 0)
            return true;
    }
    return false;
}

/* The meaning of an HTTP status; *ret_code is the word for it when the far side gave none, or one of its own affairs. */
static sp_status meaning_of(int http_status, const char *code, const char **ret_code)
{
    *ret_code = "remote_rejected";
    if (is_of_the_bytes(code) && (http_status == 400 || http_status == 415 || http_status == 413)) {
        *ret_code = code;
        return http_status == 413 ? SP_TOO_LARGE : SP_INVALID;
    }
    switch (http_status) {
    case 401:
    case 403:
        *ret_code = "remote_denied";
        return SP_UNAVAILABLE;
    case 404:
        *ret_code = "remote_no_model";
        return SP_UNSUPPORTED;
    case 408:
    case 504:
        *ret_code = "remote_timeout";
        return SP_TIMEOUT;
    case 422:
        *ret_code = *code ? code : "remote_refused";
        return SP_REFUSED;
    case 429:
        *ret_code = "remote_busy";
        return SP_BUSY;
    case 501:
        return SP_UNSUPPORTED;
    case 508:
        *ret_code = "too_many_hops";
        return SP_UNSUPPORTED;
    default:
        break;
    }
    if (http_status >= 500) {
        *ret_code = strcmp(code, "crashed_model") == 0 ? code : "remote_failed";
        return SP_UNAVAILABLE;
    }
    return SP_UNSUPPORTED; /* other 4xx, and 2xx and 3xx that no Spillway sends */
}

sp_status sp_spillway_read_problem(int http_status, sp_view body, sp_provider_answer *ret_tried, sp_error *reterr)
{
    json_error_t why;
    json_t *root = body.size_bytes ? json_loadb((const char *)body.data, body.size_bytes, 0, &why) : NULL;
    char code[32], words[200];
    const char *name;
    memset(ret_tried, 0, sizeof(*ret_tried));
    copy_text(code, sizeof(code), root, "code");
    copy_text(words, sizeof(words), root, "error");
    if (json_is_object(root))
        read_who(root, ret_tried);
    sp_status s = meaning_of(http_status, code, &name);
    s = SP_FAIL_FROM(reterr, s, "http", http_status, "the remote answered %d%s%s%s%s", http_status, *code ? " " : "", code,
                     *words ? ": " : "", words);
    if (is_of_the_bytes(name) && *words)
        (void)snprintf(reterr->message, sizeof(reterr->message), "%s", words); /* as a local decoder would have said it */
    (void)snprintf(reterr->code, sizeof(reterr->code), "%s", name);
    json_decref(root);
    return s;
}
