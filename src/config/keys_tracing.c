/* SPDX-License-Identifier: Apache-2.0
 * Keys of `tracing`. */
#include "config/keys.h"

#include <stdio.h>
#include <string.h>

static void tracing_init(void *object)
{
    ((sp_tracing_config *)object)->rate = 0.01;
    (void)snprintf(((sp_tracing_config *)object)->service, sizeof(((sp_tracing_config *)object)->service), "spillway");
}

static void tracing_check(sp_reader *reader, const sp_yaml_node *node, void *object)
{
    const char *url = ((sp_tracing_config *)object)->otlp;
    size_t scheme = !strncmp(url, "http://", 7) ? 7 : !strncmp(url, "https://", 8) ? 8 : 0;
    const sp_yaml_node *member = sp_yaml_get(node, "otlp");

    if (*url && (!scheme || !url[scheme] || url[scheme] == '/' || strpbrk(url, " ?#")))
        sp_reader_complain(reader, member ? member : node,
                           "otlp must be http://HOST:PORT, of a collector that takes OTLP over HTTP (usually port 4318)");
}

static const sp_key tracing_keys[] = {
    { SP_ROW(sp_tracing_config, "otlp", SP_KEY_TEXT, otlp), .size = sizeof(((sp_tracing_config *)0)->otlp), .secret = true },
    SP_ROW_NUMBER(sp_tracing_config, "rate", SP_KEY_DOUBLE, rate, 0, 1),
    SP_ROW_TEXT(sp_tracing_config, "service", service),
};

const sp_schema sp_tracing_schema = {
    .what = "tracing",
    .keys = tracing_keys,
    .key_count = SP_ARRAY_LEN(tracing_keys),
    .init = tracing_init,
    .check = tracing_check,
};
