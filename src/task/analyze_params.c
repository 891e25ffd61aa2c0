/* SPDX-License-Identifier: Apache-2.0
 * The parameters of analyze: one table says name, range and place; default, check, set, identity and the report read it. */
#include "task/analyze_internal.h"

#include "base/nearest.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

/* Part of a checkpoint's identity: raised when a measure or a rule of a record changes, so that old ones are computed again. */
#define ALGORITHM_VERSION 1u

#define PLACE(field) offsetof(sp_analyze_params, field)
static const sp_param_rule rules[] = {
    { "pyr_scale", SP_PARAM_DOUBLE, PLACE(flow.pyr_scale), .01, .99 },
    { "levels", SP_PARAM_INT, PLACE(flow.levels), 0, SP_FLOW_LEVELS_MAX },
    { "winsize", SP_PARAM_INT, PLACE(flow.winsize), 1, 255 },
    { "iterations", SP_PARAM_INT, PLACE(flow.iterations), 1, 64 },
    { "poly_n", SP_PARAM_INT, PLACE(flow.poly_n), 1, 15 },
    { "poly_sigma", SP_PARAM_DOUBLE, PLACE(flow.poly_sigma), 0, 100 },
    { "gaussian", SP_PARAM_BOOL, PLACE(flow.gaussian), 0, 1 },
    { "canny_low", SP_PARAM_INT, PLACE(canny_low), 0, 32767 },
    { "canny_high", SP_PARAM_INT, PLACE(canny_high), 0, 32767 },
    { "motion_threshold", SP_PARAM_PIXELS, PLACE(motion_threshold), 1, 16777215 },
    { "motion_min_area", SP_PARAM_INT, PLACE(motion_min_area), 1, 1000000000 },
    { "defect_threshold", SP_PARAM_INT, PLACE(defect_threshold), 1, 254 },
    { "defect_min_area", SP_PARAM_INT, PLACE(defect_min_area), 1, 1000000000 },
    { "defect_max_area", SP_PARAM_INT, PLACE(defect_max_area), 1, 1000000000 },
    { "defect_min_frames", SP_PARAM_INT, PLACE(defect_min_frames), 1, 1000000 },
    { "track_min_frames", SP_PARAM_INT, PLACE(track_min_frames), 1, 1000000 },
    { "scene_threshold", SP_PARAM_INT, PLACE(scene_threshold), 1, 1000 },
    { "key_frames", SP_PARAM_INT, PLACE(key_frames), 0, SP_LIMIT_KEY_FRAMES },
};

const sp_param_rule *sp_analyze_param_rules(int *ret_count)
{
    *ret_count = (int)SP_ARRAY_LEN(rules);
    return rules;
}

sp_analyze_params sp_analyze_params_default(void)
{
    sp_analyze_params params;
    memset(&params, 0, sizeof(params));
    params.flow.pyr_scale = .5;
    params.flow.levels = 3;
    params.flow.winsize = 15;
    params.flow.iterations = 3;
    params.flow.poly_n = 5;
    params.flow.poly_sigma = 1.2;
    params.canny_low = 15;
    params.canny_high = 60;
    params.motion_threshold = 1024;
    params.motion_min_area = 256;
    params.defect_threshold = 40;
    params.defect_min_area = 4;
    params.defect_max_area = 225;
    params.defect_min_frames = 30;
    params.track_min_frames = 5;
    params.scene_threshold = 350;
    params.key_frames = 8;
    return params;
}

double sp_analyze_param_value(const sp_analyze_params *params, const sp_param_rule *rule)
{
    const uint8_t *place = (const uint8_t *)params + rule->offset;
    double real;
    int32_t whole;

    switch (rule->kind) {
    case SP_PARAM_DOUBLE:
        memcpy(&real, place, sizeof(real));
        return real;
    case SP_PARAM_BOOL:
        return *place; /* as a byte: it may have crossed a process and hold anything */
    case SP_PARAM_INT:
    case SP_PARAM_PIXELS:
        break;
    }
    memcpy(&whole, place, sizeof(whole));
    return whole;
}

