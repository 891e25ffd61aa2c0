/* SPDX-License-Identifier: Apache-2.0
 * Measuring, and the plan as text. */
#include "worker/device_plan.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PLAN_FORMAT      2
#define MEASURE_TOTAL_NS (1200 * SP_NS_PER_MS) /* nothing new is begun after this */
#define MEASURE_ONE_NS   (60 * SP_NS_PER_MS)   /* of one candidate */
/* Spinning is not tried after this: it is a slow model, or a busy machine, where it hurts. */
#define MEASURE_SPIN_NS  (350 * SP_NS_PER_MS)
#define MEASURE_RUNS_MIN 3
#define MEASURE_RUNS_MAX 64
#define BATCH_MAX_CPU    8
#define GAIN_MIN         1.03 /* a larger batch or spinning must be worth more than the noise */

void sp_device_plan_write(const sp_device_plan *plan, const char *digest, const char *engine, char *text, size_t size)
{
    (void)snprintf(text, size,
                   "%d cpus=%d model=%.16s engine=%.24s alone=%d%s lanes=%d batch=%d p50=%lld p99=%lld one=%lld "
                   "item=%lld run=%lld took=%lld",
                   PLAN_FORMAT, plan->cpus, digest, engine, plan->wide_threads, plan->wide_spin ? "s" : "n",
                   plan->lanes, plan->batch, (long long)plan->alone_p50_ns, (long long)plan->alone_p99_ns,
                   (long long)plan->one_p50_ns, (long long)plan->loaded_item_ns, (long long)plan->loaded_run_ns,
                   (long long)plan->measured_ns);
}

bool sp_device_plan_read(const char *text, const char *digest, const char *engine, int cpus, sp_device_plan *ret_plan)
{
    int format = 0, used = 0;
    char model[17] = "", engine_seen[25] = "", spin = 0;
    long long p50, p99, one, item, run, took;
    sp_device_plan plan = { 0 };
    int n = text ? sscanf(text,
                          "%d cpus=%d model=%16s engine=%24s alone=%d%c lanes=%d batch=%d p50=%lld p99=%lld one=%lld "
                          "item=%lld run=%lld took=%lld%n",
                          &format, &plan.cpus, model, engine_seen, &plan.wide_threads, &spin, &plan.lanes, &plan.batch,
                          &p50, &p99, &one, &item, &run, &took, &used)
                 : 0;
    if (n != 14 || text[used] || format != PLAN_FORMAT || plan.cpus != cpus || strncmp(model, digest, 16) != 0 ||
        strncmp(engine_seen, engine, 24) != 0 || (spin != 's' && spin != 'n'))
        return false;
    if (plan.wide_threads < 1 || plan.wide_threads > 1024 || plan.lanes < 0 || plan.lanes > SP_LIMIT_EXECUTORS ||
        plan.batch < 1 || plan.batch > SP_LIMIT_BATCH || p50 <= 0 || p99 < p50 || one < 0 || item <= 0 || run <= 0)
        return false;
    plan.wide_spin = spin == 's';
    plan.alone_p50_ns = p50;
    plan.alone_p99_ns = p99;
    plan.one_p50_ns = one;
    plan.loaded_item_ns = item;
    plan.loaded_run_ns = run;
    plan.measured_ns = took;
    *ret_plan = plan;
    return true;
}

void sp_device_sessions_close(sp_device_sessions *sessions)
{
    sp_classify_close(sessions->narrow);
    sp_classify_close(sessions->wide);
    *sessions = (sp_device_sessions){ 0 };
}

static sp_status open_wide(const sp_device_target *target, sp_model *model, int threads, bool spin, int batch,
                           sp_classifier **ret_wide, sp_error *reterr)
{
    const sp_classify_options options = { .provider = target->provider,
                                          .device_index = target->index,
                                          .threads = threads,
                                          .lanes = 1,
                                          .max_batch = batch,
                                          .spin = spin,
                                          .refuse_cpu_nodes = target->refuse_cpu_nodes,
                                          .cuda_api = target->cuda_api,
                                          .cuda = target->cuda,
                                          .nvjpeg = target->nvjpeg };
    return sp_classify_open(target->engine, model, &options, ret_wide, reterr);
}

