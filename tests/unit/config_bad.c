/* SPDX-License-Identifier: Apache-2.0
 * One bad file a row, and every line that is said of it. */
#include "config/config.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_A "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
#define CHAIN "chains:\n  classify:\n    links:\n"
#define REMOTE "remotes:\n  hq:\n    kind: spillway\n"

static const struct {
    const char *text, *said; /* said: without "f:" before each line */
} rows[] = {
    /* YAML itself */
    { "a: [", "2: not YAML: did not find expected node content, while parsing a flow node\n" },
    { "http_port: 1\n\tbind: x\n",
      "2: not YAML: found a tab character that violates indentation, while scanning a plain scalar\n" },
    { "--- {}\n--- {}\n", "2: a second document begins here; a configuration is one document (remove the ---)\n" },
    { "[a, b]\n", "1: must be a map (bind: ...), not a list\n" },
    { "hello\n", "1: must be a map (bind: ...), not a single value\n" },
    { "? [a]\n: b\n", "1: a key must be a word, not a list or a map\n" },
    { "bind: \"a\\u0007b\"\n", "1: a text holds the control character 0x07; remove it\n" },
    { "bind: !!str localhost\n", "1: tags (tag:yaml.org,2002:str) are not read; remove it\n" },
    { "<<: *x\nbind: a\n", "1: aliases (*x) are not read; write the value out\n1: <<: unknown key; "
                           "deploy/spillway.yaml has all that there are\n" },
    { "bind: \xff\n", "1: not UTF-8 text at byte 6: invalid leading UTF-8 octet\n" },
    /* keys and types */
    { "http_port: 80\nhttp_port: 81\n", "2: http_port: written twice, first in line 1\n" },
    { "wrkers: [cpu0]\nq: 1\n", "1: wrkers: unknown key; did you mean workers?\n"
                                "2: q: unknown key; deploy/spillway.yaml has all that there are\n" },
    { "guard: {q: 1}\n", "1: guard.q: unknown key; here may stand: per_mille, tolerance\n" },
    { "bind:\n", "1: bind: must be a single value, not nothing\n" },
    { "require_sandbox: maybe\n", "1: require_sandbox: must be true or false, not 'maybe'\n" },
    { "http_port: 80.5\nmetrics_port: 0x10\n", "1: http_port: must be a whole number, not '80.5'\n"
                                               "2: metrics_port: must be a whole number, not '0x10'\n" },
    { "tokens: {}\n", "1: tokens: must be a list (one entry a line, each after -), not a map\n" },
    { "chains: [x]\n", "1: chains: must be a map of names, not a list\n" },
    { "preset: fastest\n",
      "1: preset: must be gpu-for-all, by-tier, by-load, cpu-only, cost-first or latency-first, not 'fastest'\n" },
    { "trusted_peers: [10.0.0.0/33, localhost]\n",
      "1: trusted_peers[0]: '10.0.0.0/33' is no address (10.1.2.3, fd00::1) or network (10.0.0.0/8)\n"
      "1: trusted_peers[1]: 'localhost' is no address (10.1.2.3, fd00::1) or network (10.0.0.0/8)\n" },
    { "workers:\n  - CPU0\n  - cpu0\n  - cpu0\n",
      "2: workers[0]: 'CPU0' is no worker; write a kind and a number, like cpu0\n"
      "4: workers[2]: the worker cpu0 stands twice\n" },
    { "fetch: {limit: 3 apples}\n", "1: fetch.limit: must be a size (64KiB, 10MiB, 2GB), not '3 apples'\n" },
    { "fetch: {limit: 2TB}\n", "1: fetch.limit: must be from 1KiB to 1GiB, not 2TB\n" },
    { "cache: {ttl: 1500ms}\n", "1: cache.ttl: must be from 1s to 3650d in whole seconds, not 1500ms\n" },
    /* chains */
    { "chains:\n  transcribe: {links: [cpu0]}\n", "2: chains.transcribe: no such task; tasks are noop, classify, infer, detect, analyze\n" },
    { "workers: [cpu0, net0, noop0]\nremotes:\n  hq: {kind: spillway, url: 'http://hq'}\n  far: {kind: kserve, url: 'http://far'}\n"
      "chains:\n  infer: {links: [cpu0, hq, noop0, far]}\n  detect: {links: [far]}\n",
      "6: chains.infer.links[1].name: hq cannot answer infer; name a device worker or a remote of kind kserve\n"
      "6: chains.infer.links[2].name: noop0 cannot answer infer; name a device worker or a remote of kind kserve\n"
      "7: chains.detect.links[0].name: far cannot answer detect; name a device worker\n" },
    { "chains:\n  classify: {}\n", "2: chains.classify: links is missing\n" },
    { "chains:\n  classify: {links: []}\n",
      "2: chains.classify: links is empty; name at least one worker or remote\n" },
    { "chains:\n  classify: {links: [cpu0]}\n  classify: {links: [cpu0]}\n",
      "3: chains.classify: written twice, first in line 2\n" },
    { CHAIN "      - cpu0\n      - cpu0\n", "5: chains.classify: cpu0 stands twice in this chain\n" },
    { CHAIN "      - codec0\n", "4: chains.classify.links[0].name: codec0 helps the others and answers nothing itself; "
                                "name a device or a remote\n" },
    { CHAIN "      - cpu1\n",
      "4: chains.classify.links[0].name: no worker or remote is named 'cpu1'; did you mean cpu0?\n" },
    { CHAIN "      - {timeout: 1s}\n", "4: chains.classify.links[0]: name is missing\n" },
    { CHAIN "      - name: cpu0\n        retries: -1\n        hedge: often\n        concurrency: none\n        "
            "max_cost_per_day: 1.2345678\n",
      "5: chains.classify.links[0].retries: must be from 0 to 10, not -1\n"
      "6: chains.classify.links[0].hedge: must be never, p95 or a duration (200ms), not 'often'\n"
      "7: chains.classify.links[0].concurrency: must be a number from 1 to 10000, or {least: N, most: N}, not 'none'\n"
      "8: chains.classify.links[0].max_cost_per_day: must be dollars with at most six decimals (0.20), not "
      "'1.2345678'\n" },
    { CHAIN "      - name: cpu0\n        backoff: 3s\n",
      "4: chains.classify.links[0]: backoff_max is less than backoff; it is what backoff grows to\n" },
    { CHAIN "      - name: cpu0\n        breaker: {open: 2m}\n",
      "5: chains.classify.links[0].breaker: open_max is less than open; it is what open grows to\n" },
    { CHAIN "      - name: cpu0\n        concurrency: {least: 4, most: 2}\n",
      "5: chains.classify.links[0].concurrency: least is more than most\n" },
    { CHAIN "      - name: cpu0\n        when: [tier in [pro]]\n",
      "5: not YAML: did not find expected ',' or ']', while parsing a flow sequence\n" },
    { CHAIN "      - cpu0\n    reference: cuda0\n",
      "5: chains.classify: reference must name a link of this chain, not 'cuda0'\n" },
    /* remotes and secrets */
    { REMOTE "", "3: remotes.hq: url is missing\n" },
    { "remotes:\n  hq: {kind: http, url: 'http://x'}\n",
      "2: remotes.hq.kind: must be one of spillway, kserve, not 'http'\n" },
    { REMOTE "    url: hq:8000\n", "4: remotes.hq.url: must begin with http:// or https://\n" },
    { REMOTE "    url: http://hq/v2\n",
      "4: remotes.hq.url: must end after host and port; the path is added by spillway\n" },
    { REMOTE "    url: http://a:b@hq\n",
      "4: remotes.hq.url: must hold no user or password; give the secret under keys\n" },
    { REMOTE "    url: http://hq\n    model: m\n",
      "3: remotes.hq: model, input and output are for kind kserve; a spillway knows its own\n" },
    { REMOTE "    url: http://hq\n    keys:\n      - {env: A, file: b}\n      - {requests_per_day: 1}\n      - {env: "
             "sk-12345}\n      - secret\n",
      "6: remotes.hq.keys[0]: has both env and file; give exactly one place where the secret lies\n"
      "7: remotes.hq.keys[1]: needs env (a variable's name) or file (a path), where the secret lies\n"
      "8: remotes.hq.keys[2]: env must be the name of an environment variable, not the secret itself\n"
      "9: remotes.hq.keys[3]: must be a map (env: ...), not a single value\n" },
    { "workers: [codec0, cpu0]\n" REMOTE "    url: http://hq\n",
      "2: remotes: need a net worker to be reached; add net0 to workers\n" },
    { "remotes:\n  cpu0: {kind: spillway, url: 'http://x'}\n",
      "2: remotes.cpu0: a worker has this name already; links could not tell them apart\n" },
    { "jobs:\n  webhook_secret: hunter2\n", "2: jobs.webhook_secret: must be a map (env: ...), not a single value\n" },
    { "jobs:\n  redis: rediss://h\n",
      "2: jobs.redis: TLS to Redis is not built in; use redis:// over a private network or a tunnel\n" },
    { "cache:\n  redis: localhost:6379\n", "2: cache.redis: must be redis://HOST:PORT/DB\n" },
    { "jobs: {redis: 'redis://h', durability: disk}\n",
      "1: jobs: durability disk cannot be had from Redis; write aof-always, or leave redis out\n" },
    { "results: {mongodb: localhost}\n", "1: results: mongodb must be mongodb://HOST:PORT\n" },
    { "s3: {endpoint: 'https://s', access_key: {env: A}}\n", "1: s3: secret_key is missing\n" },
    /* tokens */
    { "tokens:\n  - {name: a, sha256: " DIGEST_A "}\n  - {name: a, sha256: " DIGEST_A ", scopes: [root]}\n",
      "3: tokens[1].scopes[0]: must be infer, admin or metrics, not 'root'\n"
      "3: tokens[1]: the name a is taken by tokens[0]\n3: tokens[1]: the same token as tokens[0] (a)\n" },
    { "tokens:\n  - {name: a, sha256: " DIGEST_A ", scopes: [], burst: 3}\n",
      "2: tokens[0].scopes: must be a list of infer, admin, metrics\n" },
    { "tokens:\n  - {name: a, sha256: " DIGEST_A ", burst: 3}\n", "2: tokens[0]: burst needs rate_per_s beside it\n" },
    { "tokens:\n  - {name: a, sha256: " DIGEST_A ", expires: 2027-02-30}\n",
      "2: tokens[0].expires: must be a date (2027-01-31 or 2027-01-31T12:00:00Z, UTC), not '2027-02-30'\n" },
    /* rates, and a file that is not there */
    { "rates:\n  l4: {as_of: yesterday}\n  t4: {per_hour: cheap}\n",
      "2: rates.l4: has no price; give per_hour, per_minute or per_call in dollars\n"
      "2: rates.l4: as_of must be a date (2026-11-01), not 'yesterday'\n"
      "3: rates.t4.per_hour: must be dollars with at most six decimals (0.20), not 'cheap'\n" },
    { "rates: /nowhere/rates.yaml\n",
      "1: rates: cannot read the configuration file '/nowhere/rates.yaml': No such file or directory\n" },
};

