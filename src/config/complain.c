/* SPDX-License-Identifier: Apache-2.0
 * See complain.h. */
#include "config/complain.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void add(sp_complainer *complainer, bool warning, int line, const char *path, const char *format, va_list args)
{
    if (warning)
        complainer->warning_count++;
    else
        complainer->error_count++;
    if (!complainer->entries)
        complainer->entries = calloc(SP_LIMIT_COMPLAINTS, sizeof(*complainer->entries));
    if (!complainer->entries || complainer->count == SP_LIMIT_COMPLAINTS) {
        complainer->dropped++;
        return;
    }
    sp_complaint *entry = &complainer->entries[complainer->count++];
    entry->line = line;
    entry->warning = warning;
    int used = *path ? snprintf(entry->text, sizeof(entry->text), "%s: ", path) : 0;
    if (used >= 0 && (size_t)used < sizeof(entry->text))
        (void)vsnprintf(entry->text + used, sizeof(entry->text) - (size_t)used, format, args);
}

void sp_complain(sp_complainer *complainer, int line, const char *path, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(complainer, false, line, path, format, args);
    va_end(args);
}

void sp_complain_warn(sp_complainer *complainer, int line, const char *path, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(complainer, true, line, path, format, args);
    va_end(args);
}

/* Insertion sort: stable, and a hundred entries at most. */
static void sort(sp_complainer *complainer)
{
    for (int i = 1; i < complainer->count; i++) {
        sp_complaint moved = complainer->entries[i];
        int k = i;
        for (; k > 0 && complainer->entries[k - 1].line > moved.line; k--)
            complainer->entries[k] = complainer->entries[k - 1];
        complainer->entries[k] = moved;
    }
}

void sp_complainer_write(sp_complainer *complainer, sp_complaints *ret_complaints)
{
    sort(complainer);
    for (int i = 0; i < complainer->count; i++) {
        const sp_complaint *entry = &complainer->entries[i];
        if (entry->line)
            sp_buf_printf(&ret_complaints->text, "%s:%d: ", complainer->file, entry->line);
        sp_buf_printf(&ret_complaints->text, "%s%s\n", entry->warning ? "warning: " : "", entry->text);
    }
    if (complainer->dropped)
        sp_buf_printf(&ret_complaints->text, "%s: and %d more\n", complainer->file, complainer->dropped);
    ret_complaints->count += complainer->error_count;
    ret_complaints->warning_count += complainer->warning_count;
}

void sp_complainer_done(sp_complainer *complainer)
{
    free(complainer->entries);
    complainer->entries = NULL;
}
