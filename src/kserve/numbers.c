/* SPDX-License-Identifier: Apache-2.0
 * Numbers as text: correctly rounded both ways, and fast for what tensors are made of.
 *
 * Reading: up to 19 digits make an exact 64-bit integer, a power of ten up to 10^27 is exact in x87's 64-bit mantissa, so
 * their product or quotient has one rounding. Rounding it again to a double or float is right unless it lies so near the
 * middle between two of them that the first rounding may have moved it there: then, and for anything longer, strtod.
 * (Clinger's fast path, 1990, with a wider type: numpy's floats have 17 digits, too many for a double's own fast path.)
 *
 * Writing: the fewest digits n of which d * 10^k lies inside the value's rounding interval with a margin that covers the
 * error of computing it; 9 digits (17 for a double) always do. */
#include "kserve/text.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LONGEST_BYTES 511 /* of one number's text that is handed to strtod; longer ones are refused */
#define EXACT_POWER 27    /* 5^27 < 2^64 */

/* Powers of ten, exact in 64 bits of mantissa. */
static const long double power_of_ten[EXACT_POWER + 1] = {
    1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,  1e7L,  1e8L,  1e9L,  1e10L, 1e11L, 1e12L, 1e13L,
    1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L, 1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L,
};

/* --- reading ---------------------------------------------------------------------------------------------------------- */

typedef struct decimal {
    bool negative;
    bool exact;        /* `digits` has all of them */
    uint64_t digits;
    int64_t exponent;  /* value = digits * 10^exponent */
} decimal;

static decimal take_apart(sp_view number)
{
    const uint8_t *p = number.data, *end = p + number.size_bytes;
    decimal d = { .exact = true };
    int taken = 0;
    d.negative = p < end && *p == '-';
    p += d.negative;
    bool fraction = false;
    for (; p < end; p++) {
        if (*p == '.') {
            fraction = true;
            continue;
        }
        uint32_t digit = (uint32_t)*p - '0';
        if (digit > 9)
            break;
        if (taken < 19) {
            d.digits = d.digits * 10 + digit;
            taken += d.digits != 0;
            d.exponent -= fraction;
        } else {
            d.exact &= digit == 0;
            d.exponent += !fraction;
        }
    }
    if (p < end) { /* e */
        p++;
        bool below = *p == '-';
        p += *p == '-' || *p == '+';
        int64_t exponent = 0;
        for (; p < end; p++)
            exponent = exponent < 100000 ? exponent * 10 + (*p - '0') : exponent;
        d.exponent += below ? -exponent : exponent;
    }
    return d;
}

/* All of it through the library. NAN: longer than it may be. */
static double by_library(sp_view number, bool single)
{
    char text[LONGEST_BYTES + 1];
    if (number.size_bytes > LONGEST_BYTES)
        return NAN;
    memcpy(text, number.data, number.size_bytes);
    text[number.size_bytes] = 0;
    return single ? (double)strtof(text, NULL) : strtod(text, NULL); /* no setlocale here: always the C locale */
}

#if LDBL_MANT_DIG == 64 && defined(__x86_64__)
/* The value of `d` with one rounding to 64 bits; false when it is not within reach, or when rounding it once more to a type
 * with `kept` bits of mantissa could go wrong. */
static bool nearly(const decimal *d, int kept, long double *ret_value)
{
    if (!d->exact || d->exponent > EXACT_POWER || d->exponent < -EXACT_POWER)
        return false;
    long double value = (long double)d->digits;
    value = d->exponent < 0 ? value / power_of_ten[-d->exponent] : value * power_of_ten[d->exponent];
    union {
        long double value;
        uint64_t mantissa;
    } bits = { .value = value };
    uint64_t below = bits.mantissa & ((UINT64_C(1) << (64 - kept)) - 1), middle = UINT64_C(1) << (63 - kept);
    *ret_value = d->negative ? -value : value;
    return below + 1 < middle || below > middle + 1;
}
#else
static bool nearly(const decimal *d, int kept, long double *ret_value)
{
    (void)d, (void)kept, (void)ret_value, (void)power_of_ten;
    return false;
}
#endif

bool sp_number_f64(sp_view number, double *ret_value)
{
    decimal d = take_apart(number);
    long double value;
    if (d.exact && !d.digits)
        *ret_value = d.negative ? -0.0 : 0.0;
    else if (nearly(&d, 53, &value))
        *ret_value = (double)value;
    else
        *ret_value = by_library(number, false);
    return isfinite(*ret_value);
}

