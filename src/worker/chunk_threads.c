/* SPDX-License-Identifier: Apache-2.0
 * Who computes the blocks of a chunk: threads, each with an analyzer. They live as long as a chunk does; starting one costs less
 * than a frame's edges. */
#include "worker/chunk_internal.h"

#include "base/clock.h"
#include "worker/mxcsr.h"
#include "worker/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct seat { /* one thread's place in here */
    sp_chunk_threads *threads;
    int index;
} seat;

/* --- one block ---------------------------------------------------------------------------------------------------- */

static sp_status analyse(sp_chunk_threads *threads, int index, sp_block *block, int first, int count, sp_error *reterr)
{
    sp_sim_run run;
    bool has_next = first + count < block->count || block->has_next;
    if (threads->cuda)
        return sp_analyze_cuda_run(threads->devices[index], block->grey + first, threads->width, block->pinned, block->frames + first, count,
                                   has_next, block->records + first, reterr);
    sp_status s = threads->sim ? sp_sim_begin(threads->sim, count, &run, reterr) : SP_OK;
    if (s)
        return s;
    sp_analyzer_run(threads->analyzers[index], block->grey + first, threads->width, block->frames + first, count, has_next, block->records + first);
    if (threads->sim)
        sp_sim_end(threads->sim, &run);
    return SP_OK;
}

/* When the device has no room for a block, its frames are tried one at a time. */
static void compute(sp_chunk_threads *threads, int index, sp_block *block)
{
    int64_t begun_ns = sp_clock_now_ns();
    block->status = analyse(threads, index, block, 0, block->count, &block->error);
    if (block->status == SP_NOMEM && block->count > 1) {
        block->status = SP_OK;
        for (int i = 0; i < block->count && !block->status; i++)
            block->status = analyse(threads, index, block, i, 1, &block->error);
    }
    block->took_ns = sp_clock_now_ns() - begun_ns;
}

/* --- threads ------------------------------------------------------------------------------------------------------ */

static sp_block *wait_for_block(sp_chunk_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    while (!threads->todo && !threads->closing)
        pthread_cond_wait(&threads->changed, &threads->lock);
    sp_block *block = threads->todo;
    if (block) {
        threads->todo = block->next;
        if (!threads->todo)
            threads->todo_end = &threads->todo;
        block->next = NULL;
        threads->busy++;
    }
    pthread_mutex_unlock(&threads->lock);
    return block;
}

static void put_done(sp_chunk_threads *threads, sp_block *block)
{
    pthread_mutex_lock(&threads->lock);
    *threads->done_end = block;
    threads->done_end = &block->next;
    threads->busy--;
    pthread_mutex_unlock(&threads->lock);
    sp_ring_bell(threads->bell_fd);
}

static void begin(sp_chunk_threads *threads, int index)
{
    if (threads->cuda)
        sp_analyze_cuda_begin(threads->devices[index]);
    else
        sp_analyzer_begin(threads->analyzers[index]);
}

static void *thread_main(void *argument)
{
    seat *self = argument;
    sp_chunk_threads *threads = self->threads;
    int index = self->index;
    uint32_t reading = 0; /* none: what the analyzer holds is of the chunk before, perhaps of another file */
    sp_error began = { 0 };
    sp_status ready = threads->cuda ? sp_analyze_cuda_thread(threads->devices[index], &began) : SP_OK;
    free(self);
    (void)prctl(PR_SET_NAME, "analyze");
    sp_mxcsr_repair(threads->mxcsr_repaired); /* a thread begins with the state of the one that started it */
    for (sp_block *block = wait_for_block(threads); block; block = wait_for_block(threads)) {
        if (block->reading != reading)
            begin(threads, index);
        reading = block->reading;
        block->status = ready;
        block->error = began;
        if (!ready)
            compute(threads, index, block);
        put_done(threads, block);
    }
    return NULL;
}

sp_status sp_chunk_threads_open(sp_chunk_threads *threads, sp_error *reterr)
{
    threads->todo_end = &threads->todo;
    threads->done_end = &threads->done;
    threads->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (threads->bell_fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "eventfd");
    (void)pthread_mutex_init(&threads->lock, NULL); /* without attributes they cannot fail */
    (void)pthread_cond_init(&threads->changed, NULL);
    threads->mxcsr_repaired = sp_metric_get(SP_METRIC_COUNTER, "spillway_mxcsr_repaired_total", "",
                                            "Times an engine left denormals flushed on the thread that called it");
    return SP_OK;
}

