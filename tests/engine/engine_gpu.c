/* SPDX-License-Identifier: Apache-2.0
 * The CUDA and TensorRT providers without a GPU: over tests/engine/gpu's stand-in, whose record tells what the plug-in asked of
 * the library. That the library does it on a GPU is not shown here. */
#include "engine/engine.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* y = softmax(relu(x)), x and y f32 [n, 4]; opset 13. */
static const uint8_t model_bytes[] = {
    0x08, 0x08, 0x12, 0x00, 0x3a, 0x6a, 0x0a, 0x12, 0x0a, 0x01, 0x78, 0x12, 0x01, 0x72, 0x1a, 0x04, 0x72, 0x65,
    0x6c, 0x75, 0x22, 0x04, 0x52, 0x65, 0x6c, 0x75, 0x0a, 0x25, 0x0a, 0x01, 0x72, 0x12, 0x01, 0x79, 0x1a, 0x07,
    0x73, 0x6f, 0x66, 0x74, 0x6d, 0x61, 0x78, 0x22, 0x07, 0x53, 0x6f, 0x66, 0x74, 0x6d, 0x61, 0x78, 0x2a, 0x0b,
    0x0a, 0x04, 0x61, 0x78, 0x69, 0x73, 0x18, 0x01, 0xa0, 0x01, 0x02, 0x12, 0x01, 0x67, 0x5a, 0x14, 0x0a, 0x01,
    0x78, 0x12, 0x0f, 0x0a, 0x0d, 0x08, 0x01, 0x12, 0x09, 0x0a, 0x03, 0x12, 0x01, 0x6e, 0x0a, 0x02, 0x08, 0x04,
    0x62, 0x14, 0x0a, 0x01, 0x79, 0x12, 0x0f, 0x0a, 0x0d, 0x08, 0x01, 0x12, 0x09, 0x0a, 0x03, 0x12, 0x01, 0x6e,
    0x0a, 0x02, 0x08, 0x04, 0x42, 0x04, 0x0a, 0x00, 0x10, 0x0d,
};

/* --- the record ------------------------------------------------------------------------------------------------------- */

static char record_path[] = "/tmp/spillway-standin-XXXXXX";

static void remove_record(void)
{
    (void)unlink(record_path);
}

/* The stand-in's words for this test, and an empty record. */
static const sp_engine *begin(const char *words)
{
    static bool made;
    sp_error err = { 0 };
    const sp_engine *engine = NULL;
    sp_engine_probe_result probe;
    if (!getenv("SPILLWAY_ONNXRUNTIME"))
        SKIP("no stand-in for ONNX Runtime's GPU build (SPILLWAY_ONNXRUNTIME)");
    if (!made) {
        int fd = mkstemp(record_path);
        REQUIRE(fd >= 0);
        (void)close(fd);
        made = atexit(remove_record) == 0;
    }
    (void)truncate(record_path, 0);
    (void)setenv("SPILLWAY_STANDIN_ORT_LOG", record_path, 1);
    (void)setenv("SPILLWAY_STANDIN_ORT", words, 1);
    if (sp_engine_open("onnxruntime", &engine, &err) || sp_engine_probe(engine, &probe, &err))
        SKIP("no ONNX Runtime: %s", err.message);
    return engine;
}

/* What was recorded so far; the caller's until the next call. */
static const char *record(void)
{
    static char *text;
    size_t size = 0;
    free(text);
    text = test_read_file(record_path, &size);
    REQUIRE(text != NULL);
    char *end = realloc(text, size + 1);
    REQUIRE(end != NULL);
    text = end;
    text[size] = 0;
    return text;
}

static sp_session_options options_for(const char *provider)
{
    sp_session_options options = sp_session_options_default(NULL);
    options.bytes = (sp_view){ model_bytes, sizeof(model_bytes) };
    options.provider = provider;
    return options;
}

static sp_session *open_with(const sp_engine *engine, const sp_session_options *options)
{
    sp_session *session = NULL;
    sp_error err = { 0 };
    if (sp_session_open(engine, options, &session, &err))
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(session != NULL);
    return session;
}

static sp_status run(sp_session *session, int memory, int64_t rows, float *in, float *out, sp_error *err)
{
    sp_engine_tensor x = { .data = in, .size_bytes = (uint64_t)rows * 16, .dtype = SP_ENGINE_F32, .memory = memory, .rank = 2,
                           .dims = { rows, 4 } };
    sp_engine_tensor y = x;
    y.data = out;
    return sp_session_run(session, 0, &x, 1, &y, 1, err);
}

/* --- the probe -------------------------------------------------------------------------------------------------------- */

TEST(the_stand_in_makes_both_providers_present)
{
    const sp_engine *engine = begin("");
    sp_engine_probe_result probe;
    sp_error err = { 0 };
    REQUIRE(sp_engine_probe(engine, &probe, &err) == SP_OK && probe.provider_count == 3);
    CHECK(probe.providers[1].present && probe.providers[2].present);
    CHECK_INT(probe.providers[1].device_count, 1);
    CHECK_TEXT(probe.providers[1].version, "driver for CUDA 13.0");
    (void)begin("no_tensorrt");
    REQUIRE(sp_engine_probe(engine, &probe, &err) == SP_OK);
    CHECK(probe.providers[1].present && !probe.providers[2].present);
    CHECK(strstr(probe.providers[2].reason, "without TensorrtExecutionProvider") != NULL);
}

/* --- runs ------------------------------------------------------------------------------------------------------------- */

TEST(device_tensors_are_bound_where_they_lie_and_answers_are_the_cpus)
{
    const sp_engine *engine = begin("");
    sp_session_options cuda = options_for("cuda"), cpu = options_for("cpu");
    sp_session *sessions[2] = { open_with(engine, &cuda), open_with(engine, &cpu) };
    float in[8] = { 1, -2, 3, 0.5f, 0, 0, 7, -1 }, out[2][8];
    sp_error err = { 0 };
    CHECK_INT(run(sessions[0], SP_ENGINE_CUDA, 2, in, out[0], &err), SP_OK);
    CHECK_INT(run(sessions[1], SP_ENGINE_HOST, 2, in, out[1], &err), SP_OK);
    CHECK_BYTES(out[0], out[1], sizeof(out[0]));
    CHECK(strstr(record(), "rows=2 ") && strstr(record(), "device=2/2"));
    sp_session_free(sessions[0]);
    sp_session_free(sessions[1]);
}
