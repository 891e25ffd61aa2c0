/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: frames from the decoder of an NVIDIA GPU. libavformat's packets go to the driver's own parser
 * (libnvcuvid), pictures come back as NV12 in host memory, cropped, in the order in which they are shown.
 *
 * It shares the place of libavcodec's decoder (video_decode.h) and its promise: the same frames. Sound streams of the standards
 * that it takes decode to the same bytes everywhere; what is not sound is left to libavcodec. So as soon as the driver refuses,
 * conceals or drops anything, it has `failed`, and the run is decoded again without it.
 *
 * Loads libcuda.so.1 and libnvcuvid.so.1 when first asked for, once per process. One thread each. */
#ifndef SP_MEDIA_NVDEC_H
#define SP_MEDIA_NVDEC_H

#include "media/video_input.h"

typedef struct sp_nvdec sp_nvdec;

/* device: of CUDA, from 0. extradata: as sp_video_decoder_open. limited: the range that frames are marked with. SP_UNSUPPORTED:
 * no driver, no such device, or a stream that its decoder does not take (H.264, HEVC, VP9 and AV1 of 8 bits, 4:2:0); SP_NOMEM. */
sp_status sp_nvdec_open(const sp_video_input *input, sp_view extradata, int device, bool limited, sp_nvdec **ret_nvdec,
                        sp_error *reterr);
void sp_nvdec_close(sp_nvdec *nvdec); /* NULL is fine */

/* A packet that frames name by `ordinal` in their pts; NULL: there are no more. SP_NOMEM; whatever else goes wrong is told by
 * sp_nvdec_failed. */
sp_status sp_nvdec_send(sp_nvdec *nvdec, const AVPacket *packet, uint64_t ordinal, sp_error *reterr);

/* The next frame, NV12. false: it wants another packet, or is at its end. */
bool sp_nvdec_receive(sp_nvdec *nvdec, AVFrame *frame);

bool sp_nvdec_failed(const sp_nvdec *nvdec);

#endif
