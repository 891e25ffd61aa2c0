/* SPDX-License-Identifier: Apache-2.0
 * What happens to a submitted request: its steps, the choice of a worker, leases, their return, and what each status
 * means for the request (docs/internals/route.md). Every path ends in sp_request_answer or sp_request_answer_now. */
#include "route/dispatch.h"

#include "base/clock.h"
#include "base/log.h"
#include "route/supervisor.h"
#include "worker/control.h"
#include "worker/ring.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define TRIES_PER_WORKER 2 /* one transient failure of the only link must not cost the request */
#define STEPS_MAX 2

static const struct {
    int count;
    sp_op ops[STEPS_MAX];
} task_steps[SP_TASK_COUNT] = {
    [SP_TASK_NOOP] = { 1, { SP_OP_NOOP } },
    [SP_TASK_CLASSIFY] = { 2, { SP_OP_DECODE, SP_OP_CLASSIFY } },
};

/* --- who can do what -------------------------------------------------------------------------------------------- */

static bool can_do(const sp_worker *worker, const sp_request *request)
{
    switch (request->op) {
    case SP_OP_NOOP:
        return worker->role != SP_ROLE_CODEC;
    case SP_OP_DECODE:
        return worker->role == SP_ROLE_CODEC;
    case SP_OP_CLASSIFY:
        return worker->role == SP_ROLE_DEVICE && !worker->without_model &&
               (!worker->has_card || !request->answer.model[0] || strcmp(worker->card.model, request->answer.model) == 0);
    }
    return false;
}

/* It may answer this request, now or when it is up again. */
static bool may_answer(const sp_worker *worker, const sp_request *request)
{
    return worker->state != SP_WORKER_QUARANTINED && worker->state != SP_WORKER_ENDING && can_do(worker, request) &&
           request->tries[worker->index] < TRIES_PER_WORKER;
}

static bool has_room(const sp_worker *worker, const sp_request *request, bool alone)
{
    if (worker->state != SP_WORKER_READY || worker->leases[request->slot].number)
        return false;
    if (alone)
        return worker->in_flight == 0;
    return !worker->reserved && (uint32_t)worker->in_flight < worker->card.window;
}

/* The chain: workers in the order they were named, same kind = same link. A worker that failed this request comes
 * after one that did not; inside a link the one with the fewest leases. */
static bool better(const sp_request *request, const sp_worker *a, const sp_worker *b)
{
    if (!b)
        return true;
    if (request->tries[a->index] != request->tries[b->index])
        return request->tries[a->index] < request->tries[b->index];
    if (strcmp(a->kind, b->kind) != 0)
        return a->index < b->index;
    return a->in_flight != b->in_flight ? a->in_flight < b->in_flight : a->index < b->index;
}

/* A link that usually needs longer than is left comes last: it is taken only when nobody quicker can be. */
static bool too_slow(const sp_worker *worker, const sp_request *request, int64_t now_ns)
{
    return worker->card.p50_ns > request->shared->deadline_ns - now_ns;
}

static sp_worker *pick(sp_house *house, const sp_request *request, bool alone, bool *ret_possible)
{
    sp_worker *best = NULL, *best_slow = NULL;
    int64_t now_ns = sp_loop_now_ns(house->loop);
    *ret_possible = false;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        if (!may_answer(worker, request))
            continue;
        *ret_possible = true;
        sp_worker **place = too_slow(worker, request, now_ns) ? &best_slow : &best;
        if (has_room(worker, request, alone) && better(request, worker, *place))
            *place = worker;
    }
    return best ? best : best_slow;
}

/* --- poison ----------------------------------------------------------------------------------------------------- */

/* Content, not identity: queued copies of one crasher share their suspicion. */
static uint64_t hash_of(sp_request *request)
{
    if (!request->hashed) {
        const sp_slot_request *shared = request->shared;
        request->body_hash = XXH3_64bits(request->body + shared->payload_offset, shared->payload_bytes);
        request->hashed = true;
    }
    uint64_t key = request->body_hash ^ (uint64_t)request->op * 0x9E3779B97F4A7C15u;
    return request->op == SP_OP_CLASSIFY ? key ^ XXH3_64bits(request->answer.model, strlen(request->answer.model)) : key;
}

