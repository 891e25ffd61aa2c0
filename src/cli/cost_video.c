/* SPDX-License-Identifier: Apache-2.0
 * See cost_video.h. A device's speed is what a run measured or what the user says; its price is the configuration's. */
#include "cli/cost_video.h"

#include "cli/options.h"
#include "policy/cost.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ROWS_MAX 32
#define MICRODOLLARS 1e6

typedef struct video_row {
    char name[32];
    double fps;
    int64_t per_hour; /* -1 = unknown */
    bool measured;
    double seconds;
    int64_t cost;
} video_row;

typedef struct video_job {
    int64_t frames;
    int row_count;
    video_row rows[ROWS_MAX];
} video_job;

static video_row *row_add(video_job *job, const char *name, size_t length)
{
    if (job->row_count == ROWS_MAX || !length || length >= sizeof(job->rows->name))
        return NULL;
    video_row *row = &job->rows[job->row_count++];
    *row = (video_row){ .per_hour = -1 };
    memcpy(row->name, name, length);
    return row;
}

/* What a run measured: its links, each by the frames a second of the time in which it had work. */
static int run_read(const sp_cost_video *words, video_job *job)
{
    char path[PATH_MAX];
    struct stat st;
    json_error_t bad;
    (void)snprintf(path, sizeof(path), "%s%s", words->run, !stat(words->run, &st) && S_ISDIR(st.st_mode) ? "/run.json" : "");
    json_t *root = json_load_file(path, 0, &bad), *link;
    size_t i;
    if (!root)
        return sp_cli_fail(SP_EXIT_FAILED, "cost", "%s: %s (it takes the run.json of spillway analyze)", path, bad.text);
    if (!job->frames)
        job->frames = json_integer_value(json_object_get(root, "frames_total"));
    json_array_foreach(json_object_get(root, "links"), i, link) {
        const char *name = json_string_value(json_object_get(link, "link"));
        double fps = json_number_value(json_object_get(link, "fps")), rate = json_number_value(json_object_get(link, "rate"));
        video_row *row = name && fps > 0 ? row_add(job, name, strlen(name)) : NULL;
        if (!row)
            continue;
        row->fps = fps;
        row->measured = true;
        row->per_hour = rate > 0 ? llround(rate * MICRODOLLARS) : -1;
    }
    json_decref(root);
    if (job->frames <= 0)
        return sp_cli_fail(SP_EXIT_FAILED, "cost", "%s does not say how many frames there were; say --frames", path);
    return SP_EXIT_OK;
}

static int device_read(video_job *job, const char *word)
{
    const char *equals = strchr(word, '=');
    char *end = NULL;
    double fps = equals ? strtod(equals + 1, &end) : 0;
    video_row *row = equals && end != equals + 1 && !*end && fps > 0 && fps <= 1e7 ? row_add(job, word, (size_t)(equals - word)) : NULL;
    if (!row)
        return sp_cli_fail(SP_EXIT_USAGE, "cost", "--device of a video takes NAME=FRAMES_PER_SECOND, not '%.60s'", word);
    row->fps = fps;
    return SP_EXIT_OK;
}

static int devices_read(const sp_cost_video *words, video_job *job)
{
    char *list = words->device ? strdup(words->device) : NULL;
    int code = SP_EXIT_OK;
    for (char *rest = list, *word; !code && rest && (word = strsep(&rest, ","));)
        code = device_read(job, word);
    free(list);
    return code;
}

static int price(const sp_cost_video *words, const sp_config *config, video_job *job)
{
    for (int i = 0; i < job->row_count; i++) {
        video_row *row = &job->rows[i];
        const sp_price *known = sp_config_rate(config, row->name);
        char *end;
        const char *digits = words->per_hour && *words->per_hour == '$' ? words->per_hour + 1 : words->per_hour;
        double given = digits ? strtod(digits, &end) : 0;
        if (digits && (end == digits || *end || !(given >= 0 && given <= 1e6)))
            return sp_cli_fail(SP_EXIT_USAGE, "cost", "--per-hour must be a price in dollars from 0 to 1000000, not '%s'", words->per_hour);
        if (digits)
            row->per_hour = llround(given * MICRODOLLARS);
        else if (row->per_hour < 0 && known && known->per_hour)
            row->per_hour = known->per_hour;
        if (row->per_hour < 0)
            return sp_cli_fail(SP_EXIT_USAGE, "cost", "no price per hour is known of '%s'; put it into the rates (--config, --rates), or say --per-hour",
                               row->name);
        row->seconds = (double)job->frames / row->fps;
        row->cost = sp_price_of(&(sp_price){ .per_hour = row->per_hour }, (int64_t)(row->seconds * 1e9), 0);
    }
    return SP_EXIT_OK;
}

