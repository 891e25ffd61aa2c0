/* SPDX-License-Identifier: Apache-2.0
 * See config.h: the calls around the document (document.h). What a configuration means stands in complete.c and check.c. */
#include "model/config.h"

#include "model/config_form.h"

#include <stdlib.h>
#include <string.h>

void sp_model_config_init(sp_model_config *config)
{
    memset(config, 0, sizeof(*config));
    config->max_batch_size = -1;
    config->latest_count = 1;
    config->graph_level = 99;
}

void sp_model_config_done(sp_model_config *config)
{
    for (int i = 0; i < config->step_count; i++) {
        free(config->steps[i].inputs);
        free(config->steps[i].outputs);
    }
    free(config->kept);
    sp_model_config_init(config);
}

static sp_status filled(const char *what, sp_status status, const json_t *document, sp_model_config *ret_config, sp_error *reterr)
{
    sp_model_config_init(ret_config);
    if (!status)
        status = sp_config_fill(ret_config, what, document, reterr);
    if (status)
        sp_model_config_done(ret_config);
    return status;
}

sp_status sp_model_config_parse(const char *file, sp_view text, sp_model_config *ret_config, sp_error *reterr)
{
    SP_CLEANUP(sp_json_unrefp) json_t *document = NULL;
    sp_status status = sp_document_of_text(file, text, &document, reterr);

    return filled(file, status, document, ret_config, reterr);
}

sp_status sp_model_config_read(const char *what, sp_view json, sp_model_config *ret_config, sp_error *reterr)
{
    SP_CLEANUP(sp_json_unrefp) json_t *document = NULL;
    sp_status status = sp_document_of_json(what, json, &document, reterr);

    return filled(what, status, document, ret_config, reterr);
}

sp_status sp_config_of_object(const char *what, const json_t *object, sp_model_config *ret_config, sp_error *reterr)
{
    SP_CLEANUP(sp_json_unrefp) json_t *document = NULL;
    sp_status status = sp_document_of_object(what, object, &document, reterr);

    return filled(what, status, document, ret_config, reterr);
}

static int append_chunk(const char *chunk, size_t bytes, void *context)
{
    sp_buf_append(context, chunk, bytes);
    return 0;
}

void sp_model_config_write(const sp_model_config *config, sp_buf *out)
{
    SP_CLEANUP(sp_json_unrefp) json_t *document = sp_config_document(config);
    SP_CLEANUP(sp_json_unrefp) json_t *kept = config->kept ? json_loads(config->kept, 0, NULL) : NULL;
    SP_CLEANUP(sp_json_unrefp) json_t *all = NULL;

    if (document && (!kept || sp_document_merge(document, kept)))
        all = sp_document_spread(&sp_schema_model_config, document);
    if (!all || (config->kept && !kept) || json_dump_callback(all, append_chunk, out, JSON_COMPACT | JSON_REAL_PRECISION(17)))
        out->failed = true;
}
