/* SPDX-License-Identifier: Apache-2.0
 * One packet at a time: does it show a frame, and can a decoder begin with it? The container's word is checked against the
 * first bytes of the bitstream, because a run that begins at a packet which cannot be decoded alone is lost. */
#include "media/video_packets.h"

#include <stdlib.h>

#include <libavcodec/avcodec.h>

/* The next NAL unit at *at; false at the end or when a length does not fit. */
static bool next_nal(const uint8_t *data, size_t size, int length_bytes, size_t *at, sp_view *ret_nal)
{
    size_t i = *at;
    if (length_bytes) {
        if (size - i < (size_t)length_bytes)
            return false;
        size_t length = 0;
        for (int k = 0; k < length_bytes; k++)
            length = length << 8 | data[i++];
        if (length > size - i)
            return false;
        *ret_nal = sp_view_make(data + i, length);
        *at = i + length;
        return true;
    }
    while (i + 3 <= size && !(data[i] == 0 && data[i + 1] == 0 && data[i + 2] == 1))
        i++;
    if (i + 3 > size)
        return false;
    size_t begin = i + 3, end = begin;
    while (end + 3 <= size && !(data[end] == 0 && data[end + 1] == 0 && data[end + 2] <= 1))
        end++;
    if (end + 3 > size)
        end = size;
    *ret_nal = sp_view_make(data + begin, end - begin);
    *at = end;
    return true;
}

/* recovery_frame_cnt of a recovery point message, or -1. Only a count of 0 means: whole from here on. */
static int recovery_count(sp_view nal)
{
    size_t i = 1;
    while (i + 2 < nal.size_bytes) {
        unsigned type = 0, size = 0;
        while (i < nal.size_bytes && nal.data[i] == 0xff)
            type += 255, i++;
        if (i < nal.size_bytes)
            type += nal.data[i++];
        while (i < nal.size_bytes && nal.data[i] == 0xff)
            size += 255, i++;
        if (i < nal.size_bytes)
            size += nal.data[i++];
        if (i >= nal.size_bytes || size > nal.size_bytes - i)
            return -1;
        if (type == 6) /* ue(v): a leading 1 bit is 0 */
            return nal.data[i] & 0x80 ? 0 : 1;
        i += size;
    }
    return -1;
}

typedef struct nal_facts {
    bool idr, irap, recovery, parameters;
    int pictures; /* slices that begin a picture or field */
} nal_facts;

static nal_facts h264_facts(const AVPacket *packet, int length_bytes)
{
    nal_facts facts = { 0 };
    sp_view nal;
    for (size_t at = 0; next_nal(packet->data, (size_t)packet->size, length_bytes, &at, &nal);) {
        if (nal.size_bytes < 2)
            continue;
        int type = nal.data[0] & 31;
        facts.parameters |= type == 7;
        facts.idr |= type == 5;
        if (type == 6)
            facts.recovery |= recovery_count(nal) == 0;
        if ((type == 1 || type == 5) && nal.data[1] & 0x80) /* first_mb_in_slice = 0 */
            facts.pictures++;
    }
    return facts;
}

static nal_facts hevc_facts(const AVPacket *packet, int length_bytes)
{
    nal_facts facts = { 0 };
    sp_view nal;
    for (size_t at = 0; next_nal(packet->data, (size_t)packet->size, length_bytes, &at, &nal);) {
        if (nal.size_bytes < 3)
            continue;
        int type = nal.data[0] >> 1 & 63;
        facts.parameters |= type == 33;
        facts.irap |= type >= 16 && type <= 21;
    }
    return facts;
}

/* Both VPx kinds tell in their first byte whether the frame is shown. */
static bool vp9_frame(sp_view frame, bool *ret_shown, bool *ret_key)
{
    if (frame.size_bytes < 1 || frame.data[0] >> 6 != 2)
        return false;
    unsigned profile = (frame.data[0] >> 5 & 1u) | (frame.data[0] >> 3 & 2u);
    unsigned bit = profile == 3 ? 2 : 3; /* of show_existing_frame */
    if (frame.data[0] >> bit & 1) {
        *ret_shown = true;
        *ret_key = false;
        return true;
    }
    *ret_key = !(frame.data[0] >> (bit - 1) & 1); /* frame_type */
    *ret_shown = frame.data[0] >> (bit - 2) & 1;  /* show_frame */
    return true;
}

static void vp9_facts(const AVPacket *packet, bool *ret_shown, bool *ret_key)
{
    const uint8_t *data = packet->data;
    size_t size = (size_t)packet->size;
    uint8_t marker = data[size - 1];
    unsigned frames = 1 + (marker & 7u), length_bytes = 1 + (marker >> 3 & 3u);
    size_t index_bytes = 2 + (size_t)frames * length_bytes;
    *ret_shown = *ret_key = false;
    if (marker >> 5 != 6 || size < index_bytes || data[size - index_bytes] != marker) {
        if (!vp9_frame(sp_view_make(data, size), ret_shown, ret_key))
            *ret_shown = true;
        return;
    }
    size_t at = 0, table = size - index_bytes + 1;
    for (unsigned i = 0; i < frames; i++) {
        size_t length = 0;
        for (unsigned k = 0; k < length_bytes; k++)
            length |= (size_t)data[table + i * length_bytes + k] << (8 * k);
        bool shown = false, key = false;
        if (length && length <= size - index_bytes - at && vp9_frame(sp_view_make(data + at, length), &shown, &key)) {
            *ret_shown |= shown;
            *ret_key |= key && i == 0;
            at += length;
        }
    }
}

