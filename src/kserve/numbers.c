/* SPDX-License-Identifier: Apache-2.0
 * Numbers as text: correctly rounded both ways, and fast for what tensors are made of.
 *
 * Reading: up to 19 digits make an exact 64-bit integer; its product with the leading 64 bits of a power of ten is right to
 * two units in its own last place. Rounding that to a double or float is right unless it lies so near the middle between two
 * of them that those units matter: then, and for anything longer, strtod. (The first step of Eisel and Lemire, "Number parsing
 * at a gigabyte per second", 2021.)
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

/* 10^k, its 64 leading bits cut off behind: k from LEAST_POWER to MOST_POWER. */
#define LEAST_POWER (-64)
#define MOST_POWER 40
static const uint64_t mantissa_of_ten[MOST_POWER - LEAST_POWER + 1] = {
    0xa87fea27a539e9a5, 0xd29fe4b18e88640e, 0x83a3eeeef9153e89, 0xa48ceaaab75a8e2b, 0xcdb02555653131b6,
    0x808e17555f3ebf11, 0xa0b19d2ab70e6ed6, 0xc8de047564d20a8b, 0xfb158592be068d2e, 0x9ced737bb6c4183d,
    0xc428d05aa4751e4c, 0xf53304714d9265df, 0x993fe2c6d07b7fab, 0xbf8fdb78849a5f96, 0xef73d256a5c0f77c,
    0x95a8637627989aad, 0xbb127c53b17ec159, 0xe9d71b689dde71af, 0x9226712162ab070d, 0xb6b00d69bb55c8d1,
    0xe45c10c42a2b3b05, 0x8eb98a7a9a5b04e3, 0xb267ed1940f1c61c, 0xdf01e85f912e37a3, 0x8b61313bbabce2c6,
    0xae397d8aa96c1b77, 0xd9c7dced53c72255, 0x881cea14545c7575, 0xaa242499697392d2, 0xd4ad2dbfc3d07787,
    0x84ec3c97da624ab4, 0xa6274bbdd0fadd61, 0xcfb11ead453994ba, 0x81ceb32c4b43fcf4, 0xa2425ff75e14fc31,
    0xcad2f7f5359a3b3e, 0xfd87b5f28300ca0d, 0x9e74d1b791e07e48, 0xc612062576589dda, 0xf79687aed3eec551,
    0x9abe14cd44753b52, 0xc16d9a0095928a27, 0xf1c90080baf72cb1, 0x971da05074da7bee, 0xbce5086492111aea,
    0xec1e4a7db69561a5, 0x9392ee8e921d5d07, 0xb877aa3236a4b449, 0xe69594bec44de15b, 0x901d7cf73ab0acd9,
    0xb424dc35095cd80f, 0xe12e13424bb40e13, 0x8cbccc096f5088cb, 0xafebff0bcb24aafe, 0xdbe6fecebdedd5be,
    0x89705f4136b4a597, 0xabcc77118461cefc, 0xd6bf94d5e57a42bc, 0x8637bd05af6c69b5, 0xa7c5ac471b478423,
    0xd1b71758e219652b, 0x83126e978d4fdf3b, 0xa3d70a3d70a3d70a, 0xcccccccccccccccc, 0x8000000000000000,
    0xa000000000000000, 0xc800000000000000, 0xfa00000000000000, 0x9c40000000000000, 0xc350000000000000,
    0xf424000000000000, 0x9896800000000000, 0xbebc200000000000, 0xee6b280000000000, 0x9502f90000000000,
    0xba43b74000000000, 0xe8d4a51000000000, 0x9184e72a00000000, 0xb5e620f480000000, 0xe35fa931a0000000,
    0x8e1bc9bf04000000, 0xb1a2bc2ec5000000, 0xde0b6b3a76400000, 0x8ac7230489e80000, 0xad78ebc5ac620000,
    0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400, 0xd3c21bcecceda100, 0x84595161401484a0,
    0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a, 0x813f3978f8940984, 0xa18f07d736b90be5, 0xc9f2c9cd04674ede,
    0xfc6f7c4045812296, 0x9dc5ada82b70b59d, 0xc5371912364ce305, 0xf684df56c3e01bc6, 0x9a130b963a6c115c,
    0xc097ce7bc90715b3, 0xf0bdc21abb48db20, 0x96769950b50d88f4, 0xbc143fa4e250eb31, 0xeb194f8e1ae525fd,
};