/* "f:" before each line that begins with a number. */
static void expected_of(const char *said, sp_buf *out)
{
    for (const char *line = said; *line; line += strcspn(line, "\n") + 1) {
        sp_buf_append_text(out, "f:");
        sp_buf_append(out, line, strcspn(line, "\n") + 1);
    }
    sp_buf_append(out, "", 1);
}

TEST(bad_files_and_what_is_said_of_them)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_config *config = NULL;
        sp_complaints complaints;
        sp_buf expected;
        sp_error err = { 0 };
        sp_complaints_init(&complaints);
        sp_buf_init(&expected, 1 << 16);
        expected_of(rows[i].said, &expected);
        CHECK_INT(sp_config_parse("f", rows[i].text, strlen(rows[i].text), &config, &complaints, &err), SP_INVALID);
        sp_buf_append(&complaints.text, "", 1);
        if (config || strcmp((const char *)complaints.text.data, (const char *)expected.data) != 0)
            test_fail(__FILE__, __LINE__, "of\n%s\nit was said\n%s", rows[i].text, (const char *)complaints.text.data);
        CHECK(err.message[0] && !strchr(err.message, '\n'));
        sp_complaints_done(&complaints);
        sp_buf_done(&expected);
        sp_config_unref(config);
    }
}

static sp_status parse_buf(const sp_buf *text, sp_complaints *complaints)
{
    sp_config *config = NULL;
    sp_error err = { 0 };

    REQUIRE(sp_buf_ok(text));
    sp_complaints_init(complaints);
    sp_status status = sp_config_parse("f", (const char *)text->data, text->size_bytes, &config, complaints, &err);
    sp_buf_append(&complaints->text, "", 1);
    sp_config_unref(config);
    return status;
}

