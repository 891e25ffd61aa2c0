/* SPDX-License-Identifier: Apache-2.0
 * One request: how it is put to libcurl, what its callbacks let through, and what its end means. */
#include "provider/internal.h"

#include "base/clock.h"
#include "provider/address.h"
#include "provider/curl_rules.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* The first failure stays; what comes after it is skipped. */
#define SET(call, option, value)                                                                             \
    do {                                                                                                     \
        if (!(call)->setup)                                                                                  \
            (call)->setup = SP_CURL_TRY((call)->net, curl_easy_setopt((call)->easy, (option), (value)));     \
    } while (0)

/* --- callbacks ------------------------------------------------------------------------------------------------ */

/* The guard: it sees each address right before the socket to it is made, so there is no time for the name to change
 * its mind, and no spelling of an address that libcurl reads otherwise than we do. */
static curl_socket_t on_open_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)purpose;
    sp_net_call *call = context;
    const char *words = call->request.guarded ? sp_address_refusal(&address->addr) : NULL;
    if (words) {
        call->refused = words;
        return CURL_SOCKET_BAD;
    }
    call->opened = true;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static void keep_header(sp_net_call *call, int index, const char *line, size_t size_bytes)
{
    const char *wanted = call->request.keep_headers[index];
    size_t name = wanted ? strlen(wanted) : 0;
    if (!name || size_bytes <= name || line[name] != ':' || strncasecmp(line, wanted, name) != 0)
        return;
    const char *value = line + name + 1, *end = line + size_bytes;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
        end--;
    size_t room = sizeof(call->kept[index]) - 1;
    (void)snprintf(call->kept[index], room + 1, "%.*s", (int)SP_MIN((size_t)(end - value), room), value);
}

static size_t on_header(char *line, size_t one, size_t size_bytes, void *context)
{
    (void)one; /* libcurl: always 1 */
    sp_net_call *call = context;
    call->header_bytes += size_bytes;
    if (call->header_bytes > SP_LIMIT_RESPONSE_HEADER_BYTES) {
        call->too_large = true;
        return 0;
    }
    if (size_bytes > 5 && strncmp(line, "HTTP/", 5) == 0)
        memset(call->kept, 0, sizeof(call->kept)); /* another answer begins: a 1xx came first */
    for (int i = 0; i < SP_NET_KEPT; i++)
        keep_header(call, i, line, size_bytes);
    return size_bytes;
}

static bool is_redirect(long code)
{
    return code == 301 || code == 302 || code == 303 || code == 307 || code == 308;
}

static void begin_answer(sp_net_call *call)
{
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->code);
    call->answered = true;
    call->into_sink = call->request.sink_fd >= 0 && call->code >= 200 && call->code < 300;
    call->thrown_away = is_redirect(call->code);
    curl_off_t announced = -1;
    (void)curl_easy_getinfo(call->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
    bool counts = call->code >= 200 && call->code < 300 && !call->request.cut_body; /* of an error page the beginning will do */
    call->too_large = counts && announced > 0 && (uint64_t)announced > call->request.body_limit_bytes;
}

static bool write_sink(sp_net_call *call, const char *data, size_t size_bytes)
{
    if (size_bytes > call->request.body_limit_bytes - call->sink_bytes) {
        call->too_large = true;
        return false;
    }
    while (size_bytes) {
        ssize_t n = pwrite(call->request.sink_fd, data, size_bytes, (off_t)call->sink_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            call->write_errno = n < 0 ? errno : ENOSPC;
            return false;
        }
        data += n;
        size_bytes -= (size_t)n;
        call->sink_bytes += (uint64_t)n;
    }
    return true;
}

static size_t on_body(char *data, size_t one, size_t size_bytes, void *context)
{
    (void)one;
    sp_net_call *call = context;
    if (!call->answered)
        begin_answer(call);
    if (call->too_large)
        return 0;
    if (call->thrown_away)
        return size_bytes;
    if (call->into_sink)
        return write_sink(call, data, size_bytes) ? size_bytes : 0;
    size_t room = call->body.limit_bytes - call->body.size_bytes;
    bool cut = call->code >= 300 || call->request.cut_body || call->request.sink_fd >= 0;
    sp_buf_append(&call->body, data, cut ? SP_MIN(size_bytes, room) : size_bytes);
    if (sp_buf_ok(&call->body))
        return size_bytes;
    call->too_large = true; /* or no memory, which looks the same from here and ends the same */
    return 0;
}

