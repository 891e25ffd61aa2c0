/* SPDX-License-Identifier: Apache-2.0
 * The CUDA and TensorRT providers without a GPU: over tests/engine/gpu's stand-in, whose record tells what the plug-in asked of
 * the library. That the library does it on a GPU is not shown here. */
#include "engine/engine.h"
#include "test.h"

#include <glob.h>
#include <pthread.h>
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

static char profiles_path[] = "/tmp/spillway-profiles-XXXXXX"; /* where the library's go */

static void remove_record(void)
{
    char own[64]; /* the library's own, of whatever it does there */
    (void)snprintf(own, sizeof(own), "%s/.ses", profiles_path);
    (void)unlink(own);
    (void)unlink(record_path);
    (void)rmdir(profiles_path);
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
        REQUIRE(mkdtemp(profiles_path) != NULL);
        (void)setenv("TMPDIR", profiles_path, 1);
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
    (void)setenv("SPILLWAY_STANDIN_DRIVER", "12040", 1);
    REQUIRE(sp_engine_probe(engine, &probe, &err) == SP_OK);
    (void)unsetenv("SPILLWAY_STANDIN_DRIVER");
    CHECK(!probe.providers[1].present);
    CHECK_TEXT(probe.providers[1].reason, "driver/CUDA mismatch: the driver offers CUDA 12.4, the provider needs 13");
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

/* --- options ---------------------------------------------------------------------------------------------------------- */

#define CUDA_OPTIONS "append CUDA device_id=0 use_tf32=0 cudnn_conv_algo_search=HEURISTIC arena_extend_strategy=kSameAsRequested"

TEST(the_cuda_provider_gets_these_options_and_no_others)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    sp_session_free(open_with(engine, &options));
    CHECK_TEXT(record(), CUDA_OPTIONS "\nsession CUDA\n");
    (void)begin("");
    int stream;
    const sp_engine_option extra[] = { { "conv_search", "exhaustive" }, { "precision", "f16" } };
    options.device_index = 3;
    options.device_memory_limit_bytes = 1u << 30;
    options.options = extra;
    options.option_count = 2;
    options.compute_stream = &stream;
    options.flags = SP_ENGINE_GRAPHS;
    sp_session_free(open_with(engine, &options));
    CHECK_TEXT(record(), "append CUDA device_id=3 use_tf32=0 cudnn_conv_algo_search=EXHAUSTIVE prefer_nhwc=1 "
                         "arena_extend_strategy=kSameAsRequested gpu_mem_limit=1073741824 enable_cuda_graph=1 "
                         "user_compute_stream=given\nsession CUDA\n");
}

TEST(tensorrt_comes_first_and_cuda_takes_what_it_leaves)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("tensorrt");
    const sp_engine_option extra[] = { { "precision", "f16" }, { "cache_directory", "/var/cache/x" }, { "workspace_bytes", "1024" } };
    sp_session_free(open_with(engine, &options));
    CHECK_TEXT(record(), "append Tensorrt device_id=0 trt_profile_min_shapes=x:1x4 trt_profile_opt_shapes=x:4x4 "
                         "trt_profile_max_shapes=x:8x4\n" CUDA_OPTIONS "\nsession Tensorrt,CUDA\n");
    (void)begin("");
    options.options = extra;
    options.option_count = 3;
    sp_session_free(open_with(engine, &options));
    CHECK(strstr(record(), "append Tensorrt device_id=0 trt_fp16_enable=1 trt_max_workspace_size=1024 trt_engine_cache_enable=1 "
                           "trt_engine_cache_path=/var/cache/x trt_timing_cache_enable=1 trt_timing_cache_path=/var/cache/x "
                           "trt_profile_min_shapes=x:1x4 ") != NULL);
    (void)begin("no_tensorrt");
    sp_session *session = NULL;
    sp_error err = { 0 };
    CHECK_INT(sp_session_open(engine, &options, &session, &err), SP_UNSUPPORTED);
}

