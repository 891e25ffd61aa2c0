/* SPDX-License-Identifier: Apache-2.0
 * Runs of real models: stored answers, dynamic shapes, outputs left to the engine, lanes at once, bad calls. */
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "test.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static sp_session *open_asset(const char *name, int threads, int lanes)
{
    sp_error err = { 0 };
    const sp_engine *engine = NULL;
    sp_engine_probe_result probe;
    if (sp_engine_open("onnxruntime", &engine, &err) || sp_engine_probe(engine, &probe, &err))
        SKIP("no ONNX Runtime: %s", err.message);
    const char *path = test_asset(name);
    if (!path)
        SKIP("SPILLWAY_ASSETS has no %s", name);
    sp_session_options options = sp_session_options_default(path);
    options.threads = threads;
    options.lanes = lanes;
    sp_session *session = NULL;
    sp_status s = sp_session_open(engine, &options, &session, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s: %s", name, err.message);
    REQUIRE(s == SP_OK);
    return session;
}

static sp_engine_tensor tensor_of(const sp_engine_port *port, int64_t batch, void *data, size_t size)
{
    sp_engine_tensor t = { .data = data, .size_bytes = size, .dtype = port->dtype, .rank = port->rank };
    for (int i = 0; i < port->rank; i++)
        t.dims[i] = port->dims[i] < 0 ? batch : port->dims[i];
    return t;
}

/* The raw_data field (9) of a stored TensorProto, which is its last: the file's final `size` bytes. */
static const float *stored_output(size_t count, char **ret_file)
{
    const char *path = test_asset("models/light_squeezenet_output_0.pb");
    size_t size = 0;
    *ret_file = path ? test_read_file(path, &size) : NULL;
    if (!*ret_file)
        SKIP("SPILLWAY_ASSETS has no models/light_squeezenet_output_0.pb");
    REQUIRE(size > count * sizeof(float));
    return (const float *)(const void *)(*ret_file + size - count * sizeof(float));
}

/* ONNX's "light" models carry weights of one value each, and every stored number is 1/1000: this checks the wiring
 * (softmax at the end, 1,000 classes), tests/task checks numbers against Python's runtime. */
TEST(light_squeezenet_gives_its_stored_answer)
{
    sp_session *session = open_asset("models/light_squeezenet.onnx", 1, 1);
    const sp_engine_ports *ports = sp_session_ports(session);
    REQUIRE(ports->input_count == 1 && ports->output_count == 1);
    size_t count = 1000;
    float *in = malloc(3 * 224 * 224 * sizeof(float)), out[1000];
    char *file = NULL;
    REQUIRE(in != NULL);
    for (size_t i = 0; i < 3 * 224 * 224; i++)
        in[i] = 1;
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out, sizeof(out));
    sp_error err = { 0 };
    CHECK_INT(sp_session_run(session, 0, &input, 1, &output, 1, &err), SP_OK);
    const float *want = stored_output(count, &file);
    float stored[1000];
    memcpy(stored, want, sizeof(stored)); /* it may lie unaligned in the file */
    double worst = 0;
    for (size_t i = 0; i < count; i++)
        worst = fmax(worst, fabs((double)out[i] - (double)stored[i]));
    CHECK(worst < 1e-5);
    free(file);
    free(in);
    sp_session_free(session);
}

TEST(shapes_and_sizes_are_checked_before_anything_runs)
{
    sp_session *session = open_asset("models/light_squeezenet.onnx", 1, 1);
    const sp_engine_ports *ports = sp_session_ports(session);
    float *in = calloc(3 * 224 * 224, sizeof(float)), out[1000];
    REQUIRE(in != NULL);
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out, sizeof(out));
    sp_error err = { 0 };
    sp_engine_tensor bad = input;
    bad.dims[2] = 223;
    CHECK_INT(sp_session_run(session, 0, &bad, 1, &output, 1, &err), SP_INVALID);
    CHECK(strstr(err.message, ports->inputs[0].name) && strstr(err.message, "223"));
    bad = input;
    bad.rank = 3;
    CHECK_INT(sp_session_run(session, 0, &bad, 1, &output, 1, &err), SP_INVALID);
    bad = input;
    bad.dtype = SP_ENGINE_F16;
    CHECK_INT(sp_session_run(session, 0, &bad, 1, &output, 1, &err), SP_INVALID);
    bad = input;
    bad.size_bytes -= 1;
    CHECK_INT(sp_session_run(session, 0, &bad, 1, &output, 1, &err), SP_INVALID);
    bad = input;
    bad.data = NULL;
    CHECK_INT(sp_session_run(session, 0, &bad, 1, &output, 1, &err), SP_INVALID);
    CHECK_INT(sp_session_run(session, 1, &input, 1, &output, 1, &err), SP_INVALID);
    CHECK_INT(sp_session_run(session, 0, &input, 0, &output, 1, &err), SP_INVALID);
    CHECK_INT(sp_session_run(session, 0, &input, 1, &output, 1, &err), SP_OK); /* and the lane is none the worse */
    free(in);
    sp_session_free(session);
}

