/* SPDX-License-Identifier: Apache-2.0
 * What of NVIDIA's driver libraries is used here, declared by ourselves: libcuda (contexts, one copy) and libnvcuvid (parser and
 * decoder), as of the 64-bit interface of Video Codec SDK 8 and later on Linux. Both come with the driver and are found at run
 * time (nvdec.c); nothing of NVIDIA's is needed to build. Names are ours, layouts and numbers are theirs. */
#ifndef SP_MEDIA_NVDEC_API_H
#define SP_MEDIA_NVDEC_API_H

#include <stddef.h>
#include <stdint.h>

typedef int nv_result; /* 0 = done, of both libraries */
typedef struct nv_context_opaque *nv_context;
typedef struct nv_parser_opaque *nv_parser;
typedef struct nv_decoder_opaque *nv_decoder;

/* --- libcuda --- */

enum { NV_MEMORY_HOST = 1, NV_MEMORY_DEVICE = 2 };

typedef struct nv_copy {
    size_t src_x_bytes, src_y;
    int src_kind; /* NV_MEMORY_... */
    const void *src_host;
    uint64_t src_device;
    void *src_array;
    size_t src_pitch;
    size_t dst_x_bytes, dst_y;
    int dst_kind;
    void *dst_host;
    uint64_t dst_device;
    void *dst_array;
    size_t dst_pitch;
    size_t width_bytes, height;
} nv_copy;

/* Memory of another process, given by value. */
typedef struct nv_handle {
    char bytes[64];
} nv_handle;
enum { NV_HANDLE_ENABLE_PEERS = 1 }; /* the one flag there is; it must be given */

/* --- libnvcuvid --- */

enum { NV_CODEC_MPEG2 = 1, NV_CODEC_H264 = 4, NV_CODEC_HEVC = 8, NV_CODEC_VP8 = 9, NV_CODEC_VP9 = 10, NV_CODEC_AV1 = 11 };
enum { NV_CHROMA_420 = 1 };
enum { NV_SURFACE_NV12 = 0 };
enum { NV_CREATE_PREFER_CUVID = 4 };
enum { NV_DEINTERLACE_WEAVE = 0 };
enum { NV_PACKET_END_OF_STREAM = 1, NV_PACKET_TIMESTAMP = 2, NV_PACKET_END_OF_PICTURE = 8 };
enum { NV_STATUS_ERROR = 8, NV_STATUS_CONCEALED = 9 };

typedef struct nv_caps {
    int codec, chroma;
    unsigned bit_depth_minus_8, reserved[3];
    uint8_t supported, engines;
    uint16_t output_formats; /* bits: NV_SURFACE_... */
    unsigned max_width, max_height, max_macroblocks;
    uint16_t min_width, min_height;
    uint8_t histogram, histogram_depth;
    uint16_t histogram_bins;
    unsigned reserved_too[10];
} nv_caps;

typedef struct nv_create {
    unsigned long width, height, decode_surfaces; /* of the coded picture */
    int codec, chroma;
    unsigned long flags, bit_depth_minus_8, intra_only, max_width, max_height, reserved;
    struct {
        int16_t left, top, right, bottom;
    } display;
    int output_format, deinterlace;
    unsigned long target_width, target_height, output_surfaces;
    void *lock;
    struct {
        int16_t left, top, right, bottom;
    } target;
    unsigned long reserved_too[8];
} nv_create;

typedef struct nv_format {
    int codec;
    struct {
        unsigned numerator, denominator;
    } rate;
    uint8_t progressive, luma_depth_minus_8, chroma_depth_minus_8, least_surfaces;
    unsigned coded_width, coded_height;
    struct {
        int left, top, right, bottom;
    } display;
    int chroma;
    unsigned bit_rate;
    struct {
        int x, y;
    } aspect;
    uint8_t signal[4]; /* format and range; primaries; transfer; matrix */
    unsigned header_bytes;
} nv_format;

/* Given to the decoder as it comes; only which surface it is decoded into is looked at. */
typedef struct nv_picture {
    int width_macroblocks, height_macroblocks, surface;
} nv_picture;

typedef struct nv_display {
    int surface, progressive, top_first, repeat_first;
    long long timestamp;
} nv_display;

typedef struct nv_packet {
    unsigned long flags, size_bytes;
    const uint8_t *data;
    long long timestamp;
} nv_packet;

typedef struct nv_parser_settings {
    int codec;
    unsigned surfaces, clock_rate, error_threshold, display_delay, reserved[5];
    void *context;
    int (*sequence)(void *context, nv_format *format);   /* 0: give up; else how many surfaces there are */
    int (*decode)(void *context, nv_picture *picture);   /* 0: failed */
    int (*display)(void *context, nv_display *display);  /* NULL: the stream's end */
    void *more[7];
    void *format;
} nv_parser_settings;

typedef struct nv_map {
    int progressive, second_field, top_first, unpaired;
    unsigned reserved_flags, reserved_zero;
    uint64_t raw_input;
    unsigned raw_input_pitch, raw_input_format;
    uint64_t raw_output;
    unsigned raw_output_pitch, reserved;
    void *stream;
    unsigned reserved_too[48];
    void *more[3];
} nv_map;

typedef struct nv_status {
    int status; /* NV_STATUS_... */
    unsigned reserved[31];
    void *more[8];
} nv_status;

_Static_assert(sizeof(void *) != 8 || (sizeof(nv_copy) == 128 && sizeof(nv_caps) == 88 && sizeof(nv_format) == 64 &&
                                       sizeof(nv_display) == 24 && sizeof(nv_packet) == 32),
               "layouts of the 64-bit interface");

#endif
