/* SPDX-License-Identifier: Apache-2.0
 * A request's life in the house: a slot is leased, its body filled, the answer delivered, the slot recycled. What links
 * do with it is dispatch.c's. */
#include "base/clock.h"
#include "route/dispatch.h"
#include "route/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- queues: doubly linked, a request is in one at most -------------------------------------------------------- */

void sp_queue_push(sp_queue *queue, sp_request *request)
{
    SP_ASSERT(!request->in_queue);
    request->in_queue = true;
    request->next = NULL;
    request->previous = queue->last;
    *(queue->last ? &queue->last->next : &queue->first) = request;
    queue->last = request;
    queue->count++;
}

void sp_queue_push_front(sp_queue *queue, sp_request *request)
{
    SP_ASSERT(!request->in_queue);
    request->in_queue = true;
    request->previous = NULL;
    request->next = queue->first;
    *(queue->first ? &queue->first->previous : &queue->last) = request;
    queue->first = request;
    queue->count++;
}

void sp_queue_remove(sp_queue *queue, sp_request *request)
{
    SP_ASSERT(request->in_queue);
    *(request->previous ? &request->previous->next : &queue->first) = request->next;
    *(request->next ? &request->next->previous : &queue->last) = request->previous;
    request->in_queue = false;
    queue->count--;
}

/* --- open ------------------------------------------------------------------------------------------------------- */

static void make_id(char *id)
{
    uint8_t bytes[16] = { 0 };
    (void)!getrandom(bytes, sizeof(bytes), GRND_NONBLOCK); /* early at boot: an id of zeros is still an id */
    for (size_t i = 0; i < sizeof(bytes); i++)
        (void)snprintf(id + 2 * i, 3, "%02x", bytes[i]);
}

/* Seconds until a place should be free: what is queued, over how fast it goes. At least one. */
static int retry_after_s(const sp_house *house)
{
    int64_t per_item_ns = 0;
    int ready = 0;
    for (int i = 0; i < house->worker_count; i++) {
        if (house->workers[i].role == SP_ROLE_CODEC || house->workers[i].state != SP_WORKER_READY)
            continue;
        per_item_ns = SP_MAX(per_item_ns, house->workers[i].service_ns);
        ready++;
    }
    int64_t wait_ns = per_item_ns * house->open_count / SP_MAX(ready, 1);
    return (int)SP_CLAMP(wait_ns / SP_NS_PER_S + 1, (int64_t)1, (int64_t)60);
}

/* The device worker's card of the model that is asked for; NULL with SP_NOT_FOUND when no worker has it. */
static sp_status find_model(const sp_house *house, const char *model, const sp_worker_card **ret_card, sp_error *reterr)
{
    const sp_worker_card *first = NULL;
    bool devices = false;
    for (int i = 0; i < house->worker_count; i++) {
        const sp_worker *w = &house->workers[i];
        devices |= w->role == SP_ROLE_DEVICE;
        if (w->role != SP_ROLE_DEVICE || !w->has_card || !w->card.model[0])
            continue;
        first = first ? first : &w->card;
        if (model && strcmp(model, w->card.model) == 0) {
            *ret_card = &w->card;
            return SP_OK;
        }
    }
    if (!devices)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link",
                            "no worker here can classify: start with a device worker (--workers codec0,cpu0)");
    if (model && first)
        return SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_such_model", "no model '%.64s' is served here; there is '%s'", model,
                            first->model);
    *ret_card = first; /* NULL: no card yet, the request waits for the first one */
    return SP_OK;
}

static sp_status check_task(const sp_house *house, const sp_request_params *params, sp_error *reterr)
{
    const sp_worker_card *card = NULL;
    if (params->task == SP_TASK_CLASSIFY)
        return find_model(house, params->model, &card, reterr);
    return house->worker_count ? SP_OK : SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link", "no worker is configured");
}

