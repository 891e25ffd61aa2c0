/* SPDX-License-Identifier: Apache-2.0
 * A head's outputs to boxes of the picture: which output is which, candidates (detect_heads.c), suppression (kernels), and
 * the way back through the pre-processing. */
#include "task/detect_cuda.h"
#include "task/detect_heads.h"

#include "base/view.h"
#include "kernels/kernels.h"
#include "kernels/nms_run.h"
#include "task/rank.h"

#include <stdlib.h>
#include <string.h>

#define MOST_TENSORS (2 * SP_LIMIT_DETECT_LEVELS)

struct sp_detect_decoder {
    sp_model *model;
    int tensor_count;
    int output[MOST_TENSORS]; /* numbers of the model's outputs: one; boxes, scores; or classes and distances per stride */
    uint32_t class_count;     /* 0 = the first run will tell */
    float *anchors;
    sp_candidates candidates;
    sp_nms_scratch *nms;
    int32_t *kept;
    float *widened[MOST_TENSORS];
    size_t widened_count[MOST_TENSORS];
};

sp_detect_params sp_detect_params_default(void)
{
    return (sp_detect_params){ .threshold = -1, .iou = -1 };
}

/* --- which output is which ------------------------------------------------------------------------------------------ */

static sp_status check_port(const sp_model *model, const sp_engine_ports *ports, int index, sp_error *reterr)
{
    const sp_engine_port *port = &ports->outputs[index];
    if (port->dtype != SP_ENGINE_F32 && port->dtype != SP_ENGINE_F16)
        return sp_model_misfit(model, reterr, "detect.head", "output '%s' is of ONNX type %d; f32 and f16 can be read", port->name,
                               port->dtype);
    if (port->rank != 3)
        return sp_model_misfit(model, reterr, "detect.head", "output '%s' has %d dimensions, the head's have 3", port->name,
                               port->rank);
    return SP_OK;
}

static sp_status find_ssd(sp_detect_decoder *d, const sp_engine_ports *ports, sp_error *reterr)
{
    const sp_detect_settings *settings = &d->model->detect;
    int boxes = *settings->boxes_output ? sp_model_find_port(ports->outputs, ports->output_count, settings->boxes_output) : -1;
    int scores = *settings->scores_output ? sp_model_find_port(ports->outputs, ports->output_count, settings->scores_output) : -1;
    if (*settings->boxes_output && boxes < 0)
        return sp_model_misfit(d->model, reterr, "detect.boxes_output", "the model has no output '%s'", settings->boxes_output);
    if (*settings->scores_output && scores < 0)
        return sp_model_misfit(d->model, reterr, "detect.scores_output", "the model has no output '%s'", settings->scores_output);
    if (ports->output_count == 2 && (boxes < 0) != (scores < 0)) { /* one of two was named */
        boxes = boxes < 0 ? 1 - scores : boxes;
        scores = 1 - boxes;
    }
    for (int i = 0; i < ports->output_count; i++) { /* what was not named: the one with four columns, and the other one */
        bool four = ports->outputs[i].rank == 3 && ports->outputs[i].dims[2] == 4;
        if (boxes < 0 && four && i != scores)
            boxes = i;
        else if (scores < 0 && !four && i != boxes)
            scores = i;
    }
    if (boxes < 0 || scores < 0 || boxes == scores)
        return sp_model_misfit(d->model, reterr, "detect.boxes_output", "and scores_output are needed: the model's outputs do not "
                               "tell which has the boxes");
    d->output[0] = boxes;
    d->output[1] = scores;
    d->tensor_count = 2;
    return SP_OK;
}

/* Two outputs have as many rows as a stride has cells; the one whose columns are 4 * bins and no label count is the
 * distances', and when both could be, classes come first. */