static sp_status open_narrow(const sp_device_target *target, sp_model *model, int lanes, int batch, sp_classifier **ret_narrow,
                             sp_error *reterr)
{
    const sp_classify_options options = { .provider = target->provider,
                                          .device_index = target->index,
                                          .threads = 1,
                                          .lanes = lanes,
                                          .max_batch = batch,
                                          .refuse_cpu_nodes = target->refuse_cpu_nodes,
                                          .cuda_api = target->cuda_api,
                                          .cuda = target->cuda,
                                          .nvjpeg = target->nvjpeg };
    return sp_classify_open(target->engine, model, &options, ret_narrow, reterr);
}

sp_status sp_device_sessions_open(const sp_device_target *target, sp_model *model, const sp_device_plan *plan,
                                  sp_device_sessions *ret_sessions, sp_error *reterr)
{
    sp_device_sessions sessions = { 0 };
    sp_status s = SP_OK;
    if (plan->wide_threads > 1 || plan->lanes == 0)
        s = open_wide(target, model, plan->wide_threads, plan->wide_spin, plan->lanes ? 1 : plan->batch, &sessions.wide, reterr);
    if (!s && plan->lanes > 0)
        s = open_narrow(target, model, plan->lanes, plan->batch, &sessions.narrow, reterr);
    if (s)
        sp_device_sessions_close(&sessions);
    else
        *ret_sessions = sessions;
    return s;
}

/* --- measuring ------------------------------------------------------------------------------------------------ */

/* Numbers as a normalised picture has them; zeros would let some models take shortcuts. Item i is zeros up to zero_bytes[i]. */
static sp_status fill_inputs(sp_classifier *c, int lane, int batch, const size_t *zero_bytes, sp_error *reterr)
{
    uint32_t random = 12345;
    size_t bytes = sp_classify_tensor_bytes(c);
    bool half = sp_classify_model(c)->prep.dtype == SP_DTYPE_F16;
    uint8_t *input = aligned_alloc(64, SP_ALIGN_UP(bytes, (size_t)64));
    sp_status s = input ? SP_OK : SP_FAIL(reterr, SP_NOMEM, "no memory for a tensor of %zu bytes", bytes);
    for (int i = 0; i < batch && !s; i++) {
        for (size_t at = 0; at < bytes; at += half ? 2 : 4) {
            random = random * 1664525u + 1013904223u;
            float value = (float)(random >> 8) * 0x1p-23f - 1.0f;                                     /* -1 .. 1 */
            uint16_t bits = (uint16_t)(0x3800u | (random >> 16 & 0x3ffu) | (random >> 10 & 0x8000u)); /* +-0.5 .. 1 */
            memcpy(input + at, half ? (const void *)&bits : &value, half ? 2 : 4);
        }
        memset(input, 0, zero_bytes ? zero_bytes[i] : 0);
        s = sp_classify_put_tensor(c, lane, i, input, false, reterr);
    }
    free(input);
    return s;
}

typedef struct timing {
    int64_t p50_ns, worst_ns; /* of one run, wall */
    int64_t item_ns;          /* time per item if no other process had the cores; see measure() */
} timing;

typedef struct lane_run {
    sp_classifier *classifier;
    int lane, batch;
    pthread_barrier_t *start;
    int64_t begun_ns, ended_ns;
    int64_t cpu_ns; /* of this thread, in all runs */
    int runs;
    int64_t took_ns[MEASURE_RUNS_MAX];
    sp_status status;
    sp_error error;
} lane_run;

static int64_t thread_cpu_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts); /* cannot fail */
    return (int64_t)ts.tv_sec * SP_NS_PER_S + ts.tv_nsec;
}

static void *measure_lane(void *argument)
{
    lane_run *r = argument;
    r->status = fill_inputs(r->classifier, r->lane, r->batch, NULL, &r->error);
    if (!r->status)
        r->status = sp_classify_run_items(r->classifier, r->lane, 0, r->batch, 1, &r->error); /* warm: arenas, caches */
    if (r->start)
        (void)pthread_barrier_wait(r->start);
    r->begun_ns = r->ended_ns = sp_clock_now_ns();
    int64_t cpu_before_ns = thread_cpu_ns();
    for (;;) {
        int64_t spent_ns = r->ended_ns - r->begun_ns;
        bool enough = r->runs >= MEASURE_RUNS_MIN ? spent_ns >= MEASURE_ONE_NS : spent_ns >= 3 * MEASURE_ONE_NS;
        if (r->status || enough || r->runs == MEASURE_RUNS_MAX)
            break;
        int64_t before_ns = r->ended_ns;
        r->status = sp_classify_run_items(r->classifier, r->lane, 0, r->batch, 1, &r->error);
        r->ended_ns = sp_clock_now_ns();
        r->took_ns[r->runs++] = r->ended_ns - before_ns;
    }
    r->cpu_ns = thread_cpu_ns() - cpu_before_ns;
    return NULL;
}

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* `lanes` threads run batches of `batch` at once. One lane runs on the calling thread.
 * A worker may be started while its neighbours are busy, and the plan stays: wall time would then choose by accident
 * (seen: a build beside it made one wide session look best, at half the throughput). So the throughput of narrow lanes
 * is taken from the CPU time that each lane's thread used, that of a wide session from its fastest run. */