/* Half precision is seen in the file: nobody need say it. */
TEST(a_model_with_half_weights_gets_its_layout)
{
    const sp_engine *engine = begin("");
    const char *path = test_asset("models/squeezenet_fp16.onnx");
    if (!path)
        SKIP("SPILLWAY_ASSETS has no models/squeezenet_fp16.onnx");
    sp_session_options options = sp_session_options_default(path);
    options.provider = "cuda";
    sp_session_free(open_with(engine, &options));
    CHECK(strstr(record(), "prefer_nhwc=1") != NULL);
    (void)begin("");
    options.path = test_asset("models/light_squeezenet.onnx");
    if (!options.path)
        SKIP("SPILLWAY_ASSETS has no models/light_squeezenet.onnx");
    sp_session_free(open_with(engine, &options));
    CHECK(strstr(record(), "session CUDA") && !strstr(record(), "prefer_nhwc"));
}

/* What is looked up in the file before the library has it believes nothing. */
TEST(a_damaged_file_is_the_librarys_to_refuse)
{
    const sp_engine *engine = begin("");
    uint8_t bytes[sizeof(model_bytes)];
    sp_error err = { 0 };
    sp_session_options options = options_for("tensorrt");
    for (size_t i = 0; i < 2 * sizeof(bytes); i++) {
        size_t size = i < sizeof(bytes) ? i + 1 : sizeof(bytes);
        memcpy(bytes, model_bytes, sizeof(bytes));
        if (i >= sizeof(bytes))
            bytes[i - sizeof(bytes)] ^= (uint8_t)(1u << test_random_between(0, 7));
        options.bytes = (sp_view){ bytes, size };
        sp_session *session = NULL;
        sp_status s = sp_session_open(engine, &options, &session, &err);
        CHECK(s == SP_OK || s == SP_CORRUPT || s == SP_UNSUPPORTED || s == SP_INVALID);
        sp_session_free(session);
    }
}

/* --- where nodes are -------------------------------------------------------------------------------------------------- */

TEST(nodes_on_the_cpu_are_an_error_where_that_is_asked_for)
{
    const sp_engine *engine = begin("host=Softmax");
    sp_session_options options = options_for("cuda");
    const sp_engine_option refuse = { "host_nodes", "refuse" };
    options.options = &refuse;
    options.option_count = 1;
    sp_session *session = NULL;
    sp_error err = { 0 };
    CHECK_INT(sp_session_open(engine, &options, &session, &err), SP_UNSUPPORTED);
    CHECK(strstr(err.message, "assigned to the default CPU EP") != NULL);
    CHECK(strstr(record(), "config session.disable_cpu_ep_fallback=1") != NULL);
    (void)begin("");
    sp_session_free(open_with(engine, &options));
}

TEST(nodes_on_the_cpu_are_reported_with_their_share_of_time)
{
    const sp_engine *engine = begin("host=Softmax");
    sp_session_options options = options_for("cuda");
    sp_session *session = open_with(engine, &options);
    sp_engine_report report;
    sp_error err = { 0 };
    float in[8] = { 1, 2, 3, 4 }, out[8];
    for (int i = 0; i < 3; i++) {
        CHECK_INT(sp_session_report(session, &report, &err), SP_OK);
        CHECK_INT(report.run_count, 0);
        CHECK_INT(run(session, SP_ENGINE_HOST, 2, in, out, &err), SP_OK);
    }
    CHECK_INT(sp_session_report(session, &report, &err), SP_OK);
    CHECK_INT(report.run_count, 3);
    CHECK_INT(report.node_count, 2);
    CHECK_INT(report.host_node_count, 1);
    CHECK(report.host_share >= 0 && report.host_share <= 1);
    CHECK_TEXT(report.host_nodes, "Softmax 1");
    sp_session_free(session);
    session = open_with(engine, &options); /* unloaded before enough was seen: the profile goes all the same */
    sp_session_free(session);
    options.provider = "cpu";
    session = open_with(engine, &options);
    CHECK_INT(sp_session_report(session, &report, &err), SP_OK);
    CHECK_INT(report.run_count, 0);
    sp_session_free(session);
}

/* --- the caller's stream ---------------------------------------------------------------------------------------------- */

