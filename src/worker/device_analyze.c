/* SPDX-License-Identifier: Apache-2.0
 * Chunks of videos at a device: a lane of their own beside the other work, one chunk at a time (worker/chunk.h). What the lane
 * keeps from one chunk to the next is let go of after a while without any.
 *
 * A GPU analyses on the GPU, or not at all: a link that says cuda0 and computes on the processor would be as slow as cpu0, take its
 * cores, and be paid as a GPU. So where the plug-in is missing the card has no window for videos, and says why. */
#include "worker/device.h"

#include "base/clock.h"
#include "base/log.h"
#include "task/analyze_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A decoder costs 50 ms to start and analyzers their page faults: the next chunk of a video comes within milliseconds. */
#define KEEP_NS (2 * SP_NS_PER_S)

/* Decoding 1080p takes a tenth of what its analysis does. */
#define DECODER_THREADS_MOST 4

/* Of the machine, when nobody says how much models may have. */
#define MEMORY_PERCENT 40

/* Of a GPU: one block is computed while the sums of another one are made into records. */
#define CUDA_THREADS 2

/* Whether a GPU is to do it that cannot. */
static bool lacks_kernels(sp_device *dev, const char *kind)
{
    sp_error why = { 0 };
    sp_status s = SP_OK;
    if (strcmp(kind, "cuda") != 0 && strcmp(kind, "tensorrt") != 0)
        return false;
    const sp_cuda_api *api = dev->target.cuda_api;
    if (dev->target.cuda)
        s = sp_analyze_cuda_check(api, &why);
    else if (!(s = sp_cuda_load(&api, &why)))
        s = SP_FAIL(&why, SP_UNSUPPORTED, "the CUDA plug-in was not taken");
    if (!s)
        return false;
    (void)snprintf(dev->analyze.why_not, sizeof(dev->analyze.why_not), "no videos: %.200s", why.message);
    return true;
}

/* Does the decoder (frames_main.c) decode on the GPU that this worker analyses on? Both count the same devices, this process'. */
static bool device_decodes(const sp_device *dev, const sp_worker_config *config)
{
    const char *text = getenv("SPILLWAY_NVDEC");
    char own[16];
    if (!text || !dev->target.cuda || config->require_sandbox || !dev->target.cuda_api->shared_new)
        return false;
    (void)snprintf(own, sizeof(own), "%d", dev->cuda_info.index);
    return strcmp(text, own) == 0;
}

sp_status sp_device_analyze_open(sp_device *dev, const sp_worker_config *config, int cpus, uint64_t memory_bytes, sp_error *reterr)
{
    const char *threads = getenv("SPILLWAY_ANALYZE_THREADS");
    int64_t wanted = threads ? strtol(threads, NULL, 10) : 0;
    if (lacks_kernels(dev, config->kind))
        return SP_OK;
    const sp_lane_settings settings = {
        .threads = dev->target.cuda ? CUDA_THREADS : wanted > 0 ? (int)SP_MIN(wanted, SP_LIMIT_CHUNK_THREADS) : cpus,
        .decoder_threads = SP_CLAMP(cpus / 2, 1, DECODER_THREADS_MOST),
        .memory_bytes = config->model_memory_bytes ? config->model_memory_bytes : memory_bytes / 100 * MEMORY_PERCENT,
        .require_sandbox = config->require_sandbox,
        .sim = dev->sim,
        .cuda_api = dev->target.cuda_api,
        .cuda = dev->target.cuda,
        .registers = dev->registers,
        .device_decodes = device_decodes(dev, config),
    };
    return sp_lane_new(&settings, &dev->analyze.lane, reterr);
}

void sp_device_analyze_close(sp_device *dev)
{
    sp_lane_free(SP_STEAL(dev->analyze.lane));
}

/* --- who is next: under the loop's lock --------------------------------------------------------------------------- */

void sp_device_analyze_add(sp_device *dev, sp_work_item *item)
{
    dev->analyze.waiting[dev->analyze.waiting_count++] = item;
}

static void forget(sp_device_analyze *analyze, int index)
{
    analyze->waiting_count--;
    for (int i = index; i < analyze->waiting_count; i++)
        analyze->waiting[i] = analyze->waiting[i + 1];
}

