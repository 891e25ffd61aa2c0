/* SPDX-License-Identifier: Apache-2.0
 * What test_analyze.py drives: a report's files without a house.
 *
 *   analyze_tool made DIR FRAMES          of records that were made up
 *   analyze_tool grey DIR W H [PIECE]     of grey frames on standard input, segments given in pieces of PIECE frames
 *   analyze_tool video DIR FILE [overlay] of a file, in this process, with its pictures
 *   analyze_tool compare A B              exit 0 equal, 1 differ (the sentence on standard output), 2 no report */
#include "analyze_fake.h"
#include "task/analyze.h"
#include "test.h"

#include "media/load.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEGMENT 24

/* The harness's calls that analyze_fake.c uses, for a program that is no test. */
static uint64_t random_state = 1;

uint64_t test_random(void)
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void test_fail(const char *file, int line, const char *format, ...)
{
    fprintf(stderr, "%s:%d: %s\n", file, line, format);
}

void test_end(void)
{
    exit(2);
}

void test_check_text(const char *file, int line, const char *a_text, const char *a, const char *b_text, const char *b)
{
    if (strcmp(a, b) != 0)
        fprintf(stderr, "%s:%d: %s\n", file, line, a);
}

static void *read_whole(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    (void)fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    rewind(file);
    void *data = bytes >= 0 ? malloc((size_t)bytes + 1) : NULL;
    *ret_bytes = data ? fread(data, 1, (size_t)bytes, file) : 0;
    (void)fclose(file);
    return data;
}

static int write_file(const char *dir, const char *name, sp_view bytes)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        return 1;
    bool good = fwrite(bytes.data, 1, bytes.size_bytes, file) == bytes.size_bytes;
    return fclose(file) == 0 && good ? 0 : 1;
}

static int write_report(const char *dir, const sp_analysis *a)
{
    static const struct {
        const char *name;
        void (*write)(const sp_analysis *analysis, sp_buf *out);
    } files[] = { { "report.json", sp_analysis_write_json },
                  { "frames.csv", sp_analysis_write_csv },
                  { "frames.npz", sp_analysis_write_npz },
                  { "report.html", sp_analysis_write_html } };
    int bad = 0;
    for (size_t i = 0; i < SP_ARRAY_LEN(files); i++) {
        sp_buf out;
        sp_buf_init(&out, (size_t)1 << 30);
        files[i].write(a, &out);
        bad |= !sp_buf_ok(&out) || write_file(dir, files[i].name, sp_buf_view(&out));
        sp_buf_done(&out);
    }
    return bad;
}

static int made(const char *dir, uint32_t frames)
{
    sp_video_index *index = fake_index(frames, SEGMENT);
    sp_frame_record *records = calloc(frames + 1, sizeof(*records));
    sp_analyze_params params = sp_analyze_params_default();
    if (!records)
        return 2;
    for (uint32_t i = 0; i < frames; i++)
        records[i] = fake_random_record(index, i);
    sp_analysis *a = fake_analysis(index, &params, records);
    int bad = write_report(dir, a);
    sp_analysis_free(a);
    free(records);
    free(index);
    return bad;
}

/* All frames in memory: the clips are short. */
static uint8_t *read_frames(size_t frame_bytes, uint32_t *ret_count)
{
    size_t capacity = 64, count = 0;
    uint8_t *frames = malloc(capacity * frame_bytes);
    while (frames && fread(frames + count * frame_bytes, 1, frame_bytes, stdin) == frame_bytes) {
        if (++count == capacity)
            frames = realloc(frames, (capacity *= 2) * frame_bytes);
    }
    *ret_count = (uint32_t)count;
    return frames;
}

static void run_segment(sp_analyzer *analyzer, const uint8_t *frames, size_t stride, size_t frame_bytes, uint32_t count,
                        const sp_video_segment *place, int piece, sp_frame_record *records)
{
    const uint8_t *grey[SEGMENT + 1];
    sp_video_frame about[SEGMENT + 1];
    sp_analyzer_begin(analyzer);
    for (uint32_t from = 0; from < place->frame_count; from += (uint32_t)piece) {
        int n = (int)SP_MIN((uint32_t)piece, place->frame_count - from);
        for (int i = 0; i <= n; i++) {
            uint32_t number = place->first_frame + from + (uint32_t)i;
            grey[i] = frames + frame_bytes * SP_MIN(number, count - 1);
            about[i] = (sp_video_frame){ .number = number, .pts = number, .lookahead = from + (uint32_t)i == place->frame_count };
        }
        sp_analyzer_run(analyzer, grey, stride, about, n, about[n].number < count, records + place->first_frame + from);
    }
}

