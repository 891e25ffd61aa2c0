/* SPDX-License-Identifier: Apache-2.0
 * model_warmup: a model is loaded when it has run on what its configuration says. Inputs are zeros, random numbers from a
 * fixed seed (bytes of any value; BYTES stay empty) or a file under <model>/warmup. */
#include "worker/hall_internal.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WARMUP_BYTES_MOST ((uint64_t)512 * 1024 * 1024) /* of one input: more is a mistake in the configuration */
#define WARMUP_COUNT_MOST 1000u

static sp_status read_whole(const char *path, uint8_t *room, size_t bytes, sp_error *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, errno == ENOENT ? SP_NOT_FOUND : SP_UNAVAILABLE, "%s", path);
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = read(fd, room + done, bytes - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    sp_fd_closep(&fd);
    return done == bytes ? SP_OK : SP_FAIL(reterr, SP_INVALID, "%s has %zu bytes, its tensor %zu", path, done, bytes);
}

/* Small positive numbers in any numeric type would need its meaning; random bytes of floats would be NaN. So: floats in
 * [0, 1), integers 0 or 1. */
static void fill_random(uint8_t *room, size_t bytes, int dtype)
{
    uint64_t state = 1;
    size_t element = sp_dtype_bytes(dtype);
    for (size_t at = 0; at + element <= bytes; at += element) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        double unit = (double)(state >> 40) / (double)(1 << 24);
        float single = (float)unit;
        uint64_t bit = state >> 63;
        if (dtype == SP_ENGINE_F32)
            memcpy(room + at, &single, element);
        else if (dtype == SP_ENGINE_F64)
            memcpy(room + at, &unit, element);
        else if (dtype != SP_ENGINE_F16 && dtype != SP_ENGINE_BF16) /* those stay 0 */
            memcpy(room + at, &bit, element); /* little endian */
    }
}

static const sp_warmup_input *find_input(const sp_warmup *warmup, const char *name)
{
    for (int i = 0; i < warmup->input_count; i++)
        if (strcmp(warmup->inputs[i].name, name) == 0)
            return &warmup->inputs[i];
    return NULL;
}

static sp_status fill_input(const sp_hall_model *model, const sp_warmup *warmup, int index, const sp_warmup_input *input,
                            sp_engine_tensor *tensor, sp_error *reterr)
{
    int port = model->inputs[index].config, first = model->batches ? 1 : 0, rank;
    int64_t dims[SP_INFER_RANK + 1] = { SP_MAX((int64_t)warmup->batch_size, 1) };
    uint64_t elements;
    memcpy(dims + first, input->dims, sizeof(input->dims[0]) * input->rank);
    bool fits = input->rank + first <= SP_INFER_RANK &&
                sp_hall_shape_in(&model->config->inputs[port], model->batches, dims, input->rank + first, tensor->dims, &rank) &&
                sp_hall_elements(dims, input->rank + first, &elements) && elements <= WARMUP_BYTES_MOST / 8;
    if (!fits)
        return SP_FAIL(reterr, SP_INVALID, "warm-up '%s': the shape of input '%s' does not fit", warmup->name, input->name);
    size_t element = sp_dtype_bytes(model->inputs[index].dtype), bytes = (size_t)elements * (element ? element : 4);
    uint8_t *room = sp_hall_buffer_room(&model->lanes[0].inputs[index], bytes);
    if (!room)
        return SP_FAIL(reterr, SP_NOMEM, "warm-up '%s': no memory for %zu bytes", warmup->name, bytes);
    memset(room, 0, bytes); /* strings: lengths of 0 */
    if (input->source == SP_WARMUP_FILE) {
        char path[1024 + SP_LIMIT_SERVED_NAME_BYTES + 16];
        if (strstr(input->file, "..") || input->file[0] == '/' || !element)
            return SP_FAIL(reterr, SP_INVALID, "warm-up '%s': '%s' cannot be input '%s'", warmup->name, input->file, input->name);
        (void)snprintf(path, sizeof(path), "%s/warmup/%s", model->spec->directory, input->file);
        sp_status s = read_whole(path, room, bytes, reterr);
        if (s)
            return s;
    } else if (input->source == SP_WARMUP_RANDOM && element) {
        fill_random(room, bytes, model->inputs[index].dtype);
    }
    tensor->data = room;
    tensor->size_bytes = bytes;
    tensor->rank = rank;
    return SP_OK;
}

