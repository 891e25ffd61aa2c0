/* SPDX-License-Identifier: Apache-2.0
 * What the files of the route share. Everything here belongs to the loop thread. */
#ifndef SP_ROUTE_INTERNAL_H
#define SP_ROUTE_INTERNAL_H

#include "base/machine.h"
#include "base/metrics.h"
#include "base/spin.h"
#include "route/guard.h"
#include "route/house.h"
#include "route/links.h"
#include "worker/slot.h"

#include <fcntl.h>
#include <string.h>
#include <sys/types.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

/* Cut to what fits. A dozen of these a request: snprintf was a seventh of what a request costs here. */
static inline void sp_text_copy(char *dst, size_t size, const char *src)
{
    size_t length = strnlen(src, size - 1);
    memcpy(dst, src, length);
    dst[length] = 0;
}

/* --- one worker process ---------------------------------------------------------------------------------------- */

typedef enum sp_worker_role {
    SP_ROLE_CODEC,
    SP_ROLE_DEVICE,
    SP_ROLE_NOOP,
    SP_ROLE_NET,     /* remotes, fetching, sending; no link by itself */
    SP_ROLE_SAMPLER, /* measures devices; takes no leases */
    SP_ROLE_COUNT
} sp_worker_role;

/* Why a worker died, as far as it can be known. */
typedef enum sp_death_cause {
    SP_DEATH_OUTSIDER, /* SIGKILL or another signal that nobody in this house sent */
    SP_DEATH_CRASH,    /* SEGV, BUS, ABRT, ILL, FPE, SYS */
    SP_DEATH_OOM,      /* SIGKILL and the oom_kill counter moved */
    SP_DEATH_WATCHDOG, /* we killed it: hung */
    SP_DEATH_OVERDUE,  /* we killed it: it would not give a cancelled lease back */
    SP_DEATH_MEMORY,   /* we killed it: the house was about to run out of memory and it was the largest */
    SP_DEATH_STOPPED,  /* we killed it: somebody stopped it (SIGSTOP) and left it so */
    SP_DEATH_EXIT,     /* it ended itself */
    SP_DEATH_ENDING,   /* we asked it to */
} sp_death_cause;

/* A lease that is out at a worker. Indexed by slot: a worker holds a slot at most once. */
typedef struct sp_lease {
    uint32_t number;    /* 0 = none */
    bool live;          /* its answer is still wanted */
    bool hedge;         /* asked beside another one */
    bool direct;        /* of a JPEG file as it was sent (direct.h) */
    bool has_ticket;    /* of the link's breaker */
    uint8_t op;         /* what was asked for: sp_op */
    int8_t entry;       /* of the request's chain; -1 = a codec's or a net worker's own step */
    int8_t key;         /* of a remote; -1 = none */
    int16_t link;       /* index in house->links; -1 likewise */
    uint32_t ticket;
    uint32_t model;     /* whose breaker there gave the ticket; 0 = the link's did */
    int64_t given_ns;
    int64_t overdue_ns; /* > 0: cancelled, must be back by then */
    int64_t deadline_ns; /* of this attempt */
    int64_t reserved_units, reserved_microdollars;
} sp_lease;

