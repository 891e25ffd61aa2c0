/* SPDX-License-Identifier: Apache-2.0
 * The two directions between a document and the struct. Internal to this room. */
#ifndef SP_MODEL_CONFIG_FORM_H
#define SP_MODEL_CONFIG_FORM_H

#include "model/config.h"
#include "model/document.h"

/* config_fill.c: `config` is fresh (sp_model_config_init). `what` begins messages. SP_INVALID: what one field cannot say of
 * another within its message (sequence controls); SP_NOMEM. */
sp_status sp_config_fill(sp_model_config *config, const char *what, const json_t *document, sp_error *reterr);
/* config.c: sp_model_config_read of JSON that is part of something larger. */
sp_status sp_config_of_object(const char *what, const json_t *object, sp_model_config *ret_config, sp_error *reterr);
/* config_write.c: without kept fields and defaults that the struct does not hold. NULL: memory. */
json_t *sp_config_document(const sp_model_config *config);

#endif
