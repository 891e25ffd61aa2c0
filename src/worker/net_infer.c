/* SPDX-License-Identifier: Apache-2.0
 * REMOTE of tensors: a request to a model that is served here goes to a KServe V2 server which has one of that name, with the
 * binary tensor extension both ways. In the slot tensors have numbers in place of names; a LOAD, which the route gives to net
 * workers too, says which names those are. Nothing is loaded by it. */
#include "worker/net.h"

#include "base/clock.h"
#include "kserve/json.h"
#include "model/card.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES (SP_LIMIT_JSON_BYTES) /* of a question's names and shapes */

struct net_served {
    uint32_t id;
    char model[SP_LIMIT_SERVED_NAME_BYTES];
    int input_count, output_count;
    char (*names)[SP_LIMIT_SERVED_NAME_BYTES]; /* of the inputs, then of the outputs */
};

/* --- names ---------------------------------------------------------------------------------------------------------- */

static void free_served(net_served *served)
{
    if (!served)
        return;
    free(served->names);
    free(served);
}

static int place_of(const net *self, uint32_t id)
{
    for (int i = 0; i < self->served_count; i++) {
        if (self->served[i]->id == id)
            return i;
    }
    return -1;
}

static void forget(net *self, uint32_t id)
{
    int at = place_of(self, id);
    if (at < 0)
        return;
    free_served(self->served[at]);
    self->served[at] = self->served[--self->served_count];
}

void net_infer_close(net *self)
{
    while (self->served_count)
        free_served(self->served[--self->served_count]);
    free(self->served);
}

static net_served *names_of(const sp_load_spec *spec)
{
    const sp_model_config *config = &spec->config;
    net_served *served = calloc(1, sizeof(*served));
    int count = config->input_count + config->output_count;
    if (served)
        served->names = calloc((size_t)SP_MAX(count, 1), sizeof(*served->names));
    if (!served || !served->names) {
        free_served(served);
        return NULL;
    }
    served->id = spec->id;
    served->input_count = config->input_count;
    served->output_count = config->output_count;
    (void)snprintf(served->model, sizeof(served->model), "%s", config->name);
    for (int i = 0; i < config->input_count; i++)
        memcpy(served->names[i], config->inputs[i].name, sizeof(served->names[i]));
    for (int i = 0; i < config->output_count; i++)
        memcpy(served->names[config->input_count + i], config->outputs[i].name, sizeof(served->names[i]));
    return served;
}

