/* SPDX-License-Identifier: Apache-2.0
 * Looks things up in the tables that describe.py made (described.h). */
#include "kserve/described.h"

#include "base/attr.h"

#include <stdlib.h>
#include <string.h>

#include "described_tables.h" /* made: files[], symbols[] sorted by name, services[] */

const sp_described_file *sp_described_file_find(const char *name)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(files); i++)
        if (strcmp(files[i].name, name) == 0)
            return &files[i];
    return NULL;
}

static int by_name(const void *name, const void *symbol)
{
    return strcmp(name, ((const sp_described_symbol *)symbol)->name);
}

const sp_described_symbol *sp_described_symbol_find(const char *name)
{
    return bsearch(name, symbols, SP_ARRAY_LEN(symbols), sizeof(*symbols), by_name);
}

const char *const *sp_described_services(void)
{
    return services;
}
