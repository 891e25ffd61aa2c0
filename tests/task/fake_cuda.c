/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_cuda.h"

#include "kernels/cuda_post.h"
#include "kernels/cuda_prep.h"
#include "kernels/kernels.h"
#include "kernels/prep_run.h"
#include "task/rank.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1024

struct fake_cuda fake_cuda;

struct sp_cuda {
    int dummy;
};
struct sp_cuda_stream {
    int dummy;
};
struct sp_cuda_event {
    int dummy;
};
struct sp_cuda_prep {
    sp_prep_spec spec;
    sp_prep_scratch *scratch;
};

static struct sp_cuda the_device;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all of this */
static struct held {
    char kind; /* 'd'evice, 'p'inned, 'r'egistered, 's'tream, 'e'vent, 'x' prep */
    const uint8_t *at;
    size_t bytes;
} held[MOST];

void fake_cuda_reset(void)
{
    int registered = fake_cuda.registered;
    fake_cuda = (struct fake_cuda){ .registered = registered };
}

int fake_cuda_held(void)
{
    int count = 0;
    for (int i = 0; i < MOST; i++)
        count += held[i].kind != 0;
    return count;
}

static void hold(char kind, const void *at, size_t bytes)
{
    (void)pthread_mutex_lock(&lock);
    int i = 0;
    while (i < MOST - 1 && held[i].kind)
        i++;
    held[i] = (struct held){ kind, at, bytes };
    (void)pthread_mutex_unlock(&lock);
}

static void wrong(const char *what)
{
    (void)fprintf(stderr, "fake_cuda: %s\n", what);
    abort();
}

static void let_go(char kind, const void *at)
{
    (void)pthread_mutex_lock(&lock);
    int i = 0;
    while (i < MOST && !(held[i].kind == kind && held[i].at == at))
        i++;
    if (i == MOST)
        wrong("freed what is not held");
    held[i].kind = 0;
    (void)pthread_mutex_unlock(&lock);
}

/* Whole range within one thing of a kind of `kinds`. */
static bool within(const char *kinds, const void *at, size_t bytes)
{
    const uint8_t *begin = at;
    bool found = false;
    (void)pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST && !found; i++)
        found = held[i].kind && strchr(kinds, held[i].kind) && begin >= held[i].at && bytes <= held[i].bytes &&
                (size_t)(begin - held[i].at) <= held[i].bytes - bytes;
    (void)pthread_mutex_unlock(&lock);
    return found;
}

static void on_device(const void *at, size_t bytes)
{
    if (!within("d", at, bytes))
        wrong("no device memory");
}

static sp_status call(const char *what, bool allocates, sp_error *reterr)
{
    (void)pthread_mutex_lock(&lock);
    int number = ++fake_cuda.calls;
    fake_cuda.allocations += allocates;
    (void)pthread_mutex_unlock(&lock);
    if (!fake_cuda.fail_at || (fake_cuda.for_good ? number < fake_cuda.fail_at : number != fake_cuda.fail_at))
        return SP_OK;
    return SP_FAIL_CODE(reterr, fake_cuda.status, fake_cuda.status == SP_NOMEM ? "oom" : "sticky", "%s was told to fail", what);
}

static sp_status count(int *ret_count, sp_error *reterr)
{
    *ret_count = 1;
    return SP_OK;
}

static sp_status describe(int index, sp_cuda_info *ret_info, sp_error *reterr)
{
    *ret_info = (sp_cuda_info){ .name = "fake", .index = index, .simulated = true };
    return SP_OK;
}

static sp_status open_device(int index, uint64_t reserve_bytes, sp_cuda **ret_cuda, sp_error *reterr)
{
    sp_kernels_init();
    *ret_cuda = &the_device;
    return SP_OK;
}

static void close_device(sp_cuda *cuda)
{
}

static void memory(sp_cuda *cuda, sp_cuda_memory *ret_memory)
{
    *ret_memory = (sp_cuda_memory){ 0 };
}

static sp_status new_memory(char kind, const char *what, size_t bytes, void **ret, sp_error *reterr)
{
    sp_status s = call(what, true, reterr);
    if (s)
        return s;
    *ret = aligned_alloc(256, SP_ALIGN_UP(bytes, (size_t)256));
    if (!*ret)
        return SP_FAIL(reterr, SP_NOMEM, "no memory");
    memset(*ret, 0xff, bytes);
    hold(kind, *ret, bytes);
    return SP_OK;
}

