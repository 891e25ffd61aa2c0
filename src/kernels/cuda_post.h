/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twins of what comes after a model (kernels.h, nms_run.h): the same bits and the same indices. Enqueued on the stream;
 * all pointers are device memory but the params. `space`: device memory of the call's own, as large as the matching *_space says;
 * nothing is allocated, so all of them can be part of a graph. */
#ifndef SP_KERNELS_CUDA_POST_H
#define SP_KERNELS_CUDA_POST_H

#include "kernels/cuda.h"
#include "kernels/nms_run.h"

/* Where a detector's candidates lie: `batch` of them one behind the other. */
typedef struct sp_cuda_nms {
    const float *boxes;      /* [batch][n][4]: x0 y0 x1 y1 */
    const float *score;      /* [batch][n] */
    const int32_t *class_id; /* [batch][n]; NULL = agnostic */
    int batch, n;
    sp_nms_params params;
    int32_t *kept;           /* [batch][most]: indices, best score first, equal scores by lower index; most = params.most, or n */
    int32_t *kept_count;     /* [batch] */
    int labels;              /* 2 and more: that many scores a box, [batch][n / labels][labels], and an index is
                              * box * labels + class: boxes are [batch][n / labels][4], class_id NULL */
    bool agnostic;           /* with labels: classes do not matter */
} sp_cuda_nms;

/* The best of the candidates that go into one suppression: their matrix of pairs takes n * n / 8 bytes (halved: 64 MiB).
 * sp_cuda_nms: n, or params.candidates if that is less. Beyond: nms_space is 0 and the call SP_UNSUPPORTED. */
#define SP_LIMIT_CUDA_NMS 32768
/* Rows or pictures of one call: what the second dimension of a grid takes. */
#define SP_LIMIT_CUDA_ROWS 65535

/* --- detectors' heads (task/detect_heads.h says what their numbers mean) --- */
typedef enum sp_cuda_head_kind {
    SP_CUDA_HEAD_YOLOX,   /* [boxes][5 + classes] */
    SP_CUDA_HEAD_YOLOV5,  /* [boxes][5 + classes] */
    SP_CUDA_HEAD_YOLOV8,  /* [4 + classes][boxes] */
    SP_CUDA_HEAD_SSD,     /* [boxes][4] and [boxes][classes] */
    SP_CUDA_HEAD_NANODET, /* per level [boxes of it][classes]; then per level [boxes of it][4 * bins] */
} sp_cuda_head_kind;
typedef enum sp_cuda_box_form { SP_CUDA_BOXES_CORNERS, SP_CUDA_BOXES_CENTRE, SP_CUDA_BOXES_OFFSETS } sp_cuda_box_form;
typedef enum sp_cuda_score_form { SP_CUDA_SCORES_PLAIN, SP_CUDA_SCORES_SIGMOID, SP_CUDA_SCORES_SOFTMAX } sp_cuda_score_form;

#define SP_LIMIT_CUDA_LEVELS 8

typedef struct sp_cuda_head {
    sp_cuda_head_kind kind;
    int batch, boxes, classes;  /* boxes: of one picture, all levels together */
    float threshold;            /* a score must be above it */
    const void *tensors[2 * SP_LIMIT_CUDA_LEVELS]; /* device: the outputs in the order above, `batch` items each, packed */
    bool half[2 * SP_LIMIT_CUDA_LEVELS];           /* that one is f16 */
    /* YOLOX, NanoDet: levels with their grids; level i has grid_w[i] * grid_h[i] boxes. bins: NanoDet's, 2 .. 64. */
    int levels, strides[SP_LIMIT_CUDA_LEVELS], grid_w[SP_LIMIT_CUDA_LEVELS], grid_h[SP_LIMIT_CUDA_LEVELS];
    int bins[SP_LIMIT_CUDA_LEVELS];
    /* SSD: */
    sp_cuda_box_form form;
    sp_cuda_score_form activation;
    float scale_x, scale_y;     /* corners, centre: pixels of one unit */
    float variances[2];
    const float *anchors;       /* offsets; device: [boxes][4], cx cy w h */
    int background;             /* the class that stands for nothing; -1 = none */
} sp_cuda_head;

