/* SPDX-License-Identifier: Apache-2.0
 * The served models as data; private to this room. Loop thread only, but for what an op's store work touches.
 *
 *   model       a name. Has at most one *current* generation, which new requests go to, and a queue of ops.
 *   generation  what one load brought: a card and a loaded version in the house for each of its versions. It lives until
 *               nobody needs it: not current, bound by no ensemble, no call in it.
 *   op          one load, unload or rebind. A model does one at a time, in order:
 *
 *     load:    QUEUED -> LOOKING (store thread: locate, stamp, `spillway inspect`) -> WAITING (an ensemble, for its models)
 *              -> LOADING (house) -> switch: the new generation is current, the old one is let go
 *              An ensemble that no worker has all models of goes through LOADING once more, *spread* (course.h).
 *     rebind:  an ensemble whose model was switched gets a generation of the same card with the new numbers
 *     unload:  ensembles that need it first; nothing is current
 *
 *   Any failure leaves the current generation where it is and is kept as the model's reason. */
#ifndef SP_SERVING_REGISTRY_H
#define SP_SERVING_REGISTRY_H

#include "serving/parts.h"
#include "serving/repository.h"

#include <stdatomic.h>

typedef struct served_model served_model;
typedef struct generation generation;

typedef struct shared_card {
    int references;
    sp_model_card *card;
} shared_card;

typedef struct served_version {
    sp_served served; /* first: sp_served_unref finds the rest */
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    generation *generation;
    bool in_house; /* sp_house_model_load was called and it is not unloaded */
    bool told;
    sp_error error;
} served_version;

struct generation {
    int references; /* of served versions in use, and one of the registry's */
    sp_serving *serving;
    served_model *model;
    shared_card *card;
    char *override; /* "" = config.pbtxt */
    uint64_t stamp;
    uint32_t step_models[SP_LIMIT_ENSEMBLE_STEPS];
    bool spread;                   /* an ensemble that no worker has all models of: in the house stands its last stage alone */
    struct sp_ensemble_plan *plan; /* of an ensemble */
    int version_count;
    served_version versions[SP_LIMIT_SERVED_VERSIONS];
    generation *next; /* of those that are leaving */
};

typedef enum op_kind { OP_LOAD, OP_REBIND, OP_UNLOAD } op_kind;
typedef enum op_state { OP_QUEUED, OP_LOOKING, OP_WAITING, OP_LOADING, OP_OVER } op_state;
typedef struct op {
    sp_store_work work; /* first */
    sp_serving *serving;
    served_model *model;
    op_kind kind;
    op_state state;
    bool dependents;   /* unload: an ensemble's own models as well */
    bool quietly;      /* load: only if it is not loaded */
    bool asked;        /* WAITING: models that nobody had asked for were asked for */
    int64_t begun_ns;
    char *override;
    char reason[128];  /* unload */
    sp_error error;
    sp_serving_done_fn *done; /* NULL = nobody */
    void *context;
    /* LOOKING: */
    bool looked;       /* the store thread has been there */
    sp_found_model found;
    bool known;           /* this stamp and this override are what is current: then nothing is to do */
    uint64_t known_stamp;
    bool unchanged;
    shared_card *card;
    sp_model_card *made;  /* the store thread's, until the loop takes it */
    /* LOADING: */
    generation *loading;
    struct op *next;
} op;

struct served_model {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    bool present;          /* in the repositories, when they were last looked at */
    bool failed;           /* the last load did */
    bool was_unloaded;
    char reason[256];
    int version_count;     /* of the last card: the index shows them also when nothing is loaded */
    int64_t versions[SP_LIMIT_SERVED_VERSIONS];
    uint64_t tried_stamp, seen_stamp; /* polling: of the last load; of the last scan */
    int64_t retry_ns;      /* the failure may mend itself; 0 = no */
    generation *current, *leaving;
    op *ops, *ops_last;
    served_model *next;        /* all, sorted by name */
    served_model *bucket_next; /* of equal hashes */
};

#define SERVED_BUCKETS 256
#define SERVED_THREADS 2 /* inspections at once: they are other processes, which share the cores with workers */

typedef struct scan_work {
    sp_store_work work; /* first */
    sp_serving *serving;
    sp_repository_scan scan;
} scan_work;

struct sp_serving {
    sp_serving_config config;
    char *repositories[8];
    char *load_models[64];
    char *executable;
    sp_loop *loop;
    sp_house *house;
    sp_serving_parts *parts;
    sp_store_thread *threads[SERVED_THREADS];
    int next_thread;
    _Atomic bool stopping;
    served_model *models;
    served_model *buckets[SERVED_BUCKETS];
    int model_count;
    sp_timer kick; /* ops are looked at in a turn of their own */
    op *refused;   /* to be told so, without a model */
    /* watch.c */
    sp_timer poll;
    scan_work scan;
    int64_t scanned_ns; /* when the last one began */
    bool scanning, scanned, started; /* started: what was asked for at start is loaded or has failed */
};

/* serving.c */
served_model *sp_model_of(sp_serving *serving, const char *name);     /* NULL: never heard of */
served_model *sp_model_make(sp_serving *serving, const char *name);   /* NULL: memory, or too many */
void sp_model_forget(sp_serving *serving, served_model *model);       /* if there is nothing to say of it any more */
void sp_generation_unref(generation *gen);                            /* NULL is fine */
void sp_shared_card_unref(shared_card *card);                         /* the same */
bool sp_served_ready(sp_serving *serving, const sp_served *served, bool *ret_coming); /* as sp_house_model_ready */
served_version *sp_generation_version(generation *gen, int64_t number); /* -1 = the highest; NULL: it has none such */
void sp_generation_leave(generation *gen);                            /* not current (any more): goes when nobody needs it */
bool sp_generations_release(sp_serving *serving);                     /* lets those go that nobody needs; true: some are left */

/* control.c */
/* NULL: no memory. `override` NULL = "". */
op *sp_op_push(sp_serving *serving, served_model *model, op_kind kind, const char *override);
void sp_ops_kick(sp_serving *serving);
void sp_ops_cancel(sp_serving *serving); /* at the end: nothing is under way on a thread any more */
void sp_ops_fired(sp_timer *timer, void *context);

/* watch.c */
sp_status sp_watch_begin(sp_serving *serving, sp_error *reterr);
void sp_watch_end(sp_serving *serving);
void sp_watch_refresh(sp_serving *serving);   /* somebody wants to know what lies there */
void sp_watch_op_over(sp_serving *serving, served_model *model, const op *over);
void sp_watch_settled(sp_serving *serving);   /* no op is left */

#endif
