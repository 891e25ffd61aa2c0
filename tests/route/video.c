/* SPDX-License-Identifier: Apache-2.0
 * The tasks of a video through the house, at workers that do as a script says: the media file that many requests share, the lane of
 * chunks beside other work, a report as a sealed file, what killed a worker. */
#include "base/clock.h"
#include "scripted.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILM "the film itself: "
#define MS SP_NS_PER_MS

typedef struct film {
    stage s;
    int media_fd;
    int report_fd;
    uint64_t report_bytes;
} film;

static void open_film(film *f, const char *workers, const char *yaml)
{
    char path[] = "/tmp/spillway-film-XXXXXX";
    *f = (film){ .report_fd = -1 };
    stage_open(&f->s, workers, yaml, 0);
    f->media_fd = mkstemp(path);
    REQUIRE(f->media_fd >= 0 && write(f->media_fd, FILM, strlen(FILM)) == (ssize_t)strlen(FILM));
    REQUIRE(unlink(path) == 0); /* a spool file may have no name any more */
}

static void close_film(film *f)
{
    stage_settle(&f->s);
    CHECK_INT(sp_house_leased_count(f->s.house), 0);
    stage_close(&f->s);
    sp_fd_closep(&f->media_fd);
    sp_fd_closep(&f->report_fd);
}

static void answered(sp_request *request, const sp_answer *answer, void *context)
{
    film *f = context;
    f->s.answered++;
    f->s.ok += answer->status == SP_OK;
    f->s.status = answer->status;
    (void)snprintf(f->s.code, sizeof(f->s.code), "%s", answer->error.code);
    (void)snprintf(f->s.message, sizeof(f->s.message), "%s", answer->error.message);
    (void)snprintf(f->s.link, sizeof(f->s.link), "%s", answer->link);
    (void)snprintf(f->s.payload, sizeof(f->s.payload), "%.*s", (int)answer->payload.size_bytes,
                   answer->payload.data ? (const char *)answer->payload.data : "");
    f->s.attempt_count = answer->attempt_count;
    CHECK_INT(answer->output_fd >= 0, answer->status == SP_OK && answer->output_bytes > 0);
    f->report_bytes = answer->output_bytes;
    if (answer->output_fd >= 0) {
        f->report_fd = sp_request_take_output(request);
        CHECK_INT(sp_request_take_output(request), -1);
    }
    sp_request_close(request);
}

static sp_request *ask(film *f, sp_task task, uint8_t key, const char *body)
{
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry = 0;
    uint8_t sha[32];
    int64_t now_ns = sp_clock_now_ns();
    const sp_request_params params = { .task = task, .received_ns = now_ns, .deadline_ns = now_ns + 20 * SP_NS_PER_S };
    memset(sha, key, sizeof(sha));
    sp_status s = sp_request_open(f->s.house, &params, &request, &retry, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "open: %s", err.message);
    REQUIRE(s == SP_OK);
    REQUIRE(sp_request_append(request, body, strlen(body), &err) == SP_OK);
    REQUIRE(sp_request_set_media(request, f->media_fd, strlen(FILM), sha, &err) == SP_OK);
    sp_request_submit(request, answered, f);
    return request;
}

static void one(film *f, sp_task task, const char *body)
{
    int before = f->s.answered;
    (void)ask(f, task, 1, body);
    stage_wait(&f->s, before + 1, 10000);
    CHECK_INT(f->s.answered, before + 1);
}

TEST(the_file_goes_to_whoever_has_the_request)
{
    film f;
    open_film(&f, "codec0,cpu0", NULL);
    one(&f, SP_TASK_INDEX, "limits");
    CHECK_INT(f.s.status, SP_OK);
    CHECK_TEXT(f.s.payload, FILM "limits"); /* the worker has tried to write to it as well, and could not */
    CHECK_TEXT(f.s.link, "codec0");
    one(&f, SP_TASK_ANALYZE, "chunk");
    CHECK_TEXT(f.s.payload, FILM "chunk");
    CHECK_TEXT(f.s.link, "cpu0");
    close_film(&f);
}

