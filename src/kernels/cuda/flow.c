/* SPDX-License-Identifier: Apache-2.0
 * The CUDA twin of the dense flow, host part: what is reserved on the device, and the order of the launches. Tables come from
 * sp_flow as they are (flow_spec.c computes them, once, in double); all arithmetic is in flow_arith.h, all loops in the .cu files
 * beside this. The counterpart of flow_run.c.
 *
 *   expansion: two launches for all levels      (flow_expand.cu)
 *   pair:      one launch an iteration and level (flow_march.cu); two where the window is wide (flow_wide.cu)
 *
 * An iteration reads one field of flow and writes another: a block's neighbours still read what it would overwrite. */
#include "kernels/cuda/core.h"
#include "kernels/cuda/flow_parts.h"
#include "kernels/cuda_flow.h"

#include <stdlib.h>
#include <string.h>

/* Pixels of a row on the device: whole lines of the cache, for 4-byte and 16-byte channels. */
#define PITCH 32

struct sp_cuda_flow {
    sp_cuda *cuda;
    int w, h, coarsest, iterations;
    int rows, tiles;        /* sp_cuda_flow_expansion's */
    size_t pixels;          /* of a frame's levels */
    sp_flow_poly poly;
    sp_flow_window window;
    sp_cuda_flow_level level[SP_FLOW_LEVELS_MAX + 1];
    sp_cuda_flow_cut cut[SP_FLOW_LEVELS_MAX + 1];
    sp_cuda_flow_axis init_across, init_down;
    char *tables;           /* device: the levels, then all that they point to */
};

struct sp_cuda_flow_frame {
    sp_cuda *cuda;
    void *memory;           /* heads of all levels, then what is mixed */
    float *mixed;
};

typedef struct field { /* a flow on one level: dx, dy */
    float *dx, *dy;
    size_t stride;
} field;

struct sp_cuda_flow_scratch {
    sp_cuda *cuda;
    float *wide;            /* rows of the levels above 0 */
    float *field[2];        /* each the size of the frame's */
    float *sums;            /* only for a window that is too wide for a ring */
};

/* --- tables --- */

/* With memory NULL only the size is found. Addresses are the device's. */
typedef struct packing {
    char *memory, *device;
    size_t used;
} packing;

static const void *pack(packing *p, const void *table, size_t bytes)
{
    size_t at = p->used;
    if (p->memory)
        memcpy(p->memory + at, table, bytes);
    p->used = SP_ALIGN_UP(at + bytes, (size_t)64);
    return p->device ? p->device + at : NULL;
}

static sp_cuda_flow_axis pack_axis(packing *p, const sp_flow_axis *axis, bool across)
{
    if (!axis->n)
        return (sp_cuda_flow_axis){ 0 };
    size_t weights = (size_t)axis->taps * (size_t)(across ? axis->stride : axis->n);
    return (sp_cuda_flow_axis){ .taps = axis->taps, .stride = axis->stride,
                                .first = pack(p, axis->first, sizeof(*axis->first) * (size_t)axis->n),
                                .weight = pack(p, axis->weight, sizeof(*axis->weight) * weights) };
}

static void pack_tables(packing *p, sp_cuda_flow *to, const sp_flow *from)
{
    p->used = SP_ALIGN_UP(sizeof(to->level), (size_t)64);
    for (int k = 0; k <= from->levels; k++) {
        const sp_flow_level *level = &from->level[k];
        sp_cuda_flow_level *own = &to->level[k];
        own->across = pack_axis(p, &level->across, true);
        own->down = pack_axis(p, &level->down, false);
        SP_ASSERT(level->up_across.taps <= 2 && level->up_down.taps <= 2); /* a march knows no more */
        own->up_across = pack_axis(p, &level->up_across, true);
        own->up_down = pack_axis(p, &level->up_down, false);
        own->weight_x = pack(p, level->weight_x, sizeof(float) * (size_t)level->w);
        own->weight_y = pack(p, level->weight_y, sizeof(float) * (size_t)level->h);
    }
    to->init_across = pack_axis(p, &from->init_across, true);
    to->init_down = pack_axis(p, &from->init_down, false);
    if (p->memory)
        memcpy(p->memory, to->level, sizeof(to->level)); /* with the device's addresses in them */
}

