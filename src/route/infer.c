/* SPDX-License-Identifier: Apache-2.0
 * Tensors on their way back: what a worker wrote about its answer is copied once, and the copy is checked; the tensors
 * themselves stay in the worker's memory. And what a codec unpacked, which becomes the request's input. */
#include "base/clock.h"
#include "route/models.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES offsetof(sp_infer_answer, outputs)

void sp_infer_begin(sp_request *request, const sp_request_params *params)
{
    memset(request->head, 0, offsetof(sp_infer_head, inputs)); /* what the counts leave out is not looked at */
    request->head->model = params->model_id;
    request->pin = params->pin;
    request->unpacked = params->unpacked;
    request->unpacked_context = params->unpacked_context;
}

sp_infer_head *sp_request_infer_head(sp_request *request)
{
    return request->head;
}

void sp_request_set_unpack(sp_request *request, sp_encoding encoding, uint32_t header_bytes)
{
    request->shared->encoding = encoding;
    request->shared->header_bytes = header_bytes;
    request->wants_unpack = true;
}

void sp_request_end_unpacked(sp_request *request)
{
    request->ends_unpacked = true;
}

sp_status sp_request_output_read(const sp_request *request, uint64_t offset, void *dst, size_t size_bytes, sp_error *reterr)
{
    uint8_t *at = dst;
    if (offset > request->output_bytes || size_bytes > request->output_bytes - offset)
        return SP_FAIL(reterr, SP_INTERNAL, "fewer bytes were unpacked than was said");
    while (size_bytes) {
        ssize_t n = pread(request->output_fd, at, size_bytes, (off_t)offset);
        if (n <= 0)
            return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "reading what was unpacked");
        at += n;
        offset += (uint64_t)n;
        size_bytes -= (size_t)n;
    }
    return SP_OK;
}

void sp_request_set_picture(sp_request *request, size_t offset, size_t size_bytes)
{
    sp_request_set_payload(request, offset, size_bytes);
    request->has_picture = true;
}

bool sp_infer_wants_pixels(const sp_request *request)
{
    return request->task == SP_TASK_DETECT || (request->task == SP_TASK_INFER && request->has_picture);
}

void sp_request_set_pin(sp_request *request, sp_pin pin)
{
    request->pin = pin;
}

bool sp_infer_is_sequence(const sp_request *request)
{
    return request->task == SP_TASK_INFER && (request->head->sequence_id || request->head->sequence_text[0]);
}

bool sp_infer_is_lost(const sp_request *request)
{
    if (request->task != SP_TASK_INFER || !request->pin.incarnation)
        return false;
    const sp_house *house = request->house;
    if (request->pin.worker < 0 || request->pin.worker >= house->worker_count)
        return true;
    const sp_worker *worker = &house->workers[request->pin.worker];
    return worker->incarnation != request->pin.incarnation || worker->state != SP_WORKER_READY;
}

/* --- an answer ------------------------------------------------------------------------------------------------------ */

/* Elements of the shape; UINT64_MAX when there are more than an answer could hold. */
static uint64_t elements_of(const sp_infer_output *output)
{
    uint64_t count = 1;
    for (int i = 0; i < output->rank; i++) {
        if (output->dims[i] < 0 || output->dims[i] > (int64_t)SP_ANSWER_STRIDE)
            return UINT64_MAX;
        count *= (uint64_t)output->dims[i];
        if (count > SP_ANSWER_STRIDE)
            return UINT64_MAX;
    }
    return count;
}

static bool is_wanted(const sp_infer_head *head, uint16_t port)
{
    for (int i = 0; i < head->wish_count; i++) {
        if (head->wishes[i].port == port)
            return true;
    }
    return !head->wish_count;
}

/* NULL when it is sound; else what is wrong with it. */
static const char *look_at_output(const sp_infer_output *output, const sp_infer_head *head, uint64_t begin, uint64_t end)
{
    if (output->rank > SP_INFER_RANK || output->form > SP_FORM_JSON || output->port >= SP_INFER_PORTS)
        return "rank, form or port";
    if (output->offset < begin || output->offset > end || output->bytes > end - output->offset)
        return "place";
    if (!is_wanted(head, output->port))
        return "port, which was not asked for";
    uint64_t count = elements_of(output);
    size_t each = sp_dtype_bytes(output->dtype);
    if (count == UINT64_MAX || (!each && output->dtype != SP_DTYPE_BYTES))
        return "shape or type";
    if (output->form == SP_FORM_JSON)
        return output->bytes >= 2 ? NULL : "text";
    if (output->dtype == SP_DTYPE_BYTES ? output->bytes < 4 * count : output->bytes != each * count)
        return "size";
    return NULL;
}

