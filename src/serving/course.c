/* SPDX-License-Identifier: Apache-2.0
 * See course.h. The rules are those of the worker's ensembles: a step begins as soon as all that it takes is there, and the first
 * one that fails ends the request. A step that is a spread ensemble itself is a course within this one (`inner`). */
#include "serving/course.h"

#include "base/clock.h"
#include "model/ensemble.h"

#include <stdio.h>
#include <stdlib.h>

/* A step that finds no free slot asks again. */
#define AGAIN_NS (5 * SP_NS_PER_MS)

typedef struct course_value {
    bool given, unpacked; /* unpacked: at `offset` of the entry's output, else at `data` */
    uint8_t dtype, rank;
    int readers; /* steps that have not read it yet; the finish is one */
    const uint8_t *data;
    uint64_t offset, bytes;
    int64_t dims[SP_INFER_RANK];
} course_value;

typedef enum step_state { IDLE, COPYING, RUNNING, OVER } step_state;

typedef struct course_step {
    sp_store_work work; /* first */
    sp_course *course;
    int number; /* of the plan; its step_count is the finish */
    step_state state;
    sp_served *served;
    sp_request *request; /* open while somebody reads its answer */
    sp_course *inner;
    sp_answer_memory *memory;
    sp_sequence_key sequence;
    bool sequenced;
} course_step;

struct sp_course {
    sp_serving *serving;
    sp_serving_parts *parts;
    sp_served *served;
    sp_course *root;          /* itself, or the one that all inner ones belong to */
    sp_request *entry;        /* the root's */
    const sp_ensemble_plan *plan;
    sp_course_done_fn *done;
    void *context;
    course_value *values;     /* by the plan's tensor */
    course_step *steps;       /* step_count and the finish */
    uint32_t begun;           /* bits: steps */
    bool finishing, beginning, concluded;
    bool admitted;            /* the root: it does not wait for others to end */
    bool abandoned;           /* the root: freed, but for copies in hand */
    int copying;              /* the root: pieces of work that the store thread has */
    int pending;              /* steps begun and not over */
    int wish_count;
    sp_infer_wish wishes[SP_INFER_PORTS];
    sp_timer timer;
    sp_infer_step told[SP_LIMIT_ENSEMBLE_STEPS];
    int told_count;
    sp_answer answer;         /* what will be told: attempts, times and costs gather here */
    sp_infer_answer infer;
};

static void advance(sp_course *course);

/* --- the end of it ---------------------------------------------------------------------------------------------------- */

static void step_let_go(course_step *step)
{
    if (step->request)
        sp_request_close(SP_STEAL(step->request)); /* cancels it, if it is under way */
    sp_answer_memory_unref(SP_STEAL(step->memory));
    for (int i = 0; step->inner && i <= step->inner->plan->step_count; i++)
        step_let_go(&step->inner->steps[i]);
}

static void destroy(sp_course *course)
{
    for (int i = 0; course->steps && i <= course->plan->step_count; i++) {
        course_step *step = &course->steps[i];
        step_let_go(step);
        if (step->inner)
            destroy(step->inner);
        sp_served_unref(step->served);
    }
    if (course->root == course) {
        sp_request_close(course->entry);
        course->parts->course_count--;
        course->parts->courses_at_once -= course->admitted;
    }
    sp_served_unref(course->served);
    free(course->values);
    free(course->steps);
    free(course);
}

static void sequence_end(course_step *step, sp_status status, const sp_answer *answer)
{
    bool lost = answer && status == SP_UNAVAILABLE && strcmp(answer->error.code, "sequence_lost") == 0;
    const sp_infer_head *head = sp_request_infer_head(step->course->root->entry);
    if (step->sequenced)
        sp_sequence_done(step->course->parts->sequences, &step->sequence, head->flags & SP_INFER_SEQUENCE_START,
                         head->flags & SP_INFER_SEQUENCE_END, status == SP_OK, lost, answer ? answer->pin : (sp_pin){ 0 });
    step->sequenced = false;
}

