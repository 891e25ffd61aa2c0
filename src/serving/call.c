/* SPDX-License-Identifier: Apache-2.0
 * One inference, the same for every front end. Its way:
 *
 *   OPEN ──submit──> [READING: shared inputs into the slot] -> [ASKING: the answer cache] -> [HELD: until its sequence has begun]
 *        -> RUNNING: the house, or a course through it (course.h) -> [WRITING: shared outputs] -> done -> OVER
 *
 * Steps in brackets are taken where they apply. What is large is read, hashed and written on the store thread; a call that is
 * cancelled then waits for it, without its client. */
#include "base/clock.h"
#include "serving/course.h"

#include <stdio.h>
#include <stdlib.h>

typedef enum call_state { OPEN, READING, ASKING, HELD, RUNNING, WRITING, FAILING, OVER } call_state;

typedef struct call_input { /* in shared memory */
    int index;              /* of the head's inputs */
    sp_region *region;
    uint64_t offset;
} call_input;

typedef struct call_output {
    uint16_t port;
    sp_region *region; /* NULL = not in shared memory */
    uint64_t offset, limit_bytes;
} call_output;

/* Copies of what the house lends for the length of a callback only. */
typedef struct call_late {
    sp_answer answer;
    sp_infer_answer infer;
    sp_infer_step steps[SP_LIMIT_ENSEMBLE_STEPS];
} call_late;

struct sp_call {
    sp_store_work work; /* first */
    sp_serving *serving;
    sp_serving_parts *parts;
    sp_served *served;
    sp_request *request;
    sp_course *course; /* spread ensembles */
    call_state state;
    bool local, grpc;
    bool delivering, kept, closing, abandoned;
    bool reads, hashes;   /* what the store thread is to do */
    bool remembered;      /* its answer is to be kept under `key` */
    bool sequenced, pending;
    sp_call_done_fn *done;
    void *context;
    char id[SP_LIMIT_KSERVE_NAME_BYTES];
    int64_t begun_ns, asked_ns, lookup_ns;
    uint32_t rows;
    int input_count, output_count;
    call_input inputs[SP_INFER_PORTS];
    call_output outputs[SP_INFER_PORTS];
    sp_sequence_key sequence;
    bool start, end;
    sp_sequence_waiter waiter;
    sp_cache_key key;
    uint8_t *cached; /* a value of the cache, copied */
    call_late *late;
    sp_answer_memory *memory;
    sp_error error;
    sp_timer timer;
};

static void finish(sp_call *call, const sp_answer *answer);
static sp_status go_on(sp_call *call, sp_error *reterr);

/* --- beginning and end ------------------------------------------------------------------------------------------------ */

/* All that it has but its own memory. */
static void call_strip(sp_call *call)
{
    for (int i = 0; i < call->input_count; i++)
        sp_region_unref(call->inputs[i].region);
    for (int i = 0; i < call->output_count; i++)
        sp_region_unref(call->outputs[i].region);
    sp_loop_timer_clear(call->parts->loop, &call->timer);
    sp_sequence_leave(call->parts->sequences, &call->waiter);
    if (call->course)
        sp_course_free(call->course, call->request);
    else if (call->request)
        sp_request_close(call->request);
    sp_answer_memory_unref(call->memory);
    sp_served_unref(call->served);
    free(call->cached);
    free(call->late);
}

static void call_free(sp_call *call)
{
    call_strip(call);
    free(call);
}

static void pending_end(sp_call *call)
{
    call->served->stats.pending -= call->pending;
    call->pending = false;
}

static void sequence_end(sp_call *call, sp_status status, const sp_error *err, sp_pin pin)
{
    bool lost = status == SP_UNAVAILABLE && err && strcmp(err->code, "sequence_lost") == 0;
    if (call->sequenced)
        sp_sequence_done(call->parts->sequences, &call->sequence, call->start, call->end, status == SP_OK, lost, pin);
    call->sequenced = false;
}