sp_status sp_request_open(sp_house *house, const sp_request_params *params, sp_request **ret_request, int *ret_retry_after_s,
                          sp_error *reterr)
{
    *ret_retry_after_s = 0;
    if (house->ending) {
        *ret_retry_after_s = 1;
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "draining", "the server is shutting down; ask another one");
    }
    if (house->memory_short) {
        *ret_retry_after_s = 1;
        sp_watchdog_arm(house); /* somebody must notice when it is over */
        return SP_FAIL_CODE(reterr, SP_BUSY, "memory", "over %d %% of the memory is in use; come back in 1 s",
                            SP_LIMIT_MEMORY_SHED_PERCENT);
    }
    sp_status s = check_task(house, params, reterr);
    if (s) {
        *ret_retry_after_s = s == SP_UNAVAILABLE ? retry_after_s(house) : 0;
        return s;
    }
    if (!house->free_count) {
        *ret_retry_after_s = retry_after_s(house);
        return SP_FAIL_CODE(reterr, SP_BUSY, "no_slot", "all %d places are taken; come back in %d s", SP_LIMIT_SLOTS,
                            *ret_retry_after_s);
    }
    uint32_t slot = house->free_slots[--house->free_count];
    sp_request *request = &house->requests[slot];
    SP_ASSERT(request->state == SP_REQUEST_FREE && !request->leases_out);
    request->state = SP_REQUEST_FILLING;
    request->task = params->task;
    request->step = 0;
    request->lease = 0;
    request->executed = request->hashed = request->suspect = false;
    memset(request->tries, 0, sizeof(request->tries));
    request->body = request->inline_body;
    request->body_bytes = 0;
    request->body_capacity = SP_LIMIT_SLOT_INLINE_BYTES;
    request->body_limit_bytes = params->body_limit_bytes ? params->body_limit_bytes : SP_LIMIT_IMAGE_BODY_BYTES;
    request->body_expected_bytes = SP_MIN(params->body_bytes_hint, request->body_limit_bytes);
    request->output_kind = SP_OUTPUT_NONE;
    memset(&request->answer, 0, offsetof(sp_answer, attempts)); /* attempt_count says how many of the rest are valid */
    request->answer.received_ns = params->received_ns;

    sp_slot_request *shared = request->shared;
    memset(shared, 0, sizeof(*shared));
    if (params->request_id && *params->request_id)
        (void)snprintf(shared->request_id, sizeof(shared->request_id), "%s", params->request_id);
    else
        make_id(shared->request_id);
    shared->deadline_ns = params->deadline_ns;
    shared->top_k = params->top_k ? params->top_k : 5;
    shared->flags = params->decode_fast ? SP_SLOT_DECODE_FAST : 0;
    (void)snprintf(request->answer.model, sizeof(request->answer.model), "%s", params->model ? params->model : "");
    house->open_count++;
    *ret_request = request;
    return SP_OK;
}

/* --- the body --------------------------------------------------------------------------------------------------- */

/* Moves the body into a memfd of its own with room for `need_bytes`, or grows that one. */
static sp_status body_grow(sp_request *request, size_t need_bytes, sp_error *reterr)
{
    size_t capacity = SP_MAX(SP_ALIGN_UP(need_bytes, (size_t)65536), request->body_capacity * 2);
    if (request->body_fd < 0) {
        int fd = memfd_create("spillway-body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
            return SP_FAIL_ERRNO(reterr, SP_NOMEM, "memfd_create for a body");
        request->body_fd = fd;
    }
    if (ftruncate(request->body_fd, (off_t)capacity) < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "a body of %zu bytes", capacity);
    bool first = request->body == request->inline_body;
    void *memory = first ? mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_SHARED, request->body_fd, 0)
                         : mremap(request->body, request->body_capacity, capacity, MREMAP_MAYMOVE);
    if (memory == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "mapping a body of %zu bytes", capacity);
    if (first)
        memcpy(memory, request->inline_body, request->body_bytes);
    request->body = memory;
    request->body_capacity = capacity;
    return SP_OK;
}

sp_status sp_request_append(sp_request *request, const void *data, size_t size_bytes, sp_error *reterr)
{
    SP_ASSERT(request->state == SP_REQUEST_FILLING);
    if (size_bytes > request->body_limit_bytes - request->body_bytes)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body has more than the %llu bytes allowed here",
                            (unsigned long long)request->body_limit_bytes);
    sp_house *house = request->house;
    if (house->body_bytes_held + size_bytes > house->config.bodies_limit_bytes)
        return SP_FAIL_CODE(reterr, SP_BUSY, "bodies", "%llu MiB of bodies are being held already; come back in 1 s",
                            (unsigned long long)(house->body_bytes_held >> 20));
    /* What Content-Length promised is made room for at once: untouched pages cost nothing, moving bytes does. */
    bool expect_more = !request->body_bytes && request->body_expected_bytes > request->body_capacity;
    if (expect_more || size_bytes > request->body_capacity - request->body_bytes) {
        size_t need_bytes = SP_MAX(request->body_bytes + size_bytes, expect_more ? request->body_expected_bytes : 0);
        sp_status s = body_grow(request, need_bytes, reterr);
        if (s)
            return s;
    }
    memcpy(request->body + request->body_bytes, data, size_bytes);
    request->body_bytes += size_bytes;
    house->body_bytes_held += size_bytes;
    return SP_OK;
}

sp_view sp_request_body(const sp_request *request)
{
    return sp_view_make(request->body, request->body_bytes);
}

void sp_request_set_payload(sp_request *request, size_t offset, size_t size_bytes)
{
    SP_ASSERT(offset <= request->body_bytes && size_bytes <= request->body_bytes - offset);
    request->shared->payload_offset = offset;
    request->shared->payload_bytes = size_bytes;
}

void sp_request_set_deadline(sp_request *request, int64_t deadline_ns)
{
    request->shared->deadline_ns = deadline_ns;
}

