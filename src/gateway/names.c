/* SPDX-License-Identifier: Apache-2.0
 * Small parsers of who asks and whom it means to ask. */
#include "gateway/names.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define NAME_BYTES 255 /* of a host: DNS's own bound */

bool gw_bearer_read(const char *header, sp_view *ret_token)
{
    size_t n = 0;
    if (strncasecmp(header, "Bearer", 6) != 0 || header[6] != ' ')
        return false;
    const char *token = header + 6 + strspn(header + 6, " ");
    while (n <= GW_TOKEN_BYTES && (isalnum((unsigned char)token[n]) || (token[n] && strchr("-._~+/=", token[n]))))
        n++;
    if (!n || n > GW_TOKEN_BYTES || token[n + strspn(token + n, " ")])
        return false;
    *ret_token = sp_view_make(token, n);
    return true;
}

/* ":" and a number up to 65535, or nothing. */
static bool port_good(const char *text)
{
    if (!*text)
        return true;
    size_t n = strspn(text + 1, "0123456789");
    return *text == ':' && n >= 1 && n <= 5 && !text[1 + n] && strtol(text + 1, NULL, 10) <= 65535;
}

bool gw_host_read(const char *header, sp_view *ret_name)
{
    size_t n;
    if (*header == '[') {
        n = strspn(header + 1, "0123456789abcdefABCDEF:.");
        if (!n || n > NAME_BYTES || header[1 + n] != ']' || !port_good(header + n + 2))
            return false;
        *ret_name = sp_view_make(header + 1, n);
        return true;
    }
    for (n = 0; n <= NAME_BYTES && (isalnum((unsigned char)header[n]) || (header[n] && strchr("-._", header[n])));)
        n++;
    if (!n || n > NAME_BYTES || !port_good(header + n))
        return false;
    *ret_name = sp_view_make(header, n);
    return true;
}

bool gw_origin_read(const char *header, sp_view *ret_name)
{
    if (strncasecmp(header, "http://", 7) == 0)
        return gw_host_read(header + 7, ret_name);
    return strncasecmp(header, "https://", 8) == 0 && gw_host_read(header + 8, ret_name);
}

bool gw_name_equals(sp_view name, const char *text)
{
    return strlen(text) == name.size_bytes && strncasecmp((const char *)name.data, text, name.size_bytes) == 0;
}

bool gw_name_is_loopback(sp_view name)
{
    static const char suffix[] = ".localhost";
    char text[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    size_t n = name.size_bytes;
    if (n && name.data[n - 1] == '.')
        n--; /* fully qualified */
    if (gw_name_equals(sp_view_make(name.data, n), "localhost"))
        return true;
    if (n > sizeof(suffix) - 1 &&
        strncasecmp((const char *)name.data + n - (sizeof(suffix) - 1), suffix, sizeof(suffix) - 1) == 0)
        return true; /* RFC 6761: never anybody else's */
    if (!n || n >= sizeof(text))
        return false;
    memcpy(text, name.data, n);
    text[n] = 0;
    if (inet_pton(AF_INET, text, bytes) == 1)
        return bytes[0] == 127;
    return inet_pton(AF_INET6, text, bytes) == 1 && gw_address_is_loopback(bytes);
}

static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

bool gw_network_read(const char *text, gw_network *ret_network)
{
    char address[INET6_ADDRSTRLEN + 1];
    gw_network network = { .bits = 128 };
    size_t n = strcspn(text, "/");
    if (!n || n >= sizeof(address))
        return false;
    memcpy(address, text, n);
    address[n] = 0;
    bool v4 = inet_pton(AF_INET, address, network.address + 12) == 1;
    if (v4)
        memcpy(network.address, mapped, sizeof(mapped));
    else if (inet_pton(AF_INET6, address, network.address) != 1)
        return false;
    if (text[n]) {
        int most = v4 ? 32 : 128, bits = 0;
        size_t digits = strspn(text + n + 1, "0123456789");
        if (!digits || digits > 3 || text[n + 1 + digits])
            return false;
        bits = (int)strtol(text + n + 1, NULL, 10);
        if (bits > most)
            return false;
        network.bits = 128 - most + bits;
    }
    *ret_network = network;
    return true;
}

bool gw_network_has(const gw_network *network, const uint8_t address[16])
{
    int whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(network->address, address, (size_t)whole) != 0)
        return false;
    return !rest || ((network->address[whole] ^ address[whole]) & (0xff << (8 - rest))) == 0;
}

bool gw_address_is_loopback(const uint8_t address[16])
{
    static const uint8_t v6[16] = { [15] = 1 };
    return memcmp(address, v6, 16) == 0 || (memcmp(address, mapped, sizeof(mapped)) == 0 && address[12] == 127);
}
