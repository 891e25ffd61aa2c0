/* SPDX-License-Identifier: Apache-2.0
 * What the video tests talk to: reads lines on stdin, each "COMMAND PATH", answers one JSON line each.
 *
 *   index PATH                             what the index says, with runs, segments and timestamps
 *   frames THREADS SEGMENTS PATH           SEGMENTS: "all", or numbers in the order to decode them, "3,0,1". For each segment
 *                                          its frames as [number, pts, hash of the grey plane, flags], and its loss
 *   grey THREADS PATH OUT                  all frames' planes, one behind the other, into the file OUT; with the numbers
 *   picture NUMBERS PATH OUT               frames as RGB8 into OUT
 *   block PATH OUT                         the index as it is, into OUT
 *   film PATH OUT                          the first 20 frames as MP4 into OUT, and frame 0 as PNG into OUT.png
 *          (THREADS -n: CUDA device n - 1 where it can)
 *   both PATH                              index and, if there is one, all frames with 1 and with 2 threads, as a hash each:
 *                                          for damaged files
 *
 * flags: 1 lookahead, 2 damaged, 4 key. */
#include "base/buf.h"
#include "media/load.h"
#include "media/video.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const sp_video_api *video_api;

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t count)
{
    const uint8_t *p = bytes;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) { /* eight at a time: the planes are large */
        uint64_t v;
        memcpy(&v, p + i, 8);
        hash = (hash ^ v) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    for (; i < count; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static void say_error(sp_buf *line, sp_status s, const sp_error *err)
{
    sp_buf_printf(line, "{\"status\":\"%s\",\"code\":", sp_status_name(s));
    sp_buf_append_json_text(line, err->code);
    sp_buf_append_text(line, ",\"message\":");
    sp_buf_append_json_text(line, err->message);
    sp_buf_append_text(line, "}");
}

static int open_source(const char *path, sp_video_source *ret_source)
{
    struct stat facts;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &facts) < 0) {
        (void)fprintf(stderr, "cannot open %s\n", path);
        exit(1);
    }
    *ret_source = (sp_video_source){ .fd = fd, .size_bytes = (uint64_t)facts.st_size };
    return fd;
}

static sp_status make_index(const sp_video_source *source, const sp_video_limits *limits, sp_buf *ret_block, sp_error *reterr)
{
    sp_buf_init(ret_block, 64u << 20);
    sp_status s = video_api->index(source, limits, ret_block, reterr);
    return s ? s : sp_video_index_check(sp_buf_view(ret_block), reterr);
}

static void say_index(sp_buf *line, const sp_video_index *index)
{
    sp_buf_printf(line, "{\"status\":\"ok\",\"format\":\"%s\",\"codec\":\"%s\",\"pixel_format\":\"%s\",\"stream\":%u,\"width\":%d,"
                  "\"height\":%d,\"coded_width\":%d,\"coded_height\":%d,\"rotation\":%d,\"mirrored\":%d,\"limited\":%d,\"has_times\":%d,"
                  "\"variable_rate\":%d,\"time_base\":[%d,%d],\"rate\":[%d,%d],\"duration\":%lld,\"frames\":%u,\"sha256\":\"",
                  index->format, index->codec, index->pixel_format, index->stream, index->width, index->height, index->coded_width,
                  index->coded_height, index->rotation, index->mirrored, index->limited_range, index->has_times, index->variable_rate,
                  index->time_base_num, index->time_base_den, index->rate_num, index->rate_den, (long long)index->duration_pts,
                  index->frame_count);
    for (int i = 0; i < 32; i++)
        sp_buf_printf(line, "%02x", index->sha256[i]);
    sp_buf_append_text(line, "\",\"notes\":[");
    for (uint32_t i = 0; i < index->note_count; i++) {
        sp_buf_append_text(line, i ? "," : "");
        sp_buf_append_json_text(line, index->notes[i]);
    }
    sp_buf_append_text(line, "],\"runs\":[");
    for (uint32_t i = 0; i < index->run_count; i++)
        sp_buf_printf(line, "%s[%u,%u]", i ? "," : "", sp_video_index_runs(index)[i].first_frame, sp_video_index_runs(index)[i].frame_count);
    sp_buf_append_text(line, "],\"segments\":[");
    for (uint32_t i = 0; i < index->segment_count; i++)
        sp_buf_printf(line, "%s[%u,%u,%u]", i ? "," : "", sp_video_index_segments(index)[i].run,
                      sp_video_index_segments(index)[i].first_frame, sp_video_index_segments(index)[i].frame_count);
    sp_buf_append_text(line, "],\"pts\":[");
    for (uint32_t i = 0; i < index->frame_count; i++)
        sp_buf_printf(line, "%s%lld", i ? "," : "", (long long)sp_video_index_pts(index)[i]);
    sp_buf_append_text(line, "]}");
}

