/* SPDX-License-Identifier: Apache-2.0
 * spillway.json: every key is known or an error, every value is checked where it is read, and each message names the
 * file and the key. */
#include "task/settings.h"

#include <stdarg.h>
#include <stdio.h>
#include <math.h>
#include <string.h>

sp_status sp_settings_bad(sp_settings_reader *r, const char *key, const char *format, ...)
{
    char what[128];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return SP_FAIL_CODE(r->reterr, SP_INVALID, "model_settings", "%s: %s%s %s", r->model->settings_path, r->prefix, key,
                        what);
}

sp_status sp_settings_text(sp_settings_reader *r, const char *key, const json_t *value, char *dst, size_t size)
{
    const char *text = json_string_value(value);
    if (!text || !*text)
        return sp_settings_bad(r, key, "must be a text");
    if (strlen(text) >= size)
        return sp_settings_bad(r, key, "is longer than %zu bytes", size - 1);
    memcpy(dst, text, strlen(text) + 1);
    return SP_OK;
}

sp_status sp_settings_word(sp_settings_reader *r, const char *key, const json_t *value, const char *const *words, int count,
                           int *ret_index)
{
    const char *text = json_string_value(value);
    char list[96] = "";
    for (int i = 0; i < count; i++) {
        if (text && strcmp(text, words[i]) == 0) {
            *ret_index = i;
            return SP_OK;
        }
        size_t used = strlen(list);
        (void)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", words[i]);
    }
    return sp_settings_bad(r, key, "must be one of %s", list);
}

static sp_status read_task(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "classify", "detect" }; /* sp_model_task's order */
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->task = (sp_model_task)index;
    return s;
}

static sp_status read_input(sp_settings_reader *r, const char *key, const json_t *value)
{
    return sp_settings_text(r, key, value, r->model->input, sizeof(r->model->input));
}

static sp_status read_output(sp_settings_reader *r, const char *key, const json_t *value)
{
    return sp_settings_text(r, key, value, r->model->output, sizeof(r->model->output));
}

static sp_status read_output_kind(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "logits", "probabilities" };
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    if (!s)
        r->model->meaning = index == 0 ? SP_OUTPUT_LOGITS : SP_OUTPUT_PROBABILITIES;
    return s;
}

static sp_status read_precision(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "fp32", "fp16", "bf16", "int8" };
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    if (!s)
        (void)snprintf(r->model->precision, sizeof(r->model->precision), "%s", words[index]);
    return s;
}

static sp_status read_labels(sp_settings_reader *r, const char *key, const json_t *value)
{
    sp_status s = sp_settings_text(r, key, value, r->labels, r->labels_size);
    if (!s && (strchr(r->labels, '/') || r->labels[0] == '.'))
        return sp_settings_bad(r, key, "must be the name of a file beside it");
    return s;
}

static sp_status read_max_batch(sp_settings_reader *r, const char *key, const json_t *value)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || n > SP_LIMIT_BATCH)
        return sp_settings_bad(r, key, "must be a whole number from 1 to %d", SP_LIMIT_BATCH);
    r->model->max_batch = (int)n;
    return SP_OK;
}

static sp_status read_filter(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "bilinear", "bicubic", "plain" }; /* sp_resize_filter's order */
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->prep.filter = (uint8_t)index;
    r->model->given |= SP_GIVEN_FILTER;
    return s;
}

static sp_status read_fit(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "short_side", "stretch", "letterbox", "corner" }; /* sp_resize_fit's order */
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->prep.fit = (uint8_t)((r->model->prep.fit & SP_FIT_BGR) | index);
    r->model->given |= SP_GIVEN_FIT;
    return s;
}

static sp_status read_channels(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "rgb", "bgr" };
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->prep.fit = (uint8_t)((r->model->prep.fit & ~SP_FIT_BGR) | (index ? SP_FIT_BGR : 0));
    r->model->given |= SP_GIVEN_CHANNELS;
    return s;
}

/* [width, height] */
static sp_status read_size(sp_settings_reader *r, const char *key, const json_t *value, uint16_t *ret_w, uint16_t *ret_h)
{
    if (json_array_size(value) != 2)
        return sp_settings_bad(r, key, "must be [width, height]");
    json_int_t side[2];
    for (size_t i = 0; i < 2; i++) {
        const json_t *element = json_array_get(value, i);
        side[i] = json_integer_value(element);
        if (!json_is_integer(element) || side[i] < 1 || side[i] > UINT16_MAX)
            return sp_settings_bad(r, key, "has sides from 1 to %d", UINT16_MAX);
    }
    *ret_w = (uint16_t)side[0];
    *ret_h = (uint16_t)side[1];
    return SP_OK;
}

