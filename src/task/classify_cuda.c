/* SPDX-License-Identifier: Apache-2.0
 * See classify_cuda.h.
 *
 * What a lane keeps of a batch, the same places on the device and, for what cannot be copied from where it lies, in pinned
 * memory:
 *
 *   | picture 0 | picture 1 | tensor 2 | ...      cuda_places.h; never less than max_batch tensors
 *
 * A picture for which there is no room, because the batch before it was of smaller ones, is prepared on the host, to the same
 * bits; the next batch finds more room. So nothing is allocated while pictures are of sizes that were seen before. */
#include "task/classify_cuda.h"

#include "base/view.h"
#include "engine/bucket.h"
#include "kernels/cuda_places.h"
#include "kernels/cuda_post.h"
#include "kernels/cuda_prep.h"
#include "kernels/prep_run.h"
#include "media/nvjpeg.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct place {
    size_t offset;
    int w, h; /* 0: a tensor */
} place;

typedef struct cuda_lane {
    sp_cuda_stream *copies;
    sp_cuda_event *arrived, *answered;
    sp_cuda_places room;
    size_t used;
    size_t asked;  /* what would have held this batch so far */
    size_t wanted; /* the largest of that of any batch */
    size_t most;   /* no more than this is tried for */
    place places[SP_LIMIT_BATCH];
    sp_prep_scratch *scratch;
    sp_nvjpeg *nvjpeg; /* NULL: it takes no JPEG files */
    int answered_k, answered_count; /* of the last run; k = 0: ranked on the host */
    uint8_t *answers;               /* pinned */
} cuda_lane;

struct sp_classify_cuda {
    const sp_cuda_api *api;
    sp_cuda *device;
    sp_cuda_stream *computing;
    sp_classify_cuda_shape shape;
    bool ranks; /* on the device */
    int most_k;
    pthread_mutex_t turn; /* guards the session and what follows: one batch is enqueued at a time */
    sp_cuda_prep *prep;
    uint8_t *input;  /* max_batch tensors */
    uint8_t *output; /* max_batch rows */
    float *values, *probabilities, *best;
    int32_t *ids, *first_bad;
    void *topk_space;
    sp_engine_tensor *outputs; /* one per output of the model */
    cuda_lane *lanes;
};

/* --- reserving ------------------------------------------------------------------------------------------------------- */

sp_status sp_classify_cuda_new(const sp_cuda_api *api, sp_cuda *device, sp_classify_cuda **ret_cuda, sp_error *reterr)
{
    sp_classify_cuda *cuda = calloc(1, sizeof(*cuda));
    if (!cuda)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a device's lanes");
    cuda->api = api;
    cuda->device = device;
    (void)pthread_mutex_init(&cuda->turn, NULL); /* cannot fail with default attributes */
    sp_status s = api->stream_new(device, &cuda->computing, reterr);
    if (s)
        sp_classify_cuda_free(cuda);
    else
        *ret_cuda = cuda;
    return s;
}

void *sp_classify_cuda_stream(const sp_classify_cuda *cuda)
{
    return cuda->api->stream_raw(cuda->computing);
}

static size_t tensor_room(const sp_classify_cuda *cuda)
{
    return SP_ALIGN_UP(cuda->shape.tensor_bytes, SP_CUDA_PLACE_ALIGN);
}

static size_t answer_bytes(const sp_classify_cuda *cuda)
{
    size_t ranked = (size_t)cuda->shape.max_batch * ((size_t)cuda->most_k * (sizeof(int32_t) + sizeof(float)) + sizeof(int32_t));
    return SP_MAX(ranked, (size_t)cuda->shape.max_batch * cuda->shape.row_bytes);
}

