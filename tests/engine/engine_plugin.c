/* SPDX-License-Identifier: Apache-2.0
 * The host's side of the engine ABI: wrong plug-ins, wrong files, and what each is told. */
#include "base/limits.h"
#include "engine/engine.h"
#include "test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const sp_engine *onnxruntime(void)
{
    sp_error err = { 0 };
    const sp_engine *engine = NULL;
    if (sp_engine_open("onnxruntime", &engine, &err))
        SKIP("no onnxruntime plug-in: %s", err.message);
    sp_engine_probe_result probe;
    if (sp_engine_probe(engine, &probe, &err))
        SKIP("no ONNX Runtime: %s", err.message);
    return engine;
}

TEST(an_unknown_engine_is_invalid)
{
    sp_error err = { 0 };
    const sp_engine *engine = NULL;
    CHECK_INT(sp_engine_open("abacus", &engine, &err), SP_INVALID);
    CHECK(strstr(err.message, "abacus") != NULL);
    CHECK_TEXT(sp_engine_name_at(0), "onnxruntime");
    CHECK_TEXT(sp_engine_name_at(1), "openvino");
    CHECK(sp_engine_name_at(100) == NULL && sp_engine_name_at(-1) == NULL);
}

TEST(another_abi_is_refused_and_both_numbers_are_named)
{
    sp_error err = { 0 };
    sp_engine engine;
    const sp_engine_api future = { .abi = SP_ENGINE_ABI + 1, .struct_bytes = sizeof(sp_engine_api), .name = "future" };
    const sp_engine_api empty = { .abi = SP_ENGINE_ABI, .struct_bytes = sizeof(sp_engine_api), .name = "empty" };
    const sp_engine_api small = { .abi = SP_ENGINE_ABI, .struct_bytes = 16, .name = "small" };
    CHECK_INT(sp_engine_wrap(&future, &engine, &err), SP_UNSUPPORTED);
    CHECK_TEXT(err.code, "engine_abi");
    CHECK(strstr(err.message, "ABI 2") && strstr(err.message, "program 1"));
    CHECK_INT(sp_engine_wrap(&empty, &engine, &err), SP_UNSUPPORTED);
    CHECK_INT(sp_engine_wrap(&small, &engine, &err), SP_UNSUPPORTED);
    CHECK_INT(sp_engine_wrap(NULL, &engine, &err), SP_UNSUPPORTED);
}

TEST(probe_names_each_provider_and_why_it_is_absent)
{
    const sp_engine *engine = onnxruntime();
    sp_engine_probe_result probe;
    sp_error err = { 0 };
    REQUIRE(sp_engine_probe(engine, &probe, &err) == SP_OK);
    CHECK_TEXT(probe.engine, "onnxruntime");
    CHECK(probe.version[0] >= '1' && probe.library[0] == '/');
    REQUIRE(probe.provider_count == 3);
    CHECK_TEXT(probe.providers[0].name, "cpu");
    CHECK_INT(probe.providers[0].present, 1);
    CHECK_TEXT(probe.providers[1].name, "cuda");
    CHECK_TEXT(probe.providers[2].name, "tensorrt");
    for (int i = 0; i < probe.provider_count; i++) /* either it is there, or a reason is */
        CHECK((probe.providers[i].present != 0) == (probe.providers[i].reason[0] == 0));
}

static sp_status open_path(const char *path, const char *provider, sp_error *err)
{
    const sp_engine *engine = onnxruntime();
    sp_session_options options = sp_session_options_default(path);
    options.provider = provider;
    sp_session *session = NULL;
    sp_status s = sp_session_open(engine, &options, &session, err);
    CHECK((s == SP_OK) == (session != NULL));
    sp_session_free(session);
    return s;
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "we");
    REQUIRE(file != NULL);
    CHECK(fwrite(data, 1, size, file) == size);
    CHECK_INT(fclose(file), 0);
}

TEST(damaged_and_missing_models_say_what_they_are)
{
    sp_error err = { 0 };
    char path[] = "/tmp/spillway-model-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    CHECK_INT(open_path("/nowhere/model.onnx", "cpu", &err), SP_NOT_FOUND);
    CHECK_INT(open_path("/tmp", "cpu", &err), SP_INVALID);
    CHECK_INT(open_path(path, "cpu", &err), SP_CORRUPT); /* empty */
    write_file(path, "this is not a protobuf message, it is a sentence", 48);
    CHECK_INT(open_path(path, "cpu", &err), SP_CORRUPT);
    CHECK_TEXT(err.origin, "onnxruntime");
    REQUIRE(ftruncate(fd, (off_t)SP_LIMIT_MODEL_BYTES + 1) == 0); /* sparse: nothing is written, nothing may be read */
    CHECK_INT(open_path(path, "cpu", &err), SP_TOO_LARGE);
    const char *asset = test_asset("models/light_squeezenet.onnx");
    if (asset) {
        size_t size = 0;
        char *bytes = test_read_file(asset, &size);
        REQUIRE(bytes != NULL);
        REQUIRE(ftruncate(fd, 0) == 0);
        write_file(path, bytes, size / 2);
        CHECK_INT(open_path(path, "cpu", &err), SP_CORRUPT);
        free(bytes);
    }
    (void)close(fd);
    (void)unlink(path); /* a leftover in /tmp is no failure */
}

TEST(a_provider_that_is_not_here_is_never_replaced)
{
    const char *asset = test_asset("models/light_squeezenet.onnx");
    if (!asset)
        SKIP("SPILLWAY_ASSETS has no models/light_squeezenet.onnx");
    sp_error err = { 0 };
    sp_engine_probe_result probe;
    REQUIRE(sp_engine_probe(onnxruntime(), &probe, &err) == SP_OK);
    CHECK_INT(open_path(asset, "abacus", &err), SP_INVALID);
    for (int i = 1; i < probe.provider_count; i++)
        if (!probe.providers[i].present)
            CHECK_INT(open_path(asset, probe.providers[i].name, &err), SP_UNSUPPORTED);
}
