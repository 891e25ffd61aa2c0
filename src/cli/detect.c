/* SPDX-License-Identifier: Apache-2.0
 * `spillway detect FILE...`: the task in this process. Says what is where, and with --output draws it. Nothing falls back
 * here; a file that cannot be read is reported and the next one is taken. */
#include "cli/cli.h"
#include "task/draw.h"
#include "cli/progress.h"

#include "base/clock.h"
#include "base/limits.h"
#include "media/load.h"
#include "task/detect.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUALITY 90

typedef struct detect {
    const sp_media_api *media;
    sp_model *model;
    sp_detector *detector;
    sp_detect_params params;
    const char *repository, *name, *provider, *output, *threshold, *iou;
    int64_t top_k, threads;
    bool json;
    sp_detect_box boxes[SP_LIMIT_DETECT_BOXES];
    int box_count;
    sp_image_info info;
    int64_t decode_ns, total_ns;
    sp_detect_timing timing;
} detect;

static sp_status decode_file(detect *d, const char *path, uint8_t **ret_rgb, sp_error *reterr)
{
    const sp_image_options options = { 0 };
    uint8_t *data = NULL, *rgb = NULL;
    size_t size_bytes = 0;
    sp_status s = sp_read_picture(path, &data, &size_bytes, reterr);

    if (s)
        return s;
    sp_view file = sp_view_make(data, size_bytes);
    s = d->media->image_probe(file, &options, &d->info, reterr);
    if (!s) {
        rgb = malloc(d->info.rgb_bytes);
        s = rgb ? d->media->image_decode(file, &options, &d->info, rgb, d->info.rgb_bytes, reterr)
                : SP_FAIL(reterr, SP_NOMEM, "no memory for %zu bytes of pixels", d->info.rgb_bytes);
    }
    free(data);
    if (s)
        free(rgb);
    else
        *ret_rgb = rgb;
    return s;
}

static void draw_all(const detect *d, uint8_t *rgb)
{
    const sp_canvas canvas = { rgb, d->info.width, d->info.height };
    int scale = SP_MAX((SP_MIN(canvas.w, canvas.h) + 150) / 300, 1);

    for (int i = d->box_count - 1; i >= 0; i--) { /* the best one last, on top */
        const sp_detect_box *box = &d->boxes[i];
        uint8_t colour[3];
        char text[SP_LIMIT_LABEL_BYTES + 16];
        const char *label = sp_model_label(d->model, box->class_id);
        int percent = (int)(100 * box->score + 0.5f);
        if (*label)
            snprintf(text, sizeof(text), "%s %d%%", label, percent);
        else
            snprintf(text, sizeof(text), "class %u %d%%", box->class_id, percent);
        sp_draw_colour(box->class_id, colour);
        sp_draw_box(&canvas, (int)box->x0, (int)box->y0, (int)(box->x1 + 0.5f), (int)(box->y1 + 0.5f), scale + 1, colour);
        sp_draw_label(&canvas, (int)box->x0, (int)box->y0, scale, text, colour);
    }
}

/* Beside its place first, so that a half-written picture never stands there. */
static sp_status write_file(const char *path, const uint8_t *data, size_t size_bytes, sp_error *reterr)
{
    char *part = NULL;

    if (!strcmp(path, "-"))
        return fwrite(data, 1, size_bytes, stdout) == size_bytes && !fflush(stdout)
                   ? SP_OK
                   : SP_FAIL_ERRNO(reterr, SP_INVALID, "cannot write the picture");
    if (asprintf(&part, "%s.part", path) < 0)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a name");
    FILE *file = fopen(part, "we");
    bool fine = file && fwrite(data, 1, size_bytes, file) == size_bytes;
    if (file && fclose(file) != 0)
        fine = false;
    if (fine && rename(part, path) != 0)
        fine = false;
    sp_status s = fine ? SP_OK : SP_FAIL_ERRNO(reterr, SP_INVALID, "cannot write %s", path);
    if (!fine && file)
        (void)unlink(part); /* the reason for the failure has been told */
    free(part);
    return s;
}

static sp_status draw_file(const detect *d, uint8_t *rgb, sp_error *reterr)
{
    uint8_t *jpeg = NULL;
    size_t size_bytes = 0;

    draw_all(d, rgb);
    sp_status s = d->media->image_encode_jpeg(rgb, d->info.width, d->info.height, QUALITY, &jpeg, &size_bytes, reterr);
    if (!s)
        s = write_file(d->output, jpeg, size_bytes, reterr);
    free(jpeg);
    return s;
}