static sp_status reserve_lane(sp_classify_cuda *cuda, cuda_lane *lane, sp_error *reterr)
{
    const sp_cuda_api *api = cuda->api;
    void *answers = NULL;
    sp_status s = api->stream_new(cuda->device, &lane->copies, reterr);
    if (!s)
        s = api->event_new(cuda->device, false, &lane->arrived, reterr);
    if (!s)
        s = api->event_new(cuda->device, false, &lane->answered, reterr);
    if (!s)
        s = sp_cuda_places_renew(api, cuda->device, &lane->room, (size_t)cuda->shape.max_batch * tensor_room(cuda), reterr);
    if (!s)
        s = api->pinned_new(cuda->device, answer_bytes(cuda), &answers, reterr);
    if (s)
        return s;
    lane->answers = answers;
    lane->most = SP_MAX(SP_LIMIT_CUDA_PLACES_BYTES, lane->room.bytes);
    if (cuda->shape.nvjpeg)
        (void)sp_nvjpeg_new(&lane->nvjpeg, NULL); /* this lane goes without; the worker has tried one and said so */
    lane->scratch = sp_prep_scratch_new();
    return lane->scratch ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory to prepare pictures");
}

/* What the computing stream works in. */
static sp_status reserve_computing(sp_classify_cuda *cuda, sp_error *reterr)
{
    const sp_cuda_api *api = cuda->api;
    const sp_cuda_post_api *post = api->post;
    size_t rows = (size_t)cuda->shape.max_batch, n = cuda->shape.model->class_count, k = (size_t)cuda->most_k;
    const struct {
        void **ret;
        size_t bytes;
    } parts[] = {
        { (void **)&cuda->input, rows * cuda->shape.tensor_bytes },
        { (void **)&cuda->output, rows * cuda->shape.row_bytes },
        { (void **)&cuda->values, cuda->ranks && cuda->shape.output->dtype == SP_ENGINE_F16 ? rows * n * sizeof(float) : 0 },
        { (void **)&cuda->probabilities, cuda->ranks ? rows * n * sizeof(float) : 0 },
        { (void **)&cuda->best, cuda->ranks ? 2 * rows * k * sizeof(float) : 0 },
        { (void **)&cuda->ids, cuda->ranks ? rows * k * sizeof(int32_t) : 0 },
        { (void **)&cuda->first_bad, cuda->ranks ? rows * sizeof(int32_t) : 0 },
        { &cuda->topk_space, cuda->ranks ? post->topk_space((int)rows, (int)n, (int)k) : 0 },
    };
    sp_status s = api->prep->prep_new(cuda->device, &cuda->shape.model->prep, (int)rows, &cuda->prep, reterr);
    for (size_t i = 0; i < SP_ARRAY_LEN(parts) && !s; i++)
        if (parts[i].bytes)
            s = api->reserve(cuda->device, parts[i].bytes, parts[i].ret, reterr);
    /* Rows that only fill a batch up are run too: numbers, whatever lay there. */
    if (!s)
        s = api->fill(cuda->computing, cuda->input, 0, rows * cuda->shape.tensor_bytes, reterr);
    return s;
}

sp_status sp_classify_cuda_reserve(sp_classify_cuda *cuda, const sp_classify_cuda_shape *shape, sp_error *reterr)
{
    const sp_cuda_post_api *post = cuda->api->post;
    cuda->shape = *shape;
    cuda->most_k = SP_MIN((int)shape->model->class_count, SP_LIMIT_TOP_K);
    cuda->ranks = post && post->softmax_f32 && post->topk_f32 && post->gather_f32 && post->first_bad_f32 &&
                  (shape->output->dtype == SP_ENGINE_F32 || post->widen_f16);
    cuda->outputs = calloc((size_t)sp_session_ports(shape->session)->output_count, sizeof(*cuda->outputs));
    cuda->lanes = calloc((size_t)shape->lanes, sizeof(*cuda->lanes));
    if (!cuda->outputs || !cuda->lanes)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %d lanes", shape->lanes);
    sp_status s = reserve_computing(cuda, reterr);
    for (int i = 0; i < shape->lanes && !s; i++)
        s = reserve_lane(cuda, &cuda->lanes[i], reterr);
    return s ? s : cuda->api->stream_sync(cuda->computing, reterr);
}