static void clamp_times(int64_t *times, int count)
{
    for (int i = 0; i < count; i++)
        times[i] = SP_CLAMP(times[i], (int64_t)0, (int64_t)SP_LIMIT_DEADLINE_MAX_MS * SP_NS_PER_MS);
}

static sp_status take_steps(const sp_worker *worker, sp_answer *answer, const uint8_t *source, uint32_t size_bytes, uint32_t count,
                            uint64_t *end)
{
    static sp_infer_step steps[SP_LIMIT_ENSEMBLE_STEPS]; /* loop thread only, like the head */
    uint64_t bytes = (uint64_t)count * sizeof(steps[0]);
    if (count > SP_LIMIT_ENSEMBLE_STEPS || bytes > *end - HEAD_BYTES)
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote %u steps into %u bytes", worker->name, count, size_bytes);
    *end -= bytes;
    memcpy(steps, source + *end, bytes);
    for (uint32_t i = 0; i < count; i++) {
        steps[i].status = steps[i].status < SP_STATUS_COUNT ? steps[i].status : SP_INTERNAL;
        clamp_times(&steps[i].queue_ns, 4);
    }
    answer->steps = steps;
    answer->step_count = (int)count;
    return SP_OK;
}

sp_status sp_infer_take(const sp_worker *worker, sp_request *request, const sp_completion *done, uint32_t offset,
                        uint32_t size_bytes)
{
    static sp_infer_answer head; /* loop thread only; the callback reads it before it returns */
    _Static_assert(offsetof(sp_infer_step, output_ns) == offsetof(sp_infer_step, queue_ns) + 3 * sizeof(int64_t) &&
                   offsetof(sp_infer_answer, output_ns) == offsetof(sp_infer_answer, queue_ns) + 3 * sizeof(int64_t),
                   "four times in a row");
    sp_answer *answer = &request->answer;
    const uint8_t *source = worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE + offset;
    uint64_t end = size_bytes;
    if (end < HEAD_BYTES || end + offset > SP_ANSWER_STRIDE)
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote an answer of %u bytes", worker->name, done->answer_bytes);
    memcpy(&head, source, HEAD_BYTES);
    uint64_t begin = HEAD_BYTES + (uint64_t)head.count * sizeof(head.outputs[0]);
    if (head.count > SP_INFER_PORTS || begin > end)
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote %u outputs into %u bytes", worker->name, head.count,
                       done->answer_bytes);
    memcpy(head.outputs, source + HEAD_BYTES, begin - HEAD_BYTES);
    if (head.step_count) {
        sp_status s = take_steps(worker, answer, source, size_bytes, head.step_count, &end);
        if (s)
            return s;
    }
    for (uint32_t i = 0; i < head.count; i++) {
        const char *wrong = look_at_output(&head.outputs[i], request->head, begin, end);
        if (wrong)
            return SP_FAIL(&answer->error, SP_INTERNAL, "%s described output %u wrongly: %s", worker->name, i, wrong);
    }
    clamp_times(&head.queue_ns, 4);
    answer->infer = &head;
    answer->infer_data = source;
    answer->memory = worker->memory;
    if (worker->role == SP_ROLE_DEVICE) /* a remote keeps nothing for us */
        answer->pin = (sp_pin){ .worker = worker->index, .incarnation = worker->incarnation };
    return SP_OK;
}

/* --- unpacked ------------------------------------------------------------------------------------------------------- */

sp_status sp_infer_unpacked(const sp_worker *worker, sp_request *request, const sp_completion *done)
{
    sp_error *err = &request->answer.error;
    struct stat st;
    if (done->answer_bytes > SP_LIMIT_UNPACKED_HEADER_BYTES || request->output_fd < 0 || fstat(request->output_fd, &st) < 0 ||
        done->output_bytes > (uint64_t)st.st_size)
        return SP_FAIL(err, SP_INTERNAL, "%s described wrongly what it unpacked", worker->name);
    char *header = malloc((size_t)done->answer_bytes + 1);
    if (!header)
        return SP_FAIL(err, SP_NOMEM, "no memory for a header of %u bytes", done->answer_bytes);
    memcpy(header, worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE, done->answer_bytes);
    header[done->answer_bytes] = 0;
    request->output_kind = done->output_bytes ? SP_OUTPUT_BYTES : SP_OUTPUT_NONE;
    request->output_bytes = done->output_bytes;
    request->wants_unpack = false;
    sp_status s = request->unpacked(request, sp_view_make(header, done->answer_bytes), done->output_bytes,
                                    request->unpacked_context, err);
    free(header);
    return s;
}