/* Scores of one box, each a candidate of its own: all classes for SSD, 1 else. */
static inline int sp_cuda_head_labels(const sp_cuda_head *head)
{
    return head->kind == SP_CUDA_HEAD_SSD ? head->classes : 1;
}

typedef struct sp_cuda_detection {
    float x0, y0, x1, y1; /* pixels of the input tensor */
    float score;
    int32_t class_id;
} sp_cuda_detection;

/* Where a run's answer goes, device memory. */
typedef struct sp_cuda_detections {
    sp_cuda_detection *boxes; /* [batch][most], best first; most = params.most (1 or more) */
    int32_t *count;           /* [batch] */
    int32_t *bad;             /* [batch]: not 0 = a score was no number, the answer is to be refused */
} sp_cuda_detections;

typedef struct sp_cuda_post_api {
    /* `rows` rows of n, packed. dst may be src. */
    sp_status (*softmax_f32)(sp_cuda_stream *stream, float *dst, const float *src, int rows, int n, sp_error *reterr);
    size_t (*topk_space)(int rows, int n, int k);
    sp_status (*topk_f32)(sp_cuda_stream *stream, int32_t *ret_index, float *ret_value, const float *src, int rows, int n, int k,
                          void *space, sp_error *reterr);
    /* The largest of `rows` values of each of n columns (kernels.h, best_columns_f32), `batch` times. */
    sp_status (*best_columns_f32)(sp_cuda_stream *stream, float *ret_best, int32_t *ret_which, const float *src, int batch, int n,
                                  int rows, size_t row_stride, size_t batch_stride, sp_error *reterr);
    size_t (*nms_space)(int batch, int n, const sp_nms_params *params);
    sp_status (*nms)(sp_cuda_stream *stream, const sp_cuda_nms *nms, void *space, sp_error *reterr);
    /* What ranking needs beside softmax and topk (task/rank.h), rank.cu. NULL: rows are ranked on the host.
     * gather: dst[rows][k] = src[rows][n] at index[rows][k], whose numbers lie within 0 .. n - 1.
     * first_bad: of each row the first place that is not finite; n = all are. widen: IEEE 754 halves to floats, exact. */
    sp_status (*gather_f32)(sp_cuda_stream *stream, float *dst, const float *src, const int32_t *index, int rows, int n, int k,
                            sp_error *reterr);
    sp_status (*first_bad_f32)(sp_cuda_stream *stream, int32_t *ret_first, const float *src, int rows, int n, sp_error *reterr);
    sp_status (*widen_f16)(sp_cuda_stream *stream, float *dst, const uint16_t *src, size_t count, sp_error *reterr);

    /* A head's numbers to candidates. ret_score [batch][boxes][labels]: NaN where nothing is (under the threshold, the
     * background, a box that is not finite); ret_boxes [batch][boxes][4] and ret_class [batch][boxes] (labels == 1; else NULL)
     * are written where there is something. The index of a candidate rises as detect_heads.c puts them. ret_bad [batch].
     * detect: the same, then nms (class-wise or not; params.threshold is the head's), then the kept boxes side by side. */
    sp_status (*decode_boxes)(sp_cuda_stream *stream, const sp_cuda_head *head, float *ret_boxes, float *ret_score,
                              int32_t *ret_class, int32_t *ret_bad, sp_error *reterr);
    size_t (*detect_space)(const sp_cuda_head *head, const sp_nms_params *params);
    sp_status (*detect)(sp_cuda_stream *stream, const sp_cuda_head *head, const sp_nms_params *params, bool classwise,
                        const sp_cuda_detections *ret, void *space, sp_error *reterr);
} sp_cuda_post_api;

#endif