typedef struct sp_worker {
    struct sp_house *house;
    int index;
    char name[32], kind[24];
    sp_worker_role role;
    sp_worker_state state;

    /* This incarnation: */
    pid_t pid;
    int pid_fd, control_fd, submit_fd, complete_fd, memfd;
    sp_worker_page *page;
    uint8_t *answers;
    sp_answer_memory *memory; /* the mapping of both; referenced */
    uint32_t incarnation;     /* which one this is, from 1 */
    uint32_t submission_tail, completion_head; /* private: the shared ones can be overwritten */
    sp_watch pid_watch, control_watch, complete_watch;
    int64_t spawned_ns, ready_ns;
    uint64_t completed; /* batches' items it has answered */
    sp_death_cause killed_for; /* set before we send SIGKILL; SP_DEATH_OUTSIDER = we did not */
    sp_lease leases[SP_LIMIT_SLOTS];
    int in_flight, infer_in_flight; /* leases out; of them those of served models */
    int models_in_flight;           /* of those LOADs and UNLOADs, which hold up nothing else */
    int analyze_in_flight;          /* chunks of videos; they have a window of their own */
    uint32_t output_serials[SP_LIMIT_SLOTS]; /* which output descriptor it holds, 0 = none */

    /* Across incarnations: */
    int restarts;
    int early_deaths; /* in a row, before the first completed item */
    bool cannot_start;  /* it said why, and trying again will not change it */
    bool direct_off;     /* it died of a file that it decoded itself (direct.h) */
    int strikes;         /* quarantine.c: faults of its device in a row */
    int pauses;          /* quarantines in a row: how long the next one is */
    int64_t again_at_ns; /* > 0: quarantined until then, or being tried again after it */
    bool said_why;      /* this incarnation's last words are in `reason` and `code` */
    bool reserved;    /* drained for a suspect that must run alone */
    char reason[256];
    char code[32]; /* of `reason`: a device fault's word (worker/device_fault.h), or "" */
    char plan[256];
    sp_worker_card card;
    bool has_card;
    sp_timer restart_timer;

    /* Watchdog: */
    uint32_t seen_head;
    int stopped_rounds, silent_rounds;
    uint64_t oom_runs_seen, oom_alone_seen; /* of this incarnation's counters */

    int64_t service_ns; /* smoothed time of one item, for Retry-After and attempt budgets */
    sp_metric *deaths_metric, *in_flight_metric, *ready_metric;
} sp_worker;

/* --- one request ------------------------------------------------------------------------------------------------ */

typedef enum sp_request_state {
    SP_REQUEST_FREE,
    SP_REQUEST_FILLING,
    SP_REQUEST_QUEUED, /* waits for a worker of its step */
    SP_REQUEST_LEASED,
    SP_REQUEST_DONE,   /* answered (or withdrawn); waits for close */
    SP_REQUEST_CLOSED, /* closed; waits for its last lease to come back */
} sp_request_state;

#define SP_LIVE_LEASES 2 /* the attempt and its hedge */

struct sp_request {
    struct sp_house *house;
    uint32_t slot;
    sp_request_state state;
    sp_slot_request *shared;
    uint8_t *inline_body;

    uint8_t *body; /* inline_body or the mapping of body_fd */
    size_t body_bytes, body_capacity;
    uint64_t body_limit_bytes;
    uint64_t body_expected_bytes; /* Content-Length, within the limit; 0 = unknown */
    int body_fd;
    int media_fd; /* of a video: what its links read with pread; shared with other requests */
    uint8_t media_key[32];
    int fetch_fd; /* of a FETCH that is its own task: the file that gets what lies at the URL; else -1 */

    int output_fd; /* made at the first DECODE, kept for the slot's next requests */
    uint32_t output_serial;
    uint32_t output_kind;
    int32_t image_w, image_h;
    uint64_t output_bytes;

    /* What policy knows of it: */
    sp_snapshot *snapshot; /* configuration in force when it was opened; referenced */
    const sp_chain *chain; /* of its task, in the snapshot */
    uint32_t allowed;      /* bit per entry of the chain: what does not change about its conditions holds */
    uint32_t barred;       /* bit per entry: not again for this request */
    uint8_t tries[SP_CHAIN_ENTRIES];     /* failed ones, per entry */
    uint8_t pool_tries[SP_LIMIT_WORKERS]; /* failed ones of the step in hand, per codec or net worker */
    int pinned;            /* entry that gets its retry; -1 = none */
    int only;              /* the only entry that may answer; -1 = any, -2 = one that is not there */
    bool local_only, force_cpu, wants_fetch, no_decode, internal;
    bool direct_tried; /* once a request (direct.h) */
    int priority;
    double duration_s;

