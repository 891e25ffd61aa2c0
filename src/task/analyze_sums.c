/* SPDX-License-Identifier: Apache-2.0
 * Sums to what a frame's record says: whole numbers, divided once. The kernels that made them (analyze_run.c on the CPU,
 * analyze_cuda.c on a GPU) are not seen here, so neither are they in a record. Rules and units: docs/internals/analyze.md. */
#include "task/analyze_internal.h"

#include <string.h>

/* A pixel's weight in a region of motion is its magnitude in quarters of a pixel: that in 1/1024 px. */
#define WEIGHT_UNIT (1024 / 4)

/* deviation of n values with that sum and sum of squares, times `unit`, floor. */
static uint64_t deviation(uint64_t n, uint64_t sum, uint64_t squares, uint32_t unit)
{
    unsigned __int128 total = (unsigned __int128)squares * n, mean = (unsigned __int128)sum * sum;
    unsigned __int128 variance = total > mean ? (total - mean) * unit * unit / ((unsigned __int128)n * n) : 0;
    return sp_isqrt((uint64_t)variance);
}

static uint32_t share(uint64_t part, uint64_t all)
{
    return all ? (uint32_t)(part * 1000 / all) : 0;
}

static void say_plane(sp_frame_record *r, const sp_plane_measure *m, uint64_t n)
{
    uint64_t dark = 0, bright = 0;
    for (int i = 0; i < 16; i++) {
        dark += m->histogram[i];
        bright += m->histogram[240 + i];
    }
    r->mean = (uint32_t)(m->sum * 1000 / n);
    r->deviation = (uint32_t)deviation(n, m->sum, m->sum_squares, 1000);
    r->dark = share(dark, n);
    r->bright = share(bright, n);
    unsigned __int128 total = (unsigned __int128)m->laplace_squares * n;
    unsigned __int128 mean = (unsigned __int128)((__int128)m->laplace_sum * m->laplace_sum);
    r->sharpness = (uint64_t)((total - mean) * 1000 / ((unsigned __int128)n * n));
}

static void say_flow(sp_frame_record *r, const sp_flow_measure *m, uint64_t n)
{
    int64_t moving = 0;
    r->flow_x = (int32_t)(m->sum_dx / (int64_t)n);
    r->flow_y = (int32_t)(m->sum_dy / (int64_t)n);
    r->flow_mean = (uint32_t)((uint64_t)m->sum_magnitude / n);
    /* The squares are those of sixteenths. */
    r->flow_deviation = (uint32_t)deviation(n, (uint64_t)m->sum_magnitude / 16, (uint64_t)m->sum_squares, 16);
    r->flow_deviation = SP_MIN(r->flow_deviation, (uint32_t)SP_FLOW_QUANTUM_MAX);
    r->flow_max = SP_MIN(m->max_magnitude, (uint32_t)SP_FLOW_QUANTUM_MAX);
    r->moving = m->moving;
    for (int i = 0; i < 8; i++)
        moving += m->direction[i];
    for (int i = 0; i < 8; i++)
        r->direction[i] = share((uint64_t)m->direction[i], (uint64_t)moving);
}

static sp_frame_region say_region(const sp_region *g, uint32_t strength)
{
    return (sp_frame_region){
        .x0 = (uint16_t)g->x0, .y0 = (uint16_t)g->y0, .x1 = (uint16_t)g->x1, .y1 = (uint16_t)g->y1, .area = g->area,
        .centre_x = (uint32_t)(g->sum_x * 256 / g->area), .centre_y = (uint32_t)(g->sum_y * 256 / g->area), .strength = strength,
    };
}

static uint64_t pixels_of(const sp_analyze_plan *plan)
{
    return (uint64_t)plan->w * (uint64_t)plan->h;
}

void sp_record_begin(sp_frame_record *r, const sp_video_frame *frame)
{
    memset(r, 0, sizeof(*r));
    r->number = frame->number;
    r->pts = frame->pts;
    r->damaged = frame->damaged;
    r->key = frame->key;
}

/* Those that are not too large; the list begins with the largest. */
static void say_defects(sp_frame_record *r, const sp_analyze_params *p, sp_region_head head, const sp_region *list)
{
    uint32_t big = 0;
    while (big < head.written && list[big].area > p->defect_max_area)
        big++;
    r->defect_count = head.total - big;
    for (uint32_t i = 0; i < sp_regions_told(r->defect_count); i++) {
        if (big + i >= head.written) { /* nothing but large ones fitted: none is told */
            r->defect_count = 0;
            break;
        }
        const sp_region *g = &list[big + i];
        r->defects[i] = say_region(g, (uint32_t)(g->weight * 256 / g->area));
    }
}

void sp_record_frame(sp_frame_record *r, const sp_analyze_plan *plan, const sp_frame_sums *sums, const sp_region *defects)
{
    say_plane(r, &sums->plane, pixels_of(plan));
    r->edges = (uint32_t)sums->edges;
    say_defects(r, &plan->params, sums->defects, defects);
}

void sp_record_pair(sp_frame_record *r, const sp_analyze_plan *plan, const sp_plane_measure *this, const sp_plane_measure *next,
                    const sp_pair_sums *sums)
{
    uint64_t n = pixels_of(plan), apart = 0;
    r->has_pair = 1;
    say_flow(r, &sums->flow, n);
    for (int i = 0; i < 256; i++)
        apart += this->histogram[i] > next->histogram[i] ? this->histogram[i] - next->histogram[i]
                                                         : next->histogram[i] - this->histogram[i];
    r->histogram_distance = share(apart, 2 * n);
    r->difference = (uint32_t)(sums->difference * 1000 / n);
    r->cut = r->histogram_distance >= plan->params.scene_threshold && r->difference >= SP_CUT_DIFFERENCE;
    r->mask_area = (uint32_t)sums->mask_area;
    r->motion_count = sums->motion.total;
    for (uint32_t i = 0; i < sp_regions_told(r->motion_count); i++) {
        const sp_region *g = &sums->motion_list[i];
        r->motion[i] = say_region(g, (uint32_t)(g->weight * WEIGHT_UNIT / g->area));
    }
}
