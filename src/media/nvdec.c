/* SPDX-License-Identifier: Apache-2.0
 * See nvdec.h.
 *
 *   packet --(to start codes)--> parser --sequence--> decoder made      all within cuvidParseVideoData
 *                                       --decode----> picture decoded
 *                                       --display---> mapped, copied to an AVFrame (or a picture on the device), queued
 */
#include "media/nvdec.h"

#include "media/nvdec_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <libavcodec/bsf.h>

/* Pictures that one packet can bring to be shown: the whole of a codec's reorder buffer, and at the end some more. */
#define QUEUE 32
/* Surfaces more than the stream needs: what is being copied does not hold up what is decoded. */
#define SPARE_SURFACES 2

/* --- the driver --------------------------------------------------------------------------------------------------- */

static struct {
    nv_result (*init)(unsigned flags);
    nv_result (*device_get)(int *device, int ordinal);
    nv_result (*context_retain)(nv_context *context, int device);
    nv_result (*context_release)(int device);
    nv_result (*context_push)(nv_context context);
    nv_result (*context_pop)(nv_context *context);
    nv_result (*copy)(const nv_copy *copy);
    nv_result (*caps)(nv_caps *caps);
    nv_result (*parser_create)(nv_parser *parser, nv_parser_settings *settings);
    nv_result (*parse)(nv_parser parser, nv_packet *packet);
    nv_result (*parser_destroy)(nv_parser parser);
    nv_result (*decoder_create)(nv_decoder *decoder, nv_create *settings);
    nv_result (*decoder_destroy)(nv_decoder decoder);
    nv_result (*decode)(nv_decoder decoder, nv_picture *picture);
    nv_result (*status)(nv_decoder decoder, int surface, nv_status *status); /* NULL: the driver is too old to tell */
    /* NULL, any of them: frames do not stay on the device. */
    nv_result (*memory_new)(uint64_t *device, size_t bytes);
    nv_result (*memory_free)(uint64_t device);
    nv_result (*handle_open)(uint64_t *device, nv_handle handle, unsigned flags);
    nv_result (*handle_close)(uint64_t device);
    nv_result (*synchronize)(void);
    nv_result (*map)(nv_decoder decoder, int surface, uint64_t *device, unsigned *pitch, nv_map *how);
    nv_result (*unmap)(nv_decoder decoder, uint64_t device);
    bool there;
    char why[160];
} driver;

static bool find(void *library, const char *name, void *ret_function)
{
    void *found = library ? dlsym(library, name) : NULL;
    memcpy(ret_function, &found, sizeof(found));
    return found != NULL;
}

/* Both stay loaded: driver libraries do not survive being closed. */
static void load(void)
{
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *cuvid = cuda ? dlopen("libnvcuvid.so.1", RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!cuvid) {
        (void)snprintf(driver.why, sizeof(driver.why), "%s", cuda ? "libnvcuvid.so.1 is not here: the driver comes without video"
                                                                  : "libcuda.so.1 is not here: no NVIDIA driver");
        return;
    }
    const struct {
        void *library;
        const char *name;
        void *function;
    } wanted[] = {
        { cuda, "cuInit", &driver.init },
        { cuda, "cuDeviceGet", &driver.device_get },
        { cuda, "cuDevicePrimaryCtxRetain", &driver.context_retain },
        { cuda, "cuDevicePrimaryCtxRelease", &driver.context_release },
        { cuda, "cuCtxPushCurrent_v2", &driver.context_push },
        { cuda, "cuCtxPopCurrent_v2", &driver.context_pop },
        { cuda, "cuMemcpy2D_v2", &driver.copy },
        { cuvid, "cuvidGetDecoderCaps", &driver.caps },
        { cuvid, "cuvidCreateVideoParser", &driver.parser_create },
        { cuvid, "cuvidParseVideoData", &driver.parse },
        { cuvid, "cuvidDestroyVideoParser", &driver.parser_destroy },
        { cuvid, "cuvidCreateDecoder", &driver.decoder_create },
        { cuvid, "cuvidDestroyDecoder", &driver.decoder_destroy },
        { cuvid, "cuvidDecodePicture", &driver.decode },
        { cuvid, "cuvidMapVideoFrame64", &driver.map },
        { cuvid, "cuvidUnmapVideoFrame64", &driver.unmap },
    };
    for (size_t i = 0; i < SP_ARRAY_LEN(wanted); i++) {
        if (find(wanted[i].library, wanted[i].name, wanted[i].function))
            continue;
        (void)snprintf(driver.why, sizeof(driver.why), "the driver is too old: it has no %s", wanted[i].name);
        return;
    }
    (void)find(cuvid, "cuvidGetDecodeStatus", &driver.status);
    (void)find(cuda, "cuMemAlloc_v2", &driver.memory_new);
    (void)find(cuda, "cuMemFree_v2", &driver.memory_free);
    (void)find(cuda, "cuIpcOpenMemHandle_v2", &driver.handle_open);
    (void)find(cuda, "cuIpcCloseMemHandle", &driver.handle_close);
    (void)find(cuda, "cuCtxSynchronize", &driver.synchronize);
    nv_result code = driver.init(0);
    driver.there = code == 0;
    if (code)
        (void)snprintf(driver.why, sizeof(driver.why), "cuInit says %d", code);
}

