/* SPDX-License-Identifier: Apache-2.0
 * `spillway cost`: the same work by an API and by rented devices, and from when on a device rented all day pays. The
 * arithmetic is policy/cost.c, the prices are the configuration's rates; here they are read and printed. A video by its frames:
 * cost_video.c. */
#include "cli/cli.h"
#include "cli/cost_video.h"
#include "config/config.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES_MAX 16
#define MICRODOLLARS 1e6

typedef struct cost_device {
    char name[32];
    double speed; /* times real time */
    int64_t per_hour;
    char as_of[16];
    sp_cost_table table;
} cost_device;

typedef struct cost_job {
    int64_t sessions;
    double seconds;
    char api[32], api_as_of[16];
    int64_t api_per_minute;
    cost_device devices[DEVICES_MAX];
    int device_count;
} cost_job;

SP_DEFINE_CLEANUP(sp_config, sp_config_unref)

/* As typed, before rates are looked up. */
typedef struct cost_words {
    int64_t sessions;
    const char *seconds, *device, *speed, *per_hour, *api, *api_per_minute, *config, *rates;
    bool json;
} cost_words;

static bool positive_read(const char *option, const char *text, double most, double *ret_number)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !(number > 0 && number <= most)) {
        (void)sp_cli_fail(0, "cost", "%s must be a number above 0 and at most %g, not '%s'", option, most, text);
        return false;
    }
    *ret_number = number;
    return true;
}

/* "0.20", ".20" or "$0.20". */
static bool dollars_read(const char *option, const char *text, int64_t *ret_microdollars)
{
    char *end;
    const char *digits = text + (*text == '$');
    double dollars = strtod(digits, &end);
    if (end == digits || *end || !(dollars >= 0 && dollars <= 1e6)) {
        (void)sp_cli_fail(0, "cost", "%s must be a price in dollars from 0 to 1000000, not '%s'", option, text);
        return false;
    }
    *ret_microdollars = llround(dollars * MICRODOLLARS);
    return true;
}

static const sp_rate_row *rate_find(const sp_config *config, const char *name)
{
    for (int i = 0; i < config->rate_count; i++)
        if (!strcmp(config->rates[i].name, name))
            return &config->rates[i];
    return NULL;
}

static int unknown_rate(const sp_config *config, const char *option, const char *name, bool of_devices)
{
    char known[512] = "";
    size_t used = 0;
    for (int i = 0; i < config->rate_count && used < sizeof(known); i++) {
        const sp_price *price = &config->rates[i].price;
        if (of_devices ? price->per_hour : price->per_minute)
            used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", config->rates[i].name);
    }
    return sp_cli_fail(SP_EXIT_USAGE, "cost", "%s '%s' has no price %s; known are %s; or say %s", option, name,
                       of_devices ? "per hour" : "per minute", *known ? known : "none",
                       of_devices ? "--per-hour" : "--api-per-minute");
}

/* "l4", "l4=15": a name, and its own speed. */
static int device_read(const cost_words *words, const sp_config *config, const char *word, double speed, cost_job *job)
{
    if (job->device_count == DEVICES_MAX)
        return sp_cli_fail(SP_EXIT_USAGE, "cost", "--device takes at most %d devices", DEVICES_MAX);
    cost_device *device = &job->devices[job->device_count++];
    const char *equals = strchr(word, '=');
    int length = (int)(equals ? (size_t)(equals - word) : strlen(word));
    if (!length || length >= (int)sizeof(device->name))
        return sp_cli_fail(SP_EXIT_USAGE, "cost", "--device '%.60s' is no device's name", word);
    snprintf(device->name, sizeof(device->name), "%.*s", length, word);
    device->speed = speed;
    if (equals && !positive_read("the speed after = in --device", equals + 1, 1e6, &device->speed))
        return SP_EXIT_USAGE;
    if (words->per_hour)
        return dollars_read("--per-hour", words->per_hour, &device->per_hour) ? SP_EXIT_OK : SP_EXIT_USAGE;
    const sp_rate_row *rate = rate_find(config, device->name);
    if (!rate || !rate->price.per_hour)
        return unknown_rate(config, "--device", device->name, true);
    device->per_hour = rate->price.per_hour;
    snprintf(device->as_of, sizeof(device->as_of), "%s", rate->as_of);
    return SP_EXIT_OK;
}

