/* SPDX-License-Identifier: Apache-2.0
 * `spillway analyze VIDEO -o report/`: a house of its own for one video: worker processes as `serve` has them, without a
 * gateway. A worker that dies costs nothing; this process killed costs what was in hand: finished chunks lie in
 * report/.parts and are taken up by the next run of the same command. */
#include "cli/analyze_print.h"
#include "cli/cli.h"
#include "cli/report_files.h"

#include "base/clock.h"
#include "base/event.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/machine.h"
#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORKER_GRACE_MS 2000
#define TICK_NS (SP_NS_PER_S / 10)
#define STALL_NS (20 * SP_NS_PER_S)
/* How long several devices may take to start before those that are up begin; and how often that is looked at. */
#define START_NS (15 * SP_NS_PER_S)
#define LOOK_NS (5 * SP_NS_PER_MS)

SP_DEFINE_CLEANUP(sp_config, sp_config_unref)

typedef struct analyze {
    /* as asked for */
    const char *video, *output, *link, *workers, *config_path, *preset, *tier;
    int64_t chunks, threads;
    bool overlay, json, quiet;
    char sets[SP_OPTION_LIST_BYTES];
    sp_analyze_params params;
    /* under way */
    sp_config *config;
    sp_loop *loop;
    sp_house *house;
    sp_report_dir *dir;
    sp_analysis_run *run;
    int video_fd;
    uint64_t video_bytes;
    sp_watch signals;
    sp_timer tick;
    sp_analyze_progress progress;
    int64_t begin_by_ns;
    int64_t moved_ns; /* when a frame was last finished */
    uint32_t moved_frames;
    bool interrupted;
    /* what came of it */
    sp_status status;
    sp_error error;
    int report_fd;
    uint64_t report_bytes;
} analyze;

/* --- what was asked for ---------------------------------------------------------------------------------------------- */

/* "canny_low=20,levels=4" */
static int params_read(analyze *a)
{
    a->params = sp_analyze_params_default();
    for (char *rest = a->sets, *word; *a->sets && (word = strsep(&rest, ","));) {
        char *equals = strchr(word, '=');
        sp_error err = { 0 };
        if (!equals)
            return sp_cli_fail(SP_EXIT_USAGE, "analyze", "--set takes NAME=VALUE, not '%.60s'", word);
        *equals = '\0';
        if (sp_analyze_params_set(&a->params, word, equals + 1, &err))
            return sp_cli_fail(SP_EXIT_USAGE, "analyze", "--set %.60s=%.60s: %s", word, equals + 1, err.message);
    }
    sp_error err = { 0 };
    if (sp_analyze_params_check(&a->params, &err))
        return sp_cli_fail(SP_EXIT_USAGE, "analyze", "--set: %s", err.message);
    return SP_EXIT_OK;
}

static void override_add(sp_config_override *overrides, int *count, const char *key, const char *value, const char *origin)
{
    sp_config_override *o = &overrides[*count];
    if (!value || *count == SP_CONFIG_OVERRIDES_MAX)
        return;
    (*count)++;
    (void)snprintf(o->key, sizeof(o->key), "%s", key);
    (void)snprintf(o->value, sizeof(o->value), "%s", value);
    (void)snprintf(o->origin, sizeof(o->origin), "%s", origin);
}

static bool has_codec(const char *workers)
{
    return !strncmp(workers, "codec", 5) || strstr(workers, ",codec");
}

/* The configuration with what the command line says above it. The codec that an analysis cannot do without is put in. */
static int config_read(analyze *a)
{
    static sp_config_override overrides[SP_CONFIG_OVERRIDES_MAX]; /* 38 KiB */
    char workers[SP_OPTION_LIST_BYTES + 16] = "";
    sp_complaints complaints;
    sp_error err = { 0 };
    int count = sp_config_environment(overrides);

    if (a->workers)
        (void)snprintf(workers, sizeof(workers), "%s%s", has_codec(a->workers) ? "" : "codec0,", a->workers);
    else if (a->link && !a->config_path)
        (void)snprintf(workers, sizeof(workers), "codec0,%s", a->link);
    override_add(overrides, &count, "workers", *workers ? workers : NULL, a->workers ? "--workers" : "--link");
    override_add(overrides, &count, "preset", a->preset, "--preset");
    sp_complaints_init(&complaints);
    sp_status s = sp_config_load_over(a->config_path, overrides, count, &a->config, &complaints, &err);
    if (complaints.text.size_bytes && (complaints.count != 1 || complaints.warning_count))
        (void)fwrite(complaints.text.data, 1, complaints.text.size_bytes, stderr);
    sp_complaints_done(&complaints);
    if (s)
        return sp_cli_fail(s == SP_NOT_FOUND ? SP_EXIT_UNAVAILABLE : SP_EXIT_USAGE, "analyze", "%s", err.message);
    if (!has_codec(a->config->workers))
        return sp_cli_fail(SP_EXIT_USAGE, "analyze", "the configuration has no codec worker, which reads videos: workers: [codec0, ...]");
    return SP_EXIT_OK;
}

