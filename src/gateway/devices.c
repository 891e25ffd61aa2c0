/* SPDX-License-Identifier: Apache-2.0
 * What is known of this machine's devices: GET /v1/devices, and the devices' part of the metrics page. */
#include "gateway/server.h"
#include "telemetry/devices.h"

void gw_devices_metrics(const gw_server *server, sp_buf *out)
{
    sp_device_info devices[GW_DEVICES];
    sp_telemetry_write_devices(out, devices, sp_house_device_samples(server->house, devices, GW_DEVICES));
}

void gw_page_devices(gw_conn *conn)
{
    sp_device_info devices[GW_DEVICES];
    sp_buf json;
    sp_buf_init(&json, SP_LIMIT_JSON_BYTES);
    sp_telemetry_devices_json(&json, devices, sp_house_device_samples(conn->server->house, devices, GW_DEVICES));
    gw_reply_json(conn, 200, &json, NULL);
}
