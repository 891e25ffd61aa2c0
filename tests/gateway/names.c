/* SPDX-License-Identifier: Apache-2.0
 * gateway/names: bearer tokens, hosts, origins and networks as they are written. */
#include "gateway/names.h"
#include "test.h"

#include <stdio.h>

static bool bearer(const char *header, const char *token)
{
    sp_view text;
    return gw_bearer_read(header, &text) && sp_view_equals(text, token);
}

TEST(names_bearer_tokens)
{
    char text[GW_TOKEN_BYTES + 16] = "Bearer ";
    sp_view token;
    CHECK(bearer("Bearer abc", "abc"));
    CHECK(bearer("bEARER  a-._~+/=Z9 ", "a-._~+/=Z9"));
    CHECK(!gw_bearer_read("", &token));
    CHECK(!gw_bearer_read("Bearer", &token));
    CHECK(!gw_bearer_read("Bearer ", &token));
    CHECK(!gw_bearer_read("Bearer a b", &token));
    CHECK(!gw_bearer_read("Bearer\tabc", &token));
    CHECK(!gw_bearer_read("Bearer a,b", &token));
    CHECK(!gw_bearer_read("Basic abc", &token));
    CHECK(!gw_bearer_read("Bearer \xc3\xa9", &token));
    memset(text + 7, 'a', GW_TOKEN_BYTES);
    text[7 + GW_TOKEN_BYTES] = 0;
    CHECK(gw_bearer_read(text, &token));
    text[7 + GW_TOKEN_BYTES] = 'a';
    text[8 + GW_TOKEN_BYTES] = 0;
    CHECK(!gw_bearer_read(text, &token));
}

static const char *host(const char *header, bool origin)
{
    static char name[300];
    sp_view view;
    if (!(origin ? gw_origin_read : gw_host_read)(header, &view))
        return "(none)";
    (void)snprintf(name, sizeof(name), "%.*s", (int)view.size_bytes, (const char *)view.data);
    return name;
}

TEST(names_hosts_and_origins)
{
    CHECK_TEXT(host("localhost", false), "localhost");
    CHECK_TEXT(host("localhost:8000", false), "localhost");
    CHECK_TEXT(host("[::1]:8000", false), "::1");
    CHECK_TEXT(host("[::1]", false), "::1");
    CHECK_TEXT(host("a_b-c.d", false), "a_b-c.d");
    static const char *const bad[] = { "", ":", ":80", "a:", "a:b", "a:65536", "a:123456", "a b", "a/", "a@b", "[::1", "[]",
                                       "[g]", "[::1]x", "::1", "a:80:80", "\x80" };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++)
        CHECK_TEXT(host(bad[i], false), "(none)");
    CHECK_TEXT(host("http://localhost:3000", true), "localhost");
    CHECK_TEXT(host("HTTPS://Example.org", true), "Example.org");
    static const char *const bad_origins[] = { "null", "", "file://", "http://", "http:/a", "ftp://a", "http://a/", "localhost" };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad_origins); i++)
        CHECK_TEXT(host(bad_origins[i], true), "(none)");
}

TEST(names_of_loopback)
{
    static const char *const good[] = { "localhost", "LocalHost", "localhost.", "a.localhost", "127.0.0.1", "127.255.1.2", "::1",
                                        "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1" };
    static const char *const bad[] = { "", ".", "localhost.evil", "xlocalhost", ".localhost.x", "128.0.0.1", "::2", "0.0.0.0", "::",
                                       "127.0.0.1.nip.io", "127.1", "0x7f.0.0.1", "::ffff:128.0.0.1" };
    for (size_t i = 0; i < SP_ARRAY_LEN(good); i++)
        CHECK(gw_name_is_loopback(sp_view_of(good[i])));
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++)
        CHECK(!gw_name_is_loopback(sp_view_of(bad[i])));
}

static bool in(const char *network, const char *address)
{
    gw_network n, a;
    REQUIRE(gw_network_read(network, &n) && gw_network_read(address, &a));
    return gw_network_has(&n, a.address);
}

TEST(names_networks)
{
    CHECK(in("10.0.0.0/8", "10.255.1.2"));
    CHECK(!in("10.0.0.0/8", "11.0.0.1"));
    CHECK(in("10.1.2.3", "10.1.2.3"));
    CHECK(!in("10.1.2.3", "10.1.2.4"));
    CHECK(in("192.168.4.0/22", "192.168.7.255"));
    CHECK(!in("192.168.4.0/22", "192.168.8.0"));
    CHECK(in("0.0.0.0/0", "1.2.3.4"));
    CHECK(!in("0.0.0.0/0", "fd00::1"));
    CHECK(in("fd00::/8", "fdff::1"));
    CHECK(!in("fd00::/8", "fe00::1"));
    CHECK(in("::/0", "fe00::1"));
    CHECK(in("2001:db8::/33", "2001:db8:7fff::"));
    CHECK(!in("2001:db8::/33", "2001:db8:8000::"));
    gw_network n;
    static const char *const bad[] = { "", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8x", "fd00::/129", "a", "10.0.0",
                                       "10.0.0.0/0008" };
    for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++)
        CHECK(!gw_network_read(bad[i], &n));
}