static void free_lane(sp_classify_cuda *cuda, cuda_lane *lane)
{
    const sp_cuda_api *api = cuda->api;
    if (lane->copies)
        (void)api->stream_sync(lane->copies, NULL); /* whatever it says, it is over */
    sp_nvjpeg_free(lane->nvjpeg);
    sp_cuda_places_done(api, cuda->device, &lane->room);
    api->pinned_free(cuda->device, lane->answers);
    if (lane->arrived)
        api->event_free(lane->arrived);
    if (lane->answered)
        api->event_free(lane->answered);
    if (lane->copies)
        api->stream_free(lane->copies);
    sp_prep_scratch_free(lane->scratch);
}

void sp_classify_cuda_free(sp_classify_cuda *cuda)
{
    if (!cuda)
        return;
    const sp_cuda_api *api = cuda->api;
    if (cuda->computing)
        (void)api->stream_sync(cuda->computing, NULL); /* whatever it says, it is over */
    for (int i = 0; cuda->lanes && i < cuda->shape.lanes; i++)
        free_lane(cuda, &cuda->lanes[i]);
    if (cuda->prep)
        api->prep->prep_free(cuda->prep);
    void *const parts[] = { cuda->input, cuda->output, cuda->values, cuda->probabilities, cuda->best, cuda->ids, cuda->first_bad,
                            cuda->topk_space };
    for (size_t i = 0; i < SP_ARRAY_LEN(parts); i++)
        api->release(cuda->device, parts[i]);
    if (cuda->computing)
        api->stream_free(cuda->computing);
    (void)pthread_mutex_destroy(&cuda->turn);
    free(cuda->outputs);
    free(cuda->lanes);
    free(cuda);
}

/* --- copying in ------------------------------------------------------------------------------------------------------ */

/* Room for items behind `index` that are tensors. */
static size_t rest_of(const sp_classify_cuda *cuda, int index)
{
    return (size_t)(cuda->shape.max_batch - 1 - index) * tensor_room(cuda);
}

/* The lane's next batch begins: nothing is kept any more, so it may become wider. That there is no memory for it is no failure:
 * so much is not asked for again. */
static void begin_batch(sp_classify_cuda *cuda, cuda_lane *lane, size_t first_bytes)
{
    lane->used = lane->asked = 0;
    size_t wanted = SP_MIN(SP_MAX(lane->wanted, first_bytes + rest_of(cuda, 0)), lane->most);
    if (wanted > lane->room.bytes &&
        sp_cuda_places_renew(cuda->api, cuda->device, &lane->room, SP_MIN(wanted + wanted / 4, lane->most), NULL))
        lane->most = lane->room.bytes;
}

/* For `bytes` of item `index`, so that those behind it have room for their tensors; NULL = there is none. It is taken when the
 * item is copied: one that cannot be leaves its place to the next. */
static place *find_place(sp_classify_cuda *cuda, cuda_lane *lane, int index, size_t bytes)
{
    size_t room = SP_ALIGN_UP(bytes, SP_CUDA_PLACE_ALIGN);
    if (index == 0)
        begin_batch(cuda, lane, room);
    lane->asked += room;
    lane->wanted = SP_MAX(lane->wanted, lane->asked + rest_of(cuda, index));
    if (lane->used + room + rest_of(cuda, index) > lane->room.bytes)
        return NULL;
    lane->places[index] = (place){ .offset = lane->used };
    return &lane->places[index];
}

static sp_status take_in(sp_classify_cuda *cuda, cuda_lane *lane, const place *at, const void *from, size_t bytes, bool pinned,
                         sp_error *reterr)
{
    const void *source = from;
    if (!pinned) {
        source = lane->room.staging + at->offset;
        if (from != source)
            memcpy(lane->room.staging + at->offset, from, bytes);
    }
    sp_status s = cuda->api->copy_in(lane->copies, lane->room.device + at->offset, source, bytes, reterr);
    if (!s)
        lane->used = at->offset + SP_ALIGN_UP(bytes, SP_CUDA_PLACE_ALIGN);
    return s;
}

sp_status sp_classify_cuda_tensor(sp_classify_cuda *cuda, int lane_index, int index, const void *tensor, bool pinned,
                                  sp_error *reterr)
{
    cuda_lane *lane = &cuda->lanes[lane_index];
    const place *at = find_place(cuda, lane, index, cuda->shape.tensor_bytes);
    SP_ASSERT(at); /* a lane is never narrower than its tensors */
    return take_in(cuda, lane, at, tensor, cuda->shape.tensor_bytes, pinned, reterr);
}

