/* SPDX-License-Identifier: Apache-2.0
 * What the headers Authorization, Host and Origin and the configured peers say, as text: pure functions, fuzzed. */
#ifndef SP_GATEWAY_NAMES_H
#define SP_GATEWAY_NAMES_H

#include "base/view.h"

/* Longest token that is looked at. */
#define GW_TOKEN_BYTES 512

/* "Bearer TEXT" (the word in any case, one or more blanks): TEXT has 1 to GW_TOKEN_BYTES of RFC 6750's characters. */
bool gw_bearer_read(const char *header, sp_view *ret_token);

/* The name of "name", "name:port", "[v6]" and "[v6]:port", without brackets. False: it is none of these. */
bool gw_host_read(const char *header, sp_view *ret_name);
/* The same of an Origin: "http://host:port". "null" and other schemes are false. */
bool gw_origin_read(const char *header, sp_view *ret_name);
/* "localhost", "*.localhost", 127.x.y.z, ::1. */
bool gw_name_is_loopback(sp_view name);
bool gw_name_equals(sp_view name, const char *text); /* in any case */

/* An address as gw_conn keeps it: 16 bytes, IPv4 as ::ffff:a.b.c.d. */
typedef struct gw_network {
    uint8_t address[16];
    int bits; /* of 128 */
} gw_network;
/* "10.1.2.3", "10.0.0.0/8", "fd00::/8". */
bool gw_network_read(const char *text, gw_network *ret_network);
bool gw_network_has(const gw_network *network, const uint8_t address[16]);
bool gw_address_is_loopback(const uint8_t address[16]);

#endif
