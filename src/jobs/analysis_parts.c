/* SPDX-License-Identifier: Apache-2.0
 * sp_analysis_parts over the job store: finished segments are parts of the job, put under its claim (by a helper: while the job
 * runs), and chunks are claimed in Redis when several servers may work on one video.
 *
 *   claim asked ── store: ours ──> granted ── asked again by the run ──> ours ── saved ──> saved
 *        └── somebody else's ──> free, asked again at the next look
 *
 * Two servers may still compute the same chunk (a claim ran out under a server that lives). That costs time only: both get the same
 * bytes, and the second ones are dropped. */
#include "jobs/run_analysis.h"

#include <stdlib.h>

bool sp_run_analysis_called(sp_run_analysis *a)
{
    a->calls--;
    if (!a->gone)
        return true;
    sp_run_analysis_end(a);
    return false;
}

/* --- load and arrived: the run wants its reply, whatever has become of us ------------------------------------------------ */

typedef struct parts_look {
    sp_run_analysis *of;
    sp_parts_loaded_fn *reply;
    void *reply_context;
} parts_look;

static void parts_came(const sp_job_reply *got, void *context)
{
    parts_look *look = context;
    sp_run_analysis *a = look->of;
    if (!got->status)
        a->parts_seen = SP_MAX(a->parts_seen, got->next);
    /* What cannot be read now is computed again. */
    look->reply(got->status ? (sp_view){ 0 } : got->body, look->reply_context);
    free(look);
    (void)sp_run_analysis_called(a);
}

static void parts_get(void *context, sp_parts_loaded_fn *reply, void *reply_context)
{
    sp_run_analysis *a = context;
    parts_look *look = malloc(sizeof(*look));
    if (!look) {
        reply((sp_view){ 0 }, reply_context);
        return;
    }
    *look = (parts_look){ .of = a, .reply = reply, .reply_context = reply_context };
    a->calls++;
    sp_jobs_parts_get(a->runner->config.jobs, a->job.id, a->parts_seen, parts_came, look);
}

/* --- save ------------------------------------------------------------------------------------------------------------- */

typedef struct parts_save {
    sp_run_analysis *of;
    sp_parts_saved_fn *reply;
    void *reply_context;
} parts_save;

static void part_saved(const sp_job_reply *put, void *context)
{
    parts_save *save = context;
    sp_run_analysis *a = save->of;
    save->reply(put->status, put->error, save->reply_context);
    free(save);
    bool lost = put->status == SP_CONFLICT && !a->gone && !a->run;
    if (sp_run_analysis_called(a) && lost)
        sp_run_analysis_end(a); /* the job we helped with is over */
}

static chunk_claim *claim_of(sp_run_analysis *a, uint32_t first)
{
    chunk_claim *c = a->claims;
    while (c && c->first != first)
        c = c->next;
    return c;
}

static void part_save(void *context, uint32_t first_segment, sp_view segments, sp_parts_saved_fn *reply, void *reply_context)
{
    sp_run_analysis *a = context;
    chunk_claim *claim = claim_of(a, first_segment);
    parts_save *save = malloc(sizeof(*save));
    if (claim)
        claim->state = CLAIM_SAVED;
    if (!save) {
        sp_error err = { 0 };
        sp_status s = SP_FAIL(&err, SP_NOMEM, "no memory to keep a chunk");
        reply(s, &err, reply_context);
        return;
    }
    *save = (parts_save){ .of = a, .reply = reply, .reply_context = reply_context };
    a->calls++;
    sp_jobs_part_put(a->runner->config.jobs, a->job.id, a->run ? a->job.fence : 0, segments, part_saved, save);
}

/* --- claims of chunks --------------------------------------------------------------------------------------------------- */

static void chunk_claimed(const sp_job_reply *reply, void *context)
{
    chunk_claim *c = context;
    sp_run_analysis *a = c->of;
    if (!sp_run_analysis_called(a))
        return;
    c->renewing = false;
    if (c->state == CLAIM_ASKED) {
        c->state = reply->status ? CLAIM_FREE : CLAIM_GRANTED;
        c->since_ns = sp_loop_now_ns(a->runner->config.loop);
        if (!reply->status && a->analysis)
            sp_analysis_run_poke(a->analysis);
    }
    if (reply->status == SP_CONFLICT && !a->run)
        sp_run_analysis_end(a);
}

static void ask(chunk_claim *c)
{
    sp_run_analysis *a = c->of;
    c->since_ns = sp_loop_now_ns(a->runner->config.loop);
    c->renewing = true;
    a->calls++;
    sp_jobs_chunk_claim(a->runner->config.jobs, a->job.id, c->first, chunk_claimed, c);
}

static int claims_most(const sp_house *house)
{
    int devices = 0;
    for (int i = 0; i < sp_house_link_count(house); i++) {
        sp_link_info info;
        sp_house_link_info(house, i, &info);
        devices += strcmp(info.task, "analyze") == 0 && !info.remote && !info.quarantined;
    }
    return SP_MAX(2 * devices + 1, ANALYSIS_CLAIMS);
}

static bool chunk_claim_now(void *context, uint32_t first_segment, uint32_t segment_count)
{
    sp_run_analysis *a = context;
    int in_hand = 0;
    chunk_claim *c = claim_of(a, first_segment);
    (void)segment_count;
    for (const chunk_claim *other = a->claims; other; other = other->next)
        in_hand += other->state == CLAIM_ASKED || other->state == CLAIM_GRANTED || other->state == CLAIM_OURS;
    if (!c) {
        c = calloc(1, sizeof(*c));
        if (!c)
            return true; /* at worst it is computed twice */
        *c = (chunk_claim){ .of = a, .next = a->claims, .first = first_segment };
        a->claims = c;
    }
    if (c->state == CLAIM_GRANTED)
        c->state = CLAIM_OURS;
    if (c->state == CLAIM_FREE && !c->renewing && in_hand < claims_most(a->runner->config.house)) {
        c->state = CLAIM_ASKED;
        ask(c);
    }
    return c->state == CLAIM_OURS || c->state == CLAIM_SAVED;
}

void sp_run_analysis_claims_look(sp_run_analysis *a, int64_t now_ns)
{
    int64_t renew_ns = sp_jobs_renew_ms(a->runner->config.jobs) * SP_NS_PER_MS;
    for (chunk_claim *c = a->claims; c; c = c->next) {
        if (c->state == CLAIM_GRANTED && now_ns - c->since_ns > ANALYSIS_UNWANTED_MS * SP_NS_PER_MS)
            c->state = CLAIM_FREE;
        else if (c->state == CLAIM_OURS && !c->renewing && now_ns - c->since_ns >= renew_ns)
            ask(c);
    }
}

void sp_run_analysis_parts(sp_run_analysis *a, sp_analysis_parts *ret_parts)
{
    bool several = sp_jobs_several(a->runner->config.jobs);
    *ret_parts = (sp_analysis_parts){
        .context = a,
        .load = parts_get,
        .save = part_save,
        .claim = several ? chunk_claim_now : NULL,
        .arrived = several ? parts_get : NULL,
    };
}