typedef struct reading {
    sp_video *video;
    const sp_video_index *index;
    uint8_t *plane;
    size_t plane_bytes;
    FILE *out; /* planes go here, or NULL */
} reading;

/* One segment's frames and loss; the text, if asked for, goes to `line`, and a hash of all of it comes back. */
static sp_status read_segment(reading *r, uint32_t segment, sp_buf *line, uint64_t *hash, sp_error *reterr)
{
    sp_status s = r->video ? video_api->segment(r->video, segment, reterr) : SP_INTERNAL;
    bool more = true;
    sp_buf_printf(line, "{\"segment\":%u,\"frames\":[", segment);
    for (int count = 0; !s; count++) {
        sp_video_frame frame = { 0 };
        sp_video_loss loss = { 0 };
        s = video_api->next(r->video, r->plane, (size_t)r->index->width, &frame, &more, &loss, reterr);
        if (s)
            break;
        if (!more) {
            sp_buf_printf(line, "],\"lost\":%u,\"damaged\":%u,\"errors\":%u,\"reason\":", loss.lost_frames, loss.damaged_frames,
                          loss.error_count);
            sp_buf_append_json_text(line, loss.reason);
            sp_buf_append_text(line, "}");
            *hash = hash_bytes(*hash, &loss, sizeof(loss));
            break;
        }
        uint64_t plane = hash_bytes(14695981039346656037u, r->plane, r->plane_bytes);
        int flags = (frame.lookahead ? 1 : 0) | (frame.damaged ? 2 : 0) | (frame.key ? 4 : 0);
        sp_buf_printf(line, "%s[%u,%lld,\"%016llx\",%d]", count ? "," : "", frame.number, (long long)frame.pts,
                      (unsigned long long)plane, flags);
        uint64_t facts[4] = { frame.number, (uint64_t)frame.pts, plane, (uint64_t)flags };
        *hash = hash_bytes(*hash, facts, sizeof(facts));
        if (r->out && !frame.lookahead)
            (void)fwrite(r->plane, 1, r->plane_bytes, r->out);
    }
    return s;
}

static sp_status start_reading(reading *r, const sp_video_source *source, const sp_buf *block, int threads, sp_error *reterr)
{
    *r = (reading){ .index = (const sp_video_index *)(const void *)block->data };
    r->plane_bytes = (size_t)r->index->width * (size_t)r->index->height;
    r->plane = malloc(r->plane_bytes); /* exactly so large: the sanitizer sees a byte too much */
    sp_video_options options = { .threads = SP_MAX(threads, 1), .gpu = SP_MAX(-threads, 0) };
    return video_api->open(source, r->index, &options, &r->video, reterr);
}

static void end_reading(reading *r)
{
    video_api->close(r->video);
    free(r->plane);
}

static void do_index(const char *path, const char *out_path, sp_buf *line)
{
    sp_video_source source;
    sp_buf block;
    sp_error err = { 0 };
    int fd = open_source(path, &source);
    sp_status s = make_index(&source, NULL, &block, &err);
    if (s)
        say_error(line, s, &err);
    else
        say_index(line, (const sp_video_index *)(const void *)block.data);
    FILE *out = !s && out_path ? fopen(out_path, "wb") : NULL;
    if (out) {
        (void)fwrite(block.data, 1, block.size_bytes, out);
        (void)fclose(out);
    }
    sp_buf_done(&block);
    (void)close(fd);
}

