/* SPDX-License-Identifier: Apache-2.0
 * The host's part of pre-processing on a CUDA device: checks, tables by size (prep_tables.h), and how each picture is cut into
 * tiles. What a launch needs beside the tables travels as its parameters (prep_job.h), so a batch of known sizes copies nothing.
 *
 * Pictures that go across first share one launch, all others of the batch a second one. More than SP_PREP_JOB_PICTURES, or more
 * new tables than the ring holds at once, make more launches. */
#include "kernels/cuda_prep.h"

#include "base/attr.h"
#include "base/limits.h"
#include "kernels/arith.h"
#include "kernels/cuda/core.h"
#include "kernels/cuda/prep_tables.h"
#include "kernels/prep_run.h"

#include <stdlib.h>
#include <string.h>

#define THREADS_RESIDENT 1024       /* of a multiprocessor, at 64 registers */
#define THREADS_ENOUGH 640.0        /* each has 36 sums on their way */
#define CUTS 256
#define TILE_ROWS_LEAST 2           /* one picture alone should still be work for all */
#define TILE_ROWS_MOST 256

_Static_assert(sizeof(sp_prep_job) <= 4000, "parameters of a kernel");

/* One launch in the making. */
typedef struct pending {
    sp_prep_job job;
    int threads;
    size_t shared_bytes;
    int64_t rows;                /* of all pictures' tile columns */
} pending;

/* How a picture was cut into tiles. The order of the two passes hangs on the same sizes as the tables do. */
typedef struct kept_cut {
    uint64_t across, down;       /* the tables' positions and 1; 0 = nothing is kept here */
    size_t shared_bytes;
    int32_t pitch;
    uint16_t order, tile_cols, groups, ring;
} kept_cut;

struct sp_cuda_prep {
    sp_cuda *cuda;
    sp_prep_spec spec;
    int most;
    int multiprocessors;
    size_t shared_most;
    sp_prep_tables *tables;      /* its fixed part: the value table */
    sp_prep_scratch *scratch;    /* for sp_prep_image_check, rarely */
    uint64_t keep;               /* the oldest table that something pending uses */
    pending across, other;
    kept_cut cuts[CUTS];
};

/* What the pictures of one call become. */
typedef struct target {
    sp_prep_out out;
    const sp_prep_spec *spec;    /* whole pictures: a stretch to their size */
    uint8_t *dst;
    size_t image_bytes, stride_bytes;
} target;

/* --- tiles --- */

/* Bytes of shared memory for a picture cut into tiles of `cols`, `groups` blocks at a time; sets pitch and ring. */
static size_t shared_of(sp_prep_picture *p, const sp_prep_table *across, int cols, int groups)
{
    int n = across->params.n, widest = 0;
    for (int i = 0; i < n; i += cols) {
        const sp_prep_pair *first = across->pairs + i, *last = across->pairs + SP_MIN(i + cols, n) - 1;
        widest = SP_MAX(widest, last->at + last->count - first->at);
    }
    size_t pitch = SP_ALIGN_UP((size_t)widest * 3 + SP_PREP_ROW_SLACK, (size_t)16), stage = 4 * (size_t)groups * pitch;
    size_t ring = p->span + (size_t)groups;
    p->pitch = (int32_t)pitch;
    p->ring = (uint16_t)ring;
    p->tile_cols = (uint16_t)cols;
    p->groups = (uint16_t)groups;
    size_t bytes = SP_PREP_TILE_BYTES + SP_PREP_NORM_BYTES + SP_PREP_STAGES * stage;
    return bytes + (p->order == SP_PREP_DOWN_FIRST ? stage + ring * 4 * pitch : ring * 12 * (size_t)cols);
}

/* Blocks of a launch that a multiprocessor holds: by shared memory (and 1 KiB for each), by registers. */
static int resident_of(const sp_cuda_prep *prep, int threads, size_t shared_bytes)
{
    int by_shared = (int)((prep->shared_most + 1024) / (shared_bytes + 1024));
    return SP_CLAMP(SP_MIN(by_shared, THREADS_RESIDENT / threads), 1, 16);
}

