/* SPDX-License-Identifier: Apache-2.0
 * `spillway compare A B`: are two reports of videos the same? Prints the first difference. */
#include "cli/cli.h"

#include "task/analyze.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As cmp and diff have them, so that scripts may ask `if spillway compare ...`. */
enum { EXIT_SAME = 0, EXIT_DIFFERENT = 1, EXIT_TROUBLE = 2 };
/* report.json of the longest video: some 700 bytes a frame. */
#define REPORT_BYTES_MAX ((off_t)1 << 30)

/* A report.json, or the directory that has one. On the heap. */
static char *report_read(const char *path, size_t *ret_size_bytes)
{
    char inside[PATH_MAX];
    struct stat st;
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) {
        (void)snprintf(inside, sizeof(inside), "%s/report.json", path);
        path = inside;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        (void)sp_cli_fail(0, "compare", "%s: %s", path, strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return NULL;
    }
    char *text = S_ISREG(st.st_mode) && st.st_size <= REPORT_BYTES_MAX ? malloc((size_t)st.st_size + 1) : NULL;
    size_t have = 0;
    for (ssize_t n; text && have < (size_t)st.st_size && (n = read(fd, text + have, (size_t)st.st_size - have)) > 0;)
        have += (size_t)n;
    if (!text || have < (size_t)st.st_size) {
        (void)sp_cli_fail(0, "compare", "%s cannot be read%s", path, S_ISREG(st.st_mode) ? "" : ": it is no file");
        free(text);
        text = NULL;
    }
    (void)close(fd);
    *ret_size_bytes = have;
    return text;
}

int sp_command_compare(int argc, char **argv)
{
    bool quiet = false;
    const sp_option options[] = {
        { .name = "quiet", .letter = 'q', .kind = SP_OPTION_FLAG, .target = &quiet, .help = "say nothing; the exit code tells" },
    };
    const sp_usage usage = {
        .command = "compare", .arguments = "A B",
        .summary = "Compares two reports of `spillway analyze` (files or directories) and prints the first difference.\n"
                   "Exit code 0: the same; 1: different; 2: one of them cannot be read or is no report.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .least_arguments = 2, .most_arguments = 2,
        .examples = "  spillway compare report/ report-gpu/\n  spillway compare old/report.json new/report.json && echo same\n",
    };
    SP_CLEANUP(sp_buf_done) sp_buf text = { 0 };
    sp_error err = { 0 };
    size_t a_bytes = 0, b_bytes = 0;
    bool differ = false;
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    char *a = report_read(argv[0], &a_bytes), *b = a ? report_read(argv[1], &b_bytes) : NULL;
    code = EXIT_TROUBLE;
    sp_buf_init(&text, 64u * 1024);
    if (a && b && sp_analysis_compare(sp_view_make(a, a_bytes), sp_view_make(b, b_bytes), &differ, &text, &err))
        code = sp_cli_fail(EXIT_TROUBLE, "compare", "%s", err.message);
    else if (a && b)
        code = differ ? EXIT_DIFFERENT : EXIT_SAME;
    if (code == EXIT_DIFFERENT && !quiet)
        printf("%.*s\n", (int)text.size_bytes, (const char *)text.data);
    else if (code == EXIT_SAME && !quiet)
        puts("the reports are the same");
    free(a);
    free(b);
    return code;
}
