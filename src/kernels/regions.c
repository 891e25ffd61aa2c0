/* SPDX-License-Identifier: Apache-2.0
 * Connected components of a mask, row by row: runs of set pixels join the regions whose runs they touch in the row above. Only
 * regions that reach the current row are held, so the memory is a few rows'; one that ends goes into the caller's list, a
 * heap with the least of the kept ones on top. */
#include "kernels/kernels.h"
#include "kernels/plane_rows.h"

#include <string.h>

/* A region that has reached the row before or this one. */
typedef struct open_region {
    sp_region sum;
    int32_t first_x; /* of its first row: the first pixel in reading order */
    int32_t parent;  /* itself, or the one it was joined to */
    int32_t next;    /* its number in the next row, -1 = it has none there */
} open_region;

typedef struct run {
    int32_t x0, x1, region;
} run;

typedef struct finder {
    sp_plane weights;
    open_region *open, *spare;
    run *above, *here;
    int open_count, above_count, here_count;
    uint32_t min_area;
    sp_region *list; /* a heap; while it is one, x1 holds first_x in its upper bits */
    int listed, capacity, found;
} finder;

#define FIRST_X_SHIFT 15 /* x1 <= 16384 */

size_t sp_regions_room(int w, int h)
{
    size_t runs = (size_t)w / 2 + 1;
    (void)h;
    return SP_PLANE_TAKEN((size_t)(w / 64 + 1) * 8) + 2 * SP_PLANE_TAKEN(runs * sizeof(run)) +
           2 * SP_PLANE_TAKEN(2 * runs * sizeof(open_region));
}

/* Whether a goes before b in the list. */
static bool before(const sp_region *a, const sp_region *b)
{
    if (a->area != b->area)
        return a->area > b->area;
    if (a->y0 != b->y0)
        return a->y0 < b->y0;
    if (a->x0 != b->x0)
        return a->x0 < b->x0;
    return a->x1 >> FIRST_X_SHIFT < b->x1 >> FIRST_X_SHIFT;
}

/* Lets list[at] sink below whatever should come after it. */
static void sink(sp_region *list, int at, int n)
{
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(&list[child], &list[child + 1]))
            child++;
        if (!before(&list[at], &list[child]))
            return;
        sp_region swapped = list[at];
        list[at] = list[child];
        list[child] = swapped;
    }
}

static void list_add(finder *f, const open_region *region)
{
    sp_region r = region->sum;
    if (r.area < f->min_area)
        return;
    f->found++;
    r.x1 |= region->first_x << FIRST_X_SHIFT;
    if (f->listed < f->capacity) {
        f->list[f->listed++] = r;
        if (f->listed == f->capacity) {
            for (int i = f->listed / 2 - 1; i >= 0; i--)
                sink(f->list, i, f->listed);
        }
    } else if (f->capacity > 0 && before(&r, &f->list[0])) {
        f->list[0] = r;
        sink(f->list, 0, f->listed);
    }
}

static void list_sort(finder *f)
{
    if (f->listed < f->capacity) {
        for (int i = f->listed / 2 - 1; i >= 0; i--)
            sink(f->list, i, f->listed);
    }
    for (int n = f->listed - 1; n > 0; n--) {
        sp_region last = f->list[0];
        f->list[0] = f->list[n];
        f->list[n] = last;
        sink(f->list, 0, n);
    }
    for (int i = 0; i < f->listed; i++)
        f->list[i].x1 &= (1 << FIRST_X_SHIFT) - 1;
}

static int root_of(open_region *open, int at)
{
    while (open[at].parent != at) {
        open[at].parent = open[open[at].parent].parent;
        at = open[at].parent;
    }
    return at;
}

static void add_sums(open_region *to, const sp_region *from, int first_x)
{
    sp_region *a = &to->sum;
    if (from->y0 < a->y0 || (from->y0 == a->y0 && first_x < to->first_x))
        to->first_x = first_x;
    a->x0 = SP_MIN(a->x0, from->x0);
    a->y0 = SP_MIN(a->y0, from->y0);
    a->x1 = SP_MAX(a->x1, from->x1);
    a->y1 = SP_MAX(a->y1, from->y1);
    a->area += from->area;
    a->sum_x += from->sum_x;
    a->sum_y += from->sum_y;
    a->weight += from->weight;
}

