/* SPDX-License-Identifier: Apache-2.0
 * overlay.mp4: the frames again with their flow as colour and their edges as light. Private to the files of analyze. */
#ifndef SP_TASK_ANALYZE_OVERLAY_H
#define SP_TASK_ANALYZE_OVERLAY_H

#include "task/analyze.h"

/* Decodes and computes everything again, and gives the film to `put`. SP_OK without it when there is no encoder or the file
 * cannot be read any more; SP_NOMEM; what `put` returns. */
sp_status sp_overlay_put(const sp_analysis *analysis, const sp_video_api *api, const sp_video_source *source, sp_report_put_fn *put,
                         void *context, sp_error *reterr);

#endif