TEST(an_output_may_be_left_to_the_engine)
{
    sp_session *session = open_asset("models/light_squeezenet.onnx", 1, 1);
    const sp_engine_ports *ports = sp_session_ports(session);
    float *in = calloc(3 * 224 * 224, sizeof(float)), out[1000];
    REQUIRE(in != NULL);
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out, sizeof(out));
    sp_error err = { 0 };
    REQUIRE(sp_session_run(session, 0, &input, 1, &output, 1, &err) == SP_OK);
    for (int turn = 0; turn < 3; turn++) { /* left, bound, left again */
        sp_engine_tensor left = { .dtype = output.dtype };
        if (turn == 1)
            left = output;
        REQUIRE(sp_session_run(session, 0, &input, 1, &left, 1, &err) == SP_OK);
        REQUIRE(left.data != NULL && left.size_bytes == sizeof(out));
        CHECK_INT(left.rank, output.rank);
        CHECK_BYTES(left.data, out, sizeof(out));
    }
    free(in);
    sp_session_free(session);
}

TEST(a_model_in_memory_answers_as_its_file_does)
{
    sp_session *sessions[2] = { open_asset("models/squeezenet_fp16.onnx", 1, 1) };
    size_t size = 0, count = 3 * 224 * 224;
    char *file = test_read_file(test_asset("models/squeezenet_fp16.onnx"), &size);
    uint16_t *in = malloc(count * sizeof(*in)), out[2][1000];
    const sp_engine *engine = NULL;
    sp_error err = { 0 };
    REQUIRE(file && in && sp_engine_open("onnxruntime", &engine, &err) == SP_OK);
    sp_session_options options = sp_session_options_default(NULL);
    CHECK_INT(sp_session_open(engine, &options, &sessions[1], &err), SP_INVALID);
    options.bytes = sp_view_make(file, size / 2);
    CHECK_INT(sp_session_open(engine, &options, &sessions[1], &err), SP_CORRUPT);
    options.bytes = sp_view_make(file, size);
    REQUIRE(sp_session_open(engine, &options, &sessions[1], &err) == SP_OK);
    free(file); /* a loaded model needs its bytes no more */
    for (size_t i = 0; i < count; i++)
        in[i] = (uint16_t)(0x3000 + test_random_between(0, 0x8ff)); /* 0.125 .. 0.6 */
    for (int i = 0; i < 2; i++) {
        const sp_engine_ports *ports = sp_session_ports(sessions[i]);
        sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, count * sizeof(*in));
        sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out[i], sizeof(out[i]));
        CHECK_INT(sp_session_run(sessions[i], 0, &input, 1, &output, 1, &err), SP_OK);
        sp_session_free(sessions[i]);
    }
    CHECK_BYTES(out[1], out[0], sizeof(out[0]));
    free(in);
}

typedef struct lane_job {
    sp_session *session;
    int lane;
    const float *want;
    float *image;
    int wrong;
} lane_job;

static void *run_lane(void *argument)
{
    lane_job *job = argument;
    const sp_engine_ports *ports = sp_session_ports(job->session);
    float out[1000];
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, job->image, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out, sizeof(out));
    for (int i = 0; i < 5; i++) {
        sp_error err = { 0 };
        if (sp_session_run(job->session, job->lane, &input, 1, &output, 1, &err) ||
            memcmp(out, job->want, sizeof(out)) != 0)
            job->wrong++;
    }
    return NULL;
}

