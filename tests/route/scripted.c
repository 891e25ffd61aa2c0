/* SPDX-License-Identifier: Apache-2.0
 * See scripted.h. */
#include "scripted.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

sp_config *stage_config(const char *yaml)
{
    sp_config *config = NULL;
    sp_complaints complaints = { 0 };
    sp_error err = { 0 };
    sp_buf_init(&complaints.text, 16384);
    sp_status s = sp_config_parse("test.yaml", yaml, strlen(yaml), &config, &complaints, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "config: %s\n%.*s", err.message, (int)complaints.text.size_bytes,
                  complaints.text.data ? (const char *)complaints.text.data : "");
    sp_buf_done(&complaints.text);
    REQUIRE(s == SP_OK);
    return config;
}

static void write_file(const stage *s, const char *name, const char *text)
{
    char path[128], draft[140];
    (void)snprintf(path, sizeof(path), "%s/%s", s->folder, name);
    (void)snprintf(draft, sizeof(draft), "%s.new", path);
    FILE *file = fopen(draft, "w");
    REQUIRE(file != NULL);
    (void)fputs(text, file);
    REQUIRE(fclose(file) == 0 && rename(draft, path) == 0); /* nobody reads half a script */
}

void stage_script(stage *s, const char *worker, const char *text)
{
    write_file(s, worker, text);
}

void stage_open(stage *s, const char *workers, const char *yaml, int window)
{
    *s = (stage){ 0 };
    sp_error err = { 0 };
    const char *program = getenv("SPILLWAY_SCRIPTED");
    if (!program)
        SKIP("SPILLWAY_SCRIPTED is not set: run by meson test");
    (void)snprintf(s->folder, sizeof(s->folder), "/tmp/spillway-scripts-XXXXXX");
    REQUIRE(mkdtemp(s->folder) != NULL);
    (void)setenv("SPILLWAY_SCRIPTS", s->folder, 1);
    char number[16];
    (void)snprintf(number, sizeof(number), "%d", window ? window : SP_LIMIT_SLOTS);
    write_file(s, "window", number);
    write_file(s, "log", "");
    sp_house_config config = { .executable = program, .workers = workers, .config = yaml ? stage_config(yaml) : NULL };
    REQUIRE(sp_loop_new(&s->loop, &err) == SP_OK);
    sp_status status = sp_house_new(&config, s->loop, &s->house, &err);
    sp_config_unref(config.config);
    if (status)
        test_fail(__FILE__, __LINE__, "house: %s", err.message);
    REQUIRE(status == SP_OK);
    int ready = 0;
    for (int64_t until_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S; sp_clock_now_ns() < until_ns;) {
        ready = 0;
        for (int i = 0; i < sp_house_worker_count(s->house); i++) {
            sp_worker_info info = { 0 };
            sp_house_worker_info(s->house, i, &info);
            ready += info.state == SP_WORKER_READY;
        }
        if (ready == sp_house_worker_count(s->house))
            break;
        (void)sp_loop_turn(s->loop, 10 * SP_NS_PER_MS, NULL);
    }
    REQUIRE(ready == sp_house_worker_count(s->house));
}

void stage_close(stage *s)
{
    sp_house_free(s->house, 1000);
    sp_loop_free(s->loop);
    DIR *folder = opendir(s->folder);
    for (const struct dirent *entry; folder && (entry = readdir(folder));)
        (void)unlinkat(dirfd(folder), entry->d_name, 0); /* . and .. stay */
    if (folder)
        (void)closedir(folder);
    (void)rmdir(s->folder);
}