static sp_status unpacked(sp_request *request, sp_view header, uint64_t tensor_bytes, void *context, sp_error *reterr);

sp_status sp_call_open(sp_serving *serving, const sp_call_params *params, sp_call **ret_call, int *ret_retry_after_s,
                       sp_error *reterr)
{
    sp_served *served = NULL;
    sp_status s = sp_serving_find(serving, params->model, params->version, &served, reterr);
    if (s)
        return s;
    sp_call *call = calloc(1, sizeof(*call));
    if (!call)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an inference");
    call->serving = serving;
    call->parts = sp_serving_parts_of(serving);
    call->served = sp_served_ref(served);
    call->local = params->local || call->parts->shared_memory_anywhere;
    sp_request_params request = params->request;
    request.task = SP_TASK_INFER;
    request.model_id = served->id;
    request.unpacked = unpacked;
    request.unpacked_context = call;
    s = sp_request_open(call->parts->house, &request, &call->request, ret_retry_after_s, reterr);
    if (s) {
        call_free(call);
        return s;
    }
    *ret_call = call;
    return SP_OK;
}

const sp_served *sp_call_served(const sp_call *call)
{
    return call->served;
}

sp_request *sp_call_request(sp_call *call)
{
    return call->request;
}

void sp_call_keep(sp_call *call)
{
    call->kept = true;
}

void sp_call_close(sp_call *call)
{
    if (!call)
        return;
    if (call->delivering)
        call->closing = true;
    else
        sp_call_cancel(call);
}

void sp_call_cancel(sp_call *call)
{
    if (!call)
        return;
    if (call->delivering) {
        call->closing = true;
        return;
    }
    if (call->state != OPEN && call->state != OVER)
        sp_served_stats_failure(call->served, SP_CANCELLED, sp_clock_now_ns() - call->begun_ns);
    pending_end(call);
    if (call->state == RUNNING && !call->course)
        sp_request_cancel(SP_STEAL(call->request));
    sequence_end(call, SP_CANCELLED, NULL, (sp_pin){ 0 });
    call->abandoned = true;
    if (call->state == ASKING)
        call_strip(call); /* the cache's reply may come when nothing else is left of us */
    else if (call->state != READING && call->state != WRITING) /* whoever works on it is still to come back */
        call_free(call);
}

/* --- the body ------------------------------------------------------------------------------------------------------------ */

void *sp_call_room(void *context, size_t bytes, sp_error *reterr)
{
    sp_serving_parts *parts = ((sp_call *)context)->parts;
    if (bytes > parts->room_bytes) {
        uint8_t *room = aligned_alloc(64, SP_ALIGN_UP(bytes, (size_t)4096));
        if (!room) {
            (void)SP_FAIL(reterr, SP_NOMEM, "no memory for a tensor of %zu bytes", bytes);
            return NULL;
        }
        free(parts->room);
        parts->room = room;
        parts->room_bytes = SP_ALIGN_UP(bytes, (size_t)4096);
    }
    static uint8_t nothing[8];
    return bytes ? parts->room : nothing;
}

/* A body without room for it is found out when it is checked: the tensor then lies beyond its end. */
uint64_t sp_call_room_used(void *context, const void *room, size_t bytes)
{
    sp_call *call = context;
    void *place = sp_request_room(call->request, bytes, NULL);
    if (!place)
        return UINT64_MAX / 2;
    if (bytes)
        memcpy(place, room, bytes);
    return (uint64_t)((const uint8_t *)place - sp_request_body(call->request).data);
}

/* --- what was asked -------------------------------------------------------------------------------------------------------- */

static sp_status local_check(const sp_call *call, sp_error *reterr)
{
    if (call->local)
        return SP_OK;
    return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "shared_memory_remote",
                        "shared memory is for clients on this machine; configure shared_memory_anywhere to allow it for others");
}

