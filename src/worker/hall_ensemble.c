/* SPDX-License-Identifier: Apache-2.0
 * Requests on their way through ensembles (hall_ensemble.h). Steps begin as soon as all that they take is there, so those that
 * do not depend on each other wait and run at once. The first step that fails ends the course when its siblings are over. */
#include "worker/hall_ensemble.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What an unused step's region keeps of its pages, and how many unused steps are kept. */
#define REGION_KEEP_BYTES ((size_t)256 * 1024)
#define STEPS_KEPT 64

/* --- binding ------------------------------------------------------------------------------------------------------ */

sp_status sp_hall_ensemble_bind(sp_hall *hall, sp_hall_model *model, sp_error *reterr)
{
    const sp_model_config *configs[SP_LIMIT_ENSEMBLE_STEPS] = {NULL};
    const sp_model_config *config = model->config;

    for (int i = 0; i < config->step_count; i++) {
        uint32_t id = model->spec->step_models[i];
        sp_hall_model *step = id ? sp_hall_find(hall, id) : NULL;
        if (id && !step)
            return SP_FAIL_CODE(reterr, SP_CONFLICT, "not_loaded", "ensemble '%s' contains model '%s', which is not loaded here",
                                config->name, config->steps[i].model);
        configs[i] = step ? step->config : NULL;
    }
    sp_status s = sp_ensemble_plan_new(config, configs, &model->ensemble->plan, reterr);
    for (int i = 0; !s && i < config->step_count; i++)
        if (!configs[i])
            s = sp_hall_builtin_new(hall, model, model->ensemble->plan, i, &model->ensemble->builtins[i], reterr);
    for (int i = 0; !s && i < config->step_count; i++)
        if (configs[i])
            sp_hall_find(hall, model->spec->step_models[i])->holders++;
    model->bound = !s;
    return s;
}

void sp_hall_ensemble_unbind(sp_hall *hall, sp_hall_model *model)
{
    if (!model->bound)
        return;
    model->bound = false;
    for (int i = 0; i < model->config->step_count; i++) {
        sp_hall_model *step = model->spec->step_models[i] ? sp_hall_find(hall, model->spec->step_models[i]) : NULL;
        if (!step)
            continue;
        step->holders--;
        sp_hall_bury_if_over(hall, step);
    }
}

void sp_hall_ensemble_free(sp_hall_model *model)
{
    if (!model->ensemble)
        return;
    for (int i = 0; i < SP_LIMIT_ENSEMBLE_STEPS; i++)
        sp_hall_builtin_free(model->ensemble->builtins[i]);
    sp_ensemble_plan_free(model->ensemble->plan);
    free(model->ensemble);
}

/* --- pools -------------------------------------------------------------------------------------------------------- */

static sp_hall_step *step_get(sp_hall *hall)
{
    sp_hall_step *step = hall->unused_steps;

    if (step) {
        hall->unused_steps = step->next;
        hall->unused_step_count--;
    } else {
        step = calloc(1, sizeof(*step));
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *region = step ? mmap(NULL, SP_ANSWER_STRIDE, PROT_READ | PROT_WRITE, flags, -1, 0) : MAP_FAILED;
        if (region == MAP_FAILED) {
            free(step);
            return NULL;
        }
        step->item.answer = region;
    }
    step->next = NULL;
    return step;
}

static void step_free(sp_hall_step *step)
{
    (void)munmap(step->item.answer, SP_ANSWER_STRIDE);
    free(step);
}

static void step_put(sp_hall *hall, sp_hall_step *step)
{
    size_t touched = SP_MIN(SP_ALIGN_UP(step->item.answer_touched, (size_t)4096), SP_ANSWER_STRIDE);

    if (hall->unused_step_count >= STEPS_KEPT) {
        step_free(step);
        return;
    }
    if (touched > REGION_KEEP_BYTES)
        (void)madvise(step->item.answer + REGION_KEEP_BYTES, touched - REGION_KEEP_BYTES, MADV_DONTNEED);
    step->next = hall->unused_steps;
    hall->unused_steps = step;
    hall->unused_step_count++;
}

