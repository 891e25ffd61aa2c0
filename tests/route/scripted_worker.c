/* SPDX-License-Identifier: Apache-2.0
 * A worker that does as a script says: it speaks the slot protocol, does every operation, and no model, codec or network is
 * behind it. The route's tests name it as their program; its kind is only a name.
 *
 * Before each lease it reads $SPILLWAY_SCRIPTS/NAME (NAME.R for remote R of a net worker): words of
 *   status=WORD  delay=MS  retry=MS  units=N  p=0.7  model=NAME  deaf (ignores withdrawals)  die
 * No file: everything succeeds at once. Each lease is also noted in $SPILLWAY_SCRIPTS/log: "NAME OP remote key body". */
#include "base/clock.h"
#include "worker/control.h"
#include "worker/maps.h"
#include "worker/ring.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct script {
    char status[24];
    int delay_ms, retry_ms, units;
    double p;
    bool deaf, die;
} script;

typedef struct work {
    sp_submission submission;
    script script;
    int64_t begun_ns, due_ns;
} work;

static sp_maps maps;
static const char *name = "worker", *kind = "noop";
static work pending[SP_LIMIT_SLOTS];
static int pending_count;
static uint32_t submission_head, completion_tail;

static bool read_file(const char *file, char *text, size_t size)
{
    const char *folder = getenv("SPILLWAY_SCRIPTS");
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder ? folder : "/nowhere", file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
    sp_fd_closep(&fd);
    text[n > 0 ? n : 0] = 0;
    return n >= 0;
}

static script read_script(const sp_submission *submission)
{
    script s = { .p = 0.75 };
    char file[64], text[256], *save = NULL;
    (void)snprintf(file, sizeof(file), "%s", name);
    if (submission->op == SP_OP_REMOTE)
        (void)snprintf(file, sizeof(file), "%s.%u", name, submission->remote);
    (void)read_file(file, text, sizeof(text));
    for (char *word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
        if (strncmp(word, "status=", 7) == 0)
            (void)snprintf(s.status, sizeof(s.status), "%s", word + 7);
        else if (strncmp(word, "delay=", 6) == 0)
            s.delay_ms = (int)strtol(word + 6, NULL, 10);
        else if (strncmp(word, "retry=", 6) == 0)
            s.retry_ms = (int)strtol(word + 6, NULL, 10);
        else if (strncmp(word, "units=", 6) == 0)
            s.units = (int)strtol(word + 6, NULL, 10);
        else if (strncmp(word, "p=", 2) == 0)
            s.p = strtod(word + 2, NULL);
        s.deaf |= strcmp(word, "deaf") == 0;
        s.die |= strcmp(word, "die") == 0;
    }
    return s;
}

static void note(const work *w)
{
    const char *folder = getenv("SPILLWAY_SCRIPTS");
    char path[256], line[128];
    sp_view body = { 0 };
    (void)sp_maps_payload(&maps, w->submission.slot, &body, NULL);
    (void)snprintf(path, sizeof(path), "%s/log", folder ? folder : "/nowhere");
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    int n = snprintf(line, sizeof(line), "%s %u %u %u %.*s\n", name, w->submission.op, w->submission.remote, w->submission.key,
                     (int)SP_MIN(body.size_bytes, (size_t)20), body.data ? (const char *)body.data : "");
    if (fd >= 0)
        (void)!write(fd, line, (size_t)n);
    sp_fd_closep(&fd);
}

static bool cancelled(const work *w)
{
    sp_work_item item = { .request = &maps.requests[w->submission.slot], .submission = &w->submission };
    return !w->script.deaf && sp_work_item_cancelled(&item);
}