static sp_status outputs_take(sp_call *call, const sp_kserve_request *named, const sp_infer_head *head,
                              const int16_t which[SP_INFER_PORTS], sp_error *reterr)
{
    for (int i = 0; i < head->wish_count; i++) {
        call_output *out = &call->outputs[call->output_count++];
        *out = (call_output){ .port = head->wishes[i].port };
        const sp_kserve_output *asked = which[i] >= 0 ? &named->outputs[which[i]] : NULL;
        if (!asked || !asked->shared)
            continue;
        sp_status s = local_check(call, reterr);
        if (!s)
            s = sp_region_find(call->parts, asked->region, asked->offset, asked->bytes, &out->region, reterr);
        if (s)
            return s;
        out->offset = asked->offset;
        out->limit_bytes = asked->bytes;
    }
    return SP_OK;
}

static sp_status shared_inputs_take(sp_call *call, const sp_kserve_request *named, sp_infer_head *head, sp_error *reterr)
{
    uint64_t total = 0;
    for (int i = 0; i < named->input_count; i++) {
        const sp_kserve_input *in = &named->inputs[i];
        if (in->place != SP_PLACE_SHARED)
            continue;
        call_input *shared = &call->inputs[call->input_count];
        sp_status s = local_check(call, reterr);
        if (!s)
            s = sp_region_find(call->parts, in->region, in->offset, in->bytes, &shared->region, reterr);
        if (s)
            return s;
        call->input_count++;
        shared->index = i;
        shared->offset = in->offset;
        sp_error err = { 0 };
        const uint8_t *place = sp_request_room(call->request, in->bytes, &err);
        if (!place) {
            if (reterr)
                *reterr = err;
            return err.status;
        }
        head->inputs[i].in_output = 0;
        head->inputs[i].offset = (uint64_t)(place - sp_request_body(call->request).data);
        total += in->bytes;
        call->reads = true;
    }
    call->hashes = false;
    return total > SP_LIMIT_BODIES_BYTES ? SP_FAIL(reterr, SP_TOO_LARGE, "the inputs in shared memory are too large") : SP_OK;
}

static void note_rows(sp_call *call, const sp_infer_head *head)
{
    bool batch = call->served->card->config.max_batch_size > 0 && head->input_count && head->inputs[0].rank;
    call->rows = batch ? (uint32_t)SP_CLAMP(head->inputs[0].dims[0], (int64_t)1, (int64_t)INT32_MAX) : 1;
}

static void note_sequence(sp_call *call, const sp_infer_head *head)
{
    const sp_model_config *config = &call->served->card->config;
    call->sequenced = head->sequence_id && (config->sequence.strategy != SP_SEQUENCE_NONE || config->is_ensemble);
    call->start = head->flags & SP_INFER_SEQUENCE_START;
    call->end = head->flags & SP_INFER_SEQUENCE_END;
    call->sequence = (sp_sequence_key){ .model = call->served->id, .id = head->sequence_id };
    memcpy(call->sequence.text, head->sequence_text, sizeof(call->sequence.text));
}

/* Is input `port` what an ensemble's spillway/preprocess decodes? */
static bool is_picture(const sp_model_config *config, int port)
{
    for (int i = 0; i < config->step_count; i++) {
        const sp_ensemble_step *step = &config->steps[i];
        if (strcmp(step->model, "spillway/preprocess") == 0 && step->input_count == 1 &&
            strcmp(step->inputs[0].value, config->inputs[port].name) == 0)
            return config->inputs[port].dtype == SP_DTYPE_BYTES;
    }
    return false;
}