static sp_status find_nanodet(sp_detect_decoder *d, const sp_engine_ports *ports, sp_error *reterr)
{
    const sp_model *model = d->model;
    for (int level = 0; level < model->detect.level_count; level++) {
        int stride = model->detect.strides[level], found[2] = { -1, -1 }, count = 0;
        int64_t rows = (int64_t)((model->prep.crop_w + stride - 1) / stride) * ((model->prep.crop_h + stride - 1) / stride);
        for (int i = 0; i < ports->output_count; i++) {
            if (ports->outputs[i].rank == 3 && ports->outputs[i].dims[1] == rows && count++ < 2)
                found[count - 1] = i;
        }
        if (count != 2)
            return sp_model_misfit(model, reterr, "detect.strides", "%d outputs have %lld rows (stride %d), not two: classes and "
                                   "distances", count, (long long)rows, stride);
        int64_t first = ports->outputs[found[0]].dims[2], second = ports->outputs[found[1]].dims[2];
        bool swapped = first % 4 == 0 && (second % 4 != 0 || (model->label_count && (uint64_t)second == model->label_count &&
                                                              (uint64_t)first != model->label_count));
        int64_t bins = swapped ? first : second;
        if (bins % 4 != 0 || bins < 8 || bins / 4 > 64)
            return sp_model_misfit(model, reterr, "detect.head", "output '%s' has no distances of four sides",
                                   ports->outputs[found[swapped ? 0 : 1]].name);
        d->output[level] = found[swapped ? 1 : 0];
        d->output[level + model->detect.level_count] = found[swapped ? 0 : 1];
    }
    d->tensor_count = 2 * model->detect.level_count;
    return SP_OK;
}

static sp_status find_outputs(sp_detect_decoder *d, const sp_engine_ports *ports, sp_error *reterr)
{
    sp_status s = SP_OK;
    if (d->model->detect.head == SP_HEAD_SSD) {
        s = find_ssd(d, ports, reterr);
    } else if (d->model->detect.head == SP_HEAD_NANODET) {
        s = find_nanodet(d, ports, reterr);
    } else {
        d->output[0] = d->model->output_index;
        d->tensor_count = 1;
    }
    for (int i = 0; !s && i < d->tensor_count; i++)
        s = check_port(d->model, ports, d->output[i], reterr);
    return s;
}

/* --- shapes ---------------------------------------------------------------------------------------------------------- */

static int classes_of(const sp_model *model, int64_t rows, int64_t columns)
{
    switch (model->detect.head) {
    case SP_HEAD_YOLOX:
    case SP_HEAD_YOLOV5:
        return (int)columns - 5;
    case SP_HEAD_YOLOV8:
        return (int)rows - 4;
    default:
        return (int)columns;
    }
}

/* The class count against the labels; dims as a port or a run gives them, -1 = not known yet. */
static sp_status fit_classes(sp_detect_decoder *d, const int64_t *dims, sp_error *reterr)
{
    sp_model *model = d->model;
    int64_t deciding = model->detect.head == SP_HEAD_YOLOV8 ? dims[1] : dims[2];
    if (deciding < 0)
        return SP_OK;
    int classes = classes_of(model, dims[1], dims[2]);
    if (classes < 1 || classes > SP_LIMIT_CLASSES)
        return sp_model_misfit(model, reterr, "detect.head", "outputs of %lld x %lld have no classes", (long long)dims[1],
                               (long long)dims[2]);
    if (model->label_count && model->label_count != (uint32_t)classes)
        return sp_model_misfit(model, reterr, "labels", "%u labels, the model has %d classes", model->label_count, classes);
    d->class_count = model->class_count = (uint32_t)classes;
    return SP_OK;
}

/* Room for `count` candidates. */
static sp_status reserve(sp_detect_decoder *d, int64_t count, sp_error *reterr)
{
    sp_candidates *c = &d->candidates;
    if (count <= c->capacity)
        return SP_OK;
    if (count > SP_LIMIT_DETECT_CANDIDATES)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "model %s gives %lld boxes, at most %d are looked at", d->model->name,
                       (long long)count, SP_LIMIT_DETECT_CANDIDATES);
    size_t room = (size_t)count + SP_BOX_SLACK;
    free(c->boxes);
    free(c->score);
    free(c->class_id);
    free(c->best);
    free(c->which);
    free(d->kept);
    sp_nms_scratch_free(d->nms);
    *c = (sp_candidates){ .boxes = malloc(room * 4 * sizeof(float)), .score = malloc(room * sizeof(float)),
                          .class_id = malloc(room * sizeof(int32_t)), .best = malloc(room * sizeof(float)),
                          .which = malloc(room * sizeof(int32_t)) };
    d->kept = malloc(room * sizeof(int32_t));
    d->nms = sp_nms_scratch_new((int)count);
    if (!c->boxes || !c->score || !c->class_id || !c->best || !c->which || !d->kept || !d->nms)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %lld boxes", (long long)count);
    c->capacity = (int)count;
    return SP_OK;
}

