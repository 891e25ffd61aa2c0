/* SPDX-License-Identifier: Apache-2.0
 * Conditions: parsed once with the configuration, tested on each request. No heap, no pointers into other memory. */
#include "policy/condition.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- words ------------------------------------------------------------------------------------------------------- */

typedef struct reader {
    const char *at;
    const char *text; /* whole, for messages */
    sp_error *reterr;
} reader;

static void skip_space(reader *r)
{
    while (*r->at == ' ' || *r->at == '\t')
        r->at++;
}

static bool is_word_char(char c)
{
    return isalnum((unsigned char)c) || (c && strchr("_.-:/+*%@", c));
}

/* The next word, without taking it; "" at the end or before other signs. Returns its length. */
static size_t peek_word(reader *r, char *ret_word, size_t size)
{
    skip_space(r);
    size_t length = 0;
    while (is_word_char(r->at[length]))
        length++;
    snprintf(ret_word, size, "%.*s", (int)SP_MIN(length, size - 1), r->at);
    return length;
}

static bool take_word(reader *r, const char *word)
{
    skip_space(r);
    size_t length = strlen(word);
    if (strncmp(r->at, word, length) || is_word_char(r->at[length]))
        return false;
    r->at += length;
    return true;
}

static bool take_sign(reader *r, char sign)
{
    skip_space(r);
    if (*r->at != sign)
        return false;
    r->at++;
    return true;
}

/* "condition "queue_depth ~ 3": "~" was not understood; a comparison (> >= < <= == !=) could stand here". */
static sp_status fail_here(reader *r, const char *wanted)
{
    skip_space(r);
    size_t length = 0;
    while (r->at[length] && r->at[length] != ' ' && r->at[length] != '\t' && length < 40)
        length++;
    if (!length)
        return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_condition", "condition \"%.80s\" ends too early: %s could stand there",
                            r->text, wanted);
    return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_condition", "condition \"%.80s\": \"%.*s\" was not understood; %s could stand there",
                        r->text, (int)length, r->at, wanted);
}

static sp_status word_into(reader *r, char *dst, size_t size, const char *wanted)
{
    size_t length = peek_word(r, dst, size);
    if (!length)
        return fail_here(r, wanted);
    if (length >= size)
        return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_condition", "condition \"%.80s\": \"%.60s\" is too long (at most %zu characters)",
                            r->text, dst, size - 1);
    r->at += length;
    return SP_OK;
}

static sp_status take_compare(reader *r, sp_compare *ret_compare, bool equality_only)
{
    static const struct {
        const char *sign;
        sp_compare compare;
    } signs[] = { { "==", SP_EQUAL }, { "!=", SP_NOT_EQUAL }, { ">=", SP_GREATER_EQUAL },
                  { "<=", SP_LESS_EQUAL }, { ">", SP_GREATER }, { "<", SP_LESS } };

    skip_space(r);
    for (size_t i = 0; i < (equality_only ? 2 : SP_ARRAY_LEN(signs)); i++) {
        size_t length = strlen(signs[i].sign);
        if (!strncmp(r->at, signs[i].sign, length)) {
            r->at += length;
            *ret_compare = signs[i].compare;
            return SP_OK;
        }
    }
    return fail_here(r, equality_only ? "== or !=" : "a comparison (> >= < <= == !=)");
}

/* --- the kinds --------------------------------------------------------------------------------------------------- */

/* Digits with at most one point; no sign, exponent, "inf" or hexadecimal, all of which strtod would take. */
static sp_status take_number(reader *r, double *ret_number, const char *wanted)
{
    skip_space(r);
    size_t length = strspn(r->at, "0123456789");
    if (!length)
        return fail_here(r, wanted);
    if (r->at[length] == '.')
        length += 1 + strspn(r->at + length + 1, "0123456789");
    char digits[40];
    if (length >= sizeof(digits))
        return fail_here(r, "a shorter number");
    memcpy(digits, r->at, length);
    digits[length] = '\0';
    *ret_number = strtod(digits, NULL);
    r->at += length;
    return SP_OK;
}

