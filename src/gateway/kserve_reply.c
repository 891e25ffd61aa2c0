/* SPDX-License-Identifier: Apache-2.0
 * KServe V2: the reply of one inference.
 *
 *   JSON head | tensors in order        any output is binary: octets, with Inference-Header-Content-Length
 *   JSON                                none is
 *
 * Small ones become one buffer. Of large ones only the text is made; the tensors, and the JSON arrays that the worker wrote, are
 * sent from where they lie in its memory. Compressing is the store thread's. */
#include "gateway/kserve.h"

#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#define PIECES (2 * SP_INFER_PORTS + 2)
#define COMPRESS_QUEUE SP_LIMIT_SLOTS

/* What the reply is made of, in order: text of `head` up to `text_end`, then `data`. */
typedef struct piece {
    size_t text_end;
    sp_view data;
} piece;
typedef struct layout {
    sp_buf head;
    piece pieces[PIECES];
    int count;
    size_t data_bytes, header_bytes; /* header_bytes: text and arrays; 0 = no output is binary */
} layout;

/* --- the text ------------------------------------------------------------------------------------------------------------ */

static void number_append(sp_buf *out, uint64_t number)
{
    char text[20];
    size_t at = sizeof(text);
    do {
        text[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    sp_buf_append(out, text + at, sizeof(text) - at);
}

static void output_write(layout *l, const sp_call_output *out, bool first, bool *binary)
{
    sp_buf *head = &l->head;
    sp_buf_append_text(head, first ? "{\"name\":" : ",{\"name\":");
    sp_buf_append_json_text(head, out->name);
    sp_buf_append_text(head, ",\"datatype\":\"");
    sp_buf_append_text(head, sp_dtype_kserve(out->dtype) ? sp_dtype_kserve(out->dtype) : "INVALID");
    sp_buf_append_text(head, "\",\"shape\":[");
    for (int i = 0; i < out->rank; i++) {
        if (i)
            sp_buf_append_text(head, ",");
        number_append(head, (uint64_t)SP_MAX(out->dims[i], (int64_t)0));
    }
    if (out->shared) { /* Triton's C++ client takes any "parameters" here for those of a binary output */
        sp_buf_append_text(head, "]}");
    } else if (out->json) {
        sp_buf_append_text(head, "],\"data\":");
        l->pieces[l->count++] = (piece){ head->size_bytes, out->data };
        l->data_bytes += out->data.size_bytes;
        sp_buf_append_text(head, "}");
    } else {
        sp_buf_append_text(head, "],\"parameters\":{\"binary_data_size\":");
        number_append(head, out->data.size_bytes);
        sp_buf_append_text(head, "}}");
        *binary = true;
    }
}

static void layout_make(layout *l, const sp_call_result *result)
{
    bool binary = false;
    l->count = 0;
    l->data_bytes = l->header_bytes = 0;
    sp_buf_init(&l->head, SP_LIMIT_JSON_BYTES);
    sp_buf_append_text(&l->head, "{");
    if (*result->id) {
        sp_buf_append_text(&l->head, "\"id\":");
        sp_buf_append_json_text(&l->head, result->id);
        sp_buf_append_text(&l->head, ",");
    }
    sp_buf_append_text(&l->head, "\"model_name\":");
    sp_buf_append_json_text(&l->head, result->model);
    sp_buf_append_text(&l->head, ",\"model_version\":\"");
    sp_buf_append_text(&l->head, result->version);
    sp_buf_append_text(&l->head, "\",\"outputs\":[");
    for (int i = 0; i < result->output_count; i++)
        output_write(l, &result->outputs[i], i == 0, &binary);
    sp_buf_append_text(&l->head, "]}");
    if (!binary)
        return;
    l->header_bytes = l->head.size_bytes + l->data_bytes;
    for (int i = 0; i < result->output_count; i++) {
        const sp_call_output *out = &result->outputs[i];
        if (out->shared || out->json || !out->data.size_bytes)
            continue;
        l->pieces[l->count++] = (piece){ l->head.size_bytes, out->data };
        l->data_bytes += out->data.size_bytes;
    }
}

/* All of it in one piece. NULL: no memory. */
static uint8_t *flatten(const layout *l, size_t *ret_bytes)
{
    size_t total = l->head.size_bytes + l->data_bytes, at = 0, text = 0;
    uint8_t *bytes = sp_buf_ok(&l->head) ? malloc(total) : NULL;
    if (!bytes)
        return NULL;
    for (int i = 0; i <= l->count; i++) {
        size_t text_end = i < l->count ? l->pieces[i].text_end : l->head.size_bytes;
        memcpy(bytes + at, l->head.data + text, text_end - text);
        at += text_end - text;
        text = text_end;
        if (i < l->count) {
            memcpy(bytes + at, l->pieces[i].data.data, l->pieces[i].data.size_bytes);
            at += l->pieces[i].data.size_bytes;
        }
    }
    *ret_bytes = total;
    return bytes;
}

static const char *media_type(size_t header_bytes)
{
    return header_bytes ? "application/octet-stream" : "application/json";
}

static void headers_add(gw_conn *conn, size_t header_bytes, bool cached)
{
    char number[24];
    if (header_bytes) {
        (void)snprintf(number, sizeof(number), "%zu", header_bytes);
        gw_reply_header(conn, "Inference-Header-Content-Length", number);
    }
    if (cached)
        gw_reply_header(conn, "X-Spillway-Cache", "hit");
}

static void no_memory(gw_conn *conn)
{
    sp_error err = { 0 };
    (void)SP_FAIL(&err, SP_NOMEM, "no memory for the reply");
    gw_reply_problem(conn, 503, &err, 1, NULL);
}

/* --- large: out of the slot ------------------------------------------------------------------------------------------------ */

typedef struct held {
    gw_kserve *kserve;
    sp_call *call;
    sp_buf head;
} held;

static void held_release(void *context)
{
    held *h = context;
    h->kserve->held--;
    sp_call_close(h->call);
    sp_buf_done(&h->head);
    free(h);
}

/* Takes the call and the text. False: no memory. */
static bool reply_held(gw_conn *conn, sp_call *call, layout *l, bool cached, const gw_who *who)
{
    struct MHD_IoVec parts[2 * PIECES + 1];
    unsigned count = 0;
    size_t text = 0;
    held *h = sp_buf_ok(&l->head) ? malloc(sizeof(*h)) : NULL;
    if (!h)
        return false;
    *h = (held){ .kserve = conn->server->kserve, .call = call, .head = l->head };
    for (int i = 0; i <= l->count; i++) {
        size_t text_end = i < l->count ? l->pieces[i].text_end : l->head.size_bytes;
        if (text_end > text)
            parts[count++] = (struct MHD_IoVec){ l->head.data + text, text_end - text };
        text = text_end;
        if (i < l->count && l->pieces[i].data.size_bytes)
            parts[count++] = (struct MHD_IoVec){ l->pieces[i].data.data, l->pieces[i].data.size_bytes };
    }
    sp_call_keep(call);
    h->kserve->held++;
    gw_reply_pieces(conn, 200, media_type(l->header_bytes), parts, count, held_release, h, who);
    headers_add(conn, l->header_bytes, cached);
    return true;
}

/* --- compressed ------------------------------------------------------------------------------------------------------------ */

typedef struct squeeze {
    sp_store_work work; /* first */
    gw_conn *conn;      /* NULL = gone */
    sp_encoding encoding;
    uint8_t *plain, *packed;
    size_t plain_bytes, packed_bytes, header_bytes;
    bool cached, has_who;
    gw_who who; /* its texts: */
    char link[32], device[32], precision[16], reason[96];
    sp_attempt attempts[SP_LIMIT_ATTEMPTS];
} squeeze;

gw_kserve_accept gw_kserve_accept_read(const char *header)
{
    gw_kserve_accept accept = { SP_ENCODING_NONE, false };
    if (!header)
        return accept;
    if (strstr(header, "gzip") && !strstr(header, "gzip;q=0"))
        accept.encoding = SP_ENCODING_GZIP;
    else if (strstr(header, "deflate") && !strstr(header, "deflate;q=0"))
        accept.encoding = SP_ENCODING_DEFLATE;
    accept.only_text = strchr(header, ',') != NULL;
    return accept;
}

static void squeeze_free(squeeze *q)
{
    free(q->plain);
    free(q->packed);
    free(q);
}

static void squeeze_run(sp_store_work *work)
{
    squeeze *q = (squeeze *)work;
    z_stream z = { 0 };
    int bits = q->encoding == SP_ENCODING_GZIP ? 15 + 16 : 15; /* "deflate" means zlib's form */
    if (deflateInit2(&z, 1, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return; /* it goes out as it is */
    size_t bound = deflateBound(&z, q->plain_bytes);
    q->packed = malloc(bound);
    if (q->packed) {
        z.next_in = q->plain;
        z.avail_in = (uInt)q->plain_bytes;
        z.next_out = q->packed;
        z.avail_out = (uInt)bound;
        if (deflate(&z, Z_FINISH) == Z_STREAM_END)
            q->packed_bytes = z.total_out;
    }
    (void)deflateEnd(&z);
}

static void squeeze_reply(squeeze *q)
{
    gw_conn *conn = q->conn;
    bool packed = q->packed_bytes > 0;
    gw_reply(conn, 200, media_type(q->header_bytes), packed ? SP_STEAL(q->packed) : SP_STEAL(q->plain),
             packed ? q->packed_bytes : q->plain_bytes, GW_TAKE, q->has_who ? &q->who : NULL);
    headers_add(conn, q->header_bytes, q->cached);
    if (packed)
        gw_reply_header(conn, "Content-Encoding", q->encoding == SP_ENCODING_GZIP ? "gzip" : "deflate");
}

static void squeeze_done(sp_store_work *work)
{
    squeeze *q = (squeeze *)work;
    gw_conn *conn = q->conn;
    if (conn) {
        conn->drop = NULL;
        conn->state = NULL;
        squeeze_reply(q);
        gw_conn_answered(conn);
    }
    squeeze_free(q);
}

static void squeeze_drop(gw_conn *conn)
{
    ((squeeze *)conn->state)->conn = NULL;
}

static void who_copy(squeeze *q, const gw_who *who)
{
    (void)snprintf(q->link, sizeof(q->link), "%s", who->link);
    (void)snprintf(q->device, sizeof(q->device), "%s", who->device);
    (void)snprintf(q->precision, sizeof(q->precision), "%s", who->precision);
    (void)snprintf(q->reason, sizeof(q->reason), "%s", who->reason ? who->reason : "");
    q->who = (gw_who){ .link = q->link, .device = q->device, .precision = q->precision, .reason = q->reason, .attempts = q->attempts };
    q->who.attempt_count = SP_MIN(who->attempt_count, SP_LIMIT_ATTEMPTS);
    memcpy(q->attempts, who->attempts, (size_t)q->who.attempt_count * sizeof(q->attempts[0]));
    q->has_who = true;
}

/* False: it cannot be compressed now, and goes out as it is. */
static bool squeeze_begin(gw_conn *conn, const layout *l, sp_encoding encoding, bool cached, const gw_who *who)
{
    gw_kserve *kserve = conn->server->kserve;
    if (!kserve->store && sp_store_thread_new(conn->server->loop, "compress", COMPRESS_QUEUE, NULL, NULL, &kserve->store, NULL))
        return false;
    squeeze *q = calloc(1, sizeof(*q));
    if (!q)
        return false;
    q->work = (sp_store_work){ .run = squeeze_run, .done = squeeze_done };
    q->conn = conn;
    q->encoding = encoding;
    q->header_bytes = l->header_bytes;
    q->cached = cached;
    if (who)
        who_copy(q, who);
    q->plain = flatten(l, &q->plain_bytes);
    if (!q->plain || sp_store_submit(kserve->store, &q->work, NULL)) {
        squeeze_free(q);
        return false;
    }
    conn->state = q;
    conn->drop = squeeze_drop;
    return true;
}

/* ------------------------------------------------------------------------------------------------------------------------------ */

bool gw_kserve_reply(gw_conn *conn, sp_call *call, const sp_call_result *result, gw_kserve_accept accept)
{
    static layout l; /* the loop's thread only */
    gw_who named;
    const gw_who *who = NULL;
    if (result->answer) {
        named = gw_who_of(result->answer);
        who = &named;
    }
    layout_make(&l, result);
    size_t total = l.head.size_bytes + l.data_bytes, bytes = 0;
    bool squeezed = accept.encoding && total >= GW_KSERVE_COMPRESS_BYTES && !(accept.only_text && l.header_bytes);
    if (squeezed && squeeze_begin(conn, &l, accept.encoding, result->cached, who)) {
        sp_buf_done(&l.head);
        sp_call_close(call);
        return false;
    }
    if (l.data_bytes > GW_KSERVE_COPY_BYTES && conn->server->kserve->held < GW_KSERVE_HELD &&
        reply_held(conn, call, &l, result->cached, who))
        return true;
    uint8_t *flat = flatten(&l, &bytes);
    if (flat) {
        gw_reply(conn, 200, media_type(l.header_bytes), flat, bytes, GW_TAKE, who);
        headers_add(conn, l.header_bytes, result->cached);
    } else {
        no_memory(conn);
    }
    sp_buf_done(&l.head);
    sp_call_close(call);
    return true;
}
