/* SPDX-License-Identifier: Apache-2.0
 * The kind that talks to the outside: fetches URLs, sends webhooks and uploads, asks remotes. Many leases at once on one
 * thread; libcurl is in libspillway_net.so. Nothing here decides who is asked or how often: that is the route's. */
#include "worker/net.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "kernels/kernels.h"
#include "provider/load.h"
#include "worker/kinds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_BYTES_MAX (4u * 1024 * 1024) /* the config room reads no larger file */

#ifdef SP_FAULTS
static bool curl_fault(void)
{
    return SP_FAULT("net.curl") != SP_FAULT_NONE;
}
#endif

/* --- the configuration ------------------------------------------------------------------------------------------ */

static char *read_all(int fd, size_t *ret_bytes)
{
    struct stat info;
    if (fstat(fd, &info) != 0 || info.st_size < 0 || info.st_size > CONFIG_BYTES_MAX)
        return NULL;
    size_t size = (size_t)info.st_size, done = 0;
    char *text = malloc(size + 1);
    while (text && done < size) {
        ssize_t n = pread(fd, text + done, size - done, (off_t)done);
        if (n <= 0) {
            free(text);
            return NULL;
        }
        done += (size_t)n;
    }
    if (text)
        text[size] = 0;
    *ret_bytes = size;
    return text;
}

static void take_config(void *state, uint32_t serial, int fd)
{
    net *self = state;
    sp_error err = { 0 };
    sp_config *config = NULL;
    size_t bytes = 0;
    char *text = read_all(fd, &bytes);
    /* Our environment says nothing here: the gateway has worked it in, below its command line. */
    sp_status s = text ? sp_config_parse_effective(text, bytes, &config, &err)
                       : SP_FAIL(&err, SP_NOMEM, "the gateway's configuration cannot be read");
    if (s) {
        sp_log_error("a configuration is not usable; leases that count in it will fail", NULL, &err);
    } else {
        sp_config_unref(self->snapshots[NET_SNAPSHOTS - 1].config);
        memmove(self->snapshots + 1, self->snapshots, (NET_SNAPSHOTS - 1) * sizeof(self->snapshots[0]));
        self->snapshots[0] = (net_snapshot){ .serial = serial, .config = config };
    }
    free(text);
    sp_fd_closep(&fd);
}

sp_status net_config(const net *self, const sp_submission *submission, const sp_config **ret_config, sp_error *reterr)
{
    for (int i = 0; i < NET_SNAPSHOTS; i++) {
        if (self->snapshots[i].config && self->snapshots[i].serial == submission->config_serial) {
            *ret_config = self->snapshots[i].config;
            return SP_OK;
        }
    }
    return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "no_config", "snapshot %u of the configuration is not here",
                        submission->config_serial);
}

/* --- models ------------------------------------------------------------------------------------------------------ */

const sp_model *net_model_find(net *self, const char *name)
{
    if (!self->repository || !*name)
        return NULL;
    for (int i = 0; i < NET_MODELS; i++) {
        if (strcmp(self->models[i].name, name) == 0)
            return self->models[i].model;
    }
    net_model *place = &self->models[self->next_model++ % NET_MODELS];
    sp_error err = { 0 };
    sp_model_free(SP_STEAL(place->model));
    (void)snprintf(place->name, sizeof(place->name), "%s", name);
    sp_status s = sp_model_describe(self->repository, name, &place->model, &err);
    if (s && s != SP_NOT_FOUND)
        sp_log_error("a model's description is not usable; its remote answers go without labels", NULL, &err);
    return place->model;
}

/* The model that requests mean which name none: the house's. */
static sp_status find_default_model(net *self, const sp_worker_config *config)
{
    self->repository = config->model_repository;
    self->default_model = config->model;
    sp_model *first = NULL;
    sp_error err = { 0 };
    if (self->repository && !self->default_model && sp_model_describe(self->repository, NULL, &first, &err) == SP_OK) {
        self->default_model = strdup(first->name);
        self->models[0].model = first;
        (void)snprintf(self->models[0].name, sizeof(self->models[0].name), "%s", first->name);
        self->next_model = 1;
        return self->default_model ? SP_OK : SP_NOMEM;
    }
    return SP_OK;
}

/* --- jobs ------------------------------------------------------------------------------------------------------- */

void net_job_finish(net_job *job)
{
    sp_work_item *item = job->item;
    SP_ASSERT(!job->call);
    if (!item->done.inference_ns) /* a remote may have said what it took there */
        item->done.inference_ns = item->done.batch_run_ns = sp_clock_now_ns() - job->begun_ns;
    item->own = NULL;
    sp_config_unref(job->config);
    sp_buf_done(&job->head);
    free(job->tensors);
    free(job->wishes);
    free(job->wish_names);
    explicit_bzero(job->key, sizeof(job->key));
    free(job);
    sp_worker_finish(item);
}