    /* Of served models (models.h): */
    sp_infer_head *head;       /* its place in the request memfd */
    struct sp_loaded *model;    /* the version asked for, until it is answered; or the one to be loaded */
    sp_pin pin;
    bool wants_unpack, ends_unpacked;
    bool has_picture; /* infer: the payload is one, and is decoded first */
    sp_status (*unpacked)(sp_request *request, sp_view header, uint64_t tensor_bytes, void *context, sp_error *reterr);
    void *unpacked_context;

    sp_task task;
    sp_op op; /* whose queue it goes through: FETCH, DECODE, SEND, or the task's own (NOOP, CLASSIFY) */
    int64_t queued_ns;
    int live_count;
    int live_workers[SP_LIVE_LEASES]; /* who has its live leases */
    int leases_out;                   /* all, stale ones too */
    int64_t retry_at_ns;              /* > 0: backing off */
    int64_t hedge_at_ns;              /* > 0: when the next link is asked as well */
    int64_t wake_ns;                  /* > 0: when a link that is shut now may be open again */

    sp_guard_note guard;

    bool hashed;
    uint64_t body_hash;
    bool suspect; /* sits in the suspects' queue */

    struct sp_request *next, *previous; /* in its queue */
    bool in_queue;

    sp_timer timer;
    sp_request_done_fn *done;
    void *context;
    sp_answer answer;
};

typedef struct sp_queue {
    sp_request *first, *last;
    int count;
} sp_queue;

/* --- served models ---------------------------------------------------------------------------------------------- */

typedef struct sp_models {
    struct sp_loaded **list; /* by number; models.c */
    int count;
    uint32_t last_number;
    uint32_t workers; /* bit per worker: should have them */
    bool due;         /* there may be something to ask for, to tell or to free */
    int open_count;   /* requests for loads and unloads */
    sp_timer timer;   /* sets `due` when a slot was missing */
} sp_models;

/* --- bodies that kill ------------------------------------------------------------------------------------------- */

typedef struct sp_poison_entry {
    uint64_t hash; /* of body, op and model */
    int deaths;
    uint64_t last_death;
    int64_t refused_until_ns; /* > 0: poisoned */
    int64_t touched_ns;
} sp_poison_entry;

typedef struct sp_poison {
    sp_poison_entry entries[SP_LIMIT_POISON_ENTRIES];
    int count;
} sp_poison;

typedef enum sp_poison_verdict { SP_POISON_CLEAN, SP_POISON_SUSPECT, SP_POISON_REFUSED } sp_poison_verdict;

/* Content, not identity: of payload, operation and model. */
uint64_t sp_poison_hash(sp_request *request);
sp_poison_verdict sp_poison_look(sp_poison *poison, uint64_t hash, int64_t now_ns);
/* `death` (from 1) names the worker's death: one that had the same content in hand twice counts once. */
sp_poison_verdict sp_poison_death(sp_poison *poison, uint64_t hash, uint64_t death, int64_t now_ns);
void sp_poison_clear(sp_poison *poison, uint64_t hash); /* it ran to its end after all */

/* --- the house -------------------------------------------------------------------------------------------------- */

