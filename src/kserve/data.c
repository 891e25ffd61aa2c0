/* SPDX-License-Identifier: Apache-2.0
 * Tensors as JSON arrays: read into packed memory, written from it. One loop per type, because this is where a request of
 * 150,528 floats spends its time. */
#include "kserve/json.h"

#include "kernels/arith.h"
#include "kserve/text.h"
#include "model/config.h"

#include <math.h>
#include <stdio.h>

/* --- reading ---------------------------------------------------------------------------------------------------------- */

typedef struct cursor {
    sp_text *text;
    int dtype;
    uint64_t count, taken; /* elements */
    uint8_t *dst;
    uint64_t bytes; /* written; BYTES only */
} cursor;

static sp_status wrong(const cursor *c, const sp_text *at, sp_error *reterr)
{
    char expected[64];
    (void)snprintf(expected, sizeof(expected), "a %s (element %llu)", sp_dtype_kserve(c->dtype), (unsigned long long)c->taken);
    return sp_text_fail(at, expected, reterr);
}

/* Python's json writes these where JSON has none. */
static bool take_word(sp_text *text, float *ret_value)
{
    static const struct {
        const char *word;
        float value;
    } words[] = { { "NaN", NAN }, { "Infinity", INFINITY }, { "-Infinity", -INFINITY } };
    for (size_t i = 0; i < SP_ARRAY_LEN(words); i++) {
        size_t n = strlen(words[i].word);
        if ((size_t)(text->end - text->at) >= n && memcmp(text->at, words[i].word, n) == 0) {
            text->at += n;
            *ret_value = words[i].value;
            return true;
        }
    }
    return false;
}

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16); /* to nearest, ties to even */
}

static bool store_float(cursor *c, double wide, float narrow)
{
    uint8_t *to = c->dst + c->taken * sp_dtype_bytes(c->dtype);
    uint16_t half;
    switch (c->dtype) {
    case 1:
        memcpy(to, &narrow, 4);
        return true;
    case 11:
        memcpy(to, &wide, 8);
        return true;
    case 10:
        half = sp_f32_to_f16(narrow);
        memcpy(to, &half, 2);
        return !isfinite(narrow) || (half & 0x7c00) != 0x7c00;
    default:
        half = bf16_of(narrow);
        memcpy(to, &half, 2);
        return !isfinite(narrow) || (half & 0x7f80) != 0x7f80;
    }
}

static bool take_float(cursor *c)
{
    double wide = 0;
    float narrow = 0;
    if (!(c->dtype == 11 ? sp_text_take_f64(c->text, &wide) : sp_text_take_f32(c->text, &narrow))) {
        if (!take_word(c->text, &narrow))
            return false;
        wide = (double)narrow;
    }
    return store_float(c, wide, narrow);
}

/* Integers whose range is that of `bytes` bytes. */
static bool take_integer(cursor *c, size_t bytes, bool is_signed)
{
    uint64_t bits;
    if (is_signed) {
        int64_t value;
        int64_t most = bytes == 8 ? INT64_MAX : (INT64_C(1) << (8 * bytes - 1)) - 1;
        if (!sp_text_take_i64(c->text, &value) || value > most || value < -most - 1)
            return false;
        bits = (uint64_t)value;
    } else if (!sp_text_take_u64(c->text, &bits) || (bytes < 8 && bits >> (8 * bytes))) {
        return false;
    }
    memcpy(c->dst + c->taken * bytes, &bits, bytes); /* little endian, as the wire is */
    return true;
}

static bool take_bool(cursor *c)
{
    bool value = false;
    uint8_t next = sp_text_peek(c->text);
    if (next == '0' || next == '1') {
        value = next == '1';
        c->text->at++;
    } else if (sp_text_bool(c->text, &value, NULL)) {
        return false;
    }
    c->dst[c->taken] = value;
    return true;
}

