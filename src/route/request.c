/* SPDX-License-Identifier: Apache-2.0
 * A request's life in the house: a slot is leased, its body filled, the answer delivered, the slot recycled. What links
 * do with it is dispatch.c's. */
#include "base/clock.h"
#include "route/chain.h"
#include "route/dispatch.h"
#include "route/lease.h"
#include "route/models.h"
#include "route/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- queues: doubly linked, by priority and age; a request is in one at most -------------------------------------------------------- */

static void insert_after(sp_queue *queue, sp_request *request, sp_request *before)
{
    SP_ASSERT(!request->in_queue);
    request->in_queue = true;
    request->previous = before;
    request->next = before ? before->next : queue->first;
    *(request->next ? &request->next->previous : &queue->last) = request;
    *(before ? &before->next : &queue->first) = request;
    queue->count++;
}

void sp_queue_push(sp_queue *queue, sp_request *request)
{
    sp_request *before = queue->last;
    while (before && before->priority < request->priority)
        before = before->previous;
    insert_after(queue, request, before);
}

void sp_queue_push_front(sp_queue *queue, sp_request *request)
{
    sp_request *before = NULL, *after = queue->first;
    while (after && after->priority > request->priority) {
        before = after;
        after = after->next;
    }
    insert_after(queue, request, before);
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

/* Whether the model that is asked for can be had here. It may be: nobody has said yet, or another house may know it. */
static sp_status check_model(const sp_house *house, const sp_chain *chain, const char *model, sp_error *reterr)
{
    const sp_worker_card *first = NULL;
    bool far = false;
    for (int e = 0; e < chain->count; e++) {
        const sp_chain_entry *entry = &chain->entries[e];
        far |= entry->worker < 0;
        if (entry->worker < 0)
            continue;
        const sp_worker *w = &house->workers[entry->worker];
        if (!w->has_card || !w->card.model[0])
            continue;
        first = first ? first : &w->card;
        if (model && strcmp(model, w->card.model) == 0)
            return SP_OK;
    }
    if (model && first && !far)
        return SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_such_model", "no model '%.64s' is served here; there is '%s'", model,
                            first->model);
    return SP_OK;
}

static int find_only(const sp_house *house, const sp_chain *chain, const char *name)
{
    for (int e = 0; e < chain->count; e++) {
        if (strcmp(house->links[chain->entries[e].link].name, name) == 0)
            return e;
    }
    return -1;
}

static sp_status check_task(const sp_house *house, const sp_request_params *params, sp_error *reterr)
{
    const sp_chain *chain = &house->snapshot->chains[params->task];
    if ((params->url || params->task == SP_TASK_SEND || params->task == SP_TASK_FETCH) && !house->role_counts[SP_ROLE_NET])
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_net", "nobody here can reach the network: start with a net worker (--workers net0,...)");
    if (params->url && params->local_only && params->task != SP_TASK_SEND)
        return SP_FAIL_CODE(reterr, SP_DENIED, "local_only", "this caller's requests stay on this machine: send the bytes, not a URL");
    if (params->url && strlen(params->url) >= SP_LIMIT_TARGET_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "url_too_long", "the URL has more than %d bytes", SP_LIMIT_TARGET_BYTES - 1);
    if (params->send_headers && strlen(params->send_headers) >= SP_LIMIT_SEND_HEADERS_BYTES)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "headers_too_long", "the headers to send have more than %d bytes",
                            SP_LIMIT_SEND_HEADERS_BYTES - 1);
    if (params->task == SP_TASK_FETCH && (!params->url || params->fetch_fd <= 0))
        return SP_FAIL(reterr, SP_INVALID, "a fetch needs a URL and a file");
    if (params->task == SP_TASK_SEND || params->task == SP_TASK_MODELS || params->task == SP_TASK_FETCH)
        return SP_OK;
    if (params->task == SP_TASK_INDEX || params->task == SP_TASK_REPORT) {
        if (house->role_counts[SP_ROLE_CODEC])
            return SP_OK;
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_codec", "nobody here can read videos: start with a codec worker "
                            "(--workers codec0,cpu0)");
    }
    if (params->only_link && find_only(house, chain, params->only_link) < 0)
        return SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_such_link", "'%.31s' is no link of %s; GET /v1/links names them",
                            params->only_link, sp_task_name(params->task));
    if (!chain->count && (params->task == SP_TASK_INFER || params->task == SP_TASK_DETECT))
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link",
                            "no worker here can run models: start with a device worker (--workers codec0,cpu0)");
    if (!chain->count && (params->task == SP_TASK_CLASSIFY || params->task == SP_TASK_ANALYZE))
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link",
                            "no worker here can %s: start with a device worker (--workers codec0,cpu0)",
                            sp_task_name(params->task));
    if (!chain->count)
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link", "no worker is configured for %s", sp_task_name(params->task));
    return params->task == SP_TASK_CLASSIFY ? check_model(house, chain, params->model, reterr) : SP_OK;
}

