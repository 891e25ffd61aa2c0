/* SPDX-License-Identifier: Apache-2.0
 * spillway.json of a detector: the object "detect", and what each head's own code does before its model where nothing is
 * said. models/README.md has the keys for people. */
#include "task/settings.h"

#include <string.h>

static sp_status read_head(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "yolox", "yolov5", "yolov8", "ssd", "nanodet" }; /* sp_detect_head's order */
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->detect.head = (sp_detect_head)(index + 1);
    return s;
}

static sp_status read_nms(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "class", "agnostic", "none" };
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->detect.nms = (sp_nms_kind)index;
    return s;
}

static sp_status read_share(sp_settings_reader *r, const char *key, const json_t *value, float *ret_share)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= 0 && number <= 1))
        return sp_settings_bad(r, key, "must be a number from 0 to 1");
    *ret_share = (float)number;
    return SP_OK;
}

static sp_status read_threshold(sp_settings_reader *r, const char *key, const json_t *value)
{
    return read_share(r, key, value, &r->model->detect.threshold);
}

static sp_status read_iou(sp_settings_reader *r, const char *key, const json_t *value)
{
    return read_share(r, key, value, &r->model->detect.iou);
}

static sp_status read_whole(sp_settings_reader *r, const char *key, const json_t *value, int least, int most, int *ret_number)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < least || n > most)
        return sp_settings_bad(r, key, "must be a whole number from %d to %d", least, most);
    *ret_number = (int)n;
    return SP_OK;
}

static sp_status read_top_k(sp_settings_reader *r, const char *key, const json_t *value)
{
    return read_whole(r, key, value, 1, SP_LIMIT_DETECT_BOXES, &r->model->detect.top_k);
}

static sp_status read_background(sp_settings_reader *r, const char *key, const json_t *value)
{
    return read_whole(r, key, value, -1, SP_LIMIT_CLASSES, &r->model->detect.background);
}

static sp_status read_strides(sp_settings_reader *r, const char *key, const json_t *value)
{
    size_t count = json_array_size(value);
    if (count < 1 || count > SP_LIMIT_DETECT_LEVELS)
        return sp_settings_bad(r, key, "must be a list of 1 to %d whole numbers", SP_LIMIT_DETECT_LEVELS);
    for (size_t i = 0; i < count; i++) {
        sp_status s = read_whole(r, key, json_array_get(value, i), 1, 1024, &r->model->detect.strides[i]);
        if (s)
            return s;
    }
    r->model->detect.level_count = (int)count;
    return SP_OK;
}

static sp_status read_boxes_output(sp_settings_reader *r, const char *key, const json_t *value)
{
    return sp_settings_text(r, key, value, r->model->detect.boxes_output, sizeof(r->model->detect.boxes_output));
}

static sp_status read_scores_output(sp_settings_reader *r, const char *key, const json_t *value)
{
    return sp_settings_text(r, key, value, r->model->detect.scores_output, sizeof(r->model->detect.scores_output));
}

static sp_status read_boxes(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "corners", "centre", "offsets" }; /* sp_box_form's order */
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->detect.boxes = (sp_box_form)index;
    return s;
}

static sp_status read_units(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "pixels", "fractions" };
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->detect.fractions = index == 1;
    return s;
}

static sp_status read_activation(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "none", "sigmoid", "softmax" }; /* sp_score_form's order */
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->detect.activation = (sp_score_form)index;
    return s;
}

static sp_status read_variances(sp_settings_reader *r, const char *key, const json_t *value)
{
    if (json_array_size(value) != 2)
        return sp_settings_bad(r, key, "must be two numbers, of the centre and of the size");
    for (size_t i = 0; i < 2; i++) {
        sp_status s = sp_settings_number(r, key, json_array_get(value, i), false, &r->model->detect.variances[i]);
        if (s)
            return s;
    }
    return SP_OK;
}

/* A number (a square) or [width, height]. */
static sp_status read_anchor(sp_settings_reader *r, const char *key, const json_t *value, float size[2])
{
    bool pair = json_array_size(value) == 2;
    for (size_t i = 0; i < 2; i++) {
        sp_status s = sp_settings_number(r, key, pair ? json_array_get(value, i) : value, false, &size[i]);
        if (s)
            return s;
        if (size[i] <= 0)
            return sp_settings_bad(r, key, "has sizes above 0, in pixels of the input");
    }
    return SP_OK;
}

