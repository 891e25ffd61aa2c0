/* SPDX-License-Identifier: Apache-2.0
 * Values as people write them: `500ms`, `1h30m`, `10MiB`, `0.20`. Both ways; what is written reads back to the same
 * number. Pure; false = not such a value, *ret untouched. */
#ifndef SP_CONFIG_VALUE_H
#define SP_CONFIG_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool sp_value_bool(const char *text, bool *ret_value); /* true false yes no on off 1 0, in any case */
bool sp_value_int(const char *text, int64_t *ret_value);
bool sp_value_double(const char *text, double *ret_value); /* finite */

/* ns, us, ms, s, m, h, d; fractions (`1.5s`) and sums (`1h30m`). Nothing below a nanosecond, nothing negative. A bare
 * `0` needs no unit; other bare numbers are taken as `bare_ns` each, or refused when that is 0. */
bool sp_value_duration(const char *text, int64_t bare_ns, int64_t *ret_ns);

/* B, kB, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB; a bare number is bytes. */
bool sp_value_size(const char *text, uint64_t *ret_bytes);

/* Dollars, with or without a `$` before them, to microdollars: exact, so more than six decimals are refused. */
bool sp_value_money(const char *text, int64_t *ret_microdollars);

/* 2027-01-31 (its first second, UTC) or 2027-01-31T12:00:00Z. */
bool sp_value_date(const char *text, int64_t *ret_unix_s);

#define SP_VALUE_TEXT_BYTES 40
void sp_value_duration_text(int64_t ns, char ret_text[SP_VALUE_TEXT_BYTES]);
void sp_value_size_text(uint64_t bytes, char ret_text[SP_VALUE_TEXT_BYTES]);
void sp_value_money_text(int64_t microdollars, char ret_text[SP_VALUE_TEXT_BYTES]);
void sp_value_double_text(double value, char ret_text[SP_VALUE_TEXT_BYTES]);
void sp_value_date_text(int64_t unix_s, char ret_text[SP_VALUE_TEXT_BYTES]);

#endif