static sp_status status_named(const char *word)
{
    for (int s = SP_OK; s < SP_STATUS_COUNT; s++) {
        if (strcmp(sp_status_name((sp_status)s), word) == 0)
            return (sp_status)s;
    }
    return SP_OK;
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

static uint32_t write_classes(uint8_t *at, double p)
{
    sp_answer_classes *classes = (sp_answer_classes *)(void *)at;
    memset(classes, 0, offsetof(sp_answer_classes, classes) + 2 * sizeof(sp_answer_class));
    classes->count = 2;
    classes->classes[0] = (sp_answer_class){ .class_id = 7, .probability = (float)p, .label = "seven" };
    classes->classes[1] = (sp_answer_class){ .class_id = 3, .probability = (float)(1 - p) / 2, .label = "three" };
    return (uint32_t)(offsetof(sp_answer_classes, classes) + 2 * sizeof(sp_answer_class));
}

static uint32_t write_task(const work *w, uint8_t *at, sp_view body)
{
    if (maps.requests[w->submission.slot].task == 1) /* SP_TASK_CLASSIFY */
        return write_classes(at, w->script.p);
    size_t size = SP_MIN(body.size_bytes, (size_t)1024);
    if (size)
        memcpy(at, body.data, size);
    return (uint32_t)size;
}

static uint32_t write_remote(const work *w, uint8_t *at, sp_view body)
{
    sp_answer_remote *far = (sp_answer_remote *)(void *)at;
    memset(far, 0, sizeof(*far));
    (void)snprintf(far->link, sizeof(far->link), "cuda0");
    (void)snprintf(far->device, sizeof(far->device), "cuda");
    far->attempt_count = 1;
    (void)snprintf(far->attempts[0].link, sizeof(far->attempts[0].link), "cuda0");
    return (uint32_t)sizeof(*far) + write_task(w, at + sizeof(*far), body);
}

static sp_status decode(const work *w, sp_completion *done)
{
    const sp_prep_spec *prep = &maps.requests[w->submission.slot].prep;
    bool tensor = w->submission.output_kind == SP_OUTPUT_TENSOR;
    size_t bytes = tensor ? (size_t)prep->crop_w * (size_t)prep->crop_h * 3 * 4 : 4 * 4 * 3;
    uint8_t *output = NULL;
    sp_status s = sp_maps_output(&maps, w->submission.slot, bytes, &output, NULL);
    if (s)
        return s;
    memset(output, 1, bytes);
    done->output_kind = tensor ? SP_OUTPUT_TENSOR : SP_OUTPUT_RGB8;
    done->output_bytes = bytes;
    done->image_w = done->image_h = 4;
    return SP_OK;
}

static sp_status fetch(const work *w, sp_completion *done)
{
    const sp_slot_request *request = &maps.requests[w->submission.slot];
    int fd = maps.slots[w->submission.slot].output_fd;
    size_t size = strnlen(request->target, sizeof(request->target));
    if (pwrite(fd, request->target, size, 0) != (ssize_t)size) /* a document that reads like its own address */
        return SP_INTERNAL;
    done->output_kind = SP_OUTPUT_BYTES;
    done->output_bytes = size;
    return SP_OK;
}

static sp_status run(const work *w, sp_completion *done, uint8_t *answer)
{
    sp_view body = { 0 };
    (void)sp_maps_payload(&maps, w->submission.slot, &body, NULL);
    switch ((sp_op)w->submission.op) {
    case SP_OP_NOOP:
    case SP_OP_CLASSIFY:
        done->answer_bytes = write_task(w, answer, body);
        return SP_OK;
    case SP_OP_DECODE:
        return decode(w, done);
    case SP_OP_FETCH:
        return fetch(w, done);
    case SP_OP_REMOTE:
        done->answer_bytes = write_remote(w, answer, body);
        return SP_OK;
    case SP_OP_SEND: {
        sp_answer_sent sent = { .http_status = 204 };
        memcpy(answer, &sent, sizeof(sent));
        done->answer_bytes = sizeof(sent);
        return SP_OK;
    }
    case SP_OP_INFER:
    case SP_OP_LOAD:
    case SP_OP_UNLOAD:
    case SP_OP_DETECT:
    case SP_OP_UNPACK:
        break;
    }
    return SP_UNSUPPORTED;
}

static void finish(const work *w)
{
    uint8_t *answer = maps.answers + (size_t)w->submission.slot * SP_ANSWER_STRIDE;
    sp_completion done = { .slot = w->submission.slot, .lease = w->submission.lease, .batch_size = 1, .begun_ns = w->begun_ns,
                           .retry_after_ns = w->script.retry_ms * SP_NS_PER_MS, .units = w->script.units };
    sp_status s = cancelled(w) ? SP_CANCELLED : status_named(w->script.status);
    if (w->script.die)
        (void)raise(SIGKILL);
    if (!s)
        s = run(w, &done, answer);
    done.batch_run_ns = done.inference_ns = sp_clock_now_ns() - w->begun_ns;
    if (s) {
        sp_error err = { 0 };
        (void)SP_FAIL_CODE(&err, s, "scripted", "the script of %s says %s", name, sp_status_name(s));
        memcpy(answer, &err, sizeof(err));
        done.answer_bytes = sizeof(err);
    }
    done.status = s;
    sp_maps_release(&maps, w->submission.slot);
    (void)sp_completions_push(&maps.page->completions, &completion_tail, &done);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&maps.house->gateway_sleeping, memory_order_relaxed))
        sp_ring_bell(maps.complete_fd);
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

