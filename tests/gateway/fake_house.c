/* SPDX-License-Identifier: Apache-2.0
 * A house without workers, for tests of the gateway alone: same interface as route/house.h, answers scripted by the
 * first bytes of the payload.
 *
 *   SLEEP=ms        the answer comes that much later          FAIL=n,code,text  fails with sp_status n
 *   GATE...         waits until a request OPEN comes (or OPENFAIL: then it fails with UNAVAILABLE, OPENBAD: INVALID)
 *   SIMPLER...      answered by a simpler link
 *   PARAMS          noop answers what the request was opened with (tier, tenant, ...)
 *   PIXELS=...      classify answers two made-up classes      anything else     noop echoes, classify answers classes
 *   infer           output n is input n (or the first); unpacks with the codec worker's own function
 *
 * fake_submitted_total counts what was computed, fake_gated what waits at the gate. At most FAKE_SLOTS (environment, default 256) requests are open at once. */
#include "base/clock.h"
#include "base/log.h"
#include "base/event.h"
#include "base/metrics.h"
#include "kserve/json.h"
#include "route/house.h"
#include "worker/unpack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sp_house {
    sp_loop *loop;
    int open, slots;
    bool ready;
    int cancelled;
};

struct sp_request {
    sp_house *house;
    sp_task task;
    char id[SP_LIMIT_REQUEST_ID_BYTES], model[64], params[512];
    uint8_t *body;
    size_t size_bytes, capacity_bytes, limit_bytes, offset, payload_bytes;
    int64_t received_ns, deadline_ns;
    uint32_t top_k;
    sp_decode decode;
    sp_status fails;
    sp_timer timer;
    sp_request_done_fn *done;
    void *context;
    sp_infer_head head;
    bool unpack;
    sp_encoding encoding;
    uint32_t header_bytes;
    sp_status (*unpacked)(sp_request *request, sp_view header, uint64_t tensor_bytes, void *context, sp_error *reterr);
    void *unpacked_context;
    uint8_t *output;
    size_t output_bytes;
};

const char *sp_task_name(sp_task task)
{
    return task == SP_TASK_NOOP ? "noop" : task == SP_TASK_INFER ? "infer" : "classify";
}

bool sp_task_parse(const char *text, sp_task *ret_task)
{
    *ret_task = strcmp(text, "noop") == 0 ? SP_TASK_NOOP : SP_TASK_CLASSIFY;
    return strcmp(text, "noop") == 0 || strcmp(text, "classify") == 0;
}

static void answer_classes(sp_request *r, sp_answer *a)
{
    static sp_answer_classes classes;
    classes.count = r->top_k ? r->top_k : 5;
    for (uint32_t i = 0; i < classes.count; i++) {
        classes.classes[i].class_id = i;
        classes.classes[i].probability = 0.5f / (float)(i + 1);
        (void)snprintf(classes.classes[i].label, SP_LIMIT_LABEL_BYTES, "class \"%u\"", i);
    }
    a->classes = &classes;
}

#define GATED 16

static sp_request *gated[GATED];

static sp_metric *metric(sp_metric_kind kind, const char *name)
{
    return sp_metric_get(kind, name, "", "The fake house's");
}

static bool begins(const sp_request *r, const char *word)
{
    size_t n = strlen(word);
    return r->payload_bytes >= n && memcmp(r->body + r->offset, word, n) == 0;
}

static void gate_leave(const sp_request *r)
{
    for (int i = 0; i < GATED; i++) {
        if (gated[i] == r) {
            gated[i] = NULL;
            sp_metric_add(metric(SP_METRIC_GAUGE, "fake_gated"), -1);
        }
    }
}

static bool gate_enter(sp_request *r)
{
    for (int i = 0; i < GATED; i++) {
        if (!gated[i]) {
            gated[i] = r;
            sp_metric_add(metric(SP_METRIC_GAUGE, "fake_gated"), 1);
            return true;
        }
    }
    return false;
}

