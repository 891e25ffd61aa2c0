/* SPDX-License-Identifier: Apache-2.0
 * Birth, readiness and death of worker processes. A death is seen by pidfd, explained once, its leases handed back to
 * dispatch, and the next incarnation spawned at once (later and later only for one that dies before its first answer). */
#include "route/supervisor.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/machine.h"
#include "route/devices.h"
#include "route/direct.h"
#include "route/dispatch.h"
#include "route/quarantine.h"
#include "worker/control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define CONTROL_FD_IN_CHILD 3
#define CONTROL_QUEUE_BYTES (1024 * 1024) /* descriptors for every slot fit, so a busy worker never blocks a lease */
#define BACKOFF_FIRST_NS (50 * SP_NS_PER_MS)
#define BACKOFF_LONGEST_NS (10 * SP_NS_PER_S)

static void set_state(sp_worker *worker, sp_worker_state state)
{
    worker->state = state;
    sp_metric_set(worker->ready_metric, state == SP_WORKER_READY);
}

/* --- spawn ------------------------------------------------------------------------------------------------------- */

static sp_status spawn_process(sp_worker *worker, int child_fd, sp_error *reterr)
{
    const sp_house_config *config = &worker->house->config;
    char spin[16], memory[24];
    (void)snprintf(spin, sizeof(spin), "%d", config->spin_us);
    const char *argv[24];
    int n = 0;
    argv[n++] = "spillway";
    argv[n++] = "worker";
    argv[n++] = "--name";
    argv[n++] = worker->name;
    argv[n++] = "--kind";
    argv[n++] = worker->kind;
    argv[n++] = "--spin-us";
    argv[n++] = spin;
    if (config->model_repository) {
        argv[n++] = "--model-repository";
        argv[n++] = config->model_repository;
    }
    if (config->model) {
        argv[n++] = "--model";
        argv[n++] = config->model;
    }
    if (config->model_memory_bytes) {
        (void)snprintf(memory, sizeof(memory), "%llu", (unsigned long long)config->model_memory_bytes);
        argv[n++] = "--model-memory";
        argv[n++] = memory;
    }
    if (worker->plan[0]) {
        argv[n++] = "--plan";
        argv[n++] = worker->plan;
    }
    if (config->require_sandbox)
        argv[n++] = "--require-sandbox";
    if (config->refuse_cpu_nodes)
        argv[n++] = "--refuse-cpu-nodes";
    if (config->nvjpeg)
        argv[n++] = "--nvjpeg";
    if (config->data_dir && *config->data_dir) {
        argv[n++] = "--data-dir";
        argv[n++] = config->data_dir;
    }
    if (worker->again_at_ns)
        argv[n++] = "--again";
    argv[n] = NULL;

    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT); /* until it ignores them itself: Ctrl-C in the first milliseconds is not for it */
    sigaddset(&blocked, SIGTERM);
    int code = posix_spawn_file_actions_init(&actions);
    if (!code)
        code = posix_spawnattr_init(&attributes);
    if (code)
        return SP_FAIL_FROM(reterr, SP_NOMEM, "posix_spawn", code, "no memory to spawn %s", worker->name);
    (void)posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    (void)posix_spawn_file_actions_adddup2(&actions, child_fd, CONTROL_FD_IN_CHILD);
    (void)posix_spawnattr_setpgroup(&attributes, 0);
    (void)posix_spawnattr_setsigmask(&attributes, &blocked);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    char **environment = sp_supervisor_environment(worker);
    code = environment ? posix_spawn(&worker->pid, config->executable, &actions, &attributes,
                                     (char *const *)(uintptr_t)argv, environment)
                       : ENOMEM;
    free(environment);
    (void)posix_spawnattr_destroy(&attributes);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (code)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "posix_spawn", code, "cannot start %s from %s", worker->name,
                            config->executable);
    worker->pid_fd = (int)syscall(SYS_pidfd_open, worker->pid, 0);
    return worker->pid_fd >= 0 ? SP_OK : SP_FAIL_ERRNO(reterr, SP_INTERNAL, "pidfd_open");
}

static sp_status greet(sp_worker *worker, sp_error *reterr)
{
    sp_control hello = { .kind = SP_CONTROL_HELLO };
    int fds[4] = { worker->house->request_memfd_read, worker->memfd, worker->submit_fd, worker->complete_fd };
    return sp_control_send(worker->control_fd, &hello, fds, 4, reterr);
}

