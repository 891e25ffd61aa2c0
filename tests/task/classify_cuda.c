/* SPDX-License-Identifier: Apache-2.0
 * A classifier with its lanes on a device (fake_cuda.c) against one on the host, over the steered engine: the same answers to
 * the bit, whatever comes together in a batch; nothing allocated in steady state; every call that can fail does so once. */
#include "fake_cuda.h"
#include "steered_model.h"
#include "task/classify.h"
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS 16
#define TENSOR (3 * 8 * 8)

const sp_engine_api *sp_engine_api_get(uint32_t host_abi);

typedef struct fixture {
    sp_engine engine;
    sp_model *host_model, *model;
    sp_classifier *host, *device;
} fixture;

typedef struct input {
    uint8_t *rgb; /* NULL: the tensor */
    int w, h;
    float tensor[TENSOR];
    bool pinned;
} input;

static input inputs[ITEMS];

static sp_status open_device(fixture *f, int lanes, int batch, sp_error *reterr)
{
    const sp_classify_options options = { .provider = "cuda", .threads = 1, .lanes = lanes, .max_batch = batch,
                                          .cuda_api = &fake_cuda_api };
    sp_cuda *cuda = NULL;
    REQUIRE(fake_cuda_api.open(0, 0, &cuda, NULL) == SP_OK);
    sp_classify_options device = options;
    device.cuda = cuda;
    return sp_classify_open(&f->engine, f->model, &device, &f->device, reterr);
}

