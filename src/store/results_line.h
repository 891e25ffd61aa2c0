/* SPDX-License-Identifier: Apache-2.0
 * A document as one line of the spool and back. */
#ifndef SP_STORE_RESULTS_LINE_H
#define SP_STORE_RESULTS_LINE_H

#include "store/results_internal.h"

void results_line_write(sp_buf *text, const results_entry *entry);
/* On the heap (results_entries_free); NULL: it is none, or no memory. */
results_entry *results_line_read(const char *line, size_t size_bytes);

#endif
