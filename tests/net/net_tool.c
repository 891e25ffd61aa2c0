/* SPDX-License-Identifier: Apache-2.0
 * The gateway's side of one real net worker process, for the pytest files of this directory: JSON lines in, JSON lines
 * out.
 *
 *   net_tool PROGRAM [worker options]
 *   in   {"id":1,"op":"fetch","url":"...","timeout_ms":5000,"private_ok":true,"limit":1000,"output_file":"path"}
 *        {"id":2,"op":"send","url":"...","body_file":"path","headers":"A: b\n","put":true,"s3":true,"serial":1}
 *        {"id":3,"op":"remote","serial":1,"remote":0,"key":0,"task":"classify","body_file":"...","model":"m","top_k":5}
 *        {"id":4,"op":"cancel","of":1}    {"op":"config","serial":1,"text":"..."}
 *   out  {"ready":true,"pid":N,...} first, then {"id":1,"status":"ok",...} as leases come back
 *
 * One slot a lease, bodies in a memfd of their own. Ends with its standard input. */
#include "base/clock.h"
#include "base/log.h"
#include "route/house.h"
#include "worker/control.h"
#include "worker/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* src/worker/net_remote.c knows these by number: the room of sp_task lies above it. */
_Static_assert(SP_TASK_NOOP == 0 && SP_TASK_CLASSIFY == 1 && SP_TASK_INFER == 3, "tasks that can be forwarded");

typedef struct lease {
    bool out;
    json_int_t id;
    uint32_t number, op, task;
    int output_fd;
    char *output_file;
} lease;

static struct {
    int control_fd, submit_fd, complete_fd;
    pid_t pid;
    uint8_t *requests; /* the request memfd */
    sp_house_page *house;
    sp_worker_page *page;
    uint8_t *answers;
    uint32_t tail, head, next_lease, next_serial;
    lease leases[SP_LIMIT_SLOTS];
    int next_slot;
} tool;

static void die(const char *what)
{
    (void)fprintf(stderr, "net_tool: %s: %s\n", what, strerror(errno));
    exit(2);
}

static int memfd(const char *name, size_t bytes, uint8_t **ret_memory)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        die(name);
    if (ret_memory) {
        *ret_memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (*ret_memory == MAP_FAILED)
            die(name);
    }
    return fd;
}

static void send_word(sp_control word, const int *fds, int count)
{
    sp_error err = { 0 };
    while (sp_control_send(tool.control_fd, &word, fds, count, &err) == SP_BUSY)
        (void)poll(NULL, 0, 1);
}

static void spawn(char **argv)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        die("socketpair");
    tool.pid = fork();
    if (tool.pid == 0) {
        (void)dup2(open("/dev/null", O_RDONLY), 0);
        (void)dup2(2, 1);
        if (ends[1] != 3)
            (void)dup2(ends[1], 3);
        else
            (void)fcntl(3, F_SETFD, 0);
        execv(argv[0], argv);
        _exit(127);
    }
    (void)close(ends[1]);
    tool.control_fd = ends[0];
}

static void greet(void)
{
    uint8_t *worker_memory;
    int request_fd = memfd("requests", SP_REQUEST_MEMFD_BYTES, &tool.requests);
    int worker_fd = memfd("worker", SP_WORKER_MEMFD_BYTES, &worker_memory);
    tool.house = (sp_house_page *)(void *)tool.requests;
    tool.house->abi = SP_SLOT_ABI;
    tool.house->slot_count = SP_LIMIT_SLOTS;
    atomic_store(&tool.house->gateway_sleeping, 1); /* always: we poll */
    tool.page = (sp_worker_page *)(void *)worker_memory;
    tool.answers = worker_memory + SP_WORKER_MEMFD_ANSWERS_OFFSET;
    tool.submit_fd = eventfd(0, EFD_CLOEXEC);
    tool.complete_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int fds[4] = { request_fd, worker_fd, tool.submit_fd, tool.complete_fd };
    send_word((sp_control){ .kind = SP_CONTROL_HELLO }, fds, 4);
}

static void wait_ready(void)
{
    struct pollfd word = { .fd = tool.control_fd, .events = POLLIN };
    sp_control message;
    int fds[SP_CONTROL_FDS], count;
    if (poll(&word, 1, 60000) != 1 || sp_control_receive(tool.control_fd, &message, fds, &count, NULL) != SP_OK ||
        message.kind != SP_CONTROL_READY) {
        (void)printf("{\"ready\":false,\"text\":\"%s\"}\n", message.text);
        exit(1);
    }
    json_t *card = json_pack("{s:b,s:i,s:s,s:s,s:i,s:i}", "ready", 1, "pid", (int)tool.pid, "device", tool.page->card.device,
                             "detail", tool.page->card.detail, "window", (int)tool.page->card.window, "executors",
                             (int)tool.page->card.executors);
    (void)json_dumpf(card, stdout, 0);
    (void)puts("");
    json_decref(card);
}

