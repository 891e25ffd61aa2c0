/* SPDX-License-Identifier: Apache-2.0
 * classify: a picture in, its classes out. Pre-processing kernel, model, softmax, top-k; it knows no device and no
 * process, so a worker and an in-process command run the same code.
 *
 * A classifier has lanes: independent sets of buffers that run at once, one thread each. Per lane:
 *
 *   sp_classify_prepare (or memcpy into sp_classify_input) for items 0 .. n - 1
 *   sp_classify_run(n)
 *   sp_classify_answer for each item
 *
 * A classifier that is opened with a CUDA device keeps its lanes there: pixels or tensors are copied in, prepared, run and
 * ranked on the device, and only the best classes come back; the same bits as on the host, but for the engine's own. Its calls
 * are sp_classify_put_*, _run_items and _answer, which a classifier on the host has as well.
 *
 * Everything is reserved and touched when it is opened; a request allocates nothing here. */
#ifndef SP_TASK_CLASSIFY_H
#define SP_TASK_CLASSIFY_H

#include "base/view.h"
#include "engine/engine.h"
#include "kernels/cuda.h"
#include "task/model.h"
#include "task/rank.h"

typedef struct sp_classifier sp_classifier;

typedef struct sp_classify_options {
    const char *provider; /* NULL = "cpu" */
    int device_index;
    int threads;   /* that compute one run */
    int lanes;     /* runs at once */
    int max_batch; /* items of one run that buffers are reserved for; cut to the model's own bound */
    bool spin;
    bool refuse_cpu_nodes; /* on a device: a model of which nodes would be left to the CPU is not loaded (SP_UNSUPPORTED) */
    /* Both or none: the device that `provider` runs on. Borrowed; closed after the classifier. */
    const sp_cuda_api *cuda_api;
    sp_cuda *cuda;
    bool nvjpeg; /* of a device: JPEG files are taken as well (sp_classify_put_jpeg) */
} sp_classify_options;

/* One lane, one item, as many threads as the machine grants. */
sp_classify_options sp_classify_options_default(void);

/* Loads `model` (borrowed; fits it: sp_model_fit) and runs each lane once. As sp_session_open and sp_model_fit;
 * SP_CORRUPT: its first run gave numbers that are not finite. */
sp_status sp_classify_open(const sp_engine *engine, sp_model *model, const sp_classify_options *options,
                           sp_classifier **ret_classifier, sp_error *reterr);
void sp_classify_close(sp_classifier *classifier); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_classifier, sp_classify_close)

const sp_model *sp_classify_model(const sp_classifier *classifier);
sp_session *
sp_classify_session(sp_classifier *classifier); /* borrowed, with the classifier's lanes: for plain tensors */
bool sp_classify_on_device(const sp_classifier *classifier);
int sp_classify_max_batch(const sp_classifier *classifier);
int sp_classify_lanes(const sp_classifier *classifier);
size_t sp_classify_tensor_bytes(const sp_classifier *classifier); /* of one item's input */

/* Item `index` (0 .. max_batch - 1) of the lane's next batch, which index 0 begins: RGB8 pixels (packed rows of w * 3 bytes), or
 * a tensor (tensor_bytes). `pinned`: a device's copies may read it where it lies (sp_cuda_api.host_register); then it stays as it
 * is until a run of the batch has ended. As sp_prep_image; of a device also SP_NOMEM, SP_UNAVAILABLE. */
sp_status sp_classify_put_picture(sp_classifier *classifier, int lane, int index, const uint8_t *rgb, int w, int h, bool pinned,
                                  sp_error *reterr);
sp_status sp_classify_put_tensor(sp_classifier *classifier, int lane, int index, const void *tensor, bool pinned,
                                 sp_error *reterr);

/* The same of a JPEG file, which is decoded on the device, to other pixels than ours. SP_UNSUPPORTED, with a code of
 * media/jpeg_plain.h's or media/nvjpeg.h's, "off" or "no_room": whoever has it decoded otherwise may put the picture. SP_UNAVAILABLE:
 * the device failed. `file` stays as it is until a run of the batch has ended; after a failure nothing reads from it any more. */
sp_status sp_classify_put_jpeg(sp_classifier *classifier, int lane, int index, sp_view file, sp_error *reterr);

/* Runs items first .. first + count - 1 of them; sp_classify_answer then counts from `first`, and is asked for at most `top_k`.
 * Nothing reads a request's memory any more when it is back. As sp_session_run. */
sp_status sp_classify_run_items(sp_classifier *classifier, int lane, int first, int count, int top_k, sp_error *reterr);

/* --- of a classifier on the host alone --- */

/* The place of item `index` (0 .. max_batch - 1) in the lane's input: tensor_bytes, until close. */
void *sp_classify_input(sp_classifier *classifier, int lane, int index);

/* RGB8 pixels (packed rows of w * 3 bytes) to item `index`'s input. As sp_prep_image. */
sp_status sp_classify_prepare(sp_classifier *classifier, int lane, int index, const uint8_t *rgb, int w, int h,
                              sp_error *reterr);

/* Runs items 0 .. count - 1. `input`: NULL = the lane's own places; else tensor_bytes * count elsewhere (only read; aligned
 * to its element), used in place. As sp_session_run. */
sp_status sp_classify_run(sp_classifier *classifier, int lane, const void *input, int count, sp_error *reterr);

/* --- of either --- */

/* The `top_k` (cut to the class count and SP_LIMIT_TOP_K) most probable classes of item `index` of the last run, best
 * first, equal ones by class id. SP_CORRUPT: the model's numbers are not finite. */
sp_status sp_classify_answer(sp_classifier *classifier, int lane, int index, int top_k, sp_class_score *ret_scores,
                             int *ret_count, sp_error *reterr);

/* The model's own numbers of item `index` of the last run, widened to f32: class_count of them, until the lane's next
 * call. For tests and for what builds on logits; of a device while no other lane runs (NULL: the device failed). */
const float *sp_classify_raw(sp_classifier *classifier, int lane, int index);

#endif