static void load_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, load);
}

static bool enter(nv_context context)
{
    return driver.context_push(context) == 0;
}

static void leave(void)
{
    nv_context before;
    (void)driver.context_pop(&before); /* what was pushed is popped; there is nothing to do if not */
}

/* Between two places on the device; it is done when this returns. */
static bool copy_on_device(uint64_t dst, size_t dst_pitch, uint64_t src, size_t src_pitch, int width, int height)
{
    const nv_copy copy = { .src_kind = NV_MEMORY_DEVICE, .src_device = src, .src_pitch = src_pitch, .dst_kind = NV_MEMORY_DEVICE,
                           .dst_device = dst, .dst_pitch = dst_pitch, .width_bytes = (size_t)width, .height = (size_t)height };
    return driver.copy(&copy) == 0 && driver.synchronize() == 0; /* a copy on the device waits for nothing by itself */
}

/* --- frames that stay on the device ------------------------------------------------------------------------------- */

typedef struct luma { /* of one picture, rows without gaps */
    uint64_t device;
    size_t bytes;
    struct luma *next;
} luma;

struct sp_nvdec_ring {
    int device;
    nv_context context;
    uint64_t memory;
    size_t bytes;
    luma *unused; /* a run takes them from here, and its frames put them back */
};

static void free_lumas(sp_nvdec_ring *ring)
{
    while (ring->unused) {
        luma *next = ring->unused->next;
        (void)driver.memory_free(ring->unused->device); /* the process ends soon */
        free(ring->unused);
        ring->unused = next;
    }
}

void sp_nvdec_ring_close(sp_nvdec_ring *ring)
{
    if (!ring)
        return;
    if (enter(ring->context)) {
        free_lumas(ring);
        if (ring->memory)
            (void)driver.handle_close(ring->memory);
        leave();
    }
    (void)driver.context_release(ring->device);
    free(ring);
}

sp_status sp_nvdec_ring_open(int device, const uint8_t handle[64], size_t bytes, sp_nvdec_ring **ret_ring, sp_error *reterr)
{
    nv_handle given;
    load_once();
    if (!driver.there)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "%s", driver.why);
    if (!driver.memory_new || !driver.memory_free || !driver.handle_open || !driver.handle_close || !driver.synchronize)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "the driver is too old to share its memory");
    sp_nvdec_ring *ring = calloc(1, sizeof(*ring));
    if (!ring)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder");
    ring->bytes = bytes;
    memcpy(given.bytes, handle, sizeof(given.bytes));
    nv_result code = driver.device_get(&ring->device, device);
    if (!code)
        code = driver.context_retain(&ring->context, ring->device);
    if (code) {
        free(ring);
        return SP_FAIL_FROM(reterr, SP_UNSUPPORTED, "cuda", code, "there is no CUDA device %d to decode on", device);
    }
    code = 1;
    if (enter(ring->context)) {
        code = driver.handle_open(&ring->memory, given, NV_HANDLE_ENABLE_PEERS);
        leave();
    }
    if (code) {
        ring->memory = 0;
        sp_nvdec_ring_close(ring);
        return SP_FAIL_FROM(reterr, SP_UNSUPPORTED, "cuda", code, "the memory of another process cannot be opened");
    }
    *ret_ring = ring;
    return SP_OK;
}

