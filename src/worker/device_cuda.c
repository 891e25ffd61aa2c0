/* SPDX-License-Identifier: Apache-2.0
 * The CUDA device of a worker of kind "cuda" or "tensorrt": opened once a process, shared by all that it runs (classify's lanes,
 * detectors, chunks of videos). Where the plug-in is missing, or the GPU or its driver is too old for it, the worker goes on
 * without: the engine's provider copies by itself, pixels are prepared on the CPU, and the card says so. Where it should run and
 * does not, the worker cannot start. */
#include "worker/device.h"

#include "base/clock.h"
#include "base/log.h"
#include "kernels/cuda_prep.h"
#include "media/nvjpeg.h"
#include "worker/cuda_slots.h"
#include "worker/device_fault.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLISH_NS SP_NS_PER_S /* asking a driver for its memory is no business of every batch */
#define SIMULATED_BATCH 8 /* a CPU computes it: batches of 32 would take seconds to warm up */
#define TRIAL_BYTES ((size_t)64 * 1024)

bool sp_cuda_registers_slots(const sp_cuda_api *api, sp_cuda *cuda, sp_error *reterr)
{
    int fd = memfd_create("spillway-trial", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)TRIAL_BYTES) < 0) {
        sp_fd_closep(&fd);
        (void)SP_FAIL_ERRNO(reterr, SP_NOMEM, "a memfd");
        return false;
    }
    void *memory = mmap(NULL, TRIAL_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    sp_fd_closep(&fd);
    if (memory == MAP_FAILED) {
        (void)SP_FAIL_ERRNO(reterr, SP_NOMEM, "mmap of a memfd");
        return false;
    }
    bool good = api->host_register(cuda, memory, TRIAL_BYTES, reterr) == SP_OK;
    if (good)
        api->host_unregister(cuda, memory);
    (void)munmap(memory, TRIAL_BYTES);
    return good;
}

static void go_without(sp_device *dev, const char *kind, const sp_error *why)
{
    const char *remedy = sp_device_remedy(why->code);
    (void)snprintf(dev->cuda_note, sizeof(dev->cuda_note), "pixels prepared on the CPU, copied by the engine: %.100s%s%.100s",
                   why->message, remedy[0] ? "; " : "", remedy);
    sp_log(SP_LOG_WARN, "no CUDA kernels", SP_LOG_TEXT("kind", kind), SP_LOG_TEXT("reason", why->message), SP_LOG_TEXT("remedy", remedy));
}

static void describe(sp_device *dev, const sp_error *not_registered)
{
    const sp_cuda_info *info = &dev->cuda_info;
    (void)snprintf(dev->cuda_note, sizeof(dev->cuda_note), "%s on %.60s (sm_%d%d)%s; slots: %s%.80s",
                   dev->no_engine[0] ? "frames in, sums out" : "pixels in, classes out", info->name, info->major, info->minor,
                   info->simulated ? ", which is simulated" : "",
                   dev->registers ? "registered memory, copied in place" : "registered memory refused, staging used: ",
                   dev->registers ? "" : not_registered->message);
    if (!dev->registers)
        sp_log(SP_LOG_INFO, "registered memory: refused, staging used", SP_LOG_TEXT("reason", not_registered->message));
}

sp_status sp_device_cuda_open(sp_device *dev, const char *kind, int index, sp_error *reterr)
{
    const sp_cuda_api *api = NULL;
    sp_error why = { 0 };
    if (strcmp(kind, "cuda") != 0 && strcmp(kind, "tensorrt") != 0)
        return SP_OK;
    sp_status loaded = sp_cuda_load(&api, &why);
    if (!loaded && !(api->prep && api->prep->prep_new && api->prep->prep_batch))
        loaded = SP_FAIL_CODE(&why, SP_UNSUPPORTED, "missing_plugin", "the CUDA plug-in prepares no pictures");
    if (loaded) {
        go_without(dev, kind, &why);
        return SP_OK;
    }
    sp_status s = api->describe(index, &dev->cuda_info, &why);
    if (s && (strcmp(why.code, "no_code") == 0 || strcmp(why.code, "mismatch") == 0)) { /* the engine may be built for them */
        go_without(dev, kind, &why);
        return SP_OK;
    }
    if (!s)
        s = api->open(index, 0, &dev->target.cuda, &why);
    if (s) {
        if (reterr)
            *reterr = why;
        return s;
    }
    dev->target.cuda_api = api;
    dev->target.most_batch = dev->cuda_info.simulated ? SIMULATED_BATCH : 0;
    dev->registers = sp_cuda_registers_slots(api, dev->target.cuda, &why);
    if (!dev->registers && why.status == SP_UNAVAILABLE) { /* it is no more */
        if (reterr)
            *reterr = why;
        return why.status;
    }
    describe(dev, &why);
    sp_device_cuda_publish(dev);
    return SP_OK;
}

/* One is made and let go of, so that what is wrong with it shows now and not at the first picture. */
void sp_device_cuda_open_nvjpeg(sp_device *dev)
{
    sp_nvjpeg *trial = NULL;
    sp_error why = { 0 };
    if (!dev->target.cuda)
        (void)SP_FAIL(&why, SP_UNSUPPORTED, "pixels are prepared on the CPU");
    else if (sp_nvjpeg_find(dev->nvjpeg, sizeof(dev->nvjpeg), &why) == SP_OK)
        dev->target.nvjpeg = sp_nvjpeg_new(&trial, &why) == SP_OK;
    sp_nvjpeg_free(trial);
    if (dev->target.nvjpeg)
        return;
    (void)snprintf(dev->nvjpeg, sizeof(dev->nvjpeg), "off: %.180s", why.message);
    sp_log(SP_LOG_WARN, "nvJPEG is off: JPEG files are decoded on the CPU", SP_LOG_TEXT("reason", why.message));
}

void sp_device_cuda_close(sp_device *dev)
{
    if (dev->target.cuda)
        dev->target.cuda_api->close(dev->target.cuda);
    dev->target.cuda = NULL;
}

bool sp_device_cuda_mapped(sp_device *dev, void *memory, size_t bytes)
{
    if (!dev->target.cuda || !dev->registers)
        return false;
    return dev->target.cuda_api->host_register(dev->target.cuda, memory, bytes, NULL) == SP_OK; /* else it is staged */
}

void sp_device_cuda_unmapped(sp_device *dev, void *memory)
{
    dev->target.cuda_api->host_unregister(dev->target.cuda, memory);
}

void sp_device_cuda_publish(sp_device *dev)
{
    int64_t now_ns = sp_clock_now_ns(), due_ns = atomic_load_explicit(&dev->cuda_publish_ns, memory_order_relaxed);
    if (!dev->target.cuda || now_ns < due_ns ||
        !atomic_compare_exchange_strong(&dev->cuda_publish_ns, &due_ns, now_ns + PUBLISH_NS))
        return;
    sp_cuda_memory memory = { 0 };
    dev->target.cuda_api->memory(dev->target.cuda, &memory);
    sp_device_counters *counters = dev->counters;
    atomic_store_explicit(&counters->device_bytes, memory.device_bytes, memory_order_relaxed);
    atomic_store_explicit(&counters->device_high_bytes, memory.device_high_bytes, memory_order_relaxed);
    atomic_store_explicit(&counters->device_reserved_bytes, memory.device_reserved_bytes, memory_order_relaxed);
    atomic_store_explicit(&counters->pinned_bytes, memory.host_bytes, memory_order_relaxed);
    atomic_store_explicit(&counters->pinned_high_bytes, memory.host_high_bytes, memory_order_relaxed);
}