static sp_status reserve(sp_cuda *cuda, size_t bytes, void **ret_device, sp_error *reterr)
{
    return new_memory('d', "reserve", bytes, ret_device, reterr);
}

static void release(sp_cuda *cuda, void *device)
{
    if (device)
        let_go('d', device);
    free(device);
}

static sp_status pinned_new(sp_cuda *cuda, size_t bytes, void **ret_host, sp_error *reterr)
{
    return new_memory('p', "pinned_new", bytes, ret_host, reterr);
}

static void pinned_free(sp_cuda *cuda, void *host)
{
    if (host)
        let_go('p', host);
    free(host);
}

static sp_status host_register(sp_cuda *cuda, void *host, size_t bytes, sp_error *reterr)
{
    if (fake_cuda.refuses_host)
        return SP_FAIL_CODE(reterr, SP_UNSUPPORTED, "not_registered", "told to refuse");
    sp_status s = call("host_register", false, reterr);
    if (!s) {
        hold('r', host, bytes);
        fake_cuda.registered++;
    }
    return s;
}

static void host_unregister(sp_cuda *cuda, void *host)
{
    let_go('r', host);
    fake_cuda.registered--;
}

static sp_status new_object(char kind, const char *what, size_t bytes, void **ret, sp_error *reterr)
{
    sp_status s = call(what, true, reterr);
    if (s)
        return s;
    *ret = calloc(1, bytes);
    if (!*ret)
        return SP_FAIL(reterr, SP_NOMEM, "no memory");
    hold(kind, *ret, bytes);
    return SP_OK;
}

static sp_status stream_new(sp_cuda *cuda, sp_cuda_stream **ret_stream, sp_error *reterr)
{
    return new_object('s', "stream_new", sizeof(**ret_stream), (void **)ret_stream, reterr);
}

static void stream_free(sp_cuda_stream *stream)
{
    let_go('s', stream);
    free(stream);
}

static void *stream_raw(sp_cuda_stream *stream)
{
    return stream;
}

static sp_status copy_in(sp_cuda_stream *stream, void *device, const void *host, size_t bytes, sp_error *reterr)
{
    sp_status s = call("copy_in", false, reterr);
    if (s)
        return s;
    on_device(device, bytes);
    if (!within("pr", host, bytes))
        wrong("a copy from pageable memory waits");
    memcpy(device, host, bytes);
    return SP_OK;
}

static sp_status copy_out(sp_cuda_stream *stream, void *host, const void *device, size_t bytes, sp_error *reterr)
{
    sp_status s = call("copy_out", false, reterr);
    if (s)
        return s;
    on_device(device, bytes);
    memcpy(host, device, bytes);
    return SP_OK;
}

static sp_status copy_on(sp_cuda_stream *stream, void *device, const void *from, size_t bytes, sp_error *reterr)
{
    sp_status s = call("copy_on", false, reterr);
    if (s)
        return s;
    on_device(device, bytes);
    on_device(from, bytes);
    memcpy(device, from, bytes);
    return SP_OK;
}

static sp_status fill(sp_cuda_stream *stream, void *device, int byte, size_t bytes, sp_error *reterr)
{
    sp_status s = call("fill", false, reterr);
    if (s)
        return s;
    on_device(device, bytes);
    memset(device, byte, bytes);
    return SP_OK;
}

static sp_status stream_sync(sp_cuda_stream *stream, sp_error *reterr)
{
    return call("stream_sync", false, reterr);
}

static sp_status event_new(sp_cuda *cuda, bool timed, sp_cuda_event **ret_event, sp_error *reterr)
{
    return new_object('e', "event_new", sizeof(**ret_event), (void **)ret_event, reterr);
}

static void event_free(sp_cuda_event *event)
{
    let_go('e', event);
    free(event);
}

static sp_status event_record(sp_cuda_event *event, sp_cuda_stream *stream, sp_error *reterr)
{
    return call("event_record", false, reterr);
}

static sp_status event_wait(sp_cuda_stream *stream, sp_cuda_event *event, sp_error *reterr)
{
    return call("event_wait", false, reterr);
}

static sp_status event_sync(sp_cuda_event *event, sp_error *reterr)
{
    return call("event_sync", false, reterr);
}

/* --- the twins --------------------------------------------------------------------------------------------------------- */

static sp_status prep_new(sp_cuda *cuda, const sp_prep_spec *spec, int most, sp_cuda_prep **ret_prep, sp_error *reterr)
{
    sp_status s = new_object('x', "prep_new", sizeof(**ret_prep), (void **)ret_prep, reterr);
    if (s)
        return s;
    (*ret_prep)->spec = *spec;
    (*ret_prep)->scratch = sp_prep_scratch_new();
    return SP_OK;
}