static void gate_open(const sp_request *opener)
{
    for (int i = 0; i < GATED; i++) {
        sp_request *r = gated[i];
        if (!r)
            continue;
        gate_leave(r);
        r->fails = begins(opener, "OPENFAIL") ? SP_UNAVAILABLE : begins(opener, "OPENBAD") ? SP_INVALID : SP_OK;
        SP_ASSERT(!sp_loop_timer_set(r->house->loop, &r->timer, sp_clock_now_ns(), NULL));
    }
}

static void answer(sp_request *r)
{
    sp_answer a = { .output_fd = -1, .batch_size = 1, .batch_run_ns = 1000000, .attempt_count = 2, .decode = r->decode };
    int64_t now = sp_clock_now_ns();
    char text[200] = "";
    a.received_ns = r->received_ns;
    a.total_ns = now - r->received_ns;
    a.attempts[0] = (sp_attempt){ .link = "codec0", .start_ns = now - 2000, .end_ns = now - 1000 };
    a.attempts[1] = (sp_attempt){ .link = "cpu0", .start_ns = now - 1000, .end_ns = now };
    (void)snprintf(text, sizeof(text), "%.*s", (int)SP_MIN(r->payload_bytes, sizeof(text) - 1),
                   (char *)r->body + r->offset);
    int status = 0, at = 0;
    char code[32] = "";
    a.simpler = begins(r, "SIMPLER");
    if (r->fails) {
        a.status = r->fails;
        (void)SP_FAIL_CODE(&a.error, a.status, "gate", "the gate said no");
    } else if (sscanf(text, "FAIL=%d,%31[a-z_],%n", &status, code, &at) == 2) {
        a.status = (sp_status)status;
        (void)SP_FAIL_CODE(&a.error, a.status, code, "%s", text + at);
        a.attempts[1].status = a.status;
        (void)snprintf(a.attempts[1].reason, sizeof(a.attempts[1].reason), "scripted");
        a.retry_after_s = status == SP_BUSY || status == SP_UNAVAILABLE ? 7 : 0;
    } else {
        (void)snprintf(a.link, sizeof(a.link), "cpu0");
        (void)snprintf(a.device, sizeof(a.device), "cpu");
        (void)snprintf(a.precision, sizeof(a.precision), "fp32");
        (void)snprintf(a.model, sizeof(a.model), "%s", *r->model ? r->model : "fake");
        if (r->task == SP_TASK_NOOP && r->payload_bytes == 6 && !memcmp(r->body + r->offset, "PARAMS", 6))
            a.payload = sp_view_of(r->params);
        else if (r->task == SP_TASK_NOOP)
            a.payload = sp_view_make(r->body + r->offset, r->payload_bytes);
        else
            answer_classes(r, &a);
    }
    r->done(r, &a, r->context);
}

/* --- infer ----------------------------------------------------------------------------------------------------------- */

struct sp_answer_memory {
    int references;
    uint8_t *bytes;
};

sp_answer_memory *sp_answer_memory_ref(sp_answer_memory *memory)
{
    memory->references++;
    return memory;
}

void sp_answer_memory_unref(sp_answer_memory *memory)
{
    if (!memory || --memory->references)
        return;
    free(memory->bytes);
    free(memory);
}

static uint8_t *grow(void *context, size_t size_bytes, sp_error *reterr)
{
    sp_request *r = context;
    (void)reterr;
    if (size_bytes > r->output_bytes) {
        r->output_bytes = 2 * size_bytes + 64;
        r->output = realloc(r->output, r->output_bytes);
    }
    return r->output;
}

static sp_status unpack(sp_request *r, sp_error *reterr)
{
    sp_buf header;
    uint64_t tensor_bytes = 0;
    sp_buf_init(&header, SP_LIMIT_KSERVE_HEADER_BYTES);
    sp_status s = sp_unpack(sp_request_body(r), r->encoding, r->header_bytes, grow, r, &header, &tensor_bytes, reterr);
    if (!s)
        s = r->unpacked(r, sp_buf_view(&header), tensor_bytes, r->unpacked_context, reterr);
    sp_buf_done(&header);
    return s;
}