static int join(finder *f, int a, int b)
{
    if (a == b)
        return a;
    add_sums(&f->open[a], &f->open[b].sum, f->open[b].first_x);
    f->open[b].parent = a;
    return a;
}

static sp_region run_sums(const finder *f, const run *r, int y)
{
    uint64_t n = (uint64_t)(r->x1 - r->x0), weight = 0;
    if (f->weights.data) {
        const uint8_t *row = sp_plane_row(f->weights, y);
        for (int x = r->x0; x < r->x1; x++)
            weight += row[x];
    }
    return (sp_region){ .x0 = r->x0, .y0 = y, .x1 = r->x1, .y1 = y + 1, .area = (uint32_t)n,
                        .sum_x = (uint64_t)(r->x0 + r->x1 - 1) * n / 2, .sum_y = (uint64_t)y * n, .weight = weight };
}

/* The runs of set bits of a row. */
static int find_runs(run *runs, const uint64_t *bits, int words)
{
    int count = 0;
    bool inside = false;
    for (int i = 0; i < words; i++) {
        uint64_t turns = bits[i] ^ (bits[i] << 1 | (uint64_t)inside); /* a bit where the row changes */
        for (; turns; turns &= turns - 1) {
            int x = i * 64 + __builtin_ctzll(turns);
            if (!inside)
                runs[count].x0 = x;
            else
                runs[count++].x1 = x;
            inside = !inside;
        }
    }
    if (inside)
        runs[count++].x1 = words * 64;
    return count;
}

/* Gives each run of row y its region: those that it touches above, joined, or a new one. */
static void place_runs(finder *f, int y)
{
    int above = 0;
    for (int i = 0; i < f->here_count; i++) {
        run *r = &f->here[i];
        int region = -1;
        while (above < f->above_count && f->above[above].x1 < r->x0)
            above++;
        for (int k = above; k < f->above_count && f->above[k].x0 <= r->x1; k++) {
            int other = root_of(f->open, f->above[k].region);
            region = region < 0 ? other : join(f, region, other);
        }
        sp_region sums = run_sums(f, r, y);
        if (region < 0) {
            region = f->open_count++;
            f->open[region] = (open_region){ .sum = sums, .first_x = r->x0, .parent = region };
        } else {
            add_sums(&f->open[region], &sums, r->x0);
        }
        r->region = region;
    }
}

/* Numbers the regions that reach this row anew and lists those that do not. */
static void end_row(finder *f)
{
    int kept = 0;
    for (int i = 0; i < f->open_count; i++)
        f->open[i].next = -1;
    for (int i = 0; i < f->here_count; i++) {
        open_region *region = &f->open[root_of(f->open, f->here[i].region)];
        if (region->next < 0) {
            region->next = kept;
            f->spare[kept] = *region;
            f->spare[kept].parent = kept;
            kept++;
        }
        f->here[i].region = region->next;
    }
    for (int i = 0; i < f->open_count; i++) {
        if (f->open[i].parent == i && f->open[i].next < 0)
            list_add(f, &f->open[i]);
    }
    open_region *open = f->open;
    f->open = f->spare;
    f->spare = open;
    f->open_count = kept;
    run *above = f->above;
    f->above = f->here;
    f->above_count = f->here_count;
    f->here = above;
}

int sp_regions_find(sp_plane mask, sp_plane weights, uint32_t min_area, sp_region *ret_regions, int capacity,
                    sp_plane_scratch *scratch)
{
    sp_plane_room room = sp_plane_room_of(scratch, mask.w, mask.h);
    size_t runs = (size_t)mask.w / 2 + 1;
    finder f = { .weights = weights, .min_area = min_area, .list = ret_regions, .capacity = SP_MAX(capacity, 0) };
    int words = (mask.w + 63) / 64;
    uint64_t *bits = sp_plane_take(&room, (size_t)words * 8);
    f.above = sp_plane_take(&room, runs * sizeof(run));
    f.here = sp_plane_take(&room, runs * sizeof(run));
    f.open = sp_plane_take(&room, 2 * runs * sizeof(open_region));
    f.spare = sp_plane_take(&room, 2 * runs * sizeof(open_region));
    for (int y = 0; y < mask.h; y++) {
        sp_kernels.bits_of_mask(bits, sp_plane_row(mask, y), mask.w);
        f.here_count = find_runs(f.here, bits, words);
        place_runs(&f, y);
        end_row(&f);
    }
    f.here_count = 0;
    end_row(&f);
    list_sort(&f);
    return f.found;
}