static bool take_string(cursor *c)
{
    size_t n = 0;
    if (sp_text_peek(c->text) != '"' || sp_text_bytes(c->text, c->dst + c->bytes + 4, &n, NULL) || n > UINT32_MAX)
        return false;
    uint32_t length = (uint32_t)n;
    memcpy(c->dst + c->bytes, &length, 4);
    c->bytes += 4 + n;
    return true;
}

static bool take_element(cursor *c)
{
    switch (c->dtype) {
    case 1:
    case 10:
    case 11:
    case 16:
        return take_float(c);
    case 2:
    case 4:
    case 12:
    case 13:
        return take_integer(c, sp_dtype_bytes(c->dtype), false);
    case 3:
    case 5:
    case 6:
    case 7:
        return take_integer(c, sp_dtype_bytes(c->dtype), true);
    case 9:
        return take_bool(c);
    case SP_DTYPE_BYTES:
        return take_string(c);
    default:
        return false;
    }
}

/* Elements up to the bracket that closes this level. */
static sp_status take_level(cursor *c, int depth, sp_error *reterr);

static sp_status take_value(cursor *c, int depth, sp_error *reterr)
{
    if (sp_text_peek(c->text) == '[')
        return take_level(c, depth + 1, reterr);
    sp_text at = *c->text;
    if (c->taken == c->count)
        return sp_text_fail(&at, "no more elements than the shape has", reterr);
    if (!take_element(c))
        return wrong(c, &at, reterr);
    c->taken++;
    return SP_OK;
}

static sp_status take_level(cursor *c, int depth, sp_error *reterr)
{
    if (depth > SP_LIMIT_JSON_DEPTH)
        return sp_text_fail(c->text, "no more than 32 brackets inside each other", reterr);
    c->text->at++;
    if (sp_text_take(c->text, ']'))
        return SP_OK;
    do {
        sp_status s = take_value(c, depth, reterr);
        if (s)
            return s;
    } while (sp_text_take(c->text, ','));
    return sp_text_take(c->text, ']') ? SP_OK : sp_text_fail(c->text, "',' or ']'", reterr);
}

