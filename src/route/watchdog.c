/* SPDX-License-Identifier: Apache-2.0
 * Hang is seen by progress, not by a beat. Each executor publishes what it has in hand, since when, and its budget; a
 * CPU worker is judged by the CPU time its process has used since (a starved one is slow, not hung), a device worker by
 * the wall clock. A stopped process (SIGSTOP) uses neither and is recognised by its state. A round that comes late
 * itself judges nobody. Memory is looked at here too, once a second. */
#include "base/clock.h"
#include "base/log.h"
#include "route/lease.h"
#include "route/supervisor.h"
#include "worker/ring.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROUND_NS (100 * SP_NS_PER_MS)
#define LATE_NS (300 * SP_NS_PER_MS)    /* a round this late means that we were starved ourselves */
#define MEMORY_ROUND_NS SP_NS_PER_S
#define STOPPED_ROUNDS 5                /* half a second: longer than a debugger's hiccup, shorter than any deadline */
#define SILENT_ROUNDS 20                /* two seconds with work in its ring, nothing in hand, and asleep */
#define START_LIMIT_NS (120 * SP_NS_PER_S) /* loading a model takes seconds; the largest under two minutes */

static int64_t cpu_time_ns(pid_t pid)
{
    clockid_t id;
    struct timespec ts;
    if (clock_getcpuclockid(pid, &id) != 0 || clock_gettime(id, &ts) < 0)
        return -1;
    return (int64_t)ts.tv_sec * SP_NS_PER_S + ts.tv_nsec;
}

