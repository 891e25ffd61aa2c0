/* SPDX-License-Identifier: Apache-2.0
 * policy/breaker: a table of scenarios on an injected clock, and random events against a model that keeps every outcome
 * and counts anew each time. */
#include "policy/breaker.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS INT64_C(1000000)

/* --- scenarios --------------------------------------------------------------------------------------------------- */

/* Steps: [count]step. f, s: a call that fails, succeeds at once. b: a call begins. bf bs br: the one begun first fails,
 * succeeds, says nothing. x: the next call is refused. +N: N ms pass. tN: tripped for N ms. C O H: the state.
 * @N: the next call may come in N ms.
 * Settings: 3 in a row, or 50 % of at least 6 in 1,000 ms; open 100 ms to 350 ms; 2 probes. */
static const struct {
    const char *name, *steps;
} scenarios[] = {
    { "closed lets everything through", "C 100s C @0" },
    { "three in a row open it", "2f C f O x" },
    { "a success between starts the row anew", "2f s 2f C" },
    { "half of six open it without a row", "f s f s s C f O" },
    { "half of five do not", "f s f s f C" },
    { "only a failure opens it", "2f s 2f s C" },
    { "what is older than the window is forgotten", "s f s f s +1000 f C 2f O" },
    { "the window slides by tenths", "f s f s s +900 f O" },
    { "open refuses until its time has come", "3f O x @100 +99 x @1 +1 @0 b H" },
    { "half-open lets two through at once", "3f +100 2b x @100 H" },
    { "two successes close it", "3f +100 2b bs H bs C" },
    { "one probe after the other closes it as well", "3f +100 s H s C" },
    { "one failed probe opens it again", "3f +100 2b bs H bf O" },
    { "a probe that says nothing frees its place", "3f +100 2b x br b x H" },
    { "openings without a success double, up to the most", "3f @100 +100 f O @200 +200 f O @350 +350 f O @350" },
    { "a success between starts the doubling anew", "3f +100 f @200 +200 2s C 3f O @100" },
    { "a success of one probe does so too", "3f +100 f @200 +200 b s bf O @100" },
    { "late news of the time before it opened is ignored", "4b bf bf bf O bs O +100 H? 2s C" },
    { "late failure of the time before does not shut a half-open one", "4b 3bf O +100 b H bf H bs H s C" },
    { "late failures of the time before do not count for the closed one", "7b 3bf O +100 2s C 4bf C 2f C f O" },
    { "a trip opens at once", "t40 O x @40 +40 2s C" },
    { "a trip keeps an open one open longer", "3f @100 t500 @500 +499 x +1 2s C" },
    { "a shorter trip does not open an open one earlier", "3f @100 t10 @100" },
    { "a trip does not count for the doubling", "t10 +10 2s C t10 +10 f O @100" },
    { "a trip out of half-open", "3f +100 b t50 O @50 bs O +50 2s C" },
    { "a call that says nothing changes nothing", "2f b br C f O" },
};

static sp_breaker_settings table_settings(void)
{
    return (sp_breaker_settings){ .consecutive_failures = 3, .failure_percent = 50, .minimum_calls = 6, .window_ns = 1000 * MS,
                                  .open_ns = 100 * MS, .open_max_ns = 350 * MS, .probes = 2 };
}

typedef struct stage {
    const char *name;
    sp_breaker breaker;
    int64_t now_ns;
    uint32_t tickets[64];
    int first, last;
} stage;

#define SAY(format, ...) test_fail(__FILE__, __LINE__, "%s: step \"%s\": " format, s->name, step, __VA_ARGS__)

static void end_first(stage *s, const char *step)
{
    if (s->first == s->last) {
        SAY("%s", "no call has begun");
        return;
    }
    uint32_t ticket = s->tickets[s->first++];
    if (step[1] == 'r')
        sp_breaker_release(&s->breaker, ticket);
    else
        sp_breaker_record(&s->breaker, ticket, step[1] == 's', s->now_ns);
}

