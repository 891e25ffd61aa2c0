/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into a net worker: a resolver that takes ten seconds for slow.test, and says that inside.test is this machine.
 * All other names go to the real one. */
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int resolve_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                                                       struct addrinfo **result)
{
    resolve_fn *real;
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
    memcpy(&real, &symbol, sizeof(real));
    if (node && strcmp(node, "slow.test") == 0) {
        (void)sleep(10);
        return EAI_AGAIN;
    }
    return real(node && strcmp(node, "inside.test") == 0 ? "127.0.0.1" : node, service, hints, result);
}