/* --- reading ---------------------------------------------------------------------------------------------------------- */

typedef struct decimal {
    sp_view text;
    bool negative;
    bool exact;       /* `digits` has all of them */
    int taken;        /* how many it has, about: leading zeros of a group of eight count */
    uint64_t digits;
    int64_t exponent; /* value = digits * 10^exponent */
} decimal;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* Eight digits at once: bytes in one word, neighbours joined three times. */
static bool eight_digits(const uint8_t *p, uint64_t *ret_value)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    uint64_t high = v & UINT64_C(0xf0f0f0f0f0f0f0f0), carried = (v + UINT64_C(0x0606060606060606)) & UINT64_C(0xf0f0f0f0f0f0f0f0);
    if (high != UINT64_C(0x3030303030303030) || carried != high)
        return false;
    v -= UINT64_C(0x3030303030303030);
    v = (v * 10 + (v >> 8)) & UINT64_C(0x00ff00ff00ff00ff);      /* four pairs */
    v = (v * 100 + (v >> 16)) & UINT64_C(0x0000ffff0000ffff);    /* two fours */
    *ret_value = (v * 10000 + (v >> 32)) & UINT64_C(0xffffffff);
    return true;
}
#else
static bool eight_digits(const uint8_t *p, uint64_t *ret_value)
{
    (void)p, (void)ret_value;
    return false;
}
#endif

static const uint8_t *scan_digits(const uint8_t *p, const uint8_t *end, bool fraction, decimal *d)
{
    uint64_t eight;
    while (end - p >= 8 && d->taken <= 11 && eight_digits(p, &eight)) {
        d->digits = d->digits * 100000000 + eight;
        d->taken += d->digits ? 8 : 0;
        d->exponent -= fraction ? 8 : 0;
        p += 8;
    }
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        uint32_t digit = (uint32_t)*p - '0';
        if (d->taken < 19) {
            d->digits = d->digits * 10 + digit;
            d->taken += d->digits != 0;
            d->exponent -= fraction;
        } else {
            d->exact &= digit == 0;
            d->exponent += !fraction;
        }
    }
    return p;
}

static const uint8_t *scan_exponent(const uint8_t *p, const uint8_t *end, decimal *d)
{
    bool below = p < end && *p == '-';
    p += p < end && (*p == '-' || *p == '+');
    const uint8_t *first = p;
    int64_t exponent = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        exponent = exponent < 100000 ? exponent * 10 + (*p - '0') : exponent;
    d->exponent += below ? -exponent : exponent;
    return p > first ? p : NULL;
}