static sp_status measure(sp_classifier *c, int lanes, bool narrow, int batch, timing *ret_timing, sp_error *reterr)
{
    lane_run *runs = calloc((size_t)lanes, sizeof(*runs));
    pthread_t threads[SP_LIMIT_EXECUTORS];
    pthread_barrier_t start;
    if (!runs || pthread_barrier_init(&start, NULL, (unsigned)lanes) != 0) {
        free(runs);
        return SP_FAIL(reterr, SP_NOMEM, "no memory to measure %d lanes", lanes);
    }
    int made = 1;
    for (int i = 0; i < lanes; i++)
        runs[i] = (lane_run){ .classifier = c, .lane = i, .batch = batch, .start = &start };
    while (made < lanes && pthread_create(&threads[made], NULL, measure_lane, &runs[made]) == 0)
        made++;
    SP_ASSERT(made == lanes); /* the worker needs that many executors in a moment; the barrier would wait for ever */
    (void)measure_lane(&runs[0]);
    for (int i = 1; i < lanes; i++)
        (void)pthread_join(threads[i], NULL);
    sp_status s = SP_OK;
    double items_per_ns = 0;
    for (int i = 0; i < lanes && !s; i++) {
        if (runs[i].status) {
            s = runs[i].status;
            if (reterr)
                *reterr = runs[i].error;
        } else {
            items_per_ns += (double)runs[i].runs * batch / (double)SP_MAX(runs[i].cpu_ns, 1);
        }
    }
    if (!s) {
        qsort(runs[0].took_ns, (size_t)runs[0].runs, sizeof(int64_t), compare_ns);
        *ret_timing = (timing){ .p50_ns = runs[0].took_ns[runs[0].runs / 2],
                                .worst_ns = runs[0].took_ns[runs[0].runs - 1],
                                .item_ns = narrow ? SP_MAX((int64_t)(1 / items_per_ns), 1)
                                                  : SP_MAX(runs[0].took_ns[0] / batch, 1) };
    }
    (void)pthread_barrier_destroy(&start);
    free(runs);
    return s;
}

/* Does item 0 answer the same alone and beside another? A model where it does not is never batched. */
static bool is_independent(sp_classifier *c)
{
    uint32_t classes = sp_classify_model(c)->class_count;
    const size_t zero_bytes[2] = { 0, sp_classify_tensor_bytes(c) / 2 }; /* two that differ: half of the second one is zeros */
    float *alone = malloc(classes * sizeof(float));
    const float *seen = NULL;
    bool same = alone && fill_inputs(c, 0, 2, zero_bytes, NULL) == SP_OK;
    if (same && sp_classify_run_items(c, 0, 0, 1, 1, NULL) == SP_OK)
        seen = sp_classify_raw(c, 0, 0);
    if (seen)
        memcpy(alone, seen, classes * sizeof(float));
    same = seen && sp_classify_run_items(c, 0, 0, 2, 1, NULL) == SP_OK && (seen = sp_classify_raw(c, 0, 0));
    for (uint32_t i = 0; same && i < classes; i++)
        same = fabsf(alone[i] - seen[i]) <= 1e-3f * (1 + fabsf(alone[i]));
    free(alone);
    return same;
}

typedef struct measuring {
    const sp_device_target *target;
    sp_model *model;
    int64_t begun_ns, until_ns;
    sp_device_plan plan;
    sp_device_sessions sessions;
} measuring;