bool sp_nvdec_on_device(const AVFrame *frame)
{
    return frame->format == AV_PIX_FMT_CUDA;
}

static luma *luma_of(const AVFrame *frame)
{
    return (luma *)(void *)frame->buf[0]->data;
}

sp_status sp_nvdec_ring_put(sp_nvdec_ring *ring, const AVFrame *frame, size_t at, size_t stride_bytes, sp_error *reterr)
{
    size_t need = stride_bytes * (size_t)frame->height;
    SP_ASSERT(stride_bytes >= (size_t)frame->width && need <= ring->bytes && at <= ring->bytes - need);
    bool good = enter(ring->context);
    if (good) {
        good = copy_on_device(ring->memory + at, stride_bytes, luma_of(frame)->device, (size_t)frame->width, frame->width, frame->height);
        leave();
    }
    return good ? SP_OK : SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "nvdec", "the device does not copy what it has decoded");
}

static void give_back(void *ring, uint8_t *data)
{
    luma *p = (luma *)(void *)data;
    p->next = ((sp_nvdec_ring *)ring)->unused;
    ((sp_nvdec_ring *)ring)->unused = p;
}

/* A frame with room for its luma on the device; false: it is to come to the host. Within the context. */
static bool take_luma(sp_nvdec_ring *ring, AVFrame *frame)
{
    size_t bytes = (size_t)frame->width * (size_t)frame->height;
    if (ring->unused && ring->unused->bytes < bytes)
        free_lumas(ring); /* the stream has grown */
    luma *p = ring->unused;
    if (p) {
        ring->unused = p->next;
    } else {
        p = calloc(1, sizeof(*p));
        if (!p || driver.memory_new(&p->device, bytes)) {
            free(p);
            return false;
        }
        p->bytes = bytes;
    }
    frame->buf[0] = av_buffer_create((uint8_t *)p, sizeof(*p), give_back, ring, 0);
    if (!frame->buf[0])
        give_back(ring, (uint8_t *)p);
    else
        frame->format = AV_PIX_FMT_CUDA;
    return frame->buf[0] != NULL;
}

/* --- one decoder -------------------------------------------------------------------------------------------------- */

struct sp_nvdec {
    int device, codec;
    bool limited, failed, out_of_memory;
    nv_context context;
    sp_nvdec_ring *ring; /* the caller's; NULL = none */
    nv_parser parser;
    nv_decoder decoder;
    nv_format format; /* of the decoder */
    AVBSFContext *filter; /* NULL: packets go as they are */
    AVPacket *packet;
    AVFrame *queue[QUEUE];
    unsigned head, count;
};

static int codec_of(enum AVCodecID id)
{
    switch (id) {
    case AV_CODEC_ID_H264:
        return NV_CODEC_H264;
    case AV_CODEC_ID_HEVC:
        return NV_CODEC_HEVC;
    case AV_CODEC_ID_VP9:
        return NV_CODEC_VP9;
    case AV_CODEC_ID_AV1:
        return NV_CODEC_AV1;
    default:
        return -1;
    }
}

void sp_nvdec_close(sp_nvdec *nvdec)
{
    if (!nvdec)
        return;
    bool entered = nvdec->context && enter(nvdec->context);
    if (nvdec->parser)
        (void)driver.parser_destroy(nvdec->parser);
    if (nvdec->decoder)
        (void)driver.decoder_destroy(nvdec->decoder);
    if (entered)
        leave();
    if (nvdec->context)
        (void)driver.context_release(nvdec->device);
    for (unsigned i = 0; i < nvdec->count; i++)
        av_frame_free(&nvdec->queue[(nvdec->head + i) % QUEUE]);
    av_bsf_free(&nvdec->filter);
    av_packet_free(&nvdec->packet);
    free(nvdec);
}
SP_DEFINE_CLEANUP(sp_nvdec, sp_nvdec_close)