bool sp_number_f32(sp_view number, float *ret_value)
{
    decimal d = take_apart(number);
    long double value;
    if (d.exact && !d.digits)
        *ret_value = d.negative ? -0.0f : 0.0f;
    else if (nearly(&d, 24, &value) && fabsl(value) >= FLT_MIN)
        *ret_value = (float)value;
    else
        *ret_value = (float)by_library(number, true);
    return isfinite(*ret_value);
}

/* |value|; false: a fraction, or more than 64 bits. */
static bool whole(decimal d, uint64_t *ret_value)
{
    uint64_t value = d.digits;
    if (!d.exact)
        return false;
    if (!value)
        d.exponent = 0;
    for (; d.exponent < 0; d.exponent++) {
        if (value % 10)
            return false;
        value /= 10;
    }
    for (; d.exponent > 0; d.exponent--) {
        if (__builtin_mul_overflow(value, UINT64_C(10), &value))
            return false;
    }
    *ret_value = value;
    return true;
}

/* 20 digits do not go through take_apart: the largest uint64 has that many. */
static bool long_integer(sp_view number, decimal *d)
{
    const uint8_t *p = number.data + d->negative, *end = number.data + number.size_bytes;
    uint64_t value = 0;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    }
    d->digits = value;
    d->exponent = 0;
    d->exact = true;
    return true;
}

static bool integer_parts(sp_view number, bool *ret_negative, uint64_t *ret_value)
{
    decimal d = take_apart(number);
    *ret_negative = d.negative;
    if (number.size_bytes - d.negative >= 20)
        (void)long_integer(number, &d);
    return whole(d, ret_value);
}

bool sp_number_u64(sp_view number, uint64_t *ret_value)
{
    bool negative;
    return integer_parts(number, &negative, ret_value) && (!negative || !*ret_value);
}

