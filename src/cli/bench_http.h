/* SPDX-License-Identifier: Apache-2.0
 * The load generator's HTTP/1.1: builds one request as contiguous bytes and reads answers piece by piece. It knows as
 * much of the protocol as measuring needs (status, length, chunks, keep-alive); it is no general client. */
#ifndef SP_CLI_BENCH_HTTP_H
#define SP_CLI_BENCH_HTTP_H

#include "base/buf.h"
#include "base/status.h"

#define SP_BENCH_HEAD_BYTES (16u * 1024)  /* of one answer; longer is counted as a protocol error */
#define SP_BENCH_KEPT_BYTES (64u * 1024)  /* of an answer's body, where it must be looked at */
#define SP_BENCH_HEADERS 32               /* --header options */
#define SP_BENCH_BODY_BYTES (256u * 1024 * 1024) /* of one request */

typedef struct sp_bench_url {
    char host[256];
    char port[8];
    char target[2048]; /* path and query */
} sp_bench_url;

/* SP_INVALID unless it is http://host[:port][/path][?query]; [v6] hosts are taken. */
sp_status sp_bench_url_parse(const char *text, sp_bench_url *ret_url, sp_error *reterr);

typedef struct sp_bench_request_params {
    const sp_bench_url *url;
    const char *method;
    sp_view body;            /* empty = none */
    bool has_body;
    const char *multipart_field; /* NULL = raw body */
    const char *file_name;       /* of the multipart part */
    const char *content_type;    /* of the raw body or of the part; NULL = application/octet-stream */
    const char *const *headers;  /* "Name: value" */
    int header_count;
    bool keep_alive;
} sp_bench_request_params;

/* The whole request as it goes over the wire, into *ret_bytes (an initialised sp_buf with room enough). */
sp_status sp_bench_request_build(const sp_bench_request_params *params, sp_buf *ret_bytes, sp_error *reterr);

/* The same with a file as its body (as a form's field when multipart_field is set); initialises *ret_request. SP_NOT_FOUND,
 * SP_INVALID: it cannot be read, or is too large. */
sp_status sp_bench_file_request(const sp_bench_request_params *like, const char *file, sp_buf *ret_request, sp_error *reterr);

typedef enum sp_bench_phase {
    SP_BENCH_HEAD,
    SP_BENCH_BODY_LENGTH,
    SP_BENCH_BODY_CLOSE,
    SP_BENCH_CHUNK_SIZE,
    SP_BENCH_CHUNK_DATA,
    SP_BENCH_CHUNK_END,
    SP_BENCH_TRAILER,
    SP_BENCH_DONE,
    SP_BENCH_BAD
} sp_bench_phase;

typedef struct sp_bench_answer {
    sp_bench_phase phase;
    int status;
    bool close;            /* the server will close after this answer */
    bool no_body;          /* set by the caller: the request was HEAD */
    uint64_t remaining;    /* of the body or the chunk */
    uint64_t line_bytes;   /* of the chunk-size or trailer line being read */
    size_t head_bytes;
    size_t kept_bytes;
    size_t keep_limit;     /* 0 = throw the body away */
    char head[SP_BENCH_HEAD_BYTES];
    uint8_t *kept;         /* keep_limit bytes, the caller's; NULL when keep_limit is 0 */
} sp_bench_answer;

/* Ready for the next answer; keep_limit, kept and no_body stay. */
void sp_bench_answer_reset(sp_bench_answer *answer);

/* Reads on; returns how many bytes belonged to this answer. Look at answer->phase: DONE, BAD, or give more. */
size_t sp_bench_answer_feed(sp_bench_answer *answer, const uint8_t *data, size_t size_bytes);

/* The peer closed: true when that ends the answer rightly (a body without a length). */
bool sp_bench_answer_closed(sp_bench_answer *answer);

/* The first "label" string in a JSON answer, unescaped into *ret_label (cut to its size); false when there is none. */
bool sp_bench_answer_label(sp_view body, char *ret_label, size_t label_size);

#endif
