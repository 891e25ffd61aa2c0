/* SPDX-License-Identifier: Apache-2.0
 * The gateway with the fake house: fake_gateway [BIND [DRAIN_DELAY_MS]]. Any free ports; prints "http PORT metrics PORT
 * admin PORT grpc PORT" (grpc 0: none, unless FAKE_GRPC is set). FAKE_CONFIG (environment) names a configuration file for tokens and the like, FAKE_DATA a directory. */
#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>

static void bound(const sp_gateway_ports *ports, void *context)
{
    (void)context;
    (void)printf("http %d metrics %d admin %d grpc %d\n", ports->http_port, ports->metrics_port, ports->admin_port, ports->grpc_port);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    sp_gateway_config config = sp_gateway_config_default();
    config.bind_address = argc > 1 ? argv[1] : config.bind_address;
    config.drain_delay_ms = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0;
    config.http_port = config.metrics_port = 0;
    config.grpc_port = getenv("FAKE_GRPC") ? 0 : -1;
    config.quiet = true;
    config.bound = bound;
    sp_error err = { 0 };
    config.config_path = getenv("FAKE_CONFIG");
    sp_config_override data = { .key = "data_dir", .origin = "FAKE_DATA" };
    (void)snprintf(data.value, sizeof(data.value), "%s", getenv("FAKE_DATA") ? getenv("FAKE_DATA") : "");
    config.overrides = &data;
    config.override_count = *data.value != 0;
    sp_complaints complaints;
    sp_complaints_init(&complaints);
    if (sp_config_load_over(config.config_path, config.overrides, config.override_count, &config.config, &complaints, &err)) {
        (void)fprintf(stderr, "%s\n%s", err.message, complaints.text.data ? (char *)complaints.text.data : "");
        return 2;
    }
    sp_complaints_done(&complaints);
    sp_status status = sp_gateway_run(&config, &err);
    if (status)
        (void)fprintf(stderr, "%s\n", err.message);
    sp_config_unref(config.config);
    return status ? 1 : 0;
}