static sp_status prepare_on_host(sp_classify_cuda *cuda, cuda_lane *lane, int index, const uint8_t *rgb, int w, int h,
                                 sp_error *reterr)
{
    place *at = &lane->places[index];
    *at = (place){ .offset = lane->used };
    uint8_t *room = lane->room.staging + at->offset;
    sp_status s = sp_prep_image(&cuda->shape.model->prep, rgb, w, h, (size_t)w * 3, room, lane->scratch, reterr);
    return s ? s : take_in(cuda, lane, at, room, cuda->shape.tensor_bytes, false, reterr);
}

sp_status sp_classify_cuda_picture(sp_classify_cuda *cuda, int lane_index, int index, const uint8_t *rgb, int w, int h, bool pinned,
                                   sp_error *reterr)
{
    cuda_lane *lane = &cuda->lanes[lane_index];
    sp_prep_geometry geometry;
    sp_status s = sp_prep_geometry_of(&cuda->shape.model->prep, w, h, &geometry, reterr);
    if (s)
        return s; /* a bad size is its item's own affair, not the batch's */
    place *at = find_place(cuda, lane, index, (size_t)w * (size_t)h * 3);
    if (!at)
        return prepare_on_host(cuda, lane, index, rgb, w, h, reterr);
    at->w = w;
    at->h = h;
    return take_in(cuda, lane, at, rgb, (size_t)w * (size_t)h * 3, pinned, reterr);
}

/* Into the lane's memory, on its stream: behind it the picture lies there as a copied one does. */
sp_status sp_classify_cuda_jpeg(sp_classify_cuda *cuda, int lane_index, int index, sp_view file, sp_error *reterr)
{
    cuda_lane *lane = &cuda->lanes[lane_index];
    sp_jpeg_plain plain;
    sp_prep_geometry geometry;
    if (!lane->nvjpeg)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "off", "nvJPEG is not at hand here");
    sp_status s = sp_jpeg_plain_read(file, &plain, reterr);
    if (s)
        return s;
    if (sp_prep_geometry_of(&cuda->shape.model->prep, plain.width, plain.height, &geometry, NULL))
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "unusual", "a picture of %d x %d", plain.width, plain.height);
    size_t bytes = (size_t)plain.width * (size_t)plain.height * 3;
    place *at = find_place(cuda, lane, index, bytes);
    if (!at)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_room", "no room in this batch for a picture of %d x %d", plain.width, plain.height);
    s = sp_nvjpeg_decode(lane->nvjpeg, file, &plain, lane->room.device + at->offset, cuda->api->stream_raw(lane->copies), reterr);
    if (s && cuda->api->stream_sync(lane->copies, NULL) == SP_UNAVAILABLE) /* half a picture may be on its way */
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "sticky", "the device failed while it decoded a picture");
    if (s)
        return s;
    at->w = plain.width;
    at->h = plain.height;
    lane->used = at->offset + SP_ALIGN_UP(bytes, SP_CUDA_PLACE_ALIGN);
    return SP_OK;
}

/* --- computing ------------------------------------------------------------------------------------------------------- */

/* Neighbours of one kind together: pictures are prepared, tensors moved, to their places in the input. */
static sp_status fill_input(sp_classify_cuda *cuda, const cuda_lane *lane, int first, int count, sp_error *reterr)
{
    const size_t bytes = cuda->shape.tensor_bytes;
    sp_cuda_picture pictures[SP_LIMIT_BATCH];
    sp_status s = SP_OK;
    for (int i = 0; i < count && !s;) {
        const place *at = &lane->places[first + i];
        uint8_t *dst = cuda->input + (size_t)i * bytes;
        int n = 0;
        for (; i + n < count && at[n].w; n++)
            pictures[n] = (sp_cuda_picture){ .rgb = lane->room.device + at[n].offset, .w = at[n].w, .h = at[n].h,
                                             .stride_bytes = (size_t)at[n].w * 3 };
        if (n)
            s = cuda->api->prep->prep_batch(cuda->prep, cuda->computing, pictures, n, dst, reterr);
        else
            s = cuda->api->copy_on(cuda->computing, dst, lane->room.device + at->offset, bytes, reterr);
        i += SP_MAX(n, 1);
    }
    return s;
}

