/* SPDX-License-Identifier: Apache-2.0
 * The suppression's memory and its start, for post_nms.cu and for the chain from a head to boxes (post_heads.cu). */
#ifndef SP_KERNELS_CUDA_POST_NMS_CUH
#define SP_KERNELS_CUDA_POST_NMS_CUH

#include "kernels/cuda/post.cuh"

/* What one picture's blocks tell each other. */
typedef struct nms_head {
    int passed; /* scores over the threshold (dense pick only) */
    int count;  /* candidates: min(passed, limit) */
    int runs;   /* classes among them */
    int done;   /* blocks of the sweep that are through */
} nms_head;

/* All in the caller's space; [batch] first everywhere. A *place* is a candidate's number in the order of scores, q its number
 * when classes lie together (agnostic: the same). */
typedef struct nms_work {
    int n, labels, limit, tiles, class_tiles;
    bool classwise;
    size_t matrix_words, kept_stride; /* of one picture */
    nms_head *heads;
    int32_t *counts;       /* [tiles] */
    uint64_t *keys;        /* [tiles][SP_SORT_TILE] */
    int32_t *order;        /* [limit] index of each place */
    float4 *boxes;         /* [limit] by q */
    uint8_t *kept;         /* [limit] by place */
    uint64_t *matrix;
    int32_t *class_counts; /* class-wise only, from here */
    uint64_t *by_class;    /* [class_tiles][SP_SORT_TILE] */
    int32_t *starts;       /* [limit] by q: where its run begins */
    int32_t *places;       /* [limit] by q */
    int2 *runs;            /* [limit] from, end; in no order */
} nms_work;

/* Where the kept ones go: as indices, as boxes with their scores, or both. */
typedef struct nms_answer {
    int32_t *kept, *count;
    int most;
    sp_cuda_detection *boxes;
    const float *from, *score; /* of the candidates; for `boxes` */
    const int32_t *class_id;
} nms_answer;

/* false: too many for a matrix of pairs. `space` NULL: only the size. */
bool sp_cuda_nms_lay(nms_work *ret_work, int batch, int n, int labels, bool classwise, const sp_nms_params *params, void *space,
                     size_t *ret_bytes);
cudaError_t sp_cuda_nms_start(cudaStream_t stream, const nms_work &work, int batch, const float *boxes, const float *score,
                              const int32_t *class_id, const sp_nms_params *params, const nms_answer &answer);

#endif