static sp_hall_course *course_get(sp_hall *hall)
{
    sp_hall_course *course = hall->unused_courses;

    if (course) {
        hall->unused_courses = course->next;
        course->next = NULL;
        return course;
    }
    return calloc(1, sizeof(*course));
}

static void course_put(sp_hall *hall, sp_hall_course *course)
{
    for (int i = 0; i < course->model->ensemble->plan->step_count; i++) {
        if (course->steps[i])
            step_put(hall, course->steps[i]);
        course->steps[i] = NULL;
    }
    course->request->course = NULL;
    course->next = hall->unused_courses;
    hall->unused_courses = course;
}

void sp_hall_courses_free(sp_hall *hall)
{
    while (hall->unused_courses) {
        sp_hall_course *course = hall->unused_courses;
        hall->unused_courses = course->next;
        free(course->scratch.data);
        free(course);
    }
    while (hall->unused_steps) {
        sp_hall_step *step = hall->unused_steps;
        hall->unused_steps = step->next;
        step_free(step);
    }
}

/* --- chores ------------------------------------------------------------------------------------------------------- */

static void chore_append(sp_hall *hall, sp_hall_chore *chore, sp_hall_chore_kind kind, sp_hall_course *course, sp_hall_step *step)
{
    *chore = (sp_hall_chore){.kind = kind, .queued = true, .course = course, .step = step};
    if (hall->chores_last)
        hall->chores_last->next = chore;
    else
        hall->chores_first = chore;
    hall->chores_last = chore;
}

static void chore_remove(sp_hall *hall, sp_hall_chore *chore)
{
    sp_hall_chore *before = NULL;

    for (sp_hall_chore *c = hall->chores_first; c != chore; c = c->next)
        before = c;
    if (before)
        before->next = chore->next;
    else
        hall->chores_first = chore->next;
    if (hall->chores_last == chore)
        hall->chores_last = before;
    chore->queued = false;
}

sp_hall_request *sp_hall_lease(sp_hall_request *request)
{
    while (request->step)
        request = request->step->course->request;
    return request;
}

/* --- steps -------------------------------------------------------------------------------------------------------- */

static void fail_course(sp_hall_course *course, sp_status status, const sp_error *err)
{
    if (course->status)
        return; /* the first one says why */
    course->status = status;
    course->error = *err;
    char *text = course->error.message;
    size_t room = sizeof(course->error.message);
    int used = snprintf(text, room, "in ensemble '%.100s', ", course->model->config->name);
    (void)snprintf(text + used, room - (size_t)used, "%.*s", (int)(room - (size_t)used) - 1, err->message);
}

static bool is_there(const sp_hall_course *course, int tensor)
{
    const sp_ensemble_tensor *planned = &course->model->ensemble->plan->tensors[tensor];

    return course->values[tensor].given || (planned->producer < 0 ? planned->optional : course->over >> planned->producer & 1);
}

static bool can_begin(const sp_hall_course *course, int number)
{
    const sp_ensemble_planned *planned = &course->model->ensemble->plan->steps[number];

    if (course->begun >> number & 1)
        return false;
    for (int i = 0; i < planned->input_count; i++)
        if (!is_there(course, planned->inputs[i].tensor))
            return false;
    return true;
}

static void fill_step(const sp_hall_course *course, sp_hall_step *step, sp_hall_model *model)
{
    const sp_ensemble_plan *plan = course->model->ensemble->plan;
    const sp_ensemble_planned *planned = &plan->steps[step->number];
    const sp_hall_request *above = course->request;
    sp_hall_request *request = &step->request;

    request->kind = SP_HALL_INFER;
    request->item = &step->item;
    request->step = step;
    request->model = model;
    request->course = NULL;
    request->ordered = request->done = request->detect = false;
    request->queue_ns = request->input_ns = 0;
    request->in_hand = 0;
    for (int i = 0; i < SP_INFER_PORTS; i++)
        request->inputs[i].given = false;
    for (int i = 0; i < planned->input_count; i++)
        request->inputs[planned->inputs[i].port] = course->values[planned->inputs[i].tensor];
    request->input_count = planned->input_count;
    request->wish_count = 0;
    for (int i = 0; i < planned->output_count; i++) {
        const sp_ensemble_tensor *tensor = &plan->tensors[planned->outputs[i].tensor];
        if (tensor->consumers || tensor->output >= 0)
            request->wishes[request->wish_count++] = (sp_infer_wish){.port = planned->outputs[i].port, .form = SP_FORM_RAW};
    }
    request->waiting = (sp_batcher_item){.rows = above->rows,
                                         .alone = above->waiting.alone,
                                         .priority = above->waiting.priority,
                                         .timeout_ns = above->waiting.timeout_ns};
    request->member.id = above->member.id;
    request->member.flags = above->member.flags;
    memcpy(request->sequence_text, above->sequence_text, sizeof(request->sequence_text));
    request->rows = above->rows;
}

