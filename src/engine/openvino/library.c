/* SPDX-License-Identifier: Apache-2.0
 * OpenVINO as a library: found and opened here, its types and statuses translated here. */
#include "ov.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#ifndef OV_BUILD_LIBDIR
#define OV_BUILD_LIBDIR ""
#endif

#define LIBRARY_FILE "libopenvino_c.so"

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static ov_library library;
static bool library_open;

static const struct {
    int32_t ours;
    ov_element_type_e theirs;
} types[] = {
    { SP_ENGINE_F32, F32 },   { SP_ENGINE_U8, U8 },   { SP_ENGINE_I8, I8 },   { SP_ENGINE_U16, U16 },
    { SP_ENGINE_I16, I16 },   { SP_ENGINE_I32, I32 }, { SP_ENGINE_I64, I64 }, { SP_ENGINE_BOOL, BOOLEAN },
    { SP_ENGINE_F16, F16 },   { SP_ENGINE_F64, F64 }, { SP_ENGINE_U32, U32 }, { SP_ENGINE_U64, U64 },
    { SP_ENGINE_BF16, BF16 },
};

int32_t ovp_dtype(ov_element_type_e type)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (types[i].theirs == type)
            return types[i].ours;
    return 0;
}

ov_element_type_e ovp_type(int32_t dtype)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (types[i].ours == dtype)
            return types[i].theirs;
    return DYNAMIC;
}

/* Its messages are chains of "Exception from FILE:LINE:" and "Check '...' failed at FILE:LINE:", one cause a line; what a
 * person wants are the other lines. */
static void copy_message(const char *text, char *dst, size_t dst_size)
{
    size_t used = 0;
    dst[0] = 0;
    while (*text) {
        size_t length = strcspn(text, "\n");
        bool noise = strncmp(text, "Exception from ", 15) == 0 || strncmp(text, "Check '", 7) == 0;
        if (length && !noise && used + 1 < dst_size) {
            int written = snprintf(dst + used, dst_size - used, "%s%.*s", used ? " " : "", (int)length, text);
            used += written > 0 ? (size_t)written : 0;
            used = used < dst_size ? used : dst_size - 1;
        }
        text += length;
        text += *text == '\n';
    }
}

static bool says_any(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcasestr(text, *words))
            return true;
    return false;
}

static sp_engine_status translate(ov_status_e status, const char *text, ovp_phase phase)
{
    static const char *const memory[] = { "bad_alloc", "out of memory", "cannot allocate", "failed to allocate", NULL };
    static const char *const lacks[] = { "not supported", "unsupported", "no conversion rule", "not implemented",
                                         "doesn't support", "is not registered", "conversion is failed", NULL };
    if (says_any(text, memory))
        return SP_ENGINE_NOMEM;
    switch (status) {
    case NOT_IMPLEMENTED:
    case NOT_IMPLEMENT_C_METHOD:
        return SP_ENGINE_UNSUPPORTED;
    case INFER_CANCELLED:
        return SP_ENGINE_CANCELLED;
    case PARAMETER_MISMATCH:
    case INVALID_C_PARAM:
    case OUT_OF_BOUNDS:
        return phase == OVP_LOAD ? SP_ENGINE_CORRUPT : SP_ENGINE_INVALID;
    default:
        if (phase == OVP_LOAD)
            return says_any(text, lacks) ? SP_ENGINE_UNSUPPORTED : SP_ENGINE_CORRUPT;
        return SP_ENGINE_INTERNAL;
    }
}

sp_engine_status ovp_check(const ov_library *lib, ov_status_e status, ovp_phase phase, sp_engine_error *reterr)
{
    if (status == OK)
        return SP_ENGINE_OK;
    /* What the C interface itself refuses leaves no message; then the last one is an older call's. */
    const char *text = status == INVALID_C_PARAM ? NULL : lib->ov_get_last_err_msg();
    char message[240];
    copy_message(text ? text : "", message, sizeof(message));
    sp_engine_status result = translate(status, text ? text : "", phase);
    (void)plug_fail(reterr, OV_ORIGIN, result, "%s", message[0] ? message : lib->ov_get_error_info(status));
    if (reterr)
        reterr->origin_code = (int32_t)status;
    if (text)
        lib->ov_free(text);
    return result;
}

