/* SPDX-License-Identifier: Apache-2.0
 * What a codec worker does for videos: INDEX (what a file holds) and REPORT (results to files). */
#ifndef SP_WORKER_CODEC_VIDEO_H
#define SP_WORKER_CODEC_VIDEO_H

#include "media/image.h"
#include "worker/worker.h"

/* Both: SP_UNSUPPORTED (code "no_video") when the library was built without; what media/video.h says of files. */
sp_status sp_codec_index(const sp_media_api *media, int executor, sp_work_item *item);
sp_status sp_codec_report(const sp_media_api *media, int executor, sp_work_item *item);

#endif