static const sp_infer_tensor *input_for(const sp_infer_head *head, uint16_t port)
{
    for (int i = 0; i < head->input_count; i++) {
        if (head->inputs[i].port == port)
            return &head->inputs[i];
    }
    return head->input_count ? &head->inputs[0] : NULL;
}

static sp_status echo(sp_request *r, sp_infer_answer *infer, sp_answer_memory *memory, sp_error *reterr)
{
    size_t room = 64;
    for (int i = 0; i < r->head.wish_count; i++) {
        const sp_infer_tensor *in = input_for(&r->head, r->head.wishes[i].port);
        room += in ? in->bytes * 8 + 4096 : 0;
    }
    memory->bytes = malloc(room);
    size_t at = 0;
    for (int i = 0; i < r->head.wish_count; i++) {
        const sp_infer_wish *wish = &r->head.wishes[i];
        const sp_infer_tensor *in = input_for(&r->head, wish->port);
        sp_infer_output *out = &infer->outputs[infer->count++];
        if (!in)
            return SP_FAIL(reterr, SP_INVALID, "nothing to echo");
        const uint8_t *data = (in->in_output ? r->output : r->body) + in->offset;
        *out = (sp_infer_output){ .port = wish->port, .dtype = in->dtype, .rank = in->rank, .form = wish->form, .offset = at };
        memcpy(out->dims, in->dims, sizeof(out->dims));
        uint8_t label[4 + 8] = { 3, 0, 0, 0, '1', ':', '0' };
        size_t bytes = in->bytes;
        if (wish->classes) { /* one made-up class */
            data = label;
            bytes = 7;
            out->dtype = SP_DTYPE_BYTES;
            out->rank = 1;
            out->dims[0] = 1;
        }
        if (wish->form == SP_FORM_JSON)
            bytes = sp_kserve_data_write(out->dtype, data, bytes, (char *)memory->bytes + at, room - at);
        else if (bytes) /* an empty tensor of an empty body is nowhere */
            memcpy(memory->bytes + at, data, bytes);
        out->bytes = bytes;
        at = SP_ALIGN_UP(at + bytes, (size_t)64);
    }
    return SP_OK;
}

static void infer_answer(sp_request *r)
{
    static sp_infer_answer infer;
    sp_answer a = { .output_fd = -1, .attempt_count = 1, .pin = { 1, 1 } };
    sp_answer_memory *memory = calloc(1, sizeof(*memory));
    memory->references = 1;
    infer = (sp_infer_answer){ .batch_rows = 1, .batch_leader = 1, .queue_ns = 1000, .input_ns = 1000, .infer_ns = 5000, .output_ns = 1000 };
    a.attempts[0] = (sp_attempt){ .link = "cpu0", .start_ns = sp_clock_now_ns(), .end_ns = sp_clock_now_ns() };
    (void)snprintf(a.link, sizeof(a.link), "cpu0");
    (void)snprintf(a.device, sizeof(a.device), "cpu");
    if (r->unpack)
        a.status = unpack(r, &a.error);
    if (!a.status)
        a.status = echo(r, &infer, memory, &a.error);
    a.infer = &infer;
    a.infer_data = memory->bytes;
    a.memory = memory;
    a.received_ns = r->received_ns;
    a.total_ns = sp_clock_now_ns() - r->received_ns;
    r->done(r, &a, r->context);
    sp_answer_memory_unref(memory);
}

sp_infer_head *sp_request_infer_head(sp_request *r)
{
    return &r->head;
}

/* Nothing here is spread over workers. */
sp_status sp_request_open_beside(const sp_request *beside, uint32_t model_id, bool here, sp_request **ret_request,
                                 int *ret_retry_after_s, sp_error *reterr)
{
    (void)here;
    const sp_request_params params = { .task = SP_TASK_INFER, .model_id = model_id, .deadline_ns = beside->deadline_ns };
    return sp_request_open(beside->house, &params, ret_request, ret_retry_after_s, reterr);
}

