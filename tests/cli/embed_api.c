/* SPDX-License-Identifier: Apache-2.0
 * libspillway's calls through the shared library: refusals, threads on few lanes, tensors. Needs the default model
 * (TEST_MODELS is var/models, from meson) and test media; what is missing is a skip. */
#include "spillway.h"
#include "test.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CALLERS = 6, ROUNDS = 5 };

static const char *repository(void)
{
    if (access(TEST_MODELS "/efficientnet-lite0/1/model.onnx", R_OK) != 0)
        SKIP("no efficientnet-lite0 in %s; `make model` fetches it", TEST_MODELS);
    return TEST_MODELS;
}

static spillway *open_with(int lanes, int tensors_only)
{
    spillway_options options = spillway_options_default();
    spillway_error err = { 0 };
    spillway *handle = NULL;

    options.model_repository = repository();
    options.model = "efficientnet-lite0";
    options.threads = 1;
    options.lanes = lanes;
    options.tensors_only = tensors_only;
    spillway_status status = spillway_open(&options, &handle, &err);
    CHECK_TEXT(err.message, "");
    REQUIRE(status == SPILLWAY_OK);
    return handle;
}

static void *picture(const char *name, size_t *ret_bytes)
{
    const char *path = test_asset(name);

    if (!path)
        SKIP("SPILLWAY_ASSETS has no %s", name);
    return test_read_file(path, ret_bytes);
}

static void refuses(spillway_options options, spillway_status status, const char *word)
{
    spillway_error err = { 0 };
    spillway *handle = (spillway *)&err; /* must stay as it was */

    CHECK_INT(spillway_open(&options, &handle, &err), status);
    CHECK(handle == (spillway *)&err);
    CHECK_INT(err.status, status);
    CHECK(strstr(err.message, word) != NULL);
    CHECK_INT(spillway_open(&options, &handle, NULL), status);
}

TEST(open_refuses_what_cannot_be)
{
    spillway_options options = spillway_options_default();

    unsetenv("SPILLWAY_MODELS");
    refuses(options, SPILLWAY_INVALID, "SPILLWAY_MODELS");
    options.model_repository = "/none";
    refuses(options, SPILLWAY_NOT_FOUND, "/none");
    options.lanes = 65;
    refuses(options, SPILLWAY_INVALID, "lanes");
    options.lanes = -1;
    refuses(options, SPILLWAY_INVALID, "lanes");
    options.lanes = 1;
    options.threads = -1;
    refuses(options, SPILLWAY_INVALID, "threads");
    refuses((spillway_options){ 0 }, SPILLWAY_INVALID, "struct_bytes");
}

TEST(open_refuses_models_and_providers_that_are_not_there)
{
    spillway_options options = spillway_options_default();

    options.model_repository = repository();
    options.model = "none";
    refuses(options, SPILLWAY_NOT_FOUND, "none");
    options.model = "../efficientnet-lite0";
    refuses(options, SPILLWAY_NOT_FOUND, "");
    options.model = "efficientnet-lite0";
    options.provider = "abacus";
    refuses(options, SPILLWAY_INVALID, "abacus");
}

TEST(close_takes_null_and_names_are_never_null)
{
    spillway_close(NULL);
    CHECK_TEXT(spillway_status_name(SPILLWAY_OK), "ok");
    CHECK_TEXT(spillway_status_name(SPILLWAY_TOO_LARGE), "too_large");
    CHECK(spillway_status_name(99) != NULL && spillway_status_name(-1) != NULL);
    CHECK(strchr(spillway_version(), '.') != NULL);
}