/* The wide session with and without spinning; the faster one stays open. A batch of one. */
static sp_status measure_alone(measuring *m, sp_error *reterr)
{
    for (int spin = 0; spin <= (m->plan.cpus > 1); spin++) {
        sp_classifier *wide = NULL;
        timing t;
        if (spin && sp_clock_now_ns() > m->begun_ns + MEASURE_SPIN_NS)
            break;
        sp_status s = open_wide(m->target, m->model, m->plan.cpus, spin, SP_LIMIT_BATCH, &wide, reterr);
        if (!s)
            s = measure(wide, 1, false, 1, &t, reterr);
        if (s) {
            sp_classify_close(wide);
            return s;
        }
        if (!m->sessions.wide || (double)m->plan.alone_p50_ns > (double)t.p50_ns * GAIN_MIN) {
            sp_classify_close(m->sessions.wide);
            m->sessions.wide = wide;
            m->plan.wide_threads = m->plan.cpus;
            m->plan.wide_spin = spin;
            m->plan.alone_p50_ns = t.p50_ns;
            m->plan.alone_p99_ns = t.worst_ns;
            m->plan.loaded_item_ns = t.item_ns;
            m->plan.loaded_run_ns = t.p50_ns;
        } else {
            sp_classify_close(wide);
        }
    }
    return SP_OK;
}

/* Larger and larger batches as long as each is worth it. */
static sp_status measure_batches(measuring *m, sp_classifier *c, int lanes, int first, sp_error *reterr)
{
    double best = INFINITY;
    int most = SP_MIN(sp_classify_max_batch(c), strcmp(m->target->provider, "cpu") == 0 ? BATCH_MAX_CPU : SP_LIMIT_BATCH);
    /* Lanes with a batch of one are tried however late it is: without them the choice would be no choice. */
    for (int batch = first; batch <= most && (batch == 1 || sp_clock_now_ns() < m->until_ns); batch *= 2) {
        timing t;
        sp_status s = measure(c, lanes, c == m->sessions.narrow, batch, &t, reterr);
        if (s == SP_NOMEM && batch > 1)
            return SP_OK; /* that many do not fit; fewer did */
        if (s)
            return s;
        if (best < (double)t.item_ns * GAIN_MIN && batch > first)
            return SP_OK;
        best = SP_MIN(best, (double)t.item_ns);
        if ((double)m->plan.loaded_item_ns > (double)t.item_ns * GAIN_MIN) {
            m->plan.lanes = c == m->sessions.narrow ? lanes : 0;
            m->plan.batch = batch;
            m->plan.loaded_item_ns = t.item_ns;
            m->plan.loaded_run_ns = t.p50_ns;
        }
        if (lanes > 1 && batch == 1 && t.p50_ns > MEASURE_TOTAL_NS / 8)
            return SP_OK; /* a slow model: batches of it would eat the time for everything else */
    }
    return SP_OK;
}

/* On the host, and on a device whose provider copies by itself. */
static sp_status measure_sessions(measuring *m, int cpus, sp_error *reterr)
{
    bool host = strcmp(m->target->provider, "cpu") == 0;
    if (!host)
        m->plan.cpus = 1; /* a device's own cores do the work */
    sp_status s = measure_alone(m, reterr);
    if (!s && sp_classify_max_batch(m->sessions.wide) > 1 && !is_independent(m->sessions.wide))
        m->model->max_batch = 1;
    int lanes = SP_MIN(cpus, SP_LIMIT_EXECUTORS);
    if (!s && host && lanes > 1) {
        s = open_narrow(m->target, m->model, lanes, BATCH_MAX_CPU, &m->sessions.narrow, reterr);
        timing one;
        if (!s)
            s = measure(m->sessions.narrow, 1, true, 1, &one, reterr);
        if (!s) {
            m->plan.one_p50_ns = one.p50_ns;
            s = measure_batches(m, m->sessions.narrow, lanes, 1, reterr);
        }
    }
    if (!s && m->model->max_batch > 1)
        s = measure_batches(m, m->sessions.wide, 1, 2, reterr);
    return s;
}

static sp_status time_run(sp_classifier *c, int count, int64_t *ret_ns, sp_error *reterr)
{
    sp_status s = SP_OK;
    *ret_ns = 0;
    for (int turn = 0; turn < 2 && !s; turn++) { /* the first one warms */
        int64_t begun_ns = sp_clock_now_ns();
        s = sp_classify_run_items(c, 0, 0, count, 1, reterr);
        int64_t took_ns = sp_clock_now_ns() - begun_ns;
        *ret_ns = SP_MAX(took_ns, 1);
    }
    return s;
}