static sp_engine_status find_calls(void *handle, ov_library *lib, sp_engine_error *reterr)
{
    const char *missing = NULL;
#define OV_FIND(name)                                                                                                  \
    *(void **)&lib->name = dlsym(handle, #name);                                                                       \
    missing = lib->name ? missing : #name;
    OV_CALLS(OV_FIND)
#undef OV_FIND
    return missing ? plug_fail(reterr, OV_ORIGIN, SP_ENGINE_UNSUPPORTED,
                               LIBRARY_FILE " has no %s: too old, or not OpenVINO", missing)
                   : SP_ENGINE_OK;
}

/* Releases have renumbered the element types: a library of another release than the headers is told by the sizes. */
static sp_engine_status check_types(const ov_library *lib, sp_engine_error *reterr)
{
    int64_t two = 2;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        ov_tensor_t *tensor = NULL;
        size_t bytes = 0;
        if (lib->ov_tensor_create(types[i].theirs, (ov_shape_t){ .rank = 1, .dims = &two }, &tensor) == OK) {
            (void)lib->ov_tensor_get_byte_size(tensor, &bytes); /* 0 = also wrong */
            lib->ov_tensor_free(tensor);
        }
        if (bytes != 2 * plug_dtype_bytes(types[i].ours))
            return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_UNSUPPORTED,
                             "%s is OpenVINO %s, whose types are numbered otherwise than in the release that this plug-in "
                             "was built for",
                             lib->path, lib->version);
    }
    return SP_ENGINE_OK;
}

static sp_engine_status start_library(void *handle, ov_library *lib, sp_engine_error *reterr)
{
    Dl_info where;
    ov_version_t version = { 0 };
    sp_engine_status s = find_calls(handle, lib, reterr);
    if (s)
        return s;
    (void)snprintf(lib->path, sizeof(lib->path), "%s",
                   dladdr(*(void **)&lib->ov_core_create, &where) && where.dli_fname ? where.dli_fname : LIBRARY_FILE);
    if (lib->ov_get_openvino_version(&version) == OK) {
        const char *build = version.buildNumber ? version.buildNumber : ""; /* "2026.4.1-22982-abcdef-releases/2026/4" */
        (void)snprintf(lib->version, sizeof(lib->version), "%.*s", (int)strcspn(build, "-"), build);
        lib->ov_version_free(&version);
    }
    s = check_types(lib, reterr);
    return s ? s : ovp_check(lib, lib->ov_core_create(&lib->core), OVP_LOAD, reterr);
}

static sp_engine_status open_locked(sp_engine_error *reterr)
{
    char why[512] = LIBRARY_FILE;
    void *handle = plug_library_open("SPILLWAY_OPENVINO", LIBRARY_FILE, OV_BUILD_LIBDIR, why, sizeof(why));
    if (!handle)
        return plug_fail(reterr, OV_ORIGIN, SP_ENGINE_UNSUPPORTED, "library missing: %.200s", why);
    ov_library fresh = { 0 };
    sp_engine_status s = start_library(handle, &fresh, reterr);
    if (s)
        return s;
    library = fresh;
    library_open = true;
    return SP_ENGINE_OK;
}

sp_engine_status ovp_library_get(const ov_library **ret_library, sp_engine_error *reterr)
{
    (void)pthread_mutex_lock(&library_lock);
    sp_engine_status s = library_open ? SP_ENGINE_OK : open_locked(reterr);
    (void)pthread_mutex_unlock(&library_lock);
    if (!s)
        *ret_library = &library;
    return s;
}

void ovp_library_close(void)
{
    (void)pthread_mutex_lock(&library_lock);
    if (library_open) {
        library.ov_core_free(library.core);
        library_open = false;
    }
    (void)pthread_mutex_unlock(&library_lock);
}
