/* SPDX-License-Identifier: Apache-2.0
 * What workers are told of the configuration: net workers get its text as a sealed memfd and the variables that hold its
 * secrets; all others get neither. */
#include "base/log.h"
#include "route/supervisor.h"
#include "worker/control.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern char **environ;

#define KEPT_BY_WORKER 4 /* snapshots that a net worker remembers */

/* --- the text ---------------------------------------------------------------------------------------------------- */

static sp_status make_memfd(const sp_config *config, int *ret_fd, sp_error *reterr)
{
    int fd = memfd_create("spillway-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "memfd_create for the configuration");
    for (size_t done = 0; done < config->text_bytes;) {
        ssize_t n = write(fd, config->text + done, config->text_bytes - done);
        if (n <= 0) {
            sp_status s = SP_FAIL_ERRNO(reterr, SP_NOMEM, "%zu bytes of configuration", config->text_bytes);
            sp_fd_closep(&fd);
            return s;
        }
        done += (size_t)n;
    }
    (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    (void)lseek(fd, 0, SEEK_SET);
    *ret_fd = fd;
    return SP_OK;
}

void sp_supervisor_send_config(sp_worker *worker, const sp_snapshot *snapshot)
{
    if (worker->role != SP_ROLE_NET || worker->control_fd < 0)
        return;
    sp_error err = { 0 };
    int fd = -1;
    sp_status s = make_memfd(snapshot->config, &fd, &err);
    sp_control word = { .kind = SP_CONTROL_CONFIG, .serial = snapshot->serial };
    if (!s)
        s = sp_control_send(worker->control_fd, &word, &fd, 1, &err);
    sp_fd_closep(&fd);
    if (s)
        sp_log_error("a net worker was not told of the configuration", NULL, &err);
}

/* Old ones first: requests that were opened under them may still come to it. */
void sp_supervisor_send_configs(sp_worker *worker)
{
    const sp_snapshot *newest[KEPT_BY_WORKER];
    int count = 0;
    for (const sp_snapshot *s = worker->house->snapshots; s && count < KEPT_BY_WORKER; s = s->next)
        newest[count++] = s;
    while (count)
        sp_supervisor_send_config(worker, newest[--count]);
}

/* --- the environment --------------------------------------------------------------------------------------------- */

static bool names_variable(const sp_secret *secret, const char *entry)
{
    size_t length = strlen(secret->env);
    return length && strncmp(entry, secret->env, length) == 0 && entry[length] == '=';
}

static bool is_secret(const sp_config *config, const char *entry)
{
    bool found = names_variable(&config->s3.access_key, entry) || names_variable(&config->s3.secret_key, entry) ||
                 names_variable(&config->jobs.webhook_secret, entry);
    for (int r = 0; r < config->remote_count && !found; r++) {
        for (int k = 0; k < config->remotes[r].key_count && !found; k++)
            found = names_variable(&config->remotes[r].keys[k].secret, entry);
    }
    return found;
}

char **sp_supervisor_environment(const sp_worker *worker)
{
    size_t count = 0, kept = 0;
    while (environ[count])
        count++;
    char **list = calloc(count + 1, sizeof(*list));
    for (size_t i = 0; list && i < count; i++) {
        bool hidden = false;
        for (const sp_snapshot *s = worker->house->snapshots; s && !hidden && worker->role != SP_ROLE_NET; s = s->next)
            hidden = is_secret(s->config, environ[i]);
        if (!hidden)
            list[kept++] = environ[i];
    }
    return list;
}
