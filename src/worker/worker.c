/* SPDX-License-Identifier: Apache-2.0
 * The worker process: leader and followers over one ring.
 *
 * Executors are threads. One of them, the leader, holds the mutex and waits for the ring; when it has formed a batch it
 * lets the next one lead and runs the batch itself, so a lone request is served by the very thread that was woken: no
 * hand-over. A no-op is answered by the leader without giving the lead away.
 *
 * An asynchronous kind (net) has one thread instead (worker_async.c); a kind with queues of its own (device) shares the
 * ring's end and the answers with this file and goes its own way in between (worker_queue.c).
 *
 * The main thread waits for the end of the control socket (the gateway is gone: exit at once). */
#include "worker/loop.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "worker/control.h"
#include "worker/ring.h"
#include "worker/unexpected.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define CONTROL_FD 3
#define OOM_SCORE "500" /* under memory pressure a worker goes before the gateway: its requests survive it */

sp_worker_process sp_process = { .lead = PTHREAD_MUTEX_INITIALIZER, .queue_lock = PTHREAD_MUTEX_INITIALIZER,
                                 .answer_lock = PTHREAD_MUTEX_INITIALIZER };

static int64_t cpu_now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts); /* cannot fail */
    return (int64_t)ts.tv_sec * SP_NS_PER_S + ts.tv_nsec;
}

/* --- progress ------------------------------------------------------------------------------------------------- */

void sp_process_stage(int index, sp_stage stage, int64_t budget_ns)
{
    sp_mark *mark = &sp_process.maps.page->marks[index];
    uint64_t sequence = atomic_load_explicit(&mark->sequence, memory_order_relaxed);
    atomic_store_explicit(&mark->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&mark->stage, stage, memory_order_relaxed);
    atomic_store_explicit(&mark->start_ns, sp_clock_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&mark->start_cpu_ns, cpu_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&mark->budget_ns, budget_ns, memory_order_relaxed);
    atomic_store_explicit(&mark->sequence, sequence + 2, memory_order_release);
}

void sp_worker_wait(sp_work_item *item)
{
    sp_queue_wait(item);
}

void sp_worker_finish(sp_work_item *item)
{
    if (sp_process.kind->async)
        sp_async_finish(item);
    else
        sp_queue_finish(item);
}

void sp_worker_stage(int executor_index, sp_stage stage, int64_t budget_ns)
{
    sp_process_stage(executor_index, stage, budget_ns);
}

void sp_process_mark_item(int index, int place, const sp_submission *submission)
{
    sp_mark *mark = &sp_process.maps.page->marks[index];
    atomic_store_explicit(&mark->items[place].slot, submission->slot, memory_order_relaxed);
    atomic_store_explicit(&mark->items[place].lease, submission->lease, memory_order_relaxed);
}

void sp_process_mark_count(int index, int count)
{
    atomic_store_explicit(&sp_process.maps.page->marks[index].count, (uint32_t)count, memory_order_release);
}

/* --- answers -------------------------------------------------------------------------------------------------- */

bool sp_work_item_cancelled(const sp_work_item *item)
{
    sp_slot_request *request = (sp_slot_request *)(uintptr_t)item->request;
    uint32_t cancelled = atomic_load_explicit(&request->cancelled_lease, memory_order_acquire);
    if (!cancelled || (int32_t)(cancelled - item->submission->lease) < 0)
        return false;
    return atomic_load_explicit(&request->spared_lease, memory_order_relaxed) != item->submission->lease;
}

uint8_t *sp_worker_output(const sp_work_item *item, size_t size_bytes, sp_error *reterr)
{
    uint8_t *output = NULL;
    sp_status s = sp_maps_output(&sp_process.maps, item->submission->slot, size_bytes, &output, reterr);
    return s ? NULL : output;
}

sp_status sp_worker_output_fd(const sp_work_item *item, int *ret_fd, sp_error *reterr)
{
    return sp_maps_output_fd(&sp_process.maps, item->submission, ret_fd, reterr);
}

sp_status sp_worker_media(const sp_work_item *item, int *ret_fd, uint64_t *ret_size_bytes, sp_error *reterr)
{
    *ret_size_bytes = item->request->media_bytes;
    return sp_maps_media(&sp_process.maps, item->submission->slot, ret_fd, reterr);
}

void sp_worker_progress(const sp_work_item *item, uint32_t frames)
{
    uint64_t told = (uint64_t)item->submission->lease << 32 | frames;
    atomic_store_explicit(&sp_process.maps.page->progress[item->submission->slot], told, memory_order_relaxed);
}

