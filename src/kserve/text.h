/* SPDX-License-Identifier: Apache-2.0
 * JSON text, read once from front to back: the few things that the readers of this room need, each bounded. No tree, no
 * allocation. Private to the room. */
#ifndef SP_KSERVE_TEXT_H
#define SP_KSERVE_TEXT_H

#include "base/status.h"
#include "base/view.h"

typedef struct sp_text {
    const uint8_t *begin, *at, *end;
} sp_text;

/* The next byte that is no white space, not taken; 0 at the end. */
static inline uint8_t sp_text_peek(sp_text *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\n' || *text->at == '\t' || *text->at == '\r'))
        text->at++;
    return text->at < text->end ? *text->at : 0;
}

/* Takes `byte` if it is next. */
static inline bool sp_text_take(sp_text *text, uint8_t byte)
{
    if (sp_text_peek(text) != byte)
        return false;
    text->at++;
    return true;
}

/* What every reader says about text that is no JSON: where, what was expected. */
sp_status sp_text_fail(const sp_text *text, const char *expected, sp_error *reterr);

/* Length of the UTF-8 character at `p`, 0 = it is none (overlong, a surrogate, cut off). left > 0. */
size_t sp_utf8_length(const uint8_t *p, size_t left);

/* A string, its escapes undone, into `dst`, NUL behind it. SP_INVALID: no string, a bad escape, no UTF-8, a NUL in it or more than `capacity` - 1 bytes. */
sp_status sp_text_string(sp_text *text, char *dst, size_t capacity, sp_error *reterr);
/* The same as bytes: NULs are fine; *ret_bytes is at most the length of its text. `dst` must have that much room. */
sp_status sp_text_bytes(sp_text *text, uint8_t *dst, size_t *ret_bytes, sp_error *reterr);

sp_status sp_text_u64(sp_text *text, uint64_t *ret_value, sp_error *reterr); /* a whole number, not negative */
sp_status sp_text_bool(sp_text *text, bool *ret_value, sp_error *reterr);

/* Any value is stepped over; nested at most SP_LIMIT_JSON_DEPTH deep. */
#define SP_LIMIT_JSON_DEPTH 32
sp_status sp_text_skip(sp_text *text, sp_error *reterr);

/* Walks an object: `member` is called with its key for each one and must take the value. */
typedef sp_status sp_text_member_fn(sp_text *text, const char *key, void *context, sp_error *reterr);
sp_status sp_text_object(sp_text *text, sp_text_member_fn *member, void *context, sp_error *reterr);
/* Walks an array: `element` is called with its number and must take the value. */
typedef sp_status sp_text_element_fn(sp_text *text, int index, void *context, sp_error *reterr);
sp_status sp_text_array(sp_text *text, sp_text_element_fn *element, void *context, sp_error *reterr);

/* numbers.c: the number that is next, correctly rounded, locale-free. False, and nothing taken: there is none, or it does not
 * fit the type (an integer's range, a fraction for an integer; a float that would be infinite). */
bool sp_text_take_f64(sp_text *text, double *ret_value);
bool sp_text_take_f32(sp_text *text, float *ret_value);
bool sp_text_take_i64(sp_text *text, int64_t *ret_value);
bool sp_text_take_u64(sp_text *text, uint64_t *ret_value);
bool sp_text_skip_number(sp_text *text);

#define SP_NUMBER_TEXT_BYTES 32
/* The shortest text that reads back to the same value, at least "1.0"; NaN, Infinity and -Infinity as Python's json writes
 * them. No NUL. Returns its length. */
size_t sp_number_write_f32(float value, char *dst);
size_t sp_number_write_f64(double value, char *dst);
size_t sp_number_write_i64(int64_t value, char *dst);
size_t sp_number_write_u64(uint64_t value, char *dst);

/* data.c: an array of elements (nested as one likes) into `dst`, packed. `count`: how many there must be. BYTES: *ret_bytes is
 * what they took (at most 4 * count + length of the text). */
sp_status sp_data_read(sp_text *text, int dtype, uint64_t count, void *dst, uint64_t *ret_bytes, sp_error *reterr);

#endif