static sp_status run_engine(sp_classify_cuda *cuda, int count, sp_error *reterr)
{
    const sp_engine_ports *ports = sp_session_ports(cuda->shape.session);
    const sp_prep_spec *prep = &cuda->shape.model->prep;
    int bucket = (int)sp_bucket_of(count, cuda->shape.max_batch);
    const sp_engine_tensor input = { .data = cuda->input,
                                     .size_bytes = cuda->shape.tensor_bytes * (size_t)bucket,
                                     .dtype = prep->dtype,
                                     .memory = SP_ENGINE_CUDA,
                                     .device_index = cuda->shape.device_index,
                                     .rank = 4,
                                     .dims = { bucket, 3, prep->crop_h, prep->crop_w } };
    for (int i = 0; i < ports->output_count; i++) /* the others are nobody's business here */
        cuda->outputs[i] = (sp_engine_tensor){ .dtype = ports->outputs[i].dtype, .rank = SP_ENGINE_ABSENT };
    sp_engine_tensor *output = &cuda->outputs[cuda->shape.model->output_index];
    output->data = cuda->output;
    output->size_bytes = cuda->shape.row_bytes * (size_t)bucket;
    output->memory = SP_ENGINE_CUDA;
    output->device_index = cuda->shape.device_index;
    output->rank = cuda->shape.output->rank;
    for (int i = 0; i < output->rank; i++)
        output->dims[i] = i == 0 ? bucket : i == 1 ? (int64_t)cuda->shape.model->class_count : 1;
    return sp_session_run(cuda->shape.session, 0, &input, 1, cuda->outputs, ports->output_count, reterr);
}

/* The answers of one run in a lane's pinned memory: | ids count x k | probabilities count x k | first bad count | */
static int32_t *ids_of(const cuda_lane *lane)
{
    return (int32_t *)(void *)lane->answers;
}
static float *probabilities_of(const cuda_lane *lane, int count, int k)
{
    return (float *)(void *)(lane->answers + (size_t)count * (size_t)k * sizeof(int32_t));
}
static int32_t *first_bad_of(const cuda_lane *lane, int count, int k)
{
    return (int32_t *)(void *)(probabilities_of(lane, count, k) + (size_t)count * (size_t)k);
}

/* As sp_rank_top, row by row: ranked by the model's own numbers, answered with the probabilities. */
static sp_status rank(sp_classify_cuda *cuda, cuda_lane *lane, int count, int k, sp_error *reterr)
{
    const sp_cuda_post_api *post = cuda->api->post;
    sp_cuda_stream *stream = cuda->computing;
    int n = (int)cuda->shape.model->class_count;
    float *values = cuda->values ? cuda->values : (float *)(void *)cuda->output, *probabilities = values;
    float *answers = cuda->best + (size_t)cuda->shape.max_batch * (size_t)cuda->most_k;
    sp_status s = SP_OK;
    if (cuda->values)
        s = post->widen_f16(stream, cuda->values, (const uint16_t *)(const void *)cuda->output, (size_t)count * (size_t)n, reterr);
    if (!s)
        s = post->first_bad_f32(stream, cuda->first_bad, values, count, n, reterr);
    if (!s && cuda->shape.model->meaning != SP_OUTPUT_PROBABILITIES) {
        probabilities = cuda->probabilities;
        s = post->softmax_f32(stream, probabilities, values, count, n, reterr);
    }
    if (!s)
        s = post->topk_f32(stream, cuda->ids, cuda->best, values, count, n, k, cuda->topk_space, reterr);
    if (!s)
        s = post->gather_f32(stream, answers, probabilities, cuda->ids, count, n, k, reterr);
    size_t bytes = (size_t)count * (size_t)k * sizeof(int32_t);
    if (!s)
        s = cuda->api->copy_out(stream, ids_of(lane), cuda->ids, bytes, reterr);
    if (!s)
        s = cuda->api->copy_out(stream, probabilities_of(lane, count, k), answers, bytes, reterr);
    if (!s)
        s = cuda->api->copy_out(stream, first_bad_of(lane, count, k), cuda->first_bad, (size_t)count * sizeof(int32_t), reterr);
    return s;
}