/* What policy will ask about. */
static void take_facts(sp_request *request, const sp_request_params *params)
{
    sp_house *house = request->house;
    request->snapshot = sp_snapshot_ref(house->snapshot);
    request->chain = &request->snapshot->chains[params->task];
    request->barred = 0;
    memset(request->tries, 0, sizeof(request->tries));
    request->pinned = -1;
    request->only = params->only_link ? find_only(house, request->chain, params->only_link) : -1;
    request->local_only = params->local_only;
    request->force_cpu = params->force_cpu;
    request->wants_fetch = params->url && params->task != SP_TASK_SEND;
    request->no_decode = request->internal = request->direct_tried = false;
    request->guard.sampled = request->guard.held = false;
    request->priority = SP_CLAMP(params->priority, -10, 10);
    request->duration_s = SP_MAX(params->duration_s, 0.0);
    request->retry_at_ns = request->hedge_at_ns = request->wake_ns = 0;
    sp_chain_judge_open(request, params);
}

static void copy_text(char *dst, size_t size, const char *src)
{
    sp_text_copy(dst, size, src ? src : "");
}

static uint32_t decode_flags(sp_decode decode)
{
    return decode == SP_DECODE_FAST ? SP_SLOT_DECODE_FAST : decode == SP_DECODE_NVJPEG ? SP_SLOT_DECODE_NVJPEG : 0u;
}

static void fill_shared(sp_request *request, const sp_request_params *params)
{
    sp_slot_request *shared = request->shared;
    memset(shared, 0, offsetof(sp_slot_request, target)); /* the long texts end at their first byte */
    shared->target[0] = shared->send_headers[0] = 0;
    atomic_store_explicit(&shared->cancelled_lease, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->spared_lease, 0, memory_order_relaxed);
    shared->fetch_limit_bytes = shared->media_bytes = 0;
    shared->media_serial = 0;
    if (params->request_id && *params->request_id)
        copy_text(shared->request_id, sizeof(shared->request_id), params->request_id);
    else
        make_id(shared->request_id);
    const sp_config *config = request->snapshot->config;
    shared->deadline_ns = params->deadline_ns;
    shared->top_k = params->top_k || params->task == SP_TASK_DETECT ? params->top_k : 5; /* a detector has a number of its own */
    shared->flags = decode_flags(params->decode) | (params->local_only ? SP_SLOT_LOCAL_ONLY : 0u) |
                    (params->private_ok ? SP_SLOT_PRIVATE_OK : 0u) | (params->send_put ? SP_SLOT_SEND_PUT : 0u) |
                    (params->send_s3 ? SP_SLOT_SEND_S3 : 0u);
    shared->task = params->task;
    shared->hops = (uint32_t)SP_MAX(params->hops, 0);
    shared->threshold = shared->iou = -1;
    if (params->trace) {
        memcpy(&shared->trace, params->trace, offsetof(sp_trace, state));
        copy_text(shared->trace.state, sizeof(shared->trace.state), params->trace->state);
    }
    copy_text(shared->model, sizeof(shared->model), params->model);
    copy_text(shared->content_type, sizeof(shared->content_type), params->content_type);
    if (params->url) {
        copy_text(shared->target, sizeof(shared->target), params->url);
        shared->fetch_limit_bytes = params->task == SP_TASK_FETCH && params->fetch_limit_bytes ? params->fetch_limit_bytes
                                    : config->fetch_limit_bytes ? config->fetch_limit_bytes : SP_LIMIT_IMAGE_BODY_BYTES;
        if (config->fetch_private && params->task != SP_TASK_SEND)
            shared->flags |= SP_SLOT_PRIVATE_OK;
    }
    if (params->send_headers)
        copy_text(shared->send_headers, sizeof(shared->send_headers), params->send_headers);
}

