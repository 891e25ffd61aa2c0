/* SPDX-License-Identifier: Apache-2.0
 * Detectors' heads on a device (the stand-in, or a GPU) against sp_detect_decode on the host: made-up outputs of every head, f32
 * and f16, several pictures in a batch; the same boxes, scores and classes to the bit, and the same refusals. */
#include <math.h>
#include <stdio.h>

#include "../kernels/cuda/house.h"
#include "kernels/arith.h"
#include "task/detect_cuda.h"

#define MOST_OUTPUTS 4
#define BATCH 3

typedef struct head_case {
    const char *name;
    sp_detect_settings settings;
    int output_count;
    int64_t dims[MOST_OUTPUTS][2]; /* rows, columns */
    float low[MOST_OUTPUTS], high[MOST_OUTPUTS];
} head_case;

/* An input of 96 x 64: strides 8, 16 and 32 give 96, 24 and 6 cells. */
#define LEVELS .level_count = 3, .strides = { 8, 16, 32 }
#define SUPPRESS .threshold = 0.3f, .iou = 0.45f, .top_k = 100

static const head_case cases[] = {
    { "yolox", { .head = SP_HEAD_YOLOX, .nms = SP_NMS_AGNOSTIC, SUPPRESS, LEVELS }, 1, { { 126, 5 + 37 } }, { -0.1f }, { 1 } },
    { "yolox, one class", { .head = SP_HEAD_YOLOX, .nms = SP_NMS_CLASS, SUPPRESS, LEVELS }, 1, { { 126, 6 } }, { 0 }, { 1.5f } },
    { "yolov5", { .head = SP_HEAD_YOLOV5, .nms = SP_NMS_CLASS, SUPPRESS }, 1, { { 77, 5 + 4 } }, { 0 }, { 1.2f } },
    { "yolov8", { .head = SP_HEAD_YOLOV8, .nms = SP_NMS_CLASS, SUPPRESS }, 1, { { 4 + 9, 133 } }, { -1 }, { 0.6f } },
    { "yolov8, no suppression", { .head = SP_HEAD_YOLOV8, .nms = SP_NMS_NONE, SUPPRESS }, 1, { { 4 + 1, 31 } }, { 0 }, { 1 } },
    { "ssd, corners", { .head = SP_HEAD_SSD, .nms = SP_NMS_CLASS, SUPPRESS, .boxes = SP_BOXES_CORNERS, .fractions = true,
                        .background = 0 }, 2, { { 50, 4 }, { 50, 3 } }, { 0, 0 }, { 1, 1 } },
    { "ssd, centre, softmax", { .head = SP_HEAD_SSD, .nms = SP_NMS_AGNOSTIC, SUPPRESS, .boxes = SP_BOXES_CENTRE,
                                .activation = SP_SCORES_SOFTMAX, .background = -1 }, 2, { { 41, 4 }, { 41, 40 } }, { 0, -2 }, { 60, 9 } },
    { "ssd, offsets, sigmoid", { .head = SP_HEAD_SSD, .nms = SP_NMS_CLASS, SUPPRESS, LEVELS, .boxes = SP_BOXES_OFFSETS,
                                 .activation = SP_SCORES_SIGMOID, .background = 2, .variances = { 0.1f, 0.2f },
                                 .anchor_counts = { 1, 2, 1 }, .anchors = { { { 12, 20 } }, { { 30, 18 }, { 25, 25 } }, { { 60, 40 } } } },
      2, { { 96 + 48 + 6, 4 }, { 96 + 48 + 6, 5 } }, { -2, -6 }, { 2, 2 } },
    { "nanodet", { .head = SP_HEAD_NANODET, .nms = SP_NMS_CLASS, SUPPRESS, .level_count = 2, .strides = { 8, 16 } }, 4,
      { { 96, 7 }, { 24, 7 }, { 96, 4 * 8 }, { 24, 4 * 8 } }, { 0, 0, -3, -3 }, { 0.5f, 0.9f, 3, 3 } },
    { "nanodet, many bins", { .head = SP_HEAD_NANODET, .nms = SP_NMS_AGNOSTIC, SUPPRESS, .level_count = 1, .strides = { 32 } }, 2,
      { { 6, 1 }, { 6, 4 * 33 } }, { 0, -8 }, { 1, 8 } },
};

typedef struct fixture {
    sp_model model;
    sp_engine_port in, out[MOST_OUTPUTS];
    sp_engine_ports ports;
    sp_detect_decoder *decoder;
    void *host[MOST_OUTPUTS], *device[MOST_OUTPUTS];
    sp_engine_tensor on_host[MOST_OUTPUTS], on_device[MOST_OUTPUTS];
} fixture;

static float random_between(float low, float high)
{
    return low + (high - low) * (float)((double)(test_random() >> 11) / 9007199254740992.0);
}

