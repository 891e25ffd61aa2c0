/* SPDX-License-Identifier: Apache-2.0
 * One lease: the descriptors that go ahead of it, its entry in the worker's ring, its return, its withdrawal. */
#include "route/lease.h"

#include "base/clock.h"
#include "route/chain.h"
#include "route/supervisor.h"
#include "worker/control.h"
#include "worker/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

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

sp_status sp_lease_give(sp_worker *worker, sp_request *request, sp_error *reterr)
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
        .output_kind = request->op == SP_OP_DECODE ? sp_chain_wanted_output(house) : request->output_kind,
        .output_serial = request->output_serial,
        .alone = request->suspect,
        .image_w = request->image_w,
        .image_h = request->image_h,
        .output_bytes = request->output_bytes,
        .attempt_deadline_ns = sp_chain_attempt_deadline(house, worker, request, now_ns),
    };
    if (!sp_submissions_push(&worker->page->submissions, &worker->submission_tail, &submission))
        return SP_FAIL(reterr, SP_BUSY, "the ring of %s is full", worker->name);
    worker->leases[request->slot] = (sp_lease){ .number = submission.lease, .given_ns = now_ns };
    worker->in_flight++;
    worker->reserved |= request->suspect; /* nobody beside it until it is back */
    house->leased_count++;
    request->state = SP_REQUEST_LEASED;
    request->lease = submission.lease;
    request->lease_worker = worker->index;
    request->leases_out++;
    request->attempt_deadline_ns = submission.attempt_deadline_ns;
    if (request->attempt_deadline_ns < request->shared->deadline_ns)
        s = sp_loop_timer_set(house->loop, &request->timer, request->attempt_deadline_ns, reterr);
    if (sp_ring_must_wake(&worker->page->worker_sleeping))
        sp_ring_bell(worker->submit_fd);
    sp_watchdog_arm(house);
    return SP_OK;
}

void sp_lease_returned(sp_worker *worker, sp_request *request)
{
    worker->leases[request->slot].number = 0;
    worker->in_flight--;
    worker->house->leased_count--;
    request->leases_out--;
    if (worker->in_flight == 0)
        worker->reserved = false;
}

void sp_lease_cancel(sp_worker *worker, sp_request *request, bool overdue_kills)
{
    sp_lease *given = &worker->leases[request->slot];
    atomic_store_explicit(&request->shared->cancelled_lease, given->number, memory_order_relaxed);
    if (overdue_kills)
        given->overdue_ns = sp_clock_now_ns() + SP_LIMIT_LEASE_GRACE_MS * SP_NS_PER_MS;
    request->lease = 0;
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