static sp_status begin_step(sp_hall *hall, sp_hall_course *course, int number, int64_t now_ns, sp_error *reterr)
{
    const sp_hall_request *lease = sp_hall_lease(course->request);
    uint32_t id = course->model->spec->step_models[number];
    sp_hall_model *model = id ? sp_hall_find(hall, id) : NULL;
    sp_hall_step *step = step_get(hall);

    if (!step)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a step");
    uint8_t *region = step->item.answer;
    step->item = (sp_work_item){.submission = lease->item->submission, .request = lease->item->request, .answer = region};
    step->item.done.batch_size = 1;
    step->course = course;
    step->number = number;
    course->steps[number] = step;
    course->begun |= 1u << number;
    fill_step(course, step, model);
    sp_status s = SP_OK;
    if (model)
        s = sp_hall_check_inputs(model, &step->request, reterr);
    if (!s && model)
        s = sp_hall_queue(hall, &step->request, now_ns, reterr);
    if (!s && !model)
        chore_append(hall, &step->chore, SP_HALL_BUILT_IN, course, step);
    if (!s)
        course->pending++;
    return s;
}

/* Nothing of it waits or runs any more: the request goes back. */
static void conclude(sp_hall *hall, sp_hall_course *course, int64_t now_ns)
{
    sp_hall_request *request = course->request;
    sp_hall_model *model = course->model;

    if (course->status) {
        request->item->status = course->status;
        request->item->error = course->error;
    }
    course_put(hall, course);
    model->running--;
    sp_hall_give_back(hall, request, now_ns);
    sp_hall_bury_if_over(hall, model);
}

static void advance(sp_hall *hall, sp_hall_course *course, int64_t now_ns)
{
    const sp_ensemble_plan *plan = course->model->ensemble->plan;

    for (int i = 0; i < plan->step_count && !course->status; i++) {
        sp_error err = {0};
        sp_status s = can_begin(course, i) ? begin_step(hall, course, i, now_ns, &err) : SP_OK;
        if (s)
            fail_course(course, s, &err);
    }
    if (course->pending)
        return;
    if (course->status)
        conclude(hall, course, now_ns);
    else
        chore_append(hall, &course->chore, SP_HALL_FINISH, course, NULL);
}

/* --- what a step has made ----------------------------------------------------------------------------------------- */

static void tell(sp_hall_course *course, const sp_hall_step *step)
{
    const sp_infer_answer *answer = (const sp_infer_answer *)(const void *)step->item.answer;
    const sp_infer_step *inner = (const sp_infer_step *)(const void *)(step->item.answer + step->item.done.answer_bytes) -
                                 answer->step_count;

    if (step->request.model)
        course->told[course->told_count++] = (sp_infer_step){.model = step->request.model->id,
                                                             .status = SP_OK,
                                                             .batch_rows = answer->batch_rows,
                                                             .batch_leader = answer->batch_leader,
                                                             .queue_ns = answer->queue_ns,
                                                             .input_ns = answer->input_ns,
                                                             .infer_ns = answer->infer_ns,
                                                             .output_ns = answer->output_ns};
    /* An ensemble within this one tells its own; what is too many is not counted. */
    for (uint32_t i = 0; i < answer->step_count && course->told_count < SP_LIMIT_ENSEMBLE_STEPS; i++)
        course->told[course->told_count++] = inner[i];
}