/* On the stand-in for a device a batch's time says nothing: the largest is taken. */
static sp_status time_stand_in(measuring *m, sp_error *reterr)
{
    sp_classifier *c = m->sessions.narrow;
    if (sp_classify_max_batch(c) > 1 && !is_independent(c))
        m->model->max_batch = 1;
    m->plan.batch = SP_CLAMP(m->target->most_batch, 1, SP_MIN(sp_classify_max_batch(c), m->model->max_batch));
    sp_status s = fill_inputs(c, 0, m->plan.batch, NULL, reterr);
    if (!s)
        s = time_run(c, 1, &m->plan.alone_p50_ns, reterr);
    if (!s)
        s = time_run(c, m->plan.batch, &m->plan.loaded_run_ns, reterr);
    m->plan.alone_p99_ns = m->plan.alone_p50_ns;
    m->plan.loaded_item_ns = SP_MAX(m->plan.loaded_run_ns / m->plan.batch, 1);
    return s;
}

/* On a device that has the lanes: how large a batch is worth it. One lane computes at a time, so one is timed. */
static sp_status measure_device(measuring *m, sp_error *reterr)
{
    m->plan.wide_threads = 1;
    m->plan.lanes = SP_DEVICE_LANES;
    int most = m->target->most_batch ? m->target->most_batch : SP_LIMIT_BATCH;
    sp_status s = open_narrow(m->target, m->model, 1, most, &m->sessions.narrow, reterr);
    if (!s && m->target->most_batch)
        return time_stand_in(m, reterr);
    for (int batch = 1; !s && (batch == 1 || sp_clock_now_ns() < m->until_ns); batch *= 2) {
        timing t;
        s = measure(m->sessions.narrow, 1, false, batch, &t, reterr);
        if (s == SP_NOMEM && batch > 1)
            return SP_OK; /* that many do not fit; fewer did */
        if (s)
            return s;
        if (batch == 1) {
            m->plan.alone_p50_ns = t.p50_ns;
            m->plan.alone_p99_ns = t.worst_ns;
            if (sp_classify_max_batch(m->sessions.narrow) > 1 && !is_independent(m->sessions.narrow))
                m->model->max_batch = 1;
        }
        if (batch == 1 || (double)m->plan.loaded_item_ns > (double)t.item_ns * GAIN_MIN) {
            m->plan.batch = batch;
            m->plan.loaded_item_ns = t.item_ns;
            m->plan.loaded_run_ns = t.p50_ns;
        }
        if (2 * batch > SP_MIN(sp_classify_max_batch(m->sessions.narrow), m->model->max_batch))
            break;
    }
    return s;
}

sp_status sp_device_plan_measure(const sp_device_target *target, sp_model *model, int cpus, sp_device_plan *ret_plan,
                                 sp_error *reterr)
{
    int64_t begun_ns = sp_clock_now_ns();
    measuring m = { .target = target,
                    .model = model,
                    .begun_ns = begun_ns,
                    .until_ns = begun_ns + MEASURE_TOTAL_NS,
                    .plan = { .cpus = cpus, .batch = 1 } };
    sp_status s = target->cuda ? measure_device(&m, reterr) : measure_sessions(&m, cpus, reterr);
    sp_device_sessions_close(&m.sessions); /* they have grown by batches that will not be used */
    if (s)
        return s;
    m.plan.cpus = cpus;
    m.plan.measured_ns = sp_clock_now_ns() - begun_ns;
    *ret_plan = m.plan;
    return SP_OK;
}

sp_status sp_device_plan_simulated(const sp_device_target *target, sp_model *model, int cpus, int batch, sp_device_plan *ret_plan,
                                   sp_error *reterr)
{
    sp_device_plan plan = { .cpus = cpus, .wide_threads = cpus };
    int64_t begun_ns = sp_clock_now_ns();
    sp_classifier *wide = NULL;
    sp_status s = open_wide(target, model, cpus, false, batch, &wide, reterr);
    if (s)
        return s;
    if (sp_classify_max_batch(wide) > 1 && !is_independent(wide))
        model->max_batch = 1;
    plan.batch = SP_CLAMP(batch, 1, SP_MIN(sp_classify_max_batch(wide), model->max_batch));
    s = time_run(wide, 1, &plan.alone_p50_ns, reterr);
    if (!s)
        s = time_run(wide, plan.batch, &plan.loaded_run_ns, reterr);
    sp_classify_close(wide);
    plan.alone_p99_ns = plan.alone_p50_ns;
    plan.loaded_item_ns = SP_MAX(plan.loaded_run_ns / plan.batch, 1);
    plan.measured_ns = sp_clock_now_ns() - begun_ns;
    if (!s)
        *ret_plan = plan;
    return s;
}
