/* SPDX-License-Identifier: Apache-2.0
 * A detector whose outputs stay on a CUDA device: what the device's calls (kernels/cuda_post.h) need to know of a decoder, and
 * the last step, which the host does. The same boxes as sp_detect_decode gives, to the bit.
 *
 *   engine's outputs -> detect (cuda_post.h) -> sp_cuda_detections, copied out -> sp_detect_answer
 *
 * Who runs this owns the device's memory; nothing here allocates or enqueues. One thread at a time per decoder. */
#ifndef SP_TASK_DETECT_CUDA_H
#define SP_TASK_DETECT_CUDA_H

#include "kernels/cuda_post.h"
#include "task/detect.h"

/* Anchors that the device must have (sp_detect_head_on): rows of cx cy w h. NULL, 0 rows: the head has none. */
const float *sp_detect_anchors(const sp_detect_decoder *decoder, int *ret_rows);

/* The first `batch` items of `outputs` (all of the model's, in its order, in a device's memory) as the device's head, and how
 * their candidates are suppressed; `params` holds for all items. `anchors`: the device's copy. SP_CORRUPT, code "head": as
 * sp_detect_decode; SP_UNSUPPORTED: too many boxes. */
typedef struct sp_detect_on_device {
    sp_cuda_head head;
    sp_nms_params nms;
    bool classwise;
} sp_detect_on_device;
sp_status sp_detect_head_on(sp_detect_decoder *decoder, const sp_engine_tensor *outputs, int batch, const sp_detect_params *params,
                            const float *anchors, sp_detect_on_device *ret_head, sp_error *reterr);

/* The boxes of one picture of w x h pixels from what the device kept of it (on the host: `kept`, `count`, `bad`), as
 * sp_detect_decode. SP_CORRUPT, code "not_finite". */
sp_status sp_detect_answer(const sp_detect_decoder *decoder, const sp_cuda_detection *kept, int count, int bad, int w, int h,
                           const sp_detect_params *params, sp_detect_box *ret_boxes, int *ret_count, sp_error *reterr);

#endif
