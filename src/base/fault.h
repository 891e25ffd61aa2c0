/* SPDX-License-Identifier: Apache-2.0
 * Named fault points: SPILLWAY_FAULTS="engine.run:fail@p=0.1,worker.batch:kill@n=50" makes a named place misbehave.
 *
 *   fault    = [ scope "/" ] point ":" action [ "@" selector { "&" selector } ]      scope = a worker's name: cpu0/worker.batch
 *   action   = fail | nomem | segv | kill | stop | spin | abort | exit | sleep=MS
 *   selector = p=0..1 (probability) | n=K (the K-th pass only) | every=K | from=K (it and all later) | body-prefix=TEXT (case-sensitive)
 *
 * `fail` and `nomem` are returned to the caller; the others happen right here (segv, kill and stop raise the signal,
 * spin burns CPU for ever). Compiled in with -Dfaults=true (default in development and CI); without it every point is
 * the constant SP_FAULT_NONE and costs nothing. Unset variable: one load and one compare. */
#ifndef SP_BASE_FAULT_H
#define SP_BASE_FAULT_H

#include "base/status.h"
#include "base/view.h"

typedef enum sp_fault_action { SP_FAULT_NONE, SP_FAULT_FAIL, SP_FAULT_NOMEM } sp_fault_action;

#ifdef SP_FAULTS
/* Parses the variable; an error names the first word that could not be read. NULL or "" arms nothing. The seed of the
 * p selector is SPILLWAY_FAULTS_SEED or 1. */
sp_status sp_fault_arm(const char *text, sp_error *reterr);
/* Rules with a scope hold only where this name (not copied) is set. */
void sp_fault_scope(const char *name);
sp_fault_action sp_fault_hit(const char *point, sp_view body);
extern bool sp_fault_armed;
#define SP_FAULT(point) (SP_UNLIKELY(sp_fault_armed) ? sp_fault_hit((point), (sp_view){ 0 }) : SP_FAULT_NONE)
#define SP_FAULT_BODY(point, body) (SP_UNLIKELY(sp_fault_armed) ? sp_fault_hit((point), (body)) : SP_FAULT_NONE)
#else
static inline sp_status sp_fault_arm(const char *text, sp_error *reterr)
{
    if (text && *text)
        return SP_FAIL(reterr, SP_UNSUPPORTED, "SPILLWAY_FAULTS is set, but this build has no fault points (-Dfaults=true)");
    return SP_OK;
}
static inline void sp_fault_scope(const char *name)
{
    (void)name;
}
#define SP_FAULT(point) SP_FAULT_NONE
#define SP_FAULT_BODY(point, body) SP_FAULT_NONE
#endif

#endif
