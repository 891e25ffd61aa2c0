/* SPDX-License-Identifier: Apache-2.0
 * HTTP/1.1 for the load generator: request bytes out, answers in. */
#include "cli/bench_http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BOUNDARY "spillway-bench-7f3a9c51d2e84b60"

sp_status sp_bench_url_parse(const char *text, sp_bench_url *ret_url, sp_error *reterr)
{
    static const char scheme[] = "http://";
    sp_bench_url url = { .port = "80", .target = "/" };

    if (strncasecmp(text, scheme, sizeof scheme - 1) != 0)
        return SP_FAIL(reterr, SP_INVALID, "'%s' does not begin with http:// (other schemes are not measured)", text);
    const char *host = text + sizeof scheme - 1;
    const char *end = host + strcspn(host, "/?#");
    const char *host_end = host, *port = NULL;
    if (*host == '[') {
        host++;
        host_end = memchr(host, ']', (size_t)(end - host));
        if (!host_end)
            return SP_FAIL(reterr, SP_INVALID, "'%s': the address has no closing ']'", text);
        if (host_end[1] == ':')
            port = host_end + 2;
    } else {
        host_end = memchr(host, ':', (size_t)(end - host));
        if (host_end)
            port = host_end + 1;
        else
            host_end = end;
    }
    size_t host_bytes = (size_t)(host_end - host);
    if (host_bytes == 0 || host_bytes >= sizeof url.host)
        return SP_FAIL(reterr, SP_INVALID, "'%s' names no host, or one that is too long", text);
    memcpy(url.host, host, host_bytes);
    if (port) {
        size_t port_bytes = (size_t)(end - port);
        if (port_bytes == 0 || port_bytes > 5 || strspn(port, "0123456789") < port_bytes)
            return SP_FAIL(reterr, SP_INVALID, "'%s': the port is no number", text);
        memcpy(url.port, port, port_bytes);
        url.port[port_bytes] = 0;
    }
    size_t target_bytes = strcspn(end, "#");
    if (target_bytes + 2 > sizeof url.target)
        return SP_FAIL(reterr, SP_INVALID, "the path is longer than %zu bytes", sizeof url.target - 2);
    if (target_bytes)
        (void)snprintf(url.target, sizeof url.target, "%s%.*s", *end == '?' ? "/" : "", (int)target_bytes, end);
    *ret_url = url;
    return SP_OK;
}

sp_status sp_bench_request_build(const sp_bench_request_params *params, sp_buf *ret_bytes, sp_error *reterr)
{
    static const char part_end[] = "\r\n--" BOUNDARY "--\r\n";
    const char *type = params->content_type ? params->content_type : "application/octet-stream";
    char part_head[1024] = "";
    size_t part_head_bytes = 0, body_bytes = params->body.size_bytes;

    if (params->has_body && params->multipart_field) {
        int n = snprintf(part_head, sizeof part_head,
                         "--" BOUNDARY "\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\n"
                         "Content-Type: %s\r\n\r\n",
                         params->multipart_field, params->file_name ? params->file_name : "file", type);
        if (n < 0 || (size_t)n >= sizeof part_head)
            return SP_FAIL(reterr, SP_INVALID, "field name, file name and content type are too long together");
        part_head_bytes = (size_t)n;
        body_bytes += part_head_bytes + sizeof part_end - 1;
    }
    bool v6 = strchr(params->url->host, ':') != NULL;
    sp_buf_printf(ret_bytes, "%s %s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: spillway-bench\r\nAccept: */*\r\n",
                  params->method, params->url->target, v6 ? "[" : "", params->url->host, v6 ? "]" : "",
                  params->url->port);
    if (!params->keep_alive)
        sp_buf_append_text(ret_bytes, "Connection: close\r\n");
    for (int i = 0; i < params->header_count; i++)
        sp_buf_printf(ret_bytes, "%s\r\n", params->headers[i]);
    if (params->has_body) {
        if (params->multipart_field)
            sp_buf_append_text(ret_bytes, "Content-Type: multipart/form-data; boundary=" BOUNDARY "\r\n");
        else
            sp_buf_printf(ret_bytes, "Content-Type: %s\r\n", type);
        sp_buf_printf(ret_bytes, "Content-Length: %zu\r\n", body_bytes);
    }
    sp_buf_append_text(ret_bytes, "\r\n");
    if (params->has_body) {
        sp_buf_append(ret_bytes, part_head, part_head_bytes);
        sp_buf_append(ret_bytes, params->body.data, params->body.size_bytes);
        if (params->multipart_field)
            sp_buf_append(ret_bytes, part_end, sizeof part_end - 1);
    }
    if (!sp_buf_ok(ret_bytes))
        return SP_FAIL(reterr, SP_NOMEM, "the request of %zu bytes did not fit", body_bytes);
    return SP_OK;
}

