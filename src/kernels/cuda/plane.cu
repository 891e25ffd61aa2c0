/* SPDX-License-Identifier: Apache-2.0
 * The scratch of the operations on planes, and their table (cuda_plane.h). */
#include "kernels/cuda/plane.cuh"

#include <stdlib.h>

cudaError_t sp_plane_copy(sp_cuda_stream *stream, sp_plane dst, sp_plane src)
{
    return cudaMemcpy2DAsync(dst.data, dst.stride_bytes, src.data, src.stride_bytes, (size_t)src.w, (size_t)src.h,
                             cudaMemcpyDeviceToDevice, stream->stream);
}

/* Places in the block, 256 bytes apart at least. */
static uint8_t *place(uint8_t *block, size_t *at, size_t bytes)
{
    uint8_t *p = block ? block + *at : NULL;
    *at += SP_ALIGN_UP(bytes, (size_t)256);
    return p;
}

static size_t lay_out(sp_cuda_plane_scratch *s, uint8_t *block)
{
    size_t at = 0, w = (size_t)s->w, h = (size_t)s->h, components = (w + 1) / 2 * ((h + 1) / 2);
    s->stride = SP_ALIGN_UP(w, (size_t)128);
    for (int i = 0; i < 3; i++)
        s->planes[i] = place(block, &at, s->stride * h);
    s->bits = (uint32_t *)(void *)place(block, &at, (size_t)sp_bit_words(s->w) * h * 4);
    s->labels = (int *)(void *)place(block, &at, (w * h + 1) * 4);
    s->parts = (sp_region *)(void *)place(block, &at, components * sizeof(sp_region));
    s->roots = (uint32_t *)(void *)place(block, &at, components * 4);
    s->candidates = (uint32_t *)(void *)place(block, &at, components * 4);
    s->keys = (uint4 *)(void *)place(block, &at, (size_t)SP_MAX(s->capacity, 1) * sizeof(uint4));
    s->counts = (sp_plane_counts *)(void *)place(block, &at, sizeof(sp_plane_counts));
    return at;
}

static void scratch_free(sp_cuda_plane_scratch *s)
{
    if (!s)
        return;
    sp_cuda_release(s->cuda, s->block);
    free(s);
}

static sp_status scratch_new(sp_cuda *cuda, int w, int h, int regions_capacity, sp_cuda_plane_scratch **ret_scratch, sp_error *reterr)
{
    if (w < 1 || h < 1 || regions_capacity < 0)
        return SP_FAIL(reterr, SP_INVALID, "a plane of %d x %d pixels with %d regions", w, h, regions_capacity);
    if (w > SP_PLANE_SIDE_MAX || h > SP_PLANE_SIDE_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "a plane of %d x %d pixels is larger than %d on a side", w, h, SP_PLANE_SIDE_MAX);
    if (regions_capacity > SP_LIMIT_CUDA_REGIONS)
        return SP_FAIL(reterr, SP_TOO_LARGE, "%d regions are more than %d", regions_capacity, SP_LIMIT_CUDA_REGIONS);
    sp_cuda_plane_scratch *s = (sp_cuda_plane_scratch *)calloc(1, sizeof(*s));
    if (!s)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a plane's scratch");
    s->cuda = cuda;
    s->w = w;
    s->h = h;
    s->capacity = regions_capacity;
    sp_status status = sp_cuda_reserve(cuda, lay_out(s, NULL), &s->block, reterr);
    if (status) {
        free(s);
        return status;
    }
    (void)lay_out(s, (uint8_t *)s->block);
    *ret_scratch = s;
    return SP_OK;
}

const struct sp_cuda_plane_api sp_cuda_plane_calls = {
    scratch_new, scratch_free,
    sp_cuda_grey_y8, sp_cuda_grey_y16, sp_cuda_grey_rgb8,
    sp_cuda_blur_gaussian, sp_cuda_blur_box, sp_cuda_sobel, sp_cuda_canny, sp_cuda_morph,
    sp_cuda_regions_find,
    sp_cuda_measure_plane, sp_cuda_measure_difference, sp_cuda_measure_nonzero,
    sp_cuda_threshold, sp_cuda_plane_or, sp_cuda_plane_and, sp_cuda_plane_max,
    sp_cuda_measure_flow, sp_cuda_weigh_flow,
};