static sp_slot_request *request_of(int slot)
{
    return (sp_slot_request *)(void *)(tool.requests + SP_REQUEST_MEMFD_REQUESTS_OFFSET) + slot;
}

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));
    return text ? text : "";
}

static int64_t number_of(const json_t *line, const char *key, int64_t otherwise)
{
    const json_t *value = json_object_get(line, key);
    return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

static bool flag_of(const json_t *line, const char *key)
{
    return json_is_true(json_object_get(line, key));
}

static void give_file(int slot, const char *path, uint32_t kind, uint32_t *ret_serial, uint64_t *ret_bytes)
{
    int file = open(path, O_RDONLY | O_CLOEXEC), fd = memfd("body", 0, NULL);
    static char chunk[1 << 16];
    *ret_bytes = 0;
    if (file < 0)
        die(path);
    for (ssize_t n; (n = read(file, chunk, sizeof(chunk))) > 0; *ret_bytes += (uint64_t)n) {
        if (write(fd, chunk, (size_t)n) != n)
            die("body");
    }
    (void)close(file);
    *ret_serial = ++tool.next_serial;
    send_word((sp_control){ .kind = kind, .slot = (uint32_t)slot, .serial = *ret_serial }, &fd, 1);
    (void)close(fd);
}

static void give_config(const json_t *line)
{
    const char *text = text_of(line, "text");
    int fd = memfd("config", 0, NULL);
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die("config");
    send_word((sp_control){ .kind = SP_CONTROL_CONFIG, .serial = (uint32_t)number_of(line, "serial", 1) }, &fd, 1);
    (void)close(fd);
}

static int free_slot(void)
{
    for (int i = 0; i < SP_LIMIT_SLOTS; i++) {
        int slot = (tool.next_slot + i) % SP_LIMIT_SLOTS;
        if (!tool.leases[slot].out) {
            tool.next_slot = slot + 1;
            return slot;
        }
    }
    errno = ENOSPC;
    die("slots");
    return -1;
}

static void fill_prep(sp_prep_spec *prep, const json_t *line)
{
    *prep = (sp_prep_spec){
        .dtype = (uint8_t)number_of(line, "dtype", SP_DTYPE_F32), .crop_w = (uint16_t)number_of(line, "w", 0),
        .crop_h = (uint16_t)number_of(line, "h", 0), .divisor = 1, .std = { 1, 1, 1 },
    };
}

static void fill_request(sp_slot_request *request, const json_t *line, int slot)
{
    *request = (sp_slot_request){ 0 };
    (void)snprintf(request->request_id, sizeof(request->request_id), "id-%lld", (long long)number_of(line, "id", 0));
    request->deadline_ns = sp_clock_now_ns() + number_of(line, "timeout_ms", 10000) * SP_NS_PER_MS;
    request->flags = (flag_of(line, "local_only") ? SP_SLOT_LOCAL_ONLY : 0) |
                     (flag_of(line, "private_ok") ? SP_SLOT_PRIVATE_OK : 0) | (flag_of(line, "put") ? SP_SLOT_SEND_PUT : 0) |
                     (flag_of(line, "s3") ? SP_SLOT_SEND_S3 : 0) | (flag_of(line, "fast") ? SP_SLOT_DECODE_FAST : 0);
    request->top_k = (uint32_t)number_of(line, "top_k", 5);
    request->hops = (uint32_t)number_of(line, "hops", 0);
    if (*text_of(line, "traceparent")) {
        static const uint8_t random[24] = { 1 };
        sp_trace_begin(&request->trace, text_of(line, "traceparent"), text_of(line, "tracestate"), 0, random);
    }
    request->task = strcmp(text_of(line, "task"), "noop") == 0 ? SP_TASK_NOOP : SP_TASK_CLASSIFY;
    request->fetch_limit_bytes = (uint64_t)number_of(line, "limit", 0);
    (void)snprintf(request->model, sizeof(request->model), "%s", text_of(line, "model"));
    (void)snprintf(request->content_type, sizeof(request->content_type), "%s", text_of(line, "content_type"));
    (void)snprintf(request->target, sizeof(request->target), "%s", text_of(line, "url"));
    (void)snprintf(request->send_headers, sizeof(request->send_headers), "%s", text_of(line, "headers"));
    fill_prep(&request->prep, line);
    if (*text_of(line, "body_file")) {
        give_file(slot, text_of(line, "body_file"), SP_CONTROL_BODY, &request->body_memfd_serial, &request->body_bytes);
        request->payload_bytes = request->body_bytes;
        request->body_in_memfd = request->body_bytes > 0; /* an empty one cannot be mapped, and the gateway makes none */
    }
}

static void submit(const json_t *line, uint32_t op)
{
    int slot = free_slot();
    lease *given = &tool.leases[slot];
    fill_request(request_of(slot), line, slot);
    sp_submission submission = {
        .slot = (uint32_t)slot, .op = op, .lease = ++tool.next_lease,
        .attempt_deadline_ns = request_of(slot)->deadline_ns,
        .config_serial = (uint32_t)number_of(line, "serial", 1), .remote = (uint16_t)number_of(line, "remote", 0),
        .key = (uint16_t)number_of(line, "key", 0),
        .span_id = { 0xab, 1, 2, 3, 4, 5, 6, 7 },
    };
    *given = (lease){ .out = true, .id = number_of(line, "id", 0), .number = submission.lease, .op = op,
                      .task = request_of(slot)->task, .output_fd = -1 };
    if (op == SP_OP_FETCH) {
        given->output_fd = memfd("output", 0, NULL);
        given->output_file = strdup(text_of(line, "output_file"));
        submission.output_kind = SP_OUTPUT_BYTES;
        submission.output_serial = ++tool.next_serial;
        send_word((sp_control){ .kind = SP_CONTROL_OUTPUT, .slot = (uint32_t)slot, .serial = submission.output_serial },
                  &given->output_fd, 1);
    }
    if (*text_of(line, "tensor_file")) {
        submission.output_kind = SP_OUTPUT_TENSOR;
        give_file(slot, text_of(line, "tensor_file"), SP_CONTROL_OUTPUT, &submission.output_serial, &submission.output_bytes);
    }
    if (!sp_submissions_push(&tool.page->submissions, &tool.tail, &submission))
        die("ring");
    sp_ring_bell(tool.submit_fd);
}

static void cancel(const json_t *line)
{
    for (int slot = 0; slot < SP_LIMIT_SLOTS; slot++) {
        if (tool.leases[slot].out && tool.leases[slot].id == number_of(line, "of", -1))
            atomic_store(&request_of(slot)->cancelled_lease, tool.leases[slot].number);
    }
}

static void take_line(const char *text)
{
    json_error_t why;
    json_t *line = json_loads(text, 0, &why);
    const char *op = text_of(line, "op");
    if (strcmp(op, "config") == 0)
        give_config(line);
    else if (strcmp(op, "fetch") == 0)
        submit(line, SP_OP_FETCH);
    else if (strcmp(op, "send") == 0)
        submit(line, SP_OP_SEND);
    else if (strcmp(op, "remote") == 0)
        submit(line, SP_OP_REMOTE);
    else if (strcmp(op, "decode") == 0)
        submit(line, SP_OP_DECODE);
    else if (strcmp(op, "cancel") == 0)
        cancel(line);
    json_decref(line);
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

static void put_remote(json_t *out, const sp_answer_remote *remote)
{
    json_t *attempts = json_array();
    for (uint32_t i = 0; i < SP_MIN(remote->attempt_count, (uint32_t)SP_LIMIT_ATTEMPTS); i++)
        (void)json_array_append_new(
            attempts, json_pack("{s:s,s:s,s:s,s:f}", "link", remote->attempts[i].link, "status",
                                sp_status_name((sp_status)remote->attempts[i].status), "reason", remote->attempts[i].reason,
                                "ms", (double)remote->attempts[i].duration_ns / 1e6));
    (void)json_object_set_new(out, "attempts", attempts);
    (void)json_object_set_new(out, "who", json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "link", remote->link, "device", remote->device,
                                                    "precision", remote->precision, "model", remote->model, "version",
                                                    remote->version, "engine", remote->engine));
}

static void put_classes(json_t *out, const sp_answer_classes *classes)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < classes->count; i++)
        (void)json_array_append_new(list, json_pack("{s:i,s:f,s:s}", "class_id", (int)classes->classes[i].class_id, "probability",
                                                    (double)classes->classes[i].probability, "label", classes->classes[i].label));
    (void)json_object_set_new(out, "predictions", list);
}