sp_status sp_detect_decoder_new(sp_model *model, const sp_engine_ports *ports, sp_detect_decoder **ret_decoder,
                                sp_error *reterr)
{
    SP_CLEANUP(sp_detect_decoder_freep) sp_detect_decoder *d = calloc(1, sizeof(*d));
    if (!d)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a detector");
    if (model->task != SP_MODEL_DETECT || model->detect.head == SP_HEAD_UNKNOWN)
        return sp_model_misfit(model, reterr, "task", "is not \"detect\" with a \"detect\" object that names a head");
    sp_kernels_init();
    d->model = model;
    sp_status s = sp_model_fit(model, ports, reterr);
    if (!s)
        s = sp_prep_spec_check(&model->prep, reterr);
    if (!s)
        s = find_outputs(d, ports, reterr);
    if (!s)
        s = fit_classes(d, ports->outputs[d->output[model->detect.head == SP_HEAD_SSD ? 1 : 0]].dims, reterr);
    if (!s)
        s = reserve(d, SP_MAX(sp_head_expected(model), 1), reterr);
    if (s)
        return s;
    if (model->detect.head == SP_HEAD_SSD && model->detect.boxes == SP_BOXES_OFFSETS) {
        d->anchors = malloc((size_t)sp_head_anchors(model, NULL) * 4 * sizeof(float));
        if (!d->anchors)
            return SP_FAIL(reterr, SP_NOMEM, "no memory for anchors");
        (void)sp_head_anchors(model, d->anchors); /* how many is known */
    }
    *ret_decoder = SP_STEAL(d);
    return SP_OK;
}

void sp_detect_decoder_free(sp_detect_decoder *d)
{
    if (!d)
        return;
    for (int i = 0; i < MOST_TENSORS; i++)
        free(d->widened[i]);
    free(d->candidates.boxes);
    free(d->candidates.score);
    free(d->candidates.class_id);
    free(d->candidates.best);
    free(d->candidates.which);
    free(d->anchors);
    free(d->kept);
    sp_nms_scratch_free(d->nms);
    free(d);
}

/* --- one run ------------------------------------------------------------------------------------------------------------ */

static sp_status widen(sp_detect_decoder *d, int place, const uint16_t *halves, size_t count, const float **ret_data,
                       sp_error *reterr)
{
    if (d->widened_count[place] < count) {
        free(d->widened[place]);
        d->widened[place] = malloc(count * sizeof(float));
        d->widened_count[place] = d->widened[place] ? count : 0;
    }
    if (!d->widened[place])
        return SP_FAIL(reterr, SP_NOMEM, "no memory for %zu numbers", count);
    for (size_t i = 0; i < count; i++)
        d->widened[place][i] = sp_rank_widen_f16(halves[i]);
    *ret_data = d->widened[place];
    return SP_OK;
}

/* The engine wrote the shape: it is checked here, once, for items 0 .. `items` - 1. */
static sp_status check_shape(const sp_detect_decoder *d, const sp_engine_tensor *t, int items, sp_engine_memory_kind memory,
                             sp_head_tensor *ret_view, sp_error *reterr)
{
    size_t count, all, bytes;
    if (t->rank != 3 || t->dims[0] < items || t->dims[1] < 1 || t->dims[2] < 1 || t->dims[1] > INT32_MAX ||
        t->dims[2] > INT32_MAX || t->memory != (int32_t)memory || !t->data ||
        !sp_size_mul((size_t)t->dims[1], (size_t)t->dims[2], &count) || !sp_size_mul(count, (size_t)t->dims[0], &all) ||
        !sp_size_mul(all, sp_engine_dtype_bytes(t->dtype), &bytes) || bytes > t->size_bytes || count > INT32_MAX)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "head", "model %s: an output is not [N, %s]", d->model->name,
                            d->model->detect.head == SP_HEAD_YOLOV8 ? "4 + classes, boxes" : "boxes, numbers");
    *ret_view = (sp_head_tensor){ .rows = (int)t->dims[1], .columns = (int)t->dims[2] };
    return SP_OK;
}