/* How good a cut is: threads that are resident and have a column, up to what hides latency, times the share of what is read
 * that no other tile reads too. */
static double worth_of(const sp_cuda_prep *prep, const sp_prep_picture *p, const sp_prep_table *across, size_t shared_bytes)
{
    int n = across->params.n, cols = p->tile_cols, threads = cols * p->groups, tiles = (n + cols - 1) / cols;
    double busy = (double)resident_of(prep, threads, shared_bytes) * threads * n / ((double)tiles * cols);
    double once = 3.0 * (across->src_end - across->src_first) / ((double)tiles * p->pitch);
    return SP_MIN(busy, THREADS_ENOUGH) * SP_MIN(once, 1.0);
}

/* Wide tiles first; of equal ones the first stays. false: none fits. */
static bool cut(const sp_cuda_prep *prep, sp_prep_picture *p, const sp_prep_table *across, size_t *ret_bytes)
{
    int n = across->params.n, parts = (n + SP_PREP_THREADS_MAX - 1) / SP_PREP_THREADS_MAX, best_cols = 0, best_groups = 0;
    double best = 0;
    for (int cols = SP_ALIGN_UP((n + parts - 1) / parts, 32); cols >= 32; cols = cols > 32 ? SP_ALIGN_UP(cols / 2, 32) : 0) {
        for (int groups = SP_PREP_THREADS_MAX / cols; groups > 0; groups = groups > 4 ? groups / 2 : groups - 1) {
            size_t bytes = shared_of(p, across, cols, groups);
            double worth = bytes <= prep->shared_most ? worth_of(prep, p, across, bytes) : 0;
            if (worth > best * 1.02) {
                best = worth;
                best_cols = cols;
                best_groups = groups;
            }
        }
    }
    if (best_cols)
        *ret_bytes = shared_of(p, across, best_cols, best_groups);
    return best_cols != 0;
}

static int threads_of(const sp_prep_picture *p)
{
    return p->tile_cols * p->groups;
}

/* The same tables make the same cut: what the last pictures got is kept. */
static void place(sp_cuda_prep *prep, sp_prep_picture *p, const sp_prep_table *across, const sp_prep_table *down, size_t *ret_bytes)
{
    if (p->order == SP_PREP_PLAIN) {
        int parts = (across->params.n + 127) / 128;
        p->tile_cols = (uint16_t)SP_ALIGN_UP((across->params.n + parts - 1) / parts, 32);
        p->groups = (uint16_t)(SP_PREP_THREADS_MAX / p->tile_cols);
        *ret_bytes = SP_PREP_NORM_BYTES;
        return;
    }
    kept_cut *kept = &prep->cuts[(across->position / 256 + down->position / 256 * 7) % CUTS];
    if (kept->across != across->position + 1 || kept->down != down->position + 1) {
        size_t bytes = SP_PREP_NORM_BYTES;
        if (!cut(prep, p, across, &bytes)) {
            p->order = p->order == SP_PREP_DOWN_FIRST ? SP_PREP_DIRECT_DOWN : SP_PREP_DIRECT_ACROSS;
            p->tile_cols = SP_PREP_THREADS_MAX;
            p->groups = 1;
        }
        *kept = (kept_cut){ .across = across->position + 1, .down = down->position + 1, .shared_bytes = bytes, .pitch = p->pitch,
                            .order = p->order, .tile_cols = p->tile_cols, .groups = p->groups, .ring = p->ring };
    }
    p->pitch = kept->pitch;
    p->order = kept->order;
    p->tile_cols = kept->tile_cols;
    p->groups = kept->groups;
    p->ring = kept->ring;
    *ret_bytes = kept->shared_bytes;
}