TEST(lanes_run_at_once_and_agree)
{
    sp_session *session = open_asset("models/light_squeezenet.onnx", 1, 3);
    const sp_engine_ports *ports = sp_session_ports(session);
    float *image = malloc(3 * 224 * 224 * sizeof(float)), want[1000];
    REQUIRE(image != NULL);
    for (int i = 0; i < 3 * 224 * 224; i++)
        image[i] = (float)test_random_between(-1000, 1000) / 500;
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, image, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, want, sizeof(want));
    sp_error err = { 0 };
    REQUIRE(sp_session_run(session, 0, &input, 1, &output, 1, &err) == SP_OK);
    static lane_job jobs[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        jobs[i] = (lane_job){ .session = session, .lane = i, .want = want, .image = image };
        REQUIRE(pthread_create(&threads[i], NULL, run_lane, &jobs[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(threads[i], NULL);
        CHECK_INT(jobs[i].wrong, 0);
    }
    free(image);
    sp_session_free(session);
}

/* Half precision in and out, and int8 weights: models of other kinds load, describe themselves and answer finitely. */
TEST(models_of_other_precisions_run)
{
    static const struct {
        const char *name;
        int dtype;
    } models[] = { { "models/squeezenet_fp16.onnx", SP_ENGINE_F16 },
                   { "models/shufflenet-v2-12-int8.onnx", SP_ENGINE_F32 } };
    for (size_t m = 0; m < SP_ARRAY_LEN(models); m++) {
        sp_session *session = open_asset(models[m].name, 1, 1);
        const sp_engine_ports *ports = sp_session_ports(session);
        CHECK_INT(ports->inputs[0].dtype, models[m].dtype);
        size_t size = 3 * 224 * 224 * sp_engine_dtype_bytes(models[m].dtype);
        void *in = calloc(1, size);
        REQUIRE(in != NULL);
        sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, size);
        sp_engine_tensor output = { .dtype = ports->outputs[0].dtype };
        sp_error err = { 0 };
        CHECK_INT(sp_session_run(session, 0, &input, 1, &output, 1, &err), SP_OK);
        CHECK_INT((long long)(output.size_bytes / sp_engine_dtype_bytes(output.dtype)), 1000);
        sp_engine_memory memory = { 0 };
        CHECK_INT(sp_session_memory(session, &memory, &err), SP_OK);
        CHECK(memory.host_bytes > 0 && memory.device_bytes == 0);
        free(in);
        sp_session_free(session);
    }
}

TEST(cancel_is_there_and_leaves_later_runs_alone)
{
    sp_session *session = open_asset("models/light_squeezenet.onnx", 1, 1);
    const sp_engine_ports *ports = sp_session_ports(session);
    float *in = calloc(3 * 224 * 224, sizeof(float)), out[1000];
    REQUIRE(in != NULL);
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out, sizeof(out));
    sp_error err = { 0 };
    CHECK(sp_session_cancel(session, 0));
    CHECK_INT(sp_session_run(session, 0, &input, 1, &output, 1, &err), SP_OK);
    free(in);
    sp_session_free(session);
}

/* Engines may set flush-to-zero on the threads that call them; kernels promise the same bits afterwards. */
TEST(kernels_give_the_same_bits_after_the_engine)
{
    sp_kernels_init();
    float values[1000], before[1000], after[1000], tiny[16], sums[2][16];
    for (int i = 0; i < 1000; i++)
        values[i] = (float)test_random_between(-90000, 20000) / 1000; /* exp of the least is a denormal */
    for (int i = 0; i < 16; i++)
        tiny[i] = (float)(i + 1) * 0x1p-130f;
    const float halves[16] = { 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f,
                               0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f };
    sp_kernels.softmax_f32(before, values, 1000);
    sp_kernels.canary_f32(sums[0], tiny, halves, tiny, 16);
    sp_session *session = open_asset("models/light_squeezenet.onnx", 2, 1);
    const sp_engine_ports *ports = sp_session_ports(session);
    float *in = calloc(3 * 224 * 224, sizeof(float)), out[1000];
    REQUIRE(in != NULL);
    sp_engine_tensor input = tensor_of(&ports->inputs[0], 1, in, 3 * 224 * 224 * sizeof(float));
    sp_engine_tensor output = tensor_of(&ports->outputs[0], 1, out, sizeof(out));
    sp_error err = { 0 };
    CHECK_INT(sp_session_run(session, 0, &input, 1, &output, 1, &err), SP_OK);
    sp_kernels.softmax_f32(after, values, 1000);
    sp_kernels.canary_f32(sums[1], tiny, halves, tiny, 16);
    CHECK_BYTES(after, before, sizeof(before));
    CHECK_BYTES(sums[1], sums[0], sizeof(sums[0]));
    CHECK(sums[0][0] > 0);
    free(in);
    sp_session_free(session);
}
