/* SPDX-License-Identifier: Apache-2.0
 * Where a run's packets come from. */
#include "media/video_feed.h"

#include "base/limits.h"

#include <stdlib.h>

/* Packets that may lie between where a seek leads and the key frame; a container's index may be coarse. */
#define SEEK_PACKETS 2048
/* To read on is cheaper than to seek so near. */
#define NEAR_PACKETS 256
/* Parameter sets of a stream: some hundred bytes. */
#define MAX_EXTRADATA_BYTES (1024 * 1024)

static void clear_queue(sp_video_queue *queue)
{
    for (unsigned i = 0; i < queue->count; i++)
        av_packet_free(&queue->items[queue->head + i]);
    queue->head = queue->count = 0;
}

static sp_status append(sp_video_queue *queue, const AVPacket *packet, uint64_t ordinal, sp_error *reterr)
{
    if (!queue->count)
        queue->head = 0;
    unsigned at = queue->head + queue->count;
    if (at == SP_ARRAY_LEN(queue->items))
        return SP_FAIL(reterr, SP_CORRUPT, "the index keeps more than %zu packets of a run", SP_ARRAY_LEN(queue->items));
    queue->items[at] = av_packet_clone(packet);
    if (!queue->items[at])
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for packets");
    queue->ordinals[at] = ordinal;
    queue->count++;
    return SP_OK;
}

static void forget_parameters(sp_video_feed *feed)
{
    free(feed->extradata);
    free(feed->palette);
    feed->extradata = feed->palette = NULL;
    feed->extradata_bytes = 0;
}

static sp_status open_input(sp_video_feed *feed, sp_error *reterr)
{
    if (feed->input_open)
        sp_video_input_done(&feed->input);
    feed->input_open = true;
    clear_queue(&feed->ahead);
    clear_queue(&feed->later);
    forget_parameters(feed);
    sp_status s = sp_video_input_open(&feed->input, &feed->source, SP_LIMIT_VIDEO_PIXELS, reterr);
    if (!s && (uint32_t)feed->input.stream->index != feed->index->stream)
        s = SP_FAIL(reterr, SP_CORRUPT, "the index is of another file: its video is stream %u, here it is %d", feed->index->stream,
                    feed->input.stream->index);
    return s;
}

sp_status sp_video_feed_open(sp_video_feed *feed, const sp_video_source *source, const sp_video_index *index, sp_error *reterr)
{
    *feed = (sp_video_feed){ .source = *source, .index = index };
    return open_input(feed, reterr);
}

void sp_video_feed_done(sp_video_feed *feed)
{
    clear_queue(&feed->ahead);
    clear_queue(&feed->later);
    forget_parameters(feed);
    if (feed->input_open)
        sp_video_input_done(&feed->input);
    feed->input_open = false;
}

/* Keeps a copy of what travels beside a packet, if it does. */
static sp_status note_side_data(const AVPacket *packet, enum AVPacketSideDataType type, size_t most, uint8_t **copy, size_t *copy_bytes,
                                sp_error *reterr)
{
    size_t size = 0;
    const uint8_t *data = av_packet_get_side_data(packet, type, &size);
    if (!data || !size || size > most)
        return SP_OK;
    uint8_t *fresh = malloc(size);
    if (!fresh)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for the stream's parameters");
    memcpy(fresh, data, size);
    free(*copy);
    *copy = fresh;
    *copy_bytes = size;
    return SP_OK;
}

static sp_status note_parameters(sp_video_feed *feed, const AVPacket *packet, sp_error *reterr)
{
    size_t palette_bytes = 0;
    sp_status s = note_side_data(packet, AV_PKT_DATA_NEW_EXTRADATA, MAX_EXTRADATA_BYTES, &feed->extradata, &feed->extradata_bytes, reterr);
    if (s)
        return s;
    const uint8_t *palette = av_packet_get_side_data(packet, AV_PKT_DATA_PALETTE, &palette_bytes);
    if (!palette || palette_bytes != AVPALETTE_SIZE)
        return SP_OK;
    return note_side_data(packet, AV_PKT_DATA_PALETTE, AVPALETTE_SIZE, &feed->palette, &palette_bytes, reterr);
}

sp_status sp_video_feed_take(sp_video_feed *feed, AVPacket *packet, uint64_t *ret_ordinal, bool *ret_more, sp_error *reterr)
{
    sp_video_queue *ahead = &feed->ahead;
    if (ahead->count) {
        av_packet_move_ref(packet, ahead->items[ahead->head]);
        *ret_ordinal = ahead->ordinals[ahead->head];
        av_packet_free(&ahead->items[ahead->head]);
        ahead->head++;
        ahead->count--;
        *ret_more = true;
        return SP_OK;
    }
    sp_status s = sp_video_input_read(&feed->input, packet, ret_more, reterr);
    if (s || !*ret_more)
        return s;
    *ret_ordinal = feed->input.next_ordinal - 1;
    return note_parameters(feed, packet, reterr);
}