static void play(stage *s, const char *step)
{
    uint32_t ticket = 0;
    switch (step[0]) {
    case 'f':
    case 's':
    case 'b':
        if (step[1]) {
            end_first(s, step);
        } else if (!sp_breaker_allow(&s->breaker, s->now_ns, &ticket)) {
            SAY("refused, state %s", sp_breaker_state_name(s->breaker.state));
        } else if (step[0] == 'b') {
            s->tickets[s->last++] = ticket;
        } else {
            sp_breaker_record(&s->breaker, ticket, step[0] == 's', s->now_ns);
        }
        break;
    case 'x':
        if (sp_breaker_allow(&s->breaker, s->now_ns, &ticket))
            SAY("%s", "let through");
        break;
    case '+':
        s->now_ns += strtoll(step + 1, NULL, 10) * MS;
        break;
    case 't':
        sp_breaker_trip(&s->breaker, s->now_ns, strtoll(step + 1, NULL, 10) * MS);
        break;
    case '@':
        if (sp_breaker_retry_at(&s->breaker, s->now_ns) != s->now_ns + strtoll(step + 1, NULL, 10) * MS)
            SAY("in %lld us", (long long)(sp_breaker_retry_at(&s->breaker, s->now_ns) - s->now_ns) / 1000);
        break;
    default: {
        static const char letters[] = { [SP_BREAKER_CLOSED] = 'C', [SP_BREAKER_OPEN] = 'O', [SP_BREAKER_HALF_OPEN] = 'H' };
        if (step[1] == '?' && !sp_breaker_would_allow(&s->breaker, s->now_ns))
            SAY("%s", "would refuse");
        if (letters[s->breaker.state] != step[0])
            SAY("is %s", sp_breaker_state_name(s->breaker.state));
    }
    }
}

TEST(breaker_table)
{
    sp_breaker_settings settings = table_settings();
    for (size_t i = 0; i < SP_ARRAY_LEN(scenarios); i++) {
        stage s = { .name = scenarios[i].name, .now_ns = 7 * 1000 * MS };
        sp_breaker_init(&s.breaker, &settings);
        char steps[256], *rest = steps;
        REQUIRE(strlen(scenarios[i].steps) < sizeof(steps));
        memcpy(steps, scenarios[i].steps, strlen(scenarios[i].steps) + 1);
        for (char *step; (step = strsep(&rest, " "));) {
            char *verb = step;
            long times = strtol(step, &verb, 10);
            for (long n = 0; n < (verb == step || *step == '+' ? 1 : times); n++)
                play(&s, *step == '+' ? step : verb);
        }
    }
}

TEST(breaker_judges_only_by_what_is_set)
{
    sp_breaker_settings settings = table_settings();
    sp_breaker b;
    uint32_t ticket = 0;

    settings.consecutive_failures = settings.failure_percent = 0;
    sp_breaker_init(&b, &settings);
    for (int i = 0; i < 1000; i++) {
        REQUIRE(sp_breaker_allow(&b, i, &ticket));
        sp_breaker_record(&b, ticket, false, i);
    }
    CHECK_INT(b.state, SP_BREAKER_CLOSED);

    settings.failure_percent = 100;
    sp_breaker_init(&b, &settings);
    for (int i = 0; i < 6; i++) {
        REQUIRE(sp_breaker_allow(&b, i, &ticket));
        sp_breaker_record(&b, ticket, false, i);
    }
    CHECK_INT(b.state, SP_BREAKER_OPEN);
}