static void open_both(fixture *f, int lanes, int batch)
{
    sp_error err = { 0 };
    const sp_classify_options options = { .threads = 1, .lanes = 1, .max_batch = batch };
    make_repository("bilinear", 270);
    fake_cuda_reset();
    *f = (fixture){ 0 };
    REQUIRE(sp_engine_wrap(sp_engine_api_get(SP_ENGINE_ABI), &f->engine, &err) == SP_OK);
    REQUIRE(sp_model_find(repository, NULL, &f->host_model, &err) == SP_OK);
    REQUIRE(sp_model_find(repository, NULL, &f->model, &err) == SP_OK);
    REQUIRE(sp_classify_open(&f->engine, f->host_model, &options, &f->host, &err) == SP_OK);
    sp_status s = open_device(f, lanes, batch, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(s == SP_OK);
    CHECK(sp_classify_on_device(f->device) && !sp_classify_on_device(f->host));
}

static void drop_inputs(void)
{
    for (int i = 0; i < ITEMS; i++) {
        if (inputs[i].rgb && inputs[i].pinned)
            fake_cuda_api.host_unregister(NULL, inputs[i].rgb);
        free(inputs[i].rgb);
        inputs[i] = (input){ 0 };
    }
}

static void close_both(fixture *f)
{
    drop_inputs();
    sp_classify_close(f->device);
    sp_classify_close(f->host);
    sp_model_free(f->model);
    sp_model_free(f->host_model);
    CHECK_INT(fake_cuda_held(), 0);
}

/* Pictures of many sizes up to `side`, some of them in registered memory, and a tensor now and then. */
static void make_inputs(int side, bool tensors)
{
    drop_inputs();
    for (int i = 0; i < ITEMS; i++) {
        input *in = &inputs[i];
        if (tensors && test_random_between(0, 3) == 0) {
            for (int k = 0; k < TENSOR; k++)
                in->tensor[k] = (float)(test_random() % 1000) / 1001;
            continue;
        }
        in->w = test_random_between(1, side);
        in->h = test_random_between(1, side);
        size_t bytes = (size_t)in->w * (size_t)in->h * 3;
        in->rgb = malloc(bytes);
        REQUIRE(in->rgb != NULL);
        for (size_t k = 0; k < bytes; k++)
            in->rgb[k] = (uint8_t)test_random();
        in->pinned = test_random_between(0, 1) && fake_cuda_api.host_register(NULL, in->rgb, bytes, NULL) == SP_OK;
    }
}

static sp_status put(sp_classifier *c, int lane, int index, const input *in, sp_error *reterr)
{
    return in->rgb ? sp_classify_put_picture(c, lane, index, in->rgb, in->w, in->h, in->pinned, reterr)
                   : sp_classify_put_tensor(c, lane, index, in->tensor, false, reterr);
}

/* Items first .. of the device's last run against the host's answers, one by one. */
static void check_answers(fixture *f, int lane, int first, int count, int top_k)
{
    for (int i = 0; i < count; i++) {
        sp_class_score here[SP_LIMIT_TOP_K] = { 0 }, there[SP_LIMIT_TOP_K] = { 0 };
        int here_count = 0, there_count = 0;
        REQUIRE(put(f->host, 0, 0, &inputs[first + i], NULL) == SP_OK);
        REQUIRE(sp_classify_run_items(f->host, 0, 0, 1, top_k, NULL) == SP_OK);
        REQUIRE(sp_classify_answer(f->host, 0, 0, top_k, here, &here_count, NULL) == SP_OK);
        REQUIRE(sp_classify_answer(f->device, lane, i, top_k, there, &there_count, NULL) == SP_OK);
        CHECK_INT(here_count, there_count);
        CHECK_BYTES(there, here, sizeof(here[0]) * (size_t)here_count);
    }
}

static void put_all(fixture *f, int lane, int count)
{
    for (int i = 0; i < count; i++)
        REQUIRE(put(f->device, lane, i, &inputs[i], NULL) == SP_OK);
}

TEST(pictures_and_tensors_of_one_batch_are_answered_as_on_the_host)
{
    fixture f;
    open_both(&f, 2, ITEMS);
    for (int turn = 0; turn < 20; turn++) {
        int count = test_random_between(1, ITEMS), lane = turn & 1;
        make_inputs(40, true);
        put_all(&f, lane, count);
        REQUIRE(sp_classify_run_items(f.device, lane, 0, count, 3, NULL) == SP_OK);
        check_answers(&f, lane, 0, count, 3);
    }
    close_both(&f);
}

TEST(halves_of_a_batch_run_without_being_copied_again)
{
    fixture f;
    open_both(&f, 1, 10); /* no power of two: the last bucket is smaller */
    make_inputs(30, true);
    put_all(&f, 0, 10);
    for (int first = 0; first < 10; first++) {
        for (int count = 1; first + count <= 10; count++) {
            REQUIRE(sp_classify_run_items(f.device, 0, first, count, 4, NULL) == SP_OK);
            check_answers(&f, 0, first, count, 4);
        }
    }
    close_both(&f);
}

TEST(larger_pictures_than_before_find_room_in_the_next_batch)
{
    fixture f;
    open_both(&f, 1, ITEMS);
    make_inputs(8, false);
    put_all(&f, 0, ITEMS);
    REQUIRE(sp_classify_run_items(f.device, 0, 0, ITEMS, 2, NULL) == SP_OK);
    make_inputs(200, false);
    int prepared[3];
    for (int turn = 0; turn < 3; turn++) {
        fake_cuda_reset();
        put_all(&f, 0, ITEMS);
        REQUIRE(sp_classify_run_items(f.device, 0, 0, ITEMS, 2, NULL) == SP_OK);
        prepared[turn] = fake_cuda.prepared;
        check_answers(&f, 0, 0, ITEMS, 2);
    }
    CHECK(prepared[0] < ITEMS); /* the others on the host */
    CHECK_INT(prepared[1], ITEMS);
    CHECK_INT(fake_cuda.allocations, 0);
    close_both(&f);
}

TEST(without_device_memory_for_pictures_the_host_prepares_them)
{
    fixture f;
    open_both(&f, 1, ITEMS);
    make_inputs(100, false);
    fake_cuda_reset();
    fake_cuda.fail_at = 1;
    fake_cuda.status = SP_NOMEM;
    put_all(&f, 0, ITEMS); /* it asks for more once, and is refused */
    CHECK_INT(fake_cuda.allocations, 1);
    REQUIRE(sp_classify_run_items(f.device, 0, 0, ITEMS, 2, NULL) == SP_OK);
    check_answers(&f, 0, 0, ITEMS, 2);
    fake_cuda_reset();
    put_all(&f, 0, ITEMS);
    CHECK_INT(fake_cuda.allocations, 0); /* and does not ask again */
    close_both(&f);
}

TEST(nothing_is_allocated_in_steady_state)
{
    fixture f;
    open_both(&f, 2, ITEMS);
    make_inputs(64, true);
    for (int turn = 0; turn < 300; turn++) {
        if (turn == 4) /* both lanes have seen the sizes */
            fake_cuda_reset();
        put_all(&f, turn & 1, ITEMS);
        REQUIRE(sp_classify_run_items(f.device, turn & 1, 0, 1 + turn % ITEMS, 3, NULL) == SP_OK);
    }
    CHECK(fake_cuda.calls > 1000);
    CHECK_INT(fake_cuda.allocations, 0);
    close_both(&f);
}

TEST(a_number_that_is_not_finite_is_its_own_items_failure)
{
    fixture f;
    sp_error err = { 0 };
    sp_class_score scores[4];
    int count;
    open_both(&f, 1, 4);
    make_inputs(8, false);
    drop_inputs();
    inputs[1].tensor[4] = 3; /* the engine's trick: NaN */
    put_all(&f, 0, 3);
    REQUIRE(sp_classify_run_items(f.device, 0, 0, 3, 2, NULL) == SP_OK);
    CHECK_INT(sp_classify_answer(f.device, 0, 0, 2, scores, &count, &err), SP_OK);
    CHECK_INT(sp_classify_answer(f.device, 0, 1, 2, scores, &count, &err), SP_CORRUPT);
    CHECK_TEXT(err.code, "not_finite");
    CHECK_TEXT(err.message, "model m gives no finite number for class 0");
    CHECK_INT(sp_classify_answer(f.device, 0, 2, 2, scores, &count, &err), SP_OK);
    close_both(&f);
}

/* A batch with call number `fail_at` failing; false = so many calls were not made. */
static bool run_failing(fixture *f, int fail_at, sp_status status)
{
    sp_error err = { 0 };
    sp_status s = SP_OK;
    fake_cuda_reset();
    fake_cuda.fail_at = fail_at;
    fake_cuda.status = status;
    for (int i = 0; i < 4 && !s; i++)
        s = put(f->device, 0, i, &inputs[i], &err);
    if (!s)
        s = sp_classify_run_items(f->device, 0, 0, 4, 2, &err);
    bool failed = fake_cuda.calls >= fail_at && s;
    if (failed)
        CHECK_INT(s, status);
    bool reached = fake_cuda.calls >= fail_at;
    fake_cuda_reset();
    return reached;
}

TEST(every_call_of_a_batch_may_fail_and_the_next_batch_is_right)
{
    fixture f;
    static const sp_status statuses[] = { SP_NOMEM, SP_UNAVAILABLE, SP_INTERNAL };
    open_both(&f, 1, 4);
    make_inputs(20, true);
    for (size_t k = 0; k < SP_ARRAY_LEN(statuses); k++) {
        int failed = 0;
        for (int fail_at = 1; run_failing(&f, fail_at, statuses[k]); fail_at++) {
            failed++;
            put_all(&f, 0, 4);
            REQUIRE(sp_classify_run_items(f.device, 0, 0, 4, 2, NULL) == SP_OK);
            check_answers(&f, 0, 0, 4, 2);
        }
        CHECK(failed >= 12);
    }
    close_both(&f);
}

TEST(every_call_of_opening_may_fail_and_nothing_is_left)
{
    fixture f;
    int failed = 0;
    open_both(&f, 2, 4);
    sp_classify_close(f.device);
    f.device = NULL;
    CHECK_INT(fake_cuda_held(), 0);
    for (int fail_at = 1;; fail_at++) {
        sp_error err = { 0 };
        fake_cuda_reset();
        fake_cuda.fail_at = fail_at;
        fake_cuda.status = SP_NOMEM;
        sp_status s = open_device(&f, 2, 4, &err);
        if (s == SP_OK && fake_cuda.calls < fail_at)
            break;
        if (s) {
            CHECK_INT(s, SP_NOMEM);
            CHECK(f.device == NULL);
            CHECK_INT(fake_cuda_held(), 0);
            failed++;
        } else { /* making a lane wider: it need not */
            sp_classify_close(f.device);
            f.device = NULL;
        }
        REQUIRE(fail_at < 1000);
    }
    CHECK(failed > 30);
    close_both(&f);
}

typedef struct busy_lane {
    fixture *f;
    int lane, wrong;
} busy_lane;

static sp_class_score expected[ITEMS];

static void *keep_busy(void *argument)
{
    busy_lane *b = argument;
    for (int turn = 0; turn < 200; turn++) {
        int count = 1 + (turn * 7 + b->lane) % ITEMS;
        bool good = true;
        for (int i = 0; i < count; i++)
            good = good && put(b->f->device, b->lane, i, &inputs[i], NULL) == SP_OK;
        good = good && sp_classify_run_items(b->f->device, b->lane, 0, count, 1, NULL) == SP_OK;
        for (int i = 0; i < count && good; i++) {
            sp_class_score score = { 0 };
            int scores;
            good = sp_classify_answer(b->f->device, b->lane, i, 1, &score, &scores, NULL) == SP_OK &&
                   memcmp(&score, &expected[i], sizeof(score)) == 0;
        }
        b->wrong += !good;
    }
    return NULL;
}

TEST(two_lanes_at_once_do_not_mix)
{
    fixture f;
    open_both(&f, 2, ITEMS);
    make_inputs(24, true);
    for (int i = 0; i < ITEMS; i++) {
        int count;
        REQUIRE(put(f.host, 0, 0, &inputs[i], NULL) == SP_OK);
        REQUIRE(sp_classify_run_items(f.host, 0, 0, 1, 1, NULL) == SP_OK);
        REQUIRE(sp_classify_answer(f.host, 0, 0, 1, &expected[i], &count, NULL) == SP_OK);
    }
    busy_lane lanes[2] = { { &f, 0, 0 }, { &f, 1, 0 } };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, keep_busy, &lanes[1]) == 0);
    (void)keep_busy(&lanes[0]);
    (void)pthread_join(thread, NULL);
    CHECK_INT(lanes[0].wrong, 0);
    CHECK_INT(lanes[1].wrong, 0);
    close_both(&f);
}