static bool is_direct(const sp_prep_picture *p)
{
    return p->order == SP_PREP_DIRECT_ACROSS || p->order == SP_PREP_DIRECT_DOWN;
}

/* How many tiles a picture has when a tile is `rows` high; the launch's numbers go into it. */
static void count_tiles(sp_prep_picture *p, int rows, int threads)
{
    int w = p->x1 - p->x0, h = p->y1 - p->y0, chunks = p->pitch / 16;
    if (p->order == SP_PREP_PLAIN)
        rows = SP_ALIGN_UP(SP_MIN(rows, 16), (int)p->groups);
    p->tile_rows = (uint16_t)rows;
    p->tiles_across = w ? (w + p->tile_cols - 1) / p->tile_cols : 0;
    p->tiles = is_direct(p) ? (w * h + threads / 32 - 1) / (threads / 32) : p->tiles_across * ((h + rows - 1) / rows);
    if (chunks) {
        p->chunk_inverse = (uint32_t)((((uint64_t)1 << 32) + (uint64_t)chunks - 1) / (uint64_t)chunks);
        p->row_step = (uint16_t)(threads / chunks);
        p->chunk_step = (uint16_t)(threads % chunks);
    }
}

static int padding_tiles(const sp_prep_picture *p, const sp_prep_job *job)
{
    bool whole = p->x0 == 0 && p->y0 == 0 && p->x1 == job->out_w && p->y1 == job->out_h;
    return whole ? 0 : (job->out_h + SP_PREP_PAD_ROWS - 1) / SP_PREP_PAD_ROWS;
}

/* --- launches --- */

static sp_status launch(sp_cuda_prep *prep, pending *what, const target *to, cudaStream_t stream, sp_error *reterr)
{
    sp_prep_job *job = &what->job;
    if (!job->count)
        return SP_OK;
    job->tables = sp_prep_tables_device(prep->tables);
    job->norm = job->tables;
    job->dst = to->dst;
    job->image_bytes = to->image_bytes;
    job->stride_bytes = to->stride_bytes;
    int64_t blocks = (int64_t)prep->multiprocessors * resident_of(prep, what->threads, what->shared_bytes); /* one wave */
    int64_t rows = (what->rows + blocks - 1) / blocks;
    int tile_rows = (int)SP_CLAMP(rows, TILE_ROWS_LEAST, TILE_ROWS_MOST), tiles = 0;
    for (int i = 0; i < job->count; i++) {
        sp_prep_picture *p = &job->pictures[i];
        count_tiles(p, tile_rows, what->threads);
        p->first_tile = tiles;
        tiles += p->tiles + padding_tiles(p, job);
    }
    cudaError_t error;
    if (what == &prep->other)
        error = sp_prep_launch_down(job, to->out, tiles, what->threads, what->shared_bytes, stream);
    else if (to->spec->filter == SP_FILTER_PLAIN)
        error = sp_prep_launch_plain(job, to->out, tiles, what->threads, what->shared_bytes, stream);
    else
        error = sp_prep_launch_across(job, to->out, tiles, what->threads, what->shared_bytes, stream);
    job->count = 0;
    return sp_cuda_check(error, "pre-processing", reterr);
}

static sp_status launch_all(sp_cuda_prep *prep, const target *to, cudaStream_t stream, sp_error *reterr)
{
    sp_status s = launch(prep, &prep->across, to, stream, reterr);
    if (!s)
        s = launch(prep, &prep->other, to, stream, reterr);
    prep->keep = SP_PREP_KEEP_NOTHING;
    return s;
}

static void forget(sp_cuda_prep *prep)
{
    prep->across.job.count = prep->other.job.count = 0;
    prep->keep = SP_PREP_KEEP_NOTHING;
}

