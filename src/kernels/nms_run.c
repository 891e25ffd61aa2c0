/* SPDX-License-Identifier: Apache-2.0
 * Filter, order, gather, suppress. */
#include "kernels/nms_run.h"

#include "base/status.h"
#include "base/view.h"
#include "kernels/kernels.h"

#include <stdlib.h>

struct sp_nms_scratch {
    int capacity;
    int32_t *passed, *order, *class_id, *kept;
    float *score, *planes, *spare;
    uint64_t *pairs;
};

static void *room(size_t count, size_t size_bytes)
{
    size_t bytes;
    if (!sp_size_mul(count, size_bytes, &bytes) || !sp_size_add(bytes, 63 + 64, &bytes))
        return NULL;
    return aligned_alloc(64, bytes & ~(size_t)63);
}

sp_nms_scratch *sp_nms_scratch_new(int capacity)
{
    sp_nms_scratch *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    size_t n = (size_t)SP_MAX(capacity, 1) + SP_BOX_SLACK;
    sp_kernels_init();
    s->capacity = capacity;
    s->passed = room(n, sizeof(int32_t));
    s->order = room(n, sizeof(int32_t));
    s->class_id = room(n, sizeof(int32_t));
    s->kept = room(n, sizeof(int32_t));
    s->score = room(n, sizeof(float));
    s->planes = room(n, 4 * sizeof(float));
    s->spare = room(SP_NMS_SPARE(n), sizeof(float));
    s->pairs = room(n, 2 * sizeof(uint64_t));
    if (!s->passed || !s->order || !s->class_id || !s->kept || !s->score || !s->planes || !s->spare || !s->pairs) {
        sp_nms_scratch_free(s);
        return NULL;
    }
    return s;
}

void sp_nms_scratch_free(sp_nms_scratch *s)
{
    if (!s)
        return;
    free(s->passed);
    free(s->order);
    free(s->class_id);
    free(s->kept);
    free(s->score);
    free(s->planes);
    free(s->spare);
    free(s->pairs);
    free(s);
}

int sp_nms_run(sp_nms_scratch *s, const float *boxes, const float *score, const int32_t *class_id, int n,
               const sp_nms_params *params, int32_t *ret_kept)
{
    SP_ASSERT(n <= s->capacity);
    int count = sp_kernels.filter_f32(s->passed, score, n, params->threshold);
    for (int i = 0; i < count; i++)
        s->score[i] = score[s->passed[i]];
    sp_kernels.order_f32(s->order, s->score, count, s->pairs);
    if (params->candidates > 0)
        count = SP_MIN(count, params->candidates);

    size_t plane = (size_t)s->capacity + SP_BOX_SLACK;
    float *x0 = s->planes, *y0 = x0 + plane, *x1 = y0 + plane, *y1 = x1 + plane;
    for (int i = 0; i < count; i++) {
        int32_t from = s->passed[s->order[i]];
        const float *box = boxes + 4 * (size_t)from;
        s->order[i] = from;
        x0[i] = box[0];
        y0[i] = box[1];
        x1[i] = box[2];
        y1[i] = box[3];
        if (class_id)
            s->class_id[i] = class_id[from];
    }
    const sp_box_planes planes = { x0, y0, x1, y1, class_id ? s->class_id : NULL };
    int most = params->most > 0 ? SP_MIN(params->most, count) : count;
    int kept = most > 0 ? sp_kernels.nms_f32(s->kept, &planes, count, params->iou, most, s->spare) : 0;
    for (int i = 0; i < kept; i++)
        ret_kept[i] = s->order[s->kept[i]];
    return kept;
}