static sp_status take_size(reader *r, double *ret_bytes)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = { { "B", 1 },      { "KB", 1e3 },      { "MB", 1e6 }, { "GB", 1e9 },
                  { "KiB", 1024 }, { "MiB", 1048576 }, { "GiB", 1073741824 } };

    sp_status s = take_number(r, ret_bytes, "a size (10MiB, 500KB, 4096)");
    if (s)
        return s;
    skip_space(r);
    if (!is_word_char(*r->at))
        return SP_OK;
    for (size_t i = 0; i < SP_ARRAY_LEN(units); i++) {
        if (take_word(r, units[i].unit)) {
            *ret_bytes *= units[i].bytes;
            return SP_OK;
        }
    }
    return fail_here(r, "a unit (B, KB, MB, GB, KiB, MiB, GiB)");
}

static sp_status take_minute(reader *r, int *ret_minute, bool is_end)
{
    const char *wanted = "a time of day (22:00-06:00)";
    skip_space(r);
    const char *t = r->at;
    size_t digits = strspn(t, "0123456789");
    if (digits < 1 || digits > 2 || t[digits] != ':' || strspn(t + digits + 1, "0123456789") != 2)
        return fail_here(r, wanted);
    int hour = digits == 2 ? (t[0] - '0') * 10 + t[1] - '0' : t[0] - '0';
    int minute = (t[digits + 1] - '0') * 10 + t[digits + 2] - '0';
    if (minute > 59 || hour > 24 || (hour == 24 && (minute || !is_end)))
        return fail_here(r, wanted);
    *ret_minute = hour * 60 + minute;
    r->at += digits + 3;
    return SP_OK;
}

static sp_status parse_time(reader *r, sp_condition *c)
{
    c->negated = take_word(r, "not");
    if (!take_word(r, "in"))
        return fail_here(r, c->negated ? "in" : "in or not in");
    sp_status s = take_minute(r, &c->from_minute, false);
    if (s)
        return s;
    if (!take_sign(r, '-'))
        return fail_here(r, "- and the end of the time window");
    s = take_minute(r, &c->to_minute, true);
    if (s)
        return s;
    if (c->from_minute == c->to_minute)
        return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_condition",
                            "condition \"%.80s\": the time window is empty; write 00:00-24:00 for the whole day", r->text);
    return SP_OK;
}

static sp_status parse_tier(reader *r, sp_condition *c)
{
    c->negated = take_word(r, "not");
    if (!take_word(r, "in"))
        return fail_here(r, c->negated ? "in" : "in or not in");
    if (!take_sign(r, '['))
        return fail_here(r, "a list of tiers ([premium, pro])");
    do {
        if (c->tier_count == (int)SP_ARRAY_LEN(c->tiers))
            return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_condition", "condition \"%.80s\" names more than %zu tiers", r->text,
                                SP_ARRAY_LEN(c->tiers));
        sp_status s = word_into(r, c->tiers[c->tier_count], sizeof(c->tiers[0]), "a tier's name");
        if (s)
            return s;
        c->tier_count++;
    } while (take_sign(r, ','));
    return take_sign(r, ']') ? SP_OK : fail_here(r, ", or ]");
}

/* A bare word, or anything but the quote itself between quotes. */
static sp_status take_value(reader *r, sp_condition *c)
{
    skip_space(r);
    char quote = *r->at;
    if (quote != '"' && quote != '\'')
        return word_into(r, c->value, sizeof(c->value), "a value (quote it when it holds other signs)");
    const char *end = strchr(r->at + 1, quote);
    if (!end)
        return fail_here(r, "a value with a closing quote");
    if ((size_t)(end - r->at) > sizeof(c->value))
        return fail_here(r, "a value of at most 63 characters");
    memcpy(c->value, r->at + 1, (size_t)(end - r->at - 1));
    c->value[end - r->at - 1] = '\0';
    r->at = end + 1;
    return SP_OK;
}

static sp_status parse_named(reader *r, sp_condition *c)
{
    sp_status s = word_into(r, c->name, sizeof(c->name), c->kind == SP_CONDITION_HEADER ? "a header's name" : "a parameter's name");
    if (!s)
        s = take_compare(r, &c->compare, true);
    if (!s)
        s = take_value(r, c);
    return s;
}

