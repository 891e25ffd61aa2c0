/* SPDX-License-Identifier: Apache-2.0
 * policy/condition: what each condition says of a request, and what is said to whoever wrote one wrongly. */
#include "policy/condition.h"
#include "test.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *look_up(void *context, const char *name)
{
    (void)context;
    return !strcasecmp(name, "x-quality") ? "high" : !strcasecmp(name, "mode") ? "two words" : NULL;
}

/* tier pro, 11 waiting, 10 MiB, 30 s, 23:30, not forced, header or parameter X-Quality: high. */
static const sp_facts usual = { .tier = "pro", .queue_depth = 11, .payload_bytes = 10485760, .duration_s = 30,
                                .minute_of_day = 23 * 60 + 30, .header = look_up, .parameter = look_up };
/* Nothing known. */
static const sp_facts bare = { .tier = "", .duration_s = -1, .force_cpu = true };

TEST(condition_table)
{
    static const struct {
        const char *text;
        bool usual, bare, live;
    } rows[] = {
        { "tier in [premium, pro]", true, false, false },
        { "tier in [premium]", false, false, false },
        { "tier not in [free]", true, true, false },
        { "tier not in [pro]", false, true, false },
        { "  tier   in[a,b,c,d,e,f,g,pro]  ", true, false, false },
        { "queue_depth > 10", true, false, true },
        { "queue_depth > 11", false, false, true },
        { "queue_depth >= 11", true, false, true },
        { "queue_depth < 11", false, true, true },
        { "queue_depth<=11", true, true, true },
        { "queue_depth == 11", true, false, true },
        { "queue_depth != 11", false, true, true },
        { "time in 22:00-06:00", true, true, true }, /* bare: midnight */
        { "time in 06:00-22:00", false, false, true },
        { "time not in 22:00-06:00", false, false, true },
        { "time in 23:30-23:31", true, false, true },
        { "time in 23:00-23:30", false, false, true },
        { "time in 0:00-24:00", true, true, true },
        { "payload_bytes < 10MiB", false, true, false },
        { "payload_bytes <= 10MiB", true, true, false },
        { "payload_bytes > 10MB", true, false, false },
        { "payload_bytes >= 0.01 GB", true, false, false },
        { "payload_bytes == 10485760", true, false, false },
        { "payload_bytes == 10485760B", true, false, false },
        { "payload_bytes < 11000 KB", true, true, false },
        { "payload_bytes > 1GiB", false, false, false },
        { "duration_s > 29.5", true, false, false },
        { "duration_s < 30", false, false, false }, /* unknown is neither short nor long */
        { "duration_s != 30", false, true, false },
        { "force_cpu", false, true, false },
        { "not force_cpu", true, false, false },
        { "header X-Quality == high", true, false, false },
        { "header X-Quality != high", false, true, false },
        { "header X-Other == high", false, false, false },
        { "header X-Other != high", true, true, false },
        { "header mode == \"two words\"", true, false, false },
        { "parameter mode=='two words'", true, false, false },
        { "parameter x-quality == low", false, false, false },
        { "parameter x-quality == \"\"", false, false, false },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_condition c;
        sp_error err = { 0 };
        if (sp_condition_parse(rows[i].text, &c, &err)) {
            test_fail(__FILE__, __LINE__, "%s: %s", rows[i].text, err.message);
            continue;
        }
        CHECK_TEXT(c.text, rows[i].text);
        if (sp_condition_holds(&c, &usual) != rows[i].usual || sp_condition_holds(&c, &bare) != rows[i].bare ||
            sp_condition_is_live(&c) != rows[i].live)
            test_fail(__FILE__, __LINE__, "%s: usual %d, bare %d, live %d", rows[i].text, sp_condition_holds(&c, &usual),
                      sp_condition_holds(&c, &bare), sp_condition_is_live(&c));
    }
}