static void answer_poisoned(sp_request *request)
{
    bool decoder = request->op == SP_OP_DECODE;
    sp_metric_add(request->house->poison_metric, 1);
    sp_status s = SP_FAIL_CODE(&request->answer.error, decoder ? SP_REFUSED : SP_INTERNAL,
                               decoder ? "crashed_decoder" : "crashed_model",
                               "this very body ended two workers; it is refused for %d minutes", SP_LIMIT_POISON_MS / 60000);
    sp_request_answer(request, s);
}

/* --- giving ------------------------------------------------------------------------------------------------------ */

static void requeue(sp_request *request, bool front)
{
    sp_house *house = request->house;
    request->state = SP_REQUEST_QUEUED;
    request->lease = 0;
    sp_queue *queue = request->suspect ? &house->suspects[request->op] : &house->queues[request->op];
    if (front)
        sp_queue_push_front(queue, request);
    else
        sp_queue_push(queue, request);
    sp_error err = { 0 };
    if (sp_loop_timer_set(house->loop, &request->timer, request->shared->deadline_ns, &err))
        sp_log_error("no deadline timer", sp_request_id(request), &err);
}

static void begin_step(sp_request *request, int step)
{
    request->step = step;
    request->op = task_steps[request->task].ops[step];
    request->queued_ns = sp_clock_now_ns();
    request->suspect = false;
    memset(request->tries, 0, sizeof(request->tries));
    requeue(request, false);
}

/* The worst of what its attempts said, when no link is left. */
static void answer_exhausted(sp_request *request)
{
    sp_answer *answer = &request->answer;
    sp_status worst = SP_OK;
    for (int i = 0; i < answer->attempt_count; i++) {
        sp_status s = answer->attempts[i].status;
        if (s != SP_OK && (worst == SP_OK || sp_status_rank(s) > sp_status_rank(worst)))
            worst = s;
    }
    if (worst == SP_OK || answer->error.status != worst) {
        worst = worst ? worst : SP_UNAVAILABLE;
        (void)SP_FAIL_CODE(&answer->error, worst, "no_link", "no link is left for '%s' (tried %d): %s",
                           sp_task_name(request->task), answer->attempt_count,
                           answer->attempt_count ? answer->attempts[answer->attempt_count - 1].reason
                                                 : "no worker for it is running; see /healthz");
    }
    sp_request_answer(request, worst);
}

static sp_status give_output(sp_worker *worker, sp_request *request, sp_error *reterr)
{
    /* A stale lease may still be writing the old output: what the new one writes must be out of its reach. */
    if (request->op == SP_OP_DECODE && request->leases_out > 0)
        sp_fd_closep(&request->output_fd);
    if (request->output_fd < 0) {
        int fd = memfd_create("spillway-output", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
            return SP_FAIL_ERRNO(reterr, SP_NOMEM, "memfd_create for an output");
        (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK); /* nobody can take mapped pages away from a reader */
        request->output_fd = fd;
        request->output_serial = ++request->house->next_serial;
    }
    if (worker->output_serials[request->slot] == request->output_serial)
        return SP_OK;
    sp_control word = { .kind = SP_CONTROL_OUTPUT, .slot = request->slot, .serial = request->output_serial };
    int fd = request->output_fd, read_only = -1;
    if (request->op != SP_OP_DECODE) {
        sp_status s = sp_shm_reopen_read_only(fd, &read_only, reterr);
        if (s)
            return s;
        fd = read_only;
    }
    sp_status s = sp_control_send(worker->control_fd, &word, &fd, 1, reterr);
    sp_fd_closep(&read_only);
    if (!s)
        worker->output_serials[request->slot] = request->output_serial;
    return s;
}

static sp_status give_descriptors(sp_worker *worker, sp_request *request, sp_error *reterr)
{
    sp_status s = SP_OK;
    if (request->body_fd >= 0 && request->op != SP_OP_CLASSIFY) {
        sp_control word = { .kind = SP_CONTROL_BODY, .slot = request->slot, .serial = request->shared->body_memfd_serial };
        s = sp_control_send(worker->control_fd, &word, &request->body_fd, 1, reterr);
    }
    if (!s && request->op != SP_OP_NOOP)
        s = give_output(worker, request, reterr);
    return s;
}

/* An attempt may take what is left, minus what the quickest later worker needs; the last one gets all of it. */
static int64_t attempt_deadline(const sp_house *house, const sp_worker *chosen, const sp_request *request, int64_t now_ns)
{
    int64_t deadline_ns = request->shared->deadline_ns, later_ns = INT64_MAX;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *other = &house->workers[i];
        if (other != chosen && other->state == SP_WORKER_READY && may_answer(other, request))
            later_ns = SP_MIN(later_ns, other->card.p99_ns);
    }
    if (later_ns == INT64_MAX)
        return deadline_ns;
    int64_t until_ns = deadline_ns - later_ns;
    if (house->config.link_timeout_ns)
        until_ns = SP_MIN(until_ns, now_ns + house->config.link_timeout_ns);
    return until_ns;
}

