/* SPDX-License-Identifier: Apache-2.0
 * HTTP requests to the outside, many at once on one thread: the interface of libspillway_net.so, which net workers
 * dlopen (provider/load.h). It knows no task and no slot; what is asked and what an answer means is its caller's
 * business (provider/spillway.h, provider/kserve.h, worker/net.c).
 *
 *   open ── start ── start ── start ──┐
 *     drive ── drive ── drive ── ...  │   each start ends in exactly one done(), from inside a drive, or in a cancel
 *   close                            <┘
 *
 * Connections are kept and used again. TLS certificates are verified unless told otherwise. Redirects are followed only
 * to the same host, never from https to http, at most `redirects` of them, and each goes through the same checks. Bodies
 * are never decompressed. A proxy named in the environment is not used. No error text holds a header, a query or a key.
 *
 * One thread. */
#ifndef SP_PROVIDER_TRANSPORT_H
#define SP_PROVIDER_TRANSPORT_H

#include "base/status.h"
#include "base/view.h"

#define SP_NET_ABI 1u
#define SP_NET_FILE "libspillway_net.so"
#define SP_NET_SYMBOL "sp_net_api_get"

/* Of one answer's headers together. Ordinary servers send under 4 KiB; cookies, which we do not keep, make the rest. */
#define SP_LIMIT_RESPONSE_HEADER_BYTES (64u * 1024)

/* A pause longer than this that a server asks for is cut to it. */
#define SP_LIMIT_RETRY_AFTER_S 86400

#define SP_NET_KEPT 4

typedef struct sp_net sp_net;
typedef struct sp_net_call sp_net_call;

typedef enum sp_http_method { SP_HTTP_GET, SP_HTTP_POST, SP_HTTP_PUT } sp_http_method;

/* What came of a request. SP_OK: an HTTP answer arrived whole, whatever its code. Otherwise error.code is one of
 *   bad_url (INVALID)             no http or https URL, or one with a user name in it
 *   private_address (DENIED)      guarded, and every address that the host has is one the guard refuses
 *   redirect (INVALID)            to another host, from https to http, or one too many
 *   unknown_host, connect_failed, tls_failed, broken_answer (UNAVAILABLE)
 *   connect_timeout (UNAVAILABLE), timeout (TIMEOUT)
 *   answer_too_large (TOO_LARGE)  more than the limit, by its headers or on the way
 *   "" (NOMEM, INTERNAL)          here */
typedef struct sp_http_result {
    sp_status status;
    sp_error error;
    int http_status;         /* 0 = none arrived */
    sp_view body;            /* in memory; until done() returns */
    uint64_t sink_bytes;     /* written to sink_fd */
    int64_t retry_after_ns;  /* as asked for by the answer, seconds or a date; 0 = not */
    char content_type[96];
    char kept[SP_NET_KEPT][256]; /* values of keep_headers; "" = not there */
} sp_http_result;

typedef struct sp_http_request {
    sp_http_method method;
    const char *url;
    const char *headers; /* "Name: value\n" each; NULL = none */
    const char *bearer;  /* secret: Authorization: Bearer ...; NULL = none */
    const char *sigv4;   /* "aws:amz:REGION:s3": signed so; NULL = not */
    const char *sigv4_access_key, *sigv4_secret_key;
    sp_view body[2];     /* one behind the other; the memory must stay until done() or cancel() */
    int64_t deadline_ns; /* absolute, CLOCK_MONOTONIC */
    int64_t connect_timeout_ns; /* 0 = what the deadline leaves */
    bool guarded;        /* the URL is a user's: only public addresses (provider/address.h) */
    bool insecure_tls;   /* certificates are not verified */
    const char *ca_file; /* "" or NULL = the system's */
    int redirects;       /* followed at most; 0 = none. With a body only 307 and 308 are followed */
    int sink_fd;         /* >= 0: where the body of a 2xx answer goes, from offset 0, by pwrite */
    uint64_t body_limit_bytes; /* of the answer's body; error pages are cut at it, or at 16 KiB when there is a sink */
    bool cut_body;             /* a body in memory is cut at its limit, what is behind it is read and dropped */
    const char *keep_headers[SP_NET_KEPT]; /* these headers' values go into result.kept; NULL = none; not copied */
    void (*done)(void *context, const sp_http_result *result);
    void *context;
} sp_http_request;

typedef struct sp_net_options {
    /* Asked before each libcurl call that can fail; true = pretend that it failed (fault point net.curl). NULL = no. */
    bool (*fault)(void);
} sp_net_options;

typedef struct sp_net_api {
    uint32_t abi;
    sp_status (*open)(const sp_net_options *options, sp_net **ret_net, sp_error *reterr);
    void (*close)(sp_net *net); /* NULL is fine; requests still out are dropped without done() */
    /* Copies the texts. On failure done() is not called. */
    sp_status (*start)(sp_net *net, const sp_http_request *request, sp_net_call **ret_call, sp_error *reterr);
    void (*cancel)(sp_net *net, sp_net_call *call); /* no done(); not from inside one for the same call */
    /* Moves everything on, waiting for at most `wait_ns` (-1 = no bound) or until `wake_fd` is readable (always the same
     * one; it is not read here). */
    void (*drive)(sp_net *net, int wake_fd, int64_t wait_ns);
    const char *(*versions)(void); /* "libcurl 7.88.1, OpenSSL 3.0.22"; static storage */
} sp_net_api;

#endif
