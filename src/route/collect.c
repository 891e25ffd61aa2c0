/* SPDX-License-Identifier: Apache-2.0
 * Completions: what a worker says it has done, copied, checked, and turned into the next step, the answer, or another
 * try. */
#include "base/clock.h"
#include "route/chain.h"
#include "route/direct.h"
#include "route/dispatch.h"
#include "route/lease.h"
#include "route/models.h"
#include "route/quota.h"
#include "worker/ring.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* What the item took of its device, and what a remote took: for cost. A worker's claims, bounded by what can be. */
typedef struct times {
    int64_t begun_ns, took_ns, device_ns;
} times;

static times read_times(const sp_completion *done, const sp_lease *given)
{
    int64_t now_ns = sp_clock_now_ns();
    int64_t begun_ns = SP_CLAMP(done->begun_ns, given->given_ns, now_ns); /* a claim, not a fact */
    int64_t took_ns = now_ns - begun_ns, batch = SP_CLAMP(done->batch_size, 1u, (uint32_t)SP_LIMIT_BATCH);
    int64_t share_ns = SP_CLAMP(done->batch_run_ns, (int64_t)0, took_ns) / batch;
    int64_t own_ns = SP_CLAMP(done->preprocess_ns, (int64_t)0, took_ns) + SP_CLAMP(done->postprocess_ns, (int64_t)0, took_ns);
    int64_t device_ns = given->op == SP_OP_REMOTE ? took_ns : SP_MIN(share_ns + own_ns, took_ns);
    return (times){ .begun_ns = begun_ns, .took_ns = took_ns, .device_ns = device_ns };
}

static void note_times(sp_worker *worker, sp_request *request, const sp_completion *done, const times *t)
{
    sp_answer *answer = &request->answer;
    answer->queue_ns += t->begun_ns - request->queued_ns;
    answer->decode_ns += SP_CLAMP(done->decode_ns, (int64_t)0, t->took_ns);
    answer->preprocess_ns += SP_CLAMP(done->preprocess_ns, (int64_t)0, t->took_ns);
    answer->inference_ns += SP_CLAMP(done->inference_ns, (int64_t)0, t->took_ns);
    answer->postprocess_ns += SP_CLAMP(done->postprocess_ns, (int64_t)0, t->took_ns);
    answer->batch_run_ns = SP_CLAMP(done->batch_run_ns, (int64_t)0, t->took_ns);
    answer->batch_size = SP_CLAMP(done->batch_size, 1u, (uint32_t)SP_LIMIT_BATCH);
    if (request->model || sp_request_is_of_video(request))
        return; /* what it took in the queue of its model, too; and a video says nothing of how long a picture takes */
    int64_t item_ns = t->took_ns / answer->batch_size;
    worker->service_ns = worker->service_ns ? (worker->service_ns * 7 + item_ns) / 8 : item_ns;
}

/* An error a worker wrote into shared memory: copied, then made safe. */
static void copy_error(const sp_worker *worker, const sp_completion *done, sp_status status, sp_error *ret_error)
{
    /* A remote's may have its attempts behind it: sp_remote_take_failure. */
    if (done->answer_bytes != sizeof(sp_error) && done->answer_bytes != sizeof(sp_answer_remote_failure)) {
        (void)SP_FAIL(ret_error, status, "%s failed without saying why", worker->name);
        return;
    }
    memcpy(ret_error, worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE, sizeof(*ret_error));
    ret_error->status = status;
    ret_error->origin[sizeof(ret_error->origin) - 1] = 0;
    ret_error->code[sizeof(ret_error->code) - 1] = 0;
    ret_error->file[sizeof(ret_error->file) - 1] = 0;
    ret_error->message[sizeof(ret_error->message) - 1] = 0;
}

static bool output_is_sane(const sp_request *request, const sp_completion *done)
{
    struct stat st;
    if (fstat(request->output_fd, &st) < 0 || done->output_bytes > (uint64_t)st.st_size || !done->output_bytes)
        return false;
    if (done->image_w < 1 || done->image_h < 1 || done->image_w > SP_LIMIT_IMAGE_SIDE || done->image_h > SP_LIMIT_IMAGE_SIDE)
        return false;
    const sp_prep_spec *prep = &request->shared->prep;
    if (done->output_kind == SP_OUTPUT_RGB8)
        return done->output_bytes == (uint64_t)done->image_w * (uint64_t)done->image_h * 3;
    return done->output_kind == SP_OUTPUT_TENSOR &&
           done->output_bytes == (uint64_t)prep->crop_w * prep->crop_h * 3 * (prep->dtype == SP_DTYPE_F16 ? 2 : 4);
}