static sp_status run_warmup(sp_hall_model *model, const sp_warmup *warmup, sp_error *reterr)
{
    sp_engine_tensor inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
    for (int i = 0; i < model->input_count; i++) {
        inputs[i] = (sp_engine_tensor){ .dtype = model->inputs[i].dtype, .rank = SP_ENGINE_ABSENT };
        const sp_warmup_input *input =
            model->inputs[i].config >= 0 ? find_input(warmup, model->config->inputs[model->inputs[i].config].name) : NULL;
        sp_status s = input ? fill_input(model, warmup, i, input, &inputs[i], reterr) : SP_OK;
        if (s)
            return s;
    }
    uint32_t count = SP_CLAMP(warmup->count, 1u, WARMUP_COUNT_MOST);
    for (int lane = 0; lane < model->instances; lane++) {
        for (uint32_t turn = 0; turn < (lane ? 1 : count); turn++) {
            for (int i = 0; i < model->output_count; i++)
                outputs[i] = (sp_engine_tensor){ .dtype = model->outputs[i].dtype };
            sp_status s = sp_session_run(model->session, lane, inputs, model->input_count, outputs, model->output_count, reterr);
            if (s)
                return s;
        }
    }
    return SP_OK;
}

/* Zeros in the shape that the configuration says; false: a dimension is open, or the type has no fixed size. */
static bool fill_bucket(const sp_hall_model *model, int index, int64_t rows, sp_engine_tensor *tensor)
{
    const sp_engine_port *port = &sp_session_ports(model->session)->inputs[index];
    uint64_t elements;
    int rank;
    *tensor = (sp_engine_tensor){ .dtype = model->inputs[index].dtype, .rank = SP_ENGINE_ABSENT };
    if (model->inputs[index].config >= 0 && model->config->inputs[model->inputs[index].config].optional)
        return true;
    if (!sp_hall_shape_known(port, true, rows, tensor->dims, &rank) || !sp_hall_elements(tensor->dims, rank, &elements) ||
        elements > WARMUP_BYTES_MOST / 8)
        return false;
    size_t bytes = (size_t)elements * sp_dtype_bytes(tensor->dtype);
    tensor->data = sp_hall_buffer_room(&model->lanes[0].inputs[index], bytes);
    tensor->rank = rank;
    tensor->size_bytes = bytes;
    if (tensor->data)
        memset(tensor->data, 0, bytes);
    return tensor->data != NULL;
}

static sp_status warm_bucket(sp_hall_model *model, int64_t rows, bool *ret_known, sp_error *reterr)
{
    sp_engine_tensor inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
    sp_status s = SP_OK;
    *ret_known = true;
    for (int i = 0; i < model->input_count && *ret_known; i++)
        *ret_known = fill_bucket(model, i, rows, &inputs[i]);
    for (int turn = 0; turn < SP_BUCKET_WARM_UPS && *ret_known && !s; turn++) {
        for (int i = 0; i < model->output_count; i++)
            outputs[i] = (sp_engine_tensor){ .dtype = model->outputs[i].dtype };
        s = sp_session_run(model->session, 0, inputs, model->input_count, outputs, model->output_count, reterr);
    }
    return s;
}

/* One lane will do: lanes share what the library keeps for a shape. That a larger batch has no memory is no failure: such are made
 * smaller when they come (batch_limit.h); nor is it one that a model has no use for zeros. */
sp_status sp_hall_model_warm_buckets(sp_hall_model *model, sp_error *reterr)
{
    bool known = true;
    for (int64_t rows = 1; rows && known && model->bucket_most; rows = sp_bucket_after(rows, model->bucket_most)) {
        sp_error err = { 0 };
        sp_status s = warm_bucket(model, rows, &known, &err);
        if (s == SP_UNAVAILABLE || (s == SP_NOMEM && rows == 1))
            return SP_FAIL_CODE(reterr, s, err.code[0] ? err.code : "warmup", "a batch of %lld of zeros for '%.60s': %.160s",
                                (long long)rows, model->config->name, err.message);
        if (s) {
            sp_log_error("batches are not warmed up further", NULL, &err);
            break;
        }
    }
    return SP_OK;
}

sp_status sp_hall_model_warm(const sp_hall *hall, sp_hall_model *model, sp_error *reterr)
{
    (void)hall;
    for (int i = 0; !model->identity && i < model->config->warmup_count; i++) {
        sp_error err = { 0 };
        sp_status s = run_warmup(model, &model->config->warmups[i], &err);
        if (s)
            return SP_FAIL_CODE(reterr, s, "warmup", "warm-up '%.60s' of '%.60s': %.120s", model->config->warmups[i].name,
                                model->config->name, err.message);
    }
    return SP_OK;
}
