/* SPDX-License-Identifier: Apache-2.0
 * The worker process: leader and followers over one ring.
 *
 * Executors are threads. One of them, the leader, holds the mutex and waits for the ring; when it has formed a batch it
 * lets the next one lead and runs the batch itself, so a lone request is served by the very thread that was woken: no
 * hand-over. A no-op is answered by the leader without giving the lead away.
 *
 * An asynchronous kind (net) has one thread instead, which has all leases in hand at once; its progress is that it
 * comes round.
 *
 * The main thread waits for the end of the control socket (the gateway is gone: exit at once). */
#include "worker/worker.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/spin.h"
#include "worker/control.h"
#include "worker/maps.h"
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

typedef struct executor {
    int index;
    pthread_t thread;
    sp_work_item items[SP_LIMIT_BATCH];
    sp_submission submissions[SP_LIMIT_BATCH];
} executor;

/* A lease in an asynchronous kind's hands. A worker holds a slot at most once, so the slot is its place. */
typedef struct async_item {
    sp_work_item item;
    sp_submission submission;
    int64_t begun_ns;
    bool finished, cancelled;
} async_item;

static struct {
    const sp_worker_config *config;
    const sp_worker_kind *kind;
    void *state;
    sp_maps maps;
    sp_worker_card card; /* private copy; the one in shared memory is for the gateway */
    pthread_mutex_t lead; /* guards all below and the receiving end of the control socket */
    uint32_t submission_head;
    sp_submission waiting[SP_LIMIT_SLOTS];
    int waiting_count;
    sp_spin spin;
    atomic_int busy; /* executors with a batch in hand */
    pthread_mutex_t answer_lock; /* guards completion_tail (the ring has one producer) and maps.slots' descriptors */
    uint32_t completion_tail;
    atomic_bool ending; /* end_error is set: the next executor that is done ends the process */
    sp_error end_error;
    executor executors[SP_LIMIT_EXECUTORS];
    async_item *async_items; /* SP_LIMIT_SLOTS; NULL unless the kind is asynchronous. Its thread's, like the next two */
    async_item *in_hand[SP_LIMIT_SLOTS];
    int in_hand_count;
} worker = { .lead = PTHREAD_MUTEX_INITIALIZER, .answer_lock = PTHREAD_MUTEX_INITIALIZER };

static int64_t cpu_now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts); /* cannot fail */
    return (int64_t)ts.tv_sec * SP_NS_PER_S + ts.tv_nsec;
}

/* --- progress ------------------------------------------------------------------------------------------------- */

static void mark_write(int index, sp_stage stage, int64_t budget_ns)
{
    sp_mark *mark = &worker.maps.page->marks[index];
    uint64_t sequence = atomic_load_explicit(&mark->sequence, memory_order_relaxed);
    atomic_store_explicit(&mark->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&mark->stage, stage, memory_order_relaxed);
    atomic_store_explicit(&mark->start_ns, sp_clock_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&mark->start_cpu_ns, cpu_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&mark->budget_ns, budget_ns, memory_order_relaxed);
    atomic_store_explicit(&mark->sequence, sequence + 2, memory_order_release);
}

void sp_worker_stage(int executor_index, sp_stage stage, int64_t budget_ns)
{
    mark_write(executor_index, stage, budget_ns);
}

/* Which slots are in hand: written before the first byte of them is looked at. */
static void mark_items(const executor *self, int count)
{
    sp_mark *mark = &worker.maps.page->marks[self->index];
    for (int i = 0; i < count; i++) {
        atomic_store_explicit(&mark->items[i].slot, self->submissions[i].slot, memory_order_relaxed);
        atomic_store_explicit(&mark->items[i].lease, self->submissions[i].lease, memory_order_relaxed);
    }
    atomic_store_explicit(&mark->count, (uint32_t)count, memory_order_release);
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
    sp_status s = sp_maps_output(&worker.maps, item->submission->slot, size_bytes, &output, reterr);
    return s ? NULL : output;
}

sp_status sp_worker_output_fd(const sp_work_item *item, int *ret_fd, sp_error *reterr)
{
    return sp_maps_output_fd(&worker.maps, item->submission, ret_fd, reterr);
}

