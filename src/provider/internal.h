/* SPDX-License-Identifier: Apache-2.0
 * Inside libspillway_net.so only: the transfers of one thread (transport.c) and one of them (call.c). */
#ifndef SP_PROVIDER_INTERNAL_H
#define SP_PROVIDER_INTERNAL_H

#include "base/buf.h"
#include "provider/transport.h"

#include <curl/curl.h>

#define SP_NET_IDLE_HANDLES 32
#define SP_NET_ERROR_PAGE_BYTES (16u * 1024)

/* Connections to hosts that the operator named, and those to hosts that a user named: apart, so that a user's URL can
 * never ride on a connection that was opened without the guard. */
typedef enum sp_net_pool_index { SP_NET_TRUSTED, SP_NET_GUARDED, SP_NET_POOLS } sp_net_pool_index;

typedef struct sp_net_pool {
    sp_net *net;
    int index;
    CURLM *multi;
    int64_t timer_ns; /* when libcurl wants to be called; 0 = not */
} sp_net_pool;

struct sp_net {
    sp_net_options options;
    int epoll_fd;
    int wake_fd; /* in the epoll set; -1 = none yet */
    sp_net_pool pools[SP_NET_POOLS];
    CURL *idle[SP_NET_IDLE_HANDLES];
    int idle_count;
    sp_net_call *calls; /* all that are out */
};

struct sp_net_call {
    sp_net *net;
    sp_net_call *next, *previous;
    sp_net_pool *pool;
    CURL *easy;
    CURLcode setup; /* the first option that could not be set */
    struct curl_slist *headers;
    sp_http_request request; /* texts inside are not valid after start, but for `body` */
    char host[256]; /* of the first URL, for redirects and messages */
    char port[8];
    bool https;
    int redirects;
    size_t body_bytes, body_sent; /* both parts as one */
    bool answered;    /* the final answer's body has begun: code is known */
    long code;        /* of the answer that is being read */
    bool into_sink, thrown_away;
    bool too_large;
    int write_errno;
    size_t header_bytes;
    uint64_t sink_bytes;
    const char *refused; /* by the guard: what the address was */
    bool opened;         /* a socket was opened to one that it let through */
    sp_buf body;
    char kept[SP_NET_KEPT][256];
    char text[CURL_ERROR_SIZE];
};

/* Evaluates to a CURLcode: that of the call, or a made-up failure. */
#define SP_CURL_TRY(net, call) (sp_net_faulted(net) ? CURLE_OUT_OF_MEMORY : (call))
static inline bool sp_net_faulted(const sp_net *net)
{
    return SP_UNLIKELY(net->options.fault != NULL) && net->options.fault();
}

/* call.c. Sets the whole request up; the handle is not in a multi yet. */
sp_status sp_net_call_new(sp_net *net, const sp_http_request *request, sp_net_call **ret_call, sp_error *reterr);
void sp_net_call_free(sp_net_call *call); /* it is in no multi any more */
/* The transfer has ended: fills *ret_result, or returns true when it goes on with a redirect (to be added again). */
bool sp_net_call_ended(sp_net_call *call, CURLcode code, sp_http_result *ret_result);

#endif