/* One that is open for a version may go on with it, also when new requests may not. */
static sp_status find_model(sp_house *house, const sp_request_params *params, const sp_request *beside, sp_loaded **ret_model,
                            sp_error *reterr)
{
    if (params->task != SP_TASK_INFER && params->task != SP_TASK_DETECT)
        return SP_OK;
    if (!beside || !beside->model || beside->model->id != params->model_id)
        return sp_loaded_admit(house, params->model_id, ret_model, reterr);
    *ret_model = beside->model;
    return SP_OK;
}

static sp_status open_request(sp_house *house, const sp_request_params *params, const sp_request *beside, sp_request **ret_request,
                              int *ret_retry_after_s, sp_error *reterr)
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
    sp_loaded *model = NULL;
    sp_status s = check_task(house, params, reterr);
    if (!s)
        s = find_model(house, params, beside, &model, reterr);
    if (s) {
        *ret_retry_after_s = s == SP_UNAVAILABLE ? retry_after_s(house) : 0;
        return s;
    }
    if (!house->free_count)
        (void)sp_guard_give_back(house);
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
    request->fetch_fd = -1;
    if (params->task == SP_TASK_FETCH && (request->fetch_fd = fcntl(params->fetch_fd, F_DUPFD_CLOEXEC, 3)) < 0) {
        request->state = SP_REQUEST_FREE;
        house->free_slots[house->free_count++] = slot;
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "no descriptor for what is fetched");
    }
    request->op = 0;
    request->live_count = 0;
    request->hashed = request->suspect = false;
    request->body = request->inline_body;
    request->body_bytes = 0;
    request->body_capacity = SP_LIMIT_SLOT_INLINE_BYTES;
    request->body_limit_bytes = params->body_limit_bytes ? params->body_limit_bytes : SP_LIMIT_IMAGE_BODY_BYTES;
    request->body_expected_bytes = SP_MIN(params->body_bytes_hint, request->body_limit_bytes);
    request->output_kind = SP_OUTPUT_NONE;
    memset(&request->answer, 0, offsetof(sp_answer, attempts)); /* attempt_count says how many of the rest are valid */
    request->answer.output_fd = -1;
    request->answer.received_ns = params->received_ns;
    take_facts(request, params);
    fill_shared(request, params);
    request->model = NULL;
    request->pin = (sp_pin){ 0 };
    request->wants_unpack = request->ends_unpacked = request->has_picture = false;
    if (model) {
        sp_loaded_join(request, model);
        sp_infer_begin(request, params);
    }
    copy_text(request->answer.model, sizeof(request->answer.model), params->model);
    copy_text(request->answer.version, sizeof(request->answer.version), params->model_version);
    house->open_count++;
    *ret_request = request;
    return SP_OK;
}

sp_status sp_request_open(sp_house *house, const sp_request_params *params, sp_request **ret_request, int *ret_retry_after_s,
                          sp_error *reterr)
{
    return open_request(house, params, NULL, ret_request, ret_retry_after_s, reterr);
}

