/* SPDX-License-Identifier: Apache-2.0
 * Served models, as the other files of the route see them.
 *
 *   model   one loaded version, by its number; what is wanted of it (loaded, or let go) and how many requests are open for it
 *   place   that model at one worker: what this worker has said of it
 *
 * models.c keeps them and answers for them (route/house.h) · loads.c asks workers · chain.c looks at places · infer.c takes
 * answers. Loop thread only. */
#ifndef SP_ROUTE_MODELS_H
#define SP_ROUTE_MODELS_H

#include "model/config.h"
#include "route/internal.h"

/* Loaded versions at once. A repository has SP_LIMIT_MODELS models; during reloads, and with several versions, there are more. */
#define SP_LIMIT_LOADED 1024

/* LOADs out at one worker: it does one after the other, so a second one would only use up its time by waiting. UNLOADs, which
 * wait for what runs. Each takes a slot. */
#define SP_LIMIT_LOADS_AT_ONCE 1
#define SP_LIMIT_UNLOADS_AT_ONCE 4

/* The text of one load: a configuration has at most SP_LIMIT_MODEL_CONFIG_BYTES, JSON escapes may make more of it. */
#define SP_LIMIT_LOAD_SPEC_BYTES (4u * 1024 * 1024)

/* The header of a request that a codec unpacked: no data are in it any more. */
#define SP_LIMIT_UNPACKED_HEADER_BYTES (1024u * 1024)

#define SP_CRASHES_OF_A_LOAD 2 /* of the worker, while it loads a version: after so many it is left alone */

typedef enum sp_place_state {
    SP_PLACE_EMPTY,   /* not there. Its LOAD is due when the worker should have it */
    SP_PLACE_LOADING, /* its LOAD is out */
    SP_PLACE_READY,
    SP_PLACE_FAILED,  /* `error` says why; not asked again */
    SP_PLACE_LEAVING, /* its UNLOAD is out */
} sp_place_state;

typedef struct sp_place {
    sp_place_state state;
    bool may_be_there;   /* FAILED by time: the worker may have it nevertheless */
    int crashes;         /* in a row */
    uint32_t shut;       /* EMPTY: not asked again by this incarnation, which said that only another one may help */
    sp_request *request; /* of LOADING and LEAVING */
    sp_answer_loaded loaded;
    sp_error error;
    sp_latency latency;
    sp_breaker breaker; /* in place of its link's: a model that fails must not put the others last */
    sp_breaker_state breaker_told;
} sp_place;

typedef struct sp_loaded {
    sp_house *house;
    uint32_t id;
    bool forgotten; /* unloaded: for those that are open only */
    bool given_up;  /* nobody could load it: no worker is asked any more */
    bool told;      /* `done` was called, or must not be */
    int open_count;
    bool waited_for; /* loads.c: by requests, or as a step of what they wait for */
    uint32_t waits_round; /* dispatch.c: in this round of a queue it was found that its requests must wait */
    sp_buf spec;
    int step_count;
    uint32_t steps[SP_LIMIT_ENSEMBLE_STEPS]; /* numbers of an ensemble's models */
    int64_t timeout_ns; /* of one LOAD */
    sp_timer timer;     /* `done` does not wait longer for workers that do not come up */
    sp_model_loaded_fn *done;
    void *context;
    sp_place places[SP_LIMIT_WORKERS];
} sp_loaded;

/* models.c */
sp_loaded *sp_loaded_find(const sp_house *house, uint32_t id); /* NULL; forgotten ones are found as well */
void sp_models_open(sp_house *house);
void sp_models_choose_workers(sp_house *house); /* after a new snapshot: who should have models */
void sp_models_free(sp_house *house);           /* cancels what is out; before the house's end */
/* May a request be opened for `id`? */
sp_status sp_loaded_admit(sp_house *house, uint32_t id, sp_loaded **ret_model, sp_error *reterr);
void sp_loaded_join(sp_request *request, sp_loaded *model);
void sp_loaded_leave(sp_request *request); /* it has its answer, or nobody wants one; nothing when it was not joined */
bool sp_loaded_wanted_at(const sp_loaded *model, int worker);
bool sp_loaded_coming_at(const sp_loaded *model, int worker); /* it is not there, but will be, or may */
void sp_models_tell(sp_house *house);  /* whoever loads one for which everybody has answered */
void sp_models_sweep(sp_house *house); /* frees those that are forgotten, that nobody has and nobody asks for */

/* loads.c */
void sp_models_turn(sp_house *house); /* gives the LOADs and UNLOADs that are due; cheap when none is */
void sp_models_worker_gone(sp_worker *worker); /* it has none of them any more. Before its leases are handed back */
/* A LOAD or UNLOAD was out at a worker that died: its request is closed in here. `counts`: against the model. */
void sp_models_orphaned(sp_worker *worker, sp_request *request, bool counts);
sp_status sp_models_take(const sp_worker *worker, sp_request *request, const sp_completion *done, sp_error *reterr);

/* The breaker that judges a lease of `entry` for the request (its model's there, else the link's); a change is told. */
sp_breaker *sp_loaded_breaker(const sp_request *request, const sp_chain_entry *entry);
void sp_loaded_note_breaker(sp_loaded *model, int worker, int64_t now_ns);

/* infer.c: what a worker answered, copied and checked. */
sp_status sp_infer_take(const sp_worker *worker, sp_request *request, const sp_completion *done, uint32_t offset,
                        uint32_t size_bytes);
/* What a codec unpacked: its header goes to the caller, who fills the head. */
sp_status sp_infer_unpacked(const sp_worker *worker, sp_request *request, const sp_completion *done);
bool sp_infer_is_sequence(const sp_request *request);
bool sp_infer_wants_pixels(const sp_request *request); /* RGB8, before its first link */
bool sp_infer_is_lost(const sp_request *request); /* it is pinned to an incarnation that is no more */
void sp_infer_begin(sp_request *request, const sp_request_params *params); /* at open: the head */

#endif
