/* SPDX-License-Identifier: Apache-2.0
 * INDEX and REPORT. The library's calls may take minutes for a long film, so what it is given of the video reader marks progress
 * with each frame, and ends when nobody wants the report any more. */
#include "worker/codec_video.h"

#include "base/clock.h"
#include "media/video.h"
#include "task/analyze.h"
#include "worker/tar.h"

#include <stdlib.h>
#include <string.h>

/* Reading, hashing and parsing a file's packets: 2 ns a byte here. */
#define INDEX_BUDGET_NS_PER_BYTE 40
#define INDEX_BUDGET_NS (20 * SP_NS_PER_S)

/* Of one step of a report: a picture may have to be decoded from a key frame thousands of frames before it. */
#define STEP_BUDGET_NS (200 * SP_NS_PER_S)

static sp_status source_of(const sp_media_api *media, const sp_work_item *item, sp_video_source *ret_source, sp_error *reterr)
{
    *ret_source = (sp_video_source){ 0 };
    if (!media->video)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_video", "this build of libspillway_media reads no videos");
    return sp_worker_media(item, &ret_source->fd, &ret_source->size_bytes, reterr);
}

sp_status sp_codec_index(const sp_media_api *media, int executor, sp_work_item *item)
{
    sp_video_source source;
    sp_video_limits limits = { 0 };
    sp_buf block;
    sp_status s = source_of(media, item, &source, &item->error);
    if (s)
        return s;
    if (item->body.size_bytes && item->body.size_bytes != sizeof(limits))
        return SP_FAIL(&item->error, SP_INVALID, "an INDEX is told limits of %zu bytes, not %zu", sizeof(limits), item->body.size_bytes);
    if (item->body.size_bytes)
        memcpy(&limits, item->body.data, sizeof(limits));
    sp_worker_stage(executor, SP_STAGE_DECODE, INDEX_BUDGET_NS + (int64_t)SP_MIN(source.size_bytes, SP_LIMIT_VIDEO_BODY_BYTES) *
                                                                     INDEX_BUDGET_NS_PER_BYTE);
    int64_t begun_ns = sp_clock_now_ns();
    sp_buf_init(&block, SP_ANSWER_STRIDE);
    s = media->video->index(&source, &limits, &block, &item->error);
    if (!s && (!sp_buf_ok(&block) || block.size_bytes > SP_ANSWER_STRIDE))
        s = SP_FAIL(&item->error, SP_NOMEM, "no room for the index");
    if (!s) {
        memcpy(item->answer, block.data, block.size_bytes);
        item->answer_touched = block.size_bytes;
        item->done.answer_bytes = (uint32_t)block.size_bytes;
    }
    item->done.decode_ns = sp_clock_now_ns() - begun_ns;
    sp_buf_done(&block);
    return s;
}

/* --- the report ----------------------------------------------------------------------------------------------------- */

/* The library's table with progress around it. One report at a time in a thread. */
static _Thread_local struct {
    const sp_video_api *api;
    const sp_work_item *item;
    int executor;
} now;

static sp_status step(sp_error *reterr)
{
    if (sp_work_item_cancelled(now.item))
        return SP_FAIL(reterr, SP_CANCELLED, "the request was withdrawn while its report was written");
    sp_worker_stage(now.executor, SP_STAGE_POSTPROCESS, STEP_BUDGET_NS);
    return SP_OK;
}

static sp_status next(sp_video *video, uint8_t *dst, size_t stride_bytes, sp_video_frame *ret_frame, bool *ret_more,
                      sp_video_loss *ret_loss, sp_error *reterr)
{
    sp_status s = step(reterr);
    return s ? s : now.api->next(video, dst, stride_bytes, ret_frame, ret_more, ret_loss, reterr);
}

static sp_status picture(sp_video *video, uint32_t number, uint8_t *ret_rgb, sp_error *reterr)
{
    sp_status s = step(reterr);
    return s ? s : now.api->picture(video, number, ret_rgb, reterr);
}

static sp_status writer_add(sp_video_writer *writer, const uint8_t *rgb, sp_error *reterr)
{
    sp_status s = step(reterr);
    return s ? s : now.api->writer_add(writer, rgb, reterr);
}

static sp_status put(void *context, const char *name, sp_view bytes, sp_error *reterr)
{
    sp_status s = step(reterr);
    return s ? s : sp_tar_add(context, name, bytes, reterr);
}

static sp_status write_report(const sp_media_api *media, const sp_work_item *item, const sp_video_source *source, sp_tar *tar,
                              sp_error *reterr)
{
    SP_CLEANUP(sp_analysis_freep) sp_analysis *analysis = NULL;
    sp_analyze_order order;
    const sp_video_index *index;
    sp_view segments;
    sp_video_api video = *media->video;
    sp_media_api watched = *media;
    video.next = next;
    video.picture = picture;
    video.writer_add = writer_add;
    watched.video = &video;
    if ((uintptr_t)item->body.data % 8)
        return SP_FAIL(reterr, SP_INTERNAL, "the body of a report is not aligned");
    sp_status s = sp_analyze_order_check(item->body, &order, &index, &segments, reterr);
    if (!s)
        s = sp_analysis_merge(index, &order.params, segments, &analysis, reterr);
    if (!s)
        s = step(reterr);
    if (!s)
        s = sp_analysis_write_all(analysis, &watched, source, order.overlay != 0, put, tar, reterr);
    return s ? s : sp_tar_end(tar, reterr);
}

sp_status sp_codec_report(const sp_media_api *media, int executor, sp_work_item *item)
{
    sp_video_source source;
    sp_tar tar = { .limit_bytes = SP_LIMIT_REPORT_BYTES };
    sp_status s = source_of(media, item, &source, &item->error);
    if (!s)
        s = sp_worker_output_fd(item, &tar.fd, &item->error);
    if (s)
        return s;
    sp_worker_stage(executor, SP_STAGE_POSTPROCESS, STEP_BUDGET_NS);
    int64_t begun_ns = sp_clock_now_ns();
    now.api = media->video;
    now.item = item;
    now.executor = executor;
    s = write_report(media, item, &source, &tar, &item->error);
    item->done.postprocess_ns = sp_clock_now_ns() - begun_ns;
    item->done.output_kind = SP_OUTPUT_BYTES;
    item->done.output_bytes = tar.size_bytes;
    return s;
}