static void time_text(double seconds, char *text, size_t size_bytes)
{
    if (seconds < 120)
        (void)snprintf(text, size_bytes, "%.1f s", seconds);
    else if (seconds < 7200)
        (void)snprintf(text, size_bytes, "%.1f min", seconds / 60);
    else
        (void)snprintf(text, size_bytes, "%.2f h", seconds / 3600);
}

static void text_print(const video_job *job)
{
    const video_row *cheapest = job->rows, *quickest = job->rows;
    printf("%lld frames\n\n  %-20s %12s %14s %12s %14s %18s\n", (long long)job->frames, "DEVICE", "PRICE", "FRAMES/S", "TIME", "COST",
           "PER 1000 VIDEOS");
    for (int i = 0; i < job->row_count; i++) {
        const video_row *row = &job->rows[i];
        char time[32], name[64], per_hour[32], cost[32], thousand[32];
        time_text(row->seconds, time, sizeof(time));
        (void)snprintf(name, sizeof(name), "%s%s", row->name, row->measured ? " (measured)" : "");
        (void)snprintf(per_hour, sizeof(per_hour), "$%.2f/h", (double)row->per_hour / MICRODOLLARS);
        (void)snprintf(cost, sizeof(cost), "$%.6f", (double)row->cost / MICRODOLLARS);
        (void)snprintf(thousand, sizeof(thousand), "$%.2f", row->seconds / 3600 * (double)row->per_hour / MICRODOLLARS * 1000);
        printf("  %-20s %12s %14.1f %12s %14s %18s\n", name, per_hour, row->fps, time, cost, thousand);
        cheapest = row->cost < cheapest->cost ? row : cheapest;
        quickest = row->seconds < quickest->seconds ? row : quickest;
    }
    printf("\ncheapest  %s%s%s\n", cheapest->name, cheapest == quickest ? ", and the quickest" : "; quickest ", cheapest == quickest ? "" : quickest->name);
}

static int json_print(const video_job *job)
{
    json_t *devices = json_array();
    for (int i = 0; i < job->row_count; i++) {
        const video_row *row = &job->rows[i];
        json_array_append_new(devices, json_pack("{s:s, s:b, s:f, s:f, s:f, s:f}", "device", row->name, "measured", row->measured, "fps", row->fps,
                                                 "per_hour", (double)row->per_hour / MICRODOLLARS, "time_s", row->seconds, "cost",
                                                 (double)row->cost / MICRODOLLARS));
    }
    json_t *root = json_pack("{s:I, s:o}", "frames", (json_int_t)job->frames, "devices", devices);
    bool failed = !root || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) != 0;
    json_decref(root);
    putchar('\n');
    return failed ? sp_cli_fail(SP_EXIT_FAILED, "cost", "cannot write the JSON") : SP_EXIT_OK;
}

int sp_cost_video_print(const sp_cost_video *words, const sp_config *config)
{
    video_job job = { .frames = words->frames };
    int code = words->run ? run_read(words, &job) : SP_EXIT_OK;
    if (!code)
        code = devices_read(words, &job);
    if (!code && !job.row_count)
        code = sp_cli_fail(SP_EXIT_USAGE, "cost", "no device's speed is known; say --device NAME=FRAMES_PER_SECOND");
    if (!code)
        code = price(words, config, &job);
    if (code)
        return code;
    if (words->json)
        return json_print(&job);
    text_print(&job);
    return SP_EXIT_OK;
}