TEST(describe_tells_what_was_opened)
{
    spillway *handle = open_with(1, 0);
    spillway_model_info info;
    spillway_port port;

    spillway_describe(handle, &info);
    CHECK_TEXT(info.name, "efficientnet-lite0");
    CHECK_TEXT(info.version, "1");
    CHECK_TEXT(info.provider, "cpu");
    CHECK_INT(strlen(info.digest), 64);
    CHECK_INT(info.class_count, 1000);
    CHECK_INT(info.input_count, 1);
    REQUIRE(spillway_input(handle, 0, &port) == SPILLWAY_OK);
    CHECK_TEXT(port.name, "images");
    CHECK_INT(port.dtype, SPILLWAY_F32);
    CHECK_INT(port.rank, 4);
    CHECK_INT(port.dims[0], -1);
    CHECK_INT(port.dims[3], 224);
    CHECK_INT(spillway_input(handle, 1, &port), SPILLWAY_INVALID);
    CHECK_INT(spillway_output(handle, -1, &port), SPILLWAY_INVALID);
    spillway_close(handle);
}

TEST(classify_refuses_bytes_and_arguments)
{
    spillway *handle = open_with(1, 0);
    spillway_class best[3] = { { .class_id = 77 } };
    spillway_error err = { 0 };
    int32_t count = 55;
    spillway_classify_options options = { 0 };

    CHECK_INT(spillway_classify(handle, "this is no picture", 18, NULL, best, 3, &count, NULL, &err), SPILLWAY_INVALID);
    CHECK_TEXT(err.code, "unknown_format");
    CHECK_INT(spillway_classify(handle, "", 0, NULL, best, 3, &count, NULL, NULL), SPILLWAY_INVALID);
    CHECK_INT(spillway_classify(handle, "x", 1, NULL, best, 0, &count, NULL, &err), SPILLWAY_INVALID);
    CHECK(strstr(err.message, "capacity") != NULL);
    CHECK_INT(spillway_classify(handle, "x", 1, &options, best, 3, &count, NULL, &err), SPILLWAY_INVALID);
    CHECK(strstr(err.message, "struct_bytes") != NULL);
    CHECK_INT(count, 55);
    CHECK_INT(best[0].class_id, 77);
    spillway_close(handle);
}

TEST(classify_obeys_the_callers_pixel_limit)
{
    size_t bytes;
    void *file = picture("media/images/zebra.jpeg", &bytes);
    spillway *handle = open_with(1, 0);
    spillway_class best[1];
    int32_t count;
    spillway_classify_options options = { .struct_bytes = sizeof(options), .max_pixels = 100 };

    CHECK_INT(spillway_classify(handle, file, bytes, &options, best, 1, &count, NULL, NULL), SPILLWAY_TOO_LARGE);
    options.max_pixels = 0;
    CHECK_INT(spillway_classify(handle, file, bytes, &options, best, 1, &count, NULL, NULL), SPILLWAY_OK);
    CHECK_INT(best[0].class_id, 340);
    CHECK_TEXT(best[0].label, "zebra");
    spillway_close(handle);
    free(file);
}

typedef struct caller {
    spillway *handle;
    const void *file;
    size_t bytes;
    float first;
    int wrong;
} caller;

static void *call_again_and_again(void *context)
{
    caller *c = context;

    for (int i = 0; i < ROUNDS; i++) {
        spillway_class best[2];
        spillway_timing timing = { 0 };
        int32_t count = 0;
        spillway_status status = spillway_classify(c->handle, c->file, c->bytes, NULL, best, 2, &count, &timing, NULL);
        c->wrong += status || count != 2 || best[0].probability != c->first || timing.total_ns < timing.inference_ns;
    }
    return NULL;
}

TEST(more_callers_than_lanes_get_equal_answers)
{
    static const char *const names[] = { "media/images/zebra.jpeg", "media/images/kitten_224.png", "media/images/bee.jpeg" };
    void *files[3];
    size_t bytes[3];
    pthread_t threads[CALLERS];
    caller callers[CALLERS];
    spillway_class best[1];
    int32_t count;

    for (int i = 0; i < 3; i++)
        files[i] = picture(names[i], &bytes[i]);
    spillway *handle = open_with(2, 0);
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){ .handle = handle, .file = files[i % 3], .bytes = bytes[i % 3] };
        REQUIRE(spillway_classify(handle, files[i % 3], bytes[i % 3], NULL, best, 1, &count, NULL, NULL) == SPILLWAY_OK);
        callers[i].first = best[0].probability;
    }
    for (int i = 0; i < CALLERS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, call_again_and_again, &callers[i]) == 0);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(callers[i].wrong, 0);
    }
    spillway_close(handle);
    for (int i = 0; i < 3; i++)
        free(files[i]);
}