static void complete(sp_work_item *item, int64_t begun_ns)
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
    pthread_mutex_lock(&worker.answer_lock);
    sp_maps_release(&worker.maps, done->slot); /* before the lease goes back: the slot may come again at once */
    bool pushed = sp_completions_push(&worker.maps.page->completions, &worker.completion_tail, done);
    pthread_mutex_unlock(&worker.answer_lock);
    SP_ASSERT(pushed);
}

static void wake_gateway(void)
{
    /* The flag lies in memory that we may only read, so several completions may ring once too often; never too rarely. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&worker.maps.house->gateway_sleeping, memory_order_relaxed))
        sp_ring_bell(worker.maps.complete_fd);
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

sp_worker_page *sp_worker_page_now(void)
{
    return worker.maps.page;
}

void sp_worker_end_after_batch(const sp_error *why)
{
    pthread_mutex_lock(&worker.answer_lock);
    if (!atomic_load(&worker.ending)) {
        worker.end_error = *why;
        atomic_store(&worker.ending, true);
    }
    pthread_mutex_unlock(&worker.answer_lock);
}

static void send_last_words(const sp_error *err)
{
    sp_control word = { .kind = SP_CONTROL_FAILED, .status = err->status };
    (void)snprintf(word.text, sizeof(word.text), "%s", err->message);
    (void)snprintf(word.code, sizeof(word.code), "%s", err->code);
    (void)sp_control_send(CONTROL_FD, &word, NULL, 0, NULL); /* the exit tells it too */
}

/* What it held and did not begin goes to the next link when the gateway sees the exit. */
static void end_if_asked(void)
{
    if (SP_LIKELY(!atomic_load_explicit(&worker.ending, memory_order_acquire)))
        return;
    send_last_words(&worker.end_error);
    _exit(1);
}

/* --- batches -------------------------------------------------------------------------------------------------- */

/* Is the body's descriptor sent for it? */
static bool wants_body(const sp_submission *submission)
{
    if (submission->op == SP_OP_REMOTE)
        return submission->output_kind == SP_OUTPUT_NONE; /* else an earlier link's output is what it takes */
    return submission->op != SP_OP_CLASSIFY && submission->op != SP_OP_FETCH;
}