/* Threads of each CPU worker: as asked, or the processors shared among them. Workers inherit the environment. */
static void share_processors(const analyze *a)
{
    char text[16];
    int cpu_workers = !strncmp(a->config->workers, "cpu", 3);
    for (const char *at = a->config->workers; (at = strstr(at, ",cpu")); at++)
        cpu_workers++;
    sp_machine machine;
    sp_machine_read(&machine);
    int64_t threads = a->threads ? a->threads : SP_MAX(machine.cpu_count / SP_MAX(cpu_workers, 1), 1);
    (void)snprintf(text, sizeof(text), "%d", (int)threads);
    setenv("SPILLWAY_ANALYZE_THREADS", text, a->threads || cpu_workers > 1);
}

static bool is_url(const char *text)
{
    return !strncmp(text, "http://", 7) || !strncmp(text, "https://", 8) || !strncmp(text, "rtsp://", 7) || !strncmp(text, "s3://", 5);
}

/* Standard input and pipes, into a file that nobody else sees. */
static int spool(analyze *a, int from)
{
    static uint8_t bytes[256 * 1024];
    a->video_fd = sp_report_dir_spool(a->dir);
    if (a->video_fd < 0)
        return sp_cli_fail(SP_EXIT_FAILED, "analyze", "cannot make a file in %s: %s", a->output, strerror(errno));
    for (ssize_t n; (n = read(from, bytes, sizeof(bytes))) != 0;) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sp_cli_fail(SP_EXIT_FAILED, "analyze", "cannot read %s: %s", a->video, strerror(errno));
        a->video_bytes += (uint64_t)n;
        if (a->video_bytes > SP_LIMIT_VIDEO_BODY_BYTES)
            return sp_cli_fail(SP_EXIT_FAILED, "analyze", "%s: the video is larger than %llu MiB", a->video, SP_LIMIT_VIDEO_BODY_BYTES >> 20);
        if (write(a->video_fd, bytes, (size_t)n) != n)
            return sp_cli_fail(SP_EXIT_FAILED, "analyze", "cannot keep %s in %s: %s", a->video, a->output, strerror(errno));
    }
    return SP_EXIT_OK;
}

