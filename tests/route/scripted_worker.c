/* SPDX-License-Identifier: Apache-2.0
 * A worker that does as a script says: it speaks the slot protocol, does every operation, and no model, codec or network is
 * behind it. The route's tests name it as their program; its kind is only a name.
 *
 * Before each lease it reads $SPILLWAY_SCRIPTS/NAME (NAME.R for remote R of a net worker, NAME.load<N> for the LOAD of model
 * number N, NAME.infer<N> for its tensors if there is one): words of
 *   status=WORD  delay=MS  retry=MS  units=N  p=0.7  model=NAME  deaf (ignores withdrawals)  die  segv  segv@BYTE (a body that begins so)
 *   wrong=WHAT (an answer of tensors that lies: count, place, port, shape, size, steps, short)  steps=N
 * No file: everything succeeds at once. An INFER gives its inputs back; of a model that is not loaded it fails. Each lease is
 * also noted in $SPILLWAY_SCRIPTS/log: "NAME OP remote key body", where for models their number stands in place of the remote. */
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
    uint32_t steps;
    double p;
    char wrong[12];
    bool deaf, die, segv;
} script;

typedef struct work {
    sp_submission submission;
    script script;
    int64_t begun_ns, due_ns;
} work;

static sp_maps maps;
static bool loaded[1024]; /* by number */
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

static const sp_infer_head *head_of(uint32_t slot)
{
    return (const sp_infer_head *)(const void *)((const uint8_t *)maps.house + SP_REQUEST_MEMFD_HEADS_OFFSET +
                                                 slot * SP_INFER_HEAD_STRIDE);
}

/* Which served model a lease is about; 0 = none. */
static uint32_t model_of(const sp_submission *submission)
{
    sp_view body = { 0 };
    char text[64] = "";
    if (submission->op == SP_OP_INFER)
        return head_of(submission->slot)->model;
    if ((submission->op != SP_OP_LOAD && submission->op != SP_OP_UNLOAD) || sp_maps_payload(&maps, submission->slot, &body, NULL))
        return 0;
    (void)snprintf(text, sizeof(text), "%.*s", (int)SP_MIN(body.size_bytes, sizeof(text) - 1), (const char *)body.data);
    const char *id = strstr(text, "\"id\":");
    return id ? (uint32_t)strtoul(id + 5, NULL, 10) % SP_ARRAY_LEN(loaded) : 0;
}

static int first_byte(const sp_submission *submission)
{
    sp_view body = { 0 };
    return sp_maps_payload(&maps, submission->slot, &body, NULL) == SP_OK && body.size_bytes ? body.data[0] : -1;
}

