/* SPDX-License-Identifier: Apache-2.0
 * models/catalogue.json: which models can be pulled, from where, with which digest. models/README.md has the format. */
#ifndef SP_CLI_CATALOGUE_H
#define SP_CLI_CATALOGUE_H

#include "base/status.h"

#include <jansson.h>

typedef struct sp_catalogue {
    char path[4096];      /* of the file */
    char directory[4096]; /* it stands in; label files are found there */
    json_t *root;
    json_t *models; /* borrowed from root: an array of objects, each with a name */
} sp_catalogue;

/* `given` if not NULL, else $SPILLWAY_CATALOGUE, else models/catalogue.json of the source tree, else share/spillway/models beside the program.
 * SP_NOT_FOUND: no such file; SP_INVALID: it is not a catalogue, with the line. Free with sp_catalogue_done. */
sp_status sp_catalogue_read(const char *given, sp_catalogue *ret_catalogue, sp_error *reterr);
void sp_catalogue_done(sp_catalogue *catalogue);

/* The entry, borrowed, or SP_NOT_FOUND with the nearest name in the message. */
sp_status sp_catalogue_find(const sp_catalogue *catalogue, const char *name, json_t **ret_entry, sp_error *reterr);

/* A text of an entry; "" when it has none. */
const char *sp_catalogue_text(const json_t *entry, const char *key);

#endif
