/* SPDX-License-Identifier: Apache-2.0
 * bench --links: the same inputs through each link of a server, in turns. */
#ifndef SP_CLI_BENCH_LINKS_H
#define SP_CLI_BENCH_LINKS_H

#include "cli/bench_http.h"

#define SP_LINKS_MAX 8

typedef struct sp_links_params {
    const sp_bench_url *url; /* of the task: http://127.0.0.1:8000/infer */
    const char *links;       /* "cuda0,cpu0"; the first is what the others are held against */
    const char *const *files;
    int file_count;
    long requests; /* for each link; 0 = 20 for each file */
    const char *const *headers;
    int header_count;
    const char *field; /* multipart; NULL = raw body */
    const char *content_type;
    int64_t timeout_ns;
    bool json;
    const volatile bool *stop;
} sp_links_params;

/* Prints the table (or JSON) and returns the exit code: 0 when every call was answered by the link that it named and all
 * links agree on the first class; 1 when not; 2 bad usage; 3 no connection. */
int sp_bench_links(const sp_links_params *params);

#endif
