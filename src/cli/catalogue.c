/* SPDX-License-Identifier: Apache-2.0
 * See catalogue.h. */
#include "cli/catalogue.h"

#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAMES_MAX 256

const char *sp_catalogue_text(const json_t *entry, const char *key)
{
    const char *text = json_string_value(json_object_get(entry, key));

    return text ? text : "";
}

static void find_file(const char *given, char *path, size_t path_bytes)
{
    const char *tree = sp_source_tree_find();
    const char *from_environment = getenv("SPILLWAY_CATALOGUE");

    if (given || (from_environment && *from_environment)) {
        snprintf(path, path_bytes, "%s", given ? given : from_environment);
        return;
    }
    snprintf(path, path_bytes, "%s/models/catalogue.json", tree);
    if (*tree && access(path, R_OK) == 0)
        return;
    snprintf(path, path_bytes, "%s/../share/spillway/models/catalogue.json", sp_program_directory());
}

sp_status sp_catalogue_read(const char *given, sp_catalogue *ret_catalogue, sp_error *reterr)
{
    sp_catalogue catalogue = { 0 };
    json_error_t error;
    size_t index;
    json_t *entry;

    find_file(given, catalogue.path, sizeof(catalogue.path));
    catalogue.root = json_load_file(catalogue.path, JSON_REJECT_DUPLICATES, &error);
    if (!catalogue.root && json_error_code(&error) == json_error_cannot_open_file)
        return SP_FAIL(reterr, SP_NOT_FOUND, "cannot read the catalogue %s: %s", catalogue.path, strerror(errno));
    if (!catalogue.root)
        return SP_FAIL(reterr, SP_INVALID, "%s line %d: %s", catalogue.path, error.line, error.text);
    memcpy(catalogue.directory, catalogue.path, sizeof(catalogue.path));
    char *slash = strrchr(catalogue.directory, '/');
    if (slash)
        *slash = '\0';
    else
        snprintf(catalogue.directory, sizeof(catalogue.directory), ".");
    catalogue.models = json_object_get(catalogue.root, "models");
    if (!json_is_array(catalogue.models) || json_integer_value(json_object_get(catalogue.root, "version")) != 1) {
        sp_catalogue_done(&catalogue);
        return SP_FAIL(reterr, SP_INVALID, "%s is no catalogue of version 1", given ? given : "models/catalogue.json");
    }
    json_array_foreach(catalogue.models, index, entry) {
        if (!*sp_catalogue_text(entry, "name")) {
            sp_catalogue_done(&catalogue);
            return SP_FAIL(reterr, SP_INVALID, "entry %zu of the catalogue has no name", index);
        }
    }
    *ret_catalogue = catalogue;
    return SP_OK;
}

void sp_catalogue_done(sp_catalogue *catalogue)
{
    json_decref(catalogue->root);
    *catalogue = (sp_catalogue){ 0 };
}

sp_status sp_catalogue_find(const sp_catalogue *catalogue, const char *name, json_t **ret_entry, sp_error *reterr)
{
    const char *names[NAMES_MAX];
    int count = 0;
    size_t index;
    json_t *entry;

    json_array_foreach(catalogue->models, index, entry) {
        if (!strcmp(sp_catalogue_text(entry, "name"), name)) {
            *ret_entry = entry;
            return SP_OK;
        }
        if (count < NAMES_MAX)
            names[count++] = sp_catalogue_text(entry, "name");
    }
    const char *nearest = sp_nearest(name, names, count);
    return SP_FAIL(reterr, SP_NOT_FOUND, "the catalogue has no model '%s'%s%s%s (spillway models --catalogue lists them)", name,
                   nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}