static void withdraw(sp_course *course);

/* Nobody waits for it any more. */
static void give_up(sp_course *inner)
{
    inner->concluded = true;
    if (!inner->answer.status)
        inner->answer.status = SP_CANCELLED;
    withdraw(inner);
}

/* Whatever is under way ends; copies in hand are still to come back. */
static void withdraw(sp_course *course)
{
    sp_loop_timer_clear(course->parts->loop, &course->timer);
    for (int i = 0; i <= course->plan->step_count; i++) {
        course_step *step = &course->steps[i];
        if (step->state != RUNNING)
            continue;
        sequence_end(step, SP_CANCELLED, NULL);
        if (step->inner)
            give_up(step->inner);
        else
            sp_request_cancel(SP_STEAL(step->request));
        step->state = OVER;
        course->pending--;
    }
}

void sp_course_free(sp_course *course, sp_request *entry)
{
    course->entry = entry;
    withdraw(course);
    if (course->copying)
        course->abandoned = true;
    else
        destroy(course);
}

/* Nothing of it is under way any more. `done` may free it. */
static void conclude(sp_course *course)
{
    if (course->beginning || course->concluded)
        return;
    course->concluded = true;
    sp_loop_timer_clear(course->parts->loop, &course->timer);
    course->done(&course->answer, course->context);
}

static void fail(sp_course *course, sp_status status, const sp_error *err, int retry_after_s)
{
    sp_answer *answer = &course->answer;
    if (answer->status)
        return; /* the first one says why */
    answer->status = status;
    answer->error = *err;
    answer->retry_after_s = retry_after_s;
    size_t room = sizeof(answer->error.message);
    int used = snprintf(answer->error.message, room, "in ensemble '%.100s', ", course->served->name);
    (void)snprintf(answer->error.message + used, room - (size_t)used, "%.*s", (int)(room - (size_t)used) - 1, err->message);
    withdraw(course);
}

/* --- what a step takes ------------------------------------------------------------------------------------------------ */

static bool is_finish(const course_step *step)
{
    return step->number == step->course->plan->step_count;
}

static int tensor_of_output(const sp_ensemble_plan *plan, int port)
{
    for (int i = 0; i < plan->tensor_count; i++) {
        if (plan->tensors[i].output == port)
            return i;
    }
    return -1;
}

/* Its inputs that are given: port of its model, and the ensemble's tensor. */
static int links_of(const course_step *step, sp_ensemble_link links[SP_INFER_PORTS])
{
    const sp_course *course = step->course;
    int count = 0;
    for (int i = 0; is_finish(step) && i < course->wish_count; i++) {
        uint16_t port = course->wishes[i].port;
        links[count++] = (sp_ensemble_link){ .port = port, .tensor = (uint16_t)tensor_of_output(course->plan, port) };
    }
    const sp_ensemble_planned *planned = is_finish(step) ? NULL : &course->plan->steps[step->number];
    for (int i = 0; planned && i < planned->input_count; i++) {
        if (course->values[planned->inputs[i].tensor].given)
            links[count++] = planned->inputs[i];
    }
    return count;
}

static bool can_begin(const sp_course *course, int number)
{
    const sp_ensemble_planned *planned = &course->plan->steps[number];
    if (course->begun >> number & 1)
        return false;
    for (int i = 0; i < planned->input_count; i++) {
        int tensor = planned->inputs[i].tensor, producer = course->plan->tensors[tensor].producer;
        bool never = producer < 0 ? course->plan->tensors[tensor].optional : course->steps[producer].state == OVER;
        if (!course->values[tensor].given && !never)
            return false;
    }
    return true;
}

static bool all_over(const sp_course *course)
{
    for (int i = 0; i < course->plan->step_count; i++) {
        if (course->steps[i].state != OVER)
            return false;
    }
    return true;
}