static sp_status read_anchors(sp_settings_reader *r, const char *key, const json_t *value)
{
    size_t levels = json_array_size(value);
    if (levels < 1 || levels > SP_LIMIT_DETECT_LEVELS)
        return sp_settings_bad(r, key, "must be a list of 1 to %d lists, one for each stride", SP_LIMIT_DETECT_LEVELS);
    for (size_t level = 0; level < levels; level++) {
        const json_t *list = json_array_get(value, level);
        size_t count = json_array_size(list);
        if (count < 1 || count > SP_LIMIT_DETECT_ANCHORS)
            return sp_settings_bad(r, key, "must have lists of 1 to %d sizes", SP_LIMIT_DETECT_ANCHORS);
        for (size_t i = 0; i < count; i++) {
            sp_status s = read_anchor(r, key, json_array_get(list, i), r->model->detect.anchors[level][i]);
            if (s)
                return s;
        }
        r->model->detect.anchor_counts[level] = (int)count;
    }
    return SP_OK;
}

sp_status sp_settings_detect(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const sp_settings_rule rules[] = {
        { "head", read_head },           { "nms", read_nms },
        { "threshold", read_threshold }, { "iou", read_iou },
        { "top_k", read_top_k },         { "strides", read_strides },
        { "boxes", read_boxes },         { "boxes_output", read_boxes_output },
        { "units", read_units },         { "scores_output", read_scores_output },
        { "anchors", read_anchors },     { "variances", read_variances },
        { "background", read_background }, { "activation", read_activation },
    };
    sp_detect_settings *detect = &r->model->detect;
    if (!json_is_object(value))
        return sp_settings_bad(r, key, "must be an object");
    *detect = (sp_detect_settings){ .threshold = 0.25f, .iou = 0.45f, .top_k = 100, .background = -1,
                                    .variances = { 0.1f, 0.2f } };
    r->prefix = "detect.";
    sp_status s = sp_settings_object(r, value, rules, SP_ARRAY_LEN(rules));
    r->prefix = "";
    if (!s && detect->head == SP_HEAD_UNKNOWN)
        return sp_settings_bad(r, "detect.head", "is missing: yolox, yolov5, yolov8, ssd or nanodet");
    for (int level = 0; !s && detect->boxes == SP_BOXES_OFFSETS && level < SP_MAX(detect->level_count, 1); level++)
        if (!detect->anchor_counts[level] || !detect->level_count)
            return sp_settings_bad(r, "detect.boxes", "\"offsets\" needs strides and anchors, a list for each stride");
    return s;
}

void sp_detect_defaults(sp_model *model)
{
    typedef struct recipe {
        uint8_t fit, pad_value;
        float divisor, mean[3], std[3]; /* of R, G, B */
    } recipe;
    static const recipe recipes[] = {
        [SP_HEAD_YOLOX] = { SP_FIT_CORNER | SP_FIT_BGR, 114, 1, { 0 }, { 1, 1, 1 } },
        [SP_HEAD_YOLOV5] = { SP_FIT_LETTERBOX, 114, 255, { 0 }, { 1, 1, 1 } },
        [SP_HEAD_YOLOV8] = { SP_FIT_LETTERBOX, 114, 255, { 0 }, { 1, 1, 1 } },
        [SP_HEAD_SSD] = { SP_FIT_STRETCH, 0, 1, { 127, 127, 127 }, { 128, 128, 128 } },
        [SP_HEAD_NANODET] = { SP_FIT_LETTERBOX | SP_FIT_BGR, 0, 1, { 123.675f, 116.28f, 103.53f }, { 58.395f, 57.12f, 57.375f } },
    };
    const recipe *usual = &recipes[model->detect.head];
    sp_prep_spec *prep = &model->prep;
    if (!(model->given & SP_GIVEN_FILTER))
        prep->filter = SP_FILTER_PLAIN;
    uint8_t channels = (model->given & SP_GIVEN_CHANNELS ? prep->fit : usual->fit) & SP_FIT_BGR;
    uint8_t fit = (model->given & SP_GIVEN_FIT ? prep->fit : usual->fit) & (uint8_t)~SP_FIT_BGR;
    prep->fit = fit | channels;
    if (!(model->given & SP_GIVEN_PAD))
        prep->pad_value = usual->pad_value;
    if (!(model->given & SP_GIVEN_SCALE)) {
        prep->divisor = usual->divisor;
        memcpy(prep->mean, usual->mean, sizeof(prep->mean));
        memcpy(prep->std, usual->std, sizeof(prep->std));
        model->given |= SP_GIVEN_SCALE;
    }
    if (!model->detect.level_count) {
        static const int usual_strides[] = { 8, 16, 32 };
        model->detect.level_count = SP_ARRAY_LEN(usual_strides);
        memcpy(model->detect.strides, usual_strides, sizeof(usual_strides));
    }
}