static int from_grey(const char *dir, int w, int h, int piece)
{
    uint32_t count;
    sp_error err = { 0 };
    sp_analyze_plan *plan = NULL;
    sp_analyzer *analyzer = NULL;
    sp_analyze_params params = sp_analyze_params_default();
    uint8_t *frames = read_frames((size_t)w * (size_t)h, &count);
    if (!frames || !count || sp_analyze_plan_new(&params, w, h, &plan, &err) || sp_analyzer_new(plan, &analyzer, &err)) {
        fprintf(stderr, "%u frames; %s\n", count, err.message);
        return 2;
    }
    sp_video_index *index = fake_index(count, SEGMENT);
    index->width = index->coded_width = w;
    index->height = index->coded_height = h;
    int64_t *pts = (int64_t *)(uintptr_t)sp_video_index_pts(index);
    for (uint32_t i = 0; i < count; i++)
        pts[i] = i;
    index->time_base_den = 25;
    sp_frame_record *records = calloc(count, sizeof(*records));
    for (uint32_t i = 0; records && i < index->segment_count; i++)
        run_segment(analyzer, frames, (size_t)w, (size_t)w * (size_t)h, count, &sp_video_index_segments(index)[i], piece, records);
    sp_analysis *a = fake_analysis(index, &params, records);
    int bad = write_report(dir, a);
    sp_analyze_timing t;
    sp_analyzer_timing(analyzer, &t);
    double ms = 1e6 * count;
    fprintf(stderr, "%u frames of %d x %d; ms a frame: flow %.2f, edges %.2f, morphology %.2f, measures %.2f\n", count, w, h,
            (double)t.flow_ns / ms, (double)t.edges_ns / ms, (double)t.morphology_ns / ms, (double)t.measures_ns / ms);
    sp_analysis_free(a);
    free(records);
    free(index);
    sp_analyzer_free(analyzer);
    sp_analyze_plan_free(plan);
    free(frames);
    return bad;
}

/* --- a whole video --- */

#define PIECE 8

typedef struct job {
    const sp_video_api *api;
    sp_video *video;
    sp_analyzer *analyzer;
    const sp_video_index *index;
    const sp_analyze_params *params;
    uint8_t *memory; /* PIECE + 1 frames, in turn */
    sp_frame_record *records;
    sp_buf segments;
} job;

/* One segment in pieces: a piece is analysed when the frame behind it is there. */
static sp_status one_segment(job *j, uint32_t segment, sp_error *reterr)
{
    const uint8_t *grey[PIECE + 1];
    sp_video_frame frames[PIECE + 1];
    sp_video_loss loss = { 0 };
    int held = 0;
    uint32_t done = 0, slot = 0;
    size_t w = (size_t)j->index->width, bytes = w * (size_t)j->index->height;
    bool more = true, over = false;

    sp_status s = j->api->segment(j->video, segment, reterr);
    sp_analyzer_begin(j->analyzer);
    while (!s && more) {
        uint8_t *dst = j->memory + bytes * (slot++ % (PIECE + 1));
        s = j->api->next(j->video, dst, w, &frames[held], &more, &loss, reterr);
        if (s)
            return s;
        grey[held] = dst;
        if (more)
            over = frames[held++].lookahead;
        if (held < PIECE + 1 && more)
            continue;
        int count = held - (over || more);
        sp_analyzer_run(j->analyzer, grey, w, frames, count, count < held, j->records + done);
        done += (uint32_t)count;
        grey[0] = grey[held - (held > 0)];
        frames[0] = frames[held - (held > 0)];
        held = 1;
        if (over && more) { /* only the loss is left to hear */
            s = j->api->next(j->video, j->memory, w, &frames[1], &more, &loss, reterr);
            more = false;
        }
    }
    if (!s)
        sp_segment_write(&j->segments, j->index, j->params, segment, j->records, done, &loss);
    return s;
}

static sp_status put_file(void *context, const char *name, sp_view bytes, sp_error *reterr)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/key", (const char *)context);
    (void)mkdir(path, 0755);
    return write_file(context, name, bytes) ? SP_FAIL(reterr, SP_INTERNAL, "cannot write %s", name) : SP_OK;
}

