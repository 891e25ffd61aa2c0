/* SPDX-License-Identifier: Apache-2.0
 * frames.npz: the columns as numpy reads them (numpy.load): a ZIP of stored .npy files. One array a column: whole numbers as
 * int64, the rest in their unit as float64 (an unknown time is NaN). "motion_boxes" and "defect_boxes" have a row a region (int32):
 * frame, x0, y0, x1, y1, area, centre_x, centre_y (1/256 px), strength. */
#include "task/analyze_internal.h"

#include <math.h>
#include <stdio.h>
#include <zlib.h>

#define NPY_HEADER_BYTES 128
#define BOX_COLUMNS 9
#define ENTRIES_MAX (SP_COLUMNS_MAX + 2)
#define ZIP_DATE 0x21 /* 1980-01-01, the earliest there is: the same bytes on every day */

typedef struct entry {
    char name[40];
    uint32_t offset, bytes, crc;
} entry;
typedef struct archive {
    sp_buf *out;
    size_t begin;
    entry entries[ENTRIES_MAX];
    int entry_count;
} archive;

/* --- the archive: a local header before each file, a directory of them behind all (APPNOTE 4.3) --- */

static void put_le(sp_buf *out, uint64_t value, int bytes)
{
    uint8_t le[8];
    for (int i = 0; i < bytes; i++)
        le[i] = (uint8_t)(value >> (8 * i));
    sp_buf_append(out, le, (size_t)bytes);
}

/* What a local and a directory entry have in common. */
static void put_facts(sp_buf *out, const entry *e)
{
    put_le(out, 20, 2); /* version needed */
    put_le(out, 0, 2);  /* flags */
    put_le(out, 0, 2);  /* stored */
    put_le(out, 0, 2);
    put_le(out, ZIP_DATE, 2);
    put_le(out, e->crc, 4);
    put_le(out, e->bytes, 4);
    put_le(out, e->bytes, 4);
    put_le(out, strlen(e->name), 2);
    put_le(out, 0, 2); /* extra */
}

static entry *entry_begin(archive *z, const char *name, size_t bytes)
{
    SP_ASSERT(z->entry_count < ENTRIES_MAX);
    entry *e = &z->entries[z->entry_count++];
    *e = (entry){ .offset = (uint32_t)(z->out->size_bytes - z->begin), .bytes = (uint32_t)bytes };
    (void)snprintf(e->name, sizeof(e->name), "%s.npy", name);
    put_le(z->out, 0x04034b50, 4);
    put_facts(z->out, e); /* the sum comes when the bytes are there */
    sp_buf_append_text(z->out, e->name);
    return e;
}

static void entry_end(archive *z, entry *e)
{
    size_t at = z->begin + e->offset + 14; /* of the sum in the local header */
    if (!sp_buf_ok(z->out))
        return;
    SP_ASSERT(z->out->size_bytes == z->begin + e->offset + 30 + strlen(e->name) + e->bytes);
    e->crc = (uint32_t)crc32_z(0, z->out->data + z->out->size_bytes - e->bytes, e->bytes);
    for (int i = 0; i < 4; i++)
        z->out->data[at + (size_t)i] = (uint8_t)(e->crc >> (8 * i));
}

static void put_directory(archive *z)
{
    size_t begin = z->out->size_bytes;
    for (int i = 0; i < z->entry_count; i++) {
        put_le(z->out, 0x02014b50, 4);
        put_le(z->out, 20, 2); /* made by */
        put_facts(z->out, &z->entries[i]);
        put_le(z->out, 0, 2); /* comment, disk, attributes */
        put_le(z->out, 0, 2);
        put_le(z->out, 0, 2);
        put_le(z->out, 0, 4);
        put_le(z->out, z->entries[i].offset, 4);
        sp_buf_append_text(z->out, z->entries[i].name);
    }
    size_t end = z->out->size_bytes;
    put_le(z->out, 0x06054b50, 4);
    put_le(z->out, 0, 4); /* disks */
    put_le(z->out, (uint64_t)z->entry_count, 2);
    put_le(z->out, (uint64_t)z->entry_count, 2);
    put_le(z->out, end - begin, 4);
    put_le(z->out, begin - z->begin, 4);
    put_le(z->out, 0, 2);
}

/* --- arrays (format 1.0) --- */

static void put_npy_header(sp_buf *out, const char *type, size_t rows, size_t columns)
{
    char text[NPY_HEADER_BYTES - 10 + 1];
    char shape[48];
    if (columns)
        (void)snprintf(shape, sizeof(shape), "(%zu, %zu)", rows, columns);
    else
        (void)snprintf(shape, sizeof(shape), "(%zu,)", rows);
    int length = snprintf(text, sizeof(text), "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", type, shape);
    SP_ASSERT(length > 0 && length < NPY_HEADER_BYTES - 11);
    memset(text + length, ' ', sizeof(text) - 2 - (size_t)length);
    text[sizeof(text) - 2] = '\n';
    sp_buf_append(out, "\x93NUMPY\x01\x00", 8);
    put_le(out, NPY_HEADER_BYTES - 10, 2);
    sp_buf_append(out, text, NPY_HEADER_BYTES - 10);
}

static void put_column(archive *z, const sp_analysis *a, const sp_column *column, int c)
{
    int64_t values[SP_COLUMNS_MAX];
    entry *e = entry_begin(z, column->name, NPY_HEADER_BYTES + 8 * (size_t)a->frame_count);
    put_npy_header(z->out, column->divisor > 1 ? "<f8" : "<i8", a->frame_count, 0);
    for (uint32_t i = 0; i < a->frame_count; i++) {
        sp_analysis_row(a, i, values);
        uint64_t bits = (uint64_t)values[c];
        if (column->divisor > 1) {
            bool unknown = values[c] < 0 && strcmp(column->name, "time") == 0;
            double real = unknown ? NAN : (double)values[c] / column->divisor;
            memcpy(&bits, &real, sizeof(bits));
        }
        put_le(z->out, bits, 8);
    }
    entry_end(z, e);
}

static void put_boxes(archive *z, const sp_analysis *a, bool defects)
{
    size_t rows = 0;
    for (uint32_t i = 0; i < a->frame_count; i++)
        rows += sp_regions_told(defects ? a->frames[i]->defect_count : a->frames[i]->motion_count);
    entry *e = entry_begin(z, defects ? "defect_boxes" : "motion_boxes", NPY_HEADER_BYTES + 4 * BOX_COLUMNS * rows);
    put_npy_header(z->out, "<i4", rows, BOX_COLUMNS);
    for (uint32_t i = 0; i < a->frame_count; i++) {
        const sp_frame_record *r = a->frames[i];
        const sp_frame_region *g = defects ? sp_record_defects(r) : sp_record_motion(r);
        for (uint32_t k = sp_regions_told(defects ? r->defect_count : r->motion_count); k; k--, g++) {
            const uint32_t row[BOX_COLUMNS] = { r->number, g->x0,       g->y0,       g->x1,      g->y1,
                                                g->area,   g->centre_x, g->centre_y, g->strength };
            for (int c = 0; c < BOX_COLUMNS; c++)
                put_le(z->out, row[c], 4);
        }
    }
    entry_end(z, e);
}

void sp_analysis_write_npz(const sp_analysis *a, sp_buf *out)
{
    int count;
    const sp_column *columns = sp_analysis_columns(&count);
    archive z = { .out = out, .begin = out->size_bytes };

    for (int c = 0; c < count; c++)
        put_column(&z, a, &columns[c], c);
    put_boxes(&z, a, false);
    put_boxes(&z, a, true);
    put_directory(&z);
}