TEST(a_body_of_a_megabyte_goes_beside_it)
{
    film f;
    size_t size = 3 << 20;
    char *body = malloc(size + 1);
    REQUIRE(body != NULL);
    memset(body, 'x', size);
    body[size] = 0;
    open_film(&f, "codec0,cpu0", NULL);
    one(&f, SP_TASK_ANALYZE, body);
    CHECK_INT(f.s.status, SP_OK);
    CHECK(strncmp(f.s.payload, FILM "xxxx", strlen(FILM) + 4) == 0);
    free(body);
    close_film(&f);
}

TEST(a_report_is_a_sealed_file)
{
    film f;
    char text[64] = "";
    open_film(&f, "codec0,cpu0", NULL);
    for (int i = 0; i < 3; i++) { /* the slot's output goes away with each of them */
        one(&f, SP_TASK_REPORT, "results");
        CHECK_INT(f.s.status, SP_OK);
        CHECK_INT(f.report_bytes, strlen(FILM "results"));
        REQUIRE(f.report_fd >= 0);
        CHECK_INT(pread(f.report_fd, text, sizeof(text) - 1, 0), strlen(FILM "results"));
        CHECK_TEXT(text, FILM "results");
        CHECK(pwrite(f.report_fd, "x", 1, 0) < 0 && errno == EPERM);
        CHECK(ftruncate(f.report_fd, 0) < 0);
        sp_fd_closep(&f.report_fd);
    }
    one(&f, SP_TASK_INDEX, "afterwards");
    CHECK_TEXT(f.s.payload, FILM "afterwards");
    close_film(&f);
}

TEST(nobody_takes_the_report)
{
    film f;
    open_film(&f, "codec0,cpu0", NULL);
    sp_request *request = ask(&f, SP_TASK_REPORT, 1, "results");
    sp_request_cancel(request); /* it may be under way */
    stage_settle(&f.s);
    one(&f, SP_TASK_REPORT, "results");
    CHECK_INT(f.s.status, SP_OK);
    close_film(&f);
}

TEST(a_chunk_waits_for_nobody_and_nobody_for_it)
{
    film f;
    open_film(&f, "codec0,cpu0", NULL);
    stage_script(&f.s, "cpu0", "delay=600");
    sp_request *first = ask(&f, SP_TASK_ANALYZE, 1, "first");
    stage_turn(&f.s, 200);
    CHECK_INT(sp_request_progress(first), 7);
    stage_script(&f.s, "cpu0", "");
    sp_request *second = ask(&f, SP_TASK_ANALYZE, 1, "second"); /* its lane is taken */
    stage_one(&f.s, NULL, "echo");
    CHECK_INT(f.s.answered, 1);
    CHECK_TEXT(f.s.payload, "echo");
    CHECK_INT(stage_log_count(&f.s, "cpu0 13"), 1);
    CHECK_INT(sp_request_progress(second), 0);
    stage_wait(&f.s, 3, 5000);
    CHECK_INT(f.s.ok, 3);
    CHECK_TEXT(f.s.payload, FILM "second");
    close_film(&f);
}

TEST(a_chunk_whose_link_fails_goes_to_the_next)
{
    static const char *const troubles[] = { "status=nomem", "status=unavailable", "status=unsupported", "die", "status=timeout" };
    film f;
    open_film(&f, "codec0,cuda0,cpu0", "workers: [codec0, cuda0, cpu0]\nchains: {analyze: {links: [{name: cuda0, retries: 0}, cpu0]}}\n");
    for (size_t i = 0; i < SP_ARRAY_LEN(troubles); i++) {
        stage_script(&f.s, "cuda0", troubles[i]);
        one(&f, SP_TASK_ANALYZE, "chunk");
        CHECK_INT(f.s.status, SP_OK);
        CHECK_TEXT(f.s.payload, FILM "chunk");
        CHECK(strcmp(troubles[i], "die") == 0 || strcmp(f.s.link, "cpu0") == 0); /* a killed worker is asked again */
        stage_script(&f.s, "cuda0", "");
        stage_settle(&f.s);
    }
    close_film(&f);
}