/* One BYTES element that is a picture's file: a codec worker decodes it, device workers never do. */
static sp_status note_picture(sp_call *call, const sp_infer_head *head, sp_error *reterr)
{
    const sp_model_config *config = &call->served->card->config;
    for (int i = 0; i < head->input_count && config->is_ensemble; i++) {
        const sp_infer_tensor *tensor = &head->inputs[i];
        int64_t elements = 1;
        if (!is_picture(config, tensor->port))
            continue;
        for (int d = 0; d < tensor->rank && elements == 1; d++)
            elements = tensor->dims[d];
        if (elements != 1 || tensor->bytes <= sizeof(uint32_t))
            return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s' takes one picture a request, as one BYTES element",
                           config->inputs[tensor->port].name, config->name);
        if (tensor->in_output)
            return SP_FAIL(reterr, SP_INVALID, "input '%s' of '%s' is a picture: send it as a binary tensor, in a body without "
                                               "compression", config->inputs[tensor->port].name, config->name);
        sp_request_set_picture(call->request, tensor->offset + sizeof(uint32_t), tensor->bytes - sizeof(uint32_t));
        return SP_OK;
    }
    return SP_OK;
}

static sp_status take(sp_call *call, const sp_kserve_request *named, const sp_check *how, sp_error *reterr)
{
    int16_t which[SP_INFER_PORTS];
    sp_infer_head *head = sp_request_infer_head(call->request);
    memcpy(call->id, named->id, sizeof(call->id));
    sp_status s = sp_call_check(call->served, named, how, head, which, reterr);
    if (!s)
        s = outputs_take(call, named, head, which, reterr);
    if (s)
        return s;
    note_rows(call, head);
    note_sequence(call, head);
    return note_picture(call, head, reterr);
}

/* From the house, when a codec has unpacked the body. */
static sp_status unpacked(sp_request *request, sp_view header, uint64_t tensor_bytes, void *context, sp_error *reterr)
{
    static sp_kserve_request named; /* 40 KiB; the loop's thread only */
    sp_call *call = context;
    const sp_check how = { .in_output = true, .raw_only = call->grpc };
    sp_pin pin;
    sp_status s = sp_kserve_request_parse(header, tensor_bytes, NULL, &named, reterr);
    for (int i = 0; !s && i < named.input_count; i++) {
        if (named.inputs[i].place == SP_PLACE_SHARED)
            s = SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "shared_memory_unpacked",
                             "an input in shared memory does not go together with a compressed body or with JSON over %u bytes",
                             SP_LIMIT_KSERVE_HEADER_BYTES);
    }
    if (!s)
        s = take(call, &named, &how, reterr);
    if (!s && call->served->spread)
        sp_request_end_unpacked(request);
    if (s || !call->sequenced)
        return s;
    if (sp_sequence_begin(call->parts->sequences, &call->sequence, call->start, &call->waiter, &pin) == SP_SEQUENCE_WAIT) {
        sp_sequence_leave(call->parts->sequences, &call->waiter);
        call->sequenced = false;
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "sequence_starting",
                            "the first request of this sequence has not been answered yet; send the next one after it");
    }
    sp_request_set_pin(request, pin);
    return SP_OK;
}

/* --- steps before the house --------------------------------------------------------------------------------------------------- */

static uint8_t *body_of(const sp_call *call, uint64_t offset)
{
    return (uint8_t *)(uintptr_t)(sp_request_body(call->request).data + offset); /* made by sp_request_room for us to write */
}