sp_status sp_request_open_beside(const sp_request *beside, uint32_t model_id, bool here, sp_request **ret_request,
                                 int *ret_retry_after_s, sp_error *reterr)
{
    const sp_request_params params = {
        .task = SP_TASK_INFER,
        .model_id = model_id,
        .request_id = beside->shared->request_id,
        .deadline_ns = beside->shared->deadline_ns,
        .received_ns = sp_clock_now_ns(),
        .body_limit_bytes = SP_LIMIT_BODIES_BYTES,
        .local_only = beside->local_only || here,
        .force_cpu = beside->force_cpu,
        .priority = beside->priority,
        .hops = (int)beside->shared->hops,
        .trace = &beside->shared->trace,
    };
    sp_request *request;
    sp_status s = open_request(beside->house, &params, beside, &request, ret_retry_after_s, reterr);
    if (s)
        return s;
    sp_snapshot_unref(request->house, request->snapshot);
    request->snapshot = sp_snapshot_ref(beside->snapshot);
    request->chain = &request->snapshot->chains[SP_TASK_INFER];
    request->allowed = beside->allowed;
    request->only = here ? -1 : beside->only;
    *ret_request = request;
    return SP_OK;
}

int64_t sp_request_deadline(const sp_request *request)
{
    return request->shared->deadline_ns;
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

/* Makes room for `size_bytes` more, behind which the body then ends. */
static sp_status body_extend(sp_request *request, size_t size_bytes, sp_error *reterr)
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
    request->body_bytes += size_bytes;
    house->body_bytes_held += size_bytes;
    return SP_OK;
}

sp_status sp_request_append(sp_request *request, const void *data, size_t size_bytes, sp_error *reterr)
{
    sp_status s = body_extend(request, size_bytes, reterr);
    if (!s && size_bytes)
        memcpy(request->body + request->body_bytes - size_bytes, data, size_bytes);
    return s;
}

void *sp_request_room(sp_request *request, size_t size_bytes, sp_error *reterr)
{
    size_t gap = SP_ALIGN_UP(request->body_bytes, (size_t)8) - request->body_bytes;
    if (size_bytes > SIZE_MAX - gap || body_extend(request, gap + size_bytes, reterr))
        return NULL;
    memset(request->body + request->body_bytes - size_bytes - gap, 0, gap); /* what lay there before is nobody's */
    return request->body + request->body_bytes - size_bytes;
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

void sp_request_extend_deadline(sp_request *request, int64_t deadline_ns)
{
    if (deadline_ns <= request->shared->deadline_ns)
        return;
    request->shared->deadline_ns = deadline_ns;
    if (request->state == SP_REQUEST_QUEUED || request->state == SP_REQUEST_LEASED)
        sp_dispatch_arm(request);
}

void sp_request_set_options(sp_request *request, uint32_t top_k, sp_decode decode)
{
    request->shared->top_k = top_k || request->task == SP_TASK_DETECT ? top_k : 5;
    request->shared->flags = (request->shared->flags & ~(SP_SLOT_DECODE_FAST | SP_SLOT_DECODE_NVJPEG)) | decode_flags(decode);
}

void sp_request_set_detect(sp_request *request, float threshold, float iou)
{
    request->shared->threshold = threshold;
    request->shared->iou = iou;
}

sp_status sp_request_set_media(sp_request *request, int fd, uint64_t size_bytes, const uint8_t key[32], sp_error *reterr)
{
    SP_ASSERT(request->state == SP_REQUEST_FILLING && sp_request_is_of_video(request));
    int own = -1;
    /* Opened anew it is read-only whatever the caller's is; where /proc is closed, or the file may not be opened, it is the same. */
    if (sp_shm_reopen_read_only(fd, &own, NULL))
        own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "no descriptor for the media file");
    sp_fd_closep(&request->media_fd);
    request->media_fd = own;
    memcpy(request->media_key, key, sizeof(request->media_key));
    request->shared->media_bytes = size_bytes;
    request->shared->media_serial = ++request->house->next_serial;
    return SP_OK;
}

