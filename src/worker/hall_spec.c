/* SPDX-License-Identifier: Apache-2.0
 * Stands in for the reader of load specifications until src/model has it. */
#include "model/card.h"

#include <stdlib.h>

__attribute__((weak)) sp_status sp_load_spec_read(sp_view json, sp_load_spec **ret_spec, sp_error *reterr)
{
    (void)json, (void)ret_spec;
    return SP_FAIL(reterr, SP_UNSUPPORTED, "this build reads no load specifications");
}

__attribute__((weak)) void sp_load_spec_free(sp_load_spec *spec)
{
    if (spec)
        sp_model_config_done(&spec->config);
    free(spec);
}
