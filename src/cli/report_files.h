/* SPDX-License-Identifier: Apache-2.0
 * The directory of a video's report, as `spillway analyze` keeps it:
 *
 *   OUT/report.json, run.json, frames.csv, key/000123.png ...   the report: each file appears whole or not at all
 *   OUT/.parts/FILE-PARAMS/000012.part                          finished segments, until the report is there; FILE and PARAMS are
 *                                                               digests, so that another video or other parameters find none
 *   OUT/.parts/new/                                             a report on its way
 *
 * One process at a time. It knows nothing of the house. */
#ifndef SP_CLI_REPORT_FILES_H
#define SP_CLI_REPORT_FILES_H

#include "jobs/analysis.h"

typedef struct sp_report_dir sp_report_dir;

/* Makes and locks the directory. SP_CONFLICT: another process has it; SP_INVALID: it cannot be made or written. `path` stays borrowed. */
sp_status sp_report_dir_open(const char *path, sp_loop *loop, sp_report_dir **ret_dir, sp_error *reterr);
/* Leaves what is kept where it is. No reply may be owed (sp_report_dir_settle). */
void sp_report_dir_free(sp_report_dir *dir);
SP_DEFINE_CLEANUP(sp_report_dir, sp_report_dir_free)

/* An unlinked file there, to spool standard input into. -1 and errno. */
int sp_report_dir_spool(const sp_report_dir *dir);

/* Where a run keeps finished segments. `run` and `params` must be known before the loop turns. */
sp_analysis_parts sp_report_dir_parts(sp_report_dir *dir);
void sp_report_dir_set_run(sp_report_dir *dir, const sp_analysis_run *run, const sp_analyze_params *params);
/* Gives every reply that is owed; after a run was cancelled. */
void sp_report_dir_settle(sp_report_dir *dir);

/* Puts the files of a report (a tar) and run.json into place, report.json and run.json last, and removes what was kept.
 * SP_CORRUPT: it is no such tar; SP_INTERNAL: the disk refused. What stood there before is gone only for names that are replaced;
 * pictures and films of an older report are removed. */
sp_status sp_report_dir_finish(sp_report_dir *dir, int tar_fd, uint64_t tar_bytes, sp_view run_json, sp_error *reterr);

#endif
