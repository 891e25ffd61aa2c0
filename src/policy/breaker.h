/* SPDX-License-Identifier: Apache-2.0
 * A circuit breaker: closed, open, half-open. Pure state; the caller gives the time, so tests take microseconds.
 *
 *   CLOSED    counts outcomes over a sliding window of 10 buckets. Opens when `consecutive_failures` in a row were seen,
 *             or when the window holds at least `minimum_calls` and their failure share reaches `failure_percent`.
 *             Only a failure opens it.
 *   OPEN      refuses until open_ns has passed; each opening without a success in between doubles it, up to open_max_ns.
 *   HALF_OPEN lets at most `probes` calls through at once; `probes` successes close it, one failure opens it again.
 *
 * One thread at a time. What counts as a failure is sp_status_feeds_breaker (base/status.h). */
#ifndef SP_POLICY_BREAKER_H
#define SP_POLICY_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_breaker_settings {
    int consecutive_failures; /* 0 = not judged by it */
    int failure_percent;      /* 0 = not judged by it */
    int minimum_calls;
    int64_t window_ns;
    int64_t open_ns, open_max_ns;
    int probes;
} sp_breaker_settings;

/* 5 in a row, or 50 % of at least 20 calls in 30 s; open for 5 s up to 60 s; 3 probes. */
sp_breaker_settings sp_breaker_settings_default(void);

typedef enum sp_breaker_state { SP_BREAKER_CLOSED, SP_BREAKER_OPEN, SP_BREAKER_HALF_OPEN } sp_breaker_state;
const char *sp_breaker_state_name(sp_breaker_state state); /* "closed", "open", "half_open" */

#define SP_BREAKER_BUCKETS 10

typedef struct sp_breaker {
    sp_breaker_settings settings;
    sp_breaker_state state;
    uint32_t epoch; /* grows with each change of state; outcomes of an older epoch are ignored */
    int in_a_row;
    int openings; /* in a row, without a success in between */
    int64_t opened_ns, open_until_ns;
    int probes_out, probes_ok;
    struct {
        int64_t index;
        int calls, failures;
    } buckets[SP_BREAKER_BUCKETS];
} sp_breaker;

void sp_breaker_init(sp_breaker *breaker, const sp_breaker_settings *settings);

/* Would a call be let through now? Changes nothing but OPEN -> HALF_OPEN when its time has come. */
bool sp_breaker_would_allow(sp_breaker *breaker, int64_t now_ns);

/* Takes a permit. *ret_ticket goes with the call and back into record or release. */
bool sp_breaker_allow(sp_breaker *breaker, int64_t now_ns, uint32_t *ret_ticket);
void sp_breaker_record(sp_breaker *breaker, uint32_t ticket, bool success, int64_t now_ns);
void sp_breaker_release(sp_breaker *breaker, uint32_t ticket); /* the call ended without saying anything of the link */

/* Opens it at once and for this long (Retry-After, quarantine); one that is open already stays so at least as long.
 * Does not count as an opening that doubles the next. */
void sp_breaker_trip(sp_breaker *breaker, int64_t now_ns, int64_t for_ns);

/* When the next call may be let through; now_ns when it may be now. Half-open with every probe out: nobody knows; then
 * open_ns from now, which is what a failed probe would make of it. */
int64_t sp_breaker_retry_at(const sp_breaker *breaker, int64_t now_ns);

#endif
