/* SPDX-License-Identifier: Apache-2.0
 * Cards and load specifications as JSON documents between processes. What the other side wrote is checked while it is read. */
#include "model/card.h"

#include "model/config_form.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOCUMENT_BYTES (8u * SP_LIMIT_MODEL_CONFIG_BYTES) /* a configuration with its defaults spread out, and paths */

void sp_model_card_free(sp_model_card *card)
{
    if (!card)
        return;
    sp_model_config_done(&card->config);
    free(card);
}

void sp_load_spec_free(sp_load_spec *spec)
{
    if (!spec)
        return;
    sp_model_config_done(&spec->config);
    free(spec);
}

/* --- writing ---------------------------------------------------------------------------------------------------------------- */

static void write_text(sp_buf *out, const char *name, const char *text)
{
    sp_buf_printf(out, "\"%s\":", name);
    sp_buf_append_json_text(out, text);
    sp_buf_append_text(out, ",");
}

void sp_model_card_write(const sp_model_card *card, sp_buf *out)
{
    sp_buf_append_text(out, "{");
    write_text(out, "directory", card->directory);
    sp_buf_append_text(out, "\"versions\":[");
    for (int i = 0; i < card->version_count; i++) {
        const sp_card_version *version = &card->versions[i];
        sp_buf_printf(out, "%s{", i ? "," : "");
        write_text(out, "path", version->path);
        write_text(out, "digest", version->digest);
        sp_buf_printf(out, "\"number\":%" PRId64 ",\"bytes\":%" PRIu64 "}", version->number, version->bytes);
    }
    sp_buf_append_text(out, "],\"label_counts\":[");
    for (int i = 0; i < card->config.output_count; i++)
        sp_buf_printf(out, "%s%d", i ? "," : "", card->label_counts[i]);
    sp_buf_append_text(out, "],\"config\":");
    sp_model_config_write(&card->config, out);
    sp_buf_append_text(out, "}");
}

void sp_load_spec_write(const sp_load_spec *spec, sp_buf *out)
{
    sp_buf_printf(out, "{\"id\":%u,\"version\":%" PRId64 ",", spec->id, spec->version);
    write_text(out, "directory", spec->directory);
    write_text(out, "path", spec->path);
    write_text(out, "digest", spec->digest);
    sp_buf_append_text(out, "\"step_models\":[");
    for (int i = 0; i < spec->config.step_count; i++)
        sp_buf_printf(out, "%s%u", i ? "," : "", spec->step_models[i]);
    sp_buf_append_text(out, "],\"config\":");
    sp_model_config_write(&spec->config, out);
    sp_buf_append_text(out, "}");
}

/* --- reading ---------------------------------------------------------------------------------------------------------------- */

/* False: it is no text, or longer than its place. */
static bool read_text(const json_t *object, const char *name, char *ret_text, size_t bytes)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text && (size_t)snprintf(ret_text, bytes, "%s", text) < bytes;
}

static bool read_count(const json_t *value, int64_t least, int64_t most, int64_t *ret_count)
{
    *ret_count = json_integer_value(value);
    return json_is_integer(value) && *ret_count >= least && *ret_count <= most;
}

static bool read_version(const json_t *from, sp_card_version *version)
{
    int64_t bytes;
    bool ok = read_text(from, "path", version->path, sizeof(version->path)) &&
              read_text(from, "digest", version->digest, sizeof(version->digest)) &&
              read_count(json_object_get(from, "number"), 0, INT64_MAX, &version->number) &&
              read_count(json_object_get(from, "bytes"), 0, INT64_MAX, &bytes);
    version->bytes = ok ? (uint64_t)bytes : 0;
    return ok;
}

static bool read_versions(const json_t *list, sp_model_card *card)
{
    size_t i;
    json_t *value;

    if (!json_is_array(list) || json_array_size(list) > SP_LIMIT_SERVED_VERSIONS)
        return false;
    json_array_foreach((json_t *)list, i, value) {
        if (!read_version(value, &card->versions[card->version_count++]))
            return false;
    }
    return true;
}

static json_t *load(sp_view json, sp_error *reterr)
{
    json_t *root = json.size_bytes <= DOCUMENT_BYTES ? json_loadb((const char *)json.data, json.size_bytes, 0, NULL) : NULL;

    if (!root)
        (void)SP_FAIL(reterr, SP_CORRUPT, "a model's document is no JSON");
    return root;
}

sp_status sp_model_card_read(sp_view json, sp_model_card **ret_card, sp_error *reterr)
{
    SP_CLEANUP(sp_json_unrefp) json_t *root = load(json, reterr);
    SP_CLEANUP(sp_model_card_freep) sp_model_card *card = root ? calloc(1, sizeof(*card)) : NULL;
    int64_t count;

    if (!root)
        return SP_CORRUPT;
    if (!card)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a model's card");
    sp_status status = sp_config_of_object("card", json_object_get(root, "config"), &card->config, reterr);
    if (status)
        return status;
    const json_t *labels = json_object_get(root, "label_counts");
    bool ok = read_text(root, "directory", card->directory, sizeof(card->directory)) &&
              read_versions(json_object_get(root, "versions"), card);
    for (int i = 0; ok && i < card->config.output_count; i++) {
        ok = read_count(json_array_get(labels, (size_t)i), 0, INT32_MAX, &count);
        card->label_counts[i] = (int32_t)count;
    }
    if (!ok)
        return SP_FAIL(reterr, SP_CORRUPT, "a model's card is not whole");
    *ret_card = SP_STEAL(card);
    return SP_OK;
}

sp_status sp_load_spec_read(sp_view json, sp_load_spec **ret_spec, sp_error *reterr)
{
    SP_CLEANUP(sp_json_unrefp) json_t *root = load(json, reterr);
    SP_CLEANUP(sp_load_spec_freep) sp_load_spec *spec = root ? calloc(1, sizeof(*spec)) : NULL;
    int64_t id = 0, step = 0;

    if (!root)
        return SP_CORRUPT;
    if (!spec)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a load specification");
    sp_status status = sp_config_of_object("load", json_object_get(root, "config"), &spec->config, reterr);
    if (status)
        return status;
    bool ok = read_text(root, "directory", spec->directory, sizeof(spec->directory)) &&
              read_text(root, "path", spec->path, sizeof(spec->path)) &&
              read_text(root, "digest", spec->digest, sizeof(spec->digest)) &&
              read_count(json_object_get(root, "id"), 0, UINT32_MAX, &id) &&
              read_count(json_object_get(root, "version"), 0, INT64_MAX, &spec->version);
    spec->id = (uint32_t)id;
    for (int i = 0; ok && i < spec->config.step_count; i++) {
        ok = read_count(json_array_get(json_object_get(root, "step_models"), (size_t)i), 0, UINT32_MAX, &step);
        spec->step_models[i] = (uint32_t)step;
    }
    if (!ok)
        return SP_FAIL(reterr, SP_CORRUPT, "a load specification is not whole");
    *ret_spec = SP_STEAL(spec);
    return SP_OK;
}
