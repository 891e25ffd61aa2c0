/* SPDX-License-Identifier: Apache-2.0
 * The plots of report.html. Private to the files of analyze. */
#ifndef SP_TASK_ANALYZE_PLOT_H
#define SP_TASK_ANALYZE_PLOT_H

#include "task/analyze.h"

/* Motion, edges, sharpness, exposure and change over the frames, with scene cuts and key frames. */
void sp_put_plots(sp_buf *out, const sp_analysis *analysis);
void sp_put_html(sp_buf *out, const char *text);                                  /* escaped */
void sp_put_when(sp_buf *out, const sp_analysis *analysis, uint32_t position);    /* "1:02.48", or "frame 17" without times */

#endif
