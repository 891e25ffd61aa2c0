/* SPDX-License-Identifier: Apache-2.0
 * config.pbtxt (and, behind a leading '{', the JSON form) of any content. What must hold: it is refused with an error that
 * names the file, or it is a configuration whose JSON reads back to the same JSON. */
#include "model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool what)
{
    if (!what)
        abort();
}

static void written_reads_back(const sp_model_config *config)
{
    static sp_model_config again;
    sp_error err = { 0 };
    sp_buf first, second;

    sp_buf_init(&first, 16 * 1024 * 1024);
    sp_buf_init(&second, 16 * 1024 * 1024);
    sp_model_config_write(config, &first);
    must(sp_buf_ok(&first));
    if (first.size_bytes <= SP_LIMIT_MODEL_CONFIG_BYTES) {
        must(sp_model_config_read("again", sp_buf_view(&first), &again, &err) == SP_OK);
        sp_model_config_write(&again, &second);
        must(first.size_bytes == second.size_bytes && !memcmp(first.data, second.data, first.size_bytes));
        sp_model_config_done(&again);
    }
    sp_buf_done(&first);
    sp_buf_done(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sp_model_config config; /* 100 KiB */
    sp_error err = { 0 };
    sp_view text = sp_view_make(data, size);
    bool json = size && data[0] == '{';
    sp_status status = json ? sp_model_config_read("f", text, &config, &err) : sp_model_config_parse("f", text, &config, &err);

    must(!status || (strncmp(err.message, "f:", 2) == 0 && (status == SP_INVALID || status == SP_TOO_LARGE)));
    if (!status)
        status = sp_model_config_complete(&config, "f", NULL, &err);
    if (!status)
        status = sp_model_config_check(&config, "f", &err);
    must(!status || *err.message);
    if (!status)
        written_reads_back(&config);
    sp_model_config_done(&config);
    return 0;
}
