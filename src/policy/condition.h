/* SPDX-License-Identifier: Apache-2.0
 * The conditions of a link, as text in the configuration and as a test on a request:
 *
 *   tier in [premium, pro]      tier not in [free]
 *   queue_depth > 10            also >= < <= ==            requests of this task that wait now
 *   time in 22:00-06:00         local time; not in ...
 *   payload_bytes < 10MiB       duration_s > 30            duration of audio or video, when known
 *   force_cpu                   not force_cpu              the request asked for the CPU
 *   header X-Quality == high    parameter quality == high  also !=
 *
 * Parsing allocates nothing; the text is copied into the struct. */
#ifndef SP_POLICY_CONDITION_H
#define SP_POLICY_CONDITION_H

#include "base/status.h"

typedef enum sp_condition_kind {
    SP_CONDITION_TIER,
    SP_CONDITION_QUEUE_DEPTH,
    SP_CONDITION_TIME,
    SP_CONDITION_PAYLOAD_BYTES,
    SP_CONDITION_DURATION_S,
    SP_CONDITION_FORCE_CPU,
    SP_CONDITION_HEADER,
    SP_CONDITION_PARAMETER,
} sp_condition_kind;
typedef enum sp_compare { SP_LESS, SP_LESS_EQUAL, SP_EQUAL, SP_NOT_EQUAL, SP_GREATER_EQUAL, SP_GREATER } sp_compare;

typedef struct sp_condition {
    char text[192]; /* as written; names below point into no memory but this struct's */
    sp_condition_kind kind;
    bool negated;
    sp_compare compare;
    double number;
    int from_minute, to_minute; /* of the day; from > to spans midnight */
    char name[64];              /* header, parameter */
    char value[64];
    int tier_count;
    char tiers[8][24];
} sp_condition;

/* SP_INVALID: says which word was not understood and what could stand there. */
sp_status sp_condition_parse(const char *text, sp_condition *ret_condition, sp_error *reterr);

/* What is known of a request. NULL callbacks: nothing is known, such conditions do not hold (negated ones do). */
typedef struct sp_facts {
    const char *tier; /* never NULL; "" = none */
    int queue_depth;
    uint64_t payload_bytes;
    double duration_s; /* < 0 = unknown */
    bool force_cpu;
    int minute_of_day; /* local */
    const char *(*header)(void *context, const char *name);
    const char *(*parameter)(void *context, const char *name);
    void *context;
} sp_facts;
bool sp_condition_holds(const sp_condition *condition, const sp_facts *facts);
/* Its truth can change while a request waits (queue_depth, time). */
bool sp_condition_is_live(const sp_condition *condition);

#endif