/* Item `index` of an output as f32. */
static sp_status view_of(sp_detect_decoder *d, int place, const sp_engine_tensor *t, int index, sp_head_tensor *ret_view,
                         sp_error *reterr)
{
    sp_status s = check_shape(d, t, index + 1, SP_ENGINE_HOST, ret_view, reterr);
    if (s)
        return s;
    size_t count = (size_t)t->dims[1] * (size_t)t->dims[2];
    if (t->dtype == SP_ENGINE_F16)
        return widen(d, place, (const uint16_t *)t->data + count * (size_t)index, count, &ret_view->data, reterr);
    ret_view->data = (const float *)t->data + count * (size_t)index;
    return SP_OK;
}

/* Shapes against the head; how many candidates it may give. */
static sp_status check_run(const sp_detect_decoder *d, const sp_head_tensor *t, int64_t *ret_candidates, sp_error *reterr)
{
    const sp_model *model = d->model;
    const sp_head_tensor *scores = model->detect.head == SP_HEAD_SSD ? &t[1] : &t[0];
    int expected = sp_head_expected(model), classes = classes_of(model, scores->rows, scores->columns);
    int64_t rows = model->detect.head == SP_HEAD_YOLOV8 ? t[0].columns : t[0].rows, pairs = rows;
    bool good = classes >= 1 && (!d->class_count || (uint32_t)classes == d->class_count);
    if (model->detect.head == SP_HEAD_SSD) {
        good = good && t[0].columns == 4 && t[1].rows == t[0].rows && (!expected || rows == expected);
        pairs = rows * classes;
    } else if (model->detect.head == SP_HEAD_NANODET) {
        int levels = model->detect.level_count;
        pairs = expected;
        for (int i = 0; i < levels; i++)
            good = good && t[i].rows == t[i + levels].rows && t[i].columns == classes && t[i + levels].columns % 4 == 0 &&
                   t[i + levels].columns / 4 <= 64;
    } else {
        good = good && (!expected || rows == expected);
    }
    if (!good)
        return SP_FAIL_CODE(reterr, SP_CORRUPT, "head", "model %s gives %d x %d numbers; its head, strides (%d boxes) and "
                            "classes (%u) say otherwise (spillway.json)", model->name, t[0].rows, t[0].columns, expected,
                            d->class_count);
    *ret_candidates = SP_MAX(pairs, classes);
    return SP_OK;
}

static void collect(sp_detect_decoder *d, const sp_head_tensor *t, float threshold)
{
    sp_candidates *c = &d->candidates;
    c->count = 0;
    c->not_finite = false;
    switch (d->model->detect.head) {
    case SP_HEAD_YOLOX:
        sp_head_yolox(d->model, t, threshold, c);
        break;
    case SP_HEAD_YOLOV5:
        sp_head_yolov5(t, threshold, c);
        break;
    case SP_HEAD_YOLOV8:
        sp_head_yolov8(t, threshold, c);
        break;
    case SP_HEAD_SSD:
        sp_head_ssd(d->model, &t[0], &t[1], d->anchors, threshold, c);
        break;
    case SP_HEAD_NANODET:
        sp_head_nanodet(d->model, t, t + d->model->detect.level_count, threshold, c);
        break;
    case SP_HEAD_UNKNOWN:
        break;
    }
}

static float clip(float x, float most)
{
    return x < 0 ? 0 : x > most ? most : x;
}

/* Tensor pixels to the picture's, cut to it. */
static bool map_back(const sp_prep_geometry *g, int w, int h, const float *box, sp_detect_box *out)
{
    float sx = (float)w / (float)g->scaled_w, sy = (float)h / (float)g->scaled_h;
    out->x0 = clip((box[0] + (float)g->left) * sx, (float)w);
    out->y0 = clip((box[1] + (float)g->top) * sy, (float)h);
    out->x1 = clip((box[2] + (float)g->left) * sx, (float)w);
    out->y1 = clip((box[3] + (float)g->top) * sy, (float)h);
    return out->x1 > out->x0 && out->y1 > out->y0;
}

