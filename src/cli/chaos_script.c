/* SPDX-License-Identifier: Apache-2.0
 * The schedule of `spillway chaos`, a line for each fault; chaos.h has the grammar. */
#include "base/clock.h"
#include "cli/chaos.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    int number;
} signals[] = {
    { "KILL", SIGKILL }, { "SEGV", SIGSEGV }, { "BUS", SIGBUS },   { "ABRT", SIGABRT }, { "ILL", SIGILL },   { "FPE", SIGFPE },
    { "TERM", SIGTERM }, { "INT", SIGINT },   { "QUIT", SIGQUIT }, { "HUP", SIGHUP },   { "STOP", SIGSTOP },
};

const char *sp_chaos_signal_name(int number)
{
    for (size_t i = 0; i < SP_ARRAY_LEN(signals); i++)
        if (signals[i].number == number)
            return signals[i].name;
    return "?";
}

/* One line: its words, and where to complain. */
typedef struct line_reader {
    const char *name;
    int line;
    char *rest;
    sp_error *reterr;
} line_reader;

static const char *next_word(line_reader *r)
{
    char *word;
    do
        word = strsep(&r->rest, " \t\r");
    while (word && !*word);
    return word;
}

static sp_status complain(line_reader *r, const char *word, const char *wanted)
{
    return word ? SP_FAIL(r->reterr, SP_INVALID, "%s:%d: '%.60s' stands where %s should", r->name, r->line, word, wanted)
                : SP_FAIL(r->reterr, SP_INVALID, "%s:%d: the line ends where %s should stand", r->name, r->line, wanted);
}

static sp_status time_take(line_reader *r, int64_t *ret_ns)
{
    static const char wanted[] = "a time (500ms, 5s, 2m)";
    const char *word = next_word(r);
    char *end;
    double number = word ? strtod(word, &end) : 0;

    if (!word || end == word || !(number >= 0 && number <= 1e7))
        return complain(r, word, wanted);
    double unit = !strcmp(end, "ms") ? 1e6 : !strcmp(end, "s") ? 1e9 : !strcmp(end, "m") ? 60e9 : !strcmp(end, "h") ? 3600e9 : 0;
    if (unit == 0)
        return complain(r, word, wanted);
    *ret_ns = (int64_t)(number * unit);
    return SP_OK;
}

static sp_status worker_take(line_reader *r, sp_chaos_step *step)
{
    const char *word = next_word(r);
    if (!word || strlen(word) >= sizeof(step->worker))
        return complain(r, word, "a worker's name, or any");
    memcpy(step->worker, word, strlen(word) + 1);
    return SP_OK;
}

static sp_status for_take(line_reader *r, bool optional, int64_t *ret_ns)
{
    const char *word = next_word(r);
    if (!word && optional)
        return SP_OK;
    if (!word || strcmp(word, "for"))
        return complain(r, word, "for TIME");
    return time_take(r, ret_ns);
}

static sp_status signal_take(line_reader *r, sp_chaos_step *step)
{
    const char *word = next_word(r), *name = word && !strncasecmp(word, "SIG", 3) ? word + 3 : word;
    for (size_t i = 0; name && i < SP_ARRAY_LEN(signals); i++)
        if (!strcasecmp(signals[i].name, name))
            step->signal = signals[i].number;
    return step->signal ? worker_take(r, step) : complain(r, word, "a signal (SEGV, BUS, ABRT, ILL, FPE, TERM, KILL)");
}

static sp_status slow_take(line_reader *r, sp_chaos_step *step)
{
    const char *word = next_word(r);
    char *end = NULL;
    long count = word ? strtol(word, &end, 10) : 0;
    if (!word || *end || count < 1 || count > SP_CHAOS_SLOW_CLIENTS)
        return complain(r, word, "a number of clients from 1 to 256");
    step->count = (int)count;
    return for_take(r, false, &step->for_ns);
}

/* A URL, or the rest of the line. */
static sp_status target_take(line_reader *r, sp_chaos_step *step, const char *wanted)
{
    const char *text = r->rest ? r->rest + strspn(r->rest, " \t") : "";
    size_t length = strcspn(text, "\r");
    if (!length || length >= sizeof(step->target))
        return complain(r, length ? text : NULL, wanted);
    memcpy(step->target, text, length);
    step->target[length] = '\0';
    r->rest = NULL;
    return SP_OK;
}

