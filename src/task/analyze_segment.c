/* SPDX-License-Identifier: Apache-2.0
 * The records of one segment as bytes, and the order that asks for them. What is checked here came from another process or from
 * a disk; after the check every number in it may be used as it stands. */
#include "task/analyze_internal.h"

#include <stdio.h>
#include <xxhash.h>

/* --- writing --- */

static uint64_t check_of(const sp_segment_head *head, const void *records, size_t records_bytes)
{
    return XXH64(records, records_bytes, XXH64(head, offsetof(sp_segment_head, check), 0));
}

static void append_record(sp_buf *out, const sp_frame_record *record)
{
    sp_buf_append(out, record, SP_RECORD_FIXED_BYTES);
    sp_buf_append(out, record->motion, sizeof(sp_frame_region) * sp_regions_told(record->motion_count));
    sp_buf_append(out, record->defects, sizeof(sp_frame_region) * sp_regions_told(record->defect_count));
}

void sp_segment_write(sp_buf *out, const sp_video_index *index, const sp_analyze_params *params, uint32_t segment,
                      const sp_frame_record *records, uint32_t record_count, const sp_video_loss *loss)
{
    sp_segment_head head;
    size_t begin = out->size_bytes;
    const sp_video_segment *place = &sp_video_index_segments(index)[segment];

    SP_ASSERT(segment < index->segment_count && record_count <= place->frame_count);
    memset(&head, 0, sizeof(head));
    head.magic = SP_SEGMENT_MAGIC;
    head.abi = SP_ANALYZE_ABI;
    memcpy(head.file_sha256, index->sha256, sizeof(head.file_sha256));
    sp_analyze_params_digest(params, head.params_sha256);
    head.segment = segment;
    head.record_count = record_count;
    head.loss.lost_frames = place->frame_count - record_count;
    head.loss.error_count = loss ? loss->error_count : 0;
    if (loss)
        (void)snprintf(head.loss.reason, sizeof(head.loss.reason), "%.*s", (int)sizeof(loss->reason), loss->reason);
    sp_buf_append(out, &head, sizeof(head));
    for (uint32_t i = 0; i < record_count; i++) {
        append_record(out, &records[i]);
        head.loss.damaged_frames += records[i].damaged;
    }
    if (!sp_buf_ok(out))
        return;
    head.bytes = out->size_bytes - begin;
    head.check = check_of(&head, out->data + begin + sizeof(head), (size_t)head.bytes - sizeof(head));
    memcpy(out->data + begin, &head, sizeof(head));
}

/* --- checking --- */

static bool regions_good(const sp_frame_region *regions, uint32_t count, const sp_video_index *index, uint64_t strength_max)
{
    for (uint32_t i = 0; i < count; i++) {
        const sp_frame_region *r = &regions[i];
        if (r->x0 >= r->x1 || r->y0 >= r->y1 || r->x1 > index->width || r->y1 > index->height)
            return false;
        uint64_t box = (uint64_t)(r->x1 - r->x0) * (uint64_t)(r->y1 - r->y0);
        if (r->area == 0 || r->area > box || r->strength > strength_max)
            return false;
        if (r->centre_x >> 8 < r->x0 || r->centre_x >> 8 >= r->x1 || r->centre_y >> 8 < r->y0 || r->centre_y >> 8 >= r->y1)
            return false;
    }
    return true;
}

/* What one picture can say. */
static bool frame_good(const sp_frame_record *r, uint64_t pixels)
{
    return r->has_pair <= 1 && r->damaged <= 1 && r->key <= 1 && r->cut <= 1 && r->mean <= 255000 && r->deviation <= 255000 &&
           r->dark <= 1000 && r->bright <= 1000 && r->sharpness <= 2000000000u && r->edges <= pixels &&
           r->motion_count <= pixels && r->defect_count <= pixels;
}

static bool pair_good(const sp_frame_record *r, uint64_t pixels)
{
    for (int i = 0; i < 8; i++) {
        if (r->direction[i] > (r->has_pair ? 1000u : 0u))
            return false;
    }
    if (!r->has_pair)
        return !(r->cut | r->difference | r->histogram_distance | r->flow_mean | r->flow_deviation | r->flow_max | r->moving |
                 r->mask_area | r->motion_count) && r->flow_x == 0 && r->flow_y == 0;
    return r->difference <= 255000 && r->histogram_distance <= 1000 && r->flow_x >= -SP_FLOW_QUANTUM_MAX &&
           r->flow_x <= SP_FLOW_QUANTUM_MAX && r->flow_y >= -SP_FLOW_QUANTUM_MAX && r->flow_y <= SP_FLOW_QUANTUM_MAX &&
           r->flow_mean <= SP_FLOW_QUANTUM_MAX && r->flow_deviation <= SP_FLOW_QUANTUM_MAX &&
           r->flow_max <= SP_FLOW_QUANTUM_MAX && r->moving <= pixels && r->mask_area <= pixels;
}