TEST(breaker_survives_absurd_settings)
{
    sp_breaker b;
    uint32_t ticket = 0;
    sp_breaker_init(&b, &(sp_breaker_settings){ .consecutive_failures = 1, .open_ns = INT64_MAX, .probes = -3 });
    REQUIRE(sp_breaker_allow(&b, 5, &ticket));
    sp_breaker_record(&b, ticket, false, 5);
    CHECK_INT(b.state, SP_BREAKER_OPEN);
    CHECK_INT(sp_breaker_retry_at(&b, 6), INT64_MAX);
    sp_breaker_trip(&b, INT64_MAX - 1, INT64_MAX);
    CHECK_INT(b.open_until_ns, INT64_MAX);
    CHECK_TEXT(sp_breaker_state_name(SP_BREAKER_HALF_OPEN), "half_open");
}

TEST(breaker_defaults_are_those_of_the_header)
{
    sp_breaker_settings s = sp_breaker_settings_default();
    CHECK(s.consecutive_failures == 5 && s.failure_percent == 50 && s.minimum_calls == 20 && s.window_ns == 30000 * MS &&
          s.open_ns == 5000 * MS && s.open_max_ns == 60000 * MS && s.probes == 3);
}

/* --- the model --------------------------------------------------------------------------------------------------- */

/* Keeps every outcome of the current period (since the state last changed) and every call that is out, and derives the
 * rest from them. Nothing is counted along the way. */
#define EVENTS 4000
#define OUT 64

typedef struct model {
    sp_breaker_settings set;
    char state; /* C, O, H */
    int period; /* grows with each change */
    int openings;
    int64_t until_ns;
    struct {
        int64_t at_ns;
        bool success;
    } log[EVENTS];
    int logged;
    struct {
        int period;
        uint32_t ticket;
    } out[OUT];
    int out_count;
} model;

static void model_enter(model *m, char state)
{
    m->state = state;
    m->period++;
    m->logged = 0;
}

static int model_probes_out(const model *m)
{
    int count = 0;
    for (int i = 0; i < m->out_count; i++)
        count += m->out[i].period == m->period;
    return count;
}

static int model_row(const model *m)
{
    int row = 0;
    while (row < m->logged && !m->log[m->logged - 1 - row].success)
        row++;
    return row;
}

static bool model_rate_reached(const model *m, int64_t now_ns)
{
    int64_t tenth_ns = m->set.window_ns / 10;
    int calls = 0, failures = 0;
    for (int i = 0; i < m->logged; i++) {
        if (now_ns / tenth_ns - m->log[i].at_ns / tenth_ns < 10) {
            calls++;
            failures += !m->log[i].success;
        }
    }
    return m->set.failure_percent && calls >= m->set.minimum_calls && 100.0 * failures >= (double)m->set.failure_percent * calls;
}

static void model_open(model *m, int64_t now_ns)
{
    double for_ns = (double)m->set.open_ns * pow(2, m->openings++);
    m->until_ns = now_ns + (int64_t)fmin(for_ns, (double)m->set.open_max_ns);
    model_enter(m, 'O');
}

static bool model_allows(model *m, int64_t now_ns)
{
    if (m->state == 'O' && now_ns >= m->until_ns)
        model_enter(m, 'H');
    return m->state == 'C' || (m->state == 'H' && model_probes_out(m) < m->set.probes);
}

static void model_outcome(model *m, int which, bool success, int64_t now_ns)
{
    bool counts = m->out[which].period == m->period;
    m->out[which] = m->out[--m->out_count];
    if (!counts)
        return;
    m->log[m->logged].at_ns = now_ns;
    m->log[m->logged++].success = success;
    if (success)
        m->openings = 0;
    if (m->state == 'H') {
        int successes = 0;
        for (int i = 0; i < m->logged; i++)
            successes += m->log[i].success;
        if (!success)
            model_open(m, now_ns);
        else if (successes >= m->set.probes)
            model_enter(m, 'C');
    } else if (!success && ((m->set.consecutive_failures && model_row(m) >= m->set.consecutive_failures) ||
                            model_rate_reached(m, now_ns))) {
        model_open(m, now_ns);
    }
}