void sp_process_complete(sp_work_item *item, int64_t begun_ns)
{
    sp_completion *done = &item->done;
    done->slot = item->submission->slot;
    done->lease = item->submission->lease;
    done->status = item->status;
    done->begun_ns = begun_ns;
    if (item->status) {
        item->error.status = item->status;
        memcpy(item->answer, &item->error, sizeof(item->error));
        /* A remote's failure may carry what was tried there behind the error. */
        bool more = item->submission->op == SP_OP_REMOTE && done->answer_bytes == sizeof(sp_answer_remote_failure);
        done->answer_bytes = more ? sizeof(sp_answer_remote_failure) : sizeof(item->error);
    }
    pthread_mutex_lock(&sp_process.answer_lock);
    if (item->submission->op == SP_OP_REPORT && !item->status)
        sp_maps_drop_output(&sp_process.maps, done->slot); /* it is a file of the gateway's now */
    sp_maps_answered(&sp_process.maps, done->slot, item->answer_touched);
    sp_maps_release(&sp_process.maps, done->slot); /* before the lease goes back: the slot may come again at once */
    bool pushed = sp_completions_push(&sp_process.maps.page->completions, &sp_process.completion_tail, done);
    pthread_mutex_unlock(&sp_process.answer_lock);
    SP_ASSERT(pushed);
}

void sp_process_wake_gateway(void)
{
    /* The flag lies in memory that we may only read, so several completions may ring once too often; never too rarely. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&sp_process.maps.house->gateway_sleeping, memory_order_relaxed))
        sp_ring_bell(sp_process.maps.complete_fd);
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

sp_worker_page *sp_worker_page_now(void)
{
    return sp_process.maps.page;
}

void sp_worker_end_after_batch(const sp_error *why)
{
    pthread_mutex_lock(&sp_process.answer_lock);
    if (!atomic_load(&sp_process.ending)) {
        sp_process.end_error = *why;
        atomic_store(&sp_process.ending, true);
    }
    pthread_mutex_unlock(&sp_process.answer_lock);
}

static void send_last_words(const sp_error *err)
{
    sp_control word = { .kind = SP_CONTROL_FAILED, .status = err->status };
    (void)snprintf(word.text, sizeof(word.text), "%s", err->message);
    (void)snprintf(word.code, sizeof(word.code), "%s", err->code);
    (void)sp_control_send(CONTROL_FD, &word, NULL, 0, NULL); /* the exit tells it too */
}

/* What it held and did not begin goes to the next link when the gateway sees the exit. */
void sp_process_end_if_asked(void)
{
    if (SP_LIKELY(!atomic_load_explicit(&sp_process.ending, memory_order_acquire)))
        return;
    send_last_words(&sp_process.end_error);
    _exit(1);
}

/* --- batches -------------------------------------------------------------------------------------------------- */

/* Is the body's descriptor sent for it? */
static bool wants_body(const sp_submission *submission)
{
    if (submission->op == SP_OP_REMOTE)
        return submission->output_kind == SP_OUTPUT_NONE; /* else an earlier link's output is what it takes */
    if (submission->op == SP_OP_CLASSIFY)
        return submission->output_kind == SP_OUTPUT_NONE; /* likewise */
    return submission->op != SP_OP_FETCH;
}

/* Tensors and load specifications are found by offsets into the whole body. */
static bool wants_all(uint32_t op)
{
    return op == SP_OP_INFER || op == SP_OP_LOAD || op == SP_OP_UNLOAD;
}

void sp_process_init(sp_work_item *item, const sp_submission *submission)
{
    *item = (sp_work_item){ 0 };
    item->submission = submission;
    item->request = &sp_process.maps.requests[submission->slot];
    item->answer = sp_maps_answer(&sp_process.maps, submission->slot);
    item->done.batch_size = 1;
}

void sp_process_prepare(sp_work_item *item)
{
    const sp_submission *submission = item->submission;
    if (sp_work_item_cancelled(item))
        item->status = SP_FAIL(&item->error, SP_CANCELLED, "the request was withdrawn before its turn");
    else if (submission->attempt_deadline_ns && sp_clock_now_ns() > submission->attempt_deadline_ns)
        item->status = SP_FAIL(&item->error, SP_BUSY, "the deadline passed before execution began");
    else if (wants_all(submission->op))
        item->status = sp_maps_body(&sp_process.maps, submission->slot, &item->body, &item->error);
    else if (wants_body(submission) || !item->request->body_in_memfd)
        item->status = sp_maps_payload(&sp_process.maps, submission->slot, &item->body, &item->error);
    if (!item->status)
        item->status = sp_maps_input(&sp_process.maps, submission, &item->input, &item->input_pinned, &item->error);
}

