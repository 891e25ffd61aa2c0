/* SPDX-License-Identifier: Apache-2.0
 * Collects what is wrong with a configuration while it is read, and writes it in the order of lines. Private to this
 * room. */
#ifndef SP_CONFIG_COMPLAIN_H
#define SP_CONFIG_COMPLAIN_H

#include "config/config.h"

/* A file with more mistakes than this is told about the first ones and how many follow: nobody reads further. */
#define SP_LIMIT_COMPLAINTS 100

typedef struct sp_complaint {
    int line; /* 0 = not in the file: text begins with where */
    bool warning;
    char text[360];
} sp_complaint;

typedef struct sp_complainer {
    const char *file;      /* as told to people; borrowed */
    sp_complaint *entries; /* SP_LIMIT_COMPLAINTS places; NULL = none made yet, or no memory for them */
    int count, dropped, error_count, warning_count;
} sp_complainer;

void sp_complain(sp_complainer *complainer, int line, const char *path, const char *format, ...) SP_PRINTF(4, 5);
void sp_complain_warn(sp_complainer *complainer, int line, const char *path, const char *format, ...) SP_PRINTF(4, 5);

/* Appends all to ret_complaints, by line; those of one line in the order in which they were made. */
void sp_complainer_write(sp_complainer *complainer, sp_complaints *ret_complaints);
void sp_complainer_done(sp_complainer *complainer);

#endif