/* JSON's grammar and the value's parts in one pass. False: no number begins here. */
static bool scan(const uint8_t *begin, const uint8_t *end, decimal *ret_decimal)
{
    decimal d = { .exact = true };
    const uint8_t *p = begin, *first;
    d.negative = p < end && *p == '-';
    first = p += d.negative;
    p = scan_digits(p, end, false, &d);
    if (p == first || (*first == '0' && p > first + 1))
        return false;
    if (p < end && *p == '.') {
        first = ++p;
        p = scan_digits(p, end, true, &d);
        if (p == first)
            return false;
    }
    if (p < end && (*p | 0x20) == 'e')
        p = scan_exponent(p + 1, end, &d);
    if (!p)
        return false;
    d.text = sp_view_make(begin, (size_t)(p - begin));
    *ret_decimal = d;
    return true;
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

/* digits * 10^exponent as mantissa * 2^binary, the mantissa's top bit set; at most 2 too small in its last place. */
static bool approximate(const decimal *d, uint64_t *ret_mantissa, int *ret_binary)
{
    if (!d->exact || !d->digits || d->exponent < LEAST_POWER || d->exponent > MOST_POWER)
        return false;
    int k = (int)d->exponent, zeros = __builtin_clzll(d->digits);
    unsigned __int128 product = (unsigned __int128)(d->digits << zeros) * mantissa_of_ten[k - LEAST_POWER];
    int top = (int)(product >> 127); /* 0: the product of two mantissas has one bit less */
    *ret_mantissa = (uint64_t)(product >> (63 + top));
    *ret_binary = (217706 * k >> 16) - 63 - zeros + 63 + top; /* 217706 / 2^16: log2(10), floored right within the table */
    return true;
}

/* Rounded to `kept` bits: *mantissa is what is kept, *binary fits it. False: too near the middle between two to tell. */
static bool round_to(int kept, uint64_t *mantissa, int *binary)
{
    int cut = 64 - kept;
    uint64_t below = *mantissa & ((UINT64_C(1) << cut) - 1), middle = UINT64_C(1) << (cut - 1);
    if (below <= middle && below + 2 >= middle)
        return false;
    *mantissa = (*mantissa >> cut) + (below > middle);
    *binary += cut;
    if (*mantissa >> kept) {
        *mantissa >>= 1;
        (*binary)++;
    }
    return true;
}

static bool to_f64(const decimal *d, double *ret_value)
{
    uint64_t mantissa;
    int binary;
    if (approximate(d, &mantissa, &binary) && round_to(53, &mantissa, &binary) && binary > -1074 && binary < 972) {
        mantissa = (mantissa & ((UINT64_C(1) << 52) - 1)) | (uint64_t)(binary + 1075) << 52 | (uint64_t)d->negative << 63;
        memcpy(ret_value, &mantissa, sizeof(*ret_value));
        return true;
    }
    *ret_value = d->exact && !d->digits ? (d->negative ? -0.0 : 0.0) : by_library(d->text, false);
    return isfinite(*ret_value);
}

static bool to_f32(const decimal *d, float *ret_value)
{
    uint64_t mantissa;
    int binary;
    if (approximate(d, &mantissa, &binary) && round_to(24, &mantissa, &binary) && binary > -149 && binary < 105) {
        uint32_t bits = ((uint32_t)mantissa & 0x7fffffu) | (uint32_t)(binary + 150) << 23 | (uint32_t)d->negative << 31;
        memcpy(ret_value, &bits, sizeof(*ret_value));
        return true;
    }
    *ret_value = d->exact && !d->digits ? (d->negative ? -0.0f : 0.0f) : (float)by_library(d->text, true);
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

/* The largest uint64 has 20 digits, one more than a scan keeps. */
static bool long_integer(decimal *d)
{
    const uint8_t *p = d->text.data + d->negative, *end = d->text.data + d->text.size_bytes;
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

static bool to_u64(decimal *d, uint64_t *ret_value)
{
    if (d->text.size_bytes - d->negative >= 19)
        (void)long_integer(d);
    return whole(*d, ret_value) && (!d->negative || !*ret_value);
}

static bool to_i64(decimal *d, int64_t *ret_value)
{
    uint64_t value;
    if (d->text.size_bytes - d->negative >= 19)
        (void)long_integer(d);
    if (!whole(*d, &value) || value > (uint64_t)INT64_MAX + d->negative)
        return false;
    *ret_value = d->negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* What all of them do: the number that is next, converted; the text stays where it is when that fails. */
#define TAKE(convert)                                                  \
    decimal d;                                                         \
    (void)sp_text_peek(text);                                          \
    if (!scan(text->at, text->end, &d) || !convert(&d, ret_value))     \
        return false;                                                  \
    text->at += d.text.size_bytes;                                     \
    return true

bool sp_text_take_f64(sp_text *text, double *ret_value)
{
    TAKE(to_f64);
}

bool sp_text_take_f32(sp_text *text, float *ret_value)
{
    TAKE(to_f32);
}

bool sp_text_take_i64(sp_text *text, int64_t *ret_value)
{
    TAKE(to_i64);
}

bool sp_text_take_u64(sp_text *text, uint64_t *ret_value)
{
    TAKE(to_u64);
}

bool sp_text_skip_number(sp_text *text)
{
    decimal d;
    (void)sp_text_peek(text);
    if (!scan(text->at, text->end, &d))
        return false;
    text->at += d.text.size_bytes;
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
    uint32_t bits;
    uint64_t half_bits;
    double v = (double)value, room;
    memcpy(&bits, &value, sizeof(bits));
    int field = (int)(bits >> 23); /* the sign is off */
    /* Half the distance to the next smaller float, which is nearer at powers of two; subnormals are one distance apart. */
    int half = SP_MAX(field, 1) - 127 - 24 - ((bits & 0x7fffff) == 0 && field > 1);
    half_bits = (uint64_t)(half + 1023) << 52;
    memcpy(&room, &half_bits, sizeof(room));
    room *= 1 - 0x1p-8;
    int e = ((field ? field - 127 : -149) * 1233) >> 12; /* floor(log10(value)), or less */
    while (power(e + 1) <= v)
        e++;
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
