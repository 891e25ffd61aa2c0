/* SPDX-License-Identifier: Apache-2.0
 * jobs/outputs.c and jobs/document.c: what is taken as a target, what is refused, how it is told. */
#include "test.h"

#include "jobs/document.h"
#include "jobs/outputs.h"

#include <stdio.h>
#include <string.h>

static const sp_s3_config no_s3;

static sp_status parse(const char *json, const sp_s3_config *s3, sp_outputs *outputs, sp_error *err)
{
    *err = (sp_error){ 0 };
    return sp_outputs_parse(json, s3, outputs, err);
}

TEST(put_urls_are_kept_and_shown_without_their_query)
{
    static sp_outputs outputs;
    sp_error err;
    sp_buf text;
    CHECK_INT(parse("{\"put_urls\":[\"https://h/a?sig=1\",\"http://h:1/b#x\"]}", &no_s3, &outputs, &err), SP_OK);
    REQUIRE(outputs.count == 2);
    CHECK_TEXT(outputs.items[0].url, "https://h/a?sig=1");
    sp_buf_init(&text, 4096);
    sp_outputs_write(&text, &outputs, 12);
    sp_buf_append(&text, "", 1);
    CHECK_TEXT((const char *)text.data, "{\"output\":[{\"url\":\"https://h/a\",\"bytes\":12},{\"url\":\"http://h:1/b\",\"bytes\":12}]}");
    sp_buf_done(&text);
}

TEST(an_s3_key_is_percent_encoded_behind_endpoint_and_bucket)
{
    static sp_outputs outputs;
    sp_error err;
    sp_s3_config s3 = { .endpoint = "https://s3.example.com/" };
    CHECK_INT(parse("{\"s3\":{\"bucket\":\"b-1\",\"key\":\"/d/a b+\\u00e9?.json\"}}", &s3, &outputs, &err), SP_OK);
    CHECK_TEXT(outputs.items[0].url, "https://s3.example.com/b-1/d/a%20b%2B%C3%A9%3F.json");
    CHECK(outputs.items[0].s3 && outputs.items[0].shown_bytes == strlen(outputs.items[0].url));
    CHECK_INT(parse("{\"s3\":{\"bucket\":\"b\",\"key\":\"k\"}}", &no_s3, &outputs, &err), SP_UNSUPPORTED);
    CHECK_INT(parse("{\"s3\":{\"bucket\":\"../b\",\"key\":\"k\"}}", &s3, &outputs, &err), SP_INVALID);
    char json[4096];
    (void)snprintf(json, sizeof(json), "{\"s3\":{\"bucket\":\"b\",\"key\":\"%01500d\"}}", 0);
    CHECK_INT(parse(json, &s3, &outputs, &err), SP_OK);
    (void)snprintf(json, sizeof(json), "{\"s3\":{\"bucket\":\"b\",\"key\":\"%02100d\"}}", 0);
    CHECK_INT(parse(json, &s3, &outputs, &err), SP_INVALID);
}

TEST(what_is_no_output_is_refused)
{
    static const char *const bad[] = {
        "", "{", "[]", "3", "{}", "{\"put_urls\":\"http://a/\"}", "{\"put_urls\":[1]}", "{\"put_urls\":[\"http://a/\"],\"x\":1}",
        "{\"put_urls\":[\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\","
        "\"http://a/\"]}",
        "{\"s3\":1}", "{\"s3\":{}}", "{\"put_urls\":[\"file:///etc/passwd\"]}",
    };
    static sp_outputs outputs;
    sp_error err;
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
        CHECK_INT(parse(bad[i], &no_s3, &outputs, &err), SP_INVALID);
        CHECK(*err.message && *err.code);
    }
}

TEST(urls_are_checked)
{
    static const struct {
        const char *url;
        bool good;
    } urls[] = {
        { "http://a", true },         { "https://a:1/b?c#d", true }, { "http://[::1]:80/", true }, { "http://a/b@c", true },
        { "ftp://a", false },         { "HTTP://a", false },         { "http://", false },         { "http:///a", false },
        { "http://:80/", false },     { "http://u@a/", false },      { "http://a/ b", false },     { "http://a/\x01", false },
        { "http://a/\xc3\xa9", false }, { "", false },
    };
    char host[16];
    sp_error err;
    for (size_t i = 0; i < SP_ARRAY_LEN(urls); i++) {
        sp_status s = sp_url_check(urls[i].url, 64, "webhook", &err);
        if ((s == SP_OK) != urls[i].good)
            test_fail(__FILE__, __LINE__, "%s: %d", urls[i].url, s);
    }
    CHECK_INT(sp_url_check("http://a/bcdefgh", 16, "webhook", &err), SP_INVALID);
    sp_url_host("https://Example.COM:8443/x", host, sizeof(host));
    CHECK_TEXT(host, "example.com:844"); /* cut to its room */
    sp_url_host("http://Ab?x", host, sizeof(host));
    CHECK_TEXT(host, "ab");
}

TEST(times_are_rfc_3339)
{
    char text[SP_TIME_TEXT_BYTES];
    sp_time_text(INT64_C(1795271716789), text);
    CHECK_TEXT(text, "2026-11-21T14:35:16.789Z");
    sp_time_text(1, text);
    CHECK_TEXT(text, "1970-01-01T00:00:00.001Z");
}

TEST(an_error_names_its_attempts)
{
    sp_error err = { 0 };
    sp_attempt attempts[1] = { { .link = "cpu0", .status = SP_INVALID, .reason = "no \"picture\"" } };
    sp_buf text;
    (void)SP_FAIL_CODE(&err, SP_INVALID, "bad_image", "it is \"bad\"");
    sp_buf_init(&text, 4096);
    sp_job_error_write(&text, &err, attempts, 1);
    sp_buf_append(&text, "", 1);
    CHECK_TEXT((const char *)text.data, "{\"error\":\"it is \\\"bad\\\"\",\"code\":\"bad_image\",\"status\":\"invalid\",\"attempts\":["
                                        "{\"link\":\"cpu0\",\"status\":\"invalid\",\"reason\":\"no \\\"picture\\\"\"}]}");
    sp_buf_done(&text);
}