uint32_t sp_request_progress(const sp_request *request)
{
    for (int i = 0; request->state == SP_REQUEST_LEASED && i < request->live_count; i++) {
        const sp_worker *worker = &request->house->workers[request->live_workers[i]];
        sp_worker_page *page = worker->page; /* a const atomic cannot be loaded */
        uint64_t told = page ? atomic_load_explicit(&page->progress[request->slot], memory_order_relaxed) : 0;
        if (worker->leases[request->slot].op == SP_OP_ANALYZE && (uint32_t)(told >> 32) == worker->leases[request->slot].number)
            return (uint32_t)told;
    }
    return 0;
}

int sp_request_take_output(sp_request *request)
{
    int fd = request->answer.output_fd;
    request->answer.output_fd = -1;
    return fd;
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

sp_status sp_request_adopt_body(sp_request *request, uint64_t size_bytes, sp_error *reterr)
{
    sp_house *house = request->house;
    struct stat st;
    if (request->output_fd < 0 || fstat(request->output_fd, &st) < 0 || (uint64_t)st.st_size < size_bytes)
        return SP_FAIL(reterr, SP_INTERNAL, "fewer bytes were fetched than was said");
    if (!size_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "empty_body", "nothing lies at that URL");
    if (size_bytes > request->shared->fetch_limit_bytes)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "more than the %llu bytes allowed lie at that URL",
                            (unsigned long long)request->shared->fetch_limit_bytes);
    if (house->body_bytes_held + size_bytes > house->config.bodies_limit_bytes)
        return SP_FAIL_CODE(reterr, SP_BUSY, "bodies", "%llu MiB of bodies are being held already; come back in 1 s",
                            (unsigned long long)(house->body_bytes_held >> 20));
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL; /* whoever fetched it cannot change it any more */
    if (fcntl(request->output_fd, F_ADD_SEALS, seals) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "sealing what was fetched");
    void *memory = mmap(NULL, size_bytes, PROT_READ, MAP_SHARED, request->output_fd, 0);
    if (memory == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "mapping %llu fetched bytes", (unsigned long long)size_bytes);
    drop_body(request);
    request->body = memory;
    request->body_bytes = request->body_capacity = size_bytes;
    request->body_fd = request->output_fd;
    request->output_fd = -1;
    request->hashed = false;
    house->body_bytes_held += size_bytes;
    sp_slot_request *shared = request->shared;
    shared->body_bytes = shared->payload_bytes = size_bytes;
    shared->payload_offset = 0;
    shared->body_in_memfd = 1;
    shared->body_memfd_serial = ++house->next_serial;
    return SP_OK;
}

sp_status sp_request_adopt_file(sp_request *request, uint64_t size_bytes, sp_error *reterr)
{
    struct stat st;
    if (fstat(request->fetch_fd, &st) < 0 || (uint64_t)st.st_size != size_bytes || !size_bytes)
        return SP_FAIL(reterr, SP_INTERNAL, "what was fetched is not as long as was said");
    if (size_bytes > request->shared->fetch_limit_bytes)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "more than the %llu bytes allowed lie at that URL",
                            (unsigned long long)request->shared->fetch_limit_bytes);
    request->answer.output_bytes = size_bytes;
    return SP_OK;
}

sp_status sp_request_adopt_report(sp_request *request, uint64_t size_bytes, sp_error *reterr)
{
    struct stat st;
    if (request->output_fd < 0 || !size_bytes || fstat(request->output_fd, &st) < 0 || (uint64_t)st.st_size != size_bytes)
        return SP_FAIL(reterr, SP_INTERNAL, "the report is not as long as was said");
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL; /* whoever wrote it cannot change it any more */
    if (fcntl(request->output_fd, F_ADD_SEALS, seals) < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "sealing the report");
    request->answer.output_fd = request->output_fd;
    request->output_fd = -1;
    request->answer.output_bytes = size_bytes;
    return SP_OK;
}