static sp_status out_of_range(const sp_param_rule *rule, sp_error *reterr)
{
    double unit = rule->kind == SP_PARAM_PIXELS ? 1024 : 1;
    if (rule->kind == SP_PARAM_BOOL)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s must be true or false", rule->name);
    return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "%s must be a %snumber from %.6g to %.6g%s", rule->name,
                        rule->kind == SP_PARAM_INT ? "whole " : "", rule->low / unit, rule->high / unit,
                        rule->kind == SP_PARAM_PIXELS ? " (pixels a frame)" : "");
}

sp_status sp_analyze_params_check(const sp_analyze_params *params, sp_error *reterr)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(rules); i++) {
        double value = sp_analyze_param_value(params, &rules[i]);
        if (!(value >= rules[i].low && value <= rules[i].high)) /* a NaN too */
            return out_of_range(&rules[i], reterr);
    }
    if (params->defect_min_area > params->defect_max_area)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_parameter", "defect_min_area (%u) is above defect_max_area (%u)",
                            params->defect_min_area, params->defect_max_area);
    return SP_OK;
}

static sp_status unknown(const char *name, sp_error *reterr)
{
    const char *names[SP_ARRAY_LEN(rules)];
    for (size_t i = 0; i < SP_ARRAY_LEN(rules); i++)
        names[i] = rules[i].name;
    const char *near = sp_nearest(name, names, (int)SP_ARRAY_LEN(rules));
    if (near)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_parameter", "no parameter \"%.40s\"; did you mean \"%s\"?", name, near);
    return SP_FAIL_CODE(reterr, SP_INVALID, "unknown_parameter",
                        "no parameter \"%.40s\"; there are winsize, levels, canny_low, motion_threshold and others (docs/cli.md)",
                        name);
}

static bool read_bool(const char *text, double *ret_value)
{
    static const char *const words[] = { "false", "true", "0", "1", "no", "yes" };
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret_value = (double)(i % 2);
            return true;
        }
    }
    return false;
}

static bool read_number(const char *text, double *ret_value)
{
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text)) /* no hexadecimal, no names */
        return false;
    char *end;
    *ret_value = strtod(text, &end);
    return !*end && isfinite(*ret_value);
}

sp_status sp_analyze_params_set(sp_analyze_params *params, const char *name, const char *value, sp_error *reterr)
{
    const sp_param_rule *rule = NULL;
    for (size_t i = 0; i < SP_ARRAY_LEN(rules); i++) {
        if (strcmp(rules[i].name, name) == 0)
            rule = &rules[i];
    }
    if (!rule)
        return unknown(name, reterr);
    double number = 0;
    bool good = rule->kind == SP_PARAM_BOOL ? read_bool(value, &number) : read_number(value, &number);
    if (rule->kind == SP_PARAM_PIXELS)
        number = rint(number * 1024);
    if (!good || !(number >= rule->low && number <= rule->high) || (rule->kind == SP_PARAM_INT && number != floor(number)))
        return out_of_range(rule, reterr);

    uint8_t *place = (uint8_t *)params + rule->offset;
    int32_t whole = (int32_t)number;
    if (rule->kind == SP_PARAM_DOUBLE)
        memcpy(place, &number, sizeof(number));
    else if (rule->kind == SP_PARAM_BOOL)
        *place = (uint8_t)whole;
    else
        memcpy(place, &whole, sizeof(whole));
    return SP_OK;
}

/* Not of the struct's bytes: padding may differ after a copy. */
void sp_analyze_params_digest(const sp_analyze_params *params, uint8_t ret_sha256[32])
{
    double values[SP_ARRAY_LEN(rules) + 2];
    unsigned length = 32;
    memset(ret_sha256, 0, 32);
    values[0] = SP_ANALYZE_ABI;
    values[1] = ALGORITHM_VERSION;
    for (size_t i = 0; i < SP_ARRAY_LEN(rules); i++)
        values[i + 2] = sp_analyze_param_value(params, &rules[i]) + 0.; /* -0 is 0 */
    SP_ASSERT(EVP_Digest(values, sizeof(values), ret_sha256, &length, EVP_sha256(), NULL) == 1);
}
