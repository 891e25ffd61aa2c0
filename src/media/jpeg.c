/* SPDX-License-Identifier: Apache-2.0
 * JPEG by libjpeg-turbo. Default flags (accurate integer DCT, fancy upsampling), which is what Pillow's decoder uses;
 * CMYK and YCCK follow Pillow too: four components are taken for Adobe's inverted ones whether or not the marker says
 * so. What Pillow lets pass (a marker in the middle of the data, which leaves grey) passes here as well; data that
 * end early do not. Does not read ICC profiles, thumbnails or further pictures of an MPO file. */
#include "media/decoders.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>
#include <jerror.h>

#define MARKER_SOS 0xda
#define MARKER_EOI 0xd9
#define MARKER_APP1 0xe1

static bool is_frame_marker(int marker)
{
    /* SOF0..SOF15 without DHT, JPG and DAC, which share the range. */
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

static bool has_no_length(int marker)
{
    return marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8); /* TEM, RSTn, SOI */
}

typedef struct jpeg_marks {
    sp_image_header *header;
    bool frame_seen;
    sp_turns turns;
} jpeg_marks;

static sp_status read_frame(jpeg_marks *marks, int marker, sp_view body, size_t offset, sp_error *reterr)
{
    if (body.size_bytes < 6)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "jpeg: the frame header at byte %zu is %zu bytes long, it "
                            "needs 6", offset, body.size_bytes);
    int bits = body.data[0], components = body.data[5];
    if (bits != 8)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unsupported_variant", "jpeg: %d bits a sample (frame header at byte %zu); "
                            "only 8 can be read, save it again as an ordinary JPEG", bits, offset);
    if (components != 1 && components != 3 && components != 4)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unsupported_variant", "jpeg: %d components (frame header at byte %zu); "
                            "1, 3 and 4 can be read", components, offset);
    if (marker != 0xc0 && marker != 0xc1 && marker != 0xc2 && marker != 0xc9 && marker != 0xca)
        return SP_FAIL_CODE(reterr, SP_INVALID, "unsupported_variant", "jpeg: process SOF%d (marker at byte %zu) is lossless "
                            "or hierarchical; save it again as an ordinary JPEG", marker - 0xc0, offset);
    marks->header->bits = bits;
    marks->header->height = sp_be16(body.data + 1);
    marks->header->width = sp_be16(body.data + 3);
    marks->frame_seen = true;
    return SP_OK;
}

static sp_status truncated(sp_error *reterr, size_t offset, const char *what)
{
    return SP_FAIL_CODE(reterr, SP_INVALID, "truncated", "jpeg: the file ends at byte %zu, %s; send the whole file", offset,
                        what);
}

/* Walks the markers up to the first scan. */
static sp_status jpeg_probe(sp_view file, sp_image_header *ret_header, sp_error *reterr)
{
    jpeg_marks marks = { .header = ret_header };
    size_t at = 2; /* sniffed: starts with SOI */

    for (;;) {
        /* Like every reader: what is no marker between segments is skipped, and any number of 0xff may precede one. */
        while (at < file.size_bytes && file.data[at] != 0xff)
            at++;
        while (at < file.size_bytes && file.data[at] == 0xff)
            at++;
        if (at >= file.size_bytes)
            return truncated(reterr, file.size_bytes, "before the image data began");
        int marker = file.data[at++];
        if (marker == 0 || has_no_length(marker))
            continue;
        if (marker == MARKER_EOI)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "jpeg: the image ends at byte %zu without any data", at);
        if (marker == MARKER_SOS)
            break;
        if (file.size_bytes - at < 2)
            return truncated(reterr, file.size_bytes, "inside a segment's length");
        size_t length = sp_be16(file.data + at);
        if (length < 2)
            return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "jpeg: segment length %zu at byte %zu; 2 is the least",
                                length, at);
        if (length > file.size_bytes - at)
            return truncated(reterr, file.size_bytes, "inside a header segment");
        sp_view body = sp_view_make(file.data + at + 2, length - 2);
        if (is_frame_marker(marker)) {
            sp_status s = read_frame(&marks, marker, body, at, reterr);
            if (s)
                return s;
        } else if (marker == MARKER_APP1) {
            sp_turns_app1(&marks.turns, body);
        }
        at += length;
    }
    if (!marks.frame_seen)
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_header", "jpeg: the image data at byte %zu come before any frame "
                            "header", at);
    ret_header->orientation = sp_orientation_pick(marks.turns.exif, marks.turns.xmp);
    return SP_OK;
}

/* One decode: libjpeg's objects and where its errors go. Lives in jpeg_decode's frame. */
typedef struct jpeg_job {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    sp_view file;
    size_t base; /* where `file` begins in the file that was sent: not 0 for a block of a TIFF file */
    sp_error *reterr;
    sp_status status;
    uint8_t *strip; /* rows waiting to be turned, or CMYK rows waiting for conversion */
} jpeg_job;

static jpeg_job *job_of(j_common_ptr cinfo)
{
    return cinfo->client_data;
}