/* One record at `data`, of which `left` bytes are there. NULL = good, else what is wrong. */
static const char *record_fault(const uint8_t *data, size_t left, const sp_video_index *index, const sp_video_segment *place,
                                size_t *ret_bytes)
{
    const sp_frame_record *r = (const sp_frame_record *)(const void *)data;
    uint64_t pixels = (uint64_t)index->width * (uint64_t)index->height;

    if (left < SP_RECORD_FIXED_BYTES || left < sp_record_bytes(r))
        return "a record is cut off";
    *ret_bytes = sp_record_bytes(r);
    if (r->number < place->first_frame || r->number - place->first_frame >= place->frame_count)
        return "a record of another segment";
    if (r->pts != sp_video_index_pts(index)[r->number])
        return "a record with another frame's time";
    if (!frame_good(r, pixels) || !pair_good(r, pixels))
        return "a measure is out of its range";
    if (!regions_good(sp_record_motion(r), sp_regions_told(r->motion_count), index, SP_FLOW_QUANTUM_MAX) ||
        !regions_good(sp_record_defects(r), sp_regions_told(r->defect_count), index, 255 * 256))
        return "a region lies outside of the frame";
    return NULL;
}

static const char *records_fault(const sp_segment_head *head, const uint8_t *block, const sp_video_index *index)
{
    const sp_video_segment *place = &sp_video_index_segments(index)[head->segment];
    uint32_t damaged = 0, next_number = place->first_frame;
    size_t at = sizeof(*head), record_bytes = 0;

    if (head->record_count > place->frame_count || head->loss.lost_frames != place->frame_count - head->record_count)
        return "it does not account for all of its frames";
    for (uint32_t i = 0; i < head->record_count; i++) {
        const char *fault = record_fault(block + at, (size_t)head->bytes - at, index, place, &record_bytes);
        if (fault)
            return fault;
        const sp_frame_record *r = (const sp_frame_record *)(const void *)(block + at);
        if (r->number < next_number)
            return "its records are out of order";
        next_number = r->number + 1;
        damaged += r->damaged;
        at += record_bytes;
    }
    if (at != head->bytes)
        return "there are bytes behind its last record";
    return damaged == head->loss.damaged_frames ? NULL : "it miscounts its damaged frames";
}

static const char *segment_fault(sp_view block, const sp_video_index *index, const sp_analyze_params *params)
{
    uint8_t digest[32];
    const sp_segment_head *head = (const sp_segment_head *)(const void *)block.data;

    if (block.size_bytes < sizeof(*head) || head->magic != SP_SEGMENT_MAGIC)
        return "not a segment";
    if (head->abi != SP_ANALYZE_ABI)
        return "made by another version";
    if (head->bytes < sizeof(*head) || head->bytes > block.size_bytes || head->bytes % 8)
        return "it is cut off";
    sp_analyze_params_digest(params, digest);
    if (memcmp(head->file_sha256, index->sha256, 32) != 0)
        return "of another file";
    if (memcmp(head->params_sha256, digest, 32) != 0)
        return "made with other parameters";
    if (head->segment >= index->segment_count)
        return "the video has no such segment";
    if (check_of(head, block.data + sizeof(*head), (size_t)head->bytes - sizeof(*head)) != head->check)
        return "its check sum is wrong";
    if (!memchr(head->loss.reason, 0, sizeof(head->loss.reason)))
        return "its reason has no end";
    return records_fault(head, block.data, index);
}

sp_status sp_segment_check(sp_view block, const sp_video_index *index, const sp_analyze_params *params, uint64_t *ret_bytes,
                           sp_error *reterr)
{
    SP_ASSERT((uintptr_t)block.data % 8 == 0);
    const char *fault = segment_fault(block, index, params);
    if (fault)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_segment", "a segment of the analysis cannot be used: %s", fault);
    *ret_bytes = ((const sp_segment_head *)(const void *)block.data)->bytes;
    return SP_OK;
}

/* --- the order --- */

sp_status sp_analyze_order_check(sp_view body, sp_analyze_order *ret_order, const sp_video_index **ret_index,
                                 sp_view *ret_segments, sp_error *reterr)
{
    const sp_analyze_order *order = (const sp_analyze_order *)(const void *)body.data;

    SP_ASSERT((uintptr_t)body.data % 8 == 0);
    if (body.size_bytes < sizeof(*order) || order->abi != SP_ANALYZE_ABI || order->order_bytes != sizeof(*order))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_order", "the order for an analysis is of another version");
    sp_status s = sp_analyze_params_check(&order->params, reterr);
    if (s)
        return s;
    uint64_t left = body.size_bytes - sizeof(*order);
    if (order->index_bytes < sizeof(sp_video_index) || order->index_bytes > left || order->index_bytes % 8 ||
        order->segments_bytes != left - order->index_bytes)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_order", "the sizes in the order for an analysis do not fit its body");
    sp_view block = sp_view_make(body.data + sizeof(*order), (size_t)order->index_bytes);
    s = sp_video_index_check(block, reterr);
    if (s)
        return s;
    const sp_video_index *index = (const sp_video_index *)(const void *)block.data;
    if (order->first_segment > index->segment_count || order->segment_count > index->segment_count - order->first_segment)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_order", "the video has %u segments; %u from %u on were asked for",
                            index->segment_count, order->segment_count, order->first_segment);
    *ret_order = *order;
    *ret_index = index;
    *ret_segments = sp_view_make(block.data + block.size_bytes, (size_t)order->segments_bytes);
    return SP_OK;
}
