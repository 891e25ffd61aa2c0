/* SPDX-License-Identifier: Apache-2.0
 * See jpeg_plain.h.
 *
 *   SOI  (APPn | COM | DQT | DHT | DRI)...  SOF0  ...  SOS  data RST0 data RST1 data ... EOI  (ignored) */
#include "media/jpeg_plain.h"

#include "media/decoders.h"

#include <string.h>

#define NO(code, ...) SP_FAIL_CODE(reterr, SP_UNSUPPORTED, code, "jpeg: " __VA_ARGS__)

typedef struct component {
    int id, h, v, quantiser;
} component;

typedef struct walk {
    component components[3];
    int count; /* of them; 0 = no frame header yet */
    int width, height;
    uint32_t restart_interval;       /* in blocks of the scan (MCUs); 0 = none */
    uint8_t quantisers;              /* bits: tables that are defined */
    uint8_t huffman[2];              /* likewise; [0] of DC, [1] of AC */
    bool jfif, adobe_rgb;
    sp_turns turns;
} walk;

/* --- segments --------------------------------------------------------------------------------------------------------- */

static sp_status read_quantisers(walk *w, sp_view body, sp_error *reterr)
{
    for (size_t at = 0; at < body.size_bytes; at += 65) {
        int precision = body.data[at] >> 4, table = body.data[at] & 15;
        if (precision)
            return NO("unusual", "a quantiser of 16 bits");
        if (table > 3 || body.size_bytes - at < 65 || memchr(body.data + at + 1, 0, 64))
            return NO("damaged", "a quantiser table is damaged");
        w->quantisers |= (uint8_t)(1u << table);
    }
    return SP_OK;
}

/* The code's lengths must fit into a tree, and leave out the code of ones alone, as the standard has it. */
static bool is_prefix_code(const uint8_t counts[16], size_t *ret_symbols)
{
    uint32_t free_codes = 1;
    *ret_symbols = 0;
    for (int bits = 0; bits < 16; bits++) {
        free_codes *= 2;
        if (counts[bits] >= free_codes)
            return false;
        free_codes -= counts[bits];
        *ret_symbols += counts[bits];
    }
    return *ret_symbols >= 1 && *ret_symbols <= 256;
}

static sp_status read_huffman(walk *w, sp_view body, sp_error *reterr)
{
    size_t at = 0, symbols = 0;
    for (; at < body.size_bytes; at += 17 + symbols) {
        int kind = body.data[at] >> 4, table = body.data[at] & 15;
        if (kind > 1 || table > 1 || body.size_bytes - at < 17 || !is_prefix_code(body.data + at + 1, &symbols) ||
            body.size_bytes - at - 17 < symbols)
            return NO("damaged", "a Huffman table is damaged");
        const uint8_t *values = body.data + at + 17;
        for (size_t i = 0; i < symbols; i++) {
            int size = kind ? values[i] & 15 : values[i]; /* of a coefficient, in bits; a DC difference has one more */
            if (size > (kind ? 10 : 11))
                return NO("damaged", "a Huffman table has a value of %d bits", size);
        }
        w->huffman[kind] |= (uint8_t)(1u << table);
    }
    return SP_OK;
}

static bool is_usual_sampling(const walk *w)
{
    static const struct {
        int h, v;
    } usual[] = { { 1, 1 }, { 2, 1 }, { 2, 2 }, { 1, 2 }, { 4, 1 } };
    const component *luma = &w->components[0];
    if (w->count == 1)
        return luma->h == 1 && luma->v == 1;
    for (int i = 1; i < 3; i++)
        if (w->components[i].h != 1 || w->components[i].v != 1)
            return false;
    for (size_t i = 0; i < SP_ARRAY_LEN(usual); i++)
        if (luma->h == usual[i].h && luma->v == usual[i].v)
            return true;
    return false;
}