/* --- what the parser calls ---------------------------------------------------------------------------------------- */

static bool takes(const nv_format *format)
{
    nv_caps caps = { .codec = format->codec, .chroma = format->chroma, .bit_depth_minus_8 = format->luma_depth_minus_8 };
    if (format->chroma != NV_CHROMA_420 || format->luma_depth_minus_8 || format->chroma_depth_minus_8)
        return false;
    return driver.caps(&caps) == 0 && caps.supported && (caps.output_formats & 1u << NV_SURFACE_NV12) &&
           format->coded_width >= caps.min_width && format->coded_width <= caps.max_width && format->coded_height >= caps.min_height &&
           format->coded_height <= caps.max_height &&
           (uint64_t)(format->coded_width / 16) * (format->coded_height / 16) <= caps.max_macroblocks;
}

static bool is_same(const nv_format *a, const nv_format *b)
{
    return a->codec == b->codec && a->coded_width == b->coded_width && a->coded_height == b->coded_height && a->chroma == b->chroma &&
           a->luma_depth_minus_8 == b->luma_depth_minus_8 && memcmp(&a->display, &b->display, sizeof(a->display)) == 0;
}

/* Parameters of the stream, at its begin and whenever they come again. */
static int on_sequence(void *context, nv_format *format)
{
    sp_nvdec *nvdec = context;
    int surfaces = format->least_surfaces + SPARE_SURFACES, width = format->display.right - format->display.left,
        height = format->display.bottom - format->display.top;
    if (nvdec->decoder && is_same(format, &nvdec->format))
        return surfaces;
    nvdec->failed |= nvdec->decoder || !takes(format) || width < 2 || height < 2 || width % 2 || height % 2 ||
                     format->display.left < 0 || format->display.top < 0 || format->display.right > INT16_MAX || format->display.bottom > INT16_MAX;
    if (nvdec->failed)
        return 0;
    nv_create settings = {
        .width = format->coded_width,
        .height = format->coded_height,
        .decode_surfaces = (unsigned long)surfaces,
        .codec = format->codec,
        .chroma = format->chroma,
        .flags = NV_CREATE_PREFER_CUVID,
        .max_width = format->coded_width,
        .max_height = format->coded_height,
        .display = { (int16_t)format->display.left, (int16_t)format->display.top, (int16_t)format->display.right,
                     (int16_t)format->display.bottom },
        .output_format = NV_SURFACE_NV12,
        .deinterlace = NV_DEINTERLACE_WEAVE,
        .target_width = (unsigned long)width,
        .target_height = (unsigned long)height,
        .output_surfaces = 1,
    };
    nvdec->format = *format;
    nvdec->failed = driver.decoder_create(&nvdec->decoder, &settings) != 0;
    return nvdec->failed ? 0 : surfaces;
}

static int on_decode(void *context, nv_picture *picture)
{
    sp_nvdec *nvdec = context;
    nvdec->failed |= !nvdec->decoder || driver.decode(nvdec->decoder, picture) != 0;
    return !nvdec->failed;
}

static bool copy_plane(uint8_t *dst, int stride, uint64_t src, unsigned pitch, int width_bytes, int height)
{
    const nv_copy copy = { .src_kind = NV_MEMORY_DEVICE, .src_device = src, .src_pitch = pitch, .dst_kind = NV_MEMORY_HOST,
                           .dst_host = dst, .dst_pitch = (size_t)stride, .width_bytes = (size_t)width_bytes, .height = (size_t)height };
    return driver.copy(&copy) == 0;
}