static void name_the_link(const sp_worker *worker, const sp_link *link, sp_request *request)
{
    sp_answer *answer = &request->answer;
    sp_text_copy(answer->link, sizeof(answer->link), link->name);
    sp_text_copy(answer->device, sizeof(answer->device), worker->card.device);
    if (request->task != SP_TASK_DETECT) { /* the card's are of the worker's own model */
        sp_text_copy(answer->precision, sizeof(answer->precision), worker->card.precision);
        sp_text_copy(answer->version, sizeof(answer->version), worker->card.version);
    }
    sp_text_copy(answer->engine, sizeof(answer->engine), worker->card.engine);
}

static sp_status take_boxes(const sp_worker *worker, sp_request *request, const uint8_t *source, uint32_t size_bytes)
{
    sp_answer *answer = &request->answer;
    static sp_answer_boxes boxes; /* loop thread only; the callback reads them before it returns */
    if (size_bytes < offsetof(sp_answer_boxes, boxes) || size_bytes > sizeof(boxes))
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote %u bytes of boxes", worker->name, size_bytes);
    memcpy(&boxes, source, size_bytes);
    if (offsetof(sp_answer_boxes, boxes) + (uint64_t)boxes.count * sizeof(boxes.boxes[0]) > size_bytes)
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote a bad box count %u", worker->name, boxes.count);
    for (uint32_t i = 0; i < boxes.count; i++)
        boxes.boxes[i].label[SP_LIMIT_LABEL_BYTES - 1] = 0;
    answer->boxes = &boxes;
    answer->image_w = request->image_w;
    answer->image_h = request->image_h;
    return SP_OK;
}

/* The task's own answer: copied out of the worker's memory, the copy checked. It is good until the next one is taken. */
static sp_status take_content(const sp_worker *worker, sp_request *request, const sp_completion *done, uint32_t offset,
                              uint32_t size_bytes)
{
    static sp_answer_classes classes; /* loop thread only; the callback reads them before it returns */
    static uint8_t payload[SP_LIMIT_ANSWER_BYTES];
    const uint8_t *source = worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE + offset;
    sp_answer *answer = &request->answer;
    sp_error *err = &answer->error;
    if (request->task == SP_TASK_MODELS)
        return sp_models_take(worker, request, done, err);
    if (request->task == SP_TASK_DETECT)
        return take_boxes(worker, request, source, size_bytes);
    if (request->task == SP_TASK_CLASSIFY) {
        if (size_bytes < offsetof(sp_answer_classes, classes) || size_bytes > sizeof(classes))
            return SP_FAIL(err, SP_INTERNAL, "%s wrote %u bytes of classes", worker->name, size_bytes);
        memcpy(&classes, source, size_bytes);
        if (offsetof(sp_answer_classes, classes) + (uint64_t)classes.count * sizeof(classes.classes[0]) > size_bytes)
            return SP_FAIL(err, SP_INTERNAL, "%s wrote a bad class count %u", worker->name, classes.count);
        for (uint32_t i = 0; i < classes.count; i++)
            classes.classes[i].label[SP_LIMIT_LABEL_BYTES - 1] = 0;
        answer->classes = &classes;
    } else if (request->task == SP_TASK_SEND) {
        if (size_bytes != sizeof(answer->sent))
            return SP_FAIL(err, SP_INTERNAL, "%s wrote %u bytes about what it sent", worker->name, size_bytes);
        memcpy(&answer->sent, source, sizeof(answer->sent));
        answer->sent.detail[sizeof(answer->sent.detail) - 1] = 0;
    } else {
        memcpy(payload, source, size_bytes);
        answer->payload = sp_view_make(payload, size_bytes);
    }
    return SP_OK;
}

/* Tens of megabytes: whoever wants them copies them, and then checks the copy. */
static sp_status take_video(const sp_worker *worker, sp_request *request, const sp_lease *given, const sp_completion *done)
{
    sp_answer *answer = &request->answer;
    if (given->link >= 0)
        name_the_link(worker, &worker->house->links[given->link], request);
    else
        (void)snprintf(answer->link, sizeof(answer->link), "%s", worker->name);
    if (given->op == SP_OP_REPORT)
        return sp_request_adopt_report(request, done->output_bytes, &answer->error);
    if (!done->answer_bytes || done->answer_bytes > SP_ANSWER_STRIDE)
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote an answer of %u bytes", worker->name, done->answer_bytes);
    answer->payload = sp_view_make(worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE, done->answer_bytes);
    answer->memory = worker->memory;
    return SP_OK;
}