static void prep_free(sp_cuda_prep *prep)
{
    let_go('x', prep);
    sp_prep_scratch_free(prep->scratch);
    free(prep);
}

static sp_status prep_batch(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *pictures, int n, void *dst,
                            sp_error *reterr)
{
    sp_status s = call("prep_batch", false, reterr);
    size_t bytes = sp_prep_output_bytes(&prep->spec);
    for (int i = 0; i < n && !s; i++) {
        const sp_cuda_picture *p = &pictures[i];
        on_device(p->rgb, p->stride_bytes * (size_t)(p->h - 1) + (size_t)p->w * 3);
        on_device((uint8_t *)dst + (size_t)i * bytes, bytes);
        s = sp_prep_image(&prep->spec, p->rgb, p->w, p->h, p->stride_bytes, (uint8_t *)dst + (size_t)i * bytes, prep->scratch, reterr);
        fake_cuda.prepared++;
    }
    return s;
}

static sp_status softmax_f32(sp_cuda_stream *stream, float *dst, const float *src, int rows, int n, sp_error *reterr)
{
    sp_status s = call("softmax_f32", false, reterr);
    for (int i = 0; i < rows && !s; i++)
        sp_kernels.softmax_f32(dst + (size_t)i * (size_t)n, src + (size_t)i * (size_t)n, n);
    return s;
}

static size_t topk_space(int rows, int n, int k)
{
    return 64;
}

static sp_status topk_f32(sp_cuda_stream *stream, int32_t *ret_index, float *ret_value, const float *src, int rows, int n, int k,
                          void *space, sp_error *reterr)
{
    sp_status s = call("topk_f32", false, reterr);
    on_device(space, 64);
    for (int i = 0; i < rows && !s; i++)
        sp_kernels.topk_f32(ret_index + i * k, ret_value + i * k, src + (size_t)i * (size_t)n, n, k);
    return s;
}

static sp_status gather_f32(sp_cuda_stream *stream, float *dst, const float *src, const int32_t *index, int rows, int n, int k,
                            sp_error *reterr)
{
    sp_status s = call("gather_f32", false, reterr);
    for (int i = 0; i < rows * k && !s; i++)
        dst[i] = src[(size_t)(i / k) * (size_t)n + (size_t)index[i]];
    return s;
}

static sp_status first_bad_f32(sp_cuda_stream *stream, int32_t *ret_first, const float *src, int rows, int n, sp_error *reterr)
{
    sp_status s = call("first_bad_f32", false, reterr);
    for (int i = 0; i < rows && !s; i++) {
        ret_first[i] = 0;
        while (ret_first[i] < n && isfinite(src[(size_t)i * (size_t)n + (size_t)ret_first[i]]))
            ret_first[i]++;
    }
    return s;
}

static sp_status widen_f16(sp_cuda_stream *stream, float *dst, const uint16_t *src, size_t n, sp_error *reterr)
{
    sp_status s = call("widen_f16", false, reterr);
    for (size_t i = 0; i < n && !s; i++)
        dst[i] = sp_rank_widen_f16(src[i]);
    return s;
}

static const sp_cuda_prep_api prep_calls = { .prep_new = prep_new, .prep_free = prep_free, .prep_batch = prep_batch };
static const sp_cuda_post_api post_calls = { .softmax_f32 = softmax_f32, .topk_space = topk_space, .topk_f32 = topk_f32,
                                             .gather_f32 = gather_f32, .first_bad_f32 = first_bad_f32, .widen_f16 = widen_f16 };

const sp_cuda_api fake_cuda_api = {
    .abi = SP_CUDA_ABI, .struct_bytes = sizeof(sp_cuda_api), .version = "fake", .codes = "none",
    .count = count, .describe = describe, .open = open_device, .close = close_device, .memory = memory,
    .reserve = reserve, .release = release, .pinned_new = pinned_new, .pinned_free = pinned_free,
    .host_register = host_register, .host_unregister = host_unregister,
    .stream_new = stream_new, .stream_free = stream_free, .stream_raw = stream_raw, .copy_in = copy_in, .copy_out = copy_out,
    .copy_on = copy_on, .fill = fill, .stream_sync = stream_sync,
    .event_new = event_new, .event_free = event_free, .event_record = event_record, .event_wait = event_wait,
    .event_sync = event_sync, .prep = &prep_calls, .post = &post_calls,
};