static void put_answer(json_t *out, const lease *given, const sp_completion *done, const uint8_t *answer)
{
    const sp_answer_remote *remote = (const sp_answer_remote *)(const void *)answer;
    const uint8_t *behind = answer + sizeof(*remote);
    if (given->op == SP_OP_SEND) {
        const sp_answer_sent *sent = (const sp_answer_sent *)(const void *)answer;
        (void)json_object_set_new(out, "http_status", json_integer(sent->http_status));
        (void)json_object_set_new(out, "detail", json_string(sent->detail));
    } else if (given->op == SP_OP_REMOTE) {
        put_remote(out, remote);
        if (given->task == SP_TASK_NOOP)
            (void)json_object_set_new(out, "payload", json_stringn((const char *)behind, done->answer_bytes - sizeof(*remote)));
        else
            put_classes(out, (const sp_answer_classes *)(const void *)behind);
    }
}

static void put_failure(json_t *out, const lease *given, const sp_completion *done, const uint8_t *answer)
{
    const sp_error *err = (const sp_error *)(const void *)answer;
    (void)json_object_set_new(out, "code", json_string(err->code));
    (void)json_object_set_new(out, "message", json_string(err->message));
    (void)json_object_set_new(out, "origin", json_string(err->origin));
    (void)json_object_set_new(out, "origin_code", json_integer(err->origin_code));
    if (given->op == SP_OP_REMOTE && done->answer_bytes == sizeof(sp_answer_remote_failure))
        put_remote(out, &((const sp_answer_remote_failure *)(const void *)answer)->remote);
}

