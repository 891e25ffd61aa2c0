/* SPDX-License-Identifier: Apache-2.0
 * The gateway with the fake house: fake_gateway [BIND [DRAIN_DELAY_MS]]. Any free ports; prints "http PORT metrics PORT". */
#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>

static void bound(const sp_gateway_ports *ports, void *context)
{
    (void)context;
    (void)printf("http %d metrics %d\n", ports->http_port, ports->metrics_port);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    sp_gateway_config config = sp_gateway_config_default();
    config.bind_address = argc > 1 ? argv[1] : config.bind_address;
    config.drain_delay_ms = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0;
    config.http_port = config.metrics_port = 0;
    config.quiet = true;
    config.bound = bound;
    sp_error err = { 0 };
    if (sp_gateway_run(&config, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    return 0;
}
