/* SPDX-License-Identifier: Apache-2.0
 * KServe V2 requests and answers. */
#include "provider/kserve.h"

#include "base/view.h"
#include "task/rank.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NESTING_MAX 8 /* of a "data" array; flat is usual */

static sp_status bad_answer(sp_error *reterr, const char *why)
{
    return SP_FAIL_CODE(reterr, SP_CORRUPT, "bad_answer", "the KServe server's answer %s", why);
}

/* --- asking ------------------------------------------------------------------------------------------------------- */

void sp_kserve_url(sp_buf *out, const char *base_url, const char *model)
{
    size_t n = strlen(base_url);
    while (n && base_url[n - 1] == '/')
        n--;
    sp_buf_append(out, base_url, n);
    sp_buf_append_text(out, "/v2/models/");
    for (const unsigned char *at = (const unsigned char *)model; *at; at++) {
        if (isalnum(*at) || strchr("-_.~", *at))
            sp_buf_append(out, at, 1);
        else
            sp_buf_printf(out, "%%%02X", *at);
    }
    sp_buf_append(out, "", 1);
}

/* The tensor of that name in a list of them; "" = the only one. */
static const json_t *find_tensor(const json_t *list, const char *name)
{
    size_t index;
    const json_t *one;
    if (!*name)
        return json_array_size(list) == 1 ? json_array_get(list, 0) : NULL;
    json_array_foreach(list, index, one)
    {
        const char *here = json_string_value(json_object_get(one, "name"));
        if (here && strcmp(here, name) == 0)
            return one;
    }
    return NULL;
}

static sp_status take_name(const json_t *list, const char *which, const char *wanted, char *dst, const json_t **ret_tensor,
                           sp_error *reterr)
{
    const json_t *tensor = find_tensor(list, wanted);
    const char *name = json_string_value(json_object_get(tensor, "name"));
    if (!json_is_array(list))
        return bad_answer(reterr, "does not describe the model's tensors");
    if (!tensor && *wanted)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "remote_model", "the remote's model has no %s '%.64s'", which, wanted);
    if (!tensor)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "remote_model", "the remote's model has %zu %ss; say which one is meant: "
                            "%s: NAME under the remote", json_array_size(list), which, which);
    if (!name || !*name || strlen(name) >= SP_LIMIT_KSERVE_NAME_BYTES)
        return bad_answer(reterr, "has a tensor whose name cannot be used");
    (void)snprintf(dst, SP_LIMIT_KSERVE_NAME_BYTES, "%s", name);
    *ret_tensor = tensor;
    return SP_OK;
}

sp_status sp_kserve_read_metadata(sp_view body, const char *input, const char *output, sp_kserve_model *ret_model,
                                  sp_error *reterr)
{
    json_error_t why;
    json_t *root = json_loadb((const char *)body.data, body.size_bytes, 0, &why);
    const json_t *tensor = NULL, *ignored = NULL;
    sp_kserve_model model = { 0 };
    sp_status s = root ? take_name(json_object_get(root, "inputs"), "input", input, model.input, &tensor, reterr)
                       : bad_answer(reterr, "is no JSON");
    if (!s)
        s = take_name(json_object_get(root, "outputs"), "output", output, model.output, &ignored, reterr);
    if (!s) {
        const char *type = json_string_value(json_object_get(tensor, "datatype"));
        const char *platform = json_string_value(json_object_get(root, "platform"));
        model.dtype = type && strcmp(type, "FP32") == 0 ? SP_DTYPE_F32 : type && strcmp(type, "FP16") == 0 ? SP_DTYPE_F16 : 0;
        (void)snprintf(model.platform, sizeof(model.platform), "%s", platform ? platform : "");
        if (!model.dtype)
            s = SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "remote_model", "the remote's model takes %.16s; FP32 and FP16 can be sent",
                             type ? type : "nothing that it names");
    }
    json_decref(root);
    if (!s)
        *ret_model = model;
    return s;
}