static void mark_pending(void)
{
    sp_mark *mark = &maps.page->marks[0];
    int count = SP_MIN(pending_count, SP_LIMIT_BATCH);
    uint64_t sequence = atomic_load_explicit(&mark->sequence, memory_order_relaxed);
    atomic_store(&mark->sequence, sequence + 1);
    for (int i = 0; i < count; i++) {
        atomic_store(&mark->items[i].slot, pending[i].submission.slot);
        atomic_store(&mark->items[i].lease, pending[i].submission.lease);
    }
    atomic_store(&mark->start_ns, sp_clock_now_ns());
    atomic_store(&mark->budget_ns, 60 * SP_NS_PER_S);
    atomic_store(&mark->count, (uint32_t)count);
    atomic_store(&mark->sequence, sequence + 2);
}

static void take_in(void)
{
    sp_submission next;
    while (pending_count < SP_LIMIT_SLOTS && sp_submissions_pop(&maps.page->submissions, &submission_head, &next)) {
        if (sp_maps_receive(&maps, NULL) == SP_UNAVAILABLE)
            _exit(0);
        work *w = &pending[pending_count++];
        *w = (work){ .submission = next, .script = read_script(&next), .begun_ns = sp_clock_now_ns() };
        w->due_ns = w->begun_ns + w->script.delay_ms * SP_NS_PER_MS;
        note(w);
    }
}

static void work_off(void)
{
    int kept = 0;
    for (int i = 0; i < pending_count; i++) {
        if (sp_clock_now_ns() >= pending[i].due_ns || cancelled(&pending[i]))
            finish(&pending[i]);
        else
            pending[kept++] = pending[i];
    }
    pending_count = kept;
}

static void say_ready(void)
{
    char text[64];
    sp_worker_card card = { .device = "cpu", .precision = "fp32", .engine = "script", .sandbox = "none", .executors = 1,
                            .max_batch = 1, .window = SP_LIMIT_SLOTS };
    (void)snprintf(card.device, sizeof(card.device), "%s", kind);
    if (strcmp(kind, "cpu") == 0 || strcmp(kind, "cuda") == 0 || strcmp(kind, "sim") == 0)
        (void)snprintf(card.model, sizeof(card.model), "m");
    card.prep = (sp_prep_spec){ .resize_w = 8, .resize_h = 8, .crop_w = 8, .crop_h = 8 };
    if (read_file("window", text, sizeof(text)))
        card.window = (uint32_t)strtol(text, NULL, 10);
    memcpy(&maps.page->card, &card, sizeof(card));
    atomic_thread_fence(memory_order_release);
    sp_control word = { .kind = SP_CONTROL_READY };
    if (sp_control_send(3, &word, NULL, 0, NULL))
        _exit(0);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--name") == 0)
            name = argv[i + 1];
        if (strcmp(argv[i], "--kind") == 0)
            kind = argv[i + 1];
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGINT, SIG_IGN);
    if (sp_maps_open(&maps, 3, NULL))
        return 1;
    say_ready();
    for (;;) {
        take_in();
        mark_pending();
        work_off();
        mark_pending();
        sp_ring_announce_sleep(&maps.page->worker_sleeping);
        struct pollfd wait[2] = { { .fd = maps.submit_fd, .events = POLLIN }, { .fd = 3 } };
        if (sp_submissions_empty(&maps.page->submissions, submission_head))
            (void)poll(wait, 2, pending_count ? 1 : -1);
        uint64_t rings;
        if (wait[0].revents & POLLIN)
            (void)!read(maps.submit_fd, &rings, sizeof(rings));
        if (wait[1].revents & (POLLHUP | POLLERR))
            _exit(0);
        atomic_store(&maps.page->worker_sleeping, 0);
    }
}