/* The target's rows of luma, then half as many of chroma, which a picture on the device has not. */
static bool copy_out(sp_nvdec *nvdec, AVFrame *frame, const nv_display *shown)
{
    nv_map how = { .progressive = shown->progressive, .second_field = shown->repeat_first + 1, .top_first = shown->top_first,
                   .unpaired = shown->repeat_first < 0 };
    uint64_t device = 0;
    unsigned pitch = 0;
    if (driver.map(nvdec->decoder, shown->surface, &device, &pitch, &how))
        return false;
    bool good;
    if (sp_nvdec_on_device(frame))
        good = copy_on_device(luma_of(frame)->device, (size_t)frame->width, device, pitch, frame->width, frame->height);
    else
        good = copy_plane(frame->data[0], frame->linesize[0], device, pitch, frame->width, frame->height) &&
               copy_plane(frame->data[1], frame->linesize[1], device + (uint64_t)pitch * (unsigned)frame->height, pitch, frame->width,
                          frame->height / 2);
    return driver.unmap(nvdec->decoder, device) == 0 && good;
}

static bool is_whole(const sp_nvdec *nvdec, int surface)
{
    nv_status status = { 0 };
    return !driver.status || driver.status(nvdec->decoder, surface, &status) ||
           (status.status != NV_STATUS_ERROR && status.status != NV_STATUS_CONCEALED);
}

static int on_display(void *context, nv_display *shown)
{
    sp_nvdec *nvdec = context;
    if (!shown || nvdec->failed)
        return !nvdec->failed;
    AVFrame *frame = nvdec->count < QUEUE && nvdec->decoder ? av_frame_alloc() : NULL;
    if (frame) {
        frame->format = AV_PIX_FMT_NV12;
        frame->width = nvdec->format.display.right - nvdec->format.display.left;
        frame->height = nvdec->format.display.bottom - nvdec->format.display.top;
        frame->color_range = nvdec->limited ? AVCOL_RANGE_MPEG : AVCOL_RANGE_JPEG;
        frame->pts = shown->timestamp;
        nvdec->out_of_memory |= !(nvdec->ring && take_luma(nvdec->ring, frame)) && av_frame_get_buffer(frame, 0) < 0;
    }
    nvdec->failed = !frame || nvdec->out_of_memory || !copy_out(nvdec, frame, shown) || !is_whole(nvdec, shown->surface);
    if (nvdec->failed)
        av_frame_free(&frame);
    else
        nvdec->queue[(nvdec->head + nvdec->count++) % QUEUE] = frame;
    return !nvdec->failed;
}

/* --- packets ------------------------------------------------------------------------------------------------------ */

/* The parser wants H.264 and HEVC with start codes; MP4 and Matroska have lengths instead. */
static sp_status make_filter(sp_nvdec *nvdec, const AVCodecParameters *parameters, sp_view extradata, sp_error *reterr)
{
    const char *name = nvdec->codec == NV_CODEC_H264 ? "h264_mp4toannexb" : nvdec->codec == NV_CODEC_HEVC ? "hevc_mp4toannexb" : NULL;
    const AVBitStreamFilter *filter = name ? av_bsf_get_by_name(name) : NULL;
    if (!name)
        return SP_OK;
    if (!filter)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "libavcodec has no %s", name);
    if (av_bsf_alloc(filter, &nvdec->filter) < 0 || avcodec_parameters_copy(nvdec->filter->par_in, parameters) < 0)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder");
    if (extradata.size_bytes) {
        uint8_t *copy = av_mallocz(extradata.size_bytes + AV_INPUT_BUFFER_PADDING_SIZE);
        if (!copy)
            return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder");
        memcpy(copy, extradata.data, extradata.size_bytes);
        av_freep(&nvdec->filter->par_in->extradata);
        nvdec->filter->par_in->extradata = copy;
        nvdec->filter->par_in->extradata_size = (int)extradata.size_bytes;
    }
    return av_bsf_init(nvdec->filter) < 0 ? SP_FAIL(reterr, SP_UNSUPPORTED, "%s does not take this stream's parameters", name) : SP_OK;
}