static int api_read(const cost_words *words, const sp_config *config, cost_job *job)
{
    if (strlen(words->api) >= sizeof(job->api))
        return sp_cli_fail(SP_EXIT_USAGE, "cost", "--api '%.60s' is too long for a name", words->api);
    snprintf(job->api, sizeof(job->api), "%s", words->api);
    if (words->api_per_minute)
        return dollars_read("--api-per-minute", words->api_per_minute, &job->api_per_minute) ? SP_EXIT_OK : SP_EXIT_USAGE;
    const sp_rate_row *rate = rate_find(config, words->api);
    if (!rate || !rate->price.per_minute)
        return unknown_rate(config, "--api", words->api, false);
    job->api_per_minute = rate->price.per_minute;
    snprintf(job->api_as_of, sizeof(job->api_as_of), "%s", rate->as_of);
    return SP_EXIT_OK;
}

static int job_read(const cost_words *words, const sp_config *config, cost_job *job)
{
    double speed;
    *job = (cost_job){ .sessions = words->sessions };
    if (!positive_read("--seconds", words->seconds, 1e7, &job->seconds) || !positive_read("--speed", words->speed, 1e6, &speed))
        return SP_EXIT_USAGE;
    int code = api_read(words, config, job);

    SP_CLEANUP(sp_buf_done) sp_buf list = { 0 };
    sp_buf_init(&list, 4096);
    sp_buf_append(&list, words->device, strlen(words->device) + 1);
    if (!sp_buf_ok(&list))
        return sp_cli_fail(SP_EXIT_USAGE, "cost", "--device is too long");
    for (char *rest = (char *)list.data, *word; !code && (word = strsep(&rest, ","));)
        code = device_read(words, config, word, speed, job);
    for (int i = 0; !code && i < job->device_count; i++) {
        sp_cost_case work = { .sessions = job->sessions, .seconds = job->seconds, .speed = job->devices[i].speed,
                              .device_per_hour = job->devices[i].per_hour, .api_per_minute = job->api_per_minute };
        job->devices[i].table = sp_cost_compare(&work);
    }
    return code;
}

/* The built-in rates, the configuration's, or those of a file of rates alone. */
static int rates_open(const cost_words *words, sp_config **ret_config)
{
    SP_CLEANUP(sp_buf_done) sp_buf text = { 0 };
    sp_complaints complaints;
    sp_error err = { 0 };
    sp_status s;

    sp_buf_init(&text, 8192);
    sp_complaints_init(&complaints);
    if (words->rates) {
        sp_buf_append_text(&text, "rates: ");
        sp_buf_append_json_text(&text, words->rates);
        s = sp_config_parse("--rates", (const char *)text.data, text.size_bytes, ret_config, &complaints, &err);
    } else if (words->config) {
        s = sp_config_load(words->config, ret_config, &complaints, &err);
    } else {
        s = sp_config_new_default(ret_config, &err);
    }
    if (s && complaints.count)
        fprintf(stderr, "%.*s", (int)complaints.text.size_bytes, (const char *)complaints.text.data);
    else if (s)
        (void)sp_cli_fail(0, "cost", "%s", err.message);
    sp_complaints_done(&complaints);
    if (!s)
        return SP_EXIT_OK;
    return s == SP_NOT_FOUND ? SP_EXIT_UNAVAILABLE : SP_EXIT_USAGE;
}

/* --- as text ----------------------------------------------------------------------------------------------------- */