static void take_outputs(sp_hall_course *course, const sp_hall_step *step)
{
    const sp_ensemble_planned *planned = &course->model->ensemble->plan->steps[step->number];
    const sp_infer_answer *answer = (const sp_infer_answer *)(const void *)step->item.answer;

    for (int i = 0; i < planned->output_count; i++) {
        for (uint32_t k = 0; k < answer->count; k++) {
            const sp_infer_output *output = &answer->outputs[k];
            if (output->port != planned->outputs[i].port)
                continue;
            sp_hall_tensor *value = &course->values[planned->outputs[i].tensor];
            *value = (sp_hall_tensor){.data = step->item.answer + output->offset, .bytes = output->bytes, .given = true,
                                      .dtype = output->dtype, .rank = output->rank};
            memcpy(value->dims, output->dims, sizeof(value->dims));
        }
    }
}

/* Regions whose tensors nobody will read again go back before the course ends. */
static void let_go(sp_hall *hall, sp_hall_course *course, int reader)
{
    const sp_ensemble_plan *plan = course->model->ensemble->plan;
    const sp_ensemble_planned *planned = &plan->steps[reader];

    for (int i = 0; i < planned->input_count; i++)
        course->readers[planned->inputs[i].tensor]--;
    for (int i = 0; i < plan->step_count; i++) {
        bool wanted = !(course->over >> i & 1);
        for (int k = 0; k < plan->steps[i].output_count; k++) {
            int tensor = plan->steps[i].outputs[k].tensor;
            wanted = wanted || course->readers[tensor] > 0 || plan->tensors[tensor].output >= 0;
        }
        if (wanted || !course->steps[i])
            continue;
        step_put(hall, course->steps[i]);
        course->steps[i] = NULL;
    }
}

void sp_hall_step_over(sp_hall *hall, sp_hall_step *step, int64_t now_ns)
{
    sp_hall_course *course = step->course;

    course->pending--;
    course->over |= 1u << step->number;
    if (step->item.status) {
        fail_course(course, step->item.status, &step->item.error);
    } else {
        tell(course, step);
        take_outputs(course, step);
        let_go(hall, course, step->number);
    }
    advance(hall, course, now_ns);
}

/* --- begin, finish ------------------------------------------------------------------------------------------------ */

sp_status sp_hall_course_begin(sp_hall *hall, sp_hall_request *request, int64_t now_ns, sp_error *reterr)
{
    const sp_ensemble_plan *plan = request->model->ensemble->plan;
    sp_hall_course *course = course_get(hall);

    if (!course)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for an ensemble's request");
    course->request = request;
    course->model = request->model;
    course->begun = course->over = 0;
    course->pending = course->told_count = 0;
    course->status = SP_OK;
    course->began_ns = now_ns;
    for (int i = 0; i < plan->tensor_count; i++) {
        course->values[i].given = false;
        course->readers[i] = plan->tensors[i].consumers;
    }
    request->course = course;
    request->model->running++;
    chore_append(hall, &course->chore, SP_HALL_BEGIN, course, NULL);
    return SP_OK;
}

void sp_hall_course_abort(sp_hall *hall, sp_hall_request *request)
{
    sp_hall_course *course = request->course;
    sp_hall_model *model = course->model;

    if (course->chore.queued)
        chore_remove(hall, &course->chore);
    for (int i = 0; i < model->ensemble->plan->step_count; i++) {
        sp_hall_step *step = course->steps[i];
        if (!step || course->over >> i & 1)
            continue;
        if (!step->request.model)
            chore_remove(hall, &step->chore);
        else
            sp_hall_unqueue(hall, &step->request);
    }
    course_put(hall, course);
    model->running--;
    sp_hall_bury_if_over(hall, model);
}

static void take_inputs(sp_hall_course *course)
{
    const sp_ensemble_plan *plan = course->model->ensemble->plan;

    for (int i = 0; i < plan->tensor_count; i++)
        if (plan->tensors[i].input >= 0)
            course->values[i] = course->request->inputs[plan->tensors[i].input];
}

static int tensor_of_output(const sp_ensemble_plan *plan, int port)
{
    for (int i = 0; i < plan->tensor_count; i++)
        if (plan->tensors[i].output == port)
            return i;
    return -1;
}