static void do_frames(int threads, const char *segments, const char *path, const char *out_path, sp_buf *line)
{
    sp_video_source source;
    sp_buf block;
    sp_error err = { 0 };
    reading r = { 0 };
    uint64_t hash = 0;
    int fd = open_source(path, &source);
    sp_status s = make_index(&source, NULL, &block, &err);
    if (!s)
        s = start_reading(&r, &source, &block, threads, &err);
    r.out = !s && out_path ? fopen(out_path, "wb") : NULL;
    bool all = strcmp(segments, "all") == 0;
    uint32_t next = 0, at;
    size_t begin = line->size_bytes;
    sp_buf_append_text(line, "{\"status\":\"ok\",\"segments\":[");
    for (const char *p = segments; !s && (all ? next < r.index->segment_count : *p != '\0'); next++) {
        at = all ? next : (uint32_t)strtoul(p, (char **)&p, 10);
        p += !all && *p == ',';
        sp_buf_append_text(line, next ? "," : "");
        s = read_segment(&r, at, line, &hash, &err);
    }
    sp_buf_append_text(line, "]}");
    if (s) {
        line->size_bytes = begin;
        say_error(line, s, &err);
    }
    if (r.out)
        (void)fclose(r.out);
    end_reading(&r);
    sp_buf_done(&block);
    (void)close(fd);
}

static void do_picture(const char *numbers, const char *path, const char *out_path, sp_buf *line)
{
    sp_video_source source;
    sp_buf block;
    sp_error err = { 0 };
    reading r = { 0 };
    int fd = open_source(path, &source);
    sp_status s = make_index(&source, NULL, &block, &err);
    if (!s)
        s = start_reading(&r, &source, &block, 1, &err);
    uint8_t *rgb = s ? NULL : malloc(r.plane_bytes * 3);
    FILE *out = s ? NULL : fopen(out_path, "wb");
    for (const char *p = numbers; !s && *p; p += *p == ',') {
        s = video_api->picture(r.video, (uint32_t)strtoul(p, (char **)&p, 10), rgb, &err);
        if (!s && out)
            (void)fwrite(rgb, 3, r.plane_bytes, out);
    }
    if (s)
        say_error(line, s, &err);
    else
        sp_buf_append_text(line, "{\"status\":\"ok\"}");
    if (out)
        (void)fclose(out);
    free(rgb);
    end_reading(&r);
    sp_buf_done(&block);
    (void)close(fd);
}

static sp_status write_png(const char *path, const uint8_t *rgb, const sp_video_index *index, sp_error *reterr)
{
    uint8_t *file;
    size_t file_bytes;
    sp_status s = video_api->encode_png(rgb, index->width, index->height, 0, &file, &file_bytes, reterr);
    if (s)
        return s;
    FILE *out = fopen(path, "wb");
    if (out) {
        (void)fwrite(file, 1, file_bytes, out);
        (void)fclose(out);
    }
    free(file);
    return SP_OK;
}

static void do_film(const char *path, const char *out_path, sp_buf *line)
{
    sp_video_source source;
    sp_buf block;
    sp_error err = { 0 };
    reading r = { 0 };
    sp_video_writer *writer = NULL;
    char png_path[4096];
    (void)snprintf(png_path, sizeof(png_path), "%s.png", out_path);
    int fd = open_source(path, &source);
    sp_status s = make_index(&source, NULL, &block, &err);
    if (!s)
        s = start_reading(&r, &source, &block, 1, &err);
    uint8_t *rgb = s ? NULL : malloc(r.plane_bytes * 3);
    int out = s ? -1 : open(out_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!s)
        s = video_api->writer_open(out, r.index->width, r.index->height, r.index->rate_num, r.index->rate_den, &writer, &err);
    for (uint32_t i = 0; !s && i < SP_MIN(r.index->frame_count, 20u); i++) {
        s = video_api->picture(r.video, i, rgb, &err);
        if (!s && i == 0)
            s = write_png(png_path, rgb, r.index, &err);
        if (!s)
            s = video_api->writer_add(writer, rgb, &err);
    }
    sp_status closed = video_api->writer_close(writer, s ? NULL : &err);
    s = s ? s : closed;
    if (s)
        say_error(line, s, &err);
    else
        sp_buf_append_text(line, "{\"status\":\"ok\"}");
    if (out >= 0)
        (void)close(out);
    free(rgb);
    end_reading(&r);
    sp_buf_done(&block);
    (void)close(fd);
}

