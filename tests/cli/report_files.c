/* SPDX-License-Identifier: Apache-2.0
 * The directory of a report: what a codec worker's tar may and may not do to it, and what is kept until it is there. */
#include "cli/report_files.h"
#include "test.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct tar {
    int fd;
    uint64_t bytes;
} tar;

static void tar_add(tar *t, const char *name, const char *size, char kind, const char *content)
{
    char head[512] = { 0 }, block[512] = { 0 };
    memcpy(head, name, strlen(name));
    if (size)
        memcpy(head + 124, size, strlen(size));
    else
        (void)snprintf(head + 124, 12, "%011o", (unsigned)strlen(content));
    head[156] = kind;
    memcpy(head + 257, "ustar", 6);
    memcpy(block, content, strlen(content));
    REQUIRE(write(t->fd, head, 512) == 512 && write(t->fd, block, 512) == 512);
    t->bytes += 1024;
}

static tar tar_new(void)
{
    return (tar){ .fd = memfd_create("tar", MFD_CLOEXEC) };
}

static char root[64];
static sp_loop *loop;

static sp_report_dir *open_dir(void)
{
    sp_error err = { 0 };
    sp_report_dir *dir = NULL;
    (void)snprintf(root, sizeof(root), "/tmp/spillway-report-XXXXXX");
    REQUIRE(mkdtemp(root) != NULL);
    char path[96];
    static char kept[96];
    (void)snprintf(path, sizeof(path), "%s/a/b", root);
    memcpy(kept, path, sizeof(path));
    REQUIRE(!sp_loop_new(&loop, &err));
    REQUIRE(!sp_report_dir_open(kept, loop, &dir, &err));
    return dir;
}

static int forget(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    return remove(path);
}

static void close_dir(sp_report_dir *dir)
{
    sp_report_dir_free(dir);
    sp_loop_free(loop);
    CHECK_INT(nftw(root, forget, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static bool holds(const char *name, const char *content)
{
    char path[160];
    size_t size = 0;
    (void)snprintf(path, sizeof(path), "%s/a/b/%s", root, name);
    char *text = test_read_file(path, &size);
    bool as_said = content ? text && size == strlen(content) && !memcmp(text, content, size) : !text;
    if (text)
        free(text);
    return as_said;
}

TEST(files_appear_in_their_places)
{
    sp_error err = { 0 };
    sp_report_dir *dir = open_dir();
    tar t = tar_new();
    tar_add(&t, "report.json", NULL, '0', "{}");
    tar_add(&t, "key/000001.png", NULL, '0', "png");
    tar_add(&t, "overlay.mp4", NULL, '0', "film");
    CHECK_INT(sp_report_dir_finish(dir, t.fd, t.bytes, sp_view_of("run"), &err), SP_OK);
    CHECK(holds("report.json", "{}") && holds("run.json", "run") && holds("key/000001.png", "png") && holds("overlay.mp4", "film"));
    close(t.fd);
    /* A later report without them leaves no old pictures behind. */
    t = tar_new();
    tar_add(&t, "key/000002.png", NULL, 0, "two");
    tar_add(&t, "report.json", NULL, 0, "{1}");
    CHECK_INT(sp_report_dir_finish(dir, t.fd, t.bytes, sp_view_of("run2"), &err), SP_OK);
    CHECK(holds("report.json", "{1}") && holds("run.json", "run2") && holds("key/000002.png", "two"));
    CHECK(holds("key/000001.png", NULL) && holds("overlay.mp4", NULL) && holds(".parts/new/report.json", NULL));
    close(t.fd);
    close_dir(dir);
}

TEST(a_tar_that_reaches_out_is_refused)
{
    static const struct {
        const char *name, *size;
        char kind;
    } bad[] = {
        { "../outside", NULL, '0' },   { "/tmp/outside", NULL, '0' }, { "key/../../outside", NULL, '0' }, { ".parts/x", NULL, '0' },
        { "a/b/c", NULL, '0' },        { "key/", NULL, '0' },         { "key/.x", NULL, '0' },            { "link", NULL, '2' },
        { "directory", NULL, '5' },    { "big", "77777777777", '0' }, { "odd", "12x", '0' },              { "none", "", '0' },
        { "UPPER", NULL, '0' },        { "white space", NULL, '0' },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        sp_error err = { 0 };
        sp_report_dir *dir = open_dir();
        tar t = tar_new();
        tar_add(&t, "report.json", NULL, '0', "{}");
        tar_add(&t, bad[i].name, bad[i].size, bad[i].kind, "x");
        if (sp_report_dir_finish(dir, t.fd, t.bytes, sp_view_of("run"), &err) != SP_CORRUPT)
            test_fail(__FILE__, __LINE__, "%s was taken", bad[i].name);
        CHECK(holds("report.json", NULL) && holds("run.json", NULL));
        CHECK(access("/tmp/outside", F_OK) != 0);
        close(t.fd);
        close_dir(dir);
    }
}

TEST(a_tar_without_a_report_is_none)
{
    sp_error err = { 0 };
    sp_report_dir *dir = open_dir();
    tar t = tar_new();
    tar_add(&t, "frames.csv", NULL, '0', "a,b");
    CHECK_INT(sp_report_dir_finish(dir, t.fd, t.bytes, sp_view_of("run"), &err), SP_CORRUPT);
    CHECK_INT(sp_report_dir_finish(dir, t.fd, 100, sp_view_of("run"), &err), SP_CORRUPT);
    close(t.fd);
    close_dir(dir);
}

TEST(a_directory_has_one_user_at_a_time)
{
    sp_error err = { 0 };
    sp_report_dir *dir = open_dir(), *second = NULL;
    char path[96];
    (void)snprintf(path, sizeof(path), "%s/a/b", root);
    CHECK_INT(sp_report_dir_open(path, loop, &second, &err), SP_CONFLICT);
    (void)snprintf(path, sizeof(path), "%s/a/file", root);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK_INT(sp_report_dir_open(path, loop, &second, &err), SP_INVALID);
    close(fd);
    close_dir(dir);
}
