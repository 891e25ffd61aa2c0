/* SPDX-License-Identifier: Apache-2.0
 * Reading results without a loop or a thread, beside a running server or without one: what `spillway results export` does. */
#include "store/results_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static sp_status look_for_file(const sp_results_config *config, const char *data_dir, sp_error *reterr)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%.*s/results.db", (int)sizeof(path) - 64, data_dir);
    if (config->mongodb[0] || access(path, R_OK) == 0)
        return SP_OK;
    return SP_FAIL(reterr, SP_NOT_FOUND, "there are no results in %.200s (no results.db that can be read)", data_dir);
}

sp_status sp_results_read(const sp_results_config *config, const char *data_dir, const sp_result_filter *filter,
                          sp_results_take_fn *take, void *context, sp_error *reterr)
{
    const results_table *table = NULL;
    results_store *store = NULL;
    results_ask ask;
    results_page page = { .count = 0 };
    sp_status s = results_ask_of(filter, &ask, reterr);
    if (!s)
        s = look_for_file(config, data_dir, reterr);
    if (!s)
        s = results_store_open(config, data_dir, true, &table, &store, reterr);
    if (s)
        return s;
    sp_buf_init(&page.json, RESULTS_JSON_BYTES);
    do {
        sp_buf_clear(&page.json);
        page.count = 0;
        page.cursor[0] = 0;
        s = table->query(store, &ask, &page, reterr);
        if (!s && !sp_buf_ok(&page.json))
            s = SP_FAIL(reterr, SP_NOMEM, "no memory for a page of results");
        if (!s && !take(sp_buf_view(&page.json), context))
            break;
        if (!s)
            s = results_read_cursor(page.cursor, &ask, reterr);
    } while (!s && page.cursor[0]);
    sp_buf_done(&page.json);
    table->close(store);
    return s;
}