static sp_status take_answer(const sp_worker *worker, sp_request *request, const sp_lease *given, const sp_completion *done)
{
    uint32_t offset = 0, size_bytes = done->answer_bytes;
    sp_answer *answer = &request->answer;
    if (given->op == SP_OP_INFER) {
        name_the_link(worker, &worker->house->links[given->link], request);
        return sp_infer_take(worker, request, done, 0, size_bytes);
    }
    if (sp_request_is_of_video(request))
        return take_video(worker, request, given, done);
    if (done->answer_bytes > (request->task == SP_TASK_INFER ? SP_ANSWER_STRIDE : SP_LIMIT_ANSWER_BYTES))
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote an answer of %u bytes", worker->name, done->answer_bytes);
    sp_status s = SP_OK;
    if (given->op == SP_OP_REMOTE)
        s = sp_remote_take(worker, request, given, done, &offset, &size_bytes);
    else if (given->link >= 0)
        name_the_link(worker, &worker->house->links[given->link], request);
    else
        (void)snprintf(answer->link, sizeof(answer->link), "%s", worker->name);
    if (!s && request->task == SP_TASK_INFER)
        return sp_infer_take(worker, request, done, offset, size_bytes);
    return s ? s : take_content(worker, request, done, offset, size_bytes);
}

/* What a live lease brought: its status, everything in the answer checked. */
static sp_status examine(const sp_worker *worker, sp_request *request, const sp_lease *given, const sp_completion *done)
{
    sp_error *err = &request->answer.error;
    sp_status status = done->status < SP_STATUS_COUNT ? (sp_status)done->status : SP_INTERNAL;
    if (status == SP_CANCELLED)
        status = SP_INTERNAL; /* we did not cancel it, or this lease would not be live */
    if (status && given->op == SP_OP_REMOTE) {
        /* That it does not let us in or lacks the model is the far house's trouble, not this client's. */
        status = status == SP_DENIED ? SP_UNAVAILABLE : status == SP_NOT_FOUND || status == SP_CONFLICT ? SP_UNSUPPORTED : status;
    }
    if (given->op == SP_OP_INFER || given->op == SP_OP_DETECT) {
        /* It was told to load it: that it has not is its trouble. */
        status = status == SP_NOT_FOUND || status == SP_CONFLICT || status == SP_DENIED ? SP_UNAVAILABLE : status;
    }
    if (status) {
        copy_error(worker, done, status, err);
        if (given->op == SP_OP_REMOTE)
            sp_remote_take_failure(worker, request, given, done);
        return status;
    }
    if (given->op == SP_OP_DECODE) {
        if (!output_is_sane(request, done))
            return SP_FAIL(err, SP_INTERNAL, "%s described its output wrongly", worker->name);
        return SP_OK;
    }
    if (given->op == SP_OP_UNPACK)
        return sp_infer_unpacked(worker, request, done);
    if (given->op == SP_OP_FETCH)
        return SP_OK; /* looked at when it is made the body */
    return take_answer(worker, request, given, done);
}

static sp_verdict verdict_of(sp_status status)
{
    if (status == SP_OK)
        return SP_VERDICT_GOOD;
    if (status == SP_BUSY)
        return SP_VERDICT_BUSY;
    return sp_status_feeds_breaker(status) ? SP_VERDICT_FAILED : SP_VERDICT_SILENT;
}

/* --- what follows ------------------------------------------------------------------------------------------------ */

static void decoded(sp_request *request, const sp_completion *done)
{
    request->output_kind = done->output_kind;
    request->output_bytes = done->output_bytes;
    request->image_w = done->image_w;
    request->image_h = done->image_h;
    if (request->live_count)
        sp_hedge_now(request); /* it was made for a second link, while the first is still at it */
    else
        sp_dispatch_go_on(request);
}

static void fetched(sp_worker *worker, sp_request *request, const sp_completion *done)
{
    bool is_all = request->fetch_fd >= 0;
    sp_status s = is_all ? sp_request_adopt_file(request, done->output_bytes, &request->answer.error)
                         : sp_request_adopt_body(request, done->output_bytes, &request->answer.error);
    if (s) {
        sp_dispatch_failed(request, -1, worker, s, 0);
        return;
    }
    request->wants_fetch = false;
    if (is_all) {
        request->answer.error = (sp_error){ 0 };
        sp_request_answer_now(request);
        return;
    }
    sp_chain_judge_payload(request);
    sp_dispatch_go_on(request);
}