static uint8_t *body_of(const course_step *step)
{
    return (uint8_t *)(uintptr_t)sp_request_body(step->request).data; /* made by sp_request_room for us to write */
}

/* Rooms in its body for all inputs, and its head. Ret_bytes: what is to be copied. */
static sp_status fill_head(const course_step *step, uint64_t *ret_bytes, sp_error *reterr)
{
    const sp_course *course = step->course;
    const sp_infer_head *asked = sp_request_infer_head(course->root->entry);
    sp_infer_head *head = sp_request_infer_head(step->request);
    sp_ensemble_link links[SP_INFER_PORTS];
    int count = links_of(step, links);
    *ret_bytes = 0;
    for (int i = 0; i < count; i++) {
        const course_value *value = &course->values[links[i].tensor];
        sp_error err = { 0 };
        const uint8_t *room = sp_request_room(step->request, value->bytes, &err);
        if (!room) {
            *reterr = err;
            return err.status;
        }
        head->inputs[i] = (sp_infer_tensor){ .port = links[i].port, .dtype = value->dtype, .rank = value->rank, .bytes = value->bytes,
                                             .offset = (uint64_t)(room - sp_request_body(step->request).data) };
        memcpy(head->inputs[i].dims, value->dims, sizeof(value->dims));
        *ret_bytes += value->bytes;
    }
    head->input_count = (uint16_t)count;
    if (is_finish(step)) {
        memcpy(head->wishes, course->wishes, sizeof(course->wishes[0]) * (size_t)course->wish_count);
        head->wish_count = (uint16_t)course->wish_count;
        return SP_OK;
    }
    const sp_ensemble_planned *planned = &course->plan->steps[step->number];
    for (int i = 0; i < planned->output_count; i++)
        head->wishes[i] = (sp_infer_wish){ .port = planned->outputs[i].port };
    head->wish_count = (uint16_t)planned->output_count;
    head->priority = asked->priority;
    head->timeout_us = asked->timeout_us;
    return SP_OK;
}

/* Any thread. */
static sp_status copy_inputs(const course_step *step, sp_error *reterr)
{
    const sp_course *course = step->course;
    const sp_infer_head *head = sp_request_infer_head(step->request);
    sp_ensemble_link links[SP_INFER_PORTS];
    sp_status s = SP_OK;
    (void)links_of(step, links); /* as many as it has inputs */
    for (int i = 0; !s && i < head->input_count; i++) {
        const course_value *value = &course->values[links[i].tensor];
        uint8_t *dst = body_of(step) + head->inputs[i].offset;
        if (value->unpacked)
            s = sp_request_output_read(course->root->entry, value->offset, dst, value->bytes, reterr);
        else if (value->bytes)
            memcpy(dst, value->data, value->bytes);
    }
    return s;
}

/* --- what a step has made --------------------------------------------------------------------------------------------- */

static void tell(sp_course *course, const course_step *step, const sp_answer *answer)
{
    const sp_infer_answer *infer = answer->infer;
    if (course->told_count < SP_LIMIT_ENSEMBLE_STEPS)
        course->told[course->told_count++] = (sp_infer_step){ .model = step->served->id, .status = SP_OK,
                                                              .batch_rows = infer->batch_rows, .batch_leader = infer->batch_leader,
                                                              .queue_ns = infer->queue_ns, .input_ns = infer->input_ns,
                                                              .infer_ns = infer->infer_ns, .output_ns = infer->output_ns };
    for (int i = 0; i < answer->step_count && course->told_count < SP_LIMIT_ENSEMBLE_STEPS; i++)
        course->told[course->told_count++] = answer->steps[i];
}

