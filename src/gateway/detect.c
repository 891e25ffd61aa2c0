/* SPDX-License-Identifier: Apache-2.0
 * What detect has of its own in the gateway: which served model, and boxes as JSON. The way of a request is infer.c's. */
#include "gateway/kserve.h"
#include "gateway/server.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct only_model {
    sp_served *served;
    int count; /* of models: versions of one count once */
} only_model;

static void look_at(sp_served *served, void *context)
{
    only_model *only = context;
    if (only->served && strcmp(only->served->name, served->name) == 0)
        return;
    only->served = served;
    only->count++;
}

sp_status gw_detect_model(gw_server *server, const char *name, bool any, sp_served_model *ret_model, sp_error *reterr)
{
    only_model only = { 0 };
    sp_served *served = NULL;
    sp_serving *serving = server->kserve ? server->kserve->serving : NULL;
    if (!serving)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_serving", "the served models are not there yet");
    if (!*name) {
        sp_serving_each_loaded(serving, look_at, &only);
        if (!only.count || (only.count > 1 && !any))
            return SP_FAIL_CODE(reterr, SP_INVALID, "no_model",
                                only.count ? "which model? %d are served: say ?model=NAME" : "no model is served yet", only.count);
        name = only.served->name;
    }
    sp_status s = sp_serving_find(serving, name, "", &served, reterr);
    if (s)
        return s;
    ret_model->id = served->id;
    (void)snprintf(ret_model->name, sizeof(ret_model->name), "%.63s", served->name);
    (void)snprintf(ret_model->version, sizeof(ret_model->version), "%.15s", served->version_text);
    return SP_OK;
}

bool gw_share_read(sp_view text, float *ret_share)
{
    char copy[24], *end = NULL;
    if (!text.size_bytes || text.size_bytes >= sizeof(copy) || !memchr("0123456789.", text.data[0], 11))
        return false;
    memcpy(copy, text.data, text.size_bytes);
    copy[text.size_bytes] = 0;
    double share = strtod(copy, &end);
    if (*end || strchr(copy, 'x') || strchr(copy, 'X') || !(share >= 0 && share <= 1))
        return false;
    *ret_share = (float)share;
    return true;
}

static double number(float x)
{
    return isfinite(x) ? (double)x : 0; /* JSON has no NaN; a worker wrote it */
}

void gw_detections_write(sp_buf *out, const sp_answer *answer)
{
    sp_buf_printf(out, ",\"width\":%d,\"height\":%d,\"detections\":[", answer->image_w, answer->image_h);
    for (uint32_t i = 0; i < answer->boxes->count; i++) {
        const sp_answer_box *box = &answer->boxes->boxes[i];
        sp_buf_printf(out, "%s{\"class_id\":%u,\"label\":", i ? "," : "", box->class_id);
        if (*box->label)
            sp_buf_append_json_text(out, box->label);
        else
            sp_buf_append_text(out, "null");
        sp_buf_printf(out, ",\"score\":%.9g,\"box\":[%.6g,%.6g,%.6g,%.6g]}", number(box->score), number(box->x0),
                      number(box->y0), number(box->x1), number(box->y1));
    }
    sp_buf_append_text(out, "]");
}