/* Pixels suit every device; the tensor itself is made ahead only when nothing but CPUs can come next. */
static uint32_t wanted_output(const sp_house *house)
{
    for (int i = 0; i < house->worker_count; i++) {
        if (house->workers[i].role == SP_ROLE_DEVICE && strcmp(house->workers[i].kind, "cpu") != 0)
            return SP_OUTPUT_RGB8;
    }
    return SP_OUTPUT_TENSOR;
}

static sp_status lease(sp_worker *worker, sp_request *request, sp_error *reterr)
{
    sp_house *house = request->house;
    sp_status s = give_descriptors(worker, request, reterr);
    if (s)
        return s;
    int64_t now_ns = sp_clock_now_ns();
    house->next_lease += house->next_lease == UINT32_MAX ? 2 : 1; /* 0 means none */
    sp_submission submission = {
        .slot = request->slot,
        .op = request->op,
        .lease = house->next_lease,
        .output_kind = request->op == SP_OP_DECODE ? wanted_output(house) : request->output_kind,
        .output_serial = request->output_serial,
        .alone = request->suspect,
        .image_w = request->image_w,
        .image_h = request->image_h,
        .output_bytes = request->output_bytes,
        .attempt_deadline_ns = attempt_deadline(house, worker, request, now_ns),
    };
    if (!sp_submissions_push(&worker->page->submissions, &worker->submission_tail, &submission))
        return SP_FAIL(reterr, SP_BUSY, "the ring of %s is full", worker->name);
    worker->leases[request->slot] = (sp_lease){ .number = submission.lease, .given_ns = now_ns };
    worker->in_flight++;
    house->leased_count++;
    request->state = SP_REQUEST_LEASED;
    request->lease = submission.lease;
    request->lease_worker = worker->index;
    request->leases_out++;
    request->attempt_deadline_ns = submission.attempt_deadline_ns;
    if (request->attempt_deadline_ns < request->shared->deadline_ns)
        s = sp_loop_timer_set(house->loop, &request->timer, request->attempt_deadline_ns, reterr);
    if (sp_ring_must_wake(&worker->page->worker_sleeping)) {
        uint64_t one = 1;
        (void)!write(worker->submit_fd, &one, sizeof(one));
    }
    sp_watchdog_arm(house);
    return SP_OK;
}

static const sp_worker_card *card_for(const sp_house *house, const sp_request *request)
{
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *w = &house->workers[i];
        if (w->role == SP_ROLE_DEVICE && w->has_card && w->card.model[0] &&
            (!request->answer.model[0] || strcmp(w->card.model, request->answer.model) == 0))
            return &w->card;
    }
    return NULL;
}

static bool model_may_come(const sp_house *house)
{
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *w = &house->workers[i];
        if (w->role == SP_ROLE_DEVICE && !w->has_card && !w->without_model && w->state != SP_WORKER_QUARANTINED)
            return true;
    }
    return false;
}

typedef enum verdict { TAKEN, WAITS, REMOVED } verdict;

/* Before the first lease of a classification the model must be known: its card says how to pre-process. */
static verdict prepare_first_step(sp_request *request)
{
    if (request->task != SP_TASK_CLASSIFY || request->step != 0 || request->leases_out)
        return TAKEN;
    const sp_worker_card *card = card_for(request->house, request);
    if (card) {
        request->shared->prep = card->prep;
        (void)snprintf(request->answer.model, sizeof(request->answer.model), "%s", card->model);
        return TAKEN;
    }
    return model_may_come(request->house) ? WAITS : REMOVED;
}

