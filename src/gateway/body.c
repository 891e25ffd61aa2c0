/* SPDX-License-Identifier: Apache-2.0
 * Small bodies that a handler wants whole: collected in conn->body, JSON by their media type. */
#include "gateway/server.h"

#include <strings.h>

bool gw_media_is(const char *type, const char *name)
{
    size_t n = strlen(name);
    return strncasecmp(type, name, n) == 0 && (name[n - 1] == '/' || type[n] == 0 || type[n] == ';' || type[n] == ' ');
}

/* The type is demanded not for its own sake: a page of another site cannot send it without being asked first. */
void gw_body_begin(gw_conn *conn)
{
    const gw_headers *h = &conn->headers;
    sp_error err = { 0 };
    if (!h->content_type || !gw_media_is(h->content_type, "application/json")) {
        (void)SP_FAIL_CODE(&err, SP_INVALID, "media_type",
                           "%s %s takes JSON: send it with Content-Type: application/json", conn->route->method,
                           conn->route->path);
        gw_conn_fail(conn, 415, &err, 0);
    } else if (!h->chunked && !h->has_length) {
        (void)SP_FAIL_CODE(&err, SP_INVALID, "no_length", "send a Content-Length or a chunked body");
        gw_conn_fail(conn, 411, &err, 0);
    } else if (h->has_length && h->content_length > GW_JSON_BYTES) {
        (void)SP_FAIL_CODE(&err, SP_TOO_LARGE, "body_too_large", "the body has %llu bytes, the limit is %u",
                           (unsigned long long)h->content_length, GW_JSON_BYTES);
        gw_conn_fail(conn, 413, &err, 0);
    } else {
        sp_buf_done(&conn->body);
        sp_buf_init(&conn->body, GW_JSON_BYTES);
        gw_conn_enter(conn, GW_BODY);
    }
}

void gw_body_append(gw_conn *conn, const void *data, size_t size_bytes)
{
    sp_error err = { 0 };
    bool fits = size_bytes <= GW_JSON_BYTES - conn->body.size_bytes;
    sp_buf_append(&conn->body, data, size_bytes);
    if (sp_buf_ok(&conn->body))
        return;
    if (fits)
        (void)SP_FAIL(&err, SP_NOMEM, "no memory for the body");
    else
        (void)SP_FAIL_CODE(&err, SP_TOO_LARGE, "body_too_large", "the body is larger than %u bytes", GW_JSON_BYTES);
    gw_conn_fail(conn, gw_http_status(err.status, &err), &err, fits ? 1 : 0);
}