/* Who was asked, how long it took and what it cost: also of steps that failed. */
static void gather(sp_course *course, const course_step *step, const sp_answer *answer)
{
    sp_answer *all = &course->answer;
    for (int i = 0; i < answer->attempt_count; i++) {
        all->attempt_count = SP_MIN(all->attempt_count + 1, SP_LIMIT_ATTEMPTS); /* the last place is the latest one's */
        all->attempts[all->attempt_count - 1] = answer->attempts[i];
    }
    all->microdollars += answer->microdollars;
    all->device_ns += answer->device_ns;
    all->queue_ns += answer->queue_ns;
    all->preprocess_ns += answer->preprocess_ns;
    all->inference_ns += answer->inference_ns;
    all->postprocess_ns += answer->postprocess_ns;
    all->simpler |= answer->simpler;
    if (is_finish(step) || answer->status)
        return;
    memcpy(all->link, answer->link, sizeof(all->link)); /* who did the last real work */
    memcpy(all->device, answer->device, sizeof(all->device));
    memcpy(all->precision, answer->precision, sizeof(all->precision));
    memcpy(all->engine, answer->engine, sizeof(all->engine));
}

static void take_outputs(course_step *step, const sp_answer *answer)
{
    sp_course *course = step->course;
    const sp_ensemble_planned *planned = &course->plan->steps[step->number];
    for (int i = 0; i < planned->output_count; i++) {
        for (uint32_t k = 0; k < answer->infer->count; k++) {
            const sp_infer_output *output = &answer->infer->outputs[k];
            course_value *value = &course->values[planned->outputs[i].tensor];
            if (output->port != planned->outputs[i].port)
                continue;
            value->given = true;
            value->data = answer->infer_data + output->offset;
            value->bytes = output->bytes;
            value->dtype = output->dtype;
            value->rank = output->rank;
            memcpy(value->dims, output->dims, sizeof(value->dims));
        }
    }
    if (answer->memory)
        step->memory = sp_answer_memory_ref(answer->memory);
}

/* What `reader` has read; slots whose tensors nobody will read again are free for others. */
static void let_go(sp_course *course, const course_step *reader)
{
    sp_ensemble_link links[SP_INFER_PORTS];
    int count = links_of(reader, links);
    for (int i = 0; i < count; i++)
        course->values[links[i].tensor].readers--;
    for (int i = 0; i < course->plan->step_count; i++) {
        const sp_ensemble_planned *planned = &course->plan->steps[i];
        bool wanted = course->steps[i].state != OVER;
        for (int k = 0; k < planned->output_count && !wanted; k++)
            wanted = course->values[planned->outputs[k].tensor].readers > 0;
        if (!wanted)
            step_let_go(&course->steps[i]);
    }
}

/* The client's tensors are in the finish's answer; what is told of the way is the sum of its steps. */
static void finished(sp_course *course, const sp_answer *answer)
{
    const sp_infer_answer *infer = answer->infer;
    sp_answer *all = &course->answer;
    memcpy(&course->infer, infer, offsetof(sp_infer_answer, outputs) + infer->count * sizeof(infer->outputs[0]));
    for (int i = 0; i < course->told_count; i++) {
        course->infer.queue_ns += course->told[i].queue_ns;
        course->infer.input_ns += course->told[i].input_ns;
        course->infer.infer_ns += course->told[i].infer_ns;
        course->infer.output_ns += course->told[i].output_ns;
    }
    course->infer.step_count = (uint32_t)course->told_count;
    all->infer = &course->infer;
    all->infer_data = answer->infer_data;
    all->memory = answer->memory;
    all->steps = course->told;
    all->step_count = course->told_count;
    all->batch_size = answer->batch_size;
    all->total_ns = sp_clock_now_ns() - all->received_ns;
}

static void step_over(course_step *step, const sp_answer *answer)
{
    sp_course *course = step->course;
    step->state = OVER;
    course->pending--;
    sequence_end(step, answer->status, answer);
    gather(course, step, answer);
    if (answer->status) {
        fail(course, answer->status, &answer->error, answer->retry_after_s);
    } else if (is_finish(step)) {
        finished(course, answer);
    } else {
        tell(course, step, answer);
        take_outputs(step, answer);
        let_go(course, step);
    }
    advance(course);
}