static sp_status read_resize(sp_settings_reader *r, const char *key, const json_t *value)
{
    r->model->given |= SP_GIVEN_RESIZE;
    return read_size(r, key, value, &r->model->prep.resize_w, &r->model->prep.resize_h);
}

static sp_status read_crop(sp_settings_reader *r, const char *key, const json_t *value)
{
    r->model->given |= SP_GIVEN_CROP;
    return read_size(r, key, value, &r->model->prep.crop_w, &r->model->prep.crop_h);
}

static sp_status read_dtype(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const char *const words[] = { "f32", "f16" };
    int index = 0;
    sp_status s = sp_settings_word(r, key, value, words, SP_ARRAY_LEN(words), &index);
    r->model->prep.dtype = index == 0 ? SP_DTYPE_F32 : SP_DTYPE_F16;
    r->model->given |= SP_GIVEN_DTYPE;
    return s;
}

sp_status sp_settings_number(sp_settings_reader *r, const char *key, const json_t *value, bool zero_is_fine, float *ret_number)
{
    float number = (float)json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || (number == 0 && !zero_is_fine))
        return sp_settings_bad(r, key, zero_is_fine ? "must be a finite number" : "must be a finite number other than 0");
    *ret_number = number;
    return SP_OK;
}

static sp_status read_three(sp_settings_reader *r, const char *key, const json_t *value, bool zero_is_fine, float *ret_numbers)
{
    if (json_array_size(value) != 3)
        return sp_settings_bad(r, key, "must be three numbers, for R, G and B");
    for (size_t i = 0; i < 3; i++) {
        sp_status s = sp_settings_number(r, key, json_array_get(value, i), zero_is_fine, &ret_numbers[i]);
        if (s)
            return s;
    }
    r->model->given |= SP_GIVEN_SCALE;
    return SP_OK;
}

static sp_status read_divisor(sp_settings_reader *r, const char *key, const json_t *value)
{
    r->model->given |= SP_GIVEN_SCALE;
    return sp_settings_number(r, key, value, false, &r->model->prep.divisor);
}

static sp_status read_mean(sp_settings_reader *r, const char *key, const json_t *value)
{
    return read_three(r, key, value, true, r->model->prep.mean);
}

static sp_status read_std(sp_settings_reader *r, const char *key, const json_t *value)
{
    return read_three(r, key, value, false, r->model->prep.std);
}

static sp_status read_pad_value(sp_settings_reader *r, const char *key, const json_t *value)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > 255)
        return sp_settings_bad(r, key, "must be a whole number from 0 to 255");
    r->model->prep.pad_value = (uint8_t)n;
    r->model->given |= SP_GIVEN_PAD;
    return SP_OK;
}

sp_status sp_settings_object(sp_settings_reader *r, const json_t *object, const sp_settings_rule *rules, size_t rule_count)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (i < rule_count && strcmp(rules[i].key, key) != 0)
            i++;
        if (i == rule_count)
            return sp_settings_bad(r, key, "is no key that Spillway knows");
        sp_status s = rules[i].read(r, key, value);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status read_preprocess(sp_settings_reader *r, const char *key, const json_t *value)
{
    static const sp_settings_rule rules[] = {
        { "filter", read_filter },   { "fit", read_fit },     { "resize", read_resize },
        { "crop", read_crop },       { "dtype", read_dtype }, { "mean", read_mean },
        { "divisor", read_divisor }, { "std", read_std },     { "pad_value", read_pad_value },
        { "channels", read_channels },
    };
    if (!json_is_object(value))
        return sp_settings_bad(r, key, "must be an object");
    r->prefix = "preprocess.";
    sp_status s = sp_settings_object(r, value, rules, SP_ARRAY_LEN(rules));
    r->prefix = "";
    return s;
}

sp_status sp_model_parse_settings(sp_model *model, const char *text, size_t size_bytes, char *labels,
                                  size_t labels_size, sp_error *reterr)
{
    static const sp_settings_rule rules[] = {
        { "task", read_task },           { "input", read_input },
        { "output", read_output },       { "output_kind", read_output_kind },
        { "precision", read_precision }, { "labels", read_labels },
        { "max_batch", read_max_batch }, { "preprocess", read_preprocess },
        { "detect", sp_settings_detect },
    };
    json_error_t why;
    json_t *root = json_loadb(text, size_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return SP_FAIL_CODE(reterr, SP_INVALID, "model_settings", "%s:%d:%d: %s", model->settings_path, why.line,
                            why.column, why.text);
    sp_settings_reader r = { .model = model, .labels = labels, .labels_size = labels_size, .reterr = reterr, .prefix = "" };
    sp_status s = json_is_object(root) ? sp_settings_object(&r, root, rules, SP_ARRAY_LEN(rules))
                                       : SP_FAIL_CODE(reterr, SP_INVALID, "model_settings", "%s: must be an object",
                                                      model->settings_path);
    json_decref(root);
    return s;
}