void sp_request_end_unpacked(sp_request *request)
{
    (void)request;
}

sp_status sp_request_output_read(const sp_request *request, uint64_t offset, void *dst, size_t size_bytes, sp_error *reterr)
{
    if (offset > request->output_bytes || size_bytes > request->output_bytes - offset)
        return SP_FAIL(reterr, SP_INTERNAL, "fewer bytes were unpacked than was said");
    memcpy(dst, request->output + offset, size_bytes);
    return SP_OK;
}

int64_t sp_request_deadline(const sp_request *request)
{
    return request->deadline_ns;
}

void sp_request_set_unpack(sp_request *r, sp_encoding encoding, uint32_t header_bytes)
{
    r->unpack = true;
    r->encoding = encoding;
    r->header_bytes = header_bytes;
}

void sp_request_set_picture(sp_request *r, size_t offset, size_t size_bytes)
{
    (void)r;
    (void)offset;
    (void)size_bytes;
}

void sp_request_set_pin(sp_request *r, sp_pin pin)
{
    (void)r;
    (void)pin;
}

static void timer_fire(sp_timer *timer, void *context)
{
    sp_request *r = context;
    (void)timer;
    if (r->task == SP_TASK_INFER)
        infer_answer(r);
    else
        answer(r);
}

sp_status sp_house_new(const sp_house_config *config, sp_loop *loop, sp_house **ret_house, sp_error *reterr)
{
    (void)config;
    sp_house *house = calloc(1, sizeof(*house));
    if (!house)
        return SP_FAIL(reterr, SP_NOMEM, "no memory");
    const char *slots = getenv("FAKE_SLOTS");
    house->loop = loop;
    house->slots = slots ? (int)strtol(slots, NULL, 10) : 256;
    house->ready = !getenv("FAKE_NOT_READY");
    *ret_house = house;
    return SP_OK;
}

void sp_house_free(sp_house *house, int grace_ms)
{
    (void)grace_ms;
    SP_ASSERT(house->open == 0);
    free(house);
}

sp_status sp_request_open(sp_house *house, const sp_request_params *p, sp_request **ret_request, int *ret_retry_after_s,
                          sp_error *reterr)
{
    if (house->open >= house->slots) {
        *ret_retry_after_s = 3;
        return SP_FAIL_CODE(reterr, SP_BUSY, "no_slot", "all %d places are taken", house->slots);
    }
    if (p->model && strcmp(p->model, "missing") == 0)
        return SP_FAIL_CODE(reterr, SP_NOT_FOUND, "no_such_model", "there is no model \"%s\"", p->model);
    sp_request *r = calloc(1, sizeof(*r));
    house->open++;
    r->house = house;
    r->task = p->task;
    (void)snprintf(r->id, sizeof(r->id), "%s", p->request_id);
    (void)snprintf(r->model, sizeof(r->model), "%s", p->model ? p->model : "");
    r->limit_bytes = p->body_limit_bytes;
    r->received_ns = p->received_ns;
    r->deadline_ns = p->deadline_ns;
    r->top_k = p->top_k;
    r->decode = p->decode;
    r->unpacked = p->unpacked;
    r->unpacked_context = p->unpacked_context;
    r->head.model = p->model_id;
    const char *wish = p->header ? p->header(p->facts_context, "X-Wish") : NULL;
    const char *parameter = p->parameter ? p->parameter(p->facts_context, "wish") : NULL;
    (void)snprintf(r->params, sizeof(r->params),
                   "tier=%s tenant=%s local_only=%d force_cpu=%d priority=%d hops=%d link=%s header=%s parameter=%s",
                   p->tier ? p->tier : "", p->tenant ? p->tenant : "", p->local_only, p->force_cpu, p->priority, p->hops,
                   p->only_link ? p->only_link : "", wish ? wish : "", parameter ? parameter : "");
    *ret_request = r;
    return SP_OK;
}

