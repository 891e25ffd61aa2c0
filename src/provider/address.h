/* SPDX-License-Identifier: Apache-2.0
 * Which network addresses a URL that came from a user may lead to: public unicast ones, and none that could be this
 * machine, its neighbours or a cloud's metadata service. Pure; judged on the address that is about to be connected to,
 * so it does not matter by which name or spelling the URL came to it. */
#ifndef SP_PROVIDER_ADDRESS_H
#define SP_PROVIDER_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* NULL = public. Otherwise a few words on what it is ("loopback", "private network"), static storage. Anything that is
 * neither IPv4 nor IPv6 is "no internet address". */
const char *sp_address_refusal(const struct sockaddr *address);

#endif
