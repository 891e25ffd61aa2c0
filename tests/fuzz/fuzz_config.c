/* SPDX-License-Identifier: Apache-2.0
 * spillway.yaml of any content. What must hold: it is refused with a complaint that names it, or it is taken and the
 * snapshot that net workers get reads back to the same text. */
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_config *config = NULL, *again = NULL;
    sp_complaints complaints;
    sp_error err = { 0 };

    sp_complaints_init(&complaints);
    sp_status status = sp_config_parse("f", (const char *)data, size, &config, &complaints, &err);
    if (status && (status != SP_INVALID || !complaints.count || !complaints.text.size_bytes || !err.message[0]))
        abort();
    if (!status && (complaints.count || sp_config_parse_effective(config->text, config->text_bytes, &again, &err)))
        abort();
    if (!status &&
        (again->text_bytes != config->text_bytes || memcmp(again->text, config->text, config->text_bytes) != 0))
        abort();
    sp_complaints_done(&complaints);
    sp_config_unref(config);
    sp_config_unref(again);
    return 0;
}