static sp_status detect_file(detect *d, const char *path, sp_error *reterr)
{
    int64_t begun_ns = sp_clock_now_ns();
    uint8_t *rgb = NULL;
    sp_status s = decode_file(d, path, &rgb, reterr);

    d->decode_ns = sp_clock_now_ns() - begun_ns;
    if (!s)
        s = sp_detect_run(d->detector, rgb, d->info.width, d->info.height, &d->params, d->boxes, &d->box_count, &d->timing,
                          reterr);
    d->total_ns = sp_clock_now_ns() - begun_ns;
    if (!s && d->output)
        s = draw_file(d, rgb, reterr);
    free(rgb);
    return s;
}

static double ms(int64_t ns)
{
    return (double)ns / 1e6;
}

static void print_table(const detect *d, const char *path)
{
    printf("%s (%d x %d)\n", path, d->info.width, d->info.height);
    for (int i = 0; i < d->box_count; i++) {
        const sp_detect_box *box = &d->boxes[i];
        const char *label = sp_model_label(d->model, box->class_id);
        printf("  %5.1f %%  %-16s (%u)  %6.1f %6.1f  %6.1f %6.1f\n", 100.0 * (double)box->score, *label ? label : "class",
               box->class_id, (double)box->x0, (double)box->y0, (double)box->x1, (double)box->y1);
    }
    if (!d->box_count)
        printf("  nothing over %.0f %%\n",
               100.0 * (double)(d->params.threshold < 0 ? d->model->detect.threshold : d->params.threshold));
    printf("  %.1f ms on %s: decode %.1f, preprocess %.1f, inference %.1f, postprocess %.1f\n", ms(d->total_ns),
           d->provider ? d->provider : "cpu", ms(d->decode_ns), ms(d->timing.preprocess_ns), ms(d->timing.inference_ns),
           ms(d->timing.postprocess_ns));
}

static void print_json(json_t *root)
{
    json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(root);
}

/* The keys are those of the server's answer. */
static void print_answer_json(const detect *d, const char *path)
{
    json_t *detections = json_array();

    for (int i = 0; i < d->box_count; i++) {
        const sp_detect_box *box = &d->boxes[i];
        json_array_append_new(detections,
                              json_pack("{s:i, s:s, s:f, s:[f,f,f,f]}", "class_id", (int)box->class_id, "label",
                                        sp_model_label(d->model, box->class_id), "score", (double)box->score, "box",
                                        (double)box->x0, (double)box->y0, (double)box->x1, (double)box->y1));
    }
    print_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:o, s:{s:f, s:f, s:f, s:f, s:f}}", "file", path, "model",
                         d->model->name, "version", d->model->version, "provider", d->provider ? d->provider : "cpu",
                         "precision", d->model->precision, "width", d->info.width, "height", d->info.height, "detections",
                         detections, "latency_ms", "decode", ms(d->decode_ns), "preprocess", ms(d->timing.preprocess_ns),
                         "inference", ms(d->timing.inference_ns), "postprocess", ms(d->timing.postprocess_ns), "total",
                         ms(d->total_ns)));
}

static int detect_files(detect *d, char **paths, int path_count)
{
    sp_progress progress;
    bool quiet = d->output && !strcmp(d->output, "-"); /* standard output is the picture's */
    int code = SP_EXIT_OK;

    sp_progress_begin(&progress, "detect", SP_PROGRESS_FILES);
    for (int i = 0; i < path_count; i++) {
        sp_error err = { 0 };
        if (path_count > 1)
            sp_progress_update(&progress, (uint64_t)i, (uint64_t)path_count);
        sp_status status = detect_file(d, paths[i], &err);
        if (isatty(STDOUT_FILENO) == 1 || status)
            sp_progress_end(&progress);
        if (status)
            code = sp_cli_fail(SP_EXIT_FAILED, "detect", "%s: %s", paths[i], err.message);
        if (d->json && status)
            print_json(json_pack("{s:s, s:s, s:s, s:s}", "file", paths[i], "status", sp_status_name(status), "code", err.code,
                                 "error", err.message));
        else if (d->json)
            print_answer_json(d, paths[i]);
        else if (!status && !quiet)
            print_table(d, paths[i]);
        if (ferror(stdout)) {
            code = sp_cli_fail(SP_EXIT_FAILED, "detect", "cannot write the answers: %s", strerror(errno));
            break;
        }
    }
    sp_progress_end(&progress);
    return code;
}