static void let_go(sp_worker *worker)
{
    sp_loop *loop = worker->house->loop;
    sp_loop_unwatch(loop, &worker->pid_watch);
    sp_loop_unwatch(loop, &worker->control_watch);
    sp_loop_unwatch(loop, &worker->complete_watch);
    sp_fd_closep(&worker->pid_fd);
    sp_fd_closep(&worker->control_fd);
    sp_shm_worker_free(worker);
    memset(worker->output_serials, 0, sizeof(worker->output_serials));
    worker->pid = 0;
    worker->completed = 0;
    worker->stopped_rounds = worker->silent_rounds = 0;
    worker->killed_for = SP_DEATH_OUTSIDER;
    worker->said_why = false;
    worker->oom_runs_seen = worker->oom_alone_seen = 0;
}

static void on_death(sp_watch *watch, uint32_t events, void *context);
static void on_control(sp_watch *watch, uint32_t events, void *context);

static void on_complete(sp_watch *watch, uint32_t events, void *context)
{
    uint64_t rings;
    (void)!read(watch->fd, &rings, sizeof(rings)); /* the loop's hook looks into the rings themselves */
}

static sp_status watch_it(sp_worker *worker, sp_error *reterr)
{
    sp_loop *loop = worker->house->loop;
    worker->pid_watch = (sp_watch){ .fd = worker->pid_fd, .ready = on_death, .context = worker };
    worker->control_watch = (sp_watch){ .fd = worker->control_fd, .ready = on_control, .context = worker };
    worker->complete_watch = (sp_watch){ .fd = worker->complete_fd, .ready = on_complete, .context = worker };
    sp_status s = sp_loop_watch(loop, &worker->pid_watch, EPOLLIN, reterr);
    if (!s)
        s = sp_loop_watch(loop, &worker->control_watch, EPOLLIN, reterr);
    return s ? s : sp_loop_watch(loop, &worker->complete_watch, EPOLLIN, reterr);
}

sp_status sp_supervisor_spawn(sp_worker *worker, sp_error *reterr)
{
    int pair[2];
    worker->incarnation += worker->incarnation == UINT32_MAX ? 2 : 1; /* 0 means anywhere */
    sp_status s = sp_shm_worker_make(worker, reterr);
    if (s)
        return s;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        sp_shm_worker_free(worker);
        return SP_FAIL_ERRNO(reterr, SP_NOMEM, "socketpair");
    }
    int queue_bytes = CONTROL_QUEUE_BYTES;
    (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &queue_bytes, sizeof(queue_bytes)); /* less is slower, not wrong */
    worker->control_fd = pair[0];
    worker->spawned_ns = sp_clock_now_ns();
    set_state(worker, SP_WORKER_STARTING);
    s = greet(worker, reterr); /* lies in the socket until the child reads it */
    if (!s)
        sp_supervisor_send_configs(worker);
    if (!s)
        s = spawn_process(worker, pair[1], reterr);
    sp_fd_closep(&pair[1]);
    if (!s)
        s = watch_it(worker, reterr);
    if (s) {
        if (worker->pid > 0) {
            (void)kill(worker->pid, SIGKILL);
            (void)waitpid(worker->pid, NULL, 0);
        }
        let_go(worker);
    }
    sp_watchdog_arm(worker->house);
    return s;
}

/* --- ready ------------------------------------------------------------------------------------------------------- */

static void seal_text(char *text, size_t size)
{
    text[size - 1] = 0;
}

/* The card was written by a worker: copied once, then checked. */
static sp_status take_card(sp_worker *worker, sp_error *reterr)
{
    sp_worker_card card;
    memcpy(&card, &worker->page->card, sizeof(card));
    seal_text(card.device, sizeof(card.device));
    seal_text(card.model, sizeof(card.model));
    seal_text(card.version, sizeof(card.version));
    seal_text(card.digest, sizeof(card.digest));
    seal_text(card.precision, sizeof(card.precision));
    seal_text(card.engine, sizeof(card.engine));
    seal_text(card.sandbox, sizeof(card.sandbox));
    seal_text(card.detail, sizeof(card.detail));
    seal_text(card.nvjpeg, sizeof(card.nvjpeg));
    seal_text(card.plan, sizeof(card.plan));
    sp_direct_judge(worker, &card);
    if (card.executors < 1 || card.executors > SP_LIMIT_EXECUTORS || card.max_batch < 1 || card.max_batch > SP_LIMIT_BATCH)
        return SP_FAIL(reterr, SP_INTERNAL, "%s offers %u executors and batches of %u", worker->name, card.executors,
                       card.max_batch);
    card.window = SP_CLAMP(card.window, 1u, (uint32_t)SP_LIMIT_SLOTS);
    card.infer_window = SP_MIN(card.infer_window, (uint32_t)SP_LIMIT_SLOTS);
    card.analyze_window = SP_MIN(card.analyze_window, (uint32_t)SP_LIMIT_SLOTS);
    card.p50_ns = SP_CLAMP(card.p50_ns, (int64_t)0, 60 * SP_NS_PER_S);
    card.p99_ns = SP_CLAMP(card.p99_ns, card.p50_ns, 60 * SP_NS_PER_S);
    worker->card = card;
    worker->has_card = true;
    (void)snprintf(worker->plan, sizeof(worker->plan), "%s", card.plan);
    return SP_OK;
}

