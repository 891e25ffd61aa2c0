/* SPDX-License-Identifier: Apache-2.0
 * What tests/engine/test_conformance.py drives: runs models through the engine ABI, one case a line on stdin:
 *
 *   MODEL OUTPUT_PREFIX [DTYPE:DIM,DIM,...:FILE]...
 *
 * Outputs are left to the engine and written to <prefix>-<n>.bin. One line a case on stdout: "ok DTYPE:DIMS ..." or
 * "<status> <message>". */
#include "base/limits.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENSORS 32

static void *read_all(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rbe");
    char *bytes = malloc(16u << 20);
    *ret_size = file && bytes ? fread(bytes, 1, 16u << 20, file) : 0;
    if (file)
        (void)fclose(file); /* only read from */
    return bytes;
}

/* "1:2,3:path"; the dims are empty for a scalar. */
static bool parse_input(char *text, sp_engine_tensor *t)
{
    char *at = NULL;
    t->dtype = (int32_t)strtol(text, &at, 10);
    if (*at++ != ':')
        return false;
    while (*at != ':') {
        t->dims[t->rank++] = strtoll(at, &at, 10);
        if (t->rank > SP_ENGINE_MAX_RANK || (*at != ',' && *at != ':'))
            return false;
        at += *at == ',';
    }
    size_t size = 0;
    t->data = read_all(at + 1, &size);
    t->size_bytes = size;
    return t->data != NULL;
}

static void write_output(const sp_engine_tensor *t, const char *prefix, int index)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s-%d.bin", prefix, index);
    FILE *file = fopen(path, "wbe");
    size_t size = t->size_bytes; /* an empty tensor may have no data */
    if (!file || (size && fwrite(t->data, 1, size, file) != size) || fclose(file) != 0)
        abort(); /* a test without its evidence is no test */
    (void)printf(" %d:", t->dtype);
    for (int i = 0; i < t->rank; i++)
        (void)printf("%s%lld", i ? "," : "", (long long)t->dims[i]);
}

static sp_status run_case(const sp_engine *engine, const char *path, const char *prefix, sp_engine_tensor *inputs,
                          int count, sp_error *err)
{
    sp_session_options options = sp_session_options_default(path);
    SP_CLEANUP(sp_session_freep) sp_session *session = NULL;
    sp_engine_tensor outputs[SP_LIMIT_MODEL_IO] = { 0 };
    sp_status s = sp_session_open(engine, &options, &session, err);
    if (s)
        return s;
    const sp_engine_ports *ports = sp_session_ports(session);
    for (int i = 0; i < ports->output_count; i++)
        outputs[i].dtype = ports->outputs[i].dtype;
    s = sp_session_run(session, 0, inputs, count, outputs, ports->output_count, err);
    if (s)
        return s;
    (void)printf("ok");
    for (int i = 0; i < ports->output_count; i++)
        write_output(&outputs[i], prefix, i);
    (void)printf("\n");
    return SP_OK;
}

int main(void)
{
    static char line[16384];
    sp_error err = { 0 };
    const sp_engine *engine = NULL;
    if (sp_engine_open("onnxruntime", &engine, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 3;
    }
    while (fgets(line, sizeof(line), stdin)) {
        char *save = NULL, *path = strtok_r(line, " \n", &save), *prefix = strtok_r(NULL, " \n", &save), *word;
        sp_engine_tensor inputs[TENSORS] = { 0 };
        int count = 0;
        sp_status s = path && prefix ? SP_OK : SP_FAIL(&err, SP_INVALID, "a case needs a model and a prefix");
        while (!s && count < TENSORS && (word = strtok_r(NULL, " \n", &save)))
            if (!parse_input(word, &inputs[count++]))
                s = SP_FAIL(&err, SP_INVALID, "cannot read %s", word);
        if (!s)
            s = run_case(engine, path, prefix, inputs, count, &err);
        if (s)
            (void)printf("%s %s\n", sp_status_name(s), err.message);
        (void)fflush(stdout);
        for (int i = 0; i < count; i++)
            free(inputs[i].data);
    }
    return 0;
}
