/* SPDX-License-Identifier: Apache-2.0
 * See direct.h. */
#include "route/direct.h"

#include "base/log.h"
#include "route/dispatch.h"

#include <stdio.h>

/* All that is counted; what a worker says beside them is "other". */
static const char *const reasons[] = { "progressive", "colours", "turned", "too_large", "unusual", "damaged", "not_jpeg",
                                       "refused", "memory", "failed", "no_room", "off", "died" };

static bool begins_as_jpeg(const sp_request *request)
{
    const sp_slot_request *shared = request->shared;
    static const uint8_t begin[] = { 0xff, 0xd8, 0xff };
    if (shared->payload_bytes < sizeof(begin) || shared->payload_offset > request->body_bytes ||
        request->body_bytes - shared->payload_offset < sizeof(begin))
        return false;
    return memcmp(request->body + shared->payload_offset, begin, sizeof(begin)) == 0;
}

bool sp_direct_may(const sp_request *request, int entry)
{
    int w = request->chain->entries[entry].worker;
    if (!(request->shared->flags & SP_SLOT_DECODE_NVJPEG) || request->task != SP_TASK_CLASSIFY || w < 0)
        return false;
    const sp_worker *worker = &request->house->workers[w];
    return worker->has_card && worker->card.takes_jpeg && !request->direct_tried && !request->suspect && !request->internal &&
           request->output_kind == SP_OUTPUT_NONE && begins_as_jpeg(request);
}

void sp_direct_judge(const sp_worker *worker, sp_worker_card *card)
{
    if (!worker->direct_off || !card->nvjpeg[0])
        return;
    card->takes_jpeg = 0;
    sp_text_copy(card->nvjpeg, sizeof(card->nvjpeg), "off: the worker ended while it decoded a file; until the server starts again");
}

static void count_fallback(const sp_worker *worker, const char *code)
{
    char labels[96];
    const char *reason = "other";
    for (size_t i = 0; i < SP_ARRAY_LEN(reasons); i++)
        reason = strcmp(code, reasons[i]) == 0 ? reasons[i] : reason;
    (void)snprintf(labels, sizeof(labels), "worker=\"%s\",reason=\"%s\"", worker->name, reason);
    sp_metric_add(sp_metric_get(SP_METRIC_COUNTER, "spillway_nvjpeg_fallbacks_total", labels,
                                "JPEG files that a GPU was to decode and a codec worker did, by reason"), 1);
}

void sp_direct_answered(sp_worker *worker, sp_request *request)
{
    char labels[48];
    (void)snprintf(labels, sizeof(labels), "worker=\"%s\"", worker->name);
    sp_metric_add(sp_metric_get(SP_METRIC_COUNTER, "spillway_nvjpeg_decoded_total", labels, "JPEG files that a GPU decoded"), 1);
    request->answer.decode = SP_DECODE_NVJPEG;
}

void sp_direct_failed(sp_worker *worker, sp_request *request, sp_status status)
{
    if (status == SP_UNAVAILABLE)
        sp_direct_ended(worker); /* its device is no more, and its process will be */
    else
        count_fallback(worker, status == SP_UNSUPPORTED ? request->answer.error.code : "");
    if (request->live_count)
        sp_dispatch_arm(request); /* it was asked elsewhere as well */
    else
        sp_dispatch_go_on(request);
}

void sp_direct_ended(sp_worker *worker)
{
    count_fallback(worker, "died");
    if (worker->direct_off)
        return;
    worker->direct_off = true;
    sp_direct_judge(worker, &worker->card);
    sp_log(SP_LOG_WARN, "nvJPEG is off until the server starts again", SP_LOG_TEXT("worker", worker->name),
           SP_LOG_TEXT("reason", "the worker ended while it decoded a file"));
}