static sp_status tables_new(sp_cuda_flow *to, const sp_flow *from, sp_error *reterr)
{
    packing p = { 0 };
    pack_tables(&p, to, from);
    void *device = NULL;
    sp_status s = sp_cuda_reserve(to->cuda, p.used, &device, reterr);
    if (s)
        return s;
    to->tables = device;
    p.device = device;
    p.memory = calloc(1, p.used);
    if (!p.memory)
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for the tables of a frame of %d x %d", to->w, to->h);
    size_t bytes = p.used;
    pack_tables(&p, to, from);
    SP_ASSERT(p.used == bytes);
    cudaStream_t stream = to->cuda->stream;
    s = sp_cuda_check(cudaMemcpyAsync(device, p.memory, bytes, cudaMemcpyHostToDevice, stream), "tables of a flow", reterr);
    if (!s)
        s = sp_cuda_check(cudaStreamSynchronize(stream), "tables of a flow", reterr);
    free(p.memory);
    return s;
}

/* --- cutting a level into blocks --- */

/* What a block has to do, in eights of rows (its first ones only fill the ring), times the blocks that a multiprocessor has to
 * do; two more of each for what does not shrink: starting, and waiting for memory. An estimate in no unit, to choose by. */
static double cost_of(const sp_cuda_flow_level *level, const sp_flow_window *window, const sp_cuda_flow_cut *cut, int processors,
                      size_t shared_bytes)
{
    size_t block_bytes = sp_cuda_flow_shared_bytes(window, cut->columns);
    int blocks = SP_MAX((level->w + cut->strip - 1) / cut->strip, 1) * ((level->h + cut->band - 1) / cut->band);
    int resident = SP_MAX((int)(shared_bytes / (block_bytes + 1024)), 1), each = (blocks + processors - 1) / processors;
    int waves = (each + resident - 1) / resident, eights = (cut->band + window->n - 1 + SP_CUDA_FLOW_ROWS - 1) / SP_CUDA_FLOW_ROWS;
    return (double)waves * (eights + 1) * (2.0 + (double)SP_MIN(each, resident) * cut->columns / 128);
}

static sp_cuda_flow_cut cut_level(const sp_cuda_flow_level *level, const sp_flow_window *window, int processors, size_t shared_bytes)
{
    sp_cuda_flow_cut best = { 0 };
    double least = 0;
    for (int columns = 128; columns >= 64; columns /= 2) {
        int most = sp_cuda_flow_strip(window->n, columns);
        if (2 * most < columns || sp_cuda_flow_shared_bytes(window, columns) > shared_bytes)
            continue;
        int strips = (level->w + most - 1) / most;
        sp_cuda_flow_cut cut = { .columns = columns, .strip = (level->w + strips - 1) / strips };
        for (int eights = window->n / SP_CUDA_FLOW_ROWS + 1;; eights++) {
            cut.band = eights * SP_CUDA_FLOW_ROWS - (window->n - 1);
            double cost = cost_of(level, window, &cut, processors, shared_bytes);
            if (!best.columns || cost < least) {
                best = cut;
                least = cost;
            }
            if (cut.band >= level->h)
                break;
        }
    }
    return best;
}

static sp_status cut_levels(sp_cuda_flow *flow, sp_error *reterr)
{
    int device = 0, processors = 0, shared = 0;
    sp_status s = sp_cuda_check(cudaGetDevice(&device), "cudaGetDevice", reterr);
    if (!s)
        s = sp_cuda_check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute", reterr);
    if (!s)
        s = sp_cuda_check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute",
                          reterr);
    for (int k = 0; !s && k <= flow->coarsest; k++)
        flow->cut[k] = cut_level(&flow->level[k], &flow->window, SP_MAX(processors, 1), (size_t)shared);
    return s;
}

/* --- objects --- */

static void lay_out(sp_cuda_flow *to, const sp_flow *from)
{
    for (int k = from->levels; k >= 0; k--) {
        sp_cuda_flow_level *own = &to->level[k];
        own->w = from->level[k].w;
        own->h = from->level[k].h;
        own->pitch = SP_ALIGN_UP(own->w, PITCH);
        own->offset = to->pixels;
        to->pixels += (size_t)own->pitch * (size_t)own->h;
        own->first_row = to->rows;
        to->rows += k ? own->h : 0;
        own->first_tile = to->tiles;
        own->tiles_across = (own->w + SP_CUDA_FLOW_TILE_W - 1) / SP_CUDA_FLOW_TILE_W;
        to->tiles += own->tiles_across * ((own->h + SP_CUDA_FLOW_TILE_H - 1) / SP_CUDA_FLOW_TILE_H);
    }
}