/* All of a damaged file, three ways: in order, in order with two threads, and backwards. */
static sp_status hash_all(const sp_video_source *source, const sp_buf *block, int threads, bool backwards, uint64_t *ret_hash,
                          sp_error *reterr)
{
    reading r = { 0 };
    sp_buf text;
    sp_buf_init(&text, 1u << 20);
    *ret_hash = 0;
    sp_status s = start_reading(&r, source, block, threads, reterr);
    for (uint32_t i = 0; !s && i < r.index->segment_count; i++) {
        uint32_t at = backwards ? r.index->segment_count - 1 - i : i;
        uint64_t hash = at;
        sp_buf_clear(&text);
        s = read_segment(&r, at, &text, &hash, reterr);
        *ret_hash += hash; /* a sum, so that the order of segments is none */
    }
    end_reading(&r);
    sp_buf_done(&text);
    return s;
}

static void do_both(const char *path, sp_buf *line)
{
    sp_video_source source;
    sp_buf block;
    sp_error err = { 0 };
    /* Small, so that a damaged header which says 8K is an answer and not a minute. */
    sp_video_limits limits = { .max_pixels = 1 << 20, .max_frames = 5000, .max_duration_s = 3600 };
    uint64_t hashes[3] = { 0 };
    int fd = open_source(path, &source);
    sp_status s = make_index(&source, &limits, &block, &err);
    uint32_t count = s ? 0 : ((const sp_video_index *)(const void *)block.data)->frame_count;
    uint32_t notes = s ? 0 : ((const sp_video_index *)(const void *)block.data)->note_count;
    for (int way = 0; !s && way < 3; way++)
        s = hash_all(&source, &block, way == 1 ? 2 : 1, way == 2, &hashes[way], &err);
    if (s)
        say_error(line, s, &err);
    else
        sp_buf_printf(line, "{\"status\":\"ok\",\"frames\":%u,\"notes\":%u,\"hash\":[\"%016llx\",\"%016llx\",\"%016llx\"]}", count, notes,
                      (unsigned long long)hashes[0], (unsigned long long)hashes[1], (unsigned long long)hashes[2]);
    sp_buf_done(&block);
    (void)close(fd);
}

int main(void)
{
    const sp_media_api *api;
    sp_error err = { 0 };
    if (sp_media_load(&api, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    video_api = api->video;
    char line[8192];
    sp_buf answer;
    sp_buf_init(&answer, 64u << 20);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        char *words[4] = { NULL }, *rest = line;
        for (int i = 0; i < 4 && rest; i++)
            words[i] = strsep(&rest, " ");
        sp_buf_clear(&answer);
        if (words[1] && strcmp(words[0], "index") == 0)
            do_index(words[1], NULL, &answer);
        else if (words[2] && strcmp(words[0], "block") == 0)
            do_index(words[1], words[2], &answer);
        else if (words[3] && strcmp(words[0], "frames") == 0)
            do_frames((int)strtol(words[1], NULL, 10), words[2], words[3], NULL, &answer);
        else if (words[3] && strcmp(words[0], "grey") == 0)
            do_frames((int)strtol(words[1], NULL, 10), "all", words[2], words[3], &answer);
        else if (words[3] && strcmp(words[0], "picture") == 0)
            do_picture(words[1], words[2], words[3], &answer);
        else if (words[2] && strcmp(words[0], "film") == 0)
            do_film(words[1], words[2], &answer);
        else if (words[1] && strcmp(words[0], "both") == 0)
            do_both(words[1], &answer);
        (void)printf("%.*s\n", (int)answer.size_bytes, (const char *)answer.data);
        (void)fflush(stdout);
    }
    sp_buf_done(&answer);
    return 0;
}