static sp_nms_params suppression(const sp_detect_settings *settings, const sp_detect_params *params)
{
    return (sp_nms_params){
        .threshold = params->threshold < 0 ? settings->threshold : params->threshold,
        .iou = settings->nms == SP_NMS_NONE ? 2 : params->iou < 0 ? settings->iou : params->iou,
        .candidates = SP_LIMIT_DETECT_SUPPRESSED,
        .most = SP_LIMIT_DETECT_BOXES,
    };
}

static int most_of(const sp_detect_settings *settings, const sp_detect_params *params)
{
    return SP_MIN(params->top_k > 0 ? params->top_k : settings->top_k, SP_LIMIT_DETECT_BOXES);
}

static sp_status not_finite(const sp_detect_decoder *d, sp_error *reterr)
{
    return SP_FAIL_CODE(reterr, SP_CORRUPT, "not_finite", "model %s gives scores that are no numbers", d->model->name);
}

sp_status sp_detect_decode(sp_detect_decoder *d, const sp_engine_tensor *outputs, int index, int w, int h,
                           const sp_detect_params *params, sp_detect_box *ret_boxes, int *ret_count, sp_error *reterr)
{
    const sp_detect_settings *settings = &d->model->detect;
    sp_head_tensor tensors[MOST_TENSORS];
    sp_prep_geometry geometry;
    int64_t candidates = 0;
    sp_status s = sp_prep_geometry_of(&d->model->prep, w, h, &geometry, reterr);
    for (int i = 0; !s && i < d->tensor_count; i++)
        s = view_of(d, i, &outputs[d->output[i]], index, &tensors[i], reterr);
    if (!s)
        s = check_run(d, tensors, &candidates, reterr);
    if (!s)
        s = reserve(d, candidates, reterr);
    if (s)
        return s;
    const sp_nms_params nms = suppression(settings, params);
    collect(d, tensors, nms.threshold);
    sp_candidates *c = &d->candidates;
    if (c->not_finite)
        return not_finite(d, reterr);
    int kept = sp_nms_run(d->nms, c->boxes, c->score, settings->nms == SP_NMS_CLASS ? c->class_id : NULL, c->count, &nms, d->kept);
    int most = most_of(settings, params), count = 0;
    for (int i = 0; i < kept && count < most; i++) {
        sp_detect_box *box = &ret_boxes[count];
        if (!map_back(&geometry, w, h, c->boxes + 4 * (size_t)d->kept[i], box))
            continue;
        box->score = c->score[d->kept[i]];
        box->class_id = (uint32_t)c->class_id[d->kept[i]];
        count++;
    }
    d->class_count = (uint32_t)classes_of(d->model, tensors[settings->head == SP_HEAD_SSD].rows,
                                          tensors[settings->head == SP_HEAD_SSD].columns);
    *ret_count = count;
    return SP_OK;
}

/* --- outputs on a device (detect_cuda.h) ------------------------------------------------------------------------------- */

const float *sp_detect_anchors(const sp_detect_decoder *d, int *ret_rows)
{
    *ret_rows = d->anchors ? sp_head_anchors(d->model, NULL) : 0;
    return d->anchors;
}

