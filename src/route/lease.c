/* SPDX-License-Identifier: Apache-2.0
 * One lease: the descriptors that go ahead of it, its entry in the worker's ring, its return, its withdrawal. */
#include "route/lease.h"

#include "base/clock.h"
#include "route/chain.h"
#include "route/models.h"
#include "route/quota.h"
#include "route/supervisor.h"
#include "worker/control.h"
#include "worker/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static bool writes_output(sp_op op)
{
    return op == SP_OP_DECODE || op == SP_OP_FETCH || op == SP_OP_UNPACK || op == SP_OP_REPORT;
}

static sp_status give_output(sp_worker *worker, sp_request *request, sp_op op, sp_error *reterr)
{
    /* A stale lease may still be writing the old output: what the new one writes must be out of its reach. And what is
     * fetched, or a report, will be sealed against writing, which needs a memfd that nobody ever mapped. */
    if ((writes_output(op) && request->leases_out > 0) || op == SP_OP_FETCH || op == SP_OP_REPORT)
        sp_fd_closep(&request->output_fd);
    if (op == SP_OP_FETCH && request->fetch_fd >= 0) { /* the caller's file, empty again */
        request->output_fd = fcntl(request->fetch_fd, F_DUPFD_CLOEXEC, 3);
        if (request->output_fd < 0 || ftruncate(request->output_fd, 0) != 0)
            return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no descriptor for what is fetched");
        request->output_serial = ++request->house->next_serial;
    }
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
    if (!writes_output(op)) {
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

/* What the operation finds in the output, or makes there. */
static uint32_t output_kind_of(const sp_request *request, sp_op op, int entry)
{
    switch (op) {
    case SP_OP_DECODE:
        return sp_chain_wanted_output(request->house, request);
    case SP_OP_CLASSIFY:
    case SP_OP_DETECT:
    case SP_OP_INFER: /* tensors that a codec unpacked */
        return request->output_kind;
    case SP_OP_FETCH:
    case SP_OP_UNPACK:
    case SP_OP_REPORT:
        return SP_OUTPUT_BYTES;
    case SP_OP_REMOTE:
        if (request->task == SP_TASK_INFER)
            return request->output_kind;
        return sp_chain_wants_output(request, entry) ? request->output_kind : SP_OUTPUT_NONE;
    case SP_OP_NOOP:
    case SP_OP_SEND:
    case SP_OP_LOAD:
    case SP_OP_UNLOAD:
    case SP_OP_INDEX:
    case SP_OP_ANALYZE:
        break;
    }
    return SP_OUTPUT_NONE;
}

static sp_status give_descriptors(sp_worker *worker, sp_request *request, sp_op op, uint32_t output_kind, sp_error *reterr)
{
    sp_status s = SP_OK;
    bool either = op == SP_OP_CLASSIFY || op == SP_OP_REMOTE; /* an output, or the body itself */
    bool wants_body = op != SP_OP_FETCH && (!either || output_kind == SP_OUTPUT_NONE);
    if (request->body_fd >= 0 && wants_body) {
        sp_control word = { .kind = SP_CONTROL_BODY, .slot = request->slot, .serial = request->shared->body_memfd_serial };
        s = sp_control_send(worker->control_fd, &word, &request->body_fd, 1, reterr);
    }
    if (!s && request->media_fd >= 0) {
        sp_control word = { .kind = SP_CONTROL_MEDIA, .slot = request->slot, .serial = request->shared->media_serial };
        s = sp_control_send(worker->control_fd, &word, &request->media_fd, 1, reterr);
    }
    if (!s && output_kind != SP_OUTPUT_NONE)
        s = give_output(worker, request, op, reterr);
    return s;
}

static sp_op op_for(const sp_request *request, int entry)
{
    return entry >= 0 && request->chain->entries[entry].worker < 0 ? SP_OP_REMOTE : request->op;
}

/* The link's side of a lease: a permit of its breaker, a place under its limit, a share of its quota. */
static void engage_link(sp_request *request, sp_lease *lease, int64_t now_ns)
{
    sp_house *house = request->house;
    const sp_chain_entry *entry = &request->chain->entries[lease->entry];
    sp_link *link = &house->links[entry->link];
    lease->link = (int16_t)entry->link;
    lease->model = request->model && entry->worker >= 0 ? request->model->id : 0;
    /* a demoted local link goes without */
    lease->has_ticket = sp_breaker_allow(sp_loaded_breaker(request, entry), now_ns, &lease->ticket);
    sp_limiter_begin(&link->limiter);
    link->in_flight++;
    sp_quota_reserve(house, request, entry, lease);
}

/* Operations of served models are counted apart: a worker takes more of them at once than of its own task. */
static bool is_served(uint32_t op)
{
    return op == SP_OP_INFER || op == SP_OP_DETECT || op == SP_OP_LOAD || op == SP_OP_UNLOAD;
}

sp_status sp_lease_give(sp_worker *worker, sp_request *request, int entry, int key, bool hedge, sp_error *reterr)
{
    sp_house *house = request->house;
    sp_op op = op_for(request, entry);
    uint32_t output_kind = output_kind_of(request, op, entry);
    SP_ASSERT(request->live_count < SP_LIVE_LEASES && !worker->leases[request->slot].number);
    sp_status s = give_descriptors(worker, request, op, output_kind, reterr);
    if (s)
        return s;
    int64_t now_ns = sp_clock_now_ns();
    house->next_lease += house->next_lease == UINT32_MAX ? 2 : 1; /* 0 means none */
    sp_submission submission = {
        .slot = request->slot,
        .op = op,
        .lease = house->next_lease,
        .output_kind = output_kind,
        .output_serial = output_kind ? request->output_serial : 0,
        .alone = request->suspect,
        .image_w = request->image_w,
        .image_h = request->image_h,
        .output_bytes = request->output_bytes,
        .attempt_deadline_ns = sp_chain_attempt_deadline(house, request, entry, worker, now_ns),
    };
    sp_trace_child(&request->shared->trace, (uint64_t)now_ns, submission.span_id); /* the attempt's start names it for ever */
    if (worker->role == SP_ROLE_NET) {
        submission.config_serial = request->snapshot->serial;
        submission.remote = entry >= 0 ? (uint16_t)request->chain->entries[entry].remote : 0;
        submission.key = key >= 0 ? (uint16_t)key : 0;
    }
    if (!sp_submissions_push(&worker->page->submissions, &worker->submission_tail, &submission))
        return SP_FAIL(reterr, SP_BUSY, "the ring of %s is full", worker->name);
    sp_lease *lease = &worker->leases[request->slot];
    bool direct = op == SP_OP_CLASSIFY && output_kind == SP_OUTPUT_NONE;
    request->direct_tried |= direct;
    if (direct)
        sp_text_copy(request->answer.model, sizeof(request->answer.model), worker->card.model);
    *lease = (sp_lease){ .number = submission.lease, .live = true, .hedge = hedge, .direct = direct, .op = (uint8_t)op, .entry = (int8_t)entry,
                         .key = (int8_t)key, .link = -1, .given_ns = now_ns, .deadline_ns = submission.attempt_deadline_ns };
    if (entry >= 0)
        engage_link(request, lease, now_ns);
    worker->in_flight++;
    worker->infer_in_flight += is_served(op);
    worker->models_in_flight += op == SP_OP_LOAD || op == SP_OP_UNLOAD;
    worker->analyze_in_flight += op == SP_OP_ANALYZE;
    worker->reserved |= request->suspect; /* nobody beside it until it is back */
    house->leased_count++;
    request->state = SP_REQUEST_LEASED;
    request->live_workers[request->live_count++] = worker->index;
    request->leases_out++;
    if (sp_ring_must_wake(&worker->page->worker_sleeping))
        sp_ring_bell(worker->submit_fd);
    sp_watchdog_arm(house);
    return SP_OK;
}

/* --- the way back ------------------------------------------------------------------------------------------------ */

static void leave_live(const sp_worker *worker, sp_request *request)
{
    for (int i = 0; i < request->live_count; i++) {
        if (request->live_workers[i] == worker->index) {
            request->live_workers[i] = request->live_workers[--request->live_count];
            return;
        }
    }
}

/* Who gave the lease its ticket; NULL when that model is no more. */
static sp_breaker *breaker_of(sp_worker *worker, const sp_lease *lease, sp_loaded **ret_model)
{
    *ret_model = lease->model ? sp_loaded_find(worker->house, lease->model) : NULL;
    if (!lease->model)
        return &worker->house->links[lease->link].breaker;
    return *ret_model ? &(*ret_model)->places[worker->index].breaker : NULL;
}

static void tell_breaker(sp_worker *worker, const sp_lease *lease, sp_loaded *model, int64_t now_ns)
{
    if (model)
        sp_loaded_note_breaker(model, worker->index, now_ns);
    else
        sp_link_note_breaker(&worker->house->links[lease->link], now_ns);
}

static void release_link(sp_worker *worker, const sp_lease *lease, sp_verdict verdict, int64_t run_begun_ns)
{
    sp_house *house = worker->house;
    sp_link *link = &house->links[lease->link];
    int64_t now_ns = sp_clock_now_ns(), took_ns = now_ns - lease->given_ns;
    link->in_flight--;
    sp_limiter_end(&link->limiter, verdict == SP_VERDICT_GOOD ? took_ns : 0,
                   verdict == SP_VERDICT_BUSY || verdict == SP_VERDICT_FAILED, now_ns);
    if (verdict == SP_VERDICT_GOOD) {
        sp_latency_add(&link->latency, took_ns);
        sp_metric_observe_ns(link->seconds_metric, took_ns);
    }
    sp_loaded *model;
    sp_breaker *breaker = lease->has_ticket ? breaker_of(worker, lease, &model) : NULL;
    if (!breaker)
        return;
    bool told = run_begun_ns && run_begun_ns == link->run_begun_ns; /* a batch is one event, not as many as it has items */
    if (verdict == SP_VERDICT_SILENT || verdict == SP_VERDICT_BUSY || told) {
        sp_breaker_release(breaker, lease->ticket);
    } else {
        link->run_begun_ns = run_begun_ns;
        sp_breaker_record(breaker, lease->ticket, verdict == SP_VERDICT_GOOD, now_ns);
    }
    tell_breaker(worker, lease, model, now_ns);
}

void sp_lease_returned(sp_worker *worker, sp_request *request, sp_verdict verdict, int64_t run_begun_ns)
{
    sp_lease *lease = &worker->leases[request->slot];
    if (lease->live)
        leave_live(worker, request);
    if (request->model && lease->model && verdict == SP_VERDICT_GOOD)
        sp_latency_add(&request->model->places[worker->index].latency, sp_clock_now_ns() - lease->given_ns);
    if (lease->link >= 0)
        release_link(worker, lease, verdict, run_begun_ns);
    lease->number = 0;
    lease->live = false;
    worker->in_flight--;
    worker->infer_in_flight -= is_served(lease->op);
    worker->models_in_flight -= lease->op == SP_OP_LOAD || lease->op == SP_OP_UNLOAD;
    worker->analyze_in_flight -= lease->op == SP_OP_ANALYZE;
    worker->house->leased_count--;
    request->leases_out--;
    if (worker->in_flight == worker->models_in_flight)
        worker->reserved = false;
}

void sp_lease_blame(sp_worker *worker, sp_request *request)
{
    sp_lease *lease = &worker->leases[request->slot];
    if (lease->link < 0 || !lease->has_ticket)
        return;
    sp_loaded *model;
    sp_breaker *breaker = breaker_of(worker, lease, &model);
    int64_t now_ns = sp_clock_now_ns();
    if (breaker)
        sp_breaker_record(breaker, lease->ticket, false, now_ns);
    lease->has_ticket = false;
    if (breaker)
        tell_breaker(worker, lease, model, now_ns);
}

/* --- withdrawal -------------------------------------------------------------------------------------------------- */

/* A watermark withdraws all leases up to it; the one that is live and not above it is spared (worker/slot.h). */
void sp_lease_cancel(sp_worker *worker, sp_request *request, bool overdue_kills)
{
    sp_lease *given = &worker->leases[request->slot];
    SP_ASSERT(given->live);
    given->live = false;
    leave_live(worker, request);
    uint32_t spared = 0, mark = atomic_load_explicit(&request->shared->cancelled_lease, memory_order_relaxed);
    if (!mark || (int32_t)(given->number - mark) > 0)
        mark = given->number;
    if (request->live_count) {
        uint32_t other = request->house->workers[request->live_workers[0]].leases[request->slot].number;
        if ((int32_t)(mark - other) >= 0)
            spared = other;
    }
    atomic_store_explicit(&request->shared->spared_lease, spared, memory_order_relaxed);
    atomic_store_explicit(&request->shared->cancelled_lease, mark, memory_order_release);
    if (overdue_kills)
        given->overdue_ns = sp_clock_now_ns() + SP_LIMIT_LEASE_GRACE_MS * SP_NS_PER_MS;
    if (worker->role == SP_ROLE_NET && worker->submit_fd >= 0)
        sp_ring_bell(worker->submit_fd); /* it waits for the network: a withdrawal must not wait with it */
}

void sp_lease_cancel_all(sp_request *request, bool overdue_kills)
{
    while (request->live_count)
        sp_lease_cancel(&request->house->workers[request->live_workers[0]], request, overdue_kills);
}

bool sp_lease_in_hand(const sp_worker *worker, uint32_t slot, uint32_t lease_number)
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