/* Mostly a head's numbers; now and then one that no picture gives, but no NaN where it is a score. */
static float number_of(const head_case *c, int output, bool odd, size_t at)
{
    static const float few[] = { INFINITY, -INFINITY, 3e38f, -0.0f, 0.0f, 100.0f };
    bool boxes = c->output_count > 1 ? output == (c->settings.head == SP_HEAD_SSD ? 0 : output)
                 : c->settings.head == SP_HEAD_YOLOV8 ? at / (size_t)c->dims[0][1] < 4
                                                      : at % (size_t)c->dims[0][1] < 4;
    if (c->settings.head == SP_HEAD_NANODET)
        boxes = output >= c->settings.level_count;
    if (odd && boxes && test_random() % 37 == 0)
        return few[test_random() % SP_ARRAY_LEN(few)];
    if (test_random() % 9 == 0) /* ties */
        return c->high[output] - 0.125f * (float)(test_random() % 3);
    if (c->output_count == 1 && boxes && c->settings.head != SP_HEAD_YOLOX)
        return random_between(0, 60);
    return random_between(c->low[output], c->high[output]);
}

static void fill(cuda_house *house, fixture *f, const head_case *c, bool half, bool odd)
{
    for (int i = 0; i < c->output_count; i++) {
        size_t item = (size_t)(c->dims[i][0] * c->dims[i][1]), count = item * BATCH, each = half ? 2 : 4;
        f->host[i] = malloc(count * each);
        REQUIRE(f->host[i] != NULL);
        for (size_t k = 0; k < count; k++) {
            float value = number_of(c, i, odd, k % item);
            if (half)
                ((uint16_t *)f->host[i])[k] = sp_f32_to_f16(value);
            else
                ((float *)f->host[i])[k] = value;
        }
        f->device[i] = cuda_house_put(house, f->host[i], count * each);
        f->on_host[i] = (sp_engine_tensor){ .data = f->host[i], .size_bytes = count * each, .rank = 3,
                                            .dtype = half ? SP_ENGINE_F16 : SP_ENGINE_F32,
                                            .dims = { BATCH, c->dims[i][0], c->dims[i][1] } };
        f->on_device[i] = f->on_host[i];
        f->on_device[i].data = f->device[i];
        f->on_device[i].memory = SP_ENGINE_CUDA;
    }
}

static void open_case(fixture *f, const head_case *c)
{
    static char name[] = "made-up", settings_path[] = "spillway.json";
    static const char *const names[] = { "a", "b", "c", "d" };
    sp_error err = { 0 };
    memset(f, 0, sizeof(*f));
    f->model.task = SP_MODEL_DETECT;
    f->model.detect = c->settings;
    memcpy(f->model.name, name, sizeof(name));
    f->model.settings_path = settings_path;
    f->in = (sp_engine_port){ .name = "in", .dtype = SP_ENGINE_F32, .rank = 4, .dims = { -1, 3, 64, 96 } };
    for (int i = 0; i < c->output_count; i++)
        f->out[i] = (sp_engine_port){ .name = names[i], .dtype = SP_ENGINE_F32, .rank = 3, .dims = { -1, c->dims[i][0], c->dims[i][1] } };
    if (c->settings.head == SP_HEAD_SSD) {
        memcpy(f->model.detect.boxes_output, "a", 2);
        memcpy(f->model.detect.scores_output, "b", 2);
    }
    f->ports = (sp_engine_ports){ .input_count = 1, .output_count = c->output_count, .inputs = &f->in, .outputs = f->out };
    sp_status s = sp_detect_decoder_new(&f->model, &f->ports, &f->decoder, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s: %s", c->name, err.message);
    REQUIRE(s == SP_OK);
}

static void close_case(cuda_house *house, fixture *f, const head_case *c)
{
    for (int i = 0; i < c->output_count; i++) {
        free(f->host[i]);
        house->api->release(house->cuda, f->device[i]);
        f->host[i] = NULL;
    }
}

/* The batch on the device, then each picture on both; returns how many boxes the host gave. */
static int compare(cuda_house *house, fixture *f, const head_case *c, const sp_detect_params *params)
{
    enum { W = 120, H = 90 };
    static sp_cuda_detection kept[BATCH][SP_LIMIT_DETECT_BOXES];
    sp_detect_box boxes[2][SP_LIMIT_DETECT_BOXES];
    int32_t counts[BATCH], bad[BATCH];
    int rows = 0, told = 0;
    const float *anchors = sp_detect_anchors(f->decoder, &rows);
    float *device_anchors = rows ? cuda_house_put(house, anchors, (size_t)rows * 16) : NULL;
    sp_detect_on_device on;
    sp_error err[2] = { 0 };
    REQUIRE(sp_detect_head_on(f->decoder, f->on_device, BATCH, params, device_anchors, &on, &err[0]) == SP_OK);
    REQUIRE(on.nms.most == SP_LIMIT_DETECT_BOXES);
    void *space = cuda_house_put(house, NULL, house->api->post->detect_space(&on.head, &on.nms));
    const sp_cuda_detections ret = { cuda_house_put(house, NULL, sizeof(kept)), cuda_house_put(house, NULL, sizeof(counts)),
                                     cuda_house_put(house, NULL, sizeof(bad)) };
    CHECK_INT(house->api->post->detect(house->stream, &on.head, &on.nms, on.classwise, &ret, space, &err[0]), SP_OK);
    cuda_house_get(house, kept, ret.boxes, sizeof(kept));
    cuda_house_get(house, counts, ret.count, sizeof(counts));
    cuda_house_get(house, bad, ret.bad, sizeof(bad));
    for (int b = 0; b < BATCH; b++) {
        int count[2] = { 0, 0 };
        sp_status s[2] = {
            sp_detect_decode(f->decoder, f->on_host, b, W, H, params, boxes[0], &count[0], &err[0]),
            sp_detect_answer(f->decoder, kept[b], counts[b], bad[b], W, H, params, boxes[1], &count[1], &err[1]),
        };
        CHECK_INT(s[1], s[0]);
        if (s[0] == SP_OK && s[1] == SP_OK &&
            (count[0] != count[1] || memcmp(boxes[0], boxes[1], (size_t)count[0] * sizeof(boxes[0][0])) != 0))
            test_fail(__FILE__, __LINE__, "%s: picture %d: %d boxes on the device, %d on the host, or other ones", c->name, b, count[1],
                      count[0]);
        if (s[0])
            CHECK_TEXT(err[1].message, err[0].message);
        told += count[0];
    }
    house->api->release(house->cuda, ret.boxes);
    house->api->release(house->cuda, ret.count);
    house->api->release(house->cuda, ret.bad);
    house->api->release(house->cuda, space);
    house->api->release(house->cuda, device_anchors);
    return told;
}

TEST(detect_cuda_heads_are_decoded_as_on_the_host)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        const head_case *c = &cases[i];
        fixture f;
        int told = 0;
        open_case(&f, c);
        CUDA_ORDERS(&house, order) {
            sp_detect_params params = sp_detect_params_default();
            if (order == 3)
                params = (sp_detect_params){ .threshold = 0.05f, .iou = 0.8f, .top_k = 5 };
            fill(&house, &f, c, order % 2, order >= 3);
            told += compare(&house, &f, c, &params);
            close_case(&house, &f, c);
        }
        if (told == 0)
            test_fail(__FILE__, __LINE__, "%s: no box at all, so nothing was compared", c->name);
        sp_detect_decoder_free(f.decoder);
    }
    cuda_house_done(&house);
}