void sp_chunk_threads_close(sp_chunk_threads *threads)
{
    if (threads->bell_fd < 0)
        return;
    sp_chunk_threads_stop(threads);
    sp_chunk_threads_strip(threads);
    (void)pthread_mutex_destroy(&threads->lock);
    (void)pthread_cond_destroy(&threads->changed);
    sp_fd_closep(&threads->bell_fd);
}

void sp_chunk_threads_strip(sp_chunk_threads *threads)
{
    for (int i = 0; i < threads->count; i++) {
        sp_analyzer_free(SP_STEAL(threads->analyzers[i]));
        sp_analyze_cuda_free(SP_STEAL(threads->devices[i]));
    }
    sp_analyze_plan_free(SP_STEAL(threads->plan));
    threads->count = 0;
}

sp_status sp_chunk_threads_equip(sp_chunk_threads *threads, const sp_analyze_params *params, int w, int h, int count, sp_error *reterr)
{
    sp_chunk_threads_strip(threads);
    threads->width = (size_t)w;
    sp_status s = sp_analyze_plan_new(params, w, h, &threads->plan, reterr);
    for (int i = 0; !s && i < SP_MIN(count, SP_LIMIT_CHUNK_THREADS); i++) {
        s = threads->cuda ? sp_analyze_cuda_new(threads->cuda_api, threads->cuda, threads->plan, SP_BLOCK_FRAMES + 1, &threads->devices[i], reterr)
                          : sp_analyzer_new(threads->plan, &threads->analyzers[i], reterr);
        if (!s)
            threads->count++;
        else if (s == SP_NOMEM && i)
            return SP_OK; /* fewer threads do it too */
    }
    if (s)
        sp_chunk_threads_strip(threads);
    return s;
}

sp_status sp_chunk_threads_start(sp_chunk_threads *threads, sp_error *reterr)
{
    SP_ASSERT(!threads->running && !threads->todo && !threads->done && threads->count);
    uint64_t rings;
    (void)!read(threads->bell_fd, &rings, sizeof(rings)); /* of the chunk before */
    threads->closing = false;
    for (int i = 0; i < threads->count; i++) {
        seat *one = malloc(sizeof(*one));
        int code = one ? 0 : ENOMEM;
        if (one) {
            *one = (seat){ threads, i };
            code = pthread_create(&threads->threads[i], NULL, thread_main, one);
        }
        if (code) {
            free(one);
            if (i)
                return SP_OK;
            return SP_FAIL_FROM(reterr, SP_NOMEM, "pthread", code, "no thread to analyse with");
        }
        threads->running++;
    }
    return SP_OK;
}

void sp_chunk_threads_stop(sp_chunk_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    *threads->done_end = threads->todo; /* as they are: they have done nothing */
    if (threads->todo)
        threads->done_end = threads->todo_end;
    threads->todo = NULL;
    threads->todo_end = &threads->todo;
    threads->closing = true;
    pthread_cond_broadcast(&threads->changed);
    pthread_mutex_unlock(&threads->lock);
    for (int i = 0; i < threads->running; i++)
        (void)pthread_join(threads->threads[i], NULL);
    threads->running = 0;
}

void sp_chunk_threads_give(sp_chunk_threads *threads, sp_block *block)
{
    block->next = NULL;
    pthread_mutex_lock(&threads->lock);
    *threads->todo_end = block;
    threads->todo_end = &block->next;
    pthread_cond_signal(&threads->changed);
    pthread_mutex_unlock(&threads->lock);
}

sp_block *sp_chunk_threads_take_done(sp_chunk_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    sp_block *first = threads->done;
    threads->done = NULL;
    threads->done_end = &threads->done;
    pthread_mutex_unlock(&threads->lock);
    return first;
}

void sp_chunk_threads_timing(const sp_chunk_threads *threads, sp_analyze_timing *ret_timing)
{
    sp_analyze_timing all = { 0 };
    for (int i = 0; i < threads->count; i++) {
        sp_analyze_timing one;
        if (threads->cuda)
            sp_analyze_cuda_timing(threads->devices[i], &one);
        else
            sp_analyzer_timing(threads->analyzers[i], &one);
        all.flow_ns += one.flow_ns;
        all.edges_ns += one.edges_ns;
        all.morphology_ns += one.morphology_ns;
        all.measures_ns += one.measures_ns;
    }
    *ret_timing = all;
}
