/* SPDX-License-Identifier: Apache-2.0
 * Passes for libnvjpeg.so.13 in a process whose GPU is the tests' stand-in (tests/shim): decodes by libjpeg-turbo at once, and
 * writes to "device" memory when the stream gets there. Pixels are a little brighter than ours, as the real one's are others.
 *
 * SPILLWAY_STANDIN_NVJPEG steers it:  NAME:NTH:CODE,...   the nth call of NAME (of this process) returns CODE: "nvjpegDecode:3:6";
 *                                     NAME:NTH:abort      or ends the process
 *                                     nvjpegDecode:NTH:sticky   works, but what it enqueues fails the device for good
 *                                     NAME:every:CODE     each of them */
#include "base/attr.h"
#include "media/nvjpeg_api.h"
#include "shim.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#define BRIGHTER 6
#define STICKY (-1)
#define EXPORT __attribute__((visibility("default")))

struct nvj_handle_opaque {
    int states;
};
/* On its way to the device, until its state forgets it: a stream whose device has failed never gets there. */
typedef struct picture {
    struct picture *next;
    uint8_t *pixels, *device;
    size_t pitch;
    int width, height;
    atomic_bool arrived;
} picture;
struct nvj_state_opaque {
    nvj_handle handle;
    picture *pictures;
};

static void forget(nvj_state state, bool all)
{
    for (picture **at = &state->pictures; *at;) {
        picture *p = *at;
        if (!all && !p->arrived) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        free(p->pixels);
        free(p);
    }
}

/* --- orders ----------------------------------------------------------------------------------------------------------- */

enum { PROPERTY, CREATE, DESTROY, STATE_CREATE, STATE_DESTROY, INFO, DECODE, CALLS };
static const char *const names[CALLS] = { "nvjpegGetProperty", "nvjpegCreateSimple", "nvjpegDestroy", "nvjpegJpegStateCreate",
                                          "nvjpegJpegStateDestroy", "nvjpegGetImageInfo", "nvjpegDecode" };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards counts */
static int counts[CALLS];

/* What the orders say of this call; 0 = it works. */
static int called(int call)
{
    char order[64];
    (void)pthread_mutex_lock(&lock);
    int nth = ++counts[call], code = 0;
    (void)pthread_mutex_unlock(&lock);
    const char *orders = getenv("SPILLWAY_STANDIN_NVJPEG");
    int length = snprintf(order, sizeof(order), "%s:%d:", names[call], nth);
    const char *found = orders ? strstr(orders, order) : NULL;
    if (orders && !found) {
        length = snprintf(order, sizeof(order), "%s:every:", names[call]);
        found = strstr(orders, order);
    }
    if (found && strncmp(found + length, "abort", 5) == 0)
        abort();
    if (found && strncmp(found + length, "sticky", 6) == 0)
        return STICKY;
    if (found)
        code = (int)strtol(found + length, NULL, 10);
    return code;
}

/* --- one picture ------------------------------------------------------------------------------------------------------ */

typedef struct escape {
    struct jpeg_error_mgr errors;
    jmp_buf to;
} escape;

SP_NORETURN static void on_error(j_common_ptr cinfo)
{
    longjmp(((escape *)(void *)cinfo->err)->to, 1);
}

static void on_message(j_common_ptr cinfo, int level)
{
    (void)cinfo;
    (void)level;
}

/* Header alone, or all of it into made->pixels. */
static int read_file(const uint8_t *file, size_t bytes, bool all, picture *made)
{
    struct jpeg_decompress_struct cinfo = { 0 };
    escape out;
    cinfo.err = jpeg_std_error(&out.errors);
    out.errors.error_exit = on_error;
    out.errors.emit_message = on_message;
    if (setjmp(out.to)) {
        jpeg_destroy_decompress(&cinfo);
        return NVJ_BAD_JPEG;
    }
    jpeg_create_decompress(&cinfo);
    jpeg_mem_src(&cinfo, file, (unsigned long)bytes);
    (void)jpeg_read_header(&cinfo, TRUE);
    made->width = (int)cinfo.image_width;
    made->height = (int)cinfo.image_height;
    if (all) {
        cinfo.out_color_space = JCS_RGB;
        (void)jpeg_start_decompress(&cinfo);
        made->pixels = malloc((size_t)made->width * (size_t)made->height * 3);
        for (int y = 0; made->pixels && y < made->height; y++) {
            JSAMPROW row = made->pixels + (size_t)y * (size_t)made->width * 3;
            (void)jpeg_read_scanlines(&cinfo, &row, 1);
        }
    }
    jpeg_destroy_decompress(&cinfo);
    return all && !made->pixels ? NVJ_NO_MEMORY : NVJ_DONE;
}