static void run_noop(sp_work_item *item)
{
    if (item->body.size_bytes > SP_LIMIT_ANSWER_BYTES) {
        item->status = SP_FAIL(&item->error, SP_TOO_LARGE, "an echo carries at most %u bytes", SP_LIMIT_ANSWER_BYTES);
        return;
    }
    memcpy(item->answer, item->body.data, item->body.size_bytes);
    item->done.answer_bytes = (uint32_t)item->body.size_bytes;
}

sp_status sp_process_batch_fault(sp_work_item *item)
{
    switch (SP_FAULT_BODY("worker.batch", item->body)) {
    case SP_FAULT_FAIL:
        return SP_FAIL(&item->error, SP_INTERNAL, "fault point worker.batch");
    case SP_FAULT_NOMEM:
        return SP_FAIL(&item->error, SP_NOMEM, "fault point worker.batch");
    default:
        return SP_OK;
    }
}

static void run_batch(sp_executor *self, int count, int64_t begun_ns)
{
    int ready = 0;
    for (int i = 0; i < count; i++) {
        sp_process_init(&self->items[ready], &self->submissions[i]);
        sp_process_prepare(&self->items[ready]);
        if (!self->items[ready].status)
            self->items[ready].status = sp_process_batch_fault(&self->items[ready]);
        if (self->items[ready].status)
            sp_process_complete(&self->items[ready], begun_ns); /* a bad item drops out before the batch forms */
        else
            ready++;
    }
    if (ready)
        sp_process.kind->run(sp_process.state, self->index, self->items, ready);
    for (int i = 0; i < ready; i++)
        sp_process_complete(&self->items[i], begun_ns);
}

/* --- the ring ------------------------------------------------------------------------------------------------- */

void sp_process_take_in(void)
{
    sp_submission next;
    while (sp_process.waiting_count < SP_LIMIT_SLOTS &&
           sp_submissions_pop(&sp_process.maps.page->submissions, &sp_process.submission_head, &next)) {
        if (next.slot < SP_LIMIT_SLOTS)
            sp_process.waiting[sp_process.waiting_count++] = next;
    }
}

bool sp_process_ring_is_empty(void)
{
    return sp_submissions_empty(&sp_process.maps.page->submissions, sp_process.submission_head);
}

static bool ring_has_work(const void *context)
{
    (void)context;
    return !sp_process_ring_is_empty() || atomic_load_explicit(&sp_process.nudged, memory_order_acquire);
}

static void sleep_until_rung(int64_t wait_ns)
{
    sp_ring_announce_sleep(&sp_process.maps.page->worker_sleeping);
    if (!ring_has_work(NULL)) {
        struct pollfd bell = { .fd = sp_process.maps.submit_fd, .events = POLLIN };
        struct timespec timeout = { wait_ns / SP_NS_PER_S, wait_ns % SP_NS_PER_S };
        uint64_t rings;
        if (wait_ns < 0)
            (void)!read(sp_process.maps.submit_fd, &rings, sizeof(rings)); /* blocking descriptor: one syscall a wake */
        else if (ppoll(&bell, 1, &timeout, NULL) == 1)
            (void)!read(sp_process.maps.submit_fd, &rings, sizeof(rings));
    }
    atomic_store_explicit(&sp_process.maps.page->worker_sleeping, 0, memory_order_relaxed);
}

/* Waits until the ring has something, or `wait_ns` has passed (-1 = no bound). */
void sp_process_wait(int64_t wait_ns)
{
    int64_t start_ns = sp_clock_now_ns();
    if (wait_ns >= 0) {
        sleep_until_rung(wait_ns);
        return;
    }
    if (!sp_spin_until(&sp_process.spin, ring_has_work, NULL))
        sleep_until_rung(-1);
    sp_spin_note(&sp_process.spin, sp_clock_now_ns() - start_ns);
}

/* Moves the next batch out of the waiting list: items of one op, a suspect always alone. */
static int take_batch(sp_executor *self, int want)
{
    int taken = 0, kept = 0;
    uint32_t op = sp_process.waiting[0].op;
    bool alone = sp_process.waiting[0].alone;
    for (int i = 0; i < sp_process.waiting_count; i++) {
        const sp_submission *next = &sp_process.waiting[i];
        bool fits = taken < (alone ? 1 : want) && next->op == op && (taken == 0 || !next->alone);
        if (fits)
            self->submissions[taken++] = *next;
        else
            sp_process.waiting[kept++] = *next;
    }
    sp_process.waiting_count = kept;
    return taken;
}