struct sp_house {
    sp_house_config config;
    sp_loop *loop;
    int request_memfd, request_memfd_read; /* the second is what workers get: opened read-only */
    uint8_t *memory;
    sp_house_page *page;
    sp_request requests[SP_LIMIT_SLOTS];
    uint32_t free_slots[SP_LIMIT_SLOTS]; /* a stack: the slots used last are warm */
    int free_count;
    uint32_t next_lease, next_serial;
    sp_worker workers[SP_LIMIT_WORKERS];
    int worker_count;
    int role_counts[SP_ROLE_COUNT];
    sp_snapshot *snapshot;  /* for requests opened now */
    sp_snapshot *snapshots; /* all that are referenced, newest first */
    sp_link links[SP_LIMIT_LINKS];
    int link_count;
    sp_remote_state remotes[SP_LIMIT_REMOTES];
    sp_retry_budget budgets[SP_TASK_COUNT];
    int active[SP_TASK_COUNT]; /* submitted, not answered */
    uint64_t random_state;
    sp_guard guard;
    void (*on_quarantine)(void *context, const char *task, const char *link);
    void *on_quarantine_context;
    sp_queue queues[SP_OP_COUNT];
    sp_queue suspects[SP_OP_COUNT];
    uint32_t rounds;   /* of looking through a queue, so far */
    sp_queue answered; /* done callbacks to make at the end of this turn */
    sp_models models;
    sp_poison poison;
    uint64_t deaths; /* of workers, so far */
    uint64_t oom_kills;
    sp_timer watchdog;
    int64_t watchdog_due_ns;
    sp_timer devices_timer;
    int64_t devices_due_ns;
    sp_share_fn *share; /* NULL = keys' quotas are counted here alone */
    void *share_context;
    sp_machine machine;
    int64_t memory_seen_ns;
    bool memory_short; /* new requests are shed */
    bool ending;
    sp_spin spin;
    int64_t sleep_began_ns; /* 0 = this one is not counted */
    int open_count, leased_count;
    uint64_t body_bytes_held; /* of all requests open */
    sp_metric *stale_metric, *poison_metric, *fallback_metric, *requeued_metric, *shed_metric;
};

/* shm.c */
sp_status sp_shm_house_make(sp_house *house, sp_error *reterr);
void sp_shm_house_free(sp_house *house);
sp_status sp_shm_worker_make(sp_worker *worker, sp_error *reterr);
void sp_shm_worker_free(sp_worker *worker);
/* The mapping of one incarnation goes when the last reference does. */
sp_status sp_shm_reopen_read_only(int fd, int *ret_fd, sp_error *reterr);

/* guard.c */
void sp_guard_open(sp_house *house);
void sp_guard_close(sp_house *house);
void sp_guard_turn(sp_house *house);              /* once a turn of the loop */
void sp_guard_worker_ready(sp_worker *worker);    /* its links are due for a look at golden inputs */
void sp_guard_look(sp_request *request, const sp_lease *lease); /* a right answer is about to be delivered */
bool sp_guard_hold(sp_request *request);          /* it was closed: true = the guard keeps its slot for a while */
bool sp_guard_give_back(sp_house *house);         /* slots are short: one that is kept is let go */

/* request.c */
void sp_request_answer(sp_request *request, sp_status status); /* moves it to `answered`: delivered later this turn */
void sp_request_answer_now(sp_request *request); /* SP_OK; its content is borrowed, so the callback comes at once */
void sp_request_deliver(sp_house *house); /* calls the callbacks */
void sp_request_recycle_if_done(sp_request *request);
/* Instead of submit, for the house's own requests to one worker (LOAD, UNLOAD). Failed: as before, to be closed. */
sp_status sp_request_hand_over(sp_request *request, sp_worker *worker, sp_op op, sp_request_done_fn *done, void *context,
                               sp_error *reterr);
/* What a FETCH left in the output becomes the body: sealed against writing, mapped read-only. */
sp_status sp_request_adopt_body(sp_request *request, uint64_t size_bytes, sp_error *reterr);
/* The same for a FETCH into a file of the caller's: only its size is looked at. */
sp_status sp_request_adopt_file(sp_request *request, uint64_t size_bytes, sp_error *reterr);
/* What a REPORT left there becomes the answer's file, sealed likewise. */
sp_status sp_request_adopt_report(sp_request *request, uint64_t size_bytes, sp_error *reterr);
static inline bool sp_request_is_of_video(const sp_request *request)
{
    return request->task == SP_TASK_INDEX || request->task == SP_TASK_ANALYZE || request->task == SP_TASK_REPORT;
}
void sp_queue_push(sp_queue *queue, sp_request *request);
void sp_queue_push_front(sp_queue *queue, sp_request *request);
void sp_queue_remove(sp_queue *queue, sp_request *request);
sp_attempt *sp_request_attempt_add(sp_request *request, const char *link, sp_status status, int64_t start_ns,
                                   const char *reason);

#endif