static spillway_tensor tensor_of(void *data, size_t bytes, int rank, const int64_t *dims)
{
    spillway_tensor tensor = { .data = data, .size_bytes = bytes, .dtype = SPILLWAY_F32, .rank = rank };

    memcpy(tensor.dims, dims, (size_t)rank * sizeof(*dims));
    return tensor;
}

TEST(infer_runs_batches_and_refuses_other_shapes)
{
    const int64_t in_dims[] = { 2, 3, 224, 224 }, out_dims[] = { 2, 1000 };
    size_t in_bytes = 2u * 3 * 224 * 224 * sizeof(float), out_bytes = 2u * 1000 * sizeof(float);
    float *pixels = calloc(1, in_bytes), *logits = calloc(1, out_bytes);
    spillway_tensor in = tensor_of(pixels, in_bytes, 4, in_dims), out = tensor_of(logits, out_bytes, 2, out_dims), bad;
    spillway_error err = { 0 };
    spillway_class best[1];
    int32_t count;
    spillway *handle = open_with(1, 1);

    REQUIRE(pixels && logits);
    CHECK_INT(spillway_infer(handle, &in, 1, &out, 1, &err), SPILLWAY_OK);
    CHECK_TEXT(err.message, "");
    CHECK(logits[0] != 0 && isfinite((double)logits[999]));
    CHECK_BYTES(logits, logits + 1000, 1000 * sizeof(float)); /* two equal items */

    CHECK_INT(spillway_infer(handle, &in, 0, &out, 1, &err), SPILLWAY_INVALID);
    CHECK(strstr(err.message, "0 inputs were given, the model has 1") != NULL);
    bad = in, bad.dtype = SPILLWAY_U8;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);
    CHECK(strstr(err.message, "'images' is f32, not u8") != NULL);
    bad = in, bad.size_bytes--;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);
    bad = in, bad.data = NULL;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);
    bad = in, bad.rank = 9;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);
    bad = in, bad.dims[0] = -1;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);
    bad = in, bad.dims[0] = INT64_MAX, bad.dims[1] = INT64_MAX;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);
    bad = in, bad.dims[2] = 223;
    CHECK_INT(spillway_infer(handle, &bad, 1, &out, 1, &err), SPILLWAY_INVALID);

    CHECK_INT(spillway_classify(handle, "x", 1, NULL, best, 1, &count, NULL, &err), SPILLWAY_UNSUPPORTED);
    CHECK(strstr(err.message, "tensors_only") != NULL);
    spillway_close(handle);
    free(pixels);
    free(logits);
}

TEST(infer_works_on_a_classifiers_handle_too)
{
    const int64_t in_dims[] = { 1, 3, 224, 224 }, out_dims[] = { 1, 1000 };
    size_t in_bytes = 3u * 224 * 224 * sizeof(float), out_bytes = 1000 * sizeof(float);
    float *pixels = calloc(1, in_bytes), *a = calloc(1, out_bytes), *b = calloc(1, out_bytes);
    spillway_tensor in = tensor_of(pixels, in_bytes, 4, in_dims), out = tensor_of(a, out_bytes, 2, out_dims);
    size_t bytes;
    void *file = picture("media/images/bee.jpeg", &bytes);
    spillway_class best[1];
    int32_t count;
    spillway *handle = open_with(1, 0);

    REQUIRE(pixels && a && b);
    CHECK_INT(spillway_infer(handle, &in, 1, &out, 1, NULL), SPILLWAY_OK);
    CHECK_INT(spillway_classify(handle, file, bytes, NULL, best, 1, &count, NULL, NULL), SPILLWAY_OK);
    CHECK_INT(best[0].class_id, 309);
    out.data = b;
    CHECK_INT(spillway_infer(handle, &in, 1, &out, 1, NULL), SPILLWAY_OK);
    CHECK_BYTES(a, b, out_bytes);
    spillway_close(handle);
    free(pixels), free(a), free(b), free(file);
}