static void succeeded(sp_worker *worker, sp_request *request, const sp_lease *given, const sp_completion *done)
{
    if (given->op == SP_OP_DECODE) {
        decoded(request, done);
        return;
    }
    if (given->op == SP_OP_FETCH) {
        fetched(worker, request, done);
        return;
    }
    if (given->op == SP_OP_UNPACK && !request->ends_unpacked) {
        sp_dispatch_go_on(request);
        return;
    }
    if (given->entry >= 0) {
        request->answer.simpler = request->chain->entries[given->entry].config->simpler;
        if (given->hedge)
            sp_metric_add(request->house->links[given->link].hedge_won_metric, 1);
        if (request->live_count)
            sp_hedge_settle(request);
        if (given->direct)
            sp_direct_answered(worker, request);
        else
            sp_guard_look(request, given); /* other pixels are no fault */
    }
    request->answer.error = (sp_error){ 0 };
    sp_request_answer_now(request);
}

/* A live lease of a request came back. */
static void returned(sp_worker *worker, sp_request *request, const sp_completion *done, const sp_lease *given)
{
    sp_house *house = worker->house;
    times t = read_times(done, given);
    note_times(worker, request, done, &t);
    sp_status status = examine(worker, request, given, done);
    if (given->link >= 0) {
        /* A remote that failed is not paid, unless it says what was used. */
        bool paid = given->op != SP_OP_REMOTE || !status || done->units > 0;
        request->answer.microdollars +=
            sp_quota_settle(house, request, given, SP_MAX(done->units, (int64_t)0), paid ? t.device_ns : -1);
        request->answer.device_ns = t.device_ns;
    }
    sp_lease_returned(worker, request, verdict_of(status), t.begun_ns);
    if (request->suspect)
        sp_poison_clear(&house->poison, sp_poison_hash(request)); /* it ran to its end after all */
    const char *name = given->link >= 0 ? house->links[given->link].name : worker->name;
    if (status || given->op != SP_OP_REMOTE) /* a remote's own attempts say more (remote.c) */
        sp_request_attempt_add(request, name, status, given->given_ns, status ? request->answer.error.message : "");
    if (!status) {
        succeeded(worker, request, given, done);
        return;
    }
    if (given->direct && sp_status_tries_next(status)) {
        sp_direct_failed(worker, request, status);
        return;
    }
    if (given->link >= 0 && (status == SP_BUSY || status == SP_UNAVAILABLE))
        sp_quota_cool(house, request, given, status == SP_BUSY || done->retry_after_ns > 0 ? done->retry_after_ns : -1,
                      sp_clock_now_ns());
    if (sp_status_tries_next(status) && request->task != SP_TASK_MODELS) {
        sp_dispatch_failed(request, given->entry, worker, status, done->retry_after_ns);
        return;
    }
    sp_lease_cancel_all(request, false);
    sp_request_answer(request, status);
}

static void take_back(sp_worker *worker, const sp_completion *done)
{
    sp_house *house = worker->house;
    sp_lease given = done->slot < SP_LIMIT_SLOTS ? worker->leases[done->slot] : (sp_lease){ 0 };
    if (!given.number || given.number != done->lease) {
        sp_metric_add(house->stale_metric, 1); /* not a lease of this worker: dropped and counted */
        return;
    }
    sp_request *request = &house->requests[done->slot];
    if (request->output_fd >= 0 && done->status != SP_CANCELLED) {
        struct stat st;
        if (fstat(request->output_fd, &st) < 0 || st.st_size > SP_OUTPUT_KEEP_BYTES)
            worker->output_serials[done->slot] = 0; /* the worker lets go of large ones by the same rule */
    }
    worker->completed++;
    worker->early_deaths = 0;
    if (request->state == SP_REQUEST_LEASED && given.live) {
        returned(worker, request, done, &given);
        return;
    }
    if (given.link >= 0) { /* what it did has its price, whoever reads it */
        times t = read_times(done, &given);
        bool worked = done->status == SP_OK || (given.op != SP_OP_REMOTE && done->status != SP_CANCELLED);
        (void)sp_quota_settle(house, request, &given, SP_MAX(done->units, (int64_t)0), worked ? t.device_ns : -1);
    }
    sp_lease_returned(worker, request, SP_VERDICT_SILENT, 0);
    sp_metric_add(house->stale_metric, 1); /* taken over or withdrawn meanwhile: its answer changes nothing */
    sp_request_recycle_if_done(request);
}

void sp_dispatch_collect(sp_worker *worker)
{
    sp_completion done;
    while (worker->page && sp_completions_pop(&worker->page->completions, &worker->completion_head, &done))
        take_back(worker, &done);
}
