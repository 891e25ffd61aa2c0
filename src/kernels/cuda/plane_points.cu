/* SPDX-License-Identifier: Apache-2.0
 * Operations on single pixels: grey from what a decoder gives, thresholds, and, or, the greater of two, the weights of moving
 * pixels. A thread makes four pixels of a row. Bound by memory: one or two bytes read and one written a pixel (four and one for
 * 16-bit and RGB, eight and one for flow), 6 MB at 1080p for most: 2 us at 3.35 TB/s. */
#include "kernels/cuda/plane.cuh"

/* Four pixels from x on of row y each; blocks of 32 x 8 threads. */
#define AT_FOUR_PIXELS(dst)                                                   \
    int x = 4 * (int)(blockIdx.x * 32 + threadIdx.x % 32);                    \
    int y = (int)(blockIdx.y * SP_PLANE_WARPS + threadIdx.x / 32);            \
    if (x >= (dst).w || y >= (dst).h)                                         \
        return;                                                               \
    uint8_t *out = (dst).data + (size_t)y * (dst).stride_bytes

static dim3 grid_of(sp_plane dst)
{
    return dim3(sp_blocks(dst.w, 128), sp_blocks(dst.h, SP_PLANE_WARPS));
}

__global__ void plane_expand_kernel(sp_plane dst, const uint8_t *luma, size_t stride, bool words)
{
    AT_FOUR_PIXELS(dst);
    uint32_t v = sp_load4(luma + (size_t)y * stride, x, dst.w, words, 0), made = 0;
    for (int i = 0; i < 4; i++)
        made |= (uint32_t)sp_grey_expand(sp_byte_of(v, i)) << (8 * i);
    sp_store4(out, x, dst.w, words, made);
}

__global__ void plane_narrow_kernel(sp_plane dst, const uint16_t *luma, size_t stride, int bits, bool limited, bool words)
{
    AT_FOUR_PIXELS(dst);
    const uint16_t *in = reinterpret_cast<const uint16_t *>(reinterpret_cast<const uint8_t *>(luma) + (size_t)y * stride);
    uint32_t made = 0;
    for (int i = 0; i < 4 && x + i < dst.w; i++) {
        uint8_t v = sp_grey_narrow(in[x + i], bits);
        made |= (uint32_t)(limited ? sp_grey_expand(v) : v) << (8 * i);
    }
    sp_store4(out, x, dst.w, words, made);
}

__global__ void plane_rgb_kernel(sp_plane dst, const uint8_t *rgb, size_t stride, int step, int r, int g, int b, bool words)
{
    AT_FOUR_PIXELS(dst);
    const uint8_t *in = rgb + (size_t)y * stride + (size_t)x * step;
    uint32_t made = 0;
    for (int i = 0; i < 4 && x + i < dst.w; i++, in += step)
        made |= (uint32_t)sp_grey_of_rgb(in[r], in[g], in[b]) << (8 * i);
    sp_store4(out, x, dst.w, words, made);
}

__global__ void plane_threshold_kernel(sp_plane dst, sp_plane src, int threshold, bool words)
{
    AT_FOUR_PIXELS(dst);
    uint32_t v = sp_load4(src.data + (size_t)y * src.stride_bytes, x, src.w, words, 0), made = 0;
    for (int i = 0; i < 4; i++)
        made |= (sp_byte_of(v, i) > threshold ? 255u : 0u) << (8 * i);
    sp_store4(out, x, dst.w, words, made);
}

enum { JOIN_OR, JOIN_AND, JOIN_MAX };

template <int HOW> __global__ void plane_join_kernel(sp_plane dst, sp_plane a, sp_plane b, bool words)
{
    AT_FOUR_PIXELS(dst);
    uint32_t one = sp_load4(a.data + (size_t)y * a.stride_bytes, x, a.w, words, 0);
    uint32_t two = sp_load4(b.data + (size_t)y * b.stride_bytes, x, b.w, words, 0), made = 0;
    if (HOW == JOIN_OR)
        made = one | two;
    else if (HOW == JOIN_AND)
        made = one & two;
    else
        for (int i = 0; i < 4; i++)
            made |= (uint32_t)SP_MAX(sp_byte_of(one, i), sp_byte_of(two, i)) << (8 * i);
    sp_store4(out, x, dst.w, words, made);
}