static sp_status parse_kind(reader *r, sp_condition *c)
{
    if (take_word(r, "tier")) {
        c->kind = SP_CONDITION_TIER;
        return parse_tier(r, c);
    }
    if (take_word(r, "time")) {
        c->kind = SP_CONDITION_TIME;
        return parse_time(r, c);
    }
    if (take_word(r, "not")) {
        c->negated = true;
        c->kind = SP_CONDITION_FORCE_CPU;
        return take_word(r, "force_cpu") ? SP_OK : fail_here(r, "force_cpu");
    }
    if (take_word(r, "force_cpu")) {
        c->kind = SP_CONDITION_FORCE_CPU;
        return SP_OK;
    }
    if (take_word(r, "header")) {
        c->kind = SP_CONDITION_HEADER;
        return parse_named(r, c);
    }
    if (take_word(r, "parameter")) {
        c->kind = SP_CONDITION_PARAMETER;
        return parse_named(r, c);
    }

    if (take_word(r, "queue_depth"))
        c->kind = SP_CONDITION_QUEUE_DEPTH;
    else if (take_word(r, "payload_bytes"))
        c->kind = SP_CONDITION_PAYLOAD_BYTES;
    else if (take_word(r, "duration_s"))
        c->kind = SP_CONDITION_DURATION_S;
    else
        return fail_here(r, "tier, queue_depth, time, payload_bytes, duration_s, force_cpu, not force_cpu, header or parameter");
    sp_status s = take_compare(r, &c->compare, false);
    if (s)
        return s;
    return c->kind == SP_CONDITION_PAYLOAD_BYTES ? take_size(r, &c->number) : take_number(r, &c->number, "a number");
}

sp_status sp_condition_parse(const char *text, sp_condition *ret_condition, sp_error *reterr)
{
    sp_condition condition = { 0 };
    if (strlen(text) >= sizeof(condition.text))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_condition", "condition \"%.60s...\" is longer than %zu characters", text,
                            sizeof(condition.text) - 1);
    memcpy(condition.text, text, strlen(text) + 1);
    reader r = { .at = text, .text = text, .reterr = reterr };

    sp_status s = parse_kind(&r, &condition);
    if (s)
        return s;
    skip_space(&r);
    if (*r.at)
        return fail_here(&r, "nothing more (several conditions are several entries of the list)");
    *ret_condition = condition;
    return SP_OK;
}

/* --- the test ---------------------------------------------------------------------------------------------------- */

static bool compare_numbers(double a, sp_compare compare, double b)
{
    switch (compare) {
    case SP_LESS:
        return a < b;
    case SP_LESS_EQUAL:
        return a <= b;
    case SP_EQUAL:
        return a == b;
    case SP_NOT_EQUAL:
        return a != b;
    case SP_GREATER_EQUAL:
        return a >= b;
    case SP_GREATER:
        return a > b;
    }
    return false;
}

static bool named_holds(const sp_condition *c, const char *(*look_up)(void *, const char *), void *context)
{
    const char *value = look_up ? look_up(context, c->name) : NULL;
    bool equal = value && !strcmp(value, c->value);
    return equal == (c->compare == SP_EQUAL);
}

bool sp_condition_holds(const sp_condition *condition, const sp_facts *facts)
{
    const sp_condition *c = condition;
    bool holds = false;
    switch (c->kind) {
    case SP_CONDITION_TIER:
        for (int i = 0; i < c->tier_count && !holds; i++)
            holds = !strcmp(c->tiers[i], facts->tier);
        return holds != c->negated;
    case SP_CONDITION_TIME:
        if (c->from_minute <= c->to_minute)
            holds = facts->minute_of_day >= c->from_minute && facts->minute_of_day < c->to_minute;
        else
            holds = facts->minute_of_day >= c->from_minute || facts->minute_of_day < c->to_minute;
        return holds != c->negated;
    case SP_CONDITION_FORCE_CPU:
        return facts->force_cpu != c->negated;
    case SP_CONDITION_QUEUE_DEPTH:
        return compare_numbers(facts->queue_depth, c->compare, c->number);
    case SP_CONDITION_PAYLOAD_BYTES:
        return compare_numbers((double)facts->payload_bytes, c->compare, c->number);
    case SP_CONDITION_DURATION_S:
        if (!(facts->duration_s >= 0))
            return c->compare == SP_NOT_EQUAL;
        return compare_numbers(facts->duration_s, c->compare, c->number);
    case SP_CONDITION_HEADER:
        return named_holds(c, facts->header, facts->context);
    case SP_CONDITION_PARAMETER:
        return named_holds(c, facts->parameter, facts->context);
    }
    return false;
}

bool sp_condition_is_live(const sp_condition *condition)
{
    return condition->kind == SP_CONDITION_QUEUE_DEPTH || condition->kind == SP_CONDITION_TIME;
}
