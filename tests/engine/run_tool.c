/* SPDX-License-Identifier: Apache-2.0
 * What the Python tests of this directory drive: runs models through the engine ABI, one case a line on stdin:
 *
 *   MODEL OUTPUT_PREFIX [DTYPE:DIM,DIM,...:FILE | -]... [!N]... [KEY=VALUE]...
 *
 * "-" is an input that is absent, "!N" leaves output N unwanted, KEY=VALUE is an engine's option; cancel=1 cancels the run
 * until it returns, rows=2+1 divides it into requests. A MODEL "." is the session of the case before. Outputs are left to the engine and written to <prefix>-<n>.bin. One line a case on stdout: "ok DTYPE:DIMS ... " ("-" for an unwanted one) or
 * "<status> <message>". The engine is the first argument, else onnxruntime. */
#include "base/limits.h"
#include "engine/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>

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

typedef struct tool_case {
    sp_engine_tensor inputs[TENSORS];
    bool unwanted[SP_LIMIT_MODEL_IO];
    sp_engine_option options[8];
    int input_count, option_count;
    bool cancel;
    int64_t rows[16];
    int request_count;
} tool_case;

/* "1:2,3:path"; the dims are empty for a scalar. */
static bool parse_input(char *text, sp_engine_tensor *t)
{
    char *at = NULL;
    if (strcmp(text, "-") == 0) {
        t->rank = SP_ENGINE_ABSENT;
        return true;
    }
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

static bool parse_word(char *word, tool_case *c)
{
    char *equals = strchr(word, '=');
    if (word[0] == '!') {
        long index = strtol(word + 1, NULL, 10);
        return index >= 0 && index < SP_LIMIT_MODEL_IO && (c->unwanted[index] = true);
    }
    if (strncmp(word, "rows=", 5) == 0) {
        for (char *at = word + 4; *at && c->request_count < 16;)
            c->rows[c->request_count++] = strtoll(at + 1, &at, 10);
        return true;
    }
    if (strcmp(word, "cancel=1") == 0)
        return c->cancel = true;
    if (equals) {
        *equals = 0;
        c->options[c->option_count] = (sp_engine_option){ .key = word, .value = equals + 1 };
        return ++c->option_count < 8;
    }
    return c->input_count < TENSORS && parse_input(word, &c->inputs[c->input_count++]);
}

static void write_output(const sp_engine_tensor *t, const char *prefix, int index)
{
    char path[512];
    if (t->rank == SP_ENGINE_ABSENT) {
        (void)printf(" -");
        return;
    }
    (void)snprintf(path, sizeof(path), "%s-%d.bin", prefix, index);
    FILE *file = fopen(path, "wbe");
    size_t size = t->size_bytes; /* an empty tensor may have no data */
    if (!file || (size && fwrite(t->data, 1, size, file) != size) || fclose(file) != 0)
        abort(); /* a test without its evidence is no test */
    (void)printf(" %d:", t->dtype);
    for (int i = 0; i < t->rank; i++)
        (void)printf("%s%lld", i ? "," : "", (long long)t->dims[i]);
}

static sp_session *session; /* of the case before */
static atomic_bool returned;

static void *cancel_until_it_returns(void *argument)
{
    while (!atomic_load(&returned)) {
        (void)poll(NULL, 0, 20);
        (void)sp_session_cancel(argument, 0);
    }
    return NULL;
}

static sp_status run_cancelled(const tool_case *c, sp_engine_tensor *outputs, int output_count, sp_error *err)
{
    pthread_t canceller;
    atomic_store(&returned, false);
    if (c->cancel && pthread_create(&canceller, NULL, cancel_until_it_returns, session) != 0)
        return SP_FAIL(err, SP_NOMEM, "no thread");
    if (c->request_count)
        sp_session_divide(session, 0, c->rows, c->request_count);
    sp_status s = sp_session_run(session, 0, c->inputs, c->input_count, outputs, output_count, err);
    atomic_store(&returned, true);
    if (c->cancel)
        (void)pthread_join(canceller, NULL);
    return s;
}

static sp_status run_case(const sp_engine *engine, const char *path, const char *prefix, const tool_case *c,
                          sp_error *err)
{
    sp_session_options options = sp_session_options_default(path);
    options.options = c->options;
    options.option_count = c->option_count;
    sp_engine_tensor outputs[SP_LIMIT_MODEL_IO] = { 0 };
    if (strcmp(path, ".") != 0) {
        sp_session_free(session);
        session = NULL;
        sp_status s = sp_session_open(engine, &options, &session, err);
        if (s)
            return s;
    }
    if (!session)
        return SP_FAIL(err, SP_INVALID, "no session");
    const sp_engine_ports *ports = sp_session_ports(session);
    for (int i = 0; i < ports->output_count; i++) {
        outputs[i].dtype = ports->outputs[i].dtype;
        outputs[i].rank = c->unwanted[i] ? SP_ENGINE_ABSENT : 0;
    }
    sp_status s = run_cancelled(c, outputs, ports->output_count, err);
    if (s)
        return s;
    (void)printf("ok");
    for (int i = 0; i < ports->output_count; i++)
        write_output(&outputs[i], prefix, i);
    (void)printf("\n");
    return SP_OK;
}

int main(int argc, char **argv)
{
    static char line[16384];
    sp_error err = { 0 };
    const sp_engine *engine = NULL;
    if (sp_engine_open(argc > 1 ? argv[1] : "onnxruntime", &engine, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 3;
    }
    while (fgets(line, sizeof(line), stdin)) {
        char *save = NULL, *path = strtok_r(line, " \n", &save), *prefix = strtok_r(NULL, " \n", &save), *word;
        tool_case c = { 0 };
        sp_status s = path && prefix ? SP_OK : SP_FAIL(&err, SP_INVALID, "a case needs a model and a prefix");
        while (!s && (word = strtok_r(NULL, " \n", &save)))
            if (!parse_word(word, &c))
                s = SP_FAIL(&err, SP_INVALID, "cannot read %s", word);
        if (!s)
            s = run_case(engine, path, prefix, &c, &err);
        if (s)
            (void)printf("%s %s\n", sp_status_name(s), err.message);
        (void)fflush(stdout);
        for (int i = 0; i < c.input_count; i++)
            free(c.inputs[i].data);
    }
    sp_session_free(session);
    return 0;
}