static void on_ready(sp_worker *worker)
{
    sp_error err = { 0 };
    if (take_card(worker, &err)) {
        sp_log_error("worker's card refused", NULL, &err);
        sp_supervisor_kill(worker, SP_DEATH_EXIT, err.message);
        return;
    }
    worker->ready_ns = sp_clock_now_ns();
    worker->service_ns = SP_MAX(worker->service_ns, worker->card.p50_ns);
    sp_quarantine_note_ready(worker);
    worker->code[0] = 0;
    worker->cannot_start = false;
    set_state(worker, SP_WORKER_READY);
    sp_guard_worker_ready(worker);
    worker->house->models.due = true; /* all that it should have is loaded again */
    sp_log(SP_LOG_INFO, "worker ready", SP_LOG_TEXT("worker", worker->name), SP_LOG_INT("pid", worker->pid),
           SP_LOG_INT("after_ms", (worker->ready_ns - worker->spawned_ns) / SP_NS_PER_MS),
           SP_LOG_TEXT("model", worker->card.model), SP_LOG_TEXT("sandbox", worker->card.sandbox));
}

/* Its last words. What cannot change by trying again (no such device here) is not tried again. */
static void on_failed(sp_worker *worker, const sp_control *word)
{
    (void)snprintf(worker->reason, sizeof(worker->reason), "%.*s", (int)sizeof(word->text) - 1, word->text);
    (void)snprintf(worker->code, sizeof(worker->code), "%.*s", (int)sizeof(word->code) - 1, word->code);
    worker->said_why = true;
    worker->cannot_start = word->status == SP_UNSUPPORTED || word->status == SP_INVALID;
}

static void on_control(sp_watch *watch, uint32_t events, void *context)
{
    sp_worker *worker = context;
    for (;;) {
        sp_control word;
        int fds[SP_CONTROL_FDS], fd_count;
        sp_status s = sp_control_receive(worker->control_fd, &word, fds, &fd_count, NULL);
        for (int i = 0; i < fd_count; i++)
            sp_fd_closep(&fds[i]); /* a worker has no descriptors to send us */
        if (s == SP_UNAVAILABLE)
            sp_loop_unwatch(worker->house->loop, watch); /* its death arrives by pidfd */
        if (s)
            return;
        if (word.kind == SP_CONTROL_READY && worker->state == SP_WORKER_STARTING)
            on_ready(worker);
        else if (word.kind == SP_CONTROL_FAILED)
            on_failed(worker, &word);
    }
}

/* --- death ------------------------------------------------------------------------------------------------------- */

static bool is_crash_signal(int number)
{
    switch (number) {
    case SIGSEGV:
    case SIGBUS:
    case SIGABRT:
    case SIGILL:
    case SIGFPE:
    case SIGSYS:
        return true;
    default:
        return false;
    }
}

static sp_death_cause explain(sp_worker *worker, const siginfo_t *info, char *reason, size_t size)
{
    sp_house *house = worker->house;
    uint64_t oom_kills = sp_machine_oom_kill_count();
    bool oom = oom_kills > house->oom_kills;
    house->oom_kills = oom_kills;
    if (worker->state == SP_WORKER_ENDING)
        return SP_DEATH_ENDING;
    if (info->si_code == CLD_EXITED) {
        if (!worker->said_why)
            (void)snprintf(reason, size, "worker ended itself with code %d", info->si_status);
        else
            (void)snprintf(reason, size, "%s", worker->reason);
        return SP_DEATH_EXIT;
    }
    if (worker->killed_for != SP_DEATH_OUTSIDER) {
        (void)snprintf(reason, size, "%s", worker->reason);
        return worker->killed_for;
    }
    if (is_crash_signal(info->si_status)) {
        (void)snprintf(reason, size, "worker crashed (signal %d, %s)", info->si_status, strsignal(info->si_status));
        return SP_DEATH_CRASH;
    }
    if (info->si_status == SIGKILL && oom) {
        (void)snprintf(reason, size, "worker killed by the kernel: out of memory");
        return SP_DEATH_OOM;
    }
    (void)snprintf(reason, size, "worker killed from outside (signal %d)", info->si_status);
    return SP_DEATH_OUTSIDER;
}