static sp_status read_frame(walk *w, sp_view body, sp_error *reterr)
{
    if (w->count)
        return NO("unusual", "a second frame header");
    if (body.size_bytes < 6 || body.size_bytes != 6 + (size_t)body.data[5] * 3)
        return NO("damaged", "a frame header of %zu bytes", body.size_bytes);
    w->height = (int)sp_be16(body.data + 1);
    w->width = (int)sp_be16(body.data + 3);
    if (body.data[0] != 8)
        return NO("progressive", "%d bits a sample", body.data[0]);
    if (body.data[5] != 1 && body.data[5] != 3)
        return NO("colours", "%d components", body.data[5]);
    if (!w->width || !w->height)
        return NO("unusual", "a size of %d x %d", w->width, w->height);
    if (w->width > SP_LIMIT_IMAGE_SIDE || w->height > SP_LIMIT_IMAGE_SIDE ||
        (uint64_t)w->width * (uint64_t)w->height > SP_LIMIT_IMAGE_PIXELS)
        return NO("too_large", "%d x %d pixels", w->width, w->height);
    w->count = body.data[5];
    for (int i = 0; i < w->count; i++) {
        const uint8_t *p = body.data + 6 + 3 * i;
        w->components[i] = (component){ .id = p[0], .h = p[1] >> 4, .v = p[1] & 15, .quantiser = p[2] };
        if (p[2] > 3)
            return NO("damaged", "a component has quantiser %d", p[2]);
    }
    return is_usual_sampling(w) ? SP_OK : NO("colours", "a rare sampling");
}

/* Adobe's marker says how colours are stored; without any, libjpeg looks at the components' names. */
static void read_adobe(walk *w, sp_view body)
{
    if (body.size_bytes >= 12 && memcmp(body.data, "Adobe", 5) == 0)
        w->adobe_rgb = body.data[11] != 1;
}

static sp_status read_segment(walk *w, int marker, sp_view body, sp_error *reterr)
{
    switch (marker) {
    case 0xc0:
        return read_frame(w, body, reterr);
    case 0xc4:
        return read_huffman(w, body, reterr);
    case 0xdb:
        return read_quantisers(w, body, reterr);
    case 0xdd:
        if (body.size_bytes != 2)
            return NO("damaged", "a restart interval of %zu bytes", body.size_bytes);
        w->restart_interval = sp_be16(body.data);
        return SP_OK;
    case 0xe0:
        w->jfif |= body.size_bytes >= 5 && memcmp(body.data, "JFIF", 5) == 0;
        return SP_OK;
    case 0xe1:
        sp_turns_app1(&w->turns, body);
        return SP_OK;
    case 0xee:
        read_adobe(w, body);
        return SP_OK;
    default:
        break;
    }
    if ((marker >= 0xe0 && marker <= 0xef) || marker == 0xfe)
        return SP_OK; /* APPn, COM */
    if (marker >= 0xc1 && marker <= 0xcf)
        return NO("progressive", "process SOF%d is not baseline", marker - 0xc0);
    return NO("unusual", "marker %02x before the image data", (unsigned)marker);
}

/* --- the scan --------------------------------------------------------------------------------------------------------- */

static sp_status read_scan(const walk *w, sp_view body, sp_error *reterr)
{
    size_t count = (size_t)w->count;
    if (!count || body.size_bytes < 1)
        return NO("damaged", "image data before any frame header");
    if (body.data[0] != count)
        return NO("unusual", "several scans");
    if (body.size_bytes != 4 + 2 * count)
        return NO("damaged", "a scan header of %zu bytes", body.size_bytes);
    for (size_t i = 0; i < count; i++) {
        const component *c = &w->components[i];
        int dc = body.data[2 + 2 * i] >> 4, ac = body.data[2 + 2 * i] & 15;
        if (body.data[1 + 2 * i] != c->id)
            return NO("unusual", "a scan in another order than its frame");
        if (dc > 1 || ac > 1 || !(w->huffman[0] >> dc & 1) || !(w->huffman[1] >> ac & 1) || !(w->quantisers >> c->quantiser & 1))
            return NO("damaged", "a table that the scan needs is missing");
    }
    const uint8_t *rest = body.data + 1 + 2 * count;
    if (rest[0] != 0 || rest[1] != 63 || rest[2] != 0)
        return NO("damaged", "a scan of coefficients %d to %d", rest[0], rest[1]);
    bool named_rgb = count == 3 && w->components[0].id == 'R' && w->components[1].id == 'G' && w->components[2].id == 'B';
    if (count == 3 && (w->adobe_rgb || (named_rgb && !w->jfif)))
        return NO("colours", "RGB is stored");
    if (count == 3 && (w->components[0].id == w->components[1].id || w->components[1].id == w->components[2].id))
        return NO("damaged", "two components of one name");
    if (sp_orientation_pick(w->turns.exif, w->turns.xmp) != 1)
        return NO("turned", "the picture is turned");
    return SP_OK;
}