static void model_trip(model *m, int64_t now_ns, int64_t for_ns)
{
    if (m->state != 'O') {
        m->until_ns = now_ns + for_ns;
        model_enter(m, 'O');
    } else if (now_ns + for_ns > m->until_ns) {
        m->until_ns = now_ns + for_ns;
    }
}

static sp_breaker_settings random_settings(void)
{
    return (sp_breaker_settings){ .consecutive_failures = test_random_between(0, 6),
                                  .failure_percent = test_random_between(0, 4) * 25,
                                  .minimum_calls = test_random_between(1, 20),
                                  .window_ns = test_random_between(10, 2000) * MS,
                                  .open_ns = test_random_between(0, 50) * MS,
                                  .open_max_ns = test_random_between(50, 400) * MS,
                                  .probes = test_random_between(1, 4) };
}

/* One random event on both; returns what it was. */
static const char *random_event(sp_breaker *b, model *m, int64_t now_ns, int bad_percent)
{
    int what = test_random_between(0, 99);
    if (what < 50 && m->out_count < OUT) {
        uint32_t ticket = 0;
        bool may = model_allows(m, now_ns), allowed = sp_breaker_allow(b, now_ns, &ticket);
        CHECK_INT(allowed, may);
        if (!allowed || !may)
            return "refused";
        m->out[m->out_count].period = m->period;
        m->out[m->out_count++].ticket = ticket;
        return "begin";
    }
    if (what < 92 && m->out_count) {
        int which = test_random_between(0, m->out_count - 1);
        bool success = test_random_between(0, 99) >= bad_percent;
        sp_breaker_record(b, m->out[which].ticket, success, now_ns);
        model_outcome(m, which, success, now_ns);
        return success ? "success" : "failure";
    }
    if (what < 97 && m->out_count) {
        int which = test_random_between(0, m->out_count - 1);
        sp_breaker_release(b, m->out[which].ticket);
        m->out[which] = m->out[--m->out_count];
        return "release";
    }
    if (what == 99) {
        int64_t for_ns = test_random_between(0, 300) * MS;
        sp_breaker_trip(b, now_ns, for_ns);
        model_trip(m, now_ns, for_ns);
        return "trip";
    }
    CHECK_INT(sp_breaker_would_allow(b, now_ns), model_allows(m, now_ns));
    return "ask";
}

TEST(breaker_does_what_the_model_does)
{
    static const char letters[] = { [SP_BREAKER_CLOSED] = 'C', [SP_BREAKER_OPEN] = 'O', [SP_BREAKER_HALF_OPEN] = 'H' };
    static model m;
    int seen[128] = { 0 };

    for (int round = 0; round < 300; round++) {
        sp_breaker_settings settings = random_settings();
        sp_breaker b;
        sp_breaker_init(&b, &settings);
        memset(&m, 0, sizeof(m));
        m.set = settings;
        m.state = 'C';
        int64_t now_ns = test_random_between(0, 1000000) * MS;
        int bad_percent = test_random_between(0, 4) * 25;

        for (int i = 0; i < 1000; i++) {
            if (!test_random_between(0, 3))
                now_ns += test_random_between(0, 1) ? test_random_between(0, 20000) : test_random_between(0, 80) * MS;
            if (!test_random_between(0, 50))
                bad_percent = test_random_between(0, 4) * 25;
            const char *event = random_event(&b, &m, now_ns, bad_percent);
            seen[(int)m.state]++;
            if (letters[b.state] != m.state || (m.state == 'O' && b.open_until_ns != m.until_ns)) {
                test_fail(__FILE__, __LINE__, "round %d, event %d (%s): %c until %lld, but the model is %c until %lld", round, i, event,
                          letters[b.state], (long long)b.open_until_ns, m.state, (long long)m.until_ns);
                return;
            }
        }
    }
    printf("# states seen: closed %d, open %d, half-open %d\n", seen['C'], seen['O'], seen['H']);
    CHECK(seen['C'] > 1000 && seen['O'] > 1000 && seen['H'] > 1000); /* or the model was never put to the test */
}
