/* SPDX-License-Identifier: Apache-2.0
 * See config.h. libcyaml checks the file against the schema below and reports through a log callback: its first error
 * line says what, its backtrace says where; both go into one message. */
#include "cli/config.h"

#include "base/limits.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What libcyaml said, cut to what a message needs. */
typedef struct complaint {
    char what[160];
    char where[80];
} complaint;

static const cyaml_schema_value_t worker_schema = { CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, 31) };

/* CYAML_FLAG_POINTER makes an absent key NULL, so presence needs no flags of its own. */
static const cyaml_schema_field_t fields[] = {
    CYAML_FIELD_INT_PTR("http_port", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, http_port),
    CYAML_FIELD_INT_PTR("grpc_port", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, grpc_port),
    CYAML_FIELD_INT_PTR("metrics_port", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, metrics_port),
    CYAML_FIELD_STRING_PTR("bind", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, bind, 1, 255),
    CYAML_FIELD_STRING_PTR("model_repository", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, model_repository, 1,
                           4095),
    CYAML_FIELD_STRING_PTR("model", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, model, 1, 63),
    CYAML_FIELD_SEQUENCE("workers", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, workers, &worker_schema, 1,
                         SP_LIMIT_WORKERS),
    CYAML_FIELD_BOOL_PTR("require_sandbox", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, require_sandbox),
    CYAML_FIELD_INT_PTR("drain_delay", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, drain_delay),
    CYAML_FIELD_STRING_PTR("log_level", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, log_level, 1, 15),
    CYAML_FIELD_INT_PTR("spin_us", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, spin_us),
    CYAML_FIELD_INT_PTR("link_timeout_ms", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, sp_config_file, link_timeout_ms),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t top_schema = { CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, sp_config_file, fields) };

static void fclosep(FILE **file)
{
    if (*file)
        (void)fclose(*file); /* it was only read */
}

static void on_log(cyaml_log_t level, void *context, const char *format, va_list args)
{
    complaint *said = context;
    char line[256];
    const char *text = line;

    if (level < CYAML_LOG_ERROR)
        return;
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    if (!strncmp(text, "Load: ", 6))
        text += 6;
    const char *place = strstr(text, "(line: ");
    if (place && !*said->where)
        snprintf(said->where, sizeof(said->where), "%.*s", (int)sizeof(said->where) - 1, place);
    else if (!place && !*said->what && !strstr(text, "Backtrace"))
        snprintf(said->what, sizeof(said->what), "%.*s", (int)sizeof(said->what) - 1, text);
}

static const cyaml_config_t *parser_config(complaint *said, cyaml_config_t *ret_config)
{
    *ret_config = (cyaml_config_t){
        .log_fn = on_log,
        .log_ctx = said,
        .log_level = CYAML_LOG_ERROR,
        .mem_fn = cyaml_mem,
        .flags = CYAML_CFG_NO_ALIAS, /* a few keys need none, and aliases can make a small file huge */
    };
    return ret_config;
}

/* libcyaml says of an unknown key where the value *before* it ended, so its line is looked for here. 0 = not found. */
static int line_of_key(const char *path, const char *key)
{
    SP_CLEANUP(fclosep) FILE *file = fopen(path, "re");
    char line[1024];

    for (int number = 1; file && fgets(line, sizeof(line), file); number++) {
        const char *start = line + strspn(line, " \t\"'{-");
        if (!strncmp(start, key, strlen(key)) && strchr(" \t:\"'", start[strlen(key)]))
            return number;
    }
    return 0;
}

static void place_unknown_key(complaint *said, const char *path)
{
    static const char prefix[] = "Unexpected key: ";
    int line = 0;

    if (!strncmp(said->what, prefix, sizeof(prefix) - 1))
        line = line_of_key(path, said->what + sizeof(prefix) - 1);
    if (line)
        snprintf(said->where, sizeof(said->where), "(line: %d)", line);
}

sp_status sp_config_file_load(const char *path, sp_config_file **ret_file, sp_error *reterr)
{
    complaint said = { 0 };
    cyaml_config_t config;
    sp_config_file *file = NULL;

    if (access(path, R_OK) != 0)
        return SP_FAIL(reterr, SP_NOT_FOUND, "cannot read the configuration file '%s': %s", path, strerror(errno));
    cyaml_err_t result = cyaml_load_file(path, parser_config(&said, &config), &top_schema, (cyaml_data_t **)&file, NULL);
    if (result != CYAML_OK) {
        place_unknown_key(&said, path);
        return SP_FAIL_FROM(reterr, SP_INVALID, "libcyaml", (int)result, "%s: %s%s%s", path,
                            *said.what ? said.what : cyaml_strerror(result), *said.where ? " " : "", said.where);
    }
    *ret_file = file;
    return SP_OK;
}

void sp_config_file_free(sp_config_file *file)
{
    complaint said = { 0 };
    cyaml_config_t config;

    if (file) /* it fails only on a NULL config or schema */
        (void)cyaml_free(parser_config(&said, &config), &top_schema, file, 0);
}
