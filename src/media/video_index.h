/* SPDX-License-Identifier: Apache-2.0
 * Inside src/media only: the calls that media/image.c gathers into sp_media_api.video; their contract is sp_video_api's. */
#ifndef SP_MEDIA_VIDEO_INDEX_H
#define SP_MEDIA_VIDEO_INDEX_H

#include "media/video.h"

sp_status sp_video_index_make(const sp_video_source *source, const sp_video_limits *limits, sp_buf *ret_block, sp_error *reterr);

sp_status sp_video_open(const sp_video_source *source, const sp_video_index *index, const sp_video_options *options,
                        sp_video **ret_video, sp_error *reterr);
void sp_video_close(sp_video *video);
sp_status sp_video_stand(sp_video *video, uint32_t segment, sp_error *reterr);
sp_status sp_video_next(sp_video *video, uint8_t *dst, size_t stride_bytes, sp_video_frame *ret_frame, bool *ret_more,
                        sp_video_loss *ret_loss, sp_error *reterr);
/* Afterwards sp_video_stand comes before sp_video_next. Frames in rising order are cheapest. */
sp_status sp_video_picture(sp_video *video, uint32_t number, uint8_t *ret_rgb, sp_error *reterr);

sp_status sp_video_encode_png(const uint8_t *pixels, int width, int height, int grey, uint8_t **ret_file, size_t *ret_file_bytes,
                              sp_error *reterr);
sp_status sp_video_writer_open(int fd, int width, int height, int rate_num, int rate_den, sp_video_writer **ret_writer,
                               sp_error *reterr);
sp_status sp_video_writer_add(sp_video_writer *writer, const uint8_t *rgb, sp_error *reterr);
sp_status sp_video_writer_close(sp_video_writer *writer, sp_error *reterr);
extern const sp_video_api sp_video_calls;

#endif