sp_status sp_video_feed_untake(sp_video_feed *feed, AVPacket *packet, uint64_t ordinal, sp_error *reterr)
{
    sp_video_queue *ahead = &feed->ahead;
    if (ahead->count && ahead->head) {
        AVPacket *copy = av_packet_clone(packet);
        if (!copy)
            return SP_FAIL(reterr, SP_NOMEM, "out of memory for packets");
        ahead->head--;
        ahead->count++;
        ahead->items[ahead->head] = copy;
        ahead->ordinals[ahead->head] = ordinal;
    } else {
        SP_ASSERT(!ahead->count); /* what is taken from the queue leaves its place free */
        sp_status s = append(ahead, packet, ordinal, reterr);
        if (s)
            return s;
    }
    av_packet_unref(packet);
    return SP_OK;
}

sp_status sp_video_feed_keep(sp_video_feed *feed, const AVPacket *packet, uint64_t ordinal, sp_error *reterr)
{
    return append(&feed->later, packet, ordinal, reterr);
}

/* Seeks; the run's key packet is then the next one. *ret_found false: it is not where the seek led. */
static sp_status seek_run(sp_video_feed *feed, const sp_video_run *run, bool *ret_found, sp_error *reterr)
{
    *ret_found = false;
    if (feed->no_seek || !sp_video_input_seek(&feed->input, run))
        return SP_OK;
    AVPacket *packet = av_packet_alloc();
    sp_status s = packet ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "out of memory for packets");
    bool more = true;
    for (unsigned i = 0; !s && more && !*ret_found && i < SEEK_PACKETS; i++) {
        uint64_t ordinal;
        s = sp_video_feed_take(feed, packet, &ordinal, &more, reterr);
        if (!s && more && packet->pos == run->key_position && packet->pts == run->key_pts) {
            feed->input.next_ordinal = run->first_packet + 1;
            *ret_found = true;
            s = sp_video_feed_untake(feed, packet, run->first_packet, reterr);
        }
        if (packet)
            av_packet_unref(packet);
    }
    av_packet_free(&packet);
    return s;
}

/* Stands at or before the run's key packet. */
static sp_status approach(sp_video_feed *feed, uint32_t number, const sp_video_run *run, sp_error *reterr)
{
    if (feed->later.count && feed->later.ordinals[feed->later.head] == run->first_packet && !feed->ahead.count) {
        feed->ahead = feed->later;
        feed->later = (sp_video_queue){ 0 };
        return SP_OK;
    }
    clear_queue(&feed->ahead);
    clear_queue(&feed->later);
    uint64_t here = feed->input.next_ordinal;
    if (here <= run->first_packet && run->first_packet - here <= NEAR_PACKETS)
        return SP_OK;
    bool found = false;
    if (number > 0 && feed->input.restartable) {
        sp_status s = seek_run(feed, run, &found, reterr);
        if (s || found)
            return s;
        feed->no_seek = true;
    } else if (here <= run->first_packet) {
        return SP_OK;
    }
    /* From the begin of the file: always right, and cheap beside decoding. */
    return open_input(feed, reterr);
}

sp_status sp_video_feed_stand(sp_video_feed *feed, uint32_t number, sp_error *reterr)
{
    const sp_video_run *run = &sp_video_index_runs(feed->index)[number];
    sp_status s = approach(feed, number, run, reterr);
    AVPacket *packet = s ? NULL : av_packet_alloc();
    if (!s && !packet)
        s = SP_FAIL(reterr, SP_NOMEM, "out of memory for packets");
    bool more = true, there = false;
    while (!s && more && !there) {
        uint64_t ordinal;
        s = sp_video_feed_take(feed, packet, &ordinal, &more, reterr);
        there = !s && more && ordinal >= run->first_packet;
        if (there && feed->palette && !av_packet_get_side_data(packet, AV_PKT_DATA_PALETTE, NULL)) {
            uint8_t *palette = av_packet_new_side_data(packet, AV_PKT_DATA_PALETTE, AVPALETTE_SIZE);
            if (palette)
                memcpy(palette, feed->palette, AVPALETTE_SIZE);
            else
                s = SP_FAIL(reterr, SP_NOMEM, "out of memory for packets");
        }
        if (there && !s)
            s = sp_video_feed_untake(feed, packet, ordinal, reterr);
        if (packet)
            av_packet_unref(packet);
    }
    av_packet_free(&packet);
    if (!s && !there)
        s = SP_FAIL(reterr, SP_CORRUPT, "the index is of another file: packet %llu, where run %u begins, is not there",
                    (unsigned long long)run->first_packet, number);
    return s;
}
