/* SPDX-License-Identifier: Apache-2.0
 * The memory behind plane.h: one block per scratch, as large as the neediest operation's. It is reserved, and touched only
 * where an operation works. */
#include "kernels/plane_rows.h"

#include "kernels/kernels.h"

#include <assert.h>
#include <stdlib.h>

struct sp_plane_scratch {
    int w, h;
    size_t size_bytes;
    uint8_t *block;
};

sp_status sp_plane_scratch_new(int w, int h, sp_plane_scratch **ret_scratch, sp_error *reterr)
{
    if (w < 1 || h < 1)
        return SP_FAIL(reterr, SP_INVALID, "a plane of %d x %d pixels has no pixels", w, h);
    if (w > SP_PLANE_SIDE_MAX || h > SP_PLANE_SIDE_MAX)
        return SP_FAIL(reterr, SP_TOO_LARGE, "a plane of %d x %d pixels is larger than %d on a side", w, h, SP_PLANE_SIDE_MAX);
    sp_plane_scratch *s = calloc(1, sizeof(*s));
    if (!s)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a plane's scratch");
    const size_t rooms[] = { sp_blur_room(w, h), sp_sobel_room(w, h), sp_canny_room(w, h), sp_morph_room(w, h),
                             sp_regions_room(w, h) };
    for (size_t i = 0; i < SP_ARRAY_LEN(rooms); i++)
        s->size_bytes = SP_MAX(s->size_bytes, rooms[i]);
    s->size_bytes = SP_ALIGN_UP(s->size_bytes, (size_t)64);
    s->w = w;
    s->h = h;
    s->block = aligned_alloc(64, s->size_bytes);
    if (!s->block) {
        free(s);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the scratch of a plane of %d x %d pixels", w, h);
    }
    sp_kernels_init();
    *ret_scratch = s;
    return SP_OK;
}

void sp_plane_scratch_free(sp_plane_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->block);
    free(scratch);
}

sp_plane_room sp_plane_room_of(sp_plane_scratch *scratch, int w, int h)
{
    assert(w >= 1 && h >= 1 && w <= scratch->w && h <= scratch->h);
    (void)w;
    (void)h;
    return (sp_plane_room){ scratch->block, scratch->size_bytes };
}

void *sp_plane_take(sp_plane_room *room, size_t size_bytes)
{
    size_t taken = SP_PLANE_TAKEN(size_bytes);
    void *p = room->at;
    assert(taken <= room->left_bytes);
    room->at += taken;
    room->left_bytes -= taken;
    return p;
}
