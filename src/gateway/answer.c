/* SPDX-License-Identifier: Apache-2.0
 * The house's answer as JSON. */
#include "base/clock.h"
#include "gateway/server.h"

#include <math.h>

static double ms(int64_t ns)
{
    return (double)ns / (double)SP_NS_PER_MS;
}

/* "" when the first choice answered; else why it did not. */
static const char *fallback_reason(const sp_answer *answer)
{
    for (int i = answer->attempt_count - 1; i >= 0; i--) {
        if (answer->attempts[i].status)
            return answer->attempts[i].reason;
    }
    return "";
}

gw_who gw_who_of(const sp_answer *answer)
{
    return (gw_who){
        .link = answer->link,
        .device = answer->device,
        .precision = answer->precision,
        .reason = fallback_reason(answer),
        .attempts = answer->attempts,
        .attempt_count = answer->attempt_count,
    };
}

static void text_or_null(sp_buf *out, const char *key, const char *text)
{
    sp_buf_printf(out, "\"%s\":", key);
    if (*text)
        sp_buf_append_json_text(out, text);
    else
        sp_buf_append_text(out, "null");
}

void gw_who_write(sp_buf *out, const gw_who *who)
{
    text_or_null(out, "provider", who->link);
    sp_buf_append_text(out, ",");
    text_or_null(out, "device", who->device);
    sp_buf_append_text(out, ",");
    text_or_null(out, "precision", who->precision);
    sp_buf_append_text(out, ",\"reason\":");
    sp_buf_append_json_text(out, who->reason ? who->reason : "");
    sp_buf_append_text(out, ",\"attempts\":[");
    for (int i = 0; i < who->attempt_count; i++) {
        const sp_attempt *attempt = &who->attempts[i];
        sp_buf_append_text(out, i ? ",{\"link\":" : "{\"link\":");
        sp_buf_append_json_text(out, attempt->link);
        sp_buf_printf(out, ",\"status\":\"%s\",\"reason\":", sp_status_name(attempt->status));
        sp_buf_append_json_text(out, attempt->reason);
        sp_buf_printf(out, ",\"ms\":%.3f}", ms(attempt->end_ns - attempt->start_ns));
    }
    sp_buf_append_text(out, "]");
}

static void predictions_write(sp_buf *out, const sp_answer_classes *classes)
{
    sp_buf_append_text(out, ",\"predictions\":[");
    for (uint32_t i = 0; classes && i < classes->count; i++) {
        const sp_answer_class *c = &classes->classes[i];
        double p = isfinite(c->probability) ? (double)c->probability : 0; /* JSON has no NaN */
        sp_buf_printf(out, "%s{\"class_id\":%u,\"label\":", i ? "," : "", c->class_id);
        if (*c->label)
            sp_buf_append_json_text(out, c->label);
        else
            sp_buf_append_text(out, "null");
        sp_buf_printf(out, ",\"probability\":%.9g}", p);
    }
    sp_buf_append_text(out, "]");
}

void gw_answer_write(sp_buf *out, const char *request_id, const sp_answer *answer)
{
    gw_answer_write_cache(out, request_id, answer, "off");
}

void gw_answer_write_cache(sp_buf *out, const char *request_id, const sp_answer *answer, const char *cache)
{
    gw_who who = gw_who_of(answer);
    double run_s = (double)answer->batch_run_ns / (double)SP_NS_PER_S;
    sp_buf_append_text(out, "{\"request_id\":");
    sp_buf_append_json_text(out, request_id);
    sp_buf_append_text(out, ",");
    text_or_null(out, "model", answer->model);
    sp_buf_append_text(out, ",");
    text_or_null(out, "model_version", answer->version);
    sp_buf_append_text(out, ",");
    text_or_null(out, "engine", answer->engine);
    sp_buf_append_text(out, ",");
    gw_who_write(out, &who);
    if (answer->boxes)
        gw_detections_write(out, answer);
    else
        predictions_write(out, answer->classes);
    sp_buf_printf(
        out,
        ",\"cost_usd\":%.6f,\"simpler\":%s,\"cache\":\"%s\",\"decode\":\"%s\",\"latency_ms\":{\"queue\":%.3f,\"decode\":%.3f,"
        "\"preprocess\":%.3f,\"inference\":%.3f,\"postprocess\":%.3f,\"total\":%.3f},\"throughput\":%.2f,\"batch_size\":%u}\n",
        (double)answer->microdollars / 1e6, answer->simpler ? "true" : "false", cache, sp_decode_name(answer->decode),
        ms(answer->queue_ns), ms(answer->decode_ns), ms(answer->preprocess_ns), ms(answer->inference_ns),
        ms(answer->postprocess_ns), ms(answer->total_ns),
        run_s > 0 ? (double)answer->batch_size / run_s : 0.0, answer->batch_size);
}