/* /proc/PID/NAME as text; false when the process is gone. */
static bool read_proc(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
    sp_fd_closep(&fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* The state letter of /proc/PID/stat: R, S, D, T (stopped) ...; 0 when it cannot be read. */
static char process_state(pid_t pid)
{
    char text[512];
    if (!read_proc(pid, "stat", text, sizeof(text)))
        return 0;
    const char *end = strrchr(text, ')'); /* the name before it may hold anything */
    return end && end[1] == ' ' ? end[2] : 0;
}

typedef struct mark_copy {
    sp_stage stage;
    uint32_t count;
    int64_t start_ns, start_cpu_ns, budget_ns;
} mark_copy;

static bool read_mark(const sp_mark *shared, mark_copy *ret_mark)
{
    sp_mark *mark = (sp_mark *)(uintptr_t)shared;
    uint64_t before = atomic_load_explicit(&mark->sequence, memory_order_acquire);
    *ret_mark = (mark_copy){
        .stage = (sp_stage)atomic_load_explicit(&mark->stage, memory_order_relaxed),
        .count = atomic_load_explicit(&mark->count, memory_order_relaxed),
        .start_ns = atomic_load_explicit(&mark->start_ns, memory_order_relaxed),
        .start_cpu_ns = atomic_load_explicit(&mark->start_cpu_ns, memory_order_relaxed),
        .budget_ns = atomic_load_explicit(&mark->budget_ns, memory_order_relaxed),
    };
    atomic_thread_fence(memory_order_acquire);
    return (before & 1) == 0 && atomic_load_explicit(&mark->sequence, memory_order_relaxed) == before;
}

static int64_t budget_of(const sp_worker *worker, const mark_copy *mark)
{
    int64_t budget_ns = SP_MAX(mark->budget_ns, worker->card.p99_ns * 10);
    return SP_CLAMP(budget_ns, SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS, 300 * SP_NS_PER_S);
}

/* An executor that is past its budget: by CPU time of the process, shared among its busy executors, or by wall. */
static bool judge_executor(const sp_worker *worker, const mark_copy *mark, int busy, int64_t now_ns, int64_t cpu_ns)
{
    bool by_cpu = worker->role == SP_ROLE_CODEC || strcmp(worker->card.device, "cpu") == 0;
    if (!by_cpu)
        return now_ns - mark->start_ns > budget_of(worker, mark);
    /* An inference uses several threads, so a round of legitimate work may burn cpu_count times the wall. */
    return cpu_ns >= 0 && cpu_ns - mark->start_cpu_ns > budget_of(worker, mark) * SP_MAX(busy, 1) &&
           now_ns - mark->start_ns > budget_of(worker, mark) / 2;
}

static bool judge_marks(sp_worker *worker, int64_t now_ns, int *ret_busy)
{
    mark_copy marks[SP_LIMIT_EXECUTORS];
    bool valid[SP_LIMIT_EXECUTORS] = { false };
    *ret_busy = 0;
    for (int e = 0; e < SP_LIMIT_EXECUTORS; e++) {
        valid[e] = read_mark(&worker->page->marks[e], &marks[e]) && marks[e].count > 0;
        *ret_busy += valid[e];
    }
    int64_t cpu_ns = cpu_time_ns(worker->pid);
    for (int e = 0; e < SP_LIMIT_EXECUTORS; e++) {
        if (valid[e] && judge_executor(worker, &marks[e], *ret_busy, now_ns, cpu_ns)) {
            char reason[128];
            (void)snprintf(reason, sizeof(reason), "worker hung: %lld ms in stage %d without progress",
                           (long long)((now_ns - marks[e].start_ns) / SP_NS_PER_MS), marks[e].stage);
            sp_supervisor_kill(worker, SP_DEATH_WATCHDOG, reason);
            return false;
        }
    }
    return true;
}

/* A lease that was cancelled at its deadline, is in hand, and is not coming back. */
static void judge_overdue(sp_worker *worker, int64_t now_ns)
{
    for (uint32_t slot = 0; slot < SP_LIMIT_SLOTS; slot++) {
        const sp_lease *given = &worker->leases[slot];
        if (!given->number || !given->overdue_ns || now_ns < given->overdue_ns)
            continue;
        mark_copy none = { 0 };
        if (now_ns - given->given_ns > budget_of(worker, &none) && sp_lease_in_hand(worker, slot, given->number)) {
            sp_supervisor_kill(worker, SP_DEATH_OVERDUE, "worker would not give back a cancelled lease");
            return;
        }
    }
}

/* True when it is stopped and will be killed for it. */
static bool judge_stopped(sp_worker *worker, char state)
{
    worker->stopped_rounds = state == 'T' ? worker->stopped_rounds + 1 : 0;
    if (worker->stopped_rounds < STOPPED_ROUNDS)
        return false;
    sp_supervisor_kill(worker, SP_DEATH_STOPPED, "worker was stopped from outside (SIGSTOP)");
    return true;
}

/* Work lies in its ring, nothing is in hand, and it sleeps: ring again, in the end give up on it. */
static void judge_silent(sp_worker *worker, int busy, char state)
{
    uint32_t head = atomic_load_explicit(&worker->page->submissions.head, memory_order_acquire);
    /* What it took of its models' requests may wait there, for a batch to fill or a sequence to go on, with nothing in hand. */
    int waiting = worker->in_flight - worker->infer_in_flight;
    bool silent = !busy && (waiting > 0 || head != worker->submission_tail) && worker->in_flight && head == worker->seen_head &&
                  state == 'S';
    worker->seen_head = head;
    worker->silent_rounds = silent ? worker->silent_rounds + 1 : 0;
    if (!worker->silent_rounds)
        return;
    sp_ring_bell(worker->submit_fd);
    if (worker->silent_rounds >= SILENT_ROUNDS)
        sp_supervisor_kill(worker, SP_DEATH_WATCHDOG, "worker does not take its leases");
}

static void look_at(sp_worker *worker, int64_t now_ns)
{
    if (worker->pid <= 0 || worker->killed_for != SP_DEATH_OUTSIDER)
        return;
    char state = process_state(worker->pid);
    if (judge_stopped(worker, state) || state == 'T')
        return; /* whatever else seems wrong with it, being stopped is why */
    if (worker->state == SP_WORKER_STARTING) {
        if (now_ns - worker->spawned_ns > START_LIMIT_NS)
            sp_supervisor_kill(worker, SP_DEATH_WATCHDOG, "worker did not become ready in time");
        return;
    }
    int busy = 0;
    if (worker->in_flight && judge_marks(worker, now_ns, &busy)) {
        judge_overdue(worker, now_ns);
        judge_silent(worker, busy, state);
    }
}

static uint64_t resident_bytes(pid_t pid)
{
    char text[128];
    unsigned long long size, resident;
    if (!read_proc(pid, "statm", text, sizeof(text)) || sscanf(text, "%llu %llu", &size, &resident) != 2)
        return 0;
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Better that we choose who goes than that the kernel does: it could choose the gateway. */
static void judge_memory(sp_house *house, int64_t now_ns)
{
    if (now_ns - house->memory_seen_ns < MEMORY_ROUND_NS)
        return;
    house->memory_seen_ns = now_ns;
    uint64_t limit = house->machine.memory_limit_bytes, used = sp_machine_memory_used_bytes(&house->machine);
    bool was_short = house->memory_short;
    house->memory_short = used >= limit / 100 * SP_LIMIT_MEMORY_SHED_PERCENT;
    if (house->memory_short != was_short)
        sp_log(SP_LOG_WARN, house->memory_short ? "memory is short: new requests are shed" : "memory suffices again",
               SP_LOG_INT("used_mib", used >> 20), SP_LOG_INT("limit_mib", limit >> 20));
    if (!was_short || used < limit / 100 * SP_LIMIT_MEMORY_KILL_PERCENT)
        return; /* shedding gets a round to help before anybody is ended */
    sp_worker *largest = NULL;
    uint64_t largest_bytes = 0;
    for (int i = 0; i < house->worker_count; i++) {
        sp_worker *worker = &house->workers[i];
        uint64_t bytes = worker->state == SP_WORKER_READY ? resident_bytes(worker->pid) : 0;
        if (bytes > largest_bytes) {
            largest = worker;
            largest_bytes = bytes;
        }
    }
    if (largest)
        sp_supervisor_kill(largest, SP_DEATH_MEMORY, "worker ended by us: memory was running out and it was the largest");
}

static bool anything_to_watch(const sp_house *house)
{
    for (int i = 0; i < house->worker_count; i++) {
        if (house->workers[i].state == SP_WORKER_STARTING || house->workers[i].stopped_rounds)
            return true;
    }
    return house->leased_count > 0 || house->memory_short;
}

static void look_round(sp_timer *timer, void *context)
{
    sp_house *house = context;
    int64_t now_ns = sp_clock_now_ns();
    bool late = now_ns - house->watchdog_due_ns > LATE_NS;
    for (int i = 0; i < house->worker_count && !late; i++)
        look_at(&house->workers[i], now_ns);
    judge_memory(house, now_ns);
    if (anything_to_watch(house))
        sp_watchdog_arm(house);
}

void sp_watchdog_arm(sp_house *house)
{
    if (house->watchdog.heap_index || house->ending)
        return;
    house->watchdog.fire = look_round;
    house->watchdog.context = house;
    house->watchdog_due_ns = sp_clock_now_ns() + ROUND_NS;
    sp_error err = { 0 };
    if (sp_loop_timer_set(house->loop, &house->watchdog, house->watchdog_due_ns, &err))
        sp_log_error("no watchdog timer", NULL, &err);
}