/* H.264 in transport streams may come field by field; the second field's packet shows no frame of its own. */
static bool is_second_field(sp_video_scan *scan, const AVPacket *packet, const nal_facts *facts)
{
    if (!scan->parser)
        return false;
    uint8_t *unused;
    int unused_bytes;
    (void)av_parser_parse2(scan->parser, scan->context, &unused, &unused_bytes, packet->data, packet->size, packet->pts, packet->dts,
                           packet->pos);
    int structure = scan->parser->picture_structure;
    bool field = structure == AV_PICTURE_STRUCTURE_TOP_FIELD || structure == AV_PICTURE_STRUCTURE_BOTTOM_FIELD;
    if (!field || facts->pictures != 1) {
        scan->open_field = 0;
        return false;
    }
    if (scan->open_field && scan->open_field != structure) {
        scan->open_field = 0;
        return true;
    }
    scan->open_field = structure;
    return false;
}

static bool has_start_code(const AVPacket *packet, uint8_t first, uint8_t last)
{
    int end = SP_MIN(packet->size, 4096);
    for (int i = 0; i + 4 <= end; i++) {
        if (!packet->data[i] && !packet->data[i + 1] && packet->data[i + 2] == 1 && packet->data[i + 3] >= first &&
            packet->data[i + 3] <= last)
            return true;
    }
    return false;
}

static void read_facts(sp_video_scan *scan, const AVPacket *packet, sp_video_packet *item)
{
    item->key = packet->flags & AV_PKT_FLAG_KEY;
    item->begin = item->key;
    item->shown = !(packet->flags & AV_PKT_FLAG_DISCARD);
    nal_facts facts;
    bool shown, key;
    switch (scan->codec) {
    case AV_CODEC_ID_H264:
        facts = h264_facts(packet, scan->nal_length_bytes);
        item->begin &= (facts.idr || facts.recovery) && (scan->has_headers || facts.parameters);
        item->shown &= !is_second_field(scan, packet, &facts);
        break;
    case AV_CODEC_ID_HEVC:
        facts = hevc_facts(packet, scan->nal_length_bytes);
        item->begin &= facts.irap && (scan->has_headers || facts.parameters);
        break;
    case AV_CODEC_ID_VP8:
        item->begin &= !(packet->data[0] & 1);
        item->shown &= packet->data[0] >> 4 & 1;
        break;
    case AV_CODEC_ID_VP9:
        vp9_facts(packet, &shown, &key);
        item->begin &= key;
        item->shown &= shown;
        break;
    case AV_CODEC_ID_MPEG1VIDEO:
    case AV_CODEC_ID_MPEG2VIDEO:
        item->begin &= scan->has_headers || has_start_code(packet, 0xb3, 0xb3);
        break;
    case AV_CODEC_ID_MPEG4:
        item->begin &= scan->has_headers || has_start_code(packet, 0x20, 0x2f);
        break;
    default:
        break;
    }
}

sp_status sp_video_scan_init(sp_video_scan *scan, const AVCodecParameters *parameters, sp_error *reterr)
{
    *scan = (sp_video_scan){ .codec = parameters->codec_id, .has_headers = parameters->extradata_size > 0 };
    const uint8_t *extra = parameters->extradata;
    int extra_bytes = parameters->extradata_size;
    if (scan->codec == AV_CODEC_ID_H264 && extra_bytes >= 7 && extra[0] == 1)
        scan->nal_length_bytes = (extra[4] & 3) + 1;
    if (scan->codec == AV_CODEC_ID_HEVC && extra_bytes >= 23 && (extra[0] || extra[1] || extra[2] > 1))
        scan->nal_length_bytes = (extra[21] & 3) + 1;
    if (scan->codec != AV_CODEC_ID_H264)
        return SP_OK;
    scan->context = avcodec_alloc_context3(NULL);
    scan->parser = av_parser_init(AV_CODEC_ID_H264);
    if (!scan->context || !scan->parser || avcodec_parameters_to_context(scan->context, parameters) < 0)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory");
    scan->parser->flags |= PARSER_FLAG_COMPLETE_FRAMES;
    return SP_OK;
}

void sp_video_scan_done(sp_video_scan *scan)
{
    if (scan->parser)
        av_parser_close(scan->parser);
    avcodec_free_context(&scan->context);
    scan->parser = NULL;
}

sp_status sp_video_packets_add(sp_video_packets *packets, sp_video_scan *scan, const AVPacket *packet, sp_error *reterr)
{
    if (packets->count == packets->capacity) {
        uint64_t capacity = packets->capacity ? packets->capacity * 2 : 1024;
        sp_video_packet *items = realloc(packets->items, capacity * sizeof(*items));
        if (!items)
            return SP_FAIL(reterr, SP_NOMEM, "out of memory for the list of packets");
        packets->items = items;
        packets->capacity = capacity;
    }
    sp_video_packet *item = &packets->items[packets->count++];
    *item = (sp_video_packet){
        .pts = packet->pts, .dts = packet->dts, .duration = packet->duration, .position = packet->pos, .number = SP_VIDEO_HIDDEN,
    };
    if (packet->size > 0)
        read_facts(scan, packet, item);
    packets->shown_count += item->shown;
    return SP_OK;
}

void sp_video_packets_done(sp_video_packets *packets)
{
    free(packets->items);
    free(packets->pts);
    *packets = (sp_video_packets){ 0 };
}
