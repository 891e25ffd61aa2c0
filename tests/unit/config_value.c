/* SPDX-License-Identifier: Apache-2.0
 * Durations, sizes, money, dates: what they mean to the last digit, what they must not be, and that what is written reads
 * back. */
#include "config/value.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

TEST(durations)
{
    static const struct {
        const char *text;
        int64_t ns;
    } rows[] = {
        { "0", 0 },
        { "0s", 0 },
        { "1ns", 1 },
        { "7us", 7000 },
        { "500ms", 500000000 },
        { "2s", 2000000000 },
        { "1.5s", 1500000000 },
        { "0.1s", 100000000 },
        { ".5m", 30000000000 },
        { "1h30m", 5400000000000 },
        { "1m1s1ms", 61001000000 },
        { "7d", 604800000000000 },
        { "106751d", 9223286400000000000 },
        { "1.0000000000000000000000001s", 1000000000 },
        { "", -1 },
        { "5", -1 },
        { "s", -1 },
        { "-1s", -1 },
        { "+1s", -1 },
        { "1 s", -1 },
        { "1.2.3s", -1 },
        { "1x", -1 },
        { "1S", -1 },
        { "106752d", -1 },
        { "99999999999999999999s", -1 },
        { "1h30", -1 },
        { ".s", -1 },
        { "1s ", -1 },
        { "nan", -1 },
        { "1e3s", -1 },
    };

    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        int64_t ns = -1;
        bool good = sp_value_duration(rows[i].text, 0, &ns);
        if (good != (rows[i].ns >= 0) || ns != rows[i].ns)
            test_fail(__FILE__, __LINE__, "'%s' is %lld, not %lld", rows[i].text, (long long)ns, (long long)rows[i].ns);
    }
    int64_t ns = 0;
    CHECK(sp_value_duration("5", 1000000000, &ns) && ns == 5000000000);
    CHECK(!sp_value_duration("-5", 1000000000, &ns));
}

TEST(sizes)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } rows[] = {
        { "0", 0 },
        { "17", 17 },
        { "1B", 1 },
        { "64KiB", 65536 },
        { "10MiB", 10485760 },
        { "10 MiB", 10485760 },
        { "2GB", 2000000000 },
        { "1.5KiB", 1536 },
        { "1kB", 1000 },
        { "1TiB", 1099511627776 },
        { "0.5B", -1 },
        { "1.0001KiB", -1 },
        { "10Mi", -1 },
        { "MiB", -1 },
        { "-1", -1 },
        { "1e3", -1 },
        { "99999999TiB", -1 },
        { "10MiB ", -1 },
        { "", -1 },
    };

    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        uint64_t bytes = (uint64_t)-1;
        bool good = sp_value_size(rows[i].text, &bytes);
        if (good != (rows[i].bytes >= 0) || bytes != (uint64_t)rows[i].bytes)
            test_fail(__FILE__, __LINE__, "'%s' is %lld, not %lld", rows[i].text, (long long)bytes,
                      (long long)rows[i].bytes);
    }
}

TEST(money_is_exact)
{
    static const struct {
        const char *text;
        int64_t microdollars;
    } rows[] = {
        { "0", 0 },
        { "0.20", 200000 },
        { ".05", 50000 },
        { "$.05", 50000 },
        { "4", 4000000 },
        { "4.00", 4000000 },
        { "0.006", 6000 },
        { "0.000001", 1 },
        { "12.345678", 12345678 },
        { "0.1", 100000 },
        { "0.29", 290000 },
        { "1.0000000000000000000000", 1000000 },
        { "9223372036854.775807", INT64_MAX },
        { "9223372036854.775808", -1 },
        { "0.0000001", -1 },
        { "0.2000000000000000000001", -1 },
        { "-1", -1 },
        { "1e3", -1 },
        { "1,5", -1 },
        { "", -1 },
        { "$", -1 },
        { ".", -1 },
        { "0.20 ", -1 },
        { "1.2.3", -1 },
        { "99999999999999999999", -1 },
        { "inf", -1 },
    };

    for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
        int64_t money = -1;
        bool good = sp_value_money(rows[i].text, &money);
        if (good != (rows[i].microdollars >= 0) || money != rows[i].microdollars)
            test_fail(__FILE__, __LINE__, "'%s' is %lld, not %lld", rows[i].text, (long long)money,
                      (long long)rows[i].microdollars);
    }
}

TEST(dates)
{
    int64_t s = 0;

    CHECK(sp_value_date("2027-01-31", &s) && s == 1801353600);
    CHECK(sp_value_date("2027-01-31T12:00:01Z", &s) && s == 1801396801);
    CHECK(sp_value_date("2028-02-29", &s) && s == 1835395200);
    for (const char *const *p = (const char *const[]){ "2027-02-29", "2027-06-31", "2027-13-01", "2027", "tomorrow",
                                                       "2027-01-31T12:00", "1969-01-01", "2027-01-31x", "", NULL };
         *p; p++)
        if (sp_value_date(*p, &s))
            test_fail(__FILE__, __LINE__, "'%s' was taken for a date", *p);
}

TEST(what_is_written_reads_back)
{
    char text[SP_VALUE_TEXT_BYTES];

    for (int i = 0; i < 20000; i++) {
        int64_t value = (int64_t)(test_random() >> test_random_between(1, 63)), back = -1;
        uint64_t bytes = 1;
        double real = (double)value / 1000.0, real_back = -1;
        sp_value_duration_text(value, text);
        if (!sp_value_duration(text, 0, &back) || back != value)
            test_fail(__FILE__, __LINE__, "duration %lld was written as %s", (long long)value, text);
        sp_value_money_text(value, text);
        if (!sp_value_money(text, &back) || back != value)
            test_fail(__FILE__, __LINE__, "money %lld was written as %s", (long long)value, text);
        sp_value_size_text((uint64_t)value, text);
        if (!sp_value_size(text, &bytes) || bytes != (uint64_t)value)
            test_fail(__FILE__, __LINE__, "size %lld was written as %s", (long long)value, text);
        sp_value_double_text(real, text);
        if (!sp_value_double(text, &real_back) || real_back != real)
            test_fail(__FILE__, __LINE__, "%.17g was written as %s", real, text);
    }
    sp_value_money_text(200000, text);
    CHECK_TEXT(text, "0.20");
    sp_value_money_text(6000, text);
    CHECK_TEXT(text, "0.006");
}
