/* SPDX-License-Identifier: Apache-2.0
 * SIGHUP: the configuration is read again on a short-lived thread (a file of a thousand tokens takes milliseconds, which
 * the loop has not got) and swapped in by the loop, between two callbacks. Requests that are open keep the snapshot they
 * began with. A file with mistakes changes nothing; all of them are logged. */
#include "gateway/server.h"

#include "base/event.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct gw_reload {
    gw_server *server;
    sp_watch done; /* an eventfd: the thread has ended */
    bool running, again;
    /* The thread's until `done`: */
    sp_config *config;
    sp_complaints complaints;
    sp_status status;
    sp_error error;
};

static void *reload_run(void *context)
{
    gw_reload *reload = context;
    const sp_gateway_config *config = reload->server->config;
    const uint64_t one = 1;

    reload->status = sp_config_load_over(config->config_path, config->overrides, config->override_count,
                                         &reload->config, &reload->complaints, &reload->error);
    while (write(reload->done.fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    return NULL;
}

/* One line of the log for each complaint. Cuts the lines apart in place. */
static void log_complaints(sp_complaints *complaints, sp_log_level level)
{
    sp_buf_append(&complaints->text, "", 1);
    if (!sp_buf_ok(&complaints->text))
        return;
    for (char *line = (char *)complaints->text.data, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        sp_log(level, "configuration", SP_LOG_TEXT("complaint", line));
    }
}

static void refuse(gw_reload *reload)
{
    log_complaints(&reload->complaints, SP_LOG_ERROR);
    if (!reload->complaints.count)
        sp_log_error("configuration", NULL, &reload->error);
    sp_log(SP_LOG_ERROR, "configuration not taken over, the old one stays",
           SP_LOG_TEXT("file", reload->server->config->config_path), SP_LOG_INT("errors", reload->complaints.count));
    sp_event_emit("config.refused", "config", "", "{\"errors\":%d}", reload->complaints.count);
}

static void take_over(gw_reload *reload)
{
    gw_server *server = reload->server;
    sp_config *old = server->snapshot;
    sp_log_level level;
    char restart[256];

    log_complaints(&reload->complaints, SP_LOG_WARN);
    sp_config_restart_keys(old, reload->config, restart, sizeof(restart));
    if (*restart)
        sp_log(SP_LOG_WARN, "these keys have changed, which a restart alone can follow", SP_LOG_TEXT("keys", restart));
    if (sp_log_level_parse(reload->config->log_level, &level))
        sp_log_set_level(level);
    server->snapshot = SP_STEAL(reload->config);
    sp_house_reload(server->house, server->snapshot);
    sp_log(SP_LOG_INFO, "configuration reloaded", SP_LOG_TEXT("file", server->config->config_path),
           SP_LOG_INT("serial", server->snapshot->serial), SP_LOG_INT("chains", server->snapshot->chain_count),
           SP_LOG_INT("remotes", server->snapshot->remote_count), SP_LOG_INT("tokens", server->snapshot->token_count));
    sp_config_unref(old);
    gw_stories_reload(server);
}

static void reload_start(gw_reload *reload)
{
    pthread_attr_t attributes;
    pthread_t thread;

    reload->again = false;
    sp_complaints_init(&reload->complaints);
    reload->error = (sp_error){ 0 };
    /* Nobody joins it: its last act is the eventfd, and waiting for what a thread does after that took the loop 60 us. */
    int failure = pthread_attr_init(&attributes);
    if (!failure)
        failure = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (!failure)
        failure = pthread_create(&thread, &attributes, reload_run, reload);
    (void)pthread_attr_destroy(&attributes);
    reload->running = !failure;
    if (failure) {
        sp_complaints_done(&reload->complaints);
        sp_log(SP_LOG_ERROR, "configuration not read again: no thread", SP_LOG_TEXT("reason", strerror(failure)));
    }
}

/* False: it goes on. After true the thread touches nothing any more. */
static bool reload_has_ended(gw_reload *reload)
{
    uint64_t count;

    if (!reload->running || read(reload->done.fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return false;
    reload->running = false;
    return true;
}

static void reload_done(sp_watch *watch, uint32_t epoll_events, void *context)
{
    gw_reload *reload = context;

    (void)watch;
    (void)epoll_events;
    if (!reload_has_ended(reload))
        return;
    if (reload->status)
        refuse(reload);
    else
        take_over(reload);
    sp_complaints_done(&reload->complaints);
    if (reload->again)
        reload_start(reload);
}

void gw_reload_begin(gw_server *server)
{
    gw_reload *reload = server->reload;

    if (!server->config->config_path)
        sp_log(SP_LOG_INFO, "nothing to read again: the server was started without a configuration file");
    else if (reload->running)
        reload->again = true; /* the file may have changed since the thread read it */
    else
        reload_start(reload);
}

sp_status gw_reload_open(gw_server *server, sp_error *reterr)
{
    gw_reload *reload = server->reload = calloc(1, sizeof(*reload));

    if (!reload)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to watch the configuration");
    reload->server = server;
    reload->done = (sp_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = reload_done, .context = reload };
    if (reload->done.fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_UNAVAILABLE, "eventfd");
    return sp_loop_watch(server->loop, &reload->done, EPOLLIN, reterr);
}

void gw_reload_close(gw_server *server)
{
    gw_reload *reload = server->reload;

    if (!reload)
        return;
    struct pollfd done = { .fd = reload->done.fd, .events = POLLIN };
    if (reload->running) {
        while (!reload_has_ended(reload))
            (void)poll(&done, 1, 1000); /* it reads a file and ends; a signal only brings us here again */
        sp_complaints_done(&reload->complaints);
    }
    sp_config_unref(reload->config);
    sp_loop_unwatch(server->loop, &reload->done);
    sp_fd_closep(&reload->done.fd);
    free(reload);
    server->reload = NULL;
}