sp_status sp_detect_head_on(sp_detect_decoder *d, const sp_engine_tensor *outputs, int batch, const sp_detect_params *params,
                            const float *anchors, sp_detect_on_device *ret, sp_error *reterr)
{
    static const sp_cuda_head_kind kinds[] = {
        [SP_HEAD_YOLOX] = SP_CUDA_HEAD_YOLOX, [SP_HEAD_YOLOV5] = SP_CUDA_HEAD_YOLOV5, [SP_HEAD_YOLOV8] = SP_CUDA_HEAD_YOLOV8,
        [SP_HEAD_SSD] = SP_CUDA_HEAD_SSD, [SP_HEAD_NANODET] = SP_CUDA_HEAD_NANODET,
    };
    static const sp_cuda_box_form forms[] = { [SP_BOXES_CORNERS] = SP_CUDA_BOXES_CORNERS, [SP_BOXES_CENTRE] = SP_CUDA_BOXES_CENTRE,
                                              [SP_BOXES_OFFSETS] = SP_CUDA_BOXES_OFFSETS };
    static const sp_cuda_score_form scores[] = { [SP_SCORES_PLAIN] = SP_CUDA_SCORES_PLAIN, [SP_SCORES_SIGMOID] = SP_CUDA_SCORES_SIGMOID,
                                                 [SP_SCORES_SOFTMAX] = SP_CUDA_SCORES_SOFTMAX };
    _Static_assert(SP_LIMIT_CUDA_LEVELS == SP_LIMIT_DETECT_LEVELS, "a head's levels fit");
    const sp_model *model = d->model;
    const sp_detect_settings *settings = &model->detect;
    sp_head_tensor tensors[MOST_TENSORS];
    int64_t candidates = 0;
    sp_cuda_head head = { .kind = kinds[settings->head], .batch = batch, .form = forms[settings->boxes],
                          .activation = scores[settings->activation], .anchors = anchors, .background = settings->background,
                          .scale_x = settings->fractions ? (float)model->prep.crop_w : 1,
                          .scale_y = settings->fractions ? (float)model->prep.crop_h : 1,
                          .variances = { settings->variances[0], settings->variances[1] }, .levels = settings->level_count };
    sp_status s = SP_OK;
    for (int i = 0; !s && i < d->tensor_count; i++) {
        const sp_engine_tensor *t = &outputs[d->output[i]];
        s = check_shape(d, t, batch, SP_ENGINE_CUDA, &tensors[i], reterr);
        head.tensors[i] = t->data;
        head.half[i] = t->dtype == SP_ENGINE_F16;
    }
    if (!s)
        s = check_run(d, tensors, &candidates, reterr);
    if (s)
        return s;
    if (candidates > SP_LIMIT_DETECT_CANDIDATES)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "model %s gives %lld boxes, at most %d are looked at", model->name, (long long)candidates,
                       SP_LIMIT_DETECT_CANDIDATES);
    for (int i = 0; i < settings->level_count; i++) {
        head.strides[i] = settings->strides[i];
        head.grid_w[i] = (model->prep.crop_w + settings->strides[i] - 1) / settings->strides[i];
        head.grid_h[i] = (model->prep.crop_h + settings->strides[i] - 1) / settings->strides[i];
        if (settings->head == SP_HEAD_NANODET)
            head.bins[i] = tensors[i + settings->level_count].columns / 4;
    }
    const sp_head_tensor *told = &tensors[settings->head == SP_HEAD_SSD];
    head.classes = classes_of(model, told->rows, told->columns);
    head.boxes = settings->head == SP_HEAD_NANODET ? sp_head_expected(model)
                 : settings->head == SP_HEAD_YOLOV8 ? tensors[0].columns : tensors[0].rows;
    ret->nms = suppression(settings, params);
    ret->classwise = settings->nms == SP_NMS_CLASS;
    head.threshold = ret->nms.threshold;
    ret->head = head;
    return SP_OK;
}

sp_status sp_detect_answer(const sp_detect_decoder *d, const sp_cuda_detection *kept, int kept_count, int bad, int w, int h,
                           const sp_detect_params *params, sp_detect_box *ret_boxes, int *ret_count, sp_error *reterr)
{
    sp_prep_geometry geometry;
    sp_status s = sp_prep_geometry_of(&d->model->prep, w, h, &geometry, reterr);
    if (s)
        return s;
    if (bad)
        return not_finite(d, reterr);
    int most = most_of(&d->model->detect, params), count = 0;
    for (int i = 0; i < kept_count && count < most; i++) {
        const float box[4] = { kept[i].x0, kept[i].y0, kept[i].x1, kept[i].y1 };
        if (!map_back(&geometry, w, h, box, &ret_boxes[count]))
            continue;
        ret_boxes[count].score = kept[i].score;
        ret_boxes[count++].class_id = (uint32_t)kept[i].class_id;
    }
    *ret_count = count;
    return SP_OK;
}