static int video_open(analyze *a)
{
    struct stat st;
    int fd = strcmp(a->video, "-") ? open(a->video, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (fd < 0)
        return sp_cli_fail(errno == ENOENT ? SP_EXIT_UNAVAILABLE : SP_EXIT_FAILED, "analyze", "%s: %s", a->video, strerror(errno));
    if (fstat(fd, &st) || S_ISDIR(st.st_mode)) {
        (void)close(fd);
        return sp_cli_fail(SP_EXIT_FAILED, "analyze", "%s is a directory, not a video", a->video);
    }
    if (S_ISREG(st.st_mode) && fd != STDIN_FILENO) {
        a->video_fd = fd;
        a->video_bytes = (uint64_t)st.st_size;
        if (!a->video_bytes)
            return sp_cli_fail(SP_EXIT_FAILED, "analyze", "%s is empty", a->video);
        if (a->video_bytes > SP_LIMIT_VIDEO_BODY_BYTES)
            return sp_cli_fail(SP_EXIT_FAILED, "analyze", "%s: the video is larger than %llu MiB", a->video, SP_LIMIT_VIDEO_BODY_BYTES >> 20);
        return SP_EXIT_OK;
    }
    int code = spool(a, fd);
    if (fd != STDIN_FILENO)
        (void)close(fd);
    if (!code && !a->video_bytes)
        code = sp_cli_fail(SP_EXIT_FAILED, "analyze", "%s is empty", a->video);
    return code;
}

/* --- the run ----------------------------------------------------------------------------------------------------------- */

static void ended(sp_analysis_run *run, sp_status status, const sp_error *err, int report_fd, uint64_t report_bytes, void *context)
{
    analyze *a = context;
    (void)run;
    a->status = status;
    if (err)
        a->error = *err;
    a->report_fd = report_fd;
    a->report_bytes = report_bytes;
    sp_loop_stop(a->loop);
}

static void signalled(sp_watch *watch, uint32_t epoll_events, void *context)
{
    analyze *a = context;
    struct signalfd_siginfo info;
    (void)epoll_events;
    while (read(watch->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        a->interrupted = true;
    if (a->interrupted)
        sp_loop_stop(a->loop);
}

/* What is wrong with the devices that are asked; false = one of them can compute, or may soon. */
static bool nobody_can(const analyze *a, char *ret_why, size_t size_bytes)
{
    *ret_why = '\0';
    for (int i = 0; i < sp_house_worker_count(a->house); i++) {
        sp_worker_info info;
        char kind[32];
        sp_house_worker_info(a->house, i, &info);
        sp_config_kind_of(info.name, kind);
        if (!strcmp(kind, "codec") || !strcmp(kind, "net") || (a->link && strcmp(a->link, info.name)))
            continue;
        const char *unable = info.card && !info.card->analyze_window ? strstr(info.card->detail, "no videos: ") : NULL;
        if (info.state == SP_WORKER_STARTING || (info.state == SP_WORKER_READY && !unable))
            return false;
        size_t used = strlen(ret_why);
        if (info.state == SP_WORKER_READY) {
            (void)snprintf(ret_why + used, size_bytes - used, "%s%s: %.200s", used ? "; " : "", info.name, unable);
            continue;
        }
        bool remedy = *info.remedy && !strstr(info.reason, info.remedy);
        (void)snprintf(ret_why + used, size_bytes - used, "%s%s: %.200s%s%.100s", used ? "; " : "", info.name, *info.reason ? info.reason : "not ready",
                       remedy ? "; " : "", remedy ? info.remedy : "");
    }
    return true;
}

/* Nobody can compute and nothing moves. */
static bool is_stalled(analyze *a, char *ret_why, size_t size_bytes)
{
    sp_analysis_summary summary;
    sp_analysis_phase phase = sp_analysis_run_state(a->run, &summary);
    int64_t now = sp_loop_now_ns(a->loop);
    if (summary.frames_done != a->moved_frames || phase != SP_ANALYSIS_WORKING || !a->moved_ns) {
        a->moved_frames = summary.frames_done;
        a->moved_ns = now;
    }
    if (now - a->moved_ns < STALL_NS)
        return false;
    return nobody_can(a, ret_why, size_bytes);
}

/* With several devices the chain says who is asked first: nobody is passed over only because his process is starting. */
static bool devices_are_up(const analyze *a)
{
    int devices = 0, starting = 0;
    for (int i = 0; i < sp_house_worker_count(a->house); i++) {
        sp_worker_info info;
        char kind[32];
        sp_house_worker_info(a->house, i, &info);
        sp_config_kind_of(info.name, kind);
        bool helper = !strcmp(kind, "codec") || !strcmp(kind, "net");
        devices += !helper;
        starting += !helper && info.state == SP_WORKER_STARTING;
    }
    return devices < 2 || !starting || sp_loop_now_ns(a->loop) >= a->begin_by_ns;
}

static sp_status run_begin(analyze *a, sp_error *reterr)
{
    const sp_analysis_settings settings = { .params = a->params, .chunks = (int)a->chunks, .overlay = a->overlay, .only_link = a->link,
                                            .tier = a->tier, .local_only = true, .outstanding = 64, .request_id = "analyze" };
    const sp_analysis_parts parts = sp_report_dir_parts(a->dir);
    sp_status s = sp_analysis_run_begin(a->house, a->loop, a->video_fd, a->video_bytes, &settings, &parts, ended, a, &a->run, reterr);
    if (!s)
        sp_report_dir_set_run(a->dir, a->run, &a->params);
    return s;
}

static void tick(sp_timer *timer, void *context)
{
    analyze *a = context;
    char why[512];
    if (!a->run) {
        if (!devices_are_up(a)) {
            (void)sp_loop_timer_set(a->loop, timer, sp_loop_now_ns(a->loop) + LOOK_NS, NULL);
            return;
        }
        a->status = run_begin(a, &a->error);
        if (a->status) {
            sp_loop_stop(a->loop);
            return;
        }
    }
    sp_analyze_progress_show(&a->progress, a->run);
    if (is_stalled(a, why, sizeof(why))) {
        a->status = SP_FAIL(&a->error, SP_UNAVAILABLE, "nobody here can compute: %s", why);
        sp_loop_stop(a->loop);
    }
    (void)sp_loop_timer_set(a->loop, timer, sp_loop_now_ns(a->loop) + TICK_NS, NULL);
}

static sp_status signals_open(analyze *a, sp_error *reterr)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "cannot set signals up");
    a->signals = (sp_watch){ .fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), .ready = signalled, .context = a };
    if (a->signals.fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "signalfd");
    return sp_loop_watch(a->loop, &a->signals, EPOLLIN, reterr);
}

