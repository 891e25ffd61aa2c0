/* SPDX-License-Identifier: Apache-2.0
 * Plain bilinear resize (two taps a way, whatever the scale), with crop, normalise and HWC -> NCHW.
 *
 * A thread makes one pixel from 2 x 2 of the source, straight from device memory: where pictures shrink by more than two, most of
 * a row is never used, and staging it would be waste. Six bytes of a row come as three aligned words. Bound by bytes: 32 pictures
 * of 1280x720 to 640x640 f32 (letterbox) are 88.5 MB in and 157.3 MB out: 73 us at 3.35 TB/s. */
#include "kernels/cuda/prep.cuh"

/* Two neighbouring pixels of one row across: 8 fractional bits. w1 = 0: the right one is not looked at. */
SP_DEVICE void plain_row(const sp_prep_picture *p, int y, sp_prep_pair at, uint16_t ret[3])
{
    const uint8_t *pixel = p->rgb + (size_t)y * p->stride_bytes + (size_t)at.at * 3;
    unsigned lead = (unsigned)reinterpret_cast<uintptr_t>(pixel) & 3u;
    const uint8_t *from = pixel - lead;
    if (from >= p->rgb && from + 12 <= p->end) {
        const uint32_t *word = reinterpret_cast<const uint32_t *>(from);
        uint32_t w0 = __ldg(word), w1 = __ldg(word + 1), w2 = __ldg(word + 2);
        uint32_t a = __funnelshift_r(w0, w1, lead * 8), b = __funnelshift_r(w1, w2, lead * 8);
        ret[0] = sp_plain_h((uint8_t)a, (uint8_t)(a >> 24), at.count);
        ret[1] = sp_plain_h((uint8_t)(a >> 8), (uint8_t)b, at.count);
        ret[2] = sp_plain_h((uint8_t)(a >> 16), (uint8_t)(b >> 8), at.count);
    } else {
        for (int c = 0; c < 3; c++)
            ret[c] = sp_plain_h(pixel[c], pixel[at.count ? 3 + c : c], at.count);
    }
}

template <int OUT> __global__ void __launch_bounds__(SP_PREP_THREADS_MAX) prep_plain(const __grid_constant__ sp_prep_job job)
{
    SP_SHARED(unsigned char, table);
    const sp_prep_picture *p = picture_of(&job, (int)blockIdx.x);
    int tile = (int)blockIdx.x - p->first_tile;
    load_norm<OUT>(&job, table);
    __syncthreads();
    if (tile >= p->tiles) {
        put_padding<OUT>(&job, p, tile - p->tiles);
        return;
    }
    int band = tile / p->tiles_across, j1 = min((band + 1) * p->tile_rows, p->y1 - p->y0);
    int group = (int)threadIdx.x / p->tile_cols, i = (tile - band * p->tiles_across) * p->tile_cols + (int)threadIdx.x - group * p->tile_cols;
    if (i >= p->x1 - p->x0 || group >= p->groups)
        return;
    sp_prep_pair across = across_at(&job, p, i);
    for (int j = band * p->tile_rows + group; j < j1; j += p->groups) {
        sp_prep_pair down = down_at(&job, p, j);
        uint16_t top[3], low[3];
        uint8_t rgb[3];
        plain_row(p, down.at, across, top);
        plain_row(p, down.count ? down.at + 1 : down.at, across, low);
        for (int c = 0; c < 3; c++)
            rgb[c] = sp_plain_v(top[c], low[c], down.count);
        put<OUT>(&job, p->index, p->x0 + i, p->y0 + j, rgb, table);
    }
}

extern "C" cudaError_t sp_prep_launch_plain(const sp_prep_job *job, sp_prep_out out, int tiles, int threads, size_t shared_bytes,
                                            cudaStream_t stream)
{
    switch (out) {
    case SP_PREP_OUT_F32:
        return SP_LAUNCH((prep_plain<SP_PREP_OUT_F32>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    case SP_PREP_OUT_F16:
        return SP_LAUNCH((prep_plain<SP_PREP_OUT_F16>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    default:
        return SP_LAUNCH((prep_plain<SP_PREP_OUT_RGB8>), dim3((unsigned)tiles), dim3((unsigned)threads), shared_bytes, stream, *job);
    }
}