static size_t on_read(char *data, size_t one, size_t room_bytes, void *context)
{
    (void)one;
    sp_net_call *call = context;
    const sp_view *body = call->request.body;
    size_t at = call->body_sent, part = at < body[0].size_bytes ? 0 : 1;
    size_t offset = part ? at - body[0].size_bytes : at;
    size_t n = SP_MIN(room_bytes, body[part].size_bytes - offset);
    if (n)
        memcpy(data, body[part].data + offset, n);
    call->body_sent += n;
    return n;
}

/* A kept connection that the server had just closed is found out by sending on it: then libcurl starts over. */
static int on_seek(void *context, curl_off_t offset, int origin)
{
    sp_net_call *call = context;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > call->body_bytes)
        return CURL_SEEKFUNC_CANTSEEK;
    call->body_sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* --- setting up ----------------------------------------------------------------------------------------------- */

/* Scheme, host and port of a URL. SP_INVALID: none that we follow. */
static sp_status read_url(const char *url, char *host, size_t host_bytes, char *port, size_t port_bytes, bool *ret_https,
                          sp_error *reterr)
{
    CURLU *parts = curl_url();
    char *scheme = NULL, *name = NULL, *number = NULL;
    if (!parts)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a URL");
    CURLUcode code = curl_url_set(parts, CURLUPART_URL, url, CURLU_DISALLOW_USER | CURLU_NON_SUPPORT_SCHEME);
    if (!code)
        code = curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0);
    if (!code)
        code = curl_url_get(parts, CURLUPART_HOST, &name, 0);
    if (!code)
        code = curl_url_get(parts, CURLUPART_PORT, &number, CURLU_DEFAULT_PORT);
    sp_status s = SP_OK;
    if (code == CURLUE_USER_NOT_ALLOWED)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "a URL with a user name in it is not taken");
    else if (scheme && strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "a %.16s: URL is not taken; http and https are", scheme);
    else if (code || strlen(name) >= host_bytes || strlen(number) >= port_bytes)
        s = SP_FAIL_CODE(reterr, SP_INVALID, "bad_url", "this is no URL: %s",
                         code ? curl_url_strerror(code) : "its host is too long");
    if (!s) {
        (void)snprintf(host, host_bytes, "%s", name);
        (void)snprintf(port, port_bytes, "%s", number);
        *ret_https = strcmp(scheme, "https") == 0;
    }
    curl_free(scheme);
    curl_free(name);
    curl_free(number);
    curl_url_cleanup(parts);
    return s;
}

static bool add_header(sp_net_call *call, const char *line)
{
    struct curl_slist *longer = sp_net_faulted(call->net) ? NULL : curl_slist_append(call->headers, line);
    if (longer)
        call->headers = longer;
    return longer != NULL;
}

/* A header that would change where the message ends, or whom it is for, is the transport's own business. */
static bool header_is_ours(const char *line, size_t size_bytes)
{
    static const char *const names[] = { "host", "content-length", "transfer-encoding", "connection", "expect", "upgrade" };
    size_t name = 0;
    while (name < size_bytes && line[name] != ':')
        name++;
    for (size_t i = 0; i < SP_ARRAY_LEN(names); i++) {
        if (strlen(names[i]) == name && strncasecmp(line, names[i], name) == 0)
            return true;
    }
    return name == 0 || name == size_bytes;
}

/* "Name: value\n" lines into libcurl's list. */
static sp_status add_headers(sp_net_call *call, const char *lines, bool *ret_has_type, sp_error *reterr)
{
    char line[2048];
    for (const char *at = lines; at && *at;) {
        size_t n = strcspn(at, "\n");
        if (n >= sizeof(line))
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "a header to send is longer than %zu bytes", sizeof(line) - 1);
        for (size_t i = 0; i < n; i++) {
            if ((unsigned char)at[i] < ' ' || at[i] == 0x7f)
                return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "a header to send holds a control character");
        }
        if (n && header_is_ours(at, n))
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "header \"%.*s\" cannot be given: the transport sets it",
                                (int)SP_MIN(strcspn(at, ":\n"), (size_t)40), at);
        (void)snprintf(line, sizeof(line), "%.*s", (int)n, at);
        *ret_has_type = *ret_has_type || strncasecmp(line, "content-type:", 13) == 0;
        if (n && !add_header(call, line))
            return SP_FAIL(reterr, SP_NOMEM, "no memory for headers");
        at += n + (at[n] == '\n');
    }
    return SP_OK;
}