static sp_status analyse_file(const char *dir, int fd, uint64_t size, bool overlay, sp_error *reterr)
{
    const sp_media_api *media;
    job j = { 0 };
    sp_buf block;
    sp_analysis *analysis = NULL;
    sp_analyze_plan *plan = NULL;
    sp_analyze_params params = sp_analyze_params_default();
    sp_video_limits limits = { 0 };
    sp_video_options options = { .threads = 1 };
    sp_video_source source = { fd, 0, size };

    sp_buf_init(&block, 1u << 26);
    sp_buf_init(&j.segments, (size_t)1 << 30);
    sp_status s = sp_media_load(&media, reterr);
    if (!s)
        s = media->video->index(&source, &limits, &block, reterr);
    if (s)
        return s;
    j.api = media->video;
    j.params = &params;
    j.index = (const sp_video_index *)(const void *)block.data;
    s = sp_video_index_check(sp_buf_view(&block), reterr);
    if (!s)
        s = j.api->open(&source, j.index, &options, &j.video, reterr);
    if (!s)
        s = sp_analyze_plan_new(&params, j.index->width, j.index->height, &plan, reterr);
    if (!s)
        s = sp_analyzer_new(plan, &j.analyzer, reterr);
    j.records = calloc((size_t)j.index->frame_count + 1, sizeof(*j.records));
    j.memory = malloc((size_t)j.index->width * (size_t)j.index->height * (PIECE + 1));
    for (uint32_t i = 0; i < j.index->segment_count && !s; i++)
        s = one_segment(&j, i, reterr);
    if (!s)
        s = sp_analysis_merge(j.index, &params, sp_buf_view(&j.segments), &analysis, reterr);
    if (!s)
        s = sp_analysis_write_all(analysis, media, &source, overlay, put_file, (void *)(uintptr_t)dir, reterr);
    sp_analyze_timing t = { 0 };
    if (j.analyzer)
        sp_analyzer_timing(j.analyzer, &t);
    double ms = 1e6 * j.index->frame_count;
    fprintf(stderr, "%u of %u frames, %u segments; ms a frame: flow %.2f, edges %.2f, morphology %.2f, measures %.2f\n",
            analysis ? sp_analysis_frames(analysis) : 0, j.index->frame_count, j.index->segment_count, (double)t.flow_ns / ms,
            (double)t.edges_ns / ms, (double)t.morphology_ns / ms, (double)t.measures_ns / ms);
    sp_analysis_free(analysis);
    sp_analyzer_free(j.analyzer);
    sp_analyze_plan_free(plan);
    j.api->close(j.video);
    free(j.records);
    free(j.memory);
    sp_buf_done(&j.segments);
    sp_buf_done(&block);
    return s;
}

static int from_video(const char *dir, const char *path, bool overlay)
{
    struct stat facts;
    sp_error err = { 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &facts))
        return 2;
    sp_status s = analyse_file(dir, fd, (uint64_t)facts.st_size, overlay, &err);
    if (s)
        fprintf(stderr, "%s: %s\n", sp_status_name(s), err.message);
    (void)close(fd);
    return s ? 2 : 0;
}

static int compare(const char *path_a, const char *path_b)
{
    size_t a_bytes, b_bytes;
    void *a = read_whole(path_a, &a_bytes), *b = read_whole(path_b, &b_bytes);
    bool differ = false;
    sp_buf text;
    sp_error err = { 0 };
    if (!a || !b)
        return 2;
    sp_buf_init(&text, 1u << 16);
    sp_status s = sp_analysis_compare(sp_view_make(a, a_bytes), sp_view_make(b, b_bytes), &differ, &text, &err);
    puts(s ? err.message : differ ? (const char *)text.data : "equal");
    sp_buf_done(&text);
    free(a);
    free(b);
    return s ? 2 : differ;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "made") == 0)
        return made(argv[2], (uint32_t)strtoul(argv[3], NULL, 10));
    if (argc >= 5 && strcmp(argv[1], "grey") == 0)
        return from_grey(argv[2], (int)strtol(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10),
                         argc > 5 ? (int)strtol(argv[5], NULL, 10) : SEGMENT);
    if (argc >= 4 && strcmp(argv[1], "video") == 0)
        return from_video(argv[2], argv[3], argc > 4);
    if (argc == 4 && strcmp(argv[1], "compare") == 0)
        return compare(argv[2], argv[3]);
    return 2;
}