sp_status sp_request_append(sp_request *r, const void *data, size_t size_bytes, sp_error *reterr)
{
    if (size_bytes > r->limit_bytes - r->size_bytes)
        return SP_FAIL_CODE(reterr, SP_TOO_LARGE, "body_too_large", "the body is larger than %zu bytes",
                            r->limit_bytes);
    if (r->size_bytes + size_bytes >= r->capacity_bytes) {
        r->capacity_bytes = SP_MAX(2 * r->capacity_bytes, r->size_bytes + size_bytes + 1);
        r->body = realloc(r->body, r->capacity_bytes);
    }
    if (size_bytes)
        memcpy(r->body + r->size_bytes, data, size_bytes);
    r->size_bytes += size_bytes;
    r->body[r->size_bytes] = 0; /* scripts are read by sscanf, which looks for the end of all it is given */
    r->payload_bytes = r->size_bytes;
    return SP_OK;
}

void *sp_request_room(sp_request *r, size_t size_bytes, sp_error *reterr)
{
    static const uint8_t zeros[8];
    size_t gap = SP_ALIGN_UP(r->size_bytes, (size_t)8) - r->size_bytes;
    uint8_t *nothing = calloc(1, size_bytes + 1);
    sp_status s = sp_request_append(r, zeros, gap, reterr);
    if (!s)
        s = sp_request_append(r, nothing, size_bytes, reterr);
    free(nothing);
    return s ? NULL : r->body + r->size_bytes - size_bytes;
}

sp_view sp_request_body(const sp_request *r)
{
    return sp_view_make(r->body, r->size_bytes);
}

void sp_request_set_payload(sp_request *r, size_t offset, size_t size_bytes)
{
    r->offset = offset;
    r->payload_bytes = size_bytes;
}

void sp_request_set_deadline(sp_request *r, int64_t deadline_ns)
{
    r->deadline_ns = deadline_ns;
}

void sp_request_extend_deadline(sp_request *r, int64_t deadline_ns)
{
    r->deadline_ns = SP_MAX(r->deadline_ns, deadline_ns);
}

void sp_request_set_options(sp_request *r, uint32_t top_k, sp_decode decode)
{
    r->top_k = top_k;
    r->decode = decode;
}

void sp_request_set_detect(sp_request *r, float threshold, float iou)
{
    (void)r;
    (void)threshold;
    (void)iou;
}

/* A body of "EVENT=kind|topic|tenant|count" emits that many events: {"i":0}, {"i":1}, ... */
static void emit_events(const sp_request *r)
{
    char kind[32], topic[80], tenant[48], text[256];
    int count = 1;
    size_t n = SP_MIN(r->payload_bytes, sizeof(text) - 1);
    if (!n)
        return; /* there may be no body to add an offset to */
    memcpy(text, r->body + r->offset, n);
    text[n] = 0;
    if (sscanf(text, "EVENT=%31[^|]|%79[^|]|%47[^|]|%d", kind, topic, tenant, &count) < 3)
        return;
    for (int i = 0; i < count; i++)
        sp_event_emit(kind, topic, strcmp(tenant, "-") == 0 ? "" : tenant, "{\"i\":%d}", i);
}

void sp_request_submit(sp_request *r, sp_request_done_fn *done, void *context)
{
    int ms = 0;
    r->done = done;
    r->context = context;
    if (r->payload_bytes > 6)
        (void)sscanf((char *)r->body + r->offset, "SLEEP=%d", &ms);
    emit_events(r);
    r->timer = (sp_timer){ .fire = timer_fire, .context = r };
    r->fails = SP_OK;
    if (begins(r, "OPEN"))
        gate_open(r);
    else
        sp_metric_add(metric(SP_METRIC_COUNTER, "fake_submitted_total"), 1);
    if (begins(r, "GATE") && gate_enter(r))
        return;
    SP_ASSERT(!sp_loop_timer_set(r->house->loop, &r->timer, sp_clock_now_ns() + ms * SP_NS_PER_MS, NULL));
}

void sp_request_cancel(sp_request *r)
{
    sp_loop_timer_clear(r->house->loop, &r->timer);
    gate_leave(r);
    r->house->cancelled++;
    sp_request_close(r);
}