static size_t job_offset(const jpeg_job *job)
{
    return job->base + job->file.size_bytes - job->source.bytes_in_buffer;
}

SP_NORETURN static void on_error(j_common_ptr cinfo)
{
    jpeg_job *job = job_of(cinfo);
    char text[JMSG_LENGTH_MAX];
    cinfo->err->format_message(cinfo, text);
    if (cinfo->err->msg_code == JERR_OUT_OF_MEMORY) {
        job->status = SP_FAIL_CODE(job->reterr, SP_NOMEM, "", "jpeg: out of memory");
    } else {
        job->status = sp_error_set(job->reterr, SP_INVALID, "corrupt", "libjpeg", cinfo->err->msg_code, __FILE__, __LINE__,
                                   "jpeg: near byte %zu: %s", job_offset(job), text);
    }
    longjmp(job->escape, 1);
}

static void on_message(j_common_ptr cinfo, int level)
{
    /* Warnings are counted by nobody: Pillow lets such files pass, and so do we. Never to stderr. */
    (void)cinfo;
    (void)level;
}

static void on_source_begin(j_decompress_ptr cinfo)
{
    (void)cinfo;
}

SP_NORETURN static void out_of_bytes(jpeg_job *job)
{
    job->status = truncated(job->reterr, job->base + job->file.size_bytes, "inside the image data");
    longjmp(job->escape, 1);
}

static boolean on_source_empty(j_decompress_ptr cinfo)
{
    out_of_bytes(cinfo->client_data);
}

static void on_source_skip(j_decompress_ptr cinfo, long count)
{
    if (count <= 0)
        return;
    if ((size_t)count > cinfo->src->bytes_in_buffer)
        out_of_bytes(cinfo->client_data);
    cinfo->src->next_input_byte += count;
    cinfo->src->bytes_in_buffer -= (size_t)count;
}

static void on_progress(j_common_ptr common)
{
    j_decompress_ptr cinfo = (j_decompress_ptr)common;
    jpeg_job *job = common->client_data;
    uint64_t scans = (uint64_t)SP_MAX(cinfo->input_scan_number, 0);
    uint64_t pixels = (uint64_t)cinfo->image_width * cinfo->image_height; /* image.c has bounded it */
    if (scans <= SP_LIMIT_JPEG_SCANS && scans * pixels <= SP_LIMIT_JPEG_SCAN_PIXELS)
        return;
    job->status = SP_FAIL_CODE(job->reterr, SP_TOO_LARGE, "image_scans", "jpeg: %llu scans of %u x %u pixels (byte %zu) are "
                               "too many; save it as a baseline JPEG", (unsigned long long)scans, cinfo->image_width,
                               cinfo->image_height, job_offset(job));
    longjmp(job->escape, 1);
}

static void job_open(jpeg_job *job)
{
    job->cinfo.client_data = job;
    job->cinfo.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = on_error;
    job->errors.emit_message = on_message;
    jpeg_create_decompress(&job->cinfo); /* keeps err and client_data */
    job->source = (struct jpeg_source_mgr){
        .next_input_byte = job->file.data,
        .bytes_in_buffer = job->file.size_bytes,
        .init_source = on_source_begin,
        .fill_input_buffer = on_source_empty,
        .skip_input_data = on_source_skip,
        .resync_to_restart = jpeg_resync_to_restart,
        .term_source = on_source_begin,
    };
    job->cinfo.src = &job->source;
    job->progress.progress_monitor = on_progress;
    job->cinfo.progress = &job->progress;
}

/* Adobe's inverted CMYK to RGB as Pillow converts it: each ink scaled by what the black leaves, rounded. */
static void cmyk_to_rgb(uint8_t *SP_RESTRICT dst, const uint8_t *SP_RESTRICT cmyk, int width)
{
    for (int x = 0; x < width; x++, dst += 3, cmyk += 4) {
        int light = cmyk[3]; /* 255 - K of the straight form */
        for (int c = 0; c < 3; c++) {
            int t = (255 - cmyk[c]) * light + 128;
            int v = light - (((t >> 8) + t) >> 8);
            dst[c] = (uint8_t)SP_CLAMP(v, 0, 255);
        }
    }
}

static void read_rows(jpeg_job *job, const sp_rows *rows)
{
    j_decompress_ptr cinfo = &job->cinfo;
    int strip_rows = sp_rows_strip(rows);
    size_t row_bytes = (size_t)rows->width * 3;
    bool cmyk = cinfo->out_color_space == JCS_CMYK;
    uint8_t *cmyk_row = job->strip ? job->strip + (size_t)strip_rows * row_bytes : NULL;

    for (int first = 0; first < rows->height; first += strip_rows) {
        int count = SP_MIN(strip_rows, rows->height - first);
        for (int i = 0; i < count; i++) {
            uint8_t *direct = sp_rows_direct(rows, first + i);
            uint8_t *rgb = direct ? direct : job->strip + (size_t)i * row_bytes;
            JSAMPROW row = cmyk ? cmyk_row : rgb;
            (void)jpeg_read_scanlines(cinfo, &row, 1); /* one row or a jump: the source never suspends */
            if (cmyk)
                cmyk_to_rgb(rgb, cmyk_row, rows->width);
        }
        if (!sp_rows_direct(rows, first))
            sp_rows_put(rows, first, count, job->strip, row_bytes);
    }
}