static sp_status add_bearer(sp_net_call *call, const char *bearer, sp_error *reterr)
{
    char line[1024];
    for (const char *at = bearer; *at; at++) {
        if ((unsigned char)*at <= ' ' || *at == 0x7f)
            return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "bad_key", "the key holds a blank or a control character");
    }
    int n = snprintf(line, sizeof(line), "Authorization: Bearer %s", bearer);
    bool added = n > 0 && (size_t)n < sizeof(line) && add_header(call, line);
    OPENSSL_cleanse(line, sizeof(line));
    return added ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for the key");
}

/* S3 wants the body's digest as a header; libcurl signs what it finds. */
static sp_status add_signing(sp_net_call *call, const sp_http_request *request, sp_error *reterr)
{
    char line[24 + 2 * 32], credentials[512];
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int n = snprintf(line, sizeof(line), "x-amz-content-sha256: ");
    bool good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) &&
                EVP_DigestUpdate(context, request->body[0].data, request->body[0].size_bytes) &&
                EVP_DigestUpdate(context, request->body[1].data, request->body[1].size_bytes) &&
                EVP_DigestFinal_ex(context, digest, NULL);
    EVP_MD_CTX_free(context);
    for (int i = 0; i < 32 && good; i++)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", digest[i]);
    int size = snprintf(credentials, sizeof(credentials), "%s:%s", request->sigv4_access_key, request->sigv4_secret_key);
    good = good && size > 0 && (size_t)size < sizeof(credentials) && add_header(call, line);
    SET(call, CURLOPT_AWS_SIGV4, request->sigv4);
    SET(call, CURLOPT_USERPWD, credentials);
    OPENSSL_cleanse(credentials, sizeof(credentials));
    return good ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory to sign a request");
}

static void set_method(sp_net_call *call)
{
    if (call->request.method == SP_HTTP_GET) {
        SET(call, CURLOPT_HTTPGET, 1L);
        return;
    }
    SET(call, CURLOPT_READFUNCTION, on_read);
    SET(call, CURLOPT_READDATA, call);
    SET(call, CURLOPT_SEEKFUNCTION, on_seek);
    SET(call, CURLOPT_SEEKDATA, call);
    if (call->request.method == SP_HTTP_POST) {
        SET(call, CURLOPT_POST, 1L);
        SET(call, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_bytes);
    } else {
        SET(call, CURLOPT_UPLOAD, 1L);
        SET(call, CURLOPT_INFILESIZE_LARGE, (curl_off_t)call->body_bytes);
    }
}

