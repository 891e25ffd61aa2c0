/* SPDX-License-Identifier: Apache-2.0
 * analyze on a GPU: what sp_analyzer does (analyze.h), with the CUDA twins of its kernels: the same records, bit for bit. Grey frames
 * go in, sums and lists of regions come out; nothing else leaves the device, and nothing is decided on the host in between.
 *
 * One thread at a time; several of them on one device overlap. Memory is reserved by _new, for one size of frames. */
#ifndef SP_TASK_ANALYZE_CUDA_H
#define SP_TASK_ANALYZE_CUDA_H

#include "kernels/cuda.h"
#include "task/analyze.h"

typedef struct sp_analyze_cuda sp_analyze_cuda;

/* SP_UNSUPPORTED: this plug-in lacks what the analysis needs. */
sp_status sp_analyze_cuda_check(const sp_cuda_api *api, sp_error *reterr);

/* `frames`: so many at once at most, in device memory; fewer if there is no room (never below two). plan stays borrowed. SP_NOMEM;
 * SP_UNSUPPORTED: parameters that the device's twin does not have. */
sp_status sp_analyze_cuda_new(const sp_cuda_api *api, sp_cuda *cuda, const sp_analyze_plan *plan, int frames, sp_analyze_cuda **ret_analyzer,
                              sp_error *reterr);
void sp_analyze_cuda_free(sp_analyze_cuda *analyzer); /* NULL is fine */
SP_DEFINE_CLEANUP(sp_analyze_cuda, sp_analyze_cuda_free)

/* Once on each thread that runs it. */
sp_status sp_analyze_cuda_thread(const sp_analyze_cuda *analyzer, sp_error *reterr);

/* As sp_analyzer_begin and sp_analyzer_run. `pinned`: grey lies in memory that the device reads on its own (host_register), and its
 * rows follow each other without a gap; else it is copied once more. A frame that says on_device lies in the device's memory, in rows of
 * the video's width, and is made grey there. Returns when the records stand. What the device says if it fails:
 * SP_UNAVAILABLE when it is gone for good; then nothing of it touches `grey` any more. */
void sp_analyze_cuda_begin(sp_analyze_cuda *analyzer);
sp_status sp_analyze_cuda_run(sp_analyze_cuda *analyzer, const uint8_t *const *grey, size_t stride_bytes, bool pinned,
                              const sp_video_frame *frames, int count, bool has_next, sp_frame_record *ret_records, sp_error *reterr);

/* Times here are the host's: of a run all counts as flow, since the rest happens beside it. */
void sp_analyze_cuda_timing(const sp_analyze_cuda *analyzer, sp_analyze_timing *ret_timing);

#endif
