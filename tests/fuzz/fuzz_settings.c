/* SPDX-License-Identifier: Apache-2.0
 * spillway.json from strangers' model packages. What must hold: it is refused with a reason, or it fits a classifier and
 * makes a description that the kernels' own check accepts or refuses. */
#include "kernels/prep_run.h"
#include "task/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[] = "spillway.json";
    static const sp_engine_port input = { .name = "x", .dtype = SP_ENGINE_F32, .rank = 4, .dims = { -1, 3, -1, 224 } };
    static const sp_engine_port output = { .name = "y", .dtype = SP_ENGINE_F32, .rank = 2, .dims = { -1, 1000 } };
    static const sp_engine_ports ports = {
        .input_count = 1, .output_count = 1, .inputs = &input, .outputs = &output
    };
    sp_model model = { .settings_path = path, .max_batch = SP_LIMIT_BATCH };
    char labels[SP_LIMIT_LABEL_BYTES] = "";
    sp_error err = { 0 };
    sp_status s = sp_model_parse_settings(&model, (const char *)data, size, labels, sizeof(labels), &err);
    if (!s)
        s = sp_model_fit(&model, &ports, &err);
    if (s && (s != SP_INVALID || !err.message[0]))
        abort();
    if (!s && (model.max_batch < 1 || model.max_batch > SP_LIMIT_BATCH || model.class_count != 1000))
        abort();
    if (!s && sp_prep_spec_check(&model.prep, &err) == SP_OK && sp_prep_output_bytes(&model.prep) == 0)
        abort();
    return 0;
}