void sp_bench_answer_reset(sp_bench_answer *answer)
{
    answer->phase = SP_BENCH_HEAD;
    answer->status = 0;
    answer->close = false;
    answer->remaining = 0;
    answer->line_bytes = 0;
    answer->head_bytes = 0;
    answer->kept_bytes = 0;
}

static bool value_has(const char *value, size_t value_bytes, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= value_bytes; i++)
        if (strncasecmp(value + i, word, n) == 0)
            return true;
    return false;
}

/* The head is complete (it ends in an empty line): status, and how the body is delimited. */
static sp_bench_phase head_parse(sp_bench_answer *answer)
{
    const char *at = answer->head, *end = answer->head + answer->head_bytes;
    bool chunked = false, has_length = false;

    if (answer->head_bytes < 12 || strncmp(at, "HTTP/1.", 7) != 0)
        return SP_BENCH_BAD;
    answer->close = at[7] == '0';
    answer->status = 0;
    for (int i = 9; i < 12; i++) {
        if (at[i] < '0' || at[i] > '9')
            return SP_BENCH_BAD;
        answer->status = answer->status * 10 + (at[i] - '0');
    }
    while ((at = memchr(at, '\n', (size_t)(end - at))) && ++at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t line_bytes = line_end ? (size_t)(line_end - at) : (size_t)(end - at);
        if (line_bytes > 15 && strncasecmp(at, "content-length:", 15) == 0) {
            char number[24] = "";
            memcpy(number, at + 15, SP_MIN(line_bytes - 15, sizeof number - 1));
            answer->remaining = strtoull(number, NULL, 10);
            has_length = true;
        } else if (line_bytes > 18 && strncasecmp(at, "transfer-encoding:", 18) == 0) {
            chunked = value_has(at + 18, line_bytes - 18, "chunked");
        } else if (line_bytes > 11 && strncasecmp(at, "connection:", 11) == 0) {
            if (value_has(at + 11, line_bytes - 11, "close"))
                answer->close = true;
            else if (value_has(at + 11, line_bytes - 11, "keep-alive"))
                answer->close = false;
        }
    }
    if (answer->status < 200) { /* 100 Continue and its kin: the real one follows */
        answer->head_bytes = 0;
        return SP_BENCH_HEAD;
    }
    if (answer->no_body || answer->status == 204 || answer->status == 304)
        return SP_BENCH_DONE;
    if (chunked) {
        answer->remaining = 0;
        return SP_BENCH_CHUNK_SIZE;
    }
    if (has_length)
        return answer->remaining ? SP_BENCH_BODY_LENGTH : SP_BENCH_DONE;
    answer->close = true;
    return SP_BENCH_BODY_CLOSE;
}

static size_t head_feed(sp_bench_answer *answer, const uint8_t *data, size_t size_bytes)
{
    size_t old = answer->head_bytes;
    size_t take = SP_MIN(size_bytes, sizeof answer->head - old);

    memcpy(answer->head + old, data, take);
    size_t from = old > 3 ? old - 3 : 0;
    const char *end = memmem(answer->head + from, old + take - from, "\r\n\r\n", 4);
    if (!end) {
        answer->head_bytes = old + take;
        if (answer->head_bytes == sizeof answer->head)
            answer->phase = SP_BENCH_BAD;
        return take;
    }
    answer->head_bytes = (size_t)(end - answer->head) + 4;
    size_t used = answer->head_bytes - old;
    answer->phase = head_parse(answer);
    return used;
}