sp_status sp_data_read(sp_text *text, int dtype, uint64_t count, void *dst, uint64_t *ret_bytes, sp_error *reterr)
{
    cursor c = { .text = text, .dtype = dtype, .count = count, .dst = dst };
    if (sp_text_peek(text) != '[')
        return sp_text_fail(text, "an array", reterr);
    sp_status s = take_level(&c, 1, reterr);
    if (s)
        return s;
    if (c.taken != count)
        return SP_FAIL_CODE(reterr, SP_INVALID, "data_count", "the data has %llu elements, the shape has %llu",
                            (unsigned long long)c.taken, (unsigned long long)count);
    *ret_bytes = dtype == SP_DTYPE_BYTES ? c.bytes : count * sp_dtype_bytes(dtype);
    return SP_OK;
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

/* Text that counts on when there is no more room. */
typedef struct writer {
    char *dst;
    size_t capacity, bytes;
} writer;

static void put(writer *w, const char *text, size_t n)
{
    if (n <= w->capacity - SP_MIN(w->bytes, w->capacity))
        memcpy(w->dst + w->bytes, text, n);
    w->bytes += n;
}

static float f32_of_half(uint16_t half, bool bf16)
{
    uint32_t bits;
    float value;
    if (bf16) {
        bits = (uint32_t)half << 16;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    uint32_t exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
    if (exponent == 31)
        value = fraction ? NAN : INFINITY;
    else
        value = exponent ? ldexpf((float)(fraction | 0x400u), (int)exponent - 25) : ldexpf((float)fraction, -24);
    return half & 0x8000u ? -value : value;
}

/* The fewest digits that read back to the same half: `%.{1..9}g` of it, tried in turn. Rare enough to be slow. */
static size_t half_write(uint16_t half, bool bf16, char *dst)
{
    float value = f32_of_half(half, bf16);
    if (!isfinite(value))
        return sp_number_write_f32(value, dst);
    for (int digits = 1; digits < 9; digits++) {
        char text[SP_NUMBER_TEXT_BYTES];
        float back;
        int n = snprintf(text, sizeof(text), "%.*e", digits - 1, (double)value);
        sp_text at = { (uint8_t *)text, (uint8_t *)text, (uint8_t *)text + n };
        if (!sp_text_take_f32(&at, &back))
            continue;
        if ((bf16 ? bf16_of(back) : sp_f32_to_f16(back)) == half)
            return sp_number_write_f32(back, dst);
    }
    return sp_number_write_f32(value, dst);
}

static size_t element_write(int dtype, const uint8_t *from, char *dst)
{
    union {
        float f32;
        double f64;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v = { 0 };
    memcpy(&v, from, sp_dtype_bytes(dtype));
    switch (dtype) {
    case 1:
        return sp_number_write_f32(v.f32, dst);
    case 2:
        return sp_number_write_u64(*from, dst);
    case 3:
        return sp_number_write_i64((int8_t)*from, dst);
    case 4:
        return sp_number_write_u64(v.u16, dst);
    case 5:
        return sp_number_write_i64(v.i16, dst);
    case 6:
        return sp_number_write_i64(v.i32, dst);
    case 7:
        return sp_number_write_i64(v.i64, dst);
    case 9:
        memcpy(dst, *from ? "true" : "false", *from ? 4 : 5);
        return *from ? 4 : 5;
    case 10:
    case 16:
        return half_write(v.u16, dtype == 16, dst);
    case 11:
        return sp_number_write_f64(v.f64, dst);
    case 12:
        return sp_number_write_u64(v.u32, dst);
    default:
        return sp_number_write_u64(v.u64, dst);
    }
}

static void string_write(writer *w, const uint8_t *p, size_t left)
{
    put(w, "\"", 1);
    while (left) {
        size_t n = sp_utf8_length(p, left);
        char text[8];
        if (!n) {
            put(w, "\xef\xbf\xbd", 3);
            n = 1;
        } else if (*p == '"' || *p == '\\') {
            text[0] = '\\';
            text[1] = (char)*p;
            put(w, text, 2);
        } else if (*p < ' ') {
            (void)snprintf(text, sizeof(text), "\\u%04x", *p);
            put(w, text, 6);
        } else {
            put(w, (const char *)p, n);
        }
        p += n;
        left -= n;
    }
    put(w, "\"", 1);
}

static void strings_write(writer *w, const uint8_t *p, size_t left)
{
    for (bool first = true; left >= 4; first = false) {
        uint32_t length;
        memcpy(&length, p, 4);
        length = (uint32_t)SP_MIN((size_t)length, left - 4);
        if (!first)
            put(w, ",", 1);
        string_write(w, p + 4, length);
        p += 4 + (size_t)length;
        left -= 4 + (size_t)length;
    }
}

size_t sp_kserve_data_write(int dtype, const void *data, size_t bytes, char *dst, size_t capacity)
{
    writer w = { .dst = dst, .capacity = capacity };
    size_t each = sp_dtype_bytes(dtype);
    put(&w, "[", 1);
    if (dtype == SP_DTYPE_BYTES) {
        strings_write(&w, data, bytes);
    } else if (each) {
        const uint8_t *from = data;
        for (size_t i = 0; i < bytes / each; i++) {
            if (SP_LIKELY(w.bytes + SP_NUMBER_TEXT_BYTES + 1 <= capacity)) { /* straight into place */
                if (i)
                    dst[w.bytes++] = ',';
                w.bytes += element_write(dtype, from + i * each, dst + w.bytes);
                continue;
            }
            char text[SP_NUMBER_TEXT_BYTES];
            if (i)
                put(&w, ",", 1);
            put(&w, text, element_write(dtype, from + i * each, text));
        }
    }
    put(&w, "]", 1);
    return w.bytes;
}
