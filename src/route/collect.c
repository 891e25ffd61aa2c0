/* SPDX-License-Identifier: Apache-2.0
 * Completions: what a worker says it has done, copied, checked, and turned into the next step, the answer, or another
 * try. */
#include "base/clock.h"
#include "route/chain.h"
#include "route/dispatch.h"
#include "route/lease.h"
#include "worker/ring.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void note_times(sp_worker *worker, sp_request *request, const sp_completion *done, const sp_lease *given)
{
    sp_answer *answer = &request->answer;
    int64_t now_ns = sp_clock_now_ns();
    int64_t begun_ns = SP_CLAMP(done->begun_ns, given->given_ns, now_ns); /* a claim, not a fact */
    answer->queue_ns += begun_ns - request->queued_ns;
    answer->decode_ns += SP_CLAMP(done->decode_ns, (int64_t)0, now_ns - begun_ns);
    answer->preprocess_ns += SP_CLAMP(done->preprocess_ns, (int64_t)0, now_ns - begun_ns);
    answer->inference_ns += SP_CLAMP(done->inference_ns, (int64_t)0, now_ns - begun_ns);
    answer->postprocess_ns += SP_CLAMP(done->postprocess_ns, (int64_t)0, now_ns - begun_ns);
    answer->batch_run_ns = SP_CLAMP(done->batch_run_ns, (int64_t)0, now_ns - begun_ns);
    answer->batch_size = SP_CLAMP(done->batch_size, 1u, (uint32_t)SP_LIMIT_BATCH);
    int64_t item_ns = (now_ns - begun_ns) / answer->batch_size;
    worker->service_ns = worker->service_ns ? (worker->service_ns * 7 + item_ns) / 8 : item_ns;
}

/* An error a worker wrote into shared memory: copied, then made safe. */
static void copy_error(const sp_worker *worker, const sp_completion *done, sp_status status, sp_error *ret_error)
{
    if (done->answer_bytes != sizeof(sp_error)) {
        (void)SP_FAIL(ret_error, status, "%s failed without saying why", worker->name);
        return;
    }
    memcpy(ret_error, worker->answers + (size_t)done->slot * SP_LIMIT_ANSWER_BYTES, sizeof(*ret_error));
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

static void name_the_link(const sp_worker *worker, sp_answer *answer)
{
    (void)snprintf(answer->link, sizeof(answer->link), "%s", worker->name);
    (void)snprintf(answer->device, sizeof(answer->device), "%s", worker->card.device);
    (void)snprintf(answer->precision, sizeof(answer->precision), "%s", worker->card.precision);
    (void)snprintf(answer->version, sizeof(answer->version), "%s", worker->card.version);
    (void)snprintf(answer->engine, sizeof(answer->engine), "%s", worker->card.engine);
}

/* Copies the answer out of the worker's memory, checks the copy, and delivers it. */
static sp_status deliver(sp_worker *worker, sp_request *request, const sp_completion *done)
{
    static sp_answer_classes classes; /* loop thread only; the callback reads them before it returns */
    static uint8_t payload[SP_LIMIT_ANSWER_BYTES];
    const uint8_t *source = worker->answers + (size_t)done->slot * SP_LIMIT_ANSWER_BYTES;
    sp_answer *answer = &request->answer;
    sp_error *err = &answer->error;
    if (done->answer_bytes > SP_LIMIT_ANSWER_BYTES)
        return SP_FAIL(err, SP_INTERNAL, "%s wrote an answer of %u bytes", worker->name, done->answer_bytes);
    if (request->op == SP_OP_CLASSIFY) {
        if (done->answer_bytes < offsetof(sp_answer_classes, classes) || done->answer_bytes > sizeof(classes))
            return SP_FAIL(err, SP_INTERNAL, "%s wrote %u bytes of classes", worker->name, done->answer_bytes);
        memcpy(&classes, source, done->answer_bytes);
        if (offsetof(sp_answer_classes, classes) + (uint64_t)classes.count * sizeof(classes.classes[0]) > done->answer_bytes)
            return SP_FAIL(err, SP_INTERNAL, "%s wrote a bad class count %u", worker->name, classes.count);
        for (uint32_t i = 0; i < classes.count; i++)
            classes.classes[i].label[SP_LIMIT_LABEL_BYTES - 1] = 0;
        answer->classes = &classes;
    } else {
        memcpy(payload, source, done->answer_bytes);
        answer->payload = sp_view_make(payload, done->answer_bytes);
    }
    *err = (sp_error){ 0 };
    name_the_link(worker, answer);
    sp_request_answer_now(request);
    return SP_OK;
}

static void after_failure(sp_worker *worker, sp_request *request, sp_status status)
{
    if (!sp_status_tries_next(status)) {
        sp_request_answer(request, status);
        return;
    }
    bool for_good = status == SP_UNSUPPORTED || status == SP_REFUSED || status == SP_CORRUPT;
    request->tries[worker->index] = (uint8_t)(for_good ? SP_TRIES_PER_WORKER : request->tries[worker->index] + 1);
    sp_metric_add(request->house->fallback_metric, 1);
    sp_dispatch_requeue(request, true);
}

/* The current lease of a request came back. */
static void returned(sp_worker *worker, sp_request *request, const sp_completion *done, const sp_lease *given)
{
    sp_status status = done->status < SP_STATUS_COUNT ? (sp_status)done->status : SP_INTERNAL;
    if (status == SP_CANCELLED)
        status = SP_INTERNAL; /* we did not cancel it, or this would not be the current lease */
    note_times(worker, request, done, given);
    request->lease = 0;
    if (request->suspect)
        sp_poison_clear(&request->house->poison, sp_poison_hash(request)); /* it ran to its end after all */
    if (status == SP_OK && request->op == SP_OP_DECODE && !output_is_sane(request, done)) {
        (void)SP_FAIL(&request->answer.error, SP_INTERNAL, "%s described its output wrongly", worker->name);
        status = SP_INTERNAL;
    } else if (status) {
        copy_error(worker, done, status, &request->answer.error);
    }
    sp_request_attempt_add(request, worker->name, status, given->given_ns, status ? request->answer.error.message : "");
    if (status == SP_OK && request->op == SP_OP_DECODE) {
        request->output_kind = done->output_kind;
        request->output_bytes = done->output_bytes;
        request->image_w = done->image_w;
        request->image_h = done->image_h;
        sp_dispatch_begin_step(request, request->step + 1);
    } else if (status == SP_OK) {
        status = deliver(worker, request, done);
    }
    if (status)
        after_failure(worker, request, status);
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
    sp_lease_returned(worker, request);
    if (request->state == SP_REQUEST_LEASED && request->lease == done->lease) {
        returned(worker, request, done, &given);
        return;
    }
    sp_metric_add(house->stale_metric, 1); /* taken over or withdrawn meanwhile: its answer changes nothing */
    sp_request_recycle_if_done(request);
}

void sp_dispatch_collect(sp_worker *worker)
{
    sp_completion done;
    while (worker->page && sp_completions_pop(&worker->page->completions, &worker->completion_head, &done))
        take_back(worker, &done);
}