/* One request of a queue: leased, left waiting, or taken out (answered or moved). */
static verdict try_one(sp_house *house, sp_queue *queue, sp_request *request)
{
    if (house->poison.count) {
        sp_poison_verdict poison = sp_poison_look(&house->poison, hash_of(request), sp_clock_now_ns());
        if (poison == SP_POISON_REFUSED || (poison == SP_POISON_SUSPECT && !request->suspect)) {
            sp_queue_remove(queue, request);
            if (poison == SP_POISON_REFUSED) {
                answer_poisoned(request);
            } else {
                request->suspect = true;
                requeue(request, false);
            }
            return REMOVED;
        }
    }
    verdict ready = prepare_first_step(request);
    bool possible = ready != REMOVED;
    sp_worker *worker = ready == TAKEN ? pick(house, request, request->suspect, &possible) : NULL;
    if (!possible) {
        sp_queue_remove(queue, request);
        answer_exhausted(request);
        return REMOVED;
    }
    if (!worker)
        return WAITS;
    sp_error err = { 0 };
    sp_queue_remove(queue, request);
    sp_status s = lease(worker, request, &err);
    if (!s)
        return TAKEN;
    sp_queue_push_front(queue, request); /* BUSY: its socket is full; UNAVAILABLE: it just died; both pass */
    if (s != SP_BUSY && s != SP_UNAVAILABLE)
        sp_log_error("lease not given", sp_request_id(request), &err);
    return WAITS;
}

/* A suspect needs a worker that has nothing else in hand: one is drained for it. */
static void reserve_for(sp_house *house, const sp_request *request)
{
    sp_worker *best = NULL;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        if (worker->state != SP_WORKER_READY || !may_answer(worker, request))
            continue;
        if (worker->reserved)
            return;
        if (!best || worker->in_flight < best->in_flight)
            best = worker;
    }
    if (best)
        best->reserved = true;
}

void sp_dispatch_run(sp_house *house)
{
    for (int op = SP_OP_NOOP; op <= SP_OP_CLASSIFY; op++) {
        sp_queue *suspects = &house->suspects[op], *queue = &house->queues[op];
        for (sp_request *request = suspects->first, *next; request; request = next) {
            next = request->next;
            if (try_one(house, suspects, request) == WAITS) {
                reserve_for(house, request);
                break;
            }
        }
        int waits = 0;
        for (sp_request *request = queue->first, *next; request && waits < 8; request = next) {
            next = request->next;
            waits += try_one(house, queue, request) == WAITS; /* a few may wait for one worker while others could go */
        }
    }
}

void sp_dispatch_submit(sp_request *request)
{
    begin_step(request, 0);
    sp_dispatch_run(request->house);
}

/* --- taking back ------------------------------------------------------------------------------------------------- */

static void lease_returned(sp_worker *worker, sp_request *request)
{
    worker->leases[request->slot].number = 0;
    worker->in_flight--;
    worker->house->leased_count--;
    request->leases_out--;
    if (worker->in_flight == 0)
        worker->reserved = false;
}

static void cancel_lease(sp_worker *worker, sp_request *request, bool overdue_kills)
{
    sp_lease *given = &worker->leases[request->slot];
    atomic_store_explicit(&request->shared->cancelled_lease, given->number, memory_order_relaxed);
    if (overdue_kills)
        given->overdue_ns = sp_clock_now_ns() + SP_LIMIT_LEASE_GRACE_MS * SP_NS_PER_MS;
    request->lease = 0;
}

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
    request->tries[worker->index] = (uint8_t)(for_good ? TRIES_PER_WORKER : request->tries[worker->index] + 1);
    sp_metric_add(request->house->fallback_metric, 1);
    requeue(request, true);
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
        sp_poison_clear(&request->house->poison, hash_of(request)); /* it ran to its end after all */
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
        begin_step(request, request->step + 1);
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
    lease_returned(worker, request);
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

/* --- deaths, deadlines, withdrawals ------------------------------------------------------------------------------ */

bool sp_dispatch_in_hand(const sp_worker *worker, uint32_t slot, uint32_t lease_number)
{
    for (int e = 0; worker->page && e < SP_LIMIT_EXECUTORS; e++) {
        sp_mark *mark = &worker->page->marks[e];
        uint32_t count = atomic_load_explicit(&mark->count, memory_order_acquire);
        for (uint32_t i = 0; i < SP_MIN(count, (uint32_t)SP_LIMIT_BATCH); i++) {
            if (atomic_load_explicit(&mark->items[i].slot, memory_order_relaxed) == slot &&
                atomic_load_explicit(&mark->items[i].lease, memory_order_relaxed) == lease_number)
                return true;
        }
    }
    return false;
}

