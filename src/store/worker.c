/* SPDX-License-Identifier: Apache-2.0
 * A store thread: one mutex, two lists (to do, done), one condition variable towards the thread, one eventfd back. */
#include "store/worker.h"

#include "base/fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Works that share one `group` call. More would let the first of them wait longer than the disk itself takes. */
#define GROUP_WORKS 256

/* `done`s called in one turn of the loop, so that a burst of completions holds it for microseconds only. */
#define DONES_PER_TURN 16

typedef struct work_list {
    sp_store_work *head, **tail;
} work_list;

struct sp_store_thread {
    sp_loop *loop;
    sp_status (*group)(void *context, sp_error *reterr);
    void *context;
    int queue_limit;
    pthread_t thread;
    sp_watch bell;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t news;
    work_list todo, done;
    int depth; /* queued or running */
    bool stopping;
};

static void list_clear(work_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void list_append(work_list *list, sp_store_work *work)
{
    work->next = NULL;
    *list->tail = work;
    list->tail = &work->next;
}

static sp_store_work *list_pop(work_list *list)
{
    sp_store_work *work = list->head;
    if (!work)
        return NULL;
    list->head = work->next;
    if (!list->head)
        list->tail = &list->head;
    return work;
}

static void ring(sp_store_thread *thread)
{
    uint64_t one = 1;
    ssize_t n = write(thread->bell.fd, &one, sizeof(one));
    (void)n; /* a full counter rings as well */
}

/* Waits for work; takes up to GROUP_WORKS of it. False = stopping and nothing is left. */
static bool take_group(sp_store_thread *thread, work_list *ret_group)
{
    list_clear(ret_group);
    (void)pthread_mutex_lock(&thread->mutex);
    while (!thread->todo.head && !thread->stopping)
        (void)pthread_cond_wait(&thread->news, &thread->mutex);
    for (int i = 0; i < GROUP_WORKS; i++) {
        sp_store_work *work = list_pop(&thread->todo);
        if (!work)
            break;
        list_append(ret_group, work);
    }
    (void)pthread_mutex_unlock(&thread->mutex);
    return ret_group->head != NULL;
}

static void run_group(sp_store_thread *thread, work_list *group)
{
    for (sp_store_work *work = group->head; work; work = work->next)
        work->run(work);
    sp_error err = { 0 };
    sp_status s = thread->group ? thread->group(thread->context, &err) : SP_OK;
    for (sp_store_work *work = group->head; s && work; work = work->next) {
        if (work->status == SP_OK) {
            work->status = s;
            work->error = err;
        }
    }
}

static void *thread_main(void *context)
{
    sp_store_thread *thread = context;
    work_list group;

    while (take_group(thread, &group)) {
        run_group(thread, &group);
        (void)pthread_mutex_lock(&thread->mutex);
        for (sp_store_work *work; (work = list_pop(&group));) {
            list_append(&thread->done, work);
            thread->depth--;
        }
        (void)pthread_mutex_unlock(&thread->mutex);
        ring(thread);
    }
    return NULL;
}

/* Calls up to `most` dones; true when more wait. */
static bool call_dones(sp_store_thread *thread, int most)
{
    for (int i = 0; i < most; i++) {
        (void)pthread_mutex_lock(&thread->mutex);
        sp_store_work *work = list_pop(&thread->done);
        (void)pthread_mutex_unlock(&thread->mutex);
        if (!work)
            return false;
        work->done(work);
    }
    (void)pthread_mutex_lock(&thread->mutex);
    bool more = thread->done.head != NULL;
    (void)pthread_mutex_unlock(&thread->mutex);
    return more;
}

static void on_bell(sp_watch *watch, uint32_t epoll_events, void *context)
{
    sp_store_thread *thread = context;
    uint64_t rings;
    ssize_t n = read(watch->fd, &rings, sizeof(rings));
    (void)n; /* EAGAIN: rung before and answered already */
    if (call_dones(thread, DONES_PER_TURN))
        ring(thread);
}

/* Signals are the loop's: the new thread inherits a mask with all of them blocked. */
static sp_status start(sp_store_thread *thread, const char *name, sp_error *reterr)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = pthread_create(&thread->thread, NULL, thread_main, thread);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e)
        return SP_FAIL_FROM(reterr, SP_NOMEM, "pthread", e, "no thread for the store %s", name);
    char short_name[16]; /* the kernel's limit */
    (void)snprintf(short_name, sizeof(short_name), "%s", name);
    (void)pthread_setname_np(thread->thread, short_name);
    return SP_OK;
}