TEST(files_without_bound_are_refused)
{
    sp_complaints complaints;
    sp_buf text;

    sp_buf_init(&text, 4 << 20);
    for (int i = 0; i < 100000; i++)
        sp_buf_append_text(&text, "[");
    CHECK(parse_buf(&text, &complaints) == SP_INVALID);
    CHECK_TEXT((const char *)complaints.text.data,
               "f:1: nested deeper than 16; a configuration this deep is refused\n");
    sp_complaints_done(&complaints);

    sp_buf_clear(&text);
    sp_buf_append_text(&text, "tokens: [");
    for (int i = 0; i < 70000; i++)
        sp_buf_append_text(&text, "a,\n");
    CHECK(parse_buf(&text, &complaints) == SP_INVALID);
    CHECK(
        strstr((const char *)complaints.text.data, "more than 65536 values; a configuration this large is refused\n"));
    sp_complaints_done(&complaints);

    sp_buf_clear(&text);
    while (text.size_bytes <= 1 << 20)
        sp_buf_append_text(&text, "# nothing, but much of it\n");
    CHECK(parse_buf(&text, &complaints) == SP_INVALID);
    CHECK_TEXT((const char *)complaints.text.data, "f:1: larger than 1 MiB; a configuration this large is refused\n");
    sp_complaints_done(&complaints);

    /* A laugh that would be a billion long. */
    sp_buf_clear(&text);
    sp_buf_append_text(&text, "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n");
    CHECK(parse_buf(&text, &complaints) == SP_INVALID);
    CHECK(strstr((const char *)complaints.text.data, "f:2: aliases (*a) are not read; write the value out\n"));
    sp_complaints_done(&complaints);

    /* Complaints have a bound too. */
    sp_buf_clear(&text);
    for (int i = 0; i < 1000; i++)
        sp_buf_printf(&text, "wrong%d: 1\n", i);
    CHECK(parse_buf(&text, &complaints) == SP_INVALID);
    CHECK_INT(complaints.count, 1000);
    CHECK(strstr((const char *)complaints.text.data, "f: and 900 more\n"));
    sp_complaints_done(&complaints);

    sp_buf_clear(&text);
    sp_buf_append_text(&text, "tokens:\n");
    for (int i = 0; i < 1025; i++)
        sp_buf_printf(&text, "  - {name: t%d, sha256: '%064x'}\n", i, i + 1);
    CHECK(parse_buf(&text, &complaints) == SP_INVALID);
    CHECK_TEXT((const char *)complaints.text.data, "f:2: tokens: has 1025 entries; at most 1024 are read\n");
    sp_complaints_done(&complaints);
    sp_buf_done(&text);
}

TEST(a_thousand_tokens_are_fine)
{
    sp_complaints complaints;
    sp_buf text;

    sp_buf_init(&text, 4 << 20);
    sp_buf_append_text(&text, "tokens:\n");
    for (int i = 0; i < 1024; i++)
        sp_buf_printf(
            &text,
            "  - {name: t%d, sha256: '%064x', scopes: [infer, metrics], tier: premium, tenant: acme, rate_per_s: 10, "
            "burst: 20, requests_per_day: 1000, expires: 2030-01-01, local_only: true}\n",
            i, i + 1);
    CHECK(parse_buf(&text, &complaints) == SP_OK);
    CHECK_TEXT((const char *)complaints.text.data, "");
    sp_complaints_done(&complaints);
    sp_buf_done(&text);
}