sp_status sp_kserve_write_head(sp_buf *out, const sp_kserve_model *model, const char *request_id, const sp_prep_spec *prep,
                               size_t tensor_bytes, sp_error *reterr)
{
    size_t element = prep->dtype == SP_DTYPE_F16 ? 2 : 4;
    if (prep->dtype != SP_DTYPE_F32 && prep->dtype != SP_DTYPE_F16)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "remote_model", "the request holds no tensor that KServe could be sent");
    if (tensor_bytes != element * 3 * prep->crop_w * prep->crop_h)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "remote_model", "a tensor of %zu bytes is not 3 x %u x %u", tensor_bytes,
                            prep->crop_h, prep->crop_w);
    if (model->dtype && model->dtype != prep->dtype)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "remote_model", "the remote's model takes %s, the request holds %s",
                            model->dtype == SP_DTYPE_F16 ? "FP16" : "FP32", prep->dtype == SP_DTYPE_F16 ? "FP16" : "FP32");
    sp_buf_append_text(out, "{\"id\":");
    sp_buf_append_json_text(out, request_id);
    sp_buf_append_text(out, ",\"inputs\":[{\"name\":");
    sp_buf_append_json_text(out, model->input);
    sp_buf_printf(out, ",\"shape\":[1,3,%u,%u],\"datatype\":\"%s\",\"parameters\":{\"binary_data_size\":%zu}}],\"outputs\":[{\"name\":",
                  prep->crop_h, prep->crop_w, prep->dtype == SP_DTYPE_F16 ? "FP16" : "FP32", tensor_bytes);
    sp_buf_append_json_text(out, model->output);
    sp_buf_append_text(out, ",\"parameters\":{\"binary_data\":true}}]}");
    return sp_buf_ok(out) ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for a request's head");
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

/* One row of classes: [n], [1, n], [1, n, 1, 1]. */
static bool read_shape(const json_t *tensor, uint32_t *ret_count)
{
    const json_t *shape = json_object_get(tensor, "shape"), *one;
    size_t rank = json_array_size(shape), index, count = 1;
    json_array_foreach(shape, index, one)
    {
        json_int_t side = json_integer_value(one);
        if (side < 1 || side > SP_LIMIT_CLASSES || (index == 0 && rank > 1 && side != 1) || !sp_size_mul(count, (size_t)side, &count))
            return false;
    }
    *ret_count = (uint32_t)count;
    return rank >= 1 && rank <= NESTING_MAX && count >= 2 && count <= SP_LIMIT_CLASSES;
}

static bool flatten(const json_t *data, float *values, uint32_t count, uint32_t *used, int depth)
{
    size_t index;
    const json_t *one;
    if (depth > NESTING_MAX)
        return false;
    json_array_foreach(data, index, one)
    {
        if (json_is_array(one)) {
            if (!flatten(one, values, count, used, depth + 1))
                return false;
        } else if (!json_is_number(one) || *used == count) {
            return false;
        } else {
            values[(*used)++] = (float)json_number_value(one);
        }
    }
    return true;
}

/* How many bytes behind the head are a tensor's; SIZE_MAX: it is no number. 0 = its data stand in the JSON. */
static size_t binary_bytes(const json_t *tensor)
{
    const json_t *size = json_object_get(json_object_get(tensor, "parameters"), "binary_data_size");
    json_int_t bytes = json_integer_value(size);
    return !size ? 0 : !json_is_integer(size) || bytes < 0 ? SIZE_MAX : (size_t)bytes;
}

/* Where this tensor's bytes begin: those of the outputs before it come first. */
static bool binary_offset(const json_t *outputs, const json_t *tensor, size_t *ret_offset)
{
    size_t index, offset = 0;
    const json_t *one;
    json_array_foreach(outputs, index, one)
    {
        if (one == tensor)
            break;
        if (!sp_size_add(offset, binary_bytes(one), &offset))
            return false;
    }
    *ret_offset = offset;
    return true;
}

static bool widen(sp_view bytes, bool half, float *values, uint32_t count)
{
    if (bytes.size_bytes != (size_t)count * (half ? 2 : 4))
        return false;
    if (!half)
        memcpy(values, bytes.data, bytes.size_bytes);
    for (uint32_t i = 0; half && i < count; i++) {
        uint16_t bits;
        memcpy(&bits, bytes.data + 2 * (size_t)i, sizeof(bits));
        values[i] = sp_rank_widen_f16(bits);
    }
    return true;
}