TEST(what_is_wrong_is_said)
{
    static const struct {
        const char *text, *word, *hint;
    } rows[] = {
        { "", "ends too early", "queue_depth" },
        { "tire in [pro]", "\"tire\"", "tier" },
        { "tiers in [pro]", "\"tiers\"", "tier" },
        { "tier", "ends too early", "in or not in" },
        { "tier == pro", "\"==\"", "in or not in" },
        { "tier not [pro]", "\"[pro]\"", "in" },
        { "tier in pro", "\"pro\"", "list" },
        { "tier in []", "\"]\"", "name" },
        { "tier in [pro", "ends too early", "]" },
        { "tier in [pro,]", "\"]\"", "name" },
        { "tier in [a,b,c,d,e,f,g,h,i]", "more than 8", "" },
        { "tier in [abcdefghijklmnopqrstuvwxyz]", "too long", "23" },
        { "queue_depth 10", "\"10\"", "comparison" },
        { "queue_depth = 10", "\"=\"", "==" },
        { "queue_depth > many", "\"many\"", "number" },
        { "queue_depth > -1", "\"-1\"", "number" },
        { "queue_depth > 1e3", "\"e3\"", "nothing more" },
        { "queue_depth > 10 and force_cpu", "\"and\"", "entries of the list" },
        { "queue_depth > 1111111111111111111111111111111111111111", "not understood", "shorter" },
        { "time in 22-6", "\"22-6\"", "22:00-06:00" },
        { "time in 25:00-06:00", "\"25:00-06:00\"", "time of day" },
        { "time in 24:00-06:00", "not understood", "time of day" },
        { "time in 22:00-24:01", "not understood", "time of day" },
        { "time in 22:60-06:00", "not understood", "time of day" },
        { "time in 22:00 06:00", "not understood", "-" },
        { "time in 22:00-22:00", "empty", "00:00-24:00" },
        { "payload_bytes < 10 MBit", "\"MBit\"", "unit" },
        { "payload_bytes < MiB", "\"MiB\"", "10MiB" },
        { "duration_s > 3m", "\"m\"", "nothing more" },
        { "not tier in [pro]", "\"tier\"", "force_cpu" },
        { "header == high", "\"==\"", "name" },
        { "header X-Quality > high", "\">\"", "== or !=" },
        { "header X-Quality == ", "ends too early", "value" },
        { "header X-Quality == \"high", "not understood", "closing quote" },
        { "parameter x == y z", "\"z\"", "nothing more" },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        sp_condition c = { .number = 42 };
        sp_error err = { 0 };
        CHECK_INT(sp_condition_parse(rows[i].text, &c, &err), SP_INVALID);
        CHECK(c.number == 42); /* untouched */
        if (!strstr(err.message, rows[i].word) || !strstr(err.message, rows[i].hint) || strcmp(err.code, "bad_condition"))
            test_fail(__FILE__, __LINE__, "\"%s\" said \"%s\", wanted \"%s\" and \"%s\"", rows[i].text, err.message, rows[i].word,
                      rows[i].hint);
    }
}

TEST(long_texts_are_refused_not_cut)
{
    char text[400];
    sp_condition c;
    sp_error err = { 0 };
    memset(text, ' ', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    memcpy(text, "force_cpu", 9);
    CHECK_INT(sp_condition_parse(text, &c, &err), SP_INVALID);
    text[sizeof(c.text) - 1] = '\0';
    CHECK_INT(sp_condition_parse(text, &c, &err), SP_OK);
    memset(text, 'x', 100);
    memcpy(text, "header ", 7);
    text[100] = '\0';
    CHECK_INT(sp_condition_parse(text, &c, &err), SP_INVALID);
    CHECK_INT(sp_condition_parse(text, &c, NULL), SP_INVALID);
}

/* Random mixtures of the grammar's own words: nothing reads outside its string, and what is accepted can be tested. */
TEST(random_words_do_no_harm)
{
    static const char *const words[] = { "tier ", "in ", "not ", "[", "]", ",", "pro", "queue_depth ", ">", "==", "!=", "10", "MiB",
                                         "time ", "22:00", "-", "06:00", "header ", "\"", "'", "parameter ", "force_cpu", "\xff", "\t" };
    int accepted = 0;
    for (int i = 0; i < 50000; i++) {
        char text[256] = "";
        size_t length = 0;
        for (int k = test_random_between(1, 9); k; k--) {
            const char *word = words[test_random() % SP_ARRAY_LEN(words)];
            length += (size_t)snprintf(text + length, sizeof(text) - length, "%s", word);
        }
        sp_condition c;
        sp_error err = { 0 };
        if (!sp_condition_parse(text, &c, &err)) {
            accepted++;
            (void)sp_condition_holds(&c, &usual);
            (void)sp_condition_holds(&c, &bare);
        } else {
            CHECK(err.message[0]);
        }
    }
    CHECK(accepted > 0);
}