static sp_status enqueue(sp_classify_cuda *cuda, cuda_lane *lane, int first, int count, int k, sp_error *reterr)
{
    const sp_cuda_api *api = cuda->api;
    sp_status s = api->event_wait(cuda->computing, lane->arrived, reterr);
    if (!s)
        s = fill_input(cuda, lane, first, count, reterr);
    if (!s)
        s = run_engine(cuda, count, reterr);
    if (!s && k)
        s = rank(cuda, lane, count, k, reterr);
    else if (!s)
        s = api->copy_out(cuda->computing, lane->answers, cuda->output, (size_t)count * cuda->shape.row_bytes, reterr);
    return s ? s : api->event_record(lane->answered, cuda->computing, reterr);
}

/* After a failure: nothing reads from a request's memory, nor writes to the lane's, any more. */
static void settle(sp_classify_cuda *cuda, cuda_lane *lane)
{
    (void)cuda->api->stream_sync(lane->copies, NULL); /* the failure is known already, these two */
    (void)cuda->api->stream_sync(cuda->computing, NULL);
}

sp_status sp_classify_cuda_run(sp_classify_cuda *cuda, int lane_index, int first, int count, int top_k, sp_error *reterr)
{
    cuda_lane *lane = &cuda->lanes[lane_index];
    int k = cuda->ranks ? SP_CLAMP(top_k, 1, cuda->most_k) : 0;
    lane->answered_k = k;
    lane->answered_count = count;
    sp_status s = cuda->api->event_record(lane->arrived, lane->copies, reterr);
    if (!s) {
        (void)pthread_mutex_lock(&cuda->turn);
        s = enqueue(cuda, lane, first, count, k, reterr);
        (void)pthread_mutex_unlock(&cuda->turn);
    }
    if (!s)
        s = cuda->api->event_sync(lane->answered, reterr);
    if (s)
        settle(cuda, lane);
    return s;
}

/* --- answering ------------------------------------------------------------------------------------------------------- */

sp_status sp_classify_cuda_answer(sp_classify_cuda *cuda, int lane_index, int index, int top_k, sp_class_score *ret_scores,
                                  int *ret_count, sp_error *reterr)
{
    const cuda_lane *lane = &cuda->lanes[lane_index];
    int k = lane->answered_k, count = lane->answered_count;
    SP_ASSERT(k && index >= 0 && index < count);
    int bad = first_bad_of(lane, count, k)[index];
    if (bad < (int)cuda->shape.model->class_count)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "not_finite", "model %s gives no finite number for class %d",
                            cuda->shape.model->name, bad);
    *ret_count = SP_CLAMP(top_k, 1, k);
    for (int i = 0; i < *ret_count; i++)
        ret_scores[i] = (sp_class_score){ (uint32_t)ids_of(lane)[index * k + i], probabilities_of(lane, count, k)[index * k + i] };
    return SP_OK;
}

const uint8_t *sp_classify_cuda_row(const sp_classify_cuda *cuda, int lane_index, int index)
{
    const cuda_lane *lane = &cuda->lanes[lane_index];
    return lane->answered_k ? NULL : lane->answers + (size_t)index * cuda->shape.row_bytes;
}

sp_status sp_classify_cuda_raw(sp_classify_cuda *cuda, int lane_index, int index, void *ret_row, sp_error *reterr)
{
    const uint8_t *here = sp_classify_cuda_row(cuda, lane_index, index);
    if (here) {
        memcpy(ret_row, here, cuda->shape.row_bytes);
        return SP_OK;
    }
    sp_status s = cuda->api->copy_out(cuda->computing, ret_row, cuda->output + (size_t)index * cuda->shape.row_bytes,
                                      cuda->shape.row_bytes, reterr);
    return s ? s : cuda->api->stream_sync(cuda->computing, reterr);
}
