/* SPDX-License-Identifier: Apache-2.0
 * What tests/task/test_classify.py drives: classifies pictures in-process and prints all that the task saw.
 *
 *   classify_tool REPOSITORY MODEL BATCH FILE...
 *
 * One JSON object a line: first the model, then one per file, with its tensor left in FILE's place of the directory
 * SPILLWAY_TENSORS (tensor-<n>.bin). BATCH > 1 runs that many files together. Exit status 1 = a failure, told as JSON. */
#include "base/buf.h"
#include "media/load.h"
#include "task/classify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what, const sp_error *err)
{
    sp_buf out;
    sp_buf_init(&out, SP_LIMIT_JSON_BYTES);
    sp_buf_printf(&out, "{\"failed\":");
    sp_buf_append_json_text(&out, what);
    sp_buf_printf(&out, ",\"status\":\"%s\",\"message\":", sp_status_name(err->status));
    sp_buf_append_json_text(&out, err->message);
    sp_buf_append_text(&out, "}");
    (void)printf("%.*s\n", (int)out.size_bytes, (const char *)out.data);
    sp_buf_done(&out);
    return 1;
}

static void *read_all(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rbe");
    char *bytes = malloc(SP_LIMIT_IMAGE_BODY_BYTES);
    *ret_size = file && bytes ? fread(bytes, 1, SP_LIMIT_IMAGE_BODY_BYTES, file) : 0;
    if (file)
        (void)fclose(file); /* only read from */
    return bytes;
}

static sp_status decode(const sp_media_api *media, const char *path, uint8_t **ret_rgb, sp_image_info *info,
                        sp_error *err)
{
    sp_image_options options = { 0 };
    size_t size = 0;
    void *bytes = read_all(path, &size);
    sp_view file = sp_view_make(bytes, size);
    *ret_rgb = NULL;
    sp_status s = media->image_probe(file, &options, info, err);
    if (!s) {
        *ret_rgb = malloc(info->rgb_bytes);
        s = *ret_rgb ? media->image_decode(file, &options, info, *ret_rgb, info->rgb_bytes, err)
                     : SP_FAIL(err, SP_NOMEM, "no memory");
    }
    free(bytes);
    return s;
}

static void keep_tensor(const void *tensor, size_t size, int number)
{
    const char *directory = getenv("SPILLWAY_TENSORS");
    char path[512];
    if (!directory)
        return;
    (void)snprintf(path, sizeof(path), "%s/tensor-%d.bin", directory, number);
    FILE *file = fopen(path, "wbe");
    if (!file || fwrite(tensor, 1, size, file) != size || fclose(file) != 0)
        abort(); /* a test without its evidence is no test */
}

static void print_answer(const sp_classifier *c, int batch, const sp_class_score *scores, int count)
{
    (void)printf("{\"batch\":%d,\"predictions\":[", batch);
    for (int i = 0; i < count; i++) {
        sp_buf label;
        sp_buf_init(&label, 4096);
        sp_buf_append_json_text(&label, sp_model_label(sp_classify_model(c), scores[i].class_id));
        (void)printf("%s{\"class_id\":%u,\"probability\":%.9g,\"label\":%.*s}", i ? "," : "", scores[i].class_id,
                     (double)scores[i].probability, (int)label.size_bytes, (const char *)label.data);
        sp_buf_done(&label);
    }
    (void)printf("]}\n");
}

static int classify_some(sp_classifier *c, const sp_media_api *media, char **files, int count, int first)
{
    sp_error err = { 0 };
    for (int i = 0; i < count; i++) {
        sp_image_info info;
        uint8_t *rgb = NULL;
        sp_status s = decode(media, files[i], &rgb, &info, &err);
        if (!s)
            s = sp_classify_prepare(c, 0, i, rgb, info.width, info.height, &err);
        free(rgb);
        if (s)
            return fail(files[i], &err);
        keep_tensor(sp_classify_input(c, 0, i), sp_classify_tensor_bytes(c), first + i);
    }
    if (sp_classify_run(c, 0, NULL, count, &err))
        return fail("run", &err);
    for (int i = 0; i < count; i++) {
        sp_class_score scores[SP_LIMIT_TOP_K];
        int scored = 0;
        if (sp_classify_answer(c, 0, i, 5, scores, &scored, &err))
            return fail(files[i], &err);
        print_answer(c, count, scores, scored);
    }
    return 0;
}

int main(int argc, char **argv)
{
    sp_error err = { 0 };
    const sp_media_api *media = NULL;
    const sp_engine *engine = NULL;
    SP_CLEANUP(sp_model_freep) sp_model *model = NULL;
    SP_CLEANUP(sp_classify_closep) sp_classifier *c = NULL;
    if (argc < 4)
        return 2;
    sp_classify_options options = sp_classify_options_default();
    options.max_batch = (int)strtol(argv[3], NULL, 10);
    sp_status s = sp_media_load(&media, &err);
    if (!s)
        s = sp_engine_open("onnxruntime", &engine, &err);
    if (!s)
        s = sp_model_find(argv[1], argv[2], &model, &err);
    if (!s)
        s = sp_classify_open(engine, model, &options, &c, &err);
    if (s)
        return fail("open", &err);
    (void)printf("{\"model\":\"%s\",\"digest\":\"%s\",\"precision\":\"%s\",\"classes\":%u,\"max_batch\":%d,"
                 "\"probabilities\":%s,\"prep\":[%d,%d,%d,%d,%d,%d,%d]}\n",
                 model->name, model->digest, model->precision, model->class_count, sp_classify_max_batch(c),
                 model->meaning == SP_OUTPUT_PROBABILITIES ? "true" : "false", model->prep.filter, model->prep.fit,
                 model->prep.dtype, model->prep.resize_w, model->prep.resize_h, model->prep.crop_w, model->prep.crop_h);
    int step = sp_classify_max_batch(c), failed = 0;
    for (int at = 4; at < argc && !failed; at += step)
        failed = classify_some(c, media, argv + at, SP_MIN(step, argc - at), at - 4);
    return failed;
}
