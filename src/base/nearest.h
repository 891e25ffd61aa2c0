/* SPDX-License-Identifier: Apache-2.0
 * "Did you mean ...?": which of the known words somebody may have meant. Pure. */
#ifndef SP_BASE_NEAREST_H
#define SP_BASE_NEAREST_H

/* Longer words are near nothing. */
#define SP_NEAREST_WORD_BYTES 40

/* The one of `names` that is nearest to `word` by edits (insert, delete, replace, swap), or NULL when none is near. */
const char *sp_nearest(const char *word, const char *const *names, int name_count);

#endif