/* No-ops are answered at once, under the lead. */
void sp_process_answer_noops(sp_executor *self)
{
    int kept = 0, answered = 0;
    for (int i = 0; i < sp_process.waiting_count; i++) {
        if (sp_process.waiting[i].op != SP_OP_NOOP) {
            sp_process.waiting[kept++] = sp_process.waiting[i];
            continue;
        }
        int64_t begun_ns = sp_clock_now_ns();
        self->submissions[0] = sp_process.waiting[i];
        sp_process_stage(self->mark, SP_STAGE_IDLE, 0); /* a mark is judged by when it began */
        sp_process_mark_item(self->mark, 0, &self->submissions[0]);
        sp_process_mark_count(self->mark, 1);
        sp_work_item *item = &self->items[0];
        sp_process_init(item, &self->submissions[0]);
        sp_process_prepare(item);
        if (!item->status)
            item->status = sp_process_batch_fault(item);
        if (!item->status)
            run_noop(item);
        sp_process_complete(item, begun_ns);
        answered++;
    }
    sp_process.waiting_count = kept;
    if (answered) {
        sp_process_mark_count(self->mark, 0);
        sp_process_wake_gateway();
    }
}

/* All that these have to work on may lie inline. */
static bool may_be_inline(uint32_t op)
{
    return op == SP_OP_NOOP || op == SP_OP_INFER || op == SP_OP_LOAD || op == SP_OP_UNLOAD;
}

/* Takes in the descriptors that were sent ahead of the submissions now waiting, if any of them needs one. */
void sp_process_receive(void)
{
    bool needed = false;
    for (int i = 0; i < sp_process.waiting_count && !needed; i++) {
        const sp_submission *next = &sp_process.waiting[i];
        needed = !may_be_inline(next->op) || next->output_kind != SP_OUTPUT_NONE ||
                 sp_process.maps.requests[next->slot].body_in_memfd;
    }
    if (!needed)
        return;
    sp_error err = { 0 };
    pthread_mutex_lock(&sp_process.answer_lock);
    sp_status s = sp_maps_receive(&sp_process.maps, &err);
    pthread_mutex_unlock(&sp_process.answer_lock);
    if (s == SP_UNAVAILABLE)
        _exit(0); /* the gateway is gone */
}

/* Under the lead: blocks until there is a batch for this executor; returns its size. */
static int next_batch(sp_executor *self)
{
    int64_t wait_until_ns = 0;
    for (;;) {
        sp_process_take_in();
        if (sp_process.waiting_count) {
            sp_process_receive();
            sp_process_answer_noops(self);
        }
        int64_t wait_ns = -1;
        if (sp_process.waiting_count) {
            int want = (int)sp_process.card.max_batch;
            wait_ns = 0;
            if (sp_process.kind->choose && !sp_process.waiting[0].alone)
                want = sp_process.kind->choose(sp_process.state, sp_process.waiting_count, atomic_load(&sp_process.busy), &wait_ns);
            int64_t now_ns = sp_clock_now_ns();
            if (wait_ns > 0 && !wait_until_ns)
                wait_until_ns = now_ns + wait_ns;
            if (wait_ns <= 0 || now_ns >= wait_until_ns)
                return take_batch(self, SP_CLAMP(want, 1, (int)sp_process.card.max_batch));
            wait_ns = wait_until_ns - now_ns;
        }
        sp_process_wait(wait_ns);
    }
}

static void *executor_main(void *argument)
{
    sp_executor *self = argument;
    for (;;) {
        pthread_mutex_lock(&sp_process.lead);
        int count = next_batch(self);
        int64_t begun_ns = sp_clock_now_ns();
        sp_process_stage(self->index, SP_STAGE_IDLE, 0);
        for (int i = 0; i < count; i++)
            sp_process_mark_item(self->index, i, &self->submissions[i]);
        sp_process_mark_count(self->index, count);
        atomic_fetch_add(&sp_process.busy, 1);
        pthread_mutex_unlock(&sp_process.lead);

        run_batch(self, count, begun_ns);
        /* Not under the lead: another executor sleeps on the ring with it and would count us as busy when it wakes. */
        atomic_fetch_sub(&sp_process.busy, 1);
        sp_process_mark_count(self->index, 0);
        sp_process_wake_gateway();
        sp_process_end_if_asked();
    }
    return NULL;
}

/* --- start ---------------------------------------------------------------------------------------------------- */

static int fail_start(const sp_error *err)
{
    if (!sp_process.config->again)
        sp_log_error("worker cannot start", NULL, err);
    send_last_words(err);
    return 1;
}