static void count_link(stage *s, const char *link)
{
    for (int i = 0; i < 16; i++) {
        if (!s->link_names[i][0])
            (void)snprintf(s->link_names[i], sizeof(s->link_names[i]), "%s", link);
        if (strcmp(s->link_names[i], link) == 0) {
            s->links_ok[i]++;
            return;
        }
    }
}

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    stage *s = context;
    s->answered++;
    s->ok += answer->status == SP_OK;
    s->status = answer->status;
    (void)snprintf(s->code, sizeof(s->code), "%s", answer->error.code);
    (void)snprintf(s->message, sizeof(s->message), "%s", answer->error.message);
    (void)snprintf(s->link, sizeof(s->link), "%s", answer->link);
    s->attempt_count = answer->attempt_count;
    memcpy(s->attempts, answer->attempts, sizeof(s->attempts));
    s->retry_after_s = answer->retry_after_s;
    s->probability = answer->classes && answer->classes->count ? (double)answer->classes->classes[0].probability : 0;
    s->microdollars = answer->microdollars;
    s->simpler = answer->simpler;
    s->sent_status = answer->sent.http_status;
    (void)snprintf(s->payload, sizeof(s->payload), "%.*s", (int)answer->payload.size_bytes,
                   answer->payload.data ? (const char *)answer->payload.data : "");
    if (answer->status == SP_OK)
        count_link(s, answer->link);
    sp_request_close(request);
}

sp_request *stage_ask(stage *s, const sp_request_params *given, const char *body)
{
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry = 0;
    sp_request_params params = given ? *given : (sp_request_params){ 0 };
    int64_t now_ns = sp_clock_now_ns();
    params.received_ns = now_ns;
    params.deadline_ns = now_ns + (params.deadline_ns ? params.deadline_ns : 5 * SP_NS_PER_S); /* given as a duration */
    sp_status status = sp_request_open(s->house, &params, &request, &retry, &err);
    if (status)
        test_fail(__FILE__, __LINE__, "open: %s", err.message);
    REQUIRE(status == SP_OK);
    REQUIRE(sp_request_append(request, body, strlen(body), &err) == SP_OK);
    sp_request_submit(request, done, s);
    return request;
}

void stage_wait(stage *s, int answers, int at_most_ms)
{
    int64_t until_ns = sp_clock_now_ns() + at_most_ms * SP_NS_PER_MS;
    while (s->answered < answers && sp_clock_now_ns() < until_ns)
        (void)sp_loop_turn(s->loop, 20 * SP_NS_PER_MS, NULL);
}

void stage_one(stage *s, const sp_request_params *params, const char *body)
{
    int before = s->answered;
    (void)stage_ask(s, params, body);
    stage_wait(s, before + 1, 10000);
    CHECK_INT(s->answered, before + 1);
}

void stage_turn(stage *s, int ms)
{
    for (int64_t until_ns = sp_clock_now_ns() + ms * SP_NS_PER_MS; sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(s->loop, SP_NS_PER_MS, NULL);
}

void stage_settle(stage *s)
{
    for (int64_t until_ns = sp_clock_now_ns() + 10 * SP_NS_PER_S;
         (sp_house_leased_count(s->house) || sp_house_open_count(s->house)) && sp_clock_now_ns() < until_ns;)
        (void)sp_loop_turn(s->loop, 20 * SP_NS_PER_MS, NULL);
}

int stage_ok_of(const stage *s, const char *link)
{
    for (int i = 0; i < 16; i++) {
        if (strcmp(s->link_names[i], link) == 0)
            return s->links_ok[i];
    }
    return 0;
}

int64_t stage_counter(const char *name, const char *labels)
{
    return sp_metric_value(sp_metric_get(SP_METRIC_COUNTER, name, labels, ""));
}

int stage_log_count(const stage *s, const char *begins)
{
    char path[128], line[256];
    int count = 0;
    (void)snprintf(path, sizeof(path), "%s/log", s->folder);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file))
        count += strncmp(line, begins, strlen(begins)) == 0;
    if (file)
        (void)fclose(file);
    return count;
}

sp_link_info stage_link(const stage *s, const char *task, const char *link)
{
    sp_link_info info = { 0 };
    for (int i = 0; i < sp_house_link_count(s->house); i++) {
        sp_house_link_info(s->house, i, &info);
        if (strcmp(info.task, task) == 0 && strcmp(info.name, link) == 0)
            return info;
    }
    test_fail(__FILE__, __LINE__, "no link %s of %s", link, task);
    return (sp_link_info){ 0 };
}
