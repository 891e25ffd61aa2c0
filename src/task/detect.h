/* SPDX-License-Identifier: Apache-2.0
 * detect: a picture in, boxes out, in pixels of the picture as people see it (oriented). Like classify it knows no device
 * and no process.
 *
 *   sp_detect_decoder   what a head's numbers mean, for whoever runs the session (a worker's served models)
 *   sp_detector         a decoder with a session of its own (`spillway detect`)
 *
 * Everything is reserved when it is opened or by its first run; a request allocates nothing here. */
#ifndef SP_TASK_DETECT_H
#define SP_TASK_DETECT_H

#include "engine/engine.h"
#include "kernels/prep_run.h"
#include "task/model.h"

/* Boxes times classes (SSD) or boxes of one picture that are looked at. The largest usual heads have 25,200 boxes, an SSD
 * of 8,732 boxes and 20 classes 174,640 pairs. Beyond: SP_UNSUPPORTED when the model is opened. */
#define SP_LIMIT_DETECT_CANDIDATES (1 << 19)
/* The best so many over the threshold go into the suppression, as in the YOLO family's own code. */
#define SP_LIMIT_DETECT_SUPPRESSED 30000

typedef struct sp_detect_box {
    float x0, y0, x1, y1; /* corners, within the picture */
    float score;
    uint32_t class_id;
} sp_detect_box;

/* What one request wants; 0 or negative (top_k: 0) = as the model's description says. */
typedef struct sp_detect_params {
    float threshold, iou; /* < 0 = the model's */
    int top_k;            /* cut to SP_LIMIT_DETECT_BOXES */
} sp_detect_params;
sp_detect_params sp_detect_params_default(void);

/* One thread at a time. */
typedef struct sp_detect_decoder sp_detect_decoder;

/* `model` (borrowed) has been through sp_model_find or sp_model_describe and is a detector; it is fitted here. `ports`: of
 * the session; only looked at here. SP_INVALID: description and model disagree (the message names file and key);
 * SP_UNSUPPORTED: too many boxes; SP_NOMEM. */
sp_status sp_detect_decoder_new(sp_model *model, const sp_engine_ports *ports, sp_detect_decoder **ret_decoder,
                                sp_error *reterr);
void sp_detect_decoder_free(sp_detect_decoder *decoder); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_detect_decoder, sp_detect_decoder_free)

/* The boxes of item `index` of a run's outputs (all of the model's, in its order, on the host), for a picture of w x h
 * pixels that went through model->prep. At most SP_LIMIT_DETECT_BOXES, best first, equal scores by box number and class.
 * Boxes are cut to the picture; what is empty then, or not finite, is left out.
 * SP_CORRUPT: shapes are not what the head says (code "head"), or scores are no numbers (code "not_finite"). */
sp_status sp_detect_decode(sp_detect_decoder *decoder, const sp_engine_tensor *outputs, int index, int w, int h,
                           const sp_detect_params *params, sp_detect_box *ret_boxes, int *ret_count, sp_error *reterr);

typedef struct sp_detector sp_detector;

typedef struct sp_detect_options {
    const char *provider; /* NULL = "cpu" */
    int device_index;
    int threads;
} sp_detect_options;
sp_detect_options sp_detect_options_default(void); /* as many threads as the machine grants */

/* Loads `model` (borrowed) and runs it once. As sp_session_open and sp_detect_decoder_new; SP_INVALID: it is no
 * detector. */
sp_status sp_detect_open(const sp_engine *engine, sp_model *model, const sp_detect_options *options, sp_detector **ret_detector,
                         sp_error *reterr);
void sp_detect_close(sp_detector *detector); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_detector, sp_detect_close)

/* Times of the last call, in ns. */
typedef struct sp_detect_timing {
    int64_t preprocess_ns, inference_ns, postprocess_ns;
} sp_detect_timing;

/* One picture: packed RGB8 rows. ret_boxes: SP_LIMIT_DETECT_BOXES. One call at a time. As sp_prep_image, sp_session_run,
 * sp_detect_decode. */
sp_status sp_detect_run(sp_detector *detector, const uint8_t *rgb, int w, int h, const sp_detect_params *params,
                        sp_detect_box *ret_boxes, int *ret_count, sp_detect_timing *ret_timing, sp_error *reterr);

#endif