static void request_done(sp_request *request, const sp_answer *answer, void *context)
{
    (void)request;
    step_over(context, answer);
}

static void inner_done(const sp_answer *answer, void *context)
{
    step_over(context, answer);
}

/* --- beginning a step ------------------------------------------------------------------------------------------------- */

static void submit(course_step *step)
{
    step->state = RUNNING;
    sp_request_submit(step->request, request_done, step);
}

static void copy_run(sp_store_work *work)
{
    work->status = copy_inputs((course_step *)work, &work->error);
}

static void copy_done(sp_store_work *work)
{
    course_step *step = (course_step *)work;
    sp_course *course = step->course, *root = course->root;
    root->copying--;
    if (root->abandoned) {
        if (!root->copying)
            destroy(root);
        return;
    }
    if (!work->status && !course->answer.status) {
        submit(step);
        return;
    }
    step->state = OVER;
    course->pending--;
    if (work->status)
        fail(course, work->status, &work->error, 0);
    advance(course);
}

/* A model that keeps state between requests goes on where the sequence began. */
static sp_status begin_sequence(course_step *step, sp_error *reterr)
{
    const sp_infer_head *asked = sp_request_infer_head(step->course->root->entry);
    sp_infer_head *head = sp_request_infer_head(step->request);
    sp_sequences *sequences = step->course->parts->sequences;
    sp_sequence_waiter waiter = { 0 };
    sp_pin pin;
    if (is_finish(step) || step->served->card->config.sequence.strategy == SP_SEQUENCE_NONE)
        return SP_OK;
    head->flags = asked->flags;
    head->sequence_id = asked->sequence_id;
    memcpy(head->sequence_text, asked->sequence_text, sizeof(head->sequence_text));
    if (!asked->sequence_id)
        return SP_OK; /* the worker says what it thinks of that */
    step->sequence = (sp_sequence_key){ .model = step->served->id, .id = asked->sequence_id };
    memcpy(step->sequence.text, asked->sequence_text, sizeof(step->sequence.text));
    if (sp_sequence_begin(sequences, &step->sequence, asked->flags & SP_INFER_SEQUENCE_START, &waiter, &pin) == SP_SEQUENCE_WAIT) {
        sp_sequence_leave(sequences, &waiter);
        return SP_FAIL_CODE(reterr, SP_CONFLICT, "sequence_starting",
                            "the first request of this sequence has not been answered yet; send the next one after it");
    }
    step->sequenced = true;
    sp_request_set_pin(step->request, pin);
    return SP_OK;
}

static sp_status begin_request(course_step *step, sp_error *reterr)
{
    sp_course *course = step->course;
    uint64_t bytes = 0;
    int retry_after_s;
    sp_status s = sp_request_open_beside(course->root->entry, step->served->id, is_finish(step), &step->request, &retry_after_s, reterr);
    if (s)
        return s;
    s = fill_head(step, &bytes, reterr);
    if (!s)
        s = begin_sequence(step, reterr);
    if (!s && bytes > SP_SERVING_INLINE_BYTES) {
        step->work = (sp_store_work){ .run = copy_run, .done = copy_done };
        step->state = COPYING;
        s = sp_serving_store(course->parts, &step->work, reterr);
        course->root->copying += !s;
    } else if (!s) {
        s = copy_inputs(step, reterr);
        if (!s)
            submit(step);
    }
    if (!s)
        return SP_OK;
    sequence_end(step, s, NULL);
    step->state = IDLE;
    sp_request_close(SP_STEAL(step->request));
    return s;
}

static sp_status course_new(sp_serving *serving, sp_served *served, sp_course_done_fn *done, void *context, sp_course **ret_course,
                            sp_error *reterr);
static sp_status start(sp_course *course, sp_error *reterr);