static bool is_suspicious(sp_death_cause cause)
{
    return cause == SP_DEATH_CRASH || cause == SP_DEATH_OOM || cause == SP_DEATH_WATCHDOG || cause == SP_DEATH_OVERDUE;
}

static void orphaned(sp_worker *worker, sp_request *request, const sp_lease *given, sp_death_cause cause, bool in_hand,
                     const char *reason)
{
    request->lease = 0;
    sp_request_attempt_add(request, worker->name, SP_UNAVAILABLE, given->given_ns, reason);
    sp_metric_add(request->house->requeued_metric, 1);
    if (in_hand && is_suspicious(cause)) {
        if (sp_poison_death(&request->house->poison, hash_of(request), sp_clock_now_ns()) == SP_POISON_REFUSED) {
            answer_poisoned(request);
            return;
        }
        request->suspect = true;
    } else if (in_hand && cause == SP_DEATH_EXIT) {
        request->tries[worker->index]++;
    }
    requeue(request, true);
}

void sp_dispatch_worker_gone(sp_worker *worker, sp_death_cause cause, const char *reason)
{
    sp_dispatch_collect(worker); /* what it had finished still counts */
    for (uint32_t slot = 0; slot < SP_LIMIT_SLOTS && worker->in_flight; slot++) {
        sp_lease given = worker->leases[slot];
        if (!given.number)
            continue;
        sp_request *request = &worker->house->requests[slot];
        bool in_hand = sp_dispatch_in_hand(worker, slot, given.number);
        lease_returned(worker, request);
        if (request->state == SP_REQUEST_LEASED && request->lease == given.number)
            orphaned(worker, request, &given, cause, in_hand, reason);
        else
            sp_request_recycle_if_done(request);
    }
    worker->reserved = false;
}

static sp_worker *lease_holder(sp_request *request)
{
    return &request->house->workers[request->lease_worker];
}

void sp_dispatch_withdraw(sp_request *request)
{
    if (request->in_queue) {
        sp_house *house = request->house;
        sp_queue_remove(request->suspect ? &house->suspects[request->op] : &house->queues[request->op], request);
    } else if (request->lease) {
        cancel_lease(lease_holder(request), request, false); /* the client left; that is no reason to kill anybody */
    }
}

static void deadline_passed(sp_request *request)
{
    bool executing = request->lease && sp_dispatch_in_hand(lease_holder(request), request->slot, request->lease);
    if (request->lease) {
        sp_worker *worker = lease_holder(request);
        sp_request_attempt_add(request, worker->name, executing ? SP_TIMEOUT : SP_BUSY,
                               worker->leases[request->slot].given_ns, "the deadline passed");
        cancel_lease(worker, request, true);
    } else {
        sp_dispatch_withdraw(request);
    }
    int64_t had_ms = (request->shared->deadline_ns - request->answer.received_ns) / SP_NS_PER_MS;
    sp_status s = executing ? SP_FAIL_CODE(&request->answer.error, SP_TIMEOUT, "deadline",
                                           "the deadline of %lld ms passed while it was being executed", (long long)had_ms)
                            : SP_FAIL_CODE(&request->answer.error, SP_BUSY, "deadline",
                                           "the deadline of %lld ms passed before its turn came", (long long)had_ms);
    sp_request_answer(request, s);
}

void sp_dispatch_expire(sp_timer *timer, void *context)
{
    sp_request *request = context;
    int64_t now_ns = sp_clock_now_ns();
    if (now_ns >= request->shared->deadline_ns) {
        deadline_passed(request);
        return;
    }
    if (request->state != SP_REQUEST_LEASED || now_ns < request->attempt_deadline_ns)
        return;
    sp_worker *worker = lease_holder(request);
    sp_request_attempt_add(request, worker->name, SP_TIMEOUT, worker->leases[request->slot].given_ns,
                           "slower than its link may be; the next one took over");
    (void)SP_FAIL(&request->answer.error, SP_TIMEOUT, "%s did not answer in time", worker->name);
    cancel_lease(worker, request, true);
    request->tries[worker->index] = TRIES_PER_WORKER;
    sp_metric_add(request->house->fallback_metric, 1);
    requeue(request, true);
}

int64_t sp_dispatch_hook(void *context)
{
    sp_house *house = context;
    for (int i = 0; i < house->worker_count; i++)
        sp_dispatch_collect(&house->workers[i]);
    sp_dispatch_run(house);
    sp_request_deliver(house);
    return house->answered.count ? 0 : -1;
}