static bool remember(net *self, net_served *served)
{
    forget(self, served->id);
    if (self->served_count == self->served_capacity) {
        int capacity = SP_MAX(self->served_capacity * 2, 16);
        net_served **grown = realloc(self->served, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return false;
        self->served = grown;
        self->served_capacity = capacity;
    }
    self->served[self->served_count++] = served;
    return true;
}

void net_load(net_job *job)
{
    sp_work_item *item = job->item;
    sp_load_spec *spec = NULL;
    sp_status s = sp_load_spec_read(item->body, &spec, &item->error);
    if (!s && item->submission->op == SP_OP_UNLOAD) {
        forget(job->net, spec->id);
    } else if (!s) {
        net_served *served = names_of(spec);
        sp_answer_loaded loaded = { .engine = "net", .device = "net" };
        if (!served || !remember(job->net, served)) {
            free_served(served);
            s = SP_FAIL(&item->error, SP_NOMEM, "no memory for the names of a model");
        } else {
            memcpy(item->answer, &loaded, sizeof(loaded));
            item->done.answer_bytes = sizeof(loaded);
        }
    }
    sp_load_spec_free(spec);
    item->status = s;
    net_job_finish(job);
}

/* --- the question --------------------------------------------------------------------------------------------------- */

/* A copy of the head's numbers, each checked: what is checked is what is used. */
static sp_status read_input(const net_served *served, const sp_infer_tensor *from, sp_view bytes, sp_kserve_input *to, sp_error *reterr)
{
    const sp_infer_tensor tensor = *from;
    if (tensor.port >= served->input_count || tensor.rank > SP_INFER_RANK || !sp_dtype_kserve(tensor.dtype))
        return SP_FAIL(reterr, SP_INTERNAL, "input %u is none of model %s", tensor.port, served->model);
    if (tensor.offset > bytes.size_bytes || tensor.bytes > bytes.size_bytes - tensor.offset)
        return SP_FAIL(reterr, SP_INTERNAL, "input %u lies outside the request", tensor.port);
    *to = (sp_kserve_input){ .dtype = tensor.dtype, .rank = tensor.rank, .place = SP_PLACE_BINARY, .offset = tensor.offset,
                             .bytes = tensor.bytes };
    memcpy(to->name, served->names[tensor.port], sizeof(to->name));
    memcpy(to->dims, tensor.dims, sizeof(to->dims));
    return SP_OK;
}

static sp_status read_head(const net_job *job, const net_served *served, const sp_infer_head *head, sp_kserve_request *question,
                           sp_view *sources, uint64_t *ret_bytes, sp_error *reterr)
{
    const sp_work_item *item = job->item;
    int inputs = head->input_count, wishes = head->wish_count;
    if (inputs > SP_INFER_PORTS || wishes > SP_INFER_PORTS || item->request->payload_offset)
        return SP_FAIL(reterr, SP_INTERNAL, "a head of %d inputs and %d outputs", inputs, wishes);
    memcpy(question->id, item->request->request_id, SP_MIN(sizeof(question->id), sizeof(item->request->request_id)) - 1);
    *ret_bytes = 0;
    for (int i = 0; i < inputs; i++) {
        sources[i] = head->inputs[i].in_output ? item->input : item->body;
        sp_status s = read_input(served, &head->inputs[i], sources[i], &question->inputs[i], reterr);
        if (s)
            return s;
        *ret_bytes += question->inputs[i].bytes;
        question->input_count++;
    }
    for (int i = 0; i < wishes; i++) {
        const sp_infer_wish wish = head->wishes[i];
        if (wish.port >= served->output_count)
            return SP_FAIL(reterr, SP_INTERNAL, "output %u is none of model %s", wish.port, served->model);
        sp_kserve_output *out = &question->outputs[question->output_count++];
        *out = (sp_kserve_output){ .binary = true, .has_binary = true, .classes = wish.classes };
        memcpy(out->name, served->names[served->input_count + wish.port], sizeof(out->name));
        job->wishes[i] = wish;
    }
    return *ret_bytes <= SP_LIMIT_BODIES_BYTES ? SP_OK : SP_FAIL(reterr, SP_TOO_LARGE, "the tensors are too large");
}

/* One behind the other, as they go over the wire. */
static sp_status join(net_job *job, const sp_kserve_request *question, const sp_view *sources, uint64_t bytes, sp_error *reterr)
{
    job->tensors = malloc(SP_MAX(bytes, (uint64_t)1));
    if (!job->tensors)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %llu bytes of tensors", (unsigned long long)bytes);
    uint64_t at = 0;
    for (int i = 0; i < question->input_count; i++) {
        if (question->inputs[i].bytes)
            memcpy(job->tensors + at, sources[i].data + question->inputs[i].offset, question->inputs[i].bytes);
        at += question->inputs[i].bytes;
    }
    sp_buf_init(&job->head, HEADER_BYTES);
    sp_kserve_request_write(question, &job->head);
    return sp_buf_ok(&job->head) ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for a request's head");
}

static sp_status make_question(net_job *job, uint64_t *ret_bytes, sp_error *reterr)
{
    const sp_infer_head *head = sp_worker_infer_head(job->item);
    sp_view sources[SP_INFER_PORTS];
    int at = place_of(job->net, head->model);
    if (at < 0)
        return SP_FAIL(reterr, SP_UNAVAILABLE, "the names of model number %u are not known here", head->model);
    job->served = job->net->served[at];
    job->wishes = calloc(SP_INFER_PORTS, sizeof(*job->wishes));
    job->wish_names = calloc(SP_INFER_PORTS, sizeof(*job->wish_names));
    sp_kserve_request *question = calloc(1, sizeof(*question)); /* 40 KiB */
    sp_status s = question && job->wishes && job->wish_names ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for a request");
    if (!s)
        s = read_head(job, job->served, head, question, sources, ret_bytes, reterr);
    if (!s) {
        job->wish_count = question->output_count;
        job->batched = question->input_count && question->inputs[0].rank ? (uint32_t)SP_CLAMP(question->inputs[0].dims[0], 1, 1 << 20) : 1;
        s = join(job, question, sources, *ret_bytes, reterr);
    }
    for (int i = 0; !s && i < job->wish_count; i++)
        memcpy(job->wish_names[i], question->outputs[i].name, sizeof(job->wish_names[i]));
    free(question);
    return s;
}

/* --- the answer ----------------------------------------------------------------------------------------------------- */

static sp_status bad(const net_job *job, sp_error *reterr, const char *why)
{
    return SP_FAIL_CODE(reterr, SP_CORRUPT, "bad_answer", "remote %s: its answer %s", job->remote->name, why);
}

static int wish_named(const net_job *job, const char *name)
{
    for (int i = 0; name && i < job->wish_count; i++) {
        if (strcmp(job->wish_names[i], name) == 0)
            return i;
    }
    return -1;
}

/* Type, shape and size of one output. */
static bool read_output(const json_t *from, sp_infer_output *to)
{
    const json_t *shape = json_object_get(from, "shape"), *side;
    const json_t *bytes = json_object_get(json_object_get(from, "parameters"), "binary_data_size");
    const char *type = json_string_value(json_object_get(from, "datatype"));
    size_t i;
    if (!type || !json_is_array(shape) || json_array_size(shape) > SP_INFER_RANK || !json_is_integer(bytes))
        return false;
    to->dtype = (uint8_t)sp_dtype_of_kserve(sp_view_make(type, strlen(type)));
    to->rank = (uint8_t)json_array_size(shape);
    json_array_foreach(shape, i, side)
        to->dims[i] = json_integer_value(side);
    to->bytes = (uint64_t)json_integer_value(bytes);
    return to->dtype && json_integer_value(bytes) >= 0;
}

/* Copies one output behind the others, in the form that is wished. False: there is no room. */
static bool put_output(uint8_t *base, uint64_t room, uint64_t *at, sp_view data, sp_infer_form form, sp_infer_output *out)
{
    out->offset = SP_ALIGN_UP(*at, (uint64_t)64);
    if (out->offset > room)
        return false;
    if (form == SP_FORM_JSON) {
        out->form = SP_FORM_JSON;
        out->bytes = sp_kserve_data_write(out->dtype, data.data, data.size_bytes, (char *)base + out->offset, room - out->offset);
    } else if (data.size_bytes <= room - out->offset && data.size_bytes) {
        memcpy(base + out->offset, data.data, data.size_bytes);
    }
    *at = out->offset + out->bytes;
    return out->bytes <= room - out->offset;
}

static sp_status put_outputs(net_job *job, const json_t *outputs, sp_view binary, sp_infer_answer *answer, uint64_t room,
                             uint64_t *ret_bytes, sp_error *reterr)
{
    uint64_t at = offsetof(sp_infer_answer, outputs) + (uint64_t)job->wish_count * sizeof(answer->outputs[0]), used = 0;
    size_t index;
    const json_t *one;
    json_array_foreach(outputs, index, one)
    {
        sp_infer_output out = { 0 };
        if (!read_output(one, &out) || out.bytes > binary.size_bytes - used)
            return bad(job, reterr, "describes a tensor that is not there");
        sp_view data = sp_view_make(binary.data + used, out.bytes);
        used += out.bytes;
        int wish = wish_named(job, json_string_value(json_object_get(one, "name")));
        if (wish < 0)
            continue;
        if (answer->count == (uint32_t)job->wish_count)
            return bad(job, reterr, "has a tensor twice");
        out.port = job->wishes[wish].port;
        if (job->wishes[wish].limit_bytes && out.bytes > job->wishes[wish].limit_bytes)
            return SP_FAIL(reterr, SP_INVALID, "output '%s' has %llu bytes, more than there is room for", job->wish_names[wish],
                           (unsigned long long)out.bytes);
        if (!put_output((uint8_t *)answer, room, &at, data, (sp_infer_form)job->wishes[wish].form, &out))
            return SP_FAIL(reterr, SP_TOO_LARGE, "remote %s: its answer has more than %llu bytes", job->remote->name,
                           (unsigned long long)room);
        answer->outputs[answer->count++] = out;
    }
    *ret_bytes = at;
    return answer->count == (uint32_t)job->wish_count ? SP_OK : bad(job, reterr, "lacks a tensor that was asked for");
}

static void put_text(char *dst, size_t size, const json_t *from)
{
    const char *text = json_string_value(from);
    (void)snprintf(dst, size, "%s", text ? text : "");
}

static sp_status put_answer(net_job *job, const sp_http_result *result, sp_error *reterr)
{
    sp_work_item *item = job->item;
    sp_answer_remote *remote = (sp_answer_remote *)(void *)item->answer;
    sp_infer_answer *answer = (sp_infer_answer *)(void *)(item->answer + sizeof(*remote));
    char *end = NULL;
    unsigned long long header = strtoull(result->kept[0], &end, 10);
    if (!*result->kept[0] || *end || header > result->body.size_bytes || header > SP_LIMIT_JSON_BYTES)
        return bad(job, reterr, "is not in the binary form that was asked for");
    json_error_t why;
    json_t *root = json_loadb((const char *)result->body.data, header, 0, &why);
    const json_t *outputs = json_object_get(root, "outputs");
    uint64_t bytes = 0;
    memset(remote, 0, sizeof(*remote));
    memset(answer, 0, offsetof(sp_infer_answer, outputs));
    (void)snprintf(remote->engine, sizeof(remote->engine), "kserve");
    put_text(remote->model, sizeof(remote->model), json_object_get(root, "model_name"));
    put_text(remote->version, sizeof(remote->version), json_object_get(root, "model_version"));
    sp_status s = json_is_array(outputs) ? SP_OK : bad(job, reterr, "has no tensors");
    if (!s)
        s = put_outputs(job, outputs, sp_view_make(result->body.data + header, result->body.size_bytes - header), answer,
                        SP_ANSWER_STRIDE - sizeof(*remote), &bytes, reterr);
    json_decref(root);
    answer->batch_rows = job->batched;
    answer->batch_leader = 1;
    answer->infer_ns = sp_clock_now_ns() - job->begun_ns;
    item->answer_touched = sizeof(*remote) + bytes;
    item->done.answer_bytes = (uint32_t)(sizeof(*remote) + bytes);
    return s;
}

static void infer_done(void *context, const sp_http_result *result)
{
    net_job *job = context;
    sp_work_item *item = job->item;
    job->call = NULL;
    item->done.retry_after_ns = result->retry_after_ns;
    if (result->status)
        item->status = net_remote_transport_failed(job, result, &item->error);
    else if (result->http_status != 200)
        item->status = sp_kserve_read_problem(result->http_status, result->body, &item->error);
    else
        item->status = put_answer(job, result, &item->error);
    net_job_finish(job);
}

void net_infer(net_job *job)
{
    sp_work_item *item = job->item;
    char url[sizeof(job->model_url) + 8], headers[NET_KSERVE_HEADERS_BYTES];
    uint64_t bytes = 0;
    sp_buf base;
    sp_status s = make_question(job, &bytes, &item->error);
    if (s) {
        net_job_fail(job, s);
        return;
    }
    sp_buf_init(&base, sizeof(job->model_url));
    sp_kserve_url(&base, job->remote->url, *job->remote->model ? job->remote->model : job->served->model);
    bool fits = sp_buf_ok(&base);
    (void)snprintf(url, sizeof(url), "%s/infer", fits ? (const char *)base.data : "");
    sp_buf_done(&base);
    if (!fits) {
        net_job_fail(job, SP_FAIL(&item->error, SP_UNAVAILABLE, "the URL of remote %s is too long", job->remote->name));
        return;
    }
    net_kserve_headers(job, headers);
    sp_http_request request = {
        .method = SP_HTTP_POST,
        .url = url,
        .headers = headers,
        .body = { sp_buf_view(&job->head), sp_view_make(job->tensors, bytes) },
        .keep_headers = { "Inference-Header-Content-Length" },
        .done = infer_done,
    };
    net_remote_fill(job, &request);
    if (!job->remote->response_limit_bytes)
        request.body_limit_bytes = SP_ANSWER_STRIDE;
    net_job_ask(job, &request);
}
