/* SPDX-License-Identifier: Apache-2.0
 * No served models: what serving.h means while there is no repository to read (serving.c). Built only without serving.c. */
#include "serving/parts.h"

#include <stdlib.h>

struct sp_serving {
    sp_serving_parts *parts;
};

sp_status sp_serving_new(const sp_serving_config *config, sp_loop *loop, sp_house *house, sp_serving **ret_serving, sp_error *reterr)
{
    sp_serving *serving = calloc(1, sizeof(*serving));
    if (!serving)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the served models");
    sp_status s = sp_serving_parts_new(config, loop, house, &serving->parts, reterr);
    if (s) {
        free(serving);
        return s;
    }
    *ret_serving = serving;
    return SP_OK;
}

void sp_serving_free(sp_serving *serving)
{
    if (serving)
        sp_serving_parts_free(serving->parts);
    free(serving);
}

sp_serving_parts *sp_serving_parts_of(const sp_serving *serving)
{
    return serving->parts;
}

sp_served *sp_serving_by_id(sp_serving *serving, uint32_t id)
{
    (void)serving;
    (void)id;
    return NULL;
}

sp_served *sp_served_ref(sp_served *served)
{
    return served;
}

void sp_served_unref(sp_served *served)
{
    (void)served;
}

bool sp_serving_ready(const sp_serving *serving)
{
    (void)serving;
    return true;
}

const char *sp_model_state_name(sp_model_state state)
{
    static const char *const names[] = { "", "LOADING", "READY", "UNLOADING", "UNAVAILABLE" };
    return (size_t)state < SP_ARRAY_LEN(names) ? names[state] : "";
}

sp_status sp_serving_find(sp_serving *serving, const char *name, const char *version, sp_served **ret_served, sp_error *reterr)
{
    (void)serving;
    (void)version;
    (void)ret_served;
    return SP_FAIL(reterr, SP_NOT_FOUND, "Request for unknown model: '%.100s' is not found", name);
}

bool sp_serving_model_ready(sp_serving *serving, const char *name, const char *version)
{
    (void)serving;
    (void)name;
    (void)version;
    return false;
}

void sp_serving_each(sp_serving *serving, void (*call)(const sp_served_entry *entry, void *context), void *context)
{
    (void)serving;
    (void)call;
    (void)context;
}

void sp_serving_each_loaded(sp_serving *serving, void (*call)(sp_served *served, void *context), void *context)
{
    (void)serving;
    (void)call;
    (void)context;
}

static void refuse(const char *name, sp_serving_done_fn *done, void *context)
{
    sp_error err = { 0 };
    (void)SP_FAIL(&err, SP_NOT_FOUND, "failed to load '%.100s', no such model", name);
    done(SP_NOT_FOUND, &err, context);
}

void sp_serving_load(sp_serving *serving, const char *name, const char *override, sp_serving_done_fn *done, void *context)
{
    (void)serving;
    (void)override;
    refuse(name, done, context);
}

void sp_serving_unload(sp_serving *serving, const char *name, bool dependents, sp_serving_done_fn *done, void *context)
{
    (void)serving;
    (void)dependents;
    refuse(name, done, context);
}