static void set_callbacks(sp_net_call *call)
{
    SET(call, CURLOPT_PRIVATE, (char *)call);
    SET(call, CURLOPT_ERRORBUFFER, call->text);
    SET(call, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    SET(call, CURLOPT_OPENSOCKETDATA, call);
    SET(call, CURLOPT_HEADERFUNCTION, on_header);
    SET(call, CURLOPT_HEADERDATA, call);
    SET(call, CURLOPT_WRITEFUNCTION, on_body);
    SET(call, CURLOPT_WRITEDATA, call);
}

/* How long the next hop may take, of what is left. */
static bool set_time(sp_net_call *call)
{
    int64_t left_ms = (call->request.deadline_ns - sp_clock_now_ns()) / SP_NS_PER_MS;
    int64_t connect_ms = call->request.connect_timeout_ns / SP_NS_PER_MS;
    if (left_ms <= 0)
        return false;
    SET(call, CURLOPT_TIMEOUT_MS, (long)left_ms);
    SET(call, CURLOPT_CONNECTTIMEOUT_MS, (long)(connect_ms > 0 ? SP_MIN(connect_ms, left_ms) : left_ms));
    return true;
}

static sp_status set_up(sp_net_call *call, const sp_http_request *request, sp_error *reterr)
{
    bool has_type = false;
    if (!call->setup)
        call->setup = SP_CURL_TRY(call->net, sp_curl_rules_apply(call->easy, "spillway/" SP_VERSION, !request->insecure_tls,
                                                                 request->ca_file));
    SET(call, CURLOPT_URL, request->url);
    SET(call, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(call, CURLOPT_FOLLOWLOCATION, 0L); /* ours to judge: sp_net_call_ended */
    SET(call, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* one transfer a connection: its limits are its own */
    SET(call, CURLOPT_PROXY, ""); /* behind a proxy the guard would judge the proxy's address */
    /* Do not join a thread that is still waiting for a name server when its transfer is over: that would stop all the
     * others for seconds. It ends by itself. */
    SET(call, CURLOPT_QUICK_EXIT, 1L);
    set_callbacks(call);
    set_method(call);
    sp_status s = add_headers(call, request->headers, &has_type, reterr);
    if (!s && request->bearer)
        s = add_bearer(call, request->bearer, reterr);
    if (!s && request->sigv4)
        s = add_signing(call, request, reterr);
    /* Waiting for a 100 costs a round trip, or a second. An empty header would be signed, though (libcurl 7.88). */
    SET(call, CURLOPT_EXPECT_100_TIMEOUT_MS, 1L);
    if (!s && ((!request->sigv4 && !add_header(call, "Expect:")) ||
               (!has_type && request->method != SP_HTTP_GET && !add_header(call, "Content-Type: application/octet-stream"))))
        s = SP_FAIL(reterr, SP_NOMEM, "no memory for headers");
    SET(call, CURLOPT_HTTPHEADER, call->headers);
    if (!s && !set_time(call))
        s = SP_FAIL_CODE(reterr, SP_TIMEOUT, "timeout", "no time was left to ask %s", call->host);
    if (!s && call->setup)
        s = SP_FAIL_FROM(reterr, SP_NOMEM, "libcurl", (int)call->setup, "a request cannot be set up: %s",
                         curl_easy_strerror(call->setup));
    return s;
}

sp_status sp_net_call_new(sp_net *net, const sp_http_request *request, sp_net_call **ret_call, sp_error *reterr)
{
    sp_net_call *call = calloc(1, sizeof(*call));
    if (!call)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a request");
    call->net = net;
    call->request = *request;
    call->body_bytes = request->body[0].size_bytes + request->body[1].size_bytes;
    sp_buf_init(&call->body, request->sink_fd >= 0 ? SP_NET_ERROR_PAGE_BYTES : (size_t)request->body_limit_bytes);
    sp_status s = read_url(request->url, call->host, sizeof(call->host), call->port, sizeof(call->port), &call->https, reterr);
    if (!s) {
        call->easy = net->idle_count ? net->idle[--net->idle_count] : sp_net_faulted(net) ? NULL : curl_easy_init();
        s = call->easy ? set_up(call, request, reterr) : SP_FAIL(reterr, SP_NOMEM, "libcurl has no memory for a request");
    }
    if (s)
        sp_net_call_free(call);
    else
        *ret_call = call;
    return s;
}

void sp_net_call_free(sp_net_call *call)
{
    if (call->easy && call->net->idle_count < SP_NET_IDLE_HANDLES) {
        curl_easy_reset(call->easy); /* forgets options and secrets, not the memory */
        call->net->idle[call->net->idle_count++] = call->easy;
    } else if (call->easy) {
        curl_easy_cleanup(call->easy);
    }
    for (struct curl_slist *line = call->headers; line; line = line->next)
        OPENSSL_cleanse(line->data, strlen(line->data)); /* one of them may be a key */
    curl_slist_free_all(call->headers);
    sp_buf_done(&call->body);
    free(call);
}

/* --- the end -------------------------------------------------------------------------------------------------- */

static sp_status refuse_redirect(sp_net_call *call, const char *why, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "redirect", "%s answered %ld and %s", call->host, call->code, why);
}

/* Where the answer points to, if that may be followed: then the next hop is set up. */
static sp_status follow(sp_net_call *call, sp_error *reterr)
{
    char *url = NULL, host[256], port[8];
    bool https = false, keeps_body = call->code == 307 || call->code == 308;
    (void)curl_easy_getinfo(call->easy, CURLINFO_REDIRECT_URL, &url);
    if (!url)
        return refuse_redirect(call, "does not say where else to look", reterr);
    if (call->request.method != SP_HTTP_GET && !keeps_body)
        return refuse_redirect(call, "would have the body dropped; only 307 and 308 keep it", reterr);
    if (call->redirects >= call->request.redirects)
        return refuse_redirect(call, call->request.redirects ? "redirected too often" : "redirects, which is not followed", reterr);
    sp_error ignored = { 0 };
    if (read_url(url, host, sizeof(host), port, sizeof(port), &https, &ignored))
        return refuse_redirect(call, "points to no http or https URL", reterr);
    if (strcasecmp(host, call->host) != 0)
        return refuse_redirect(call, "points to another host, which is not followed; use that URL itself", reterr);
    if (call->https && !https)
        return refuse_redirect(call, "points from https to http, which is not followed", reterr);
    call->redirects++;
    call->https = https;
    call->answered = call->opened = false;
    call->header_bytes = call->body_sent = 0;
    call->refused = NULL;
    SET(call, CURLOPT_URL, url);
    if (!set_time(call))
        return SP_FAIL_CODE(reterr, SP_TIMEOUT, "timeout", "%s redirected until no time was left", call->host);
    if (call->setup)
        return SP_FAIL_FROM(reterr, SP_NOMEM, "libcurl", (int)call->setup, "a redirect cannot be set up");
    return SP_OK;
}

/* What libcurl said, as ours. */
static sp_status translate(sp_net_call *call, CURLcode code, sp_error *reterr)
{
    const char *words = *call->text ? call->text : curl_easy_strerror(code), *host = call->host;
    curl_off_t connected_us = 0;
    sp_status s = SP_UNAVAILABLE;
    const char *name = "broken_answer";
    if (call->too_large)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "answer_too_large", "the answer of %s is larger than the %llu bytes it may have",
                            host, (unsigned long long)call->request.body_limit_bytes);
    if (call->write_errno) {
        errno = call->write_errno;
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "no room for the answer of %s", host);
    }
    if (call->refused && !call->opened)
        return SP_FAIL_CODE(reterr, SP_DENIED, "private_address", "%s leads to an address of the kind \"%s\"; URLs of requests "
                            "may only lead to public ones", host, call->refused);
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        (void)curl_easy_getinfo(call->easy, CURLINFO_PRETRANSFER_TIME_T, &connected_us);
        if (!connected_us && sp_clock_now_ns() < call->request.deadline_ns - SP_NS_PER_MS)
            return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "connect_timeout", "no connection to %s port %s in %lld ms", host,
                                call->port, (long long)(call->request.connect_timeout_ns / SP_NS_PER_MS));
        return SP_FAIL_CODE(reterr, SP_TIMEOUT, "timeout", "%s did not answer in time", host);
    case CURLE_COULDNT_RESOLVE_HOST:
        name = "unknown_host";
        break;
    case CURLE_COULDNT_CONNECT:
        name = "connect_failed";
        break;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        name = "tls_failed";
        break;
    case CURLE_OUT_OF_MEMORY:
        s = SP_NOMEM;
        name = "";
        break;
    default:
        break;
    }
    s = SP_FAIL_FROM(reterr, s, "libcurl", (int)code, "%s: %s", host, words);
    (void)snprintf(reterr->code, sizeof(reterr->code), "%s", name);
    return s;
}

bool sp_net_call_ended(sp_net_call *call, CURLcode code, sp_http_result *ret_result)
{
    curl_off_t retry_after_s = 0;
    const char *type = NULL;
    if (!code && !call->answered)
        begin_answer(call); /* no body came */
    if (!code && is_redirect(call->code)) {
        sp_status s = follow(call, &ret_result->error);
        if (!s)
            return true;
        ret_result->status = s;
    } else if (code) {
        ret_result->status = translate(call, code, &ret_result->error);
    }
    (void)curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &retry_after_s);
    (void)curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
    ret_result->http_status = (int)call->code;
    ret_result->body = sp_buf_view(&call->body);
    ret_result->sink_bytes = call->sink_bytes;
    ret_result->retry_after_ns = SP_CLAMP(retry_after_s, 0, SP_LIMIT_RETRY_AFTER_S) * SP_NS_PER_S;
    if (type)
        (void)snprintf(ret_result->content_type, sizeof(ret_result->content_type), "%s", type);
    memcpy(ret_result->kept, call->kept, sizeof(ret_result->kept));
    return false;
}
