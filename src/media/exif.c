/* SPDX-License-Identifier: Apache-2.0
 * The one thing that we read from EXIF and XMP: how the picture is turned. Damaged blocks turn nothing and are no
 * error, as a photograph with broken metadata is still a photograph. */
#include "media/decoders.h"

#define TAG_ORIENTATION 0x0112u

typedef struct tiff_reader {
    sp_view bytes;
    bool big_endian;
} tiff_reader;

static bool read_u16(const tiff_reader *reader, size_t offset, uint32_t *ret_value)
{
    if (reader->bytes.size_bytes < 2 || offset > reader->bytes.size_bytes - 2)
        return false;
    const uint8_t *p = reader->bytes.data + offset;
    *ret_value = reader->big_endian ? sp_be16(p) : sp_le16(p);
    return true;
}

static bool read_u32(const tiff_reader *reader, size_t offset, uint32_t *ret_value)
{
    if (reader->bytes.size_bytes < 4 || offset > reader->bytes.size_bytes - 4)
        return false;
    const uint8_t *p = reader->bytes.data + offset;
    *ret_value = reader->big_endian ? sp_be32(p) : sp_le32(p);
    return true;
}

/* The value of one directory entry when it is a single whole number; 0 otherwise. */
static int entry_value(const tiff_reader *reader, size_t entry)
{
    uint32_t type, count, value;
    if (!read_u16(reader, entry + 2, &type) || !read_u32(reader, entry + 4, &count) || count != 1)
        return 0;
    switch (type) {
    case 3: /* SHORT */
    case 8: /* SSHORT */
        return read_u16(reader, entry + 8, &value) ? (int)value : 0;
    case 4: /* LONG */
    case 9: /* SLONG */
        return read_u32(reader, entry + 8, &value) && value <= 0xffff ? (int)value : 0;
    default:
        return 0;
    }
}

int sp_exif_orientation(sp_view exif)
{
    /* Some writers put the prefix twice. */
    for (int i = 0; i < 2 && sp_view_starts_with(exif, "Exif\0\0", 6); i++)
        exif = sp_view_make(exif.data + 6, exif.size_bytes - 6);

    tiff_reader reader = { .bytes = exif };
    if (sp_view_starts_with(exif, "MM\0*", 4) || sp_view_starts_with(exif, "MM*\0", 4))
        reader.big_endian = true;
    else if (!sp_view_starts_with(exif, "II*\0", 4))
        return 0;

    uint32_t directory, count;
    if (!read_u32(&reader, 4, &directory) || !read_u16(&reader, directory, &count))
        return 0;
    int orientation = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t entry = (size_t)directory + 2 + (size_t)i * 12;
        uint32_t tag;
        if (!read_u16(&reader, entry, &tag) || entry + 12 > exif.size_bytes)
            break;
        if (tag == TAG_ORIENTATION)
            orientation = entry_value(&reader, entry); /* the last of several counts */
    }
    return orientation;
}

int sp_xmp_orientation(sp_view xmp)
{
    static const char key[] = "tiff:Orientation";
    const size_t key_bytes = sizeof(key) - 1;
    if (!xmp.size_bytes)
        return 0; /* NULL, perhaps */
    const uint8_t *p = xmp.data, *end = xmp.data + xmp.size_bytes;

    while (p < end) {
        p = memmem(p, (size_t)(end - p), key, key_bytes);
        if (!p)
            return 0;
        p += key_bytes;
        size_t left = (size_t)(end - p);
        size_t skip = left > 2 && p[0] == '=' && p[1] == '"' ? 2 : left > 1 && p[0] == '>' ? 1 : 0;
        if (skip && p[skip] >= '0' && p[skip] <= '9')
            return p[skip] - '0';
    }
    return 0;
}

void sp_turns_app1(sp_turns *turns, sp_view body)
{
    static const char xmp_name[] = "http://ns.adobe.com/xap/1.0/";
    if (sp_view_starts_with(body, "Exif\0\0", 6)) {
        if (!turns->exif_seen)
            turns->exif = sp_exif_orientation(body);
        turns->exif_seen = true;
    } else if (sp_view_starts_with(body, xmp_name, sizeof(xmp_name))) {
        turns->xmp = sp_xmp_orientation(sp_view_make(body.data + sizeof(xmp_name), body.size_bytes - sizeof(xmp_name)));
    }
}

int sp_orientation_pick(int exif_orientation, int xmp_orientation)
{
    int orientation = exif_orientation ? exif_orientation : xmp_orientation;
    return orientation >= 2 && orientation <= 8 ? orientation : 1;
}
