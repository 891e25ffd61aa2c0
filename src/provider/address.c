/* SPDX-License-Identifier: Apache-2.0
 * The special-purpose registries of IANA (RFC 6890 and what came after it) as two tables. */
#include "provider/address.h"

#include "base/attr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

typedef struct v4_range {
    uint8_t bytes[4];
    int bits;
    const char *words;
} v4_range;

static const v4_range v4_ranges[] = {
    { { 0, 0, 0, 0 }, 8, "this network" },
    { { 10, 0, 0, 0 }, 8, "private network" },
    { { 100, 64, 0, 0 }, 10, "carrier-grade NAT" },
    { { 127, 0, 0, 0 }, 8, "loopback" },
    { { 168, 63, 129, 16 }, 32, "cloud metadata" }, /* Azure's, the one in public space */
    { { 169, 254, 0, 0 }, 16, "link-local (cloud metadata)" },
    { { 172, 16, 0, 0 }, 12, "private network" },
    { { 192, 0, 0, 0 }, 24, "protocol assignments" },
    { { 192, 0, 2, 0 }, 24, "documentation" },
    { { 192, 88, 99, 0 }, 24, "6to4 relay" },
    { { 192, 168, 0, 0 }, 16, "private network" },
    { { 198, 18, 0, 0 }, 15, "benchmarking" },
    { { 198, 51, 100, 0 }, 24, "documentation" },
    { { 203, 0, 113, 0 }, 24, "documentation" },
    { { 224, 0, 0, 0 }, 4, "multicast" },
    { { 240, 0, 0, 0 }, 4, "reserved or broadcast" },
};

typedef struct v6_range {
    uint8_t bytes[16];
    int bits;
    const char *words;
} v6_range;

/* Only 2000::/3 is handed out as public unicast; these are refused inside it, or deserve a better word than "reserved". */
static const v6_range v6_ranges[] = {
    { { 0 }, 128, "unspecified" },
    { { [15] = 1 }, 128, "loopback" },
    { { 0xfe, 0x80 }, 10, "link-local" },
    { { 0xfe, 0xc0 }, 10, "site-local" },
    { { 0xfc }, 7, "private network (unique local)" },
    { { 0xff }, 8, "multicast" },
    { { 0x20, 0x01, 0x00 }, 23, "protocol assignments (Teredo)" },
    { { 0x20, 0x01, 0x0d, 0xb8 }, 32, "documentation" },
    { { 0x3f, 0xff, 0x00 }, 20, "documentation" },
};

/* Where an IPv4 address is carried inside an IPv6 one: prefix, and at which byte. */
static const struct {
    uint8_t bytes[16];
    int bits, at;
} v6_carriers[] = {
    { { [10] = 0xff, [11] = 0xff }, 96, 12 },  /* ::ffff:a.b.c.d, mapped */
    { { [8] = 0xff, [9] = 0xff }, 96, 12 },    /* ::ffff:0:a.b.c.d, translated (SIIT) */
    { { 0x00, 0x64, 0xff, 0x9b }, 96, 12 },    /* 64:ff9b::a.b.c.d, NAT64 */
    { { 0x20, 0x02 }, 16, 2 },                 /* 2002:a.b:c.d::, 6to4 */
};

static bool in_range(const uint8_t *address, const uint8_t *prefix, int bits)
{
    int whole = bits / 8, rest = bits % 8;
    if (memcmp(address, prefix, (size_t)whole) != 0)
        return false;
    return rest == 0 || ((address[whole] ^ prefix[whole]) >> (8 - rest)) == 0;
}

static const char *v4_refusal(const uint8_t *address)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(v4_ranges); i++) {
        if (in_range(address, v4_ranges[i].bytes, v4_ranges[i].bits))
            return v4_ranges[i].words;
    }
    return NULL;
}

static const char *v6_refusal(const uint8_t *address)
{
    static const uint8_t zeros[12], global[1] = { 0x20 };
    for (size_t i = 0; i < SP_ARRAY_LEN(v6_ranges); i++) {
        if (in_range(address, v6_ranges[i].bytes, v6_ranges[i].bits))
            return v6_ranges[i].words;
    }
    for (size_t i = 0; i < SP_ARRAY_LEN(v6_carriers); i++) {
        if (in_range(address, v6_carriers[i].bytes, v6_carriers[i].bits))
            return v4_refusal(address + v6_carriers[i].at);
    }
    if (memcmp(address, zeros, sizeof(zeros)) == 0) /* ::a.b.c.d, compatible: deprecated, and routed nowhere good */
        return "IPv4-compatible";
    return in_range(address, global, 3) ? NULL : "reserved";
}

const char *sp_address_refusal(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        return v4_refusal((const uint8_t *)&v4->sin_addr.s_addr);
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        return v6_refusal(v6->sin6_addr.s6_addr);
    }
    return "no internet address";
}