/* A spread ensemble within this one: takes the step's inputs where they lie. */
static sp_status begin_inner(course_step *step, sp_error *reterr)
{
    const sp_course *course = step->course;
    const sp_ensemble_planned *planned = &course->plan->steps[step->number];
    sp_ensemble_link links[SP_INFER_PORTS];
    sp_course *inner;
    sp_status s = course_new(course->serving, step->served, inner_done, step, &inner, reterr);
    if (s)
        return s;
    step->inner = inner;
    inner->root = course->root;
    int count = links_of(step, links);
    for (int i = 0; i < inner->plan->tensor_count; i++) {
        course_value *value = &inner->values[i];
        for (int k = 0; k < count; k++) {
            if (inner->plan->tensors[i].input != links[k].port)
                continue;
            int readers = value->readers;
            *value = course->values[links[k].tensor];
            value->readers = readers;
        }
    }
    for (int i = 0; i < planned->output_count; i++)
        inner->wishes[inner->wish_count++] = (sp_infer_wish){ .port = planned->outputs[i].port };
    step->state = RUNNING;
    s = start(inner, reterr);
    if (s) {
        destroy(SP_STEAL(step->inner));
        step->state = IDLE; /* and the course fails */
    }
    return s;
}

static sp_status begin_step(course_step *step, sp_error *reterr)
{
    sp_course *course = step->course;
    if (!step->served) {
        sp_served *served = is_finish(step) ? course->served : sp_serving_step(course->serving, course->served, step->number);
        if (!served)
            return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "not_loaded", "the model of step %d is not loaded any more", step->number + 1);
        step->served = sp_served_ref(served);
    }
    sp_status s = step->served->spread && !is_finish(step) ? begin_inner(step, reterr) : begin_request(step, reterr);
    course->pending += !s;
    return s;
}

static sp_status finish_begin(sp_course *course, sp_error *reterr)
{
    for (int i = 0; i < course->wish_count; i++) {
        int tensor = tensor_of_output(course->plan, course->wishes[i].port);
        if (tensor < 0 || !course->values[tensor].given)
            return SP_FAIL(reterr, SP_INVALID, "unexpected deadlock, output '%s' is not set while no more ensemble steps can be made",
                           course->served->card->config.outputs[course->wishes[i].port].name);
    }
    return begin_step(&course->steps[course->plan->step_count], reterr);
}

static void again(sp_timer *timer, void *context)
{
    (void)timer;
    advance(context);
}

/* True: it is tried again. No slot is free, or no memory for another body: others end meanwhile. */
static bool may_wait(sp_course *course, sp_status status)
{
    int64_t now_ns = sp_clock_now_ns();
    return status == SP_BUSY && now_ns < sp_request_deadline(course->root->entry) &&
           !sp_loop_timer_set(course->parts->loop, &course->timer, now_ns + AGAIN_NS, NULL);
}

static sp_status admit(sp_course *root, sp_error *reterr)
{
    if (!root->admitted && root->parts->courses_at_once == SP_LIMIT_COURSES_AT_ONCE)
        return SP_FAIL_CODE(reterr, SP_BUSY, "no_slot", "%d requests are on their way through ensembles of several workers",
                            SP_LIMIT_COURSES_AT_ONCE);
    root->parts->courses_at_once += !root->admitted;
    root->admitted = true;
    return SP_OK;
}

static void advance(sp_course *course)
{
    sp_error err = { 0 };
    sp_status s = course->answer.status ? SP_OK : admit(course->root, &err);
    for (int i = 0; i < course->plan->step_count && !s && !course->answer.status; i++) {
        if (!can_begin(course, i))
            continue;
        s = begin_step(&course->steps[i], &err);
        course->begun |= s ? 0 : 1u << i;
    }
    if (!s && !course->answer.status && !course->finishing && all_over(course)) {
        s = finish_begin(course, &err);
        course->finishing = !s;
    }
    if (s && !may_wait(course, s))
        fail(course, s, &err, s == SP_BUSY);
    bool over = course->answer.status ? !course->pending : course->finishing && !course->pending;
    if (over)
        conclude(course); /* it may be gone now */
}