void sp_request_close(sp_request *r)
{
    r->house->open--;
    free(r->output);
    free(r->body);
    free(r);
}

const char *sp_request_id(const sp_request *r)
{
    return r->id;
}

const char *sp_worker_state_name(sp_worker_state state)
{
    return state == SP_WORKER_READY ? "ready" : "starting";
}

int sp_house_worker_count(const sp_house *house)
{
    (void)house;
    return 2;
}

void sp_house_worker_info(const sp_house *house, int index, sp_worker_info *ret_info)
{
    static const sp_worker_card card = { .device = "cpu", .model = "fake", .precision = "fp32", .sandbox = "full", .digest = "00ff" };
    *ret_info = (sp_worker_info){ .name = index ? "cpu0" : "codec0",
                                  .kind = index ? "cpu" : "codec",
                                  .pid = 1,
                                  .reason = "",
                                  .state = house->ready ? SP_WORKER_READY : SP_WORKER_STARTING,
                                  .card = &card };
}

int sp_house_device_samples(const sp_house *house, sp_device_info *ret_devices, int capacity)
{
    return 0;
}

bool sp_house_ready(const sp_house *house, bool *ret_degraded)
{
    *ret_degraded = false;
    return house->ready;
}

int sp_house_open_count(const sp_house *house)
{
    return house->open;
}

int sp_house_leased_count(const sp_house *house)
{
    return house->cancelled; /* so that tests see cancellations on /healthz */
}

void sp_house_set_share(sp_house *house, sp_share_fn *share, void *context)
{
    (void)house;
    (void)share;
    (void)context;
}

int sp_house_link_count(const sp_house *house)
{
    (void)house;
    return 1;
}

void sp_house_link_info(const sp_house *house, int index, sp_link_info *ret_info)
{
    (void)house;
    (void)index;
    *ret_info = (sp_link_info){ .task = "classify", .name = "cpu0", .worker = "cpu0", .reason = "", .limit = 4 };
}

void sp_house_reload(sp_house *house, sp_config *config)
{
    (void)house;
    (void)config; /* the script knows no chains */
}

/* --- served models: this house has no worker that could run one ------------------------------------------------------ */

uint32_t sp_house_model_number(sp_house *house)
{
    (void)house;
    return 1;
}

sp_status sp_house_model_load(sp_house *house, uint32_t id, sp_view spec, int64_t timeout_ns, sp_model_loaded_fn *done,
                              void *context, sp_error *reterr)
{
    (void)house;
    (void)id;
    (void)spec;
    (void)timeout_ns;
    (void)done;
    (void)context;
    return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_link", "no worker here can run models");
}

void sp_house_model_unload(sp_house *house, uint32_t id)
{
    (void)house;
    (void)id;
}

int sp_house_model_info(const sp_house *house, uint32_t id, sp_loaded_info *ret_infos, int capacity)
{
    (void)house;
    (void)id;
    (void)ret_infos;
    (void)capacity;
    return 0;
}

bool sp_house_model_ready(const sp_house *house, uint32_t id, bool *ret_coming)
{
    (void)house;
    (void)id;
    if (ret_coming)
        *ret_coming = false;
    return false;
}

int sp_house_model_open_count(const sp_house *house, uint32_t id)
{
    (void)house;
    (void)id;
    return 0;
}

/* --- videos: this house has nobody for them ------------------------------------------------------------------------ */

sp_status sp_request_set_media(sp_request *request, int fd, uint64_t size_bytes, const uint8_t key[32], sp_error *reterr)
{
    (void)request, (void)fd, (void)size_bytes, (void)key;
    return SP_FAIL(reterr, SP_UNSUPPORTED, "the scripted house takes no videos");
}

uint32_t sp_request_progress(const sp_request *request)
{
    (void)request;
    return 0;
}

int sp_request_take_output(sp_request *request)
{
    (void)request;
    return -1;
}

const sp_config *sp_house_config_now(const sp_house *house)
{
    (void)house;
    return NULL;
}
