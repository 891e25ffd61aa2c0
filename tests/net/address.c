/* SPDX-License-Identifier: Apache-2.0
 * provider/address: the table of what a user's URL may not lead to, at its edges. */
#include "provider/address.h"
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

static const char *refusal(const char *text)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return sp_address_refusal((struct sockaddr *)&v4);
    if (inet_pton(AF_INET6, text, &v6.sin6_addr) != 1)
        test_fail(__FILE__, __LINE__, "%s is no address", text);
    return sp_address_refusal((struct sockaddr *)&v6);
}

TEST(private_addresses_are_refused)
{
    static const char *const refused[] = {
        "0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "100.100.100.200", "127.0.0.1",
        "127.255.255.255", "168.63.129.16", "169.254.0.0", "169.254.169.254", "169.254.255.255", "172.16.0.0", "172.31.255.255",
        "192.0.0.0", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255",
        "198.51.100.7", "203.0.113.7", "224.0.0.0", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:0:192.168.1.1", "::ffff:169.254.169.254",
        "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:0a00:0001::1", "2002:c0a8:101::", "3fff::1", "3fff:fff::1", "5f00::1",
        "fc00::", "fd00:ec2::254", "fdff:ffff::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "1fff::1",
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(refused); i++) {
        if (!refusal(refused[i]))
            test_fail(__FILE__, __LINE__, "%s is let through", refused[i]);
    }
}

TEST(public_addresses_are_let_through)
{
    static const char *const open[] = {
        "1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1",
        "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255",
        "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "203.0.112.255", "203.0.114.0",
        "223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2001:200::1", "2001:4860:4860::8888",
        "2606:4700:4700::1111", "2a00:1450::1", "3ffe::1", "3fff:1000::1",
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(open); i++) {
        const char *words = refusal(open[i]);
        if (words)
            test_fail(__FILE__, __LINE__, "%s is refused as %s", open[i], words);
    }
}

TEST(what_is_no_internet_address_is_refused)
{
    struct sockaddr_un local = { .sun_family = AF_UNIX, .sun_path = "/run/docker.sock" };
    CHECK_TEXT(sp_address_refusal((struct sockaddr *)&local), "no internet address");
}

/* Each IPv4 address means the same however an IPv6 one carries it. */
TEST(carried_addresses_are_judged_as_themselves)
{
    for (int i = 0; i < 20000; i++) {
        uint32_t bits = (uint32_t)test_random();
        uint8_t bytes[4] = { (uint8_t)(bits >> 24), (uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits };
        struct sockaddr_in v4 = { .sin_family = AF_INET };
        memcpy(&v4.sin_addr, bytes, 4);
        bool refused = sp_address_refusal((struct sockaddr *)&v4) != NULL;
        static const uint8_t mapped[16] = { [10] = 0xff, [11] = 0xff }, nat64[16] = { 0, 0x64, 0xff, 0x9b }, six[16] = { 0x20, 0x02 };
        const struct {
            const uint8_t *prefix;
            int at;
        } carriers[] = { { mapped, 12 }, { nat64, 12 }, { six, 2 } };
        for (size_t c = 0; c < SP_ARRAY_LEN(carriers); c++) {
            struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
            memcpy(&v6.sin6_addr, carriers[c].prefix, 16);
            memcpy((uint8_t *)&v6.sin6_addr + carriers[c].at, bytes, 4);
            CHECK((sp_address_refusal((struct sockaddr *)&v6) != NULL) == refused);
        }
    }
}