void net_job_fail(net_job *job, sp_status status)
{
    job->item->status = status;
    net_job_finish(job);
}

void net_job_ask(net_job *job, sp_http_request *request)
{
    request->context = job;
    request->deadline_ns = job->deadline_ns;
    job->item->status = job->net->api->start(job->net->transport, request, &job->call, &job->item->error);
    if (job->item->status)
        net_job_finish(job);
}

static void start(void *state, sp_work_item *item)
{
    net *self = state;
    net_job *job = calloc(1, sizeof(*job));
    if (!job) {
        item->status = SP_FAIL(&item->error, SP_NOMEM, "no memory for a lease");
        sp_worker_finish(item);
        return;
    }
    int64_t attempt_ns = item->submission->attempt_deadline_ns, request_ns = item->request->deadline_ns;
    *job = (net_job){ .net = self, .item = item, .begun_ns = sp_clock_now_ns() };
    job->deadline_ns = attempt_ns && attempt_ns < request_ns ? attempt_ns : request_ns;
    item->own = job;
    if (item->request->flags & SP_SLOT_LOCAL_ONLY) {
        /* The route sends no such request here; this is the last door, and it does not ask who else failed. */
        item->status = SP_FAIL_CODE(&item->error, SP_DENIED, "local_only", "this request may not leave the machine");
        net_job_finish(job);
    } else if (item->submission->op == SP_OP_FETCH) {
        net_fetch(job);
    } else if (item->submission->op == SP_OP_SEND) {
        net_send(job);
    } else if (item->submission->op == SP_OP_REMOTE) {
        net_remote(job);
    } else if (item->submission->op == SP_OP_LOAD || item->submission->op == SP_OP_UNLOAD) {
        net_load(job);
    } else {
        item->status = SP_FAIL(&item->error, SP_UNSUPPORTED, "the net worker cannot do operation %u", item->submission->op);
        net_job_finish(job);
    }
}

static void cancel(void *state, sp_work_item *item)
{
    net *self = state;
    net_job *job = item->own;
    if (job->call)
        self->api->cancel(self->transport, SP_STEAL(job->call));
    item->status = SP_FAIL(&item->error, SP_CANCELLED, "the request was withdrawn");
    net_job_finish(job);
}

static void drive(void *state, int wake_fd, int64_t wait_ns)
{
    net *self = state;
    self->api->drive(self->transport, wake_fd, wait_ns);
}

/* --- the kind --------------------------------------------------------------------------------------------------- */

static void net_close(void *state)
{
    net *self = state;
    if (!self)
        return;
    if (self->transport)
        self->api->close(self->transport);
    for (int i = 0; i < NET_SNAPSHOTS; i++)
        sp_config_unref(self->snapshots[i].config);
    for (int i = 0; i < NET_MODELS; i++)
        sp_model_free(self->models[i].model);
    net_infer_close(self);
    free(self);
}

static void fill_card(const net *self, sp_worker_card *card)
{
    (void)snprintf(card->device, sizeof(card->device), "net");
    (void)snprintf(card->precision, sizeof(card->precision), "none");
    (void)snprintf(card->engine, sizeof(card->engine), "net");
    (void)snprintf(card->sandbox, sizeof(card->sandbox), "none");
    (void)snprintf(card->detail, sizeof(card->detail), "%s", self->api->versions());
    card->executors = SP_LIMIT_SLOTS / SP_LIMIT_BATCH; /* marks for all leases; it is one thread */
    card->max_batch = 1;
    card->window = SP_LIMIT_SLOTS;
}

static sp_status net_open(const sp_worker_config *config, sp_worker_card *card, void **ret_state, sp_error *reterr)
{
    sp_net_options options = { 0 };
    net *self = calloc(1, sizeof(*self));
    if (!self)
        return SP_FAIL(reterr, SP_NOMEM, "no memory for the net worker");
#ifdef SP_FAULTS
    options.fault = curl_fault;
#endif
    sp_kernels_init();
    sp_status s = find_default_model(self, config);
    if (!s)
        s = sp_net_load(&self->api, reterr);
    if (!s)
        s = self->api->open(&options, &self->transport, reterr);
    if (s) {
        net_close(self);
        return s;
    }
    fill_card(self, card);
    *ret_state = self;
    return SP_OK;
}

static const sp_worker_async asynchronous = { .start = start, .cancel = cancel, .drive = drive, .config = take_config };

const sp_worker_kind sp_worker_kind_net = { .name = "net", .async = &asynchronous, .open = net_open, .close = net_close };
