/* SPDX-License-Identifier: Apache-2.0
 * What test_analyze.py drives: a report's files without a house.
 *
 *   analyze_tool made DIR FRAMES          of records that were made up
 *   analyze_tool compare A B              exit 0 equal, 1 differ (the sentence on standard output), 2 no report */
#include "analyze_fake.h"
#include "task/analyze.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

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
    if (argc == 4 && strcmp(argv[1], "compare") == 0)
        return compare(argv[2], argv[3]);
    return 2;
}