static void flow_free(sp_cuda_flow *flow)
{
    if (!flow)
        return;
    sp_cuda_release(flow->cuda, flow->tables);
    free(flow);
}

static sp_status flow_new(sp_cuda *cuda, const sp_flow *flow, sp_cuda_flow **ret_flow, sp_error *reterr)
{
    sp_cuda_flow *own = calloc(1, sizeof(*own));
    if (!own)
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for its tables");
    *own = (sp_cuda_flow){ .cuda = cuda, .w = flow->w, .h = flow->h, .coarsest = flow->levels, .iterations = flow->params.iterations,
                           .poly = flow->poly, .window = flow->window };
    lay_out(own, flow);
    sp_status s = tables_new(own, flow, reterr);
    if (!s)
        s = cut_levels(own, reterr);
    if (s) {
        flow_free(own);
        return s;
    }
    *ret_flow = own;
    return SP_OK;
}

static void frame_free(sp_cuda_flow_frame *frame)
{
    if (!frame)
        return;
    sp_cuda_release(frame->cuda, frame->memory);
    free(frame);
}

static sp_status frame_new(sp_cuda_flow *flow, sp_cuda_flow_frame **ret_frame, sp_error *reterr)
{
    sp_cuda_flow_frame *frame = calloc(1, sizeof(*frame));
    if (!frame)
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory for a frame of %d x %d", flow->w, flow->h);
    frame->cuda = flow->cuda;
    sp_status s = sp_cuda_reserve(flow->cuda, flow->pixels * SP_FLOW_CHANNELS * sizeof(float), &frame->memory, reterr);
    if (s) {
        frame_free(frame);
        return s;
    }
    frame->mixed = (float *)frame->memory + 4 * flow->pixels;
    *ret_frame = frame;
    return SP_OK;
}

static void scratch_free(sp_cuda_flow_scratch *scratch)
{
    if (!scratch)
        return;
    sp_cuda_release(scratch->cuda, scratch->wide);
    sp_cuda_release(scratch->cuda, scratch->field[0]);
    sp_cuda_release(scratch->cuda, scratch->field[1]);
    sp_cuda_release(scratch->cuda, scratch->sums);
    free(scratch);
}

static sp_status floats_new(sp_cuda *cuda, size_t count, float **ret_floats, sp_error *reterr)
{
    void *device = NULL;
    sp_status s = count ? sp_cuda_reserve(cuda, count * sizeof(float), &device, reterr) : SP_OK;
    if (!s)
        *ret_floats = device;
    return s;
}

static size_t wide_pitch(const sp_cuda_flow *flow)
{
    return SP_ALIGN_UP((size_t)flow->w, (size_t)PITCH);
}

static sp_status scratch_new(sp_cuda_flow *flow, sp_cuda_flow_scratch **ret_scratch, sp_error *reterr)
{
    sp_cuda_flow_scratch *scratch = calloc(1, sizeof(*scratch));
    if (!scratch)
        return SP_FAIL(reterr, SP_NOMEM, "optical flow: no memory to work on frames of %d x %d", flow->w, flow->h);
    scratch->cuda = flow->cuda;
    size_t pixels = (size_t)flow->level[0].pitch * (size_t)flow->h, sums = 0;
    for (int k = 0; k <= flow->coarsest; k++) {
        if (!flow->cut[k].columns)
            sums = SP_FLOW_CHANNELS * pixels;
    }
    sp_status s = floats_new(flow->cuda, (size_t)flow->rows * wide_pitch(flow), &scratch->wide, reterr);
    for (int i = 0; !s && i < 2; i++)
        s = floats_new(flow->cuda, 2 * pixels, &scratch->field[i], reterr);
    if (!s)
        s = floats_new(flow->cuda, sums, &scratch->sums, reterr);
    if (s) {
        scratch_free(scratch);
        return s;
    }
    *ret_scratch = scratch;
    return SP_OK;
}

/* --- work --- */

static sp_status expand(const sp_cuda_flow *flow, sp_cuda_stream *stream, sp_cuda_flow_frame *ret_frame, const uint8_t *grey,
                        size_t stride_bytes, sp_cuda_flow_scratch *scratch, sp_error *reterr)
{
    const sp_cuda_flow_expansion expansion = { .grey = grey, .grey_stride = stride_bytes, .w = flow->w, .h = flow->h,
                                               .levels = (const sp_cuda_flow_level *)flow->tables, .coarsest = flow->coarsest,
                                               .rows = flow->rows, .tiles = flow->tiles, .wide = scratch->wide,
                                               .wide_pitch = (int)wide_pitch(flow), .heads = ret_frame->memory,
                                               .mixed = ret_frame->mixed, .poly = flow->poly };
    sp_status s = sp_cuda_use(flow->cuda, reterr);
    return s ? s : sp_cuda_check(sp_cuda_flow_launch_expansion(&expansion, stream->stream), "flow's expansion", reterr);
}