static void arrive(void *argument)
{
    picture *p = argument;
    for (int y = 0; y < p->height; y++) {
        for (int i = 0; i < p->width * 3; i++) {
            int value = p->pixels[(size_t)y * (size_t)p->width * 3 + (size_t)i] + BRIGHTER;
            p->device[(size_t)y * p->pitch + (size_t)i] = (uint8_t)SP_MIN(value, 255);
        }
    }
    p->arrived = true;
}

/* --- what is exported ------------------------------------------------------------------------------------------------- */

EXPORT int nvjpegGetProperty(int which, int *value);
EXPORT int nvjpegCreateSimple(nvj_handle *handle);
EXPORT int nvjpegDestroy(nvj_handle handle);
EXPORT int nvjpegJpegStateCreate(nvj_handle handle, nvj_state *state);
EXPORT int nvjpegJpegStateDestroy(nvj_state state);
EXPORT int nvjpegGetImageInfo(nvj_handle handle, const uint8_t *file, size_t bytes, int *components, int *sampling, int *widths,
                              int *heights);
EXPORT int nvjpegDecode(nvj_handle handle, nvj_state state, const uint8_t *file, size_t bytes, int output, nvj_image *image,
                        void *stream);

int nvjpegGetProperty(int which, int *value)
{
    *value = which == NVJ_MAJOR ? 13 : 0;
    return called(PROPERTY);
}

int nvjpegCreateSimple(nvj_handle *handle)
{
    int code = called(CREATE);
    if (!code)
        *handle = calloc(1, sizeof(**handle));
    return code;
}

int nvjpegDestroy(nvj_handle handle)
{
    if (handle->states)
        abort(); /* its states go first */
    free(handle);
    return called(DESTROY);
}

int nvjpegJpegStateCreate(nvj_handle handle, nvj_state *state)
{
    int code = called(STATE_CREATE);
    if (code)
        return code;
    *state = calloc(1, sizeof(**state));
    (*state)->handle = handle;
    handle->states++;
    return NVJ_DONE;
}

int nvjpegJpegStateDestroy(nvj_state state)
{
    state->handle->states--;
    forget(state, true);
    free(state);
    return called(STATE_DESTROY);
}

int nvjpegGetImageInfo(nvj_handle handle, const uint8_t *file, size_t bytes, int *components, int *sampling, int *widths,
                       int *heights)
{
    picture made = { 0 };
    int code = called(INFO);
    (void)handle;
    if (!code)
        code = read_file(file, bytes, false, &made);
    *components = 3;
    *sampling = 0;
    widths[0] = made.width;
    heights[0] = made.height;
    return code;
}

int nvjpegDecode(nvj_handle handle, nvj_state state, const uint8_t *file, size_t bytes, int output, nvj_image *image,
                 void *stream)
{
    const sp_shim_control *shim = sp_shim();
    picture *made = calloc(1, sizeof(*made));
    int code = called(DECODE);
    if (code == STICKY && shim) {
        shim->fail("run:engine", 1, 700, 1); /* cudaErrorIllegalAddress */
        code = NVJ_DONE;
    }
    if (!made || !shim || state->handle != handle || output != NVJ_OUTPUT_RGB_INTERLEAVED)
        code = NVJ_INVALID_PARAMETER;
    if (!code)
        code = read_file(file, bytes, true, made);
    if (code) {
        if (made)
            free(made->pixels);
        free(made);
        return code;
    }
    made->device = image->channel[0];
    made->pitch = image->pitch[0];
    forget(state, false);
    made->next = state->pictures;
    state->pictures = made;
    return shim->enqueue(stream, arrive, made) ? NVJ_EXECUTION_FAILED : NVJ_DONE;
}
