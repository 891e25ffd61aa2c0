/* SPDX-License-Identifier: Apache-2.0
 * See nvjpeg.h. One handle and one state each: a state belongs to one stream, and handles cost little once the first is made. */
#include "media/nvjpeg.h"

#include "media/nvjpeg_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sp_nvjpeg {
    nvj_handle handle;
    nvj_state state;
};

static struct {
    int (*property)(int which, int *value);
    int (*create)(nvj_handle *handle);
    int (*destroy)(nvj_handle handle);
    int (*state_create)(nvj_handle handle, nvj_state *state);
    int (*state_destroy)(nvj_state state);
    int (*info)(nvj_handle handle, const uint8_t *file, size_t bytes, int *components, int *sampling, int *widths, int *heights);
    int (*decode)(nvj_handle handle, nvj_state state, const uint8_t *file, size_t bytes, int output, nvj_image *image, void *stream);
    bool there;
    char text[240]; /* which it is, or why it is not */
} library;

/* What SPILLWAY_NVJPEG_LIBRARY names, or the first of those that the toolkits have. NULL: library.text says why. */
static void *open_first(const char **ret_name)
{
    const char *names[] = { "libnvjpeg.so.13", "libnvjpeg.so.12" }, *own = getenv("SPILLWAY_NVJPEG_LIBRARY");
    size_t count = own && *own ? 1 : SP_ARRAY_LEN(names), used = 0;
    void *found = NULL;
    if (count == 1)
        names[0] = own;
    for (size_t i = 0; i < count && !found; i++) {
        *ret_name = names[i];
        found = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        const char *why = found ? NULL : dlerror();
        if (!found)
            used += (size_t)snprintf(library.text + used, sizeof(library.text) - used, "%s%.100s", i ? "; " : "no nvJPEG: ", why ? why : names[i]);
    }
    return found;
}

static void describe(const char *name)
{
    int numbers[3] = { 0 };
    for (int i = NVJ_MAJOR; i <= NVJ_PATCH; i++)
        library.there &= library.property(i, &numbers[i]) == NVJ_DONE;
    const char *slash = strrchr(name, '/');
    name = slash ? slash + 1 : name;
    if (library.there)
        (void)snprintf(library.text, sizeof(library.text), "nvJPEG %d.%d.%d (%.100s)", numbers[0], numbers[1], numbers[2], name);
    else
        (void)snprintf(library.text, sizeof(library.text), "%.100s does not say its version", name);
}

static void load(void)
{
    const char *name;
    void *opened = open_first(&name);
    if (!opened)
        return;
    const struct {
        const char *name;
        void *function;
    } wanted[] = {
        { "nvjpegGetProperty", &library.property },
        { "nvjpegCreateSimple", &library.create },
        { "nvjpegDestroy", &library.destroy },
        { "nvjpegJpegStateCreate", &library.state_create },
        { "nvjpegJpegStateDestroy", &library.state_destroy },
        { "nvjpegGetImageInfo", &library.info },
        { "nvjpegDecode", &library.decode },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(wanted); i++) {
        void *found = dlsym(opened, wanted[i].name);
        memcpy(wanted[i].function, &found, sizeof(found));
        if (!found) {
            (void)snprintf(library.text, sizeof(library.text), "%.100s has no %s", name, wanted[i].name);
            return;
        }
    }
    library.there = true;
    describe(name);
}

sp_status sp_nvjpeg_find(char *ret_text, size_t size, sp_error *reterr)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, load);
    if (!library.there)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "no_library", "%s", library.text);
    if (ret_text)
        (void)snprintf(ret_text, size, "%s", library.text);
    return SP_OK;
}

static sp_status translate(int code, const char *what, sp_error *reterr)
{
    bool refused = code == NVJ_BAD_JPEG || code == NVJ_NOT_SUPPORTED || code == NVJ_INCOMPLETE || code == NVJ_NOT_IMPLEMENTED;
    return sp_error_set(reterr, SP_UNSUPPORTED, refused ? "refused" : code == NVJ_NO_MEMORY ? "memory" : "failed", "nvjpeg", code,
                        __FILE__, __LINE__, "nvJPEG: %s: code %d", what, code);
}

sp_status sp_nvjpeg_new(sp_nvjpeg **ret_nvjpeg, sp_error *reterr)
{
    sp_status s = sp_nvjpeg_find(NULL, 0, reterr);
    if (s)
        return s;
    sp_nvjpeg *nvjpeg = calloc(1, sizeof(*nvjpeg));
    if (!nvjpeg)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "memory", "no memory for a decoder");
    int code = library.create(&nvjpeg->handle);
    if (code)
        nvjpeg->handle = NULL;
    else
        code = library.state_create(nvjpeg->handle, &nvjpeg->state);
    if (code) {
        nvjpeg->state = NULL;
        sp_nvjpeg_free(nvjpeg);
        return translate(code, "no decoder", reterr);
    }
    *ret_nvjpeg = nvjpeg;
    return SP_OK;
}

void sp_nvjpeg_free(sp_nvjpeg *nvjpeg)
{
    if (!nvjpeg)
        return;
    if (nvjpeg->state)
        (void)library.state_destroy(nvjpeg->state); /* nothing is to be done if it does not go */
    if (nvjpeg->handle)
        (void)library.destroy(nvjpeg->handle);
    free(nvjpeg);
}

sp_status sp_nvjpeg_decode(sp_nvjpeg *nvjpeg, sp_view file, const sp_jpeg_plain *plain, void *device, void *stream,
                           sp_error *reterr)
{
    int components = 0, sampling = 0, widths[NVJ_COMPONENTS] = { 0 }, heights[NVJ_COMPONENTS] = { 0 };
    int code = library.info(nvjpeg->handle, file.data, plain->file_bytes, &components, &sampling, widths, heights);
    if (code)
        return translate(code, "the file's header", reterr);
    /* How much it writes follows from what it read: no larger than what we did. */
    if (widths[0] != plain->width || heights[0] != plain->height)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "refused", "nvJPEG: a picture of %d x %d, which has %d x %d", widths[0], heights[0],
                            plain->width, plain->height);
    nvj_image image = { .channel = { device }, .pitch = { (size_t)plain->width * 3 } };
    code = library.decode(nvjpeg->handle, nvjpeg->state, file.data, plain->file_bytes, NVJ_OUTPUT_RGB_INTERLEAVED, &image, stream);
    return code ? translate(code, "decoding", reterr) : SP_OK;
}