void sp_request_set_options(sp_request *request, uint32_t top_k, bool decode_fast)
{
    request->shared->top_k = top_k ? top_k : 5;
    request->shared->flags = decode_fast ? SP_SLOT_DECODE_FAST : 0;
}

const char *sp_request_id(const sp_request *request)
{
    return request->shared->request_id;
}

static void drop_body(sp_request *request)
{
    if (request->body != request->inline_body)
        (void)munmap(request->body, request->body_capacity);
    request->body = request->inline_body;
    request->house->body_bytes_held -= request->body_bytes;
    request->body_bytes = 0;
    sp_fd_closep(&request->body_fd);
}

/* --- submit, answer, close -------------------------------------------------------------------------------------- */

void sp_request_submit(sp_request *request, sp_request_done_fn *done, void *context)
{
    SP_ASSERT(request->state == SP_REQUEST_FILLING);
    request->done = done;
    request->context = context;
    sp_slot_request *shared = request->shared;
    shared->body_bytes = request->body_bytes;
    shared->body_in_memfd = request->body_fd >= 0;
    if (!shared->payload_offset && !shared->payload_bytes)
        shared->payload_bytes = request->body_bytes;
    if (request->body_fd >= 0) {
        shared->body_memfd_serial = ++request->house->next_serial;
        /* From here on nobody, we included, can make a writable mapping or change its size. */
        (void)fcntl(request->body_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
    }
    sp_dispatch_submit(request);
}

sp_attempt *sp_request_attempt_add(sp_request *request, const char *link, sp_status status, int64_t start_ns,
                                   const char *reason)
{
    sp_answer *answer = &request->answer;
    /* The last place is overwritten: the first tries tell what began it, the last one how it ended. */
    if (answer->attempt_count < SP_LIMIT_ATTEMPTS)
        answer->attempt_count++;
    sp_attempt *attempt = &answer->attempts[answer->attempt_count - 1];
    *attempt = (sp_attempt){ .status = status, .start_ns = start_ns, .end_ns = sp_clock_now_ns() };
    (void)snprintf(attempt->link, sizeof(attempt->link), "%s", link);
    (void)snprintf(attempt->reason, sizeof(attempt->reason), "%s", reason);
    return attempt;
}

static void settle(sp_request *request, sp_status status)
{
    SP_ASSERT(!request->in_queue && request->state != SP_REQUEST_DONE && request->state != SP_REQUEST_CLOSED);
    sp_loop_timer_clear(request->house->loop, &request->timer);
    request->state = SP_REQUEST_DONE;
    request->answer.status = status;
    request->answer.total_ns = sp_clock_now_ns() - request->answer.received_ns;
    request->answer.decode_fast = (request->shared->flags & SP_SLOT_DECODE_FAST) != 0;
}

void sp_request_answer_now(sp_request *request)
{
    settle(request, SP_OK);
    request->done(request, &request->answer, request->context);
}

void sp_request_answer(sp_request *request, sp_status status)
{
    settle(request, status);
    if (status == SP_BUSY || status == SP_UNAVAILABLE || status == SP_NOMEM)
        request->answer.retry_after_s = retry_after_s(request->house);
    sp_queue_push(&request->house->answered, request);
}

void sp_request_deliver(sp_house *house)
{
    while (house->answered.first) {
        sp_request *request = house->answered.first;
        sp_queue_remove(&house->answered, request);
        request->done(request, &request->answer, request->context);
    }
}

void sp_request_recycle_if_done(sp_request *request)
{
    if (request->state != SP_REQUEST_CLOSED || request->leases_out)
        return;
    sp_house *house = request->house;
    drop_body(request);
    struct stat st;
    if (request->output_fd >= 0 && (fstat(request->output_fd, &st) < 0 || st.st_size > SP_OUTPUT_KEEP_BYTES)) {
        sp_fd_closep(&request->output_fd);
        for (int i = 0; i < house->worker_count; i++)
            house->workers[i].output_serials[request->slot] = 0;
    }
    request->state = SP_REQUEST_FREE;
    house->free_slots[house->free_count++] = request->slot;
}

void sp_request_close(sp_request *request)
{
    if (request->state == SP_REQUEST_QUEUED || request->state == SP_REQUEST_LEASED) {
        sp_request_cancel(request);
        return;
    }
    SP_ASSERT(request->state == SP_REQUEST_FILLING || request->state == SP_REQUEST_DONE);
    if (request->in_queue)
        sp_queue_remove(&request->house->answered, request);
    request->house->open_count--;
    request->state = SP_REQUEST_CLOSED;
    sp_request_recycle_if_done(request);
}

void sp_request_cancel(sp_request *request)
{
    if (request->state == SP_REQUEST_QUEUED || request->state == SP_REQUEST_LEASED) {
        sp_dispatch_withdraw(request);
        sp_loop_timer_clear(request->house->loop, &request->timer);
        request->state = SP_REQUEST_DONE;
    }
    sp_request_close(request);
}
