/* SPDX-License-Identifier: Apache-2.0
 * See value.h. Decimal digits are gathered as integers, so that nothing is lost on the way through a double. */
#include "config/value.h"

#include "base/attr.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

bool sp_value_bool(const char *text, bool *ret_value)
{
    static const char *const yes[] = { "true", "yes", "on", "1" }, *const no[] = { "false", "no", "off", "0" };

    for (size_t i = 0; i < SP_ARRAY_LEN(yes); i++) {
        if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
            *ret_value = !strcasecmp(text, yes[i]);
            return true;
        }
    }
    return false;
}

bool sp_value_int(const char *text, int64_t *ret_value)
{
    char *end;

    if (!*text || strspn(text, "+-0123456789") != strlen(text))
        return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end || end == text)
        return false;
    *ret_value = value;
    return true;
}

bool sp_value_double(const char *text, double *ret_value)
{
    char *end;

    if (!*text || strspn(text, "+-.eE0123456789") != strlen(text)) /* no hexadecimal, no words */
        return false;
    double value = strtod(text, &end);
    if (*end || end == text || !isfinite(value))
        return false;
    *ret_value = value;
    return true;
}

/* "12.34" at *text, as a number of units of `scale` each: 12 * scale + 0.34 * scale. *text goes past it.
 * exact: refuses what is finer than one; else the rest is dropped. */
static bool read_decimal(const char **text, uint64_t scale, bool exact, uint64_t *ret_value)
{
    const char *p = *text;
    uint64_t value = 0, part = scale;
    int digits = 0;

    for (; *p >= '0' && *p <= '9'; p++, digits++) {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    }
    if (__builtin_mul_overflow(value, scale, &value))
        return false;
    if (*p == '.') {
        /* Exact while the scale divides by ten as often as there are digits; hours and minutes do it a few times. */
        uint64_t fraction = 0, divisor = 1;
        for (p++; *p >= '0' && *p <= '9'; p++, digits++) {
            if (divisor >= 1000000000000000ull) {
                if (exact && *p != '0')
                    return false;
                continue;
            }
            fraction = fraction * 10 + (uint64_t)(*p - '0');
            divisor *= 10;
        }
        unsigned __int128 scaled = (unsigned __int128)fraction * part;
        if (exact && scaled % divisor)
            return false;
        if (__builtin_add_overflow(value, (uint64_t)(scaled / divisor), &value))
            return false;
    }
    *text = p;
    *ret_value = value;
    return digits > 0;
}

typedef struct unit {
    const char *name;
    uint64_t scale;
} unit;

/* Falling, so that the writer finds the largest that fits; "ms" stands before "m" where it matters by exact compare. */
static const unit durations[] = {
    { "d", 86400000000000ull }, { "h", 3600000000000ull }, { "m", 60000000000ull }, { "s", 1000000000ull },
    { "ms", 1000000ull },       { "us", 1000ull },         { "ns", 1ull },
};
static const unit sizes[] = {
    { "TiB", 1ull << 40 },      { "GiB", 1ull << 30 },   { "MiB", 1ull << 20 }, { "KiB", 1ull << 10 },
    { "TB", 1000000000000ull }, { "GB", 1000000000ull }, { "MB", 1000000ull },  { "KB", 1000ull },
    { "kB", 1000ull },          { "B", 1ull },
};

static uint64_t unit_scale(const unit *units, size_t unit_count, const char *name, size_t length)
{
    for (size_t i = 0; i < unit_count; i++) {
        if (strlen(units[i].name) == length && !memcmp(units[i].name, name, length))
            return units[i].scale;
    }
    return 0;
}

static size_t letters(const char *text)
{
    return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
}

bool sp_value_duration(const char *text, int64_t bare_ns, int64_t *ret_ns)
{
    uint64_t sum = 0;

    do {
        size_t number = strspn(text, "0123456789."), length = letters(text + number);
        uint64_t scale = unit_scale(durations, SP_ARRAY_LEN(durations), text + number, length), part;
        if (!length && !sum && !text[number])
            scale = bare_ns > 0 ? (uint64_t)bare_ns : strspn(text, "0") == number ? 1 : 0;
        if (!number || !scale || !read_decimal(&text, scale, false, &part) || __builtin_add_overflow(sum, part, &sum))
            return false;
        if (letters(text) != length)
            return false; /* "1.2.3s" */
        text += length;
    } while (*text);
    if (sum > INT64_MAX)
        return false;
    *ret_ns = (int64_t)sum;
    return true;
}