void sp_device_analyze_remove(sp_device *dev, const sp_work_item *item)
{
    for (int i = 0; i < dev->analyze.waiting_count; i++) {
        if (dev->analyze.waiting[i] == item) {
            forget(&dev->analyze, i);
            return;
        }
    }
}

bool sp_device_analyze_next(sp_device *dev, int64_t now_ns, sp_worker_batch *batch)
{
    sp_device_analyze *analyze = &dev->analyze;
    if (analyze->busy)
        return false;
    if (!analyze->waiting_count) {
        if (!analyze->rest_at_ns)
            return false;
        if (now_ns < analyze->rest_at_ns) {
            batch->due_ns = SP_MIN(batch->due_ns, analyze->rest_at_ns);
            return false;
        }
        analyze->rest_at_ns = 0; /* a chore: ending a process is not done under a lock */
    } else {
        batch->items[batch->count++] = analyze->waiting[0];
        forget(analyze, 0);
    }
    analyze->busy = true;
    batch->own = analyze;
    batch->more = true; /* other work goes on beside it */
    return true;
}

bool sp_device_analyze_owns(const sp_device *dev, const sp_worker_batch *batch)
{
    return batch->own == &dev->analyze;
}

void sp_device_analyze_over(sp_device *dev, const sp_worker_batch *batch, int64_t now_ns)
{
    dev->analyze.busy = false;
    dev->analyze.rest_at_ns = batch->count && dev->analyze.lane && sp_lane_keeps(dev->analyze.lane) ? now_ns + KEEP_NS : 0;
    for (int i = 0; i < batch->count; i++)
        sp_worker_finish(batch->items[i]);
}

/* --- a chunk: without the lock ------------------------------------------------------------------------------------ */

typedef struct run {
    int executor;
    sp_work_item *item;
} run;

static bool cancelled(void *context)
{
    return sp_work_item_cancelled(((run *)context)->item);
}

static void progress(void *context, uint32_t frames)
{
    sp_worker_progress(((run *)context)->item, frames);
}

static void stage(void *context, sp_stage stage, int64_t budget_ns)
{
    sp_worker_stage(((run *)context)->executor, stage, budget_ns);
}

static sp_status analyze(sp_device *dev, int executor, sp_work_item *item)
{
    run self = { executor, item };
    sp_chunk chunk = { .body = item->body, .answer = item->answer, .answer_capacity = SP_ANSWER_STRIDE, .context = &self,
                       .cancelled = cancelled, .progress = progress, .stage = stage };
    sp_chunk_result result;
    int64_t begun_ns = sp_clock_now_ns();
    if (!dev->analyze.lane)
        return SP_FAIL_CODE(&item->error, SP_UNSUPPORTED, "missing_plugin", "%s", dev->analyze.why_not);
    sp_worker_stage(executor, SP_STAGE_DECODE, 0);
    sp_status s = sp_worker_media(item, &chunk.media_fd, &chunk.media_bytes, &item->error);
    if (s)
        return s;
    s = sp_lane_run(dev->analyze.lane, &chunk, &result, &item->error);
    if (dev->sim)
        sp_device_publish_simulated(dev);
    sp_device_cuda_publish(dev);
    item->answer_touched = result.answer_bytes;
    if (result.lost_device.status)
        sp_worker_end_after_batch(&result.lost_device);
    if (s)
        return s;
    int64_t threads = SP_MAX(result.threads, 1);
    item->done.answer_bytes = (uint32_t)result.answer_bytes;
    item->done.decode_ns = result.decode_ns;
    item->done.inference_ns = result.timing.flow_ns / threads;
    item->done.preprocess_ns = result.timing.edges_ns / threads;
    item->done.postprocess_ns = (result.timing.morphology_ns + result.timing.measures_ns) / threads;
    item->done.batch_run_ns = sp_clock_now_ns() - begun_ns;
    return SP_OK;
}

void sp_device_analyze_run(sp_device *dev, int executor, const sp_worker_batch *batch)
{
    if (!batch->count)
        (void)sp_lane_rest(dev->analyze.lane);
    for (int i = 0; i < batch->count; i++) {
        if (!batch->items[i]->status)
            batch->items[i]->status = analyze(dev, executor, batch->items[i]);
    }
}