static sp_status start(analyze *a, sp_error *reterr)
{
    const sp_house_config house = { .executable = "/proc/self/exe", .workers = a->config->workers, .require_sandbox = a->config->require_sandbox,
                                    .spin_us = 0, .config = a->config,
                                    .link_timeout_ns = a->config->link_timeout_ms * SP_NS_PER_MS };
    sp_status s = signals_open(a, reterr);
    if (!s)
        s = sp_house_new(&house, a->loop, &a->house, reterr);
    if (s)
        return s;
    a->begin_by_ns = sp_loop_now_ns(a->loop) + START_NS;
    a->tick = (sp_timer){ .fire = tick, .context = a };
    return sp_loop_timer_set(a->loop, &a->tick, sp_loop_now_ns(a->loop), reterr);
}

static void stop(analyze *a)
{
    if (a->loop) {
        sp_loop_unwatch(a->loop, &a->signals);
        sp_loop_timer_clear(a->loop, &a->tick);
    }
    if (a->run && sp_analysis_run_state(a->run, NULL) != SP_ANALYSIS_ENDED)
        sp_analysis_run_cancel(a->run);
    else
        sp_analysis_run_free(a->run);
    if (a->dir) { /* what a cancelled run is owed; then it goes */
        sp_report_dir_settle(a->dir);
        (void)sp_loop_turn(a->loop, 0, NULL);
    }
    if (a->house)
        sp_house_free(a->house, WORKER_GRACE_MS);
    sp_fd_closep(&a->signals.fd);
    sp_fd_closep(&a->report_fd);
    sp_fd_closep(&a->video_fd);
    sp_report_dir_free(a->dir);
    sp_events_close();
    sp_loop_free(a->loop);
    sp_config_unref(a->config);
}

/* Files into place and the last lines, or why there are none. */
static int finish(analyze *a)
{
    SP_CLEANUP(sp_buf_done) sp_buf run_json = { 0 };
    sp_error err = { 0 };
    sp_analyze_progress_end(&a->progress);
    if (a->interrupted) {
        return sp_cli_fail(SP_EXIT_FAILED, "analyze", "stopped; finished chunks are kept in %s/.parts: the same command goes on from there", a->output);
    }
    if (a->status) {
        char why[512];
        if (a->status == SP_UNAVAILABLE && nobody_can(a, why, sizeof(why)) && *why)
            return sp_cli_fail(SP_EXIT_UNAVAILABLE, "analyze", "nobody here can compute: %s", why);
        const char *kept = a->run && sp_analysis_run_index(a->run) ? "; finished chunks are kept: the same command goes on from there" : "";
        return sp_cli_fail(sp_exit_of(a->status), "analyze", "%s: %s%s", a->video, a->error.message, kept);
    }
    sp_buf_init(&run_json, 256u * 1024);
    sp_analysis_run_write(a->run, &run_json);
    sp_status s = sp_buf_ok(&run_json) ? SP_OK : SP_FAIL(&err, SP_NOMEM, "no memory for run.json");
    if (!s)
        s = sp_report_dir_finish(a->dir, a->report_fd, a->report_bytes, sp_buf_view(&run_json), &err);
    if (s)
        return sp_cli_fail_error("analyze", &err);
    if (a->json)
        (void)printf("%.*s", (int)run_json.size_bytes, (const char *)run_json.data);
    else if (!a->quiet)
        sp_analyze_print(a->run, a->output);
    return fflush(stdout) ? sp_cli_fail(SP_EXIT_FAILED, "analyze", "cannot write the result: %s", strerror(errno)) : SP_EXIT_OK;
}

static int run(analyze *a)
{
    sp_error err = { 0 };
    sp_status s = sp_loop_new(&a->loop, &err);
    if (!s)
        s = sp_events_open(a->loop, &err);
    if (!s)
        s = sp_report_dir_open(a->output, a->loop, &a->dir, &err);
    if (s)
        return sp_cli_fail_error("analyze", &err);
    int code = video_open(a);
    if (code)
        return code;
    s = start(a, &err);
    if (!s) {
        sp_analyze_progress_begin(&a->progress, a->quiet || a->json);
        s = sp_loop_run(a->loop, &err);
    }
    return s ? sp_cli_fail_error("analyze", &err) : finish(a);
}