bool sp_value_size(const char *text, uint64_t *ret_bytes)
{
    size_t number = strspn(text, "0123456789."), space = strspn(text + number, " ");
    const char *name = text + number + space;
    uint64_t scale = *name ? unit_scale(sizes, SP_ARRAY_LEN(sizes), name, strlen(name)) : 1, bytes;

    if (!number || !scale || !read_decimal(&text, scale, true, &bytes) || text + space != name || bytes > INT64_MAX)
        return false;
    *ret_bytes = bytes;
    return true;
}

bool sp_value_money(const char *text, int64_t *ret_microdollars)
{
    uint64_t value;

    text += *text == '$';
    if (!read_decimal(&text, 1000000, true, &value) || *text || value > INT64_MAX)
        return false;
    *ret_microdollars = (int64_t)value;
    return true;
}

bool sp_value_date(const char *text, int64_t *ret_unix_s)
{
    struct tm when = { 0 }, back;
    const char *end = strptime(text, "%Y-%m-%d", &when);

    if (end && (*end == 'T' || *end == ' '))
        end = strptime(end + 1, "%H:%M:%SZ", &when);
    if (!end || *end)
        return false;
    struct tm asked = when;
    time_t seconds = timegm(&when);
    if (!gmtime_r(&seconds, &back) || back.tm_mday != asked.tm_mday || back.tm_mon != asked.tm_mon || seconds <= 0)
        return false; /* the 31st of June */
    *ret_unix_s = seconds;
    return true;
}

static void unit_text(const unit *units, size_t unit_count, uint64_t value, char ret_text[SP_VALUE_TEXT_BYTES])
{
    size_t i = 0;

    while (i + 1 < unit_count && value % units[i].scale)
        i++;
    (void)snprintf(ret_text, SP_VALUE_TEXT_BYTES, "%llu%s", (unsigned long long)(value / units[i].scale),
                   units[i].name);
}

void sp_value_duration_text(int64_t ns, char ret_text[SP_VALUE_TEXT_BYTES])
{
    if (!ns)
        (void)snprintf(ret_text, SP_VALUE_TEXT_BYTES, "0s");
    else
        unit_text(durations, SP_ARRAY_LEN(durations), (uint64_t)ns, ret_text);
}

void sp_value_size_text(uint64_t bytes, char ret_text[SP_VALUE_TEXT_BYTES])
{
    if (!bytes)
        (void)snprintf(ret_text, SP_VALUE_TEXT_BYTES, "0");
    else
        unit_text(sizes, SP_ARRAY_LEN(sizes), bytes, ret_text);
}

void sp_value_money_text(int64_t microdollars, char ret_text[SP_VALUE_TEXT_BYTES])
{
    int n = snprintf(ret_text, SP_VALUE_TEXT_BYTES, "%lld.%06lld", (long long)(microdollars / 1000000),
                     (long long)(microdollars % 1000000));
    while (n > 3 && ret_text[n - 1] == '0' && ret_text[n - 3] != '.')
        ret_text[--n] = '\0'; /* cents stay: 0.20 */
}

void sp_value_double_text(double value, char ret_text[SP_VALUE_TEXT_BYTES])
{
    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(ret_text, SP_VALUE_TEXT_BYTES, "%.*g", digits, value);
        if (strtod(ret_text, NULL) == value)
            return;
    }
}

void sp_value_date_text(int64_t unix_s, char ret_text[SP_VALUE_TEXT_BYTES])
{
    time_t seconds = (time_t)unix_s;
    struct tm when;

    if (!gmtime_r(&seconds, &when) ||
        !strftime(ret_text, SP_VALUE_TEXT_BYTES, unix_s % 86400 ? "%Y-%m-%dT%H:%M:%SZ" : "%Y-%m-%d", &when))
        (void)snprintf(ret_text, SP_VALUE_TEXT_BYTES, "never");
}