static int open_model(detect *d)
{
    sp_detect_options options = sp_detect_options_default();
    const sp_engine *engine = NULL;
    sp_error err = { 0 };

    if (d->provider)
        options.provider = d->provider;
    if (d->threads)
        options.threads = (int)d->threads;
    sp_status s = sp_model_find(sp_model_repository_find(d->repository), d->name, &d->model, &err);
    if (!s)
        s = sp_media_load(&d->media, &err);
    if (!s)
        s = sp_engine_open(sp_engine_name_at(0), &engine, &err);
    if (!s)
        s = sp_detect_open(engine, d->model, &options, &d->detector, &err);
    return s ? sp_cli_fail_error("detect", &err) : SP_EXIT_OK;
}

/* A share from 0 to 1; absent: the model's own (negative). */
static bool read_share(const char *text, const char *name, float *ret_share, int *ret_code)
{
    char *end = NULL;
    double number = text ? strtod(text, &end) : -1;

    *ret_share = (float)number;
    if (!text || (end != text && !*end && number >= 0 && number <= 1))
        return true;
    *ret_code = sp_cli_fail(SP_EXIT_USAGE, "detect", "--%s takes a number from 0 to 1, not '%s'", name, text);
    return false;
}

int sp_command_detect(int argc, char **argv)
{
    detect *d = calloc(1, sizeof(*d));
    if (!d)
        return sp_cli_fail(SP_EXIT_FAILED, "detect", "no memory");
    const sp_option options[] = {
        { .name = "output", .letter = 'o', .kind = SP_OPTION_TEXT, .value = "FILE", .target = &d->output,
          .help = "the picture with boxes and labels drawn into it, as JPEG;\n- is standard output. For one FILE" },
        { .name = "threshold", .letter = 't', .kind = SP_OPTION_TEXT, .value = "SHARE", .target = &d->threshold,
          .help = "tell boxes of a higher score, 0 to 1 (default: the model's)" },
        { .name = "iou", .kind = SP_OPTION_TEXT, .value = "SHARE", .target = &d->iou,
          .help = "boxes that overlap a better one by more are left out (default: the model's)" },
        { .name = "top-k", .letter = 'k', .kind = SP_OPTION_INT, .value = "N", .target = &d->top_k, .most = SP_LIMIT_DETECT_BOXES,
          .help = "how many boxes to tell at most (default 0: as the model says)" },
        { .name = "model", .letter = 'm', .kind = SP_OPTION_TEXT, .value = "NAME", .target = &d->name,
          .help = "which model (default: the repository's only or first)" },
        { .name = "model-repository", .kind = SP_OPTION_TEXT, .value = "DIR", .target = &d->repository,
          .help = "where models are (default: $SPILLWAY_MODELS, else var/models of the\n"
                  "source tree, else /var/lib/spillway/models)" },
        { .name = "provider", .kind = SP_OPTION_TEXT, .value = "NAME", .target = &d->provider,
          .help = "cpu, cuda or tensorrt (default cpu);\n`spillway doctor` says which are here" },
        { .name = "threads", .kind = SP_OPTION_INT, .value = "N", .target = &d->threads, .most = 1024,
          .help = "that compute one picture (default 0: all that this machine grants)" },
        { .name = "json", .kind = SP_OPTION_FLAG, .target = &d->json, .help = "one JSON object per file, one per line" },
    };
    const sp_usage usage = {
        .command = "detect", .arguments = "FILE...",
        .summary = "Finds things in pictures, in this process, without a server. FILE - is standard input. Boxes are corners\n"
                   "in pixels of the picture as it is shown. The model's spillway.json says \"task\": \"detect\".\n"
                   "A file that cannot be read is reported, the others are still done, and the exit code is 1.",
        .options = options, .option_count = SP_ARRAY_LEN(options), .least_arguments = 1, .most_arguments = -1,
        .examples = "  spillway detect -m yolox-nano street.jpg -o boxed.jpg\n"
                    "  spillway detect -m yolox-nano --json *.jpg | jq -r '.detections[].label'\n",
    };
    int count, code = SP_EXIT_OK;

    if (!sp_options_parse(&usage, argc, argv, &count, &code)) {
        free(d);
        return code;
    }
    d->params.top_k = (int)d->top_k;
    if (d->output && count > 1)
        code = sp_cli_fail(SP_EXIT_USAGE, "detect", "--output is for one FILE, %d were given", count);
    else if (d->output && d->json && !strcmp(d->output, "-"))
        code = sp_cli_fail(SP_EXIT_USAGE, "detect", "--json and the picture cannot both go to standard output");
    else if (read_share(d->threshold, "threshold", &d->params.threshold, &code) &&
             read_share(d->iou, "iou", &d->params.iou, &code))
        code = open_model(d);
    if (code == SP_EXIT_OK)
        code = detect_files(d, argv, count);
    sp_detect_close(d->detector);
    sp_model_free(d->model);
    free(d);
    return code;
}