static const char notes[] =
    "In the directory: report.json (what is in the video; the same bytes whoever computed it), run.json\n"
    "(time, cost, devices, attempts), frames.csv, frames.npz, key/*.png, report.html.\n"
    "A run that was stopped or killed goes on where it was when the same command is given again.\n"
    "Parameters of --set and what is measured: docs/video.md.\n";

int sp_command_analyze(int argc, char **argv)
{
    static analyze a = { .output = "report", .video_fd = -1, .report_fd = -1, .signals.fd = -1 };
    const sp_option options[] = {
        { .name = "output", .letter = 'o', .kind = SP_OPTION_TEXT, .value = "DIR", .target = &a.output,
          .help = "where the report goes (default report)" },
        { .name = "link", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &a.link, .help = "this device alone: cpu0, cuda0" },
        { .name = "chunks", .kind = SP_OPTION_INT, .value = "N", .target = &a.chunks, .least = 1, .most = SP_LIMIT_ANALYSIS_CHUNKS,
          .help = "pieces that are handed out (default 10); the report does not depend on it" },
        { .name = "workers", .kind = SP_OPTION_TEXT, .value = "LIST", .target = &a.workers,
          .help = "worker processes (default codec0,cpu0)" },
        { .name = "threads", .kind = SP_OPTION_INT, .value = "N", .target = &a.threads, .most = 1024,
          .help = "of each CPU worker (default 0: all that this machine grants)" },
        { .name = "overlay", .kind = SP_OPTION_FLAG, .target = &a.overlay, .help = "also make overlay.mp4: flow and edges over the film" },
        { .name = "set", .kind = SP_OPTION_LIST, .value = "NAME=VALUE", .target = a.sets,
          .help = "a parameter of the analysis: canny_low=20; may be given again" },
        { .name = "preset", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &a.preset,
          .help = "which devices when: gpu-for-all, by-tier, by-load, cpu-only,\ncost-first, latency-first" },
        { .name = "tier", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &a.tier, .help = "what conditions on the tier see (premium, free, ...)" },
        { .name = "config", .kind = SP_OPTION_TEXT, .value = "FILE", .target = &a.config_path,
          .help = "a spillway.yaml: workers, chains.analyze, rates" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &a.json, .help = "print run.json instead of the last lines" },
        { .name = "quiet", .letter = 'q', .kind = SP_OPTION_FLAG, .target = &a.quiet, .help = "no progress, no last lines" },
    };
    const sp_usage usage = {
        .command = "analyze", .arguments = "VIDEO",
        .summary = "Analyses every frame of a video: motion, edges, regions, scenes, defects. VIDEO - is standard input.\n"
                   "Worker processes do it in chunks; one that dies costs nothing, and the report is the same bytes on\n"
                   "every device.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .least_arguments = 1, .most_arguments = 1,
        .examples = "  spillway analyze film.mp4 -o report/\n"
                    "  spillway analyze film.mp4 --workers codec0,cuda0,cpu0 --chunks 20\n"
                    "  spillway analyze film.mp4 --set canny_low=20 --set winsize=21 --overlay\n"
                    "  curl -s https://example.org/film.mp4 | spillway analyze - -o report/\n",
        .notes = notes,
    };
    int count, code;

    if (!sp_options_parse(&usage, argc, argv, &count, &code))
        return code;
    a.video = argv[0];
    if (is_url(a.video))
        return sp_cli_fail(SP_EXIT_USAGE, "analyze", "VIDEO is a file here; pipe it in (curl -sL '%.200s' | spillway analyze -), or ask a server\n"
                           "(POST /v1/videos/analyses with video_url)", a.video);
    if ((code = params_read(&a)) || (code = config_read(&a)))
        return code;
    /* What is taken over is told at the end; a log on the terminal is for those who ask. Workers inherit the environment. */
    sp_log_level level = SP_LOG_ERROR;
    setenv("SPILLWAY_LOG_LEVEL", "error", 0);
    (void)sp_log_level_parse(getenv("SPILLWAY_LOG_LEVEL"), &level);
    sp_log_open("analyze", level);
    share_processors(&a);
    code = run(&a);
    stop(&a);
    return code;
}
