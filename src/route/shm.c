/* SPDX-License-Identifier: Apache-2.0
 * The shared memory of the house and of one worker incarnation: made, sealed, mapped. */
#include "route/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

sp_status sp_shm_reopen_read_only(int fd, int *ret_fd, sp_error *reterr)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int reopened = open(path, O_RDONLY | O_CLOEXEC);
    if (reopened < 0)
        return SP_FAIL_ERRNO(reterr, SP_INTERNAL, "reopening shared memory read-only");
    *ret_fd = reopened;
    return SP_OK;
}

static sp_status make(const char *name, size_t size_bytes, int seals, int *ret_fd, uint8_t **ret_memory, sp_error *reterr)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "memfd_create");
    void *memory = MAP_FAILED;
    if (ftruncate(fd, (off_t)size_bytes) == 0)
        memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    /* Our writable mapping is older than the seal and stays; nobody can make another. */
    if (memory == MAP_FAILED || fcntl(fd, F_ADD_SEALS, seals) < 0) {
        sp_status s = SP_FAIL_ERRNO(reterr, SP_NOMEM, "%zu bytes of shared memory", size_bytes);
        if (memory != MAP_FAILED)
            (void)munmap(memory, size_bytes);
        sp_fd_closep(&fd);
        return s;
    }
    *ret_fd = fd;
    *ret_memory = memory;
    return SP_OK;
}

sp_status sp_shm_house_make(sp_house *house, sp_error *reterr)
{
    sp_status s = make("spillway-requests", SP_REQUEST_MEMFD_BYTES,
                       F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL, &house->request_memfd,
                       &house->memory, reterr);
    if (s)
        return s;
    house->page = (sp_house_page *)(void *)house->memory;
    house->page->abi = SP_SLOT_ABI;
    house->page->slot_count = SP_LIMIT_SLOTS;
    return sp_shm_reopen_read_only(house->request_memfd, &house->request_memfd_read, reterr);
}

void sp_shm_house_free(sp_house *house)
{
    if (house->memory)
        (void)munmap(house->memory, SP_REQUEST_MEMFD_BYTES);
    house->memory = NULL;
    sp_fd_closep(&house->request_memfd);
    sp_fd_closep(&house->request_memfd_read);
}

struct sp_answer_memory {
    int references;
    void *mapping; /* SP_WORKER_MEMFD_BYTES */
};

sp_answer_memory *sp_answer_memory_ref(sp_answer_memory *memory)
{
    if (memory)
        memory->references++;
    return memory;
}

void sp_answer_memory_unref(sp_answer_memory *memory)
{
    if (!memory || --memory->references)
        return;
    (void)munmap(memory->mapping, SP_WORKER_MEMFD_BYTES);
    free(memory);
}

sp_status sp_shm_worker_make(sp_worker *worker, sp_error *reterr)
{
    uint8_t *memory = NULL;
    sp_answer_memory *shared = calloc(1, sizeof(*shared));
    if (!shared)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a worker's memory");
    sp_status s = make("spillway-worker", SP_WORKER_MEMFD_BYTES, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, &worker->memfd,
                       &memory, reterr);
    if (s) {
        free(shared);
        return s;
    }
    *shared = (sp_answer_memory){ .references = 1, .mapping = memory };
    worker->memory = shared;
    worker->page = (sp_worker_page *)(void *)memory;
    worker->page->abi = SP_SLOT_ABI;
    worker->answers = memory + SP_WORKER_MEMFD_ANSWERS_OFFSET;
    worker->submission_tail = worker->completion_head = 0;
    worker->submit_fd = eventfd(0, EFD_CLOEXEC); /* blocking: the worker sleeps in read() */
    worker->complete_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->submit_fd < 0 || worker->complete_fd < 0) {
        s = SP_FAIL_ERRNO(reterr, SP_NOMEM, "eventfd");
        sp_shm_worker_free(worker);
    }
    return s;
}

void sp_shm_worker_free(sp_worker *worker)
{
    sp_answer_memory_unref(SP_STEAL(worker->memory)); /* an answer that is still being sent keeps it */
    worker->page = NULL;
    worker->answers = NULL;
    sp_fd_closep(&worker->memfd);
    sp_fd_closep(&worker->submit_fd);
    sp_fd_closep(&worker->complete_fd);
}