static sp_status action_take(line_reader *r, sp_chaos_step *step)
{
    const char *word = next_word(r);
    if (word)
        (void)snprintf(step->text, sizeof(step->text), "%s%s%s", word, r->rest ? " " : "", r->rest ? r->rest : "");
    if (word && !strcmp(word, "kill")) {
        step->signal = SIGKILL;
        return worker_take(r, step);
    }
    if (word && !strcmp(word, "signal"))
        return signal_take(r, step);
    if (word && !strcmp(word, "stop")) {
        step->action = SP_CHAOS_STOP;
        sp_status s = worker_take(r, step);
        return s ? s : for_take(r, true, &step->for_ns);
    }
    if (word && !strcmp(word, "slow")) {
        step->action = SP_CHAOS_SLOW;
        return slow_take(r, step);
    }
    if (word && !strcmp(word, "post")) {
        sp_bench_url url;
        step->action = SP_CHAOS_POST;
        sp_status s = target_take(r, step, "a URL");
        return s ? s : sp_bench_url_parse(step->target, &url, r->reterr);
    }
    if (word && !strcmp(word, "run")) {
        step->action = SP_CHAOS_RUN;
        return target_take(r, step, "a command");
    }
    if (word && !strcmp(word, "reload")) {
        step->action = SP_CHAOS_RELOAD;
        return SP_OK;
    }
    return complain(r, word, "kill, signal, stop, slow, post, run or reload");
}

/* "from 1s", "until 60s" before the action. */
static sp_status window_take(line_reader *r, sp_chaos_step *step)
{
    for (;;) {
        char *before = r->rest ? r->rest + strspn(r->rest, " \t") : NULL;
        bool is_from = before && !strncmp(before, "from ", 5), is_until = before && !strncmp(before, "until ", 6);
        if (!is_from && !is_until)
            return SP_OK;
        (void)next_word(r);
        sp_status s = time_take(r, is_from ? &step->at_ns : &step->until_ns);
        if (s)
            return s;
    }
}

static sp_status step_parse(line_reader *r, sp_chaos_step *step)
{
    const char *word = next_word(r);
    sp_status s;

    *step = (sp_chaos_step){ .line = r->line, .until_ns = INT64_MAX };
    if (word && !strcmp(word, "at")) {
        s = time_take(r, &step->at_ns);
    } else if (word && !strcmp(word, "every")) {
        s = time_take(r, &step->every_ns);
        if (!s && step->every_ns < 10 * SP_NS_PER_MS)
            return SP_FAIL(r->reterr, SP_INVALID, "%s:%d: every 10ms is the most often that a fault is made", r->name, r->line);
        step->at_ns = step->every_ns;
        if (!s)
            s = window_take(r, step);
    } else {
        return complain(r, word, "at TIME or every TIME");
    }
    if (!s)
        s = action_take(r, step);
    if (!s && (word = next_word(r)))
        s = complain(r, word, "the line's end");
    return s;
}

sp_status sp_chaos_script_parse(const char *name, const char *text, sp_chaos_script *ret_script, sp_error *reterr)
{
    char line[1024];
    int number = 0;

    ret_script->count = 0;
    while (*text) {
        size_t length = strcspn(text, "\n");
        number++;
        if (length >= sizeof(line))
            return SP_FAIL(reterr, SP_INVALID, "%s:%d: the line is longer than %zu characters", name, number, sizeof(line) - 1);
        memcpy(line, text, length);
        line[length] = '\0';
        text += length + (text[length] == '\n');
        /* A '#' within a URL or a command stays: a comment stands at the line's beginning or behind a blank. */
        for (char *at = line; (at = strchr(at, '#')); at++)
            if (at == line || at[-1] == ' ' || at[-1] == '\t') {
                *at = '\0';
                break;
            }
        if (!line[strspn(line, " \t\r")])
            continue;
        if (ret_script->count == SP_CHAOS_STEPS)
            return SP_FAIL(reterr, SP_INVALID, "%s:%d: more than %d lines", name, number, SP_CHAOS_STEPS);
        line_reader reader = { .name = name, .line = number, .rest = line, .reterr = reterr };
        sp_status s = step_parse(&reader, &ret_script->steps[ret_script->count]);
        if (s)
            return s;
        ret_script->count++;
    }
    return SP_OK;
}

int64_t sp_chaos_script_end_ns(const sp_chaos_script *script)
{
    int64_t end_ns = 0;
    for (int i = 0; i < script->count; i++) {
        const sp_chaos_step *step = &script->steps[i];
        if (!step->every_ns)
            end_ns = SP_MAX(end_ns, step->at_ns + step->for_ns);
        else if (step->until_ns != INT64_MAX)
            end_ns = SP_MAX(end_ns, step->until_ns + step->for_ns);
    }
    return end_ns;
}