static sp_status read_row(const json_t *root, sp_view binary, const char *name, sp_kserve_row *row, sp_error *reterr)
{
    const json_t *outputs = json_object_get(root, "outputs"), *tensor = find_tensor(outputs, name);
    const char *type = json_string_value(json_object_get(tensor, "datatype"));
    bool half = type && strcmp(type, "FP16") == 0;
    size_t bytes = binary_bytes(tensor), offset = 0;
    uint32_t used = 0;
    if (!tensor)
        return bad_answer(reterr, "has not the output that was asked for");
    if (!type || (!half && strcmp(type, "FP32") != 0))
        return bad_answer(reterr, "is not FP32 or FP16");
    if (!read_shape(tensor, &row->count))
        return bad_answer(reterr, "is not one row of classes");
    row->values = malloc(row->count * sizeof(*row->values));
    if (!row->values)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %u classes", row->count);
    if (bytes) {
        if (!binary_offset(outputs, tensor, &offset) || offset > binary.size_bytes || bytes > binary.size_bytes - offset ||
            !widen(sp_view_make(binary.data + offset, bytes), half, row->values, row->count))
            return bad_answer(reterr, "has less or more bytes than its head says");
    } else if (!flatten(json_object_get(tensor, "data"), row->values, row->count, &used, 0) || used != row->count) {
        return bad_answer(reterr, "has less or more numbers than its shape says");
    }
    const char *model = json_string_value(json_object_get(root, "model_name"));
    const char *version = json_string_value(json_object_get(root, "model_version"));
    (void)snprintf(row->model, sizeof(row->model), "%s", model ? model : "");
    (void)snprintf(row->version, sizeof(row->version), "%s", version ? version : "");
    return SP_OK;
}

sp_status sp_kserve_read_answer(sp_view body, const char *head_length, const char *name, sp_kserve_row *ret_row, sp_error *reterr)
{
    size_t head = body.size_bytes;
    json_error_t why;
    *ret_row = (sp_kserve_row){ 0 };
    if (*head_length) {
        char *end;
        unsigned long long length = strtoull(head_length, &end, 10);
        if (!isdigit((unsigned char)*head_length) || *end || length > body.size_bytes)
            return bad_answer(reterr, "has a head longer than itself");
        head = (size_t)length;
    }
    json_t *root = json_loadb((const char *)body.data, head, 0, &why);
    sp_status s = root ? read_row(root, sp_view_make(body.data + head, body.size_bytes - head), name, ret_row, reterr)
                       : bad_answer(reterr, "has no JSON head");
    json_decref(root);
    if (s) {
        free(ret_row->values);
        ret_row->values = NULL;
    }
    return s;
}

sp_status sp_kserve_read_problem(int http_status, sp_view body, sp_error *reterr)
{
    json_error_t why;
    json_t *root = body.size_bytes ? json_loadb((const char *)body.data, body.size_bytes, 0, &why) : NULL;
    const char *words = json_string_value(json_object_get(root, "error")), *code = "remote_rejected";
    sp_status s = SP_UNSUPPORTED;
    if (http_status == 401 || http_status == 403) {
        s = SP_UNAVAILABLE;
        code = "remote_denied";
    } else if (http_status == 404) {
        code = "remote_no_model";
    } else if (http_status == 429) {
        s = SP_BUSY;
        code = "remote_busy";
    } else if (http_status == 408 || http_status == 504) {
        s = SP_TIMEOUT;
        code = "remote_timeout";
    } else if (http_status >= 500 && http_status != 501) {
        s = SP_UNAVAILABLE;
        code = "remote_failed";
    }
    s = SP_FAIL_FROM(reterr, s, "http", http_status, "the KServe server answered %d%s%.180s", http_status, words ? ": " : "",
                     words ? words : "");
    (void)snprintf(reterr->code, sizeof(reterr->code), "%s", code);
    json_decref(root);
    return s;
}
