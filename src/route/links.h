/* SPDX-License-Identifier: Apache-2.0
 * Links: ways in which a task can be answered, apart from the worker processes that do the work.
 *
 *   snapshot  one configuration in force, with each task's chain worked out. Shared by reference: the house holds the
 *             newest, a request the one it was opened with.
 *   chain     the ordered entries of a task. An entry is a worker (cuda0) or a remote (any net worker can run it).
 *   link      what is remembered of (task, name) for as long as the process lives, across reloads: breaker, limiter,
 *             latencies, cost, quarantine. Keys of remotes are remembered per remote, because tasks share their quotas.
 *
 * Loop thread only. */
#ifndef SP_ROUTE_LINKS_H
#define SP_ROUTE_LINKS_H

#include "base/metrics.h"
#include "route/house.h"
#include "route/latency.h"

/* Entries of a chain: without configuration every worker is one. */
#define SP_CHAIN_ENTRIES SP_LIMIT_WORKERS
_Static_assert(SP_CHAIN_ENTRIES >= SP_LIMIT_CHAIN_LINKS, "a configured chain fits");

/* Links remembered at once; beyond it those that no snapshot names any more are forgotten, oldest first. */
#define SP_LIMIT_LINKS 96

typedef struct sp_chain_entry {
    const sp_link_config *config; /* the snapshot's */
    int link;    /* index in house->links */
    int worker;  /* index in house->workers; -1 = a remote */
    int remote;  /* index in the snapshot's remotes; -1 = a worker */
    int group;   /* place in the chain; entries of one group share by fewest leases */
    bool spillway; /* a remote that takes the original body */
    bool is_cpu;   /* a worker that needs no other device */
} sp_chain_entry;

typedef struct sp_chain {
    int count;
    bool written;  /* in the configuration; else made of the workers in their order */
    int reference; /* entry that the others are held to; -1 = none */
    sp_retry_budget_settings budget;
    sp_chain_entry entries[SP_CHAIN_ENTRIES];
} sp_chain;

typedef struct sp_snapshot {
    sp_config *config; /* referenced */
    int references;
    uint32_t serial;
    sp_chain chains[SP_TASK_COUNT];
    struct sp_snapshot *next; /* in house->snapshots */
} sp_snapshot;

/* Why an entry is passed over. The order is the order of the names in links.c. */
typedef enum sp_skip {
    SP_SKIP_NONE,
    SP_SKIP_ONLY,       /* another link was asked for by name */
    SP_SKIP_CANNOT,     /* it does not have the model, or nothing can prepare its input */
    SP_SKIP_TRIED,      /* it failed this request */
    SP_SKIP_LOCAL_ONLY, /* a remote, and the bytes must stay */
    SP_SKIP_NOT_CPU,    /* use_gpu: false, or force_cpu */
    SP_SKIP_CONDITION,
    SP_SKIP_LOAD,       /* its queue_depth condition */
    SP_SKIP_QUARANTINE,
    SP_SKIP_THROTTLED,  /* its device is too hot or short of power */
    SP_SKIP_BREAKER,
    SP_SKIP_QUOTA,
    SP_SKIP_COST,
    SP_SKIP_SLOW,
    SP_SKIP_DOWN,
    SP_SKIP_FULL,
    SP_SKIP_LOADING,    /* it runs, and is to have the model, and does not have it yet */
    SP_SKIP_COUNT
} sp_skip;
const char *sp_skip_name(sp_skip skip);

typedef struct sp_link {
    sp_task task;
    char name[32];
    int worker;       /* -1 = remote */
    int remote_state; /* index in house->remotes; -1 = none */
    int snapshots;    /* that name it */
    sp_breaker breaker;
    sp_breaker_state told; /* last state that an event was sent of */
    sp_limiter limiter;
    sp_latency latency;
    sp_quota_use cost;        /* microdollars of the day */
    int64_t microdollars_each; /* smoothed: what the next call is expected to cost */
    int64_t cost_carry;        /* what has not made a whole microdollar yet (policy/cost.h) */
    const sp_price *rate;      /* of its device, in the snapshot `rate_serial` */
    uint32_t rate_serial;
    int64_t run_begun_ns;     /* the last run that the breaker has heard of: one event a run */
    bool quarantined;
    bool golden_due;          /* ready, and not yet compared with the reference */
    bool answered_once;       /* a remote: that is when it is compared */
    sp_skip last_skip;        /* for events: only changes are told */
    char reason[96];
    int in_flight;
    sp_metric *skip_metrics[SP_SKIP_COUNT]; /* made at first use */
    sp_metric *failure_metrics[SP_STATUS_COUNT]; /* likewise */
    sp_metric *seconds_metric, *retry_metric, *hedge_metric, *hedge_won_metric, *breaker_metric, *cost_metric;
} sp_link;

typedef struct sp_key_state {
    sp_quota_use use;
    int64_t cooling_until_ns;
    int64_t units_each; /* smoothed: what the next call is expected to use */
} sp_key_state;

typedef struct sp_remote_state {
    char name[32]; /* "" = free */
    sp_key_state keys[SP_LIMIT_REMOTE_KEYS];
} sp_remote_state;

/* snapshot.c. Takes a reference on `config`. SP_NOMEM. */
sp_status sp_snapshot_new(struct sp_house *house, sp_config *config, sp_snapshot **ret_snapshot, sp_error *reterr);
sp_snapshot *sp_snapshot_ref(sp_snapshot *snapshot);
void sp_snapshot_unref(struct sp_house *house, sp_snapshot *snapshot);

/* links.c */
int sp_link_find(struct sp_house *house, sp_task task, const char *name);                     /* -1 = none */
int sp_link_make(struct sp_house *house, sp_task task, const char *name, int worker); /* -1 = no place */
void sp_link_apply(sp_link *link, const sp_link_config *config); /* a reload's settings; state stays */
void sp_link_note_breaker(sp_link *link, int64_t now_ns); /* event and gauge when its state has changed */
void sp_link_note_skip(sp_link *link, sp_skip skip);
void sp_link_quarantine(struct sp_house *house, sp_link *link, bool out, const char *reason);
int sp_remote_state_make(struct sp_house *house, const char *name);
/* An event about a link; `format` makes the members behind task and link: ",\"reason\":\"...\"". */
void sp_link_event(const char *kind, const sp_link *link, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
