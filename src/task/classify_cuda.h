/* SPDX-License-Identifier: Apache-2.0
 * The lanes of a classifier whose pixels are prepared, and whose answers are ranked, on a CUDA device. Private to this room:
 * classify.c calls it where a classifier was opened with a device.
 *
 *   lane 0   copies  ....|          |....                       a stream of the lane's own; it may decode JPEG files, too
 *   lane 1   copies      |....      |
 *   one      computes    |prep engine rank out|prep engine ...  one stream: input, outputs and their like lie there once
 *
 * The engine is told that one stream (its session's), so that nothing in between waits for the host; and an input that has one
 * address is what its CUDA graphs want. Copies of the next batch run beside it. */
#ifndef SP_TASK_CLASSIFY_CUDA_H
#define SP_TASK_CLASSIFY_CUDA_H

#include "base/view.h"
#include "engine/engine.h"
#include "kernels/cuda.h"
#include "task/model.h"
#include "task/rank.h"

typedef struct sp_classify_cuda sp_classify_cuda;

/* What is known once the session is open and the model fitted. Pointers are borrowed until free. */
typedef struct sp_classify_cuda_shape {
    sp_model *model;
    sp_session *session;
    int device_index;
    int lanes, max_batch;
    bool nvjpeg; /* lanes decode JPEG files too, if they can */
    size_t tensor_bytes, row_bytes; /* of one item's input and output */
    const sp_engine_port *output;
} sp_classify_cuda_shape;

/* The device and its computing stream, for the session to be opened with (sp_classify_cuda_stream: a cudaStream_t); then what
 * the lanes need. SP_NOMEM, or as the device's calls. */
sp_status sp_classify_cuda_new(const sp_cuda_api *api, sp_cuda *device, sp_classify_cuda **ret_cuda, sp_error *reterr);
void *sp_classify_cuda_stream(const sp_classify_cuda *cuda);
sp_status sp_classify_cuda_reserve(sp_classify_cuda *cuda, const sp_classify_cuda_shape *shape, sp_error *reterr);
void sp_classify_cuda_free(sp_classify_cuda *cuda); /* before the session; NULL is fine */

/* Item `index` of the lane's next batch, which index 0 begins: see sp_classify_put_picture, _put_tensor and _put_jpeg. */
sp_status sp_classify_cuda_picture(sp_classify_cuda *cuda, int lane, int index, const uint8_t *rgb, int w, int h, bool pinned,
                                   sp_error *reterr);
sp_status sp_classify_cuda_jpeg(sp_classify_cuda *cuda, int lane, int index, sp_view file, sp_error *reterr);
sp_status sp_classify_cuda_tensor(sp_classify_cuda *cuda, int lane, int index, const void *tensor, bool pinned, sp_error *reterr);

/* Items first .. first + count - 1 of the batch; the `top_k` best classes of each are kept. Comes back when the answers are
 * here, or, after a failure, when nothing of the lane's is on its way any more. */
sp_status sp_classify_cuda_run(sp_classify_cuda *cuda, int lane, int first, int count, int top_k, sp_error *reterr);

/* Item `index` of the last run (0 = its first): as the model gave it, until the lane's next run; NULL: it was ranked on the
 * device, and is asked by _answer. */
const uint8_t *sp_classify_cuda_row(const sp_classify_cuda *cuda, int lane, int index);
sp_status sp_classify_cuda_answer(sp_classify_cuda *cuda, int lane, int index, int top_k, sp_class_score *ret_scores,
                                  int *ret_count, sp_error *reterr);

/* The model's own numbers as it gave them (row_bytes), while no other lane runs. */
sp_status sp_classify_cuda_raw(sp_classify_cuda *cuda, int lane, int index, void *ret_row, sp_error *reterr);

#endif