/* Turns a submission into an item the kind can work on; a refusal is the item's status. */
static void prepare(sp_work_item *item, const sp_submission *submission)
{
    *item = (sp_work_item){ 0 };
    item->submission = submission;
    item->request = &worker.maps.requests[submission->slot];
    item->answer = worker.maps.answers + (size_t)submission->slot * SP_ANSWER_STRIDE;
    item->done.batch_size = 1;
    if (sp_work_item_cancelled(item))
        item->status = SP_FAIL(&item->error, SP_CANCELLED, "the request was withdrawn before its turn");
    else if (submission->attempt_deadline_ns && sp_clock_now_ns() > submission->attempt_deadline_ns)
        item->status = SP_FAIL(&item->error, SP_BUSY, "the deadline passed before execution began");
    else if (wants_body(submission) || !item->request->body_in_memfd)
        item->status = sp_maps_payload(&worker.maps, submission->slot, &item->body, &item->error);
    if (!item->status)
        item->status = sp_maps_input(&worker.maps, submission, &item->input, &item->error);
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

static sp_status hit_batch_fault(sp_work_item *item)
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

static void run_batch(executor *self, int count, int64_t begun_ns)
{
    int ready = 0;
    for (int i = 0; i < count; i++) {
        prepare(&self->items[ready], &self->submissions[i]);
        if (!self->items[ready].status)
            self->items[ready].status = hit_batch_fault(&self->items[ready]);
        if (self->items[ready].status)
            complete(&self->items[ready], begun_ns); /* a bad item drops out before the batch forms */
        else
            ready++;
    }
    if (ready)
        worker.kind->run(worker.state, self->index, self->items, ready);
    for (int i = 0; i < ready; i++)
        complete(&self->items[i], begun_ns);
}

/* --- the ring ------------------------------------------------------------------------------------------------- */

static void take_in(void)
{
    sp_submission next;
    while (worker.waiting_count < SP_LIMIT_SLOTS &&
           sp_submissions_pop(&worker.maps.page->submissions, &worker.submission_head, &next)) {
        if (next.slot < SP_LIMIT_SLOTS)
            worker.waiting[worker.waiting_count++] = next;
    }
}

static bool ring_is_empty(void)
{
    return sp_submissions_empty(&worker.maps.page->submissions, worker.submission_head);
}

static bool ring_has_work(const void *context)
{
    (void)context;
    return !ring_is_empty();
}

static void sleep_until_rung(int64_t wait_ns)
{
    sp_ring_announce_sleep(&worker.maps.page->worker_sleeping);
    if (ring_is_empty()) {
        struct pollfd bell = { .fd = worker.maps.submit_fd, .events = POLLIN };
        struct timespec timeout = { wait_ns / SP_NS_PER_S, wait_ns % SP_NS_PER_S };
        uint64_t rings;
        if (wait_ns < 0)
            (void)!read(worker.maps.submit_fd, &rings, sizeof(rings)); /* blocking descriptor: one syscall a wake */
        else if (ppoll(&bell, 1, &timeout, NULL) == 1)
            (void)!read(worker.maps.submit_fd, &rings, sizeof(rings));
    }
    atomic_store_explicit(&worker.maps.page->worker_sleeping, 0, memory_order_relaxed);
}

/* Waits until the ring has something, or `wait_ns` has passed (-1 = no bound). */
static void wait_for_ring(int64_t wait_ns)
{
    int64_t start_ns = sp_clock_now_ns();
    if (wait_ns >= 0) {
        sleep_until_rung(wait_ns);
        return;
    }
    if (!sp_spin_until(&worker.spin, ring_has_work, NULL))
        sleep_until_rung(-1);
    sp_spin_note(&worker.spin, sp_clock_now_ns() - start_ns);
}

/* Moves the next batch out of the waiting list: items of one op, a suspect always alone. */
static int take_batch(executor *self, int want)
{
    int taken = 0, kept = 0;
    uint32_t op = worker.waiting[0].op;
    bool alone = worker.waiting[0].alone;
    for (int i = 0; i < worker.waiting_count; i++) {
        const sp_submission *next = &worker.waiting[i];
        bool fits = taken < (alone ? 1 : want) && next->op == op && (taken == 0 || !next->alone);
        if (fits)
            self->submissions[taken++] = *next;
        else
            worker.waiting[kept++] = *next;
    }
    worker.waiting_count = kept;
    return taken;
}

/* No-ops are answered at once, under the lead. */
static void answer_noops(executor *self)
{
    int kept = 0, answered = 0;
    for (int i = 0; i < worker.waiting_count; i++) {
        if (worker.waiting[i].op != SP_OP_NOOP) {
            worker.waiting[kept++] = worker.waiting[i];
            continue;
        }
        int64_t begun_ns = sp_clock_now_ns();
        self->submissions[0] = worker.waiting[i];
        mark_items(self, 1);
        sp_work_item *item = &self->items[0];
        prepare(item, &self->submissions[0]);
        if (!item->status)
            item->status = hit_batch_fault(item);
        if (!item->status)
            run_noop(item);
        complete(item, begun_ns);
        answered++;
    }
    worker.waiting_count = kept;
    if (answered) {
        mark_items(self, 0);
        wake_gateway();
    }
}

/* Takes in the descriptors that were sent ahead of the submissions now waiting; no-ops with inline bodies need none. */
static void receive_descriptors(void)
{
    bool needed = false;
    for (int i = 0; i < worker.waiting_count && !needed; i++)
        needed = worker.waiting[i].op != SP_OP_NOOP || worker.maps.requests[worker.waiting[i].slot].body_in_memfd;
    if (!needed)
        return;
    sp_error err = { 0 };
    pthread_mutex_lock(&worker.answer_lock);
    sp_status s = sp_maps_receive(&worker.maps, &err);
    pthread_mutex_unlock(&worker.answer_lock);
    if (s == SP_UNAVAILABLE)
        _exit(0); /* the gateway is gone */
}

/* Under the lead: blocks until there is a batch for this executor; returns its size. */
static int next_batch(executor *self)
{
    int64_t wait_until_ns = 0;
    for (;;) {
        take_in();
        if (worker.waiting_count) {
            receive_descriptors();
            answer_noops(self);
        }
        int64_t wait_ns = -1;
        if (worker.waiting_count) {
            int want = (int)worker.card.max_batch;
            wait_ns = 0;
            if (worker.kind->choose && !worker.waiting[0].alone)
                want = worker.kind->choose(worker.state, worker.waiting_count, atomic_load(&worker.busy), &wait_ns);
            int64_t now_ns = sp_clock_now_ns();
            if (wait_ns > 0 && !wait_until_ns)
                wait_until_ns = now_ns + wait_ns;
            if (wait_ns <= 0 || now_ns >= wait_until_ns)
                return take_batch(self, SP_CLAMP(want, 1, (int)worker.card.max_batch));
            wait_ns = wait_until_ns - now_ns;
        }
        wait_for_ring(wait_ns);
    }
}

static void *executor_main(void *argument)
{
    executor *self = argument;
    for (;;) {
        pthread_mutex_lock(&worker.lead);
        int count = next_batch(self);
        int64_t begun_ns = sp_clock_now_ns();
        mark_write(self->index, SP_STAGE_IDLE, 0);
        mark_items(self, count);
        atomic_fetch_add(&worker.busy, 1);
        pthread_mutex_unlock(&worker.lead);

        run_batch(self, count, begun_ns);
        /* Not under the lead: another executor sleeps on the ring with it and would count us as busy when it wakes. */
        atomic_fetch_sub(&worker.busy, 1);
        mark_items(self, 0);
        wake_gateway();
        end_if_asked();
    }
    return NULL;
}

/* --- an asynchronous kind -------------------------------------------------------------------------------------- */

/* How often it looks for withdrawn leases while it has any; nobody rings for them. */
#define ASYNC_LOOK_NS (25 * SP_NS_PER_MS)

/* All that is in hand, and that the thread has come round: spread over the marks of as many executors as that takes. */
static void async_mark(void)
{
    for (int e = 0; e < (int)worker.card.executors; e++) {
        sp_mark *mark = &worker.maps.page->marks[e];
        int first = e * SP_LIMIT_BATCH;
        int count = SP_CLAMP(worker.in_hand_count - first, 0, SP_LIMIT_BATCH);
        for (int i = 0; i < count; i++) {
            atomic_store_explicit(&mark->items[i].slot, worker.in_hand[first + i]->submission.slot, memory_order_relaxed);
            atomic_store_explicit(&mark->items[i].lease, worker.in_hand[first + i]->submission.lease, memory_order_relaxed);
        }
        if (count)
            mark_write(e, SP_STAGE_INFERENCE, 0);
        atomic_store_explicit(&mark->count, (uint32_t)count, memory_order_release);
    }
}

void sp_worker_finish(sp_work_item *item)
{
    async_item *entry = (async_item *)(void *)item; /* its first member */
    SP_ASSERT(!entry->finished);
    entry->finished = true;
}

static void async_begin(const sp_submission *submission)
{
    async_item *entry = &worker.async_items[submission->slot];
    *entry = (async_item){ .submission = *submission, .begun_ns = sp_clock_now_ns() };
    worker.in_hand[worker.in_hand_count++] = entry;
    async_mark(); /* before its first byte is looked at */
    prepare(&entry->item, &entry->submission);
    if (!entry->item.status)
        entry->item.status = hit_batch_fault(&entry->item);
    if (entry->item.status)
        entry->finished = true;
    else
        worker.kind->async->start(worker.state, &entry->item);
}

static void async_give_back(void)
{
    int kept = 0, given = 0;
    for (int i = 0; i < worker.in_hand_count; i++) {
        async_item *entry = worker.in_hand[i];
        if (!entry->finished) {
            worker.in_hand[kept++] = entry;
            continue;
        }
        if (entry->submission.op == SP_OP_FETCH && !entry->item.status)
            sp_maps_drop_output(&worker.maps, entry->submission.slot); /* it is a body now */
        complete(&entry->item, entry->begun_ns);
        given++;
    }
    worker.in_hand_count = kept;
    if (given)
        wake_gateway();
}

static void async_cancel_withdrawn(void)
{
    for (int i = 0; i < worker.in_hand_count; i++) {
        async_item *entry = worker.in_hand[i];
        if (entry->finished || entry->cancelled || !sp_work_item_cancelled(&entry->item))
            continue;
        entry->cancelled = true;
        worker.kind->async->cancel(worker.state, &entry->item);
    }
}

static void async_wait(void)
{
    struct pollfd bell = { .fd = worker.maps.submit_fd, .events = POLLIN };
    uint64_t rings;
    sp_ring_announce_sleep(&worker.maps.page->worker_sleeping);
    int64_t wait_ns = !ring_is_empty() ? 0 : worker.in_hand_count ? ASYNC_LOOK_NS : -1;
    worker.kind->async->drive(worker.state, worker.maps.submit_fd, wait_ns);
    atomic_store_explicit(&worker.maps.page->worker_sleeping, 0, memory_order_relaxed);
    if (poll(&bell, 1, 0) == 1)
        (void)!read(worker.maps.submit_fd, &rings, sizeof(rings));
}

static void async_receive(void)
{
    sp_error err = { 0 };
    if (sp_maps_receive(&worker.maps, &err) == SP_UNAVAILABLE)
        _exit(0); /* the gateway is gone */
}

static void *async_main(void *argument)
{
    executor *self = argument;
    for (;;) {
        take_in();
        async_receive(); /* also a configuration that came without a lease */
        answer_noops(self);
        for (int i = 0; i < worker.waiting_count; i++)
            async_begin(&worker.waiting[i]);
        worker.waiting_count = 0;
        async_cancel_withdrawn();
        async_give_back();
        async_mark();
        async_wait();
        async_give_back();
    }
    return NULL;
}

static sp_status async_open(sp_error *reterr)
{
    if (worker.card.window > worker.card.executors * SP_LIMIT_BATCH)
        return SP_FAIL(reterr, SP_INTERNAL, "kind %s asks for %u leases, its marks hold %u", worker.kind->name,
                       worker.card.window, worker.card.executors * SP_LIMIT_BATCH);
    worker.async_items = calloc(SP_LIMIT_SLOTS, sizeof(*worker.async_items));
    if (!worker.async_items)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d items", SP_LIMIT_SLOTS);
    worker.maps.on_config = worker.kind->async->config;
    worker.maps.on_config_context = worker.state;
    return SP_OK;
}

/* --- start ---------------------------------------------------------------------------------------------------- */

static int fail_start(const sp_error *err)
{
    if (!worker.config->again)
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
        return SP_FAIL(reterr, SP_INTERNAL, "kind %s asks for %u executors and batches of %u", worker.kind->name,
                       card->executors, card->max_batch);
    if (!card->window)
        card->window = SP_MIN(card->executors * card->max_batch * 2, SP_LIMIT_SLOTS);
    return SP_OK;
}

static sp_status start(const sp_worker_config *config, sp_error *reterr)
{
    worker.config = config;
    worker.spin.longest_ns = config->spin_us * SP_NS_PER_US;
    sp_fault_scope(config->name);
    worker.kind = sp_worker_kind_find(config->kind);
    if (!worker.kind)
        return SP_FAIL(reterr, SP_INVALID, "no worker kind '%s' (codec, cpu, cuda, tensorrt, sim, net, noop)", config->kind);
    sp_status s = sp_fault_arm(getenv("SPILLWAY_FAULTS"), reterr);
    if (!s)
        s = sp_maps_open(&worker.maps, CONTROL_FD, reterr);
    if (!s && SP_FAULT("worker.load") == SP_FAULT_FAIL)
        s = SP_FAIL(reterr, SP_UNAVAILABLE, "fault point worker.load");
    if (!s)
        s = worker.kind->open(config, &worker.card, &worker.state, reterr);
    if (!s)
        s = check_card(&worker.card, reterr);
    if (!s && worker.kind->async)
        s = async_open(reterr);
    if (!s && worker.kind->sandbox)
        s = worker.kind->sandbox(worker.state, &worker.card, config->require_sandbox, reterr);
    return s;
}

static sp_status start_executors(sp_error *reterr)
{
    uint32_t threads = worker.kind->async ? 1 : worker.card.executors;
    for (uint32_t i = 0; i < threads; i++) {
        executor *self = &worker.executors[i];
        self->index = (int)i;
        int code = pthread_create(&self->thread, NULL, worker.kind->async ? async_main : executor_main, self);
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

    memcpy(&worker.maps.page->card, &worker.card, sizeof(worker.card));
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
