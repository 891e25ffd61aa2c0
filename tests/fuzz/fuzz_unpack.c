/* SPDX-License-Identifier: Apache-2.0
 * KServe requests as the codec gets them: encoding, header length, body. What is read must be written and read again to the
 * same, its tensors lie one behind the other, and their text reads back to their bytes. */
#include "kserve/json.h"
#include "kserve/text.h"
#include "model/config.h"
#include "worker/unpack.h"

#include <stdlib.h>

static uint8_t *output;
static size_t output_bytes;

static uint8_t *grow(void *context, size_t size_bytes, sp_error *reterr)
{
    (void)context, (void)reterr;
    if (size_bytes > output_bytes) {
        output = realloc(output, size_bytes);
        if (!output)
            abort();
        output_bytes = size_bytes;
    }
    return output;
}

/* The array as text, read again, gives the same bytes; strings that were no UTF-8 may change, NaNs lose their payload. */
static void there_and_back(const sp_kserve_input *input, const uint8_t *data)
{
    size_t need = sp_kserve_data_write(input->dtype, data, input->bytes, NULL, 0);
    if (input->dtype == SP_DTYPE_BYTES || need > 1 << 20)
        return;
    uint64_t count = input->bytes / sp_dtype_bytes(input->dtype), used = 0;
    char *text = malloc(need);
    uint8_t *back = malloc(input->bytes + 1);
    if (!text || !back || sp_kserve_data_write(input->dtype, data, input->bytes, text, need) != need)
        abort();
    sp_text at = { (uint8_t *)text, (uint8_t *)text, (uint8_t *)text + need };
    bool odd_bool = false;
    for (uint64_t i = 0; input->dtype == 9 && i < count; i++)
        odd_bool |= data[i] > 1;
    if (sp_data_read(&at, input->dtype, count, back, &used, NULL) || used != input->bytes)
        abort();
    if (!odd_bool && memcmp(back, data, input->bytes) != 0 && !memmem(text, need, "NaN", 3))
        abort();
    free(text);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static sp_kserve_request request;
    sp_error err = { 0 };
    sp_buf header;
    uint64_t tensor_bytes = 0, offset = 0;
    if (size_bytes < 3)
        return 0;
    sp_buf_init(&header, SP_LIMIT_KSERVE_HEADER_BYTES);
    uint32_t header_bytes = (uint32_t)(data[1] | data[2] << 8);
    if (!sp_unpack(sp_view_make(data + 3, size_bytes - 3), (sp_encoding)(data[0] % 4), header_bytes, grow, NULL, &header,
                   &tensor_bytes, &err)) {
        if (sp_kserve_request_parse(sp_buf_view(&header), tensor_bytes, NULL, &request, &err))
            abort();
        for (int i = 0; i < request.input_count; i++) {
            const sp_kserve_input *input = &request.inputs[i];
            if (input->place == SP_PLACE_SHARED)
                continue;
            if (input->place != SP_PLACE_BINARY || input->offset != offset || offset + input->bytes > tensor_bytes)
                abort();
            size_t each = sp_dtype_bytes(input->dtype);
            if (!each || input->bytes % each == 0)
                there_and_back(input, output + offset);
            offset += input->bytes;
        }
        if (offset != tensor_bytes)
            abort();
    }
    sp_buf_done(&header);
    return 0;
}