TEST(detect_cuda_scores_that_are_no_numbers_are_refused_alike)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
        const head_case *c = &cases[i];
        const sp_detect_params params = sp_detect_params_default();
        int output = c->settings.head == SP_HEAD_SSD ? 1 : 0;
        size_t rows = (size_t)c->dims[output][0], columns = (size_t)c->dims[output][1];
        float *values;
        fixture f;
        open_case(&f, c);
        fill(&house, &f, c, false, false);
        values = f.host[output];
        values += rows * columns; /* the second picture: all scores of its last box */
        for (size_t k = c->settings.head == SP_HEAD_YOLOV8 ? 4 : 0; k < (c->settings.head == SP_HEAD_YOLOV8 ? rows : columns); k++) {
            if (c->settings.head == SP_HEAD_YOLOV8)
                values[k * columns + columns - 1] = NAN;
            else if (c->output_count > 1 || k >= 4)
                values[(rows - 1) * columns + k] = NAN;
        }
        REQUIRE(house.api->copy_in(house.stream, f.device[output], f.host[output], rows * columns * BATCH * 4, NULL) == SP_OK);
        REQUIRE(house.api->stream_sync(house.stream, NULL) == SP_OK);
        (void)compare(&house, &f, c, &params); /* how many boxes is not asked here */
        sp_detect_box boxes[SP_LIMIT_DETECT_BOXES];
        int count;
        CHECK_INT(sp_detect_decode(f.decoder, f.on_host, 1, 9, 9, &params, boxes, &count, NULL), SP_CORRUPT);
        close_case(&house, &f, c);
        sp_detect_decoder_free(f.decoder);
    }
    cuda_house_done(&house);
}

TEST(detect_cuda_shapes_are_looked_at)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    const sp_detect_params params = sp_detect_params_default();
    sp_detect_on_device on;
    sp_error err = { 0 };
    fixture f;
    open_case(&f, &cases[0]);
    fill(&house, &f, &cases[0], false, false);
    CHECK_INT(sp_detect_head_on(f.decoder, f.on_host, BATCH, &params, NULL, &on, &err), SP_CORRUPT); /* not the device's */
    CHECK_INT(sp_detect_head_on(f.decoder, f.on_device, BATCH + 1, &params, NULL, &on, &err), SP_CORRUPT);
    f.on_device[0].dims[1]--;
    CHECK_INT(sp_detect_head_on(f.decoder, f.on_device, BATCH, &params, NULL, &on, &err), SP_CORRUPT);
    CHECK_TEXT(err.code, "head");
    close_case(&house, &f, &cases[0]);
    sp_detect_decoder_free(f.decoder);
    cuda_house_done(&house);
}