/* Everything that may jump. */
static void job_run(jpeg_job *job, const sp_image_header *header, int scale, const sp_rows *rows)
{
    j_decompress_ptr cinfo = &job->cinfo;
    (void)jpeg_read_header(cinfo, TRUE);
    if (cinfo->image_width != (JDIMENSION)header->width || cinfo->image_height != (JDIMENSION)header->height) {
        job->status = SP_FAIL_CODE(job->reterr, SP_INVALID, "bad_header", "jpeg: two frame headers disagree about the size");
        return;
    }
    cinfo->out_color_space = cinfo->num_components == 4 ? JCS_CMYK : JCS_RGB;
    cinfo->scale_num = 1;
    cinfo->scale_denom = (unsigned)scale;
    (void)jpeg_start_decompress(cinfo);
    if (cinfo->output_width != (JDIMENSION)rows->width || cinfo->output_height != (JDIMENSION)rows->height) {
        job->status = SP_FAIL(job->reterr, SP_INTERNAL, "jpeg: libjpeg makes %u x %u, expected %d x %d",
                              cinfo->output_width, cinfo->output_height, rows->width, rows->height);
        return;
    }
    if (cinfo->out_color_space == JCS_CMYK || rows->orientation != 1) {
        job->strip = malloc((size_t)sp_rows_strip(rows) * (size_t)rows->width * 3 + (size_t)rows->width * 4);
        if (!job->strip) {
            job->status = SP_FAIL(job->reterr, SP_NOMEM, "jpeg: no memory for a strip of rows");
            return;
        }
    }
    read_rows(job, rows);
    (void)jpeg_finish_decompress(cinfo); /* reads up to the end marker: a missing one is a truncated file */
}

/* A frame of its own: whatever changes between setjmp and a jump lies in the caller's job. */
static void job_guarded(jpeg_job *job, const sp_image_header *header, int scale, const sp_rows *rows)
{
    if (setjmp(job->escape) != 0)
        return;
    job_open(job);
    job_run(job, header, scale, rows);
}

static sp_status jpeg_decode(sp_view file, const sp_image_header *header, int scale, const sp_rows *rows, sp_error *reterr)
{
    jpeg_job job = { .file = file, .reterr = reterr };
    job_guarded(&job, header, scale, rows);
    jpeg_destroy_decompress(&job.cinfo); /* fine on one that was never created */
    free(job.strip);
    return job.status;
}

/* The tables that the blocks of a TIFF file share, then the block. */
static void block_guarded(jpeg_job *job, const sp_jpeg_block *block)
{
    j_decompress_ptr cinfo = &job->cinfo;
    if (setjmp(job->escape) != 0)
        return;
    job_open(job);
    if (block->tables.size_bytes) {
        job->source.next_input_byte = block->tables.data;
        job->source.bytes_in_buffer = block->tables.size_bytes;
        (void)jpeg_read_header(cinfo, FALSE);
    }
    job->source.next_input_byte = job->file.data;
    job->source.bytes_in_buffer = job->file.size_bytes;
    (void)jpeg_read_header(cinfo, TRUE);
    bool fits = cinfo->image_width == (JDIMENSION)block->width && cinfo->image_height >= (JDIMENSION)block->rows &&
                (uint64_t)cinfo->image_width * cinfo->image_height <= SP_LIMIT_IMAGE_PIXELS && /* its height is only its word */
                cinfo->num_components == block->samples;
    if (!fits) {
        job->status = SP_FAIL_CODE(job->reterr, SP_INVALID, "corrupt", "tiff: the JPEG data at byte %zu are %u x %u with %d "
                                   "components, the strip or tile is not", job->base, cinfo->image_width,
                                   cinfo->image_height, cinfo->num_components);
        return;
    }
    /* The TIFF's words about colour count, not what the JPEG data say of themselves. */
    cinfo->jpeg_color_space = block->ycbcr ? JCS_YCbCr : JCS_UNKNOWN;
    cinfo->out_color_space = block->ycbcr ? JCS_RGB : JCS_UNKNOWN;
    (void)jpeg_start_decompress(cinfo);
    for (int y = 0; y < block->rows; y++) {
        JSAMPROW row = block->dst + (size_t)y * block->stride_bytes;
        (void)jpeg_read_scanlines(cinfo, &row, 1);
    }
}

sp_status sp_jpeg_block_decode(sp_view data, size_t offset, const sp_jpeg_block *block, sp_error *reterr)
{
    jpeg_job job = { .file = data, .base = offset, .reterr = reterr };
    block_guarded(&job, block);
    jpeg_destroy_decompress(&job.cinfo);
    return job.status;
}

const sp_image_decoder sp_decoder_jpeg = { SP_IMAGE_JPEG, "jpeg", jpeg_probe, jpeg_decode };