static void leave_the_shell_alone(const char *name)
{
    (void)prctl(PR_SET_NAME, name); /* what ps and top show; exec of /proc/self/exe would read "exe" */
    /* Ctrl-C in the terminal is the gateway's to handle: it drains, then ends us by closing the socket. */
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a hung executor must not outlive a killed gateway */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, OOM_SCORE, strlen(OOM_SCORE)); /* allowed to anyone: it only goes up */
    sp_fd_closep(&fd);
}

static sp_status check_card(sp_worker_card *card, sp_error *reterr)
{
    if (card->executors < 1 || card->executors > SP_LIMIT_EXECUTORS || card->max_batch < 1 ||
        card->max_batch > SP_LIMIT_BATCH)
        return SP_FAIL(reterr, SP_INTERNAL, "kind %s asks for %u executors and batches of %u", sp_process.kind->name,
                       card->executors, card->max_batch);
    if (!card->window)
        card->window = SP_MIN(card->executors * card->max_batch * 2, SP_LIMIT_SLOTS);
    return SP_OK;
}

static sp_status start(const sp_worker_config *config, sp_error *reterr)
{
    sp_process.config = config;
    sp_process.spin.longest_ns = config->spin_us * SP_NS_PER_US;
    sp_fault_scope(config->name);
    sp_process.kind = sp_worker_kind_find(config->kind);
    if (!sp_process.kind)
        return SP_FAIL(reterr, SP_INVALID, "no worker kind '%s' (codec, cpu, cuda, tensorrt, sim, net, noop)", config->kind);
    sp_status s = sp_fault_arm(getenv("SPILLWAY_FAULTS"), reterr);
    if (!s)
        s = sp_maps_open(&sp_process.maps, CONTROL_FD, reterr);
    if (!s && SP_FAULT("worker.load") == SP_FAULT_FAIL)
        s = SP_FAIL(reterr, SP_UNAVAILABLE, "fault point worker.load");
    if (!s)
        s = sp_process.kind->open(config, &sp_process.card, &sp_process.state, reterr);
    if (!s)
        s = check_card(&sp_process.card, reterr);
    if (!s && sp_process.kind->mapped) {
        sp_process.maps.on_mapped = sp_process.kind->mapped;
        sp_process.maps.on_unmapped = sp_process.kind->unmapped;
        sp_process.maps.on_mapped_context = sp_process.state;
    }
    if (!s && sp_process.kind->async)
        s = sp_async_open(reterr);
    if (!s && sp_process.kind->queue)
        s = sp_queue_open(reterr);
    if (!s && sp_process.kind->sandbox)
        s = sp_process.kind->sandbox(sp_process.state, &sp_process.card, config->require_sandbox, reterr);
    return s;
}

static sp_status start_executors(sp_error *reterr)
{
    const sp_worker_kind *kind = sp_process.kind;
    uint32_t threads = kind->async ? 1 : kind->queue ? sp_process.places + 1 : sp_process.card.executors;
    void *(*work)(void *) = kind->async ? sp_async_main : kind->queue ? sp_queue_main : executor_main;
    for (uint32_t i = 0; i < threads; i++) {
        sp_executor *self = &sp_process.executors[i];
        self->index = self->mark = (int)i;
        int code = pthread_create(&self->thread, NULL, work, self);
        if (code)
            return SP_FAIL_FROM(reterr, SP_NOMEM, "pthread", code, "no thread for executor %u", i);
    }
    return SP_OK;
}

int sp_worker_main(const sp_worker_config *config)
{
    leave_the_shell_alone(config->name);
    sp_unexpected_watch();
    sp_error err = { 0 };
    sp_status s = start(config, &err);
    if (!s)
        s = start_executors(&err);
    if (s)
        return fail_start(&err);

    memcpy(&sp_process.maps.page->card, &sp_process.card, sizeof(sp_process.card));
    atomic_thread_fence(memory_order_release);
    sp_control word = { .kind = SP_CONTROL_READY };
    s = sp_control_send(CONTROL_FD, &word, NULL, 0, &err);
    if (s)
        _exit(s == SP_UNAVAILABLE ? 0 : fail_start(&err)); /* ended before it was ready: nothing went wrong */
    /* Hang-up is reported whatever is asked for; messages are the leader's to read. */
    struct pollfd end = { .fd = CONTROL_FD };
    while (poll(&end, 1, -1) < 0 && errno == EINTR) { }
    _exit(0); /* executors may be in the middle of anything: nothing of theirs is wanted any more */
}