typedef struct counts {
    uint64_t blocks, units; /* units: MCUs */
} counts;

static counts count_blocks(const walk *w)
{
    int h = w->components[0].h, v = w->components[0].v;
    uint64_t across = (uint64_t)(w->width + 8 * h - 1) / (uint64_t)(8 * h), down = (uint64_t)(w->height + 8 * v - 1) / (uint64_t)(8 * v);
    return (counts){ .units = across * down, .blocks = across * down * (uint64_t)(h * v + w->count - 1) };
}

/* From the first byte behind the scan's header to the end marker; *ret_end is behind that. */
static sp_status walk_data(const walk *w, sp_view file, size_t begin, size_t *ret_end, sp_error *reterr)
{
    counts all = count_blocks(w);
    uint64_t restarts = 0, wanted = w->restart_interval ? (all.units - 1) / w->restart_interval : 0;
    size_t at = begin;
    for (;;) {
        const uint8_t *mark = at < file.size_bytes ? memchr(file.data + at, 0xff, file.size_bytes - at) : NULL;
        if (!mark || mark + 1 >= file.data + file.size_bytes)
            return NO("damaged", "the file ends at byte %zu, inside the image data", file.size_bytes);
        at = (size_t)(mark - file.data) + 2;
        if (mark[1] == 0)
            continue;
        if (mark[1] == 0xd9)
            break;
        if (mark[1] < 0xd0 || mark[1] > 0xd7)
            return NO("unusual", "marker %02x inside the image data", mark[1]);
        if ((uint64_t)(mark[1] - 0xd0) != restarts % 8 || restarts == wanted)
            return NO("damaged", "a restart marker at byte %zu does not belong there", at - 2);
        restarts++;
    }
    /* A block is at least one bit of DC and one of AC. */
    if (restarts != wanted || (uint64_t)(at - 2 - begin) * 8 < all.blocks * 2)
        return NO("damaged", "image data of %zu bytes are too few", at - 2 - begin);
    *ret_end = at;
    return SP_OK;
}

sp_status sp_jpeg_plain_read(sp_view file, sp_jpeg_plain *ret_plain, sp_error *reterr)
{
    walk w = { 0 };
    size_t at = 2;
    if (file.size_bytes < 4 || file.data[0] != 0xff || file.data[1] != 0xd8)
        return NO("not_jpeg", "the file begins like none");
    for (;;) {
        if (file.size_bytes - at < 4)
            return NO("damaged", "the file ends at byte %zu, before the image data began", file.size_bytes);
        if (file.data[at] != 0xff || file.data[at + 1] == 0xff)
            return NO("unusual", "bytes between segments at %zu", at);
        int marker = file.data[at + 1];
        size_t length = sp_be16(file.data + at + 2);
        if (marker < 0xc0 || (marker >= 0xd0 && marker <= 0xd9) || length < 2 || length > file.size_bytes - at - 2)
            return NO("damaged", "a segment at byte %zu", at);
        sp_view body = sp_view_make(file.data + at + 4, length - 2);
        at += 2 + length;
        sp_status s = marker == 0xda ? read_scan(&w, body, reterr) : read_segment(&w, marker, body, reterr);
        if (s)
            return s;
        if (marker == 0xda)
            break;
    }
    sp_status s = walk_data(&w, file, at, &at, reterr);
    if (!s)
        *ret_plain = (sp_jpeg_plain){ .width = w.width, .height = w.height, .file_bytes = at };
    return s;
}