/* Both axes' tables. When the ring has no room beside what is pending, that is launched first. */
static sp_status tables_for(sp_cuda_prep *prep, const target *to, cudaStream_t stream, const sp_axis_params *across,
                            const sp_axis_params *down, sp_prep_table *ret_across, sp_prep_table *ret_down, sp_error *reterr)
{
    bool found;
    sp_status s = sp_prep_tables_get(prep->tables, stream, across, false, prep->keep, ret_across, &found, reterr);
    if (s)
        return s;
    if (found) {
        s = sp_prep_tables_get(prep->tables, stream, down, true, SP_MIN(prep->keep, ret_across->position), ret_down, &found, reterr);
        if (s || found)
            return s;
    }
    s = launch_all(prep, to, stream, reterr);
    if (!s)
        s = sp_prep_tables_get(prep->tables, stream, down, true, SP_PREP_KEEP_NOTHING, ret_down, &found, reterr);
    if (!s)
        s = sp_prep_tables_get(prep->tables, stream, across, false, ret_down->position, ret_across, &found, reterr);
    if (!s && !found) { /* an old `down` stood in the way: two new ones always fit */
        s = sp_prep_tables_get(prep->tables, stream, across, false, SP_PREP_KEEP_NOTHING, ret_across, &found, reterr);
        if (!s)
            s = sp_prep_tables_get(prep->tables, stream, down, true, ret_across->position, ret_down, &found, reterr);
    }
    SP_ASSERT(s || found);
    return s;
}

static void begin(pending *what, const target *to)
{
    what->threads = 32;
    what->shared_bytes = 0;
    what->rows = 0;
    what->job.out_w = to->spec->crop_w;
    what->job.out_h = to->spec->crop_h;
    what->job.bgr = (to->spec->fit & SP_FIT_BGR) != 0;
    what->job.pad_value = to->spec->pad_value;
}

/* One checked picture more for a launch. */
static sp_status add(sp_cuda_prep *prep, const target *to, cudaStream_t stream, const sp_cuda_picture *picture, int index, sp_error *reterr)
{
    const sp_prep_spec *spec = to->spec;
    sp_prep_geometry g;
    sp_status s = sp_prep_geometry_of(spec, picture->w, picture->h, &g, reterr);
    if (s)
        return s;
    int x0 = (int)SP_MAX(-g.left, 0), x1 = (int)SP_MIN(g.scaled_w - g.left, spec->crop_w);
    int y0 = (int)SP_MAX(-g.top, 0), y1 = (int)SP_MIN(g.scaled_h - g.top, spec->crop_h);
    if (x1 <= x0 || y1 <= y0) /* nothing but padding: any table will do */
        x0 = x1 = y0 = y1 = 0;
    sp_resize_filter filter = (sp_resize_filter)(spec->filter & ~SP_FILTER_ACROSS_FIRST);
    sp_axis_params across = { filter, picture->w, g.scaled_w, x0 + g.left, SP_MAX(x1 - x0, 1) };
    sp_axis_params down = { filter, picture->h, g.scaled_h, y0 + g.top, SP_MAX(y1 - y0, 1) };
    if (x1 == 0)
        across.out_first = down.out_first = 0;
    sp_prep_table cols, rows;
    s = tables_for(prep, to, stream, &across, &down, &cols, &rows, reterr);
    if (s)
        return s;
    sp_prep_picture p = {
        .rgb = picture->rgb,
        .end = picture->rgb + (size_t)(picture->h - 1) * picture->stride_bytes + (size_t)picture->w * 3,
        .stride_bytes = picture->stride_bytes,
        .across_at = cols.at,
        .across = cols.digits,
        .down_at = rows.at,
        .down = rows.digits,
        .top = rows.src_first,
        .index = (uint16_t)index,
        .order = filter == SP_FILTER_PLAIN ? SP_PREP_PLAIN
                 : sp_prep_down_first(spec->filter, picture->w, picture->h, g.scaled_w, g.scaled_h) ? SP_PREP_DOWN_FIRST
                                                                                                   : SP_PREP_ACROSS_FIRST,
        .x0 = (uint16_t)x0, .x1 = (uint16_t)x1, .y0 = (uint16_t)y0, .y1 = (uint16_t)y1,
        .quads = (uint16_t)cols.quads,
        .span = (uint16_t)rows.quads,
    };
    size_t shared_bytes;
    place(prep, &p, &cols, &rows, &shared_bytes);
    pending *what = p.order == SP_PREP_ACROSS_FIRST || p.order == SP_PREP_PLAIN ? &prep->across : &prep->other;
    if (!what->job.count)
        begin(what, to);
    what->threads = SP_MAX(what->threads, threads_of(&p));
    what->shared_bytes = SP_MAX(what->shared_bytes, shared_bytes);
    what->rows += (int64_t)((x1 - x0 + p.tile_cols - 1) / p.tile_cols) * (y1 - y0);
    what->job.pictures[what->job.count++] = p;
    prep->keep = SP_MIN(prep->keep, SP_MIN(cols.position, rows.position));
    return what->job.count == SP_PREP_JOB_PICTURES ? launch_all(prep, to, stream, reterr) : SP_OK;
}

