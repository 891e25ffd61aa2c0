/* SPDX-License-Identifier: Apache-2.0
 * Fault points: parsing of SPILLWAY_FAULTS and the actions. */
#include "base/fault.h"

#ifdef SP_FAULTS

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FAULT_RULES 16
#define FAULT_SLEEP_MAX_MS 600000 /* a fault point is for tests; ten minutes outlive any of them */

typedef enum fault_kind {
    KIND_FAIL, KIND_NOMEM, KIND_SEGV, KIND_KILL, KIND_STOP, KIND_SPIN, KIND_ABORT, KIND_EXIT, KIND_SLEEP
} fault_kind;

typedef struct fault_rule {
    char point[40];
    char body_prefix[40];
    fault_kind kind;
    int sleep_ms;
    double probability; /* 1 when not given */
    uint64_t only_pass; /* 0 = any */
    uint64_t every;     /* 0 = any */
    uint64_t from;      /* from this pass on; 0 = any */
    atomic_uint_fast64_t passes;
} fault_rule;

static fault_rule rules[FAULT_RULES];
static size_t rule_count;
static atomic_uint_fast64_t random_state;
static const char *fault_scope = "";
bool sp_fault_armed;

static const char *const kind_names[] = { "fail", "nomem", "segv", "kill", "stop", "spin", "abort", "exit", "sleep" };

/* A whole number from 1; nothing else may stand there. */
static bool parse_count(const char *text, uint64_t *ret_count)
{
    char *end = NULL;
    if (*text < '0' || *text > '9')
        return false;
    uint64_t count = strtoull(text, &end, 10);
    if (*end || count == 0)
        return false;
    *ret_count = count;
    return true;
}

static bool parse_probability(const char *text, double *ret_probability)
{
    char *end = NULL;
    double p = strtod(text, &end);
    if (end == text || *end || !(p >= 0 && p <= 1))
        return false;
    *ret_probability = p;
    return true;
}

static sp_status parse_action(fault_rule *rule, char *text, sp_error *reterr)
{
    char *value = strchr(text, '=');
    if (value)
        *value++ = 0;
    for (size_t i = 0; i < SP_ARRAY_LEN(kind_names); i++) {
        if (strcmp(text, kind_names[i]) == 0) {
            rule->kind = (fault_kind)i;
            if ((rule->kind == KIND_SLEEP) != (value != NULL))
                return SP_FAIL(reterr, SP_INVALID, "fault action '%s': only sleep takes a value, sleep=MS", text);
            if (value) {
                uint64_t ms;
                if (!parse_count(value, &ms) || ms > FAULT_SLEEP_MAX_MS)
                    return SP_FAIL(reterr, SP_INVALID, "fault action 'sleep=%s': wants 1 to %d milliseconds", value,
                                   FAULT_SLEEP_MAX_MS);
                rule->sleep_ms = (int)ms;
            }
            return SP_OK;
        }
    }
    return SP_FAIL(reterr, SP_INVALID,
                   "unknown fault action '%s' (fail, nomem, segv, kill, stop, spin, abort, exit, sleep=MS)", text);
}

static sp_status parse_selector(fault_rule *rule, const char *text, sp_error *reterr)
{
    bool ok = false;
    if (strncmp(text, "p=", 2) == 0) {
        ok = parse_probability(text + 2, &rule->probability);
    } else if (strncmp(text, "n=", 2) == 0) {
        ok = parse_count(text + 2, &rule->only_pass);
    } else if (strncmp(text, "every=", 6) == 0) {
        ok = parse_count(text + 6, &rule->every);
    } else if (strncmp(text, "from=", 5) == 0) {
        ok = parse_count(text + 5, &rule->from);
    } else if (strncmp(text, "body-prefix=", 12) == 0) {
        ok = text[12] && strlen(text + 12) < sizeof(rule->body_prefix);
        if (ok)
            (void)snprintf(rule->body_prefix, sizeof(rule->body_prefix), "%s", text + 12);
    }
    if (!ok)
        return SP_FAIL(reterr, SP_INVALID, "unknown fault selector '%s' (p=0.1, n=50, every=100, from=50, body-prefix=TEXT)", text);
    return SP_OK;
}