static void keep(sp_bench_answer *answer, const uint8_t *data, size_t size_bytes)
{
    size_t room = answer->keep_limit - answer->kept_bytes;
    size_t take = SP_MIN(size_bytes, room);
    if (take) {
        memcpy(answer->kept + answer->kept_bytes, data, take);
        answer->kept_bytes += take;
    }
}

/* One byte of a chunk-size line, of the CRLF behind a chunk, or of the trailer. */
static void chunk_frame_byte(sp_bench_answer *answer, uint8_t byte)
{
    switch (answer->phase) {
    case SP_BENCH_CHUNK_SIZE:
        if (byte == '\n') {
            answer->phase = answer->remaining ? SP_BENCH_CHUNK_DATA : SP_BENCH_TRAILER;
            answer->line_bytes = 0;
            return;
        }
        if (byte == ';' || byte == '\r' || answer->line_bytes > 16) { /* extensions are skipped to the line's end */
            answer->line_bytes = 17;
            return;
        }
        answer->line_bytes++;
        if (byte >= '0' && byte <= '9')
            answer->remaining = answer->remaining * 16 + (uint64_t)(byte - '0');
        else if ((byte | 32) >= 'a' && (byte | 32) <= 'f')
            answer->remaining = answer->remaining * 16 + (uint64_t)((byte | 32) - 'a' + 10);
        else
            answer->phase = SP_BENCH_BAD;
        return;
    case SP_BENCH_CHUNK_END:
        if (byte == '\n') {
            answer->phase = SP_BENCH_CHUNK_SIZE;
            answer->remaining = 0;
            answer->line_bytes = 0;
        }
        return;
    default: /* trailer: ends with an empty line */
        if (byte == '\n') {
            if (!answer->line_bytes)
                answer->phase = SP_BENCH_DONE;
            answer->line_bytes = 0;
        } else if (byte != '\r') {
            answer->line_bytes++;
        }
    }
}

size_t sp_bench_answer_feed(sp_bench_answer *answer, const uint8_t *data, size_t size_bytes)
{
    size_t at = 0;

    while (at < size_bytes) {
        size_t take;
        switch (answer->phase) {
        case SP_BENCH_HEAD:
            at += head_feed(answer, data + at, size_bytes - at);
            break;
        case SP_BENCH_BODY_LENGTH:
        case SP_BENCH_CHUNK_DATA:
            take = SP_MIN(size_bytes - at, answer->remaining);
            keep(answer, data + at, take);
            at += take;
            answer->remaining -= take;
            if (!answer->remaining)
                answer->phase = answer->phase == SP_BENCH_CHUNK_DATA ? SP_BENCH_CHUNK_END : SP_BENCH_DONE;
            break;
        case SP_BENCH_BODY_CLOSE:
            keep(answer, data + at, size_bytes - at);
            return size_bytes;
        case SP_BENCH_DONE:
        case SP_BENCH_BAD:
            return at;
        default:
            chunk_frame_byte(answer, data[at++]);
        }
    }
    return at;
}

bool sp_bench_answer_closed(sp_bench_answer *answer)
{
    if (answer->phase == SP_BENCH_BODY_CLOSE)
        answer->phase = SP_BENCH_DONE;
    return answer->phase == SP_BENCH_DONE;
}

bool sp_bench_answer_label(sp_view body, char *ret_label, size_t label_size)
{
    static const char key[] = "\"label\"";
    const uint8_t *end = body.data + body.size_bytes;
    const uint8_t *at = memmem(body.data, body.size_bytes, key, sizeof key - 1);

    if (!at)
        return false;
    at += sizeof key - 1;
    while (at < end && (*at == ' ' || *at == ':'))
        at++;
    if (at == end || *at++ != '"')
        return false;
    size_t n = 0;
    for (; at < end && *at != '"'; at++) {
        if (*at == '\\' && at + 1 < end)
            at++; /* \" \\ \/ : labels hold no other escapes */
        if (n + 1 < label_size)
            ret_label[n++] = (char)*at;
    }
    ret_label[n] = 0;
    return at < end;
}