/* --- submit, answer, close -------------------------------------------------------------------------------------- */

/* The body is complete: nobody changes it any more. */
static void seal_body(sp_request *request, sp_request_done_fn *done, void *context)
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
    request->house->active[request->task]++;
}

void sp_request_submit(sp_request *request, sp_request_done_fn *done, void *context)
{
    seal_body(request, done, context);
    sp_dispatch_submit(request);
}

sp_status sp_request_hand_over(sp_request *request, sp_worker *worker, sp_op op, sp_request_done_fn *done, void *context,
                               sp_error *reterr)
{
    seal_body(request, done, context);
    request->op = op;
    request->queued_ns = sp_clock_now_ns();
    sp_status s = sp_lease_give(worker, request, -1, -1, false, reterr);
    if (s)
        request->house->active[request->task]--;
    else
        sp_dispatch_arm(request);
    return s;
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
    sp_text_copy(attempt->link, sizeof(attempt->link), link);
    sp_text_copy(attempt->reason, sizeof(attempt->reason), reason);
    return attempt;
}

static void settle(sp_request *request, sp_status status)
{
    SP_ASSERT(!request->in_queue && request->state != SP_REQUEST_DONE && request->state != SP_REQUEST_CLOSED);
    SP_ASSERT(!request->live_count);
    sp_loop_timer_clear(request->house->loop, &request->timer);
    request->state = SP_REQUEST_DONE;
    request->house->active[request->task]--;
    if (!request->ends_unpacked) /* whoever goes on with what was unpacked needs the model until it closes this */
        sp_loaded_leave(request);
    request->answer.status = status;
    request->answer.total_ns = sp_clock_now_ns() - request->answer.received_ns;
    if (request->shared->flags & SP_SLOT_DECODE_FAST)
        request->answer.decode = SP_DECODE_FAST; /* NVJPEG is known when its lease is back */
}

void sp_request_answer_now(sp_request *request)
{
    settle(request, SP_OK);
    request->done(request, &request->answer, request->context);
}

void sp_request_answer(sp_request *request, sp_status status)
{
    settle(request, status);
    if (!request->answer.retry_after_s && (status == SP_BUSY || status == SP_UNAVAILABLE || status == SP_NOMEM))
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
    if (request->state != SP_REQUEST_CLOSED || request->leases_out || request->guard.held)
        return;
    sp_house *house = request->house;
    drop_body(request);
    if (request->fetch_fd >= 0) /* the output is that file: not for the slot's next request */
        sp_fd_closep(&request->output_fd);
    sp_fd_closep(&request->fetch_fd);
    sp_fd_closep(&request->media_fd);
    sp_fd_closep(&request->answer.output_fd); /* nobody took the report */
    struct stat st;
    if (request->output_fd >= 0 && (fstat(request->output_fd, &st) < 0 || st.st_size > SP_OUTPUT_KEEP_BYTES)) {
        sp_fd_closep(&request->output_fd);
        for (int i = 0; i < house->worker_count; i++)
            house->workers[i].output_serials[request->slot] = 0;
    }
    sp_snapshot_unref(house, request->snapshot);
    request->snapshot = NULL;
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
    sp_loaded_leave(request);
    request->house->open_count--;
    request->state = SP_REQUEST_CLOSED;
    if (request->guard.sampled && sp_guard_hold(request))
        return;
    sp_request_recycle_if_done(request);
}

void sp_request_cancel(sp_request *request)
{
    if (request->state == SP_REQUEST_QUEUED || request->state == SP_REQUEST_LEASED) {
        sp_dispatch_withdraw(request);
        sp_loop_timer_clear(request->house->loop, &request->timer);
        request->house->active[request->task]--;
        request->state = SP_REQUEST_DONE;
    }
    sp_request_close(request);
}