/* --- begin -------------------------------------------------------------------------------------------------------------- */

static sp_status course_new(sp_serving *serving, sp_served *served, sp_course_done_fn *done, void *context, sp_course **ret_course,
                            sp_error *reterr)
{
    const sp_ensemble_plan *plan = sp_serving_plan(served);
    sp_course *course = calloc(1, sizeof(*course));
    if (course) {
        course->values = calloc((size_t)plan->tensor_count, sizeof(*course->values));
        course->steps = calloc((size_t)plan->step_count + 1, sizeof(*course->steps));
    }
    if (!course || !course->values || !course->steps) {
        if (course) {
            free(course->values);
            free(course->steps);
        }
        free(course);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an ensemble's request");
    }
    course->serving = serving;
    course->parts = sp_serving_parts_of(serving);
    course->served = sp_served_ref(served);
    course->plan = plan;
    course->done = done;
    course->context = context;
    course->timer = (sp_timer){ .fire = again, .context = course };
    course->answer.received_ns = sp_clock_now_ns();
    for (int i = 0; i < plan->tensor_count; i++)
        course->values[i].readers = plan->tensors[i].consumers + (plan->tensors[i].output >= 0);
    for (int i = 0; i <= plan->step_count; i++) {
        course->steps[i].course = course;
        course->steps[i].number = i;
    }
    *ret_course = course;
    return SP_OK;
}

/* What fails at once is the caller's to tell. */
static sp_status start(sp_course *course, sp_error *reterr)
{
    course->beginning = true;
    advance(course);
    course->beginning = false;
    if (course->answer.status && !course->pending) {
        *reterr = course->answer.error;
        return course->answer.status;
    }
    return SP_OK;
}

static void take_entry(sp_course *course, const sp_infer_head *head)
{
    for (int i = 0; i < head->input_count; i++) {
        const sp_infer_tensor *tensor = &head->inputs[i];
        for (int t = 0; t < course->plan->tensor_count; t++) {
            course_value *value = &course->values[t];
            if (course->plan->tensors[t].input != tensor->port)
                continue;
            value->given = true;
            value->unpacked = tensor->in_output != 0;
            value->data = value->unpacked ? NULL : sp_request_body(course->entry).data + tensor->offset;
            value->offset = tensor->offset;
            value->bytes = tensor->bytes;
            value->dtype = tensor->dtype;
            value->rank = tensor->rank;
            memcpy(value->dims, tensor->dims, sizeof(value->dims));
        }
    }
    course->wish_count = head->wish_count;
    memcpy(course->wishes, head->wishes, sizeof(head->wishes[0]) * head->wish_count);
}

sp_status sp_course_begin(sp_serving *serving, sp_served *served, sp_request *entry, sp_course_done_fn *done, void *context,
                          sp_course **ret_course, sp_error *reterr)
{
    sp_course *course;
    sp_serving_parts *parts = sp_serving_parts_of(serving);
    if (parts->course_count == SP_LIMIT_COURSES)
        return SP_FAIL_CODE(reterr, SP_BUSY, "no_slot", "%d requests are in ensembles of several workers; come back in 1 s",
                            SP_LIMIT_COURSES);
    sp_status s = course_new(serving, served, done, context, &course, reterr);
    if (s)
        return s;
    course->root = course;
    course->entry = entry;
    take_entry(course, sp_request_infer_head(entry));
    parts->course_count++;
    s = start(course, reterr);
    if (!s) {
        *ret_course = course;
        return SP_OK;
    }
    parts->course_count--;
    parts->courses_at_once -= course->admitted;
    course->root = NULL; /* the entry stays the caller's */
    destroy(course);
    return s;
}