/* Where iteration `left` (0 = the last) of level k leaves its flow: the last of level 0 with the caller, of others in
 * field[1], so that whatever the first iteration of the next finer level writes, it is not what it reads. */
static field target_of(const sp_cuda_flow *flow, const sp_cuda_flow_scratch *scratch, int k, int left, field caller)
{
    if (k == 0 && left % 2 == 0)
        return caller;
    /* The fields take turns down to the level's last iteration; level 0's other field is field[0], that of level 1's end [1]. A
     * level ends in the field that the finer one's first iteration does not write. */
    int last = 1; /* of level 1 */
    for (int i = 2; i <= k; i++) /* the finer level's first writes `last` when iterations are odd, else the other */
        last = flow->iterations % 2 ? !last : last;
    const sp_cuda_flow_level *level = &flow->level[k];
    float *dx = scratch->field[k == 0 ? 0 : left % 2 ? !last : last];
    return (field){ dx, dx + (size_t)level->pitch * (size_t)level->h, (size_t)level->pitch };
}

static sp_status pair(const sp_cuda_flow *flow, sp_cuda_stream *stream, const sp_cuda_flow_frame *a, const sp_cuda_flow_frame *b,
                      const float *init_dx, const float *init_dy, float *dx, float *dy, size_t stride_floats,
                      sp_cuda_flow_scratch *scratch, sp_error *reterr)
{
    const field caller = { dx, dy, stride_floats };
    field from = { 0 };
    sp_cuda_flow_from kind = SP_CUDA_FLOW_ZEROS;
    sp_status s = sp_cuda_use(flow->cuda, reterr);
    if (!s && init_dx) {
        /* Anywhere but where the first iteration writes. */
        const sp_cuda_flow_level *level = &flow->level[flow->coarsest];
        field first = target_of(flow, scratch, flow->coarsest, flow->iterations - 1, caller);
        float *at = scratch->field[first.dx == scratch->field[0]];
        from = (field){ at, at + (size_t)level->pitch * (size_t)level->h, (size_t)level->pitch };
        kind = SP_CUDA_FLOW_FIELD;
        s = sp_cuda_check(sp_cuda_flow_launch_begin(from.dx, from.dy, from.stride, level->w, level->h, init_dx, init_dy, stride_floats,
                                                    &flow->init_across, &flow->init_down, stream->stream),
                          "flow's beginning", reterr);
    }
    for (int k = flow->coarsest; k >= 0; k--) {
        const sp_cuda_flow_level *level = &flow->level[k];
        for (int left = flow->iterations - 1; !s && left >= 0; left--) {
            field to = target_of(flow, scratch, k, left, caller);
            const sp_cuda_flow_step step = { .a_heads = (const float *)a->memory + 4 * level->offset,
                                             .b_heads = (const float *)b->memory + 4 * level->offset,
                                             .a_mixed = a->mixed + level->offset, .b_mixed = b->mixed + level->offset,
                                             .w = level->w, .h = level->h, .pitch = level->pitch, .kind = kind,
                                             .from_dx = from.dx, .from_dy = from.dy, .from_stride = from.stride,
                                             .across = level->up_across, .down = level->up_down, .to_dx = to.dx, .to_dy = to.dy,
                                             .to_stride = to.stride, .weight_x = level->weight_x, .weight_y = level->weight_y,
                                             .window = flow->window };
            s = sp_cuda_check(flow->cut[k].columns ? sp_cuda_flow_launch_march(&step, &flow->cut[k], stream->stream)
                                                   : sp_cuda_flow_launch_wide(&step, scratch->sums, stream->stream),
                              "flow's iteration", reterr);
            from = to;
            kind = SP_CUDA_FLOW_FIELD;
        }
        kind = SP_CUDA_FLOW_COARSER;
    }
    return s;
}

const struct sp_cuda_flow_api sp_cuda_flow_calls = {
    .flow_new = flow_new, .flow_free = flow_free, .frame_new = frame_new, .frame_free = frame_free, .scratch_new = scratch_new,
    .scratch_free = scratch_free, .expand = expand, .pair = pair,
};