TEST(only_what_the_stream_orders_is_not_waited_for)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    float in[8] = { 0 }, out[8];
    sp_error err = { 0 };
    int stream;
    options.flags = SP_ENGINE_ORDERED;
    sp_session *session = open_with(engine, &options); /* without a stream there is nothing that orders */
    CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in, out, &err), SP_OK);
    CHECK(strstr(record(), "run rows=1 graph=-1 sync=1 device=2/2") != NULL);
    sp_session_free(session);
    options.compute_stream = &stream;
    session = open_with(engine, &options);
    (void)begin("");
    CHECK_INT(run(session, SP_ENGINE_HOST, 2, in, out, &err), SP_OK);
    CHECK_INT(run(session, SP_ENGINE_CUDA, 2, in, out, &err), SP_OK);
    CHECK_INT(run(session, SP_ENGINE_CUDA, 2, in, out, &err), SP_OK);
    CHECK_TEXT(record(), "run rows=2 graph=-1 sync=1 device=0/2\nrun rows=2 graph=-1 sync=0 device=2/2\n"
                         "run rows=2 graph=-1 sync=0 device=2/2\n");
    sp_session_free(session);
}

/* Sets of buffers that come again are bound once; there may be more of them than are kept. */
TEST(more_sets_of_buffers_than_are_kept_still_run_right)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    sp_session *session = open_with(engine, &options);
    static float in[40][4], out[40][4], want[4] = { 0.25f, 0.25f, 0.25f, 0.25f };
    sp_error err = { 0 };
    for (int turn = 0; turn < 3; turn++) {
        memset(out, 0, sizeof(out));
        for (int i = 0; i < 40; i++) {
            CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in[i], out[i], &err), SP_OK);
            CHECK_BYTES(out[i], want, sizeof(want));
        }
    }
    sp_session_free(session);
}

/* --- graphs ----------------------------------------------------------------------------------------------------------- */

static int graphs_of(const sp_session *session)
{
    sp_engine_report report;
    sp_error err = { 0 };
    CHECK_INT(sp_session_report(session, &report, &err), SP_OK);
    return report.graph_count;
}

TEST(each_bucket_of_each_lane_has_a_graph_of_its_own)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    options.flags = SP_ENGINE_GRAPHS;
    sp_session *session = open_with(engine, &options);
    float in[16] = { 0 }, out[16];
    sp_error err = { 0 };
    for (int turn = 0; turn < 3; turn++)
        for (int64_t rows = 1; rows <= 4; rows *= 2)
            CHECK_INT(run(session, SP_ENGINE_CUDA, rows, in, out, &err), SP_OK);
    CHECK_INT(graphs_of(session), 3);
    CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in + 4, out, &err), SP_OK); /* other buffers: another graph */
    CHECK_INT(graphs_of(session), 4);
    CHECK_INT(run(session, SP_ENGINE_HOST, 1, in, out, &err), SP_OK); /* host memory is never captured */
    CHECK_INT(graphs_of(session), 4);
    const char *seen = record();
    CHECK(strstr(seen, "rows=1 graph=1 ") && strstr(seen, "rows=2 graph=2 ") && strstr(seen, "rows=4 graph=3 "));
    CHECK(strstr(seen, "run rows=1 graph=-1 sync=1 device=0/2") != NULL);
    CHECK(!strstr(seen, "fault"));
    sp_session_free(session);
}

TEST(more_sets_of_buffers_than_graphs_run_without_one)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    options.flags = SP_ENGINE_GRAPHS;
    sp_session *session = open_with(engine, &options);
    static float in[20][4], out[20][4], want[4] = { 0.25f, 0.25f, 0.25f, 0.25f };
    sp_error err = { 0 };
    for (int turn = 0; turn < 2; turn++) {
        memset(out, 0, sizeof(out));
        for (int i = 0; i < 20; i++) {
            CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in[i], out[i], &err), SP_OK);
            CHECK_BYTES(out[i], want, sizeof(want));
        }
    }
    CHECK_INT(graphs_of(session), 16);
    CHECK(strstr(record(), "graph=-1 sync=1 device=2/2") && !strstr(record(), "fault"));
    sp_session_free(session);
}

typedef struct caller {
    sp_session *session;
    int wrong;
    float in[4], out[4];
} caller;

static void *call_often(void *argument)
{
    caller *c = argument;
    sp_error err = { 0 };
    for (int i = 0; i < 20; i++)
        c->wrong += run(c->session, SP_ENGINE_CUDA, 1, c->in, c->out, &err) != SP_OK || c->out[0] != 0.25f;
    return NULL;
}