sp_status sp_store_thread_new(sp_loop *loop, const char *name, int queue_limit,
                              sp_status (*group)(void *context, sp_error *reterr), void *context,
                              sp_store_thread **ret_thread, sp_error *reterr)
{
    sp_store_thread *thread = calloc(1, sizeof(*thread));
    if (!thread)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the store thread %s", name);
    thread->loop = loop;
    thread->group = group;
    thread->context = context;
    thread->queue_limit = queue_limit;
    list_clear(&thread->todo);
    list_clear(&thread->done);
    (void)pthread_mutex_init(&thread->mutex, NULL);
    (void)pthread_cond_init(&thread->news, NULL);
    thread->bell = (sp_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_bell, .context = thread };
    sp_status s = SP_OK;
    if (thread->bell.fd < 0)
        s = SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "eventfd", errno, "no eventfd for the store thread %s", name);
    if (!s)
        s = sp_loop_watch(loop, &thread->bell, EPOLLIN, reterr);
    if (!s)
        s = start(thread, name, reterr);
    if (s) {
        sp_loop_unwatch(loop, &thread->bell);
        sp_fd_closep(&thread->bell.fd);
        (void)pthread_cond_destroy(&thread->news);
        (void)pthread_mutex_destroy(&thread->mutex);
        free(thread);
        return s;
    }
    *ret_thread = thread;
    return SP_OK;
}

void sp_store_thread_free(sp_store_thread *thread)
{
    if (!thread)
        return;
    (void)pthread_mutex_lock(&thread->mutex);
    thread->stopping = true;
    (void)pthread_cond_signal(&thread->news);
    (void)pthread_mutex_unlock(&thread->mutex);
    (void)pthread_join(thread->thread, NULL);
    while (call_dones(thread, DONES_PER_TURN)) { }
    sp_loop_unwatch(thread->loop, &thread->bell);
    sp_fd_closep(&thread->bell.fd);
    (void)pthread_cond_destroy(&thread->news);
    (void)pthread_mutex_destroy(&thread->mutex);
    free(thread);
}

sp_status sp_store_submit(sp_store_thread *thread, sp_store_work *work, sp_error *reterr)
{
    sp_status s = SP_OK;
    work->status = SP_OK;
    work->error = (sp_error){ 0 };
    (void)pthread_mutex_lock(&thread->mutex);
    if (thread->stopping) {
        s = SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "closing", "the store is being closed");
    } else if (thread->depth >= thread->queue_limit || SP_FAULT("store.queue") != SP_FAULT_NONE) {
        s = SP_FAIL_CODE(reterr, SP_BUSY, "store_queue_full", "%d works wait for the store already", thread->depth);
    } else {
        list_append(&thread->todo, work);
        thread->depth++;
        (void)pthread_cond_signal(&thread->news);
    }
    (void)pthread_mutex_unlock(&thread->mutex);
    return s;
}

void sp_store_submit_or_refuse(sp_store_thread *thread, sp_store_work *work)
{
    sp_error err = { 0 };
    sp_status s = sp_store_submit(thread, work, &err);
    if (!s)
        return;
    work->status = s;
    work->error = err;
    (void)pthread_mutex_lock(&thread->mutex);
    list_append(&thread->done, work);
    (void)pthread_mutex_unlock(&thread->mutex);
    ring(thread);
}

int sp_store_thread_depth(const sp_store_thread *thread)
{
    sp_store_thread *t = (sp_store_thread *)thread; /* the mutex is no part of what a reader sees */
    (void)pthread_mutex_lock(&t->mutex);
    int depth = t->depth;
    (void)pthread_mutex_unlock(&t->mutex);
    return depth;
}