static sp_status put_outputs(sp_hall_course *course, sp_hall_writer *writer, sp_error *reterr)
{
    const sp_hall_request *request = course->request;

    for (int i = 0; i < request->wish_count; i++) {
        const sp_infer_wish *wish = &request->wishes[i];
        int tensor = tensor_of_output(course->model->ensemble->plan, wish->port);
        if (tensor < 0 || !course->values[tensor].given)
            return SP_FAIL(reterr, SP_INVALID,
                           "unexpected deadlock, output '%s' is not set while no more ensemble steps can be made",
                           course->model->config->outputs[wish->port].name);
        sp_status s = sp_hall_writer_put(writer, course->model, &course->scratch, wish, &course->values[tensor], reterr);
        if (s)
            return s;
    }
    return SP_OK;
}

static void finish(sp_hall_course *course)
{
    sp_hall_request *request = course->request;
    sp_work_item *item = request->item;
    sp_infer_answer *answer = (sp_infer_answer *)(void *)item->answer;
    size_t told_bytes = sizeof(course->told[0]) * (size_t)course->told_count;
    sp_hall_writer writer;
    sp_error err = {0};

    sp_hall_writer_begin(&writer, item, request->wish_count);
    sp_status s = put_outputs(course, &writer, &err);
    if (!s && told_bytes > SP_ANSWER_STRIDE - writer.at)
        s = SP_FAIL(&err, SP_TOO_LARGE, "an answer holds %zu MiB, the outputs are larger", SP_ANSWER_STRIDE >> 20);
    if (s) {
        fail_course(course, s, &err);
        return;
    }
    memcpy(item->answer + writer.at, course->told, told_bytes); /* at a multiple of 64 */
    answer->count = (uint32_t)writer.count;
    answer->batch_rows = (uint32_t)request->rows;
    answer->batch_leader = 1;
    answer->step_count = (uint32_t)course->told_count;
    answer->queue_ns = answer->input_ns = answer->infer_ns = answer->output_ns = 0;
    for (int i = 0; i < course->told_count; i++) {
        answer->queue_ns += course->told[i].queue_ns;
        answer->input_ns += course->told[i].input_ns;
        answer->infer_ns += course->told[i].infer_ns;
        answer->output_ns += course->told[i].output_ns;
    }
    item->done.answer_bytes = (uint32_t)(writer.at + told_bytes);
    item->done.batch_size = 1;
    item->done.preprocess_ns = answer->input_ns;
    item->done.inference_ns = item->done.batch_run_ns = answer->infer_ns;
    item->done.postprocess_ns = answer->output_ns;
    item->answer_touched = writer.at + told_bytes;
    item->status = SP_OK;
}

void sp_hall_chore_run(sp_hall *hall, sp_hall_chore *chore)
{
    sp_hall_course *course = chore->course;
    sp_hall_request *request = course->request;
    sp_error err = {0};
    sp_status s = SP_OK;

    (void)hall;
    if (chore->kind == SP_HALL_FINISH) {
        finish(course);
    } else if (chore->kind == SP_HALL_BUILT_IN) {
        sp_hall_step *step = chore->step;
        step->item.status = sp_hall_builtin_run(course->model->ensemble->builtins[step->number], &step->request,
                                                sp_hall_lease(request)->item, &step->item.error);
    } else {
        if (!request->step && request->item->status) {
            s = request->item->status; /* its bytes never came */
            err = request->item->error;
        }
        if (!s && !request->step)
            s = sp_hall_locate(request, &err);
        if (s) {
            course->status = s;
            course->error = err;
        } else {
            take_inputs(course);
        }
    }
}

void sp_hall_chore_over(sp_hall *hall, sp_hall_chore *chore, int64_t now_ns)
{
    sp_hall_course *course = chore->course;

    if (chore->kind == SP_HALL_BUILT_IN)
        sp_hall_step_over(hall, chore->step, now_ns);
    else if (chore->kind == SP_HALL_FINISH || course->status)
        conclude(hall, course, now_ns);
    else
        advance(hall, course, now_ns);
}