/* The library keeps graphs by thread: whoever calls, one thread runs. */
TEST(graphs_are_replayed_by_the_thread_that_captured_them)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    options.flags = SP_ENGINE_GRAPHS;
    sp_session *session = open_with(engine, &options);
    static caller one;
    one = (caller){ .session = session };
    for (int i = 0; i < 4; i++) { /* one after the other: a lane has one caller at a time */
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, call_often, &one) == 0);
        (void)pthread_join(thread, NULL);
    }
    CHECK_INT(one.wrong, 0);
    CHECK_INT(graphs_of(session), 1);
    CHECK(!strstr(record(), "fault"));
    sp_session_free(session);
}

TEST(a_model_that_cannot_be_captured_is_loaded_without_graphs)
{
    const sp_engine *engine = begin("host=Softmax");
    sp_session_options options = options_for("cuda");
    options.flags = SP_ENGINE_GRAPHS;
    sp_session *session = open_with(engine, &options);
    float in[4] = { 0 }, out[4];
    sp_error err = { 0 };
    CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in, out, &err), SP_OK);
    CHECK_INT(graphs_of(session), 0);
    CHECK(strstr(record(), "enable_cuda_graph=1") && strstr(record(), CUDA_OPTIONS "\nsession CUDA\n"));
    sp_session_free(session);
}

/* --- what goes wrong -------------------------------------------------------------------------------------------------- */

TEST(lack_of_device_memory_is_told_with_what_is_free)
{
    const sp_engine *engine = begin("load_oom");
    sp_session_options options = options_for("cuda");
    sp_session *session = NULL;
    sp_error err = { 0 };
    CHECK_INT(sp_session_open(engine, &options, &session, &err), SP_NOMEM);
    CHECK(strstr(err.message, "; free ") && strstr(err.message, " MiB of 8192 MiB"));
    (void)begin("oom>2");
    session = open_with(engine, &options);
    float in[16] = { 0 }, out[16];
    CHECK_INT(run(session, SP_ENGINE_CUDA, 4, in, out, &err), SP_NOMEM);
    CHECK_INT(run(session, SP_ENGINE_CUDA, 2, in, out, &err), SP_OK); /* a smaller batch fits */
    CHECK_INT(run(session, SP_ENGINE_HOST, 4, in, out, &err), SP_NOMEM);
    sp_session_free(session);
}

TEST(a_models_memory_is_what_the_device_lost)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    sp_engine_memory memory = { 0 };
    sp_error err = { 0 };
    sp_session *session = open_with(engine, &options);
    CHECK_INT(sp_session_memory(session, &memory, &err), SP_OK);
    CHECK_INT(memory.device_bytes, sizeof(model_bytes));
    CHECK(memory.host_bytes > 0);
    sp_session_free(session);
    options.provider = "cpu";
    session = open_with(engine, &options);
    CHECK_INT(sp_session_memory(session, &memory, &err), SP_OK);
    CHECK_INT(memory.device_bytes, 0);
    sp_session_free(session);
}

/* Whatever became of a session. */
TEST(z_no_profile_is_left_behind)
{
    (void)begin("");
    char pattern[64];
    glob_t found;
    (void)snprintf(pattern, sizeof(pattern), "%s/spillway-ort-*", profiles_path);
    CHECK_INT(glob(pattern, 0, NULL, &found), GLOB_NOMATCH);
    globfree(&found);
}

/* The last test: after it the stand-in's device is gone for good. */
TEST(zz_a_sticky_error_says_that_the_device_is_gone)
{
    const sp_engine *engine = begin("");
    sp_session_options options = options_for("cuda");
    sp_session *session = open_with(engine, &options);
    float in[4] = { 0 }, out[4];
    sp_error err = { 0 };
    CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in, out, &err), SP_OK);
    (void)begin("sticky");
    CHECK_INT(run(session, SP_ENGINE_CUDA, 1, in, out, &err), SP_UNAVAILABLE);
    CHECK(strstr(err.message, "illegal memory access") != NULL);
    CHECK_INT(run(session, SP_ENGINE_HOST, 1, in, out, &err), SP_UNAVAILABLE);
    sp_session_free(session);
}