static sp_status parse_rule(char *text, sp_error *reterr)
{
    if (rule_count == FAULT_RULES)
        return SP_FAIL(reterr, SP_INVALID, "more than %d faults", FAULT_RULES);
    fault_rule *rule = &rules[rule_count];
    *rule = (fault_rule){ .probability = 1.0 };
    char *selectors = strchr(text, '@');
    if (selectors)
        *selectors++ = 0;
    char *action = strchr(text, ':');
    if (!action || action == text || (size_t)(action - text) >= sizeof(rule->point))
        return SP_FAIL(reterr, SP_INVALID, "fault '%s' is not POINT:ACTION[@SELECTOR]", text);
    *action++ = 0;
    (void)snprintf(rule->point, sizeof(rule->point), "%s", text);
    sp_status s = parse_action(rule, action, reterr);
    char *save = NULL;
    for (char *word = selectors ? strtok_r(selectors, "&", &save) : NULL; !s && word; word = strtok_r(NULL, "&", &save))
        s = parse_selector(rule, word, reterr);
    if (!s)
        rule_count++;
    return s;
}

sp_status sp_fault_arm(const char *text, sp_error *reterr)
{
    rule_count = 0;
    sp_fault_armed = false;
    if (!text || !*text)
        return SP_OK;
    const char *seed = getenv("SPILLWAY_FAULTS_SEED");
    atomic_store(&random_state, seed ? strtoull(seed, NULL, 10) : 1);
    char *copy = strdup(text), *save = NULL;
    if (!copy)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to parse SPILLWAY_FAULTS");
    sp_status s = SP_OK;
    for (char *word = strtok_r(copy, ",", &save); !s && word; word = strtok_r(NULL, ",", &save))
        s = parse_rule(word, reterr);
    free(copy);
    sp_fault_armed = !s && rule_count > 0;
    return s;
}

/* splitmix64: a counter in, 53 random bits out; threads may interleave, each draw is still its own. */
static double next_random(void)
{
    uint64_t z = atomic_fetch_add(&random_state, 0x9E3779B97F4A7C15u) + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

void sp_fault_scope(const char *name)
{
    fault_scope = name;
}

/* "cpu0/worker.batch" fits the point worker.batch where the scope is cpu0; "worker.batch" fits it anywhere. */
static bool rule_names(const fault_rule *rule, const char *point)
{
    const char *slash = strchr(rule->point, '/');
    if (!slash)
        return strcmp(rule->point, point) == 0;
    size_t length = (size_t)(slash - rule->point);
    return strlen(fault_scope) == length && strncmp(fault_scope, rule->point, length) == 0 && strcmp(slash + 1, point) == 0;
}

static bool rule_selects(fault_rule *rule, const char *point, sp_view body)
{
    if (!rule_names(rule, point))
        return false;
    if (rule->body_prefix[0] && !sp_view_starts_with(body, rule->body_prefix, strlen(rule->body_prefix)))
        return false;
    uint64_t pass = atomic_fetch_add(&rule->passes, 1) + 1;
    if (rule->only_pass && pass != rule->only_pass)
        return false;
    if (rule->every && pass % rule->every != 0)
        return false;
    if (rule->from && pass < rule->from)
        return false;
    return rule->probability >= 1.0 || next_random() < rule->probability;
}

static void raise_default(int signal_number)
{
    (void)signal(signal_number, SIG_DFL); /* sanitizers and handlers must not soften it */
    (void)raise(signal_number);
}

static sp_fault_action act(const fault_rule *rule)
{
    switch (rule->kind) {
    case KIND_FAIL:
        return SP_FAULT_FAIL;
    case KIND_NOMEM:
        return SP_FAULT_NOMEM;
    case KIND_SEGV:
        raise_default(SIGSEGV);
        break;
    case KIND_KILL:
        (void)raise(SIGKILL);
        break;
    case KIND_STOP:
        (void)raise(SIGSTOP);
        break;
    case KIND_ABORT:
        raise_default(SIGABRT);
        break;
    case KIND_EXIT:
        _exit(3);
    case KIND_SPIN:
        for (volatile uint64_t turns = 0;; turns++) { }
    case KIND_SLEEP: {
        struct timespec ts = { rule->sleep_ms / 1000, (long)(rule->sleep_ms % 1000) * 1000000 };
        (void)nanosleep(&ts, NULL);
        break;
    }
    }
    return SP_FAULT_NONE;
}

sp_fault_action sp_fault_hit(const char *point, sp_view body)
{
    for (size_t i = 0; i < rule_count; i++) {
        if (rule_selects(&rules[i], point, body)) {
            sp_fault_action action = act(&rules[i]);
            if (action != SP_FAULT_NONE)
                return action;
        }
    }
    return SP_FAULT_NONE;
}

#endif