/* 1234567 -> "1,234,567" */
static const char *grouped(int64_t number, char *text, size_t text_bytes)
{
    char digits[32];
    int length = snprintf(digits, sizeof(digits), "%lld", (long long)number), at = 0;
    for (int i = 0; i < length && at + 2 < (int)text_bytes; i++) {
        if (i && (length - i) % 3 == 0 && digits[i - 1] != '-')
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

/* "$6.00"; what is less than a dime with as many places as it takes. */
static const char *dollars(int64_t microdollars, char *text, size_t text_bytes)
{
    int places = microdollars && microdollars < 1000 ? 6 : microdollars && microdollars < 100000 ? 4 : 2;
    snprintf(text, text_bytes, "$%.*f", places, (double)microdollars / MICRODOLLARS);
    return text;
}

static void row_print(const char *way, const char *price, const char *time, int64_t cost, const cost_job *job, int64_t api)
{
    char total[32], each[32], against[32] = "";
    if (cost > 0 && cost != api && api > 0)
        snprintf(against, sizeof(against), cost < api ? "%.1f times cheaper" : "%.1f times dearer",
                 cost < api ? (double)api / (double)cost : (double)cost / (double)api);
    snprintf(each, sizeof(each), "$%.6f", job->sessions ? (double)cost / (double)job->sessions / MICRODOLLARS : 0);
    printf("  %-34s %14s %12s %12s %14s%s%s\n", way, price, time, dollars(cost, total, sizeof(total)), each,
           *against ? "  " : "", against);
}

static void device_print(const cost_job *job, const cost_device *device)
{
    const sp_cost_table *t = &device->table;
    char way[80], price[40], time[32];

    snprintf(price, sizeof(price), "$%.*f/h", device->per_hour % 10000 ? 4 : 2, (double)device->per_hour / MICRODOLLARS);
    snprintf(way, sizeof(way), "%s at %gx, by the second", device->name, device->speed);
    snprintf(time, sizeof(time), "%.2f h", t->device_hours);
    row_print(way, price, time, t->device, job, t->api);
    snprintf(way, sizeof(way), "%s at %gx, rented all day", device->name, device->speed);
    snprintf(time, sizeof(time), "%.0f h", 24 * ceil(t->device_hours / 24 - 1e-9));
    row_print(way, price, time, t->device_all_day, job, t->api);
}

static void break_even_print(const cost_job *job, const cost_device *device)
{
    char count[32], fit[32];
    int64_t sessions = device->table.break_even_sessions_per_day;
    (void)grouped((int64_t)(86400 * device->speed / job->seconds), fit, sizeof(fit));
    if (sessions < 0)
        printf("break-even  none for %s rented all day: the %s sessions of %g s that it can do in a day cost less by %s\n",
               device->name, fit, job->seconds, job->api);
    else
        printf("break-even  from %s sessions of %g s a day on, %s rented all day costs no more than %s (it can do %s)\n",
               grouped(sessions, count, sizeof(count)), job->seconds, device->name, job->api, fit);
}

static void text_print(const cost_job *job)
{
    char sessions[32], minutes[32], price[40];
    const sp_cost_table *first = &job->devices[0].table;

    printf("%s sessions of %g s: %s minutes\n\n", grouped(job->sessions, sessions, sizeof(sessions)), job->seconds,
           grouped(llround(first->media_minutes), minutes, sizeof(minutes)));
    printf("  %-34s %14s %12s %12s %14s  %s\n", "WAY", "PRICE", "TIME", "COST", "PER SESSION", "AGAINST THE API");
    snprintf(price, sizeof(price), "$%g/min", (double)job->api_per_minute / MICRODOLLARS);
    row_print(job->api, price, "-", first->api, job, first->api);
    for (int i = 0; i < job->device_count; i++)
        device_print(job, &job->devices[i]);
    putchar('\n');
    for (int i = 0; i < job->device_count; i++)
        break_even_print(job, &job->devices[i]);
    printf("speed       as given: --speed, or --device NAME=SPEED; measure yours with spillway bench\n");
    if (*job->api_as_of || *job->devices[0].as_of)
        printf("prices      as of %s; --config or --rates names your own\n", *job->api_as_of ? job->api_as_of : job->devices[0].as_of);
}

/* --- as JSON ----------------------------------------------------------------------------------------------------- */

static int json_print(const cost_job *job)
{
    json_t *devices = json_array();
    for (int i = 0; i < job->device_count; i++) {
        const cost_device *d = &job->devices[i];
        json_array_append_new(devices, json_pack("{s:s, s:f, s:f, s:s, s:f, s:f, s:f, s:I}", "device", d->name, "speed", d->speed,
                                                 "per_hour", (double)d->per_hour / MICRODOLLARS, "as_of", d->as_of, "hours",
                                                 d->table.device_hours, "cost", (double)d->table.device / MICRODOLLARS,
                                                 "cost_all_day", (double)d->table.device_all_day / MICRODOLLARS,
                                                 "break_even_sessions_per_day",
                                                 (json_int_t)d->table.break_even_sessions_per_day));
    }
    json_t *root = json_pack("{s:I, s:f, s:f, s:{s:s, s:f, s:s, s:f}, s:o}", "sessions", (json_int_t)job->sessions, "seconds",
                             job->seconds, "minutes", job->devices[0].table.media_minutes, "api", "name", job->api, "per_minute",
                             (double)job->api_per_minute / MICRODOLLARS, "as_of", job->api_as_of, "cost",
                             (double)job->devices[0].table.api / MICRODOLLARS, "devices", devices);
    bool failed = !root || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) != 0;
    json_decref(root);
    putchar('\n');
    return failed ? sp_cli_fail(SP_EXIT_FAILED, "cost", "cannot write the JSON") : SP_EXIT_OK;
}

int sp_command_cost(int argc, char **argv)
{
    cost_words words = { .sessions = 1000, .seconds = "60", .speed = "15", .api = "whisper-api" };
    sp_cost_video video = { 0 };
    const sp_option options[] = {
        { .name = "sessions", .kind = SP_OPTION_INT, .value = "N", .target = &words.sessions, .most = INT64_C(1000000000000),
          .help = "how many (default 1000)" },
        { .name = "seconds", .kind = SP_OPTION_TEXT, .value = "S", .target = &words.seconds,
          .help = "of audio or video in each (default 60)" },
        { .name = "device", .kind = SP_OPTION_TEXT, .value = "NAME[=SPEED],...", .target = &words.device,
          .help = "devices to compare, as named in the rates (default l4)" },
        { .name = "speed", .kind = SP_OPTION_TEXT, .value = "X", .target = &words.speed,
          .help = "times real time on the device (default 15)" },
        { .name = "per-hour", .kind = SP_OPTION_TEXT, .value = "DOLLARS", .target = &words.per_hour,
          .help = "of the device, instead of its rate" },
        { .name = "api", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &words.api,
          .help = "what it is compared with (default whisper-api)" },
        { .name = "api-per-minute", .kind = SP_OPTION_TEXT, .value = "DOLLARS", .target = &words.api_per_minute,
          .help = "of the API, instead of its rate" },
        { .name = "video", .kind = SP_OPTION_TEXT, .value = "RUN", .target = &video.run,
          .help = "a video: run.json of `spillway analyze` (or its directory), beside\n--device NAME=FRAMES_PER_SECOND,..." },
        { .name = "frames", .kind = SP_OPTION_INT, .value = "N", .target = &video.frames, .least = 1, .most = INT64_C(1000000000000),
          .help = "a video of so many frames" },
        { .name = "config", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &words.config,
          .help = "a spillway.yaml whose rates are used" },
        { .name = "rates", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &words.rates,
          .help = "a file of rates alone (deploy/rates.yaml is the one built in)" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &words.json, .help = "one JSON object" },
    };
    const sp_usage usage = {
        .command = "cost", .arguments = "",
        .summary = "Prints what the same work costs by an API and on rented devices, by the second and for whole\n"
                   "days, and from how many sessions a day on a device rented all day pays.",
        .options = options, .option_count = SP_ARRAY_LEN(options),
        .examples = "  spillway cost --sessions 1000 --seconds 60\n"
                    "  spillway cost --sessions 20000 --seconds 300 --device l4=15,t4=8,a100=60\n"
                    "  spillway cost --video report/ --device l4=600,t4=250\n"
                    "  spillway cost --per-hour .35 --speed 22 --api-per-minute .0043 --json\n",
    };
    SP_CLEANUP(sp_config_unrefp) sp_config *config = NULL;
    cost_job job;
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    code = rates_open(&words, &config);
    if (!code && (video.run || video.frames)) {
        video.device = words.device;
        video.per_hour = words.per_hour;
        video.json = words.json;
        return sp_cost_video_print(&video, config);
    }
    words.device = words.device ? words.device : "l4";
    if (!code)
        code = job_read(&words, config, &job);
    if (code)
        return code;
    if (words.json)
        return json_print(&job);
    text_print(&job);
    return SP_EXIT_OK;
}
