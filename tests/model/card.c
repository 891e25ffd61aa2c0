/* SPDX-License-Identifier: Apache-2.0
 * Cards and load specifications between processes, and the child that makes a card: one that is late, dies, says nothing. */
#include "test.h"

#include "model/card.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char config_text[] =
    "name: 'e' platform: 'ensemble' input { name: 'A' data_type: TYPE_STRING dims: -1 } output { name: 'B' data_type: TYPE_FP32 dims: 4 "
    "label_filename: 'l' } ensemble_scheduling { max_inflight_requests: 3 step { model_name: 'p' input_map { key: 'x' value: 'A' } "
    "output_map { key: 'y' value: 'B' } } }";

TEST(a_card_reads_back)
{
    sp_model_card *card = calloc(1, sizeof(*card)), *again = NULL;
    sp_error err = { 0 };
    sp_buf out, second;

    REQUIRE(card && sp_model_config_parse("f", sp_view_of(config_text), &card->config, &err) == SP_OK);
    (void)snprintf(card->directory, sizeof(card->directory), "/models/\"e\"\n");
    card->version_count = 2;
    card->versions[0] = (sp_card_version){ .number = INT64_C(9007199254740993), .path = "/p", .digest = "00ff", .bytes = 5 };
    card->versions[1].number = 1;
    card->label_counts[0] = 1000;
    sp_buf_init(&out, 1 << 20);
    sp_buf_init(&second, 1 << 20);
    sp_model_card_write(card, &out);
    REQUIRE(sp_buf_ok(&out) && sp_model_card_read(sp_buf_view(&out), &again, &err) == SP_OK);
    CHECK_TEXT(again->directory, card->directory);
    CHECK_INT(again->version_count, 2);
    CHECK_INT(again->versions[0].number, INT64_C(9007199254740993));
    CHECK_TEXT(again->versions[0].digest, "00ff");
    CHECK_INT(again->label_counts[0], 1000);
    CHECK_TEXT(again->config.steps[0].inputs[0].key, "x");
    sp_model_card_write(again, &second);
    CHECK(out.size_bytes == second.size_bytes && !memcmp(out.data, second.data, out.size_bytes));
    for (size_t cut = 0; cut < out.size_bytes; cut += 7) { /* what is not whole is refused */
        sp_model_card *none = NULL;
        CHECK(sp_model_card_read(sp_view_make(out.data, cut), &none, &err) != SP_OK);
    }
    sp_buf_done(&out);
    sp_buf_done(&second);
    sp_model_card_free(card);
    sp_model_card_free(again);
}

TEST(a_load_specification_reads_back)
{
    sp_load_spec *spec = calloc(1, sizeof(*spec)), *again = NULL;
    sp_error err = { 0 };
    sp_buf out;

    REQUIRE(spec && sp_model_config_parse("f", sp_view_of(config_text), &spec->config, &err) == SP_OK);
    spec->id = 4000000000u;
    spec->version = 3;
    spec->step_models[0] = 17;
    (void)snprintf(spec->directory, sizeof(spec->directory), "/d");
    sp_buf_init(&out, 1 << 20);
    sp_load_spec_write(spec, &out);
    REQUIRE(sp_buf_ok(&out) && sp_load_spec_read(sp_buf_view(&out), &again, &err) == SP_OK);
    CHECK_INT(again->id, 4000000000u);
    CHECK_INT(again->version, 3);
    CHECK_INT(again->step_models[0], 17);
    CHECK_TEXT(again->config.steps[0].model, "p");
    CHECK(sp_load_spec_read(sp_view_of("{\"config\":{}}"), &again, &err) == SP_CORRUPT);
    CHECK(sp_load_spec_read(sp_view_of("["), &again, &err) == SP_CORRUPT);
    sp_buf_done(&out);
    sp_load_spec_free(spec);
    sp_load_spec_free(again);
}

/* --- the child --- */

static char script_path[256];

static const char *script(const char *body)
{
    (void)snprintf(script_path, sizeof(script_path), "/tmp/spillway_inspect_%d", (int)getpid());
    FILE *file = fopen(script_path, "w");
    REQUIRE(file);
    (void)fprintf(file, "#!/bin/sh\n%s\n", body);
    REQUIRE(fclose(file) == 0 && chmod(script_path, 0700) == 0);
    return script_path;
}

static sp_status ask(const char *body, int timeout_ms, sp_error *err)
{
    sp_model_card *card = NULL;
    sp_status status = sp_model_inspect_apart(script(body), "/r", "m", "", timeout_ms, &card, err);

    (void)unlink(script_path);
    sp_model_card_free(card);
    return status;
}

TEST(what_a_child_does_becomes_the_error)
{
    sp_error err = { 0 };

    CHECK_INT(ask("echo '{\"error\":\"no\",\"status\":3,\"code\":\"c\"}'; exit 1", 20000, &err), SP_NOT_FOUND);
    CHECK_TEXT(err.message, "no");
    CHECK_TEXT(err.code, "c");
    CHECK_INT(ask("kill -SEGV $$", 20000, &err), SP_CORRUPT);
    CHECK_TEXT(err.code, "crashed_inspect");
    CHECK_TEXT(err.message, "the process that looked into model 'm' died of signal 11");
    CHECK_INT(ask("exit 1", 20000, &err), SP_CORRUPT);
    CHECK_INT(ask("echo '{\"error\":\"no\",\"status\":0}'; exit 1", 20000, &err), SP_CORRUPT);
    CHECK_INT(ask("echo nonsense", 20000, &err), SP_CORRUPT);
    CHECK_INT(ask("exec sleep 1000", 50, &err), SP_TIMEOUT);
    CHECK_TEXT(err.code, "slow_inspect");
    sp_model_card *card = NULL;
    CHECK_INT(sp_model_inspect_apart("/nonexistent/program", "/r", "m", "", 1000, &card, &err), SP_UNAVAILABLE);
}

TEST(the_program_itself_answers)
{
    const char *program = getenv("SPILLWAY_PROGRAM");
    sp_model_card *card = NULL;
    sp_error err = { 0 };

    if (!program)
        SKIP("SPILLWAY_PROGRAM is not set");
    CHECK_INT(sp_model_inspect_apart(program, "/tmp", "no such model", "", 60000, &card, &err), SP_NOT_FOUND);
    CHECK(strstr(err.message, "no such model"));
}