static void restart(sp_timer *timer, void *context)
{
    sp_worker *worker = context;
    sp_error err = { 0 };
    if (sp_supervisor_spawn(worker, &err) == SP_OK)
        return;
    sp_log_error("worker not started", NULL, &err);
    (void)snprintf(worker->reason, sizeof(worker->reason), "%s", err.message);
    set_state(worker, SP_WORKER_BACKOFF);
    worker->early_deaths++;
    if (sp_loop_timer_set(worker->house->loop, &worker->restart_timer, sp_clock_now_ns() + SP_NS_PER_S, &err))
        sp_log_error("no restart timer", NULL, &err);
}

/* Decides what comes after this death: at once, later, or after a pause. */
static void plan_restart(sp_worker *worker, sp_death_cause cause, bool early, bool loading)
{
    sp_house *house = worker->house;
    sp_error err = { 0 };
    worker->restarts++;
    worker->restart_timer = (sp_timer){ .fire = restart, .context = worker };
    if (loading && (cause == SP_DEATH_CRASH || cause == SP_DEATH_WATCHDOG))
        worker->plan[0] = 0; /* measured by an earlier one; perhaps that is what it cannot bear */
    worker->early_deaths += early && cause != SP_DEATH_OUTSIDER && cause != SP_DEATH_STOPPED;
    int64_t wait_ns = 0;
    bool quarantined = sp_quarantine_begin(worker, loading, &wait_ns);
    if (!quarantined && worker->early_deaths > 1)
        wait_ns = SP_MIN(BACKOFF_FIRST_NS << SP_MIN(worker->early_deaths - 2, 10), BACKOFF_LONGEST_NS);
    set_state(worker, quarantined ? SP_WORKER_QUARANTINED : SP_WORKER_BACKOFF);
    if (sp_loop_timer_set(house->loop, &worker->restart_timer, sp_clock_now_ns() + wait_ns, &err))
        sp_log_error("no restart timer", NULL, &err);
}

static void on_death(sp_watch *watch, uint32_t events, void *context)
{
    sp_worker *worker = context;
    siginfo_t info = { 0 };
    if (waitid(P_PIDFD, (id_t)worker->pid_fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
        return;
    on_control(&worker->control_watch, 0, worker); /* its last words, if it had any */
    char reason[256] = "";
    bool early = worker->completed == 0, loading = worker->state == SP_WORKER_STARTING;
    sp_death_cause cause = explain(worker, &info, reason, sizeof(reason));
    bool known = sp_quarantine_is_repetition(worker, loading, reason);
    (void)snprintf(worker->reason, sizeof(worker->reason), "%s", reason);
    sp_metric_add(worker->deaths_metric, 1);
    sp_quarantine_note_death(worker, cause, early, loading);
    if (cause != SP_DEATH_ENDING)
        sp_log(known ? SP_LOG_DEBUG : SP_LOG_WARN, "worker died", SP_LOG_TEXT("worker", worker->name), SP_LOG_INT("pid", worker->pid),
               SP_LOG_TEXT("reason", reason), SP_LOG_TEXT("code", worker->code),
               SP_LOG_INT("leases", worker->in_flight));
    sp_devices_count(worker);
    worker->state = SP_WORKER_BACKOFF; /* not ready: what is handed back must not come here again */
    sp_dispatch_worker_gone(worker, cause, reason);
    let_go(worker);
    if (cause == SP_DEATH_ENDING || worker->house->ending)
        set_state(worker, SP_WORKER_ENDING);
    else
        plan_restart(worker, cause, early, loading);
    worker->house->models.due = true;
    sp_dispatch_run(worker->house);
}

void sp_supervisor_kill(sp_worker *worker, sp_death_cause why, const char *reason)
{
    if (worker->pid <= 0 || worker->killed_for != SP_DEATH_OUTSIDER)
        return;
    (void)snprintf(worker->reason, sizeof(worker->reason), "%s", reason);
    worker->killed_for = why;
    (void)kill(worker->pid, SIGKILL);
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

void sp_supervisor_end_all(sp_house *house, int grace_ms)
{
    house->ending = true;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        sp_loop_timer_clear(house->loop, &worker->restart_timer);
        set_state(worker, SP_WORKER_ENDING);
        sp_loop_unwatch(house->loop, &worker->control_watch);
        sp_loop_unwatch(house->loop, &worker->pid_watch);
        sp_fd_closep(&worker->control_fd); /* its sign to leave */
    }
    int64_t until_ns = sp_clock_now_ns() + grace_ms * SP_NS_PER_MS;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        while (worker->pid > 0 && waitpid(worker->pid, NULL, WNOHANG) == 0) {
            if (sp_clock_now_ns() >= until_ns)
                (void)kill(worker->pid, SIGKILL);
            struct timespec nap = { 0, 2 * SP_NS_PER_MS }; /* the server is ending: nobody waits for this loop */
            (void)nanosleep(&nap, NULL);
        }
        let_go(worker);
    }
}
