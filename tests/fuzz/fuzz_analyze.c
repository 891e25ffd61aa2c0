/* SPDX-License-Identifier: Apache-2.0
 * What travels between the processes that analyse a video: an order (the input itself), and segments of a small video (the
 * input behind a head whose check sum is made right, so that the records are reached). What must hold: refused with a reason, or
 * everything in it can be merged and written. */
#include "task/analyze_internal.h"

#include <stdlib.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FRAMES 4u

typedef struct small_index {
    sp_video_index index;
    sp_video_run run;
    sp_video_segment segment[2]; /* 24 bytes */
    int64_t pts[FRAMES];
} small_index;

static const sp_video_index *the_index(void)
{
    static small_index x;
    x.index = (sp_video_index){ .abi = SP_VIDEO_INDEX_ABI, .index_bytes = sizeof(x), .file_bytes = 1, .format = "f", .codec = "<c>",
        .pixel_format = "p", .width = 40, .height = 30, .coded_width = 40, .coded_height = 30, .has_times = 1, .time_base_num = 1,
        .time_base_den = 25, .rate_num = 25, .rate_den = 1, .frame_count = FRAMES, .run_count = 1, .segment_count = 2,
        .runs_offset = offsetof(small_index, run), .segments_offset = offsetof(small_index, segment),
        .pts_offset = offsetof(small_index, pts) };
    x.run.frame_count = FRAMES;
    x.segment[0] = (sp_video_segment){ 0, 0, 2 };
    x.segment[1] = (sp_video_segment){ 0, 2, 2 };
    for (uint32_t i = 0; i < FRAMES; i++)
        x.pts[i] = i;
    return &x.index;
}

static void fail_unless(bool good)
{
    if (!good)
        abort();
}

static void write_all_of(const sp_analysis *a)
{
    static void (*const writers[])(const sp_analysis *, sp_buf *) = { sp_analysis_write_json, sp_analysis_write_csv,
                                                                      sp_analysis_write_npz, sp_analysis_write_html };
    static uint8_t rgb[40 * 30 * 3];
    for (size_t i = 0; i < SP_ARRAY_LEN(writers); i++) {
        sp_buf out;
        bool differ = true;
        sp_buf_init(&out, 1u << 22);
        writers[i](a, &out);
        fail_unless(sp_buf_ok(&out));
        if (i == 0)
            fail_unless(sp_analysis_compare(sp_buf_view(&out), sp_buf_view(&out), &differ, NULL, NULL) == SP_OK && !differ);
        sp_buf_done(&out);
    }
    for (uint32_t i = 0; i < FRAMES; i++)
        sp_analysis_draw(a, i, rgb);
}

/* Heads get what only this program could know: identity, size and sums. */
static void make_plausible(uint8_t *bytes, size_t size, const sp_video_index *index, const sp_analyze_params *params)
{
    for (size_t at = 0; size - at >= sizeof(sp_segment_head);) {
        sp_segment_head *head = (sp_segment_head *)(void *)(bytes + at);
        size_t left = size - at;
        head->magic = SP_SEGMENT_MAGIC;
        head->abi = SP_ANALYZE_ABI;
        if (head->bytes < sizeof(*head) || head->bytes > left || head->bytes % 8)
            head->bytes = left & ~(size_t)7;
        memcpy(head->file_sha256, index->sha256, 32);
        sp_analyze_params_digest(params, head->params_sha256);
        head->loss.reason[sizeof(head->loss.reason) - 1] = 0;
        head->check = XXH64(head + 1, (size_t)head->bytes - sizeof(*head), XXH64(head, offsetof(sp_segment_head, check), 0));
        at += (size_t)head->bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_error err = { 0 };
    sp_analyze_order order;
    const sp_video_index *index;
    sp_view segments;
    sp_analysis *analysis = NULL;
    sp_analyze_params params = sp_analyze_params_default();
    uint8_t *bytes = aligned_alloc(8, SP_ALIGN_UP(size + 8, (size_t)8));
    if (!bytes)
        return 0;

    memcpy(bytes, data, size);
    sp_status s = sp_analyze_order_check(sp_view_make(bytes, size), &order, &index, &segments, &err);
    fail_unless(s == SP_OK || (s == SP_INVALID && err.message[0]));
    params.track_min_frames = 1;
    params.defect_min_frames = 1;
    params.key_frames = 2;
    make_plausible(bytes, size, the_index(), &params);
    err = (sp_error){ 0 };
    s = sp_analysis_merge(the_index(), &params, sp_view_make(bytes, size), &analysis, &err);
    fail_unless(s == SP_OK || (s == SP_INVALID && err.message[0]));
    if (!s)
        write_all_of(analysis);
    sp_analysis_free(analysis);
    free(bytes);
    return 0;
}
