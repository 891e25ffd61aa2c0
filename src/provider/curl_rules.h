/* SPDX-License-Identifier: Apache-2.0
 * What holds for every request that Spillway makes by libcurl, of the downloader (cli/fetch) and of the net worker's
 * transport alike: which protocols, which TLS, no proxy by accident, no signals. In one place, so that neither can be
 * laxer than the other. */
#ifndef SP_PROVIDER_CURL_RULES_H
#define SP_PROVIDER_CURL_RULES_H

#include <curl/curl.h>
#include <stdbool.h>

#define SP_CURL_REDIRECTS_MAX 5L

/* `ca_file` NULL or "" = the system's certificates. The texts are copied by libcurl. CURLE_OUT_OF_MEMORY or CURLE_OK. */
static inline CURLcode sp_curl_rules_apply(CURL *curl, const char *agent, bool verify_tls, const char *ca_file)
{
    CURLcode code = curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    if (!code)
        code = curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    if (!code)
        code = curl_easy_setopt(curl, CURLOPT_USERAGENT, agent);
    if (!code && ca_file && *ca_file)
        code = curl_easy_setopt(curl, CURLOPT_CAINFO, ca_file);
    /* These take numbers and cannot fail in a libcurl that is recent enough to build against. */
    (void)curl_easy_setopt(curl, CURLOPT_MAXREDIRS, SP_CURL_REDIRECTS_MAX);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    (void)curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, verify_tls ? 1L : 0L);
    (void)curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, verify_tls ? 2L : 0L);
    return code;
}

#endif
