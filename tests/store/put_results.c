/* SPDX-License-Identifier: Apache-2.0
 * put_results DIR COUNT: results for test_results_export.py. */
#include "base/loop.h"
#include "store/results.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    sp_loop *loop = NULL;
    sp_results *results = NULL;
    sp_results_config config = { .all = true };
    sp_error err = { 0 };
    if (argc != 3 || sp_loop_new(&loop, &err) || sp_results_open(loop, &config, argv[1], &results, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (int i = 0; i < (int)strtol(argv[2], NULL, 10); i++) {
        sp_result result = { .unix_ms = INT64_C(1767225600000) + i * INT64_C(60000), .fallback = i % 10 == 0, .microdollars = i };
        char document[128];
        (void)snprintf(result.id, sizeof(result.id), "r%05d", i);
        (void)snprintf(result.tenant, sizeof(result.tenant), "acme");
        (void)snprintf(result.task, sizeof(result.task), i % 2 ? "classify" : "detect");
        (void)snprintf(result.text, sizeof(result.text), "a \"quoted\", text\nof two lines %d", i);
        (void)snprintf(document, sizeof(document), "{\"n\":%d,\"name\":\"caf\xC3\xA9, \\\"x\\\"\"}", i);
        sp_results_put(results, &result, sp_view_of(document));
        if (i % 500 == 0)
            (void)sp_loop_turn(loop, 0, NULL);
    }
    if (argc == 3)
        sp_results_close(results);
    sp_loop_free(loop);
    return 0;
}