/* --- checks --- */

/* An upper bound first, since the exact answer costs tables. */
static sp_status check_room(sp_cuda_prep *prep, const sp_prep_spec *spec, int w, int h, sp_error *reterr)
{
    if (spec->filter == SP_FILTER_PLAIN)
        return SP_OK;
    size_t cols = (size_t)SP_MAX(w, spec->crop_w) * 3, blocks = (size_t)h / 4 + 2;
    if (cols * 4 * blocks + 9 * (cols + 1024) + cols * 5 <= SP_PREP_SCRATCH_BYTES_MAX / 2)
        return SP_OK;
    return sp_prep_image_check(spec, w, h, prep->scratch, reterr);
}

static sp_status check_picture(sp_cuda_prep *prep, const sp_prep_spec *spec, const sp_cuda_picture *picture, sp_error *reterr)
{
    if (!picture->rgb || picture->w < 1 || picture->h < 1 || picture->w > SP_LIMIT_IMAGE_SIDE || picture->h > SP_LIMIT_IMAGE_SIDE)
        return SP_FAIL(reterr, SP_INVALID, "a picture of %dx%d, sides are 1 to %d", picture->w, picture->h, SP_LIMIT_IMAGE_SIDE);
    if (picture->stride_bytes < (size_t)picture->w * 3)
        return SP_FAIL(reterr, SP_INVALID, "rows of %d RGB pixels, %zu bytes apart", picture->w, picture->stride_bytes);
    return check_room(prep, spec, picture->w, picture->h, reterr);
}

/* --- the calls --- */

static void fill_norm(const sp_prep_spec *spec, uint8_t *table)
{
    for (int c = 0; c < 3; c++) {
        for (int x = 0; x < 256; x++) {
            float value = sp_norm_value(x, spec->divisor, spec->mean[c], spec->std[c]);
            if (spec->dtype == SP_DTYPE_F32)
                ((float *)(void *)table)[c * 256 + x] = value;
            else
                ((uint16_t *)(void *)table)[c * 256 + x] = sp_f32_to_f16(value);
        }
    }
}

static void prep_free(sp_cuda_prep *prep)
{
    if (!prep)
        return;
    sp_prep_tables_free(prep->tables);
    sp_prep_scratch_free(prep->scratch);
    free(prep);
}