static script read_script(const sp_submission *submission)
{
    script s = { .p = 0.75 };
    char file[64], text[256], *save = NULL;
    (void)snprintf(file, sizeof(file), "%s", name);
    if (submission->op == SP_OP_REMOTE)
        (void)snprintf(file, sizeof(file), "%s.%u", name, submission->remote);
    if (submission->op == SP_OP_LOAD)
        (void)snprintf(file, sizeof(file), "%s.load%u", name, model_of(submission));
    if (submission->op == SP_OP_INFER) {
        (void)snprintf(file, sizeof(file), "%s.infer%u", name, model_of(submission));
        if (!read_file(file, text, sizeof(text)))
            (void)snprintf(file, sizeof(file), "%s", name);
    }
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
        else if (strncmp(word, "wrong=", 6) == 0)
            (void)snprintf(s.wrong, sizeof(s.wrong), "%s", word + 6);
        else if (strncmp(word, "steps=", 6) == 0)
            s.steps = (uint32_t)strtoul(word + 6, NULL, 10);
        s.deaf |= strcmp(word, "deaf") == 0;
        s.die |= strcmp(word, "die") == 0;
        s.segv |= strcmp(word, "segv") == 0 || (strncmp(word, "segv@", 5) == 0 && first_byte(submission) == strtol(word + 5, NULL, 10));
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
    uint32_t model = model_of(&w->submission);
    int n = snprintf(line, sizeof(line), "%s %u %u %u %.*s\n", name, w->submission.op, model ? model : w->submission.remote, w->submission.key,
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

static sp_status infer(const work *w, sp_completion *done, uint8_t *at);

static sp_status write_remote(const work *w, sp_completion *done, uint8_t *at, sp_view body)
{
    sp_answer_remote *far = (sp_answer_remote *)(void *)at;
    memset(far, 0, sizeof(*far));
    (void)snprintf(far->link, sizeof(far->link), "cuda0");
    (void)snprintf(far->device, sizeof(far->device), "cuda");
    far->attempt_count = 1;
    (void)snprintf(far->attempts[0].link, sizeof(far->attempts[0].link), "cuda0");
    sp_status s = SP_OK;
    if (maps.requests[w->submission.slot].task == 3) /* SP_TASK_INFER */
        s = infer(w, done, at + sizeof(*far));
    else
        done->answer_bytes = write_task(w, at + sizeof(*far), body);
    done->answer_bytes += (uint32_t)sizeof(*far);
    return s;
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

/* Each input comes back as the output of its number; then the steps that the script asks for. */
static sp_status infer(const work *w, sp_completion *done, uint8_t *at)
{
    const sp_infer_head *head = head_of(w->submission.slot);
    sp_infer_answer *answer = (sp_infer_answer *)(void *)at;
    sp_view body = { 0 }, output = { 0 };
    bool pinned;
    if (!loaded[head->model % SP_ARRAY_LEN(loaded)])
        return SP_INTERNAL;
    (void)sp_maps_payload(&maps, w->submission.slot, &body, NULL);
    if (w->submission.output_kind && sp_maps_input(&maps, &w->submission, &output, &pinned, NULL))
        return SP_INTERNAL;
    memset(answer, 0, offsetof(sp_infer_answer, outputs));
    answer->count = head->input_count;
    answer->batch_rows = answer->batch_leader = 1;
    uint64_t end = offsetof(sp_infer_answer, outputs) + head->input_count * sizeof(answer->outputs[0]);
    for (uint32_t i = 0; i < answer->count; i++) {
        const sp_infer_tensor *in = &head->inputs[i];
        sp_infer_output *out = &answer->outputs[i];
        sp_view from = in->in_output ? output : body;
        if (in->offset > from.size_bytes || in->bytes > from.size_bytes - in->offset)
            return SP_INVALID;
        *out = (sp_infer_output){ .port = in->port, .dtype = in->dtype, .rank = in->rank, .bytes = in->bytes };
        out->offset = SP_ALIGN_UP(end, (uint64_t)64);
        memcpy(out->dims, in->dims, sizeof(out->dims));
        if (in->bytes)
            memcpy(at + out->offset, from.data + in->offset, in->bytes);
        end = out->offset + out->bytes;
    }
    end = SP_ALIGN_UP(end, (uint64_t)8);
    for (uint32_t i = 0; i < w->script.steps; i++, end += sizeof(sp_infer_step))
        *(sp_infer_step *)(void *)(at + end) = (sp_infer_step){ .model = i + 1, .batch_rows = 1, .infer_ns = 1000 };
    answer->step_count = w->script.steps;
    done->answer_bytes = (uint32_t)end;
    if (strcmp(w->script.wrong, "count") == 0)
        answer->count = 65;
    else if (strcmp(w->script.wrong, "place") == 0)
        answer->outputs[0].offset = end;
    else if (strcmp(w->script.wrong, "port") == 0)
        answer->outputs[0].port = 9;
    else if (strcmp(w->script.wrong, "shape") == 0)
        answer->outputs[0].dims[0] = -1;
    else if (strcmp(w->script.wrong, "size") == 0)
        answer->outputs[0].bytes -= 1;
    else if (strcmp(w->script.wrong, "steps") == 0)
        answer->step_count = 1000;
    else if (strcmp(w->script.wrong, "short") == 0)
        done->answer_bytes = 7;
    return SP_OK;
}

static sp_status load(const work *w, sp_completion *done, uint8_t *answer)
{
    sp_answer_loaded about = { .host_bytes = 1000, .load_ns = 5, .engine = "script", .device = "cpu" };
    loaded[model_of(&w->submission)] = true;
    memcpy(answer, &about, sizeof(about));
    done->answer_bytes = sizeof(about);
    return SP_OK;
}

/* "Unpacked": everything behind the first line; that line is the header. */
static sp_status unpack(const work *w, sp_completion *done, uint8_t *answer, sp_view body)
{
    const uint8_t *end = body.size_bytes ? memchr(body.data, '\n', body.size_bytes) : NULL;
    uint8_t *output = NULL;
    if (!end)
        return SP_INVALID;
    size_t header = (size_t)(end - body.data), rest = body.size_bytes - header - 1;
    if (rest && sp_maps_output(&maps, w->submission.slot, rest, &output, NULL))
        return SP_INTERNAL;
    memcpy(answer, body.data, header);
    if (rest)
        memcpy(output, end + 1, rest);
    done->answer_bytes = (uint32_t)header;
    done->output_kind = SP_OUTPUT_BYTES;
    done->output_bytes = rest;
    return SP_OK;
}

static sp_status detect(const work *w, sp_completion *done, uint8_t *answer)
{
    sp_answer_boxes *boxes = (sp_answer_boxes *)(void *)answer;
    if (w->submission.output_kind != SP_OUTPUT_RGB8)
        return SP_INTERNAL;
    memset(boxes, 0, offsetof(sp_answer_boxes, boxes) + sizeof(sp_answer_box));
    boxes->count = 1;
    boxes->boxes[0] = (sp_answer_box){ .x1 = (float)w->submission.image_w, .y1 = 2, .score = (float)w->script.p, .label = "cat" };
    done->answer_bytes = (uint32_t)(offsetof(sp_answer_boxes, boxes) + sizeof(sp_answer_box));
    return SP_OK;
}

/* INDEX and ANALYZE answer with the media file's beginning and the body behind it; a REPORT is a file that holds both. */
static sp_status video(const work *w, sp_completion *done, uint8_t *answer, sp_view body)
{
    uint32_t slot = w->submission.slot;
    int media = -1, out = -1;
    size_t most = SP_MIN(maps.requests[slot].media_bytes, (uint64_t)SP_LIMIT_ANSWER_BYTES);
    sp_status s = sp_maps_media(&maps, slot, &media, NULL);
    if (s)
        return s;
    ssize_t n = pread(media, answer, most, 0);
    if (n < 0 || write(media, "x", 1) >= 0) /* it is not ours to write */
        return SP_INTERNAL;
    memcpy(answer + n, body.data, body.size_bytes);
    done->answer_bytes = (uint32_t)((size_t)n + body.size_bytes);
    if (w->submission.op != SP_OP_REPORT)
        return SP_OK;
    s = sp_maps_output_fd(&maps, &w->submission, &out, NULL);
    if (!s && pwrite(out, answer, done->answer_bytes, 0) != (ssize_t)done->answer_bytes)
        s = SP_INTERNAL;
    done->output_kind = SP_OUTPUT_BYTES;
    done->output_bytes = done->answer_bytes;
    if (!s)
        sp_maps_drop_output(&maps, slot);
    return s;
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
        return write_remote(w, done, answer, body);
    case SP_OP_SEND: {
        sp_answer_sent sent = { .http_status = 204 };
        memcpy(answer, &sent, sizeof(sent));
        done->answer_bytes = sizeof(sent);
        return SP_OK;
    }
    case SP_OP_INFER:
        return infer(w, done, answer);
    case SP_OP_LOAD:
        return load(w, done, answer);
    case SP_OP_UNLOAD:
        loaded[model_of(&w->submission)] = false;
        return SP_OK;
    case SP_OP_DETECT:
        return detect(w, done, answer);
    case SP_OP_UNPACK:
        return unpack(w, done, answer, body);
    case SP_OP_INDEX:
    case SP_OP_ANALYZE:
    case SP_OP_REPORT:
        return video(w, done, answer, body);
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
    if (w->script.segv) {
        (void)signal(SIGSEGV, SIG_DFL); /* a sanitizer would make an exit of it */
        (void)raise(SIGSEGV);
    }
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
        if (next.op == SP_OP_ANALYZE)
            atomic_store(&maps.page->progress[next.slot], (uint64_t)next.lease << 32 | 7);
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
    card.infer_window = SP_LIMIT_SLOTS;
    card.analyze_window = 1;
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
