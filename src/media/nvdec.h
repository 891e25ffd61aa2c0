/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: frames from the decoder of an NVIDIA GPU. libavformat's packets go to the driver's own parser
 * (libnvcuvid), pictures come back as NV12 in host memory, cropped, in the order in which they are shown.
 *
 * It shares the place of libavcodec's decoder (video_decode.h) and its promise: the same frames. Sound streams of the standards
 * that it takes decode to the same bytes everywhere; what is not sound is left to libavcodec. So as soon as the driver refuses,
 * conceals or drops anything, it has `failed`, and the run is decoded again without it.
 *
 * Frames may stay on the device instead: in a ring there that belongs to another process (sp_nvdec_ring), luma alone, as it was decoded.
 *
 *   surface --driver's copy--> picture of our own, queued --when it is known where to--> place in the ring
 *
 * Loads libcuda.so.1 and libnvcuvid.so.1 when first asked for, once per process. One thread each. */
#ifndef SP_MEDIA_NVDEC_H
#define SP_MEDIA_NVDEC_H

#include "media/video_input.h"

typedef struct sp_nvdec sp_nvdec;
typedef struct sp_nvdec_ring sp_nvdec_ring;

/* Opens `bytes` of another process' memory on that device. SP_UNSUPPORTED: it cannot be had here; then frames come to the host. */
sp_status sp_nvdec_ring_open(int device, const uint8_t handle[64], size_t bytes, sp_nvdec_ring **ret_ring, sp_error *reterr);
void sp_nvdec_ring_close(sp_nvdec_ring *ring); /* NULL is fine; all frames that were made with it are freed */

/* Is it a frame without data on the host, for sp_nvdec_ring_put? */
bool sp_nvdec_on_device(const AVFrame *frame);
/* Its luma to byte `at` of the ring, which is there when this returns. SP_UNAVAILABLE: the device does not do it. */
sp_status sp_nvdec_ring_put(sp_nvdec_ring *ring, const AVFrame *frame, size_t at, size_t stride_bytes, sp_error *reterr);

/* device: of CUDA, from 0. ring: NULL = frames come to the host. extradata: as sp_video_decoder_open. limited: the range that frames
 * are marked with. SP_UNSUPPORTED: no driver, no such device, or a stream that its decoder does not take (H.264, HEVC, VP9 and AV1 of 8
 * bits, 4:2:0); SP_NOMEM. */
sp_status sp_nvdec_open(const sp_video_input *input, sp_view extradata, int device, sp_nvdec_ring *ring, bool limited,
                        sp_nvdec **ret_nvdec, sp_error *reterr);
void sp_nvdec_close(sp_nvdec *nvdec); /* NULL is fine */

/* A packet that frames name by `ordinal` in their pts; NULL: there are no more. SP_NOMEM; whatever else goes wrong is told by
 * sp_nvdec_failed. */
sp_status sp_nvdec_send(sp_nvdec *nvdec, const AVPacket *packet, uint64_t ordinal, sp_error *reterr);

/* The next frame, NV12 or on the device. false: it wants another packet, or is at its end. */
bool sp_nvdec_receive(sp_nvdec *nvdec, AVFrame *frame);

bool sp_nvdec_failed(const sp_nvdec *nvdec);

#endif