/* The gateway's next step with a fetched body: seal it, which works only when nobody has it mapped for writing. */
static void take_output(json_t *out, lease *given, const sp_completion *done)
{
    if (done->status == SP_OK && given->output_file && *given->output_file) {
        bool sealed = fcntl(given->output_fd, F_ADD_SEALS, F_SEAL_WRITE) == 0;
        (void)json_object_set_new(out, "sealed", json_boolean(sealed));
        FILE *file = fopen(given->output_file, "we");
        static char chunk[1 << 16];
        uint64_t at = 0;
        for (ssize_t n; file && at < done->output_bytes &&
                        (n = pread(given->output_fd, chunk, SP_MIN(sizeof(chunk), done->output_bytes - at), (off_t)at)) > 0;)
            at += fwrite(chunk, 1, (size_t)n, file);
        if (file)
            (void)fclose(file);
    }
    sp_fd_closep(&given->output_fd);
    free(SP_STEAL(given->output_file));
}

static void tell(const sp_completion *done)
{
    lease *given = &tool.leases[done->slot];
    const uint8_t *answer = tool.answers + (size_t)done->slot * SP_ANSWER_STRIDE;
    if (!given->out || given->number != done->lease)
        return;
    json_t *out = json_pack("{s:I,s:s,s:I,s:f,s:f}", "id", given->id, "status", sp_status_name((sp_status)done->status),
                            "output_bytes", (json_int_t)done->output_bytes, "retry_after_s", (double)done->retry_after_ns / 1e9,
                            "inference_ms", (double)done->inference_ns / 1e6);
    if (done->status)
        put_failure(out, given, done, answer);
    else
        put_answer(out, given, done, answer);
    take_output(out, given, done);
    given->out = false;
    (void)json_dumpf(out, stdout, 0);
    (void)puts("");
    json_decref(out);
}

static void collect(void)
{
    uint64_t rings;
    sp_completion done;
    (void)!read(tool.complete_fd, &rings, sizeof(rings));
    while (sp_completions_pop(&tool.page->completions, &tool.head, &done)) {
        if (done.slot < SP_LIMIT_SLOTS)
            tell(&done);
    }
}

static void serve(void)
{
    static char line[1 << 20];
    size_t used = 0;
    struct pollfd fds[3] = { { .fd = 0, .events = POLLIN },
                             { .fd = tool.complete_fd, .events = POLLIN },
                             { .fd = tool.control_fd, .events = POLLIN } };
    for (;;) {
        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            die("poll");
        if (fds[1].revents)
            collect();
        if (fds[2].revents & POLLHUP) {
            int status = 0;
            (void)waitpid(tool.pid, &status, 0);
            (void)printf("{\"died\":%d}\n", status);
            return;
        }
        if (!fds[0].revents)
            continue;
        ssize_t n = read(0, line + used, sizeof(line) - 1 - used);
        if (n <= 0)
            return;
        used += (size_t)n;
        line[used] = 0;
        for (char *end; (end = strchr(line, '\n')) != NULL;) {
            *end = 0;
            take_line(line);
            used -= (size_t)(end + 1 - line);
            memmove(line, end + 1, used + 1);
        }
    }
}

int main(int argc, char **argv)
{
    char *arguments[16] = { argv[1], "worker", "--kind", "net", "--name", "net0" };
    int n = 6;
    if (argc < 2 || argc > 10)
        return 2;
    for (int i = 2; i < argc; i++)
        arguments[n++] = argv[i];
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGPIPE, SIG_IGN);
    spawn(arguments);
    greet();
    wait_ready();
    serve();
    (void)close(tool.control_fd); /* which is how a worker is ended */
    (void)waitpid(tool.pid, NULL, 0);
    return 0;
}