static sp_status device_facts(sp_cuda_prep *prep, sp_error *reterr)
{
    int device = 0, shared = 0;
    sp_status s = sp_cuda_use(prep->cuda, reterr);
    if (s)
        return s;
    cudaError_t error = cudaGetDevice(&device);
    if (!error)
        error = cudaDeviceGetAttribute(&prep->multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (!error)
        error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    prep->shared_most = (size_t)shared;
    return sp_cuda_check(error, "cudaDeviceGetAttribute", reterr);
}

static sp_status prep_new(sp_cuda *cuda, const sp_prep_spec *spec, int most, sp_cuda_prep **ret_prep, sp_error *reterr)
{
    _Alignas(16) uint8_t norm[SP_PREP_NORM_BYTES] = { 0 };
    sp_status s = sp_prep_spec_check(spec, reterr);
    if (!s && (most < 1 || most > UINT16_MAX))
        s = SP_FAIL(reterr, SP_INVALID, "batches of %d pictures", most);
    if (s)
        return s;
    sp_kernels_init(); /* this library's own table */
    sp_cuda_prep *prep = calloc(1, sizeof(*prep));
    if (!prep)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a pre-processing");
    *prep = (sp_cuda_prep){ .cuda = cuda, .spec = *spec, .most = most, .keep = SP_PREP_KEEP_NOTHING, .scratch = sp_prep_scratch_new() };
    fill_norm(spec, norm);
    s = prep->scratch ? device_facts(prep, reterr) : SP_FAIL(reterr, SP_NOMEM, "no memory for a pre-processing");
    if (!s)
        s = sp_prep_tables_new(cuda, norm, sizeof(norm), &prep->tables, reterr);
    if (s) {
        prep_free(prep);
        return s;
    }
    *ret_prep = prep;
    return SP_OK;
}

static sp_status run(sp_cuda_prep *prep, const target *to, cudaStream_t stream, const sp_cuda_picture *pictures, int count, sp_error *reterr)
{
    sp_status s = SP_OK;
    for (int i = 0; !s && i < count; i++)
        s = check_picture(prep, to->spec, &pictures[i], reterr);
    if (!s)
        s = sp_cuda_use(prep->cuda, reterr);
    for (int i = 0; !s && i < count; i++)
        s = add(prep, to, stream, &pictures[i], i, reterr);
    if (!s)
        s = launch_all(prep, to, stream, reterr);
    forget(prep);
    return s;
}

static sp_status prep_batch(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *pictures, int count, void *dst, sp_error *reterr)
{
    if (count < 1 || count > prep->most || !dst)
        return SP_FAIL(reterr, SP_INVALID, "a batch of %d pictures, 1 to %d were agreed on", count, prep->most);
    target to = { .out = prep->spec.dtype == SP_DTYPE_F32 ? SP_PREP_OUT_F32 : SP_PREP_OUT_F16, .spec = &prep->spec, .dst = dst,
                  .image_bytes = sp_prep_output_bytes(&prep->spec) };
    return run(prep, &to, stream->stream, pictures, count, reterr);
}

static sp_status resize_rgb8(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *picture, uint8_t *dst, int dst_w, int dst_h,
                             size_t dst_stride_bytes, sp_error *reterr)
{
    if (!dst || dst_w < 1 || dst_h < 1 || dst_w > SP_PREP_SIDE_MAX || dst_h > SP_PREP_SIDE_MAX || dst_stride_bytes < (size_t)dst_w * 3)
        return SP_FAIL(reterr, SP_INVALID, "resize to %dx%d", dst_w, dst_h);
    sp_prep_spec spec = { .filter = prep->spec.filter, .fit = SP_FIT_STRETCH, .dtype = SP_DTYPE_F32, .resize_w = (uint16_t)dst_w,
                          .resize_h = (uint16_t)dst_h, .crop_w = (uint16_t)dst_w, .crop_h = (uint16_t)dst_h, .divisor = 1, .std = { 1, 1, 1 } };
    target to = { .out = SP_PREP_OUT_RGB8, .spec = &spec, .dst = dst, .stride_bytes = dst_stride_bytes };
    return run(prep, &to, stream->stream, picture, 1, reterr);
}

/* Pictures as large as the tensor: values and planes alone. */
static sp_status norm_batch(sp_cuda_prep *prep, sp_cuda_stream *stream, const sp_cuda_picture *pictures, int count, void *dst, sp_error *reterr)
{
    const sp_prep_spec *spec = &prep->spec;
    sp_norm_job job = { .norm = sp_prep_tables_device(prep->tables), .dst = dst, .image_bytes = sp_prep_output_bytes(spec),
                        .w = spec->crop_w, .h = spec->crop_h, .bgr = (spec->fit & SP_FIT_BGR) != 0 };
    if (count < 1 || count > prep->most || !dst)
        return SP_FAIL(reterr, SP_INVALID, "a batch of %d pictures, 1 to %d were agreed on", count, prep->most);
    for (int i = 0; i < count; i++) {
        if (!pictures[i].rgb || pictures[i].w != job.w || pictures[i].h != job.h || pictures[i].stride_bytes < (size_t)job.w * 3)
            return SP_FAIL(reterr, SP_INVALID, "a picture of %dx%d to normalise, rows %zu bytes apart, for tensors of %dx%d", pictures[i].w,
                           pictures[i].h, pictures[i].stride_bytes, job.w, job.h);
    }
    sp_status s = sp_cuda_use(prep->cuda, reterr);
    if (!s)
        s = sp_prep_tables_warm(prep->tables, stream->stream, reterr);
    for (int i = 0; !s && i < count; i += SP_NORM_JOB_PICTURES) {
        job.count = SP_MIN(count - i, SP_NORM_JOB_PICTURES);
        for (int k = 0; k < job.count; k++)
            job.pictures[k] = (sp_norm_picture){ pictures[i + k].rgb, pictures[i + k].stride_bytes };
        s = sp_cuda_check(sp_prep_launch_norm(&job, spec->dtype == SP_DTYPE_F32 ? SP_PREP_OUT_F32 : SP_PREP_OUT_F16, stream->stream),
                          "norm", reterr);
        job.dst += job.image_bytes * (size_t)job.count;
    }
    return s;
}

static sp_status check_yuv(const sp_cuda_yuv *yuv, const uint8_t *dst, size_t dst_stride_bytes, sp_error *reterr)
{
    size_t chroma = ((size_t)yuv->w + 1) / 2 * (yuv->v ? 1 : 2);
    if (!yuv->y || !yuv->u || !dst || yuv->w < 1 || yuv->h < 1 || yuv->w > SP_LIMIT_IMAGE_SIDE || yuv->h > SP_LIMIT_IMAGE_SIDE)
        return SP_FAIL(reterr, SP_INVALID, "a frame of %dx%d, sides are 1 to %d", yuv->w, yuv->h, SP_LIMIT_IMAGE_SIDE);
    if (yuv->y_stride_bytes < (size_t)yuv->w || yuv->uv_stride_bytes < chroma || dst_stride_bytes < (size_t)yuv->w * 3)
        return SP_FAIL(reterr, SP_INVALID, "a frame %d samples wide, its rows %zu and %zu bytes apart, %zu in RGB", yuv->w,
                       yuv->y_stride_bytes, yuv->uv_stride_bytes, dst_stride_bytes);
    return SP_OK;
}

static sp_status yuv_to_rgb8(sp_cuda_stream *stream, const sp_cuda_yuv *yuv, uint8_t *dst, size_t dst_stride_bytes, sp_error *reterr)
{
    sp_yuv_job job = { .yuv = *yuv, .matrix = sp_yuv_matrix_of(yuv->bt709, !yuv->full_range), .dst = dst, .dst_stride_bytes = dst_stride_bytes };
    sp_status s = check_yuv(yuv, dst, dst_stride_bytes, reterr);
    if (!s)
        s = sp_cuda_use(stream->cuda, reterr);
    return s ? s : sp_cuda_check(sp_yuv_launch(&job, stream->stream), "yuv_to_rgb8", reterr);
}

const struct sp_cuda_prep_api sp_cuda_prep_calls = {
    .prep_new = prep_new,
    .prep_free = prep_free,
    .prep_batch = prep_batch,
    .resize_rgb8 = resize_rgb8,
    .yuv_to_rgb8 = yuv_to_rgb8,
    .norm_batch = norm_batch,
};