sp_status sp_nvdec_open(const sp_video_input *input, sp_view extradata, int device, sp_nvdec_ring *ring, bool limited,
                        sp_nvdec **ret_nvdec, sp_error *reterr)
{
    const AVCodecParameters *parameters = input->stream->codecpar;
    int codec = codec_of(parameters->codec_id);
    if (codec < 0)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "%.20s is not decoded by the GPU", input->codec->name);
    load_once();
    if (!driver.there)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "%s", driver.why);
    SP_CLEANUP(sp_nvdec_closep) sp_nvdec *nvdec = calloc(1, sizeof(*nvdec));
    if (nvdec)
        nvdec->packet = av_packet_alloc();
    if (!nvdec || !nvdec->packet)
        return SP_FAIL(reterr, SP_NOMEM, "out of memory for a decoder");
    nvdec->codec = codec;
    nvdec->limited = limited;
    nvdec->ring = ring;
    nv_result code = driver.device_get(&nvdec->device, device);
    if (!code)
        code = driver.context_retain(&nvdec->context, nvdec->device);
    if (code) {
        nvdec->context = NULL;
        return SP_FAIL_FROM(reterr, SP_UNSUPPORTED, "cuda", code, "there is no CUDA device %d to decode on", device);
    }
    sp_status s = make_filter(nvdec, parameters, extradata, reterr);
    if (s)
        return s;
    nv_parser_settings settings = { .codec = codec, .surfaces = 1, .context = nvdec, .sequence = on_sequence, .decode = on_decode,
                                    .display = on_display };
    if (!enter(nvdec->context))
        return SP_FAIL(reterr, SP_UNSUPPORTED, "CUDA device %d cannot be used", device);
    code = driver.parser_create(&nvdec->parser, &settings);
    leave();
    if (code) {
        nvdec->parser = NULL;
        return SP_FAIL_FROM(reterr, SP_UNSUPPORTED, "cuvid", code, "the driver has no parser for %.20s", input->codec->name);
    }
    *ret_nvdec = SP_STEAL(nvdec);
    return SP_OK;
}

static void parse(sp_nvdec *nvdec, const AVPacket *packet, uint64_t ordinal)
{
    nv_packet given = { .flags = NV_PACKET_END_OF_STREAM };
    if (packet)
        given = (nv_packet){ .flags = NV_PACKET_TIMESTAMP | NV_PACKET_END_OF_PICTURE, .size_bytes = (unsigned long)packet->size,
                             .data = packet->data, .timestamp = (long long)ordinal };
    if (!enter(nvdec->context)) {
        nvdec->failed = true;
        return;
    }
    nvdec->failed |= driver.parse(nvdec->parser, &given) != 0;
    leave();
}

sp_status sp_nvdec_send(sp_nvdec *nvdec, const AVPacket *packet, uint64_t ordinal, sp_error *reterr)
{
    if (!nvdec->failed && (!packet || !nvdec->filter)) {
        parse(nvdec, packet, ordinal);
    } else if (!nvdec->failed) {
        int code = av_packet_ref(nvdec->packet, packet);
        if (!code)
            code = av_bsf_send_packet(nvdec->filter, nvdec->packet);
        while (!code && (code = av_bsf_receive_packet(nvdec->filter, nvdec->packet)) == 0) {
            parse(nvdec, nvdec->packet, ordinal);
            av_packet_unref(nvdec->packet);
        }
        av_packet_unref(nvdec->packet);
        nvdec->out_of_memory |= code == AVERROR(ENOMEM);
        nvdec->failed |= code != AVERROR(EAGAIN);
    }
    return nvdec->out_of_memory ? SP_FAIL(reterr, SP_NOMEM, "out of memory while decoding") : SP_OK;
}

bool sp_nvdec_receive(sp_nvdec *nvdec, AVFrame *frame)
{
    if (!nvdec->count || nvdec->failed)
        return false;
    av_frame_move_ref(frame, nvdec->queue[nvdec->head]);
    av_frame_free(&nvdec->queue[nvdec->head]);
    nvdec->head = (nvdec->head + 1) % QUEUE;
    nvdec->count--;
    return true;
}

bool sp_nvdec_failed(const sp_nvdec *nvdec)
{
    return nvdec->failed;
}
