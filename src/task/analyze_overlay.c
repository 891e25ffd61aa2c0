/* SPDX-License-Identifier: Apache-2.0
 * The film of the analysis: each frame in grey, its flow as colour (the hue is the direction, the strength the speed), its edges
 * in white, what moves in boxes. For people: no part of a report's identity, so floats are fine here. */
#include "task/analyze_overlay.h"

#include "task/analyze_internal.h"

#include "kernels/plane.h"

#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Colour is full from this speed on, pixels a frame. */
#define FULL_SPEED 8.0f
#define SLOWEST 0.5f

typedef struct film {
    const sp_analysis *analysis;
    const sp_video_api *api;
    sp_video *video;
    sp_video_writer *writer;
    int fd;
    sp_flow *flow;
    sp_flow_frame *expanded[2];
    sp_flow_scratch *flow_scratch;
    sp_plane_scratch *plane_scratch;
    float *dx, *dy;
    uint8_t *grey[2], *edges, *rgb;
} film;

static void film_done(film *f)
{
    f->api->close(f->video);
    if (f->writer)
        (void)f->api->writer_close(f->writer, NULL); /* the film is thrown away */
    for (int i = 0; i < 2; i++) {
        sp_flow_frame_free(f->expanded[i]);
        free(f->grey[i]);
    }
    sp_flow_scratch_free(f->flow_scratch);
    sp_flow_free(f->flow);
    sp_plane_scratch_free(f->plane_scratch);
    free(f->dx);
    free(f->dy);
    free(f->edges);
    free(f->rgb);
    sp_fd_closep(&f->fd);
}

static sp_status film_init(film *f, const sp_video_source *source, sp_error *reterr)
{
    const sp_video_index *x = f->analysis->index;
    const sp_video_options options = { .threads = 1 };
    size_t pixels = (size_t)x->width * (size_t)x->height;
    bool known = x->rate_num > 0 && x->rate_den > 0;

    sp_status s = f->api->open(source, x, &options, &f->video, reterr);
    if (!s)
        s = sp_flow_new(&f->analysis->params.flow, x->width, x->height, &f->flow, reterr);
    for (int i = 0; i < 2 && !s; i++)
        s = sp_flow_frame_new(f->flow, &f->expanded[i], reterr);
    if (!s)
        s = sp_flow_scratch_new(f->flow, &f->flow_scratch, reterr);
    if (!s)
        s = sp_plane_scratch_new(x->width, x->height, &f->plane_scratch, reterr);
    if (s)
        return s;
    f->dx = calloc(pixels, sizeof(float));
    f->dy = calloc(pixels, sizeof(float));
    f->grey[0] = malloc(pixels);
    f->grey[1] = malloc(pixels);
    f->edges = malloc(pixels);
    f->rgb = malloc(3 * pixels);
    if (!f->dx || !f->dy || !f->grey[0] || !f->grey[1] || !f->edges || !f->rgb)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the film of a report");
    f->fd = memfd_create("spillway-overlay", MFD_CLOEXEC);
    if (f->fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "no memory file for the film of a report");
    return f->api->writer_open(f->fd, x->width, x->height, known ? x->rate_num : 25, known ? x->rate_den : 1, &f->writer, reterr);
}

/* --- a picture --- */

/* One part of the hue: 0 .. 255, largest where the direction is (cx, cy). */
static float hue(float x, float y, float cx, float cy)
{
    return 127.5f + 127.5f * (x * cx + y * cy);
}

static void paint(const film *f, const uint8_t *grey, bool moves, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++) {
        uint8_t *p = f->rgb + 3 * i;
        float base = (float)grey[i] * .7f, speed = moves ? sqrtf(f->dx[i] * f->dx[i] + f->dy[i] * f->dy[i]) : 0;
        float colour[3] = { base, base, base };
        if (speed > SLOWEST) {
            float x = f->dx[i] / speed, y = f->dy[i] / speed, full = speed < FULL_SPEED ? speed / FULL_SPEED : 1;
            const float wheel[3] = { hue(x, y, 1, 0), hue(x, y, -.5f, .866f), hue(x, y, -.5f, -.866f) };
            float share = .25f + .5f * full;
            for (int c = 0; c < 3; c++)
                colour[c] += share * (wheel[c] - base);
        }
        for (int c = 0; c < 3; c++)
            p[c] = (uint8_t)(f->edges[i] ? SP_MIN(colour[c] + 70, 255.0f) : colour[c]);
    }
}

static sp_status film_add(film *f, const sp_video_frame *frame, int half, bool has_pair, sp_error *reterr)
{
    const sp_video_index *x = f->analysis->index;
    const sp_analyze_params *p = &f->analysis->params;
    size_t w = (size_t)x->width;
    sp_plane grey = { f->grey[half], x->width, x->height, w }, edges = { f->edges, x->width, x->height, w };

    sp_canny(edges, grey, p->canny_low, p->canny_high, 3, false, f->plane_scratch);
    if (has_pair)
        sp_flow_pair(f->flow, f->expanded[half], f->expanded[1 - half], NULL, NULL, f->dx, f->dy, w, f->flow_scratch);
    paint(f, f->grey[half], has_pair, w * (size_t)x->height);
    sp_analysis_draw(f->analysis, frame->number, f->rgb);
    return f->api->writer_add(f->writer, f->rgb, reterr);
}

/* All frames of one segment; the last one waits for the lookahead. */
static sp_status film_segment(film *f, uint32_t segment, sp_error *reterr)
{
    sp_video_frame frames[2] = { 0 };
    size_t w = (size_t)f->analysis->index->width;
    sp_status s = f->api->segment(f->video, segment, reterr);

    for (int half = 0, waiting = 0; !s; half = 1 - half) {
        bool more = false;
        sp_video_loss loss;
        s = f->api->next(f->video, f->grey[half], w, &frames[half], &more, &loss, reterr);
        if (s)
            break;
        if (more)
            sp_flow_expand(f->flow, f->expanded[half], f->grey[half], w, f->flow_scratch);
        if (waiting)
            s = film_add(f, &frames[1 - half], 1 - half, more && frames[half].number == frames[1 - half].number + 1, reterr);
        waiting = more && !frames[half].lookahead;
        if (!more)
            break;
    }
    return s;
}

/* --- the file --- */

static sp_status put_film(film *f, sp_report_put_fn *put, void *context, sp_error *reterr)
{
    struct stat facts;
    sp_status s = f->api->writer_close(SP_STEAL(f->writer), reterr);
    if (s || fstat(f->fd, &facts) || facts.st_size <= 0)
        return s;
    void *bytes = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (bytes == MAP_FAILED)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "the film of a report cannot be mapped");
    s = put(context, "overlay.mp4", sp_view_make(bytes, (size_t)facts.st_size), reterr);
    (void)munmap(bytes, (size_t)facts.st_size);
    return s;
}

sp_status sp_overlay_put(const sp_analysis *analysis, const sp_video_api *api, const sp_video_source *source, sp_report_put_fn *put,
                         void *context, sp_error *reterr)
{
    SP_CLEANUP(film_done) film f = { .analysis = analysis, .api = api, .fd = -1 };
    sp_status s = film_init(&f, source, reterr);
    for (uint32_t i = 0; i < analysis->index->segment_count && !s; i++)
        s = film_segment(&f, i, reterr);
    if (s == SP_CANCELLED || s == SP_NOMEM)
        return s;
    return s ? SP_OK : put_film(&f, put, context, reterr);
}