bool sp_number_i64(sp_view number, int64_t *ret_value)
{
    bool negative;
    uint64_t value;
    if (!integer_parts(number, &negative, &value) || value > (uint64_t)INT64_MAX + negative)
        return false;
    *ret_value = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

size_t sp_number_write_u64(uint64_t value, char *dst)
{
    char back[20];
    size_t n = 0;
    do {
        back[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    for (size_t i = 0; i < n; i++)
        dst[i] = back[n - 1 - i];
    return n;
}

size_t sp_number_write_i64(int64_t value, char *dst)
{
    if (value >= 0)
        return sp_number_write_u64((uint64_t)value, dst);
    dst[0] = '-';
    return 1 + sp_number_write_u64(0 - (uint64_t)value, dst + 1);
}

static size_t word_write(double value, char *dst)
{
    const char *word = isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    size_t n = strlen(word);
    memcpy(dst, word, n);
    return n;
}

/* digits * 10^exponent: plain where that is short, else d.ddde-7. */
static size_t digits_write(uint64_t digits, int exponent, char *dst)
{
    char text[20];
    while (digits && digits % 10 == 0) {
        digits /= 10;
        exponent++;
    }
    int count = (int)sp_number_write_u64(digits, text);
    int point = count + exponent; /* digits before the point */
    size_t n = 0;
    if (point > 0 && point <= 16) {
        for (int i = 0; i < count || i < point; i++) {
            if (i == point)
                dst[n++] = '.';
            dst[n++] = i < count ? text[i] : '0';
        }
        if (point >= count) {
            dst[n++] = '.';
            dst[n++] = '0';
        }
        return n;
    }
    if (point <= 0 && point > -4) {
        dst[n++] = '0';
        dst[n++] = '.';
        for (int i = point; i < 0; i++)
            dst[n++] = '0';
        memcpy(dst + n, text, (size_t)count);
        return n + (size_t)count;
    }
    dst[n++] = text[0];
    if (count > 1) {
        dst[n++] = '.';
        memcpy(dst + n, text + 1, (size_t)count - 1);
        n += (size_t)count - 1;
    }
    dst[n++] = 'e';
    n += sp_number_write_i64(point - 1, dst + n);
    return n;
}

/* 10^k for -EXACT_POWER .. EXACT_POWER. */
static long double scaled(long double value, int k)
{
    return k < 0 ? value / power_of_ten[-k] : value * power_of_ten[k];
}

/* Finds the shortest digits of a positive value whose neighbours are `half` away at least; false: out of reach. `most` digits
 * are enough for its type. */
static bool shortest(long double value, long double half, int most, uint64_t *ret_digits, int *ret_exponent)
{
    int binary;
    (void)frexpl(value, &binary);
    int e = (int)floor((binary - 1) * 0.30102999566398120); /* floor(log10(value)), or one less */
    if (e + 1 <= EXACT_POWER && e + 1 >= -EXACT_POWER && scaled(1, e + 1) <= value)
        e++;
    long double room = half * (1 - 0x1p-8L); /* covers the two roundings below, 2^-63 of the value each */
    for (int n = 1; n <= most; n++) {
        int k = n - 1 - e; /* value * 10^k has n digits before its point */
        if (k > EXACT_POWER || k < -EXACT_POWER)
            return false;
        long double d = rintl(scaled(value, k));
        if (fabsl(scaled(d, -k) - value) < room) {
            *ret_digits = (uint64_t)d;
            *ret_exponent = -k;
            return true;
        }
    }
    return false;
}

/* Powers of ten to within 2^-53: for floats, whose intervals are so wide that this is exact enough. */
#define FAR_POWER 54
static const double near_power_of_ten[2 * FAR_POWER + 1] = {
    1e-54, 1e-53, 1e-52, 1e-51, 1e-50, 1e-49, 1e-48, 1e-47, 1e-46, 1e-45, 1e-44, 1e-43, 1e-42, 1e-41, 1e-40,
    1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25,
    1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10,
    1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
    1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27,
    1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38, 1e39, 1e40, 1e41, 1e42, 1e43, 1e44, 1e45,
    1e46, 1e47, 1e48, 1e49, 1e50, 1e51, 1e52, 1e53, 1e54,
};

static double power(int k)
{
    return near_power_of_ten[FAR_POWER + k];
}

/* Are n digits enough? They are left in *ret_digits in any case. */
static bool digits_do(double value, double room, int e, int n, uint64_t *ret_digits, int *ret_exponent)
{
    int k = n - 1 - e;
    *ret_digits = (uint64_t)(int64_t)(value * power(k) + 0.5); /* at most 10^9 */
    double d = (double)(int64_t)*ret_digits;
    *ret_exponent = -k;
    return fabs(d * power(-k) - value) < room;
}

/* As shortest(), in a double's arithmetic: a third of the time. More digits always do where fewer did, so the search may begin
 * in the middle. */
static void shortest_f32(float value, uint64_t *ret_digits, int *ret_exponent)
{
    int binary;
    double v = (double)value, room = (v - (double)nextafterf(value, 0)) / 2 * (1 - 0x1p-8);
    (void)frexp(v, &binary);
    int e = (int)floor((binary - 1) * 0.30102999566398120);
    e += power(e + 1) <= v;
    int first = digits_do(v, room, e, 5, ret_digits, ret_exponent) ? 1 : 6, last = first == 1 ? 4 : 9;
    for (int n = first; n <= last; n++) {
        if (digits_do(v, room, e, n, ret_digits, ret_exponent))
            return;
    }
    if (last == 4)
        (void)digits_do(v, room, e, 5, ret_digits, ret_exponent);
}

size_t sp_number_write_f32(float value, char *dst)
{
    if (!isfinite(value))
        return word_write((double)value, dst);
    size_t n = 0;
    if (signbit(value))
        dst[n++] = '-';
    uint64_t digits = 0;
    int exponent = 0;
    if (value != 0)
        shortest_f32(fabsf(value), &digits, &exponent);
    return n + digits_write(digits, exponent, dst + n);
}

size_t sp_number_write_f64(double value, char *dst)
{
    if (!isfinite(value))
        return word_write(value, dst);
    size_t n = 0;
    if (signbit(value))
        dst[n++] = '-';
    double a = fabs(value);
    uint64_t digits = 0;
    int exponent = 0;
    if (a != 0) {
        long double below = (long double)a - (long double)nextafter(a, 0);
        if (LDBL_MANT_DIG < 64 || !shortest((long double)a, below / 2, 17, &digits, &exponent))
            return n + (size_t)snprintf(dst + n, SP_NUMBER_TEXT_BYTES - n, "%.17g", a);
    }
    return n + digits_write(digits, exponent, dst + n);
}