static sp_status shared_read(sp_call *call, sp_error *reterr)
{
    sp_infer_head *head = sp_request_infer_head(call->request);
    for (int i = 0; i < call->input_count; i++) {
        const call_input *in = &call->inputs[i];
        sp_infer_tensor *tensor = &head->inputs[in->index];
        sp_status s = sp_region_read(in->region, in->offset, body_of(call, tensor->offset), tensor->bytes, reterr);
        if (s)
            return s;
        if (tensor->dtype != SP_DTYPE_BYTES || tensor->bytes > SP_SERVING_HASH_INLINE_BYTES)
            continue;
        uint64_t count = 1;
        for (int d = 0; d < tensor->rank; d++)
            count *= (uint64_t)tensor->dims[d]; /* sp_call_check has seen that it fits */
        s = sp_call_check_strings(call->served->card->config.inputs[tensor->port].name, call->served->name,
                                  body_of(call, tensor->offset), tensor->bytes, count, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static sp_status hash(sp_call *call)
{
    return sp_remember_key(call->served, sp_request_infer_head(call->request), sp_request_body(call->request), &call->key);
}

static void fail_later_fire(sp_timer *timer, void *context)
{
    (void)timer;
    sp_answer answer = { .status = ((sp_call *)context)->error.status };
    answer.error = ((sp_call *)context)->error;
    finish(context, &answer);
}

/* From a place where `done` must not be called. */
static void fail_later(sp_call *call, const sp_error *err)
{
    call->error = *err;
    call->state = FAILING;
    call->timer = (sp_timer){ .fire = fail_later_fire, .context = call };
    if (sp_loop_timer_set(call->parts->loop, &call->timer, sp_loop_now_ns(call->parts->loop), NULL))
        fail_later_fire(&call->timer, call);
}

static void work_run(sp_store_work *work)
{
    sp_call *call = (sp_call *)work;
    if (call->state == WRITING) {
        const sp_answer *answer = &call->late->answer;
        for (int i = 0; !work->status && i < call->output_count; i++) {
            const call_output *out = &call->outputs[i];
            for (uint32_t k = 0; out->region && !work->status && k < answer->infer->count; k++) {
                const sp_infer_output *o = &answer->infer->outputs[k];
                if (o->port == out->port)
                    work->status = sp_region_write(out->region, out->offset, answer->infer_data + o->offset, o->bytes, &work->error);
            }
        }
        return;
    }
    if (call->reads)
        work->status = shared_read(call, &work->error);
    if (!work->status && call->hashes && hash(call))
        call->remembered = false;
}

static void work_done(sp_store_work *work)
{
    sp_call *call = (sp_call *)work;
    sp_error err = { 0 };
    if (call->abandoned) {
        call_free(call);
        return;
    }
    if (call->state == WRITING) {
        call->late->answer.status = work->status;
        if (work->status)
            call->late->answer.error = work->error;
        finish(call, &call->late->answer);
        return;
    }
    call->reads = call->hashes = false;
    sp_status s = work->status;
    if (s)
        err = work->error;
    else
        s = go_on(call, &err);
    if (s)
        fail_later(call, &err);
}

static void sequence_again(sp_sequence_waiter *waiter)
{
    sp_call *call = (sp_call *)((char *)waiter - offsetof(sp_call, waiter));
    sp_error err = { 0 };
    if (go_on(call, &err))
        fail_later(call, &err);
}

static void course_done(const sp_answer *answer, void *context)
{
    finish(context, answer);
}

static sp_status course_begin(sp_call *call, sp_error *reterr)
{
    return sp_course_begin(call->serving, call->served, call->request, course_done, call, &call->course, reterr);
}

static void house_done(sp_request *request, const sp_answer *answer, void *context)
{
    sp_call *call = context;
    sp_error err = { 0 };
    (void)request;
    if (answer->status || !call->served->spread)
        finish(call, answer);
    else if (course_begin(call, &err)) /* it was only unpacked */
        fail_later(call, &err);
}

static void hit(sp_call *call, sp_view value)
{
    static sp_answer answer; /* zeroes where it counts; the loop's thread only */
    sp_infer_answer infer;
    const uint8_t *data = NULL;
    uint8_t *copy = malloc(SP_MAX(value.size_bytes, (size_t)1));
    answer.status = SP_OK;
    if (copy) {
        memcpy(copy, value.data, value.size_bytes);
        call->cached = copy;
    }
    if (!copy || !sp_remember_read(sp_view_make(copy, value.size_bytes), &infer, &data)) {
        answer.status = SP_FAIL(&answer.error, SP_NOMEM, "no memory for a cached answer");
    } else {
        call->lookup_ns = sp_clock_now_ns() - call->asked_ns;
        answer.infer = &infer;
        answer.infer_data = data;
    }
    finish(call, &answer);
}

static void hit_fire(sp_timer *timer, void *context)
{
    (void)timer;
    sp_call *call = context;
    sp_view value;
    sp_error err = { 0 };
    if (sp_cache_look(call->parts->cache, &call->key, sp_clock_now_ns(), &value)) {
        hit(call, value);
        return;
    }
    call->hashes = false; /* gone in this very moment */
    call->state = OPEN;
    sp_status s = go_on(call, &err);
    if (s)
        fail_later(call, &err);
}

static void missed(sp_call *call)
{
    call->lookup_ns = sp_clock_now_ns() - call->asked_ns;
    call->asked_ns = -1;
}

static void cache_replied(sp_view value, void *context)
{
    sp_call *call = context;
    sp_infer_answer infer;
    const uint8_t *data = NULL;
    sp_error err = { 0 };
    if (call->abandoned) {
        free(call);
        return;
    }
    if (value.size_bytes && sp_remember_read(value, &infer, &data)) {
        hit(call, value);
        return;
    }
    missed(call);
    if (go_on(call, &err))
        fail_later(call, &err);
}

/* True: the answer, or the cache's word, comes later. */
static bool cache_ask(sp_call *call)
{
    sp_view value;
    sp_infer_answer infer;
    const uint8_t *data;
    call->asked_ns = sp_clock_now_ns();
    if (sp_cache_look(call->parts->cache, &call->key, call->asked_ns, &value) && sp_remember_read(value, &infer, &data)) {
        call->state = FAILING; /* no: it will be there in the next turn, but it is a timer that is waited for as well */
        call->timer = (sp_timer){ .fire = hit_fire, .context = call };
        if (!sp_loop_timer_set(call->parts->loop, &call->timer, sp_loop_now_ns(call->parts->loop), NULL))
            return true;
    } else if (sp_cache_ask(call->parts->cache, &call->key, cache_replied, call)) {
        call->state = ASKING;
        return true;
    }
    missed(call);
    return false;
}

/* One step after the other; returns when one of them is waited for. An error: nothing will come of itself. */
static sp_status go_on(sp_call *call, sp_error *reterr)
{
    sp_pin pin = { 0 };
    if (call->reads || call->hashes) {
        uint64_t bytes = sp_request_body(call->request).size_bytes;
        if (bytes > (call->hashes ? SP_SERVING_HASH_INLINE_BYTES : SP_SERVING_INLINE_BYTES)) {
            call->work = (sp_store_work){ .run = work_run, .done = work_done };
            call->state = READING;
            sp_status s = sp_serving_store(call->parts, &call->work, reterr);
            if (s)
                call->state = OPEN;
            return s;
        }
        sp_status s = call->reads ? shared_read(call, reterr) : SP_OK;
        if (s)
            return s;
        if (call->hashes && hash(call))
            call->remembered = false;
        call->reads = call->hashes = false;
    }
    if (call->remembered && !call->asked_ns && cache_ask(call))
        return SP_OK;
    if (call->sequenced) {
        call->waiter.again = sequence_again;
        if (sp_sequence_begin(call->parts->sequences, &call->sequence, call->start, &call->waiter, &pin) == SP_SEQUENCE_WAIT) {
            call->state = HELD;
            return SP_OK;
        }
        sp_request_set_pin(call->request, pin);
    }
    call->state = RUNNING;
    if (call->served->spread) {
        sp_status s = course_begin(call, reterr);
        call->state = s ? OPEN : RUNNING;
        return s;
    }
    sp_request_submit(call->request, house_done, call);
    return SP_OK;
}

sp_status sp_call_submit(sp_call *call, const sp_call_body *body, sp_call_done_fn *done, void *context, sp_error *reterr)
{
    call->done = done;
    call->context = context;
    call->grpc = body->grpc;
    call->begun_ns = sp_clock_now_ns();
    if (!body->named) {
        sp_request_set_unpack(call->request, body->encoding, body->header_bytes);
        call->state = RUNNING;
        call->pending = true;
        call->served->stats.pending++;
        sp_request_submit(call->request, house_done, call);
        return SP_OK;
    }
    const sp_check how = { .raw_only = body->grpc, .binary_base = body->binary_base, .body = sp_request_body(call->request) };
    sp_status s = take(call, body->named, &how, reterr);
    if (!s)
        s = shared_inputs_take(call, body->named, sp_request_infer_head(call->request), reterr);
    if (s)
        return s;
    call->remembered = call->hashes = call->parts->cache && call->served->card->config.response_cache && !call->sequenced;
    call->pending = true;
    call->served->stats.pending++;
    s = go_on(call, reterr);
    if (s)
        pending_end(call);
    return s;
}

/* --- the answer ------------------------------------------------------------------------------------------------------------------ */

static const call_output *output_of(const sp_call *call, uint16_t port)
{
    for (int i = 0; i < call->output_count; i++) {
        if (call->outputs[i].port == port)
            return &call->outputs[i];
    }
    return NULL;
}

/* Its numbers were checked by the house; its ports are ours to check. */
static sp_status outputs_check(const sp_call *call, const sp_answer *answer, sp_error *reterr)
{
    for (uint32_t i = 0; i < answer->infer->count; i++) {
        const sp_infer_output *o = &answer->infer->outputs[i];
        const call_output *asked = output_of(call, o->port);
        if (!asked)
            return SP_FAIL(reterr, SP_INTERNAL, "model '%.60s' answered an output that was not asked for", call->served->name);
        if (asked->region && o->bytes > asked->limit_bytes)
            return SP_FAIL(reterr, SP_INVALID,
                           "shared memory size specified with the request for output '%.60s' (%llu bytes) should be at least %llu "
                           "bytes to hold the results",
                           call->served->card->config.outputs[o->port].name, (unsigned long long)asked->limit_bytes,
                           (unsigned long long)o->bytes);
    }
    return SP_OK;
}

/* Bytes that go to shared memory. */
static uint64_t shared_bytes(const sp_call *call, const sp_answer *answer)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < answer->infer->count; i++) {
        const call_output *asked = output_of(call, answer->infer->outputs[i].port);
        if (asked && asked->region)
            bytes += answer->infer->outputs[i].bytes;
    }
    return bytes;
}

/* To the store thread with a copy of what must outlive this callback. False: then it is done here. */
static bool write_later(sp_call *call, const sp_answer *answer)
{
    call->late = malloc(sizeof(*call->late));
    if (!call->late)
        return false;
    call_late *late = call->late;
    late->answer = *answer;
    memcpy(&late->infer, answer->infer, offsetof(sp_infer_answer, outputs) + answer->infer->count * sizeof(sp_infer_output));
    late->answer.infer = &late->infer;
    late->answer.step_count = SP_MIN(answer->step_count, SP_LIMIT_ENSEMBLE_STEPS);
    if (late->answer.step_count)
        memcpy(late->steps, answer->steps, (size_t)late->answer.step_count * sizeof(late->steps[0]));
    late->answer.steps = late->steps;
    if (answer->memory)
        call->memory = sp_answer_memory_ref(answer->memory);
    call->work = (sp_store_work){ .run = work_run, .done = work_done };
    call->state = WRITING;
    return sp_serving_store(call->parts, &call->work, NULL) == SP_OK;
}

static sp_status write_now(sp_call *call, const sp_answer *answer, sp_error *reterr)
{
    for (uint32_t i = 0; i < answer->infer->count; i++) {
        const sp_infer_output *o = &answer->infer->outputs[i];
        const call_output *asked = output_of(call, o->port);
        if (!asked->region)
            continue;
        sp_status s = sp_region_write(asked->region, asked->offset, answer->infer_data + o->offset, o->bytes, reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static void result_fill(const sp_call *call, const sp_answer *answer, sp_call_result *result)
{
    const sp_model_config *config = &call->served->card->config;
    for (uint32_t i = 0; i < answer->infer->count; i++) {
        const sp_infer_output *o = &answer->infer->outputs[i];
        const call_output *asked = output_of(call, o->port);
        sp_call_output *out = &result->outputs[result->output_count++];
        *out = (sp_call_output){
            .name = config->outputs[o->port].name,
            .dtype = o->dtype,
            .rank = o->rank,
            .dims = o->dims,
            .json = o->form == SP_FORM_JSON,
        };
        if (asked->region) {
            out->shared = true;
            out->region = sp_region_name(asked->region);
            out->region_offset = asked->offset;
            out->region_bytes = o->bytes;
        } else {
            out->data = sp_view_make(answer->infer_data + o->offset, o->bytes);
        }
    }
}

static void remember(sp_call *call, const sp_answer *answer)
{
    sp_buf value;
    int64_t begun_ns = sp_clock_now_ns();
    sp_served_duration *miss = &call->served->stats.cache_miss;
    sp_buf_init(&value, 0);
    if (!answer->simpler && !shared_bytes(call, answer) && sp_remember_write(answer->infer, answer->infer_data, &value))
        sp_cache_put(call->parts->cache, &call->key, sp_task_name(SP_TASK_INFER), sp_buf_view(&value), begun_ns);
    sp_buf_done(&value);
    miss->count++;
    miss->ns += (uint64_t)(call->lookup_ns + sp_clock_now_ns() - begun_ns);
}

static void count(sp_call *call, const sp_answer *answer, sp_status status)
{
    int64_t total_ns = sp_clock_now_ns() - call->begun_ns;
    if (status)
        sp_served_stats_failure(call->served, status, total_ns);
    else if (call->cached)
        sp_served_stats_hit(call->served, total_ns, call->lookup_ns);
    else
        sp_served_stats_success(call->serving, call->served, answer, call->rows, total_ns);
}

static void deliver(sp_call *call, const sp_answer *answer, sp_status status, const sp_error *err)
{
    sp_call_result result;
    result.status = status;
    result.error = status ? err : NULL;
    result.retry_after_s = answer->retry_after_s;
    result.model = call->served->name;
    result.version = call->served->version_text;
    result.id = call->id;
    result.output_count = 0;
    result.cached = call->cached != NULL;
    result.answer = result.cached || !answer->attempt_count ? NULL : answer;
    if (!status)
        result_fill(call, answer, &result);
    count(call, answer, status);
    call->state = OVER;
    call->delivering = true;
    call->done(call, &result, call->context);
    call->delivering = false;
    if (call->kept && !call->closing && !call->memory && !status && answer->memory)
        call->memory = sp_answer_memory_ref(answer->memory);
    if (call->closing)
        call_free(call);
}

/* The house's word, or the cache's, or ours. */
static void finish(sp_call *call, const sp_answer *answer)
{
    sp_error err = { 0 };
    sp_status s = answer->status;
    if (s)
        err = answer->error;
    pending_end(call);
    sequence_end(call, s, &err, answer->pin);
    if (!s && call->state != WRITING) {
        s = outputs_check(call, answer, &err);
        uint64_t bytes = s ? 0 : shared_bytes(call, answer);
        if (bytes > SP_SERVING_INLINE_BYTES && !call->cached && write_later(call, answer))
            return;
        if (!s && bytes)
            s = write_now(call, answer, &err);
    }
    if (!s && call->remembered && !call->cached)
        remember(call, answer);
    deliver(call, answer, s, &err);
}