TEST(conditions_of_the_chain_hold_for_videos)
{
    film f;
    open_film(&f, "codec0,cuda0,cpu0",
              "workers: [codec0, cuda0, cpu0]\nchains: {analyze: {links: [{name: cuda0, when: queue_depth > 10}, cpu0]}}\n");
    stage_script(&f.s, "cpu0", "delay=400");
    for (int i = 0; i < 13; i++)
        (void)ask(&f, SP_TASK_ANALYZE, 1, "chunk");
    stage_turn(&f.s, 100);
    CHECK_INT(stage_log_count(&f.s, "cpu0 13"), 1);
    CHECK(stage_log_count(&f.s, "cuda0 13") > 0);
    CHECK(stage_log_count(&f.s, "cuda0 13") < 4); /* until no more than ten wait */
    stage_script(&f.s, "cpu0", "");
    stage_wait(&f.s, 13, 10000);
    CHECK_INT(f.s.ok, 13);
    close_film(&f);
}

/* The chunk that kills is refused; another chunk of the same file, and the same one of another file, are not. */
TEST(what_kills_is_the_chunk_of_the_file)
{
    film f;
    open_film(&f, "codec0,cpu0", NULL);
    stage_script(&f.s, "cpu0", "segv@75"); /* "K..." */
    one(&f, SP_TASK_ANALYZE, "Killer");
    CHECK_INT(f.s.status, SP_INTERNAL);
    CHECK_TEXT(f.s.code, "crashed_model");
    stage_script(&f.s, "cpu0", "");
    one(&f, SP_TASK_ANALYZE, "Killer");
    CHECK_TEXT(f.s.code, "crashed_model");
    one(&f, SP_TASK_ANALYZE, "Kitten");
    CHECK_INT(f.s.status, SP_OK);
    int before = f.s.answered;
    (void)ask(&f, SP_TASK_ANALYZE, 2, "Killer");
    stage_wait(&f.s, before + 1, 10000);
    CHECK_INT(f.s.status, SP_OK);
    stage_script(&f.s, "codec0", "segv@75");
    one(&f, SP_TASK_INDEX, "Killer");
    CHECK_INT(f.s.status, SP_REFUSED);
    CHECK_TEXT(f.s.code, "crashed_decoder");
    close_film(&f);
}

TEST(without_a_codec_or_a_device_it_is_said)
{
    film f;
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry = 0;
    open_film(&f, "cpu0", NULL);
    sp_request_params params = { .task = SP_TASK_INDEX, .deadline_ns = INT64_MAX };
    CHECK_INT(sp_request_open(f.s.house, &params, &request, &retry, &err), SP_UNAVAILABLE);
    CHECK_TEXT(err.code, "no_codec");
    close_film(&f);
    open_film(&f, "codec0", NULL);
    params.task = SP_TASK_ANALYZE;
    CHECK_INT(sp_request_open(f.s.house, &params, &request, &retry, &err), SP_UNAVAILABLE);
    CHECK(strstr(err.message, "analyze") != NULL);
    close_film(&f);
}

static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 512; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

TEST(no_descriptor_stays)
{
    film f;
    open_film(&f, "codec0,cpu0", NULL);
    one(&f, SP_TASK_REPORT, "results");
    sp_fd_closep(&f.report_fd);
    stage_settle(&f.s);
    int before = descriptors();
    for (int i = 0; i < 30; i++) {
        one(&f, i % 3 == 0 ? SP_TASK_INDEX : i % 3 == 1 ? SP_TASK_ANALYZE : SP_TASK_REPORT, "x");
        sp_fd_closep(&f.report_fd);
    }
    stage_settle(&f.s);
    CHECK_INT(descriptors(), before);
    close_film(&f);
}