/* As weigh_motion of task/analyze_run.c: quarters of a pixel, floor, up to 63.75 px; NaN = the most. */
__global__ void plane_weigh_kernel(sp_plane dst, const float *dx, const float *dy, size_t stride, bool words)
{
    AT_FOUR_PIXELS(dst);
    size_t at = (size_t)y * stride + (size_t)x;
    uint32_t made = 0;
    for (int i = 0; i < 4 && x + i < dst.w; i++) {
        float v = sp_flow_magnitude(dx[at + i], dy[at + i]) * 4.0f;
        made |= (uint32_t)(int32_t)(v < 255.0f ? v : 255.0f) << (8 * i);
    }
    sp_store4(out, x, dst.w, words, made);
}

sp_status sp_cuda_grey_y8(sp_cuda_stream *stream, sp_plane dst, const uint8_t *y, size_t stride_bytes, bool limited, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    if (!limited && dst.data == y)
        return SP_OK;
    if (!limited) {
        sp_plane src = { const_cast<uint8_t *>(y), dst.w, dst.h, stride_bytes };
        return sp_cuda_check(sp_plane_copy(stream, dst, src), "copy of a plane", reterr);
    }
    bool words = sp_plane_words_ok(dst) && sp_words_ok(y, stride_bytes);
    return sp_cuda_check(SP_LAUNCH(plane_expand_kernel, grid_of(dst), SP_PLANE_THREADS, 0, stream->stream, dst, y, stride_bytes, words),
                         "plane_expand", reterr);
}

sp_status sp_cuda_grey_y16(sp_cuda_stream *stream, sp_plane dst, const uint16_t *y, size_t stride_bytes, int bits, bool limited,
                           sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return sp_cuda_check(SP_LAUNCH(plane_narrow_kernel, grid_of(dst), SP_PLANE_THREADS, 0, stream->stream, dst, y, stride_bytes, bits,
                                   limited, sp_plane_words_ok(dst)),
                         "plane_narrow", reterr);
}

sp_status sp_cuda_grey_rgb8(sp_cuda_stream *stream, sp_plane dst, const uint8_t *rgb, size_t stride_bytes, int step, int r, int g,
                            int b, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return sp_cuda_check(SP_LAUNCH(plane_rgb_kernel, grid_of(dst), SP_PLANE_THREADS, 0, stream->stream, dst, rgb, stride_bytes, step, r,
                                   g, b, sp_plane_words_ok(dst)),
                         "plane_rgb", reterr);
}

sp_status sp_cuda_threshold(sp_cuda_stream *stream, sp_plane dst, sp_plane src, uint8_t threshold, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return sp_cuda_check(SP_LAUNCH(plane_threshold_kernel, grid_of(dst), SP_PLANE_THREADS, 0, stream->stream, dst, src, (int)threshold,
                                   sp_plane_words_ok(dst) && sp_plane_words_ok(src)),
                         "plane_threshold", reterr);
}

template <int HOW> static sp_status join(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr)
{
    bool words = sp_plane_words_ok(dst) && sp_plane_words_ok(a) && sp_plane_words_ok(b);
    return sp_cuda_check(SP_LAUNCH((plane_join_kernel<HOW>), grid_of(dst), SP_PLANE_THREADS, 0, stream->stream, dst, a, b, words),
                         "plane_join", reterr);
}

sp_status sp_cuda_plane_or(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return join<JOIN_OR>(stream, dst, a, b, reterr);
}

sp_status sp_cuda_plane_and(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return join<JOIN_AND>(stream, dst, a, b, reterr);
}

sp_status sp_cuda_plane_max(sp_cuda_stream *stream, sp_plane dst, sp_plane a, sp_plane b, sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return join<JOIN_MAX>(stream, dst, a, b, reterr);
}

sp_status sp_cuda_weigh_flow(sp_cuda_stream *stream, sp_plane dst, const float *dx, const float *dy, size_t stride_floats,
                             sp_error *reterr)
{
    SP_CUDA_BEGIN(stream);
    return sp_cuda_check(SP_LAUNCH(plane_weigh_kernel, grid_of(dst), SP_PLANE_THREADS, 0, stream->stream, dst, dx, dy, stride_floats,
                                   sp_plane_words_ok(dst)),
                         "plane_weigh", reterr);
}
